package aventusauth

import (
	"slices"
	"strings"
	"testing"
)

// TestDoctorNamesLogoutsOfHosts: of hosts that share a login, the authorization server tells one of what it ends,
// but sends the browser back to each of them.
func TestDoctorNamesLogoutsOfHosts(t *testing.T) {
	config := `login.example.com:8443, app.example.com:8443, a.team.example.org:8443 {
		aventus_auth {
			client_id the-client
			client_secret s
			redirect_uri https://login.example.com:8443/oauth2/callback
			hosts APP.example.com *.team.example.org
			scope openid
			logout /logout
			logout_provider
			backchannel_logout /oauth2/ended
		}
	}`
	b := examine(t, config, "HTTPS_PROXY=http://127.0.0.1:1").Blocks[0]
	if want := []string{"https://login.example.com:8443/oauth2/ended"}; !slices.Equal(b.LogoutURIs, want) {
		t.Errorf("the back-channel logout URLs are %q, want %q", b.LogoutURIs, want)
	}
	if want := []string{
		"https://*.team.example.org:8443/logout?signed_out", "https://app.example.com:8443/logout?signed_out",
		"https://login.example.com:8443/logout?signed_out",
	}; !slices.Equal(b.ReturnURLs, want) {
		t.Errorf("the logout URLs are %q, want %q", b.ReturnURLs, want)
	}
}

// TestDoctorNamesLogoutsOfPlaces: of blocks that are alike but for their paths, each is registered where it stands.
func TestDoctorNamesLogoutsOfPlaces(t *testing.T) {
	site := func(host, further string) string {
		return host + " {\naventus_auth {\nclient_id one\nclient_secret s\nredirect_uri " +
			"https://{http.request.host}/cb\nscope openid\nlogout /logout\nlogout_provider\n" + further + "\n}\n}\n"
	}
	b := examine(t, site("a.example.com, c.example.com", "backchannel_logout /ended")+site("b.example.com", ""),
		"HTTPS_PROXY=http://127.0.0.1:1").Blocks[0]
	if want := []string{
		"https://a.example.com/ended", "https://c.example.com/ended",
	}; !slices.Equal(b.LogoutURIs, want) {
		t.Errorf("the back-channel logout URLs are %q, want %q", b.LogoutURIs, want)
	}
	if want := []string{
		"https://a.example.com/logout?signed_out", "https://b.example.com/logout?signed_out",
		"https://c.example.com/logout?signed_out",
	}; !slices.Equal(b.ReturnURLs, want) {
		t.Errorf("the logout URLs are %q, want %q", b.ReturnURLs, want)
	}
}

// TestDoctorFindsLogout: the doctor sees whether a logout token comes to a block that has its path.
func TestDoctorFindsLogout(t *testing.T) {
	block := func(id, callback, host, further string) string {
		return "aventus_auth " + further + " {\nclient_id " + id + "\nclient_secret s\nredirect_uri https://" + host +
			callback + "\nscope openid\nbackchannel_logout /ended\n}\n"
	}
	one := block("one", "/cb", "a.example.com", "")
	runs := newAtOnce()
	for _, tc := range []struct{ what, config, want string }{
		{"by itself", "a.example.com {\n" + one + "respond hi\n}\n", "pass comes to aventus_auth"},
		{"left out by the matcher", "a.example.com {\n" + block("one", "/cb", "a.example.com", "/app/*") +
			"respond hi\n}\n", "pass comes to aventus_auth"},
		{"an answer before it", "a.example.com {\nroute {\nrespond /ended no\n" + one + "}\n}\n",
			"fail static_response (respond, redir or abort) answers before aventus_auth sees it"},
		{"an answer to POST before it", "a.example.com {\n@post method POST\nroute {\nrespond @post no\n" + one +
			"}\n}\n", "fail static_response (respond, redir or abort) answers before aventus_auth sees it"},
		{"left out by a handle", "a.example.com {\nhandle /cb {\n" + one + "}\nrespond hi\n}\n",
			"fail static_response (respond, redir or abort) answers: the handle or route that aventus_auth stands " +
				"in leaves /ended out"},
		{"behind another's gate", "a.example.com {\nroute {\n" + strings.Replace(block("two", "/cb2", "a.example.com",
			""), "/ended", "/other", 1) + one + "}\n}\n", "fail another aventus_auth (client_id two) answers"},
		{"behind another's callback", "a.example.com {\nroute {\n" + strings.Replace(block("two", "/ended",
			"a.example.com", "/two/*"), "backchannel_logout /ended", "", 1) + one + "}\n}\n",
			"fail another aventus_auth (client_id two) answers"},
		{"two of one path", "a.example.com {\n" + one + block("two", "/cb2", "a.example.com", "/two/*") +
			"respond hi\n}\n", "pass comes to aventus_auth"},
		{"another host's block before it", "a.example.com, b.example.com {\nroute {\n" + strings.Replace(block("two",
			"/cb2", "b.example.com", "/two/*"), "backchannel_logout", "profile", 1) + one + "}\n}\n",
			"pass comes to aventus_auth"},
	} {
		runs.Go(func() {
			found := false
			for _, b := range examine(t, tc.config, "HTTPS_PROXY=http://127.0.0.1:1").Blocks {
				for _, c := range b.Checks {
					if c["check"] != "logout" || c["target"] != "https://a.example.com/ended" {
						continue
					}
					found = true
					if got := c["status"] + " " + c["detail"]; !strings.HasPrefix(got, tc.want) {
						t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
					}
				}
			}
			if !found {
				t.Errorf("%s: the doctor does not look for it", tc.what)
			}
		})
	}
	runs.Wait()
}
