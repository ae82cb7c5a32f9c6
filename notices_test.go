package aventusauth

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestRedirectOfTools: where tools are sent to the sign-in page as well, the operator is told when the config is
// loaded, and by the doctor; and not where the matcher takes pages only.
func TestRedirectOfTools(t *testing.T) {
	for _, c := range []struct {
		matcher, mode string
		warns         bool
	}{
		{"", "redirect", true},
		{"path /a /b", "redirect", true},
		{"method GET HEAD POST", "redirect", true},
		{"header X-Y *", "redirect", true},
		{"method GET HEAD", "redirect", false},
		{"header Accept *text/html*", "redirect", false},
		{"header Sec-Fetch-Mode navigate", "redirect", false},
		{"header Accept *", "redirect", true},
		{"header Sec-Fetch-Mode cors", "redirect", true},
		{"", "auto", false},
		{"", "deny", false},
	} {
		matcher, name := "", ""
		if c.matcher != "" {
			matcher, name = "@it "+c.matcher+"\n", "@it"
		}
		w := newWorld(t, setup{
			matcher: name, block: "unauthenticated " + c.mode, caddyfile: matcher + "%s\nreverse_proxy %app",
		})
		warned := false
		for line := range strings.Lines(w.log()) {
			warned = warned || strings.Contains(line, `"level":"warn"`) &&
				strings.Contains(line, "rclone sync, for one, then deletes the local files") &&
				strings.Contains(line, `"advice":"use auto, which redirects pages alone`) &&
				strings.Contains(line, w.site)
		}
		if warned != c.warns {
			t.Errorf("%s, %s: warned %t", c.matcher, c.mode, warned)
		}
		if c.matcher == "" {
			r := doctorOf(t, w.config)
			says := strings.Contains(r.line("config"), "WARN config unauthenticated: redirect sends API clients")
			if says != c.warns || r.status != 0 {
				t.Errorf("%s: the doctor says\n%s", c.mode, r.stdout)
			}
		}
	}
}

// thirdParty is a world whose client belongs to another company than the tenant.
func thirdParty(t *testing.T, audiences []string, block string) *world {
	t.Helper()
	return newWorld(t, setup{
		sites: func(w *world) string {
			directive := strings.NewReplacer("the-client", "tpc_theirs", "scope openid profile", "scope read:things").
				Replace(w.directive("", block))
			return w.site + " {\n" + directive + "\nreverse_proxy " + w.app + errorsShown + "\n}"
		},
		issuer: func(s *aventustest.Server) {
			s.Clients[0].ID, s.Clients[0].Audiences, s.TokenLifetime = "tpc_theirs", audiences, time.Hour
		},
	})
}

// TestThirdParty: for a strict third-party client, everything works that can: the login, a renewal, the rules,
// the profile and the logout. Nothing is said of it.
func TestThirdParty(t *testing.T) {
	api := []string{"https://api.example.com/"}
	for _, block := range []string{
		"", "verify_token\nrequire_scope read:things\nauthorize_param prompt login\nauthorize_param connection c",
	} {
		w := thirdParty(t, api, block+"\nscope offline_access\nlogout /logout\nprofile /me\naccept_bearer\n"+
			"session {\nlifetime 60d\n}")
		b := w.browser()
		b.login("/page")
		w.expect(b.get("/page"), http.StatusOK)
		if a := b.get("/me"); !strings.Contains(a.body, `"sub":"auth0|ada","scope":"read:things offline_access"`) {
			t.Errorf("the profile is %s", a.body)
		}
		for range 3 {
			w.clock.Add(time.Hour)
			w.expect(b.get("/page"), http.StatusOK)
		}
		w.expectNoReuse()
		w.expect(b.get("/logout"), http.StatusOK)
		w.expect(b.get("/page"), http.StatusFound)

		// A refresh token that is not used ends, and with it the session.
		b.login("/page")
		w.expect(b.get("/page"), http.StatusOK)
		w.clock.Add(16 * 24 * time.Hour)
		w.expect(b.get("/page"), http.StatusFound)
		b.login("/page")
		w.expect(b.get("/page"), http.StatusOK)
		if strings.Contains(w.log(), "third-party") {
			t.Errorf("the log says\n%s", w.log())
		}
	}
}

