package records

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/enginetest"
)

// TestReplaceAgain: of two logins that replace the same session at once, each says so, and it is still known that
// something else lives on its grant, here and elsewhere. An end by itself says more, before or after.
func TestReplaceAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		ends string // in order: R is Replace, E is End
		want bool
	}{
		{"replaced", "R", true},
		{"replaced twice", "RR", true},
		{"replaced, then ended", "RE", false},
		{"ended, then replaced", "ER", false},
	} {
		s, clock := newStorage(t), newClock()
		here, running := use(t, s, clock), use(t, s, clock)
		for _, how := range c.ends {
			end := here.Replace
			if how == 'E' {
				end = here.End
			}
			if err := end(t.Context(), ID{1}, clock.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if err := running.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		for what, e := range map[string]*Ended{"ends it": here, "runs": running, "starts": use(t, s, clock)} {
			if !e.Has(ID{1}, clock.Now()) || e.WasReplaced(ID{1}) != c.want {
				t.Errorf("%s: the instance that %s says ended %t, replaced %t", c.name, what,
					e.Has(ID{1}, clock.Now()), e.WasReplaced(ID{1}))
			}
		}
	}
}

// TestUnwrittenEndOfSeveral: an end that the storage did not take is written again, unless one that says all that
// it does was written meanwhile. One that says less is no substitute.
func TestUnwrittenEndOfSeveral(t *testing.T) {
	s, clock := newStorage(t), newClock()
	until := clock.Now().Add(time.Hour)
	ends := map[string]func(*Ended) error{
		"whole":    func(e *Ended) error { return e.End(t.Context(), ID{1}, until) },
		"replaced": func(e *Ended) error { return e.Replace(t.Context(), ID{1}, until) },
		"in part":  func(e *Ended) error { return e.EndBefore(t.Context(), ID{1}, clock.Now(), until) },
	}
	for _, c := range []struct {
		first, then string
		unwritten   bool
	}{
		{"whole", "whole", false}, {"replaced", "replaced", false}, {"in part", "in part", false},
		{"replaced", "whole", false}, {"in part", "whole", false}, {"in part", "replaced", false},
		{"whole", "replaced", true}, {"whole", "in part", true}, {"replaced", "in part", true},
	} {
		e := use(t, s, clock)
		s.on(failing)
		if err := ends[c.first](e); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		s.on(nil)
		if err := ends[c.then](e); err != nil {
			t.Fatal(err)
		}
		if got := e.IsUnwritten(ID{1}); got != c.unwritten {
			t.Errorf("%s, then %s: unwritten %t", c.first, c.then, got)
		}
		_ = e.Destruct()
		s = newStorage(t)
	}
}

// TestUnwrittenEndOfAnother: an end that the storage did not take is still to be written when another id's end has
// been, however much that one says and however long it lasts.
func TestUnwrittenEndOfAnother(t *testing.T) {
	s, clock := newStorage(t), newClock()
	e := NewEnded(s, clock.steady())
	until := clock.Now().Add(time.Hour)
	s.on(failing)
	if err := e.EndBefore(t.Context(), ID{1}, clock.Now(), until); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	s.on(nil)
	if err := e.End(t.Context(), ID{2}, until.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if !e.IsUnwritten(ID{1}) || e.IsUnwritten(ID{2}) {
		t.Errorf("unwritten: %t, and what was written: %t", e.IsUnwritten(ID{1}), e.IsUnwritten(ID{2}))
	}
}

// TestUnwrittenLongerEnd: an end that the storage did not take is still to be written when one of the same id has been
// that is forgotten earlier.
func TestUnwrittenLongerEnd(t *testing.T) {
	s, clock := newStorage(t), newClock()
	e := NewEnded(s, clock.steady())
	until := clock.Now().Add(time.Hour)
	s.on(failing)
	if err := e.Replace(t.Context(), ID{1}, until.Add(time.Hour)); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	s.on(nil)
	if err := e.End(t.Context(), ID{1}, until); err != nil {
		t.Fatal(err)
	}
	if !e.IsUnwritten(ID{1}) {
		t.Error("the longer end counts as written")
	}
	if e.writeAgain(t.Context()); e.IsUnwritten(ID{1}) {
		t.Error("the longer end is not written")
	}
}

// TestEndBeforeAtOnce: an end of what began by some time holds here while the storage hangs, also the second one,
// for what began as soon as it could after the first.
func TestEndBeforeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStorage(t), newClock()
		e, began := use(t, s, clock), clock.Now()
		for range 2 {
			leave := make(chan struct{})
			s.on(func(string, string) error { <-leave; return nil })
			done := make(chan error)
			go func() {
				done <- e.EndBefore(t.Context(), ID{1}, clock.Now().Add(ClockSkew), clock.Now().Add(time.Hour))
			}()
			synctest.Wait()
			if !e.Has(ID{1}, began) {
				t.Errorf("what began at %s has not ended", began)
			}
			s.on(nil)
			close(leave)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			began = e.After(ID{1})
		}
		_ = e.Destruct()
	})
}

