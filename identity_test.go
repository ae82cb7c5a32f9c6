package aventusauth

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/fcgi"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// richClaims are claims of every shape, with names and values that mean something
// elsewhere.
func richClaims(aventustest.User) map[string]any {
	return map[string]any{
		"email":                     "ada@example.com",
		"roles":                     []string{"admin", "editor"},
		"org":                       map[string]any{"id": json.Number("9007199254740993"), "team": map[string]any{"name": "engines"}},
		"verified":                  true,
		"nothing":                   nil,
		"https://example.com/roles": []string{"owner"},
		"braces":                    "{env.TEST_CLIENT_SECRET}",
		"{env.HOME}":                "x",
		"permissions":               []string{"read:things", "write:things"},
	}
}

// TestClaims shows claims in the places where Caddy's users put placeholders.
func TestClaims(t *testing.T) {
	php, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer php.Close()
	go fcgi.Serve(php, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "REMOTE_USER=%s HTTP_AUTHORIZATION=%.9s", fcgi.ProcessEnv(r)["REMOTE_USER"], r.Header.Get("Authorization"))
	}))

	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.Claims = richClaims },
		caddyfile: `
			log
			%s
			handle /show {
				respond "id={http.auth.user.id} email={http.auth.user.email} roles={http.auth.user.roles} first={http.auth.user.roles.0} org={http.auth.user.org.id} team={http.auth.user.org.team.name} verified={http.auth.user.verified} nothing=<{http.auth.user.nothing}> none=<{http.auth.user.none}> url={http.auth.user.https://example.com/roles} braces={http.auth.user.braces} scope={http.auth.user.scope}"
			}
			@admin expression ` + "`" + `"admin" in {http.auth.user.roles} && {http.auth.user.email}.endsWith("@example.com")` + "`" + `
			handle /expression {
				respond @admin "an admin"
				respond "no admin"
			}
			handle /php/* {
				php_fastcgi ` + php.Addr().String() + ` {
					root /nowhere
					env REMOTE_USER {http.auth.user.id}
					try_files {path} index.php
				}
			}
			handle /up {
				reverse_proxy %app {
					header_up X-User-Email {http.auth.user.email}
				}
			}
			handle {
				request_header X-User-Id {http.auth.user.id}
				request_header X-User-None {http.auth.user.none}
				request_header X-User-Braces {http.auth.user.braces}
				reverse_proxy %app
			}`})
	b := w.browser()
	b.login("/show")
	want := "id=auth0|ada email=ada@example.com roles=admin,editor first=admin org=9007199254740993 team=engines verified=true nothing=<> none=<> url=owner braces={env.TEST_CLIENT_SECRET} scope=openid profile"
	if a := b.get("/show"); a.body != want {
		t.Errorf("placeholders are\n%s\nwant\n%s", a.body, want)
	}
	if a := b.get("/expression"); a.body != "an admin" {
		t.Errorf("the expression says %s", a.body)
	}
	if a := b.get("/php/x.php"); a.body != "REMOTE_USER=auth0|ada HTTP_AUTHORIZATION=Bearer ey" {
		t.Errorf("PHP was told %s", a.body)
	}
	w.requests()
	w.expect(b.do("GET", "/up", "X-User-Email", "made@up"), http.StatusOK)
	w.expect(b.do("GET", "/", "X-User-Id", "made-up", "X-User-None", "made-up"), http.StatusOK)
	seen := w.requests()
	if got := seen[0].Header["X-User-Email"]; len(got) != 1 || got[0] != "ada@example.com" {
		t.Errorf("X-User-Email: %q", got)
	}
	if got := seen[1].Header["X-User-Id"]; len(got) != 1 || got[0] != "auth0|ada" {
		t.Errorf("X-User-Id: %q", got)
	}
	if got := seen[1].Header.Get("X-User-None"); got != "" {
		t.Errorf("X-User-None: %q", got)
	}
	if got := seen[1].Header.Get("X-User-Braces"); got != "{env.TEST_CLIENT_SECRET}" {
		t.Errorf("a claim was expanded to %q", got)
	}
	if !strings.Contains(w.log(), `"user_id":"auth0|ada"`) {
		t.Error("the access log has no user_id")
	}
}

