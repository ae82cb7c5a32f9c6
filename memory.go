package aventusauth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"runtime/debug"
	"sync"

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
	digests  cipher.AEAD
}

// openedKey is what an opened session is remembered by: its cookie, and all that the cookie is opened with.
type openedKey struct {
	by     [8]byte // the block's keys and what its sessions are bound to, but for the origin
	origin string
	digest [16]byte // of the cookie's value
}

// newMemory returns a memory that takes no more than about limit bytes.
func newMemory(limit uint64) *memory {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // for no key of this length
	}
	digests, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // for no AES
	}
	return &memory{digests: digests, sessions: otter.Must(&otter.Options[openedKey, *keptSession]{
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

// digestBuffers hold room for a cookie's value and its digest. Arguments of a cipher escape to the heap.
var digestBuffers = sync.Pool{New: func() any { return new(digestBuffer) }}

type digestBuffer struct {
	value  [maxCookie]byte
	nonce  [12]byte // always zero
	digest [16]byte
}

// key returns what the session of a cookie is remembered by, or false for a value that is too long to hold one.
//
// The digest stands for the value, which need not be kept: it is the value's GMAC (NIST SP 800-38D) under a key
// of this process. One nonce for all would give the key away to an attacker who sees digests, but none leaves this
// process; so to find a value with another one's digest takes some 2^120 guesses, and each is a request. It takes
// a quarter of SHA-256's time.
func (m *memory) key(by [8]byte, origin, value string) (openedKey, bool) {
	key := openedKey{by: by, origin: origin}
	if len(value) > maxCookie {
		return key, false
	}
	b := digestBuffers.Get().(*digestBuffer)
	n := copy(b.value[:], value)
	m.digests.Seal(b.digest[:0], b.nonce[:], nil, b.value[:n])
	key.digest = b.digest
	digestBuffers.Put(b)
	return key, true
}

// get returns what is remembered by a key.
func (m *memory) get(key openedKey) (*keptSession, bool) {
	k, ok := m.sessions.GetIfPresent(key)
	if ok && k.claims.Load() != nil && !k.isWeighedWithClaims.Swap(true) {
		m.sessions.Set(key, k) // it has become larger
	}
	return k, ok
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
