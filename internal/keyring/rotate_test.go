package keyring

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

const day = 24 * time.Hour

// instance is one of those that share a storage.
type instance struct {
	*Box
	clock *testClock
}

func newInstance(s certmagic.Storage, clock *testClock, keep time.Duration) *instance {
	return &instance{Stored(s, new(Cache), clock.steady(), keep).Box("session", "app"), clock}
}

// rest waits until nothing goes on in the background any more.
func (i *instance) rest() {
	i.ring.cache.work.Lock()
	defer i.ring.cache.work.Unlock()
}

// seal seals something, and waits for what that has set off.
func (i *instance) seal(t *testing.T) string {
	t.Helper()
	defer i.rest()
	return seal(t, i.Box, "text", "")
}

func (i *instance) opens(t *testing.T, sealed string) {
	t.Helper()
	defer i.rest()
	opens(t, i.Box, sealed, "text", "")
}

// keyOf returns what tells one key's values from another's.
func keyOf(t *testing.T, sealed string) [4]byte {
	t.Helper()
	raw, err := decode(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return [4]byte(raw[1:5])
}

// sealsWith fails the test unless the instance seals with the key that sealed this.
func (i *instance) sealsWith(t *testing.T, what, sealed string) {
	t.Helper()
	if keyOf(t, i.seal(t)) != keyOf(t, sealed) {
		t.Errorf("%s: sealed with another key", what)
	}
}

// file returns what is in the storage.
func (s *testStorage) file(t *testing.T) *keyFile {
	t.Helper()
	file, err := (&Ring{storage: &s.FileStorage}).load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *testStorage) keys(t *testing.T, what string, want int) {
	t.Helper()
	if got := len(s.file(t).Keys); got != want {
		t.Errorf("%s: %d keys, want %d", what, got, want)
	}
}

// A key is made at 30 days, is published, then seals, and its forerunner opens
// until nothing it sealed can live.
func TestRotation(t *testing.T) {
	s, clock := newStorage(t), newClock()
	one := newInstance(s, clock, day)
	first := one.seal(t) // the very first key seals at once
	clock.Add(rotateAfter - time.Second)
	one.seal(t)
	s.keys(t, "a second early", 1)

	clock.Add(time.Second)
	one.sealsWith(t, "the Seal that finds it old", first)
	s.keys(t, "30 days", 2)
	one.sealsWith(t, "just published", first)
	clock.Add(ripeAfter - time.Second)
	last := one.seal(t)
	if keyOf(t, last) != keyOf(t, first) {
		t.Error("the new key sealed before it was ripe")
	}
	clock.Add(time.Second)
	second := one.seal(t)
	if keyOf(t, second) == keyOf(t, first) {
		t.Error("the new key does not seal")
	}
	one.opens(t, last)

	clock.Add(rotateAfter)
	one.seal(t)
	s.keys(t, "60 days", 2)
	one.opens(t, second)
	opensNothing(t, "dropped", one.Box, last, "")
	clock.Add(ripeAfter)
	third := one.seal(t)
	if k := keyOf(t, third); k == keyOf(t, second) || k == keyOf(t, first) {
		t.Error("the third key does not seal")
	}
	if ripeAfter-staleAfter <= records.ClockSkew || staleAfter <= refreshAfter {
		t.Error("an instance may seal with a key that is not the newest any more")
	}
}

// To the second: a key goes when its successor has been ripe for as long as its
// values live, on the clock that is furthest behind.
func TestDrop(t *testing.T) {
	now := newClock().Now()
	const life = ripeAfter + records.ClockSkew + day
	for _, tc := range []struct {
		age  time.Duration // the middle one's of three keys
		want int
	}{{0, 3}, {life, 3}, {life + time.Second, 2}, {-life, 3}} {
		file := &keyFile{Keep: int64(day / time.Second)}
		for n, age := range []time.Duration{0, tc.age, 1000 * day} {
			file.Keys = append(file.Keys, key{id: [4]byte{byte(n)}, Created: now.Add(-age)})
		}
		file.drop(now)
		if len(file.Keys) != tc.want || file.Keys[1].id != [4]byte{1} {
			t.Errorf("the second of three keys is %v old: %d are left, want %d", tc.age, len(file.Keys), tc.want)
		}
	}
}

// Reading alone makes no key, nor does a ring of fixed ones ask anybody.
func TestOpenDoesNotRotate(t *testing.T) {
	s, clock := newStorage(t), newClock()
	one := newInstance(s, clock, day)
	sealed := one.seal(t)
	clock.Add(2 * rotateAfter)
	one.opens(t, sealed)
	s.keys(t, "only opened", 1)
}

// No request waits for a rotation, one at a time goes on, and it does not end with
// the request that began it.
func TestNoRequestWaits(t *testing.T) {
	s, clock := newStorage(t), newClock()
	release, locked := make(chan struct{}), make(chan struct{}, 100)
	hanging := &hookedStorage{testStorage: s, lock: func() { locked <- struct{}{}; <-release }}
	newInstance(s, clock, day).seal(t)
	clock.Add(rotateAfter)
	one := newInstance(hanging, clock, day)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := one.Seal(ctx, nil, nil); err != nil {
			t.Error(err)
		}
		cancel()
	}
	close(release)
	one.rest()
	if n := len(locked); n != 1 {
		t.Errorf("%d rotations at once", n)
	}
	s.keys(t, "after all", 2)
}

