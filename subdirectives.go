package aventusauth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// off is the value that switches off what has a default.
const off = "off"

// subdirectives are in the order in which they are documented, and checked.
var subdirectives = []subdirective{
	{
		name: "client_id", required: true,
		field: func(c *Config) any { return &c.ClientID },
		check: func(c checked) error { return checkText(c.ClientID) },
	},
	{
		name: "client_secret", required: true,
		field: func(c *Config) any { return &c.ClientSecret },
		check: func(c checked) error { return checkText(c.ClientSecret) },
	},
	{
		name: "redirect_uri", required: true, forRequest: hostPlaceholder,
		field: func(c *Config) any { return &c.RedirectURI },
		check: func(c checked) error {
			if c.waits(c.RedirectURI) {
				return nil
			}
			if _, err := parseRedirectURI(c.RedirectURI); err != nil {
				return err
			}
			return c.distinctPaths()
		},
	},
	{
		name:  "audience",
		field: func(c *Config) any { return &c.Audience },
		check: func(c checked) error { return checkText(c.Audience) },
	},
	{
		name: "scope", repeatable: true, takes: "one scope or more",
		field: func(c *Config) any { return &c.Scopes },
		check: func(c checked) error { return c.scopes(c.Scopes) },
	},
	{
		name:  "issuer",
		field: func(c *Config) any { return &c.Issuer },
		check: func(c checked) error {
			if c.Issuer == "" || c.waits(c.Issuer) {
				return nil
			}
			_, err := aventus.CheckIssuer(c.Issuer)
			return err
		},
	},
	{
		name:  "authorize_url",
		field: func(c *Config) any { return &c.AuthorizeURL },
		check: func(c checked) error {
			if c.AuthorizeURL == "" || c.waits(c.AuthorizeURL) {
				return nil
			}
			return aventus.CheckAuthorizeURL(c.AuthorizeURL, c.AuthorizeParams)
		},
	},
	{
		name:  "token_url",
		field: func(c *Config) any { return &c.TokenURL },
		check: func(c checked) error { return c.url(c.TokenURL) },
	},
	{
		name:  "token_request",
		field: func(c *Config) any { return &c.TokenRequest },
		check: func(c checked) error { return c.oneOf(c.TokenRequest, "json", "form") },
	},
	{
		name:  "token_auth",
		field: func(c *Config) any { return &c.TokenAuth },
		check: func(c checked) error { return c.oneOf(c.TokenAuth, "post", "basic") },
	},
	{
		name: "authorize_param", repeatable: true, takes: "a name and a value", min: 2, max: 2,
		field: func(c *Config) any { return &c.AuthorizeParams },
		read: func(c *Config, args []string) error {
			if _, ok := c.AuthorizeParams[args[0]]; ok {
				return fmt.Errorf("%s is given twice", args[0])
			}
			if c.AuthorizeParams == nil {
				c.AuthorizeParams = make(map[string]string)
			}
			c.AuthorizeParams[args[0]] = args[1]
			return nil
		},
		check: func(c checked) error {
			for param, value := range c.AuthorizeParams {
				if err := aventus.CheckParam(param); err != nil {
					return err
				}
				if err := aventus.CheckParamValue(param, value); err != nil && !c.waits(value) {
					return err
				}
			}
			return nil
		},
		together: func(c checked) error {
			if c.asksForID() {
				return nil
			}
			for _, param := range aventus.ComparedParams {
				if _, there := c.AuthorizeParams[param]; there {
					return &paramError{
						param, errors.New("needs the scope openid: it is compared with what the ID token says"),
					}
				}
			}
			return nil
		},
	},
	{
		name:  "unauthenticated",
		field: func(c *Config) any { return &c.Unauthenticated },
		check: func(c checked) error { return c.oneOf(c.Unauthenticated, "auto", "redirect", "deny", "pass") },
	},
	{
		name: "require_scope", repeatable: true, takes: "one scope or more",
		field: func(c *Config) any { return &c.RequireScope },
		check: func(c checked) error { return c.scopes(c.RequireScope) },
	},
	{
		name: "require_claim", repeatable: true, takes: "a claim, and a value or more", min: 2,
		field: func(c *Config) any { return &c.RequireClaim },
		read: func(c *Config, args []string) error {
			c.RequireClaim = append(c.RequireClaim, ClaimRequirement{Claim: args[0], Values: args[1:]})
			return nil
		},
		check: func(c checked) error {
			if len(c.RequireClaim) == 0 {
				return nil
			}
			return checkRequirements(c.RequireClaim, c.waits)
		},
	},
	{
		name:  "jwks_url",
		field: func(c *Config) any { return &c.JWKSURL },
		check: func(c checked) error { return c.url(c.JWKSURL) },
	},
	{
		name:  "verify_token",
		field: func(c *Config) any { return &c.VerifyToken },
		together: func(c checked) error {
			if !c.VerifyToken {
				return nil
			}
			return c.needsAudience()
		},
	},
	{
		name:  "accept_bearer",
		field: func(c *Config) any { return &c.AcceptBearer },
		together: func(c checked) error {
			if !c.AcceptBearer {
				return nil
			}
			return c.needsAudience()
		},
	},
	{
		name:  "revoke_url",
		field: func(c *Config) any { return &c.RevokeURL },
		check: func(c checked) error {
			if c.RevokeURL == off {
				return nil
			}
			return c.url(c.RevokeURL)
		},
	},
	{
		name:  "token_header",
		field: func(c *Config) any { return &c.TokenHeader },
		check: func(c checked) error { return c.tokenHeader(c.TokenHeader) },
	},
	{
		name: "hosts", repeatable: true, takes: "one host or more",
		field: func(c *Config) any { return &c.Hosts },
		check: func(c checked) error { return c.hosts() },
		together: func(c checked) error {
			if len(c.Hosts) > 0 && strings.Contains(c.RedirectURI, hostPlaceholder) {
				return fmt.Errorf("cannot stand beside %s in redirect_uri, by which each host logs in by itself",
					hostPlaceholder)
			}
			return nil
		},
	},
	{
		name:  "session store",
		field: func(c *Config) any { return &c.Session.Store },
		check: func(c checked) error { return c.oneOf(c.Session.Store, "cookie", "storage") },
	},
	{
		name:  "session name",
		field: func(c *Config) any { return &c.Session.Name },
		check: func(c checked) error { return c.cookieName(c.Session.Name) },
	},
	{
		name:  "session lifetime",
		field: func(c *Config) any { return &c.Session.Lifetime },
		check: func(c checked) error {
			if time.Duration(c.Session.Lifetime) > maxLifetime {
				return errors.New("must be 400 days (9600h) at most")
			}
			return checkDuration(c.Session.Lifetime)
		},
	},
	{
		name:  "session idle",
		field: func(c *Config) any { return &c.Session.Idle },
		check: func(c checked) error { return checkDuration(c.Session.Idle) },
	},
	{
		name:  "session renew_before",
		field: func(c *Config) any { return &c.Session.RenewBefore },
		check: func(c checked) error { return checkDuration(c.Session.RenewBefore) },
	},
	{
		name: "session key", takes: "one argument or more", min: 1,
		field: func(c *Config) any { return &c.Session.Keys },
		read: func(c *Config, args []string) error {
			c.Session.Keys = args
			return nil
		},
		check: func(c checked) error {
			for i, text := range c.Session.Keys {
				if _, err := parseKey(text); err != nil && !c.waits(text) {
					return err
				}
				if slices.Contains(c.Session.Keys[:i], text) {
					return errors.New("is given the same key twice")
				}
			}
			return nil
		},
	},
	{
		name: "logout", takes: "a path, and a return url if you like", min: 1, max: 2,
		field: func(c *Config) any { return &c.Logout },
		read: func(c *Config, args []string) error {
			c.Logout = &Logout{Path: args[0]}
			if len(args) == 2 {
				c.Logout.ReturnURL = args[1]
			}
			return nil
		},
		check: func(c checked) error {
			if c.Logout == nil {
				return nil
			}
			if err := c.path(c.Logout.Path); err != nil {
				return err
			}
			if err := c.returnURL(c.Logout.ReturnURL); err != nil {
				return err
			}
			return c.distinctPaths()
		},
	},
	{
		name:  "logout_provider",
		field: func(c *Config) any { return &c.LogoutProvider },
		together: func(c checked) error {
			if c.LogoutProvider && c.Logout == nil {
				return errors.New("needs a logout")
			}
			return nil
		},
	},
	{
		name:  "backchannel_logout",
		field: func(c *Config) any { return &c.BackchannelLogout },
		check: func(c checked) error {
			if c.BackchannelLogout == "" {
				return nil
			}
			if err := c.path(c.BackchannelLogout); err != nil {
				return err
			}
			return c.distinctPaths()
		},
		together: func(c checked) error {
			if c.BackchannelLogout == "" || c.asksForID() {
				return nil
			}
			return errors.New("needs the scope openid: the ID token says which session a logout token ends")
		},
	},
	{
		name:  "profile",
		field: func(c *Config) any { return &c.Profile },
		check: func(c checked) error {
			if c.Profile == "" {
				return nil
			}
			if err := c.path(c.Profile); err != nil {
				return err
			}
			return c.distinctPaths()
		},
	},
}
