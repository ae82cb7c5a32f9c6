package aventusauth

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterDirective("aventus_auth", parseCaddyfile)
	// After rewrites, which it looks through, and before everything that answers,
	// and other authentication.
	httpcaddyfile.RegisterDirectiveOrder("aventus_auth", httpcaddyfile.Before, "basic_auth")
}

// subdirectives in the order in which they are documented, and checked.
var subdirectives = []string{
	"client_id", "client_secret", "redirect_uri", "audience", "scope",
	"issuer", "authorize_url", "token_url", "token_request", "token_auth", "authorize_param",
	"unauthenticated", "require_scope", "require_claim", "verify_token", "accept_bearer",
	"session store", "session name", "session lifetime", "session idle", "session renew_before", "session key",
	"logout", "logout_provider", "profile",
}

// parseCaddyfile sets up the handler from the Caddyfile. The matcher becomes part
// of the handler, not of its route: what it leaves out is not protected, but the
// callback and the logout are served all the same.
func parseCaddyfile(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcherSet, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if matcherSet != nil {
		handler.MatcherSetsRaw = caddyhttp.RawMatcherSets{matcherSet}
	}
	return h.NewRoute(nil, handler), nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	aventus_auth [<matcher>] {
//		client_id       <id>
//		client_secret   <secret>
//		redirect_uri    <url>
//		audience        <identifier>
//		scope           <scope...>
//
//		issuer          <url>
//		authorize_url   <url>
//		token_url       <url>
//		token_request   json|form
//		token_auth      post|basic
//		authorize_param <name> <value>
//
//		unauthenticated auto|redirect|deny|pass
//		require_scope   <scope...>
//		require_claim   <claim> <value...>
//		verify_token    [<jwks_url>]
//		accept_bearer
//
//		session {
//			store        cookie|storage
//			name         <cookie name>
//			lifetime     <duration>
//			idle         <duration>
//			renew_before <duration>
//			key          <secret...>
//		}
//		logout          <path> [<return url>]
//		logout_provider
//		profile         <path>
//	}
//
// The first three are required. scope, authorize_param, require_scope and
// require_claim may be repeated, all others may be given once.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	repeatable := []string{"scope", "authorize_param", "require_scope", "require_claim"}
	given := make(map[string]caddyfile.Token)
	for d.NextBlock(0) {
		name := d.Val()
		if _, ok := given[name]; ok && !slices.Contains(repeatable, name) {
			return d.Errf("%s is given twice", name)
		}
		given[name] = d.Token()
		if name == "session" {
			if err := h.unmarshalSession(d, given); err != nil {
				return err
			}
			continue
		}
		if err := h.unmarshalOne(d, name); err != nil {
			return err
		}
		if err := h.check(name); err != nil && name != "logout_provider" { // logout may come after it
			return d.WrapErr(err)
		}
	}
	for _, name := range []string{"client_id", "client_secret", "redirect_uri"} {
		if _, ok := given[name]; !ok {
			return d.Errf("%s is required", name)
		}
	}
	at := func(err error, name string) error {
		return fmt.Errorf("%w, at %s:%d", err, given[name].File, given[name].Line)
	}
	if name, ok := h.checkAudience(); !ok {
		return at(fmt.Errorf("%s needs an audience", name), name)
	}
	// Some values are good or bad together with others that came later.
	for _, name := range subdirectives {
		if err := h.check(name); err != nil {
			return at(err, name)
		}
	}
	return nil
}

// unmarshalOne reads the arguments of one subdirective.
func (h *Handler) unmarshalOne(d *caddyfile.Dispenser, name string) error {
	args := d.RemainingArgs()
	one := map[string]*string{
		"client_id":       &h.ClientID,
		"client_secret":   &h.ClientSecret,
		"redirect_uri":    &h.RedirectURI,
		"audience":        &h.Audience,
		"issuer":          &h.Issuer,
		"authorize_url":   &h.AuthorizeURL,
		"token_url":       &h.TokenURL,
		"token_request":   &h.TokenRequest,
		"token_auth":      &h.TokenAuth,
		"unauthenticated": &h.Unauthenticated,
		"profile":         &h.Profile,
	}[name]

	switch {
	case one != nil:
		if len(args) != 1 {
			return d.Errf("%s takes one argument", name)
		}
		if args[0] == "" {
			return d.Errf("%s must not be empty", name)
		}
		*one = args[0]

	case name == "scope" || name == "require_scope":
		if len(args) == 0 {
			return d.Errf("%s takes one scope or more", name)
		}
		scopes := map[string]*[]string{"scope": &h.Scopes, "require_scope": &h.RequireScope}[name]
		for _, scope := range args {
			if !slices.Contains(*scopes, scope) {
				*scopes = append(*scopes, scope)
			}
		}

	case name == "require_claim":
		if len(args) < 2 {
			return d.Errf("require_claim takes a claim, and a value or more")
		}
		h.RequireClaim = append(h.RequireClaim, ClaimRequirement{Claim: args[0], Values: args[1:]})

	case name == "verify_token":
		if len(args) > 1 {
			return d.Errf("verify_token takes the URL of a JWKS, or nothing")
		}
		h.VerifyToken = new(TokenVerification)
		if len(args) == 1 {
			h.VerifyToken.JWKSURL = args[0]
		}

	case name == "accept_bearer":
		if len(args) != 0 {
			return d.Errf("accept_bearer takes no argument")
		}
		h.AcceptBearer = true

	case name == "authorize_param":
		if len(args) != 2 {
			return d.Errf("authorize_param takes a name and a value")
		}
		if _, ok := h.AuthorizeParams[args[0]]; ok {
			return d.Errf("authorize_param %s is given twice", args[0])
		}
		if h.AuthorizeParams == nil {
			h.AuthorizeParams = make(map[string]string)
		}
		h.AuthorizeParams[args[0]] = args[1]

	case name == "logout":
		if len(args) != 1 && len(args) != 2 {
			return d.Errf("logout takes a path, and a return url if you like")
		}
		h.Logout = &Logout{Path: args[0]}
		if len(args) == 2 {
			h.Logout.ReturnURL = args[1]
		}

	case name == "logout_provider":
		if len(args) != 0 {
			return d.Errf("logout_provider takes no argument")
		}
		h.LogoutProvider = true

	default:
		return d.Errf("unrecognized subdirective %s", name)
	}
	if d.NextBlock(1) {
		return d.Errf("%s takes no block", name)
	}
	return nil
}

// unmarshalSession reads the session block, and notes what is given in it.
func (h *Handler) unmarshalSession(d *caddyfile.Dispenser, given map[string]caddyfile.Token) error {
	if d.NextArg() {
		return d.Errf("session takes a block, and no argument")
	}
	count := len(given)
	for d.NextBlock(1) {
		name := d.Val()
		if _, ok := given["session "+name]; ok {
			return d.Errf("session %s is given twice", name)
		}
		given["session "+name] = d.Token()

		args := d.RemainingArgs()
		if len(args) == 0 || args[0] == "" || len(args) > 1 && name != "key" {
			return d.Errf("session %s takes one argument; key takes one or more", name)
		}
		switch name {
		case "store":
			h.Session.Store = args[0]
		case "name":
			h.Session.Name = args[0]
		case "lifetime", "idle", "renew_before":
			duration, err := caddy.ParseDuration(args[0])
			if err != nil || duration <= 0 {
				return d.Errf("session %s must be a positive duration such as 12h, not %q", name, args[0])
			}
			*map[string]*caddy.Duration{
				"lifetime": &h.Session.Lifetime, "idle": &h.Session.Idle, "renew_before": &h.Session.RenewBefore,
			}[name] = caddy.Duration(duration)
		case "key":
			h.Session.Keys = args
		default:
			return d.Errf("unrecognized subdirective session %s", name)
		}
		if d.NextBlock(2) {
			return d.Errf("session %s takes no block", name)
		}
		if err := h.check("session " + name); err != nil {
			return d.WrapErr(err)
		}
	}
	if len(given) == count {
		return d.Errf("session takes a block with something in it")
	}
	return nil
}
