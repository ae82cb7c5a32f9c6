// Copyright 2026 The aventus_auth Authors
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Package aventusauth is a Caddy module that puts a site behind the login of the
// Aventus Platform.
//
// A request's way through the files: ServeHTTP in handler.go tells the callback,
// the logout, the profile, what is protected (matching.go) and what is not apart.
// What is protected needs a session, which session.go opens from its cookie
// (cookie.go), or from its record in Caddy's storage (store.go). Without one,
// login.go sends the visitor to the authorization server (startLogin), and takes
// them back at the callback (finishLogin), where internal/aventus exchanges the
// code for a token.
// With one, renew.go sees that its token lives, identity.go says who it is and
// whether they may, passage.go takes out of the request what the visitor may not
// say, and it goes on with the token; stream.go ends what outlasts the session.
//
// Beside it, config.go says what a good configuration is, peers.go introduces the
// blocks of one config to each other, admin.go is for those who look after the
// sessions, and doctor.go for those whose logins do not work; command.go has the
// commands of both. What is sealed is sealed with the keys of internal/keyring, and
// what is to be known by all instances is in internal/records.
package aventusauth

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler puts a site behind the login of the Aventus Platform, with the OAuth
// 2.0 Authorization Code Grant ([RFC 6749, section 4.1](https://www.rfc-editor.org/rfc/rfc6749#section-4.1))
// and PKCE ([RFC 7636](https://www.rfc-editor.org/rfc/rfc7636)).
//
// A visitor without a session is sent to the authorization server, and comes back
// with a code, which is exchanged for an access token. From then on their
// requests go on to the next handler with `Authorization: Bearer <token>`, in
// place of whatever they sent in that header.
//
// The session rides in one cookie, sealed with a key that is made on first need
// and kept in Caddy's storage, so it survives restarts, and every instance of a
// cluster can open it.
//
// String values may hold global placeholders, such as `{env.NAME}` and
// `{file./path}`, which are replaced when the config is loaded.
//
// These placeholders are set for a request with a session, and are empty where
// there is none, or no such claim:
//
// Placeholder | Description
// ------------|------------
// `{http.auth.user.id}` | The subject: the token's `sub`
// `{http.auth.user.scope}` | The scopes that were granted, separated by spaces
// `{http.auth.user.*}` | A claim of the access token, or else of the ID token. Dots lead into objects
//
// When a request fails, these are set for the error routes:
//
// Placeholder | Description
// ------------|------------
// `{http.aventus_auth.error}` | A stable code for what went wrong, such as `access_denied`
// `{http.aventus_auth.error_description}` | A sentence about it, for a person
type Handler struct {
	// Which requests are protected. The paths of the callback and of the logout
	// are served whether they match or not. Default: all requests.
	MatcherSetsRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`

	// The id of the application at the authorization server. Required.
	ClientID string `json:"client_id,omitempty"`

	// The application's secret. Required. A secret that is written here as it is,
	// and not as a placeholder, stands in Caddy's config, its admin API and its
	// autosaved file.
	ClientSecret string `json:"client_secret,omitempty"`

	// The callback URL that is registered for the application, to the letter. Its
	// path is served by this handler. Required. `{http.request.host}` may stand in
	// for the host name, so that one block serves several hosts, all registered.
	// It must be an https URL, unless its host is a loopback one.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// The identifier of the API that the access token is for. Without it, the
	// access token may be an opaque string and no JWT. Default: none.
	Audience string `json:"audience,omitempty"`

	// The scopes to ask for. Duplicates are dropped. Default: none.
	Scopes []string `json:"scopes,omitempty"`

	// The authorization server's issuer URL. One without a final slash gets one.
	// Default: `https://auth.homelyfe.com/`.
	Issuer string `json:"issuer,omitempty"`

	// The authorization endpoint (RFC 6749, section 3.1). Default: `authorize`
	// below the issuer.
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
	// refused. Default: none.
	AuthorizeParams map[string]string `json:"authorize_params,omitempty"`

	// What becomes of a request without a session:
	//
	// - `auto`: a page visit is sent to the login (302), everything else gets 401
	// - `redirect`: everything but a WebSocket is sent to the login, pages with
	//   302, the rest with 303
	// - `deny`: everything gets 401
	// - `pass`: it goes on, without an Authorization header
	//
	// Default: `auto`.
	Unauthenticated string `json:"unauthenticated,omitempty"`

	// Scopes that a request needs to have been granted, all of them; it gets 403
	// without. Entries of Auth0's `permissions` claim count as scopes. Default:
	// none.
	RequireScope []string `json:"require_scope,omitempty"`

	// Claims that a request needs, all of them; it gets 403 without. Default: none.
	RequireClaim []ClaimRequirement `json:"require_claim,omitempty"`

	// Check the access token's signature, `iss`, `aud` and `exp` when it comes.
	// Needs an audience. Default: the token is taken as it comes, over TLS, from
	// the token endpoint.
	VerifyToken *TokenVerification `json:"verify_token,omitempty"`

	// Let API clients in that send a verified token of their own, as
	// `Authorization: Bearer <token>` (RFC 6750). Needs an audience, and implies
	// verify_token. Default: false.
	AcceptBearer bool `json:"accept_bearer,omitempty"`

	// How a session is kept. Default: in its cookie, for as long as its token lives,
	// and 24 hours at the most.
	Session Session `json:"session,omitzero"`

	// A path that ends the session. Default: none.
	Logout *Logout `json:"logout,omitempty"`

	// Have the logout also end the session at the authorization server, by way of
	// that one's logout page. Default: false.
	LogoutProvider bool `json:"logout_provider,omitempty"`

	// A path that answers JSON about the session, for a page's script. Default:
	// none.
	Profile string `json:"profile,omitempty"`

	isExpanded bool // it is a copy without placeholders, as the settings are made of

	matchers caddyhttp.MatcherSets
	cfg      *settings
	client   *aventus.Client
	states   *keyring.Box
	proofs   *keyring.Box // PKCE code verifiers
	sessions *keyring.Box
	index    *keyring.Box   // what is said of a session in the storage, beside it
	shelf    *records.Shelf // sessions that rest in the storage
	memory   *memory        // of what is in the storage
	storage  certmagic.Storage
	renewals *singleflight.Group // of sessions with a refresh token
	learning *sync.Once          // sees to it that what others end is learned
	opened   *lru.Cache[openedKey, *session]
	keySet   *aventus.KeySet        // the authorization server's public keys
	idTokens *aventus.IDVerifier    // nil where none are asked for
	tokens   *aventus.TokenVerifier // nil where access tokens are taken as they come
	verified *lru.Cache[[32]byte, *session]
	memoryID string // of the memory in memories; empty: none held
	config   any    // of the peers in configs; nil: none
	peers    *peers
	logger   *zap.Logger
	now      func() time.Time

	events *caddyevents.App
	ctx    caddy.Context

	streamCheck time.Duration
}

