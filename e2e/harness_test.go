package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// caddy is the path of the binary that all tests run.
var caddy string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "e2e")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		caddy = filepath.Join(dir, "caddy")
		if out, err := exec.Command("go", "build", "-o", caddy, "./caddy").CombinedOutput(); err != nil {
			fmt.Printf("building Caddy: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// site is a site that all Caddys of a cluster serve, with an authorization server
// of its own.
type site struct {
	name   string
	tokens time.Duration // how long an access token lives
	block  string        // further subdirectives
}

var (
	inCookie  = site{"cookie", time.Hour, ""}
	inStorage = site{"storage", time.Hour, "session {\nstore storage\n}"}
)

// refreshing is a site whose sessions have a refresh token.
func refreshing(name string, tokens time.Duration) site {
	return site{name, tokens, "scope offline_access"}
}

// cluster is some Caddys that share a storage, behind a balancer.
type cluster struct {
	t       *testing.T
	nodes   []*node
	storage storage
	redis   *redis // nil for another storage
	issuers map[string]*issuer
	port    string // the balancer's
	turn    atomic.Int64
	wire    *http.Transport // from the balancer to the Caddys
	air     *http.Transport // from the browsers
}

// issuer is a stand-in for the authorization server. Each Caddy requests tokens at
// an address of its own (127.0.0.1, 127.0.0.2, ...), by which the test tells them apart.
type issuer struct {
	*aventustest.Server
	port  string
	fault atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

// Fault sets a handler for all token requests from now on; nil removes it.
func (i *issuer) Fault(f func(w http.ResponseWriter, r *http.Request) bool) {
	if f == nil {
		f = func(http.ResponseWriter, *http.Request) bool { return false }
	}
	i.fault.Store(&f)
}

// Refreshes returns how many refresh tokens were used.
func (i *issuer) Refreshes() int {
	n := 0
	for _, r := range i.TokenRequests() {
		if r.Params["grant_type"] == "refresh_token" {
			n++
		}
	}
	return n
}

const clientSecret = "the secret of the client"

// newCluster starts size Caddys at the same instant on an empty storage, which is
// one of storages. When the test ends, no token and no code may have been
// used twice, and no Caddy may have panicked.
func newCluster(t *testing.T, engine string, size int, sites ...site) *cluster {
	t.Helper()
	c := &cluster{t: t, issuers: make(map[string]*issuer)}
	c.wire = &http.Transport{MaxIdleConnsPerHost: 100}
	c.air = newAir(t)
	t.Cleanup(c.wire.CloseIdleConnections)

	balancer := httptest.NewServer(&httputil.ReverseProxy{
		Transport: c,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Host = r.In.Host
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "a-node"
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "balancer: "+err.Error(), http.StatusBadGateway)
		},
	})
	t.Cleanup(balancer.Close)
	_, c.port, _ = net.SplitHostPort(balancer.Listener.Addr().String())
	app := httptest.NewServer(http.HandlerFunc(serveApp))
	t.Cleanup(app.Close)
	for _, s := range sites {
		c.issuers[s.name] = newIssuer(t, s, size, c.port)
	}

	c.storage = storages[engine](t)
	c.redis, _ = c.storage.(*redis)
	for n := range size {
		admin := "127.0.0.1:" + freePort(t)
		node := newNode(t, n, func(port string) string {
			global := "admin " + admin + "\nstorage " + c.storage.config()
			return c.caddyfile(global, port, n, app.Listener.Addr().String(), sites)
		})
		node.admin = admin
		c.nodes = append(c.nodes, node)
	}
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.await()
	}
	t.Cleanup(func() {
		for name, i := range c.issuers {
			if codes, tokens := i.CodesReused(), i.RefreshReused(); codes != 0 || tokens != 0 {
				t.Errorf("%s: used twice: %d codes, %d refresh tokens", name, codes, tokens)
			}
		}
		for _, n := range c.nodes {
			n.inspect()
		}
	})
	return c
}

