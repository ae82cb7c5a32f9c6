package aventusauth

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

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
		"no state":           {with(callback, "state", ""), "invalid_state"},
		"made-up state":      {with(callback, "state", "abc"), "invalid_state"},
		"damaged state":      {with(callback, "state", flip(state)), "invalid_state"},
		"shortened state":    {with(callback, "state", state[:len(state)-1]), "invalid_state"},
		"lengthened state":   {with(callback, "state", state+"A"), "invalid_state"},
		"state, line broken": {with(callback, "state", state[:9]+"\n"+state[9:]), "invalid_state"},
		"state of a session": {with(callback, "state", session), "invalid_state"},
		"state twice":        {callback + "&state=" + state, "invalid_callback"},
		"code twice":         {callback + "&code=x", "invalid_callback"},
		"error twice":        {with(callback, "code", "") + "&error=x&error=x", "invalid_callback"},
		"description twice": {with(callback, "code", "") + "&error=x&error_description=a&error_description=a",
			"invalid_callback"},
		"iss twice":           {callback + "&iss=" + w.issuer.Issuer + "&iss=" + w.issuer.Issuer, "invalid_callback"},
		"code twice, escaped": {callback + "&c%6Fde=x", "invalid_callback"},
		"code and error":      {callback + "&error=x", "invalid_callback"},
		"neither":             {with(callback, "code", ""), "invalid_callback"},
		"empty code":          {with(callback, "code", "") + "&code=", "invalid_callback"},
		"another issuer":      {callback + "&iss=https://evil.test/", "invalid_callback"},
		"another issuer's error": {with(callback, "code", "") + "&error=access_denied&error_description=evil&" +
			"iss=https://evil.test/", "invalid_callback"},
		"a semicolon":         {callback + ";x=1", "invalid_state"}, // it is part of the state
		"a bad percent":       {strings.Replace(callback, "code=", "code=%zz", 1), "invalid_callback"},
		"a bad percent, iss":  {callback + "&iss=100%", "invalid_callback"},
		"a bad description":   {with(callback, "code", "") + "&error=x&error_description=100%", "invalid_callback"},
		"nothing at all":      {w.site + "/oauth2/callback", "invalid_state"},
		"an error, no state":  {w.site + "/oauth2/callback?error=access_denied", "invalid_state"},
		"markup in the error": {with(callback, "state", "x") + "&error_description=<script>", "invalid_state"},
	} {
		a := b.get(c.callback)
		if a.StatusCode != http.StatusBadRequest || !strings.HasPrefix(a.body, c.code+": ") ||
			a.Header.Get("Cache-Control") != "no-store" || a.Header["Set-Cookie"] != nil {
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
	if log := w.log(); !strings.Contains(log, "<b>said</b>??by the server") &&
		!strings.Contains(log, `\u003cb\u003esaid`) {
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

// TestCallbackSaysMore: what else stands in a callback's query, and however it is
// written, costs nobody the login.
func TestCallbackSaysMore(t *testing.T) {
	w := newWorld(t, setup{})
	n := 0
	for _, more := range []string{
		"scope=a;b", "hint=100%", "x=%zz&%zz=x", "x=1&x=2", "session_state=a&session_state=a", "=&&",
		"error_uri=x&error_uri=y", "Code=x&STATE=y",
		"iss=" + url.QueryEscape(w.issuer.Issuer), strings.Repeat("x=1&", 1000), "code[]=x&state.x=y", "%E4=%E4",
	} {
		for _, first := range []bool{false, true} {
			b := w.browser()
			path, rest, _ := strings.Cut(b.begin("/page?q"), "?")
			callback := path + "?" + rest + "&" + more
			if first {
				callback = path + "?" + more + "&" + rest
			}
			a := b.get(callback)
			n++
			if a.StatusCode != http.StatusSeeOther || a.location() != w.site+"/page?q" {
				t.Errorf("%.40s: status %d, to %s", more, a.StatusCode, a.location())
			}
		}
	}
	w.expectTokenRequests(n)
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

	// The back button leads to a login of its own, which may take too long, too.
	used := a.Request.URL.String()
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "aventus_session", Path: "/", MaxAge: -1}})
	a = b.get(used)
	w.expect(a, http.StatusFound)
	callback = b.get(a.location()).location()
	w.clock.Add(loginLifetime + time.Second)
	w.expect(b.get(callback), http.StatusFound)
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

// TestCallbackOfAnotherSite: a callback that comes to another site than the one where its login began is refused,
// though both have its path.
func TestCallbackOfAnotherSite(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		other := "http://other.localhost:" + w.port
		return w.site + " {\n" + w.directive("", "") + "\n}\n" +
			other + " {\n" + strings.ReplaceAll(w.directive("", ""), w.site, other) + "\n}"
	}})
	b := w.browser()
	callback := b.begin("/page")
	w.expect(b.do("GET", callback, "Host", "other.localhost:"+w.port), http.StatusBadRequest)
	w.expectTokenRequests(0)
	w.expect(b.get(callback), http.StatusSeeOther)
}

// TestCallbackOfAnotherPath: a login ends at its own redirect URI, and at no other
// block's.
func TestCallbackOfAnotherPath(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Replace(w.directive("/a", "session {\nname a\n}"), "/oauth2/callback",
			"/oauth2/a", 1) +
			"\n" + w.directive("/b", "") + "\n}"
	}})
	b := w.browser()
	w.expect(b.get(strings.Replace(b.begin("/b"), "/oauth2/callback", "/oauth2/a", 1)), http.StatusBadRequest)
	w.expectTokenRequests(0)
}

// TestCallbackPathWrittenOtherwise: of blocks whose redirect URIs have one path, the first gets the callbacks of
// all, also where their queries differ, or how they write the path. Each login ends at its own block.
func TestCallbackPathWrittenOtherwise(t *testing.T) {
	uris := []string{"/oauth2/callback", "/oauth2/callback?x=b", "/oauth2/c%61llback"}
	for _, further := range []string{"", "session {\nname s%s\n}"} { // one login, or three
		w := newWorld(t, setup{sites: func(w *world) string {
			blocks := ""
			for i, uri := range uris {
				w.issuer.Clients[0].RedirectURIs = append(w.issuer.Clients[0].RedirectURIs, w.site+uri)
				block := w.directive(fmt.Sprintf("/%d/*", i), strings.Replace(further, "%s", strconv.Itoa(i), 1))
				blocks += strings.Replace(block, "/oauth2/callback", uri, 1) + "\n"
			}
			return w.site + " {\n" + blocks + "reverse_proxy " + w.app + "\n}"
		}})
		for i := range uris {
			b, page := w.browser(), fmt.Sprintf("/%d/", i)
			a := b.get(b.get(b.get(page).location()).location())
			w.expect(a, http.StatusSeeOther)
			w.expect(b.get(page), http.StatusOK)
		}
	}
}
