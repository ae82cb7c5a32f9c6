package aventusauth

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestHostsThatMayBeListed(t *testing.T) {
	for _, tc := range []struct {
		host    string
		refused string // a part of what is said; empty: it may
	}{
		{"app.example.com", ""},
		{"App.Example.COM", ""},
		{"app.example.com.", ""},
		{"example.com", ""},
		{"intranet", ""},
		{"my_app.example.com", ""},
		{"xn--bcher-kva.example", ""},
		{"app.localhost", ""},
		{"localhost", ""},
		{"*.example.com", ""},
		{"*.team.example.org", ""},
		{"*.localhost", ""},
		{"*.example.co.uk", ""},
		{"*.me.github.io", ""},
		{"com", ""}, // a name, not what is below it

		{"*.com", "anybody can register"},
		{"*.COM.", "anybody can register"},
		{"*.co.uk", "anybody can register"},
		{"*.CO.UK", "anybody can register"},
		{"*.github.io", "anybody can register"},
		{"*.internal", "anybody can register"},    // no list says whose the names are
		{"*.kawasaki.jp", "anybody can register"}, // no public suffix, but all names below it are
		{"*.ck", "anybody can register"},
		{"*", "asterisk for the whole first label"},
		{"*.", "asterisk for the whole first label"},
		{"*.*.example.com", "asterisk for the whole first label"},
		{"app.*.example.com", "asterisk for the whole first label"},
		{"app*.example.com", "asterisk for the whole first label"},
		{"https://app.example.com", "not the URL"},
		{"app.example.com/", "not the URL"},
		{"app.example.com:443", "takes no port"},
		{"[::1]", "takes no port or address"},
		{"192.0.2.1", "is an address"},
		{"127.1", "is an address"},
		{"app.0x7f", "is an address"},
		{"1.2.3.4.", "is an address"},
		{"bücher.example", "Punycode"},
		{"", "is not one"},
		{".", "is not one"},
		{".example.com", `takes *.example.com for the names below a domain, not ".example.com"`},
		{"app..example.com", "is not one"},
		{"app example.com", "is not one"},
		{"user@example.com", "is not one"},
		{"app.example.com\\", "is not one"},
		{"app.example.com?", "is not one"},
		{strings.Repeat("a", 64) + ".example.com", "is not one"},
		{strings.Repeat("a.", 127) + "com", "is not one"},
	} {
		err := checkListed(tc.host, true)
		switch {
		case tc.refused == "" && err != nil:
			t.Errorf("%q is refused: %v", tc.host, err)
		case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
			t.Errorf("%q: error %v, want %q in it", tc.host, err, tc.refused)
		}
	}
	for host, ok := range map[string]bool{
		"app.localhost": true, "localhost": true, "*.localhost": true,
		"app.example.com": false, "*.example.com": false, "notlocalhost": false, "localhost.example.com": false,
	} {
		if err := checkListed(host, false); (err == nil) != ok {
			t.Errorf("beside http: %q gets the error %v", host, err)
		}
	}
}

func TestHostName(t *testing.T) {
	for hostport, want := range map[string]string{
		"app.example.com":               "app.example.com",
		"app.example.com:8443":          "app.example.com",
		"App.EXAMPLE.com:":              "app.example.com",
		"app.example.com.":              "app.example.com",
		"app.example.com.:443":          "app.example.com",
		"127.0.0.1:80":                  "127.0.0.1",
		"[::1]":                         "::1",
		"[0:0::1]:8080":                 "::1",
		"":                              "",
		":443":                          "",
		"[app.example.com]":             "",
		"[app.example.com]:443":         "",
		"::1%eth0":                      "",
		"[::ffff:127.0.0.1]":            "",
		"app.example.com:443:1":         "",
		"app.example.com@evil.test":     "",
		"app.example.com/.evil.test":    "",
		"app.example.com\\.evil.test":   "",
		"app.example.com\x00.evil.test": "",
		"bücher.example":                "",
		strings.Repeat("a", 254):        "",
	} {
		if got := hostName(hostport); got != want {
			t.Errorf("%q is %q, want %q", hostport, got, want)
		}
	}
}

