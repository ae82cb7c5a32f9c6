package aventusauth

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// notice is what the operator should know of a config that is valid, and may not do what they expect. It is
// logged when the config is loaded, and the doctor says it.
type notice struct {
	about  string // the subdirective
	detail string
	advice string
}

// notices returns what there is to say of a block with these matchers.
func (s *settings) notices(matchers caddyhttp.MatcherSets) []notice {
	var all []notice
	if s.unauthenticated == "redirect" && !takesPagesOnly(matchers) {
		all = append(all, notice{
			"unauthenticated",
			"redirect sends API clients, scripts and tools to the sign-in page as well: they take it for the " +
				"answer, and rclone sync, for one, then deletes the local files, for the folder seems empty",
			"use auto, which redirects pages alone; or have the matcher take only what asks for a page " +
				"(header Accept *text/html*), and cover the rest by a second block",
		})
	}
	if s.sites.hosts != nil && !s.asksForID() && s.Audience == "" && !s.asksForRefresh() {
		all = append(all, notice{
			"hosts",
			"without an ID token, and without an audience, nothing may say whose a session is: each sign-in, and " +
				"each renewal by a page visit, ends what the other hosts have, and their scripts get 401 until a " +
				"page is visited there",
			"add openid to scope, or name an API in audience",
		})
	}
	for _, value := range []struct{ name, text string }{
		{"client_id", s.ClientID}, {"client_secret", s.ClientSecret},
	} {
		if shellVariable.MatchString(value.text) {
			all = append(all, notice{
				value.name, "looks like a variable of a shell, which Caddy does not replace", "write {env.NAME}",
			})
		}
	}
	for _, rule := range s.requireClaim {
		for _, value := range rule.values {
			if local, _, isAddress := strings.Cut(value, "@"); rule.claim == "email" && (!isAddress || local == "") {
				all = append(all, notice{
					"require_claim", fmt.Sprintf("email %q is no address, so nobody has it", value),
					"write *@example.com for all of a domain; for everybody, leave it out",
				})
			}
		}
	}
	if aventus.IsThirdParty(s.ClientID) {
		all = append(all, s.thirdPartyNotices()...)
	}
	return all
}

// shellVariable matches what a shell would replace. The value is never printed: it may be a secret after all.
var shellVariable = regexp.MustCompile(`^\$[A-Z_][A-Z0-9_]*$`)

// takesPagesOnly reports whether the matchers leave out what is no page by its method, or by the headers that
// tell pages apart.
func takesPagesOnly(matchers caddyhttp.MatcherSets) bool {
	for _, set := range matchers {
		if !slices.ContainsFunc(set, func(matcher any) bool {
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchMethod:
				return !slices.ContainsFunc(*matcher, func(method string) bool {
					return method != http.MethodGet && method != http.MethodHead
				})
			case *caddyhttp.MatchHeader:
				return asksOnly((*matcher)["Accept"], "text/html") ||
					asksOnly((*matcher)["Sec-Fetch-Mode"], "navigate")
			}
			return false
		}) {
			return false
		}
	}
	return len(matchers) > 0
}

// asksOnly reports whether the patterns of a header matcher, one of which has to hold, all ask for a word.
func asksOnly(patterns []string, word string) bool {
	return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(pattern string) bool {
		return !strings.Contains(pattern, word)
	})
}

// thirdPartyNotices returns what a third-party client asks for in vain.
func (s *settings) thirdPartyNotices() []notice {
	var all []notice
	if scopes := s.RefusedScopes(); len(scopes) > 0 {
		all = append(all, notice{
			"scope", "third-party clients (tpc_...) are not granted " + strings.Join(scopes, ", ") +
				", and get no ID token",
			"take them out: who it is comes in the access token of an API, for which audience is needed",
		})
	}
	if s.Audience == "" {
		all = append(all, notice{
			"audience", "third-party clients (tpc_...) get no ID token, so without an audience nothing says who it is",
			"name an API in audience, and have it granted to this client",
		})
	}
	if params := s.RefusedParams(); len(params) > 0 {
		all = append(all, notice{
			"authorize_param", "third-party clients (tpc_...) may not send " + strings.Join(params, ", ") +
				": the authorization server refuses every login, on a page of its own",
			"take them out of authorize_param and authorize_url",
		})
	}
	if s.logoutProvider {
		all = append(all, notice{
			"logout_provider",
			"third-party clients (tpc_...) have no logout page: people who sign out end on an error page there",
			"take logout_provider out; logout alone ends the session here",
		})
	}
	if s.backchannelPath != "" {
		all = append(all, notice{
			"backchannel_logout",
			"third-party clients (tpc_...) are sent no logout tokens, and get no ID token: nobody can sign in, for " +
				"with backchannel_logout a login needs one",
			"take backchannel_logout out, or use a client of your own company",
		})
	}
	return all
}

// logNotices says them where the config is loaded.
func (s *settings) logNotices(logger *zap.Logger, matchers caddyhttp.MatcherSets) {
	for _, n := range s.notices(matchers) {
		logger.Warn(n.detail, zap.String("subdirective", n.about), zap.String("redirect_uri", s.sites.redirectURI),
			zap.String("advice", n.advice))
	}
}
