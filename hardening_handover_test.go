package aventusauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// expectNoSession expects an answer that sets no session, and does not lead to a page.
func (g *group) expectNoSession(a answer, what string) {
	g.t.Helper()
	for _, c := range a.Cookies() {
		if strings.HasSuffix(c.Name, "aventus_session") && c.Value != "" {
			g.t.Errorf("%s: the answer sets a session: %v", what, a.Header)
		}
	}
	if a.StatusCode == http.StatusOK || a.StatusCode == http.StatusSeeOther &&
		!strings.Contains(a.location(), "?aventus_") {
		g.t.Errorf("%s: the answer is %d, to %s", what, a.StatusCode, a.location())
	}
}

// without returns a new browser with the cookies of this one but for one of them at an origin.
func (b *browser) without(g *group, origin, cookie string) *browser {
	other := g.browser()
	for _, at := range []string{g.login, g.app, g.wiki, g.team} {
		u, _ := url.Parse(at)
		other.client.Jar.SetCookies(u, slices.DeleteFunc(b.client.Jar.Cookies(u), func(c *http.Cookie) bool {
			return at == origin && c.Name == cookie
		}))
	}
	return other
}

// TestTicketWorksOnce: whoever sees a ticket later, in a log or a history, has no session by it (credentials
// in a browser's history, RFC 9700, section 4.3). Of fifty that bring it at once, with the cookies of the same
// browser, one gets a session.
func TestTicketWorksOnce(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	ticket := g.ticket(b, g.app+"/page")
	before := b.without(g, "", "") // has the binding cookie, and no session there
	var first atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		other := before.without(g, "", "")
		all.Go(func() {
			a := other.get(ticket)
			if a.cookie("aventus_session") != nil {
				first.Add(1)
			} else if a.StatusCode != http.StatusFound ||
				!strings.HasPrefix(a.location(), g.login+"/oauth2/callback?"+requestParam) {
				t.Errorf("another is answered %d, to %s", a.StatusCode, a.location())
			}
		})
	}
	all.Wait()
	if n := first.Load(); n != 1 {
		t.Errorf("the ticket made %d sessions", n)
	}
	g.restart()
	g.expectNoSession(before.get(ticket), "after a restart")
	// To the person, none of that is an error: it leads to the page.
	if a, _ := before.visit(ticket); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" {
		t.Errorf("a used ticket ends at %s with %d", a.Request.URL, a.StatusCode)
	}
	if a := before.get(ticket); a.StatusCode != http.StatusSeeOther || a.location() != g.app+"/page" ||
		a.cookie("aventus_session") != nil {
		t.Errorf("a used ticket, with a session, gets %d, to %s", a.StatusCode, a.location())
	}
}

// TestTicketWorksForAMinute and no longer, whatever became of it.
func TestTicketWorksForAMinute(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	late, old := g.ticket(b, g.app+"/page"), g.ticket(b, g.wiki+"/page")
	g.clock.Add(time.Minute)
	if a := b.get(late); a.cookie("aventus_session") == nil {
		t.Errorf("after a minute, the answer is %d", a.StatusCode)
	}
	g.clock.Add(time.Second)
	g.expectNoSession(b.get(old), "after more than a minute")
	if a, _ := b.visit(old); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.wiki+"/page" {
		t.Errorf("an old ticket ends at %s with %d", a.Request.URL, a.StatusCode)
	}
	// One from a clock that is too far ahead is none.
	g.clock.Add(-10 * time.Minute)
	if a := b.get(g.team + strings.TrimPrefix(old, g.wiki)); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a ticket of the future gets %d", a.StatusCode)
	}
}

// TestTicketOfAnotherHost opens nothing: who runs one host, and gets a ticket for it, has no session at
// the next one (as a counterfeit resource server would: RFC 9700, section 4.9.1).
func TestTicketOfAnotherHost(t *testing.T) {
	for _, apart := range []bool{false, true} {
		g := newGroup(t, setup{}, apart)
		b := g.browser()
		g.expectPage(b, g.login+"/", 1)
		g.ask(b, g.wiki+"/") // so that it has a binding cookie there
		wiki := b.cookiesAt(g.wiki)["aventus_login"]
		u, _ := url.Parse(g.ticket(b, g.app+"/"))
		for _, origin := range []string{g.wiki, g.team, g.login} {
			a := b.get(origin + u.RequestURI())
			g.expectNoSession(a, origin)
			if a.StatusCode != http.StatusBadRequest {
				t.Errorf("%s answers %d", origin, a.StatusCode)
			}
		}
		// Nor where the browser's binding cookie is the same at both.
		app := b.cookiesAt(g.app)["aventus_login"]
		for _, cookie := range []string{app, wiki} {
			a := g.http1(request{
				host: strings.TrimPrefix(g.wiki, "http://"), target: u.RequestURI(),
			}.withCookie("aventus_login=" + cookie))
			if a.StatusCode != http.StatusBadRequest {
				t.Errorf("the other host answers %d", a.StatusCode)
			}
		}
		if a := b.get(u.String()); a.cookie("aventus_session") == nil { // none of that has spent it
			t.Errorf("its own host answers %d", a.StatusCode)
		}
	}
}

