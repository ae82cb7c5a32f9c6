package aventusauth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// configFields returns the fields of a config, those of the session block among them, by their JSON names.
func configFields(c *Config) map[string]reflect.Value {
	fields := make(map[string]reflect.Value)
	v := reflect.ValueOf(c).Elem()
	for field := range fieldsOf(v.Type()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		value := v.FieldByIndex(field.Index)
		if value.Type() != reflect.TypeFor[Session]() {
			fields[name] = value
			continue
		}
		for inner := range fieldsOf(value.Type()) {
			innerName, _, _ := strings.Cut(inner.Tag.Get("json"), ",")
			fields[name+" "+innerName] = value.FieldByIndex(inner.Index)
		}
	}
	return fields
}

// testOfValue names a test that shows what the value of a subdirective does.
var testOfValue = map[string]string{
	"client_id": "TestLogin", "client_secret": "TestLogin", "redirect_uri": "TestLogin", "audience": "TestLogin",
	"scope":  "TestLogin",
	"issuer": "TestEveryDefault", "authorize_url": "TestEndpoints", "token_url": "TestEndpoints",
	"token_request": "TestTokenRequestVariants", "token_auth": "TestTokenRequestVariants",
	"authorize_param": "TestOpaqueToken",
	"unauthenticated": "TestRedirectMode", "require_scope": "TestRequire", "require_claim": "TestRequire",
	"jwks_url": "TestOtherKeys", "verify_token": "TestVerifyToken", "revoke_url": "TestRevokeURL",
	"token_header": "TestTokenHeader", "accept_bearer": "TestAcceptBearer",
	"hosts":         "TestOneLoginForManyHosts",
	"session store": "TestExpiredRecordsGo", "session name": "TestCookieNameBinds",
	"session lifetime": "TestShorterLifetime",
	"session idle":     "TestIdle", "session renew_before": "TestRenewBefore", "session key": "TestSessionKeys",
	"logout": "TestLogoutReturns", "logout_provider": "TestLogoutProvider",
	"backchannel_logout": "TestBackchannelLogout", "profile": "TestProfile",
}

// TestEveryField: each field of the config has one subdirective, which the parser of the Caddyfile fills, the
// placeholders of which are replaced, whose value is checked, and that is documented and tested.
func TestEveryField(t *testing.T) {
	everything := new(Handler)
	file := readFile(t, "testdata/caddyfile_adapt/everything.caddyfiletest")
	block := strings.Replace(file[strings.Index(file, "aventus_auth @app"):], "@app", "", 1)
	if err := everything.UnmarshalCaddyfile(
		caddyfile.NewTestDispenser(block[:strings.Index(block, "\treverse_proxy")])); err != nil {
		t.Fatal(err)
	}
	// What takes any text, or is checked as it is read.
	unchecked := []string{"verify_token", "accept_bearer", "logout_provider"}

	ofField := make(map[unsafe.Pointer]string)
	c := new(Config)
	for _, s := range subdirectives {
		field := reflect.ValueOf(s.field(c)).UnsafePointer()
		if other, ok := ofField[field]; ok {
			t.Errorf("%s and %s have one field", s.name, other)
		}
		ofField[field] = s.name
		if reflect.ValueOf(s.field(&everything.Config)).Elem().IsZero() {
			t.Errorf("%s is not in everything.caddyfiletest", s.name)
		}
		if s.check == nil && !slices.Contains(unchecked, s.name) {
			t.Errorf("%s is not checked", s.name)
		}
	}
	tests, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, name := range tests {
		text.WriteString(readFile(t, name))
	}
	for _, s := range subdirectives {
		if name := testOfValue[s.name]; name == "" || !strings.Contains(text.String(), "\nfunc "+name+"(") {
			t.Errorf("what %s does is not tested", s.name)
		}
	}
	documented := readFile(t, "config.go")
	for name, field := range configFields(c) {
		if ofField[field.Addr().UnsafePointer()] == "" {
			t.Errorf("%s has no subdirective", name)
		}
		if _, key, ok := strings.Cut(name, " "); ok {
			name = key
		}
		if !regexp.MustCompile("\\n\\n?(\\t// .+\\n)+\\t\\w+ +\\S+ +`json:\"" + name + ",").MatchString(documented) {
			t.Errorf("%s has no documentation", name)
		}
	}
}

