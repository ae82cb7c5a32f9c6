// Command caddy is the Caddy of the plugin's own go.mod with caddy-security. It is
// in a module of its own, with exact versions, since what it needs would decide on
// the versions of what is measured beside it.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/greenpau/caddy-security"
)

func main() { caddycmd.Main() }
