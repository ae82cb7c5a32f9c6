package aventusauth

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// renewalParts are what a renewer asks, in memory. Writes fail while failing is set.
type renewalParts struct {
	record  *session
	failing atomic.Bool

	remembered *session
	sent       []string // the refresh tokens
}

func (*renewalParts) Lock(context.Context, string) error          { return nil }
func (*renewalParts) Unlock(context.Context, string) error        { return nil }
func (*renewalParts) Use(...records.ID) (bool, error)             { return true, nil }
func (*renewalParts) holds(context.Context, *handle, []byte) bool { return false }

func (p *renewalParts) fetch(context.Context, site, *handle) (*session, error) {
	return p.record.copy(), nil
}

func (p *renewalParts) put(ctx context.Context, at site, d *handle, s *session) error {
	_, err := p.putSealed(ctx, at, d, s)
	return err
}

func (p *renewalParts) putSealed(_ context.Context, _ site, _ *handle, s *session) ([]byte, error) {
	if p.failing.Load() {
		return nil, errors.New("the disk is full")
	}
	p.record = s.copy()
	return nil, nil
}

func (*renewalParts) settled(*handle) <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func (p *renewalParts) delete(context.Context, string, time.Time) error { return nil }

func (p *renewalParts) replace(k *keptSession, s *session) *keptSession {
	p.remembered = s
	return k.with(s)
}

func (*renewalParts) forget(*keptSession)                     {}
func (*renewalParts) end(context.Context, *keptSession) error { return nil }
func (*renewalParts) lastOf(s *session) time.Time             { return s.expires }
func (*renewalParts) hasEnded(*session) bool                  { return false }
func (*renewalParts) revoke(context.Context, *session)        {}

func (p *renewalParts) refresh(_ context.Context, token string) (*oauth2.Token, *aventus.Error) {
	p.sent = append(p.sent, token)
	p.failing.Store(true) // the note was written; what comes of it cannot be
	return &oauth2.Token{AccessToken: "new", RefreshToken: "second", ExpiresIn: 3600}, nil
}

func (*renewalParts) verifyRenewed(context.Context, *session, *session, string) (limits, error) {
	return limits{}, nil
}

// TestRenewalRecordedAfterAnHour: the storage takes no writes for an hour and a half after a token was renewed.
// The renewed session lives here meanwhile, and what was renewed is in the record soon after the storage
// takes writes again, instead of the note for which any instance would give the session up.
func TestRenewalRecordedAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		s := &session{
			grant: grant{bearer: bearer + "old"}, created: start, expires: start.Add(24 * time.Hour),
			tokenCame: start, tokenEnds: start.Add(time.Minute), refresh: "first",
		}
		parts := &renewalParts{record: s.copy()}
		rn := &renewer{
			locks: parts, uses: parts, records: parts, memory: parts, flights: new(singleflight.Group),
			tries: new(attempts), server: parts, now: time.Now, meter: &meter{site: "https://example.com"},
			logger: zap.NewNop(),
		}
		time.Sleep(2 * time.Minute)
		k, refused := rn.keepAlive(t.Context(), site{}, &keptSession{session: s, handle: newHandle(s)})
		if refused != nil || k == nil || k.bearer != bearer+"new" {
			t.Fatalf("%+v, %+v", k, refused)
		}
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		if parts.record.spending.IsZero() {
			t.Fatal("the record has no note")
		}
		if k, refused = rn.keepAlive(t.Context(), site{}, k); k != nil || refused == nil ||
			refused.failure != errRenewal {
			t.Fatalf("while the storage fails, and its token has died: %+v, %+v", k, refused)
		}
		parts.failing.Store(false)
		time.Sleep(2 * retryRenewal)
		synctest.Wait()
		if parts.record.refresh != "second" || !parts.record.spending.IsZero() {
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
