package records

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/enginetest"
)

// endMany ends so many ids of a kind.
func endMany(t testing.TB, e *Ended, clock *testClock, kind byte, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for first := range 8 {
		wg.Go(func() {
			for i := first; i < n; i += 8 {
				if err := e.End(t.Context(), numbered(kind, i), clock.Now().Add(10*time.Hour)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func numbered(kind byte, i int) ID { return ID{byte(i), byte(i >> 8), byte(i >> 16), kind} }

// knows fails the test unless an instance knows so many ends of a kind.
func knows(t *testing.T, what string, e *Ended, clock *testClock, kind byte, n int) {
	t.Helper()
	known := 0
	for i := range n {
		if e.Has(numbered(kind, i), clock.Now()) {
			known++
		}
	}
	if known != n {
		t.Errorf("%s: %d of %d ends are known", what, known, n)
	}
}

// filedAt counts the keys of ends at both places: single ones and folded ones.
func filedAt(t testing.TB, storage certmagic.Storage) (single, folded int) {
	t.Helper()
	for _, place := range []string{"aventus_auth/ended/all", "aventus_auth/ended/lately"} {
		keys, err := List(t.Context(), storage, place)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, key := range keys {
			if _, ok := parseFiled(path.Base(key)); ok {
				single++
			} else if _, ok := parseFolded(path.Base(key)); ok {
				folded++
			}
		}
	}
	return single, folded
}

// tick does for an instance what is done every LearnInterval, and waits until it is done.
func tick(t testing.TB, e *Ended) {
	t.Helper()
	if err := e.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	foldAll(t, e)
}

// foldAll folds what there is to fold.
func foldAll(t testing.TB, e *Ended) {
	e.all.foldNow(t.Context())
	e.lately.foldNow(t.Context())
}

// TestStrangeNames: what lies among the ends and is not named as one of them, or as several, is none.
func TestStrangeNames(t *testing.T) {
	id := strings.Repeat("0a", len(ID{}))
	for name, is := range map[string][2]bool{ // one, several
		"1800000000-" + id + "-0":           {true, false},
		"1800000000-" + id + "--1":          {true, false},
		"later-" + id + "-0":                {},
		"1800000000-" + id + "-":            {},
		"1800000000-" + id + "-0.tmp":       {},
		"1800000000-" + id[2:] + "-0":       {},
		"1800000000-" + id + "0a-0":         {},
		"1800000000-" + id + "zz-0":         {},
		"1800000000-" + id:                  {},
		foldedName + "-300-" + id:           {false, true},
		foldedName + "-many-" + id:          {},
		foldedName + "-300-" + id[2:]:       {},
		foldedName + "-300-" + id + "-0":    {},
		"un" + foldedName + "-300-" + id:    {},
		"99999999999999999999-" + id + "-0": {},
	} {
		one, isOne := parseFiled(name)
		n, isSeveral := parseFolded(name)
		if isOne != is[0] || isSeveral != is[1] || !isOne && one != (filed{}) || isSeveral && n != 300 {
			t.Errorf("%s: one %t, %v, several %t, %d", name, isOne, one, isSeveral, n)
		}
	}
}

// TestFolded: many ends take few keys, at both places, and are known to those that run and to those that start,
// before, while and after the single keys go; with every kind of engine.
func TestFolded(t *testing.T) {
	onKinds(t, func(t *testing.T, _ *enginetest.Data, open func() certmagic.Storage) {
		clock, storage := newClock(), open()
		ended := func() *Ended { return NewEnded(open(), clock.steady()) }
		here, there := NewEnded(storage, clock.steady()), ended()
		const n = foldFrom
		check := func(when string, single, folded int) {
			t.Helper()
			late := ended()
			if err := errors.Join(there.Learn(t.Context()), late.Learn(t.Context())); err != nil {
				t.Fatal(err)
			}
			knows(t, when+", by one that runs", there, clock, 1, n)
			knows(t, when+", by one that starts", late, clock, 1, n)
			if s, f := filedAt(t, storage); s != single || f != folded {
				t.Errorf("%s: %d single keys and %d folded ones, want %d and %d", when, s, f, single, folded)
			}
		}
		tick(t, here)
		endMany(t, here, clock, 1, n)
		check("at first", 2*n, 0)
		tick(t, here)
		check("folded", 2*n, 2)
		clock.Add(2*storageTimeout - time.Second)
		tick(t, here)
		check("while a listing may be under way", 2*n, 2)
		clock.Add(time.Second)
		tick(t, here)
		check("what was listed lately is read", n, 2)
		clock.Add(2 * learnTimeout)
		tick(t, here)
		check("all is read", 0, 2)
		clock.Add(time.Hour) // by what is filed among all there is
		late := ended()
		if err := late.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		knows(t, "an hour later", late, clock, 1, n)
	})
}

// TestFoldedSize: one key holds a bounded number of ends, and all there are to fold take as many keys as that needs.
func TestFoldedSize(t *testing.T) {
	storage := enginetest.New().Open(enginetest.Kind{NoFolders: true})
	clock := newClock()
	here, late := NewEnded(storage, clock.steady()), NewEnded(storage, clock.steady())
	const n = 2*foldSize + foldFrom - 1
	endMany(t, here, clock, 1, n)
	tick(t, here)
	clock.Add(2 * learnTimeout)
	tick(t, here)
	if single, folded := filedAt(t, storage); single != 2*(foldFrom-1) || folded != 4 {
		t.Errorf("%d single keys and %d folded ones", single, folded)
	}
	tick(t, late)
	knows(t, "folded in part", late, clock, 1, n)
}

// TestFoldedIsReadOnce: what was folded, and read, is neither read nor listed again by its single keys.
func TestFoldedIsReadOnce(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here, view := NewEnded(s, clock.steady()), s.view()
	there := NewEnded(view, clock.steady())
	tick(t, there)
	endMany(t, here, clock, 1, foldFrom)
	for range 3 {
		tick(t, here)
		clock.Add(2 * learnTimeout)
	}
	endMany(t, here, clock, 2, 1)
	view.countAll("")
	tick(t, there)
	if n := view.countAll("Load"); n != 1 {
		t.Errorf("%d keys were read, want the one that was folded", n)
	}
	tick(t, there)
	if n := view.countAll("Load"); n != 0 {
		t.Errorf("%d keys were read again", n)
	}
	knows(t, "folded", there, clock, 1, foldFrom)
	knows(t, "single", there, clock, 2, 1)
	clock.Add(latelyFor + 2*ClockSkew)
	here.lately.sweepNow(t.Context(), here.lately.of(clock.Now().Add(-latelyFor)))
	if tick(t, there); len(there.read) != 0 {
		t.Errorf("%d keys are remembered that are gone", len(there.read))
	}
}

// TestFoldedCutShort: wherever a process dies while it folds, or the storage fails, no end is lost.
func TestFoldedCutShort(t *testing.T) {
	for _, fails := range []string{"Store", "Load", "Delete"} {
		for after := range 3 {
			s, clock := newStorage(t), newClock()
			here := NewEnded(s, clock.steady())
			endMany(t, here, clock, 1, foldFrom)
			cut := func() {
				var calls atomic.Int64 // several keys are deleted at once
				s.on(func(method, key string) error {
					if method == fails && strings.Contains(key, "/ended/") {
						if calls.Add(1) > int64(after) {
							return errBroken
						}
					}
					return nil
				})
				for range 3 {
					foldAll(t, here)
					clock.Add(2 * learnTimeout)
				}
				s.on(nil)
			}
			cut()
			what := fails + " fails"
			late := NewEnded(s.view(), clock.steady())
			tick(t, late)
			knows(t, what, late, clock, 1, foldFrom)
			for range 3 { // it goes on
				tick(t, here)
				clock.Add(2 * learnTimeout)
			}
			if single, folded := filedAt(t, s); single != 0 || folded != 2 {
				t.Errorf("%s after %d calls: later, there are %d single keys and %d folded ones", fails, after,
					single, folded)
			}
			late = NewEnded(s.view(), clock.steady())
			tick(t, late)
			knows(t, what+" no more", late, clock, 1, foldFrom)
		}
	}
}

// TestRemovedBySome: where removing takes long, few single keys are removed at a time, and the rest later, also where
// a removal fails.
func TestRemovedBySome(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here := NewEnded(s, clock.steady())
	const n = removedAtOnce + foldFrom
	endMany(t, here, clock, 1, n)
	tick(t, here)
	clock.Add(2 * learnTimeout)
	for _, fails := range []int32{0, 10, 0, 0} {
		s.countAll("")
		var calls atomic.Int32
		s.on(func(method, _ string) error {
			if method != "Delete" {
				return nil
			}
			clock.Add(time.Second)
			if called := calls.Add(1); fails > 0 && called > fails {
				return errBroken
			}
			return nil
		})
		here.all.foldNow(t.Context())
		if n := s.countAll("Delete"); n > removedAtOnce {
			t.Errorf("%d keys are removed at once", n)
		}
	}
	if single, folded := filedAt(t, s); single != n || folded != 2 {
		t.Errorf("%d single keys and %d folded ones", single, folded)
	}
}

// TestFoldedAndLost: a folded key that the storage does not show any more, or shows otherwise, has no single key
// removed, and its ends are folded again. One that is damaged is no less than an error, which names it, and keeps no
// others from being read.
func TestFoldedAndLost(t *testing.T) {
	ctx := context.Background()
	for what, harm := range map[string]func(s *testStorage, key string) error{
		"lost":    func(s *testStorage, key string) error { return s.FileStorage.Delete(ctx, key) },
		"damaged": func(s *testStorage, key string) error { return s.FileStorage.Store(ctx, key, []byte("x")) },
	} {
		s, clock := newStorage(t), newClock()
		here := NewEnded(s, clock.steady())
		endMany(t, here, clock, 1, foldFrom)
		tick(t, here)
		clock.Add(2 * learnTimeout)
		for _, p := range []*endPlace{here.all, here.lately} {
			if err := harm(s, p.folded[0].key); err != nil {
				t.Fatal(err)
			}
		}
		other := NewEnded(s.view(), clock.steady())
		const others = 3 * loadsAtOnce * foldFrom
		for i := 0; i < others; i += foldFrom { // of which the single keys are gone
			var more []filed
			for k := range foldFrom {
				more = append(more, filed{numbered(2, i+k), end{until: clock.Now().Add(time.Hour).Unix()}})
			}
			other.lately.single[other.lately.of(clock.Now())] = more
			foldAll(t, other)
		}
		var told []string
		late := NewEnded(Bounded(s.view(), func(_ string, err error) { told = append(told, err.Error()) }),
			clock.steady())
		err := late.Learn(t.Context())
		if (err != nil) != (what == "damaged") || err != nil && !errors.Is(err, ErrStorage) {
			t.Errorf("%s: %v", what, err)
		}
		if what == "damaged" && !strings.Contains(strings.Join(told, "\n"), here.lately.folded[0].key) {
			t.Errorf("what is damaged is not told: %q", told)
		}
		knows(t, what, late, clock, 1, foldFrom)
		knows(t, what+", the others", late, clock, 2, others)

		foldAll(t, here)
		if single, _ := filedAt(t, s); single != 2*foldFrom {
			t.Errorf("%s: %d single keys are left", what, single)
		}
		if err := late.Learn(t.Context()); err != nil {
			t.Errorf("%s, and removed: %v", what, err)
		}
		for range 2 {
			foldAll(t, here)
			clock.Add(2 * learnTimeout)
		}
		foldAll(t, here)
		if single, folded := filedAt(t, s); single != 0 || folded != 2+others/foldFrom {
			t.Errorf("%s, and folded again: %d single keys and %d folded ones", what, single, folded)
		}
		late = NewEnded(s.view(), clock.steady())
		tick(t, late)
		knows(t, what+", and folded again", late, clock, 1, foldFrom)
	}
}

// TestFoldedShownInPart: a folded key of which the storage shows a part is an error each time, and is read when it is
// shown as a whole. What was read as a whole is not read again.
func TestFoldedShownInPart(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here := NewEnded(s, clock.steady())
	endMany(t, here, clock, 1, foldFrom)
	tick(t, here)
	for range 2 { // and the single keys are gone
		clock.Add(2 * learnTimeout)
		foldAll(t, here)
	}
	keys, err := List(t.Context(), s, here.lately.prefix)
	if err != nil {
		t.Fatal(err)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { _, ok := parseFolded(path.Base(key)); return !ok })
	if len(keys) != 1 {
		t.Fatalf("folded: %q", keys)
	}
	whole, err := s.FileStorage.Load(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	store := func(value []byte) {
		t.Helper()
		if err := s.FileStorage.Store(t.Context(), keys[0], value); err != nil {
			t.Fatal(err)
		}
	}
	other := NewEnded(s.view(), clock.steady())
	other.learned.Store(clock.Now().UnixNano()) // it lists what is new alone
	store(whole[:len(whole)/2])
	for range 2 {
		if err := other.Learn(t.Context()); !errors.Is(err, ErrStorage) {
			t.Errorf("a half: %v", err)
		}
	}
	store(whole)
	if err := other.Learn(t.Context()); err != nil {
		t.Error(err)
	}
	knows(t, "shown as a whole", other, clock, 1, foldFrom)
}

// TestFoldedButNotRead: a learning that was stopped before it had read all that is folded does not count, and the end
// of a request does not stop it.
func TestFoldedButNotRead(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here := NewEnded(s, clock.steady())
	endMany(t, here, clock, 1, foldFrom)
	for range 2 {
		tick(t, here)
		clock.Add(2 * learnTimeout)
	}
	late := NewEnded(Bounded(s.view(), nil), clock.steady())
	_ = late.Destruct()
	if late.Begin(); !late.Learned().IsZero() {
		t.Error("what was stopped claims to have learned")
	}
	if err := late.tryLearn(late.learning); err == nil || !late.Learned().IsZero() {
		t.Errorf("what was stopped has learned at %s: %v", late.Learned(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := late.Learn(ctx); err != nil {
		t.Error(err)
	}
	knows(t, "for a request that has ended", late, clock, 1, foldFrom)
}

// TestFoldedIsOver: what could not be removed is left to the sweep once its period is over.
func TestFoldedIsOver(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here := NewEnded(s, clock.steady())
	endMany(t, here, clock, 1, foldFrom)
	s.on(func(method, _ string) error {
		if method == "Load" {
			return errBroken
		}
		return nil
	})
	tickAfter := func(by time.Duration) { clock.Add(by); foldAll(t, here) }
	tickAfter(0)
	tickAfter(2 * learnTimeout)
	if len(here.all.folded) != 1 || len(here.lately.folded) != 1 {
		t.Fatalf("%d and %d are to be removed", len(here.all.folded), len(here.lately.folded))
	}
	tickAfter(12 * time.Hour)
	if len(here.all.folded) != 0 || len(here.lately.folded) != 0 {
		t.Errorf("%d and %d are still to be removed", len(here.all.folded), len(here.lately.folded))
	}
}

// TestFoldedAgainAlike: what could not be stored is stored under the same key later, with the same ends.
func TestFoldedAgainAlike(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here := NewEnded(s, clock.steady())
	endMany(t, here, clock, 1, foldFrom)
	tried := make(map[string]bool)
	s.on(func(method, key string) error {
		if method == "Store" {
			tried[key] = true
			return errBroken
		}
		return nil
	})
	for range 3 {
		foldAll(t, here)
		endMany(t, NewEnded(s.view(), clock.steady()), clock, 2, 1)
	}
	s.on(nil)
	after := NewEnded(s, clock.steady())
	after.Adopt(here)
	foldAll(t, after)
	if len(tried) != 2 {
		t.Errorf("tried under %d keys", len(tried))
	}
	for _, p := range []*endPlace{after.all, after.lately} {
		if len(p.folded) != 1 || !tried[p.folded[0].key] {
			t.Errorf("stored under another key than was tried")
		}
	}
}

// TestFoldedAndMissing: a folded key that a listing shows time and again, and that is not there, is told. It is no
// outage, since its writer may have died.
func TestFoldedAndMissing(t *testing.T) {
	clock := newClock()
	var missing string
	storage := enginetest.New().Open(enginetest.Kind{
		List: func(keys []string, dir string, _ bool) ([]string, error) {
			var within []string
			for _, key := range append(keys, missing) {
				if strings.HasPrefix(key, dir+"/") {
					within = append(within, key)
				}
			}
			return within, nil
		}})
	var told []string
	e := NewEnded(Bounded(storage, func(_ string, err error) { told = append(told, err.Error()) }), clock.steady())
	missing = path.Join(e.lately.dir(e.lately.of(clock.Now())), "many-128-"+randomName())
	for _, want := range []int{0, 1} {
		if err := e.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(told) != want {
			t.Errorf("told %q, want %d", told, want)
		}
	}
}

// TestFoldedByTheNext: what a process has filed is folded by what takes its place after a reload.
func TestFoldedByTheNext(t *testing.T) {
	s, clock := newStorage(t), newClock()
	before, after := NewEnded(s, clock.steady()), NewEnded(s, clock.steady())
	endMany(t, before, clock, 1, foldFrom)
	tick(t, before)
	endMany(t, before, clock, 2, foldFrom)
	if err := before.Destruct(); err != nil {
		t.Fatal(err)
	}
	after.Adopt(before)
	for range 3 {
		tick(t, after)
		clock.Add(2 * learnTimeout)
	}
	if single, folded := filedAt(t, s); single != 0 || folded != 4 {
		t.Errorf("%d single keys and %d folded ones", single, folded)
	}
}

// TestFoldedInTheBackground: an instance that has begun folds by itself, and learning does not wait for that.
func TestFoldedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		clock := NewClock(time.Now, func() time.Duration { return time.Since(time.Unix(0, 0)) })
		here := NewEnded(Bounded(s, nil), clock)
		here.Begin()
		for i := range foldFrom {
			if err := here.End(t.Context(), numbered(1, i), time.Now().Add(10*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		s.on(func(method, _ string) error {
			if method == "Delete" {
				time.Sleep(time.Second)
			}
			return nil
		})
		time.Sleep(time.Minute)
		learned := here.Learned()
		if gap := time.Since(learned); gap > LearnInterval {
			t.Errorf("while single keys are removed, it was last learned %s ago", gap)
		}
		time.Sleep(10 * time.Minute)
		if single, folded := filedAt(t, s); single != 0 || folded != 2 {
			t.Errorf("%d single keys and %d folded ones", single, folded)
		}
		_ = here.Destruct()
		time.Sleep(time.Hour)
	})
}

// TestRequestsDuringLearning: who asks whether a session has ended is answered while all there is is learned, and
// while the storage does not answer.
func TestRequestsDuringLearning(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here := use(t, s, clock)
	endMany(t, here, clock, 1, foldFrom)
	tick(t, here)
	view := s.view()
	there := use(t, view, clock)
	clock.Add(time.Minute)
	endMany(t, here, clock, 2, foldFrom)
	tick(t, here)
	loading, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	view.on(func(method, _ string) error {
		if method == "Load" {
			once.Do(func() { close(loading) })
			<-release
		}
		return nil
	})
	learned := make(chan error)
	go func() { learned <- there.Learn(t.Context()) }()
	<-loading
	if !there.IsKnown(clock.Now()) || !there.Has(numbered(1, 1), clock.Now()) ||
		there.Has(numbered(9, 1), clock.Now()) {
		t.Error("what is known is not, while more is learned")
	}
	knows(t, "by their single keys, before the folded one is read", there, clock, 2, foldFrom)
	close(release)
	if err := <-learned; err != nil {
		t.Fatal(err)
	}
}
