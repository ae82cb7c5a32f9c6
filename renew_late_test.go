package aventusauth

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// late makes the next write of a session's record be carried out only when the returned function is
// called, long after it was given up on.
func late(t *testing.T) (carryOut func()) {
	t.Helper()
	now := make(chan struct{})
	var isLate atomic.Bool
	fault := func(op, key string) error {
		if op == "store" && strings.HasPrefix(key, "aventus_auth/sessions") && isLate.CompareAndSwap(false, true) {
			<-now
		}
		return nil
	}
	engineFault.Store(&fault)
	var isOut atomic.Bool
	carryOut = func() {
		if isOut.CompareAndSwap(false, true) {
			close(now)
		}
	}
	t.Cleanup(func() { carryOut(); engineFault.Store(nil) })
	return carryOut
}

// TestNoteCarriedOutLate: the storage takes more than the time that there is for the note that a refresh
// token is being spent, and has it in the end. The token was not sent. So the note is taken back, and
// an instance that comes later, with nothing in memory, renews the session.
func TestNoteCarriedOutLate(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		w := refreshing(t, setup{})
		w.onEngine()
		b := w.browser()
		b.login("/")
		carryOut := late(t)
		w.clock.Add(2 * time.Hour)
		w.expect(b.get("/"), http.StatusServiceUnavailable) // after the storage's five seconds
		w.expectTokenRequests(1)
		carryOut()
		await(t, "the note to be taken back", func() bool { return w.isUnlocked() && !w.hasNote() })
		if restarts {
			w.restart()
		} else {
			w.forgetSessions()
		}
		w.clock.Add(doubtful + records.ClockSkew)
		w.expect(b.get("/"), http.StatusOK)
		w.expectTokenRequests(2)
		w.expectNoReuse()
	}
}

// TestNoteCarriedOutLater: until it is known what becomes of the note, no other instance renews the
// session: the note would then bring back the refresh token that this one has spent.
func TestNoteCarriedOutLater(t *testing.T) {
	w := refreshing(t, setup{})
	w.onEngine()
	b := w.browser()
	b.login("/")
	carryOut := late(t)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	if w.isUnlocked() {
		t.Error("another instance may renew the session, while the note is under way")
	}
	w.clock.Add(retryRenewal)
	w.expect(b.get("/"), http.StatusServiceUnavailable) // nor this one
	carryOut()
	await(t, "the lock to be released", w.isUnlocked)
	w.clock.Add(retryRenewal)
	w.expect(b.get("/"), http.StatusOK)
	w.expectTokenRequests(2)
	w.forgetSessions()
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	w.expectTokenRequests(3)
	w.expectNoReuse()
}

// TestRenewedCarriedOutLate: the record of a renewed session is carried out late, when another instance
// has gone on from it. It is not written again over what that one wrote.
func TestRenewedCarriedOutLate(t *testing.T) {
	var lateNow atomic.Bool
	var carryOut func()
	w := refreshing(t, setup{})
	w.onEngine()
	w.issuer.TokenFault = func(http.ResponseWriter, *http.Request) bool {
		if lateNow.CompareAndSwap(true, false) { // the note is there by now
			carryOut = late(t)
		}
		return false
	}
	b := w.browser()
	b.login("/")
	lateNow.Store(true)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	carryOut()
	await(t, "the lock to be released", w.isUnlocked)

	// Another instance goes on, before this one looks again.
	h := handlers()[0].house
	for _, k := range h.keeper.memory.all() {
		at := h.gate.sites.from(k.cookie.origin)
		record, err := h.keeper.store.fetch(t.Context(), at, k.handle)
		if err != nil || record == nil || record.spending != 0 {
			t.Fatalf("the record is %v, error %v", record, err)
		}
		newer := record.copy()
		newer.refresh = "the newest"
		if err := h.keeper.store.put(t.Context(), at, k.handle, newer); err != nil {
			t.Fatal(err)
		}
		w.awaitRecorded()
		if found, err := h.keeper.store.fetch(t.Context(), at, k.handle); err != nil || found.refresh != "the newest" {
			t.Errorf("the newer record was written over, error %v", err)
		}
	}
	w.expectNoReuse()
}

// isUnlocked reports whether the locks of the sessions that are remembered can be had.
func (w *world) isUnlocked() bool {
	w.t.Helper()
	for _, h := range handlers() {
		for _, k := range h.house.keeper.memory.all() {
			ctx, cancel := context.WithTimeout(w.t.Context(), 100*time.Millisecond)
			defer cancel()
			lock := "aventus_auth/renew/" + k.name()
			if h.house.shared.newest.Lock(ctx, lock) != nil {
				return false
			}
			if err := h.house.shared.newest.Unlock(w.t.Context(), lock); err != nil {
				w.t.Error(err)
			}
		}
	}
	return true
}