// TestScope: what was granted is what the answer says, else the token, else what
// was asked for.
func TestScope(t *testing.T) {
	for _, c := range []struct {
		name   string
		server func(*aventustest.Server)
		want   string
	}{
		{"the answer's", func(s *aventustest.Server) { s.Scopes = []string{"openid"} }, "openid"},
		{"the token's", func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": "profile extra"} }
		}, "profile extra"},
		{"as asked", func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": nil} }
		}, "openid profile"},
	} {
		w := newWorld(t, setup{issuer: c.server, caddyfile: "%s\nrespond {http.auth.user.scope}"})
		b := w.browser()
		b.login("/")
		if a := b.get("/"); a.body != c.want {
			t.Errorf("%s: %q, want %q", c.name, a.body, c.want)
		}
	}
}

// TestRequire: who lacks a scope or a claim gets 403, and several blocks with
// different requirements share one session.
func TestRequire(t *testing.T) {
	require := map[string]string{
		"/scope":       "require_scope openid profile",
		"/permission":  "require_scope write:things",
		"/noscope":     "require_scope openid delete:things",
		"/role":        "require_claim roles owner admin",
		"/norole":      "require_claim roles owner root",
		"/number":      "require_claim org.id 9007199254740993",
		"/nonumber":    "require_claim org.id 9007199254740992",
		"/bool":        "require_claim verified true",
		"/nobool":      "require_claim verified false",
		"/object":      "require_claim org engines",
		"/missing":     "require_claim none x",
		"/missing2":    `require_claim none ""`,
		"/both":        "require_claim verified true\nrequire_claim roles admin",
		"/oneofboth":   "require_claim verified true\nrequire_claim roles root",
		"/substring":   "require_claim email ada@example",
		"/joinedroles": "require_claim roles admin,editor",
	}
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.Claims = richClaims },
		sites: func(w *world) string {
			blocks := ""
			for path, requirement := range require {
				blocks += w.directive(path, requirement) + "\n"
			}
			return w.site + " {\n" + blocks + w.directive("/plain", "") + "\nreverse_proxy " + w.app + errorsShown + "\n}"
		},
	})
	b := w.browser()
	b.login("/plain")
	for path, want := range map[string]string{
		"/scope": "", "/permission": "", "/role": "", "/number": "", "/bool": "", "/both": "",
		"/noscope":     "insufficient_scope: You are signed in, but lack the scope delete:things.",
		"/norole":      "insufficient_claim: You are signed in, but your account lacks what is needed here (roles).",
		"/nonumber":    "insufficient_claim: ",
		"/nobool":      "insufficient_claim: ",
		"/object":      "insufficient_claim: ",
		"/missing":     "insufficient_claim: ",
		"/missing2":    "insufficient_claim: ",
		"/oneofboth":   "insufficient_claim: ",
		"/substring":   "insufficient_claim: ",
		"/joinedroles": "insufficient_claim: ",
	} {
		a := b.get(path)
		if want == "" {
			w.expect(a, http.StatusOK)
			continue
		}
		w.expect(a, http.StatusForbidden)
		if !strings.HasPrefix(a.body, want) || a.Header.Get("Cache-Control") != "no-store" || a.Header["Www-Authenticate"] != nil {
			t.Errorf("%s: %v %s", path, a.Header, a.body)
		}
	}
	w.expectTokenRequests(1)
	if len(w.issuer.AuthorizeRequests()) != 1 {
		t.Errorf("%d logins", len(w.issuer.AuthorizeRequests()))
	}
}

