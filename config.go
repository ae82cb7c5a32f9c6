package aventusauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

const (
	defaultIssuer   = "https://auth.homelyfe.com/"
	defaultName     = "aventus_session"
	defaultLifetime = 24 * time.Hour
	defaultRenew    = 5 * time.Minute

	// bindingName is the cookie that binds a login to the browser it began in.
	bindingName = "aventus_login"

	// hostPrefix makes browsers insist that a cookie is the very host's own
	// (draft-ietf-httpbis-rfc6265bis, section 4.1.3).
	hostPrefix = "__Host-"

	// hostPlaceholder is the one placeholder that is left for the request.
	hostPlaceholder = "{http.request.host}"

	// anyHost stands in for it where a URL is parsed (RFC 6761, section 6.4).
	anyHost = "host.invalid"
)

// settings are what the handler works with: the config with its placeholders
// replaced, checked, and its defaults filled in. A secret that was expanded stands
// here alone, never in an exported field, since Caddy logs those at DEBUG.
type settings struct {
	aventus.Config
	issuer          string
	redirectURI     string // may hold hostPlaceholder
	fixedSite       *site  // nil if it does
	label           string // what the site is called in metrics: its origin
	host            string // the redirect URI's, without its port; may be hostPlaceholder's stand-in
	callbackPath    string
	secure          bool // the redirect URI is https
	unauthenticated string
	cookieName      string
	bindingName     string
	lifetime        time.Duration
	idle            time.Duration // zero: off
	renewBefore     time.Duration
	inStorage       bool // all sessions rest there
	keys            [][]byte
	logoutPath      string // empty: none
	logoutURL       string // empty: a page of our own
	logoutProvider  bool   // by way of the authorization server's logout
	profilePath     string // empty: none
	requireClaim    []ClaimRequirement
	requireScope    []string
	verify          bool // access tokens are verified
	acceptBearer    bool
	vary            []string // the request headers that tell visitors apart
	jwksURL         string
}

// settings makes the settings of the config, or the error that tells what is
// wrong with it, beginning with the subdirective's name.
func (h *Handler) settings() (*settings, error) {
	c, err := h.expanded()
	if err != nil {
		return nil, err
	}
	for _, required := range []struct{ name, value string }{
		{"client_id", c.ClientID}, {"client_secret", c.ClientSecret}, {"redirect_uri", c.RedirectURI},
	} {
		if required.value == "" {
			return nil, fmt.Errorf("%s is required", required.name)
		}
	}
	for _, name := range subdirectives {
		if err := c.check(name); err != nil {
			return nil, err
		}
	}
	if name, ok := c.checkAudience(); !ok {
		return nil, fmt.Errorf("%s needs an audience", name)
	}

	s := &settings{
		Config: aventus.Config{
			ClientID:     c.ClientID,
			ClientSecret: c.ClientSecret,
			Audience:     c.Audience,
			AuthorizeURL: c.AuthorizeURL,
			TokenURL:     c.TokenURL,
			Params:       c.AuthorizeParams,
			Form:         c.TokenRequest == "form",
			Basic:        c.TokenAuth == "basic",
		},
		redirectURI:     c.RedirectURI,
		unauthenticated: c.Unauthenticated,
		cookieName:      c.Session.Name,
		bindingName:     bindingName,
		lifetime:        time.Duration(c.Session.Lifetime),
		idle:            time.Duration(c.Session.Idle),
		renewBefore:     time.Duration(c.Session.RenewBefore),
		inStorage:       c.Session.Store == "storage",
	}
	for _, scope := range c.Scopes {
		if !slices.Contains(s.Scopes, scope) {
			s.Scopes = append(s.Scopes, scope)
		}
	}

	if c.Issuer == "" {
		c.Issuer = defaultIssuer
	}
	if s.issuer, err = aventus.CheckIssuer(c.Issuer); err != nil {
		return nil, fmt.Errorf("issuer %w", err)
	}
	if s.AuthorizeURL == "" {
		s.AuthorizeURL = s.issuer + "authorize"
	}
	if s.TokenURL == "" {
		s.TokenURL = s.issuer + "oauth/token"
	}

	redirect, err := parseRedirectURI(c.RedirectURI)
	if err != nil {
		return nil, err
	}
	s.callbackPath, s.host = redirect.Path, strings.ToLower(redirect.Hostname())
	s.secure = redirect.Scheme == "https"
	if s.cookieName == "" {
		s.cookieName = defaultName
	}
	if s.secure {
		s.bindingName = hostPrefix + bindingName
		s.cookieName = hostPrefix + strings.TrimPrefix(s.cookieName, hostPrefix)
	}
	if s.unauthenticated == "" {
		s.unauthenticated = "auto"
	}
	if s.lifetime == 0 {
		s.lifetime = defaultLifetime
	}
	if s.renewBefore == 0 {
		s.renewBefore = defaultRenew
	}
	for _, text := range c.Session.Keys {
		key, _ := parseKey(text)
		s.keys = append(s.keys, key)
	}
	if c.Logout != nil {
		s.logoutPath, s.logoutURL, s.logoutProvider = c.Logout.Path, c.Logout.ReturnURL, c.LogoutProvider
	}
	s.profilePath = c.Profile
	s.requireScope, s.requireClaim = c.RequireScope, c.RequireClaim
	s.vary = []string{"Cookie"}
	if s.acceptBearer = c.AcceptBearer; s.acceptBearer {
		s.vary = append(s.vary, "Authorization")
	}
	s.verify = c.VerifyToken != nil || c.AcceptBearer
	s.jwksURL = s.issuer + ".well-known/jwks.json"
	if c.VerifyToken != nil && c.VerifyToken.JWKSURL != "" {
		s.jwksURL = c.VerifyToken.JWKSURL
	}
	at := s.site(s.redirectURI)
	s.label = at.origin
	if !strings.Contains(s.redirectURI, hostPlaceholder) {
		s.fixedSite = &at
	}
	return s, nil
}

