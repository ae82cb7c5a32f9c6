package records

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"sync"
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

// eachInCall is how many values Each loads in one call of a bounded storage. The goroutine and the timer of a call
// cost as much as reading a small file.
const eachInCall = 16

// Each calls f with all values, expired or not, in any order, until f fails. It loads several values at a time, and
// calls f with one after the other. No request of a visitor waits for it, so the listing may take long.
func (s *Shelf) Each(ctx context.Context, f func(id string, value []byte) error) error {
	keys, err := s.list(ctx, patient(s.storage, learnTimeout, 1), true)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { // what is no value in an hour
		_, err := periodIn(path.Dir(key))
		return err != nil || path.Dir(path.Dir(key)) != s.prefix
	})
	var turn sync.Mutex
	slow := patient(s.storage, learnTimeout, loadsAtOnce)
	return loadEach(ctx, slow, keys, eachInCall, func(key string, value []byte) error {
		turn.Lock()
		defer turn.Unlock()
		return f(path.Base(key), value)
	})
}

// soughtFor is for how many hours to come Find asks for a value at once, without listing anything.
const soughtFor = 100

var errFound = errors.New("found")

// Find returns what was put under id, or fs.ErrNotExist, for those who do not know when
// it expires. What expires within the given time is found at the same cost whatever else there is: an engine of
// files reads whole folders to list which there are.
func (s *Shelf) Find(ctx context.Context, id string, within time.Duration) ([]byte, error) {
	var keys []string
	first := s.of(s.clock.Now())
	last := s.of(s.clock.Now().Add(within))
	for hour := first; hour <= last && hour < first+soughtFor; hour++ {
		keys = append(keys, path.Join(s.dir(hour), id))
	}
	var found []byte
	err := loadEach(ctx, s.storage, keys, 1, func(_ string, value []byte) error {
		found = value // there is one at most
		return errFound
	})
	switch {
	case err == errFound:
		return found, nil
	case err != nil:
		return nil, err
	}
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
