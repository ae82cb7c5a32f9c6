package aventusauth

import (
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// refreshing is a world whose sessions have a refresh token and a token of an hour.
func refreshing(t *testing.T, s setup) *world {
	t.Helper()
	wanted := s.issuer
	s.issuer = func(server *aventustest.Server) {
		server.TokenLifetime = time.Hour
		if wanted != nil {
			wanted(server)
		}
	}
	s.block += "\nscope offline_access\nlogout /logout"
	if s.caddyfile == "" {
		s.caddyfile = "%s\nreverse_proxy %app" + errorsShown
	}
	return newWorld(t, s)
}

// token returns what the app was sent in answer to the last request.
func (w *world) token() string {
	w.t.Helper()
	seen := w.requests()
	if len(seen) == 0 {
		w.t.Fatal("the app was not reached")
	}
	return seen[len(seen)-1].Header.Get("Authorization")
}

// await waits for what goes on in the background.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (w *world) expectNoReuse() {
	w.t.Helper()
	if n := w.issuer.RefreshReused(); n != 0 {
		w.t.Errorf("a refresh token was used again, %d times", n)
	}
}

// TestRenewal: a token is renewed in the background while the old one lives, and
// waited for when it does not; the cookie stays the same, and a restart costs
// nothing. The refresh token never leaves the server.
func TestRenewal(t *testing.T) {
	for _, keep := range []bool{false, true} {
		w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.KeepRefresh = keep }})
		b := w.browser()
		a := b.login("/")
		if c := a.cookie("aventus_session"); c.MaxAge != 86400 || len(c.Value) > 200 {
			t.Errorf("a cookie of %d bytes, for %d s", len(c.Value), c.MaxAge)
		}
		w.expect(b.get("/"), http.StatusOK)
		first := w.token()
		w.clock.Add(54 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		if w.token() != first || len(w.issuer.TokenRequests()) != 1 {
			t.Error("renewed too early")
		}
		w.clock.Add(2 * time.Minute)
		a = b.get("/")
		w.expect(a, http.StatusOK)
		if a.Header["Set-Cookie"] != nil {
			t.Errorf("it sets %v", a.Header["Set-Cookie"])
		}
		await(t, "a renewed token", func() bool {
			w.requests()
			w.expect(b.get("/"), http.StatusOK)
			return w.token() != first
		})
		for hour := range 20 { // each with one renewal that is waited for
			w.clock.Add(time.Hour)
			w.expect(b.get("/"), http.StatusOK)
			if n := len(w.issuer.TokenRequests()); n != hour+3 {
				t.Fatalf("in hour %d, %d token requests", hour, n)
			}
			if hour%5 == 0 {
				w.restart()
			}
		}
		w.restart()
		w.expect(b.get("/"), http.StatusOK)
		if n := len(w.issuer.TokenRequests()); n != 22 {
			t.Errorf("%d token requests, want 22", n)
		}
		w.expectNoReuse()
		w.clock.Add(4 * time.Hour) // past the lifetime
		w.expect(b.get("/"), http.StatusFound)
		for _, params := range w.issuer.TokenRequests() {
			if refresh := params.Params["refresh_token"]; refresh != "" {
				for _, cookie := range b.cookies() {
					if strings.Contains(cookie.Value, refresh) {
						t.Error("the refresh token is in a cookie")
					}
				}
				if strings.Contains(w.log(), refresh) {
					t.Error("the refresh token is in the log")
				}
			}
		}
	}
}

// TestRenewalVerified: with verify_token, a session outlives its first token as well.
func TestRenewalVerified(t *testing.T) {
	w := refreshing(t, setup{block: "verify_token"})
	b := w.browser()
	b.login("/")
	for range 5 {
		w.clock.Add(time.Hour)
		w.expect(b.get("/"), http.StatusOK)
	}
	w.expectNoReuse()

	// The keys cannot be had for a moment: nothing is lost by it.
	w.issuer.RotateKey()
	var down atomic.Bool
	w = refreshing(t, setup{block: "verify_token", issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			if down.Load() {
				rw.WriteHeader(http.StatusServiceUnavailable)
			}
			return down.Load()
		}
	}})
	b = w.browser()
	b.login("/")
	w.issuer.RotateKey()
	down.Store(true)
	w.clock.Add(time.Hour)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	down.Store(false)
	w.clock.Add(time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	w.expectNoReuse()
}

