package aventusauth

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestMovingCaddyfiles runs the Caddyfiles that people move to, and sees that the app is sent what the
// page about moving says: on public paths and elsewhere, whatever a client makes up.
func TestMovingCaddyfiles(t *testing.T) {
	blocks := regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```\n").FindAllStringSubmatch(
		readFile(t, "docs/moving.md"), -1)
	const forged = "made up"
	sent := []string{
		"Authorization", "Basic " + forged, "X-User-Id", forged, "X-User-Email", forged, "X-User-Admin", forged,
		"X-Auth-Request-User", forged, "X-Auth-Request-Email", forged, "X-Token-Subject", forged,
		"X-Token-User-Roles", forged,
		"Oidc_claim_email", forged, "Oidc-Claim-Email", forged, "Oidc_claim_groups", forged,
		"X-Forwarded-Access-Token", forged,
	}
	type want struct {
		as     string // who asks: "", or "ada"
		path   string
		status int // 0: the app is asked
		// What the app gets, by name. "token" is the token, and "" nothing at all.
		header map[string]string
	}
	for _, tc := range []struct {
		has  string // by which the block is known
		want []want
	}{
		{"@public path /hooks/*", []want{
			{"", "/hooks/x", 0, map[string]string{
				"Authorization": "Basic " + forged, "X-User-Id": "", "X-User-Email": "", "X-User-Admin": "",
			}},
			{"", "/page", 302, nil},
			{"ada", "/page", 0, map[string]string{
				"Authorization": "Bearer token", "X-User-Id": "auth0|ada", "X-User-Email": "ada@example.com",
				"X-User-Admin": "",
			}},
			{"ada", "/hooks/x", 0, map[string]string{
				"Authorization": "Basic " + forged, "X-User-Id": "", "X-User-Email": "",
			}},
		}},
		{"profile /oauth2/userinfo", []want{
			{"", "/health", 0, map[string]string{
				"Authorization": "", "X-Auth-Request-User": "", "X-Auth-Request-Email": "",
			}},
			{"", "/page", 302, nil},
			{"ada", "/page", 0, map[string]string{
				"Authorization": "Bearer token", "X-Auth-Request-User": "auth0|ada",
				"X-Auth-Request-Email": "ada@example.com",
			}},
			{"ada", "/health", 0, map[string]string{
				"Authorization": "Bearer token", "X-Auth-Request-User": "auth0|ada",
			}},
		}},
		{"X-Forwarded-Access-Token", []want{
			{"", "/api/x", 401, nil},
			{"", "/page", 302, nil},
			{"ada", "/api/x", 0, map[string]string{
				"Authorization": "Bearer token", "X-Forwarded-Access-Token": "token",
			}},
		}},
		{"X-Token-Subject", []want{
			{"", "/assets/x", 0, map[string]string{
				"Authorization": "", "X-Token-Subject": "", "X-Token-User-Roles": "",
			}},
			{"", "/page", 302, nil},
			{"ada", "/page", 0, map[string]string{
				"X-Token-Subject": "auth0|ada", "X-Token-User-Roles": "admin,owner",
			}},
		}},
		{"OIDC_CLAIM_email", []want{
			{"", "/", 0, map[string]string{
				"Authorization": "", "Oidc_claim_email": "", "Oidc-Claim-Email": "", "Oidc_claim_groups": "",
			}},
			{"", "/secure", 302, nil},
			{"ada", "/secure/x", 0, map[string]string{
				"Oidc_claim_email": "ada@example.com", "Oidc-Claim-Email": "", "Oidc_claim_groups": "",
			}},
			{"ada", "/secure/admin/x", 403, nil},
		}},
	} {
		t.Run(tc.has, func(t *testing.T) {
			text := ""
			for _, block := range blocks {
				if strings.Contains(block[1], tc.has) {
					text = block[1]
				}
			}
			if text == "" {
				t.Fatal("there is no such Caddyfile")
			}
			// What only this test has: its own host, app and authorization server.
			t.Setenv("AVENTUS_CLIENT_ID", "the-client")
			t.Setenv("AVENTUS_CLIENT_SECRET", testSecret)
			callback := ""
			w := newWorld(t, setup{sites: func(w *world) string { return w.site },
				issuer: func(s *aventustest.Server) {
					path := regexp.MustCompile(`redirect_uri https://example.com(\S+)`).FindStringSubmatch(text)[1]
					callback = strings.Replace(s.Clients[0].RedirectURIs[0], "/oauth2/callback", path, 1)
					s.Clients[0].RedirectURIs = []string{callback}
					s.Claims = func(aventustest.User) map[string]any {
						return map[string]any{"https://example.com/roles": []string{"admin", "owner"}}
					}
				}})
			text = regexp.MustCompile(`redirect_uri \S+`).ReplaceAllLiteralString(text, "redirect_uri "+callback+
				"\nissuer "+w.issuer.Issuer)
			text = strings.NewReplacer("\nexample.com {", "\n"+w.site+" {", "localhost:9000",
				w.app).Replace("\n" + text)
			w.run(strings.TrimSuffix(w.config, w.site) + text)

			ada := w.browser()
			w.expect(ada.get(ada.get(ada.get("/secure/page").location()).location()), http.StatusSeeOther)
			for _, want := range tc.want {
				b := w.browser()
				if want.as == "ada" {
					b = ada
				}
				w.requests()
				a := b.do("GET", want.path, append([]string{"Accept", "text/html"}, sent...)...)
				seen := w.requests()
				if want.status != 0 {
					if a.StatusCode != want.status || len(seen) != 0 {
						t.Errorf("%q at %s: status %d, want %d; the app was asked %d times", want.as, want.path,
							a.StatusCode, want.status, len(seen))
					}
					continue
				}
				if a.StatusCode != http.StatusOK || len(seen) != 1 {
					t.Errorf("%q at %s: status %d; the app was asked %d times", want.as, want.path,
						a.StatusCode, len(seen))
					continue
				}
				token := strings.TrimPrefix(seen[0].Header.Get("Authorization"), "Bearer ")
				for name, value := range want.header {
					got := strings.Join(seen[0].Header.Values(name), " and ")
					if strings.HasPrefix(token, "ey") {
						got = strings.ReplaceAll(got, token, "token")
					}
					if got != value {
						t.Errorf("%q at %s: the app gets %s, want %q", want.as, want.path,
							fmt.Sprintf("%s %q", name, got), value)
					}
				}
			}
		})
	}
}
