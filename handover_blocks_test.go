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
