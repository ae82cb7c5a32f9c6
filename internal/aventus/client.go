// Package aventus is the client of the Aventus authorization server: the OAuth
// 2.0 Authorization Code Grant (RFC 6749, section 4.1) with PKCE (RFC 7636), in
// the dialect of Auth0.
package aventus

import (
	"context"
	"encoding/base64"
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

// tracer names the instrumentation that makes the spans of token requests.
const tracer = "github.com/aventus-platform/caddy-aventus-auth"

// Config describes the authorization server that a Client talks to, and the client itself.
type Config struct {
	AuthorizeURL string
	TokenURL     string
	ClientID     string
	ClientSecret string
	Audience     string            // the API that tokens are requested for; may be empty
	Scopes       []string          // may be empty
	Params       map[string]string // further authorize parameters, none of [ReservedParams]
	Form         bool              // the token request is a form, not JSON
	Basic        bool              // the secret is sent by HTTP Basic, not in the body
}

// ReservedParams are the authorize parameters that the client sets itself.
var ReservedParams = []string{
	"audience", "client_id", "code_challenge", "code_challenge_method", "nonce",
	"redirect_uri", "response_type", "scope", "state",
}

// Client makes authorize URLs, and exchanges the codes that come back for tokens. It is
// safe for concurrent use.
type Client struct {
	oauth2  oauth2.Config // not to be copied: its methods store into it, atomically
	http    http.Client
	dialect *dialect // the transport of http

	authorizeLen int // the length of an AuthorizeURL without redirect URI, state and nonce
}

// NewClient returns a client of the server that cfg describes. It does not talk
// to the server.
func NewClient(cfg Config) *Client {
	// With an unset style, x/oauth2 sends the code and the secret a second time after any error.
	style := oauth2.AuthStyleInParams
	if cfg.Basic {
		style = oauth2.AuthStyleInHeader
	}
	c := &Client{
		oauth2: oauth2.Config{
			ClientID:     cfg.ClientID,
			ClientSecret: cfg.ClientSecret,
			Endpoint:     oauth2.Endpoint{AuthURL: withParams(cfg), TokenURL: cfg.TokenURL, AuthStyle: style},
			Scopes:       cfg.Scopes,
		},
		dialect: newDialect(cfg),
	}
	c.http.Transport = c.dialect
	c.authorizeLen = len(c.AuthorizeURL("", "-", "", "")) - len("-") // x/oauth2 leaves an empty state out
	return c
}

// withParams returns the URL of the authorize endpoint with those parameters that x/oauth2 does
// not set and that never change. The URL may have a query of its own (RFC 6749, section 3.1).
func withParams(cfg Config) string {
	params := make(url.Values)
	for name, value := range cfg.Params {
		params.Set(name, value)
	}
	if cfg.Audience != "" {
		params.Set("audience", cfg.Audience)
	}
	switch {
	case len(params) == 0:
		return cfg.AuthorizeURL
	case strings.Contains(cfg.AuthorizeURL, "?"):
		return cfg.AuthorizeURL + "&" + params.Encode()
	}
	return cfg.AuthorizeURL + "?" + params.Encode()
}

// AuthorizeURL returns the URL at which a person signs in (RFC 6749, section
// 4.1.1). It has each parameter exactly once. The nonce, for an ID token, may
// be empty: strict servers refuse parameters that they do not know.
func (c *Client) AuthorizeURL(redirectURI, state, verifier, nonce string) string {
	params := []oauth2.AuthCodeOption{redirectTo(redirectURI), oauth2.S256ChallengeOption(verifier)}
	if nonce != "" {
		params = append(params, oauth2.SetAuthURLParam("nonce", nonce))
	}
	return c.oauth2.AuthCodeURL(state, params...)
}

// AuthorizeURLLen returns the length of an AuthorizeURL without its state, which is as long there as it is: sealed
// values need no escapes.
func (c *Client) AuthorizeURLLen(redirectURI, nonce string) int {
	length := c.authorizeLen + len(url.QueryEscape(redirectURI))
	if nonce != "" {
		length += len("&nonce=") + len(nonce)
	}
	return length
}

// redirectTo sets the redirect URI of a single request. [oauth2.Config] has a field for it,
// which is the same for all requests.
func redirectTo(redirectURI string) oauth2.AuthCodeOption {
	return oauth2.SetAuthURLParam("redirect_uri", redirectURI)
}

// Exchange exchanges a code for a token (RFC 6749, section 4.1.3). It sends one request,
// whatever happens. The redirect URI and the verifier must be those of the authorize URL.
func (c *Client) Exchange(ctx context.Context, code, redirectURI, verifier string) (*oauth2.Token, *Error) {
	return c.requestToken(ctx, "authorization_code", func(ctx context.Context) (*oauth2.Token, error) {
		return c.oauth2.Exchange(ctx, code, redirectTo(redirectURI), oauth2.VerifierOption(verifier))
	})
}

// Refresh requests a new token with a refresh token (RFC 6749, section 6). It sends one
// request. A server that does not rotate refresh tokens answers without one; the result
// then has the old one.
func (c *Client) Refresh(ctx context.Context, refreshToken string) (*oauth2.Token, *Error) {
	return c.requestToken(ctx, grantRefresh, func(ctx context.Context) (*oauth2.Token, error) {
		// A source keeps the context that it was made with, so each request has its own source.
		return c.oauth2.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
	})
}

const grantRefresh = "refresh_token"

// requestToken sends a token request, within its time limit. If the visitor's request is
// traced, the token request is a span of that trace; the server receives no trace header.
//
// Callers take the lifetime of the token from its ExpiresIn, which is always set and positive:
// its Expiry is computed from the system clock. [Scope] and [IDToken] return the other fields.
func (c *Client) requestToken(
	ctx context.Context, grant string, send func(context.Context) (*oauth2.Token, error),
) (*oauth2.Token, *Error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracer).Start(ctx, "token request",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("oauth.grant_type", grant)))
	defer span.End()
	token, err := send(context.WithValue(ctx, oauth2.HTTPClient, &c.http))
	if err == nil {
		return token, nil
	}
	e := asError(ctx, err)
	e.renews = grant == grantRefresh
	span.SetStatus(codes.Error, e.Kind.String())
	if e.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", e.Status))
	}
	return nil, e
}