// ClaimRequirement says what a claim has to be.
type ClaimRequirement struct {
	// The claim's name. Dots lead into objects. Required.
	Claim string `json:"claim,omitempty"`

	// The values of which the claim has to be one, or to contain one. A number or
	// a boolean is compared as its JSON text. Required.
	Values []string `json:"values,omitempty"`
}

// TokenVerification says how an access token is verified.
type TokenVerification struct {
	// Where the authorization server publishes its keys (RFC 7517). Default:
	// `.well-known/jwks.json` below the issuer.
	JWKSURL string `json:"jwks_url,omitempty"`
}

// Session says how a session is kept.
type Session struct {
	// Where a session rests: `cookie`, in its own cookie if it fits one of 4,096
	// bytes, or else in Caddy's storage; or `storage`, there in any case, with a
	// cookie that holds only its handle. Default: `cookie`.
	Store string `json:"store,omitempty"`

	// The name of the session's cookie. Where the redirect URI is https, it gets
	// the prefix `__Host-`, unless it has that already. Default:
	// `aventus_session`.
	Name string `json:"name,omitempty"`

	// The longest that a session lasts; it ends with its token if that ends
	// earlier. Default: `24h`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Ends a session that was not used for so long. Default: off.
	Idle caddy.Duration `json:"idle,omitempty"`

	// How long before its end a token is renewed: with its refresh token, if there
	// is one (scope `offline_access`), or else by a page visit that goes through
	// the authorization server. It is never renewed in the first half of its life.
	// Default: `5m`.
	RenewBefore caddy.Duration `json:"renew_before,omitempty"`

	// The keys that sessions and logins are sealed with, each 32 bytes or more in
	// base64. The first seals, all of them open. Default: a key that is made on
	// first need and kept in Caddy's storage.
	Keys []string `json:"key,omitempty"`
}

