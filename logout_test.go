package aventusauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestLogoutWhileTheStorageHangs: whoever signs out is answered within six seconds, without their cookies, and has
// signed out here, however long the storage takes with whatever it is asked.
func TestLogoutWhileTheStorageHangs(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nsession {\nstore storage\n}"})
	w.onEngine()
	b := w.browser()
	copied := b.login("/").cookie("aventus_session").Value
	w.expect(b.get("/"), http.StatusOK)
	release := make(chan struct{})
	hangs := func(string, string) error {
		<-release
		return errors.New("released")
	}
	engineFault.Store(&hangs)
	t.Cleanup(func() {
		engineFault.Store(nil)
		close(release)
	})
	began := time.Now()
	a := b.get("/logout")
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("answered after %s", took)
	}
	w.expect(a, http.StatusServiceUnavailable)
	if c := a.cookie("aventus_session"); c == nil || c.MaxAge >= 0 {
		t.Errorf("the cookie stays: %v", a.Header)
	}
	again := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied, "Sec-Fetch-Mode", "navigate")
	w.expect(again, http.StatusFound)
}

func TestLogout(t *testing.T) {
	for _, https := range []bool{false, true} {
		w := newWorld(t, setup{https: https, block: "logout /bye"})
		b := w.browser()
		session, attributes := "aventus_session", "; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
		if https {
			session, attributes = "__Host-aventus_session", attributes+"; Secure"
		}
		for _, method := range []string{"GET", "POST"} {
			b.login("/")
			a := b.do(method, "/bye", "Sec-Fetch-Site", "same-origin")
			w.expect(a, http.StatusOK)
			if got := a.Header["Set-Cookie"]; len(got) != 1 || got[0] != session+"="+attributes {
				t.Errorf("Set-Cookie %q", got)
			}
			if got := a.Header["Clear-Site-Data"]; got != nil {
				t.Errorf("the browser waits with the page for Clear-Site-Data %q", got)
			}
			forget := []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}
			c := b.do("GET", "/bye?forget", forget...)
			w.expect(c, http.StatusNoContent)
			if got := c.Header["Clear-Site-Data"]; len(got) != 1 || got[0] != `"cache"` ||
				c.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("what the page loads has %v", c.Header)
			}
			if a.Header.Get("X-Content-Type-Options") != "nosniff" ||
				a.Header.Get("Referrer-Policy") != "no-referrer" ||
				!strings.HasPrefix(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("%v", a.Header)
			}
			if !strings.Contains(a.body, "signed out") || !strings.Contains(a.body, `<a href="/">`) ||
				!strings.Contains(a.body, `<img src="?forget"`) || !strings.Contains(a.body, "<main>") ||
				a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%v\n%s", a.Header, a.body)
			}
			w.expect(b.get("/"), http.StatusFound)
			if a := b.get("/bye"); a.Header["Clear-Site-Data"] != nil || a.Header["Set-Cookie"] != nil {
				t.Errorf("nobody signs out: %v", a.Header)
			}
		}
		b.login("/")
		w.expect(b.do("GET", "/bye", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
		a := b.do("DELETE", "/bye")
		w.expect(a, http.StatusMethodNotAllowed)
		if got := a.Header.Get("Allow"); got != "GET, POST" {
			t.Errorf("Allow: %q", got)
		}
		w.expect(b.get("/"), http.StatusOK) // still signed in
		w.expect(b.do("GET", "/bye?from=mail"), http.StatusOK)
		// Without a session, the same.
		w.expect(w.browser().get("/bye"), http.StatusOK)
	}
}

func TestLogoutReturns(t *testing.T) {
	w := newWorld(t, setup{block: "logout /bye /goodbye?x"})
	a := w.browser().do("POST", "/bye")
	w.expect(a, http.StatusSeeOther)
	if a.location() != "/goodbye?x" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", a.Header)
	}
}

