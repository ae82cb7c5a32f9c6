package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestChallengeNamesAllScopes: an API client learns all that it needs at once (RFC
// 6750, section 3).
func TestChallengeNamesAllScopes(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer\nrequire_scope read:things write:things"})
	a := w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(nil)))
	w.expect(a, http.StatusForbidden)
	want := `Bearer error="insufficient_scope", scope="read:things write:things", `
	if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, want) {
		t.Errorf("WWW-Authenticate: %s", got)
	}
}

// TestLackingSaysWhat: whoever lacks a scope or a claim is told which, and how to use another account, also where
// the site has no error pages.
func TestLackingSaysWhat(t *testing.T) {
	const lacks = "You are signed in, but your account lacks what is needed here "
	for rule, names := range map[string]string{
		"require_scope admin":               "You are signed in, but lack the scope admin.",
		"require_claim org.role a b":        lacks + "(org.role).",
		"require_claim email *@acme.io":     lacks + "(email).",
		"require_claim email *@example.com": lacks + "(email_verified).", // the stand-in says nothing about that
	} {
		w := newWorld(t, setup{block: rule + "\nlogout /bye"})
		b := w.browser()
		b.login("/")
		a := b.get("/")
		w.expect(a, http.StatusForbidden)
		want := names + " To use another account, sign out first, at /bye and at the sign-in server.\n"
		if a.body != want {
			t.Errorf("%s: %q", rule, a.body)
		}
		w.expect(b.get("/bye"), http.StatusOK)
		w.expect(b.get("/"), http.StatusFound)

		// An error page has the name, and a button of its own.
		w = newWorld(t, setup{block: rule + "\nlogout /bye", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
		b = w.browser()
		b.login("/")
		if a := b.get("/"); !strings.HasSuffix(a.body, ": "+names) {
			t.Errorf("%s: %q", rule, a.body)
		}
	}
}

// TestLackingLeadsToALogout: whoever lacks a scope is told of the logout that this host has, of whichever block, and
// of none that another host or port has. One that goes by way of the authorization server is enough by itself.
func TestLackingLeadsToALogout(t *testing.T) {
	const lacks, first = "You are signed in, but lack the scope admin.", " To use another account, sign out first, at "
	for name, c := range map[string]struct{ admin, site, host, want string }{
		"none":            {"", "", "", ""},
		"of the block":    {"logout /out", "logout /bye", "", first + "/out and at the sign-in server."},
		"of another":      {"", "logout /bye", "", first + "/bye and at the sign-in server."},
		"by the server":   {"", "logout /bye\nlogout_provider", "", first + "/bye."},
		"at another host": {"", "", "other.localhost", ""},
		"at another port": {"", "", "localhost", ""},
	} {
		w := newWorld(t, setup{sites: func(w *world) string {
			sites := w.site + " {\n" + w.directive("", c.site) + "\n" +
				w.directive("/admin", "require_scope admin\n"+c.admin) + "\nreverse_proxy " + w.app + "\n}\n"
			if c.host != "" {
				other := "http://" + c.host + ":" + freePort(t)
				sites += other + " {\n" + strings.ReplaceAll(w.directive("", "logout /bye\nlogout_provider"), w.site,
					other) + "\n}"
			}
			return sites
		}})
		b := w.browser()
		b.login("/")
		a := b.get("/admin")
		w.expect(a, http.StatusForbidden)
		if a.body != lacks+c.want+"\n" {
			t.Errorf("%s: %q", name, a.body)
		}
	}
}

// TestNoClaimRequired: a requirement without a claim's name would be met by none.
func TestNoClaimRequired(t *testing.T) {
	err := validate(t, `{"client_id":"abc","client_secret":"s","redirect_uri":"https://example.com/cb",`+
		`"require_claim":[{"values":["x"]}]}`)
	if err == nil || !strings.Contains(fmt.Sprint(err), "require_claim needs a claim") {
		t.Error(err)
	}
}

// TestRequire: who lacks a scope or a claim gets 403, and several blocks with
// different requirements share one session.
func TestRequire(t *testing.T) {
	require := map[string]string{
		"/scope":       "require_scope openid profile",
		"/permission":  "require_scope write:things",
		"/noscope":     "require_scope openid delete:things",
		"/role":        "require_claim roles owner admin",
		"/norole":      "require_claim roles owner root",
		"/number":      "require_claim org.id 9007199254740993",
		"/nonumber":    "require_claim org.id 9007199254740992",
		"/bool":        "require_claim verified true",
		"/nobool":      "require_claim verified false",
		"/object":      "require_claim org engines",
		"/missing":     "require_claim none x",
		"/missing2":    `require_claim none ""`,
		"/both":        "require_claim verified true\nrequire_claim roles admin",
		"/oneofboth":   "require_claim verified true\nrequire_claim roles root",
		"/substring":   "require_claim email ada@example",
		"/joinedroles": "require_claim roles admin,editor",
	}
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.Claims = richClaims },
		sites: func(w *world) string {
			blocks := ""
			for path, requirement := range require {
				blocks += w.directive(path, requirement) + "\n"
			}
			return w.site + " {\n" + blocks + w.directive("/plain", "") + "\nreverse_proxy " + w.app +
				errorsShown + "\n}"
		},
	})
	b := w.browser()
	b.login("/plain")
	for path, want := range map[string]string{
		"/scope": "", "/permission": "", "/role": "", "/number": "", "/bool": "", "/both": "",
		"/noscope":     "insufficient_scope: You are signed in, but lack the scope delete:things.",
		"/norole":      "insufficient_claim: You are signed in, but your account lacks what is needed here (roles).",
		"/nonumber":    "insufficient_claim: ",
		"/nobool":      "insufficient_claim: ",
		"/object":      "insufficient_claim: ",
		"/missing":     "insufficient_claim: ",
		"/missing2":    "insufficient_claim: ",
		"/oneofboth":   "insufficient_claim: ",
		"/substring":   "insufficient_claim: ",
		"/joinedroles": "insufficient_claim: ",
	} {
		a := b.get(path)
		if want == "" {
			w.expect(a, http.StatusOK)
			continue
		}
		w.expect(a, http.StatusForbidden)
		if !strings.HasPrefix(a.body, want) || a.Header.Get("Cache-Control") != "no-store" ||
			a.Header["Www-Authenticate"] != nil {
			t.Errorf("%s: %v %s", path, a.Header, a.body)
		}
	}
	w.expectTokenRequests(1)
	if len(w.issuer.AuthorizeRequests()) != 1 {
		t.Errorf("%d logins", len(w.issuer.AuthorizeRequests()))
	}
}

// TestScope: what was granted is what the answer says, else what the token says. What
// was asked for is never taken for it.
func TestScope(t *testing.T) {
	for _, c := range []struct {
		name   string
		server func(*aventustest.Server)
		want   string
	}{
		{"the answer's", func(s *aventustest.Server) { s.Scopes = []string{"openid"} }, "openid"},
		{"the token's", func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": "profile extra"} }
		}, "profile extra"},
		{"neither's", func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": nil} }
		}, ""},
		{"an array's", func(s *aventustest.Server) {
			s.EditAnswer = func(_ string, answer map[string]any) { answer["scope"] = []string{"profile", "more"} }
		}, "profile more"},
		{"an empty array's", func(s *aventustest.Server) {
			s.EditAnswer = func(_ string, answer map[string]any) { answer["scope"] = []string{} }
		}, ""},
	} {
		w := newWorld(t, setup{issuer: c.server, caddyfile: "%s\nrespond {http.auth.user.scope}"})
		b := w.browser()
		b.login("/")
		if a := b.get("/"); a.body != c.want {
			t.Errorf("%s: %q, want %q", c.name, a.body, c.want)
		}
	}
}
