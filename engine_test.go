package aventusauth

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

func init() { caddy.RegisterModule(new(engine)) }

// engine is a storage of files that is closed with its config, as engines with a connection are, and
// that fails as engineFault says.
type engine struct {
	certmagic.FileStorage
	How    string `json:"how,omitempty"` // hides: its storage shows nothing of it; alike: nothing that tells it
	closed atomic.Bool
}

// hiding is the storage of an engine that says nothing of its configuration, as those with a client do.
type hiding struct {
	certmagic.FileStorage `json:"-"`
}

// alike is the storage of an engine that does not show which one it is, as one whose address is a secret.
type alike struct {
	certmagic.FileStorage `json:"-"`
	Name                  string `json:"name"`
}

// engineFault returns what a call of any engine fails with. It may be nil.
var engineFault atomic.Pointer[func(operation, key string) error]

func (*engine) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.test_engine", New: func() caddy.Module { return new(engine) }}
}

func (e *engine) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.NextArg() {
		return d.ArgErr()
	}
	e.Path = d.Val()
	if d.NextArg() {
		e.How = d.Val()
	}
	return nil
}

func (e *engine) CertMagicStorage() (certmagic.Storage, error) {
	switch e.How {
	case "hides":
		return &hiding{e.FileStorage}, nil
	case "alike":
		return &alike{e.FileStorage, "postgres"}, nil
	}
	return e, nil
}

func (e *engine) Cleanup() error {
	e.closed.Store(true)
	return nil
}

func (e *engine) fails(operation, key string) error {
	if e.closed.Load() {
		return errors.New("the engine is closed")
	}
	if fault := engineFault.Load(); fault != nil {
		return (*fault)(operation, key)
	}
	return nil
}

// engineLocksFreely says whether the locks of all engines exclude nobody.
var engineLocksFreely atomic.Bool

func (e *engine) Lock(ctx context.Context, name string) error {
	if engineLocksFreely.Load() {
		return nil
	}
	if err := e.fails("lock", name); err != nil {
		return err
	}
	return e.FileStorage.Lock(ctx, name)
}

func (e *engine) Store(ctx context.Context, key string, value []byte) error {
	if err := e.fails("store", key); err != nil {
		return err
	}
	return e.FileStorage.Store(ctx, key, value)
}

func (e *engine) Load(ctx context.Context, key string) ([]byte, error) {
	if e.closed.Load() {
		return nil, fs.ErrNotExist // as some engines say that they are closed
	}
	if err := e.fails("load", key); err != nil {
		return nil, err
	}
	return e.FileStorage.Load(ctx, key)
}

func (e *engine) Delete(ctx context.Context, key string) error {
	if err := e.fails("delete", key); err != nil {
		return err
	}
	return e.FileStorage.Delete(ctx, key)
}

func (e *engine) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	if err := e.fails("list", path); err != nil {
		return nil, err
	}
	return e.FileStorage.List(ctx, path, recursive)
}

// onEngine makes a world keep its files in an engine that is closed with its config.
func (w *world) onEngine() {
	w.t.Helper()
	path := filepath.Join(w.dir, "storage")
	w.run(strings.Replace(w.config, "storage file_system "+path, "storage test_engine "+path, 1))
}

// faultAt makes the calls of an operation fail whose key begins with prefix, until the test ends or the
// returned function is called.
func faultAt(t *testing.T, operation, prefix string) (recovers func()) {
	t.Helper()
	fault := func(op, key string) error {
		if op == operation && strings.HasPrefix(key, prefix) {
			return errors.New("a fault of the test")
		}
		return nil
	}
	engineFault.Store(&fault)
	recovers = func() { engineFault.Store(nil) }
	t.Cleanup(recovers)
	return recovers
}

// partInstances makes the second of two blocks share nothing with the first but the storage, as another process.
func (w *world) partInstances() {
	w.t.Helper()
	second := handlers()[1].house
	alone, release, err := share(
		&hiding{certmagic.FileStorage{Path: filepath.Join(w.dir, "storage")}}, second.renewer.logger, w.clock.Now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = release() })
	second.shared, second.logins.used, second.logins.replacer.latest = alone, alone.used, &alone.logins
	second.keeper.ends.ended, second.keeper.memory = alone.ended, alone.memory
	second.keeper.store.shelf = records.NewShelf(alone.storage, "aventus_auth/sessions", alone.clock)
	second.renewer.locks, second.renewer.uses = alone.storage, alone.used
	second.renewer.flights, second.renewer.tries = &alone.flights, &alone.attempts
	second.keeper.tries = &alone.attempts
}

// forgetSessions makes the loaded blocks forget the sessions that they remember, as many visitors would.
func (w *world) forgetSessions() {
	for _, h := range handlers() {
		h.house.keeper.memory.sessions.InvalidateAll()
	}
}
