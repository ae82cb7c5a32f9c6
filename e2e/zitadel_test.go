package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestZitadel: logins at the example server of zitadel/oidc, whose keys are at a path of its own and whose access
// tokens are opaque: what is known of the person is in the ID token, which is verified.
func TestZitadel(t *testing.T) {
	a, path := newAuthority(t), filepath.Join(t.TempDir(), "zitadel")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = "zitadel"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building zitadel's example server: %v\n%s", err, out)
	}
	for _, auth := range []string{"basic", "post"} {
		t.Run(auth, func(t *testing.T) {
			port := freePort(t)
			issuer := "https://localhost:" + port + "/"
			lines := []string{
				"issuer " + issuer, "authorize_url " + issuer + "auth", "token_url " + issuer + "oauth/token",
				"jwks_url " + issuer + "keys", "revoke_url " + issuer + "revoke", "token_request form",
				"token_auth " + auth,
				"scope openid profile email offline_access",
			}
			areDocumented(t, "zitadel/oidc 3.52.0", issuer, lines)
			f := newForeign(t, a, []string{"SSL_CERT_FILE=" + a.ca}, lines...)
			server := &process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + port,
				make: func() *exec.Cmd {
					return exec.Command(path, port, a.cert, a.key, oddSecret, f.site+"/oauth2/callback")
				}}
			server.start()
			server.await()

			v := newVisitor(t, a)
			wanted := f.site + "/deep/page?q=a%2Fb"
			p := v.visit(wanted)
			id := regexp.MustCompile(`name="id" value="([^"]+)"`).FindStringSubmatch(p.body)
			if id == nil {
				t.Fatalf("this is no sign-in page: %s", p)
			}
			p = v.post(issuer+"login/username", url.Values{
				"id": {id[1]}, "username": {"test-user@localhost"}, "password": {"verysecure"},
			})
			v.expect(p, 200, wanted)
			if strings.Count(p.header.Get("X-Token"), ".") == 2 {
				t.Errorf("the token is a JWT: %s", p)
			}
			var me struct {
				Sub    string
				Claims struct{ Amr []string }
			}
			p = v.get(f.site + "/me")
			if json.Unmarshal([]byte(p.body), &me) != nil || me.Sub != "id1" || len(me.Claims.Amr) != 1 {
				t.Errorf("the profile is %s", p)
			}
			v.expect(v.get(f.site+"/logout"), 200, f.site+"/logout")
			v.expect(v.get(f.site+"/me"), 401, f.site+"/me")
			if log, _ := os.ReadFile(f.log); strings.Contains(string(log), "could not be revoked") {
				t.Errorf("the refresh token was not revoked:\n%s", log)
			}
		})
	}
}
