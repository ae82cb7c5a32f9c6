package aventusauth

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// answering has the token endpoint of a stage answer, and returns what is revoked.
func (p *parts) answering(ls *logins, answer map[string]any) (revoked <-chan string) {
	p.t.Helper()
	return p.answeringAfter(ls, answer, func() {})
}

// answeringAfter is answering, once something else has happened meanwhile.
func (p *parts) answeringAfter(ls *logins, answer map[string]any, meanwhile func()) (revoked <-chan string) {
	p.t.Helper()
	tokens := make(chan string, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/revoke" {
			var sent struct{ Token string }
			_ = json.NewDecoder(r.Body).Decode(&sent)
			tokens <- sent.Token
			return
		}
		meanwhile()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}))
	p.t.Cleanup(server.Close)
	ls.server.revokeURL = server.URL + "/revoke"
	ls.server.client = aventus.NewClient(aventus.Config{
		ClientID: "the-client", AuthorizeURL: "https://auth.example.com/authorize", TokenURL: server.URL + "/token",
	})
	p.t.Cleanup(ls.server.client.Close)
	return tokens
}

// finishing serves the callback of a login of a page.
func (p *parts) finishing(ls *logins, state, cookie string) (*httptest.ResponseRecorder, string) {
	return p.outcome(func(w http.ResponseWriter, r *http.Request) error {
		return ls.finish(w, r, p.at(), map[string]string{"state": state, "code": "a-code"})
	}, p.request("GET", "/oauth2/callback", "Cookie", cookie))
}