// TestLogoutRevokes: a logout revokes the refresh token, and holds against a
// renewal under way; that the revocation fails keeps nothing alive.
func TestLogoutRevokes(t *testing.T) {
	held := aventustest.NewHold()
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
		s.RevokeFault = aventustest.Says(http.StatusInternalServerError, "")
		s.TokenFault = held.Answer
	}})
	b := w.browser()
	copied := b.login("/").cookie("aventus_session")
	w.clock.Add(57 * time.Minute)
	held.Next()
	w.expect(b.get("/"), http.StatusOK)
	held.Await()
	w.expect(b.get("/logout"), http.StatusOK)
	held.Release()
	// Both the old refresh token and the one that came too late are revoked.
	await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) == 2 })
	if n := len(w.sessionFiles()); n != 0 {
		t.Errorf("%d records are left", n)
	}
	for range 2 {
		a := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate")
		w.expect(a, http.StatusFound)
		w.restart()
	}
}

// TestLogoutProvider: the logout goes on to the authorization server's, and comes
// back to a page that says so.
func TestLogoutProvider(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nlogout_provider"})
	b := w.browser()
	b.login("/")
	a := b.get("/logout")
	w.expect(a, http.StatusSeeOther)
	want := w.issuer.Issuer + "v2/logout?" + url.Values{
		"client_id": {"the-client"}, "returnTo": {w.site + "/logout?signed_out"},
	}.Encode()
	if a.location() != want {
		t.Errorf("sent to %s, want %s", a.location(), want)
	}
	a = b.do("GET", b.get(a.location()).location(), "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	w.expect(a, http.StatusOK)
	if !strings.Contains(a.body, "signed out") {
		t.Error(a.body)
	}
	// That page signs nobody out, and says so to nobody who is signed in.
	b.login("/")
	w.expect(b.do("GET", "/logout?signed_out", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
	for _, from := range []string{"same-origin", "none"} {
		a = b.do("GET", "/logout?signed_out", "Sec-Fetch-Site", from, "Sec-Fetch-Mode", "navigate")
		w.expect(a, http.StatusSeeOther)
		if a.location() != w.site+"/" || a.Header["Set-Cookie"] != nil || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("from %s: %v", from, a.Header)
		}
	}
	w.expect(b.get("/"), http.StatusOK)
	w.expect(b.do("GET", "/logout", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
	if len(w.issuer.Logouts()) != 1 {
		t.Errorf("%d logouts at the authorization server", len(w.issuer.Logouts()))
	}
	// A POST signs out, whatever the query.
	w.expect(b.do("POST", "/logout?signed_out", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
	a = b.do("POST", "/logout?signed_out", "Sec-Fetch-Site", "same-origin")
	w.expect(a, http.StatusSeeOther)
	if a.location() != want {
		t.Errorf("sent to %s, want %s", a.location(), want)
	}
	w.expect(b.get("/"), http.StatusFound)
	// A session that has ended does not count as one.
	b.login("/")
	cookie := b.cookieHeader()
	b.get("/logout")
	a = w.browser().do("GET", "/logout?signed_out", "Cookie", cookie)
	w.expect(a, http.StatusOK)
	if !strings.Contains(a.body, "signed out") {
		t.Error(a.body)
	}

	w.run(strings.Replace(w.config, "logout /logout", "logout /logout /bye", 1))
	if got := query(b.get("/logout").location(), "returnTo"); got != w.site+"/bye" {
		t.Errorf("returnTo %s", got)
	}
}

// TestLogoutOnce: an ended session's cookie, played back at the logout, ends nothing again: nothing is
// revoked, logged or reported.
func TestLogoutOnce(t *testing.T) {
	w := refreshing(t, setup{})
	b := w.browser()
	copied := b.login("/").cookie("aventus_session").Value
	w.expect(b.get("/logout"), http.StatusOK)
	await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
	for range 3 {
		a := w.browser().do("GET", "/logout", "Cookie", "aventus_session="+copied)
		w.expect(a, http.StatusOK)
		if c := a.cookie("aventus_session"); c == nil || c.MaxAge >= 0 {
			t.Errorf("the cookie stays: %v", a.Header)
		}
	}
	w.expect(w.browser().get("/"), http.StatusFound)
	if n := strings.Count(w.log(), `"signed out"`); n != 1 {
		t.Errorf("signed out %d times", n)
	}
	if n := len(w.issuer.Revoked()); n != 1 {
		t.Errorf("revoked %d times", n)
	}

	// Nor at a login.
	callback := b.begin("/")
	w.expect(b.do("GET", callback, "Cookie", "aventus_session="+copied), http.StatusSeeOther)
	w.expect(b.get("/logout"), http.StatusOK)
	await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) >= 2 })
	if got := w.issuer.Revoked(); len(got) != 2 || got[0] == got[1] {
		t.Errorf("revoked %d times", len(got))
	}
}

// TestLogoutOfEach: a logout ends each session that the browser holds, and not only the first one, also where the
// end of the first one cannot be recorded.
func TestLogoutOfEach(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout"})
	w.onEngine()
	login := func() string { return "aventus_session=" + w.browser().login("/").cookie("aventus_session").Value }
	first, second := login(), login()
	w.expect(w.browser().do("GET", "/logout", "Cookie", first+"; "+second), http.StatusOK)
	for _, cookie := range []string{first, second} {
		w.expect(w.browser().do("GET", "/", "Cookie", cookie, "Sec-Fetch-Mode", "navigate"), http.StatusFound)
	}

	first, second = login(), login()
	recovers := firstEndFails(t)
	w.expect(w.browser().do("GET", "/logout", "Cookie", first+"; "+second), http.StatusServiceUnavailable)
	recovers()
	w.restart()
	over := 0 // they are ended at once, so either may be the first
	for _, cookie := range []string{first, second} {
		if w.browser().do("GET", "/", "Cookie", cookie, "Sec-Fetch-Mode", "navigate").StatusCode == http.StatusFound {
			over++
		}
	}
	if over == 0 {
		t.Error("both sessions live again after a restart")
	}
}

// TestLogoutSticks: a copy of the cookie is no good after the logout, in either
// store, also after a restart and a reload; other sessions do not suffer.
func TestLogoutSticks(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{block: fmt.Sprintf("logout /logout\nsession {\nstore %s\n}", store)})
		b, other := w.browser(), w.browser()
		copied := b.login("/").cookie("aventus_session")
		other.login("/")
		w.expect(b.get("/logout"), http.StatusOK)
		if n := len(w.sessionFiles()); store == "storage" && n != 1 {
			t.Errorf("%d records are left, want the other session's", n)
		}
		again := func(when string) {
			t.Helper()
			a := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate")
			if a.StatusCode != http.StatusFound {
				t.Errorf("%s, %s: the copy of the cookie gets %d", store, when, a.StatusCode)
			}
			w.expect(other.get("/"), http.StatusOK)
		}
		again("at once")
		w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid", 1))
		again("after a reload")
		w.restart()
		again("after a restart")
	}
}

// TestLogoutWithoutStorage: the cookie is cleared, the answer is 503, the session
// has ended here, and a second logout mends the rest.
func TestLogoutWithoutStorage(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout"})
	b := w.browser()
	copied := b.login("/").cookie("aventus_session")
	recovers := w.storageFails()
	a := b.get("/logout")
	w.expect(a, http.StatusServiceUnavailable)
	if c := a.cookie("aventus_session"); c == nil || c.MaxAge >= 0 {
		t.Errorf("Set-Cookie %q", a.Header["Set-Cookie"])
	}
	w.expect(b.do("GET", "/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate"),
		http.StatusFound)
	recovers()
	w.expect(b.get("/"), http.StatusFound)
	w.expect(w.browser().do("GET", "/logout", "Cookie", "aventus_session="+copied.Value), http.StatusOK)
	w.restart()
	w.expect(w.browser().do("GET", "/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate"),
		http.StatusFound)
}

// TestLogoutCannotTell: where it cannot be told whether the browser has a session, nobody is told that they are
// signed out, and nothing is forgotten.
func TestLogoutCannotTell(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{block: "logout /logout\nlogout_provider\nsession {\nstore " + store + "\n}"})
		b := w.browser()
		b.login("/")
		cookie := b.cookieHeader()
		recovers := w.storageFails()
		w.restart()
		for _, target := range []string{"/logout?signed_out", "/logout?forget", "/logout"} {
			a := w.browser().do("GET", target, "Cookie", cookie)
			w.expect(a, http.StatusServiceUnavailable)
			if strings.Contains(a.body, "signed out") || a.Header["Clear-Site-Data"] != nil {
				t.Errorf("%s, %s: %v %s", store, target, a.Header, a.body)
			}
		}
		recovers()
		w.expect(b.get("/"), http.StatusOK)
		w.expect(b.get("/logout?signed_out"), http.StatusSeeOther)
	}
}
