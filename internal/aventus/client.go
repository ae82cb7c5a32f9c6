// Package aventus is the client of the Aventus authorization server: the OAuth
// 2.0 Authorization Code Grant (RFC 6749, section 4.1) with PKCE (RFC 7636), in
// the dialect of Auth0.
package aventus

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// tokenTimeout bounds a token request, from the dial to the last byte.
const tokenTimeout = 10 * time.Second

// Config says which authorization server a Client talks to, and as whom.
type Config struct {
	AuthorizeURL string
	TokenURL     string
	ClientID     string
	ClientSecret string
	Audience     string     // the API that is asked for; may be empty
	Scopes       []string   // may be empty
	Params       url.Values // further authorize parameters, none of [ReservedParams]
	Form         bool       // the token request is a form, not JSON
	Basic        bool       // the secret travels in HTTP Basic, not in the body
}

// ReservedParams are the authorize parameters that the client sets itself.
var ReservedParams = []string{
	"audience", "client_id", "code_challenge", "code_challenge_method", "nonce",
	"redirect_uri", "response_type", "scope", "state",
}

// Client sends people to the authorization server, and exchanges the codes they
// come back with. It is safe for concurrent use.
type Client struct {
	oauth2 oauth2.Config
	params []oauth2.AuthCodeOption
	http   *http.Client
}

// NewClient returns a client of the server that cfg describes. It does not talk
// to the server.
func NewClient(cfg Config) *Client {
	style := oauth2.AuthStyleInParams
	if cfg.Basic {
		style = oauth2.AuthStyleInHeader
	}
	c := &Client{
		oauth2: oauth2.Config{
			ClientID:     cfg.ClientID,
			ClientSecret: cfg.ClientSecret,
			Endpoint:     oauth2.Endpoint{AuthURL: cfg.AuthorizeURL, TokenURL: cfg.TokenURL, AuthStyle: style},
			Scopes:       cfg.Scopes,
		},
		http: &http.Client{Transport: newDialect(cfg)},
	}
	if cfg.Audience != "" {
		c.params = append(c.params, oauth2.SetAuthURLParam("audience", cfg.Audience))
	}
	for name := range cfg.Params {
		c.params = append(c.params, oauth2.SetAuthURLParam(name, cfg.Params.Get(name)))
	}
	return c
}

// AuthorizeURL returns where to send a person to sign in (RFC 6749, section
// 4.1.1). Each parameter stands in it exactly once. The nonce, for an ID token, may
// be empty: strict servers refuse parameters that they do not know.
func (c *Client) AuthorizeURL(redirectURI, state, verifier, nonce string) string {
	cfg := c.oauth2
	cfg.RedirectURL = redirectURI
	params := append(c.params[:len(c.params):len(c.params)], oauth2.S256ChallengeOption(verifier))
	if nonce != "" {
		params = append(params, oauth2.SetAuthURLParam("nonce", nonce))
	}
	return cfg.AuthCodeURL(state, params...)
}

// Exchange asks for the token that code stands for (RFC 6749, section 4.1.3).
// It asks once, whatever happens. The redirect URI and the verifier must be those
// of the authorize URL.
func (c *Client) Exchange(ctx context.Context, code, redirectURI, verifier string) (Token, *Error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c.http)

	cfg := c.oauth2
	cfg.RedirectURL = redirectURI
	token, err := cfg.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Token{}, asError(ctx, err)
	}
	scope, _ := token.Extra("scope").(string)
	idToken, _ := token.Extra("id_token").(string)
	return Token{
		AccessToken: token.AccessToken,
		ExpiresIn:   time.Duration(token.ExpiresIn) * time.Second,
		Scope:       scope,
		IDToken:     idToken,
	}, nil
}

// newTransport returns a transport with bounds. It is not http.DefaultTransport's
// clone, which other modules of the same Caddy may have changed.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: tokenTimeout}).DialContext,
		TLSHandshakeTimeout:    tokenTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64, // all there is to reuse is one host
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Verifier returns the PKCE code verifier made of 32 secret bytes (RFC 7636,
// section 4.1).
func Verifier(secret []byte) string { return base64.RawURLEncoding.EncodeToString(secret) }

// Token is a token answer that was found good.
type Token struct {
	AccessToken string
	ExpiresIn   time.Duration // positive
	Scope       string        // as the server granted it; empty: not said; blank: none
	IDToken     string        // not verified; may be empty
}

// SameIssuer reports whether two issuers are the same, a final slash or none
// aside: an authorization server's metadata and its tokens are not always of one
// mind about it.
func SameIssuer(a, b string) bool {
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
