package aventusauth

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// newStreamer starts an app that opens a WebSocket (as far as this test needs one)
// at /ws, sends events at /events, and bytes at /download, until the client is gone.
func newStreamer(t *testing.T) string {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.Copy(conn, buffered) // an echo
			return
		}
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		for {
			if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}))
	t.Cleanup(app.CloseClientConnections) // before it waits for them
	t.Cleanup(app.Close)
	return strings.TrimPrefix(app.URL, "http://")
}

// open sends a request, and returns the connection when the first bytes of the
// answer's body, or of the stream, have come.
func (w *world) open(path string, headers string) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn, err := net.Dial("tcp", "localhost:"+w.port)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost:%s\r\n%s\r\n", path, w.port, headers)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if _, err := io.WriteString(conn, "hello"); err != nil {
			w.t.Fatal(err)
		}
		if _, err := io.ReadFull(in, make([]byte, 5)); err != nil {
			w.t.Fatal(err)
		}
		return conn, in
	}
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	body := bufio.NewReader(resp.Body)
	if _, err := body.Peek(1); err != nil {
		w.t.Fatal(err)
	}
	return conn, body
}

// TestStreamsEnd: a WebSocket and a stream of events end with the session, by its
// logout or its expiry; a download does not, nor another session's stream.
func TestStreamsEnd(t *testing.T) {
	before := streamCheck
	streamCheck = 20 * time.Millisecond
	t.Cleanup(func() { streamCheck = before })
	app := newStreamer(t)
	const websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, expiry := range []bool{false, true} {
		w := newWorld(t, setup{block: "logout /logout\nsession {\nidle 10m\n}", caddyfile: "%s\nreverse_proxy " + app})
		b, other := w.browser(), w.browser()
		b.login("/oops?")
		w.clock.Add(time.Minute)
		other.login("/oops?")
		cookie := "Cookie: " + b.cookieHeader() + "\r\n"
		streams := map[string]*bufio.Reader{}
		for name, s := range map[string]struct{ path, headers string }{
			"a WebSocket":            {"/ws", cookie + websocket},
			"events":                 {"/events", cookie + "Accept: text/event-stream\r\n"},
			"events of a fetch":      {"/events", cookie + "Accept: */*\r\n"},
			"another's WebSocket":    {"/ws", "Cookie: " + other.cookieHeader() + "\r\n" + websocket},
			"a download (untouched)": {"/download", cookie},
		} {
			_, streams[name] = w.open(s.path, s.headers)
		}
		w.clock.Add(11 * time.Minute) // a stream that is open is not idle
		time.Sleep(5 * streamCheck)
		if expiry {
			w.clock.Add(24*time.Hour - 12*time.Minute)
		} else {
			w.expect(b.do("GET", "/logout", "Cookie", b.cookieHeader()), http.StatusOK)
			w.expect(w.browser().do("POST", "/logout", "Cookie", strings.TrimPrefix(strings.TrimSpace(cookie), "Cookie: ")), http.StatusOK)
		}
		for name, in := range streams {
			ends := !strings.Contains(name, "another") && !strings.Contains(name, "download")
			ended := make(chan struct{})
			go func() {
				_, _ = io.Copy(io.Discard, in)
				close(ended)
			}()
			wait := 10 * time.Second
			if !ends {
				wait = 10 * streamCheck
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			select {
			case <-ended:
				if !ends {
					t.Errorf("expiry %t: %s has ended", expiry, name)
				}
			case <-ctx.Done():
				if ends {
					t.Errorf("expiry %t: %s goes on", expiry, name)
				}
			}
			cancel()
		}
	}
}