// Scope returns the scope of a token as the server granted it: "" if the server did not state it,
// and a space if it granted none.
func Scope(token *oauth2.Token) string {
	scope, _ := token.Extra("scope").(string)
	return scope
}

// IDToken returns the ID token that came with a token, not verified. It is "" if none came, or
// if none was asked for.
func IDToken(token *oauth2.Token) string {
	idToken, _ := token.Extra("id_token").(string)
	return idToken
}

// Revoke revokes a refresh token at the server (RFC 7009, section 2.1), in the dialect of
// the token request.
func (c *Client) Revoke(ctx context.Context, to, refreshToken string) *Error {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	if err := c.sendRevocation(ctx, to, refreshToken); err != nil {
		e := asError(ctx, err)
		e.of = revokeURL
		return e
	}
	return nil
}

func (c *Client) sendRevocation(ctx context.Context, to, refreshToken string) error {
	params := url.Values{"token": {refreshToken}}
	if c.oauth2.Endpoint.AuthStyle == oauth2.AuthStyleInParams {
		params.Set("client_id", c.oauth2.ClientID)
		params.Set("client_secret", c.oauth2.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(params.Encode()))
	if err != nil {
		return err
	}
	if c.oauth2.Endpoint.AuthStyle == oauth2.AuthStyleInHeader { // RFC 6749, section 2.3.1
		req.SetBasicAuth(url.QueryEscape(c.oauth2.ClientID), url.QueryEscape(c.oauth2.ClientSecret))
	}
	_, err = c.dialect.send(req)
	return err
}

// Close closes idle connections. Requests that are still in flight close theirs when they end.
func (c *Client) Close() {
	c.dialect.closed.Store(true)
	c.dialect.base.CloseIdleConnections()
}

// Verifier returns the PKCE code verifier made of 32 secret bytes (RFC 7636,
// section 4.1).
func Verifier(secret []byte) string { return base64.RawURLEncoding.EncodeToString(secret) }

// SameIssuer reports whether two issuers are the same but for a final slash, about which
// an authorization server's metadata and its tokens do not always agree.
func SameIssuer(a, b string) bool {
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
