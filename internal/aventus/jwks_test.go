package aventus

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// testClock moves only when it is told to.
type testClock struct{ unix atomic.Int64 }

func newClock() *testClock {
	c := new(testClock)
	c.unix.Store(1_700_000_000)
	return c
}

func (c *testClock) Now() time.Time           { return time.Unix(c.unix.Load(), 0) }
func (c *testClock) advance(d time.Duration)  { c.unix.Add(int64(d / time.Second)) }
func (c *testClock) in(d time.Duration) int64 { return c.Now().Add(d).Unix() }
func (c *testClock) claims() map[string]any {
	return map[string]any{"iss": testIssuer, "aud": testAudience, "exp": c.in(time.Hour), "sub": "ada"}
}

const (
	testIssuer   = "https://auth.example.com/"
	testAudience = "https://api.example.com"
)

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey {
		return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	})
	edKey      = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	hmacSecret = []byte("a shared secret of 32 bytes or so")
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sign returns a JWT with the given header and claims.
func sign(alg jose.SignatureAlgorithm, key any, header map[string]any, claims any) string {
	opts := new(jose.SignerOptions)
	for name, value := range header {
		opts.WithHeader(jose.HeaderKey(name), value)
	}
	payload, ok := claims.(string)
	if !ok {
		payload = string(must(json.Marshal(claims)))
	}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts))
	return must(must(signer.Sign([]byte(payload))).CompactSerialize())
}

// jwk returns the public key as it stands in a JWK Set.
func jwk(key any, kid, alg, use string) string {
	return string(must(json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: alg, Use: use})))
}

