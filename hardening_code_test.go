package aventusauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestBinding: what was sealed opens only where everything it is bound to is the
// same.
func TestBinding(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nkey " + strings.Repeat("A", 43) + "=\n}"})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	first := w.config
	for _, change := range []struct{ from, to string }{
		{"client_id the-client", "client_id another"},
		{"audience https://api.example.com/", "audience https://other.example.com/"},
		{"scope openid profile", "scope openid"},
		{w.issuer.Issuer, "http://127.0.0.1:1/"},
		{strings.Repeat("A", 43), strings.Repeat("B", 42) + "A"},
		{"redirect_uri " + w.site, "redirect_uri http://127.0.0.1:" + w.port},
	} {
		w.run(strings.Replace(first, change.from, change.to, 1))
		w.expect(b.get("/"), http.StatusFound)
	}
	// A new key in front: the old one still opens.
	w.run(strings.Replace(first, "key ", "key "+strings.Repeat("B", 42)+"A= ", 1))
	w.expect(b.get("/"), http.StatusOK)
}

// TestCodeOnce: a code is not sent again with another login's state either.
func TestCodeOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	first, second := b.begin("/1"), b.begin("/2")
	w.expect(b.get(first), http.StatusSeeOther)
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
	w.expect(b.get(with(second, "code", query(first, "code"))), http.StatusFound)
	w.expectTokenRequests(1)
	// Nor after the hour has turned.
	w.clock.Add(55 * time.Minute)
	third := b.begin("/3")
	w.expect(b.get(with(third, "code", query(first, "code"))), http.StatusFound)
	w.expectTokenRequests(1)
}

// TestStateOnce: a state is not good for a second code.
func TestStateOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	first := b.begin("/1")
	u, _ := url.Parse(first)
	w.expect(b.get(first), http.StatusSeeOther)
	another, err := w.issuer.IssueCode(w.issuer.AuthorizeRequests()[0], "auth0|ada")
	if err != nil {
		t.Fatal(err)
	}
	if another.Query().Get("state") != u.Query().Get("state") || another.Query().Get("code") == u.Query().Get("code") {
		t.Fatal("not the same state with another code")
	}
	w.expect(b.get(another.String()), http.StatusSeeOther)
	w.expectTokenRequests(1)
}

// TestAnotherBrowser: who is given somebody else's callback is not logged in as
// them (RFC 6749, section 10.12), but logs in.
func TestAnotherBrowser(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	attacker, victim := w.browser(), w.browser()
	callback := attacker.begin("/page")
	a := victim.get(callback)
	w.expect(a, http.StatusFound)
	w.expectTokenRequests(0)
	w.expect(victim.get(victim.get(a.location()).location()), http.StatusSeeOther)
	w.expectTokenRequests(1)
	w.expect(attacker.get(callback), http.StatusSeeOther) // costs the first nothing

	// A browser that keeps no cookies does not go round for ever.
	a = w.browser().get(callback)
	w.expect(a, http.StatusFound)
	a = w.browser().get(w.browser().get(a.location()).location())
	w.expect(a, http.StatusBadRequest)
}

// TestCodeInjection: a code that was stolen on its way is brought to the site by the
// thief, in a login of their own (RFC 9700, section 4.5). It fails on PKCE: the verifier
// is that of the thief's login.
func TestCodeInjection(t *testing.T) {
	w := newWorld(t, setup{https: true, caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	w.overEach(func(t *testing.T, send func(request) answer) {
		victims := w.callback(send(request{}), "auth0|ada")
		thiefs := w.callback(send(request{}), "auth0|grace")
		r := thiefs
		r.target = with(r.target, "code", query(victims.target, "code"))
		before := len(w.issuer.TokenRequests())
		a := send(r)
		if a.StatusCode != http.StatusBadGateway || !strings.HasPrefix(a.body, "token_refused: ") ||
			a.Header["Set-Cookie"] != nil {
			t.Errorf("status %d, %v, %s", a.StatusCode, a.Header, a.body)
		}
		if n := len(w.issuer.TokenRequests()) - before; n != 1 {
			t.Errorf("the token endpoint was asked %d times", n)
		}
		// The cookie that a state is bound to is not in the state's URL to be read.
		if binding := thiefs.headers[1][strings.Index(thiefs.headers[1], "=")+
			1:]; strings.Contains(thiefs.target, binding) {
			t.Errorf("%s holds the binding cookie", thiefs.target)
		}
	})
}

// TestMixUp: a code of another authorization server is not sent to this one, nor this
// one's code to another (RFC 9207, section 2.4; RFC 9700, section 4.4).
func TestMixUp(t *testing.T) {
	w := newWorld(t, setup{https: true, caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) { s.SendIss = true }})
	w.overEach(func(t *testing.T, send func(request) answer) {
		good := w.callback(send(request{}), "auth0|ada")
		issuer := strings.TrimSuffix(w.issuer.Issuer, "/")
		for _, iss := range []string{
			"https://evil.test/", "", "/", "null", issuer + "//", issuer + "/x", issuer + ".evil.test/",
			issuer + "@evil.test/",
			strings.ToUpper(issuer), strings.Replace(issuer, "http:", "https:", 1), issuer + "?", issuer + " ",
			issuer[:len(issuer)-1],
			issuer + "/#",
		} {
			for _, target := range []string{
				strings.ReplaceAll(with(good.target, "iss", "REPLACED"), "REPLACED", url.QueryEscape(iss)),
				good.target + "&iss=" + url.QueryEscape(iss),
			} {
				r := good
				r.target = target
				if a := send(r); a.StatusCode != http.StatusBadRequest ||
					!strings.HasPrefix(a.body, "invalid_callback: ") {
					t.Errorf("iss=%s: status %d, %s", iss, a.StatusCode, a.body)
				}
			}
		}
		before := len(w.issuer.TokenRequests())
		w.expect(send(good), http.StatusSeeOther)
		if n := len(w.issuer.TokenRequests()) - before; n != 1 {
			t.Errorf("the token endpoint was asked %d times", n)
		}
	})
	w.expectTokenRequests(2)
}
