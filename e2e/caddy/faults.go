package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"

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
	for _, fault := range storagetest.Faults(context.Background(), a, b) {
		fmt.Printf("%s: %v\n", fault.Check, fault.Err)
	}
	return nil
}
