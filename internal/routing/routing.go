// Package routing reads the routes of a Caddy server, for those who foresee what they do with a request.
package routing

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// In returns the lists of routes within a handler of Caddy's.
func In(handler caddyhttp.MiddlewareHandler) []caddyhttp.RouteList {
	var lists []caddyhttp.RouteList
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		lists = append(lists, handler.Routes)
		if handler.Errors != nil {
			lists = append(lists, handler.Errors.Routes)
		}
	case *intercept.Intercept:
		for _, response := range handler.HandleResponse {
			lists = append(lists, response.Routes)
		}
	case *reverseproxy.Handler:
		for _, response := range handler.HandleResponse {
			lists = append(lists, response.Routes)
		}
	}
	return lists
}

// Sorting begins the path patterns by which Caddy's adapter sorts routes, and which match every path: the
// placeholder in them is unknown.
const Sorting = "{aventus_auth.order."

// Certainty says how sure it is that a matcher matches. It is ordered, so that "and" is the least of
// several, and "or" the most; and the opposite of c is Yes - c.
type Certainty int

const (
	No Certainty = iota
	Maybe
	Yes
)

// AnyOf says whether one of the sets matches, as ask judges each matcher; none at all does.
func AnyOf(sets []caddyhttp.MatcherSet, ask func(matcher any) Certainty) Certainty {
	if len(sets) == 0 {
		return Yes
	}
	most := No
	for _, set := range sets {
		least := Yes
		for _, matcher := range set {
			least = min(least, ask(matcher))
		}
		most = max(most, least)
	}
	return most
}
