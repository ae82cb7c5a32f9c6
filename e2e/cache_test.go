package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cached is a site behind nginx, which keeps for everybody as much as it may. What
// is in the cluster is one Caddy; its port is nginx's.
type cached struct {
	*cluster
	made   atomic.Int64 // pages by the app
	broken atomic.Bool  // the app does not answer

	mu     sync.Mutex
	tokens map[string]string // the Authorization that the app last saw, by user
}

const (
	ada   = "auth0|ada"
	grace = "auth0|grace"
)

// cachedSites are the sites of newCached. Two of them differ in what nginx takes for
// one page.
var cachedSites = map[string]string{
	"default": "profile /loud/profile",
	"host":    "profile /outspoken/profile",
	"pass":    "unauthenticated pass",
	"bearer":  "accept_bearer",
	"idle":    "session {\nidle 4s\n}",
}

func newCached(t *testing.T) *cached {
	t.Helper()
	path := program(t, "nginx", "apt-get install nginx-light")
	c := &cached{cluster: &cluster{t: t, issuers: make(map[string]*issuer), port: freePort(t), air: newAir(t)}, tokens: make(map[string]string)}
	app := httptest.NewServer(http.HandlerFunc(c.serveApp))
	t.Cleanup(app.Close)
	static := t.TempDir()
	if err := os.WriteFile(filepath.Join(static, "page.html"), []byte("a page out of a file"), 0o600); err != nil {
		t.Fatal(err)
	}

	n := newNode(t, 0, func(port string) string {
		config := "{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nstorage file_system " + t.TempDir() + "\n}\n"
		for name, block := range cachedSites {
			c.issuers[name] = newIssuer(t, site{name, time.Hour, block}, 1, c.port)
			auth := fmt.Sprintf(`{
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri %s/oauth2/callback
				audience https://api.example.com/
				issuer http://127.0.0.1:%s/
				logout /logout
				`, c.origin(name), c.issuers[name].port)
			config += fmt.Sprintf(`http://%[1]s.localhost:%[2]s {
				# What deletes a field is done when the answer is written.
				header /loud/* {
					Cache-Control "public, max-age=3600"
					X-Accel-Expires 3600
				}
				header /outspoken/* {
					Cache-Control "public, max-age=3600"
					X-Accel-Expires 3600
					-Server
				}
				aventus_auth /sign-in %[3]s
				}
				aventus_auth %[3]s %[4]s
				}
				handle /files/* {
					root %[5]s
					uri strip_prefix /files
					file_server
				}
				handle /public/* {
					root %[5]s
					uri strip_prefix /public
					header Cache-Control "public, max-age=31536000, immutable"
					file_server
				}
				handle {
					encode gzip
					reverse_proxy %[6]s
				}
				handle_errors {
					respond {http.aventus_auth.error}
				}
			}
			`, name, port, auth, block, static, app.Listener.Addr())
		}
		return config
	})
	n.start()
	n.await()
	c.nodes = []*node{n}
	t.Cleanup(n.inspect)

	// One process, so that nothing outlives it.
	dir := t.TempDir()
	config := "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n"
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += what + "_temp_path " + what + ";\n"
	}
	config += "proxy_cache_path pages keys_zone=shared:10m;\n"
	for name := range cachedSites {
		key := ""
		if name == "host" {
			key = "proxy_cache_key $host$request_uri;"
		}
		config += fmt.Sprintf(`
			upstream %[1]s { server %[2]s; }
			server {
				listen 127.0.0.1:%[3]s;
				server_name %[1]s.localhost;
				location / {
					proxy_pass http://%[1]s;
					proxy_set_header Host $http_host;
					proxy_cache shared;
					%[4]s
					proxy_cache_valid 200 301 302 303 1h;
					proxy_cache_valid any 1m;
					proxy_cache_lock on;
					proxy_cache_revalidate on;
					proxy_cache_use_stale error timeout invalid_header updating http_500 http_502 http_503 http_504 http_403 http_404 http_429;
					add_header X-Cache $upstream_cache_status always;
				}
			}
			`, name, n.addr, c.port, key)
	}
	config += "}\n"
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cache := process{t: t, log: filepath.Join(dir, "log"), addr: "127.0.0.1:" + c.port, make: func() *exec.Cmd {
		return exec.Command(path, "-p", dir, "-c", file, "-e", "stderr")
	}}
	cache.start()
	cache.await()
	version, _ := exec.Command(path, "-v").CombinedOutput()
	t.Logf("%s", version)
	return c
}

