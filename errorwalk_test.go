package aventusauth

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// jsonWorld is a world whose configs are JSON, which says more than a Caddyfile can.
// Its load replaces %block, %get, which is a block for GET alone, and %dir, which is a folder of errorFiles.
func jsonWorld(t *testing.T) (w *world, load func(errors, routes string)) {
	t.Helper()
	w = newWorld(t, setup{})
	dir := errorFiles(t)
	return w, func(errors, routes string) {
		t.Helper()
		block := fmt.Sprintf(`{"handler": "aventus_auth", "client_id": "the-client", "client_secret": "%s", `+
			`"redirect_uri": "%s/oauth2/callback", "issuer": "%s"}`, testSecret, w.site, w.issuer.Issuer)
		config := fmt.Sprintf(`{"admin": {"disabled": true}, "storage": {"module": "file_system", "root": %q},
			"logging": {"logs": {"default": {"level": "ERROR"}}},
			"apps": {"http": {"servers": {"a": {"listen": [":%s"], "automatic_https": {"disable": true},
				"errors": {"routes": [%s]}, "routes": [%s], "named_routes": {
					"gate": {"handle": [%%block]},
					"inner": {"handle": [{"handler": "headers", "response": {"set": {"X-Error": ["yes"]}}}]}
				}}}}}}`, filepath.Join(w.dir, "storage"), w.port, errors, routes)
		config = strings.NewReplacer("%block", block, "%get", strings.TrimSuffix(block, "}")+
			`, "match": [{"method": ["GET"]}]}`, "%dir", dir, "%app", w.app).Replace(config)
		if err := caddy.Load([]byte(config), true); err != nil {
			t.Fatal(err)
		}
		w.loads.Add(1)
	}
}

const (
	jsonFiles   = `{"handler": "file_server"}`
	jsonRoot    = `{"handler": "vars", "root": "%dir"}`
	jsonPage    = `{"handler": "rewrite", "uri": "/401.html"}`
	jsonMissing = `{"handler": "rewrite", "uri": "/nothing-here"}`
	jsonHeaders = `{"handler": "headers", "response": {"set": {"X-Error": ["yes"]}}}`
	jsonProxy   = `{"handler": "reverse_proxy", "upstreams": [{"dial": "%app"}]}`
)

// TestErrorRoutesOfSubroutes: in a JSON config, a subroute may have error routes of
// its own, which see the request as it is there.
func TestErrorRoutesOfSubroutes(t *testing.T) {
	const files, page, missing = jsonFiles, jsonPage, jsonMissing
	w, load := jsonWorld(t)
	for _, test := range []struct{ errors, serverErrors, want string }{
		{errors: `{"handle": [` + files + `]}`, want: signIn},
		{errors: `{"handle": [` + page + `, ` + files + `]}`, want: "page 401"},
		// The group is satisfied already.
		{errors: `{"group": "page", "handle": [` + page + `]}, {"handle": [` + files + `]}`, want: signIn},
		{errors: `{"match": [{"host": ["other.test"]}], "handle": [` + files +
			`]}, {"handle": [{"handler": "static_response", "body": "x"}]}`, want: "x"},
		// One error makes another, which is not told apart from ours by its status.
		{
			errors:       `{"handle": [` + missing + `, ` + files + `]}`,
			serverErrors: `{"match": [{"expression": "{http.error.status_code} == 404"}], "handle": [` + files + `]}`,
			want:         signIn,
		},
		{
			errors: `{"handle": [{"handler": "subroute", "routes": [{"handle": [` + missing + `, ` + files +
				`]}], "errors": {"routes": [
				{"match": [{"expression": "{http.error.status_code} == 404"}],
				"handle": [{"handler": "rewrite", "uri": "{http.request.orig_uri.path}"}, ` + files + `]}]}}]}`,
			want: signIn,
		},
		{
			errors: `{"handle": [{"handler": "subroute", "routes": [
				{"handle": [{"handler": "error", "error": "{http.request.orig_uri.path}", "status_code": 404}]}],
				"errors": {"routes": [{"handle": [{"handler": "rewrite", "uri": "{http.error.message}"}, ` +
				files + `]}]}}]}`,
			want: signIn,
		},
	} {
		load(test.serverErrors, `{"group": "page", "handle": [`+jsonRoot+`, {"handler": "subroute",
			"routes": [{"handle": [%block, `+files+`]}], "errors": {"routes": [`+test.errors+`]}}]}`)
		if a := w.browser().do("GET", "/secret.txt", "Accept", "application/json"); a.StatusCode !=
			http.StatusUnauthorized || a.body != test.want {
			t.Errorf("%+v: answered %d %q", test, a.StatusCode, a.body)
		}
	}
}

