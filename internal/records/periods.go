package records

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// periods is a folder of a storage where keys are filed by a period of time, which tells
// when they may be removed: removing the old ones costs nothing for the others.
type periods struct {
	storage certmagic.Storage
	clock   *Clock
	prefix  string
	each    time.Duration     // how long a period is
	swept   atomic.Int64      // the period of the last sweep
	work    sync.Mutex        // held by the sweep that is under way
	slow    certmagic.Storage // for its calls; one that hangs holds up the next
}

func newPeriods(storage certmagic.Storage, clock *Clock, prefix string, each time.Duration) *periods {
	return &periods{storage: storage, clock: clock, prefix: prefix, each: each, slow: patient(storage, sweepTimeout)}
}

// of returns the period of a time. They are counted from 1970.
func (p *periods) of(t time.Time) int64 { return t.Unix() / int64(p.each/time.Second) }

// dir returns the directory of a period.
func (p *periods) dir(period int64) string {
	return path.Join(p.prefix, strconv.FormatInt(period, 10))
}

// periodIn returns the period that a directory is for.
func periodIn(dir string) (int64, error) { return strconv.ParseInt(path.Base(dir), 10, 64) }

// sweep deletes, in the background and once a period, what is filed under those that
// had ended by oldest, and reports whether it was time to. It is not while the wall clock,
// which says that it is now, may be wrong. Keys that a sweep fails to delete are left to the next one.
func (p *periods) sweep(ctx context.Context, now, oldest time.Time) bool {
	if !p.clock.MayRemove(now) {
		return false
	}
	period := p.of(now)
	if swept := p.swept.Load(); swept == period || !p.swept.CompareAndSwap(swept, period) {
		return false
	}
	if p.work.TryLock() { // the one before may take longer than a period
		go func() {
			defer p.work.Unlock()
			p.sweepNow(context.WithoutCancel(ctx), p.of(oldest))
		}()
	}
	return true
}

func (p *periods) sweepNow(ctx context.Context, oldest int64) {
	dirs, _ := list(ctx, p.slow, p.prefix, false)
	for _, dir := range dirs {
		if period, err := periodIn(dir); err != nil || period >= oldest {
			continue
		}
		if removeAll(ctx, p.slow, dir) != nil {
			return // the storage is failing: do not ask it again now
		}
	}
}

// removeAll deletes a directory. Not every engine does so with what is in it.
func removeAll(ctx context.Context, storage certmagic.Storage, dir string) error {
	keys, err := list(ctx, storage, dir, true) // others that sweep disturb it
	for _, key := range append(keys, dir) {
		if err == nil {
			err = remove(ctx, storage, key)
		}
	}
	return err
}

// remove deletes a key. For some engines it is an error that it is gone: another
// instance sweeps too, and a directory goes with its last file.
func remove(ctx context.Context, storage certmagic.Storage, key string) error {
	if err := storage.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