// site returns the site of a redirect URI that parseRedirectURI has seen, its
// placeholder replaced.
func (s *settings) site(redirectURI string) site {
	scheme, rest, _ := strings.Cut(redirectURI, "://")
	host := rest[:strings.IndexByte(rest, '/')]
	origin := scheme + "://" + strings.ToLower(host)
	// What is sealed opens only where all of these are the same. None of them
	// holds a NUL, so no two lists make the same string.
	bound := []string{s.cookieName, s.issuer, s.ClientID, s.Audience, strings.Join(slices.Sorted(slices.Values(s.Scopes)), " "), origin}
	return site{origin: origin, redirectURI: redirectURI, associated: []byte(strings.Join(bound, "\x00"))}
}

// asksForID reports whether an ID token is asked for (OpenID Connect Core 1.0,
// section 3.1.2.1).
func (s *settings) asksForID() bool { return slices.Contains(s.Scopes, "openid") }

// expanded returns a copy of the config with its placeholders replaced.
func (h *Handler) expanded() (*Handler, error) {
	repl := caddy.NewReplacer()
	var err error
	expand := func(name, value string) string {
		// Only the redirect URI may leave its host to the request.
		keep := ""
		if name == "redirect_uri" {
			keep = hostPlaceholder
		}
		parts := []string{value}
		if keep != "" {
			parts = strings.Split(value, keep)
		}
		for i, part := range parts {
			out, e := repl.ReplaceOrErr(part, true, true)
			if e != nil && err == nil {
				// The error's own text may hold a piece of a secret.
				err = fmt.Errorf("%s: a placeholder in it is not known, or is empty; a brace that begins none is written \\{", name)
			}
			parts[i] = out
		}
		return strings.Join(parts, keep)
	}
	c := &Handler{
		isExpanded:      true,
		ClientID:        expand("client_id", h.ClientID),
		ClientSecret:    expand("client_secret", h.ClientSecret),
		RedirectURI:     expand("redirect_uri", h.RedirectURI),
		Audience:        expand("audience", h.Audience),
		Issuer:          expand("issuer", h.Issuer),
		AuthorizeURL:    expand("authorize_url", h.AuthorizeURL),
		TokenURL:        expand("token_url", h.TokenURL),
		TokenRequest:    expand("token_request", h.TokenRequest),
		TokenAuth:       expand("token_auth", h.TokenAuth),
		Unauthenticated: expand("unauthenticated", h.Unauthenticated),
		AcceptBearer:    h.AcceptBearer,
		LogoutProvider:  h.LogoutProvider,
		Profile:         expand("profile", h.Profile),
		Session: Session{
			Store:       expand("session: store", h.Session.Store),
			Name:        expand("session: name", h.Session.Name),
			Lifetime:    h.Session.Lifetime,
			Idle:        h.Session.Idle,
			RenewBefore: h.Session.RenewBefore,
		},
	}
	for _, scope := range h.Scopes {
		c.Scopes = append(c.Scopes, expand("scope", scope))
	}
	for _, name := range slices.Sorted(maps.Keys(h.AuthorizeParams)) {
		if c.AuthorizeParams == nil {
			c.AuthorizeParams = make(map[string]string)
		}
		c.AuthorizeParams[name] = expand("authorize_param", h.AuthorizeParams[name])
	}
	for _, scope := range h.RequireScope {
		c.RequireScope = append(c.RequireScope, expand("require_scope", scope))
	}
	for _, req := range h.RequireClaim {
		values := make([]string, len(req.Values))
		for i, value := range req.Values {
			values[i] = expand("require_claim", value)
		}
		c.RequireClaim = append(c.RequireClaim, ClaimRequirement{Claim: expand("require_claim", req.Claim), Values: values})
	}
	if h.VerifyToken != nil {
		c.VerifyToken = &TokenVerification{JWKSURL: expand("verify_token", h.VerifyToken.JWKSURL)}
	}
	for _, key := range h.Session.Keys {
		c.Session.Keys = append(c.Session.Keys, expand("session: key", key))
	}
	if h.Logout != nil {
		c.Logout = &Logout{Path: expand("logout", h.Logout.Path), ReturnURL: expand("logout", h.Logout.ReturnURL)}
	}
	return c, err
}

