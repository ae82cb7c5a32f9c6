package aventusauth

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestTicketsOfClocksThatDiffer: a ticket is good for a minute, by whichever of the clocks shows that
// it is no older.
func TestTicketsOfClocksThatDiffer(t *testing.T) {
	asked := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		name   string
		signIn time.Duration // between request and ticket
		skew   time.Duration // how far the login host's clock is ahead
		later  time.Duration // when the ticket comes
		want   bool
	}{
		{"at once", 0, 0, 0, true},
		{"after a minute", 0, 0, time.Minute, true},
		{"later", 0, 0, time.Minute + time.Second, false},
		{"after a long login", 50 * time.Minute, 0, time.Minute, true},
		{"later, after a long login", 50 * time.Minute, 0, time.Minute + time.Second, false},
		{"clock behind", 0, -5 * time.Minute, time.Second, true},
		{"clock behind, later", 0, -5 * time.Minute, time.Minute + time.Second, false},
		// the next round is good
		{"clock behind, after a long login", 50 * time.Minute, -5 * time.Minute, time.Second, false},
		{"clock ahead", 0, 5 * time.Minute, time.Second, true},
		{"clock ahead, later", 0, 5 * time.Minute, time.Minute + time.Second, false},
		{"clock ahead, after a long login", 50 * time.Minute, 5 * time.Minute, time.Second, false}, // as before
		{"clock a little ahead", 50 * time.Minute, 30 * time.Second, time.Second, true},
	} {
		issued := asked.Add(tc.signIn + tc.skew)
		ticket := &ticket{issued: issued, visit: &visit{asked: asked}}
		if got := ticket.isFresh(asked.Add(tc.signIn + tc.later)); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// group is a world whose sites share a login at several hosts.
type group struct {
	*world
	hosts                  []string // login, app, wiki and team
	login, app, wiki, team string   // their origins
}

// newGroup starts a world of a login host and three others, one of which is listed by a wildcard. With
// apart, each has a site and a block of its own.
func newGroup(t *testing.T, s setup, apart bool) *group {
	t.Helper()
	g := &group{hosts: []string{"login.localhost", "app.localhost", "wiki.localhost", "a.team.localhost"}}
	listed := "hosts app.localhost wiki.localhost *.team.localhost"
	if s.https {
		g.hosts = []string{"login.example.com", "app.example.com", "wiki.example.net", "a.team.example.org"}
		listed = "hosts app.example.com wiki.example.net\nhosts *.team.example.org"
		s.names = g.hosts[1:]
	}
	s.host = g.hosts[0]
	if !strings.Contains(s.block, "hosts ") {
		s.block += "\n" + listed
	}
	if s.caddyfile == "" {
		s.caddyfile = "%s\nreverse_proxy %app" + errorsShown
	}
	if s.sites == nil {
		s.sites = func(w *world) string {
			body := strings.ReplaceAll(strings.ReplaceAll(s.caddyfile, "%s", w.directive(s.matcher, s.block)),
				"%app", w.app)
			if s.https {
				body = "tls internal\n" + body
			}
			scheme, _, _ := strings.Cut(w.site, "://")
			var addresses []string
			for _, host := range g.hosts {
				addresses = append(addresses, scheme+"://"+host+":"+w.port)
			}
			if apart {
				return strings.Join(addresses, " {\n"+body+"\n}\n") + " {\n" + body + "\n}\n"
			}
			return strings.Join(addresses, ", ") + " {\n" + body + "\n}\n"
		}
	}
	g.world = newWorld(t, s)
	for i, origin := range []*string{&g.login, &g.app, &g.wiki, &g.team} {
		*origin = g.at(g.hosts[i])
	}
	return g
}

// at returns the origin of a host.
func (g *group) at(host string) string {
	scheme, _, _ := strings.Cut(g.site, "://")
	return scheme + "://" + host + ":" + g.port
}

// browser is one for which every name is this machine's.
func (g *group) browser() *browser {
	b := g.world.browser()
	b.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network,
		addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ":"+g.port) {
			addr = "localhost:" + g.port
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return b
}

// visit visits a page, and follows wherever that leads. It returns the last answer, and the origins and
// paths of the redirects.
func (b *browser) visit(target string) (a answer, trail []string) {
	b.w.t.Helper()
	for a = b.get(target); a.location() != "" && len(trail) < 20; a = b.get(a.location()) {
		where, _, _ := strings.Cut(a.location(), "?")
		trail = append(trail, where)
	}
	return a, trail
}

// expectPage visits a page, and expects to end there, by as many logins at the authorization server.
func (g *group) expectPage(b *browser, target string, logins int) {
	g.t.Helper()
	before := len(g.issuer.AuthorizeRequests())
	a, trail := b.visit(target)
	if a.StatusCode != http.StatusOK || a.Request.URL.String() != target || a.body != "the app" {
		g.t.Errorf("the visit of %s ends at %s with %d %s\nby %s", target, a.Request.URL, a.StatusCode, a.body,
			strings.Join(trail, "\n"))
	}
	if got := len(g.issuer.AuthorizeRequests()) - before; got != logins {
		g.t.Errorf("the visit of %s asks the authorization server %d times, want %d\n%s", target, got, logins,
			strings.Join(trail, "\n"))
	}
}

// ask visits a page at a host that is not the login's, and returns the URL of its request for a ticket.
func (g *group) ask(b *browser, page string) string {
	g.t.Helper()
	a := b.get(page)
	g.expect(a, http.StatusFound)
	if !strings.HasPrefix(a.location(), g.login+"/oauth2/callback?"+requestParam+"=") {
		g.t.Fatalf("%s leads to %s", page, a.location())
	}
	return a.location()
}

// ticket visits a page at such a host, and returns the URL of the ticket, logging in if it has to.
func (g *group) ticket(b *browser, page string) string {
	g.t.Helper()
	for target := g.ask(b, page); ; {
		a := b.get(target)
		if a.location() == "" {
			g.t.Fatalf("%s gets %d %s", target, a.StatusCode, a.body)
		}
		if target = a.location(); strings.Contains(target, "?"+ticketParam+"=") {
			return target
		}
	}
}

// cookiesAt returns what a browser would send to an origin.
func (b *browser) cookiesAt(origin string) map[string]string {
	u, _ := url.Parse(origin + "/")
	cookies := make(map[string]string)
	for _, c := range b.client.Jar.Cookies(u) {
		cookies[c.Name] = c.Value
	}
	return cookies
}

// TestOneLoginForManyHosts: a first visit at any host leads by the login host to the authorization
// server, and back to the very URL. The others then cost no visit there.
func TestOneLoginForManyHosts(t *testing.T) {
	for _, tc := range []struct {
		scheme string
		apart  bool
	}{{"http", false}, {"https", false}, {"https", true}} {
		t.Run(fmt.Sprint(tc.scheme, " apart ", tc.apart), func(t *testing.T) {
			g := newGroup(t, setup{https: tc.scheme == "https"}, tc.apart)
			prefix := map[string]string{"http": "", "https": "__Host-"}[tc.scheme]
			b := g.browser()
			const page = "/some/page?x=1&y=a%20b"

			request := b.get(g.app + page)
			g.expect(request, http.StatusFound)
			authorize := b.get(request.location())
			g.expect(authorize, http.StatusFound)
			if got := query(authorize.location(), "redirect_uri"); got != g.login+"/oauth2/callback" {
				t.Errorf("redirect_uri is %s", got)
			}
			callback := b.get(authorize.location())
			g.expect(callback, http.StatusFound)
			signedIn := b.get(callback.location())
			g.expect(signedIn, http.StatusSeeOther)
			if !strings.HasPrefix(signedIn.location(), g.app+"/oauth2/callback?"+ticketParam+"=") {
				t.Fatalf("the login leads to %s", signedIn.location())
			}
			handed := b.get(signedIn.location())
			g.expect(handed, http.StatusSeeOther)
			if handed.location() != g.app+page {
				t.Errorf("went back to %s, want %s", handed.location(), g.app+page)
			}
			for name, a := range map[string]answer{"request": request, "login": signedIn, "ticket": handed} {
				if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Referrer-Policy") != "no-referrer" {
					t.Errorf("the answer to the %s: %v", name, a.Header)
				}
				for _, line := range a.Header["Set-Cookie"] {
					if !strings.HasPrefix(line, prefix+"aventus_") || !strings.Contains(line, "; Path=/; ") ||
						!strings.HasSuffix(line, "; HttpOnly; SameSite=Lax"+map[string]string{
							"https": "; Secure",
						}[tc.scheme]) {
						t.Errorf("the answer to the %s sets %s", name, line)
					}
				}
			}
			g.expect(b.get(handed.location()), http.StatusOK)
			for _, target := range []string{g.wiki + page, g.team + "/", g.login + "/", g.app + "/other"} {
				g.expectPage(b, target, 0)
			}
			g.expectTokenRequests(1)
			for _, r := range g.requests() {
				if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") || r.Header["Cookie"] != nil {
					t.Errorf("%s: the app is sent %v", r.Host, r.Header)
				}
			}

			// One session: one record, and a cookie for each host.
			if n := len(g.sessionFiles()); n != 1 {
				t.Errorf("there are %d records", n)
			}
			sealed := make(map[string]bool)
			for _, origin := range []string{g.login, g.app, g.wiki, g.team} {
				cookies := b.cookiesAt(origin)
				sealed[cookies[prefix+"aventus_session"]] = true
				if len(cookies) != 2 || cookies[prefix+"aventus_session"] == "" ||
					cookies[prefix+"aventus_login"] == "" {
					t.Errorf("%s has the cookies %v", origin, cookies)
				}
			}
			if len(sealed) != 4 {
				t.Errorf("the hosts have %d different cookies", len(sealed))
			}
			for _, origin := range []string{g.app, g.wiki, g.login} {
				if a := b.get(origin + "/"); a.StatusCode != http.StatusOK || a.Header["Set-Cookie"] != nil {
					t.Errorf("%s: status %d, cookies %v", origin, a.StatusCode, a.Header["Set-Cookie"])
				}
			}
		})
	}
}

