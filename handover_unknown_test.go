package aventusauth

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// ofUnknownPersons is a group whose tokens say nothing: they are opaque, and there are no ID tokens.
func ofUnknownPersons(t *testing.T) *group {
	s := setup{
		opaque: true, block: "logout /logout\nhosts app.localhost wiki.localhost *.team.localhost",
		issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
	}
	s.sites = func(w *world) string {
		directive := strings.Replace(w.directive("", s.block), "scope openid profile", "scope profile", 1)
		var addresses []string
		for _, host := range []string{"login", "app", "wiki", "a.team"} {
			addresses = append(addresses, "http://"+host+".localhost:"+w.port)
		}
		return strings.Join(addresses, ", ") + " {\n" + directive + "\nreverse_proxy " + w.app + errorsShown + "\n}"
	}
	return newGroup(t, s, false)
}

// TestUnknownPersonsAtManyHosts: where nothing says whose a session is, a browser has one at all hosts, and a login
// ends the one before, which may be another person's. The other hosts get the new one by a page visit. A logout at
// any host ends it all.
func TestUnknownPersonsAtManyHosts(t *testing.T) {
	g := ofUnknownPersons(t)
	b := g.browser()
	for _, later := range []time.Duration{0, 57 * time.Minute, 57 * time.Minute} {
		before := "aventus_session=" + b.cookiesAt(g.wiki)["aventus_session"]
		g.clock.Add(later)
		g.expectPage(b, g.app+"/", 1) // at first a login, then a renewal by the visit
		if later > 0 {
			g.expect(b.do("GET", g.wiki+"/data"), http.StatusUnauthorized)
			g.expect(b.do("GET", g.team+"/data"), http.StatusUnauthorized)
		}
		for _, origin := range []string{g.wiki, g.team, g.login} {
			g.expectPage(b, origin+"/", 0)
		}
		g.expect(g.browser().do("GET", g.wiki+"/data", "Cookie", before), http.StatusUnauthorized)
	}
	for _, at := range []string{g.wiki, g.login, g.team, g.app} {
		g.clock.Add(57 * time.Minute) // the hosts but the app have a session that was replaced
		g.expectPage(b, g.app+"/", 1)
		a, _ := b.visit(at + "/logout")
		if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
			t.Errorf("the logout at %s ends with %d %s", at, a.StatusCode, a.body)
		}
		g.expectOut(b, "the logout at "+at)
		g.clock.Add(time.Minute)
		for i, origin := range []string{g.app, g.wiki, g.team, g.login} {
			g.expectPage(b, origin+"/", map[bool]int{true: 1}[i == 0])
		}
	}
}
