package aventusauth

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestKeepAlive: what a renewal sends, what the request gets, and what is in the record afterwards, by the age
// of the token and by what the authorization server says. The token lasts for an hour, and the session for a day.
func TestKeepAlive(t *testing.T) {
	refused := &aventus.Error{Kind: aventus.Refused, Status: http.StatusBadRequest,
		Err: &oauth2.RetrieveError{ErrorCode: "invalid_grant"}}
	lost := &aventus.Error{Kind: aventus.TimedOut, Unanswered: true}
	busy := &aventus.Error{Kind: aventus.Unavailable, Status: http.StatusServiceUnavailable}
	const old, renewed, over = "old", "new", ""
	for _, c := range []struct {
		what     string
		age      time.Duration
		err      *aventus.Error
		isSecond bool
		change   func(record *session)
		token    string  // that the request goes on with; empty: the session is over, unless it failed
		failure  failure // that the request gets
		sent     int     // refresh tokens
		refresh  string  // in the record, when all is done
	}{
		{"not due", 54 * time.Minute, nil, false, nil, old, failure{}, 0, "first"},
		{"due, in the background", 56 * time.Minute, nil, false, nil, old, failure{}, 1, "second"},
		{"dead", 2 * time.Hour, nil, false, nil, renewed, failure{}, 1, "second"},
		{"due, and refused", 56 * time.Minute, refused, false, nil, old, failure{}, 1, ""},
		{"dead, and refused", 2 * time.Hour, refused, false, nil, over, failure{}, 1, ""},
		{"dead, and not known whether it was used", 2 * time.Hour, lost, false, nil, over, failure{}, 1, ""},
		{"due, and the server is busy", 56 * time.Minute, busy, false, nil, old, failure{}, 1, "first"},
		{"dead, and the server is busy", 2 * time.Hour, busy, false, nil, over, errRenewal, 1, "first"},
		{"another process is first", 2 * time.Hour, nil, true, nil, over, errRenewal, 0, "first"},
		{"another instance was faster", 2 * time.Hour, nil, false, func(s *session) {
			s.bearer, s.refresh, s.tokenCame = bearer+renewed, "third", s.tokenCame+2*3600
			s.tokenEnds = s.tokenCame + 3600
		}, renewed, failure{}, 0, "third"},
		{"another instance has given it up", 2 * time.Hour, nil, false, func(s *session) {
			s.refresh, s.givenUp = "", s.tokenEnds
			s.endBy(s.tokenEnds.time())
		}, over, failure{}, 0, ""},
		{"one that died has noted that it sends it", 2 * time.Hour, nil, false, func(s *session) {
			s.spending = s.tokenEnds
		}, over, failure{}, 0, ""},
		{"one that lives may have noted that it sends it", 2 * time.Hour, nil, false, func(s *session) {
			s.spending = s.tokenEnds + 3600
		}, over, errRenewal, 0, "first"},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now().Truncate(time.Second)
			s := &session{
				grant: grant{bearer: bearer + old}, created: toUnix(start), expires: toUnix(start.Add(24 * time.Hour)),
				tokenCame: toUnix(start), tokenEnds: toUnix(start.Add(time.Hour)), refresh: "first",
			}
			asked := &renewalParts{err: c.err, isSecond: c.isSecond}
			if asked.record = s.copy(); c.change != nil {
				c.change(asked.record)
			}
			rn := asked.renewer(time.Now)
			time.Sleep(c.age)
			k, refusal := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
			got, failed := over, failure{}
			if k != nil {
				got = k.token()
			}
			if refusal != nil {
				failed = refusal.failure
			}
			if got != c.token || failed != c.failure {
				t.Errorf("%s: the request gets %q, %q; want %q, %q", c.what, got, failed.code, c.token, c.failure.code)
			}
			synctest.Wait() // for the background
			if len(asked.sent) != c.sent || asked.record.refresh != c.refresh {
				t.Errorf("%s: sent %q, the record has %q; want %d, %q", c.what, asked.sent, asked.record.refresh,
					c.sent, c.refresh)
			}
			// What has failed is not tried again at once.
			if c.failure == errRenewal {
				if _, refusal = rn.keepAlive(t.Context(), site{}, &keptSession{
					session: s, handle: newHandle(s),
				}); refusal == nil ||
					refusal.failure != errRenewal || len(asked.sent) != c.sent {
					t.Errorf("%s: then it gets %v, sent %q", c.what, refusal, asked.sent)
				}
			}
			time.Sleep(24 * time.Hour) // until all that goes on has ended
		})
	}
}

