package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"golang.org/x/net/websocket"
)

// driver is one tab of a browser, as its maker lets programs use it. An expression is a
// string in the page; without a page, since one is on its way, it is an error.
type driver interface {
	navigate(url string) error
	evaluate(expression string) (string, error)
	run(statements string) error
	click(xpath string) error // as a person does
	open() (driver, error)    // another tab of the same browser
}

// tab is a tab of a browser, in a test.
type tab struct {
	t *testing.T
	driver
}

// newTab makes a tab of the first one of a browser.
func newTab(t *testing.T, d driver) *tab {
	b := &tab{t, d}
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
	d, err := b.open()
	if err != nil {
		b.t.Fatalf("opening a tab: %v", err)
	}
	return &tab{b.t, d}
}

// evaluate returns what an expression is in the page, or "" where there is no page,
// since one is on its way.
func (b *tab) evaluate(expression string) string {
	value, _ := b.driver.evaluate(expression)
	return value
}

// run runs statements in the page.
func (b *tab) run(statements string) {
	b.t.Helper()
	if err := b.driver.run(statements); err != nil {
		b.t.Errorf("%s: %v", statements, err)
	}
}

func (b *tab) url() string { return b.evaluate("location.href") }
func (b *tab) text() string {
	return b.evaluate("document.readyState == 'complete' && document.body ? document.body.innerText : ''")
}

// visit goes to an address, as one does who types it.
func (b *tab) visit(target string) {
	b.t.Helper()
	if err := b.navigate(target); err != nil {
		b.t.Fatalf("visiting %s: %v\nat %s:\n%s", target, err, b.url(), b.text())
	}
}

// click clicks on the button or link that says so.
func (b *tab) click(label string) {
	b.t.Helper()
	if err := b.driver.click(fmt.Sprintf(`//*[(self::a or self::button) and contains(., %q)]`, label)); err != nil {
		b.t.Fatalf("clicking on %s: %v\nat %s:\n%s", label, err, b.url(), b.text())
	}
}

// leave runs statements that lead away from the page. A browser may throw its answer away with the page, which is then
// an error that says nothing: where the tab is afterwards, isAt and sees tell.
func (b *tab) leave(statements string) {
	b.t.Helper()
	if err := b.driver.run(statements); err != nil {
		b.t.Logf("%s: %v", statements, err)
	}
}

// back presses the back button.
func (b *tab) back() {
	b.t.Helper()
	b.leave("history.back()")
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

// fetch asks for something as the page's script does, and returns the status.
func (b *tab) fetch(target string) string {
	b.t.Helper()
	b.run(fmt.Sprintf(`window.fetched = '';
		fetch(%q).then((r) => window.fetched = String(r.status), (e) => window.fetched = String(e))`, target))
	var status string
	eventually(b.t, "an answer to fetch", func() bool { status = b.evaluate("window.fetched"); return status != "" })
	return status
}

// chromium is a tab of a headless Chromium, with what it was answered so far.
type chromium struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	pages   []answered
	asked   map[string]bool              // the hosts that it sent anything to
	loading map[network.RequestID]string // the URLs of requests under way
	loaded  map[string]bool              // the URLs of those that are over, whatever came of them
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
	first, err := (&chromium{t: t, ctx: allocator}).open()
	if err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	return newTab(t, first)
}

func (b *chromium) open() (driver, error) {
	other := &chromium{
		t: b.t, asked: make(map[string]bool),
		loading: make(map[network.RequestID]string), loaded: make(map[string]bool),
	}
	ctx, closeTab := chromedp.NewContext(b.ctx, chromedp.WithListener(other.note))
	b.t.Cleanup(closeTab)
	other.ctx = ctx
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	return other, err
}

// do runs something in the tab, within a time.
func (b *chromium) do(step chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	return chromedp.Do(ctx, step)
}

func (b *chromium) navigate(url string) error { return b.do(chromedp.Navigate(url)) }
func (b *chromium) click(xpath string) error {
	return b.do(chromedp.Click(xpath, chromedp.NodeVisible))
}

func (b *chromium) evaluate(expression string) (string, error) {
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[string](expression))
}

func (b *chromium) run(statements string) error {
	_, err := b.evaluate("(() => {" + statements + "})(); ''")
	return err
}

// firefox is a tab of a headless Firefox, which is told what to do by WebDriver BiDi
// (https://www.w3.org/TR/webdriver-bidi/).
type firefox struct {
	*bidi
	context string
}

// bidi is a connection by WebDriver BiDi.
type bidi struct {
	conn *websocket.Conn

	mu      sync.Mutex
	last    int
	waiting map[int]chan bidiAnswer
}

type bidiAnswer struct {
	ID      int
	Result  json.RawMessage
	Error   string
	Message string
}

