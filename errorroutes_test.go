package aventusauth

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

const protectedBytes = "the protected bytes"

// errorFiles makes a folder of a site's files, with error pages among them.
func errorFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"secret.txt": protectedBytes, "secret.html": protectedBytes, "index.html": protectedBytes,
		"app/secret": protectedBytes, "oauth2/callback": protectedBytes, "logout": protectedBytes,
		"me":       protectedBytes,
		"401.html": "page 401", "400.html": "page 400", "405.html": "page 405", "403.html": "page 403",
		"errors/page.html": `{{placeholder "http.error.status_code"}} {{placeholder "http.aventus_auth.error"}}`,
		"errors/401.html":  "page 401", "localhost/401.html": "page 401", "error.json": `{"error": true}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	signIn  = "You need to sign in.\n"
	notHere = "This sign-in was not started here. Start again from the site.\n"
)

// TestErrorPagesGoOn: error pages that do not depend on what was asked for are shown
// as before, byte for byte.
func TestErrorPagesGoOn(t *testing.T) {
	for name, test := range map[string]struct{ routes, want string }{
		"a rewrite":              {"rewrite * /{err.status_code}.html\nfile_server", "page 401"},
		"a rewrite below a root": {"root %dir/errors\nrewrite * /{err.status_code}.html\nfile_server", "page 401"},
		"a root by the host": {"root %dir/{host}\nrewrite * /../errors/{err.status_code}.html\n" +
			"file_server", ""},
		"respond":   {`respond "{err.status_code} {http.aventus_auth.error} {uri}"`, "401 login_required /secret.txt"},
		"templates": {"rewrite * /errors/page.html\ntemplates\nfile_server", "401 login_required"},
		"JSON for a path": {"@api path /secret*\nhandle @api {\nrespond `{\"error\": 1}`\n}\n" +
			"handle {\nrewrite * /401.html\nfile_server\n}", `{"error": 1}`},
		"JSON for others": {"@api path /api/*\nhandle @api {\nrespond `{\"error\": 1}`\n}\nhandle {\n" +
			"rewrite * /401.html\nfile_server\n}", "page 401"},
		"rewrites for some": {"@json header Accept *json*\nrewrite @json /error.json\n" +
			"rewrite /401.html\nfile_server", `{"error": true}`},
		"for our own codes": {"@ours vars {http.aventus_auth.error} login_required\n" +
			"rewrite @ours /401.html\nrewrite * /error.json\nfile_server", "page 401"},
		"files for other errors": {"@ours vars_regexp {http.aventus_auth.error} .\nhandle @ours {\n" +
			"respond ours\n}\nhandle {\nfile_server\n}", "ours"},
		"other errors by expression": {"@ours expression `{http.aventus_auth.error} != \"\"`\nhandle @ours {\n" +
			"respond ours\n}\nhandle {\nfile_server\n}", "ours"},
		"other errors by vars": {"@other vars {http.aventus_auth.error} \"\"\nhandle @other {\n" +
			"file_server\n}\nhandle {\nrespond ours\n}", "ours"},
		"a file that is there": {"@page file /errors/{err.status_code}.html /401.html\nhandle @page {\n" +
			"rewrite * {file_match.relative}\nfile_server\n}\nrespond none", "page 401"},
		"try_files after a rewrite": {"rewrite * /{err.status_code}.html\ntry_files {path} /errors/page.html\n" +
			"file_server", "page 401"},
		"the first rewrite alone": {"@ours vars {http.aventus_auth.error} login_required\nrewrite @ours /401.html\n" +
			"rewrite {http.request.orig_uri.path}\nfile_server", "page 401"},
		"a map of words": {"map {err.status_code} {page} {\n401 /401.html\ndefault /error.json\n}\n" +
			"rewrite {page}\nfile_server", "page 401"},
		"a variable": {"vars page /{err.status_code}.html\nrewrite {vars.page}\n" +
			"file_server", "page 401"},
		"nested": {"handle {\nroute {\nrewrite * /401.html\nencode gzip\n" +
			"header X-Error yes\nhandle {\nfile_server\n}\n}\n}", "page 401"},
		"a snippet":     {"import page", "page 401"},
		"a named route": {"invoke page", "page 401"},
		"handle_path": {"handle_path /secret* {\nrewrite * /401.html\nfile_server\n}\n" +
			"respond other", "page 401"},
		"nothing":     {"header X-Error yes", ""},
		"early hints": {"respond early 103\nrewrite * /401.html\nfile_server", "page 401"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := errorFiles(t)
			page := "{\nrewrite * /{err.status_code}.html\nfile_server\n}\n"
			w := newWorld(t, setup{sites: func(w *world) string {
				return "(page) " + page + "&(page) " + page + w.site + " {\nroot " + dir + "\n" + w.directive("", "") +
					"\nfile_server\nhandle_errors {\n" + strings.ReplaceAll(test.routes, "%dir", dir) + "\n}\n}"
			}})
			for _, target := range []string{"/secret.txt", "/secret.txt?x"} {
				a := w.browser().do("GET", target, "Accept", "application/json")
				if want := strings.Replace(test.want, "/secret.txt", target, 1); a.StatusCode !=
					http.StatusUnauthorized || a.body != want {
					t.Errorf("%s: answered %d %q, want %q", target, a.StatusCode, a.body, want)
				}
			}
			if strings.Contains(w.log(), "the error routes are not used") {
				t.Error("the log says that the error routes are not used")
			}
		})
	}
}