// lingeringRenewal are renewalParts of which the first renewal ends later than its result is known.
type lingeringRenewal struct {
	renewalParts
	linger func() // nil once it has ended
}

func (p *lingeringRenewal) settled(d *handle) <-chan struct{} {
	if linger := p.linger; linger != nil {
		p.linger = nil
		linger()
	}
	return p.renewalParts.settled(d)
}

// TestRenewalThatIsEnding: a renewal whose result is known by now, and has become due itself, is not shared: it has
// no other token to give.
func TestRenewalThatIsEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		s := renewable(start, time.Hour)
		asked := &lingeringRenewal{linger: func() { time.Sleep(time.Hour) }}
		asked.record = s.copy()
		rn := asked.renewer(time.Now)
		rn.records = asked
		for sent := 1; sent <= 2; sent++ {
			time.Sleep(56 * time.Minute)
			s = asked.record.copy()
			if k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{
				session: s, handle: newHandle(s),
			}); k == nil || refused != nil {
				t.Errorf("the request gets %v, %v", k, refused)
			}
			synctest.Wait()
			if int(asked.requests.Load()) != sent {
				t.Errorf("%d refresh tokens were sent, want %d", asked.requests.Load(), sent)
			}
		}
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}

// TestDoubtAfterTheClock: a note that a refresh token is being sent, which was first seen while the clock was ahead,
// is doubted by the clock that is right.
func TestDoubtAfterTheClock(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	now := start.Add(3 * time.Minute)
	rn := new(renewalParts).renewer(func() time.Time { return now })
	record := &session{spending: toUnix(start)}
	rn.tries.note(records.ID{1}, start, func(*attempt) {}) // or all that is of the future would be forgotten
	for _, c := range []struct {
		at   time.Duration
		want bool
	}{{3 * time.Minute, false}, {0, false}, {doubtful - time.Second, false}, {doubtful, true}} {
		if now = start.Add(c.at); rn.isSpent(record) != c.want {
			t.Errorf("after %s: it counts as spent: %t, want %t", c.at, !c.want, c.want)
		}
	}
}

// writtenElsewhere are renewalParts whose record another instance replaces.
type writtenElsewhere struct {
	renewalParts
	by atomic.Pointer[session]
}

func (p *writtenElsewhere) fetch(ctx context.Context, at site, d *handle) (*session, error) {
	if s := p.by.Swap(nil); s != nil {
		p.record = s
	}
	return p.renewalParts.fetch(ctx, at, d)
}

// TestGivenUpMeanwhile: the storage did not take a renewed token, and another instance, which could not know of it,
// has given the session up meanwhile. The token is recorded in place of that.
func TestGivenUpMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		s := renewable(start, time.Hour)
		asked := &writtenElsewhere{renewalParts: renewalParts{record: s.copy(), failAfter: true}}
		rn := asked.renewer(time.Now)
		rn.records = asked
		time.Sleep(2 * time.Hour)
		k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
		synctest.Wait()
		if k == nil || refused != nil || asked.record.spending == 0 {
			t.Fatalf("the request gets %v, %v; the note is of %s", k, refused, asked.record.spending.time())
		}
		givenUp := asked.record.copy()
		givenUp.refresh, givenUp.spending, givenUp.givenUp = "", 0, toUnix(time.Now())
		asked.by.Store(givenUp)
		asked.failing.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if asked.by.Load() != nil {
			t.Error("the record of the other instance was not read")
		}
		if asked.record.refresh != "second" || asked.record.token() != "new" {
			t.Errorf("the record has %q, %q", asked.record.refresh, asked.record.token())
		}
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}

// lyingRecords are renewalParts whose storage takes the note and says that it did not.
type lyingRecords struct{ renewalParts }

func (p *lyingRecords) putSealed(ctx context.Context, at site, d *handle, s *session) ([]byte, error) {
	if _, err := p.renewalParts.putSealed(ctx, at, d, s); err != nil || s.spending == 0 {
		return nil, err
	}
	return []byte("the note"), errors.New("it was not written")
}

func (p *lyingRecords) holds(context.Context, *handle, []byte) bool {
	return p.record.spending != 0
}

