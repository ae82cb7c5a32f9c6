package aventusauth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// These tests are about hosts that share a login beside each other subdirective.

// signInEverywhere signs a browser in at all hosts of a group, by one login.
func (g *group) signInEverywhere(b *browser) {
	g.t.Helper()
	for i, origin := range []string{g.app, g.wiki, g.team, g.login} {
		g.expectPage(b, origin+"/", map[bool]int{true: 1}[i == 0])
	}
}

// expectOut expects that a browser has a session at none of the hosts.
func (g *group) expectOut(b *browser, after string) {
	g.t.Helper()
	for _, origin := range []string{g.login, g.app, g.wiki, g.team} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != http.StatusUnauthorized {
			g.t.Errorf("after %s, a script at %s gets %d", after, origin, a.StatusCode)
		}
	}
}

// TestBackchannelLogoutAtManyHosts: what the authorization server ends has ended at all hosts, whichever of
// them is told, also for a login under way and after a restart.
func TestBackchannelLogoutAtManyHosts(t *testing.T) {
	for _, noSID := range []bool{false, true} {
		g := newGroup(t, setup{
			block:  "backchannel_logout " + backchannelPath + "\nprofile /me",
			issuer: func(s *aventustest.Server) { s.NoSID = noSID },
		}, true)
		for _, told := range []string{g.login, g.app} {
			b, phone, late := g.browser(), g.browser(), g.browser()
			g.signInEverywhere(b)
			g.signInEverywhere(phone)
			begun := late.get(late.get(late.get(g.wiki + "/").location()).location()).location() // its code waits
			var me struct{ Claims struct{ Sid string } }
			if err := json.Unmarshal([]byte(b.get(g.wiki+"/me").body), &me); err != nil ||
				(me.Claims.Sid == "") != noSID {
				t.Fatalf("%v: %+v", err, me)
			}
			token := g.issuer.LogoutToken("the-client", "auth0|ada", me.Claims.Sid)
			resp, err := g.browser().client.PostForm(told+backchannelPath, url.Values{"logout_token": {token}})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s answers %d", told, resp.StatusCode)
			}
			g.expectOut(b, "the logout token")
			for _, origin := range []string{g.login, g.app} {
				want := http.StatusOK // another session there is not meant
				if noSID {
					want = http.StatusUnauthorized
				}
				if a := phone.do("GET", origin+"/data"); a.StatusCode != want {
					t.Errorf("the phone gets %d at %s, want %d", a.StatusCode, origin, want)
				}
			}
			g.restart()
			g.expectOut(b, "a restart")
			g.clock.Add(time.Second)
			logins := 1
			if noSID { // by another clock, it may have begun before the end
				logins = 2
			}
			g.expectPage(b, g.wiki+"/", logins)
			if a, _ := late.visit(begun); a.StatusCode != http.StatusOK {
				t.Errorf("a login that was under way ends with %d at %s", a.StatusCode, a.Request.URL)
			}
			g.clock.Add(5 * time.Minute) // by which clocks may differ
		}
	}
}

// TestRevokeAtManyHosts: the list has a session once, whatever hosts have it, and however often a page visit
// has renewed it since. Its end there is an end at all hosts.
func TestRevokeAtManyHosts(t *testing.T) {
	g := newGroup(t, setup{admin: true, issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }}, true)
	b, other := g.browser(), g.browser()
	list := func() (sessions []listed) {
		t.Helper()
		a := g.browser().do("GET", "http://localhost:"+g.adminPort+"/aventus_auth/sessions")
		if err := json.Unmarshal([]byte(a.body), &sessions); err != nil || strings.Contains(a.body, "family") {
			t.Fatalf("%v: %s", err, a.body)
		}
		return sessions
	}
	for _, how := range []string{"as it is", "renewed by a visit"} {
		g.signInEverywhere(b)
		g.signInEverywhere(other)
		if how != "as it is" {
			g.clock.Add(57 * time.Minute)
			g.expectPage(b, g.app+"/", 1) // a new session, of which the wiki does not know yet
			g.expect(b.do("GET", g.wiki+"/data"), http.StatusOK)
		}
		sessions := list()
		if len(sessions) != 2 || sessions[0].Site != g.login || sessions[0].Sub != "auth0|ada" {
			t.Fatalf("%s: the list is %+v", how, sessions)
		}
		ended := sessions[0]
		if how != "as it is" && sessions[1].Created.After(ended.Created) {
			ended = sessions[1]
		}
		a := g.browser().do("DELETE", "http://localhost:"+g.adminPort+"/aventus_auth/sessions?id="+ended.ID)
		g.expect(a, http.StatusNoContent)
		if how == "as it is" { // which of the two it was, only its browser can tell
			if b.do("GET", g.app+"/data").StatusCode == http.StatusOK {
				b, other = other, b
			}
		}
		g.expectOut(b, "the end of "+how)
		g.expect(other.do("GET", g.wiki+"/data"), http.StatusOK)
		if sessions := list(); len(sessions) != 1 {
			t.Errorf("%s: %d sessions are left", how, len(sessions))
		}
		g.expect(g.browser().do("DELETE", "http://localhost:"+g.adminPort+"/aventus_auth/sessions?sub="+
			url.QueryEscape("auth0|ada")), http.StatusNoContent)
		g.expectOut(other, "the end of all")
		g.clock.Add(10 * time.Minute)
	}
}

