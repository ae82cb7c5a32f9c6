package records

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// calls are the calls of a storage that are bounded.
var calls = map[string]func(context.Context, certmagic.Storage) error{
	"Load":   func(ctx context.Context, s certmagic.Storage) error { _, err := s.Load(ctx, "a/key"); return err },
	"Store":  func(ctx context.Context, s certmagic.Storage) error { return s.Store(ctx, "a/key", []byte{1}) },
	"Delete": func(ctx context.Context, s certmagic.Storage) error { return s.Delete(ctx, "a/key") },
	"List":   func(ctx context.Context, s certmagic.Storage) error { _, err := s.List(ctx, "a", true); return err },
	"Stat":   func(ctx context.Context, s certmagic.Storage) error { _, err := s.Stat(ctx, "a"); return err },
	"Lock":   func(ctx context.Context, s certmagic.Storage) error { return s.Lock(ctx, "a/lock") },
	"Unlock": func(ctx context.Context, s certmagic.Storage) error { return s.Unlock(ctx, "a/lock") },
}

// A bounded storage does what the storage does.
func TestBounded(t *testing.T) {
	b, ctx := Bounded(newStorage(t), nil), t.Context()
	if _, err := b.Load(ctx, "a/key"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrStorage) {
		t.Errorf("loading what is not there: %v", err)
	}
	if err := b.Lock(ctx, "a/lock"); err != nil {
		t.Error(err)
	}
	if err := b.Store(ctx, "a/key", []byte("value")); err != nil {
		t.Error(err)
	}
	if err := b.Unlock(ctx, "a/lock"); err != nil {
		t.Error(err)
	}
	if value, err := b.Load(ctx, "a/key"); err != nil || string(value) != "value" {
		t.Errorf("loaded %q, error %v", value, err)
	}
	if keys, err := b.List(ctx, "a", true); err != nil || len(keys) != 1 || keys[0] != "a/key" {
		t.Errorf("listed %q, error %v", keys, err)
	}
	if info, err := b.Stat(ctx, "a/key"); err != nil || info.Size != 5 {
		t.Errorf("%+v, error %v", info, err)
	}
	if err := b.Delete(ctx, "a/key"); err != nil {
		t.Error(err)
	}
	if _, err := b.Load(ctx, "a/key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loading what was deleted: %v", err)
	}
	// A request waits for the storage no longer than this.
	if timeout := b.(*bounded).timeout; timeout != 5*time.Second {
		t.Errorf("a call may last %v", timeout)
	}
}