// What is in the file and cannot be read is not written over, nor is a file made
// anew that somebody has deleted.
func TestRotationLeavesAlone(t *testing.T) {
	s, clock := newStorage(t), newClock()
	one := newInstance(s, clock, day)
	first := one.seal(t)
	clock.Add(rotateAfter)
	for _, damaged := range []string{"", "null", `{"keys":[{"secret":"AAAA"}]}`, `{"keys":[],"keep":1.5}`} {
		if err := s.FileStorage.Store(t.Context(), File, []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		one.sealsWith(t, "damaged", first)
		if data, _ := s.FileStorage.Load(t.Context(), File); string(data) != damaged {
			t.Errorf("%q was written over", damaged)
		}
		clock.Add(time.Minute)
	}
	if err := s.FileStorage.Delete(t.Context(), File); err != nil {
		t.Fatal(err)
	}
	one.sealsWith(t, "deleted", first)
	if s.FileStorage.Exists(t.Context(), File) {
		t.Error("the file was made anew")
	}
}

// A clock that is set back loses no key, and makes none: it catches up.
func TestClockSetBack(t *testing.T) {
	s, clock := newStorage(t), newClock()
	one := newInstance(s, clock, day)
	first := one.seal(t)
	clock.Add(rotateAfter)
	one.seal(t)
	clock.Add(ripeAfter)
	second := one.seal(t)
	one.opens(t, first)

	clock.Add(-ripeAfter)
	one.sealsWith(t, "a little back", first)
	clock.Add(-10 * 365 * day)
	for _, i := range []*instance{one, newInstance(s, clock, day)} {
		sealed := i.seal(t)
		if keyOf(t, sealed) != keyOf(t, first) {
			t.Error("ten years back: the oldest key does not seal")
		}
		i.opens(t, sealed)
		s.keys(t, "ten years back", 2)
	}
	// It goes on looking at the storage once an hour.
	n := s.loads.Load()
	clock.Add(refreshAfter)
	one.seal(t)
	if s.loads.Load() == n {
		t.Error("ten years back: never looks at the storage")
	}
	clock.Add(10*365*day - refreshAfter + ripeAfter)
	one.sealsWith(t, "caught up", second)
	s.keys(t, "caught up", 2)
	clock.Add(rotateAfter)
	one.seal(t)
	s.keys(t, "30 days later", 2)
	if file := s.file(t); file.Keys[1].id != keyOf(t, second) {
		t.Error("the wrong key was dropped")
	}
}

// An instance learns what others made by looking once an hour, in the background
// of a Seal or an Open.
func TestRefresh(t *testing.T) {
	for what, use := range map[string]func(*instance, string){
		"Open": func(i *instance, sealed string) { i.opens(t, sealed) },
		"Seal": func(i *instance, _ string) { i.seal(t) },
	} {
		s, clock := newStorage(t), newClock()
		release := make(chan struct{})
		other, hanging := newInstance(s, clock, day), &hangingStorage{testStorage: s, release: release}
		close(release)
		one := newInstance(hanging, clock, day)
		sealed := other.seal(t)
		one.opens(t, sealed)
		s.loads.Store(0)
		clock.Add(refreshAfter - time.Second)
		use(one, sealed)
		if n := s.loads.Load(); n != 0 {
			t.Errorf("%s: looked %d times within the hour", what, n)
		}

		// The request does not wait: it ends while the storage hangs, and so do those
		// that come meanwhile.
		clock.Add(time.Second)
		hanging.release = make(chan struct{})
		for range 20 {
			opens(t, one.Box, sealed, "text", "")
			seal(t, one.Box, "text", "")
		}
		close(hanging.release)
		one.rest()
		if n := s.loads.Load(); n != 1 {
			t.Errorf("%s: looked %d times after the hour", what, n)
		}

		// A failure costs nothing, and is tried again after a minute.
		clock.Add(refreshAfter)
		s.fail("all")
		for range 60 {
			use(one, sealed)
			clock.Add(time.Second)
		}
		if n := s.loads.Load(); n != 2 {
			t.Errorf("%s: looked %d times in a minute of failures", what, n-1)
		}
		use(one, sealed)
		if n := s.loads.Load(); n != 3 {
			t.Errorf("%s: looked %d times after a minute of failures", what, n-1)
		}
	}
}

// A session that another instance's new key sealed opens while the storage is down:
// the key was learned before it began to seal.
func TestLearnedInTime(t *testing.T) {
	s, clock := newStorage(t), newClock()
	maker, here := newInstance(s, clock, day), newInstance(s, clock, day)
	first := maker.seal(t)
	here.opens(t, first)
	clock.Add(rotateAfter)
	here.opens(t, first)
	maker.seal(t) // just after the other has looked
	clock.Add(refreshAfter)
	here.opens(t, first)
	s.fail("all")
	clock.Add(ripeAfter - refreshAfter)
	second := maker.seal(t)
	if keyOf(t, second) == keyOf(t, first) {
		t.Error("the new key does not seal")
	}
	here.opens(t, second)
}

// An instance that was idle for months does not seal with a key that the others
// have dropped.
func TestIdleInstance(t *testing.T) {
	s, clock := newStorage(t), newClock()
	busy, idle := newInstance(s, clock, day), newInstance(s, clock, day)
	first := idle.seal(t)
	for range 12 {
		clock.Add(10 * day)
		busy.seal(t)
	}
	clock.Add(ripeAfter)
	now := busy.seal(t)
	opensNothing(t, "months old", busy.Box, first, "")
	idle.sealsWith(t, "after months", now)
	// If it cannot look, it seals with what it has.
	clock.Add(day)
	s.fail("all")
	idle.sealsWith(t, "storage down", now)
}

// TestTwoRings: two blocks of one config, and the same ones of the next, share what is
// known of the keys, and seal for lives that differ. The longer one is in the file
// before anything is sealed for it, whatever the other has just done or failed to do.
func TestTwoRings(t *testing.T) {
	for _, fails := range []string{"", "Lock", "Store"} {
		s, clock, cache := newStorage(t), newClock(), new(Cache)
		ring := func(keep time.Duration) *instance {
			return &instance{Stored(s, cache, clock.steady(), keep).Box("session", "app"), clock}
		}
		short := ring(day)
		first := short.seal(t)
		clock.Add(rotateAfter)
		s.fail(fails)
		short.seal(t) // rotates, or fails to
		s.fail("")
		long := ring(90 * day)
		sealed := long.seal(t)
		if keep := s.file(t).Keep; keep != int64(90*day/time.Second) {
			t.Errorf("%q failed: sealed for 90 days, and the file says %d s", fails, keep)
		}
		short.opens(t, sealed)
		for range 2 { // the next config, with the shorter life alone: it takes nothing back
			clock.Add(retryAfter)
			short = ring(time.Hour)
			short.seal(t)
			clock.Add(rotateAfter)
			for range 3 {
				short.seal(t)
				clock.Add(ripeAfter)
			}
			if keep := s.file(t).Keep; keep != int64(90*day/time.Second) {
				t.Errorf("%q failed: a shorter life has made it %d s", fails, keep)
			}
			short.opens(t, sealed)
			short.opens(t, first)
			newInstance(s, clock, day).opens(t, sealed)
		}
		s.keys(t, "two or three rotations", 4)
	}
}

// TestTwoRingsRotateOnce: of two rings that find the key old at once, one makes the
// next, and both go on with it.
func TestTwoRingsRotateOnce(t *testing.T) {
	s, clock, cache := newStorage(t), newClock(), new(Cache)
	a := &instance{Stored(s, cache, clock.steady(), day).Box("session", "app"), clock}
	b := &instance{Stored(s, cache, clock.steady(), 2*day).Box("session", "app"), clock}
	for n := range 3 {
		var wg sync.WaitGroup
		for _, i := range []*instance{a, b, a, b} {
			wg.Go(func() { i.seal(t) })
		}
		wg.Wait()
		a.rest()
		s.keys(t, "both have sealed", min(n+1, 2))
		clock.Add(ripeAfter)
		sealed := a.seal(t)
		b.sealsWith(t, "in the same process", sealed)
		newInstance(s, clock, day).sealsWith(t, "in another", sealed)
		clock.Add(rotateAfter)
	}
}

// TestRotationsGoOn: one rotation follows the other, for instances whose clocks differ
// and a storage that fails at the start of each; nobody meets a key too late.
func TestRotationsGoOn(t *testing.T) {
	s, clock, ahead := newStorage(t), newClock(), newClock()
	ahead.Add(records.ClockSkew)
	a, b := newInstance(s, clock, day), newInstance(s, ahead, day)
	seen := make(map[[4]byte]bool)
	for n := range 6 {
		s.fail([]string{"Lock", "Store", "Load"}[n%3])
		for range 2 * 60 / 7 { // two hours
			if n > 0 {
				sealed := []string{a.seal(t), b.seal(t)}
				a.opens(t, sealed[1])
				b.opens(t, sealed[0])
			}
			clock.Add(7 * time.Minute)
			ahead.Add(7 * time.Minute)
		}
		s.fail("")
		for range 40 {
			sealed := []string{a.seal(t), b.seal(t)}
			a.opens(t, sealed[1])
			b.opens(t, sealed[0])
			clock.Add(20 * time.Minute)
			ahead.Add(20 * time.Minute)
		}
		seen[keyOf(t, a.seal(t))] = true
		if keyOf(t, a.seal(t)) != keyOf(t, b.seal(t)) {
			t.Errorf("rotation %d: the two seal with keys of their own", n)
		}
		s.keys(t, "after a rotation", min(n+1, 2))
		clock.Add(rotateAfter - 12*time.Hour)
		ahead.Add(rotateAfter - 12*time.Hour)
	}
	if len(seen) != 6 {
		t.Errorf("%d keys have sealed in six months", len(seen))
	}
}

// TestKeepOfAnother: an instance that has read the file knows what another one has begun to seal since, and says so if
// it cannot know.
func TestKeepOfAnother(t *testing.T) {
	s, clock := newStorage(t), newClock()
	short := newInstance(s, clock, day)
	short.seal(t)
	expect := func(what string, want time.Duration) {
		t.Helper()
		got, err := short.ring.Keep(t.Context())
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%s: %s, %v; want %s", what, got, err, want)
		}
	}
	expect("alone", day)
	newInstance(s, clock, 90*day).seal(t)
	clock.Add(reloadInterval)
	s.fail("all")
	expect("while the storage fails", 0)
	expect("at once again", 0)
	s.fail("")
	clock.Add(reloadInterval)
	expect("after another", 90*day)
}