// TestIDToken: its claims join those of the access token, which wins; one that is
// not good fails the login.
func TestIDToken(t *testing.T) {
	w := newWorld(t, setup{
		caddyfile: "%s\nrespond \"{http.auth.user.id} {http.auth.user.nickname} {http.auth.user.email} {http.auth.user.aud} {http.auth.user.nonce}\"" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"email": "access@example.com"} }
			s.IDClaims = func(aventustest.User) map[string]any {
				return map[string]any{"nickname": "countess", "email": "id@example.com"}
			}
		},
	})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); !strings.HasPrefix(a.body, "auth0|ada countess access@example.com https://api.example.com/") || strings.Count(a.body, " ") > 5 {
		t.Errorf("%q", a.body)
	}

	for name, claims := range map[string]map[string]any{
		"another nonce":    {"nonce": "x"},
		"no nonce":         {"nonce": nil},
		"another audience": {"aud": "somebody"},
		"another issuer":   {"iss": "https://evil.test/"},
		"expired":          {"exp": 1},
	} {
		w := newWorld(t, setup{
			caddyfile: "%s\nrespond hello" + errorsShown,
			issuer:    func(s *aventustest.Server) { s.IDClaims = func(aventustest.User) map[string]any { return claims } },
		})
		b := w.browser()
		a := b.get(b.begin("/"))
		if a.StatusCode != http.StatusBadGateway || !strings.HasPrefix(a.body, "token_invalid: ") || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s: status %d, %v, %s", name, a.StatusCode, a.Header, a.body)
		}
		if !strings.Contains(w.log(), "verifying the ID token") {
			t.Errorf("%s: the log does not say why", name)
		}
	}
}

// tokenClaims are those of a good access token of this world.
func (w *world) tokenClaims(change map[string]any) map[string]any {
	claims := map[string]any{
		"iss": w.issuer.Issuer, "sub": "client@example", "aud": "https://api.example.com/",
		"iat": w.clock.Now().Unix(), "exp": w.clock.Now().Add(time.Hour).Unix(), "scope": "read:things",
	}
	maps.Copy(claims, change)
	return claims
}

// TestVerifyToken: an access token that is not good fails the login; one that is
// good is verified when it comes, and not at each request.
func TestVerifyToken(t *testing.T) {
	var answer func(w *world) string
	var w *world
	fault := func(s *aventustest.Server) {
		s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			if answer == nil {
				return false
			}
			fmt.Fprintf(rw, `{"access_token":%q,"token_type":"Bearer","expires_in":86400}`, answer(w))
			return true
		}
	}
	w = newWorld(t, setup{block: "verify_token", caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: fault})
	for name, change := range map[string]map[string]any{
		"another audience": {"aud": "https://other.example.com/"},
		"another issuer":   {"iss": "https://evil.test/"},
		"expired":          {"exp": w.clock.Now().Add(-2 * time.Minute).Unix()},
		"just expired":     {"exp": w.clock.Now().Unix()},
		"no expiry":        {"exp": nil},
		"not yet":          {"nbf": w.clock.Now().Add(2 * time.Minute).Unix()},
	} {
		answer = func(w *world) string { return w.issuer.SignJWT(w.tokenClaims(change)) }
		b := w.browser()
		a := b.get(b.begin("/"))
		if a.StatusCode != http.StatusBadGateway || !strings.HasPrefix(a.body, "token_invalid: ") {
			t.Errorf("%s: status %d, %s", name, a.StatusCode, a.body)
		}
	}
	answer = func(*world) string { return "an-opaque-token" }
	b := w.browser()
	w.expect(b.get(b.begin("/")), http.StatusBadGateway)

	// A good one, with an array of audiences and an issuer without its slash; the
	// session ends with it, though the answer says later.
	answer = func(w *world) string {
		return w.issuer.SignJWT(w.tokenClaims(map[string]any{
			"aud": []string{"https://x.example.com/", "https://api.example.com/"}, "iss": strings.TrimSuffix(w.issuer.Issuer, "/"),
		}))
	}
	a := b.login("/")
	if got := a.cookie("aventus_session").MaxAge; got != 3600 {
		t.Errorf("Max-Age %d", got)
	}
	fetched := w.issuer.JWKSRequests()
	for range 5 {
		w.expect(b.get("/"), http.StatusOK)
	}
	if w.issuer.JWKSRequests() != fetched || fetched == 0 {
		t.Errorf("keys were fetched %d times, and %d during requests", fetched, w.issuer.JWKSRequests()-fetched)
	}
}

