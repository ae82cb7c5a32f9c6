package records

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// ClockSkew is how far the clocks of instances that share a storage may differ.
const ClockSkew = 5 * time.Minute

// claimTimeout bounds a claim, lock and all.
const claimTimeout = 10 * time.Second

// Claims makes sure that a thing is used once, by one instance of all that share
// a storage, also after a restart. Claims are filed by the hour in which they
// were made, so that removing old ones costs nothing for those that still count.
type Claims struct {
	hours
	keep time.Duration
	now  func() time.Time

	mu       sync.Mutex
	underWay map[string]struct{} // ids being claimed by this process
}

// NewClaims returns claims that are kept under prefix for at least as long as
// keep, by the clock now. The storage should be a [Bounded] one.
func NewClaims(storage certmagic.Storage, prefix string, keep time.Duration, now func() time.Time) *Claims {
	return &Claims{hours: hours{storage: storage, prefix: prefix}, keep: keep, now: now, underWay: make(map[string]struct{})}
}

// Claim reports whether this call is the first to claim any of ids, which must
// be fit to be file names. Of calls at the same time whose first id is the same,
// wherever they are made, one at most gets true. After an error nothing may be
// taken for claimed, nor for free.
func (c *Claims) Claim(ctx context.Context, ids ...string) (bool, error) {
	// Calls in this process need not queue for the storage's lock, which some
	// engines poll once a second: whoever comes second has lost already.
	if !c.enter(ids) {
		return false, nil
	}
	defer c.leave(ids)

	lock := path.Join(c.prefix, ids[0])
	if err := c.storage.Lock(ctx, lock); err != nil {
		// An instance that dies leaves its lock, for some seconds. If it is only that,
		// somebody else was first.
		if errors.Is(err, errNoAnswer) {
			_, loadErr := c.storage.Load(ctx, c.key(hourOf(c.now()), ids[0]))
			if loadErr == nil || errors.Is(loadErr, fs.ErrNotExist) {
				return false, nil
			}
		}
		return false, err
	}
	// A lock that cannot be released goes stale by itself, and the claim stands.
	defer func() { _ = c.storage.Unlock(ctx, lock) }()

	// Each call is bounded; together they are too, or a claim that takes for ever
	// could outlast its lock.
	patience := time.Now().Add(claimTimeout)
	now := c.now()
	for hour := hourOf(now.Add(-c.keep - ClockSkew)); hour <= hourOf(now.Add(ClockSkew)); hour++ {
		for _, id := range ids {
			// Exists would do, but many engines answer false when they are down.
			_, err := c.storage.Load(ctx, c.key(hour, id))
			if err == nil {
				return false, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
		}
	}
	if time.Now().After(patience) {
		return false, fmt.Errorf("%w: too slow to claim %s", ErrStorage, ids[0])
	}
	for _, id := range ids {
		// Some engines cannot hold an empty value.
		if err := c.storage.Store(ctx, c.key(hourOf(now), id), []byte{1}); err != nil {
			return false, err
		}
	}
	if time.Now().After(patience) {
		return false, fmt.Errorf("%w: too slow to claim %s", ErrStorage, ids[0])
	}
	c.sweep(ctx, hourOf(now), hourOf(now.Add(-c.keep-2*ClockSkew)))
	return true, nil
}

func (c *Claims) enter(ids []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if _, ok := c.underWay[id]; ok {
			return false
		}
	}
	for _, id := range ids {
		c.underWay[id] = struct{}{}
	}
	return true
}

func (c *Claims) leave(ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.underWay, id)
	}
}
