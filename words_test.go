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

// TestRulesWordsInTheExample: the error page of Caddyfile.example shows a rule's words, escaped, under its own.
func TestRulesWordsInTheExample(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		for name, value := range map[string]string{
			"SITE_ADDRESS": w.site, "SITE_ROOT": w.dir, "APP_UPSTREAM": w.app, "AVENTUS_CLIENT_ID": "the-client",
			"AVENTUS_CLIENT_SECRET": testSecret, "AVENTUS_REDIRECT_URI": w.site + "/oauth2/callback",
			"AVENTUS_AUDIENCE": "https://api.example.com/", "AVENTUS_ISSUER": w.issuer.Issuer,
		} {
			t.Setenv(name, value)
		}
		return readFile(t, "Caddyfile.example")
	}, issuer: func(s *aventustest.Server) {
		s.Deny = func(aventustest.User, aventustest.Client) string {
			return "Schreib an <b>ada@example.com</b>, 承認待ち {{env \"HOME\"}}\x07"
		}
	}})
	b := w.browser()
	a := b.get(b.begin("/"))
	w.expect(a, http.StatusForbidden)
	_, page, _ := strings.Cut(a.body, "<h1>You are not signed in</h1>\n")
	want := "<p>The sign-in server says: <q>Schreib an &lt;b&gt;ada@example.com&lt;/b&gt;, 承認待ち { {env " +
		"&#34;HOME&#34;}}</q></p>\n"
	own, after, found := strings.Cut(page, want)
	if !strings.HasPrefix(own, "<p>You chose not to let this site know who you are") || !found ||
		!strings.Contains(after, "Try again") {
		t.Errorf("the page is\n%s", a.body)
	}
	// A page about anything else has none.
	if a := b.get("/oauth2/callback?error=x"); a.StatusCode != http.StatusBadRequest ||
		strings.Contains(a.body, "The sign-in server says") {
		t.Errorf("the page is\n%s", a.body)
	}
}
