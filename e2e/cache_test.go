package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"golang.org/x/net/websocket"
)

// cached is some sites behind a cache. What is in the cluster is one Caddy; its port is
// the cache's.
type cached struct {
	*cluster
	made   atomic.Int64 // pages by the app
	broken atomic.Bool  // the app does not answer
	pad    atomic.Int64 // how many characters longer tokens are

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

func newCached(t *testing.T, f front, rules string) *cached {
	t.Helper()
	c := &cached{cluster: &cluster{t: t, issuers: make(map[string]*issuer), port: freePort(t), air: newAir(t)},
		tokens: make(map[string]string)}
	app := httptest.NewServer(http.HandlerFunc(c.serveApp))
	t.Cleanup(app.Close)
	static := t.TempDir()
	if err := os.WriteFile(filepath.Join(static, "page.html"), []byte("a page out of a file"), 0o600); err != nil {
		t.Fatal(err)
	}

	n := newNode(t, 0, func(port string) string {
		config := "{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nstorage file_system " +
			t.TempDir() + "\n}\n"
		for name, block := range cachedSites {
			c.issuers[name] = newIssuer(t, site{name, time.Hour, block}, 1, c.port)
			c.issuers[name].Claims = func(aventustest.User) map[string]any {
				return map[string]any{"pad": strings.Repeat("x", int(c.pad.Load()))}
			}
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

	f.start(t, c.port, n.addr, rules)
	return c
}

// serveApp is an app whose pages are each somebody's, and say so; the query has what
// the site's authors say about them: h for a header, status.
func (c *cached) serveApp(w http.ResponseWriter, r *http.Request) {
	if c.broken.Load() {
		panic(http.ErrAbortHandler)
	}
	switch r.URL.Path {
	case "/socket":
		websocket.Handler(func(ws *websocket.Conn) {
			_, _ = io.WriteString(ws, "hello, "+callerOf(ws.Request()))
			_, _ = io.Copy(ws, ws)
		}).ServeHTTP(w, r)
		return
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: hello, %s\n\n", callerOf(r))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
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
	says, _, _ := strings.Cut(s.header.Get("X-Cache"), " ")
	switch says { // as nginx says it here, and others by themselves
	case "HIT", "STALE", "UPDATING", "REVALIDATED":
		return true
	}
	return strings.Contains(s.header.Get("Cache-Status"), "; hit") // RFC 9211
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
	isUnchanged := p.status == http.StatusNotModified && p.header["X-Whose"] == nil
	if got := p.header["X-Whose"]; !isUnchanged && (len(got) != 1 || got[0] != who) {
		t.Errorf("%s %s: %s got the page of %q: %d %.80q (%s)", method, target, who, got, p.status, p.body,
			p.header.Get("X-Cache"))
	}
	isPart := method == http.MethodHead || p.status == http.StatusNotModified || p.status == http.StatusPartialContent
	if !isPart && !strings.HasPrefix(p.body, who+": ") {
		t.Errorf("%s %s: %s got %q", method, target, who, p.body)
	}
	for _, cookie := range p.header["Set-Cookie"] {
		if !strings.HasPrefix(cookie, "its="+strings.TrimPrefix(who, "auth0|")) &&
			!strings.HasPrefix(cookie, "aventus_session=") {
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
		if p.status != http.StatusFound || !strings.HasPrefix(to, c.issuers[site].Issuer+"authorize?") ||
			p.header["X-Whose"] != nil || p.isHit() {
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
	if p := c.ask(c.browser(site), http.MethodGet, target, header...); p.status != http.StatusUnauthorized ||
		p.header["X-Whose"] != nil || p.isHit() {
		t.Errorf("%s: a script without a session: %d %.80q (%s)", target, p.status, p.body, p.header.Get("X-Cache"))
	}
}

// enter returns a browser of somebody who has signed in.
func (c *cached) enter(site, user string) *browser {
	c.t.Helper()
	b := c.browser(site)
	b.user = user
	c.expect(b.visit(anyNode, "/sign-in?"+url.Values{"h": {"Cache-Control: private"}}.Encode()), http.StatusOK,
		"logging in at "+site)
	return b
}

// caseOfCache is what a site's authors may say of a page.
type caseOfCache struct {
	name    string
	headers []string
	status  int
}

const aYear = "Cache-Control: public, s-maxage=31536000"

var casesOfCache = []caseOfCache{
	{"nothing", nil, 200},
	{"public", []string{aYear}, 200},
	{"in two lines", []string{"Cache-Control: public", "Cache-Control: s-maxage=31536000"}, 200},
	{"with an etag", []string{aYear, `ETag: "v1"`}, 200},
	{"with a date", []string{aYear, "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT"}, 200},
	{"for a while", []string{"Cache-Control: max-age=3600"}, 200},
	{"must be asked", []string{"Cache-Control: max-age=3600, must-revalidate"}, 200},
	{"expires", []string{"Expires: Fri, 01 Jan 2100 00:00:00 GMT"}, 200},
	{"for nginx", []string{"X-Accel-Expires: 3600"}, 200},
	{"for nginx and the public", []string{aYear, "X-Accel-Expires: 3600"}, 200},
	{"for others", []string{"Surrogate-Control: max-age=3600", "CDN-Cache-Control: max-age=3600"}, 200},
	{"varies", []string{aYear, "Vary: Accept-Language"}, 200},
	{"varies twice", []string{aYear, "Vary: Accept-Language", "Vary: X-Theme"}, 200},
	{"varies by all", []string{aYear, "Vary: *"}, 200},
	{"with a cookie", []string{aYear, "Set-Cookie: its=WHO"}, 200},
	{"private", []string{"Cache-Control: private, max-age=3600"}, 200},
	{"no store", []string{"Cache-Control: no-store"}, 200},
	{"not found", []string{aYear}, 404},
	{"moved", []string{aYear, "Location: /elsewhere"}, 301},
	{"moved for now", []string{aYear, "Location: /elsewhere"}, 302},
	{"refused", []string{aYear}, 401},
	{"broken", []string{aYear}, 500},
	{"not found, says nothing", nil, 404},
	{"moved, says nothing", []string{"Location: /elsewhere"}, 302},
	{"refused for a while", []string{"Cache-Control: max-age=3600"}, 401},
}

// TestSharedCache: behind a cache that keeps what it may for everybody, nobody sees
// the page of somebody else, nor their cookie, whatever the site says of its pages.
// What each cache keeps stands in docs/caches.md.
func TestSharedCache(t *testing.T) {
	t.Parallel()
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			testSharedCache(t, f)
		})
	}
}

func testSharedCache(t *testing.T, f front) {
	c, told := newCached(t, f, ""), make(map[string]string)
	defer func() { compareTable(t, "caches.md", "What is kept", f.name, told) }()

	for _, site := range []string{"default", "host", "bearer"} {
		if site != "default" && f.name != "nginx" {
			continue
		}
		first, second := c.enter(site, ada), c.enter(site, grace)
		for _, is := range casesOfCache {
			for _, visitors := range [][]*browser{{first, second}, {second, first}} {
				t.Run(site+"/"+is.name, func(t *testing.T) {
					target := address(is.name+" for "+visitors[0].user, is.headers...)
					if is.status != 200 {
						target += fmt.Sprint("&status=", is.status)
					}
					hits := 0
					for round := range 3 {
						for _, b := range visitors {
							p := c.look(t, b, http.MethodGet, target)
							if p.status != is.status {
								t.Errorf("status %d", p.status)
							}
							if p.isHit() && (round == 1 || is.name == "with a cookie") { // which it has from then on
								hits++
							}
						}
						if round > 0 { // Squid drops what it has kept for others then
							c.turnedAway(t, site, target)
						}
					}
					kept := map[int]string{0: "no", 2: "yes", 4: "yes"}[hits]
					if before, ok := told[is.name]; kept == "" || ok && kept != before {
						t.Errorf("%d of 2 pages came out of the cache; before: %s", hits, before)
					}
					told[is.name] = kept
				})
			}
		}
	}

	// What follows takes a page that most of them keep.
	t.Run("conditional requests", func(t *testing.T) {
		first, second := c.enter("default", ada), c.enter("default", grace)
		target := address("conditional", aYear, `ETag: "v1"`)
		c.look(t, first, http.MethodGet, target)
		for range 2 {
			for _, b := range []*browser{first, second} {
				if p := c.look(t, b, http.MethodGet, target, "If-None-Match", `"v1"`); p.status !=
					http.StatusNotModified {
					t.Errorf("status %d", p.status)
				}
			}
		}
		c.turnedAway(t, "default", target, "If-None-Match", `"v1"`)
		told["304 for a private page"] = "no"
		target = address("conditional and private", "Cache-Control: private", `ETag: "v1"`)
		for _, b := range []*browser{first, second, first} {
			if p := c.look(t, b, http.MethodGet, target, "If-None-Match", `"v1"`); p.status == http.StatusNotModified {
				told["304 for a private page"] = "yes"
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
				if want := (b.user + ": ")[6:10]; p.status == http.StatusPartialContent && p.body != want {
					t.Errorf("%s got the part %q, want %q", b.user, p.body, want)
				}
				told["parts of what is kept"] = map[int]string{200: "no", 206: "yes"}[p.status]
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
			time.Sleep(2 * time.Second) // a cache's clock is the system's
		}
		if f.name == "nginx" && !again {
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
		told["shown while the app is down"] = "no"
		if p := c.ask(first, http.MethodGet, target); p.status == http.StatusOK {
			told["shown while the app is down"] = "yes"
			if p.header.Get("X-Whose") != ada {
				t.Errorf("it was the page of %s", p.header.Get("X-Whose"))
			}
		}
		if p := c.ask(second, http.MethodGet, target); p.status < 500 || p.header["X-Whose"] != nil {
			t.Errorf("the other one got %d %q", p.status, p.body)
		}
		c.turnedAway(t, "default", target)
	})
	t.Run("files", func(t *testing.T) {
		b := c.enter("default", ada)
		for target, row := range map[string]string{"/files/page.html": "nothing", "/public/page.html": "public"} {
			for n := range 3 {
				p := c.ask(b, http.MethodGet, target)
				if p.body != "a page out of a file" || p.isHit() != (told[row] == "yes" && n > 0) {
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
			if p := c.ask(other, http.MethodGet, callback); p.isHit() || len(p.header["Set-Cookie"]) > 0 &&
				p.header["Set-Cookie"][0] == cookie {
				t.Errorf("the callback again: %d %v", p.status, p.header)
			}
		}
		c.look(t, second, http.MethodGet, "/")
		// One that failed is not kept, either: the next one has the same URL.
		for range 2 {
			if p := c.ask(b, http.MethodGet, "/oauth2/callback?error=access_denied"); p.status !=
				http.StatusBadRequest || p.isHit() {
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
					if p := c.look(t, b, http.MethodGet, path+"page"); p.isHit() !=
						(told["public"] == "yes" && n > 0) {
						t.Errorf("the page: %s", p.header.Get("X-Cache"))
					}
				}
				if p := c.ask(c.browser(site), http.MethodGet, path+"profile"); p.status != http.StatusUnauthorized ||
					p.isHit() {
					t.Errorf("nobody's profile: %d %s", p.status, p.body)
				}
				if site == "default" {
					c.turnedAway(t, site, path+"page")
					continue
				}
				// It says so of the way to the login, too.
				logins := make(map[string]bool)
				for range 2 {
					p := c.ask(c.browser(site), http.MethodGet, path+"page")
					if p.status != http.StatusFound || p.header["X-Whose"] != nil {
						t.Errorf("without a session: %d %.80q", p.status, p.body)
					}
					logins[p.header.Get("Location")] = true
				}
				told["the way to the login, called public"] = map[int]string{1: "yes", 2: "no"}[len(logins)]
			}
		}
	})
	t.Run("what everybody may see", func(t *testing.T) {
		first, second := c.enter("pass", ada), c.enter("pass", grace)
		nobody := func() *browser { return c.browser("pass") }
		for name, visitors := range map[string]func() []*browser{
			"anonymous first": func() []*browser {
				return []*browser{nobody(), first, second, nobody(), first, second, nobody()}
			},
			"anonymous last": func() []*browser {
				return []*browser{first, second, nobody(), first, second, nobody()}
			},
		} {
			hits := 0
			for _, b := range visitors() {
				c.look(t, b, http.MethodGet, address(name))
				if c.look(t, b, http.MethodGet, address(name+" in public", aYear)).isHit() {
					hits++
				}
			}
			if (hits >= 3) != (told["public"] == "yes") {
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
			if p := c.ask(c.browser("bearer"), http.MethodGet, target, "Authorization", "Bearer nonsense"); p.status !=
				http.StatusUnauthorized || p.isHit() {
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

// TestProxyAsItComes: a login works behind a proxy that was not told to take longer headers than it does by
// default (4,096 bytes in nginx), whatever the length of the token and of the page's URL.
func TestProxyAsItComes(t *testing.T) {
	t.Parallel()
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			f.keep = ""
			c := newCached(t, f, "")
			for pad := 0; pad <= 2400; pad += 200 {
				c.pad.Store(int64(pad))
				for _, query := range []int{0, 500, 1000} {
					b := c.browser("default")
					b.user = ada
					page := "/sign-in?" + url.Values{
						"h": {"Cache-Control: private"}, "q": {strings.Repeat("x", query)},
					}.Encode()
					what := fmt.Sprintf("logging in with %d more characters in the token and %d in the URL", pad,
						query)
					c.expect(b.visit(anyNode, page), http.StatusOK, what)
				}
			}
		})
	}
}
