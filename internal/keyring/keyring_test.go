package keyring

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

func TestFixedKeys(t *testing.T) {
	clock := newClock()
	box := func(secrets ...[]byte) *Box { return fixed(t, clock, secrets...).Box("session", "app") }

	first := seal(t, box(secret(1), secret(2)), "text", "")
	opens(t, box(secret(1)), first, "text", "")
	opensNothing(t, "the second key sealed", box(secret(2)), first, "")
	// The keys are turned: what the old one sealed still opens.
	opens(t, box(secret(3), secret(2), secret(1)), first, "text", "")
	opensNothing(t, "the key is gone", box(secret(3), secret(2)), first, "")
	long := seal(t, box(bytes.Repeat([]byte("long"), 100)), "text", "")
	opens(t, box(secret(1), bytes.Repeat([]byte("long"), 100)), long, "text", "")

	short := []byte("a key that is one too short....")
	for what, secrets := range map[string][][]byte{
		"none":         nil,
		"an empty one": {secret(1), nil},
		"a short one":  {secret(1), short},
		"a doubled":    {secret(1), secret(2), secret(1)},
	} {
		r, err := Fixed(secrets, clock.Now)
		if r != nil || err == nil {
			t.Errorf("%s: taken", what)
		} else if strings.Contains(err.Error(), string(short)) || strings.Contains(err.Error(), "\x01") {
			t.Errorf("%s: the error shows a key: %v", what, err)
		}
	}
}

// Loading a config leaves no trace.
func TestNothingBeforeFirstUse(t *testing.T) {
	s := newStorage(t)
	b := s.box(newClock())
	opensNothing(t, "junk", b, "junk", "") // no key is needed to know that
	if n := s.calls.Load(); n != 0 {
		t.Errorf("the storage was asked %d times before a key was needed", n)
	}
	seal(t, b, "text", "")
	if n := s.calls.Load(); n == 0 {
		t.Error("the storage was not asked when a key was needed")
	}
	n := s.calls.Load()
	opens(t, b, seal(t, b, "text", ""), "text", "")
	if s.calls.Load() != n {
		t.Error("the storage was asked for a key that is known")
	}
}

