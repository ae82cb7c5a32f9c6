package records

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// A storage that fails during a sweep is left in peace, and the next one does
// what is left.
func TestSweepFails(t *testing.T) {
	s, clock := newStorage(t), newClock()
	for hour := range 3 {
		newProcess(s, clock).expect(t, true, "code"+strconv.Itoa(hour), "state"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	clock.Add(24 * time.Hour)
	place, oldest := newPeriods(s, clock.steady(), "test/spent", time.Hour), hourOf(clock.Now())-2
	var deletes atomic.Int64
	s.on(func(m, _ string) error {
		if m == "Delete" {
			deletes.Add(1)
			return errBroken
		}
		return nil
	})
	place.sweepNow(t.Context(), oldest)
	if n := deletes.Load(); n > 2 {
		t.Errorf("asked a failing storage %d times", n)
	}
	// That somebody else was faster is no failure: three hours, each of a file
	// in a directory, are tried.
	s.on(func(m, _ string) error {
		if m == "Delete" {
			deletes.Add(1)
			return fs.ErrNotExist
		}
		return nil
	})
	deletes.Store(0)
	place.sweepNow(t.Context(), oldest)
	if n := deletes.Load(); n < 6 {
		t.Errorf("tried to delete %d times, want 6", n)
	}
	s.on(nil)
	place.sweepNow(t.Context(), oldest)
	if dirs, _ := os.ReadDir(filepath.Join(s.Path, "test", "spent")); len(dirs) != 0 {
		t.Errorf("%d hours are left", len(dirs))
	}
}

// TestSweepOfMany: to list and to delete what a busy hour left may take longer than a
// request waits, and is done all the same.
func TestSweepOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, clock := newStorage(t), newClock()
		s := NewShelf(Bounded(storage, nil), "shelf", clock.steady())
		if err := s.Put(t.Context(), "a", clock.Now(), []byte("1")); err != nil {
			t.Fatal(err)
		}
		storage.on(func(method, _ string) error {
			if method == "List" || method == "Delete" {
				time.Sleep(4 * storageTimeout)
			}
			return nil
		})
		s.sweepNow(t.Context(), hourOf(clock.Now())+1)
		storage.on(nil)
		if _, err := s.Get(t.Context(), "a", clock.Now()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not swept: %v", err)
		}
	})
}

// place is a place with a key in each of three periods, which a test can look into.
type place struct {
	*periods
	s     *testStorage
	clock *testClock
}

func newPlace(t *testing.T, each time.Duration, wrap func(*testStorage) certmagic.Storage) *place {
	s := newStorage(t)
	clock := new(testClock)
	p := &place{newPeriods(wrap(s), clock.steady(), "place", each), s, clock}
	for _, period := range []int64{0, 1, 2} {
		p.put(t, period)
	}
	return p
}

// sweep sweeps at a time that both clocks agree on.
func (p *place) sweep(ctx context.Context, now, oldest time.Time) bool {
	p.clock.now.Store(now.Unix())
	return p.periods.sweep(ctx, now, oldest)
}

func asIs(s *testStorage) certmagic.Storage { return s }

func (p *place) put(t *testing.T, period int64) {
	t.Helper()
	if err := p.s.FileStorage.Store(t.Context(), path.Join(p.dir(period), "key"), []byte{1}); err != nil {
		t.Fatal(err)
	}
}

// left returns the periods that are there.
func (p *place) left(t *testing.T) string {
	t.Helper()
	dirs, err := os.ReadDir(filepath.Join(p.s.Path, "place"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, dir := range dirs {
		names = append(names, dir.Name())
	}
	return strings.Join(names, " ")
}

// TestSweepEachPeriod: a sweep is due once a period, from its first second to its
// last, time and again; it takes the periods that had ended by then, and no other.
func TestSweepEachPeriod(t *testing.T) {
	for _, each := range []time.Duration{time.Hour, latelyEach} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlace(t, each, asIs)
			at := func(period int64, into time.Duration) time.Time {
				return time.Unix(period*int64(each/time.Second), 0).Add(into)
			}
			for n, step := range []struct {
				now, oldest time.Time
				isDue       bool
				left        string
			}{
				{at(10, 0), at(0, each-time.Second), true, "0 1 2"},
				{at(10, each-time.Second), at(9, 0), false, "0 1 2"},
				{at(11, 0), at(1, 0), true, "1 2"},
				{at(11, 0), at(9, 0), false, "1 2"},
				{at(12, each-time.Second), at(1, each-time.Second), true, "1 2"},
				{at(13, 0), at(2, each-time.Second), true, "2"},
				{at(12, 0), at(2, 0), true, "2"}, // the clock was set back
				{at(90, 0), at(80, 0), true, ""},
			} {
				if isDue := p.sweep(t.Context(), step.now, step.oldest); isDue != step.isDue {
					t.Errorf("step %d: due %v", n, isDue)
				}
				if synctest.Wait(); p.left(t) != step.left {
					t.Errorf("step %d: left are %q, want %q", n, p.left(t), step.left)
				}
			}
		})
	}
}

