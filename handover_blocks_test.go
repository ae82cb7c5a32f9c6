package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// besideGroup is a site with a login that app.localhost shares with the login host, and another one of the site's
// own host, whose callbacks have the same path. The shared one stands in front, or behind.
func besideGroup(own, further string, inFront bool) setup {
	return setup{sites: func(w *world) string {
		at := "http://" + own + ":" + w.port
		w.issuer.Clients[0].RedirectURIs = append(w.issuer.Clients[0].RedirectURIs, at+"/oauth2/callback")
		const hosts = "hosts app.localhost\n"
		blocks := []string{
			w.directive("/shared/*", hosts+further),
			strings.Replace(w.directive("/own/*", "scope own\n"+further), w.site+"/", at+"/", 1),
		}
		if !inFront {
			blocks[0], blocks[1] = blocks[1], blocks[0]
		}
		addresses := at
		if own != "app.localhost" {
			addresses += ", http://app.localhost:" + w.port
		}
		return fmt.Sprintf("%s {\n%s\nreverse_proxy %s\n}\n%s {\nroute {\n%s\nreverse_proxy %s\n}\n}",
			w.site, w.directive("", hosts+further), w.app, addresses, strings.Join(blocks, "\n"), w.app)
	}}
}

// TestCallbackBehindAGroup: a block whose hosts share another host's login leaves the callbacks of a block behind
// it, which has a login of its own at that host, to that one.
func TestCallbackBehindAGroup(t *testing.T) {
	for _, own := range []string{"app.localhost", "shop.localhost"} { // shop is none of the group
		for _, inFront := range []bool{true, false} {
			g := newGroup(t, besideGroup(own, "session {\nname own\n}", inFront), false)
			b := g.browser()
			g.expectPage(b, g.at(own)+"/own/page", 1)
			g.expectPage(b, g.app+"/shared/page", 1)
			if a := b.get(g.at(own) + "/oauth2/callback?code=a"); a.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: a callback of no login is answered %d", own, a.StatusCode)
			}
		}
	}
}

// TestTicketReplacesAnothersSession: a ticket's session takes the place of one that another block made, where their
// cookies have one name. That one ends: a copy of its cookie is good for nothing.
func TestTicketReplacesAnothersSession(t *testing.T) {
	g := newGroup(t, besideGroup("app.localhost", "", false), false)
	b := g.browser()
	g.expectPage(b, g.app+"/own/", 1)
	copied := "aventus_session=" + b.cookiesAt(g.app)["aventus_session"]
	g.expect(g.browser().do("GET", g.app+"/own/", "Cookie", copied), http.StatusOK)
	g.expectPage(b, g.app+"/shared/", 1)
	g.expect(g.browser().do("GET", g.app+"/own/", "Cookie", copied), http.StatusUnauthorized)
}

// TestLogoutBesideAGroup: of two blocks with one logout path, one shares its login with other hosts. The logout ends
// the session there, whichever of them stands first, and whether or not the browser has one of the other block.
func TestLogoutBesideAGroup(t *testing.T) {
	for _, inFront := range []bool{true, false} {
		for _, signedIn := range []bool{true, false} {
			g := newGroup(t, besideGroup("app.localhost", "logout /logout\nsession {\nname own\n}", inFront), false)
			b := g.browser()
			g.expectPage(b, g.login+"/", 1)
			if signedIn {
				g.expectPage(b, g.app+"/own/", 1)
			}
			a, trail := b.visit(g.app + "/logout")
			if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") ||
				a.Request.URL.Host != strings.TrimPrefix(g.app, "http://") {
				t.Errorf("in front %t: the logout ends at %s with %d %s by %s", inFront, a.Request.URL, a.StatusCode,
					a.body, trail)
			}
			for _, page := range []string{g.login + "/data", g.app + "/own/data", g.app + "/shared/data"} {
				if a := b.do("GET", page); a.StatusCode != http.StatusUnauthorized {
					t.Errorf("in front %t, signed in %t: %s answers %d", inFront, signedIn, page, a.StatusCode)
				}
			}
			if a := b.get(g.app + "/logout?ended=made-up"); !strings.Contains(a.body, "not signed in at this site") {
				t.Errorf("in front %t: a link that was made up shows %s", inFront, a.body)
			}
		}
	}
}

// TestLogoutOfTwoGroups: two groups have a host in common, with one logout path. It ends the sessions of both, also
// where the browser has none at that host.
func TestLogoutOfTwoGroups(t *testing.T) {
	for _, here := range []string{"", "/one/", "/two/"} {
		g := newGroup(t, groupsOfOneHost("logout /logout\n"), false)
		b := g.browser()
		pages := []string{g.login + "/one/data", g.at("sso.localhost") + "/two/data"}
		for _, page := range pages {
			g.expectPage(b, page, 1)
		}
		if here != "" {
			g.expectPage(b, g.app+here, 0)
		}
		a, trail := b.visit(g.app + "/logout")
		if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
			t.Errorf("%s: the logout ends at %s with %d %s by %s", here, a.Request.URL, a.StatusCode, a.body, trail)
		}
		for _, page := range append(pages, g.app+"/one/data", g.app+"/two/data") {
			if a := b.do("GET", page); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: %s answers %d", here, page, a.StatusCode)
			}
		}
	}
}
