package aventus

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// maxToken limits the length of tokens. Hardly any server accepts a longer header line.
	maxToken = 64 << 10

	// The allowed difference between the authorization server's clock and this one.
	clockLeeway = 60 * time.Second
)

// ErrToken is wrapped by the errors for refused tokens. Their text says why, for the
// operator's log; it is cleaned, and does not hold the token.
var ErrToken = errors.New("the token is refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrToken, fmt.Sprintf(format, args...))
}

// TokenVerifier checks access tokens that are JWTs (RFC 9068; Auth0's format is older,
// and has another typ). It is safe for concurrent use.
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

// Verify returns the payload of a valid token, and when it expires. The error is [ErrToken],
// or wraps an [*Error] if the keys could not be fetched. It is [ErrUnknownKey], which is an
// ErrToken, if a newer key set may hold the key.
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

// CheckParties returns an error unless the iss and aud of an access token say that issuer
// made it for audience. It verifies no signature: it is for tokens that came from the token
// endpoint, over TLS. The error is [ErrToken].
func CheckParties(token, issuer, audience string) error {
	if !isCompact(token) {
		return refuse("it is not a JWT, so it cannot be told whether it is for %q; for a server with opaque "+
			"tokens, leave audience out", audience)
	}
	fields, err := unverified(token)
	if err != nil {
		return err
	}
	return checkParties(fields, issuer, audience)
}

// unverified returns the fields in the payload of a compact JWS, without verifying its signature.
func unverified(token string) (map[string]json.RawMessage, error) {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return nil, refuse("its payload is not base64url") // not reached: isCompact has decoded it
	}
	fields, err := parseObject(payload)
	if err != nil {
		return nil, refuse("its payload %s", err)
	}
	return fields, nil
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
	// A critical header that is not supported makes the token invalid (RFC 7515, section
	// 4.1.11). An unencoded payload (b64, RFC 7797) must be listed as critical, but go-jose
	// does not insist.
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, ok := jws.Signatures[0].Protected.ExtraHeaders[name]; ok {
			return nil, refuse("its header has %s, which is not supported", name)
		}
	}
	return jws, nil
}

// isCompact reports whether token is a JWS in its compact form (RFC 7515, section
// 7.1), in its only valid spelling. Decoders accept others as well: with bits after
// the end, or with line breaks.
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

// checkClaims checks the claims about the token itself (RFC 7519, section 4.1), and
// returns all claims and when they expire. A duplicate name is refused (section 4).
func checkClaims(payload []byte, issuer, audience string, now time.Time) (map[string]json.RawMessage,
	time.Time, error) {
	fail := func(err error) (map[string]json.RawMessage, time.Time, error) { return nil, time.Time{}, err }
	fields, err := parseObject(payload)
	if err != nil {
		return fail(refuse("its payload %s", err))
	}
	if err := checkParties(fields, issuer, audience); err != nil {
		return fail(err)
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

// checkParties checks that issuer made a token, and for audience.
func checkParties(fields map[string]json.RawMessage, issuer, audience string) error {
	if iss, ok := stringField(fields, "iss"); !ok || iss == "" || !SameIssuer(iss, issuer) {
		return refuse("its iss is %q, not the issuer", CleanText(iss))
	}
	if audience == "" || !slices.Contains(audiences(fields["aud"]), audience) {
		return refuse("its aud is %s, not %q", CleanText(string(fields["aud"])), audience)
	}
	return nil
}

// audiences returns the audiences in aud: a string, or an array of strings (RFC 7519,
// section 4.1.3). Any other value names none.
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

// numericDate reads seconds since 1970 (RFC 7519, section 2). A fraction is cut off, and a
// time beyond the year 9999, in either direction, becomes the last second of that range.
func numericDate(raw json.RawMessage) (time.Time, bool) {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return time.Time{}, false
	}
	const last = 253402300799
	// Out of range, ParseFloat returns an infinity, which the limits below cut. It can
	// read all numbers of JSON.
	seconds, _ := strconv.ParseFloat(string(raw), 64)
	return time.Unix(int64(min(max(seconds, -last), last)), 0), true
}