// caddyfile returns a node's configuration.
func (c *cluster) caddyfile(global, port string, node int, app string, sites []site) string {
	config := fmt.Sprintf("{\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\n%s\n}\n", global)
	for _, s := range sites {
		// The hosts that share the login are served by the same site.
		addresses := fmt.Sprintf("http://%s.localhost:%s", s.name, port)
		if _, listed, ok := strings.Cut(s.block, "hosts "); ok {
			line, _, _ := strings.Cut(listed, "\n")
			for host := range strings.FieldsSeq(line) {
				addresses += fmt.Sprintf(", http://%s:%s", host, port)
			}
		}
		config += fmt.Sprintf(`%[1]s {
			aventus_auth {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri %[2]s/oauth2/callback
				audience https://api.example.com/
				issuer http://127.0.0.1:%[3]s/
				token_url http://127.0.0.%[4]d:%[3]s/oauth/token
				logout /logout
				%[5]s
			}
			reverse_proxy %[6]s
			handle_errors {
				respond {http.aventus_auth.error}
			}
		}
		`, addresses, c.origin(s.name), c.issuers[s.name].port, node+1, s.block, app)
	}
	return config
}

// newAir returns the transport of browsers.
func newAir(t *testing.T) *http.Transport {
	air := &http.Transport{MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(addr)
			if strings.HasSuffix(host, ".localhost") {
				host = "127.0.0.1" // as browsers do
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(host, port))
		}}
	t.Cleanup(air.CloseIdleConnections)
	return air
}

func (c *cluster) origin(site string) string { return "http://" + site + ".localhost:" + c.port }

// RoundTrip is the balancer: round robin, and on to the next Caddy if one cannot be
// reached, or dies before it answers. A request may choose its node.
func (c *cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	first, err := strconv.Atoi(r.Header.Get("X-Node"))
	if err != nil {
		first = int(c.turn.Add(1))
	}
	r = r.Clone(r.Context())
	r.Header.Del("X-Node")
	err = errors.New("no Caddy lives")
	for try := range c.nodes {
		n := c.nodes[(first+try)%len(c.nodes)]
		if n.killed.Load() {
			continue
		}
		r.URL.Host = n.addr
		var resp *http.Response
		if resp, err = c.wire.RoundTrip(r); err == nil {
			return resp, nil
		}
		if r.Context().Err() != nil {
			break
		}
	}
	return nil, err
}

// claims are the claims that an app reads in a token.
type claims struct {
	Sub string `json:"sub"`
	Exp int64  `json:"exp"`
}

func claimsOf(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[len(parts)/2])
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(payload, &c)
}

// serveApp is the app behind all sites: it requires a token that has not expired, and
// answers with its subject.
func serveApp(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	claims, err := claimsOf(token)
	if err != nil {
		http.Error(w, "no token", http.StatusTeapot)
		return
	}
	// Times are in whole seconds, and a request takes some time.
	if late := time.Since(time.Unix(claims.Exp, 0)); late > 3*time.Second {
		http.Error(w, "a token that expired "+late.Round(time.Second).String()+" ago", http.StatusTeapot)
		return
	}
	_, _ = io.WriteString(w, claims.Sub)
}

func newIssuer(t *testing.T, s site, nodes int, balancer string) *issuer {
	t.Helper()
	i := &issuer{Server: &aventustest.Server{
		Clients: []aventustest.Client{{
			ID: "the-client", Secret: clientSecret,
			RedirectURIs: []string{"http://" + s.name + ".localhost:" + balancer + "/oauth2/callback"},
		}},
		AutoSignIn:    "auth0|ada",
		TokenLifetime: s.tokens,
	}}
	i.Fault(nil)
	i.TokenFault = func(w http.ResponseWriter, r *http.Request) bool { return (*i.fault.Load())(w, r) }
	var listeners []net.Listener
	i.port, listeners = listenForEach(t, nodes)
	i.Issuer = "http://127.0.0.1:" + i.port + "/"
	server := &http.Server{Handler: i.Server}
	for _, l := range listeners {
		go func() { _ = server.Serve(l) }()
	}
	t.Cleanup(func() { _ = server.Close() })
	return i
}

// listenForEach listens at an address of each node, 127.0.0.1 being the first's, with one port for all. A port that
// is free at the first may be taken at another.
func listenForEach(t *testing.T, nodes int) (port string, listeners []net.Listener) {
	t.Helper()
	var err error
	for range 10 {
		port = freePort(t)
		for n := range nodes {
			var l net.Listener
			if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.%d:%s", n+1, port)); err != nil {
				t.Logf("trying another port: %v", err)
				break
			}
			listeners = append(listeners, l)
		}
		if err == nil {
			return port, listeners
		}
		for _, l := range listeners {
			l.Close()
		}
		listeners = nil
	}
	t.Fatal(err)
	return "", nil
}

