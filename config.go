package aventusauth

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// Config is what is configured of a block, but for its matcher.
type Config struct {
	// The id of the application at the authorization server. Required.
	ClientID string `json:"client_id,omitempty"`

	// The application's secret. Required. A secret that is written here as it is,
	// and not as a placeholder, stands in Caddy's config, its admin API and its
	// autosaved file.
	ClientSecret string `json:"client_secret,omitempty"`

	// The callback URL, exactly as it is registered for the application. This
	// handler serves its path. Required. `{http.request.host}` may stand in for the
	// host name, so that one block serves several hosts; each host's callback URL
	// must be registered. It must be an https URL, unless its host is a loopback one.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// The identifier of the API that the access token is for, as that API is
	// registered at the authorization server. With it, the token must be a JWT with
	// this audience, from this issuer, or the login fails. Leave it out if there is no
	// such API: then the token may be an opaque string. Default: none.
	Audience string `json:"audience,omitempty"`

	// The scopes to ask for. Duplicates are dropped. Only what the token answer or the
	// token itself names counts as granted. `offline_access` asks for a refresh token.
	// Default: none.
	Scopes []string `json:"scopes,omitempty"`

	// The authorization server's issuer URL. One without a final slash gets one.
	// Default: `https://auth.homelyfe.com/`.
	Issuer string `json:"issuer,omitempty"`

	// The authorization endpoint (RFC 6749, section 3.1). Its query may hold
	// parameters, but no `response_mode`, `organization` or `max_age`. Default:
	// `authorize` below the issuer.
	AuthorizeURL string `json:"authorize_url,omitempty"`

	// The token endpoint (RFC 6749, section 3.2). Default: `oauth/token` below
	// the issuer.
	TokenURL string `json:"token_url,omitempty"`

	// The body of the token request: `json` or `form`. Default: `json`.
	TokenRequest string `json:"token_request,omitempty"`

	// How the client's secret travels in the token request: `post`, in the body,
	// or `basic`, in the Authorization header (RFC 6749, section 2.3.1).
	// Default: `post`.
	TokenAuth string `json:"token_auth,omitempty"`

	// Further parameters of the authorize URL, such as `prompt`, `connection`,
	// `organization` or `login_hint`. Those that the handler sets itself are
	// refused. A visitor can change the authorize URL, so these parameters guarantee
	// nothing, with two exceptions: `organization` and `max_age` are compared with the
	// ID token, and need the scope `openid`. Default: none.
	AuthorizeParams map[string]string `json:"authorize_params,omitempty"`

	// What happens to a request without a session:
	//
	// - `auto`: a page visit is sent to the login (302), everything else gets 401
	// - `redirect`: everything except a WebSocket is sent to the login: pages with
	//   302, a form by a small page, the rest with 303
	// - `deny`: everything gets 401
	// - `pass`: it goes on, without an Authorization header
	//
	// Default: `auto`.
	Unauthenticated string `json:"unauthenticated,omitempty"`

	// Scopes that must have been granted, all of them. Without them, a request gets
	// 403. The entries of a `permissions` claim count as scopes. Default: none.
	RequireScope []string `json:"require_scope,omitempty"`

	// Claims that the tokens must hold, all of them. Without them, a request gets 403.
	// Default: none.
	RequireClaim []ClaimRequirement `json:"require_claim,omitempty"`

	// Where the authorization server publishes its keys (RFC 7517), for access tokens,
	// ID tokens and logout tokens. Default: `.well-known/jwks.json` below the issuer.
	JWKSURL string `json:"jwks_url,omitempty"`

	// Check each access token from the token endpoint, at the login and at each
	// renewal: its signature, `iss`, `aud` and `exp`. Needs an audience. Default: false:
	// the signature is not checked, since the token came over TLS from the token
	// endpoint, and `iss` and `aud` are compared only if there is an audience.
	VerifyToken bool `json:"verify_token,omitempty"`

	// Let API clients in that send a verified token of their own, as
	// `Authorization: Bearer <token>` (RFC 6750). Needs an audience, and implies
	// verify_token. The site then says at `/.well-known/oauth-protected-resource` where
	// such tokens come from (RFC 9728), also to those that have none. Default: false.
	AcceptBearer bool `json:"accept_bearer,omitempty"`

	// Where refresh tokens are revoked that are no longer needed (RFC 7009), or `off`,
	// for a server without such an endpoint. Default: `oauth/revoke` below the issuer.
	RevokeURL string `json:"revoke_url,omitempty"`

	// The request header that passes the token on: `Authorization`, as `Bearer <token>`,
	// or another, which holds the bare token; or `off`. Unless it is `Authorization`,
	// the client's own Authorization is passed on as it came, unchecked. Default:
	// `Authorization`.
	TokenHeader string `json:"token_header,omitempty"`

	// Other hosts that share this login and its sessions with the redirect URI's host,
	// which alone talks to the authorization server: names, or `*.example.com` for all
	// names with one label more. The same block stands on the site of each. They get
	// their sessions from that host, each in a cookie of its own; the sessions rest in
	// Caddy's storage. Whoever runs one of these hosts is trusted with the sessions of
	// those who visit it. Default: none.
	Hosts []string `json:"hosts,omitempty"`

	// How a session is kept. Default: in its cookie, or in Caddy's storage if it is too
	// large for a cookie, has a refresh token or is shared by hosts; until its token
	// expires and cannot be renewed, and 24 hours at most.
	Session Session `json:"session,omitzero"`

	// A path that ends the session. Default: none.
	Logout *Logout `json:"logout,omitempty"`

	// Have the logout also end the person's session at the authorization server, by
	// sending the browser to that server's logout page. Default: false.
	LogoutProvider bool `json:"logout_provider,omitempty"`

	// A path where the authorization server says that a session has ended there
	// ([OpenID Connect Back-Channel Logout 1.0](https://openid.net/specs/openid-connect-backchannel-1_0.html)),
	// which ends what came of it here. It needs the scope `openid`. Default: none.
	BackchannelLogout string `json:"backchannel_logout,omitempty"`

	// A path that answers JSON about the session, for a page's script. Default:
	// none.
	Profile string `json:"profile,omitempty"`
}

