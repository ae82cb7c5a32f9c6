package records

import (
	"errors"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// TestEnded: what one instance ends, another learns, and what it has learned holds
// while the storage is down.
func TestEnded(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := NewEnded(s, clock.steady()), NewEnded(s, clock.steady())
	for _, e := range []*Ended{a, b} {
		e.Begin()
		defer e.Destruct()
	}
	one, two := ID{1}, ID{2}
	if err := a.End(t.Context(), one, clock.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if !a.Has(one, clock.Now()) || a.Has(two, clock.Now()) {
		t.Error("it does not hold at once, or holds for too much")
	}
	if err := b.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.Has(one, clock.Now()) || b.Has(two, clock.Now()) {
		t.Error("the other instance has not learned it")
	}

	broken := errors.New("broken")
	s.on(func(string, string) error { return broken })
	if err := b.Learn(t.Context()); err == nil {
		t.Error("no error from a storage that is down")
	}
	if !b.Has(one, clock.Now()) {
		t.Error("forgotten while the storage is down")
	}
	if err := a.End(t.Context(), two, clock.Now().Add(time.Hour)); !errors.Is(err, broken) ||
		!a.Has(two, clock.Now()) {
		t.Errorf("error %v, ended here %t", err, a.Has(two, clock.Now()))
	}
	s.on(nil)

	// One that starts later, or was away for long, learns all of it.
	clock.Add(40 * time.Minute)
	c := NewEnded(s, clock.steady())
	c.Begin()
	defer c.Destruct()
	if !c.Has(one, clock.Now()) {
		t.Error("one that starts later does not know")
	}
	// What would have ended by itself is forgotten.
	clock.Add(time.Hour)
	if err := c.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Has(one, clock.Now()) {
		t.Error("kept for ever")
	}
}

// TestEndedForgets: what would have ended by itself takes no memory in an instance that learns all along, and so
// never lists all there is again.
func TestEndedForgets(t *testing.T) {
	s, clock := newStorage(t), newClock()
	e := NewEnded(s, clock.steady())
	if err := e.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, lasts := range []time.Duration{time.Hour, 10 * time.Hour} {
		if err := e.End(t.Context(), numbered(1, i), clock.Now().Add(lasts)); err != nil {
			t.Fatal(err)
		}
	}
	s.countAll("")
	for range 24 { // two hours
		clock.Add(5 * time.Minute)
		if err := e.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.count("List aventus_auth/ended/all"); n != 0 {
		t.Fatalf("all there is was listed %d times", n)
	}
	ends := 0
	e.ended.each(func(ID, end) { ends++ })
	if ends != 1 || !e.Has(numbered(1, 1), clock.Now()) {
		t.Errorf("memory is left with %d ends", ends)
	}
}

// TestEndedCost: what is asked for each time grows with what is new, not with all.
func TestEndedCost(t *testing.T) {
	storage, clock := newStorage(t), newClock()
	a := NewEnded(storage, clock.steady())
	a.Begin()
	defer a.Destruct()
	until := clock.Now().Add(100 * time.Hour)
	for i := range 50 {
		if err := a.End(t.Context(), ID{byte(i)}, until); err != nil {
			t.Fatal(err)
		}
	}
	clock.Add(3 * time.Hour)
	if err := a.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.End(t.Context(), ID{100}, until); err != nil { // sweeps what was lately
		t.Fatal(err)
	}
	eventually(t, "what is not new any more is gone from the list of the new", func() bool {
		keys, err := storage.List(t.Context(), "aventus_auth/ended/lately", true)
		files := 0
		for _, key := range keys {
			if info, err := storage.Stat(t.Context(), key); err == nil && info.IsTerminal {
				files++
			}
		}
		return err == nil && files == 2 // the landmark among them
	})
	all, err := storage.List(t.Context(), "aventus_auth/ended/all", true)
	if err != nil || len(all) != 54 { // the hour's folder among them, and the landmark and its own
		t.Errorf("%d in all, %v", len(all), err)
	}

	// All there is, is not asked for again.
	for range 3 {
		clock.Add(LearnInterval)
		storage.countAll("")
		if err := a.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := storage.count("List aventus_auth/ended/all"); n != 0 {
		t.Errorf("all was listed %d times", n)
	}
}

// TestEndedSlow: where there is so much that to list it takes longer than a request
// waits for the storage, it is learned all the same, and what ends meanwhile at once.
func TestEndedSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStorage(t), newClock()
		a, b := NewEnded(Bounded(s, nil), clock.steady()), NewEnded(Bounded(s, nil), clock.steady())
		a.Begin()
		if err := a.End(t.Context(), ID{1}, clock.Now().Add(10*time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the next sweep would not wait for the one of this end
		clock.Add(2 * time.Hour)
		if err := a.End(t.Context(), ID{2}, clock.Now().Add(10*time.Hour)); err != nil { // sweeps
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := errors.Join(a.Learn(t.Context()), a.End(t.Context(), ID{2}, clock.Now().Add(10*time.Hour))); err !=
			nil {
			t.Fatal(err)
		}
		s.on(func(method, key string) error {
			if method == "List" && key == "aventus_auth/ended/all" {
				time.Sleep(40 * time.Second)
			}
			return nil
		})
		begun := time.Now()
		b.Begin()
		if waited := time.Since(begun); waited != storageTimeout {
			t.Errorf("it waited for %v", waited)
		}
		if b.Has(ID{1}, clock.Now()) || !b.Has(ID{2}, clock.Now()) {
			t.Errorf("what ended lately is known: %v; what ended long ago: %v", b.Has(ID{2}, clock.Now()),
				b.Has(ID{1}, clock.Now()))
		}
		if err := a.End(t.Context(), ID{3}, clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * LearnInterval)
		if !b.Has(ID{3}, clock.Now()) {
			t.Error("what ends while all is listed is not learned")
		}
		time.Sleep(time.Minute)
		if !b.Has(ID{1}, clock.Now()) {
			t.Error("what ended long ago is never learned")
		}
		a.Destruct()
		b.Destruct()
		time.Sleep(time.Hour) // until all that goes on has ended
	})
}

// TestEndedByOtherClocks: an end is learned whatever the clock says, within limits, of
// the instance that writes it, and however late that is done.
func TestEndedByOtherClocks(t *testing.T) {
	for _, off := range []time.Duration{-ClockSkew + time.Second, ClockSkew - time.Second} {
		s, clock, other := newStorage(t), newClock(), newClock()
		a, b := NewEnded(s, other.steady()), NewEnded(s, clock.steady())
		for _, e := range []*Ended{a, b} {
			e.Begin()
			defer e.Destruct()
		}
		for i := range byte(120) { // every place within a period
			clock.Add(LearnInterval)
			other.now.Store(clock.Now().Add(off - 10*time.Second).Unix()) // and ten seconds for the writing
			if err := errors.Join(b.Learn(t.Context()), a.End(t.Context(), ID{i}, clock.Now().Add(time.Hour)),
				b.Learn(t.Context())); err != nil {
				t.Fatal(err)
			}
			if !b.Has(ID{i}, clock.Now()) {
				t.Fatalf("a clock that is off by %v: end %d is not learned", off, i)
			}
		}
	}
}

// TestEndedStops: what learns ends with the last that needs it, also where a request
// that outlives that one is the first to ask.
func TestEndedStops(t *testing.T) {
	for what, run := range map[string]func(*Ended) error{
		"begun":       func(e *Ended) error { e.Begin(); return e.Destruct() },
		"never begun": (*Ended).Destruct,
		"begun late":  func(e *Ended) error { defer e.Begin(); return e.Destruct() },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStorage(t)
			if err := run(NewEnded(s, newClock().steady())); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			s.countAll("")
			time.Sleep(10 * LearnInterval)
			if n := s.countAll(""); n != 0 {
				t.Fatalf("%s: the storage was asked %d times", what, n)
			}
		})
	}
}

// TestKnownWhenStopped: what outlives the last configuration asks for itself, as often as it would be told. It
// goes on by what it knows while the storage is down.
func TestKnownWhenStopped(t *testing.T) {
	s, clock := newStorage(t), newClock()
	other, here := use(t, s.view(), clock), use(t, s, clock)
	if err := errors.Join(here.Known(t.Context(), clock.Now()), here.Destruct()); err != nil {
		t.Fatal(err)
	}
	for n := range byte(3) {
		if err := other.End(t.Context(), ID{n}, clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		isDown := n == 1
		if s.on(nil); isDown {
			s.on(failing)
		}
		clock.Add(LearnInterval)
		s.countAll("")
		for range 3 {
			if err := here.Known(t.Context(), clock.Now()); err != nil {
				t.Error(err)
			}
		}
		if asked := s.count("List aventus_auth/ended/lately"); asked > 1 {
			t.Errorf("the storage was asked %d times", asked)
		}
		if here.Has(ID{n}, clock.Now()) == isDown {
			t.Errorf("end %d: known %t", n, !isDown)
		}
	}
}

// TestEndedBeginsOnce: of many requests that come at once, one begins the learning, and
// all wait for what is learned first.
func TestEndedBeginsOnce(t *testing.T) {
	s, clock := newStorage(t), newClock()
	if err := use(t, s.view(), clock).End(t.Context(), ID{1}, clock.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	e := NewEnded(s, clock.steady())
	t.Cleanup(func() { _ = e.Destruct() })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if e.Begin(); !e.Has(ID{1}, clock.Now()) {
				t.Error("a request did not wait")
			}
		})
	}
	wg.Wait()
	if n := s.count("List aventus_auth/ended/lately"); n != 1 {
		t.Errorf("the storage was asked %d times", n)
	}
}

// TestEndedListVanishes: with files, a listing breaks off when something goes while
// it is made. That is not the same as nothing being there.
func TestEndedListVanishes(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a := NewEnded(s, clock.steady())
	a.Begin()
	defer a.Destruct()
	if err := a.End(t.Context(), ID{1}, clock.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	failures := listTries - 1
	s.on(func(method, _ string) error {
		if method == "List" && failures > 0 {
			failures--
			return fs.ErrNotExist
		}
		return nil
	})
	b := NewEnded(s, clock.steady())
	b.Begin()
	defer b.Destruct()
	if !b.Has(ID{1}, clock.Now()) {
		t.Error("what was there was taken for nothing")
	}
}

// use returns an instance that learns from storage, and ends with the test.
func use(t *testing.T, storage certmagic.Storage, clock *testClock) *Ended {
	e := NewEnded(storage, clock.steady())
	e.Begin()
	t.Cleanup(func() { _ = e.Destruct() })
	return e
}

// view returns another instance's view of a storage, which fails by itself.
func (s *testStorage) view() *testStorage { return &testStorage{FileStorage: s.FileStorage} }

// TestEndedClockSetBack: a clock that was ahead by hours keeps nobody from learning,
// nor has it all listed each time.
func TestEndedClockSetBack(t *testing.T) { synctest.Test(t, testEndedClockSetBack) }

func testEndedClockSetBack(t *testing.T) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
	s, clock, ahead := newStorage(t), newClock(), newClock()
	other := use(t, s.view(), clock)
	ahead.Add(3 * time.Hour)
	here := use(t, s, ahead)
	s.on(failing)
	until := clock.Now().Add(100 * time.Hour)
	for i := range byte(9) {
		if err := other.End(t.Context(), ID{i}, until); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // by when a sweep has ended whose listing was disturbed
		clock.Add(5 * time.Minute)
	}
	ahead.now.Store(clock.now.Load())
	s.on(nil)
	for range 4 {
		if err := here.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range byte(9) {
			if !here.Has(ID{i}, ahead.Now()) {
				t.Fatalf("the clock was set back: end %d is not known", i)
			}
		}
		clock.Add(LearnInterval)
		ahead.Add(LearnInterval)
	}
	if n := s.count("List aventus_auth/ended/all"); n > 2 { // the first time, and once set back
		t.Errorf("all was listed %d times", n)
	}
}

// TestEndedSleep: how long ago it was that all was learned is told by the wall's
// clock. Go's monotonic clock stands still while a machine sleeps.
func TestEndedSleep(t *testing.T) {
	e := NewEnded(newStorage(t), NewClock(time.Now, func() time.Duration { return 0 }))
	e.Begin()
	defer e.Destruct()
	for range 2 { // by all there is, and by what is new
		if err := e.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e.Learned().IsZero() || e.Learned() != e.Learned().Round(0) {
			t.Errorf("learned at %v", e.Learned())
		}
	}
}

// TestEndedToTheEnd: what was ended stays so until it would have ended by itself, to
// the second, by clocks that differ; also for those that start when others have swept.
func TestEndedToTheEnd(t *testing.T) {
	for _, lives := range []time.Duration{
		5 * time.Minute, 90 * time.Minute, 2*time.Hour - time.Second, 2 * time.Hour, 50 * time.Hour,
	} {
		for _, off := range []time.Duration{-ClockSkew, 0, ClockSkew} {
			synctest.Test(t, func(t *testing.T) {
				t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
				s, clock, other := newStorage(t), newClock(), newClock()
				other.Add(off)
				a, b := use(t, s, clock), use(t, s, other)
				until := clock.Now().Add(lives)
				if err := errors.Join(a.End(t.Context(), ID{1}, until), b.Learn(t.Context())); err != nil {
					t.Fatal(err)
				}
				for _, left := range []time.Duration{ClockSkew, ClockSkew / 2, 1} {
					clock.now.Store(until.Add(-left).Unix())
					if left == 1 {
						clock.now.Store(until.Unix() - 1)
					}
					other.now.Store(clock.Now().Add(off).Unix())
					for _, e := range []*Ended{a, b} { // each sweeps, and forgets
						if err := errors.Join(e.End(t.Context(), ID{2}, until.Add(time.Hour)),
							e.Learn(t.Context())); err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
					}
					for what, e := range map[string]*Ended{
						"that ended it": a, "that learned it": b, "that starts": use(t, s, clock),
					} {
						if !e.Has(ID{1}, clock.Now()) {
							t.Errorf("%v of %v are left, clocks are %v apart: the instance %s does not know", left,
								lives, off, what)
						}
						defer e.Destruct()
					}
				}
			})
		}
	}
}

// TestEndedReload: after a reload, everything is asked of the new storage, for the old
// one is closed: what is new, all there is, and the noting of an end. The config of before
// may be unloaded at once or later.
func TestEndedReload(t *testing.T) { synctest.Test(t, testEndedReload) }

func testEndedReload(t *testing.T) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
	s, clock := newStorage(t), newClock()
	other := use(t, s.view(), clock)
	old := s.view()
	var newest Newest
	release := newest.Use(old)
	here := use(t, Bounded(&newest, nil), clock)
	until := clock.Now().Add(100 * time.Hour)
	for n := range byte(4) { // reload, and reload again
		time.Sleep(2 * time.Second) // by when a sweep has ended whose listing was disturbed
		next := s.view()
		releaseNext := newest.Use(next)
		old.on(failing)
		old.countAll("")
		if n%2 == 0 {
			release()
		}
		for i, wait := range []time.Duration{LearnInterval, time.Hour} { // by what is new, and by all
			if err := other.End(t.Context(), ID{1, n, byte(i)}, until); err != nil {
				t.Fatal(err)
			}
			clock.Add(wait)
			if err := here.Learn(t.Context()); err != nil || !here.Has(ID{1, n, byte(i)}, clock.Now()) {
				t.Errorf("reload %d, %v later: not learned, %v", n, wait, err)
			}
		}
		err := errors.Join(here.End(t.Context(), ID{2, n}, until), other.Learn(t.Context()))
		if err != nil || !other.Has(ID{2, n}, clock.Now()) {
			t.Errorf("reload %d: not noted, %v", n, err)
		}
		if n := old.countAll(""); n != 0 {
			t.Errorf("the storage of the config before was asked %d times", n)
		}
		release()
		old, release = next, releaseNext
	}
}

