package aventusauth

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// cookieHeader returns what a browser that has logged in sends.
func (b *browser) cookieHeader() string {
	var pairs []string
	for _, c := range b.cookies() {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}

// TestAuthorizationFromOutside: oauth2-proxy and others passed on a client's own
// Authorization beside theirs, or instead of it (CVE-2021-21291 and its kin). Two
// lines, odd case, and underscores that FastCGI folds.
func TestAuthorizationFromOutside(t *testing.T) {
	for _, mode := range []string{"auto", "pass"} {
		w := newWorld(t, setup{block: "unauthenticated " + mode})
		b := w.browser()
		cookie := "x=1"
		if mode == "auto" {
			b.login("/")
			w.requests()
			cookie = b.cookieHeader()
		}
		w.expect(w.raw(fmt.Sprintf("GET /page HTTP/1.1\r\nHost: localhost:%s\r\nCookie: %s\r\n"+
			"Authorization: Bearer one\r\nauthorization: Basic two\r\nAuthorization_: three\r\nConnection: close\r\n\r\n", w.port, cookie)), http.StatusOK)
		r := w.requests()[0]
		var got []string
		for name, values := range r.Header {
			if strings.Contains(strings.ToLower(name), "authorization") {
				got = append(got, values...)
			}
		}
		switch {
		case mode == "pass" && len(got) != 0:
			t.Errorf("%s: the app was sent %q", mode, got)
		case mode == "auto" && (len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ey")):
			t.Errorf("%s: the app was sent %q", mode, got)
		}
	}
}

// TestConnectionNamesOurHeader: a proxy removes what Connection names, after the
// handler has set it (Traefik, CVE-2024-45410). The same goes for headers that the
// site makes of the identity.
func TestConnectionNamesOurHeader(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nrequest_header X-Signed-In yes\nreverse_proxy %app"})
	b := w.browser()
	b.login("/")
	for _, connection := range []string{
		"close, Authorization", "authorization,X-Signed-In, close", "Authorization\r\nConnection: x-signed-in\r\nConnection: close", ",\t Authorization ,close,",
	} {
		w.requests()
		w.expect(w.raw(fmt.Sprintf("GET / HTTP/1.1\r\nHost: localhost:%s\r\nCookie: %s\r\nX-Signed-In: made-up\r\nConnection: %s\r\n\r\n",
			w.port, b.cookieHeader(), connection)), http.StatusOK)
		r := w.requests()[0]
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") || r.Header.Get("X-Signed-In") != "yes" {
			t.Errorf("Connection: %q: the app was sent %v", connection, r.Header)
		}
	}
}

// TestAuthorizationInTrailer: what comes after the body is forwarded too, announced
// or not, and upstreams that merge trailers into headers would believe it.
func TestAuthorizationInTrailer(t *testing.T) {
	for _, mode := range []string{"auto", "pass"} {
		w := newWorld(t, setup{block: "unauthenticated " + mode})
		cookie := "x=1"
		if mode == "auto" {
			b := w.browser()
			b.login("/")
			w.requests()
			cookie = b.cookieHeader()
		}
		for _, announced := range []string{"Trailer: X-Sum\r\n", "Trailer: Authorization, X-Sum\r\n", ""} {
			w.expect(w.raw(fmt.Sprintf("POST / HTTP/1.1\r\nHost: localhost:%s\r\nCookie: %s\r\nTransfer-Encoding: chunked\r\n%sConnection: close\r\n\r\n"+
				"4\r\nbody\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer made-up\r\n\r\n", w.port, cookie, announced)), http.StatusOK)
			r := w.requests()[0]
			if _, ok := r.Trailer["Authorization"]; ok {
				t.Errorf("%s, %q: the app was sent the trailers %v", mode, announced, r.Trailer)
			}
			if announced != "" && r.Trailer.Get("X-Sum") != "1" {
				t.Errorf("%s, %q: other trailers are lost: %v", mode, announced, r.Trailer)
			}
		}
	}
}

// TestForwardedHeaders: nothing that a client can write changes a URL or a cookie
// (oauth2-proxy, CVE-2025-54576; X-Original-URL and its kin).
func TestForwardedHeaders(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	plain := b.get("/page")
	a := b.do("GET", "/page", "Sec-Fetch-Mode", "navigate", "X-Forwarded-Host", "evil.test", "X-Forwarded-Proto", "https",
		"X-Forwarded-Uri", "/oauth2/callback", "X-Forwarded-Prefix", "/x", "Forwarded", "host=evil.test;proto=https",
		"X-Original-URL", "/logout", "X-Rewrite-URL", "/public", "X-Auth-Request-Redirect", "https://evil.test/")
	w.expect(a, http.StatusFound)
	want := plain.location()
	for _, random := range []string{"state", "code_challenge", "nonce"} {
		want = with(want, random, query(a.location(), random))
	}
	if a.location() != want {
		t.Errorf("sent to %s\ninstead of %s", a.location(), plain.location())
	}
	a = b.get(b.get(a.location()).location())
	if a.location() != w.site+"/page" {
		t.Errorf("went back to %s", a.location())
	}
}

// TestManyCookies: a header of three thousand semicolons, or of two hundred cookies
// with our name, is an anonymous request and not a slow one; a good cookie behind
// a bad one counts.
func TestManyCookies(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	b.login("/")
	good := b.cookieHeader()
	for cookie, want := range map[string]int{
		strings.Repeat(";", 3000):                                      http.StatusFound,
		strings.Repeat("aventus_session=x;", 200):                      http.StatusFound,
		"aventus_session=x; " + good:                                   http.StatusOK,
		good + strings.Repeat("; aventus_session=x", 100):              http.StatusOK,
		strings.Replace(good, "aventus_session=", "x=", 1):             http.StatusFound,
		strings.ReplaceAll(good, "aventus_session", "AVENTUS_SESSION"): http.StatusFound,
	} {
		w.requests()
		a := w.browser().do("GET", "/", "Cookie", cookie)
		if a.StatusCode != want {
			t.Errorf("%.60s: status %d, want %d", cookie, a.StatusCode, want)
		}
		for _, r := range w.requests() {
			if strings.Contains(r.Header.Get("Cookie"), "aventus_") {
				t.Errorf("%.60s: the app was sent %s", cookie, r.Header.Get("Cookie"))
			}
		}
	}
}

// TestSecretsInLogs: at DEBUG, Caddy logs the config as loaded and each request;
// what was expanded, sealed or handed out is in none of it. (The callback's own
// URL, code and all, is in Caddy's request lines, which are not the module's.)
func TestSecretsInLogs(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout", caddyfile: "log\n%s\nreverse_proxy %app" + errorsShown})
	b := w.browser()
	session := b.login("/").cookie("aventus_session").Value
	w.expect(b.get("/"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	b.get("/logout")
	log := w.log()
	for what, secret := range map[string]string{
		"the client's secret": testSecret,
		"the token":           token,
		"the session":         session,
		"the code verifier":   w.issuer.TokenRequests()[0].Params["code_verifier"],
	} {
		if secret == "" || strings.Contains(log, secret) {
			t.Errorf("the log holds %s", what)
		}
	}
}

// TestVarsShowNoCookies: what blocks of the module hand to each other cannot be
// read with a placeholder.
func TestVarsShowNoCookies(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nrespond \"<{http.vars." + sentVar + "}>\""})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); a.body != "<>" {
		t.Errorf("a page shows %q", a.body)
	}
}