// check reports what is wrong with one subdirective's value, as far as it can be
// told: a value that waits for its placeholders is let through. The Caddyfile's
// parser calls it while the line is known, and Provision when nothing waits.
func (h *Handler) check(name string) error {
	err := h.checkValue(name)
	if err != nil {
		return fmt.Errorf("%s %w", name, err)
	}
	return nil
}

func (h *Handler) checkValue(name string) error {
	switch name {
	case "client_id":
		return checkText(h.ClientID)
	case "client_secret":
		return checkText(h.ClientSecret)
	case "audience":
		return checkText(h.Audience)
	case "redirect_uri":
		if h.waits(h.RedirectURI) {
			return nil
		}
		if _, err := parseRedirectURI(h.RedirectURI); err != nil {
			return err
		}
		return h.checkPaths()
	case "scope":
		return h.checkScopes(h.Scopes)
	case "require_scope":
		return h.checkScopes(h.RequireScope)
	case "require_claim":
		for _, req := range h.RequireClaim {
			if req.Claim == "" || len(req.Values) == 0 {
				return errors.New("needs a claim, and a value or more")
			}
		}
	case "verify_token":
		if h.VerifyToken == nil {
			return nil
		}
		if to := h.VerifyToken.JWKSURL; to != "" && !h.waits(to) {
			_, err := aventus.CheckURL(to)
			return err
		}
	case "logout_provider":
		if h.LogoutProvider && h.Logout == nil {
			return errors.New("needs a logout")
		}
	case "profile":
		if h.Profile == "" {
			return nil
		}
		if err := h.checkPath(h.Profile); err != nil {
			return err
		}
		return h.checkPaths()
	case "issuer":
		if h.Issuer != "" && !h.waits(h.Issuer) {
			_, err := aventus.CheckIssuer(h.Issuer)
			return err
		}
	case "token_url":
		if h.TokenURL != "" && !h.waits(h.TokenURL) {
			_, err := aventus.CheckURL(h.TokenURL)
			return err
		}
	case "authorize_url":
		if h.AuthorizeURL != "" && !h.waits(h.AuthorizeURL) {
			return aventus.CheckAuthorizeURL(h.AuthorizeURL, h.AuthorizeParams)
		}
	case "authorize_param":
		for param := range h.AuthorizeParams {
			if err := aventus.CheckParam(param); err != nil {
				return err
			}
		}
	case "token_request":
		return h.checkOneOf(h.TokenRequest, "json", "form")
	case "token_auth":
		return h.checkOneOf(h.TokenAuth, "post", "basic")
	case "unauthenticated":
		return h.checkOneOf(h.Unauthenticated, "auto", "redirect", "deny", "pass")
	case "session store":
		return h.checkOneOf(h.Session.Store, "cookie", "storage")
	case "session name":
		return h.checkCookieName()
	case "session lifetime":
		return checkDuration(h.Session.Lifetime)
	case "session idle":
		return checkDuration(h.Session.Idle)
	case "session renew_before":
		return checkDuration(h.Session.RenewBefore)
	case "session key":
		for i, text := range h.Session.Keys {
			if _, err := parseKey(text); err != nil && !h.waits(text) {
				return err
			}
			if slices.Contains(h.Session.Keys[:i], text) {
				return errors.New("is given the same key twice")
			}
		}
	case "logout":
		if h.Logout == nil {
			return nil
		}
		if err := h.checkPath(h.Logout.Path); err != nil {
			return err
		}
		if to := h.Logout.ReturnURL; to != "" && !h.waits(to) && !isPath(to) {
			to, _, _ = strings.Cut(to, "#") // a single-page app may route by it
			if _, err := aventus.CheckURL(to); err != nil {
				return fmt.Errorf("return url must be a path on this site, or it %w", err)
			}
		}
		return h.checkPaths()
	}
	return nil
}

