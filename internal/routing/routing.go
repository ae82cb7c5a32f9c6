// Package routing reads the routes of a Caddy server, to predict what they do with a request.
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

// Sorting is the prefix of the path patterns that order.go adds so that Caddy's adapter sorts routes as wanted.
// They match every path: the placeholder in them is unknown.
const Sorting = "{aventus_auth.order."

// Certainty says whether a matcher is known to match. It is ordered, so that "and" is the minimum of
// several, and "or" the maximum; the opposite of c is Yes - c.
type Certainty int

const (
	No Certainty = iota
	Maybe
	Yes
)

// AnyOf says whether one of the sets matches, as ask judges each matcher. Without any set, it is Yes.
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
