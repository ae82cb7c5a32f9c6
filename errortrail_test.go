package aventusauth

import (
	"net/http"
	"testing"
)

// TestErrorRoutesByAVariable: a variable of the site's routes may have been made of the
// root, which may depend on the request.
func TestErrorRoutesByAVariable(t *testing.T) {
	dir := errorFiles(t)
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroute {\nroot /x{path}\nvars page {vars.root}\nroot " + dir + "\n" + w.directive("", "") +
			"\nfile_server\n}\nhandle_errors {\nroute {\nroot " + dir +
			"\nrewrite {vars.page}\nuri strip_prefix /x\nfile_server\n}\n}\n}"
	}})
	a := w.browser().do("GET", "/secret.txt", "Accept", "application/json")
	if w.expect(a, http.StatusUnauthorized); a.body != signIn {
		t.Errorf("answered %q", a.body)
	}
}

// TestErrorRoutesAfterOthers: what the site's other routes leave behind decides what the error routes show:
// each of the places that set a variable, and the first of the maps.
func TestErrorRoutesAfterOthers(t *testing.T) {
	dir := errorFiles(t)
	for name, site := range map[string]string{
		"a variable": "route {\nvars page {path}\n@never path /never\n" +
			"vars @never page /401.html\n%s\nfile_server\n}\n" +
			"handle_errors {\nrewrite {vars.page}\nfile_server\n}",
		"a map": "route {\nmap {path} {page} {\n~^/(.*)$ /$1\n}\n%s\nfile_server\n}\n" +
			"handle_errors {\nmap {err.status_code} {page} {\ndefault /401.html\n}\nrewrite {page}\nfile_server\n}",
		"a header that is added": "%s\nreverse_proxy %app\n" +
			"handle_errors {\nrequest_header +X-Original-URL {http.request.orig_uri}\n" +
			"rewrite /errors/page?\nreverse_proxy %app\n}",
		"a name of an index": "%s\nfile_server\n" +
			"handle_errors {\nrewrite /\nfile_server {\nindex {http.request.orig_uri.path}\n}\n}",
		"a query that was dropped": "route {\nrewrite /app?\n%s\nreverse_proxy %app\n}\n" +
			"handle_errors {\nrewrite /errors/page\nreverse_proxy %app\n}",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{caddyfile: "root " + dir + "\n" + site})
			a := w.browser().do("GET", "/secret.txt?x=y", "Accept", "application/json")
			w.expect(a, http.StatusUnauthorized)
			if a.body != signIn {
				t.Errorf("answered %q", a.body)
			}
			if seen := w.requests(); len(seen) != 0 {
				t.Errorf("the app was asked for %s, %v", seen[0].URL, seen[0].Header)
			}
		})
	}
}