// TestNoteWrittenAllTheSame: a note that the storage says it did not take, and has, is taken back also where no
// write is under way any more: the refresh token was not sent.
func TestNoteWrittenAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		s := renewable(start, time.Hour)
		asked := &lyingRecords{renewalParts{record: s.copy()}}
		rn := asked.renewer(time.Now)
		rn.records = asked
		time.Sleep(2 * time.Hour)
		if k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)}); k != nil ||
			refused == nil || refused.failure != errRenewal {
			t.Errorf("the request gets %v, %v", k, refused)
		}
		synctest.Wait()
		if len(asked.sent) != 0 || asked.record.spending != 0 || asked.record.refresh != "first" {
			t.Errorf("sent %q; the record has %q, and a note of %s", asked.sent, asked.record.refresh,
				asked.record.spending.time())
		}
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}

// hugeRecords are renewalParts of which no record holds the new token.
type hugeRecords struct {
	renewalParts
	revoked chan string
}

func (p *hugeRecords) put(ctx context.Context, at site, d *handle, s *session) error {
	if s.token() == "new" {
		return errTooLarge
	}
	return p.renewalParts.put(ctx, at, d, s)
}

func (p *hugeRecords) revoke(_ context.Context, s *session) { p.revoked <- s.refresh }

// TestRenewedTooLarge: a renewed token that no record can hold, however often it is tried, ends the session with the
// token that it has, and no note stays. The refresh token that came is revoked.
func TestRenewedTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		s := renewable(start, time.Hour)
		asked := &hugeRecords{renewalParts{record: s.copy()}, make(chan string, 1)}
		rn := asked.renewer(time.Now)
		rn.records, rn.server = asked, asked
		time.Sleep(2 * time.Hour)
		k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
		if k != nil || refused != nil {
			t.Errorf("the request gets %v, %v", k, refused)
		}
		synctest.Wait()
		select {
		case revoked := <-asked.revoked:
			if revoked != "second" {
				t.Errorf("%q is revoked", revoked)
			}
		default:
			t.Error("the refresh token that came is not revoked")
		}
		if r := asked.record; r.refresh != "" || r.spending != 0 || r.givenUp == 0 || r.token() != "old" {
			t.Errorf("the record has %q, %q, a note of %d, and was given up at %d", r.token(), r.refresh,
				r.spending, r.givenUp)
		}
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}

// renewable is a session of that moment, whose token lives for so long and can be renewed.
func renewable(start time.Time, token time.Duration) *session {
	return &session{
		grant: grant{bearer: bearer + "old"}, created: toUnix(start), expires: toUnix(start.Add(24 * time.Hour)),
		tokenCame: toUnix(start), tokenEnds: toUnix(start.Add(token)), refresh: "first",
	}
}

// failsOnce are renewalParts whose storage fails once, at a call of one kind.
type failsOnce struct {
	renewalParts
	at   string
	left int // calls until then
}

func (p *failsOnce) fails(at string) error {
	if at == p.at {
		if p.left--; p.left == 0 {
			return errBrokenStorage
		}
	}
	return nil
}

func (p *failsOnce) fetch(ctx context.Context, at site, d *handle) (*session, error) {
	if err := p.fails("fetch"); err != nil {
		return nil, err
	}
	return p.renewalParts.fetch(ctx, at, d)
}

func (p *failsOnce) Use(ids ...records.ID) (bool, error) {
	if err := p.fails("use"); err != nil {
		return false, err
	}
	return p.renewalParts.Use(ids...)
}

func (p *failsOnce) put(ctx context.Context, at site, d *handle, s *session) error {
	if err := p.fails("put"); err != nil {
		return err
	}
	return p.renewalParts.put(ctx, at, d, s)
}

func (p *failsOnce) putSealed(ctx context.Context, at site, d *handle, s *session) ([]byte, error) {
	if err := p.fails("note"); err != nil {
		return nil, err
	}
	return p.renewalParts.putSealed(ctx, at, d, s)
}

func (p *failsOnce) Lock(context.Context, string) error { return p.fails("lock") }