// serveApp is an app whose pages are each somebody's, and say so; the query has what
// the site's authors say about them: h for a header, status.
func (c *cached) serveApp(w http.ResponseWriter, r *http.Request) {
	if c.broken.Load() {
		panic(http.ErrAbortHandler)
	}
	who := "nobody"
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		claims, err := claimsOf(token)
		if err != nil {
			c.t.Errorf("the app got the token %q: %v", token, err)
		}
		who = claims.Sub
		c.mu.Lock()
		c.tokens[who] = token
		c.mu.Unlock()
	}
	query := r.URL.Query()
	for _, line := range query["h"] {
		name, value, _ := strings.Cut(line, ": ")
		w.Header().Add(name, strings.ReplaceAll(value, "WHO", strings.TrimPrefix(who, "auth0|")))
	}
	w.Header().Set("X-Whose", who)
	w.Header().Set("Accept-Ranges", "bytes") // or nginx would answer with the whole page
	if tag := w.Header().Get("ETag"); tag != "" && r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	var status int
	if _, err := fmt.Sscan(query.Get("status"), &status); err == nil {
		w.WriteHeader(status)
	}
	fmt.Fprintf(w, "%s: page %d", who, c.made.Add(1))
}

// address returns the URL of a page of the app, that is asked for nowhere else.
func address(name string, headers ...string) string {
	return "/" + strings.ReplaceAll(name, " ", "-") + "?" + url.Values{"h": headers}.Encode()
}

// shown is what a visitor was shown.
type shown struct {
	status int
	header http.Header
	body   string
}

// isHit reports whether it came out of the cache.
func (s shown) isHit() bool {
	switch s.header.Get("X-Cache") {
	case "HIT", "STALE", "UPDATING", "REVALIDATED":
		return true
	}
	return false
}

