package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
	"github.com/aventus-platform/caddy-aventus-auth/storagetest"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "storage-faults",
		Short: "Prints what the storage of a config fails at of all that is asked of one",
		Func: func(fl caddycmd.Flags) (int, error) {
			if err := printFaults(fl); err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		},
	})
}

// printFaults opens the storage twice, as two instances do. It is a process of its own, since what is waited for in
// vain may go on beyond its end.
func printFaults(fl caddycmd.Flags) error {
	raw, _, _, err := caddycmd.LoadConfig(fl.Arg(0), "caddyfile")
	if err != nil {
		return err
	}
	var config caddy.Config
	if err := json.Unmarshal(raw, &config); err != nil {
		return err
	}
	open := func() (certmagic.Storage, error) {
		quiet := &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "FATAL"}}}}
		ctx, err := caddy.ProvisionContext(&caddy.Config{StorageRaw: config.StorageRaw, Logging: quiet})
		if err != nil {
			return nil, err
		}
		return ctx.Storage(), nil
	}
	a, err := open()
	if err != nil {
		return err
	}
	b, err := open()
	if err != nil {
		return err
	}
	if err := sweep(a, b); err != nil {
		fmt.Printf("what has expired is swept: %v\n", err)
	}
	for _, fault := range storagetest.Faults(context.Background(), a, b) {
		fmt.Printf("%s: %v\n", fault.Check, fault.Err)
	}
	return nil
}

// sweep sees whether a value that has expired is deleted, and no other. Nothing is deleted before an instance has run
// for an hour, so its clocks are put forward.
func sweep(a, b certmagic.Storage) error {
	const folder = "aventus_auth_swept"
	var passed atomic.Int64
	elapsed := func() time.Duration { return time.Duration(passed.Load()) }
	began := time.Now()
	clock := records.NewClock(func() time.Time { return began.Add(elapsed()) }, elapsed)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	shelf := records.NewShelf(records.Bounded(a, nil), folder, clock)
	early, late := began.Add(time.Hour), began.Add(10*time.Hour)
	if err := shelf.Put(ctx, "early", early, []byte("value")); err != nil {
		return err
	}
	passed.Store(int64(5 * time.Hour))
	if err := shelf.Put(ctx, "late", late, []byte("value")); err != nil {
		return err
	}
	other := records.NewShelf(records.Bounded(b, nil), folder, clock)
	for {
		_, err := other.Get(ctx, "early", early)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil || ctx.Err() != nil {
			return fmt.Errorf("it is still there: %w", errors.Join(err, ctx.Err()))
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := other.Get(ctx, "late", late); err != nil {
		return fmt.Errorf("what has not expired: %w", err)
	}
	return shelf.Delete(ctx, "late", late)
}
