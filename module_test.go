package aventusauth

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// testClock is the clock of the plugin and of the stand-in. It stands still until
// a test turns it.
type testClock struct{ now, set atomic.Int64 }

func (c *testClock) Now() time.Time       { return time.Unix(c.now.Load(), 0) }
func (c *testClock) Add(by time.Duration) { c.now.Add(int64(by / time.Second)) }

// Set sets the wall clock alone, by so much.
func (c *testClock) Set(by time.Duration) {
	c.set.Add(int64(by / time.Second))
	c.Add(by)
}

// Elapsed is the steady clock.
func (c *testClock) Elapsed() time.Duration {
	return time.Duration(c.now.Load()-c.set.Load()) * time.Second
}

// world is a real Caddy on a real socket, with the plugin in front of an app that
// remembers what it was sent, and a stand-in for the authorization server.
type world struct {
	t         *testing.T
	issuer    *aventustest.Server
	clock     *testClock
	site      string // the site's origin
	port      string
	dir       string       // Caddy's storage and log
	app       string       // the app's address
	config    string       // what Caddy runs
	adminPort string       // of the admin endpoint; empty: off
	loads     atomic.Int64 // how often a config was loaded
	audience  string       // the line of the directive; empty: none
	met       atomic.Int64 // what isFirst knows of what was sent by raw
	told      atomic.Int64 // and by tellsOut

	mu   sync.Mutex
	seen []*http.Request // what the app was sent

	heard heard // for needles_test.go
}

// setup is what a test wants different from the usual world.
type setup struct {
	https   bool
	opaque  bool     // without an audience: tokens need not be JWTs
	host    string   // default localhost
	names   []string // further names of the site, with https
	matcher string   // of the directive
	block   string   // further subdirectives
	// caddyfile replaces the site's directives; %s is the aventus_auth directive.
	caddyfile string
	global    string // further global options
	admin     bool   // with Caddy's admin endpoint
	sites     func(w *world) string
	issuer    func(*aventustest.Server)
}

// newWorld starts a world, and stops it when the test ends.
func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{t: t, clock: new(testClock), dir: t.TempDir(), audience: "audience https://api.example.com/"}
	t.Cleanup(func() { // what an unloaded config has begun to write may still be on its way
		poll(10*time.Second, func() bool { return os.RemoveAll(w.dir) == nil })
	})
	if s.opaque {
		w.audience = ""
	}
	w.clock.now.Store(time.Now().Unix())
	before, steadyBefore := clock, steadyClock
	clock, steadyClock = w.clock.Now, w.clock.Elapsed
	t.Cleanup(func() { clock, steadyClock = before, steadyBefore })

	app := httptest.NewServer(http.HandlerFunc(w.serveApp))
	t.Cleanup(app.Close)
	w.app = strings.TrimPrefix(app.URL, "http://")

	scheme := "http"
	if s.https {
		scheme = "https"
	}
	if s.host == "" {
		s.host = "localhost"
	}
	w.port = freePort(t)
	if s.admin {
		w.adminPort = freePort(t)
	}
	w.site = scheme + "://" + s.host + ":" + w.port

	w.issuer = &aventustest.Server{
		Clients: []aventustest.Client{{
			ID: "the-client", Secret: testSecret,
			RedirectURIs: []string{w.site + "/oauth2/callback"},
		}},
		AutoSignIn: "auth0|ada",
		Now:        w.clock.Now,
	}
	server := httptest.NewUnstartedServer(w.issuer)
	w.issuer.Issuer = "http://" + server.Listener.Addr().String() + "/"
	if s.issuer != nil {
		s.issuer(w.issuer)
	}
	server.Start()
	t.Cleanup(server.Close)

	t.Setenv("TEST_CLIENT_SECRET", testSecret)
	body := s.caddyfile
	if body == "" {
		body = "%s\nreverse_proxy " + w.app
	}
	tlsLine := ""
	if s.https {
		tlsLine = "tls internal"
	}
	sites := fmt.Sprintf("%s {\n%s\n%s\n}\n", w.site, tlsLine,
		strings.ReplaceAll(strings.ReplaceAll(body, "%s", w.directive(s.matcher, s.block)), "%app", w.app))
	if s.sites != nil {
		sites = s.sites(w)
	}
	if s.https {
		s.global += "\nskip_install_trust"
	}
	w.run(w.caddyfile(s.global, sites))
	if s.https {
		for _, name := range append(s.names, s.host) {
			w.awaitCertificate(name)
		}
	}
	t.Cleanup(func() {
		secrets := w.secrets()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		forgetPredecessors()
		if strings.Contains(w.log(), "panic") {
			t.Errorf("a panic:\n%s", w.log())
		}
		w.expectSecretsKept(secrets)
	})
	return w
}

