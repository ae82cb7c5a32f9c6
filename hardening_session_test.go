package aventusauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// TestBinding: what was sealed opens only where everything it is bound to is the
// same.
func TestBinding(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nkey " + strings.Repeat("A", 43) + "=\n}"})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	first := w.config
	for _, change := range []struct{ from, to string }{
		{"client_id the-client", "client_id another"},
		{"audience https://api.example.com/", "audience https://other.example.com/"},
		{"scope openid profile", "scope openid"},
		{w.issuer.Issuer, "http://127.0.0.1:1/"},
		{strings.Repeat("A", 43), strings.Repeat("B", 42) + "A"},
		{"redirect_uri " + w.site, "redirect_uri http://127.0.0.1:" + w.port},
	} {
		w.run(strings.Replace(first, change.from, change.to, 1))
		w.expect(b.get("/"), http.StatusFound)
	}
	// A new key in front: the old one still opens.
	w.run(strings.Replace(first, "key ", "key "+strings.Repeat("B", 42)+"A= ", 1))
	w.expect(b.get("/"), http.StatusOK)
}

// TestCookieNameBinds: one block's session is not another's under that one's name.
func TestCookieNameBinds(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/a", "session {\nname a\n}") + "\n" + w.directive("/b", "session {\nname b\n}") +
			"\nreverse_proxy " + w.app + "\n}"
	}})
	value := w.browser().login("/a").cookie("a").Value
	w.expect(w.browser().do("GET", "/a", "Cookie", "a="+value), http.StatusOK)
	w.expect(w.browser().do("GET", "/b", "Cookie", "b="+value), http.StatusFound)
}

// TestCopyOfTheStorage: with all that is in the storage, and without a cookie, no
// session can be opened; nor can one record stand in for another.
func TestCopyOfTheStorage(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\n}", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	ada, other := w.browser(), w.browser()
	ada.login("/")
	w.expect(ada.get("/"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	files := w.sessionFiles()
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte(token)) || bytes.Contains(content, []byte("auth0|ada")) {
		t.Error("the record can be read")
	}

	// One record in another's place, one that is cut off, and one of zeros are
	// nobody's session; when they are mended, nothing is lost.
	other.login("/")
	victim := w.sessionFiles()[0]
	if victim == files[0] {
		victim = w.sessionFiles()[1]
	}
	good, err := os.ReadFile(victim)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{"another's": content, "cut off": good[:20], "zeros": make([]byte, len(good)), "empty": {}} {
		if err := os.WriteFile(victim, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		w.restart()
		a := other.get("/")
		if a.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(a.body, "storage_unavailable: ") {
			t.Errorf("%s: status %d, %s", what, a.StatusCode, a.body)
		}
		w.expect(ada.get("/"), http.StatusOK)
	}
	if err := os.WriteFile(victim, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.expect(other.get("/"), http.StatusOK)
}

// TestCodeOnce: a code is not sent again with another login's state either.
func TestCodeOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	first, second := b.begin("/1"), b.begin("/2")
	w.expect(b.get(first), http.StatusSeeOther)
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
	w.expect(b.get(with(second, "code", query(first, "code"))), http.StatusFound)
	w.expectTokenRequests(1)
	// Nor after the hour has turned.
	w.clock.Add(55 * time.Minute)
	third := b.begin("/3")
	w.expect(b.get(with(third, "code", query(first, "code"))), http.StatusFound)
	w.expectTokenRequests(1)
}

// TestStateOnce: a state is not good for a second code.
func TestStateOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	first := b.begin("/1")
	u, _ := url.Parse(first)
	w.expect(b.get(first), http.StatusSeeOther)
	another, err := w.issuer.IssueCode(w.issuer.AuthorizeRequests()[0], "auth0|ada")
	if err != nil {
		t.Fatal(err)
	}
	if another.Query().Get("state") != u.Query().Get("state") || another.Query().Get("code") == u.Query().Get("code") {
		t.Fatal("not the same state with another code")
	}
	w.expect(b.get(another.String()), http.StatusSeeOther)
	w.expectTokenRequests(1)
}

