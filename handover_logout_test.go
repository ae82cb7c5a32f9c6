package aventusauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// forgetAt deletes a cookie of a browser at an origin, as it does itself when the cookie's time is over.
func (b *browser) forgetAt(origin, cookie string) {
	u, _ := url.Parse(origin)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: cookie, Path: "/", MaxAge: -1}})
}

// TestLogoutWhereNoSessionIsLeft: a logout at a host that has no session, or one that is over, is one at all hosts
// all the same, and ends at the host where it was asked for.
func TestLogoutWhereNoSessionIsLeft(t *testing.T) {
	for name, before := range map[string]func(*group, *browser){
		"never been there": func(g *group, b *browser) { g.expectPage(b, g.app+"/", 1) },
		"the cookie's time is over": func(g *group, b *browser) {
			g.signInEverywhere(b)
			b.forgetAt(g.wiki, "aventus_session")
			g.clock.Add(2 * time.Hour) // the token's end
			g.expectPage(b, g.app+"/", 1)
		},
		"the session there is over": func(g *group, b *browser) {
			g.signInEverywhere(b)
			g.clock.Add(57 * time.Minute)
			g.expectPage(b, g.app+"/", 1) // renewed by the visit
			g.clock.Add(10 * time.Minute)
		},
		"ended by another logout": func(g *group, b *browser) {
			g.signInEverywhere(b)
			g.expect(b.get(g.app+"/logout"), http.StatusSeeOther)
			g.expectPage(b, g.team+"/", 1)
		},
		"after an hour, too": func(g *group, b *browser) {
			g.signInEverywhere(b)
			g.clock.Add(2 * time.Hour)
			b.forgetAt(g.login, "aventus_login")
			g.expectPage(b, g.app+"/", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, setup{
				block:  "logout /logout /bye?x=1",
				issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
			}, true)
			b := g.browser()
			before(g, b)
			g.expect(b.do("GET", g.login+"/data"), http.StatusOK)
			a := b.get(g.wiki + "/logout")
			for i := 0; i < 5 && strings.Contains(a.location(), "/oauth2/") ||
				strings.Contains(a.location(), "?ended="); i++ {
				a = b.get(a.location())
			}
			g.expect(a, http.StatusSeeOther)
			if to, _ := a.Request.URL.Parse(a.location()); to.String() != g.wiki+"/bye?x=1" {
				t.Errorf("it leads to %s", to)
			}
			g.expectOut(b, "the logout")
			g.restart()
			g.expectOut(b, "a restart")
			g.clock.Add(time.Minute)
			g.expectPage(b, g.wiki+"/", 1)
		})
	}
}

// TestLogoutOfTwoLogins: where the login host's cookies were lost, and the person has signed in there anew, a host
// that still has a session of the earlier login ends that one, and the later one by another logout.
func TestLogoutOfTwoLogins(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	g.signInEverywhere(b)
	b.forgetAt(g.login, "aventus_session")
	b.forgetAt(g.login, "aventus_login")
	b.forgetAt(g.wiki, "aventus_session")
	g.expectPage(b, g.login+"/", 1)
	g.expectPage(b, g.wiki+"/", 0)
	g.expect(b.get(g.app+"/logout"), http.StatusOK)
	for origin, want := range map[string]int{
		g.app: http.StatusUnauthorized, g.team: http.StatusUnauthorized,
		g.login: http.StatusOK, g.wiki: http.StatusOK,
	} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != want {
			t.Errorf("after the first logout, %s answers %d, want %d", origin, a.StatusCode, want)
		}
	}
	a, _ := b.visit(g.app + "/logout")
	g.expect(a, http.StatusOK)
	g.expectOut(b, "the second logout")
}

// TestLogoutOfNobody: where nobody is signed in, the logout is answered as ever.
func TestLogoutOfNobody(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	for range 2 {
		b := g.browser()
		a, trail := b.visit(g.wiki + "/logout")
		if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") || len(trail) > 3 ||
			len(g.issuer.AuthorizeRequests()) > 0 {
			t.Errorf("it ends with %d %s\n%s", a.StatusCode, a.body, strings.Join(trail, "\n"))
		}
		// A form, by GET too, is led there by a page.
		a = b.do("GET", g.wiki+"/logout?", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "same-origin",
			"Sec-Fetch-Dest", "document")
		g.expect(a, http.StatusOK)
		if to := `content="0; url=` + g.login + "/oauth2/callback?" + requestParam; !strings.Contains(a.body, to) {
			t.Errorf("a form is answered %s", a.body)
		}
		// A script cannot be led to another host.
		g.expect(b.do("POST", g.wiki+"/logout", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin",
			"Sec-Fetch-Dest", "empty"), http.StatusOK)
	}
	// By way of the authorization server's logout, if that is wanted.
	g.run(strings.ReplaceAll(g.config, "logout /logout", "logout /logout\nlogout_provider"))
	b := g.browser()
	a := b.get(g.wiki + "/logout")
	for i := 0; i < 2 && strings.Contains(a.location(), "localhost"); i++ {
		a = b.get(a.location())
	}
	if back := query(a.location(), "returnTo"); !strings.HasPrefix(a.location(), g.issuer.Issuer) ||
		back != g.wiki+"/logout?signed_out" {
		t.Errorf("it leads to %s", a.location())
	}
}

