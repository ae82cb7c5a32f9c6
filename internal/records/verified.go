package records

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"sync/atomic"

	"github.com/caddyserver/certmagic"
)

// Landmark is a key that always exists once it was looked for: it shows that a storage is in use.
const Landmark = "aventus_auth/landmark"

// verified is a storage that can be believed when it answers fs.ErrNotExist. Some engines answer so
// while they are down or closed (caddy-storage-redis 1.8.1 does), and an outage would look like
// the end of every session and of the keys.
//
// Stat is not verified: it is only asked about what List has found to be missing.
type verified struct {
	certmagic.Storage
	refuses atomic.Bool // recursive listings
}

// isSame reports whether v and other are one storage. A storage that cannot be compared is the same
// as no other.
func (v *verified) isSame(other *verified) bool {
	return reflect.ValueOf(v.Storage).Comparable() && v.Storage == other.Storage
}

func (v *verified) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := v.Storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		if err := v.reach(ctx); err != nil {
			return nil, err
		}
		return v.Storage.Load(ctx, key) // the storage may just have come back
	}
	return value, err
}

func (v *verified) Delete(ctx context.Context, key string) error {
	err := v.Storage.Delete(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		if err := v.reach(ctx); err != nil {
			return err
		}
		return v.Storage.Delete(ctx, key)
	}
	return err
}

// reach returns an error unless the storage is reachable, which a key that exists shows.
func (v *verified) reach(ctx context.Context) error {
	_, err := v.Storage.Load(ctx, Landmark)
	if errors.Is(err, fs.ErrNotExist) { // it was never stored, or the storage is down
		err = v.Store(ctx, Landmark, []byte{1})
	}
	return err
}

func (v *verified) Store(ctx context.Context, key string, value []byte) error {
	return outage(v.Storage.Store(ctx, key, value))
}

func (v *verified) Lock(ctx context.Context, name string) error {
	return outage(v.Storage.Lock(ctx, name))
}

// outage returns an error that is not fs.ErrNotExist, with the text of err. An engine of files
// whose directory is gone has that error for what is to be written.
func outage(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(err.Error())
	}
	return err
}