func jwks(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// keyServer is a server of keys whose answer a test can change.
type keyServer struct {
	*httptest.Server
	fetches atomic.Int64
	answer  atomic.Pointer[http.HandlerFunc]
}

func newKeyServer(t testing.TB, body string) *keyServer {
	s := new(keyServer)
	s.say(http.StatusOK, body)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) handle(h http.HandlerFunc) { s.answer.Store(&h) }

func (s *keyServer) say(status int, body string) {
	s.handle(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func (s *keyServer) wantFetches(t *testing.T, want int64) {
	t.Helper()
	if got := s.fetches.Load(); got != want {
		t.Errorf("the server was asked %d times, want %d", got, want)
	}
}

// wait returns when no fetch is under way.
func (s *KeySet) wait() {
	s.mu.Lock()
	underWay := s.underWay
	s.mu.Unlock()
	if underWay != nil {
		<-underWay
	}
}

func newKeySet(t testing.TB, url string, clock *testClock) *KeySet {
	s := NewKeySet(url, clock.Now)
	t.Cleanup(s.Close)
	return s
}

func wantKind(t *testing.T, what string, err error, kind Kind) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || errors.Is(err, ErrToken) {
		t.Errorf("%s: got %v, want an error of kind %d", what, err, kind)
	} else if !strings.HasPrefix(err.Error(), "the key set") || err.Error() != CleanText(err.Error()) {
		t.Errorf("%s: the error is %q", what, err)
	}
}

func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	var e *Error
	if !errors.Is(err, ErrToken) || errors.As(err, &e) {
		t.Errorf("%s: got %v, want ErrToken", what, err)
	}
}

func TestKeysAreFetchedOnNeedAndKept(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, jwks(jwk(edKey.Public(), "a", "", "")))
	keys := newKeySet(t, server.URL, clock)
	server.wantFetches(t, 0)

	token := sign(jose.EdDSA, edKey, map[string]any{"kid": "a"}, clock.claims())
	var wg sync.WaitGroup
	for range 50 { // at once: they share one fetch
		wg.Go(func() {
			if _, err := keys.VerifySignature(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	clock.advance(keysLifetime - time.Second)
	if _, err := keys.VerifySignature(t.Context(), token); err != nil {
		t.Error(err)
	}
	server.wantFetches(t, 1)
}

func TestKeysAreReplacedWhenOld(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, jwks(jwk(edKey.Public(), "a", "", "")))
	keys := newKeySet(t, server.URL, clock)
	token := sign(jose.EdDSA, edKey, map[string]any{"kid": "a"}, clock.claims())
	verify := func() error {
		_, err := keys.VerifySignature(t.Context(), token)
		keys.wait()
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	// While the server is down, for however long, the old key is good.
	server.say(http.StatusInternalServerError, "")
	for range 5 {
		clock.advance(keysLifetime)
		if err := verify(); err != nil {
			t.Fatal(err)
		}
	}
	server.wantFetches(t, 6)
	if err := verify(); err != nil { // and it is not asked each time
		t.Fatal(err)
	}
	server.wantFetches(t, 6)
	// An answer with no key in it is a fault as well.
	for _, body := range []string{`{"keys":[]}`, `{}`, `<html>`, ``} {
		server.say(http.StatusOK, body)
		clock.advance(keysInterval)
		if err := verify(); err != nil {
			t.Fatal(err)
		}
	}
	server.wantFetches(t, 10)

	// The key is withdrawn. The first one to see that it is old still takes it.
	server.say(http.StatusOK, jwks(jwk(rsaKey().Public(), "b", "", "")))
	clock.advance(keysInterval)
	_ = verify()
	wantRefused(t, "withdrawn", verify())
	server.wantFetches(t, 11)
}

func TestKeyRotation(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, jwks(jwk(edKey.Public(), "a", "", "")))
	keys := newKeySet(t, server.URL, clock)
	verify := func(token string) error {
		_, err := keys.VerifySignature(t.Context(), token)
		return err
	}
	older := sign(jose.EdDSA, edKey, map[string]any{"kid": "a"}, clock.claims())
	newer := sign(jose.RS256, rsaKey(), map[string]any{"kid": "b"}, clock.claims())
	nameless := sign(jose.ES256, ecKey(), nil, clock.claims())
	if err := verify(older); err != nil {
		t.Fatal(err)
	}
	server.say(http.StatusOK, jwks(jwk(edKey.Public(), "a", "", ""), jwk(rsaKey().Public(), "b", "", "")))
	wantRefused(t, "within the interval", verify(newer))
	server.wantFetches(t, 1)
	clock.advance(keysInterval)
	if err := verify(newer); err != nil {
		t.Error(err)
	}
	if err := verify(older); err != nil {
		t.Error(err)
	}
	server.wantFetches(t, 2)
	// A token that names no key may be signed with a newer one just the same.
	server.say(http.StatusOK, jwks(jwk(ecKey().Public(), "", "", "")))
	clock.advance(keysInterval)
	if err := verify(nameless); err != nil {
		t.Error(err)
	}
	server.wantFetches(t, 3)
	// The clock is set back: the keys can still be fetched.
	server.say(http.StatusOK, jwks(jwk(edKey.Public(), "a", "", "")))
	clock.advance(-24 * time.Hour)
	if err := verify(older); err != nil {
		t.Error(err)
	}
}

// Anyone can send tokens with key ids that nobody knows.
func TestUnknownKeyFlood(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, jwks(jwk(edKey.Public(), "a", "", "")))
	keys := newKeySet(t, server.URL, clock)
	flood := func() {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					token := sign(jose.EdDSA, edKey, map[string]any{"kid": rand.Text()}, clock.claims())
					_, err := keys.VerifySignature(t.Context(), token)
					wantRefused(t, "unknown key", err)
				}
			})
		}
		wg.Wait()
	}
	for second := range int64(30) {
		flood()
		server.wantFetches(t, 1+second/10)
		clock.advance(time.Second)
	}

	// A known key with a wrong signature, or another algorithm, makes nobody ask.
	clock.advance(time.Hour)
	before := server.fetches.Load()
	token := sign(jose.EdDSA, edKey, map[string]any{"kid": "a"}, clock.claims())
	_, err := keys.VerifySignature(t.Context(), token[:strings.LastIndexByte(token, '.')+1]+strings.Repeat("A", 86))
	wantRefused(t, "wrong signature", err)
	_, err = keys.VerifySignature(t.Context(), sign(jose.RS256, rsaKey(), map[string]any{"kid": "a"}, clock.claims()))
	wantRefused(t, "another algorithm", err)
	server.wantFetches(t, before)
}

