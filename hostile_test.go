package aventusauth

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// What the authorization server may do to us is all here: it is another's machine,
// it may be broken, and it may have been taken over. Whatever it answers, the
// visitor gets a plain error or a session, the operator one clean line that says
// why, and the server keeps nothing of it.

// hostility is one way to answer a request badly, and what comes of it.
type hostility struct {
	name  string
	fault aventustest.Fault
	want  failure // of the login; without a code, it works
	why   string  // what the log says,
	do    string  // and a word of what it says to do about it
	// spent: the answer leaves open what has become of a refresh token, so it is not
	// sent again.
	spent bool
	lives time.Duration // the session, where the login works
}

// elsewhere is another host, which notes who comes, and gives a good answer to those
// who follow a redirect to it.
type elsewhere struct {
	*httptest.Server
	visits atomic.Int64
}

func newElsewhere(t *testing.T, answer aventustest.Fault) *elsewhere {
	e := new(elsewhere)
	e.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		e.visits.Add(1)
		answer(rw, r)
	}))
	t.Cleanup(e.Close)
	// By this name it is another host to the one that sends here.
	e.URL = strings.Replace(e.URL, "127.0.0.1", "localhost", 1)
	return e
}

func (e *elsewhere) expectNobody(t *testing.T) {
	t.Helper()
	if n := e.visits.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect to another host", n)
	}
}

