package aventusauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
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
		// Or the host's own cookies are blocked: the sentence is true of that, too.
		if a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "cross_site_logout") ||
			!strings.Contains(a.body, "does not keep this site's cookies") {
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
	if a.StatusCode != http.StatusOK { // its own session has ended
		t.Errorf("a used ticket gets %d", a.StatusCode)
	}
	g.expectIn(victim, "a used ticket")
}

// TestSpentLogoutTicket: a ticket that was brought before ends nothing, and tells nobody that they are signed out
// while its session lives. What spends one ticket spends no other one for the same request, or of the same second.
func TestSpentLogoutTicket(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	g.onEngine()
	attacker, victim := g.browser(), g.browser()
	for _, b := range []*browser{attacker, victim} {
		g.expectPage(b, g.app+"/", 1)
	}
	expectUnfinished := func(ticket, what string) {
		t.Helper()
		a := victim.get(ticket)
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "logout_unfinished") ||
			!strings.Contains(a.body, "Sign out again") {
			t.Errorf("%s gets %d %s to %q", what, a.StatusCode, a.body, a.location())
		}
		g.expectIn(victim, what)
	}
	expectEnds := func(ticket, what string) {
		t.Helper()
		a, _ := victim.visit(ticket)
		if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
			t.Errorf("%s gets %d %s", what, a.StatusCode, a.body)
		}
		g.expectOut(victim, what)
		g.clock.Add(time.Minute)
		g.expectPage(victim, g.app+"/", 1)
	}

	// The session's record cannot be read, and the person reloads the page that says so. The second click of a
	// double click has a ticket of its own.
	asked := g.askToLeave(victim)
	ticket, second := victim.get(asked).location(), victim.get(g.askToLeave(victim)).location()
	recovers := faultAt(t, "load", "aventus_auth/sessions")
	g.expect(victim.get(ticket), http.StatusServiceUnavailable)
	recovers()
	expectUnfinished(ticket, "the ticket that got 503")
	expectEnds(second, "the second click's ticket")

	// Another browser brings the ticket first, or one for the same request with a session of its own.
	asked = g.askToLeave(victim)
	ticket = victim.get(asked).location()
	g.expect(attacker.get(ticket), http.StatusForbidden)
	expectUnfinished(ticket, "the ticket that another browser brought")
	asked = g.askToLeave(victim)
	g.expect(attacker.get(attacker.get(asked).location()), http.StatusForbidden)
	expectEnds(victim.get(asked).location(), "the ticket of a request that another browser answered")
	g.expectIn(attacker, "the victim's logouts")
}

// TestLogoutComesBackWithAProof: the way back by the login host may be a navigation from another site, and leads on
// to the authorization server's logout. A link to it, a proof of another browser or host, or an old one, leads
// nowhere, and says no more than what the host knows.
func TestLogoutComesBackWithAProof(t *testing.T) {
	for _, signsIn := range []bool{true, false} { // the login host makes the proof where nothing is to end
		g := newGroup(t, setup{block: "logout /logout\nlogout_provider"}, true)
		attacker, victim := g.browser(), g.browser()
		comeBack := func(b *browser) string {
			t.Helper()
			if signsIn {
				g.expectPage(b, g.app+"/", 1)
			}
			a := b.get(g.askToLeave(b))
			if signsIn {
				a = b.get(a.location())
			}
			g.expect(a, http.StatusSeeOther)
			if !strings.HasPrefix(a.location(), g.wiki+"/logout?ended=") {
				t.Fatalf("the logout leads to %s", a.location())
			}
			return a.location()
		}
		from := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
			"Accept", "text/html"}
		proof := comeBack(victim)
		_, ofVictim, _ := strings.Cut(proof, "?")
		request := query(g.askToLeave(victim), requestParam)
		for _, target := range []string{
			g.wiki + "/logout?ended", g.wiki + "/logout?ended=", g.wiki + "/logout?ended=" + request,
			comeBack(attacker), g.app + "/logout?" + ofVictim, g.login + "/logout?ended=" + request,
		} {
			a := victim.do("GET", target, from...)
			if a.StatusCode != http.StatusOK || a.location() != "" || a.Header["Set-Cookie"] != nil ||
				!strings.Contains(a.body, "You are not signed in at this site") {
				t.Errorf("%s gets %d %v %s", target, a.StatusCode, a.Header, a.body)
			}
		}
		for _, unasked := range [][]string{
			{"Sec-Fetch-Dest", "image", "Sec-Fetch-Mode", "no-cors"}, {"Sec-Purpose", "prefetch"},
		} {
			if a := victim.do("GET", proof, unasked...); a.StatusCode != http.StatusForbidden ||
				a.Header["Set-Cookie"] != nil {
				t.Errorf("%v gets %d %v", unasked, a.StatusCode, a.Header)
			}
		}
		g.expect(victim.get(g.login+"/oauth2/callback?"+requestParam+"="+query(proof, ended)), http.StatusBadRequest)
		a := victim.do("GET", proof, from...)
		if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.location(), g.issuer.Issuer) {
			t.Errorf("the proof gets %d %v", a.StatusCode, a.Header)
		}

		// By a clock that is ahead of the login host's, a proof is older than it is.
		for age, isGood := range map[time.Duration]bool{
			ticketLifetime + records.ClockSkew: true, ticketLifetime + records.ClockSkew + time.Second: false,
		} {
			proof = comeBack(victim)
			g.clock.Add(age)
			a := victim.do("GET", proof, from...)
			if leads := strings.HasPrefix(a.location(), g.issuer.Issuer); leads != isGood ||
				!isGood && (a.StatusCode != http.StatusOK || a.location() != "") {
				t.Errorf("a proof of %s ago gets %d %v", age, a.StatusCode, a.Header)
			}
		}
	}
}

