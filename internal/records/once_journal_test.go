package records

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
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
		if m == "Load" && key == a.journal {
			return fs.ErrNotExist
		}
		return nil
	})
	b.expect(t, true, "another")
	s.on(nil)
	b.expect(t, false, "code")
}

// A journal that is full is followed by another; all of them count.
func TestJournalFull(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := newProcess(s, clock), newProcess(s, clock)
	const n = 3 * journalSize / len(ID{})
	for i := range n / 10 {
		var names []string
		for j := range 10 {
			names = append(names, strconv.Itoa(10*i+j))
		}
		a.expect(t, true, names...)
		if i%100 == 0 {
			b.expect(t, true, "b"+strconv.Itoa(i))
		}
	}
	journals, err := os.ReadDir(filepath.Join(s.Path, "test", "spent", "500000"))
	if err != nil || len(journals) != 4 {
		t.Errorf("%d journals, error %v; want 3 of one and 1 of the other", len(journals), err)
	}
	for _, p := range []*process{b, newProcess(s, clock)} {
		for i := range n / 10 {
			p.expect(t, false, strconv.Itoa(10*i+i%10))
		}
	}
	// What is full is not read again.
	s.count("")
	b.expect(t, true, "another")
	if loads := s.countAll("Load"); loads != 2 {
		t.Errorf("%d journals were read, want the two others that are not full", loads)
	}
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
	stale := p.journal
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
	if err := s.FileStorage.Store(t.Context(), stale, append(late[0][:], late[1][:]...)); err != nil {
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
	whole := bytes.Clone(a.content)
	for cut := range whole {
		if err := s.FileStorage.Store(t.Context(), a.journal, whole[:cut]); err != nil {
			t.Fatal(err)
		}
		b.expect(t, true, fmt.Sprint("b", cut))
		if cut%len(ID{}) != len(ID{})/2 {
			continue
		}
		if err := s.FileStorage.Store(t.Context(), a.journal, whole); err != nil {
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
			if dir := path.Dir(a.journal); dir != fmt.Sprint("test/spent/", hourOf(clock.Now())) {
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
