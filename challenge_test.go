package aventusauth

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestChallenges compares the table of challenges in the reference with what each of its situations gets.
func TestChallenges(t *testing.T) {
	var down atomic.Bool
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/plain", "") + "\n" +
			w.directive("/claim", "accept_bearer\nrequire_claim role admin") + "\n" +
			w.directive("/down", "accept_bearer\nrequire_scope read:things") + "\n" +
			w.directive("/api", "accept_bearer\nrequire_scope read:things") + "\nreverse_proxy " + w.app + "\n}"
	}, issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(w http.ResponseWriter, r *http.Request) bool {
			return down.Load() && aventustest.Says(http.StatusServiceUnavailable, "")(w, r)
		}
	}})
	good := "Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"scope": "read:things"}))
	lacking := "Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"scope": "other"}))
	signedIn := w.browser()
	signedIn.login("/api")

	situations := map[string]func() answer{
		"The request lacks any authentication information, in a block without `accept_bearer`": func() answer {
			return w.browser().do("GET", "/plain")
		},
		"The request lacks any authentication information": func() answer {
			return w.browser().do("GET", "/api")
		},
		"The access token provided is expired, revoked, malformed, or invalid for other reasons": func() answer {
			return w.browser().do("GET", "/api", "Authorization", "Bearer "+flip(good[len("Bearer "):]))
		},
		"The request has more than one `Authorization` header, one of which is Bearer": func() answer {
			return w.browser().do("GET", "/api", "Authorization", "Basic YTpi", "Authorization", good)
		},
		"The request requires higher privileges than provided by the access token: a scope of `require_scope` " +
			"is missing": func() answer {
			return w.browser().do("GET", "/api", "Authorization", lacking)
		},
		"The request requires higher privileges than provided by the access token: a claim of `require_claim` is " +
			"missing, for which RFC 6750 has no code": func() answer {
			return w.browser().do("GET", "/claim", "Authorization", good)
		},
		"The request has a session, which lacks a scope or a claim: no token would help": func() answer {
			return signedIn.do("GET", "/api")
		},
		"The authorization server's keys are needed for the token, and it says that it is unavailable (502 or 504 " +
			"if they cannot be fetched for [another reason](#what-a-request-gets))": func() answer {
			down.Store(true)
			return w.browser().do("GET", "/down", "Authorization", good)
		},
	}

	_, table, _ := strings.Cut(readFile(t, "docs/reference.md"), "\n## Challenges\n")
	table, _, _ = strings.Cut(table, "\n### ")
	rows := regexp.MustCompile("(?m)^\\| (.+) \\| (\\d+) \\| (?:`(.*)`|none) \\|$").FindAllStringSubmatch(table, -1)
	if len(rows) != len(situations) {
		t.Errorf("the table has %d rows, and this test %d", len(rows), len(situations))
	}
	for _, row := range rows {
		send := situations[row[1]]
		if send == nil {
			t.Errorf("the test does not know the situation %q", row[1])
			continue
		}
		a := send()
		var want []string
		if row[3] != "" {
			want = []string{strings.ReplaceAll(row[3], "https://example.com", w.site)}
		}
		status := strings.Fields(a.Status)[0]
		if got := a.Header["Www-Authenticate"]; status != row[2] || !slices.Equal(got, want) {
			t.Errorf("%s: %s, %q\nwant %s, %q", row[1], status, got, row[2], want)
		}
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
}

// TestLongChallenge: scopes that would not fit the header of an answer are left to the metadata.
func TestLongChallenge(t *testing.T) {
	var scopes []string
	for i := range 100 {
		scopes = append(scopes, strings.Repeat(string(rune('a'+i%26)), 20)+string(rune('0'+i/26)))
	}
	w := newWorld(t, setup{block: "accept_bearer\nrequire_scope " + strings.Join(scopes, " ")})
	a := w.browser().do("GET", "/")
	want := `Bearer resource_metadata="` + w.site + `/.well-known/oauth-protected-resource"`
	if got := a.Header.Get("WWW-Authenticate"); got != want {
		t.Errorf("WWW-Authenticate: %s", got)
	}
	if a := w.browser().do("GET", metadataPath); !strings.Contains(a.body, scopes[99]) {
		t.Errorf("the metadata is %s", a.body)
	}
}

// TestPreflight runs the Caddyfile of the reference: preflights get an answer without the login or the app, and
// the script of the page may then read the challenge, or send its token.
func TestPreflight(t *testing.T) {
	_, file, _ := strings.Cut(readFile(t, "docs/reference.md"), "\n### Preflights\n")
	_, file, _ = strings.Cut(file, "```caddyfile\n")
	file, _, _ = strings.Cut(file, "```")
	w := newWorld(t, setup{sites: func(w *world) string {
		t.Setenv("AVENTUS_CLIENT_ID", "the-client")
		t.Setenv("AVENTUS_CLIENT_SECRET", testSecret)
		return strings.NewReplacer(
			"api.example.com {", w.site+" {", "https://api.example.com/oauth2", w.site+"/oauth2",
			"accept_bearer", "accept_bearer\nissuer "+w.issuer.Issuer, "localhost:9000", w.app,
		).Replace(file)
	}})
	preflight := []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "PUT"}
	a := w.browser().do("OPTIONS", "/things", preflight...)
	w.expect(a, http.StatusNoContent)
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":  "https://app.example.com",
		"Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
		"Access-Control-Allow-Headers": "Authorization, Content-Type",
	} {
		if got := a.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}

	// Others get none, and neither does what only looks like one.
	w.expect(w.browser().do("OPTIONS", "/things", "Origin", "https://evil.test", "Access-Control-Request-Method",
		"PUT"), http.StatusUnauthorized)
	w.expect(w.browser().do("OPTIONS", "/things"), http.StatusUnauthorized)
	w.expect(w.browser().do("PUT", "/things", preflight...), http.StatusUnauthorized)

	a = w.browser().do("PUT", "/things", "Origin", "https://app.example.com")
	w.expect(a, http.StatusUnauthorized)
	if a.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" ||
		a.Header.Get("Access-Control-Expose-Headers") != "WWW-Authenticate" {
		t.Errorf("the script may not read the challenge: %v", a.Header)
	}
	token := w.issuer.SignJWT(w.tokenClaims(nil))
	w.expect(w.browser().do("PUT", "/things", "Origin", "https://app.example.com", "Authorization", "Bearer "+token),
		http.StatusOK)
}

// TestPreflightRefused: what a preflight gets without further ado.
func TestPreflightRefused(t *testing.T) {
	for mode, status := range map[string]int{"auto": 401, "deny": 401, "redirect": 303} {
		w := newWorld(t, setup{block: "unauthenticated " + mode})
		w.expect(w.browser().do("OPTIONS", "/", "Origin", "https://app.example.com", "Access-Control-Request-Method",
			"PUT"), status)
	}
}
