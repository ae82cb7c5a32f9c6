package aventusauth

import (
	"bytes"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
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

// TestCookieNameBinds: one block's session is not another's under that one's name.
func TestCookieNameBinds(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/a", "session {\nname a\n}") + "\n" + w.directive("/b", "session {\nname b\n}") +
			"\nreverse_proxy " + w.app + "\n}"
	}})
	value := w.browser().login("/a").cookie("a").Value
	w.expect(w.browser().do("GET", "/a", "Cookie", "a="+value), http.StatusOK)
	w.expect(w.browser().do("GET", "/b", "Cookie", "b="+value), http.StatusFound)
}

// TestCopyOfTheStorage: with all that is in the storage, and without a cookie, no
// session can be opened; nor can one record stand in for another.
func TestCopyOfTheStorage(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\n}", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	ada, other := w.browser(), w.browser()
	ada.login("/")
	w.expect(ada.get("/"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	files := w.sessionFiles()
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte(token)) || bytes.Contains(content, []byte("auth0|ada")) {
		t.Error("the record can be read")
	}

	// One record in another's place, one that is cut off, and one of zeros are
	// nobody's session; when they are mended, nothing is lost.
	other.login("/")
	victim := w.sessionFiles()[0]
	if victim == files[0] {
		victim = w.sessionFiles()[1]
	}
	good, err := os.ReadFile(victim)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{"another's": content, "cut off": good[:20], "zeros": make([]byte, len(good)), "empty": {}} {
		if err := os.WriteFile(victim, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		w.restart()
		a := other.get("/")
		if a.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(a.body, "storage_unavailable: ") {
			t.Errorf("%s: status %d, %s", what, a.StatusCode, a.body)
		}
		w.expect(ada.get("/"), http.StatusOK)
	}
	if err := os.WriteFile(victim, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.expect(other.get("/"), http.StatusOK)
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
