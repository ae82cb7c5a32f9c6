package records

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// TestNewest: each call asks the newest storage that is in use; the order in which older ones are
// given up makes no difference, and the last one is never given up.
func TestNewest(t *testing.T) {
	first, second, third := newStorage(t), newStorage(t), newStorage(t)
	var n Newest
	expect := func(want *testStorage) {
		t.Helper()
		for _, s := range []*testStorage{first, second, third} {
			s.countAll("")
		}
		for _, method := range []string{"Load", "Store", "Delete", "List", "Stat", "Lock", "Unlock"} {
			_ = calls[method](t.Context(), &n)
			if want.countAll(method) == 0 {
				t.Errorf("%s asks another storage", method)
			}
		}
		for _, s := range []*testStorage{first, second, third} {
			if asked := s.countAll(""); asked != 0 && s != want {
				t.Errorf("two storages are asked")
			}
		}
	}
	closeFirst := n.Use(first)
	closeFirstAgain := n.Use(first) // another block of the same config
	expect(first)
	closeSecond := n.Use(second)
	expect(second)
	closeThird := n.Use(third) // its config fails to load
	expect(third)
	closeThird()
	closeThird()
	expect(second)
	closeFirst()
	expect(second)
	closeFirstAgain()
	expect(second)
	closeSecond()
	expect(second)
	closeSecond()
	expect(second)
	closeThird = n.Use(third)
	expect(third)
	for _, s := range []*testStorage{first, second, third} {
		s.on(failing)
	}
	if err := n.Store(t.Context(), "a/key", nil); !errors.Is(err, errBroken) {
		t.Error(err)
	}
	if first.countAll("")+second.countAll("") != 0 {
		t.Error("a storage that is given up is asked still")
	}
	closeThird()
	expect(third)
}

// TestNewestFails: a call that fails at the newest storage is made at the other one in use, whichever
// of the two is closed, and however that one says so.
func TestNewestFails(t *testing.T) {
	empty := func(method, _ string) error {
		if method == "Load" || method == "List" || method == "Delete" {
			return fs.ErrNotExist
		}
		return errBroken
	}
	panics := func(string, string) error { panic("closed") }
	for what, closed := range map[string]func(method, key string) error{
		"fails": failing, "has nothing": empty, "panics": panics,
	} {
		for method, call := range calls {
			if method == "Unlock" {
				continue // TestNewestLocks
			}
			s := newStorage(t)
			for _, key := range []string{"a/key", Landmark} {
				if err := s.FileStorage.Store(t.Context(), key, nil); err != nil {
					t.Fatal(err)
				}
			}
			unlock := func(b certmagic.Storage) {
				if method == "Lock" {
					_ = b.Unlock(t.Context(), "a/lock")
				}
			}
			young := s.view()
			young.on(closed)
			var n Newest
			n.Use(s)
			release := n.Use(young)
			b := Bounded(&n, func(operation string, err error) { t.Errorf("told of %v", err) })
			if err := call(t.Context(), b); err != nil {
				t.Errorf("%s: a closed storage %s: %v", method, what, err)
			}
			unlock(b)
			if keys, err := b.List(t.Context(), "a", true); err != nil || method != "Delete" && len(keys) != 1 {
				t.Errorf("%s: a closed storage %s: listed %q, %v", method, what, keys, err)
			}
			release()
			young.countAll("")
			_ = call(t.Context(), b)
			if young.countAll("") != 0 {
				t.Errorf("%s: a storage that is given up is asked still", method)
			}
			unlock(b)
		}
	}
}

// TestNewestClosedMidway: the same where the storage is closed during the call.
func TestNewestClosedMidway(t *testing.T) {
	for method, call := range calls {
		if method == "Unlock" {
			continue
		}
		s := newStorage(t)
		if err := s.FileStorage.Store(t.Context(), "a/key", nil); err != nil {
			t.Fatal(err)
		}
		old := s.view()
		var n Newest
		release := n.Use(old)
		old.on(func(string, string) error {
			n.Use(s)
			release()
			old.on(failing)
			return errBroken
		})
		if err := call(t.Context(), Bounded(&n, nil)); err != nil {
			t.Errorf("%s: %v", method, err)
		}
		want := 1
		if method == "List" { // for both kinds of listing
			want = 2
		}
		if asked := old.countAll(""); asked != want {
			t.Errorf("%s: the closed storage was asked %d times", method, asked)
		}
	}
}

