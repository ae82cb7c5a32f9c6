package aventusauth

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// bare is a handler with no Caddy around it: a fuzzer wants thousands of requests a
// second, and Caddy's sockets and logs are not what it looks at.
type bare struct {
	*Handler
	storage *mapStorage
	clock   *testClock
	passed  bool // the last request went on to the next handler
}

const bareSite = "https://example.com"

// newBare returns a handler of the given config, with what is required and a key of
// its own added to it. The issuer is on another origin than the site.
func newBare(f *testing.F, h Handler) *bare {
	f.Helper()
	h.ClientID, h.ClientSecret = "the-client", testSecret
	if h.RedirectURI == "" {
		h.RedirectURI = bareSite + "/oauth2/callback"
	}
	h.Session.Keys = []string{strings.Repeat("A", 43)}
	b := &bare{Handler: &h, storage: new(mapStorage), clock: new(testClock)}
	b.clock.now.Store(1_800_000_001)
	clock = b.clock.Now
	defer func() { clock = time.Now }()
	if err := h.setUp(b.storage); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := h.Cleanup(); err != nil {
			f.Error(err)
		}
	})
	h.peers, h.logger = &peers{handlers: []*Handler{&h}}, zap.NewNop()
	return b
}

// serve sends a request, as bytes on a connection, and returns the answer as the
// bytes that net/http would write are read. It reports false for what net/http
// answers by itself.
func (b *bare) serve(t *testing.T, method, target, host string, headers ...string) (answer, bool) {
	t.Helper()
	var lines strings.Builder
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(&lines, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if strings.ContainsAny(target+host, "\r\n") || !httpguts.ValidHostHeader(host) {
		return answer{}, false
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + lines.String() + "\r\n")))
	if err != nil {
		return answer{}, false
	}
	b.passed = false
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		b.passed = true
		return nil
	})
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	status := http.StatusOK
	if err := b.ServeHTTP(w, r, next); err != nil {
		var handlerErr caddyhttp.HandlerError
		if !errors.As(err, &handlerErr) {
			t.Fatalf("an error that Caddy answers with 500: %v", err)
		}
		status = handlerErr.StatusCode
	} else {
		status = w.Code
	}
	var wire bytes.Buffer
	fmt.Fprintf(&wire, "HTTP/1.1 %d x\r\n", status)
	_ = w.Header().Write(&wire)
	wire.WriteString("\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(&wire), r)
	if err != nil {
		t.Fatalf("no client can read the answer: %v", err)
	}
	resp.Body.Close()
	return answer{resp, w.Body.String()}, true
}

// signIn returns the Cookie header of a new session.
func (b *bare) signIn(t *testing.T, at site) string {
	t.Helper()
	w := httptest.NewRecorder()
	token := aventus.Token{AccessToken: "opaque", ExpiresIn: time.Hour}
	if err := b.saveSession(w, t.Context(), at, b.newSession(token, nil)); err != nil {
		t.Fatal(err)
	}
	pair, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return pair
}

// forget forgets what was stored and used.
func (b *bare) forget() {
	b.storage.clear()
	b.memory.claims = records.NewClaims("aventus_auth/spent", loginLifetime, b.now)
}

// mapStorage is a storage in memory.
type mapStorage struct {
	mu    sync.Mutex
	files map[string][]byte
	locks sync.Map // of the names, each a mutex
}

func (s *mapStorage) Lock(_ context.Context, name string) error {
	mu, _ := s.locks.LoadOrStore(name, new(sync.Mutex))
	mu.(*sync.Mutex).Lock()
	return nil
}

func (s *mapStorage) Unlock(_ context.Context, name string) error {
	mu, _ := s.locks.Load(name)
	mu.(*sync.Mutex).Unlock()
	return nil
}

func (s *mapStorage) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = make(map[string][]byte)
	}
	s.files[key] = value
	return nil
}

func (s *mapStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.files[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return value, nil
}

func (s *mapStorage) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, key)
	return nil
}

func (s *mapStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Load(ctx, key)
	return err == nil
}

