package aventusauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestUnverifiedBearerSpeltOtherwise: apps are lax about Authorization. Many end the scheme at any blank
// (Python's split(), JavaScript's \s, which knows U+00A0 too), or look for "Bearer" anywhere. With
// accept_bearer, no such header goes on that was not verified, beside a session or without one.
func TestUnverifiedBearerSpeltOtherwise(t *testing.T) {
	lines := []string{
		"Bearer\tforged", "bearer\t forged", "Bearer\xa0forged", "Bearer\u00a0forged", "BEARER\u3000forged",
		"Bearer:forged", "Bearer=forged", "Basic eDp5, Bearer forged", "Basic eDp5,bearer\tforged", ", Bearer forged",
		"x Bearer forged", `Digest x="Bearer forged"`,
	}
	for _, mode := range []string{"auto", "pass"} {
		w := newWorld(t, setup{block: "accept_bearer\ntoken_header X-Access-Token\nunauthenticated " + mode})
		b := w.browser()
		if mode == "auto" {
			b.login("/")
		}
		for _, line := range append(lines, "Bearer forged") {
			a := b.do("GET", "/", "Authorization", line)
			seen := w.requests()
			if mode == "pass" && (a.StatusCode != http.StatusUnauthorized || len(seen) > 0) {
				t.Errorf("without a session, %q: status %d, the app got %v", line, a.StatusCode, seen)
			}
			if mode == "auto" && (len(seen) != 1 || seen[0].Header["Authorization"] != nil) {
				t.Errorf("with a session, %q: status %d, the app got %v", line, a.StatusCode, seen)
			}
		}
		// Other schemes go on as they came, and a good token does.
		for _, line := range []string{"Basic QmVhcmVy", "Basic Bearer1/x+Bearer0=", "Forbearer x"} {
			w.expect(b.do("GET", "/", "Authorization", line), http.StatusOK)
			if seen := w.requests(); seen[0].Header.Get("Authorization") != line {
				t.Errorf("%q arrived as %q", line, seen[0].Header.Get("Authorization"))
			}
		}
		if mode == "pass" {
			line := "bearer  " + w.issuer.SignJWT(w.tokenClaims(nil))
			w.expect(b.do("GET", "/", "Authorization", line), http.StatusOK)
			got := w.requests()[0].Header
			if got.Get("Authorization") != line || !strings.HasPrefix(got.Get("X-Access-Token"), "ey") {
				t.Errorf("a good token: %v", got)
			}
		}
	}
}

// TestTargetOfAsterisk: "*" is no path, but a target of any method (RFC 9112, section 3.2.4, has it for
// OPTIONS alone). No path matcher matches it, not even "/*", and apps answer it with the page that they
// have for whatever they do not know.
func TestTargetOfAsterisk(t *testing.T) {
	for _, matcher := range []string{
		"path /*", "expression {path}.startsWith('/')", "vars_regexp {uri} ^/", "not path /public/*",
	} {
		w := newWorld(t, setup{https: true, matcher: "@m", caddyfile: "@m " + matcher + "\n%s\nreverse_proxy %app"})
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, method := range []string{"GET", "POST", "PROPFIND"} {
				a := send(request{method: method, target: "*"})
				if seen := w.requests(); a.StatusCode/100 == 2 || len(seen) > 0 {
					t.Errorf("%s: %s *: status %d, the app got %d requests", matcher, method, a.StatusCode, len(seen))
				}
			}
		})
	}
}