// process is a server that runs until its test ends, unless it is killed.
type process struct {
	t      *testing.T
	log    string
	make   func() *exec.Cmd
	addr   string
	cmd    *exec.Cmd
	ended  chan struct{}
	killed atomic.Bool
}

func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd, p.ended = p.make(), make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, ended := p.cmd, p.ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	p.killed.Store(false)
}

// await waits until the server takes connections.
func (p *process) await() {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-p.ended:
			log, _ := os.ReadFile(p.log)
			p.t.Fatalf("it has ended:\n%s", log)
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatal(err)
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	p.t.Helper()
	p.killed.Store(true)
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// node is one Caddy.
type node struct {
	process
	file  string // its config
	admin string // the address of its admin API; empty: it has none
}

// command returns a command of Caddy with the node's environment.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := n.make()
	cmd.Args = append([]string{cmd.Path}, args...)
	return cmd
}

func newNode(t *testing.T, _ int, config func(port string) string) *node {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config(port)), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &node{file: file, process: process{t: t, log: filepath.Join(dir, "log"), addr: "127.0.0.1:" + port}}
	n.make = func() *exec.Cmd {
		cmd := exec.Command(caddy, "run", "--config", file, "--adapter", "caddyfile")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
			"CLIENT_SECRET="+clientSecret)
		return cmd
	}
	return n
}

// inspect searches the log for lines that must not be there, and prints its errors if
// the test has failed.
func (n *node) inspect() {
	log, err := os.ReadFile(n.log)
	if err != nil {
		n.t.Error(err)
		return
	}
	if strings.Contains(string(log), "panic") {
		n.t.Errorf("%s: a panic:\n%s", n.addr, log)
	}
	if !n.t.Failed() {
		return
	}
	var wrong []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `aventus_auth`) &&
			(strings.Contains(line, `"level":"error"`) || strings.Contains(line, `"level":"warn"`)) {
			wrong = append(wrong, line)
		}
	}
	n.t.Logf("%s: %d warnings and errors, the last of them:\n%s", n.addr, len(wrong),
		strings.Join(wrong[max(0, len(wrong)-5):], ""))
}

