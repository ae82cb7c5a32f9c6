package records

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
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
		time.Sleep(2 * time.Second) // for a sweep, which the next one would not wait for
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

// failing answers every call with an error.
func failing(string, string) error { return errBroken }

// TestEndFails: an end that cannot be noted for all instances, for those that run or
// for those that start anew, is an error. The second try notes it for all.
func TestEndFails(t *testing.T) {
	for _, part := range []string{"aventus_auth/ended/all/", "aventus_auth/ended/lately/"} {
		s, clock := newStorage(t), newClock()
		here, running := use(t, s, clock), use(t, s.view(), clock)
		s.on(func(method, key string) error {
			if method == "Store" && strings.HasPrefix(key, part) {
				return errBroken
			}
			return nil
		})
		for _, end := range []func() error{
			func() error { return here.End(t.Context(), ID{1}, clock.Now().Add(time.Hour)) },
			func() error { return here.EndBefore(t.Context(), ID{2}, clock.Now(), clock.Now().Add(time.Hour)) },
		} {
			if err := end(); !errors.Is(err, errBroken) {
				t.Errorf("%s cannot be written: %v", part, err)
			}
			if !here.Has(ID{1}, clock.Now()) {
				t.Errorf("%s cannot be written: it has not ended here either", part)
			}
			s.on(nil)
			if err := errors.Join(end(), running.Learn(t.Context())); err != nil {
				t.Fatal(err)
			}
			s.on(func(string, string) error { return errBroken })
		}
		for what, e := range map[string]*Ended{"runs": running, "starts": use(t, s.view(), clock)} {
			for _, id := range []ID{{1}, {2}} {
				if !e.Has(id, clock.Now()) {
					t.Errorf("%s could be written again: one that %s does not know %v", part, what, id[0])
				}
			}
		}
	}
}

// TestEndWrittenInPart: what could be written of an end counts: the one half for the instances that run, the
// other for those that start anew.
func TestEndWrittenInPart(t *testing.T) {
	for _, part := range []string{"aventus_auth/ended/all/", "aventus_auth/ended/lately/"} {
		s, clock := newStorage(t), newClock()
		here, running := use(t, s, clock), use(t, s.view(), clock)
		s.on(func(method, key string) error {
			if method == "Store" && strings.HasPrefix(key, part) {
				return errBroken
			}
			return nil
		})
		if err := here.End(t.Context(), ID{1}, clock.Now().Add(time.Hour)); !errors.Is(err, errBroken) {
			t.Errorf("%s cannot be written: %v", part, err)
		}
		s.on(nil)
		knows := running
		if part == "aventus_auth/ended/lately/" {
			knows = use(t, s.view(), clock)
		}
		if err := knows.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !knows.Has(ID{1}, clock.Now()) {
			t.Errorf("%s cannot be written: what could be is not known", part)
		}
	}
}

