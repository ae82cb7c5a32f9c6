package records

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// downFor is a storage that is down for a time.
type downFor struct {
	certmagic.FileStorage
	isDown bool
}

func (f *downFor) Load(ctx context.Context, key string) ([]byte, error) {
	if f.isDown {
		return nil, errors.New("it is down")
	}
	return f.FileStorage.Load(ctx, key)
}

// TestIdentified: each value that is asked says first which storage it is of, whatever it says of its config; one
// that fails says so later. Switching back is told, too.
func TestIdentified(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	var told []string
	n := &Newest{Identified: func(id string) { told = append(told, id) }}
	ask := func() {
		t.Helper()
		_ = n.Store(t.Context(), "key", []byte("value"))
	}
	n.Use(&certmagic.FileStorage{Path: one})
	ask()
	ask()
	n.Use(&certmagic.FileStorage{Path: one})
	ask()
	release := n.Use(&certmagic.FileStorage{Path: two})
	ask()
	release()
	ask()
	failing := &downFor{FileStorage: certmagic.FileStorage{Path: two}, isDown: true}
	n.Use(failing)
	ask()
	failing.isDown = false
	ask()
	if len(told) != 5 {
		t.Fatalf("told %q", told)
	}
	a, b := told[0], told[2]
	if len(a) < 20 || a == b || !slices.Equal(told, []string{a, a, b, a, b}) {
		t.Errorf("told %q", told)
	}
}

// TestIdentifiedAnew: a storage whose id is empty, as a crash may leave it, gets one.
func TestIdentifiedAnew(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	if err := storage.Store(t.Context(), IdentityKey, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var told string
		n := &Newest{Identified: func(id string) { told = id }}
		n.Use(storage)
		if err := n.Store(t.Context(), "key", []byte("value")); err != nil {
			t.Fatal(err)
		}
		if kept, err := storage.Load(t.Context(), IdentityKey); err != nil || len(told) < 20 || string(kept) != told {
			t.Errorf("told %q, and the storage has %q, %v", told, kept, err)
		}
	}
}

// TestRelearn: when the storage has become another one, all that has ended there is learned anew, however long ago
// that was, and until that is done, nothing is known.
func TestRelearn(t *testing.T) {
	clock := newClock()
	one, two := &certmagic.FileStorage{Path: t.TempDir()}, &certmagic.FileStorage{Path: t.TempDir()}
	id, until := ID{1}, clock.Now().Add(24*time.Hour)
	elsewhere := NewEnded(Bounded(two, nil), clock.steady())
	if err := elsewhere.End(t.Context(), id, until); err != nil {
		t.Fatal(err)
	}
	clock.Add(2 * time.Hour)
	lately := filepath.Join(two.Path, "aventus_auth", "ended", "lately")
	if err := os.RemoveAll(lately); err != nil { // as a sweep would
		t.Fatal(err)
	}

	n := new(Newest)
	n.Use(one)
	here := NewEnded(Bounded(n, nil), clock.steady())
	if err := here.Learn(t.Context()); err != nil || here.Has(id, clock.Now()) {
		t.Fatalf("%v; it has ended: %t", err, here.Has(id, clock.Now()))
	}
	n.Use(two)
	if err := here.Learn(t.Context()); err != nil || here.Has(id, clock.Now()) {
		t.Fatalf("what ended long ago is learned without need: %v", err)
	}
	here.Relearn()
	if isKnown, _ := here.known(here.clock.Now()); isKnown {
		t.Error("all that has ended is said to be known")
	}
	if err := here.Learn(t.Context()); err != nil || !here.Has(id, clock.Now()) {
		t.Errorf("it is not learned: %v", err)
	}
}

// betweenListings is a storage where something happens while it is listed.
type betweenListings struct {
	certmagic.FileStorage
	happens func()
}

func (s *betweenListings) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	keys, err := s.FileStorage.List(ctx, dir, recursive)
	s.happens()
	return keys, err
}

// TestRelearnWhileListing: what was being listed when the storage became another one does not count as all that has
// ended there.
func TestRelearnWhileListing(t *testing.T) {
	clock := newClock()
	storage := &betweenListings{FileStorage: certmagic.FileStorage{Path: t.TempDir()}}
	e := NewEnded(Bounded(storage, nil), clock.steady())
	storage.happens = sync.OnceFunc(e.Relearn)
	for _, want := range []bool{false, true} {
		err := e.Learn(t.Context())
		if isKnown, _ := e.known(e.clock.Now()); err != nil || isKnown != want {
			t.Errorf("all that has ended is known: %t, want %t; error %v", isKnown, want, err)
		}
	}
}

// TestIdentifiedAtOnce: two instances that find no id in their storage at the same time agree on one.
func TestIdentifiedAtOnce(t *testing.T) {
	s := newStorage(t)
	var looked sync.WaitGroup
	looked.Add(2)
	var loads, stores atomic.Int64
	first := make(chan struct{})
	done := sync.OnceFunc(func() { close(first) })
	s.on(func(method, key string) error {
		switch {
		case key != IdentityKey:
		case method == "Load" && loads.Add(1) <= 2: // both find that it is missing
			looked.Done()
			looked.Wait()
		case method == "Store" && stores.Add(1) == 2: // the second one stores when the first one has loaded
			<-first
		}
		return nil
	})
	ids := make(chan string, 2)
	for range 2 {
		go func() {
			defer done()
			id, err := (&verified{Storage: s}).identity(t.Context())
			if err != nil {
				t.Error(err)
			}
			ids <- id
		}()
	}
	if a, b := <-ids, <-ids; a != b {
		t.Errorf("the ids are %q and %q", a, b)
	}
}

// TestIdentifiedWithoutTheLock: where the lock is refused, the storage gets an id all the same, and the lock is left
// to who has it.
func TestIdentifiedWithoutTheLock(t *testing.T) {
	s := newStorage(t)
	s.on(func(method, _ string) error {
		if method == "Lock" {
			return errBroken
		}
		return nil
	})
	id, err := (&verified{Storage: s}).identity(t.Context())
	if err != nil || len(id) < 20 {
		t.Errorf("%q, %v", id, err)
	}
	if n := s.countAll("Unlock"); n != 0 {
		t.Errorf("another's lock was released %d times", n)
	}
}

// TestIdentifiedBesideLocks: an engine that keeps a lock under its own name, as a Consul one does, does not lose the
// id with the lock.
func TestIdentifiedBesideLocks(t *testing.T) {
	s := newStorage(t)
	s.on(func(method, key string) error {
		switch method {
		case "Lock":
			return s.FileStorage.Store(context.Background(), key, []byte("a lock"))
		case "Unlock":
			return s.FileStorage.Delete(context.Background(), key)
		}
		return nil
	})
	first, err := (&verified{Storage: s}).identity(t.Context())
	if err != nil || len(first) < 20 {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := (&verified{Storage: s}).identity(t.Context()); err != nil || again != first {
		t.Errorf("the ids are %q and %q, %v", first, again, err)
	}
}
