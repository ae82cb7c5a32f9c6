package aventusauth

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// A request that fails before it comes to a block goes to the error routes without the block being asked. This file
// finds what may fail there.

// failsInFront is what may fail before a request comes to a block.
type failsInFront struct {
	around []caddyhttp.MatcherSets // of the routes around it, and of its own
	what   string
	status int // that it fails with; 0: any
}

// unguarded returns the handler among the error routes that could answer a request with what it asks for, if the
// request fails before it comes to a block, and what may fail there; both are empty if there is no such thing, or
// if a block stands before that handler among the error routes. No block is asked about such a request: the error
// routes are used.
func (e *errorRoutes) unguarded(hosts string) (unsafe, fails string) {
	for _, failing := range e.failing {
		w := e.walk(hosts, failing.status)
		w.endsAtBlocks = true
		if slices.ContainsFunc(failing.around, func(sets caddyhttp.MatcherSets) bool {
			return w.matches(sets, trail{otherError: true}) == routing.No
		}) {
			continue
		}
		for _, list := range e.lists {
			w.follow(list.routes, []trail{{otherError: failing.status == 0}})
		}
		if w.found.unsafe != "" {
			return w.found.unsafe, failing.what
		}
	}
	return "", ""
}

// failsAtServer returns what a server refuses before its routes see a request. Their matchers say nothing of that, and
// variables that they set, such as the root of the files, are not set.
func failsAtServer(server *caddyhttp.Server) []failsInFront {
	var failing []failsInFront
	if server.StrictSNIHost != nil && *server.StrictSNIHost {
		failing = append(failing, failsInFront{what: "strict_sni_host"})
	}
	return append(failing, failsInFront{
		what: "a method of more than 32 characters", status: http.StatusMethodNotAllowed,
	})
}

// failingIn returns what may fail of a route before its handlers have called the next one, or "".
func (e *errorRoutes) failingIn(route caddyhttp.Route) string {
	if failing := e.failingMatcher(route.MatcherSets); failing != "" {
		return failing
	}
	for _, handler := range route.Handlers {
		name := caddy.GetModuleName(handler)
		switch handler := handler.(type) {
		case *requestbody.RequestBody:
			if handler.MaxSize > 0 {
				return "max_size of " + name
			}
		case *caddyhttp.StaticError, *caddyauth.Authentication:
			return name
		case *reverseproxy.Handler:
			if len(handler.HandleResponse) > 0 { // forward_auth, whose upstream may be down
				return name
			}
		default:
			if !isCaddys(handler) && name != moduleName {
				return name
			}
		}
	}
	return ""
}

// failingMatcher returns a matcher that may fail, and not only not match.
func (e *errorRoutes) failingMatcher(sets []caddyhttp.MatcherSet) string {
	for _, set := range sets {
		for _, matcher := range set {
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchNot:
				if failing := e.failingMatcher(matcher.MatcherSets); failing != "" {
					return failing
				}
			case *caddyhttp.MatchExpression:
				return "an expression"
			case *caddyhttp.MatchRemoteIP, *caddyhttp.MatchClientIP: // in early data, see failureOfMatcher
				if e.takesEarlyData() {
					return matcher.(caddy.Module).CaddyModule().ID.Name() + " over HTTP/3"
				}
			case *fileserver.MatchFile:
				for _, try := range matcher.TryFiles {
					if strings.HasPrefix(try, "=") {
						return "try_files " + try
					}
				}
			}
		}
	}
	return ""
}

// takesEarlyData reports whether the server may take requests before the handshake is complete (0-RTT), as Caddy does
// over HTTP/3 unless it is told otherwise.
func (e *errorRoutes) takesEarlyData() bool {
	isOff := e.server.Allow0RTT != nil && !*e.server.Allow0RTT
	overHTTP3 := len(e.server.Protocols) == 0 || slices.Contains(e.server.Protocols, "h3")
	return len(e.server.TLSConnPolicies) > 0 && overHTTP3 && !isOff
}