// TestTicketOfAnotherBrowser: login CSRF. A ticket of the attacker's would have the victim work in the
// attacker's session, and a ticket that was made for the attacker's browser, with the victim's session in
// it, would let the attacker in (both: RFC 9700, section 4.7).
func TestTicketOfAnotherBrowser(t *testing.T) {
	g := newGroup(t, setup{}, true)
	attacker, victim := g.browser(), g.browser()
	g.expectPage(attacker, g.login+"/", 1)
	g.expectPage(victim, g.login+"/", 1)

	// The attacker's own ticket, followed by the victim.
	ticket := g.ticket(attacker, g.app+"/page")
	a := victim.get(ticket)
	g.expectNoSession(a, "the attacker's ticket")
	if a, _ := victim.visit(a.location()); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" {
		t.Errorf("the victim ends at %s with %d", a.Request.URL, a.StatusCode)
	}
	// It is spent: who reads it in the victim's history or log has nothing.
	g.expectNoSession(attacker.get(ticket), "the ticket that the victim brought")

	// The attacker's own request, followed by the victim, who is signed in at the login host.
	asked := g.ask(attacker, g.wiki+"/page")
	a = victim.get(asked)
	g.expect(a, http.StatusSeeOther)
	stolen := a.location()
	a = victim.get(stolen)
	g.expectNoSession(a, "the ticket for the attacker's browser")
	g.expectNoSession(attacker.get(stolen), "the ticket for the attacker's browser, with the victim's session")

	// A binding cookie cannot be planted by a sibling: on https it has the prefix that keeps it out
	// (TestOneLoginForManyHosts). Without one, or with another form of it, there is no session.
	for _, cookie := range []string{
		"", "aventus_login=", "aventus_login=.1", "aventus_login=AAAAAAAAAAAAAAAAAAAAAA.1",
	} {
		ticket := g.ticket(attacker, g.team+"/")
		u, _ := url.Parse(ticket)
		a := g.http1(request{host: u.Host, target: u.RequestURI()}.withCookie(cookie))
		g.expectNoSession(a, cookie)
	}
}

// TestTicketForAnothersRequest: who sees a victim's request, or the state of the victim's login, in a log can have
// a ticket made of it for the victim's browser, with a session of their own. The victim does not come to work in it.
func TestTicketForAnothersRequest(t *testing.T) {
	g := newGroup(t, setup{}, true)
	g.issuer.AutoSignIn = "auth0|grace"
	attacker, victim := g.browser(), g.browser()
	g.expectPage(attacker, g.login+"/", 1)
	g.issuer.AutoSignIn = "auth0|ada"
	asked := g.ask(victim, g.app+"/page")
	a := victim.get(asked)
	for !strings.Contains(a.location(), "code=") {
		g.expect(a, http.StatusFound)
		a = victim.get(a.location())
	}
	callback := a.location()

	// The login began in another browser: it makes no ticket, but has the page ask again.
	a = attacker.get(callback)
	if a.StatusCode != http.StatusFound || a.location() != g.app+"/page" {
		t.Errorf("the victim's callback, in another browser: status %d, sent to %s", a.StatusCode, a.location())
	}
	if a, _ := victim.visit(callback); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" {
		t.Errorf("the victim ends at %s with %d", a.Request.URL, a.StatusCode)
	}

	// The request was answered already.
	a = attacker.get(asked)
	if !strings.HasPrefix(a.location(), g.app+"/oauth2/callback?"+ticketParam+"=") {
		t.Fatalf("the victim's request is answered with %d, to %s", a.StatusCode, a.location())
	}
	before := victim.cookiesAt(g.app)["aventus_session"]
	victim.visit(a.location())
	if after := victim.cookiesAt(g.app)["aventus_session"]; before == "" || after != before {
		t.Error("the victim has another session")
	}
	g.expectPage(victim, g.app+"/page", 0)
}

// TestTicketForAnothersLongRequest: it is one request, also where the login host's header, with the state of the
// attacker's login, leaves the page's URL less room than with the victim's ticket.
func TestTicketForAnothersLongRequest(t *testing.T) {
	g := newGroup(t, setup{caddyfile: "@there host login.localhost\nheader @there Content-Security-Policy \"" +
		strings.Repeat("x", 2000) + "\"\n%s\nreverse_proxy %app"}, true)
	attacker, victim := g.browser(), g.browser()
	g.expectPage(victim, g.login+"/", 1)
	page := g.app + "/page?q=" + strings.Repeat("x", 700)
	asked := g.ask(victim, page)
	a := attacker.get(asked)
	for !strings.Contains(a.location(), ticketParam+"=") {
		a = attacker.get(a.location())
	}
	b := victim.get(asked)
	if own := len(b.location()); own < len(page) || own < len(a.location())+700 {
		t.Fatalf("the victim's ticket leads to %s, the attacker's to %s", b.location(), a.location())
	}
	g.expect(victim.get(b.location()), http.StatusSeeOther)
	before := victim.cookiesAt(g.app)["aventus_session"]
	victim.visit(a.location())
	if after := victim.cookiesAt(g.app)["aventus_session"]; before == "" || after != before {
		t.Error("the victim has another session")
	}
}