// List knows no folders: those who ask for them here only tidy up.
func (s *mapStorage) List(_ context.Context, prefix string, recursive bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.files {
		if strings.HasPrefix(key, prefix+"/") && (recursive || path.Dir(key) == prefix) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (s *mapStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, err := s.Load(ctx, key)
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, err
}

// clear forgets everything.
func (s *mapStorage) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.files)
	s.locks.Clear()
}

// FuzzSession looks for a cookie that opens as half a session, or as another one than
// was sealed in it, or where it was not sealed for. What is sealed is the input, so
// that the fuzzer is not stopped by the seal.
func FuzzSession(f *testing.F) {
	b := newBare(f, Handler{})
	at := *b.cfg.fixedSite
	elsewhere := b.cfg.site("https://example.org/oauth2/callback")
	for _, token := range []string{"opaque", "YQ.YQ.YQ", "YQ.YR.YQ", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA"} {
		for _, refresh := range []string{"", "a-refresh-token"} {
			s := b.newSession(aventus.Token{AccessToken: token, RefreshToken: refresh, Scope: "openid", ExpiresIn: time.Hour}, []byte(`{"name":"Ada"}`))
			plaintext, err := s.marshal()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(plaintext)
			f.Add(plaintext[:len(plaintext)-1])
			f.Add(append(plaintext, 0))
			s.spending = true
			plaintext, _ = s.marshal()
			f.Add(plaintext)
			plaintext, _ = newHandle(s).marshal()
			f.Add(plaintext)
		}
	}
	f.Fuzz(func(t *testing.T, plaintext []byte) {
		// Nothing of what cannot be read whole comes out.
		s, isSession := parseSession(plaintext)
		d, isHandle := parseHandle(plaintext)
		l, isLogin := parseLogin(plaintext, b.now())
		if isSession != (s != nil) || isHandle != (d != nil) || isLogin != (l != nil) {
			t.Fatalf("half of something came out: %+v %+v %+v", s, d, l)
		}
		if isSession && isHandle {
			t.Fatal("it is both a session and a handle")
		}
		if isHandle {
			if again, err := d.marshal(); err != nil || !bytes.Equal(again, plaintext) {
				t.Fatalf("the handle became %x, %v", again, err)
			}
		}
		if isLogin {
			if again, err := l.marshal(); err != nil || !bytes.Equal(again, plaintext) {
				t.Fatalf("the login became %x, %v", again, err)
			}
		}
		if isSession {
			again, err := s.marshal()
			if err != nil {
				t.Fatal(err)
			}
			// The one thing with two spellings is a JWT, of which marshal writes one.
			if !bytes.Equal(again, plaintext) && jwtParts(s.token()) == nil {
				t.Fatalf("the session became %x", again)
			}
		}

		value, err := b.sessions.Seal(t.Context(), plaintext, at.associated)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := b.openSession(t.Context(), at, value)
		if err != nil || (opened != nil) != isSession {
			t.Fatalf("opened %+v, %v", opened, err)
		}
		if other, err := b.openSession(t.Context(), elsewhere, value); other != nil || err != nil {
			t.Fatalf("at another site: %+v, %v", other, err)
		}
		if opened == nil {
			return
		}
		same(t, opened, s)

		// In its cookie or in the storage, it comes back as it is.
		for _, handle := range []*handle{nil, newHandle(s)} {
			opened.handle = handle
			if handle != nil {
				// What has ended is not looked for, and the list of sessions cannot say
				// all years.
				if !hasDate(opened.created) || !hasDate(opened.expires) {
					continue
				}
				handle.expires = b.now().Add(time.Hour)
				if err := b.storeSession(t.Context(), at, opened); err != nil {
					t.Fatal(err)
				}
			}
			w := httptest.NewRecorder()
			if err := b.sealSession(w, t.Context(), at, opened); err != nil {
				t.Fatal(err)
			}
			pair, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
			_, value, _ := strings.Cut(pair, "=")
			again, err := b.openSession(t.Context(), at, value)
			if err != nil || again == nil {
				t.Fatalf("sealed again, it opens as %+v, %v", again, err)
			}
			same(t, again, s)
		}
		b.forget()
	})
}

// hasDate reports whether a time can stand in JSON.
func hasDate(t time.Time) bool {
	_, err := t.UTC().MarshalJSON()
	return err == nil
}