// TestErrorRoutesOfOthers: what stands among the error routes for other statuses, or
// for other sites on the same server, changes no refusal; and no error but a refusal
// is answered without them.
func TestErrorRoutesOfOthers(t *testing.T) {
	dir := errorFiles(t)
	w := newWorld(t, setup{sites: func(w *world) string {
		return fmt.Sprintf("%s {\nroot %s\n%s\nfile_server\nhandle_errors 404 5xx {\n"+
			"try_files /errors{path} {path}.html\nfile_server\n}\nhandle_errors {\nrespond ours\n}\n}\n"+
			"http://127.0.0.1:%s {\nroot %s\nfile_server\nhandle_errors {\nfile_server\n}\n"+
			"}", w.site, dir, w.directive("", ""), w.port, dir)
	}})
	a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
	if w.expect(a, http.StatusUnauthorized); a.body != "ours" {
		t.Errorf("a refusal is answered %q", a.body)
	}
	b := w.browser()
	b.login("/")
	if a = b.get("/secret"); a.StatusCode != http.StatusNotFound || a.body != protectedBytes {
		t.Errorf("an error that is none of ours is answered %d %q", a.StatusCode, a.body)
	}
	if strings.Contains(w.log(), "the error routes are not used") {
		t.Error("the log says that the error routes are not used")
	}
}

