package aventusauth

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// errorWalk follows every way that a request which was refused, or failed in front of a block, can take through the
// error routes.
type errorWalk struct {
	*errorRoutes
	r       *http.Request // an empty request with the error's placeholders
	matched map[*caddyhttp.MatchHost]routing.Certainty
	depth   int
	found   verdict

	endsAtBlocks bool // a block lets only those through who may go on
}

// follow returns the trails that continue behind the routes.
func (w *errorWalk) follow(routes caddyhttp.RouteList, trails []trail) []trail {
	if w.depth++; w.depth > maxDepth {
		w.found.unsafe = "routes within routes"
	}
	defer func() { w.depth-- }()
	for _, route := range routes {
		var after []trail
		for _, t := range trails {
			if w.found.unsafe != "" {
				return nil
			}
			group := "\x00" + route.Group + "\x00"
			if route.Group != "" && strings.Contains(t.groups, group) {
				after = append(after, t)
				continue
			}
			matches := w.matches(route.MatcherSets, t)
			if route.Group != "" && w.groups[route.Group] {
				matches = min(matches, routing.Maybe) // an earlier route may have satisfied the group
			}
			taken, missed := w.afterFiles(route.MatcherSets, t)
			if matches != routing.Yes {
				after = append(after, missed)
			}
			if matches == routing.No {
				continue
			}
			if route.Group != "" {
				taken.groups += group
			}
			taking := []trail{taken}
			for _, handler := range route.Handlers {
				var on []trail
				for _, t := range taking {
					on = append(on, w.meet(handler, t)...)
				}
				taking = w.distinct(on)
			}
			if !route.Terminal {
				after = append(after, taking...)
			}
		}
		trails = w.distinct(after)
	}
	return trails
}

// distinct returns the trails without duplicates.
func (w *errorWalk) distinct(trails []trail) []trail {
	var distinct []trail
	for _, t := range trails {
		if !slices.Contains(distinct, t) {
			distinct = append(distinct, t)
		}
	}
	if len(distinct) > maxTrails {
		w.found.unsafe = "more routes than can be followed"
		return nil
	}
	return distinct
}

// meet returns the trails on which a handler calls the next one.
func (w *errorWalk) meet(handler caddyhttp.MiddlewareHandler, t trail) []trail {
	// Routes that run after the next handlers may get a path, query and method that those handlers have
	// changed, so these count as asked.
	anew := trail{leaks: t.leaks, newHost: t.newHost, otherError: t.otherError, known: t.known, groups: t.groups}
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		on := w.follow(handler.Routes, []trail{t})
		if handler.Errors != nil {
			anew.otherError = true
			on = append(on, w.follow(handler.Errors.Routes, []trail{anew})...)
		}
		return on
	case *caddyhttp.Invoke:
		if route, ok := w.server.NamedRoutes[handler.Name]; ok {
			return w.follow(caddyhttp.RouteList{*route}, []trail{t})
		}
		return nil
	case *intercept.Intercept:
		for _, response := range handler.HandleResponse {
			w.follow(response.Routes, []trail{anew})
		}
		return []trail{t}
	case *caddyhttp.StaticResponse:
		// After Early Hints (103), the next handler is called.
		if status := handler.StatusCode.String(); status != "103" && !strings.Contains(status, "{") {
			return nil
		}
		return []trail{t}
	case *caddyhttp.VarsMiddleware:
		before := t
		for name, value := range *handler {
			if strings.Contains(name, "{") {
				w.found.unsafe = "vars with a placeholder for a name"
			}
			l := byError
			if text, ok := value.(string); ok {
				l = w.levelOf(text, before)
			}
			t = t.with("http.vars."+name, l)
		}
		return []trail{t}
	case *maphandler.Handler:
		for i, name := range handler.Destinations {
			l := levelOfOutputs(handler, i)
			if before, ok := t.levelOf(name); ok {
				l = min(l, before) // the first map decides
			}
			t = t.with(name, l)
		}
		return []trail{t}
	case *rewrite.Rewrite:
		return []trail{w.rewritten(handler, t)}
	case *headers.Handler:
		t.leaks = t.leaks || w.leaks(handler.Request, t)
		t.newHost = t.newHost || changesHost(handler.Request)
		return []trail{t}
	case *requestbody.RequestBody:
		t.leaks = t.leaks || handler.Set != ""
		return []trail{t}
	case *fileserver.FileServer:
		return w.meetFiles(handler, t)
	case *reverseproxy.Handler:
		return w.meetProxy(handler, t)
	}
	name := caddy.GetModuleName(handler)
	if name == moduleName && w.endsAtBlocks {
		return nil
	}
	switch name {
	// At another block of this module, a visitor with a session goes on, even one whom this block refused.
	case "authentication", moduleName, "copy_response_headers", "encode", "log_append", "push",
		"templates", "timeouts", "tracing":
		return []trail{t}
	case "copy_response", "error":
		return nil
	default:
		w.found.unsafe = name
		return nil
	}
}

