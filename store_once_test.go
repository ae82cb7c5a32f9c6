package aventusauth

import (
	"cmp"
	"errors"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// failCall has the nth call of the storage from now on fail, and no other; failFrom has all from the nth on fail. The
// returned function ends that, and says which call was the first; "" if there were fewer. What removes expired files
// in the background is not counted: it reads and deletes by the hour, and nobody waits for it.
func failCall(t *testing.T, n int) (end func() string) { return failCalls(t, n, n) }
func failFrom(t *testing.T, n int) (end func() string) { return failCalls(t, n, math.MaxInt) }

func failCalls(t *testing.T, first, last int) (end func() string) {
	var mu sync.Mutex
	calls, which := 0, ""
	fault := func(op, key string) error {
		if op == "list" && !strings.HasPrefix(key, "aventus_auth/ended") ||
			op == "delete" && !strings.HasPrefix(key, "aventus_auth/sessions") {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls < first || calls > last {
			return nil
		}
		which = cmp.Or(which, op+" "+key)
		return errors.New("a fault of the test")
	}
	engineFault.Store(&fault)
	t.Cleanup(func() { engineFault.Store(nil) })
	return func() string {
		engineFault.Store(nil)
		mu.Lock()
		defer mu.Unlock()
		return which
	}
}

// TestEachStorageCallFailsOnce: whichever single call of the storage fails while a session is renewed by a
// visit, nobody is signed out by it. TestRenewalStorageFailsOnce has the same for refresh tokens.
func TestEachStorageCallFailsOnce(t *testing.T) {
	script := []string{"Sec-Fetch-Mode", "cors"}
	for what, block := range map[string]string{
		"by visit, in the cookie": "", "by visit, in the storage": "session {\nstore storage\n}",
	} {
		w := newWorld(t, setup{block: block, issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
		w.onEngine()
		n := 1
		for which := "first"; which != ""; n++ {
			b := w.browser()
			b.login("/")
			w.clock.Add(56 * time.Minute)
			callback := b.get(b.get("/page").location()).location()
			end := failCall(t, n)
			a := b.get(callback)
			which = end()
			after := b.do("POST", "/save", script...)
			if a.StatusCode != http.StatusSeeOther || after.StatusCode != http.StatusOK {
				t.Errorf("%s, %s: the callback gets %d, and a script %d", what, which, a.StatusCode, after.StatusCode)
			}
		}
		if n < 4 {
			t.Errorf("%s: the storage is called %d times", what, n-2)
		}
	}
}

// TestEachStorageCallFailsOnceAtHosts: whichever single call of the storage fails while hosts get their session
// renewed by a visit, nobody is signed out by it at any of them.
func TestEachStorageCallFailsOnceAtHosts(t *testing.T) {
	script := []string{"Sec-Fetch-Mode", "cors"}
	g := newGroup(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }}, false)
	g.onEngine()
	hosts := []string{g.app, g.wiki, g.login}
	n := 1
	for which := "first"; which != ""; n++ {
		b := g.browser()
		g.signInEverywhere(b)
		g.clock.Add(56 * time.Minute)
		end := failCall(t, n)
		a, trail := b.visit(g.app + "/page")
		which = end()
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: the visit gets %d by %v", which, a.StatusCode, trail)
		}
		for _, host := range hosts {
			if a := b.do("POST", host+"/save", script...); a.StatusCode != http.StatusOK {
				t.Errorf("%s: a script at %s gets %d", which, host, a.StatusCode)
			}
		}
	}
	if n < 6 {
		t.Errorf("the storage is called %d times", n-2)
	}
}

// TestEachStorageCallFailsAtALogout: whichever call of the storage fails at a logout, or from which on all do, the
// session has ended here. If the logout says that it worked, the session has ended after a restart, too; if not, that
// is so once another logout says so.
func TestEachStorageCallFailsAtALogout(t *testing.T) {
	for block, atLeast := range map[string]int{"": 2, "session {\nstore storage\n}": 4, "scope offline_access": 4} {
		for what, fail := range map[string]func(*testing.T, int) func() string{"one": failCall, "all": failFrom} {
			w := newWorld(t, setup{block: "logout /logout\n" + block})
			w.onEngine()
			n := 1
			for which := "first"; which != ""; n++ {
				b := w.browser()
				b.login("/")
				cookie := b.cookieHeader()
				expectOver := func(when string) {
					t.Helper()
					if a := w.browser().do("GET", "/", "Cookie", cookie); a.StatusCode != http.StatusUnauthorized {
						t.Errorf("%q, %s from %s: the cookie gets %d %s", block, what, which, a.StatusCode, when)
					}
				}
				end := fail(t, n)
				status := b.get("/logout").StatusCode
				which = end()
				expectOver("after the logout")
				if status != http.StatusOK {
					w.expect(w.browser().do("GET", "/logout", "Cookie", cookie), http.StatusOK)
				}
				w.restart()
				expectOver("after a restart")
			}
			if n-2 < atLeast {
				t.Errorf("%q: the storage is called %d times", block, n-2)
			}
		}
	}
}
