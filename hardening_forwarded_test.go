package aventusauth

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestForwardedHeaders: nothing that a client can write changes a URL, a cookie or a
// decision, byte for byte, and be it that Caddy trusts it (oauth2-proxy,
// CVE-2026-40575: X-Forwarded-Uri; caddy-security, CVE-2024-21494, CVE-2024-21498 and
// CVE-2024-21499: X-Forwarded-For, -Host and -Proto; Traefik, GHSA-6384-m2mw-rf54:
// X-Forwarded-Prefix).
func TestForwardedHeaders(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me",
		global: "servers {\ntrusted_proxies static 0.0.0.0/0 ::/0\n}"})
	var forged []string
	for name, values := range map[string]string{
		"X-Forwarded-*": "For=127.0.0.1 Host=evil.test Proto=http Scheme=http Port=80 Prefix=/x " +
			"Uri=/oauth2/callback Path=/public " +
			"Method=OPTIONS Server=evil.test Ssl=off User=root Email=root@example.com Groups=root Access-Token=x " +
			"Preferred-Username=root",
		"X-Original-*": "URL=/logout Uri=/me Host=evil.test Method=POST Path=/public For=127.0.0.1",
		"X-*": "Rewrite-URL=/public Real-Ip=127.0.0.1 Host=evil.test Url-Scheme=http Http-Method-Override=POST " +
			"Method-Override=POST " +
			"Http-Method=POST Remote-User=root User=root Client-Ip=127.0.0.1 Accel-Redirect=/me " +
			"Sendfile=/etc/passwd " +
			"Middleware-Subrequest=middleware Auth-Request-Redirect=https://evil.test/ Auth-Request-User=root " +
			"Auth-Request-Email=root " +
			"Pomerium-Jwt-Assertion=x Goog-Iap-Jwt-Assertion=x Amzn-Oidc-Data=x Envoy-Original-Path=/public",
		"*": "Forwarded=for=127.0.0.1;host=evil.test;proto=http Front-End-Https=off Remote-User=root " +
			"True-Client-Ip=127.0.0.1 " +
			"Oidc_claim_sub=root Http_x_forwarded_host=evil.test Origin=https://evil.test " +
			"Referer=https://evil.test/ " +
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
			{target: "/page?x", headers: page}, {target: "/page", headers: []string{"Sec-Fetch-Mode", "cors"}},
			{target: "/page", method: "POST"},
			{target: "/me"}, {target: "/logout"},
			{target: "/oauth2/callback?state=x&code=y"}, {target: "/oauth2/callback", method: "POST"},
			{target: "/page", headers: signedIn},
			{target: "/me", headers: signedIn},
			{target: "/logout", headers: append([]string{"Sec-Fetch-Site", "cross-site"}, signedIn...)},
			{target: "/me", method: "POST", headers: signedIn},
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
		"my_app.example.com":     "https://my_app.example.com:" + w.port + "/oauth2/callback",
		"App.example.com.":       "https://app.example.com:" + w.port + "/oauth2/callback",
		"app.example.com.:8443":  "https://app.example.com:" + w.port + "/oauth2/callback",
		"a(b)":                   "",
		"evil.test%2f":           "",
		"a'b;c":                  "",
		"evil.test&x=y":          "",
		strings.Repeat("a", 300): "",
	} {
		a := w.raw("GET / HTTP/1.1\r\nHost: " + host + "\r\nAccept: text/html\r\nConnection: close\r\n\r\n")
		if want == "" {
			if a.StatusCode != http.StatusBadRequest {
				t.Errorf("%.20s: status %d", host, a.StatusCode)
			}
		} else if w.expect(a, http.StatusFound); query(a.location(), "redirect_uri") != want {
			t.Errorf("%s: redirect_uri %s", host, query(a.location(), "redirect_uri"))
		}
	}
}
