package aventusauth

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// leadsTo returns the origin that a redirect leads a browser to, by what browsers
// do with a Location and not by what Go does (https://url.spec.whatwg.org/#url-parsing):
// they strip tabs and line breaks, take backslashes for slashes, and any number of
// these for two. It is strict: what this module has no reason to send is an error.
func leadsTo(base, location string) (origin string, err error) {
	if strings.ContainsFunc(location, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%q holds what browsers strip or rewrite", location)
	}
	scheme, rest, absolute := strings.Cut(location, ":")
	for i, c := range strings.ToLower(scheme) {
		letter := 'a' <= c && c <= 'z'
		absolute = absolute && (letter || i > 0 && strings.ContainsRune("0123456789+-.", c))
	}
	baseScheme, baseHost, _ := strings.Cut(base, "://")
	baseHost = baseHost[:strings.IndexAny(baseHost+"/", "/?#")]
	switch scheme = strings.ToLower(scheme); {
	case !absolute || scheme == "":
		scheme, rest = baseScheme, location // relative
	case scheme != "http" && scheme != "https":
		return "", fmt.Errorf("%q leads to the scheme %s", location, scheme) // javascript:, data:
	case scheme != baseScheme && !strings.HasPrefix(rest, "//"):
		rest = "//" + rest // "https:evil.test", from an http page
	}
	slashes := len(rest) - len(strings.TrimLeft(rest, `/\`))
	if slashes < 2 {
		return baseScheme + "://" + baseHost, nil // a path, a query or a fragment
	}
	host := rest[slashes:]
	host = strings.ToLower(host[:strings.IndexAny(host+"/", `/\?#`)])
	if strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.:[]") != "" || host == "" {
		return "", fmt.Errorf("%q has credentials, or a host that is none", location)
	}
	return scheme + "://" + host, nil
}

// TestLeadsTo: what the oracle says is what Chromium, Firefox and Node's URL say.
func TestLeadsTo(t *testing.T) {
	for location, want := range map[string]string{
		"/x": "same", "x": "same", "": "same", "?x": "same", "#//evil.test": "same", "x:y/": "",
		"/x://evil.test": "same",
		"//evil.test":    "https://evil.test", `/\evil.test`: "https://evil.test", `\\evil.test`: "https://evil.test",
		`\/evil.test/x`: "https://evil.test",
		"///evil.test":  "https://evil.test", `//\//evil.test?x`: "https://evil.test",
		`//evil.test\@localhost`: "https://evil.test",
		"https:evil.test":        "same", "https:/evil.test": "same", "https://evil.test": "https://evil.test",
		"HTTPS:///EVIL.test": "https://evil.test",
		"http:evil.test":     "http://evil.test", "http:/evil.test": "http://evil.test",
		`http:\evil.test`: "http://evil.test",
		"//evil.test:1#":  "https://evil.test:1", "//localhost:8443@evil.test": "", "//a%2eb": "",
		"//_x.test": "https://_x.test", "javascript:alert(1)": "", "data:,x": "",
		"/\t/evil.test": "", " //evil.test": "", "//": "", "/%2f/evil.test": "same", "/%5cevil.test": "same",
		"1:x": "same", "./:x": "same",
	} {
		got, err := leadsTo("https://localhost:8443/page", location)
		if want == "same" {
			want = "https://localhost:8443"
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q leads to %q, %v, want %q", location, got, err, want)
		}
	}
}

// expectRedirect checks that an answer leads to a URL of that origin, and to nothing
// else.
func (w *world) expectRedirect(a answer, status int, origin string) {
	w.t.Helper()
	w.expect(a, status)
	lines := a.Header["Location"]
	if len(lines) != 1 {
		w.t.Fatalf("%s: Location %q", a.Request.URL, lines)
	}
	if got, err := leadsTo(w.site+"/page", lines[0]); err != nil || got != origin {
		w.t.Errorf("%s: leads to %q, want %s; %v", a.Request.URL, got, origin, err)
	}
}

// callback returns the path and query of the callback that somebody's login, begun by
// that answer, ends with, and the cookie that has to come with it.
func (w *world) callback(begun answer, sub string) request {
	w.t.Helper()
	u, err := url.Parse(begun.location())
	if err != nil {
		w.t.Fatal(err)
	}
	to, err := w.issuer.IssueCode(u.Query(), sub)
	if err != nil {
		w.t.Fatal(err)
	}
	binding := begun.Cookies()[0]
	return request{target: to.RequestURI()}.withCookie(binding.Name + "=" + binding.Value)
}

// TestOpenRedirect: a path that browsers take for a host sends the visitor there after
// the login (express-openid-connect, CVE-2022-24794: //evil.test; oauth2-proxy,
// CVE-2020-5233: /\evil.test; mod_auth_openidc, CVE-2022-23527: /<tab>/evil.test).
func TestOpenRedirect(t *testing.T) {
	w := newWorld(t, setup{https: true, names: []string{"evil.test"}, sites: func(w *world) string {
		// The second name stands for a server that answers to all names.
		return w.site + ", https://evil.test:" + w.port + " {\ntls internal\n" + w.directive("", "") +
			"\nreverse_proxy " + w.app + "\n}"
	}})
	issuer := strings.TrimSuffix(w.issuer.Issuer, "/")
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, r := range []request{
			{target: "//evil.test/x"}, {target: "//evil.test/%2e%2e"}, {target: "///evil.test"},
			{target: "////evil.test"},
			{target: `/\evil.test`}, {target: `//\evil.test`}, {target: `/\/evil.test`}, {target: `\\evil.test`},
			{target: "/%5cevil.test"}, {target: "/%2f/evil.test"}, {target: "/%09/evil.test"},
			{target: "/\t/evil.test"},
			{target: "/%0d%0aLocation:%20https://evil.test/"}, {target: "/%0a/evil.test"}, {target: "/x?\r/evil.test"},
			{target: "/..//evil.test"}, {target: "/x/../..//evil.test"}, {target: "/.//evil.test"},
			{target: "/%2e%2e//evil.test"},
			{target: "http://evil.test/x"}, {target: "https://evil.test/x", host: "evil.test"},
			{target: "http://evil.test//evil.test"},
			{target: "https://evil.test:1/x"}, {target: "https:evil.test/x"}, {target: "https:/evil.test/x"},
			{target: "//user@evil.test/"},
			{target: "@evil.test/x"}, {target: ".evil.test/x"}, {target: ":1@evil.test/"}, {target: "*"},
			{target: "evil.test"}, {target: "?//evil.test"},
			{target: "javascript:alert(1)"}, {target: "javascript://%0aalert(1)"}, {target: "data:text/html,x"},
			{target: "/x", host: "evil.test"}, {target: "//evil.test/x", host: "evil.test"},
			{target: "/x", host: "evil.test@localhost"},
			{target: "/x?rd=https://evil.test/&returnTo=//evil.test&redirect_url=//evil.test&next=//evil.test"},
		} {
			r.headers = []string{
				"Sec-Fetch-Mode", "navigate", "Referer", "https://evil.test/", "Origin", "https://evil.test",
			}
			begun := send(r)
			if begun.StatusCode != http.StatusFound {
				if begun.Header["Location"] != nil {
					t.Errorf("%+v: status %d, to %q", r, begun.StatusCode, begun.Header["Location"])
				}
				continue // refused as malformed, before it is anybody's
			}
			w.expectRedirect(begun, http.StatusFound, issuer)
			w.expectRedirect(send(w.callback(begun, "auth0|ada")), http.StatusSeeOther, w.site)
		}
	})
	for _, r := range w.requests() {
		t.Errorf("the app was reached: %s %s", r.Method, r.URL)
	}
}

