package aventus

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

var b64 = base64.RawURLEncoding

// with returns the claims with some of them replaced; nil takes one away.
func with(claims map[string]any, changes map[string]any) map[string]any {
	claims = maps.Clone(claims)
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

type m = map[string]any

// rawToken returns a token of any header, signed as RS256 signs.
func rawToken(key *rsa.PrivateKey, header, payload string) string {
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	hash := sha256.Sum256([]byte(input))
	return input + "." + b64.EncodeToString(must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:])))
}

// unencoded returns a token whose payload was signed as it is (RFC 7797).
func unencoded(key *rsa.PrivateKey, header, payload string) string {
	head := b64.EncodeToString([]byte(header)) + "."
	hash := sha256.Sum256([]byte(head + payload))
	return head + b64.EncodeToString([]byte(payload)) + "." +
		b64.EncodeToString(must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:])))
}

func hs256(secret []byte, header, payload string) string {
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64.EncodeToString(mac.Sum(nil))
}

// ed25519Token returns a token that is signed with edKey, under any header.
func ed25519Token(header m, payload string) string {
	input := b64.EncodeToString(must(json.Marshal(header))) + "." + b64.EncodeToString([]byte(payload))
	return input + "." + b64.EncodeToString(ed25519.Sign(edKey, []byte(input)))
}

// cachedKeys returns a key set that has its keys, and no server.
func cachedKeys(clock *testClock) *KeySet {
	keys := NewKeySet("http://localhost:0/", clock.Now)
	keys.tried = clock.Now()
	keys.set = &keySet{fetched: clock.Now(), keys: must(parseKeys([]byte(jwks(
		jwk(rsaKey().Public(), "rsa", "RS256", "sig"),
		jwk(otherRSA().Public(), "pss", "", ""),
		jwk(ecKey().Public(), "ec", "ES256", "sig"),
		jwk(edKey.Public(), "ed", "", ""),
	))))}
	return keys
}

