package aventus

import (
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	for _, good := range []string{
		"https://example.com",
		"https://example.com/",
		"https://example.com:8443/cb?a=b&c=%20",
		"HTTPS://EXAMPLE.COM/",
		"https://192.0.2.1/cb",
		"https://[2001:db8::1]/cb",
		"https://xn--bcher-kva.example/cb",
		"https://an_app.example.com/cb",
		"https://example.com./cb",
		"http://localhost/cb",
		"http://LOCALHOST:8080/cb",
		"http://app.localhost/cb",
		"http://127.0.0.1:8080/cb",
		"http://127.1.2.3/cb",
		"http://[::1]:8080/cb",
	} {
		if u, err := CheckURL(good); err != nil || u == nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	const absolute, loopback, character, host = "absolute https URL", "http is for loopback hosts only",
		"a character that a URL may not hold", "no name or address"
	for _, tc := range []struct{ raw, text string }{
		{"", absolute},
		{"example.com", absolute},
		{"example.com/cb", absolute},
		{"/cb", absolute},
		{"//example.com/cb", absolute},
		{"https:/example.com/cb", absolute},
		{"https:example.com", absolute},
		{"https:///cb", absolute},
		{"https://:443/cb", absolute},
		{"https://?x", absolute},
		{"ftp://example.com/", absolute},
		{"javascript:alert(1)", absolute},
		{"file:///etc/passwd", absolute},
		{"httpsx://example.com/", absolute},
		{"http://example.com/", loopback},
		{"http://192.168.0.1/", loopback},
		{"http://0.0.0.0/", loopback},
		{"http://[::]/", loopback},
		{"http://10.0.0.1/", loopback},
		{"http://localhost.example.com/", loopback},
		{"http://127.0.0.1.example.com/", loopback},
		{"http://notlocalhost/", loopback},
		{"http://127.1/", loopback},
		{"http://2130706433/", loopback},
		{"https://user@example.com/", "user name or password"},
		{"https://user:secret@example.com/", "user name or password"},
		{"https://@example.com/", "user name or password"},
		{"https://example.com/cb#x", "fragment"},
		{"https://example.com/cb#", "fragment"},
		{"https://example.com/a b", character},
		{"https://example.com/ä", character},
		{"https://bücher.example/", character},
		{`https://example.com/a\b`, character},
		{"https://example.com/?\u202e", character},
		{"https://*/cb", host},
		{"https://*.example.com/cb", host},
		{"https://a,b/cb", host},
		{"https://a;b/cb", host},
		{"https://b%C3%BCcher.example/cb", host},
		{"https://[example.com]/cb", "not a valid URL"},
		{"https://[::g]/cb", "not a valid URL"},
		{"https://example.com/\n", "not a valid URL"},
		{"https://example.com/\x7f", "not a valid URL"},
		{"https://exa mple.com/", "not a valid URL"},
		{`https://example.com\@evil.test/`, "not a valid URL"},
		{"https://example.com:port/", "not a valid URL"},
		{"https://example.com/%zz", "not a valid URL"},
		{"https://[::1/", "not a valid URL"},
		{"https://user:secret@exa mple.com/", "not a valid URL"},
	} {
		u, err := CheckURL(tc.raw)
		if err == nil || u != nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%q: error %v; want %q", tc.raw, err, tc.text)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows the password: %v", tc.raw, err)
		}
	}
}

func TestCheckIssuer(t *testing.T) {
	for raw, want := range map[string]string{
		"https://auth.example.com":      "https://auth.example.com/",
		"https://auth.example.com/":     "https://auth.example.com/",
		"https://auth.example.com/t/1":  "https://auth.example.com/t/1/",
		"https://auth.example.com/t/1/": "https://auth.example.com/t/1/",
		"http://localhost:9090":         "http://localhost:9090/",
	} {
		if got, err := CheckIssuer(raw); err != nil || got != want {
			t.Errorf("%s: %q, error %v; want %q", raw, got, err, want)
		}
	}
	for _, bad := range []string{
		"", "auth.example.com", "http://auth.example.com/", "https://auth.example.com/?",
		"https://auth.example.com/?a=b",
		"https://auth.example.com/#", "https://user@auth.example.com/",
	} {
		if got, err := CheckIssuer(bad); err == nil || got != "" {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

func TestSameIssuer(t *testing.T) {
	const issuer = "https://auth.example.com/"
	for other, want := range map[string]bool{
		"https://auth.example.com/":     true,
		"https://auth.example.com":      true,
		"https://auth.example.com//":    false,
		"https://auth.example.com/x":    false,
		"https://AUTH.example.com/":     false, // RFC 9207, section 2.4: to the letter
		"http://auth.example.com/":      false,
		"https://auth.example.com:443/": false,
		"https://auth.example.com.evil": false,
		"":                              false,
	} {
		if SameIssuer(other, issuer) != want || SameIssuer(issuer, other) != want {
			t.Errorf("%q: want %v", other, want)
		}
	}
}

func TestCheckScope(t *testing.T) {
	for _, good := range []string{"openid", "read:things", "https://example.com/scope", "!", "a'b", "~"} {
		if err := CheckScope(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", " ", "openid profile", "a\tb", "a\nb", `a"b`, `a\b`, "ä", "a\x7f", "a\x00", "a,b", "a,", ",",
	} {
		if err := CheckScope(bad); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

func TestCheckParam(t *testing.T) {
	for _, good := range []string{"prompt", "connection", "organization", "login_hint", "Scope"} {
		if err := CheckParam(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "audience", "client_id", "code_challenge", "code_challenge_method", "nonce",
		"redirect_uri", "response_type", "scope", "state", "response_mode"} {
		if err := CheckParam(bad); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

func TestCheckAuthorizeURL(t *testing.T) {
	params := map[string]string{"prompt": "login"}
	for _, good := range []string{
		"https://auth.example.com/authorize",
		"https://auth.example.com/authorize?tenant=1",
		"https://auth.example.com/authorize?tenant=1&login_hint=",
		"https://auth.example.com/authorize?",
	} {
		if err := CheckAuthorizeURL(good, params); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, tc := range []struct{ raw, text string }{
		{"https://auth.example.com/authorize?prompt=none", "the parameter prompt"},
		{"https://auth.example.com/authorize?scope=openid", "the parameter scope"},
		{"https://auth.example.com/authorize?%73tate=x", "the parameter state"},
		{"https://auth.example.com/authorize?client_id", "the parameter client_id"},
		{"https://auth.example.com/authorize?a=1&a=1", "the parameter a"},
		{"https://auth.example.com/authorize?response_mode=query", "response_mode cannot be changed"},
		{"https://auth.example.com/authorize?organization=", "the parameter organization"},
		{"https://auth.example.com/authorize?max%5Fage=1", "the parameter max_age"},
		{"https://auth.example.com/authorize?a=1;b=2", "not well-formed"},
		{"https://auth.example.com/authorize?a=%", "not well-formed"},
		{"http://auth.example.com/authorize", "https URL"},
		{"https://auth.example.com/authorize#", "fragment"},
	} {
		if err := CheckAuthorizeURL(tc.raw, params); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: error %v; want %q", tc.raw, err, tc.text)
		}
	}
}