const testSecret = "a-secret-that-nobody-may-see"

// directive returns the aventus_auth block of this world.
func (w *world) directive(matcher, further string) string {
	return fmt.Sprintf(`aventus_auth %s {
		client_id the-client
		client_secret {env.TEST_CLIENT_SECRET}
		redirect_uri %s/oauth2/callback
		%s
		scope openid profile
		issuer %s
		%s
	}`, matcher, w.site, w.audience, w.issuer.Issuer, further)
}

// admin returns the global option of the admin endpoint, which is off unless a test
// wants it.
func (w *world) admin() string {
	if w.adminPort == "" {
		return "admin off"
	}
	return "admin localhost:" + w.adminPort
}

func (w *world) caddyfile(global, sites string) string {
	return fmt.Sprintf(`{
		%s
		persist_config off
		storage file_system %s
		log {
			output file %s
			level DEBUG
		}
		%s
	}
	%s`, w.admin(), filepath.Join(w.dir, "storage"), filepath.Join(w.dir, "log"), global, sites)
}

// run loads a Caddyfile, as a reload does where one is loaded already.
func (w *world) run(caddyfile string) {
	w.t.Helper()
	w.config = caddyfile
	w.loads.Add(1)
	if err := load(caddyfile); err != nil {
		w.t.Fatalf("%v\n%s", err, caddyfile)
	}
}

// load has Caddy run a Caddyfile.
func load(text string) error {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return fmt.Errorf("adapting: %w", err)
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("loading: %w", err)
	}
	return nil
}

// isFirst reports whether this is one of the first two requests of a client since a config was
// loaded. In that moment, Caddy may reset a connection that it has accepted just then;
// browsers try again. The first request may have had a connection of before.
func (w *world) isFirst(met *atomic.Int64) bool {
	loads := 2 * w.loads.Load()
	before := max(met.Load(), loads-2)
	met.Store(min(before+1, loads))
	return before < loads
}

// restart stops Caddy and starts it again, on the same storage.
func (w *world) restart() {
	w.t.Helper()
	if err := caddy.Stop(); err != nil {
		w.t.Fatal(err)
	}
	forgetPredecessors()
	w.run(w.config)
}

// forgetPredecessors forgets what configs before have left, as the end of the process does.
func forgetPredecessors() {
	predecessors.mu.Lock()
	defer predecessors.mu.Unlock()
	predecessors.all = nil
}

// awaitCertificate waits for the certificate that Caddy makes in the background.
func (w *world) awaitCertificate(name string) {
	w.t.Helper()
	var conn *tls.Conn
	var err error
	if !poll(20*time.Second, func() bool {
		conn, err = tls.Dial("tcp", "localhost:"+w.port, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		return err == nil
	}) {
		w.t.Fatal(err)
	}
	conn.Close()
}

func (w *world) log() string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// serveApp is the app behind Caddy. It answers with what ?cache says about caches.
func (w *world) serveApp(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.mu.Lock()
	w.seen = append(w.seen, r)
	w.mu.Unlock()
	if cache := r.URL.Query().Get("cache"); cache != "" {
		rw.Header().Set("Cache-Control", cache)
	}
	fmt.Fprint(rw, "the app")
}

// requests returns what the app was sent since the last call.
func (w *world) requests() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

func (w *world) expect(a answer, status int) {
	w.t.Helper()
	if a.StatusCode != status {
		w.t.Fatalf("%s %s: status %d, want %d\nheader %v\nbody %s", a.Request.Method, a.Request.URL, a.StatusCode,
			status, a.Header, a.body)
	}
}

func (w *world) expectTokenRequests(n int) {
	w.t.Helper()
	if got := len(w.issuer.TokenRequests()); got != n {
		w.t.Errorf("the token endpoint was asked %d times, want %d", got, n)
	}
	if n := w.issuer.CodesReused(); n > 0 {
		w.t.Errorf("a code was sent again, %d times", n)
	}
}

func (w *world) expectNoReuse() {
	w.t.Helper()
	if n := w.issuer.RefreshReused(); n != 0 {
		w.t.Errorf("a refresh token was used again, %d times", n)
	}
}

// token returns what the app was sent in answer to the last request.
func (w *world) token() string {
	w.t.Helper()
	seen := w.requests()
	if len(seen) == 0 {
		w.t.Fatal("the app was not reached")
	}
	return seen[len(seen)-1].Header.Get("Authorization")
}

// await waits for what goes on in the background.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !poll(10*time.Second, ok) {
		t.Fatalf("in vain: %s", what)
	}
}

// poll asks until the answer is yes, and reports whether it came in time. Nothing else in the tests of this
// package sleeps: what is waited for is named.
func poll(atMost time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(atMost); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
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
