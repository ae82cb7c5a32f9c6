package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// These tests put a site behind authorization servers that others wrote: dex
// (github.com/dexidp/dex) and oauth2-mock-server (of npm). All speak TLS, with
// certificates of an authority that Caddy knows by SSL_CERT_FILE.

// newForeign starts a site in front of an app that says who asks for what; the lines
// are those of aventus_auth.
func newForeign(t *testing.T, a *authority, env []string, lines ...string) *secure {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Token", r.Header.Get("Authorization"))
		fmt.Fprintf(w, "%s is at %s", callerOf(r), r.RequestURI)
	}))
	t.Cleanup(app.Close)
	return newSecure(t, a, env, "reverse_proxy "+app.Listener.Addr().String(), lines...)
}

// areDocumented checks that docs/moving.md names the URLs among a server's lines, and how it takes token requests.
func areDocumented(t *testing.T, server, issuer string, lines []string) {
	t.Helper()
	file, err := os.ReadFile("../docs/moving.md")
	if err != nil {
		t.Fatal(err)
	}
	_, row, _ := strings.Cut(string(file), "\n| "+server)
	row, _, _ = strings.Cut(row, "\n")
	for _, line := range lines {
		name, _, _ := strings.Cut(line, " ")
		said := "`" + strings.ReplaceAll(line, strings.TrimSuffix(issuer, "/"), "…") + "`"
		if (strings.HasSuffix(name, "_url") || name == "token_request") && !strings.Contains(row, said) {
			t.Errorf("docs/moving.md does not say %s of %s", said, server)
		}
	}
}

// dex is a running dex.
type dex struct {
	process
	port   string
	config map[string]any
}

// issuer is what its tokens say. There is no slash at the end.
func (d *dex) issuer() string { return "https://127.0.0.1:" + d.port + "/dex" }

// lines are what aventus_auth needs to know of it.
func (d *dex) lines(further ...string) []string {
	return append([]string{
		"issuer " + d.issuer(), "authorize_url " + d.issuer() + "/auth", "token_url " + d.issuer() + "/token",
		"jwks_url " + d.issuer() + "/keys", "revoke_url off", // it knows of no revocation
		"verify_token", "audience the-client", // its tokens are for their client
	}, further...)
}

// buildDex builds dex, by the version in its own go.mod, and returns where it is. That
// takes minutes where it was not built before, and wants a C compiler.
func buildDex(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "tool", "-n", "dex")
	cmd.Dir = "dex"
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("building dex: %v\n%s", err, &said)
	}
	return strings.TrimSpace(string(out))
}

// newDex returns a dex that does not run yet.
func newDex(t *testing.T, path string, a *authority) *dex {
	t.Helper()
	d := &dex{port: freePort(t)}
	d.process = process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + d.port,
		make: withConfig(t, &d.config, path, "serve")}
	d.config = map[string]any{
		"issuer":           d.issuer(),
		"storage":          map[string]any{"type": "memory"},
		"web":              map[string]any{"https": d.addr, "tlsCert": a.cert, "tlsKey": a.key},
		"enablePasswordDB": true,
		"staticPasswords": []any{map[string]any{
			"email": "ada@example.com", "username": "ada", "userID": "1815",
			"hash": "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W", // "password"
		}},
	}
	return d
}

// serveFor starts dex with a site for its client.
func (d *dex) serveFor(site string) {
	d.t.Helper()
	d.config["staticClients"] = []any{map[string]any{
		"id": "the-client", "name": "The Site", "secret": oddSecret, "redirectURIs": []string{
			site + "/oauth2/callback",
		},
	}}
	d.start()
	d.await()
}

// signInAtDex visits a page, and gets there by way of dex's own pages.
func (v *visitor) signInAtDex(d *dex, wanted string) page {
	v.t.Helper()
	p := v.visit(wanted)
	origin := "https://127.0.0.1:" + d.port
	action := regexp.MustCompile(`<form method="post" action="([^"]+)"`).FindStringSubmatch(p.body)
	if action == nil {
		v.t.Fatalf("this is no sign-in page: %s", p)
	}
	p = v.post(origin+html.UnescapeString(action[1]), url.Values{
		"login": {"ada@example.com"}, "password": {"password"},
	})
	req := regexp.MustCompile(`name="req" value="([^"]+)"`).FindStringSubmatch(p.body)
	if req == nil {
		v.t.Fatalf("this is no consent page: %s", p)
	}
	return v.post(p.url, url.Values{"req": {req[1]}, "approval": {"approve"}})
}

