package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// attacked is a Caddy that is attacked over HTTP/3, with an app that remembers what it
// was sent. What HTTP/1.1 and HTTP/2 make of the same attacks is in the module's own
// hardening tests.
type attacked struct {
	t      *testing.T
	port   string
	issuer *aventustest.Server

	mu   sync.Mutex
	seen []*http.Request
}

func newHTTP3(t *testing.T) *attacked {
	t.Helper()
	h := &attacked{t: t}
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		h.mu.Lock()
		h.seen = append(h.seen, r)
		h.mu.Unlock()
		fmt.Fprint(rw, "the app")
	}))
	t.Cleanup(app.Close)
	h.issuer = &aventustest.Server{}
	server := httptest.NewServer(h.issuer)
	t.Cleanup(server.Close)
	h.issuer.Issuer = server.URL + "/"

	dir := t.TempDir()
	n := newNode(t, 0, func(port string) string {
		h.port = port
		block := func(matcher, further string) string {
			return fmt.Sprintf(`aventus_auth %s {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri https://localhost:%s/oauth2/callback
				audience https://api.example.com/
				issuer %s
				logout /logout
				%s
			}
			`, matcher, port, h.issuer.Issuer, further)
		}
		return fmt.Sprintf(`{
			admin off
			persist_config off
			skip_install_trust
			auto_https disable_redirects
			default_bind 127.0.0.1
			storage file_system %s
		}
		https://localhost:%s {
			tls internal
			%s
			@private not path /open/* /public/* /from/*
			%s
			@outside {
				path /from/*
				not remote_ip 192.0.2.0/24
			}
			%s
			reverse_proxy %s
		}
		`, dir, port, block("/open/*", "unauthenticated pass"), block("@private", ""), block("@outside", ""),
			app.Listener.Addr())
	})
	h.issuer.Clients = []aventustest.Client{
		{ID: "the-client", Secret: clientSecret, RedirectURIs: []string{h.origin() + "/oauth2/callback"}},
	}
	n.start()
	n.await()
	t.Cleanup(n.inspect)
	return h
}

func (h *attacked) origin() string { return "https://localhost:" + h.port }

// requests returns what the app was sent since the last call.
func (h *attacked) requests() []*http.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := h.seen
	h.seen = nil
	return seen
}

// get are the pseudo-header fields of a request for a path.
func (h *attacked) get(path string) []string {
	return []string{":method", "GET", ":scheme", "https", ":authority", "localhost:" + h.port, ":path", path}
}

