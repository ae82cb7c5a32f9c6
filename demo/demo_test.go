package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// Whatever port is taken, the demo says so before anything has started, and
// says what to do.
func TestPortTaken(t *testing.T) {
	var ports []int
	for range 4 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	for i, flag := range []string{"-port", "-issuer-port", "-upstream-port", "-metrics-port"} {
		args := []string{"-port=0", "-issuer-port=0", "-upstream-port=0", "-metrics-port=0"}
		args[i] = fmt.Sprintf("%s=%d", flag, ports[i])
		var out strings.Builder
		err := run(t.Context(), args, &out)
		want := fmt.Sprintf("port %d is taken; choose another with %s", ports[i], flag)
		if err == nil || err.Error() != want || out.Len() != 0 {
			t.Errorf("%s: error %v, output %q; want %q", flag, err, &out, want)
		}
	}
}

// visitor is somebody at the demo, which runs for as long as the test.
type visitor struct {
	t      *testing.T
	site   string
	client *http.Client
}

func newVisitor(t *testing.T, args ...string) *visitor {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	printed, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-port=0", "-issuer-port=0", "-upstream-port=0", "-metrics-port=0"}, args...),
			stdout)
		stdout.CloseWithError(io.EOF)
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	jar, _ := cookiejar.New(nil)
	// As browsers do, whatever the system's resolver knows of such names.
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(address); err == nil && strings.HasSuffix(host, ".localhost") {
			address = net.JoinHostPort("127.0.0.1", port)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	v := &visitor{t: t, client: &http.Client{
		Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial},
	}}
	lines := bufio.NewScanner(printed)
	for lines.Scan() {
		if found := regexp.MustCompile(`^ +(?:Open )?(http://[a-z.]*localhost:\d+)/$`).FindStringSubmatch(
			lines.Text()); found != nil {
			v.site = found[1]
		}
		if strings.Contains(lines.Text(), "Ctrl-C") {
			break
		}
	}
	go io.Copy(io.Discard, printed)
	if v.site == "" {
		t.Fatal("it does not say where it is")
	}
	return v
}

// read reads an answer.
func (v *visitor) read(resp *http.Response, err error) (int, string) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// submit posts the form of one of the stand-in's pages.
func (v *visitor) submit(page, name, value string) (int, string) {
	v.t.Helper()
	action := regexp.MustCompile(`action="([^"]+)"`).FindStringSubmatch(page)
	if action == nil {
		v.t.Fatalf("there is no form: %s", page)
	}
	form := url.Values{name: {value}}
	for _, hidden := range regexp.MustCompile(`type="hidden" name="(\w+)" value="([^"]*)"`).FindAllStringSubmatch(page,
		-1) {
		form.Set(hidden[1], html.UnescapeString(hidden[2]))
	}
	r, err := http.NewRequest(http.MethodPost, html.UnescapeString(action[1]), strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "text/html") // as a browser does
	return v.read(v.client.Do(r))
}

// signIn signs in on the way to the start page.
func (v *visitor) signIn() (int, string) {
	v.t.Helper()
	_, page := v.visit()
	_, page = v.submit(page, "user", "auth0|ada")
	return v.submit(page, "decision", "allow")
}

// visit asks for the start page, as a browser does, and goes wherever that leads.
func (v *visitor) visit() (int, string) {
	v.t.Helper()
	visit, err := http.NewRequest("GET", v.site+"/", nil)
	if err != nil {
		v.t.Fatal(err)
	}
	visit.Header.Set("Accept", "text/html") // as a browser asks for a page
	return v.read(v.client.Do(visit))
}

