//go:build hydra

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// These tests put a site behind Ory Hydra. It takes too long to build for a test that everybody runs, so they need
// a build tag: go test -tags hydra -run '^TestHydra' -v .

// hydra is a running Hydra, with the pages that it leaves to others: its sign-in, consent and sign-out pages.
type hydra struct {
	process
	issuer, admin string
	pages         string // where its pages are
	config        map[string]any
	authority     *authority
	person        string // who signs in next
	ended         string // where the site takes logout tokens
}

// buildHydra builds Hydra, by the version in its own go.mod, and returns where it is. That takes many minutes where
// it was not built before, and wants a C compiler.
func buildHydra(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hydra")
	cmd := exec.Command("go", "build", "-tags", "sqlite,sqlite_omit_load_extension", "-o", path,
		"github.com/ory/hydra/v2")
	cmd.Dir = "hydra"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building Hydra: %v\n%s", err, out)
	}
	return path
}

// newHydra returns one that does not run yet. It forgets everything when it ends.
func newHydra(t *testing.T, path string, a *authority) *hydra {
	t.Helper()
	port, adminPort := freePort(t), freePort(t)
	h := &hydra{issuer: "https://localhost:" + port, admin: "http://127.0.0.1:" + adminPort, authority: a,
		person: "ada"}
	h.process = process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + port,
		make: withConfig(t, &h.config, path, "serve", "all", "--sqa-opt-out", "--config")}
	pages := httptest.NewServer(http.HandlerFunc(h.servePage))
	t.Cleanup(pages.Close)
	h.pages = pages.URL
	h.config = map[string]any{
		"dsn": "memory", "secrets": map[string]any{"system": []string{"a secret of sixteen characters"}},
		"serve": map[string]any{
			"public": map[string]any{"host": "127.0.0.1", "port": json.Number(port), "tls": map[string]any{
				"enabled": true, "cert": map[string]any{"path": a.cert}, "key": map[string]any{"path": a.key},
			}},
			"admin": map[string]any{"host": "127.0.0.1", "port": json.Number(adminPort), "tls": map[string]any{
				"enabled": false,
			}},
		},
		"urls": map[string]any{
			"self":  map[string]any{"issuer": h.issuer},
			"login": pages.URL + "/login", "consent": pages.URL + "/consent", "logout": pages.URL + "/logout",
			"post_logout_redirect": pages.URL + "/out",
		},
	}
	return h
}

// lines are what aventus_auth needs to know of it.
func (h *hydra) lines(further ...string) []string {
	return append([]string{
		"issuer " + h.issuer, "authorize_url " + h.issuer + "/oauth2/auth",
		"token_url " + h.issuer + "/oauth2/token", "revoke_url " + h.issuer + "/oauth2/revoke", "token_request form",
	}, further...)
}