// TestAnotherBrowser: who is given somebody else's callback is not logged in as
// them (RFC 6749, section 10.12), but logs in.
func TestAnotherBrowser(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	attacker, victim := w.browser(), w.browser()
	callback := attacker.begin("/page")
	a := victim.get(callback)
	w.expect(a, http.StatusFound)
	w.expectTokenRequests(0)
	w.expect(victim.get(victim.get(a.location()).location()), http.StatusSeeOther)
	w.expectTokenRequests(1)
	w.expect(attacker.get(callback), http.StatusSeeOther) // costs the first nothing

	// A browser that keeps no cookies does not go round for ever.
	a = w.browser().get(callback)
	w.expect(a, http.StatusFound)
	a = w.browser().get(w.browser().get(a.location()).location())
	w.expect(a, http.StatusBadRequest)
}

// session returns the value of the browser's session cookie.
func (b *browser) session() string {
	for _, c := range b.cookies() {
		if strings.HasSuffix(c.Name, "aventus_session") {
			return c.Value
		}
	}
	b.w.t.Fatal("there is no session")
	return ""
}

// loginAs logs somebody in who is not the one who is always signed in.
func (b *browser) loginAs(path, sub string) {
	b.w.t.Helper()
	begun := b.get(path)
	b.w.expect(begun, http.StatusFound)
	b.w.expect(b.get(b.w.site+b.w.callback(begun, sub).target), http.StatusSeeOther)
}

