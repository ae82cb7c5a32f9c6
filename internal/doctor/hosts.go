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
	port := ""
	if target.Port() != "" {
		port = ":" + target.Port()
	}
	target.Host, target.RawQuery = name+port, ""
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

// rival returns a block at a host of a place that keeps other sessions in a cookie of the same name, or nil.
// Browsers do not tell cookies apart by port.
func (d *doctor) rival(p place) *Block {
	for _, b := range d.report.Blocks {
		for _, other := range b.places {
			if other.block.Cookie != p.block.Cookie || other.block.BoundTo == p.block.BoundTo {
				continue
			}
			if slices.ContainsFunc(other.hosts, func(host string) bool {
				return slices.ContainsFunc(p.hosts, func(own string) bool {
					return serves(own, host) || serves(host, own)
				})
			}) {
				return other.block
			}
		}
	}
	return nil
}

// rivalry is what is found of a host for which rival returned a block.
func rivalry(other *Block) aventus.Finding {
	return aventus.Finding{
		Status: aventus.Warn,
		Detail: fmt.Sprintf("%s is also the cookie of another aventus_auth here (client_id %s), which is bound to "+
			"something else: each login replaces the other's session", other.Cookie,
			aventus.CleanText(other.Config.ClientID)),
		Next: "give one of them a session { name } of its own; or have both the same client, issuer, audience and " +
			"scopes, so that they share a session",
	}
}
