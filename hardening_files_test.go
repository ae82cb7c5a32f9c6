package aventusauth

import (
	"fmt"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFilesByAnotherPath: a file has many paths, of which a matcher that asks by
// placeholder is given the client's.
func TestFilesByAnotherPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "private"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "private", "x.txt"), []byte("the secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, matcher := range []string{
		"@m vars {path} /private/x.txt", "@m expression `{path} == '/private/x.txt'`",
		"@m vars {http.request.uri.path.file} x.txt",
		"@m vars_regexp {uri} ^/private/", "@m vars {http.request.uri.path.dir} /private/",
	} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: matcher + "\n%s\nroot " + dir + "\nfile_server"})
		for _, target := range []string{
			"/private/x.txt", "/public/../private/x.txt", "//private/x.txt", "/private//x.txt", "/private/./x.txt",
			"/%70rivate/x%2etxt",
			"http://localhost:" + w.port + "/private/x.txt",
		} {
			a := w.http1(request{target: target, headers: []string{"Sec-Fetch-Mode", "navigate"}})
			if a.StatusCode != http.StatusFound {
				t.Errorf("%s: %s: status %d, %s", matcher, target, a.StatusCode, a.body)
			}
		}
		if a := w.http1(request{target: "/private/y"}); strings.Contains(matcher, "x.txt") &&
			a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: what is not there: status %d", matcher, a.StatusCode)
		}
	}
}

// TestHostSpeltOtherwise: a host name in upper case is the name in lower case, and a fully
// qualified one, which ends in a dot, is the name without it. A matcher that takes the name
// as it was sent, or so, protects it: also by placeholder or header, which tell upper case
// from lower. Nothing but the matcher sees it so.
func TestHostSpeltOtherwise(t *testing.T) {
	for _, matcher := range []string{
		"host private.test", "not host public.test", "vars {host} private.test",
		"expression `{http.request.host} == 'private.test'`",
		"vars_regexp {http.request.host} ^private\\.test$", "vars_regexp {hostport} ^private\\.test(:[0-9]+)?$",
		"vars {labels.1} private",
		"expression `host('private.test') && {path} == '/x'`", "header Host private.test*",
		"header_regexp Host ^private\\.test(:[0-9]+)?$",
		"expression `{hostport}.startsWith('private.test') && path('/x*')`",
		"expression `header({'Host': 'private.test*'})`",
		"not vars {host} public.test", "not header Host public.test*",
	} {
		w := newWorld(t, setup{sites: func(w *world) string {
			return "http://:" + w.port + " {\ntest_in_front\n@m " + matcher + "\n" + w.directive("@m", "") +
				"\nreverse_proxy " + w.app + " {\nheader_up X-Seen {hostport},{host},{labels.1}\n}\n}"
		}})
		for _, host := range []string{
			"private.test", "private.test.", "private.test.:" + w.port, "Private.Test.", "private.test..",
			"PRIVATE.test", "Private.Test.:" + w.port, "pRIVATE.TEST:" + w.port,
		} {
			for _, target := range []string{"/x", "/y/../x", "/y/%2e%2e/x"} {
				a := w.http1(request{host: host, target: target, headers: []string{"Sec-Fetch-Mode", "navigate"}})
				if a.StatusCode != http.StatusFound {
					t.Errorf("%s: %s%s: status %d", matcher, host, target, a.StatusCode)
				}
			}
		}
		w.expect(w.http1(request{host: "public.test", target: "/x"}), http.StatusOK)
		if strings.HasPrefix(matcher, "not ") { // what is not named public, as it was sent, is protected
			continue
		}
		for _, host := range []string{"public.test.", "Public.TEST", "PUBLIC.test.:" + w.port} {
			w.requests()
			w.expect(w.http1(request{host: host, target: "/x"}), http.StatusOK)
			if seen := w.requests(); len(seen) != 1 || seen[0].Host != host {
				t.Errorf("%s: the app was asked for the host %s", matcher, seen[0].Host)
			} else if got := seen[0].Header.Get("X-Seen"); !strings.HasPrefix(got, host+",") {
				t.Errorf("%s: %s is %s to what follows", matcher, host, got)
			}
		}
	}
}

