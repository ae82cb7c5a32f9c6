#!/usr/bin/env bash
# Tool:      github.com/pberkel/caddy-storage-redis v1.8.1 (with redis-server)
# Guess:     Load and Stat return fs.ErrNotExist for a missing key and another error if
#            Redis is unreachable, as Store and List do.
# Behaviour: Load and Stat treat a reply without bytes as a missing key before they look
#            at the error. An outage, or a client that a reload of Caddy has closed,
#            therefore looks like an empty storage, and a caller takes it for the first
#            start.
# Output seen:
# > up: Load value, Stat <nil>, List 1 key, <nil>
# > down: Load fs.ErrNotExist, Stat fs.ErrNotExist, List another error, Store another error
# > up again: Load value, Stat <nil>, List 1 key, <nil>
# > client closed: Load fs.ErrNotExist, Stat fs.ErrNotExist, List another error, Store another error
set -euo pipefail
tmp=$(mktemp -d)
pid=''
trap '[ -z "$pid" ] || kill $pid 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

cat >main.go <<'EOF'
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/caddyserver/caddy/v2"
	storageredis "github.com/pberkel/caddy-storage-redis"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func kind(err error) string {
	switch {
	case err == nil:
		return "<nil>"
	case errors.Is(err, fs.ErrNotExist):
		return "fs.ErrNotExist"
	}
	return "another error"
}

func main() {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	s := storageredis.New()
	s.Address = []string{os.Args[1]}
	s.Host, s.Port = nil, nil
	must(s.Provision(ctx))
	must(s.Store(ctx, "folder/key", []byte("value")))

	up := func(label string) {
		v, err := s.Load(ctx, "folder/key")
		must(err)
		_, statErr := s.Stat(ctx, "folder/key")
		keys, listErr := s.List(ctx, "folder", true)
		fmt.Printf("%s: Load %s, Stat %s, List %d key, %s\n", label, v, kind(statErr), len(keys), kind(listErr))
	}
	down := func(label string) {
		_, loadErr := s.Load(ctx, "folder/key")
		_, statErr := s.Stat(ctx, "folder/key")
		_, listErr := s.List(ctx, "folder", true)
		storeErr := s.Store(ctx, "folder/other", nil)
		fmt.Printf("%s: Load %s, Stat %s, List %s, Store %s\n", label,
			kind(loadErr), kind(statErr), kind(listErr), kind(storeErr))
	}

	// The script stops and starts Redis, and writes a line each time.
	in := bufio.NewReader(os.Stdin)
	wait := func() { _, err := in.ReadString('\n'); must(err) }
	up("up")
	wait()
	down("down")
	wait()
	up("up again")
	must(s.Cleanup())
	down("client closed")
}
EOF
go mod init finding >log 2>&1
go get github.com/pberkel/caddy-storage-redis@v1.8.1 >>log 2>&1 || { cat log >&2; exit 1; }
go build -o program . 2>>log || { cat log >&2; exit 1; }

port=$(node -e 'require("net").createServer().listen(0, "127.0.0.1", function () {
	console.log(this.address().port)
	this.close()
})')
# soon COMMAND waits until it succeeds.
soon() {
	for _ in $(seq 300); do
		! eval "$1" || return 0
		sleep 0.1
	done
	cat log >&2
	return 1
}
start() {
	redis-server --bind 127.0.0.1 --port "$port" --dir "$tmp" --appendonly yes --save '' >>redis.log &
	pid=$!
	soon 'redis-cli -p "$port" ping 2>/dev/null | grep -q PONG'
}
start
mkfifo lines
./program "127.0.0.1:$port" <lines >got 2>log &
program=$!
exec 3>lines
soon 'grep -q ^up: got'
kill "$pid"
wait "$pid" || true
echo >&3
soon 'grep -q ^down: got'
start
echo >&3
wait "$program" || { cat log >&2; exit 1; }
cat got
diff want got
