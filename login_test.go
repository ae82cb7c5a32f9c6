package aventusauth

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

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

// TestCallbackRefused: what is no answer to a login of this site gets 400, costs
// the login nothing, and nothing is sent to the token endpoint.
func TestCallbackRefused(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	session := w.browser().login("/").cookie("aventus_session").Value
	b := w.browser()
	callback := b.begin("/page")
	state := query(callback, "state")
	for name, c := range map[string]struct {
		callback string
		code     string
	}{
		"no state":            {with(callback, "state", ""), "invalid_state"},
		"made-up state":       {with(callback, "state", "abc"), "invalid_state"},
		"damaged state":       {with(callback, "state", flip(state)), "invalid_state"},
		"shortened state":     {with(callback, "state", state[:len(state)-1]), "invalid_state"},
		"lengthened state":    {with(callback, "state", state+"A"), "invalid_state"},
		"state, line broken":  {with(callback, "state", state[:9]+"\n"+state[9:]), "invalid_state"},
		"state of a session":  {with(callback, "state", session), "invalid_state"},
		"state twice":         {callback + "&state=" + state, "invalid_callback"},
		"code twice":          {callback + "&code=x", "invalid_callback"},
		"unknown twice":       {callback + "&x=1&x=2", "invalid_callback"},
		"code and error":      {callback + "&error=x", "invalid_callback"},
		"neither":             {with(callback, "code", ""), "invalid_callback"},
		"empty code":          {with(callback, "code", "") + "&code=", "invalid_callback"},
		"another issuer":      {callback + "&iss=https://evil.test/", "invalid_callback"},
		"semicolons":          {callback + ";x=1", "invalid_callback"},
		"a bad percent":       {callback + "&x=%zz", "invalid_callback"},
		"nothing at all":      {w.site + "/oauth2/callback", "invalid_state"},
		"an error, no state":  {w.site + "/oauth2/callback?error=access_denied", "invalid_state"},
		"markup in the error": {with(callback, "state", "x") + "&error_description=<script>", "invalid_state"},
	} {
		a := b.get(c.callback)
		if a.StatusCode != http.StatusBadRequest || !strings.HasPrefix(a.body, c.code+": ") || a.Header.Get("Cache-Control") != "no-store" || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s: status %d, %v, %s", name, a.StatusCode, a.Header, a.body)
		}
	}
	for _, method := range []string{"POST", "HEAD", "PUT", "OPTIONS"} {
		a := b.do(method, callback)
		if a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET" {
			t.Errorf("%s: status %d, %v", method, a.StatusCode, a.Header)
		}
	}
	w.expectTokenRequests(1) // the session's

	// The login under way has not suffered; what is unknown is ignored, and the
	// right issuer is right with a slash and without.
	a := b.get(callback + "&session_state=1&iss=" + url.QueryEscape(strings.TrimSuffix(w.issuer.Issuer, "/")))
	w.expect(a, http.StatusSeeOther)
	w.expectTokenRequests(2)
}

// flip changes one character in the middle.
func flip(s string) string {
	i, c := len(s)/2, byte('A')
	if s[i] == c {
		c = 'B'
	}
	return s[:i] + string(c) + s[i+1:]
}

// TestCallbackErrors: what the authorization server may say at the callback.
func TestCallbackErrors(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	b := w.browser()
	for sent, want := range map[string]struct {
		status int
		code   string
	}{
		"access_denied":           {http.StatusForbidden, "access_denied"},
		"temporarily_unavailable": {http.StatusServiceUnavailable, "server_unavailable"},
		"server_error":            {http.StatusBadGateway, "server_error"},
		"invalid_scope":           {http.StatusBadGateway, "server_error"},
		"<script>\x1b[31m":        {http.StatusBadGateway, "server_error"},
	} {
		callback := with(with(b.begin("/"), "code", ""), "error", sent)
		a := b.get(with(callback, "error_description", "<b>said</b>\r\nby the server"))
		w.expect(a, want.status)
		if !strings.HasPrefix(a.body, want.code+": ") || strings.Contains(a.body, "by the server") {
			t.Errorf("%s: %s", sent, a.body)
		}
	}
	w.expectTokenRequests(0)
	if log := w.log(); !strings.Contains(log, "<b>said</b>??by the server") && !strings.Contains(log, `\u003cb\u003esaid`) {
		t.Error("the log does not say what the server said")
	}
}

