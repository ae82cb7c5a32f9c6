package aventusauth

import (
	"net/http"
	"strings"
	"testing"
)

// TestLogoutTells: what the logout's path answers, and whether the session has ended by then, by who asks, and how.
func TestLogoutTells(t *testing.T) {
	const server, elsewhere = "https://auth.example.com/v2/logout?", "https://www.example.com/bye"
	const here, like, root = bareSite + "/bye", bareSite + ".evil/", bareSite + "/"
	visit := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "same-origin"}
	typed := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "none"}
	cross := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "cross-site"}
	frame := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "cross-site"}
	image := []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Sec-Fetch-Site", "same-origin"}
	script := []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}
	ahead := append([]string{"Sec-Purpose", "prefetch"}, visit...)
	form := append([]string{"Content-Type", "application/x-www-form-urlencoded"}, visit...)
	for what, c := range map[string]struct {
		method, target string
		headers        []string
		provider       bool
		returnURL      string
		isSignedIn     bool
		want           string // the status, or the code of a failure
		to             string // where a redirect, or a form, leads
		ends           bool
	}{
		"a visit":                   {"GET", "", visit, false, "", true, "OK", "", true},
		"an address that was typed": {"GET", "", typed, false, "", true, "OK", "", true},
		"an old browser":            {"GET", "", nil, false, "", true, "OK", "", true},
		"a form":                    {"POST", "", form, false, "", true, "OK", "", true},
		"a script":                  {"POST", "", script, false, "", true, "OK", "", true},
		"a visit, by nobody":        {"GET", "", visit, false, "", false, "OK", "", false},
		"a query of no meaning":     {"GET", "?x", visit, false, "", true, "OK", "", true},
		"another method":            {"DELETE", "", script, false, "", true, errMethod.code, "", false},
		"another site's link":       {"GET", "", cross, false, "", true, errForcedLogout.code, "", false},
		"another site's frame":      {"GET", "", frame, false, "", true, errForcedLogout.code, "", false},
		"fetched ahead":             {"GET", "", ahead, false, "", true, errUnaskedLogout.code, "", false},
		"an image":                  {"GET", "", image, false, "", true, errUnaskedLogout.code, "", false},

		"to a page":                 {"GET", "", visit, false, "/bye", true, "See Other", "/bye", true},
		"to another site":           {"GET", "", visit, false, elsewhere, true, "See Other", elsewhere, true},
		"a form, to a page":         {"POST", "", form, false, "/bye", true, "See Other", "/bye", true},
		"a form, to this site":      {"POST", "", form, false, here, true, "See Other", here, true},
		"a form, to another site":   {"POST", "", form, false, elsewhere, true, "OK", elsewhere, true},
		"a form, to one like this":  {"POST", "", form, false, like, true, "OK", like, true},
		"to the server":             {"GET", "", visit, true, "", true, "See Other", server, true},
		"a form, to the server":     {"POST", "", form, true, "", true, "OK", server, true},
		"a GET form":                {"GET", "?", visit, true, "", true, "OK", server, true},
		"a GET form with a field":   {"GET", "?a=b", visit, false, elsewhere, true, "OK", elsewhere, true},
		"a GET form, to a page":     {"GET", "?", visit, false, "/bye", true, "See Other", "/bye", true},
		"a query that was typed":    {"GET", "?", typed, true, "", true, "See Other", server, true},
		"to the server, by nobody":  {"GET", "", visit, true, "", false, "See Other", server, false},
		"to the server, and a page": {"GET", "", visit, true, "/bye", true, "See Other", server, true},

		"back from the server":       {"GET", "?signed_out", cross, true, "", false, "OK", "", false},
		"back from no server":        {"GET", "?signed_out", visit, false, "", true, "OK", "", true},
		"back, and signed in again":  {"GET", "?signed_out", visit, true, "", true, "See Other", root, false},
		"back, by another site":      {"GET", "?signed_out", cross, true, "", true, errForcedLogout.code, "", false},
		"back, in a frame":           {"GET", "?signed_out", frame, true, "", false, errForcedLogout.code, "", false},
		"back, by POST":              {"POST", "?signed_out", form, true, "", true, "OK", server, true},
		"back from no login host":    {"GET", "?ended=x", visit, false, "", true, "OK", "", true},
		"forgotten":                  {"GET", "?forget", image, false, "", false, "No Content", "", false},
		"forgotten, signed in":       {"GET", "?forget", image, false, "", true, errUnaskedLogout.code, "", false},
		"forgotten, by another site": {"GET", "?forget", frame, false, "", false, errForcedLogout.code, "", false},
		"forgotten, by a script":     {"POST", "?forget", script, false, "", true, "OK", "", true},
	} {
		t.Run(what, func(t *testing.T) {
			p := newParts(t)
			lo := p.gate(new(renewalParts)).logouts
			lo.provider, lo.returnURL = c.provider, c.returnURL
			k, cookie := p.session(nil)
			_, _, bound := p.begin(p.logins(), "/page")
			headers := append([]string{"Cookie", bound}, c.headers...)
			if c.isSignedIn {
				headers[1] += "; " + cookie
			}
			w, got := p.outcome(lo.leave, p.request(c.method, "/logout"+c.target, headers...))
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			to := w.Header().Get("Location")
			if got == "OK" && c.to != "" {
				_, rest, _ := strings.Cut(w.Body.String(), `content="0; url=`)
				to, _, _ = strings.Cut(rest, `"`)
			}
			if !strings.HasPrefix(to, c.to) || c.to == "" && to != "" {
				t.Errorf("leads to %q, want %q", to, c.to)
			}
			if got == "OK" && c.to == "" && !strings.Contains(w.Body.String(), "<title>You are signed out") {
				t.Errorf("it says %s", w.Body)
			}
			if got == "No Content" != (w.Header().Get("Clear-Site-Data") == `"cache"`) {
				t.Errorf("forgotten is %q", w.Header().Get("Clear-Site-Data"))
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("it may be kept: %v", w.Header())
			}
			sets := strings.Join(w.Header()["Set-Cookie"], "\n")
			leaves := c.ends || c.to == server // or had nothing to leave
			if strings.Contains(sets, "session=; Path=/; Max-Age=0;") != c.ends ||
				strings.Contains(sets, bindingName+"=; Path=/; Max-Age=0;") != (c.provider && leaves) {
				t.Errorf("sets %s", sets)
			}
			if p.keeper.ends.has(k.session) != c.ends {
				t.Errorf("the session has ended: %t, want %t", !c.ends, c.ends)
			}
			if c.provider && c.to == server {
				want := "client_id=the-client&returnTo=https%3A%2F%2Fexample.com%2F"
				if c.returnURL == "" {
					want += "logout%3Fsigned_out"
				} else {
					want += "bye"
				}
				if to = strings.ReplaceAll(to, "&amp;", "&"); to != server+want {
					t.Errorf("leads to %s, want %s", to, server+want)
				}
			}
		})
	}
}

