package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// oidcProvider is a running oidc-provider (of npm), which has other paths than Auth0's
// dialect, and OpenID Connect's back-channel logout.
type oidcProvider struct {
	process
	issuer string
}

// newOIDCProvider returns one that does not run yet.
func newOIDCProvider(t *testing.T) *oidcProvider {
	t.Helper()
	port := freePort(t)
	return &oidcProvider{
		issuer:  "https://localhost:" + port,
		process: process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + port},
	}
}

// lines are what aventus_auth needs to know of it.
func (o *oidcProvider) lines(further ...string) []string {
	return append([]string{
		"issuer " + o.issuer, "authorize_url " + o.issuer + "/auth", "token_url " + o.issuer + "/token",
		"jwks_url " + o.issuer + "/jwks", "revoke_url " + o.issuer + "/token/revocation", "token_request form",
	}, further...)
}

// serveFor starts it with these clients.
func (o *oidcProvider) serveFor(a *authority, clients ...map[string]any) {
	o.t.Helper()
	node, dir := program(o.t, "node", "apt-get install -y nodejs"), npmInstall(o.t, "oidcprovider")
	list, err := json.Marshal(clients)
	if err != nil {
		o.t.Fatal(err)
	}
	_, port, _ := strings.Cut(o.addr, ":")
	o.make = func() *exec.Cmd {
		cmd := exec.Command(node, "provider.mjs", port, a.cert, a.key, string(list))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "NODE_EXTRA_CA_CERTS="+a.ca)
		return cmd
	}
	o.start()
	o.await()
}

