// Command caddy is the Caddy that these tests run: with the module, and with an
// engine that keeps Caddy's storage in Redis.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/aventus-platform/caddy-aventus-auth"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/pberkel/caddy-storage-redis"
)

func main() { caddycmd.Main() }
