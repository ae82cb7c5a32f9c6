package aventusauth

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// TestTunnelOfRequests: an app that takes an upgrade to HTTP/2 (scanners know it as h2c
// smuggling; RFC 9113, section 3.1, deprecates it) is sent whatever comes next past
// every check, with any path and any identity. Nothing but a WebSocket is asked of it,
// not even where the matcher leaves a request out: what comes in the tunnel is not for
// that path alone.
func TestTunnelOfRequests(t *testing.T) {
	w := newWorld(t, setup{matcher: "/private/*"})
	b := w.browser()
	b.login("/private/")
	for _, path := range []string{"/public", "/private/x"} {
		for upgrade, want := range map[string]string{
			"h2c": "", "H2C": "", "h2": "", "HTTP/2.0": "", "TLS/1.2": "", "SPDY/3.1": "",
			"h2c, websocket": "websocket", "websocket, h2c": "websocket",
			"websocket\r\nUpgrade: h2c": "websocket", "h2c\r\nUpgrade: websocket": "websocket",
			"WebSocket": "websocket", "": "",
		} {
			for _, connection := range []string{
				"Upgrade", "Upgrade, HTTP2-Settings", "keep-alive, upgrade\r\nConnection: HTTP2-Settings",
			} {
				w.requests()
				w.expect(w.raw("GET "+path+" HTTP/1.1\r\nHost: localhost:"+w.port+"\r\nCookie: "+b.cookieHeader()+
					"\r\nConnection: "+connection+
					"\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"), http.StatusOK)
				if got := strings.Join(w.requests()[0].Header["Upgrade"], ","); !strings.EqualFold(got, want) {
					t.Errorf("%s, Upgrade: %q, Connection: %q: the app was asked for %q, want %q", path, upgrade,
						connection, got, want)
				}
			}
		}
	}
}

// TestConnect: a CONNECT that reaches an app is a body of any length, in which the app, or
// what stands before it, may see requests that were never judged. None reaches it, with a
// session or without, wherever the matcher points; only a WebSocket's does (TestStreams
// in e2e), and HTTP/1.1 has none by CONNECT. Methods are case-sensitive (RFC 9110, section 9.1), but not everywhere.
func TestConnect(t *testing.T) {
	for name, s := range map[string]setup{
		"protected":          {block: "logout /logout\nprofile /me"},
		"passed":             {block: "unauthenticated pass\nlogout /logout"},
		"redirected":         {block: "unauthenticated redirect"},
		"left out":           {matcher: "/private/*", block: "logout /logout"},
		"left out by method": {matcher: "@m", caddyfile: "@m method GET\n%s\nreverse_proxy %app"},
		"rewritten": {block: "unauthenticated pass",
			caddyfile: "method POST\nrewrite /x\n%s\nreverse_proxy %app"},
		"by an error route": {caddyfile: "%s\nreverse_proxy %app\nhandle_errors {\nreverse_proxy %app\n}"},
	} {
		s.https = true
		w := newWorld(t, s)
		b := w.browser()
		if !strings.Contains(s.block, "pass") {
			b.login("/private/x")
		}
		host := strings.TrimPrefix(w.site, "https://")
		expect := func(about string, a answer) {
			if a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Cache-Control") != "no-store" ||
				a.Header.Get("Allow") == "" {
				t.Errorf("%s: %s: status %d, %v", name, about, a.StatusCode, a.Header)
			}
			for _, r := range w.requests() {
				t.Errorf("%s: %s: the app was sent %s %s", name, about, r.Method, r.RequestURI)
			}
		}
		for _, cookie := range []string{"x=1", b.cookieHeader()} {
			for _, body := range []string{"", "hello"} {
				for _, target := range []string{host, "/public", "/private/x", "/oauth2/callback", "/logout", "/me"} {
					for _, headers := range [][]string{
						nil, {"Connection", "Upgrade", "Upgrade", "websocket"}, {"X-Protocol", "websocket"},
					} {
						for _, method := range []string{"CONNECT", "connect"} {
							r := request{
								method: method, target: target, body: body, headers: headers,
							}.withCookie(cookie)
							expect("HTTP/1.1 "+method+" "+target, w.http1(r))
						}
					}
				}
				expect("HTTP/2", w.frames([]string{":method", "CONNECT", ":authority", host},
					request{body: body}.withCookie(cookie)))
			}
		}
		w.expect(b.get("/private/x"), http.StatusOK) // nobody was signed out
	}
}