// TestMethodSpeltOtherwise: a method is case-sensitive, but Django, Werkzeug and Symfony take post for POST.
func TestMethodSpeltOtherwise(t *testing.T) {
	for _, matcher := range []string{
		"method POST DELETE", "not method GET HEAD", "expression `method('POST')`", "expression {method} == 'POST'",
		"vars {http.request.orig_method} POST",
		"expression `{method} == 'POST' && {path} == '/x' && host('localhost')`",
	} {
		w := newWorld(t, setup{https: true, matcher: "@m", caddyfile: "@m " + matcher + "\n%s\nreverse_proxy %app"})
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, method := range []string{"POST", "post", "Post", "pOST"} {
				a := send(request{method: method, target: "/y/../x", headers: []string{"Content-Length", "0"}})
				if seen := w.requests(); a.StatusCode != http.StatusUnauthorized || len(seen) > 0 {
					t.Errorf("%s: %s: status %d, the app got %d requests", matcher, method, a.StatusCode, len(seen))
				}
			}
			w.requests()
			a := send(request{target: "/x"})
			if seen := w.requests(); a.StatusCode != http.StatusOK || len(seen) != 1 {
				t.Errorf("%s: GET: status %d, the app got %d requests", matcher, a.StatusCode, len(seen))
			}
			if strings.HasPrefix(matcher, "not ") {
				return
			}
			if send(request{method: "get", target: "/x"}); len(w.requests()) != 1 {
				t.Errorf("%s: get is not passed on", matcher)
			}
		})
	}
}

// TestHostThatIsNone: what is no host and port is one to apps all the same. Many cut it at the first
// colon; others make a URL of it, which decodes it and knows user names.
func TestHostThatIsNone(t *testing.T) {
	w := newWorld(t, setup{https: true, sites: func(w *world) string {
		return "https://localhost:" + w.port + ", https://:" + w.port + " {\ntls internal\n@m host private.test\n" +
			w.directive("@m", "") + "\nreverse_proxy " + w.app + "\n}"
	}})
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, host := range []string{
			"private.test:1:2", "private%2etest", "private.test,public.test", "private.test;x",
			"[::ffff:private.test]", "private.test]x", "public.test:@private.test", "public.test:@private.test:80",
			"public.test@private.test", "private.test/x", "private.test#", `private.test\x`, "private.test?x",
			"private.test x", "ｐrivate.test", "public.test:65536", "public.test:99999",
		} {
			a := send(request{host: host})
			if seen := w.requests(); a.StatusCode/100 == 2 || len(seen) > 0 {
				t.Errorf("%s: status %d, the app got %d requests", host, a.StatusCode, len(seen))
			}
		}
		for _, host := range []string{
			"public.test", "public.test:80", "PUBLIC.test.", "a_b.test", "127.0.0.1:" + w.port,
			"[::1]:" + w.port, "[::1]", "public.test:", "public.test:00080", "public.test:65535",
			"1.2.3.4.5", "xn--a.test",
		} {
			a := send(request{host: host})
			if seen := w.requests(); a.StatusCode != http.StatusOK || len(seen) != 1 {
				t.Errorf("%s: status %d, the app got %d requests", host, a.StatusCode, len(seen))
			}
		}
	})
}

// TestHostThatIsNoURL: Caddy's url_pattern makes a URL of the host (https://url.spec.whatwg.org/#host-parsing). It
// matches nothing if that fails, also not by its path.
func TestHostThatIsNoURL(t *testing.T) {
	for _, matcher := range []string{
		"url_pattern /private/*", "not {\nnot url_pattern /private/*\n}", "expression `url_pattern('/private/*')`",
		"url_pattern /private/* {\nignore_case\n}", "{\nhost *.test *.999 1.2.3.4.5\nurl_pattern /private/*\n}",
	} {
		w := newWorld(t, setup{https: true, sites: func(w *world) string {
			return "https://localhost:" + w.port + ", https://:" + w.port + " {\ntls internal\n@m " + matcher + "\n" +
				w.directive("@m", "") + "\nreverse_proxy " + w.app + "\n}"
		}})
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, host := range []string{
				"a.test", "A.test.", "a_b.test", "a.test:1", "a.test:", "a.test:65536", "a.test:99999", "x.999",
				"1.2.3.4.5", "xn--a.test",
			} {
				for _, path := range []string{"/private/x", "/private/x?a", "/private/x?a#b", "/y/..%2fprivate/x"} {
					a := send(request{host: host, target: path})
					if seen := w.requests(); a.StatusCode/100 == 2 || len(seen) > 0 {
						t.Errorf("%s: %s%s: status %d, the app got %d requests", matcher, host, path, a.StatusCode,
							len(seen))
					}
				}
			}
			for _, host := range []string{
				"a.test", "a_b.test:1", "a.test.", "1.2.3.4", "xn--bcher-kva.test", "[::1]",
			} {
				a := send(request{host: host, target: "/public/x?a;%"})
				if seen := w.requests(); a.StatusCode != http.StatusOK || len(seen) != 1 {
					t.Errorf("%s: %s: status %d, the app got %d requests", matcher, host, a.StatusCode, len(seen))
				}
			}
		})
	}
}

