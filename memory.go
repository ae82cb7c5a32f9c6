package aventusauth

import (
	"hash/maphash"
	"runtime/debug"

	"github.com/maypok86/otter/v2"
)

// memory remembers sessions as this process opened or made them, so that a cookie is opened, and a record
// read, once and not at each request. All blocks that have the same storage share it, and it outlives a
// config. What it has forgotten is opened anew: that takes longer, and changes no answer.
//
// Its size is bounded in bytes. It keeps what is asked for often (W-TinyLFU), so that a flood of visitors who
// come once pushes nobody else out. A value that is no session of this site is never stored.
type memory struct {
	sessions *otter.Cache[openedKey, *keptSession]
	seed     maphash.Seed
}

// openedKey is what an opened session is remembered by: its cookie, and all that the cookie is opened with.
type openedKey struct {
	by     [8]byte // the block's keys and what its sessions are bound to, but for the origin
	origin string
	tag    [16]byte // the end of the cookie's value
	hash   uint64   // of all of it
}

// newMemory returns a memory that takes no more than about limit bytes.
func newMemory(limit uint64) *memory {
	return &memory{seed: maphash.MakeSeed(), sessions: otter.Must(&otter.Options[openedKey, *keptSession]{
		MaximumWeight: limit,
		Weigher:       func(_ openedKey, k *keptSession) uint32 { return k.weight() },
		Executor:      func(task func()) { task() }, // no goroutine that outlives a config
	})}
}

// memoryLimit returns how many bytes remembered sessions may take: rememberedBytes, but no more than an eighth of
// what the process may have (GOMEMLIMIT).
func memoryLimit() uint64 {
	return min(rememberedBytes, uint64(debug.SetMemoryLimit(-1))/8)
}

// key returns what the session of a cookie is remembered by, or false for a value that is too long, or too short, to
// hold one.
//
// The cookie's value is not kept. In place of it are the end of its authentication tag (see keyring.Box.Seal), some
// 92 to 96 bits that nobody can name who has not seen the cookie, and a hash of all of it under a secret of this
// process: a value of which anything else was changed has another one, and is opened, and refused.
func (m *memory) key(by [8]byte, origin, value string) (openedKey, bool) {
	key := openedKey{by: by, origin: origin}
	if len(value) > maxCookie || len(value) < len(key.tag) {
		return key, false
	}
	copy(key.tag[:], value[len(value)-len(key.tag):])
	key.hash = maphash.Comparable(m.seed, value) // [maphash.String] goes by pieces, and takes four times as long
	return key, true
}

// get returns what is remembered by a key.
func (m *memory) get(key openedKey) (*keptSession, bool) {
	k, ok := m.sessions.GetIfPresent(key)
	if ok {
		m.weigh(k)
	}
	return k, ok
}

// weigh weighs a session once more if its claims were parsed since it was remembered, which makes it larger. Most find
// that it was noted, and write nothing that other processors read.
func (m *memory) weigh(k *keptSession) {
	if k.claims.Load() == nil || k.isWeighedWithClaims.Load() || k.isWeighedWithClaims.Swap(true) {
		return
	}
	m.sessions.ComputeIfPresent(k.cookie, func(now *keptSession) (*keptSession, otter.ComputeOp) {
		return now, otter.WriteOp
	})
}

// add remembers a session, in place of what is remembered by its key.
func (m *memory) add(k *keptSession) { m.sessions.Set(k.cookie, k) }

// forget has a session opened anew by the next request.
func (m *memory) forget(key openedKey) { m.sessions.Invalidate(key) }

// forgetAll has all sessions opened anew.
func (m *memory) forgetAll() { m.sessions.InvalidateAll() }

// weight estimates how many bytes it takes to remember a session.
func (k *keptSession) weight() uint32 {
	bytes := rememberedBase + len(k.bearer) + len(k.scope) + len(k.idToken) + len(k.refresh)
	if k.handle != nil {
		bytes += rememberedHandle
	}
	if k.claims.Load() != nil {
		bytes += rememberedClaims * (len(k.bearer) + len(k.idToken))
	}
	return uint32(bytes)
}
