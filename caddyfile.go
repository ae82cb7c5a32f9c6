package aventusauth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterDirective(moduleName, parseCaddyfile)
	// After rewrites, which it looks through, and before everything that answers,
	// and other authentication.
	httpcaddyfile.RegisterDirectiveOrder(moduleName, httpcaddyfile.Before, "basic_auth")
}

// parseCaddyfile sets up the handler from the Caddyfile. The matcher becomes part
// of the handler, not of its route: what it leaves out is not protected, but the
// callback and the logout are served all the same. The route only gets what has Caddy
// sort it by the matcher.
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
	return h.NewRoute(sortedAs(matcherSet), handler), nil
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
//		jwks_url        <url>
//		verify_token
//		accept_bearer
//		revoke_url      <url>|off
//		token_header    <name>|off
//
//		hosts           <host...>
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
//		backchannel_logout <path>
//		profile         <path>
//	}
//
// The first three are required. scope, authorize_param, require_scope,
// require_claim and hosts may be repeated, all others may be given once.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	given := make(map[string]caddyfile.Token)
	for d.NextBlock(0) {
		var err error
		if d.Val() == "session" {
			err = h.unmarshalSession(d, given)
		} else {
			err = h.unmarshalOne(d, d.Val(), given)
		}
		if err != nil {
			return err
		}
	}
	for _, s := range subdirectives {
		if _, ok := given[s.name]; s.required && !ok {
			return d.Errf("%s is required", s.name)
		}
	}
	// Some values are good or bad together with others that came later.
	if name, err := h.checkAll(false); err != nil {
		var of *paramError
		if errors.As(err, &of) {
			name += " " + of.param
		}
		return fmt.Errorf("%w, at %s:%d", err, given[name].File, given[name].Line)
	}
	return nil
}

// unmarshalSession reads the session block.
func (c *Config) unmarshalSession(d *caddyfile.Dispenser, given map[string]caddyfile.Token) error {
	if _, ok := given["session"]; ok {
		return d.Errf("session is given twice")
	}
	given["session"] = d.Token()
	if d.NextArg() {
		return d.Errf("session takes a block, and no argument")
	}
	count := len(given)
	for d.NextBlock(1) {
		if err := c.unmarshalOne(d, "session "+d.Val(), given); err != nil {
			return err
		}
	}
	if len(given) == count {
		return d.Errf("session takes a block with something in it")
	}
	return nil
}

// unmarshalOne reads one subdirective, and notes where it is given.
func (c *Config) unmarshalOne(d *caddyfile.Dispenser, name string, given map[string]caddyfile.Token) error {
	i := slices.IndexFunc(subdirectives, func(s subdirective) bool { return s.name == name })
	if i < 0 {
		return d.Errf("unrecognized subdirective %s%s", name, suggestion(name))
	}
	s := &subdirectives[i]
	if _, ok := given[name]; ok && !s.repeatable {
		return d.Errf("%s is given twice", name)
	}
	given[name] = d.Token()
	nesting := 1 + strings.Count(name, " ")
	args := d.RemainingArgs()
	noteLine(args, given[name])
	if err := s.readArgs(c, args); err != nil {
		return d.WrapErr(err)
	}
	if d.NextBlock(nesting) {
		return d.Errf("%s takes no block", name)
	}
	if s.repeatable && len(args) > 0 { // one of several may turn out to be wrong
		given[name+" "+args[0]] = given[name]
	}
	if err := s.checkValue(checked{Config: c}); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// suggestion returns the name that a misspelt one is nearest to, as a question, or "".
func suggestion(misspelt string) string {
	best, least := "", 3 // more than two letters apart, it is another word
	for _, s := range subdirectives {
		if n := distance(misspelt, s.name); n < least {
			best, least = s.name, n
		}
	}
	if best == "" {
		best = wordOf(misspelt)
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// wordOf returns the one name of which a word was written, such as client_secret for secret, or "".
func wordOf(word string) (name string) {
	for _, s := range subdirectives {
		if slices.Contains(strings.Split(s.name, "_"), word) {
			if name != "" {
				return ""
			}
			name = s.name
		}
	}
	return name
}

// distance returns how many letters have to be added, removed or replaced to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
