#!/usr/bin/env bash
# Tool:      golang.org/x/oauth2 v0.37.0
# Guess:     expires_in is the number of seconds until the token expires, however JSON
#            writes it: 0 has just expired, and 3600.5 lasts an hour.
# Behaviour: 0 means "never expires", like a missing expires_in: Expiry is the zero
#            time, and the token source returns the same token forever. A number with a
#            fraction or an exponent fails the whole exchange, after the code has been
#            spent. The string "3600" is accepted.
# Output seen:
# > 3600: valid=true hasExpiry=true error=<nil>
# > "3600": valid=true hasExpiry=true error=<nil>
# > 0: valid=true hasExpiry=false error=<nil>
# > null: valid=true hasExpiry=false error=<nil>
# > 3600.5: error=oauth2: cannot parse json: strconv.ParseInt: parsing "3600.5": invalid syntax
# > 3.6e3: error=oauth2: cannot parse json: strconv.ParseInt: parsing "3.6e3": invalid syntax
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
	for _, in := range []string{"3600", `"3600"`, "0", "null", "3600.5", "3.6e3"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"at","token_type":"Bearer","expires_in":%s}`, in)
		}))
		conf := oauth2.Config{ClientID: "c", Endpoint: oauth2.Endpoint{
			TokenURL: srv.URL, AuthStyle: oauth2.AuthStyleInParams}}
		t, err := conf.Exchange(context.Background(), "code")
		srv.Close()
		if err != nil {
			fmt.Printf("%s: error=%v\n", in, err)
			continue
		}
		fmt.Printf("%s: valid=%v hasExpiry=%v error=<nil>\n", in, t.Valid(), !t.Expiry.IsZero())
	}
}
EOF
go mod init finding >log 2>&1
go get golang.org/x/oauth2@v0.37.0 >>log 2>&1 || { cat log >&2; exit 1; }
go run . | tee got
diff want got