// TestForgedSession: that a cookie, a token or a header is there proves nothing until
// it was checked (Pomerium, CVE-2021-29652; nextjs and its x-middleware-subrequest,
// CVE-2025-29927). It is nobody's, everywhere.
func TestForgedSession(t *testing.T) {
	w := newWorld(t, setup{https: true, sites: func(w *world) string {
		return w.site + " {\ntls internal\n" + w.directive("/deny", "unauthenticated deny") + "\n" + w.directive("/bearer", "unauthenticated deny\naccept_bearer") + "\n" +
			w.directive("/pass", "unauthenticated pass") + "\n@rest not path /pass\n" + w.directive("@rest", "profile /me\nrequire_claim sub auth0|ada") + "\nreverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	callback := b.begin("/")
	state := query(callback, "state")
	w.expect(b.get(callback), http.StatusSeeOther)
	good, binding := b.session(), ""
	for _, c := range b.cookies() {
		if c.Name == "__Host-aventus_login" {
			binding = c.Value
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	hers := w.tokenClaims(map[string]any{"sub": "auth0|ada"})
	payload, err := json.Marshal(hers)
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.RawURLEncoding.EncodeToString(payload)
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + encoded + "."
	cookies := []string{
		"", "x", "1", "true", "null", "undefined", "admin", "auth0|ada", string(payload), encoded, unsigned, w.issuer.SignJWT(hers),
		binding, state, good[:len(good)-1], good[1:], good + "A", good + "=", good + "%3D", good[:20] + "%0a" + good[20:], "\"" + good + "\"",
		strings.ToLower(good), strings.ToUpper(good), good + "." + good, good + ",", strings.Repeat("A", len(good)),
	}
	for i := 0; i < len(raw); i += max(1, len(raw)/25) { // version, key, nonce, what is sealed, and the tag
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		cookies = append(cookies, base64.RawURLEncoding.EncodeToString(changed))
	}
	for n := range 16 { // a tag that is not whole
		cookies = append(cookies, base64.RawURLEncoding.EncodeToString(raw[:len(raw)-n-1]))
	}
	w.overEach(func(t *testing.T, send func(request) answer) {
		nobody := func(r request) {
			t.Helper()
			for path, want := range map[string]int{"/": http.StatusFound, "/deny": http.StatusUnauthorized, "/bearer": http.StatusUnauthorized, "/pass": http.StatusOK, "/me": http.StatusUnauthorized} {
				r.target = path
				if a := send(r); a.StatusCode != want {
					t.Errorf("%s, %.100q: status %d, want %d", path, r.headers, a.StatusCode, want)
				}
			}
			for _, r := range w.requests() {
				if r.Header["Authorization"] != nil || r.URL.Path != "/pass" {
					t.Errorf("the app was sent %s %v", r.URL, r.Header)
				}
			}
		}
		for _, value := range cookies {
			nobody(request{}.withCookie("__Host-aventus_session=" + value))
		}
		nobody(request{}.withCookie("__Host-aventus_login=" + good))
		for _, token := range []string{
			unsigned, good, "null", "x.y.z", w.issuer.SignJWT(w.tokenClaims(map[string]any{"aud": "the-client"})), // an ID token's audience
			w.issuer.SignJWT(w.tokenClaims(map[string]any{"exp": w.clock.Now().Unix()})), flip(w.issuer.SignJWT(hers)),
		} {
			nobody(request{headers: []string{"Authorization", "Bearer " + token}})
			nobody(request{headers: []string{"Authorization", "bearer  " + token}})
		}
		nobody(request{headers: []string{"X-Forwarded-User", "auth0|ada", "X-Auth-Request-User", "auth0|ada", "Remote-User", "auth0|ada", "X-Forwarded-Access-Token", w.issuer.SignJWT(hers), "X-Middleware-Subrequest", "middleware"}})
		w.expect(send(request{}.withCookie("__Host-aventus_session="+good)), http.StatusOK)
		w.requests()
	})
}

// TestCookieTossing: another host of the same domain cannot set a cookie whose name
// begins with __Host- (draft-ietf-httpbis-rfc6265bis, section 4.1.3.2), but it can set
// one that a lax parser takes for it: other spaces, other cases, the quotes, commas and
// $Version of old standards. With that, the victim would act in the attacker's name.
func TestCookieTossing(t *testing.T) {
	w := newWorld(t, setup{https: true})
	b := w.browser()
	b.login("/")
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, tossed := range []string{
			"NAME=VALUE", "__Secure-NAME=VALUE", "__host-NAME=VALUE", "__HOST-NAME=VALUE",
			"__Host-Name=VALUE", "__Host-NAME_=VALUE",
			"\u00a0__Host-NAME=VALUE", "\u2000__Host-NAME=VALUE", "\x0b__Host-NAME=VALUE",
			"\x0c__Host-NAME=VALUE", "\xa0__Host-NAME=VALUE", "__Host-NAME\u3000=VALUE",
			"$Version=1,__Host-NAME=VALUE", "$Version=\"1\", __Host-NAME=\"VALUE\"",
			"a=b,__Host-NAME=VALUE", "a=b&__Host-NAME=VALUE", "a=\"b __Host-NAME=VALUE\"",
			"%5F_Host-NAME=VALUE", "__Host%2dNAME=VALUE", "__Host-NAME%3dVALUE",
			"=__Host-NAME=VALUE", "__Host-NAME[]=VALUE", "__Host-NAME.0=VALUE",
			"__Host-NAME0=VALUE", "__Host-NAME",
		} {
			// The attacker's own session.
			cookie := strings.NewReplacer("NAME", "aventus_session", "Name", "Aventus_Session", "VALUE", b.session()).Replace(tossed)
			a := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}}.withCookie(cookie))
			if a.StatusCode != http.StatusFound && a.StatusCode != http.StatusBadRequest && a.StatusCode != 0 {
				t.Errorf("%.50q: status %d", cookie, a.StatusCode)
			}
			// The attacker's own login, for the victim to end.
			callback := w.callback(send(request{}), "auth0|ada")
			_, binding, _ := strings.Cut(callback.headers[1], "=")
			callback.headers[1] = strings.NewReplacer("NAME", "aventus_login", "Name", "Aventus_Login", "VALUE", binding).Replace(tossed)
			a = send(callback)
			if a.StatusCode != http.StatusFound && a.StatusCode != http.StatusBadRequest && a.StatusCode != 0 {
				t.Errorf("%.50q: the login ends: status %d", callback.headers[1], a.StatusCode)
			}
		}
	})
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
	w.expectTokenRequests(1)
}

