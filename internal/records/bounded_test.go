package records

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	dir, err := os.MkdirTemp("", "records")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A write that is under way when a test ends may put a file into a folder that is just being removed.
		for range 1000 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
		}
		t.Error(err)
	})
	return &testStorage{FileStorage: certmagic.FileStorage{Path: dir}}
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

// countAll returns how often a method was called, or any if it is "", and forgets what
// came so far.
func (s *testStorage) countAll(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if method == "" || strings.HasPrefix(c, method+" ") {
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
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s: not within 5 s", what)
			return
		}
	}
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

// A lock that comes too late is released, for nobody else would.
func TestBoundedLateLock(t *testing.T) { synctest.Test(t, testBoundedLateLock) }

func testBoundedLateLock(t *testing.T) {
	defer time.Sleep(time.Minute) // by when the file storage keeps no lock fresh any more
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
	synctest.Wait()
	if n := s.count("Unlock a/lock"); n != 0 {
		t.Errorf("unlocked %d times what is held or was never locked", n)
	}
	s.on(nil)
	b.timeout = 5 * time.Second
	if err := b.Unlock(t.Context(), "a/lock"); err != nil {
		t.Error(err)
	}
}

// Whoever holds a lock can release it, also while the storage is overrun: some
// engines keep a lock alive for as long as the process lives.
func TestBoundedUnlockWhenFull(t *testing.T) { synctest.Test(t, testBoundedUnlockWhenFull) }

func testBoundedUnlockWhenFull(t *testing.T) {
	defer time.Sleep(time.Minute) // by when the file storage keeps no lock fresh any more
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
	if err := b.Delete(t.Context(), "a/key"); !errors.Is(err, ErrStorage) ||
		!strings.Contains(err.Error(), "too many") {
		t.Fatalf("there is a slot left: %v", err)
	}
	b.timeout = 5 * time.Second
	if err := b.Unlock(t.Context(), "a/lock"); err != nil {
		t.Errorf("unlocking: %v", err)
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

// Some engines keep a lock fresh for as long as the context lives that it was taken
// with. It ends with the lock, and neither before nor never.
func TestBoundedLockContext(t *testing.T) { synctest.Test(t, testBoundedLockContext) }

func testBoundedLockContext(t *testing.T) {
	defer time.Sleep(time.Minute) // by when the file storage keeps no lock fresh any more
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

// lockEngine is a storage with locks of its own. Like some engines, it has no other
// means of keeping two holders apart than what a test gives it.
type lockEngine struct {
	certmagic.Storage
	lock, unlock func(ctx context.Context) error
}

func (e *lockEngine) Lock(ctx context.Context, _ string) error   { return e.lock(ctx) }
func (e *lockEngine) Unlock(ctx context.Context, _ string) error { return e.unlock(ctx) }

// TestBoundedLockSlots: no lock costs a slot for good, however it ends.
func TestBoundedLockSlots(t *testing.T) {
	good := func(context.Context) error { return nil }
	bad := func(context.Context) error { return errBroken }
	late := func(context.Context) error { time.Sleep(storageTimeout + time.Second); return nil }
	mistaken := func(context.Context) error { panic("a mistake") }
	never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	badLate := func(ctx context.Context) error { return errors.Join(late(ctx), errBroken) }
	for what, e := range map[string]*lockEngine{
		"refused":                         {lock: bad, unlock: good},
		"panicked":                        {lock: mistaken, unlock: good},
		"given up":                        {lock: never, unlock: good},
		"refused late":                    {lock: badLate, unlock: good},
		"late":                            {lock: late, unlock: good},
		"late, and the unlock fails":      {lock: late, unlock: bad},
		"late, and the unlock panics":     {lock: late, unlock: mistaken},
		"held, and unlocked":              {lock: good, unlock: good},
		"held, and the unlock fails":      {lock: good, unlock: bad},
		"held, and the unlock panics":     {lock: good, unlock: mistaken},
		"held, and the unlock comes late": {lock: good, unlock: late},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := Bounded(e, nil)
			for range 3 * storageCalls {
				if err := b.Lock(t.Context(), "a/lock"); err == nil {
					_ = b.Unlock(t.Context(), "a/lock")
				} else if strings.Contains(err.Error(), "too many") {
					t.Fatalf("%s: %v", what, err)
				}
			}
			time.Sleep(2 * storageTimeout)
			synctest.Wait()
			e.lock = good
			if err := b.Lock(t.Context(), "a/lock"); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
}

// TestBoundedTwoHolders: an engine that takes a lock for stale gives it to a second
// holder. Each of the two gives back what it holds.
func TestBoundedTwoHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken []context.Context
		b := Bounded(&lockEngine{
			lock:   func(ctx context.Context) error { taken = append(taken, ctx); return nil },
			unlock: func(context.Context) error { return nil },
		}, nil)
		for range storageCalls {
			if err := errors.Join(b.Lock(t.Context(), "a/lock"), b.Lock(t.Context(), "a/lock")); err != nil {
				t.Fatal(err)
			}
			if err := b.Unlock(t.Context(), "a/lock"); err != nil {
				t.Fatal(err)
			}
			if n := len(taken); taken[n-2].Err() == nil || taken[n-1].Err() != nil {
				t.Fatal("the first holder's unlock ended the second one's lock, or not its own")
			}
			if err := b.Unlock(t.Context(), "a/lock"); err != nil {
				t.Fatal(err)
			}
		}
		for n, ctx := range taken {
			if ctx.Err() == nil {
				t.Fatalf("lock %d is kept fresh for ever", n)
			}
		}
	})
}

// TestBoundedLocksApart: those who hold all the locks that there may be can do what
// they hold them for. The next lock waits for one of theirs.
func TestBoundedLocksApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := func(context.Context) error { return nil }
		b := Bounded(&lockEngine{newStorage(t), good, good}, nil)
		for range storageCalls {
			if err := b.Lock(t.Context(), rand.Text()); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Lock(t.Context(), "a/lock"); !errors.Is(err, ErrStorage) ||
			!strings.Contains(err.Error(), "too many") {
			t.Errorf("one lock too many: %v", err)
		}
		if err := b.Store(t.Context(), "a/key", []byte{1}); err != nil {
			t.Errorf("under a lock: %v", err)
		}
		for name := range b.(*bounded).held {
			if err := b.Unlock(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := b.Lock(t.Context(), "a/lock"); err != nil {
			t.Errorf("after one was given back: %v", err)
		}
	})
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