// TestRequestWithoutHost: reverse_proxy asks the app by the upstream's own address then, which may be the protected
// host's name.
func TestRequestWithoutHost(t *testing.T) {
	p := newParts(t)
	m := newMatching(caddyhttp.MatcherSets{{caddyhttp.MatchHost{"private.test"}}})
	for host, want := range map[string]bool{"": true, ":80": true, "private.test": true, "public.test": false} {
		r := p.request("GET", "/")
		r.Host = host
		if got, err := m.protects(r); got != want || err != nil {
			t.Errorf("%q: protected %t, error %v", host, got, err)
		}
	}
	// A health check is refused by no matcher that does not look at the host.
	for matcher, want := range map[string]bool{
		"path /private/*": false, "not path /health /assets/*": false, "path_regexp ^/p": false, "method POST": false,
		"not host public.test": true, "path /{host}/*": true, "not {\nhost public.test\npath /health\n}": true,
		"expression {host}.startsWith('p')": true, "not {\nnot host private.test\n}": true,
		"not {\nnot path /private/*\n}": false,
	} {
		newWorld(t, setup{matcher: "@m", caddyfile: "@m " + matcher + "\n%s\nreverse_proxy %app"})
		r := p.request("GET", "/health")
		r.Host = ""
		if got, err := handlers()[0].house.gate.matching.protects(r); got != want || err != nil {
			t.Errorf("%s: a health check is protected: %t, error %v", matcher, got, err)
		}
	}
}

// TestWordsAreNoTemplate: templates executes what respond has put into a page, and the words of a callback
// are the visitor's to edit, as its state is in their hands.
func TestWordsAreNoTemplate(t *testing.T) {
	t.Setenv("TEST_CANARY", "the canary")
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app\n" +
		"handle_errors {\ntemplates\nheader Content-Type text/html\n" +
		`respond "<p>{http.aventus_auth.server_error}: {http.aventus_auth.server_error_description}</p>"` + "\n}"})
	for _, words := range []string{
		`{{env "TEST_CANARY"}}`, "{\x00{env `TEST_CANARY`}\u202e}", `{{{{env "TEST_CANARY"}}`,
		`{ {{{env "TEST_CANARY"}}}}`,
	} {
		b := w.browser()
		begun, err := url.Parse(b.begin("/"))
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range []string{"access_denied", words} {
			a := b.get("/oauth2/callback?" + url.Values{
				"state": begun.Query()["state"], "error": {code}, "error_description": {words},
			}.Encode())
			if strings.Contains(a.body, "the canary") || !strings.Contains(a.body, "TEST_CANARY") {
				t.Errorf("%q: status %d, %s", words, a.StatusCode, a.body)
			}
		}
	}
}

// TestTokenHeaderByAnAlias: some servers take whatever is no letter or digit in a header's name for an underscore, as
// CGI takes a hyphen. Nothing that is such an alias of the token's header goes on.
func TestTokenHeaderByAnAlias(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass\ntoken_header X-Access-Token"})
	headers := []string{"X-Access-Tokens", "kept", "XX-Access-Token", "kept"}
	for _, mark := range "!#$%&'*+-.^_`|~" {
		headers = append(headers, strings.ReplaceAll("x-access-token", "-", string(mark)), "forged",
			"X-Access"+string(mark)+"Token", "forged")
	}
	w.expect(w.http1(request{headers: headers}), http.StatusOK)
	seen := w.requests()[0]
	if seen.Header.Get("X-Access-Tokens") != "kept" || seen.Header.Get("XX-Access-Token") != "kept" {
		t.Errorf("other fields are gone: %v", seen.Header)
	}
	for name, lines := range seen.Header {
		if strings.Contains(strings.Join(lines, " "), "forged") {
			t.Errorf("%s: %q", name, lines)
		}
	}
}