// hasNote reports whether the record of a session that is remembered says that its refresh token is
// being spent.
func (w *world) hasNote() bool {
	w.t.Helper()
	for _, h := range handlers() {
		for _, k := range h.house.keeper.memory.all() {
			record, err := h.house.keeper.store.fetch(w.t.Context(),
				h.house.gate.sites.from(k.cookie.origin), k.handle)
			if err != nil || record == nil {
				w.t.Fatalf("the record is %v, error %v", record, err)
			}
			if record.spending != 0 {
				return true
			}
		}
	}
	return false
}

// awaitRecorded waits until nothing that came of a renewal is still to be recorded.
func (w *world) awaitRecorded() {
	w.t.Helper()
	await(w.t, "what came of a renewal to be recorded", func() bool {
		a := &handlers()[0].house.shared.attempts
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, attempt := range a.by {
			if attempt.unrecorded != nil {
				return false
			}
		}
		return true
	})
}

// failRecords has the storage take no records of sessions, from the next token request on, which answer may answer.
// The note that the refresh token is sent was written by then. It returns what ends that.
func failRecords(t *testing.T, faults *aventustest.Switch, answer aventustest.Fault) (recovers func()) {
	faults.Set(func(w http.ResponseWriter, r *http.Request) bool {
		faultAt(t, "store", "aventus_auth/sessions")
		return answer != nil && answer(w, r)
	})
	return func() {
		faults.Set(nil)
		engineFault.Store(nil)
	}
}

// TestRenewalRecordedLater: where the storage fails while a refresh token is being spent, what came of it is
// recorded as soon as the storage is back, whether the authorization server renewed the token or was too
// busy to. So the session outlives a restart, and no refresh token is sent twice.
func TestRenewalRecordedLater(t *testing.T) {
	for name, answer := range map[string]aventustest.Fault{
		"renewed": nil, "busy": aventustest.Says(http.StatusServiceUnavailable, ""),
	} {
		var faults aventustest.Switch
		w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
		w.onEngine()
		b := w.browser()
		b.login("/")
		recovers := failRecords(t, &faults, answer)
		w.clock.Add(2 * time.Hour)
		if a := b.get("/"); (a.StatusCode == http.StatusOK) != (answer == nil) {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
		recovers()
		w.awaitRecorded()
		w.forgetSessions()
		w.clock.Add(retryRenewal)
		w.expect(b.get("/"), http.StatusOK)
		asked := 2
		if answer != nil {
			asked++
		}
		w.expectTokenRequests(asked)
		w.restart()
		w.expect(b.get("/"), http.StatusOK)
		w.expectTokenRequests(asked)
		w.expectNoReuse()
	}
}

// TestRenewalUnverifiedRecordedLater: the same where the renewed token cannot be verified, since the keys cannot
// be had, and the storage fails at the same time.
func TestRenewalUnverifiedRecordedLater(t *testing.T) {
	var keys, tokens aventustest.Switch
	w := refreshing(t, setup{block: "verify_token", issuer: func(s *aventustest.Server) {
		s.JWKSFault, s.TokenFault = keys.Answer, tokens.Answer
	}})
	w.onEngine()
	b := w.browser()
	b.login("/")
	w.issuer.RotateKey()
	keys.Set(aventustest.Says(http.StatusServiceUnavailable, ""))
	recovers := failRecords(t, &tokens, nil)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	keys.Set(nil)
	recovers()
	w.awaitRecorded()
	w.forgetSessions()
	w.clock.Add(retryRenewal)
	w.expect(b.get("/"), http.StatusOK)
	w.expectTokenRequests(3)
	w.expectNoReuse()
}

// TestGivenUpRecordedLater: that the authorization server refused a renewal is recorded as soon as the storage is
// back, so that an instance that does not remember the session knows it, and is in no doubt.
func TestGivenUpRecordedLater(t *testing.T) {
	var faults aventustest.Switch
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	w.onEngine()
	b := w.browser()
	b.login("/")
	recovers := failRecords(t, &faults, aventustest.Says(http.StatusForbidden, `{"error":"invalid_grant"}`))
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusFound)
	recovers()
	w.awaitRecorded()
	w.forgetSessions()
	w.expect(b.get("/"), http.StatusFound)
	w.expectTokenRequests(2)
}

// TestNothingRecordedAfterTheEnd: what came of a renewal is not recorded any more when the person has signed out:
// no record is left behind.
func TestNothingRecordedAfterTheEnd(t *testing.T) {
	var faults aventustest.Switch
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	w.onEngine()
	b := w.browser()
	b.login("/")
	recovers := failRecords(t, &faults, nil)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	w.expect(b.get("/logout"), http.StatusOK)
	recovers()
	w.awaitRecorded()
	if n := len(w.sessionFiles()); n != 0 {
		t.Errorf("%d records are left", n)
	}
}
