package records

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestJournalHalfWritten: a journal that is named before it is there, as some engines
// do, is read when it is.
func TestJournalHalfWritten(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := newProcess(s, clock), newProcess(s, clock)
	a.expect(t, true, "code")
	s.on(func(m, key string) error {
		if m == "Load" && key == a.journal.key {
			return fs.ErrNotExist
		}
		return nil
	})
	b.expect(t, true, "another")
	s.on(nil)
	b.expect(t, false, "code")
}

// idsInJournal is how many ids fill a journal.
const idsInJournal = journalSize / len(ID{})

// manyIDs makes as many ids as fill half a journal. Others come of another number.
func manyIDs(number int) []ID {
	var ids []ID
	for i := range idsInJournal / 2 {
		ids = append(ids, codeOf(number*idsInJournal + i)[0])
	}
	return ids
}

// useMany fails the test unless many ids were used for the first time, or all of them before.
func (p *process) useMany(t *testing.T, want bool, number int) {
	t.Helper()
	ids := manyIDs(number)
	if want {
		if first, err := p.Use(ids...); err != nil || !first {
			t.Errorf("using %d: %v, %v", number, first, err)
		}
		return
	}
	for _, id := range ids {
		if first, err := p.Use(id); err != nil || first {
			t.Fatalf("using one of %d: %v, %v", number, first, err)
		}
	}
}

