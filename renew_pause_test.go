package aventusauth

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// TestRenewalFailedMeanwhile: a request that found a renewal due before another one failed does not try again at once.
func TestRenewalFailedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := renewable(time.Now().Truncate(time.Second), time.Hour)
		asked := &renewalParts{err: &aventus.Error{Kind: aventus.Unavailable, Status: http.StatusServiceUnavailable}}
		asked.record = s.copy()
		rn, k := asked.renewer(time.Now), &keptSession{session: s, handle: newHandle(s)}
		time.Sleep(56 * time.Minute)
		for _, want := range []int{1, 1, 2} {
			_, _ = rn.renew(t.Context(), site{}, k)
			if len(asked.sent) != want {
				t.Errorf("sent %q, want %d", asked.sent, want)
			}
			if want == 1 && len(asked.sent) == 1 {
				time.Sleep(retryRenewal / 2)
			}
		}
	})
}

// deadOnArrival are renewalParts of a server whose clock is behind: by its exp, a new token has expired already.
type deadOnArrival struct{ renewalParts }

func (*deadOnArrival) verifyRenewed(_ context.Context, _, next *session, _ string) (limits, error) {
	return limits{token: next.tokenCame.time()}, nil
}

// TestRenewedTokenHasExpired: a server whose new tokens have expired already is not asked by every request. The
// session is kept, and lives again when the clocks agree.
func TestRenewedTokenHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := renewable(time.Now().Truncate(time.Second), time.Hour)
		asked := new(deadOnArrival)
		asked.record = s.copy()
		rn := asked.renewer(time.Now)
		rn.server = asked
		k := &keptSession{session: s, handle: newHandle(s)}
		time.Sleep(2 * time.Hour)
		for range 3 {
			if _, refused := rn.keepAlive(t.Context(), site{}, k); refused == nil || refused.failure != errRenewal {
				t.Errorf("the request gets %v", refused)
			}
			k = k.with(asked.remembered)
		}
		if len(asked.sent) != 1 {
			t.Errorf("sent %q", asked.sent)
		}
		rn.server = &asked.renewalParts // the clocks agree
		time.Sleep(retryRenewal)
		if next, refused := rn.keepAlive(t.Context(), site{}, k); refused != nil || next.token() != "new" ||
			len(asked.sent) != 2 || asked.sent[1] != "second" {
			t.Errorf("then it gets %v, sent %q", refused, asked.sent)
		}
	})
}