// TestLogoutFormWhereNoSessionIsLeft: a form's page may let it go to its own origin alone, as TestLogoutForm has
// it.
func TestLogoutFormWhereNoSessionIsLeft(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	a := b.do("POST", g.wiki+"/logout", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
		"Sec-Fetch-Site", "same-origin", "Accept", "text/html")
	g.expect(a, http.StatusOK)
	if a, _ = b.visit(refreshesTo(t, a)); a.StatusCode != http.StatusOK ||
		!strings.Contains(a.body, "You are signed out") {
		t.Errorf("it ends with %d %s", a.StatusCode, a.body)
	}
	g.expectOut(b, "the form")
}

// TestLogoutByAScriptWhereTheSessionIsOver: a script's request cannot go by way of the login host, but the cookie
// that is left there tells what it was of.
func TestLogoutByAScriptWhereTheSessionIsOver(t *testing.T) {
	g := newGroup(t, setup{
		block: "logout /logout", issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
	}, true)
	b := g.browser()
	g.signInEverywhere(b)
	g.clock.Add(57 * time.Minute)
	g.expectPage(b, g.app+"/", 1)
	g.clock.Add(10 * time.Minute)
	g.expect(b.do("GET", g.wiki+"/data"), http.StatusUnauthorized)
	old := b.cookiesAt(g.wiki)["aventus_session"]
	script := []string{
		"Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "empty",
	}
	g.expect(b.do("POST", g.wiki+"/logout", script...), http.StatusOK)
	g.expectOut(b, "the logout")
	// Played back, it writes nothing each time.
	count := func() int { return len(filesBelow(t, g.dir+"/storage/aventus_auth/ended")) }
	before := count()
	for range 5 {
		g.expect(g.browser().do("POST", g.wiki+"/logout", append(script, "Cookie", "aventus_session="+old)...),
			http.StatusOK)
	}
	if after := count(); after != before {
		t.Errorf("there were %d notes of ends, and are %d", before, after)
	}
}

// TestLogoutWhereTheLifetimeIsShorter: the session of a ticket that a logout asked for ends, though by the limits of
// the block that asked it is over.
func TestLogoutWhereTheLifetimeIsShorter(t *testing.T) {
	g := newGroup(t, setup{sites: func(w *world) string {
		site := func(host, more string) string {
			return "http://" + host + ":" + w.port + " {\n" + w.directive("", "hosts app.localhost wiki.localhost\n"+
				"logout /logout\n"+more) + "\nreverse_proxy " + w.app + errorsShown + "\n}\n"
		}
		return site("login.localhost", "") + site("app.localhost", "session {\nlifetime 1h\n}") +
			site("wiki.localhost", "")
	}}, false)
	b := g.browser()
	for i, origin := range []string{g.app, g.wiki, g.login} {
		g.expectPage(b, origin+"/", map[bool]int{true: 1}[i == 0])
	}
	g.clock.Add(2 * time.Hour)
	b.forgetAt(g.app, "aventus_session")
	a, _ := b.visit(g.app + "/logout")
	if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
		t.Errorf("the logout ends with %d %s", a.StatusCode, a.body)
	}
	for _, origin := range []string{g.app, g.wiki, g.login} {
		g.expect(b.do("GET", origin+"/data"), http.StatusUnauthorized)
	}
}