// TestJournalFull: what fills journals is put aside, where a use lists nothing, and is read once.
func TestJournalFull(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := newProcess(s, clock), newProcess(s, clock)
	for i := range 11 {
		a.useMany(t, true, i)
		if i%4 == 0 {
			b.expect(t, true, "b"+strconv.Itoa(i))
		}
	}
	var keys []string
	for _, place := range []string{"test/spent", "test/more-spent"} {
		files, err := os.ReadDir(filepath.Join(s.Path, place, "500000"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			keys = append(keys, path.Join(place, file.Name()))
		}
	}
	if len(keys) != 2+5 {
		t.Errorf("%q; want 2 journals, and 5 that were put aside", keys)
	}
	s.count("")
	b.expect(t, true, "another")
	if loads := s.countAll("Load"); loads != 1+1 {
		t.Errorf("%d keys were read, want the journal and what was put aside since", loads)
	}
	b.expect(t, true, "the next")
	if loads := s.countAll("Load"); loads != 1 {
		t.Errorf("%d keys were read, want the journal", loads)
	}
	c := newProcess(s, clock)
	for _, p := range []*process{a, b, c} {
		for i := range 11 {
			p.useMany(t, false, i)
		}
	}
	c.expect(t, true, "c")
	if ids, others := c.remembered(), b.remembered(); ids != 11*idsInJournal/2+5+1 || others != ids-1 {
		t.Errorf("%d and %d ids are remembered", others, ids)
	}
}

// dying is a storage that fails from one of its writes on, or at that one alone. It may carry that one out all the
// same.
type dying struct {
	*testStorage
	writes     int // until then
	recovers   bool
	carriesOut bool
}

func (d *dying) Store(ctx context.Context, key string, value []byte) error {
	d.writes--
	if d.writes >= 0 || d.writes < -1 && d.recovers {
		return d.testStorage.Store(ctx, key, value)
	}
	if d.carriesOut && d.writes == -1 {
		_ = d.testStorage.Store(ctx, key, value)
	}
	return errBroken
}

// TestJournalDies: wherever a process dies, or fails to write, what it was first to use stays used, for those that
// knew a part of it and for those that start; and so does what it goes on to use when the storage is back.
func TestJournalDies(t *testing.T) {
	for _, kind := range []dying{{}, {carriesOut: true}, {recovers: true}, {recovers: true, carriesOut: true}} {
		for writes := range 8 {
			s, clock := newStorage(t), newClock()
			d := kind
			d.testStorage, d.writes = s, writes
			p, knowsSome := newProcess(&d, clock), newProcess(s, clock)
			var first []int
			for i := range 6 { // which takes eight writes
				if ok, err := p.Use(manyIDs(i)...); ok {
					first = append(first, i)
				} else if err == nil {
					t.Errorf("%d: neither first nor an error", i)
				}
				if i%2 == 0 && i < writes {
					knowsSome.expect(t, true, "some"+strconv.Itoa(i))
				}
			}
			if d.writes >= 0 {
				t.Errorf("nothing failed within %d writes", writes)
			}
			check := func(processes ...*process) {
				t.Helper()
				for _, other := range processes {
					for _, i := range first {
						for _, id := range manyIDs(i)[:3] {
							if ok, err := other.Use(id); ok || err != nil {
								t.Errorf("%d of %v, dying at write %d of %+v, used again: %v, %v",
									i, first, writes, kind, ok, err)
							}
						}
					}
				}
			}
			check(newProcess(s, clock), knowsSome)
			d.writes = 100
			for i := range 4 {
				p.useMany(t, true, 10+i)
				first = append(first, 10+i)
			}
			check(newProcess(s, clock), knowsSome, p)
		}
	}
}

// TestAsideMissing: no code is used where a key is missing, or cut, that a journal says there is; and each attempt
// remembers what it could read, once.
func TestAsideMissing(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a := newProcess(s, clock)
	const n = 2*loadsAtOnce + 2
	for i := range 2*n + 1 {
		a.useMany(t, true, i)
	}
	for _, missing := range []uint64{0, 3, loadsAtOnce, n - 1} {
		key := a.asideKey(a.journal.key, missing)
		whole, err := s.FileStorage.Load(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		var told atomic.Int32
		b := newProcess(Bounded(s, func(string, error) { told.Add(1) }), clock)
		for range 3 {
			if err := s.FileStorage.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if ok, err := b.use("another"); ok || !errors.Is(err, ErrStorage) {
				t.Errorf("%d is missing: %v, %v", missing, ok, err)
			}
			if err := s.FileStorage.Store(t.Context(), key, whole[:journalSize-1]); err != nil {
				t.Fatal(err)
			}
			if ok, err := b.use("another"); ok || !errors.Is(err, ErrStorage) {
				t.Errorf("%d is cut: %v, %v", missing, ok, err)
			}
			if ids, want := b.remembered(), int(missing)*idsInJournal; ids != want {
				t.Errorf("%d is missing, and %d ids are remembered, want %d", missing, ids, want)
			}
		}
		if told.Load() != 6 {
			t.Errorf("told %d times", told.Load())
		}
		if err := s.FileStorage.Store(t.Context(), key, whole); err != nil {
			t.Fatal(err)
		}
		b.expect(t, true, "after")
		for i := range 2*n + 1 {
			b.useMany(t, false, i)
		}
		if err := s.FileStorage.Delete(t.Context(), b.journal.key); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAsideSwept: what was put aside is removed after the journals that say so.
func TestAsideSwept(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	for i := range 5 {
		p.useMany(t, true, i)
	}
	at := func(place string) bool {
		_, err := os.Stat(s.Filename(path.Join(place, "500000")))
		return err == nil
	}
	clock.Add(2*time.Hour + 2*ClockSkew)
	p.expect(t, true, "two hours later")
	eventually(t, "the journals are gone", func() bool { return !at("test/spent") })
	newProcess(s, clock).expect(t, true, "by another")
	p.awaitSweeps()
	if !at("test/more-spent") {
		t.Error("what was put aside is gone as soon as the journals")
	}
	clock.Add(time.Hour)
	p.expect(t, true, "an hour later")
	eventually(t, "what was put aside is gone", func() bool { return !at("test/more-spent") })
}

// TestUsesDisturbed: with files, a listing breaks off whenever another process gives
// a file its name meanwhile, however often that is.
func TestUsesDisturbed(t *testing.T) {
	s, clock := newStorage(t), newClock()
	newProcess(s, clock).expect(t, true, "code")
	p := newProcess(s, clock)
	for name, want := range map[string]bool{"code": false, "another": true} {
		var listed atomic.Int64
		s.on(func(m, key string) error {
			if m == "List" && key == "test/spent/500000" && listed.Add(1) < listTries {
				return fs.ErrNotExist
			}
			return nil
		})
		p.expect(t, want, name)
	}
}

// TestStoreCarriedOutLate: a write that was given up on, and is carried out when
// others came after it, undoes none of them.
func TestStoreCarriedOutLate(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	p.expect(t, true, "one")
	stale := p.journal.key
	s.on(func(m, _ string) error {
		if m == "Store" {
			return errBroken
		}
		return nil
	})
	if ok, _ := p.use("two"); ok {
		t.Error("first, though nothing was written")
	}
	s.on(nil)
	p.expect(t, true, "three")
	late := idsOf("one", "two")
	content := slices.Concat(make([]byte, asideSize), late[0][:], late[1][:])
	if err := s.FileStorage.Store(t.Context(), stale, content); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "three"} {
		newProcess(s, clock).expect(t, false, name)
	}
}

// TestJournalTorn: an engine that shows a value half-written hides no use, neither
// the one that was cut nor those after it.
func TestJournalTorn(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := newProcess(s, clock), newProcess(s, clock)
	a.expect(t, true, "one", "two", "three")
	whole := bytes.Clone(a.journal.content)
	for cut := range whole {
		if err := s.FileStorage.Store(t.Context(), a.journal.key, whole[:cut]); err != nil {
			t.Fatal(err)
		}
		b.expect(t, true, fmt.Sprint("b", cut))
		if cut%len(ID{}) != len(ID{})/2 {
			continue
		}
		if err := s.FileStorage.Store(t.Context(), a.journal.key, whole); err != nil {
			t.Fatal(err)
		}
		b.expect(t, false, "one")
		b.expect(t, false, "three")
		b.expect(t, false, "two")
		b = newProcess(s, clock)
	}
}

// TestUseReadFailsHalfWay: what was read of others' journals before a storage failed
// is known, and the rest is read the next time.
func TestUseReadFailsHalfWay(t *testing.T) {
	names := []string{"one", "two", "three", "four"}
	some := func() (*testStorage, *testClock) {
		s, clock := newStorage(t), newClock()
		for _, name := range names {
			newProcess(s, clock).expect(t, true, name)
			clock.Add(15 * time.Minute)
		}
		return s, clock
	}
	for fails := range names {
		for _, name := range names {
			s, clock := some()
			p := newProcess(s, clock)
			var loads int
			s.on(func(m, _ string) error {
				if m == "Load" {
					if loads++; loads > fails {
						return errBroken
					}
				}
				return nil
			})
			for range 2 {
				loads = 0
				if ok, err := p.use(name); ok || err != nil && !errors.Is(err, errBroken) {
					t.Errorf("the storage failed after %d journals: used %q: %v, %v", fails, name, ok, err)
				}
			}
			s.on(nil)
			p.expect(t, false, name)
			for _, name := range names {
				p.expect(t, false, name)
			}
		}
	}

	// The hour has passed when the storage comes back.
	s, clock := some()
	clock.Add(-time.Minute) // 0:59
	p := newProcess(s, clock)
	s.on(func(m, key string) error {
		if m == "Load" || m == "List" && path.Base(key) == "499999" {
			return errBroken
		}
		return nil
	})
	for range 2 {
		if ok, err := p.use("mine"); ok || !errors.Is(err, errBroken) {
			t.Errorf("%v, %v", ok, err)
		}
		clock.Add(7 * time.Minute) // to 1:07
	}
	s.on(nil)
	p.expect(t, false, "four")
	p.expect(t, true, "mine") // what it wrote itself is nobody else's
}

// TestJournalTurns: what is used after the hour has turned is met by whoever reads
// the new hour alone, and so is what is written into the next batches.
func TestJournalTurns(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := newProcess(s, clock), newProcess(s, clock)
	for hour := range 3 {
		for part := range 4 {
			name := fmt.Sprint(hour, part)
			a.expect(t, true, name)
			if dir := path.Dir(a.journal.key); dir != fmt.Sprint("test/spent/", hourOf(clock.Now())) {
				t.Errorf("%s: written to %s", name, dir)
			}
			b.expect(t, false, name)
			b.expect(t, true, "b"+name)
			a.expect(t, false, "b"+name)
			clock.Add(15 * time.Minute)
		}
	}
}

// TestUseWrittenLate: a use whose writing took long is met by whoever has read all
// meanwhile, by a clock that is ahead.
func TestUseWrittenLate(t *testing.T) {
	s, there, here := newStorage(t), newClock(), newClock()
	there.Add(time.Hour - time.Second)
	here.now.Store(there.Now().Add(ClockSkew).Unix())
	slow := s.view()
	a, b := newProcess(slow, there), newProcess(s, here)
	isFirst := true
	slow.on(func(m, _ string) error {
		if m == "Store" && isFirst {
			isFirst = false
			there.Add(useTimeout)
			here.Add(useTimeout)
			b.expect(t, true, "another")
		}
		return nil
	})
	a.expect(t, true, "code")
	b.expect(t, false, "code")
}

// TestUseElsewhere: when the storage has become another one, what was used there counts, however recently this process
// has read, and others are not sent to what it put aside in the one before.
func TestUseElsewhere(t *testing.T) {
	for _, later := range []time.Duration{time.Minute, 8 * time.Minute} { // in the journal's hour, and the next
		clock := newClock()
		clock.Add(58 * time.Minute)
		one, two := newStorage(t), newStorage(t)
		n := new(Newest)
		n.Use(one)
		here, there := newProcess(Bounded(n, nil), clock), newProcess(two, clock)
		for i := range 3 {
			here.useMany(t, true, i)
		}
		there.expect(t, true, "there")
		clock.Add(later)
		here.expect(t, true, "before")
		n.Use(two)
		here.Relearn()
		here.expect(t, false, "there")
		here.expect(t, true, "here")
		newProcess(two, clock).expect(t, false, "here")
		there.expect(t, true, "after")
	}
}

// TestUseWhileAsleep: a machine that sleeps while a use is noted does not take it for the first: others look into that
// hour no longer.
func TestUseWhileAsleep(t *testing.T) {
	for _, by := range []time.Duration{2 * time.Hour, -time.Hour} {
		s, clock := newStorage(t), newClock()
		clock.Add(59 * time.Minute)
		a := newProcess(s, clock)
		a.expect(t, true, "before")
		var asleep atomic.Bool
		s.on(func(method, _ string) error {
			if method == "Store" && !asleep.Swap(true) {
				clock.Set(by)
			}
			return nil
		})
		if first, err := a.use("code"); first || !errors.Is(err, ErrStorage) {
			t.Errorf("by %s: %v, %v", by, first, err)
		}
		a.expect(t, true, "after")
	}
}

// TestHeaps: a visitor who chooses codes by the beginning of their hashes fills no heap more than the others.
func TestHeaps(t *testing.T) {
	set := new(idSet)
	const n = 1 << 14
	for i := range n {
		set.add(ID{2: byte(i >> 8), 3: byte(i)})
	}
	for _, heap := range set {
		if len(heap) > 3*n/len(set) {
			t.Errorf("a heap has %d of %d ids", len(heap), n)
		}
	}
}