// TestRefusedConsentLeadsBack: the page about it stands at the login host, and leads back to the host of
// the page that was asked for.
func TestRefusedConsentLeadsBack(t *testing.T) {
	for _, shown := range []string{
		errorsShown, "\nhandle_errors {\nrespond \"{http.aventus_auth.error} back to {http.aventus_auth.origin}\"\n}",
	} {
		g := newGroup(t, setup{caddyfile: "%s\nreverse_proxy %app" + shown}, true)
		b := g.browser()
		a := b.get(b.get(g.app + "/page").location())
		state := query(a.location(), "state")
		a = b.get(g.login + "/oauth2/callback?error=access_denied&state=" + state)
		g.expect(a, http.StatusForbidden)
		if !strings.Contains(a.body, g.app) {
			t.Errorf("it says %s", a.body)
		}
		// A login of the login host's own leads to no other.
		a = b.get(g.login + "/page")
		a = b.get(g.login + "/oauth2/callback?error=access_denied&state=" + query(a.location(), "state"))
		g.expect(a, http.StatusForbidden)
		if strings.Contains(a.body, "http") {
			t.Errorf("it says %s", a.body)
		}
		// Whoever is signed in meanwhile, and was refused for another reason, goes to the page.
		a = b.get(b.get(g.wiki + "/page?x=1").location())
		g.expectPage(b, g.app+"/", 1)
		a, _ = b.visit(g.login + "/oauth2/callback?error=login_required&state=" + query(a.location(), "state"))
		if a.StatusCode != http.StatusOK || a.Request.URL.String() != g.wiki+"/page?x=1" {
			t.Errorf("a refused login ends at %s with %d", a.Request.URL, a.StatusCode)
		}
	}
}

