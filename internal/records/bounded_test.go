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
	"time"

	"github.com/caddyserver/certmagic"
)

// testStorage is a storage in files that a test can look into. It ignores every
// context, as engines are free to.
type testStorage struct {
	certmagic.FileStorage

	mu     sync.Mutex
	before func(method, key string) error // called first; an error is the answer
	calls  []string                       // "Load some/key"
}

func newStorage(t *testing.T) *testStorage {
	return &testStorage{FileStorage: certmagic.FileStorage{Path: t.TempDir()}}
}

// on has f called before each call of the storage from now on.
func (s *testStorage) on(f func(method, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

func (s *testStorage) called(method, key string) error {
	s.mu.Lock()
	s.calls = append(s.calls, method+" "+key)
	before := s.before
	s.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(method, key)
}

// count returns how often that was called, and forgets what came so far.
func (s *testStorage) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	s.calls = nil
	return n
}

// countAll returns how often a method was called, and forgets what came so far.
func (s *testStorage) countAll(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if strings.HasPrefix(c, method+" ") {
			n++
		}
	}
	s.calls = nil
	return n
}

func (s *testStorage) Load(_ context.Context, key string) ([]byte, error) {
	if err := s.called("Load", key); err != nil {
		return nil, err
	}
	return s.FileStorage.Load(context.Background(), key)
}

func (s *testStorage) Store(_ context.Context, key string, value []byte) error {
	if err := s.called("Store", key); err != nil {
		return err
	}
	return s.FileStorage.Store(context.Background(), key, value)
}

func (s *testStorage) Delete(_ context.Context, key string) error {
	if err := s.called("Delete", key); err != nil {
		return err
	}
	return s.FileStorage.Delete(context.Background(), key)
}

func (s *testStorage) List(_ context.Context, path string, recursive bool) ([]string, error) {
	if err := s.called("List", path); err != nil {
		return nil, err
	}
	return s.FileStorage.List(context.Background(), path, recursive)
}

func (s *testStorage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	if err := s.called("Stat", key); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return s.FileStorage.Stat(context.Background(), key)
}

func (s *testStorage) Lock(_ context.Context, name string) error {
	if err := s.called("Lock", name); err != nil {
		return err
	}
	return s.FileStorage.Lock(context.Background(), name)
}

func (s *testStorage) Unlock(_ context.Context, name string) error {
	if err := s.called("Unlock", name); err != nil {
		return err
	}
	return s.FileStorage.Unlock(context.Background(), name)
}