// TestOpenRedirectAtLogout: where the logout leads to is nobody's to choose
// (mod_auth_openidc, CVE-2021-32786: a parameter of its logout).
func TestOpenRedirectAtLogout(t *testing.T) {
	for block, origin := range map[string]string{
		"logout /logout /bye":                        "the site",
		"logout /logout\nlogout_provider":            "the issuer",
		"logout /logout /bye\nlogout_provider":       "the issuer",
		"logout /logout https://www.example.com/bye": "https://www.example.com",
	} {
		w := newWorld(t, setup{https: true, block: block})
		origin := strings.NewReplacer("the site", w.site, "the issuer",
			strings.TrimSuffix(w.issuer.Issuer, "/")).Replace(origin)
		plain := w.http1(request{target: "/logout"}).location()
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, query := range []string{
				"", "?", "?signed_out=1", "?return_url=//evil.test",
				"?returnTo=https://evil.test/&logout=https://evil.test/", "?%73igned_out", "?//evil.test",
			} {
				a := send(request{
					target: "/logout" + query, headers: []string{
						"Referer", "https://evil.test/", "X-Forwarded-Host", "evil.test",
					},
				})
				w.expectRedirect(a, http.StatusSeeOther, origin)
				if a.location() != plain {
					t.Errorf("%s, %q: leads to %s, want %s", block, query, a.location(), plain)
				}
			}
		})
	}
}

