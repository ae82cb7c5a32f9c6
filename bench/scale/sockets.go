package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// socket is a WebSocket on which nobody says anything.
type socket struct {
	io.ReadCloser
	hangUp func() error // says that nothing more will be said, so that a proxy hangs up
	number int
	closed time.Time // when the other side closed it; zero while it has not
}

// protocol is how WebSockets reach the site.
type protocol struct {
	name    string
	files   int // that each takes at the server, at the most
	connect func(addr, cookie string) (*socket, error)
}

// With HTTP/1.1 each WebSocket has a connection of its own (RFC 6455), and with HTTP/2
// many share one (RFC 8441). The upstream's are of their own in both.
var protocols = []protocol{{"HTTP/1.1", 2, upgrade}, {"HTTP/2", 1, extendedConnect}}

// upgrade opens a WebSocket with a session or, at a site without the plugin, with none.
func upgrade(addr, cookie string) (*socket, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	name, value := whoIs(cookie)
	_, err = fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s: %s\r\n\r\n",
		addr, name, value)
	if err != nil {
		return nil, err
	}
	// Nothing follows the answer's head, which comes in one piece or some.
	buffer, n := make([]byte, 4096), 0
	for !bytes.HasSuffix(buffer[:n], []byte("\r\n\r\n")) {
		more, err := conn.Read(buffer[n:])
		if err != nil {
			return nil, fmt.Errorf("opening a WebSocket: %w: %q", err, buffer[:n])
		}
		n += more
	}
	if !bytes.HasPrefix(buffer, []byte("HTTP/1.1 101 ")) {
		return nil, fmt.Errorf("opening a WebSocket was answered %q", buffer[:n])
	}
	return &socket{ReadCloser: conn, hangUp: conn.(*net.TCPConn).CloseWrite}, nil
}

// wire2 shares each connection among as many WebSockets as the server allows.
//
//lint:ignore SA1019 net/http's own would not send the :protocol of a CONNECT
var wire2 http.RoundTripper = &http2.Transport{AllowHTTP: true,
	DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}

// extendedConnect does as upgrade does, in a stream of HTTP/2.
func extendedConnect(addr, cookie string) (*socket, error) {
	read, write := io.Pipe()
	r, err := http.NewRequest(http.MethodConnect, "http://"+addr+"/socket", read)
	if err != nil {
		return nil, err
	}
	name, value := whoIs(cookie)
	r.Header.Set(name, value)
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header[":protocol"] = []string{"websocket"}
	resp, err := wire2.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("opening a WebSocket: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("opening a WebSocket was answered %s", resp.Status)
	}
	return &socket{ReadCloser: resp.Body, hangUp: write.Close}, nil
}

// whoIs returns the header that says who opens a WebSocket.
func whoIs(cookie string) (name, value string) {
	if cookie == "" {
		return "X-Bare", "yes"
	}
	return "Cookie", cookie
}

// sockets are those that are open, or were.
type sockets struct {
	protocol
	mu   sync.Mutex
	all  []*socket
	wait sync.WaitGroup // for all to be closed
}

// dial opens the WebSocket of that number.
func (s *sockets) dial(addr string, number int, cookie string) error {
	socket, err := s.connect(addr, cookie)
	if err != nil {
		return err
	}
	socket.number = number
	s.mu.Lock()
	s.all = append(s.all, socket)
	s.mu.Unlock()
	s.wait.Go(func() {
		_, _ = socket.Read(make([]byte, 1))
		s.mu.Lock()
		socket.closed = time.Now()
		s.mu.Unlock()
		socket.Close()
	})
	return nil
}

// closed returns how many were closed.
func (s *sockets) closed() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, socket := range s.all {
		if !socket.closed.IsZero() {
			n++
		}
	}
	return n
}

// hangUp closes them all from this side.
func (s *sockets) hangUp() {
	s.mu.Lock()
	for _, socket := range s.all {
		_ = socket.hangUp()
	}
	s.mu.Unlock()
	s.wait.Wait()
}

