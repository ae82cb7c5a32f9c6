package aventus

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestUnprocessed: what an HTTP/2 server says of a request tells whether its refresh token may have been
// used. It is sent once in any case.
func TestUnprocessed(t *testing.T) {
	type reply func(framer *http2.Framer, stream uint32)
	goAway := func(below uint32, code http2.ErrCode) reply {
		return func(framer *http2.Framer, stream uint32) {
			_ = framer.WriteGoAway(stream-below, code, []byte("REFUSED_STREAM"))
		}
	}
	reset := func(code http2.ErrCode) reply {
		return func(framer *http2.Framer, stream uint32) { _ = framer.WriteRSTStream(stream, code) }
	}
	for what, tc := range map[string]struct {
		reply reply
		ends  bool
	}{
		"the stream refused":                {reset(http2.ErrCodeRefusedStream), false},
		"the stream cancelled":              {reset(http2.ErrCodeCancel), true},
		"the stream ended by an error":      {reset(http2.ErrCodeInternal), true},
		"the stream ended for the protocol": {reset(http2.ErrCodeProtocol), true},
		"gone away before it":               {goAway(1, http2.ErrCodeNo), false},
		"gone away before it, by an error":  {goAway(1, http2.ErrCodeEnhanceYourCalm), false},
		"gone away behind it":               {goAway(0, http2.ErrCodeNo), true},
		"gone away behind it, by an error":  {goAway(0, http2.ErrCodeInternal), true},
		"gone away with all that might come": {
			func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil) }, true,
		},
		"the answer's header, and the stream ended": {answerThen(reset(http2.ErrCodeRefusedStream)), true},
		"nothing": {func(*http2.Framer, uint32) {}, true},
	} {
		for _, before := range []bool{false, true} { // a good answer by the same connection
			c, requests := framedServer(t, func(framer *http2.Framer, stream uint32, n int64) bool {
				if before && n == 1 {
					answerThen(nil)(framer, stream)
					return true
				}
				tc.reply(framer, stream)
				return false
			})
			sent := int64(1)
			if before {
				if _, e := c.Refresh(within(t), "the first"); e != nil {
					t.Fatalf("%s: %v", what, e)
				}
				sent++
			}
			token, e := c.Refresh(within(t), "refresh")
			if token != nil || e == nil || e.Kind != Unreachable || e.Unanswered != tc.ends ||
				e.EndsGrant() != tc.ends {
				t.Errorf("%s (before: %v): %+v, ends the grant: %v, want %v", what, before, e, e.EndsGrant(), tc.ends)
			}
			if n := requests.Load(); n != sent {
				t.Errorf("%s (before: %v): sent %d times, want %d", what, before, n, sent)
			}
		}
	}
}

// answerThen answers with a success, or with the header of one and what comes then.
func answerThen(then func(*http2.Framer, uint32)) func(*http2.Framer, uint32) {
	return func(framer *http2.Framer, stream uint32) {
		var header headerBlock
		encoder := hpack.NewEncoder(&header)
		_ = encoder.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: header, EndHeaders: true})
		if then != nil {
			then(framer, stream)
			return
		}
		_ = framer.WriteData(stream, true, []byte(goodAnswer))
	}
}

type headerBlock []byte

func (h *headerBlock) Write(b []byte) (int, error) {
	*h = append(*h, b...)
	return len(b), nil
}

// framedServer starts an HTTP/2 server that answers each request, the n-th, by frames of its own, and
// then goes on or ends the connection. It returns a client of it.
func framedServer(t *testing.T, answer func(framer *http2.Framer, stream uint32, n int64) (goOn bool)) (*Client,
	*atomic.Int64) {
	t.Helper()
	var requests atomic.Int64
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{NextProtos: []string{"h2"}}
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		"h2": func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
			serveFrames(conn, func(framer *http2.Framer, stream uint32) bool {
				return answer(framer, stream, requests.Add(1))
			})
		},
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := newClient(t, server.URL+"/oauth/token", nil)
	c.dialect.base.TLSClientConfig = &tls.Config{RootCAs: roots}
	return c, &requests
}

func serveFrames(conn net.Conn, answer func(*http2.Framer, uint32) bool) {
	defer conn.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if frame.StreamEnded() && !answer(framer, frame.StreamID) {
				return
			}
		}
	}
}

// TestBusyForAnAnswer: a server that is busy, or a proxy of it, has refused no grant, whatever its answer says.
func TestBusyForAnAnswer(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		c := newClient(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		}), nil)
		if _, e := c.Refresh(within(t), "refresh"); e == nil || e.Kind != Unavailable || e.EndsGrant() {
			t.Errorf("%d: %v, ends the grant: %v", status, e, e.EndsGrant())
		}
	}
}

// TestPageForAnAnswer: a page of HTML with a status of success leaves open whether the refresh token was
// used, so it is not sent again. With another status, it says that nothing was.
func TestPageForAnAnswer(t *testing.T) {
	for status, ends := range map[int]bool{200: true, 203: true, 403: false, 404: false, 502: false, 503: false} {
		c := newClient(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<!DOCTYPE html><title>Wait</title>")
		}), nil)
		if _, e := c.Refresh(within(t), "refresh"); e == nil || e.EndsGrant() != ends {
			t.Errorf("%d: %v, ends the grant: %v, want %v", status, e, e.EndsGrant(), ends)
		}
	}
}
