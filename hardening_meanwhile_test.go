package aventusauth

import (
	"errors"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestLogoutDuringVisit: a renewal by visit is under way while its visitor signs out, here and at the
// authorization server. When it comes back, with a code that was made before, it signs nobody in.
func TestLogoutDuringVisit(t *testing.T) {
	for _, again := range []bool{false, true} { // a login is under way, or a renewal
		w := newWorld(t, setup{
			block:  "logout /logout\nlogout_provider",
			issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		})
		b := w.browser()
		if b.login("/"); again {
			w.clock.Add(56 * time.Minute)
		} else {
			b.client.Jar, _ = cookiejar.New(nil)
		}
		callback := b.begin("/page")
		w.expect(b.do("POST", "/logout"), http.StatusSeeOther)
		a := b.get(callback)
		w.expect(a, http.StatusFound)
		if a.cookie("aventus_session") != nil || !strings.HasPrefix(a.location(), w.issuer.Issuer+"authorize?") {
			t.Errorf("again %v: sent to %s, with %v", again, a.location(), a.Cookies())
		}
		w.expect(b.do("GET", "/"), http.StatusUnauthorized)
		// Who signs in there comes to the page.
		a = b.get(b.get(a.location()).location())
		if a.location() != w.site+"/page" {
			t.Errorf("again %v: sent to %s", again, a.location())
		}
	}
}

// TestLogoutOfForgottenSession: a logout while the storage is down ends a session in the storage, once that is
// back, also where the session is not remembered and so cannot be read.
func TestLogoutOfForgottenSession(t *testing.T) {
	for _, operation := range []string{"load", ""} { // reading fails, or everything does
		w := newWorld(t, setup{block: "logout /logout\nsession {\nstore storage\n}"})
		w.onEngine()
		b := w.browser()
		copied := b.login("/").cookie("aventus_session").Value
		w.clock.Add(2 * time.Hour) // the login is not remembered any more
		w.expect(b.get("/"), http.StatusOK)
		s := handlers()[0].house.keeper.memory.all()[0].session
		w.forgetSessions()
		down := func(op, key string) error {
			if operation == "" || operation == op && strings.HasPrefix(key, "aventus_auth/sessions") {
				return errors.New("a fault of the test")
			}
			return nil
		}
		engineFault.Store(&down)
		t.Cleanup(func() { engineFault.Store(nil) })
		w.expect(b.get("/logout"), http.StatusServiceUnavailable)
		engineFault.Store(nil)
		a := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied, "Sec-Fetch-Mode", "navigate")
		w.expect(a, http.StatusFound)
		await(t, "the end to be written", func() bool { return !handlers()[0].house.keeper.ends.isUnwritten(s) })
		w.restart()
		a = w.browser().do("GET", "/", "Cookie", "aventus_session="+copied, "Sec-Fetch-Mode", "navigate")
		w.expect(a, http.StatusFound)
	}
}

// TestLogoutWhileRenewedIsWritten: a logout finds the record of before a renewal, since the one after it is just
// being written, or could not be yet. The refresh token that has come is revoked, too, and no record is left.
func TestLogoutWhileRenewedIsWritten(t *testing.T) {
	for _, fails := range []bool{false, true} {
		w := refreshing(t, setup{})
		w.onEngine()
		b := w.browser()
		b.login("/")
		w.clock.Add(57 * time.Minute)
		entered, leave := make(chan struct{}, 1), make(chan struct{})
		var writes atomic.Int64
		fault := func(op, key string) error {
			if op != "store" || !strings.HasPrefix(key, "aventus_auth/sessions") || writes.Add(1) < 2 {
				return nil // the first is the note
			}
			if fails {
				select {
				case entered <- struct{}{}:
				default:
				}
				return errors.New("a fault of the test")
			}
			entered <- struct{}{}
			<-leave
			return nil
		}
		engineFault.Store(&fault)
		t.Cleanup(func() { engineFault.Store(nil) })
		w.expect(b.get("/"), http.StatusOK)
		<-entered
		if fails {
			await(t, "the renewed session", func() bool { return strings.Contains(w.log(), "could not be recorded") })
		}
		w.expect(b.get("/logout"), http.StatusOK)
		close(leave)
		await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) == 2 })
		await(t, "the record to go", func() bool { return len(w.sessionFiles()) == 0 })
		engineFault.Store(nil)
	}
}

// TestStreamOfTheFuture: a session that was made while the clock was a year ahead is none once the clock is
// right, and so is a stream that was opened with it.
func TestStreamOfTheFuture(t *testing.T) {
	checkStreamsOften(t)
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy " + newStreamer(t)})
	w.clock.Set(365 * 24 * time.Hour)
	b := w.browser()
	b.login("/oops?")
	cookie := "Cookie: " + b.cookieHeader() + "\r\n"
	_, socket := w.open("/ws", cookie+websocketHeaders)
	_, events := w.open("/events", cookie+"Accept: text/event-stream\r\n")
	w.clock.Set(-365 * 24 * time.Hour)
	if !streamEnds(socket) || !streamEnds(events) {
		t.Error("a stream of the future goes on")
	}
}