// TestNetworkPath: a path that begins with two slashes names a host to all that resolve it as a URL reference
// (RFC 3986, section 4.2): new URL(request.url, base) in Node, parse_url($_SERVER['REQUEST_URI']) in PHP, urlsplit in
// Python, url.Parse in Go. They read //public/private as /private; Caddy reads /public/private.
func TestNetworkPath(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		u, err := url.Parse(r.RequestURI)
		if err == nil && strings.HasPrefix(u.Path, "/private") {
			fmt.Fprint(rw, "the secret")
			return
		}
		fmt.Fprint(rw, "public")
	}))
	defer app.Close()
	for _, matcher := range []string{"path /private /private/*", "not path / /public/*"} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: "@m " + matcher + "\n%s\nreverse_proxy " +
			strings.TrimPrefix(app.URL, "http://")})
		w.expect(w.http1(request{target: "/private/x", headers: []string{"Sec-Fetch-Mode", "navigate"}}),
			http.StatusFound)
		for _, target := range []string{
			"//public/private/x", "//x/private", "//public:80/private", "//x@y:1//../private",
		} {
			a := w.http1(request{target: target, headers: []string{"Sec-Fetch-Mode", "navigate"}})
			if strings.Contains(a.body, "the secret") {
				t.Errorf("@m %s: %s: status %d, %s, without a login", matcher, target, a.StatusCode, a.body)
			}
		}
	}
}

// TestPathInfo: an app of PHP's behind php_fastcgi takes what follows the name of its script for the path, so that
// /index.php/private is its /private.
func TestPathInfo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		_ = fcgi.Serve(listener, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			// REQUEST_URI without the name of the front controller, as Symfony's Request reads it
			// (prepareBaseUrl, preparePathInfo), and so Laravel's. This only imitates them.
			path := strings.TrimPrefix(r.URL.Path, "/index.php")
			fmt.Fprintf(rw, "path %q", path)
			if strings.HasPrefix(path, "/private") {
				fmt.Fprint(rw, ": the secret")
			}
		}))
	}()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.php"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, setup{matcher: "@m", caddyfile: "@m path /private /private/*\n%s\nroot " + dir +
		"\nphp_fastcgi " + listener.Addr().String()})
	w.expect(w.http1(request{target: "/private/x", headers: []string{"Sec-Fetch-Mode", "navigate"}}), http.StatusFound)
	for _, target := range []string{"/index.php/private/x", "/INDEX.php/private", "/index.php%2fprivate/x",
		"/x/../index.php//private", "//x/index.php/private"} {
		a := w.http1(request{target: target, headers: []string{"Sec-Fetch-Mode", "navigate"}})
		if strings.Contains(a.body, "the secret") {
			t.Errorf("%s: status %d, %s, without a login", target, a.StatusCode, a.body)
		}
	}
}

// TestTargetWithoutPath: a target that is a URL without an authority has no path for a matcher to see, and an upstream
// is sent what stands behind its scheme.
func TestTargetWithoutPath(t *testing.T) {
	for _, matcher := range []string{"path /private /private/*", "not path / /public/* ''"} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: "@m " + matcher + "\n%s\nreverse_proxy %app"})
		for _, target := range []string{
			"http:private/x", "http:private", "x:private/x", "http:/private/x", "http:///private/x",
			"http://localhost:" + w.port + "/private/x",
			"HTTP://x:y@localhost:" + w.port + "/private", "x://localhost:" + w.port + "/private",
			"http://localhost:" + w.port + "//x/private",
		} {
			a := w.http1(request{target: target, headers: []string{"Sec-Fetch-Mode", "navigate"}})
			if a.StatusCode != http.StatusFound { // a 400 could be the app's
				t.Errorf("@m %s: %s: status %d", matcher, target, a.StatusCode)
			}
		}
		for _, r := range w.requests() {
			t.Errorf("@m %s: the app was asked for %q", matcher, r.RequestURI)
		}
	}
}