// TestEveryPlaceholder: placeholders are replaced in all texts of all fields, and in no other config's.
func TestEveryPlaceholder(t *testing.T) {
	t.Setenv("TEST_VALUE", "the value")
	fill := func(text string) *Config {
		c := &Config{
			AuthorizeParams: map[string]string{"prompt": ""}, RequireClaim: []ClaimRequirement{{Values: []string{""}}},
			Logout: new(Logout), Scopes: []string{"", ""}, RequireScope: []string{""},
		}
		c.Session.Keys = []string{"", ""}
		for _, s := range subdirectives {
			field := reflect.ValueOf(s.field(c)).Elem()
			field.Set(withStrings(field, func(string) string { return text }))
		}
		return c
	}
	c := fill("{env.TEST_VALUE}")
	got, err := c.expanded()
	if err != nil {
		t.Fatal(err)
	}
	if want := fill("the value"); !reflect.DeepEqual(got, want) {
		t.Errorf("replaced:\n%+v\nwant\n%+v", got, want)
	}
	if before := fill("{env.TEST_VALUE}"); !reflect.DeepEqual(c, before) {
		t.Errorf("the config as loaded, which is logged, has become\n%+v", c)
	}
}

// TestEveryDefault: no field but those that are required has to be given.
func TestEveryDefault(t *testing.T) {
	c := &Config{ClientID: "a", ClientSecret: "b", RedirectURI: "https://example.com/cb"}
	for name, field := range configFields(c) {
		if field.Type() == reflect.TypeFor[caddy.Duration]() && field.Int() != 0 {
			t.Errorf("%s is not empty", name)
		}
	}
	s, err := c.settings()
	if err != nil {
		t.Fatal(err)
	}
	if s.issuer != defaultIssuer || s.AuthorizeURL != defaultIssuer+"authorize" ||
		s.TokenURL != defaultIssuer+"oauth/token" ||
		s.jwksURL != defaultIssuer+".well-known/jwks.json" || s.Form || s.Basic || s.unauthenticated != "auto" ||
		s.cookieName != "__Host-aventus_session" ||
		s.lifetime != defaultLifetime || s.idle != 0 || s.renewBefore != defaultRenew || s.inStorage ||
		s.logoutPath != "" || s.profilePath != "" {
		t.Errorf("%+v", s)
	}
}

// TestEndpoints: the authorize URL, with its own query, and the token URL are those that are configured.
func TestEndpoints(t *testing.T) {
	var asked atomic.Int64
	w := newWorld(t, setup{sites: func(w *world) string {
		tokens := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			r.URL.Path = "/oauth/token"
			w.issuer.ServeHTTP(rw, r)
		}))
		t.Cleanup(tokens.Close)
		block := "authorize_url " + w.issuer.Issuer + "authorize?prompt=login\ntoken_url " + tokens.URL + "/v2/tokens"
		return w.site + " {\n" + w.directive("", block) + "\nreverse_proxy " + w.app + "\n}"
	}})
	if a := w.browser().get("/"); query(a.location(), "prompt") != "login" ||
		query(a.location(), "client_id") != "the-client" {
		t.Errorf("the login begins at %s", a.location())
	}
	w.browser().login("/")
	if n := asked.Load(); n != 1 {
		t.Errorf("the token URL was asked %d times", n)
	}
}