func TestHostGroup(t *testing.T) {
	g := newHostGroup("login.example.com", []string{
		"App.example.com.", "app.example.com", "*.Team.example.org", "login.example.com",
	})
	for host, want := range map[string]bool{
		"login.example.com":      true,
		"app.example.com":        true,
		"a.team.example.org":     true,
		"a-b_c.team.example.org": true,

		"":                       false,
		"example.com":            false,
		"other.example.com":      false,
		"a.app.example.com":      false,
		"team.example.org":       false, // the wildcard's own domain
		".team.example.org":      false,
		"a.b.team.example.org":   false, // two labels deep
		"xteam.example.org":      false,
		"a.team.example.org.":    false, // hostName has taken the dot away
		"*.team.example.org":     true,  // no Host has an asterisk: hostName
		"app.example.com.evil":   false,
		"evilapp.example.com":    false,
		"a.team.example.org.com": false,
	} {
		if got := g.has(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
	if got := hostName("*.team.example.org"); got != "" {
		t.Errorf("an asterisk makes the host %q", got)
	}
	for _, tc := range []struct {
		own    string
		listed []string
		want   bool
	}{
		{"login.example.com", nil, true},
		{"login.other.test", []string{"app.example.com"}, true},
		{"login.other.test", []string{"*.example.com"}, true},
		{"b.team.example.org", nil, true},
		{"login.other.test", []string{"*.team.example.org"}, true},
		{"login.other.test", []string{"app.other.test", "*.other.test"}, false},
		{"team.example.org", []string{"a.b.team.example.org", "*.b.team.example.org"}, false},
	} {
		other := newHostGroup(tc.own, tc.listed)
		if g.overlaps(other) != tc.want || other.overlaps(g) != tc.want {
			t.Errorf("%s %v: overlaps %v and %v, want %v", tc.own, tc.listed, g.overlaps(other),
				other.overlaps(g), tc.want)
		}
	}
}

// TestSitesName: which hosts a config names, also one that serves whatever host it is asked for.
func TestSitesName(t *testing.T) {
	group := newHostGroup("example.com", []string{"*.example.com"})
	for uri, hosts := range map[string]*hostGroup{
		bareSite + "/callback": nil, bareSite + "/shared": group, "https://{http.request.host}/callback": nil,
	} {
		s := newSites(uri, hosts, nil, nil)
		for host, want := range map[string]bool{
			"example.com": strings.HasPrefix(uri, bareSite), "a.example.com": hosts != nil, "other.test": false,
		} {
			if got := s.names(host); got != want {
				t.Errorf("%s names %s: %t, want %t", uri, host, got, want)
			}
		}
	}
}

// TestSiteOfARequest: with a redirect URI of one host, the site is that one's, by whatever name a proxy in front asks
// for it, or without any. Where the host of the request decides, it has to be one.
func TestSiteOfARequest(t *testing.T) {
	fixed := newSites("https://example.com:8443/cb", nil, nil, nil)
	group := newSites(bareSite+"/cb", newHostGroup("example.com", []string{secondHost}), nil, nil)
	anyOne := newSites("https://"+hostPlaceholder+"/cb", nil, nil, nil)
	for _, c := range []struct {
		sites        *sites
		host, origin string // none: it is for no site
	}{
		{fixed, "example.com", "https://example.com:8443"}, {fixed, "other.test:1", "https://example.com:8443"},
		{fixed, "", "https://example.com:8443"}, {fixed, `a"b`, "https://example.com:8443"},
		{group, "EXAMPLE.com.", bareSite}, {group, secondHost + ":443", secondSite}, {group, "other.test", ""},
		{group, "", ""}, {anyOne, "A.test.:80", "https://a.test"}, {anyOne, "[::1]:80", "https://[::1]"},
		{anyOne, "", ""}, {anyOne, `a"b`, ""}, {anyOne, "a.test:1:2", ""},
	} {
		at, err := c.sites.of(&http.Request{Host: c.host})
		if at.origin != c.origin || (err != nil) != (c.origin == "") {
			t.Errorf("%s: %q is at %q, %v; want %q", c.sites.redirectURI, c.host, at.origin, err, c.origin)
		}
	}
	// By the origin that is remembered with a session, it is what that session is bound to.
	if at := group.from(secondSite); at.redirectURI != bareSite+"/cb" || !bytes.Equal(at.group, group.fixed.group) {
		t.Errorf("a session of a group is at %+v", at)
	}
	want, _ := anyOne.of(&http.Request{Host: "a.test"})
	if at := anyOne.from("https://a.test"); at.redirectURI != "https://a.test/cb" ||
		!bytes.Equal(at.associated, want.associated) {
		t.Errorf("a session of any host is at %+v", at)
	}
	if _, err := fixed.member("example.com"); !errors.Is(err, errUnlisted) {
		t.Errorf("without hosts, a host is a member: %v", err)
	}
}
