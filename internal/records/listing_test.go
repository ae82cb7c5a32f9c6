package records

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/enginetest"
)

// onKinds runs a test on each kind of engine. Each call of open returns another instance's storage.
func onKinds(t *testing.T, test func(t *testing.T, data *enginetest.Data, open func() certmagic.Storage)) {
	for name, kind := range enginetest.Kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := enginetest.New()
			test(t, data, func() certmagic.Storage {
				return Bounded(data.Open(kind),
					func(operation string, err error) { t.Errorf("told of %s: %v", operation, err) })
			})
		})
	}
}

// TestKindsOfListings: whichever way an engine lists, codes are used once, ends are learned, also by
// those that start later, sessions are found, listed and deleted, and what is old is swept.
func TestKindsOfListings(t *testing.T) {
	onKinds(t, func(t *testing.T, data *enginetest.Data, open func() certmagic.Storage) {
		clock := newClock()
		// Others' keys, some of which look like those here.
		for _, key := range []string{
			"certificates/ca/example.com/example.com.crt", "aventus_auth/spentlike/1/a",
			fmt.Sprintf("aventus_auth/spent/%d1/stranger", hourOf(clock.Now())), "aventus_auth/ended/all1/1/a",
			"shelf2/1/a",
		} {
			data.Put(key, []byte("another's"))
		}

		instance := func() *process { return &process{NewOnce(open(), "aventus_auth/spent", keep, clock.steady())} }
		a, b := instance(), instance()
		a.expect(t, true, "one")
		b.expect(t, false, "one")
		b.expect(t, true, "two")
		a.expect(t, false, "two")
		instance().expect(t, false, "two")
		for number := range 5 { // more than one journal holds
			a.useMany(t, true, number)
		}
		for _, p := range []*process{a, b, instance()} {
			p.useMany(t, false, 0)
			p.useMany(t, false, 4)
		}
		clock.Add(time.Hour)
		a.aside.sweepNow(t.Context(), hourOf(clock.Now())-1)
		instance().useMany(t, false, 0)
		a.aside.sweepNow(t.Context(), hourOf(clock.Now()))
		if keys := data.Keys(); slices.ContainsFunc(keys, func(key string) bool {
			return strings.HasPrefix(key, "aventus_auth/more-spent/")
		}) {
			t.Error("what was put aside is not swept")
		}

		ended := func() *Ended { return NewEnded(open(), clock.steady()) }
		first, second := ended(), ended()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(errors.Join(first.Learn(t.Context()), second.Learn(t.Context())))
		must(first.End(t.Context(), ID{1}, clock.Now().Add(10*time.Hour)))
		must(second.Learn(t.Context()))
		if !second.Has(ID{1}, clock.Now()) {
			t.Error("another instance does not learn what has ended")
		}
		clock.Add(2 * time.Hour)
		third := ended()
		must(third.Learn(t.Context()))
		if !third.Has(ID{1}, clock.Now()) {
			t.Error("after a restart, what has ended has not")
		}

		shelf := NewShelf(open(), "shelf", clock.steady())
		expires := clock.Now().Add(time.Hour)
		for _, id := range []string{"a", "b"} {
			must(shelf.Put(t.Context(), id, expires, []byte(id)))
		}
		other := NewShelf(open(), "shelf", clock.steady())
		all := make(map[string]bool)
		must(other.Each(t.Context(), func(id string, value []byte) error { all[id+string(value)] = true; return nil }))
		if len(all) != 2 || !all["aa"] || !all["bb"] {
			t.Errorf("all are %v", all)
		}
		if value, err := other.Find(t.Context(), "b", time.Hour); err != nil || string(value) != "b" {
			t.Errorf("found %q, %v", value, err)
		}
		if _, err := other.Find(t.Context(), "c", time.Hour); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("found what is not there: %v", err)
		}
		other.sweepNow(t.Context(), hourOf(expires))
		if _, err := other.Get(t.Context(), "a", expires); err != nil {
			t.Errorf("swept too early: %v", err)
		}
		other.sweepNow(t.Context(), hourOf(expires)+1)
		if _, err := other.Get(t.Context(), "a", expires); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not swept: %v", err)
		}
		for _, key := range []string{
			"aventus_auth/spentlike/1/a", "shelf2/1/a", "certificates/ca/example.com/example.com.crt",
		} {
			if !slices.Contains(data.Keys(), key) {
				t.Errorf("%s is gone", key)
			}
		}
	})
}