// TestDex: a person signs in at dex, on the way to a page with a query.
func TestDex(t *testing.T) {
	a, path := newAuthority(t), buildDex(t)
	trusting := []string{"SSL_CERT_FILE=" + a.ca}
	d := newDex(t, path, a)
	areDocumented(t, "dex (", d.issuer(), d.lines("token_request form"))
	for _, auth := range []string{"post", "basic"} {
		t.Run(auth, func(t *testing.T) {
			d := newDex(t, path, a)
			f := newForeign(t, a, trusting,
				d.lines("scope openid profile email", "token_request form", "token_auth "+auth)...)
			d.serveFor(f.site)
			v := newVisitor(t, a)
			wanted := f.site + "/deep/page?q=a%2Fb&q=%C3%A9"
			p := v.signInAtDex(d, wanted)
			v.expect(p, 200, wanted)
			if !strings.HasSuffix(p.body, " is at /deep/page?q=a%2Fb&q=%C3%A9") {
				t.Errorf("the app answers %s", p)
			}
			var me struct {
				Sub    string
				Claims struct {
					Email string
					Iss   string
				}
			}
			if p := v.get(f.site + "/me"); json.Unmarshal([]byte(p.body), &me) != nil || me.Sub == "" ||
				me.Claims.Email != "ada@example.com" || me.Claims.Iss != d.issuer() {
				t.Errorf("the profile is %s", p)
			}
			v.expect(v.get(f.site+"/logout"), 200, f.site+"/logout")
			v.expect(v.get(f.site+"/me"), 401, f.site+"/me")
		})
	}

	t.Run("refresh", func(t *testing.T) {
		d := newDex(t, path, a)
		// Of these, half has to pass before a token is renewed.
		d.config["expiry"] = map[string]any{"idTokens": "8s"}
		f := newForeign(t, a, trusting, d.lines("scope openid offline_access", "token_request form")...)
		d.serveFor(f.site)
		v := newVisitor(t, a)
		token := v.signInAtDex(d, f.site+"/").header.Get("X-Token")
		for range 3 { // each with the refresh token that came of the one before
			before := token
			eventually(t, "another token", func() bool {
				p := v.get(f.site + "/")
				v.expect(p, 200, f.site+"/")
				token = p.header.Get("X-Token")
				return token != before
			})
		}
	})

	// What cannot work ends with an error, and the log says why.
	t.Run("wrong secret", func(t *testing.T) {
		d := newDex(t, path, a)
		f := newForeign(t, a, append(trusting, "ODD_SECRET=another"), d.lines("scope openid", "token_request form")...)
		f.fails(d, "client_secret")
	})
	t.Run("JSON", func(t *testing.T) { // which dex does not take
		d := newDex(t, path, a)
		f := newForeign(t, a, trusting, d.lines("scope openid", "token_request json")...)
		f.fails(d, "unsupported_grant_type")
	})
	t.Run("unknown authority", func(t *testing.T) {
		d := newDex(t, path, a)
		f := newForeign(t, a, nil, d.lines("scope openid", "token_request form")...)
		f.fails(d, "certificate signed by unknown authority")
	})
}

