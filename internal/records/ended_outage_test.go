package records

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
					time.Sleep(2 * time.Second) // by when a sweep has ended whose listing was disturbed
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

// TestAdoptedEndIsWritten: what the storage did not take of an end is written, each half by itself, by what takes the
// place of the memory that noted it after a reload.
func TestAdoptedEndIsWritten(t *testing.T) {
	for _, part := range []string{"aventus_auth/ended/all/", "aventus_auth/ended/lately/"} {
		s, clock := newStorage(t), newClock()
		before, next := NewEnded(s, clock.steady()), NewEnded(s.view(), clock.steady())
		running := NewEnded(s.view(), clock.steady())
		if err := errors.Join(next.Learn(t.Context()), running.Learn(t.Context())); err != nil {
			t.Fatal(err)
		}
		s.on(func(method, key string) error {
			if method == "Store" && strings.HasPrefix(key, part) {
				return errBroken
			}
			return nil
		})
		if err := before.End(t.Context(), ID{1}, clock.Now().Add(3*time.Hour)); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		next.Adopt(before)
		if !next.Has(ID{1}, clock.Now()) || !next.IsUnwritten(ID{1}) {
			t.Errorf("%s: adopted: ended %t, unwritten %t", part, next.Has(ID{1}, clock.Now()),
				next.IsUnwritten(ID{1}))
		}
		next.writeAgain(t.Context())
		if next.IsUnwritten(ID{1}) {
			t.Errorf("%s: it is still unwritten", part)
		}
		for what, e := range map[string]*Ended{"runs": running, "starts": NewEnded(s.view(), clock.steady())} {
			if err := e.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !e.Has(ID{1}, clock.Now()) {
				t.Errorf("%s: an instance that %s does not know", part, what)
			}
		}
	}
}

// TestEndAfterItIsAdopted: a request that is under way during a reload ends a session as before.
func TestEndAfterItIsAdopted(t *testing.T) {
	s, clock := newStorage(t), newClock()
	before, next := NewEnded(s, clock.steady()), NewEnded(s.view(), clock.steady())
	until := clock.Now().Add(3 * time.Hour)
	if err := before.Replace(t.Context(), ID{1}, until); err != nil {
		t.Fatal(err)
	}
	next.Adopt(before)
	if err := before.End(t.Context(), ID{1}, until); err != nil || !before.Has(ID{1}, clock.Now()) {
		t.Errorf("%v; ended %t", err, before.Has(ID{1}, clock.Now()))
	}
	if err := next.Learn(t.Context()); err != nil || !next.Has(ID{1}, clock.Now()) {
		t.Errorf("%v; learned %t", err, next.Has(ID{1}, clock.Now()))
	}
}

// TestHeed: what has ended in another storage counts as well. What could not be written there is written here, and is
// still to be written there, until it would have ended by itself.
func TestHeed(t *testing.T) {
	down, up, clock := newStorage(t), newStorage(t), newClock()
	there, here := NewEnded(down, clock.steady()), NewEnded(up, clock.steady())
	until := clock.Now().Add(3 * time.Hour)
	if err := there.End(t.Context(), ID{1}, until); err != nil || there.HasUnwritten() {
		t.Fatalf("%v; unwritten: %t", err, there.HasUnwritten())
	}
	down.on(func(method, _ string) error {
		if method == "Store" {
			return errBroken
		}
		return nil
	})
	if err := there.End(t.Context(), ID{2}, until); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	there.ExpectBefore(ID{3}, clock.Now(), until)
	here.Heed(there)
	for id := byte(1); id <= 3; id++ {
		if !here.Has(ID{id}, clock.Now()) {
			t.Errorf("%d has ended elsewhere only", id)
		}
	}
	here.writeAgain(t.Context())
	next := NewEnded(up.view(), clock.steady())
	if err := next.Learn(t.Context()); err != nil || next.Has(ID{1}, clock.Now()) || !next.Has(ID{2}, clock.Now()) {
		t.Errorf("%v; written: the first %t, the second %t", err, next.Has(ID{1}, clock.Now()),
			next.Has(ID{2}, clock.Now()))
	}
	if here.HasUnwritten() || !there.HasUnwritten() {
		t.Errorf("unwritten here: %t, there: %t", here.HasUnwritten(), there.HasUnwritten())
	}
	clock.Add(3*time.Hour + 2*ClockSkew)
	if there.HasUnwritten() {
		t.Error("what would have ended by now is to be written")
	}
}
