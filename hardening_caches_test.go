package aventusauth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestSharedCaches: an answer that is one visitor's is kept by a cache, with the cookie
// in it (nextjs-auth0, CVE-2025-48947), also where the site has everything cached.
func TestSharedCaches(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout /bye\nprofile /me\nrequire_scope openid",
		caddyfile: "header {\nCache-Control \"public, s-maxage=31536000\"\nCDN-Cache-Control " +
			"max-age=600\nX-Accel-Expires 600\n}\n%s\nreverse_proxy %app"})
	b := w.browser()
	b.login("/")
	cookie := b.cookieHeader()
	w.overEach(func(t *testing.T, send func(request) answer) {
		begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
		good := w.callback(begun, "auth0|ada")
		for what, a := range map[string]answer{
			"the login": begun, "a HEAD": send(request{method: "HEAD"}), "401": send(request{method: "POST"}),
			"a forged callback":          send(request{target: "/oauth2/callback?state=x&code=y"}),
			"another browser's callback": send(request{target: good.target}),
			"a callback by POST":         send(request{target: good.target, method: "POST"}),
			"an empty callback":          send(request{target: "/oauth2/callback"}),
			"a refused callback": send(request{
				target: strings.Replace(good.target, "code=", "error=access_denied&x=", 1), headers: good.headers,
			}),
			"the callback":       send(good),
			"the callback again": send(good.withCookie(cookie)),
			"the profile":        send(request{target: "/me"}.withCookie(cookie)),
			"no profile":         send(request{target: "/me"}),
			"a forced logout":    send(request{target: "/logout", headers: []string{"Sec-Fetch-Site", "cross-site"}}),
			"the logout":         send(request{target: "/logout"}),
			"DELETE":             send(request{target: "/logout", method: "DELETE"}),
		} {
			if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "no-store" ||
				a.Header["Cdn-Cache-Control"] != nil || a.Header["X-Accel-Expires"] != nil ||
				a.StatusCode == http.StatusOK && what != "the profile" {
				t.Errorf("%s: status %d, Cache-Control %q", what, a.StatusCode, got)
			}
		}
		a := send(request{}.withCookie(cookie))
		if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "public, s-maxage=31536000" ||
			a.Header.Get("Vary") != "Cookie" || a.Header["Set-Cookie"] != nil {
			t.Errorf("the page: %v", a.Header)
		}
	})
}

// TestCachesThatListenElsewhere: where an answer brings a session, a header for caches
// alone does not have it stored (RFC 9213, section 2, ranks CDN-Cache-Control over
// Cache-Control; nginx does the same with X-Accel-Expires, others with Surrogate-Control).
func TestCachesThatListenElsewhere(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		for name, value := range map[string]string{
			"Cache-Control": "public, max-age=600", "CDN-Cache-Control": "max-age=600",
			"Cloudflare-CDN-Cache-Control": "max-age=600",
			"Surrogate-Control":            "max-age=600", "X-Accel-Expires": "600",
			"Expires": "Sun, 22 Nov 2099 20:00:00 GMT",
		} {
			rw.Header().Set(name, value)
		}
		fmt.Fprint(rw, "the app")
	}))
	defer app.Close()
	w := newWorld(t, setup{https: true, block: "session {\nidle 1h\n}", caddyfile: "%s\nreverse_proxy " +
		strings.TrimPrefix(app.URL, "http://")})
	b := w.browser()
	b.login("/")
	cookie := b.cookieHeader()
	w.overEach(func(t *testing.T, send func(request) answer) {
		a := send(request{}.withCookie(cookie))
		if a.Header["Set-Cookie"] != nil || a.Header.Get("CDN-Cache-Control") == "" ||
			a.Header.Get("X-Accel-Expires") == "" {
			t.Errorf("an ordinary answer: %v", a.Header)
		}
	})
	w.clock.Add(20 * time.Minute)
	w.overEach(func(t *testing.T, send func(request) answer) {
		a := send(request{}.withCookie(cookie))
		if a.Header["Set-Cookie"] == nil || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v", a.Header)
		}
		for _, name := range []string{"Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "Surrogate-Control",
			"X-Accel-Expires", "Expires"} {
			if a.Header[name] != nil {
				t.Errorf("an answer with a session has %s: %s", name, a.Header[name])
			}
		}
	})
}