// TestTunnelOfRequests: an app that takes an upgrade to HTTP/2 (scanners know it as h2c
// smuggling; RFC 9113, section 3.1, deprecates it) is sent whatever comes next past every
// check, with any path and any identity. Nothing but a WebSocket is asked of it; not
// even where the matcher leaves a request out, for what comes in the tunnel is not for
// that path alone.
func TestTunnelOfRequests(t *testing.T) {
	w := newWorld(t, setup{matcher: "/private/*"})
	b := w.browser()
	b.login("/private/")
	for _, path := range []string{"/public", "/private/x"} {
		for upgrade, want := range map[string]string{
			"h2c": "", "H2C": "", "h2": "", "HTTP/2.0": "", "TLS/1.2": "", "SPDY/3.1": "", "h2c, websocket": "websocket", "websocket, h2c": "websocket",
			"websocket\r\nUpgrade: h2c": "websocket", "h2c\r\nUpgrade: websocket": "websocket", "WebSocket": "websocket", "": "",
		} {
			for _, connection := range []string{"Upgrade", "Upgrade, HTTP2-Settings", "keep-alive, upgrade\r\nConnection: HTTP2-Settings"} {
				w.requests()
				w.expect(w.raw("GET "+path+" HTTP/1.1\r\nHost: localhost:"+w.port+"\r\nCookie: "+b.cookieHeader()+"\r\nConnection: "+connection+
					"\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"), http.StatusOK)
				if got := strings.Join(w.requests()[0].Header["Upgrade"], ","); !strings.EqualFold(got, want) {
					t.Errorf("%s, Upgrade: %q, Connection: %q: the app was asked for %q, want %q", path, upgrade, connection, got, want)
				}
			}
		}
	}
}

