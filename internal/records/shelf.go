package records

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/caddyserver/certmagic"
)

// Shelf keeps values in a storage until they expire. They are filed by the hour of their
// expiry, so a caller that asks for one has to know when it expires.
type Shelf struct {
	*periods
}

// NewShelf returns a shelf of values that are kept under prefix, by clock.
// The storage should be a [Bounded] one.
func NewShelf(storage certmagic.Storage, prefix string, clock *Clock) *Shelf {
	return &Shelf{newPeriods(storage, clock, prefix, time.Hour)}
}

func (s *Shelf) key(id string, expires time.Time) string {
	return path.Join(s.dir(s.of(expires)), id)
}

// Put keeps value under id, which must be a valid file name, until it expires.
func (s *Shelf) Put(ctx context.Context, id string, expires time.Time, value []byte) error {
	now := s.clock.Now()
	s.sweep(ctx, now, now.Add(-ClockSkew))
	return s.storage.Store(ctx, s.key(id, expires), value)
}

// Get returns the value under id, or fs.ErrNotExist.
func (s *Shelf) Get(ctx context.Context, id string, expires time.Time) ([]byte, error) {
	return s.storage.Load(ctx, s.key(id, expires))
}

// Settled returns a channel that is closed when no Put of the id is under way in this process, not
// even one that was given up on. It does not cover a write that an engine carries out after it
// answered that the write failed.
func (s *Shelf) Settled(id string, expires time.Time) <-chan struct{} {
	return settled(s.storage, s.key(id, expires))
}

// Each calls f with all values, expired or not, in any order.
func (s *Shelf) Each(ctx context.Context, f func(id string, value []byte)) error {
	keys, err := s.list(ctx, s.storage, true)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if _, err := periodIn(path.Dir(key)); err != nil || path.Dir(path.Dir(key)) != s.prefix {
			continue // an hour, or a foreign file
		}
		value, err := s.storage.Load(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was deleted since the listing
		}
		if err != nil {
			return err
		}
		f(path.Base(key), value)
	}
	return nil
}

// Find returns the value under id, or fs.ErrNotExist, for callers that do not know when
// it expires.
func (s *Shelf) Find(ctx context.Context, id string) ([]byte, error) {
	dirs, err := s.list(ctx, s.storage, false)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if _, err := periodIn(dir); err != nil {
			continue // a foreign file
		}
		value, err := s.storage.Load(ctx, path.Join(dir, id))
		if !errors.Is(err, fs.ErrNotExist) {
			return value, err
		}
	}
	return nil, fs.ErrNotExist
}

// Delete removes the value under id. A missing one is no error.
func (s *Shelf) Delete(ctx context.Context, id string, expires time.Time) error {
	return remove(ctx, s.storage, s.key(id, expires))
}
