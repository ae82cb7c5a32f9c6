package aventusauth

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestTwoSubjects: an ID token and an access token that name two people make no
// session: it would be the one's for the module, and the other's for the app.
func TestTwoSubjects(t *testing.T) {
	var access, id atomic.Pointer[any]
	w := newWorld(t, setup{caddyfile: "%s\nrespond <{http.auth.user.id}>" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"sub": *access.Load()} }
			s.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"sub": *id.Load()} }
		}})
	for _, c := range []struct {
		access, id any
		want       string // empty: refused
	}{
		{"auth0|ada", "auth0|ada", "<auth0|ada>"},
		{nil, "auth0|ada", "<auth0|ada>"},
		{"auth0|ada", nil, "<auth0|ada>"},
		{json.Number("9007199254740993"), "9007199254740993", "<9007199254740993>"},
		{"auth0|ada", "auth0|grace", ""},
		{"auth0|ada", "auth0|Ada", ""},
		{json.Number("9007199254740993"), "9007199254740992", ""},
	} {
		access.Store(&c.access)
		id.Store(&c.id)
		b := w.browser()
		a := b.get(b.begin("/"))
		if c.want == "" {
			w.expectRefused(a, "its sub is not the access token's")
			continue
		}
		w.expect(a, http.StatusSeeOther)
		if a := b.get("/"); a.body != c.want {
			t.Errorf("%v and %v are %s", c.access, c.id, a.body)
		}
	}
}

// TestRenewedForAnother: a renewed token that is for another API, of another server or
// another person's does not take the place of the one before. The session ends with
// the token that it has, and the refresh token that came is revoked.
func TestRenewedForAnother(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]any // of the renewed token's claims; nil: it is opaque
		why    string         // empty: it is good
	}{
		"the same":              {map[string]any{}, ""},
		"iss without its slash": {map[string]any{"iss": "slashless"}, ""},
		"another audience":      {map[string]any{"aud": "https://other.example.com/"}, "https://other.example.com/"},
		"another issuer":        {map[string]any{"iss": "https://evil.test/"}, "not the issuer"},
		"opaque":                {nil, "it is not a JWT"},
		"another person":        {map[string]any{"sub": "auth0|grace"}, "its sub is not that of the token before"},
		"nobody":                {map[string]any{"sub": nil}, "its sub is not that of the token before"},
	} {
		w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
			s.EditAnswer = func(grantType string, answer map[string]any) {
				if grantType != "refresh_token" {
					return
				}
				answer["access_token"] = "an-opaque-token"
				if c.change != nil {
					claims := map[string]any{"iss": s.Issuer, "aud": "https://api.example.com/", "sub": "auth0|ada"}
					maps.Copy(claims, c.change)
					if claims["iss"] == "slashless" {
						claims["iss"] = strings.TrimSuffix(s.Issuer, "/")
					}
					answer["access_token"] = s.SignJWT(claims)
				}
			}
		}})
		b := w.browser()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		first := w.token()
		w.clock.Add(57 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		if c.why == "" {
			await(t, name+": the new token", func() bool {
				w.expect(b.get("/"), http.StatusOK)
				return w.token() != first
			})
			continue
		}
		await(t, name+": the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
		for range 3 {
			w.expect(b.get("/"), http.StatusOK)
			if w.token() != first {
				t.Errorf("%s: the app was sent the new token", name)
			}
		}
		await(t, name+": the log to say why", func() bool { return strings.Contains(w.log(), c.why) })
		w.clock.Add(3 * time.Minute)
		w.requests()
		w.expect(b.do("POST", "/"), http.StatusUnauthorized)
		w.expect(b.get("/"), http.StatusFound)
		if n := len(w.requests()); n != 0 {
			t.Errorf("%s: the app was reached %d times", name, n)
		}
		w.expectTokenRequests(2)
		w.expectNoReuse()
	}
}

// TestRenewalKeepsTheGrant: a renewal whose answer has no scope leaves what was granted
// at the login as it was, however much the config asks for and the new token says.
func TestRenewalKeepsTheGrant(t *testing.T) {
	var says atomic.Pointer[any] // what the answer to a renewal has as scope; nil: none
	w := refreshing(t, setup{caddyfile: "%s\nrespond <{http.auth.user.scope}>", issuer: func(s *aventustest.Server) {
		s.Scopes = []string{"openid"}
		s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": "openid profile root"} }
		s.EditAnswer = func(grantType string, answer map[string]any) {
			if grantType == "refresh_token" {
				if delete(answer, "scope"); says.Load() != nil {
					answer["scope"] = *says.Load()
				}
			}
		}
	}})
	b := w.browser()
	b.login("/")
	for _, c := range []struct{ says, want any }{
		{nil, "<openid offline_access>"},
		{nil, "<openid offline_access>"},
		{"openid", "<openid>"},
		{nil, "<openid>"},
		{[]string{}, "<>"},
		{nil, "<>"},
	} {
		says.Store(nil)
		if c.says != nil {
			says.Store(&c.says)
		}
		w.clock.Add(time.Hour)
		if a := b.get("/"); a.body != c.want {
			t.Errorf("after a renewal that says %v: %s, want %s", c.says, a.body, c.want)
		}
	}
	w.expectTokenRequests(7)
	w.expectNoReuse()
}