func TestKeyServerDown(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, "")
	keys := newKeySet(t, server.URL, clock)
	known := sign(jose.EdDSA, edKey, map[string]any{"kid": "a"}, clock.claims())
	unknown := sign(jose.EdDSA, edKey, map[string]any{"kid": "b"}, clock.claims())
	verify := func(token string) error {
		_, err := keys.VerifySignature(t.Context(), token)
		return err
	}

	server.say(http.StatusServiceUnavailable, "")
	for range 100 { // those that come soon after share the failure
		wantKind(t, "down", verify(known), Unavailable)
	}
	server.wantFetches(t, 1)
	server.say(http.StatusOK, jwks(jwk(edKey.Public(), "a", "", "")))
	clock.advance(keysInterval)
	if err := verify(known); err != nil { // it recovers by itself
		t.Fatal(err)
	}

	// Down again: a known key is good; of an unknown one, nothing can be told.
	server.CloseClientConnections()
	server.Close()
	clock.advance(keysInterval)
	wantKind(t, "unknown key", verify(unknown), Unreachable)
	wantKind(t, "unknown key, right after", verify(unknown), Unreachable)
	if err := verify(known); err != nil {
		t.Error(err)
	}
	// What is broken needs no keys to be refused.
	wantRefused(t, "broken", verify("a.b.c"))
}

func TestKeyServerAnswers(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for chunk := []byte(strings.Repeat(" ", 1<<16)); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	tests := map[string]struct {
		handle http.HandlerFunc
		want   Kind
	}{
		"not found":   {http.NotFound, Malformed},
		"too many":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, Unavailable},
		"bad gateway": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, Unavailable},
		"no content":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, Malformed},
		"without end": {endless, Malformed},
		"a gzip bomb": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			zw := gzip.NewWriter(w)
			defer zw.Close()
			for chunk := make([]byte, 1<<16); r.Context().Err() == nil; {
				if _, err := zw.Write(chunk); err != nil {
					return
				}
			}
		}, Malformed},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "{")
		}, Unreachable},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unreachable},
		"endless header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, Unreachable},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			clock := newClock()
			server := newKeyServer(t, "")
			server.handle(test.handle)
			_, err := newKeySet(t, server.URL, clock).VerifySignature(t.Context(), sign(jose.EdDSA, edKey, nil, "{}"))
			wantKind(t, what, err, test.want)
		})
	}
}

func TestKeyServerRedirects(t *testing.T) {
	elsewhere := newKeyServer(t, jwks(jwk(edKey.Public(), "", "", "")))
	server := newKeyServer(t, "")
	server.handle(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect).ServeHTTP)
	_, err := newKeySet(t, server.URL, newClock()).VerifySignature(t.Context(), sign(jose.EdDSA, edKey, nil, "{}"))
	wantKind(t, "redirect", err, Malformed)
	elsewhere.wantFetches(t, 0)
}

func TestKeyServerCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("the request was sent")
	}))
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	_, err := newKeySet(t, server.URL, newClock()).VerifySignature(t.Context(), sign(jose.EdDSA, edKey, nil, "{}"))
	wantKind(t, "a certificate of nobody", err, Unreachable)
}

