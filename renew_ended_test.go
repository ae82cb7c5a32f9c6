package aventusauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestLogoutWhileRenewalFails: a renewal under way fails after its visitor has signed out. The record stays deleted,
// so that the session is over after a restart, too, also where its end could not be written.
func TestLogoutWhileRenewalFails(t *testing.T) {
	for how, answer := range map[string]aventustest.Fault{
		"the logout has revoked the token": nil,
		"refused":                          aventustest.Says(http.StatusForbidden, `{"error":"invalid_grant"}`),
		"busy":                             aventustest.Says(http.StatusServiceUnavailable, ""),
	} {
		for _, isWritten := range []bool{true, false} {
			held, fails := aventustest.NewHold(), new(aventustest.Switch)
			w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
				s.TokenFault = func(rw http.ResponseWriter, r *http.Request) bool {
					return held.Answer(rw, r) || fails.Answer(rw, r)
				}
			}})
			w.onEngine()
			b := w.browser()
			copied := b.login("/").cookie("aventus_session").Value
			w.clock.Add(57 * time.Minute)
			fails.Set(answer)
			held.Next()
			w.expect(b.get("/"), http.StatusOK)
			held.Await()
			status, recovers := http.StatusOK, func() {}
			if !isWritten {
				status, recovers = http.StatusServiceUnavailable, faultAt(t, "store", "aventus_auth/ended")
			}
			w.expect(b.get("/logout"), status)
			await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
			held.Release()
			await(t, "the renewal to end", w.isUnlocked)
			if files := w.sessionFiles(); len(files) != 0 {
				t.Errorf("%s: the record is back: %q", how, files)
			}
			w.restart()
			recovers()
			a := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied, "Sec-Fetch-Mode", "navigate")
			w.expect(a, http.StatusFound)
		}
	}
}

// TestLogoutWhileRecordedLater: a renewed session could not be recorded, and is just being written once more when its
// visitor signs out. No record is left, and the refresh token that came is revoked, too.
func TestLogoutWhileRecordedLater(t *testing.T) {
	w := refreshing(t, setup{})
	w.onEngine()
	b := w.browser()
	b.login("/")
	w.clock.Add(57 * time.Minute)
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	var writes atomic.Int64
	fault := func(op, key string) error {
		if op != "store" || !strings.HasPrefix(key, "aventus_auth/sessions") {
			return nil
		}
		switch writes.Add(1) { // the first is the note
		case 2:
			return errors.New("a fault of the test")
		case 3:
			entered <- struct{}{}
			<-leave
		}
		return nil
	}
	engineFault.Store(&fault)
	t.Cleanup(func() { engineFault.Store(nil) })
	w.expect(b.get("/"), http.StatusOK)
	<-entered
	w.expect(b.get("/logout"), http.StatusOK)
	close(leave)
	await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) == 2 })
	await(t, "the record to go", func() bool { return len(w.sessionFiles()) == 0 })
}

// TestLogoutElsewhereWhileRenewing: the visitor signs out at another instance while this one is renewing the session.
// This one learns of it once it has written the record.
func TestLogoutElsewhereWhileRenewing(t *testing.T) {
	held := aventustest.NewHold()
	w := renewingAtTwoInstances(t, held)
	b := w.browser()
	b.login("/one/")
	w.expect(b.get("/one/"), http.StatusOK)
	w.clock.Add(57 * time.Minute)
	held.Next()
	w.expect(b.get("/one/"), http.StatusOK)
	held.Await()
	w.expect(b.get("/logout"), http.StatusOK)
	held.Release()
	await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) == 2 })
	await(t, "the record to go", func() bool { return len(w.sessionFiles()) == 0 })
}

// endedParts are renewalParts of a session that ends while it is being renewed.
type endedParts struct {
	renewalParts
	ends        string        // when it ends: at the first call of this kind
	isElsewhere bool          // at another instance, of which this one has to ask
	late        time.Duration // a write is given up on, and carried out so much later
	hasNote     bool          // the storage has a note that it says it did not take
	bad         error         // why the new token is not taken
	keeps       int           // deletions that fail

	hasEndedThere, isKnown bool
	isWrittenAfter         bool
	under                  chan struct{} // the late write
	revoked                []string

	mu sync.Mutex // for the record, which a late write changes
}

// at ends the session, if it is time.
func (p *endedParts) at(call string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if call == p.ends && !p.hasEndedThere {
		p.record, p.hasEndedThere, p.isKnown = nil, true, !p.isElsewhere
	}
}

func (p *endedParts) fetch(context.Context, site, *handle) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record == nil {
		return nil, nil
	}
	return p.record.copy(), nil
}

func (p *endedParts) put(ctx context.Context, at site, d *handle, s *session) error {
	p.isWrittenAfter = p.isWrittenAfter || p.isKnown
	p.at("put")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.late == 0 {
		return p.renewalParts.put(ctx, at, d, s)
	}
	p.under = make(chan struct{})
	time.AfterFunc(p.late, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.record = s.copy()
		close(p.under)
	})
	p.late = 0
	return errBrokenStorage
}

