package aventusauth

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// refreshesTo returns where a page goes by itself. Its link has to lead there as well.
func refreshesTo(t *testing.T, a answer) string {
	t.Helper()
	to := regexp.MustCompile(`<meta http-equiv="refresh" content="0; url=([^"]+)">`).FindStringSubmatch(a.body)
	if to == nil || !strings.Contains(a.body, `<a href="`+to[1]+`">`) {
		t.Fatalf("the page goes nowhere:\n%s", a.body)
	}
	return html.UnescapeString(to[1])
}

// TestFormLeavesTheSite: a form gets to another origin, too, from a page with
// Content-Security-Policy: form-action 'self', by which Chromium also measures the
// redirects that come of it. e2e.TestBrowserForms has a browser do it.
func TestFormLeavesTheSite(t *testing.T) {
	const elsewhere = "https://www.example.com/bye?a=1&b=%22'"
	navigation := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "document",
		"Accept", "text/html,*/*;q=0.8"}
	for name, headers := range map[string][]string{
		"a browser": navigation, "an old browser": {"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"},
		"a service worker": passedOn,
		"curl":             {"Accept", "*/*"}, "no Accept": nil,
		"fetch":                 {"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "text/html"},
		"XMLHttpRequest of old": {"X-Requested-With", "XMLHttpRequest", "Accept", "text/html, */*"},
	} {
		isForm := strings.Contains(name, "browser") || name == "a service worker"
		for block, want := range map[string]string{
			"unauthenticated redirect":                                "authorize?",
			"logout /logout " + elsewhere:                             elsewhere,
			"logout /logout\nlogout_provider":                         "v2/logout?",
			"logout /logout /bye":                                     "/bye",
			"logout /logout https://example.com/bye\nlogout_provider": "v2/logout?",
		} {
			w := newWorld(t, setup{block: block})
			if !strings.HasPrefix(want, "/") && !strings.HasPrefix(want, "http") {
				want = w.issuer.Issuer + want
			}
			b, target := w.browser(), "/logout"
			if block == "unauthenticated redirect" {
				target = "/form?step=2"
			} else {
				b.login("/")
			}
			a := b.do("POST", target, headers...)
			to := a.location()
			if isForm && !isPath(want) {
				w.expect(a, http.StatusOK)
				to = refreshesTo(t, a)
				if a.Header["Location"] != nil || a.Header.Get("Referrer-Policy") != "no-referrer" ||
					a.Header.Get("X-Content-Type-Options") != "nosniff" ||
					!strings.HasPrefix(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
					t.Errorf("%s, %s: %v", name, block, a.Header)
				}
			} else {
				w.expect(a, http.StatusSeeOther)
			}
			if !strings.HasPrefix(to, want) || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %s: sent to %s, want %s; %v", name, block, to, want, a.Header)
			}
			if target == "/logout" { // a link gets there by a redirect
				w.expect(b.get("/"), http.StatusFound)
				w.expect(b.do("GET", "/logout", navigation...), http.StatusSeeOther)
				continue
			}
			// The login is a good one: it comes back to the form's URL.
			a = b.get(b.get(to).location())
			if isForm {
				w.expect(a, http.StatusSeeOther)
				if a.location() != w.site+"/form?step=2" {
					t.Errorf("%s: went back to %s", name, a.location())
				}
			}
			if w.issuer.CodesReused() > 0 {
				t.Error("a code was sent twice")
			}
		}
	}
}

// TestErrorWhileSignedIn: whoever is signed in and comes back with an error, of another
// tab's login or of a renewal by visit, goes to the page; only a refusal is told.
func TestErrorWhileSignedIn(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	b := w.browser()
	a := b.get("/other?tab")
	w.expect(a, http.StatusFound)
	state := query(a.location(), "state")
	b.login("/")
	for code, want := range map[string]int{
		"login_required": 303, "temporarily_unavailable": 303, "server_error": 303, "consent_required": 303,
		"invalid_scope": 303, "access_denied": 403,
	} {
		callback := "/oauth2/callback?" + url.Values{"error": {code}, "state": {state}}.Encode()
		a := b.get(callback)
		w.expect(a, want)
		if to := w.site + "/other?tab"; want == 303 && a.location() != to {
			t.Errorf("%s: sent to %s, want %s", code, a.location(), to)
		}
		// Without the session, it is an error in any case.
		var binding string
		for _, c := range b.cookies() {
			if strings.Contains(c.Name, "login") {
				binding = c.Name + "=" + c.Value
			}
		}
		if a := w.browser().do("GET", callback, "Cookie", binding); a.StatusCode < 400 ||
			a.Header["Set-Cookie"] != nil {
			t.Errorf("%s, nobody: status %d, %v", code, a.StatusCode, a.Header)
		}
	}
	w.expect(b.get("/"), http.StatusOK)
}