// TestBlindListing: where a listing does not show what is stored, no end is taken for learned, no code for
// unused, no session for missing, and it is said.
func TestBlindListing(t *testing.T) {
	for name, list := range map[string]func(keys []string, dir string, recursive bool) ([]string, error){
		"nothing": func([]string, string, bool) ([]string, error) { return nil, nil },
		"others' keys": func([]string, string, bool) ([]string, error) {
			return []string{"certificates/a", "aventus_auth/spent/1/a", "aventus_auth/ended/lately/1/a", "shelf/1/a"},
				nil
		},
		"no such folder": func([]string, string, bool) ([]string, error) { return nil, fs.ErrNotExist },
		"not supported":  func([]string, string, bool) ([]string, error) { return nil, errors.ErrUnsupported },
	} {
		var told atomic.Int32
		storage := Bounded(enginetest.New().Open(enginetest.Kind{List: list}), func(string, error) { told.Add(1) })
		clock := newClock()
		once := NewOnce(storage, "aventus_auth/spent", keep, clock.steady())
		if ok, err := once.Use(ID{1}); ok || !errors.Is(err, ErrStorage) {
			t.Errorf("%s: a use: %v, %v", name, ok, err)
		}
		before := told.Load()
		if err := NewEnded(storage, clock.steady()).Learn(t.Context()); !errors.Is(err, ErrStorage) ||
			told.Load() == before {
			t.Errorf("%s: learning what has ended: %v; told %d times", name, err, told.Load()-before)
		}
		ended := NewEnded(storage, clock.steady())
		_ = ended.Learn(t.Context())
		if err := ended.End(t.Context(), ID{1}, clock.Now().Add(time.Hour)); !errors.Is(err, ErrStorage) ||
			!ended.IsUnwritten(ID{1}) {
			t.Errorf("%s: an end that others may not see: %v, unwritten %t", name, err, ended.IsUnwritten(ID{1}))
		}
		shelf := NewShelf(storage, "shelf", clock.steady())
		if err := shelf.Put(t.Context(), "a", clock.Now(), []byte("a")); err != nil {
			t.Fatal(err)
		}
		if _, err := shelf.Find(t.Context(), "b", time.Hour); !errors.Is(err, ErrStorage) {
			t.Errorf("%s: finding a session: %v", name, err)
		}
		if err := shelf.Each(t.Context(), func(string, []byte) error { return nil }); !errors.Is(err, ErrStorage) {
			t.Errorf("%s: listing sessions: %v", name, err)
		}
	}
}

// TestListingIsRemembered: an engine that refuses recursive listings is asked for one once.
func TestListingIsRemembered(t *testing.T) {
	refused := 0
	data := enginetest.New()
	kind := enginetest.Kinds["refuses recursive listings"]
	asks := kind.List
	kind.List = func(keys []string, dir string, recursive bool) ([]string, error) {
		if recursive {
			refused++
		}
		return asks(keys, dir, recursive)
	}
	e := NewEnded(Bounded(data.Open(kind), nil), newClock().steady())
	for range 5 {
		if err := e.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if refused != 1 {
		t.Errorf("asked %d times", refused)
	}
}

// TestListingOfAnotherStorage: of two storages in one bucket, one below the other, a listing that ignores the
// prefix shows both, and only the keys of one's own count.
func TestListingOfAnotherStorage(t *testing.T) {
	got := below([]string{
		"acme/two/place/1/a", "acme/place/1/b", "acme/two/place/1/c", `acme\place\2\d`, "acme/place/", "acme/place",
		"place1/1/e", "acme/place/1/b",
	}, "place")
	if want := []string{"1/b", "2/d"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestListingOutOfOrder: an engine that lists all that lies below a folder, and in any order, shows each name in it
// once.
func TestListingOutOfOrder(t *testing.T) {
	storage := lister{newStorage(t), func() ([]string, error) {
		return []string{"a/2/x", "a/1/x", "a/2/y", "a/1"}, nil
	}}
	names, err := Bounded(storage, nil).List(t.Context(), "a", false)
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"a/1", "a/2"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// TestListingHangs: an engine whose listing is not answered is not asked for the other kind of listing too.
func TestListingHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		storage := lister{newStorage(t), func() ([]string, error) {
			asked.Add(1)
			time.Sleep(2 * storageTimeout)
			return nil, context.DeadlineExceeded
		}}
		if _, err := Bounded(storage, nil).List(t.Context(), "a", true); !errors.Is(err, ErrStorage) {
			t.Error(err)
		}
		time.Sleep(10 * storageTimeout)
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestLockThatIsRefused: where an engine refuses a lock that is held, it is waited for all the same, within the
// bounds, and an engine that is down is not asked again and again.
func TestLockThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := enginetest.New()
		kind := enginetest.Kind{Lock: enginetest.Impatient}
		a, b := Bounded(data.Open(kind), nil), Bounded(data.Open(kind), nil)
		if _, err := a.Load(t.Context(), "nothing"); !errors.Is(err, fs.ErrNotExist) { // leaves the landmark
			t.Fatal(err)
		}
		if err := a.Lock(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := b.Lock(t.Context(), "one"); !errors.Is(err, ErrStorage) || time.Since(begun) != storageTimeout {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		time.AfterFunc(time.Second, func() { _ = a.Unlock(context.Background(), "one") })
		begun = time.Now()
		if err := b.Lock(t.Context(), "one"); err != nil || time.Since(begun) > 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		s := newStorage(t)
		s.on(failing)
		if err := Bounded(s, nil).Lock(t.Context(), "one"); !errors.Is(err, errBroken) {
			t.Error(err)
		}
		if n := s.countAll("Lock"); n != 1 {
			t.Errorf("an engine that is down was asked %d times", n)
		}
	})
}

// folders is a storage that shows folders alone where it is asked for all keys, and fails to list one of them.
type folders struct{ certmagic.Storage }

func (folders) List(_ context.Context, dir string, _ bool) ([]string, error) {
	switch dir {
	case "place":
		return []string{"place/1", "place/2"}, nil
	case "place/1":
		return []string{"place/1/a"}, nil
	}
	return nil, errors.New("it fails")
}

// TestListingFailsInPart: a listing that is put together of several is an error where one of them fails.
func TestListingFailsInPart(t *testing.T) {
	if keys, err := (&verified{Storage: folders{}}).List(t.Context(), "place", true); err == nil {
		t.Errorf("listed %q", keys)
	}
}
