package aventusauth

import (
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// noteSpending writes the note that its refresh token is being spent into the record of each session
// that is remembered.
func (w *world) noteSpending() {
	w.t.Helper()
	w.note(w.clock.Now())
}

func (w *world) note(spending time.Time) {
	w.t.Helper()
	for _, h := range handlers() {
		for _, k := range h.house.keeper.memory.all() {
			noted := k.session.copy()
			noted.spending = toUnix(spending)
			if err := h.house.keeper.store.put(w.t.Context(), h.house.gate.sites.from(k.cookie.origin), k.handle,
				noted); err != nil {
				w.t.Fatal(err)
			}
		}
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
	await(t, "the end of the attempt", func() bool { return strings.Contains(w.log(), "it ends with its token") })
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

// TestSpentAndForgotten: a note that the refresh token is being spent is believed ten seconds after it was
// first seen, also where the session is forgotten in between; and at once when it is older than clocks
// differ.
func TestSpentAndForgotten(t *testing.T) {
	w := refreshing(t, setup{})
	for _, wait := range []time.Duration{0, records.ClockSkew + doubtful} {
		b := w.browser()
		b.login("/")
		asked := len(w.issuer.TokenRequests())
		w.clock.Add(time.Hour)
		w.noteSpending()
		w.forgetSessions()
		w.clock.Add(wait)
		if wait == 0 {
			w.expect(b.get("/"), http.StatusServiceUnavailable)
			w.forgetSessions()
			w.clock.Add(doubtful)
		}
		w.expect(b.get("/"), http.StatusFound)
		w.expectTokenRequests(asked)
	}
}

// TestSpentTwice: each note that the refresh token is being spent is given the time to be taken back, and not
// only the first one of a session.
func TestSpentTwice(t *testing.T) {
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenLifetime = 10 * time.Minute }})
	b := w.browser()
	b.login("/")
	for range 2 {
		w.clock.Add(10 * time.Minute)
		w.noteSpending()
		w.forgetSessions()
		w.expect(b.get("/"), http.StatusServiceUnavailable)
		w.note(time.Time{}) // as its writer takes it back
		w.forgetSessions()
		w.clock.Add(retryRenewal)
		w.expect(b.get("/"), http.StatusOK)
	}
	w.expectTokenRequests(3)
	w.expectNoReuse()
}

// TestRenewalRemembered: what came of a renewal is known also to an instance that does not remember the
// session: one that has met many others since, or another one.
func TestRenewalRemembered(t *testing.T) {
	var status atomic.Int64
	w := refreshing(t, setup{issuer: answering(&status)})
	for name, forget := range map[string]func(){"forgotten": w.forgetSessions, "restarted": w.restart} {
		b := w.browser()
		b.login("/")
		asked := len(w.issuer.TokenRequests())

		// The server is down: it is asked again after a pause, not at each request. A restart forgets that.
		status.Store(http.StatusServiceUnavailable)
		w.clock.Add(2 * time.Hour)
		for range 3 {
			w.expect(b.get("/"), http.StatusServiceUnavailable)
			w.forgetSessions()
		}
		w.expectTokenRequests(asked + 1)
		w.clock.Add(retryRenewal)
		status.Store(0)
		w.expect(b.get("/"), http.StatusOK)
		w.expectTokenRequests(asked + 2)

		// The server refuses: nobody asks it again, and the session is over at once.
		status.Store(http.StatusForbidden)
		w.clock.Add(2 * time.Hour)
		for range 3 {
			w.expect(b.get("/"), http.StatusFound)
			w.expect(b.do("POST", "/"), http.StatusUnauthorized)
			forget()
		}
		if got := len(w.issuer.TokenRequests()); got != asked+3 {
			t.Errorf("%s: the server was asked %d times, want once", name, got-asked-2)
		}
		status.Store(0)
	}
	w.expectNoReuse()
}