// fails checks that a login at dex brings no session, and that the log says why.
func (f *secure) fails(d *dex, why string) {
	f.t.Helper()
	d.serveFor(f.site)
	v := newVisitor(f.t, f.authority)
	if p := v.signInAtDex(d, f.site+"/"); p.status != 502 || p.body != "token_refused" {
		f.t.Errorf("the login ends with %s", p)
	}
	v.expect(v.get(f.site+"/me"), 401, f.site+"/me")
	log, _ := os.ReadFile(f.log)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"logger":"http.handlers.aventus_auth"`) && strings.Contains(line, why) {
			return
		}
	}
	f.t.Errorf("the log does not say %q:\n%s", why, log)
}

// TestDexInBrowser: two tabs of a real browser sign in at dex, over https, each with
// a form of its own and to a page of its own. Cookies are as https has them.
func TestDexInBrowser(t *testing.T) {
	a := newAuthority(t)
	d := newDex(t, buildDex(t), a)
	f := newForeign(t, a, []string{"SSL_CERT_FILE=" + a.ca},
		d.lines("scope openid profile email", "token_request form")...)
	d.serveFor(f.site)
	one := newChromium(t, chromedp.Flag("ignore-certificate-errors-spki-list", a.spki))
	two := one.another()
	one.visit(f.site + "/one?q=1")
	two.visit(f.site + "/two?q=2")
	for _, b := range []*tab{two, one} { // last come, first served
		if err := b.driver.(*chromium).do(func(ctx context.Context,
			t *chromedp.Target) (none chromedp.Void, err error) {
			if none, err = chromedp.SendKeys(chromedp.CSS("#login"), "ada@example.com")(ctx, t); err != nil {
				return none, err
			}
			return chromedp.SendKeys(chromedp.CSS("#password"), "password")(ctx, t)
		}); err != nil {
			t.Fatalf("signing in: %v", err)
		}
		b.click("Login")
		b.sees("Grant Access")
	}
	one.click("Grant Access")
	one.isAt(f.site + "/one?q=1")
	one.sees("is at /one?q=1")
	two.click("Grant Access")
	two.isAt(f.site + "/two?q=2")
	two.sees("is at /two?q=2")

	got, err := chromedp.Call(one.driver.(*chromium).ctx, network.GetCookies, network.GetCookiesParams{
		URLs: []string{f.site},
	})
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, c := range got.Cookies {
		names[c.Name] = true
		if !c.Secure || !c.HTTPOnly || c.Path != "/" || c.Domain != "app.localhost" ||
			c.SameSite != network.CookieSameSiteLax {
			t.Errorf("a cookie: %+v", c)
		}
	}
	if len(names) != 2 || !names["__Host-aventus_session"] || !names["__Host-aventus_login"] {
		t.Errorf("the cookies are %v", names)
	}

	two.visit(f.site + "/logout")
	two.sees("You are signed out")
	one.visit(f.site + "/one?q=1")
	one.sees("Log in to Your Account") // dex remembers nobody
}

// TestMockServer: a login at oauth2-mock-server, with every way to send the token
// request. It asks the person for nothing.
func TestMockServer(t *testing.T) {
	a := newAuthority(t)
	node, dir := program(t, "node", "apt-get install -y nodejs"), npmInstall(t, "mockserver")
	for _, request := range []string{"json", "form"} {
		for _, auth := range []string{"post", "basic"} {
			t.Run(request+" "+auth, func(t *testing.T) {
				port := freePort(t)
				p := &process{t: t, log: filepath.Join(t.TempDir(), "log"), addr: "127.0.0.1:" + port,
					make: func() *exec.Cmd {
						cmd := exec.Command(node, "mock.mjs", port, a.cert, a.key)
						cmd.Dir = dir
						return cmd
					}}
				p.start()
				p.await()
				issuer := "https://localhost:" + port
				lines := []string{"issuer " + issuer, "token_url " + issuer + "/token", "jwks_url " + issuer + "/jwks"}
				areDocumented(t, "oauth2-mock-server 8.2.3", issuer, lines)
				f := newForeign(t, a, []string{"SSL_CERT_FILE=" + a.ca}, append(lines, "verify_token",
					"audience https://api.example.com/", "scope openid profile", "token_request "+request,
					"token_auth "+auth)...)
				v := newVisitor(t, a)
				wanted := f.site + "/deep/page?q=a%2Fb"
				got := v.visit(wanted)
				v.expect(got, 200, wanted)
				if got.body != "johndoe is at /deep/page?q=a%2Fb" {
					t.Errorf("the app answers %s", got)
				}

				// What it was sent, by its own account.
				var sent struct{ Type, ID, Secret, Authorization string }
				log, _ := os.ReadFile(p.log)
				if _, said, ok := strings.Cut(string(log), "token request: "); !ok ||
					json.NewDecoder(strings.NewReader(said)).Decode(&sent) != nil {
					t.Fatalf("it says\n%s", log)
				}
				if want := map[string]string{
					"json": "application/json", "form": "application/x-www-form-urlencoded",
				}[request]; sent.Type != want {
					t.Errorf("the request is %s", sent.Type)
				}
				if inBody := sent.ID == "the-client" && sent.Secret == oddSecret; inBody != (auth == "post") ||
					(sent.Authorization == "") != (auth == "post") {
					t.Errorf("the secret is in %+v", sent)
				}
			})
		}
	}
}

// withConfig makes the command of a server whose last argument is a file with its config, as that is when it starts.
func withConfig(t *testing.T, config *map[string]any, path string, args ...string) (command func() *exec.Cmd) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	return func() *exec.Cmd {
		text, err := json.Marshal(*config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command(path, append(args[:len(args):len(args)], file)...)
	}
}
