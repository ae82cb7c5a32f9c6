package records

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"time"
)

// IdentityKey is the key under which a storage holds its own id. Two configurations with equal storage settings may
// have two storages, and two with different settings may have one.
const IdentityKey = "aventus_auth/storage"

// identityLock is the name of the lock for the id. Some engines store a lock under its name as it is, and remove that
// key with the lock: so it is not IdentityKey.
const identityLock = IdentityKey + "_lock"

// identityPatience limits how long a call waits to store the id: less than a call of the storage may take.
const identityPatience = 2 * time.Second

// identify calls n.Identified with the id of a value's storage, unless that is known.
func (n *Newest) identify(ctx context.Context, value *verified) {
	if n.Identified == nil || n.identified.Load() == value || !n.identifying.TryLock() {
		return
	}
	defer n.identifying.Unlock()
	id, err := sure(ctx, value.identity)
	if err != nil {
		return // the call that follows will fail as well
	}
	n.Identified(id)
	n.identified.Store(value)
}

// identity returns the id in a storage, and stores one if there is none. It does so under a lock: of two calls that
// store one at the same time, the first would go on with an id that the second has overwritten.
func (v *verified) identity(ctx context.Context) (string, error) {
	id, err := v.Load(ctx, IdentityKey)
	if !isMissing(id, err) {
		return string(id), err
	}
	locking, cancel := context.WithTimeout(ctx, identityPatience)
	defer cancel()
	if v.Lock(locking, identityLock) == nil { // without the lock, both calls rarely come at the same time
		defer func() { _ = v.Unlock(ctx, identityLock) }()
	}
	if id, err = v.Load(ctx, IdentityKey); isMissing(id, err) {
		if err := v.Store(ctx, IdentityKey, []byte(rand.Text())); err != nil {
			return "", err
		}
		id, err = v.Load(ctx, IdentityKey)
	}
	return string(id), err
}

func isMissing(id []byte, err error) bool {
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(id) == 0
}