// within waits until all are closed.
func (s *sockets) within(ctx context.Context, patience time.Duration) error {
	for deadline := time.Now().Add(patience); s.closed() < len(s.all); {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d WebSockets are still open after %s", len(s.all)-s.closed(),
				len(s.all), patience)
		}
		if err := rest(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// socketsOpen measures WebSockets over each protocol.
func (b *bench) socketsOpen() error {
	for _, p := range protocols {
		if err := b.socketsOver(p); err != nil {
			return fmt.Errorf("over %s: %w", p.name, err)
		}
	}
	return nil
}

// socketsOver measures idle WebSockets through reverse_proxy, without the plugin and
// with it, and how they are closed when their sessions end.
func (b *bench) socketsOver(p protocol) error {
	numbers, err := p.thatFit(b.sizes.sockets)
	if err != nil {
		return err
	}
	most := numbers[len(numbers)-1]
	var addrs []string
	for range 2 {
		addr, err := aventustest.FreeAddr()
		if err != nil {
			return err
		}
		addrs = append(addrs, addr)
	}
	w, err := b.newWorld(750, addrs...)
	if err != nil {
		return err
	}
	defer w.stop()
	site := "reverse_proxy " + w.upstream
	folder, err := os.MkdirTemp(b.dir, "sockets-")
	if err != nil {
		return err
	}

	bare, err := b.newNode(addrs[0], w, "storage file_system "+filepath.Join(folder, "bare"), "", site)
	if err != nil {
		return err
	}
	defer bare.stop()
	before, err := bare.look()
	if err != nil {
		return err
	}
	without, err := b.open(p, bare, w, before, numbers, make([]string, most))
	if err != nil {
		return err
	}
	without.hangUp()
	bare.stop()
	b.say("sockets: measured over %s without the plugin", p.name)

	addr, storage := addrs[1], "storage file_system "+filepath.Join(folder, "sockets")
	n, err := b.newNode(addr, w, storage, "session {\nlifetime 24h\n}", site)
	if err != nil {
		return err
	}
	defer n.stop()
	cookies, over := make([]string, most), make([]time.Time, most)
	if err := each(b.ctx, most, atOnce, func(i int) (err error) {
		cookies[i], _, over[i], err = login(b.ctx, addr)
		return err
	}); err != nil {
		return err
	}
	b.say("sockets: %d logins", most)
	if err := n.restart(); err != nil {
		return err
	}
	if before, err = n.look(); err != nil {
		return err
	}
	with, err := b.open(p, n, w, before, numbers, cookies)
	if err != nil {
		return err
	}
	with.hangUp()
	n.stop()
	b.say("sockets: measured over %s with the plugin", p.name)

	// By now the sessions may live for a little more than the eldest of them has. The
	// configuration counts, also for sessions that began before it.
	lifetime := time.Since(over[0]) + 2*without.took + 10*time.Second
	lifetime = lifetime.Truncate(time.Second)
	if n, err = b.newNode(addr, w, storage, fmt.Sprintf("session {\nlifetime %s\n}", lifetime), site); err != nil {
		return err
	}
	defer n.stop()
	expired, err := b.expireSockets(p, n, cookies, over, lifetime)
	if err != nil {
		return err
	}
	n.stop()

	// And now they may live for a day again.
	if n, err = b.newNode(addr, w, storage, "session {\nlifetime 24h\n}", site); err != nil {
		return err
	}
	defer n.stop()
	if before, err = n.look(); err != nil {
		return err
	}
	ended, err := b.endSockets(p, n, cookies)
	if err != nil {
		return err
	}
	if err := rest(b.ctx, time.Second); err != nil {
		return err
	}
	open, err := w.open()
	if err != nil {
		return err
	}
	after, err := n.look()
	if err != nil {
		return err
	}

	t := b.report.growing("Idle WebSockets over "+p.name+" through reverse_proxy: what each costs the server", numbers)
	for _, of := range []struct {
		name string
		*opened
	}{{"bare", without}, {"with a session each", with}} {
		t.add(of.name+": live heap and stacks", "KiB", of.live...)
		t.add(of.name+": resident", "KiB", of.resident...)
		t.add(of.name+": goroutines", "", of.goroutines...)
		t.add(of.name+": processor time a second, for all", "ms", of.cpu...)
	}
	t = b.report.table(
		fmt.Sprintf("The end of %s idle WebSockets over %s: from the session's end until they are closed", count(most),
			p.name), "median", "p99", "last")
	add := func(name string, times []time.Duration) {
		t.add(name, "s", quantile(times, 0.5).Seconds(), quantile(times, 0.99).Seconds(), quantile(times, 1).Seconds())
	}
	add("sessions ended by the admin API, all at once", ended)
	add("sessions that ended by themselves, in seconds that are whole", expired)
	t = b.report.table("A second after all over "+p.name+" were closed", "there are")
	t.add("open at the upstream", "", float64(open))
	t.add("goroutines above those before", "", after.goroutines-before.goroutines)
	t.add("live heap and stacks above those before", "MiB", (after.heap+after.stacks-before.heap-before.stacks)/mega)
	return nil
}

// opened is what so many sockets cost, each, and how long opening the most of them
// took.
type opened struct {
	*sockets
	took                            time.Duration
	live, resident, goroutines, cpu []float64
}

// open opens ever more WebSockets, each with its cookie, and measures when they are
// idle.
func (b *bench) open(p protocol, n *node, w *world, before stats, numbers []int, cookies []string) (*opened, error) {
	o := &opened{sockets: &sockets{protocol: p}}
	for _, to := range numbers {
		from, began := len(o.all), time.Now()
		if err := each(b.ctx, to-from, atOnce, func(i int) error {
			return o.dial(n.addr, from+i, cookies[from+i])
		}); err != nil {
			return nil, err
		}
		o.took = time.Since(began)
		if err := rest(b.ctx, time.Second); err != nil {
			return nil, err
		}
		if open, err := w.open(); err != nil || open != to {
			return nil, errors.Join(fmt.Errorf("%d of %d WebSockets have reached the upstream", open, to), err)
		}
		s, err := n.look()
		if err != nil {
			return nil, err
		}
		of := float64(to)
		o.live = append(o.live, (s.heap+s.stacks-before.heap-before.stacks)/of/kilo)
		o.resident = append(o.resident, (s.resident-before.resident)/of/kilo)
		o.goroutines = append(o.goroutines, (s.goroutines-before.goroutines)/of)
		if err := rest(b.ctx, b.watch); err != nil {
			return nil, err
		}
		cpu, err := n.cpu()
		if err != nil {
			return nil, err
		}
		o.cpu = append(o.cpu, milli(cpu-s.cpu)/b.watch.Seconds())
	}
	return o, nil
}

// expireSockets opens WebSockets whose sessions end by themselves, one after the other
// as they began, and returns how long after its session's end each was closed.
func (b *bench) expireSockets(p protocol, n *node, cookies []string, over []time.Time,
	lifetime time.Duration) ([]time.Duration, error) {
	all := &sockets{protocol: p}
	if err := each(b.ctx, len(cookies), atOnce, func(i int) error { return all.dial(n.addr, i, cookies[i]) }); err !=
		nil {
		return nil, err
	}
	b.say("sockets: waiting until their sessions of %s are over", lifetime)
	if err := all.within(b.ctx, lifetime+time.Minute); err != nil {
		return nil, err
	}
	var late []time.Duration
	for _, socket := range all.all {
		// It began a moment before the login was over, and its times are whole seconds.
		d := socket.closed.Sub(over[socket.number].Truncate(time.Second).Add(lifetime))
		if d < -2*time.Second {
			return nil, fmt.Errorf("a WebSocket was closed %s before its session's end", -d)
		}
		late = append(late, d)
	}
	return late, nil
}

// endSockets opens WebSockets, ends all their sessions by the admin API, and returns
// how long after that each was closed.
func (b *bench) endSockets(p protocol, n *node, cookies []string) ([]time.Duration, error) {
	all := &sockets{protocol: p}
	if err := each(b.ctx, len(cookies), atOnce, func(i int) error { return all.dial(n.addr, i, cookies[i]) }); err !=
		nil {
		return nil, err
	}
	if closed := all.closed(); closed > 0 {
		return nil, fmt.Errorf("%d WebSockets were closed while their sessions lived", closed)
	}
	began := time.Now()
	if _, err := n.ask(http.MethodDelete, "/aventus_auth/sessions?sub="+url.QueryEscape(subject)); err != nil {
		return nil, err
	}
	if err := all.within(b.ctx, time.Minute); err != nil {
		return nil, err
	}
	var late []time.Duration
	for _, socket := range all.all {
		late = append(late, socket.closed.Sub(began))
	}
	return late, nil
}

// thatFit returns how many WebSockets there can be: the number of files that are open
// at the server has a limit (ulimit -n).
func (p protocol) thatFit(numbers []int) ([]int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	var fit []int
	for _, n := range numbers {
		fit = append(fit, min(n, (int(limit.Max)-200)/p.files))
	}
	return fit, nil
}
