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

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/oauth2"
)

// tokenTimeout bounds a token request, from the dial to the last byte.
const tokenTimeout = 10 * time.Second

// tracer names who makes the spans of token requests.
const tracer = "github.com/aventus-platform/caddy-aventus-auth"

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
	oauth2  oauth2.Config
	params  []oauth2.AuthCodeOption
	http    *http.Client
	dialect *dialect
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
		dialect: newDialect(cfg),
	}
	c.http = &http.Client{Transport: c.dialect}
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
	cfg := c.oauth2
	cfg.RedirectURL = redirectURI
	return c.request(ctx, "authorization_code", func(ctx context.Context) (*oauth2.Token, error) {
		return cfg.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	})
}

// request sends a token request, within its bounds. Where the request that it is for
// is traced, it is a span of that trace; nothing of it goes to the server.
func (c *Client) request(ctx context.Context, grant string, send func(context.Context) (*oauth2.Token, error)) (Token, *Error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracer).Start(ctx, "token request",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("oauth.grant_type", grant)))
	defer span.End()
	token, err := send(context.WithValue(ctx, oauth2.HTTPClient, c.http))
	if err != nil {
		e := asError(ctx, err)
		span.SetStatus(codes.Error, e.Kind.String())
		if e.Status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", e.Status))
		}
		return Token{}, e
	}
	scope, _ := token.Extra("scope").(string)
	idToken, _ := token.Extra("id_token").(string)
	return Token{
		AccessToken:  token.AccessToken,
		RefreshToken: token.RefreshToken,
		ExpiresIn:    time.Duration(token.ExpiresIn) * time.Second,
		Scope:        scope,
		IDToken:      idToken,
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

// Refresh asks for a new token with a refresh token (RFC 6749, section 6). It asks
// once. A server that does not rotate refresh tokens answers without one; then the
// old one stands in the result.
func (c *Client) Refresh(ctx context.Context, refreshToken string) (Token, *Error) {
	return c.request(ctx, "refresh_token", func(ctx context.Context) (*oauth2.Token, error) {
		cfg := c.oauth2 // x/oauth2 writes into the one that it is called on, while others copy it
		return cfg.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
	})
}

// Revoke tells the server that a refresh token is not needed any more (RFC 7009,
// section 2.1), in the dialect of the token request.
func (c *Client) Revoke(ctx context.Context, revokeURL, refreshToken string) *Error {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	params := url.Values{"token": {refreshToken}}
	if c.oauth2.Endpoint.AuthStyle == oauth2.AuthStyleInParams {
		params.Set("client_id", c.oauth2.ClientID)
		params.Set("client_secret", c.oauth2.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, revokeURL, strings.NewReader(params.Encode()))
	if err != nil {
		return asError(ctx, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if c.oauth2.Endpoint.AuthStyle == oauth2.AuthStyleInHeader {
		req.SetBasicAuth(url.QueryEscape(c.oauth2.ClientID), url.QueryEscape(c.oauth2.ClientSecret))
	}
	if _, err := c.dialect.send(req); err != nil {
		return asError(ctx, err)
	}
	return nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Verifier returns the PKCE code verifier made of 32 secret bytes (RFC 7636,
// section 4.1).
func Verifier(secret []byte) string { return base64.RawURLEncoding.EncodeToString(secret) }

// Token is a token answer that was found good.
type Token struct {
	AccessToken  string
	RefreshToken string        // may be empty
	ExpiresIn    time.Duration // positive
	Scope        string        // as the server granted it; empty: not said; blank: none
	IDToken      string        // not verified; may be empty
}

// SameIssuer reports whether two issuers are the same, a final slash or none
// aside: an authorization server's metadata and its tokens are not always of one
// mind about it.
func SameIssuer(a, b string) bool {
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
