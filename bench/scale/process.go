package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// process is one that was started here, and ends with this one.
type process struct {
	cmd   *exec.Cmd
	log   string
	stdin io.Closer
	ended chan struct{}
}

// start starts a program, whose log goes to a file. It ends when stop is called, or,
// if it reads its standard input, when this process does.
func start(log string, env []string, name string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &process{cmd: exec.Command(name, args...), log: log, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_, _ = p.cmd.Process.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.stdin.Close()
}

// await waits until the process takes connections at an address.
func (p *process) await(addr string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			log, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s has ended:\n%s", filepath.Base(p.cmd.Path), log)
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

const (
	clientSecret = "the secret of the client"
	subject      = "auth0|ada"
)

// world is what is around the site: the authorization server's stand-in, and an
// upstream, in a process of their own.
type world struct {
	*process
	issuer, upstream string // addresses
}

// newWorld starts a world in which the sites at these addresses are registered, and
// tokens are that long.
func (b *bench) newWorld(chars int, sites ...string) (*world, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := new(world)
	for _, addr := range []*string{&w.issuer, &w.upstream} {
		if *addr, err = aventustest.FreeAddr(); err != nil {
			return nil, err
		}
	}
	args := append([]string{"world", strconv.Itoa(chars), w.issuer, w.upstream}, sites...)
	// It remembers every code, and is not what is measured.
	env := []string{"GOGC=400"}
	if w.process, err = start(filepath.Join(b.dir, "world.log"), env, self, args...); err != nil {
		return nil, err
	}
	return w, errors.Join(w.await(w.issuer), w.await(w.upstream))
}

// open returns how many WebSockets the upstream has open.
func (w *world) open() (int, error) {
	resp, err := http.Get("http://" + w.upstream + "/open")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(body))
}

// serveWorld is the world's process.
func serveWorld(args []string) error {
	if len(args) < 3 {
		return errors.New("world wants the length of a token, two addresses, and sites")
	}
	chars, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	client := aventustest.Client{ID: "the-client", Secret: clientSecret}
	for _, site := range args[3:] {
		client.RedirectURIs = append(client.RedirectURIs, "http://"+site+"/oauth2/callback")
	}
	issuer := &aventustest.Server{
		Issuer: "http://" + args[1] + "/", Clients: []aventustest.Client{client},
		AutoSignIn: subject, TokenChars: chars,
	}
	ended := make(chan error)
	go func() { ended <- http.ListenAndServe(args[1], issuer) }()
	go func() { ended <- http.ListenAndServe(args[2], new(upstream)) }()
	return <-ended
}

// upstream takes every request for a WebSocket, and says nothing on it.
type upstream struct{ open atomic.Int64 }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		fmt.Fprint(w, u.open.Load())
		return
	}
	if r.Header.Get("X-Bare") == "" && r.Header.Get("Authorization") == "" {
		w.WriteHeader(http.StatusTeapot) // nobody is to get here without a token
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	u.open.Add(1)
	defer u.open.Add(-1)
	if _, err := io.WriteString(conn,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); err != nil {
		return
	}
	_, _ = conn.Read(make([]byte, 1)) // until it is closed
}

// node is a Caddy.
type node struct {
	*process
	start       func() (*process, error)
	addr, admin string // addresses
}

// newNode starts a Caddy for the site at addr. Its block is the plugin's, without
// what is the same for all; empty is no plugin. site is what comes after it.
func (b *bench) newNode(addr string, w *world, storage, block, site string) (*node, error) {
	admin, err := aventustest.FreeAddr()
	if err != nil {
		return nil, err
	}
	auth := ""
	if block != "" {
		auth = fmt.Sprintf(`aventus_auth {
			client_id the-client
			client_secret {env.CLIENT_SECRET}
			redirect_uri http://%s/oauth2/callback
			audience https://api.example.com/
			issuer http://%s/
			logout /logout
			%s
		}`, addr, w.issuer, block)
	}
	dir, err := os.MkdirTemp(b.dir, "caddy-")
	if err != nil {
		return nil, err
	}
	n := &node{addr: addr, admin: admin}
	config := fmt.Sprintf(`{
		admin %s
		persist_config off
		auto_https off
		default_bind 127.0.0.1
		log {
			level WARN
		}
		servers {
			protocols h1 h2c
		}
		%s
	}
	http://%s {
		%s
		%s
	}
	`, n.admin, storage, addr, auth, site)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n.start = func() (*process, error) {
		env := []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir,
			"CLIENT_SECRET=" + clientSecret,
			"GODEBUG=http2xconnect=1"} // Go's HTTP/2 takes WebSockets with it alone
		p, err := start(filepath.Join(dir, "log"), env, self, "run", "--config", file, "--adapter", "caddyfile")
		if err != nil {
			return nil, err
		}
		return p, p.await(addr)
	}
	n.process, err = n.start()
	return n, err
}

// restart gives the site a Caddy that has not seen any of its sessions.
func (n *node) restart() (err error) {
	n.stop()
	n.process, err = n.start()
	return err
}

// stop stops the Caddy that there is by now.
func (n *node) stop() { n.process.stop() }

// ask asks the admin API.
func (n *node) ask(method, path string) (string, error) {
	r, err := http.NewRequest(method, "http://"+n.admin+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	return string(body), err
}

// stats are what a process has, and has used.
type stats struct {
	heap, stacks, resident float64 // bytes; the heap is what lives after a collection
	goroutines             float64
	cpu                    time.Duration
}

var (
	heapLine      = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)
	stackLine     = regexp.MustCompile(`(?m)^# Stack = (\d+) /`)
	goroutineLine = regexp.MustCompile(`^goroutine profile: total (\d+)`)
	residentLine  = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)
)

// number returns what a pattern finds in a text.
func number(pattern *regexp.Regexp, text string) (float64, error) {
	found := pattern.FindStringSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("there is no %s", pattern)
	}
	return strconv.ParseFloat(found[1], 64)
}

// look returns what the Caddy has by now.
func (n *node) look() (s stats, err error) {
	var heap string
	for range 2 { // what pools held outlives one collection
		if heap, err = n.ask(http.MethodGet, "/debug/pprof/heap?debug=1&gc=1"); err != nil {
			return s, err
		}
	}
	goroutines, err := n.ask(http.MethodGet, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return s, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return s, err
	}
	var errs [4]error
	s.heap, errs[0] = number(heapLine, heap)
	s.stacks, errs[1] = number(stackLine, heap)
	s.goroutines, errs[2] = number(goroutineLine, goroutines)
	s.resident, errs[3] = number(residentLine, string(status))
	s.resident *= 1024
	if s.cpu, err = n.cpu(); err != nil {
		return s, err
	}
	return s, errors.Join(errs[:]...)
}

// cpu returns how much processor time the Caddy has used.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(string(stat))
}

// parseCPU reads utime and stime in /proc/<pid>/stat, in ticks of a hundredth of a
// second. The name before them, in parentheses, may hold anything.
func parseCPU(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("a line of /proc/<pid>/stat has too few fields")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}
