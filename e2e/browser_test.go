package e2e

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// answered is a page that a tab was answered with. Redirects are left out.
type answered struct {
	status int64
	url    string
	header http.Header
}

func (b *chromium) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Host != "" {
			b.asked[u.Host] = true
		}
		b.loading[e.RequestID] = e.Request.URL
	case *network.EventLoadingFinished:
		b.loaded[b.loading[e.RequestID]] = true
	case *network.EventLoadingFailed:
		b.loaded[b.loading[e.RequestID]] = true
	case *network.EventResponseReceived:
		if e.Type == network.ResourceTypeDocument {
			a := answered{e.Response.Status, e.Response.URL, make(http.Header)}
			for name, value := range e.Response.Headers {
				a.header.Set(name, fmt.Sprint(value))
			}
			b.pages = append(b.pages, a)
		}
	}
}

// page returns the last page that a tab of Chromium was answered with.
func (b *tab) page() answered {
	c := b.driver.(*chromium)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pages) == 0 {
		return answered{}
	}
	return c.pages[len(c.pages)-1]
}

// awaitLoaded waits until a request of a tab of Chromium is over, whatever came of it. Chromium hands an
// answer on when it has done what its Clear-Site-Data says.
func (b *tab) awaitLoaded(url string) {
	b.t.Helper()
	c := b.driver.(*chromium)
	eventually(b.t, url+" to be loaded", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.loaded[url]
	})
}

// forgetLoaded has awaitLoaded wait for what is requested from now on.
func (b *tab) forgetLoaded() {
	c := b.driver.(*chromium)
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.loaded)
}

// hosts returns whom a tab of Chromium has sent anything to.
func (b *tab) hosts() []string {
	c := b.driver.(*chromium)
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.asked))
}

// startDemo runs the demo as `go run ./demo` does, and returns its address, and that of
// its metrics.
func startDemo(t *testing.T) (site, metrics string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", path,
		"github.com/aventus-platform/caddy-aventus-auth/demo").CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v\n%s", err, out)
	}
	p := &process{t: t, log: filepath.Join(t.TempDir(), "log"), make: func() *exec.Cmd {
		cmd := exec.Command(path, "-port=0", "-issuer-port=0", "-upstream-port=0", "-metrics-port=0")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
		return cmd
	}}
	p.start()
	var found []string
	eventually(t, "the demo says where it is", func() bool {
		log, _ := os.ReadFile(p.log)
		found = regexp.MustCompile(
			`(?s)Open (http://localhost:\d+)/.* http://(127\.0\.0\.1:\d+)/metrics.*Ctrl-C`).FindStringSubmatch(
			string(log))
		return found != nil
	})
	t.Cleanup(func() {
		p.signal(syscall.SIGINT)
		<-p.ended
	})
	return found[1], found[2]
}

// TestBrowserDemo: a person who wants one page of the demo gets there by way of the
// login, looks around, also at the other host, signs out there, and signs in as
// somebody else.
func TestBrowserDemo(t *testing.T) {
	site, _ := startDemo(t)
	b := newChromium(t)
	wanted := site + "/app/?q=a%2Fb&next=//evil.test/&q=%C3%A9+1"
	b.visit(wanted)
	b.click("Ada Lovelace")
	b.click("Allow")
	b.isAt(wanted)
	b.sees("What the app was sent", "Bearer ey")
	b.visit(site + "/")
	b.sees("Hello, Ada Lovelace", "ada@example.com", "It checked the token")
	for _, host := range b.hosts() {
		if name, _, _ := strings.Cut(host, ":"); name != "localhost" && name != "app.localhost" &&
			name != "127.0.0.1" {
			t.Errorf("it asked %s for something", host)
		}
	}

	// The other host, and out of both.
	other := strings.Replace(site, "localhost", "app.localhost", 1)
	b.click(strings.TrimPrefix(other, "http://"))
	b.isAt(other + "/")
	b.sees("Hello, Ada Lovelace", "It checked the token")
	b.click("Sign out")
	b.sees("You are signed out")
	b.visit(wanted)
	b.click("Grace Hopper") // the sign-in server knows nobody by now
	b.click("Allow")
	b.isAt(wanted)
	b.sees("Bearer ey")
}

// example is a Caddy that runs Caddyfile.example, and what is around it.
type example struct {
	*node
	site   string
	issuer *issuer
	app    string // the address of the app, which does not run yet
}

