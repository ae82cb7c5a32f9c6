package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/webdav"
)

// What docs/beside.md says of other handlers in the same Caddy, and of clients that are
// no browsers.

// tokenOf returns an access token of somebody, as an API client has it.
func tokenOf(i *issuer, sub string) string {
	return i.SignJWT(map[string]any{
		"iss": i.Issuer, "sub": sub, "aud": "https://api.example.com/", "iat": 1, "exp": 1 << 33,
	})
}

// TestRateLimitByUser: a rate limit that stands behind the gate counts each user by
// themselves, and strangers not at all; one in front of it counts all together.
func TestRateLimitByUser(t *testing.T) {
	t.Parallel()
	const limit = `rate_limit {
		zone users {
			key {http.auth.user.id}
			events 2
			window 1h
		}
	}`
	for name, tc := range map[string]struct {
		before, after string
		want          []int // of ada three times, and of grace
	}{
		"behind":   {"", limit, []int{200, 200, 429, 200}},
		"in front": {limit, "", []int{200, 200, 429, 429}},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t, site{"app", 0, ""}, 1, "0")
			n := serve(t, func(port string) (string, []string) {
				return fmt.Sprintf(`http://app.localhost:%s {
					route {
						%s
						aventus_auth {
							client_id the-client
							client_secret {env.CLIENT_SECRET}
							redirect_uri http://app.localhost:%[1]s/oauth2/callback
							audience https://api.example.com/
							issuer %[3]s
							accept_bearer
						}
						%[4]s
						respond "hello, {http.auth.user.id}"
					}
				}`, port, tc.before, i.Issuer, tc.after), []string{"CLIENT_SECRET=" + clientSecret}
			})
			v := newVisitor(t, nil)
			page := "http://app.localhost:" + strings.TrimPrefix(n.addr, "127.0.0.1:") + "/"
			if name == "behind" {
				for range 5 {
					v.expect(v.get(page, "Accept", "*/*"), 401, page)
				}
			}
			var got []int
			for _, who := range []string{ada, ada, ada, grace} {
				got = append(got, v.get(page, "Authorization", "Bearer "+tokenOf(i, who)).status)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("answered %v, want %v", got, tc.want)
			}
		})
	}
}

// TestOrder: by themselves, handlers of plugins stand where docs/beside.md says.
func TestOrder(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(caddy, "adapt", "--config", "-", "--adapter", "caddyfile")
	cmd.Stdin = strings.NewReader(`{
		cache
	}
	example.com {
		basic_auth {
			ada $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
		}
		rate_limit {
			zone all {
				events 1
				window 1h
			}
		}
		cache
		rewrite /a /b
		respond hello
		aventus_auth {
			client_id the-client
			client_secret secret
			redirect_uri https://example.com/oauth2/callback
		}
	}`)
	config, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, found := range regexp.MustCompile(`"handler":"(\w+)"`).FindAllStringSubmatch(string(config), -1) {
		if found[1] != "subroute" {
			order = append(order, found[1])
		}
	}
	want := []string{"cache", "rewrite", "aventus_auth", "rate_limit", "authentication", "static_response"}
	if !slices.Equal(order, want) {
		t.Errorf("the handlers are %q, want %q", order, want)
	}
}

// TestNamedRoute: a gate in a named route guards it if it stands in a route of its own.
// Without that, Caddy drops all directives but the first (findings/caddy-named-route.sh).
func TestNamedRoute(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, site{"app", 0, ""}, 1, "0")
	n := serve(t, func(port string) (string, []string) {
		return fmt.Sprintf(`&(guarded) {
			route {
				header X-Guarded yes
				aventus_auth {
					client_id the-client
					client_secret {env.CLIENT_SECRET}
					redirect_uri http://app.localhost:%s/oauth2/callback
					audience https://api.example.com/
					issuer %s
					accept_bearer
				}
				respond "hello, {http.auth.user.id}"
			}
		}
		http://app.localhost:%[1]s {
			invoke guarded
		}`, port, i.Issuer), []string{"CLIENT_SECRET=" + clientSecret}
	})
	v := newVisitor(t, nil)
	page := "http://app.localhost:" + strings.TrimPrefix(n.addr, "127.0.0.1:") + "/"
	v.expect(v.get(page, "Accept", "*/*"), 401, page)
	p := v.get(page, "Authorization", "Bearer "+tokenOf(i, ada))
	v.expect(p, 200, page)
	if p.body != "hello, "+ada || p.header.Get("X-Guarded") != "yes" {
		t.Errorf("it answers %s", p)
	}
}

