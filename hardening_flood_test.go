package aventusauth

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

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
			return w.site + " {\n" + w.directive("", "scope offline_access\nlogout /logout\naccept_bearer") +
				"\nreverse_proxy " + w.app + errorsShown + "\n}"
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
				if a.StatusCode != want.status || want.code != "" && a.body != want.code+": "+want.description ||
					session != nil && session.Value != "" {
					t.Errorf("status %d, want %d: %v %s", a.StatusCode, want.status, a.Header, a.body)
				}
				if waited := time.Since(start); waited < atLeast {
					t.Errorf("status %d after %v", a.StatusCode, waited)
				}
			})
		}
	}
	asked, fetched, revoked, logged := len(w.issuer.TokenRequests()), w.issuer.JWKSRequests(),
		len(w.issuer.Revoked()), len(w.log())
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
	expect(20, errTokenTimeout, 0, func(int) answer {
		return crowd.do("GET", "/", "Authorization", "Bearer "+unknown)
	})
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
	const inTime = "the token endpoint: no answer in time (the token endpoint is slow or hangs; see the " +
		"authorization server's status)"
	if want := map[string]int{
		"error token_timeout: " + inTime: 2*many + int(slow.Load()),
		"error token_timeout: the key set: no answer in time (the key set is slow or hangs; see the authorization " +
			"server's status)": 20,
		"error token_refused: the token endpoint answered 200: the token answer is larger than 1 MiB (check issuer " +
			"and token_url: this may not be a token endpoint)": many - int(slow.Load()),
		"warn a session cannot be renewed any more; it ends with its token: " +
			inTime: 2,
		"warn the refresh token of a session that has ended could not be revoked: " +
			strings.ReplaceAll(inTime, "token endpoint", "revocation endpoint"): 1,
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

// TestManyCookies: a header of thousands of empty cookies, or of hundreds with our
// name, each of which has to be opened to be refused (mod_auth_openidc, CVE-2024-24814;
// Go's own parser, CVE-2025-58186). It is an anonymous request and not a slow one; a good
// cookie behind a bad one counts.
func TestManyCookies(t *testing.T) {
	w := newWorld(t, setup{https: true})
	b := w.browser()
	b.login("/")
	good := b.cookieHeader()
	value := b.cookies()[slices.IndexFunc(b.cookies(), func(c *http.Cookie) bool {
		return c.Name == "__Host-aventus_session"
	})].Value
	w.overEach(func(t *testing.T, send func(request) answer) {
		for cookie, want := range map[string]int{
			strings.Repeat(";", 3000):                        http.StatusFound,
			strings.Repeat("=;", 7000):                       http.StatusFound,
			strings.Repeat("__Host-aventus_session=x;", 500): http.StatusFound,
			// of a key that is known
			strings.Repeat("__Host-aventus_session="+value[:70]+";", 150): http.StatusFound,
			// of one that is not
			strings.Repeat("__Host-aventus_session=AQ"+strings.Repeat("x", 70)+";", 150): http.StatusFound,
			strings.Repeat("__Host-aventus_login=x;", 500):                               http.StatusFound,
			"__Host-aventus_session=x; " + good:                                          http.StatusOK,
			good + strings.Repeat("; __Host-aventus_session=x", 100):                     http.StatusOK,
			strings.Repeat(";", 3000) + good:                                             http.StatusOK,
			strings.Replace(good, "__Host-aventus_session=", "x=", 1):                    http.StatusFound,
			strings.ReplaceAll(good, "aventus_session", "AVENTUS_SESSION"):               http.StatusFound,
		} {
			w.requests()
			a := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}}.withCookie(cookie))
			if a.StatusCode != want {
				t.Errorf("%.60s: status %d, want %d", cookie, a.StatusCode, want)
			}
			for _, r := range w.requests() {
				if strings.Contains(r.Header.Get("Cookie"), "aventus_") {
					t.Errorf("%.60s: the app was sent %s", cookie, r.Header.Get("Cookie"))
				}
			}
		}
	})
}

