// Command caddy is the Caddy that these tests run: with the module, and with engines
// that keep Caddy's storage in Redis, PostgreSQL and S3.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/aventus-platform/caddy-aventus-auth"
	_ "github.com/caddyserver/cache-handler"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-ratelimit"
	_ "github.com/pberkel/caddy-storage-redis"
	_ "github.com/techknowlogick/certmagic-s3"
)

func main() { caddycmd.Main() }
