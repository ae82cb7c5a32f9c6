// Package enginetest has stand-ins for the storage engines that Caddy can be built with, in memory. They
// differ where real engines do: in how they list, in what they say of a missing key, and in their locks.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// Data is what an engine has stored. Several instances may share it.
type Data struct {
	mu     sync.Mutex
	values map[string]value
	locks  map[string]*Engine // the holder of each
	freed  chan struct{}      // closed when a lock is released
}

type value struct {
	bytes    []byte
	modified time.Time
}

// New returns an empty Data.
func New() *Data {
	return &Data{values: make(map[string]value), locks: make(map[string]*Engine), freed: make(chan struct{})}
}

// Open returns a storage of that kind for one instance.
func (d *Data) Open(kind Kind) *Engine { return &Engine{Data: d, kind: kind} }

// Put stores a value, whatever the kind of an engine.
func (d *Data) Put(key string, bytes []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.values[key] = value{bytes, time.Now()}
}

// Keys returns all keys, sorted.
func (d *Data) Keys() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keys()
}

func (d *Data) keys() []string { return slices.Sorted(maps.Keys(d.values)) }

// Kind is how an engine behaves. The zero value does as certmagic asks.
type Kind struct {
	// What is listed of all keys. Default: what lies in dir, or below it.
	List func(keys []string, dir string, recursive bool) ([]string, error)

	// What is said of a key that does not exist. Default: fs.ErrNotExist.
	Missing error

	// What is said of a key that is deleted and does not exist. Default: nothing.
	DeleteMissing error

	// Whether Stat and Delete know keys alone, and no folders.
	NoFolders bool

	// How long a value is, at most. Default: as long as it may be.
	MaxSize int

	// Whether an empty value is refused.
	NoEmpty bool

	// Whether an instance that has loaded a key is shown the same value from then on.
	Caches bool

	Lock LockKind
}

// LockKind is how the locks of an engine behave.
type LockKind int

const (
	Excluding LockKind = iota // as certmagic asks
	Free                      // anybody gets a lock at any time
	Impatient                 // a lock that is held is refused at once
	Reentrant                 // an instance gets a lock that it holds itself
	Deaf                      // who waits for a lock waits beyond the end of the context
)