// TestErrorRoutesBehindIntercept: an intercept around a subroute gets what the subroute's error routes answer, and
// could serve the protected file in its place. It does not get the module's own answer.
func TestErrorRoutesBehindIntercept(t *testing.T) {
	w, load := jsonWorld(t)
	load("", `{"handle": [`+jsonRoot+`, {"handler": "intercept", "handle_response": [{"match": {"status_code": [401]},
		"routes": [{"handle": [{"handler": "rewrite", "uri": "{http.request.orig_uri.path}"}, `+jsonFiles+`]}]}]},
		{"handler": "subroute", "routes": [{"handle": [%block, `+jsonFiles+`]}],
		"errors": {"routes": [{"handle": [`+jsonPage+`, `+jsonFiles+`]}]}}]}`)
	a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
	if a.StatusCode != http.StatusUnauthorized || a.body != signIn {
		t.Errorf("answered %d %q", a.StatusCode, a.body)
	}
}

// TestErrorRoutesFallThrough: what a subroute's error routes do not answer, Caddy hands
// on to the handlers behind the subroute. Those are what the block in it protects.
func TestErrorRoutesFallThrough(t *testing.T) {
	const inner = `{"handler": "subroute", "routes": [{"handle": [%block]}], "errors": {"routes": [%errors]}}`
	w, load := jsonWorld(t)
	for name, errors := range map[string]string{
		"none":         ``,
		"headers only": `{"handle": [` + jsonHeaders + `]}`,
		"for 5xx only": `{"match": [{"expression": "{http.error.status_code} >= 500"}], "handle": [{"handler": ` +
			`"static_response", "body": "x"}]}`,
		"for some": `{"match": [{"path": ["/other"]}], "handle": [{"handler": "static_response", "body": "x"}]}`,
		"a file that may be missing": `{"handle": [` + jsonMissing + `, {"handler": "file_server", "pass_thru": true},
			{"handler": "rewrite", "uri": "/secret.txt"}]}`,
		"early hints":   `{"handle": [{"handler": "static_response", "status_code": 103}]}`,
		"a named route": `{"handle": [{"handler": "invoke", "name": "inner"}]}`,
		"a subroute":    `{"handle": [{"handler": "subroute", "routes": [{"handle": [` + jsonHeaders + `]}]}]}`,
		"their own errors": `{"handle": [{"handler": "subroute", "routes": [
			{"handle": [{"handler": "error", "status_code": 404}]}],
			"errors": {"routes": [{"handle": [` + jsonHeaders + `]}]}}]}`,
	} {
		for place, routes := range map[string]string{
			"files":   `{"handle": [` + jsonRoot + `, ` + inner + `, ` + jsonFiles + `]}`,
			"the app": `{"handle": [` + inner + `]}, {"handle": [` + jsonProxy + `]}`,
			"outside, the app": `{"handle": [{"handler": "subroute", "routes": [{"handle": [` + inner + `]}]}, ` +
				jsonProxy + `]}`,
			"by a named route": `{"handle": [` +
				strings.Replace(inner, "%block", `{"handler": "invoke", "name": "gate"}`, 1) + `, ` + jsonProxy + `]}`,
			"two with errors": `{"handle": [{"handler": "subroute", "routes": [{"handle": [` +
				strings.Replace(inner, "%errors",
					`{"handle": [{"handler": "error", "status_code": 404}]}`, 1) +
				`]}], "errors": {"routes": [%errors]}}, ` + jsonProxy + `]}`,
			"after an answer": `{"handle": [{"handler": "intercept", "handle_response": [{"routes": [{"handle": [` +
				inner + `, ` +
				jsonProxy + `]}]}]}, {"handler": "static_response", "body": "x"}]}`,
		} {
			load("", strings.ReplaceAll(routes, "%errors", errors))
			w.requests()
			for _, request := range [][2]string{{"GET", "/secret.txt"}, {"POST", "/app/secret"}} {
				a := w.browser().do(request[0], request[1], "Accept", "application/json")
				if seen := w.requests(); a.StatusCode != http.StatusUnauthorized || a.body != signIn ||
					len(seen) != 0 {
					t.Errorf("%s before %s: %s: answered %d %q; the app saw %v", name, place, request[0], a.StatusCode,
						a.body, seen)
				}
			}
		}
	}
	// A route that ends there is no danger, and neither is the server's own.
	const ends = `{"terminal": true, "handle": [` + jsonHeaders + `]}`
	for _, errors := range [][2]string{
		{"", ends}, {`{"handle": [` + jsonHeaders + `]}`, `{"handle": [{"handler": "error", "status_code": 401}]}`},
	} {
		load(errors[0], `{"handle": [`+strings.Replace(inner, "%errors", errors[1], 1)+`, `+jsonProxy+`]}`)
		a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
		if seen := w.requests(); a.StatusCode != http.StatusUnauthorized || a.body != "" ||
			a.Header.Get("X-Error") != "yes" || len(seen) != 0 {
			t.Errorf("%v: answered %d %q, %v; the app saw %v", errors, a.StatusCode, a.body, a.Header, seen)
		}
	}
}

