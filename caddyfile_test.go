package aventusauth

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var update = flag.Bool("update", false, "write the adapted JSON into testdata")

func adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{
		"filename": "Caddyfile",
	})
	return config, err
}

// TestAdapt compares what Caddyfiles are adapted to with the JSON that stands
// below them, and adapts each often enough to see that it is always the same.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/caddyfile_adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	const line = "----------\n"
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		input, want, ok := strings.Cut(string(content), line)
		if !ok {
			t.Fatalf("%s has no line of dashes", file)
		}
		for range 10 {
			config, err := adapt(input)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, config, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			if *update {
				want = got.String()
				if err := os.WriteFile(file, []byte(input+line+want), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got.String() != want {
				t.Fatalf("%s is adapted to\n%s", file, got.String())
			}
		}
	}
}

// TestBadCaddyfile: what is missing, unknown, given twice or not well-formed does
// not load, and the error names the directive and the line.
func TestBadCaddyfile(t *testing.T) {
	const good = "client_id abc\nclient_secret s\nredirect_uri https://example.com/cb\n"
	replaced := func(from, to string) string { return strings.Replace(good, from, to, 1) }
	for _, c := range []struct {
		block string // begins in line 3
		want  string
		line  string
	}{
		{"", "client_id is required", ":4"},
		{replaced("client_id abc\n", ""), "client_id is required", ":5"},
		{replaced("client_secret s\n", ""), "client_secret is required", ":5"},
		{replaced("redirect_uri https://example.com/cb\n", ""), "redirect_uri is required", ":5"},
		{good + "client_id abc", "client_id is given twice", ":6"},
		{good + "colour blue", "unrecognized subdirective colour", ":6"},
		{replaced("client_id abc", "client_id"), "client_id takes one argument", ":3"},
		{replaced("client_id abc", "client_id a b"), "client_id takes one argument", ":3"},
		{replaced("client_id abc", `client_id ""`), "client_id must not be empty", ":3"},
		{good + "audience {\n}", "audience takes one argument", ":6"},
		{good + "audience x {\ny\n}", "audience takes no block", ":7"},
		{replaced("https://example.com/cb", "example.com/cb"), "redirect_uri must be an absolute https URL", ":5"},
		{replaced("https://example.com/cb", "/cb"), "redirect_uri must be an absolute https URL", ":5"},
		{replaced("https://example.com/cb", "ftp://example.com/cb"),
			"redirect_uri must be an absolute https URL", ":5"},
		{replaced("https://example.com/cb", "http://example.com/cb"), "redirect_uri must be an https URL", ":5"},
		{replaced("https://example.com/cb", "http://localhost.example.com/cb"),
			"redirect_uri must be an https URL", ":5"},
		{replaced("https://example.com/cb", "http://10.0.0.1/cb"), "redirect_uri must be an https URL", ":5"},
		{replaced("https://example.com/cb", "https://example.com/cb#x"),
			"redirect_uri must not have a fragment", ":5"},
		{replaced("https://example.com/cb", "https://example.com/cb#"), "redirect_uri must not have a fragment", ":5"},
		{replaced("https://example.com/cb", "https://u:p@example.com/cb"),
			"redirect_uri must not hold a user name", ":5"},
		{replaced("https://example.com/cb", "https://example.com"), "redirect_uri needs a path of its own", ":5"},
		{replaced("https://example.com/cb", "https://example.com/"), "redirect_uri needs a path of its own", ":5"},
		{replaced("https://example.com/cb", "http://{http.request.host}/cb"),
			"redirect_uri must be an https URL", ":5"},
		{replaced("https://example.com/cb", "https://{http.request.host}.example.com/cb"),
			"redirect_uri may hold {http.request.host} as its host name only", ":5"},
		{replaced("https://example.com/cb", "https://x{http.request.host}/cb"),
			"redirect_uri may hold {http.request.host} as its host name only", ":5"},
		{replaced("https://example.com/cb", "https://example.com/{http.request.host}"),
			"redirect_uri may hold {http.request.host} as its host name only", ":5"},
		{good + "scope", "scope takes one scope or more", ":6"},
		{good + `scope "a b"`, "scope \"a b\" is not a scope", ":6"},
		{good + "issuer auth.example.com", "issuer must be an absolute https URL", ":6"},
		{good + "issuer http://auth.example.com/", "issuer must be an https URL", ":6"},
		{good + "issuer https://auth.example.com/?x", "issuer must not have a query", ":6"},
		{good + "token_url http://auth.example.com/", "token_url must be an https URL", ":6"},
		{good + "authorize_url https://auth.example.com/a?state=1", "authorize_url has the parameter state", ":6"},
		{good + "authorize_url https://auth.example.com/a?b=1&b=2", "authorize_url has the parameter b", ":6"},
		{good + "token_request xml", "token_request must be json or form", ":6"},
		{good + "token_auth none", "token_auth must be post or basic", ":6"},
		{good + "authorize_param prompt", "authorize_param takes a name and a value", ":6"},
		{good + "authorize_param state x", "authorize_param state is set by the module itself", ":6"},
		{good + "authorize_param prompt a\nauthorize_param prompt b", "authorize_param prompt is given twice", ":7"},
		{good + "unauthenticated maybe", "unauthenticated must be auto or redirect or deny or pass", ":6"},
		{good + "logout", "logout takes a path", ":6"},
		{good + "logout bye", "logout needs a path of its own that begins with a slash", ":6"},
		{good + "logout /bye?x", "logout needs a path of its own that begins with a slash", ":6"},
		{good + "logout /bye //evil.test", "logout return url must be a path on this site", ":6"},
		{good + "logout /bye http://example.com/", "logout return url must be a path on this site", ":6"},
		{good + `logout /bye "/see you"`, "logout return url must be a path on this site", ":6"},
		{good + "logout /bye /tschüss", "logout return url must be a path on this site", ":6"},
		{good + "logout /tschüss", "logout needs a path of its own that begins with a slash", ":6"},
		{good + "logout /bye /bye", "logout return url leads to /bye, which is a path of the block's own", ":6"},
		{good + "logout /bye /me\nprofile /me", "logout return url leads to /me", ":6"},
		{good + "logout /cb", "logout has the path /cb, which is another's already", ":6"},
		{"logout /cb\n" + good, "redirect_uri has the path /cb, which is another's already", ":6"},
		{good + "logout_provider\nissuer https://a.test/", "logout_provider needs a logout", ":6"},
		{good + "logout_provider yes", "logout_provider takes no argument", ":6"},
		{good + "session {\nidle 0s\n}", "session idle must be a positive duration", ":7"},
		{good + "session {\nrenew_before -1m\n}", "session renew_before must be a positive duration", ":7"},
		{good + "profile", "profile takes one argument", ":6"},
		{good + "profile me", "profile needs a path of its own that begins with a slash", ":6"},
		{good + "profile /cb", "profile has the path /cb, which is another's already", ":6"},
		{good + "profile /x\nlogout /x", "logout has the path /x, which is another's already", ":7"},
		{good + "scope openid\nbackchannel_logout", "backchannel_logout takes one argument", ":7"},
		{good + "scope openid\nbackchannel_logout me",
			"backchannel_logout needs a path of its own that begins with a slash", ":7"},
		{good + "scope openid\nbackchannel_logout /cb",
			"backchannel_logout has the path /cb, which is another's already", ":7"},
		{good + "scope openid\nlogout /x\nbackchannel_logout /x",
			"backchannel_logout has the path /x, which is another's already", ":8"},
		{good + "scope openid\nbackchannel_logout /x\nprofile /x",
			"profile has the path /x, which is another's already", ":8"},
		{good + "scope profile\nbackchannel_logout /x", "backchannel_logout needs the scope openid", ":7"},
		{good + "require_scope", "require_scope takes one scope or more", ":6"},
		{good + `require_scope "a b"`, "require_scope \"a b\" is not a scope", ":6"},
		{good + "require_claim role", "require_claim takes a claim, and a value or more", ":6"},
		{good + "verify_token\nlogout /x", "verify_token needs an audience", ":6"},
		{good + "accept_bearer\nlogout /x", "accept_bearer needs an audience", ":6"},
		{good + "accept_bearer yes", "accept_bearer takes no argument", ":6"},
		{good + "jwks_url http://example.com/jwks", "jwks_url must be an https URL", ":6"},
		{good + "audience x\nverify_token https://example.com/jwks", "verify_token takes no argument", ":7"},
		{good + "token_header X_Token", "token_header must be the name of a header, or off", ":6"},
		{good + "token_header Cookie", "token_header cannot be Cookie", ":6"},
		{good + "token_header Close", "token_header cannot be Close", ":6"}, // Connection: close names it
		{good + "revoke_url none", "revoke_url must be an absolute https URL", ":6"},
		{good + "audience x\naccept_bearer\naccept_bearer", "accept_bearer is given twice", ":8"},
		{good + "authorize_param nonce x", "authorize_param nonce is set by the module itself", ":6"},
		{good + "session cookie", "session takes a block", ":6"},
		{good + "session {\nstore redis\n}", "session store must be cookie or storage", ":7"},
		{good + "session {\nstore cookie\nstore cookie\n}", "session store is given twice", ":8"},
		{good + "session {\nname x\n}\nsession {\nname y\n}", "session is given twice", ":9"},
		{good + "session {\nname a b\n}", "session name takes one argument", ":7"},
		{good + "session {\nname a;b\n}", "session name is not a cookie name", ":7"},
		{good + "session {\nname aventus_login\n}", "session name is the name of another cookie", ":7"},
		{good + "session {\nname __Secure-x\n}", "session name must not begin with __Secure-", ":7"},
		{good + "session {\nname __http-x\n}", "session name must not begin with __Secure- or __Http-", ":7"},
		{good + `logout /a\b`, "logout needs a path of its own", ":6"}, // a browser asks for /a/b
		{good + `logout /bye /x/..\bye`, "logout return url has a path that no browser asks for", ":6"},
		{good + "session {\nlifetime 0s\n}", "session lifetime must be a positive duration", ":7"},
		{good + "session {\nlifetime -1h\n}", "session lifetime must be a positive duration", ":7"},
		{good + "session {\nlifetime soon\n}", "session lifetime must be a positive duration", ":7"},
		{good + "session {\nkey short\n}", "session key", ":7"},
		{good + "session {\nkey " + strings.Repeat("A", 42) + "\n}", "session key must be 32 bytes or more", ":7"},
		{good + "session {\nkey\n}", "session key takes one argument", ":7"},
		{good + "session", "session takes a block", ":6"},
		{good + "session {\n}", "session takes a block", ":7"},
		{good + "session {\nname x {\ny\n}\n}", "session name takes no block", ":8"},
		{good + "session {\nlifetime 401d\n}", "session lifetime must be 400 days", ":7"},
		{good + "session {\nlifetime 500ms\n}", "session lifetime must be a second or more", ":7"},
		{good + "session {\nkey " + strings.Repeat("A", 43) + " " + strings.Repeat("A", 43) + "\n}",
			"session key is given the same key twice", ":7"},
		{"session {\nname __Host-x\n}\n" + strings.Replace(good, "https://example.com", "HTTP://localhost", 1),
			"session name has the prefix __Host-", ":4"},
		{good + "authorize_url https://a.test/?prompt=x\nauthorize_param prompt y",
			"authorize_url has the parameter prompt", ":6"},
		{good + "authorize_param response_mode form_post", "authorize_param response_mode cannot be changed", ":6"},
		{good + "logout /", "logout needs a path of its own", ":6"},
		{good + `logout /x /\evil.test`, "logout return url must be a path", ":6"},
		{replaced("https://example.com/cb", "https://example.com/cb?code=1"),
			"redirect_uri has the parameter code", ":5"},
		{replaced("https://example.com/cb", "https://example.com/cb?a=1&a=2"),
			"redirect_uri has the parameter a", ":5"},
		{replaced("https://example.com/cb", "https://example.com/cb?a=1;b=2"),
			"redirect_uri has a query that is not well-formed", ":5"},
		{replaced("https://example.com/cb", "https://example.com/a/../cb"),
			"redirect_uri has a path that no browser asks for", ":5"},
		{replaced("https://example.com/cb", "https://example.com:99999/cb"),
			"redirect_uri has an invalid port", ":5"},
		{good + "session {\ncolour blue\n}", "unrecognized subdirective session colour", ":7"},
		{good + "cleint_id x", "unrecognized subdirective cleint_id; did you mean client_id?", ":6"},
		{good + "secret x", "unrecognized subdirective secret; did you mean client_secret?", ":6"},
		{good + "client x", "unrecognized subdirective client, at", ":6"},
		{good + "session {\nrenewbefore 5m\n}",
			"unrecognized subdirective session renewbefore; did you mean session renew_before?", ":7"},
		{good + "scope a,b", "scope \"a,b\" is not a scope", ":6"},
		{good + "scope openid, profile", "scope \"openid,\" is not a scope", ":6"},
		{good + "require_scope a,b", "require_scope \"a,b\" is not a scope", ":6"},
		{replaced("https://example.com/cb", "https://*/cb"),
			"redirect_uri has a host that is no name or address", ":5"},
		{replaced("https://example.com/cb", "https://*.example.com/cb"),
			"redirect_uri has a host that is no name or address", ":5"},
		{replaced("https://example.com/cb", "https://*:8443/cb"),
			"redirect_uri has a host that is no name or address", ":5"},
		{replaced("https://example.com/cb", "https://a.example.com,b.example.com/cb"),
			"redirect_uri has a host that is no name or address", ":5"},
		{good + "issuer https://*.example.com/", "issuer has a host that is no name or address", ":6"},
		{good + "logout /bye https://*.example.com/",
			"logout return url must be a path on this site, or it has a host", ":6"},
		{good + "authorize_url https://a.test/?response_mode=form_post",
			"authorize_url response_mode cannot be changed", ":6"},
		{good + "authorize_url https://a.test/?x=y&response%5Fmode=query",
			"authorize_url response_mode cannot be changed", ":6"},
		{good + "scope openid\nauthorize_url https://a.test/?organization=org_a",
			"authorize_url has the parameter organization in its query, where it is not compared", ":7"},
		{good + "scope openid\nauthorize_url https://a.test/?max_age=0",
			"authorize_url has the parameter max_age in its query, where it is not compared", ":7"},
		{good + "authorize_param organization org_a\nscope profile",
			"authorize_param organization needs the scope openid", ":6"},
		{good + "authorize_param organization org_a\nauthorize_param prompt login",
			"authorize_param organization needs the scope openid", ":6"},
		{good + "authorize_param prompt login\nauthorize_param max_age 0",
			"authorize_param max_age needs the scope openid", ":7"},
		{good + "scope openid\nauthorize_param max_age soon",
			"authorize_param max_age must be a number of seconds", ":7"},
		{good + "scope openid\nauthorize_param max_age -1",
			"authorize_param max_age must be a number of seconds", ":7"},
		{good + "scope openid\nauthorize_param max_age 1.5",
			"authorize_param max_age must be a number of seconds", ":7"},
		{good + "scope openid\nauthorize_param max_age 5m",
			"authorize_param max_age must be a number of seconds", ":7"},
		{good + "scope openid\nauthorize_param max_age +5",
			"authorize_param max_age must be a number of seconds", ":7"},
		{good + "scope openid\nauthorize_param organization \"\"",
			"authorize_param organization must not be empty", ":7"},
	} {
		_, err := adapt("example.com {\naventus_auth {\n" + strings.TrimSuffix(c.block, "\n") + "\n}\n}")
		if err == nil {
			t.Errorf("%q loads", c.block)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "Caddyfile"+c.line) {
			t.Errorf("%q: %v\nwant %q at line %s", c.block, err, c.want, c.line)
		}
	}
	// What comes later, or with a placeholder, is waited for.
	for _, block := range []string{
		"authorize_param organization org_a\nauthorize_param max_age 0\nscope profile openid",
		"authorize_param max_age {env.MAX_AGE}\nauthorize_param organization {env.ORG}\nscope openid",
		"authorize_param organization org_a\nscope {env.SCOPE}",
	} {
		if _, err := adapt("example.com {\naventus_auth {\n" + good + block + "\n}\n}"); err != nil {
			t.Errorf("%q: %v", block, err)
		}
	}
	for _, directive := range []string{"aventus_auth", "aventus_auth {\n}", "aventus_auth * x {\n" + good + "}"} {
		if _, err := adapt("example.com {\n" + directive + "\n}"); err == nil ||
			!strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%q: %v", directive, err)
		}
	}
}