// Of all instances that start at once on an empty storage, one makes the key.
func TestMadeOnce(t *testing.T) {
	t.Parallel() // the storage looks at its lock once a second
	const instances = 3
	s, clock := newStorage(t), newClock()
	var boxes [instances]*Box
	var sealed [instances]string
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range instances {
		// Each has a storage of its own, on the same files.
		own := &certmagic.FileStorage{Path: s.Path}
		boxes[i] = Stored(own, new(Cache), clock.steady(), day).Box("session", "app")
		wg.Go(func() {
			<-start
			var err error
			if sealed[i], err = boxes[i].Seal(t.Context(), []byte("text"), nil); err != nil {
				t.Errorf("instance %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	for i := range instances {
		for j := range instances {
			opens(t, boxes[i], sealed[j], "text", "")
		}
	}
	if locks, _ := os.ReadDir(filepath.Join(s.Path, "locks")); len(locks) != 0 {
		t.Errorf("%d locks are left", len(locks))
	}
}

// Where many instances start at once, the lock may not come in time, though the
// key is there by then.
func TestLockTooLate(t *testing.T) {
	s, clock := newStorage(t), newClock()
	other := s.box(clock)
	var sealed string
	late := &lateStorage{testStorage: s, meanwhile: func() { sealed = seal(t, other, "text", "") }}
	b := Stored(late, new(Cache), clock.steady(), day).Box("session", "app")
	mine := seal(t, b, "text", "")
	opens(t, b, sealed, "text", "")
	opens(t, other, mine, "text", "")
}

type lateStorage struct {
	*testStorage
	meanwhile func()
}

func (s *lateStorage) Lock(context.Context, string) error {
	s.meanwhile()
	return errBroken
}

func TestSurvives(t *testing.T) {
	s, clock := newStorage(t), newClock()
	sealed := seal(t, s.box(clock), "text", "")
	clock.Add(24 * time.Hour)
	opens(t, s.box(clock), sealed, "text", "")
	opensNothing(t, "another storage", newStorage(t).box(clock), sealed, "")
}

// Whoever deletes the file ends all sessions; that is for the operator to do.
func TestDamagedFile(t *testing.T) {
	s, clock := newStorage(t), newClock()
	sealed := seal(t, s.box(clock), "text", "")
	good, err := s.Load(t.Context(), File)
	if err != nil {
		t.Fatal(err)
	}
	secretText := strings.Split(string(good), `"`)[5]
	for what, damaged := range map[string]string{
		"empty":                "",
		"cut off":              string(good[:len(good)-1]),
		"something behind it":  string(good) + "}",
		"twice":                string(good) + string(good),
		"no JSON":              "\x00\x00\x00",
		"null":                 "null",
		"no keys":              `{"keys":[]}`,
		"a short key":          strings.Replace(string(good), secretText, secretText[4:], 1),
		"no base64":            strings.Replace(string(good), secretText, "!"+secretText[1:], 1),
		"one key of two short": strings.Replace(string(good), `[`, `[{"secret":"AAAA"},`, 1),
		"a lifetime in words":  strings.Replace(string(good), `"keep":`, `"keep":"a day","kept":`, 1),
	} {
		if damaged == string(good) {
			t.Fatalf("%s: not damaged", what)
		}
		if err := s.FileStorage.Store(t.Context(), File, []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		b := s.box(clock)
		got, err := b.Seal(t.Context(), []byte("text"), nil)
		if err == nil || got != "" || !strings.Contains(err.Error(), File) {
			t.Errorf("%s: sealed %q, error %v", what, got, err)
		} else if strings.Contains(err.Error(), secretText[4:20]) {
			t.Errorf("%s: the error shows the key: %v", what, err)
		}
		plaintext, _, err := b.Open(t.Context(), sealed, nil)
		if err == nil || errors.Is(err, ErrInvalid) || plaintext != nil {
			t.Errorf("%s: opened %q, error %v", what, plaintext, err)
		}
		if n, err := Inspect(t.Context(), s); n != 0 || err == nil {
			t.Errorf("%s: %d keys can be used, error %v", what, n, err)
		}
		if now, _ := s.FileStorage.Load(t.Context(), File); string(now) != damaged {
			t.Errorf("%s: the file was written over", what)
		}
		if err := s.FileStorage.Store(t.Context(), File, good); err != nil {
			t.Fatal(err)
		}
		opens(t, b, sealed, "text", "")
		if n, err := Inspect(t.Context(), s); n != 1 || err != nil {
			t.Errorf("restored: %d keys can be used, error %v", n, err)
		}
	}
}

// A storage that fails is an error for as long as it does, and no longer.
func TestFailingStorage(t *testing.T) {
	clock := newClock()
	known := fixed(t, clock, secret(1)).Box("session", "app")
	for _, method := range []string{"all", "Load", "Lock", "Store"} {
		s := newStorage(t)
		b := s.box(clock)
		s.fail(method)
		if sealed, err := b.Seal(t.Context(), []byte("text"), nil); !errors.Is(err, errBroken) || sealed != "" {
			t.Errorf("%s fails: sealed %q, error %v", method, sealed, err)
		}
		plaintext, at, err := b.Open(t.Context(), seal(t, known, "text", ""), nil)
		if !errors.Is(err, errBroken) || errors.Is(err, ErrInvalid) || plaintext != nil || !at.IsZero() {
			t.Errorf("%s fails: opened %q of %v, error %v", method, plaintext, at, err)
		}
		if derived, err := b.Derive(t.Context(), seal(t, known, "text", ""), nil); !errors.Is(err, errBroken) ||
			derived != nil {
			t.Errorf("%s fails: derived %x, error %v", method, derived, err)
		}
		s.fail("")
		opens(t, b, seal(t, b, "text", ""), "text", "")
	}

	// Some engines have a directory that is there and cannot be used.
	s := newStorage(t)
	if err := os.WriteFile(filepath.Join(s.Path, "aventus_auth"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.box(clock).Seal(t.Context(), nil, nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sealed without a place for the key, error %v", err)
	}
}

// While a storage hangs, requests come in. Those that wait for the keys share
// one attempt: were each to make its own, the last would wait for all of them.
func TestWaitTogether(t *testing.T) {
	const requests = 20
	release := make(chan struct{})
	s := &hangingStorage{testStorage: newStorage(t), release: release}
	s.fail("all")
	b := Stored(s, new(Cache), newClock().steady(), day).Box("session", "app")
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if _, err := b.Seal(t.Context(), nil, nil); !errors.Is(err, errBroken) {
				t.Errorf("error %v", err)
			}
		})
	}
	awaitWaiting(t, requests-1)
	close(release)
	wg.Wait()
	if n := s.loads.Load(); n > requests/2 {
		t.Errorf("%d requests at once asked the storage %d times", requests, n)
	}
	s.fail("")
	opens(t, b, seal(t, b, "text", ""), "text", "")
}

type hangingStorage struct {
	*testStorage
	release chan struct{}
}

func (s *hangingStorage) Load(ctx context.Context, key string) ([]byte, error) {
	<-s.release
	return s.testStorage.Load(ctx, key)
}

// A config that is loaded while the storage is down opens the sessions of the
// one before.
func TestCacheOutlivesRing(t *testing.T) {
	s, clock, cache := newStorage(t), newClock(), new(Cache)
	sealed := seal(t, Stored(s, cache, clock.steady(), day).Box("session", "app"), "text", "")
	s.fail("all")
	b := Stored(s, cache, clock.steady(), day).Box("session", "app")
	opens(t, b, sealed, "text", "")
	opens(t, b, seal(t, b, "text", ""), "text", "")
}

// Anyone can make up the id of a key. The storage is asked about one in ten
// seconds, so that this costs nothing.
func TestUnknownKey(t *testing.T) {
	s, clock := newStorage(t), newClock()
	b := s.box(clock)
	known := seal(t, b, "text", "")
	forged := func(n byte) string { return seal(t, fixed(t, clock, secret(n)).Box("session", "app"), "text", "") }
	asked := func(what string, want int64) {
		t.Helper()
		if n := s.calls.Swap(0); n != want {
			t.Errorf("%s: asked the storage %d times, want %d", what, n, want)
		}
	}
	s.calls.Store(0)

	clock.Add(9 * time.Second)
	opensNothing(t, "made up", b, forged(1), "")
	asked("the file was read 9 s ago", 0)
	clock.Add(time.Second)
	s.loading = func() { awaitWaiting(t, 19) } // meanwhile, the others come in
	var wg sync.WaitGroup
	for n := range byte(20) {
		made := forged(n)
		wg.Go(func() { opensNothing(t, "made up", b, made, "") })
	}
	wg.Wait()
	s.loading = nil
	asked("the file was read 10 s ago", 1)
	opens(t, b, known, "text", "")
	asked("a known key", 0)

	// What another instance made is found.
	other := secret(77)
	file := fmt.Sprintf(`{"keys":[{"secret":%q,"created":"2027-01-01T00:00:00Z"},`,
		base64.StdEncoding.EncodeToString(other))
	data, err := s.FileStorage.Load(t.Context(), File)
	if err != nil {
		t.Fatal(err)
	}
	file += strings.TrimPrefix(string(data), `{"keys":[`)
	if err := s.FileStorage.Store(t.Context(), File, []byte(file)); err != nil {
		t.Fatal(err)
	}
	foreign := seal(t, fixed(t, clock, other).Box("session", "app"), "text", "")
	opensNothing(t, "looked just now", b, foreign, "")
	clock.Add(10 * time.Second)
	opens(t, b, foreign, "text", "")
	opens(t, b, known, "text", "")
	asked("another instance's key", 1)
	if now := seal(t, b, "text", ""); now[:6] != foreign[:6] {
		t.Error("the first key of the file does not seal")
	}

	// A storage that fails costs nobody what is known, and is left in peace.
	s.fail("all")
	clock.Add(10 * time.Second)
	for n := range byte(20) {
		opensNothing(t, "made up, storage down", b, forged(n), "")
	}
	asked("storage down", 1)
	opens(t, b, known, "text", "")
	opens(t, b, foreign, "text", "")
	opens(t, b, seal(t, b, "text", ""), "text", "")
	asked("known keys, storage down", 0)
	clock.Add(10 * time.Second)
	opensNothing(t, "made up, storage down", b, forged(1), "")
	asked("storage still down", 1)

	// A clock that is set back does not stop the ring from looking.
	s.fail("")
	clock.Add(-time.Hour)
	opensNothing(t, "made up", b, forged(1), "")
	asked("the clock was set back", 1)
}

// TestFailsUnderLock: an instance that starts finds no key, and when it has the lock
// to make one, another has made it and the storage cannot be read. It makes none.
func TestFailsUnderLock(t *testing.T) {
	s, clock := newStorage(t), newClock()
	other := s.box(clock)
	view := &testStorage{FileStorage: s.FileStorage}
	var sealed string
	hooked := &hookedStorage{
		testStorage: view, lock: func() { sealed = seal(t, other, "text", ""); view.fail("Load") },
	}
	b := Stored(hooked, new(Cache), clock.steady(), day).Box("session", "app")
	if mine, err := b.Seal(t.Context(), []byte("text"), nil); !errors.Is(err, errBroken) || mine != "" {
		t.Errorf("sealed %q, error %v", mine, err)
	}
	s.keys(t, "after the failure", 1)
	opens(t, s.box(clock), sealed, "text", "") // by the file
	view.fail("")
	hooked.lock = nil
	opens(t, b, sealed, "text", "")
	opens(t, other, seal(t, b, "text", ""), "text", "")
}

// TestMadeAnew: where the file was deleted to end all sessions, an instance that still
// runs makes none, also when it meets a key that it does not know. It takes over what
// one that starts has made, and then the old sessions have ended there too.
func TestMadeAnew(t *testing.T) {
	s, clock := newStorage(t), newClock()
	running := newInstance(s, clock, day)
	for n := range 2 { // and again
		old := running.seal(t)
		made := seal(t, fixed(t, clock, secret(byte(n))).Box("session", "app"), "text", "")
		if err := s.FileStorage.Delete(t.Context(), File); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			clock.Add(reloadInterval)
			opensNothing(t, "made up", running.Box, made, "")
			running.opens(t, old)
			running.opens(t, running.seal(t))
		}
		if s.FileStorage.Exists(t.Context(), File) {
			t.Fatal("one that runs has made the file anew")
		}
		starting := newInstance(s, clock, day)
		sealed := starting.seal(t)
		if keyOf(t, sealed) == keyOf(t, old) {
			t.Fatal("the key is the one of before")
		}
		clock.Add(reloadInterval)
		running.opens(t, sealed)
		running.sealsWith(t, "made anew", sealed)
		starting.opens(t, running.seal(t))
		proofs := []*Box{running.ring.Box("proof", "app"), starting.ring.Box("proof", "app")}
		var derived [2][]byte
		for i, b := range proofs {
			var err error
			if derived[i], err = b.Derive(t.Context(), sealed, []byte("nonce")); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(derived[0], derived[1]) {
			t.Error("the two instances derive something else")
		}
		for what, i := range map[string]*instance{"runs": running, "starts": starting} {
			opensNothing(t, "of before the deletion, at the one that "+what, i.Box, old, "")
		}
	}
}

// TestDamagedLater: a file that is damaged while an instance runs costs it nothing, and
// is left alone; what is in it when it has been restored is known a minute later.
func TestDamagedLater(t *testing.T) {
	s, clock := newStorage(t), newClock()
	running, other := newInstance(s, clock, day), newInstance(s, clock, day)
	first := running.seal(t)
	other.opens(t, first)
	for n, damaged := range []string{"", "null", `{"keys":[]}`, `{"keys":[{"secret":"AAAA"}]}`} {
		clock.Add(rotateAfter)
		other.seal(t)
		clock.Add(ripeAfter)
		newest := other.seal(t) // with a key that the other one does not know
		good, err := s.Load(t.Context(), File)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Store(t.Context(), File, []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			opensNothing(t, damaged+": a key of the file", running.Box, newest, "")
			running.opens(t, running.seal(t))
			clock.Add(retryAfter)
		}
		if now, _ := s.Load(t.Context(), File); string(now) != damaged {
			t.Errorf("%q was written over", damaged)
		}
		if err := s.Store(t.Context(), File, good); err != nil {
			t.Fatal(err)
		}
		running.opens(t, newest)
		running.sealsWith(t, damaged+": restored", newest)
		s.keys(t, damaged, min(n+2, 2))
	}
}

// TestFixedIsFixed: fixed keys are neither turned nor looked for, however long they are
// used; and what another ring's keys sealed is nothing at a ring of stored ones, and
// the other way round, unless the secret is the same.
func TestFixedIsFixed(t *testing.T) {
	s, clock := newStorage(t), newClock()
	stored := newInstance(s, clock, day)
	ring := fixed(t, clock, secret(1), secret(2))
	b := ring.Box("session", "app")
	first := seal(t, b, "text", "")
	for range 3 {
		byStored := stored.seal(t)
		opensNothing(t, "stored, at fixed", b, byStored, "")
		opensNothing(t, "fixed, at stored", stored.Box, first, "")
		opens(t, b, first, "text", "")
		if keyOf(t, seal(t, b, "text", "")) != keyOf(t, first) {
			t.Error("the fixed key was turned")
		}
		var secrets [][]byte
		for _, k := range s.file(t).Keys {
			secrets = append(secrets, k.Secret)
		}
		opens(t, fixed(t, clock, secrets...).Box("session", "app"), byStored, "text", "")
		clock.Add(rotateAfter + ripeAfter)
	}
}

// TestAge: the age is that of the key that seals, which is not the newest while that
// one ripens.
func TestAge(t *testing.T) {
	s, clock, cache := newStorage(t), newClock(), new(Cache)
	one := &instance{Stored(s, cache, clock.steady(), day).Box("session", "app"), clock}
	is := func(when string, want time.Duration) {
		t.Helper()
		if age, ok := cache.Age(clock.Now()); !ok || age != want {
			t.Errorf("%s: %v old, known %v; want %v", when, age, ok, want)
		}
	}
	if age, ok := cache.Age(clock.Now()); ok {
		t.Errorf("nothing was sealed: %v", age)
	}
	one.seal(t)
	is("just made", 0)
	for range 2 {
		clock.Add(rotateAfter)
		one.seal(t)
		age, _ := cache.Age(clock.Now())
		if age < rotateAfter {
			t.Errorf("the next key has just been made: %v", age)
		}
		clock.Add(ripeAfter - time.Second)
		one.seal(t)
		is("a second before the next one is ripe", age+ripeAfter-time.Second)
		clock.Add(time.Second)
		one.seal(t)
		is("the next one is ripe", ripeAfter)
	}
}

// TestSleepingMachine: how long ago the file was read is told by the wall's clock. Go's
// monotonic clock stands still while a machine sleeps.
func TestSleepingMachine(t *testing.T) {
	cache := new(Cache)
	b := Stored(newStorage(t), cache, records.NewClock(time.Now, func() time.Duration { return 0 }),
		day).Box("session", "app")
	seal(t, b, "text", "")
	for what, at := range map[string]time.Time{"read": cache.set.Load().read, "looked": cache.set.Load().looked} {
		if at.IsZero() || at != at.Round(0) {
			t.Errorf("%s at %v", what, at)
		}
	}
}