// TestLoginFormLeadsToAnotherHost: the authorization server's page may allow its form the redirect URI's origin
// alone, and Chromium holds all redirects that answer it against that. So a login that a page led back from
// goes on to another host by a page. A hand-over, a frame and what is typed are redirected.
// e2e.TestHostsInBrowsers has browsers do it.
func TestLoginFormLeadsToAnotherHost(t *testing.T) {
	g := newGroup(t, setup{}, true)
	from := func(site, dest string) []string {
		return []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", site, "Sec-Fetch-Dest", dest,
			"Accept", "text/html"}
	}
	for _, tc := range []struct {
		headers []string
		byPage  bool
	}{
		{from("cross-site", "document"), true}, {from("same-site", "document"), true},
		{from("cross-site", "iframe"), false}, {from("none", "document"), false},
		{[]string{"Accept", "text/html"}, false},
	} {
		b := g.browser()
		callback := b.get(b.get(g.ask(b, g.app+"/page?x=1")).location()).location()
		a := b.do("GET", callback, tc.headers...)
		to := a.location()
		if tc.byPage {
			g.expect(a, http.StatusOK)
			to = refreshesTo(t, a)
			if a.Header.Get("Referrer-Policy") != "no-referrer" || a.Header.Get("Cache-Control") != "no-store" ||
				a.cookie("aventus_session") == nil {
				t.Errorf("%v: %v", tc.headers, a.Header)
			}
		} else {
			g.expect(a, http.StatusSeeOther)
		}
		a, _ = b.visit(to)
		if a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page?x=1" {
			t.Errorf("%v: it ends at %s with %d", tc.headers, a.Request.URL, a.StatusCode)
		}
		g.expect(b.do("GET", g.ask(b, g.wiki+"/"), tc.headers...), http.StatusSeeOther)
	}
}