// hostilities returns what is tried at the token endpoint.
func hostilities(redirectTo string, written *atomic.Int64) []hostility {
	const (
		answered = "the token endpoint answered 200: "
		answer   = answered + "the token answer "
		html     = "<html><script>alert(1)</script>" + aventustest.HostileToken
		good     = `{"access_token":"` + aventustest.HostileToken + `","token_type":"Bearer","expires_in":86400}`
		asForm   = "access_token=" + aventustest.HostileToken + "&token_type=Bearer&expires_in=86400"
	)
	says, grants := aventustest.Says, aventustest.Grants
	// bad is an answer of success that is none.
	bad := func(name string, fault aventustest.Fault, why string) hostility {
		return hostility{name: name, fault: fault, want: errToken, why: why, do: "this may not be a token endpoint", spent: true}
	}
	lives := func(name string, fault aventustest.Fault, lives time.Duration) hostility {
		return hostility{name: name, fault: fault, lives: lives}
	}
	twice := func(name, fields string) hostility {
		body := strings.Replace(good, "{", "{"+fields+",", 1)
		return bad(name+" twice", says(200, body), answer+"has a name twice")
	}
	all := []hostility{
		{name: "500 without a body", fault: says(500, ""), want: errToken, why: "the token endpoint answered 500", do: "status"},
		{name: "502 with a page", fault: says(502, html, "Content-Type", "text/html"), want: errToken, why: "the token endpoint answered 502", do: "status"},
		{name: "503", fault: says(503, html), want: errServerBusy, why: "the token endpoint answered 503", do: "down for now"},
		{name: "429", fault: says(429, ""), want: errServerBusy, why: "the token endpoint answered 429", do: "quota"},
		{name: "429 with Retry-After", fault: says(429, "{}", "Retry-After", "86400"), want: errServerBusy, why: "the token endpoint answered 429", do: "quota"},
		{name: "an echo in colours", fault: aventustest.Echoes, want: errToken, why: "the token endpoint answered 400 invalid_request???[2J: ?[31m?31m?? You sent {"},
		{
			name: "an echo that is no HTTP", fault: aventustest.Garbles, want: errToken, spent: true,
			why: "the token endpoint: no answer came to the request: net/http: HTTP/1.x transport connection broken: malformed MIME header", do: "can reach",
		},

		bad("HTML with 200", says(200, html, "Content-Type", "text/html"), answer+"is not a JSON object"),
		bad("HTML that calls itself JSON", says(200, html, "Content-Type", "application/json"), answer+"is not a JSON object"),
		bad("nothing", says(200, ""), answer+"is not a JSON object"),
		bad("truncated JSON", says(200, good[:len(good)-1]), answer+"is not valid JSON"),
		{name: "an answer that breaks off", fault: says(200, good, "Content-Length", "1000"), want: errToken, why: "the token endpoint: no answer came to the request: reading the answer: unexpected EOF", do: "can reach", spent: true},
		bad("[]", says(200, "[]"), answer+"is not a JSON object"),
		bad("null", says(200, "null"), answer+"is not a JSON object"),
		bad("a form", says(200, asForm, "Content-Type", "application/x-www-form-urlencoded"), answer+"is not a JSON object"),
		bad("a form as text", says(200, asForm, "Content-Type", "text/plain"), answer+"is not a JSON object"),
		bad("10 GB", aventustest.Endless(written), answer+"is larger than 1 MiB"),
		bad("a gzip bomb", says(200, gzipBomb(), "Content-Encoding", "gzip"), answer+"is larger than 1 MiB"),

		bad("token_type missing", grants("token_type", ""), answered+"the token answer's token_type is not Bearer"),
		bad("token_type mac", grants("token_type", `"mac"`), answered+"the token answer's token_type is not Bearer"),
		bad("token_type null", grants("token_type", "null"), answered+"the token answer's token_type is not Bearer"),
		bad("token_type a list", grants("token_type", `["Bearer"]`), answered+"the token answer's token_type is not Bearer"),
		lives("token_type Bearer", grants("token_type", `"Bearer"`), 24*time.Hour),
		lives("token_type bearer", grants("token_type", `"bearer"`), 24*time.Hour),
		lives("token_type BEARER", grants("token_type", `"BEARER"`), 24*time.Hour),
		lives("token_type bEaReR", grants("token_type", `"bEaReR"`), 24*time.Hour),

		lives("expires_in a string", grants("expires_in", `"7200"`), 2*time.Hour),
		lives("expires_in missing", grants("expires_in", ""), time.Hour),
		lives("expires_in 3600.5", grants("expires_in", "3600.5"), time.Hour),
		lives("expires_in 9e18", grants("expires_in", "9e18"), 24*time.Hour),
		bad("expires_in 0", grants("expires_in", "0"), answered+"the token answer's expires_in is not positive"),
		bad("expires_in -1", grants("expires_in", "-1"), answered+"the token answer's expires_in is not positive"),
		bad("expires_in 1e400", grants("expires_in", "1e400"), answered+"the token answer's expires_in is not finite"),
		bad("expires_in soon", grants("expires_in", `"soon"`), answered+"the token answer's expires_in is no number"),

		bad("a token missing", grants("access_token", ""), answer+"has no access_token"),
		bad("a token empty", grants("access_token", `""`), answer+"has no access_token"),
		{
			name: "a token of 100 KB", fault: grants("access_token", `"`+strings.Repeat(aventustest.HostileToken, 100<<10/len(aventustest.HostileToken))+`"`),
			want: errTokenTooLong, why: errTooLarge.Error(), do: "put less into its tokens", spent: true,
		},

		twice("access_token", `"access_token":"another"`),
		twice("token_type", `"token_type":"mac"`),
		twice("expires_in", `"expires_in":1`),
		twice("a name that is written in another way", `"access_toke\u006e":"another"`),
	}
	for name, inJSON := range map[string]string{"CR": `\r`, "LF": `\n`, "a header": `\r\nX-Admin: yes`, "NUL": `\u0000`, "ü": `ü`, "ü in escapes": `\u00fc`, "a space": ` `, "DEL": `\u007f`} {
		all = append(all, bad("a token with "+name, grants("access_token", `"`+aventustest.HostileToken+inJSON+`x"`),
			answered+"the access token holds a byte that no Authorization header may hold"))
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		all = append(all, hostility{
			name: fmt.Sprint("a redirect, ", status), fault: says(status, html, "Location", redirectTo),
			want: errToken, why: fmt.Sprint("the token endpoint answered ", status), do: "redirect",
		})
	}
	return all
}

// gzipBomb returns spaces, compressed, which net/http unpacks unasked. Whoever unpacks
// all four megabytes finds that they break off, and says so.
func gzipBomb() string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write(bytes.Repeat([]byte(" "), 4<<20)) // never fails: it is memory
	_ = zw.Flush()
	return b.String()
}

// logLine is a line of the log, as far as it is looked at.
type logLine struct {
	Level, Logger, Msg, Error, Advice string
}

// said returns what the module has logged behind the first bytes of the log, as text
// and line by line. Logins and logouts are left out.
func (w *world) said(behind int) (text string, lines []logLine) {
	w.t.Helper()
	text = w.log()[behind:]
	for line := range strings.SplitSeq(text, "\n") {
		var l logLine
		if json.Unmarshal([]byte(line), &l) == nil && l.Logger == "http.handlers.aventus_auth" && l.Level != "info" {
			lines = append(lines, l)
		}
	}
	return text, lines
}

