package aventusauth

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// fetchedAhead is how browsers and frameworks say that nobody has asked yet for what
// they fetch.
var fetchedAhead = [][]string{
	// the Fetch standard, Chromium
	{"Sec-Purpose", "prefetch"}, {"Sec-Purpose", "prefetch;prerender"},
	{"Sec-Purpose", "prefetch;anonymous-client-ip"},
	{"Purpose", "prefetch"}, {"X-Moz", "prefetch"}, {"Hx-Preloaded", "true"}, {"X-Purpose", "preview"},
	{"Sec-Purpose", "x", "Sec-Purpose", "Prefetch"},
	{"X-Sec-Purpose", "prefetch"}, {"Next-Router-Prefetch", "1"}, {"X-Middleware-Prefetch", "1"}, // Turbo, Next.js
}

// TestUnaskedLogout: a link to the logout is fetched ahead (Next.js has it among its
// questions: prefetching a sign-out link signs out), or somebody writes it into a wiki
// as the address of an image, which is of the same origin. Nobody is signed out, and
// the click that follows works.
func TestUnaskedLogout(t *testing.T) {
	unasked := append([][]string{
		{"Ping-To", "https://x/logout", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "no-cors"},
	}, fetchedAhead...)
	for _, dest := range []string{"image", "style", "script", "font", "audio", "video", "track", "object", "embed",
		"manifest", "xslt", "report", "worker", "fencedframe", "x", ""} {
		unasked = append(unasked, []string{"Sec-Fetch-Dest", dest, "Sec-Fetch-Mode", "no-cors"})
	}
	unasked = append(unasked, []string{"Sec-Fetch-Dest", "document", "Sec-Fetch-Dest", "image"})
	for _, block := range []string{"logout /logout", "logout /logout /bye", "logout /logout\nlogout_provider"} {
		w := newWorld(t, setup{https: true, block: block})
		b := w.browser()
		b.login("/")
		cookie := b.cookieHeader()
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, headers := range unasked {
				for _, method := range []string{"GET", "POST"} {
					for _, target := range []string{"/logout", "/logout?x", "/logout?forget"} {
						a := send(request{
							method: method, target: target,
							headers: append([]string{"Sec-Fetch-Site", "same-origin"}, headers...),
						}.withCookie(cookie))
						if a.StatusCode != http.StatusForbidden || a.Header["Set-Cookie"] != nil ||
							a.Header["Location"] != nil || a.Header["Clear-Site-Data"] != nil ||
							a.Header.Get("Cache-Control") != "no-store" {
							t.Errorf("%s %s, %v: status %d, %v", method, target, headers, a.StatusCode, a.Header)
						}
					}
				}
			}
			w.expect(send(request{}.withCookie(cookie)), http.StatusOK)
		})
		if n := len(w.issuer.Logouts()) + len(w.issuer.Revoked()); n != 0 {
			t.Errorf("the authorization server was told of %d logouts", n)
		}
		for _, dest := range []string{"document", "iframe", "frame", "empty"} {
			b := w.browser()
			b.login("/")
			if a := b.do("GET", "/logout", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest",
				dest); a.StatusCode >= 400 {
				t.Errorf("%s: status %d", dest, a.StatusCode)
			}
			w.expect(b.get("/"), http.StatusFound)
		}
	}
}

// TestFetchedAhead: what is fetched ahead begins no login, and is answered so that no
// browser takes the answer for the page's (Chromium shows a prerendered sign-in page
// at once, and every link of a list would be a visit of the authorization server).
func TestFetchedAhead(t *testing.T) {
	for _, mode := range []string{"auto", "redirect", "deny", "pass"} {
		w := newWorld(t, setup{block: "unauthenticated " + mode})
		b := w.browser()
		targets := []string{"/page"}
		if mode == "auto" || mode == "redirect" { // a callback in another browser, where the login would start again
			targets = append(targets, strings.TrimPrefix(w.browser().begin("/page"), w.site))
		}
		for _, headers := range fetchedAhead {
			for _, target := range targets {
				a := b.do("GET", target, append(headers, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
					"Accept", "text/html")...)
				want := http.StatusUnauthorized
				if mode == "pass" && target == "/page" {
					want = http.StatusOK
				}
				if a.StatusCode != want || a.Header["Set-Cookie"] != nil || a.Header["Location"] != nil ||
					want >= 400 && a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s, %s, %v: status %d, %v", mode, target, headers, a.StatusCode, a.Header)
				}
			}
		}
		if mode == "auto" || mode == "redirect" {
			b.login("/page") // the click that follows
			w.expect(b.do("GET", "/page", "Sec-Purpose", "prefetch", "Sec-Fetch-Mode", "navigate"), http.StatusOK)
		}
	}
}

// TestFetchedAheadRenews: what is fetched ahead begins no renewal while the token
// lives. Afterwards it has to, to be answered at all.
func TestFetchedAheadRenews(t *testing.T) {
	w := refreshing(t, setup{})
	b, other := w.browser(), w.browser()
	b.login("/")
	other.login("/")
	w.clock.Add(56 * time.Minute)
	for _, headers := range fetchedAhead {
		w.expect(b.do("GET", "/", append(headers, "Sec-Fetch-Mode", "navigate")...), http.StatusOK)
	}
	// A renewal runs in the background: by the time that another's, which began later,
	// is done, it would be, too.
	w.expect(other.get("/"), http.StatusOK)
	await(t, "the other's renewal", func() bool { return len(w.issuer.TokenRequests()) >= 3 })
	w.expectTokenRequests(3)
	w.clock.Add(5 * time.Minute)
	w.expect(b.do("GET", "/", fetchedAhead[0]...), http.StatusOK)
	w.expectTokenRequests(4)
}

// TestRenewalInAFrame: a frame of the site's own goes on with the token that there is, near its end, too: the
// authorization server's pages are shown in no frame. The page itself is renewed.
func TestRenewalInAFrame(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = 10 * time.Minute }})
	b := w.browser()
	b.login("/")
	w.clock.Add(6 * time.Minute)
	visit := func(dest string) answer {
		return b.do("GET", "/panel", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", dest, "Sec-Fetch-Site",
			"same-origin", "Accept", "text/html")
	}
	for _, dest := range []string{"iframe", "frame", "object", "embed", "fencedframe"} {
		w.expect(visit(dest), http.StatusOK)
	}
	w.expect(visit("document"), http.StatusFound)
}