// TestRenewalAtOnce: a hundred requests with a dead token share one refresh.
func TestRenewalAtOnce(t *testing.T) {
	w := refreshing(t, setup{})
	b := w.browser()
	b.login("/")
	cookie := b.cookieHeader()
	w.clock.Add(2 * time.Hour)
	var done sync.WaitGroup
	var bad atomic.Int64
	for range 100 {
		done.Go(func() {
			if w.browser().do("GET", "/", "Cookie", cookie).StatusCode != http.StatusOK {
				bad.Add(1)
			}
		})
	}
	done.Wait()
	if n := len(w.issuer.TokenRequests()); n != 2 || bad.Load() != 0 {
		t.Errorf("%d token requests, want 2; %d requests failed", n, bad.Load())
	}
	w.expectNoReuse()
}

// TestRenewalFails: what a failed renewal costs, by what failed and whether the old
// token lives.
func TestRenewalFails(t *testing.T) {
	says := func(status int, body string) func(http.ResponseWriter) {
		return func(rw http.ResponseWriter) {
			rw.WriteHeader(status)
			_, _ = rw.Write([]byte(body))
		}
	}
	for name, c := range map[string]struct {
		fault  func(http.ResponseWriter)
		status int // once the token is dead
		later  int // once the server is well
	}{
		"down":               {says(503, ""), 503, 200},
		"broken":             {says(500, ""), 503, 200},
		"rate limit":         {says(429, "{}"), 503, 200},
		"wrong secret":       {says(401, `{"error":"access_denied"}`), 503, 200},
		"grant gone":         {says(403, `{"error":"invalid_grant"}`), 302, 302},
		"no answer":          {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 302, 302},
		"HTML for an answer": {says(200, "<html>"), 302, 302},
	} {
		var current atomic.Pointer[func(http.ResponseWriter)]
		w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
			s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
				fault := current.Load()
				if fault != nil {
					(*fault)(rw)
				}
				return fault != nil
			}
		}})
		b := w.browser()
		b.login("/")
		current.Store(&c.fault)
		w.clock.Add(57 * time.Minute)
		for range 5 {
			w.expect(b.get("/"), http.StatusOK) // the old token lives
		}
		await(t, name+": an attempt", func() bool { return len(w.issuer.TokenRequests()) >= 2 })
		if n := len(w.issuer.TokenRequests()); n > 2 {
			t.Errorf("%s: %d attempts at once", name, n-1)
		}
		w.clock.Add(time.Hour)
		a := b.get("/")
		if a.StatusCode != c.status {
			t.Errorf("%s: with a dead token, status %d, want %d", name, a.StatusCode, c.status)
		}
		if c.status == 503 && (a.Header.Get("Retry-After") != "10" || !strings.HasPrefix(a.body, "renewal_unavailable: ")) {
			t.Errorf("%s: %v %s", name, a.Header, a.body)
		}
		current.Store(nil)
		w.clock.Add(retryRenewal)
		if a := b.get("/"); a.StatusCode != c.later {
			t.Errorf("%s: when the server is well, status %d, want %d", name, a.StatusCode, c.later)
		}
		w.expectNoReuse()
	}
}

