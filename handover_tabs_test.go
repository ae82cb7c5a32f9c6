package aventusauth

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestManyTabsAtManyHosts: ten tabs at three hosts begin before any of them is signed in, and finish in
// another order. Each gets to its very page, and one logout ends it all.
func TestManyTabsAtManyHosts(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	var pages, callbacks []string
	for i := range 10 {
		page := fmt.Sprintf("%s/tab/%d?n=%d", []string{g.app, g.wiki, g.login}[i%3], i, i)
		a := b.get(page)
		for strings.HasPrefix(a.location(), g.login) {
			a = b.get(a.location())
		}
		a = b.get(a.location())
		pages, callbacks = append(pages, page), append(callbacks, a.location())
	}
	for _, i := range []int{7, 2, 9, 0, 4, 1, 8, 3, 6, 5} {
		a, _ := b.visit(callbacks[i])
		if a.StatusCode != http.StatusOK || a.Request.URL.String() != pages[i] {
			t.Errorf("tab %d ends at %s with %d", i, a.Request.URL, a.StatusCode)
		}
	}
	for _, origin := range []string{g.app, g.wiki, g.login} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != http.StatusOK {
			t.Errorf("a script at %s gets %d", origin, a.StatusCode)
		}
	}
	g.expect(b.get(g.wiki+"/logout"), http.StatusOK)
	for _, origin := range []string{g.app, g.wiki, g.login} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("after the logout, a script at %s gets %d", origin, a.StatusCode)
		}
	}
	g.expectPage(b, g.app+"/", 1) // and not by a session that some tab has left
}

// TestTabsAtManyHostsAtOnce: what tabs at several hosts log in with at the same moment are sessions of one
// browser, of which none outlives its logout, also where another instance made it.
func TestTabsAtManyHostsAtOnce(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	var callbacks []string
	for _, origin := range []string{g.app, g.wiki} {
		a := b.get(origin + "/")
		a = b.get(a.location())
		a = b.get(a.location())
		callbacks = append(callbacks, a.location())
	}
	// Neither request brings the session that the other one makes.
	jar := b.client.Jar
	binding, _ := cookiejar.New(nil)
	u, _ := url.Parse(g.login)
	binding.SetCookies(u, []*http.Cookie{
		{Name: "aventus_login", Value: b.cookiesAt(g.login)["aventus_login"], Path: "/"},
	})
	for i, origin := range []string{g.app, g.wiki} {
		b.client.Jar = binding
		a := b.do("GET", callbacks[i])
		g.expect(a, http.StatusSeeOther)
		binding.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
		b.client.Jar = jar
		g.expect(b.get(a.location()), http.StatusSeeOther)
		g.expect(b.do("GET", origin+"/data"), http.StatusOK)
	}
	g.restart() // so that nothing is known but by the storage
	g.expect(b.get(g.app+"/logout"), http.StatusOK)
	if a := b.do("GET", g.wiki+"/data"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the session of the other tab gets %d", a.StatusCode)
	}
	g.expectPage(b, g.wiki+"/", 1)
}

// TestLogoutAtAnyHost ends the session at all of them, and returns at the host where it was asked for.
func TestLogoutAtAnyHost(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout /bye?x=1"}, true)
	origins := []string{g.login, g.app, g.wiki, g.team}
	for _, at := range origins {
		b := g.browser()
		for i, origin := range origins {
			g.expectPage(b, origin+"/", map[bool]int{true: 1}[i == 0])
		}
		a := b.get(at + "/logout")
		g.expect(a, http.StatusSeeOther)
		if got, _ := a.Request.URL.Parse(a.location()); got.String() != at+"/bye?x=1" {
			t.Errorf("the logout at %s leads to %s", at, got)
		}
		for _, origin := range origins {
			if a := b.do("GET", origin+"/"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("after the logout at %s, %s answers %d", at, origin, a.StatusCode)
			}
		}
		if n := len(g.sessionFiles()); n != 0 {
			t.Errorf("after the logout at %s, there are %d records", at, n)
		}
		g.expectPage(b, g.wiki+"/", 1) // at once, with the same binding cookies
		g.expect(b.get(g.wiki+"/logout"), http.StatusSeeOther)
	}
}

// TestSignInAfterLogouts: who signs out several times within a second, or at an instance whose clock is ahead, can
// sign in again at once. The login starts over once at most.
func TestSignInAfterLogouts(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	for i, ahead := range []time.Duration{0, 0, 0, 4 * time.Minute, 4 * time.Minute} {
		page := fmt.Sprintf("%s/%d", g.wiki, i)
		a, _ := b.visit(page)
		if a.StatusCode != http.StatusOK || a.Request.URL.String() != page {
			t.Fatalf("sign-in %d: status %d at %s", i, a.StatusCode, a.Request.URL)
		}
		g.expectPage(b, fmt.Sprintf("%s/%d", g.app, i), 0)
		g.clock.Add(ahead)
		g.expect(b.get(g.app+"/logout"), http.StatusOK)
		g.clock.Add(-ahead)
		g.expect(b.do("GET", g.wiki+"/"), http.StatusUnauthorized)
	}
	before := len(g.issuer.AuthorizeRequests())
	if a, _ := b.visit(g.wiki + "/"); a.StatusCode != http.StatusOK {
		t.Errorf("status %d at %s", a.StatusCode, a.Request.URL)
	}
	if n := len(g.issuer.AuthorizeRequests()) - before; n != 2 {
		t.Errorf("the last sign-in begins %d logins, want 2", n)
	}
}

