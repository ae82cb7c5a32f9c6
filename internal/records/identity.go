package records

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
)

// IdentityKey is where a storage says which one it is. Two configurations that are written alike may have two
// storages, and two that are not may have one.
const IdentityKey = "aventus_auth/storage"

// identify tells n.Identified which storage a value is of, if that is not known.
func (n *Newest) identify(ctx context.Context, value *verified) {
	if n.Identified == nil || n.identified.Load() == value || !n.identifying.TryLock() {
		return
	}
	defer n.identifying.Unlock()
	id, err := sure(ctx, value.identity)
	if err != nil {
		return // as what it is going to be asked for will fail
	}
	n.Identified(id)
	n.identified.Store(value)
}

// identity returns the id that lies in a storage, and puts one there if there is none.
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