// TestWebDAV: a WebDAV server behind the gate serves a client with a token, by all of
// its methods; without one, each is refused and changes nothing.
func TestWebDAV(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	app := httptest.NewServer(&webdav.Handler{FileSystem: webdav.Dir(root), LockSystem: webdav.NewMemLS()})
	t.Cleanup(app.Close)
	f, i := newGuarded(t, nil, "reverse_proxy "+app.Listener.Addr().String(), "accept_bearer")
	v := newVisitor(t, f.authority)
	send := func(token, method, path, body string, headers ...string) page {
		t.Helper()
		r, err := http.NewRequest(method, f.site+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		for n := 0; n < len(headers); n += 2 {
			r.Header.Set(headers[n], headers[n+1])
		}
		return v.do(r)
	}
	const lock = `<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:">
		<D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`
	for _, token := range []string{"", tokenOf(i, ada)} {
		for _, step := range []struct {
			method, path, body string
			status             int
			headers            []string
		}{
			{"OPTIONS", "/", "", 200, nil},
			{"MKCOL", "/folder", "", 201, nil},
			{"PUT", "/folder/a", "text", 201, nil},
			{"COPY", "/folder/a", "", 201, []string{"Destination", f.site + "/folder/b"}},
			{"MOVE", "/folder/b", "", 201, []string{"Destination", f.site + "/folder/c"}},
			{"PROPFIND", "/folder", "", 207, []string{"Depth", "1"}},
			{"LOCK", "/folder/a", lock, 200, nil},
			{"DELETE", "/folder/c", "", 204, nil},
		} {
			want := step.status
			if token == "" {
				want = 401
			}
			if p := send(token, step.method, step.path, step.body, step.headers...); p.status != want {
				t.Errorf("%s %s: %s, want %d", step.method, step.path, p, want)
			} else if token == "" && !strings.HasPrefix(p.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: %v", step.method, p.header)
			}
		}
		left, _ := filepath.Glob(filepath.Join(root, "*"))
		if token == "" && len(left) > 0 {
			t.Errorf("a stranger made %v", left)
		}
	}
}

// TestTools: clients that are no browsers get what they ask for with a token in a header, and without one an error
// at once, and no login page for a file. apt, which knows passwords alone, gets its archive by basic_auth.
func TestTools(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(in(name)), 0o755),
			os.WriteFile(in(name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "HOME="+dir, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	run := func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program(t, name, "apt-get install "+name), args...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := run(name, args...)
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return out
	}
	must("git", "init", "--bare", "-b", "main", "served/repo.git")
	must("git", "-C", "served/repo.git", "config", "http.receivepack", "true")
	app := http.NewServeMux()
	app.Handle("/repo.git/", &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(must("git", "--exec-path")), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + in("served"), "GIT_HTTP_EXPORT_ALL=1"},
		Stderr: new(bytes.Buffer),
	})
	app.Handle("/dav/", &webdav.Handler{Prefix: "/dav", FileSystem: webdav.Dir(t.TempDir()),
		LockSystem: webdav.NewMemLS()})
	app.HandleFunc("/file", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "what is downloaded") })
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	write("served/debian/Packages", "Package: something\nVersion: 1\nArchitecture: all\nMaintainer: ada\n"+
		"Filename: ./something.deb\nSize: 1\nDescription: something\n")

	// The clients know localhost, and no names below it.
	i, a := newIssuer(t, site{"app", time.Hour, ""}, 1, "0"), newAuthority(t)
	origin := ""
	serve(t, func(port string) (string, []string) {
		origin = "https://localhost:" + port
		return fmt.Sprintf(`%[1]s {
			tls %[2]s %[3]s
			@people not path /debian/*
			aventus_auth @people {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri %[1]s/oauth2/callback
				audience https://api.example.com/
				issuer %[4]s
				accept_bearer
			}
			handle /debian/* {
				basic_auth {
					apt $2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W
				}
				root %[5]s
				file_server
			}
			reverse_proxy %[6]s
		}`, origin, a.cert, a.key, i.Issuer, in("served"), server.Listener.Addr()), nil
	})
	token := tokenOf(i, ada)
	bearer := "Authorization: Bearer " + token
	env = append(env, "GIT_SSL_CAINFO="+a.ca, "NODE_EXTRA_CA_CERTS="+a.ca, "SSL_CERT_FILE="+a.ca,
		"RCLONE_CA_CERT="+a.ca, "RCLONE_CONFIG="+in("rclone.conf"), "RCLONE_RETRIES=1", "FILE="+origin+"/file")

	for name, get := range map[string]struct{ without, with []string }{
		"curl": {[]string{"-fsS", "--cacert", a.ca, "-o", "got-curl", origin + "/file"}, []string{"-H", bearer}},
		"wget": {[]string{"--ca-certificate=" + a.ca, "-O", "got-wget", origin + "/file"},
			[]string{"--header=" + bearer}},
		"python3": {[]string{"-c", `import os, sys, urllib.request
headers = dict(line.split(": ") for line in sys.argv[1:])
answer = urllib.request.urlopen(urllib.request.Request(os.environ["FILE"], headers=headers))
open("got-python3", "wb").write(answer.read())`}, []string{bearer}},
		"node": {[]string{"-e", `(async () => {
	const headers = Object.fromEntries(process.argv.slice(1).map((line) => line.split(': ')));
	const answer = await fetch(process.env.FILE, { headers });
	if (!answer.ok) throw new Error(answer.status);
	require('fs').writeFileSync('got-node', await answer.text());
})()`}, []string{bearer}},
	} {
		if out, err := run(name, get.without...); err == nil || !strings.Contains(out, "401") {
			t.Errorf("%s without a token: %v\n%s", name, err, out)
		}
		// wget makes the file before it knows.
		if got, _ := os.ReadFile(in("got-" + name)); len(got) > 0 {
			t.Errorf("%s without a token has got %q", name, got)
		}
		must(name, append(get.without, get.with...)...)
		if got, _ := os.ReadFile(in("got-" + name)); string(got) != "what is downloaded" {
			t.Errorf("%s got %q", name, got)
		}
	}
	// Without -f, curl shows what it is answered. A password is no token.
	for _, further := range [][]string{nil, {"-u", "apt:password"}} {
		out := must("curl", append(further, "-sS", "--cacert", a.ca, "-w", "%{http_code}", origin+"/file")...)
		if !strings.HasSuffix(out, "401") || strings.Contains(out, "<") {
			t.Errorf("curl %q is answered %q", further, out)
		}
	}

	repo := origin + "/repo.git"
	if out, err := run("git", "clone", repo, "stranger"); err == nil ||
		!strings.Contains(out, "could not read Username") {
		t.Errorf("git without a token: %v\n%s", err, out)
	}
	must("git", "-c", "http.extraHeader="+bearer, "clone", repo, "mine")
	must("git", "-C", "mine", "checkout", "-b", "main")
	must("git", "-C", "mine", "commit", "--allow-empty", "-m", "one")
	must("git", "-C", "mine", "-c", "http.extraHeader="+bearer, "push", "origin", "main")
	must("git", "-c", "http.extraHeader="+bearer, "clone", repo, "again")
	must("git", "-C", "again", "log", "-1")

	write("local/folder/a", "text")
	dav := "--webdav-url=" + origin + "/dav"
	if out, err := run("rclone", "sync", dav, "local", ":webdav:"); err == nil || !strings.Contains(out, "401") {
		t.Errorf("rclone without a token: %v\n%s", err, out)
	}
	must("rclone", "sync", dav, "--webdav-bearer-token="+token, "local", ":webdav:")
	must("rclone", "sync", dav, "--webdav-bearer-token="+token, ":webdav:", "back")
	if got, _ := os.ReadFile(in("back/folder/a")); string(got) != "text" {
		t.Errorf("rclone brought back %q", got)
	}

	// apt reads of the machine what is not named here.
	write("apt/sources.list", "deb [trusted=yes] "+origin+"/debian/ ./\n")
	write("apt/lists/partial/none", "")
	write("apt/cache/archives/partial/none", "")
	write("apt/status", "")
	apt := []string{"update"}
	for _, option := range []string{
		"Dir::Etc=" + in("apt"), "Dir::Etc::sourceparts=-", "Dir::State=" + in("apt"),
		"Dir::State::status=" + in("apt/status"), "Dir::Cache=" + in("apt/cache"), "APT::Sandbox::User=",
		"APT::Update::Error-Mode=any", "Acquire::https::CAInfo=" + a.ca, "Acquire::Languages=none",
		"Acquire::Retries=0", "Acquire::GzipIndexes=false",
	} {
		apt = append(apt, "-o", option)
	}
	if out, err := run("apt-get", apt...); err == nil || !strings.Contains(out, "401") {
		t.Errorf("apt without a password: %v\n%s", err, out)
	}
	write("apt/auth.conf", "machine "+origin+"/debian login apt password password\n")
	must("apt-get", apt...)
	lists, _ := filepath.Glob(in("apt/lists/*Packages"))
	if len(lists) != 1 {
		t.Errorf("apt has the lists %q", lists)
	}
}