// attributes returns a Set-Cookie line's name, value, and attributes in their order.
func attributes(line string) (name, value string, rest []string) {
	parts := strings.Split(line, "; ")
	name, value, _ = strings.Cut(parts[0], "=")
	return name, value, parts[1:]
}

// TestCookieAttributes: what keeps a cookie from scripts, from other sites and hosts,
// and from the wire (draft-ietf-httpbis-rfc6265bis, sections 4.1.2 and 4.1.3). A cookie is
// deleted by repeating it all: browsers take no __Host- cookie without Secure and
// Path=/, not even to delete it (Envoy, CVE-2025-55162).
func TestCookieAttributes(t *testing.T) {
	for _, block := range []string{"", "session {\nstore storage\n}", "scope offline_access", "session {\nidle 1h\nname __Host-other\n}"} {
		w := newWorld(t, setup{https: true, block: block + "\nlogout /logout"})
		w.overEach(func(t *testing.T, send func(request) answer) {
			seen := 0
			check := func(a answer, deleted bool, names ...string) (cookies []string) {
				t.Helper()
				lines := a.Header["Set-Cookie"]
				if len(lines) != len(names) {
					t.Fatalf("%s: Set-Cookie %q, want %q", block, lines, names)
				}
				for i, line := range lines {
					name, value, rest := attributes(line)
					age := "0"
					if len(rest) > 1 {
						age = strings.TrimPrefix(rest[1], "Max-Age=")
					}
					if name != names[i] || (age == "0") != deleted || (value == "") != deleted || strings.Join(rest, "; ") != "Path=/; Max-Age="+age+"; HttpOnly; SameSite=Lax; Secure" || len(name)+len(value) > 4096 {
						t.Errorf("%s: Set-Cookie %q", block, line)
					}
					cookies = append(cookies, name+"="+value)
					seen++
				}
				return cookies
			}
			session := "__Host-aventus_session"
			if strings.Contains(block, "other") {
				session = "__Host-other"
			}
			begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
			cookie := strings.Join(append(check(begun, false, "__Host-aventus_login"), check(send(w.callback(begun, "auth0|ada")), false, session)...), "; ")
			check(send(request{}.withCookie(cookie)), false) // an ordinary answer sets none
			check(send(request{target: "/logout", headers: []string{"Sec-Fetch-Site", "cross-site"}}.withCookie(cookie)), false)
			check(send(request{target: "/logout"}.withCookie(cookie)), true, session)
			check(send(request{target: "/logout"}), false) // another site's POST comes without it, and costs nobody a session
			if seen != 3 {
				t.Errorf("%d cookies were set", seen)
			}
		})
	}
}

// TestCookieSize: browsers drop a cookie of more than 4,096 bytes, and the visitor goes
// round for ever (oauth2-proxy and others cut them in pieces instead). Every length
// around the limit is tried.
func TestCookieSize(t *testing.T) {
	var chars atomic.Int64
	w := newWorld(t, setup{https: true, issuer: func(s *aventustest.Server) {
		s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprintf(rw, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, strings.Repeat("x", int(chars.Load())))
			return true
		}
	}})
	largest, stored := 0, 0
	for n := 2900; n < 2960; n++ {
		chars.Store(int64(n))
		a := w.http1(w.callback(w.http1(request{}), "auth0|ada"))
		w.expect(a, http.StatusSeeOther)
		name, value, _ := attributes(a.Header.Get("Set-Cookie"))
		if size := len(name) + len("=") + len(value); size > 4096 {
			t.Errorf("a token of %d characters makes a cookie of %d bytes", n, size)
		} else if size > 1000 {
			largest = max(largest, size)
		} else {
			stored++
		}
		w.expect(w.http1(request{}.withCookie(name+"="+value)), http.StatusOK)
		if got := w.token(); got != "Bearer "+strings.Repeat("x", n) {
			t.Errorf("a token of %d characters came back with %d", n, len(got))
		}
	}
	if largest < 4090 || stored == 0 {
		t.Errorf("the largest cookie has %d bytes, and %d sessions rest in the storage", largest, stored)
	}
}