// expectSaid waits for the one line that the module has logged behind the first bytes
// of the log, and looks for what may not be in it.
func (w *world) expectSaid(behind int, level, msg, why, do string) {
	w.t.Helper()
	await(w.t, "a line in the log", func() bool {
		_, lines := w.said(behind)
		return len(lines) > 0
	})
	text, lines := w.said(behind)
	if len(lines) != 1 || lines[0].Level != level || lines[0].Msg != msg {
		w.t.Errorf("the log says %+v, want %s %s", lines, level, msg)
	}
	if !strings.Contains(lines[0].Error, why) || !strings.Contains(lines[0].Advice, do) {
		w.t.Errorf("the log says %q, %q\nwant          %q, and %q", lines[0].Error, lines[0].Advice, why, do)
	}
	if len(lines[0].Error) > 1000 || strings.ContainsFunc(lines[0].Error, func(r rune) bool { return r < ' ' || r > '~' }) {
		w.t.Errorf("not fit for a log: %q", lines[0].Error)
	}
	// Caddy's own lines hold the callback's URL, code and all; nobody's hold these.
	requests := w.issuer.TokenRequests()
	sent := requests[len(requests)-1].Params
	for what, secret := range map[string]string{
		"the client's secret": testSecret, "the code verifier": sent["code_verifier"], "the refresh token": sent["refresh_token"],
		"the server's token": aventustest.HostileToken,
	} {
		if secret != "" && strings.Contains(text, secret) {
			w.t.Errorf("the log holds %s", what)
		}
	}
	for _, revoked := range w.issuer.Revoked() {
		if strings.Contains(text, revoked) {
			w.t.Error("the log holds a refresh token that was revoked")
		}
	}
	if code := sent["code"]; code != "" && strings.Contains(fmt.Sprint(lines), code) {
		w.t.Errorf("the module's line holds the code: %+v", lines)
	}
}

// expectCutOff checks what was taken of 10 GB. A client without a bound takes seven
// megabytes until its ten seconds are over.
func expectCutOff(t *testing.T, written *atomic.Int64) {
	t.Helper()
	if n := written.Load(); n < 1<<20 || n > 4<<20 {
		t.Errorf("of 10 GB, %d bytes were taken", n)
	}
}

// footprint is what this process holds: Caddy, the stand-in and the test.
type footprint struct {
	goroutines int
	heap       uint64
	exceeded   bool // what is left over of one attack is not held against the next
}

// goroutines counts them, and says where they are. Tests' own do not count, nor does
// the one with which certmagic keeps a lock file fresh: it takes seconds to see that
// the lock is gone.
func goroutines() (n int, where string) {
	var text strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&text, 1) // never fails: it is memory
	_, where, _ = strings.Cut(text.String(), "\n")
	for stack := range strings.SplitSeq(where, "\n\n") {
		var alike int
		_, _ = fmt.Sscan(stack, &alike) // none behind the last one
		if !strings.Contains(stack, "keepLockfileFresh") && !strings.Contains(stack, "testing.tRunner") {
			n += alike
		}
	}
	return n, where
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // for what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// settled returns the footprint when nothing is going on.
func settled() *footprint {
	last, same := 0, 0
	for ; same < 20; time.Sleep(5 * time.Millisecond) {
		if n, _ := goroutines(); n == last {
			same++
		} else {
			last, same = n, 0
		}
	}
	return &footprint{goroutines: last, heap: heap()}
}

// expectBack waits until the process holds no more than it did: no goroutine, and of
// memory only what the test itself and the stand-in remember.
func (f *footprint) expectBack(t *testing.T, remembered uint64) {
	t.Helper()
	if f.exceeded {
		return
	}
	var n int
	var where string
	var held uint64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if n, where = goroutines(); n > f.goroutines {
			continue
		}
		if held = heap(); held <= f.heap+remembered {
			return
		}
	}
	f.exceeded = true
	t.Errorf("%d goroutines, %d before; %d KiB of memory, %d before\n%.20000s", n, f.goroutines, held>>10, f.heap>>10, where)
}

