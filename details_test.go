package aventusauth

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestKeysDownSays: what is said when the keys cannot be had is not that the token
// is bad, to people and to API clients.
func TestKeysDownSays(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
	}})
	b := w.browser()
	for _, a := range []answer{
		b.get(b.begin("/")),
		w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(nil))),
	} {
		if a.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(a.body, "server_unavailable: ") || a.Header["Www-Authenticate"] != nil {
			t.Errorf("status %d, %v, %s", a.StatusCode, a.Header, a.body)
		}
	}
}

// TestVerifiedOnce: a token that was good is not verified again.
func TestVerifiedOnce(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer"})
	send := func() string {
		w.requests()
		w.expect(w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(nil))), http.StatusOK)
		return w.requests()[0].Header.Get("Authorization")
	}
	send()
	var h *Handler
	configs.Range(func(_, p any) bool { h = p.(*peers).handlers[0]; return true })
	for _, key := range h.verified.Keys() {
		h.verified.Add(key, &session{expires: w.clock.Now().Add(time.Hour), bearer: "Bearer remembered", isBearer: true})
	}
	if got := send(); got != "Bearer remembered" {
		t.Errorf("it was verified again: %.20s", got)
	}
}

// TestProfileHead: scripts may ask by HEAD, and no browser takes the answer for a
// script.
func TestProfileHead(t *testing.T) {
	w := newWorld(t, setup{block: "profile /me"})
	b := w.browser()
	b.login("/")
	a := b.do("HEAD", "/me")
	w.expect(a, http.StatusOK)
	if a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", a.Header)
	}
}

// TestStorageFailsClosed: who may be signed in is not taken for nobody.
func TestStorageFailsClosed(t *testing.T) {
	for _, mode := range []string{"pass", "deny"} {
		w := newWorld(t, setup{block: "unauthenticated " + mode + "\nprofile /me", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
		keys := filepath.Join(w.dir, "storage", "aventus_auth", "keys.json")
		if err := os.MkdirAll(keys, 0o700); err != nil { // a folder where a file is needed
			t.Fatal(err)
		}
		cookie := "aventus_session=AQ" + strings.Repeat("A", 200) // of a key that is not known yet
		for _, path := range []string{"/", "/me"} {
			if a := w.browser().do("GET", path, "Cookie", cookie); a.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(a.body, "storage_unavailable: ") {
				t.Errorf("%s, %s: status %d, %s", mode, path, a.StatusCode, a.body)
			}
		}
		if n := len(w.requests()); n != 0 {
			t.Errorf("%s: the app was reached %d times", mode, n)
		}
	}
}

// TestChallengeNamesAllScopes: an API client learns all that it needs at once (RFC
// 6750, section 3).
func TestChallengeNamesAllScopes(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer\nrequire_scope read:things write:things"})
	a := w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(nil)))
	w.expect(a, http.StatusForbidden)
	if got := a.Header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_scope", scope="read:things write:things"` {
		t.Errorf("WWW-Authenticate: %s", got)
	}
}

// TestInvalidTokenIsSaid: the error pages can tell a bad token from none.
func TestInvalidTokenIsSaid(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	a := w.browser().do("GET", "/", "Authorization", "Bearer made-up")
	if !strings.HasPrefix(a.body, "invalid_token: ") {
		t.Error(a.body)
	}
}

// TestPassIsPrivate: what nobody in particular was shown is not for somebody later.
func TestPassIsPrivate(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass"})
	a := w.browser().get("/")
	w.expect(a, http.StatusOK)
	if a.Header.Get("Cache-Control") != "private" || a.Header.Get("Vary") != "Cookie" {
		t.Errorf("%v", a.Header)
	}
}

// TestSubjectOfIDToken: who has an opaque token is known by the ID token.
func TestSubjectOfIDToken(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("", ""), "audience https://api.example.com/", "", 1) + "\nrespond {http.auth.user.id}\n}"
	}})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); a.body != "auth0|ada" {
		t.Errorf("the id is %q", a.body)
	}
}

// TestNoNonceUnasked: strict servers refuse a parameter that nothing asked for.
func TestNoNonceUnasked(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("", ""), "scope openid", "scope", 1) + "\n}"
	}})
	if a := w.browser().get("/"); strings.Contains(a.location(), "nonce=") {
		t.Error(a.location())
	}
}

