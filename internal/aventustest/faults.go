package aventustest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Fault is what TokenFault, RevokeFault and JWKSFault are: it answers a request in
// the server's place, and returns true when it did. Those below make a hostile
// server, or a broken one, of the stand-in.
type Fault = func(w http.ResponseWriter, r *http.Request) bool

// Switch is a fault that a test may change while the server runs. Its zero value is
// none. It is safe for concurrent use.
type Switch struct {
	fault atomic.Pointer[Fault]
	asked atomic.Int64
}

// Set makes f the fault from now on. Nil is none: the server is well again.
func (s *Switch) Set(f Fault) { s.fault.Store(&f) }

// Answer is the fault to give to the server.
func (s *Switch) Answer(w http.ResponseWriter, r *http.Request) bool {
	f := s.fault.Load()
	s.asked.Add(1)
	return f != nil && *f != nil && (*f)(w, r)
}

// Asked returns how many requests have met the fault of their time so far: those will
// not meet the next.
func (s *Switch) Asked() int { return int(s.asked.Load()) }

// Hold is a fault that holds up requests, one at a time. The server answers them when they are released.
type Hold struct {
	isSet       atomic.Bool
	came, leave chan struct{}
}

// NewHold returns a Hold that holds up no request yet.
func NewHold() *Hold { return &Hold{came: make(chan struct{}), leave: make(chan struct{})} }

// Next has the next request held up.
func (h *Hold) Next() { h.isSet.Store(true) }

// Await waits until that request has come.
func (h *Hold) Await() { <-h.came }

// Release has the server answer the request that is held up.
func (h *Hold) Release() { h.leave <- struct{}{} }

// Answer is the fault to give to the server.
func (h *Hold) Answer(http.ResponseWriter, *http.Request) bool {
	if h.isSet.CompareAndSwap(true, false) {
		h.came <- struct{}{}
		<-h.leave
	}
	return false
}

// Says answers with this status and body. Headers are names and values in turn.
func Says(status int, body string, headers ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// Grants answers a token request with this access token, and with one field other than
// it should be: with value, which is JSON, or without the field where value is "".
func Grants(token, field, value string) Fault {
	var fields []string
	for _, f := range [][2]string{
		{"access_token", `"` + token + `"`}, {"token_type", `"Bearer"`}, {"expires_in", "86400"},
	} {
		if f[0] == field {
			f[1] = value
		}
		if f[1] != "" {
			fields = append(fields, fmt.Sprintf("%q:%s", f[0], f[1]))
		}
	}
	return Says(http.StatusOK, "{"+strings.Join(fields, ",")+"}", "Content-Type", "application/json")
}

// Echoes refuses a request with its own body as the reason, in colours: what servers
// are known to do, and what terminals act on.
func Echoes(w http.ResponseWriter, r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	writeJSON(w, http.StatusBadRequest, map[string]string{
		"error":             "invalid_request\r\n\x1b[2J",
		"error_description": "\x1b[31m\u009b31m\x00\u202e You sent " + string(body),
	})
	return true
}

// Garbles answers with the request's body where a header should be. The errors of
// net/http quote what they cannot read.
func Garbles(w http.ResponseWriter, r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // HTTP/1.1 lets us have the connection
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", body)
	return true
}

// patience is how long the server waits for a client to go. One that has no bound
// should fail a test, and not keep it from ending.
const patience = time.Minute

// Hangs does not answer until the client has gone.
func Hangs(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // or net/http does not see the client go
	select {
	case <-r.Context().Done():
	case <-time.After(patience):
	}
	return true
}

// Drips answers with one byte a second until the client has gone.
func Drips(w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range patience / time.Second {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return true
		case <-tick.C:
		}
	}
	return true
}

// Endless promises 10 GB, and adds to written what it got rid of. A good megabyte
// comes at once, and what is beyond it slowly, until the client has gone: so one that
// has no bound fails a test, and does not fill the machine.
func Endless(written *atomic.Int64) Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(10<<30))
		n, _ := w.Write(bytes.Repeat([]byte(" "), 1<<20+64<<10))
		written.Add(int64(n))
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range patience / (100 * time.Millisecond) {
			select {
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			case <-tick.C:
			}
			n, _ = w.Write(chunk)
			written.Add(int64(n))
		}
		panic(http.ErrAbortHandler)
	}
}
