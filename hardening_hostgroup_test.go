package aventusauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// TestRequestsAreMadeByUsAlone: what names a host for a ticket cannot be written, damaged, replayed in
// another place, or taken from another application: whoever could would have sessions sent to a host of
// theirs (open redirectors, RFC 9700, section 4.11).
func TestRequestsAreMadeByUsAlone(t *testing.T) {
	g := newGroup(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	asked := g.ask(b, g.app+"/page")
	sealed := query(asked, requestParam)
	state := query(g.browser().get(g.login+"/").location(), "state")
	ticket := query(g.ticket(b, g.app+"/page"), ticketParam)
	callback := g.login + "/oauth2/callback?"
	for _, q := range []string{
		requestParam + "=",
		requestParam + "=https://evil.test/",
		requestParam + "=" + url.QueryEscape(g.app+"/page"),
		requestParam + "=" + flip(sealed),
		requestParam + "=" + sealed[:len(sealed)-4],
		requestParam + "=" + sealed + "AAAA",
		requestParam + "=" + sealed + "=",
		requestParam + "=" + sealed + "%0A",
		requestParam + "=" + state, // each purpose has a key of its own
		requestParam + "=" + ticket,
		ticketParam + "=" + ticket, // the login host takes none
		ticketParam + "=" + sealed,
		"state=" + sealed + "&code=x",
		"state=" + ticket + "&code=x",
		requestParam + "=" + sealed + "&" + requestParam + "=" + sealed,
		requestParam + "=" + sealed + "&" + ticketParam + "=" + ticket,
		requestParam + "=" + sealed + "&code=x&state=" + state,
		requestParam + "=" + sealed + "&error=x&state=" + state,
		requestParam + "=%zz",
	} {
		if a := b.get(callback + q); a.StatusCode != http.StatusBadRequest || a.location() != "" ||
			a.Header["Set-Cookie"] != nil {
			t.Errorf("%.60s…: status %d, to %s", q, a.StatusCode, a.location())
		}
	}
	for _, q := range []string{
		requestParam + "=" + sealed, // none but the login host answers it
		ticketParam + "=" + sealed,
		ticketParam + "=" + state,
		ticketParam + "=" + flip(ticket),
		ticketParam + "=" + ticket + "&" + ticketParam + "=" + ticket,
		ticketParam + "=" + ticket + "&" + requestParam + "=" + sealed,
		ticketParam + "=" + ticket + "&code=x",
		"", "code=x", "code=x&state=" + state, "error=access_denied&state=" + state,
	} {
		if a := b.get(g.app + "/oauth2/callback?" + q); a.StatusCode != http.StatusBadRequest || a.location() != "" ||
			a.Header["Set-Cookie"] != nil {
			t.Errorf("at a host, %.60s…: status %d, to %s", q, a.StatusCode, a.location())
		}
	}
	for _, h := range handlers() { // a cookie is no ticket either; in a URL, Caddy would log it
		for _, host := range []string{"login.localhost", "app.localhost"} {
			at, err := h.house.gate.sites.member(host)
			if err != nil {
				t.Fatal(err)
			}
			for _, cookie := range b.cookiesAt(g.at(host)) {
				if _, err := h.house.handOvers.requests.open(t.Context(), at, cookie); !errors.Is(err,
					keyring.ErrInvalid) {
					t.Errorf("%s: a cookie as a request: %v", host, err)
				}
				if _, err := h.house.handOvers.tickets.open(t.Context(), at, cookie); !errors.Is(err,
					keyring.ErrInvalid) {
					t.Errorf("%s: a cookie as a ticket: %v", host, err)
				}
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "HEAD"} {
		if a := b.do(method, g.app+"/oauth2/callback?"+ticketParam+"="+ticket); a.StatusCode !=
			http.StatusMethodNotAllowed {
			t.Errorf("%s gets %d", method, a.StatusCode)
		}
		if a := b.do(method, asked); a.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s gets %d", method, a.StatusCode)
		}
	}
	g.expectTokenRequests(1)
	if a := b.get(g.app + "/oauth2/callback?" + ticketParam + "=" + ticket); a.cookie("aventus_session") == nil {
		t.Errorf("none of that spends the ticket, but it gets %d", a.StatusCode)
	}
}

// TestCodeAtAnotherHost: a code is taken where it is registered, and nowhere else (the mix-up of RFC
// 9700, section 4.4).
func TestCodeAtAnotherHost(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	a := b.get(b.get(g.app + "/page").location())
	u, _ := url.Parse(b.get(a.location()).location())
	for _, origin := range []string{g.app, g.wiki} {
		if a := b.get(origin + u.RequestURI()); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s answers %d, to %s", origin, a.StatusCode, a.location())
		}
		a := g.http1(request{host: strings.TrimPrefix(origin, "http://"),
			target: u.RequestURI()}.withCookie("aventus_login=" + b.cookiesAt(g.login)["aventus_login"]))
		if a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s answers %d, to %s", origin, a.StatusCode, a.location())
		}
	}
	g.expectTokenRequests(0)
	if a, _ := b.visit(u.String()); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" {
		t.Errorf("the login ends at %s with %d", a.Request.URL, a.StatusCode)
	}
}

