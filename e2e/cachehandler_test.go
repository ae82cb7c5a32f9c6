package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// orders are where Caddy's cache handler (github.com/caddyserver/cache-handler) may stand:
// where its directive does by itself, which is before aventus_auth, and with all its
// defaults; first of all; there, but keeping whatever it can; and behind aventus_auth. %s
// is aventus_auth.
var orders = map[string]string{
	"default": "cache\n%s\nreverse_proxy APP",
	"first":   "route {\ncache {\ndisable_coalescing\n}\n%s\nreverse_proxy APP\n}",
	"bypass":  "route {\ncache {\nmode bypass\ndisable_coalescing\n}\n%s\nreverse_proxy APP\n}",
	"behind":  "route {\n%s\ncache {\ndisable_coalescing\n}\nreverse_proxy APP\n}",
}

// newCacheHandler starts a site for each order.
func newCacheHandler(t *testing.T, orders map[string]string) *cached {
	t.Helper()
	c := &cached{cluster: &cluster{t: t, issuers: make(map[string]*issuer), air: newAir(t)},
		tokens: make(map[string]string)}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond) // so that those who come at once meet in the cache
		c.serveApp(w, r)
	}))
	t.Cleanup(app.Close)
	n := newNode(t, 0, func(port string) string {
		c.port = port
		config := "{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nstorage file_system " +
			t.TempDir() + "\ncache {\nttl 1h\n}\n}\n"
		for name, order := range orders {
			c.issuers[name] = newIssuer(t, site{name, time.Hour, ""}, 1, port)
			order = strings.ReplaceAll(order, "APP", app.Listener.Addr().String())
			config += fmt.Sprintf("%s {\n"+order+"\n}\n", c.origin(name), fmt.Sprintf(`aventus_auth {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri %s/oauth2/callback
				audience https://api.example.com/
				issuer http://127.0.0.1:%s/
			}`, c.origin(name), c.issuers[name].port))
		}
		return config
	})
	n.start()
	n.await()
	c.nodes = []*node{n}
	t.Cleanup(n.inspect)
	return c
}

// TestCacheInTheSameCaddy: a cache in the same Caddy, in front of the gate or behind it,
// gives nobody the page of somebody else, kept or while it is made for others.
func TestCacheInTheSameCaddy(t *testing.T) {
	t.Parallel()
	c := newCacheHandler(t, orders)
	for order := range orders {
		first, second := c.enter(order, ada), c.enter(order, grace)
		for _, is := range casesOfCache {
			if is.status != 200 {
				continue
			}
			t.Run(order+"/"+is.name, func(t *testing.T) {
				target, hits := address("kept "+is.name, is.headers...), 0
				for range 3 {
					for _, b := range []*browser{first, second} {
						if c.look(t, b, http.MethodGet, target).isHit() {
							hits++
						}
					}
					c.turnedAway(t, order, target)
				}
				// Behind the gate, it keeps nothing, since the request has an Authorization.
				if is.name == "public" && (hits == 0) != (order == "behind") {
					t.Errorf("%d pages came out of the cache", hits)
				}
				if order == "default" && is.name == "varies by all" {
					return // it does not compare requests that it has put together, then
				}
				for try := range 3 {
					target := address(fmt.Sprint("at once ", is.name, try), is.headers...)
					var wait sync.WaitGroup
					var logins sync.Map
					for n := range 12 {
						wait.Go(func() {
							switch n % 3 {
							case 0:
								c.look(t, first, http.MethodGet, target)
							case 1:
								c.look(t, second, http.MethodGet, target)
							default:
								p := c.ask(c.browser(order), http.MethodGet, target)
								if p.status != http.StatusFound || p.header["X-Whose"] != nil {
									t.Errorf("%s: without a session: %d %.80q", target, p.status, p.body)
								}
								if _, shared := logins.LoadOrStore(p.header.Get("Location"), n); shared &&
									order != "default" {
									t.Errorf("%s: two visitors share a login", target)
								}
							}
						})
					}
					wait.Wait()
				}
			})
		}
	}
}

// TestCacheThatShares: what docs/caching.md warns of is so: where the cache puts requests together (coalescing), it
// shares what it must not.
func TestCacheThatShares(t *testing.T) {
	t.Parallel()
	c := newCacheHandler(t, map[string]string{
		"front": orders["default"], "behind": "route {\n%s\ncache\nreverse_proxy APP\n}",
	})
	for name, tc := range map[string]struct {
		order   string
		headers []string
	}{
		"a page with Vary: *": {"front", []string{aYear, "Vary: *"}},
		"a private page":      {"behind", []string{"Cache-Control: private"}},
		"a login":             {"front", nil},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := c.enter(tc.order, ada), c.enter(tc.order, grace)
			tries := 0
			eventually(t, "it is shared", func() bool {
				tries++
				target := address(fmt.Sprint(name, tries), tc.headers...)
				given := make([]shown, 8)
				var wait sync.WaitGroup
				for n := range given {
					wait.Go(func() {
						b := []*browser{first, second}[n%2]
						if name == "a login" {
							b = c.browser(tc.order)
						}
						given[n] = c.ask(b, http.MethodGet, target)
					})
				}
				wait.Wait()
				whose := make(map[string]bool) // pages or logins
				for _, p := range given {
					whose[p.header.Get("X-Whose")+p.header.Get("Location")] = true
				}
				if name == "a login" {
					return len(whose) < len(given)
				}
				return len(whose) == 1 // of two people's
			})
		})
	}
}