// TestUserAtManyHosts: the profile, the placeholders and the token's header say the same at each host.
func TestUserAtManyHosts(t *testing.T) {
	g := newGroup(t, setup{
		block: "profile /me\ntoken_header X-Access-Token",
		caddyfile: "%s\nrequest_header X-User " +
			"{http.auth.user.id}:{http.auth.user.name}:{http.auth.user.scope}\nreverse_proxy %app",
	}, true)
	b := g.browser()
	g.signInEverywhere(b)
	var profile, user, token string
	for i, r := range g.requests() {
		if i == 0 {
			user, token = r.Header.Get("X-User"), r.Header.Get("X-Access-Token")
		}
		if r.Header.Get("X-User") != user || r.Header.Get("X-Access-Token") != token ||
			r.Header.Get("Authorization") != "" {
			t.Errorf("%s: the app is sent %v", r.Host, r.Header)
		}
	}
	if user != "auth0|ada:Ada Lovelace:openid profile" || !strings.HasPrefix(token, "ey") {
		t.Errorf("the app is sent %q %q", user, token)
	}
	for _, origin := range []string{g.login, g.app, g.wiki, g.team} {
		a := b.do("GET", origin+"/me")
		g.expect(a, http.StatusOK)
		if profile == "" {
			profile = a.body
		}
		if a.body != profile || !strings.Contains(a.body, "auth0|ada") {
			t.Errorf("%s: the profile is %s", origin, a.body)
		}
		g.expect(g.browser().do("GET", origin+"/me"), http.StatusUnauthorized)
		// What a client brings under the token's name goes nowhere.
		g.expect(b.do("GET", origin+"/", "X-Access-Token", "forged", "Authorization", "Basic YTpi"), http.StatusOK)
		if seen := g.requests(); len(seen) != 1 || seen[0].Header.Get("X-Access-Token") != token ||
			seen[0].Header.Get("Authorization") != "Basic YTpi" {
			t.Errorf("%s: the app is sent %v", origin, seen)
		}
	}
}