// TestHostileTokenEndpoint: whatever the token endpoint answers to a code.
func TestHostileTokenEndpoint(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	thief := newElsewhere(t, aventustest.Grants("", ""))
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range hostilities(thief.URL, &written) {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			callback := b.begin("/page")
			asked, logged := len(w.issuer.TokenRequests()), len(w.log())
			faults.Set(c.fault)
			a := b.get(callback)
			faults.Set(nil)
			w.requests()
			if c.want.code == "" {
				w.expect(a, http.StatusSeeOther)
				if got := a.cookie("aventus_session"); got == nil || time.Duration(got.MaxAge)*time.Second != c.lives {
					t.Errorf("sets %v", a.Header["Set-Cookie"])
				}
				w.clock.Add(c.lives - time.Second)
				w.expect(b.do("POST", "/page"), http.StatusOK)
				if got := w.token(); got != bearer+aventustest.HostileToken {
					t.Errorf("the app was sent %q", got)
				}
				w.clock.Add(time.Second)
				w.expect(b.do("POST", "/page"), http.StatusUnauthorized)
			} else {
				w.expect(a, c.want.status)
				if a.body != c.want.code+": "+c.want.description || a.Header["Set-Cookie"] != nil || a.Header["Location"] != nil || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%v %s", a.Header, a.body)
				}
				w.expectSaid(logged, "error", c.want.code, c.why, c.do)
				w.expect(b.do("POST", "/page"), http.StatusUnauthorized)
				w.expect(b.get(callback), http.StatusFound) // the code is spent, for all we know
			}
			w.expectTokenRequests(asked + 1)

			// The server is well again, and so are we.
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			w.expectTokenRequests(asked + 2)
			before.expectBack(t, 1<<20)
		})
	}
	w.t = t
	thief.expectNobody(t)
	expectCutOff(t, &written)
}

// TestHostileRenewal: the same at a renewal. While the old token lives, nobody is
// worse off by it.
func TestHostileRenewal(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	thief := newElsewhere(t, aventustest.Grants("", ""))
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range hostilities(thief.URL, &written) {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			old := w.token()
			w.clock.Add(57 * time.Minute)
			asked, logged := len(w.issuer.TokenRequests()), len(w.log())
			faults.Set(c.fault)
			w.expect(b.get("/page"), http.StatusOK)
			if w.token() != old {
				t.Error("somebody waited for a new token")
			}
			if c.want.code == "" {
				await(t, "the new token", func() bool {
					w.expect(b.get("/page"), http.StatusOK)
					return w.token() == bearer+aventustest.HostileToken
				})
				before.heap = heap() // with all that was heard meanwhile
				w.expectTokenRequests(asked + 1)
				faults.Set(nil)
				// It lives as long as it says, within the session's lifetime; the refresh
				// token is the old one, since no other came.
				w.clock.Add(min(c.lives, 23*time.Hour) - 6*time.Minute)
				w.expect(b.get("/page"), http.StatusOK)
				w.expectTokenRequests(asked + 1)
				w.clock.Add(6 * time.Minute)
				w.expect(b.get("/page"), http.StatusOK)
				if again := w.token() == bearer+aventustest.HostileToken; again != (c.lives == 24*time.Hour) {
					t.Errorf("the token goes on: %v", again)
				}
			} else {
				level, msg := "error", "renewing a session failed; it is tried again"
				if c.spent {
					level, msg = "warn", "a session cannot be renewed any more; it ends with its token"
				}
				w.expectSaid(logged, level, msg, c.why, c.do)
				faults.Set(nil)
				w.expect(b.get("/page"), http.StatusOK)
				w.expectTokenRequests(asked + 1)
				w.clock.Add(10 * time.Minute)
				if c.spent {
					w.expect(b.get("/page"), http.StatusFound)
					w.expectTokenRequests(asked + 1)
					b.login("/page")
				}
				w.expect(b.get("/page"), http.StatusOK)
				if w.token() == old {
					t.Error("the dead token goes on")
				}
				w.expectTokenRequests(asked + 2)
			}
			w.expectNoReuse()
			before.expectBack(t, 1<<20)
		})
	}
	w.t = t
	thief.expectNobody(t)
}