// TestEndUnderWay: an end that is being written holds here, and does not count as written, also while what was ended
// before is being asked for.
func TestEndUnderWay(t *testing.T) {
	for what, end := range map[string]func(*Ended, time.Time) error{
		"end": func(e *Ended, now time.Time) error { return e.End(t.Context(), ID{1}, now.Add(time.Hour)) },
		"end before": func(e *Ended, now time.Time) error {
			return e.EndBefore(t.Context(), ID{1}, now, now.Add(time.Hour))
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, clock := newStorage(t), newClock()
			e, leave := use(t, s, clock), make(chan struct{})
			s.on(func(string, string) error { <-leave; return nil })
			done := make(chan error)
			go func() { done <- end(e, clock.Now()) }()
			synctest.Wait()
			if !e.Has(ID{1}, clock.Now()) || !e.IsUnwritten(ID{1}) || e.HasEverywhere(ID{1}, clock.Now()) {
				t.Errorf("%s, under way: ended %t, unwritten %t", what, e.Has(ID{1}, clock.Now()),
					e.IsUnwritten(ID{1}))
			}
			s.on(nil)
			close(leave)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if e.IsUnwritten(ID{1}) || !e.HasEverywhere(ID{1}, clock.Now()) {
				t.Errorf("%s, written: unwritten %t", what, e.IsUnwritten(ID{1}))
			}
			time.Sleep(time.Second) // until a sweep whose listing the write has disturbed is over
			_ = e.Destruct()
		})
	}
}

// TestEndLater: an end that nothing else writes holds here at once, and is written in the background.
func TestEndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStorage(t), newClock()
		here, running := use(t, s, clock), use(t, s.view(), clock)
		here.EndLater(ID{1}, clock.Now(), clock.Now().Add(time.Hour))
		if !here.Has(ID{1}, clock.Now()) || here.Has(ID{1}, clock.Now().Add(time.Second)) ||
			here.HasEverywhere(ID{1}, clock.Now()) {
			t.Error("it does not hold here alone")
		}
		time.Sleep(3 * LearnInterval)
		synctest.Wait()
		for what, e := range map[string]*Ended{"ends it": here, "runs": running, "starts": use(t, s.view(), clock)} {
			if !e.HasEverywhere(ID{1}, clock.Now()) || e.Has(ID{1}, clock.Now().Add(time.Second)) {
				t.Errorf("the instance that %s does not know", what)
			}
			_ = e.Destruct()
		}
	})
}

// TestExpectedUntilKnown: whoever asks while an end that was expected becomes known sees one or the other.
func TestExpectedUntilKnown(t *testing.T) {
	clock := newClock()
	e := NewEnded(enginetest.New().Open(enginetest.Kind{}), clock.steady())
	now := clock.Now()
	for i := range 2000 {
		id := numbered(1, i)
		e.ExpectBefore(id, now, now.Add(time.Hour))
		done := make(chan error, 1)
		go func() { done <- e.end(t.Context(), id, end{until: now.Add(time.Hour).Unix(), since: now.Unix()}) }()
		for isDone := false; !isDone; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				isDone = true
			default:
			}
			if !e.Has(id, now) || !e.After(id).After(now) {
				t.Fatal("neither expected nor known")
			}
		}
	}
	e.expected.each(func(id ID, _ end) { t.Errorf("%v is still expected, and is known", id) })
}
