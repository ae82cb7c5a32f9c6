package aventusauth

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// edited begins a login, changes the authorize URL as the visitor can, and returns the
// answer of the callback. An empty value takes the parameter out.
func (b *browser) edited(path, name, value string) answer {
	b.w.t.Helper()
	a := b.get(path)
	b.w.expect(a, http.StatusFound)
	a = b.get(with(a.location(), name, value))
	b.w.expect(a, http.StatusFound)
	return b.get(a.location())
}

// expectRefused checks that a login ended in 502 with nothing kept of it, and that the
// log says why.
func (w *world) expectRefused(a answer, why string) {
	w.t.Helper()
	if a.StatusCode != http.StatusBadGateway || !strings.HasPrefix(a.body, "token_invalid: ") ||
		a.Header["Set-Cookie"] != nil || a.Header.Get("Cache-Control") != "no-store" {
		w.t.Errorf("%s: status %d, %v, %s", why, a.StatusCode, a.Header, a.body)
	}
	if files := w.sessionFiles(); len(files) != 0 {
		w.t.Errorf("%s: %d sessions are in the storage", why, len(files))
	}
	if !strings.Contains(w.log(), why) {
		w.t.Errorf("the log does not say %q", why)
	}
}

// TestEditedScope: a server may leave scope out of its answer where it granted what it
// was asked for (RFC 6749, section 5.1). It was asked by the visitor, who can take the
// scope out of the authorize URL, so the config's scopes are no evidence of a grant.
func TestEditedScope(t *testing.T) {
	for _, opaque := range []bool{true, false} {
		w := newWorld(t, setup{opaque: opaque, issuer: func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": nil} }
		}, sites: func(w *world) string {
			return w.site + " {\nroute {\n" + w.directive("/secret", "scope secrets\nrequire_scope secrets") + "\n" +
				w.directive("", "scope secrets\nprofile /me") +
				"\nrespond <{http.auth.user.scope}>\n}\n}"
		}})
		for _, scope := range []string{"", "openid", "openid profile", "openid profile secrets"} {
			b := w.browser()
			w.expect(b.edited("/", "scope", scope), http.StatusSeeOther)
			w.expect(b.get("/secret"), http.StatusForbidden)
			if a := b.get("/"); a.body != "<>" {
				t.Errorf("opaque: %t, %q asked for: granted %s", opaque, scope, a.body)
			}
			if a := b.get("/me"); !strings.Contains(a.body, `"scope":""`) {
				t.Errorf("opaque: %t, %q asked for: the profile is %s", opaque, scope, a.body)
			}
		}
	}
}

// TestEditedAudience: with another audience in the authorize URL, or none, the token is
// for another API, where the visitor may have other scopes and claims. It makes no
// session, also where its signature is not verified.
func TestEditedAudience(t *testing.T) {
	for _, block := range []string{"", "verify_token"} {
		w := newWorld(t, setup{block: block, caddyfile: "%s\nreverse_proxy %app" + errorsShown})
		w.expectRefused(w.browser().edited("/", "audience", "https://other.example.com/"),
			"https://other.example.com/")
		w.expectRefused(w.browser().edited("/", "audience", ""), "it is not a ")
		w.expectRefused(w.browser().edited("/", "audience", "https://api.example.com"),
			`not \"https://api.example.com/\"`)
		b := w.browser()
		w.expect(b.get("/"), http.StatusFound)
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
	}
}