// TestExchange: what becomes of what the token endpoint answers: the session, and where it is kept.
func TestExchange(t *testing.T) {
	jwt := unsigned(t, map[string]any{"sub": "auth0|ada", "scope": "read:all"})
	for what, c := range map[string]struct {
		answer  map[string]any
		change  func(*parts, *logins)
		want    string
		refresh string // of the session
		revoked string
		scope   string
	}{
		"a token": {map[string]any{"access_token": "opaque"}, nil, "See Other", "", "", ""},
		"a JWT":   {map[string]any{"access_token": jwt, "scope": "read:some"}, nil, "See Other", "", "", "read:some"},
		"a refresh token": {map[string]any{"access_token": jwt, "refresh_token": "r"},
			func(_ *parts, ls *logins) { ls.asksForRefresh = true }, "See Other", "r", "", "read:all"},
		"a refresh token that nobody asked for": {map[string]any{"access_token": jwt, "refresh_token": "r"},
			nil, "See Other", "", "r", "read:all"},
		"none that was asked for": {map[string]any{"access_token": jwt},
			func(_ *parts, ls *logins) { ls.asksForRefresh = true }, "See Other", "", "", "read:all"},
		"a token that no cookie holds": {map[string]any{"access_token": strings.Repeat("x", maxCookie)},
			nil, "See Other", "", "", ""},
		"a token that no record holds": {
			map[string]any{"access_token": strings.Repeat("x", 1<<16), "refresh_token": "r"},
			func(_ *parts, ls *logins) { ls.asksForRefresh = true }, errTokenTooLong.code, "", "r", ""},
		"of another API": {map[string]any{"access_token": jwt, "refresh_token": "r"}, func(_ *parts, ls *logins) {
			ls.server.audience, ls.asksForRefresh = "https://api.example.com/", true
		}, errTokenInvalid.code, "", "r", ""},
		"the user has been signed out meanwhile": {map[string]any{"access_token": jwt, "refresh_token": "r"},
			func(p *parts, ls *logins) {
				ls.asksForRefresh = true
				said := aventus.Logout{Subject: "auth0|ada", Issued: p.clock.Now()}
				if err := p.keeper.ends.endAt(p.t.Context(), said, p.clock.Now(), time.Hour); err != nil {
					p.t.Fatal(err)
				}
			}, "Found", "", "r", ""},

		"no keys of the verifier": {map[string]any{"access_token": jwt}, func(p *parts, ls *logins) {
			ls.verifierBox = p.keyless("code verifier")
		}, errStorage.code, "", "", ""},
		"no keys of sessions": {map[string]any{"access_token": jwt}, func(p *parts, _ *logins) {
			p.keeper.sessionBox = p.keyless("session")
		}, errStorage.code, "", "", ""},
		"no place for the record": {map[string]any{"access_token": jwt, "refresh_token": "r"},
			func(p *parts, ls *logins) {
				ls.asksForRefresh = true
				p.keeper.store.shelf = records.NewShelf(unwritable{p.storage, ""}, "aventus_auth/sessions",
					records.NewClock(p.clock.Now, p.clock.Elapsed))
			}, errStorage.code, "", "r", ""},
		"no keys of the index": {map[string]any{"access_token": jwt, "refresh_token": "r"},
			func(p *parts, ls *logins) {
				ls.asksForRefresh = true
				p.keeper.store.indexBox = p.keyless("session index")
			}, errStorage.code, "", "r", ""},
		"no place for the use": {map[string]any{"access_token": jwt}, func(p *parts, ls *logins) {
			ls.used = p.brokenUses()
		}, errStorage.code, "", "", ""},
	} {
		t.Run(what, func(t *testing.T) {
			p := newParts(t)
			ls := p.logins()
			_, state, cookie := p.begin(ls, "/page")
			answer := map[string]any{"token_type": "Bearer", "expires_in": 3600}
			for name, value := range c.answer {
				answer[name] = value
			}
			revoked := p.answering(ls, answer)
			if c.change != nil {
				c.change(p, ls)
			}
			w, got := p.finishing(ls, state, cookie)
			if got != c.want {
				t.Fatalf("%s, want %s", got, c.want)
			}
			if c.revoked != "" {
				if token := <-revoked; token != c.revoked {
					t.Errorf("%q was revoked, want %q", token, c.revoked)
				}
			}
			if got != "See Other" {
				for _, line := range w.Header()["Set-Cookie"] {
					if !strings.HasPrefix(line, bindingName+"=") {
						t.Errorf("sets %s", line)
					}
				}
				return
			}
			if to := w.Header().Get("Location"); to != bareSite+"/page" {
				t.Errorf("leads to %s", to)
			}
			k, err := p.load(cookieIn(w))
			if err != nil || k == nil {
				t.Fatalf("no session: %v", err)
			}
			if k.refresh != c.refresh || k.scopes() != c.scope || k.token() != answer["access_token"] ||
				!k.tokenEnds.time().Equal(p.clock.Now().Add(time.Hour)) {
				t.Errorf("the session has %q, the scope %q, and a token until %s", k.refresh, k.scopes(),
					k.tokenEnds.time())
			}
			// With a refresh token, it outlasts its first token.
			want := time.Hour
			if c.refresh != "" {
				want = p.keeper.lifetime
			}
			if lasts := k.expires.time().Sub(k.created.time()); lasts != want {
				t.Errorf("the session lasts %s, want %s", lasts, want)
			}
			// The same callback once more: the code is not sent again.
			if w, got = p.finishing(ls, state, cookie); got != "Found" {
				t.Errorf("once more: %s, to %s", got, w.Header().Get("Location"))
			}
		})
	}
}

