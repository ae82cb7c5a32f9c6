package aventusauth

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
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
type testClock struct{ now atomic.Int64 }

func (c *testClock) Now() time.Time       { return time.Unix(c.now.Load(), 0) }
func (c *testClock) Add(by time.Duration) { c.now.Add(int64(by / time.Second)) }

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
	met       atomic.Int64 // after how many of them something was sent by raw

	mu   sync.Mutex
	seen []*http.Request // what the app was sent

	heard heard // for canary_test.go
}

// setup is what a test wants different from the usual world.
type setup struct {
	https   bool
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
	w := &world{t: t, clock: new(testClock), dir: t.TempDir()}
	w.clock.now.Store(time.Now().Unix())
	clock = w.clock.Now
	t.Cleanup(func() { clock = time.Now })

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
	sites := fmt.Sprintf("%s {\n%s\n%s\n}\n", w.site, tlsLine, strings.ReplaceAll(strings.ReplaceAll(body, "%s", w.directive(s.matcher, s.block)), "%app", w.app))
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
		audience https://api.example.com/
		scope openid profile
		issuer %s
		%s
	}`, matcher, w.site, w.issuer.Issuer, further)
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
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		w.t.Fatalf("adapting: %v\n%s", err, caddyfile)
	}
	if err := caddy.Load(config, true); err != nil {
		w.t.Fatalf("loading: %v\n%s", err, caddyfile)
	}
}

// isFirst reports whether this is the first request of a client since a config was
// loaded. In that moment, Caddy may reset a connection that it has accepted just then;
// browsers try again.
func (w *world) isFirst(met *atomic.Int64) bool {
	loads := w.loads.Load()
	return met.Swap(loads) != loads
}

// restart stops Caddy and starts it again, on the same storage.
func (w *world) restart() {
	w.t.Helper()
	if err := caddy.Stop(); err != nil {
		w.t.Fatal(err)
	}
	w.run(w.config)
}

// awaitCertificate waits for the certificate that Caddy makes in the background.
func (w *world) awaitCertificate(name string) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		var conn *tls.Conn
		if conn, err = tls.Dial("tcp", "localhost:"+w.port, &tls.Config{InsecureSkipVerify: true, ServerName: name}); err == nil {
			conn.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatal(err)
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

// browser is a client with a cookie jar of its own that follows no redirect.
type browser struct {
	w      *world
	client *http.Client
	met    atomic.Int64 // after how many loaded configs it sent something
}

func (w *world) browser() *browser {
	jar, _ := cookiejar.New(nil)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a CA made for this test
		ForceAttemptHTTP2: true,
		DisableKeepAlives: true, // a reload closes idle connections at any moment
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &browser{w: w, client: &http.Client{
		Jar:           jar,
		Transport:     transport,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is a response whose body has been read.
type answer struct {
	*http.Response
	body string
}

func (a answer) location() string { return a.Header.Get("Location") }

// cookie returns the Set-Cookie of that name, or nil.
func (a answer) cookie(name string) *http.Cookie {
	for _, c := range a.Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// do sends a request; the target is a path on the site or a whole URL, and headers
// are names and values in turn.
func (b *browser) do(method, target string, headers ...string) answer {
	b.w.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = b.w.site + target
	}
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		} else {
			req.Header.Add(headers[i], headers[i+1])
		}
	}
	isFirst := b.w.isFirst(&b.met)
	resp, err := b.client.Do(req)
	for tries := 0; err != nil && isFirst && method == "GET" && tries < 3; tries++ {
		time.Sleep(10 * time.Millisecond)
		resp, err = b.client.Do(req)
	}
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	a := answer{resp, string(body)}
	b.w.hear(a)
	return a
}

// get visits a page, as a browser does.
func (b *browser) get(target string) answer {
	b.w.t.Helper()
	return b.do("GET", target, "Sec-Fetch-Mode", "navigate", "Accept", "text/html,*/*;q=0.8")
}

// begin visits a page that needs a login, and returns the callback URL that the
// authorization server sends the browser to.
func (b *browser) begin(path string) string {
	b.w.t.Helper()
	a := b.get(path)
	b.w.expect(a, http.StatusFound)
	a = b.get(a.location())
	b.w.expect(a, http.StatusFound)
	if !strings.HasPrefix(a.location(), b.w.site+"/oauth2/callback?") {
		b.w.t.Fatalf("the authorization server sends to %s", a.location())
	}
	return a.location()
}

// login logs in by visiting a page, and returns the answer of the callback.
func (b *browser) login(path string) answer {
	b.w.t.Helper()
	a := b.get(b.begin(path))
	b.w.expect(a, http.StatusSeeOther)
	return a
}

// cookies returns what the browser would send to the site.
func (b *browser) cookies() []*http.Cookie {
	u, _ := url.Parse(b.w.site)
	return b.client.Jar.Cookies(u)
}

func (w *world) expect(a answer, status int) {
	w.t.Helper()
	if a.StatusCode != status {
		w.t.Fatalf("%s %s: status %d, want %d\nheader %v\nbody %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.Header, a.body)
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

// raw sends bytes as they are, and returns the answer.
func (w *world) raw(request string) answer {
	w.t.Helper()
	isFirst := w.isFirst(&w.met)
	a, err := w.tryRaw(request)
	for tries := 0; err != nil && isFirst && strings.HasPrefix(request, "GET ") && tries < 3; tries++ {
		time.Sleep(10 * time.Millisecond)
		a, err = w.tryRaw(request) // as browser.do does
	}
	if err != nil {
		w.t.Fatalf("sending %q: %v", request, err)
	}
	w.hear(a)
	return a
}

func (w *world) tryRaw(request string) (a answer, err error) {
	conn, err := net.Dial("tcp", "localhost:"+w.port)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if strings.HasPrefix(w.site, "https") {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return a, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body)
	resp.Request = &http.Request{Method: "raw", URL: &url.URL{Path: strings.SplitN(request, "\r\n", 2)[0]}}
	return answer{resp, body.String()}, nil
}

// dialLocalhost connects every name to this machine, as browsers do with names
// below localhost.
func dialLocalhost(port string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ".localhost:"+port) {
			addr = "localhost:" + port
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
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

func TestLogin(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, setup{https: scheme == "https"})
			b := w.browser()

			a := b.get("/some/page?x=1&y=a%20b")
			w.expect(a, http.StatusFound)
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: %q", got)
			}
			u, err := url.Parse(a.location())
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{
				"audience":              "https://api.example.com/",
				"scope":                 "openid profile",
				"response_type":         "code",
				"client_id":             "the-client",
				"redirect_uri":          w.site + "/oauth2/callback",
				"code_challenge_method": "S256",
			} {
				if got := u.Query()[name]; len(got) != 1 || got[0] != want {
					t.Errorf("%s is %q, want %q once", name, got, want)
				}
			}
			for _, random := range []string{"state", "code_challenge", "nonce"} {
				if got := u.Query()[random]; len(got) != 1 || len(got[0]) < 32 {
					t.Errorf("%s is %q", random, got)
				}
			}
			if n := len(u.Query()); n != 9 {
				t.Errorf("%d authorize parameters, want 9: %v", n, u.Query())
			}

			a = b.get(a.location())
			w.expect(a, http.StatusFound)
			a = b.get(a.location())
			w.expect(a, http.StatusSeeOther)
			if want := w.site + "/some/page?x=1&y=a%20b"; a.location() != want {
				t.Errorf("went back to %s, want %s", a.location(), want)
			}
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: %q", got)
			}
			w.expectTokenRequests(1)

			a = b.get(a.location())
			w.expect(a, http.StatusOK)
			seen := w.requests()
			if len(seen) != 1 || !strings.HasPrefix(seen[0].Header.Get("Authorization"), "Bearer ey") {
				t.Fatalf("the app saw %v", seen)
			}
			if got := seen[0].Header["Cookie"]; got != nil {
				t.Errorf("the app was sent our cookies: %v", got)
			}
			if a.Header["Set-Cookie"] != nil {
				t.Errorf("an ordinary response sets %v", a.Header["Set-Cookie"])
			}
		})
	}
}
