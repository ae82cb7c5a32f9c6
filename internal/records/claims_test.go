package records

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// testClock stands still until a test turns it.
type testClock struct{ now atomic.Int64 }

// newClock returns a clock that shows the full hour.
func newClock() *testClock {
	c := new(testClock)
	c.now.Store(500_000 * 3600)
	return c
}

func (c *testClock) Now() time.Time       { return time.Unix(c.now.Load(), 0) }
func (c *testClock) Add(by time.Duration) { c.now.Add(int64(by / time.Second)) }

const keep = time.Hour

// hourOf returns the hour of a time, as records are filed.
func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// process is one that shares a storage, or one that came after a restart.
type process struct {
	*Claims
	s certmagic.Storage
}

func newProcess(s certmagic.Storage, clock *testClock) *process {
	return &process{NewClaims("test/spent", keep, clock.Now), s}
}

// idsOf makes ids of names.
func idsOf(names ...string) []ID {
	var ids []ID
	for _, name := range names {
		ids = append(ids, ID(append([]byte(name), make([]byte, len(ID{}))...)))
	}
	return ids
}

func (p *process) claim(names ...string) (bool, error) { return p.Claim(p.s, idsOf(names...)...) }

// expect fails the test unless the claim's result is as wanted.
func (p *process) expect(t *testing.T, want bool, names ...string) {
	t.Helper()
	if got, err := p.claim(names...); err != nil || got != want {
		t.Errorf("claiming %q: %v, error %v; want %v", names, got, err, want)
	}
}

func TestClaim(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	p.expect(t, true, "code1", "state1")
	p.expect(t, false, "code1", "state1")
	p.expect(t, false, "code1", "state2")
	// Either of them counts, for itself and in either place.
	p.expect(t, false, "code2", "state1")
	p.expect(t, false, "state1")
	p.expect(t, false, "code2", "code1")
	// What lost left no claim behind.
	p.expect(t, true, "code2", "state2")

	// A restart, and another process.
	newProcess(s, clock).expect(t, false, "code1", "state3")
	newProcess(s, clock).expect(t, false, "code3", "state2")
	newProcess(s, clock).expect(t, true, "code4", "state4")
	p.expect(t, false, "code4", "state5")
	p.expect(t, false, "code5", "state4")
	// Another use of the same storage.
	other := NewClaims("test/other", keep, clock.Now)
	if ok, err := other.Claim(s, idsOf("code1", "state1")...); !ok || err != nil {
		t.Errorf("%v, error %v", ok, err)
	}
	if _, err := os.Stat(filepath.Join(s.Path, "locks")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there are locks: %v", err)
	}
}

// Fifty callbacks at once, at two instances: one of them at most gets to send the
// code, and one does where all of them come to the same instance.
func TestClaimAtOnce(t *testing.T) {
	for _, n := range []int{1, 2} {
		for range 20 {
			s, clock := newStorage(t), newClock()
			instances := []*process{newProcess(s, clock), newProcess(s, clock)}[:n]
			var won atomic.Int64
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range 50 {
				wg.Go(func() {
					<-start
					// The states differ: the code alone decides.
					ok, err := instances[i%n].claim("code", "state"+strconv.Itoa(i))
					if err != nil {
						t.Error(err)
					}
					if ok {
						won.Add(1)
					}
				})
			}
			close(start)
			wg.Wait()
			if got := won.Load(); got > 1 || n == 1 && got != 1 {
				t.Fatalf("%d of 50 won at %d instances", got, n)
			}
			for _, p := range instances {
				p.expect(t, false, "code")
			}
		}
	}
}

// TestClaimsTogether: what is claimed while the journal is being written is written
// together, and each claim gets a result of its own.
func TestClaimsTogether(t *testing.T) {
	s, clock := newStorage(t), newClock()
	newProcess(s, clock).expect(t, true, "taken")
	p := newProcess(s, clock)
	writing, release := make(chan struct{}), make(chan struct{})
	first := true
	s.on(func(m, _ string) error {
		if m == "Store" && first {
			first = false
			close(writing)
			<-release
		}
		return nil
	})
	results := make(chan error)
	claim := func(want bool, names ...string) {
		go func() {
			got, err := p.claim(names...)
			if err == nil && got != want {
				err = fmt.Errorf("claiming %q: %v", names, got)
			}
			results <- err
		}()
	}
	claim(true, "code", "state")
	<-writing
	// What is under way is claimed already, and need not wait to be told so.
	p.expect(t, false, "code", "state2")
	p.expect(t, false, "code2", "state")
	for i := range 20 {
		claim(true, "code"+strconv.Itoa(10+i), "state"+strconv.Itoa(10+i))
	}
	claim(false, "taken", "state99") // by another, of whom nothing is known yet
	awaitWaiting(t, p, 21)
	s.count("")
	close(release)
	for range 22 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := s.countAll("Store"); n != 1 {
		t.Errorf("21 claims were written in %d calls", n)
	}
}

// awaitWaiting waits until so many claims wait.
func awaitWaiting(t *testing.T, p *process, n int) {
	t.Helper()
	eventually(t, "the claims wait", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.waiting) == n
	})
}

