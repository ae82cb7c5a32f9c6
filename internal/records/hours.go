package records

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
)

// hours is a place in a storage where keys are filed by the hour from which it is
// known when they may go: removing the old ones costs nothing for the others.
type hours struct {
	storage certmagic.Storage
	prefix  string
	swept   atomic.Int64 // the hour of the last sweep
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func (h *hours) key(hour int64, id string) string {
	return path.Join(h.prefix, strconv.FormatInt(hour, 10), id)
}

// hourIn returns the hour that a directory is for.
func hourIn(dir string) (int64, error) { return strconv.ParseInt(path.Base(dir), 10, 64) }

// list returns the keys of a directory. That there is nothing is no error.
func (h *hours) list(ctx context.Context, dir string, recursive bool) ([]string, error) {
	keys, err := h.storage.List(ctx, dir, recursive)
	for tries := 0; errors.Is(err, fs.ErrNotExist) && tries < 3; tries++ {
		// Nothing is there, or (with files) something went while it was listed, and
		// then the rest is not listed either.
		if _, err := h.storage.List(ctx, dir, false); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		keys, err = h.storage.List(ctx, dir, recursive)
	}
	return keys, err
}

// sweep deletes, in the background and once an hour, what is filed under hours
// before oldest, and reports whether it was time to. What it fails to delete, the
// next one does.
func (h *hours) sweep(ctx context.Context, now, oldest int64) bool {
	if swept := h.swept.Load(); swept == now || !h.swept.CompareAndSwap(swept, now) {
		return false
	}
	go h.sweepNow(context.WithoutCancel(ctx), oldest)
	return true
}

func (h *hours) sweepNow(ctx context.Context, oldest int64) {
	storage := patient(h.storage)
	dirs, _ := storage.List(ctx, h.prefix, false)
	for _, dir := range dirs {
		if hour, err := hourIn(dir); err != nil || hour >= oldest {
			continue
		}
		if removeAll(ctx, storage, dir) != nil {
			return // the storage is failing: leave it in peace
		}
	}
}

// removeAll deletes a directory. Not every engine does so with what is in it.
func removeAll(ctx context.Context, storage certmagic.Storage, dir string) error {
	keys, err := storage.List(ctx, dir, true)
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
