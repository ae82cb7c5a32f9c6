package main

import (
	"database/sql"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	_ "github.com/jackc/pgx/v5/stdlib"
	certmagicsql "github.com/travisjeffery/certmagic-sqlstorage"
)

func init() { caddy.RegisterModule(new(postgres)) }

// postgres makes a module of certmagic-sqlstorage, which is a library.
type postgres struct {
	URL string `json:"url"`

	db      *sql.DB
	storage certmagic.Storage
}

func (*postgres) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.postgres", New: func() caddy.Module { return new(postgres) }}
}

func (p *postgres) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&p.URL) {
		return d.ArgErr()
	}
	return nil
}

func (p *postgres) Provision(ctx caddy.Context) (err error) {
	if p.db, err = sql.Open("pgx", p.URL); err != nil {
		return err
	}
	// By itself, it would open as many as there are calls, and close all but two after each.
	p.db.SetMaxOpenConns(20)
	p.db.SetMaxIdleConns(20)
	p.storage, err = certmagicsql.NewStorage(ctx, p.db, certmagicsql.Options{})
	return err
}

func (p *postgres) CertMagicStorage() (certmagic.Storage, error) { return p.storage, nil }

func (p *postgres) Cleanup() error { return p.db.Close() }
