// Package records keeps small things that expire in the storage that Caddy was
// given, whatever engine holds it: files, Redis, Consul, Postgres, S3.
package records

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// A request waits no longer than this for one call of the storage.
	storageTimeout = 5 * time.Second

	// landmark is a key that is always there, once it was looked for.
	landmark = "aventus_auth/landmark"

	// What nobody waits for may take longer: to list a million files, say, or to
	// remove them.
	learnTimeout = time.Minute
	sweepTimeout = 30 * time.Minute

	// A storage that hangs holds on to at most this many goroutines; calls beyond
	// them wait for their turn, and fail if it does not come.
	storageCalls = 128
)

// ErrStorage is wrapped by every error of a bounded storage that is not
// fs.ErrNotExist, so that callers can tell an outage from anything else.
var ErrStorage = errors.New("storage")

var errNoAnswer = errors.New("no answer")

// Bounded returns storage with a limit on how long each call lasts and on how
// many are under way at once, which tells failed (it may be nil) what fails. Engines are free to ignore a context (files on a
// network share do), so a call that is given up on goes on in the background,
// and its result is dropped.
func Bounded(storage certmagic.Storage, failed func(operation string, err error)) certmagic.Storage {
	return &bounded{
		Storage: storage,
		failed:  failed,
		timeout: storageTimeout,
		slots:   make(chan struct{}, storageCalls),
		held:    make(map[string]func()),
		locks:   make(chan struct{}, storageCalls),
	}
}

// bounded leaves Exists to the embedded storage: nothing here calls it.
type bounded struct {
	certmagic.Storage
	failed  func(operation string, err error) // may be nil
	timeout time.Duration
	slots   chan struct{} // of the calls under way
	locks   chan struct{} // of the locks that are wanted or held

	mu   sync.Mutex
	held map[string]func() // gives free what a lock that is held holds
}

// patient returns a bounded storage for work in the background, which does one thing
// at a time, and gives each call the time that it may need.
func patient(storage certmagic.Storage, timeout time.Duration) certmagic.Storage {
	b, ok := storage.(*bounded)
	if !ok {
		return storage
	}
	return &bounded{Storage: b.Storage, failed: b.failed, timeout: timeout, slots: make(chan struct{}, 1)}
}

// call runs f within the bounds. If f succeeds after it was given up on, undo
// (which may be nil) takes its effect back.
func call[T any](ctx context.Context, b *bounded, doing string, f func(context.Context) (T, error), undo func()) (T, error) {
	var zero T
	if !b.acquire(b.slots) {
		return zero, b.fail(doing, fmt.Errorf("%w: %s: too many calls are waiting for it", ErrStorage, doing))
	}
	return wait(ctx, b, doing, func(ctx context.Context) (T, error) {
		defer func() { <-b.slots }()
		return f(ctx)
	}, undo)
}

// acquire takes a slot. A burst waits for its turn, for as long as it would wait for
// an answer.
func (b *bounded) acquire(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
	}
	turn := time.NewTimer(b.timeout)
	defer turn.Stop()
	select {
	case slots <- struct{}{}:
		return true
	case <-turn.C:
		return false
	}
}

// wait runs f within the time bound alone.
func wait[T any](ctx context.Context, b *bounded, doing string, f func(context.Context) (T, error), undo func()) (T, error) {
	var zero T
	// The caller's own end does not end a call of the storage: a claim that
	// is half made when the visitor closes the tab would be a lost login.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.timeout)
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	go func() {
		defer cancel()
		value, err := sure(ctx, f)
		select {
		case done <- result{value, err}:
		case <-ctx.Done():
			if err == nil && undo != nil {
				undo()
			}
		}
	}()

	select {
	case r := <-done:
		switch {
		case r.err == nil:
			return r.value, nil
		case errors.Is(r.err, fs.ErrNotExist):
			return zero, fmt.Errorf("%s: %w", doing, r.err)
		case !errors.Is(ctx.Err(), context.DeadlineExceeded):
			return zero, b.fail(doing, fmt.Errorf("%w: %s: %w", ErrStorage, doing, r.err))
		}
	case <-ctx.Done():
	}
	return zero, b.fail(doing, fmt.Errorf("%w: %s: %w within %s", ErrStorage, doing, errNoAnswer, b.timeout))
}