// TestEncodeInFront: whether encode stands behind the gate, as it does by itself, or in
// front of it, a page says in one line what it varies by.
func TestEncodeInFront(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, strings.Repeat("text ", 1000))
	}))
	t.Cleanup(app.Close)
	i := newIssuer(t, site{"app", 0, ""}, 1, "0")
	for name, order := range map[string]string{
		"by itself": "encode\n%s", "in front": "route {\nencode\n%s\n}", "behind": "route {\n%s\nencode\n}",
	} {
		n := serve(t, func(port string) (string, []string) {
			return fmt.Sprintf("http://app.localhost:%s {\n"+order+"\nreverse_proxy %s\n}", port,
				fmt.Sprintf(`aventus_auth {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri http://app.localhost:%s/oauth2/callback
				audience https://api.example.com/
				issuer %s
				accept_bearer
			}`, port, i.Issuer), app.Listener.Addr()), []string{"CLIENT_SECRET=" + clientSecret}
		})
		p := newVisitor(t, nil).get("http://app.localhost:"+strings.TrimPrefix(n.addr, "127.0.0.1:")+"/",
			"Authorization", "Bearer "+tokenOf(i, ada), "Accept-Encoding", "gzip")
		if p.header.Get("Content-Encoding") != "gzip" || len(p.header["Vary"]) != 1 ||
			!strings.Contains(p.header.Get("Vary"), "Cookie") ||
			!strings.Contains(p.header.Get("Vary"), "Accept-Encoding") {
			t.Errorf("%s: %d %v", name, p.status, p.header)
		}
	}
}

// TestBesideCaddyfiles: Caddy takes the Caddyfiles of docs/beside.md that need plugins.
// (Those that do not are loaded by TestReadmeCaddyfiles.)
func TestBesideCaddyfiles(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/beside.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)\n```caddy\n(.*?)```\n").FindAllStringSubmatch(string(document), -1)
	if len(found) == 0 {
		t.Error("there are none")
	}
	for _, block := range found {
		cmd := exec.Command(caddy, "validate", "--config", "-", "--adapter", "caddyfile")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "AVENTUS_CLIENT_ID=id", "AVENTUS_CLIENT_SECRET=secret")
		cmd.Stdin = strings.NewReader(block[1])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, block[1])
		}
	}
}
