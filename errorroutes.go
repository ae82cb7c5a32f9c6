package aventusauth

import (
	"crypto/rand"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// Caddy runs a server's error routes (handle_errors) with the path that the visitor
// asked for. A file server or a proxy there would answer a refused request with the very
// content that was refused. This file decides in advance whether the error routes can do
// that. If they can, the module answers the refusal itself, without them.

// errorPages decides for a block whether the site's error routes may answer.
type errorPages struct {
	all    *errorRoutesOfServers
	logger *zap.Logger
}

// errorRoutesOfServers are the error routes of the servers of a config: *errorRoutes by
// *caddyhttp.Server. All blocks of the config share them.
type errorRoutesOfServers struct{ sync.Map }

// of returns the error routes of a server of the config.
func (s *errorRoutesOfServers) of(server *caddyhttp.Server) *errorRoutes {
	if e, ok := s.Load(server); ok {
		return e.(*errorRoutes)
	}
	e, _ := s.LoadOrStore(server, newErrorRoutes(server))
	return e.(*errorRoutes)
}

// areNone reports whether the server has no error routes: Caddy's answer to an error is then empty.
func (e *errorPages) areNone(r *http.Request) bool {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server != nil && len(e.all.of(server).lists) == 0
}

// mayAnswer reports whether the error routes may answer the request, which was
// refused. It removes from the request whatever their upstreams must not receive. At its first call for a host, it
// warns of what unguarded returns.
func (e *errorPages) mayAnswer(w http.ResponseWriter, r *http.Request, f failure) bool {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return true
	}
	routes := e.all.of(server)
	if len(routes.lists) == 0 {
		return true
	}
	hosts := routes.hostsOf(r)
	if _, looked := routes.looked.LoadOrStore(hosts, true); !looked {
		if unsafe, failing := routes.unguarded(hosts); unsafe != "" {
			e.logger.Warn("the error routes could show what is protected where a request fails before it comes here",
				zap.String("handler", unsafe), zap.String("failing", failing), zap.String("advice", unguardedAdvice))
		}
	}
	v := routes.verdict(f, hosts)
	why := ""
	ofSubroute := slices.ContainsFunc(routes.lists, func(l errorList) bool { return l.ofSubroute })
	switch {
	case ofSubroute && slices.ContainsFunc(writers(w), holdsBack):
		why = "they are a subroute's, behind an intercept that could replace their answer"
	case v.unsafe != "":
		why = "they could answer with what was asked for: " + v.unsafe
	case !v.asks:
		return true
	case v.method && !isBare(r.Method), v.method && !isBare(original(r).Method):
		why = "they would send the visitor's method to an upstream"
	case v.query && r.URL.RawQuery != "", v.query && original(r).URL.RawQuery != "":
		why = "they would send the visitor's query to an upstream"
	case !sharesHeader(r):
		why = "they would send header fields of the visitor's, which a handler in front has copied"
	case !withholdsBody(r):
		why = "they would send the visitor's body to an upstream"
	default:
		for name := range r.Header {
			if !slices.Contains(errorRequestHeaders, name) {
				delete(r.Header, name)
			}
		}
		return true
	}
	if _, logged := routes.logged.LoadOrStore(why, true); !logged {
		e.logger.Warn("the error routes are not used for refused requests",
			zap.String("reason", why), zap.String("advice", errorRoutesAdvice))
	}
	return false
}

// couldShow returns the handler among the error routes that could answer a request, which has failed behind the
// block, with what it asked for. It is empty if there is none.
func (e *errorPages) couldShow(r *http.Request) (unsafe string) {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return ""
	}
	routes := e.all.of(server)
	if len(routes.lists) == 0 {
		return ""
	}
	return routes.verdict(anyOther, routes.hostsOf(r)).unsafe
}

// warnOf logs, once for each server and handler, that the error routes are not used because of what couldShow found.
func (e *errorPages) warnOf(r *http.Request, unsafe string) {
	why := "they could answer with what is protected by another method or path: " + unsafe
	routes := e.all.of(r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server))
	if _, logged := routes.logged.LoadOrStore(why, true); !logged {
		e.logger.Warn("the error routes are not used for requests that the matcher leaves out",
			zap.String("reason", why), zap.String("advice", errorRoutesAdvice))
	}
}

const errorRoutesAdvice = "in handle_errors, put a rewrite to a page of its own before file_server and " +
	"reverse_proxy, such as: rewrite * /errors/{err.status_code}.html?"

const unguardedAdvice = "in handle_errors, put the block, too, in front of file_server and reverse_proxy, or a " +
	"rewrite to a page of its own"

