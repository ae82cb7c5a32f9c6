package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

const (
	chaosLasts  = time.Minute
	chaosPeople = 200
	chaosRate   = 1000   // requests with a session in a second, if the machine can
	chaosWork   = 20_000 // how many of them there have to be; it lasts longer if need be
)

// chaos is one Caddy to which everything happens at once.
type chaos struct {
	*cluster
	sites  []site
	config string // as it is loaded again and again
	admin  string // the address of the admin API
	state  string // the file that says how the storage is

	pages, logins, intruders, gone *load

	asked   atomic.Int64 // requests with a session
	unasked atomic.Int64 // requests at the app that no session let through
	cut     atomic.Int64 // connections that Caddy closed without an answer, as it does in a reload
	left    atomic.Int64 // logouts
	token   atomic.Value // the Authorization that the app saw last

	mu     sync.Mutex
	people []*person  // who are signed in
	copies []*browser // of who was, with the cookies that they had
}

// person is somebody who is signed in.
type person struct {
	*browser
	asking sync.WaitGroup // requests under way
}

func newChaos(t *testing.T, sites ...site) *chaos {
	t.Helper()
	c := &chaos{
		cluster: &cluster{t: t, issuers: make(map[string]*issuer), air: newAir(t)},
		sites:   sites, state: filepath.Join(t.TempDir(), "state"),
		pages: newLoad("pages"), logins: newLoad("logins"), intruders: newLoad("intruders"),
		gone: newLoad("after a logout"),
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" || r.URL.Path != "/" {
			c.unasked.Add(1)
		}
		c.token.Store(r.Header.Get("Authorization"))
		serveApp(w, r)
	}))
	t.Cleanup(app.Close)
	folder := t.TempDir()
	n := newNode(t, 0, func(port string) string {
		c.port, c.admin = port, "127.0.0.1:"+freePort(t)
		for _, s := range sites {
			i := newIssuer(t, s, 1, port)
			for n := range chaosPeople {
				i.Users = append(i.Users, aventustest.User{Sub: fmt.Sprint("auth0|", n)})
			}
			c.issuers[s.name] = i
		}
		// A config that is replaced leaves connections to the app behind; reverse_proxy
		// keeps them for two minutes otherwise.
		to := app.Listener.Addr().String() + " {\ntransport http {\nkeepalive 500ms\n}\n}"
		c.config = c.caddyfile("admin "+c.admin+"\nstorage failing "+folder+" "+c.state, port, 0, to, sites)
		return c.config
	})
	n.start()
	n.await()
	c.nodes = []*node{n}
	t.Cleanup(n.inspect)
	return c
}

// ask sends a request, again where a reload has cut its connection.
func (c *chaos) ask(send func() answer) answer {
	a := send()
	for try := 0; a.status == 0 && try < 5 && !strings.Contains(a.text, "Client.Timeout"); try++ {
		c.cut.Add(1)
		time.Sleep(10 * time.Millisecond)
		a = send()
	}
	return a
}

// askAs does so for a browser, which is to be shown what is its user's alone.
func (c *chaos) askAs(b *browser, send func() answer) answer {
	a := c.ask(send)
	if a.status == http.StatusOK && a.whose != b.user {
		a.text = fmt.Sprintf("%s got the page of %q", b.user, a.whose)
	}
	return a
}

func (c *chaos) fetch(b *browser) answer {
	return c.askAs(b, func() answer { return b.fetch(anyNode) })
}

// anybody returns somebody who is signed in, and stays so until they are told that
// this is done.
func (c *chaos) anybody() (b *browser, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.people[rand.IntN(len(c.people))]
	p.asking.Add(1)
	return p.browser, p.asking.Done
}

// signIn has somebody sign in, who tries until they are in, or it is hopeless.
func (c *chaos) signIn(user, site string) *person {
	b := c.browser(site)
	b.user = user
	for range 200 {
		asked := time.Now()
		a := c.askAs(b, func() answer { return b.visit(anyNode, "/") })
		c.logins.count("logins", b, a, time.Since(asked))
		if a.status == http.StatusOK {
			return &person{browser: b}
		}
		time.Sleep(500 * time.Millisecond)
	}
	c.t.Errorf("%s cannot sign in at %s", user, site)
	return &person{browser: b}
}

