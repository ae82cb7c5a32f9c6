package aventusauth

import (
	"bytes"
	"errors"
	"html"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// answers writes a block's own answers: redirects, pages, JSON, failures. All of them are
// no-store: write and fail set it, and there is no other way to write one.
type answers struct {
	cookies *cookies
	// tokenHeader is the header that a token would go on in; empty: none.
	tokenHeader string
	// otherAccount returns a sentence on how to use another account at a request's host, or "".
	otherAccount func(*http.Request) string

	vary       []string // the request headers that tell visitors apart
	challenges *challenges
	errors     *errorPages
	meter      *meter
	logger     *zap.Logger
}

// fail ends a request with an error for the site's error routes. If those could answer with
// the refused content, it writes the answer itself. It also does for a logout that could not
// be recorded: that answer deletes the cookie, and error routes could make caches keep it,
// which would sign others out. cause is only logged: it may hold other servers' texts.
func (a *answers) fail(w http.ResponseWriter, r *http.Request, f failure, cause error) error {
	noStore(w.Header(), a.vary)
	if f.status >= 500 && r.Context().Err() != nil {
		f, cause = errGone, nil // the visitor closed the tab, which is not an error of the server
	}
	was := asSent(r)
	if was.visited != "" {
		f.description += " Go back to " + was.visited + "/."
	}
	was.failed = &f
	stripIdentity(r, a.cookies, a.tokenHeader) // the error's routes may lead to an upstream, too
	was.introduce(r, was.user)
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.aventus_auth.error", f.code)
	repl.Set("http.aventus_auth.error_description", f.description)
	repl.Set("http.aventus_auth.server_error", was.serverSaid.code)
	repl.Set("http.aventus_auth.server_error_description", was.serverSaid.description)
	repl.Set("http.aventus_auth.origin", was.visited)
	if cause != nil {
		a.note(r, f.code, f.status, cause)
	}
	// The answer names the missing scope or claim, also if the site has no page for it.
	lacks := f.code == errScope.code || f.code == errClaim.code
	if a.cookies.clears(w.Header()) || !a.errors.mayAnswer(w, r, f) || lacks && a.errors.areNone(r) {
		if lacks {
			f.description += a.otherAccount(r)
		}
		return a.plain(w, f.status, f.description)
	}
	a.cookies.takeBack(w.Header()) // the error routes may have caches keep what they write
	return caddyhttp.Error(f.status, f)
}

// noSite ends a request that is for no site of the block, as sites.of says.
func (a *answers) noSite(w http.ResponseWriter, r *http.Request, err error) error {
	var f failure
	if errors.As(err, &f) {
		return a.fail(w, r, f, nil)
	}
	return a.fail(w, r, errBadHost, err)
}

// note reports in the log why a request fails.
func (a *answers) note(r *http.Request, message string, status int, cause error) {
	level, remedy := zapcore.InfoLevel, advice(cause)
	switch {
	case status >= 500:
		level = zapcore.ErrorLevel
	case message == errDenied.code && remedy.Type != zapcore.SkipType:
		level = zapcore.WarnLevel // the visitor is refused, and cannot help it
	}
	if c := a.logger.Check(level, message); c != nil {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		id := repl.ReplaceAll("{http.request.uuid}", "")
		c.Write(zap.Int("status", status), zap.String("request_id", id), zap.Error(cause), remedy)
	}
}

// refuse ends a request with a refusal.
func (a *answers) refuse(w http.ResponseWriter, r *http.Request, refused *refusal) error {
	if refused.code != errLoginRequired.code {
		a.meter.refused(refused, clientIP(r))
	}
	if refused.code == errRenewal.code {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryRenewal/time.Second)))
	}
	if challenge := a.challenges.of(r, refused); challenge != "" {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	return a.fail(w, r, refused.failure, refused.cause)
}

// redirect sends the browser to another URL.
func (a *answers) redirect(w http.ResponseWriter, to string, status int) error {
	w.Header().Set("Location", to)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.write(w, status, http.StatusText(status)+"\n")
	return nil
}

// plain answers a refused request with a sentence, without the error routes.
func (a *answers) plain(w http.ResponseWriter, status int, sentence string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	a.write(w, status, sentence+"\n")
	return nil
}

// plainly answers a request that has failed with the status of the error, without the error routes.
func (a *answers) plainly(w http.ResponseWriter, cause error) error {
	status := statusOf(cause)
	sentence := http.StatusText(status)
	var f failure
	if errors.As(cause, &f) {
		sentence = f.description
	}
	return a.plain(w, status, sentence)
}

// withhold answers a request that the matcher leaves out, and that has failed behind the block, without the error
// routes: unsafe is the handler among them that could show what is protected. Caddy does not log the error then.
func (a *answers) withhold(w http.ResponseWriter, r *http.Request, cause error, unsafe string) error {
	a.errors.warnOf(r, unsafe)
	if status := statusOf(cause); status >= 500 {
		a.note(r, "a request that the matcher leaves out failed", status, cause)
	}
	return a.plainly(w, cause)
}

// statusOf returns the status that Caddy answers an error with.
func statusOf(err error) int {
	var handlerErr caddyhttp.HandlerError
	if errors.As(err, &handlerErr) && handlerErr.StatusCode != 0 {
		return handlerErr.StatusCode
	}
	return http.StatusInternalServerError
}

// json answers with a document for a program.
func (a *answers) json(w http.ResponseWriter, status int, document []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	a.write(w, status, string(document))
	return nil
}

