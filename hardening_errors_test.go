package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestErrorsBehindTheBlock: Caddy's file_server refuses a method that the matcher leaves out, and among the error
// routes it serves each of them; and Caddy gives these the path from before any rewrite. What is protected by GET, or
// by that path, is not shown to who came past the block by another method or path.
func TestErrorsBehindTheBlock(t *testing.T) {
	const preflight = "{\nnot {\nmethod OPTIONS\nheader Origin *\nheader Access-Control-Request-Method *\n}\n}"
	const files, nowhere = "file_server", "@none path /none\nrespond @none none"
	for _, c := range []struct{ before, matcher, behind, errors, method, want string }{
		{"", "not method OPTIONS", files, files, "OPTIONS", "405 Method Not Allowed\n"},
		{"", preflight, files, files, "OPTIONS", "405 Method Not Allowed\n"},
		{"", "method GET HEAD", files, files, "POST", "405 Method Not Allowed\n"},
		{"", "not method POST", files, files, "POST", "405 Method Not Allowed\n"},
		{"", "expression {http.request.orig_method} != 'POST'", files, files, "POST", "405 Method Not Allowed\n"},
		{"", "method GET", files, "try_files /errors/{err.status_code}.html {path}\nfile_server", "POST",
			"405 Method Not Allowed\n"},
		{"", "method GET", files, "handle_path /x/* {\nfile_server\n}\nfile_server", "POST",
			"405 Method Not Allowed\n"},
		{"", "method GET", "error /secret.txt 418", files, "POST", "418 I'm a teapot\n"},
		{"", "method GET", "rewrite /secret.txt /none\nreverse_proxy localhost:1", files, "POST",
			"502 Bad Gateway\n"},
		{"rewrite /secret.txt /public/none", "not path /public/*", files, files, "GET", "404 Not Found\n"},
		{"rewrite /secret.txt /public/none\nmethod POST", "{\nmethod GET\nnot path /public/*\n}", files, files,
			"GET", "404 Not Found\n"},
		// The error routes repeat what was rewritten in front of the block.
		{"uri strip_prefix /x", "{\nmethod GET\npath /secret.txt\n}", files, "uri strip_prefix /x\nfile_server",
			"POST /x", "405 Method Not Allowed\n"},

		// Error routes that show nothing by the path go on, and so does an error of what is public by any method.
		{"", "method GET", files, "rewrite /405.html\nfile_server", "POST", "405 page 405"},
		{"", "method GET", files, "respond {http.request.orig_uri}", "POST", "405 /secret.txt"},
		{"", "not path /secret.txt", files, files, "POST", "405 " + protectedBytes},
		{"", "not path /secret.txt", "rewrite /secret.txt /401.html\n" + files, files, "POST",
			"405 " + protectedBytes},
		{"", "method GET", nowhere, files, "POST", "200 "},
	} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: "root " + errorFiles(t) + "\nroute {\n" + c.before +
			"\n@m " + c.matcher + "\n%s\n" + c.behind + "\n}\nhandle_errors {\n" + c.errors + "\n}"})
		method, prefix, _ := strings.Cut(c.method, " ")
		a := w.http1(request{method: method, target: prefix + "/secret.txt", headers: []string{"Content-Length", "0",
			"Origin", "https://x.test", "Access-Control-Request-Method", "GET", "Accept", "application/json"}})
		if got := fmt.Sprint(a.StatusCode, " ", a.body); got != c.want {
			t.Errorf("%+v: answered %q", c, got)
		}
		isKept := strings.HasSuffix(c.want, http.StatusText(a.StatusCode)+"\n")
		if isKept != (a.Header.Get("Cache-Control") == "no-store") || isKept != strings.Contains(w.log(),
			"the error routes are not used for requests that the matcher leaves out") {
			t.Errorf("%+v: answered %v; logged %s", c, a.Header, w.log())
		}
		if isLogged := strings.Contains(w.log(), "a request that the matcher leaves out failed"); isLogged !=
			(a.StatusCode >= 500) {
			t.Errorf("%+v: its failure is logged: %t", c, isLogged)
		}
	}
}