// TestErrorRoutes: what leads from an error to an upstream is not told who the
// client says it is either.
func TestErrorRoutes(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout", caddyfile: "%s\nreverse_proxy %app\nhandle_errors {\nreverse_proxy %app\n}"})
	b := w.browser()
	b.login("/")
	for _, path := range []string{"/oauth2/callback?state=x&code=y", "/logout"} {
		w.requests()
		b.do("GET", path, "Authorization", "Bearer made-up", "Sec-Fetch-Site", "cross-site")
		seen := w.requests()
		if len(seen) != 1 || seen[0].Header["Authorization"] != nil || seen[0].Header["Cookie"] != nil {
			t.Errorf("%s: the error's upstream saw %v", path, seen)
		}
	}
}

// TestClaimsOfNobody: with pass, what a client made up does not stay where a claim
// would have come.
func TestClaimsOfNobody(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass", caddyfile: "%s\nrequest_header X-User-Id {http.auth.user.id}\n" +
		"reverse_proxy %app {\nheader_up X-User-Email {http.auth.user.email}\n}"})
	w.expect(w.browser().do("GET", "/", "X-User-Id", "made-up", "X-User-Email", "made@up"), http.StatusOK)
	r := w.requests()[0].Header
	if r.Get("X-User-Id") != "" || r.Get("X-User-Email") != "" || r["Authorization"] != nil {
		t.Errorf("the app was told %v", r)
	}
}

// TestIDTokenGrantsNothing: what an ID token calls scopes and permissions are none,
// but its claims count as claims.
func TestIDTokenGrantsNothing(t *testing.T) {
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) {
			s.Claims = func(aventustest.User) map[string]any { return map[string]any{"scope": nil} }
			s.IDClaims = func(aventustest.User) map[string]any {
				return map[string]any{"scope": "root", "permissions": []string{"root"}, "team": "engines"}
			}
		},
		sites: func(w *world) string {
			return w.site + " {\n" + w.directive("/root", "require_scope root") + "\n" + w.directive("/team", "require_claim team engines") +
				"\n" + w.directive("", "") + "\nrespond {http.auth.user.scope}\n}"
		},
	})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); a.body != "openid profile" {
		t.Errorf("granted: %s", a.body)
	}
	w.expect(b.get("/root"), http.StatusForbidden)
	w.expect(b.get("/team"), http.StatusOK)
}

// TestBadHost: what is no host name gets into no redirect URI.
func TestBadHost(t *testing.T) {
	// TLS ends elsewhere, as it does behind a load balancer.
	w := newWorld(t, setup{sites: func(w *world) string {
		block := strings.Replace(w.directive("", ""), w.site+"/", "https://{host}:"+w.port+"/", 1)
		return fmt.Sprintf("http://:%s {\n%s\nreverse_proxy %s\n}", w.port, block, w.app)
	}})
	for host, want := range map[string]string{
		"localhost":              "https://localhost:" + w.port + "/oauth2/callback",
		"LocalHost":              "https://localhost:" + w.port + "/oauth2/callback",
		"[::1]:443":              "https://[::1]:" + w.port + "/oauth2/callback",
		"a(b)":                   "",
		"evil.test%2f":           "",
		"a'b;c":                  "",
		"evil.test&x=y":          "",
		strings.Repeat("a", 300): "",
	} {
		a := w.raw("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		if want == "" {
			if a.StatusCode != http.StatusBadRequest {
				t.Errorf("%.20s: status %d", host, a.StatusCode)
			}
		} else if w.expect(a, http.StatusFound); query(a.location(), "redirect_uri") != want {
			t.Errorf("%s: redirect_uri %s", host, query(a.location(), "redirect_uri"))
		}
	}
}

// TestHugeClaims: whatever a token holds, a request with it is answered.
func TestHugeClaims(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nrespond \"{http.auth.user.a.b} {http.auth.user.deep}\""})
	many := map[string]any{}
	for i := range 300 {
		many[fmt.Sprintf("claim.%d/{env.HOME}", i)] = i
	}
	a := w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(many)))
	w.expect(a, http.StatusOK)
	deep := json.RawMessage(strings.Repeat("[", 3000) + strings.Repeat("]", 3000))
	a = w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(map[string]any{"deep": deep})))
	w.expect(a, http.StatusOK)
	_, _ = io.Discard.Write([]byte(a.body))
}
