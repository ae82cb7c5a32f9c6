package aventustest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A third-party client belongs to another company than the tenant, and is known by
// its id. It is under rules of its own ("strict" in Auth0's documentation, as of
// 2026):
//
//   - /authorize takes a closed list of parameters.
//   - What /authorize refuses, and what a person or a rule denies, is shown here.
//     Nothing but a code goes to the callback.
//   - There is no OpenID Connect: no ID token, and none of its scopes is granted.
//   - An API has to be granted to the client before it gets a token for it.
//   - A refresh token that is not used ends.
//   - There is no logout page, and no logout token is sent.
//
// https://auth0.com/docs/get-started/applications/third-party-applications/security-controls
const thirdPartyPrefix = "tpc_"

// thirdPartyIdle is how long a refresh token of such a client works that is not used.
const thirdPartyIdle = 15 * 24 * time.Hour

// thirdPartyParams are the only parameters that /authorize takes for such a client.
var thirdPartyParams = []string{
	"acr_values", "audience", "authorization_details", "client_id",
	"code_challenge", "code_challenge_method", "connection", "correlation_id",
	"display", "dpop_jkt", "login_hint", "max_age", "nonce", "prompt",
	"redirect_uri", "resource", "response_type", "scope", "state", "ui_locales",
}

func isThirdParty(clientID string) bool { return strings.HasPrefix(clientID, thirdPartyPrefix) }

// mayAsk reports whether a client may get a token for an API; nil means that it may.
func (c Client) mayAsk(audience string) *tokenError {
	if !isThirdParty(c.ID) || audience == "" || slices.Contains(c.Audiences, audience) {
		return nil
	}
	return &tokenError{http.StatusForbidden, "unauthorized_client",
		fmt.Sprintf("Client %q is not authorized to access resource server %q.", c.ID, audience)}
}