// TestCallbackAgain: the back button, a double click, a restart in between.
func TestCallbackAgain(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	callback := b.begin("/page?q")
	w.expect(b.get(callback), http.StatusSeeOther)

	again := func(how string) {
		t.Helper()
		a := b.get(callback)
		w.expect(a, http.StatusSeeOther)
		if a.location() != w.site+"/page?q" || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s: %v", how, a.Header)
		}
		w.expectTokenRequests(1)
	}
	again("with a session")
	w.restart()
	again("after a restart")

	// Without the session, the login starts again, and ends at the same page.
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
	a := b.get(callback)
	w.expect(a, http.StatusFound)
	w.expectTokenRequests(1)
	a = b.get(b.get(a.location()).location())
	w.expect(a, http.StatusSeeOther)
	if a.location() != w.site+"/page?q" {
		t.Errorf("went back to %s", a.location())
	}
	w.expectTokenRequests(2)
}

// TestFiftyCallbacksAtOnce sends one callback fifty times at the same moment.
func TestFiftyCallbacksAtOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	callback := b.begin("/")
	var cookie string
	for _, c := range b.cookies() {
		cookie = c.Name + "=" + c.Value
	}
	var done sync.WaitGroup
	statuses := make(chan int, 50)
	for range 50 {
		done.Go(func() {
			statuses <- w.browser().do("GET", callback, "Cookie", cookie).StatusCode
		})
	}
	done.Wait()
	close(statuses)
	count := map[int]int{}
	for status := range statuses {
		count[status]++
	}
	// One login, and the others start again: they have no session to show.
	if count[http.StatusSeeOther] != 1 || count[http.StatusFound] != 49 {
		t.Errorf("answers by status: %v", count)
	}
	w.expectTokenRequests(1)
}

// TestStaleLogin: a login that took too long starts again, once.
func TestStaleLogin(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	b := w.browser()
	callback := b.begin("/page")
	w.clock.Add(loginLifetime + time.Second)
	a := b.get(callback)
	w.expect(a, http.StatusFound)
	callback = b.get(a.location()).location()
	w.clock.Add(loginLifetime + time.Second)
	a = b.get(callback)
	w.expect(a, http.StatusBadRequest)
	if !strings.HasPrefix(a.body, "login_lost: ") {
		t.Error(a.body)
	}
	w.expectTokenRequests(0)

	// In time, the second one ends where the first one began.
	callback = b.begin("/page")
	w.clock.Add(loginLifetime + time.Second)
	a = b.get(b.get(b.get(callback).location()).location())
	w.expect(a, http.StatusSeeOther)
	if a.location() != w.site+"/page" {
		t.Errorf("went back to %s", a.location())
	}
	w.expectTokenRequests(1)
}

// TestTenTabsAtOnce opens ten tabs in a fresh browser at the same moment: each gets
// a binding cookie of its own, and the last one stays. The first to finish signs all
// of them in.
func TestTenTabsAtOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	var started [10]answer
	for i := range started {
		started[i] = w.browser().get(fmt.Sprintf("/tab/%d", i)) // no cookie yet
	}
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, started[9].Cookies())
	for _, i := range []int{9, 0, 5, 1, 8, 2, 7, 3, 6, 4} {
		a := b.get(b.get(started[i].location()).location())
		w.expect(a, http.StatusSeeOther)
		if want := fmt.Sprintf("%s/tab/%d", w.site, i); a.location() != want {
			t.Errorf("went back to %s, want %s", a.location(), want)
		}
	}
	w.expectTokenRequests(1)
}

// TestCallbackAgainMuchLater: the binding cookie is gone, the session lives.
func TestCallbackAgainMuchLater(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	callback := b.begin("/page")
	w.expect(b.get(callback), http.StatusSeeOther)
	w.clock.Add(3 * time.Hour)
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_login", Path: "/", MaxAge: -1}})
	a := b.get(callback)
	w.expect(a, http.StatusSeeOther)
	if a.location() != w.site+"/page" || a.Header["Set-Cookie"] != nil {
		t.Errorf("%v", a.Header)
	}
	w.expectTokenRequests(1)
}