// TestVisitorGivesUp: a tab that was closed is no fault of the server's.
func TestVisitorGivesUp(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) {
		s.TokenFault = func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}
	}})
	b := w.browser()
	callback := b.begin("/")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", callback, nil)
	if _, err := b.client.Do(req); err == nil {
		t.Fatal("there is an answer")
	}
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(w.log(), "client_gone"); {
		if time.Now().After(deadline) || strings.Contains(w.log(), "token_refused") {
			t.Fatal(w.log())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestSessionRoundTrip: a token comes back to the letter, and nothing opens that has
// something behind its end.
func TestSessionRoundTrip(t *testing.T) {
	for _, token := range []string{"opaque", "YQ.YQ.YQ", "YQ.YR.YQ", "YQ.Y-_.", "a.b.c", "..", "YQ.YQ=.YQ"} {
		plaintext, err := (&session{bearer: bearer + token}).marshal()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := parseSession(plaintext); !ok || s.token() != token {
			t.Errorf("%q came back as %v", token, s)
		}
		for _, changed := range [][]byte{append(plaintext, 0), plaintext[:len(plaintext)-1]} {
			if _, ok := parseSession(changed); ok {
				t.Errorf("%q: %x opens", token, changed)
			}
		}
	}
}

// TestThreeBlocks: the third block that a request meets knows it as it came, too.
func TestThreeBlocks(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Repeat(w.directive("", "")+"\n", 3) + "reverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestPrivateWriter: what is flushed is private before it is gone, and what comes
// before the answer is not the answer.
func TestPrivateWriter(t *testing.T) {
	h := &Handler{cfg: new(settings)}
	flushed := httptest.NewRecorder()
	p := &privateWriter{ResponseWriter: flushed, handler: h}
	if err := http.NewResponseController(p).Flush(); err != nil || flushed.Result().Header.Get("Cache-Control") != "private" {
		t.Errorf("flushed: %v %v", err, flushed.Result().Header)
	}
	hinted := httptest.NewRecorder()
	p = &privateWriter{ResponseWriter: hinted, handler: h}
	p.WriteHeader(http.StatusEarlyHints)
	p.Header().Add("Cache-Control", "public")
	p.WriteHeader(http.StatusOK)
	if got := p.Header()["Cache-Control"]; len(got) != 1 || got[0] != "public" {
		t.Errorf("after 103: %q", got)
	}
	pushing := &pusher{ResponseWriter: httptest.NewRecorder()}
	var w http.ResponseWriter = &privateWriter{ResponseWriter: pushing, handler: h}
	if _, ok := w.(io.ReaderFrom); ok {
		t.Error("it is an io.ReaderFrom: see why it is none")
	}
	if err := w.(http.Pusher).Push("/style.css", nil); err != nil || pushing.target != "/style.css" {
		t.Errorf("pushed %q: %v", pushing.target, err)
	}
}

type pusher struct {
	http.ResponseWriter
	target string
}

func (p *pusher) Push(target string, _ *http.PushOptions) error {
	p.target = target
	return nil
}

// TestCallbackOfAnotherPath: a login ends at its own redirect URI, and at no other
// block's.
func TestCallbackOfAnotherPath(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("/a", "session {\nname a\n}"), "/oauth2/callback", "/oauth2/a", 1) +
			"\n" + w.directive("/b", "") + "\n}"
	}})
	b := w.browser()
	w.expect(b.get(strings.Replace(b.begin("/b"), "/oauth2/callback", "/oauth2/a", 1)), http.StatusBadRequest)
	w.expectTokenRequests(0)
}

// TestPeersOfTheConfig: a block that is gone with a reload takes its cookie's name
// with it.
func TestPeersOfTheConfig(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass\nsession {\nname old\n}"})
	send := func(want string) {
		t.Helper()
		w.expect(w.browser().do("GET", "/", "Cookie", "old=1"), http.StatusOK)
		if got := w.requests()[0].Header.Get("Cookie"); got != want {
			t.Errorf("the app was sent %q, want %q", got, want)
		}
	}
	send("")
	w.run(strings.Replace(w.config, "name old", "name new", 1))
	send("old=1")
}

