package aventus

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// logoutClaims are those of a good logout token.
func logoutClaims(clock *testClock) m {
	return m{
		"iss": testIssuer, "aud": "app", "sub": "ada", "sid": "the session", "jti": "the id",
		"iat": clock.in(0), "exp": clock.in(2 * time.Minute), "events": m{logoutEvent: m{}},
	}
}

func TestVerifyLogout(t *testing.T) {
	clock := newClock()
	v := NewLogoutVerifier(testIssuer, "app", cachedKeys(clock), clock.Now)
	atOther := NewLogoutVerifier("https://other.example.com/", "app", cachedKeys(clock), clock.Now) // the same client
	claims := logoutClaims(clock)
	payload := string(must(json.Marshal(claims)))
	typed := func(typ any, claims any) string {
		return sign(jose.RS256, rsaKey(), m{"kid": "rsa", "typ": typ}, claims)
	}
	changed := func(changes m) string { return typed("logout+jwt", with(claims, changes)) }
	events := func(events any) string { return changed(m{"events": events}) }

	whole := Logout{ID: "the id", SessionID: "the session", Subject: "ada"}
	for what, test := range map[string]struct {
		token string
		want  Logout
	}{
		"by sid and sub":  {changed(nil), whole},
		"by sid alone":    {changed(m{"sub": nil}), Logout{ID: "the id", SessionID: "the session"}},
		"by sub alone":    {changed(m{"sid": nil}), Logout{ID: "the id", Subject: "ada"}},
		"null sid":        {changed(m{"sid": json.RawMessage("null")}), Logout{ID: "the id", Subject: "ada"}},
		"typ JWT":         {typed("JWT", claims), whole},
		"typ jwt":         {typed("jwt", claims), whole},
		"typ in full":     {typed("application/logout+jwt", claims), whole},
		"EdDSA":           {sign(jose.EdDSA, edKey, m{"kid": "ed", "typ": "JWT"}, claims), whole},
		"iss, no slash":   {changed(m{"iss": strings.TrimSuffix(testIssuer, "/")}), whole},
		"aud of several":  {changed(m{"aud": []string{"other", "app"}}), whole},
		"further events":  {events(m{"urn:x": 1, logoutEvent: m{"y": 2}}), whole},
		"further claims":  {changed(m{"trace_id": "x", "azp": "app"}), whole},
		"within leeway":   {changed(m{"exp": clock.in(-59 * time.Second), "iat": clock.in(time.Minute)}), whole},
		"ten minutes old": {changed(m{"iat": clock.in(-MaxLogoutAge)}), whole},
	} {
		got, err := v.Verify(t.Context(), test.token)
		test.want.Issued = got.Issued
		if err != nil || got != test.want || got.Issued.Sub(clock.Now()).Abs() > MaxLogoutAge {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, test.want)
		}
		if !v.IsFor(PartiesOf(test.token)) || atOther.IsFor(PartiesOf(test.token)) {
			t.Errorf("%s: it is for somebody else", what)
		}
	}

	twice := func(name string) string {
		return typed("JWT", strings.Replace(payload, `"`+name+`":`, `"`+name+`":"x","`+name+`":`, 1))
	}
	for what, token := range map[string]string{
		"nothing": "",
		"no JWT":  "logout",
		"alg none": b64.EncodeToString([]byte(`{"alg":"none"}`)) + "." +
			b64.EncodeToString([]byte(payload)) + ".",
		"HS256":               hs256([]byte("secret"), `{"alg":"HS256"}`, payload),
		"another's signature": sign(jose.RS256, otherRSA(), m{"kid": "rsa"}, claims),
		"key of nobody":       sign(jose.RS256, otherRSA(), m{"kid": "nobody"}, claims),
		"typ of an access":    typed("at+jwt", claims),
		"no typ":              sign(jose.RS256, rsaKey(), m{"kid": "rsa"}, claims),
		"typ of an ID":        typed("id_token+jwt", claims),
		"typ of an event":     typed("secevent+jwt", claims),
		"typ empty":           typed("", claims),
		"typ is no string":    typed(1, claims),
		"crit":                rawToken(rsaKey(), `{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}`, payload),
		"another iss":         changed(m{"iss": "https://evil.test/"}),
		"no iss":              changed(m{"iss": nil}),
		"another client":      changed(m{"aud": "other"}),
		"no aud":              changed(m{"aud": nil}),
		"aud of the API":      changed(m{"aud": testAudience}),
		"no iat":              changed(m{"iat": nil}),
		"null iat":            changed(m{"iat": json.RawMessage("null")}),
		"iat in quotes":       changed(m{"iat": "1700000000"}),
		"of the future":       changed(m{"iat": clock.in(61 * time.Second)}),
		"old, and still good": changed(m{"iat": clock.in(-MaxLogoutAge - time.Second), "exp": clock.in(time.Hour)}),
		"no exp":              changed(m{"exp": nil}),
		"exp in quotes":       changed(m{"exp": "9999999999"}),
		"expired":             changed(m{"exp": clock.in(-time.Minute)}),
		"not yet":             changed(m{"nbf": clock.in(61 * time.Second)}),
		"no events":           changed(m{"events": nil}),
		"null events":         events(json.RawMessage("null")),
		"events in an array":  events([]string{logoutEvent}),
		"events as a string":  events(logoutEvent),
		"no such event":       events(m{"http://schemas.openid.net/event/backchannel-logout/": m{}}),
		"another event":       events(m{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": m{}}),
		"event null":          events(m{logoutEvent: nil}),
		"event true":          events(m{logoutEvent: true}),
		"event in an array":   events(m{logoutEvent: []m{{}}}),
		"event twice":         events(json.RawMessage(`{"` + logoutEvent + `":1,"` + logoutEvent + `":{}}`)),
		"events twice":        twice("events"),
		"a nonce":             changed(m{"nonce": "n"}),
		"an empty nonce":      changed(m{"nonce": ""}),
		"a null nonce":        changed(m{"nonce": json.RawMessage("null")}),
		"neither sid nor sub": changed(m{"sid": nil, "sub": nil}),
		"empty sid, no sub":   changed(m{"sid": "", "sub": nil}),
		"sid is no string":    changed(m{"sid": 1}),
		"sub in an array":     changed(m{"sub": []string{"ada"}}),
		"sid twice":           twice("sid"),
		"no jti":              changed(m{"jti": nil}),
		"empty jti":           changed(m{"jti": ""}),
		"jti is no string":    changed(m{"jti": 7}),
		"no object":           typed("JWT", `[]`),
		"1 MB":                changed(m{"x": strings.Repeat("x", 1<<20)}),
	} {
		got, err := v.Verify(t.Context(), token)
		wantRefused(t, what, err)
		if got != (Logout{}) {
			t.Errorf("%s: %+v came back with the error", what, got)
		}
		if err != nil && (err.Error() != CleanText(err.Error()) || token != "" &&
			strings.Contains(err.Error(), token)) {
			t.Errorf("%s: the error is %q", what, err)
		}
	}

	_, err := NewLogoutVerifier(testIssuer, "", cachedKeys(clock), clock.Now).Verify(t.Context(),
		changed(m{"aud": ""}))
	wantRefused(t, "no client at all", err)
}

// Tokens of one kind are none of another, by whichever verifier.
func TestLogoutIsNoOtherToken(t *testing.T) {
	clock := newClock()
	keys := cachedKeys(clock)
	signed := func(claims m) string { return sign(jose.RS256, rsaKey(), m{"kid": "rsa", "typ": "JWT"}, claims) }
	logout := signed(logoutClaims(clock))
	if _, err := NewIDVerifier(testIssuer, "app", keys, clock.Now).Verify(t.Context(), logout, "n"); err == nil {
		t.Error("a logout token was taken for an ID token")
	}
	id := with(clock.claims(), m{"aud": "app", "iat": clock.in(0), "jti": "x", "sid": "s"})
	for _, id := range []m{id, with(id, m{"nonce": "n"}), with(id, m{"nonce": "n", "events": m{logoutEvent: m{}}})} {
		_, err := NewLogoutVerifier(testIssuer, "app", keys, clock.Now).Verify(t.Context(), signed(id))
		wantRefused(t, "an ID token", err)
	}
}

// Without the keys, it cannot be told in time.
func TestVerifyLogoutWithoutKeys(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, "<html>")
	keys := newKeySet(t, server.URL, clock)
	token := sign(jose.RS256, rsaKey(), m{"kid": "rsa", "typ": "JWT"}, logoutClaims(clock))
	_, err := NewLogoutVerifier(testIssuer, "app", keys, clock.Now).Verify(t.Context(), token)
	wantKind(t, "a server without keys", err, Malformed)

	server.handle(func(w http.ResponseWriter, r *http.Request) { aventustest.Hangs(w, r) })
	keys = newKeySet(t, server.URL, clock)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = NewLogoutVerifier(testIssuer, "app", keys, clock.Now).Verify(ctx, token)
	wantKind(t, "a server that hangs", err, TimedOut)
	server.CloseClientConnections()
}

func TestVerifyLogoutWithTheStandIn(t *testing.T) {
	server := &aventustest.Server{Issuer: "https://unset.test/"}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	server.Issuer = web.URL + "/"
	clock := newClock()
	server.Now = clock.Now
	keys := newKeySet(t, server.Issuer+".well-known/jwks.json", clock)
	v := NewLogoutVerifier(server.Issuer, "app", keys, clock.Now)
	said, err := v.Verify(t.Context(), server.LogoutToken("app", "auth0|ada", "a session"))
	if err != nil || said.Subject != "auth0|ada" || said.SessionID != "a session" || said.ID == "" {
		t.Errorf("%+v, %v", said, err)
	}
}