// errorRequestHeaders are the only headers of a refused request that an upstream of the
// error routes receives: none that identifies the visitor, and none by which an app
// may take the request for another one (X-Original-URL, X-HTTP-Method-Override).
var errorRequestHeaders = []string{
	"Accept", "Accept-Encoding", "Accept-Language", "User-Agent",
	"Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "X-Requested-With",
}

func isBare(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// withholdsBody reports whether the error routes get no body with a refused request. It
// does not read the body: a client could send nothing, and not end the request either. Over
// HTTP/1.1 and HTTP/2, the length of a request without a body is 0. Over HTTP/3, it is
// unknown: the body of a GET or a HEAD is then removed, which does nothing if r is a copy of the request that the
// error routes get.
func withholdsBody(r *http.Request) bool {
	if r.ContentLength < 0 && r.ProtoMajor == 3 && isBare(r.Method) && isBare(original(r).Method) && isServers(r) {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	return r.ContentLength == 0
}

// isServers reports whether a request is the server's own, which the error routes get. Handlers in front may have
// handed on a copy, as tracing and another block do. Caddy's placeholders refer to the server's own.
func isServers(r *http.Request) bool {
	sent := r.Proto
	defer func() { r.Proto = sent }()
	r.Proto = rand.Text()
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	proto, _ := repl.GetString("http.request.proto")
	return proto == r.Proto
}

// sharesHeader reports whether the header of a request is that of the server's own, too, and no copy.
func sharesHeader(r *http.Request) bool {
	probe := textproto.CanonicalMIMEHeaderKey(rand.Text())
	defer delete(r.Header, probe)
	r.Header[probe] = []string{probe}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	value, _ := repl.GetString("http.request.header." + probe)
	return value == probe
}

// errorRoutes are the routes of one server that may run after an error of ours.
type errorRoutes struct {
	server *caddyhttp.Server
	lists  []errorList
	hosts  []*caddyhttp.MatchHost // all host matchers in the lists
	// Set by the server's other routes: variables and the outputs of map, by placeholder,
	// and groups of routes.
	known    map[string]level
	groups   map[string]bool
	newHost  bool // one of them may change the request's host
	failing  []failsInFront
	verdicts sync.Map // verdict by failure and hosts
	logged   sync.Map // reasons that were logged
	looked   sync.Map // results of hostsOf for which unguarded was asked
}

// errorList is a list of error routes: the server's, or a subroute's.
type errorList struct {
	around     []caddyhttp.MatcherSets // of the routes around the subroute
	routes     caddyhttp.RouteList
	ofSubroute bool
}

// verdict says what error routes can do with a refused request.
type verdict struct {
	unsafe        string // the handler that could answer with the refused content; empty: none
	asks          bool   // an upstream is asked, for a page of the site's choice
	method, query bool   // the upstream receives the request's method, its query
}

// anyOther stands for every error that is not ours, whatever its status is.
var anyOther failure

// newErrorRoutes collects the error routes of a server.
func newErrorRoutes(server *caddyhttp.Server) *errorRoutes {
	e := &errorRoutes{server: server, known: make(map[string]level), groups: make(map[string]bool)}
	if server.Errors != nil && len(server.Errors.Routes) > 0 {
		e.lists = append(e.lists, errorList{routes: server.Errors.Routes})
	}
	e.collect(server.Routes, nil, false, make(map[string]bool))
	e.failing = append(e.failing, failsAtServer(server)...)
	for _, list := range e.lists {
		for _, sets := range list.around {
			e.collectHosts(sets)
		}
		e.collectHostsIn(list.routes)
	}
	for _, failing := range e.failing {
		for _, sets := range failing.around {
			e.collectHosts(sets)
		}
	}
	for _, route := range server.NamedRoutes {
		e.collectHostsIn(caddyhttp.RouteList{*route})
	}
	return e
}

// collect reads routes that are not error routes. A subroute among them may have error
// routes of its own. A named route is read once: it sets the same values whichever route
// invokes it. isBehind says that a block stands in front of all of them.
func (e *errorRoutes) collect(
	routes caddyhttp.RouteList, around []caddyhttp.MatcherSets, isBehind bool, invoked map[string]bool,
) {
	for _, route := range routes {
		e.groups[route.Group] = route.Group != ""
		around := append(slices.Clone(around), route.MatcherSets)
		if what := e.failingIn(route); what != "" && !isBehind {
			e.failing = append(e.failing, failsInFront{around: around, what: what})
		}
		for _, handler := range route.Handlers {
			isBehind = isBehind || caddy.GetModuleName(handler) == moduleName
			switch handler := handler.(type) {
			case *caddyhttp.VarsMiddleware:
				for name, value := range *handler {
					e.note("http.vars."+name, levelOfValue(value))
				}
			case *maphandler.Handler:
				for i, name := range handler.Destinations {
					e.note(name, levelOfOutputs(handler, i))
				}
			case *headers.Handler:
				e.newHost = e.newHost || changesHost(handler.Request)
			case *caddyhttp.Subroute:
				if handler.Errors != nil {
					e.lists = append(e.lists, errorList{around, handler.Errors.Routes, true})
				}
			case *caddyhttp.Invoke:
				if route, ok := e.server.NamedRoutes[handler.Name]; ok && !invoked[handler.Name] {
					invoked[handler.Name] = true
					e.collect(caddyhttp.RouteList{*route}, nil, isBehind, invoked)
				}
			}
			for _, inner := range routing.In(handler) {
				e.collect(inner, around, isBehind, invoked)
			}
		}
	}
}

func (e *errorRoutes) note(placeholder string, l level) {
	if before, ok := e.known[placeholder]; ok {
		l = min(l, before)
	}
	e.known[placeholder] = l
}

// collectHosts collects host matchers, also those within not.
func (e *errorRoutes) collectHosts(sets []caddyhttp.MatcherSet) {
	for _, set := range sets {
		for _, matcher := range set {
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchHost:
				e.hosts = append(e.hosts, matcher)
			case *caddyhttp.MatchNot:
				e.collectHosts(matcher.MatcherSets)
			}
		}
	}
}

func (e *errorRoutes) collectHostsIn(routes caddyhttp.RouteList) {
	for _, route := range routes {
		e.collectHosts(route.MatcherSets)
		for _, handler := range route.Handlers {
			for _, inner := range routing.In(handler) {
				e.collectHostsIn(inner)
			}
		}
	}
}

// hostsOf returns one byte for each host matcher: whether it matches the request. A matcher with a
// placeholder is Maybe: the error routes may set a variable before they evaluate it.
func (e *errorRoutes) hostsOf(r *http.Request) string {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	// The error routes get the server's request. A handler may have handed on a copy
	// that has another host.
	atServer, _ := repl.GetString("http.request.hostport")
	known := make([]byte, len(e.hosts))
	for i, matcher := range e.hosts {
		known[i] = byte(routing.Maybe)
		varies := slices.ContainsFunc(*matcher, func(host string) bool { return levelOfValue(host) < byError })
		if matched, err := matcher.MatchWithError(r); err == nil && !varies && atServer == r.Host && !e.newHost {
			known[i] = byte(routing.No)
			if matched {
				known[i] = byte(routing.Yes)
			}
		}
	}
	return string(known)
}

// walk returns a walk through the error routes, given a result of hostsOf and the status of the error. The status 0 is
// that of no error in particular.
func (e *errorRoutes) walk(hosts string, status int) *errorWalk {
	r := &http.Request{Method: http.MethodGet, URL: new(url.URL), Header: make(http.Header)}
	repl := caddy.NewReplacer()
	if status != 0 {
		repl.Set("http.error.status_code", status)
		repl.Set("http.error.status_text", http.StatusText(status))
	}
	r = caddyhttp.PrepareRequest(r, repl, nil, e.server)
	w := &errorWalk{errorRoutes: e, r: r, matched: make(map[*caddyhttp.MatchHost]routing.Certainty)}
	for i, matcher := range e.hosts {
		w.matched[matcher] = routing.Certainty(hosts[i])
	}
	return w
}

// verdict returns what the error routes can do after a failure, given a result of hostsOf. It is computed once for
// each failure code and result.
func (e *errorRoutes) verdict(f failure, hosts string) verdict {
	key := f.code + " " + hosts
	if v, ok := e.verdicts.Load(key); ok {
		return v.(verdict)
	}
	w := e.walk(hosts, f.status)
	var start []trail
	if f != anyOther {
		repl := w.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		repl.Set("http.aventus_auth.error", f.code)
		start = append(start, trail{})
	}
	if f == anyOther || len(e.lists) > 1 { // the error routes of a subroute may make another error
		start = append(start, trail{otherError: true})
	}
lists:
	for _, list := range e.lists {
		for _, sets := range list.around {
			if w.matches(sets, trail{otherError: true}) == routing.No { // evaluated before there was an error
				continue lists
			}
		}
		// A request that a server's error routes do not answer gets the status of the error.
		// One that a subroute's do not answer goes on to the handlers behind the subroute,
		// which may be those that the block protects.
		if on := w.follow(list.routes, start); list.ofSubroute && len(on) > 0 && w.found.unsafe == "" {
			w.found.unsafe = "what stands behind a subroute with error routes"
		}
	}
	e.verdicts.Store(key, w.found)
	return w.found
}
