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

// periods is a folder of a storage where keys are filed by a period of time, after which
// they may be removed: removing old keys costs nothing for the others.
type periods struct {
	storage certmagic.Storage
	clock   *Clock
	prefix  string
	each    time.Duration     // the length of a period
	swept   atomic.Int64      // the period of the last sweep
	work    sync.Mutex        // held by the sweep under way
	slow    certmagic.Storage // for the sweep's calls; one that hangs delays the next
}

func newPeriods(storage certmagic.Storage, clock *Clock, prefix string, each time.Duration) *periods {
	return &periods{
		storage: storage, clock: clock, prefix: prefix, each: each, slow: patient(storage, sweepTimeout, 1),
	}
}

// of returns the period of a time. They are counted from 1970.
func (p *periods) of(t time.Time) int64 { return t.Unix() / int64(p.each/time.Second) }

// dir returns the directory of a period.
func (p *periods) dir(period int64) string {
	return path.Join(p.prefix, strconv.FormatInt(period, 10))
}

// periodIn returns the period that a directory is for.
func periodIn(dir string) (int64, error) { return strconv.ParseInt(path.Base(dir), 10, 64) }

// sweep deletes, in the background and once a period, the keys in periods that had ended
// by oldest, and reports whether it was time to. It is not time while the wall clock, which
// reads now, may be wrong. Keys that a sweep fails to delete are left to the next one.
func (p *periods) sweep(ctx context.Context, now, oldest time.Time) bool {
	if !p.clock.MayRemove(now) {
		return false
	}
	period := p.of(now)
	if swept := p.swept.Load(); swept == period || !p.swept.CompareAndSwap(swept, period) {
		return false
	}
	if p.work.TryLock() { // the sweep before may take longer than a period
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

// removeAll deletes a directory and its keys, one by one: not every engine deletes them with it.
func removeAll(ctx context.Context, storage certmagic.Storage, dir string) error {
	keys, err := list(ctx, storage, dir, true) // others that sweep disturb it
	for _, key := range append(keys, dir) {
		if err == nil {
			err = remove(ctx, storage, key)
		}
	}
	return err
}

// remove deletes a key. Some engines return an error for a missing key: another instance
// may have swept it, and a directory is removed with its last file.
func remove(ctx context.Context, storage certmagic.Storage, key string) error {
	if err := storage.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
