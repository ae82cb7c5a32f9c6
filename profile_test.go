package aventusauth

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestProfileHead: scripts may ask by HEAD, and no browser takes the answer for a
// script.
func TestProfileHead(t *testing.T) {
	w := newWorld(t, setup{block: "profile /me"})
	b := w.browser()
	b.login("/")
	a := b.do("HEAD", "/me")
	w.expect(a, http.StatusOK)
	if a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", a.Header)
	}
}

func TestProfile(t *testing.T) {
	w := newWorld(t, setup{block: "profile /me", matcher: "/private/*",
		issuer: func(s *aventustest.Server) { s.Claims = richClaims }})
	a := w.browser().do("GET", "/me", "Origin", "https://evil.test", "Sec-Fetch-Mode", "navigate")
	w.expect(a, http.StatusUnauthorized)
	if a.Header.Get("WWW-Authenticate") != "Bearer" || a.Header["Location"] != nil {
		t.Errorf("%v", a.Header)
	}

	b := w.browser()
	b.login("/private/page")
	a = b.do("GET", "/me", "Origin", "https://evil.test")
	w.expect(a, http.StatusOK)
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", a.Header)
	}
	for name := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("it has %s", name)
		}
	}
	var profile struct {
		Sub       string         `json:"sub"`
		Scope     string         `json:"scope"`
		ExpiresAt time.Time      `json:"expires_at"`
		Claims    map[string]any `json:"claims"`
	}
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&profile); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if profile.Sub != "auth0|ada" || profile.Scope != "openid profile" ||
		!profile.ExpiresAt.Equal(w.clock.Now().Add(24*time.Hour)) || profile.Claims["email"] != "ada@example.com" {
		t.Errorf("%s", a.body)
	}
	if !strings.Contains(a.body, "9007199254740993") {
		t.Errorf("a number has changed: %s", a.body)
	}
	w.expect(b.get("/private/page"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	if strings.Contains(a.body, token) || strings.Contains(a.body, strings.Split(token, ".")[2]) {
		t.Error("it holds the token")
	}
	a = b.do("POST", "/me")
	w.expect(a, http.StatusMethodNotAllowed)
	if a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%v", a.Header)
	}
}

// TestProfileOpaque: an opaque token tells nothing.
func TestProfileOpaque(t *testing.T) {
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.NoIDToken = true },
		sites: func(w *world) string {
			return w.site + " {\n" + strings.Replace(w.directive("", "profile /me"),
				"audience https://api.example.com/", "", 1) +
				"\n" + strings.Replace(w.directive("/claim", "require_claim sub auth0|ada"),
				"audience https://api.example.com/", "", 1) + "\nreverse_proxy " + w.app + "\n}"
		},
	})
	b := w.browser()
	b.login("/")
	a := b.get("/me")
	w.expect(a, http.StatusOK)
	if !strings.Contains(a.body, `"sub":""`) || !strings.Contains(a.body, `"claims":{}`) {
		t.Error(a.body)
	}
	w.expect(b.get("/claim"), http.StatusForbidden)
}

// TestProfileReadsOnly asks the profile of a session whose token is due, and has died: it says whose session
// it is, and neither a token is asked for nor the storage written. The next page renews it.
func TestProfileReadsOnly(t *testing.T) {
	w := newWorld(t, setup{block: "scope offline_access\nprofile /me",
		issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
	b := w.browser()
	b.login("/")
	for _, later := range []time.Duration{58 * time.Minute, 5 * time.Minute} { // 63 minutes in the end
		w.clock.Add(later)
		a := b.do("GET", "/me")
		w.expect(a, http.StatusOK)
		if !strings.Contains(a.body, `"sub":"auth0|ada"`) || a.Header["Set-Cookie"] != nil {
			t.Errorf("the profile: %v %s", a.Header, a.body)
		}
	}
	w.expectTokenRequests(1)
	w.expect(b.get("/"), http.StatusOK)
	w.expectTokenRequests(2)
}

// TestProfileEnds: a page's script is told when the session is over if it is not used until then, and so it is: with
// idle, that is when it becomes idle, unless it ends earlier. Asking is no use of it. An API client is told when its
// token expires.
func TestProfileEnds(t *testing.T) {
	refreshes := func(s *session) { s.refresh = "refresh" }
	ofItsToken := func(s *session) { s.endBy(s.tokenEnds.time()) }
	for _, c := range []struct {
		what string
		idle time.Duration
		make func(*session) // of the session; nil: it has none, but a token
		used time.Duration  // when the session was used
		asks time.Duration
		want time.Duration
	}{
		{"without idle", 0, refreshes, 0, time.Hour, 24 * time.Hour},
		{"without idle and refresh token", 0, ofItsToken, 0, 0, time.Hour},
		{"new", time.Hour, refreshes, 0, 0, time.Hour},
		{"unused", time.Hour, refreshes, 0, 50 * time.Minute, time.Hour},
		{"used", time.Hour, refreshes, 20 * time.Minute, 50 * time.Minute, 80 * time.Minute},
		{"used before a quarter of idle", time.Hour, refreshes, 14 * time.Minute, 50 * time.Minute, time.Hour},
		{"used near the end of its lifetime", 12 * time.Hour, refreshes, 11 * time.Hour, 20 * time.Hour,
			23 * time.Hour},
		{"idle until its lifetime ends", 20 * time.Hour, refreshes, 10 * time.Hour, 20 * time.Hour, 24 * time.Hour},
		{"idle until its token expires", 2 * time.Hour, ofItsToken, 0, 0, time.Hour},
		{"used at another host", time.Hour, ofTwoHosts, 50 * time.Minute, 70 * time.Minute, 110 * time.Minute},
		{"an API client", 10 * time.Minute, nil, 0, 20 * time.Minute, time.Hour},
	} {
		p := newParts(t)
		p.keeper.idle = c.idle
		began := p.clock.Now()
		token := unsigned(t, map[string]any{"sub": "api-client"})
		rd := &reader{p.keeper, p.bearers(token, began.Add(time.Hour)), p.clock.Now}
		pr := &profile{sites: p.sites, reader: rd, answers: p.answers}
		header := []string{"Authorization", bearer + token}
		if c.make != nil {
			k, cookie := p.session(c.make)
			p.clock.Add(c.used)
			if k.isShared() {
				p.keeper.noteUse(t.Context(), k)
			} else {
				w := httptest.NewRecorder()
				if err := p.keeper.touch(w, t.Context(), p.at(), k); err != nil {
					t.Fatal(err)
				}
				cookie = cmp.Or(cookieIn(w), cookie)
			}
			header = []string{"Cookie", cookie}
		}
		for _, at := range []time.Duration{c.asks, c.want - time.Second, c.want} {
			p.clock.Add(began.Add(at).Sub(p.clock.Now()))
			w, got := p.outcome(pr.serve, p.request("GET", "/me", header...))
			if at == c.want {
				if got == "OK" {
					t.Errorf("%s: it goes on at its end: %s", c.what, w.Body)
				}
				continue
			}
			var told struct {
				ExpiresAt time.Time `json:"expires_at"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &told); got != "OK" || err != nil ||
				!told.ExpiresAt.Equal(began.Add(c.want)) {
				t.Errorf("%s: %s after %s, ends after %s, want %s", c.what, got, at, told.ExpiresAt.Sub(began), c.want)
			}
		}
	}
}
