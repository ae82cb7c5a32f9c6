package doctor

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// describe says in words which requests some matchers match.
func describe(sets []caddyhttp.MatcherSet) string {
	if len(sets) == 0 {
		return "every path"
	}
	var either []string
	for _, set := range sets {
		var all []string
		for _, matcher := range set {
			all = append(all, describeOne(matcher))
		}
		slices.Sort(all) // Caddy has them in any order
		either = append(either, strings.Join(all, " and "))
	}
	return strings.Join(either, ", or ")
}

func describeOne(matcher any) string {
	switch matcher := matcher.(type) {
	case *caddyhttp.MatchPath:
		return strings.Join(*matcher, " ")
	case *caddyhttp.MatchNot:
		return "all but " + describe(matcher.MatcherSets)
	}
	return "what the matcher " + caddy.GetModuleName(matcher) + " takes"
}

// paths returns the patterns of the path matchers in some sets, without those inside a "not", and those that
// match everything.
func paths(sets []caddyhttp.MatcherSet) (patterns []string) {
	for _, set := range sets {
		for _, matcher := range set {
			if matcher, ok := matcher.(*caddyhttp.MatchPath); ok {
				for _, pattern := range *matcher {
					if pattern != "*" && !strings.HasPrefix(pattern, routing.Sorting) {
						patterns = append(patterns, pattern)
					}
				}
			}
		}
	}
	return patterns
}

// protects describes which requests a block protects at a place. It fails if another handler answers first,
// and warns if paths below a protected one are open, or if another block there shuts API clients out.
func (l *loaded) protects(b *Block, p place) aventus.Finding {
	detail := describe(b.Matchers)
	if within := paths(slices.Concat(p.around...)); len(within) > 0 {
		detail += ", within " + strings.Join(within, " ")
	}
	if b.Passes {
		detail += "; who has no session passes all the same"
	}
	if first := l.before(b, p); first != "" {
		return aventus.Finding{
			Status: aventus.Fail, Detail: detail + ", but " + first + " answers first: it is open to everybody",
			Next: "put aventus_auth before it, or, if that is what the global option order does, take that option out",
		}
	}
	if other := l.shutsOut(b, p); other != nil {
		return aventus.Finding{
			Status: aventus.Warn,
			Detail: fmt.Sprintf("%s; API clients meet another aventus_auth there (client_id %s), without "+
				"accept_bearer, and get 401", detail, aventus.CleanText(other.Config.ClientID)),
			Next: "give each block that a request meets accept_bearer, or keep these paths out of the other's matcher",
		}
	}
	for _, pattern := range paths(b.Matchers) {
		base, open := l.leftOpen(p, pattern)
		if open == "" {
			continue
		}
		return aventus.Finding{
			Status: aventus.Warn, Detail: fmt.Sprintf("%s; %s is open to everybody", detail, open),
			Next: fmt.Sprintf("to protect it as well, have the matcher take %s and %s/*", base, base),
		}
	}
	return aventus.Finding{Status: aventus.Pass, Detail: detail}
}

// leftOpen names what is open beside the paths that a pattern matches, or returns "": what is below /admin, or /admin
// where the pattern is /admin/*. The base is that path without a final slash.
func (l *loaded) leftOpen(p place, pattern string) (base, open string) {
	base, isFolder := strings.CutSuffix(pattern, "/*")
	base = strings.TrimSuffix(base, "/")
	if strings.Trim(base, "/") == "" || strings.ContainsAny(base, "*{") {
		return base, ""
	}
	if isFolder {
		// An app may answer for /admin what it answers for /admin/. A file server does not: at a folder's name, it
		// adds the slash. A redirect or a fixed text may be meant for everybody.
		if l.opensInside(p, base) == "reverse_proxy" {
			return base, base + ", without a slash,"
		}
		return base, ""
	}
	isFile := strings.Contains(base[strings.LastIndexByte(base, '/')+1:], ".")
	if isFile || l.opensInside(p, base+"/x") == "" {
		return base, ""
	}
	return base, "what is below " + base + "/"
}