// TestAuthorizeParameterInjection: what stands in the URL that is asked for becomes
// a parameter of the authorize request (nextjs-auth0, CVE-2025-67716). Each is there
// once (RFC 6749, section 3.1), so no two readers disagree about it, and PKCE cannot
// be talked down (RFC 9700, section 4.8).
func TestAuthorizeParameterInjection(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "authorize_param prompt login"})
	want := url.Values{
		"audience": {"https://api.example.com/"}, "scope": {"openid profile"}, "response_type": {"code"},
		"client_id":    {"the-client"},
		"redirect_uri": {w.site + "/oauth2/callback"}, "code_challenge_method": {"S256"}, "prompt": {"login"},
	}
	random := regexp.MustCompile(`^[\w-]{22,}$`)
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, target := range []string{
			"/?scope=root&scope=admin&audience=https://evil.test/&client_id=evil&redirect_uri=https://evil.test/&" +
				"state=x&nonce=x",
			"/&scope=root", "/?&&scope=root", "/%26scope=root", "/%26scope%3droot%23",
			"/?%26redirect_uri=https://evil.test/", "/#&scope=root", "/%23&scope=root",
			"/?a;scope=root;state=x",
			"/?code_challenge_method=plain&code_challenge=x&response_type=token&response_mode=fragment&prompt=none&" +
				"max_age=0",
			"/?" + strings.Repeat("scope=root&", 200), "/" + strings.Repeat("&scope=root", 200),
			"/?request=x&request_uri=https://evil.test/&claims={}",
		} {
			a := send(request{target: target, headers: []string{"Sec-Fetch-Mode", "navigate"}})
			w.expect(a, http.StatusFound)
			_, query, _ := strings.Cut(a.location(), "?")
			seen := map[string]bool{}
			for pair := range strings.SplitSeq(strings.ReplaceAll(strings.ReplaceAll(query, ";", "&"), "#", "&"),
				"&") {
				name, value, _ := strings.Cut(pair, "=")
				value, err := url.QueryUnescape(value)
				isRandom := (name == "state" || name == "nonce" || name == "code_challenge") &&
					random.MatchString(value)
				if err != nil || seen[name] || value != want.Get(name) && !isRandom {
					t.Errorf("%s: the authorize request has %s=%s", target, name, value)
				}
				seen[name] = true
			}
			if len(seen) != len(want)+3 {
				t.Errorf("%s: it has %d parameters: %s", target, len(seen), query)
			}
		}
	})
}

