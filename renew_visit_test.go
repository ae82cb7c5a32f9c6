package aventusauth

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestRenewalByVisit: without a refresh token, a page visit near the token's end
// goes through the authorization server, once a minute; a fetch or a form does not.
func TestRenewalByVisit(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{
			block:  "session {\nstore " + store + "\n}",
			issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		})
		b := w.browser()
		b.login("/")
		w.clock.Add(54 * time.Minute)
		w.expect(b.get("/page"), http.StatusOK)
		w.clock.Add(2 * time.Minute)
		w.expect(b.do("GET", "/page", "Sec-Fetch-Mode", "cors"), http.StatusOK)
		w.expect(b.do("POST", "/page", "Sec-Fetch-Mode", "navigate"), http.StatusOK)
		w.expect(b.do("GET", "/page", "Accept", "text/html"), http.StatusOK)
		for _, headers := range fetchedAhead {
			w.expect(b.do("GET", "/page", append(headers, "Sec-Fetch-Mode", "navigate", "Accept", "text/html")...),
				http.StatusOK)
		}

		w.expect(b.do("GET", "/page?q", passedOn...), http.StatusOK) // it may be a form
		a := b.do("GET", "/page", passedOn...)
		w.expect(a, http.StatusFound)
		// It did not help: the same session goes on, for a minute at least.
		w.expect(b.get("/page?q"), http.StatusOK)
		w.clock.Add(59 * time.Second)
		w.expect(b.get("/page?q"), http.StatusOK)
		w.clock.Add(time.Second)
		a = b.get("/page?q")
		w.expect(a, http.StatusFound)
		if len(a.Cookies()) != 1 || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", store, a.Header)
		}
		a = b.get(b.get(a.location()).location())
		w.expect(a, http.StatusSeeOther)
		if got := a.cookie("aventus_session").MaxAge; got != 3600 {
			t.Errorf("%s: %s seconds to go", store, strconv.Itoa(got))
		}
		if a.location() != w.site+"/page?q" {
			t.Errorf("went back to %s", a.location())
		}
		w.expect(b.get("/page?q"), http.StatusOK)
	}
}

// TestRenewalByVisitOfThreeApps: whoever visits pages of three blocks all the time, each of which has a session of its
// own, loses none of them, and no script's request fails: with tokens of an hour, and with such of five minutes.
func TestRenewalByVisitOfThreeApps(t *testing.T) {
	apps := []string{"a", "b", "c"}
	for _, lasts := range []time.Duration{5 * time.Minute, time.Hour} {
		w := newWorld(t, setup{
			issuer: func(s *aventustest.Server) { s.TokenLifetime = lasts },
			sites: func(w *world) string {
				text := w.site + " {\n"
				for _, app := range apps {
					text += w.directive("/"+app+"/*", "session {\nname "+app+"_session\n}") + "\n"
				}
				return text + "reverse_proxy " + w.app + "\n}\n"
			},
		})
		b := w.browser()
		for _, app := range apps {
			b.login("/" + app + "/")
		}
		w.clock.Add(lasts - lasts/2 - 20*time.Second)
		for at := time.Duration(0); at < lasts; at += 20 * time.Second {
			w.clock.Add(20 * time.Second)
			for _, app := range apps {
				a := b.do("POST", "/"+app+"/save", "Sec-Fetch-Mode", "cors")
				if a.StatusCode != http.StatusOK {
					t.Fatalf("tokens of %s: %s after the first is due, %s answers %d", lasts, at, app, a.StatusCode)
				}
				if a := b.get("/" + app + "/"); a.StatusCode != http.StatusOK {
					w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
				}
			}
		}
	}
}

// TestRenewalByVisitOfForms: a visit that may be a form renews the token in its last minute alone.
func TestRenewalByVisitOfForms(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
	b := w.browser()
	b.login("/")
	visit := func() answer {
		return b.do("GET", "/page?q", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document",
			"Sec-Fetch-Site", "same-origin", "Accept", "text/html")
	}
	w.clock.Add(58 * time.Minute)
	w.expect(visit(), http.StatusOK)
	w.clock.Add(time.Minute)
	w.expect(visit(), http.StatusFound)
}