// TestLoginHostIsNothingElse: the login host may be protected, or serve nothing but the login, and the
// requirements are each site's own.
func TestLoginHostIsNothingElse(t *testing.T) {
	g := newGroup(t, setup{sites: func(w *world) string {
		const hosts = "hosts app.localhost wiki.localhost\n"
		return fmt.Sprintf(`http://login.localhost:%[1]s {
			%[2]s
			respond "nothing but the login"
		}
		http://app.localhost:%[1]s {
			%[3]s
			respond "{http.auth.user.id} {http.auth.user.name} {http.auth.user.scope}"
		}
		http://wiki.localhost:%[1]s {
			%[4]s
			respond "{http.auth.user.id} {http.auth.user.name} {http.auth.user.scope}"
			handle_errors {
				respond "{http.aventus_auth.error}"
			}
		}`, w.port, w.directive("/nothing", hosts), w.directive("", hosts),
			w.directive("", hosts+"require_claim sub auth0|ada\nunauthenticated redirect"))
	}}, false)
	ada, grace := g.browser(), g.browser()
	a, _ := ada.visit(g.app + "/")
	if !strings.HasPrefix(a.body, "auth0|ada Ada Lovelace openid") {
		t.Errorf("the app is told %q", a.body)
	}
	b, _ := ada.visit(g.wiki + "/")
	if b.StatusCode != http.StatusOK || b.body != a.body {
		t.Errorf("the wiki is told %q, the app %q", b.body, a.body)
	}
	a = grace.get(grace.get(g.app + "/").location())
	a, _ = grace.visit(g.login + g.callback(a, "auth0|grace").target)
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(a.body, "auth0|grace") {
		t.Errorf("the app answers %d %q", a.StatusCode, a.body)
	}
	if a, _ = grace.visit(g.wiki + "/"); a.StatusCode != http.StatusForbidden || a.body != "insufficient_claim" {
		t.Errorf("the wiki answers %d %q", a.StatusCode, a.body)
	}
	if a = g.browser().get(g.login + "/"); a.body != "nothing but the login" {
		t.Errorf("the login host answers %d %q", a.StatusCode, a.body)
	}
}