// TestUnkeptSessionOfAnotherPerson: where the session of a login cannot be kept, the one that the browser has will do,
// unless it is somebody else's: whoever has signed in must not be at the page as the person before.
func TestUnkeptSessionOfAnotherPerson(t *testing.T) {
	for sub, returns := range map[string]bool{"auth0|ada": true, "auth0|grace": false} {
		p := newParts(t)
		ls := p.logins()
		ls.asksForRefresh = true
		_, has := p.session(func(s *session) { s.bearer = bearer + unsigned(t, map[string]any{"sub": "auth0|ada"}) })
		_, state, cookie := p.begin(ls, "/page")
		p.answering(ls, map[string]any{
			"access_token": unsigned(t, map[string]any{"sub": sub}), "token_type": "Bearer", "refresh_token": "r",
		})
		p.keeper.store.shelf = records.NewShelf(unwritable{p.storage, ""}, "aventus_auth/sessions",
			records.NewClock(p.clock.Now, p.clock.Elapsed))
		w, r := httptest.NewRecorder(), p.request("GET", "/oauth2/callback", "Cookie", cookie+"; "+has)
		_ = ls.finish(w, r, p.at(), map[string]string{"state": state, "code": "a-code"})
		if isBack := w.Code == http.StatusSeeOther; isBack != returns {
			t.Errorf("%s signs in: %d, to %s", sub, w.Code, w.Header().Get("Location"))
		}
		if f := asSent(r).failed; f == nil || f.code != errStorage.code {
			t.Errorf("%s signs in: counted as %v, want a login that has failed", sub, f)
		}
	}
}

// TestStorageFailsAtTheGate: where it cannot be told whose a request is, it is neither let through nor taken for
// nobody's, wherever it arrives.
func TestStorageFailsAtTheGate(t *testing.T) {
	page := []string{"Sec-Fetch-Mode", "navigate", "Accept", "text/html"}
	fails := map[string]func(p *parts, g *gate){
		"keys": func(p *parts, _ *gate) {
			p.keeper.memory.forgetAll()
			p.keeper.sessionBox = p.keyless("session")
		},
		"records": func(p *parts, _ *gate) { p.breakRecords() },
		"ends":    func(p *parts, _ *gate) { p.breakEnds() },
		"keys, when the session is used": func(p *parts, _ *gate) {
			p.keeper.idle = time.Hour
			p.clock.Add(20 * time.Minute)
			p.keeper.sessionBox = p.keyless("session")
		},
	}
	for what, fail := range fails {
		for place, serve := range map[string]func(*gate, http.ResponseWriter, *http.Request, caddyhttp.Handler) error{
			"the gate": (*gate).serve,
			"the profile": func(g *gate, w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
				return g.profile.serve(w, r)
			},
			"an answer to an error": func(
				g *gate, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
			) error {
				return g.serveAmongErrors(w, r, next, caddyhttp.Error(http.StatusNotFound, nil))
			},
			"the logout": func(g *gate, w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
				return g.logouts.leave(w, r)
			},
			"the way back from the server's logout": func(
				g *gate, w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler,
			) error {
				g.logouts.provider = true
				return g.logouts.serveSignedOut(w, r, *g.sites.fixed, g.logouts.showSignedOut)
			},
		} {
			for _, mode := range []string{"auto", "pass"} {
				p := newParts(t)
				g := p.gate(new(renewalParts))
				g.unauthenticated = mode
				g.profile = &profile{sites: p.sites, reader: &g.identifier.reader, answers: p.answers}
				_, cookie := p.session(func(s *session) { s.refresh = "refresh" })
				fail(p, g)
				called := false
				next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
					called = true
					return nil
				})
				w, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error { return serve(g, w, r, next) },
					p.request("GET", "/private", append([]string{"Cookie", cookie}, page...)...))
				want := errStorage.code
				isUsed := what == "keys, when the session is used"
				switch {
				case place == "an answer to an error" && !isUsed:
					want = "Not Found"
				case place == "an answer to an error":
					want = "next" // which notes no use
				case place == "the profile" && isUsed, place == "the logout" && isUsed:
					want = "OK"
				case place == "the way back from the server's logout" && (isUsed || what == "ends"):
					want = "See Other" // whoever is signed in is sent to the site
				}
				if called {
					got = "next"
				}
				if got != want {
					t.Errorf("%s, at %s, %s: %s, want %s; %v", what, place, mode, got, want, w.Header())
				}
			}
		}
	}
}

