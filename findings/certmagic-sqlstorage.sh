#!/usr/bin/env bash
# Tool:      github.com/travisjeffery/certmagic-sqlstorage v1.1.1 (PostgreSQL 15)
# Guess:     The storage implements certmagic's interface: Lock waits until the lock is
#            free, List can be recursive, and a missing key is fs.ErrNotExist.
# Behaviour: Lock returns an error at once if the lock is held, so one of two instances
#            fails instead of waiting. A recursive List is an error. The other kind
#            returns nested keys, too, and compares the text of the key instead of
#            folders. Load returns fs.ErrNotExist for a missing key, Stat does not.
# Output seen:
# > Lock, held by another: key is locked: one, within a second true
# > List("a", recursive): recursive not supported
# > List("a", not recursive): [a/b/c ab] <nil>
# > Load of a missing key: fs.ErrNotExist true
# > Stat of a missing key: fs.ErrNotExist false
set -euo pipefail
tmp=$(mktemp -d)
trap 'stop; rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

# PostgreSQL refuses to run as root.
pg() {
	local program=/usr/lib/postgresql/15/bin/$1
	shift
	if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$program" "$@"; else "$program" "$@"; fi
}
stop() { [ ! -e "$tmp/pg/data/postmaster.pid" ] || pg pg_ctl -D "$tmp/pg/data" -m immediate stop >/dev/null || true; }

cat >main.go <<'EOF'
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	sqlstorage "github.com/travisjeffery/certmagic-sqlstorage"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	ctx := context.Background()
	db, err := sql.Open("pgx", os.Args[1])
	must(err)
	s, err := sqlstorage.NewStorage(ctx, db, sqlstorage.Options{})
	must(err)
	other, err := sqlstorage.NewStorage(ctx, db, sqlstorage.Options{})
	must(err)

	must(s.Lock(ctx, "one"))
	began := time.Now()
	err = other.Lock(ctx, "one")
	fmt.Printf("Lock, held by another: %v, within a second %v\n", err, time.Since(began) < time.Second)
	for _, k := range []string{"a/b/c", "ab"} {
		must(s.Store(ctx, k, []byte("v")))
	}
	_, err = s.List(ctx, "a", true)
	fmt.Printf("List(\"a\", recursive): %v\n", err)
	keys, err := s.List(ctx, "a", false)
	fmt.Printf("List(\"a\", not recursive): %v %v\n", keys, err)
	_, err = s.Load(ctx, "missing")
	fmt.Println("Load of a missing key: fs.ErrNotExist", errors.Is(err, fs.ErrNotExist))
	_, err = s.Stat(ctx, "missing")
	fmt.Println("Stat of a missing key: fs.ErrNotExist", errors.Is(err, fs.ErrNotExist))
}
EOF
go mod init finding >log 2>&1
go get github.com/travisjeffery/certmagic-sqlstorage@v1.1.1 github.com/jackc/pgx/v5/stdlib@v5.0.2 >>log 2>&1 ||
	{ cat log >&2; exit 1; }
go build -o program . 2>>log || { cat log >&2; exit 1; }

chmod 755 "$tmp"
mkdir -m 777 pg
pg initdb -D "$tmp/pg/data" -U finding --auth trust --no-sync >log
pg pg_ctl -D "$tmp/pg/data" -w -l "$tmp/pg/log" -o "-c listen_addresses='' -k $tmp/pg" start >>log
./program "host=$tmp/pg user=finding dbname=postgres" 2>log >got || { cat log >&2; exit 1; }
cat got
diff want got
