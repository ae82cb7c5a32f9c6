package aventusauth

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

func init() {
	caddy.RegisterModule(MatchClaim{})
}

// MatchClaim matches requests by what is known of the user, as require_claim does: each
// claim has to be, or to contain, one of its values. It is for what runs after the
// aventus_auth that has found out who it is, such as `handle`. Before that, and for an
// anonymous request, it matches nothing.
type MatchClaim []ClaimRequirement

// CaddyModule returns the Caddy module information.
func (MatchClaim) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.aventus_claim",
		New: func() caddy.Module { return new(MatchClaim) },
	}
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	aventus_claim <claim> <value...>
//
// Each of several lines has to hold.
func (m *MatchClaim) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		args := d.RemainingArgs()
		if len(args) < 2 {
			return d.Err("aventus_claim takes a claim, and a value or more")
		}
		*m = append(*m, ClaimRequirement{Claim: args[0], Values: args[1:]})
		if d.NextBlock(0) {
			return d.Err("aventus_claim takes no block")
		}
		if err := checkRequirements(*m, checked{Config: new(Config)}.waits); err != nil {
			return d.Errf("aventus_claim %v", err)
		}
	}
	return nil
}

// Provision sets up the matcher. Its placeholders are replaced once, as those of the directive are.
func (m *MatchClaim) Provision(caddy.Context) error {
	var failed error
	*m = withStrings(reflect.ValueOf(*m), expandInto(&failed, "")).Interface().(MatchClaim)
	if failed == nil {
		failed = checkRequirements(*m, func(string) bool { return false })
	}
	if failed != nil {
		return fmt.Errorf("aventus_claim %w", failed)
	}
	return nil
}

// MatchWithError reports whether a request is from someone with these claims.
func (m MatchClaim) MatchWithError(r *http.Request) (bool, error) {
	was, ok := caddyhttp.GetVar(r.Context(), sentVar).(*sent)
	if !ok || was.user == nil {
		return false, nil
	}
	for _, req := range m {
		if !claims.Holds(was.user.claim, req.Claim, req.Values) {
			return false, nil
		}
	}
	return true, nil
}

// checkRequirements reports what is wrong with one of several. A value that waits for its placeholders
// passes.
func checkRequirements(all []ClaimRequirement, waits func(string) bool) error {
	if len(all) == 0 {
		return errors.New("needs a claim, and a value or more")
	}
	for _, req := range all {
		if req.Claim == "" || len(req.Values) == 0 {
			return errors.New("needs a claim, and a value or more")
		}
		for _, value := range req.Values {
			if err := claims.CheckValue(value); err != nil && !waits(value) {
				return err
			}
		}
	}
	return nil
}

// asksForClaim reports whether matchers ask who it is. For that of an aventus_auth, it would be too
// early: it would protect nothing.
func asksForClaim(sets []caddyhttp.MatcherSet) bool {
	for _, set := range sets {
		for _, matcher := range set {
			switch matcher := matcher.(type) {
			case *MatchClaim:
				return true
			case *caddyhttp.MatchNot:
				if asksForClaim(matcher.MatcherSets) {
					return true
				}
			}
		}
	}
	return false
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchClaim)(nil)
	_ caddyfile.Unmarshaler             = (*MatchClaim)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchClaim)(nil)
)