// Kinds are those that were found in the source of engines.
var Kinds = map[string]Kind{
	"as certmagic asks": {},

	// techknowlogick/certmagic-s3 1.4.1
	"ignores the prefix and adds its own": {List: func(keys []string, _ string, _ bool) ([]string, error) {
		return prefixed("acme/", keys), nil
	}, NoFolders: true, NoEmpty: true},
	"ignores the prefix": {List: func(keys []string, _ string, _ bool) ([]string, error) { return keys, nil },
		NoFolders: true},

	// travisjeffery/certmagic-sqlstorage 1.1.1
	"refuses recursive listings": {List: func(keys []string, dir string, recursive bool) ([]string, error) {
		if recursive {
			return nil, errors.New("recursive not supported")
		}
		return textual(keys, dir), nil
	}, Lock: Impatient, NoFolders: true},

	// pteich/caddy-tlsconsul
	"compares the prefix as text": {List: func(keys []string, dir string, recursive bool) ([]string, error) {
		found := textual(keys, dir)
		if len(found) == 0 {
			return nil, fs.ErrNotExist
		}
		if recursive {
			return found, nil
		}
		first := make(map[string]bool)
		for _, key := range found {
			name, _, _ := strings.Cut(strings.TrimPrefix(key, dir+"/"), "/")
			first[path.Join(dir, name)] = true
		}
		return slices.Collect(maps.Keys(first)), nil
	}, DeleteMissing: fs.ErrNotExist, NoFolders: true, Lock: Reentrant},

	// grafana/certmagic-gcs
	"shows no folders, and nothing of one without its slash": {List: func(keys []string, dir string,
		recursive bool) ([]string, error) {
		found := textual(keys, dir)
		if !recursive {
			found = slices.DeleteFunc(found, func(key string) bool { return strings.Contains(key[len(dir):], "/") })
		}
		return found, nil
	}, DeleteMissing: fs.ErrNotExist, NoFolders: true},

	"lists recursively whatever is asked": {List: func(keys []string, dir string, _ bool) ([]string, error) {
		return within(keys, dir, true), nil
	}},
	"never lists recursively": {List: func(keys []string, dir string, _ bool) ([]string, error) {
		return within(keys, dir, false), nil
	}},
	"refuses recursive listings and shows folders": {List: func(keys []string, dir string,
		recursive bool) ([]string, error) {
		if recursive {
			return nil, errors.New("recursive not supported")
		}
		return within(keys, dir, false), nil
	}},
	"refuses listings that are not recursive": {List: func(keys []string, dir string,
		recursive bool) ([]string, error) {
		if !recursive {
			return nil, errors.New("only recursive listings are supported")
		}
		return within(keys, dir, true), nil
	}},
	"shows folders with a slash": {List: func(keys []string, dir string, recursive bool) ([]string, error) {
		found := within(keys, dir, recursive)
		for i, key := range found {
			if !slices.Contains(keys, key) {
				found[i] += "/"
			}
		}
		return found, nil
	}},
	"lists the folder itself": {List: func(keys []string, dir string, recursive bool) ([]string, error) {
		return append(within(keys, dir, recursive), dir, dir+"/"), nil
	}},
	"separates by backslashes": {List: func(keys []string, dir string, recursive bool) ([]string, error) {
		found := within(keys, dir, recursive)
		for i := range found {
			found[i] = strings.ReplaceAll(found[i], "/", `\`)
		}
		return found, nil
	}},
	"begins keys with a slash": {List: func(keys []string, dir string, recursive bool) ([]string, error) {
		return prefixed("/", within(keys, dir, recursive)), nil
	}},
	"wraps fs.ErrNotExist": {
		Missing:       fmt.Errorf("not found: %w", fs.ErrNotExist),
		DeleteMissing: fmt.Errorf("not found: %w", fs.ErrNotExist),
	},
	"shares its bucket": {List: func(keys []string, _ string, _ bool) ([]string, error) {
		return append(prefixed("acme/other/", keys),
			append(prefixed("acme/", keys), prefixed("acme/more/", keys)...)...), nil
	}, NoFolders: true},
}

func prefixed(prefix string, keys []string) []string {
	found := make([]string, 0, len(keys))
	for _, key := range keys {
		found = append(found, prefix+key)
	}
	return found
}

func textual(keys []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !strings.HasPrefix(key, prefix) })
}

// within returns what lies in dir, folders too, or below it.
func within(keys []string, dir string, recursive bool) []string {
	found := make(map[string]bool)
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, dir+"/")
		if !ok {
			continue
		}
		at := dir
		for name := range strings.SplitSeq(rest, "/") {
			at += "/" + name
			found[at] = true
			if !recursive {
				break
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Engine is an instance's view of a Data.
type Engine struct {
	*Data
	kind Kind

	mu     sync.Mutex
	loaded map[string][]byte // where it caches
}

func (e *Engine) missing(key string) error {
	if e.kind.Missing != nil {
		return e.kind.Missing
	}
	return fmt.Errorf("%s: %w", key, fs.ErrNotExist)
}

// Store implements certmagic.Storage, like all that follow.
func (e *Engine) Store(_ context.Context, key string, bytes []byte) error {
	switch {
	case e.kind.NoEmpty && len(bytes) == 0:
		return errors.New("empty values are refused")
	case e.kind.MaxSize > 0 && len(bytes) > e.kind.MaxSize:
		return errors.New("the value is too large")
	}
	e.Put(key, slices.Clone(bytes))
	return nil
}

func (e *Engine) Load(_ context.Context, key string) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known, ok := e.loaded[key]; ok {
		return known, nil
	}
	e.Data.mu.Lock()
	defer e.Data.mu.Unlock()
	found, ok := e.values[key]
	if !ok {
		return nil, e.missing(key)
	}
	if e.kind.Caches {
		if e.loaded == nil {
			e.loaded = make(map[string][]byte)
		}
		e.loaded[key] = found.bytes
	}
	return slices.Clone(found.bytes), nil
}

func (e *Engine) Delete(_ context.Context, key string) error {
	e.Data.mu.Lock()
	defer e.Data.mu.Unlock()
	_, ok := e.values[key]
	delete(e.values, key)
	if !e.kind.NoFolders {
		for _, in := range within(e.keys(), key, true) {
			delete(e.values, in)
			ok = true
		}
	}
	if !ok {
		return e.kind.DeleteMissing
	}
	return nil
}

func (e *Engine) Exists(ctx context.Context, key string) bool {
	_, err := e.Stat(ctx, key)
	return err == nil
}

func (e *Engine) List(_ context.Context, dir string, recursive bool) ([]string, error) {
	e.Data.mu.Lock()
	defer e.Data.mu.Unlock()
	if e.kind.List != nil {
		return e.kind.List(e.keys(), dir, recursive)
	}
	found := within(e.keys(), dir, recursive)
	if len(found) == 0 {
		return nil, e.missing(dir)
	}
	return found, nil
}

func (e *Engine) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	e.Data.mu.Lock()
	defer e.Data.mu.Unlock()
	if found, ok := e.values[key]; ok {
		return certmagic.KeyInfo{Key: key, Modified: found.modified, Size: int64(len(found.bytes)), IsTerminal: true},
			nil
	}
	if !e.kind.NoFolders && len(within(e.keys(), key, false)) > 0 {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, e.missing(key)
}

func (e *Engine) Lock(ctx context.Context, name string) error {
	if e.kind.Lock == Deaf {
		ctx = context.WithoutCancel(ctx)
	}
	for {
		e.Data.mu.Lock()
		holder, freed := e.locks[name], e.freed
		isFree := holder == nil || e.kind.Lock == Free || e.kind.Lock == Reentrant && holder == e
		if isFree {
			e.locks[name] = e
		}
		e.Data.mu.Unlock()
		switch {
		case isFree:
			return nil
		case e.kind.Lock == Impatient:
			return fmt.Errorf("key is locked: %s", name)
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Engine) Unlock(_ context.Context, name string) error {
	e.Data.mu.Lock()
	defer e.Data.mu.Unlock()
	if e.locks[name] == nil {
		return fmt.Errorf("%s is not locked", name)
	}
	delete(e.locks, name)
	close(e.freed)
	e.freed = make(chan struct{})
	return nil
}

// Interface guard
var _ certmagic.Storage = (*Engine)(nil)
