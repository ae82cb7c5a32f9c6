package aventus

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	// maxToken bounds the tokens that are looked at. A header line that is longer
	// gets through hardly any server.
	maxToken = 64 << 10

	// How far the authorization server's clock may be from this one.
	clockLeeway = 60 * time.Second
)

// ErrToken is wrapped by the errors of tokens that are not good. Their text says
// why, for the operator's log; it is clean, and does not hold the token.
var ErrToken = errors.New("the token is refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrToken, fmt.Sprintf(format, args...))
}

// TokenVerifier checks access tokens that are JWTs (RFC 9068; Auth0's are older than
// it, and differ in their typ). It is safe for concurrent use.
type TokenVerifier struct {
	issuer, audience string
	keys             *KeySet
	now              func() time.Time
}

// NewTokenVerifier returns a verifier of the tokens that issuer made for audience, by
// the clock now. Neither may be empty.
func NewTokenVerifier(issuer, audience string, keys *KeySet, now func() time.Time) *TokenVerifier {
	return &TokenVerifier{issuer: issuer, audience: audience, keys: keys, now: now}
}

// Verify returns the payload of a good token, and when it expires. The error is
// [ErrToken], or wraps an [*Error] when it cannot be told for want of keys.
func (v *TokenVerifier) Verify(ctx context.Context, token string) (payload []byte, expires time.Time, err error) {
	jws, err := parseJWT(token)
	if err != nil {
		return nil, time.Time{}, err
	}
	// "at+jwt" is RFC 9068's, section 2.1; "JWT" is everyone else's.
	if err := checkType(jws, "jwt", "at+jwt"); err != nil {
		return nil, time.Time{}, err
	}
	if payload, err = v.keys.verify(ctx, jws); err != nil {
		return nil, time.Time{}, err
	}
	if _, expires, err = checkClaims(payload, v.issuer, v.audience, v.now()); err != nil {
		return nil, time.Time{}, err
	}
	return payload, expires, nil
}

// IDVerifier checks ID tokens (OpenID Connect Core 1.0, section 3.1.3.7). It is
// safe for concurrent use.
type IDVerifier struct {
	issuer, clientID string
	keys             *KeySet
	now              func() time.Time
}

// NewIDVerifier returns a verifier of the ID tokens that issuer made for the
// client, by the clock now. Neither may be empty.
func NewIDVerifier(issuer, clientID string, keys *KeySet, now func() time.Time) *IDVerifier {
	return &IDVerifier{issuer: issuer, clientID: clientID, keys: keys, now: now}
}

// Verify returns the payload of a good ID token that answers the authorize request
// with the given nonce. The errors are those of [TokenVerifier.Verify].
func (v *IDVerifier) Verify(ctx context.Context, token, nonce string) ([]byte, error) {
	jws, err := parseJWT(token)
	if err != nil {
		return nil, err
	}
	// An access token is none, though it may well name the client in its aud
	// (RFC 8725, section 3.11).
	if err := checkType(jws, "jwt"); err != nil {
		return nil, err
	}
	var algs []string
	for _, alg := range algorithms {
		algs = append(algs, string(alg))
	}
	keys := &recordedKeys{KeySet: v.keys}
	_, err = oidc.NewVerifier(v.issuer, keys, &oidc.Config{
		ClientID:             v.clientID,
		SupportedSigningAlgs: algs,
		SkipIssuerCheck:      true, // it minds the final slash; checkClaims does not
		Now:                  func() time.Time { return v.now().Add(-clockLeeway) },
	}).Verify(ctx, token)
	switch {
	case keys.err != nil:
		return nil, keys.err
	case err != nil:
		return nil, refuse("%s", CleanText(err.Error()))
	}

	fields, _, err := checkClaims(keys.payload, v.issuer, v.clientID, v.now())
	if err != nil {
		return nil, err
	}
	got, _ := stringField(fields, "nonce")
	if nonce == "" || subtle.ConstantTimeCompare([]byte(got), []byte(nonce)) != 1 {
		return nil, refuse("its nonce is not the login's")
	}
	// Rules 4 and 5: who is one of several needs to be named as the one it is for.
	raw, named := fields["azp"]
	if named = named && !isNull(raw); !named && len(audiences(fields["aud"])) > 1 {
		return nil, refuse("it is for several audiences, and has no azp")
	}
	if azp, _ := stringField(fields, "azp"); named && azp != v.clientID {
		return nil, refuse("its azp is not this client")
	}
	return keys.payload, nil
}

// recordedKeys keeps what the key set said, of which go-oidc passes on only the
// text.
type recordedKeys struct {
	*KeySet
	payload []byte
	err     error
}