// TestRenewBefore: a token is renewed as long before its end as renew_before says.
func TestRenewBefore(t *testing.T) {
	w := newWorld(t, setup{block: "scope offline_access\nsession {\nrenew_before 20m\n}",
		issuer: func(s *aventustest.Server) {
			s.TokenLifetime = time.Hour
		}})
	b := w.browser()
	b.login("/")
	w.clock.Add(39 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	first := w.token()
	w.clock.Add(2 * time.Minute)
	await(t, "the renewed token", func() bool {
		w.expect(b.get("/"), http.StatusOK)
		return w.token() != first
	})
	w.expectTokenRequests(2)
}

// TestSessionKeys: the first key seals, and all of them open.
func TestSessionKeys(t *testing.T) {
	older, newer := strings.Repeat("A", 43), strings.Repeat("B", 42)+"A"
	w := newWorld(t, setup{block: "session {\nkey " + older + "\n}"})
	b := w.browser()
	b.login("/")
	before := w.config
	w.run(strings.Replace(before, "key "+older, "key "+newer+" "+older, 1))
	w.expect(b.get("/"), http.StatusOK)
	another := w.browser()
	another.login("/")
	w.run(strings.Replace(before, "key "+older, "key "+newer, 1))
	w.expect(b.get("/"), http.StatusFound)
	w.expect(another.get("/"), http.StatusOK)
}

// TestOtherKeys: with jwks_url, ID tokens are verified at a server whose keys are elsewhere, also where
// its access tokens are opaque, and without verify_token.
func TestOtherKeys(t *testing.T) {
	w := newWorld(t, setup{opaque: true, sites: func(w *world) string {
		return w.site + " {\n" + w.directive("", "jwks_url "+w.issuer.Issuer+"oauth/v2/keys") + "\nreverse_proxy " +
			w.app + "\n}"
	}, issuer: func(s *aventustest.Server) { s.KeysPath = "oauth/v2/keys" }})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	if n := w.issuer.JWKSRequests(); n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
}

// TestRevokeURL: refresh tokens are revoked where the server revokes them, or nowhere, and then nothing is
// asked for, nor complained about.
func TestRevokeURL(t *testing.T) {
	for line, want := range map[string]int{"revoke_url {env.TEST_REVOKE}": 1, "revoke_url off": 0} {
		w := refreshing(t, setup{sites: func(w *world) string {
			t.Setenv("TEST_REVOKE", w.issuer.Issuer+"token/revocation")
			return w.site + " {\n" + w.directive("", line+"\nscope offline_access\nlogout /logout") +
				"\nreverse_proxy " + w.app + "\n}"
		}, issuer: func(s *aventustest.Server) { s.RevokePath = "token/revocation" }})
		b := w.browser()
		b.login("/")
		w.expect(b.get("/logout"), http.StatusOK)
		if want > 0 {
			await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == want })
		}
		if n := len(w.issuer.Revoked()); n != want {
			t.Errorf("%s: %d tokens were revoked, want %d", line, n, want)
		}
		if strings.Contains(w.log(), "could not be revoked") {
			t.Errorf("%s: a revocation has failed", line)
		}
	}
}

// TestWrittenAtIsBounded: a process that adapts ever new Caddyfiles remembers the lines of the latest texts alone.
func TestWrittenAtIsBounded(t *testing.T) {
	const last = maxWrittenAt
	for i := range last + 1 {
		noteLine([]string{fmt.Sprintf("{env.TEST_%d}", i)}, caddyfile.Token{File: "Caddyfile", Line: i})
	}
	if writtenAt.Contains("{env.TEST_0}") || writtenAt.Len() != maxWrittenAt {
		t.Errorf("%d lines are remembered", writtenAt.Len())
	}
	at, _ := writtenAt.Get(fmt.Sprintf("{env.TEST_%d}", last))
	if want := fmt.Sprintf("Caddyfile:%d", last); at != want {
		t.Errorf("the last text is at %q, want %q", at, want)
	}
}
