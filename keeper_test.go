package aventusauth

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestIdle: a session that is used lasts, with a cookie at most each quarter of the
// idle time, and one that is not used ends.
func TestIdle(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{block: "session {\nstore " + store + "\nidle 1h\n}"})
		b := w.browser()
		first := b.login("/").cookie("aventus_session")
		if first.MaxAge != 3600 {
			t.Errorf("%s: Max-Age %d", store, first.MaxAge)
		}
		set := 0
		for range 24 {
			w.clock.Add(5 * time.Minute)
			a := b.get("/?cache=public")
			w.expect(a, http.StatusOK)
			if c := a.cookie("aventus_session"); c != nil {
				set++
				if a.Header.Get("Cache-Control") != "no-store" || c.MaxAge != 3600 {
					t.Errorf("%s: %v", store, a.Header)
				}
			} else if a.Header.Get("Cache-Control") != "public" {
				t.Errorf("%s: %v", store, a.Header)
			}
		}
		if set != 8 {
			t.Errorf("%s: %d cookies in two hours, want 8", store, set)
		}
		w.expect(w.browser().do("GET", "/", "Cookie", "aventus_session="+first.Value, "Sec-Fetch-Mode", "navigate"),
			http.StatusFound)
		w.clock.Add(time.Hour)
		w.expect(b.get("/"), http.StatusFound)
	}
}

// TestIdleAndRenewed: a renewal leaves it noted when the session was last seen: one that is used goes on, and
// one that is not used ends.
func TestIdleAndRenewed(t *testing.T) {
	w := refreshing(t, setup{block: "session {\nidle 30m\n}"})
	b := w.browser()
	b.login("/")
	for range 18 {
		w.clock.Add(3 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
	}
	first := w.token()
	w.clock.Add(2 * time.Minute)
	await(t, "the renewed token", func() bool { // the cookie stays as it is
		a := b.get("/")
		w.expect(a, http.StatusOK)
		if a.Header["Set-Cookie"] != nil {
			t.Fatal("the cookie was set anew")
		}
		return w.token() != first
	})
	w.clock.Add(28 * time.Minute) // 30 since the cookie was set
	w.expect(b.get("/"), http.StatusFound)
}

func TestSessionEnds(t *testing.T) {
	for _, c := range []struct {
		name     string
		block    string
		lifetime time.Duration // of the token
		want     time.Duration
	}{
		{"with its token", "", time.Hour, time.Hour},
		{"after the default lifetime", "", 100 * time.Hour, 24 * time.Hour},
		{"after its lifetime", "session {\nlifetime 10m\n}", time.Hour, 10 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{block: c.block})
			w.issuer.TokenLifetime = c.lifetime
			b := w.browser()
			cookie := b.login("/").cookie("aventus_session")
			if got := time.Duration(cookie.MaxAge) * time.Second; got != c.want {
				t.Errorf("Max-Age is %s, want %s", got, c.want)
			}
			value := "aventus_session=" + cookie.Value
			w.clock.Add(c.want - time.Second)
			w.expect(w.browser().do("GET", "/", "Cookie", value), http.StatusOK)
			w.clock.Add(time.Second)
			w.expect(w.browser().do("GET", "/", "Cookie", value, "Accept", "text/html"), http.StatusFound)
		})
	}
}

// TestOneCookieOfSeveralBlocks: where two blocks set the cookie of the session that they share anew, the answer
// sets it once.
func TestOneCookieOfSeveralBlocks(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		block := "session {\nidle 1h\n}"
		return w.site + " {\n" + w.directive("/*", block) + "\n" + w.directive("", block) + "\nreverse_proxy " +
			w.app + "\n}"
	}})
	b := w.browser()
	b.login("/")
	w.clock.Add(30 * time.Minute)
	a := b.get("/")
	w.expect(a, http.StatusOK)
	if n := len(a.Header["Set-Cookie"]); n != 1 {
		t.Errorf("%d cookies: %v", n, a.Header["Set-Cookie"])
	}
	w.clock.Add(45 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
}