// TestRenewalStorageFailsOnce: wherever the storage fails in a renewal, the session is not over: this request, or one
// after the pause, goes on with the new token, the refresh token is sent once, and what comes of it is recorded.
func TestRenewalStorageFailsOnce(t *testing.T) {
	busy := &aventus.Error{Kind: aventus.Unavailable, Status: http.StatusServiceUnavailable}
	for _, c := range []struct {
		at       string
		n        int
		err      *aventus.Error // of the first answer
		isSecond bool           // another process is the first, as it seems
		now      failure        // that the first request gets
		sent     int            // by then
	}{
		{"lock", 1, nil, false, failure{}, 1}, {"fetch", 1, nil, false, errRenewal, 0},
		{"use", 1, nil, false, errRenewal, 0}, {"note", 1, nil, false, errRenewal, 0},
		{"put", 1, nil, false, failure{}, 1}, {"put", 1, busy, false, errRenewal, 1},
		{"fetch", 2, nil, true, errRenewal, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now().Truncate(time.Second)
			s := renewable(start, time.Hour)
			asked := &failsOnce{
				renewalParts: renewalParts{record: s.copy(), err: c.err, isSecond: c.isSecond}, at: c.at, left: c.n,
			}
			rn := asked.renewer(time.Now)
			rn.records, rn.uses, rn.locks = asked, asked, asked
			time.Sleep(2 * time.Hour)
			k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
			if failed := refused != nil; failed != (c.now != failure{}) || failed && refused.failure != c.now ||
				!failed && (k == nil || k.token() != "new") || len(asked.sent) != c.sent {
				t.Errorf("%s %d: the request gets %v, %v; sent %q", c.at, c.n, k, refused, asked.sent)
			}
			asked.err, asked.isSecond = nil, false
			time.Sleep(30 * time.Second)
			if k == nil {
				if k, refused = rn.keepAlive(t.Context(), site{}, &keptSession{
					session: s, handle: newHandle(s),
				}); k == nil || refused != nil || k.token() != "new" {
					t.Errorf("%s %d, then: the request gets %v, %v", c.at, c.n, k, refused)
				}
			}
			synctest.Wait()
			if r := asked.record; r.refresh != "second" || r.token() != "new" || r.spending != 0 {
				t.Errorf("%s %d: the record has %q, %q, a note of %d", c.at, c.n, r.token(), r.refresh, r.spending)
			}
			time.Sleep(24 * time.Hour) // until all that goes on has ended
		})
	}
}

// heldUp are renewalParts where one thing waits.
type heldUp struct {
	failsOnce
	note, answer time.Duration // that is how long the first note takes, and the first answer
	wait         func(time.Duration)
	end          limits // by the renewed token
}

func (p *heldUp) putSealed(ctx context.Context, at site, d *handle, s *session) ([]byte, error) {
	p.wait(p.note)
	p.note = 0
	return p.failsOnce.putSealed(ctx, at, d, s)
}

func (p *heldUp) refresh(ctx context.Context, token string) (*oauth2.Token, *aventus.Error) {
	p.wait(p.answer)
	p.answer = 0
	return p.failsOnce.refresh(ctx, token)
}

func (p *heldUp) verifyRenewed(context.Context, *session, *session, string) (limits, error) {
	return p.end, nil
}

// TestRenewalHeldUp: what a request gets whose renewal takes long, or brings a token that has died, and what is left.
// A note that took too long to write is taken back, since others may have sent the token by then.
func TestRenewalHeldUp(t *testing.T) {
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of each bubble
	for what, c := range map[string]struct {
		parts   *heldUp
		leaves  time.Duration // when the visitor goes; 0: never
		failure failure
		sent    int
		attempt uint32 // in the record, after that
	}{
		"the visitor goes":      {&heldUp{answer: 3 * time.Second}, time.Second, errGone, 1, 0},
		"the visitor waits":     {&heldUp{answer: 3 * time.Second}, 0, failure{}, 1, 0},
		"the token has died":    {&heldUp{end: limits{token: start.Add(time.Hour)}}, 0, errRenewal, 1, 0},
		"the note takes long":   {&heldUp{note: 3 * time.Second}, 0, failure{}, 1, 0},
		"the note takes longer": {&heldUp{note: 5 * time.Second}, 0, failure{}, 1, 0},
		"the note takes longer, and stays": {&heldUp{failsOnce: failsOnce{at: "put", left: 1}, note: 5 * time.Second},
			0, errRenewal, 0, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := renewable(time.Now(), time.Hour)
			asked := c.parts
			asked.record, asked.wait = s.copy(), func(d time.Duration) { time.Sleep(d) }
			rn := asked.renewer(time.Now)
			rn.records, rn.server = asked, asked
			time.Sleep(2 * time.Hour)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.leaves != 0 {
				time.AfterFunc(c.leaves, cancel)
			}
			k, refused := rn.keepAlive(ctx, site{}, &keptSession{session: s, handle: newHandle(s)})
			failed := refused != nil
			if failed != (c.failure != failure{}) || failed && refused.failure != c.failure ||
				!failed && (k == nil || k.token() != "new") {
				t.Errorf("%s: the request gets %v, %v", what, k, refused)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			want := "second"
			if c.sent == 0 {
				want = "first"
			}
			if r := asked.record; len(asked.sent) != c.sent || r.refresh != want || r.spending != 0 ||
				r.attempt != c.attempt {
				t.Errorf("%s: sent %q; the record has %q, attempt %d, a note of %s", what, asked.sent, r.refresh,
					r.attempt, r.spending.time())
			}
			time.Sleep(24 * time.Hour) // until all that goes on has ended
		})
	}
}

