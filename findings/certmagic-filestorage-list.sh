#!/usr/bin/env bash
# Tool:      certmagic v0.25.6, FileStorage
# Guess:     List returns the keys of a folder while another goroutine or process stores
#            a key there. A key that is created or deleted meanwhile may or may not be in
#            the result.
# Behaviour: Store writes a temporary file next to the key and renames it. List reads
#            the names and then calls lstat on each. If the temporary file has been
#            renamed by then, List returns fs.ErrNotExist, as for a missing folder, and
#            only the keys read so far, although the other 500 keys never change. Some
#            listings also contain the temporary name.
# Output seen:
# > quiet: 501 keys, error <nil>
# > while one key is stored again and again: fs.ErrNotExist true, keys missing true
# > temporary names among the keys: true
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
	"os"
	"path"
	"regexp"
	"time"

	"github.com/caddyserver/certmagic"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	ctx := context.Background()
	s := &certmagic.FileStorage{Path: os.Args[1]}
	for i := range 500 {
		must(s.Store(ctx, fmt.Sprintf("folder/z%d", i), []byte("v")))
	}
	must(s.Store(ctx, "folder/changing", []byte("v")))
	keys, err := s.List(ctx, "folder", false)
	fmt.Printf("quiet: %d keys, error %v\n", len(keys), err)

	go func() {
		for {
			must(s.Store(ctx, "folder/changing", []byte("v")))
		}
	}()
	own := regexp.MustCompile(`^(z\d+|changing)$`)
	var notExist, missing, temporary bool
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && !(notExist && missing && temporary); {
		keys, err := s.List(ctx, "folder", false)
		if errors.Is(err, fs.ErrNotExist) {
			notExist = true
			missing = missing || len(keys) < 500
		} else {
			must(err)
		}
		for _, k := range keys {
			temporary = temporary || !own.MatchString(path.Base(k))
		}
	}
	fmt.Printf("while one key is stored again and again: fs.ErrNotExist %v, keys missing %v\n", notExist, missing)
	fmt.Printf("temporary names among the keys: %v\n", temporary)
}
EOF
go mod init finding >log 2>&1
go get github.com/caddyserver/certmagic@v0.25.6 >>log 2>&1 || { cat log >&2; exit 1; }
go run . "$tmp/storage" | tee got
diff want got
