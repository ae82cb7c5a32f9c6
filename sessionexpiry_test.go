package aventusauth

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestSessionExpiry: a session ends when the ID token says so, wherever it rests, though its token lives on.
func TestSessionExpiry(t *testing.T) {
	for _, block := range []string{"", "session {\nstore storage\n}", "scope offline_access", "verify_token"} {
		w := newWorld(t, setup{block: block + "\nprofile /me", issuer: func(s *aventustest.Server) {
			s.SessionExpiry, s.TokenLifetime = 50*time.Minute, 24*time.Hour
		}})
		b := w.browser()
		a := b.login("/")
		if c := a.cookie("aventus_session"); c.MaxAge != 3000 {
			t.Errorf("%q: the cookie is for %d s", block, c.MaxAge)
		}
		until := w.clock.Now().Add(50 * time.Minute).UTC().Format(time.RFC3339)
		if a := b.get("/me"); !strings.Contains(a.body, `"expires_at":"`+until+`"`) {
			t.Errorf("%q: the profile is %s, not until %s", block, a.body, until)
		}
		kept := b.cookies()
		w.clock.Add(50*time.Minute - time.Second)
		w.expect(b.get("/"), http.StatusOK)
		w.clock.Add(time.Second)
		w.expect(b.get("/"), http.StatusFound)
		var header []string
		for _, c := range kept { // also for who keeps the cookie for longer
			header = append(header, c.Name+"="+c.Value)
		}
		w.expect(w.browser().do("GET", "/", "Cookie", strings.Join(header, "; ")), http.StatusUnauthorized)
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
	}
}

// TestSessionExpiryLonger: a session_expiry past the session's own end changes nothing.
func TestSessionExpiryLonger(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) {
		s.SessionExpiry, s.TokenLifetime = 48*time.Hour, time.Hour
	}})
	b := w.browser()
	if c := b.login("/").cookie("aventus_session"); c.MaxAge != 3600 {
		t.Errorf("the cookie is for %d s", c.MaxAge)
	}
}

