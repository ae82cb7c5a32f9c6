package aventusauth

import (
	"crypto/tls"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// place is where a block stands.
type place struct {
	server *caddyhttp.Server
	hosts  []string // the names that its site is for; empty: not known, or any
}

// places finds the blocks in the servers' routes. One that is in another handler's
// keeping (a named route, say) is not found.
func places(app *caddyhttp.App) map[*Handler]place {
	found := make(map[*Handler]place)
	var search func(caddyhttp.RouteList, place)
	search = func(routes caddyhttp.RouteList, outer place) {
		for _, route := range routes {
			here := outer
			var hosts []string
			for _, set := range route.MatcherSets {
				for _, m := range set {
					if m, ok := m.(*caddyhttp.MatchHost); ok {
						hosts = append(hosts, *m...)
					}
				}
			}
			if len(hosts) > 0 {
				here.hosts = hosts
			}
			for _, handler := range route.Handlers {
				switch handler := handler.(type) {
				case *Handler:
					found[handler] = here
				case *caddyhttp.Subroute:
					search(handler.Routes, here)
				}
			}
		}
	}
	for _, server := range app.Servers {
		search(server.Routes, place{server: server})
	}
	return found
}

// findCallback sees whether a request for the callback comes to the block, or to one
// that shares its redirect URI, and what stands in its way.
func findCallback(app *caddyhttp.App, b *block, redirectURI string) aventus.Finding {
	target, err := url.Parse(redirectURI)
	if err != nil {
		return skipped("the name of the host is not known")
	}
	// Several servers may have the port, on an address each. Where none has it,
	// something in front of Caddy changes it, and more perhaps.
	servers := slices.Collect(maps.Values(app.Servers))
	servers = slices.DeleteFunc(servers, func(s *caddyhttp.Server) bool { return !listensOn(s, target) })
	direct := len(servers) > 0
	if len(servers) != 1 {
		servers = slices.DeleteFunc(slices.Clone(b.servers), func(s *caddyhttp.Server) bool { return direct && !listensOn(s, target) })
	}
	best := skipped("cannot be told: the block was not found among the routes")
	for i, server := range servers {
		f := seekCallback(server, b.h.cfg.redirectURI, target, direct)
		if i == 0 || f.Status == aventus.Pass {
			best = f
		}
	}
	return best
}

// seekCallback is findCallback for one server.
func seekCallback(server *caddyhttp.Server, seeks string, target *url.URL, direct bool) aventus.Finding {
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery},
		Host: target.Host, RequestURI: target.RequestURI(), Header: make(http.Header), RemoteAddr: "192.0.2.1:1",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if target.Scheme == "https" {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: target.Hostname()}
	}
	s := &scout{seeks: seeks, direct: direct, groups: make(map[string]bool)}
	s.r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server)

	switch came := s.follow(server.Routes); {
	case came == arrives:
		return aventus.Finding{Status: aventus.Pass, Detail: "comes to aventus_auth"}
	case came == cannotTell:
		return skipped("cannot be told: it depends on " + s.why)
	case !s.hostMatched && s.hostMissed:
		return aventus.Finding{
			Status: aventus.Warn, Detail: "no site of this config has the name " + target.Hostname(),
			Next: "give the site the name in redirect_uri, unless a proxy in front of Caddy sends another Host",
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

// scout goes the way of a request through the routes, as Caddy would, but has no
// handler answer it: that could have effects. What it cannot foresee, it leaves open.
type scout struct {
	r      *http.Request
	seeks  string          // the redirect URI, as the config has it
	direct bool            // it comes as it was sent
	groups map[string]bool // the groups of routes that are satisfied
	why    string          // what stopped it, or what cannot be told

	hostMatched, hostMissed bool
}

type outcome int

const (
	goesOn outcome = iota
	arrives
	stops
	cannotTell
	ends // no handler is left
)

// certainty is ordered, so that "and" is the least of several, and "or" the most.
type certainty int

const (
	no certainty = iota
	maybe
	yes
)

func (s *scout) follow(routes caddyhttp.RouteList) outcome {
	for _, route := range routes {
		if s.groups[route.Group] {
			continue
		}
		switch s.matches(route.MatcherSets) {
		case no:
			continue
		case maybe:
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

// meet says what becomes of the request at a handler.
func (s *scout) meet(handler caddyhttp.MiddlewareHandler) outcome {
	name := caddy.GetModuleName(handler)
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		return s.follow(handler.Routes)
	case *Handler:
		return s.meetBlock(handler)
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
		// These change nothing but the request, and routes after them look at that.
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

// meetBlock says what becomes of the request at a block, as ServeHTTP has it.
func (s *scout) meetBlock(h *Handler) outcome {
	path := original(s.r).URL.Path
	protects := s.matches(h.matchers)
	switch {
	case path == h.cfg.callbackPath && h.cfg.redirectURI == s.seeks:
		return arrives
	case path == h.cfg.callbackPath, path == h.cfg.logoutPath, path == h.cfg.profilePath, protects == yes && h.cfg.unauthenticated != "pass":
		s.why = "another aventus_auth (client_id " + aventus.CleanText(h.cfg.ClientID) + ")"
		return stops
	case protects == maybe && h.cfg.unauthenticated != "pass":
		return cannotTell
	}
	return goesOn
}

// acts reports whether a handler may do more than look at the request, or at what is
// answered.
func acts(handler caddyhttp.MiddlewareHandler) bool {
	return !slices.Contains([]string{
		"copy_response_headers", "encode", "headers", "intercept", "log_append",
		"push", "request_body", "templates", "timeouts", "tracing",
	}, caddy.GetModuleName(handler))
}

// matches says whether one of the sets matches; none at all does.
func (s *scout) matches(sets []caddyhttp.MatcherSet) certainty {
	if len(sets) == 0 {
		return yes
	}
	most := no
	for _, set := range sets {
		least := yes
		for _, matcher := range set {
			least = min(least, s.ask(matcher))
		}
		most = max(most, least)
	}
	return most
}

// ask puts the request to a matcher, if it looks at nothing that this request has
// not in common with every visitor's.
func (s *scout) ask(matcher any) certainty {
	if matcher, ok := matcher.(*caddyhttp.MatchNot); ok {
		return yes - s.matches(matcher.MatcherSets)
	}
	name := caddy.GetModuleName(matcher)
	if slices.Contains([]string{"file", "host", "method", "path", "path_regexp"}, name) || name == "protocol" && s.direct {
		matched, err := caddyhttp.MatcherSet{matcher}.MatchWithError(s.r)
		switch {
		case err == nil && matched:
			s.hostMatched = s.hostMatched || name == "host"
			return yes
		case err == nil:
			s.hostMissed = s.hostMissed || name == "host"
			return no
		}
	}
	s.why = "the matcher " + name
	return maybe
}