// One who gives up does not wait longer, and takes nothing from the others.
func TestKeyServerHangs(t *testing.T) {
	clock := newClock()
	server := newKeyServer(t, "")
	asked, goOn := make(chan struct{}), make(chan struct{})
	server.handle(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-goOn
		_, _ = io.WriteString(w, jwks(jwk(edKey.Public(), "", "", "")))
	})
	keys := newKeySet(t, server.URL, clock)
	token := sign(jose.EdDSA, edKey, nil, "{}")

	patient := make(chan error)
	go func() {
		_, err := keys.VerifySignature(context.WithoutCancel(t.Context()), token)
		patient <- err
	}()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := keys.VerifySignature(ctx, token)
	wantKind(t, "gave up", err, TimedOut)
	close(goOn)
	if err := <-patient; err != nil {
		t.Error(err)
	}
	server.wantFetches(t, 1)
}

func TestParseKeys(t *testing.T) {
	good := jwk(edKey.Public(), "good", "", "")
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	private := string(must(json.Marshal(jose.JSONWebKey{Key: otherRSA(), KeyID: "private"})))
	tests := map[string]struct {
		body string
		want int // keys
	}{
		"one": {jwks(good), 1},
		"for signatures": {
			jwks(jwk(rsaKey().Public(), "a", "RS256", "sig"), jwk(ecKey().Public(), "b", "", "sig")), 2,
		},
		"for encryption": {jwks(good, jwk(rsaKey().Public(), "a", "", "enc")), 1},
		"symmetric":      {jwks(good, jwk(hmacSecret, "a", "HS256", "sig"), `{"kty":"oct","k":"AAAA"}`), 1},
		"private":        {jwks(good, private), 1},
		"too small":      {jwks(good, jwk(small.Public(), "a", "", "")), 1},
		"not on curve": {
			jwks(good, `{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",`+
				`"y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`), 1,
		},
		"garbage among": {jwks(`null`, `1`, `"x"`, `[]`, `{}`, `{"kty":"XYZ"}`, `{"kty":"RSA","n":1}`,
			`{"kty":"RSA","n":"","e":""}`, `{"kty":"OKP","crv":"Ed25519","x":"AA"}`, good), 1},
		"Ed25519": {jwks(jwk(edKey.Public(), "a", "Ed25519", "sig")), 1},
		// Kinds that are younger than what reads them here, and what some servers publish beside their keys.
		"ML-DSA among":  {jwks(`{"kty":"AKP","alg":"ML-DSA-65","kid":"a","pub":"AAAA","use":"sig"}`, good), 1},
		"Ed448 among":   {jwks(`{"kty":"OKP","crv":"Ed448","kid":"a","x":"`+strings.Repeat("A", 76)+`"}`, good), 1},
		"X25519 among":  {jwks(`{"kty":"OKP","crv":"X25519","kid":"a","x":"`+strings.Repeat("A", 43)+`"}`, good), 1},
		"ES256K among":  {jwks(`{"kty":"EC","crv":"secp256k1","alg":"ES256K","x":"AA","y":"AA"}`, good), 1},
		"bad x5c among": {jwks(strings.Replace(good, `{`, `{"x5c":["!"],`, 1), good), 1},
		"use is a list": {jwks(strings.Replace(good, `{`, `{"use":["sig"],`, 1), good), 1},
		"too many":      {jwks(strings.Split(strings.Repeat(good+"\n", 150)[:150*(len(good)+1)-1], "\n")...), maxKeys},
		"unknown names": {`{"x":1,"keys":[` + good + `],"y":{}}`, 1},

		"none":         {jwks(), 0},
		"none usable":  {jwks(private), 0},
		"empty":        {``, 0},
		"no object":    {`[` + good + `]`, 0},
		"no array":     {`{"keys":{"0":` + good + `}}`, 0},
		"null":         {`{"keys":null}`, 0},
		"another name": {`{"Keys":[` + good + `]}`, 0},
		"given twice":  {`{"keys":[],"keys":[` + good + `]}`, 0},
		"more behind":  {jwks(good) + `x`, 0},
		"HTML":         {`<!doctype html>`, 0},
		"too long":     {jwks(good) + strings.Repeat(" ", maxAnswer), 0},
		"deep":         {`{"keys":[` + strings.Repeat(`[`, 100_000), 0},
	}
	for what, test := range tests {
		keys, err := parseKeys([]byte(test.body))
		if len(keys) != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%s: %d keys, %v; want %d", what, len(keys), err, test.want)
		}
	}
}

