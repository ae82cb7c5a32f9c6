package claims

import (
	"encoding/json"
	"errors"
	"fmt"
)

// aboutIDToken are the claims about an ID token itself, and not about the person
// (OpenID Connect Core 1.0, sections 2 and 3.3.2.11).
var aboutIDToken = []string{"iss", "aud", "exp", "iat", "nbf", "jti", "azp", "nonce", "at_hash", "c_hash"}

// Further returns, as JSON, the claims about a person that an ID token's payload has and that the
// access token does not [Claims.Decide]: only these need to be kept. It is an error if the two tokens name
// two people. Which session they came of (sid) is always kept: if they name two, the ID token's counts
// (OpenID Connect Back-Channel Logout 1.0, section 2.4), and a renewed access token may name none.
func Further(payload []byte, accessToken string) ([]byte, error) {
	id, err := Parse(payload)
	if err != nil {
		return nil, err
	}
	access := Of(accessToken)
	if a, b := id.Subject(), access.Subject(); a != "" && b != "" && a != b {
		return nil, errors.New("its sub is not the access token's")
	}
	further := make(map[string]any)
	for name, value := range id.top {
		if value != nil && (name == "sid" || !access.Decide(name, id)) {
			further[name] = value
		}
	}
	for _, name := range aboutIDToken {
		delete(further, name)
	}
	if len(further) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(further)
	if err != nil {
		return nil, fmt.Errorf("keeping the ID token's claims: %w", err)
	}
	return data, nil
}