// newExample runs Caddyfile.example, with further subdirectives of aventus_auth in place of
// logout_provider: without that, the sign-in server knows a person who has signed out.
func newExample(t *testing.T, further string) *example {
	t.Helper()
	file, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	caddyfile := strings.Replace(string(file), "\tlogout_provider\n", "\t"+further+"\n", 1)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.html"), []byte("<title>start</title>the start page"),
		0o600); err != nil {
		t.Fatal(err)
	}
	e := &example{app: "127.0.0.1:" + freePort(t)}
	e.node = serve(t, func(port string) (string, []string) {
		e.site = "http://app.localhost:" + port
		e.issuer = newIssuer(t, site{"app", time.Hour, ""}, 1, port)
		e.issuer.AutoSignIn = ""
		return caddyfile, []string{
			"SITE_ADDRESS=" + e.site, "SITE_ROOT=" + root, "APP_UPSTREAM=" + e.app,
			"AVENTUS_CLIENT_ID=the-client", "AVENTUS_CLIENT_SECRET=" + clientSecret,
			"AVENTUS_REDIRECT_URI=" + e.site + "/oauth2/callback",
			"AVENTUS_AUDIENCE=https://api.example.com/", "AVENTUS_ISSUER=" + e.issuer.Issuer,
		}
	})
	t.Cleanup(func() {
		if n := e.issuer.CodesReused(); n != 0 {
			t.Errorf("%d codes were sent twice", n)
		}
	})
	return e
}

// startApp starts the app that Caddyfile.example has behind /app/.
func (e *example) startApp() {
	e.t.Helper()
	listener, err := net.Listen("tcp", e.app)
	if err != nil {
		e.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s is at %s", callerOf(r), r.RequestURI)
	})}
	go func() { _ = server.Serve(listener) }()
	e.t.Cleanup(func() { _ = server.Close() })
}

// TestBrowserTwoTabs: two tabs wait at the sign-in page, each on its way to a page of
// its own, and get there. Then both log in at the same moment.
func TestBrowserTwoTabs(t *testing.T) {
	e := newExample(t, "")
	e.startApp()
	one := newChromium(t)
	two := one.another()
	one.visit(e.site + "/app/one?n=1")
	two.visit(e.site + "/app/two?n=2")
	one.click("Ada Lovelace")
	one.click("Allow")
	one.isAt(e.site + "/app/one?n=1")
	one.sees("auth0|ada is at /app/one?n=1")
	two.visit(two.url()) // the sign-in server knows the person by now
	two.isAt(e.site + "/app/two?n=2")
	two.sees("auth0|ada is at /app/two?n=2")

	for round := range 5 {
		one.visit(e.site + "/logout")
		one.sees("You are signed out")
		wanted := map[*tab]string{one: fmt.Sprint("/app/one?round=", round), two: fmt.Sprint("/app/two?round=", round)}
		var wait sync.WaitGroup
		for b, path := range wanted {
			wait.Go(func() { b.leave(fmt.Sprintf("location = %q", e.site+path)) })
		}
		wait.Wait()
		for b, path := range wanted {
			b.isAt(e.site + path)
			b.sees("auth0|ada is at " + path)
		}
	}
	// Had one tab's login been lost by the other's, it would have begun again.
	if n := len(e.issuer.AuthorizeRequests()); n > 3+2*5 {
		t.Errorf("%d logins were begun", n)
	}
}

// TestBrowserBack: who goes back from the page to where they signed in is at the page
// again. A second code comes of it, with the same state, and is not needed.
func TestBrowserBack(t *testing.T) {
	e := newExample(t, "")
	e.startApp()
	b := newChromium(t)
	b.visit(e.site + "/app/page?n=1")
	b.click("Ada Lovelace")
	b.click("Allow")
	b.isAt(e.site + "/app/page?n=1")
	b.back()
	b.sees("Confirm Form Resubmission") // of the consent
	b.back()
	b.isAt(e.site + "/app/page?n=1")
	b.sees("auth0|ada is at /app/page?n=1")
	if asked, sent := len(e.issuer.AuthorizeRequests()), len(e.issuer.TokenRequests()); asked != 2 || sent != 1 {
		t.Errorf("%d visits of the sign-in page, want 2; %d codes sent, want 1", asked, sent)
	}
}

