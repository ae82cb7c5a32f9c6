package aventusauth

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestRequestSmuggling: one parser's body is the next one's request (RFC 9112, section
// 11.2). What is smuggled behind a request with a session is nobody's, and what stands
// in a body that nobody has read is no request.
func TestRequestSmuggling(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "log\n%s\nreverse_proxy %app"})
	b := w.browser()
	b.login("/")
	w.requests()
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nAuthorization: Bearer made-up\r\nX: "
	length := fmt.Sprintf("Content-Length: %d\r\n", len(smuggled))
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)
	for _, cookie := range []string{"x=1", b.cookieHeader()} {
		for _, rest := range []string{
			length + "\r\n" + smuggled,
			length + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
			"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
			"Transfer-Encoding: chunked\r\n\r\n" + chunk,
			"Transfer-Encoding: xchunked\r\n" + length + "\r\n" + smuggled,
			"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled,
			"Transfer-Encoding : chunked\r\n" + length + "\r\n0\r\n\r\n" + smuggled,
			"Transfer-Encoding:\x0bchunked\r\n" + length + "\r\n0\r\n\r\n" + smuggled,
			"Content-Length: 0\r\n" + length + "\r\n" + smuggled,
			"Content-Length: +5\r\n\r\n" + smuggled,
			"Connection: Content-Length\r\n" + length + "\r\n" + smuggled,
			"Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer made-up\r\n\r\n" + smuggled,
			"Transfer-Encoding: chunked\r\n\r\n4;x=\"\r\n\"\r\nbody\r\n0\r\n\r\n" + smuggled,
			"Expect: 100-continue\r\n" + length + "\r\n" + smuggled,
		} {
			w.raw("POST /first HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + cookie + "\r\n" + rest)
			for _, r := range w.requests() {
				if r.URL.Path != "/first" || cookie == "x=1" ||
					!strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
					t.Errorf("%q: the app was sent %s %v", rest, r.URL, r.Header)
				}
			}
		}
	}
}

// TestExpectContinue: a body is not asked for before it is known who sends it (RFC 9110,
// section 10.1.1): nobody without a session has an app read it.
func TestExpectContinue(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nprofile /me"})
	b := w.browser()
	b.login("/")
	post := func(path, cookie string) answer {
		return w.raw("POST " + path + " HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + cookie +
			"\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
	}
	for path, want := range map[string]int{
		"/": http.StatusUnauthorized, "/oauth2/callback": http.StatusMethodNotAllowed,
		"/me": http.StatusMethodNotAllowed, "/logout": http.StatusOK,
	} {
		w.expect(post(path, "x=1"), want)
	}
	w.expect(post("/", b.cookieHeader()), http.StatusContinue) // which is to say that it can be seen
}

// TestPseudoHeaders: HTTP/2 says in fields of a request what HTTP/1.1 says in its first
// line, and what must not be in them there (RFC 9113, section 8.3; "HTTP/2: The Sequel is
// Always Worse", PortSwigger). None of it brings anybody in, or leads anybody away.
func TestPseudoHeaders(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout"})
	host := strings.TrimPrefix(w.site, "https://")
	good := []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/private/x"}
	with := func(name, value string) []string {
		changed := slices.Clone(good)
		changed[slices.Index(changed, name)+1] = value
		return changed
	}
	w.expect(w.frames(good, w.complete(request{})), http.StatusFound) // it is one that can be attacked
	for _, pseudo := range [][]string{
		with(":path", ""), with(":path", "private/x"), with(":path", "https://"+host+"/private/x"),
		with(":path", "/private/x HTTP/1.1\r\nHost: evil.test\r\n"), with(":path", "/private/x\x00"),
		with(":path", "/private/x#/public"), with(":path", "/private/x?/public"), with(":path", "*"),
		with(":path", "//private/x"),
		with(":path", "/public/../private/x"), with(":path", " /private/x"),
		with(":method", "get"), with(":method", "GET /public HTTP/1.1\r\nX:"), with(":method", ""),
		with(":method", "CONNECT"),
		with(":method", "GET\x00"), with(":method", "PRI"),
		with(":scheme", "http"), with(":scheme", "https://evil.test/public?"), with(":scheme", "javascript"),
		with(":scheme", ""),
		with(":authority", ""), with(":authority", "evil.test"), with(":authority", host+"@evil.test"),
		with(":authority", "evil.test@"+host),
		with(":authority", host+"/public?"), with(":authority", host+"\r\nX: y"),
		append(slices.Clone(good), ":path", "/public"), append([]string{":path", "/public"}, good...),
		append(slices.Clone(good), ":authority", "evil.test"), append(slices.Clone(good), ":method", "POST"),
		append([]string{"x", "y"}, good...), append(slices.Clone(good), ":protocol", "websocket"),
		append(with(":method", "CONNECT"), ":protocol", "websocket"), append(slices.Clone(good), ":evil", "x"),
		good[:6], good[2:],
		{":method", "CONNECT", ":authority", host},
		append(slices.Clone(good), "host", "evil.test"), append(slices.Clone(good), "Path", "/public"),
		append(slices.Clone(good), "transfer-encoding", "chunked"), append(slices.Clone(good), "content-length", "5"),
		append(slices.Clone(good), "x\r\nauthorization", "y"),
		append(slices.Clone(good), "x", "y\r\nauthorization: Bearer made-up"),
	} {
		a := w.frames(pseudo, request{})
		if strings.Contains(a.body, "the app") {
			t.Errorf("%q: status %d, %s", pseudo, a.StatusCode, a.body)
		}
		if a.Header["Location"] != nil {
			w.expectRedirect(a, http.StatusFound, strings.TrimSuffix(w.issuer.Issuer, "/"))
			w.expectRedirect(w.http2(w.callback(a, "auth0|ada")), http.StatusSeeOther, w.site)
		}
	}
	for _, r := range w.requests() {
		t.Errorf("the app was sent %s %s %v", r.Method, r.URL, r.Header)
	}
}
