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
// A stage of a request is a type that holds the few things it needs, and calls only what is on its floor of
// the house or below; CONTRIBUTING.md draws the floors. A request goes down through them and comes back once:
// the gate in handler.go shows its way.
//
// Question | File
// ---------|-----
// Where does a request go: to the login, to the next handler, to the callback? | handler.go
// Is it a page visit, a form, a WebSocket, fetched ahead? | classify.go
// Which requests does a matcher protect? | matching.go, parameters.go
// Which site is it for, and where does it return to? | site.go
// How does a login begin, and which of its parts come back? | login.go, callback.go, binding.go
// Which of several blocks does a callback belong to? | handover.go (answerCallback), login.go (callbacks)
// What becomes of a login whose state cannot be read any more? | lostlogin.go, state.go
// How does a session get to another host of the same login, and what may no host do? | handover.go, hosts.go
// How is a code used once, by one of two instances with one callback? | callback.go, internal/records/once.go
// Which cookies are set, and with which attributes? | cookie.go, binding.go
// What is a session, in memory and sealed? | session.go, grant.go, memory.go, sealed.go
// How does a session begin, end, and move between its cookie and the storage? | keeper.go, store.go
// When does an ordinary response set a cookie? | keeper.go (touch), passage.go (makePrivate)
// What can a renewal read and write? | renew.go (renewer)
// How is a refresh token sent once, and a failed renewal tried again? | reserve.go, attempts.go
// How is the authorization server asked? | authserver.go, internal/aventus
// How is an ended session learned of? | ends.go, internal/records/ended.go
// What ends when the authorization server says so? | backchannel.go, ends.go
// What do tabs of several hosts that sign in at once have in common? | joined.go
// What ends at a logout, and which sessions does a login replace? | logout.go, replaced.go, neighbours.go
// Whose request is it, and what does the profile touch? | identity.go, profile.go
// What does access need? | access.go, internal/claims/match.go
// What may the rest of the config ask of a user? | request.go (introduce), claimmatcher.go
// What is the next handler told, and what of its answer is changed? | strip.go, passage.go, caching.go
// How does a stream end with its session? | stream.go
// Which answers are no-store, and why? | reply.go, caching.go, passage.go (makePrivate)
// What does a WWW-Authenticate header say, and what do API clients find by it? | challenge.go, resource.go
// What are visitors told when it fails? | failures.go
// Which error routes may show it? | errorroutes.go, errorwalk.go, errortrail.go, amongerrors.go
// What if a request fails in front of a block, or behind one that leaves it out? | unguarded.go, matchingerrors.go
// Which handlers stand in front of a block? | infront.go
// What is sealed, in which format and version, and what does a change of it take? | sealed.go, visit.go
// In which order do the blocks of a site run? | order.go
// Where is a subdirective added? | subdirectives.go, with its field in config.go
// How is a value read, checked and expanded? | caddyfile.go, values.go, expand.go
// What comes of the config, and which stage gets it? | settings.go, house.go
// What survives a reload, and who owns it? | shared.go
// What do the blocks of one config share? | peers.go, roster.go
// Where is the clock read? | clock.go
// What bounds memory, sizes and time? | limits.go
// What do operators see and end? | telemetry.go, admin.go, command.go
// What is valid in a config, and may not be meant? | notices.go
// Why do logins not work? | doctor.go, internal/doctor
//
// What is sealed is sealed with the keys of internal/keyring, and what is to be known by
// all instances is in internal/records.
package aventusauth

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
// The session is kept in one cookie. The cookie is sealed with a key that is made on
// first use and kept in Caddy's storage, so sessions survive restarts, and every
// instance of a cluster can open them. A session that is too large for a cookie, or
// that has a refresh token, is kept in Caddy's storage, and its cookie holds only a
// handle.
//
// String values may hold global placeholders, such as `{env.NAME}` and
// `{file./path}`, which are replaced when the config is loaded.
//
// These placeholders are set for every request that the matcher covers. They are empty
// if there is no session, or no such claim:
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
// `{http.aventus_auth.server_error}` | The authorization server's own code for it, such as `access_denied`
// `{http.aventus_auth.server_error_description}` | Its own words for the person, which a page must escape
// `{http.aventus_auth.origin}` | With `hosts`, the origin of the page, if that is another host's
//
// Error routes that could answer a refused request with what it asked for, such as a
// file server without a rewrite before it, are not used for it: it gets the sentence
// as plain text. Nor are they used for a request that the matcher leaves out, if it fails
// and they could show what is protected by another method, or by the path before a rewrite.
type Handler struct {
	// Which requests are protected. The paths of the callback, the logout and the
	// profile are served whether they match or not. Default: all requests.
	MatcherSetsRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`

	Config

	house   *house
	release []func() error // of what outlives this config
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers." + moduleName,
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler. It touches neither the network nor the storage:
// those are first needed by a request.
func (h *Handler) Provision(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading the events app: %v", err)
	}
	loaded, err := ctx.LoadModule(h, "MatcherSetsRaw")
	if err != nil {
		return fmt.Errorf("loading matchers: %v", err)
	}
	var matchers caddyhttp.MatcherSets
	if err := matchers.FromInterface(loaded); err != nil {
		return err
	}
	if asksForClaim(matchers) {
		return errors.New("the matcher of aventus_auth is evaluated before the visitor is identified, " +
			"so it cannot hold aventus_claim: use require_claim")
	}
	if err := checkOrder(h.MatcherSetsRaw); err != nil {
		return err
	}
	peers, leave, err := joinPeers(ctx)
	if err != nil {
		return err
	}
	h.release = append(h.release, leave)
	err = h.setUp(surroundings{
		ctx: ctx, storage: ctx.Storage(), events: events.(*caddyevents.App), logger: ctx.Logger(),
		matchers: matchers, peers: peers, now: clock,
	})
	if err != nil {
		return err
	}
	return register(ctx.GetMetricsRegistry(), keyAge{}, endsAge{})
}

// ServeHTTP lets a request with a session through, with its token; sends a page
// visit without one to the login, or does with it what the config says; and serves
// the callback, the logout and the profile. The gate in handler.go is its way.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return h.house.gate.serve(w, r, next)
}

// Cleanup lets go of what Provision took. It also runs after a Provision that
// failed half-way.
func (h *Handler) Cleanup() error {
	if h.house != nil {
		h.house.close()
	}
	var errs []error
	for _, release := range h.release {
		errs = append(errs, release())
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