// TestHugeRequests: what is as long as Caddy lets it be (16 KiB of headers) makes
// nothing panic, and no error of the server's; and the largest cookies that there can
// be get through.
func TestHugeRequests(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me\naccept_bearer"})
	w.overEach(func(t *testing.T, send func(request) answer) {
		for piece, n := range map[string]int{
			"%": 15_000, "%25": 15_000, ";": 15_000, "//": 15_000, "/../": 15_000, "a=b&": 15_000, "eyJ.": 15_000,
			"{env.X}": 15_000, "\\": 15_000, ",": 15_000, "-": 15_000, "x": 40_000,
		} {
			long := strings.Repeat(piece, n/len(piece))
			for _, r := range []request{
				{target: "/" + long}, {target: "/?" + long}, {target: "/oauth2/callback?" + long},
				{target: "/oauth2/callback?code=x&state=" + long},
				{target: "/me?" + long},
				{headers: []string{"Cookie", "__Host-aventus_session=" + long}},
				{headers: []string{"Cookie", long, "Sec-Fetch-Mode", "cors"}},
				{headers: []string{"Authorization", "Bearer " + long}},
				{headers: []string{"Accept", long}}, {headers: []string{"Connection", long, "Upgrade", long}},
				{target: "/logout", headers: []string{"Sec-Fetch-Site", long}}, {host: long},
			} {
				if a := send(r); a.StatusCode >= 500 {
					t.Errorf("%d times %q, %.30q: status %d", len(long)/len(piece), piece, fmt.Sprint(r), a.StatusCode)
				}
			}
		}
	})
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}

	w = newWorld(t, setup{https: true, issuer: func(s *aventustest.Server) { s.TokenChars = 1600 },
		sites: func(w *world) string {
			site := w.site + " {\ntls internal\n"
			for _, name := range []string{"a", "b", "c"} {
				site += w.directive("/"+name, "session {\nname "+strings.Repeat(name, 20)+"\n}") + "\n"
			}
			return site + "reverse_proxy " + w.app + "\n}"
		}})
	b := w.browser()
	for _, path := range []string{"/a", "/b", "/c"} {
		b.login(path)
	}
	if n := len(b.cookieHeader()); n < 5_500 || n > maxCookies {
		t.Errorf("the cookies have %d bytes", n)
	}
	w.overEach(func(t *testing.T, send func(request) answer) {
		for _, path := range []string{"/a", "/b", "/c"} {
			w.expect(send(request{target: path}.withCookie(b.cookieHeader())), http.StatusOK)
		}
	})
}

// TestFloodLeavesNothing: a flood of requests without a session leaves nothing behind
// on the server: no state of a login begun, no record of a callback that is none.
func TestFloodLeavesNothing(t *testing.T) {
	w := newWorld(t, setup{https: true, block: "session {\nstore storage\n}"})
	w.expect(w.http1(request{}), http.StatusFound)
	files := func() (n int) {
		err := filepath.WalkDir(filepath.Join(w.dir, "storage", "aventus_auth"),
			func(_ string, _ fs.DirEntry, err error) error {
				n++
				return err
			})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := files()
	w.overEach(func(t *testing.T, send func(request) answer) {
		for i := range 100 {
			begun := send(request{})
			w.expect(begun, http.StatusFound)
			w.expect(send(request{target: fmt.Sprintf("/oauth2/callback?code=%d&state=%d", i, i)}),
				http.StatusBadRequest)
			another := w.callback(begun, "auth0|ada") // in a browser that did not begin it
			another.headers = nil
			w.expect(send(another), http.StatusFound)
		}
	})
	if n := files(); n != before {
		t.Errorf("%d files and folders in the storage, want the %d of the start", n, before)
	}
	w.expectTokenRequests(0)
}

// TestHugeClaims: whatever a token holds, a request with it is answered.
func TestHugeClaims(t *testing.T) {
	w := newWorld(t, setup{
		block: "accept_bearer", caddyfile: "%s\nrespond \"{http.auth.user.a.b} {http.auth.user.deep}\"",
	})
	many := map[string]any{}
	for i := range 300 {
		many[fmt.Sprintf("claim.%d/{env.HOME}", i)] = i
	}
	a := w.browser().do("GET", "/", "Authorization", "Bearer "+w.issuer.SignJWT(w.tokenClaims(many)))
	w.expect(a, http.StatusOK)
	deep := json.RawMessage(strings.Repeat("[", 3000) + strings.Repeat("]", 3000))
	a = w.browser().do("GET", "/", "Authorization",
		"Bearer "+w.issuer.SignJWT(w.tokenClaims(map[string]any{"deep": deep})))
	w.expect(a, http.StatusOK)
	_, _ = io.Discard.Write([]byte(a.body))
}