// TestLogoutReturnsElsewhere: a logout leads to none of the block's own paths at the site, where it would sign out
// again without end, or show an error to whoever has signed out; it may lead there at another host, as far as the
// hosts are known.
func TestLogoutReturnsElsewhere(t *testing.T) {
	const good = `"client_id":"abc","client_secret":"s"`
	const site, wherever = "https://example.com", "https://{http.request.host}"
	const dots = "a path that no browser asks for, but one without the dots"
	t.Setenv("TEST_PATH", "/bye")
	for _, c := range []struct {
		redirectURI, returnURL, further string
		leadsTo                         string // the path of the block's own; empty: none, so it loads
	}{
		{site, "/bye", "", "/bye"},
		{site, "/bye?x=1#y", "", "/bye"},
		{site, "/b%79e", "", "/bye"},
		{site, "/x/../bye", "", dots},
		{site, "/%2e/bye", "", dots},
		{site, "https://example.com/x/%2E%2e/bye", "", dots},
		{site, "{env.TEST_PATH}", "", "/bye"},
		{site, "/cb", "", "/cb"},
		{site, "/me", `,"profile":"/me"`, "/me"},
		{site, "/ended", `,"scopes":["openid"],"backchannel_logout":"/ended"`, "/ended"},
		{site, "https://EXAMPLE.com./bye", "", "/bye"},
		{site, "https://example.com:443/bye", "", "/bye"},
		{site, "https://wiki.example.com/bye", `,"hosts":["wiki.example.com"]`, "/bye"},
		{wherever, "/bye", "", "/bye"},
		{"http://localhost:8080", "http://localhost:8080/bye", "", "/bye"},

		{site, "/", "", ""},
		{site, "/bye/", "", ""},
		{site, "/#/bye", "", ""},
		{site, "/%zz", "", ""},
		{site, "https://example.com:8443/bye", "", ""},
		{site, "https://wiki.example.com/bye", "", ""},
		{site, "https://wiki.example.com/x/../bye", "", ""},
		{site, "/a..b/bye", "", ""},
		{site, "https://auth.example.com/bye", `,"hosts":["*.example.com"]`, ""},
		{wherever, "https://example.com/bye", "", ""},
	} {
		err := validate(t, `{`+good+`,"redirect_uri":"`+c.redirectURI+`/cb","logout":{"path":"/bye","return_url":"`+
			c.returnURL+`"}`+c.further+`}`)
		want := "logout return url leads to " + c.leadsTo + ", which is a path"
		if c.leadsTo == dots {
			want = "logout return url has a path that no browser asks for"
		}
		if (err == nil) != (c.leadsTo == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestBadConfig: what is found only in JSON, or when placeholders are expanded,
// does not start, and the error names the directive, and no secret.
func TestBadConfig(t *testing.T) {
	t.Setenv("TEST_EMPTY", "")
	t.Setenv("TEST_BRACES", "http://x y.example.com/{tenant}") // what an unfinished template leaves
	t.Setenv("TEST_HTTP", "http://example.com/cb")
	t.Setenv("TEST_SHORT", "aGFsZmEga2V5")
	t.Setenv("TEST_STAR", "https://*.example.com/cb")
	t.Setenv("TEST_SCOPE", "profile")
	const good = `"client_id":"abc","client_secret":"s","redirect_uri":"https://example.com/cb"`
	for config, want := range map[string]string{
		`{}`: "client_id is required",
		strings.Replace(good, `"client_id":"abc",`, "",
			1): "client_id is required",
		strings.Replace(good, "https://example.com/cb", "{env.TEST_HTTP}",
			1): "redirect_uri must be an https URL",
		strings.Replace(good, `"s"`, `"{env.TEST_EMPTY}"`,
			1): "client_secret: {env.TEST_EMPTY} is empty",
		strings.Replace(good, `"s"`, `"{env.TEST_UNSET}"`,
			1): "client_secret: {env.TEST_UNSET} is not set",
		good +
			`,"audience":"{file./nowhere/at/all}"`: "audience: {file./nowhere/at/all} cannot be read, or is empty",
		strings.Replace(good, `"s"`, `"abc{secret}"`,
			1): "client_secret: unknown or empty placeholder",
		strings.Replace(good, `"s"`, `"a\nb"`,
			1): "client_secret holds a control character",
		good +
			`,"token_url":"{env.TEST_BRACES}"`: "token_url",
		good + `,"issuer":"{env.TEST_BRACES}"`: "issuer",
		good +
			`,"unauthenticated":"{env.TEST_BRACES}"`: "unauthenticated must be",
		good +
			`,"token_request":"{env.TEST_BRACES}"`: "token_request must be",
		good + `,"scopes":["{env.TEST_BRACES}"]`:                                      "scope",
		good + `,"session":{"name":"{env.TEST_BRACES}"}`:                              "session name",
		good + `,"logout":{"path":"/x","return_url":"//evil.test/{env.TEST_BRACES}"}`: "logout return url",
		good + `,"profile":"{env.TEST_BRACES}"`:                                       "profile needs a path",
		good + `,"colour":"blue"`:                                                     "unknown field",
		good + `,"scopes":["a b"]`:                                                    "scope",
		good +
			`,"issuer":"x"`: "issuer must be an absolute https URL",
		good +
			`,"audience":"{http.request.host}"`: "audience: {http.request.host} is known only while a request " +
			"is served",
		good +
			`,"authorize_params":{"state":"x"}`: "authorize_param state is set by the module itself",
		good +
			`,"authorize_url":"https://a.test/?prompt=x","authorize_params":{"prompt":"x"}`: "authorize_url has " +
			"the parameter prompt",
		good + `,"token_auth":"x"`:                       "token_auth must be post or basic",
		good + `,"unauthenticated":"x"`:                  "unauthenticated must be",
		good + `,"session":{"key":["{env.TEST_SHORT}"]}`: "session key must be 32 bytes or more",
		good + `,"session":{"key":["` + strings.Repeat("A", 43) + `","` + strings.Repeat("A", 43) +
			`="]}`: "session key: a key is given twice",
		good + `,"session":{"lifetime":-1}`: "session lifetime " +
			"must be a second or more",
		good + `,"session":{"store":"redis"}`: "session store must " +
			"be cookie or storage",
		good + `,"logout":{}`: "logout needs a path",
		good + `,"logout":{"path":"/cb"}`: "has the path /cb, " +
			"which is another's already",
		good + `,"logout_provider":true`: "logout_provider " +
			"needs a logout",
		good + `,"session":{"idle":-1}`: "session idle must be " +
			"a second or more",
		good + `,"session":{"renew_before":-1}`: "session renew_before " +
			"must be a second or more",
		good + `,"profile":"me"`: "profile needs a path",
		good + `,"accept_bearer":true`: "accept_bearer needs " +
			"an audience",
		good + `,"verify_token":true`: "verify_token needs " +
			"an audience",
		good + `,"require_claim":[{"claim":"x"}]`: "require_claim needs " +
			"a claim, and a value or more",
		good + `,"require_scope":[""]`: "require_scope \"\" " +
			"is not a scope",
		good + `,"scopes":["a,b"]`: "scope \"a,b\" is not a scope",
		strings.Replace(good, "https://example.com/cb", "{env.TEST_STAR}",
			1): "redirect_uri has a host that is no name or address",
		good + `,"authorize_url":"https://a.test/?response_mode=query"`: "authorize_url " +
			"response_mode cannot be changed",
		good + `,"authorize_params":{"organization":"org_a"}`: "authorize_param " +
			"organization needs the scope openid",
		good + `,"authorize_params":{"organization":"org_a"},"scopes":["{env.TEST_SCOPE}"]`: "authorize_param " +
			"organization needs the scope openid",
		good + `,"authorize_params":{"max_age":"{env.TEST_SCOPE}"},"scopes":["openid"]`: "authorize_param max_age " +
			"must be a number of seconds",
		good + `,"authorize_params":{"max_age":""},"scopes":["openid"]`: "authorize_param max_age must be a " +
			"number of seconds",
		good + `,"authorize_params":{"organization":""},"scopes":["openid"]`: "authorize_param organization must " +
			"not be empty",
		good + `,"match":[{"unknown":{}}]`: "loading matchers",
	} {
		if !strings.HasPrefix(config, "{") {
			config = "{" + config + "}"
		}
		err := validate(t, config)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %q", config, err, want)
			continue
		}
		for _, secret := range []string{"{secret}", "abc{", "aGFsZmEga2V5"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error holds a secret: %v", config, err)
			}
		}
	}
	for _, config := range []string{
		good, good + `,"scopes":["openid"],"authorize_params":{"organization":"a","max_age":"0"}`,
	} {
		if err := validate(t, "{"+config+"}"); err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// validate provisions a handler of that JSON, as `caddy validate` does.
func validate(t *testing.T, handler string) error {
	t.Helper()
	handler = `{"handler":"aventus_auth",` + strings.TrimPrefix(handler, "{")
	handler = strings.Replace(handler, ",}", "}", 1)
	var config caddy.Config
	err := json.Unmarshal([]byte(`{"admin":{"disabled":true},`+
		`"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[`+handler+`]}]}}}},`+
		`"storage":{"module":"file_system","root":"`+t.TempDir()+`"}}`), &config)
	if err != nil {
		t.Fatalf("%s: %v", handler, err)
	}
	return caddy.Validate(&config)
}
