package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestLogoutDuringCallbackAmongStrangers is TestLogoutDuringCallback while others sign out, in the name of more
// browsers than are remembered: the logout needs no session, and takes any number of cookies with any value. Nothing
// is noted of them, nor of the callback when it is over.
func TestLogoutDuringCallbackAmongStrangers(t *testing.T) {
	held := aventustest.NewHold()
	w := newWorld(t, setup{block: "logout /logout", issuer: func(s *aventustest.Server) { s.TokenFault = held.Answer }})
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

// TestLogoutWhileTheSessionIsKept is TestLogoutDuringCallback once the code is exchanged: the record of the new session
// is just being written, and the logout knows nothing of it.
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