// TestHostIsBent: what a request says of its host, in the header, in an absolute-form target or in what
// proxies add, makes no ticket for another host, and leads nowhere but to hosts of the group.
func TestHostIsBent(t *testing.T) {
	g := newGroup(t, setup{https: false}, false)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	cookies := "aventus_login=" + b.cookiesAt(g.login)["aventus_login"] + "; aventus_session=" +
		b.cookiesAt(g.login)["aventus_session"]
	asked, _ := url.Parse(g.ask(b, g.app+"/page"))
	for name, r := range map[string]request{
		"the host that asked":          {host: "app.localhost:" + g.port, target: asked.RequestURI()},
		"another host":                 {host: "wiki.localhost:" + g.port, target: asked.RequestURI()},
		"absolute form, the other way": {host: "login.localhost:" + g.port, target: g.app + asked.RequestURI()},
		"absolute form, another host":  {host: "login.localhost:" + g.port, target: g.wiki + asked.RequestURI()},
		"absolute form, an unknown host": {
			host: "login.localhost:" + g.port, target: "http://evil.test" + asked.RequestURI(),
		},
		"an unknown host": {host: "evil.test", target: asked.RequestURI()},
	} {
		a := g.http1(r.withCookie(cookies))
		if a.location() != "" || a.cookie("aventus_session") != nil {
			t.Errorf("%s: status %d, to %s", name, a.StatusCode, a.location())
		}
	}
	for name, r := range map[string]request{
		"as it is":      {host: "login.localhost:" + g.port, target: asked.RequestURI()},
		"absolute form": {host: "evil.test", target: asked.String()},
		"forwarded": {host: "login.localhost:" + g.port, target: asked.RequestURI(), headers: []string{
			"X-Forwarded-Host", "evil.test", "X-Forwarded-Proto", "https", "X-Forwarded-Port", "1", "Forwarded",
			"host=evil.test", "X-Original-URL", "http://evil.test/",
			"Accept", "text/html",
		}},
		"another port": {host: "login.localhost:1", target: asked.RequestURI()},
	} {
		a := g.http1(r.withCookie(cookies))
		if !strings.HasPrefix(a.location(), g.app+"/oauth2/callback?"+ticketParam+"=") {
			t.Errorf("%s: status %d, to %s", name, a.StatusCode, a.location())
		}
	}
	// A visit by whatever name begins at a host of the group, by the config's scheme and port.
	for _, host := range []string{"app.localhost:" + g.port, "app.localhost:1", "APP.localhost"} {
		a := g.http1(request{host: host, target: "/page"})
		if !strings.HasPrefix(a.location(), g.login+"/oauth2/callback?"+requestParam+"=") {
			t.Errorf("%s: status %d, to %s", host, a.StatusCode, a.location())
			continue
		}
		a = b.get(a.location())
		if !strings.HasPrefix(a.location(), g.app+"/oauth2/callback?") {
			t.Errorf("%s: status %d, to %s", host, a.StatusCode, a.location())
		}
	}
}