// strangersToken returns a token that is signed with a key nobody knows: the keys are
// asked for, to see whether there is a new one.
func (w *world) strangersToken() string {
	_, rest, _ := strings.Cut(w.issuer.SignJWT(w.tokenClaims(nil)), ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"nobody"}`)) + "." + rest
}

// TestHostileKeySet: what the server of the keys answers is not the person's fault,
// nor the API client's, and nobody is let in without keys.
func TestHostileKeySet(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	says := aventustest.Says
	key := `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"nobody","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}` // RFC 8037's
	thief := newElsewhere(t, says(200, key))
	all := []hostility{
		{name: "500 without a body", fault: says(500, ""), want: errServerBusy, why: "the key set answered 500", do: "down for now"},
		{name: "429", fault: says(429, "", "Retry-After", "86400"), want: errServerBusy, why: "the key set answered 429", do: "quota"},
		{name: "HTML", fault: says(200, "<html>\x1b[31m"), want: errToken, why: "the key set answered 200: what it answered is not a JSON object", do: "the URL of verify_token"},
		{name: "[]", fault: says(200, "[]"), want: errToken, why: "the key set answered 200: what it answered is not a JSON object", do: "the URL of verify_token"},
		{name: "null", fault: says(200, "null"), want: errToken, why: "the key set answered 200: what it answered is not a JSON object", do: "the URL of verify_token"},
		{name: "truncated JSON", fault: says(200, key[:len(key)-1]), want: errToken, why: "the key set answered 200: what it answered is not valid JSON", do: "the URL of verify_token"},
		{name: "keys twice", fault: says(200, strings.Replace(key, "{", `{"keys":[],`, 1)), want: errToken, why: "the key set answered 200: what it answered has a name twice", do: "the URL of verify_token"},
		{name: "no keys", fault: says(200, `{"keys":[]}`), want: errToken, why: "the key set answered 200: it holds no key that a token may be signed with", do: "the URL of verify_token"},
		{name: "10 GB", fault: aventustest.Endless(&written), want: errToken, why: "the key set answered 200: what it answered is larger than 1 MiB", do: "the URL of verify_token"},
		{name: "a gzip bomb", fault: says(200, gzipBomb(), "Content-Encoding", "gzip"), want: errToken, why: "the key set answered 200: what it answered is larger than 1 MiB", do: "the URL of verify_token"},
		{name: "an answer that breaks off", fault: says(200, key, "Content-Length", "1000000"), want: errToken, why: "the key set: unexpected EOF", do: "can reach the key set"},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		all = append(all, hostility{
			name: fmt.Sprint("a redirect, ", status), fault: says(status, "", "Location", thief.URL),
			want: errToken, why: fmt.Sprint("the key set answered ", status), do: "the URL of verify_token",
		})
	}
	var stranger atomic.Pointer[string] // strangersToken, where the token endpoint gives it out
	w := newWorld(t, setup{block: "accept_bearer", caddyfile: "%s\nreverse_proxy %app" + errorsShown, issuer: func(s *aventustest.Server) {
		s.JWKSFault = faults.Answer
		s.TokenFault = func(rw http.ResponseWriter, r *http.Request) bool {
			token := stranger.Load()
			return token != nil && aventustest.Grants("access_token", `"`+*token+`"`)(rw, r)
		}
	}})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			known, unknown := w.issuer.SignJWT(w.tokenClaims(nil)), w.strangersToken()
			bring := func(token string) answer { return b.do("POST", "/page", "Authorization", "Bearer "+token) }
			fails := func(a answer, logged int, why string) {
				t.Helper()
				w.expect(a, c.want.status)
				if a.body != c.want.code+": "+c.want.description || a.Header["Set-Cookie"] != nil || a.Header["Www-Authenticate"] != nil || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%v %s", a.Header, a.body)
				}
				w.expectSaid(logged, "error", c.want.code, why+c.why, c.do)
			}
			callback := b.begin("/page")
			asked, fetched := len(w.issuer.TokenRequests()), w.issuer.JWKSRequests()
			w.clock.Add(10 * time.Second)
			faults.Set(c.fault)
			stranger.Store(&unknown)
			logged := len(w.log())
			fails(b.get(callback), logged, "verifying the access token: ")
			logged = len(w.log())
			fails(bring(unknown), logged, "")
			w.expect(bring(known), http.StatusOK) // what was known is not forgotten
			w.expectTokenRequests(asked + 1)
			if n := w.issuer.JWKSRequests() - fetched; n != 1 {
				t.Errorf("the keys were asked for %d times", n)
			}

			// The server is well again, and says that there is no such key.
			faults.Set(nil)
			stranger.Store(nil)
			w.clock.Add(10 * time.Second)
			w.expect(bring(unknown), http.StatusUnauthorized)
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			before.expectBack(t, 1<<20)
		})
	}
	w.t = t
	thief.expectNobody(t)
	expectCutOff(t, &written)
}