// TestLogoutTokenOutlivesConfig: a logout token arrives at an instance, or at a time, whose config has sessions last
// for a day. One that lasts for a month, by another config with the same keys, does not come back on the third day,
// also where the keys say nothing of other configs, or too many tokens come at once for the storage to be asked.
func TestLogoutTokenOutlivesConfig(t *testing.T) {
	for _, c := range []struct {
		keys   string
		isBusy bool
	}{
		{keys: ""}, {keys: "\nkey " + strings.Repeat("A", 43)}, {isBusy: true},
	} {
		w := toldOfLogouts(t, setup{block: "scope offline_access\nsession {\nlifetime 720h" + c.keys + "\n}"})
		b := w.browser()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		sid, month := b.sid(), w.config
		w.run(strings.Replace(month, "lifetime 720h", "lifetime 24h", 1))
		bc, status := handlers()[0].house.gate.backchannel, http.StatusOK
		if c.isBusy {
			// The key is known then, so the next token does not wait for it.
			w.expectTold(w.issuer.LogoutToken("the-client", "auth0|bob", "another"), http.StatusOK)
			for range logoutsAtOnce {
				bc.busy <- struct{}{}
			}
			status = http.StatusServiceUnavailable
		}
		w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", sid), status)
		w.run(month)
		w.expect(b.get("/"), http.StatusFound)
		ended := handlers()[0].house.shared.ended
		name := serverSessionID(bc.ends.issuer, sid)
		await(t, "the end to be written", func() bool { return !ended.IsUnwritten(name) })
		w.clock.Add(72 * time.Hour)
		for range 2 { // as it does every few seconds, whether all is listed or not
			if err := ended.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.expect(b.get("/"), http.StatusFound)
	}
}

// TestForeignAddressInFull: signing up with an address that is somebody else's opens nothing either where the rule
// has the whole address.
func TestForeignAddressInFull(t *testing.T) {
	email, verified := "boss@example.com", any(nil)
	w := newWorld(t, setup{block: "require_claim email boss@example.com", issuer: func(s *aventustest.Server) {
		s.Claims = func(aventustest.User) map[string]any {
			return map[string]any{"email": email, "email_verified": verified}
		}
	}})
	for _, tc := range []struct {
		verified any
		want     int
	}{{true, 200}, {"true", 200}, {nil, 200}, {false, 403}, {"false", 403}} {
		verified = tc.verified
		b := w.browser()
		b.login("/")
		if a := b.get("/"); a.StatusCode != tc.want {
			t.Errorf("verified %v: status %d, want %d", tc.verified, a.StatusCode, tc.want)
		}
	}
}

// TestLogoutDuringCallback: a logout in one tab, while the code of another tab's login is being exchanged, is not
// undone by the session that would come of it, by any block, and however often the browser has signed out before.
func TestLogoutDuringCallback(t *testing.T) {
	for _, path := range []string{"/a/page", "/b/page"} { // of the block that has the logout, and of another
		held := aventustest.NewHold()
		blocks := twoBlocks("scope offline_access\nlogout /logout", "scope offline_access\nsession {\nname two\n}")
		blocks.issuer = func(s *aventustest.Server) { s.TokenFault = held.Answer }
		w := newWorld(t, blocks)
		b := w.browser()
		revoked := 0
		for round, signedIn := range []bool{false, true, false, true} {
			callback := b.begin(path)
			if signedIn {
				b.login(path)
				revoked++
			}
			held.Next()
			answered := make(chan answer)
			go func() { answered <- b.get(callback) }()
			held.Await()
			w.expect(b.do("POST", "/logout"), http.StatusOK)
			held.Release()
			a := <-answered
			w.expect(a, http.StatusFound)
			if a.cookie("aventus_session") != nil || a.cookie("two") != nil {
				t.Errorf("%s, round %d: a session is made: %v", path, round, a.Header)
			}
			w.expect(b.do("GET", path), http.StatusUnauthorized)
			// It begins anew, and a logout of before does not count any more.
			a = b.get(b.get(a.location()).location())
			if a.StatusCode != http.StatusSeeOther || a.location() != w.site+path {
				t.Errorf("%s, round %d: status %d, sent to %s", path, round, a.StatusCode, a.location())
			}
			w.expect(b.get("/logout"), http.StatusOK)
			revoked += 2 // what the callback has got, and the last login
			await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) == revoked })
		}
	}
}