// TestRenewalByVisitOfLongURLs: a renewal leads back to the very page. One whose URL is too long for that is served,
// and left to another visit, as long as the token is good for a minute. The longest that renews a token comes back
// whole.
func TestRenewalByVisitOfLongURLs(t *testing.T) {
	policy := "header Content-Security-Policy \"script-src " + strings.Repeat("x", 1600) + "\"\n"
	for _, header := range []string{"", policy} {
		w := newWorld(t, setup{caddyfile: header + "%s\nreverse_proxy %app",
			issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
		page := func(chars int) string { return "/page?q=" + strings.Repeat("x", chars) }
		served, renewed := 0, 0
		for chars := 1500; renewed == 0; chars -= 25 {
			b := w.browser()
			b.login("/")
			w.clock.Add(58 * time.Minute)
			a := b.get(page(chars))
			if a.StatusCode == http.StatusOK {
				served++
				continue
			}
			w.expect(a, http.StatusFound)
			a = b.get(b.get(a.location()).location())
			w.expect(a, http.StatusSeeOther)
			if a.location() != w.site+page(chars) {
				t.Errorf("a URL of %d characters comes back as %.50s", chars, a.location())
			}
			renewed = chars
		}
		if served == 0 || renewed < 500 {
			t.Errorf("a URL of %d characters renews the token, after %d that were longer", renewed, served)
		}
	}
}

// TestRenewalByVisitWhenIdle: an idle time under four minutes, with which the cookie is sealed anew more
// than once a minute, keeps no visit from renewing the token.
func TestRenewalByVisitWhenIdle(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nidle 2m\n}",
		issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
	b := w.browser()
	b.login("/")
	for range 55 {
		w.clock.Add(time.Minute)
		w.expect(b.do("GET", "/", "Sec-Fetch-Mode", "cors"), http.StatusOK)
	}
	w.clock.Add(20 * time.Second)
	w.expect(b.do("GET", "/", "Sec-Fetch-Mode", "cors"), http.StatusOK)
	w.clock.Add(20 * time.Second)
	w.expect(b.get("/page"), http.StatusFound)
}

// TestRenewalByVisitFailsHere: while the token is good, a renewal by visit that fails costs nobody the page, whether
// the authorization server's token endpoint fails or the storage. The log says why.
func TestRenewalByVisitFailsHere(t *testing.T) {
	for _, what := range []string{"token endpoint", "storage"} {
		tokens := new(aventustest.Switch)
		w := newWorld(t, setup{issuer: func(s *aventustest.Server) {
			s.TokenLifetime, s.TokenFault = time.Hour, tokens.Answer
		}})
		b, stranger := w.browser(), w.browser()
		b.login("/")
		w.clock.Add(56 * time.Minute)
		if what == "storage" {
			defer w.storageFails()()
		} else {
			tokens.Set(aventustest.Says(503, "down"))
		}
		callback := b.get(b.get("/page?q").location()).location()
		for range 2 { // it is loaded again
			a := b.get(callback)
			w.expect(a, http.StatusSeeOther)
			if a.location() != w.site+"/page?q" {
				t.Errorf("%s: leads to %s", what, a.location())
			}
		}
		w.expect(b.get("/page?q"), http.StatusOK)
		if !strings.Contains(w.log(), `"status":503`) {
			t.Errorf("%s: the log does not say why", what)
		}
		w.expect(stranger.get(stranger.get(stranger.get("/").location()).location()), http.StatusServiceUnavailable)
	}
}

// TestRenewalAtAHostFailsHere: at a host that shares the login, too, a ticket that the storage keeps from being
// redeemed leads back to the page.
func TestRenewalAtAHostFailsHere(t *testing.T) {
	g := newGroup(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }}, false)
	b := g.browser()
	g.expectPage(b, g.app+"/", 1)
	g.clock.Add(56 * time.Minute)
	to := g.app + "/page?q"
	for range 4 { // the login host, the authorization server, its callback, the ticket
		to = b.get(to).location()
	}
	recovers := g.storageFails()
	if a := b.get(to); a.StatusCode != http.StatusSeeOther || a.location() != g.app+"/page?q" {
		t.Errorf("%d, leads to %s", a.StatusCode, a.location())
	}
	g.expect(b.get(g.app+"/page?q"), http.StatusOK)
	recovers()
}