// TestLookAfterForget: whoever has waited to read the keys again has keys, also if they were forgotten meanwhile.
func TestLookAfterForget(t *testing.T) {
	s, clock := newStorage(t), newClock()
	i := newInstance(s, clock, day)
	i.seal(t)
	seen, err := i.ring.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i.ring.cache.Forget()
	if set := i.ring.look(t.Context(), seen); set == nil || set.keep != seen.keep {
		t.Errorf("the keys are %v", set)
	}
}

// The file knows the longest life of all that was sealed, before it is sealed.
func TestKeep(t *testing.T) {
	s, clock := newStorage(t), newClock()
	says := func(what string, want time.Duration) {
		t.Helper()
		if got := s.file(t).Keep; got != int64(want/time.Second) {
			t.Errorf("%s: the file says %d s, want %v", what, got, want)
		}
	}
	short := newInstance(s, clock, day)
	short.seal(t)
	says("the first", day)
	newInstance(s, clock, time.Hour).seal(t)
	says("a shorter one", day)

	// With what the process knows of the keys already, too. The Seal itself waits.
	cache := short.ring.cache
	long := &instance{Stored(s, cache, clock.steady(), 90*day).Box("session", "app"), clock}
	s.calls.Store(0)
	long.opens(t, seal(t, short.Box, "text", ""))
	says("it has only opened", day)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			seal(t, long.Box, "text", "")
			says("a longer one has sealed", 90*day)
		})
	}
	wg.Wait()
	if n := s.calls.Load(); n != 4 { // Lock, Load, Store, Unlock
		t.Errorf("asked the storage %d times", n)
	}
	newInstance(s, clock, 90*day+time.Nanosecond).seal(t)
	says("a nanosecond more", 90*day+time.Second)
	s.calls.Store(0)
	newInstance(s, clock, 90*day+time.Nanosecond).seal(t)
	if n := s.calls.Load(); n != 1 {
		t.Errorf("nothing to say: asked the storage %d times", n)
	}

	// So a key is kept until 90 days after its successor began to seal, though the
	// one that rotates seals nothing that lives so long: not at the rotation on
	// day 120, when that was two hours less, but at the one on day 150.
	sealed := long.seal(t)
	for range 14 {
		clock.Add(10 * day)
		short.seal(t)
		short.opens(t, sealed)
	}
	s.keys(t, "on day 140", 5)
	clock.Add(10 * day)
	short.seal(t)
	opensNothing(t, "on day 150", short.Box, sealed, "")
	s.keys(t, "on day 150", 5)
}