// TestNewestMissing: what one storage says does not exist, does not, whatever becomes of the other
// one, if that storage is reachable; and if it is not, only the other one can tell.
func TestNewestMissing(t *testing.T) {
	broken := func(string, string) error { return errBroken }
	lies := func(method, _ string) error {
		if method == "Load" || method == "List" || method == "Delete" {
			return fs.ErrNotExist
		}
		return errBroken
	}
	// It is reachable, and cannot be asked for the key.
	half := func(method, key string) error {
		if key == Landmark {
			return nil
		}
		return errBroken
	}
	for what, tc := range map[string]struct {
		old, young func(method, key string) error
		want       error
	}{
		"both are there":               {nil, nil, fs.ErrNotExist},
		"the old one fails":            {broken, nil, fs.ErrNotExist},
		"the old one lies":             {lies, nil, fs.ErrNotExist},
		"the new one fails":            {nil, broken, fs.ErrNotExist},
		"the new one lies":             {nil, lies, fs.ErrNotExist},
		"both lie":                     {lies, lies, ErrStorage},
		"the new one lies, other half": {half, lies, ErrStorage},
		"the old one lies, other half": {lies, half, ErrStorage},
	} {
		s := newStorage(t)
		young := s.view()
		if err := s.FileStorage.Store(t.Context(), Landmark, nil); err != nil {
			t.Fatal(err)
		}
		s.on(tc.old)
		young.on(tc.young)
		var n Newest
		n.Use(s)
		n.Use(young)
		_, err := Bounded(&n, nil).Load(t.Context(), "a/key")
		if !errors.Is(err, tc.want) || errors.Is(err, fs.ErrNotExist) != (tc.want == fs.ErrNotExist) {
			t.Errorf("%s: %v, want %v", what, err, tc.want)
		}
	}
}

// TestNewestListsNothing: a closed storage that lists nothing, without an error, is not believed either.
func TestNewestListsNothing(t *testing.T) {
	s := newStorage(t)
	if err := s.FileStorage.Store(t.Context(), "a/key", nil); err != nil {
		t.Fatal(err)
	}
	closed := newStorage(t)
	closed.on(failing)
	var n Newest
	n.Use(s)
	n.Use(lister{closed, func() ([]string, error) { return nil, nil }})
	if keys, err := Bounded(&n, nil).List(t.Context(), "a", true); err != nil || len(keys) != 1 {
		t.Errorf("listed %q, %v", keys, err)
	}
}

