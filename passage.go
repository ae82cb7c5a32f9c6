package aventusauth

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// takeTunnel has a request ask an upstream for a WebSocket, or for no upgrade at all.
// Caddy passes every upgrade on, and in what some of them open (h2c, TLS) further
// requests would go past us, with any path and any identity. It also goes for what
// the matcher leaves out.
func takeTunnel(r *http.Request) {
	if lines, ok := r.Header["Upgrade"]; !ok {
		return
	} else if httpguts.HeaderValuesContainsToken(lines, "websocket") {
		r.Header["Upgrade"] = []string{"websocket"}
	} else {
		delete(r.Header, "Upgrade")
	}
}

// takeIdentity takes everything out of a request that says, or could say, who
// sent it: the next handler is told by us, or not at all. What is still needed of it
// has to be in asSent by then.
func (h *Handler) takeIdentity(r *http.Request) {
	delete(r.Header, "Authorization")
	h.takeCookies(r)

	// What Connection names is removed on the way to an upstream (RFC 9110,
	// section 7.6.1), after us: by then it could be our header, or one that the
	// site makes of it. It means what the client sent, so that goes now.
	if lines, ok := r.Header["Connection"]; ok {
		var kept []string
		for _, line := range lines {
			for option := range strings.SplitSeq(line, ",") {
				option = textproto.TrimString(option)
				switch strings.ToLower(option) {
				case "":
				case "close", "keep-alive", "upgrade", "te":
					kept = append(kept, option)
				default:
					r.Header.Del(option)
				}
			}
		}
		if kept == nil {
			delete(r.Header, "Connection")
		} else {
			r.Header["Connection"] = kept
		}
	}

	// Trailers come after the body, long after us, and are forwarded too.
	_, guarded := r.Body.(*trailerGuard) // by another block, say
	if r.Body != nil && r.ContentLength != 0 && !guarded {
		delete(r.Trailer, "Authorization")
		r.Body = &trailerGuard{ReadCloser: r.Body, request: r}
	}
}

// trailerGuard takes an Authorization out of the trailers when they have come.
type trailerGuard struct {
	io.ReadCloser
	request *http.Request
}

func (g *trailerGuard) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err != nil {
		delete(g.request.Trailer, "Authorization")
	}
	return n, err
}

// letThrough calls the next handler, whose answer is for this visitor alone. The
// session is nil for nobody's request.
func (h *Handler) letThrough(w http.ResponseWriter, r *http.Request, s *session, next caddyhttp.Handler) error {
	own := &privateWriter{ResponseWriter: w, handler: h, session: s}
	_, own.sealed = w.Header()["Set-Cookie"]
	if s != nil && isStream(r) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		r = r.WithContext(ctx)
		own.stream = h.newStream(w, s, cancel)
	}
	defer own.close()
	err := next.ServeHTTP(own, r)
	own.makePrivate() // what nobody has written yet: an error's page, or nothing
	return err
}

// privateWriter keeps shared caches from giving one visitor's page to another:
// what does not say itself who may store it is private (RFC 9111, section
// 5.2.2.7), and what may be stored is only for who sends the same (section 4.1).
//
// It is no io.ReaderFrom, on purpose. Caddy 2.11's own, which is there unless
// write_idle_timeout is off, wraps a file once too often for sendfile, and then has
// net/http read it into a new buffer of 32 KiB, and write the header by itself. By way
// of Write, a page costs a third less, and a large file half: see bench.
type privateWriter struct {
	http.ResponseWriter
	handler     *Handler
	session     *session // nil: nobody's
	sealed      bool     // the answer sets a cookie of ours
	stream      *stream  // nil: none
	wroteHeader bool
}

func (p *privateWriter) makePrivate() {
	if p.wroteHeader {
		return
	}
	p.wroteHeader = true
	header := p.Header()
	if p.stream == nil && p.session != nil && strings.HasPrefix(header.Get("Content-Type"), "text/event-stream") {
		p.stream = p.handler.newStream(p.ResponseWriter, p.session, nil)
	}
	// First: Vary is there in most answers, and the header of a page has eight fields in
	// all with the one that is added then. One more, or even a field that is set in a
	// map of eight, and Go makes it a map of another kind, which costs a microsecond.
	tellApart(header, p.handler.cfg.vary)
	if _, ok := header["Set-Cookie"]; ok && p.sealed {
		header["Cache-Control"] = []string{"no-store"} // whatever the site says: it holds a session
		dropOverrides(header)
	} else if says := header["Cache-Control"]; !saysForWhom(says) {
		header["Cache-Control"] = []string{strings.Join(append(says, "private"), ", ")}
	}
}

// saysForWhom reports whether a Cache-Control says who may store an answer, and not
// only for how long. The site was asked with an Authorization, where how long would
// not let a shared cache keep the answer (RFC 9111, section 3.5); but the cache saw a
// cookie, where it would.
func saysForWhom(lines []string) bool {
	for _, line := range lines {
		for directive := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(directive, "=")
			switch strings.ToLower(textproto.TrimString(name)) {
			case "public", "s-maxage", "private", "no-store":
				return true
			}
		}
	}
	return false
}

// dropOverrides deletes what some shared caches heed before Cache-Control: nginx, what
// RFC 9213 calls targeted (CDN-Cache-Control and its like), and its older kin. Expires
// is for those that know no Cache-Control.
func dropOverrides(header http.Header) {
	for name := range header {
		switch {
		case name == "X-Accel-Expires", name == "Expires", name == "Surrogate-Control", name == "Edge-Control", strings.HasSuffix(name, "-Cache-Control"):
			delete(header, name)
		}
	}
}

// tellApart adds to an answer's Vary. It is one line in the end: of several, some
// caches heed the last one alone (nginx before 1.23).
func tellApart(header http.Header, names []string) {
	vary := header["Vary"]
	if httpguts.HeaderValuesContainsToken(vary, "*") {
		header["Vary"] = []string{"*"} // it is for this request alone
		return
	}
	for _, name := range names {
		if !httpguts.HeaderValuesContainsToken(vary, name) {
			vary = append(vary, name)
		}
	}
	if len(vary) > 1 {
		vary = []string{strings.Join(vary, ", ")}
	}
	header["Vary"] = vary
}

// close ends what goes on beside the request.
func (p *privateWriter) close() {
	if p.stream != nil {
		p.stream.stop()
	}
}

func (p *privateWriter) WriteHeader(status int) {
	if status >= 200 { // before it, 1xx answers may come
		p.makePrivate()
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