// TestSessionFixation: who plants a session, or knows the one before, must not have
// the one after the login (express-openid-connect, CVE-2021-41246).
func TestSessionFixation(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{https: true, block: "logout /logout\nsession {\nstore " + store + "\n}"})
		w.overEach(func(t *testing.T, send func(request) answer) {
			seen := map[string]bool{}
			login := func(cookie string) string {
				begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
				r := w.callback(begun, "auth0|ada")
				r.headers[1] += "; " + cookie
				a := send(r)
				w.expect(a, http.StatusSeeOther)
				name, value, _ := attributes(a.Header.Get("Set-Cookie"))
				if seen[value] || value == "" {
					t.Errorf("%s: the login brought a cookie that was there before", store)
				}
				seen[value] = true
				return name + "=" + value
			}
			planted := login("x=1")
			attackers := login("x=1")
			w.expect(send(request{target: "/logout"}.withCookie(planted)), http.StatusOK)
			for _, before := range []string{planted, attackers, planted + "; " + attackers, "__Host-aventus_session=planted"} {
				victims := login(before)
				w.expect(send(request{}.withCookie(victims)), http.StatusOK)
				w.expect(send(request{}.withCookie(planted)), http.StatusFound)
				// It is a session of its own: that one of them ends is nothing to the other.
				w.expect(send(request{target: "/logout"}.withCookie(victims)), http.StatusOK)
				w.expect(send(request{}.withCookie(victims)), http.StatusFound)
				w.expect(send(request{}.withCookie(attackers)), http.StatusOK)
			}
		})
	}
}

// TestRenewalsOfTwoUsers: what is shared by requests that come at once is one session's,
// and never the next one's (nextjs-auth0, CVE-2025-67490 and CVE-2026-40155).
func TestRenewalsOfTwoUsers(t *testing.T) {
	const each = 10
	var waiting atomic.Int64
	var renewing atomic.Bool
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
		s.TokenFault = func(http.ResponseWriter, *http.Request) bool {
			if renewing.Load() { // all of them are under way before the first is answered
				waiting.Add(1)
				for deadline := time.Now().Add(5 * time.Second); waiting.Load() < 2*each && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
			}
			return false
		}
	}})
	users := map[string][]*browser{"auth0|ada": nil, "auth0|grace": nil}
	for sub := range users {
		for range each {
			b := w.browser()
			b.loginAs("/", sub)
			users[sub] = append(users[sub], b)
		}
	}
	w.clock.Add(2 * time.Hour)
	w.requests()
	renewing.Store(true)
	var done sync.WaitGroup
	for sub, browsers := range users {
		for _, b := range browsers {
			done.Go(func() {
				if a := b.get("/?" + sub); a.StatusCode != http.StatusOK {
					t.Errorf("%s: status %d", sub, a.StatusCode)
				}
			})
		}
	}
	done.Wait()
	tokens := map[string]bool{}
	for _, r := range w.requests() {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if sub := claims.Of(token).Strings("sub"); len(sub) != 1 || sub[0] != r.URL.RawQuery {
			t.Errorf("the app was sent a token of %q for %s", sub, r.URL.RawQuery)
		}
		tokens[token] = true
	}
	if len(tokens) != 2*each {
		t.Errorf("%d sessions have %d tokens", 2*each, len(tokens))
	}
	w.expectNoReuse()
}