// TestHandedLogoutInAFrame: in a frame of another site, the login host is not sent its cookies, and does not know
// who is signed in.
func TestHandedLogoutInAFrame(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	asked := g.askToLeave(b) // its jar at the login host is empty, as what a frame is sent
	for site, want := range map[string]int{"cross-site": http.StatusBadRequest, "same-site": http.StatusSeeOther} {
		a := b.do("GET", asked, "Sec-Fetch-Site", site, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe",
			"Accept", "text/html")
		if a.StatusCode != want || (a.location() == "") != strings.Contains(a.body, "Sign out in a tab of its own") {
			t.Errorf("a %s frame gets %d %v %s", site, a.StatusCode, a.Header, a.body)
		}
	}
	g.expect(b.do("GET", asked, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "image"), http.StatusForbidden)
}

// TestHandedLogoutOfAnUnsharedSession: a session from before there were hosts is not one that they share, and lives.
func TestHandedLogoutOfAnUnsharedSession(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	config, b := g.config, g.browser()
	g.run(strings.ReplaceAll(config, "hosts app.localhost wiki.localhost *.team.localhost", ""))
	g.expectPage(b, g.login+"/", 1)
	g.run(config)
	g.expect(b.do("GET", g.login+"/data"), http.StatusOK)
	a := b.get(g.askToLeave(b))
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "signed in at "+g.login+"/") {
		t.Errorf("it gets %d %v %s", a.StatusCode, a.Header, a.body)
	}
	g.expect(b.do("GET", g.login+"/data"), http.StatusOK)
}

// TestLogoutOfALongPath: a logout path that does not fit a request is not shortened to one that signs in again.
func TestLogoutOfALongPath(t *testing.T) {
	path := "/logout" + strings.Repeat("-", maxState)
	g := newGroup(t, setup{block: "logout " + path}, true)
	a := g.browser().get(g.wiki + path)
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "signed in at "+g.login+"/") {
		t.Errorf("it gets %d %v %s", a.StatusCode, a.Header, a.body)
	}
}

// TestHandedLogoutIsNoSession: what a logout asked for is never a session's cookie, and what a visit asked for is
// never a logout.
func TestHandedLogoutIsNoSession(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout"}, true)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	a := b.get(b.get(g.askToLeave(b)).location())
	g.expect(a, http.StatusSeeOther)
	if a.cookie("aventus_session") != nil || !strings.HasPrefix(a.location(), g.wiki+"/logout?ended=") {
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
	g.expect(b.get(ticket), http.StatusBadRequest) // the session is gone here, and its end not written
	recovers()
	a, _ := b.visit(g.wiki + "/logout")
	if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
		t.Errorf("the next one is answered %d %s", a.StatusCode, a.body)
	}
	g.expectOut(b, "the second logout")
}