// TestConnectForAWebSocket: what is one is what reverse_proxy takes for one. All else, it
// would send on as a CONNECT.
func TestConnectForAWebSocket(t *testing.T) {
	for _, c := range []struct {
		method, proto string
		major         int
		header        http.Header
		tunnel        bool
	}{
		{"CONNECT", "HTTP/2.0", 2, http.Header{":protocol": {"websocket"}}, false},
		{"CONNECT", "websocket", 3, nil, false},
		{"connect", "HTTP/2.0", 2, http.Header{":protocol": {"websocket"}}, true},
		{"CONNECT", "HTTP/2.0", 2, http.Header{":protocol": {"connect-udp"}}, true},
		{"CONNECT", "HTTP/2.0", 2, http.Header{":protocol": {"WebSocket"}}, true},
		{"CONNECT", "HTTP/2.0", 2, http.Header{"Upgrade": {"websocket"}}, true},
		{"CONNECT", "HTTP/2.0", 2, nil, true},
		{"CONNECT", "websocket", 2, nil, true},
		{"CONNECT", "webtransport", 3, nil, true},
		{"CONNECT", "HTTP/3.0", 3, http.Header{":protocol": {"websocket"}}, true},
		{"CONNECT", "HTTP/1.1", 1, http.Header{":protocol": {"websocket"}}, true},
		{"GET", "HTTP/1.1", 1, nil, false},
	} {
		r := &http.Request{Method: c.method, Proto: c.proto, ProtoMajor: c.major, Header: c.header,
			URL: &url.URL{Path: "/"}}
		if got := opensTunnel(r, c.method); got != c.tunnel {
			t.Errorf("%+v: %v", c, got)
		}
		if got := connectsWebSocket(r); got != (c.method == "CONNECT" && !c.tunnel) {
			t.Errorf("%+v: a WebSocket: %v", c, got)
		}
	}
}

