package records

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

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

// TestEndAfterEndBefore: what has ended in part can end as a whole: what began since has ended as well then, here and
// at an instance that learns of it.
func TestEndAfterEndBefore(t *testing.T) {
	for what, whole := range map[string]func(*Ended, context.Context, ID, time.Time) error{
		"End": (*Ended).End, "Replace": (*Ended).Replace,
	} {
		s, clock := newStorage(t), newClock()
		here, other := NewEnded(s, clock.steady()), NewEnded(s.view(), clock.steady())
		until, later := clock.Now().Add(3*time.Hour), clock.Now().Add(time.Minute)
		if err := here.EndBefore(t.Context(), ID{1}, clock.Now(), until); err != nil {
			t.Fatal(err)
		}
		if here.Has(ID{1}, later) {
			t.Fatalf("before %s: what began since has ended", what)
		}
		if err := errors.Join(whole(here, t.Context(), ID{1}, until), other.Learn(t.Context())); err != nil {
			t.Fatal(err)
		}
		if !here.Has(ID{1}, later) || !other.Has(ID{1}, later) {
			t.Errorf("%s: what began since has ended %t, and elsewhere %t", what, here.Has(ID{1}, later),
				other.Has(ID{1}, later))
		}
	}
}
