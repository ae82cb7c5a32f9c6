package aventusauth

import (
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// clearSession deletes the session's cookie.
func (h *Handler) clearSession(w http.ResponseWriter) {
	h.setCookie(w, h.cfg.cookieName, "", 0)
}

// setCookie sets a cookie, or with a maxAge of zero deletes it. Deleting repeats
// the attributes: without them, browsers keep a cookie whose name begins with
// __Host-.
func (h *Handler) setCookie(w http.ResponseWriter, name, value string, maxAge time.Duration) {
	cookie := name + "=" + value + "; Path=/; Max-Age=" + strconv.Itoa(int(maxAge/time.Second)) + "; HttpOnly; SameSite=Lax"
	if h.cfg.secure {
		cookie += "; Secure"
	}
	// One of a name is enough, where several blocks share it.
	header := w.Header()
	header["Set-Cookie"] = append(slices.DeleteFunc(header["Set-Cookie"], func(line string) bool {
		return strings.HasPrefix(line, name+"=")
	}), cookie)
}

// sentVar is where the first block of the module that a request meets keeps what
// it takes out of it, for the others.
const sentVar = "aventus_auth.sent"

// sent is what a request came with, and who it is from by now. As a placeholder, it
// is empty: what stands in it is for this module alone.
type sent struct {
	cookies, authorization []string                 // the lines of these headers
	introduced             bool                     // the placeholders ask whoIs
	whoIs                  func(string) (any, bool) // the last block's word
}

func (*sent) String() string { return "" }

// asSent returns what a request came with.
func asSent(r *http.Request) *sent {
	was, ok := caddyhttp.GetVar(r.Context(), sentVar).(*sent)
	if !ok {
		was = &sent{cookies: r.Header["Cookie"], authorization: r.Header["Authorization"]}
		caddyhttp.SetVar(r.Context(), sentVar, was)
	}
	return was
}

// takeCookies takes the module's own cookies out of the request.
func (h *Handler) takeCookies(r *http.Request) {
	lines, own := r.Header["Cookie"], h.peers.cookieNames(h)
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		if line = withoutCookies(line, own); line != "" {
			kept = append(kept, line)
		}
	}
	if len(kept) == 0 {
		delete(r.Header, "Cookie")
	} else {
		r.Header["Cookie"] = kept
	}
}

// withoutCookies returns what is left of a Cookie header's line without the cookies of
// some names, the rest as it came.
func withoutCookies(line string, names []string) string {
	kept := make([]string, 0, 16) // more than most have, and on the stack
	for pair := range strings.SplitSeq(line, ";") {
		if name, _ := cutCookie(pair); !slices.Contains(names, name) {
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
			for pair := range strings.SplitSeq(line, ";") {
				if n, value := cutCookie(pair); n == name && !yield(value) {
					return
				}
			}
		}
	}
}

func cutCookie(pair string) (name, value string) {
	name, value, _ = strings.Cut(pair, "=")
	return strings.Trim(name, " \t"), strings.Trim(value, " \t")
}
