package aventusauth

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// strangersToken returns a token that is signed with a key nobody knows: the keys are
// asked for, to see whether there is a new one.
func (w *world) strangersToken() string {
	_, rest, _ := strings.Cut(w.issuer.SignJWT(w.tokenClaims(nil)), ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"nobody"}`)) + "." + rest
}

// TestHostileKeySet: what the server of the keys answers is not the person's fault,
// nor the API client's, and nobody is let in without keys.
func TestHostileKeySet(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	says := aventustest.Says
	// RFC 8037's
	key := `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"nobody","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	thief := newElsewhere(t, says(200, key))
	all := []hostility{
		{name: "500 without a body", fault: says(500, ""), want: errServerBusy, why: "the key set answered 500",
			do: "down for now"},
		{name: "429", fault: says(429, "", "Retry-After", "86400"), want: errServerBusy,
			why: "the key set answered 429", do: "quota"},
		{name: "HTML", fault: says(200, "<html>\x1b[31m"), want: errToken,
			why: "the key set answered 200: the answer is not a JSON object", do: "check issuer and jwks_url"},
		{name: "[]", fault: says(200, "[]"), want: errToken,
			why: "the key set answered 200: the answer is not a JSON object", do: "check issuer and jwks_url"},
		{name: "null", fault: says(200, "null"), want: errToken,
			why: "the key set answered 200: the answer is not a JSON object", do: "check issuer and jwks_url"},
		{name: "truncated JSON", fault: says(200, key[:len(key)-1]), want: errToken,
			why: "the key set answered 200: the answer is not valid JSON", do: "check issuer and jwks_url"},
		{name: "keys twice", fault: says(200, strings.Replace(key, "{", `{"keys":[],`, 1)), want: errToken,
			why: "the key set answered 200: the answer has a name twice", do: "check issuer and jwks_url"},
		{name: "no keys", fault: says(200, `{"keys":[]}`), want: errToken,
			why: "the key set answered 200: it holds no key that a token may be signed with",
			do:  "check issuer and jwks_url"},
		{name: "10 GB", fault: aventustest.Endless(&written), want: errToken,
			why: "the key set answered 200: the answer is larger than 1 MiB", do: "check issuer and jwks_url"},
		{name: "a gzip bomb", fault: says(200, gzipBomb(), "Content-Encoding", "gzip"), want: errToken,
			why: "the key set answered 200: the answer is larger than 1 MiB", do: "check issuer and jwks_url"},
		{name: "an answer that breaks off", fault: says(200, key, "Content-Length", "1000000"), want: errToken,
			why: "the key set: unexpected EOF", do: "can reach the key set"},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		all = append(all, hostility{
			name: fmt.Sprint("a redirect, ", status), fault: says(status, "", "Location", thief.URL),
			want: errToken, why: fmt.Sprint("the key set answered ", status), do: "check issuer and jwks_url",
		})
	}
	var stranger atomic.Pointer[string] // strangersToken, where the token endpoint gives it out
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.JWKSFault = faults.Answer
			s.TokenFault = func(rw http.ResponseWriter, r *http.Request) bool {
				token := stranger.Load()
				return token != nil && aventustest.Grants(*token, "", "")(rw, r)
			}
		}})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			known, unknown := w.issuer.SignJWT(w.tokenClaims(nil)), w.strangersToken()
			bring := func(token string) answer { return b.do("POST", "/page", "Authorization", "Bearer "+token) }
			fails := func(a answer, logged int, why string) {
				t.Helper()
				w.expect(a, c.want.status)
				if a.body != c.want.code+": "+c.want.description || a.Header["Set-Cookie"] != nil ||
					a.Header["Www-Authenticate"] != nil || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%v %s", a.Header, a.body)
				}
				w.expectSaid(logged, "error", c.want.code, why+c.why, c.do)
			}
			callback := b.begin("/page")
			asked, fetched := len(w.issuer.TokenRequests()), w.issuer.JWKSRequests()
			w.clock.Add(10 * time.Second)
			faults.Set(c.fault)
			stranger.Store(&unknown)
			logged := len(w.log())
			fails(b.get(callback), logged, "verifying the access token: ")
			logged = len(w.log())
			fails(bring(unknown), logged, "")
			w.expect(bring(known), http.StatusOK) // what was known is not forgotten
			w.expectTokenRequests(asked + 1)
			if n := w.issuer.JWKSRequests() - fetched; n != 1 {
				t.Errorf("the keys were asked for %d times", n)
			}

			// The server is well again, and says that there is no such key.
			faults.Set(nil)
			stranger.Store(nil)
			w.clock.Add(10 * time.Second)
			w.expect(bring(unknown), http.StatusUnauthorized)
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			before.expectBack(t, 1<<20)
		})
	}
	w.t = t
	thief.expectNobody(t)
	expectCutOff(t, &written)
}