// TestLogoutSaysWhat: a refused logout leaves the cookies alone, and what it says names no other site.
func TestLogoutSaysWhat(t *testing.T) {
	p := newParts(t)
	lo := p.gate(new(renewalParts)).logouts
	_, cookie := p.session(nil)
	w, got := p.outcome(lo.leave, p.request(http.MethodPut, "/logout", "Cookie", cookie))
	if got != errMethod.code || w.Header().Get("Allow") != "GET, POST" || w.Header()["Set-Cookie"] != nil {
		t.Errorf("%s, %v", got, w.Header())
	}
}

// TestLogoutOfOverwritten: a logout ends the sessions whose cookies the logins of other tabs have overwritten, also of
// other blocks at its host, but not what other browsers and hosts have.
func TestLogoutOfOverwritten(t *testing.T) {
	two := &cookies{session: "two", binding: bindingName}
	prefixed := &cookies{session: hostPrefix + "session", binding: hostPrefix + bindingName}
	at := func(uri string) *sites { return newSites(uri, nil, nil, nil) }
	for what, c := range map[string]struct {
		cookies *cookies // of the block that made them; nil: the logout's own, or as that has them
		sites   *sites   // nil: the same
		browser string
		ends    bool
	}{
		"its own":                           {nil, nil, "this", true},
		"its own, in another browser":       {nil, nil, "another", false},
		"another name":                      {two, nil, "this", true},
		"another name, in another browser":  {two, nil, "another", false},
		"another port, and its own binding": {prefixed, at("https://example.com:8443/callback"), "this", true},
		"another host":                      {nil, at("https://other.example.com/callback"), "this", false},
	} {
		p := newParts(t)
		lo := p.gate(new(renewalParts)).logouts
		made := *lo.replacer
		if c.cookies != nil || c.sites != nil {
			other := *lo.own
			if c.cookies != nil {
				other.cookies = c.cookies
			}
			if c.sites != nil {
				other.sites = c.sites
			}
			lo.blocks.join(&other)
			made.own = &other
		}
		k, _ := p.session(nil)
		made.remember(*made.own.sites.fixed, &login{browser: browserOf(c.browser)}, k)
		_, got := p.outcome(lo.leave, p.request("POST", "/logout", "Cookie", made.own.cookies.binding+"=this.1"))
		if isOver := p.keeper.ends.has(k.session); got != "OK" || isOver != c.ends {
			t.Errorf("%s: %s, the session has ended: %t", what, got, isOver)
		}
	}
}