// newFirefox starts a Firefox with an empty profile but for further preferences, for as long as the test runs.
func newFirefox(t *testing.T, further ...string) *tab {
	t.Helper()
	path := program(t, "firefox-esr", "apt-get install -y firefox-esr")
	profile := t.TempDir()
	// What it would look for on the network by itself.
	prefs := `user_pref("network.captive-portal-service.enabled", false);
		user_pref("network.connectivity-service.enabled", false);
		user_pref("services.settings.server", "data:,#remote-settings-dummy/v1");
		user_pref("browser.newtabpage.enabled", false);
		user_pref("browser.aboutwelcome.enabled", false);
		user_pref("browser.preonboarding.enabled", false);
		user_pref("datareporting.policy.dataSubmissionEnabled", false);
		user_pref("termsofuse.bypassNotification", true);
		user_pref("media.autoplay.default", 0);
	` + strings.Join(further, "\n")
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(prefs), 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	p := &process{t: t, log: filepath.Join(t.TempDir(), "log"), make: func() *exec.Cmd {
		cmd := exec.Command(path, "--headless", "--no-remote", "--profile", profile,
			"--remote-debugging-port", "0", "--remote-allow-origins", "http://localhost", "about:blank")
		cmd.Env = append(os.Environ(), "HOME="+home, "MOZ_CRASHREPORTER_DISABLE=1")
		return cmd
	}}
	p.start()
	var found []string
	eventually(t, "Firefox says where it listens", func() bool {
		log, _ := os.ReadFile(p.log)
		found = regexp.MustCompile(`BiDi listening on (ws://\S+)`).FindStringSubmatch(string(log))
		return found != nil
	})
	conn, err := websocket.Dial(found[1]+"/session", "", "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	b := &bidi{conn: conn, waiting: make(map[int]chan bidiAnswer)}
	go b.receive()
	t.Cleanup(func() {
		_ = b.call("browser.close", struct{}{}, nil)
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
		}
		_ = conn.Close()
	})
	type object = map[string]any
	capabilities := object{"alwaysMatch": object{"acceptInsecureCerts": true}}
	if err := b.call("session.new", object{"capabilities": capabilities}, nil); err != nil {
		t.Fatalf("starting Firefox: %v", err)
	}
	var tree struct{ Contexts []struct{ Context string } }
	if err := b.call("browsingContext.getTree", struct{}{}, &tree); err != nil || len(tree.Contexts) == 0 {
		t.Fatalf("starting Firefox: %v %v", tree, err)
	}
	return newTab(t, &firefox{b, tree.Contexts[0].Context})
}

func (b *bidi) receive() {
	for {
		var a bidiAnswer
		err := websocket.JSON.Receive(b.conn, &a)
		b.mu.Lock()
		if err != nil {
			for _, waiting := range b.waiting {
				close(waiting)
			}
			b.waiting = nil
			b.mu.Unlock()
			return
		}
		if waiting, ok := b.waiting[a.ID]; ok {
			waiting <- a
			delete(b.waiting, a.ID)
		}
		b.mu.Unlock()
	}
}

// call sends a command, and waits for its result.
func (b *bidi) call(method string, params, result any) error {
	b.mu.Lock()
	if b.waiting == nil {
		b.mu.Unlock()
		return io.EOF
	}
	b.last++
	id, answer := b.last, make(chan bidiAnswer, 1)
	b.waiting[id] = answer
	err := websocket.JSON.Send(b.conn, map[string]any{"id": id, "method": method, "params": params})
	b.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case a, ok := <-answer:
		if !ok {
			return io.EOF
		}
		if a.Error != "" {
			return fmt.Errorf("%s: %s", a.Error, a.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.Result, result)
	case <-time.After(2 * time.Minute):
		return errors.New("no answer to " + method)
	}
}

func (f *firefox) navigate(url string) error {
	return f.call("browsingContext.navigate", map[string]any{
		"context": f.context, "url": url, "wait": "complete",
	}, nil)
}

func (f *firefox) evaluate(expression string) (string, error) {
	var got struct {
		Result           struct{ Type, Value string }
		ExceptionDetails struct{ Text string }
	}
	err := f.call("script.evaluate", map[string]any{
		"expression": expression, "target": map[string]any{"context": f.context}, "awaitPromise": false,
	}, &got)
	if err == nil && got.Result.Type != "string" {
		err = fmt.Errorf("it is %s %s", got.Result.Type, got.ExceptionDetails.Text)
	}
	return got.Result.Value, err
}

func (f *firefox) run(statements string) error {
	_, err := f.evaluate("(() => {" + statements + "})(); ''")
	return err
}

func (f *firefox) click(xpath string) error {
	var found struct{ Nodes []map[string]any }
	locator := map[string]any{"type": "xpath", "value": xpath}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := f.call("browsingContext.locateNodes", map[string]any{"context": f.context, "locator": locator}, &found)
		if err == nil && len(found.Nodes) > 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d are there; %v", len(found.Nodes), err)
		}
	}
	origin := map[string]any{"type": "element", "element": map[string]any{"sharedId": found.Nodes[0]["sharedId"]}}
	return f.call("input.performActions", map[string]any{"context": f.context, "actions": []any{map[string]any{
		"type": "pointer", "id": "mouse", "actions": []any{
			map[string]any{"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
			map[string]any{"type": "pointerDown", "button": 0},
			map[string]any{"type": "pointerUp", "button": 0},
		},
	}}}, nil)
}

