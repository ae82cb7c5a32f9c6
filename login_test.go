package aventusauth

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestRandom: nothing that has to be new is the same twice.
func TestRandom(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nkey " + strings.Repeat("A", 43) + "=\n}"})
	seen := map[string]bool{}
	for range 5 {
		a := w.browser().get("/")
		for _, value := range []string{
			a.cookie("aventus_login").Value, query(a.location(), "state"), query(a.location(), "code_challenge"),
			query(a.location(), "nonce"),
		} {
			if value == "" || seen[value] {
				t.Fatalf("%q again", value)
			}
			seen[value] = true
		}
	}
	kp := &keeper{now: time.Now}
	if a, b := kp.make(&oauth2.Token{}, nil), kp.make(&oauth2.Token{}, nil); a.id == b.id {
		t.Error("two sessions have one id")
	}
	// A binding cookie that is none of ours is replaced.
	for _, value := range []string{"x", strings.Repeat("A", 40), ""} {
		a := w.browser().do("GET", "/", "Accept", "text/html", "Cookie", "aventus_login="+value)
		if got := a.cookie("aventus_login").Value; got == value || len(got) != 22+len(".")+10 {
			t.Errorf("the binding cookie %q became %q", value, got)
		}
	}
}

// TestRestartAndReload: a session and a login under way outlive both.
func TestRestartAndReload(t *testing.T) {
	w := newWorld(t, setup{})
	alive, underWay := w.browser(), w.browser()
	alive.login("/")
	callback := underWay.begin("/page")
	w.restart()
	w.expect(alive.get("/"), http.StatusOK)
	w.expect(underWay.get(callback), http.StatusSeeOther)

	callback = underWay.begin2("/page")
	w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid\nunauthenticated redirect", 1))
	w.expect(alive.get("/"), http.StatusOK)
	w.expect(underWay.get(callback), http.StatusSeeOther)
	w.expectTokenRequests(3)
}

// TestSeveralHosts: one block serves several hosts, and what belongs to one opens
// nothing at the other.
func TestSeveralHosts(t *testing.T) {
	w := newWorld(t, setup{
		https: true,
		names: []string{"a.localhost", "b.localhost"},
		issuer: func(s *aventustest.Server) {
			s.Clients[0].RedirectURIs = nil // filled in below
		},
		sites: func(w *world) string {
			for _, host := range []string{"a.localhost", "b.localhost"} {
				w.issuer.Clients[0].RedirectURIs = append(w.issuer.Clients[0].RedirectURIs, "https://"+host+":"+w.port+
					"/oauth2/callback")
			}
			block := strings.Replace(w.directive("", ""), w.site+"/", "https://{host}:"+w.port+"/", 1)
			return fmt.Sprintf("https://a.localhost:%[1]s, https://b.localhost:%[1]s, https://localhost:%[1]s "+
				"{\ntls internal\n%s\nreverse_proxy %s\n}", w.port, block, w.app)
		},
	})
	b := w.browser()
	b.client.Transport.(*http.Transport).DialContext = dialLocalhost(w.port)
	callbacks := map[string]string{}
	for _, host := range []string{"a.localhost", "b.localhost"} {
		origin := "https://" + host + ":" + w.port
		a := b.get(origin + "/page")
		w.expect(a, http.StatusFound)
		if got := query(a.location(), "redirect_uri"); got != origin+"/oauth2/callback" {
			t.Errorf("redirect_uri %s", got)
		}
		callbacks[host] = b.get(a.location()).location()
	}
	// A state of one host means nothing at the other.
	swapped := strings.Replace(callbacks["a.localhost"], "a.localhost", "b.localhost", 1)
	w.expect(b.get(swapped), http.StatusBadRequest)
	w.expectTokenRequests(0)

	a := b.get(callbacks["a.localhost"])
	w.expect(a, http.StatusSeeOther)
	if want := "https://a.localhost:" + w.port + "/page"; a.location() != want {
		t.Errorf("went back to %s, want %s", a.location(), want)
	}
	cookie := a.cookie("__Host-aventus_session")
	w.expect(b.get("https://a.localhost:"+w.port+"/"), http.StatusOK)
	w.expect(b.do("GET", "https://b.localhost:"+w.port+"/", "Cookie", cookie.Name+"="+cookie.Value, "Accept",
		"text/html"), http.StatusFound)
}

