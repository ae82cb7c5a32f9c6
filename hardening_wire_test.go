package aventusauth

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// request is a request as it goes over the wire. Nothing on its way checks it,
// completes it, or puts it in order: clients that do are no attackers.
type request struct {
	method   string   // GET if empty
	target   string   // / if empty
	host     string   // in Host or :authority; the site's if empty
	headers  []string // names and values in turn
	body     string
	trailers []string // after the body, which is in chunks then
}

// withCookie returns the request with a Cookie header more.
func (r request) withCookie(cookie string) request {
	r.headers = append([]string{"Cookie", cookie}, r.headers...)
	return r
}

func (w *world) complete(r request) request {
	if r.method == "" {
		r.method = "GET"
	}
	if r.target == "" {
		r.target = "/"
	}
	if r.host == "" {
		_, r.host, _ = strings.Cut(w.site, "://")
	}
	return r
}

// http1 sends a request over HTTP/1.1.
func (w *world) http1(r request) answer {
	w.t.Helper()
	r = w.complete(r)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.target, r.host)
	lines := func(pairs []string) {
		for i := 0; i < len(pairs); i += 2 {
			fmt.Fprintf(&b, "%s: %s\r\n", pairs[i], pairs[i+1])
		}
	}
	lines(r.headers)
	b.WriteString("Connection: close\r\n")
	switch {
	case r.trailers != nil:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n", len(r.body), r.body)
		lines(r.trailers)
		b.WriteString("\r\n")
	case r.body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(r.body), r.body)
	default:
		b.WriteString("\r\n")
	}
	return w.raw(b.String())
}

// http2 sends a request over HTTP/2.
func (w *world) http2(r request) answer {
	w.t.Helper()
	r = w.complete(r)
	scheme, _, _ := strings.Cut(w.site, "://")
	return w.frames([]string{":method", r.method, ":scheme", scheme, ":authority", r.host, ":path", r.target}, r)
}

// frames sends a request over HTTP/2 whose pseudo-header fields are those given.
// The status of a request that was refused as malformed (RFC 9113, section 8.1.1),
// and so has no answer, is 0.
func (w *world) frames(pseudo []string, r request) answer {
	w.t.Helper()
	conn, err := tls.Dial("tcp", "localhost:"+w.port, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h2"}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	encoder := hpack.NewEncoder(&block)
	write := func(end bool, pairs ...string) {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			// Names are in lower case here (section 8.2.1); what begins with a capital
			// on purpose is in no test of both versions.
			_ = encoder.WriteField(hpack.HeaderField{Name: strings.ToLower(pairs[i]), Value: pairs[i+1]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true})
	}
	_ = framer.WriteSettings()
	write(r.body == "" && r.trailers == nil, append(pseudo, r.headers...)...)
	if r.body != "" {
		_ = framer.WriteData(1, r.trailers == nil, []byte(r.body))
	}
	if r.trailers != nil {
		write(true, r.trailers...)
	}
	if _, err := conn.Write(out.Bytes()); err != nil {
		w.t.Fatal(err)
	}

	got := answer{Response: &http.Response{Header: http.Header{}, Request: &http.Request{Method: r.method, URL: &url.URL{Path: r.target}}}}
	for {
		frame, err := framer.ReadFrame()
		if err == io.EOF {
			return got
		}
		if err != nil {
			w.t.Fatalf("reading the answer to %+v: %v", r, err)
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status >= "200" {
				got.StatusCode, _ = strconv.Atoi(status)
			}
			for _, field := range f.RegularFields() {
				got.Header.Add(field.Name, field.Value)
			}
		case *http2.DataFrame:
			got.body += string(f.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return got
		}
		if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return got
		}
	}
}

// overEach runs a test of a world with https over each version of HTTP. (HTTP/3 is
// in e2e.)
func (w *world) overEach(test func(t *testing.T, send func(request) answer)) {
	outer := w.t
	outer.Helper()
	defer func() { w.t = outer }()
	for version, send := range map[string]func(request) answer{"HTTP/1.1": w.http1, "HTTP/2": w.http2} {
		outer.Run(version, func(t *testing.T) {
			w.t = t
			test(t, send)
		})
	}
}

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
				if r.URL.Path != "/first" || cookie == "x=1" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
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
		return w.raw("POST " + path + " HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + cookie + "\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
	}
	for path, want := range map[string]int{"/": http.StatusUnauthorized, "/oauth2/callback": http.StatusMethodNotAllowed, "/me": http.StatusMethodNotAllowed, "/logout": http.StatusOK} {
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
	w.expect(w.frames(good, request{}), http.StatusFound) // it is one that can be attacked
	for _, pseudo := range [][]string{
		with(":path", ""), with(":path", "private/x"), with(":path", "https://"+host+"/private/x"),
		with(":path", "/private/x HTTP/1.1\r\nHost: evil.test\r\n"), with(":path", "/private/x\x00"),
		with(":path", "/private/x#/public"), with(":path", "/private/x?/public"), with(":path", "*"), with(":path", "//private/x"),
		with(":path", "/public/../private/x"), with(":path", " /private/x"),
		with(":method", "get"), with(":method", "GET /public HTTP/1.1\r\nX:"), with(":method", ""), with(":method", "CONNECT"),
		with(":method", "GET\x00"), with(":method", "PRI"),
		with(":scheme", "http"), with(":scheme", "https://evil.test/public?"), with(":scheme", "javascript"), with(":scheme", ""),
		with(":authority", ""), with(":authority", "evil.test"), with(":authority", host+"@evil.test"), with(":authority", "evil.test@"+host),
		with(":authority", host+"/public?"), with(":authority", host+"\r\nX: y"),
		append(slices.Clone(good), ":path", "/public"), append([]string{":path", "/public"}, good...),
		append(slices.Clone(good), ":authority", "evil.test"), append(slices.Clone(good), ":method", "POST"),
		append([]string{"x", "y"}, good...), append(slices.Clone(good), ":protocol", "websocket"),
		append(with(":method", "CONNECT"), ":protocol", "websocket"), append(slices.Clone(good), ":evil", "x"), good[:6], good[2:],
		{":method", "CONNECT", ":authority", host},
		append(slices.Clone(good), "host", "evil.test"), append(slices.Clone(good), "Path", "/public"),
		append(slices.Clone(good), "transfer-encoding", "chunked"), append(slices.Clone(good), "content-length", "5"),
		append(slices.Clone(good), "x\r\nauthorization", "y"), append(slices.Clone(good), "x", "y\r\nauthorization: Bearer made-up"),
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
