package aventus

import (
	"context"
	"slices"
	"time"
)

const (
	// logoutEvent is the member of events that says what the token is for (OpenID
	// Connect Back-Channel Logout 1.0, section 2.4).
	logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

	// MaxLogoutAge limits the age of a logout token, whatever its exp is, and thereby how
	// long its id has to be remembered. Servers send the token at once.
	MaxLogoutAge = 10 * time.Minute
)

// Logout is the content of a valid logout token.
type Logout struct {
	ID        string // the token's own id (jti), which no other token has
	SessionID string // the server's session that has ended (sid); empty: all of Subject's sessions
	Subject   string // the person; may be empty if SessionID is not
	Issued    time.Time
}

// LogoutVerifier checks logout tokens (OpenID Connect Back-Channel Logout 1.0, section
// 2.6). It is safe for concurrent use. The caller has to refuse a token that came before.
type LogoutVerifier struct {
	issuer, clientID string
	keys             *KeySet
	now              func() time.Time
}

// NewLogoutVerifier returns a verifier of the logout tokens that issuer made for the
// client, by the clock now. Neither may be empty.
func NewLogoutVerifier(issuer, clientID string, keys *KeySet, now func() time.Time) *LogoutVerifier {
	return &LogoutVerifier{issuer: issuer, clientID: clientID, keys: keys, now: now}
}

// Parties are the issuer and the audience of a token, as the token itself states them.
type Parties struct {
	issuer   string
	audience []string
}

// PartiesOf returns the parties of a token, or none if it cannot be read. It verifies no signature.
func PartiesOf(token string) (p Parties) {
	if len(token) > maxToken || !isCompact(token) {
		return p
	}
	fields, err := unverified(token)
	if err != nil {
		return p
	}
	p.issuer, _ = stringField(fields, "iss")
	p.audience = audiences(fields["aud"])
	return p
}

// IsFor reports whether a token with these parties may be valid for the verifier's client.
func (v *LogoutVerifier) IsFor(p Parties) bool {
	return slices.Contains(p.audience, v.clientID) && SameIssuer(p.issuer, v.issuer)
}

// Verify returns the content of a valid logout token. The errors are those of
// [TokenVerifier.Verify]. A token that is signed with a cached key is verified even if ctx is done.
func (v *LogoutVerifier) Verify(ctx context.Context, token string) (Logout, error) {
	jws, err := parseJWT(token)
	if err != nil {
		return Logout{}, err
	}
	// "logout+jwt" is the specification's, which recommends it alone; Auth0 writes "JWT".
	if _, ok := jws.Signatures[0].Protected.ExtraHeaders["typ"]; !ok {
		return Logout{}, refuse("it has no typ")
	}
	if err := checkType(jws, "jwt", "logout+jwt"); err != nil {
		return Logout{}, err
	}
	payload, err := v.keys.verify(ctx, jws)
	if err != nil {
		return Logout{}, err
	}
	return v.judge(payload)
}

// judge reads the payload of a token whose signature is good.
func (v *LogoutVerifier) judge(payload []byte) (Logout, error) {
	fields, _, err := checkClaims(payload, v.issuer, v.clientID, v.now())
	if err != nil {
		return Logout{}, err
	}
	issued, ok := numericDate(fields["iat"]) // checkClaims refuses a future time
	if !ok {
		return Logout{}, refuse("it has no iat")
	}
	if v.now().After(issued.Add(MaxLogoutAge)) {
		return Logout{}, refuse("it was issued at %s, too long ago", issued.UTC().Format(time.RFC3339))
	}
	// These two checks keep ID tokens and logout tokens from being taken for each other.
	events, err := parseObject(fields["events"])
	if err != nil {
		return Logout{}, refuse("its events %s", err)
	}
	if _, err := parseObject(events[logoutEvent]); err != nil {
		return Logout{}, refuse("its events do not say that it is a logout token")
	}
	if _, ok := fields["nonce"]; ok {
		return Logout{}, refuse("it has a nonce, as ID tokens do")
	}

	said := Logout{Issued: issued}
	for _, claim := range []struct {
		name string
		to   *string
	}{{"jti", &said.ID}, {"sid", &said.SessionID}, {"sub", &said.Subject}} {
		if *claim.to, ok = optionalField(fields, claim.name); !ok {
			return Logout{}, refuse("its %s is no string", claim.name)
		}
	}
	switch {
	case said.ID == "":
		return Logout{}, refuse("it has no jti")
	case said.SessionID == "" && said.Subject == "":
		return Logout{}, refuse("it has neither sid nor sub")
	}
	return said, nil
}