// meetFiles is meet for a file server, which needs a path that the site chose, below
// a root that it chose.
func (w *errorWalk) meetFiles(handler *fileserver.FileServer, t trail) []trail {
	l := min(w.levelOf(handler.Root, t), w.levelOf(handler.FileSystem, t))
	for _, name := range handler.IndexNames {
		l = min(l, w.levelOf(name, t))
	}
	if t.path < byError || l < byHost {
		w.found.unsafe = caddy.GetModuleName(handler)
	}
	if handler.PassThru {
		return []trail{t}
	}
	return nil
}

// meetProxy is meet for a proxy. FastCGI tells an app the path that was asked for, whatever
// it was rewritten to, so only an HTTP transport is safe.
func (w *errorWalk) meetProxy(handler *reverseproxy.Handler, t trail) []trail {
	request := t
	if handler.Rewrite != nil {
		request = w.rewritten(handler.Rewrite, t)
	}
	_, isHTTP := handler.Transport.(*reverseproxy.HTTPTransport)
	dialsElsewhere := slices.ContainsFunc(handler.Upstreams, func(u *reverseproxy.Upstream) bool {
		return w.levelOf(u.Dial, t) < byError
	})
	leaks := request.leaks || handler.Headers != nil && w.leaks(handler.Headers.Request, t)
	if request.path < byError || leaks || !isHTTP || dialsElsewhere || handler.DynamicUpstreams != nil {
		w.found.unsafe = caddy.GetModuleName(handler)
		return nil
	}
	w.found.asks = true
	w.found.method = w.found.method || request.method < byError
	w.found.query = w.found.query || request.query < byError
	var on []trail
	for _, response := range handler.HandleResponse {
		if response.Routes != nil {
			on = append(on, w.follow(response.Routes, []trail{t})...)
		}
	}
	return on
}

// leaks reports whether the header operations put a value into the request that depends
// on the resource asked for.
func (w *errorWalk) leaks(ops *headers.HeaderOps, t trail) bool {
	if ops == nil {
		return false
	}
	tells := func(text string) bool { return w.levelOf(text, t) < sender }
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for name, values := range set {
			if tells(name) || slices.ContainsFunc(values, tells) {
				return true
			}
		}
	}
	for name, replacements := range ops.Replace {
		for _, replacement := range replacements {
			if tells(name) || tells(replacement.Replace) {
				return true
			}
		}
	}
	return false
}

// changesHost reports whether a handler may change the host of a request.
func changesHost(ops *headers.HeaderOps) bool {
	if ops == nil {
		return false
	}
	names := slices.Clone(ops.Delete)
	names = slices.AppendSeq(names, maps.Keys(ops.Add))
	names = slices.AppendSeq(names, maps.Keys(ops.Set))
	names = slices.AppendSeq(names, maps.Keys(ops.Replace))
	return slices.ContainsFunc(names, func(name string) bool {
		return strings.EqualFold(name, "Host") || strings.ContainsAny(name, "{*")
	})
}

// rewritten returns the trail after a rewrite.
func (w *errorWalk) rewritten(to *rewrite.Rewrite, t trail) trail {
	before := t
	fixed := func(text string) bool { return w.levelOf(text, before) == byError }
	if to.Method != "" {
		t.method = asked
		if isBare(strings.ToUpper(to.Method)) {
			t.method = byError
		}
	}
	if to.URI != "" {
		uri, _, _ := strings.Cut(to.URI, "#")
		path, query, hasQuery := strings.Cut(uri, "?")
		if path != "" {
			t.path = asked
			if fixed(path) {
				t.path = byError
			}
		}
		if hasQuery {
			withoutQuery := before
			withoutQuery.query = byError
			switch {
			case fixed(query):
				t.query = byError
			case w.levelOf(query, withoutQuery) < byError:
				t.leaks = true // another part of the request gets into the query
			}
		}
	}
	if !fixed(to.StripPathPrefix) || !fixed(to.StripPathSuffix) {
		t.path = asked
	}
	for _, replacer := range to.URISubstring {
		if !fixed(replacer.Find) || !fixed(replacer.Replace) {
			t.path, t.leaks = asked, true
		}
	}
	for _, replacer := range to.PathRegexp {
		if !fixed(replacer.Replace) {
			t.path = asked
		}
	}
	t.leaks = t.leaks || to.Query != nil
	return t
}