// TestBrowserErrorPages: what a person sees of Caddyfile.example when something
// fails, and where its button leads. With -artifacts, the pictures are kept.
func TestBrowserErrorPages(t *testing.T) {
	answer := func(status int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			return true
		}
	}
	const wanted = "/app/page?n=1&m=%2F"
	for _, tc := range []struct {
		name    string
		further string // subdirectives
		fault   func(http.ResponseWriter, *http.Request) bool
		path    string
		decide  string // at the consent page
		status  int64
		says    []string
		button  string
		then    string // what is seen after it
		end     string // and where; empty: not on the site
	}{
		{
			"refused", "", nil, wanted, "Refuse",
			403, []string{"You are not signed in", "You chose not to let this site know who you are",
				"Error 403 access_denied"},
			"Try again", "Allow access?", "",
		},
		{
			"refused, another", "logout_provider", nil, wanted, "Refuse",
			403, []string{"You are not signed in"},
			"Use another account", "You are signed out", "/logout?signed_out",
		},
		{
			"busy", "", answer(503), wanted, "Allow",
			503, []string{"You could not be signed in", "The sign-in server is unavailable for the moment.",
				"Error 503 server_unavailable"},
			"Start again", "the start page", "/",
		},
		{
			"no token", "", answer(500), wanted, "Allow",
			502, []string{"This does not work right now", "The sign-in server did not confirm your sign-in.",
				"Error 502 token_refused"},
			"Try again", "auth0|ada is at " + wanted, wanted,
		},
		{
			"no app", "", nil, wanted, "Allow",
			502, []string{"This does not work right now", "Error 502"},
			"Try again", "auth0|ada is at " + wanted, wanted,
		},
		{
			"no page", "", nil, "/nothing?<b>", "Allow",
			404, []string{"There is no such page", "Error 404"},
			"Go to the start page", "the start page", "/",
		},
		{
			"no scope", "logout_provider\nrequire_scope read:reports", nil, wanted, "Allow",
			403, []string{"You cannot open this page", "You are signed in, but lack the scope read:reports.",
				"Error 403 insufficient_scope"},
			"Use another account", "You are signed out", "/logout?signed_out",
		},
		{
			"no claim", "logout_provider\nrequire_claim role admin", nil, wanted, "Allow",
			403, []string{
				"You cannot open this page", "your account lacks what is needed here (role).",
				"Error 403 insufficient_claim",
			},
			"Use another account", "You are signed out", "/logout?signed_out",
		},
		{
			"no scope, back", "require_scope read:reports", nil, wanted, "Allow",
			403, []string{"You cannot open this page"},
			"Go to the start page", "You cannot open this page", "/",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newExample(t, tc.further)
			e.issuer.Fault(tc.fault)
			b := newChromium(t)
			b.visit(e.site + tc.path)
			b.click("Ada Lovelace")
			b.click(tc.decide)
			b.sees(append(tc.says, "Request ")...)
			if p := b.page(); p.status != tc.status || p.header.Get("Cache-Control") != "no-store" {
				t.Errorf("the answer is %d %v", p.status, p.header)
			}
			if text := b.text(); strings.ContainsAny(text, "{}<") {
				t.Errorf("it says\n%s", text)
			}
			b.looksGood(tc.name)

			e.issuer.Fault(nil)
			e.startApp()
			b.click(tc.button)
			b.sees(tc.then)
			if tc.end != "" {
				b.isAt(e.site + tc.end)
			}
			if tc.then == "You are signed out" {
				b.looksGood("signed out")
				b.click("Sign in again")
				b.sees("Ada Lovelace", "Grace Hopper") // whoever it is now
			}
		})
	}
}

// looksGood checks that a page can be read, in the light and in the dark, on a desk
// and on a phone, and takes pictures of it.
func (b *tab) looksGood(name string) {
	b.t.Helper()
	backs, chromium := make(map[string]string), b.driver.(*chromium)
	for _, scheme := range []string{"light", "dark"} {
		features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
		if _, err := chromedp.Call(chromium.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: features,
		}); err != nil {
			b.t.Fatal(err)
		}
		for screen, size := range map[string][2]int64{"desk": {1280, 800}, "phone": {360, 640}} {
			if err := chromium.do(chromedp.EmulateViewport(size[0], size[1])); err != nil {
				b.t.Fatal(err)
			}
			if faults := b.evaluate(faultsOfPage); faults != "none" {
				b.t.Errorf("%s, %s: %s", scheme, screen, faults)
			}
			picture, err := chromedp.Run(chromium.ctx, chromedp.CaptureScreenshot())
			if err != nil {
				b.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(b.t.ArtifactDir(), fmt.Sprintf("%s %s %s.png", name, scheme, screen)),
				picture, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}
		backs[scheme] = b.evaluate("getComputedStyle(document.body).backgroundColor")
	}
	if backs["light"] == backs["dark"] {
		b.t.Errorf("light and dark, the background is %s", backs["dark"])
	}
}

// faultsOfPage is a script that says what is wrong with a page: what is wider than
// the screen, and text with less contrast than WCAG 2.2 asks for (1.4.3).
const faultsOfPage = `(() => {
	const faults = [];
	const root = document.documentElement;
	if (root.scrollWidth > root.clientWidth) faults.push('it is ' + root.scrollWidth + ' pixels wide');
	const parts = (color) => color.match(/[\d.]+/g).map(Number);
	const light = (color) => parts(color).slice(0, 3).map((c) => c / 255)
		.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
		.reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
	const back = (element) => {
		const color = getComputedStyle(element).backgroundColor;
		return parts(color)[3] === 0 ? back(element.parentElement) : color;
	};
	let read = 0;
	for (const element of document.body.querySelectorAll('h1, p, a, small')) {
		if (!element.innerText) continue;
		read++;
		const [a, b] = [light(getComputedStyle(element).color), light(back(element))];
		const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (contrast < 4.5) faults.push(element.innerText + ' has a contrast of ' + contrast);
	}
	if (read < 4) faults.push('there is little to read');
	return faults.join('; ') || 'none';
})()`