// TestSessionBornExpired: a login whose session has ended already is an error that says so, to the person and
// to the operator, and nothing is kept of it. One that is no number is refused.
func TestSessionBornExpired(t *testing.T) {
	var expiry any
	w := newWorld(t, setup{
		caddyfile: "%s\nreverse_proxy %app" + errorsShown, block: "scope offline_access",
		issuer: func(s *aventustest.Server) {
			s.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"session_expiry": expiry} }
		},
	})
	for _, expiry = range []any{w.clock.Now().Unix(), w.clock.Now().Add(-time.Hour).Unix(), 0, -1} {
		b := w.browser()
		a := b.get(b.begin("/"))
		w.expect(a, http.StatusBadGateway)
		if !strings.HasPrefix(a.body, "session_over: The sign-in server says that your session there has ended") ||
			a.cookie("aventus_session") != nil {
			t.Errorf("%v: %v %s", expiry, a.Header, a.body)
		}
		w.expect(b.get("/"), http.StatusFound)
	}
	for _, want := range []string{`"msg":"session_over"`,
		"the ID token's session_expiry has passed already: 1970-01-01T00:00:00Z",
		`"advice":"compare the clocks, and see what sets session_expiry at the authorization server`} {
		if !strings.Contains(w.log(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	await(t, "the refresh tokens are revoked", func() bool { return len(w.issuer.Revoked()) == 4 })

	for _, expiry = range []any{"1800000000", true, map[string]any{}} {
		b := w.browser()
		w.expectRefused(b.get(b.begin("/")), "its session_expiry is no number")
	}
	for _, expiry = range []any{nil, 1e300, float64(w.clock.Now().Unix()) + 60.5} {
		w.browser().login("/")
	}
}

// TestSessionExpiryRenewed: the ID token of a renewal can bring the session's end nearer, and never further away.
func TestSessionExpiryRenewed(t *testing.T) {
	var expiry any
	w := refreshing(t, setup{block: "profile /me", issuer: func(s *aventustest.Server) {
		s.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"session_expiry": expiry} }
	}})
	in := func(d time.Duration) int64 { return w.clock.Now().Add(d).Unix() }
	expiry = in(5 * time.Hour)
	b := w.browser()
	b.login("/")
	w.clock.Add(time.Hour)
	expiry = in(24 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(time.Hour)
	expiry = in(90 * time.Minute)
	w.expect(b.get("/"), http.StatusOK) // renewed again, until 3:30
	w.clock.Add(time.Hour)
	expiry = nil
	w.expect(b.get("/"), http.StatusOK)
	w.restart()
	w.clock.Add(30*time.Minute - time.Second)
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(time.Second)
	w.expect(b.get("/"), http.StatusFound)
	w.expectNoReuse()

	// One that has passed ends the session at once, and the new refresh token is revoked.
	expiry = nil
	b.login("/")
	w.clock.Add(56 * time.Minute) // the token before lives on
	expiry = in(0)
	w.expect(b.get("/"), http.StatusOK)
	await(t, "the session's end", func() bool { return b.get("/").StatusCode == http.StatusFound })
	await(t, "only the first session's record is there", func() bool { return len(w.sessionFiles()) == 1 })
	await(t, "a revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
	if !strings.Contains(w.log(), "a session cannot be renewed any more; it has ended") {
		t.Error("the log does not say why")
	}
}

// TestRenewedIDForAnother: an ID token that comes with a renewed token has to be of the same person, server and
// client, or the session ends with the token that it has.
func TestRenewedIDForAnother(t *testing.T) {
	for name, value := range map[string]any{"sub": "auth0|grace", "aud": "another", "iss": "https://evil.test/"} {
		w := refreshing(t, setup{})
		w.issuer.EditAnswer = func(grant string, answer map[string]any) {
			if grant == "refresh_token" {
				claims := map[string]any{
					"iss": w.issuer.Issuer, "sub": "auth0|ada", "aud": "the-client",
					"session_expiry": w.clock.Now().Add(24 * time.Hour).Unix(),
				}
				claims[name] = value
				answer["id_token"] = w.issuer.SignJWT(claims)
			}
		}
		b := w.browser()
		b.login("/")
		w.clock.Add(56 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		await(t, "a word in the log", func() bool {
			return strings.Contains(w.log(), "verifying the ID token: the token is refused: its "+name)
		})
		w.clock.Add(4 * time.Minute)
		w.expect(b.get("/"), http.StatusFound)
	}
}

// TestLimits: each end that the tokens say counts, whichever others they say, and none makes anything last longer.
func TestLimits(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	at := func(minutes int) time.Time {
		if minutes == 0 {
			return time.Time{}
		}
		return start.Add(time.Duration(minutes) * time.Minute)
	}
	for _, c := range []struct {
		refresh                string
		token, session         int // what the tokens say, in minutes; 0: nothing
		wantToken, wantSession int
	}{
		{"refresh", 0, 0, 60, 600},
		{"refresh", 30, 0, 30, 600},
		{"refresh", 0, 120, 60, 120},
		{"refresh", 30, 120, 30, 120},
		{"refresh", 90, 900, 60, 600},
		{"", 30, 0, 30, 30},
		{"", 30, 120, 30, 30},
		{"", 30, 20, 30, 20},
	} {
		s := &session{refresh: c.refresh, tokenEnds: toUnix(at(60)), expires: toUnix(at(600))}
		s.limit(limits{token: at(c.token), session: at(c.session)})
		if s.tokenEnds != toUnix(at(c.wantToken)) || s.expires != toUnix(at(c.wantSession)) {
			t.Errorf("%+v: the token ends at %s, the session at %s", c, s.tokenEnds.time(), s.expires.time())
		}
	}
}
