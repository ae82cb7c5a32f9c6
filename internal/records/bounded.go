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
	// The longest that a request waits for one call of the storage.
	storageTimeout = 5 * time.Second

	// Calls for which no request waits may take longer, such as listing or removing a
	// million files.
	learnTimeout = time.Minute
	sweepTimeout = 30 * time.Minute

	// The most goroutines that a hanging storage can occupy; further calls wait for a
	// slot, and fail if none gets free in time.
	storageCalls = 128
)

// ErrStorage is wrapped by every error of a bounded storage that is not
// fs.ErrNotExist, so that callers can tell an outage from anything else.
var ErrStorage = errors.New("storage")

var errNoAnswer = errors.New("no answer")

// Bounded returns storage with limits on the duration of each call, and on the number of
// calls at a time. It calls failed, which may be nil, for each error. Engines are free to
// ignore a context (files on a network share do), so a call that was given up on goes on
// in the background, and its result is dropped. The answer that a key does not exist is
// verified.
//
// A write that was given up on may still be carried out. So the next write of its key
// begins when it has ended: the last value stays, as far as this process and an engine that
// answers at the end of a write are concerned. Against other processes, either the value
// keeps them from writing, or a lock is held until [Shelf.Settled].
func Bounded(storage certmagic.Storage, failed func(operation string, err error)) certmagic.Storage {
	if _, ok := storage.(*Newest); !ok { // which verifies the answers of each of its values
		storage = &verified{Storage: storage}
	}
	return &bounded{
		Storage: storage,
		failed:  failed,
		timeout: storageTimeout,
		slots:   make(chan struct{}, storageCalls),
		held:    make(holders[func()]),
		locks:   make(chan struct{}, storageCalls),
		writes:  make(map[string]*writes),
	}
}

// bounded leaves Exists to the embedded storage: nothing here calls it.
type bounded struct {
	certmagic.Storage
	failed  func(operation string, err error) // may be nil
	timeout time.Duration
	slots   chan struct{} // one for each call under way
	locks   chan struct{} // one for each lock that is waited for or held

	mu     sync.Mutex
	held   holders[func()]    // release the slots of held locks
	writes map[string]*writes // by key
}

// writes are the pending writes of one key: the one under way and those that wait for it, given up on or not.
type writes struct {
	count   int
	turn    chan struct{} // taken by the write under way
	settled chan struct{} // closed when none is left
}

// patient returns a bounded storage for work that no request waits for: that many calls at a time, with
// a longer time limit.
func patient(storage certmagic.Storage, timeout time.Duration, calls int) certmagic.Storage {
	b, ok := storage.(*bounded)
	if !ok {
		return storage
	}
	return &bounded{
		Storage: b.Storage, failed: b.failed, timeout: timeout,
		slots: make(chan struct{}, calls), writes: make(map[string]*writes),
	}
}

// call runs f within both limits. If f succeeds after it was given up on, undo
// (which may be nil) reverts its effect.
func call[T any](ctx context.Context, b *bounded, doing string, f func(context.Context) (T, error),
	undo func()) (T, error) {
	var zero T
	if !b.acquire(b.slots) {
		return zero, b.fail(doing, fmt.Errorf("%w: %s: too many calls are waiting for it", ErrStorage, doing))
	}
	return wait(ctx, b, doing, func(ctx context.Context) (T, error) {
		defer func() { <-b.slots }()
		return f(ctx)
	}, undo)
}

// acquire takes a slot. It waits for one as long as a call waits for its answer, which
// bursts may need.
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

// wait runs f within the time limit alone.
func wait[T any](ctx context.Context, b *bounded, doing string, f func(context.Context) (T, error),
	undo func()) (T, error) {
	var zero T
	// The end of the caller's context does not end a call of the storage: if the
	// visitor closed the tab while a code's use is written, the login would be lost.
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
				_, _ = sure(ctx, func(context.Context) (struct{}, error) { undo(); return struct{}{}, nil })
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

// fail reports an error, and returns it. The operation names the method, without the key.
func (b *bounded) fail(doing string, err error) error {
	if b.failed != nil {
		operation, _, _ := strings.Cut(doing, " ")
		b.failed(operation, err)
	}
	return err
}

// sure turns a panic into an error: nothing else in these goroutines recovers from it, and
// a bug of a storage engine must not end the whole server.
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
		return b.Storage.Load(ctx, key)
	}, nil)
}

