package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
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