// TestUnlistedHost: a host that a site serves and the list does not have gets nothing at all: 421, for
// whatever needs to know whose host it is (RFC 9110, section 15.5.20).
func TestUnlistedHost(t *testing.T) {
	g := newGroup(t, setup{sites: func(w *world) string {
		return "http://:" + w.port + " {\n" +
			w.directive("", "hosts app.localhost *.team.localhost\nlogout /logout\nprofile /me") + "\nreverse_proxy " +
			w.app + errorsShown + "\n}\n"
	}}, false)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	session := b.cookiesAt(g.app)["aventus_session"]
	for _, host := range []string{
		"wiki.localhost", "evil.test", "localhost", "team.localhost", "b.a.team.localhost", ".team.localhost",
		"app.localhost.evil.test",
		"xapp.localhost", "127.0.0.1", "[::1]", "app_localhost", "app.localhost..evil",
	} {
		for _, target := range []string{"/", "/logout", "/me", "/oauth2/callback?code=x&state=y"} {
			a := g.http1(request{host: host, target: target}.withCookie("aventus_session=" + session))
			if a.StatusCode != http.StatusMisdirectedRequest || a.Header["Set-Cookie"] != nil || a.location() != "" ||
				strings.Contains(a.body, "the app") {
				t.Errorf("%s%s: status %d, header %v", host, target, a.StatusCode, a.Header)
			}
		}
	}
	// listed, spelt otherwise
	for _, host := range []string{"app.localhost.", "APP.localhost.:" + g.port, "a.team.localhost:1"} {
		a := g.http1(request{host: host, target: "/page"})
		if !strings.HasPrefix(a.location(), g.login+"/oauth2/callback?"+requestParam+"=") {
			t.Errorf("%s: status %d, to %s", host, a.StatusCode, a.location())
		}
	}
	if n := len(g.requests()); n != 1 {
		t.Errorf("the app was asked %d times", n)
	}
	g.expect(b.get(g.app+"/"), http.StatusOK)
}

// TestHostTakenOffTheList gets nothing from then on: no ticket for a request that it made, or that a
// login under way holds, no session for a ticket that it has, and nothing for its cookies.
func TestHostTakenOffTheList(t *testing.T) {
	g := newGroup(t, setup{block: "hosts app.localhost wiki.localhost *.team.localhost"}, false)
	b, late := g.browser(), g.browser()
	g.expectPage(b, g.wiki+"/", 1)
	asked := g.ask(b, g.app+"/page")
	begun := late.get(g.ask(late, g.app+"/page"))
	session := b.without(g, "", "")
	g.expectPage(session, g.app+"/", 0)
	ticket := g.ticket(b, g.app+"/page")
	byWildcard := g.ticket(b, g.team+"/page")

	g.run(strings.NewReplacer("hosts app.localhost wiki.localhost *.team.localhost",
		"hosts wiki.localhost").Replace(g.config))
	for what, a := range map[string]answer{
		"a request":            b.get(asked),
		"a login under way":    late.get(late.get(begun.location()).location()),
		"a ticket":             b.get(ticket),
		"a wildcard's ticket":  b.get(byWildcard),
		"a session":            session.get(g.app + "/"),
		"a session's profile":  session.get(g.app + "/me"),
		"a session by a fetch": session.do("GET", g.app+"/"),
	} {
		if a.StatusCode < 400 || a.location() != "" || a.cookie("aventus_session") != nil {
			t.Errorf("%s gets %d, to %s", what, a.StatusCode, a.location())
		}
	}
	g.expectPage(b, g.wiki+"/", 0) // which is listed still
}

// TestHostCookiesAreApart: a cookie of one host opens nothing at another, though the session is one. A
// sibling that steals or plants one has nothing by it (weak integrity, RFC 6265, section 8.6).
func TestHostCookiesAreApart(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout\nprofile /me"}, true)
	b := g.browser()
	origins := []string{g.login, g.app, g.wiki, g.team}
	for i, origin := range origins {
		g.expectPage(b, origin+"/", map[bool]int{true: 1}[i == 0])
	}
	for _, from := range origins {
		for _, to := range origins {
			want := http.StatusUnauthorized
			if from == to {
				want = http.StatusOK
			}
			for _, path := range []string{"/", "/me"} {
				a := g.browser().do("GET", to+path, "Cookie", "aventus_session="+b.cookiesAt(from)["aventus_session"])
				if a.StatusCode != want {
					t.Errorf("%s's cookie gets %d at %s", from, a.StatusCode, to)
				}
			}
			if from != to {
				g.browser().do("POST", to+"/logout", "Cookie", "aventus_session="+b.cookiesAt(from)["aventus_session"])
			}
		}
	}
	for _, origin := range origins {
		g.expectPage(b, origin+"/", 0) // nor did it sign anybody out
	}
}

// TestNoCookiesAtOneHost: a browser that keeps no cookies at one of the hosts is not sent round for
// ever. It is told at which.
func TestNoCookiesAtOneHost(t *testing.T) {
	for _, https := range []bool{false, true} {
		g := newGroup(t, setup{https: https}, true)
		for i, keepsNone := range []string{g.login, g.app} {
			b := g.browser()
			b.client.Jar = &forgetful{b.client.Jar, g.hosts[i]}
			a, trail := b.visit(g.app + "/page?x=1")
			if a.StatusCode != http.StatusBadRequest || len(trail) > 12 {
				t.Errorf("without cookies at %s, it ends with %d at %s after %d redirects", keepsNone, a.StatusCode,
					a.Request.URL, len(trail))
			}
			if !strings.HasPrefix(a.Request.URL.String(), keepsNone) || !strings.Contains(a.body, "login_lost") ||
				!strings.Contains(a.body, g.hosts[i]) {
				t.Errorf("without cookies at %s, %s says %s", keepsNone, a.Request.URL, a.body)
			}
		}
	}
}