// ClaimRequirement says what a claim has to be.
type ClaimRequirement struct {
	// The claim's name. Dots lead into objects, numbers into arrays. Required.
	Claim string `json:"claim,omitempty"`

	// The accepted values. The claim must equal one of them, or be an array that
	// contains one. A number or a boolean is compared as its JSON text.
	// `*@example.com` accepts each address with one @ and that domain, in any case; of
	// the claim `email`, only if `email_verified` is true. Other values of `email` are
	// compared case-insensitively, and do not count where email_verified is false. Required.
	Values []string `json:"values,omitempty"`
}

// Session says how a session is kept.
type Session struct {
	// Where a session is kept. `cookie`: in its own cookie, unless it is too large for
	// one (4,096 bytes), has a refresh token or is shared by hosts; then in Caddy's
	// storage. `storage`: always in Caddy's storage, with a cookie that holds only a
	// handle. Default: `cookie`.
	Store string `json:"store,omitempty"`

	// The name of the session's cookie. Where the redirect URI is https, it gets
	// the prefix `__Host-`, unless it has that already. Default:
	// `aventus_session`.
	Name string `json:"name,omitempty"`

	// The longest that a session lasts, renewals included; 400 days at most. Without a
	// refresh token, it ends when its token expires, if that is earlier; in any case, it
	// ends at the session_expiry of its ID token. Default: `24h`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Ends a session that has not been used for this long. Default: off.
	Idle caddy.Duration `json:"idle,omitempty"`

	// How long before its expiry a token is due for renewal, but not before half of its
	// lifetime has passed. It is renewed with its refresh token, if there is one (scope
	// `offline_access`), or else by the next page visit, which goes through the
	// authorization server. Default: `5m`.
	RenewBefore caddy.Duration `json:"renew_before,omitempty"`

	// The keys that sessions and logins are sealed with, each 32 bytes or more in
	// base64. The first one seals; all of them open. Default: keys that are made on
	// first use, kept in Caddy's storage, and rotated.
	Keys []string `json:"key,omitempty"`
}

