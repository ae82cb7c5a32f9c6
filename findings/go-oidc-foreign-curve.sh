#!/usr/bin/env bash
# Tool:      go-oidc v3.21.0 with go-jose v4.1.6
# Guess:     An unknown key is ignored, as RFC 7517, section 5, recommends, and the
#            other keys of the set still verify tokens. This is so for an unknown kty, an
#            unknown curve of OKP, and an unknown "alg".
# Behaviour: An EC key on an unknown curve (secp256k1, RFC 8812) without the optional
#            "alg" fails the whole set. No ID token verifies while the server publishes
#            such a key next to its RSA key.
# Output seen:
# > RSA alone: verified
# > beside kty AKP: verified
# > beside OKP Ed448: verified
# > beside EC secp256k1 with alg ES256K: verified
# > beside EC secp256k1 without alg: go-jose/go-jose: unsupported elliptic curve 'secp256k1'
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

cat >main.go <<'EOF'
package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

type object map[string]any

var b64 = base64.RawURLEncoding.EncodeToString

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// coordinate has 64 hexadecimal digits.
func coordinate(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b64(b)
}

func main() {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	var keys []object
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(marshal(object{"keys": keys}))
	}))
	defer srv.Close()
	in := b64(marshal(object{"alg": "RS256", "kid": "rsa"})) + "." + b64(marshal(object{
		"iss": "https://issuer.example", "aud": "c", "sub": "s", "exp": time.Now().Add(time.Hour).Unix()}))
	sum := sha256.Sum256([]byte(in))
	sig, err := rsa.SignPKCS1v15(nil, priv, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	token := in + "." + b64(sig)

	reason := regexp.MustCompile(`go-jose/go-jose: [^{]*'`)
	verify := func(label string, others ...object) {
		keys = append([]object{{"kty": "RSA", "kid": "rsa", "n": b64(priv.N.Bytes()),
			"e": b64(big.NewInt(int64(priv.E)).Bytes())}}, others...)
		set := oidc.NewRemoteKeySet(context.Background(), srv.URL)
		_, err := oidc.NewVerifier("https://issuer.example", set, &oidc.Config{ClientID: "c"}).
			Verify(context.Background(), token)
		result := "verified"
		if err != nil {
			result = reason.FindString(err.Error())
			if result == "" {
				result = err.Error()
			}
		}
		fmt.Printf("%s: %s\n", label, result)
	}
	// The point that the curve's own standard names as its generator.
	k256 := object{"kty": "EC", "crv": "secp256k1", "kid": "k256",
		"x": coordinate("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
		"y": coordinate("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8")}
	verify("RSA alone")
	verify("beside kty AKP", object{"kty": "AKP", "kid": "akp", "alg": "ML-DSA-44", "pub": b64(make([]byte, 1312))})
	verify("beside OKP Ed448", object{"kty": "OKP", "kid": "ed448", "crv": "Ed448", "x": b64(make([]byte, 57))})
	k256["alg"] = "ES256K"
	verify("beside EC secp256k1 with alg ES256K", k256)
	delete(k256, "alg")
	verify("beside EC secp256k1 without alg", k256)
}
EOF
go mod init finding >log 2>&1
go get github.com/coreos/go-oidc/v3/oidc@v3.21.0 github.com/go-jose/go-jose/v4@v4.1.6 >>log 2>&1 ||
	{ cat log >&2; exit 1; }
go run . | tee got
diff want got
