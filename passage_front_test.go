package aventusauth

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// inFront is a handler in front of the gate, which notes the header of a request before
// and after the rest has served it, as a cache does that goes by Vary. It hands on a copy
// of the request, with another context, as tracing does.
type inFront struct{}

// served is what inFront saw of a request.
type served struct {
	before, after http.Header
	err           error
}

var fronted struct {
	mu   sync.Mutex
	seen []served
}

func init() {
	caddy.RegisterModule(inFront{})
	httpcaddyfile.RegisterHandlerDirective("test_in_front",
		func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
			return inFront{}, nil
		})
	httpcaddyfile.RegisterDirectiveOrder("test_in_front", httpcaddyfile.Before, "header")
}

func (inFront) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "http.handlers.aventus_auth_test_in_front", New: func() caddy.Module { return new(inFront) },
	}
}

func (inFront) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (inFront) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	before := r.Header.Clone()
	err := next.ServeHTTP(w, r.WithContext(r.Context()))
	fronted.mu.Lock()
	defer fronted.mu.Unlock()
	fronted.seen = append(fronted.seen, served{before, r.Header.Clone(), err})
	return err
}

// inFrontOf returns what the handler in front saw of the last request.
func inFrontOf(t *testing.T) served {
	t.Helper()
	fronted.mu.Lock()
	defer fronted.mu.Unlock()
	if len(fronted.seen) == 0 {
		t.Fatal("nothing came by in front")
	}
	last := fronted.seen[len(fronted.seen)-1]
	fronted.seen = nil
	return last
}

// TestRequestAsItCame: a handler in front finds the request's header as it came, whatever
// became of the request. A cache there that compares requests by Vary: Cookie, and saw them
// without our cookie, would take everybody for nobody.
func TestRequestAsItCame(t *testing.T) {
	w := newWorld(t, setup{
		matcher: "/private/*", block: "logout /logout\nprofile /me",
		sites: func(w *world) string {
			return w.site + " {\ntest_in_front\nroute {\n@w path /private/*\n" +
				w.directive("/private/*", "logout /logout\nprofile /me") +
				"\n" + w.directive("/private/twice/*", "") + "\n" +
				w.directive("/passed/*", "unauthenticated pass\nsession {\nname other\n}") + "\nreverse_proxy " +
				w.app + "\n}\n}"
		},
	})
	b := w.browser()
	b.login("/private/")
	cookie := b.cookieHeader()
	w.requests()
	for _, c := range []struct {
		path    string
		status  int
		headers []string
	}{
		{"/private/x", 200, nil},
		{"/private/x", 200, []string{"Cookie", "a=b", "Authorization", "Bearer theirs", "X-User-Id", "theirs"}},
		{"/private/x", 200, []string{"Connection", "Authorization, X-User-Id, close", "Authorization", "Bearer theirs",
			"X-User-Id", "theirs"}},
		{"/private/x", 200, []string{"Connection", "Upgrade, Cookie", "Upgrade", "h2c"}},
		{"/private/x", 200, []string{"Connection", "Upgrade", "Upgrade", "websocket, h2c"}},
		{"/private/twice/x", 200, []string{"Authorization", "Bearer theirs"}},
		{"/passed/x", 200, []string{"Authorization", "Bearer theirs"}},
		{"/public", 200, []string{"Connection", "Upgrade", "Upgrade", "h2c", "Authorization", "Bearer theirs"}},
		{"/me", 200, []string{"Authorization", "Bearer theirs"}},
	} {
		headers := append([]string{"Cookie", cookie + "; theirs=1", "Accept", "text/html"}, c.headers...)
		a := w.http1(request{target: c.path, headers: headers})
		w.expect(a, c.status)
		seen := inFrontOf(t)
		if !maps.EqualFunc(seen.before, seen.after, slices.Equal) {
			t.Errorf("%s, %q: the request came with\n%v, and was left with\n%v", c.path, c.headers,
				seen.before, seen.after)
		}
		for _, r := range w.requests() { // what comes after us sees what we made of it
			auth := r.Header["Authorization"]
			if strings.HasPrefix(c.path, "/private/") &&
				(len(auth) != 1 || !strings.HasPrefix(auth[0], "Bearer ey") ||
					strings.Contains(r.Header.Get("Cookie"), "aventus")) {
				t.Errorf("%s, %q: the app was sent %v", c.path, c.headers, r.Header)
			}
		}
	}
	for path, status := range map[string]int{"/private/x": 302, "/logout": 200} { // answers of our own
		cookies := map[int]string{302: "theirs=1", 200: cookie}[status]
		w.expect(w.http1(request{target: path, headers: []string{
			"Cookie", cookies, "Authorization", "Bearer theirs", "Sec-Fetch-Mode", "navigate",
		}}), status)
		if seen := inFrontOf(t); !maps.EqualFunc(seen.before, seen.after, slices.Equal) {
			t.Errorf("%s: the request came with\n%v, and was left with\n%v", path, seen.before, seen.after)
		}
	}
}

