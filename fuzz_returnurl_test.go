package aventusauth

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// landsAt returns the origin that a browser is at after a Location.
func landsAt(t *testing.T, from, location string) string {
	t.Helper()
	origin, err := leadsTo(from, location)
	if err != nil {
		t.Fatal(err)
	}
	return origin
}

// FuzzReturnURL looks for a request after which the visitor is led away, or to
// another page than the one asked for.
func FuzzReturnURL(f *testing.F) {
	fixed := newBare(f, Config{})
	anyHost := newBare(f, Config{RedirectURI: "https://" + hostPlaceholder + "/oauth2/callback"})
	for _, target := range []string{
		"/", "/?", "/a%2Fb/c%20d?x=%2F&y=+", "//evil.test/x", "///evil.test", `/\evil.test`, `\\evil.test`,
		"/\t/evil.test",
		"http://evil.test/x", "http://evil.test//evil2.test", "https:evil.test",
		"/{env.HOME}?{http.request.host}", "/x#y?a#b",
		"/@evil.test", "/..//evil.test", "/%2e%2e//evil.test", "/./\\evil.test", "/x?\xff", "/:80", "*",
		"example.com:443",
		"/p?q=" + strings.Repeat("x", 2000), "/" + strings.Repeat("x", 2000), "/%0d%0aSet-Cookie:x=y",
		"javascript:alert(1)", "/oauth2/callback",
	} {
		for _, host := range []string{
			"example.com", "EXAMPLE.com:8443", "[::1]:443", "_", "my_app.test", "evil.test@example.com", "a'b",
			"%65xample.com", "192.168.0.1.",
		} {
			f.Add(target, host)
		}
	}
	f.Fuzz(func(t *testing.T, target, host string) {
		for _, b := range []*bare{fixed, anyHost} {
			a, ok := b.serve(t, "GET", target, host, "Sec-Fetch-Mode", "navigate")
			if !ok {
				return
			}
			if b.passed {
				t.Fatal("nobody got through")
			}
			if a.StatusCode != http.StatusFound {
				if a.StatusCode < 400 || a.Header["Location"] != nil || a.Header["Set-Cookie"] != nil {
					t.Fatalf("status %d, %v", a.StatusCode, a.Header)
				}
				continue
			}
			at, err := b.house.gate.sites.of(a.Request)
			if err != nil {
				t.Fatal(err)
			}
			if got := landsAt(t, bareSite, a.location()); got != "https://auth.homelyfe.com" {
				t.Fatalf("%s leads to %s", a.location(), got)
			}
			to, err := url.Parse(a.location())
			if err != nil {
				t.Fatal(err)
			}
			params, err := url.ParseQuery(to.RawQuery)
			if err != nil || len(params) != 6 {
				t.Fatalf("%s: %d parameters, %v", a.location(), len(params), err)
			}
			for name, values := range params {
				if len(values) != 1 {
					t.Fatalf("%s is there %d times", name, len(values))
				}
			}
			if got := params.Get("redirect_uri"); got != at.origin+"/oauth2/callback" {
				t.Fatalf("redirect_uri %s", got)
			}

			// Back from there, in a browser that another tab has signed in meanwhile:
			// that ends as any login does, and spends no code.
			here := a.Request.Host
			if b.house.gate.sites.fixed != nil {
				here = "example.com" // it may be called anything, by the absolute form
			}
			back, ok := b.serve(t, "GET", "/oauth2/callback?code=x&state="+params.Get("state"), here, "Cookie",
				b.signIn(t, at))
			if !ok || back.StatusCode != http.StatusSeeOther {
				t.Fatalf("the callback: %t, %+v", ok, back.Response)
			}
			if b.house.gate.sites.fixed != nil {
				if got := landsAt(t, bareSite, back.location()); got != bareSite {
					t.Fatalf("%s leads to %s", back.location(), got)
				}
			} else if from, err := url.Parse("https://" + here); err == nil { // or no browser is there
				// Where the config has no port, the site is at the usual one. A host with a dot
				// at its end is the host without it, and an address has one form.
				want := strings.ToLower(strings.TrimRight(strings.TrimSuffix(from.Host, ":"+from.Port()), "."))
				if ip, err := netip.ParseAddr(strings.Trim(want, "[]")); err == nil && ip.Is6() {
					want = "[" + ip.String() + "]"
				}
				if got := landsAt(t, from.String(), back.location()); got != "https://"+want {
					t.Fatalf("%s leads to %s, from %s", back.location(), got, from)
				}
			}

			// It is the page that was asked for.
			got, ok := strings.CutPrefix(back.location(), at.origin)
			if !ok {
				t.Fatalf("%s is not at %s", back.location(), at.origin)
			}
			again, err := http.NewRequest("GET", at.origin+got, nil)
			if err != nil {
				t.Fatal(err)
			}
			asked := a.Request.URL
			wantPath, wantQuery := asked.Path, decoded(asked.RawQuery)
			if !strings.HasPrefix(asked.EscapedPath(), "/") { // it names no page
				wantPath, wantQuery = "/", ""
			}
			if again.URL.Path == wantPath && decoded(again.URL.RawQuery) == wantQuery {
				continue
			}
			// Too long for the state: then without its query, or the front page.
			if len(asked.EscapedPath())+len(asked.RawQuery) < 300 {
				t.Fatalf("asked for %q, and went to %q", target, back.location())
			}
			if again.URL.RawQuery != "" || again.URL.Path != wantPath && again.URL.Path != "/" {
				t.Fatalf("asked for %q, and went to %q", target, back.location())
			}
		}
	})
}

// decoded returns s with what is percent-encoded in it decoded, and what is not, but
// looks like it, left as it is.
func decoded(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(c))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}