// serveFor starts it with a client for a site.
func (h *hydra) serveFor(f *secure, auth string) {
	h.t.Helper()
	h.start()
	h.await()
	admin := process{t: h.t, log: h.log, addr: strings.TrimPrefix(h.admin, "http://")}
	admin.await()
	// It makes its keys for tokens when they are first asked for, which can take seconds.
	v := newVisitor(h.t, f.authority)
	eventually(h.t, "Hydra has keys", func() bool {
		resp, err := v.Get(h.issuer + "/.well-known/jwks.json")
		if err != nil { // after ten seconds, it gives up
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	h.ended = f.site + "/oauth2/ended"
	h.ask(http.MethodPost, "/admin/clients", map[string]any{
		"client_id": "the-client", "client_secret": oddSecret, "redirect_uris": []string{f.site + "/oauth2/callback"},
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"scope": "openid email tools offline_access", "audience": []string{"https://api.example.com/"},
		"token_endpoint_auth_method": auth,
		"backchannel_logout_uri":     h.pages + "/ended", "backchannel_logout_session_required": true,
	})
}

// ask sends its admin API a request, and returns the answer's fields.
func (h *hydra) ask(method, path string, body any) map[string]any {
	h.t.Helper()
	sent, kind := "", "application/x-www-form-urlencoded"
	if form, ok := body.(url.Values); ok {
		sent = form.Encode()
	} else {
		document, err := json.Marshal(body)
		if err != nil {
			h.t.Fatal(err)
		}
		sent, kind = string(document), "application/json"
	}
	r, err := http.NewRequest(method, h.admin+path, strings.NewReader(sent))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode >= 300 {
		h.t.Errorf("%s %s: %s %v %v", method, path, resp.Status, answer, err)
	}
	return answer
}

// servePage accepts whatever Hydra asks a page of.
func (h *hydra) servePage(w http.ResponseWriter, r *http.Request) {
	what := strings.TrimPrefix(r.URL.Path, "/")
	switch what {
	case "out":
		fmt.Fprint(w, "signed out at Hydra")
		return
	case "ended": // a logout token, for a host that the system's resolver does not know
		resp, err := newVisitor(h.t, h.authority).Post(h.ended, r.Header.Get("Content-Type"), r.Body)
		if err != nil {
			h.t.Errorf("passing on a logout token: %v", err)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		return
	}
	at := "/admin/oauth2/auth/requests/" + what
	query := "?" + url.Values{what + "_challenge": {r.FormValue(what + "_challenge")}}.Encode()
	accepted := map[string]any{}
	switch what {
	case "login":
		accepted = map[string]any{"subject": h.person, "remember": true}
	case "consent":
		request := h.ask(http.MethodGet, at+query, nil)
		accepted = map[string]any{
			"grant_scope":                 request["requested_scope"],
			"grant_access_token_audience": request["requested_access_token_audience"],
			"session": map[string]any{
				"id_token": map[string]any{"email": h.person + "@example.com"},
			},
		}
	}
	to, _ := h.ask(http.MethodPut, at+"/accept"+query, accepted)["redirect_to"].(string)
	http.Redirect(w, r, cmp.Or(to, "/out"), http.StatusFound)
}

// expiry returns when an access token expires, by Hydra's own account; it is zero for one that is not good.
func (h *hydra) expiry(authorization string) (at time.Time) {
	token := strings.TrimPrefix(authorization, "Bearer ")
	said := h.ask(http.MethodPost, "/admin/oauth2/introspect", url.Values{"token": {token}})
	if seconds, ok := said["exp"].(float64); ok && said["active"] == true {
		at = time.Unix(int64(seconds), 0)
	}
	return at
}

// TestHydra: logins at Hydra, with access tokens that are opaque and with those that are JWTs; their renewal; a
// logout, which has Hydra revoke what came of the login. A person who signs out there is not out here, since its
// logout tokens lack the exp that OpenID Connect Back-Channel Logout 1.0, section 2.4, requires.
func TestHydra(t *testing.T) {
	a, path := newAuthority(t), buildHydra(t)
	trusting := []string{"SSL_CERT_FILE=" + a.ca}
	h := newHydra(t, path, a)
	areDocumented(t, "Ory Hydra 2.3.0", h.issuer, h.lines())
	const scope = "scope openid email tools offline_access"
	for name, tc := range map[string]struct {
		auth  string
		lines []string
	}{
		"opaque": {"basic", []string{"token_auth basic", scope, "require_scope tools"}},
		"jwt": {"post", []string{
			scope, "require_scope tools", "audience https://api.example.com/", "verify_token", "accept_bearer",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHydra(t, path, a)
			h.config["strategies"] = map[string]any{"access_token": name}
			// Of these, half has to pass before a token is renewed.
			h.config["ttl"] = map[string]any{"access_token": "8s"}
			f := newForeign(t, a, trusting, h.lines(append(tc.lines, "backchannel_logout /oauth2/ended")...)...)
			h.serveFor(f, "client_secret_"+tc.auth)
			wanted := f.site + "/deep/page?q=a%2Fb"
			signIn := func(who string) (*visitor, string) {
				h.person = who
				v := newVisitor(t, a)
				p := v.visit(wanted)
				v.expect(p, 200, wanted)
				return v, p.header.Get("X-Token")
			}

			ada, token := signIn("ada")
			if isJWT := strings.Count(token, ".") == 2; isJWT != (name == "jwt") {
				t.Errorf("the token is %s", token)
			}
			var me struct {
				Sub    string
				Claims struct{ Email, Sid string }
			}
			p := ada.get(f.site + "/me")
			if json.Unmarshal([]byte(p.body), &me) != nil || me.Sub != "ada" ||
				me.Claims.Email != "ada@example.com" || me.Claims.Sid == "" {
				t.Errorf("the profile is %s", p)
			}
			if name == "jwt" { // which an API client may bring itself
				client := newVisitor(t, a)
				client.expect(client.get(wanted, "Authorization", token), 200, wanted)
				client.expect(client.get(wanted, "Authorization", token+"x"), 401, wanted)
			}

			for range 3 { // each with the refresh token that came of the one before
				before := token
				eventually(t, "another token", func() bool {
					p := ada.get(wanted)
					ada.expect(p, 200, wanted)
					token = p.header.Get("X-Token")
					return token != before
				})
			}
			expiry := h.expiry(token)
			ada.expect(ada.get(f.site+"/logout"), 200, f.site+"/logout")
			ada.expect(ada.get(f.site+"/me"), 401, f.site+"/me")
			eventually(t, "what came of the login is no longer good", func() bool { return h.expiry(token).IsZero() })
			if time.Now().After(expiry) {
				t.Errorf("it expired at %s, and was not revoked before", expiry)
			}

			// Both sign in, and Ada signs out there.
			ada, _ = signIn("ada")
			grace, _ := signIn("grace")
			if p := ada.get(h.issuer + "/oauth2/sessions/logout"); p.body != "signed out at Hydra" {
				t.Fatalf("signing out leads to %s", p)
			}
			said := func(what string) bool {
				log, _ := os.ReadFile(f.log)
				return strings.Contains(string(log), what)
			}
			eventually(t, "the logout token is refused", func() bool { return said("a logout token was refused") })
			if !said("it has no exp") || said("signed out by the authorization server") {
				t.Error("the log does not say why the logout token is refused")
			}
			ada.expect(ada.get(f.site+"/me"), 200, f.site+"/me")
			grace.expect(grace.get(f.site+"/me"), 200, f.site+"/me")
			if said("could not be revoked") {
				t.Error("a refresh token could not be revoked")
			}
		})
	}

	// What cannot work ends in an error, and the log says why.
	const api = "audience https://api.example.com/"
	for name, tc := range map[string]struct{ line, secret, code, why string }{
		"wrong secret":     {"token_auth post", "another", "token_refused", "invalid_client"},
		"another auth":     {"token_auth basic", oddSecret, "token_refused", "supports client authentication method"},
		"JSON":             {"token_request json", oddSecret, "token_refused", "The POST body can not be empty"},
		"opaque for APIs":  {api, oddSecret, "token_invalid", "it is not a JWT"},
		"an API not given": {"audience https://other.example.com/", oddSecret, "server_error", "whitelisted"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHydra(t, path, a)
			lines := append(h.lines(), "scope openid", tc.line)
			if name == "JSON" {
				lines = slices.DeleteFunc(lines, func(line string) bool { return line == "token_request form" })
			}
			f := newForeign(t, a, append(trusting, "ODD_SECRET="+tc.secret), lines...)
			h.serveFor(f, "client_secret_post")
			v := newVisitor(t, a)
			if p := v.visit(f.site + "/"); p.status != 502 || p.body != tc.code {
				t.Errorf("the login ends with %s", p)
			}
			v.expect(v.get(f.site+"/me"), 401, f.site+"/me")
			if log, _ := os.ReadFile(f.log); !strings.Contains(string(log), tc.why) {
				t.Errorf("the log does not say %q:\n%s", tc.why, log)
			}
		})
	}
}