// TestRandom: nothing that has to be new is the same twice.
func TestRandom(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nkey " + strings.Repeat("A", 43) + "=\n}"})
	seen := map[string]bool{}
	for range 5 {
		a := w.browser().get("/")
		for _, value := range []string{a.cookie("aventus_login").Value, query(a.location(), "state"), query(a.location(), "code_challenge"), query(a.location(), "nonce")} {
			if value == "" || seen[value] {
				t.Fatalf("%q again", value)
			}
			seen[value] = true
		}
	}
	var h Handler
	h.now, h.cfg = time.Now, new(settings)
	if a, b := h.newSession(aventus.Token{}, nil), h.newSession(aventus.Token{}, nil); a.id == b.id {
		t.Error("two sessions have one id")
	}
	// A binding cookie that is none of ours is replaced.
	for _, value := range []string{"x", strings.Repeat("A", 40), ""} {
		a := w.browser().do("GET", "/", "Cookie", "aventus_login="+value)
		if got := a.cookie("aventus_login").Value; got == value || len(got) != 22 {
			t.Errorf("the binding cookie %q became %q", value, got)
		}
	}
}

// TestTenTabs: ten logins at once in one browser end in any order, and nothing
// piles up in its cookies.
func TestTenTabs(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	var callbacks []string
	for i := range 10 {
		callbacks = append(callbacks, b.begin(fmt.Sprintf("/tab/%d", i)))
		if n := len(b.cookies()); n != 1 {
			t.Fatalf("%d cookies after %d logins begun", n, i+1)
		}
	}
	for _, i := range []int{9, 0, 5, 1, 8, 2, 7, 3, 6, 4} {
		a := b.get(callbacks[i])
		w.expect(a, http.StatusSeeOther)
		if want := fmt.Sprintf("%s/tab/%d", w.site, i); a.location() != want {
			t.Errorf("went back to %s, want %s", a.location(), want)
		}
	}
	if n := len(b.cookies()); n != 2 {
		t.Errorf("%d cookies in the end: %v", n, b.cookies())
	}
	w.expectTokenRequests(10)
}

// TestRestartAndReload: a session and a login under way outlive both.
func TestRestartAndReload(t *testing.T) {
	w := newWorld(t, setup{})
	alive, underWay := w.browser(), w.browser()
	alive.login("/")
	callback := underWay.begin("/page")
	w.restart()
	w.expect(alive.get("/"), http.StatusOK)
	w.expect(underWay.get(callback), http.StatusSeeOther)

	callback = underWay.begin2("/page")
	w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid\nunauthenticated redirect", 1))
	w.expect(alive.get("/"), http.StatusOK)
	w.expect(underWay.get(callback), http.StatusSeeOther)
	w.expectTokenRequests(3)
}

// begin2 begins a login in a browser that has a session, by forgetting it.
func (b *browser) begin2(path string) string {
	u, _ := url.Parse(b.w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
	return b.begin(path)
}

// TestTokenEndpointFails: each way to fail, what the visitor gets, and what the
// operator reads. The code is sent once.
func TestTokenEndpointFails(t *testing.T) {
	var current atomic.Pointer[func(http.ResponseWriter)]
	w := newWorld(t, setup{
		caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) {
			s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
				fault := current.Load()
				if fault != nil {
					(*fault)(rw)
				}
				return fault != nil
			}
		},
	})
	says := func(status int, body string) func(http.ResponseWriter) {
		return func(rw http.ResponseWriter) {
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body)
		}
	}
	n := 0
	for name, c := range map[string]struct {
		fault  func(http.ResponseWriter)
		status int
		code   string
		log    string // what the operator's log must hold
	}{
		"wrong secret":  {says(401, `{"error":"access_denied","error_description":"Unauthorized"}`), 502, "token_refused", "check client_id, client_secret"},
		"invalid grant": {says(403, `{"error":"invalid_grant","error_description":"Invalid authorization code"}`), 502, "token_refused", "invalid_grant: Invalid authorization code"},
		"rate limit":    {says(429, `{"error":"too_many_requests"}`), 503, "server_unavailable", "429 too_many_requests"},
		"down":          {says(503, "<html>"), 503, "server_unavailable", "answered 503"},
		"500, no body":  {says(500, ""), 502, "token_refused", "answered 500"},
		"HTML with 200": {says(200, "<html>"), 502, "token_refused", "is not a JSON object"},
		"another type":  {says(200, `{"access_token":"x","token_type":"mac"}`), 502, "token_refused", "token_type is not Bearer"},
		"expired":       {says(200, `{"access_token":"x","token_type":"Bearer","expires_in":0}`), 502, "token_refused", "expires_in is not positive"},
		"echo":          {says(400, `{"error":"invalid_request","error_description":"no `+testSecret+`"}`), 502, "token_refused", "no [redacted]"},
		"terminal":      {says(400, `{"error":"x","error_description":"\u001b[31m\nred"}`), 502, "token_refused", "x: ?[31m?red"},
		"closed":        {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 502, "token_refused", "check that this server can reach"},
	} {
		current.Store(&c.fault)
		b := w.browser()
		callback := b.begin("/page")
		a := b.get(callback)
		n++
		if a.StatusCode != c.status || !strings.HasPrefix(a.body, c.code+": ") {
			t.Errorf("%s: status %d, %s", name, a.StatusCode, a.body)
		}
		if len(w.issuer.TokenRequests()) != n {
			t.Errorf("%s: the token endpoint was asked %d times, want %d", name, len(w.issuer.TokenRequests()), n)
		}
		if a.cookie("aventus_session") != nil {
			t.Errorf("%s: there is a session", name)
		}
		if !strings.Contains(w.log(), c.log) {
			t.Errorf("%s: the log does not say %q", name, c.log)
		}
		// The server is well again: the same callback starts the login again.
		current.Store(nil)
		a = b.get(callback)
		w.expect(a, http.StatusFound)
		w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
		n++
	}
	w.expectTokenRequests(n)
	if strings.Contains(w.log(), testSecret) {
		t.Error("the log holds the client's secret")
	}
}

