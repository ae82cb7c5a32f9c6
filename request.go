package aventusauth

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// original returns the request as it came, before any rewrite.
func original(r *http.Request) http.Request {
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return orig
	}
	return *r
}

// clientIP returns the client's address, which Caddy takes from a header where trusted_proxies
// says so.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// sentVar is where the first block of the module that a request meets keeps what
// it takes out of it, for the others.
const sentVar = "aventus_auth.sent"

// sent holds the header lines that a request came with, and the identity that was found for it. As a
// placeholder, it is empty: its content is for this module alone.
type sent struct {
	cookies, authorization []string        // the lines of these headers
	placeholders           *caddy.Replacer // asks for the user; nil: not yet
	user                   *grant          // the last block's word; nil: an anonymous request's
	tokenHeader, token     string          // the line of a header that the last block has sent a token on in
	failed                 *failure        // what the request ended with
	serverSaid             serverWords     // at the callback
	visited                string          // the origin of another host, whose page the request is for; may be empty
}

// serverWords are what the authorization server says at the callback: a code, and words that are meant for the
// person. They are text that others chose, and a page has to escape them.
type serverWords struct{ code, description string }

func (*sent) String() string { return "" }

// asSent returns the sent of a request, and makes it if the request has none.
func asSent(r *http.Request) *sent {
	was, ok := caddyhttp.GetVar(r.Context(), sentVar).(*sent)
	if !ok {
		was = &sent{cookies: r.Header["Cookie"], authorization: r.Header["Authorization"]}
		caddyhttp.SetVar(r.Context(), sentVar, was)
	}
	return was
}

// takeBack removes the token of the block before from a request. What the site has put in its place since then stays.
func (was *sent) takeBack(header http.Header) {
	lines := header[was.tokenHeader]
	if !slices.Contains(lines, was.token) {
		return
	}
	lines = slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return line == was.token })
	if len(lines) == 0 {
		delete(header, was.tokenHeader)
	} else {
		header[was.tokenHeader] = lines
	}
}

// userPlaceholders is how the names of all placeholders begin that say who a user is.
const userPlaceholders = "http.auth.user."

// introduce sets the placeholders {http.auth.user.*}, by what is known of the user. They are empty
// for an anonymous request, whose user is nil. Of several blocks, the last one set the token that
// goes on; the placeholders say whose that is.
func (was *sent) introduce(r *http.Request, user *grant) {
	was.user = user
	isFirst := was.placeholders == nil
	if isFirst {
		was.placeholders = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	}
	// What another handler has set, such as a basic_auth in front or between two blocks, would hide this user.
	was.placeholders.DeleteByPrefix(userPlaceholders)
	if !isFirst {
		return
	}
	was.placeholders.Map(func(key string) (any, bool) {
		name, ok := strings.CutPrefix(key, userPlaceholders)
		switch {
		case !ok:
			return nil, false
		case was.user == nil:
			return "", true
		}
		return was.user.known(name), true
	})
}
