package e2e

import (
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Hosts of two domains that share a login, in browsers and in a cluster.

// many is a site at several hosts, over https. The login host is the first of them.
type many struct {
	*secure
	issuer *issuer
	port   string

	mu   sync.Mutex
	seen []string // what the app was asked: who, host and path
}

// manyNames are the names of the hosts. The last one is of a site whose answers set no cookie, as if browsers
// kept none of it.
var manyNames = []string{"login.example.com", "app.example.com", "wiki.example.net", "a.team.example.com",
	"forgetful.example.net"}

func newMany(t *testing.T) *many {
	t.Helper()
	m := &many{secure: &secure{authority: newAuthority(t, manyNames...)},
		issuer: newIssuer(t, site{"app", time.Hour, ""}, 1, "0")}
	app := httptest.NewServer(m)
	t.Cleanup(app.Close)
	m.node = serve(t, func(port string) (string, []string) {
		m.port = port
		m.site = m.at("login.example.com")
		common := fmt.Sprintf(`tls %[1]s %[2]s
			log
			aventus_auth {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri %[3]s/oauth2/callback
				audience https://api.example.com/
				scope openid profile
				issuer %[4]s
				hosts app.example.com wiki.example.net *.team.example.com forgetful.example.net
				logout /logout
			}
			reverse_proxy %[5]s
			handle_errors {
				header Content-Type text/html
				respond "Error {http.error.status_code} {http.aventus_auth.error}:
					{http.aventus_auth.error_description} <a href='{http.aventus_auth.origin}/back'>Back</a>"
			}`, m.cert, m.key, m.site, m.issuer.Issuer, app.Listener.Addr())
		last := len(manyNames) - 1
		var addresses []string
		for _, name := range manyNames[:last] {
			addresses = append(addresses, m.at(name))
		}
		return fmt.Sprintf("%s {\n%s\n}\n%s {\nheader {\n-Set-Cookie\ndefer\n}\n%s\n}\n",
				strings.Join(addresses, ", "), common, m.at(manyNames[last]), common), []string{
				"CLIENT_SECRET=" + clientSecret,
			}
	})
	m.issuer.Clients[0].RedirectURIs = []string{m.site + "/oauth2/callback"}
	return m
}

// at returns the origin of a host.
func (m *many) at(name string) string { return "https://" + name + ":" + m.port }

// ServeHTTP is the app: a page that says whose it is, and holds the frame that the query names. A page in a frame
// tells the page around it.
func (m *many) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	says := fmt.Sprintf("%s is at %s%s", callerOf(r), host, r.URL.Path)
	m.mu.Lock()
	m.seen = append(m.seen, says)
	m.mu.Unlock()
	frame := ""
	if src := r.URL.Query().Get("frame"); src != "" {
		frame = fmt.Sprintf(`<iframe src="%s"></iframe>`, html.EscapeString(src))
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!DOCTYPE html><title>%[1]s</title><p>%[1]s</p><p id="framed"></p>
		<script>
			onmessage = (e) => { document.getElementById('framed').textContent = 'framed: ' + e.data; };
			if (parent !== window) parent.postMessage(%[1]q, '*');
		</script>%[2]s`, says, frame)
}

// begun returns how many logins the authorization server was asked for.
func (m *many) begun() int { return len(m.issuer.AuthorizeRequests()) }

// expectAt visits a page of a host, and expects to be there as somebody, by as many logins.
func (m *many) expectAt(b *tab, as, name, path string, logins int) {
	b.t.Helper()
	before := m.begun()
	b.visit(m.at(name) + path)
	b.isAt(m.at(name) + path)
	bare, _, _ := strings.Cut(path, "?")
	b.sees(fmt.Sprintf("auth0|%s is at %s%s", as, name, bare))
	if n := m.begun() - before; n != logins {
		b.t.Errorf("the visit of %s begins %d logins, want %d", name, n, logins)
	}
}

// TestHostsInBrowsers: whoever signs in at one host is signed in at the others, of another domain, in another tab
// and in a frame; comes back to the very URL; and is out everywhere after one logout.
func TestHostsInBrowsers(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, m *many) *tab{
		"Chromium": func(t *testing.T, m *many) *tab {
			return newChromium(t, chromedp.Flag("ignore-certificate-errors-spki-list", m.spki),
				chromedp.Flag("host-resolver-rules", "MAP *.example.com 127.0.0.1, MAP *.example.net 127.0.0.1"))
		},
		"Firefox": func(t *testing.T, _ *many) *tab {
			return newFirefox(t, `user_pref("network.dns.localDomains", "`+strings.Join(manyNames, ",")+`");`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMany(t)
			b := start(t, m)
			const page = "/page?q=a%2Fb&q=%C3%A9+1"
			m.expectAt(b, "ada", "app.example.com", page, 1)
			wiki := b.another()
			m.expectAt(wiki, "ada", "wiki.example.net", page, 0)
			m.expectAt(b, "ada", "login.example.com", "/", 0)

			// In a frame of the same site, which the login host is of, at a host that has no session yet.
			m.expectAt(b, "ada", "app.example.com", "/outer?frame="+
				url.QueryEscape(m.at("a.team.example.com")+"/inner"), 0)
			b.sees("framed: auth0|ada is at a.team.example.com/inner")

			// One logout, at any of them.
			open := map[string]*tab{
				"login.example.com": b.another(), "app.example.com": b, "a.team.example.com": b.another(),
				"wiki.example.net": b.another(),
			}
			for name, tab := range open {
				m.expectAt(tab, "ada", name, "/stays", 0)
			}
			wiki.visit(m.at("wiki.example.net") + "/logout")
			wiki.sees("You are signed out")
			for name, tab := range open {
				if status := tab.fetch("/data"); status != "401" {
					t.Errorf("after the logout, a script at %s gets %s", name, status)
				}
			}

			m.tabsAtOnce(b)
			m.refuses(b)
			m.follows(b)
			m.forgets(b)
		})
	}
}

// tabsAtOnce: tabs at three hosts log in at the same moment, and one logout ends what came of it.
func (m *many) tabsAtOnce(b *tab) {
	b.t.Helper()
	names := []string{"app.example.com", "wiki.example.net", "login.example.com"}
	var tabs []*tab
	for range 10 {
		tabs = append(tabs, b.another())
	}
	var all sync.WaitGroup
	for i, tab := range tabs {
		to := fmt.Sprintf("%s/tab/%d?n=%d", m.at(names[i%3]), i, i)
		all.Go(func() { tab.leave(fmt.Sprintf("location = %q", to)) })
	}
	all.Wait()
	for i, tab := range tabs {
		tab.isAt(fmt.Sprintf("%s/tab/%d?n=%d", m.at(names[i%3]), i, i))
		tab.sees(fmt.Sprintf("auth0|ada is at %s/tab/%d", names[i%3], i))
	}
	tabs[0].visit(m.at(names[0]) + "/logout")
	tabs[0].sees("You are signed out")
	for i, tab := range tabs[1:] {
		if status := tab.fetch("/data"); status != "401" {
			b.t.Errorf("after the logout, a script of tab %d gets %s", i+1, status)
		}
	}
}

// refuses: a person who refuses consent is told so at the login host, and is led back to the page's own.
func (m *many) refuses(b *tab) {
	b.t.Helper()
	m.issuer.AutoSignIn = ""
	b.visit(m.at("app.example.com") + "/page")
	b.click("Ada Lovelace")
	b.click("Refuse")
	b.sees("Error 403 access_denied", "Go back to "+m.at("app.example.com")+"/.")
	if at := b.url(); !strings.HasPrefix(at, m.site+"/oauth2/callback?") {
		b.t.Errorf("the refusal is shown at %s", at)
	}
	b.click("Back")
	b.click("Allow")
	b.isAt(m.at("app.example.com") + "/back")
	b.sees("auth0|ada is at app.example.com/back")
	b.visit(m.at("wiki.example.net") + "/logout") // of another domain, and without a session
	b.sees("You are signed out")
	if at := b.url(); !strings.HasPrefix(at, m.at("wiki.example.net")+"/logout?ended=") {
		b.t.Errorf("the logout is shown at %s", at)
	}
	m.expectAt(b, "ada", "app.example.com", "/back", 1)
	b.visit(m.at("app.example.com") + "/logout")
	b.sees("You are signed out")
}

// follows: a browser that follows somebody else's ticket is not signed in as them, but as its own user; and the
// ticket is spent.
func (m *many) follows(b *tab) {
	b.t.Helper()
	m.issuer.AutoSignIn = "auth0|grace"
	attacker := newVisitor(b.t, m.authority)
	attacker.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if r.URL.Query().Has("aventus_ticket") {
			return http.ErrUseLastResponse
		}
		return nil
	}
	p := attacker.visit(m.at("wiki.example.net") + "/page")
	ticket := p.header.Get("Location")
	if p.status != http.StatusSeeOther ||
		!strings.HasPrefix(ticket, m.at("wiki.example.net")+"/oauth2/callback?aventus_ticket=") {
		b.t.Fatalf("the attacker gets %s", p)
	}
	m.issuer.AutoSignIn = "auth0|ada"
	b.visit(ticket)
	b.isAt(m.at("wiki.example.net") + "/page")
	b.sees("auth0|ada is at wiki.example.net/page")
	attacker.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if p := attacker.visit(ticket); p.status != http.StatusFound {
		b.t.Errorf("the attacker's ticket, after the victim brought it, gets %s", p)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.seen, func(says string) bool { return strings.HasPrefix(says, "auth0|grace") }) {
		b.t.Errorf("the app was asked by the attacker's session: %q", m.seen)
	}
}

// forgets: a host at which the browser keeps no cookies is named, and there is no loop.
func (m *many) forgets(b *tab) {
	b.t.Helper()
	b.visit(m.at("forgetful.example.net") + "/page")
	b.sees("Error 400 login_lost", "forgetful.example.net")
	b.visit(m.at("forgetful.example.net") + "/logout")
	b.sees("Error 403 cross_site_logout", "does not keep this site's cookies")
}

// TestHostsUnderLoad: people go between three hosts of two Caddys that share a Redis, and more sign in, while one
// of the Caddys is killed and started again. Nobody is signed out, or sees an error; a second host begins no
// login; each refresh token is used once; and a logout at any host is one at all hosts of both Caddys.
func TestHostsUnderLoad(t *testing.T) {
	t.Parallel()
	login := refreshing("login", 12*time.Second)
	login.block += "\nhosts app.localhost wiki.localhost"
	c := newCluster(t, "redis", 2, login)
	names := []string{"app", "wiki", "login"}
	issuer := c.issuers["login"]
	var lastRenewal atomic.Int64 // by node 0
	issuer.Fault(func(_ http.ResponseWriter, r *http.Request) bool {
		if isFrom(r, 0) {
			lastRenewal.Store(time.Now().UnixNano())
		}
		return false
	})

	// page visits a page of a host, and fetch asks there as a script does.
	page := func(b *browser, node int, name string) answer { return b.visit(node, c.origin(name)+"/") }
	fetch := func(b *browser, node int, name string) answer { return b.send(node, c.origin(name)+"/", "cors") }
	const people = 20
	var everybody []*browser
	for range people {
		b := c.browser("login")
		for _, name := range names {
			c.expect(page(b, anyNode, name), http.StatusOK, "the first visit of "+name)
		}
		everybody = append(everybody, b)
	}
	if n := len(issuer.AuthorizeRequests()); n != people {
		t.Errorf("%d logins were begun, want %d", n, people)
	}
	// The hosts may be at a Caddy each.
	apart := c.browser("login")
	a := apart.send(1, c.origin("app")+"/page", "navigate")
	for hops := 0; a.to != "" && hops < 10; hops++ {
		node := 1
		if strings.HasPrefix(a.to, c.origin("login")) {
			node = 0
		}
		a = apart.send(node, a.to, "navigate")
	}
	c.expect(a, http.StatusOK, "a login at two Caddys")

	load := newLoad("before")
	for _, b := range everybody {
		turn := 0
		load.repeat(50*time.Millisecond, func() (*browser, answer) {
			turn++
			return b, fetch(b, anyNode, names[turn%3])
		})
	}
	var handOvers atomic.Int64
	for range 3 {
		load.repeat(50*time.Millisecond, func() (*browser, answer) {
			b := c.browser("login")
			for _, name := range names {
				if a := page(b, anyNode, name); a.status != http.StatusOK {
					return b, a
				}
			}
			handOvers.Add(2)
			return b, answer{status: http.StatusOK}
		})
	}
	time.Sleep(10 * time.Second)
	load.enter("killed")
	c.nodes[0].kill()
	inTheMiddle := time.Since(time.Unix(0, lastRenewal.Load())) < 500*time.Millisecond
	time.Sleep(10 * time.Second)
	load.enter("started again")
	c.nodes[0].start()
	c.nodes[0].await()
	time.Sleep(5 * time.Second)
	load.end(t)
	for _, phase := range []string{"before", "started again"} {
		load.only(t, phase+", login", "200")
	}
	// A session that was being renewed by the one that was killed cannot be renewed any more.
	affected := maps.Clone(load.lost)
	for b := range load.failed {
		affected[b] = true
	}
	if len(affected) > 1 || len(affected) == 1 && !inTheMiddle {
		t.Errorf("%d browsers got something else than a page: %v", len(affected), load.counts)
	}
	t.Logf("%d hand-overs, %d renewals, %d logins", handOvers.Load(), issuer.Refreshes(),
		len(issuer.AuthorizeRequests()))

	// Each signs out at one host of one Caddy.
	var all sync.WaitGroup
	var learned slowest
	for i, b := range everybody {
		if affected[b] {
			continue
		}
		all.Go(func() {
			began := time.Now()
			if a := b.send(i%2, c.origin(names[i%3])+"/logout", "navigate"); a.status != http.StatusOK {
				t.Errorf("the logout: %s", a)
			}
			for node := range c.nodes {
				for _, name := range names {
					for fetch(b, node, name).status != http.StatusUnauthorized {
						if time.Since(began) > 10*time.Second {
							t.Errorf("10 s after a logout at %s, node %d lets it in at %s", names[i%3], node, name)
							return
						}
						time.Sleep(50 * time.Millisecond)
					}
				}
			}
			learned.note(time.Since(began))
		})
	}
	all.Wait()
	t.Logf("the logouts were known everywhere after %s at most", learned.time())
}
