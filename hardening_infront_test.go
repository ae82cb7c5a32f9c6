package aventusauth

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestTemplatesInFrontAreToldNothing: templates render after the gate has returned. They see
// what the app sees: what the site made of the session's claims, and not the client's
// Authorization, our cookie, or a header that Connection named, by which somebody who is
// signed in would be somebody else to the page.
func TestTemplatesInFrontAreToldNothing(t *testing.T) {
	w := newWorld(t, setup{caddyfile: `templates {
			mime text/plain
		}
		handle {
			%s
			request_header X-User-Id {http.auth.user.id}
			header Content-Type text/plain
			respond ` + "`" + `id={{.Req.Header.Get "X-User-Id"}} theirs={{eq "Bearer theirs" (.Req.Header.Get ` +
		`"Authorization")}} cookie={{.Req.Header.Get "Cookie"}}` + "`\n}"})
	b := w.browser()
	b.login("/")
	a := w.http1(request{headers: []string{
		"Cookie", b.cookieHeader() + "; theirs=1", "Authorization", "Bearer theirs", "X-User-Id", "root",
		"Connection", "X-User-Id",
	}})
	w.expect(a, http.StatusOK)
	if want := "id=auth0|ada theirs=false cookie=theirs=1"; a.body != want {
		t.Errorf("the page is %q, and not %q", a.body, want)
	}
}