// TestCookiesOfABlockForOneHost: an app behind a block for any host is not sent the cookies of a block for one
// of its hosts, nor the other way round.
func TestCookiesOfABlockForOneHost(t *testing.T) {
	w := newWorld(t, setup{https: true, sites: func(w *world) string {
		anyHost := strings.Replace(w.directive("/any/*", "session {\nname any\n}"),
			w.site+"/oauth2/callback", "https://{host}:"+w.port+"/any/callback", 1)
		oneHost := w.directive("/one/*", "session {\nname one\n}\nunauthenticated pass")
		return w.site + " {\ntls internal\n" + anyHost + "\n" + oneHost + "\nreverse_proxy " + w.app + "\n}"
	}, issuer: func(s *aventustest.Server) {
		c := &s.Clients[0]
		c.RedirectURIs = append(c.RedirectURIs, strings.Replace(c.RedirectURIs[0], "/oauth2/", "/any/", 1))
	}})
	b := w.browser()
	a := b.get("/any/")
	w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
	for _, path := range []string{"/any/", "/one/"} {
		w.requests()
		w.expect(b.do("GET", path, "Cookie", "__Host-one=1; x=y; __Host-any=2"), http.StatusOK)
		if got := w.requests()[0].Header["Cookie"]; len(got) != 1 || got[0] != "x=y" {
			t.Errorf("%s: the app was sent %q", path, got)
		}
	}
}

// TestShorterLifetime: a lifetime that is shorter after a reload holds for the sessions that there are, from
// their login on and not from a renewal.
func TestShorterLifetime(t *testing.T) {
	w := refreshing(t, setup{block: "session {\nlifetime 8h\n}"})
	b := w.browser()
	b.login("/")
	for range 3 {
		w.clock.Add(time.Hour)
		w.expect(b.get("/"), http.StatusOK)
	}
	w.expectTokenRequests(4)
	w.run(strings.Replace(w.config, "lifetime 8h", "lifetime 200m", 1))
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(20 * time.Minute)
	w.expect(b.get("/"), http.StatusFound)
}

// TestRememberedAsSealed: what is remembered of a session as it is made is what its
// cookie, and its record, say.
func TestRememberedAsSealed(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		for _, refresh := range []string{"", "a refresh token"} {
			b := benchHandler(t, Config{Session: Session{Store: store}})
			at, w := *b.house.gate.sites.fixed, httptest.NewRecorder()
			now := time.Now() // with parts of a second
			b.house.keeper.now = func() time.Time { return now }
			token := &oauth2.Token{
				AccessToken: "eyJhIjoxfQ.eyJiIjoyfQ.c2lnbmVk", RefreshToken: refresh, ExpiresIn: 3600,
			}
			s := b.house.keeper.make(token.WithExtra(map[string]any{"scope": "a b"}), []byte(`{"c":3}`))
			if _, err := b.house.keeper.save(w, t.Context(), at, nil, s, "/"); err != nil {
				t.Fatal(err)
			}
			remembered := b.house.keeper.memory.all()
			if len(remembered) != 1 || remembered[0].session != s {
				t.Fatalf("%s, %q: not remembered", store, refresh)
			}
			k := remembered[0]
			b.house.keeper.memory.sessions.InvalidateAll()
			opened, _, err := b.house.keeper.open(t.Context(), at, setCookie(w))
			if err != nil || opened == nil {
				t.Fatalf("%s, %q: %v, error %v", store, refresh, opened, err)
			}
			for _, c := range []struct {
				what      string
				got, want any
			}{
				{"id", s.id, opened.id}, {"scope", s.scope, opened.scope}, {"token", s.bearer, opened.bearer},
				{"refresh token", s.refresh, opened.refresh}, {"ID token", s.idToken, opened.idToken},
				{"key", k.cookie, opened.cookie}, {"in the storage", k.handle != nil, opened.handle != nil},
				{"created", s.created, opened.created},
				{"expires", s.expires, opened.expires},
				{"token came", s.tokenCame, opened.tokenCame},
				{"token ends", s.tokenEnds, opened.tokenEnds},
				{"seen", k.seen, opened.seen},
			} {
				if c.got != c.want {
					t.Errorf("%s, %q: %s is %v, and sealed as %v", store, refresh, c.what, c.got, c.want)
				}
			}
		}
	}
}