// empty answers without a body.
func (a *answers) empty(w http.ResponseWriter, status int) error {
	a.write(w, status, "")
	return nil
}

// page answers with a small page. The ancestors are those that may frame it.
func (a *answers) page(w http.ResponseWriter, ancestors, head, main string) error {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors "+ancestors)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	a.write(w, http.StatusOK, pageHead+head+pageStyle+main+pageEnd)
	return nil
}

// sendForm sends a form that was submitted on to another origin, by a page. A redirect
// would not get there from a page whose Content-Security-Policy says form-action
// 'self': Chromium applies that to each redirect after a form
// (https://www.w3.org/TR/CSP3/#directive-form-action).
func (a *answers) sendForm(w http.ResponseWriter, to, further string) error {
	to = html.EscapeString(to)
	// The page that was left may be in a frame of the site.
	return a.page(w, "'self'", `<meta http-equiv="refresh" content="0; url=`+to+`">
<title>One moment</title>`, `<h1>One moment</h1>
<p>You are being sent on.</p>
<p><a href="`+to+`">Continue</a></p>
`+further)
}

const (
	pageHead = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
`
	// As in Caddyfile.example.
	pageStyle = `
<style>
:root {
	color-scheme: light dark;
	--back: #eef0f6; --card: #fff; --text: #1b1f2d; --accent: #4b4ddb;
}
@media (prefers-color-scheme: dark) {
	:root { --back: #10121a; --card: #1a1d29; --text: #e9ebf3; --accent: #8f91ff; }
}
* { box-sizing: border-box; }
body {
	display: grid; place-items: center; min-height: 100vh; margin: 0; padding: 1rem;
	background: var(--back); color: var(--text); font: 1.05rem/1.55 system-ui, sans-serif;
}
main { width: 100%; max-width: 30rem; padding: 2rem; border-radius: 1rem; background: var(--card); }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
a {
	display: inline-block; padding: .6rem 1.2rem; border-radius: .6rem;
	background: var(--accent); color: var(--card); font-weight: 600; text-decoration: none;
}
p:last-of-type { margin-bottom: 0; }
img { position: absolute; }
</style>
<body>
<main>
`
	pageEnd = `</main>
</body>
</html>
`
)

// write writes an answer of the block's own, header and body, as no-store. No handler in front replaces
// it: an intercept could replace a refusal with the protected content.
//
// A body is empty where there can be none. To an answer without one, intercept appends
// the body that it has replaced.
func (a *answers) write(w http.ResponseWriter, status int, body string) {
	noStore(w.Header(), a.vary)
	direct, n := direct(w)
	header := direct.Header()
	maps.Copy(header, w.Header()) // the same map, unless a wrapper has its own
	// In the routes of a handle_response, those are another answer's.
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified"} {
		delete(header, name)
	}
	if body != "" {
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	direct.WriteHeader(status)
	_, _ = io.WriteString(direct, body) // if that fails, the client has gone
	if n > 0 {                          // two writers cannot be compared: intercept's is a struct
		// Those that were passed over find nothing written, and may try to. HTTP/3 would
		// send the header only when the handlers have returned.
		_ = http.NewResponseController(direct).Flush() //nolint:bodyclose
		if n > 1 {
			// The outer one of two would take what the inner one writes now, without an
			// answer, for an answer, and replace it. Nothing else keeps it from that. Over
			// HTTP/1.1, the answer is complete; over HTTP/2, it ends in an error.
			panic(http.ErrAbortHandler)
		}
	}
}

// direct returns the writer for what nothing in front may replace. It is w, unless a
// handler in front holds answers back. Then it is the first writer above the server's
// own: the recorders of Caddy's access log and of its metrics for the site's route.
// Deferred operations of a header directive, encode, and the metrics of routes further
// inside do not see the answer. It also returns how many handlers hold answers back.
func direct(w http.ResponseWriter) (direct http.ResponseWriter, holding int) {
	all := writers(w)
	var buffer *bytes.Buffer
	for _, w := range all {
		// An intercept's writer is two, with one buffer.
		if recorder, ok := w.(caddyhttp.ResponseRecorder); ok && holdsBack(w) && recorder.Buffer() != buffer {
			buffer = recorder.Buffer()
			holding++
		}
	}
	if holding == 0 {
		return w, 0
	}
	direct = all[len(all)-1]
	found := false
	for _, w := range slices.Backward(all) {
		_, isRecorder := w.(caddyhttp.ResponseRecorder)
		if holdsBack(w) || found && !isRecorder {
			break
		}
		if isRecorder {
			direct, found = w, true
		}
	}
	return direct, holding
}

// holdsBack reports whether a writer may hold an answer back and replace it, as those
// of Caddy's intercept and templates do, and of what else is made of Caddy's recorder.
func holdsBack(w http.ResponseWriter) bool {
	recorder, ok := w.(caddyhttp.ResponseRecorder)
	return ok && recorder.Buffer() != nil
}

// writers returns a response writer and those that it wraps. The last one is net/http's.
func writers(w http.ResponseWriter) []http.ResponseWriter {
	all := []http.ResponseWriter{w}
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return all
		}
		w = wrapper.Unwrap()
		all = append(all, w)
	}
}

// roomIn returns how long a cookie or a URL may be that is still to be added to an answer's header.
func roomIn(header http.Header) int {
	room := maxAnswerHeader - otherFields
	for name, values := range header {
		for _, value := range values {
			room -= len(name) + len(": ") + len(value) + len("\r\n")
		}
	}
	return room
}
