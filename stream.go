package aventusauth

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// streamCheck is how often a stream that was let through is looked at. With what it
// takes to learn that a session has ended elsewhere, it is closed within ten seconds.
// Tests replace it; it is read when a config is loaded.
var streamCheck = records.LearnInterval / 2

// errSessionOver is why the context of a stream's request ends.
var errSessionOver = errors.New("the session is over")

// stream is a request that may last longer than the session it was let through with:
// a WebSocket, or events that a server sends. It is closed when the session ends.
type stream struct {
	every  time.Duration
	over   func() bool
	cancel context.CancelCauseFunc // may be nil
	server http.ResponseWriter     // net/http's own

	closed atomic.Bool // because the session is over
	mu     sync.Mutex
	conn   net.Conn // once it was taken over from the server
	timer  *time.Timer
	done   bool
}

// isStream reports whether a request asks for a stream. (What turns out to be one by
// its answer is found by privateWriter.)
func isStream(r *http.Request) bool {
	if isWebSocket(r) {
		return true
	}
	for _, accept := range r.Header["Accept"] {
		if strings.Contains(accept, "text/event-stream") {
			return true
		}
	}
	return false
}

// newStream begins to watch over a stream; stop ends that.
func (h *Handler) newStream(w http.ResponseWriter, s *session, cancel context.CancelCauseFunc) *stream {
	// The writers in between may not be touched while the handler uses them.
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	st := &stream{every: h.streamCheck, over: func() bool { return h.isOver(s) }, cancel: cancel, server: w}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.timer = time.AfterFunc(st.every, st.check)
	return st
}

// isOver reports whether a session that was good once is not any more. Being idle
// does not count: whoever has a stream open is there.
func (h *Handler) isOver(s *session) bool {
	now := h.now()
	if latest, ok := h.opened.Get(s.cookie); ok && !s.isBearer {
		s = latest // it may have been renewed since
	}
	if !now.Before(h.lastOf(s)) || !s.isBearer && h.hasEnded(s) {
		return true
	}
	return s.refresh != "" && s.renewal.over.Load() && !now.Before(s.tokenEnds)
}

func (st *stream) check() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.done {
		return
	}
	if !st.over() {
		st.timer.Reset(st.every)
		return
	}
	st.done = true
	st.closed.Store(true)
	if st.conn != nil {
		_ = st.conn.Close()
		return
	}
	if st.cancel != nil {
		st.cancel(errSessionOver)
	}
	// net/http waits for the client to go, and takes this for it.
	_ = http.NewResponseController(st.server).SetReadDeadline(time.Unix(1, 0)) //nolint:bodyclose
}

// isClosed reports whether nothing more may be written, since the session is over.
func (st *stream) isClosed() bool { return st != nil && st.closed.Load() }

// tookOver notes the connection of a WebSocket.
func (st *stream) tookOver(conn net.Conn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.conn = conn
}

// stop ends the watching.
func (st *stream) stop() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.done = true
	st.timer.Stop()
}

// Hijack is found by http.ResponseController.
func (p *privateWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(p.ResponseWriter).Hijack() //nolint:bodyclose
	if err == nil && p.stream != nil {
		p.stream.tookOver(conn)
	}
	return conn, buffered, err
}
