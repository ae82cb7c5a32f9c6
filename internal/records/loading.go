package records

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sync/errgroup"
)

// loadsAtOnce is how many values one caller loads at a time.
const loadsAtOnce = 16

// loadEach loads several keys at a time, and calls f with each that exists, at several goroutines. It returns the
// first error, after which it loads no more. It is an error if ctx is done: some keys may not have been loaded.
// Each call of a bounded storage loads inCall keys at most, and has the time limit of one call.
func loadEach(ctx context.Context, storage certmagic.Storage, keys []string, inCall int,
	f func(string, []byte) error) error {
	work, loading := errgroup.WithContext(ctx)
	work.SetLimit(loadsAtOnce)
	for some := range slices.Chunk(keys, max(1, min(inCall, len(keys)/loadsAtOnce))) {
		if loading.Err() != nil {
			break
		}
		work.Go(func() error {
			values, err := loadSome(loading, storage, some)
			if err != nil {
				return err
			}
			for _, v := range values {
				if err := f(v.key, v.value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// loaded is a key that exists, with its value.
type loaded struct {
	key   string
	value []byte
}

// loadSome loads keys one after the other, in one call if the storage is bounded. It returns those that exist.
func loadSome(ctx context.Context, storage certmagic.Storage, keys []string) ([]loaded, error) {
	if b, ok := storage.(*bounded); ok {
		return call(ctx, b, "loading "+keys[0], func(ctx context.Context) ([]loaded, error) {
			return loadSome(ctx, b.Storage, keys)
		}, nil)
	}
	some := make([]loaded, 0, len(keys))
	for _, key := range keys {
		value, err := storage.Load(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = ctx.Err() // an engine may ignore that the call was given up on
		}
		if err != nil {
			return nil, err
		}
		some = append(some, loaded{key, value})
	}
	return some, nil
}