// TestNewestAsksOnce: a storage that fails is asked once, though several blocks use it; and no other one
// is asked when nobody waits for its answer any more.
func TestNewestAsksOnce(t *testing.T) {
	s, other := newStorage(t), newStorage(t)
	s.on(failing)
	var n Newest
	releaseOther := n.Use(other)
	n.Use(s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Store(ctx, "a/key", nil); !errors.Is(err, errBroken) || other.countAll("") != 0 {
		t.Errorf("the time is over: %v, and another storage is asked", err)
	}
	releaseOther()
	n.Use(s)
	s.countAll("")
	if err := n.Store(t.Context(), "a/key", nil); !errors.Is(err, errBroken) || s.countAll("") != 1 {
		t.Errorf("%v; it was asked twice", err)
	}
}

// TestNewestOfAnyType: an engine may be of a type whose values cannot be compared.
func TestNewestOfAnyType(t *testing.T) {
	s, closed := newStorage(t), newStorage(t)
	closed.on(failing)
	var n Newest
	var releases []func()
	for _, s := range []*testStorage{s, s, closed} {
		releases = append(releases, n.Use(lister{s, func() ([]string, error) { return nil, nil }}))
	}
	if err := n.Store(t.Context(), "a/key", nil); err != nil || s.countAll("Store") != 1 {
		t.Errorf("%v, or it was not stored", err)
	}
	for _, release := range releases {
		release()
	}
	if err := n.Store(t.Context(), "a/key", nil); !errors.Is(err, errBroken) || s.countAll("") != 0 {
		t.Errorf("%v, or a storage that is given up is asked still", err)
	}
}

// TestNewestLocks: what was locked is unlocked where it was locked, whichever storage is the newest
// by then: each of two holders gives back its own, where an engine took the first one for stale.
func TestNewestLocks(t *testing.T) {
	var n Newest
	engines := make([]*testStorage, 4)
	for i := range engines {
		engines[i] = newStorage(t)
	}
	expect := func(what string, unlocks ...int) {
		t.Helper()
		for i, want := range unlocks {
			if got := engines[i].countAll("Unlock"); got != want {
				t.Errorf("%s: storage %d was unlocked %d times, want %d", what, i, got, want)
			}
		}
	}
	n.Use(engines[0])
	engines[1].on(func(method, _ string) error {
		if method == "Lock" {
			return errBroken
		}
		return nil
	})
	release := n.Use(engines[1])
	if err := n.Lock(t.Context(), "x"); err != nil { // at 0, since 1 fails
		t.Fatal(err)
	}
	release()
	n.Use(engines[2])
	if err := n.Lock(t.Context(), "x"); err != nil { // at 2, by a second holder
		t.Fatal(err)
	}
	n.Use(engines[3])
	expect("locked", 0, 0, 0, 0)
	_ = n.Unlock(t.Context(), "x")
	expect("the first holder is ready", 1, 0, 0, 0)
	_ = n.Unlock(t.Context(), "x")
	expect("the second holder is ready", 0, 0, 1, 0)
	if len(n.locked) != 0 {
		t.Errorf("%d locks are remembered", len(n.locked))
	}
	_ = n.Unlock(t.Context(), "x") // nobody holds it
	expect("nobody holds it", 0, 0, 0, 1)
}

// TestNewestAtOnce: however many calls are under way at each of many reloads, all of them succeed.
func TestNewestAtOnce(t *testing.T) {
	s := newStorage(t)
	var n Newest
	old := s.view()
	release := n.Use(old)
	b := Bounded(&n, func(_ string, err error) { t.Error(err) })
	var wg sync.WaitGroup
	var done atomic.Bool
	var calls [4]atomic.Int64
	for i := range calls {
		wg.Go(func() {
			name := fmt.Sprint("a/", i)
			for !done.Load() {
				value := fmt.Append(nil, calls[i].Add(1))
				if err := errors.Join(b.Lock(t.Context(), name), b.Store(t.Context(), name, value)); err != nil {
					t.Error(err)
				}
				if got, err := b.Load(t.Context(), name); err != nil || !bytes.Equal(got, value) {
					t.Errorf("%q, %v; want %q", got, err, value)
				}
				if _, err := b.Load(t.Context(), name+"x"); !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
				if err := b.Unlock(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	closed := func(method, key string) error {
		switch method {
		case "Unlock": // a lock is its storage's, closed or not
			return nil
		case "Load":
			return fs.ErrNotExist
		}
		return errBroken
	}
	for range 15 {
		next := s.view()
		releaseNext := n.Use(next)
		old.on(closed)
		release()
		for i := range calls { // a call meets one reload, not two
			met := calls[i].Load() + 2
			eventually(t, "two more calls", func() bool { return calls[i].Load() >= met || t.Failed() })
		}
		old, release = next, releaseNext
	}
	done.Store(true)
	wg.Wait()
}

// TestLearnFromTheNewest: ends are learned from the storage that has come since learning began.
func TestLearnFromTheNewest(t *testing.T) {
	dir := t.TempDir()
	now := newClock().Now()
	clock := newClock().steady()
	old := &testStorage{FileStorage: certmagic.FileStorage{Path: dir}}
	var n Newest
	n.Use(old)
	e := NewEnded(Bounded(&n, nil), clock)
	e.Begin()
	t.Cleanup(func() { _ = e.Destruct() })

	n.Use(&certmagic.FileStorage{Path: dir})
	old.on(failing)
	elsewhere := NewEnded(Bounded(&certmagic.FileStorage{Path: dir}, nil), clock)
	elsewhere.Begin()
	t.Cleanup(func() { _ = elsewhere.Destruct() })
	id := ID{1}
	if err := elsewhere.End(t.Context(), id, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := e.Learn(t.Context()); err != nil || !e.Has(id, now) {
		t.Errorf("an end is not learned, error %v", err)
	}
	if err := e.End(t.Context(), ID{2}, now.Add(time.Hour)); err != nil {
		t.Error(err)
	}
}