// TestAnonymousAtManyHosts: what has no session is answered at each host as the block there says.
func TestAnonymousAtManyHosts(t *testing.T) {
	const hosts = "hosts app.localhost wiki.localhost a.team.localhost\n"
	g := newGroup(t, setup{sites: func(w *world) string {
		site := func(host, more string) string {
			return "http://" + host + ":" + w.port + " {\n" + w.directive("", hosts+more) + "\nreverse_proxy " +
				w.app + "\n}\n"
		}
		return site("login.localhost", "") + site("app.localhost", "unauthenticated redirect") +
			site("wiki.localhost", "unauthenticated pass") + site("a.team.localhost", "unauthenticated deny")
	}}, false)
	b := g.browser()
	g.expectPage(b, g.wiki+"/", 0)
	if seen := g.requests(); len(seen) != 1 || seen[0].Header["Authorization"] != nil ||
		seen[0].Header["Cookie"] != nil {
		t.Errorf("without a session, the app is sent %v", seen)
	}
	g.expect(b.get(g.team+"/"), http.StatusUnauthorized)
	g.expect(b.do("GET", g.app+"/socket", "Connection", "Upgrade", "Upgrade", "websocket"), http.StatusUnauthorized)

	// A form is lost, and its page is not: by GET, to the very URL.
	a := b.do("POST", g.app+"/form?x=1", "Sec-Fetch-Mode", "cors")
	g.expect(a, http.StatusSeeOther)
	if !strings.HasPrefix(a.location(), g.login+"/oauth2/callback?"+requestParam+"=") {
		t.Fatalf("it leads to %s", a.location())
	}
	if a, _ = b.visit(a.location()); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/form?x=1" ||
		a.Request.Method != http.MethodGet {
		t.Errorf("it ends by %s at %s with %d", a.Request.Method, a.Request.URL, a.StatusCode)
	}
	// A form that a page sends is led on by a page, since the other host may be none that its policy lets it
	// send forms to.
	a = g.browser().do("POST", g.app+"/form", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
		"Accept", "text/html")
	g.expect(a, http.StatusOK)
	if !strings.Contains(a.body, `url=`+g.login+"/oauth2/callback?"+requestParam+"=") || a.location() != "" {
		t.Errorf("a form gets %v %s", a.Header, a.body)
	}

	// A ticket that comes to a host whose block denies or passes makes a session there all the same, as a
	// callback does.
	g.requests()
	g.expect(b.get(g.team+"/"), http.StatusUnauthorized)
	g.expectPage(b, g.wiki+"/", 0)
	if seen := g.requests(); len(seen) != 1 || seen[0].Header["Authorization"] != nil {
		t.Errorf("without a session there, the app is sent %v", seen)
	}
}

// TestScopesPerHost: requirements are each site's own, and what lacks them at one host is let in at another.
func TestScopesPerHost(t *testing.T) {
	const hosts = "hosts app.localhost wiki.localhost\n"
	g := newGroup(t, setup{sites: func(w *world) string {
		site := func(host, matcher, more string) string {
			return "http://" + host + ":" + w.port + " {\n" + w.directive(matcher, hosts+more) + "\nreverse_proxy " +
				w.app + errorsShown + "\n}\n"
		}
		both := w.directive("/admin/*", hosts+"require_scope read:reports")
		return site("login.localhost", "", "") + site("app.localhost", "", "require_scope read:reports") +
			strings.Replace(site("wiki.localhost", "", "require_scope profile"), " {\n", " {\n"+both+"\n", 1)
	}}, false)
	b := g.browser()
	a, _ := b.visit(g.app + "/")
	if a.StatusCode != http.StatusForbidden || !strings.HasPrefix(a.Request.URL.String(), g.app) ||
		!strings.Contains(a.body, "insufficient_scope") {
		t.Errorf("the app answers %d %s at %s", a.StatusCode, a.body, a.Request.URL)
	}
	g.expectPage(b, g.wiki+"/", 0)
	g.expectPage(b, g.wiki+"/admins", 0)
	if a, _ := b.visit(g.wiki + "/admin/x"); a.StatusCode != http.StatusForbidden {
		t.Errorf("the wiki's other block answers %d", a.StatusCode)
	}
}

// TestLogoutProviderAtManyHosts: the logout leads by the authorization server's back to the host where it was
// asked for, and everybody is out everywhere, there too.
func TestLogoutProviderAtManyHosts(t *testing.T) {
	g := newGroup(t, setup{block: "logout /logout\nlogout_provider"}, true)
	b := g.browser()
	g.signInEverywhere(b)
	a := b.get(g.wiki + "/logout")
	g.expect(a, http.StatusSeeOther)
	if back := query(a.location(), "returnTo"); back != g.wiki+"/logout?signed_out" {
		t.Errorf("the logout leads to %s", a.location())
	}
	a = b.get(g.wiki + "/logout?signed_out")
	if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
		t.Errorf("it ends with %d %s", a.StatusCode, a.body)
	}
	g.expectOut(b, "the logout")
}

// TestLogoutOfOneGroup: of two logins of one Caddy, a logout ends the one at whose hosts it was asked for.
func TestLogoutOfOneGroup(t *testing.T) {
	g := newGroup(t, twoGroups("logout /logout"), false)
	b := g.browser()
	sso := g.at("sso.localhost")
	for origin, logins := range map[string]int{g.app: 1, g.wiki: 1} {
		g.expectPage(b, origin+"/", logins)
	}
	g.expectPage(b, sso+"/", 0)
	g.expectPage(b, g.login+"/", 0)
	g.expect(b.get(g.app+"/logout"), http.StatusOK)
	for origin, want := range map[string]int{g.app: 401, g.login: 401, g.wiki: 200, sso: 200} {
		if a := b.do("GET", origin+"/data"); a.StatusCode != want {
			t.Errorf("%s answers %d, want %d", origin, a.StatusCode, want)
		}
	}
}

