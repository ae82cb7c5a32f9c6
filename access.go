package aventusauth

import (
	"fmt"
	"slices"

	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// accessRules are the scopes and claims that an identity needs for the protected requests.
type accessRules struct {
	scopes []string
	claims []claimRule
}

// claimRule is met as [claims.Holds] says.
type claimRule struct {
	claim  string // a path
	values []string
}

// lacks returns the refusal of an identity that does not meet a rule, or nil if it meets all of them.
func (a *accessRules) lacks(id identity) *refusal {
	if len(a.scopes) > 0 {
		granted := id.accessClaims().Grants(id.scope)
		for _, scope := range a.scopes {
			if slices.Contains(granted, scope) {
				continue
			}
			refused := &refusal{failure: errScope, user: id.grant, isClient: id.session == nil}
			refused.description = fmt.Sprintf("You are signed in, but lack the scope %s.", scope)
			return refused
		}
	}
	for _, rule := range a.claims {
		if !claims.Holds(id.claim, rule.claim, rule.values) {
			refused := &refusal{failure: errClaim, user: id.grant}
			refused.description = fmt.Sprintf(
				"You are signed in, but your account lacks what is needed here (%s).", rule.missing(id))
			return refused
		}
	}
	return nil
}

// missing returns the claim that keeps an identity from meeting the rule: an address may be the right one,
// and only not be verified.
func (rule claimRule) missing(id identity) string {
	const verified = "email_verified"
	ifVerified := func(path string) (any, bool) {
		if path == verified {
			return true, true
		}
		return id.claim(path)
	}
	if claims.Holds(ifVerified, rule.claim, rule.values) {
		return verified
	}
	return rule.claim
}
