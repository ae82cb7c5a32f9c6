package aventusauth

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// leaveOut hands on a request that the matcher leaves out. If it fails behind the block, the error routes get it by
// the path that was asked for before any rewrite, and serve a file whatever its method is. Where that is protected,
// and they could show it, they are not used, whoever asks: nobody is asked who they are for what is left out.
func (g *gate) leaveOut(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	method, came := r.Method, *r.URL
	err := next.ServeHTTP(w, r)
	var own failure
	if err == nil || errors.As(err, &own) { // a block behind has asked the same of its own failure
		return err
	}
	unsafe := g.answers.errors.couldShow(r)
	if unsafe == "" {
		return err
	}
	protected, matcherErr := g.matching.protectsFailed(r, method, came)
	if matcherErr == nil && !protected {
		return err
	}
	return g.answers.withhold(w, r, err, unsafe)
}

// serveAmongErrors is [gate.route] for a block among the error routes. It serves no
// callback, logout or profile, begins no login and renews nothing: the request has
// failed, and if it was the callback, another login would end here again. Without a
// session, the answer is a refusal with the status of the error.
func (g *gate) serveAmongErrors(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, cause error) error {
	protected, err := g.matching.protectsAmongErrors(r)
	if err == nil && !protected {
		return next.ServeHTTP(w, r)
	}
	was := asSent(r)
	var id identity
	if err == nil {
		id, err = g.knownIdentity(r, was)
	}
	g.passage.introduce(r, was, id)
	switch {
	case err != nil:
	case !id.isAnonymous() && g.rules.lacks(id) == nil:
		return g.passage.letThrough(w, r, id, next)
	case id.isAnonymous() && g.unauthenticated == "pass":
		return g.passage.letThrough(w, r, identity{}, next)
	}
	return g.answers.plainly(w, cause)
}

// knownIdentity returns the identity of a request among the error routes, where a session whose token has
// expired does not count. An error means that the identity could not be determined.
func (g *gate) knownIdentity(r *http.Request, was *sent) (identity, error) {
	at, err := g.sites.of(r)
	if err != nil {
		return identity{}, err
	}
	id, refused := g.identifier.readLive(r.Context(), at, was)
	if refused != nil {
		return identity{}, refused
	}
	return id, nil
}
