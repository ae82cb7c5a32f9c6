package aventusauth

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
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

// newOpenWorld starts a world where only /sign-in needs a session.
func newOpenWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, setup{https: true, sites: func(w *world) string {
		return w.site + " {\ntls internal\n" + w.directive("/sign-in", "") + "\n" + w.directive("", "unauthenticated pass") + "\nreverse_proxy " + w.app + "\n}"
	}})
}

// authorizations returns the values of all that an app could take for an
// Authorization header, in the headers and in the trailers: underscores and cases are
// the same to CGI and its kin.
func authorizations(r *http.Request) []string {
	var found []string
	for _, header := range []http.Header{r.Header, r.Trailer} {
		for name, values := range header {
			if strings.Contains(strings.ToLower(name), "authorization") {
				found = append(found, values...)
			}
		}
	}
	return found
}

// expectAuthorization checks that the app was sent the session's token with each
// request for /signed-in, nothing with the others, and never what a client made up.
func (w *world) expectAuthorization(what string) {
	w.t.Helper()
	for _, r := range w.requests() {
		got := authorizations(r)
		signedIn := r.URL.Path == "/signed-in"
		if signedIn && (len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ey")) || !signedIn && len(got) != 0 {
			w.t.Errorf("%s, %s: the app was sent %q", what, r.URL, got)
		}
	}
}

// TestAuthorizationFromOutside: what a client says of itself goes on beside what was
// checked, or in its place (Caddy's forward_auth, CVE-2026-30851; oauth2-proxy,
// CVE-2025-64484, by underscores; RFC 9700, section 4.13).
func TestAuthorizationFromOutside(t *testing.T) {
	w := newOpenWorld(t)
	b := w.browser()
	b.login("/sign-in")
	session := b.cookieHeader()
	w.requests()
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, headers := range [][]string{
			{"Authorization", "Bearer made-up"},
			{"Authorization", "Bearer one", "authorization", "Basic two"}, // which of two would the app believe?
			{"AUTHORIZATION", "Bearer made-up", "aUTHORIZATION", ""},
			{"Authorization_", "made-up", "Authorization", "Bearer made-up"},
			{"Authorization", strings.Repeat("x", 8000)},
			{"X-Authorization", "x", "Proxy-Authorization", "Basic eA==", "Authorization", "Negotiate x"},
		} {
			// What only resembles ours is the client's own word, which an app may want.
			resembles := ""
			for i := 0; i < len(headers); i += 2 {
				if name := strings.ToLower(headers[i]); name != "authorization" && strings.Contains(name, "authorization") {
					resembles = headers[i+1]
				}
			}
			for _, r := range []request{{}, {method: "POST", body: "x"}, request{}.withCookie(session), request{method: "POST", body: "x"}.withCookie(session), request{target: "/sign-in"}.withCookie(session)} {
				signedIn := r.headers != nil
				r.headers = append(r.headers, headers...)
				w.expect(send(r), http.StatusOK)
				for _, seen := range w.requests() {
					got := seen.Header["Authorization"]
					if signedIn && (len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ey")) || !signedIn && got != nil {
						t.Errorf("%.60q, signed in %t: the app was sent %q", headers, signedIn, got)
					}
					for _, value := range authorizations(seen) {
						if strings.Contains(value, "made-up") && value != resembles {
							t.Errorf("%.60q: the app was sent %v", headers, seen.Header)
						}
					}
				}
			}
		}
	})
}

