package aventusauth

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// browser is a client with a cookie jar of its own that follows no redirect.
type browser struct {
	w      *world
	client *http.Client
	met    sync.Map // by host, after how many loads of a config it was last asked
}

func (w *world) browser() *browser {
	jar, _ := cookiejar.New(nil)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a CA made for this test
		ForceAttemptHTTP2: true,
		DisableKeepAlives: true, // a reload closes idle connections at any moment
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &browser{w: w, client: &http.Client{
		Jar:           jar,
		Transport:     transport,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is a response whose body has been read.
type answer struct {
	*http.Response
	body string
}

func (a answer) location() string { return a.Header.Get("Location") }

// cookie returns the Set-Cookie of that name, or nil.
func (a answer) cookie(name string) *http.Cookie {
	for _, c := range a.Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// do sends a request; the target is a path on the site or a whole URL, and headers
// are names and values in turn.
func (b *browser) do(method, target string, headers ...string) answer {
	b.w.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = b.w.site + target
	}
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		} else {
			req.Header.Add(headers[i], headers[i+1])
		}
	}
	met, _ := b.met.LoadOrStore(req.URL.Host, new(atomic.Int64)) // each host has connections of its own
	isFirst := b.w.isFirst(met.(*atomic.Int64))
	resp, err := b.client.Do(req)
	// A server that stops closes its socket in the background: under load, also connections that came to it later.
	isReset := (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)) && b.w.loads.Load() > 1
	var op *net.OpError
	isUnsent := isReset && errors.As(err, &op) && op.Op == "dial"
	if err != nil && (isFirst || isReset) && method == "GET" || isUnsent {
		poll(time.Second, func() bool {
			resp, err = b.client.Do(req)
			return err == nil
		})
	}
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	a := answer{resp, string(body)}
	b.w.hear(a)
	return a
}

// get visits a page, as a browser does.
func (b *browser) get(target string) answer {
	b.w.t.Helper()
	return b.do("GET", target, "Sec-Fetch-Mode", "navigate", "Accept", "text/html,*/*;q=0.8")
}

// begin visits a page that needs a login, and returns the callback URL that the
// authorization server sends the browser to.
func (b *browser) begin(path string) string {
	b.w.t.Helper()
	a := b.get(path)
	b.w.expect(a, http.StatusFound)
	a = b.get(a.location())
	b.w.expect(a, http.StatusFound)
	if !strings.HasPrefix(a.location(), b.w.site+"/oauth2/callback?") {
		b.w.t.Fatalf("the authorization server sends to %s", a.location())
	}
	return a.location()
}

// begin2 begins a login in a browser that has a session, by forgetting it.
func (b *browser) begin2(path string) string {
	u, _ := url.Parse(b.w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
	return b.begin(path)
}

// login logs in by visiting a page, and returns the answer of the callback.
func (b *browser) login(path string) answer {
	b.w.t.Helper()
	a := b.get(b.begin(path))
	b.w.expect(a, http.StatusSeeOther)
	return a
}

// loginAgain logs in by a login that starts over once: the sessions of the user have ended within the last minutes,
// and by another clock it may have begun before that.
func (b *browser) loginAgain(path string) {
	b.w.t.Helper()
	a := b.get(b.begin(path))
	b.w.expect(a, http.StatusFound)
	b.w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
}

// loginAs logs somebody in who is not the one who is always signed in.
func (b *browser) loginAs(path, sub string) {
	b.w.t.Helper()
	begun := b.get(path)
	b.w.expect(begun, http.StatusFound)
	b.w.expect(b.get(b.w.site+b.w.callback(begun, sub).target), http.StatusSeeOther)
}

// cookies returns what the browser would send to the site.
func (b *browser) cookies() []*http.Cookie {
	u, _ := url.Parse(b.w.site)
	return b.client.Jar.Cookies(u)
}

// cookieHeader returns what a browser that has logged in sends.
func (b *browser) cookieHeader() string {
	var pairs []string
	for _, c := range b.cookies() {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}

// session returns the value of the browser's session cookie.
func (b *browser) session() string {
	for _, c := range b.cookies() {
		if strings.HasSuffix(c.Name, "aventus_session") {
			return c.Value
		}
	}
	b.w.t.Fatal("there is no session")
	return ""
}

// with returns the URL with a query parameter set, or with an empty value removed.
func with(target, name, value string) string {
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	q := u.Query()
	q.Set(name, value)
	if value == "" {
		q.Del(name)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func query(target, name string) string {
	u, _ := url.Parse(target)
	return u.Query().Get(name)
}

// flip changes one character in the middle.
func flip(s string) string {
	i, c := len(s)/2, byte('A')
	if s[i] == c {
		c = 'B'
	}
	return s[:i] + string(c) + s[i+1:]
}
