package aventusauth

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestWithdrawnKey: a token of an API client does not outlive the key that signed it, though it is remembered as
// verified, and is all that is asked with; nor does a stream that it opened.
func TestWithdrawnKey(t *testing.T) {
	checkStreamsOften(t)
	for _, fetches := range []bool{true, false} { // another token has the keys fetched, or time
		w := newWorld(t, setup{block: "accept_bearer\nprofile /me", caddyfile: "%s\nreverse_proxy " + newStreamer(t)})
		token := func() string {
			return w.issuer.SignJWT(w.tokenClaims(map[string]any{
				"exp": w.clock.Now().Add(10 * 365 * 24 * time.Hour).Unix(),
			}))
		}
		send := func(token string) int {
			return w.http1(request{
				target: "/me", headers: []string{"Accept", "application/json", "Authorization", "Bearer " + token},
			}).StatusCode
		}
		stolen := token()
		if got := send(stolen); got != http.StatusOK {
			t.Fatal(got)
		}
		_, in := w.open("/events", "Authorization: Bearer "+stolen+"\r\nAccept: text/event-stream\r\n")
		w.issuer.RotateKey()
		w.issuer.ForgetOldKeys()
		w.clock.Add(time.Minute)
		if got := send(stolen); got != http.StatusOK {
			t.Fatalf("nothing has shown that the key is withdrawn: %d", got)
		}
		if !streamGoesOn(in) {
			t.Error("the stream was closed early")
		}
		if fetches {
			if got := send(token()); got != http.StatusOK {
				t.Fatal(got)
			}
		} else {
			w.clock.Add(13 * time.Hour)
			await(t, "the keys", func() bool { return send(stolen) == http.StatusUnauthorized })
		}
		if got := send(stolen); got != http.StatusUnauthorized {
			t.Errorf("fetched by another token %v: status %d", fetches, got)
		}
		if !streamEnds(in) {
			t.Errorf("fetched by another token %v: the stream goes on", fetches)
		}
	}
}

// TestWithdrawnWhileTheKeysAreDown: where it cannot be told whether a stream's token is good by the keys that are new,
// since others cannot be had at that moment, it is asked again.
func TestWithdrawnWhileTheKeysAreDown(t *testing.T) {
	var faults aventustest.Switch
	w := newWorld(t, setup{
		block: "accept_bearer", issuer: func(s *aventustest.Server) { s.JWKSFault = faults.Answer },
	})
	b := handlers()[0].house.identifier.bearers
	g := &grant{bearer: bearer + w.issuer.SignJWT(w.tokenClaims(map[string]any{
		"exp": w.clock.Now().Add(10 * 365 * 24 * time.Hour).Unix(),
	}))}
	if _, refused := b.identify(t.Context(), []string{g.bearer}); refused != nil {
		t.Fatal(refused.cause)
	}
	keys := b.keys.Version()
	w.issuer.RotateKey()
	w.issuer.ForgetOldKeys()
	w.clock.Add(13 * time.Hour)
	await(t, "the new keys", func() bool { return b.keys.Version() != keys })
	w.clock.Add(time.Minute)
	faults.Set(aventustest.Says(http.StatusServiceUnavailable, ""))
	if b.isWithdrawn(t.Context(), g, &keys) {
		t.Error("it counts as withdrawn while newer keys cannot be had")
	}
	w.clock.Add(time.Minute)
	faults.Set(nil)
	if !b.isWithdrawn(t.Context(), g, &keys) {
		t.Error("the key is withdrawn, and the token goes on")
	}
}

// TestStillGoodByNewKeys: a stream's token that is good by the new keys is not verified at each check until the next.
func TestStillGoodByNewKeys(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer"})
	b := handlers()[0].house.identifier.bearers
	g := &grant{bearer: bearer + w.issuer.SignJWT(w.tokenClaims(nil))}
	var keys any // none that there is
	if _, refused := b.identify(t.Context(), []string{g.bearer}); refused != nil {
		t.Fatal(refused.cause)
	}
	if b.isWithdrawn(t.Context(), g, &keys) || keys != b.keys.Version() {
		t.Errorf("a token that is good is known to be so by %v, want %v", keys, b.keys.Version())
	}
}

// TestKeysLag: made-up key ids can have the key set fetched a moment before the authorization server turns its keys,
// and a key set in a CDN lags behind. A renewal meanwhile costs neither the session nor its refresh token.
func TestKeysLag(t *testing.T) {
	w := refreshing(t, setup{block: "accept_bearer"})
	b := w.browser()
	b.login("/")
	w.clock.Add(61 * time.Minute)
	_, rest, _ := strings.Cut(w.issuer.SignJWT(w.tokenClaims(nil)), ".")
	madeUp := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"nobody's"}`)) + "." + rest
	a := w.http1(request{headers: []string{"Accept", "application/json", "Authorization", "Bearer " + madeUp}})
	w.expect(a, http.StatusUnauthorized)
	w.issuer.RotateKey()
	w.clock.Add(5 * time.Second)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	w.clock.Add(15 * time.Second)
	w.expect(b.get("/"), http.StatusOK)
	w.restart()
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(61 * time.Minute)
	w.expect(b.get("/"), http.StatusOK) // with the refresh token that came last
	w.expectNoReuse()
	if n := len(w.issuer.Revoked()); n != 0 {
		t.Errorf("%d refresh tokens were revoked", n)
	}
}