// checkPaths reports two of the handler's own paths that are one.
func (h *Handler) checkPaths() error {
	var paths []string
	if u, err := parseRedirectURI(h.RedirectURI); err == nil && !h.waits(h.RedirectURI) {
		paths = append(paths, u.Path)
	}
	if h.Logout != nil {
		paths = append(paths, h.Logout.Path)
	}
	if h.Profile != "" {
		paths = append(paths, h.Profile)
	}
	for i, path := range paths {
		if !h.waits(path) && slices.Contains(paths[:i], path) {
			return fmt.Errorf("has the path %s, which is another's already: callback, logout and profile need a path each", path)
		}
	}
	return nil
}

// checkAudience names what needs an audience where there is none: a token that was
// made for something else would do.
func (h *Handler) checkAudience() (name string, ok bool) {
	switch {
	case h.Audience != "":
		return "", true
	case h.AcceptBearer:
		return "accept_bearer", false
	case h.VerifyToken != nil:
		return "verify_token", false
	}
	return "", true
}

func (h *Handler) checkCookieName() error {
	name := h.Session.Name
	if name == "" || h.waits(name) {
		return nil
	}
	bare := strings.TrimPrefix(name, hostPrefix)
	switch {
	case bare == "" || !httpguts.ValidHeaderFieldName(bare) || len(bare) > 64:
		return errors.New("is not a cookie name of at most 64 characters")
	case bare == bindingName:
		return errors.New("is the name of another cookie of this module")
	case strings.HasPrefix(strings.ToLower(bare), "__host-"), strings.HasPrefix(strings.ToLower(bare), "__secure-"):
		return errors.New("has a prefix that browsers would hold against it; __Host- is added where it can be")
	case bare != name && strings.HasPrefix(strings.ToLower(h.RedirectURI), "http:"):
		return errors.New("has the prefix __Host-, which needs an https redirect_uri")
	}
	return nil
}

// parseRedirectURI parses a redirect URI, with any name for the host that the
// request is going to fill in.
func parseRedirectURI(raw string) (*url.URL, error) {
	// Only the whole host may be left open: half a name would let whoever owns
	// the other half have the codes.
	if scheme, rest, ok := strings.Cut(raw, "://"+hostPlaceholder); ok {
		if strings.Contains(rest, hostPlaceholder) || rest != "" && rest[0] != ':' && rest[0] != '/' {
			return nil, fmt.Errorf("may hold %s as its host name only", hostPlaceholder)
		}
		raw = scheme + "://" + anyHost + rest
	} else if strings.Contains(raw, hostPlaceholder) {
		return nil, fmt.Errorf("may hold %s as its host name only", hostPlaceholder)
	}
	u, err := aventus.CheckURL(raw)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		return nil, errors.New("needs a path of its own, such as /oauth2/callback")
	}
	if hasDots(u.Path) {
		return nil, errors.New("has a path that no browser asks for")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("has a query that is not well-formed")
	}
	for name, values := range query {
		if len(values) > 1 || slices.Contains([]string{"code", "state", "error", "error_description", "error_uri", "iss"}, name) {
			return nil, fmt.Errorf("has the parameter %s in its query, which would be there twice", name)
		}
	}
	return u, nil
}

// parseKey decodes a sealing key: base64, of either alphabet, padded or not.
func parseKey(text string) ([]byte, error) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("is not base64; `openssl rand -base64 32` makes a good one")
	}
	if len(key) < keyring.SecretSize {
		return nil, fmt.Errorf("must be %d bytes or more before base64; `openssl rand -base64 32` makes a good one", keyring.SecretSize)
	}
	return key, nil
}

func checkDuration(d caddy.Duration) error {
	if d != 0 && time.Duration(d) < time.Second {
		return errors.New("must be a second or more")
	}
	return nil
}

// waits reports whether a value still holds a placeholder.
func (h *Handler) waits(value string) bool {
	return !h.isExpanded && strings.Contains(strings.ReplaceAll(value, hostPlaceholder, ""), "{")
}

// hasDots reports whether a path has segments that browsers resolve before they ask
// for it.
func hasDots(path string) bool {
	return strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./")
}

func isPath(s string) bool {
	// Browsers take the two others for the beginning of a host.
	return strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && !strings.HasPrefix(s, `/\`) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (h *Handler) checkPath(path string) error {
	if !h.waits(path) && (!isPath(path) || path == "/" || strings.ContainsAny(path, "?#%*") || hasDots(path)) {
		return errors.New("needs a path of its own that begins with a slash, and no query or wildcard")
	}
	return nil
}

func (h *Handler) checkScopes(scopes []string) error {
	for _, scope := range scopes {
		if err := aventus.CheckScope(scope); err != nil && !h.waits(scope) {
			return err
		}
	}
	return nil
}

func checkText(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("holds a control character")
	}
	return nil
}

func (h *Handler) checkOneOf(value string, known ...string) error {
	if value == "" || h.waits(value) || slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("must be %s, not %q", strings.Join(known, " or "), value)
}