// TestSecondHostWithoutTheServer: who is signed in reaches another host while the authorization server
// is down, in a frame too, and when the token is near its end.
func TestSecondHostWithoutTheServer(t *testing.T) {
	g := newGroup(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }}, false)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	g.expectPage(b, g.wiki+"/", 0)
	g.clock.Add(57 * time.Minute)
	a := b.do("GET", g.team+"/frame", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site",
		"same-site", "Accept", "text/html")
	g.expect(a, http.StatusFound)
	for a.location() != "" {
		if strings.HasPrefix(a.location(), g.issuer.Issuer) {
			t.Fatalf("the frame is sent to %s", a.location())
		}
		a = b.do("GET", a.location(), "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site",
			"same-site", "Accept", "text/html")
	}
	g.expect(a, http.StatusOK)
}

// TestRenewalAtManyHosts: one refresh serves all hosts, and a renewal by visit at one leaves the others
// signed in.
func TestRenewalAtManyHosts(t *testing.T) {
	t.Run("refresh", func(t *testing.T) {
		g := newGroup(t, setup{
			block: "scope offline_access", issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		}, true)
		b := g.browser()
		origins := []string{g.app, g.wiki, g.team, g.login}
		for i, origin := range origins {
			g.expectPage(b, origin+"/", map[bool]int{true: 1}[i == 0])
		}
		for range 2 {
			g.clock.Add(61 * time.Minute) // no request can do without a new token
			var all sync.WaitGroup
			for i := range 40 {
				all.Go(func() {
					if a := b.do("GET", origins[i%4]+"/data"); a.StatusCode != http.StatusOK {
						t.Errorf("status %d %s", a.StatusCode, a.body)
					}
				})
			}
			all.Wait()
		}
		g.expectTokenRequests(3)
		if n := len(g.sessionFiles()); n != 1 {
			t.Errorf("there are %d records", n)
		}
	})
	t.Run("visit", func(t *testing.T) {
		g := newGroup(t, setup{
			block: "logout /logout", issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		}, true)
		b := g.browser()
		g.expectPage(b, g.app+"/", 1)
		g.expectPage(b, g.wiki+"/", 0)
		g.clock.Add(57 * time.Minute)
		g.expectPage(b, g.app+"/page?x=1", 1)
		g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK) // a page that stands there goes on
		g.expectPage(b, g.wiki+"/", 0)                       // and gets the new session from the login host
		g.clock.Add(4 * time.Minute)                         // the first token has died
		g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK)
		g.expect(b.do("GET", g.app+"/data"), http.StatusOK)
		g.expect(b.get(g.wiki+"/logout"), http.StatusOK)
		g.expect(b.do("GET", g.app+"/data"), http.StatusUnauthorized)
	})
}

// TestIdleAtManyHosts: a session that is used at one host is not idle at another.
func TestIdleAtManyHosts(t *testing.T) {
	g := newGroup(t, setup{block: "session {\nidle 1h\n}"}, true)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	g.expectPage(b, g.wiki+"/", 0)
	for range 8 {
		g.clock.Add(20 * time.Minute)
		g.expect(b.get(g.app+"/"), http.StatusOK)
	}
	g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK)
	g.expectPage(b, g.team+"/", 0)
	g.restart()
	g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK)
	g.clock.Add(61 * time.Minute)
	for _, origin := range []string{g.app, g.wiki, g.login} {
		g.expect(b.do("GET", origin+"/data"), http.StatusUnauthorized)
	}
	g.expectPage(b, g.wiki+"/", 1)
}

// TestHandOverIsAUse: a first visit at another host counts as a use of the session.
func TestHandOverIsAUse(t *testing.T) {
	g := newGroup(t, setup{block: "session {\nidle 1h\n}"}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	g.clock.Add(50 * time.Minute)
	g.expectPage(b, g.app+"/", 0)
	g.clock.Add(12 * time.Minute)
	g.expectPage(b, g.wiki+"/", 0)
}

// TestRenewedWhileIdleAtTheLoginHost: a renewal by visit from a host in use, by way of the login host, where nobody
// was for longer than the idle time, signs no other host out.
func TestRenewedWhileIdleAtTheLoginHost(t *testing.T) {
	g := newGroup(t, setup{
		block:  "session {\nidle 1h\n}",
		issuer: func(s *aventustest.Server) { s.TokenLifetime = 4 * time.Hour },
	}, true)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	g.expectPage(b, g.wiki+"/", 0)
	for range 14 { // until five minutes before the token's end
		g.clock.Add(17 * time.Minute)
		g.expect(b.do("GET", g.app+"/data"), http.StatusOK)
		g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK)
	}
	login, _ := url.Parse(g.login) // the binding cookie of the first login is gone after an hour
	b.client.Jar.SetCookies(login, []*http.Cookie{{Name: "aventus_login", Path: "/", MaxAge: -1}})
	g.expectPage(b, g.app+"/", 1)
	g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK)
	g.expect(b.do("GET", g.app+"/data"), http.StatusOK)
}