// TestAuthorizationByOddLines: a line that one parser takes for an Authorization and
// another does not (RFC 9112, sections 2.2, 5.1 and 5.2: bare LF and CR, a space
// before the colon, folding).
func TestAuthorizationByOddLines(t *testing.T) {
	w := newOpenWorld(t)
	b := w.browser()
	b.login("/sign-in")
	w.requests()
	for path, cookie := range map[string]string{"/nobody": "x=1", "/signed-in": b.cookieHeader()} {
		for _, lines := range []string{
			"X: 1\nAuthorization: Bearer made-up", "X: 1\rAuthorization: Bearer made-up", "Authorization : Bearer made-up", "Authorization\t: Bearer made-up",
			" Authorization: Bearer made-up", "X: 1\r\n Authorization: Bearer made-up", "Authorization:\r\n Bearer made-up", "Authorization: Bearer\x00made-up",
			"Authorization\x00: Bearer made-up", "X: 1\r\r\nAuthorization: Bearer made-up", "\xc2\xa0Authorization: Bearer made-up",
			":authorization: Bearer made-up",
			"Authorization:Bearer made-up", "Authorization: Bearer made-up\r\nAuthorization: Bearer made-up\r\nConnection: Authorization",
		} {
			a := w.raw("GET " + path + " HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + cookie + "\r\nX: 0\r\n" + lines + "\r\nConnection: close\r\n\r\n")
			if a.StatusCode != http.StatusOK && a.StatusCode != http.StatusBadRequest {
				t.Errorf("%q: status %d", lines, a.StatusCode)
			}
			w.expectAuthorization(lines)
		}
	}
}

// TestConnectionNamesOurHeader: a proxy removes what Connection names, after the
// handler has set it (Traefik, CVE-2024-45410; Fabio, CVE-2025-48865). The same goes for
// headers that the site makes of the identity.
func TestConnectionNamesOurHeader(t *testing.T) {
	w := newWorld(t, setup{https: true, caddyfile: "%s\nrequest_header X-Signed-In yes\nreverse_proxy %app"})
	b := w.browser()
	b.login("/")
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, headers := range [][]string{
			{"Connection", "close, Authorization"}, {"Connection", "authorization,X-Signed-In, close"}, {"Connection", ",\t Authorization ,close,"},
			{"Connection", "Authorization", "Connection", "x-signed-in"}, {"connection", "AUTHORIZATION"},
			{"Connection", "keep-alive,Authorization", "Keep-Alive", "Authorization"},
			{"Connection", "Upgrade, Authorization", "Upgrade", "websocket"}, {"Proxy-Connection", "Authorization"},
			{"Connection", "te, authorization", "Te", "trailers"},
			{"Connection", strings.Repeat("x,", 2000) + "Authorization"}, {"Connection", "X-Hop", "X-Hop", "1"},
		} {
			w.requests()
			a := send(request{headers: append([]string{"Cookie", b.cookieHeader(), "X-Signed-In", "made-up"}, headers...)})
			// HTTP/2 has no such header, and refuses it (RFC 9113, section 8.2.2).
			if a.StatusCode != http.StatusOK && (a.StatusCode != http.StatusBadRequest && a.StatusCode != 0 || a.ProtoMajor == 1) {
				t.Errorf("%.60q: status %d", headers, a.StatusCode)
			}
			for _, r := range w.requests() {
				if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") || fmt.Sprint(r.Header["X-Signed-In"]) != "[yes]" || r.Header["X-Hop"] != nil {
					t.Errorf("%.60q: the app was sent %v", headers, r.Header)
				}
			}
		}
	})
}

// TestAuthorizationInTrailer: what comes after the body is forwarded too, announced
// or not, and upstreams that merge trailers into headers would believe it (RFC 9110,
// section 6.5.1, has credentials in none).
func TestAuthorizationInTrailer(t *testing.T) {
	w := newOpenWorld(t)
	b := w.browser()
	b.login("/sign-in")
	w.overEach(func(t *testing.T, send func(request) answer) {
		for path, cookie := range map[string]string{"/nobody": "x=1", "/signed-in": b.cookieHeader()} {
			for _, announced := range [][]string{{"Trailer", "X-Sum"}, {"Trailer", "Authorization, X-Sum"}, {"Trailer", "authorization", "Trailer", "x-sum"}, nil} {
				r := request{method: "POST", target: path, body: "body", headers: announced, trailers: []string{"X-Sum", "1", "Authorization", "Bearer made-up", "authorization", "Bearer two"}}
				a := send(r.withCookie(cookie))
				if a.StatusCode != http.StatusOK && (a.ProtoMajor == 1 || a.StatusCode != 0) { // Go's HTTP/2 refuses it itself
					t.Errorf("%q: status %d", announced, a.StatusCode)
				}
				w.expectAuthorization(fmt.Sprint(announced))
			}
			// Other trailers are the client's to send.
			w.expect(send(request{method: "POST", target: path + "?sum", body: "body", headers: []string{"Trailer", "X-Sum"}, trailers: []string{"X-Sum", "1"}}.withCookie(cookie)), http.StatusOK)
			for _, r := range w.requests() {
				if r.URL.RawQuery == "sum" && r.Trailer.Get("X-Sum") != "1" {
					t.Errorf("the app was sent the trailers %v", r.Trailer)
				}
			}
		}
	})
}

