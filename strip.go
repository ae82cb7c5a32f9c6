package aventusauth

import (
	"io"
	"iter"
	"maps"
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// stripUpgrade reduces Upgrade to a WebSocket's, and deletes every other. Caddy
// forwards each of them, and what some open (h2c, TLS) is a tunnel for further
// requests. A WebSocket is opened by a GET of HTTP/1.1 without a body, whose Connection
// names Upgrade (RFC 6455, section 4.1): of anything else, one server expects a body
// where another takes the same bytes for the tunnel's.
func stripUpgrade(r *http.Request) {
	lines, ok := r.Header["Upgrade"]
	if !ok {
		return
	}
	if r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor >= 1 && r.ContentLength == 0 &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(lines, "websocket") {
		r.Header["Upgrade"] = []string{"websocket"}
	} else {
		delete(r.Header, "Upgrade")
	}
}

// sentFields are the header fields that the handler changes, as a request came to it.
// A field that it came without is nil.
type sentFields struct {
	authorization, cookie, connection, upgrade []string

	tokenHeader string      // another than Authorization that the token goes on in; empty: none
	tokens      http.Header // the fields that could be taken for it
	named       http.Header // the fields that Connection names; may be nil
}

func sentHeader(header http.Header, tokenHeader string) sentFields {
	f := sentFields{
		authorization: header["Authorization"],
		cookie:        header["Cookie"],
		connection:    header["Connection"],
		upgrade:       header["Upgrade"],
	}
	if tokenHeader != "" && tokenHeader != "Authorization" {
		f.tokenHeader, f.tokens = tokenHeader, make(http.Header)
		for name, lines := range header {
			if isNamed(name, tokenHeader) {
				f.tokens[name] = lines
			}
		}
	}
	for option := range connectionOptions(f.connection) {
		name := textproto.CanonicalMIMEHeaderKey(option)
		if lines, ok := header[name]; ok && !staysInConnection(option) {
			if f.named == nil {
				f.named = make(http.Header)
			}
			f.named[name] = lines
		}
	}
	return f
}

// restore puts the fields back. A field that only Connection named may have been set by the
// site in the meantime, such as X-User-Id, and is left then.
func (f *sentFields) restore(header http.Header) {
	put := func(name string, lines []string) {
		if lines == nil {
			delete(header, name)
		} else {
			header[name] = lines
		}
	}
	put("Authorization", f.authorization)
	put("Cookie", f.cookie)
	put("Connection", f.connection)
	put("Upgrade", f.upgrade)
	if f.tokenHeader != "" {
		delete(header, f.tokenHeader)
		maps.Copy(header, f.tokens)
	}
	for name, lines := range f.named {
		if _, ok := header[name]; !ok {
			header[name] = lines
		}
	}
}

// stripIdentity removes everything from a request that says, or could say, who sent it: the next
// handler is told by this module, or not at all. Fields that are needed later must be in asSent by
// then. The cookies and the header that the token goes on in are those of the block.
func stripIdentity(r *http.Request, own *cookies, tokenHeader string) {
	delete(r.Header, "Authorization")
	if tokenHeader != "" && tokenHeader != "Authorization" {
		maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return isNamed(name, tokenHeader) })
	}
	own.takeFrom(r)

	// The fields that Connection names are removed on the way to an upstream (RFC 9110,
	// section 7.6.1), after us: by then it could be our header, or one that the
	// site makes of it. It means what the client sent, so that goes now.
	if lines, ok := r.Header["Connection"]; ok {
		var kept []string
		for option := range connectionOptions(lines) {
			if staysInConnection(option) {
				kept = append(kept, option)
			} else {
				r.Header.Del(option)
			}
		}
		if kept == nil {
			delete(r.Header, "Connection")
		} else {
			r.Header["Connection"] = kept
		}
	}

	// Trailers come after the body, long after us, and are forwarded too.
	guard, guarded := r.Body.(*trailerGuard) // of another block, say, with another header for its token
	if r.Body != nil && (r.ContentLength != 0 || len(r.Trailer) > 0) &&
		(!guarded || guard.tokenHeader != tokenHeader) {
		dropTrailers(r.Trailer, tokenHeader)
		r.Body = &trailerGuard{ReadCloser: r.Body, request: r, tokenHeader: tokenHeader}
	}
}

// isNamed reports whether a field has the name of another, as an app may read it: CGI makes an
// underscore of each hyphen (RFC 3875, section 4.1.18), PHP of each dot (Caddy drops these two, unless it is
// told to expect them), and some servers of whatever is no letter or digit.
func isNamed(field, name string) bool {
	return len(field) == len(name) && strings.EqualFold(hyphens.Replace(field), hyphens.Replace(name))
}

// hyphens makes a hyphen of each character of a field's name that is no letter or digit (RFC 9110, section 5.6.2).
var hyphens = strings.NewReplacer("!", "-", "#", "-", "$", "-", "%", "-", "&", "-", "'", "-", "*", "-", "+", "-",
	".", "-", "^", "-", "_", "-", "`", "-", "|", "-", "~", "-")

// connectionOptions returns what the lines of a Connection header name.
func connectionOptions(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for option := range strings.SplitSeq(line, ",") {
				if option = textproto.TrimString(option); option != "" && !yield(option) {
					return
				}
			}
		}
	}
}

// staysInConnection reports whether a connection option names no field that could be
// ours.
func staysInConnection(option string) bool {
	switch strings.ToLower(option) {
	case "close", "keep-alive", "upgrade", "te":
		return true
	}
	return false
}

// trailerGuard drops trailers when they have come.
type trailerGuard struct {
	io.ReadCloser
	request     *http.Request
	tokenHeader string
}

func (g *trailerGuard) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err != nil {
		dropTrailers(g.request.Trailer, g.tokenHeader)
	}
	return n, err
}

// dropTrailers deletes all trailers but checksums of the body. An app that merges
// trailers into headers would take any other for a header that the site makes, such as
// X-User-Id, or for one that the client may not send (RFC 9110, section 6.5.1). The header that the token goes on
// in may be called as a checksum is, and is none.
func dropTrailers(trailer http.Header, tokenHeader string) {
	for name := range trailer {
		switch name[strings.LastIndexByte(name, '-')+1:] {
		case "Digest", "Checksum", "Sum", "Md5":
			if !isNamed(name, tokenHeader) {
				continue
			}
		}
		delete(trailer, name)
	}
}
