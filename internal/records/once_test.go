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

const keep = time.Hour

// hourOf returns the hour of a time, as records are filed.
func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// process is one that shares a storage, or one that came after a restart.
type process struct{ *Once }

func newProcess(s certmagic.Storage, clock *testClock) *process {
	return &process{NewOnce(s, "test/spent", keep, clock.steady())}
}

// idsOf makes ids of names.
func idsOf(names ...string) []ID {
	var ids []ID
	for _, name := range names {
		ids = append(ids, ID(append([]byte(name), make([]byte, len(ID{}))...)))
	}
	return ids
}

func (p *process) use(names ...string) (bool, error) { return p.Use(idsOf(names...)...) }

// remembered returns how many ids are.
func (p *process) remembered() int {
	n := len(p.underWay)
	for _, used := range p.used {
		for _, ids := range used {
			n += len(ids)
		}
	}
	return n
}

// awaitSweeps waits until the sweeps that came with earlier uses have ended.
func (p *process) awaitSweeps() {
	for _, place := range []*periods{p.place, p.aside} {
		place.work.Lock()
		defer place.work.Unlock()
	}
}

// expect fails the test unless the result of a use is as wanted.
func (p *process) expect(t *testing.T, want bool, names ...string) {
	t.Helper()
	if got, err := p.use(names...); err != nil || got != want {
		t.Errorf("using %q: %v, error %v; want %v", names, got, err, want)
	}
}

func TestUse(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	p.expect(t, true, "code1", "state1")
	p.expect(t, false, "code1", "state1")
	p.expect(t, false, "code1", "state2")
	// Either of them counts, for itself and in either place.
	p.expect(t, false, "code2", "state1")
	p.expect(t, false, "state1")
	p.expect(t, false, "code2", "code1")
	// What lost left no use behind.
	p.expect(t, true, "code2", "state2")

	// A restart, and another process.
	newProcess(s, clock).expect(t, false, "code1", "state3")
	newProcess(s, clock).expect(t, false, "code3", "state2")
	newProcess(s, clock).expect(t, true, "code4", "state4")
	p.expect(t, false, "code4", "state5")
	p.expect(t, false, "code5", "state4")
	// Another use of the same storage.
	other := NewOnce(s, "test/other", keep, clock.steady())
	if ok, err := other.Use(idsOf("code1", "state1")...); !ok || err != nil {
		t.Errorf("%v, error %v", ok, err)
	}
	if _, err := os.Stat(filepath.Join(s.Path, "locks")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there are locks: %v", err)
	}
}

// Fifty callbacks at once, at two instances: one of them at most gets to send the
// code, and one does where all of them come to the same instance.
func TestUseAtOnce(t *testing.T) {
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
					ok, err := instances[i%n].use("code", "state"+strconv.Itoa(i))
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

// TestUsesTogether: what is used while the journal is being written is written
// together, and each call gets a result of its own.
func TestUsesTogether(t *testing.T) {
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
	use := func(want bool, names ...string) {
		go func() {
			got, err := p.use(names...)
			if err == nil && got != want {
				err = fmt.Errorf("using %q: %v", names, got)
			}
			results <- err
		}()
	}
	use(true, "code", "state")
	<-writing
	// What is under way is used already, and need not wait to be told so.
	p.expect(t, false, "code", "state2")
	p.expect(t, false, "code2", "state")
	for i := range 20 {
		use(true, "code"+strconv.Itoa(10+i), "state"+strconv.Itoa(10+i))
	}
	use(false, "taken", "state99") // by another, of whom nothing is known yet
	awaitWaiting(t, p, 21)
	s.count("")
	close(release)
	for range 22 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := s.countAll("Store"); n != 1 {
		t.Errorf("21 uses were written in %d calls", n)
	}
}

// awaitWaiting waits until so many calls wait.
func awaitWaiting(t *testing.T, p *process, n int) {
	t.Helper()
	eventually(t, "the calls wait", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.waiting) == n
	})
}

