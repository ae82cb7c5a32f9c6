package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// errorsShown makes error pages that show what handle_errors is given.
const errorsShown = `
	handle_errors {
		respond "{http.aventus_auth.error}: {http.aventus_auth.error_description}"
	}`

// passedOn is what a service worker's fetch(event.request, {credentials: "include"})
// makes of a page visit.
var passedOn = []string{
	"Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin",
	"Upgrade-Insecure-Requests", "1",
	"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
}

// TestAnonymous goes through what a request without a session can look like, and
// what each mode makes of it.
func TestAnonymous(t *testing.T) {
	websocket := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
		"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	requests := []struct {
		name      string
		method    string
		headers   []string
		page      bool
		websocket bool
	}{
		{"a page", "GET", []string{"Sec-Fetch-Mode", "navigate", "Accept", "text/html"}, true, false},
		{"a page's head", "HEAD", []string{"Sec-Fetch-Mode", "navigate"}, true, false},
		{"a page that asks for no HTML", "GET", []string{"Sec-Fetch-Mode", "navigate", "Accept", "image/png"},
			true, false},
		{"a page in an app's web view", "GET", []string{
			"Sec-Fetch-Mode", "navigate", "X-Requested-With", "com.example",
		}, true, false},
		{"a page in a frame", "GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, true, false},
		{"an object", "GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "object", "Accept", "text/html"},
			false, false},
		{"an embed", "GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "embed"}, false, false},
		{"an old browser", "GET", []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"}, true, false},
		{"curl", "GET", []string{"Accept", "*/*"}, false, false},
		{"any text", "GET", []string{"Accept", "text/*"}, false, false},
		{"no Accept", "GET", nil, false, false},
		{"Accept in two lines", "GET", []string{"Accept", "image/png", "Accept", "text/html"}, true, false},
		{"curl --http2", "GET", []string{"Accept", "*/*", "Upgrade", "h2c", "Connection", "Upgrade"}, false, false},
		{"a page by way of a service worker", "GET", passedOn, true, false},
		{"a service worker's own", "GET", []string{"Sec-Fetch-Mode", "same-origin", "Accept", "text/html"},
			false, false},
		{"a service worker's, of any type", "GET", []string{
			"Sec-Fetch-Mode", "same-origin", "Upgrade-Insecure-Requests", "1", "Accept", "*/*",
		}, false, false},
		{"a script's, by way of a service worker", "GET",
			append([]string{"X-Requested-With", "XMLHttpRequest"}, passedOn...), false, false},
		{"a form by way of a service worker", "POST", passedOn, false, false},
		{"fetch", "GET", []string{"Sec-Fetch-Mode", "cors", "Accept", "*/*"}, false, false},
		{"an image", "GET", []string{"Sec-Fetch-Mode", "no-cors", "Accept", "text/html"}, false, false},
		{"JSON", "GET", []string{"Accept", "application/json"}, false, false},
		{"HTML refused", "GET", []string{"Accept", "text/html;q=0, */*"}, false, false},
		{"all refused", "GET", []string{"Accept", "*/*;q=0.0"}, false, false},
		{"jQuery", "GET", []string{"Accept", "*/*", "X-Requested-With", "XMLHttpRequest"}, false, false},
		{"a form", "POST", []string{"Sec-Fetch-Mode", "navigate", "Accept", "text/html"}, false, false},
		{"PUT", "PUT", nil, false, false},
		{"OPTIONS", "OPTIONS", []string{"Accept", "*/*"}, false, false},
		{"a WebSocket", "GET", websocket, false, true},
		{"a browser's WebSocket", "GET", append([]string{"Sec-Fetch-Mode", "websocket"}, websocket...), false, true},
		{"a WebSocket that says it navigates", "GET", append([]string{"Sec-Fetch-Mode", "navigate"}, websocket...),
			false, true},
	}
	for _, mode := range []string{"", "auto", "redirect", "deny", "pass"} {
		t.Run("mode="+mode, func(t *testing.T) {
			block := ""
			if mode != "" {
				block = "unauthenticated " + mode
			}
			w := newWorld(t, setup{block: block})
			for _, req := range requests {
				a := w.browser().do(req.method, "/page?q=1", append(req.headers, "Authorization", "Bearer made-up")...)
				want := http.StatusUnauthorized
				switch {
				case mode == "pass":
					want = http.StatusOK
				case mode != "deny" && req.page:
					want = http.StatusFound
				case mode == "redirect" && strings.HasPrefix(req.name, "a form"):
					want = http.StatusOK // a page that goes there: see TestFormLeavesTheSite
				case mode == "redirect" && !req.websocket:
					want = http.StatusSeeOther
				}
				if a.StatusCode != want {
					t.Errorf("%s: status %d, want %d", req.name, a.StatusCode, want)
					continue
				}
				seen := w.requests()
				if mode == "pass" {
					if len(seen) != 1 || seen[0].Header["Authorization"] != nil {
						t.Errorf("%s: the app was sent %v", req.name, seen)
					}
					continue
				}
				if len(seen) != 0 {
					t.Errorf("%s: the app was reached", req.name)
				}
				if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "no-store" {
					t.Errorf("%s: Cache-Control %q", req.name, got)
				}
				if want == http.StatusUnauthorized {
					if got := a.Header["Www-Authenticate"]; len(got) != 1 || got[0] != "Bearer" {
						t.Errorf("%s: WWW-Authenticate %q", req.name, got)
					}
					if a.Header["Set-Cookie"] != nil || a.Header["Location"] != nil {
						t.Errorf("%s: 401 with %v", req.name, a.Header)
					}
				} else if c := a.cookie("aventus_login"); c == nil || len(a.Cookies()) != 1 || !c.HttpOnly ||
					c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 3600 {
					t.Errorf("%s: Set-Cookie %q", req.name, a.Header["Set-Cookie"])
				}
			}
			if w.issuer.TokenRequests() != nil {
				t.Error("the token endpoint was asked")
			}
		})
	}
}

// TestRedirectMode: a form that was posted without a session comes back as a GET.
func TestRedirectMode(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated redirect"})
	b := w.browser()
	a := b.do("POST", "/form?step=2")
	w.expect(a, http.StatusSeeOther)
	a = b.get(a.location())
	a = b.get(a.location())
	w.expect(a, http.StatusSeeOther)
	if want := w.site + "/form?step=2"; a.location() != want {
		t.Errorf("went back to %s, want %s", a.location(), want)
	}
}

func TestMatcher(t *testing.T) {
	w := newWorld(t, setup{matcher: "/private/*", block: "logout /logout"})
	b := w.browser()

	// What the matcher leaves out is not touched, byte for byte.
	a := b.do("GET", "/public", "Authorization", "Basic abc", "Cookie", "a=1;aventus_session=x;  b", "Accept", "*/*")
	w.expect(a, http.StatusOK)
	seen := w.requests()[0]
	if got := seen.Header.Get("Authorization"); got != "Basic abc" {
		t.Errorf("Authorization: %q", got)
	}
	if got := seen.Header.Get("Cookie"); got != "a=1;aventus_session=x;  b" {
		t.Errorf("Cookie: %q", got)
	}
	if a.Header["Cache-Control"] != nil || a.Header["Vary"] != nil {
		t.Errorf("the answer has %v", a.Header)
	}

	// The callback and the logout lie outside the matcher, and are served.
	b.login("/private/page")
	w.expect(b.get("/private/page"), http.StatusOK)
	w.expect(b.get("/logout"), http.StatusOK)
	w.expect(b.get("/private/page"), http.StatusFound)
}

// TestRewritesHideNothing puts everything in front of the directive that changes
// the URL, and logs in through it.
func TestRewritesHideNothing(t *testing.T) {
	for name, caddyfile := range map[string]string{
		"rewrite":     "rewrite * /index.php?x=1\n%s\nreverse_proxy %app",
		"uri":         "uri strip_prefix /deep\n%s\nreverse_proxy %app",
		"try_files":   "try_files {path} /index.html\n%s\nreverse_proxy %app",
		"handle_path": "handle_path /* {\n%s\nreverse_proxy %app\n}",
		"route":       "route {\nrewrite * /x\n%s\nreverse_proxy %app\n}",
		"method":      "method POST\n%s\nreverse_proxy %app",
	} {
		t.Run(name, func(t *testing.T) {
			block := "logout /logout"
			if name == "method" {
				block += "\nunauthenticated redirect" // it sees a POST
			}
			w := newWorld(t, setup{caddyfile: caddyfile, block: block})
			b := w.browser()
			a := b.get("/deep/er?x=%41&y")
			if name != "method" {
				w.expect(a, http.StatusFound)
			}
			a = b.get(b.get(a.location()).location())
			w.expect(a, http.StatusSeeOther)
			if want := w.site + "/deep/er?x=%41&y"; a.location() != want {
				t.Errorf("went back to %s, want %s", a.location(), want)
			}
			w.expect(b.get(a.location()), http.StatusOK)
			w.expect(b.get("/logout"), http.StatusOK)
			if len(b.cookies()) != 1 { // the login's stays
				t.Errorf("after the logout the browser holds %v", b.cookies())
			}
		})
	}
}

// TestReturnURL asks for URLs that are easily bent on the way.
func TestReturnURL(t *testing.T) {
	w := newWorld(t, setup{})
	long := "/p?q=" + strings.Repeat("x", 900)
	for asked, want := range map[string]string{
		"/":                                      "/",
		"/?":                                     "/?",
		"/a%2Fb/c%20d?x=%2F&y=+":                 "/a%2Fb/c%20d?x=%2F&y=+",
		"/a|b%2Fc":                               "/a|b%2Fc",
		"/caf%C3%A9?q=caf%C3%A9":                 "/caf%C3%A9?q=caf%C3%A9",
		"//evil.test/x":                          "//evil.test/x",
		"///evil.test":                           "///evil.test",
		`/\evil.test`:                            `/%5Cevil.test`,
		"/{env.HOME}?{env.HOME}":                 "/{env.HOME}?{env.HOME}",
		"/x?u=https://evil.test/":                "/x?u=https://evil.test/",
		`/x?a=|^{}\` + "`":                       `/x?a=|^{}\` + "`",
		"/x?\xff":                                "/x?%FF",
		"/x#y?a#b":                               "/x%23y?a%23b",
		long:                                     long,
		"/p/path?q=" + strings.Repeat("x", 2000): "/p/path",
		"/" + strings.Repeat("x", 2000):          "/",
		"http://evil.test/x":                     "/x",
		"http://evil.test//evil2.test":           "//evil2.test",
	} {
		a := w.raw(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: localhost:%s\r\nAccept: text/html\r\nConnection: "+
			"close\r\n\r\n", asked, w.port))
		if strings.HasPrefix(asked, "http:") {
			// Caddy serves the site under its own name only.
			if a.StatusCode == http.StatusFound {
				t.Errorf("%q: served under another name", asked)
			}
			continue
		}
		w.expect(a, http.StatusFound)
		if n := len(a.location()); n > 2200 {
			t.Errorf("%.40s: a Location of %d bytes", asked, n)
		}
		b := w.browser()
		b.client.Jar.SetCookies(b.get("/").Request.URL, a.Cookies())
		a = b.get(b.get(a.location()).location())
		w.expect(a, http.StatusSeeOther)
		if a.location() != w.site+want {
			t.Errorf("%.40q: went back to %.80q, want %.80q", asked, a.location(), w.site+want)
		}
	}
}

// TestSeveralBlocks: blocks alike in client, audience, scopes and cookie share one
// session and one login, whatever else they differ in; others keep to themselves.
func TestSeveralBlocks(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" +
			w.directive("/api/*", "unauthenticated deny") + "\n" +
			w.directive("", "") + "\n" +
			strings.ReplaceAll(w.directive("/admin/*", "session {\nname admin_session\n}"), "scope openid",
				"scope admin") +
			"\nreverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	w.expect(b.get("/api/x"), http.StatusUnauthorized)
	b.login("/page")
	w.expect(b.get("/api/x"), http.StatusOK) // through two blocks
	for _, r := range w.requests() {
		if len(r.Header["Authorization"]) != 1 || r.Header["Cookie"] != nil {
			t.Errorf("the app saw %v", r.Header)
		}
	}
	// The third block has a login of its own, behind the second one's, and its
	// callback comes to the first.
	a := b.get("/admin/x")
	w.expect(a, http.StatusFound)
	if !strings.Contains(a.location(), "scope=admin+profile") {
		t.Errorf("sent to %s", a.location())
	}
	a = b.get(b.get(a.location()).location())
	w.expect(a, http.StatusSeeOther)
	if a.cookie("admin_session") == nil {
		t.Errorf("%v", a.Header)
	}
	w.requests()
	w.expect(b.get("/admin/x"), http.StatusOK)
	w.expect(b.get("/page"), http.StatusOK)
	for _, r := range w.requests() {
		if len(r.Header["Authorization"]) != 1 || r.Header["Cookie"] != nil {
			t.Errorf("the app saw %v", r.Header) // neither its own cookies, nor another block's
		}
	}
}

func TestWebSocket(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app"})
	b := w.browser()
	b.login("/")
	w.requests()
	var cookie string
	for _, c := range b.cookies() {
		cookie += c.Name + "=" + c.Value + "; "
	}
	w.raw("GET /ws HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + cookie + "theme=dark\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " +
		"dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	seen := w.requests()
	if len(seen) != 1 {
		t.Fatalf("the app saw %v", seen)
	}
	r := seen[0].Header
	if r.Get("Upgrade") != "websocket" || !strings.HasPrefix(r.Get("Authorization"), "Bearer ey") ||
		r.Get("Cookie") != "theme=dark" {
		t.Errorf("the app saw %v", r)
	}
}

func TestErrorPages(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	a := w.browser().do("POST", "/")
	w.expect(a, http.StatusUnauthorized)
	if want := "login_required: You need to sign in."; a.body != want {
		t.Errorf("%q, want %q", a.body, want)
	}
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("%v", a.Header)
	}
}

// TestMatcherFails: a matcher that cannot tell lets nothing through, and the error
// is one of ours.
func TestMatcherFails(t *testing.T) {
	w := newWorld(t, setup{
		matcher: "@m", caddyfile: "@m expression `int({http.request.uri.query.n}) > 5`\n%s\nreverse_proxy %app" +
			errorsShown,
	})
	a := w.browser().get("/?n=abc")
	w.expect(a, http.StatusInternalServerError)
	if !strings.HasPrefix(a.body, "internal_error: ") || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %s", a.Header, a.body)
	}
	if len(w.requests()) != 0 {
		t.Error("the app was reached")
	}
	if !strings.Contains(w.log(), `"level":"error"`) {
		t.Error("the operator is not told")
	}
}

// TestEmptyPath: a request without a path is not for a logout that is not there, and an
// upstream is asked for / by it.
func TestEmptyPath(t *testing.T) {
	w := newWorld(t, setup{matcher: "/private/*"})
	a := w.raw("GET http://localhost:" + w.port + "?x=1 HTTP/1.1\r\nHost: localhost:" + w.port +
		"\r\nConnection: close\r\n\r\n")
	if a.StatusCode != http.StatusOK || a.body != "the app" || a.Header["Set-Cookie"] != nil {
		t.Errorf("status %d, %v, %s", a.StatusCode, a.Header, a.body)
	}
	w = newWorld(t, setup{matcher: "@m", caddyfile: "@m path /\n%s\nreverse_proxy %app"})
	a = w.raw("GET http://localhost:" + w.port + "?x=1 HTTP/1.1\r\nHost: localhost:" + w.port +
		"\r\nAccept: text/html\r\nConnection: close\r\n\r\n")
	w.expect(a, http.StatusFound)
}
