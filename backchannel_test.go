package aventusauth

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

const backchannelPath = "/oauth2/backchannel"

// toldOfLogouts is a world whose authorization server says when a session has ended.
func toldOfLogouts(t *testing.T, s setup) *world {
	t.Helper()
	wanted := s.issuer
	s.issuer = func(server *aventustest.Server) {
		client := &server.Clients[0]
		client.LogoutURI = strings.TrimSuffix(client.RedirectURIs[0], "/oauth2/callback") + backchannelPath
		if wanted != nil {
			wanted(server)
		}
	}
	s.block += "\nbackchannel_logout " + backchannelPath + "\nprofile /me"
	if s.caddyfile == "" {
		s.caddyfile = "%s\nreverse_proxy %app" + errorsShown
	}
	return newWorld(t, s)
}

// sid returns the session at the authorization server that a browser's came of.
func (b *browser) sid() string {
	b.w.t.Helper()
	var me struct{ Claims struct{ Sid string } }
	if err := json.Unmarshal([]byte(b.get("/me").body), &me); err != nil || me.Claims.Sid == "" {
		b.w.t.Fatalf("there is no sid: %v", err)
	}
	return me.Claims.Sid
}

// tellsOut delivers a logout token, and returns the answer.
func (w *world) tellsOut(token string) aventustest.Delivery {
	w.t.Helper()
	isFirst := w.isFirst(&w.told)
	d := w.issuer.Deliver(w.site+backchannelPath, "the-client", token)
	if d.Err != nil && isFirst {
		d = w.issuer.Deliver(w.site+backchannelPath, "the-client", token)
	}
	if d.Err != nil {
		w.t.Fatal(d.Err)
	}
	if got := d.Header.Get("Cache-Control"); got != "no-store" || d.Header["Set-Cookie"] != nil {
		w.t.Errorf("a logout token is answered with %v", d.Header)
	}
	return d
}

func (w *world) expectTold(token string, status int) {
	w.t.Helper()
	if d := w.tellsOut(token); d.Status != status {
		w.t.Errorf("the logout token got %d %s, want %d", d.Status, d.Body, status)
	}
}

// TestBackchannelLogout: whoever signs out at the authorization server is out here, wherever their sessions
// rest, and nobody else is; they can sign in again at once, and the end outlives a restart.
func TestBackchannelLogout(t *testing.T) {
	for _, block := range []string{"", "session {\nstore storage\n}", "scope offline_access"} {
		w := toldOfLogouts(t, setup{admin: true, block: block})
		ada, phone := w.browser(), w.browser()
		ada.login("/")
		phone.login("/")
		w.expect(phone.get("/"), http.StatusOK)
		w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", ada.sid()), http.StatusOK)
		w.expect(ada.get("/"), http.StatusFound)
		w.expect(phone.get("/"), http.StatusOK)

		sid := phone.sid()
		w.issuer.LogOut("auth0|ada")
		for _, d := range w.issuer.Deliveries() {
			if d.Status != http.StatusOK || d.Body != "" {
				t.Errorf("a logout token got %d %s", d.Status, d.Body)
			}
		}
		w.expect(phone.get("/"), http.StatusFound)
		for _, want := range []string{
			`"msg":"signed out by the authorization server"`, `"user_id":"auth0|ada"`, `"sid":"` + sid + `"`,
		} {
			if !strings.Contains(w.log(), want) {
				t.Errorf("the log has no %s", want)
			}
		}
		w.expectMetrics(map[string]string{`backchannel_logouts_total{outcome="ended"`: "3"})

		w.restart()
		w.expect(phone.get("/"), http.StatusFound)
		phone.login("/")
		w.expect(phone.get("/"), http.StatusOK)
	}
}

// TestBackchannelLogoutOfUser: a token without sid ends all of a user's sessions, and one with both ends those
// of them, too, that do not say what they came of.
func TestBackchannelLogoutOfUser(t *testing.T) {
	for _, noSID := range []bool{false, true} {
		w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) { s.NoSID = noSID }})
		b := w.browser()
		b.login("/")
		sid := ""
		if noSID {
			sid = "of another session"
		}
		w.expectTold(w.issuer.LogoutToken("the-client", "auth0|grace", sid), http.StatusOK)
		w.expect(b.get("/"), http.StatusOK)
		w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", sid), http.StatusOK)
		w.expect(b.get("/"), http.StatusFound)
		w.clock.Add(time.Second)
		b.loginAgain("/")
		w.expect(b.get("/"), http.StatusOK)
		w.clock.Add(5 * time.Minute) // by which clocks may differ
		other := w.browser()
		other.login("/")
		w.expect(other.get("/"), http.StatusOK)
	}
}

