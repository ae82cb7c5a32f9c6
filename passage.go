package aventusauth

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"
	"golang.org/x/net/http/httpguts"
)

// passage hands a request to the next handler, and makes its answer private to this visitor.
type passage struct {
	cookies      *cookies
	tokenHeader  string // where the token goes on; empty: nowhere
	takesBearers bool   // API clients may bring a token of their own
	streams      *streams
	hasEnded     func(*session) bool // as far as it is known
	noteUse      func(context.Context, *keptSession)
	vary         []string // the request headers that tell visitors apart
}

// introduce removes the client's own statements about its identity from a request, and sets the placeholders
// of the identity that was found.
func (ps *passage) introduce(r *http.Request, was *sent, id identity) {
	was.takeBack(r.Header)
	kept := ps.ownAuthorization(r, id)
	stripIdentity(r, ps.cookies, ps.tokenHeader)
	if kept != nil {
		r.Header["Authorization"] = kept
	}
	was.introduce(r, id.grant)
	was.tokenHeader, was.token = "", ""
	if !id.isAnonymous() {
		was.tokenHeader, was.token = ps.tokenHeader, ps.tokenOf(id)
	}
}

// tokenOf returns the line that the token of an identity goes on in.
func (ps *passage) tokenOf(id identity) string {
	if ps.tokenHeader == "Authorization" {
		return id.bearer
	}
	return id.token()
}

// ownAuthorization returns what goes on of the client's own Authorization: nothing, unless the token
// goes on elsewhere. Of a Bearer token that was to be verified and was not, since a session came first,
// the next handler would believe that it was.
func (ps *passage) ownAuthorization(r *http.Request, id identity) []string {
	if ps.tokenHeader == "Authorization" {
		return nil
	}
	lines := r.Header["Authorization"]
	if lines == nil ||
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "Authorization") ||
		ps.takesBearers && id.session != nil && slices.ContainsFunc(lines, isBearer) {
		return nil
	}
	return lines
}

// letThrough calls the next handler, with the token of the identity. That is the zero one for an
// anonymous request. The identity has to be introduced by then.
func (ps *passage) letThrough(w http.ResponseWriter, r *http.Request, id identity, next caddyhttp.Handler) error {
	own := &privateWriter{ResponseWriter: w, passage: ps, identity: id}
	if !id.isAnonymous() {
		if ps.tokenHeader != "" {
			own.token[0] = ps.tokenOf(id)
			r.Header[ps.tokenHeader] = own.token[:]
		}
	}
	if own.sealed = ps.cookies.sets(w.Header()); own.sealed && id.session != nil {
		ctx := r.Context()
		own.noteUse = func() { ps.noteUse(ctx, id.session) }
	}
	// A stream that shows only by its answer can be ended later over HTTP/1.1. Over HTTP/2 it could only be
	// reset (see endInOrder), and over HTTP/3 not even that.
	if streams := isStream(r); !id.isAnonymous() && (streams || r.ProtoMajor >= 2) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		r, own.cancel = r.WithContext(ctx), cancel
		if streams {
			own.stream = ps.streams.open(w, id, cancel)
		}
	}
	defer own.close()
	defer own.endInOrder()
	err := next.ServeHTTP(own, r)
	if err != nil && !own.wroteHeader {
		// The error routes do not write by way of us, and may have caches keep what they
		// write. The next request seals the session anew.
		ps.cookies.takeBack(w.Header())
		own.noteUse = nil
	}
	own.makePrivate() // if nothing was written: what follows is an error's page, or no body
	return err
}

// privateWriter keeps shared caches from giving one visitor's page to another.
//
// It is no io.ReaderFrom, on purpose. Caddy 2.11's own, which is there unless
// write_idle_timeout is off, wraps a file once too often for sendfile, and then has
// net/http read it into a new buffer of 32 KiB, and write the header by itself. By way
// of Write, a page costs a third less, and a large file half: see bench.
type privateWriter struct {
	http.ResponseWriter
	passage     *passage
	identity    identity
	token       [1]string               // the line of the header that the token goes on in
	noteUse     func()                  // notes that the session was used, if the answer says so; may be nil
	stream      *stream                 // nil: none
	cancel      context.CancelCauseFunc // ends the request; may be nil
	sealed      bool                    // the answer sets a cookie of ours
	wroteHeader bool
}

func (p *privateWriter) makePrivate() {
	if p.wroteHeader {
		return
	}
	p.wroteHeader = true
	header := p.Header()
	if p.stream == nil && !p.identity.isAnonymous() && isEvents(header) {
		p.stream = p.passage.streams.open(p.ResponseWriter, p.identity, p.cancel)
	}
	names := p.passage.vary
	if isEncodedBy(p.ResponseWriter) {
		names = append([]string{"Accept-Encoding"}, names...)
	}
	holdsSession := false
	if p.sealed {
		_, holdsSession = header["Set-Cookie"]
	}
	if k := p.identity.session; holdsSession && k != nil && p.passage.hasEnded(k.session) &&
		!p.passage.cookies.clears(header) { // as a logout behind this block does
		// The browser may have another session by now, whose cookie this one would replace.
		p.passage.cookies.takeBack(header)
		_, holdsSession = header["Set-Cookie"]
	} else if p.noteUse != nil {
		p.noteUse()
	}
	makePrivate(header, names, holdsSession)
}

// isEncodedBy reports whether an encode in front will write an answer. It adds a line of
// its own to Vary, unless Accept-Encoding is named already.
func isEncodedBy(w http.ResponseWriter) bool {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok { // the server's own writer, which none of these is
			return false
		}
		if t := reflect.TypeOf(w); t.Kind() == reflect.Pointer && t.Elem().PkgPath() == encodePackage {
			return true
		}
		w = wrapper.Unwrap()
	}
}

var encodePackage = reflect.TypeFor[encode.Encode]().PkgPath()

// close ends the watch over a stream.
func (p *privateWriter) close() {
	if p.stream != nil {
		p.stream.stop()
	}
}

func (p *privateWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		p.makePrivate()
	} else if cookies, ok := p.Header()["Set-Cookie"]; ok && p.sealed {
		// The header of an informational response (RFC 9110, section 15.2) is all that is
		// set so far. Our cookie belongs to the final response, with its no-store.
		delete(p.Header(), "Set-Cookie")
		defer func() { p.Header()["Set-Cookie"] = cookies }()
	}
	p.ResponseWriter.WriteHeader(status)
}

func (p *privateWriter) Write(b []byte) (int, error) {
	p.makePrivate()
	if p.stream.isClosed() {
		return 0, errSessionOver
	}
	return p.ResponseWriter.Write(b)
}

// Push implements http.Pusher, which Caddy's push handler asks for.
func (p *privateWriter) Push(target string, options *http.PushOptions) error {
	return (&caddyhttp.ResponseWriterWrapper{ResponseWriter: p.ResponseWriter}).Push(target, options)
}

// Unwrap is for http.ResponseController.
func (p *privateWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// FlushError is found by http.ResponseController.
func (p *privateWriter) FlushError() error {
	p.makePrivate()
	return http.NewResponseController(p.ResponseWriter).Flush() //nolint:bodyclose
}

// Hijack is found by http.ResponseController.
func (p *privateWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(p.ResponseWriter).Hijack() //nolint:bodyclose
	if err == nil && p.stream != nil {
		p.stream.tookOver(conn)
	}
	return conn, buffered, err
}
