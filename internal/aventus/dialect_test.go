package aventus

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A redirect would take the secret and the code to another place.
func TestNoRedirect(t *testing.T) {
	var there atomic.Int64
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		there.Add(1)
		_, _ = io.WriteString(w, goodAnswer)
	})
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, basic := range []bool{false, true} {
			endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", other)
				w.WriteHeader(status)
			})
			e := fails(t, within(t), newClient(t, endpoint, func(c *Config) { c.Basic = basic }))
			if e.Kind != Refused || e.Status != status {
				t.Errorf("%d: %v", status, e)
			}
		}
	}
	if n := there.Load(); n != 0 {
		t.Errorf("%d requests went on to another server", n)
	}
}

// rawServer serves connections byte for byte. It returns its token endpoint, and
// a count of the whole requests that it has read.
func rawServer(t *testing.T, answer func(conn net.Conn, request string, n int64)) (string, *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int64
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { listener.Close() })
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						return
					}
					answer(conn, r.Header.Get("Authorization")+string(body), requests.Add(1))
				}
			})
		}
	})
	return "http://" + listener.Addr().String() + "/oauth/token", &requests
}

// A code is sent once, whatever becomes of the connection: a server that sees it
// again takes back what it gave for it (RFC 6749, section 4.1.2).
func TestSentOnce(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
	for what, broken := range map[string]func(net.Conn){
		"closed":                    func(conn net.Conn) {},
		"reset":                     func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) },
		"closed in the status line": func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 2") },
		"closed in the header": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Le")
		},
		"closed in the body": func(conn net.Conn) { fmt.Fprintf(conn, ok, len(goodAnswer)+1, goodAnswer) },
		"no HTTP":            func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.0\r\n") },
	} {
		endpoint, requests := rawServer(t, func(conn net.Conn, _ string, n int64) {
			if n == 2 { // the first one leaves an idle connection behind
				fmt.Fprintf(conn, ok, len(goodAnswer), goodAnswer)
				return
			}
			broken(conn)
			conn.Close()
		})
		c := newClient(t, endpoint, nil)
		if e := fails(t, within(t), c); e.Kind != Unreachable || e.Status != 0 || !e.Unanswered || e.Advice() == "" {
			t.Errorf("%s, a new connection: kind %d, %v", what, e.Kind, e)
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("%s, a new connection: sent %d times", what, n)
		}
		if _, err := c.Exchange(within(t), testCode, testRedirect, testVerifier); err != nil {
			t.Errorf("%s: then a good answer: %v", what, err)
		}
		if e := fails(t, within(t), c); e.Kind != Unreachable || !e.Unanswered {
			t.Errorf("%s, a connection used before: kind %d, %v", what, e.Kind, e)
		}
		if n := requests.Load(); n != 3 {
			t.Errorf("%s, a connection used before: sent %d times", what, n-2)
		}
	}
}

// net/http sends a request again that it can rewind, where it believes that
// nothing was sent; here it is never given the means.
func TestCannotBeSentAgain(t *testing.T) {
	c := newClient(t, "stub://auth.example.com/oauth/token", nil)
	var got *http.Request
	c.dialect.base.RegisterProtocol("stub", roundTripper(func(r *http.Request) (*http.Response, error) {
		got = r
		return nil, errors.New("enough seen")
	}))
	fails(t, within(t), c)
	if got == nil || got.GetBody != nil {
		t.Errorf("the request can be sent again: %+v", got)
	}
	// It has ten seconds, from the dial to the last byte.
	deadline, ok := got.Context().Deadline()
	if left := time.Until(deadline); !ok || left > 10*time.Second {
		t.Errorf("the request has %v", left)
	}
	fails(t, context.WithoutCancel(t.Context()), c)
	deadline, ok = got.Context().Deadline()
	if left := time.Until(deadline); !ok || left > 10*time.Second || left < 5*time.Second {
		t.Errorf("the request has %v", left)
	}
}