// TestFits: a key verifies signatures of its own algorithms alone, whatever the token names.
func TestFits(t *testing.T) {
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	all := []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.PS256, jose.PS512, jose.ES256, jose.ES384, jose.EdDSA, algEd25519, jose.HS256,
	}
	for what, test := range map[string]struct {
		key  jose.JSONWebKey
		want []jose.SignatureAlgorithm
	}{
		"RSA":               {jose.JSONWebKey{Key: rsaKey().Public()}, []jose.SignatureAlgorithm{"RS256", "PS256"}},
		"RSA for PS256":     {jose.JSONWebKey{Key: rsaKey().Public(), Algorithm: "PS256"}, all[2:3]},
		"P-256":             {jose.JSONWebKey{Key: ecKey().Public()}, all[4:5]},
		"P-384":             {jose.JSONWebKey{Key: p384.Public()}, nil},
		"P-384 named ES256": {jose.JSONWebKey{Key: p384.Public(), Algorithm: "ES256"}, nil},
		"Ed25519":           {jose.JSONWebKey{Key: edKey.Public()}, all[6:8]},
		"a secret":          {jose.JSONWebKey{Key: hmacSecret}, nil},
	} {
		var got []jose.SignatureAlgorithm
		for _, alg := range all {
			if fits(test.key, alg) {
				got = append(got, alg)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: fits %v, want %v", what, got, test.want)
		}
	}
}

// FuzzParseKeys looks for a key set whose keys are no keys to verify with: a private
// or a symmetric one, one that is too small, one that is for encryption.
func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(jwks(jwk(edKey.Public(), "a", "EdDSA", "sig"))))
	f.Add([]byte(jwks(jwk(rsaKey().Public(), "a", "", ""), jwk(ecKey().Public(), "b", "ES256", ""))))
	f.Add([]byte(jwks(jwk(rsaKey().Public(), "a", "RS256", "enc"), jwk(edKey.Public(), "a", "", ""))))
	f.Add([]byte(jwks(`{"kty":"oct","k":"AAAA"}`, jwk(edKey, "private", "", ""))))
	f.Add([]byte(jwks(`{"kty":"RSA","n":"AQ","e":"AQAB","x5c":["AA"],"x5u":"%"}`)))
	f.Add([]byte(jwks(jwk(edKey.Public(), "a", "", "")) + "x"))
	token := must(parseJWT(sign(jose.EdDSA, edKey, nil, "{}")))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := parseKeys(body)
		if (err == nil) != (len(keys) > 0) || len(keys) > maxKeys {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		var fields map[string]json.RawMessage
		var list []json.RawMessage
		if len(keys) > 0 && (json.Unmarshal(body, &fields) != nil || json.Unmarshal(fields["keys"], &list) != nil ||
			len(list) < len(keys)) {
			t.Errorf("%d keys, where others read %d", len(keys), len(list))
		}
		for _, key := range keys {
			good := false
			switch k := key.Key.(type) {
			case *rsa.PublicKey:
				good = k.N.BitLen() >= 2048 && k.E > 1
			case *ecdsa.PublicKey:
				_, err := k.ECDH() // which knows whether it is a point on the curve
				good = err == nil
			case ed25519.PublicKey:
				good = len(k) == ed25519.PublicKeySize
			}
			if !good || key.Use != "" && key.Use != "sig" {
				t.Errorf("%#v was taken", key)
			}
		}
		_, _ = (&keySet{keys: keys}).verify(token)
	})
}
