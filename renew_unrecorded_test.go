package aventusauth

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestRenewalRecordedAfterAnHour: the storage takes no writes for an hour and a half after a token was renewed.
// The renewed session lives here meanwhile, and what was renewed is in the record soon after the storage
// takes writes again, instead of the note for which any instance would give the session up.
func TestRenewalRecordedAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		s := renewable(start, time.Minute)
		parts := &renewalParts{record: s.copy(), failAfter: true}
		rn := parts.renewer(time.Now)
		time.Sleep(2 * time.Minute)
		k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
		if refused != nil || k == nil || k.bearer != bearer+"new" {
			t.Fatalf("%+v, %+v", k, refused)
		}
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		if parts.record.spending == 0 {
			t.Fatal("the record has no note")
		}
		if k, refused = rn.keepAlive(t.Context(), site{}, k); k != nil || refused == nil ||
			refused.failure != errRenewal {
			t.Fatalf("while the storage fails, and its token has died: %+v, %+v", k, refused)
		}
		parts.failing.Store(false)
		time.Sleep(2 * retryRenewal)
		synctest.Wait()
		if parts.record.refresh != "second" || parts.record.spending != 0 {
			t.Fatalf("the record is %+v", parts.record)
		}
		k, refused = rn.keepAlive(t.Context(), site{}, &keptSession{session: parts.remembered, handle: newHandle(s)})
		if refused != nil || k == nil {
			t.Fatalf("%+v, %+v", k, refused)
		}
		if len(parts.sent) != 2 || parts.sent[1] != "second" {
			t.Fatalf("the refresh tokens %q were sent", parts.sent)
		}
		parts.failing.Store(false)
		time.Sleep(2 * retryRenewal)
		synctest.Wait()
	})
}

// TestUnrecordedIsNotForgotten: what came of a renewal, and could not be recorded, counts also for who has met many
// others since: the renewed session goes on, and one that was given up is over.
func TestUnrecordedIsNotForgotten(t *testing.T) {
	for how, c := range map[string]struct {
		answer        aventustest.Fault
		page, profile int
	}{
		"renewed": {nil, http.StatusOK, http.StatusOK},
		"given up": {aventustest.Says(http.StatusForbidden, `{"error":"invalid_grant"}`), http.StatusFound,
			http.StatusUnauthorized},
	} {
		var faults aventustest.Switch
		w := refreshing(t, setup{block: "profile /me", issuer: func(s *aventustest.Server) {
			s.TokenFault = faults.Answer
		}})
		w.onEngine()
		b := w.browser()
		b.login("/")
		recovers := failRecords(t, &faults, c.answer)
		w.clock.Add(2 * time.Hour)
		w.expect(b.get("/"), c.page)
		for _, path := range []string{"/me", "/", "/me"} {
			want := c.page
			if path == "/me" {
				want = c.profile
			}
			w.forgetSessions()
			if a := b.get(path); a.StatusCode != want {
				t.Errorf("%s, forgotten: %s gets %d, want %d", how, path, a.StatusCode, want)
			}
		}
		w.expectTokenRequests(2)
		w.expect(b.get("/logout"), http.StatusOK)
		w.expect(b.get("/"), http.StatusFound)
		recovers()
		w.awaitRecorded()
	}
}

// TestUnrecordedAtAnotherHost: a renewed session that could not be recorded goes on at each host that shares it, also
// at one that remembers it as it was before.
func TestUnrecordedAtAnotherHost(t *testing.T) {
	var faults aventustest.Switch
	g := newGroup(t, setup{block: "scope offline_access\nlogout /logout", issuer: func(s *aventustest.Server) {
		s.TokenLifetime = time.Hour
		s.TokenFault = faults.Answer
	}}, true)
	g.onEngine()
	b := g.browser()
	g.signInEverywhere(b)
	recovers := failRecords(t, &faults, nil)
	g.clock.Add(57 * time.Minute)
	g.expect(b.get(g.app+"/"), http.StatusOK)
	await(t, "the renewal", func() bool { return strings.Contains(g.log(), "could not be recorded") })
	g.clock.Add(4 * time.Minute)
	for _, origin := range []string{g.app, g.wiki, g.login} {
		g.expect(b.get(origin+"/"), http.StatusOK)
	}
	g.expectTokenRequests(2)
	g.expect(b.get(g.wiki+"/logout"), http.StatusOK)
	g.expectOut(b, "a logout")
	recovers()
	g.awaitRecorded()
}

// TestUnrecordedAndDueAgain: while a renewed session is still to be recorded, its own renewal is tried again and
// again. The pauses in between keep nobody out whose browser has an older state of the session.
func TestUnrecordedAndDueAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := renewable(time.Now().Truncate(time.Second), time.Minute)
		parts := &renewalParts{record: s.copy(), failAfter: true}
		rn := parts.renewer(time.Now)
		time.Sleep(2 * time.Minute)
		old := &keptSession{session: s, handle: newHandle(s)}
		k, refused := rn.keepAlive(t.Context(), site{}, old)
		if refused != nil || k == nil || k.token() != "new" {
			t.Fatalf("%v, %v", k, refused)
		}
		time.Sleep(56 * time.Minute)
		for _, asked := range []*keptSession{k, old} {
			got, refused := rn.keepAlive(t.Context(), site{}, asked)
			synctest.Wait()
			if refused != nil || got == nil || got.token() != "new" {
				t.Errorf("who has %q gets %v, %v", asked.token(), got, refused)
			}
		}
		if len(parts.sent) != 1 || !rn.pauses(k.session) {
			t.Errorf("the refresh tokens %q were sent; a pause: %t", parts.sent, rn.pauses(k.session))
		}
		parts.failing.Store(false)
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}
