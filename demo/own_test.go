package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// freePort returns a port that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// TestOwnCaddyfile: a Caddyfile for real hosts, with an application that is not registered
// anywhere yet, is tried at one's desk as it is.
func TestOwnCaddyfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(`(aventus) {
	client_id {env.NO_SUCH_CLIENT_ID}
	client_secret {env.NO_SUCH_SECRET}
	audience {env.NO_SUCH_AUDIENCE}
	token_url https://elsewhere.example.com/token
	token_auth basic
	verify_token
	jwks_url https://elsewhere.example.com/keys
	revoke_url https://elsewhere.example.com/revoke
}
app.example.com {
	aventus_auth {
		import aventus
		redirect_uri https://app.example.com/oauth2/callback
		scope openid
		require_claim email *@example.com
	}
	respond "app for {http.auth.user.id}"
}
one.example.com, two.example.com {
	aventus_auth {
		import aventus
		redirect_uri https://{http.request.host}/back
	}
	respond "{host} for {http.auth.user.id}"
}
login.example.com, wiki.example.org, *.team.example.com {
	aventus_auth {
		client_id many-hosts
		scope openid
		client_secret {env.NO_SUCH_SECRET}
		redirect_uri https://login.example.com/oauth2/callback
		hosts wiki.example.org *.team.example.com
		logout /logout
		logout_provider
	}
	respond "{host} for {http.auth.user.id}"
}
http://desk.localhost:`+freePort(t)+` {
	respond "open to all"
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	v := newVisitor(t, "-caddyfile="+file, "-port="+port)
	for host, want := range map[string]string{
		"app.example.com": "app for auth0|ada",
		"one.example.com": "one.example.com.localhost for auth0|ada",
		"two.example.com": "two.example.com.localhost for auth0|ada",

		"wiki.example.org":   "wiki.example.org.localhost for auth0|ada",
		"login.example.com":  "login.example.com.localhost for auth0|ada",
		"a.team.example.com": "a.team.example.com.localhost for auth0|ada",
	} {
		v.site = fmt.Sprintf("http://%s.localhost:%s", host, port)
		visit, err := http.NewRequest("GET", v.site+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		visit.Header.Set("Accept", "text/html")
		_, page := v.read(v.client.Do(visit))
		for range 2 { // whoever has signed in is not asked again who they are, nor whether they consent
			switch {
			case strings.Contains(page, `name="user"`):
				_, page = v.submit(page, "user", "auth0|ada")
			case strings.Contains(page, `name="decision"`):
				_, page = v.submit(page, "decision", "allow")
			}
		}
		if page != want {
			t.Errorf("at %s, the login ends at %q, want %q", host, page, want)
		}
	}
	if status, page := v.read(v.client.Get(fmt.Sprintf("http://a.team.example.com.localhost:%s/logout",
		port))); status != http.StatusOK ||
		!strings.Contains(page, "You are signed out") {
		t.Errorf("the logout at one of many hosts ends with %d %s", status, page)
	}
}

// TestOwnRequirements: one of the users has the claims that a config requires, and sees the site; the other one
// sees what it says to those who may not. Neither is told of an unset variable as the name of the application.
func TestOwnRequirements(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Caddyfile")
	block := func(matcher, required string) string {
		return "aventus_auth " + matcher + " {\nclient_id {env.NO_SUCH_CLIENT_ID}\n" +
			"client_secret {env.NO_SUCH_SECRET}\nredirect_uri https://app.example.com/oauth2/callback\n" +
			"scope openid email\n" + required + "\n}\n"
	}
	if err := os.WriteFile(file, []byte("app.example.com {\n"+
		block("/*", "require_claim groups admin monitoring\nrequire_claim email *@example.org *@example.net")+
		block("/more", "require_claim groups writers\nrequire_claim realm.roles staff")+
		`respond "{http.auth.user.email}, {http.auth.user.groups}"`+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	v := newVisitor(t, "-caddyfile="+file, "-port="+port)
	v.site = "http://app.example.com.localhost:" + port
	_, page := v.visit()
	if !strings.Contains(page, "<strong>your-application</strong>") || !strings.Contains(page, "ada@example.org") {
		t.Errorf("the sign-in page is %s", page)
	}
	status, page := v.signIn()
	if want := "ada@example.org, writers,admin"; status != http.StatusOK || page != want {
		t.Errorf("Ada gets %d %q, want %q", status, page, want)
	}
	if status, page := v.read(v.client.Get(v.site + "/more")); status != http.StatusOK {
		t.Errorf("Ada gets %d %q at /more", status, page)
	}
	v.client.Jar, _ = cookiejar.New(nil)
	_, page = v.visit()
	_, page = v.submit(page, "user", "auth0|grace")
	if status, page := v.submit(page, "decision", "allow"); status != http.StatusForbidden {
		t.Errorf("Grace gets %d %q", status, page)
	}
}

// TestMoveOfThreeHosts: what docs/moving.md makes of a configuration for three hosts can be tried before anything is
// registered, and does there what it did before.
func TestMoveOfThreeHosts(t *testing.T) {
	page, err := os.ReadFile("../docs/moving.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "\n### Three hosts\n")
	_, after, _ = strings.Cut(after, "```caddyfile\n")
	text, _, _ := strings.Cut(after, "```\n")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-Auth-Request-Access-Token")
		if strings.Contains(fmt.Sprint(r.Header), "forged") {
			t.Errorf("at %s, the app is sent what the client made up: %v", r.URL.Path, r.Header)
		}
		fmt.Fprintf(w, "%s for %s, the token as before: %t", r.URL.Path, r.Header.Get("X-Auth-Request-Email"),
			strings.HasPrefix(token, "ey") && r.Header.Get("Authorization") == "Bearer "+token)
	}))
	defer app.Close()
	address := strings.TrimPrefix(app.URL, "http://")
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(strings.NewReplacer("localhost:9000", address, "localhost:9001",
		address).Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	v := newVisitor(t, "-caddyfile="+file, "-port="+port)
	at := func(host string) string { return "http://" + host + ".example.com.localhost:" + port }
	for _, public := range []string{"/health", "/static/x"} {
		want := public + " for , the token as before: false"
		r, err := http.NewRequest(http.MethodGet, at("app")+public, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"User", "Email", "Groups", "Access-Token"} {
			r.Header.Set("X-Auth-Request-"+name, "forged")
		}
		if _, page := v.read(v.client.Do(r)); page != want {
			t.Errorf("a stranger sees %q, want %q", page, want)
		}
	}
	if status, _ := v.read(v.client.Post(at("app")+"/health", "", nil)); status != http.StatusUnauthorized {
		t.Errorf("a stranger's POST is answered %d", status)
	}
	want := "/ for ada@example.com, the token as before: true"
	v.site = at("wiki")
	if _, page := v.signIn(); page != want {
		t.Errorf("the login ends at %q, want %q", page, want)
	}
	v.site = at("app")
	if _, page := v.visit(); page != want {
		t.Errorf("the other host shows %q, want %q", page, want)
	}
}

// TestOwnCaddyfileRefused: what cannot be tried says why.
func TestOwnCaddyfileRefused(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"no block": {"example.com {\n\trespond ok\n}\n", "there is no aventus_auth in it"},
		"no site":  {"{\n\tadmin off\n}\n", "there is no site in it"},
		"not set": {
			"example.com {\n\taventus_auth {\n\t\tclient_id a\n\t\tclient_secret b\n\t\tredirect_uri " +
				"{env.NO_SUCH_URI}\n\t}\n}\n", `redirect_uri {env.NO_SUCH_URI} is not set`,
		},
		"a mistake": {"example.com {\n\taventus_auth {\n\t\tclient_idd a\n\t}\n}\n", "client_idd"},
		"two to one": {
			"https://a.test, http://b.test {\n\taventus_auth {\n\t\tclient_id a\n\t\tclient_secret " +
				"b\n\t\tredirect_uri https://a.test/cb\n\t}\n}\n", "two of its servers would be at port",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "Caddyfile")
			if err := os.WriteFile(file, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
			err := run(t.Context(), []string{
				"-caddyfile=" + file, "-port=" + freePort(t), "-issuer-port=0",
			}, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want %q in it", err, tc.want)
			}
		})
	}
}
