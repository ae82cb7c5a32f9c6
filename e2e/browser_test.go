package e2e

import (
	"context"
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

// tab is a tab of a headless Chromium, with what it was answered so far.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu    sync.Mutex
	pages []answered
	asked map[string]bool // the hosts that it sent anything to
}

// answered is a page that a tab was answered with. Redirects are left out.
type answered struct {
	status int64
	url    string
	header http.Header
}

// newChromium starts a Chromium with an empty profile, for as long as the test runs.
func newChromium(t *testing.T, flags ...chromedp.ExecAllocatorOption) *tab {
	t.Helper()
	path := program(t, "chromium", "apt-get install -y chromium")
	allocator, stop := chromedp.NewExecAllocator(context.Background(), append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.NoSandbox, // root, who runs the tests in CI, cannot have one
		chromedp.Flag("disable-quic", true),
		// What it would look for on the network by itself.
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
	}, flags...)...)
	t.Cleanup(stop)
	b := (&tab{t: t, ctx: allocator}).another()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the first tab is at %s:\n%s", b.url(), b.text())
		}
	})
	return b
}

// another opens another tab of the same browser.
func (b *tab) another() *tab {
	b.t.Helper()
	other := &tab{t: b.t, asked: make(map[string]bool)}
	ctx, closeTab := chromedp.NewContext(b.ctx, chromedp.WithListener(other.note))
	b.t.Cleanup(closeTab)
	other.ctx = ctx
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		b.t.Fatalf("starting Chromium: %v", err)
	}
	return other
}

func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Host != "" {
			b.asked[u.Host] = true
		}
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

// page returns the last page that the tab was answered with.
func (b *tab) page() answered {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pages) == 0 {
		return answered{}
	}
	return b.pages[len(b.pages)-1]
}

// hosts returns whom the tab has sent anything to.
func (b *tab) hosts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.asked))
}

// do runs something in the tab, within a time.
func (b *tab) do(what string, step chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, step); err != nil {
		b.t.Fatalf("%s: %v\nat %s:\n%s", what, err, b.url(), b.text())
	}
}

// evaluate returns what an expression is in the page, or "" where there is no page,
// since one is on its way.
func (b *tab) evaluate(expression string) string {
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	value, _ := chromedp.Run(ctx, chromedp.Evaluate[string](expression))
	return value
}

func (b *tab) url() string { return b.evaluate("location.href") }
func (b *tab) text() string {
	return b.evaluate("document.readyState == 'complete' ? document.body.innerText : ''")
}

// visit goes to an address, as one does who types it.
func (b *tab) visit(target string) {
	b.t.Helper()
	b.do("visiting "+target, chromedp.Navigate(target))
}

// click clicks on the button or link that says so.
func (b *tab) click(label string) {
	b.t.Helper()
	b.do("clicking on "+label, chromedp.Click(fmt.Sprintf(`//*[(self::a or self::button) and contains(., %q)]`, label), chromedp.NodeVisible))
}

// back presses the back button.
func (b *tab) back() {
	b.t.Helper()
	b.evaluate("history.back(); ''")
}

// sees waits until the page says all of this.
func (b *tab) sees(words ...string) {
	b.t.Helper()
	var text string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text = b.text()
		missing := slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
		if !missing {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("at %s, it sees\n%s\nand not all of %q", b.url(), text, words)
		}
	}
}

// isAt waits until the address bar says this, to the letter.
func (b *tab) isAt(url string) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); b.url() != url; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("it is at %s, want %s:\n%s", b.url(), url, b.text())
		}
	}
}

// startDemo runs the demo as `go run ./demo` does, and returns its address, and that of
// its metrics.
func startDemo(t *testing.T) (site, metrics string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/aventus-platform/caddy-aventus-auth/demo").CombinedOutput(); err != nil {
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
		found = regexp.MustCompile(`(?s)Open (http://localhost:\d+)/.* http://(127\.0\.0\.1:\d+)/metrics.*Ctrl-C`).FindStringSubmatch(string(log))
		return found != nil
	})
	t.Cleanup(func() {
		p.signal(syscall.SIGINT)
		<-p.ended
	})
	return found[1], found[2]
}