func TestVerifyWithTheStandIn(t *testing.T) {
	server := new(aventustest.Server)
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	server.Issuer = web.URL + "/"
	clock := newClock()
	keys := newKeySet(t, server.Issuer+".well-known/jwks.json", clock)
	v := NewTokenVerifier(server.Issuer, testAudience, keys, clock.Now)

	claims := with(clock.claims(), m{"iss": server.Issuer, "aud": []string{testAudience, server.Issuer + "userinfo"}})
	payload, expires, err := v.Verify(t.Context(), server.SignJWT(claims))
	if err != nil || !expires.Equal(clock.Now().Add(time.Hour)) {
		t.Fatal(expires, err)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil || got["sub"] != "ada" {
		t.Errorf("the payload is %s", payload)
	}
}

func TestVerifyTakes(t *testing.T) {
	clock := newClock()
	claims := clock.claims()
	header := m{"kid": "ed"}
	changed := func(changes m) string { return sign(jose.EdDSA, edKey, header, with(claims, changes)) }
	typed := func(typ any) string { return sign(jose.EdDSA, edKey, m{"kid": "ed", "typ": typ}, claims) }
	stolen := jose.JSONWebKey{Key: otherRSA().Public()}
	tests := map[string]string{
		"RS256":         sign(jose.RS256, rsaKey(), m{"kid": "rsa"}, claims),
		"PS256":         sign(jose.PS256, otherRSA(), m{"kid": "pss"}, claims),
		"ES256":         sign(jose.ES256, ecKey(), m{"kid": "ec"}, claims),
		"EdDSA":         changed(nil),
		"no kid":        sign(jose.EdDSA, edKey, nil, claims),
		"no kid, RS256": sign(jose.RS256, otherRSA(), nil, claims),
		"aud array":     changed(m{"aud": []string{"x", testAudience}}),
		"iss, no slash": changed(m{"iss": strings.TrimSuffix(testIssuer, "/")}),
		"within leeway": changed(m{
			"exp": clock.in(-59 * time.Second), "nbf": clock.in(time.Minute), "iat": clock.in(time.Minute),
		}),
		"fraction": changed(m{"exp": json.Number("1700000001.9e0")}),
		"far exp":  changed(m{"exp": json.Number("1e400"), "nbf": json.Number("-1e400")}),
		"null nbf": sign(jose.EdDSA, edKey, header,
			strings.Replace(string(must(json.Marshal(claims))), "{", `{"nbf":null,"iat":null,`, 1)),
		"JWT":             typed("JWT"),
		"jwt":             typed("jwt"),
		"at+jwt":          typed("at+jwt"),
		"AT+JWT":          typed("AT+JWT"),
		"application":     typed("Application/at+jwt"),
		"unknown headers": sign(jose.EdDSA, edKey, m{"kid": "ed", "cty": "x", "x": m{"y": 1}}, claims),
		// Keys that the token brings along are not looked at, whatever they are.
		"jwk": sign(jose.EdDSA, edKey, m{"kid": "ed", "jwk": stolen}, claims),
		"jku": sign(jose.EdDSA, edKey, m{
			"kid": "ed", "jku": "https://evil.test/jwks", "x5u": "https://evil.test/x5u",
		}, claims),
	}
	v := NewTokenVerifier(testIssuer, testAudience, cachedKeys(clock), clock.Now)
	for what, token := range tests {
		if payload, _, err := v.Verify(t.Context(), token); err != nil || len(payload) == 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestVerifyEd25519: EdDSA has two names, and a key may have either (RFC 9864).
func TestVerifyEd25519(t *testing.T) {
	clock := newClock()
	payload := string(must(json.Marshal(with(clock.claims(), m{"nonce": "n"}))))
	set := func(algs ...string) *KeySet {
		var keys []string
		for _, alg := range algs {
			keys = append(keys, jwk(edKey.Public(), "ed", alg, ""))
		}
		s := NewKeySet("http://localhost:0/", clock.Now)
		s.tried, s.set = clock.Now(), &keySet{fetched: clock.Now(), keys: must(parseKeys([]byte(jwks(keys...))))}
		return s
	}
	signed := func(alg string) string { return ed25519Token(m{"alg": alg, "kid": "ed"}, payload) }
	for _, keyAlg := range []string{"", "EdDSA", "Ed25519"} {
		for _, alg := range []string{"EdDSA", "Ed25519"} {
			keys := set(keyAlg)
			if _, _, err := NewTokenVerifier(testIssuer, testAudience, keys, clock.Now).Verify(t.Context(),
				signed(alg)); err != nil {
				t.Errorf("an access token, %s by a key for %q: %v", alg, keyAlg, err)
			}
			if _, err := NewIDVerifier(testIssuer, testAudience, keys, clock.Now).Verify(t.Context(), signed(alg),
				"n"); err != nil {
				t.Errorf("an ID token, %s by a key for %q: %v", alg, keyAlg, err)
			}
		}
	}
	good := signed("Ed25519")
	for what, test := range map[string]struct {
		keys  *KeySet
		token string
	}{
		"a key for Ed448":     {set("Ed448"), good},
		"a key for RS256":     {set("RS256"), good},
		"Ed448":               {set(""), signed("Ed448")},
		"ed25519":             {set(""), signed("ed25519")},
		"called RS256":        {set(""), signed("RS256")},
		"another payload":     {set(""), strings.Replace(good, ".", "."+b64.EncodeToString([]byte(`{"x":"`)), 1)},
		"no signature":        {set(""), good[:strings.LastIndex(good, ".")+1]},
		"half a signature":    {set(""), good[:len(good)-43]},
		"an RSA key's":        {cachedKeys(clock), rawToken(rsaKey(), `{"alg":"Ed25519","kid":"rsa"}`, payload)},
		"an EC key's, by kid": {cachedKeys(clock), ed25519Token(m{"alg": "Ed25519", "kid": "ec"}, payload)},
		"an RSA key's, by ed": {cachedKeys(clock), rawToken(rsaKey(), `{"alg":"Ed25519","kid":"ed"}`, payload)},
		"ES256 of an Ed25519": {set(""), ed25519Token(m{"alg": "ES256", "kid": "ed"}, payload)},
		"a key that it brings": {
			set(""), ed25519Token(m{
				"alg": "Ed25519", "kid": "x", "jwk": jose.JSONWebKey{Key: edKey.Public()},
			}, payload),
		},
	} {
		_, _, err := NewTokenVerifier(testIssuer, testAudience, test.keys, clock.Now).Verify(t.Context(), test.token)
		wantRefused(t, what, err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	clock := newClock()
	claims := clock.claims()
	payload := string(must(json.Marshal(claims)))
	header := m{"kid": "ed"}
	changed := func(changes m) string { return sign(jose.EdDSA, edKey, header, with(claims, changes)) }
	headed := func(extra m) string { return sign(jose.EdDSA, edKey, with(header, extra), claims) }
	good := changed(nil)
	parts := strings.Split(good, ".")
	attacker := must(rsa.GenerateKey(rand.Reader, 2048))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	set := jwk(rsaKey().Public(), "rsa", "RS256", "sig")

	tests := map[string]string{
		// Algorithms
		"alg none": b64.EncodeToString([]byte(`{"alg":"none","kid":"rsa"}`)) + "." +
			b64.EncodeToString([]byte(payload)) + ".",
		"alg None": b64.EncodeToString([]byte(`{"alg":"None"}`)) + "." +
			b64.EncodeToString([]byte(payload)) + "." + parts[2],
		"alg missing":           rawToken(rsaKey(), `{"kid":"rsa"}`, payload),
		"alg null":              rawToken(rsaKey(), `{"alg":null,"kid":"rsa"}`, payload),
		"alg in an array":       rawToken(rsaKey(), `{"alg":["RS256"],"kid":"rsa"}`, payload),
		"alg in lower case":     rawToken(rsaKey(), `{"alg":"rs256","kid":"rsa"}`, payload),
		"alg twice":             rawToken(rsaKey(), `{"alg":"none","alg":"RS256","kid":"rsa"}`, payload),
		"HS256 with the PEM":    hs256(pemKey, `{"alg":"HS256","kid":"rsa"}`, payload),
		"HS256 with the DER":    hs256(der, `{"alg":"HS256","kid":"rsa"}`, payload),
		"HS256 with n":          hs256(rsaKey().N.Bytes(), `{"alg":"HS256","kid":"rsa"}`, payload),
		"HS256 with the JWK":    hs256([]byte(set), `{"alg":"HS256","kid":"rsa"}`, payload),
		"HMAC called RS256":     hs256(pemKey, `{"alg":"RS256","kid":"rsa"}`, payload),
		"RS512":                 sign(jose.RS512, rsaKey(), m{"kid": "pss"}, claims),
		"ES384":                 sign(jose.ES384, p384, m{"kid": "ec"}, claims),
		"PS256 by an RS256 key": sign(jose.PS256, rsaKey(), m{"kid": "rsa"}, claims),
		"same, no kid":          sign(jose.PS256, rsaKey(), nil, claims),

		// Keys
		"kid of nobody":       sign(jose.EdDSA, edKey, m{"kid": "x"}, claims),
		"kid of another key":  sign(jose.RS256, rsaKey(), m{"kid": "pss"}, claims),
		"kid of another kind": sign(jose.RS256, rsaKey(), m{"kid": "ed"}, claims),
		"kid is no string":    rawToken(rsaKey(), `{"alg":"RS256","kid":1}`, payload),
		"kid is a path":       sign(jose.RS256, attacker, m{"kid": "../../../../dev/null"}, claims),
		"another's signature": sign(jose.RS256, attacker, m{"kid": "rsa"}, claims),
		"another's, no kid":   sign(jose.RS256, attacker, nil, claims),
		"its own jwk":         sign(jose.RS256, attacker, m{"jwk": jose.JSONWebKey{Key: attacker.Public()}}, claims),
		"its own jwk, and kid": sign(jose.RS256, attacker, m{
			"kid": "rsa", "jwk": jose.JSONWebKey{Key: attacker.Public()},
		}, claims),
		"its own jku": sign(jose.RS256, attacker, m{
			"kid": "rsa", "jku": "https://evil.test/", "x5u": "https://evil.test/",
		}, claims),

		// Form
		"nothing":           "",
		"dots":              "..",
		"more dots":         strings.Repeat(".", maxToken),
		"two parts":         parts[0] + "." + parts[1],
		"no signature":      parts[0] + "." + parts[1] + ".",
		"four parts":        good + ".",
		"JWE":               good + "." + parts[1] + "." + parts[2],
		"truncated":         good[:len(good)-1],
		"truncated payload": parts[0] + "." + parts[1][:len(parts[1])-2] + "." + parts[2],
		"other payload": parts[0] + "." + b64.EncodeToString([]byte(strings.Replace(payload, "ada", "eve", 1))) +
			"." + parts[2],
		"padded":         good + "==",
		"padded payload": parts[0] + "." + base64.URLEncoding.EncodeToString([]byte(payload+" ")) + "." + parts[2],
		"standard alphabet": strings.NewReplacer("-", "+", "_",
			"/").Replace(rawToken(rsaKey(), `{"alg":"RS256","kid":"rsa","x":"???>>>"}`, payload)),
		"line break":      parts[0] + "." + parts[1] + ".\r\n" + parts[2],
		"space in front":  " " + good,
		"space behind":    good + " ",
		"Bearer in front": "Bearer " + good,
		"other last bits": good[:len(good)-1] + string(good[len(good)-1]+1),
		"JSON serialization": `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` +
			parts[2] + `"}`,
		"not UTF-8":        "\xff.\xff.\xff",
		"1 MB":             changed(m{"x": strings.Repeat("x", 1<<20)}),
		"just over 64 KiB": changed(m{"x": strings.Repeat("x", 49<<10)}),

		// Header
		"crit":               rawToken(rsaKey(), `{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}`, payload),
		"crit empty":         rawToken(rsaKey(), `{"alg":"RS256","kid":"rsa","crit":[]}`, payload),
		"crit b64":           rawToken(rsaKey(), `{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":true}`, payload),
		"b64":                unencoded(rsaKey(), `{"alg":"RS256","kid":"rsa","b64":false}`, payload),
		"typ of an ID":       headed(m{"typ": "id_token+jwt"}),
		"typ of a logout":    headed(m{"typ": "logout+jwt"}),
		"typ empty":          headed(m{"typ": ""}),
		"typ is no string":   headed(m{"typ": 1}),
		"typ twice the name": headed(m{"typ": "application/application/jwt"}),
		"header is an array": rawToken(rsaKey(), `["RS256"]`, payload),
		"header is null":     rawToken(rsaKey(), `null`, payload),

		// Claims
		"expired":           changed(m{"exp": clock.in(-60 * time.Second)}),
		"long expired":      changed(m{"exp": 0}),
		"no exp":            changed(m{"exp": nil}),
		"exp in quotes":     changed(m{"exp": "9999999999"}),
		"exp true":          changed(m{"exp": true}),
		"exp null":          sign(jose.EdDSA, edKey, header, strings.Replace(payload, `"exp":`, `"exp":null,"x":`, 1)),
		"exp twice":         sign(jose.EdDSA, edKey, header, strings.Replace(payload, "{", `{"exp":9999999999,`, 1)),
		"exp -1e400":        changed(m{"exp": json.Number("-1e400")}),
		"EXP":               changed(m{"exp": nil, "EXP": clock.in(time.Hour)}),
		"not yet":           changed(m{"nbf": clock.in(61 * time.Second)}),
		"nbf in quotes":     changed(m{"nbf": "0"}),
		"of the future":     changed(m{"iat": clock.in(61 * time.Second)}),
		"iat in an array":   changed(m{"iat": []int{0}}),
		"no iss":            changed(m{"iss": nil}),
		"iss empty":         changed(m{"iss": ""}),
		"iss in an array":   changed(m{"iss": []string{testIssuer}}),
		"iss of another":    changed(m{"iss": "https://evil.test/"}),
		"iss longer":        changed(m{"iss": testIssuer + "evil"}),
		"iss, two slashes":  changed(m{"iss": testIssuer + "/"}),
		"iss in upper case": changed(m{"iss": strings.ToUpper(testIssuer)}),
		"no aud":            changed(m{"aud": nil}),
		"aud of another":    changed(m{"aud": "https://other.example.com"}),
		"aud longer":        changed(m{"aud": testAudience + "/"}),
		"aud in a string":   changed(m{"aud": "x " + testAudience}),
		"aud array without": changed(m{"aud": []string{"x", "y"}}),
		"aud array empty":   changed(m{"aud": []string{}}),
		"aud array mixed":   changed(m{"aud": []any{testAudience, 1}}),
		"aud nested":        changed(m{"aud": []any{[]string{testAudience}}}),
		"aud object":        changed(m{"aud": m{testAudience: testAudience}}),
		"payload no object": sign(jose.EdDSA, edKey, header, `["x"]`),
		"payload empty":     sign(jose.EdDSA, edKey, header, ``),
		"payload no JSON":   sign(jose.EdDSA, edKey, header, `{`),
		"payload and more":  sign(jose.EdDSA, edKey, header, payload+payload),
		"payload deep":      sign(jose.EdDSA, edKey, header, `{"x":`+strings.Repeat("[", 40<<10)),
	}
	v := NewTokenVerifier(testIssuer, testAudience, cachedKeys(clock), clock.Now)
	if _, _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for what, token := range tests {
		got, expires, err := v.Verify(t.Context(), token)
		wantRefused(t, what, err)
		if got != nil || !expires.IsZero() {
			t.Errorf("%s: something came back with the error", what)
		}
		if err != nil && (err.Error() != CleanText(err.Error()) || len(token) > 20 &&
			strings.Contains(err.Error(), token)) {
			t.Errorf("%s: the error is %q", what, err)
		}
	}
	_, _, err := NewTokenVerifier(testIssuer, "", cachedKeys(clock), clock.Now).Verify(t.Context(),
		changed(m{"aud": ""}))
	wantRefused(t, "no audience at all", err)
	_, _, err = NewTokenVerifier("", testAudience, cachedKeys(clock), clock.Now).Verify(t.Context(),
		changed(m{"iss": ""}))
	wantRefused(t, "no issuer at all", err)
}

func TestVerifyWithoutKeys(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, "<html>")
	keys := newKeySet(t, server.URL, clock)
	token := sign(jose.EdDSA, edKey, m{"kid": "ed"}, with(clock.claims(), m{"nonce": "n"}))
	_, _, err := NewTokenVerifier(testIssuer, testAudience, keys, clock.Now).Verify(t.Context(), token)
	wantKind(t, "an access token", err, Malformed)
	_, err = NewIDVerifier(testIssuer, testAudience, keys, clock.Now).Verify(t.Context(), token, "n")
	wantKind(t, "an ID token", err, Malformed)
}

// Whatever is made of a good token, it is refused, or it is that very token.
func FuzzVerify(f *testing.F) {
	clock := newClock()
	keys := cachedKeys(clock)
	claims := with(clock.claims(), m{"nonce": "n"})
	seeds := map[string]bool{
		sign(jose.EdDSA, edKey, m{"kid": "ed"}, claims):                 true,
		sign(jose.EdDSA, edKey, nil, claims):                            true,
		sign(jose.ES256, ecKey(), m{"kid": "ec", "typ": "JWT"}, claims): true,
		sign(jose.RS256, rsaKey(), m{"kid": "rsa"}, claims):             true,
	}
	for seed := range seeds {
		f.Add(seed)
		f.Add(seed + "\n")
		last := seed[len(seed)-1]
		for _, other := range []byte("ABQgwxz") { // other spellings of the same bytes are among them
			if other != last {
				f.Add(seed[:len(seed)-1] + string(other))
			}
		}
	}
	f.Add("..")
	f.Add(hs256(rsaKey().N.Bytes(), `{"alg":"HS256","kid":"rsa","crit":["b64"],"jwk":{},"x5c":["AA"]}`, "{}"))
	access := NewTokenVerifier(testIssuer, testAudience, keys, clock.Now)
	id := NewIDVerifier(testIssuer, testAudience, keys, clock.Now)
	f.Fuzz(func(t *testing.T, token string) {
		payload, _, err := access.Verify(t.Context(), token)
		if (err == nil) != seeds[token] || (err != nil) != (payload == nil) {
			t.Errorf("%q: %s, %v", token, payload, err)
		}
		payload, err = id.Verify(t.Context(), token, "n")
		if (err == nil) != seeds[token] || (err != nil) != (payload == nil) {
			t.Errorf("%q: %s, %v", token, payload, err)
		}
	})
}

// FuzzCheckClaims looks for claims that are taken for good, and are not to anyone
// else who reads them: of another issuer or audience, expired, or not good yet.
func FuzzCheckClaims(f *testing.F) {
	clock := newClock()
	f.Add(must(json.Marshal(clock.claims())))
	for _, changes := range []m{
		{"iss": strings.TrimSuffix(testIssuer, "/")}, {"iss": "https://evil.test/"}, {"iss": nil},
		{"aud": []string{"x", testAudience}}, {"aud": []any{testAudience, 1}},
		{"aud": nil}, {"aud": "\u00e9\x1b[31m"}, {"exp": clock.in(-59 * time.Second)},
		{"exp": clock.in(-60 * time.Second)}, {"exp": nil}, {"exp": "9999999999"}, {"nbf": clock.in(60 * time.Second)},
		{"nbf": clock.in(61 * time.Second)}, {"iat": clock.in(time.Hour)}, {"iat": json.RawMessage("null")},
		{"exp": json.RawMessage("1e99")}, {"exp": json.RawMessage("-1e999")},
	} {
		f.Add(must(json.Marshal(with(clock.claims(), changes))))
	}
	f.Add(append(must(json.Marshal(clock.claims())), '}'))
	f.Add([]byte(strings.Replace(string(must(json.Marshal(clock.claims()))), "{", `{"aud":"x",`, 1)))
	f.Add([]byte(`{"iss":"https://auth.example.com","aud":["https://api.example.com"],"exp":1e99,"nbf":-1.5e-9,` +
		`"iat":0}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, expires, err := checkClaims(payload, testIssuer, testAudience, clock.Now())
		if err != nil {
			if got != nil || !expires.IsZero() || !errors.Is(err, ErrToken) {
				t.Fatalf("%v, %v with the error %v", got, expires, err)
			}
			if text := err.Error(); len(text) > 1000 ||
				strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("an error that is not fit for a log: %q", text)
			}
			return
		}
		var fields map[string]any
		dec := json.NewDecoder(bytes.NewReader(payload))
		dec.UseNumber()
		if err := dec.Decode(&fields); err != nil || !json.Valid(payload) || len(namesIn(payload)) != len(fields) ||
			len(fields) != len(got) {
			t.Fatalf("others read %v, %v", fields, err)
		}
		list, isList := fields["aud"].([]any)
		if fields["iss"] != testIssuer && fields["iss"] != testIssuer[:len(testIssuer)-1] ||
			fields["aud"] != testAudience && (!isList || !slices.Contains(list, any(testAudience))) {
			t.Fatalf("others read %v", fields)
		}
		// Whole seconds; a float would do for dates, and not for all that can be written.
		now := clock.Now().Unix()
		date := func(name string) (*big.Float, bool) {
			number, ok := fields[name].(json.Number)
			if !ok {
				if fields[name] != nil || name == "exp" {
					t.Fatalf("%s is %v", name, fields[name])
				}
				return nil, false
			}
			v, _, err := big.ParseFloat(number.String(), 10, 200, big.ToZero)
			if err != nil {
				t.Fatal(err)
			}
			return v, true
		}
		if exp, _ := date("exp"); exp.Cmp(big.NewFloat(float64(now-60))) <= 0 ||
			!clock.Now().Before(expires.Add(clockLeeway)) {
			t.Fatalf("it expired at %v, or %v", exp, expires)
		}
		for _, name := range []string{"nbf", "iat"} {
			if from, ok := date(name); ok && from.Cmp(big.NewFloat(float64(now+61))) >= 0 {
				t.Fatalf("its %s is %v", name, from)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	clock := newClock()
	v := NewTokenVerifier(testIssuer, testAudience, cachedKeys(clock), clock.Now)
	token := sign(jose.RS256, rsaKey(), m{"kid": "rsa"}, clock.claims())
	for b.Loop() {
		if _, _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

// CheckParties verifies no signature, and is as strict as Verify about who made a token
// and for whom.
func TestCheckParties(t *testing.T) {
	const issuer, audience = "https://auth.example.com/", "https://api.example.com/"
	token := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
	}
	for _, good := range []string{
		`{"iss":"https://auth.example.com/","aud":"https://api.example.com/"}`,
		`{"iss":"https://auth.example.com","aud":["x","https://api.example.com/"]}`,
	} {
		if err := CheckParties(token(good), issuer, audience); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`{}`, `[]`, `null`, `{"iss":"https://auth.example.com/"}`, `{"aud":"https://api.example.com/"}`,
		`{"iss":"https://auth.example.com//","aud":"https://api.example.com/"}`,
		`{"iss":"","aud":"https://api.example.com/"}`,
		`{"iss":"https://auth.example.com/","aud":"https://api.example.com"}`,
		`{"iss":"https://auth.example.com/","aud":["x",["https://api.example.com/"]]}`,
		`{"iss":"https://auth.example.com/","aud":"x","aud":"https://api.example.com/"}`,
		`{"iss":"https://auth.example.com/","aud":"https://api.example.com/"}x`,
	} {
		if err := CheckParties(token(bad), issuer, audience); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	good := token(`{"iss":"https://auth.example.com/","aud":"https://api.example.com/"}`)
	for _, bad := range []string{"", "opaque", "a.b.c", good + ".", good + ".x.y", "x." + good,
		strings.Replace(good, ".c2ln", ".c2ln=", 1), strings.Replace(good, "e30.", "\ne30.", 1)} {
		if err := CheckParties(bad, issuer, audience); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := CheckParties(good, issuer, ""); !errors.Is(err, ErrToken) {
		t.Errorf("no audience: %v", err)
	}
}