// lyingOnce are lyingRecords of which the first write that takes the note back fails.
type lyingOnce struct {
	lyingRecords
	failed bool
}

func (p *lyingOnce) put(ctx context.Context, at site, d *handle, s *session) error {
	if !p.failed {
		p.failed = true
		return errBrokenStorage
	}
	return p.lyingRecords.put(ctx, at, d, s)
}

// TestNoteTakenBackLater: a note that is to be taken back, while the storage takes no writes, is taken back later.
func TestNoteTakenBackLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := renewable(time.Now().Truncate(time.Second), time.Hour)
		asked := &lyingOnce{lyingRecords: lyingRecords{renewalParts{record: s.copy()}}}
		rn := asked.renewer(time.Now)
		rn.records = asked
		time.Sleep(2 * time.Hour)
		if k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)}); k != nil ||
			refused == nil || refused.failure != errRenewal {
			t.Errorf("the request gets %v, %v", k, refused)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if r := asked.record; !asked.failed || len(asked.sent) != 0 || r.spending != 0 || r.refresh != "first" {
			t.Errorf("sent %q; the record has %q, and a note of %s", asked.sent, r.refresh, r.spending.time())
		}
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}

// goneElsewhere are renewalParts whose record another instance deletes.
type goneElsewhere struct {
	renewalParts
	isGone  atomic.Bool
	revoked chan string
}

func (p *goneElsewhere) revoke(_ context.Context, s *session) { p.revoked <- s.refresh }

func (p *goneElsewhere) fetch(ctx context.Context, at site, d *handle) (*session, error) {
	if p.isGone.Load() {
		return nil, nil
	}
	return p.renewalParts.fetch(ctx, at, d)
}

// TestRecordGoneMeanwhile: the storage did not take a renewed token, and another instance has ended the session since,
// and could not write that. Its record is not brought back, and the refresh token is revoked.
func TestRecordGoneMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := renewable(time.Now().Truncate(time.Second), time.Hour)
		asked := &goneElsewhere{
			renewalParts: renewalParts{record: s.copy(), failAfter: true}, revoked: make(chan string, 2),
		}
		rn := asked.renewer(time.Now)
		rn.records, rn.server = asked, asked
		time.Sleep(2 * time.Hour)
		if k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{
			session: s, handle: newHandle(s),
		}); k == nil || refused != nil {
			t.Fatalf("the request gets %v, %v", k, refused)
		}
		asked.isGone.Store(true)
		asked.failing.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if asked.record.token() != "old" || rn.tries.of(s.id).unrecorded != nil {
			t.Errorf("the record is brought back, or is still to be: %q", asked.record.token())
		}
		if n := len(asked.revoked); n != 1 || <-asked.revoked != "second" {
			t.Errorf("%d refresh tokens are revoked", n)
		}
		time.Sleep(24 * time.Hour) // until all that goes on has ended
	})
}

// lostOnce are writtenElsewhere where another process may be first, once.
type lostOnce struct {
	writtenElsewhere
	isSecond bool
}

func (p *lostOnce) Use(...records.ID) (bool, error) {
	isSecond := p.isSecond
	p.isSecond = false
	return !isSecond, nil
}