// TestUnkeptTokenOfTheSameGrant: the refresh token of a session that is not kept is revoked, unless the browser may
// have another session by the same grant: by its cookie, or by a login of another tab.
func TestUnkeptTokenOfTheSameGrant(t *testing.T) {
	of := func(token string) *session {
		return &session{grant: grant{bearer: bearer}, refresh: token, tokenCame: toUnix(time.Now())}
	}
	p := newParts(t)
	ls := p.logins()
	revoked := p.answering(ls, nil)
	k, cookie := p.session(nil)
	l := &login{browser: [16]byte{1}}
	// So that sessions are asked for their user.
	if err := p.keeper.ends.endUser(t.Context(), "somebody", p.clock.Now()); err != nil {
		t.Fatal(err)
	}
	none, brings := p.request("GET", "/"), p.request("GET", "/", "Cookie", cookie)
	ls.replacer.revokeUnkept(brings, p.at(), l, of("brought"))
	ls.replacer.remember(p.at(), l, k)
	ls.replacer.revokeUnkept(none, p.at(), l, of("another tab's"))
	if err := p.keeper.end(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	ls.replacer.own.sites = newSites(bareSite+"/oauth2/callback", newHostGroup("example.com", []string{secondHost}),
		nil, nil)
	ls.replacer.revokeUnkept(none, p.at(), l, of("another tab's, soon"))
	ls.replacer.own.sites = p.sites
	ls.replacer.revokeUnkept(none, p.at(), l, of("alone"))
	if got := <-revoked; got != "alone" {
		t.Errorf("%q is revoked", got)
	}
}

// TestUnkeptTokenOfAnotherBlocksGrant: the refresh token of a login is not revoked, neither one that came unasked nor
// that of a login which starts over since its session has ended, where another block's session in the browser may live
// on the same grant. Where that is over, or of another person, it is.
func TestUnkeptTokenOfAnotherBlocksGrant(t *testing.T) {
	of := func(sub, sid string) string { return unsigned(t, map[string]any{"sub": sub, "sid": sid}) }
	for _, c := range []struct {
		what       string
		has        string // the other block's session
		isOver     bool
		startsOver bool
		hosts      bool // several share the login
		revoked    bool
	}{
		{"unasked, and the same person", of("auth0|ada", "one"), false, false, false, false},
		{"unasked, and the other session is over", of("auth0|ada", "one"), true, false, false, true},
		{"unasked, where hosts share the login", of("auth0|ada", "one"), true, false, true, true},
		{"it starts over, and the same person", of("auth0|ada", "one"), false, true, false, false},
		{"it starts over, and the other session is over", of("auth0|ada", "one"), true, true, false, true},
		{"it starts over, and another person", of("auth0|grace", "two"), false, true, false, true},
		{"it starts over, where hosts share the login", of("auth0|grace", "two"), false, true, true, true},
	} {
		p := newParts(t)
		ls := p.logins()
		if c.hosts {
			p.sites.hosts = newHostGroup("example.com", []string{"wiki.example.net"})
		}
		ls.asksForRefresh = c.startsOver
		revoked := p.answering(ls, map[string]any{
			"access_token": of("auth0|ada", "three"), "token_type": "Bearer", "refresh_token": "unkept",
		})
		other := *p.keeper
		other.cookies = &cookies{session: "other", binding: bindingName, own: p.cookies.own}
		ls.replacer.blocks.join(&neighbour{
			sites: p.sites, cookies: other.cookies, keeper: &other, server: ls.server, meter: p.meter,
		})
		p.keeper = &other
		k, has := p.session(func(s *session) { s.bearer = bearer + c.has })
		if c.isOver {
			if err := other.end(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		_, state, cookie := p.begin(ls, "/page")
		want := "See Other"
		if c.startsOver {
			said := aventus.Logout{SessionID: "three", Issued: p.clock.Now()}
			if err := other.ends.endAt(t.Context(), said, p.clock.Now(), time.Hour); err != nil {
				t.Fatal(err)
			}
			want = "Found"
		}
		if _, got := p.finishing(ls, state, cookie+"; "+has); got != want {
			t.Fatalf("%s: %s, want %s", c.what, got, want)
		}
		if c.revoked {
			await(t, c.what, func() bool { return len(revoked) > 0 })
			if got := <-revoked; got != "unkept" {
				t.Errorf("%s: %q is revoked", c.what, got)
			}
			continue
		}
		for range 5 { // one in the background would be done before all of these
			ls.server.revoke(t.Context(), &session{refresh: "later"})
		}
		for range len(revoked) {
			if got := <-revoked; got != "later" {
				t.Errorf("%s: %q is revoked", c.what, got)
			}
		}
	}
}

// leftMeanwhile is a storage during whose writes of a session's record the browser leaves.
type leftMeanwhile struct {
	*mapStorage
	leave func()
}

func (s leftMeanwhile) Store(ctx context.Context, key string, value []byte) error {
	if strings.HasPrefix(key, "aventus_auth/sessions") {
		s.leave()
	}
	return s.mapStorage.Store(ctx, key, value)
}

// TestBrowserLeavesTheCallback: who clicks on while the session of a login is written, such as a renewal by visit,
// goes on with the session that the browser has. The new one, whose cookie reaches nobody, ends. Its refresh token is
// revoked, unless that may end the other one's grant.
func TestBrowserLeavesTheCallback(t *testing.T) {
	for _, signedIn := range []bool{true, false} {
		p := newParts(t)
		ls := p.logins()
		ls.asksForRefresh = true
		ada := unsigned(t, map[string]any{"sub": "auth0|ada"})
		revoked := p.answering(ls, map[string]any{
			"access_token": ada, "token_type": "Bearer", "refresh_token": "new",
		})
		_, state, cookie := p.begin(ls, "/page")
		if signedIn {
			_, has := p.session(func(s *session) { s.bearer, s.refresh = bearer+ada, "old" })
			cookie += "; " + has
		}
		before := p.recordNames()
		r := p.request("GET", "/oauth2/callback", "Cookie", cookie)
		ctx, leave := context.WithCancel(r.Context())
		p.keeper.store.shelf = records.NewShelf(leftMeanwhile{p.storage, leave}, "aventus_auth/sessions",
			records.NewClock(p.clock.Now, p.clock.Elapsed))
		_, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error {
			return ls.finish(w, r, p.at(), map[string]string{"state": state, "code": "a-code"})
		}, r.WithContext(ctx))
		if got != errGone.code {
			t.Errorf("signed in %t: %s", signedIn, got)
		}
		if after := p.recordNames(); !slices.Equal(after, before) {
			t.Errorf("signed in %t: the records were %q, and are %q", signedIn, before, after)
		}
		if !signedIn {
			await(t, "the revocation", func() bool { return len(revoked) > 0 })
			if token := <-revoked; token != "new" {
				t.Errorf("%q is revoked", token)
			}
			continue
		}
		if k, err := p.load(cookie); err != nil || k == nil {
			t.Errorf("the session that the browser has is over: %v", err)
		}
		for range 5 { // one in the background would be done before all of these
			ls.server.revoke(t.Context(), &session{refresh: "later"})
		}
		for range len(revoked) {
			if token := <-revoked; token != "later" {
				t.Errorf("%q is revoked", token)
			}
		}
	}
}

// recordNames returns the keys of the sessions' records, in order.
func (p *parts) recordNames() (names []string) {
	p.storage.mu.Lock()
	defer p.storage.mu.Unlock()
	for key := range p.storage.files {
		if strings.HasPrefix(key, "aventus_auth/sessions") {
			names = append(names, key)
		}
	}
	slices.Sort(names)
	return names
}