// twoGroups is a Caddy with two logins: of the hosts login and app, and of sso and wiki.
func twoGroups(block string) setup {
	return setup{
		issuer: func(s *aventustest.Server) {
			other := s.Clients[0]
			other.ID, other.RedirectURIs = "another", []string{
				strings.Replace(other.RedirectURIs[0], "login.", "sso.", 1),
			}
			s.Clients = append(s.Clients, other)
		},
		sites: func(w *world) string {
			own := w.directive("", "hosts app.localhost\n"+block)
			other := strings.NewReplacer("the-client", "another", "//login.", "//sso.", "app.localhost",
				"wiki.localhost").Replace(own)
			site := func(host, block string) string {
				return "http://" + host + ":" + w.port + " {\n" + block + "\nreverse_proxy " + w.app + "\n}\n"
			}
			return site("login.localhost", own) + site("app.localhost", own) + site("sso.localhost", other) +
				site("wiki.localhost", other)
		},
	}
}

// TestAskedAgain: a ticket that makes no session is asked for again as at the beginning, also where it was for a
// renewal: what renewed the token may have been done already.
func TestAskedAgain(t *testing.T) {
	p := newParts(t)
	requests := &hostRequests{
		cookies: p.cookies, box: p.ring.Box("host request", "the-client"), answers: p.answers, now: p.clock.Now,
	}
	ho := &handOvers{cookies: p.cookies, answers: p.answers, keeper: p.keeper, requests: requests, now: p.clock.Now}
	for restarts := range uint8(maxRounds) {
		was := &visit{aim: toRenewSession, restarts: restarts, host: "example.com", returnTo: "/page?x=1"}
		w := httptest.NewRecorder()
		if err := ho.askAgain(w, p.request("GET", "/oauth2/callback"), p.at(), was, maxRounds); err != nil {
			t.Fatal(err)
		}
		v, err := requests.open(t.Context(), p.at(), query(w.Header().Get("Location"), requestParam))
		if err != nil || v.aim != toBeginSession || v.restarts != restarts+1 || v.returnTo != was.returnTo {
			t.Errorf("after %d times, what is asked for is %+v, %v", restarts, v, err)
		}
	}
}

// TestTwoGroups: two applications in one Caddy, each with hosts of its own, know nothing of each other.
func TestTwoGroups(t *testing.T) {
	g := newGroup(t, twoGroups(""), false)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	g.expectPage(b, g.wiki+"/", 1)
	g.expectPage(b, g.at("sso.localhost")+"/", 0)
	g.expectPage(b, g.login+"/", 0)
	for _, target := range []string{g.ask(g.browser(), g.app+"/"), g.ticket(g.browser(), g.app+"/")} {
		for _, origin := range []string{g.at("sso.localhost"), g.wiki} {
			u, _ := url.Parse(target)
			a := b.get(origin + u.RequestURI())
			if a.StatusCode != http.StatusBadRequest {
				t.Errorf("%s gets %d to %s", a.Request.URL, a.StatusCode, a.location())
			}
		}
	}
}

// TestBearerAtEachHost: an API client needs no session, and is let in at each host by its own token.
func TestBearerAtEachHost(t *testing.T) {
	g := newGroup(t, setup{block: "accept_bearer"}, true)
	token := g.issuer.SignJWT(g.tokenClaims(nil))
	for _, origin := range []string{g.login, g.app, g.wiki, g.team} {
		b := g.browser()
		if a := b.do("GET", origin+"/api", "Authorization", "Bearer "+token); a.StatusCode != http.StatusOK {
			t.Errorf("%s answers %d", origin, a.StatusCode)
		}
		if a := b.do("GET", origin+"/api", "Authorization", "Bearer x"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s answers %d to a bad token", origin, a.StatusCode)
		}
		if n := len(b.cookiesAt(origin)); n != 0 {
			t.Errorf("%s sets %d cookies", origin, n)
		}
		// Each is a resource of its own to API clients.
		metadata := origin + metadataPath
		if got := b.do("GET", origin+"/api").Header.Get("WWW-Authenticate"); !strings.Contains(got,
			`resource_metadata="`+metadata+`"`) {
			t.Errorf("%s challenges with %s", origin, got)
		}
		if a := b.do("GET", metadata); a.StatusCode != http.StatusOK ||
			!strings.Contains(a.body, `"resource":"`+origin+`"`) {
			t.Errorf("%s describes itself by %d %s", origin, a.StatusCode, a.body)
		}
	}
}
