package aventusauth

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// moduleName is the name of the module among the HTTP handlers, and of its directive.
const moduleName = "aventus_auth"

// A handler in front of a block may still use the request when the block has returned.
// Caddy's own (intercept, templates, log_append) run routes and expand placeholders
// then, which must not see what the client made up. A cache, which is never Caddy's own,
// compares the request with others by the answer's Vary, and needs the header that the
// client sent.

// frontCheck looks at what stands in front of a block.
type frontCheck struct {
	block caddyhttp.MiddlewareHandler
	known atomic.Pointer[[]front] // a list is replaced, and never changed
}

// front is whether others stand in front of a block on a server: see hasOthers.
type front struct {
	server *caddyhttp.Server
	others bool
}

// hasOthers reports whether a handler that is not part of Caddy may stand in front
// of the block, on the server of a request. It looks at the server's routes when it is first asked.
func (i *frontCheck) hasOthers(r *http.Request) bool {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return true
	}
	known := i.known.Load()
	if known == nil {
		known = new([]front)
	}
	for _, front := range *known { // there are few servers
		if front.server == server {
			return front.others
		}
	}
	f := &frontWalk{server: server, block: i.block, invoked: make(map[invocation]bool)}
	f.follow(server.Routes, false)
	if server.Errors != nil {
		f.follow(server.Errors.Routes, false) // the other routes have returned by then
	}
	// A block that is not found is inside a handler that is not known.
	others := f.others || !f.found
	with := append(slices.Clip(*known), front{server, others})
	i.known.Store(&with) // what is lost if others do so at the same time, the next request looks for again
	return others
}

// frontWalk looks for the handlers in front of a block.
type frontWalk struct {
	server  *caddyhttp.Server
	block   caddyhttp.MiddlewareHandler
	found   bool // the block is among the routes
	others  bool // a handler that is not part of Caddy may stand in front of it
	invoked map[invocation]bool
}

// invocation is a named route that was followed.
type invocation struct {
	name   string
	others bool
}

// follow walks a list of routes; others says whether a third-party handler is in front of it already. It
// reports whether the list puts one in front of what follows. It assumes that every matcher may match.
func (f *frontWalk) follow(routes caddyhttp.RouteList, others bool) (adds bool) {
	groups := make(map[string]bool) // of the routes that add one
	for _, route := range routes {
		here := others
		for group := range groups {
			here = here || group == "" || group != route.Group // one route of a group is run
		}
		own := false
		for _, handler := range route.Handlers {
			own = f.meet(handler, here || own) || own
		}
		if own && !route.Terminal { // nothing comes after a terminal one
			groups[route.Group], adds = true, true
		}
	}
	return adds
}

func (f *frontWalk) meet(handler caddyhttp.MiddlewareHandler, others bool) (adds bool) {
	if handler == f.block {
		f.found, f.others = true, f.others || others
		return false
	}
	if caddy.GetModuleName(handler) == moduleName { // another block
		return false
	}
	if handler, ok := handler.(*caddyhttp.Invoke); ok {
		this := invocation{handler.Name, others}
		adds, followed := f.invoked[this]
		if route, ok := f.server.NamedRoutes[handler.Name]; ok && !followed {
			f.invoked[this] = false // if it invokes itself
			adds = f.follow(caddyhttp.RouteList{*route}, others)
			f.invoked[this] = adds
		}
		return adds
	}
	adds = !isCaddys(handler)
	for _, routes := range routing.In(handler) {
		adds = f.follow(routes, others) || adds
	}
	return adds
}

// isCaddys reports whether a handler is part of Caddy, by its package.
func isCaddys(handler caddyhttp.MiddlewareHandler) bool {
	t := reflect.TypeOf(handler)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.HasPrefix(t.PkgPath(), "github.com/caddyserver/caddy/v2/")
}
