package aventusauth

import (
	"fmt"
	"net/http"
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
		"unknown client":     {says(400, `{"error":"invalid_client"}`), 503, 200},
		"another's page":     {says(404, "<html>"), 503, 200},
		"broken, and says":   {says(500, `{"error":"invalid_grant"}`), 503, 200},
		"busy, and says":     {says(400, `{"error":"temporarily_unavailable"}`), 503, 200},
		"second factor":      {says(403, `{"error":"mfa_required"}`), 302, 302},
		"a rule":             {says(403, `{"error":"access_denied","error_description":"not on Sundays"}`), 302, 302},
		"consent":            {says(400, `{"error":"consent_required"}`), 302, 302},
		"interaction":        {says(400, `{"error":"interaction_required"}`), 302, 302},
		"login":              {says(403, `{"error":"login_required"}`), 302, 302},
		"not granted":        {says(403, `{"error":"unauthorized_client"}`), 302, 302},
		"another dialect":    {says(400, `{"error":"unsupported_grant_type"}`), 503, 200},
		"no such token":      {says(400, `{"error":"invalid_request"}`), 302, 302},
		"refused, no word":   {says(400, ""), 503, 200},
		"a firewall":         {says(403, "<html>"), 503, 200},
		"a gateway":          {says(403, `{"error":"Forbidden"}`), 503, 200},
		"another gateway":    {says(403, `{"error":"rate_limited"}`), 503, 200},
		"not found, in JSON": {says(404, `{"error":"not_found"}`), 503, 200},
		"too slow":           {says(408, `{"error":"request_timeout"}`), 503, 200},
		"refused with a 200": {says(200, `{"error":"invalid_grant"}`), 302, 302},
		"grant gone":         {says(403, `{"error":"invalid_grant"}`), 302, 302},
		"grant gone, by 401": {says(401, `{"error":"invalid_grant"}`), 302, 302},
		"a factor, by 401":   {says(401, `{"error":"mfa_required"}`), 302, 302},
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
		if c.status == 302 {
			await(t, name+": the end", func() bool { return strings.Contains(w.log(), "it ends with its token") })
			w.expect(b.get("/"), http.StatusOK) // with its token, which lives, and not before
		}
		if n := len(w.issuer.TokenRequests()); n > 2 {
			t.Errorf("%s: %d attempts at once", name, n-1)
		}
		w.clock.Add(time.Hour)
		a := b.get("/")
		if a.StatusCode != c.status {
			t.Errorf("%s: with a dead token, status %d, want %d", name, a.StatusCode, c.status)
		}
		if c.status == 503 && (a.Header.Get("Retry-After") != "10" ||
			!strings.HasPrefix(a.body, "renewal_unavailable: ")) {
			t.Errorf("%s: %v %s", name, a.Header, a.body)
		}
		current.Store(nil)
		w.clock.Add(retryRenewal)
		// The renewal before may be about to end, and a request may still share its result.
		await(t, fmt.Sprintf("%s: status %d, since the server is well", name, c.later), func() bool {
			return b.get("/").StatusCode == c.later
		})
		w.expectNoReuse()
	}
}

// TestRenewFrom: half of a token's life is counted from when that token came, and not from the login.
func TestRenewFrom(t *testing.T) {
	h := benchHandler(t, Config{})
	login := time.Now().Truncate(time.Second)
	for _, c := range []struct{ came, life, want time.Duration }{
		{0, 6 * time.Minute, 3 * time.Minute},
		{5 * time.Minute, 6 * time.Minute, 8 * time.Minute},
		{5 * time.Minute, time.Hour, time.Hour},
	} {
		came := login.Add(c.came)
		s := &session{created: toUnix(login), tokenCame: toUnix(came), tokenEnds: toUnix(came.Add(c.life))}
		if got := h.house.renewer.dueFrom(s).Sub(login); got != c.want {
			t.Errorf("a token that came after %s, for %s, is renewed after %s, want %s", c.came, c.life, got, c.want)
		}
	}
}
