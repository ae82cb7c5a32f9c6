package aventusauth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http/httpguts"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// FuzzCaddyfile looks for a directive that makes the parser panic, that is adapted to
// one thing now and to another the next time, or that loads though it should not.
func FuzzCaddyfile(f *testing.F) {
	const good = "{\n\tclient_id abc\n\tclient_secret s\n\tredirect_uri https://example.com/cb\n"
	for _, more := range []string{
		// What loads,
		"", "scope openid profile\nscope profile email",
		"audience https://api.example.com/\nverify_token\njwks_url https://login.example.com/keys\nrevoke_url " +
			"off\naccept_bearer",
		"session {\nstore storage\nname app\nlifetime 7d\nidle 2h\nrenew_before 10m\nkey " + strings.Repeat("A", 43) +
			" {env.OLD}\n}",
		"logout_provider\nlogout /logout https://www.example.com/bye\nprofile /me",
		"authorize_param prompt login\nauthorize_param a \"b c\"",
		"require_scope a b\nrequire_claim role admin editor\nrequire_claim org.id 42",
		"issuer http://localhost:1\ntoken_request form\ntoken_auth basic",
		"authorize_url https://a.test/?x=y\ntoken_url {env.URL}\nunauthenticated redirect",
		"scope `a`\nscope <<X\nb\nX", "logout /bye /#/signed-out",
		// and what does not.
		"session {\n}", "logout /cb", "issuer {\n}", "logout /bye /\\evil.test", "session {\nname __Host-x\n}",
		"profile /me {\n}", "authorize_param prompt",
		"authorize_param state x", "scope", "logout bye", "logout /bye //evil.test", "logout /bye http://a.test",
		"logout", "profile me", "profile /x\nlogout /x",
		"issuer http://a.test", "token_url http://a.test/", "authorize_url https://a.test/?state=1", "verify_token",
		"session {\nkey AAAA\n}", "session {\nlifetime -1s\n}",
		"session {\nname aventus_login\n}", "session {\nidle\n}", "require_claim a", "accept_bearer yes",
		"audience x {\ny\n}",
	} {
		f.Add(good + more + "\n}")
		f.Add("/private/* " + good + more + "\n}")
	}
	f.Add(strings.Replace(good, "https://example.com/cb", "https://{host}/cb", 1) + "}")
	f.Add(strings.Replace(good, "https://example.com/cb", "{$HOME}", 1) + "}")
	f.Add(strings.Replace(good, "https://example.com/cb", "http://localhost/cb", 1) + "session {\nname __Host-x\n}\n}")
	f.Add(strings.Replace(good, "https://example.com/cb", "http://example.com/cb", 1) + "}")
	for _, whole := range []string{
		"", "{", "{\n}", "x {\n}", "@m {\n}", "{\nclient_id\n}", good + "}\nrespond hello\n}\nexample.org {\n",
		"{\nclient_id \"\x00\"\n}",
	} {
		f.Add(whole)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "import") || strings.Contains(text, "{file") {
			return // files of this machine
		}
		whole := "example.com {\n\taventus_auth " + text + "\n}\n"
		first, firstErr := adapt(whole)
		second, secondErr := adapt(whole)
		// (Of several things that are wrong, Caddy names any.)
		if (firstErr == nil) != (secondErr == nil) || firstErr == nil && !bytes.Equal(first, second) {
			t.Fatalf("first\n%s %v\nthen\n%s %v", first, firstErr, second, secondErr)
		}

		// The directive alone, without what Caddy makes of the rest.
		tokens, err := caddyfile.Tokenize([]byte("aventus_auth "+text), "Caddyfile")
		if err != nil {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") {
				t.Fatalf("the error names no line: %v", err)
			}
			return
		}
		config, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		again := new(Handler)
		dec := json.NewDecoder(bytes.NewReader(config))
		dec.DisallowUnknownFields()
		if err := dec.Decode(again); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		if config2, err := json.Marshal(again); err != nil || !bytes.Equal(config, config2) {
			t.Fatalf("%s became %s, %v", config, config2, err)
		}
		s, err := again.settings()
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("an error of several lines: %v", err)
			}
			return
		}
		// What starts is safe to run.
		for name, raw := range map[string]string{
			"issuer": s.issuer, "authorize_url": s.AuthorizeURL, "token_url": s.TokenURL, "jwks_url": s.jwksURL,
			"revoke_url":   cmp.Or(s.revokeURL, s.TokenURL),
			"redirect_uri": strings.Replace(s.sites.redirectURI, hostPlaceholder, "example.com", 1),
		} {
			u, err := url.Parse(raw)
			if err != nil || u.Scheme != "https" && !isLocal(u) || u.User != nil || u.Fragment != "" {
				t.Fatalf("%s is %q: %v", name, raw, err)
			}
			if name == "redirect_uri" && (s.secure != (u.Scheme == "https") || u.Path != s.callbackPath) {
				t.Fatalf("redirect_uri is %q, with the path %q", raw, s.callbackPath)
			}
		}
		paths := []string{s.callbackPath}
		for _, p := range []string{s.logoutPath, s.backchannelPath, s.profilePath} {
			if p == "" {
				continue
			}
			if p[0] != '/' || p == "/" || slices.Contains(paths, p) {
				t.Fatalf("the path %q, after %q", p, paths)
			}
			paths = append(paths, p)
		}
		if s.logoutURL != "" {
			u, err := url.Parse(s.logoutURL)
			to, err2 := leadsTo(bareSite+"/logout", s.logoutURL)
			if err != nil || err2 != nil || !strings.HasPrefix(to, "https:") && !isLocal(u) ||
				strings.HasPrefix(s.logoutURL, "/") && to != bareSite {
				t.Fatalf("the return url is %q: %v, %v", s.logoutURL, err, err2)
			}
		}
		for _, key := range s.keys {
			if len(key) < keyring.SecretSize {
				t.Fatalf("a key of %d bytes", len(key))
			}
		}
		for name := range s.Params {
			if slices.Contains(aventus.ReservedParams, name) {
				t.Fatalf("authorize_param %s", name)
			}
		}
		if s.lifetime < time.Second || s.idle < 0 || s.renewBefore < time.Second || s.ClientID == "" ||
			s.ClientSecret == "" || s.verify && s.Audience == "" ||
			!httpguts.ValidHeaderFieldName(s.cookieName) || strings.HasPrefix(s.cookieName, hostPrefix) != s.secure ||
			s.cookieName == s.bindingName {
			t.Fatalf("%+v", s)
		}
	})
}

// isLocal reports whether a URL is of this machine, to a browser.
func isLocal(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	return u.Scheme == "http" && (host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		strings.HasPrefix(host, "127.") || host == "::1")
}
