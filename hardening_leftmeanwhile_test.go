package aventusauth

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestLogoutDuringCallbackAmongStrangers is TestLogoutDuringCallback while others sign out, in the name of more
// browsers than are remembered: the logout needs no session, and takes any number of cookies with any value. Nothing
// is noted of them, nor of the callback when it is over.
func TestLogoutDuringCallbackAmongStrangers(t *testing.T) {
	held := aventustest.NewHold()
	w := newWorld(t, setup{
		block: "logout /logout", issuer: func(s *aventustest.Server) { s.TokenFault = held.Answer },
	})
	b, stranger := w.browser(), w.browser()
	callback := b.begin("/page")
	held.Next()
	answered := make(chan answer)
	go func() { answered <- b.get(callback) }()
	held.Await()
	w.expect(b.do("POST", "/logout"), http.StatusOK)
	const atOnce = 600
	for sent := 0; sent <= rememberedLogins; sent += atOnce {
		var madeUp strings.Builder
		for i := range atOnce {
			fmt.Fprintf(&madeUp, "aventus_login=%d; ", sent+i)
		}
		w.expect(stranger.do("POST", "/logout", "Cookie", madeUp.String()), http.StatusOK)
	}
	latest := handlers()[0].house.logins.replacer.latest
	noted := func() int {
		latest.mu.Lock()
		defer latest.mu.Unlock()
		return len(latest.underWay)
	}
	if n := noted(); n != 1 {
		t.Errorf("%d browsers are noted, of which one has a callback under way", n)
	}
	held.Release()
	a := <-answered
	w.expect(a, http.StatusFound)
	if a.cookie("aventus_session") != nil {
		t.Error("a session is made")
	}
	w.expect(b.do("GET", "/"), http.StatusUnauthorized)
	await(t, "the callback to be forgotten", func() bool { return noted() == 0 })
}

// TestLogoutWhileTheSessionIsKept is TestLogoutDuringCallback once the code is exchanged: the record of the new
// session is just being written, and the logout knows nothing of it.
func TestLogoutWhileTheSessionIsKept(t *testing.T) {
	w := newWorld(t, setup{block: "scope offline_access\nlogout /logout"})
	w.onEngine()
	b := w.browser()
	callback := b.begin("/page")
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fault := func(op, key string) error {
		if op == "store" && strings.HasPrefix(key, "aventus_auth/sessions") {
			once.Do(func() {
				entered <- struct{}{}
				<-leave
			})
		}
		return nil
	}
	engineFault.Store(&fault)
	t.Cleanup(func() { engineFault.Store(nil) })
	answered := make(chan answer)
	go func() { answered <- b.get(callback) }()
	<-entered
	w.expect(b.do("POST", "/logout"), http.StatusOK)
	close(leave)
	a := <-answered
	w.expect(a, http.StatusFound)
	if a.cookie("aventus_session") != nil {
		t.Error("a session is made")
	}
	await(t, "the record to go", func() bool { return len(w.sessionFiles()) == 0 })
	await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
	a = b.get(b.get(a.location()).location())
	if a.StatusCode != http.StatusSeeOther || a.location() != w.site+"/page" {
		t.Errorf("status %d, sent to %s", a.StatusCode, a.location())
	}
}

// TestLogoutAtAnotherInstanceDuringCallback is TestLogoutDuringCallback where another instance serves the logout, and
// the browser had a session when it sent the callback: a renewal by visit, or a second tab's login. The session's
// record may be gone when its end is asked for.
func TestLogoutAtAnotherInstanceDuringCallback(t *testing.T) {
	for _, block := range []string{"", "logout_provider", "scope offline_access", "session {\nstore storage\n}"} {
		held := aventustest.NewHold()
		var elsewhere string
		w := newWorld(t, setup{
			issuer: func(s *aventustest.Server) { s.TokenFault, s.TokenLifetime = held.Answer, time.Hour },
			sites: func(w *world) string {
				elsewhere = "http://localhost:" + freePort(t)
				site := " {\n" + w.directive("", "logout /logout\n"+block) + "\nreverse_proxy " + w.app + errorsShown +
					"\n}\n"
				return w.site + site + elsewhere + site
			},
		})
		w.partInstances()
		b := w.browser()
		tab := b.begin("/page")
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		if !strings.Contains(block, "offline_access") {
			w.clock.Add(56 * time.Minute)
			tab = b.begin("/page")
		}
		held.Next()
		answered := make(chan answer)
		go func() { answered <- b.get(tab) }()
		held.Await()
		if a := b.do("POST", elsewhere+"/logout"); a.StatusCode >= 400 {
			t.Fatalf("%q: the logout is %d", block, a.StatusCode)
		}
		held.Release()
		a := <-answered
		if a.StatusCode != http.StatusFound || a.cookie("aventus_session") != nil {
			t.Errorf("%q: status %d, a session is made: %t", block, a.StatusCode, a.cookie("aventus_session") != nil)
			continue
		}
		for _, origin := range []string{w.site, elsewhere} {
			w.expect(b.do("GET", origin+"/"), http.StatusUnauthorized)
		}
		// It begins anew, and the logout does not count any more.
		a = b.get(b.get(a.location()).location())
		if a.StatusCode != http.StatusSeeOther || a.location() != w.site+"/page" {
			t.Errorf("%q: status %d, sent to %s", block, a.StatusCode, a.location())
		}
		w.expect(b.get("/page"), http.StatusOK)
	}
}

// TestLogoutWhileKeptWithoutStorage: if the end of that session cannot be written, the answer is an error, and has no
// cookie of the session.
func TestLogoutWhileKeptWithoutStorage(t *testing.T) {
	for _, errorRoutes := range []string{"", "\nhandle_errors {\nfile_server\n}"} {
		w := newWorld(t, setup{
			block: "logout /logout\nsession {\nstore storage\n}", caddyfile: "%s\nreverse_proxy %app" + errorRoutes,
		})
		w.onEngine()
		b := w.browser()
		callback := b.begin("/page")
		entered, leave := make(chan struct{}), make(chan struct{})
		var once sync.Once
		var fails atomic.Bool
		fault := func(op, key string) error {
			if op == "store" && strings.HasPrefix(key, "aventus_auth/sessions") {
				once.Do(func() {
					close(entered)
					<-leave
				})
			}
			if fails.Load() && (op == "store" && strings.HasPrefix(key, "aventus_auth/ended") || op == "delete") {
				return errors.New("a fault of the test")
			}
			return nil
		}
		engineFault.Store(&fault)
		t.Cleanup(func() { engineFault.Store(nil) })
		answered := make(chan answer)
		go func() { answered <- b.get(callback) }()
		<-entered
		w.expect(b.do("POST", "/logout"), http.StatusOK)
		fails.Store(true)
		close(leave)
		a := <-answered
		w.expect(a, http.StatusServiceUnavailable)
		if c := a.cookie("aventus_session"); c != nil && c.MaxAge > 0 {
			t.Errorf("%q: the session's cookie, for %d s", errorRoutes, c.MaxAge)
		}
	}
}
