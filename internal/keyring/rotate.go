package keyring

import (
	"context"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// A key's life: it is made when the one before is 30 days old, and waits in the
// storage until it is ripe; then it seals, until the next one is ripe; then it
// only opens, until the last value that it sealed has expired. Nothing here has a
// timer or outlives its work: a Seal or an Open starts all of it.
const (
	// The age of the newest key at which another is made.
	rotateAfter = 30 * 24 * time.Hour

	// The age at which a key begins to seal. By then all instances know it: an instance
	// that first met it in a cookie might have read the storage just before the key was
	// made, or be unable to read it now.
	ripeAfter = 2 * time.Hour

	// The time after which the file is read again in the background.
	refreshAfter = time.Hour

	// The time after which a Seal waits for the file to be read: this instance has
	// been idle, and its newest key may have been retired. It is shorter than
	// ripeAfter by more than clocks may differ.
	staleAfter = 90 * time.Minute

	// The time after which a failed attempt is repeated.
	retryAfter = time.Minute
)

// sealing returns the index of the key that seals: the newest that is ripe. The oldest
// need not be ripe, since no other key could seal before it.
func (s *keySet) sealing(now time.Time) int {
	for i, k := range s.keys {
		if now.Sub(k.Created) >= ripeAfter {
			return i
		}
	}
	return len(s.keys) - 1
}

// forSeal returns the keys as current does, and starts what keeps them up to date.
func (r *Ring) forSeal(ctx context.Context) (*keySet, error) {
	set, err := r.current(ctx)
	if err != nil || r.storage == nil {
		return set, err
	}
	if now := r.now(); !within(now, set.read, staleAfter) && !within(now, set.looked, retryAfter) {
		set = r.look(ctx, set)
	}
	// The file states the longest lifetime before a value with that lifetime is sealed. If
	// the write fails, there is time to repeat it: the key that seals now is dropped after
	// two rotations at the earliest.
	r.first.Do(func() {
		if r.keep <= set.keep {
			return
		}
		r.cache.work.Lock()
		defer r.cache.work.Unlock()
		_ = r.tend(ctx)
		set, err = r.current(ctx) // the storage may have turned out to be another one
	})
	if err != nil {
		return nil, err
	}
	if r.keep > set.keep || r.isDue(set.keys[0], r.now()) {
		r.background(ctx, func(ctx context.Context) {
			if !within(r.now(), r.cache.tended, retryAfter) {
				_ = r.tend(ctx)
			}
		})
		return set, nil
	}
	r.refresh(ctx, set)
	return set, nil
}

// refresh reads the file again in the background if the last read is long ago: another
// instance may have made a key.
func (r *Ring) refresh(ctx context.Context, set *keySet) {
	if now := r.now(); within(now, set.read, refreshAfter) || within(now, set.looked, retryAfter) {
		return
	}
	r.background(ctx, func(ctx context.Context) { r.look(ctx, set) })
}

// background runs work in a goroutine, unless one is running. The calls of the storage are
// bounded in time, and so is the goroutine.
func (r *Ring) background(ctx context.Context, work func(context.Context)) {
	if !r.cache.work.TryLock() {
		return
	}
	go func() {
		defer r.cache.work.Unlock()
		work(context.WithoutCancel(ctx)) // the request may be over first
	}()
}

// isDue reports whether the newest key needs a successor. A key from the future does not,
// however far ahead it is: otherwise two instances whose clocks disagree would make keys in
// turns. So a key that is made while the clock is a year ahead would be the last one for
// that year, and dropping the older keys for it would end the sessions that they sealed: the
// clock has to be right.
func (r *Ring) isDue(newest key, now time.Time) bool {
	return now.Sub(newest.Created) >= rotateAfter && r.clock.MayRemove(now)
}

// tend updates the file: with the lifetime of this ring's values, and with a new key if
// one is due. The cache's work mutex must be held, and not its other one, for which
// requests wait.
//
// Locks are imperfect (an engine may take a lock for stale, and a call that was given up
// on may still be carried out), so an instance may overwrite the key that another has
// just made. No key seals before it is ripe, and an instance that seals has read the file
// since, so the overwritten key never sealed anything.
func (r *Ring) tend(ctx context.Context) error {
	r.cache.tended = r.now()
	if err := r.storage.Lock(ctx, storageLock); err != nil {
		return err
	}
	// A lock that cannot be released expires by itself.
	defer func() { _ = r.storage.Unlock(ctx, storageLock) }()

	// Another instance may have been faster. A missing file is not made again: an operator
	// deletes it to end all sessions, and only a restart makes new keys.
	file, err := r.load(ctx)
	if err != nil {
		return err
	}
	now, isChanged := r.now(), false
	if r.keep > file.Keep {
		file.Keep, isChanged = r.keep, true
	}
	if r.isDue(file.Keys[0], now) {
		file.drop(now)
		if err := file.add(now); err != nil {
			return err
		}
		isChanged = true
	}
	if isChanged {
		if err := r.store(ctx, file); err != nil {
			return err
		}
	}
	// A request that read the file just before must not replace this set with an older one.
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	r.cache.set.Store(file.set(now))
	return nil
}

// drop removes the keys whose values have all expired: those whose successor began to seal
// longer ago than the longest lifetime.
func (f *keyFile) drop(now time.Time) {
	for i, k := range f.Keys {
		// In seconds, where no number that a file may hold overflows.
		ended := k.Created.Add(ripeAfter + records.ClockSkew).Unix()
		if now.Unix()-ended > f.Keep {
			f.Keys = f.Keys[:i+1]
			return
		}
	}
}