// reply is what came of a request: a status of 0 where it was refused as malformed.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends fields, a body and trailers as they are, on a connection of their own
// (RFC 9114, section 4.1).
func (h *attacked) send(fields []string, body string, trailers ...string) reply {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, "127.0.0.1:"+h.port, &tls.Config{
		InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h3"},
	}, nil)
	for err != nil && ctx.Err() == nil { // the certificate is still to be made
		time.Sleep(10 * time.Millisecond)
		conn, err = quic.DialAddr(ctx, "127.0.0.1:"+h.port, &tls.Config{
			InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h3"},
		}, nil)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = conn.CloseWithError(0x100, "") }()
	control, err := conn.OpenUniStreamSync(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	_, _ = control.Write([]byte{0, 4, 0}) // the control stream, with empty settings
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	frame := func(kind uint64, payload []byte) {
		head := quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(payload)))
		_, _ = stream.Write(append(head, payload...)) // it may be refused by now
	}
	block := func(pairs []string) []byte {
		var b bytes.Buffer
		encoder := qpack.NewEncoder(&b)
		for i := 0; i < len(pairs); i += 2 {
			_ = encoder.WriteField(qpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		return b.Bytes()
	}
	frame(1, block(fields))
	if body != "" {
		frame(0, []byte(body))
	}
	if trailers != nil {
		frame(1, block(trailers))
	}
	_ = stream.Close()

	got := reply{header: http.Header{}}
	_ = stream.SetReadDeadline(time.Now().Add(20 * time.Second))
	for in := bufio.NewReader(stream); ; {
		kind, err := quicvarint.Read(in)
		if err != nil {
			return got
		}
		length, err := quicvarint.Read(in)
		if err != nil {
			return got
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(in, payload); err != nil {
			return got
		}
		switch kind {
		case 0:
			got.body += string(payload)
		case 1:
			for next := qpack.NewDecoder().Decode(payload); ; {
				field, err := next()
				if err != nil {
					break
				}
				if field.Name == ":status" {
					got.status, _ = strconv.Atoi(field.Value)
				} else if !field.IsPseudo() {
					got.header.Add(field.Name, field.Value)
				}
			}
		}
	}
}

// leads checks that a reply leads to a URL that begins with that origin and a slash,
// and with nothing in it that a browser would make something else of.
func (h *attacked) leads(r reply, status int, origin, what string) {
	h.t.Helper()
	lines := r.header["Location"]
	if r.status != status || len(lines) != 1 || !strings.HasPrefix(lines[0], origin+"/") ||
		strings.ContainsFunc(lines[0], func(c rune) bool { return c <= ' ' || c > '~' }) {
		h.t.Errorf("%s: status %d, Location %q, want %s", what, r.status, lines, origin)
	}
}

// finish sends the callback of a login that a reply began, and returns the reply.
func (h *attacked) finish(begun reply) reply {
	h.t.Helper()
	u, err := url.Parse(begun.header.Get("Location"))
	if err != nil {
		h.t.Fatal(err)
	}
	to, err := h.issuer.IssueCode(u.Query(), "auth0|ada")
	if err != nil {
		h.t.Fatal(err)
	}
	binding, _, _ := strings.Cut(begun.header.Get("Set-Cookie"), ";")
	return h.send(append(h.get(to.RequestURI()), "cookie", binding), "")
}

// login returns the cookie of a session.
func (h *attacked) login() string {
	h.t.Helper()
	r := h.finish(h.send(append(h.get("/"), "accept", "text/html"), ""))
	h.leads(r, http.StatusSeeOther, h.origin(), "the login")
	cookie, _, _ := strings.Cut(r.header.Get("Set-Cookie"), ";")
	return cookie
}

// TestHTTP3Redirects: a path that browsers take for a host, in :path.
func TestHTTP3Redirects(t *testing.T) {
	h := newHTTP3(t)
	led := 0
	for _, path := range []string{
		"//evil.test/x", "//evil.test/%2e%2e", "///evil.test", `/\evil.test`, `\\evil.test`, "/%09/evil.test",
		"/\t/evil.test",
		"/%0d%0aLocation:%20https://evil.test/", "/..//evil.test",
		"http://evil.test/x", "https:evil.test", "@evil.test/x", ".evil.test/", "*", "evil.test", "?//evil.test", "",
		"javascript:alert(1)",
		"/x?\xff", "/x#//evil.test", "/{env.CLIENT_SECRET}?{env.CLIENT_SECRET}",
		"/?scope=root&redirect_uri=https://evil.test/",
	} {
		begun := h.send(append(h.get(path), "sec-fetch-mode", "navigate"), "")
		if begun.status != http.StatusFound {
			if begun.header["Location"] != nil || begun.status == http.StatusOK {
				t.Errorf("%q: status %d, to %q", path, begun.status, begun.header["Location"])
			}
			continue
		}
		led++
		h.leads(begun, http.StatusFound, strings.TrimSuffix(h.issuer.Issuer, "/"), path)
		if strings.Contains(begun.header.Get("Location"), url.QueryEscape(clientSecret)) {
			t.Errorf("%q: it holds the secret", path)
		}
		h.leads(h.finish(begun), http.StatusSeeOther, h.origin(), path)
	}
	if led < 8 {
		t.Errorf("only %d requests led to the login", led)
	}
}

// TestHTTP3Identity: what a client says of itself, in headers, in headers that HTTP/3
// has not (RFC 9114, section 4.2), and in trailers.
func TestHTTP3Identity(t *testing.T) {
	h := newHTTP3(t)
	cookie := h.login()
	for path, cookie := range map[string]string{"/open/": "x=1", "/open/signed-in": cookie, "/signed-in": cookie} {
		for _, fields := range [][]string{
			{"authorization", "Bearer made-up"}, {"authorization", "Bearer one", "authorization", "Basic two"},
			{"Authorization", "Bearer made-up"},
			{"authorization ", "Bearer made-up"}, {"x\r\nauthorization", "y"},
			{"x", "y\r\nauthorization: Bearer made-up"},
			{"connection", "close, authorization"}, {"connection", "authorization"}, {"te", "trailers, authorization"},
			{"upgrade", "h2c", "connection", "upgrade"}, {"transfer-encoding", "chunked"},
			{"proxy-connection", "authorization"},
		} {
			r := h.send(append(append(h.get(path), "cookie", cookie), fields...), "")
			if r.status != http.StatusOK && r.status != http.StatusBadRequest && r.status != 0 {
				t.Errorf("%s, %q: status %d", path, fields, r.status)
			}
		}
		for _, announced := range []string{"authorization, x-sum", "x-sum", ""} {
			fields := append(h.get(path), "cookie", cookie)
			fields[1] = "POST"
			if announced != "" {
				fields = append(fields, "trailer", announced)
			}
			h.send(fields, "body", "x-sum", "1", "authorization", "Bearer made-up")
		}
	}
	reached := 0
	for _, r := range h.requests() {
		reached++
		signedIn := strings.HasSuffix(r.URL.Path, "/signed-in")
		got := append(slices.Clone(r.Header["Authorization"]), r.Trailer["Authorization"]...)
		if signedIn && (len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ey")) || !signedIn && got != nil {
			t.Errorf("the app was sent %s %v %v", r.URL, r.Header, r.Trailer)
		}
		if r.Header["Upgrade"] != nil || strings.Contains(r.Header.Get("Cookie"), "aventus") {
			t.Errorf("the app was sent %s %v", r.URL, r.Header)
		}
	}
	if reached < 6 {
		t.Errorf("the app was reached %d times only", reached)
	}
}

// TestHTTP3Paths: paths that another server takes for protected ones, and
// pseudo-header fields that are not what they should be (RFC 9114, section 4.3).
func TestHTTP3Paths(t *testing.T) {
	h := newHTTP3(t)
	for _, path := range []string{
		"/", "/private", "/public/../private", "/public/%2e%2e/private", "/public/..%2fprivate", "/public/..;/private",
		`/public/..\private`,
		"/public/..%5cprivate", "/public/%252e%252e/private", "/private%23/../public/x", "/private#/../public/x",
		"/private?/public/", "//private",
	} {
		if r := h.send(append(h.get(path), "sec-fetch-mode", "navigate"), ""); r.status != http.StatusFound {
			t.Errorf("%s: status %d", path, r.status)
		}
	}
	with := func(name, value string) []string {
		fields := h.get("/private")
		fields[slices.Index(fields, name)+1] = value
		return fields
	}
	for _, fields := range [][]string{
		append(h.get("/private"), ":path", "/public/x"), append([]string{":path", "/public/x"}, h.get("/private")...),
		append([]string{"x", "y"}, h.get("/private")...), append(h.get("/private"), ":evil", "x"),
		with(":method", ""), with(":method", "CONNECT"), append(with(":method", "CONNECT"), ":protocol", "websocket"),
		with(":method", "GET /public/x HTTP/1.1\r\nX:"), with(":scheme", "https://evil.test/public/?"),
		with(":scheme", ""),
		with(":authority", ""), with(":authority", "evil.test"), with(":authority", "localhost/public/?"),
		append(h.get("/private"), "host", "evil.test"), append(h.get("/private"), "content-length", "5"),
		with(":path", "/private\r\nX: y"),
		with(":path", "/private\x00"),
		append(h.get("/private"), "cookie", strings.Repeat(";", 3000)),
		append(h.get("/private"), "cookie", "__Host-aventus_session=x", "cookie", "__Host-aventus_session=y"),
		append(h.get("/private"), "cookie", "\u00a0__Host-aventus_session=x"),
		append(h.get("/private"), "x", strings.Repeat("x", 20_000)),
	} {
		r := h.send(fields, "")
		if strings.Contains(r.body, "the app") || r.status >= 500 {
			t.Errorf("%.200q: status %d, %s", fields, r.status, r.body)
		}
		if r.header["Location"] != nil {
			h.leads(r, http.StatusFound, strings.TrimSuffix(h.issuer.Issuer, "/"), fmt.Sprintf("%.200q", fields))
		}
	}
	if seen := h.requests(); len(seen) != 0 {
		t.Errorf("the app was reached: %s", seen[0].URL)
	}
	if r := h.send(h.get("/public/x"), ""); r.status != http.StatusOK || r.body != "the app" {
		t.Errorf("what is public: status %d, %s", r.status, r.body)
	}
}

// TestHTTP3Connect: no CONNECT but a WebSocket's reaches an app, wherever the matcher
// points (RFC 9114, section 4.4; RFC 9220).
func TestHTTP3Connect(t *testing.T) {
	h := newHTTP3(t)
	cookie := h.login()
	h.requests()
	for _, cookie := range []string{"x=1", cookie} {
		for _, fields := range [][]string{
			{":method", "CONNECT", ":authority", "localhost:" + h.port},
			append(h.connect("/public/x"), ":protocol", "connect-udp"),
			append(h.connect("/open/x"), ":protocol", "connect-tcp"),
			append(h.connect("/private"), ":protocol", "webtransport"),
			append(h.connect("/logout"), ":protocol", "connect-ip"),
			append(h.connect("/oauth2/callback"), ":protocol", "WebSocket"),
		} {
			if r := h.send(append(fields, "cookie", cookie), "hello"); r.status != http.StatusMethodNotAllowed ||
				r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%q: status %d, %v", fields, r.status, r.header)
			}
		}
	}
	if seen := h.requests(); len(seen) != 0 {
		t.Errorf("the app was sent %s %s", seen[0].Method, seen[0].RequestURI)
	}
	// A WebSocket reaches it, as a GET that asks for an upgrade.
	h.send(append(h.connect("/public/x"), ":protocol", "websocket"), "")
	if seen := h.requests(); len(seen) != 1 || seen[0].Method != "GET" ||
		seen[0].Header.Get("Upgrade") != "websocket" {
		t.Errorf("for a WebSocket, the app was sent %v", seen)
	}
}

// TestHTTP3EarlyData: in early data, which Caddy takes before the handshake is complete, no address is believed. Who
// asks so where a matcher looks at it is told to ask again (RFC 8470, section 5.2).
func TestHTTP3EarlyData(t *testing.T) {
	h := newHTTP3(t)
	h.send(h.get("/private"), "") // waits for the certificate
	config := &tls.Config{
		InsecureSkipVerify: true, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	ask := func(method string) (status int, isEarly bool) {
		dialed := make(chan *quic.Conn, 1)
		client := &http3.Transport{TLSClientConfig: config, Dial: func(ctx context.Context, addr string, c *tls.Config,
			q *quic.Config) (*quic.Conn, error) {
			conn, err := quic.DialAddrEarly(ctx, addr, c, q)
			dialed <- conn
			return conn, err
		}}
		defer client.Close()
		r, err := http.NewRequestWithContext(t.Context(), method, h.origin()+"/from/here", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, (<-dialed).ConnectionState().Used0RTT
	}
	for _, c := range []struct {
		method string
		status int
	}{
		{"GET", http.StatusUnauthorized}, {http3.MethodGet0RTT, http.StatusTooEarly}, {"GET", http.StatusUnauthorized},
	} {
		status, isEarly := ask(c.method)
		if status != c.status || c.method == http3.MethodGet0RTT && !isEarly {
			t.Errorf("%s: status %d, want %d; in early data: %t", c.method, status, c.status, isEarly)
		}
	}
	if seen := h.requests(); len(seen) != 0 {
		t.Errorf("the app was sent %v", seen)
	}
}

// connect are the pseudo-header fields of an extended CONNECT, but for its protocol.
func (h *attacked) connect(path string) []string {
	return []string{":method", "CONNECT", ":scheme", "https", ":authority", "localhost:" + h.port, ":path", path}
}
