package aventus

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// IsThirdParty reports whether a client belongs to another company than the tenant, by its id. For such
// clients, Auth0's dialect is strict: there is no OpenID Connect and no logout page, an API has to be granted to
// the client, and the authorize endpoint shows errors itself, and does not send them to the callback
// (https://auth0.com/docs/get-started/applications/third-party-applications/security-controls).
func IsThirdParty(clientID string) bool { return strings.HasPrefix(clientID, "tpc_") }

// thirdPartyParams are the only further authorize parameters that such a client may send. max_age is allowed
// as well, but useless here: it is compared with an ID token, which such a client does not get.
var thirdPartyParams = []string{
	"acr_values", "authorization_details", "connection", "correlation_id", "display", "dpop_jkt", "login_hint",
	"prompt", "resource", "ui_locales",
}

// RefusedParams returns the further authorize parameters for which a third-party client's logins are refused.
func (cfg Config) RefusedParams() []string {
	params := make(map[string]bool)
	for name := range cfg.Params {
		params[name] = true
	}
	if u, err := url.Parse(cfg.AuthorizeURL); err == nil {
		for name := range u.Query() {
			params[name] = true
		}
	}
	maps.DeleteFunc(params, func(name string, _ bool) bool { return slices.Contains(thirdPartyParams, name) })
	return slices.Sorted(maps.Keys(params))
}

// RefusedScopes returns the scopes that a third-party client asks for and is never granted.
func (cfg Config) RefusedScopes() []string {
	return slices.DeleteFunc(slices.Clone(cfg.Scopes), func(scope string) bool {
		return !slices.Contains([]string{"openid", "profile", "email"}, scope)
	})
}