func (p *endedParts) putSealed(ctx context.Context, at site, d *handle, s *session) ([]byte, error) {
	p.at("note")
	p.mu.Lock()
	defer p.mu.Unlock()
	note, err := p.renewalParts.putSealed(ctx, at, d, s)
	if p.hasNote {
		err = errBrokenStorage
	}
	return note, err
}

func (p *endedParts) holds(context.Context, *handle, []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record != nil
}

func (p *endedParts) settled(d *handle) <-chan struct{} {
	if p.under != nil {
		return p.under
	}
	return p.renewalParts.settled(d)
}

func (p *endedParts) delete(context.Context, string, time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keeps > 0 {
		p.keeps--
		return errBrokenStorage
	}
	p.record = nil
	return nil
}

// hasEnded goes by the token of before: what ends the session may be what the new one does not say of it.
func (p *endedParts) hasEnded(s *session) bool { return p.isKnown && s.token() == "old" }

func (p *endedParts) learn(context.Context) { p.isKnown = p.hasEndedThere }

func (p *endedParts) refresh(ctx context.Context, token string) (*oauth2.Token, *aventus.Error) {
	p.at("refresh")
	return p.renewalParts.refresh(ctx, token)
}

func (p *endedParts) verifyRenewed(context.Context, *session, *session, string) (limits, error) {
	return limits{}, p.bad
}

func (p *endedParts) revoke(_ context.Context, s *session) {
	if s.refresh != "" {
		p.revoked = append(p.revoked, s.refresh)
	}
}

// TestEndsWhileRenewed: whenever a session ends while it is being renewed, here or at another instance, and whatever
// comes of the renewal, no record is left, and a refresh token that has come is revoked, once.
func TestEndsWhileRenewed(t *testing.T) {
	refused := &aventus.Error{Kind: aventus.Refused, Status: http.StatusBadRequest,
		Err: &oauth2.RetrieveError{ErrorCode: "invalid_grant"}}
	busy := &aventus.Error{Kind: aventus.Unavailable, Status: http.StatusServiceUnavailable}
	for what, c := range map[string]struct {
		ends    string
		set     func(*endedParts)
		revoked string
	}{
		"renewed":                        {"refresh", func(*endedParts) {}, "second"},
		"refused":                        {"refresh", func(p *endedParts) { p.err = refused }, ""},
		"busy":                           {"refresh", func(p *endedParts) { p.err = busy }, ""},
		"not good":                       {"refresh", func(p *endedParts) { p.bad = aventus.ErrToken }, "second"},
		"not verifiable":                 {"refresh", func(p *endedParts) { p.bad = errors.New("no keys") }, "second"},
		"the note":                       {"note", func(*endedParts) {}, "second"},
		"the note, written all the same": {"note", func(p *endedParts) { p.hasNote = true }, ""},
		"recorded":                       {"put", func(*endedParts) {}, "second"},
		"recorded, and hard to delete":   {"put", func(p *endedParts) { p.keeps = 3 }, "second"},
		"recorded late":                  {"put", func(p *endedParts) { p.late = time.Minute }, "second"},
		"late, and hard to delete":       {"put", func(p *endedParts) { p.late, p.keeps = time.Minute, 3 }, "second"},
		"refused, and recorded late":     {"put", func(p *endedParts) { p.err, p.late = refused, time.Minute }, ""},
		"busy, and recorded late":        {"put", func(p *endedParts) { p.err, p.late = busy, time.Minute }, ""},
	} {
		for _, isElsewhere := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := renewable(time.Now().Truncate(time.Second), time.Hour)
				asked := &endedParts{ends: c.ends, isElsewhere: isElsewhere}
				asked.record = s.copy()
				c.set(asked)
				isTold := !asked.hasNote && (asked.late == 0 || !isElsewhere) // in time for the request
				rn := asked.renewer(time.Now)
				rn.records, rn.memory, rn.server = asked, asked, asked
				time.Sleep(2 * time.Hour)
				k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
				if isTold && (k != nil || refused != nil) {
					t.Errorf("%s, elsewhere %t: the request gets %v, %v", what, isElsewhere, k, refused)
				}
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if asked.isWrittenAfter {
					t.Errorf("%s, elsewhere %t: a record is written after the end", what, isElsewhere)
				}
				if revoked := strings.Join(asked.revoked, " "); asked.record != nil || revoked != c.revoked ||
					rn.tries.of(s.id).unrecorded != nil {
					t.Errorf("%s, elsewhere %t: the record is %+v, or is still to be; revoked %q, want %q", what,
						isElsewhere, asked.record, revoked, c.revoked)
				}
				time.Sleep(24 * time.Hour) // until all that goes on has ended
			})
		}
	}
}
