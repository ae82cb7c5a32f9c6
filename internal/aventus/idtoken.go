package aventus

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// CheckLogin returns an error unless an ID token with this payload is of a login as the
// further authorize parameters ask for it. They pass through the visitor's browser, where
// they can be changed, and the server obeys what it receives. A nil payload means that no
// ID token came. The error is [ErrToken].
func CheckLogin(payload []byte, params map[string]string, now time.Time) error {
	organization, wantsOrganization := params["organization"]
	maxAge, wantsAge := params["max_age"]
	if !wantsOrganization && !wantsAge {
		return nil
	}
	if payload == nil {
		return refuse("none came, and organization and max_age are compared with what it says")
	}
	fields, err := parseObject(payload)
	if err != nil {
		return refuse("its payload %s", err)
	}
	if wantsOrganization {
		// organization is an id or a name. Names are compared without regard to case, and no name begins
		// with org_.
		claim, same := "org_name", sameFolded
		if strings.HasPrefix(organization, "org_") {
			claim, same = "org_id", func(a, b string) bool { return a == b }
		}
		if got, ok := stringField(fields, claim); !ok || !same(got, organization) {
			return refuse("its %s is %q, not %q", claim, CleanText(got), organization)
		}
	}
	if wantsAge {
		// OpenID Connect Core 1.0, section 3.1.2.1
		seconds, err := parseMaxAge(maxAge)
		if err != nil {
			return err
		}
		signedIn, ok := numericDate(fields["auth_time"])
		if !ok {
			return refuse("it has no auth_time, or one that is no number")
		}
		if now.After(signedIn.Add(seconds+clockLeeway)) || now.Add(clockLeeway).Before(signedIn) {
			return refuse("the sign-in at %s is not within max_age", signedIn.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// sameFolded reports whether two texts are the same but for the case of their letters. Unicode folds some into others
// of another length, such as the Kelvin sign into k: to the server, those are different names.
func sameFolded(a, b string) bool {
	return len(a) == len(b) && strings.EqualFold(a, b)
}

// SessionExpiry returns the time at which a session must end according to the payload of its
// ID token (session_expiry, in Auth0's dialect), whatever the tokens' own lifetimes are. It is
// the zero time if the payload has none. The error is [ErrToken].
func SessionExpiry(payload []byte) (time.Time, error) {
	fields, err := parseObject(payload)
	if err != nil {
		return time.Time{}, refuse("its payload %s", err)
	}
	return sessionExpiry(fields)
}

func sessionExpiry(fields map[string]json.RawMessage) (time.Time, error) {
	raw, ok := fields["session_expiry"]
	if !ok || isNull(raw) {
		return time.Time{}, nil
	}
	expires, ok := numericDate(raw)
	if !ok {
		return time.Time{}, refuse("its session_expiry is no number")
	}
	return expires, nil
}

// RenewedExpiry is [SessionExpiry] for an ID token that came with a renewed access token.
// Such a token must have the same iss and sub as that of the login, and be for the client
// (OpenID Connect Core 1.0, section 12.2). An unknown subject is not compared. The
// signature is not verified: the token came from the token endpoint, over TLS (section
// 3.1.3.7, rule 6), and its only effect is to shorten a session.
func RenewedExpiry(token, issuer, clientID, subject string) (time.Time, error) {
	if !isCompact(token) {
		return time.Time{}, refuse("it is not a signed JWT")
	}
	fields, err := unverified(token)
	if err != nil {
		return time.Time{}, err
	}
	if err := checkParties(fields, issuer, clientID); err != nil {
		return time.Time{}, err
	}
	if sub, _ := stringField(fields, "sub"); subject != "" && sub != subject {
		return time.Time{}, refuse("its sub is not that of the login")
	}
	return sessionExpiry(fields)
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
	// An access token is not an ID token, though its aud may name the client
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
		SkipIssuerCheck:      true, // it compares the final slash; checkClaims ignores it
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
	// Rules 4 and 5: a token for several audiences has to name the one it was issued to.
	raw, named := fields["azp"]
	if named = named && !isNull(raw); !named && len(audiences(fields["aud"])) > 1 {
		return nil, refuse("it is for several audiences, and has no azp")
	}
	if azp, _ := stringField(fields, "azp"); named && azp != v.clientID {
		return nil, refuse("its azp is not this client")
	}
	return keys.payload, nil
}

// recordedKeys keeps the error of the key set, of which go-oidc passes on only the
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