// TestClaimTie: two instances that claim the same thing, each before it has read the
// other's journal, do not both get it, whichever is faster.
func TestClaimTie(t *testing.T) {
	s, clock := newStorage(t), newClock()
	a, b := newProcess(s, clock), newProcess(s, clock)
	var met atomic.Bool
	s.on(func(m, _ string) error {
		if m == "List" && met.CompareAndSwap(false, true) { // a has written, and not read
			b.expect(t, false, "code")
		}
		return nil
	})
	a.expect(t, false, "code")
}

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

// A claim counts for as long as it was asked to be kept, whatever hour it was made
// in, and by whatever clock within the limits; also to one who has read the journals
// before it was made, and not since.
func TestClaimLasts(t *testing.T) {
	for _, made := range []time.Duration{0, time.Second, 30 * time.Minute, time.Hour - time.Second} {
		for _, skew := range []time.Duration{0, ClockSkew, -ClockSkew} {
			for _, later := range []time.Duration{0, time.Second, 30 * time.Minute, time.Hour - time.Second, keep} {
				for _, before := range []time.Duration{0, time.Minute, 3 * time.Hour} {
					s, there, here := newStorage(t), newClock(), newClock()
					there.Add(made)
					here.Add(made + skew - before)
					p := newProcess(s, here)
					if before > 0 {
						p.expect(t, true, "before")
					}
					newProcess(s, there).expect(t, true, "code")
					here.Add(before + later)
					p.expect(t, false, "code")
					if t.Failed() {
						t.Fatalf("made %v after the hour, asked %v later by a clock %v off, that last asked %v before", made, later, skew, before)
					}
				}
			}
		}
	}
}

// TestClaimClockSetBack: a clock that was ahead by hours does not keep anyone from
// claiming, nor make them miss what others claim.
func TestClaimClockSetBack(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	clock.Add(2 * time.Hour)
	p.expect(t, true, "one")
	clock.Add(-2 * time.Hour)
	newProcess(s, clock).expect(t, true, "two")
	p.expect(t, false, "two")
	p.expect(t, false, "one")
	p.expect(t, true, "three")
}

// Of a storage that fails, no claim comes: neither a yes nor a no.
func TestClaimStorageFails(t *testing.T) {
	for _, method := range []string{"Store", "List", "Load"} {
		s, clock := newStorage(t), newClock()
		newProcess(s, clock).expect(t, true, "taken")
		p := newProcess(s, clock)
		s.on(func(m, _ string) error {
			if m == method {
				return errBroken
			}
			return nil
		})
		for range 2 {
			if ok, err := p.claim("code", "state"); ok || !errors.Is(err, errBroken) {
				t.Errorf("%s fails: %v, error %v", method, ok, err)
			}
		}
		s.on(nil)
		p.expect(t, true, "code", "state")
		p.expect(t, false, "taken")
		newProcess(s, clock).expect(t, false, "code")
	}

	// What is old cannot be swept: that is no reason to refuse a claim.
	s, clock := newStorage(t), newClock()
	s.on(func(m, key string) error {
		if m == "Delete" || m == "List" && key == "test/spent" {
			return errBroken
		}
		return nil
	})
	newProcess(s, clock).expect(t, true, "code")
}

// TestClaimStorageLies: some engines say that nothing is there when they are down.
func TestClaimStorageLies(t *testing.T) {
	s, clock := newStorage(t), newClock()
	newProcess(s, clock).expect(t, true, "code")
	p := newProcess(s, clock)
	s.on(func(m, _ string) error {
		if m == "List" {
			return fs.ErrNotExist
		}
		return nil
	})
	if ok, err := p.claim("code"); ok || !errors.Is(err, ErrStorage) {
		t.Errorf("%v, error %v", ok, err)
	}
	s.on(nil)
	p.expect(t, false, "code")
}

// TestClaimsDisturbed: with files, a listing breaks off whenever another process gives
// a file its name meanwhile, however often that is.
func TestClaimsDisturbed(t *testing.T) {
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
	if ok, _ := p.claim("two"); ok {
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

// TestClaimTooSlow: whoever waits for a storage that hangs is told so in time.
func TestClaimTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStorage(t), newClock()
		p := newProcess(s, clock)
		release := make(chan struct{})
		s.on(func(m, _ string) error { <-release; return nil })
		begun := time.Now()
		if ok, err := p.claim("code"); ok || !errors.Is(err, ErrStorage) || time.Since(begun) != claimTimeout {
			t.Errorf("%v, error %v after %v", ok, err, time.Since(begun))
		}
		close(release)
		synctest.Wait()
		p.expect(t, false, "code") // it was written in the end
	})
}

