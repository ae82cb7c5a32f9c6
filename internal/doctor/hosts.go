package doctor

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// unlisted returns the names of the sites in which a block stands, and at which its login leads to another host
// that cannot hand a session over: they are neither the redirect URI's host nor listed beside it.
func (b *block) unlisted() []string {
	if b.block.leavesHost() {
		return nil
	}
	var hosts []string
	for _, p := range b.places {
		// Where no login begins, and no host is turned away, it does no harm.
		if !p.begins && len(b.block.Hosts) == 0 {
			continue
		}
		for _, host := range p.hosts {
			host = strings.ToLower(host)
			if !strings.Contains(host, "{") && !b.block.covers(host) && !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// covers reports whether a name, or all names of a wildcard, are hosts of the block's login.
func (b *Block) covers(host string) bool {
	if u, err := url.Parse(b.RedirectURI); err == nil &&
		host == strings.ToLower(strings.TrimRight(u.Hostname(), ".")) {
		return true
	}
	_, domain, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(b.Hosts, func(listed string) bool {
		listed = strings.ToLower(strings.TrimRight(listed, "."))
		return listed == host || listed == "*."+domain
	})
}

// strayHost is what is found of a host that unlisted returned.
func (b *block) strayHost(host string) aventus.Finding {
	to := parsed(b.block.RedirectURI).Host
	f := aventus.Finding{Status: aventus.Fail}
	if len(b.block.Hosts) > 0 {
		f.Detail = "is neither the host of redirect_uri nor in hosts: it answers 421 to every request"
		f.Next = "add it to hosts, or give its site a block without them, unless a proxy in front of Caddy sends " +
			"another Host"
		return f
	}
	f.Detail = fmt.Sprintf("who signs in there comes back to %s, without a session here", to)
	f.Next = fmt.Sprintf("share one login with %q, or have redirect_uri say %s and register each host's, "+
		"unless a proxy in front of Caddy sends another Host", "hosts "+host, hostPlaceholder)
	return f
}

// findListed sees whether a ticket comes to the block at a host that is listed.
func (l *loaded) findListed(b *block, host string) aventus.Finding {
	host = strings.ToLower(strings.TrimRight(host, "."))
	name := strings.Replace(host, "*", "any", 1)
	for _, p := range b.places {
		for _, site := range p.hosts { // one of those that a wildcard is for will do
			if serves(host, strings.ToLower(site)) && !strings.Contains(site, "*") {
				name = strings.ToLower(site)
			}
		}
	}
	target := *parsed(b.block.RedirectURI)
	target.Host, target.RawQuery = b.hostAt(name), ""
	if b.isDeaf(&target) {
		return deaf(&target)
	}
	f := l.findCallback(b, target.String())
	if f.Status == aventus.Warn {
		f.Next = "give it a site with this block, unless another Caddy that shares the storage has it, " +
			"or a proxy in front of Caddy sends another Host"
	}
	return f
}

// hostAt returns a host with the port of the redirect URI.
func (b *block) hostAt(name string) string {
	if port := parsed(b.block.RedirectURI).Port(); port != "" {
		return name + ":" + port
	}
	return name
}

// listedOrigins returns the origins of the hosts that share the login with the redirect URI's.
func (b *block) listedOrigins() []string {
	var all []string
	for _, host := range b.block.Hosts {
		name := strings.ToLower(strings.TrimRight(host, "."))
		all = append(all, parsed(b.block.RedirectURI).Scheme+"://"+b.hostAt(name))
	}
	return all
}

// isDeaf reports whether the block stands in a site of a URL's host, and in none that listens at the URL's
// scheme and port.
func (b *block) isDeaf(u *url.URL) bool {
	name, isNamed := strings.ToLower(u.Hostname()), false
	for _, p := range b.places {
		if !slices.ContainsFunc(p.hosts, func(site string) bool { return serves(strings.ToLower(site), name) }) {
			continue
		}
		isNamed = true
		// A server speaks TLS if it has such policies, which Caddy gives to those whose sites are https.
		if isTLS := len(p.server.TLSConnPolicies) > 0; listensOn(p.server, u) && isTLS == (u.Scheme == "https") {
			return false
		}
	}
	return isNamed
}

// deaf is what is found of a host for which isDeaf is true.
func deaf(u *url.URL) aventus.Finding {
	return aventus.Finding{
		Status: aventus.Fail, Detail: "its site does not listen where redirect_uri says: " + u.Scheme +
			", " + portOf(u),
		Next: "give its address the scheme and port of redirect_uri, unless a proxy in front of Caddy has them",
	}
}

// serves reports whether the host of a site, which may be a wildcard, is for a name.
func serves(site, name string) bool {
	_, domain, _ := strings.Cut(name, ".")
	return site == name || site == "*."+domain
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return "port " + port
	}
	return map[string]string{"http": "port 80", "https": "port 443"}[u.Scheme]
}