// TestSharedCaches: an answer that is one visitor's is kept by a cache, with the cookie
// in it (nextjs-auth0, CVE-2025-48947), also where the site has everything cached.
func TestSharedCaches(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout /bye\nprofile /me\nrequire_scope openid", caddyfile: "header {\nCache-Control \"public, s-maxage=31536000\"\nCDN-Cache-Control max-age=600\nX-Accel-Expires 600\n}\n%s\nreverse_proxy %app"})
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
			"a callback by POST":         send(request{target: good.target, method: "POST"}), "an empty callback": send(request{target: "/oauth2/callback"}),
			"a refused callback": send(request{target: strings.Replace(good.target, "code=", "error=access_denied&x=", 1), headers: good.headers}),
			"the callback":       send(good),
			"the callback again": send(good.withCookie(cookie)), "the profile": send(request{target: "/me"}.withCookie(cookie)),
			"no profile":      send(request{target: "/me"}),
			"a forced logout": send(request{target: "/logout", headers: []string{"Sec-Fetch-Site", "cross-site"}}),
			"the logout":      send(request{target: "/logout"}), "DELETE": send(request{target: "/logout", method: "DELETE"}),
		} {
			if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "no-store" || a.Header["Cdn-Cache-Control"] != nil || a.Header["X-Accel-Expires"] != nil || a.StatusCode == http.StatusOK && what != "the profile" {
				t.Errorf("%s: status %d, Cache-Control %q", what, a.StatusCode, got)
			}
		}
		a := send(request{}.withCookie(cookie))
		if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "public, s-maxage=31536000" || a.Header.Get("Vary") != "Cookie" || a.Header["Set-Cookie"] != nil {
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
			"Cache-Control": "public, max-age=600", "CDN-Cache-Control": "max-age=600", "Cloudflare-CDN-Cache-Control": "max-age=600",
			"Surrogate-Control": "max-age=600", "X-Accel-Expires": "600", "Expires": "Sun, 22 Nov 2099 20:00:00 GMT",
		} {
			rw.Header().Set(name, value)
		}
		fmt.Fprint(rw, "the app")
	}))
	defer app.Close()
	w := newWorld(t, setup{https: true, block: "session {\nidle 1h\n}", caddyfile: "%s\nreverse_proxy " + strings.TrimPrefix(app.URL, "http://")})
	b := w.browser()
	b.login("/")
	cookie := b.cookieHeader()
	w.overEach(func(t *testing.T, send func(request) answer) {
		a := send(request{}.withCookie(cookie))
		if a.Header["Set-Cookie"] != nil || a.Header.Get("CDN-Cache-Control") == "" || a.Header.Get("X-Accel-Expires") == "" {
			t.Errorf("an ordinary answer: %v", a.Header)
		}
	})
	w.clock.Add(20 * time.Minute)
	w.overEach(func(t *testing.T, send func(request) answer) {
		a := send(request{}.withCookie(cookie))
		if a.Header["Set-Cookie"] == nil || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%v", a.Header)
		}
		for _, name := range []string{"Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "Surrogate-Control", "X-Accel-Expires", "Expires"} {
			if a.Header[name] != nil {
				t.Errorf("an answer with a session has %s: %s", name, a.Header[name])
			}
		}
	})
}