// TestLongReturnURL: what fits is kept to the letter, what does not falls back, and no answer is too
// long for a proxy in front.
func TestLongReturnURL(t *testing.T) {
	g := newGroup(t, setup{https: true}, false)
	for _, n := range []int{500, 900, 1000, 1200, 3000} {
		b := g.browser()
		page := g.app + "/path/" + strings.Repeat("p", n/2) + "?" + strings.Repeat("q", n/2)
		a := b.get(page)
		for a.location() != "" {
			size := len("HTTP/1.1 302 Found\r\n")
			for name, values := range a.Header {
				for _, value := range values {
					size += len(name) + len(value) + 4
				}
			}
			if size > 4096 {
				t.Errorf("%d: the header of %s is %d bytes long", n, a.Request.URL, size)
			}
			for _, name := range []string{"state", requestParam, ticketParam} {
				if got := len(query(a.location(), name)); got > 1536 {
					t.Errorf("%d: %s has %d characters", n, name, got)
				}
			}
			if a = b.get(a.location()); a.StatusCode == http.StatusOK {
				break
			}
		}
		want := page
		if n > 900 {
			want, _, _ = strings.Cut(page, "?")
		}
		if n > 2000 {
			want = g.app + "/"
		}
		if got := a.Request.URL.String(); got != want && (n < 1000 || n > 1200) {
			t.Errorf("%d: it ends at %.60s… with %d characters, want %d", n, got, len(got), len(want))
		}
		g.expect(a, http.StatusOK)
	}
}

// TestHandOverFitsAProxy: a site's own header takes its part of what a proxy in front takes, at any of the hosts, and
// a long page URL still gets the visitor there: to the letter where the host that asks has room, and the login host
// has a session.
func TestHandOverFitsAProxy(t *testing.T) {
	for where, isKept := range map[string]bool{"host login.example.com": true, "path *": false} {
		policy := "@there " + where + "\nheader @there Content-Security-Policy \"" + strings.Repeat("x", 2400) + "\"\n"
		g := newGroup(t, setup{https: true, caddyfile: policy + "%s\nreverse_proxy %app"}, true)
		b := g.browser()
		page := g.app + "/page?q=" + strings.Repeat("x", 950)
		for _, isSignedIn := range []bool{false, true} {
			a := b.get(page)
			for range 8 {
				size := len("HTTP/1.1 ") + len(a.Status) + len("\r\n\r\n")
				for name, values := range a.Header {
					for _, value := range values {
						size += len(name) + len(": ") + len(value) + len("\r\n")
					}
				}
				if size >= 4096 && !strings.HasPrefix(a.Request.URL.String(), g.issuer.Issuer) {
					t.Errorf("%s: the header of %.60s is %d bytes long", where, a.Request.URL, size)
				}
				to := a.location()
				if to == "" && strings.Contains(a.body, "One moment") {
					to = refreshesTo(t, a)
				}
				if to == "" {
					break
				}
				a = b.get(to)
			}
			want := g.app + "/page"
			if isSignedIn && isKept {
				want = page
			}
			if got := a.Request.URL.String(); got != want || a.body != "the app" {
				t.Errorf("%s, signed in %t: it ends at %.60s… with %d characters, want %d", where, isSignedIn, got,
					len(got), len(want))
			}
			b.forgetAt(g.app, "__Host-aventus_session")
		}
	}
}

// TestHandOversLeaveNothing: what many hand-overs leave in the storage is what used codes leave.
func TestHandOversLeaveNothing(t *testing.T) {
	g := newGroup(t, setup{}, false)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	count := func() (n int) {
		for _, file := range filesBelow(t, filepath.Join(g.dir, "storage")) {
			if !strings.Contains(file, "aventus_auth/spent/") {
				n++
			}
		}
		return n
	}
	before := count()
	for i := range 100 {
		jar, _ := cookiejar.New(nil)
		u, _ := url.Parse(g.login)
		jar.SetCookies(u, b.client.Jar.Cookies(u))
		next := g.browser()
		next.client.Jar = jar
		g.expectPage(next, fmt.Sprintf("%s/%d", g.app, i), 0)
	}
	if after := count(); after != before {
		t.Errorf("there were %d files, and are %d", before, after)
	}
}

// TestRecordGoneAtManyHosts: where a session's record is gone, and the login host remembers the session, a second
// request for a ticket finds that out, and leads to the login.
func TestRecordGoneAtManyHosts(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	for _, file := range g.sessionFiles() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	a, trail := b.visit(g.app + "/page")
	came := 0 // two requests, and the authorization server's answer
	for _, to := range trail {
		if to == g.login+"/oauth2/callback" {
			came++
		}
	}
	if a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" || came != 3 {
		t.Errorf("the visit ends at %s with %d by\n%s", a.Request.URL, a.StatusCode, strings.Join(trail, "\n"))
	}
}
