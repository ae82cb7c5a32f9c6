package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/http/httpguts"
)

// ServeHTTP lets a request with a session through, with its token; sends a page
// visit without one to the login, or does with it what the config says; and serves
// the callback, the logout and the profile.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	takeTunnel(r)
	switch path := original(r).URL.Path; {
	case path == "": // of a CONNECT, or no page's; and of what is not configured
	case path == h.cfg.callbackPath:
		return h.countFailure(h.finishLogin(w, r))
	case path == h.cfg.logoutPath:
		return h.leave(w, r)
	case path == h.cfg.profilePath:
		return h.serveProfile(w, r)
	}
	protected, err := h.protects(r)
	if err != nil {
		return h.fail(w, r, errInternal, fmt.Errorf("the matcher: %w", err))
	}
	if !protected {
		return next.ServeHTTP(w, r)
	}

	at, err := h.site(r)
	if err != nil {
		return h.fail(w, r, errBadHost, err)
	}
	was := asSent(r)
	session, refused := h.identify(r, at, was)
	if refused != nil {
		return h.refuse(w, r, refused)
	}
	h.takeIdentity(r)
	h.introduce(r, was, session)
	if session == nil {
		return h.serveAnonymous(w, r, next)
	}
	if refused := h.lacks(session); refused != nil {
		return h.refuse(w, r, refused)
	}
	if h.renewsByVisit(r, session) {
		// The cookie is sealed anew, which notes that it was tried.
		if err := h.sealSession(w, r.Context(), at, session); err != nil {
			return h.fail(w, r, errStorage, err)
		}
		return h.startLogin(w, r, returnPath(r), 0, http.StatusFound)
	}
	if h.cfg.idle > 0 && !session.isBearer && h.now().Sub(session.seen) >= h.cfg.idle/4 {
		if err := h.sealSession(w, r.Context(), at, session); err != nil {
			return h.fail(w, r, errStorage, err)
		}
	}
	r.Header["Authorization"] = []string{session.bearer}
	return h.letThrough(w, r, session, next)
}

// serveAnonymous answers a request that needs a session and has none.
func (h *Handler) serveAnonymous(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch mode := h.cfg.unauthenticated; {
	case mode == "pass":
		return h.letThrough(w, r, nil, next)
	case mode != "deny" && isPage(r):
		return h.startLogin(w, r, returnPath(r), 0, http.StatusFound)
	case mode == "redirect" && !isWebSocket(r):
		// The browser is to come back by GET, whatever it came with.
		return h.startLogin(w, r, returnPath(r), 0, http.StatusSeeOther)
	}
	return h.refuse(w, r, &refusal{failure: errLoginRequired, challenge: "Bearer"})
}

// leave ends the session, at the logout path.
func (h *Handler) leave(w http.ResponseWriter, r *http.Request) error {
	if method := original(r).Method; method != http.MethodGet && method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		return h.fail(w, r, errMethod, nil)
	}
	// The authorization server sends the browser back when all is done: from another
	// site, and to be told so, no more.
	if h.cfg.logoutProvider && original(r).URL.RawQuery == signedOut {
		return h.showSignedOut(w)
	}
	// Another site may link to the logout, but then the person, who sees nothing
	// of it, is not to be signed out.
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return h.fail(w, r, errForcedLogout, nil)
	}
	at, err := h.site(r)
	if err != nil {
		return h.fail(w, r, errBadHost, err)
	}
	// The cookie goes in any case; that a copy of it is no good any more needs the
	// storage.
	cookies := asSent(r).cookies
	if hasCookie(cookies, h.cfg.cookieName) {
		h.clearSession(w)
		// Nor is the back button to show what the person saw: a browser may keep pages
		// as they stand, whatever Cache-Control says (https://www.w3.org/TR/clear-site-data/).
		w.Header().Set("Clear-Site-Data", `"cache"`)
	}
	for value := range cookieValues(cookies, h.cfg.cookieName) {
		s, err := h.openSession(r.Context(), at, value)
		if err == nil && s != nil && h.now().Before(s.expires) { // idle or not
			newest := h.newest(r.Context(), at, s)
			if err = h.endSession(r.Context(), s); err == nil {
				h.tell("logout", "signed out", at, newest)
			}
			go h.revoke(context.WithoutCancel(r.Context()), newest)
		}
		if err != nil {
			return h.fail(w, r, errStorage, fmt.Errorf("ending a session: %w", err))
		}
	}
	h.noStore(w)
	if to := h.afterLogout(at); to != "" {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusSeeOther)
		return nil
	}
	return h.showSignedOut(w)
}