// TestCodeInjection: a code that was stolen on its way is brought to the site by the
// thief, in a login of their own (RFC 9700, section 4.5). It fails on PKCE: the verifier
// is that of the thief's login.
func TestCodeInjection(t *testing.T) {
	w := newWorld(t, setup{https: true, caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	w.overEach(func(t *testing.T, send func(request) answer) {
		victims := w.callback(send(request{}), "auth0|ada")
		thiefs := w.callback(send(request{}), "auth0|grace")
		r := thiefs
		r.target = with(r.target, "code", query(victims.target, "code"))
		before := len(w.issuer.TokenRequests())
		a := send(r)
		if a.StatusCode != http.StatusBadGateway || !strings.HasPrefix(a.body, "token_refused: ") || a.Header["Set-Cookie"] != nil {
			t.Errorf("status %d, %v, %s", a.StatusCode, a.Header, a.body)
		}
		if n := len(w.issuer.TokenRequests()) - before; n != 1 {
			t.Errorf("the token endpoint was asked %d times", n)
		}
		// The cookie that a state is bound to is not in the state's URL to be read.
		if binding := thiefs.headers[1][strings.Index(thiefs.headers[1], "=")+1:]; strings.Contains(thiefs.target, binding) {
			t.Errorf("%s holds the binding cookie", thiefs.target)
		}
	})
}

// TestMixUp: a code of another authorization server is not sent to this one, nor this
// one's code to another (RFC 9207, section 2.4; RFC 9700, section 4.4).
func TestMixUp(t *testing.T) {
	w := newWorld(t, setup{https: true, caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: func(s *aventustest.Server) { s.SendIss = true }})
	w.overEach(func(t *testing.T, send func(request) answer) {
		good := w.callback(send(request{}), "auth0|ada")
		issuer := strings.TrimSuffix(w.issuer.Issuer, "/")
		for _, iss := range []string{
			"https://evil.test/", "", "/", "null", issuer + "//", issuer + "/x", issuer + ".evil.test/", issuer + "@evil.test/",
			strings.ToUpper(issuer), strings.Replace(issuer, "http:", "https:", 1), issuer + "?", issuer + " ", issuer[:len(issuer)-1],
			issuer + "/#",
		} {
			for _, target := range []string{strings.ReplaceAll(with(good.target, "iss", "REPLACED"), "REPLACED", url.QueryEscape(iss)), good.target + "&iss=" + url.QueryEscape(iss)} {
				r := good
				r.target = target
				if a := send(r); a.StatusCode != http.StatusBadRequest || !strings.HasPrefix(a.body, "invalid_callback: ") {
					t.Errorf("iss=%s: status %d, %s", iss, a.StatusCode, a.body)
				}
			}
		}
		before := len(w.issuer.TokenRequests())
		w.expect(send(good), http.StatusSeeOther)
		if n := len(w.issuer.TokenRequests()) - before; n != 1 {
			t.Errorf("the token endpoint was asked %d times", n)
		}
	})
	w.expectTokenRequests(2)
}

// TestForcedLogout: another site has the visitor's browser ask for the logout, by an
// image, a form or a link, whose cookie SameSite=Lax lets through. The browser says so
// (https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header), and the session lives.
func TestForcedLogout(t *testing.T) {
	for _, block := range []string{"logout /logout", "logout /logout /bye", "logout /logout\nlogout_provider"} {
		w := newWorld(t, setup{https: true, block: block})
		b := w.browser()
		b.login("/")
		cookie := b.cookieHeader()
		w.overEach(func(t *testing.T, send func(request) answer) {
			for _, method := range []string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"} {
				for _, mode := range []string{"navigate", "no-cors", "cors", "websocket", "same-origin", ""} {
					for _, target := range []string{"/logout", "/logout?x", "/%6cogout", "/logout?signed_out", "/logout?signed_out&x", "/logout?signed%5fout"} {
						a := send(request{method: method, target: target, headers: []string{
							"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", mode, "Sec-Fetch-Dest", "document", "Sec-Fetch-User", "?1", "Origin",
							"https://evil.test", "Referer", "https://evil.test/", "X-HTTP-Method-Override", "POST", "Purpose", "prefetch",
						}}.withCookie(cookie))
						told := strings.Contains(block, "provider") && target == "/logout?signed_out" && (method == "GET" || method == "POST") // the page at the end of it all
						if a.Header["Set-Cookie"] != nil || a.Header["Location"] != nil || a.StatusCode != http.StatusForbidden && a.StatusCode != http.StatusMethodNotAllowed && !told {
							t.Errorf("%s %s, %s: status %d, %v", method, target, mode, a.StatusCode, a.Header)
						}
					}
				}
			}
			w.expect(send(request{}.withCookie(cookie)), http.StatusOK)
		})
		if n := len(w.issuer.Logouts()) + len(w.issuer.Revoked()); n != 0 {
			t.Errorf("the authorization server was told of %d logouts", n)
		}
		for _, site := range []string{"same-origin", "none"} { // the person's own click, and their own typing
			b := w.browser()
			b.login("/")
			cookie := b.cookieHeader()
			if a := b.do("GET", "/logout", "Sec-Fetch-Site", site); a.StatusCode >= 400 {
				t.Errorf("%s: status %d", site, a.StatusCode)
			}
			w.expect(w.http1(request{}.withCookie(cookie)), http.StatusFound)
		}
	}
}