// TestErrorsAreToldNothing: a request that has failed keeps what we made of it, for its
// error routes and their placeholders: without the client's Authorization and our cookies.
func TestErrorsAreToldNothing(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\ntest_in_front\n" + w.directive("", "require_scope more:than:that") +
			"\nhandle_errors {\n" +
			"respond \"auth {http.request.header.Authorization}, cookies " +
			"{http.request.header.Cookie}{http.request.cookie.aventus_session}\" 403\n}\n}"
	}})
	b := w.browser()
	b.login("/")
	a := w.http1(request{headers: []string{"Cookie", b.cookieHeader(), "Authorization", "Bearer theirs"}})
	w.expect(a, http.StatusForbidden)
	if a.body != "auth , cookies " {
		t.Errorf("the error routes are told %q", a.body)
	}
	seen := inFrontOf(t)
	if seen.err == nil || seen.after["Authorization"] != nil || seen.after["Cookie"] != nil {
		t.Errorf("%v: %v", seen.err, seen.after)
	}
}

// TestEarlyHints: an informational response is sent before it is known who may store what
// comes after it. It has the app's hints, and never our cookie; nor has the answer that
// opens a WebSocket without no-store.
func TestEarlyHints(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/socket" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusSwitchingProtocols)
			return
		}
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
	}))
	defer app.Close()
	for _, https := range []bool{false, true} { // HTTP/1.1 and HTTP/2
		w := newWorld(t, setup{https: https, block: "session {\nidle 1h\n}", caddyfile: "%s\nreverse_proxy " +
			strings.TrimPrefix(app.URL, "http://")})
		b := w.browser()
		b.login("/")
		w.clock.Add(20 * time.Minute)
		r, err := http.NewRequest("GET", w.site+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		hints := 0
		resp, err := b.client.Do(r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints++
				if code == http.StatusEarlyHints && header["Link"] == nil || header["Set-Cookie"] != nil {
					t.Errorf("https %v: %d %v", https, code, header)
				}
				return nil
			},
		})))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if hints != 2 || resp.Header["Set-Cookie"] == nil || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("https %v: %d hints, then %v", https, hints, resp.Header)
		}
		w.clock.Add(20 * time.Minute)
		a := w.http1(request{target: "/socket", headers: []string{
			"Cookie", b.cookieHeader(), "Connection", "Upgrade", "Upgrade", "websocket",
		}})
		w.expect(a, http.StatusSwitchingProtocols)
		if a.Header["Set-Cookie"] == nil || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("https %v: the WebSocket: %v", https, a.Header)
		}
	}
}

// TestHTTPInclude: what a template includes by httpInclude is asked for with the token, and
// without the cookie. It is the visitor's request where accept_bearer takes the token.
// Everywhere else it has no session: what is included comes out empty (a redirect to the
// login), or fails the page where such requests get 401.
func TestHTTPInclude(t *testing.T) {
	dir := t.TempDir()
	for name, page := range map[string]string{
		"page.html": "includes {{httpInclude `/part.html`}}",
		"part.html": "what is for {{placeholder `http.auth.user.id`}}",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		block  string
		status int
		body   string
	}{
		{"accept_bearer", http.StatusOK, "includes what is for auth0|ada"},
		{"", http.StatusOK, "includes Found\n"}, // the body of the redirect to the login
		{"unauthenticated pass", http.StatusOK, "includes what is for "},
		{"unauthenticated deny", http.StatusInternalServerError, ""},
	} {
		w := newWorld(t, setup{sites: func(w *world) string {
			return w.site + " {\n" + w.directive("/sign-in", "") + "\n" + w.directive("", c.block) + "\nroot " + dir +
				"\ntemplates\nfile_server\n}"
		}})
		b := w.browser()
		b.login("/sign-in")
		a := b.get("/page.html")
		if a.StatusCode != c.status || a.body != c.body {
			t.Errorf("%q: status %d, %q", c.block, a.StatusCode, a.body)
		}
	}
}