// TestEndedOutage: an instance that was cut off from the storage for some time, short
// or long, learns all that was ended meanwhile, by whatever clock within the limits,
// also if the storage fails once more when it has just come back.
func TestEndedOutage(t *testing.T) {
	for _, off := range []time.Duration{-ClockSkew, 0, ClockSkew} {
		for _, minutes := range []int{1, 15, 19, 20, 21, 25, 28, 31, 35, 39, 45} {
			synctest.Test(t, func(t *testing.T) {
				t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
				s, clock, early, others := newStorage(t), newClock(), newClock(), newClock()
				early.Add(off)
				writer, busy := use(t, s.view(), early), use(t, s.view(), others)
				here := use(t, s, clock)
				pass := func(by time.Duration) { clock.Add(by); early.Add(by); others.Add(by) }
				pass(2 * time.Minute) // so that no period begins with it
				if err := here.Learn(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.on(failing)
				pass(time.Second)
				until := clock.Now().Add(100 * time.Hour)
				if err := writer.End(t.Context(), ID{0}, until); err != nil {
					t.Fatal(err)
				}
				for minute := range minutes {
					pass(time.Minute)
					if minutes-minute > 3 && minute%10 != 0 {
						continue
					}
					if err := busy.End(t.Context(), ID{1, byte(minute)}, until); err != nil {
						t.Fatal(err)
					}
					synctest.Wait() // for the sweep
					if here.Learn(t.Context()) == nil {
						t.Fatal("it learns from a storage that is down")
					}
				}
				s.on(func(method, key string) error {
					if method == "List" && strings.HasPrefix(key, "aventus_auth/ended/all") {
						return errBroken
					}
					return nil
				})
				_ = here.Learn(t.Context()) // the listing of all may be asked for, and fails
				s.on(nil)
				if err := here.Learn(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !here.Has(ID{0}, clock.Now()) {
					t.Errorf("cut off for %d minutes: the end by a clock that is %v off is not known", minutes, off)
				}
				if !here.Has(ID{1, byte(minutes - 1)}, clock.Now()) {
					t.Errorf("cut off for %d minutes: the end of a moment ago is not known", minutes)
				}
				for _, e := range []*Ended{here, writer, busy} {
					_ = e.Destruct()
				}
			})
		}
	}
}

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
		synctest.Wait() // for the sweep
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

// TestEndBefore: what began by then has ended, and what begins later has not, here, at
// an instance that runs and at one that starts.
func TestEndBefore(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here, running := use(t, s, clock), use(t, s, clock)
	user, since := ID{1}, clock.Now()
	if here.HasPartial() || running.HasPartial() {
		t.Error("something has ended in part at the start")
	}
	if err := here.End(t.Context(), ID{2}, since.Add(time.Hour)); err != nil || here.HasPartial() {
		t.Errorf("a whole end counts as one in part, or %v", err)
	}
	for range 2 { // again, later
		err := here.EndBefore(t.Context(), user, since, since.Add(time.Hour))
		if err = errors.Join(err, running.Learn(t.Context())); err != nil {
			t.Fatal(err)
		}
		for what, e := range map[string]*Ended{"ends it": here, "runs": running, "starts": use(t, s, clock)} {
			if !e.HasPartial() {
				t.Errorf("the instance that %s: nothing has ended in part", what)
			}
			if !e.Has(user, since) || !e.Has(user, since.Add(-time.Hour)) || e.Has(user, since.Add(time.Second)) {
				t.Errorf("the instance that %s: what began at the very time, before or after it: %v, %v, %v", what,
					e.Has(user, since), e.Has(user, since.Add(-time.Hour)), e.Has(user, since.Add(time.Second)))
			}
			if after := e.After(user); e.Has(user, after) || !e.Has(user, after.Add(-time.Second)) {
				t.Errorf("the instance that %s: the first that may begin is at %v", what, after)
			}
			if e.Has(ID{3}, since) {
				t.Errorf("the instance that %s: another has ended", what)
			}
		}
		clock.Add(time.Minute)
		since = clock.Now()
	}
}

// TestEndBeforeTwice: who signs in again at once, at the first time that After allows, is ended by the
// next end within the same second: at the instance of before, and at another that has not learned of it
// yet, also by a clock that is behind.
func TestEndBeforeTwice(t *testing.T) {
	for what, behind := range map[string]time.Duration{
		"alike": 0, "a minute": time.Minute, "all they may": ClockSkew,
	} {
		s, clock, slow := newStorage(t), newClock(), newClock()
		slow.Add(-behind)
		here, there := use(t, s, clock), use(t, s, slow)
		end := func(e *Ended, clock *testClock) {
			t.Helper()
			now := clock.Now()
			if err := e.EndBefore(t.Context(), ID{1}, now.Add(ClockSkew), now.Add(24*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			end(here, clock)
			first := here.After(ID{1})
			end(here, clock)
			second := here.After(ID{1})
			end(there, slow)
			if err := here.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, e := range []*Ended{here, there} {
				after := e.After(ID{1})
				if !e.Has(ID{1}, first) || !e.Has(ID{1}, second) || e.Has(ID{1}, after) ||
					after.Sub(clock.Now()) > ClockSkew+time.Minute {
					t.Errorf("clocks differ by %s: what began at %v and %v has ended: %v, %v; "+
						"the next may begin at %v",
						what, first, second, e.Has(ID{1}, first), e.Has(ID{1}, second), after)
				}
			}
		}
	}
}

// TestEndNamed: what is named so has ended, whenever it began or begins, here, at an instance that runs
// and at one that starts; and nobody takes its own id for the only one that counts.
func TestEndNamed(t *testing.T) {
	s, clock := newStorage(t), newClock()
	here, running := use(t, s, clock), use(t, s, clock)
	name, until := ID{1}, clock.Now().Add(24*time.Hour)
	for range 2 { // it may come again
		if err := errors.Join(here.EndNamed(t.Context(), name, until), running.Learn(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	for what, e := range map[string]*Ended{"ends it": here, "runs": running, "starts": use(t, s, clock)} {
		for _, began := range []time.Time{
			clock.Now().Add(-time.Hour), clock.Now(), clock.Now().Add(time.Hour), until,
		} {
			if !e.HasPartial() || !e.Has(name, began) || e.Has(ID{2}, began) {
				t.Errorf("the instance that %s: %v, %v, %v at %v", what, e.HasPartial(), e.Has(name, began),
					e.Has(ID{2}, began), began)
			}
		}
	}
	clock.Add(24*time.Hour + ClockSkew + time.Second)
	if err := here.Learn(t.Context()); err != nil || here.Has(name, clock.Now()) {
		t.Errorf("it is remembered for longer than it was to be: %v", err)
	}
}

// TestEndsAddUp: of several ends of one id, each holds for as long as it says, in
// whichever order they are made or learned.
func TestEndsAddUp(t *testing.T) {
	clock := newClock()
	at := func(minute int64) time.Time { return time.Unix(newClock().now.Load()+60*minute, 0) }
	ends := []struct{ since, until int64 }{ // in minutes from now; since 0 is all of it
		{10, 1000}, {20, 200}, {20, 300}, {30, 100}, {0, 50},
	}
	for n := range 1 << len(ends) {
		var some []int
		for i := range ends {
			if n&(1<<i) != 0 {
				some = append(some, i)
			}
		}
		for _, turn := range []func(){func() {}, func() { slices.Reverse(some) }} {
			turn()
			s := newStorage(t)
			e := NewEnded(s, clock.steady())
			e.Begin()
			latest, whole := int64(0), false
			for _, i := range some {
				end := e.EndBefore
				if ends[i].since == 0 {
					whole = true
					end = func(ctx context.Context, id ID, _, until time.Time) error { return e.End(ctx, id, until) }
				}
				latest = max(latest, ends[i].since)
				if err := end(t.Context(), ID{1}, at(ends[i].since), at(ends[i].until)); err != nil {
					t.Fatal(err)
				}
			}
			check := func(what string, e *Ended, minute int64) {
				for _, began := range []int64{5, 15, 25, 35} {
					var want bool
					for _, i := range some {
						want = want || (ends[i].since == 0 || began <= ends[i].since) && minute < ends[i].until
					}
					has := e.Has(ID{1}, at(began))
					if want && !has || has && !whole && began > latest {
						t.Errorf("ends %v, %s: what began at %d has ended: %v, at %d", some, what, began, has, minute)
					}
				}
			}
			minutes := []int64{0, 40, 90, 150, 250, 900}
			for _, minute := range minutes {
				later := newClock()
				later.now.Store(at(minute).Unix())
				other := NewEnded(s, later.steady())
				other.Begin()
				check("learned", other, minute)
				_ = other.Destruct()
			}
			// What is known is not learned once more.
			if err := s.Delete(t.Context(), "aventus_auth/ended"); err != nil {
				t.Fatal(err)
			}
			for _, minute := range minutes {
				clock.now.Store(at(minute).Unix())
				if err := e.Learn(t.Context()); err != nil {
					t.Fatal(err)
				}
				check("made", e, minute)
			}
			clock.now.Store(at(0).Unix())
			_ = e.Destruct()
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
		synctest.Wait() // for a sweep
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

// TestEndWrittenLater: what the storage did not take of an end is written again, each half by itself, until it does:
// also when the end has been learned from the other half meanwhile, and when others list only what is new.
func TestEndWrittenLater(t *testing.T) {
	for _, part := range []string{"aventus_auth/ended/", "aventus_auth/ended/all/", "aventus_auth/ended/lately/"} {
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
			s, clock := newStorage(t), newClock()
			here, running := use(t, s, clock), use(t, s.view(), clock)
			s.on(func(method, key string) error {
				if method == "Store" && strings.HasPrefix(key, part) {
					return errBroken
				}
				return nil
			})
			if err := here.End(t.Context(), ID{1}, clock.Now().Add(3*time.Hour)); !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			err := here.EndBefore(t.Context(), ID{2}, clock.Now(), clock.Now().Add(3*time.Hour))
			if !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			for range 12 { // an outage of an hour
				clock.Add(5 * time.Minute)
				time.Sleep(LearnInterval)
				synctest.Wait()
				if !here.IsUnwritten(ID{1}) || !here.IsUnwritten(ID{2}) {
					t.Fatalf("%s: the end counts as written", part)
				}
			}
			s.on(nil)
			time.Sleep(2 * LearnInterval)
			synctest.Wait()
			if here.IsUnwritten(ID{1}) || here.IsUnwritten(ID{2}) {
				t.Errorf("%s: the end is still unwritten", part)
			}
			s.countAll("")
			time.Sleep(2 * LearnInterval)
			if n := s.countAll("Store"); n != 0 {
				t.Errorf("%s: it is written %d times more", part, n)
			}
			for what, e := range map[string]*Ended{"runs": running, "starts": use(t, s.view(), clock)} {
				if !e.Has(ID{1}, clock.Now()) || !e.Has(ID{2}, clock.Now().Add(-time.Hour)) {
					t.Errorf("%s: an instance that %s does not know", part, what)
				}
			}
			_, _ = here.Destruct(), running.Destruct()
		})
	}
}