// same compares all that is kept of a session.
func same(t *testing.T, got, want *session) {
	t.Helper()
	if got.id != want.id || got.bearer != want.bearer || got.refresh != want.refresh || got.scope != want.scope ||
		got.spending != want.spending || !bytes.Equal(got.idToken, want.idToken) || got.isBearer != want.isBearer {
		t.Fatalf("it became %+v, from %+v", got, want)
	}
	for i, pair := range [][2]time.Time{{got.created, want.created}, {got.expires, want.expires}, {got.tokenCame, want.tokenCame}, {got.tokenEnds, want.tokenEnds}} {
		if !pair[0].Equal(pair[1]) {
			t.Fatalf("its time %d became %v, from %v", i, pair[0], pair[1])
		}
	}
}

// landsAt returns the origin that a browser is at after a Location.
func landsAt(t *testing.T, from, location string) string {
	t.Helper()
	origin, err := leadsTo(from, location)
	if err != nil {
		t.Fatal(err)
	}
	return origin
}

// FuzzReturnURL looks for a request after which the visitor is led away, or to
// another page than the one asked for.
func FuzzReturnURL(f *testing.F) {
	fixed := newBare(f, Handler{})
	anyHost := newBare(f, Handler{RedirectURI: "https://" + hostPlaceholder + "/oauth2/callback"})
	for _, target := range []string{
		"/", "/?", "/a%2Fb/c%20d?x=%2F&y=+", "//evil.test/x", "///evil.test", `/\evil.test`, `\\evil.test`, "/\t/evil.test",
		"http://evil.test/x", "http://evil.test//evil2.test", "https:evil.test", "/{env.HOME}?{http.request.host}", "/x#y?a#b",
		"/@evil.test", "/..//evil.test", "/%2e%2e//evil.test", "/./\\evil.test", "/x?\xff", "/:80", "*", "example.com:443",
		"/p?q=" + strings.Repeat("x", 2000), "/" + strings.Repeat("x", 2000), "/%0d%0aSet-Cookie:x=y", "javascript:alert(1)", "/oauth2/callback",
	} {
		for _, host := range []string{"example.com", "EXAMPLE.com:8443", "[::1]:443", "evil.test@example.com", "a'b", "%65xample.com", "192.168.0.1."} {
			f.Add(target, host)
		}
	}
	f.Fuzz(func(t *testing.T, target, host string) {
		for _, b := range []*bare{fixed, anyHost} {
			a, ok := b.serve(t, "GET", target, host, "Sec-Fetch-Mode", "navigate")
			if !ok {
				return
			}
			if b.passed {
				t.Fatal("nobody got through")
			}
			if a.StatusCode != http.StatusFound {
				if a.StatusCode < 400 || a.Header["Location"] != nil || a.Header["Set-Cookie"] != nil {
					t.Fatalf("status %d, %v", a.StatusCode, a.Header)
				}
				continue
			}
			at, err := b.site(a.Request)
			if err != nil {
				t.Fatal(err)
			}
			if got := landsAt(t, bareSite, a.location()); got != "https://auth.homelyfe.com" {
				t.Fatalf("%s leads to %s", a.location(), got)
			}
			to, err := url.Parse(a.location())
			if err != nil {
				t.Fatal(err)
			}
			params, err := url.ParseQuery(to.RawQuery)
			if err != nil || len(params) != 6 {
				t.Fatalf("%s: %d parameters, %v", a.location(), len(params), err)
			}
			for name, values := range params {
				if len(values) != 1 {
					t.Fatalf("%s is there %d times", name, len(values))
				}
			}
			if got := params.Get("redirect_uri"); got != at.origin+"/oauth2/callback" {
				t.Fatalf("redirect_uri %s", got)
			}

			// Back from there, in a browser that another tab has signed in meanwhile:
			// that ends as any login does, and spends no code.
			here := a.Request.Host
			if b.cfg.fixedSite != nil {
				here = "example.com" // it may be called anything, by the absolute form
			}
			back, ok := b.serve(t, "GET", "/oauth2/callback?code=x&state="+params.Get("state"), here, "Cookie", b.signIn(t, at))
			if !ok || back.StatusCode != http.StatusSeeOther {
				t.Fatalf("the callback: %t, %+v", ok, back.Response)
			}
			if b.cfg.fixedSite != nil {
				if got := landsAt(t, bareSite, back.location()); got != bareSite {
					t.Fatalf("%s leads to %s", back.location(), got)
				}
			} else if from, err := url.Parse("https://" + here); err == nil { // or no browser is there
				// Where the config has no port, the site is at the usual one.
				want := strings.ToLower(strings.TrimSuffix(from.Host, ":"+from.Port()))
				if got := landsAt(t, from.String(), back.location()); got != "https://"+want {
					t.Fatalf("%s leads to %s, from %s", back.location(), got, from)
				}
			}

			// It is the page that was asked for.
			got, ok := strings.CutPrefix(back.location(), at.origin)
			if !ok {
				t.Fatalf("%s is not at %s", back.location(), at.origin)
			}
			again, err := http.NewRequest("GET", at.origin+got, nil)
			if err != nil {
				t.Fatal(err)
			}
			asked := a.Request.URL
			wantPath, wantQuery := asked.Path, decoded(asked.RawQuery)
			if !strings.HasPrefix(asked.EscapedPath(), "/") { // it names no page
				wantPath, wantQuery = "/", ""
			}
			if again.URL.Path == wantPath && decoded(again.URL.RawQuery) == wantQuery {
				continue
			}
			// Too long for the state: then without its query, or the front page.
			if len(asked.EscapedPath())+len(asked.RawQuery) < 300 {
				t.Fatalf("asked for %q, and went to %q", target, back.location())
			}
			if again.URL.RawQuery != "" || again.URL.Path != wantPath && again.URL.Path != "/" {
				t.Fatalf("asked for %q, and went to %q", target, back.location())
			}
		}
	})
}