// TestConnectIsJudgedAsAGet: reverse_proxy makes a GET with an upgrade of a WebSocket's CONNECT, and that is what a
// matcher protects. The request is as it came afterwards.
func TestConnectIsJudgedAsAGet(t *testing.T) {
	for what, c := range map[string]struct {
		matcher any
		want    bool
	}{
		"the method":              {caddyhttp.MatchMethod{"GET"}, true},
		"the method that came":    {caddyhttp.MatchMethod{"CONNECT"}, true},
		"another method":          {caddyhttp.MatchMethod{"POST"}, false},
		"the upgrade":             {caddyhttp.MatchHeader{"Upgrade": {"*ebsocket*"}}, true},
		"the connection":          {caddyhttp.MatchHeader{"Connection": {"*pgrade*"}}, true},
		"the key":                 {caddyhttp.MatchHeader{"Sec-WebSocket-Key": {"*"}}, true},
		"another header":          {caddyhttp.MatchHeader{"X-Other": {"*"}}, false},
		"a method by placeholder": {caddyhttp.VarsMatcher{"{http.request.method}": {"GET"}}, true},
		"a header by placeholder": {caddyhttp.VarsMatcher{"{http.request.header.upgrade}": {"websocket"}}, true},
		"the method before a rewrite, by placeholder": {
			caddyhttp.VarsMatcher{"{http.request.orig_method}": {"GET"}}, true},
	} {
		for proto, header := range map[string]http.Header{
			"HTTP/2.0":  {":protocol": {"websocket"}, "Connection": {"close"}},
			"websocket": {"Sec-Websocket-Version": {"13"}}, // so Go names it, over HTTP/3
		} {
			came := &http.Request{Method: "CONNECT", Proto: proto, ProtoMajor: 3, Header: header, Host: "EXAMPLE.com",
				URL: &url.URL{Path: "/PRIVATE/..//private/x"}}
			if proto == "HTTP/2.0" {
				came.ProtoMajor = 2
			}
			r := caddyhttp.PrepareRequest(came, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
			was, path, before := *r, r.URL.Path, r.Header.Clone()
			m := newMatching(caddyhttp.MatcherSets{{
				caddyhttp.MatchHost{"example.com"}, caddyhttp.MatchPath{"/private*"}, c.matcher,
			}})
			got, err := m.protects(r)
			if got != c.want || err != nil {
				t.Errorf("%s, %s: protected %t, error %v", what, proto, got, err)
			}
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			method, _ := repl.GetString("http.request.method")
			if r.Method != was.Method || method != "CONNECT" || !reflect.DeepEqual(r.Header, before) ||
				r.Host != was.Host || r.URL.Path != path {
				t.Errorf("%s, %s: the request is %v, by placeholder %s", what, proto, r, method)
			}
		}
	}
}

// TestUpgradeIsAWebSocket: an upgrade that is asked for in a way in which no WebSocket is
// opened (RFC 6455, section 4.1) is not passed on. What is sent along with it, one server
// takes for the request's body and another for the tunnel's first bytes.
func TestUpgradeIsAWebSocket(t *testing.T) {
	w := newWorld(t, setup{matcher: "/private/*"})
	b := w.browser()
	b.login("/private/")
	for _, path := range []string{"/public", "/private/x"} {
		for request, want := range map[string]string{
			"GET * HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\r\n":                                 "websocket",
			"GET * HTTP/1.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n":                        "websocket",
			"GET * HTTP/1.1\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello":                   "",
			"GET * HTTP/1.1\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":      "",
			"POST * HTTP/1.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n":                       "",
			"HEAD * HTTP/1.1\r\nConnection: Upgrade, close\r\n\r\n":                                     "",
			"OPTIONS * HTTP/1.1\r\nConnection: Upgrade\r\n\r\n":                                         "",
			"GET * HTTP/1.0\r\nConnection: Upgrade\r\n\r\n":                                             "",
			"GET * HTTP/1.1\r\nConnection: close\r\n\r\n":                                               "",
			"GET * HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n": "websocket",
		} {
			head := strings.Replace(request, "*", path, 1)
			head = strings.Replace(head, "\r\n", "\r\nHost: localhost:"+w.port+"\r\nCookie: "+b.cookieHeader()+
				"\r\nUpgrade: websocket\r\n", 1)
			w.requests()
			w.expect(w.raw(head), http.StatusOK)
			seen := w.requests()[0]
			if got := strings.Join(seen.Header["Upgrade"], ","); got != want || seen.Header["Http2-Settings"] != nil {
				t.Errorf("%s: %q: the app was sent %v, want an upgrade to %q", path, request, seen.Header, want)
			}
		}
	}
}

// TestTrailersSayNothing: of what comes after the body, checksums of it go on. An app that
// merges trailers into headers takes the rest for what the site says of its visitors.
func TestTrailersSayNothing(t *testing.T) {
	w := newWorld(t, setup{
		https: true, matcher: "@private", block: "unauthenticated pass",
		caddyfile: "@private path /private/*\n%s\nreverse_proxy %app {\nheader_up X-User-Id {http.auth.user.id}\n}",
	})
	names := []string{
		"X-User-Id", "X_User_Id", "x.user.id", "Cookie", "Proxy-Authorization", "Forwarded", "X-Forwarded-For",
		"X-Forwarded-User", "Remote-User",
		"X-Real-Ip", "X-Http-Method-Override", "X-Sum-User", "Sum-", "-", "X_Sum",
	}
	checksums := []string{"X-Sum", "Digest", "Repr-Digest", "Upload-Checksum"}
	w.overEach(func(t *testing.T, send func(request) answer) {
		isHTTP1 := strings.HasSuffix(t.Name(), "/HTTP/1.1")
		var trailers []string
		for _, name := range append(slices.Clone(names), checksums...) {
			// Go's HTTP/2 refuses the others
			if isHTTP1 || httpguts.ValidTrailerHeader(http.CanonicalHeaderKey(name)) {
				trailers = append(trailers, name, "made-up")
			}
		}
		for _, announced := range []string{
			strings.Join(names, ", ") + ", " + strings.Join(checksums, ", "), strings.Join(checksums, ", "),
		} {
			for _, length := range [][]string{nil, {"Content-Length", "0"}} {
				r := request{method: "POST", target: "/private/x",
					headers: append([]string{"Trailer", announced}, length...), trailers: trailers}
				if length == nil {
					r.body = "body"
				} else if isHTTP1 {
					continue // two lengths
				}
				w.requests()
				send(r)
				seen := w.requests()
				if len(seen) != 1 {
					t.Fatalf("the app was sent %d requests", len(seen))
				}
				for name := range seen[0].Trailer {
					if !slices.Contains(checksums, name) {
						t.Errorf("%q, %q: the app was sent the trailer %s", announced, length, name)
					}
				}
				for _, name := range checksums {
					if length == nil && seen[0].Trailer.Get(name) != "made-up" {
						t.Errorf("%q: the app was not sent the trailer %s", announced, name)
					}
				}
			}
		}
	})
}