// groupsOfOneHost is two groups with a host in common. The first has a logout, and the second what is given.
func groupsOfOneHost(second string) setup {
	s := twoGroups("")
	s.sites = func(w *world) string {
		own := w.directive("/one/*", "hosts app.localhost\nlogout /logout")
		other := strings.NewReplacer("the-client", "another", "//login.", "//sso.").Replace(
			w.directive("/two/*", "hosts app.localhost\n"+second+"session {\nname two\n}"))
		site := func(host, blocks string) string {
			return "http://" + host + ":" + w.port + " {\n" + blocks + "\nreverse_proxy " + w.app + "\n}\n"
		}
		return site("login.localhost", own) + site("app.localhost", own+"\n"+other) + site("sso.localhost", other)
	}
	return s
}

// TestLogoutBesideAnotherGroup: two groups have a host in common, where the browser has a session of the one and none
// of the other. The logout of the other's block there ends the one, and asks the login host of its own group as well.
func TestLogoutBesideAnotherGroup(t *testing.T) {
	g := newGroup(t, groupsOfOneHost(""), false)
	b := g.browser()
	g.expectPage(b, g.login+"/one/", 1)
	g.expectPage(b, g.app+"/two/", 1)
	a := b.get(g.app + "/logout")
	g.expect(a, http.StatusSeeOther)
	for strings.HasPrefix(a.location(), g.login) || strings.HasPrefix(a.location(), g.app) {
		a = b.get(a.location())
	}
	if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
		t.Errorf("the logout ends with %d %s", a.StatusCode, a.body)
	}
	for _, page := range []string{g.login + "/one/data", g.app + "/one/data", g.app + "/two/data"} {
		g.expect(b.do("GET", page), http.StatusUnauthorized)
	}
}

// TestLifetimePerHost: a block may end its sessions earlier than that of the login host. People sign in again
// then, and see no error.
func TestLifetimePerHost(t *testing.T) {
	for _, line := range []string{"lifetime 1h", "idle 30m"} {
		g := newGroup(t, setup{sites: func(w *world) string {
			const hosts = "hosts app.localhost wiki.localhost\n"
			site := func(host, more string) string {
				return "http://" + host + ":" + w.port + " {\n" + w.directive("", hosts+more) + "\nreverse_proxy " +
					w.app + errorsShown + "\n}\n"
			}
			return site("login.localhost", "") + site("app.localhost", "session {\n"+line+"\n}") +
				site("wiki.localhost", "")
		}}, false)
		b := g.browser()
		g.expectPage(b, g.app+"/", 1)
		g.expectPage(b, g.wiki+"/", 0)
		g.clock.Add(61 * time.Minute)
		g.expect(b.do("GET", g.app+"/data"), http.StatusUnauthorized)
		g.expectPage(b, g.wiki+"/", 0)
		if a, trail := b.visit(g.app + "/page"); a.StatusCode != http.StatusOK || a.body != "the app" {
			t.Errorf("%s: the visit ends with %d %s by %q", line, a.StatusCode, a.body, trail)
		} else if n := strings.Count(strings.Join(trail, " "), g.app+"/oauth2/callback"); n > 3 { // two are refused
			t.Errorf("%s: %d tickets are brought", line, n)
		}
		g.expectPage(b, g.app+"/", 0)
	}
}

// TestHostsAreAdded to a login that people are signed in at: they stay so, and come to the new host by one more
// login. When the list is gone again, they are signed in where they were.
func TestHostsAreAdded(t *testing.T) {
	for _, block := range []string{"", "session {\nstore storage\n}"} {
		g := newGroup(t, setup{block: "hosts app.localhost wiki.localhost\n" + block}, true)
		with := g.config
		without := strings.ReplaceAll(with, "hosts app.localhost wiki.localhost\n", "")
		g.run(without)
		b := g.browser()
		g.expectPage(b, g.login+"/", 1)
		g.run(with)
		g.expectPage(b, g.login+"/", 0)
		g.expectPage(b, g.app+"/", 1)
		g.expectPage(b, g.wiki+"/", 0)
		g.run(without)
		g.expectPage(b, g.login+"/", 0)
	}
}