// TestClaimsForgotten: what does not count any more is not remembered.
func TestClaimsForgotten(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	for hour := range 5 {
		p.expect(t, true, "p"+strconv.Itoa(hour))
		newProcess(s, clock).expect(t, true, "q"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	p.expect(t, true, "last")
	// At 5:00, what was claimed at 3:50 counts, by others at any time of that hour.
	if len(p.claimed) != 4 || len(p.read) != 4 {
		t.Errorf("%d ids and %d journals are remembered", len(p.claimed), len(p.read))
	}
}

// Old claims are removed, and those that still count are not.
func TestSweep(t *testing.T) {
	s, clock := newStorage(t), newClock()
	c := newProcess(s, clock)
	hours := func() string {
		var names []string
		dirs, err := os.ReadDir(filepath.Join(s.Path, "test", "spent"))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			hour, err := strconv.ParseInt(dir.Name(), 10, 64)
			if err != nil {
				names = append(names, dir.Name())
			} else {
				names = append(names, strconv.FormatInt(hour-500_000, 10))
			}
		}
		return strings.Join(names, " ")
	}
	// Somebody else's file, whose name is no hour, stays.
	if err := s.FileStorage.Store(t.Context(), "test/spent/README", []byte{1}); err != nil {
		t.Fatal(err)
	}
	for hour := range 6 {
		c.expect(t, true, "code"+strconv.Itoa(hour), "state"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	// At 5:00, a claim counts that was made at 3:55 by the clock of that instance;
	// and for an instance whose clock is late, one that was made at 3:50.
	eventually(t, "the old hours are gone", func() bool { return hours() == "3 4 5 README" })
	clock.Add(-time.Hour)
	c.place.sweepNow(t.Context(), hourOf((clock.Now()).Add(-c.keep-2*ClockSkew)))
	if got := hours(); got != "3 4 5 README" {
		t.Errorf("a sweep left the hours %s", got)
	}
	// The sweep is due once an hour, and not at every claim.
	clock.Add(time.Minute)
	s.count("")
	c.expect(t, true, "another")
	time.Sleep(20 * time.Millisecond)
	if n := s.count("List test/spent"); n != 0 {
		t.Errorf("swept %d times in the same hour", n)
	}
	newProcess(s, clock).expect(t, false, "code5")
	newProcess(s, clock).expect(t, false, "code4")
}

// What is old long since, after a stop, is swept by the first claim.
func TestSweepAfterStop(t *testing.T) {
	s, clock := newStorage(t), newClock()
	c := newProcess(s, clock)
	c.expect(t, true, "code")
	clock.Add(90 * 24 * time.Hour)
	c = newProcess(s, clock)
	c.expect(t, true, "another")
	old := path.Join("test/spent", "500000")
	eventually(t, "the old hour is gone", func() bool {
		_, err := os.Stat(s.Filename(old))
		return os.IsNotExist(err)
	})
	c.expect(t, false, "another")
}

// A storage that fails during a sweep is left in peace, and the next one does
// what is left.
func TestSweepFails(t *testing.T) {
	s, clock := newStorage(t), newClock()
	for hour := range 3 {
		newProcess(s, clock).expect(t, true, "code"+strconv.Itoa(hour), "state"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	clock.Add(24 * time.Hour)
	place, oldest := newPeriods(s, "test/spent", time.Hour), hourOf(clock.Now())-2
	var deletes atomic.Int64
	s.on(func(m, _ string) error {
		if m == "Delete" {
			deletes.Add(1)
			return errBroken
		}
		return nil
	})
	place.sweepNow(t.Context(), oldest)
	if n := deletes.Load(); n > 2 {
		t.Errorf("asked a failing storage %d times", n)
	}
	// That somebody else was faster is no failure: three hours, each of a file
	// in a directory, are tried.
	s.on(func(m, _ string) error {
		if m == "Delete" {
			deletes.Add(1)
			return fs.ErrNotExist
		}
		return nil
	})
	deletes.Store(0)
	place.sweepNow(t.Context(), oldest)
	if n := deletes.Load(); n < 6 {
		t.Errorf("tried to delete %d times, want 6", n)
	}
	s.on(nil)
	place.sweepNow(t.Context(), oldest)
	if dirs, _ := os.ReadDir(filepath.Join(s.Path, "test", "spent")); len(dirs) != 0 {
		t.Errorf("%d hours are left", len(dirs))
	}
}

// TestClaimsGather: a claim that comes alone is written at once; when several were
// written together lately, it waits for others.
func TestClaimsGather(t *testing.T) {
	s, clock := newStorage(t), newClock()
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(s, clock)
		took := func(names ...string) time.Duration {
			began := time.Now()
			var wait sync.WaitGroup
			for _, name := range names {
				wait.Go(func() { p.expect(t, true, name) })
			}
			wait.Wait()
			return time.Since(began)
		}
		time.Sleep(time.Hour)
		if d := took("a"); d != 0 {
			t.Errorf("alone: %v", d)
		}
		for i := 0; p.shared.IsZero() && i < 100; i++ { // the first may be written by itself
			took(fmt.Sprint(i, "a"), fmt.Sprint(i, "b"), fmt.Sprint(i, "c"))
		}
		if d := took("b"); d != gatherFor {
			t.Errorf("after several: %v", d)
		}
		time.Sleep(time.Second)
		if d := took("c"); d != 0 {
			t.Errorf("a second later: %v", d)
		}
	})
}