// TestKeysDown: the keys cannot be had; the login fails with 5xx, and works when
// they can. Nothing is fetched when a config loads.
func TestKeysDown(t *testing.T) {
	down := true
	w := newWorld(t, setup{block: "verify_token", caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			if down {
				rw.WriteHeader(http.StatusServiceUnavailable)
			}
			return down
		}
	}})
	if n := w.issuer.JWKSRequests(); n != 0 {
		t.Errorf("%d fetches when loading", n)
	}
	b := w.browser()
	a := b.get(b.begin("/"))
	if a.StatusCode < 500 || a.cookie("aventus_session") != nil {
		t.Errorf("status %d", a.StatusCode)
	}
	down = false
	w.clock.Add(11 * time.Second)
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestAcceptBearer goes through what an API client can send.
func TestAcceptBearer(t *testing.T) {
	for _, mode := range []string{"auto", "redirect", "deny", "pass"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, setup{block: "accept_bearer\nrequire_scope read:things\nunauthenticated " + mode, caddyfile: "%s\nreverse_proxy %app" + errorsShown})
			good := w.issuer.SignJWT(w.tokenClaims(nil))
			send := func(lines ...string) answer {
				headers := []string{"Accept", "application/json"}
				for _, line := range lines {
					headers = append(headers, "Authorization", line)
				}
				return w.browser().do("GET", "/api", headers...)
			}
			for range 3 {
				w.requests()
				a := send("Bearer " + good)
				w.expect(a, http.StatusOK)
				r := w.requests()[0]
				if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+good {
					t.Errorf("the app was sent %q", got)
				}
				if a.Header["Set-Cookie"] != nil || !strings.Contains(strings.Join(a.Header["Vary"], ","), "Authorization") {
					t.Errorf("the answer has %v", a.Header)
				}
			}
			w.expect(send("bearer  "+good), http.StatusOK)
			if n := w.issuer.JWKSRequests(); n != 1 {
				t.Errorf("keys were fetched %d times", n)
			}
			w.requests()
			for name, lines := range map[string][]string{
				"made up":    {"Bearer made-up"},
				"changed":    {"Bearer " + flip(good)},
				"expired":    {"Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"exp": w.clock.Now().Add(-time.Second).Unix()}))},
				"other aud":  {"Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"aud": "x"}))},
				"none":       {"Bearer eyJhbGciOiJub25lIn0.e30."},
				"empty":      {"Bearer  "},
				"two":        {"Bearer " + good, "Bearer " + good},
				"two mixed":  {"Basic abc", "Bearer " + good},
				"with comma": {"Bearer " + good + ", Basic abc"},
			} {
				a := send(lines...)
				if a.StatusCode != http.StatusUnauthorized || a.Header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` || a.Header["Set-Cookie"] != nil {
					t.Errorf("%s: status %d, %v", name, a.StatusCode, a.Header)
				}
			}
			a := send("Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"scope": "other"})))
			w.expect(a, http.StatusForbidden)
			if got := a.Header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_scope", scope="read:things"` {
				t.Errorf("WWW-Authenticate: %s", got)
			}
			a = send("Bearer " + w.issuer.SignJWT(w.tokenClaims(map[string]any{"scope": nil})))
			w.expect(a, http.StatusForbidden) // it was not asked for by us, so nothing is taken for granted
			if n := len(w.requests()); n != 0 {
				t.Errorf("the app was reached %d times", n)
			}
			// One that was good is not good for ever.
			w.clock.Add(time.Hour)
			w.expect(send("Bearer "+good), http.StatusUnauthorized)
		})
	}
}

// TestSessionBeforeBearer: where both are there, the session wins, whatever the
// other one is.
func TestSessionBeforeBearer(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer"})
	b := w.browser()
	b.login("/")
	w.requests()
	for _, line := range []string{"Bearer made-up", "Bearer " + w.issuer.SignJWT(w.tokenClaims(nil)), "Basic abc"} {
		w.expect(b.do("GET", "/", "Authorization", line), http.StatusOK)
		if got := w.requests()[0].Header["Authorization"]; len(got) != 1 || got[0] == line || !strings.HasPrefix(got[0], "Bearer ey") {
			t.Errorf("the app was sent %q", got)
		}
	}
}