// TestPlaceholdersInARequest: what a client sends goes through no replacer, so
// {env.SECRET} stays those letters (Caddy itself, CVE-2026-30852: vars_regexp gave away
// environment variables and files).
func TestPlaceholdersInARequest(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me",
		caddyfile: "log\n%s\nreverse_proxy %app" + errorsShown})
	const secret, host, file = "{env.TEST_CLIENT_SECRET}", "{http.request.host}", "{file./etc/hostname}"
	b := w.browser()
	b.login("/")
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, r := range []request{
			{target: "/" + secret + "?" + secret + file}, {target: "/" + host + "/" + file},
			{target: "/%7benv.TEST_CLIENT_SECRET%7d"},
			{target: "/oauth2/callback?state=" + secret + "&code=" + secret},
			{target: "/oauth2/callback?error=" + secret + "&error_description=" + file + "&state=" + secret},
			{target: "/logout?" + secret, headers: []string{"Sec-Fetch-Site", secret}}, {target: "/me?" + secret},
			{target: "/", headers: []string{
				"User-Agent", secret, "Accept", secret, "X-Requested-With", file, "Sec-Fetch-Mode", secret,
			}},
			{target: "/", method: "POST", body: secret}, {target: "/", host: secret},
		} {
			for _, cookie := range []string{
				b.cookieHeader(), "__Host-aventus_session=" + secret + "; __Host-aventus_login=" + secret,
			} {
				a := send(r.withCookie(cookie))
				location, _ := url.QueryUnescape(a.location())
				for _, text := range []string{fmt.Sprint(a.Header), location, a.body} {
					if strings.Contains(text, testSecret) {
						t.Errorf("%+v: the answer holds the secret: %s", r, text)
					}
				}
				if r.target == "/"+secret+"?"+secret+file && a.StatusCode == http.StatusFound {
					w.expectRedirect(send(w.callback(a, "auth0|ada")), http.StatusSeeOther, w.site)
				}
			}
		}
	})
	for _, r := range w.requests() {
		if strings.Contains(fmt.Sprint(r.URL, r.Header), testSecret) {
			t.Errorf("the app was sent the secret: %s %v", r.URL, r.Header)
		}
	}
	if strings.Contains(w.log(), testSecret) {
		t.Error("the log holds the secret")
	}
}

// TestBodyIsNotSentOn: with a 307 or 308, a browser repeats a POST, password and all,
// where it is sent (RFC 9700, section 4.12). And the code does not stay in the
// address bar, nor in a Referer (section 4.2).
func TestBodyIsNotSentOn(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "unauthenticated redirect\nlogout /logout /bye"})
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "post"} {
			a := send(request{method: method, target: "/sign-in", body: "password=secret",
				headers: []string{"Sec-Fetch-Mode", "navigate", "X-HTTP-Method-Override", "GET"}})
			if method == "POST" { // by a page, since a redirect may be held against the form
				w.expect(a, http.StatusOK)
				a.Header.Set("Location", refreshesTo(t, a))
				a.StatusCode = http.StatusSeeOther
			}
			w.expectRedirect(a, http.StatusSeeOther, strings.TrimSuffix(w.issuer.Issuer, "/"))
			if strings.Contains(a.location()+a.body, "secret") {
				t.Errorf("%s: sent to %s", method, a.location())
			}
		}
		w.expectRedirect(send(request{method: "POST", target: "/logout", body: "password=secret"}),
			http.StatusSeeOther, w.site)
		begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
		w.expectRedirect(begun, http.StatusFound, strings.TrimSuffix(w.issuer.Issuer, "/"))
		callback := w.callback(begun, "auth0|ada")
		for _, method := range []string{"POST", "HEAD", "PUT", "OPTIONS"} {
			r := callback
			r.method = method
			r.headers = append(r.headers, "X-HTTP-Method-Override", "GET", "X-HTTP-Method", "GET",
				"X-Method-Override", "GET")
			w.expect(send(r), http.StatusMethodNotAllowed)
		}
		a := send(callback)
		w.expectRedirect(a, http.StatusSeeOther, w.site)
		if a.location() != w.site+"/" || a.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%v", a.Header)
		}
	})
	w.expectTokenRequests(2)
}