// TestForwardedHeaders: nothing that a client can write changes a URL, a cookie or a
// decision, byte for byte, and be it that Caddy trusts it (oauth2-proxy,
// CVE-2026-40575: X-Forwarded-Uri; caddy-security, CVE-2024-21494, CVE-2024-21498 and
// CVE-2024-21499: X-Forwarded-For, -Host and -Proto; Traefik, GHSA-6384-m2mw-rf54:
// X-Forwarded-Prefix).
func TestForwardedHeaders(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me", global: "servers {\ntrusted_proxies static 0.0.0.0/0 ::/0\n}"})
	var forged []string
	for name, values := range map[string]string{
		"X-Forwarded-*": "For=127.0.0.1 Host=evil.test Proto=http Scheme=http Port=80 Prefix=/x Uri=/oauth2/callback Path=/public " +
			"Method=OPTIONS Server=evil.test Ssl=off User=root Email=root@example.com Groups=root Access-Token=x Preferred-Username=root",
		"X-Original-*": "URL=/logout Uri=/me Host=evil.test Method=POST Path=/public For=127.0.0.1",
		"X-*": "Rewrite-URL=/public Real-Ip=127.0.0.1 Host=evil.test Url-Scheme=http Http-Method-Override=POST Method-Override=POST " +
			"Http-Method=POST Remote-User=root User=root Client-Ip=127.0.0.1 Accel-Redirect=/me Sendfile=/etc/passwd " +
			"Middleware-Subrequest=middleware Auth-Request-Redirect=https://evil.test/ Auth-Request-User=root Auth-Request-Email=root " +
			"Pomerium-Jwt-Assertion=x Goog-Iap-Jwt-Assertion=x Amzn-Oidc-Data=x Envoy-Original-Path=/public",
		"*": "Forwarded=for=127.0.0.1;host=evil.test;proto=http Front-End-Https=off Remote-User=root True-Client-Ip=127.0.0.1 " +
			"Oidc_claim_sub=root Http_x_forwarded_host=evil.test Origin=https://evil.test Referer=https://evil.test/ " +
			"User-Agent=kube-probe/1.30 Via=1.1,evil.test From=root",
	} {
		for pair := range strings.FieldsSeq(values) {
			field, value, _ := strings.Cut(pair, "=")
			forged = append(forged, strings.Replace(name, "*", field, 1), value)
		}
	}
	// What differs by chance, or by the time.
	random := regexp.MustCompile(`(state=|nonce=|code_challenge=|aventus_\w+=)[\w-]*|Date:\[[^]]*\]`)
	dump := func(a answer) string {
		return random.ReplaceAllString(fmt.Sprintf("%d %v %s", a.StatusCode, a.Header, a.body), "$1?")
	}
	b := w.browser()
	b.login("/")
	signedIn := []string{"Cookie", b.cookieHeader()}
	w.overEach(func(t *testing.T, send func(request) answer) {
		compare := func(r request) (plain answer) {
			t.Helper()
			plain = send(r)
			r.headers = append(forged, r.headers...)
			if got := dump(send(r)); got != dump(plain) {
				t.Errorf("%s %s is answered\n%s\ninstead of\n%s", r.method, r.target, got, dump(plain))
			}
			return plain
		}
		page := []string{"Sec-Fetch-Mode", "navigate"}
		for _, r := range []request{
			{target: "/page?x", headers: page}, {target: "/page", headers: []string{"Sec-Fetch-Mode", "cors"}}, {target: "/page", method: "POST"},
			{target: "/me"}, {target: "/logout"},
			{target: "/oauth2/callback?state=x&code=y"}, {target: "/oauth2/callback", method: "POST"}, {target: "/page", headers: signedIn},
			{target: "/me", headers: signedIn},
			{target: "/logout", headers: append([]string{"Sec-Fetch-Site", "cross-site"}, signedIn...)}, {target: "/me", method: "POST", headers: signedIn},
		} {
			compare(r)
		}
		// A login with them all the way, against one without any.
		begun := compare(request{target: "/page?x", headers: page})
		plain := send(w.callback(begun, "auth0|ada"))
		callback := w.callback(send(request{target: "/page?x", headers: append(forged, page...)}), "auth0|ada")
		callback.headers = append(callback.headers, forged...)
		if got := dump(send(callback)); got != dump(plain) || plain.StatusCode != http.StatusSeeOther {
			t.Errorf("the callback is answered\n%s\ninstead of\n%s", got, dump(plain))
		}
	})
}