// decoded returns s with what is percent-encoded in it decoded, and what is not, but
// looks like it, left as it is.
func decoded(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(c))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// callbackPairs reads a callback's query as simply as can be. It reports false for
// what is not well-formed, or is there twice: it means one thing here, and another
// to whoever reads it next.
func callbackPairs(query string) (map[string]string, bool) {
	pairs := make(map[string]string)
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		for _, text := range []string{name, value} {
			for i, rest := range strings.Split(text, "%") {
				if _, err := strconv.ParseUint(rest[:min(2, len(rest))], 16, 8); i > 0 && (err != nil || len(rest) < 2) {
					return nil, false
				}
			}
		}
		name, value = decoded(strings.ReplaceAll(name, "+", " ")), decoded(strings.ReplaceAll(value, "+", " "))
		if _, twice := pairs[name]; twice || strings.Contains(pair, ";") {
			return nil, false
		}
		pairs[name] = value
	}
	return pairs, true
}

// FuzzCallback looks for a callback that is answered otherwise than the table in the
// README says, or that sends something to the token endpoint which was not to be
// sent. In the query, STATE stands for the state of a login that has just begun,
// STALE for an old one's, OTHER for one of another client, and SESSION for a cookie.
func FuzzCallback(f *testing.F) {
	const (
		sameBrowser = 1 << iota // the login began in it
		signedIn                // in another tab, say
		restarted               // the login was started again before
		byPost
		byHead
	)
	var mu sync.Mutex
	var asked []url.Values
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		mu.Lock()
		asked = append(asked, r.PostForm)
		mu.Unlock()
		_, _ = io.WriteString(w, `{"access_token":"opaque","token_type":"Bearer"}`)
	}))
	f.Cleanup(tokens.Close)
	b := newBare(f, Handler{TokenURL: tokens.URL + "/token", TokenRequest: "form"})
	other := newBare(f, Handler{Audience: "https://other.example.com/"})
	at := *b.cfg.fixedSite

	for _, query := range []string{
		"code=x&state=STATE", "state=STATE&code=%78+%2B&unknown=1", "error=access_denied&error_description=no&state=STATE",
		"error=temporarily_unavailable&state=STATE", "error=x&code=x&state=STATE", "state=STATE", "code=&state=STATE", "code=x&state=STALE",
		"error=x&state=STALE", "code=x&state=OTHER", "code=x&state=SESSION", "code=x&state=STATE&state=STATE", "code=x&code=y&state=STATE",
		"code=x&state=STATEx", "code=x&state=xSTATE", "code=x;state=STATE", "code=x&state=STATE&iss=https://evil.test/",
		"code=x&state=STATE&iss=https%3A%2F%2Fauth.homelyfe.com", "code=x&state=STATE&%zz", "code=x&state=STATE%00", "co%64e=x&st%61te=STATE&code=y",
		"", "&&", "code=x&state=", "code=x", "error=&state=STATE", "code&state=STATE", "code=x&state=STATE&=1&=2", "code=x&state=STATE%0A", "Code=x&state=STATE&code=y",
	} {
		for _, how := range []uint8{sameBrowser, 0, signedIn, sameBrowser | signedIn, restarted, byPost | sameBrowser, byHead | sameBrowser} {
			f.Add(query, how)
		}
	}
	begin := func(t *testing.T, b *bare, restarts uint8, cookie string) (state, challenge, binding string) {
		r := caddyhttp.PrepareRequest(httptest.NewRequest("GET", bareSite+"/page?x", nil), caddy.NewReplacer(), nil, new(caddyhttp.Server))
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		if err := b.startLogin(w, r, "/page?x", restarts, http.StatusFound); err != nil {
			t.Fatal(err)
		}
		binding, _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
		return query(w.Header().Get("Location"), "state"), query(w.Header().Get("Location"), "code_challenge"), binding
	}

	f.Fuzz(func(t *testing.T, template string, how uint8) {
		defer b.forget()
		restarts := uint8(0)
		if how&restarted != 0 {
			restarts = 1
		}
		state, challenge, binding := begin(t, b, restarts, "")
		stale, another := "", ""
		if strings.Contains(template, "STALE") {
			b.clock.Add(-loginLifetime - time.Second)
			stale, _, _ = begin(t, b, restarts, binding)
			b.clock.Add(loginLifetime + time.Second)
		}
		if strings.Contains(template, "OTHER") {
			another, _, _ = begin(t, other, restarts, binding)
		}
		session := b.signIn(t, at)
		_, cookie, _ := strings.Cut(session, "=")

		method := "GET"
		switch {
		case how&byPost != 0:
			method = "POST"
		case how&byHead != 0:
			method = "HEAD"
		}
		var cookies []string
		if how&sameBrowser != 0 {
			cookies = append(cookies, binding)
		}
		if how&signedIn != 0 {
			cookies = append(cookies, session)
		}
		sent := strings.NewReplacer("STATE", state, "STALE", stale, "OTHER", another, "SESSION", cookie).Replace(template)

		// What the answer has to be, and the code that is to be sent.
		params, ok := callbackPairs(sent)
		old := stale != "" && params["state"] == stale
		genuine := ok && (params["state"] == state || old)
		code, hasCode := params["code"]
		refused, hasError := params["error"]
		iss, hasIss := params["iss"]
		want, sends := http.StatusBadRequest, ""
		switch {
		case method != "GET":
			want = http.StatusMethodNotAllowed
		case !genuine, hasCode == hasError, code == "" && refused == "":
		case hasIss && iss != "https://auth.homelyfe.com" && iss != "https://auth.homelyfe.com/":
		case (old || how&sameBrowser == 0) && how&signedIn != 0:
			want = http.StatusSeeOther
		case (old || how&sameBrowser == 0) && restarts == 0:
			want = http.StatusFound
		case old || how&sameBrowser == 0:
		case refused == "access_denied":
			want = http.StatusForbidden
		case refused == "temporarily_unavailable":
			want = http.StatusServiceUnavailable
		case refused != "":
			want = http.StatusBadGateway
		default:
			want, sends = http.StatusSeeOther, code
		}

		for again := range 2 {
			mu.Lock()
			asked = nil
			mu.Unlock()
			a, ok := b.serve(t, method, "/oauth2/callback?"+sent, "example.com", "Cookie", strings.Join(cookies, "; "), "Sec-Fetch-Mode", "navigate")
			if !ok {
				return // net/http's 400
			}
			if again > 0 && sends != "" {
				sends = "" // it was sent
				if how&signedIn == 0 {
					want = http.StatusFound
				}
			}
			if a.StatusCode != want || b.passed {
				t.Fatalf("status %d, want %d; passed on: %t", a.StatusCode, want, b.passed)
			}
			switch {
			case want == http.StatusFound:
				if got := landsAt(t, bareSite, a.location()); got != "https://auth.homelyfe.com" {
					t.Fatalf("%s leads to %s", a.location(), got)
				}
			case want == http.StatusSeeOther:
				if a.location() != bareSite+"/page?x" {
					t.Fatalf("back to %s", a.location())
				}
			case a.Header["Location"] != nil || a.Header["Set-Cookie"] != nil:
				t.Fatalf("status %d, %v", a.StatusCode, a.Header)
			}
			if got := a.cookie("__Host-aventus_session"); (got != nil) != (sends != "") {
				t.Fatalf("Set-Cookie %q", a.Header["Set-Cookie"])
			}
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Fatalf("Cache-Control %q", got)
			}

			mu.Lock()
			got := asked
			mu.Unlock()
			if sends == "" {
				if len(got) != 0 {
					t.Fatalf("the token endpoint was sent %v", got)
				}
				continue
			}
			sum := sha256.Sum256([]byte(got[0].Get("code_verifier")))
			wantSent := url.Values{
				"grant_type": {"authorization_code"}, "client_id": {"the-client"}, "client_secret": {testSecret},
				"redirect_uri": {bareSite + "/oauth2/callback"}, "code": {sends}, "code_verifier": got[0]["code_verifier"],
			}
			if len(got) != 1 || got[0].Encode() != wantSent.Encode() || base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
				t.Fatalf("the token endpoint was sent %v", got)
			}
		}
	})
}