// Two years of a cluster whose clocks differ, whose instances restart and whose
// storage fails now and then: all that was sealed opens everywhere while it lives.
func TestTwoYears(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := newStorage(t)
	keeps := []time.Duration{time.Hour, day, 45 * day}
	var instances []*instance
	for i, keep := range keeps {
		clock := newClock()
		clock.Add(time.Duration(i-1) * records.ClockSkew / 2) // 5 minutes from first to last
		instances = append(instances, newInstance(s, clock, keep))
	}
	type value struct {
		sealed string
		ends   time.Time
	}
	var alive []value
	seen := make(map[[4]byte]bool)
	most := 0
	for range 2 * 365 * 24 / 3 {
		for _, i := range instances {
			i.clock.Add(3 * time.Hour)
		}
		s.fail("")
		n := random.IntN(len(instances))
		i := instances[n]
		switch random.IntN(30) {
		case 0:
			i.Box = Stored(s, new(Cache), i.clock.steady(), keeps[n]).Box("session", "app")
		case 1:
			s.fail([]string{"Lock", "Store"}[random.IntN(2)])
		}
		sealed := i.seal(t)
		seen[keyOf(t, sealed)] = true
		alive = append(alive, value{sealed, i.clock.Now().Add(keeps[n])})
		for range 5 {
			v, o := alive[random.IntN(len(alive))], instances[random.IntN(len(instances))]
			if o.clock.Now().Before(v.ends) {
				o.opens(t, v.sealed)
			}
		}
		// The one that is about to end, at the instance whose clock is behind.
		o := instances[0]
		for len(alive) > 1 && !o.clock.Now().Before(alive[0].ends) {
			alive = alive[1:]
		}
		if o.clock.Now().Before(alive[0].ends) {
			o.opens(t, alive[0].sealed)
		}
		most = max(most, len(s.file(t).Keys))
	}
	if len(seen) < 23 || len(seen) > 26 {
		t.Errorf("%d keys sealed in two years", len(seen))
	}
	if most > 4 {
		t.Errorf("%d keys at once", most)
	}
}
