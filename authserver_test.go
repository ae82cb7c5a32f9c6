package aventusauth

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestTokenEndpointFails: each way to fail, what the visitor gets, and what the
// operator reads. The code is sent once.
func TestTokenEndpointFails(t *testing.T) {
	var current atomic.Pointer[func(http.ResponseWriter)]
	w := newWorld(t, setup{
		caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
				fault := current.Load()
				if fault != nil {
					(*fault)(rw)
				}
				return fault != nil
			}
		},
	})
	says := func(status int, body string) func(http.ResponseWriter) {
		return func(rw http.ResponseWriter) {
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body)
		}
	}
	n := 0
	for name, c := range map[string]struct {
		fault  func(http.ResponseWriter)
		status int
		code   string
		log    string // what the operator's log must hold
	}{
		"wrong secret": {says(401, `{"error":"access_denied","error_description":"Unauthorized"}`), 502,
			"token_refused", "check client_id, client_secret"},
		"invalid grant": {says(403, `{"error":"invalid_grant","error_description":"Invalid authorization code"}`), 502,
			"token_refused", "invalid_grant: Invalid authorization code"},
		"rate limit": {says(429, `{"error":"too_many_requests"}`), 503, "server_unavailable",
			"429 too_many_requests"},
		"down":          {says(503, "<html>"), 503, "server_unavailable", "answered 503"},
		"500, no body":  {says(500, ""), 502, "token_refused", "answered 500"},
		"HTML with 200": {says(200, "<html>"), 502, "token_refused", "is not a JSON object"},
		"another type": {says(200, `{"access_token":"x","token_type":"mac"}`), 502, "token_refused",
			"token_type is not Bearer"},
		"expired": {says(200, `{"access_token":"x","token_type":"Bearer","expires_in":0}`), 502, "token_refused",
			"expires_in is not positive"},
		"echo": {says(400, `{"error":"invalid_request","error_description":"no `+testSecret+`"}`), 502,
			"token_refused", "no [redacted]"},
		"terminal": {says(400, `{"error":"x","error_description":"\u001b[31m\nred"}`), 502, "token_refused",
			"x: ?[31m?red"},
		"closed": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 502, "token_refused",
			"check that this server can reach"},
	} {
		current.Store(&c.fault)
		b := w.browser()
		callback := b.begin("/page")
		a := b.get(callback)
		n++
		if a.StatusCode != c.status || !strings.HasPrefix(a.body, c.code+": ") {
			t.Errorf("%s: status %d, %s", name, a.StatusCode, a.body)
		}
		if len(w.issuer.TokenRequests()) != n {
			t.Errorf("%s: the token endpoint was asked %d times, want %d", name, len(w.issuer.TokenRequests()), n)
		}
		if a.cookie("aventus_session") != nil {
			t.Errorf("%s: there is a session", name)
		}
		if !strings.Contains(w.log(), c.log) {
			t.Errorf("%s: the log does not say %q", name, c.log)
		}
		// The server is well again: the same callback starts the login again.
		current.Store(nil)
		a = b.get(callback)
		w.expect(a, http.StatusFound)
		w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
		n++
	}
	w.expectTokenRequests(n)
	if strings.Contains(w.log(), testSecret) {
		t.Error("the log holds the client's secret")
	}
}

// TestTokenTimeout: the ten seconds themselves are tested where the clock is.
func TestTokenTimeout(t *testing.T) {
	if errTokenTimeout.status != http.StatusGatewayTimeout {
		t.Error("a time-out must be 504")
	}
	for kind, want := range map[aventus.Kind]failure{
		aventus.TimedOut: errTokenTimeout, aventus.Unavailable: errServerBusy,
		aventus.Refused: errToken, aventus.Malformed: errToken, aventus.Unreachable: errToken,
	} {
		if got := failureOf(kind); got != want {
			t.Errorf("kind %d: %v, want %v", kind, got, want)
		}
	}
}

// TestTokenTooLarge: a token whose claims are not read is refused, and said so, and one that no header can carry.
func TestTokenTooLarge(t *testing.T) {
	for _, chars := range []int{70_000, 100_000} {
		w := newWorld(t, setup{
			caddyfile: "%s\nreverse_proxy %app" + errorsShown,
			issuer:    func(s *aventustest.Server) { s.TokenChars = chars },
		})
		b := w.browser()
		a := b.get(b.begin("/"))
		w.expect(a, http.StatusBadGateway)
		if !strings.HasPrefix(a.body, "token_too_large: ") || a.Header["Set-Cookie"] != nil {
			t.Errorf("%d characters: %v %s", chars, a.Header, a.body)
		}
	}
}

// TestTokenRequestVariants logs in with each way to write the token request.
func TestTokenRequestVariants(t *testing.T) {
	for _, form := range []bool{false, true} {
		for _, basic := range []bool{false, true} {
			block := ""
			if form {
				block += "token_request form\n"
			}
			if basic {
				block += "token_auth basic\n"
			}
			w := newWorld(t, setup{
				block: block, issuer: func(s *aventustest.Server) { s.Form, s.Basic = form, basic },
			})
			w.browser().login("/")
			w.expectTokenRequests(1)
			want := map[string]bool{"grant_type": true, "code": true, "redirect_uri": true, "code_verifier": true,
				"client_id": !basic, "client_secret": !basic}
			for name, value := range w.issuer.TokenRequests()[0].Params {
				if !want[name] || value == "" {
					t.Errorf("form %t, basic %t: %s=%q", form, basic, name, value)
				}
				delete(want, name)
			}
			for name, missing := range want {
				if missing {
					t.Errorf("form %t, basic %t: no %s", form, basic, name)
				}
			}
		}
	}
}

// TestOpaqueToken: without an audience the token may be no JWT, and is passed on
// as it is.
func TestOpaqueToken(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("", "authorize_param prompt consent"),
			"audience https://api.example.com/", "", 1) + "\nreverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	if got := w.requests()[0].Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer ") ||
		strings.Contains(got, ".") {
		t.Errorf("Authorization: %q", got)
	}
	if got := w.issuer.AuthorizeRequests()[0]; got.Has("audience") || got.Get("prompt") != "consent" {
		t.Errorf("authorize parameters: %v", got)
	}
}

// TestNoNonceUnasked: strict servers refuse a parameter that nothing asked for.
func TestNoNonceUnasked(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("", ""), "scope openid", "scope", 1) + "\n}"
	}})
	if a := w.browser().get("/"); strings.Contains(a.location(), "nonce=") {
		t.Error(a.location())
	}
}

// TestScopeTwice: a scope that a JSON config names twice is asked for once.
func TestScopeTwice(t *testing.T) {
	h := benchHandler(t, Config{Scopes: []string{"a", "b", "a"}})
	if got := query(h.house.server.client.AuthorizeURL("https://example.com/cb", "s", "v", ""),
		"scope"); got != "a b" {
		t.Errorf("scope %q", got)
	}
}

// TestVisitorGivesUp: a tab that was closed is no fault of the server's.
func TestVisitorGivesUp(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) {
		s.TokenFault = func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}
	}})
	b := w.browser()
	callback := b.begin("/")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", callback, nil)
	if _, err := b.client.Do(req); err == nil {
		t.Fatal("there is an answer")
	}
	await(t, "the log says that the visitor is gone", func() bool { return strings.Contains(w.log(), "client_gone") })
	if strings.Contains(w.log(), "token_refused") {
		t.Error(w.log())
	}
}