// TestTokenTimeout: the ten seconds themselves are tested where the clock is.
func TestTokenTimeout(t *testing.T) {
	if errTokenTimeout.status != http.StatusGatewayTimeout {
		t.Error("a time-out must be 504")
	}
	for kind, want := range map[aventus.Kind]failure{
		aventus.TimedOut: errTokenTimeout, aventus.Unavailable: errServerBusy,
		aventus.Refused: errToken, aventus.Malformed: errToken, aventus.Unreachable: errToken,
	} {
		if got := failureOf(kind); got != want {
			t.Errorf("kind %d: %v, want %v", kind, got, want)
		}
	}
}

// TestTokenTooLarge: what no header can carry is refused, and said so.
func TestTokenTooLarge(t *testing.T) {
	w := newWorld(t, setup{
		caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer:    func(s *aventustest.Server) { s.TokenChars = 100_000 },
	})
	b := w.browser()
	a := b.get(b.begin("/"))
	w.expect(a, http.StatusBadGateway)
	if !strings.HasPrefix(a.body, "token_too_large: ") || a.Header["Set-Cookie"] != nil {
		t.Errorf("%v %s", a.Header, a.body)
	}
}

// TestTokenRequestVariants logs in with each way to write the token request.
func TestTokenRequestVariants(t *testing.T) {
	for _, form := range []bool{false, true} {
		for _, basic := range []bool{false, true} {
			block := ""
			if form {
				block += "token_request form\n"
			}
			if basic {
				block += "token_auth basic\n"
			}
			w := newWorld(t, setup{block: block, issuer: func(s *aventustest.Server) { s.Form, s.Basic = form, basic }})
			w.browser().login("/")
			w.expectTokenRequests(1)
			want := map[string]bool{"grant_type": true, "code": true, "redirect_uri": true, "code_verifier": true, "client_id": !basic, "client_secret": !basic}
			for name, value := range w.issuer.TokenRequests()[0].Params {
				if !want[name] || value == "" {
					t.Errorf("form %t, basic %t: %s=%q", form, basic, name, value)
				}
				delete(want, name)
			}
			for name, missing := range want {
				if missing {
					t.Errorf("form %t, basic %t: no %s", form, basic, name)
				}
			}
		}
	}
}

// TestOpaqueToken: without an audience the token may be no JWT, and is passed on
// as it is.
func TestOpaqueToken(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("", "authorize_param prompt consent"), "audience https://api.example.com/", "", 1) + "\nreverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	if got := w.requests()[0].Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer ") || strings.Contains(got, ".") {
		t.Errorf("Authorization: %q", got)
	}
	if got := w.issuer.AuthorizeRequests()[0]; got.Has("audience") || got.Get("prompt") != "consent" {
		t.Errorf("authorize parameters: %v", got)
	}
}