// TestErrorsOfABlockBehind: a block behind one that leaves a request out has seen to it that the error routes show
// nothing for its own failure. They may answer it, whatever they do for other errors.
func TestErrorsOfABlockBehind(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroot " + errorFiles(t) + "\nroute {\n@get method GET\n" + w.directive("@get", "") + "\n" +
			w.directive("", "unauthenticated deny") + "\nfile_server\n}\nhandle_errors {\n" +
			"@ours vars {http.aventus_auth.error} login_required\nrewrite @ours /401.html\nfile_server\n}\n}"
	}})
	a := w.browser().do("POST", "/secret.txt")
	if w.expect(a, http.StatusUnauthorized); a.body != "page 401" {
		t.Errorf("answered %q", a.body)
	}
	b := w.browser()
	b.login("/401.html")
	a = b.do("POST", "/secret.txt") // which the second block lets through, and file_server refuses
	if w.expect(a, http.StatusMethodNotAllowed); a.body != "Method Not Allowed\n" {
		t.Errorf("who is signed in is answered %q", a.body)
	}
}

// TestErrorsBehindTheBlockInASubroute is TestErrorsBehindTheBlock for error routes of a subroute, which get the path
// as it was rewritten.
func TestErrorsBehindTheBlockInASubroute(t *testing.T) {
	w, load := jsonWorld(t)
	load("", `{"handle": [`+jsonRoot+`, {"handler": "rewrite", "uri": "/secret.txt"}, {"handler": "subroute",
		"routes": [{"handle": [%get, {"handler": "rewrite", "uri": "/me"}, `+jsonFiles+`]}],
		"errors": {"routes": [{"handle": [`+jsonFiles+`]}]}}]}`)
	a := w.browser().do("POST", "/x")
	if w.expect(a, http.StatusMethodNotAllowed); a.body != "Method Not Allowed\n" {
		t.Errorf("answered %q", a.body)
	}
}

// TestErrorRoutesByVaryingHost: a host matcher with a placeholder, which matches when a request is
// refused and not when the error routes ask it, or the other way round, decides nothing.
func TestErrorRoutesByVaryingHost(t *testing.T) {
	dir := errorFiles(t)
	for name, tc := range map[string]struct{ before, errors, want string }{
		"set among the error routes": {"vars h localhost",
			"vars h other.test\n@page host {vars.h}\nrewrite @page /401.html\nfile_server", signIn},
		"set to the host there": {"vars h other.test",
			"vars h localhost\n@leave not host {vars.h}\nrewrite @leave /401.html\nfile_server", signIn},
		"within a name": {"vars h local",
			"vars h other\n@page host {vars.h}host\nrewrite @page /401.html\nfile_server", signIn},
		"by a header": {
			"request_header X-Host localhost",
			"request_header X-Host other.test\n@page host {header.X-Host}\nrewrite @page /401.html\nfile_server",
			signIn,
		},
		"by the environment": {"", "@page host {$TEST_HOST}\nrewrite @page /401.html\nfile_server", "page 401"},
		"by the environment, later": {
			"", "@page host {env.TEST_HOST}\nrewrite @page /401.html\nfile_server", "page 401",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TEST_HOST", "localhost")
			w := newWorld(t, setup{caddyfile: "root " + dir + "\nroute {\n" + tc.before + "\n%s\nfile_server\n}\n" +
				"handle_errors {\nroute {\n" + tc.errors + "\n}\n}"})
			a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
			w.expect(a, http.StatusUnauthorized)
			if a.body != tc.want {
				t.Errorf("answered %q, want %q", a.body, tc.want)
			}
		})
	}
}

