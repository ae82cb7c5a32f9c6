#!/usr/bin/env bash
# Tool:      golang.org/x/oauth2 v0.37.0
# Guess:     Exchange sends an authorization code once and returns the error of the
#            token endpoint.
# Behaviour: If Endpoint.AuthStyle is unset, any error of the first exchange, even a
#            503, is taken to mean that the server expects the client secret elsewhere.
#            The code is sent a second time, with the secret in the body. A server that
#            has already spent the code answers that it was reused (and may revoke its
#            tokens, RFC 6749, section 4.1.2). The caller sees only this second error. A
#            refresh does the same.
# Output seen:
# > request 1: code="one" Authorization=true client_secret=false, answered 503
# > request 2: code="one" Authorization=false client_secret=true, answered 400
# > the caller sees: oauth2: "invalid_grant" "code was used before"
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

cat >main.go <<'EOF'
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"golang.org/x/oauth2"
)

func main() {
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		status, body := http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`
		if n > 1 {
			status, body = http.StatusBadRequest, `{"error":"invalid_grant","error_description":"code was used before"}`
		}
		fmt.Printf("request %d: code=%q Authorization=%v client_secret=%v, answered %d\n", n, r.FormValue("code"),
			r.Header.Get("Authorization") != "", r.FormValue("client_secret") != "", status)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer srv.Close()
	conf := oauth2.Config{ClientID: "c", ClientSecret: "s", Endpoint: oauth2.Endpoint{TokenURL: srv.URL}}
	_, err := conf.Exchange(context.Background(), "one")
	fmt.Println("the caller sees:", err)
}
EOF
go mod init finding >log 2>&1
go get golang.org/x/oauth2@v0.37.0 >>log 2>&1 || { cat log >&2; exit 1; }
go run . | tee got
diff want got