// TestUseTie: two instances that use the same thing, each before it has read the
// other's journal, do not both get it, whichever is faster.
func TestUseTie(t *testing.T) {
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

// A use counts for as long as it was asked to be kept, whatever hour it was made
// in, and by whatever clock within the limits; also to one who has read the journals
// before it was made, and not since.
func TestUseLasts(t *testing.T) {
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
						t.Fatalf("made %v after the hour, asked %v later by a clock %v off, that last asked %v before",
							made, later, skew, before)
					}
				}
			}
		}
	}
}

// TestUseClockSetBack: a clock that was ahead by hours does not keep anyone from
// using a thing, nor make them miss what others use.
func TestUseClockSetBack(t *testing.T) {
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

// Of a storage that fails, no answer comes: neither a yes nor a no.
func TestUseStorageFails(t *testing.T) {
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
			if ok, err := p.use("code", "state"); ok || !errors.Is(err, errBroken) {
				t.Errorf("%s fails: %v, error %v", method, ok, err)
			}
		}
		s.on(nil)
		p.expect(t, true, "code", "state")
		p.expect(t, false, "taken")
		newProcess(s, clock).expect(t, false, "code")
	}

	// What is old cannot be swept: that is no reason to refuse a use.
	s, clock := newStorage(t), newClock()
	s.on(func(m, _ string) error {
		if m == "Delete" {
			return errBroken
		}
		return nil
	})
	newProcess(s, clock).expect(t, true, "code")
}

// TestUseStorageLies: some engines say that nothing is there when they are down, to a listing alone or to
// whatever is asked of a directory.
func TestUseStorageLies(t *testing.T) {
	for _, methods := range []string{"List", "List Stat"} {
		s, clock := newStorage(t), newClock()
		newProcess(s, clock).expect(t, true, "code")
		p := newProcess(s, clock)
		s.on(func(m, _ string) error {
			if strings.Contains(methods, m) {
				return fs.ErrNotExist
			}
			return nil
		})
		if ok, err := p.use("code"); ok || !errors.Is(err, ErrStorage) {
			t.Errorf("%s: %v, error %v", methods, ok, err)
		}
		s.on(nil)
		p.expect(t, false, "code")
	}
}

// TestUseTooSlow: whoever waits for a storage that hangs is told so in time.
func TestUseTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, clock := newStorage(t), newClock()
		p := newProcess(s, clock)
		release := make(chan struct{})
		s.on(func(m, _ string) error { <-release; return nil })
		begun := time.Now()
		if ok, err := p.use("code"); ok || !errors.Is(err, ErrStorage) || time.Since(begun) != useTimeout {
			t.Errorf("%v, error %v after %v", ok, err, time.Since(begun))
		}
		close(release)
		synctest.Wait()
		p.expect(t, false, "code") // it was written in the end
		p.expect(t, true, "another")
	})
}

