package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// stage is a site that shows browsers whatever a test wants them to see. Below /public,
// and at another site, everybody may see it. The authorization server is a third site;
// its scheme is theirs, or WebKit would not show it in a frame.
type stage struct {
	*secure
	issuer    *issuer
	elsewhere string
}

func newStage(t *testing.T, scheme string, lines string) *stage {
	t.Helper()
	streams := newStreams(t)
	app := httptest.NewServer(http.HandlerFunc(serveStage))
	t.Cleanup(app.Close)
	s := &stage{secure: &secure{authority: newAuthority(t)}, issuer: newIssuer(t, site{"app", time.Hour, ""}, 1, "0")}
	t.Cleanup(func() {
		for _, a := range s.answers("/") {
			if t.Failed() {
				t.Logf("%d %s %.100s", a.Status, a.Request.Proto, a.Request.URI)
			}
		}
	})
	s.node = serve(t, func(port string) (string, []string) {
		s.site = scheme + "://app.localhost:" + port
		s.elsewhere = scheme + "://127.0.0.1:" + port
		s.issuer.Issuer = scheme + "://localhost:" + port + "/"
		certificate := ""
		if scheme == "https" {
			certificate = "tls " + s.cert + " " + s.key
		}
		return fmt.Sprintf(`%[1]s {
			%[2]s
			log
			@protected not path /public/*
			aventus_auth @protected {
				client_id the-client
				client_secret {env.CLIENT_SECRET}
				redirect_uri %[1]s/oauth2/callback
				audience https://api.example.com/
				scope openid profile
				issuer %[3]s
				logout /logout
				%[4]s
			}
			@streams path /socket /events
			reverse_proxy @streams %[5]s
			reverse_proxy %[6]s
			handle_errors {
				respond "Error {http.error.status_code} {http.aventus_auth.error}"
			}
		}
		%[7]s {
			%[2]s
			log
			reverse_proxy %[6]s
		}
		%[3]s {
			%[2]s
			reverse_proxy 127.0.0.1:%[8]s
		}`, s.site, certificate, strings.TrimSuffix(s.issuer.Issuer, "/"), lines, streams, app.Listener.Addr(),
				s.elsewhere, s.issuer.port),
			[]string{"CLIENT_SECRET=" + clientSecret, "SSL_CERT_FILE=" + s.ca}
	})
	s.issuer.Clients[0].RedirectURIs = []string{s.site + "/oauth2/callback"}
	return s
}

