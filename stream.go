package aventusauth

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// errSessionOver is why the context of a stream's request ends.
var errSessionOver = errors.New("the session is over")

// stream is a request that may outlast the session it was let through with: a WebSocket, or server-sent
// events. It is closed when the session ends.
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

// isStream reports whether a request asks for a stream. (privateWriter finds a request whose answer
// turns out to be one.)
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

// streams watches over requests that may outlast the session they were let through with.
type streams struct {
	keeper  *keeper
	bearers *bearers // nil: API clients are not let in
	sites   *sites
	every   time.Duration   // between two checks of one stream
	ctx     context.Context // ends with the config
	now     func() time.Time
}

// open begins to watch over a stream; stop ends that.
func (ss *streams) open(w http.ResponseWriter, id identity, cancel context.CancelCauseFunc) *stream {
	// The writers in between may not be touched while the handler uses them.
	all := writers(w)
	st := &stream{every: ss.every, over: ss.watch(id), cancel: cancel, server: all[len(all)-1]}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.timer = time.AfterFunc(st.every, st.check)
	return st
}

// watch returns a function that reports whether an identity that was good once is not any more: an
// API client's when its token has ended or its key was withdrawn, and a session's when it has. Being idle
// does not count, for a visitor with an open stream is there.
func (ss *streams) watch(id identity) (isOver func() bool) {
	k := id.session
	if k == nil {
		keys := id.client.keys
		return func() bool {
			return !ss.now().Before(id.client.expires) || ss.bearers.isWithdrawn(ss.ctx, id.grant, &keys)
		}
	}
	s, looked := k.session, time.Time{}
	return func() bool {
		now := ss.now()
		if latest, ok := ss.keeper.remembered(k.cookie); ok {
			s = latest.session
		}
		if s.refresh != "" && !isAlive(s, now) && (now.Before(looked) || now.Sub(looked) >= lookAgain) {
			looked = now
			record, err := ss.keeper.read(ss.ctx, ss.sites.from(k.cookie.origin), k.handle)
			if err == nil && record != nil {
				s = record
			}
		}
		if isAhead(k, now) || !now.Before(ss.keeper.lastOf(s)) {
			return true
		}
		err := ss.keeper.ends.known(ss.ctx, now) // first, since it may learn of an end
		return err != nil || ss.keeper.ends.has(s)
	}
}

// check closes the stream if it is over, and looks again later if not. One check runs at a time: the
// next one's timer is set at the end.
func (st *stream) check() {
	over := st.over() // it may have to ask the storage, for which the request's end must not wait
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.done {
		return
	}
	if !over {
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
		return
	}
	// Over HTTP/1.1, net/http takes this for the client having gone.
	_ = http.NewResponseController(st.server).SetReadDeadline(time.Unix(1, 0)) //nolint:bodyclose
}

// endInOrder is deferred. It ends an event stream that was closed as a complete one. reverse_proxy aborts
// it when its request is canceled, which resets the stream over HTTP/2. WebKit (2.50) does not report
// that to the page: an EventSource would stay open, and never learn that the session is over.
func (p *privateWriter) endInOrder() {
	if !p.stream.isClosed() {
		return
	}
	cause := recover()
	switch {
	case cause == nil && p.cancel != nil: // it has ended by itself
	case cause != nil && cause != http.ErrAbortHandler:
		panic(cause)
	case p.cancel == nil || !isEvents(p.Header()):
		// Without cancel, the whole connection was taken for gone, and each request
		// that followed on it would be, too.
		panic(http.ErrAbortHandler)
	}
}

// isEvents reports whether an answer is a stream of events, by its media type (RFC 9110, section 8.3.1).
func isEvents(header http.Header) bool {
	const events = "text/event-stream"
	types := header["Content-Type"]
	return len(types) > 0 && len(types[0]) >= len(events) && strings.EqualFold(types[0][:len(events)], events)
}

// isClosed reports whether nothing more may be written, since the session is over.
func (st *stream) isClosed() bool { return st != nil && st.closed.Load() }

// tookOver stores the connection of a WebSocket, which was hijacked.
func (st *stream) tookOver(conn net.Conn) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.conn = conn
}

// stop ends the watch over a stream.
func (st *stream) stop() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.done = true
	st.timer.Stop()
}
