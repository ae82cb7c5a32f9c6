package records

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
)

// IdentityKey is the key under which a storage holds its own id. Two configurations with equal storage settings may
// have two storages, and two with different settings may have one.
const IdentityKey = "aventus_auth/storage"

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

// identity returns the id in a storage, and stores one if there is none.
func (v *verified) identity(ctx context.Context) (string, error) {
	id, err := v.Load(ctx, IdentityKey)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(id) == 0 {
		if err := v.Store(ctx, IdentityKey, []byte(rand.Text())); err != nil {
			return "", err
		}
		id, err = v.Load(ctx, IdentityKey) // another instance may have done so at the same time
	}
	return string(id), err
}
