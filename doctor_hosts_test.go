package aventusauth

import (
	"strings"
	"testing"
)

// TestDoctorHosts: who signs in at a site that is not the redirect URI's comes back to another one, for ever,
// unless it is listed.
func TestDoctorHosts(t *testing.T) {
	block := func(further string) string {
		return "aventus_auth {\nclient_id one\nclient_secret s\n" +
			"redirect_uri https://login.example.com/oauth2/callback\n" + further + "\n}\n"
	}
	site := func(address, further string) string {
		return address + " {\n" + block(further) + "respond hi\n}\n"
	}
	ofTwo := func(config string) string { return strings.Replace(config, "client_id one", "client_id two", 1) }
	one, two := strings.Repeat("A", 43)+"=", strings.Repeat("B", 42)+"A="
	runs := newAtOnce()
	for _, tc := range []struct {
		what, config string
		want         []string // status, host and the beginning of the detail or of the remedy
	}{
		{"one host", site("login.example.com", ""), nil},
		{"another port, alone", site("http://login.example.com:8080", ""),
			[]string{"fail login.example.com its site does not listen where redirect_uri says: https, port 443"}},
		{"another scheme, alone", site("http://login.example.com", ""),
			[]string{"fail login.example.com its site does not listen"}},
		{"another scheme at the port",
			strings.Replace(site("http://login.example.com:8443", ""), "//login.example.com/",
				"//login.example.com:8443/", 1),
			[]string{"fail login.example.com its site does not listen where redirect_uri says: https, port 8443"}},
		{"any name behind a proxy", site("http://:8080", ""), nil},
		{"one of two addresses", site("http://login.example.com:8080, login.example.com", ""), nil},
		{"any host", site("https://", ""), nil},
		{"another host", site("login.example.com, app.example.com", ""), []string{
			"fail app.example.com who signs in there comes back to login.example.com",
		}},
		{"another host by a placeholder", "*.example.com {\n@app host {env.SITE}\nhandle @app {\n" + block("") +
			"respond hi\n}\n}\n", []string{"fail app.example.com who signs in there comes back to login.example.com"}},
		{"a wildcard", site("*.example.com", ""), []string{"fail *.example.com who signs in there"}},
		{"one of another wildcard", "*.example.com {\n@login host login.example.com\nhandle @login {\n" +
			strings.TrimSuffix(strings.TrimPrefix(site("", ""), " {\n"), "respond hi\n}\n") + "}\n}\n", nil},
		{"no login there", site("login.example.com", "") + site("app.example.com", "unauthenticated deny"), nil},
		{"listed", site("Login.example.com, app.example.com, a.example.org", "hosts app.example.com *.example.org"),
			[]string{"pass app.example.com ", "pass *.example.org "}},
		{"by a wildcard at a wildcard", site("login.example.com, *.example.org", "hosts *.example.org"),
			[]string{"pass *.example.org "}},
		{"not listed", site("login.example.com, app.example.com, wiki.example.com", "hosts app.example.com"),
			[]string{
				"pass app.example.com ", "fail wiki.example.com is neither the host of redirect_uri nor in hosts",
			}},
		{"two labels", site("login.example.com, *.example.org, b.a.example.org", "hosts *.example.org"),
			[]string{"pass *.example.org ", "fail b.a.example.org is neither"}},
		{"not served", site("login.example.com", "hosts app.example.com"), []string{
			"warn app.example.com no site of this config has the name",
		}},
		{"another port", site("login.example.com, app.example.com:8443", "hosts app.example.com"),
			[]string{"fail app.example.com its site does not listen where redirect_uri says: https, port 443"}},
		{"another scheme", site("login.example.com, http://app.example.com", "hosts app.example.com"),
			[]string{"fail app.example.com its site does not listen"}},
		{"all by something in front", site("http://login.example.com:8080, http://app.example.com:8080",
			"hosts app.example.com"),
			[]string{"fail login.example.com its site", "fail app.example.com its site"}},
		{"any name by something in front", site("http://:8080", "hosts app.example.com"),
			[]string{"pass app.example.com "}},
		{"another scope at the login host", site("login.example.com", "hosts app.example.com") +
			site("app.example.com", "hosts app.example.com\nscope read\nsession {\nname other\n}"), []string{
			"pass app.example.com ", "pass app.example.com ",
			"fail app.example.com its block differs from the one at login.example.com in session name, scope",
		}},
		{"two blocks at the login host, one of which is nearer", "login.example.com {\n" +
			block("hosts app.example.com\nscope read\nsession {\nname other\n}") +
			block("hosts app.example.com\nscope write") + "respond hi\n}\n" +
			site("app.example.com", "hosts app.example.com"), []string{
			"pass app.example.com ",
			"fail app.example.com its block differs from the one at login.example.com in scope: ",
			"pass app.example.com ", "pass app.example.com ",
		}},
		{"another list at the login host", site("login.example.com", "hosts wiki.example.com") +
			site("app.example.com", "hosts app.example.com"), []string{
			"pass app.example.com ",
			"fail app.example.com its block differs from the one at login.example.com in hosts",
			"warn wiki.example.com",
		}},
		{"another scope at any host", site("https://", "hosts app.example.com\nscope write") +
			site("app.example.com", "hosts app.example.com"), []string{
			"pass app.example.com ",
			"fail app.example.com its block differs from the one at login.example.com in scope",
			"pass app.example.com ",
		}},
		{"other keys at the login host", site("login.example.com", "hosts *.example.org") +
			site("a.example.org", "hosts *.example.org\nsession {\nkey "+strings.Repeat("A", 43)+"=\n}"), []string{
			"pass *.example.org ",
			"fail a.example.org its block differs from the one at login.example.com in session key",
		}},
		{"keys that are being replaced", site("login.example.com", "hosts app.example.com\nsession {\nkey "+two+" "+
			one+"\n}") + site("app.example.com", "hosts app.example.com\nsession {\nkey "+one+" "+two+"\n}"),
			[]string{"pass app.example.com "}},
		{"keys that were replaced at one of them", site("login.example.com", "hosts app.example.com\nsession {\nkey "+
			two+"\n}") + site("app.example.com", "hosts app.example.com\nsession {\nkey "+one+" "+two+"\n}"),
			[]string{"pass app.example.com ",
				"fail app.example.com its block differs from the one at login.example.com in session key"}},
		{"other rules at the login host", site("login.example.com", "hosts app.example.com") +
			site("app.example.com", "hosts app.example.com\nrequire_scope read\nlogout /bye"),
			[]string{"pass app.example.com "}},
		{"of two logins at the login host", "login.example.com {\n" + block("hosts wiki.example.com") +
			ofTwo(block("hosts app.example.com")) + "respond hi\n}\n" +
			ofTwo(site("app.example.com", "hosts app.example.com")) +
			site("wiki.example.com", "hosts wiki.example.com"),
			[]string{"pass wiki.example.com ", "pass app.example.com "}},
		{"each host's own", strings.Replace(site("a.example.com, b.example.com", ""), "login.example.com",
			"{http.request.host}", 1), nil},
		{"something before it", "login.example.com, app.example.com {\n@app host app.example.com\nredir @app " +
			"https://new.example.com\n" +
			strings.TrimPrefix(site("", "hosts app.example.com"), " {\n"), []string{
			"fail app.example.com static_response",
		}},
	} {
		runs.Go(func() {
			var got []string
			for _, b := range examine(t, tc.config, "HTTPS_PROXY=http://127.0.0.1:1", "SITE=app.example.com").Blocks {
				for _, c := range b.Checks {
					if c["check"] != "hosts" {
						continue
					}
					got = append(got, c["status"]+" "+c["target"]+" "+c["detail"])
					if (c["status"] == "fail" || c["status"] == "warn") && c["next"] == "" {
						t.Errorf("%s: there is no remedy for %v", tc.what, c)
					}
				}
			}
			if len(got) != len(tc.want) {
				t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
				return
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("%s: %q, want %q", tc.what, got[i], want)
				}
			}
		})
	}
	runs.Wait()
}
