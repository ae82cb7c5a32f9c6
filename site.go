package aventusauth

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// hostPlaceholder is the one placeholder that is left for the request.
	hostPlaceholder = "{http.request.host}"

	// anyHost stands in for it where a URL is parsed (RFC 6761, section 6.4).
	anyHost = "host.invalid"
)

// hostLetters are what a host name is made of, in lower case.
const hostLetters = "abcdefghijklmnopqrstuvwxyz0123456789-._"

// site is the part of the configuration that depends on the request's host.
type site struct {
	origin      string // scheme and authority
	login       string // the origin of the redirect URI; another one where several hosts share the login
	redirectURI string
	associated  []byte // what is sealed for this host is bound to it
	group       []byte // what is sealed for all hosts of the login is bound to it
}

// isLoginHost reports whether the site is the redirect URI's host, which talks to the authorization server.
func (s site) isLoginHost() bool { return s.origin == s.login }

// callbackAt returns the URL of the callback's path at a host of the login.
func (s site) callbackAt(origin string) string {
	return origin + s.route()
}

// host returns the host of the site, without port and brackets.
func (s site) host() string {
	_, authority, _ := strings.Cut(s.origin, "://")
	host, _ := splitHost(authority)
	return strings.Trim(host, "[]")
}

// route returns the path of the redirect URI, as it is written.
func (s site) route() string {
	_, rest, _ := strings.Cut(s.redirectURI, "://")
	path, _, _ := strings.Cut(rest[strings.IndexByte(rest, '/'):], "?")
	return path
}

// isRoutedAs reports whether two sites have one path for their callbacks, however each of them writes it: that is
// what the gate goes by.
func (s site) isRoutedAs(other site) bool {
	path, _ := url.PathUnescape(s.route()) // parseRedirectURI has accepted it
	otherPath, _ := url.PathUnescape(other.route())
	return path == otherPath
}

// sites tells which site a request is for.
type sites struct {
	redirectURI string      // may hold hostPlaceholder
	fixed       *site       // nil if it does
	hosts       *hostGroup  // those that share the login; nil where there is one host
	bound       [2][]string // what all that is sealed for a site is bound to, before and behind its origin

	members *lru.Cache[string, site] // those of hosts that were asked for, so that each is made once
}

// newSites returns the sites of a redirect URI that parseRedirectURI has accepted. None of the texts
// that are bound holds a NUL, so no two lists make the same associated data.
func newSites(redirectURI string, hosts *hostGroup, before, behind []string) *sites {
	s := &sites{redirectURI: redirectURI, hosts: hosts, bound: [2][]string{before, behind}}
	s.members, _ = lru.New[string, site](rememberedHosts) // fails for no size alone
	if !strings.Contains(redirectURI, hostPlaceholder) {
		at := s.with(redirectURI)
		s.fixed = &at
	}
	return s
}

// with returns the site of the redirect URI with its placeholder replaced.
func (s *sites) with(redirectURI string) site {
	scheme, rest, _ := strings.Cut(redirectURI, "://")
	host := rest[:strings.IndexByte(rest, '/')]
	origin := scheme + "://" + strings.ToLower(host)
	bound := []byte(strings.Join(slices.Concat(s.bound[0], []string{origin}, s.bound[1]), "\x00"))
	return site{origin: origin, login: origin, redirectURI: redirectURI, associated: bound, group: bound}
}

// member returns the site of a host, as hostName returns it, of those that share the login. Its scheme and
// port are the redirect URI's.
func (s *sites) member(host string) (site, error) {
	if s.hosts == nil || !s.hosts.has(host) {
		return site{}, errUnlisted
	}
	if host == s.hosts.own {
		return *s.fixed, nil
	}
	if at, ok := s.members.Get(host); ok {
		return at, nil
	}
	at := *s.fixed
	scheme, authority, _ := strings.Cut(at.login, "://")
	_, port := splitHost(authority)
	at.origin = scheme + "://" + host + port
	at.associated = boundToHost(at.group, at.origin)
	s.members.Add(strings.Clone(host), at) // the name is a piece of the request's header
	return at, nil
}

// boundToHost returns the associated data of what is sealed for one host of a group, and of no other
// purpose of the group: the group's own ends in an origin or a compared parameter.
func boundToHost(group []byte, origin string) []byte {
	return slices.Concat(group, []byte("\x00for "), []byte(origin))
}

// names reports whether the config names a host as one of these sites.
func (s *sites) names(host string) bool {
	return s.hosts != nil && s.hosts.has(host) || s.fixed != nil && s.fixed.host() == host
}

// from returns the site of an origin that one of these sites has, for what is the same at all hosts that
// share a login.
func (s *sites) from(origin string) site {
	if s.fixed != nil {
		return *s.fixed
	}
	_, rest, _ := strings.Cut(s.redirectURI, "://")
	return s.with(origin + rest[strings.IndexByte(rest, '/'):])
}

// of returns the site that a request is for.
func (s *sites) of(r *http.Request) (site, error) {
	if s.hosts != nil {
		return s.member(hostName(r.Host))
	}
	if s.fixed != nil {
		return *s.fixed, nil
	}
	// The redirect URI is made of it: what is no host name gets no further.
	host := hostName(r.Host)
	if host == "" {
		return site{}, errors.New("the host of the request cannot stand in a redirect URI")
	}
	if strings.Contains(host, ":") { // an IPv6 address
		host = "[" + host + "]"
	}
	return s.with(strings.Replace(s.redirectURI, hostPlaceholder, host, 1)), nil
}

// hostOf returns the host that a request names, in lower case, without port, brackets and the dots at its
// end.
func hostOf(r *http.Request) string {
	host, _ := splitHost(r.Host)
	return strings.ToLower(withoutFinalDot(strings.Trim(host, "[]")))
}

// returnPath returns the path and query that a request came with, to the letter
// as far as a Location header and a browser's address bar can hold them.
func returnPath(r *http.Request) string {
	u := original(r).URL
	path := u.RawPath // set where the path is not written in the default way
	if path == "" {
		path = u.EscapedPath()
	}
	if !strings.HasPrefix(path, "/") {
		return "/"
	}
	path = escape(path, "\"#<>\\")
	if u.RawQuery == "" && !u.ForceQuery {
		return path
	}
	return path + "?" + escape(u.RawQuery, "\"#<>")
}

// escape percent-encodes the given characters and all that is not visible ASCII:
// Go's server takes more than a URL may hold.
func escape(s, characters string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(characters, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// splitHost parts a request's host from its port, which keeps its colon.
func splitHost(hostport string) (host, port string) {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host, hostport[strings.LastIndexByte(hostport, ':'):]
	}
	return hostport, ""
}

// withoutFinalDot returns a host without the dots at its end: example.com. is
// example.com (RFC 1034, section 3.1).
func withoutFinalDot(host string) string { return strings.TrimRight(host, ".") }

// isPath reports whether a text is a path on the site, and no URL of another.
func isPath(s string) bool {
	// Browsers take the two others for the beginning of a host.
	return strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && !strings.HasPrefix(s, `/\`) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