// TestCleanupForgets: when all configs are gone, no peers and no keys are left.
func TestCleanupForgets(t *testing.T) {
	count := func() (n int) {
		configs.Range(func(_, _ any) bool { n++; return true })
		memories.Range(func(_, _ any) bool { n++; return true })
		return n
	}
	before := count()
	w := newWorld(t, setup{})
	w.run(w.config + "\n")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != before {
		t.Errorf("%d configs and key caches, want %d", n, before)
	}
}

// TestOtherJWKS: the keys may be elsewhere, and what elsewhere is may come from the
// environment, as may all that is required.
func TestOtherJWKS(t *testing.T) {
	var w *world
	asked := 0
	keys := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked++
		resp, err := http.Get(w.issuer.Issuer + ".well-known/jwks.json")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(rw, resp.Body)
	}))
	defer keys.Close()
	for name, value := range map[string]string{"KEYS": keys.URL, "SCOPE": "profile", "CLAIM": "email", "VALUE": "ada@example.com", "PROFILE": "/me"} {
		t.Setenv("TEST_"+name, value)
	}
	w = newWorld(t, setup{
		block: "verify_token {env.TEST_KEYS}\nrequire_scope {env.TEST_SCOPE}\nrequire_claim {env.TEST_CLAIM} {env.TEST_VALUE}\nprofile {env.TEST_PROFILE}",
		issuer: func(s *aventustest.Server) {
			s.Claims = func(u aventustest.User) map[string]any { return map[string]any{"email": u.Email} }
		},
	})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	w.expect(b.get("/me"), http.StatusOK)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// TestNoClaimRequired: a requirement without a claim's name would be met by none.
func TestNoClaimRequired(t *testing.T) {
	err := validate(t, `{"client_id":"abc","client_secret":"s","redirect_uri":"https://example.com/cb","require_claim":[{"values":["x"]}]}`)
	if err == nil || !strings.Contains(fmt.Sprint(err), "require_claim needs a claim") {
		t.Error(err)
	}
}

// TestRememberedAsSealed: what is remembered of a session as it is made is what its
// cookie, and its record, say.
func TestRememberedAsSealed(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		for _, refresh := range []string{"", "a refresh token"} {
			b := benchHandler(t, Handler{Session: Session{Store: store}})
			at, w := *b.cfg.fixedSite, httptest.NewRecorder()
			now := time.Now() // with parts of a second
			b.now = func() time.Time { return now }
			s := b.newSession(aventus.Token{AccessToken: "eyJhIjoxfQ.eyJiIjoyfQ.c2lnbmVk", RefreshToken: refresh, Scope: "a b", ExpiresIn: time.Hour}, []byte(`{"c":3}`))
			if err := b.saveSession(w, t.Context(), at, s); err != nil {
				t.Fatal(err)
			}
			remembered, ok := b.opened.Get(s.cookie)
			if !ok || remembered != s {
				t.Fatalf("%s, %q: not remembered", store, refresh)
			}
			b.opened.Purge()
			opened, err := b.openSession(t.Context(), at, s.cookie.value)
			if err != nil || opened == nil {
				t.Fatalf("%s, %q: %v, error %v", store, refresh, opened, err)
			}
			for _, c := range []struct {
				what      string
				got, want any
			}{
				{"id", s.id, opened.id}, {"scope", s.scope, opened.scope}, {"token", s.bearer, opened.bearer},
				{"refresh token", s.refresh, opened.refresh}, {"ID token", string(s.idToken), string(opened.idToken)},
				{"cookie", s.cookie, opened.cookie}, {"in the storage", s.handle != nil, opened.handle != nil},
				{"created", s.created.UnixNano(), opened.created.UnixNano()}, {"expires", s.expires.UnixNano(), opened.expires.UnixNano()},
				{"token came", s.tokenCame.UnixNano(), opened.tokenCame.UnixNano()}, {"token ends", s.tokenEnds.UnixNano(), opened.tokenEnds.UnixNano()},
				{"seen", s.seen.UnixNano(), opened.seen.UnixNano()},
			} {
				if c.got != c.want {
					t.Errorf("%s, %q: %s is %v, and sealed as %v", store, refresh, c.what, c.got, c.want)
				}
			}
		}
	}
}
