package aventusauth

import (
	"encoding/hex"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// matching tells which requests are protected. Without matchers, all are.
type matching struct {
	sets  caddyhttp.MatcherSets
	urls  *caddyhttp.MatchURLPattern // matches what url_pattern can parse; nil if no matcher uses that
	asked sync.Map                   // *askedParameters by *caddyhttp.Server
}

func newMatching(sets caddyhttp.MatcherSets) *matching {
	m := &matching{sets: sets}
	if askByURLPattern(sets) {
		m.urls = &caddyhttp.MatchURLPattern{Pattern: "/*"}
		_ = m.urls.Provision(caddy.Context{}) // fails for other patterns alone
	}
	return m
}

// protects reports whether the matcher, if there is one, matches the request: its method,
// host and path as Caddy reads them, or as another server may. A WebSocket that is opened by CONNECT
// is judged as the GET that the app gets, too.
func (m *matching) protects(r *http.Request) (bool, error) {
	if len(m.sets) == 0 {
		return true, nil
	}
	matches, err := m.matchesMethod(r)
	if matches || err != nil {
		return matches, err
	}
	if r.URL.RawQuery != "" && m.parameters(r).areAmbiguousIn(r.URL.RawQuery) {
		return true, nil
	}
	if !connectsWebSocket(r) {
		return false, nil
	}
	defer replaceByUpgrade(r)()
	return m.matchesHost(r)
}

// parameters returns the parameters that the matcher asks for on the server of a request.
func (m *matching) parameters(r *http.Request) *askedParameters {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	asked, ok := m.asked.Load(server)
	if !ok {
		asked, _ = m.asked.LoadOrStore(server, newAskedParameters(m.sets, server))
	}
	return asked.(*askedParameters)
}

// matchesMethod reports whether the matcher matches the request by its method. A method is case-sensitive
// (RFC 9110, section 9.1), but some frameworks treat post as POST (Django, Symfony).
func (m *matching) matchesMethod(r *http.Request) (bool, error) {
	matches, err := m.matchesHost(r)
	method := strings.ToUpper(r.Method)
	if matches || err != nil || method == r.Method {
		return matches, err
	}
	defer replaceMethod(r, method, strings.ToUpper(original(r).Method))()
	return m.matchesHost(r)
}

// replaceMethod sets the method of a request and the placeholders for it, and for the one before any rewrite. The
// returned function undoes that.
func replaceMethod(r *http.Request, method, before string) (undo func()) {
	sent := r.Method
	r.Method = method
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	placeholders := map[string]string{"http.request.method": method, "http.request.orig_method": before}
	for name, value := range placeholders {
		repl.Set(name, value)
	}
	return func() {
		r.Method = sent
		for name := range placeholders {
			repl.Delete(name)
		}
	}
}

// replaceByUpgrade makes of a CONNECT for a WebSocket the GET with an upgrade that reverse_proxy makes of it. The
// fields are set in place, since placeholders may refer to another copy of the request. The returned function
// undoes that.
func replaceByUpgrade(r *http.Request) (undo func()) {
	undoMethod := replaceMethod(r, http.MethodGet, http.MethodGet)
	sent := make(http.Header)
	fields := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Key": "any"}
	for name, value := range fields {
		if lines, ok := r.Header[name]; ok {
			sent[name] = lines
		}
		r.Header[name] = []string{value}
	}
	return func() {
		for name := range fields {
			delete(r.Header, name)
		}
		maps.Copy(r.Header, sent)
		undoMethod()
	}
}

// matchesHost reports whether the matcher matches the request by its host. A host name is case-insensitive
// (RFC 4343), and a final dot only makes it fully qualified. A Host header that is not a host and port, such as
// a.test:80:80, always matches: a server that cuts it at the first colon reads a.test. So does one that url_pattern
// cannot parse if the matcher uses that, which then matches nothing, such as 1.2.3.4.5. So does a request without one
// (HTTP/1.0) if the matcher may look at the host: a proxy asks the app for a host of its own choice then. Health
// checks are such requests.
func (m *matching) matchesHost(r *http.Request) (bool, error) {
	matches, err := m.matchesPath(r)
	if matches || err != nil {
		return matches, err
	}
	host, port := splitHost(r.Host)
	switch {
	case r.Host == "":
		return !ignoreHost(m.sets), nil
	case hostName(r.Host) == "", !isPort(port), m.urls != nil && !m.urls.Match(atRoot(r)):
		return true, nil
	}
	plain := strings.ToLower(withoutFinalDot(host))
	if plain == host {
		return false, nil
	}
	defer replaceHost(r, plain, port)()
	return m.matchesPath(r)
}

// isPort reports whether a port, as splitHost returns it, is a number of 16 bits, or left out (RFC 3986,
// section 3.2.3).
func isPort(port string) bool {
	number := strings.TrimPrefix(port, ":")
	_, err := strconv.ParseUint(number, 10, 16)
	return number == "" || err == nil
}

// atRoot returns a request for the root of a request's host. A url_pattern that matches it sets no placeholders.
func atRoot(r *http.Request) *http.Request {
	return &http.Request{Host: r.Host, TLS: r.TLS, URL: &url.URL{Path: "/"}}
}

// askByURLPattern reports whether one of the matchers is Caddy's url_pattern.
func askByURLPattern(sets []caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(slices.Concat(sets...), func(matcher any) bool {
		switch matcher := matcher.(type) {
		case *caddyhttp.MatchURLPattern:
			return true
		case *caddyhttp.MatchNot:
			return askByURLPattern(matcher.MatcherSets)
		case *caddyhttp.MatchExpression:
			return strings.Contains(matcher.Expr, "url_pattern")
		}
		return false
	})
}

// ignoreHost reports whether none of the matchers can look at the host.
func ignoreHost(sets []caddyhttp.MatcherSet) bool {
	for _, matcher := range slices.Concat(sets...) {
		switch matcher := matcher.(type) {
		case *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod:
		case *caddyhttp.MatchPath:
			if slices.ContainsFunc(*matcher, func(path string) bool { return strings.Contains(path, "{") }) {
				return false // a placeholder
			}
		case *caddyhttp.MatchNot:
			if !ignoreHost(matcher.MatcherSets) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// replaceHost sets the host of a request, and the placeholders for it as well: they may refer to
// another copy of the request. The returned function undoes that.
func replaceHost(r *http.Request, host, port string) (undo func()) {
	sent := r.Host
	r.Host = host + port
	placeholders := map[string]string{"http.request.host": host, "http.request.hostport": r.Host}
	labels := strings.Split(host, ".")
	for i, label := range labels {
		placeholders["http.request.host.labels."+strconv.Itoa(len(labels)-1-i)] = label
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for name, value := range placeholders {
		repl.Set(name, value)
	}
	return func() {
		r.Host = sent
		for name := range placeholders {
			repl.Delete(name)
		}
	}
}

// matchesPath reports whether the matcher matches the request for one of the readings of
// its path, or of the path before any rewrite.
func (m *matching) matchesPath(r *http.Request) (bool, error) {
	matches, err := m.sets.AnyMatchWithError(r)
	if matches || err != nil {
		return matches, err
	}
	matches, err = m.matchesReading(r, r.URL, "http.request.uri")
	if matches || err != nil {
		return matches, err
	}
	return m.matchesReading(r, original(r).URL, "http.request.orig_uri")
}

// matchesReading reports whether the matcher matches the request when the path of u, one
// of the request's URLs, is replaced by another reading of it. The replacement is made in
// place, since placeholders refer to the URLs that the request came with, and not to
// those of a copy. The placeholder for the whole URI has its own copy.
func (m *matching) matchesReading(r *http.Request, u *url.URL, placeholder string) (matches bool, err error) {
	paths, all := readings(u)
	if !all {
		return true, nil
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	uri, _ := repl.GetString(placeholder)
	sent := *u
	defer func() {
		*u = sent
		repl.Delete(placeholder)
	}()
	for i, path := range paths {
		u.Path, u.RawPath = path, ""
		reading := u.RequestURI()
		if i == 0 && reading == uri {
			continue // the matcher has already judged it
		}
		repl.Set(placeholder, reading)
		if matches, err = m.sets.AnyMatchWithError(r); matches || err != nil {
			return matches, err
		}
	}
	return false, nil
}

// readings returns the paths that servers may read in a URL. The app behind Caddy may read
// another path than Caddy does. Some servers decode a path twice, or keep an escape that
// would change its structure; read backslashes as slashes; read the text after a semicolon
// as a parameter, and not as part of a name; end it where a URL's path would end; resolve
// it as a URL reference, in which two slashes introduce a host; or read the text after the
// name of a script as the path. It reports false if there are too many readings to try; for a path
// with a control character, where some end it (NUL), some drop it, and a line break is matched by no dot of a regular
// expression; and for a target without a path (http:x), which upstreams receive unchanged.
//
// The first is the path as Caddy reads it: {uri} has the client's spelling of it. The
// last are without dot segments and repeated slashes, which Caddy's path matcher removes
// itself, but a matcher of a placeholder does not.
func readings(u *url.URL) (paths []string, all bool) {
	if u.Opaque != "" {
		return nil, false
	}
	paths = []string{u.Path}
	if !strings.HasPrefix(u.Path, "/") { // "" or "*", with any method
		paths = append(paths, "/"+u.Path) // a proxy's client or an app may add the slash
	}
	add := func(path string) {
		if !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	if escaped := u.EscapedPath(); escaped != u.Path {
		add(unescape(keepEscaped.Replace(escaped)))
	}
	for i := 0; i < len(paths); i++ {
		path := paths[i]
		if strings.ContainsFunc(path, unicode.IsControl) {
			return nil, false
		}
		script := indexScript(path)
		if !strings.ContainsAny(path, "%\\;#?") && !strings.Contains(path, "//") && script < 0 {
			continue
		}
		if len(paths) > maxReadings {
			return nil, false
		}
		add(unescape(path))
		add(strings.ReplaceAll(path, `\`, "/"))
		add(withoutParameters(path))
		if end := strings.IndexAny(path, "#?"); end >= 0 {
			add(path[:end])
		}
		if strings.Contains(path, "//") {
			add(caddyhttp.CleanPath(path, false)) // dot segments may stand before the slashes
		}
		if strings.HasPrefix(path, "//") {
			add(withoutAuthority(path))
		}
		if script >= 0 {
			dir, rest := path[:strings.LastIndexByte(path[:script], '/')+1], path[script:]
			add(dir + strings.TrimPrefix(rest, "/"))
			if rest != "" {
				add("/" + strings.TrimPrefix(rest, "/"))
			}
		}
	}
	for _, path := range paths {
		if strings.HasPrefix(path, "/") {
			add(caddyhttp.CleanPath(path, true))
		}
	}
	return paths, true
}

// keepEscaped doubles the escape of the characters that structure a path, so that they are still escaped
// after one decoding.
var keepEscaped = strings.NewReplacer(
	"%23", "%2523", "%25", "%2525", "%2e", "%252e", "%2E", "%252E", "%2f", "%252f", "%2F", "%252F",
	"%3b", "%253b", "%3B", "%253B", "%3f", "%253f", "%3F", "%253F", "%5c", "%255c", "%5C", "%255C",
)

// unescape decodes percent-encoding, and keeps a percent sign without two hexadecimal digits.
func unescape(s string) string {
	first, rest, found := strings.Cut(s, "%")
	if !found {
		return s
	}
	b := make([]byte, 0, len(s))
	for b = append(b, first...); found; {
		first, rest, found = strings.Cut(rest, "%")
		if len(first) < 2 {
			b = append(b, '%')
		} else if octet, err := hex.DecodeString(first[:2]); err != nil {
			b = append(b, '%')
		} else {
			b, first = append(b, octet...), first[2:]
		}
		b = append(b, first...)
	}
	return string(b)
}

// withoutAuthority returns the path of a URL reference that begins with two slashes: the part
// after its host (RFC 3986, section 4.2). Further slashes in front of the host are
// skipped, as by the WHATWG's URL parser (https://url.spec.whatwg.org/#special-authority-ignore-slashes-state).
func withoutAuthority(path string) string {
	_, behind, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	return "/" + behind
}

// indexScript returns where the name of a PHP script ends in a path, or -1 without one. The rest
// is the PATH_INFO, as php_fastcgi splits it (RFC 3875, section 4.1.5). Frameworks with a
// front controller use it as the path: /index.php/private is /private.
func indexScript(path string) int {
	const extension = ".php"
	for i := 0; i+len(extension) <= len(path); i++ {
		if strings.EqualFold(path[i:i+len(extension)], extension) {
			return i + len(extension)
		}
	}
	return -1
}

// withoutParameters returns a path without the parameters of its segments (RFC 3986,
// section 3.3).
func withoutParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return strings.Join(segments, "/")
}
