package records

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/caddyserver/certmagic"
)

// TestBoundedMissing: an engine that is down, and says of every key that it is not
// there, is not believed. One that is empty is.
func TestBoundedMissing(t *testing.T) {
	s, ctx := newStorage(t), context.Background()
	b := Bounded(s, nil)
	down := func(method, key string) error {
		if method == "Load" {
			return fs.ErrNotExist
		}
		return errors.New("connection refused")
	}
	expect := func(when string, want error) {
		t.Helper()
		if _, err := b.Load(ctx, "a/key"); !errors.Is(err, want) ||
			errors.Is(err, fs.ErrNotExist) != (want == fs.ErrNotExist) {
			t.Errorf("%s: %v, want %v", when, err, want)
		}
	}
	s.on(down)
	expect("down from the start", ErrStorage)
	s.on(nil)
	expect("up, and empty", fs.ErrNotExist)
	s.on(down)
	expect("down again", ErrStorage)

	// Back again when the key was asked for already.
	s.on(nil)
	if err := b.Store(ctx, "a/key", []byte("value")); err != nil {
		t.Fatal(err)
	}
	asked := 0
	s.on(func(method, key string) error {
		if asked++; asked == 1 {
			return fs.ErrNotExist
		}
		return nil
	})
	if value, err := b.Load(ctx, "a/key"); string(value) != "value" {
		t.Errorf("back in between: %q, %v", value, err)
	}
}

// TestBoundedListMissing: nor is one believed that lists nothing when it is down.
func TestBoundedListMissing(t *testing.T) {
	for name, nothing := range map[string]error{"no error": nil, "an error": fs.ErrNotExist} {
		s, ctx := newStorage(t), t.Context()
		isDown, asked := true, 0
		b := Bounded(lister{s, func() ([]string, error) {
			if asked++; isDown || asked == 1 {
				return nil, nothing
			}
			return []string{"a/key"}, nil
		}}, nil)
		s.on(func(string, string) error {
			if isDown {
				return errBroken
			}
			return nil
		})
		if keys, err := b.List(ctx, "a", true); !errors.Is(err, ErrStorage) {
			t.Errorf("%s: down: %q, %v", name, keys, err)
		}
		isDown, asked = false, 0
		if keys, err := b.List(ctx, "a", true); err != nil || len(keys) != 1 {
			t.Errorf("%s: back in between: %q, %v", name, keys, err)
		}
	}
}

// lister is a storage with a List of its own.
type lister struct {
	certmagic.Storage
	list func() ([]string, error)
}

func (l lister) List(context.Context, string, bool) ([]string, error) { return l.list() }

// TestBoundedLandmarkFails: nor is a storage believed that can read nothing but what
// is not there.
func TestBoundedLandmarkFails(t *testing.T) {
	s := newStorage(t)
	s.on(func(method, key string) error {
		if method == "Load" && key == Landmark {
			return errBroken
		}
		return nil
	})
	b := Bounded(s, nil)
	if _, err := b.Load(t.Context(), "a/key"); !errors.Is(err, ErrStorage) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loading: %v", err)
	}
	if keys, err := b.List(t.Context(), "a", true); !errors.Is(err, ErrStorage) {
		t.Errorf("listed %q, %v", keys, err)
	}
}

// TestBoundedNowhere: an engine of files whose directory is gone says that something does not
// exist of what is to be written, too. That is an outage like any other.
func TestBoundedNowhere(t *testing.T) {
	for method, call := range calls {
		if method == "Stat" || method == "Unlock" {
			continue
		}
		s := newStorage(t)
		s.on(func(string, string) error { return fs.ErrNotExist })
		told := 0
		err := call(t.Context(), Bounded(s, func(string, error) { told++ }))
		if !errors.Is(err, ErrStorage) || errors.Is(err, fs.ErrNotExist) || told != 1 {
			t.Errorf("%s: %v, told %d times", method, err, told)
		}
	}
}

// TestBoundedDeleteMissing: an engine that is down, and says of a key that it is gone, is not
// believed.
func TestBoundedDeleteMissing(t *testing.T) {
	s, ctx := newStorage(t), t.Context()
	b := Bounded(s, nil)
	if err := b.Store(ctx, "a/key", []byte{1}); err != nil {
		t.Fatal(err)
	}
	isDown, deletes := true, 0
	s.on(func(method, _ string) error {
		if method == "Delete" {
			if deletes++; deletes == 1 {
				return fs.ErrNotExist
			}
		} else if isDown {
			return errBroken
		}
		return nil
	})
	if err := b.Delete(ctx, "a/key"); !errors.Is(err, ErrStorage) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("down: %v", err)
	}
	isDown, deletes = false, 0
	if err := b.Delete(ctx, "a/key"); err != nil {
		t.Errorf("back in between: %v", err)
	}
	if _, err := b.Load(ctx, "a/key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted: %v", err)
	}
}
