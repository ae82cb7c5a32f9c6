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

	// Keys are fetched anew after some hours, so that a key which the server has
	// withdrawn does not count for ever.
	keysLifetime = 12 * time.Hour

	// How often the server is asked at most. Anyone can make up a token with a key
	// id that is not known; it must not become a request to the server each time.
	keysInterval = 10 * time.Second

	// The least that an RSA key may have (RFC 7518, section 3.3).
	minRSABits = 2048
)

// algorithms are those that a token may be signed with. All of them need a
// private key: were one with a shared secret (HS256) or none at all among them, a
// token could be signed with what everyone can read in the key set (RFC 8725,
// sections 2.1 and 3.1).
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
	set      *keySet       // the newest that came; nil before the first
	tried    time.Time     // when the last fetch ended
	err      error         // why the last fetch failed
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
		// Keys are what everything rests on: they come from the URL in the config,
		// or not at all.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of idle connections.
func (s *KeySet) Close() { s.http.CloseIdleConnections() }

// VerifySignature implements [oidc.KeySet]. It returns the payload of a token that
// is signed with one of the keys, and checks nothing that the payload says. The
// error is [ErrToken], or wraps an [*Error] when it cannot be told for want of keys.
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
	// The server may have turned its keys since.
	newer, fetchErr := s.newer(ctx)
	if fetchErr != nil {
		return nil, fetchErr
	}
	if newer == set {
		return nil, err
	}
	return newer.verify(jws)
}

// current returns the keys, from memory where it can. Old ones are replaced in the
// background, and are good until that succeeds: an outage of the server takes none
// of them away.
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

// Version returns what stands for the current keys: another value whenever others have come, and nil
// before the first. What was verified with other keys is to be verified again. As current does, it has
// old keys replaced in the background.
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

// newer returns the newest keys that may be had now: those of a fetch, which all
// share who come while it is under way, or of the last one when that was lately.
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

// startFetch fetches the keys unless that is under way, or was lately. It does not
// wait, and belongs to none of the callers: one that gives up does not end it for the others.
// The mutex must be held.
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

// isOver reports whether d has gone by since t. A clock that was set back must not
// keep the keys from being fetched until it has caught up.
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

// parseKeys returns the keys of a JWK Set that tokens may be signed with. Others
// are left out, as is what cannot be read (RFC 7517, section 5); a set in which
// nothing is left is a fault of the server, which must not replace a good one.
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

// fits reports whether a signature of algorithm alg can be the key's. The key says
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

// verify returns the payload of a token that is signed with one of the keys: the
// one that it names, or any that fits when it names none.
func (s *keySet) verify(jws *jose.JSONWebSignature) ([]byte, error) {
	// Whatever key the header brings along or points to (jwk, jku, x5c, x5u) is the
	// sender's, and is not looked at.
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

// ErrUnknownKey says that the keys that are known did not sign a token, though one that is newer may
// have: the key set is not asked for at any time, and may lag behind the tokens. It wraps [ErrToken].
var ErrUnknownKey = refuse("it is not signed with a key of the key set")

// Interface guards
var (
	_ oidc.KeySet         = (*KeySet)(nil)
	_ jose.OpaqueVerifier = edVerifier(nil)
)