// TestSweepAfterFailure: a sweep that fails half-way is not tried again at each
// request, but in the next period, and then it does all that is left.
func TestSweepAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t, time.Hour, asIs)
		var deletes atomic.Int64
		p.s.on(func(method, key string) error {
			if method == "Delete" {
				deletes.Add(1)
				if strings.HasPrefix(key, "place/1") {
					return errBroken
				}
			}
			return nil
		})
		hour := func(n int64) time.Time { return time.Unix(n*3600, 0) }
		for range 10 {
			p.sweep(t.Context(), hour(10), hour(9))
			synctest.Wait()
		}
		if p.left(t) != "1 2" || deletes.Load() != 3 { // a file and its directory; a file
			t.Errorf("%q are left after %d deletions", p.left(t), deletes.Load())
		}
		p.s.on(nil)
		p.put(t, 0) // and what has come late
		p.sweep(t.Context(), hour(11), hour(9))
		if synctest.Wait(); p.left(t) != "" {
			t.Errorf("%q are left by the next sweep", p.left(t))
		}

		// One that cannot even list is no different.
		p.put(t, 3)
		p.s.on(func(string, string) error { return errBroken })
		p.sweep(t.Context(), hour(12), hour(9))
		synctest.Wait()
		p.s.on(nil)
		p.sweep(t.Context(), hour(12), hour(9))
		if synctest.Wait(); p.left(t) != "3" {
			t.Errorf("%q are left in the same period", p.left(t))
		}
		p.sweep(t.Context(), hour(13), hour(9))
		if synctest.Wait(); p.left(t) != "" {
			t.Errorf("%q are left by the next sweep", p.left(t))
		}
	})
}

// TestSweepKeepsWhatItCannotDelete: where a key cannot be deleted, its directory is
// not deleted over it.
func TestSweepKeepsWhatItCannotDelete(t *testing.T) {
	p := newPlace(t, time.Hour, asIs)
	p.s.on(func(method, key string) error {
		if method == "Delete" && path.Base(key) == "key" {
			return errBroken
		}
		return nil
	})
	p.sweepNow(t.Context(), 3)
	if p.left(t) != "0 1 2" {
		t.Errorf("%q are left", p.left(t))
	}
}

// TestSweepDisturbed: another instance sweeps at the same time, so that with files
// each listing of this one breaks off: it goes on all the same.
func TestSweepDisturbed(t *testing.T) {
	p := newPlace(t, time.Hour, asIs)
	var listed atomic.Int64
	p.s.on(func(method, _ string) error {
		if method == "List" && listed.Add(1)%2 == 1 {
			return fs.ErrNotExist
		}
		return nil
	})
	if p.sweepNow(t.Context(), 2); p.left(t) != "2" {
		t.Errorf("%q are left", p.left(t))
	}
	// The other has finished a period first.
	p.put(t, 0)
	p.put(t, 1)
	p.s.on(func(method, key string) error {
		if method == "List" && key == "place/0" {
			return os.RemoveAll(p.s.Filename(key))
		}
		return nil
	})
	if p.sweepNow(t.Context(), 2); p.left(t) != "2" {
		t.Errorf("%q are left where another was faster", p.left(t))
	}
}

// TestSweepHangs: no request waits for a sweep. While the storage hangs, one sweep
// waits for it, however many periods pass, and the sweeps go on when it is back.
func TestSweepHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t, time.Hour, func(s *testStorage) certmagic.Storage { return Bounded(s, nil) })
		release := make(chan struct{})
		var hanging atomic.Int64
		p.s.on(func(string, string) error {
			hanging.Add(1)
			<-release
			return nil
		})
		hour := func(n int64) time.Time { return time.Unix(n*3600, 0) }
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		for n := range int64(20) {
			p.sweep(ctx, hour(10+n), hour(2))
			synctest.Wait()
		}
		if waited := time.Since(begun); waited != 0 || hanging.Load() != 1 {
			t.Errorf("the requests waited %v, and %d calls of the storage hang", waited, hanging.Load())
		}
		cancel()
		close(release)
		if synctest.Wait(); p.left(t) != "2" {
			t.Errorf("%q are left by the sweep that hung, whose request is over", p.left(t))
		}
		p.sweep(t.Context(), hour(40), hour(3))
		if synctest.Wait(); p.left(t) != "" {
			t.Errorf("%q are left by the next sweep", p.left(t))
		}
	})
}

// TestList: what is listed is all that there is, or an error.
func TestList(t *testing.T) {
	all := []string{"place/0", "place/1", "place/2"}
	for what, tc := range map[string]struct {
		answers []error // of the storage's List, after which it succeeds
		stat    error
		keys    []string
		err     error
	}{
		"at once":                  {nil, nil, all, nil},
		"cut short twice":          {[]error{fs.ErrNotExist, fs.ErrNotExist}, nil, all, nil},
		"cut short by an error":    {[]error{errBroken}, nil, nil, errBroken},
		"cut short, then an error": {[]error{fs.ErrNotExist, errBroken}, nil, nil, errBroken},
		"cut short each time":      {slices.Repeat([]error{fs.ErrNotExist}, listTries), nil, nil, ErrStorage},
		"nothing there":            {[]error{fs.ErrNotExist}, fs.ErrNotExist, nil, nil},
		"it cannot be told":        {[]error{fs.ErrNotExist}, errBroken, nil, errBroken},
	} {
		p := newPlace(t, time.Hour, asIs)
		tries := 0
		p.s.on(func(method, _ string) error {
			if method == "Stat" {
				return tc.stat
			}
			return nil
		})
		cut := lister{p.s, func() ([]string, error) {
			if tries++; tries <= len(tc.answers) {
				return all[:1], tc.answers[tries-1]
			}
			return all, nil
		}}
		keys, err := list(t.Context(), cut, "place", false)
		if !errors.Is(err, tc.err) || tc.err == nil && !slices.Equal(keys, tc.keys) {
			t.Errorf("%s: %q, %v; want %q, %v", what, keys, err, tc.keys, tc.err)
		}
	}
}
