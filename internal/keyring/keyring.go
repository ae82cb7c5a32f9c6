// Package keyring makes, keeps and uses the keys that seal the values in a browser's
// cookies and URLs.
//
// A key is never used itself: each purpose and client has a subkey of its own
// (HKDF-SHA256, RFC 5869), so a value that was sealed as a login's state can never be
// opened as a session, nor at another client of the same server.
package keyring

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

const (
	// SecretSize is the minimum number of bytes of a key.
	SecretSize = 32

	// File is the key's name in the storage of the file with the sealing keys.
	File = "aventus_auth/keys.json"

	storageLock = "aventus_auth/keys"

	// The least time between two reads of the storage for values that name an unknown
	// key: another instance may have made that key, but anyone can make one up. Also how long what a read has said
	// of lifetimes counts.
	reloadInterval = 10 * time.Second
)

// key is one secret that subkeys are derived from. Its id is in front of each value
// sealed with it, and reveals nothing of the secret.
type key struct {
	id      [4]byte
	Secret  []byte    `json:"secret"`
	Created time.Time `json:"created"` // zero for a fixed key
}

func newKey(secret []byte, created time.Time) (key, error) {
	if len(secret) < SecretSize {
		return key{}, fmt.Errorf("a key needs %d bytes or more, not %d", SecretSize, len(secret))
	}
	id, err := hkdf.Key(sha256.New, secret, nil, "aventus_auth key id", 4)
	if err != nil {
		return key{}, err
	}
	return key{id: [4]byte(id), Secret: secret, Created: created}, nil
}

// keySet is never changed once it is in use. All keys open; which one seals depends on
// the time.
type keySet struct {
	keys   []key     // the newest first
	keep   int64     // as in the file
	read   time.Time // when the file was read
	looked time.Time // when a read was last tried, failed or not
}

func (s *keySet) has(id [4]byte) bool {
	for _, k := range s.keys {
		if k.id == id {
			return true
		}
	}
	return false
}

// Cache holds the keys that a process has read from its storage. It may outlive the
// Ring that filled it, so that a configuration loaded while the storage is down still
// opens the sessions of the one before.
type Cache struct {
	// Confirm is called before a cached key is used. It may be nil.
	Confirm func(context.Context)

	set    atomic.Pointer[keySet]
	failed atomic.Pointer[failure] // the last one
	mu     sync.Mutex              // held while the file is read into the set

	work   sync.Mutex // held by work in the background
	tended time.Time  // when the background last tried to write the file
}

// failure is an attempt to load the keys that failed.
type failure struct{ err error }

// Age returns the age of the key that seals. It reports false until the keys were first
// needed.
func (c *Cache) Age(now time.Time) (time.Duration, bool) {
	set := c.set.Load()
	if set == nil {
		return 0, false
	}
	return now.Sub(set.keys[set.sealing(now)].Created), true
}

// Forget empties the cache, since the storage has become another one.
func (c *Cache) Forget() { c.set.Store(nil) }

// Destruct implements caddy.Destructor. There is nothing to release.
func (*Cache) Destruct() error { return nil }

// Ring is a set of keys: fixed ones, or those in a storage, which are made there
// when they are first needed. It is safe for concurrent use.
type Ring struct {
	storage certmagic.Storage // nil if the keys are fixed
	cache   *Cache
	now     func() time.Time
	clock   *records.Clock // the source of now; nil if the keys are fixed
	keep    int64          // in seconds
	first   sync.Once      // the first Seal
}

// Fixed returns a ring of the given secrets, each of [SecretSize] bytes or more.
// The first one seals, all of them open.
func Fixed(secrets [][]byte, now func() time.Time) (*Ring, error) {
	if len(secrets) == 0 {
		return nil, errors.New("at least one key is needed")
	}
	set := new(keySet)
	for _, secret := range secrets {
		k, err := newKey(secret, time.Time{})
		if err != nil {
			return nil, err
		}
		if set.has(k.id) {
			return nil, errors.New("a key is given twice")
		}
		set.keys = append(set.keys, k)
	}
	r := &Ring{cache: new(Cache), now: func() time.Time { return now().Round(0) }}
	r.cache.set.Store(set)
	return r, nil
}

// Stored returns a ring of the keys in storage, where a new one is made every 30
// days, and an old one is kept for as long as the values sealed with it may live: keep is
// that time for the values that this ring seals. Stored does not touch the storage;
// the first use does. Calls of the storage must be bounded in time. An old key is
// replaced and removed only when clock allows it: see [records.Clock.MayRemove].
func Stored(storage certmagic.Storage, cache *Cache, clock *records.Clock, keep time.Duration) *Ring {
	// A fraction of a second is rounded up.
	return &Ring{storage: storage, cache: cache, now: clock.Now, clock: clock, keep: int64((keep-1)/time.Second) + 1}
}

// Keep returns the longest lifetime of any value that is sealed with the keys in the storage, by any user of them.
// Another instance may have begun to seal some that last longer, so what was read some seconds ago does not count. For
// fixed keys, it is unknown, and zero.
func (r *Ring) Keep(ctx context.Context) (time.Duration, error) {
	set, err := r.current(ctx)
	if err != nil || r.storage == nil {
		return 0, err
	}
	if !within(r.now(), set.looked, reloadInterval) {
		set = r.look(ctx, set)
	}
	if !within(r.now(), set.read, reloadInterval) {
		return 0, fmt.Errorf("reading %s again has failed", File)
	}
	return time.Duration(min(set.keep, math.MaxInt64/int64(time.Second))) * time.Second, nil
}