// TestStorageFails: who needs the storage gets 503, a session in its cookie does
// not need it, and all is well again without a restart.
func TestStorageFails(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	b, underWay := w.browser(), w.browser()
	recovers := w.storageFails()
	a := b.get("/") // needs the first key
	w.expect(a, http.StatusServiceUnavailable)
	if !strings.HasPrefix(a.body, "storage_unavailable: ") {
		t.Error(a.body)
	}
	w.expect(b.do("POST", "/"), http.StatusUnauthorized) // needs none
	recovers()
	b.login("/")
	await(t, "what has ended is learned", func() bool { return b.get("/").StatusCode == http.StatusOK })
	callback := underWay.begin("/page")

	recovers = w.storageFails()
	w.expect(b.get("/"), http.StatusOK)
	a = underWay.get(callback) // the code cannot be claimed
	w.expect(a, http.StatusServiceUnavailable)
	w.expectTokenRequests(1)
	// A reload makes a new storage of the same configuration; the keys are known.
	w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid", 1))
	w.expect(b.get("/"), http.StatusOK)
	w.expect(w.browser().get("/"), http.StatusFound)
	recovers()
	w.expect(underWay.get(callback), http.StatusSeeOther)
	w.expectTokenRequests(2)
}

// TestLoadingTouchesNothing: neither validating nor loading a config writes a key
// or asks the authorization server.
func TestLoadingTouchesNothing(t *testing.T) {
	w := newWorld(t, setup{})
	if _, err := os.Stat(filepath.Join(w.dir, "storage", "aventus_auth")); !os.IsNotExist(err) {
		t.Errorf("loading a config left something in the storage: %v", err)
	}
	w.expect(w.browser().do("POST", "/"), http.StatusUnauthorized)
	if _, err := os.Stat(filepath.Join(w.dir, "storage", "aventus_auth")); !os.IsNotExist(err) {
		t.Errorf("a 401 left something in the storage: %v", err)
	}
	if len(w.issuer.AuthorizeRequests()) > 0 || len(w.issuer.TokenRequests()) > 0 {
		t.Error("the authorization server was asked")
	}
}

// TestKeysOfAnotherBlockAreDown: where a callback may be another block's, and that one's keys cannot be had,
// it is not taken for a forged one.
func TestKeysOfAnotherBlockAreDown(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		withKey := "session {\nkey " + strings.Repeat("a", 43) + "\n}"
		return w.site + " {\n" + w.directive("/one/*", withKey) + "\n@rest not path /one/*\n" +
			w.directive("@rest", "") + "\nreverse_proxy " + w.app + errorsShown + "\n}"
	}})
	b := w.browser()
	callback := b.begin("/two/")
	w.restart()
	recovers := w.storageFails()
	w.expect(b.get(callback), http.StatusServiceUnavailable)
	w.expectTokenRequests(0)
	recovers()
	w.expect(b.get(callback), http.StatusSeeOther)
	w.expect(b.get("/two/"), http.StatusOK)
}

func TestLogin(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, setup{https: scheme == "https"})
			b := w.browser()

			a := b.get("/some/page?x=1&y=a%20b")
			w.expect(a, http.StatusFound)
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: %q", got)
			}
			u, err := url.Parse(a.location())
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{
				"audience":              "https://api.example.com/",
				"scope":                 "openid profile",
				"response_type":         "code",
				"client_id":             "the-client",
				"redirect_uri":          w.site + "/oauth2/callback",
				"code_challenge_method": "S256",
			} {
				if got := u.Query()[name]; len(got) != 1 || got[0] != want {
					t.Errorf("%s is %q, want %q once", name, got, want)
				}
			}
			for _, random := range []string{"state", "code_challenge", "nonce"} {
				if got := u.Query()[random]; len(got) != 1 || len(got[0]) < 32 {
					t.Errorf("%s is %q", random, got)
				}
			}
			if n := len(u.Query()); n != 9 {
				t.Errorf("%d authorize parameters, want 9: %v", n, u.Query())
			}

			a = b.get(a.location())
			w.expect(a, http.StatusFound)
			a = b.get(a.location())
			w.expect(a, http.StatusSeeOther)
			if want := w.site + "/some/page?x=1&y=a%20b"; a.location() != want {
				t.Errorf("went back to %s, want %s", a.location(), want)
			}
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: %q", got)
			}
			w.expectTokenRequests(1)

			a = b.get(a.location())
			w.expect(a, http.StatusOK)
			seen := w.requests()
			if len(seen) != 1 || !strings.HasPrefix(seen[0].Header.Get("Authorization"), "Bearer ey") {
				t.Fatalf("the app saw %v", seen)
			}
			if got := seen[0].Header["Cookie"]; got != nil {
				t.Errorf("the app was sent our cookies: %v", got)
			}
			if a.Header["Set-Cookie"] != nil {
				t.Errorf("an ordinary response sets %v", a.Header["Set-Cookie"])
			}
		})
	}
}