func (k *recordedKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	k.payload, k.err = k.KeySet.VerifySignature(ctx, token)
	return k.payload, k.err
}

// parseJWT takes a signed JWT apart. Its signature is not verified here.
func parseJWT(token string) (*jose.JSONWebSignature, error) {
	if len(token) > maxToken {
		return nil, refuse("it is longer than 64 KiB")
	}
	if !isCompact(token) {
		return nil, refuse("it is not a signed JWT")
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	var other *jose.ErrUnexpectedSignatureAlgorithm
	if errors.As(err, &other) {
		return nil, refuse("its algorithm is %q", CleanText(string(other.Got)))
	}
	if err != nil {
		return nil, refuse("its header cannot be read") // go-jose's error repeats it
	}
	// What must be understood, and is not, makes the token invalid (RFC 7515,
	// section 4.1.11). An unencoded payload (b64, RFC 7797) must be in that list,
	// but go-jose does not insist.
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, ok := jws.Signatures[0].Protected.ExtraHeaders[name]; ok {
			return nil, refuse("its header has %s, which is not supported", name)
		}
	}
	return jws, nil
}

// isCompact reports whether token is a JWS in its compact form (RFC 7515, section
// 7.1), in the one spelling that it has. Decoders take others as well: with bits
// after the end, or with line breaks.
func isCompact(token string) bool {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") {
		return false
	}
	for _, part := range parts {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return false
		}
	}
	return true
}

// checkType checks the header's typ, which keeps tokens of one kind from being
// taken for another (RFC 8725, section 3.11). "application/" in front of it, and
// its case, mean nothing (RFC 7515, section 4.1.9).
func checkType(jws *jose.JSONWebSignature, types ...string) error {
	value, ok := jws.Signatures[0].Protected.ExtraHeaders["typ"]
	if !ok {
		return nil
	}
	text, _ := value.(string)
	typ := strings.TrimPrefix(strings.ToLower(text), "application/")
	if !slices.Contains(types, typ) {
		return refuse("its typ is %q", CleanText(text))
	}
	return nil
}

// checkClaims checks what a payload says about the token itself (RFC 7519, section
// 4.1), and returns the claims and when they expire. A name that is there twice
// is refused (section 4).
func checkClaims(payload []byte, issuer, audience string, now time.Time) (map[string]json.RawMessage, time.Time, error) {
	fail := func(err error) (map[string]json.RawMessage, time.Time, error) { return nil, time.Time{}, err }
	fields, err := parseObject(payload)
	if err != nil {
		return fail(refuse("its payload %s", err))
	}
	if iss, ok := stringField(fields, "iss"); !ok || iss == "" || !SameIssuer(iss, issuer) {
		return fail(refuse("its iss is %q, not the issuer", CleanText(iss)))
	}
	if audience == "" || !slices.Contains(audiences(fields["aud"]), audience) {
		return fail(refuse("its aud is %s, not %q", CleanText(string(fields["aud"])), audience))
	}

	expires, ok := numericDate(fields["exp"])
	if !ok {
		return fail(refuse("it has no exp, or one that is no number"))
	}
	if !now.Before(expires.Add(clockLeeway)) {
		return fail(refuse("it expired at %s", expires.UTC().Format(time.RFC3339)))
	}
	for _, name := range []string{"nbf", "iat"} {
		raw, there := fields[name]
		if !there || isNull(raw) {
			continue
		}
		from, ok := numericDate(raw)
		if !ok {
			return fail(refuse("its %s is no number", name))
		}
		if now.Add(clockLeeway).Before(from) {
			return fail(refuse("it is not valid before its %s, %s", name, from.UTC().Format(time.RFC3339)))
		}
	}
	return fields, expires, nil
}

// audiences returns what aud holds: a string, or an array of strings (RFC 7519,
// section 4.1.3). What is neither holds nothing.
func audiences(aud json.RawMessage) []string {
	var one string
	if len(aud) == 0 || isNull(aud) {
		return nil
	}
	if json.Unmarshal(aud, &one) == nil {
		return []string{one}
	}
	var list []string
	if json.Unmarshal(aud, &list) != nil {
		return nil
	}
	return list
}

// numericDate reads seconds since 1970 (RFC 7519, section 2). A fraction is cut,
// and what lies beyond the year 9999, at either end, is taken for its last second.
func numericDate(raw json.RawMessage) (time.Time, bool) {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return time.Time{}, false
	}
	const last = 253402300799
	// Past its range, ParseFloat returns an infinity: that is far enough. JSON has
	// numbers only that it can read.
	seconds, _ := strconv.ParseFloat(string(raw), 64)
	return time.Unix(int64(min(max(seconds, -last), last)), 0), true
}
