package aventusauth

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// serveAmongErrors is [gate.route] for a block among the error routes. It serves no
// callback, logout or profile, begins no login and renews nothing: the request has
// failed, and if it was the callback, another login would end here again. Without a
// session, the answer is a refusal with the status of the error.
func (g *gate) serveAmongErrors(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, cause error) error {
	protected, err := g.matching.protects(r)
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
	status := http.StatusInternalServerError
	var handlerErr caddyhttp.HandlerError
	if errors.As(cause, &handlerErr) && handlerErr.StatusCode != 0 {
		status = handlerErr.StatusCode
	}
	sentence := http.StatusText(status)
	var f failure
	if errors.As(cause, &f) {
		sentence = f.description
	}
	return g.answers.plain(w, status, sentence)
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