// signInAnew has somebody sign in with another browser, and then sign out with the
// one that they had.
func (c *chaos) signInAnew(n int) {
	c.mu.Lock()
	was := c.people[n]
	c.mu.Unlock()
	p := c.signIn(was.user, was.site)
	c.mu.Lock()
	was, c.people[n] = c.people[n], p
	c.mu.Unlock()
	was.asking.Wait()

	stolen := was.copy()
	stolen.user = was.user
	for {
		// A logout that could not be recorded is tried again, with the cookie that it
		// has cleared.
		a := c.ask(func() answer { return stolen.copy().send(anyNode, "/logout", "navigate") })
		if a.status == http.StatusOK {
			break
		}
		if a.String() != "503 Sign-in is temporarily unavailable. Try again soon." {
			c.t.Errorf("a logout: %s", a)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copies = append(c.copies, stolen)
	c.left.Add(1)
}

// intrude sends a request that no session stands behind.
func (c *chaos) intrude() (*browser, answer) {
	somebody, done := c.anybody()
	defer done()
	home, _ := url.Parse(c.origin(somebody.site) + "/intruder")
	session := ""
	for _, cookie := range somebody.jar.Cookies(home) {
		if cookie.Name == "aventus_session" {
			session = cookie.Value
		}
	}
	r := &http.Request{Method: http.MethodGet, URL: home, Header: make(http.Header)}
	r.Header.Set("Sec-Fetch-Mode", []string{"navigate", "cors"}[rand.IntN(2)])
	switch rand.IntN(5) {
	case 0: // nothing at all
	case 1: // somebody's token
		r.Header.Set("Authorization", c.token.Load().(string))
	case 2: // somebody's session, with one letter another
		i, letter := rand.IntN(len(session)-4), "A"
		if session[i] == 'A' {
			letter = "B"
		}
		r.Header.Set("Cookie", "aventus_session="+session[:i]+letter+session[i+1:])
	case 3: // only a part of it
		r.Header.Set("Cookie", "aventus_session="+session[:len(session)/2])
	case 4: // in the wrong cookie
		r.Header.Set("Cookie", "aventus_login="+session)
	}
	return somebody, c.ask(func() answer {
		resp, err := c.air.RoundTrip(r)
		if err != nil {
			return answer{text: err.Error()}
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return answer{status: resp.StatusCode, text: string(body)}
	})
}

// reload loads the config again.
func (c *chaos) reload() {
	r, err := http.NewRequest(http.MethodPost, "http://"+c.admin+"/load", strings.NewReader(c.config))
	if err != nil {
		c.t.Error(err)
		return
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate") // although nothing has changed
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.cut.Add(1) // the admin API is replaced, too
		return
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)); resp.StatusCode != http.StatusOK {
		c.t.Errorf("a reload: %s: %s", resp.Status, body)
	}
}

// fail has the storage fail, or "" be well again.
func (c *chaos) fail(how string) {
	if how == "" {
		_ = os.Remove(c.state)
		return
	}
	if err := os.WriteFile(c.state+".new", []byte(how), 0o600); err != nil {
		c.t.Error(err)
	}
	if err := os.Rename(c.state+".new", c.state); err != nil {
		c.t.Error(err)
	}
}

// usage is what Caddy takes up.
type usage struct {
	at             time.Time
	goroutines     int
	heap, resident int // in bytes; the heap after a collection
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %.1f MiB of heap, %.1f MiB resident", u.goroutines, float64(u.heap)/mib,
		float64(u.resident)/mib)
}

const mib = 1 << 20

func (c *chaos) usage() (u usage, err error) {
	u.at = time.Now()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.nodes[0].cmd.Process.Pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &u.resident); n == 1 {
			u.resident *= 1024
		}
	}
	for line := range strings.Lines(c.profile("goroutine?debug=1")) {
		_, _ = fmt.Sscanf(line, "goroutine profile: total %d", &u.goroutines)
	}
	for line := range strings.Lines(c.profile("heap?debug=1&gc=1")) {
		_, _ = fmt.Sscanf(line, "# HeapAlloc = %d", &u.heap)
	}
	if u.goroutines == 0 || u.heap == 0 {
		return u, errors.New("the admin API does not say")
	}
	return u, nil
}

// profile returns one of Caddy's own profiles, or nothing where a reload has cut the
// connection.
func (c *chaos) profile(name string) string {
	resp, err := http.Get("http://" + c.admin + "/debug/pprof/" + name)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	profile, _ := io.ReadAll(resp.Body)
	return string(profile)
}