// Logout says how a person signs out of the site.
type Logout struct {
	// The path that ends the session, by GET or POST. A request that the browser
	// calls cross-site is refused. Required.
	Path string `json:"path,omitempty"`

	// Where to go from there: a path or an https URL. Default: a small page that
	// says that the person is signed out.
	ReturnURL string `json:"return_url,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.aventus_auth",
		New: func() caddy.Module { return new(Handler) },
	}
}

// clock is replaced by tests, and read when a config is loaded.
var clock = time.Now

// Provision sets up the handler. It touches neither the network nor the storage:
// those are first needed by a request.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.ctx, h.logger = ctx, ctx.Logger()
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %v", err)
	}
	h.events = events.(*caddyevents.App)
	if err := h.setUp(ctx.Storage()); err != nil {
		return err
	}
	if err := h.register(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	if err := h.join(ctx); err != nil {
		return err
	}
	matchers, err := ctx.LoadModule(h, "MatcherSetsRaw")
	if err != nil {
		return fmt.Errorf("loading matchers: %v", err)
	}
	return h.matchers.FromInterface(matchers)
}

// setUp makes the handler's parts from its config.
func (h *Handler) setUp(storage certmagic.Storage) error {
	h.now, h.streamCheck = clock, streamCheck
	var err error
	if h.cfg, err = h.settings(); err != nil {
		return err
	}
	h.storage, h.learning = records.Bounded(storage, h.storageFailed), new(sync.Once)
	h.renewals = new(singleflight.Group)
	if err := h.remember(storageID(storage)); err != nil {
		return err
	}
	ring := keyring.Stored(h.storage, &h.memory.keys, h.now, h.cfg.lifetime)
	if len(h.cfg.keys) > 0 {
		if ring, err = keyring.Fixed(h.cfg.keys, h.now); err != nil {
			return fmt.Errorf("session key: %w", err)
		}
	}
	h.shelf = records.NewShelf(h.storage, "aventus_auth/sessions", h.now)
	h.states = ring.Box("login state", h.cfg.ClientID)
	h.proofs = ring.Box("code verifier", h.cfg.ClientID)
	h.sessions = ring.Box("session", h.cfg.ClientID)
	h.index = ring.Box("session index", h.cfg.ClientID)
	if h.opened, err = lru.New[openedKey, *session](openedSessions); err != nil {
		return err
	}

	h.client = aventus.NewClient(h.cfg.Config)
	h.keySet = aventus.NewKeySet(h.cfg.jwksURL, h.now)
	if h.cfg.asksForID() {
		h.idTokens = aventus.NewIDVerifier(h.cfg.issuer, h.cfg.ClientID, h.keySet, h.now)
	}
	if h.cfg.verify {
		h.tokens = aventus.NewTokenVerifier(h.cfg.issuer, h.cfg.Audience, h.keySet, h.now)
	}
	h.verified, err = lru.New[[32]byte, *session](verifiedTokens)
	return err
}

// Cleanup lets go of what Provision took. It also runs after a Provision that
// failed half-way.
func (h *Handler) Cleanup() error {
	if h.client != nil {
		h.client.Close()
	}
	if h.keySet != nil {
		h.keySet.Close()
	}
	var errs []error
	if h.config != nil {
		_, err := configs.Delete(h.config)
		errs = append(errs, err)
	}
	if h.memoryID != "" {
		_, err := memories.Delete(h.memoryID)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
