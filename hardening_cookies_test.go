package aventusauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestCookieNameBinds: one block's session is not another's under that one's name.
func TestCookieNameBinds(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/a", "session {\nname a\n}") + "\n" +
			w.directive("/b", "session {\nname b\n}") +
			"\nreverse_proxy " + w.app + "\n}"
	}})
	value := w.browser().login("/a").cookie("a").Value
	w.expect(w.browser().do("GET", "/a", "Cookie", "a="+value), http.StatusOK)
	w.expect(w.browser().do("GET", "/b", "Cookie", "b="+value, "Accept", "text/html"), http.StatusFound)
}

// TestForgedSession: that a cookie, a token or a header is there proves nothing until
// it was checked (Pomerium, CVE-2021-29652; nextjs and its x-middleware-subrequest,
// CVE-2025-29927). It is nobody's, everywhere.
func TestForgedSession(t *testing.T) {
	w := newWorld(t, setup{https: true, sites: func(w *world) string {
		return w.site + " {\ntls internal\n" + w.directive("/deny", "unauthenticated deny") + "\n" +
			w.directive("/bearer", "unauthenticated deny\naccept_bearer") + "\n" +
			w.directive("/pass", "unauthenticated pass") + "\n@rest not path /pass\n" +
			w.directive("@rest", "profile /me\nrequire_claim sub auth0|ada") + "\nreverse_proxy " + w.app + "\n}"
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
		"", "x", "1", "true", "null", "undefined", "admin", "auth0|ada", string(payload), encoded, unsigned,
		w.issuer.SignJWT(hers),
		binding, state, good[:len(good)-1], good[1:], good + "A", good + "=", good + "%3D", good[:20] + "%0a" +
			good[20:], "\"" + good + "\"",
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
			for path, want := range map[string]int{
				"/": http.StatusFound, "/deny": http.StatusUnauthorized, "/bearer": http.StatusUnauthorized,
				"/pass": http.StatusOK, "/me": http.StatusUnauthorized,
			} {
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
			// an ID token's audience
			unsigned, good, "null", "x.y.z", w.issuer.SignJWT(w.tokenClaims(map[string]any{"aud": "the-client"})),
			w.issuer.SignJWT(w.tokenClaims(map[string]any{"exp": w.clock.Now().Unix()})), flip(w.issuer.SignJWT(hers)),
		} {
			nobody(request{headers: []string{"Authorization", "Bearer " + token}})
			nobody(request{headers: []string{"Authorization", "bearer  " + token}})
		}
		nobody(request{
			headers: []string{"X-Forwarded-User", "auth0|ada", "X-Auth-Request-User", "auth0|ada", "Remote-User",
				"auth0|ada", "X-Forwarded-Access-Token", w.issuer.SignJWT(hers), "X-Middleware-Subrequest",
				"middleware"},
		})
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
			cookie := strings.NewReplacer("NAME", "aventus_session", "Name", "Aventus_Session", "VALUE",
				b.session()).Replace(tossed)
			a := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}}.withCookie(cookie))
			if a.StatusCode != http.StatusFound && a.StatusCode != http.StatusBadRequest && a.StatusCode != 0 {
				t.Errorf("%.50q: status %d", cookie, a.StatusCode)
			}
			// The attacker's own login, for the victim to end.
			callback := w.callback(send(request{}), "auth0|ada")
			_, binding, _ := strings.Cut(callback.headers[1], "=")
			callback.headers[1] = strings.NewReplacer("NAME", "aventus_login", "Name", "Aventus_Login", "VALUE",
				binding).Replace(tossed)
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
	for _, block := range []string{
		"", "session {\nstore storage\n}", "scope offline_access", "session {\nidle 1h\nname __Host-other\n}",
	} {
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
					if name != names[i] || (age == "0") != deleted || (value == "") != deleted ||
						strings.Join(rest, "; ") != "Path=/; Max-Age="+age+"; HttpOnly; SameSite=Lax; Secure" ||
						len(name)+len(value) > 4096 {
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
			cookie := strings.Join(append(check(begun, false, "__Host-aventus_login"),
				check(send(w.callback(begun, "auth0|ada")), false, session)...), "; ")
			check(send(request{}.withCookie(cookie)), false) // an ordinary answer sets none
			check(send(request{
				target: "/logout", headers: []string{"Sec-Fetch-Site", "cross-site"},
			}.withCookie(cookie)), false)
			check(send(request{target: "/logout"}.withCookie(cookie)), true, session)
			// another site's POST comes without it, and costs nobody a session
			check(send(request{target: "/logout"}), false)
			if seen != 3 {
				t.Errorf("%d cookies were set", seen)
			}
		})
	}
}

// TestCookiesOfManyBlocks: the cookies of several blocks of one host fit the requests that bring all of them. Else
// whatever stands in front would refuse each request, also that of the logout (nginx more than 8 KB in one line,
// Caddy some 20 KB). So it is if all logins come back at the same moment, as when a browser restores its tabs.
func TestCookiesOfManyBlocks(t *testing.T) {
	apps := []string{"a", "b", "c", "d", "e", "f", "g"}
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.TokenChars = 2900 },
		sites: func(w *world) string {
			text := w.site + " {\n"
			for _, app := range apps {
				text += w.directive("/"+app+"/*", "logout /logout\nsession {\nname "+app+"_session\n}") + "\n"
			}
			return text + "reverse_proxy " + w.app + "\n}\n"
		},
	})
	for _, isAtOnce := range []bool{false, true} {
		b := w.browser()
		var atOnce []string
		for _, app := range apps {
			a := b.get(b.get(b.get("/" + app + "/").location()).location())
			w.expect(a, http.StatusSeeOther)
			if isAtOnce { // the next callback is not sent this cookie
				atOnce = append(atOnce, app+"_session="+a.cookie(app+"_session").Value)
				b.forgetAt(w.site, app+"_session")
			}
		}
		all := strings.Join(append(atOnce, b.cookieHeader()), "; ")
		for _, app := range apps {
			a := w.browser().do("GET", "/"+app+"/", "Cookie", all)
			if a.StatusCode != http.StatusOK || len(all) > 8000 {
				t.Errorf("%s, at once %t: status %d, with cookies of %d bytes", app, isAtOnce, a.StatusCode, len(all))
			}
		}
		w.expect(w.browser().do("GET", "/logout", "Cookie", all), http.StatusOK)
	}
}

// TestCookieSize: browsers drop a cookie of more than 4,096 bytes, and the visitor goes
// round for ever (oauth2-proxy and others cut them in pieces instead), and the whole
// header of the answer is to fit what a proxy in front takes. Every length around the
// limit is tried.
func TestCookieSize(t *testing.T) {
	var chars atomic.Int64
	w := newWorld(t, setup{https: true, opaque: true, issuer: func(s *aventustest.Server) {
		s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprintf(rw, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`,
				strings.Repeat("x", int(chars.Load())))
			return true
		}
	}})
	largest, stored := 0, 0
	for n := 2240; n < 2320; n++ {
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
	if largest < 3150 || stored == 0 || stored == 80 {
		t.Errorf("the largest cookie has %d bytes, and %d sessions rest in the storage", largest, stored)
	}
}
