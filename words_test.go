package aventusauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// showsWords are error routes that show the authorization server's words, as Caddyfile.example does.
const showsWords = "\nhandle_errors {\ntemplates\nheader Content-Type text/html\n" +
	"respond `{http.aventus_auth.error} <q>{{placeholder \"http.aventus_auth.server_error\" | html}}: " +
	"{{placeholder \"http.aventus_auth.server_error_description\" | html}}</q>`\n}"

// TestRulesWords: a login that a rule denies shows its words to the person, whole, escaped and in any script.
func TestRulesWords(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + showsWords, issuer: func(s *aventustest.Server) {
		s.Deny = func(aventustest.User, aventustest.Client) string {
			return "Ihr Konto ist noch nicht freigegeben. まだ承認されていません <script>alert(1)</script> {{env \"HOME\"}} " +
				"{env.HOME}\x1b[31m\n"
		}
	}})
	b := w.browser()
	a := b.get(b.begin("/"))
	w.expect(a, http.StatusForbidden)
	want := "access_denied <q>access_denied: Ihr Konto ist noch nicht freigegeben. まだ承認されていません " +
		"&lt;script&gt;alert(1)&lt;/script&gt; { {env &#34;HOME&#34;}} {env.HOME}[31m</q>"
	if a.body != want {
		t.Errorf("the page is\n%s\nwant\n%s", a.body, want)
	}
	// Other errors have none.
	if a := b.get("/oauth2/callback?error=x"); !strings.HasSuffix(a.body, "<q>: </q>") {
		t.Errorf("the page is %s", a.body)
	}
}

// TestForeignWords: no other page puts words on the site's error page: neither with a state that is made up, nor
// with one of a login of its own.
func TestForeignWords(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + showsWords})
	attacker, victim := w.browser(), w.browser()
	callback, err := url.Parse(attacker.begin("/"))
	if err != nil {
		t.Fatal(err)
	}
	victim.get("/")
	words := "&error=access_denied&error_description=" + url.QueryEscape("Your account is locked: call 555-0100")
	for _, state := range []string{"", "x", callback.Query().Get("state")} {
		a := victim.get("/oauth2/callback?state=" + url.QueryEscape(state) + words)
		if strings.Contains(a.body, "555") {
			t.Errorf("the page is %s", a.body)
		}
	}
}