// TestUsesForgotten: what does not count any more is not remembered.
func TestUsesForgotten(t *testing.T) {
	s, clock := newStorage(t), newClock()
	p := newProcess(s, clock)
	for hour := range 5 {
		p.expect(t, true, "p"+strconv.Itoa(hour))
		newProcess(s, clock).expect(t, true, "q"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	p.expect(t, true, "last")
	// At 5:00, what was used at 3:50 counts, and all of that hour is remembered.
	if ids := p.remembered(); ids != 5 || len(p.used) != 3 || len(p.read) != 4 {
		t.Errorf("%d ids of %d hours and %d journals are remembered", ids, len(p.used), len(p.read))
	}
}

// Old uses are removed, and those that still count are not.
func TestSweep(t *testing.T) { synctest.Test(t, testSweep) }

func testSweep(t *testing.T) {
	const disturbed = 2 * time.Second // by when a sweep has ended whose listing was disturbed
	defer time.Sleep(disturbed)
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
		time.Sleep(disturbed) // the next sweep would not wait
		clock.Add(time.Hour)
	}
	// At 5:00, a use counts that was made at 3:55 by the clock of that instance;
	// and for an instance whose clock is late, one that was made at 3:50.
	if got := hours(); got != "3 4 5 README" {
		t.Errorf("the hours %s are left", got)
	}
	clock.Add(-time.Hour)
	c.place.sweepNow(t.Context(), hourOf((clock.Now()).Add(-c.keep-2*ClockSkew)))
	if got := hours(); got != "3 4 5 README" {
		t.Errorf("a sweep left the hours %s", got)
	}
	// The sweep is due once an hour, and not at every use.
	clock.Add(time.Minute)
	s.count("")
	c.expect(t, true, "another")
	time.Sleep(disturbed)
	if n := s.count("List test/spent"); n != 1 { // the call's own
		t.Errorf("swept %d times in the same hour", n-1)
	}
	newProcess(s, clock).expect(t, false, "code5")
	newProcess(s, clock).expect(t, false, "code4")
	time.Sleep(time.Minute) // until their sweeps, which the writes may disturb, have ended
}

// What is old long since, after a stop, is swept by the first use.
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

// TestUsesGather: a use that comes alone is written at once; when several were
// written together lately, it waits for others.
func TestUsesGather(t *testing.T) {
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
		if d := took("a"); d != 0 {
			t.Errorf("alone: %v", d)
		}
		for i, never := 0, p.gathered; p.gathered == never && i < 100; i++ { // the first may be written by itself
			took(fmt.Sprint(i, "a"), fmt.Sprint(i, "b"), fmt.Sprint(i, "c"))
		}
		if d := took("b"); d != gatherFor {
			t.Errorf("after several: %v", d)
		}
		clock.Add(gatherAfter)
		if d := took("c"); d != 0 {
			t.Errorf("a second later: %v", d)
		}
	})
}

// TestUseAfterReload: after a reload nothing is asked of the storage of before, which
// is closed, not even for uses that came with it; and what was used stays so.
func TestUseAfterReload(t *testing.T) {
	s, clock := newStorage(t), newClock()
	old := s.view()
	var newest Newest
	release := newest.Use(old)
	other, p := newProcess(s.view(), clock), newProcess(Bounded(&newest, nil), clock)
	p.expect(t, true, "one")
	for n := range 4 { // reload, and reload again
		other.expect(t, true, fmt.Sprint("other", n))
		p.awaitSweeps()
		next := s.view()
		writing, closing := make(chan struct{}), make(chan struct{})
		old.on(func(m, _ string) error {
			if m != "Store" {
				return nil
			}
			close(writing)
			<-closing
			if n%2 == 1 {
				return errBroken // the connection is closed in the middle of the call
			}
			return nil
		})
		results := make(chan bool, 3)
		use := func(name string) {
			go func() {
				ok, err := p.use(name)
				if err != nil {
					t.Error(err)
				}
				results <- ok
			}()
		}
		use(fmt.Sprint("under way", n))
		<-writing
		use(fmt.Sprint("waiting", n))
		awaitWaiting(t, p, 1)
		releaseNext := newest.Use(next)
		old.on(failing)
		old.countAll("")
		if n < 2 { // or later
			release()
		}
		use(fmt.Sprint("new", n))
		awaitWaiting(t, p, 2)
		close(closing)
		for range 3 {
			if !<-results {
				t.Error("what was not used is taken for used")
			}
		}
		for _, name := range []string{"one", "other", "under way", "waiting", "new"} {
			if name != "one" {
				name = fmt.Sprint(name, n)
			}
			p.expect(t, false, name)
			newProcess(s, clock).expect(t, false, name)
			other.expect(t, false, name)
		}
		if n := old.countAll(""); n != 0 {
			t.Errorf("the storage of before was asked %d times", n)
		}
		release()
		old, release = next, releaseNext
		clock.Add(20 * time.Minute)
	}
}

// TestUseTwoStorages: what was used in one storage is not used in another.
func TestUseTwoStorages(t *testing.T) {
	clock := newClock()
	a, b := newProcess(newStorage(t), clock), newProcess(newStorage(t), clock)
	for range 2 {
		a.expect(t, true, "code")
		b.expect(t, true, "code")
		a.expect(t, false, "code")
		b.expect(t, false, "code")
		clock.Add(keep + 5*time.Hour)
		a.expect(t, true, "next")
		b.expect(t, true, "next")
		clock.Add(keep + 5*time.Hour)
	}
}
