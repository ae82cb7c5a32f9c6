package doctor

import (
	"crypto/tls"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// place is where a block stands.
type place struct {
	block  *Block // nil: it was not found
	server *caddyhttp.Server
	hosts  []string // the names that its site is for; empty: not known, or any

	around [][]caddyhttp.MatcherSet // of the routes that it stands in, from the outermost
	begins bool                     // a page visit without a session begins a login
}

// names returns the names of the site, for people.
func (p place) names() string {
	names := make([]string, len(p.hosts))
	for i, host := range p.hosts {
		names[i] = inURL(host)
	}
	return strings.Join(names, ", ")
}

// places finds the blocks in the servers' routes, and in the named routes that these invoke. It does not find
// a block inside a handler that package routing does not know.
func places(
	app *caddyhttp.App, isBlock func(caddyhttp.MiddlewareHandler) bool,
) map[caddyhttp.MiddlewareHandler][]place {
	found := make(map[caddyhttp.MiddlewareHandler][]place)
	invoked := make(map[string]bool) // the named routes that are being searched
	var search func(caddyhttp.RouteList, place)
	search = func(routes caddyhttp.RouteList, outer place) {
		for _, route := range routes {
			here := outer
			here.around = append(slices.Clip(outer.around), route.MatcherSets)
			var hosts []string
			for _, set := range route.MatcherSets {
				for _, m := range set {
					if m, ok := m.(*caddyhttp.MatchHost); ok {
						for _, host := range *m { // the matcher expands placeholders as well
							hosts = append(hosts, caddy.NewReplacer().ReplaceKnown(host, ""))
						}
					}
				}
			}
			if len(hosts) > 0 {
				here.hosts = hosts
			}
			for _, handler := range route.Handlers {
				if isBlock(handler) {
					found[handler] = append(found[handler], here)
					continue
				}
				switch handler := handler.(type) {
				case *caddyhttp.Subroute:
					search(handler.Routes, here)
				case *caddyhttp.Invoke:
					if named, ok := here.server.NamedRoutes[handler.Name]; ok && !invoked[handler.Name] {
						invoked[handler.Name] = true
						search(caddyhttp.RouteList{*named}, here)
						delete(invoked, handler.Name)
					}
				}
			}
		}
	}
	for _, server := range app.Servers {
		search(server.Routes, place{server: server})
	}
	return found
}

// findCallback checks whether a request for the callback reaches the block, or one that
// shares its redirect URI, and if not, which handler is in its way.
func (l *loaded) findCallback(b *block, redirectURI string) aventus.Finding {
	return l.find(b, redirectURI, func(s *scout) { s.seeks = b.block.RedirectURI })
}

// findLogout checks the same for a logout token. Any block with the same path may receive it.
func (l *loaded) findLogout(b *block, uri string) aventus.Finding {
	return l.find(b, uri, func(s *scout) { s.tells, s.r.Method = true, http.MethodPost })
}

// find checks whether a request for a URL, as setUp changes it, reaches the block.
func (l *loaded) find(b *block, uri string, setUp func(*scout)) aventus.Finding {
	target, err := url.Parse(uri)
	if err != nil {
		return skipped("the name of the host is not known")
	}
	// Several servers may listen on the port, each on its own address. If none does, a proxy in front of
	// Caddy changes the port, and perhaps more.
	servers := slices.Collect(maps.Values(l.app.Servers))
	servers = slices.DeleteFunc(servers, func(s *caddyhttp.Server) bool { return !listensOn(s, target) })
	direct := len(servers) > 0
	if len(servers) != 1 {
		servers = nil
		for _, p := range b.places {
			if !direct || listensOn(p.server, target) {
				servers = append(servers, p.server)
			}
		}
	}
	best := skipped("cannot be told: the block was not found among the routes")
	for i, server := range servers {
		f := l.seek(server, b, target, direct, setUp)
		if i == 0 || f.Status == aventus.Pass {
			best = f
		}
	}
	return best
}

// seek is find for one server.
func (l *loaded) seek(
	server *caddyhttp.Server, b *block, target *url.URL, direct bool, setUp func(*scout),
) aventus.Finding {
	s := l.newScout(server, target)
	setUp(s)
	s.direct = direct
	switch came := s.follow(server.Routes); {
	case came == arrives:
		return aventus.Finding{Status: aventus.Pass, Detail: "comes to aventus_auth"}
	case came == cannotTell:
		return skipped("cannot be told: it depends on " + s.why)
	case !s.hostMatched && s.hostMissed:
		return aventus.Finding{
			Status: aventus.Warn, Detail: "no site of this config has the name " + inURL(target.Hostname()),
			Next: "give the site the name in redirect_uri, unless a proxy in front of Caddy sends another Host",
		}
	case came == stops && s.leavesOut(b, server):
		return aventus.Finding{
			Status: aventus.Fail,
			Detail: s.why + " answers: the handle or route that aventus_auth stands in leaves " + target.Path + " out",
			Next:   "take aventus_auth out of it, or have it take " + target.Path + " as well",
		}
	case came == stops:
		return aventus.Finding{
			Status: aventus.Fail, Detail: s.why + " answers before aventus_auth sees it",
			Next: "put aventus_auth before it, or keep " + target.Path + " out of its matcher",
		}
	}
	return aventus.Finding{
		Status: aventus.Fail, Detail: "nothing answers: it does not come to aventus_auth",
		Next: "take aventus_auth out of the handle or route that leaves " + target.Path + " out",
	}
}

// leavesOut reports whether the routes around a block keep the request from it, at each of its places at a server.
func (s *scout) leavesOut(b *block, server *caddyhttp.Server) bool {
	defer func(why string) { s.why = why }(s.why)
	keepsOut := func(sets []caddyhttp.MatcherSet) bool { return s.matches(sets) == routing.No }
	found := false
	for _, place := range b.places {
		if place.server != server {
			continue
		}
		if !slices.ContainsFunc(place.around, keepsOut) {
			return false
		}
		found = true
	}
	return found
}

// listensOn reports whether the server listens on the URL's port.
func listensOn(server *caddyhttp.Server, u *url.URL) bool {
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		port = map[string]uint64{"http": 80, "https": 443}[u.Scheme]
	}
	return slices.ContainsFunc(server.Listen, func(listen string) bool {
		address, err := caddy.ParseNetworkAddress(listen)
		return err == nil && uint64(address.StartPort) <= port && port <= uint64(address.EndPort)
	})
}

