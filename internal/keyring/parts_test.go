package keyring

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// testStorage is a storage in files that counts what it is asked, and fails as
// it is told to.
type testStorage struct {
	certmagic.FileStorage
	calls, loads atomic.Int64
	failing      atomic.Pointer[string] // the method, or "all"
	loading      func()                 // what a Load does first
}

// awaitWaiting waits until as many goroutines as given wait for a lock of this package.
func awaitWaiting(t *testing.T, want int) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		n := 0
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "[sync.Mutex.Lock") && strings.Contains(stack, "internal/keyring.(*Ring)") {
				n++
			}
		}
		if n >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d wait for a lock, want %d", n, want)
			return
		}
	}
}

var errBroken = errors.New("the storage is broken")

func newStorage(t *testing.T) *testStorage {
	return &testStorage{FileStorage: certmagic.FileStorage{Path: t.TempDir()}}
}

func (s *testStorage) fail(method string) { s.failing.Store(&method) }

func (s *testStorage) called(method string) error {
	s.calls.Add(1)
	if failing := s.failing.Load(); failing != nil && (*failing == method || *failing == "all") {
		return errBroken
	}
	return nil
}

func (s *testStorage) Load(ctx context.Context, key string) ([]byte, error) {
	s.loads.Add(1)
	if s.loading != nil {
		s.loading()
	}
	if err := s.called("Load"); err != nil {
		return nil, err
	}
	return s.FileStorage.Load(ctx, key)
}

func (s *testStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.called("Store"); err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

func (s *testStorage) Lock(ctx context.Context, name string) error {
	if err := s.called("Lock"); err != nil {
		return err
	}
	return s.FileStorage.Lock(ctx, name)
}

func (s *testStorage) Unlock(ctx context.Context, name string) error {
	if err := s.called("Unlock"); err != nil {
		return err
	}
	return s.FileStorage.Unlock(ctx, name)
}

func (s *testStorage) Exists(ctx context.Context, key string) bool {
	return s.called("Exists") == nil && s.FileStorage.Exists(ctx, key)
}

func (s *testStorage) Delete(ctx context.Context, key string) error {
	s.calls.Add(1)
	return s.FileStorage.Delete(ctx, key)
}

func (s *testStorage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	s.calls.Add(1)
	return s.FileStorage.List(ctx, path, recursive)
}

func (s *testStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	s.calls.Add(1)
	return s.FileStorage.Stat(ctx, key)
}

// box returns the box of a new instance, which remembers nothing.
func (s *testStorage) box(clock *testClock) *Box {
	return Stored(s, new(Cache), clock.steady(), day).Box("session", "app")
}
