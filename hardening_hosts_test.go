package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// twoHosts is one site with two host names, and a block for each, kept apart by their matchers.
func twoHosts(further string, callbacks ...string) setup {
	return setup{sites: func(w *world) string {
		other := "http://other.localhost:" + w.port
		w.issuer.Clients[0].RedirectURIs = append(w.issuer.Clients[0].RedirectURIs, w.site+callbacks[0],
			other+callbacks[1])
		one := strings.Replace(w.directive("@one", further), "/oauth2/callback", callbacks[0], 1)
		two := strings.Replace(strings.Replace(w.directive("@two", further), "/oauth2/callback", callbacks[1], 1),
			w.site, other, 1)
		return fmt.Sprintf("%s, %s {\n@one host localhost\n@two host other.localhost\n%s\n%s\nreverse_proxy %s\n}",
			w.site, other, one, two, w.app)
	}}
}

func (w *world) anyHost() *browser {
	b := w.browser()
	b.client.Transport.(*http.Transport).DialContext = dialLocalhost(w.port)
	return b
}

// loginAt logs in at a page, wherever it is, and returns the answer of the callback.
func (b *browser) loginAt(page string) answer {
	b.w.t.Helper()
	a := b.get(page)
	b.w.expect(a, http.StatusFound)
	return b.get(b.get(a.location()).location())
}

// TestCallbackOfAnotherHost: two blocks of one site, for a host each, may have one callback path.
func TestCallbackOfAnotherHost(t *testing.T) {
	w := newWorld(t, twoHosts("", "/oauth2/callback", "/oauth2/callback"))
	b := w.anyHost()
	w.expect(b.loginAt(w.site+"/"), http.StatusSeeOther)
	other := "http://other.localhost:" + w.port
	w.expect(b.loginAt(other+"/"), http.StatusSeeOther)
	w.expect(b.get(other+"/"), http.StatusOK)
}

// TestLogoutAtAnotherHost: of two blocks of one site, for a host each, each serves the logout and the profile of its
// own host, however that is spelt.
func TestLogoutAtAnotherHost(t *testing.T) {
	w := newWorld(t, twoHosts("logout /logout\nprofile /me", "/oauth2/one", "/oauth2/two"))
	b := w.anyHost()
	other := "http://other.localhost:" + w.port
	copied := b.loginAt(other + "/").cookie("aventus_session")
	w.expect(b.get(other+"/"), http.StatusOK)
	if a := b.get(other + "/me"); a.StatusCode != http.StatusOK {
		t.Errorf("the profile of who is signed in: status %d", a.StatusCode)
	}
	a := b.get(other + "/logout")
	if a.StatusCode != http.StatusOK || a.cookie("aventus_session") == nil {
		t.Errorf("the logout: status %d, %v", a.StatusCode, a.Header)
	}
	again := w.anyHost().do("GET", other+"/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate")
	if again.StatusCode != http.StatusFound {
		t.Errorf("a copy of the cookie is good after the logout: status %d", again.StatusCode)
	}
}

// TestCallbackWrittenOtherwise: one block has its host written out, and the other has {host}, or the same
// host in upper case. At that host, the callback is the same URL.
func TestCallbackWrittenOtherwise(t *testing.T) {
	for name, host := range map[string]string{"placeholder": "{host}", "upper case": "LOCALHOST"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{https: true, sites: func(w *world) string {
				w.issuer.Clients[0].RedirectURIs = append(w.issuer.Clients[0].RedirectURIs, "https://LOCALHOST:"+
					w.port+"/oauth2/callback")
				second := strings.Replace(w.directive("/b/*", "session {\nname two\n}"), w.site, "https://"+host+
					":"+w.port, 1)
				return w.site + " {\ntls internal\n" + w.directive("/a/*", "scope one") + "\n" + second +
					"\nreverse_proxy " + w.app + "\n}"
			}})
			b := w.browser()
			w.expect(b.loginAt(w.site+"/a/"), http.StatusSeeOther)
			w.expect(b.loginAt(w.site+"/b/"), http.StatusSeeOther)
			w.expect(b.get("/b/"), http.StatusOK)
		})
	}
}

// TestOwnPathsBehindAProxy: a block's own paths are served under any host that is no other block's, such as the one
// that a proxy in front sets, or another name of the site.
func TestOwnPathsBehindAProxy(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		other := strings.Replace(w.directive("@other", "logout /logout"), w.site, "http://other.localhost:"+w.port, 1)
		return "http://:" + w.port + " {\n@other host other.localhost\n" +
			w.directive("", "logout /logout\nprofile /me") + "\n" +
			other + "\nreverse_proxy " + w.app + "\n}"
	}})
	for _, host := range []string{"localhost", "LOCALHOST.", "upstream.test", "127.0.0.1:8080"} {
		b := w.browser()
		callback := strings.TrimPrefix(b.begin("/"), w.site)
		a := w.http1(request{host: host, target: callback}.withCookie(b.cookieHeader()))
		w.expect(a, http.StatusSeeOther)
		cookie := "aventus_session=" + a.cookie("aventus_session").Value
		w.expect(w.http1(request{host: host, target: "/me"}.withCookie(cookie)), http.StatusOK)
		w.expect(w.http1(request{host: host, target: "/logout"}.withCookie(cookie)), http.StatusOK)
		w.expect(w.http1(request{host: host, headers: []string{"Sec-Fetch-Mode", "navigate"}}.withCookie(cookie)),
			http.StatusFound)
	}
}
