package aventusauth

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// madeUpLogoutToken is {"alg":"RS256","typ":"JWT"}, {}, signed with a key that cannot be had.
const madeUpLogoutToken = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.AAAA"

// backchannel returns the stage of that name. Nothing listens where its keys are.
func (p *parts) backchannel() *backchannel {
	return &backchannel{
		blocks: new(backchannels),
		verifier: aventus.NewLogoutVerifier("https://auth.example.com/", "the-client",
			aventus.NewKeySet("https://127.0.0.1:1/jwks.json", p.clock.Now), p.clock.Now),
		ends: p.keeper.ends, used: p.once, remember: func(context.Context) time.Duration { return maxLifetime },
		busy: make(chan struct{}, 1), waiting: make(chan struct{}, 1),
		answers: p.answers, meter: p.meter, now: p.clock.Now,
	}
}

// TestLogoutTokenRequests: which requests for a back-channel logout are looked at, before any key is asked for.
func TestLogoutTokenRequests(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	const madeUp = madeUpLogoutToken
	for _, c := range []struct {
		what, method, kind, body string
		busy                     bool
		want                     int
	}{
		{"a GET", "GET", form, "", false, 405},
		{"JSON", "POST", "application/json", `{"logout_token":"x"}`, false, 400},
		{"no token", "POST", form, "token=x", false, 400},
		{"two tokens", "POST", form, "logout_token=x&logout_token=y", false, 400},
		{"a long body", "POST", form, "logout_token=" + strings.Repeat("x", maxLogoutRequest), false, 400},
		{"no JWT", "POST", form, "logout_token=x", false, 400},
		{"a long body behind a token", "POST", form,
			"logout_token=" + madeUp + "&x=" + strings.Repeat("x", maxLogoutRequest), false, 400},
		{"a form with a bad parameter", "POST", form + "; x", "logout_token=" + madeUp, false, 400},
		{"a key that is not here", "POST", form, "logout_token=" + madeUp, false, 503},
		{"a form that names its charset", "POST", form + "; charset=utf-8", "logout_token=" + madeUp, false, 503},
		{"too many at once", "POST", form, "logout_token=" + madeUp, true, 503},
	} {
		p := newParts(t)
		bc := p.backchannel()
		if c.busy {
			bc.waiting <- struct{}{}
		}
		r := p.request(c.method, "/backchannel", "Content-Type", c.kind)
		r.Body = io.NopCloser(strings.NewReader(c.body))
		w := httptest.NewRecorder()
		status := 0
		if err := bc.serve(w, r); asSent(r).failed != nil {
			status = asSent(r).failed.status
		} else if status = w.Code; err != nil {
			t.Error(err)
		}
		if waits := len(bc.waiting) == 1; waits != (c.want == 503) {
			t.Errorf("%s: waits for keys: %t", c.what, waits)
		}
		if status != c.want || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: status %d, want %d; %v", c.what, status, c.want, w.Header())
		}
		if p.keeper.ends.isAnyUnwritten("", "") {
			t.Errorf("%s: what nobody has signed has an end written", c.what)
		}
	}
}

// TestLogoutTokenRequestsThatAreNone: a request is refused that is no POST of one whole form, or was none as sent.
func TestLogoutTokenRequestsThatAreNone(t *testing.T) {
	for what, c := range map[string]struct {
		method string
		change func(r *http.Request)
		want   int
	}{
		"none of them": {"POST", func(*http.Request) {}, 503}, // the token has to wait for keys
		"of two kinds": {"POST", func(r *http.Request) { r.Header.Add("Content-Type", "text/plain") }, 400},
		"breaks off": {"POST", func(r *http.Request) {
			r.Body = io.NopCloser(io.MultiReader(r.Body, iotest.ErrReader(io.ErrUnexpectedEOF)))
		}, 400},
		"became a POST": {"GET", func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"was a POST":    {"POST", func(r *http.Request) { r.Method = http.MethodGet }, 405},
	} {
		p := newParts(t)
		r := p.request(c.method, "/backchannel", "Content-Type", "application/x-www-form-urlencoded")
		r.Body = io.NopCloser(strings.NewReader("logout_token=" + madeUpLogoutToken))
		c.change(r)
		w, bc := httptest.NewRecorder(), p.backchannel()
		_ = bc.serve(w, r)
		status := w.Code
		if f := asSent(r).failed; f != nil {
			status = f.status
		}
		if status != c.want {
			t.Errorf("%s: status %d, want %d", what, status, c.want)
		}
	}
}

// TestLogoutTokenOfManyUses: where it cannot be noted that tokens are used, none is called a replay, even if all that
// it names has ended.
func TestLogoutTokenOfManyUses(t *testing.T) {
	p := newParts(t)
	bc := p.backchannel()
	bc.used = records.NewOnce(unwritable{p.storage, ""}, "aventus_auth/spent", loginLifetime,
		records.NewClock(p.clock.Now, p.clock.Elapsed))
	for _, id := range []string{"one", "another"} {
		said := aventus.Logout{ID: id, SessionID: "sid", Subject: "auth0|ada", Issued: p.clock.Now()}
		if err := bc.end(t.Context(), said); !errors.Is(err, errBrokenStorage) || errors.Is(err, aventus.ErrToken) {
			t.Errorf("%s: %v", id, err)
		}
		if !bc.ends.hasAt(t.Context(), said) {
			t.Errorf("%s: what it names has not ended", id)
		}
	}
}

// TestLogoutTokenAtItsOwnPath: a token for the client of a block with another path is for none of the blocks that have
// the path at which it came. The block that received it refuses it.
func TestLogoutTokenAtItsOwnPath(t *testing.T) {
	block := func(path, client string) *backchannel {
		p := newParts(t)
		return &backchannel{path: path, verifier: aventus.NewLogoutVerifier("https://auth.example.com/", client,
			aventus.NewKeySet("https://127.0.0.1:1/jwks.json", p.clock.Now), p.clock.Now)}
	}
	all := new(backchannels)
	one, two, other := block("/one", "a"), block("/one", "b"), block("/other", "c")
	for _, bc := range []*backchannel{other, one, two} {
		all.join(bc)
	}
	for client, want := range map[string]*backchannel{"a": one, "b": two, "c": one, "d": one} {
		payload := `{"iss":"https://auth.example.com/","aud":"` + client + `"}`
		token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
		if got := all.receiver(one, token); got != want {
			t.Errorf("a token for %s is received at %s, for the client of another", client, got.path)
		}
	}
}

// TestWhoTakesLogouts: a login needs an ID token if a block takes logout tokens of the same server for the same
// client.
func TestWhoTakesLogouts(t *testing.T) {
	of := func(issuer, client string) *authServer { return &authServer{issuer: issuer, clientID: client} }
	blocks := new(neighbours)
	blocks.join(&neighbour{server: of("https://one.example.com/", "a"), takesLogouts: true})
	blocks.join(&neighbour{server: of("https://two.example.com/", "b")})
	for server, want := range map[*authServer]bool{
		of("https://one.example.com/", "a"): true, of("https://one.example.com/", "b"): false,
		of("https://two.example.com/", "a"): false, of("https://two.example.com/", "b"): false,
	} {
		if got := blocks.takeLogouts(server); got != want {
			t.Errorf("%s, %s: %t, want %t", server.issuer, server.clientID, got, want)
		}
	}
}
