#!/usr/bin/env bash
# Tool:      go-oidc v3.21.0 with go-jose v4.1.6
# Guess:     Ed25519 works under both names: EdDSA, and Ed25519, which RFC 9864
#            introduced when it deprecated EdDSA. At worst a token with the new name is
#            refused.
# Behaviour: The name in the published key counts as well. If the key says
#            "alg":"Ed25519" (the member is optional), it is silently dropped from the
#            set, and tokens with alg EdDSA fail with a signature error. If the discovery
#            document lists only Ed25519, go-oidc expects RS256.
# Output seen:
# > key without alg, token EdDSA: <nil>
# > key alg EdDSA, token EdDSA: <nil>
# > key alg Ed25519, token EdDSA: failed to verify signature: failed to verify id token signature
# > all of it Ed25519: oidc: malformed jwt: unexpected signature algorithm "Ed25519"; expected ["RS256"]
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

cat >main.go <<'EOF'
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

var b64 = base64.RawURLEncoding.EncodeToString

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// verify signs a token with alg, and verifies it by a set whose key has keyAlg.
func verify(keyAlg, alg string) error {
	pub, priv, _ := ed25519.GenerateKey(nil)
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	defer srv.Close()
	answer := func(path string, v any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(marshal(v))
		})
	}
	answer("/.well-known/openid-configuration", map[string]any{"issuer": srv.URL, "jwks_uri": srv.URL + "/keys",
		"id_token_signing_alg_values_supported": []string{alg}})
	key := map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": b64(pub)}
	if keyAlg != "" {
		key["alg"] = keyAlg
	}
	answer("/keys", map[string]any{"keys": []any{key}})

	p, err := oidc.NewProvider(context.Background(), srv.URL)
	if err != nil {
		return err
	}
	in := b64(marshal(map[string]string{"alg": alg, "kid": "k"})) + "." +
		b64(marshal(map[string]any{"iss": srv.URL, "aud": "c", "sub": "s", "exp": time.Now().Add(time.Hour).Unix()}))
	token := in + "." + b64(ed25519.Sign(priv, []byte(in)))
	_, err = p.Verifier(&oidc.Config{ClientID: "c"}).Verify(context.Background(), token)
	return err
}

func main() {
	fmt.Println("key without alg, token EdDSA:", verify("", "EdDSA"))
	fmt.Println("key alg EdDSA, token EdDSA:", verify("EdDSA", "EdDSA"))
	fmt.Println("key alg Ed25519, token EdDSA:", verify("Ed25519", "EdDSA"))
	fmt.Println("all of it Ed25519:", verify("Ed25519", "Ed25519"))
}
EOF
go mod init finding >log 2>&1
go get github.com/coreos/go-oidc/v3/oidc@v3.21.0 github.com/go-jose/go-jose/v4@v4.1.6 >>log 2>&1 ||
	{ cat log >&2; exit 1; }
go run . | tee got
diff want got
