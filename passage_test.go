package aventusauth

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFiles: a site of files answers behind the login as it does without one, whole or
// in parts, with gzip in between or not.
func TestFiles(t *testing.T) {
	dir, file := t.TempDir(), strings.Repeat("0123456789abcdef\n", 100_000)
	if err := os.WriteFile(filepath.Join(dir, "file.txt"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, encode := range []string{"", "encode gzip\n"} {
		for _, https := range []bool{false, true} { // HTTP/1.1 and HTTP/2
			w := newWorld(t, setup{https: https, caddyfile: "%s\n" + encode + "root " + dir + "\nfile_server"})
			b := w.browser()
			b.login("/file.txt")
			whole := b.get("/file.txt")
			w.expect(whole, http.StatusOK)
			if isHTTP2 := whole.ProtoMajor == 2; isHTTP2 != https || whole.Uncompressed != (encode != "") {
				t.Errorf("%q, https %v: HTTP/%d, unpacked %v", encode, https, whole.ProtoMajor, whole.Uncompressed)
			}
			if whole.body != file || whole.Header.Get("Cache-Control") != "private" {
				t.Errorf("%q, https %v: %d bytes, and not %d; %v", encode, https, len(whole.body), len(file),
					whole.Header)
			}
			part := b.do("GET", "/file.txt", "Range", "bytes=1000000-1000003")
			w.expect(part, http.StatusPartialContent)
			if part.body != file[1000000:1000004] || part.Header.Get("Content-Length") != "4" {
				t.Errorf("%q, https %v: %q, %v", encode, https, part.body, part.Header)
			}
			head := b.do("HEAD", "/file.txt")
			w.expect(head, http.StatusOK)
			if head.body != "" || head.ContentLength != int64(len(file)) {
				t.Errorf("%q, https %v: HEAD: %q, %d", encode, https, head.body, head.ContentLength)
			}
			same := b.do("GET", "/file.txt", "If-None-Match", part.Header.Get("Etag"))
			w.expect(same, http.StatusNotModified)
			if same.body != "" || same.Header.Get("Cache-Control") != "private" {
				t.Errorf("%q, https %v: %q, %v", encode, https, same.body, same.Header)
			}
		}
	}
}

// TestNoCacheIsToldOtherwise: a site that says for all its pages how long caches may
// keep them, by headers that go before Cache-Control, does not say it of a login, a
// logout, a profile or an error, nor of a page that brings a session's cookie.
func TestNoCacheIsToldOtherwise(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nprofile /profile\nsession {\nidle 1h\n}", caddyfile: `
		header {
			Cache-Control "public, max-age=3600"
			X-Accel-Expires 3600
			Expires "Fri, 01 Jan 2100 00:00:00 GMT"
			Surrogate-Control max-age=3600
			Edge-Control max-age=3600
			CDN-Cache-Control max-age=3600
			ExampleCDN-Cache-Control max-age=3600
			X-Site here
		}
		%s
		reverse_proxy %app`})
	b, stranger := w.browser(), w.browser()
	callback := b.begin("/")
	check := func(a answer, status int) {
		t.Helper()
		w.expect(a, status)
		for _, name := range []string{
			"X-Accel-Expires", "Expires", "Surrogate-Control", "Edge-Control", "Cdn-Cache-Control",
			"Examplecdn-Cache-Control",
		} {
			if a.Header[name] != nil {
				t.Errorf("%s: %q", name, a.Header[name])
			}
		}
		if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Vary") != "Cookie" ||
			a.Header.Get("X-Site") == "" {
			t.Errorf("%v", a.Header)
		}
	}
	check(stranger.get("/"), http.StatusFound)
	check(stranger.do("POST", "/"), http.StatusUnauthorized)
	check(stranger.get("/profile"), http.StatusUnauthorized)
	check(stranger.get("/oauth2/callback"), http.StatusBadRequest)
	check(b.get(callback), http.StatusSeeOther)
	check(b.get("/profile"), http.StatusOK)
	if a := b.get("/"); a.Header.Get("X-Accel-Expires") == "" { // a page is the site's
		t.Errorf("%v", a.Header)
	}
	w.clock.Add(20 * time.Minute)
	check(b.get("/"), http.StatusOK)
	check(b.get("/logout"), http.StatusOK)
}

// TestOutspokenSite: what a header directive says when the answer is written (it also
// deletes one, so Caddy defers it) goes for our own answers, too. Caches keep each
// visitor's apart all the same.
func TestOutspokenSite(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nprofile /profile", caddyfile: `
		header {
			Cache-Control "public, max-age=3600"
			-Server
		}
		%s
		reverse_proxy %app`})
	b := w.browser()
	b.login("/")
	for _, path := range []string{"/", "/profile", "/logout"} {
		a := b.get(path)
		w.expect(a, http.StatusOK)
		if a.Header.Get("Cache-Control") != "public, max-age=3600" || a.Header.Get("Vary") != "Cookie" {
			t.Errorf("%s: %v", path, a.Header)
		}
	}
}

// TestCookieOfTheSite: a cookie that a header directive in front sets is the site's own, and makes no answer
// no-store.
func TestCookieOfTheSite(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nidle 1h\n}", caddyfile: `
		header {
			Set-Cookie "theme=dark; Path=/"
			Cache-Control "public, max-age=60"
		}
		%s
		reverse_proxy %app`})
	b := w.browser()
	b.login("/")
	for _, want := range []string{"public, max-age=60", "no-store"} { // the later answer brings the session's, too
		a := b.get("/")
		w.expect(a, http.StatusOK)
		cookies := a.Header["Set-Cookie"]
		if a.Header.Get("Cache-Control") != want || cookies[0] != "theme=dark; Path=/" ||
			(len(cookies) > 1) != (want == "no-store") {
			t.Errorf("%v, want %s", a.Header, want)
		}
		w.clock.Add(20 * time.Minute)
	}
}

// TestPassIsPrivate: what nobody in particular was shown is not for somebody later.
func TestPassIsPrivate(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass"})
	a := w.browser().get("/")
	w.expect(a, http.StatusOK)
	if a.Header.Get("Cache-Control") != "private" || a.Header.Get("Vary") != "Cookie" {
		t.Errorf("%v", a.Header)
	}
}

// TestPrivateWriter: what is flushed is private before it is gone, and what comes
// before the answer is not the answer.
func TestPrivateWriter(t *testing.T) {
	flushed := httptest.NewRecorder()
	p := &privateWriter{ResponseWriter: flushed, passage: new(passage)}
	if err := http.NewResponseController(p).Flush(); err != nil ||
		flushed.Result().Header.Get("Cache-Control") != "private" {
		t.Errorf("flushed: %v %v", err, flushed.Result().Header)
	}
	hinted := httptest.NewRecorder()
	p = &privateWriter{ResponseWriter: hinted, passage: new(passage)}
	p.WriteHeader(http.StatusEarlyHints)
	p.Header().Add("Cache-Control", "public")
	p.WriteHeader(http.StatusOK)
	if got := p.Header()["Cache-Control"]; len(got) != 1 || got[0] != "public" {
		t.Errorf("after 103: %q", got)
	}
	pushing := &pusher{ResponseWriter: httptest.NewRecorder()}
	var w http.ResponseWriter = &privateWriter{ResponseWriter: pushing, passage: new(passage)}
	if _, ok := w.(io.ReaderFrom); ok {
		t.Error("it is an io.ReaderFrom: see why it is none")
	}
	if err := w.(http.Pusher).Push("/style.css", nil); err != nil || pushing.target != "/style.css" {
		t.Errorf("pushed %q: %v", pushing.target, err)
	}
}

type pusher struct {
	http.ResponseWriter
	target string
}

func (p *pusher) Push(target string, _ *http.PushOptions) error {
	p.target = target
	return nil
}

// TestTokenHeader: the token goes on where token_header says, and the client's own Authorization as it came.
func TestTokenHeader(t *testing.T) {
	for line, want := range map[string]string{
		"":                             "bearer ",
		"token_header authorization":   "bearer ",
		"token_header x-access-token":  "bare own",
		"token_header off":             "own",
		"token_header {env.TEST_NAME}": "own",
	} {
		t.Setenv("TEST_NAME", "off")
		w := newWorld(t, setup{block: line})
		b := w.browser()
		b.login("/")
		w.expect(b.do("GET", "/", "Authorization", "Basic b3duOmtleQ=="), http.StatusOK)
		header := w.requests()[0].Header
		got := ""
		if strings.HasPrefix(header.Get("X-Access-Token"), "ey") {
			got += "bare "
		}
		switch sent := header["Authorization"]; {
		case len(sent) == 1 && strings.HasPrefix(sent[0], "Bearer ey"):
			got += "bearer "
		case len(sent) == 1 && sent[0] == "Basic b3duOmtleQ==":
			got += "own"
		}
		if got != want {
			t.Errorf("%s: %s, want %s: %v", line, got, want, header)
		}
	}
}

// TestTokenOfTheLastBlock: of several blocks, the last one's token alone goes on, wherever each of them puts it. What
// the site puts in its place between them stays.
func TestTokenOfTheLastBlock(t *testing.T) {
	const x, y, off = "token_header X-Access-Token", "token_header X-Other-Token", "token_header off"
	for _, c := range []struct{ first, between, last, want string }{
		{"", "", "", "Authorization"},
		{"", "", x, "X-Access-Token"},
		{"", "", off, ""},
		{x, "", "", "Authorization"},
		{x, "", x, "Authorization: Basic own, X-Access-Token"},
		{x, "", y, "Authorization: Basic own, X-Other-Token"},
		{x, "", off, "Authorization: Basic own"},
		{"", `request_header Authorization "Basic site"`, x, "Authorization: Basic site, X-Access-Token"},
		{"", `request_header +Authorization "Basic site"`, x, "Authorization: Basic site, X-Access-Token"},
		{"", `request_header Authorization "Basic site"`, "", "Authorization"},
		{x, "request_header X-Access-Token site", "", "Authorization, X-Access-Token: site"},
		{x, "", "unauthenticated pass\nsession {\nname other\n}", ""}, // which lets nobody through
	} {
		w := newWorld(t, setup{sites: func(w *world) string {
			return w.site + " {\nroute {\n" + w.directive("", c.first) + "\n" + c.between + "\n" +
				w.directive("", c.last) + "\nreverse_proxy " + w.app + "\n}\n}"
		}})
		b := w.browser()
		b.login("/")
		w.requests()
		w.expect(b.do("GET", "/", "Authorization", "Basic own"), http.StatusOK)
		header := w.requests()[0].Header
		var got []string
		for _, name := range []string{"Authorization", "X-Access-Token", "X-Other-Token"} {
			for _, line := range header[name] {
				if !strings.HasPrefix(line, "ey") && !strings.HasPrefix(line, "Bearer ey") {
					name += ": " + line
				}
				got = append(got, name)
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%+v: the app gets %s", c, got)
		}
	}
}

// TestPublicKeepsAuthorization: a webhook's sender that the matcher, or another handle, lets through keeps its
// Authorization; so does one under `pass`, where the token goes on elsewhere.
func TestPublicKeepsAuthorization(t *testing.T) {
	const key = "Bearer the-sender's-key"
	w := newWorld(t, setup{sites: func(w *world) string {
		app := "\nreverse_proxy " + w.app + "\n"
		return w.site + " {\n@site not path /hooks/* /other/* /passed/*\n" + w.directive("@site", "") + "\n" +
			w.directive("/passed/*", "unauthenticated pass\ntoken_header off") + "\nhandle /other/* {" + app +
			"}\nhandle {" + app + "}\n}"
	}})
	for _, path := range []string{"/hooks/x", "/other/x", "/passed/x"} {
		w.expect(w.browser().do("POST", path, "Authorization", key), http.StatusOK)
		if got := w.requests()[0].Header["Authorization"]; len(got) != 1 || got[0] != key {
			t.Errorf("%s: %q", path, got)
		}
	}
	w.expect(w.browser().do("POST", "/", "Authorization", key), http.StatusUnauthorized)
}

// TestLateAnswerOfAnEndedSession: an answer that was long on its way does not put the cookie of its session, which has
// ended since, in the place of the one that the browser has by then.
func TestLateAnswerOfAnEndedSession(t *testing.T) {
	came, goOn := make(chan struct{}), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(came)
			<-goOn
		}
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, setup{block: "logout /logout\nsession {\nidle 20m\n}",
		caddyfile: "%s\nreverse_proxy " + strings.TrimPrefix(app.URL, "http://")})
	b := w.browser()
	b.login("/")
	w.clock.Add(6 * time.Minute) // so that the next answer seals the cookie anew
	late := make(chan answer)
	go func() { late <- b.do("GET", "/slow", "Sec-Fetch-Mode", "cors") }()
	<-came
	w.expect(b.get("/logout"), http.StatusOK)
	b.login("/")
	now := b.session()
	close(goOn)
	if a := <-late; len(a.Header["Set-Cookie"]) != 0 || b.session() != now {
		t.Errorf("the late answer sets %q", a.Header["Set-Cookie"])
	}
	w.expect(b.do("GET", "/x", "Sec-Fetch-Mode", "cors"), http.StatusOK)
}