// TestErrorsLeadNowhereElse: an error route that needs a login itself, and one that
// leads back to what failed, end; neither lets anybody in.
func TestErrorsLeadNowhereElse(t *testing.T) {
	w := newWorld(t, setup{https: true, sites: func(w *world) string {
		return w.site + " {\ntls internal\n" + w.directive("", "unauthenticated deny\nlogout /logout") +
			"\nreverse_proxy " + w.app +
			"\nhandle_errors {\nrewrite /private\n" + w.directive("", "logout /logout") + "\nreverse_proxy " +
			w.app + "\n}\n}"
	}})
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, r := range []request{{}, {method: "POST", body: "x"}, {target: "/oauth2/callback?state=x&code=y"},
			{target: "/logout", headers: []string{"Sec-Fetch-Site", "cross-site"}}} {
			a := send(r)
			if a.StatusCode < 300 || strings.Contains(a.body, "the app") {
				t.Errorf("%+v: status %d, %s", r, a.StatusCode, a.body)
			}
		}
	})
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
}

// TestErrorRoutesShowNothing: a site's error routes see the path that was asked for
// (Caddy restores it), so what serves a file or asks the app there would do so for who
// was refused. Those refusals are answered without the error routes.
func TestErrorRoutesShowNothing(t *testing.T) {
	for name, routes := range map[string]string{
		"files":                     "file_server",
		"files of a root":           "root %dir\nfile_server",
		"files that may be missing": "route {\nfile_server {\npass_thru\n}\nrespond gone\n}",
		"a page, and else the file": "route {\nrewrite /nothing-here?\nfile_server {\npass_thru\n}\n" +
			"route {\nrewrite {http.request.orig_uri.path}\nfile_server\n}\n}",
		"a listing":                    "file_server browse",
		"the app":                      "reverse_proxy %app",
		"the app, with its own path":   "rewrite /x{uri}\nuri strip_prefix /x\nreverse_proxy %app",
		"try_files":                    "try_files {path} /401.html\nfile_server",
		"try_files by name":            "try_files {path}.html /401.html\nfile_server",
		"try_files that finds nothing": "try_files /nothing-here.html\nfile_server",
		"a page for some":              "@json header Accept nothing\nrewrite @json /error.json\nfile_server",
		"a page for other errors": "@other expression {err.status_code} == 404\nrewrite @other /401.html\n" +
			"file_server",
		"only these errors": "@ours expression {err.status_code} in [400, 401, 405]\nhandle @ours {\n" +
			"file_server\n}\nrespond other",
		"our errors": "@ours vars {http.aventus_auth.error} login_required invalid_state method_not_allowed\nroute " +
			"{\nfile_server @ours\nrespond other\n}",
		"our errors by expression": "@ours vars_regexp {http.aventus_auth.error} .\nroute {\n" +
			"file_server @ours\nrespond other\n}",
		"a rewrite to the path": "rewrite {http.request.orig_uri.path}\nfile_server",
		"a rewrite by a header": "rewrite {http.request.header.X-Page}\nfile_server",
		"a rewrite by the host": "rewrite /{host}\nfile_server",
		"a rewrite by a regexp": "@p path_regexp p ^/(.*)$\nrewrite @p /{re.p.1}\nfile_server",
		"a variable":            "vars page {path}\nrewrite {vars.page}\nfile_server",
		"a map": "map {path} {page} {\n~^/(.*)$ /$1\ndefault /401.html\n}\n" +
			"rewrite {page}\nfile_server",
		"a map that repeats":   "map {path} {page} {\ndefault {path}\n}\nrewrite {page}\nfile_server",
		"a root by the path":   "root %dir{path}/..\nrewrite /secret.txt\nfile_server",
		"a regexp of the path": "uri path_regexp ^/oauth2 /\nfile_server",
		"a file matcher": "@f file {path}\nhandle @f {\nrewrite {file_match.relative}\n" +
			"file_server\n}\nrespond none",
		"a file by expression": "@f expression `file({'try_files': ['/nothing', {path}]})`\n" +
			"handle @f {\nrewrite {file_match.relative}\nfile_server\n}\nrespond none",
		"nested":            "handle {\nroute {\nhandle {\nfile_server\n}\n}\n}",
		"a snippet":         "import bare",
		"a named route":     "invoke bare",
		"templates":         "templates\nfile_server",
		"encode and header": "encode gzip\nheader X-Error yes\nfile_server",
		"intercept": "intercept {\nhandle_response {\nrewrite {http.request.orig_uri.path}\n" +
			"file_server\n}\n}\nrespond x",
		"php": "rewrite /401.html?\nphp_fastcgi %app",
		"php's app": "rewrite /index.php?\nreverse_proxy %app {\ntransport fastcgi {\n" +
			"split .php\n}\n}",
		"the path in a header": "rewrite /errors/page?\nreverse_proxy %app {\n" +
			"header_up X-Original-URL {http.request.orig_uri}\n}",
		"the path in a header before": "request_header X-Original-URL {http.request.orig_uri}\n" +
			"rewrite /errors/page?\nreverse_proxy %app",
		"the path in the query": "rewrite /errors/page?at={http.request.orig_uri.path}\nreverse_proxy %app",
		"an answer of an upstream": "rewrite /errors/page?\nreverse_proxy %app {\nhandle_response {\n" +
			"rewrite {http.request.orig_uri.path}\nfile_server\n}\n}",
		"a handler that is not known": "metrics",
	} {
		t.Run(name, func(t *testing.T) {
			dir := errorFiles(t)
			routes := strings.ReplaceAll(routes, "%dir", dir)
			w := newWorld(t, setup{sites: func(w *world) string {
				return strings.ReplaceAll("(bare) {\nfile_server\n}\n&(bare) {\nfile_server\n}\n"+w.site+" {\n"+
					"root "+dir+"\n"+
					w.directive("", "logout /logout\nprofile /me")+"\nhandle /app/* {\nreverse_proxy %app\n}\n"+
					"file_server\nhandle_errors {\n"+routes+"\n}\n}", "%app", w.app)
			}})
			for _, request := range []struct {
				method, target string
				status         int
				want           string
			}{
				{"GET", "/secret.txt", http.StatusUnauthorized, signIn},
				{"HEAD", "/secret.txt", http.StatusUnauthorized, ""},
				{"POST", "/app/secret", http.StatusUnauthorized, signIn},
				{"GET", "/app/secret", http.StatusUnauthorized, signIn},
				{"GET", "/app/secret?x", http.StatusUnauthorized, signIn},
				{"GET", "/me", http.StatusUnauthorized, signIn},
				{"GET", "/oauth2/callback?state=x&code=y", http.StatusBadRequest, notHere},
				{"DELETE", "/logout", http.StatusMethodNotAllowed,
					"This address does not accept this kind of request.\n"},
			} {
				a := w.browser().do(request.method, request.target, "Accept", "application/json", "X-Page",
					"/secret.txt")
				w.expect(a, request.status)
				if a.body != request.want {
					t.Errorf("%s %s: answered %q, want %q", request.method, request.target, a.body, request.want)
				}
				for name, want := range map[string]string{
					"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store",
					"X-Content-Type-Options": "nosniff",
				} {
					if got := a.Header.Get(name); got != want {
						t.Errorf("%s %s: %s: %q, want %q", request.method, request.target, name, got, want)
					}
				}
				if challenge := a.Header.Get("WWW-Authenticate"); (challenge == "Bearer") !=
					(request.status == http.StatusUnauthorized) {
					t.Errorf("%s %s: WWW-Authenticate: %q", request.method, request.target, challenge)
				}
			}
			if seen := w.requests(); len(seen) != 0 {
				t.Errorf("the app was asked for %s", seen[0].URL)
			}
			if n := strings.Count(w.log(), "the error routes are not used"); n != 1 {
				t.Errorf("it is logged %d times", n)
			}
			// Who is signed in gets the site's own errors.
			b := w.browser()
			b.login("/app/")
			if a := b.get("/secret.txt"); a.body != protectedBytes {
				t.Errorf("a visitor who is signed in gets %d %q", a.StatusCode, a.body)
			}
		})
	}
}
