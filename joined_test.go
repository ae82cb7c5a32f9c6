package aventusauth

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// tabsAtManyHosts begins logins of ten tabs at three hosts, none of which is signed in. It returns the tabs' pages,
// and the callbacks that the authorization server sends them to. That one has one session of the browser's.
func tabsAtManyHosts(t *testing.T) (g *group, b *browser, pages, callbacks []string) {
	g = newGroup(t, setup{
		block: "logout /logout\nscope offline_access",
		issuer: func(s *aventustest.Server) {
			s.TokenLifetime = time.Hour
			s.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"sid": "of-the-browser"} }
		},
	}, true)
	g.onEngine()
	b = g.browser()
	for i := range 10 {
		page := fmt.Sprintf("%s/tab/%d?n=%d", []string{g.app, g.wiki, g.login}[i%3], i, i)
		a := b.get(page)
		for strings.HasPrefix(a.location(), g.login) {
			a = b.get(a.location())
		}
		pages, callbacks = append(pages, page), append(callbacks, b.get(a.location()).location())
	}
	g.clock.Add(time.Second)
	return g, b, pages, callbacks
}

// TestTabsAtManyHostsAreInOneSession: what ten tabs at three hosts sign in to is one session at all of them, in
// whichever order their logins finish: one record, one renewal, one end.
func TestTabsAtManyHostsAreInOneSession(t *testing.T) {
	for _, how := range []string{"one after another", "at another instance each", "none brings a cookie", "at once"} {
		t.Run(how, func(t *testing.T) {
			g, b, pages, callbacks := tabsAtManyHosts(t)
			login, _ := url.Parse(g.login)
			binding := b.client.Jar.Cookies(login)
			finish := func(i int) {
				by := b
				if how == "none brings a cookie" { // of a session
					by = g.browser()
					by.client.Jar.SetCookies(login, binding)
				}
				a := by.get(callbacks[i])
				b.client.Jar.SetCookies(login, a.Cookies())
				if !strings.HasPrefix(pages[i], a.location()) { // a ticket
					a = b.get(a.location())
				}
				if a.StatusCode != http.StatusSeeOther || a.location() != pages[i] {
					t.Errorf("tab %d is sent to %s with %d", i, a.location(), a.StatusCode)
				}
			}
			if how == "at once" {
				var held atomic.Bool
				release := make(chan struct{})
				fault := func(op, key string) error {
					if op == "store" && strings.HasPrefix(key, "aventus_auth/sessions") && !held.Swap(true) {
						<-release
					}
					return nil
				}
				engineFault.Store(&fault)
				t.Cleanup(func() { engineFault.Store(nil) })
				var all sync.WaitGroup
				for i := range callbacks {
					all.Go(func() { finish(i) })
				}
				await(t, "all tokens", func() bool { return len(g.issuer.TokenRequests()) == len(callbacks) })
				close(release)
				all.Wait()
			} else {
				for _, i := range []int{7, 2, 9, 0, 4, 1, 8, 3, 6, 5} {
					finish(i)
					if how == "at another instance each" {
						g.restart() // which knows nothing but by the storage
					}
				}
			}
			if n := len(g.sessionFiles()); n != 1 {
				t.Errorf("there are %d records", n)
			}
			if n := len(g.issuer.Revoked()); n != 0 {
				t.Errorf("%d refresh tokens were revoked", n)
			}
			origins := []string{g.app, g.wiki, g.login}
			g.clock.Add(61 * time.Minute)
			requests := len(g.issuer.TokenRequests())
			for _, origin := range origins {
				g.expect(b.do("GET", origin+"/data"), http.StatusOK)
			}
			if n := len(g.issuer.TokenRequests()) - requests; n != 1 {
				t.Errorf("the token is renewed %d times", n)
			}
			g.expect(b.get(g.wiki+"/logout"), http.StatusOK)
			for _, origin := range origins {
				g.expect(b.do("GET", origin+"/data"), http.StatusUnauthorized)
			}
		})
	}
}