// TestTicketHoldsNoToken: it travels in a URL, which logs, histories and extensions see. Whoever has the
// server's keys, too, finds a handle in it.
func TestTicketHoldsNoToken(t *testing.T) {
	g := newGroup(t, setup{block: "scope offline_access"}, false)
	b := g.browser()
	ticket := query(g.ticket(b, g.app+"/page"), ticketParam)
	opened := 0
	for _, h := range handlers() {
		at, err := h.house.gate.sites.member("app.localhost")
		if err != nil {
			t.Fatal(err)
		}
		plaintext, _, err := h.house.handOvers.tickets.box.Open(t.Context(), ticket, at.associated)
		if err != nil {
			continue
		}
		opened++
		for _, sent := range g.issuer.TokenRequests() {
			if strings.Contains(string(plaintext), sent.Params["code"]) {
				t.Error("the ticket holds the code")
			}
		}
		if len(plaintext) > 200 || strings.Contains(string(plaintext), "eyJ") ||
			strings.Contains(string(plaintext), "auth0|ada") {
			t.Errorf("the ticket holds %q", plaintext)
		}
	}
	if opened == 0 {
		t.Error("the ticket was not opened")
	}
}

// TestSessionEndsBeforeItsTicket: who signs out while a ticket is on its way is not signed in by it.
func TestSessionEndsBeforeItsTicket(t *testing.T) {
	for _, how := range []string{"logout", "restart", "expiry", "revocation"} {
		g := newGroup(t, setup{block: "logout /logout\nsession {\nlifetime 30s\n}"}, true)
		b := g.browser()
		g.expectPage(b, g.login+"/", 1)
		ticket := g.ticket(b, g.app+"/page")
		switch how {
		case "expiry":
			g.clock.Add(31 * time.Second)
		case "revocation": // which leaves the record
			if _, err := revokeSessions(t.Context(), "", "auth0|ada"); err != nil {
				t.Fatal(err)
			}
		default:
			g.expect(b.get(g.login+"/logout"), http.StatusOK)
		}
		if how == "restart" {
			g.restart()
		}
		a := b.get(ticket)
		g.expectNoSession(a, how)
		before := len(g.issuer.AuthorizeRequests())
		if a, _ := b.visit(a.location()); a.StatusCode != http.StatusOK ||
			len(g.issuer.AuthorizeRequests()) != before+1 {
			t.Errorf("%s: it ends at %s with %d", how, a.Request.URL, a.StatusCode)
		}
	}
}

// TestFetchedAheadAsksForNoTicket: what nobody chose begins no login, and signs nobody in.
func TestFetchedAheadAsksForNoTicket(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	asked := g.ask(b, g.app+"/page")
	for _, target := range []string{g.app + "/page", asked} {
		a := b.do("GET", target, "Sec-Fetch-Mode", "navigate", "Sec-Purpose", "prefetch", "Accept", "text/html")
		if a.StatusCode != http.StatusUnauthorized || a.location() != "" || a.Header["Set-Cookie"] != nil {
			t.Errorf("%.40s…: status %d, to %s", target, a.StatusCode, a.location())
		}
	}
	// Nor does an image on somebody's page.
	a := g.browser().do("GET", asked, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Sec-Fetch-Site",
		"cross-site")
	if a.StatusCode != http.StatusUnauthorized || a.location() != "" || a.Header["Set-Cookie"] != nil {
		t.Errorf("an image gets %d, to %s", a.StatusCode, a.location())
	}
	// Requests of scripts get 401 at each host, as with one.
	for _, origin := range []string{g.app, g.wiki} {
		if a := b.do("POST", origin+"/api"); a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil {
			t.Errorf("a script gets %d at %s", a.StatusCode, origin)
		}
	}
}

// TestStorageFailsAtAHandOver: a ticket that cannot be claimed, or whose session cannot be read, lets
// nobody in. It works again when the storage does, for who still has the ticket.
func TestStorageFailsAtAHandOver(t *testing.T) {
	g := newGroup(t, setup{}, true)
	b := g.browser()
	g.expectPage(b, g.login+"/", 1)
	ticket := g.ticket(b, g.app+"/page")
	recovers := g.storageFails()
	a := b.get(ticket)
	g.expectNoSession(a, "while the storage fails")
	if a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while the storage fails, the ticket gets %d", a.StatusCode)
	}
	recovers()
	if a, _ := b.visit(ticket); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" {
		t.Errorf("then it ends at %s with %d", a.Request.URL, a.StatusCode)
	}
}