// TestCrashDuringRenewal: a process died after it noted that the refresh token is
// being spent. The next one does not use it again; the session ends with its token.
func TestCrashDuringRenewal(t *testing.T) {
	hang := make(chan struct{})
	var hangs atomic.Bool
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
		s.TokenFault = func(rw http.ResponseWriter, r *http.Request) bool {
			if hangs.Load() {
				<-hang
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}})
	b := w.browser()
	b.login("/")
	before := map[string][]byte{}
	hangs.Store(true)
	w.clock.Add(57 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	await(t, "the renewal to be sent", func() bool { return len(w.issuer.TokenRequests()) == 2 })
	for _, file := range w.sessionFiles() { // what a crash would leave
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before[file] = content
	}
	close(hang)
	hangs.Store(false)
	w.restart()
	for file, content := range before {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(b.get("/"), http.StatusOK)
	await(t, "the doubt", func() bool { return strings.Contains(w.log(), errSpent.Error()) })
	w.clock.Add(time.Hour)
	w.expect(b.get("/"), http.StatusFound)
	if n := len(w.issuer.TokenRequests()); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	w.expectNoReuse()
}

// TestLogoutRevokes: a logout revokes the refresh token, and holds against a
// renewal under way; that the revocation fails keeps nothing alive.
func TestLogoutRevokes(t *testing.T) {
	var entered, leave = make(chan struct{}), make(chan struct{})
	var slow atomic.Bool
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
		s.RevokeFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
		s.TokenFault = func(http.ResponseWriter, *http.Request) bool {
			if slow.Load() {
				entered <- struct{}{}
				<-leave
			}
			return false
		}
	}})
	b := w.browser()
	copied := b.login("/").cookie("aventus_session")
	w.clock.Add(57 * time.Minute)
	slow.Store(true)
	w.expect(b.get("/"), http.StatusOK)
	<-entered
	slow.Store(false)
	w.expect(b.get("/logout"), http.StatusOK)
	leave <- struct{}{}
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
	want := w.issuer.Issuer + "v2/logout?" + url.Values{"client_id": {"the-client"}, "returnTo": {w.site + "/logout?signed_out"}}.Encode()
	if a.location() != want {
		t.Errorf("sent to %s, want %s", a.location(), want)
	}
	a = b.do("GET", b.get(a.location()).location(), "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	w.expect(a, http.StatusOK)
	if !strings.Contains(a.body, "signed out") {
		t.Error(a.body)
	}
	// That page signs nobody out, whoever leads there.
	b.login("/")
	w.expect(b.do("GET", "/logout?signed_out", "Sec-Fetch-Site", "cross-site"), http.StatusOK)
	w.expect(b.get("/"), http.StatusOK)
	w.expect(b.do("GET", "/logout", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
	if len(w.issuer.Logouts()) != 1 {
		t.Errorf("%d logouts at the authorization server", len(w.issuer.Logouts()))
	}
	w.run(strings.Replace(w.config, "logout /logout", "logout /logout /bye", 1))
	if got := query(b.get("/logout").location(), "returnTo"); got != w.site+"/bye" {
		t.Errorf("returnTo %s", got)
	}
}

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
		w.expect(w.browser().do("GET", "/", "Cookie", "aventus_session="+first.Value, "Sec-Fetch-Mode", "navigate"), http.StatusFound)
		w.clock.Add(time.Hour)
		w.expect(b.get("/"), http.StatusFound)
	}
}

// TestRenewalByVisit: without a refresh token, a page visit near the token's end
// goes through the authorization server, once a minute; a fetch or a form does not.
func TestRenewalByVisit(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{block: "session {\nstore " + store + "\n}", issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
		b := w.browser()
		b.login("/")
		w.clock.Add(54 * time.Minute)
		w.expect(b.get("/page"), http.StatusOK)
		w.clock.Add(2 * time.Minute)
		w.expect(b.do("GET", "/page", "Sec-Fetch-Mode", "cors"), http.StatusOK)
		w.expect(b.do("POST", "/page", "Sec-Fetch-Mode", "navigate"), http.StatusOK)
		w.expect(b.do("GET", "/page", "Accept", "text/html"), http.StatusOK)

		a := b.get("/page?q")
		w.expect(a, http.StatusFound)
		// It did not help: the same session goes on, for a minute at least.
		w.expect(b.get("/page?q"), http.StatusOK)
		w.clock.Add(59 * time.Second)
		w.expect(b.get("/page?q"), http.StatusOK)
		w.clock.Add(time.Second)
		a = b.get("/page?q")
		w.expect(a, http.StatusFound)
		if len(a.Cookies()) != 2 || a.Header.Get("Cache-Control") != "no-store" {
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