// TestBrowserDemo: a person who wants one page of the demo gets there by way of the
// login, looks around, signs out, and goes back.
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
		if name, _, _ := strings.Cut(host, ":"); name != "localhost" && name != "127.0.0.1" {
			t.Errorf("it asked %s for something", host)
		}
	}

	b.click("Sign out")
	b.sees("You are signed out")
	// The browser may show the page as it left it, but nothing can be had from there.
	b.back()
	b.isAt(site + "/")
	if status := b.fetch("/app/me"); status != "401" {
		t.Errorf("after signing out and going back, the app answers %s", status)
	}
	// The sign-in server still knows the person, who is in again by asking for a page.
	b.visit(wanted)
	b.isAt(wanted)
	b.sees("Bearer ey")
}

// fetch asks for something as the page's script does, and returns the status.
func (b *tab) fetch(target string) string {
	b.t.Helper()
	b.evaluate(fmt.Sprintf("window.fetched = ''; fetch(%q).then(r => window.fetched = String(r.status), e => window.fetched = String(e)); ''", target))
	var status string
	eventually(b.t, "an answer to fetch", func() bool { status = b.evaluate("window.fetched"); return status != "" })
	return status
}

// example is a Caddy that runs Caddyfile.example, and what is around it.
type example struct {
	*node
	site   string
	issuer *issuer
	app    string // the address of the app, which does not run yet
}

// newExample runs Caddyfile.example, with further subdirectives of aventus_auth.
func newExample(t *testing.T, further string) *example {
	t.Helper()
	file, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	caddyfile := strings.Replace(string(file), "logout /logout\n", "logout /logout\n"+further+"\n", 1)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.html"), []byte("<title>start</title>the start page"), 0o600); err != nil {
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
			wait.Go(func() { b.evaluate(fmt.Sprintf("location = %q; ''", e.site+path)) })
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

// TestBrowserSignedOut: where a site has its pages kept nowhere (no-store), the back
// button does not bring one up after signing out, but asks for it, by another login.
func TestBrowserSignedOut(t *testing.T) {
	f, issuer := newGuarded(t, nil, "header Cache-Control no-store\nrespond \"for {http.auth.user.id}\"")
	b := newChromium(t, chromedp.Flag("ignore-certificate-errors-spki-list", f.spki))
	b.visit(f.site + "/page")
	b.sees("for auth0|ada")
	b.visit(f.site + "/logout")
	b.sees("You are signed out")
	b.back()
	b.isAt(f.site + "/page")
	b.sees("for auth0|ada")
	if n := len(issuer.AuthorizeRequests()); n != 2 {
		t.Errorf("%d logins were begun, want 2", n)
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
			403, []string{"You are not signed in", "You chose not to let this site know who you are", "Error 403 access_denied"},
			"Try again", "Allow access?", "",
		},
		{
			"busy", "", answer(503), wanted, "Allow",
			503, []string{"You could not be signed in", "The sign-in server is unavailable for the moment.", "Error 503 server_unavailable"},
			"Start again", "the start page", "/",
		},
		{
			"no token", "", answer(500), wanted, "Allow",
			502, []string{"This does not work right now", "The sign-in server did not confirm your sign-in.", "Error 502 token_refused"},
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
			"no scope", "require_scope read:reports", nil, wanted, "Allow",
			403, []string{"You cannot open this page", "You are signed in, but lack the scope read:reports.", "Error 403 insufficient_scope"},
			"Sign out", "You are signed out", "/logout",
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
		})
	}
}

// looksGood checks that a page can be read, in the light and in the dark, on a desk
// and on a phone, and takes pictures of it.
func (b *tab) looksGood(name string) {
	b.t.Helper()
	backs := make(map[string]string)
	for _, scheme := range []string{"light", "dark"} {
		features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
		if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
			b.t.Fatal(err)
		}
		for screen, size := range map[string][2]int64{"desk": {1280, 800}, "phone": {360, 640}} {
			b.do("resizing", chromedp.EmulateViewport(size[0], size[1]))
			if faults := b.evaluate(faultsOfPage); faults != "none" {
				b.t.Errorf("%s, %s: %s", scheme, screen, faults)
			}
			picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
			if err != nil {
				b.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(b.t.ArtifactDir(), fmt.Sprintf("%s %s %s.png", name, scheme, screen)), picture, 0o600); err != nil {
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