// The demo runs, somebody signs in, and what its page asks for is there.
func TestDemo(t *testing.T) {
	v := newVisitor(t)
	site, client, read := v.site, v.client, v.read
	if status, body := read(client.Get(site + "/me")); status != http.StatusUnauthorized {
		t.Errorf("without a session, /me answers %d %s", status, body)
	}
	if status, page := v.signIn(); status != http.StatusOK || !strings.Contains(page, "/app.js") {
		t.Fatalf("the login ends at %d %s", status, page)
	}
	_, body := read(client.Get(site + "/me"))
	var me struct {
		Sub     string
		Expires time.Time `json:"expires_at"`
		Claims  struct{ Name, Email, Iss, Azp string }
	}
	if err := json.Unmarshal([]byte(body), &me); err != nil || me.Sub != "auth0|ada" || time.Until(me.Expires) <= 0 ||
		me.Claims.Name == "" || me.Claims.Email == "" || me.Claims.Iss == "" || me.Claims.Azp == "" {
		t.Errorf("/me answers %s", body)
	}
	if status, body := read(client.Get(site + "/app/me")); status != http.StatusOK ||
		!strings.Contains(body, me.Claims.Name) {
		t.Errorf("/app/me answers %d %s", status, body)
	}
	if status, body := read(client.Get(site + "/app/headers")); status != http.StatusOK ||
		!strings.Contains(body, `"Authorization":["Bearer ey`) {
		t.Errorf("/app/headers answers %d %s", status, body)
	}

	// The other host gets the session without being asked to sign in, and a logout there is one here.
	other := strings.Replace(site, "localhost", "app.localhost", 1)
	if status, _ := read(client.Get(other + "/me")); status != http.StatusUnauthorized {
		t.Errorf("before it was visited, /me answers %d at %s", status, other)
	}
	v.site = other
	if status, page := v.visit(); status != http.StatusOK || !strings.Contains(page, "/app.js") {
		t.Fatalf("a visit of %s ends at %d %s", other, status, page)
	}
	if status, theirs := read(client.Get(other + "/me")); status != http.StatusOK || theirs != body {
		t.Errorf("/me answers %d %s at %s", status, theirs, other)
	}
	if status, body := read(client.Post(other+"/logout", "", nil)); status != http.StatusOK {
		t.Errorf("/logout answers %d %s", status, body)
	}
	for _, at := range []string{site, other} {
		if status, _ := read(client.Get(at + "/me")); status != http.StatusUnauthorized {
			t.Errorf("after the logout, /me answers %d at %s", status, at)
		}
	}
}

// Whoever refuses consent on the way to the other host is led back to that host.
func TestDemoRefused(t *testing.T) {
	v := newVisitor(t)
	site := v.site
	v.site = strings.Replace(site, "localhost", "app.localhost", 1)
	_, page := v.visit()
	_, page = v.submit(page, "user", "auth0|ada")
	status, page := v.submit(page, "decision", "refuse")
	if status != http.StatusForbidden || !strings.Contains(page, `href="`+v.site+`/">Try again`) ||
		!strings.Contains(page, `href="`+v.site+`/logout">Use another account`) {
		t.Errorf("it ends at %d %s", status, page)
	}
	v.site = site
	_, page = v.visit()
	status, page = v.submit(page, "decision", "refuse")
	if status != http.StatusForbidden || !strings.Contains(page, `href="/">Try again`) {
		t.Errorf("at the login's host, it ends at %d %s", status, page)
	}
}

