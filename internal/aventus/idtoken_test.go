package aventus

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestVerifyID(t *testing.T) {
	clock := newClock()
	v := NewIDVerifier(testIssuer, "app", cachedKeys(clock), clock.Now)
	claims := with(clock.claims(), m{"aud": "app", "nonce": "the nonce"})
	changed := func(changes m) string {
		return sign(jose.RS256, rsaKey(), m{"kid": "rsa", "typ": "JWT"}, with(claims, changes))
	}
	for what, token := range map[string]string{
		"plain":           changed(nil),
		"no typ, EdDSA":   sign(jose.EdDSA, edKey, m{"kid": "ed"}, claims),
		"iss, no slash":   changed(m{"iss": strings.TrimSuffix(testIssuer, "/")}),
		"azp":             changed(m{"azp": "app"}),
		"null azp":        changed(m{"azp": json.RawMessage("null")}),
		"aud of one":      changed(m{"aud": []string{"app"}}),
		"several and azp": changed(m{"aud": []string{"other", "app"}, "azp": "app"}),
		"within leeway":   changed(m{"exp": clock.in(-59 * time.Second)}),
		"distributed ones": changed(m{
			"_claim_names": m{"x": "s"}, "_claim_sources": m{"s": m{"endpoint": "https://evil.test/"}},
		}),
	} {
		payload, err := v.Verify(t.Context(), token, "the nonce")
		if err != nil || !strings.Contains(string(payload), `"sub":"ada"`) {
			t.Errorf("%s: %s, %v", what, payload, err)
		}
	}
	for what, token := range map[string]string{
		"nothing": "",
		"alg none": b64.EncodeToString([]byte(`{"alg":"none"}`)) + "." +
			b64.EncodeToString(must(json.Marshal(claims))) + ".",
		"another's signature": sign(jose.RS256, otherRSA(), m{"kid": "rsa"}, claims),
		"an access token":     sign(jose.RS256, rsaKey(), m{"kid": "rsa", "typ": "at+jwt"}, claims),
		"JSON serialization":  `{"payload":"","signatures":[]}`,
		"no nonce":            changed(m{"nonce": nil}),
		"another nonce":       changed(m{"nonce": "the nonce "}),
		"nonce is no string":  changed(m{"nonce": []string{"the nonce"}}),
		"nonce twice": sign(jose.EdDSA, edKey, m{
			"kid": "ed",
		}, strings.Replace(string(must(json.Marshal(claims))), "{", `{"nonce":"x",`, 1)),
		"another iss":       changed(m{"iss": "https://evil.test/"}),
		"another aud":       changed(m{"aud": testAudience}),
		"several, no azp":   changed(m{"aud": []string{"other", "app"}}),
		"several, null azp": changed(m{"aud": []string{"app", "app"}, "azp": json.RawMessage("null")}),
		"azp of another":    changed(m{"azp": "other"}),
		"azp is no string":  changed(m{"azp": 1}),
		"expired":           changed(m{"exp": clock.in(-60 * time.Second)}),
		"no exp":            changed(m{"exp": nil}),
		"not yet":           changed(m{"nbf": clock.in(61 * time.Second)}),
		"1 MB":              changed(m{"x": strings.Repeat("x", 1<<20)}),
	} {
		payload, err := v.Verify(t.Context(), token, "the nonce")
		wantRefused(t, what, err)
		if payload != nil {
			t.Errorf("%s: something came back with the error", what)
		}
	}
	for _, token := range []string{changed(m{"nonce": nil}), changed(m{"nonce": ""})} {
		_, err := v.Verify(t.Context(), token, "")
		wantRefused(t, "no nonce was asked for", err)
	}
}

// What organization and max_age ask for is compared with what an ID token says.
func TestCheckLogin(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		name, value, payload string
		ok                   bool
	}{
		{"prompt", "login", "", true},
		{"prompt", "login", `{}`, true},
		{"organization", "org_Ab", `{"org_id":"org_Ab","org_name":"x"}`, true},
		{"organization", "org_Ab", `{"org_id":"org_ab"}`, false},
		{"organization", "org_Ab", `{"org_name":"org_Ab"}`, false},
		{"organization", "org_Ab", `{"org_id":["org_Ab"]}`, false},
		{"organization", "org_Ab", `{"org_id":"org_x","org_id":"org_Ab"}`, false},
		{"organization", "org_Ab", `{}`, false},
		{"organization", "org_Ab", ``, false},
		{"organization", "Acme", `{"org_id":"org_x","org_name":"acme"}`, true},
		{"organization", "acme", `{"org_name":"Acme"}`, true},
		{"organization", "acme", `{"org_name":"acme2"}`, false},
		{"organization", "acme", `{"org_id":"acme"}`, false},
		{"organization", "acme-books", `{"org_name":"acme-boo\u212as"}`, false}, // the Kelvin sign
		{"organization", "acme-books", `{"org_name":"acme-book\u017f"}`, false}, // the long s
		{"max_age", "0", `{"auth_time":1800000000}`, true},
		{"max_age", "0", `{"auth_time":1799999940}`, true},
		{"max_age", "0", `{"auth_time":1799999939}`, false},
		{"max_age", "60", `{"auth_time":1799999880.5}`, true},
		{"max_age", "60", `{"auth_time":1799999879}`, false},
		{"max_age", "60", `{"auth_time":1800000060}`, true},
		{"max_age", "60", `{"auth_time":1800000061}`, false},
		{"max_age", "60", `{"auth_time":"1800000000"}`, false},
		{"max_age", "60", `{"auth_time":null}`, false},
		{"max_age", "2147483647", `{"auth_time":0}`, true},
		{"max_age", "60", `{"iat":1800000000}`, false},
		{"max_age", "60", ``, false},
	} {
		var payload []byte
		if tc.payload != "" {
			payload = []byte(tc.payload)
		}
		if err := CheckLogin(payload, map[string]string{"a": "b", tc.name: tc.value}, now); (err == nil) != tc.ok ||
			err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("%s=%s, %s: %v", tc.name, tc.value, tc.payload, err)
		}
	}
	both := map[string]string{"organization": "org_a", "max_age": "60"}
	for payload, ok := range map[string]bool{
		`{"org_id":"org_a","auth_time":1800000000}`: true, `{"org_id":"org_a"}`: false,
		`{"auth_time":1800000000}`: false,
	} {
		if err := CheckLogin([]byte(payload), both, now); (err == nil) != ok {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

// TestPayloadsThatAreNone: what is said of a session's end, or of a login, in no payload, is refused.
func TestPayloadsThatAreNone(t *testing.T) {
	if end, err := SessionExpiry([]byte("[]")); !errors.Is(err, ErrToken) || !end.IsZero() {
		t.Errorf("a session's end: %v, %v", end, err)
	}
	for _, token := range []string{"opaque", "a.b", "a..c", "e30.W10.c2ln", "e30.!.c2ln", "e30..c2ln"} {
		if end, err := RenewedExpiry(token, "https://auth.example.com/", "client", ""); !errors.Is(err, ErrToken) ||
			!end.IsZero() {
			t.Errorf("%s: %v, %v", token, end, err)
		}
	}
	if err := CheckLogin([]byte("[]"), map[string]string{"organization": "a"}, time.Now()); !errors.Is(err, ErrToken) {
		t.Errorf("a login: %v", err)
	}
}
