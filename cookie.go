package aventusauth

import (
	"iter"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// bindingName is the cookie that binds a login to the browser it began in.
	bindingName = "aventus_login"

	// hostPrefix makes browsers insist that a cookie is the very host's own
	// (draft-ietf-httpbis-rfc6265bis, section 4.1.3).
	hostPrefix = "__Host-"
)

// cookies are the cookies of a block: the session's and the binding.
type cookies struct {
	session, binding string // their names
	secure           bool   // the redirect URI is https

	// own returns the names of the cookies that the module may have at the block's host: these two,
	// and those of the other blocks there.
	own func() []string
}

// cookieNames are the names of the cookies of all blocks of a config. None of the blocks may hand
// another's cookies on.
type cookieNames struct {
	mu  sync.Mutex
	all []hostCookies
}

type hostCookies struct {
	hosts *hostGroup
	names []string
}

// join makes the cookies of a block at some hosts known to the others, and those of the others to it.
func (n *cookieNames) join(hosts *hostGroup, c *cookies) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, hostCookies{hosts, []string{c.session, c.binding}})
	// It is first asked by a request, when all blocks of the config have joined.
	c.own = sync.OnceValue(func() []string { return n.at(hosts) })
}

func (n *cookieNames) at(hosts *hostGroup) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for _, other := range n.all {
		if !other.hosts.overlaps(hosts) {
			continue
		}
		for _, name := range other.names {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// clear deletes the session's cookie.
func (c *cookies) clear(w http.ResponseWriter) { c.set(w, c.session, "", 0) }

// set sets a cookie, or with a maxAge of zero deletes it. Deleting repeats
// the attributes: without them, browsers keep a cookie whose name begins with
// __Host-.
func (c *cookies) set(w http.ResponseWriter, name, value string, maxAge time.Duration) {
	secure := ""
	if c.secure {
		secure = "; Secure"
	}
	cookie := name + "=" + value + "; Path=/; Max-Age=" + strconv.Itoa(int(maxAge/time.Second)) +
		"; HttpOnly; SameSite=Lax" + secure
	// One of a name is enough, where several blocks share it.
	header := w.Header()
	header["Set-Cookie"] = append(withoutSetCookie(header, name), cookie)
}

// withoutSetCookie returns the lines of Set-Cookie that set no cookie of that name.
func withoutSetCookie(header http.Header, name string) []string {
	return slices.DeleteFunc(header["Set-Cookie"], func(line string) bool { return strings.HasPrefix(line, name+"=") })
}

// takeBack takes the session's cookie out of an answer again.
func (c *cookies) takeBack(header http.Header) {
	if lines := withoutSetCookie(header, c.session); len(lines) > 0 {
		header["Set-Cookie"] = lines
	} else {
		delete(header, "Set-Cookie")
	}
}

// sets reports whether an answer sets a cookie of the module's. A site may set others before.
func (c *cookies) sets(header http.Header) bool {
	return slices.ContainsFunc(header["Set-Cookie"], func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		return slices.Contains(c.own(), name)
	})
}

// clears reports whether an answer deletes a cookie of the module's.
func (c *cookies) clears(header http.Header) bool {
	return slices.ContainsFunc(header["Set-Cookie"], func(line string) bool {
		name, rest, _ := strings.Cut(line, "=")
		return strings.HasPrefix(rest, ";") && slices.Contains(c.own(), name)
	})
}

// room returns how long the session's cookie may be beside the others that a request came with. Each block of a host
// has its share of what the site's own cookies leave: several logins that come back at once are not sent each other's
// cookies.
func (c *cookies) room(lines []string) int {
	left, shared, sessions := maxCookies, maxCookies, 0
	for _, line := range lines {
		left -= len(withoutCookies(line, []string{c.session})) + len("; ")
		shared -= len(withoutCookies(line, c.own())) + len("; ")
	}
	for _, name := range c.own() {
		if strings.TrimPrefix(name, hostPrefix) != bindingName { // which no session has for its name
			sessions++
		}
	}
	return min(shared/sessions, left)
}

// takeFrom takes the module's own cookies out of a request.
func (c *cookies) takeFrom(r *http.Request) {
	lines, own := r.Header["Cookie"], c.own()
	var kept []string
	for _, line := range lines {
		if line = withoutCookies(line, own); line != "" {
			kept = append(kept, line)
		}
	}
	if kept == nil {
		delete(r.Header, "Cookie")
	} else {
		r.Header["Cookie"] = kept
	}
}

// withoutCookies returns what is left of a Cookie header's line without the cookies of
// some names, the rest as it came.
func withoutCookies(line string, names []string) string {
	kept := make([]string, 0, 16) // more than most have, and on the stack
	// This is faster than the closures of [strings.SplitSeq].
	for more := true; more; {
		var pair string
		pair, line, more = strings.Cut(line, ";")
		if name, _, _ := strings.Cut(pair, "="); !slices.Contains(names, textproto.TrimString(name)) {
			kept = append(kept, pair)
		}
	}
	return strings.TrimLeft(strings.Join(kept, ";"), " \t")
}

// hasCookie reports whether there is a cookie of that name.
func hasCookie(lines []string, name string) bool {
	for range cookieValues(lines, name) {
		return true
	}
	return false
}

// cookieValues returns the values of every cookie of that name: an old cookie may
// stand in front of the good one.
func cookieValues(lines []string, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for more := true; more; {
				var pair string
				pair, line, more = strings.Cut(line, ";")
				n, value, _ := strings.Cut(pair, "=")
				if textproto.TrimString(n) == name && !yield(textproto.TrimString(value)) {
					return
				}
			}
		}
	}
}
