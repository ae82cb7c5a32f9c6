package records

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestShelf: what is put can be got until it is swept, by whoever knows when that
// is.
func TestShelf(t *testing.T) {
	storage, clock := newStorage(t), newClock()
	s := NewShelf(storage, "shelf", clock.steady())
	expires := clock.Now().Add(2 * time.Hour)
	if err := s.Put(t.Context(), "a", expires, []byte("1")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "a", expires); err != nil || string(got) != "1" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.Get(t.Context(), "b", expires); err == nil {
		t.Error("there is a b")
	}
	if err := s.Put(t.Context(), "b", expires, []byte("2")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Find(t.Context(), "b", 0); err != nil || string(got) != "2" {
		t.Errorf("%q, %v", got, err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "b", expires); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Find(t.Context(), "b", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found what is not there: %v", err)
	}
	storage.on(func(method, _ string) error {
		if method == "List" {
			return errBroken
		}
		return nil
	})
	if _, err := s.Find(t.Context(), "a", 0); !errors.Is(err, errBroken) {
		t.Errorf("not found in a storage that fails: %v", err)
	}
	storage.on(nil)
	s.sweepNow(t.Context(), hourOf(expires))
	if _, err := s.Get(t.Context(), "a", expires); err != nil {
		t.Errorf("swept too early: %v", err)
	}
	s.sweepNow(t.Context(), hourOf(expires)+1)
	if _, err := s.Get(t.Context(), "a", expires); err == nil {
		t.Error("not swept")
	}
}

// TestShelfHours: what is on the shelf is found in whichever hour it is filed, among
// the hours that do not have it, and each hour is swept once it is over.
func TestShelfHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
		storage, clock := newStorage(t), newClock()
		s := NewShelf(storage, "shelf", clock.steady())
		put := func(id string, in time.Duration) time.Time {
			t.Helper()
			expires := clock.Now().Add(in)
			if err := s.Put(t.Context(), id, expires, []byte(id)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // by when a sweep has ended whose listing the Put disturbed
			return expires
		}
		ends := make(map[string]time.Time)
		for id, in := range map[string]time.Duration{
			"a": 0, "b": time.Hour - time.Second, "c": time.Hour, "d": 3 * time.Hour,
		} {
			ends[id] = put(id, in)
		}
		// Strangers' files: neither an hour nor a value.
		for _, key := range []string{"shelf/.DS_Store", "shelf/notes/a"} {
			if err := storage.FileStorage.Store(t.Context(), key, []byte("no value")); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(when, want string) {
			t.Helper()
			var all []string
			if err := s.Each(t.Context(), func(id string, value []byte) error {
				if id != string(value) {
					t.Errorf("%s: %q has the value %q", when, id, value)
				}
				all = append(all, id)
				return nil
			}); err != nil {
				t.Error(err)
			}
			slices.Sort(all)
			if !slices.Equal(all, splitted(want)) {
				t.Errorf("%s: there are %q, want %q", when, all, want)
			}
			for _, id := range slices.Sorted(maps.Keys(ends)) {
				found, findErr := s.Find(t.Context(), id, 90*time.Minute)
				got, getErr := s.Get(t.Context(), id, ends[id])
				if slices.Contains(splitted(want), id) {
					if err := errors.Join(findErr, getErr); err != nil || string(found) != id || string(got) != id {
						t.Errorf("%s: %q: found %q, got %q, %v", when, id, found, got, err)
					}
				} else if !errors.Is(findErr, fs.ErrNotExist) || !errors.Is(getErr, fs.ErrNotExist) {
					t.Errorf("%s: %q is there: found %q, got %q, %v, %v", when, id, found, got, findErr, getErr)
				}
			}
		}
		expect("at first", "abcd")
		clock.Add(time.Hour + ClockSkew - time.Second)
		ends["e"] = put("e", time.Hour)
		expect("the first hour has just ended, here", "abcde")
		clock.Add(time.Second)
		put("e", time.Hour)
		expect("within the same hour", "abcde") // it was swept a second ago
		clock.Add(time.Hour)
		ends["f"] = put("f", time.Hour)
		expect("the second hour has ended by every clock", "def")
		// What comes after a sweep, into an hour that is over, is kept until the next.
		ends["a"] = put("a", -2*time.Hour)
		expect("put late", "adef")
		clock.Add(time.Hour)
		ends["g"] = put("g", time.Hour)
		expect("the next sweep", "dfg")
	})
}

// splitted returns the letters of a string.
func splitted(s string) []string {
	var all []string
	for _, r := range s {
		all = append(all, string(r))
	}
	return all
}

// TestShelfPutAgain: of a value that is put twice, the second counts, and it is
// deleted once for both.
func TestShelfPutAgain(t *testing.T) {
	s, ctx := NewShelf(newStorage(t), "shelf", newClock().steady()), t.Context()
	expires := s.clock.Now().Add(time.Hour)
	for _, value := range []string{"first", "second"} {
		if err := s.Put(ctx, "a", expires, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(ctx, "a", expires); err != nil || string(got) != value {
			t.Errorf("%q, %v; want %q", got, err, value)
		}
	}
	if err := s.Delete(ctx, "a", expires); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, "a", expires); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted: %q, %v", got, err)
	}
	if err := s.Put(ctx, "a", expires, []byte("third")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Find(ctx, "a", 0); err != nil || string(got) != "third" {
		t.Errorf("put after it was deleted: %q, %v", got, err)
	}
}

// TestShelfFails: a storage that fails, if only for one key, is not one in which
// something is missing; and one in which something has gone meanwhile does not fail.
func TestShelfFails(t *testing.T) {
	storage, clock := newStorage(t), newClock()
	s, ctx := NewShelf(storage, "shelf", clock.steady()), t.Context()
	ids := []string{"a", "b", "c"} // in hours of their own
	ends := func(n int) time.Time { return clock.Now().Add(time.Duration(n) * time.Hour) }
	for n, id := range ids {
		if err := s.Put(ctx, id, ends(n), []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(err error) {
		storage.on(func(method, key string) error {
			if method != "List" && path.Base(key) == "b" {
				return err
			}
			return nil
		})
	}
	each := func() (all []string, err error) {
		err = s.Each(ctx, func(id string, _ []byte) error { all = append(all, id); return nil })
		slices.Sort(all)
		return all, err
	}
	answer(errBroken)
	if all, err := each(); !errors.Is(err, errBroken) {
		t.Errorf("a key that cannot be read: all are %q, %v", all, err)
	}
	if value, err := s.Find(ctx, "b", 0); !errors.Is(err, errBroken) {
		t.Errorf("a key that cannot be read: found %q, %v", value, err)
	}
	if err := s.Delete(ctx, "b", ends(1)); !errors.Is(err, errBroken) {
		t.Errorf("a key that cannot be deleted: %v", err)
	}
	if err := s.Put(ctx, "b", ends(1), nil); !errors.Is(err, errBroken) {
		t.Errorf("a key that cannot be written: %v", err)
	}
	answer(fs.ErrNotExist)
	if all, err := each(); err != nil || !slices.Equal(all, []string{"a", "c"}) {
		t.Errorf("a key that has gone: all are %q, %v", all, err)
	}
	if value, err := s.Find(ctx, "b", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that has gone: found %q, %v", value, err)
	}
	for range 2 {
		if err := s.Delete(ctx, "b", ends(1)); err != nil {
			t.Errorf("a key that has gone, in an engine that says so: %v", err)
		}
	}

	// A listing that is cut short is not all.
	cut := func() ([]string, error) { return []string{s.key("a", ends(0))}, errBroken }
	short := NewShelf(lister{storage, cut}, "shelf", clock.steady())
	if err := short.Each(ctx, func(string, []byte) error { return nil }); !errors.Is(err, errBroken) {
		t.Errorf("all of a listing that is cut short: %v", err)
	}
	if value, err := short.Find(ctx, "c", 0); !errors.Is(err, errBroken) {
		t.Errorf("found %q in a listing that is cut short, %v", value, err)
	}
}

// fill puts n values on a shelf in files, and does not wait until they are on the disk.
func fill(t *testing.T, storage *testStorage, s *Shelf, expires time.Time, n int) {
	t.Helper()
	for i := range n {
		name := storage.Filename(s.key(strconv.Itoa(i), expires))
		err := os.MkdirAll(filepath.Dir(name), 0o700)
		if err == nil {
			err = os.WriteFile(name, []byte("value"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestShelfAtOnce: all values are read at a bounded number at a time, and given one after the other, until the one
// that is given them has had enough.
func TestShelfAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, clock := newStorage(t), newClock()
		s := NewShelf(storage, "shelf", clock.steady())
		const n = 4 * loadsAtOnce * eachInCall
		fill(t, storage, s, clock.Now(), n)
		storage.on(func(method, _ string) error {
			if method == "Load" {
				time.Sleep(time.Second)
			}
			return nil
		})
		began, all, isBusy := time.Now(), make(map[string]bool), false
		err := s.Each(t.Context(), func(id string, value []byte) error {
			if isBusy {
				t.Error("two values are given at once")
			}
			isBusy = true
			all[id+string(value)] = true
			isBusy = false
			return nil
		})
		if took := time.Since(began); err != nil || len(all) != n || took/eachInCall != 4*time.Second {
			t.Errorf("%d of %d values within %s, %v", len(all), n, took, err)
		}
		storage.countAll("")
		enough := errors.New("enough")
		if err := s.Each(t.Context(), func(string, []byte) error { return enough }); err != enough {
			t.Error(err)
		}
		if loads := storage.countAll("Load"); loads > 2*loadsAtOnce*eachInCall {
			t.Errorf("%d values were loaded for one", loads)
		}
		t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
	})
}

// TestEachInOneCall: of values that are loaded in one call, one that has gone meanwhile, one that cannot be read, and
// many that take long in all count as they do alone; and a storage that hangs is given up on.
func TestEachInOneCall(t *testing.T) {
	const n = loadsAtOnce * eachInCall
	for what, of := range map[string]struct {
		takes time.Duration
		b     error // the answer for one of the values
		want  int
		err   error
	}{
		"all":           {0, nil, n, nil},
		"one has gone":  {0, fs.ErrNotExist, n - 1, nil},
		"one is broken": {0, errBroken, -1, errBroken},
		"slow":          {storageTimeout / 2, nil, n, nil},
		"too slow":      {learnTimeout / (eachInCall - 1), nil, 0, errNoAnswer},
	} {
		synctest.Test(t, func(t *testing.T) {
			storage, clock := newStorage(t), newClock()
			s := NewShelf(Bounded(storage, nil), "shelf", clock.steady())
			fill(t, storage, s, clock.Now(), n)
			storage.on(func(method, key string) error {
				if method == "Load" && strings.HasPrefix(key, s.dir(s.of(clock.Now()))) {
					time.Sleep(of.takes)
					if path.Base(key) == "100" {
						return of.b
					}
				}
				return nil
			})
			got := 0
			err := s.Each(t.Context(), func(string, []byte) error { got++; return nil })
			if !errors.Is(err, of.err) || got != of.want && of.want >= 0 {
				t.Errorf("%s: %d values, %v", what, got, err)
			}
			time.Sleep(2 * learnTimeout) // until the engine has answered all
		})
	}
}

// TestFindListsNothing: what expires within the time that is given is found without a listing, which costs more the
// more there is.
func TestFindListsNothing(t *testing.T) {
	storage, clock := newStorage(t), newClock()
	s := NewShelf(storage, "shelf", clock.steady())
	for id, hours := range map[string]int{"a": 0, "b": 23, "c": 24, "d": 900} {
		expires := clock.Now().Add(time.Duration(hours) * time.Hour)
		if err := s.Put(t.Context(), id, expires, []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nothing is swept any more", s.work.TryLock)
	for id, isListed := range map[string]bool{"a": false, "b": false, "c": false, "d": true} {
		storage.countAll("")
		if value, err := s.Find(t.Context(), id, 24*time.Hour); err != nil || string(value) != id {
			t.Errorf("found %q, %v", value, err)
		}
		if n := storage.countAll("List"); n > 0 != isListed {
			t.Errorf("%s: %d listings", id, n)
		}
	}
	storage.countAll("")
	if _, err := s.Find(t.Context(), "e", 10_000*time.Hour); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if n := storage.countAll("Load"); n > soughtFor+4 {
		t.Errorf("%d keys were asked for", n)
	}
}

// TestEachIsPatient: a listing of all values may take longer than a call that a visitor waits for, and not for ever.
func TestEachIsPatient(t *testing.T) {
	for _, takes := range []time.Duration{learnTimeout - time.Second, learnTimeout + time.Second} {
		synctest.Test(t, func(t *testing.T) {
			clock, files := newClock(), newStorage(t)
			s := NewShelf(Bounded(lister{files, func() ([]string, error) {
				time.Sleep(takes)
				return files.FileStorage.List(t.Context(), "shelf", true)
			}}, nil), "shelf", clock.steady())
			if err := s.Put(t.Context(), "a", clock.Now().Add(time.Hour), []byte("a")); err != nil {
				t.Fatal(err)
			}
			if err := files.Store(t.Context(), path.Join("shelf", landmarkFolder, "1"), []byte{1}); err != nil {
				t.Fatal(err)
			}
			n := 0
			err := s.Each(t.Context(), func(string, []byte) error { n++; return nil })
			if isListed := takes < learnTimeout; (err == nil) != isListed || (n == 1) != isListed {
				t.Errorf("a listing of %s: %d values, %v", takes, n, err)
			}
			time.Sleep(2 * learnTimeout) // until the engine has answered the sweep, too
		})
	}
}