// TestEndedGoesOn: an instance asks time and again, whether or not the storage was
// there at the start, and after each outage, until it is no longer needed.
func TestEndedGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStorage(t), newClock()
		other := use(t, s.view(), clock)
		s.on(failing)
		here := use(t, s, clock)
		for n := range byte(3) {
			if err := other.End(t.Context(), ID{n}, clock.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * LearnInterval)
			if here.Has(ID{n}, clock.Now()) {
				t.Fatal("learned from a storage that is down")
			}
			s.on(nil)
			time.Sleep(LearnInterval + time.Second)
			if !here.Has(ID{n}, clock.Now()) {
				t.Errorf("outage %d is over, and it is not learned", n)
			}
			s.on(failing)
		}
		_, _ = here.Destruct(), other.Destruct()
		synctest.Wait()
		s.countAll("")
		time.Sleep(10 * LearnInterval)
		if n := s.countAll(""); n != 0 {
			t.Errorf("the storage was asked %d times when nothing was loaded any more", n)
		}
	})
}

// TestEndedAtOnce: all of it may be called at once. It tells something by the race
// detector alone.
func TestEndedAtOnce(t *testing.T) {
	s, clock := newStorage(t), newClock()
	var newest Newest
	newest.Use(s)
	here, other := use(t, Bounded(&newest, nil), clock), use(t, s.view(), clock)
	var wg sync.WaitGroup
	for n := range byte(4) {
		wg.Go(func() {
			for i := range byte(25) {
				now := clock.Now()
				id := ID{n, i}
				for _, err := range []error{
					here.End(t.Context(), id, now.Add(100*time.Hour)),
					here.EndBefore(t.Context(), ID{9}, now, now.Add(100*time.Hour)),
					other.End(t.Context(), ID{8, n, i}, now.Add(100*time.Hour)),
					here.Learn(t.Context()),
				} {
					if err != nil {
						t.Error(err)
					}
				}
				if !here.Has(id, now) || !here.Has(ID{9}, now) || !here.After(ID{9}).After(now) || !here.HasPartial() {
					t.Error("what has ended here has not")
				}
				clock.Add(time.Minute)
			}
		})
		wg.Go(func() {
			release := newest.Use(s.view())
			for range 5 {
				next := newest.Use(s.view())
				release()
				release = next
				here.Begin()
			}
		})
	}
	wg.Wait()
	if err := here.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range byte(4) {
		for i := range byte(25) {
			if !here.Has(ID{n, i}, clock.Now()) || !here.Has(ID{8, n, i}, clock.Now()) {
				t.Fatalf("%d, %d is not known", n, i)
			}
		}
	}
}

// TestKnownAfterTheClock: what was learned while the clock was ahead is not known once the clock is right, and the
// storage is down: how long ago that was cannot be told.
func TestKnownAfterTheClock(t *testing.T) {
	s, clock := newStorage(t), newClock()
	clock.Set(3 * time.Hour)
	e := use(t, s, clock)
	if err := e.Known(t.Context(), clock.Now()); err != nil {
		t.Fatal(err)
	}
	s.on(failing)
	clock.Set(-3 * time.Hour)
	if err := e.Known(t.Context(), clock.Now()); !errors.Is(err, ErrUnknown) {
		t.Errorf("the storage is down: %v", err)
	}
	asked := false
	s.on(func(string, string) error { asked = true; return errBroken })
	if err := e.Known(t.Context(), clock.Now()); !errors.Is(err, ErrUnknown) || !errors.Is(err, errBroken) || asked {
		t.Errorf("the storage was down a moment ago: %v; asked again: %t", err, asked)
	}
	s.on(nil)
	clock.Add(askAgain)
	if err := e.Known(t.Context(), clock.Now()); err != nil {
		t.Errorf("it is back: %v", err)
	}
}