// TestTokenForAnother goes through what an unverified access token may say of who made
// it, and for whom.
func TestTokenForAnother(t *testing.T) {
	var token atomic.Pointer[string]
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: func(s *aventustest.Server) {
		s.EditAnswer = func(_ string, answer map[string]any) { answer["access_token"] = *token.Load() }
	}})
	const api = "https://api.example.com/"
	slashless := strings.TrimSuffix(w.issuer.Issuer, "/")
	for name, c := range map[string]struct {
		claims map[string]any
		ok     bool
	}{
		"as it should be":        {map[string]any{}, true},
		"iss without the slash":  {map[string]any{"iss": slashless}, true},
		"aud an array":           {map[string]any{"aud": []string{"https://other.example.com/", api}}, true},
		"aud an array of one":    {map[string]any{"aud": []string{api}}, true},
		"another aud":            {map[string]any{"aud": "https://other.example.com/"}, false},
		"others":                 {map[string]any{"aud": []string{"https://other.example.com/", api + "x"}}, false},
		"no aud":                 {map[string]any{"aud": nil}, false},
		"an empty array":         {map[string]any{"aud": []string{}}, false},
		"an array within":        {map[string]any{"aud": [][]string{{api}}}, false},
		"an object":              {map[string]any{"aud": map[string]any{api: true}}, false},
		"aud within a string":    {map[string]any{"aud": api + " https://other.example.com/"}, false},
		"aud in another case":    {map[string]any{"aud": "HTTPS://API.EXAMPLE.COM/"}, false},
		"the client":             {map[string]any{"aud": "the-client"}, false},
		"another iss":            {map[string]any{"iss": "https://evil.test/"}, false},
		"no iss":                 {map[string]any{"iss": nil}, false},
		"an iss with more":       {map[string]any{"iss": w.issuer.Issuer + "x"}, false},
		"two slashes":            {map[string]any{"iss": w.issuer.Issuer + "/"}, false},
		"iss an array":           {map[string]any{"iss": []string{w.issuer.Issuer}}, false},
		"both in another's name": {map[string]any{"Aud": api, "aud": nil}, false},
	} {
		claims := w.tokenClaims(map[string]any{"sub": "auth0|ada"})
		maps.Copy(claims, c.claims)
		signed := w.issuer.SignJWT(claims)
		token.Store(&signed)
		b := w.browser()
		a := b.get(b.begin("/"))
		if !c.ok {
			w.expectRefused(a, "verifying the access token: ")
			continue
		}
		if a.StatusCode != http.StatusSeeOther {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
	}

	good := strings.Split(w.issuer.SignJWT(w.tokenClaims(map[string]any{"sub": "auth0|ada"})), ".")
	for name, odd := range map[string]string{
		"opaque":         "an-opaque-token",
		"with dots":      "an.opaque.token",
		"four parts":     strings.Join(good, ".") + ".x",
		"encrypted":      strings.Join(append(good, "x", "x"), "."),
		"no JSON":        good[0] + ".eyJ4." + good[2],
		"payload padded": good[0] + "." + good[1] + "=." + good[2],
		"an array":       good[0] + ".W10." + good[2],
	} {
		token.Store(&odd)
		b := w.browser()
		w.expectRefused(b.get(b.begin("/")), "verifying the access token: ")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	if log := w.log(); !strings.Contains(log, "leave audience out") {
		t.Error("the log does not say what to do about opaque tokens")
	}
}

// TestEditedOfflineAccess: with offline_access added to the authorize URL, a refresh
// token comes that would make the session outlast its token. It is dropped, and
// revoked.
func TestEditedOfflineAccess(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
	b := w.browser()
	a := b.edited("/", "scope", "openid profile offline_access")
	w.expect(a, http.StatusSeeOther)
	if c := a.cookie("aventus_session"); c == nil || c.MaxAge != 3600 {
		t.Errorf("sets %v", a.Header["Set-Cookie"])
	}
	if files := w.sessionFiles(); len(files) != 0 {
		t.Errorf("%d sessions are in the storage, as if there were a refresh token", len(files))
	}
	await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(57 * time.Minute)
	w.expect(b.do("POST", "/"), http.StatusOK)
	w.clock.Add(3 * time.Minute)
	w.expect(b.do("POST", "/"), http.StatusUnauthorized)
	w.expectTokenRequests(1)
}

// TestRefreshTokenOfNobody: a refresh token that came with tokens that are refused is
// revoked. One that a session uses is not.
func TestRefreshTokenOfNobody(t *testing.T) {
	w := refreshing(t, setup{})
	w.expectRefused(w.browser().edited("/", "audience", "https://other.example.com/"), "https://other.example.com/")
	await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
	b := w.browser()
	b.login("/")
	for range 3 {
		w.clock.Add(time.Hour)
		w.expect(b.get("/"), http.StatusOK)
	}
	if n := len(w.issuer.Revoked()); n != 1 {
		t.Errorf("%d refresh tokens were revoked, want 1", n)
	}
	w.expectNoReuse()
}

// TestEditedOrganization: a site that is for one organization is not entered by way of
// another, nor by way of none, or without the ID token that would tell.
func TestEditedOrganization(t *testing.T) {
	w := newWorld(t, setup{block: "authorize_param organization org_Ours", caddyfile: "%s\nreverse_proxy %app" +
		errorsShown})
	for name, value := range map[string]string{
		"its own, by another id": "org_Theirs", "in another case": "org_ours", "by name": "Ours",
		"by a name like an id": "org_of_ours", "none": "",
	} {
		w.expectRefused(w.browser().edited("/", "organization", value), "its org_id is ")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	w.expectRefused(w.browser().edited("/", "scope", "profile"),
		"verifying the ID token: the token is refused: none came")
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)

	w = newWorld(t, setup{block: "authorize_param organization Ours", caddyfile: "%s\nreverse_proxy %app" +
		errorsShown})
	w.expectRefused(w.browser().edited("/", "organization", "theirs"), `its org_name is \"theirs\"`)
	w.expectRefused(w.browser().edited("/", "organization", "org_of_Ours"), "its org_name is ")
	w.browser().login("/")
}

// TestComparedPerBlock: a session of a block that does not ask for an organization, for
// a fresh sign-in, or that asks for others, opens nothing at a block that does; and a
// login is finished by the block that began it.
func TestComparedPerBlock(t *testing.T) {
	blocks := []string{
		"", "authorize_param organization org_a", "authorize_param organization org_b", "authorize_param max_age 60",
		"authorize_param max_age 6",
		"authorize_param organization org_a\nauthorize_param max_age 60",
	}
	w := newWorld(t, setup{sites: func(w *world) string {
		all := ""
		for i, block := range blocks {
			all += w.directive(fmt.Sprintf("/%d", i), block) + "\n"
		}
		return w.site + " {\n" + all + "respond ok\n}"
	}})
	for i := range blocks {
		b := w.browser()
		b.login(fmt.Sprintf("/%d", i))
		for j := range blocks {
			want := http.StatusFound
			if i == j {
				want = http.StatusOK
			}
			w.expect(b.get(fmt.Sprintf("/%d", j)), want)
		}
	}
}

// TestEditedMaxAge: a site that wants a fresh sign-in is not entered with an old one,
// by taking max_age out of the authorize URL or making it larger.
func TestEditedMaxAge(t *testing.T) {
	var authTime atomic.Int64 // in place of the real one, if not 0
	w := newWorld(t, setup{block: "authorize_param max_age 600", caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.SignedIn = time.Unix(s.Now().Unix()-3600, 0)
			s.IDClaims = func(aventustest.User) map[string]any {
				if at := authTime.Load(); at != 0 {
					return map[string]any{"auth_time": at}
				}
				return nil
			}
		}})
	w.expectRefused(w.browser().edited("/", "max_age", "86400"), "is not within max_age")
	w.expectRefused(w.browser().edited("/", "max_age", ""), "it has no auth_time")
	w.expectRefused(w.browser().edited("/", "scope", "profile"), "none came")
	w.browser().login("/") // signs in anew
	now := w.clock.Now().Unix()
	for at, ok := range map[int64]bool{now: true, now - 600: true, now - 660: true, now - 661: false, now + 60: true,
		now + 61: false, -1: false} {
		authTime.Store(at)
		b := w.browser()
		if a := b.get(b.begin("/")); (a.StatusCode == http.StatusSeeOther) != ok {
			t.Errorf("%d seconds ago: status %d", now-at, a.StatusCode)
		}
	}
}