// TestErrorRoutesWhereverRefused: it does not matter where the block stands that
// refuses, nor whether the visitor is signed in.
func TestErrorRoutesWhereverRefused(t *testing.T) {
	const lacks = "You are signed in, but lack the scope root.\n"
	for name, test := range map[string]struct{ site, want, signedIn string }{
		"two blocks":           {"%scoped\n%block\nfile_server", signIn, lacks},
		"two blocks, in a row": {"route {\n%block\n%scoped\nfile_server\n}", signIn, lacks},
		"rewritten before":     {"route {\nrewrite * /index.html\n%block\nfile_server\n}", signIn, protectedBytes},
		"below handle_path": {"handle_path /app/* {\nfile_server\n}\nhandle {\n%scoped\n%block\nfile_server\n" +
			"}", signIn, lacks},
		"a named route": {"invoke gate", signIn, protectedBytes},
		"after an answer": {"route {\nreverse_proxy %app {\nhandle_response {\n%block\nfile_server\n}\n}\n" +
			"}", signIn, protectedBytes},
		"behind other things": {"log\nroute {\nencode gzip\nheader X-Site yes\ntemplates\n%block\nfile_server\n" +
			"}", signIn, protectedBytes},
	} {
		t.Run(name, func(t *testing.T) {
			dir := errorFiles(t)
			w := newWorld(t, setup{sites: func(w *world) string {
				return strings.NewReplacer("%scoped", w.directive("/secret.txt", "require_scope root"), "%block",
					w.directive("", ""), "%app", w.app).Replace(
					"&(gate) {\nroute {\n%block\nfile_server\n}\n}\n" + w.site + " {\n" +
						"root " + dir + "\n" + test.site + "\nhandle_errors {\nfile_server\n}\n}")
			}})
			a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
			if w.expect(a, http.StatusUnauthorized); a.body != test.want {
				t.Errorf("answered %q, want %q", a.body, test.want)
			}
			b := w.browser()
			b.login("/index.html")
			if a = b.get("/secret.txt"); a.body != test.signedIn {
				t.Errorf("who is signed in is answered %d %q, want %q", a.StatusCode, a.body, test.signedIn)
			}
		})
	}
}

// TestErrorRoutesOfTwoHosts: what the error routes may answer at one host says nothing of another.
func TestErrorRoutesOfTwoHosts(t *testing.T) {
	dir := errorFiles(t)
	w := newWorld(t, setup{sites: func(w *world) string {
		return "http://*.localhost:" + w.port + ", " + w.site + " {\nroot " + dir + "\n" +
			w.directive("", "") + "\nfile_server\n" +
			"handle_errors {\n@page host localhost\nrewrite @page /{err.status_code}.html\nfile_server\n}\n}"
	}})
	for range 2 {
		a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
		w.expect(a, http.StatusUnauthorized)
		if a.body != "page 401" {
			t.Errorf("answered %q", a.body)
		}
		a = w.browser().do("GET", "/secret.txt", "Accept", "application/json", "Host", "a.localhost:"+w.port)
		w.expect(a, http.StatusUnauthorized)
		if a.body != signIn {
			t.Errorf("the other host answered %q", a.body)
		}
	}
}
