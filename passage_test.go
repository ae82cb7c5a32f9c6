package aventusauth

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// saying returns the address of an app whose answers have the headers that the
// query holds.
func saying(t *testing.T) string {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.URL.Query() {
			w.Header()[name] = values
		}
	}))
	t.Cleanup(app.Close)
	return strings.TrimPrefix(app.URL, "http://")
}

// TestFiles: a site of files answers behind the login as it does without one, whole or
// in parts, with gzip in between or not.
func TestFiles(t *testing.T) {
	dir, file := t.TempDir(), strings.Repeat("0123456789abcdef\n", 100_000)
	if err := os.WriteFile(filepath.Join(dir, "file.txt"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, encode := range []string{"", "encode gzip\n"} {
		for _, https := range []bool{false, true} { // HTTP/1.1 and HTTP/2
			w := newWorld(t, setup{https: https, caddyfile: "%s\n" + encode + "root " + dir + "\nfile_server"})
			b := w.browser()
			b.login("/file.txt")
			whole := b.get("/file.txt")
			w.expect(whole, http.StatusOK)
			if isHTTP2 := whole.ProtoMajor == 2; isHTTP2 != https || whole.Uncompressed != (encode != "") {
				t.Errorf("%q, https %v: HTTP/%d, unpacked %v", encode, https, whole.ProtoMajor, whole.Uncompressed)
			}
			if whole.body != file || whole.Header.Get("Cache-Control") != "private" {
				t.Errorf("%q, https %v: %d bytes, and not %d; %v", encode, https, len(whole.body), len(file), whole.Header)
			}
			part := b.do("GET", "/file.txt", "Range", "bytes=1000000-1000003")
			w.expect(part, http.StatusPartialContent)
			if part.body != file[1000000:1000004] || part.Header.Get("Content-Length") != "4" {
				t.Errorf("%q, https %v: %q, %v", encode, https, part.body, part.Header)
			}
			head := b.do("HEAD", "/file.txt")
			w.expect(head, http.StatusOK)
			if head.body != "" || head.ContentLength != int64(len(file)) {
				t.Errorf("%q, https %v: HEAD: %q, %d", encode, https, head.body, head.ContentLength)
			}
			same := b.do("GET", "/file.txt", "If-None-Match", part.Header.Get("Etag"))
			w.expect(same, http.StatusNotModified)
			if same.body != "" || same.Header.Get("Cache-Control") != "private" {
				t.Errorf("%q, https %v: %q, %v", encode, https, same.body, same.Header)
			}
		}
	}
}

// TestVaryIsOneLine: a cache that heeds but one line of Vary is not misled by the
// others. nginx 1.22 takes the last one, which was Authorization: whoever came with
// a cookie got the page of the first who did.
func TestVaryIsOneLine(t *testing.T) {
	for block, own := range map[string]string{"": "Cookie", "accept_bearer": "Cookie, Authorization"} {
		w := newWorld(t, setup{block: block, caddyfile: "%s\nreverse_proxy " + saying(t)})
		b := w.browser()
		b.login("/")
		for _, c := range []struct {
			says []string
			want string
		}{
			{nil, own},
			{[]string{"Accept-Language"}, "Accept-Language, " + own},
			{[]string{"Accept-Language", "X-Theme"}, "Accept-Language, X-Theme, " + own},
			{[]string{"cookie"}, "cookie" + own[len("Cookie"):]},
			{[]string{"*"}, "*"},
			{[]string{"Accept-Language, *"}, "*"},
		} {
			a := b.get("/?" + url.Values{"Vary": c.says}.Encode())
			w.expect(a, http.StatusOK)
			if got := a.Header["Vary"]; len(got) != 1 || got[0] != c.want {
				t.Errorf("%q: Vary %q, want %q", c.says, got, c.want)
			}
		}
	}
}

// TestForHowLongIsNotForWhom: who says only how long a page is good has not said that
// a shared cache may keep it. To a request with an Authorization, which the site sees
// and the cache does not, that would be no leave (RFC 9111, section 3.5).
func TestForHowLongIsNotForWhom(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy " + saying(t)})
	b := w.browser()
	b.login("/")
	for _, c := range []struct {
		says []string
		want string
	}{
		{nil, "private"},
		{[]string{"max-age=60"}, "max-age=60, private"},
		{[]string{"max-age=60", "immutable"}, "max-age=60, immutable, private"},
		{[]string{"no-cache"}, "no-cache, private"},
		{[]string{"max-age=60, must-revalidate"}, "max-age=60, must-revalidate, private"},
		{[]string{`x="public"`}, `x="public", private`},
		{[]string{"max-age=60, Public"}, "max-age=60, Public"},
		{[]string{"s-maxage=60"}, "s-maxage=60"},
		{[]string{"max-age=60 ,\tprivate"}, "max-age=60 ,\tprivate"},
		{[]string{"no-store"}, "no-store"},
	} {
		a := b.get("/?" + url.Values{"Cache-Control": c.says}.Encode())
		w.expect(a, http.StatusOK)
		if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != c.want {
			t.Errorf("%q: Cache-Control %q, want %q", c.says, got, c.want)
		}
	}
}

// TestNoCacheIsToldOtherwise: a site that says for all its pages how long caches may
// keep them, by headers that go before Cache-Control, does not say it of a login, a
// logout, a profile or an error, nor of a page that brings a session's cookie.
func TestNoCacheIsToldOtherwise(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nprofile /profile\nsession {\nidle 1h\n}", caddyfile: `
		header {
			Cache-Control "public, max-age=3600"
			X-Accel-Expires 3600
			Expires "Fri, 01 Jan 2100 00:00:00 GMT"
			Surrogate-Control max-age=3600
			Edge-Control max-age=3600
			CDN-Cache-Control max-age=3600
			ExampleCDN-Cache-Control max-age=3600
			X-Site here
		}
		%s
		reverse_proxy %app`})
	b, stranger := w.browser(), w.browser()
	callback := b.begin("/")
	check := func(a answer, status int) {
		t.Helper()
		w.expect(a, status)
		for _, name := range []string{"X-Accel-Expires", "Expires", "Surrogate-Control", "Edge-Control", "Cdn-Cache-Control", "Examplecdn-Cache-Control"} {
			if a.Header[name] != nil {
				t.Errorf("%s: %q", name, a.Header[name])
			}
		}
		if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Vary") != "Cookie" || a.Header.Get("X-Site") == "" {
			t.Errorf("%v", a.Header)
		}
	}
	check(stranger.get("/"), http.StatusFound)
	check(stranger.do("POST", "/"), http.StatusUnauthorized)
	check(stranger.get("/profile"), http.StatusUnauthorized)
	check(stranger.get("/oauth2/callback"), http.StatusBadRequest)
	check(b.get(callback), http.StatusSeeOther)
	check(b.get("/profile"), http.StatusOK)
	if a := b.get("/"); a.Header.Get("X-Accel-Expires") == "" { // a page is the site's
		t.Errorf("%v", a.Header)
	}
	w.clock.Add(20 * time.Minute)
	check(b.get("/"), http.StatusOK)
	check(b.get("/logout"), http.StatusOK)
}

// TestOutspokenSite: what a header directive says when the answer is written (it also
// deletes one, so Caddy defers it) goes for our own answers, too. Caches keep each
// visitor's apart all the same.
func TestOutspokenSite(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nprofile /profile", caddyfile: `
		header {
			Cache-Control "public, max-age=3600"
			-Server
		}
		%s
		reverse_proxy %app`})
	b := w.browser()
	b.login("/")
	for _, path := range []string{"/", "/profile", "/logout"} {
		a := b.get(path)
		w.expect(a, http.StatusOK)
		if a.Header.Get("Cache-Control") != "public, max-age=3600" || a.Header.Get("Vary") != "Cookie" {
			t.Errorf("%s: %v", path, a.Header)
		}
	}
}
