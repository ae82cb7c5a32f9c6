package aventusauth

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

var (
	escapes = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	script  = regexp.MustCompile(`(?i)(^|/)[^/]*?\.php`)
)

// isSecret reports whether any server, as lax as they come, would take a request's
// path for one of /private: it decodes as often as it likes, takes backslashes for
// slashes, knows parameters of segments, ends a path where it sees fit, resolves dot
// segments, takes what follows two slashes for a host, and what follows a script's name
// for the path, in any order.
func isSecret(escaped string) bool {
	known := []string{escaped}
	for i := 0; i < len(known); i++ {
		p := known[i]
		if clean := strings.ToLower(path.Clean("/" + p)); clean == "/private" ||
			strings.HasPrefix(clean, "/private/") {
			return true
		}
		segments := strings.Split(p, "/")
		for j, segment := range segments {
			segments[j], _, _ = strings.Cut(segment, ";")
		}
		next := []string{strings.ReplaceAll(p, `\`, "/"), strings.Join(segments, "/")}
		if end := strings.IndexAny(p, "#?\x00"); end >= 0 {
			next = append(next, p[:end])
		}
		if behind, ok := strings.CutPrefix(p, "//"); ok {
			_, behind, _ = strings.Cut(strings.TrimLeft(behind, "/"), "/")
			next = append(next, "/"+behind, caddyhttp.CleanPath(p, false))
		} else if strings.Contains(p, "//") {
			next = append(next, caddyhttp.CleanPath(p, false))
		}
		if at := script.FindStringIndex(p); at != nil {
			next = append(next, "/"+strings.TrimPrefix(p[at[1]:], "/"),
				p[:at[0]]+"/"+strings.TrimPrefix(p[at[1]:], "/"))
		}
		next = append(next, escapes.ReplaceAllStringFunc(p, func(e string) string {
			decoded, _ := url.PathUnescape(e)
			return decoded
		}))
		for _, n := range next {
			if !slices.Contains(known, n) {
				known = append(known, n)
			}
		}
	}
	return false
}

// pathConfusion are ways to say that /private needs a login, and /public none: by what is
// named, and by whether the path matcher or a placeholder is asked. (Whoever asks by
// placeholder sees to upper and lower case.)
var pathConfusion = map[string]string{
	"private by path": "@m path /private /private/*",
	"public by path":  "@m not path / /public/*",
	"private by expression": "@m expression `{path}.lowerAscii() == '/private' || " +
		"{path}.lowerAscii().startsWith('/private/')`",
	"public by expression":         "@m expression `!({path} == '/' || {path}.lowerAscii().startsWith('/public/'))`",
	"private by regexp":            "@m vars_regexp {path} (?i)^/private(/|$)",
	"public by regexp":             "@m not vars_regexp {http.request.uri.path} (?i)^/(public/|$)",
	"private by URI":               "@m vars_regexp {uri} (?i)^/private([/?]|$)",
	"private by the original path": "@m vars_regexp {http.request.orig_uri.path} (?i)^/private(/|$)",
	"private by the original URI":  "@m vars_regexp {http.request.orig_uri} (?i)^/private([/?]|$)",
	"private by map": "map {path} {gate} {\n~(?i)^/private(/|$) shut\ndefault open\n}\n@m vars " +
		"{gate} shut",
}

// TestPathConfusion: the path that the matcher sees is not the one that the app behind
// it makes of the same bytes (oauth2-proxy, CVE-2026-41059: %23; Caddy, CVE-2026-27587 and
// CVE-2026-27585: case, backslashes; Java's path parameters: /..;/, CWE-551). What can be read
// in several ways is protected if one of them is.
func TestPathConfusion(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if uri, _, _ := strings.Cut(r.RequestURI, "?"); isSecret(uri) {
			fmt.Fprint(rw, "the secret")
			return
		}
		fmt.Fprint(rw, "public")
	}))
	defer app.Close()
	for name, matcher := range pathConfusion {
		w := newWorld(t, setup{https: true, matcher: "@m", caddyfile: matcher + "\n%s\nreverse_proxy " +
			strings.TrimPrefix(app.URL, "http://")})
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, target := range []string{
				"/private", "/private/x", "//private/x", "/./private/x", "/PRIVATE/x", "/Private", "/%70rivate/x",
				"/private%2fx", "/private/",
				"/private/.", "/private//",
				"/public/../private/x", "/public/%2e%2e/private", "/public/..%2fprivate", "/public%2f..%2fprivate",
				"/public/.%2e/private/x",
				"/x/../private", "/public//../private",
				"/public/..;/private/x", "/public/..;a=b/private", "/public/%2e%2e;/private", "/private;x/y",
				"/private;", "/;x/private",
				"/public/x;/../../private", "/public/..%3b/private",
				`/public\..\private`, `/public/..\private/x`, "/public/..%5cprivate", "/public%5c..%5cprivate",
				`/private\x`, `\private`, "/%5cprivate",
				"/public/%252e%252e/private", "/public/..%252fprivate", "/%2570rivate/x",
				"/public/%25252e%25252e/private",
				"/private%23/../public/x", "/private#/../public/x", "/private%3f/../public/x",
				"/private%00/../public/x",
				"/private%2523/../public/x", "/private/x%23/../../public/y",
				"/private;%2f../public/x", "/public/..;%2fprivate", "/public/..%5c;/private",
				"/private%5c..;/../public/x",
				"/public/%252e%252e;/private", "/public/..%255cprivate",
				"//public/private/x", "//x/private", "//public:80/private", "///public/private", `/\public/private`,
				`\/public/private`,
				"//public//x/private", "/%2fpublic/private", "/public/..//public/private", "//public#/private",
				"/index.php/private/x", "/public/index.php/private", "/INDEX.PHP/private", "/index.php%2fprivate",
				"/public/../x.php/../x.php/private",
				"/index%2ephp/private", "/index.phpprivate/x", "//x/index.php/private",
				"/public/%" + strings.Repeat("25", 20) + "2e./private", // more readings than are gone through
			} {
				a := send(request{
					target: target, headers: []string{"Sec-Fetch-Mode", "navigate", "User-Agent", "kube-probe/1.30"},
				})
				if !isSecret(target) {
					t.Errorf("%s: %s is no attack", name, target)
				}
				if strings.Contains(a.body, "the secret") || a.StatusCode == http.StatusOK {
					t.Errorf("%s: %s: status %d, %s", name, target, a.StatusCode, a.body)
				}
			}
			// What is ambiguous in no way that matters needs no login.
			for _, target := range []string{
				"/public/", "/public/x", "/PUBLIC/x", "/public/a%2Fb", "/public/x;jsessionid=1", "/public/50%25",
				"/public/50%2520off", "/public/c%23", `/public/a\b`, "/public/x?/private", "/public//x",
				"/public/index.php",
			} {
				a := send(request{target: target})
				if a.StatusCode != http.StatusOK || a.body != "public" {
					t.Errorf("%s: %s: status %d", name, target, a.StatusCode)
				}
			}
		})
	}
}