// TestHostileRevocation: a logout does not wait for the authorization server, nor
// depend on it.
func TestHostileRevocation(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	says := aventustest.Says
	thief := newElsewhere(t, says(200, ""))
	all := []hostility{ // without a why, the log has nothing to say
		{name: "500 without a body", fault: says(500, ""), why: "answered 500"},
		{name: "429", fault: says(429, "", "Retry-After", "86400"), why: "answered 429"},
		{name: "an echo in colours", fault: aventustest.Echoes, why: "answered 400 invalid_request???[2J: ?[31m?31m?? You sent {"},
		{name: "an echo that is no HTTP", fault: aventustest.Garbles, why: "malformed MIME header"},
		{name: "an answer that breaks off", fault: says(200, "ok", "Content-Length", "1000"), why: "reading the answer: unexpected EOF"},
		{name: "HTML", fault: says(200, "<html>\x1b[31m")},
		{name: "10 GB", fault: aventustest.Endless(&written)},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		all = append(all, hostility{name: fmt.Sprint("a redirect, ", status), fault: says(status, "", "Location", thief.URL), why: fmt.Sprint("answered ", status)})
	}
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.RevokeFault = faults.Answer }})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			copied := b.login("/page").cookie("aventus_session")
			asked, met, logged := len(w.issuer.Revoked()), faults.Asked(), len(w.log())
			faults.Set(c.fault)
			a := b.get("/logout")
			w.expect(a, http.StatusOK)
			if got := a.cookie("aventus_session"); got == nil || got.MaxAge >= 0 || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%v", a.Header)
			}
			w.expect(w.browser().do("POST", "/page", "Cookie", "aventus_session="+copied.Value), http.StatusUnauthorized)
			await(t, "the revocation", func() bool { return faults.Asked() > met })
			if c.why != "" {
				w.expectSaid(logged, "warn", "the refresh token of a session that has ended could not be revoked", c.why, "")
			}
			faults.Set(nil)
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			before.expectBack(t, 1<<20)
			if n := len(w.issuer.Revoked()) - asked; n != 1 {
				t.Errorf("the revocation was asked for %d times", n)
			}
			if _, lines := w.said(logged); c.why == "" && len(lines) > 0 {
				t.Errorf("the log says %+v", lines)
			}
		})
	}
	w.t = t
	thief.expectNobody(t)
	expectCutOff(t, &written)
}

// authority is a certificate authority.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(24 * time.Hour)}}
	own := a.sign(t, a.cert)
	a.key, a.cert = own.PrivateKey.(*ecdsa.PrivateKey), own.Leaf
	return a
}