// A client that was closed keeps no connection, also when a request of a handler that
// was replaced comes after that, or ends after it. For half a minute each reload left
// some behind.
func TestClosedKeepsNothing(t *testing.T) {
	var open sync.WaitGroup
	arrived, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-answer
		_, _ = io.WriteString(w, goodAnswer)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}
	server.Start()
	t.Cleanup(server.Close)

	c := newClient(t, server.URL+"/oauth/token", nil)
	ctx := within(t)
	var exchanges sync.WaitGroup
	exchange := func() {
		exchanges.Go(func() {
			if _, err := c.Exchange(ctx, testCode, testRedirect, testVerifier); err != nil {
				t.Errorf("an exchange: %v", err)
			}
		})
		<-arrived
	}
	exchange()
	c.Close()
	exchange()
	close(answer)
	exchanges.Wait()

	closed := make(chan struct{})
	go func() { open.Wait(); close(closed) }()
	select {
	case <-closed:
	case <-ctx.Done():
		t.Error("connections are kept")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// drip answers with a byte each millisecond, as long as somebody takes them.
func drip(w http.ResponseWriter, r *http.Request) {
	for tick := time.NewTicker(time.Millisecond); r.Context().Err() == nil; <-tick.C {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
	}
}

// A server that hangs, drips, or never ends is given up on.
func TestTimedOut(t *testing.T) {
	for what, handler := range map[string]http.HandlerFunc{
		"hangs": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs in the body": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, goodAnswer[:20])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"drips": drip,
		"drips an error": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			drip(w, r)
		},
	} {
		endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not learn that the client is gone
			handler(w, r)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		e := fails(t, ctx, newClient(t, endpoint, nil))
		if e.Kind != TimedOut || !e.Unanswered || e.Error() != "the token endpoint: no answer in time" ||
			e.Advice() == "" {
			t.Errorf("%s: kind %d, %v", what, e.Kind, e)
		}
		if waited := time.Since(start); waited > 5*time.Second {
			t.Errorf("%s: waited %v", what, waited)
		}
	}

	// A limit of the transport's own, such as that of the TLS handshake, is no other failure.
	e := asError(t.Context(), &url.Error{Op: "Post", URL: testIssuer, Err: os.ErrDeadlineExceeded})
	if e.Kind != TimedOut || e.Unanswered {
		t.Errorf("by the transport: %+v", e)
	}

	// A body without end is not read to its end, whatever the time.
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<16))
		}
	})
	if e = fails(t, within(t), newClient(t, endpoint, nil)); e.Kind != Malformed {
		t.Errorf("endless: kind %d, %v", e.Kind, e)
	}

	// That the visitor closed the tab is not the server's fault.
	ctx, cancel := context.WithCancel(t.Context())
	endpoint = serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})
	if e := fails(t, ctx, newClient(t, endpoint, nil)); e.Kind != Unreachable {
		t.Errorf("cancelled: kind %d, %v", e.Kind, e)
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	e := fails(t, within(t), newClient(t, "http://"+listener.Addr().String()+"/oauth/token", nil))
	if e.Kind != Unreachable || e.Status != 0 || e.Unanswered || !strings.Contains(e.Error(), "refused") {
		t.Errorf("kind %d, %v", e.Kind, e)
	}

	// A certificate that nobody vouches for is no certificate.
	var requests atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.WriteString(w, goodAnswer)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	e = fails(t, within(t), newClient(t, server.URL+"/oauth/token", nil))
	if e.Kind != Unreachable || e.Unanswered || !strings.Contains(e.Error(), "certificate") || requests.Load() != 0 {
		t.Errorf("kind %d, %v, after %d requests", e.Kind, e, requests.Load())
	}
}

// The largest header that is taken is bounded, too.
func TestLongHeader(t *testing.T) {
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 100 {
			w.Header().Set(fmt.Sprintf("X-Long-%d", i), strings.Repeat("x", 1000))
		}
		_, _ = io.WriteString(w, goodAnswer)
	})
	if e := fails(t, within(t), newClient(t, endpoint, nil)); e.Kind != Unreachable {
		t.Errorf("kind %d, %v", e.Kind, e)
	}
}

func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"plain text, ~!":               "plain text, ~!",
		"a\r\nb\tc":                    "a??b?c",
		"\x1b]0;x\x07":                 "?]0;x?",
		"\xff\x80ü\u202e":              "????",
		strings.Repeat("a", 300):       strings.Repeat("a", 300),
		strings.Repeat("a", 301):       strings.Repeat("a", 300) + "...",
		strings.Repeat("a", 299) + "ü": strings.Repeat("a", 299) + "?...",
	} {
		if got := CleanText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