// FuzzCaddyfile looks for a directive that makes the parser panic, that is adapted to
// one thing now and to another the next time, or that loads though it should not.
func FuzzCaddyfile(f *testing.F) {
	const good = "{\n\tclient_id abc\n\tclient_secret s\n\tredirect_uri https://example.com/cb\n"
	for _, more := range []string{
		// What loads,
		"", "scope openid profile\nscope profile email", "audience https://api.example.com/\nverify_token https://login.example.com/keys\naccept_bearer",
		"session {\nstore storage\nname app\nlifetime 7d\nidle 2h\nrenew_before 10m\nkey " + strings.Repeat("A", 43) + " {env.OLD}\n}",
		"logout_provider\nlogout /logout https://www.example.com/bye\nprofile /me", "authorize_param prompt login\nauthorize_param a \"b c\"",
		"require_scope a b\nrequire_claim role admin editor\nrequire_claim org.id 42", "issuer http://localhost:1\ntoken_request form\ntoken_auth basic",
		"authorize_url https://a.test/?x=y\ntoken_url {env.URL}\nunauthenticated redirect", "scope `a`\nscope <<X\nb\nX", "logout /bye /#/signed-out",
		// and what does not.
		"session {\n}", "logout /cb", "issuer {\n}", "logout /bye /\\evil.test", "session {\nname __Host-x\n}", "profile /me {\n}", "authorize_param prompt",
		"authorize_param state x", "scope", "logout bye", "logout /bye //evil.test", "logout /bye http://a.test", "logout", "profile me", "profile /x\nlogout /x",
		"issuer http://a.test", "token_url http://a.test/", "authorize_url https://a.test/?state=1", "verify_token", "session {\nkey AAAA\n}", "session {\nlifetime -1s\n}",
		"session {\nname aventus_login\n}", "session {\nidle\n}", "require_claim a", "accept_bearer yes", "audience x {\ny\n}",
	} {
		f.Add(good + more + "\n}")
		f.Add("/private/* " + good + more + "\n}")
	}
	f.Add(strings.Replace(good, "https://example.com/cb", "https://{host}/cb", 1) + "}")
	f.Add(strings.Replace(good, "https://example.com/cb", "{$HOME}", 1) + "}")
	f.Add(strings.Replace(good, "https://example.com/cb", "http://localhost/cb", 1) + "session {\nname __Host-x\n}\n}")
	f.Add(strings.Replace(good, "https://example.com/cb", "http://example.com/cb", 1) + "}")
	for _, whole := range []string{"", "{", "{\n}", "x {\n}", "@m {\n}", "{\nclient_id\n}", good + "}\nrespond hello\n}\nexample.org {\n", "{\nclient_id \"\x00\"\n}"} {
		f.Add(whole)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "import") || strings.Contains(text, "{file") {
			return // files of this machine
		}
		whole := "example.com {\n\taventus_auth " + text + "\n}\n"
		first, firstErr := adapt(whole)
		second, secondErr := adapt(whole)
		// (Of several things that are wrong, Caddy names any.)
		if (firstErr == nil) != (secondErr == nil) || firstErr == nil && !bytes.Equal(first, second) {
			t.Fatalf("first\n%s %v\nthen\n%s %v", first, firstErr, second, secondErr)
		}

		// The directive alone, without what Caddy makes of the rest.
		tokens, err := caddyfile.Tokenize([]byte("aventus_auth "+text), "Caddyfile")
		if err != nil {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") {
				t.Fatalf("the error names no line: %v", err)
			}
			return
		}
		config, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		again := new(Handler)
		dec := json.NewDecoder(bytes.NewReader(config))
		dec.DisallowUnknownFields()
		if err := dec.Decode(again); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		if config2, err := json.Marshal(again); err != nil || !bytes.Equal(config, config2) {
			t.Fatalf("%s became %s, %v", config, config2, err)
		}
		s, err := again.settings()
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("an error of several lines: %v", err)
			}
			return
		}
		// What starts is safe to run.
		for name, raw := range map[string]string{
			"issuer": s.issuer, "authorize_url": s.AuthorizeURL, "token_url": s.TokenURL, "jwks_url": s.jwksURL,
			"redirect_uri": strings.Replace(s.redirectURI, hostPlaceholder, "example.com", 1),
		} {
			u, err := url.Parse(raw)
			if err != nil || u.Scheme != "https" && !isLocal(u) || u.User != nil || u.Fragment != "" {
				t.Fatalf("%s is %q: %v", name, raw, err)
			}
			if name == "redirect_uri" && (s.secure != (u.Scheme == "https") || u.Path != s.callbackPath) {
				t.Fatalf("redirect_uri is %q, with the path %q", raw, s.callbackPath)
			}
		}
		paths := []string{s.callbackPath}
		for _, p := range []string{s.logoutPath, s.profilePath} {
			if p == "" {
				continue
			}
			if p[0] != '/' || p == "/" || slices.Contains(paths, p) {
				t.Fatalf("the path %q, after %q", p, paths)
			}
			paths = append(paths, p)
		}
		if s.logoutURL != "" {
			u, err := url.Parse(s.logoutURL)
			to, err2 := leadsTo(bareSite+"/logout", s.logoutURL)
			if err != nil || err2 != nil || !strings.HasPrefix(to, "https:") && !isLocal(u) || strings.HasPrefix(s.logoutURL, "/") && to != bareSite {
				t.Fatalf("the return url is %q: %v, %v", s.logoutURL, err, err2)
			}
		}
		for _, key := range s.keys {
			if len(key) < keyring.SecretSize {
				t.Fatalf("a key of %d bytes", len(key))
			}
		}
		for name := range s.Params {
			if slices.Contains(aventus.ReservedParams, name) {
				t.Fatalf("authorize_param %s", name)
			}
		}
		if s.lifetime < time.Second || s.idle < 0 || s.renewBefore < time.Second || s.ClientID == "" || s.ClientSecret == "" || s.verify && s.Audience == "" ||
			!httpguts.ValidHeaderFieldName(s.cookieName) || strings.HasPrefix(s.cookieName, hostPrefix) != s.secure || s.cookieName == s.bindingName {
			t.Fatalf("%+v", s)
		}
	})
}

// isLocal reports whether a URL is of this machine, to a browser.
func isLocal(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	return u.Scheme == "http" && (host == "localhost" || strings.HasSuffix(host, ".localhost") || strings.HasPrefix(host, "127.") || host == "::1")
}