// forgetful is a jar that keeps no cookies of one host.
type forgetful struct {
	http.CookieJar
	host string
}

func (f *forgetful) Cookies(u *url.URL) []*http.Cookie {
	if u.Hostname() == f.host {
		return nil
	}
	return f.CookieJar.Cookies(u)
}

// TestAnotherPersonSignsIn: the sessions of the one before end at all hosts.
func TestAnotherPersonSignsIn(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	tab := b.get(g.login + "/tab")
	g.expectPage(b, g.app+"/", 1)
	g.expectPage(b, g.wiki+"/", 0)
	g.expect(b.get(g.login+g.callback(tab, "auth0|grace").target), http.StatusSeeOther)
	for _, origin := range []string{g.app, g.wiki} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s lets the one before in: %d", origin, a.StatusCode)
		}
	}
	g.expectPage(b, g.app+"/", 0)
	for _, origin := range []string{g.app, g.login} {
		g.expect(b.do("GET", origin+"/data"), http.StatusOK)
	}
}

// TestReplacedAtAListedHost: a ticket's session ends the one that the browser has at that host, also where the login
// host does not know that it is the same browser.
func TestReplacedAtAListedHost(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	asked := g.ask(b, g.app+"/tab")
	g.expectPage(b, g.app+"/", 1)
	copied := "aventus_session=" + b.cookiesAt(g.app)["aventus_session"]
	login, _ := url.Parse(g.login)
	for name := range b.cookiesAt(g.login) {
		b.client.Jar.SetCookies(login, []*http.Cookie{{Name: name, Path: "/", MaxAge: -1}})
	}
	visit := func() answer { return g.browser().do("GET", g.app+"/data", "Cookie", copied) }
	g.expect(visit(), http.StatusOK)
	if a, trail := b.visit(asked); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/tab" {
		t.Errorf("the visit ends at %s with %d by %q", a.Request.URL, a.StatusCode, trail)
	}
	g.expect(visit(), http.StatusUnauthorized)
	g.expect(b.do("GET", g.app+"/data"), http.StatusOK)
}

// TestHostsRefused: what would share sessions with whoever registers a name, or has no meaning, does not
// load, and says where it stands.
func TestHostsRefused(t *testing.T) {
	for hosts, want := range map[string]string{
		"hosts *.com":                     "hosts \"*.com\" has names that anybody can register",
		"hosts app.example.com *.co.uk":   "\"*.co.uk\"",
		"hosts *.github.io":               "\"*.github.io\"",
		"hosts":                           "hosts takes one host or more",
		"hosts https://app.example.com":   "not the URL",
		"hosts app.example.com:8443":      "takes no port",
		"hosts {http.request.host}":       "hosts",
		"hosts app.example.com {\n a\n }": "hosts takes no block",
	} {
		caddyfile := "https://login.example.com {\naventus_auth {\nclient_id a\nclient_secret b\nredirect_uri " +
			"https://login.example.com/oauth2/callback\n" + hosts + "\n}\n}"
		_, err := adapt(caddyfile)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Caddyfile:6") &&
			!strings.Contains(hosts, "{\n") {
			t.Errorf("%s: error %v, want %q and the line", hosts, err, want)
		}
	}
	for _, tc := range []struct{ redirect, hosts, want string }{
		{"https://{http.request.host}/oauth2/callback", "hosts app.example.com",
			"hosts cannot stand beside {http.request.host}"},
		{"http://localhost:8080/oauth2/callback", "hosts app.example.com", "must be below localhost"},
	} {
		for _, lines := range []string{
			"redirect_uri " + tc.redirect + "\n" + tc.hosts, tc.hosts + "\nredirect_uri " + tc.redirect,
		} {
			_, err := adapt("https://login.example.com {\naventus_auth {\nclient_id a\nclient_secret b\n" +
				lines + "\n}\n}")
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("%s: error %v, want %q and the line", lines, err, tc.want)
			}
		}
		err := validate(t, fmt.Sprintf(`{"client_id": "a", "client_secret": "b", "redirect_uri": %q, "hosts": [%q]}`,
			tc.redirect, strings.TrimPrefix(tc.hosts, "hosts ")))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.hosts, err, tc.want)
		}
	}
}
