package aventus

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeys     = 100 // authorization servers publish two or three
	keysTimeout = 10 * time.Second

	// Keys are fetched again after some hours, so that a key that the server has
	// withdrawn is not accepted for ever.
	keysLifetime = 12 * time.Hour

	// The least time between two fetches. Anyone can send tokens with unknown key ids,
	// each of which must not cause a request to the server.
	keysInterval = 10 * time.Second

	// The least size of an RSA key (RFC 7518, section 3.3).
	minRSABits = 2048
)

// algorithms are the accepted signature algorithms. All of them need a private key: with a
// shared-secret algorithm (HS256) or "none" among them, anyone could sign a token with a key
// from the public key set (RFC 8725, sections 2.1 and 3.1).
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA, algEd25519, jose.PS256}

// algEd25519 is EdDSA with the one curve that is supported here, by its newer name
// (RFC 9864, section 2.2). go-jose does not know it.
const algEd25519 jose.SignatureAlgorithm = "Ed25519"

// KeySet is the authorization server's set of public keys (RFC 7517), fetched when
// it is first needed, and kept. It is safe for concurrent use.
type KeySet struct {
	url  string
	now  func() time.Time
	http *http.Client

	mu       sync.Mutex
	set      *keySet       // the newest; nil before the first
	tried    time.Time     // end of the last fetch
	err      error         // error of the last fetch
	underWay chan struct{} // closed when the fetch under way has ended; nil without one
}

// keySet is never changed once it is in use.
type keySet struct {
	keys    []jose.JSONWebKey
	fetched time.Time
}

