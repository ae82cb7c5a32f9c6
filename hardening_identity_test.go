package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// newOpenWorld starts a world where only /sign-in needs a session.
func newOpenWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, setup{https: true, sites: func(w *world) string {
		return w.site + " {\ntls internal\n" + w.directive("/sign-in", "") + "\n" +
			w.directive("", "unauthenticated pass") + "\nreverse_proxy " + w.app + "\n}"
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
				if name := strings.ToLower(headers[i]); name != "authorization" &&
					strings.Contains(name, "authorization") {
					resembles = headers[i+1]
				}
			}
			for _, r := range []request{
				{}, {method: "POST", body: "x"}, request{}.withCookie(session), request{
					method: "POST", body: "x",
				}.withCookie(session), request{target: "/sign-in"}.withCookie(session),
			} {
				signedIn := r.headers != nil
				r.headers = append(r.headers, headers...)
				w.expect(send(r), http.StatusOK)
				for _, seen := range w.requests() {
					got := seen.Header["Authorization"]
					if signedIn && (len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ey")) ||
						!signedIn && got != nil {
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
			"X: 1\nAuthorization: Bearer made-up", "X: 1\rAuthorization: Bearer made-up",
			"Authorization : Bearer made-up", "Authorization\t: Bearer made-up",
			" Authorization: Bearer made-up", "X: 1\r\n Authorization: Bearer made-up",
			"Authorization:\r\n Bearer made-up", "Authorization: Bearer\x00made-up",
			"Authorization\x00: Bearer made-up", "X: 1\r\r\nAuthorization: Bearer made-up",
			"\xc2\xa0Authorization: Bearer made-up",
			":authorization: Bearer made-up",
			"Authorization:Bearer made-up",
			"Authorization: Bearer made-up\r\nAuthorization: Bearer made-up\r\nConnection: Authorization",
		} {
			a := w.raw("GET " + path + " HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + cookie +
				"\r\nX: 0\r\n" + lines + "\r\nConnection: close\r\n\r\n")
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
			{"Connection", "close, Authorization"}, {"Connection", "authorization,X-Signed-In, close"},
			{"Connection", ",\t Authorization ,close,"},
			{"Connection", "Authorization", "Connection", "x-signed-in"}, {"connection", "AUTHORIZATION"},
			{"Connection", "keep-alive,Authorization", "Keep-Alive", "Authorization"},
			{"Connection", "Upgrade, Authorization", "Upgrade", "websocket"}, {"Proxy-Connection", "Authorization"},
			{"Connection", "te, authorization", "Te", "trailers"},
			{"Connection", strings.Repeat("x,", 2000) + "Authorization"}, {"Connection", "X-Hop", "X-Hop", "1"},
		} {
			w.requests()
			a := send(request{
				headers: append([]string{"Cookie", b.cookieHeader(), "X-Signed-In", "made-up"}, headers...),
			})
			// HTTP/2 has no such header, and refuses it (RFC 9113, section 8.2.2).
			if a.StatusCode != http.StatusOK &&
				(a.StatusCode != http.StatusBadRequest && a.StatusCode != 0 || a.ProtoMajor == 1) {
				t.Errorf("%.60q: status %d", headers, a.StatusCode)
			}
			for _, r := range w.requests() {
				if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") ||
					fmt.Sprint(r.Header["X-Signed-In"]) != "[yes]" || r.Header["X-Hop"] != nil {
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
			for _, announced := range [][]string{
				{"Trailer", "X-Sum"}, {"Trailer", "Authorization, X-Sum"},
				{"Trailer", "authorization", "Trailer", "x-sum"}, nil,
			} {
				r := request{method: "POST", target: path, body: "body", headers: announced,
					trailers: []string{"X-Sum", "1", "Authorization", "Bearer made-up", "authorization", "Bearer two"}}
				a := send(r.withCookie(cookie))
				// Go's HTTP/2 refuses it itself
				if a.StatusCode != http.StatusOK && (a.ProtoMajor == 1 || a.StatusCode != 0) {
					t.Errorf("%q: status %d", announced, a.StatusCode)
				}
				w.expectAuthorization(fmt.Sprint(announced))
			}
			// Other trailers are the client's to send.
			w.expect(send(request{
				method: "POST", target: path + "?sum", body: "body", headers: []string{"Trailer", "X-Sum"},
				trailers: []string{"X-Sum", "1"},
			}.withCookie(cookie)), http.StatusOK)
			for _, r := range w.requests() {
				if r.URL.RawQuery == "sum" && r.Trailer.Get("X-Sum") != "1" {
					t.Errorf("the app was sent the trailers %v", r.Trailer)
				}
			}
		}
	})
}

// TestErrorRoutes: what leads from an error to an upstream is not told who the
// client says it is either (the same as from outside, by another way in).
func TestErrorRoutes(t *testing.T) {
	w := newWorld(t, setup{
		block:     "logout /logout",
		caddyfile: "%s\nreverse_proxy %app\nhandle_errors {\nrewrite * /{err.status_code}?\nreverse_proxy %app\n}",
	})
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
	w := newWorld(t, setup{block: "unauthenticated pass",
		caddyfile: "%s\nrequest_header X-User-Id {http.auth.user.id}\n" +
			"reverse_proxy %app {\nheader_up X-User-Email {http.auth.user.email}\n}"})
	w.expect(w.browser().do("GET", "/", "X-User-Id", "made-up", "X-User-Email", "made@up"), http.StatusOK)
	r := w.requests()[0].Header
	if r.Get("X-User-Id") != "" || r.Get("X-User-Email") != "" || r["Authorization"] != nil {
		t.Errorf("the app was told %v", r)
	}
}

// TestUserOfAnotherHandler: a password for the whole site in front names its own user by the placeholders that name
// ours, and Caddy asks it first. Apps, and the access log, would take each visitor for that user.
func TestUserOfAnotherHandler(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n@preview header Authorization *\nroute {\nbasic_auth @preview {\n" +
			"preview $2a$04$/LE3jnMO9A66uUm9ciUd..FiD0pJ/AWTW1fcvzGU2xOPM4GTQQG5K\n}\n" +
			w.directive("/sign-in", "") + "\n" + w.directive("", "unauthenticated pass") +
			"\nreverse_proxy " + w.app + " {\nheader_up X-User-Id {http.auth.user.id}\n}\n}\n}"
	}})
	b := w.browser()
	b.login("/sign-in")
	w.requests()
	for want, by := range map[string]*browser{"auth0|ada": b, "": w.browser()} {
		w.expect(by.do("GET", "/", "Authorization", "Basic cHJldmlldzpwdw=="), http.StatusOK)
		if got := w.requests()[0].Header.Get("X-User-Id"); got != want {
			t.Errorf("the app is told %q, want %q", got, want)
		}
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
			return w.site + " {\n" + w.directive("/root", "require_scope root") + "\n" +
				w.directive("/team", "require_claim team engines") +
				"\n" + w.directive("", "") + "\nrespond {http.auth.user.scope}\n}"
		},
	})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); a.body != "" {
		t.Errorf("granted: %s", a.body)
	}
	w.expect(b.get("/root"), http.StatusForbidden)
	w.expect(b.get("/team"), http.StatusOK)
}