// TestAwaitsAnother: a renewal that finds another instance at work waits for what comes of that, goes on with it, and
// sends nothing as long as the other may still send. If nothing comes of it, it sends the token itself.
func TestAwaitsAnother(t *testing.T) {
	for what, c := range map[string]struct {
		noted, isSecond bool
		after           time.Duration
		what            string // comes then
		token           string
		sent            int
	}{
		"its note is there, and the result comes": {true, false, 2 * time.Second, "result", "theirs", 0},
		"it was first, and the result comes":      {false, true, 2 * time.Second, "result", "theirs", 0},
		"it was first, and the note comes late":   {false, true, 3900 * time.Millisecond, "note", "", 0},
		"it was first, and nothing comes":         {false, true, 2 * time.Second, "", "new", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := renewable(time.Now().Truncate(time.Second), time.Hour)
			asked := &lostOnce{isSecond: c.isSecond}
			asked.record = s.copy()
			rn := asked.renewer(time.Now)
			rn.records, rn.uses = asked, asked
			time.Sleep(2 * time.Hour)
			if c.noted {
				asked.record.spending = toUnix(time.Now())
			}
			time.AfterFunc(c.after, func() {
				by := s.copy()
				switch c.what {
				case "":
					return
				case "result":
					by.bearer, by.refresh = bearer+"theirs", "third"
					by.tokenCame, by.tokenEnds = toUnix(time.Now()), toUnix(time.Now().Add(time.Hour))
				case "note":
					by.spending = toUnix(time.Now())
				}
				asked.by.Store(by)
			})
			start := time.Now()
			k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
			got := ""
			if k != nil {
				got = k.token()
			}
			if got != c.token || (refused != nil) != (c.token == "") || len(asked.sent) != c.sent {
				t.Errorf("%s: the request gets %q, %v; sent %q", what, got, refused, asked.sent)
			}
			if took := time.Since(start); c.what == "result" && took > c.after+awaitPause {
				t.Errorf("%s: it took %s", what, took)
			}
			time.Sleep(24 * time.Hour) // until all that goes on has ended
		})
	}
}

// TestLostPause: a pause has a bound, however long registering a use takes and however often that was in vain.
func TestLostPause(t *testing.T) {
	for range 100 {
		if pause := lostPause(maxUses-1, time.Minute); pause < lostLeast || pause >= lostLeast+lostMost {
			t.Fatalf("the pause lasts %s", pause)
		}
	}
}

// oneRecord is a session's record and its authorization server, which two instances share.
type oneRecord struct {
	mu sync.Mutex
	renewalParts
}

func (p *oneRecord) fetch(ctx context.Context, at site, d *handle) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.renewalParts.fetch(ctx, at, d)
}

func (p *oneRecord) put(ctx context.Context, at site, d *handle, s *session) error {
	_, err := p.putSealed(ctx, at, d, s)
	return err
}

func (p *oneRecord) putSealed(ctx context.Context, at site, d *handle, s *session) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.renewalParts.putSealed(ctx, at, d, s)
}

// slowUses are the uses of one of two instances, as [records.Once] registers them: a use is written, and then those of
// the other are read, so that of two at once, both may find the other's.
type slowUses struct {
	mine, theirs *sync.Map
	wait         func() // for the storage
}

func (u slowUses) Use(ids ...records.ID) (bool, error) {
	u.wait()
	u.mine.Store(ids[0], true)
	u.wait()
	_, isUsed := u.theirs.Load(ids[0])
	return !isUsed, nil
}

// TestNoneIsFirst: two instances that renew a session at the same moment, where the storage is slow and its locks
// exclude nobody, give way to each other at first. One sends the refresh token after all, and both go on.
func TestNoneIsFirst(t *testing.T) {
	const sessions = 50
	failed := 0
	for range sessions {
		synctest.Test(t, func(t *testing.T) {
			s := renewable(time.Now().Truncate(time.Second), time.Hour)
			shared, uses := &oneRecord{renewalParts: renewalParts{record: s.copy()}}, [2]sync.Map{}
			time.Sleep(2 * time.Hour)
			wait := func() { time.Sleep(time.Second) }
			var both sync.WaitGroup
			var went atomic.Int64
			for i := range uses {
				rn := new(renewalParts).renewer(time.Now)
				rn.records, rn.server, rn.uses = shared, shared, slowUses{&uses[i], &uses[1-i], wait}
				both.Go(func() {
					k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
					if refused == nil && k != nil && k.token() == "new" {
						went.Add(1)
					}
				})
			}
			both.Wait()
			if n := shared.requests.Load(); n > 1 {
				t.Errorf("the refresh token is sent %d times", n)
			}
			if went.Load() < 2 {
				failed++
			}
			time.Sleep(24 * time.Hour) // until all that goes on has ended
		})
	}
	if failed > sessions/10 {
		t.Errorf("%d of %d sessions were not renewed", failed, sessions)
	}
}