func TestBoundedFails(t *testing.T) {
	s := newStorage(t)
	s.on(func(string, string) error { return errBroken })
	b := Bounded(s, nil)
	for method, call := range calls {
		if err := call(t.Context(), b); !errors.Is(err, ErrStorage) || !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// A storage that hangs and ignores its context is given up on.
func TestBoundedHangs(t *testing.T) { synctest.Test(t, testBoundedHangs) }

func testBoundedHangs(t *testing.T) {
	for method, call := range calls {
		s, release := newStorage(t), make(chan struct{})
		s.on(func(string, string) error { <-release; return errBroken })
		b := Bounded(s, nil).(*bounded)
		b.timeout = 5 * time.Millisecond
		done := make(chan error)
		go func() { done <- call(t.Context(), b) }()
		select {
		case err := <-done:
			if !errors.Is(err, ErrStorage) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", method, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: no answer", method)
		}
		close(release)
	}
}

// However many requests come while the storage hangs, few goroutines wait for it,
// and all is well when it is back.
func TestBoundedSlots(t *testing.T) { synctest.Test(t, testBoundedSlots) }

func testBoundedSlots(t *testing.T) {
	s, release := newStorage(t), make(chan struct{})
	var inside, most atomic.Int64
	s.on(func(string, string) error {
		most.Store(max(most.Load(), inside.Add(1))) // calls come one after the other here
		defer inside.Add(-1)
		<-release
		return nil
	})
	b := Bounded(s, nil).(*bounded)
	b.timeout = time.Millisecond
	before := runtime.NumGoroutine()
	for range storageCalls + 50 {
		if err := b.Store(t.Context(), "a/key", []byte{1}); !errors.Is(err, ErrStorage) {
			t.Fatalf("error %v", err)
		}
	}
	if most.Load() > storageCalls || runtime.NumGoroutine() > before+storageCalls+10 { // other tests may leave some
		t.Errorf("%d calls hang in %d goroutines", most.Load(), runtime.NumGoroutine()-before)
	}

	close(release)
	synctest.Wait()
	if n := inside.Load(); n != 0 {
		t.Errorf("%d calls are under way after the outage", n)
	}
	b.timeout = 5 * time.Second
	for range storageCalls + 50 {
		if err := b.Store(t.Context(), "a/key", []byte{1}); err != nil {
			t.Fatalf("after the outage: %v", err)
		}
	}
}

// A burst that the storage can serve is served, a part of it after the other.
func TestBoundedBurst(t *testing.T) { synctest.Test(t, testBoundedBurst) }

func testBoundedBurst(t *testing.T) {
	s := newStorage(t)
	s.on(func(string, string) error { time.Sleep(5 * time.Millisecond); return nil })
	b := Bounded(s, nil)
	var wg sync.WaitGroup
	for range 2 * storageCalls {
		wg.Go(func() {
			if _, err := b.Load(t.Context(), "a/key"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestBoundedPanics: an engine's mistake ends one call, and neither the server nor,
// however often it is made, the calls that follow.
func TestBoundedPanics(t *testing.T) {
	for method, call := range calls {
		s := newStorage(t)
		s.on(func(string, string) error { panic("a mistake") })
		b := Bounded(s, nil).(*bounded)
		b.timeout = time.Second // of waiting for a slot, if the panics keep theirs
		for range storageCalls + 1 {
			if err := call(t.Context(), b); !errors.Is(err, ErrStorage) ||
				!strings.Contains(err.Error(), "a mistake") {
				t.Fatalf("%s: %v", method, err)
			}
		}
	}
}

// TestBoundedUndoPanics: nor does a mistake in taking back what came too late.
func TestBoundedUndoPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Bounded(newStorage(t), nil).(*bounded)
		late := func(context.Context) (struct{}, error) { time.Sleep(2 * storageTimeout); return struct{}{}, nil }
		isUndone := false
		undo := func() { isUndone = true; panic("a mistake") }
		if _, err := wait(t.Context(), b, "trying", late, undo); !errors.Is(err, ErrStorage) {
			t.Error(err)
		}
		time.Sleep(2 * storageTimeout)
		if synctest.Wait(); !isUndone {
			t.Error("it was not taken back")
		}
	})
}

// A visitor who closes the tab ends no call of the storage half-way.
func TestBoundedCallerGone(t *testing.T) {
	s := newStorage(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.on(func(string, string) error { cancel(); return nil })
	if err := Bounded(s, nil).Store(ctx, "a/key", []byte{1}); err != nil {
		t.Errorf("storing: %v", err)
	}
	strict := contextStorage{s}
	if err := Bounded(strict, nil).Store(ctx, "a/key", []byte{1}); err != nil {
		t.Errorf("storing in one that minds its context: %v", err)
	}
}

type contextStorage struct{ *testStorage }

func (s contextStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.testStorage.Store(ctx, key, value)
}

// TestBoundedTells: whoever counts failures is told of each, by what was being done,
// and of none where a key is simply not there.
func TestBoundedTells(t *testing.T) { synctest.Test(t, testBoundedTells) }

func testBoundedTells(t *testing.T) {
	defer time.Sleep(time.Second) // by when what was given up on has ended
	for method, want := range map[string]string{
		"Load": "loading", "Store": "storing", "Delete": "deleting", "List": "listing", "Stat": "listing",
		"Lock": "locking", "Unlock": "unlocking",
	} {
		s := newStorage(t)
		var told []string
		b := Bounded(s, func(operation string, err error) {
			if !errors.Is(err, ErrStorage) {
				t.Errorf("%s: told of %v", method, err)
			}
			told = append(told, operation)
		}).(*bounded)
		s.on(func(m, _ string) error {
			if m == method {
				return errBroken
			}
			return nil
		})
		_ = calls[method](t.Context(), b)
		s.on(func(m, _ string) error {
			if m == method {
				return fs.ErrNotExist
			}
			return nil
		})
		if method == "Stat" || method == "Unlock" { // elsewhere, it is looked into, or is a failure
			_ = calls[method](t.Context(), b)
		}
		b.timeout = time.Millisecond
		b.slots, b.locks = make(chan struct{}), make(chan struct{}) // all are taken
		if method == "Unlock" {                                     // it needs none
			b.Storage = &lockEngine{
				unlock: func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil },
			}
		}
		_ = calls[method](t.Context(), b)
		if len(told) != 2 || told[0] != want || told[1] != want {
			t.Errorf("%s: told of %q, want twice %q", method, told, want)
		}
	}
	told := 0
	b := Bounded(newStorage(t), func(string, error) { told++ })
	if _, err := b.Load(t.Context(), "a/key"); !errors.Is(err, fs.ErrNotExist) || told != 0 {
		t.Errorf("told %d times that a key is not there, %v", told, err)
	}
}
