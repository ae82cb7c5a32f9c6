package keyring

import (
	"context"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// A key's life: it is made when the one before is 30 days old, and lies in the
// storage until it is ripe; then it seals, until the next one is ripe; then it
// only opens, until the last of what it sealed has ended. Nothing here has a
// timer or outlives its work: all of it is started by a Seal or an Open.
const (
	// When the newest key is that old, another is made.
	rotateAfter = 30 * 24 * time.Hour

	// A key is that old when it begins to seal, by which time all instances know
	// it: were one to meet it first in a cookie, it might have looked at the
	// storage just before the key was made, or be unable to look now.
	ripeAfter = 2 * time.Hour

	// When the file was read that long ago, it is read again in the background.
	refreshAfter = time.Hour

	// A Seal that finds it was read even longer ago waits for it: this
	// instance has been idle, and its newest key may have been retired. It is
	// shorter than ripeAfter by more than clocks may differ.
	staleAfter = 90 * time.Minute

	// A failed attempt is repeated after this time.
	retryAfter = time.Minute
)

// sealing returns the index of the key that seals: the newest that is ripe. The
// oldest need not be, for there was none to seal before it.
func (s *keySet) sealing(now time.Time) int {
	for i, k := range s.keys {
		if now.Sub(k.Created) >= ripeAfter {
			return i
		}
	}
	return len(s.keys) - 1
}

// forSeal returns the keys as current does, and sees to it that they do not grow
// old.
func (r *Ring) forSeal(ctx context.Context) (*keySet, error) {
	set, err := r.current(ctx)
	if err != nil || r.storage == nil {
		return set, err
	}
	if now := r.now(); !within(now, set.read, staleAfter) && !within(now, set.looked, retryAfter) {
		set = r.look(ctx, set)
	}
	// Before anything is sealed that lives longer than the file says, the file says
	// it. If that fails, there is time: the key that seals now is dropped after two
	// rotations at the earliest.
	r.first.Do(func() {
		if r.keep <= set.keep {
			return
		}
		r.cache.work.Lock()
		defer r.cache.work.Unlock()
		_ = r.tend(ctx)
		set = r.cache.set.Load()
	})
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

// refresh reads the file again, in the background, when that is long ago: another
// instance may have made a key.
func (r *Ring) refresh(ctx context.Context, set *keySet) {
	if now := r.now(); within(now, set.read, refreshAfter) || within(now, set.looked, retryAfter) {
		return
	}
	r.background(ctx, func(ctx context.Context) { r.look(ctx, set) })
}

// background does the work in a goroutine of its own, unless there is one. The
// work's calls of the storage are bounded, and so is its life.
func (r *Ring) background(ctx context.Context, work func(context.Context)) {
	if !r.cache.work.TryLock() {
		return
	}
	go func() {
		defer r.cache.work.Unlock()
		work(context.WithoutCancel(ctx)) // the request may be over first
	}()
}

// isDue reports whether the newest key is to have a successor. A date in the future is
// waited for, however far it is: if it asked for a key, two instances whose clocks
// disagree would make keys in turns. So a key that was made while the clock is a year
// ahead would be the last one for that year, and the keys that were dropped for it would
// take the sessions that they sealed with them: the clock has to be right.
func (r *Ring) isDue(newest key, now time.Time) bool {
	return now.Sub(newest.Created) >= rotateAfter && r.clock.MayRemove(now)
}

// tend writes into the file what ought to be there: how long this ring's values
// live, and a new key if one is due. The cache's work mutex must be held, and not
// its other one, for requests wait for that.
//
// Locks are imperfect (a stale one is taken away from its holder, a call that was
// given up on may still be carried out), so an instance may write over the key
// that another has just made. As no key seals before it is ripe, and whoever seals
// has read the file since, that one never sealed anything.
func (r *Ring) tend(ctx context.Context) error {
	r.cache.tended = r.now()
	if err := r.storage.Lock(ctx, storageLock); err != nil {
		return err
	}
	// A lock that cannot be released goes stale by itself.
	defer func() { _ = r.storage.Unlock(ctx, storageLock) }()

	// Another instance may have been faster. A file that is gone is not made anew:
	// an operator deletes it to end all sessions, and a restart does that.
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
	// A request that has read the file just before is not to put what it found in
	// place of this.
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	r.cache.set.Store(file.set(now))
	return nil
}

// drop removes the keys with which nothing was sealed that may still live: those
// whose successor began to seal longer ago than that.
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