// fail tells of an error, and returns it. The operation is what was being done, to
// whatever key.
func (b *bounded) fail(doing string, err error) error {
	if b.failed != nil {
		operation, _, _ := strings.Cut(doing, " ")
		b.failed(operation, err)
	}
	return err
}

// sure makes an error of a panic: these goroutines have nobody else to catch it, and
// a storage engine's mistake is not to end the whole server.
func sure[T any](ctx context.Context, f func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f(ctx)
}

func (b *bounded) Load(ctx context.Context, key string) ([]byte, error) {
	return call(ctx, b, "loading "+key, func(ctx context.Context) ([]byte, error) {
		value, err := b.Storage.Load(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			if err := b.reach(ctx); err != nil {
				return nil, err
			}
			return b.Storage.Load(ctx, key) // the storage may just have come back
		}
		return value, err
	}, nil)
}

// reach makes sure that what is not there is not there. Some engines say so when they
// are down, too (caddy-storage-redis 1.8.1 does), and then an outage would look like
// the end of every session, and of the keys. What is known to be there tells.
func (b *bounded) reach(ctx context.Context) error {
	_, err := b.Storage.Load(ctx, landmark)
	if errors.Is(err, fs.ErrNotExist) { // it was never put there, or the storage is down
		err = b.Storage.Store(ctx, landmark, []byte{1})
	}
	return err
}

func (b *bounded) Store(ctx context.Context, key string, value []byte) error {
	_, err := call(ctx, b, "storing "+key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.Storage.Store(ctx, key, value)
	}, nil)
	return err
}

func (b *bounded) Delete(ctx context.Context, key string) error {
	_, err := call(ctx, b, "deleting "+key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.Storage.Delete(ctx, key)
	}, nil)
	return err
}

func (b *bounded) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	return call(ctx, b, "listing "+path, func(ctx context.Context) ([]string, error) {
		keys, err := b.Storage.List(ctx, path, recursive)
		if len(keys) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
			if err := b.reach(ctx); err != nil {
				return nil, err
			}
			return b.Storage.List(ctx, path, recursive)
		}
		return keys, err
	}, nil)
}

// Stat is for listings: it tells whether there is anything to list.
func (b *bounded) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	return call(ctx, b, "listing "+key, func(ctx context.Context) (certmagic.KeyInfo, error) {
		return b.Storage.Stat(ctx, key)
	}, nil)
}

// Lock hands down a context that lasts until Unlock: some engines keep a lock fresh
// for as long as the context lives that it was taken with. Locks have slots of their
// own, or those who hold one could find no slot for what they hold it for.
func (b *bounded) Lock(ctx context.Context, name string) error {
	if !b.acquire(b.locks) {
		return b.fail("locking", fmt.Errorf("%w: locking %s: too many wait for a lock", ErrStorage, name))
	}
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	free := sync.OnceFunc(func() { release(); <-b.locks })
	unlock := func() {
		_ = b.Storage.Unlock(context.Background(), name)
		free()
	}
	_, err := wait(ctx, b, "locking "+name, func(ctx context.Context) (struct{}, error) {
		stop := context.AfterFunc(ctx, release) // given up, or answered
		err := b.Storage.Lock(held, name)
		if !stop() && err == nil {
			unlock()
			return struct{}{}, ctx.Err()
		}
		if err != nil {
			free()
		}
		return struct{}{}, err
	}, unlock)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[name] = free
	return nil
}

// Unlock gives the lock's slot free when the engine has answered, however long that
// takes.
func (b *bounded) Unlock(ctx context.Context, name string) error {
	b.mu.Lock()
	free := b.held[name] // the next holder's comes after this
	delete(b.held, name)
	b.mu.Unlock()
	_, err := wait(ctx, b, "unlocking "+name, func(ctx context.Context) (struct{}, error) {
		if free != nil {
			defer free()
		}
		return struct{}{}, b.Storage.Unlock(ctx, name)
	}, nil)
	return err
}