// current returns the keys, from the cache if they are there.
func (r *Ring) current(ctx context.Context) (*keySet, error) {
	if r.cache.Confirm != nil {
		r.cache.Confirm(ctx)
	}
	if set := r.cache.set.Load(); set != nil {
		return set, nil
	}
	before := r.cache.failed.Load()
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	if set := r.cache.set.Load(); set != nil {
		return set, nil
	}
	// Goroutines that waited for an attempt share its failure. If each made its own
	// attempt, the last one would wait for a hanging storage as long as all of them
	// together.
	if last := r.cache.failed.Load(); last != before {
		return nil, last.err
	}
	return r.begin(ctx)
}

// with returns a set that holds the key of the given id, or the given set if there is no
// such key. It reads the storage unless that was done recently; if that fails, the known
// keys stay in use.
func (r *Ring) with(ctx context.Context, id [4]byte) (*keySet, error) {
	set, err := r.current(ctx)
	if err != nil || r.storage == nil {
		return set, err
	}
	if set.has(id) {
		r.refresh(ctx, set)
		return set, nil
	}
	if within(r.now(), set.looked, reloadInterval) {
		return set, nil
	}
	return r.look(ctx, set), nil
}

// look rereads the key file, unless another goroutine has replaced seen in the meantime.
func (r *Ring) look(ctx context.Context, seen *keySet) *keySet {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	if set := r.cache.set.Load(); set != nil && set != seen { // nil: forgotten meanwhile
		return set
	}
	newer := new(keySet)
	// A missing file is not made again here: anyone can make up an id, and the known
	// keys still open all existing values.
	if file, err := r.load(ctx); err != nil {
		*newer = *seen
	} else {
		newer = file.set(r.now())
	}
	newer.looked = r.now()                  // failures too: a failing storage is not asked at every request
	r.cache.set.CompareAndSwap(seen, newer) // unless it was forgotten meanwhile
	return newer
}

// within reports whether at is less than d ago. For a time in the future it is false: the
// clock was set back, and may take years to catch up.
func within(now, at time.Time, d time.Duration) bool {
	age := now.Sub(at)
	return 0 <= age && age < d
}

// begin loads the keys from the storage, or makes the first one. The cache's mutex
// must be held.
func (r *Ring) begin(ctx context.Context) (*keySet, error) {
	file, err := r.load(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = r.create(ctx)
	}
	if err != nil {
		err = fmt.Errorf("loading the sealing keys: %w", err)
		r.cache.failed.Store(&failure{err})
		return nil, err
	}
	set := file.set(r.now())
	r.cache.set.Store(set)
	return set, nil
}

// keyFile is the file in the storage.
type keyFile struct {
	Keys []key `json:"keys"` // the newest first
	// The longest lifetime, in seconds, of any value sealed with the keys: the
	// maximum of all rings that have used the file.
	Keep int64 `json:"keep"`
}

// set returns the keys of a file that was just read or written.
func (f *keyFile) set(now time.Time) *keySet {
	return &keySet{keys: f.Keys, keep: f.Keep, read: now, looked: now}
}

// add puts a new key in front.
func (f *keyFile) add(now time.Time) error {
	secret := make([]byte, SecretSize)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	k, err := newKey(secret, now.UTC())
	if err != nil {
		return err
	}
	f.Keys = append([]key{k}, f.Keys...)
	return nil
}

// Inspect returns the number of keys in a storage, or the error for which they cannot be used. It makes no key, and
// writes nothing.
func Inspect(ctx context.Context, storage certmagic.Storage) (int, error) {
	data, err := storage.Load(ctx, File)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", File, err)
	}
	file, err := parseKeys(data)
	if err != nil {
		return 0, err
	}
	return len(file.Keys), nil
}

func (r *Ring) load(ctx context.Context) (*keyFile, error) {
	data, err := r.storage.Load(ctx, File)
	if err != nil {
		return nil, err
	}
	return parseKeys(data)
}

func parseKeys(data []byte) (*keyFile, error) {
	file := new(keyFile)
	dec := json.NewDecoder(bytes.NewReader(data))
	// A damaged file is not replaced: sessions may depend on the keys that it still
	// holds.
	err := dec.Decode(file)
	if _, end := dec.Token(); err != nil || end != io.EOF {
		return nil, fmt.Errorf("%s is damaged; restore it, or delete it to end all sessions", File)
	}
	if len(file.Keys) == 0 {
		return nil, fmt.Errorf("%s holds no key; delete it to have one made", File)
	}
	for i, k := range file.Keys {
		if file.Keys[i], err = newKey(k.Secret, k.Created); err != nil {
			return nil, fmt.Errorf("%s: %w", File, err)
		}
	}
	return file, nil
}

// store writes the file in one call, so that a crash leaves the old one or the new
// one.
func (r *Ring) store(ctx context.Context, file *keyFile) error {
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	return r.storage.Store(ctx, File, data)
}

// create makes the first key, under the storage's lock: of all instances that
// start on an empty storage, one makes it, and the others read it.
func (r *Ring) create(ctx context.Context) (*keyFile, error) {
	if err := r.storage.Lock(ctx, storageLock); err != nil {
		// Some engines poll a lock once a second. If many instances start at once, this
		// one may not get the lock in time, though the key is there by now.
		if file, readErr := r.load(ctx); readErr == nil {
			return file, nil
		}
		return nil, err
	}
	// A lock that cannot be released expires by itself.
	defer func() { _ = r.storage.Unlock(ctx, storageLock) }()

	if file, err := r.load(ctx); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	file := &keyFile{Keep: r.keep}
	if err := file.add(r.now()); err != nil {
		return nil, err
	}
	if err := r.store(ctx, file); err != nil {
		return nil, err
	}
	return file, nil
}