// TestSecondBlockTakesNoBearer: a token that one block set is not taken by the next
// for one that the client brought.
func TestSecondBlockTakesNoBearer(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroute {\n" + w.directive("", "") + "\n" + w.directive("", "accept_bearer\nunauthenticated deny\nsession {\nname other\n}") +
			"\nreverse_proxy " + w.app + "\n}\n}"
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusUnauthorized)
}

// TestTwoBlocksOneIdentity: of two blocks with a session each, the placeholders and
// the token that goes on are the same one's.
func TestTwoBlocksOneIdentity(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroute {\n" + w.directive("", "unauthenticated pass") + "\n" + w.directive("", "session {\nname other\n}") +
			"\nrequest_header X-User-Id {http.auth.user.id}\nreverse_proxy " + w.app + "\n}\n}"
	}})
	b := w.browser()
	a := b.get("/") // the second block sends it to the login, and the first takes the callback
	a = b.get(b.get(a.location()).location())
	w.expect(a, http.StatusSeeOther)
	w.expect(b.get("/"), http.StatusOK)
	r := w.requests()[0].Header
	if r.Get("X-User-Id") != "auth0|ada" || !strings.HasPrefix(r.Get("Authorization"), "Bearer ey") {
		t.Errorf("the app was told %v", r)
	}
}

func TestProfile(t *testing.T) {
	w := newWorld(t, setup{block: "profile /me", matcher: "/private/*", issuer: func(s *aventustest.Server) { s.Claims = richClaims }})
	a := w.browser().do("GET", "/me", "Origin", "https://evil.test", "Sec-Fetch-Mode", "navigate")
	w.expect(a, http.StatusUnauthorized)
	if a.Header.Get("WWW-Authenticate") != "Bearer" || a.Header["Location"] != nil {
		t.Errorf("%v", a.Header)
	}

	b := w.browser()
	b.login("/private/page")
	a = b.do("GET", "/me", "Origin", "https://evil.test")
	w.expect(a, http.StatusOK)
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", a.Header)
	}
	for name := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("it has %s", name)
		}
	}
	var profile struct {
		Sub       string         `json:"sub"`
		Scope     string         `json:"scope"`
		ExpiresAt time.Time      `json:"expires_at"`
		Claims    map[string]any `json:"claims"`
	}
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&profile); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if profile.Sub != "auth0|ada" || profile.Scope != "openid profile" || !profile.ExpiresAt.Equal(w.clock.Now().Add(24*time.Hour)) || profile.Claims["email"] != "ada@example.com" {
		t.Errorf("%s", a.body)
	}
	if !strings.Contains(a.body, "9007199254740993") {
		t.Errorf("a number has changed: %s", a.body)
	}
	w.expect(b.get("/private/page"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	if strings.Contains(a.body, token) || strings.Contains(a.body, strings.Split(token, ".")[2]) {
		t.Error("it holds the token")
	}
	a = b.do("POST", "/me")
	w.expect(a, http.StatusMethodNotAllowed)
	if a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%v", a.Header)
	}
}

// TestProfileOpaque: an opaque token tells nothing.
func TestProfileOpaque(t *testing.T) {
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.NoIDToken = true },
		sites: func(w *world) string {
			return w.site + " {\n" + strings.Replace(w.directive("", "profile /me"), "audience https://api.example.com/", "", 1) +
				"\n" + strings.Replace(w.directive("/claim", "require_claim sub auth0|ada"), "audience https://api.example.com/", "", 1) + "\nreverse_proxy " + w.app + "\n}"
		},
	})
	b := w.browser()
	b.login("/")
	a := b.get("/me")
	w.expect(a, http.StatusOK)
	if !strings.Contains(a.body, `"sub":""`) || !strings.Contains(a.body, `"claims":{}`) {
		t.Error(a.body)
	}
	w.expect(b.get("/claim"), http.StatusForbidden)
}