// TestManyCookies: a header of thousands of empty cookies, or of hundreds with our
// name, each of which has to be opened to be refused (mod_auth_openidc, CVE-2024-24814;
// Go's own parser, CVE-2025-58186). It is an anonymous request and not a slow one; a good
// cookie behind a bad one counts.
func TestManyCookies(t *testing.T) {
	w := newWorld(t, setup{https: true})
	b := w.browser()
	b.login("/")
	good := b.cookieHeader()
	value := b.cookies()[slices.IndexFunc(b.cookies(), func(c *http.Cookie) bool { return c.Name == "__Host-aventus_session" })].Value
	w.overEach(func(t *testing.T, send func(request) answer) {
		for cookie, want := range map[string]int{
			strings.Repeat(";", 3000):                                                    http.StatusFound,
			strings.Repeat("=;", 7000):                                                   http.StatusFound,
			strings.Repeat("__Host-aventus_session=x;", 500):                             http.StatusFound,
			strings.Repeat("__Host-aventus_session="+value[:70]+";", 150):                http.StatusFound, // of a key that is known
			strings.Repeat("__Host-aventus_session=AQ"+strings.Repeat("x", 70)+";", 150): http.StatusFound, // of one that is not
			strings.Repeat("__Host-aventus_login=x;", 500):                               http.StatusFound,
			"__Host-aventus_session=x; " + good:                                          http.StatusOK,
			good + strings.Repeat("; __Host-aventus_session=x", 100):                     http.StatusOK,
			strings.Repeat(";", 3000) + good:                                             http.StatusOK,
			strings.Replace(good, "__Host-aventus_session=", "x=", 1):                    http.StatusFound,
			strings.ReplaceAll(good, "aventus_session", "AVENTUS_SESSION"):               http.StatusFound,
		} {
			w.requests()
			a := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}}.withCookie(cookie))
			if a.StatusCode != want {
				t.Errorf("%.60s: status %d, want %d", cookie, a.StatusCode, want)
			}
			for _, r := range w.requests() {
				if strings.Contains(r.Header.Get("Cookie"), "aventus_") {
					t.Errorf("%.60s: the app was sent %s", cookie, r.Header.Get("Cookie"))
				}
			}
		}
	})
}

// TestHugeRequests: what is as long as Caddy lets it be (16 KiB of headers) makes
// nothing panic, and no error of the server's; and the largest cookies that there can
// be get through.
func TestHugeRequests(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me\naccept_bearer"})
	w.overEach(func(t *testing.T, send func(request) answer) {
		for piece, n := range map[string]int{"%": 15_000, "%25": 15_000, ";": 15_000, "//": 15_000, "/../": 15_000, "a=b&": 15_000, "eyJ.": 15_000, "{env.X}": 15_000, "\\": 15_000, ",": 15_000, "-": 15_000, "x": 40_000} {
			long := strings.Repeat(piece, n/len(piece))
			for _, r := range []request{
				{target: "/" + long}, {target: "/?" + long}, {target: "/oauth2/callback?" + long}, {target: "/oauth2/callback?code=x&state=" + long},
				{target: "/me?" + long},
				{headers: []string{"Cookie", "__Host-aventus_session=" + long}}, {headers: []string{"Cookie", long, "Sec-Fetch-Mode", "cors"}},
				{headers: []string{"Authorization", "Bearer " + long}},
				{headers: []string{"Accept", long}}, {headers: []string{"Connection", long, "Upgrade", long}},
				{target: "/logout", headers: []string{"Sec-Fetch-Site", long}}, {host: long},
			} {
				if a := send(r); a.StatusCode >= 500 {
					t.Errorf("%d times %q, %.30q: status %d", len(long)/len(piece), piece, fmt.Sprint(r), a.StatusCode)
				}
			}
		}
	})
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}

	w = newWorld(t, setup{https: true, issuer: func(s *aventustest.Server) { s.TokenChars = 3700 }, sites: func(w *world) string {
		site := w.site + " {\ntls internal\n"
		for _, name := range []string{"a", "b", "c"} {
			site += w.directive("/"+name, "session {\nname "+strings.Repeat(name, 20)+"\n}") + "\n"
		}
		return site + "reverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	for _, path := range []string{"/a", "/b", "/c"} {
		b.login(path)
	}
	if n := len(b.cookieHeader()); n < 11_500 {
		t.Errorf("the cookies have %d bytes", n)
	}
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, path := range []string{"/a", "/b", "/c"} {
			w.expect(send(request{target: path}.withCookie(b.cookieHeader())), http.StatusOK)
		}
	})
}

