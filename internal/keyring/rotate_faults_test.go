package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// hookedStorage calls what is set before it takes the lock, or after it has stored.
type hookedStorage struct {
	*testStorage
	lock   func()
	stored func() error
}

func (s *hookedStorage) Lock(ctx context.Context, name string) error {
	if s.lock != nil {
		s.lock()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.testStorage.Lock(ctx, name)
}

func (s *hookedStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.testStorage.Store(ctx, key, value); err != nil || s.stored == nil {
		return err
	}
	return s.stored()
}

// While one instance waits for the lock, another makes the key.
func TestRaceLost(t *testing.T) {
	s, clock := newStorage(t), newClock()
	winner := newInstance(s, clock, day)
	hooked := &hookedStorage{testStorage: s}
	loser := newInstance(hooked, clock, day)
	first := winner.seal(t)
	loser.opens(t, first)

	clock.Add(rotateAfter)
	hooked.lock = func() { winner.seal(t) }
	hooked.stored = func() error { t.Error("the file was written although nothing was to change"); return nil }
	loser.sealsWith(t, "during the rotation", first)
	s.keys(t, "both have rotated", 2)
	hooked.lock = func() { t.Error("rotated once more") }
	clock.Add(ripeAfter)
	second := winner.seal(t)
	if keyOf(t, second) == keyOf(t, first) {
		t.Error("no new key")
	}
	loser.sealsWith(t, "the winner's key", second)
	loser.opens(t, second)
}

// TestReadBefore: a request that has read the file just before the key was made, and
// is slow to say so, does not put what it has read in place of the new one.
func TestReadBefore(t *testing.T) {
	s, clock := newStorage(t), newClock()
	slow := &slowReader{testStorage: s}
	one := newInstance(slow, clock, day)
	first := one.seal(t)
	clock.Add(rotateAfter)
	one.opens(t, first) // has the file read again
	clock.Add(reloadInterval)
	read, stored := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	loaded := func() {
		close(read)
		<-stored
		awaitWaiting(t, 1) // the key's maker
	}
	slow.loaded.Store(&loaded)
	slow.stored = func() { close(stored) }
	made := seal(t, fixed(t, clock, secret(1)).Box("session", "app"), "text", "")
	wg.Go(func() { opensNothing(t, "made up", one.Box, made, "") })
	<-read
	seal(t, one.Box, "text", "") // has the key made
	wg.Wait()
	one.rest()
	s.keys(t, "made meanwhile", 2)
	s.fail("all")
	clock.Add(ripeAfter)
	if keyOf(t, one.seal(t)) == keyOf(t, first) {
		t.Error("the new key does not seal")
	}
}

// slowReader calls what is set after the next file was loaded, and after one is stored.
type slowReader struct {
	*testStorage
	loaded atomic.Pointer[func()]
	stored func()
}

func (s *slowReader) Load(ctx context.Context, key string) ([]byte, error) {
	data, err := s.testStorage.Load(ctx, key)
	if loaded := s.loaded.Swap(nil); loaded != nil {
		(*loaded)()
	}
	return data, err
}

func (s *slowReader) Store(ctx context.Context, key string, value []byte) error {
	err := s.testStorage.Store(ctx, key, value)
	if s.stored != nil {
		s.stored()
	}
	return err
}

// A stale lock is taken away from its holder, who may only have been slow: both
// write a key, and one of those is gone. It has sealed nothing.
func TestLockBroken(t *testing.T) {
	s, clock := newStorage(t), newClock()
	fast := newInstance(s, clock, day)
	slow := newInstance(&noLock{s}, clock, day)
	first := fast.seal(t)
	slow.opens(t, first)
	clock.Add(rotateAfter)
	old, err := s.Load(t.Context(), File)
	if err != nil {
		t.Fatal(err)
	}
	fast.seal(t)
	// The other has read the file just before, and writes just after.
	if err := s.Store(t.Context(), File, old); err != nil {
		t.Fatal(err)
	}
	slow.seal(t)
	s.keys(t, "both have rotated", 2)
	for range int(3 * ripeAfter / (10 * time.Minute)) {
		sealed := []string{fast.seal(t), slow.seal(t)}
		fast.opens(t, sealed[1])
		slow.opens(t, sealed[0])
		newInstance(s, clock, day).opens(t, sealed[0])
		clock.Add(10 * time.Minute)
	}
	if fast.sealsWith(t, "in the end", slow.seal(t)); keyOf(t, fast.seal(t)) == keyOf(t, first) {
		t.Error("the new key does not seal")
	}
}

// noLock is a storage whose lock keeps nobody out.
type noLock struct{ *testStorage }

func (noLock) Lock(context.Context, string) error   { return nil }
func (noLock) Unlock(context.Context, string) error { return nil }

// A process that was killed leaves its lock behind, and the old file or the new one.
func TestCrash(t *testing.T) {
	for _, written := range []bool{false, true} {
		s, clock := newStorage(t), newClock()
		first := newInstance(s, clock, day).seal(t)
		clock.Add(rotateAfter)
		if written {
			newInstance(s, clock, day).seal(t)
		}
		lock := filepath.Join(s.Path, "locks", certmagic.StorageKeys.Safe(storageLock)+".lock")
		if err := os.WriteFile(lock, []byte(`{"created":"2020-01-01T00:00:00Z","updated":"2020-01-01T00:00:00Z"}`),
			0o600); err != nil {
			t.Fatal(err)
		}
		next := newInstance(s, clock, day)
		next.opens(t, first)
		next.sealsWith(t, "after the crash", first)
		s.keys(t, "after the crash", 2)
		clock.Add(ripeAfter)
		if keyOf(t, next.seal(t)) == keyOf(t, first) {
			t.Error("the new key does not seal")
		}
		next.opens(t, first)
		// A lock left where no rotation is due waits for the next one.
		if _, err := os.Stat(lock); written == errors.Is(err, fs.ErrNotExist) {
			t.Errorf("written %v: the lock: %v", written, err)
		}
	}
}

// A storage that fails costs no request, and is asked again after a minute.
func TestRotationFails(t *testing.T) {
	for _, method := range []string{"all", "Load", "Lock", "Store", "Unlock"} {
		s, clock := newStorage(t), newClock()
		one := newInstance(s, clock, day)
		first := one.seal(t)
		clock.Add(rotateAfter)
		s.fail(method)
		one.sealsWith(t, method+" fails", first)
		one.opens(t, first)
		want := 1
		if method == "Unlock" {
			want = 2
		}
		s.keys(t, method+" fails", want)

		n := s.calls.Load()
		for range 59 {
			clock.Add(time.Second)
			one.sealsWith(t, method+" has failed", first)
			one.opens(t, first)
		}
		if again := s.calls.Load() - n; again != 0 {
			t.Errorf("%s fails: asked %d times within a minute", method, again)
		}
		clock.Add(time.Second)
		one.seal(t)
		if again := s.calls.Load() - n; (again == 0) != (method == "Unlock") {
			t.Errorf("%s fails: asked %d times after a minute", method, again)
		}
		s.fail("")
		clock.Add(time.Minute)
		if one.seal(t); method != "Unlock" { // else the lock is kept for as long as this process lives
			s.keys(t, method+" works again", 2)
		}
		clock.Add(ripeAfter)
		second := one.seal(t)
		if keyOf(t, second) == keyOf(t, first) {
			t.Errorf("%s: the new key does not seal", method)
		}
		newInstance(s, clock, day).opens(t, second)
		one.opens(t, first)
	}
}

// A write that fails may have been carried out all the same.
func TestWrittenAllTheSame(t *testing.T) {
	s, clock := newStorage(t), newClock()
	hooked := &hookedStorage{testStorage: s}
	one := newInstance(hooked, clock, day)
	first := one.seal(t)
	clock.Add(rotateAfter)
	hooked.stored = func() error { return errBroken }
	one.seal(t)
	s.keys(t, "the write failed", 2)
	clock.Add(time.Minute)
	one.seal(t)
	s.keys(t, "another attempt", 2)
	clock.Add(ripeAfter)
	second := one.seal(t)
	if keyOf(t, second) == keyOf(t, first) {
		t.Error("the new key does not seal")
	}
	newInstance(s, clock, day).opens(t, second)
}

// An attempt that failed before the clock was set back does not put off the next
// one until it has caught up.
func TestClockSetBackAfterFailure(t *testing.T) {
	s, clock := newStorage(t), newClock()
	one := newInstance(s, clock, day)
	one.seal(t)
	clock.Add(rotateAfter + time.Hour)
	s.fail("Lock")
	one.seal(t)
	s.fail("")
	clock.Add(-time.Hour)
	one.seal(t)
	s.keys(t, "set back by an hour", 2)
}

// TestIdleInOutage: an instance that wakes while the storage is down seals with what it
// has, and with what the others have as soon as it can know that.
func TestIdleInOutage(t *testing.T) {
	s, clock := newStorage(t), newClock()
	view := &testStorage{FileStorage: s.FileStorage}
	busy, idle := newInstance(s, clock, day), newInstance(view, clock, day)
	first := idle.seal(t)
	for range 2 { // and again
		for range 12 {
			clock.Add(10 * day)
			busy.seal(t)
		}
		clock.Add(ripeAfter)
		now := busy.seal(t)
		view.fail("all")
		view.calls.Store(0)
		for range 30 {
			idle.sealsWith(t, "storage down", first)
			clock.Add(2 * time.Second)
		}
		if n := view.calls.Load(); n > 3 {
			t.Errorf("a storage that is down was asked %d times in a minute", n)
		}
		view.fail("")
		idle.sealsWith(t, "the storage is back", now)
		first = now
	}
}

// TestRestoredFromBackup: a file that was restored as it was long ago, without the
// newest keys and the longest life, is completed, and what its keys sealed opens.
func TestRestoredFromBackup(t *testing.T) {
	s, clock := newStorage(t), newClock()
	short := newInstance(s, clock, day)
	first := short.seal(t)
	backup, err := s.Load(t.Context(), File)
	if err != nil {
		t.Fatal(err)
	}
	long := newInstance(s, clock, 90*day)
	for range 2 { // and again
		long.seal(t)
		if keep := s.file(t).Keep; keep != int64(90*day/time.Second) {
			t.Fatalf("the file says %d s", keep)
		}
		if err := s.Store(t.Context(), File, backup); err != nil {
			t.Fatal(err)
		}
		clock.Add(refreshAfter)
		long.seal(t) // looks
		clock.Add(retryAfter)
		sealed := long.seal(t) // and writes
		if keep := s.file(t).Keep; keep != int64(90*day/time.Second) {
			t.Errorf("restored: the file says %d s", keep)
		}
		long.opens(t, first)
		newInstance(s, clock, day).opens(t, sealed)
	}
}

// Where that cannot be written, it works all the same, and is tried again.
func TestKeepFails(t *testing.T) {
	for _, method := range []string{"Lock", "Store", "all"} {
		s, clock, cache := newStorage(t), newClock(), new(Cache)
		seal(t, Stored(s, cache, clock.steady(), day).Box("session", "app"), "text", "")
		one := &instance{Stored(s, cache, clock.steady(), 90*day).Box("session", "app"), clock}
		s.fail(method)
		one.opens(t, one.seal(t))
		s.fail("")
		clock.Add(59 * time.Second)
		one.seal(t)
		if keep := s.file(t).Keep; keep != int64(day/time.Second) {
			t.Errorf("%s fails: tried within a minute", method)
		}
		clock.Add(time.Second)
		one.seal(t)
		if keep := s.file(t).Keep; keep != int64(90*day/time.Second) {
			t.Errorf("%s fails: not tried after a minute", method)
		}
		s.keys(t, method, 1)
	}
}

// TestForgottenWhileTended: a storage that was down turns out to be another one, and an empty one, as the first value
// with a longer lifetime is sealed: it is sealed with a key of that storage.
func TestForgottenWhileTended(t *testing.T) {
	s, clock, cache := newStorage(t), newClock(), new(Cache)
	before := seal(t, Stored(s, cache, clock.steady(), day).Box("session", "app"), "text", "")
	another := &hookedStorage{testStorage: newStorage(t), lock: cache.Forget}
	one := &instance{Stored(another, cache, clock.steady(), 90*day).Box("session", "app"), clock}
	sealed := one.seal(t)
	if keyOf(t, sealed) == keyOf(t, before) {
		t.Error("it is sealed with a key of the storage of before")
	}
	newInstance(another.testStorage, clock, day).opens(t, sealed)
	if keep := another.file(t).Keep; keep != int64(90*day/time.Second) {
		t.Errorf("its file is kept for %d s", keep)
	}
}

// A file of before there was "keep", and one with numbers that no clock reaches.
func TestStrangeFiles(t *testing.T) {
	for what, tc := range map[string]struct{ keep, created string }{
		"none":      {"", "2026-12-01T00:00:00Z"},
		"zero":      {`,"keep":0`, "2026-12-01T00:00:00Z"},
		"negative":  {`,"keep":-9223372036854775808`, "2026-12-01T00:00:00Z"},
		"endless":   {`,"keep":9223372036854775807`, "2026-12-01T00:00:00Z"},
		"no date":   {"", "0001-01-01T00:00:00Z"},
		"year 9999": {`,"keep":9223372036854775807`, "9999-12-31T23:59:59Z"},
	} {
		s, clock := newStorage(t), newClock()
		secrets, _ := json.Marshal([]key{{Secret: secret(1)}, {Secret: secret(2)}})
		file := `{"keys":` + string(secrets) + tc.keep + `}`
		file = strings.ReplaceAll(file, "0001-01-01T00:00:00Z", tc.created)
		if err := s.FileStorage.Store(t.Context(), File, []byte(file)); err != nil {
			t.Fatal(err)
		}
		one := newInstance(s, clock, day)
		sealed := one.seal(t)
		one.opens(t, sealed)
		one.rest()
		clock.Add(time.Minute)
		one.opens(t, one.seal(t))
		if got := s.file(t); got.Keep < int64(day/time.Second) {
			t.Errorf("%s: the file says %d s", what, got.Keep)
		} else if tc.keep == `,"keep":9223372036854775807` && (got.Keep != 1<<63-1 || len(got.Keys) < 2) {
			t.Errorf("%s: %d s, %d keys", what, got.Keep, len(got.Keys))
		}
		newInstance(s, clock, day).opens(t, sealed)
	}
}
