package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(new(failing)) }

// failing is a storage in files that fails when a test wants it to. Then it does
// nothing of what it is asked for.
type failing struct {
	// The folder that the files are in.
	Root string `json:"root"`

	// A file that says how the storage is: "down", so that each call fails, or
	// "stuck", so that each waits until that is over, and fails then. As long as
	// it is not there, all is well.
	State string `json:"state"`
}

// CaddyModule returns the Caddy module information.
func (*failing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.failing", New: func() caddy.Module { return new(failing) }}
}

// UnmarshalCaddyfile reads: storage failing <root> <state>
func (f *failing) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&f.Root, &f.State) {
		return d.ArgErr()
	}
	return nil
}

// CertMagicStorage implements caddy.StorageConverter.
func (f *failing) CertMagicStorage() (certmagic.Storage, error) {
	return &storage{FileStorage: &certmagic.FileStorage{Path: f.Root}, State: f.State}, nil
}

// storage is files that fail. Unlock never does: the process that holds a lock in
// files keeps it fresh until its file is gone, so it would hold it for ever.
type storage struct {
	*certmagic.FileStorage
	State string
}

var errDown = errors.New("the test wants the storage to fail")

func (s *storage) fails(ctx context.Context) error {
	state, err := os.ReadFile(s.State)
	if err != nil {
		return nil
	}
	for string(state) == "stuck" && err == nil {
		select {
		case <-time.After(20 * time.Millisecond):
			state, err = os.ReadFile(s.State)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errDown
}

func (s *storage) Lock(ctx context.Context, name string) error {
	if err := s.fails(ctx); err != nil {
		return err
	}
	return s.FileStorage.Lock(ctx, name)
}

func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.fails(ctx); err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

func (s *storage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.fails(ctx); err != nil {
		return nil, err
	}
	return s.FileStorage.Load(ctx, key)
}

func (s *storage) Delete(ctx context.Context, key string) error {
	if err := s.fails(ctx); err != nil {
		return err
	}
	return s.FileStorage.Delete(ctx, key)
}

func (s *storage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	if err := s.fails(ctx); err != nil {
		return nil, err
	}
	return s.FileStorage.List(ctx, path, recursive)
}
