#!/usr/bin/env bash
# Tool:      github.com/techknowlogick/certmagic-s3 v1.4.1 (against gofakes3 in memory)
# Guess:     List(prefix, recursive) returns the keys below the prefix, and each of them
#            can be loaded, as certmagic's interface requires.
# Behaviour: List ignores both arguments and returns every object of the storage, with
#            the storage's own prefix in front. Load and Delete add that prefix a second
#            time, so neither finds a key that List has returned. A caller that cleans up
#            one folder gets every certificate listed and deletes nothing.
# Output seen:
# > List("mine", recursive): acme/mine/a acme/mine/sub/b acme/others/c
# > List("mine", not recursive): acme/mine/a acme/mine/sub/b acme/others/c
# > List("nothing", recursive): acme/mine/a acme/mine/sub/b acme/others/c
# > Load("mine/a"): <nil>
# > Load("acme/mine/a"): fs.ErrNotExist true
# > after Delete("acme/mine/a"), which answers <nil>, Load("mine/a"): <nil>
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

cat >main.go <<'EOF'
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	s3 "github.com/techknowlogick/certmagic-s3"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	backend := s3mem.New()
	must(backend.CreateBucket("bucket"))
	srv := httptest.NewServer(gofakes3.New(backend).Server())
	defer srv.Close()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	s := &s3.S3{Endpoint: srv.URL, UsePathStyle: true, Bucket: "bucket", Region: "us-east-1",
		AccessKey: "example", SecretKey: "example", Prefix: "acme"}
	must(s.Provision(ctx))
	for _, k := range []string{"mine/a", "mine/sub/b", "others/c"} {
		must(s.Store(ctx, k, []byte("v")))
	}
	list := func(prefix, how string, recursive bool) {
		keys, err := s.List(ctx, prefix, recursive)
		must(err)
		fmt.Printf("List(%q, %s): %s\n", prefix, how, strings.Join(keys, " "))
	}
	list("mine", "recursive", true)
	list("mine", "not recursive", false)
	list("nothing", "recursive", true)
	_, err := s.Load(ctx, "mine/a")
	fmt.Println(`Load("mine/a"):`, err)
	_, err = s.Load(ctx, "acme/mine/a")
	fmt.Println(`Load("acme/mine/a"): fs.ErrNotExist`, errors.Is(err, fs.ErrNotExist))
	deleted := s.Delete(ctx, "acme/mine/a")
	_, err = s.Load(ctx, "mine/a")
	fmt.Printf("after Delete(\"acme/mine/a\"), which answers %v, Load(\"mine/a\"): %v\n", deleted, err)
}
EOF
go mod init finding >log 2>&1
go get github.com/techknowlogick/certmagic-s3@v1.4.1 \
	github.com/johannesboyne/gofakes3@v0.0.0-20250916175020-ebf3e50324d3 >>log 2>&1 || { cat log >&2; exit 1; }
go run . 2>log | tee got || { cat log >&2; exit 1; }
diff want got
