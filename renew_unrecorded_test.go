package aventusauth

import (
	"testing"
	"testing/synctest"
	"time"
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