// sign returns a certificate of the authority; one that has no key yet gets its own.
func (a *authority) sign(t *testing.T, template *x509.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	template.SerialNumber = big.NewInt(1)
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// trustedFile names a file with an authority that Go is told to trust. It takes that
// when a process starts, so there is one of its own for the test that needs it.
const trustedFile = "SSL_CERT_FILE"

const inOwnProcess = "TEST_IN_OWN_PROCESS"

// trustedAuthority returns the authority in trustedFile.
func trustedAuthority(t *testing.T) *authority {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(os.Getenv(trustedFile), os.Getenv(trustedFile))
	if err != nil {
		t.Fatal(err)
	}
	return &authority{pair.PrivateKey.(*ecdsa.PrivateKey), pair.Leaf}
}

// runInOwnProcess runs the test again in a process that trusts an authority.
func runInOwnProcess(t *testing.T) {
	t.Helper()
	a := newAuthority(t)
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), trustedFile+"="+file, inOwnProcess+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestHostileCertificate: what is meant for the authorization server goes to nobody
// who cannot show that they are it.
func TestHostileCertificate(t *testing.T) {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("Go asks the system here whom to trust, and not a file")
	}
	if os.Getenv(inOwnProcess) != t.Name() {
		runInOwnProcess(t)
		return
	}
	ours := trustedAuthority(t)
	here := []net.IP{net.IPv4(127, 0, 0, 1)}
	tomorrow := time.Now().Add(24 * time.Hour)
	good := ours.sign(t, &x509.Certificate{IPAddresses: here, NotAfter: tomorrow})
	var shown atomic.Pointer[tls.Certificate]
	shown.Store(good)
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		sites: func(w *world) string {
			server := httptest.NewUnstartedServer(w.issuer)
			server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return &tls.Config{Certificates: []tls.Certificate{*shown.Load()}}, nil
			}}
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // it says that nobody trusts it
			server.Config.SetKeepAlivesEnabled(false)           // each connection has to show it
			server.StartTLS()
			t.Cleanup(server.Close)
			w.issuer.Issuer = server.URL + "/"
			return w.site + " {\n" + w.directive("", "scope offline_access\nlogout /logout\naccept_bearer") + "\nreverse_proxy " + w.app + errorsShown + "\n}"
		},
	})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		why  string
	}{
		{"of an authority that nobody trusts", newAuthority(t).sign(t, &x509.Certificate{IPAddresses: here, NotAfter: tomorrow}), "x509: certificate signed by unknown authority"},
		{"that has expired", ours.sign(t, &x509.Certificate{IPAddresses: here, NotAfter: time.Now().Add(-time.Hour)}), "x509: certificate has expired"},
		{"of another host", ours.sign(t, &x509.Certificate{DNSNames: []string{"evil.test"}, NotAfter: tomorrow}), "x509: cannot validate certificate for 127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			const unreachable = "the token endpoint: tls: failed to verify certificate: "
			b, leaving := w.browser(), w.browser()
			b.login("/page")
			w.clock.Add(30 * time.Minute) // b's token ends before the others'
			leaving.login("/page")
			callback := w.browser() // a login under way
			at := callback.begin("/page")
			unknown := w.strangersToken()
			w.clock.Add(27 * time.Minute)
			asked, fetched, revoked := len(w.issuer.TokenRequests()), w.issuer.JWKSRequests(), len(w.issuer.Revoked())

			shown.Store(c.cert)
			logged := len(w.log())
			a := callback.get(at)
			w.expect(a, http.StatusBadGateway)
			if a.body != errToken.code+": "+errToken.description || a.Header["Set-Cookie"] != nil || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%v %s", a.Header, a.body)
			}
			w.expectSaid(logged, "error", errToken.code, unreachable+c.why, "TLS")

			logged = len(w.log())
			w.expect(b.get("/page"), http.StatusOK) // the old token lives
			w.expectSaid(logged, "error", "renewing a session failed; it is tried again", unreachable+c.why, "TLS")

			logged = len(w.log())
			a = w.browser().do("GET", "/", "Authorization", "Bearer "+unknown)
			w.expect(a, http.StatusBadGateway)
			if a.body != errToken.code+": "+errToken.description {
				t.Error(a.body)
			}
			w.expectSaid(logged, "error", errToken.code, "the key set: tls: failed to verify certificate: "+c.why, "TLS")

			logged = len(w.log())
			w.expect(leaving.get("/logout"), http.StatusOK)
			w.expectSaid(logged, "warn", "the refresh token of a session that has ended could not be revoked", c.why, "")

			if len(w.issuer.TokenRequests()) != asked || w.issuer.JWKSRequests() != fetched || len(w.issuer.Revoked()) != revoked {
				t.Error("a request was sent to a server that nobody vouches for")
			}
			shown.Store(good)
			w.clock.Add(10 * time.Second)
			w.expect(w.browser().do("GET", "/", "Authorization", "Bearer "+unknown), http.StatusUnauthorized)
			w.clock.Add(time.Hour)
			w.expect(b.get("/page"), http.StatusOK)
			w.expectTokenRequests(asked + 1)
			w.browser().login("/page")
			w.expectNoReuse()
			before.expectBack(t, 1<<20)
		})
	}
}

