package doctor

import (
	"fmt"
	"net"
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
	share := fmt.Sprintf("share one login with %q, or ", "hosts "+host)
	if net.ParseIP(host) != nil { // which is not for addresses
		share = ""
	}
	f.Next = fmt.Sprintf("%shave redirect_uri say %s and register each host's, "+
		"unless a proxy in front of Caddy sends another Host", share, hostPlaceholder)
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

// Setting is a setting that has to be the same at all hosts of a login: what they send each other is sealed for it.
// A secret's value is a hash. If there are several, the first seals, and each opens.
type Setting struct {
	Name   string
	Values []string
}

// agrees reports whether hosts with the two settings can open what the other seals.
func (s Setting) agrees(other Setting) bool {
	return slices.Contains(s.Values, other.Values[0]) && slices.Contains(other.Values, s.Values[0])
}

// apart returns the hosts of a block to which no block at the login host can hand a session over, though there is
// one with the same redirect URI, and what is wrong.
func (d *doctor) apart(b *block) map[string]aventus.Finding {
	found := make(map[string]aventus.Finding)
	if len(b.block.Hosts) == 0 {
		return found
	}
	login := strings.ToLower(parsed(b.block.RedirectURI).Hostname())
	var there []*Block
	for _, other := range d.report.Blocks {
		for _, p := range other.places {
			if strings.EqualFold(other.block.RedirectURI, b.block.RedirectURI) && isAt(p, login) {
				there = append(there, p.block)
			}
		}
	}
	for _, p := range b.places {
		for _, host := range p.hosts {
			host = strings.ToLower(host)
			if host == login || !p.block.covers(host) || len(there) == 0 {
				continue
			}
			if f := p.block.fromNearest(there, host); f.Status == aventus.Fail {
				found[host] = f
			}
		}
	}
	return found
}

// fromNearest compares a block at a host with those at the login host. It finds what is wrong with the one that
// differs least.
func (b *Block) fromNearest(there []*Block, host string) aventus.Finding {
	var nearest []string
	for _, other := range there {
		var names []string
		for i, setting := range b.Sealed {
			if !setting.agrees(other.Sealed[i]) {
				names = append(names, setting.Name)
			}
		}
		if !other.covers(host) {
			names = append(names, "hosts")
		}
		if len(names) == 0 {
			return aventus.Finding{Status: aventus.Pass}
		}
		if nearest == nil || len(names) < len(nearest) {
			nearest = names
		}
	}
	return aventus.Finding{
		Status: aventus.Fail,
		Detail: fmt.Sprintf("its block differs from the one at %s in %s: who signs in there ends at a page with the "+
			"status 400", parsed(b.RedirectURI).Host, strings.Join(nearest, ", ")),
		Next: "give all blocks of one login the same lines, by import of one snippet",
	}
}

// isAt reports whether a place may be for a host.
func isAt(p place, host string) bool {
	return len(p.hosts) == 0 || slices.ContainsFunc(p.hosts, func(site string) bool {
		return serves(strings.ToLower(site), host)
	})
}

// rival returns a block at a host of a place that keeps other sessions in a cookie of the same name, or nil.
// Browsers do not tell cookies apart by port.
func (d *doctor) rival(p place) *Block {
	for _, b := range d.report.Blocks {
		for _, other := range b.places {
			if other.block.Cookie != p.block.Cookie || other.block.BoundTo == p.block.BoundTo {
				continue
			}
			// A site of a wildcard serves none of the hosts that have a site of their own.
			if slices.ContainsFunc(other.hosts, func(host string) bool {
				return slices.ContainsFunc(p.hosts, func(own string) bool { return strings.EqualFold(own, host) })
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