// serveStage serves the HTML of the query, a service worker, a download, and a sound.
func serveStage(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/worker.js":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, `
			self.addEventListener('install', () => self.skipWaiting());
			self.addEventListener('activate', (e) => e.waitUntil(self.clients.claim()));
			self.addEventListener('fetch', (e) => e.respondWith(fetch(e.request)));`)
	case "/download":
		w.Header().Set("Content-Disposition", "attachment; filename=file.bin")
		fmt.Fprint(w, "what is downloaded")
	case "/sound.wav":
		content := io.NewSectionReader(silence{}, 0, int64(len(soundHeader))+soundSize)
		http.ServeContent(w, r, "sound.wav", time.Unix(1e9, 0), content)
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!DOCTYPE html><title>stage</title>%s is at %s <a href=/logout>Leave</a> %s",
			callerOf(r), r.URL.Path, r.URL.Query().Get("html"))
	}
}

// silence is four minutes of nothing, as a WAV of 16-bit samples.
type silence struct{}

const soundSize = 240 * 44100 * 4

var soundHeader = func() string {
	le := func(n, bytes int) (s string) {
		for range bytes {
			s += string([]byte{byte(n)})
			n >>= 8
		}
		return s
	}
	return "RIFF" + le(36+soundSize, 4) + "WAVEfmt " + le(16, 4) +
		le(1, 2) + le(2, 2) + le(44100, 4) + le(44100*4, 4) + le(4, 2) + le(16, 2) +
		"data" + le(soundSize, 4)
}()

func (silence) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	if at < int64(len(soundHeader)) {
		copy(p, soundHeader[at:])
	}
	return len(p), nil
}

// seen is a request that the site answered, as the access log has it.
type seen struct {
	Request struct {
		URI   string
		Proto string
	}
	Status int
}

// answers returns the requests that the site has answered, whose URI begins with this.
func (s *stage) answers(uri string) (found []seen) {
	log, _ := os.ReadFile(s.log)
	for line := range strings.Lines(string(log)) {
		var a seen
		if json.Unmarshal([]byte(line), &a) == nil && a.Status != 0 && strings.HasPrefix(a.Request.URI, uri) {
			found = append(found, a)
		}
	}
	return found
}

// statuses returns their statuses.
func (s *stage) statuses(uri string) string {
	var found []string
	for _, a := range s.answers(uri) {
		found = append(found, fmt.Sprint(a.Status))
	}
	return strings.Join(found, " ")
}

// awaitStatus waits until the access log has such an answer.
func (s *stage) awaitStatus(uri string, status int) seen {
	s.t.Helper()
	var found seen
	eventually(s.t, fmt.Sprintf("%d for %s", status, uri), func() bool {
		for _, found = range s.answers(uri) {
			if found.Status == status {
				return true
			}
		}
		return false
	})
	return found
}

// engines are the browsers that are tried.
var engines = map[string]func(t *testing.T, a *authority) *tab{
	"Chromium": func(t *testing.T, a *authority) *tab {
		return newChromium(t, chromedp.Flag("ignore-certificate-errors-spki-list", a.spki))
	},
	"Firefox":   func(t *testing.T, _ *authority) *tab { return newFirefox(t) },
	"WebKitGTK": func(t *testing.T, _ *authority) *tab { return newWebKit(t) },
}

// TestBrowsers puts three engines through the same. What each of them does stands in
// docs/browsers.md.
func TestBrowsers(t *testing.T) {
	t.Parallel()
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := make(map[string]string)
			defer func() { compareTable(t, "browsers.md", "What was tried", name, told) }()
			s, plain := newStage(t, "https", ""), newStage(t, "http", "")
			plain.issuer.AutoSignIn = ""
			b := start(t, s.authority)
			t.Log(b.evaluate("navigator.userAgent"))
			for _, step := range []struct {
				row string
				at  *stage
				try func(*stage, *tab) string
			}{
				{"A download link, before the login", plain, tryDownloadFirst},
				{"The login is refused", plain, tryRefusal},
				{"A login over http, in two tabs", plain, tryTwoTabs},
				{"A login over https", s, tryLogin},
				{"The callback's URL again", s, tryCallbackAgain},
				{"A script's `fetch`", s, tryFetch},
				{"A WebSocket", s, trySocket},
				{"An event stream", s, tryEvents},
				{"An event stream, by `fetch`", s, tryFetchedEvents},
				{"A link with `download`", s, tryDownload},
				{"A sound, after a seek", s, trySound},
				{"A popup", s, tryPopup},
				{"A frame of the site", s, tryFrame},
				{"A frame in another site", s, tryFrameElsewhere},
				{"`<link rel=prefetch>`", s, tryPrefetch},
				{"Speculation rules", s, trySpeculation},
				{"A page, by a service worker", s, tryWorker},
				{"The worker's own script", s, tryWorkerScript},
				{"The back button after a logout", s, tryBack},
				{"What a script has put into `caches`, after a logout", s, tryCaches},
			} {
				t.Run(step.row, func(t *testing.T) {
					told[step.row] = step.try(step.at, &tab{t, b.driver})
				})
			}
		})
	}
}

// page returns the address of a page with this HTML.
func (s *stage) page(path, html string) string {
	return s.site + path + "?" + url.Values{"html": {html}}.Encode()
}

// enter signs in, at a page with this HTML.
func (s *stage) enter(b *tab, html string) {
	b.t.Helper()
	b.visit(s.page("/page", html))
	b.sees("auth0|ada is at /page")
}

// leave ends the session, and stays at the page.
func (s *stage) leave(b *tab) {
	b.t.Helper()
	if status := b.fetch("/logout"); status != "200" {
		b.t.Errorf("the logout answers %s", status)
	}
}

// becomes waits until something is one of these, and returns it.
func (b *tab) becomes(what func() string, values ...string) string {
	b.t.Helper()
	var is string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if is = what(); slices.Contains(values, is) {
			return is
		}
	}
	return is
}

// settles waits until something has been the same for so long, and returns it.
func settles(long time.Duration, what func() string) string {
	is, since := what(), time.Now()
	for time.Since(since) < long {
		time.Sleep(50 * time.Millisecond)
		if now := what(); now != is {
			is, since = now, time.Now()
		}
	}
	return is
}

const (
	loginInBetween = "a login, and then it comes"
	refused        = "401"
)

func tryDownloadFirst(s *stage, b *tab) string {
	b.visit(s.page("/public/page", `<a href="/download?first" download>Get it</a>`))
	b.click("Get it")
	s.awaitStatus("/download?first", 302)
	return settles(5*time.Second, func() string {
		if strings.HasPrefix(b.url(), s.issuer.Issuer) {
			return "the login page is shown"
		}
		return "the login page is saved as the file"
	})
}

func tryRefusal(s *stage, b *tab) string {
	b.visit(s.site + "/page?refused")
	b.click("Ada Lovelace")
	b.click("Refuse")
	b.sees("Error 403 access_denied")
	return "403"
}

func tryTwoTabs(s *stage, b *tab) string {
	two := b.another()
	b.visit(s.site + "/page?n=1")
	two.visit(s.site + "/page?n=2")
	b.sees("Allow access?") // the person is known since the refusal
	two.sees("Allow access?")
	b.click("Allow")
	b.isAt(s.site + "/page?n=1")
	b.sees("auth0|ada is at /page")
	two.click("Allow")
	two.isAt(s.site + "/page?n=2")
	two.sees("auth0|ada is at /page")
	return "yes"
}

func tryLogin(s *stage, b *tab) string {
	b.visit(s.site + "/page?q=a%2Fb&q=%C3%A9+1")
	b.isAt(s.site + "/page?q=a%2Fb&q=%C3%A9+1")
	b.sees("auth0|ada is at /page")
	return "yes"
}

func tryCallbackAgain(s *stage, b *tab) string {
	callback := s.answers("/oauth2/callback?")[0].Request.URI
	sent := len(s.issuer.TokenRequests())
	b.visit(s.site + callback)
	b.isAt(s.site + "/page?q=a%2Fb&q=%C3%A9+1")
	b.sees("auth0|ada is at /page")
	if n := len(s.issuer.TokenRequests()); n != sent {
		b.t.Errorf("%d codes were sent", n-sent)
	}
	return "the page"
}

func tryFetch(s *stage, b *tab) string {
	s.enter(b, "")
	if status := b.fetch("/page"); status != "200" {
		b.t.Errorf("before the logout, it is answered %s", status)
	}
	s.leave(b)
	return b.fetch("/page")
}

func trySocket(s *stage, b *tab) string {
	s.enter(b, "")
	open := `window.heard = ''; window.ended = '';
		window.socket = new WebSocket(location.origin.replace('http', 'ws') + '/socket');
		socket.onmessage = (e) => heard += e.data;
		socket.onclose = () => ended = 'ends'`
	b.run(open)
	eventually(b.t, "it says whose it is", func() bool { return b.evaluate("heard") == "hello, auth0|ada" })
	s.leave(b)
	ended := b.becomes(func() string { return b.evaluate("ended") }, "ends")
	b.run(open)
	if again := b.becomes(func() string { return b.evaluate("ended") }, "ends"); again == "ends" &&
		b.evaluate("heard") == "" {
		ended += "; no other one"
	}
	return ended
}

func tryEvents(s *stage, b *tab) string {
	s.enter(b, "")
	b.run(`window.told = ''; window.ended = '';
		window.events = new EventSource('/events');
		events.onmessage = (e) => told = e.data;
		events.onerror = () => ended = events.readyState === EventSource.CLOSED ? 'ends; no other one' : 'ends'`)
	eventually(b.t, "it says whose it is", func() bool {
		return strings.HasSuffix(b.evaluate("told"), " for auth0|ada")
	})
	s.leave(b)
	return b.becomes(func() string { return b.evaluate("ended") }, "ends; no other one")
}

func tryFetchedEvents(s *stage, b *tab) string {
	s.enter(b, "")
	b.run(`window.told = ''; window.ended = '';
		const pump = (reader) => reader.read().then((part) => {
			if (part.done) return window.ended = 'ends';
			window.told = new TextDecoder().decode(part.value);
			return pump(reader);
		});
		fetch('/events').then((r) => pump(r.body.getReader())).catch((e) => window.ended = 'fails')`)
	eventually(b.t, "it says whose it is", func() bool {
		return strings.HasSuffix(strings.TrimSpace(b.evaluate("told")), " for auth0|ada")
	})
	s.leave(b)
	return b.becomes(func() string { return b.evaluate("ended") }, "ends", "fails")
}

func tryDownload(s *stage, b *tab) string {
	s.enter(b, `<a href="/download?1" download>Get it</a>`)
	b.click("Get it")
	s.awaitStatus("/download?1", 200)
	s.leave(b)
	b.run("document.querySelector('a[download]').href += '&after'")
	b.click("Get it")
	if was := b.becomes(func() string { return s.statuses("/download?1&after") }, "302 200"); was != "302 200" {
		return was
	}
	return loginInBetween
}

func trySound(s *stage, b *tab) string {
	s.enter(b, `<audio src=/sound.wav preload=auto controls></audio>`)
	eventually(b.t, "the sound begins", func() bool {
		return b.evaluate("document.querySelector('audio').readyState > 0 ? 'yes' : ''") == "yes"
	})
	b.run("document.querySelector('audio').currentTime = 120")
	s.awaitStatus("/sound.wav", 206)
	s.leave(b)
	b.run("document.querySelector('audio').currentTime = 220")
	s.awaitStatus("/sound.wav", 401)
	return refused
}

func tryPopup(s *stage, b *tab) string {
	s.enter(b, `<button onclick="window.popup = window.open('/page?popup')">Open</button>`)
	s.leave(b)
	b.click("Open")
	was := b.becomes(func() string { return s.statuses("/page?popup") }, "302 200")
	b.run("window.popup && window.popup.close()")
	if was != "302 200" {
		return was
	}
	return loginInBetween
}

func tryFrame(s *stage, b *tab) string {
	s.enter(b, "")
	s.leave(b)
	b.run(`const f = document.createElement('iframe'); f.src = '/page?framed'; document.body.append(f)`)
	var says string
	eventually(b.t, "the frame says something", func() bool {
		says = b.evaluate("document.querySelector('iframe').contentDocument?.body?.innerText || ''")
		return says != ""
	})
	if strings.HasPrefix(says, "auth0|ada is at /page") {
		return loginInBetween
	}
	return says
}

func tryFrameElsewhere(s *stage, b *tab) string {
	s.enter(b, "")
	answered := len(s.answers("/oauth2/callback"))
	b.visit(s.elsewhere + "/page?html=" + url.QueryEscape(`<iframe src="`+s.site+`/page?elsewhere"></iframe>`))
	s.awaitStatus("/page?elsewhere", 302)
	// An error ends it, or the page.
	var says string
	eventually(b.t, "the frame's login ends", func() bool {
		says = s.statuses("/page?elsewhere")
		for _, a := range s.answers("/oauth2/callback")[answered:] {
			says += fmt.Sprint(", callback ", a.Status)
		}
		return strings.HasSuffix(says, " 200") || strings.HasSuffix(says, " 400")
	})
	b.visit(s.site + "/page?still")
	b.sees("auth0|ada is at /page")
	if was := s.statuses("/page?still"); was != "200" {
		b.t.Errorf("the session outside of the frame is lost: %s", was)
	}
	return says
}

// ahead visits a page that has something fetched ahead, without a session.
func (s *stage) ahead(b *tab, uri, html string) string {
	b.visit(s.site + "/logout")
	b.sees("You are signed out")
	logins := len(s.issuer.AuthorizeRequests())
	b.visit(s.page("/public/page", html))
	was := settles(5*time.Second, func() string { return s.statuses(uri) })
	if n := len(s.issuer.AuthorizeRequests()); n != logins {
		b.t.Errorf("%d logins were begun", n-logins)
	}
	if was == "" {
		return "is not known"
	}
	return was
}

func tryPrefetch(s *stage, b *tab) string {
	return s.ahead(b, "/ahead?link", `<link rel=prefetch href=/ahead?link>`)
}

func trySpeculation(s *stage, b *tab) string {
	return s.ahead(b, "/ahead?rules", `<script type=speculationrules>
		{"prefetch": [{"urls": ["/ahead?rules"], "eagerness": "immediate"}]}
	</script>`)
}

func tryWorker(s *stage, b *tab) string {
	s.enter(b, "")
	b.run("navigator.serviceWorker.register('/worker.js').catch((e) => window.failed = String(e))")
	eventually(b.t, "the worker is in control", func() bool {
		return b.evaluate("navigator.serviceWorker.controller ? 'yes' : ''") == "yes"
	})
	b.visit(s.site + "/page?worker")
	b.sees("auth0|ada is at /page")
	s.leave(b)
	b.visit(s.site + "/page?worker&after")
	b.sees("auth0|ada is at /page")
	if was := s.statuses("/page?worker&after"); was != "302 200" {
		return was
	}
	return loginInBetween
}

func tryWorkerScript(s *stage, b *tab) string {
	s.leave(b)
	b.run("navigator.serviceWorker.getRegistration().then((r) => r.update()).catch(() => {})")
	s.awaitStatus("/worker.js", 401)
	if strings.Contains(s.statuses("/worker.js"), "302") {
		b.t.Errorf("it began a login: %s", s.statuses("/worker.js"))
	}
	b.run(`window.gone = '';
		navigator.serviceWorker.getRegistration().then((r) => r.unregister()).then(() => window.gone = 'yes')`)
	eventually(b.t, "the worker is gone", func() bool { return b.evaluate("window.gone") == "yes" })
	return refused
}

// awaitForgotten waits until the image of the page that says "signed out" is there. Then the browser has done what
// its Clear-Site-Data says.
func (b *tab) awaitForgotten() {
	b.t.Helper()
	eventually(b.t, "the pages are forgotten", func() bool {
		return b.evaluate("document.images.length && document.images[0].complete ? 'yes' : ''") == "yes"
	})
}

func tryBack(s *stage, b *tab) string {
	b.visit(s.site + "/page?back")
	b.sees("auth0|ada is at /page")
	b.click("Leave")
	b.sees("You are signed out")
	b.awaitForgotten()
	asked := len(s.answers("/page?back"))
	b.back()
	b.isAt(s.site + "/page?back")
	b.sees("auth0|ada is at /page")
	if len(s.answers("/page?back")) == asked {
		return "the page as it was"
	}
	return loginInBetween
}

func tryCaches(s *stage, b *tab) string {
	s.enter(b, "")
	const keep = `caches.open('mine').then((c) => c.put('/kept', new Response('x'))).then(() => window.kept = 'yes')`
	b.run("window.kept = ''; " + keep)
	eventually(b.t, "it is put away", func() bool { return b.evaluate("window.kept") == "yes" })
	b.click("Leave")
	b.sees("You are signed out")
	b.awaitForgotten()
	b.visit(s.site + "/public/page")
	b.run("window.found = ''; caches.match('/kept').then((r) => window.found = r ? 'stays' : 'is gone')")
	return b.becomes(func() string { return b.evaluate("window.found") }, "stays", "is gone")
}
