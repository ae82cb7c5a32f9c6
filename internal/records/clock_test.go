package records

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestMayRemove: the wall clock is believed when it has advanced like the steady one for an hour.
func TestMayRemove(t *testing.T) {
	const year = 365 * 24 * time.Hour
	type step struct {
		add, set time.Duration
		may      bool
	}
	for name, steps := range map[string][]step{
		"a process that has just started": {{0, 0, false}, {59 * time.Minute, 0, false}, {time.Minute, 0, true},
			{year, 0, true}},
		"a year ahead for a minute": {{2 * time.Hour, 0, true}, {0, year, false}, {time.Minute, 0, false},
			{0, -year, false}, {59 * time.Minute, 0, false}, {time.Minute, 0, true}},
		"ahead between two looks": {{2 * time.Hour, 0, true}, {time.Minute, year, false},
			{time.Hour, -year, false}, {time.Hour, 0, true}},
		"ahead for longer than an hour": {{2 * time.Hour, 0, true}, {0, year, false}, {time.Hour, 0, true}},
		"ahead since before the start":  {{0, year, false}, {59 * time.Minute, 0, false}},
		"set back":                      {{2 * time.Hour, 0, true}, {0, -year, false}, {time.Hour, 0, true}},
		"a night's sleep":               {{2 * time.Hour, 0, true}, {0, 8 * time.Hour, false}, {time.Hour, 0, true}},
		"set by seconds, as NTP does": {{2 * time.Hour, 0, true}, {time.Hour, 20 * time.Second, true},
			{time.Hour, -40 * time.Second, true}, {time.Hour, 40 * time.Second, true}},
		"set in many small steps": {{2 * time.Hour, 0, true}, {time.Minute, time.Minute, true},
			{time.Minute, time.Minute, false}, {time.Minute, time.Minute, false}},
	} {
		clock := newClock()
		c := NewClock(clock.Now, clock.Elapsed)
		for n, step := range steps {
			clock.Add(step.add)
			clock.Set(step.set)
			if may := c.MayRemove(c.Now()); may != step.may {
				t.Errorf("%s, step %d: may remove: %v", name, n, may)
			}
		}
	}
}

// TestMayRemoveStale: a time that was read before the clock was set right is not believed.
func TestMayRemoveStale(t *testing.T) {
	clock := newClock()
	c := clock.steady()
	clock.Set(24 * time.Hour)
	ahead := c.Now()
	clock.Set(-24 * time.Hour)
	if c.MayRemove(ahead) {
		t.Error("a clock that was a day ahead removes")
	}
}

// TestClockFarAhead: while the clock is a year ahead, everything here says that its time has come:
// notes of ended sessions, used codes, records of sessions. None is removed, from memory nor from
// the storage, and they count when the clock is right. In time, all of them are removed.
func TestClockFarAhead(t *testing.T) { synctest.Test(t, testClockFarAhead) }

func testClockFarAhead(t *testing.T) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // for sweeps that its writes disturb
	const year = 365 * 24 * time.Hour
	s, clock := newStorage(t), newClock()
	ctx, began, until := t.Context(), clock.Now(), clock.Now().Add(10*time.Hour)
	ended, once, shelf := NewEnded(s, clock.steady()), newProcess(s, clock), NewShelf(s, "shelf", clock.steady())

	n := byte(100)
	write := func() { // what sweeps at its time
		t.Helper()
		n++
		at := clock.Now().Add(time.Hour)
		if err := errors.Join(ended.End(ctx, ID{n}, at), shelf.Put(ctx, string('a'+rune(n)), at, []byte{1}),
			ended.Learn(ctx)); err != nil {
			t.Fatal(err)
		}
		once.expect(t, true, "other"+string('a'+rune(n)))
		time.Sleep(2 * time.Second) // by when a sweep has ended whose listing was disturbed
	}
	if err := errors.Join(ended.End(ctx, ID{1}, until),
		shelf.Put(ctx, "record", until, []byte("of a session"))); err != nil {
		t.Fatal(err)
	}
	once.expect(t, true, "code")
	counts := func(when string) {
		t.Helper()
		fresh := NewEnded(s, clock.steady())
		if err := errors.Join(ended.Learn(ctx), fresh.Learn(ctx)); err != nil {
			t.Fatal(err)
		}
		if !ended.Has(ID{1}, began) || !fresh.Has(ID{1}, began) {
			t.Errorf("%s: the end is known: %v, by an instance that starts: %v", when, ended.Has(ID{1}, began),
				fresh.Has(ID{1}, began))
		}
		once.expect(t, false, "code")
		newProcess(s, clock).expect(t, false, "code")
		if _, err := shelf.Get(ctx, "record", until); err != nil {
			t.Errorf("%s: the record: %v", when, err)
		}
	}

	clock.Set(year)
	write()
	clock.Add(time.Minute)
	write()
	clock.Set(-year)
	counts("the clock is right again")
	clock.Add(30 * time.Minute)
	write()
	counts("after half an hour")

	clock.Add(12 * time.Hour)
	write()
	if ended.Has(ID{1}, began) {
		t.Error("the end is kept for good in memory")
	}
	if _, err := shelf.Get(ctx, "record", until); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is kept for good: %v", err)
	}
	if once.isUsed(idsOf("code")[0]) {
		t.Error("the code is kept for good in memory")
	}
	// What was written while the clock was ahead is removed when its time has come.
	clock.Add(year + 12*time.Hour)
	write()
	for _, dir := range []string{"aventus_auth/ended/all", "aventus_auth/ended/lately", "test/spent", "shelf"} {
		keys, err := s.FileStorage.List(ctx, dir, true)
		if err != nil {
			t.Fatal(err)
		}
		files := 0
		for _, key := range keys {
			isLandmark := path.Base(path.Dir(key)) == landmarkFolder
			if info, err := s.FileStorage.Stat(ctx, key); err == nil && info.IsTerminal && !isLandmark {
				files++
			}
		}
		if files != 1 {
			t.Errorf("%s is left with %s", dir, strings.Join(keys, " "))
		}
	}
	ends := 0
	ended.ended.each(func(ID, end) { ends++ })
	if uses := once.remembered(); ends != 1 || uses != 1 || len(once.read) != 0 {
		t.Errorf("memory is left with %d ends, %d uses, %d journals", ends, uses, len(once.read))
	}
}
