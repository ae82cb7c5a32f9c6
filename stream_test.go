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
	"sync/atomic"
	"testing"
	"time"
)

// newStreamer starts an app that opens a WebSocket (as far as this test needs one)
// at /ws, sends events at /events, one event and no more at /quiet, and bytes at /download, until the
// client is gone, and nothing at /oops.
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
		if r.URL.Path == "/oops" {
			return
		}
		if r.URL.Path == "/events" || r.URL.Path == "/quiet" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			if r.URL.Path == "/quiet" {
				<-r.Context().Done()
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
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
	checkStreamsOften(t)
	app := newStreamer(t)
	for _, expiry := range []bool{false, true} {
		w := newWorld(t, setup{block: "logout /logout\nsession {\nidle 10m\n}", caddyfile: "%s\nreverse_proxy " + app})
		b, other := w.browser(), w.browser()
		b.login("/oops?")
		w.clock.Add(time.Minute)
		other.login("/oops?")
		cookie := "Cookie: " + b.cookieHeader() + "\r\n"
		streams := map[string]*bufio.Reader{}
		for name, s := range map[string]struct{ path, headers string }{
			"a WebSocket":            {"/ws", cookie + websocketHeaders},
			"events":                 {"/events", cookie + "Accept: text/event-stream\r\n"},
			"events of a fetch":      {"/events", cookie + "Accept: */*\r\n"},
			"quiet events":           {"/quiet", cookie + "Accept: text/event-stream\r\n"},
			"quiet events, a fetch":  {"/quiet", cookie + "Accept: */*\r\n"},
			"another's WebSocket":    {"/ws", "Cookie: " + other.cookieHeader() + "\r\n" + websocketHeaders},
			"a download (untouched)": {"/download", cookie},
		} {
			_, streams[name] = w.open(s.path, s.headers)
		}
		w.clock.Add(11 * time.Minute) // a stream that is open is not idle
		if !streamGoesOn(streams["events"]) {
			t.Error("a stream that is open is taken for idle")
		}
		if expiry {
			w.clock.Add(24*time.Hour - 12*time.Minute)
		} else {
			w.expect(b.do("GET", "/logout", "Cookie", b.cookieHeader()), http.StatusOK)
			w.expect(w.browser().do("POST", "/logout", "Cookie",
				strings.TrimPrefix(strings.TrimSpace(cookie), "Cookie: ")), http.StatusOK)
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

// checkStreamsOften has streams looked at often, until the test ends.
func checkStreamsOften(t *testing.T) {
	before := streamCheck
	streamCheck = 20 * time.Millisecond
	t.Cleanup(func() { streamCheck = before })
}

// streamEnds reports whether a stream ends within ten seconds.
func streamEnds(in io.Reader) bool {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}

// streamGoesOn reports whether a stream is open after it was looked at several times. It must not be quiet.
func streamGoesOn(in io.Reader) bool {
	for begin := time.Now(); time.Since(begin) < 10*streamCheck; {
		if _, err := in.Read(make([]byte, 1)); err != nil {
			return false
		}
	}
	return true
}

// TestQuietStreamsOverHTTP2: a stream of events on which nothing is sent ends with its session over HTTP/2,
// too, whether its request says that it is one or only its answer does. It ends as a complete
// one: WebKit does not report a reset to the page.
func TestQuietStreamsOverHTTP2(t *testing.T) {
	checkStreamsOften(t)
	w := newWorld(t, setup{https: true, block: "logout /logout", caddyfile: "%s\nreverse_proxy " + newStreamer(t)})
	for _, accept := range []string{"text/event-stream", "*/*"} {
		b := w.browser()
		b.login("/oops")
		req, err := http.NewRequest("GET", w.site+"/quiet", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Sec-Fetch-Mode", "cors")
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
			t.Fatalf("HTTP/%d, status %d", resp.ProtoMajor, resp.StatusCode)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		w.expect(b.do("GET", "/logout"), http.StatusOK)
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			ended <- err
		}()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Accept: %s: it ends in %v", accept, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("Accept: %s: it goes on", accept)
		}
	}
}

// TestConnectionAfterAStream: over HTTP/1.1, what follows on the connection of a stream that was closed is served
// as on any other, or the connection is closed. (A browser was told that it had given up its next login.)
func TestConnectionAfterAStream(t *testing.T) {
	checkStreamsOften(t)
	w := newWorld(t, setup{block: "logout /logout", caddyfile: "%s\nreverse_proxy " + newStreamer(t)})
	for _, accept := range []string{"text/event-stream", "*/*"} {
		b := w.browser()
		b.login("/oops")
		conn, in := w.open("/events", "Cookie: "+b.cookieHeader()+"\r\nAccept: "+accept+"\r\n")
		w.expect(b.do("GET", "/logout"), http.StatusOK)
		_, _ = io.Copy(io.Discard, in)
		again := w.browser()
		again.login("/oops")
		fmt.Fprintf(conn, "GET /oops HTTP/1.1\r\nHost: localhost:%s\r\nCookie: %s\r\n\r\n", w.port,
			again.cookieHeader())
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		switch {
		case err != nil && accept == "text/event-stream":
			t.Errorf("Accept: %s: the connection is not kept: %v", accept, err)
		case err == nil && resp.StatusCode != http.StatusOK:
			t.Errorf("Accept: %s: then, a page is %d", accept, resp.StatusCode)
		}
	}
}

const websocketHeaders = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// TestStreamsOfAPIClients: they last until the client's token ends, as its profile says.
func TestStreamsOfAPIClients(t *testing.T) {
	checkStreamsOften(t)
	w := newWorld(t, setup{block: "accept_bearer\nprofile /me", caddyfile: "%s\nreverse_proxy " + newStreamer(t)})
	authorization := "Authorization: Bearer " + w.issuer.SignJWT(w.tokenClaims(nil)) + "\r\n"
	end := w.clock.Now().Add(time.Hour)
	a := w.raw("GET /me HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nConnection: close\r\n" + authorization + "\r\n")
	if want := `"expires_at":"` + end.UTC().Format(time.RFC3339) + `"`; !strings.Contains(a.body, want) {
		t.Errorf("%s, want %s", a.body, want)
	}
	for _, headers := range []string{websocketHeaders, "Accept: text/event-stream\r\n", "Accept: */*\r\n"} {
		path := "/events"
		if headers == websocketHeaders {
			path = "/ws"
		}
		conn, in := w.open(path, authorization+headers)
		w.clock.Add(58 * time.Minute)
		if path == "/ws" {
			for begin := time.Now(); time.Since(begin) < 10*streamCheck; {
				if _, err := io.WriteString(conn, "hello"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(in, make([]byte, 5)); err != nil {
					t.Fatalf("%s: closed early: %v", path, err)
				}
			}
		} else if !streamGoesOn(in) {
			t.Errorf("%q: closed early", headers)
		}
		w.clock.Add(3 * time.Minute)
		if !streamEnds(in) {
			t.Errorf("%q: it outlasts the token", headers)
		}
		w.clock.Add(-61 * time.Minute)
	}
}

// TestStreamAfterARefusedRenewal: a stream outlasts the token that it began with, as long as the session is
// renewed, and ends with the token when the authorization server refuses to renew it, also where another
// instance was refused or the session is not remembered here.
func TestStreamAfterARefusedRenewal(t *testing.T) {
	checkStreamsOften(t)
	for name, forget := range map[string]func(*world){
		"remembered": func(*world) {}, "forgotten": (*world).forgetSessions,
	} {
		var status atomic.Int64
		w := refreshing(t, setup{caddyfile: "%s\nreverse_proxy " + newStreamer(t), issuer: answering(&status)})
		b := w.browser()
		b.login("/oops")
		_, in := w.open("/events", "Cookie: "+b.cookieHeader()+"\r\nAccept: text/event-stream\r\n")
		forget(w)
		w.clock.Add(2 * time.Hour)
		if !streamGoesOn(in) {
			t.Errorf("%s: a stream ends with its first token", name)
		}
		w.expect(b.do("POST", "/oops"), http.StatusOK) // a renewal
		forget(w)
		w.clock.Add(2 * time.Hour)
		status.Store(http.StatusForbidden)
		w.expect(b.do("POST", "/oops"), http.StatusUnauthorized)
		forget(w)
		w.clock.Add(lookAgain)
		if !streamEnds(in) {
			t.Errorf("%s: a stream outlasts the refused renewal", name)
		}
	}
}

// TestStreamWithoutStorage: a stream ends with the token when the authorization server has refused to renew it,
// also while the storage cannot be read.
func TestStreamWithoutStorage(t *testing.T) {
	checkStreamsOften(t)
	var status atomic.Int64
	w := refreshing(t, setup{caddyfile: "%s\nreverse_proxy " + newStreamer(t), issuer: answering(&status)})
	w.onEngine()
	b := w.browser()
	b.login("/oops")
	_, in := w.open("/events", "Cookie: "+b.cookieHeader()+"\r\nAccept: text/event-stream\r\n")
	status.Store(http.StatusForbidden)
	w.clock.Add(57 * time.Minute)
	w.expect(b.do("POST", "/oops"), http.StatusOK)
	await(t, "the refusal", func() bool { return strings.Contains(w.log(), "it ends with its token") })
	faultAt(t, "load", "aventus_auth/sessions")
	if !streamGoesOn(in) {
		t.Error("a stream ends before its token")
	}
	w.clock.Add(3 * time.Minute)
	if !streamEnds(in) {
		t.Error("a stream outlasts the refused renewal")
	}
}

// TestStreamOfAnyHost: the same at a block for any host, where the session is not remembered.
func TestStreamOfAnyHost(t *testing.T) {
	checkStreamsOften(t)
	var status atomic.Int64
	w := refreshing(t, setup{
		https: true, caddyfile: "%s\nreverse_proxy " + newStreamer(t), issuer: answering(&status),
	})
	w.run(strings.Replace(w.config, "redirect_uri https://localhost", "redirect_uri https://{http.request.host}", 1))
	b := w.browser()
	b.login("/oops")
	req, err := http.NewRequest("GET", w.site+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	status.Store(http.StatusForbidden)
	w.clock.Add(2 * time.Hour)
	w.expect(b.do("POST", "/oops"), http.StatusUnauthorized)
	w.forgetSessions()
	w.clock.Add(lookAgain)
	if !streamEnds(resp.Body) {
		t.Error("a stream outlasts the refused renewal")
	}
}
