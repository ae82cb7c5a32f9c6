package records

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

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