// TestErrorRoutesAsk: an upstream that serves error pages is asked for the page of the
// site's choice, and gets nothing of the visitor's.
func TestErrorRoutesAsk(t *testing.T) {
	const withPage = "handle_errors {\nrewrite * /errors/{err.status_code}%s\nreverse_proxy %%app {\n" +
		"header_up Host {upstream_hostport}\nreplace_status {err.status_code}\n}\n}"
	headers := []string{
		"Accept", "application/json", "Authorization", "Bearer made-up", "Cookie", "aventus_session=x; app=y",
		"X-Original-URL", "/secret",
		"X-HTTP-Method-Override", "DELETE", "Connection", "Upgrade", "Upgrade", "websocket",
	}
	for _, query := range []string{"", "?"} {
		w := newWorld(t, setup{block: "logout /logout", caddyfile: "%s\n" +
			"reverse_proxy %app\n" + fmt.Sprintf(withPage, query)})
		for _, request := range []struct {
			method, target string
			asks           bool
		}{
			{"GET", "/secret", true},
			{"HEAD", "/secret", true},
			{"GET", "/secret?page=1", query == "?"},
			{"GET", "/oauth2/callback?state=x&code=y", query == "?"},
			{"POST", "/secret", false},
			{"DELETE", "/secret", false},
		} {
			a := w.browser().do(request.method, request.target, headers...)
			seen := w.requests()
			if !request.asks {
				if len(seen) != 0 || strings.Contains(a.body, "the app") || a.StatusCode < 400 {
					t.Errorf("%s %s: the upstream saw %v; answered %d %s", request.method, request.target, seen,
						a.StatusCode, a.body)
				}
				continue
			}
			if len(seen) != 1 || !strings.HasPrefix(seen[0].RequestURI, "/errors/4") ||
				strings.Contains(seen[0].RequestURI, "?") || seen[0].Method != request.method {
				t.Fatalf("%s %s: the upstream saw %v", request.method, request.target, seen)
			}
			for name := range seen[0].Header {
				switch name {
				case "Accept", "Accept-Encoding", "User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Host",
					"X-Forwarded-Proto":
				default:
					t.Errorf("%s %s: the upstream saw %s: %s", request.method, request.target, name,
						seen[0].Header[name])
				}
			}
			if a.StatusCode < 400 || request.method == "GET" && a.body != "the app" {
				t.Errorf("%s %s: answered %d %q", request.method, request.target, a.StatusCode, a.body)
			}
		}
		a := w.raw("GET /secret HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nConnection: close\r\n" +
			"Accept: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
		if seen := w.requests(); len(seen) != 0 || a.body != signIn {
			t.Errorf("with a body: the upstream saw %v; answered %q", seen, a.body)
		}
	}
}

// TestRefusalReadsNoBody: a refusal does not wait for a body that may never come.
func TestRefusalReadsNoBody(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app\n" +
		"handle_errors {\nrewrite * /errors/{err.status_code}?\nmethod GET\nreverse_proxy %app\n}"})
	for _, method := range []string{"GET", "POST"} {
		a := w.raw(method + " /x HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nConnection: close\r\n" +
			"Accept: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
		if seen := w.requests(); a.StatusCode != http.StatusUnauthorized || a.body != signIn || len(seen) != 0 {
			t.Errorf("%s: answered %d %q; the upstream saw %v", method, a.StatusCode, a.body, seen)
		}
	}
}

// TestErrorRoutesOfACopy: Caddy gives the error routes the server's own request, and a handler in front, as tracing,
// may have handed on a copy. What is withheld of the copy alone would be sent: then no upstream is asked.
func TestErrorRoutesOfACopy(t *testing.T) {
	p := newParts(t)
	page := []caddyhttp.MiddlewareHandler{
		&rewrite.Rewrite{URI: "/errors?"}, &reverseproxy.Handler{Transport: new(reverseproxy.HTTPTransport)},
	}
	server := &caddyhttp.Server{
		Errors: &caddyhttp.HTTPErrorConfig{Routes: caddyhttp.RouteList{{Handlers: page}}},
	}
	for _, c := range []struct {
		what  string
		major int
		front func(*http.Request) *http.Request
		want  bool
	}{
		{"itself", 1, func(r *http.Request) *http.Request { return r }, true},
		{"itself", 3, func(r *http.Request) *http.Request { return r }, true},
		{"a copy", 1, func(r *http.Request) *http.Request { return r.WithContext(r.Context()) }, true},
		{"a copy", 3, func(r *http.Request) *http.Request { return r.WithContext(r.Context()) }, false},
		{"a clone", 1, func(r *http.Request) *http.Request { return r.Clone(r.Context()) }, false},
		{"a clone", 3, func(r *http.Request) *http.Request { return r.Clone(r.Context()) }, false},
	} {
		r := p.request("GET", "/secret", "Cookie", "session=x", "X-Other", "other")
		r.ProtoMajor = c.major
		if c.major == 3 {
			r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader("smuggled"))
		}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), server)
		w := httptest.NewRecorder()
		err := p.answers.fail(w, c.front(r), errLoginRequired, nil)
		if got := err != nil; got != c.want {
			t.Errorf("HTTP/%d, %s: the error routes are used: %t", c.major, c.what, got)
		}
		if body, _ := io.ReadAll(r.Body); err != nil && (len(body) > 0 || len(r.Header) > 0) {
			t.Errorf("HTTP/%d, %s: the upstream is sent %q, %v", c.major, c.what, body, r.Header)
		}
	}
}
