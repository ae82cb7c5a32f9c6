package aventusauth

import (
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestClockFarAhead: for some time, the clock is a year ahead, by which the time of all that is noted
// has come. A session that was ended before stays dead when the clock is right, and a callback that
// was used stays used, also for an instance that starts then.
func TestClockFarAhead(t *testing.T) {
	const year = 365 * 24 * time.Hour
	w := newWorld(t, setup{block: "logout /logout"})
	w.clock.Add(2 * time.Hour)
	b := w.browser()
	callback := b.begin("/")
	jar := b.cookieHeader() // as they go with the callback
	ended := b.get(callback).cookie("aventus_session").Value
	w.expect(b.get("/"), http.StatusOK)
	w.expect(b.get("/logout"), http.StatusOK)
	asked := len(w.issuer.TokenRequests())

	w.clock.Set(year)
	other := w.browser() // whose login and logout remove what is over
	other.login("/")
	w.expect(other.get("/logout"), http.StatusOK)
	asked++
	w.clock.Add(time.Minute)
	w.clock.Set(-year)

	for _, when := range []string{"the clock is right again", "after a restart"} {
		// A removal, were there one, goes on in the background.
		if files, _ := filepath.Glob(filepath.Join(w.dir, "storage", "aventus_auth", "ended", "all", "[0-9]*",
			"*")); len(files) != 2 {
			t.Errorf("%s: %d ends are in the storage, want 2", when, len(files))
		}
		if a := w.browser().do("GET", "/", "Cookie", "aventus_session="+ended); a.StatusCode !=
			http.StatusUnauthorized {
			t.Errorf("%s: the cookie that was ended gets %d", when, a.StatusCode)
		}
		if a := w.browser().do("GET", callback, "Cookie", jar); a.cookie("aventus_session") != nil &&
			a.cookie("aventus_session").MaxAge > 0 {
			t.Errorf("%s: the callback is answered with a session", when)
		}
		w.restart()
	}
	w.expectTokenRequests(asked)
}

// TestRenewalByVisitBetweenClocks: two instances whose clocks differ by three minutes, and a server that answers every
// login with an error, do not send who is signed in to and fro without end.
func TestRenewalByVisitBetweenClocks(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour }})
	b := w.browser()
	b.login("/")
	w.clock.Add(59 * time.Minute)
	other := int64(3 * 60)
	rounds := 0
	for ; rounds < 20; rounds++ {
		a := b.get("/page") // at one instance
		if a.StatusCode == http.StatusOK {
			break
		}
		state := query(a.location(), "state")
		other = -other
		w.clock.now.Add(other) // the callback, and what follows, is served by the other one
		a = b.get("/oauth2/callback?error=temporarily_unavailable&state=" + state)
		w.expect(a, http.StatusSeeOther)
	}
	if rounds > 2 {
		t.Errorf("%d rounds", rounds)
	}
}

// TestRenewedWhileTheClockWasAhead: a token that was renewed while the clock stood far in the future is not
// taken for fresh until that time comes: it is renewed once the clock is right.
func TestRenewedWhileTheClockWasAhead(t *testing.T) {
	w := refreshing(t, setup{block: "session {\nlifetime 720h\n}"})
	b := w.browser()
	b.login("/")
	w.clock.Add(20 * 24 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	wrong := w.token()
	w.clock.Add(-20 * 24 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	right := w.token()
	if right == wrong {
		t.Error("the token of the future goes on")
	}
	for range 3 { // and then by its own time
		w.clock.Add(20 * time.Minute)
		w.restart()
		w.expect(b.get("/"), http.StatusOK)
	}
	w.expectTokenRequests(4)
	w.expectNoReuse()
}

// TestRefusedWhileTheClockWasAhead: a session whose token came while the clock stood far in the future ends at
// once when the server refuses to renew it, and not when that token would have ended.
func TestRefusedWhileTheClockWasAhead(t *testing.T) {
	var status atomic.Int64
	w := refreshing(t, setup{block: "session {\nlifetime 720h\n}", issuer: answering(&status)})
	b := w.browser()
	b.login("/")
	w.clock.Add(20 * 24 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(-20 * 24 * time.Hour)
	status.Store(http.StatusForbidden)
	for range 2 {
		w.expect(b.do("POST", "/"), http.StatusUnauthorized)
		w.clock.Add(10 * 24 * time.Hour)
		w.expect(b.do("POST", "/"), http.StatusUnauthorized)
		w.restart()
	}
	w.expect(b.get("/"), http.StatusFound)
}

// TestPauseAfterTheClock: a clock that is set back does not make the pause after a failed renewal longer.
func TestPauseAfterTheClock(t *testing.T) {
	var status atomic.Int64
	w := refreshing(t, setup{issuer: answering(&status)})
	b := w.browser()
	b.login("/")
	status.Store(http.StatusServiceUnavailable)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	status.Store(0)
	w.clock.Add(-30 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	w.expectNoReuse()
}

// TestClockSetRight: a session or a token that was accepted while the clock stood far in the future is
// refused once the clock is right, also by the instance that remembers it; within the limits that the
// clocks of instances may differ by, it stays good.
func TestClockSetRight(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{block: "accept_bearer\nsession {\nstore " + store + "\n}"})
		w.clock.Add(48 * time.Hour)
		b := w.browser()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		token := w.issuer.SignJWT(w.tokenClaims(map[string]any{"nbf": w.clock.Now().Unix()}))
		client := func() int { return w.browser().do("GET", "/", "Authorization", "Bearer "+token).StatusCode }
		if got := client(); got != http.StatusOK {
			t.Errorf("an API client: status %d", got)
		}
		w.clock.Add(-5 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		w.clock.Add(-time.Second)
		w.expect(b.get("/"), http.StatusFound)
		if got := client(); got != http.StatusUnauthorized {
			t.Errorf("an API client: status %d", got)
		}
		w.clock.Add(time.Second)
		w.expect(b.get("/"), http.StatusOK)
		w.clock.Add(5 * time.Minute)
		if got := client(); got != http.StatusOK {
			t.Errorf("an API client: status %d", got)
		}
	}
}
