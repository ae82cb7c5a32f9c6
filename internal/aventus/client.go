// Package aventus is the client of the Aventus authorization server: the OAuth
// 2.0 Authorization Code Grant (RFC 6749, section 4.1) with PKCE (RFC 7636), in
// the dialect of Auth0.
package aventus

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
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
	Audience     string            // the API that is asked for; may be empty
	Scopes       []string          // may be empty
	Params       map[string]string // further authorize parameters, none of [ReservedParams]
	Form         bool              // the token request is a form, not JSON
	Basic        bool              // the secret travels in HTTP Basic, not in the body
}

// ReservedParams are the authorize parameters that the client sets itself.
var ReservedParams = []string{
	"audience", "client_id", "code_challenge", "code_challenge_method", "nonce",
	"redirect_uri", "response_type", "scope", "state",
}

// Client sends people to the authorization server, and exchanges the codes they
// come back with. It is safe for concurrent use.
type Client struct {
	cfg       Config
	authorize string // the authorize URL, with the parameters that are always the same
	transport *http.Transport
	closed    atomic.Bool
}

// NewClient returns a client of the server that cfg describes. It does not talk
// to the server.
func NewClient(cfg Config) *Client {
	params := url.Values{"response_type": {"code"}, "client_id": {cfg.ClientID}, "code_challenge_method": {"S256"}}
	for name, value := range cfg.Params {
		params.Set(name, value)
	}
	if cfg.Audience != "" {
		params.Set("audience", cfg.Audience)
	}
	if len(cfg.Scopes) > 0 {
		params.Set("scope", strings.Join(cfg.Scopes, " "))
	}
	joint := "?"
	if strings.Contains(cfg.AuthorizeURL, "?") { // it may have a query (RFC 6749, section 3.1)
		joint = "&"
	}
	return &Client{cfg: cfg, authorize: cfg.AuthorizeURL + joint + params.Encode(), transport: newTransport()}
}

// AuthorizeURL returns where to send a person to sign in (RFC 6749, section
// 4.1.1). Each parameter stands in it exactly once. The nonce, for an ID token, may
// be empty: strict servers refuse parameters that they do not know.
func (c *Client) AuthorizeURL(redirectURI, state, verifier, nonce string) string {
	challenge := sha256.Sum256([]byte(verifier)) // RFC 7636, section 4.2
	params := url.Values{
		"redirect_uri": {redirectURI}, "state": {state}, "code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])},
	}
	if nonce != "" {
		params.Set("nonce", nonce)
	}
	return c.authorize + "&" + params.Encode()
}

// Exchange asks for the token that code stands for (RFC 6749, section 4.1.3).
// It asks once, whatever happens. The redirect URI and the verifier must be those
// of the authorize URL.
func (c *Client) Exchange(ctx context.Context, code, redirectURI, verifier string) (Token, *Error) {
	return c.requestToken(ctx, map[string]string{
		"grant_type": "authorization_code", "code": code, "redirect_uri": redirectURI, "code_verifier": verifier,
	})
}

// Refresh asks for a new token with a refresh token (RFC 6749, section 6). It asks
// once. A server that does not rotate refresh tokens answers without one; then the
// old one stands in the result.
func (c *Client) Refresh(ctx context.Context, refreshToken string) (Token, *Error) {
	token, err := c.requestToken(ctx, map[string]string{"grant_type": "refresh_token", "refresh_token": refreshToken})
	if err == nil && token.RefreshToken == "" {
		token.RefreshToken = refreshToken
	}
	return token, err
}

// requestToken sends a token request, within its bounds. Where the request that it is
// for is traced, it is a span of that trace; nothing of it goes to the server.
func (c *Client) requestToken(ctx context.Context, params map[string]string) (token Token, tokenErr *Error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracer).Start(ctx, "token request",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("oauth.grant_type", params["grant_type"])))
	defer span.End()
	answer, err := c.post(ctx, c.cfg.TokenURL, params)
	if err == nil {
		token, tokenErr = parseAnswer(answer.status, answer.body, answer.clean)
	} else {
		tokenErr = asError(ctx, err)
	}
	if tokenErr != nil {
		span.SetStatus(codes.Error, tokenErr.Kind.String())
		if tokenErr.Status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", tokenErr.Status))
		}
	}
	return token, tokenErr
}

// Revoke tells the server that a refresh token is not needed any more (RFC 7009,
// section 2.1), in the dialect of the token request.
func (c *Client) Revoke(ctx context.Context, revokeURL, refreshToken string) *Error {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	if _, err := c.post(ctx, revokeURL, map[string]string{"token": refreshToken}); err != nil {
		return asError(ctx, err)
	}
	return nil
}

// Close lets go of idle connections. What is still under way, for a config that was
// replaced, leaves none behind either.
func (c *Client) Close() {
	c.closed.Store(true)
	c.transport.CloseIdleConnections()
}

// Verifier returns the PKCE code verifier made of 32 secret bytes (RFC 7636,
// section 4.1).
func Verifier(secret []byte) string { return base64.RawURLEncoding.EncodeToString(secret) }

// SameIssuer reports whether two issuers are the same, a final slash or none
// aside: an authorization server's metadata and its tokens are not always of one
// mind about it.
func SameIssuer(a, b string) bool {
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