// showSignedOut answers with a page that says that the person is signed out.
func (h *Handler) showSignedOut(w http.ResponseWriter) error {
	h.noStore(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, err := io.WriteString(w, signedOutPage)
	return err
}

// signedOut is the query with which the authorization server sends the browser back
// to the logout's own page, when all is done.
const signedOut = "signed_out"

// afterLogout returns where the browser goes from the logout, or "" for a page of
// our own: by way of the authorization server's logout, if that is wanted.
func (h *Handler) afterLogout(at site) string {
	if !h.cfg.logoutProvider {
		return h.cfg.logoutURL
	}
	to := h.cfg.logoutURL
	switch {
	case to == "":
		to = at.origin + h.cfg.logoutPath + "?" + signedOut
	case isPath(to):
		to = at.origin + to
	}
	return h.cfg.issuer + "v2/logout?" + url.Values{"client_id": {h.cfg.ClientID}, "returnTo": {to}}.Encode()
}

// signedOutPage does not go to the site by itself: that would sign in again, in
// silence.
const signedOutPage = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Signed out</title>
<style>
body { font: 1.1rem/1.6 system-ui, sans-serif; display: grid; place-content: center; min-height: 90vh; text-align: center }
</style>
<h1>You are signed out</h1>
<p><a href="/">Go to the site and sign in again</a></p>
</html>
`

// site is what a request's own host makes of the config.
type site struct {
	origin      string // scheme and authority of the redirect URI
	redirectURI string
	associated  []byte // what everything sealed for it is bound to
}

// site returns the site that the request is for.
func (h *Handler) site(r *http.Request) (site, error) {
	if h.cfg.fixedSite != nil {
		return *h.cfg.fixedSite, nil
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.Trim(r.Host, "[]")
	}
	host = strings.ToLower(host)
	// The redirect URI is made of it: what is no host name gets no further. Brackets
	// are for IPv6 addresses alone.
	if host == "" || len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.ContainsAny(r.Host, "[]") {
		if !strings.Contains(host, ":") || net.ParseIP(host) == nil {
			return site{}, errors.New("the host of the request cannot stand in a redirect URI")
		}
		host = "[" + host + "]"
	}
	return h.cfg.site(strings.Replace(h.cfg.redirectURI, hostPlaceholder, host, 1)), nil
}

// isPage reports whether a request is a browser's visit of a page, as opposed to
// what a script, an image or an API client asks for.
func isPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || isWebSocket(r) {
		return false
	}
	// https://www.w3.org/TR/fetch-metadata/#sec-fetch-mode-header
	if mode, ok := r.Header["Sec-Fetch-Mode"]; ok {
		return len(mode) == 1 && mode[0] == "navigate"
	}
	_, scripted := r.Header["X-Requested-With"]
	return !scripted && acceptsHTML(r.Header["Accept"])
}

// acceptsHTML reports whether an Accept header admits HTML (RFC 9110, section
// 12.5.1). What names it most exactly decides.
func acceptsHTML(accept []string) bool {
	all := strings.Join(accept, ",")
	if strings.TrimSpace(all) == "" {
		return true
	}
	exactness, admitted := 0, false
	for item := range strings.SplitSeq(all, ",") {
		mediaType, params, _ := strings.Cut(item, ";")
		rank := map[string]int{"*/*": 1, "text/*": 2, "text/html": 3}[strings.ToLower(strings.TrimSpace(mediaType))]
		if rank < exactness || rank == 0 {
			continue
		}
		exactness, admitted = rank, true
		for param := range strings.SplitSeq(params, ";") {
			name, value, _ := strings.Cut(param, "=")
			if strings.EqualFold(strings.TrimSpace(name), "q") {
				q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				admitted = err == nil && q > 0
			}
		}
	}
	return admitted
}

// isWebSocket reports whether a request opens a WebSocket, by upgrade (RFC 6455,
// section 4.1) or by CONNECT (RFC 8441).
func isWebSocket(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") || r.Method == http.MethodConnect
}

// returnPath returns the path and query that a request came with, to the letter
// as far as a Location header and a browser's address bar can hold them.
func returnPath(r *http.Request) string {
	u := original(r).URL
	path := u.RawPath // set where the path is not written in the default way
	if path == "" {
		path = u.EscapedPath()
	}
	if !strings.HasPrefix(path, "/") {
		return "/"
	}
	path = escape(path, "\"#<>\\")
	if u.RawQuery == "" && !u.ForceQuery {
		return path
	}
	return path + "?" + escape(u.RawQuery, "\"#<>")
}

// escape percent-encodes the given characters and all that is not visible ASCII:
// Go's server takes more than a URL may hold.
func escape(s, characters string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(characters, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// original returns the request as it came, before any rewrite.
func original(r *http.Request) http.Request {
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return orig
	}
	return *r
}

// failure is what a visitor, and the site's error pages, are told.
type failure struct {
	status      int
	code        string
	description string
}

func (f failure) Error() string { return f.code + ": " + f.description }

var (
	errLoginRequired = failure{http.StatusUnauthorized, "login_required", "You need to sign in."}
	errBadHost       = failure{http.StatusBadRequest, "invalid_host", "This site cannot be reached by this name."}
	errMethod        = failure{http.StatusMethodNotAllowed, "method_not_allowed", "This address does not take this kind of request."}
	errForcedLogout  = failure{http.StatusForbidden, "cross_site_logout", "Another site tried to sign you out."}
	errInternal      = failure{http.StatusInternalServerError, "internal_error", "Something went wrong here."}
	errStorage       = failure{http.StatusServiceUnavailable, "storage_unavailable", "Sign-in is unavailable for the moment. Try again soon."}
)

// fail makes the error that ends a request. Nothing of cause reaches the visitor:
// what others said is for the log alone.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, f failure, cause error) error {
	h.noStore(w)
	if f.status >= 500 && r.Context().Err() != nil {
		f, cause = errGone, nil // the visitor closed the tab: nobody's fault
	}
	was := asSent(r)
	h.takeIdentity(r) // the error's routes may lead to an upstream, too
	if !was.introduced {
		h.introduce(r, was, nil)
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.aventus_auth.error", f.code)
	repl.Set("http.aventus_auth.error_description", f.description)
	if cause != nil {
		level := zapcore.InfoLevel
		if f.status >= 500 {
			level = zapcore.ErrorLevel
		}
		if c := h.logger.Check(level, f.code); c != nil {
			c.Write(zap.Int("status", f.status), zap.String("request_id", repl.ReplaceAll("{http.request.uuid}", "")), zap.Error(cause), advice(cause))
		}
	}
	return caddyhttp.Error(f.status, f)
}

// noStore marks an answer of our own: no cache keeps it, and where it leads to does
// not learn its URL, which may hold a code.
func (h *Handler) noStore(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	dropOverrides(header)
	// A header directive of the site may still put its own Cache-Control in that
	// place, as the answer is written. Then this keeps visitors apart.
	tellApart(header, h.cfg.vary)
	header.Set("Referrer-Policy", "no-referrer")
}
