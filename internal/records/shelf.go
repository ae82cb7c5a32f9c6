package records

import (
	"context"
	"time"

	"github.com/caddyserver/certmagic"
)

// Shelf keeps values in a storage until they expire. They are filed by the hour in
// which they do, so whoever asks for one has to know when that is.
type Shelf struct {
	hours
	now func() time.Time
}

// NewShelf returns a shelf of values that are kept under prefix, by the clock now.
// The storage should be a [Bounded] one.
func NewShelf(storage certmagic.Storage, prefix string, now func() time.Time) *Shelf {
	return &Shelf{hours: hours{storage: storage, prefix: prefix}, now: now}
}

// Put keeps value under id, which must be fit to be a file name, until it expires.
func (s *Shelf) Put(ctx context.Context, id string, expires time.Time, value []byte) error {
	now := s.now()
	s.sweep(ctx, hourOf(now), hourOf(now.Add(-ClockSkew)))
	return s.storage.Store(ctx, s.key(hourOf(expires), id), value)
}

// Get returns what was put under id, or fs.ErrNotExist.
func (s *Shelf) Get(ctx context.Context, id string, expires time.Time) ([]byte, error) {
	return s.storage.Load(ctx, s.key(hourOf(expires), id))
}

// Delete removes what was put under id. That it is not there is no error.
func (s *Shelf) Delete(ctx context.Context, id string, expires time.Time) error {
	return s.remove(ctx, s.key(hourOf(expires), id))
}