var errBroken = errors.New("the storage is broken")

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

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s: not within 5 s", what)
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
		if _, err := b.Load(ctx, "a/key"); !errors.Is(err, want) || errors.Is(err, fs.ErrNotExist) != (want == fs.ErrNotExist) {
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

// A storage that hangs and ignores its context is given up on.
func TestBoundedHangs(t *testing.T) {
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
func TestBoundedSlots(t *testing.T) {
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
	if most.Load() > storageCalls || runtime.NumGoroutine() > before+storageCalls {
		t.Errorf("%d calls hang in %d goroutines", most.Load(), runtime.NumGoroutine()-before)
	}

	close(release)
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
	b.timeout = 5 * time.Second
	for range storageCalls + 50 {
		if err := b.Store(t.Context(), "a/key", []byte{1}); err != nil {
			t.Fatalf("after the outage: %v", err)
		}
	}
}

// A lock that comes too late is released, for nobody else would.
func TestBoundedLateLock(t *testing.T) {
	s, release := newStorage(t), make(chan struct{})
	s.on(func(method, _ string) error {
		if method == "Lock" {
			<-release
		}
		return nil
	})
	b := Bounded(s, nil).(*bounded)
	b.timeout = 5 * time.Millisecond
	if err := b.Lock(t.Context(), "a/lock"); !errors.Is(err, ErrStorage) {
		t.Errorf("error %v", err)
	}
	close(release)
	eventually(t, "the late lock is released", func() bool { return s.count("Unlock a/lock") == 1 })

	// One that comes in time is not, and one that fails late need not be.
	b.timeout = 5 * time.Second
	if err := b.Lock(t.Context(), "a/lock"); err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{})
	s.on(func(method, _ string) error {
		if method == "Lock" {
			<-failed
		}
		return errBroken
	})
	b.timeout = 5 * time.Millisecond
	if err := b.Lock(t.Context(), "a/lock"); !errors.Is(err, ErrStorage) {
		t.Errorf("error %v", err)
	}
	close(failed)
	time.Sleep(20 * time.Millisecond)
	if n := s.count("Unlock a/lock"); n != 0 {
		t.Errorf("unlocked %d times what is held or was never locked", n)
	}
}

// Whoever holds a lock can release it, also while the storage is overrun: some
// engines keep a lock alive for as long as the process lives.
func TestBoundedUnlockWhenFull(t *testing.T) {
	s, release := newStorage(t), make(chan struct{})
	defer close(release)
	b := Bounded(s, nil).(*bounded)
	if err := b.Lock(t.Context(), "a/lock"); err != nil {
		t.Fatal(err)
	}
	s.on(func(method, _ string) error {
		if method != "Unlock" {
			<-release
		}
		return nil
	})
	b.timeout = time.Millisecond
	for range storageCalls {
		_ = b.Delete(t.Context(), "a/key")
	}
	if err := b.Delete(t.Context(), "a/key"); !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "too many") {
		t.Fatalf("there is a slot left: %v", err)
	}
	b.timeout = 5 * time.Second
	if err := b.Unlock(t.Context(), "a/lock"); err != nil {
		t.Errorf("unlocking: %v", err)
	}
}

// A burst that the storage can serve is served, a part of it after the other.
func TestBoundedBurst(t *testing.T) {
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

// An engine's mistake ends one call, and not the server.
func TestBoundedPanics(t *testing.T) {
	s := newStorage(t)
	s.on(func(string, string) error { panic("a mistake") })
	b := Bounded(s, nil)
	for method, call := range calls {
		if err := call(t.Context(), b); !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "a mistake") {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// Some engines keep a lock fresh for as long as the context lives that it was taken
// with. It ends with the lock, and neither before nor never.
func TestBoundedLockContext(t *testing.T) {
	s := &lockStorage{testStorage: newStorage(t)}
	b := Bounded(s, nil).(*bounded)
	b.timeout = 500 * time.Millisecond
	request, cancel := context.WithCancel(t.Context())
	if err := b.Lock(request, "a/lock"); err != nil {
		t.Fatal(err)
	}
	cancel()
	time.Sleep(2 * b.timeout)
	if err := s.takenWith().Err(); err != nil {
		t.Errorf("while the lock is held: %v", err)
	}
	if err := b.Unlock(t.Context(), "a/lock"); err != nil {
		t.Fatal(err)
	}
	if s.takenWith().Err() == nil {
		t.Error("the context outlives the lock")
	}
	if len(b.held) != 0 {
		t.Errorf("%d locks are remembered", len(b.held))
	}

	// One that is waited for in vain is given up, by the engine too.
	s.on(func(string, string) error { <-s.takenWith().Done(); return s.takenWith().Err() })
	if err := b.Lock(t.Context(), "a/lock"); !errors.Is(err, ErrStorage) {
		t.Errorf("error %v", err)
	}
	eventually(t, "the engine learns that the lock was given up", func() bool { return s.takenWith().Err() != nil })
	if len(b.held) != 0 {
		t.Errorf("%d locks are remembered", len(b.held))
	}
}

// lockStorage remembers the context that a lock was taken with.
type lockStorage struct {
	*testStorage
	taken context.Context
}

func (s *lockStorage) Lock(ctx context.Context, name string) error {
	s.mu.Lock()
	s.taken = ctx
	s.mu.Unlock()
	return s.testStorage.Lock(ctx, name)
}

func (s *lockStorage) takenWith() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
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