// freePort returns the port of a free address.
func freePort(t *testing.T) string {
	t.Helper()
	addr, err := aventustest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// browser visits one site.
type browser struct {
	c      *cluster
	site   string
	user   string // who signs in; empty: the authorization server's default user
	jar    http.CookieJar
	client *http.Client
}

func (c *cluster) browser(site string) *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{c: c, site: site, jar: jar, client: &http.Client{
		Jar: jar, Transport: c.air, Timeout: 60 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// copy returns a browser with the same cookies at this moment.
func (b *browser) copy() *browser {
	other := b.c.browser(b.site)
	u, _ := url.Parse(b.c.origin(b.site))
	other.jar.SetCookies(u, b.jar.Cookies(u))
	return other
}

// anyNode leaves the choice to the balancer.
const anyNode = -1

// answer is the answer to a request; its status is 0 if there was none.
type answer struct {
	status int
	text   string // the body, or the error
	to     string // the target of a redirect
	whose  string // the subject that the app saw, if the request reached it
}

func (a answer) String() string { return strings.TrimSpace(fmt.Sprint(a.status, " ", a.text)) }

// send makes a GET request with a Sec-Fetch-Mode.
func (b *browser) send(node int, target, mode string) answer {
	if strings.HasPrefix(target, "/") {
		target = b.c.origin(b.site) + target
	}
	r, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		return answer{text: err.Error()}
	}
	r.Header.Set("Sec-Fetch-Mode", mode)
	if node != anyNode {
		r.Header.Set("X-Node", strconv.Itoa(node))
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return answer{text: err.Error()}
	}
	a := answer{status: resp.StatusCode}
	if to, err := resp.Location(); err == nil {
		a.to = b.signIn(to)
	} else if a.status != http.StatusOK {
		a.text = string(body)
	} else {
		a.whose = string(body)
	}
	return a
}

// signIn returns the target of a redirect. At the authorization server, it signs in the
// browser's own user, if it has one, and returns the target of the redirect back.
func (b *browser) signIn(to *url.URL) string {
	if issuer := b.c.issuers[b.site]; b.user != "" && strings.HasPrefix(to.String(), issuer.Issuer) {
		back, err := issuer.IssueCode(to.Query(), b.user)
		if err != nil {
			b.c.t.Errorf("%s: %s cannot sign in: %v", b.site, b.user, err)
			return to.String()
		}
		return back.String()
	}
	return to.String()
}

// fetch makes a request as a script does: without a session, it gets 401.
func (b *browser) fetch(node int) answer { return b.send(node, "/", "cors") }

// visit goes to a page, through the login if it is sent there.
func (b *browser) visit(node int, target string) answer {
	a := b.send(node, target, "navigate")
	for hops := 0; a.to != "" && hops < 10; hops++ {
		a = b.send(node, a.to, "navigate")
	}
	return a
}

// begin visits a page, and returns the callback URL that the login leads to.
func (b *browser) begin(node int) string {
	b.c.t.Helper()
	a := b.send(node, "/", "navigate")
	for hops := 0; a.to != "" && hops < 2; hops++ {
		if strings.HasPrefix(a.to, b.c.origin(b.site)+"/oauth2/callback?") {
			return a.to
		}
		a = b.send(node, a.to, "navigate")
	}
	if a.to == "" {
		b.c.t.Fatalf("%s: the login does not begin: %s", b.site, a)
	}
	return a.to
}

func (c *cluster) expect(a answer, status int, what string) {
	c.t.Helper()
	if a.status != status {
		c.t.Fatalf("%s: %s, want %d", what, a, status)
	}
}

// login logs in, at any node.
func (c *cluster) login(site string) *browser {
	c.t.Helper()
	b := c.browser(site)
	c.expect(b.visit(anyNode, "/"), http.StatusOK, "logging in at "+site)
	return b
}

// load is a set of browsers that keep sending requests, and counts of their answers.
type load struct {
	stop chan struct{}
	wait sync.WaitGroup

	mu     sync.Mutex
	phase  string
	counts map[string]map[string]int // by phase and site, and by answer
	worst  time.Duration
	lost   map[*browser]bool // the browsers that lost their session at least once
	failed map[*browser]time.Time
}

func newLoad(phase string) *load {
	return &load{
		stop: make(chan struct{}), phase: phase, counts: make(map[string]map[string]int),
		lost: make(map[*browser]bool), failed: make(map[*browser]time.Time),
	}
}

// enter begins another phase.
func (l *load) enter(phase string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = phase
}

// count counts an answer in the phase in which its request was made.
func (l *load) count(phase string, b *browser, a answer, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := phase + ", " + b.site
	if l.counts[key] == nil {
		l.counts[key] = make(map[string]int)
	}
	l.counts[key][a.String()]++
	l.worst = max(l.worst, took)
	switch {
	case a.status == http.StatusUnauthorized:
		l.lost[b] = true
	case a.status != http.StatusOK:
		l.failed[b] = time.Now()
	}
}

// add has a browser send several requests at a time, again and again.
func (l *load) add(b *browser, atOnce int, pause time.Duration) {
	for range atOnce {
		l.repeat(pause, func() (*browser, answer) { return b, b.fetch(anyNode) })
	}
}

// repeat calls a function again and again, until the load ends.
func (l *load) repeat(pause time.Duration, do func() (*browser, answer)) {
	l.wait.Go(func() {
		for {
			l.mu.Lock()
			phase := l.phase
			l.mu.Unlock()
			began := time.Now()
			b, a := do()
			l.count(phase, b, a, time.Since(began))
			select {
			case <-time.After(pause):
			case <-l.stop:
				return
			}
		}
	})
}

// finish ends the load, and logs the counts of its answers.
func (l *load) finish(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wait.Wait()
	for _, key := range slices.Sorted(maps.Keys(l.counts)) {
		t.Logf("%s: %v", key, l.counts[key])
	}
}

// end ends the load of those who are signed in.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.finish(t)
	t.Logf("the slowest answer took %s; %d sessions lost", l.worst.Round(time.Millisecond), len(l.lost))
}

// only checks that a phase and site had no other answers than these.
func (l *load) only(t *testing.T, key string, answers ...string) {
	t.Helper()
	if len(l.counts[key]) == 0 {
		t.Errorf("%s: no answers", key)
	}
	for got, n := range l.counts[key] {
		if !slices.Contains(answers, got) {
			t.Errorf("%s: %d times %q", key, n, got)
		}
	}
}