// TestBackchannelLogoutListed: the list of sessions has the session at the authorization server, and none that
// it has ended.
func TestBackchannelLogoutListed(t *testing.T) {
	w := toldOfLogouts(t, setup{admin: true, block: "session {\nstore storage\n}"})
	b := w.browser()
	b.login("/")
	sid := b.sid()
	list := func() string { return w.browser().do("GET", "http://localhost:"+w.adminPort+adminPath).body }
	if got := list(); !strings.Contains(got, `"sid":"`+sid+`"`) {
		t.Errorf("the sessions are %s", got)
	}
	w.issuer.LogOut("auth0|ada")
	if got := list(); strings.TrimSpace(got) != "[]" {
		t.Errorf("the sessions are %s", got)
	}
}

// TestBackchannelLogoutOfClients: several blocks may have the same path. A token is for the one whose client it
// names, whichever the request comes to first; one for a client of no block is refused.
func TestBackchannelLogoutOfClients(t *testing.T) {
	staff := func(w *world) string {
		return strings.NewReplacer("the-client", "staff", "/oauth2/callback", "/staff/callback").Replace(
			w.directive("/staff/*", "session {\nname staff\n}\nbackchannel_logout "+backchannelPath))
	}
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/one/*", "backchannel_logout "+backchannelPath) + "\n" + staff(w) +
			"\nreverse_proxy " + w.app + "\n}"
	}, issuer: func(s *aventustest.Server) {
		site := strings.TrimSuffix(s.Clients[0].RedirectURIs[0], "/oauth2/callback")
		s.Clients[0].LogoutURI = site + backchannelPath
		s.Clients = append(s.Clients, aventustest.Client{
			ID: "staff", Secret: testSecret, RedirectURIs: []string{site + "/staff/callback"},
			LogoutURI: site + backchannelPath,
		})
	}})
	b := w.browser()
	b.login("/one/")
	a := b.get("/staff/")
	w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
	w.expect(b.get("/staff/"), http.StatusOK)
	w.issuer.LogOut("auth0|ada")
	deliveries := w.issuer.Deliveries()
	if len(deliveries) != 2 {
		t.Errorf("%d logout tokens were sent", len(deliveries))
	}
	for _, d := range deliveries {
		if d.Status != http.StatusOK {
			t.Errorf("the token of %s got %d %s", d.ClientID, d.Status, d.Body)
		}
	}
	w.expect(b.get("/one/"), http.StatusFound)
	w.expect(b.get("/staff/"), http.StatusFound)
	w.expectTold(w.issuer.LogoutToken("somebody-else", "auth0|ada", ""), http.StatusBadRequest)
}

// TestBackchannelLogoutElsewhere: a token comes to one instance, and another, which shares nothing with it but the
// storage, lets the session in no longer once it has asked what has ended, wherever that session rests.
func TestBackchannelLogoutElsewhere(t *testing.T) {
	for _, block := range []string{"", "session {\nstore storage\n}", "scope offline_access"} {
		for _, bySub := range []bool{false, true} {
			w := twoInstances(t, setup{block: "profile /me\nbackchannel_logout " + backchannelPath + "\n" + block})
			w.partInstances()
			b := w.browser()
			b.login("/two/")
			w.expect(b.get("/one/"), http.StatusOK)
			w.expect(b.get("/two/"), http.StatusOK)
			sid := b.sid()
			if bySub {
				sid = ""
			}
			w.clock.Add(time.Second)
			w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", sid), http.StatusOK)
			w.expect(b.get("/one/"), http.StatusFound)
			// It asks by itself every records.LearnInterval.
			if err := handlers()[1].house.keeper.ends.ended.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.expect(b.get("/two/"), http.StatusFound)
		}
	}
}