// Logout says how a person signs out of the site.
type Logout struct {
	// The path that ends all sessions that the browser has at this host, of any
	// block, by GET or POST. If several blocks have the same path, the first that
	// the request meets answers. A request that the browser marks as cross-site,
	// embedded or prefetched is refused. Required.
	Path string `json:"path,omitempty"`

	// Where to go from there: a path, but none of the block's own, or an https URL.
	// Default: a small page that says that the person is signed out.
	ReturnURL string `json:"return_url,omitempty"`
}

// subdirective is one entry of the table of all that can be configured: a new option is one entry
// in subdirectives.go and its field in Config. The parser of the Caddyfile, the expansion of
// placeholders and the checks go by the table, and a test compares it with the fields and the
// documentation.
type subdirective struct {
	name  string                // one of the session block has "session " in front
	field func(c *Config) any   // a pointer to its field; every string in it may hold placeholders
	check func(c checked) error // of its value, as far as it can be told; nil: any will do

	required, repeatable bool

	// How it is read. Without these, that follows from the type of the field: a string is one argument,
	// a list of strings one or more, a duration one argument, a boolean none.
	takes    string // in words
	min, max int    // how many arguments; a max of 0 is no limit
	read     func(c *Config, args []string) error

	// together checks what its value needs of others, which may be given after it.
	together func(c checked) error

	// forRequest is a placeholder that is left for the request.
	forRequest string
}

// paramError is an error of one authorize_param of several.
type paramError struct {
	param string
	err   error
}

func (e *paramError) Error() string { return e.param + " " + e.err.Error() }

// checkAll validates the config. If expanded is false, it skips values that still hold placeholders. The
// error begins with the name of the subdirective, which is returned too.
func (c *Config) checkAll(expanded bool) (name string, err error) {
	in := checked{c, expanded}
	for _, s := range subdirectives {
		if s.required && *s.field(c).(*string) == "" {
			return s.name, fmt.Errorf("%s is required", s.name)
		}
	}
	for _, s := range subdirectives {
		if s.together != nil {
			if err := s.together(in); err != nil {
				return s.name, fmt.Errorf("%s %w", s.name, err)
			}
		}
	}
	for _, s := range subdirectives {
		if err := s.checkValue(in); err != nil {
			return s.name, err
		}
	}
	return "", nil
}

// checkValue reports what is wrong with a subdirective's own value.
func (s *subdirective) checkValue(in checked) error {
	if s.check == nil {
		return nil
	}
	if err := s.check(in); err != nil {
		return fmt.Errorf("%s %w", s.name, err)
	}
	return nil
}

// readArgs puts the arguments of a subdirective into its field.
func (s *subdirective) readArgs(c *Config, args []string) error {
	least, most, takes := s.min, s.max, s.takes
	field := s.field(c)
	switch field.(type) {
	case *string, *caddy.Duration:
		least, most, takes = 1, 1, "one argument"
	case *bool:
		least, most, takes = 0, -1, "no argument"
	case *[]string:
		least = 1
	}
	if _, isText := field.(*string); isText && len(args) == 0 {
		return fmt.Errorf("%s takes one argument, and {$NAME} is none where that variable is not set", s.name)
	}
	if n := len(args); n < least || most > 0 && n > most || most < 0 && n > 0 {
		return fmt.Errorf("%s takes %s", s.name, takes)
	}
	if s.read != nil {
		if err := s.read(c, args); err != nil {
			return fmt.Errorf("%s %w", s.name, err)
		}
		return nil
	}
	switch field := field.(type) {
	case *string:
		if args[0] == "" {
			return fmt.Errorf("%s must not be empty", s.name)
		}
		*field = args[0]
	case *bool:
		*field = true
	case *[]string:
		for _, arg := range args {
			if !slices.Contains(*field, arg) {
				*field = append(*field, arg)
			}
		}
	case *caddy.Duration:
		d, err := caddy.ParseDuration(args[0])
		if err != nil || d <= 0 {
			return fmt.Errorf("%s must be a positive duration such as 12h, not %q", s.name, args[0])
		}
		*field = caddy.Duration(d)
	default:
		panic("not reached: a test reads every subdirective")
	}
	return nil
}