// ask sends a request as it is, and follows nothing.
func (c *cached) ask(b *browser, method, target string, header ...string) shown {
	c.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = c.origin(b.site) + target
	}
	r, err := http.NewRequest(method, target, nil)
	if err != nil {
		c.t.Error(err)
		return shown{}
	}
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.client.Do(r)
	if err != nil {
		c.t.Error(err)
		return shown{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	return shown{resp.StatusCode, resp.Header, string(body)}
}

// look asks for a page of the app, which has to be the visitor's own, with nobody
// else's cookie.
func (c *cached) look(t *testing.T, b *browser, method, target string, header ...string) shown {
	t.Helper()
	who := b.user
	if who == "" {
		who = "nobody"
	}
	p := c.ask(b, method, target, header...)
	if got := p.header["X-Whose"]; len(got) != 1 || got[0] != who {
		t.Errorf("%s %s: %s got the page of %q: %d %.80q (%s)", method, target, who, got, p.status, p.body, p.header.Get("X-Cache"))
	}
	isPart := method == http.MethodHead || p.status == http.StatusNotModified || p.status == http.StatusPartialContent
	if !isPart && !strings.HasPrefix(p.body, who+": ") {
		t.Errorf("%s %s: %s got %q", method, target, who, p.body)
	}
	for _, cookie := range p.header["Set-Cookie"] {
		if !strings.HasPrefix(cookie, "its="+strings.TrimPrefix(who, "auth0|")) && !strings.HasPrefix(cookie, "aventus_session=") {
			t.Errorf("%s %s: %s got the cookie %q", method, target, who, cookie)
		}
	}
	return p
}

// turnedAway checks that somebody without a session sees nothing: not of the page,
// and nothing that is somebody else's.
func (c *cached) turnedAway(t *testing.T, site, target string, header ...string) {
	t.Helper()
	states := make(map[string]bool)
	for range 2 {
		p := c.ask(c.browser(site), http.MethodGet, target, header...)
		to := p.header.Get("Location")
		if p.status != http.StatusFound || !strings.HasPrefix(to, c.issuers[site].Issuer+"authorize?") || p.header["X-Whose"] != nil || p.isHit() {
			t.Errorf("%s: without a session: %d %.80q (%s)", target, p.status, p.body, p.header.Get("X-Cache"))
			continue
		}
		u, _ := url.Parse(to)
		states[u.Query().Get("state")] = true
		for _, cookie := range p.header["Set-Cookie"] {
			states[cookie] = true
		}
	}
	if len(states) != 4 {
		t.Errorf("%s: two visitors share a login: %v", target, states)
	}
	header = append(header, "Sec-Fetch-Mode", "cors")
	if p := c.ask(c.browser(site), http.MethodGet, target, header...); p.status != http.StatusUnauthorized || p.header["X-Whose"] != nil || p.isHit() {
		t.Errorf("%s: a script without a session: %d %.80q (%s)", target, p.status, p.body, p.header.Get("X-Cache"))
	}
}

// enter returns a browser of somebody who has signed in.
func (c *cached) enter(site, user string) *browser {
	c.t.Helper()
	b := c.browser(site)
	b.user = user
	c.expect(b.visit(anyNode, "/sign-in?"+url.Values{"h": {"Cache-Control: private"}}.Encode()), http.StatusOK, "logging in at "+site)
	return b
}

// caseOfCache is what a site's authors may say of a page.
type caseOfCache struct {
	name    string
	headers []string
	status  int
	kept    string // whether nginx keeps it: "yes", "no", or "" where that is up to it
}

const aYear = "Cache-Control: public, s-maxage=31536000"

var casesOfCache = []caseOfCache{
	{"nothing", nil, 200, "no"},
	{"public", []string{aYear}, 200, "yes"},
	{"in two lines", []string{"Cache-Control: public", "Cache-Control: s-maxage=31536000"}, 200, "yes"},
	{"with an etag", []string{aYear, `ETag: "v1"`}, 200, "yes"},
	{"with a date", []string{aYear, "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT"}, 200, "yes"},
	{"for a while", []string{"Cache-Control: max-age=3600"}, 200, "no"},
	{"must be asked", []string{"Cache-Control: max-age=3600, must-revalidate"}, 200, "no"},
	{"expires", []string{"Expires: Fri, 01 Jan 2100 00:00:00 GMT"}, 200, "no"},
	{"for nginx", []string{"X-Accel-Expires: 3600"}, 200, ""},
	{"for nginx and the public", []string{aYear, "X-Accel-Expires: 3600"}, 200, "yes"},
	{"for others", []string{"Surrogate-Control: max-age=3600", "CDN-Cache-Control: max-age=3600"}, 200, "no"},
	{"varies", []string{aYear, "Vary: Accept-Language"}, 200, "yes"},
	{"varies twice", []string{aYear, "Vary: Accept-Language", "Vary: X-Theme"}, 200, "yes"},
	{"varies by all", []string{aYear, "Vary: *"}, 200, "no"},
	{"with a cookie", []string{aYear, "Set-Cookie: its=WHO"}, 200, "no"},
	{"private", []string{"Cache-Control: private, max-age=3600"}, 200, "no"},
	{"no store", []string{"Cache-Control: no-store"}, 200, "no"},
	{"not found", []string{aYear}, 404, "yes"},
	{"moved", []string{aYear, "Location: /elsewhere"}, 301, "yes"},
	{"moved for now", []string{aYear, "Location: /elsewhere"}, 302, "yes"},
	{"broken", []string{aYear}, 500, "yes"},
	{"not found, says nothing", nil, 404, "no"},
	{"moved, says nothing", []string{"Location: /elsewhere"}, 302, "no"},
}

// TestSharedCache: behind a cache that keeps what it may for everybody, nobody sees
// the page of somebody else, nor their cookie, whatever the site says of its pages.
func TestSharedCache(t *testing.T) {
	t.Parallel()
	c := newCached(t)

	for _, site := range []string{"default", "host", "bearer"} {
		first, second := c.enter(site, ada), c.enter(site, grace)
		for _, is := range casesOfCache {
			for _, visitors := range [][]*browser{{first, second}, {second, first}} {
				t.Run(site+"/"+is.name, func(t *testing.T) {
					target := address(is.name+" for "+visitors[0].user, is.headers...)
					if is.status != 200 {
						target += fmt.Sprint("&status=", is.status)
					}
					hits := 0
					for range 3 {
						for _, b := range visitors {
							p := c.look(t, b, http.MethodGet, target)
							if p.status != is.status {
								t.Errorf("status %d", p.status)
							}
							if p.isHit() {
								hits++
							}
						}
						c.turnedAway(t, site, target)
					}
					if is.kept == "yes" && hits != 4 || is.kept == "no" && hits > 0 {
						t.Errorf("%d of 6 pages came out of the cache", hits)
					}
				})
			}
		}
	}

	// What follows takes a page that nginx does keep.
	t.Run("conditional requests", func(t *testing.T) {
		first, second := c.enter("default", ada), c.enter("default", grace)
		target := address("conditional", aYear, `ETag: "v1"`)
		c.look(t, first, http.MethodGet, target)
		for range 2 {
			for _, b := range []*browser{first, second} {
				if p := c.look(t, b, http.MethodGet, target, "If-None-Match", `"v1"`); p.status != http.StatusNotModified {
					t.Errorf("status %d", p.status)
				}
			}
		}
		c.turnedAway(t, "default", target, "If-None-Match", `"v1"`)
	})
	t.Run("parts", func(t *testing.T) {
		first, second := c.enter("default", ada), c.enter("default", grace)
		target := address("parts", aYear)
		for range 2 {
			for _, b := range []*browser{first, second} {
				p := c.look(t, b, http.MethodGet, target, "Range", "bytes=6-9")
				if want := (b.user + ": ")[6:10]; p.body != want {
					t.Errorf("%s got the part %q, want %q", b.user, p.body, want)
				}
				c.look(t, b, http.MethodGet, target)
			}
			c.turnedAway(t, "default", target, "Range", "bytes=6-9")
		}
	})
	t.Run("HEAD, then GET", func(t *testing.T) {
		first, second := c.enter("default", ada), c.enter("default", grace)
		for _, target := range []string{address("head", aYear), address("head of nothing")} {
			for range 2 {
				c.look(t, first, http.MethodHead, target)
				c.look(t, second, http.MethodGet, target)
				c.look(t, second, http.MethodHead, target)
				c.look(t, first, http.MethodGet, target)
			}
			c.turnedAway(t, "default", target)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		visitors := []*browser{c.enter("default", ada), c.enter("default", grace)}
		for try := range 5 {
			target := address(fmt.Sprint("at once ", try), aYear)
			var wait sync.WaitGroup
			for n := range 20 {
				wait.Go(func() { c.look(t, visitors[n%2], http.MethodGet, target) })
			}
			// What nginx may not keep, it fetches for one after the other.
			wait.Go(func() { c.turnedAway(t, "default", target) })
			wait.Wait()
		}
	})
	t.Run("revalidated", func(t *testing.T) {
		first, second := c.enter("default", ada), c.enter("default", grace)
		target := address("revalidated", "Cache-Control: public, s-maxage=1", `ETag: "v1"`)
		again := false
		for range 3 {
			for _, b := range []*browser{first, second, first} {
				again = again || c.look(t, b, http.MethodGet, target).header.Get("X-Cache") == "REVALIDATED"
			}
			time.Sleep(2 * time.Second) // nginx's clock is the system's
		}
		if !again {
			t.Error("nginx never revalidated it")
		}
		c.turnedAway(t, "default", target)
	})
	t.Run("stale while the app is down", func(t *testing.T) {
		first, second := c.enter("default", ada), c.enter("default", grace)
		target := address("stale", "Cache-Control: public, s-maxage=1")
		c.look(t, first, http.MethodGet, target)
		time.Sleep(2 * time.Second)
		c.broken.Store(true)
		defer c.broken.Store(false)
		if p := c.look(t, first, http.MethodGet, target); p.header.Get("X-Cache") != "STALE" {
			t.Errorf("it was %s", p.header.Get("X-Cache"))
		}
		if p := c.ask(second, http.MethodGet, target); p.status != http.StatusBadGateway || p.header["X-Whose"] != nil {
			t.Errorf("the other one got %d %q", p.status, p.body)
		}
		c.turnedAway(t, "default", target)
	})
	t.Run("files", func(t *testing.T) {
		b := c.enter("default", ada)
		for target, kept := range map[string]bool{"/files/page.html": false, "/public/page.html": true} {
			for n := range 3 {
				p := c.ask(b, http.MethodGet, target)
				if p.body != "a page out of a file" || p.isHit() != (kept && n > 0) {
					t.Errorf("%s: %d %q (%s)", target, p.status, p.body, p.header.Get("X-Cache"))
				}
				c.turnedAway(t, "default", target)
			}
		}
	})
	t.Run("a callback", func(t *testing.T) {
		b := c.browser("default")
		b.user = ada
		callback := b.begin(anyNode)
		p := c.ask(b, http.MethodGet, callback)
		if p.status != http.StatusSeeOther || len(p.header["Set-Cookie"]) != 1 {
			t.Fatalf("%d %v", p.status, p.header)
		}
		cookie := p.header["Set-Cookie"][0]
		second := c.enter("default", grace)
		for _, other := range []*browser{c.browser("default"), second, b} {
			if p := c.ask(other, http.MethodGet, callback); p.isHit() || len(p.header["Set-Cookie"]) > 0 && p.header["Set-Cookie"][0] == cookie {
				t.Errorf("the callback again: %d %v", p.status, p.header)
			}
		}
		c.look(t, second, http.MethodGet, "/")
		// One that failed is not kept, either: the next one has the same URL.
		for range 2 {
			if p := c.ask(b, http.MethodGet, "/oauth2/callback?error=access_denied"); p.status != http.StatusBadRequest || p.isHit() {
				t.Errorf("a bad callback: %d %v", p.status, p.header)
			}
		}
	})
	t.Run("a logout", func(t *testing.T) {
		second := c.enter("default", grace)
		for range 2 {
			b := c.enter("default", ada)
			stolen := b.copy()
			stolen.user = ada
			if p := c.ask(b, http.MethodGet, "/logout"); p.status != http.StatusOK || p.isHit() {
				t.Errorf("%d %v", p.status, p.header)
			}
			if p := c.ask(stolen, http.MethodGet, address("after the logout", aYear)); p.status != http.StatusFound {
				t.Errorf("the session has not ended: %d %q", p.status, p.body)
			}
		}
		c.look(t, second, http.MethodGet, "/")
	})
	t.Run("a site that says public of everything", func(t *testing.T) {
		for site, path := range map[string]string{"default": "/loud/", "host": "/outspoken/"} {
			first, second := c.enter(site, ada), c.enter(site, grace)
			for n := range 2 {
				for _, b := range []*browser{first, second} {
					p := c.ask(b, http.MethodGet, path+"profile")
					if p.status != http.StatusOK || !strings.Contains(p.body, b.user) {
						t.Errorf("%s got the profile %d %s", b.user, p.status, p.body)
					}
					if p := c.look(t, b, http.MethodGet, path+"page"); p.isHit() != (n > 0) {
						t.Errorf("the page: %s", p.header.Get("X-Cache"))
					}
				}
				if p := c.ask(c.browser(site), http.MethodGet, path+"profile"); p.status != http.StatusUnauthorized || p.isHit() {
					t.Errorf("nobody's profile: %d %s", p.status, p.body)
				}
				c.turnedAway(t, site, path+"page")
			}
		}
	})
	t.Run("what everybody may see", func(t *testing.T) {
		first, second := c.enter("pass", ada), c.enter("pass", grace)
		nobody := func() *browser { return c.browser("pass") }
		for name, visitors := range map[string]func() []*browser{
			"anonymous first": func() []*browser { return []*browser{nobody(), first, second, nobody(), first, second, nobody()} },
			"anonymous last":  func() []*browser { return []*browser{first, second, nobody(), first, second, nobody()} },
		} {
			hits := 0
			for _, b := range visitors() {
				c.look(t, b, http.MethodGet, address(name))
				if c.look(t, b, http.MethodGet, address(name+" in public", aYear)).isHit() {
					hits++
				}
			}
			if hits < 3 {
				t.Errorf("%s: %d pages came out of the cache", name, hits)
			}
		}
	})
	t.Run("tokens of their own", func(t *testing.T) {
		first, second := c.enter("bearer", ada), c.enter("bearer", grace)
		c.look(t, first, http.MethodGet, address("tokens"))
		c.look(t, second, http.MethodGet, address("tokens"))
		target := address("with a token", aYear)
		for range 2 {
			for _, who := range []string{ada, grace} {
				client := c.browser("bearer")
				client.user = who
				c.look(t, client, http.MethodGet, target, "Authorization", "Bearer "+c.tokens[who])
			}
			for _, b := range []*browser{first, second} {
				c.look(t, b, http.MethodGet, target)
				c.look(t, b, http.MethodGet, target, "Authorization", "Bearer "+c.tokens[ada]) // the session wins
			}
			c.turnedAway(t, "bearer", target)
			if p := c.ask(c.browser("bearer"), http.MethodGet, target, "Authorization", "Bearer nonsense"); p.status != http.StatusUnauthorized || p.isHit() {
				t.Errorf("a bad token: %d %q", p.status, p.body)
			}
		}
	})
	t.Run("a cookie sealed anew", func(t *testing.T) {
		first, second := c.enter("idle", ada), c.enter("idle", grace)
		target, anew := address("idle", aYear), make(map[string]bool)
		for range 4 {
			time.Sleep(1100 * time.Millisecond) // a quarter of idle, by the system's clock
			for _, b := range []*browser{first, second} {
				p := c.look(t, b, http.MethodGet, target)
				if p.isHit() && p.header["Set-Cookie"] != nil {
					t.Errorf("a cookie out of the cache: %v", p.header)
				}
				for _, cookie := range p.header["Set-Cookie"] {
					if anew[cookie] {
						t.Errorf("the same cookie twice: %s", cookie)
					}
					anew[cookie] = true
				}
			}
		}
		if len(anew) < 4 {
			t.Errorf("%d cookies were sealed anew", len(anew))
		}
	})
	t.Logf("the app made %d pages", c.made.Load())
}