// scout follows a request through the routes, as Caddy would, but calls no handler: that
// could have effects. If it cannot predict a step, the outcome is unsure.
type scout struct {
	r       *http.Request
	blocks  []*Block                                 // of the config
	blockOf func(caddyhttp.MiddlewareHandler) *Block // nil: it is none
	seeks   string                                   // the redirect URI, as in the config; empty: any block
	direct  bool                                     // no proxy in front has changed the request
	groups  map[string]bool                          // the groups of routes that are satisfied
	named   map[string]*caddyhttp.Route
	depth   int    // of named routes that invoke each other
	why     string // the handler that stopped it, or that cannot be predicted

	hostMatched, hostMissed bool

	describes bool // it asks for the metadata of blocks for API clients
	tells     bool // it is a logout token of the authorization server

	through bool     // it goes on after a block that protects it
	met     []*Block // the blocks that it passed
}

// maxDepth limits how deep named routes that invoke each other are followed.
const maxDepth = 32

type outcome int

const (
	goesOn outcome = iota
	arrives
	stops
	cannotTell
	ends // no handler is left
)

// newScout returns a scout with a page visit at a server.
func (l *loaded) newScout(server *caddyhttp.Server, target *url.URL) *scout {
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery},
		Host: target.Host, RequestURI: target.RequestURI(), Header: make(http.Header), RemoteAddr: "192.0.2.1:1",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if target.Scheme == "https" {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: target.Hostname()}
	}
	return &scout{
		blocks: l.blocks, blockOf: l.blockOf, groups: make(map[string]bool), named: server.NamedRoutes,
		r: caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server),
	}
}

func (s *scout) follow(routes caddyhttp.RouteList) outcome {
	for _, route := range routes {
		if s.groups[route.Group] {
			continue
		}
		switch s.matches(route.MatcherSets) {
		case routing.No:
			continue
		case routing.Maybe:
			if route.Group == "" && !route.Terminal && !slices.ContainsFunc(route.Handlers, acts) {
				continue
			}
			return cannotTell
		}
		s.groups[route.Group] = route.Group != ""
		for _, handler := range route.Handlers {
			if came := s.meet(handler); came != goesOn {
				return came
			}
		}
		if route.Terminal {
			return ends
		}
	}
	return goesOn
}

