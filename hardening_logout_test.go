package aventusauth

import (
	"net/http"
	"strings"
	"testing"
)

// TestSignedOutInAFrame: a frame in a page of another site gets no cookies, so it is not told that the person is
// signed out. A frame of the site itself, and the way back from the authorization server's logout, are.
func TestSignedOutInAFrame(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nlogout_provider"})
	for _, tc := range []struct {
		site, dest string
		want       int
	}{
		{"cross-site", "iframe", http.StatusForbidden}, {"cross-site", "frame", http.StatusForbidden},
		{"same-origin", "iframe", http.StatusOK}, {"cross-site", "document", http.StatusOK},
	} {
		a := w.browser().do("GET", "/logout?signed_out", "Sec-Fetch-Site", tc.site, "Sec-Fetch-Mode", "navigate",
			"Sec-Fetch-Dest", tc.dest)
		if a.StatusCode != tc.want || strings.Contains(a.body, "You are signed out") != (tc.want == http.StatusOK) {
			t.Errorf("%s %s: status %d, %s", tc.site, tc.dest, a.StatusCode, a.body)
		}
	}
}

// TestForcedLogout: another site has the visitor's browser ask for the logout, by an
// image, a form or a link, whose cookie SameSite=Lax lets through. The browser says so
// (https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header), and the session lives.
func TestForcedLogout(t *testing.T) {
	for _, block := range []string{"logout /logout", "logout /logout /bye", "logout /logout\nlogout_provider"} {
		w := newWorld(t, setup{https: true, block: block})
		b := w.browser()
		b.login("/")
		cookie := b.cookieHeader()
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, method := range []string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"} {
				for _, mode := range []string{"navigate", "no-cors", "cors", "websocket", "same-origin", ""} {
					for _, target := range []string{
						"/logout", "/logout?x", "/%6cogout", "/logout?signed_out", "/logout?signed_out&x",
						"/logout?signed%5fout", "/logout?forget",
					} {
						a := send(request{method: method, target: target, headers: []string{
							"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", mode, "Sec-Fetch-Dest", "document",
							"Sec-Fetch-User", "?1", "Origin",
							"https://evil.test", "Referer", "https://evil.test/", "X-HTTP-Method-Override", "POST",
						}}.withCookie(cookie))
						if a.Header["Set-Cookie"] != nil || a.Header["Location"] != nil ||
							a.Header["Clear-Site-Data"] != nil ||
							a.StatusCode != http.StatusForbidden && a.StatusCode != http.StatusMethodNotAllowed ||
							strings.Contains(a.body, "signed out") {
							t.Errorf("%s %s, %s: status %d, %v", method, target, mode, a.StatusCode, a.Header)
						}
					}
				}
			}
			w.expect(send(request{}.withCookie(cookie)), http.StatusOK)
		})
		if n := len(w.issuer.Logouts()) + len(w.issuer.Revoked()); n != 0 {
			t.Errorf("the authorization server was told of %d logouts", n)
		}
		for _, site := range []string{"same-origin", "none"} { // the person's own click, and their own typing
			b := w.browser()
			b.login("/")
			cookie := b.cookieHeader()
			if a := b.do("GET", "/logout", "Sec-Fetch-Site", site); a.StatusCode >= 400 {
				t.Errorf("%s: status %d", site, a.StatusCode)
			}
			w.expect(w.http1(request{}.withCookie(cookie)), http.StatusFound)
		}
	}
}

// TestSecondLogout: a logout that the storage fails is not forgotten. The person tries again, when their
// browser has no session's cookie any more, and is told that they are signed out only when the end is written
// for all instances.
func TestSecondLogout(t *testing.T) {
	for i, half := range []string{"", "/all", "/lately", "", "/all", "/lately"} {
		block, done := "logout /logout", http.StatusOK
		if i >= 3 { // such a logout also forgets the browser, once all is written
			block, done = block+"\nlogout_provider", http.StatusSeeOther
		}
		w := newWorld(t, setup{block: block})
		w.onEngine()
		b := w.browser()
		copied := b.login("/").cookie("aventus_session").Value
		recovers := faultAt(t, "store", "aventus_auth/ended"+half)
		w.expect(b.get("/logout"), http.StatusServiceUnavailable)
		w.expect(b.get("/logout"), http.StatusServiceUnavailable)
		recovers()
		w.expect(b.get("/logout"), done)
		w.restart()
		w.expect(w.http1(request{}.withCookie("aventus_session="+copied)), http.StatusFound)
	}
}

// TestLogoutRevokesOfTabsAtOnce: a logout also revokes the refresh token of a session that another tab made at the
// same time, and whose cookie the browser does not have.
func TestLogoutRevokesOfTabsAtOnce(t *testing.T) {
	w := refreshing(t, setup{})
	b := w.browser()
	one, two := strings.TrimPrefix(b.begin("/one"), w.site), strings.TrimPrefix(b.begin("/two"), w.site)
	before := b.cookieHeader()
	var made string
	for _, callback := range []string{one, two} {
		a := w.http1(request{target: callback}.withCookie(before))
		w.expect(a, http.StatusSeeOther)
		made = "aventus_session=" + a.cookie("aventus_session").Value
	}
	w.expect(w.http1(request{target: "/logout"}.withCookie(before+"; "+made)), http.StatusOK)
	await(t, "both refresh tokens to be revoked", func() bool { return len(w.issuer.Revoked()) == 2 })
}
