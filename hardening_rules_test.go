package aventusauth

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// TestForeignAddress: signing up with an address that is somebody else's, or that only looks like one of
// the domain, opens nothing (as in oauth2-proxy's CVE-2025-54576 family, and where a suffix was compared).
func TestForeignAddress(t *testing.T) {
	addresses := map[string]map[string]any{
		"auth0|unverified": {"email": "eve@example.com", "email_verified": false},
		"auth0|unsaid":     {"email": "eve@example.com"},
		"auth0|text":       {"email": "eve@example.com", "email_verified": "true"},
		"auth0|suffix":     {"email": "eve@evilexample.com", "email_verified": true},
		"auth0|below":      {"email": "eve@mail.example.com", "email_verified": true},
		"auth0|two":        {"email": "eve@evil.test@example.com", "email_verified": true},
		"auth0|quoted":     {"email": "\"eve@example.com\"@evil.test", "email_verified": true},
		"auth0|nobody":     {"email": "@example.com", "email_verified": true},
		"auth0|pattern":    {"email": "*@evil.test", "email_verified": true},
		"auth0|folded":     {"email": "eve@eKample.com", "email_verified": true},
		"auth0|none":       {},
	}
	var users []aventustest.User
	for sub := range addresses {
		users = append(users, aventustest.User{Sub: sub})
	}
	who := ""
	w := newWorld(t, setup{
		block: "require_claim email *@example.com",
		caddyfile: "@staff aventus_claim email *@example.com\n%s\nhandle @staff {\nreverse_proxy %app\n}\nhandle " +
			"{\nerror 418\n}" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.Users = users
			s.AutoSignIn = "auth0|eve"
			s.Users = append(s.Users, aventustest.User{Sub: "auth0|eve"})
			s.Claims = func(aventustest.User) map[string]any { return addresses[who] }
		},
	})
	for who = range addresses {
		b := w.browser()
		b.login("/")
		a := b.get("/")
		w.expect(a, http.StatusForbidden)
		lacks := "(email)"
		if addresses[who]["email"] == "eve@example.com" { // and nothing says that it is verified
			lacks = "(email_verified)"
		}
		if !strings.HasPrefix(a.body, "insufficient_claim: ") || !strings.Contains(a.body, lacks) {
			t.Errorf("%s: %s", who, a.body)
		}
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
}

// said returns the Authorization with an access token of these claims.
func said(payload string) string {
	return bearer + "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

// TestVerifiedByTheOtherToken: the ID token of a login said that an address was verified. It says nothing of the
// address that a renewed access token names; nor does an access token that names none say it of the ID token's.
func TestVerifiedByTheOtherToken(t *testing.T) {
	for access, want := range map[string]bool{
		`{}`:                                false,
		`{"email":"ceo@example.com"}`:       false,
		`{"email":"ceo@example.com","x":1}`: false,
		`{"email":"ceo@example.com","email_verified":true}`:  true,
		`{"email":"ceo@example.com","email_verified":false}`: false,
	} {
		g := &grant{bearer: said(access), idToken: `{"email_verified":true}`}
		if got := claims.Holds(g.claim, "email", []string{"*@example.com"}); got != want {
			t.Errorf("%s: %t", access, got)
		}
	}
	for _, c := range []struct {
		id, access, renewed string
		want                bool
	}{
		{`{"email":"ada@example.com","email_verified":true}`, `{}`, `{}`, true},
		{`{"email":"ada@example.com","email_verified":true}`, `{"email_verified":false}`, `{}`, true},
		{`{"email":"b@example.com","email_verified":false}`, `{"email_verified":true}`, `{}`, false},
		{`{"email":"b@example.com","email_verified":false}`, `{}`, `{"email_verified":true}`, false},
		{`{"email":"b@example.com","email_verified":false}`, `{}`, `{"email":null,"email_verified":true}`, false},
		{`{"email":"b@example.com"}`, `{"email_verified":true}`, `{"email_verified":true}`, false},
	} {
		further, err := claims.Further([]byte(c.id), said(c.access)[len(bearer):])
		if err != nil {
			t.Fatal(err)
		}
		for _, access := range []string{c.access, c.renewed} {
			g := &grant{bearer: said(access), idToken: string(further)}
			if got := claims.Holds(g.claim, "email", []string{"*@example.com"}); got != c.want {
				t.Errorf("ID token %s, access token %s: %t", c.id, access, got)
			}
		}
	}
}

// TestRoleTakenAway: a renewed access token that lacks a role takes it away, also where the ID token of the login
// named it, too. What that alone named stays.
func TestRoleTakenAway(t *testing.T) {
	const admin = `{"roles":["admin"]}`
	for access, want := range map[string]bool{
		admin: false, `{"roles":[]}`: false, `{}`: true, `{"roles":null}`: true,
	} {
		further, err := claims.Further([]byte(admin), said(access)[len(bearer):])
		if err != nil {
			t.Fatal(err)
		}
		g := &grant{bearer: said(`{}`), idToken: string(further)}
		if got := claims.Holds(g.claim, "roles", []string{"admin"}); got != want {
			t.Errorf("the access token of the login says %s: %t", access, got)
		}
	}
}