// NewKeySet returns the key set at url, by the clock now. It fetches nothing.
func NewKeySet(url string, now func() time.Time) *KeySet {
	return &KeySet{url: url, now: now, http: &http.Client{
		Transport: newTransport(),
		// All trust rests on the keys: they come from the URL in the config, or not at all.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes idle connections.
func (s *KeySet) Close() { s.http.CloseIdleConnections() }

// VerifySignature implements [oidc.KeySet]. It returns the payload of a token that
// is signed with one of the keys, and does not check the payload. The error is
// [ErrToken], or wraps an [*Error] if the keys could not be fetched.
func (s *KeySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := parseJWT(token)
	if err != nil {
		return nil, err
	}
	return s.verify(ctx, jws)
}

func (s *KeySet) verify(ctx context.Context, jws *jose.JSONWebSignature) ([]byte, error) {
	set, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	payload, err := set.verify(jws)
	if !errors.Is(err, ErrUnknownKey) {
		return payload, err
	}
	// The server may have rotated its keys since.
	newer, fetchErr := s.newer(ctx)
	if fetchErr != nil {
		return nil, fetchErr
	}
	if newer == set {
		return nil, err
	}
	return newer.verify(jws)
}

// current returns the keys, from memory if there are any. Old ones are replaced in the
// background, and stay in use until that succeeds: an outage of the server removes no key.
func (s *KeySet) current(ctx context.Context) (*keySet, error) {
	s.mu.Lock()
	set := s.set
	if set != nil && s.isOver(set.fetched, keysLifetime) {
		s.startFetch()
	}
	s.mu.Unlock()
	if set != nil {
		return set, nil
	}
	return s.newer(ctx)
}

// Version returns a value that identifies the current keys: it differs after each fetch of other keys, and
// is nil before the first. Tokens that were verified with other keys have to be verified again. As current
// does, it has old keys replaced in the background.
func (s *KeySet) Version() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		return nil
	}
	if s.isOver(s.set.fetched, keysLifetime) {
		s.startFetch()
	}
	return s.set
}

// newer returns the newest keys that may be had now: those of a fetch, which concurrent
// callers share, or of the last one if that was recent.
func (s *KeySet) newer(ctx context.Context) (*keySet, error) {
	s.mu.Lock()
	s.startFetch()
	underWay := s.underWay
	s.mu.Unlock()

	if underWay != nil {
		select {
		case <-underWay:
		case <-ctx.Done():
			return nil, &Error{Kind: TimedOut, of: keySetURL, Err: errors.New("no answer in time")}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	return s.set, nil
}

// startFetch starts a fetch of the keys unless one is under way, or was recent. It does not
// wait for it, and the fetch does not use the context of a caller: one that gives up does not
// end it for the others. The mutex must be held.
func (s *KeySet) startFetch() {
	if s.underWay != nil || !s.isOver(s.tried, keysInterval) {
		return
	}
	done := make(chan struct{})
	s.underWay = done
	go func() {
		keys, err := s.fetch()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tried, s.err, s.underWay = s.now(), nil, nil
		if err != nil {
			err.of = keySetURL
			s.err = err
		} else {
			s.set = &keySet{keys: keys, fetched: s.tried}
		}
		close(done)
	}()
}

// isOver reports whether d has passed since t, or whether t is in the future: a clock that
// was set back must not stop fetches until it has caught up.
func (s *KeySet) isOver(t time.Time, d time.Duration) bool {
	age := s.now().Sub(t)
	return age < 0 || age >= d
}

// fetch asks the server for its keys, once.
func (s *KeySet) fetch() ([]jose.JSONWebKey, *Error) {
	ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, asError(ctx, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, asError(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		e := &Error{Kind: Malformed, Status: resp.StatusCode}
		if e.Status == http.StatusTooManyRequests || e.Status >= 500 {
			e.Kind = Unavailable
		}
		return nil, e
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, asError(ctx, err)
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, &Error{Kind: Malformed, Status: resp.StatusCode, Err: err}
	}
	return keys, nil
}

// parseKeys returns those keys of a JWK Set that tokens may be signed with. Others are
// left out, as are unreadable ones (RFC 7517, section 5). A set without a usable key is an
// error of the server, and must not replace a good one.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	fields, err := parseBody(body)
	if err != nil {
		return nil, fmt.Errorf("the answer %w", err)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(fields["keys"], &raw); err != nil {
		return nil, errors.New("the answer is not a JWK Set")
	}
	var keys []jose.JSONWebKey
	for _, text := range raw {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(text); err == nil && isUsable(key) && len(keys) < maxKeys {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key that a token may be signed with")
	}
	return keys, nil
}

// isUsable reports whether tokens may be signed with the key: a public one, and
// neither for encryption nor symmetric.
func isUsable(key jose.JSONWebKey) bool {
	if !key.IsPublic() || !key.Valid() || key.Use != "" && key.Use != "sig" {
		return false
	}
	rsaKey, ok := key.Key.(*rsa.PublicKey)
	return !ok || rsaKey.N.BitLen() >= minRSABits
}

// fits reports whether a signature of algorithm alg can be the key's. The key decides
// which algorithms those are, never the token (RFC 8725, section 3.1).
func fits(key jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if named := jose.SignatureAlgorithm(key.Algorithm); named != "" && nameOf(named) != nameOf(alg) {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return alg == jose.RS256 || alg == jose.PS256
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && k.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return nameOf(alg) == algEd25519
	}
	return false
}

// nameOf returns the name by which algorithms are compared: one of them has two.
func nameOf(alg jose.SignatureAlgorithm) jose.SignatureAlgorithm {
	if alg == jose.EdDSA {
		return algEd25519
	}
	return alg
}

// verifierOf returns what go-jose verifies a signature of a key with.
func verifierOf(key jose.JSONWebKey) any {
	if k, ok := key.Key.(ed25519.PublicKey); ok {
		return edVerifier(k)
	}
	return key.Key
}

// edVerifier verifies signatures of an Ed25519 key under both names of the algorithm.
type edVerifier ed25519.PublicKey

// VerifyPayload implements [jose.OpaqueVerifier].
func (k edVerifier) VerifyPayload(payload, signature []byte, alg jose.SignatureAlgorithm) error {
	if nameOf(alg) != algEd25519 || !ed25519.Verify(ed25519.PublicKey(k), payload, signature) {
		return errors.New("the signature is wrong")
	}
	return nil
}

// verify returns the payload of a token that is signed with one of the keys: the one that
// the token names, or any that fits if it names none.
func (s *keySet) verify(jws *jose.JSONWebSignature) ([]byte, error) {
	// A key that the header holds or points to (jwk, jku, x5c, x5u) is the sender's,
	// and is ignored.
	header := jws.Signatures[0].Protected
	known := false
	for _, key := range s.keys {
		if header.KeyID != "" && header.KeyID != key.KeyID {
			continue
		}
		known = header.KeyID != ""
		if !fits(key, jose.SignatureAlgorithm(header.Algorithm)) {
			continue
		}
		if payload, err := jws.Verify(verifierOf(key)); err == nil {
			return payload, nil
		}
	}
	if known {
		return nil, refuse("its signature is wrong")
	}
	return nil, ErrUnknownKey
}

// ErrUnknownKey says that a token is not signed with one of the known keys. A newer key may have signed
// it: the key set is not fetched for each token, and may be older than the token. It wraps [ErrToken].
var ErrUnknownKey = refuse("it is not signed with a key of the key set")

// Interface guards
var (
	_ oidc.KeySet         = (*KeySet)(nil)
	_ jose.OpaqueVerifier = edVerifier(nil)
)
