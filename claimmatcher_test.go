package aventusauth

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// claimsOf has the tokens of the stand-in's users say what a test wants of them.
func claimsOf(said map[string]map[string]any) func(*aventustest.Server) {
	return func(s *aventustest.Server) {
		s.Claims = func(u aventustest.User) map[string]any { return said[u.Sub] }
	}
}

// TestClaimMatcher: the matcher means the same as require_claim, behind the gate and in the error routes.
func TestClaimMatcher(t *testing.T) {
	t.Setenv("TEST_ROLE", "admin")
	asks := map[string]string{
		"/role":    "aventus_claim roles editor {env.TEST_ROLE}",
		"/both":    "aventus_claim roles admin\naventus_claim level 3",
		"/not":     "not aventus_claim roles admin",
		"/nested":  "aventus_claim org.id 7",
		"/domain":  "aventus_claim email *@example.com",
		"/address": "aventus_claim email ada@example.com",

		"/oneofboth": "aventus_claim roles admin\naventus_claim level 4",
		"/none":      "aventus_claim nothing x",
		"/id":        "aventus_claim id auth0|ada", // no claim, though a placeholder is called so
	}
	handles := ""
	for path, ask := range asks {
		name := strings.TrimPrefix(path, "/")
		handles += "@" + name + " {\npath " + path + "\n" + ask + "\n}\nhandle @" + name + " {\nrespond yes\n}\n"
	}
	w := newWorld(t, setup{
		issuer: claimsOf(map[string]map[string]any{"auth0|ada": {
			"roles": []string{"admin"}, "level": 3, "email": "Ada@Example.com", "email_verified": true,
			"org": map[string]any{"id": "7"},
		}}),
		sites: func(w *world) string {
			return w.site + " {\n" + w.directive("/sign-in", "") + "\n" + w.directive("", "unauthenticated pass") +
				"\n" + handles + `
				handle /lost {
					error 404
				}
				handle {
					respond no
				}
				handle_errors {
					@admin aventus_claim roles admin
					respond @admin "a page for admins"
					respond "a page"
				}
			}`
		},
	})
	b := w.browser()
	for _, who := range []string{"nobody", "ada"} {
		for path := range asks {
			holds := who == "ada" && (path == "/role" || path == "/both" || path == "/nested" || path == "/domain" ||
				path == "/address")
			want := map[bool]string{true: "yes", false: "no"}[holds || who == "nobody" && path == "/not"]
			if a := b.get(path); a.StatusCode != http.StatusOK || a.body != want {
				t.Errorf("%s at %s: %d %s, want %s", who, path, a.StatusCode, a.body, want)
			}
		}
		want := map[string]string{"nobody": "a page", "ada": "a page for admins"}[who]
		if a := b.get("/lost"); a.body != want {
			t.Errorf("%s gets %s, want %s", who, a.body, want)
		}
		if who == "nobody" {
			b.login("/sign-in")
		}
	}
}

// TestClaimMatcherOfMap: a map with the matcher goes by it, where it stands behind the gate. Caddy's own place for it
// is in front of the gate, where nobody is known.
func TestClaimMatcherOfMap(t *testing.T) {
	const mapped = "map @admins {path} {area} {\ndefault admins\n}\n"
	w := newWorld(t, setup{
		issuer: claimsOf(map[string]map[string]any{"auth0|ada": {"roles": []string{"admin"}}}),
		caddyfile: "@admins aventus_claim roles admin\n%s\nhandle /behind {\n" + mapped +
			"respond \"to {area}\"\n}\n" + strings.Replace(mapped, "{area}", "{early}", 1) + "respond \"to {early}\"",
	})
	b := w.browser()
	b.login("/")
	for path, want := range map[string]string{"/behind": "to admins", "/": "to {early}"} {
		if a := b.get(path); a.body != want {
			t.Errorf("%s: %q, want %q", path, a.body, want)
		}
	}
}

// TestRequireDomain: require_claim email *@example.com lets in who has a verified address of that domain.
func TestRequireDomain(t *testing.T) {
	w := newWorld(t, setup{
		block:     "require_claim email *@example.com",
		caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: claimsOf(map[string]map[string]any{
			"auth0|ada": {"email": "ada@EXAMPLE.com", "email_verified": true},
		}),
	})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestClaimMatcherAlone: where no block stands, nobody is identified, and nobody has a claim.
func TestClaimMatcherAlone(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n@x aventus_claim sub auth0|ada\nrespond @x yes\nrespond no\n}"
	}})
	if a := w.browser().get("/"); a.body != "no" {
		t.Errorf("a request that no block has seen gets %q", a.body)
	}
}

// TestClaimMatcherConfig: a matcher that is wrong, or would be asked too early, keeps the config from loading.
func TestClaimMatcherConfig(t *testing.T) {
	for lines, want := range map[string]string{
		"@x aventus_claim role\nrespond @x yes": "aventus_claim takes a claim, and a " +
			"value or more",
		"@x aventus_claim email *@*.example.com\nrespond @x yes":       "does not name one domain",
		"@x aventus_claim email {env.TEST_NOT_SET}\nrespond @x yes":    "aventus_claim {env.TEST_NOT_SET} is not set",
		"@x aventus_claim role {http.auth.user.role}\nrespond @x yes":  "is known only while a request is served",
		"@x aventus_claim role a {\nx\n}\nrespond @x yes":              "aventus_claim",
		"@x aventus_claim role a\n" + completed("aventus_auth @x"):     "before the visitor is identified",
		"@x not aventus_claim role a\n" + completed("aventus_auth @x"): "before the visitor is identified",
		completed("aventus_auth", "require_claim email *@"):            "does not name one domain",
		completed("aventus_auth", "require_claim email *@a.c,*@b.c"):   "does not name one domain",
	} {
		err := load("{\nadmin off\npersist_config off\n}\nhttp://localhost:" + freePort(t) + " {\n" + lines + "\n}")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", lines, err)
		}
	}
}

// completed returns a block that is complete.
func completed(directive string, further ...string) string {
	return directive + " {\nclient_id c\nclient_secret s\nredirect_uri https://example.com/cb\n" +
		strings.Join(further, "\n") + "\n}"
}