// TestLogoutTokenJustBeforeTheSession: all that a user has is ended after a callback has asked whether it was, and
// before its session is made. That session has ended, too: it is not taken for one of a login that came later.
func TestLogoutTokenJustBeforeTheSession(t *testing.T) {
	var latest *lastLogins
	w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) {
		s.EditAnswer = func(string, map[string]any) { latest.mu.Lock() } // it is asked for once more after that
	}})
	latest = handlers()[0].house.logins.replacer.latest
	b := w.browser()
	callback := b.begin("/page")
	answered := make(chan answer)
	go func() { answered <- b.get(callback) }()
	await(t, "the callback's last question", func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*lastLogins).finish.func1")
	})
	w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", ""), http.StatusOK)
	latest.mu.Unlock()
	w.expect(<-answered, http.StatusSeeOther)
	w.expect(b.get("/page"), http.StatusFound)
}

// TestEditedOpenID: with openid taken out of the authorize URL, no ID token comes, and with an opaque access token
// nothing says whose the session is: no logout token would end it. So there is none where logout tokens count, also
// by another block.
func TestEditedOpenID(t *testing.T) {
	for _, blocks := range []int{1, 2} {
		w := toldOfLogouts(t, setup{opaque: true, sites: func(w *world) string {
			site := w.directive("", "profile /me\nbackchannel_logout "+backchannelPath) + "\nreverse_proxy " + w.app
			if blocks == 2 { // alike, but that it takes no logout tokens
				site = w.directive("/a/*", "") + "\n" + site
			}
			return w.site + " {\nroute {\n" + site + "\n}" + errorsShown + "\n}"
		}})
		for _, scope := range []string{"profile", ""} {
			b := w.browser()
			w.expectRefused(b.edited("/a/", "scope", scope), "no ID token came")
			w.expect(b.get("/"), http.StatusFound)
		}
		b := w.browser()
		w.expect(b.edited("/a/", "scope", "openid"), http.StatusSeeOther)
		w.expect(b.get("/"), http.StatusOK)
		w.issuer.LogOut("auth0|ada")
		w.expect(b.get("/"), http.StatusFound)
	}
}

// TestLogoutTokensOfAnotherClient: that logout tokens count for another client is no reason to refuse a login without
// an ID token.
func TestLogoutTokensOfAnotherClient(t *testing.T) {
	w := newWorld(t, setup{opaque: true, sites: func(w *world) string {
		other := strings.Replace(w.directive("/a/*", "backchannel_logout "+backchannelPath+"\nsession {\nname a\n}"),
			"client_id the-client", "client_id another", 1)
		return w.site + " {\nroute {\n" + other + "\n" + w.directive("", "") + "\nreverse_proxy " + w.app +
			"\n}" + errorsShown + "\n}"
	}})
	b := w.browser()
	w.expect(b.edited("/", "scope", "profile"), http.StatusSeeOther)
	w.expect(b.get("/"), http.StatusOK)
}

// TestLogoutElsewhereDuringVisit is TestLogoutDuringVisit at several hosts: the renewal is under way at the login
// host, and its visitor signs out at another, which cannot delete the login host's cookies.
func TestLogoutElsewhereDuringVisit(t *testing.T) {
	for _, newBrowser := range []bool{false, true} { // for the login host, which has made a family for it before
		g := newGroup(t, setup{
			block:  "logout /logout\nlogout_provider",
			issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		}, true)
		b := g.browser()
		g.expectPage(b, g.app+"/", 1)
		g.clock.Add(56 * time.Minute)
		if newBrowser {
			login, _ := url.Parse(g.login)
			b.client.Jar.SetCookies(login, []*http.Cookie{{Name: "aventus_login", Path: "/", MaxAge: -1}})
		}
		a := b.get(g.app + "/page")
		for !strings.Contains(a.location(), "code=") {
			g.expect(a, http.StatusFound)
			a = b.get(a.location())
		}
		callback := a.location()
		g.clock.Add(2 * time.Second)
		g.expect(b.do("POST", g.app+"/logout"), http.StatusSeeOther)
		g.forgetSessions() // another instance gets the callback
		a = b.get(callback)
		if a.StatusCode != http.StatusFound || !strings.HasPrefix(a.location(), g.issuer.Issuer+"authorize?") {
			t.Errorf("status %d, sent to %s", a.StatusCode, a.location())
		}
		for _, origin := range []string{g.login, g.app} {
			g.expect(b.do("GET", origin+"/"), http.StatusUnauthorized)
		}
		// Who signs in there, a moment later, is signed in.
		g.clock.Add(time.Second)
		if a, _ = b.visit(a.location()); a.StatusCode != http.StatusOK || a.Request.URL.String() != g.app+"/page" {
			t.Errorf("status %d at %s", a.StatusCode, a.Request.URL)
		}
		g.expect(b.do("GET", g.login+"/"), http.StatusOK)
	}
}
