package aventusauth

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestAcceptBearer goes through what an API client can send.
func TestAcceptBearer(t *testing.T) {
	for _, mode := range []string{"auto", "redirect", "deny", "pass"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, setup{block: "accept_bearer\nrequire_scope read:things\nunauthenticated " + mode,
				caddyfile: "%s\nreverse_proxy %app" + errorsShown})
			good := w.issuer.SignJWT(w.tokenClaims(nil))
			send := func(lines ...string) answer {
				headers := []string{"Accept", "application/json"}
				for _, line := range lines {
					headers = append(headers, "Authorization", line)
				}
				return w.browser().do("GET", "/api", headers...)
			}
			for range 3 {
				w.requests()
				a := send("Bearer " + good)
				w.expect(a, http.StatusOK)
				r := w.requests()[0]
				if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+good {
					t.Errorf("the app was sent %q", got)
				}
				if a.Header["Set-Cookie"] != nil ||
					!strings.Contains(strings.Join(a.Header["Vary"], ","), "Authorization") {
					t.Errorf("the answer has %v", a.Header)
				}
			}
			w.expect(send("bearer  "+good), http.StatusOK)
			if n := w.issuer.JWKSRequests(); n != 1 {
				t.Errorf("keys were fetched %d times", n)
			}
			w.requests()
			for name, lines := range map[string][]string{
				"made up": {"Bearer made-up"},
				"changed": {"Bearer " + flip(good)},
				"expired": {
					"Bearer " +
						w.issuer.SignJWT(w.tokenClaims(map[string]any{"exp": w.clock.Now().Add(-time.Second).Unix()})),
				},
				"other aud":  {"Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"aud": "x"}))},
				"none":       {"Bearer eyJhbGciOiJub25lIn0.e30."},
				"empty":      {"Bearer  "},
				"two":        {"Bearer " + good, "Bearer " + good},
				"two mixed":  {"Basic abc", "Bearer " + good},
				"with comma": {"Bearer " + good + ", Basic abc"},
			} {
				a := send(lines...)
				challenge := a.Header.Get("WWW-Authenticate")
				if a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil ||
					!strings.HasPrefix(challenge, `Bearer error="invalid_token", `) {
					t.Errorf("%s: status %d, %v", name, a.StatusCode, a.Header)
				}
			}
			a := send("Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"scope": "other"})))
			w.expect(a, http.StatusForbidden)
			challenge := `Bearer error="insufficient_scope", scope="read:things", `
			if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, challenge) {
				t.Errorf("WWW-Authenticate: %s", got)
			}
			a = send("Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"scope": nil})))
			w.expect(a, http.StatusForbidden) // it was not asked for by us, so nothing is taken for granted
			if n := len(w.requests()); n != 0 {
				t.Errorf("the app was reached %d times", n)
			}
			// One that was good is not good for ever.
			w.clock.Add(time.Hour)
			w.expect(send("Bearer "+good), http.StatusUnauthorized)
		})
	}
}

// TestSessionBeforeBearer: where both are there, the session wins, whatever the
// other one is.
func TestSessionBeforeBearer(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer"})
	b := w.browser()
	b.login("/")
	w.requests()
	for _, line := range []string{"Bearer made-up", "Bearer " + w.issuer.SignJWT(w.tokenClaims(nil)), "Basic abc"} {
		w.expect(b.do("GET", "/", "Authorization", line), http.StatusOK)
		if got := w.requests()[0].Header["Authorization"]; len(got) != 1 || got[0] == line ||
			!strings.HasPrefix(got[0], "Bearer ey") {
			t.Errorf("the app was sent %q", got)
		}
	}
}

// TestSecondBlockTakesNoBearer: a token that one block set is not taken by the next
// for one that the client brought.
func TestSecondBlockTakesNoBearer(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroute {\n" + w.directive("", "") + "\n" +
			w.directive("", "accept_bearer\nunauthenticated deny\nsession {\nname other\n}") +
			"\nreverse_proxy " + w.app + "\n}\n}"
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusUnauthorized)
}

// TestVerifiedOnce: a token that was good is not verified again while the keys are the same.
func TestVerifiedOnce(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer"})
	send := func() string {
		w.requests()
		w.expect(w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(nil))),
			http.StatusOK)
		return w.requests()[0].Header.Get("Authorization")
	}
	send()
	var h *Handler
	configs.Range(func(_, p any) bool { h = p.(*peers).handlers.list()[0]; return true })
	bearers := h.house.identifier.bearers
	for _, key := range bearers.verified.Keys() {
		bearers.verified.Add(key, &bearerToken{
			grant: grant{bearer: "Bearer remembered"}, verified: w.clock.Now(), expires: w.clock.Now().Add(time.Hour),
			keys: bearers.keys.Version(),
		})
	}
	if got := send(); got != "Bearer remembered" {
		t.Errorf("it was verified again: %.20s", got)
	}
}

// TestInvalidTokenIsSaid: the error pages can tell a bad token from none.
func TestInvalidTokenIsSaid(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	a := w.browser().do("GET", "/", "Authorization", "Bearer made-up")
	if !strings.HasPrefix(a.body, "invalid_token: ") {
		t.Error(a.body)
	}
}

// TestKeysDown: the keys cannot be had; the login fails with 5xx, and works when
// they can. Nothing is fetched when a config loads.
func TestKeysDown(t *testing.T) {
	down := true
	w := newWorld(t, setup{block: "verify_token", caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
				if down {
					rw.WriteHeader(http.StatusServiceUnavailable)
				}
				return down
			}
		}})
	if n := w.issuer.JWKSRequests(); n != 0 {
		t.Errorf("%d fetches when loading", n)
	}
	b := w.browser()
	a := b.get(b.begin("/"))
	if a.StatusCode < 500 || a.cookie("aventus_session") != nil {
		t.Errorf("status %d", a.StatusCode)
	}
	down = false
	w.clock.Add(11 * time.Second)
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestKeysDownSays: what is said when the keys cannot be had is not that the token
// is bad, to people and to API clients.
func TestKeysDownSays(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		}})
	b := w.browser()
	for _, a := range []answer{
		b.get(b.begin("/")),
		w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(nil))),
	} {
		if a.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(a.body, "server_unavailable: ") ||
			a.Header["Www-Authenticate"] != nil {
			t.Errorf("status %d, %v, %s", a.StatusCode, a.Header, a.body)
		}
	}
}

// TestOtherJWKS: the keys may be elsewhere, and what elsewhere is may come from the
// environment, as may all that is required.
func TestOtherJWKS(t *testing.T) {
	var w *world
	asked := 0
	keys := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked++
		resp, err := http.Get(w.issuer.Issuer + ".well-known/jwks.json")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(rw, resp.Body)
	}))
	defer keys.Close()
	for name, value := range map[string]string{
		"KEYS": keys.URL, "SCOPE": "profile", "CLAIM": "email", "VALUE": "ada@example.com", "PROFILE": "/me",
	} {
		t.Setenv("TEST_"+name, value)
	}
	w = newWorld(t, setup{
		block: "jwks_url {env.TEST_KEYS}\nrequire_scope {env.TEST_SCOPE}\nrequire_claim {env.TEST_CLAIM} " +
			"{env.TEST_VALUE}\nprofile {env.TEST_PROFILE}",
		issuer: func(s *aventustest.Server) {
			s.Claims = func(u aventustest.User) map[string]any { return map[string]any{"email": u.Email} }
		},
	})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	w.expect(b.get("/me"), http.StatusOK)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