// TestTwoHundredAtOnce: at a token endpoint that hangs, drips or does not end, two
// hundred logins at a time tie up nothing, and neither does what else waits for the
// server. All of it waits for the real ten seconds, together.
func TestTwoHundredAtOnce(t *testing.T) {
	const many = 200
	var tokens, keys, revocations aventustest.Switch
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) {
			s.TokenLifetime = time.Hour
			s.TokenFault, s.JWKSFault, s.RevokeFault = tokens.Answer, keys.Answer, revocations.Answer
		},
		sites: func(w *world) string {
			return w.site + " {\n" + w.directive("", "scope offline_access\nlogout /logout\naccept_bearer") + "\nreverse_proxy " + w.app + errorsShown + "\n}"
		},
	})
	first, dead, near, leaving, crowd := w.browser(), w.browser(), w.browser(), w.browser(), w.browser()
	dead.login("/")
	w.clock.Add(10 * time.Minute)
	near.login("/")
	leaving.login("/")
	w.clock.Add(56 * time.Minute) // dead's token is, and near's has four minutes left
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	var callbacks []string
	for range 3 * many {
		callbacks = append(callbacks, crowd.begin("/"))
	}
	before := settled()

	var waiting sync.WaitGroup
	var slow atomic.Int64
	expect := func(n int, want failure, atLeast time.Duration, ask func(i int) answer) {
		for i := range n {
			waiting.Go(func() {
				want, atLeast := want, atLeast
				start := time.Now()
				a := ask(i)
				// 200 MiB may take a machine with much else to do as long as a login waits.
				if want == errToken && a.StatusCode == errTokenTimeout.status {
					want, atLeast = errTokenTimeout, 10*time.Second
					slow.Add(1)
				}
				session := a.cookie("aventus_session")
				if a.StatusCode != want.status || want.code != "" && a.body != want.code+": "+want.description || session != nil && session.Value != "" {
					t.Errorf("status %d, want %d: %v %s", a.StatusCode, want.status, a.Header, a.body)
				}
				if waited := time.Since(start); waited < atLeast {
					t.Errorf("status %d after %v", a.StatusCode, waited)
				}
			})
		}
	}
	asked, fetched, revoked, logged := len(w.issuer.TokenRequests()), w.issuer.JWKSRequests(), len(w.issuer.Revoked()), len(w.log())
	met := tokens.Asked()
	arrived := func(n int) {
		t.Helper()
		await(t, "the token requests", func() bool { return tokens.Asked() == met+n })
	}
	callBack := func(of []string) func(int) answer { return func(i int) answer { return crowd.get(of[i]) } }
	tokens.Set(aventustest.Hangs)
	keys.Set(aventustest.Hangs)
	revocations.Set(aventustest.Hangs)
	w.expect(near.get("/"), http.StatusOK)
	w.expect(leaving.get("/logout"), http.StatusOK)
	if _, lines := w.said(logged); len(lines) != 0 {
		t.Errorf("they have waited: %+v", lines)
	}
	expect(1, failure{status: http.StatusFound}, 10*time.Second, func(int) answer { return dead.get("/") })
	unknown := w.strangersToken()
	expect(20, errTokenTimeout, 0, func(int) answer { return crowd.do("GET", "/", "Authorization", "Bearer "+unknown) })
	expect(many, errTokenTimeout, 10*time.Second, callBack(callbacks[:many]))
	arrived(many + 2)
	tokens.Set(aventustest.Drips)
	expect(many, errTokenTimeout, 10*time.Second, callBack(callbacks[many:2*many]))
	arrived(2*many + 2)
	tokens.Set(aventustest.Endless(new(atomic.Int64)))
	expect(many, errToken, 0, callBack(callbacks[2*many:]))
	arrived(3*many + 2)

	// Nobody else has to wait.
	tokens.Set(nil)
	w.expect(first.get("/"), http.StatusOK)
	w.browser().login("/")
	waiting.Wait()
	keys.Set(nil)
	revocations.Set(nil)

	if slow.Load() == many {
		t.Error("not one answer without end was cut off")
	}
	w.expectTokenRequests(asked + 3*many + 3)
	if n := w.issuer.JWKSRequests() - fetched; n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
	if n := len(w.issuer.Revoked()) - revoked; n != 1 {
		t.Errorf("the revocation was asked for %d times", n)
	}
	// The runtime keeps what a goroutine was, without its stack, and the test what it
	// heard; it is 200 MiB that were sent.
	before.expectBack(t, 32<<20)
	said := map[string]int{}
	_, lines := w.said(logged)
	for _, l := range lines {
		said[l.Level+" "+l.Msg+": "+l.Error+" ("+l.Advice+")"]++
	}
	const inTime = "the token endpoint: no answer in time (the token endpoint is slow or hangs; see the authorization server's status)"
	if want := map[string]int{
		"error token_timeout: " + inTime: 2*many + int(slow.Load()),
		"error token_timeout: the key set: no answer in time (the server of the keys is slow or hangs; see the authorization server's status)":                       20,
		"error token_refused: the token endpoint answered 200: the token answer is larger than 1 MiB (check issuer and token_url: this may not be a token endpoint)": many - int(slow.Load()),
		"warn a session cannot be renewed any more; it ends with its token: " + inTime:                                                                               2,
		"warn the refresh token of a session that has ended could not be revoked: " + inTime:                                                                         1,
	}; !maps.Equal(said, want) {
		t.Errorf("the log says %v\nwant         %v", said, want)
	}
	// The server is well again, and so are we.
	for _, b := range []*browser{dead, near, leaving, crowd, w.browser()} {
		w.clock.Add(time.Minute)
		if b != near { // whose token still lives
			b.login("/")
		}
		w.expect(b.get("/"), http.StatusOK)
	}
	w.expect(w.browser().do("GET", "/", "Authorization", "Bearer "+unknown), http.StatusUnauthorized)
	w.expectNoReuse()
}
