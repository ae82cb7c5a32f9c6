package aventusauth

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// hostGroup are the hosts of one login: the redirect URI's, which alone talks to the authorization
// server, and those that are listed beside it.
type hostGroup struct {
	own       string // the redirect URI's host
	names     map[string]bool
	wildcards map[string]bool // by the domain, whose subdomains they are
}

// newHostGroup returns the group of a redirect URI's host and the hosts that are listed, which
// checkListed has seen. A host that is listed twice is a member once.
func newHostGroup(own string, listed []string) *hostGroup {
	g := &hostGroup{own: own, names: map[string]bool{own: true}, wildcards: make(map[string]bool)}
	for _, host := range listed {
		host = strings.ToLower(withoutFinalDot(host))
		if domain, ok := strings.CutPrefix(host, "*."); ok {
			g.wildcards[domain] = true
		} else {
			g.names[host] = true
		}
	}
	return g
}

// has reports whether a host, as hostName returns it, is a member. A wildcard stands for one label:
// whoever runs a.example.com may let others have names below it.
func (g *hostGroup) has(host string) bool {
	if g.names[host] {
		return true
	}
	label, domain, _ := strings.Cut(host, ".")
	return label != "" && g.wildcards[domain]
}

// overlaps reports whether a host may be a member of both groups.
func (g *hostGroup) overlaps(other *hostGroup) bool {
	if g.own == anyHost || other.own == anyHost {
		return true
	}
	for name := range g.names {
		if other.has(name) {
			return true
		}
	}
	for name := range other.names {
		if g.has(name) {
			return true
		}
	}
	for domain := range g.wildcards {
		if other.wildcards[domain] {
			return true
		}
	}
	return false
}

// hostName returns the name or address in a request's Host: in lower case, without port, brackets and
// final dot. It returns "" for what is neither and cannot stand in a URL. An underscore is no letter of
// a host name (RFC 1123, section 2.1), but DNS and browsers know names that have one.
func hostName(hostport string) string {
	host, _ := splitHost(hostport)
	if strings.ContainsAny(hostport, "[]") { // they are for IPv6 addresses alone
		return ipv6(strings.Trim(host, "[]"))
	}
	host = strings.ToLower(withoutFinalDot(host))
	if len(host) > maxHost || strings.Trim(host, hostLetters) != "" {
		return ""
	}
	return host
}

// ipv6 returns an IPv6 address in its usual form, or "" if it is none.
func ipv6(host string) string {
	ip := net.ParseIP(host)
	if ip == nil || ip.To4() != nil {
		return ""
	}
	return ip.String()
}

// checkListed reports what keeps host from being listed beside a redirect URI, which is https or has a
// loopback host.
func checkListed(host string, isHTTPS bool) error {
	name := strings.ToLower(withoutFinalDot(host))
	domain, isWildcard := strings.CutPrefix(name, "*.")
	last := domain[strings.LastIndexByte(domain, '.')+1:]
	switch {
	case strings.Contains(host, "/"):
		return fmt.Errorf("takes names such as app.example.com, not the URL %q", host)
	case strings.Contains(host, ":"):
		return fmt.Errorf("takes no port or address, as in %q: the port is that of redirect_uri", host)
	case strings.HasPrefix(domain, "."): // as in the Domain of a cookie
		return fmt.Errorf("takes *%s for the names below a domain, not %q", domain, host)
	case strings.Contains(domain, "*"):
		return fmt.Errorf("takes an asterisk for the whole first label, as in *.example.com, not %q", host)
	case strings.ContainsFunc(domain, func(r rune) bool { return r > '~' }):
		return fmt.Errorf("takes names in ASCII: write %q in Punycode (xn--…)", host)
	case len(name) > maxHost, slices.ContainsFunc(strings.Split(domain, "."), func(label string) bool {
		return label == "" || len(label) > 63 || strings.Trim(label, labelLetters) != ""
	}):
		return fmt.Errorf("takes host names, and %q is not one", host)
	case strings.Trim(last, "0123456789") == "",
		strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "":
		// Browsers take it for an IPv4 address (https://url.spec.whatwg.org/#ends-in-a-number-checker).
		return fmt.Errorf("takes names, and %q is an address", host)
	case !isHTTPS && last != "localhost":
		return fmt.Errorf("%q must be below localhost, since redirect_uri is http", host)
	case isWildcard && isPublic(domain):
		return fmt.Errorf("%q has names that anybody can register: list those that are yours", host)
	}
	return nil
}

// labelLetters are what a label of a host name is made of, in lower case.
const labelLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_"

// isPublic reports whether names below a domain belong to different owners: it is a public suffix, as
// far as the list is known (https://publicsuffix.org), or a top-level domain that is not in it, or all
// names below it are public suffixes themselves. All names below localhost are this machine's
// (RFC 6761, section 6.3).
func isPublic(domain string) bool {
	if domain == "localhost" {
		return false
	}
	below := "any-label." + domain
	suffix, _ := publicsuffix.PublicSuffix(below)
	return suffix == below || suffix == domain
}
