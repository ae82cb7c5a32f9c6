package records

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

func newClaims(s *testStorage, clock *testClock) *Claims {
	return NewClaims(s, "test/spent", keep, clock.Now)
}

// claim fails the test unless the claim's result is as wanted.
func claim(t *testing.T, c *Claims, want bool, ids ...string) {
	t.Helper()
	if got, err := c.Claim(t.Context(), ids...); err != nil || got != want {
		t.Errorf("claiming %q: %v, error %v; want %v", ids, got, err, want)
	}
	idle(t, c)
}

// idle fails the test if the claims remember anything: they must not grow.
func idle(t *testing.T, c *Claims) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.underWay) != 0 {
		t.Errorf("%d ids are remembered", len(c.underWay))
	}
}

func TestClaim(t *testing.T) {
	s, clock := newStorage(t), newClock()
	c := newClaims(s, clock)
	claim(t, c, true, "code1", "state1")
	claim(t, c, false, "code1", "state1")
	claim(t, c, false, "code1", "state2")
	// Either of them counts, for itself and in either place.
	claim(t, c, false, "code2", "state1")
	claim(t, c, false, "state1")
	claim(t, c, false, "code2", "code1")
	// What lost left no claim behind.
	claim(t, c, true, "code2", "state2")

	// A restart, and another instance.
	claim(t, newClaims(s, clock), false, "code1", "state3")
	claim(t, newClaims(s, clock), false, "code3", "state2")
	claim(t, newClaims(s, clock), true, "code3", "state3")
	claim(t, c, false, "code3", "state3")
	// Another use of the same storage.
	claim(t, NewClaims(s, "test/other", keep, clock.Now), true, "code1", "state1")
	if locks, _ := os.ReadDir(filepath.Join(s.Path, "locks")); len(locks) != 0 {
		t.Errorf("%d locks are left", len(locks))
	}
}

