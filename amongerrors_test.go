package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestBlockAmongErrorRoutes: a block among the error routes begins no login there.
// Where the callback fails, one more would end in the same error, without end.
func TestBlockAmongErrorRoutes(t *testing.T) {
	dir := errorFiles(t)
	for _, mode := range []string{"auto", "redirect", "deny"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, setup{sites: func(w *world) string {
				block := "logout /logout\nprofile /me\nunauthenticated " + mode
				return fmt.Sprintf("%s {\nroot %s\n%s\nfile_server\nhandle_errors {\nrewrite * /401.html\n%s\n"+
					"file_server\n}\n}\n",
					w.site, dir, w.directive("", block), w.directive("", block))
			}})
			w.issuer.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.WriteHeader(http.StatusInternalServerError)
				return true
			}
			b := w.browser()
			expect := func(a answer, status int, want string) {
				t.Helper()
				w.expect(a, status)
				if a.body != want || a.location() != "" || a.Header.Get("Set-Cookie") != "" ||
					a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: answered %q, %v", a.Request.URL, a.body, a.Header)
				}
			}
			if mode != "deny" {
				expect(b.get(b.begin("/secret.txt")), http.StatusBadGateway,
					"The sign-in server did not confirm your sign-in. Try again.\n")
				w.expectTokenRequests(1)
			}
			expect(b.get("/oauth2/callback?state=x&code=y"), http.StatusBadRequest, notHere)
			expect(b.get("/oauth2/callback"), http.StatusBadRequest, notHere)
			expect(b.do("DELETE", "/logout"), http.StatusMethodNotAllowed,
				"This address does not accept this kind of request.\n")
			expect(b.do("DELETE", "/me"), http.StatusMethodNotAllowed,
				"This address does not accept this kind of request.\n")
			if mode != "redirect" {
				expect(b.do("GET", "/secret.txt", "Accept", "application/json"), http.StatusUnauthorized, signIn)
			}
		})
	}
}

// TestBlockAmongErrorRoutesLetsThrough: whoever has a session sees a protected error
// page, and nobody else does; a token that has ended is not renewed for it.
func TestBlockAmongErrorRoutesLetsThrough(t *testing.T) {
	dir := errorFiles(t)
	w := newWorld(t, setup{sites: func(w *world) string {
		return fmt.Sprintf("%s {\nroot %s\n%s\nfile_server\nhandle_errors {\nrewrite * /errors/page\n%s\n"+
			"reverse_proxy %s\n}\n}\n", w.site, dir,
			w.directive("/secret.txt", "require_scope root\n"+
				"scope offline_access"), w.directive("/errors/*", "scope offline_access"), w.app)
	}})
	w.issuer.TokenLifetime = time.Hour
	b := w.browser()
	b.login("/secret.txt")
	for _, target := range []string{"/nothing-here", "/secret.txt"} {
		a := b.get(target)
		seen := w.requests()
		if len(seen) != 1 || seen[0].URL.Path != "/errors/page" ||
			!strings.HasPrefix(seen[0].Header.Get("Authorization"), "Bearer ey") || a.body != "the app" {
			t.Errorf("%s: the app saw %v; answered %d %q", target, seen, a.StatusCode, a.body)
		}
	}
	a := w.browser().get("/nothing-here")
	if w.expect(a, http.StatusNotFound); a.body != "Not Found\n" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("without a session: answered %q, %v", a.body, a.Header)
	}
	w.clock.Add(2 * time.Hour)
	a = b.get("/nothing-here")
	if w.expect(a, http.StatusNotFound); a.body != "Not Found\n" {
		t.Errorf("with an ended token: answered %q", a.body)
	}
	if seen := w.requests(); len(seen) != 0 {
		t.Errorf("the app was asked for %s", seen[0].URL)
	}
	w.expectTokenRequests(1)
}

// TestBlockAmongErrorRoutesCountsAsGet: among the error routes, file_server serves a file whatever the method is, and
// so a block there protects what it protects by GET. Caddy itself refuses a long method, before its routes.
func TestBlockAmongErrorRoutesCountsAsGet(t *testing.T) {
	long := strings.Repeat("A", 33)
	for _, c := range []struct{ inFront, matcher, method string }{
		{"%s", "not method OPTIONS", "OPTIONS"}, {"%s", "method GET HEAD", "POST"}, {"%s", "method GET HEAD", long},
		{"error 404", "{\nmethod GET\nnot path /public/*\n}", "PUT"}, {"", "not method POST", "POST"},
	} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: "@m " + c.matcher + "\nroute {\n" + c.inFront +
			"\nfile_server\n}\nhandle_errors {\nroot " + errorFiles(t) + "\n%s\nfile_server\n}"})
		a := w.http1(request{method: c.method, target: "/secret.txt"})
		if a.StatusCode < 400 || a.body != http.StatusText(a.StatusCode)+"\n" {
			t.Errorf("%+v: answered %d %q", c, a.StatusCode, a.body)
		}
	}
}
