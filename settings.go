package aventusauth

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

const (
	defaultIssuer   = "https://auth.homelyfe.com/"
	defaultName     = "aventus_session"
	defaultLifetime = 24 * time.Hour
	defaultRenew    = 5 * time.Minute
)

// settings are what the handler works with: the config with its placeholders
// replaced, checked, and its defaults filled in. A secret that was expanded stands
// here alone, never in an exported field, since Caddy logs those at DEBUG.
type settings struct {
	aventus.Config
	issuer          string
	issuerWritten   string // without the final slash that issuer has, if it was written so
	sites           *sites
	label           string     // what the site is called in metrics: its origin
	hosts           *hostGroup // the redirect URI's (or what stands in for hostPlaceholder), and the others
	listed          []string   // the hosts that share the login, as the config has them
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
	backchannelPath string // empty: none
	profilePath     string // empty: none
	requireClaim    []claimRule
	requireScope    []string
	verify          bool // access tokens are verified
	acceptBearer    bool
	vary            []string // the request headers that tell visitors apart
	jwksURL         string
	revokeURL       string // empty: nowhere
	tokenHeader     string // where the token goes on; empty: nowhere
}

// settings makes the settings of the config, or the error that tells what is
// wrong with it, beginning with the subdirective's name.
func (c *Config) settings() (*settings, error) {
	c, err := c.expanded()
	if err != nil {
		return nil, err
	}
	if _, err := c.checkAll(true); err != nil {
		return nil, err
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
		unauthenticated: c.Unauthenticated,
		cookieName:      c.Session.Name,
		bindingName:     bindingName,
		lifetime:        time.Duration(c.Session.Lifetime),
		idle:            time.Duration(c.Session.Idle),
		renewBefore:     time.Duration(c.Session.RenewBefore),
		inStorage:       c.Session.Store == "storage" || len(c.Hosts) > 0,
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
	s.issuerWritten = c.Issuer
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
	s.callbackPath, s.hosts = redirect.Path, newHostGroup(hostName(redirect.Host), c.Hosts)
	s.listed = c.Hosts
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
	s.backchannelPath, s.profilePath = c.BackchannelLogout, c.Profile
	s.requireScope = c.RequireScope
	for _, req := range c.RequireClaim {
		s.requireClaim = append(s.requireClaim, claimRule{req.Claim, req.Values})
	}
	s.vary = []string{"Cookie"}
	if s.acceptBearer = c.AcceptBearer; s.acceptBearer {
		s.vary = append(s.vary, "Authorization")
	}
	s.verify = c.VerifyToken || c.AcceptBearer
	s.jwksURL = cmp.Or(c.JWKSURL, s.issuer+".well-known/jwks.json")
	if c.RevokeURL != off {
		s.revokeURL = cmp.Or(c.RevokeURL, s.issuer+"oauth/revoke")
	}
	if c.TokenHeader != off {
		s.tokenHeader = http.CanonicalHeaderKey(cmp.Or(c.TokenHeader, "Authorization"))
	}
	scopes := strings.Join(slices.Sorted(slices.Values(s.Scopes)), " ")
	bound := []string{s.cookieName, s.issuer, s.ClientID, s.Audience, scopes}
	// A parameter that is compared at a login holds for the sessions that came of it, and for no
	// others.
	var compared []string
	for _, param := range aventus.ComparedParams {
		if value, ok := s.Params[param]; ok {
			compared = append(compared, fmt.Sprintf("%s=%q", param, value))
		}
	}
	sharing := s.hosts
	if len(c.Hosts) == 0 {
		sharing = nil
	}
	s.sites = newSites(c.RedirectURI, sharing, bound, compared)
	s.label = s.sites.with(c.RedirectURI).origin
	return s, nil
}

// asksForID reports whether an ID token is asked for (OpenID Connect Core 1.0,
// section 3.1.2.1).
func (s *settings) asksForID() bool { return slices.Contains(s.Scopes, "openid") }

// asksForRefresh reports whether a refresh token is asked for (OpenID Connect Core
// 1.0, section 11).
func (s *settings) asksForRefresh() bool { return slices.Contains(s.Scopes, "offline_access") }

// memoryID returns what blocks have in common whose cookies are opened alike: the sealing keys of the config, and
// all that sessions are bound to, but for the origin of each.
func (s *settings) memoryID() (id [8]byte) {
	var parts []byte
	add := func(part []byte) {
		sum := sha256.Sum256(part)
		parts = append(parts, sum[:]...)
	}
	for _, key := range s.keys {
		add(key)
	}
	add(nil) // the end of a list; no key is empty
	for _, bound := range s.sites.bound {
		for _, text := range bound {
			add([]byte("=" + text))
		}
		add(nil)
	}
	if s.sites.hosts != nil {
		add(s.sites.fixed.group)
	}
	sum := sha256.Sum256(parts)
	copy(id[:], sum[:])
	return id
}