func (b *bounded) Store(ctx context.Context, key string, value []byte) error {
	_, err := call(ctx, b, "storing "+key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.inTurn(ctx, key, func() error { return b.Storage.Store(ctx, key, value) })
	}, nil)
	return err
}

// inTurn waits until the earlier writes of the key have ended, and then writes, unless it is given up on
// before.
func (b *bounded) inTurn(ctx context.Context, key string, write func() error) error {
	b.mu.Lock()
	w := b.writes[key]
	if w == nil {
		w = &writes{turn: make(chan struct{}, 1), settled: make(chan struct{})}
		b.writes[key] = w
	}
	w.count++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if w.count--; w.count == 0 {
			delete(b.writes, key)
			close(w.settled)
		}
	}()
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return write()
}

// settled returns a channel that is closed when no write of the key is under way in this process.
func settled(storage certmagic.Storage, key string) <-chan struct{} {
	if b, ok := storage.(*bounded); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		if w := b.writes[key]; w != nil {
			return w.settled
		}
	}
	none := make(chan struct{})
	close(none)
	return none
}

func (b *bounded) Delete(ctx context.Context, key string) error {
	_, err := call(ctx, b, "deleting "+key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.Storage.Delete(ctx, key)
	}, nil)
	return err
}

func (b *bounded) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	return call(ctx, b, "listing "+path, func(ctx context.Context) ([]string, error) {
		return b.Storage.List(ctx, path, recursive)
	}, nil)
}

// Stat is for listings, which check with it whether there is anything to list.
func (b *bounded) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	return call(ctx, b, "listing "+key, func(ctx context.Context) (certmagic.KeyInfo, error) {
		return b.Storage.Stat(ctx, key)
	}, nil)
}

// Lock passes on a context that lasts until Unlock: some engines renew a lock only as long
// as the context of its Lock lives. Locks have slots of their own: otherwise, the
// holder of a lock might find no slot for the calls that it made the lock for.
func (b *bounded) Lock(ctx context.Context, name string) error {
	if !b.acquire(b.locks) {
		return b.fail("locking", fmt.Errorf("%w: locking %s: too many wait for a lock", ErrStorage, name))
	}
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	free := sync.OnceFunc(func() { release(); <-b.locks })
	unlock := func() {
		defer free()
		_ = b.Storage.Unlock(context.Background(), name)
	}
	_, err := wait(ctx, b, "locking "+name, func(ctx context.Context) (struct{}, error) {
		isLocked := false
		defer func() {
			if !isLocked { // the engine refused, or panicked
				free()
			}
		}()
		stop := context.AfterFunc(ctx, release) // given up, or answered
		if err := b.lock(held, name); err != nil {
			return struct{}{}, err
		}
		isLocked = true
		if !stop() {
			unlock()
			return struct{}{}, ctx.Err()
		}
		return struct{}{}, nil
	}, unlock)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held.add(name, free)
	return nil
}

// lockPause is the time between two attempts to take a lock that an engine refuses.
const lockPause = 250 * time.Millisecond

// lock waits for a lock until ctx is done, even if the engine refuses a held lock at once, as certmagic-sqlstorage
// 1.1.1 does. An engine that cannot be reached is not asked again.
func (b *bounded) lock(ctx context.Context, name string) error {
	for {
		err := b.Storage.Lock(ctx, name)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if _, unreachable := b.Storage.Stat(ctx, Landmark); unreachable != nil {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return err
		}
	}
}

// Unlock frees the lock's slot when the engine has answered, however long that takes.
func (b *bounded) Unlock(ctx context.Context, name string) error {
	b.mu.Lock()
	free, ok := b.held.take(name) // before the engine lets the next holder in
	b.mu.Unlock()
	_, err := wait(ctx, b, "unlocking "+name, func(ctx context.Context) (struct{}, error) {
		if ok {
			defer free()
		}
		return struct{}{}, b.Storage.Unlock(ctx, name)
	}, nil)
	return err
}

// holders maps the name of each held lock to a value for each of its holders, the oldest
// first. A lock has several if an engine took it for stale and gave it to another.
type holders[T any] map[string][]T

func (h holders[T]) add(name string, holder T) { h[name] = append(h[name], holder) }

// take removes and returns the oldest holder of a lock, if there is one.
func (h holders[T]) take(name string) (oldest T, ok bool) {
	all := h[name]
	if len(all) == 0 {
		return oldest, false
	}
	if h[name] = all[1:]; len(all) == 1 {
		delete(h, name)
	}
	return all[0], true
}
