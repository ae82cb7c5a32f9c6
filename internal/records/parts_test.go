package records

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// testStorage is a storage in files that a test can look into. It ignores every
// context, as engines are free to.
type testStorage struct {
	certmagic.FileStorage

	mu     sync.Mutex
	before func(method, key string) error // called first; an error is the answer
	calls  []string                       // "Load some/key"
}

func newStorage(t *testing.T) *testStorage {
	dir, err := os.MkdirTemp("", "records")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A write that is under way when a test ends may put a file into a folder that is just being removed.
		for range 1000 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
		}
		t.Error(err)
	})
	return &testStorage{FileStorage: certmagic.FileStorage{Path: dir}}
}

// on has f called before each call of the storage from now on.
func (s *testStorage) on(f func(method, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

func (s *testStorage) called(method, key string) error {
	s.mu.Lock()
	s.calls = append(s.calls, method+" "+key)
	before := s.before
	s.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(method, key)
}

// count returns how often that was called, and forgets what came so far.
func (s *testStorage) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	s.calls = nil
	return n
}

// countAll returns how often a method was called, or any if it is "", and forgets what
// came so far.
func (s *testStorage) countAll(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if method == "" || strings.HasPrefix(c, method+" ") {
			n++
		}
	}
	s.calls = nil
	return n
}

func (s *testStorage) Load(_ context.Context, key string) ([]byte, error) {
	if err := s.called("Load", key); err != nil {
		return nil, err
	}
	return s.FileStorage.Load(context.Background(), key)
}

func (s *testStorage) Store(_ context.Context, key string, value []byte) error {
	if err := s.called("Store", key); err != nil {
		return err
	}
	return s.FileStorage.Store(context.Background(), key, value)
}

func (s *testStorage) Delete(_ context.Context, key string) error {
	if err := s.called("Delete", key); err != nil {
		return err
	}
	return s.FileStorage.Delete(context.Background(), key)
}

func (s *testStorage) List(_ context.Context, path string, recursive bool) ([]string, error) {
	if err := s.called("List", path); err != nil {
		return nil, err
	}
	return s.FileStorage.List(context.Background(), path, recursive)
}

func (s *testStorage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	if err := s.called("Stat", key); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return s.FileStorage.Stat(context.Background(), key)
}

func (s *testStorage) Lock(_ context.Context, name string) error {
	if err := s.called("Lock", name); err != nil {
		return err
	}
	return s.FileStorage.Lock(context.Background(), name)
}

func (s *testStorage) Unlock(_ context.Context, name string) error {
	if err := s.called("Unlock", name); err != nil {
		return err
	}
	return s.FileStorage.Unlock(context.Background(), name)
}

var errBroken = errors.New("the storage is broken")

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s: not within 5 s", what)
			return
		}
	}
}

// testClock stands still until a test turns it.
type testClock struct{ now, set atomic.Int64 }

// newClock returns a clock that shows the full hour.
func newClock() *testClock {
	c := new(testClock)
	c.now.Store(500_000 * 3600)
	return c
}

func (c *testClock) Now() time.Time       { return time.Unix(c.now.Load(), 0) }
func (c *testClock) Add(by time.Duration) { c.now.Add(int64(by / time.Second)) }

// Set sets the wall clock alone, by so much.
func (c *testClock) Set(by time.Duration) {
	c.set.Add(int64(by / time.Second))
	c.Add(by)
}

// Elapsed is the steady clock.
func (c *testClock) Elapsed() time.Duration {
	return time.Duration(c.now.Load()-c.set.Load()) * time.Second
}

// steady returns the clock of a process that has run for an hour.
func (c *testClock) steady() *Clock {
	clock := NewClock(c.Now, c.Elapsed)
	clock.since -= steadyFor
	return clock
}
