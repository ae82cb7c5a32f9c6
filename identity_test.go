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
		"email": "ada@example.com",
		"roles": []string{"admin", "editor"},
		"org": map[string]any{
			"id": json.Number("9007199254740993"), "team": map[string]any{"name": "engines"},
		},
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
		fmt.Fprintf(w, "REMOTE_USER=%s HTTP_AUTHORIZATION=%.9s", fcgi.ProcessEnv(r)["REMOTE_USER"],
			r.Header.Get("Authorization"))
	}))

	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.Claims = richClaims },
		caddyfile: `
			log
			%s
			handle /show {
				respond "id={http.auth.user.id} email={http.auth.user.email} roles={http.auth.user.roles} first={http.auth.user.roles.0} org={http.auth.user.org.id} team={http.auth.user.org.team.name} verified={http.auth.user.verified} nothing=<{http.auth.user.nothing}> none=<{http.auth.user.none}> url={http.auth.user.https://example.com/roles} braces={http.auth.user.braces} scope={http.auth.user.scope}"
			}
			@admin expression ` + "`" +
			`"admin" in {http.auth.user.roles} && {http.auth.user.email}.endsWith("@example.com")` + "`" + `
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
	want := "id=auth0|ada email=ada@example.com roles=admin,editor first=admin org=9007199254740993 team=engines " +
		"verified=true nothing=<> none=<> url=owner braces={env.TEST_CLIENT_SECRET} scope=openid profile"
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

// TestSpacesAtTheEndsOfClaims: no header has spaces at its ends. Without them, a claim that goes on in one would be
// another's: a name that somebody else has, or a role.
func TestSpacesAtTheEndsOfClaims(t *testing.T) {
	const sub = "auth0|ada "
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) {
			s.AutoSignIn, s.Users = sub, []aventustest.User{{Sub: sub, Name: "Ada"}}
			s.Claims = func(aventustest.User) map[string]any {
				return map[string]any{"nick": " admin", "teams": []string{"a", "admin "}, "blank": " ", "inner": "a b"}
			}
		},
		caddyfile: `%s
			@asItCame expression ` + "`" + `{http.auth.user.id} == "auth0|ada "` + "`" + `
			request_header X-User {http.auth.user.id}
			request_header X-Sub {http.auth.user.sub}
			request_header X-Nick {http.auth.user.nick}
			request_header X-Teams {http.auth.user.teams}
			request_header X-Blank {http.auth.user.blank}
			request_header X-Inner {http.auth.user.inner}
			request_header @asItCame X-Expression holds
			reverse_proxy %app`,
	})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	header := w.requests()[0].Header
	for field, want := range map[string]string{
		"X-User": "auth0|ada\uFFFD", "X-Sub": "auth0|ada\uFFFD", "X-Nick": "\uFFFDadmin", "X-Teams": "a,admin\uFFFD",
		"X-Blank": "\uFFFD", "X-Inner": "a b", "X-Expression": "holds",
	} {
		if got := header.Get(field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
}

// TestControlCharactersInClaims: a claim with a line break goes on in a header, in one line, and cannot make every
// request of its person fail. Rules and expressions compare it as it came.
func TestControlCharactersInClaims(t *testing.T) {
	const name = "Ada\nLovelace"
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any {
				return map[string]any{
					"nick": name, "teams": []string{"a\r\nb", "c"}, "level": 3,
					"org": map[string]any{"name": "x\x7fy"}, "role": "admin\n",
				}
			}
		},
		caddyfile: `%s
			@otherwise aventus_claim nick "Ada�Lovelace"
			handle @otherwise {
				respond "another text is taken for it" 403
			}
			handle {
				@asItCame expression ` + "`" + `{http.auth.user.nick} == "Ada\nLovelace"` + "`" + `
				request_header X-Nick {http.auth.user.nick}
				request_header X-Teams {http.auth.user.teams}
				request_header X-Org {http.auth.user.org}
				request_header X-Level {http.auth.user.level}
				request_header X-Role {http.auth.user.role}
				request_header @asItCame X-Expression holds
				reverse_proxy %app
			}`,
	})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	header := w.requests()[0].Header
	for field, want := range map[string]string{
		"X-Nick": "Ada\uFFFDLovelace", "X-Teams": "a\uFFFD\uFFFDb,c", "X-Org": "{\"name\":\"x\uFFFDy\"}",
		"X-Level": "3", "X-Role": "admin\uFFFD", "X-Expression": "holds",
	} {
		if got := header.Get(field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
}

// TestIDToken: its claims join those of the access token, which wins; one that is
// not good fails the login.
func TestIDToken(t *testing.T) {
	w := newWorld(t, setup{
		caddyfile: "%s\nrespond \"{http.auth.user.id} {http.auth.user.nickname} {http.auth.user.email} " +
			"{http.auth.user.aud} {http.auth.user.nonce}\"" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"email": "access@example.com"} }
			s.IDClaims = func(aventustest.User) map[string]any {
				return map[string]any{"nickname": "countess", "email": "id@example.com"}
			}
		},
	})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); !strings.HasPrefix(a.body, "auth0|ada countess access@example.com https://api.example.com/") ||
		strings.Count(a.body, " ") > 5 {
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
			issuer: func(s *aventustest.Server) {
				s.IDClaims = func(aventustest.User) map[string]any { return claims }
			},
		})
		b := w.browser()
		a := b.get(b.begin("/"))
		if a.StatusCode != http.StatusBadGateway || !strings.HasPrefix(a.body, "token_invalid: ") ||
			a.Header["Set-Cookie"] != nil {
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
			"aud": []string{"https://x.example.com/", "https://api.example.com/"},
			"iss": strings.TrimSuffix(w.issuer.Issuer, "/"),
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

// TestTwoBlocksOneIdentity: of two blocks with a session each, the placeholders and
// the token that goes on are the same one's.
func TestTwoBlocksOneIdentity(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroute {\n" + w.directive("", "unauthenticated pass") + "\n" +
			w.directive("", "session {\nname other\n}") +
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

// TestIDTokenAfterRenewal: what the ID token of the login said of the person, and the access token does not, is
// known after a renewal, which brings no ID token, and after a restart; and it counts for require_claim.
func TestIDTokenAfterRenewal(t *testing.T) {
	block := "profile /me\nrequire_claim nickname countess\nrequire_claim role ada"
	w := refreshing(t, setup{block: block, issuer: func(s *aventustest.Server) {
		s.Claims = func(aventustest.User) map[string]any { return map[string]any{"role": []string{"x", "ada"}} }
		s.IDClaims = func(aventustest.User) map[string]any {
			return map[string]any{"nickname": "countess", "role": "nobody"}
		}
	}})
	b := w.browser()
	b.login("/")
	expect := func(when string) {
		t.Helper()
		w.expect(b.get("/"), http.StatusOK)
		a := b.get("/me")
		if !strings.Contains(a.body, `"nickname":"countess"`) || !strings.Contains(a.body, `"role":["x","ada"]`) {
			t.Errorf("%s: %s", when, a.body)
		}
	}
	expect("at first")
	for range 2 {
		w.clock.Add(2 * time.Hour)
		w.expect(b.get("/"), http.StatusOK)
		expect("renewed")
		w.restart()
		expect("restarted")
	}
	w.expectTokenRequests(3)
}

// TestSubjectOfIDToken: who has an opaque token is known by the ID token.
func TestSubjectOfIDToken(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("", ""), "audience https://api.example.com/", "", 1) +
			"\nrespond {http.auth.user.id}\n}"
	}})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); a.body != "auth0|ada" {
		t.Errorf("the id is %q", a.body)
	}
}