// TestSeveralHosts: one block serves several hosts, and what belongs to one opens
// nothing at the other.
func TestSeveralHosts(t *testing.T) {
	w := newWorld(t, setup{
		https: true,
		names: []string{"a.localhost", "b.localhost"},
		issuer: func(s *aventustest.Server) {
			s.Clients[0].RedirectURIs = nil // filled in below
		},
		sites: func(w *world) string {
			for _, host := range []string{"a.localhost", "b.localhost"} {
				w.issuer.Clients[0].RedirectURIs = append(w.issuer.Clients[0].RedirectURIs, "https://"+host+":"+w.port+"/oauth2/callback")
			}
			block := strings.Replace(w.directive("", ""), w.site+"/", "https://{host}:"+w.port+"/", 1)
			return fmt.Sprintf("https://a.localhost:%[1]s, https://b.localhost:%[1]s, https://localhost:%[1]s {\ntls internal\n%s\nreverse_proxy %s\n}", w.port, block, w.app)
		},
	})
	b := w.browser()
	b.client.Transport.(*http.Transport).DialContext = dialLocalhost(w.port)
	callbacks := map[string]string{}
	for _, host := range []string{"a.localhost", "b.localhost"} {
		origin := "https://" + host + ":" + w.port
		a := b.get(origin + "/page")
		w.expect(a, http.StatusFound)
		if got := query(a.location(), "redirect_uri"); got != origin+"/oauth2/callback" {
			t.Errorf("redirect_uri %s", got)
		}
		callbacks[host] = b.get(a.location()).location()
	}
	// A state of one host means nothing at the other.
	swapped := strings.Replace(callbacks["a.localhost"], "a.localhost", "b.localhost", 1)
	w.expect(b.get(swapped), http.StatusBadRequest)
	w.expectTokenRequests(0)

	a := b.get(callbacks["a.localhost"])
	w.expect(a, http.StatusSeeOther)
	if want := "https://a.localhost:" + w.port + "/page"; a.location() != want {
		t.Errorf("went back to %s, want %s", a.location(), want)
	}
	cookie := a.cookie("__Host-aventus_session")
	w.expect(b.get("https://a.localhost:"+w.port+"/"), http.StatusOK)
	w.expect(b.do("GET", "https://b.localhost:"+w.port+"/", "Cookie", cookie.Name+"="+cookie.Value), http.StatusFound)
}

// TestStorageFails: who needs the storage gets 503, a session in its cookie does
// not need it, and all is well again without a restart.
func TestStorageFails(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	b, underWay := w.browser(), w.browser()
	recovers := w.storageFails()
	a := b.get("/") // needs the first key
	w.expect(a, http.StatusServiceUnavailable)
	if !strings.HasPrefix(a.body, "storage_unavailable: ") {
		t.Error(a.body)
	}
	w.expect(b.do("POST", "/"), http.StatusUnauthorized) // needs none
	recovers()
	b.login("/")
	callback := underWay.begin("/page")

	recovers = w.storageFails()
	w.expect(b.get("/"), http.StatusOK)
	a = underWay.get(callback) // the code cannot be claimed
	w.expect(a, http.StatusServiceUnavailable)
	w.expectTokenRequests(1)
	// A reload makes a new storage of the same configuration; the keys are known.
	w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid", 1))
	w.expect(b.get("/"), http.StatusOK)
	w.expect(w.browser().get("/"), http.StatusFound)
	recovers()
	w.expect(underWay.get(callback), http.StatusSeeOther)
	w.expectTokenRequests(2)
}

// TestLoadingTouchesNothing: neither validating nor loading a config writes a key
// or asks the authorization server.
func TestLoadingTouchesNothing(t *testing.T) {
	w := newWorld(t, setup{})
	if _, err := os.Stat(filepath.Join(w.dir, "storage", "aventus_auth")); !os.IsNotExist(err) {
		t.Errorf("loading a config left something in the storage: %v", err)
	}
	w.expect(w.browser().do("POST", "/"), http.StatusUnauthorized)
	if _, err := os.Stat(filepath.Join(w.dir, "storage", "aventus_auth")); !os.IsNotExist(err) {
		t.Errorf("a 401 left something in the storage: %v", err)
	}
	if len(w.issuer.AuthorizeRequests()) > 0 || len(w.issuer.TokenRequests()) > 0 {
		t.Error("the authorization server was asked")
	}
}
