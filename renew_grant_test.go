package aventusauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestRenewedGrant: a renewal whose answer says nothing of the scope keeps what was granted before (RFC 6749,
// section 6), and one that says less narrows it, in the answer or in the token itself; all of it holds after
// a restart.
func TestRenewedGrant(t *testing.T) {
	var says atomic.Pointer[string]
	var w *world
	w = refreshing(t, setup{block: "profile /me", issuer: func(s *aventustest.Server) {
		s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			var own any // the token's own scope
			if _, scope, ok := strings.Cut(*says.Load(), `"own":`); ok {
				own, _ = strconv.Unquote(scope)
			}
			token := w.issuer.SignJWT(w.tokenClaims(map[string]any{"sub": "auth0|ada", "scope": own}))
			fmt.Fprintf(rw, `{"access_token":%q,"token_type":"Bearer","expires_in":3600,"refresh_token":"r"%s}`, token,
				*says.Load())
			return true
		}
	}})
	b := w.browser()
	answers := func(scope string) { says.Store(&scope) }
	expect := func(want string) {
		t.Helper()
		var me struct{ Scope string }
		a := b.get("/me")
		w.expect(a, http.StatusOK)
		if err := json.Unmarshal([]byte(a.body), &me); err != nil || me.Scope != want {
			t.Errorf("granted %q, want %q, error %v", me.Scope, want, err)
		}
	}
	const all = `,"scope":"read:things write:things","own":"openid read:things write:things"`
	answers(all)
	b.login("/")
	expect("read:things write:things")
	for _, c := range []struct{ answer, want string }{
		{"", "read:things write:things"},
		{all, "read:things write:things"},
		{`,"own":"openid read:things"`, "read:things"},
		{`,"own":"openid read:things write:things"`, "read:things"},
		{all, "read:things write:things"},
		{`,"own":""`, ""},
		{`,"scope":"read:things"`, "read:things"},
		{"", "read:things"},
		{`,"scope":""`, ""},
		{"", ""},
	} {
		answers(c.answer)
		w.clock.Add(2 * time.Hour)
		w.expect(b.get("/"), http.StatusOK)
		expect(c.want)
		w.restart()
		expect(c.want)
	}
}

// TestRenewedTokenEndsEarlier: a renewed token that is verified lasts no longer than it says itself, whatever
// the answer says.
func TestRenewedTokenEndsEarlier(t *testing.T) {
	w := refreshing(t, setup{block: "verify_token", issuer: func(s *aventustest.Server) {
		s.Claims = func(aventustest.User) map[string]any {
			return map[string]any{"exp": s.Now().Add(30 * time.Minute).Unix()}
		}
	}})
	b := w.browser()
	b.login("/")
	for renewals := range 4 {
		w.expect(b.get("/"), http.StatusOK)
		w.expectTokenRequests(renewals + 1)
		w.clock.Add(31 * time.Minute)
	}
	w.expectNoReuse()
}

// TestRenewalHalfWay: the authorization server has sent a new refresh token, its keys cannot be had to verify
// the access token, and the storage does not take the record: nothing is lost once both are back.
func TestRenewalHalfWay(t *testing.T) {
	var keysDown atomic.Bool
	stores := 0
	w := refreshing(t, setup{block: "verify_token\nsession {\nlifetime 720h\n}", issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			if keysDown.Load() {
				rw.WriteHeader(http.StatusServiceUnavailable)
			}
			return keysDown.Load()
		}
	}})
	w.onEngine()
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	w.issuer.RotateKey()
	keysDown.Store(true)
	fault := func(operation, key string) error {
		if operation == "store" && strings.HasPrefix(key, "aventus_auth/sessions") {
			if stores++; stores == 2 { // the note is taken, and what came of it is not
				return errors.New("a fault of the test")
			}
		}
		return nil
	}
	engineFault.Store(&fault)
	t.Cleanup(func() { engineFault.Store(nil) })
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	engineFault.Store(nil)
	keysDown.Store(false)
	w.clock.Add(time.Minute)
	await(t, "the session", func() bool {
		w.clock.Add(retryRenewal)
		return b.get("/").StatusCode == http.StatusOK
	})
	w.expectNoReuse()
}
