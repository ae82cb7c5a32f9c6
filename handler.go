package aventusauth

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// gate is a request's way through the stages, which it asks in this order.
type gate struct {
	inFront    *frontCheck
	matching   *matching
	sites      *sites
	identifier *identifier
	rules      *accessRules
	keeper     *keeper
	passage    *passage

	handOvers   *handOvers
	logouts     *logouts
	backchannel *backchannel
	profile     *profile
	metadata    *resourceMetadata // nil: none, since API clients are not let in
	answers     *answers

	callbackPath                             string
	logoutPath, backchannelPath, profilePath string // empty: none
	unauthenticated                          string // auto, redirect, deny or pass
	now                                      func() time.Time
}

// serve is Handler.ServeHTTP.
func (g *gate) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !g.inFront.hasOthers(r) {
		return g.route(w, r, next)
	}
	// A cache in front sees the header fields that the client sent, also afterwards: it
	// compares them by the answer's Vary. The error routes see what is left of them,
	// since their upstreams are told no identity either.
	came := sentHeader(r.Header, g.passage.tokenHeader)
	err := g.route(w, r, next)
	if err == nil {
		came.restore(r.Header)
	}
	return err
}

// route tells requests apart: those for the module's own paths, those that are protected, and others.
func (g *gate) route(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	orig := original(r)
	if opensTunnel(r, orig.Method) {
		return g.refuseTunnel(w, r)
	}
	stripUpgrade(r)
	if cause, ok := r.Context().Value(caddyhttp.ErrorCtxKey).(error); ok {
		return g.serveAmongErrors(w, r, next, cause)
	}
	if path := orig.URL.Path; g.isOwn(r, path) { // the path before any rewrite
		return g.serveOwn(w, r, path)
	}
	protected, err := g.matching.protects(r)
	if err != nil {
		return g.answers.fail(w, r, failureOfMatcher(err), fmt.Errorf("the matcher: %w", err))
	}
	if !protected {
		return g.leaveOut(w, r, next)
	}
	return g.guard(w, r, next)
}

// guard lets a protected request through, or answers it.
func (g *gate) guard(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	at, err := g.sites.of(r)
	if err != nil {
		return g.answers.noSite(w, r, err)
	}
	was, now := asSent(r), g.now()
	id, refused := g.identifier.identify(r, at, was, now)
	if refused != nil {
		return g.answers.refuse(w, r, refused)
	}
	g.passage.introduce(r, was, id)
	if id.isAnonymous() {
		return g.serveAnonymous(w, r, next)
	}
	if refused := g.rules.lacks(id); refused != nil {
		return g.answers.refuse(w, r, refused)
	}
	if id.session != nil {
		defer g.keeper.memory.weigh(id.session) // it may not come again, and takes its memory all the same
		if g.renewsByVisit(w, r, at, was, id.session, now) {
			return g.handOvers.start(w, r, toRenewSession, http.StatusFound)
		}
		if err := g.keeper.touch(w, r.Context(), at, id.session); err != nil {
			return g.answers.fail(w, r, errStorage, err)
		}
	}
	return g.passage.letThrough(w, r, id, next)
}

// isOwn reports whether a path is one that the block serves itself. A callback's state tells which block it
// belongs to; the logout, the profile and the metadata of another block's host do not belong to this one.
func (g *gate) isOwn(r *http.Request, path string) bool {
	switch path {
	case "": // that of a logout or a profile that does not exist
		return false
	case g.callbackPath:
		return true
	case g.logoutPath, g.backchannelPath, g.profilePath:
		return !g.logouts.blocks.isForAnother(g.logouts.own, r)
	}
	return g.metadata != nil && g.metadata.described(r, path) != nil &&
		!g.logouts.blocks.isForAnother(g.logouts.own, r)
}

// serveOwn serves one of the paths that are the module's own.
func (g *gate) serveOwn(w http.ResponseWriter, r *http.Request, path string) error {
	asSent(r)
	// An intercept in front may ask an upstream for what it makes of the answer.
	stripIdentity(r, g.passage.cookies, g.passage.tokenHeader)
	switch path {
	case g.callbackPath:
		return g.handOvers.finish(w, r)
	case g.logoutPath:
		return g.logouts.leave(w, r)
	case g.backchannelPath:
		return g.backchannel.serve(w, r)
	case g.profilePath:
		return g.profile.serve(w, r)
	}
	return g.metadata.serve(w, r)
}

// serveAnonymous answers a request that needs a session and has none.
func (g *gate) serveAnonymous(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch mode := g.unauthenticated; {
	case mode == "pass":
		return g.passage.letThrough(w, r, identity{}, next)
	case mode != "deny" && isPage(r):
		return g.handOvers.start(w, r, toBeginSession, http.StatusFound)
	case mode == "redirect" && !isWebSocket(r):
		// The browser is to come back by GET, whatever it came with.
		return g.handOvers.start(w, r, toBeginSession, http.StatusSeeOther)
	}
	return g.answers.refuse(w, r, &refusal{failure: errLoginRequired})
}

// renewsByVisit reports whether a page visit is to go through the authorization server, and come back with a new
// token. What may be a form cannot on some sites (see answers.sendForm), and a long URL would not come back whole:
// they leave it to another visit as long as the token is good for a while.
func (g *gate) renewsByVisit(
	w http.ResponseWriter, r *http.Request, at site, was *sent, k *keptSession, now time.Time,
) bool {
	if g.unauthenticated == "deny" || !g.handOvers.isDue(was, k, now) || !mayRenewByVisit(r) {
		return false
	}
	return !canWait(k, now) || !mayBeGetForm(r) && g.handOvers.comesBackWhole(w, r, at)
}

// refuseTunnel answers a CONNECT. It does not use the error routes: they would be
// given the CONNECT too, and may proxy it.
func (g *gate) refuseTunnel(w http.ResponseWriter, r *http.Request) error {
	asSent(r)
	stripIdentity(r, g.passage.cookies, g.passage.tokenHeader)
	w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	return g.answers.plain(w, errMethod.status, errMethod.description)
}