func (f *firefox) open() (driver, error) {
	var made struct{ Context string }
	err := f.call("browsingContext.create", map[string]any{"type": "tab"}, &made)
	return &firefox{f.bidi, made.Context}, err
}

// webKit is a tab of WebKitGTK's MiniBrowser, which is told what to do by WebDriver
// (https://www.w3.org/TR/webdriver2/).
type webKit struct {
	*webDriver
	window string
}

// webDriver is a session of WebDriver. Its commands go to one window at a time.
type webDriver struct {
	mu      sync.Mutex
	address string
	at      string
}

// newWebKit starts a MiniBrowser with an empty profile, for as long as the test runs.
func newWebKit(t *testing.T) *tab {
	t.Helper()
	path := program(t, "WebKitWebDriver", "apt-get install -y webkit2gtk-driver")
	found, _ := filepath.Glob("/usr/lib/*/webkit2gtk-4.*/MiniBrowser")
	if len(found) == 0 {
		t.Fatal("there is no MiniBrowser; get it with: apt-get install -y webkit2gtk-driver")
	}
	home, log := t.TempDir(), filepath.Join(t.TempDir(), "log")

	screen := &process{t: t, log: log, make: func() *exec.Cmd {
		return exec.Command(program(t, "Xvfb", "apt-get install -y xvfb"),
			"-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "1280x800x24")
	}}
	screen.start()
	var display string
	eventually(t, "Xvfb says which display it is", func() bool {
		said, _ := os.ReadFile(log)
		display, _, _ = strings.Cut(string(said), "\n")
		return regexp.MustCompile(`^\d+$`).MatchString(display)
	})

	port := freePort(t)
	p := &process{t: t, log: filepath.Join(home, "log"), addr: "127.0.0.1:" + port, make: func() *exec.Cmd {
		cmd := exec.Command(path, "--port="+port)
		cmd.Env = append(os.Environ(), "DISPLAY=:"+display,
			"GDK_BACKEND=x11", "LIBGL_ALWAYS_SOFTWARE=1", "NO_AT_BRIDGE=1", "HOME="+home,
			"XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "XDG_RUNTIME_DIR="+home)
		return cmd
	}}
	p.start()
	p.await()

	w := &webDriver{address: "http://" + p.addr + "/session"}
	type object = map[string]any
	var made struct{ SessionID string }
	if err := w.call(http.MethodPost, "", object{"capabilities": object{"alwaysMatch": object{
		"acceptInsecureCerts":      true,
		"webkitgtk:browserOptions": object{"binary": found[0], "args": []string{"--automation"}},
	}}}, &made); err != nil {
		t.Fatalf("starting WebKit: %v", err)
	}
	w.address += "/" + made.SessionID
	t.Cleanup(func() { _ = w.call(http.MethodDelete, "", nil, nil) })
	if err := w.call(http.MethodGet, "/window", nil, &w.at); err != nil {
		t.Fatalf("starting WebKit: %v", err)
	}
	return newTab(t, &webKit{w, w.at})
}

// call sends a command, and waits for its value.
func (w *webDriver) call(method, path string, params, value any) error {
	var body io.Reader
	if params != nil {
		sent, err := json.Marshal(params)
		if err != nil {
			return err
		}
		body = bytes.NewReader(sent)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, w.address+path, body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var got struct{ Value json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d: %.500s", resp.StatusCode, got.Value)
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(got.Value, value)
}

// in sends a command to this window.
func (w *webKit) in(method, path string, params, value any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at != w.window {
		if err := w.call(http.MethodPost, "/window", map[string]any{"handle": w.window}, nil); err != nil {
			return err
		}
		w.at = w.window
	}
	return w.call(method, path, params, value)
}

func (w *webKit) navigate(url string) error {
	return w.in(http.MethodPost, "/url", map[string]any{"url": url}, nil)
}

func (w *webKit) evaluate(expression string) (value string, err error) {
	err = w.in(http.MethodPost, "/execute/sync", map[string]any{
		"script": "return " + expression, "args": []any{},
	}, &value)
	return value, err
}

func (w *webKit) run(statements string) error {
	return w.in(http.MethodPost, "/execute/sync", map[string]any{"script": statements, "args": []any{}}, nil)
}

func (w *webKit) click(xpath string) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var found map[string]string
		err := w.in(http.MethodPost, "/element", map[string]any{"using": "xpath", "value": xpath}, &found)
		if err == nil {
			for _, id := range found {
				err = w.in(http.MethodPost, "/element/"+id+"/click", struct{}{}, nil)
			}
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (w *webKit) open() (driver, error) {
	var made struct{ Handle string }
	err := w.in(http.MethodPost, "/window/new", map[string]any{"type": "tab"}, &made)
	return &webKit{w.webDriver, made.Handle}, err
}