// TestLogoutWhereTheLoginHostIsIdle: a logout at a host that has no session ends what another host has, though the
// login host's own is idle, which a host need not notice.
func TestLogoutWhereTheLoginHostIsIdle(t *testing.T) {
	leave := func(g *group, b *browser) {
		t.Helper()
		a, trail := b.visit(g.wiki + "/logout")
		if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
			t.Errorf("the logout ends with %d %s by %q", a.StatusCode, a.body, trail)
		}
		g.expect(b.do("GET", g.app+"/data"), http.StatusUnauthorized)
	}
	t.Run("by its block alone", func(t *testing.T) {
		g := newGroup(t, setup{sites: func(w *world) string {
			site := func(host, more string) string {
				const lines = "hosts app.localhost wiki.localhost\nlogout /logout\n"
				return "http://" + host + ":" + w.port + " {\n" + w.directive("", lines+more) + "\nreverse_proxy " +
					w.app + errorsShown + "\n}\n"
			}
			return site("login.localhost", "session {\nidle 30m\n}") + site("app.localhost", "") +
				site("wiki.localhost", "")
		}}, false)
		b := g.browser()
		g.expectPage(b, g.app+"/", 1)
		g.clock.Add(time.Hour)
		g.expectPage(b, g.app+"/", 0)
		leave(g, b)
	})
	t.Run("since it has a later session than the app", func(t *testing.T) {
		g := newGroup(t, setup{
			block:  "logout /logout\nsession {\nidle 20m\nrenew_before 30m\n}",
			issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		}, false)
		b := g.browser()
		g.expectPage(b, g.app+"/", 1)
		g.expectPage(b, g.team+"/", 0)
		work := func(minutes int) {
			for range minutes / 4 {
				g.clock.Add(4 * time.Minute)
				g.expect(b.do("GET", g.app+"/data"), http.StatusOK)
			}
		}
		work(32)
		g.expectPage(b, g.team+"/", 1) // renews
		work(24)
		leave(g, b)
	})
}

// TestSignedInAtAnotherHost: a host that was not visited for the idle time tells nobody that they are signed out,
// while the session is used at another host; nor has it the browser forget its pages.
func TestSignedInAtAnotherHost(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout\nlogout_provider\nsession {\nidle 20m\n}"}, false)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	g.expectPage(b, g.app+"/", 0)
	g.expectPage(b, g.wiki+"/", 0)
	for range 7 {
		g.clock.Add(4 * time.Minute)
		g.expect(b.get(g.app+"/"), http.StatusOK)
	}
	if a := b.get(g.wiki + "/logout?signed_out"); strings.Contains(a.body, "has ended") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	g.expect(b.do("GET", g.wiki+"/logout?forget", "Sec-Fetch-Dest", "image"), http.StatusForbidden)
	g.expect(b.do("GET", g.wiki+"/data", "Sec-Fetch-Mode", "cors"), http.StatusOK)
}

// TestLogoutSoonAfterAnother: the person signs out at one host and signs in again. A logout at another host, which
// still has the cookie of the session before, or none, ends the new session, however soon it comes.
func TestLogoutSoonAfterAnother(t *testing.T) {
	leave := map[string]func(*group, *browser){
		"a script": func(g *group, b *browser) {
			g.expect(b.do("POST", g.wiki+"/logout", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin",
				"Sec-Fetch-Dest", "empty"), http.StatusOK)
		},
		"a page, where the login host's session is idle": func(g *group, b *browser) {
			b.forgetAt(g.wiki, "aventus_session")
			g.clock.Add(4 * time.Minute)
			g.expect(b.do("GET", g.login+"/data"), http.StatusUnauthorized)
			a, _ := b.visit(g.wiki + "/logout")
			if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
				t.Errorf("the logout ends with %d %s", a.StatusCode, a.body)
			}
		},
	}
	for how, again := range leave {
		for _, later := range []time.Duration{time.Second, 10 * time.Second, 2 * time.Minute, 6 * time.Minute} {
			g := newGroup(t, setup{sites: func(w *world) string {
				site := func(host, more string) string {
					const lines = "hosts app.localhost wiki.localhost\nlogout /logout\n"
					return "http://" + host + ":" + w.port + " {\n" + w.directive("", lines+more) +
						"\nreverse_proxy " + w.app + errorsShown + "\n}\n"
				}
				return site("login.localhost", "session {\nidle 3m\n}") + site("app.localhost", "") +
					site("wiki.localhost", "")
			}}, false)
			b := g.browser()
			g.expectPage(b, g.app+"/", 1)
			g.expectPage(b, g.wiki+"/", 0)
			g.expect(b.get(g.app+"/logout"), http.StatusOK)
			g.clock.Add(later)
			g.expectPage(b, g.app+"/", 1)
			g.expect(b.do("GET", g.app+"/data"), http.StatusOK)
			again(g, b)
			if a := b.do("GET", g.app+"/data"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s, signed in %s after the first logout: the app answers %d", how, later, a.StatusCode)
			}
		}
	}
}