// TestFloodLeavesNothing: a flood of requests without a session leaves nothing behind
// on the server: no state of a login begun, no record of a callback that is none.
func TestFloodLeavesNothing(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "session {\nstore storage\n}"})
	w.expect(w.http1(request{}), http.StatusFound)
	files := func() (n int) {
		err := filepath.WalkDir(filepath.Join(w.dir, "storage", "aventus_auth"), func(_ string, _ fs.DirEntry, err error) error {
			n++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := files()
	w.overEach(func(t *testing.T, send func(request) answer) {
		for i := range 100 {
			begun := send(request{})
			w.expect(begun, http.StatusFound)
			w.expect(send(request{target: fmt.Sprintf("/oauth2/callback?code=%d&state=%d", i, i)}), http.StatusBadRequest)
			another := w.callback(begun, "auth0|ada") // in a browser that did not begin it
			another.headers = nil
			w.expect(send(another), http.StatusFound)
		}
	})
	if n := files(); n != before {
		t.Errorf("%d files and folders in the storage, want the %d of the start", n, before)
	}
	w.expectTokenRequests(0)
}

// TestMarkupInTheCallback: what comes with a callback is shown in the site's error page
// (nextjs-auth0, CVE-2021-32702; caddy-security, CVE-2023-52430), starts a new line in the
// log, or acts on the terminal that shows it.
func TestMarkupInTheCallback(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, setup{https: true, block: "profile /me", caddyfile: "log\n%s\nreverse_proxy %app" + errorsShown,
		global: "log plain {\noutput file " + dir + "/log\nformat console {\nlevel_format upper\n}\nlevel DEBUG\n}",
		issuer: func(s *aventustest.Server) {
			s.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"nickname": "<script>evil()</script>"} }
		}})
	const payload = "<script>evil()</script>\"'\r\nSet-Cookie: evil=1\r\n\x1b[31mevil\x00\u202eevil {env.TEST_CLIENT_SECRET}"
	quoted := url.QueryEscape(payload)
	w.overEach(func(t *testing.T, send func(request) answer) {
		begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
		good := w.callback(begun, "auth0|ada")
		state := query(good.target, "state")
		for _, callback := range []string{
			"?error=" + quoted + "&state=" + state, "?error=access_denied&error_description=" + quoted + "&error_uri=" + quoted + "&state=" + state,
			"?code=" + quoted + "&state=" + state + "&iss=" + quoted,
			"?code=x&state=" + quoted, "?" + quoted + "=x&state=" + state, "?code=" + quoted + t.Name() + "&state=" + state, "?" + quoted, "?x=%zz" + quoted,
		} {
			a := send(request{target: "/oauth2/callback" + callback, headers: append([]string{"User-Agent", "<b>evil", "Accept", "<b>evil", "Sec-Fetch-Mode", "navigate"}, good.headers...)})
			if text := fmt.Sprint(a.Header, a.body); a.StatusCode < 400 || strings.Contains(text, "evil") || strings.Contains(text, testSecret) {
				t.Errorf("%s: status %d, %s", callback, a.StatusCode, text)
			}
		}
	})
	// What stands in the log of our own lines is one line each, and plain.
	plain := readFile(t, dir+"/log")
	for _, log := range []string{plain, w.log()} {
		for line := range strings.Lines(log) {
			ours := strings.Contains(line, "http.handlers.aventus_auth")
			if strings.ContainsAny(line, "\x1b\x00\r\u202e") || ours && strings.Contains(line, testSecret) || !strings.HasPrefix(line, "{") && !regexp.MustCompile(`^\d{4}/\d\d/\d\d `).MatchString(line) {
				t.Errorf("the log has the line %q", line)
			}
		}
	}
	if !strings.Contains(plain, "answered <script>evil()</script>") && !strings.Contains(plain, `\u003cscript`) {
		t.Error("the log does not say what the server said")
	}

	// The profile is no page, whatever the claims are.
	b := w.browser()
	b.login("/")
	a := b.get("/me")
	if !strings.Contains(a.body, "evil()") || strings.ContainsAny(a.body, "<>") || a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the profile is %v %s", a.Header, a.body)
	}
}

// TestErrorsLeadNowhereElse: an error route that needs a login itself, and one that
// leads back to what failed, end; neither lets anybody in.
func TestErrorsLeadNowhereElse(t *testing.T) {
	w := newWorld(t, setup{https: true, sites: func(w *world) string {
		return w.site + " {\ntls internal\n" + w.directive("", "unauthenticated deny\nlogout /logout") + "\nreverse_proxy " + w.app +
			"\nhandle_errors {\nrewrite /private\n" + w.directive("", "logout /logout") + "\nreverse_proxy " + w.app + "\n}\n}"
	}})
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, r := range []request{{}, {method: "POST", body: "x"}, {target: "/oauth2/callback?state=x&code=y"}, {target: "/logout", headers: []string{"Sec-Fetch-Site", "cross-site"}}} {
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
// smuggling; RFC 9113, section 3.1, deprecates it) is sent whatever comes next past
// every check, with any path and any identity. Nothing but a WebSocket is asked of it,
// not even where the matcher leaves a request out: what comes in the tunnel is not for
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
// client says it is either (the same as from outside, by another way in).
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
