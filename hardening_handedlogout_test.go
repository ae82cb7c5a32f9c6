package aventusauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// askToLeave has a browser that has no session at the wiki sign out there. It returns the request that goes to the
// login host, by which another site could try to sign out somebody else.
func (g *group) askToLeave(b *browser) string {
	g.t.Helper()
	a := b.get(g.wiki + "/logout")
	g.expect(a, http.StatusSeeOther)
	if !strings.HasPrefix(a.location(), g.login+"/oauth2/callback?"+requestParam+"=") {
		g.t.Fatalf("the logout leads to %s", a.location())
	}
	return a.location()
}

// expectIn expects a browser to be signed in at the login host and at the app still.
func (g *group) expectIn(b *browser, after string) {
	g.t.Helper()
	for _, origin := range []string{g.login, g.app} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != http.StatusOK {
			g.t.Errorf("after %s, %s answers %d", after, origin, a.StatusCode)
		}
	}
}

// TestForcedLogoutByARequest: a logout at a host without a session is a redirect by the login host, which the
// browser calls cross-site in any case where the hosts are of different domains. Somebody else's request, or the
// ticket that answers it, signs nobody out, whatever the browser brings; nor does an own one that comes late, or
// again (login and logout CSRF, RFC 6749, section 10.12).
func TestForcedLogoutByARequest(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	attacker, victim := g.browser(), g.browser()
	for _, b := range []*browser{attacker, victim} {
		g.expectPage(b, g.app+"/", 1)
	}
	from := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
		"Accept", "text/html"}
	follow := func(target string) (a answer) {
		for a = victim.do("GET", target, from...); a.location() != ""; a = victim.do("GET", a.location(), from...) {
			if strings.HasPrefix(a.location(), g.issuer.Issuer) {
				t.Fatalf("it leads to %s", a.location())
			}
		}
		return a
	}
	for _, hasBinding := range []bool{false, true} {
		if hasBinding {
			g.expectPage(victim, g.wiki+"/", 0)
			victim.forgetAt(g.wiki, "aventus_session")
		}
		a := follow(g.askToLeave(attacker))
		if a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "cross_site_logout") {
			t.Errorf("the attacker's request gets %d %s", a.StatusCode, a.body)
		}
		g.expectIn(victim, "the attacker's request")
		ticket := attacker.get(g.askToLeave(attacker)).location()
		if a = follow(ticket); a.StatusCode != http.StatusForbidden {
			t.Errorf("the attacker's ticket gets %d %s", a.StatusCode, a.body)
		}
		g.expectIn(victim, "the attacker's ticket")
		g.expectIn(attacker, "the ticket that the victim brought") // it is spent
		attacker.visit(ticket)
		g.expectIn(attacker, "the ticket, brought again")
	}

	// A page that says that somebody is signed out who is not, or that leads on, is no attacker's to show.
	for _, target := range []string{g.app + "/logout?ended", g.wiki + "/logout?ended"} {
		a := follow(target)
		if want := map[bool]int{true: 403, false: 200}[strings.HasPrefix(target, g.app)]; a.StatusCode != want {
			t.Errorf("%s gets %d, want %d", target, a.StatusCode, want)
		}
	}
	g.expectIn(victim, "a link to where a logout ends")

	// Late, or again.
	asked := g.askToLeave(victim)
	ticket := victim.get(asked).location()
	g.clock.Add(ticketLifetime + time.Second)
	if a := victim.get(ticket); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a late ticket gets %d", a.StatusCode)
	}
	g.expectIn(victim, "a late ticket")
	g.clock.Add(loginLifetime)
	if a := victim.get(asked); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a late request gets %d", a.StatusCode)
	}
	g.expectIn(victim, "a late request")
	ticket = victim.get(g.askToLeave(victim)).location()
	g.expect(victim.get(ticket), http.StatusSeeOther)
	g.expectOut(victim, "the own logout")
	g.expectPage(victim, g.app+"/", 1)
	a, _ := victim.visit(ticket)
	if a.StatusCode != http.StatusOK {
		t.Errorf("a used ticket gets %d", a.StatusCode)
	}
	g.expectIn(victim, "a used ticket")
}

// TestHandedLogoutIsNoSession: what a logout asked for is never a session's cookie, and what a visit asked for is
// never a logout.
func TestHandedLogoutIsNoSession(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	a := b.get(b.get(g.askToLeave(b)).location())
	g.expect(a, http.StatusSeeOther)
	if a.cookie("aventus_session") != nil || a.location() != g.wiki+"/logout?ended" {
		t.Errorf("%v", a.Header)
	}
	g.expectPage(b, g.app+"/", 1)
	ticket, _ := url.Parse(g.ticket(b, g.wiki+"/logouts"))
	g.expect(b.get(ticket.String()), http.StatusSeeOther)
	g.expectIn(b, "a visit's ticket")
}

// TestStorageFailsAtAHandedLogout: who is not known to be signed out is not told so.
func TestStorageFailsAtAHandedLogout(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	g.onEngine()
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	ticket := b.get(g.askToLeave(b)).location()
	recovers := faultAt(t, "store", "aventus_auth/ended")
	g.expect(b.get(ticket), http.StatusServiceUnavailable)
	recovers()
	a, _ := b.visit(g.wiki + "/logout")
	if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
		t.Errorf("the next one is answered %d %s", a.StatusCode, a.body)
	}
	g.expectOut(b, "the second logout")
}