// Caddyfile.example shows errors as a page to people and in a line to scripts, with
// the right status, and with nothing in it of what the request said.
func TestErrorPages(t *testing.T) {
	v := newVisitor(t)
	if status, page := v.signIn(); status != http.StatusOK {
		t.Fatalf("the login ends at %d %s", status, page)
	}
	const evil = `"><script src=//evil.test></script>{{7}}{env.HOME}`
	query := url.QueryEscape(evil)
	for _, tc := range []struct {
		target string
		status int
		says   string
	}{
		{"/" + url.PathEscape(evil), 404, "There is no such page"},
		{"/oauth2/callback?code=" + query + "&state=" + query, 400, "invalid_state"},
		{"/oauth2/callback?error=" + query + "&error_description=" + query + "&state=x", 400, "invalid_state"},
		{"/oauth2/callback?code=%zz" + query, 400, "invalid_callback"},
	} {
		for accept, mode := range map[string]string{
			"text/html,*/*;q=0.8," + evil:      "",
			"text/html":                        "navigate",
			"application/json":                 "",
			"text/html, application/xhtml+xml": "cors", // Turbo's fetch
		} {
			r, err := http.NewRequest(http.MethodGet, v.site+tc.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{
				"User-Agent", "Referer", "Origin", "X-Request-Id", "X-Forwarded-Host", "Accept-Language",
			} {
				r.Header.Set(name, evil)
			}
			r.Header.Set("Accept", accept)
			if mode != "" {
				r.Header.Set("Sec-Fetch-Mode", mode)
			}
			resp, err := v.client.Do(r)
			status, body := v.read(resp, err)
			if status != tc.status || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %s: the answer is %d %v", tc.target, accept, status, resp.Header)
			}
			said := body + strings.Join(resp.Header.Values("Content-Security-Policy"), "")
			for _, part := range []string{"evil", "script", "{{", "{env", "{http.", "{page.", "{vars.", "//"} {
				if strings.Contains(said, part) {
					t.Errorf("%s, %s: there is %q in\n%s", tc.target, accept, part, said)
				}
			}
			kind := resp.Header.Get("Content-Type")
			if accept == "application/json" || mode == "cors" {
				if kind != "text/plain; charset=utf-8" ||
					!strings.HasPrefix(body, fmt.Sprint(tc.status, " ", http.StatusText(tc.status), ".")) {
					t.Errorf("%s: a script is told, as %s: %s", tc.target, kind, body)
				}
				continue
			}
			if kind != "text/html; charset=utf-8" || !strings.Contains(body, tc.says) ||
				!regexp.MustCompile(`Request [0-9a-f-]{36}<`).MatchString(body) {
				t.Errorf("%s: a person is told, as %s:\n%s", tc.target, kind, body)
			}
			if policy := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy,
				"default-src 'none';") {
				t.Errorf("%s: the policy is %q", tc.target, policy)
			}
		}
	}
}

func TestUpstream(t *testing.T) {
	issuer := &aventustest.Server{}
	server := httptest.NewServer(issuer)
	defer server.Close()
	issuer.Issuer = server.URL + "/"
	app := (&upstream{issuer: issuer.Issuer, audience: "the app"}).handler()

	token := func(change map[string]any) string {
		claims := map[string]any{
			"iss": issuer.Issuer, "aud": []string{"the app", "another"}, "exp": time.Now().Add(time.Hour).Unix(),
			"sub": "auth0|ada", "name": "Ada", "email": "ada@example.com",
		}
		for name, value := range change {
			claims[name] = value
		}
		return "Bearer " + issuer.SignJWT(claims)
	}
	good := token(nil)
	for _, tc := range []struct {
		name, path, authorization string
		status                    int
		holds                     string
	}{
		{"a good token", "/app/me", good, 200, `"sub":"auth0|ada"`},
		{"one audience", "/app/me", token(map[string]any{"aud": "the app"}), 200, `"name":"Ada"`},
		{"no token", "/app/me", "", 401, ""},
		{"no JWT", "/app/me", "Bearer x", 401, ""},
		{"cut off", "/app/me", good[:len(good)-4], 401, ""},
		{"another issuer", "/app/me", token(map[string]any{"iss": "https://evil.test/"}), 401, ""},
		{"another app", "/app/me", token(map[string]any{"aud": "another"}), 401, ""},
		{"expired", "/app/me", token(map[string]any{"exp": 1}), 401, ""},
		{"headers", "/app/headers", good, 200, `"Authorization":["` + good},
		{"page", "/app/", "Bearer <b>", 200, "Bearer &lt;b&gt;"},
	} {
		r := httptest.NewRequest(http.MethodGet, tc.path, nil)
		if tc.authorization != "" {
			r.Header.Set("Authorization", tc.authorization)
		}
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Body)
		if w.Code != tc.status || !strings.Contains(string(body), tc.holds) {
			t.Errorf("%s: status %d, body %s", tc.name, w.Code, body)
		}
	}
}