// Fifty callbacks at once, at two instances: one of them gets to send the code.
func TestClaimAtOnce(t *testing.T) {
	t.Parallel() // the storage looks at its lock once a second
	s, clock := newStorage(t), newClock()
	instances := []*Claims{newClaims(s, clock), newClaims(s, clock)}
	var won atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 50 {
		wg.Go(func() {
			<-start
			// The states differ: the code alone decides.
			ok, err := instances[i%2].Claim(t.Context(), "code", "state"+strconv.Itoa(i))
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
	if n := won.Load(); n != 1 {
		t.Errorf("%d of 50 won", n)
	}
	for _, c := range instances {
		idle(t, c)
		claim(t, c, false, "code")
	}
}

// Who comes second does not queue for the storage's lock.
func TestClaimUnderWay(t *testing.T) {
	s, clock := newStorage(t), newClock()
	c := newClaims(s, clock)
	locked, release := make(chan struct{}), make(chan struct{})
	s.on(func(m, _ string) error {
		if m == "Lock" {
			close(locked)
			<-release
		}
		return nil
	})
	first := make(chan bool)
	go func() {
		ok, err := c.Claim(t.Context(), "code", "state")
		first <- ok && err == nil
	}()
	<-locked
	for _, ids := range [][]string{{"code", "state"}, {"code", "state2"}, {"code2", "state"}} {
		if ok, err := c.Claim(t.Context(), ids...); ok || err != nil {
			t.Errorf("claiming %q: %v, error %v", ids, ok, err)
		}
	}
	s.on(nil)
	close(release)
	if !<-first {
		t.Error("the first did not win")
	}
	// Those that lost took nothing of the first one's.
	claim(t, c, false, "code")
	claim(t, c, true, "code2", "state2")
}

// TestClaimLockLeft: an instance died with the lock; whoever comes next was not the
// first. Where the storage does not answer at all, nobody can tell.
func TestClaimLockLeft(t *testing.T) {
	s, clock := newStorage(t), newClock()
	b := Bounded(s).(*bounded)
	b.timeout = 100 * time.Millisecond
	c := NewClaims(b, "test/spent", keep, clock.Now)
	if err := s.Lock(t.Context(), "test/spent/code"); err != nil {
		t.Fatal(err)
	}
	claim(t, c, false, "code", "state")
	claim(t, c, true, "another code", "another state")
	s.on(func(method, _ string) error {
		if method == "Load" {
			return errors.New("connection refused")
		}
		return nil
	})
	if first, err := c.Claim(t.Context(), "code", "state"); first || !errors.Is(err, ErrStorage) {
		t.Errorf("%v, error %v", first, err)
	}
}

// A claim counts for as long as it was asked to be kept, whatever hour it was made
// in, and by whatever clock within the limits.
func TestClaimLasts(t *testing.T) {
	for _, made := range []time.Duration{0, time.Second, 30 * time.Minute, time.Hour - time.Second} {
		for _, skew := range []time.Duration{0, ClockSkew, -ClockSkew} {
			for _, later := range []time.Duration{0, time.Second, 30 * time.Minute, time.Hour - time.Second, keep} {
				s, there, here := newStorage(t), newClock(), newClock()
				there.Add(made)
				here.Add(made + skew + later)
				claim(t, newClaims(s, there), true, "code")
				claim(t, newClaims(s, here), false, "code")
				if t.Failed() {
					t.Fatalf("made %v after the hour, asked %v later by a clock %v off", made, later, skew)
				}
			}
		}
	}
}

// Of a storage that fails, no claim comes: neither a yes nor a no.
func TestClaimStorageFails(t *testing.T) {
	for _, method := range []string{"Lock", "Load", "Store"} {
		s, clock := newStorage(t), newClock()
		c := newClaims(s, clock)
		claim(t, c, true, "taken")
		s.on(func(m, _ string) error {
			if m == method {
				return errBroken
			}
			return nil
		})
		if ok, err := c.Claim(t.Context(), "code", "state"); ok || !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v, error %v", method, ok, err)
		}
		idle(t, c)
		if locks, _ := os.ReadDir(filepath.Join(s.Path, "locks")); len(locks) != 0 {
			t.Errorf("%s fails: %d locks are left", method, len(locks))
		}
		s.on(nil)
		claim(t, c, true, "code", "state")
		claim(t, c, false, "taken")
	}

	// The claim stands when its lock cannot be released, and when what is old
	// cannot be swept.
	s, clock := newStorage(t), newClock()
	c := newClaims(s, clock)
	s.on(func(m, _ string) error {
		if m == "Unlock" || m == "List" || m == "Delete" {
			return errBroken
		}
		return nil
	})
	claim(t, c, true, "code")

	// A claim that was half made is not made again.
	s, stores := newStorage(t), 0
	s.on(func(m, _ string) error {
		if m == "Store" {
			if stores++; stores == 2 {
				return errBroken
			}
		}
		return nil
	})
	c = newClaims(s, clock)
	if ok, err := c.Claim(t.Context(), "code", "state"); ok || !errors.Is(err, errBroken) {
		t.Errorf("the second Store fails: %v, error %v", ok, err)
	}
	claim(t, c, false, "code", "state")
}

// Old claims are removed, and those that still count are not.
func TestSweep(t *testing.T) {
	s, clock := newStorage(t), newClock()
	c := newClaims(s, clock)
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
		claim(t, c, true, "code"+strconv.Itoa(hour), "state"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	// At 5:00, a claim counts that was made at 3:55 by the clock of that instance;
	// and for an instance whose clock is late, one that was made at 3:50.
	eventually(t, "the old hours are gone", func() bool { return hours() == "3 4 5 README" })
	clock.Add(-time.Hour)
	c.sweepNow(t.Context(), hourOf((clock.Now()).Add(-c.keep-2*ClockSkew)))
	if got := hours(); got != "3 4 5 README" {
		t.Errorf("a sweep left the hours %s", got)
	}
	claim(t, newClaims(s, clock), false, "code5")
	claim(t, newClaims(s, clock), false, "code4")

	// The sweep is due once an hour, and not at every claim.
	clock.Add(time.Minute)
	s.count("")
	claim(t, c, true, "another")
	time.Sleep(20 * time.Millisecond)
	if n := s.count("List test/spent"); n != 0 {
		t.Errorf("swept %d times in the same hour", n)
	}
}

// What is old long since, after a stop, is swept by the first claim.
func TestSweepAfterStop(t *testing.T) {
	s, clock := newStorage(t), newClock()
	c := newClaims(s, clock)
	claim(t, c, true, "code")
	clock.Add(90 * 24 * time.Hour)
	c = newClaims(s, clock)
	claim(t, c, true, "another")
	old := path.Join("test/spent", "500000")
	eventually(t, "the old hour is gone", func() bool {
		_, err := os.Stat(s.Filename(old))
		return os.IsNotExist(err)
	})
	claim(t, c, false, "another")
}

// A storage that fails during a sweep is left in peace, and the next one does
// what is left.
func TestSweepFails(t *testing.T) {
	s, clock := newStorage(t), newClock()
	for hour := range 3 {
		claim(t, newClaims(s, clock), true, "code"+strconv.Itoa(hour), "state"+strconv.Itoa(hour))
		clock.Add(time.Hour)
	}
	clock.Add(24 * time.Hour)
	c := newClaims(s, clock)
	var deletes atomic.Int64
	s.on(func(m, _ string) error {
		if m == "Delete" {
			deletes.Add(1)
			return errBroken
		}
		return nil
	})
	c.sweepNow(t.Context(), hourOf((clock.Now()).Add(-c.keep-2*ClockSkew)))
	if n := deletes.Load(); n > 2 {
		t.Errorf("asked a failing storage %d times", n)
	}
	// That somebody else was faster is no failure: three hours, each of two files
	// in a directory, are tried.
	s.on(func(m, _ string) error {
		if m == "Delete" {
			deletes.Add(1)
			return fs.ErrNotExist
		}
		return nil
	})
	deletes.Store(0)
	c.sweepNow(t.Context(), hourOf((clock.Now()).Add(-c.keep-2*ClockSkew)))
	if n := deletes.Load(); n < 9 {
		t.Errorf("tried to delete %d times, want 9", n)
	}
	s.on(nil)
	c.sweepNow(t.Context(), hourOf((clock.Now()).Add(-c.keep-2*ClockSkew)))
	if dirs, _ := os.ReadDir(filepath.Join(s.Path, "test", "spent")); len(dirs) != 0 {
		t.Errorf("%d hours are left", len(dirs))
	}
}