// TestPathConfusionAtRandom asks the matchers about paths of which no list has thought.
func TestPathConfusionAtRandom(t *testing.T) {
	pieces := []string{
		"/public", "/private", "/PRIVATE", "/x", "/", "/", "//", "/..", "/.", "..", ".", ";", ";x=1", "..;", `\`,
		"%5c", "%5C..", "%2f", "%2e%2e",
		"/%2e%2e/", "%3b", "%23", "#", ".php", "/index.php", "%2ephp",
		"%3f", "%00", "%252e%252e", "%252f", "%255c", "%253b", "%2523", "%25252e", "%70rivate", "private",
		"%2570rivate",
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same in each run
	for name, matcher := range pathConfusion {
		newWorld(t, setup{matcher: "@m", caddyfile: matcher + "\n%s\nreverse_proxy %app"})
		h := handlers()[0]
		attacks := 0
		for range 20_000 {
			target := "/"
			for range 1 + random.IntN(8) {
				target += pieces[random.IntN(len(pieces))]
			}
			u, err := url.ParseRequestURI(target)
			if err != nil {
				t.Fatalf("%q: %v", target, err)
			}
			repl := caddy.NewReplacer()
			r := caddyhttp.PrepareRequest(&http.Request{
				Method: "GET", URL: u, Host: "localhost", RequestURI: target, Body: io.NopCloser(nil),
			}, repl, nil, nil)
			if strings.Contains(matcher, "{gate}") {
				repl.Map(func(key string) (any, bool) { // as the map directive does
					path, _ := repl.GetString("http.request.uri.path")
					if clean := strings.ToLower(path); clean == "/private" || strings.HasPrefix(clean, "/private/") {
						return "shut", key == "gate"
					}
					return "open", key == "gate"
				})
			}
			before := *u
			protected, err := h.house.gate.matching.protects(r)
			if err != nil {
				t.Fatal(err)
			}
			uri0, _ := repl.GetString("http.request.uri")
			original, _ := repl.GetString("http.request.orig_uri")
			if *u != before || uri0 != u.RequestURI() || original != target {
				t.Fatalf("%s: %q: asking changed the request: %q, %q, %q", name, target, u, uri0, original)
			}
			uri, _, _ := strings.Cut(u.RequestURI(), "?") // as it is sent on
			if isSecret(uri) {
				attacks++
				if !protected {
					t.Errorf("%s: %q needs no login", name, target)
				}
			}
		}
		if attacks < 1000 {
			t.Errorf("only %d attacks", attacks)
		}
	}
}

// TestOnlyThePathDecides: a query, a fragment or a header that looks public makes no
// path public (oauth2-proxy, CVE-2025-54576: the query; CVE-2026-34457: the User-Agent of
// health checks; CVE-2026-40575: X-Forwarded-Uri; Pomerium, CVE-2021-39206: the fragment).
func TestOnlyThePathDecides(t *testing.T) {
	for name, matcher := range pathConfusion {
		w := newWorld(t, setup{https: true, matcher: "@m", caddyfile: matcher + "\n%s\nreverse_proxy %app"})
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, r := range []request{
				{target: "/private/x?/public/"}, {target: "/private/x?x=/public/&path=/public/"},
				{target: "/private/x#/public/"},
				{target: "/private/x%3f/public/"}, {target: "/private/x;/public/"},
				{target: "/private?/../public/"}, {target: "/private/public/x"}, {target: "/private?"},
				{target: "/private/x/%2e"},
				{target: "/private/x", headers: []string{"User-Agent", "GoogleHC/1.0"}},
				{target: "/private/x", headers: []string{"User-Agent", "ELB-HealthChecker/2.0"}},
				{target: "/private/x", headers: []string{
					"X-Forwarded-Uri", "/public/", "X-Original-URL", "/public/", "X-Rewrite-URL", "/public/",
					"X-Forwarded-Prefix", "/public", "X-Envoy-Original-Path", "/public/",
				}},
				{target: "/private/x", method: "HEAD"},
				{target: "/private/x", headers: []string{
					"Range", "bytes=0-9", "If-None-Match", "*", "If-Modified-Since", "Sun, 22 Nov 2026 20:00:00 GMT",
				}},
				{target: "/private/x", method: "POST"},
				{target: "/private/x", method: "OPTIONS", headers: []string{
					"Origin", "https://evil.test", "Access-Control-Request-Method", "GET",
				}},
				{target: "/private/x", method: "TRACE"},
				{target: "/private/x", method: "PROPFIND"}, {target: "/private/x", method: "X"},
				{target: "/private/x", method: "POST", headers: []string{"X-HTTP-Method-Override", "GET"}},
			} {
				a := send(r)
				if a.StatusCode != http.StatusFound && a.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %+v: status %d", name, r, a.StatusCode)
				}
				for header := range a.Header {
					if strings.HasPrefix(header, "Access-Control-") {
						t.Errorf("%+v: the answer has %s", r, header)
					}
				}
			}
		})
		for _, r := range w.requests() {
			t.Errorf("%s: the app was reached: %s %s", name, r.Method, r.URL)
		}
	}
}

// TestOwnPathsSpeltOtherwise: what is almost the path of the callback, the logout or
// the profile is either that or a page like any other, and never a way past the login.
func TestOwnPathsSpeltOtherwise(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me"})
	b := w.browser()
	b.login("/")
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, own := range []string{"/oauth2/callback", "/logout", "/me"} {
			for _, target := range []string{
				own + "/", own + "//", "/" + own, own + "/.", own + "/..", "/." + own, "/x/.." + own,
				strings.ToUpper(own), own + ";", own + ";x=1",
				own + "%00", own + "%20", own + "%23", own + "%3f", own + "#", own + `\`, own + ".", own + "%2f",
				own + "%252f",
				strings.ReplaceAll(own, "/", "%2f"), "/" + strings.ReplaceAll(own, "/", "%2f"),
				strings.ReplaceAll(own, "/", `\`),
				"/" + strings.ReplaceAll(own, "/", "%252f"), own + "/x", "/x" + own,
				own[:2] + "%" + fmt.Sprintf("25%x", own[2]) + own[3:],
			} {
				if !strings.HasPrefix(target, "/") {
					target = "/" + target
				}
				headers := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "cross-site"}
				a := send(request{target: target, headers: headers})
				w.expectRedirect(a, http.StatusFound, strings.TrimSuffix(w.issuer.Issuer, "/"))
				a = send(request{target: target, headers: headers}.withCookie(b.cookieHeader()))
				if a.StatusCode != http.StatusOK || a.body != "the app" || a.Header["Set-Cookie"] != nil {
					t.Errorf("%s: with a session: status %d, %v", target, a.StatusCode, a.Header)
				}
			}
			// The same path in other letters is the same path.
			same := own[:2] + fmt.Sprintf("%%%x", own[2]) + own[3:]
			for _, target := range []string{same, same + "?x", own + "?/public"} {
				if a := send(request{target: target, method: "PUT"}.withCookie(b.cookieHeader())); a.StatusCode !=
					http.StatusMethodNotAllowed {
					t.Errorf("%s: status %d", target, a.StatusCode)
				}
			}
		}
	})
	for _, r := range w.requests() {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
			t.Errorf("the app was sent %s without a token", r.URL)
		}
	}
	w.expect(b.get("/"), http.StatusOK) // nobody was signed out
}

// TestControlCharactersInPaths: a path with a line break, or another control character, is protected, whatever a
// matcher makes of it. In Go, no dot of a regular expression matches a line break; for apps, a number with a line
// break behind it may be the number (compare CVE-2022-22978).
func TestControlCharactersInPaths(t *testing.T) {
	for _, matcher := range []string{
		"path_regexp ^/admin/.*$", "path /admin/*/edit", "expression `{path}.matches('^/admin/.+$')`",
		"vars_regexp {uri} ^/admin/.*$",
	} {
		w := newWorld(t, setup{caddyfile: "@m " + matcher + "\n%s\nrespond app", matcher: "@m"})
		for _, path := range []string{
			"/admin/1/edit", "/admin/1/edit%0a", "/admin/%0a/edit", "/admin/1/edit%0d%0a", "/admin/1%0b/edit",
			"/admin/1/edit%250a", "/admin/1/edit%00", "/admin/1/edit%7f", "/admin/1/edit%c2%85",
		} {
			w.expect(w.browser().do("GET", path, "Sec-Fetch-Mode", "cors"), http.StatusUnauthorized)
		}
		w.expect(w.browser().do("GET", "/public/a%20page", "Sec-Fetch-Mode", "cors"), http.StatusOK)
	}
}