// asciiSecret is odd, too, but of characters that RFC 6749 allows (appendix A.2), on which oidc-provider insists.
const asciiSecret = `a "secret": 100% + / & = \`

// clientOf is the client of a site.
func clientOf(site string) map[string]any {
	return map[string]any{
		"client_id": "the-client", "client_secret": asciiSecret, "redirect_uris": []string{site + "/oauth2/callback"},
		"grant_types":                []string{"authorization_code", "refresh_token"},
		"token_endpoint_auth_method": "client_secret_post",
		"backchannel_logout_uri":     site + "/oauth2/ended", "backchannel_logout_session_required": true,
	}
}

// signInAtProvider visits a page, and gets where it leads by way of the provider's own pages: it signs in as
// somebody, and consents.
func (v *visitor) signInAtProvider(wanted, as string) page {
	v.t.Helper()
	p := v.visit(wanted)
	for _, prompt := range []string{"login", "consent"} {
		form := regexp.MustCompile(`<form[^>]* action="([^"]+/interaction/[^"]+)"`).FindStringSubmatch(p.body)
		if form == nil || !strings.Contains(p.body, `value="`+prompt+`"`) {
			v.t.Fatalf("this is no page for the %s: %s", prompt, p)
		}
		p = v.post(html.UnescapeString(form[1]), url.Values{"prompt": {prompt}, "login": {as}, "password": {"any"}})
	}
	return p
}

// TestOIDCProvider: logins at oidc-provider, with access tokens that are opaque and with those that are JWTs; and
// a person who signs out there is out here, by its logout token, while others are not.
func TestOIDCProvider(t *testing.T) {
	a := newAuthority(t)
	trusting := []string{"SSL_CERT_FILE=" + a.ca, "ODD_SECRET=" + asciiSecret}
	o := newOIDCProvider(t)
	areDocumented(t, "oidc-provider 9.13.3", o.issuer, o.lines())
	for name, further := range map[string][]string{
		"opaque": {"scope openid email"},
		"JWT": {
			"scope openid email tools", "audience https://api.example.com/", "verify_token", "require_scope tools",
			"authorize_param resource https://api.example.com/",
		},
		"renewed": {
			"scope openid email offline_access", "authorize_param prompt consent", "session {\nstore storage\n}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOIDCProvider(t)
			f := newForeign(t, a, trusting, o.lines(append(further, "backchannel_logout /oauth2/ended")...)...)
			o.serveFor(a, clientOf(f.site))
			ada, grace := newVisitor(t, a), newVisitor(t, a)
			wanted := f.site + "/deep/page?q=a%2Fb"
			p := ada.signInAtProvider(wanted, "ada")
			ada.expect(p, 200, wanted)
			var me struct {
				Sub    string
				Claims struct{ Email, Sid string }
			}
			p = ada.get(f.site + "/me")
			if json.Unmarshal([]byte(p.body), &me) != nil || me.Sub != "ada" ||
				me.Claims.Email != "ada@example.com" || me.Claims.Sid == "" {
				t.Fatalf("the profile is %s", p)
			}
			grace.expect(grace.signInAtProvider(wanted, "grace"), 200, wanted)

			// Ada signs out there, at a page that asks once more.
			p = ada.get(o.issuer + "/session/end")
			form := regexp.MustCompile(`(?s)action="([^"]+/session/end/confirm)".*name="xsrf" value="([^"]+)"`).
				FindStringSubmatch(p.body)
			if form == nil {
				t.Fatalf("this is no page to sign out: %s", p)
			}
			ada.post(html.UnescapeString(form[1]), url.Values{"xsrf": {form[2]}, "logout": {"yes"}})
			eventually(t, "the logout token is taken", func() bool {
				log, _ := os.ReadFile(o.log)
				if strings.Contains(string(log), "logout token: refused") {
					t.Fatalf("the provider says\n%s", log)
				}
				return strings.Contains(string(log), "logout token: taken by the-client")
			})
			ada.expect(ada.get(f.site+"/me"), 401, f.site+"/me")
			grace.expect(grace.get(f.site+"/me"), 200, f.site+"/me")
		})
	}
}

// TestBetterAuth: logins at better-auth, with access tokens that are opaque and with those that are JWTs, both
// signed by Ed25519.
func TestBetterAuth(t *testing.T) {
	a := newAuthority(t)
	node, dir := program(t, "node", "apt-get install -y nodejs"), npmInstall(t, "betterauth")
	for name, further := range map[string][]string{
		"opaque": {"scope openid email"},
		"JWT": {
			"scope openid email offline_access", "audience https://api.example.com/", "verify_token",
			"authorize_param resource https://api.example.com/",
		},
	} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			origin := "https://localhost:" + port
			issuer := origin + "/api/auth"
			lines := []string{
				"issuer " + issuer, "authorize_url " + issuer + "/oauth2/authorize",
				"token_url " + issuer + "/oauth2/token", "jwks_url " + issuer + "/jwks",
				"revoke_url " + issuer + "/oauth2/revoke", "token_request form",
			}
			areDocumented(t, "better-auth 1.7.5", issuer, lines)
			trusting := []string{"SSL_CERT_FILE=" + a.ca, "ODD_SECRET=" + asciiSecret}
			f := newForeign(t, a, trusting, append(lines, further...)...)
			server := &process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + port,
				make: func() *exec.Cmd {
					cmd := exec.Command(node, "server.mjs", port, a.cert, a.key, asciiSecret, f.site)
					cmd.Dir = dir
					return cmd
				}}
			server.start()
			server.await()

			v := newVisitor(t, a)
			post := func(path string, body map[string]string) page {
				sent, _ := json.Marshal(body)
				r, err := http.NewRequest(http.MethodPost, issuer+path, strings.NewReader(string(sent)))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Origin", origin)
				return v.do(r)
			}
			wanted := f.site + "/deep/page?q=a%2Fb"
			p := v.visit(wanted)
			_, query, ok := strings.Cut(p.url, origin+"/sign-in?")
			if !ok {
				t.Fatalf("this is no sign-in page: %s", p)
			}
			p = post("/sign-in/email", map[string]string{
				"email": "ada@example.com", "password": "a password", "oauth_query": query,
			})
			var signedIn struct{ URL string }
			if json.Unmarshal([]byte(p.body), &signedIn) != nil || signedIn.URL == "" {
				t.Fatalf("signing in leads to %s", p)
			}
			p = v.visit(signedIn.URL)
			v.expect(p, 200, wanted)
			if isJWT := strings.Count(p.header.Get("X-Token"), ".") == 2; isJWT != (name == "JWT") {
				t.Errorf("the token is %s", p.header.Get("X-Token"))
			}
			var me struct {
				Sub    string
				Claims struct{ Email string }
			}
			p = v.get(f.site + "/me")
			isKnown := json.Unmarshal([]byte(p.body), &me) == nil && me.Sub != ""
			if !isKnown || me.Claims.Email != "ada@example.com" {
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

// TestMCP: a client of the Model Context Protocol that knows the URL of a server behind the gate, and nothing
// else, finds out by the challenge where its person signs in and what for, and is let in with the token. The MCP
// server knows nothing of tokens.
func TestMCP(t *testing.T) {
	a := newAuthority(t)
	node, dir := program(t, "node", "apt-get install -y nodejs"), npmInstall(t, "mcp")
	port := freePort(t)
	server := &process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + port,
		make: func() *exec.Cmd {
			cmd := exec.Command(node, "server.mjs", port)
			cmd.Dir = dir
			return cmd
		}}
	server.start()
	server.await()

	// Where the client takes its code.
	codes := make(chan string, 1)
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		codes <- r.FormValue("code")
	}))
	t.Cleanup(callback.Close)

	o := newOIDCProvider(t)
	var site string
	n := serve(t, func(port string) (string, []string) {
		site = "https://app.localhost:" + port
		return fmt.Sprintf(`%[1]s {
			tls %[2]s %[3]s
			aventus_auth {
				client_id the-client
				client_secret {env.ODD_SECRET}
				redirect_uri %[1]s/oauth2/callback
				audience %[1]s/mcp
				require_scope tools
				accept_bearer
				%[4]s
			}
			request_header X-User-Id {http.auth.user.id}
			reverse_proxy 127.0.0.1:%[5]s
		}`, site, a.cert, a.key, strings.Join(o.lines(), "\n"), strings.TrimPrefix(server.addr, "127.0.0.1:")),
			[]string{"ODD_SECRET=" + asciiSecret, "SSL_CERT_FILE=" + a.ca}
	})
	o.serveFor(a, clientOf(site), map[string]any{
		"client_id": "the-mcp-client", "application_type": "native", "token_endpoint_auth_method": "none",
		"redirect_uris": []string{callback.URL + "/callback"}, "grant_types": []string{"authorization_code"},
	})

	client := exec.Command(node, "client.mjs", site+"/mcp", callback.URL+"/callback")
	client.Dir, client.Env = dir, append(os.Environ(), "NODE_EXTRA_CA_CERTS="+a.ca)
	var complaints strings.Builder
	client.Stderr = &complaints
	input, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(2*time.Minute, func() { _ = client.Process.Kill() })
	defer stop.Stop()
	var said []string
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		said = append(said, lines.Text())
		if signIn, ok := strings.CutPrefix(lines.Text(), "sign in at "); ok {
			for name, want := range map[string]string{"resource": site + "/mcp", "scope": "tools"} {
				if u, err := url.Parse(signIn); err != nil || u.Query().Get(name) != want {
					t.Errorf("it asks with %s, want the %s %s", signIn, name, want)
				}
			}
			newVisitor(t, a).signInAtProvider(signIn, "ada")
			if _, err := io.WriteString(input, <-codes+"\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := client.Wait(); err != nil {
		gate, _ := os.ReadFile(n.log)
		t.Fatalf("%v\n%s\n%s\n%s", err, strings.Join(said, "\n"), &complaints, gate)
	}
	all := strings.Join(said, "\n")
	for _, want := range []string{
		"it is ada", "POST /mcp 401, GET /.well-known/oauth-protected-resource/mcp 200,",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("it does not say %q, but\n%s", want, all)
		}
	}
}
