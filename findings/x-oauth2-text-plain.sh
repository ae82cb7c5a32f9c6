#!/usr/bin/env bash
# Tool:      golang.org/x/oauth2 v0.37.0
# Guess:     The JSON of a token endpoint is parsed whatever its media type is, as it is
#            for text/html, and so is a JSON error.
# Behaviour: text/plain alone is parsed as a query string. A token in JSON yields
#            "missing access_token", and an error in JSON has no ErrorCode, so a caller
#            that looks for invalid_grant mistakes a refusal for a server failure.
# Output seen:
# > application/json: error=<nil>
# > text/html: error=<nil>
# > text/plain: error=oauth2: server response missing access_token
# > application/json 400: ErrorCode="invalid_grant"
# > text/html 400: ErrorCode="invalid_grant"
# > text/plain 400: ErrorCode=""
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
	"net/http"
	"net/http/httptest"

	"golang.org/x/oauth2"
)

func exchange(mediaType string, status int, body string) error {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer srv.Close()
	conf := oauth2.Config{ClientID: "c", Endpoint: oauth2.Endpoint{
		TokenURL: srv.URL, AuthStyle: oauth2.AuthStyleInParams}}
	_, err := conf.Exchange(context.Background(), "code")
	return err
}

func main() {
	types := []string{"application/json", "text/html", "text/plain"}
	for _, t := range types {
		err := exchange(t, 200, `{"access_token":"at","token_type":"Bearer","expires_in":3600}`)
		fmt.Printf("%s: error=%v\n", t, err)
	}
	for _, t := range types {
		var re *oauth2.RetrieveError
		if err := exchange(t, 400, `{"error":"invalid_grant"}`); !errors.As(err, &re) {
			panic(err)
		}
		fmt.Printf("%s 400: ErrorCode=%q\n", t, re.ErrorCode)
	}
}
EOF
go mod init finding >log 2>&1
go get golang.org/x/oauth2@v0.37.0 >>log 2>&1 || { cat log >&2; exit 1; }
go run . | tee got
diff want got