// TestInterceptInFrontIsToldNothing: the routes of an intercept in front run after the gate
// has returned, with our request. Their upstream gets no identity that was made up, and no
// cookie of ours; and it is not asked for an answer of the module's own.
func TestInterceptInFrontIsToldNothing(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nprofile /me", caddyfile: `@intercepted header X-Intercepted *
		intercept @intercepted {
			handle_response {
				rewrite * /fallback
				method GET
				reverse_proxy %app
			}
		}
		handle {
			%s
			request_header X-User-Id {http.auth.user.id}
			respond down 502
		}
		handle_errors {
			file_server
		}`})
	b := w.browser()
	callback := strings.TrimPrefix(b.begin("/"), w.site)
	begun := b.cookieHeader()
	b.get(callback)
	cookie := b.cookieHeader()
	w.requests()
	for i, c := range []struct{ method, target, cookie, user string }{
		{"GET", "/x", cookie, "auth0|ada"}, // is let through; nothing in front replaces the other answers
		{"GET", "/x", "", ""},              // sent to the login
		{"POST", "/x", "", ""},
		{"CONNECT", "localhost:" + w.port, cookie, ""},
		{"GET", callback, begun + "; " + cookie, ""},
		{"GET", "/oauth2/callback?state=x", cookie, ""},
		{"GET", "/me", cookie, ""},
		{"GET", "/logout", cookie, ""},
	} {
		w.http1(request{method: c.method, target: c.target, headers: []string{
			"Cookie", c.cookie + "; theirs=1", "X-Intercepted", "1", "Authorization", "Basic theirs", "X-User-Id",
			"root", "Connection", "X-User-Id",
		}})
		seen := w.requests()
		if i > 0 {
			if len(seen) != 0 {
				t.Errorf("%s %s: the fallback was asked for an answer of ours", c.method, c.target)
			}
			continue
		}
		if len(seen) != 1 || seen[0].URL.Path != "/fallback" {
			t.Errorf("%s %s: the fallback was asked %d times", c.method, c.target, len(seen))
			continue
		}
		header := seen[0].Header
		if strings.Contains(header.Get("Cookie"), "aventus") || header.Get("Authorization") == "Basic theirs" ||
			header.Get("X-User-Id") != c.user {
			t.Errorf("%s %s: the fallback was sent %v", c.method, c.target, header)
		}
	}
}

// TestLogAppendInFrontIsToldNothing: log_append expands its placeholders after the gate has
// returned.
func TestLogAppendInFrontIsToldNothing(t *testing.T) {
	w := newWorld(t, setup{caddyfile: `log
		log_append cookie {http.request.cookie.aventus_session}
		log_append user {http.request.header.X-User-Id}
		handle {
			%s
			request_header X-User-Id {http.auth.user.id}
			respond ok
		}`})
	b := w.browser()
	b.login("/")
	for _, c := range []struct {
		method, target, user string
		want                 int
	}{
		{"GET", "/", "auth0|ada", http.StatusOK},
		{"CONNECT", "localhost:" + w.port, "", http.StatusMethodNotAllowed},
	} {
		w.expect(w.http1(request{method: c.method, target: c.target, headers: []string{
			"Cookie", b.cookieHeader(), "X-User-Id", "root", "Connection", "X-User-Id",
		}}), c.want)
		lines := strings.Split(strings.TrimSpace(w.log()), "\n")
		if line := lines[len(lines)-1]; !strings.Contains(line, `"cookie":""`) ||
			!strings.Contains(line, `"user":"`+c.user+`"`) {
			t.Errorf("%s: what is logged is %s", c.method, line)
		}
	}
}

// TestConnectionNamesTheSitesHeader: a handler in front that is not Caddy's gets back what
// Connection named, and never in place of what the site has made of it.
func TestConnectionNamesTheSitesHeader(t *testing.T) {
	w := newWorld(t, setup{
		caddyfile: "test_in_front\n%s\nroute {\nrequest_header X-User-Id {http.auth.user.id}\nreverse_proxy %app\n}",
	})
	b := w.browser()
	b.login("/")
	w.expect(w.http1(request{headers: []string{
		"Cookie", b.cookieHeader(), "Connection", "X-User-Id, X-Other", "X-User-Id", "root", "X-Other", "theirs",
	}}), http.StatusOK)
	if after := inFrontOf(t).after; after.Get("X-User-Id") != "auth0|ada" || after.Get("X-Other") != "theirs" {
		t.Errorf("the request was left with %v", after)
	}
}

// inFrontAround is a handler that is not Caddy's, and has routes that the gate does not know of.
type inFrontAround struct {
	Routes caddyhttp.RouteList `json:"routes"`
}

func init() { caddy.RegisterModule(new(inFrontAround)) }

func (*inFrontAround) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.aventus_auth_test_around",
		New: func() caddy.Module { return new(inFrontAround) }}
}

func (a *inFrontAround) Provision(ctx caddy.Context) error { return a.Routes.Provision(ctx) }

func (a *inFrontAround) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return a.Routes.Compile(next).ServeHTTP(w, r)
}

// TestWhoStandsInFront: the header goes back to what it was if, and only if, a handler that
// is not Caddy's may have seen the request before. A template in front of all tells which.
func TestWhoStandsInFront(t *testing.T) {
	const (
		other   = `{"handler": "aventus_auth_test_in_front"}`
		respond = `{"handler": "static_response", "headers": {"Content-Type": ["text/plain"]}, ` +
			`"body": "theirs={{eq ` + "`Bearer theirs`" + ` (.Req.Header.Get ` + "`Authorization`" + `)}}"}`
		subroute = `{"handler": "subroute", "routes": [%s]}`
		never    = `"match": [{"path": ["/never"]}], `
	)
	route := func(fields string, handlers ...string) string {
		return `{` + fields + `"handle": [` + strings.Join(handlers, ", ") + `]}`
	}
	w := newWorld(t, setup{})
	b := w.browser()
	b.login("/")
	block := fmt.Sprintf(`{"handler": "aventus_auth", "client_id": "the-client", "client_secret": %q,
		"redirect_uri": "%s/oauth2/callback", "issuer": %q,
		"audience": "https://api.example.com/", "scopes": ["openid", "profile"]}`, testSecret, w.site,
		w.issuer.Issuer)
	another := strings.Replace(block, `{`, `{"unauthenticated": "pass", "session": {"name": "other"}, `, 1)
	for name, c := range map[string]struct {
		routes, named, errors string
		others                bool
	}{
		"nobody":            {routes: route("", block, respond)},
		"another block":     {routes: route("", another, block, respond)},
		"in front":          {routes: route("", other, block, respond), others: true},
		"behind":            {routes: route("", block, other, respond)},
		"in a route before": {routes: route("", other) + ", " + route("", block, respond), others: true},
		"in a route after":  {routes: route("", block) + ", " + route("", other, respond)},
		"in another site": {
			routes: route(never+`"terminal": true, `, other) + ", " + route("", block, respond),
		},
		"in another group": {routes: route(`"group": "a", `, other) + ", " +
			route(`"group": "b", `, block, respond), others: true},
		"in the same group": {
			routes: route(never+`"group": "a", `, other) + ", " + route(`"group": "a", `, block, respond),
		},
		"in front, and in the same group": {routes: route("", other, fmt.Sprintf(subroute,
			route(never+`"group": "a", `, other)+", "+route(`"group": "a", `, block, respond))), others: true},
		"by a matcher": {routes: route(never, other) + ", " + route("", block, respond), others: true},
		"around a subroute": {routes: route("", other, fmt.Sprintf(subroute, route("", block, respond))),
			others: true},
		"in a subroute before": {routes: route("", fmt.Sprintf(subroute, route("", other))) + ", " +
			route("", block, respond), others: true},
		"in a subroute that ends": {
			routes: route("", fmt.Sprintf(subroute, route(never+`"terminal": true, `, other))) + ", " +
				route("", block, respond),
		},
		"in a named route": {routes: route("", `{"handler": "invoke", "name": "a"}`, block, respond),
			named: route("", other), others: true},
		"before a named route": {routes: route("", other, `{"handler": "invoke", "name": "a"}`),
			named: route("", block, respond), others: true},
		"not before a named route": {routes: route("", `{"handler": "invoke", "name": "a"}`, other),
			named: route("", block, respond)},
		"a named route that loops": {routes: route("", `{"handler": "invoke", "name": "a"}`, block, respond),
			named: route(never, `{"handler": "invoke", "name": "a"}`)},
		"in routes nobody knows": {
			routes: route("", `{"handler": "aventus_auth_test_around", "routes": [`+route("", block, respond)+`]}`),
			others: true,
		},
		"in front of what failed": {routes: route("", other, `{"handler": "error", "status_code": 404}`),
			errors: route("", block, respond)},
		"among the error routes": {routes: route("", `{"handler": "error", "status_code": 404}`),
			errors: route("", other, block, respond), others: true},
		"in an intercept's, and not": {
			routes: route("", `{"handler": "intercept", "handle_response": [{"match": {"status_code": [599]}, `+
				`"routes": [`+route("", block, other)+`]}]}`, block, respond), others: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.named == "" {
				c.named = route("")
			}
			templates := `{"handler": "templates", "mime_types": ["text/plain"]}`
			server := ""
			if c.errors != "" {
				server = `, "errors": {"routes": [` + route("", templates) + ", " + c.errors + `]}`
			}
			config := fmt.Sprintf(`{"admin": {"disabled": true}, "storage": {"module": "file_system", "root": %q},
				"logging": {"logs": {"default": {"level": "ERROR"}}},
				"apps": {"http": {"servers": {"a": {"listen": [":%s"], "automatic_https": {"disable": true},
				"named_routes": {"a": %s}, "routes": [%s, %s]%s}}}}}`,
				filepath.Join(w.dir, "storage"), w.port, c.named, route("", templates), c.routes, server)
			if err := caddy.Load([]byte(config), true); err != nil {
				t.Fatalf("%v\n%s", err, config)
			}
			w.loads.Add(1)
			for range 2 { // found out, and remembered
				a := w.http1(request{headers: []string{"Cookie", b.cookieHeader(), "Authorization", "Bearer theirs"}})
				if want := fmt.Sprintf("theirs=%v", c.others); a.body != want {
					t.Errorf("status %d, %q, and not %q", a.StatusCode, a.body, want)
				}
			}
		})
	}
}

// TestErrorPagesAreCachedWithoutCookies: error routes that have caches keep their pages do so
// for the pages alone. A session's cookie that a cache gave to others would make them all one
// person, and one that deletes it would sign them out.
func TestErrorPagesAreCachedWithoutCookies(t *testing.T) {
	const public = "public, max-age=3600"
	for name, errors := range map[string]string{
		"plain": "header Cache-Control \"" + public + "\"\nrespond gone", "deferred": "header >Cache-Control \"" +
			public + "\"\nrespond gone",
		"after a hint": "header Cache-Control \"" + public + "\"\nrespond 103\nrespond gone",
	} {
		for _, block := range []string{
			"logout /logout\nsession {\nstore storage\nidle 1h\n}", "logout /logout\nsession {\nidle 1h\n}",
		} {
			w := newWorld(t, setup{sites: func(w *world) string { // with two blocks, which both seal it
				return w.site + " {\nheader Set-Cookie site=1\nroute {\n" + w.directive("", block) + "\n" +
					w.directive("/x/*", block) +
					"\nerror /x/* 404\nrespond ok\n}\nhandle_errors {\n" + errors + "\n}\n}"
			}})
			b := w.browser()
			b.login("/")
			w.clock.Add(20 * time.Minute)
			a := b.get("/x/nothing.css")
			w.expect(a, http.StatusNotFound)
			if got := a.Header["Set-Cookie"]; len(got) != 1 || got[0] != "site=1" ||
				a.Header.Get("Cache-Control") != public {
				t.Errorf("%s: %v", name, a.Header)
			}
			// The session lives, and its cookie comes with the next page.
			a = b.get("/")
			w.expect(a, http.StatusOK)
			if a.cookie("aventus_session") == nil || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %v", name, a.Header)
			}
			recover := w.storageFails()
			a = b.get("/logout")
			recover()
			w.expect(a, http.StatusServiceUnavailable)
			cleared := a.cookie("aventus_session")
			if cleared == nil || cleared.MaxAge >= 0 || a.Header.Get("Cache-Control") != "no-store" ||
				strings.Contains(a.body, "gone") {
				t.Errorf("%s: the logout: %q, %v", name, a.body, a.Header)
			}
		}
	}
}

// TestEncodeInFrontLeavesOneLineOfVary: encode before the block adds no line of its own to Vary. Of several, the
// cache of nginx before 1.23 heeds the last one alone, which would be Accept-Encoding: it would give everybody
// one person's page, where the site calls it public.
func TestEncodeInFrontLeavesOneLineOfVary(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "public, s-maxage=60")
		_, _ = io.WriteString(w, strings.Repeat("a page ", 200))
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, setup{caddyfile: "route {\nencode\n%s\nreverse_proxy " + app.Listener.Addr().String() + "\n}"})
	b := w.browser()
	b.login("/")
	for encoding, encoded := range map[string]string{"gzip": "gzip", "identity": ""} {
		a := b.do("GET", "/", "Accept-Encoding", encoding)
		w.expect(a, http.StatusOK)
		if got := a.Header["Vary"]; len(got) != 1 || got[0] != "Accept-Encoding, Cookie" ||
			a.Header.Get("Content-Encoding") != encoded {
			t.Errorf("%s: %v", encoding, a.Header)
		}
	}
}

// TestWhoStandsInFrontOnEachServer: a block that two servers share has what stands in front of it on each of them,
// whichever is asked first.
func TestWhoStandsInFrontOnEachServer(t *testing.T) {
	block := new(Handler)
	server := func(handlers ...caddyhttp.MiddlewareHandler) *caddyhttp.Server {
		return &caddyhttp.Server{Routes: caddyhttp.RouteList{{Handlers: append(handlers, block)}}}
	}
	plain, behind := server(), server(new(inFrontAround))
	check := &frontCheck{block: block}
	for range 2 {
		for server, others := range map[*caddyhttp.Server]bool{plain: false, behind: true} {
			r := httptest.NewRequest("GET", "/", nil)
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), server)
			if check.hasOthers(r) != others {
				t.Errorf("others are in front: %t, want %t", !others, others)
			}
		}
	}
}
