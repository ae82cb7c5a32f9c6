package records

import (
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// TestEnded: what one instance ends, another learns, and what it has learned holds
// while the storage is down.
func TestEnded(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := NewEnded(clock.Now), NewEnded(clock.Now)
	for _, e := range []*Ended{a, b} {
		e.Use(s)
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
	if err := a.End(t.Context(), two, clock.Now().Add(time.Hour)); !errors.Is(err, broken) || !a.Has(two, clock.Now()) {
		t.Errorf("error %v, ended here %t", err, a.Has(two, clock.Now()))
	}
	s.on(nil)

	// One that starts later, or was away for long, learns all of it.
	clock.Add(40 * time.Minute)
	c := NewEnded(clock.Now)
	c.Use(s)
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
	a := NewEnded(clock.Now)
	a.Use(storage)
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
		return err == nil && files == 1
	})
	all, err := storage.List(t.Context(), "aventus_auth/ended/all", true)
	if err != nil || len(all) != 52 { // the hour's folder among them
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
		a, b := NewEnded(clock.Now), NewEnded(clock.Now)
		a.Use(Bounded(s, nil))
		if err := a.End(t.Context(), ID{1}, clock.Now().Add(10*time.Hour)); err != nil {
			t.Fatal(err)
		}
		clock.Add(2 * time.Hour)
		if err := a.End(t.Context(), ID{2}, clock.Now().Add(10*time.Hour)); err != nil { // sweeps
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := errors.Join(a.Learn(t.Context()), a.End(t.Context(), ID{2}, clock.Now().Add(10*time.Hour))); err != nil {
			t.Fatal(err)
		}
		s.on(func(method, key string) error {
			if method == "List" && key == "aventus_auth/ended/all" {
				time.Sleep(40 * time.Second)
			}
			return nil
		})
		begun := time.Now()
		b.Use(Bounded(s, nil))
		if waited := time.Since(begun); waited != storageTimeout {
			t.Errorf("it waited for %v", waited)
		}
		if b.Has(ID{1}, clock.Now()) || !b.Has(ID{2}, clock.Now()) {
			t.Error("what ended lately is not known, or what ended long ago is")
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
		a, b := NewEnded(other.Now), NewEnded(clock.Now)
		for _, e := range []*Ended{a, b} {
			e.Use(s)
			defer e.Destruct()
		}
		for i := range byte(120) { // every place within a period
			clock.Add(LearnInterval)
			other.now.Store(clock.Now().Add(off - 10*time.Second).Unix()) // and ten seconds for the writing
			if err := errors.Join(b.Learn(t.Context()), a.End(t.Context(), ID{i}, clock.Now().Add(time.Hour)), b.Learn(t.Context())); err != nil {
				t.Fatal(err)
			}
			if !b.Has(ID{i}, clock.Now()) {
				t.Fatalf("a clock that is off by %v: end %d is not learned", off, i)
			}
		}
	}
}

// TestEndedStops: what learns ends with the last that needs it.
func TestEndedStops(t *testing.T) {
	e := NewEnded(time.Now)
	e.Use(&certmagic.FileStorage{Path: t.TempDir()})
	if err := e.Destruct(); err != nil {
		t.Fatal(err)
	}
	if err := NewEnded(time.Now).Destruct(); err != nil { // never used
		t.Fatal(err)
	}
}

// TestShelf: what is put can be got until it is swept, by whoever knows when that
// is.
func TestShelf(t *testing.T) {
	storage, clock := newStorage(t), newClock()
	s := NewShelf(storage, "shelf", clock.Now)
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
	if got, err := s.Find(t.Context(), "b"); err != nil || string(got) != "2" {
		t.Errorf("%q, %v", got, err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "b", expires); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Find(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found what is not there: %v", err)
	}
	storage.on(func(method, _ string) error {
		if method == "List" {
			return errBroken
		}
		return nil
	})
	if _, err := s.Find(t.Context(), "a"); !errors.Is(err, errBroken) {
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

// TestSweepOfMany: to list and to delete what a busy hour left may take longer than a
// request waits, and is done all the same.
func TestSweepOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, clock := newStorage(t), newClock()
		s := NewShelf(Bounded(storage, nil), "shelf", clock.Now)
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

// TestEndedListVanishes: with files, a listing breaks off when something goes while
// it is made. That is not the same as nothing being there.
func TestEndedListVanishes(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a := NewEnded(clock.Now)
	a.Use(s)
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
	b := NewEnded(clock.Now)
	b.Use(s)
	defer b.Destruct()
	if !b.Has(ID{1}, clock.Now()) {
		t.Error("what was there was taken for nothing")
	}
}