// TestThirdPartyInVain: what a strict third-party client asks for in vain is said when the config is loaded.
func TestThirdPartyInVain(t *testing.T) {
	w := thirdParty(t, nil,
		"scope openid email\nauthorize_param organization acme\nauthorize_param screen_hint signup\n"+
			"logout /logout\nlogout_provider\nbackchannel_logout /ended\n"+
			"authorize_url https://auth.example.com/authorize?max_age_of=x")
	for _, want := range []string{
		`are not granted openid, email, and get no ID token","subdirective":"scope"`,
		`may not send max_age_of, organization, screen_hint: the authorization server refuses every login`,
		`have no logout page`, `are sent no logout tokens`,
	} {
		if !strings.Contains(w.log(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	w = thirdParty(t, []string{"https://api.example.com/"}, "scope openid\nbackchannel_logout /ended")
	b := w.browser()
	w.expect(b.get(b.begin("/")), http.StatusBadGateway)
	if !strings.Contains(w.log(), "nobody can sign in, for with backchannel_logout a login needs one") {
		t.Error("the log does not say that nobody can sign in")
	}
	w = newWorld(t, setup{opaque: true, sites: func(w *world) string {
		return w.site + " {\n" + strings.ReplaceAll(w.directive("", ""), "the-client", "tpc_theirs") + "\n}"
	}})
	if !strings.Contains(w.log(), "without an audience nothing says who it is") {
		t.Error("the log does not ask for an audience")
	}
}

// TestThirdPartyNotGranted: an API that was not granted to a third-party client is an error, which tells the
// operator what to do. What the server shows to the person by itself never comes back here.
func TestThirdPartyNotGranted(t *testing.T) {
	w := thirdParty(t, []string{"https://other.example.com/"}, "")
	b := w.browser()
	a := b.get(b.begin("/"))
	w.expect(a, http.StatusBadGateway)
	if !strings.HasPrefix(a.body, "token_refused: ") {
		t.Errorf("the page is %s", a.body)
	}
	for _, want := range []string{
		"unauthorized_client",
		`that the API of audience was granted to it: a third-party client (tpc_...) needs a grant for each`,
	} {
		if !strings.Contains(w.log(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}

	w = thirdParty(t, []string{"https://api.example.com/"}, "")
	w.issuer.Deny = func(aventustest.User, aventustest.Client) string { return "Not you." }
	b = w.browser()
	a = b.get(b.get("/").location())
	w.expect(a, http.StatusBadRequest)
	if !strings.Contains(a.body, "Not you.") {
		t.Errorf("the authorization server's page is %s", a.body)
	}
}

// TestEmailThatNobodyHas: a rule on the email that names no address is pointed out; an address is not, nor is a value
// of another claim.
func TestEmailThatNobodyHas(t *testing.T) {
	for _, c := range []struct {
		claim, value string
		warns        bool
	}{
		{"email", "example.com", true}, {"email", "@example.com", true}, {"email", "*@example.com", false},
		{"email", "ada@example.com", false}, {"role", "admin", false}, {"org.name", "@acme", false},
	} {
		s := &settings{sites: newParts(t).sites, requireClaim: []claimRule{{c.claim, []string{c.value}}}}
		if warns := len(s.notices(nil)) == 1; warns != c.warns {
			t.Errorf("%s %s: %v", c.claim, c.value, s.notices(nil))
		}
	}
}

// TestHostsOfUnknownPersons: where nothing says whose a session is, the operator is told what that means for hosts
// that share it.
func TestHostsOfUnknownPersons(t *testing.T) {
	for _, c := range []struct {
		hosts           []string
		scope, audience string
		warns           bool
	}{
		{[]string{"app.localhost"}, "profile", "", true},
		{[]string{"app.localhost"}, "profile openid", "", false},
		{[]string{"app.localhost"}, "profile offline_access", "", false},
		{[]string{"app.localhost"}, "profile", "https://api.example.com/", false},
		{nil, "profile", "", false},
	} {
		cfg := Config{
			ClientID: "a", ClientSecret: "b", RedirectURI: "http://localhost/callback",
			Hosts: c.hosts, Scopes: strings.Fields(c.scope), Audience: c.audience,
		}
		s, err := cfg.settings()
		if err != nil {
			t.Fatal(err)
		}
		warns := false
		for _, n := range s.notices(nil) {
			warns = warns || n.about == "hosts" && strings.Contains(n.detail, "nothing may say whose a session is")
		}
		if warns != c.warns {
			t.Errorf("%v: warns %t", c, warns)
		}
	}
}
