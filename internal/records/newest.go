package records

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/certmagic"
)

// Newest is the storage of the newest of the loaded configurations that share one. Caddy makes a
// new value of the storage for each configuration and closes the value of the configuration
// before (an engine may have a connection to close), in no particular order with its other modules.
//
// Requests of a configuration go on after it is unloaded, and so does what they share with those
// of the next one: renewals, used codes, keys, the learning of what has ended. All of that is made once
// with a bounded Newest as its storage, and each of its calls goes to the newest value there is
// at that moment. So a reload needs no notification, and nothing keeps a closed value.
//
// A call that fails while another value is in use is made again there: the first value may have
// been closed in the middle of the call, or belong to a configuration that fails to load. Every
// call here can be made twice.
type Newest struct {
	// Identified is called with the id of a value's storage before the value's first other call, and again after
	// another value was in use. It may be nil.
	Identified func(id string)

	next atomic.Pointer[Newest] // asked in place of this one, unless nil

	identifying sync.Mutex
	identified  atomic.Pointer[verified] // the value with which Identified was last called

	mu     sync.Mutex
	values []*verified        // those in use, the newest last; if none is, the one that was in use last
	inUse  int                // how many of values are in use
	locked holders[*verified] // where each lock that is held was taken
}

// Use makes storage the one to ask, until a newer one comes or release is called. After that, the
// newest of those that are still in use is asked; if there is none, storage is asked all the same.
// A storage may be used several times, as by the blocks of one configuration.
func (n *Newest) Use(storage certmagic.Storage) (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	value := &verified{Storage: storage}
	n.values = n.values[:n.inUse]
	if i := slices.IndexFunc(n.values, value.isSame); i >= 0 {
		value = n.values[i]
	}
	n.values = append(n.values, value)
	n.inUse++
	return sync.OnceFunc(func() { n.release(value) })
}

func (n *Newest) release(value *verified) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inUse--
	if n.inUse > 0 {
		i := slices.Index(n.values, value)
		n.values = slices.Delete(n.values, i, i+1)
	}
}

// ask calls f with the newest value. If that fails, and another value is in use by then, ask calls f
// with that one, unless the time for the call is over. The answer that a key does not exist does not
// count as failure: it is verified.
func ask[T any](ctx context.Context, n *Newest, f func(*verified) (T, error)) (T, error) {
	first := n.other(nil)
	n.identify(ctx, first)
	result, err := askOne(ctx, first, f)
	if err == nil || errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
		return result, err
	}
	if second := n.other(first); second != nil {
		if result, again := askOne(ctx, second, f); again == nil || errors.Is(again, fs.ErrNotExist) {
			return result, again
		}
	}
	return result, err
}

// askOne calls f with a value. An engine that panics because it is closed fails like any other.
func askOne[T any](ctx context.Context, value *verified, f func(*verified) (T, error)) (T, error) {
	return sure(ctx, func(context.Context) (T, error) { return f(value) })
}

// Follow passes all further calls to another Newest, whose storage is the same one. Pending work of an
// unloaded configuration is then written by the value of its successor.
func (n *Newest) Follow(next *Newest) { n.next.Store(next) }

// other returns the newest value that is not the given one, or nil.
func (n *Newest) other(than *verified) *verified {
	if next := n.next.Load(); next != nil {
		return next.other(than)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, value := range slices.Backward(n.values) {
		if value != than {
			return value
		}
	}
	return nil
}

// Store implements certmagic.Storage, like all that follow.
func (n *Newest) Store(ctx context.Context, key string, value []byte) error {
	_, err := ask(ctx, n, func(s *verified) (struct{}, error) { return struct{}{}, s.Store(ctx, key, value) })
	return err
}

func (n *Newest) Load(ctx context.Context, key string) ([]byte, error) {
	return ask(ctx, n, func(s *verified) ([]byte, error) { return s.Load(ctx, key) })
}

func (n *Newest) Delete(ctx context.Context, key string) error {
	_, err := ask(ctx, n, func(s *verified) (struct{}, error) { return struct{}{}, s.Delete(ctx, key) })
	return err
}

func (n *Newest) Exists(ctx context.Context, key string) bool {
	return n.other(nil).Exists(ctx, key)
}

func (n *Newest) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	return ask(ctx, n, func(s *verified) ([]string, error) { return s.List(ctx, path, recursive) })
}

func (n *Newest) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	return ask(ctx, n, func(s *verified) (certmagic.KeyInfo, error) { return s.Stat(ctx, key) })
}

// Lock records which value holds the lock, since only that one can release it.
func (n *Newest) Lock(ctx context.Context, name string) error {
	at, err := ask(ctx, n, func(s *verified) (*verified, error) { return s, s.Lock(ctx, name) })
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.locked == nil {
		n.locked = make(holders[*verified])
	}
	n.locked.add(name, at)
	return nil
}

func (n *Newest) Unlock(ctx context.Context, name string) error {
	n.mu.Lock()
	at, ok := n.locked.take(name) // before the engine lets the next holder in
	n.mu.Unlock()
	if !ok {
		at = n.other(nil)
	}
	return at.Unlock(ctx, name)
}

// Interface guard
var _ certmagic.Storage = (*Newest)(nil)