// between returns the medians of what was seen between two moments.
func between(from, to time.Time, seen []usage) usage {
	seen = slices.DeleteFunc(slices.Clone(seen), func(u usage) bool { return u.at.Before(from) || u.at.After(to) })
	median := func(what func(usage) int) int {
		if len(seen) == 0 {
			return 0
		}
		slices.SortFunc(seen, func(a, b usage) int { return what(a) - what(b) })
		return what(seen[len(seen)/2])
	}
	return usage{
		goroutines: median(func(u usage) int { return u.goroutines }),
		heap:       median(func(u usage) int { return u.heap }),
		resident:   median(func(u usage) int { return u.resident }),
	}
}

// TestChaos: two hundred people sign in, and out and in again, and ask for pages, a
// thousand times a second, for a minute in which the config is reloaded every second,
// the storage fails now and then, and the authorization server is slow. Nobody gets in
// without a session or sees what is another's, no session is lost, and what Caddy takes
// up does not grow.
func TestChaos(t *testing.T) {
	c := newChaos(t, inCookie, inStorage, refreshing("refresh", 12*time.Second))
	who := func(n int) (user, site string) { return fmt.Sprint("auth0|", n), c.sites[n%len(c.sites)].name }
	for n := range c.sites { // so that there is always somebody
		c.people = append(c.people, c.signIn(who(n)))
	}
	c.air.CloseIdleConnections()
	time.Sleep(time.Second)
	before, err := c.usage()
	if err != nil {
		t.Fatal(err)
	}

	var tokenRequests atomic.Int64
	for _, s := range c.sites {
		c.issuers[s.name].Fault(func(w http.ResponseWriter, r *http.Request) bool {
			switch n := tokenRequests.Add(1); {
			case s.name != "refresh" && n%40 == 0:
				// No answer. (A renewal without one is the end of its session.)
				select {
				case <-time.After(12 * time.Second):
				case <-r.Context().Done():
				}
			case n%10 == 0:
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
			return false
		})
	}

	began, over := time.Now(), make(chan struct{})
	var around sync.WaitGroup // what goes on around the requests
	every := func(interval time.Duration, do func(n int)) {
		around.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-time.After(time.Until(began.Add(time.Duration(n) * interval))):
					do(n)
				case <-over:
					return
				}
			}
		})
	}
	reloads, outages := 0, 0
	every(time.Second, func(int) {
		c.reload()
		reloads++
	})
	every(500*time.Millisecond, func(n int) { // 3.5 s it is well, and 1.5 s it is not
		switch n % 20 {
		case 7:
			c.fail("down")
			outages++
		case 17:
			c.fail("stuck")
			outages++
		case 0, 10:
			c.fail("")
		}
	})
	var seen []usage
	every(time.Second, func(int) {
		if u, err := c.usage(); err == nil { // or its connection was cut
			seen = append(seen, u)
		}
	})

	// All sign in within the first third, and then anew, one after the other.
	var signing sync.WaitGroup
	every(chaosLasts/3/chaosPeople, func(n int) {
		switch {
		case n >= len(c.sites) && n < chaosPeople:
			signing.Go(func() {
				p := c.signIn(who(n))
				c.mu.Lock()
				defer c.mu.Unlock()
				c.people = append(c.people, p)
			})
		case n >= chaosPeople && n%2 == 0:
			c.mu.Lock()
			n = n / 2 % len(c.people)
			c.mu.Unlock()
			signing.Go(func() { c.signInAnew(n) })
		}
	})
	tickets := make(chan struct{}, chaosRate)
	every(10*time.Millisecond, func(int) {
		for range chaosRate / 100 {
			select {
			case tickets <- struct{}{}:
			default: // what is not asked in time is not asked at all
			}
		}
	})
	for range 100 {
		c.pages.repeat(0, func() (*browser, answer) {
			<-tickets
			c.asked.Add(1)
			b, done := c.anybody()
			defer done()
			return b, c.fetch(b)
		})
	}
	for range 6 {
		c.intruders.repeat(30*time.Millisecond, c.intrude)
	}

	time.Sleep(time.Until(began.Add(chaosLasts / 2)))
	for c.left.Load() == 0 {
		if time.Since(began) > 4*chaosLasts {
			t.Fatal("nobody could sign out")
		}
		time.Sleep(10 * time.Millisecond)
	}
	for range 4 {
		c.gone.repeat(40*time.Millisecond, func() (*browser, answer) {
			c.mu.Lock()
			b := c.copies[rand.IntN(len(c.copies))]
			c.mu.Unlock()
			return b, c.fetch(b)
		})
	}
	time.Sleep(time.Until(began.Add(chaosLasts)))
	for c.asked.Load() < chaosWork && time.Since(began) < 4*chaosLasts {
		time.Sleep(time.Second)
	}
	close(over)
	around.Wait()
	took := time.Since(began)
	close(tickets)
	c.fail("")
	c.pages.end(t)
	c.intruders.finish(t)
	signing.Wait() // who was still trying gets in now
	c.gone.finish(t)
	c.logins.finish(t)
	for _, s := range c.sites {
		c.issuers[s.name].Fault(nil)
	}

	// Who was given a session still has it, and who has signed out does not.
	for _, p := range c.people {
		a := c.fetch(p.browser)
		for deadline := time.Now().Add(30 * time.Second); a.status == http.StatusServiceUnavailable &&
			time.Now().Before(deadline); a = c.fetch(p.browser) {
			time.Sleep(100 * time.Millisecond)
		}
		if a.String() != "200" {
			t.Errorf("the session of %s at %s: %s", p.user, p.site, a)
		}
	}
	for _, b := range c.copies {
		if a := c.fetch(b); a.status != http.StatusUnauthorized {
			t.Errorf("%s has signed out at %s: %s", b.user, b.site, a)
		}
	}

	// What keeps a lock in files fresh finds out after some seconds that it is gone, and
	// idle connections to the authorization server are kept for 30.
	const more = 20
	c.air.CloseIdleConnections()
	after, err := c.usage()
	for deadline := time.Now().Add(50 * time.Second); err == nil && after.goroutines > before.goroutines+more &&
		time.Now().Before(deadline); after, err = c.usage() {
		time.Sleep(time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}

	forced := 0
	for _, counts := range c.intruders.counts {
		for _, n := range counts {
			forced += n
		}
	}
	t.Logf("%s: %d people signed in, %d of them out and in again; %d requests with a session, %.0f/s, and %d without",
		took.Round(time.Second), len(c.people), c.left.Load(), c.asked.Load(),
		float64(c.asked.Load())/took.Seconds(), forced)
	t.Logf("%d reloads, %d outages of the storage, %d token requests, %d of them renewals; %d connections were cut",
		reloads, outages, tokenRequests.Load(), c.issuers["refresh"].Refreshes(), c.cut.Load())
	middle := between(began.Add(took/3), began.Add(took*2/3), seen)
	last := between(began.Add(took*2/3), began.Add(took), seen)
	t.Logf("before it:           %s", before)
	t.Logf("in the middle third: %s (medians)", middle)
	t.Logf("in the last third:   %s (medians)", last)
	t.Logf("after it:            %s", after)

	// When all have signed in, it grows no more, but goes up and down with what the
	// storage and the authorization server hold up: half as much again is not much. What
	// is left when all is over, and all of the sessions are still there, says more.
	if last.goroutines > middle.goroutines*3/2+100 || last.heap > middle.heap*3/2+mib ||
		last.resident > middle.resident*5/4+8*mib {
		t.Error("what Caddy takes up grows")
	}
	if after.goroutines > before.goroutines+more || after.heap > before.heap+4*mib {
		t.Errorf("something has stayed:\n%s", c.profile("goroutine?debug=1"))
	}
	if n := c.unasked.Load(); n != 0 {
		t.Errorf("%d requests without a session reached the app", n)
	}
	const down, renewal = "503 storage_unavailable", "503 renewal_unavailable"
	c.pages.only(t, "pages, cookie", "200")
	c.pages.only(t, "pages, storage", "200", down)
	c.pages.only(t, "pages, refresh", "200", down, renewal)
	for _, s := range c.sites {
		c.logins.only(t, "logins, "+s.name, "200", down, renewal, "503 server_unavailable", "504 token_timeout")
		c.intruders.only(t, "intruders, "+s.name, "302 Found", "401 login_required")
		c.gone.only(t, "after a logout, "+s.name, "401 login_required", down)
		if codes, tokens := c.issuers[s.name].CodesReused(), c.issuers[s.name].RefreshReused(); codes != 0 ||
			tokens != 0 {
			t.Errorf("%s: used twice: %d codes, %d refresh tokens", s.name, codes, tokens)
		}
	}
	// Of how fast it went, this asserts no more than that it was tried.
	if len(c.people) != chaosPeople || c.left.Load() < 20 || c.asked.Load() < chaosWork || reloads < 20 ||
		outages < 8 {
		t.Error("that was no chaos")
	}
}