// meet returns the outcome of the request at a handler.
func (s *scout) meet(handler caddyhttp.MiddlewareHandler) outcome {
	name := caddy.GetModuleName(handler)
	if b := s.blockOf(handler); b != nil {
		return s.meetBlock(b)
	}
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		return s.follow(handler.Routes)
	case *caddyhttp.Invoke:
		route, ok := s.named[handler.Name]
		if !ok || s.depth >= maxDepth {
			break
		}
		s.depth++
		defer func() { s.depth-- }()
		return s.follow(caddyhttp.RouteList{*route})
	case *fileserver.FileServer:
		if !handler.PassThru {
			s.why = name
			return stops
		}
	case *reverseproxy.Handler:
		if len(handler.HandleResponse) == 0 {
			s.why = name
			return stops
		}
	}
	switch name {
	case "static_response":
		s.why = name + " (respond, redir or abort)"
		return stops
	case "error":
		s.why = name
		return stops
	case "rewrite", "vars", "map":
		// These change only the request, and the matchers of later routes depend on it.
		passed := false
		err := handler.ServeHTTP(nil, s.r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			s.r, passed = r, true
			return nil
		}))
		if err == nil && passed {
			return goesOn
		}
	}
	if !acts(handler) {
		return goesOn
	}
	s.why = "what " + name + " does"
	return cannotTell
}

// meetBlock returns the outcome of the request at a block, as in its ServeHTTP.
func (s *scout) meetBlock(b *Block) outcome {
	path := s.r.URL.Path
	if original, ok := s.r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		path = original.URL.Path
	}
	protects := s.matches(b.Matchers)
	if s.describes {
		switch {
		case b.TakesBearers: // one of them answers for all
			return arrives
		case protects == routing.No || b.Passes:
			return goesOn
		case protects == routing.Maybe:
			return cannotTell
		}
		s.why = "another aventus_auth (client_id " + aventus.CleanText(b.Config.ClientID) + ")"
		return stops
	}
	if s.tells {
		isOwn := slices.Contains(b.OtherPaths, path) && !s.isForAnother(b)
		switch {
		case isOwn && path == b.BackchannelPath:
			return arrives
		case isOwn, path == b.CallbackPath, protects == routing.Yes && !b.Passes:
			s.why = "another aventus_auth (client_id " + aventus.CleanText(b.Config.ClientID) + ")"
			return stops
		case protects == routing.Maybe && !b.Passes:
			return cannotTell
		}
		return goesOn
	}
	if s.seeks == "" {
		if protects == routing.Yes && s.through {
			s.met = append(s.met, b)
			return goesOn
		}
		return []outcome{routing.No: goesOn, routing.Maybe: cannotTell, routing.Yes: arrives}[protects]
	}
	switch {
	case path == b.CallbackPath && b.RedirectURI == s.seeks:
		return arrives
	case path == b.CallbackPath, slices.Contains(b.OtherPaths, path), protects == routing.Yes && !b.Passes:
		s.why = "another aventus_auth (client_id " + aventus.CleanText(b.Config.ClientID) + ")"
		return stops
	case protects == routing.Maybe && !b.Passes:
		return cannotTell
	}
	return goesOn
}

// isForAnother reports whether the request names the host of another block, and not that of b. Then b does not
// serve its own paths, except for the callback.
func (s *scout) isForAnother(b *Block) bool {
	host := strings.ToLower((&url.URL{Host: s.r.Host}).Hostname())
	names := func(b *Block) bool { return !b.leavesHost() && b.covers(host) }
	return !b.leavesHost() && !names(b) && slices.ContainsFunc(s.blocks, names)
}

// acts reports whether a handler may do more than read the request or the response.
func acts(handler caddyhttp.MiddlewareHandler) bool {
	return !slices.Contains([]string{
		"copy_response_headers", "encode", "headers", "intercept", "log_append",
		"push", "request_body", "templates", "timeouts", "tracing",
	}, caddy.GetModuleName(handler))
}

// matches says whether one of the sets matches, or whether there is no set.
func (s *scout) matches(sets []caddyhttp.MatcherSet) routing.Certainty {
	return routing.AnyOf(sets, s.ask)
}

// ask evaluates a matcher if it depends only on properties that this request shares with every visitor's. Any
// other is Maybe.
func (s *scout) ask(matcher any) routing.Certainty {
	if matcher, ok := matcher.(*caddyhttp.MatchNot); ok {
		return routing.Yes - s.matches(matcher.MatcherSets)
	}
	name := caddy.GetModuleName(matcher)
	if slices.Contains([]string{"file", "host", "method", "path", "path_regexp"}, name) ||
		name == "protocol" && s.direct {
		matched, err := caddyhttp.MatcherSet{matcher}.MatchWithError(s.r)
		switch {
		case err == nil && matched:
			s.hostMatched = s.hostMatched || name == "host"
			return routing.Yes
		case err == nil:
			s.hostMissed = s.hostMissed || name == "host"
			return routing.No
		}
	}
	s.why = "the matcher " + name
	return routing.Maybe
}