// opensInside is opens for a path that certainly passes the matchers around the place. A handle of another path sends
// it elsewhere, as the site wants it.
func (l *loaded) opensInside(p place, path string) string {
	for _, sets := range p.around {
		if l.scoutAt(p, path).matches(sets) != routing.Yes {
			return ""
		}
	}
	return l.opens(p, path)
}

// opens returns the handler that answers a request for a path at a place, unless a block protects it; or "".
func (l *loaded) opens(p place, path string) string {
	s := l.scoutAt(p, path)
	if s.follow(p.server.Routes) != stops {
		return ""
	}
	return s.why
}

// shutsOut returns a block that takes no tokens of API clients, and protects what b lets them in for; or nil.
func (l *loaded) shutsOut(b *Block, p place) *Block {
	if !b.TakesBearers {
		return nil
	}
	for _, path := range l.samples(b, p) {
		s := l.scoutAt(p, path)
		s.through = true
		s.follow(p.server.Routes)
		for _, other := range s.met {
			if !other.TakesBearers && !other.Passes && slices.Contains(s.met, b) {
				return other
			}
		}
	}
	return nil
}

// samples returns paths of requests that certainly pass the matchers around a block, and that the block protects.
func (l *loaded) samples(b *Block, p place) []string {
	all := []string{"/aventus_auth_doctor"} // a path for which no site has a route of its own
	for _, pattern := range slices.Concat(paths(slices.Concat(p.around...)), paths(b.Matchers)) {
		if !strings.ContainsAny(pattern, "{?") {
			all = append(all, strings.ReplaceAll(pattern, "*", "x"))
		}
	}
	return slices.DeleteFunc(all, func(path string) bool { return !l.scoutAt(p, path).isInside(p, b) })
}

// before returns the handler that answers a protected request before it reaches the block, or "".
func (l *loaded) before(b *Block, p place) string {
	for _, path := range l.samples(b, p) {
		// A redirect or a fixed text may be meant for everybody.
		if first := l.opens(p, path); first == "file_server" || first == "reverse_proxy" {
			return first
		}
	}
	return ""
}

// scoutAt returns a scout with a page visit at a place. It arrives if a block protects the visit.
func (l *loaded) scoutAt(p place, path string) *scout {
	host := anyHost
	if len(p.hosts) > 0 && !strings.Contains(p.hosts[0], "{") { // placeholders of a request have no value here
		host = inURL(strings.ReplaceAll(p.hosts[0], "*", "any"))
	}
	return l.newScout(p.server, &url.URL{Host: host, Path: path})
}

// metadata checks whether API clients can fetch the metadata of a block with accept_bearer (RFC 9728).
func (l *loaded) metadata(p place) aventus.Finding {
	const lookedAt = metadataPath + ", where API clients look for where to sign in"
	s := l.scoutAt(p, metadataPath)
	s.describes = true
	switch s.follow(p.server.Routes) {
	case arrives:
		return aventus.Finding{Status: aventus.Pass, Detail: metadataPath + " comes to aventus_auth"}
	case cannotTell:
		return skipped("cannot be told: it depends on " + s.why)
	case stops:
		return aventus.Finding{
			Status: aventus.Warn, Detail: s.why + " answers at " + lookedAt,
			Next: "put aventus_auth before it, or keep " + metadataPath + " out of its matcher",
		}
	}
	return aventus.Finding{
		Status: aventus.Warn, Detail: "nothing answers at " + lookedAt,
		Next: "take aventus_auth out of the handle or route that leaves this path out, and give it the matcher",
	}
}

// isInside reports whether a request certainly passes the matchers around a block, and whether the block protects it.
func (s *scout) isInside(p place, b *Block) bool {
	for _, sets := range append(slices.Clone(p.around), b.Matchers) {
		if s.matches(sets) != routing.Yes {
			return false
		}
	}
	return true
}
