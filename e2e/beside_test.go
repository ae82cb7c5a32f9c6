package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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

// TestTools: git and wget get what they ask for with a token in a header, and without
// one an error at once, and no login page for a file.
func TestTools(t *testing.T) {
	t.Parallel()
	git := program(t, "git", "apt-get install git")
	wget := program(t, "wget", "apt-get install wget")
	dir, ca := t.TempDir(), ""
	run := func(program string, args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_SSL_CAINFO="+ca,
			"GIT_AUTHOR_NAME=ada", "GIT_AUTHOR_EMAIL=ada@example.com",
			"GIT_COMMITTER_NAME=ada", "GIT_COMMITTER_EMAIL=ada@example.com")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(program string, args ...string) {
		t.Helper()
		if out, err := run(program, args...); err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, out)
		}
	}
	must(git, "init", "--bare", "-b", "main", "served/repo.git")
	must(git, "-C", "served/repo.git", "config", "http.receivepack", "true")
	backend, err := run(git, "--exec-path")
	if err != nil {
		t.Fatal(err)
	}
	app := httptest.NewServer(&cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(backend), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + filepath.Join(dir, "served"), "GIT_HTTP_EXPORT_ALL=1"},
		Stderr: new(bytes.Buffer),
	})
	t.Cleanup(app.Close)
	f, i := newGuarded(t, nil, `handle /file {
			respond "what is downloaded"
		}
		reverse_proxy `+app.Listener.Addr().String(), "accept_bearer")
	bearer := "Authorization: Bearer " + tokenOf(i, ada)
	repo := f.site + "/repo.git"
	ca = f.ca

	if out, err := run(git, "clone", repo, "stranger"); err == nil ||
		!strings.Contains(out, "could not read Username") {
		t.Errorf("git without a token: %v\n%s", err, out)
	}
	must(git, "-c", "http.extraHeader="+bearer, "clone", repo, "mine")
	must(git, "-C", "mine", "checkout", "-b", "main")
	must(git, "-C", "mine", "commit", "--allow-empty", "-m", "one")
	must(git, "-C", "mine", "-c", "http.extraHeader="+bearer, "push", "origin", "main")
	must(git, "-c", "http.extraHeader="+bearer, "clone", repo, "again")
	must(git, "-C", "again", "log", "-1")

	// wget knows no names below localhost.
	host := strings.TrimPrefix(f.site, "https://")
	url := strings.Replace(f.site, "app.localhost", "127.0.0.1", 1) + "/file"
	args := []string{"--ca-certificate=" + f.ca, "--header=Host: " + host, "-O", "got", url}
	if out, err := run(wget, args...); err == nil || !strings.Contains(out, "401 Unauthorized") {
		t.Errorf("wget without a token: %v\n%s", err, out)
	}
	must(wget, append(args, "--header="+bearer)...)
	if got, _ := os.ReadFile(filepath.Join(dir, "got")); string(got) != "what is downloaded" {
		t.Errorf("wget got %q", got)
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