// TestTokenHeaderFromOutside: nobody sends a token of their own in the header of token_header, under any of
// the names that an app could read it by (as in oauth2-proxy's CVE-2025-64484), nor has ours taken away.
func TestTokenHeaderFromOutside(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass\ntoken_header X-Access-Token"})
	request := "GET / HTTP/1.1\r\nHost: localhost:" + w.port +
		"\r\nConnection: close, X-Access-Token, Authorization\r\n" +
		"X-Access-Token: forged\r\nx_access_token: forged\r\nX-Access_token: forged\r\nAuthorization: Basic " +
		"eA==\r\n\r\n"
	w.expect(w.raw(request), http.StatusOK)
	for name, lines := range w.requests()[0].Header {
		if strings.Contains(strings.Join(lines, " "), "forged") || name == "Authorization" {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

// TestUnverifiedBearerGoesNowhere: with accept_bearer, an app may believe each Bearer token that it gets. One
// that was not verified, since a session came first, does not go on with token_header either.
func TestUnverifiedBearerGoesNowhere(t *testing.T) {
	w := newWorld(t, setup{block: "accept_bearer\ntoken_header X-Access-Token"})
	b := w.browser()
	b.login("/")
	w.expect(b.do("GET", "/", "Authorization", "bearer forged"), http.StatusOK)
	if header := w.requests()[0].Header; header["Authorization"] != nil ||
		!strings.HasPrefix(header.Get("X-Access-Token"), "ey") {
		t.Errorf("%v", header)
	}
}
