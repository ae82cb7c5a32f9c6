package aventusauth

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// twoBlocks is a site with a block for /a/ and another for /b/.
func twoBlocks(a, b string) setup {
	return setup{sites: func(w *world) string {
		return fmt.Sprintf("%s {\nroute {\n%s\n%s\nreverse_proxy %s\n}\n}\n",
			w.site, w.directive("/a/*", a), w.directive("/b/*", b), w.app)
	}}
}

// differing are the subdirectives of two blocks that do not open each other's cookies, and whether
// they share a cookie's name.
var differing = []struct {
	name, a, b string
	oneName    bool
}{
	{"another scope", "", "scope admin", true},
	{"another name", "", "session {\nname two\n}", false},
	{"another key", "", "session {\nkey MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n}", true},
	{"in the storage", "session {\nstore storage\n}",
		"scope offline_access\nsession {\nname two\nstore storage\n}", false},
}

// TestLogoutOfAllBlocks: a logout ends the sessions that the browser has at this host, whichever block
// made them and whichever block's path it is, and deletes their cookies. A copy of none of them is good.
func TestLogoutOfAllBlocks(t *testing.T) {
	for _, c := range differing {
		for _, logins := range [][]string{{"/a/"}, {"/b/"}, {"/a/", "/b/"}} {
			for _, in := range []string{"a", "b"} { // which block has the logout
				a, b := c.a, c.b
				if in == "a" {
					a += "\nlogout /logout"
				} else {
					b += "\nlogout /logout"
				}
				w := newWorld(t, twoBlocks(a, b))
				browser := w.browser()
				for _, path := range logins {
					browser.login(path)
				}
				var names []string
				for _, cookie := range browser.cookies() {
					if cookie.Name != "aventus_login" {
						names = append(names, cookie.Name)
					}
				}
				cookies := browser.cookieHeader()
				answer := browser.get("/logout")
				w.expect(answer, http.StatusOK)
				for _, name := range names {
					if cookie := answer.cookie(name); cookie == nil || cookie.MaxAge >= 0 {
						t.Errorf("%s, %v, %s: the cookie %s stays: %v", c.name, logins, in, name, answer.Header)
					}
				}
				if n := len(answer.Header["Set-Cookie"]); n != len(names) {
					t.Errorf("%s, %v, %s: %d cookies are set, want %d", c.name, logins, in, n, len(names))
				}
				w.restart()
				for _, path := range []string{"/a/", "/b/"} {
					if got := w.http1(request{target: path}.withCookie(cookies)).StatusCode; got != http.StatusFound {
						t.Errorf("%s, %v, %s: %s after the logout: status %d", c.name, logins, in, path, got)
					}
				}
			}
		}
	}
}

// TestLogoutOfAnotherBlockUnrecorded: a logout that cannot be recorded, and so is not answered by the error routes, is
// also one that deletes only the cookie of another block.
func TestLogoutOfAnotherBlockUnrecorded(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return fmt.Sprintf("%s {\nroute {\n%s\n%s\nreverse_proxy %s\n}\n"+
			"handle_errors {\nrespond \"a page of the site\"\n}\n}\n", w.site, w.directive("/a/*", "logout /logout"),
			w.directive("/b/*", "session {\nname two\n}"), w.app)
	}})
	b := w.browser()
	b.login("/b/")
	recovers := w.storageFails()
	a := b.get("/logout")
	recovers()
	w.expect(a, http.StatusServiceUnavailable)
	if c := a.cookie("two"); c == nil || c.MaxAge >= 0 || strings.Contains(a.body, "a page of the site") {
		t.Errorf("Set-Cookie %q, %s", a.Header["Set-Cookie"], a.body)
	}
}

// TestLogoutOfAllBlocksRevokes: each block's refresh token is revoked, once, and the records go.
func TestLogoutOfAllBlocksRevokes(t *testing.T) {
	w := newWorld(t, twoBlocks("scope offline_access\nlogout /logout", "scope offline_access\nsession {\nname two\n}"))
	b := w.browser()
	b.login("/a/")
	b.login("/b/")
	w.expect(b.get("/logout"), http.StatusOK)
	await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) == 2 })
	if revoked := w.issuer.Revoked(); revoked[0] == revoked[1] {
		t.Error("one was revoked twice")
	}
	if files := w.sessionFiles(); len(files) != 0 {
		t.Errorf("%d records are left", len(files))
	}
	if n := strings.Count(w.log(), `"signed out"`); n != 2 {
		t.Errorf("signed out %d times, want 2", n)
	}
}

// TestLogoutAtOneHost: another host's sessions are none of the logout's.
func TestLogoutAtOneHost(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		site := func(host string) string {
			here := strings.Replace(w.site, "localhost", host, 1)
			return fmt.Sprintf("%s {\n%s\nreverse_proxy %s\n}\n", here,
				strings.ReplaceAll(w.directive("", "logout /logout"), w.site, here), w.app)
		}
		return site("localhost") + site("other.localhost")
	}})
	b := w.browser()
	b.login("/")
	other := "other.localhost:" + w.port
	w.expect(w.http1(request{target: "/logout", host: other}.withCookie(b.cookieHeader())), http.StatusOK)
	w.expect(b.get("/"), http.StatusOK)
}

// TestSignedOutOfAllBlocks: the page that says so, and the answer that has the browser drop its pages,
// are for a browser without a session of any block.
func TestSignedOutOfAllBlocks(t *testing.T) {
	const logout = "\nlogout /logout\nlogout_provider"
	for _, c := range differing {
		for _, path := range []string{"/a/", "/b/"} {
			w := newWorld(t, twoBlocks(c.a+logout, c.b+logout))
			b := w.browser()
			b.login(path)
			w.expectRedirect(b.get("/logout?signed_out"), http.StatusSeeOther, w.site)
			w.expect(b.do("GET", "/logout?signed_out", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
			a := b.do("GET", "/logout?forget", "Sec-Fetch-Dest", "image")
			w.expect(a, http.StatusForbidden)
			if a.Header["Clear-Site-Data"] != nil {
				t.Errorf("%s, %s: %v", c.name, path, a.Header)
			}
			w.expect(b.get(path), http.StatusOK)
			w.expect(b.get("/logout"), http.StatusSeeOther)
			w.expect(b.get("/logout?signed_out"), http.StatusOK)
			w.expect(b.do("GET", "/logout?forget", "Sec-Fetch-Dest", "image"), http.StatusNoContent)
		}
	}
}

// TestReplacedByAnotherBlock: a login ends another block's session if its cookie takes that one's
// place, and only then.
func TestReplacedByAnotherBlock(t *testing.T) {
	for _, c := range differing {
		w := newWorld(t, twoBlocks(c.a, c.b))
		for _, paths := range [][]string{{"/a/", "/b/"}, {"/b/", "/a/"}} {
			b := w.browser()
			b.login(paths[0])
			first := request{target: paths[0]}.withCookie(b.cookieHeader())
			w.expect(w.http1(first), http.StatusOK)
			b.login(paths[1])
			w.expect(b.get(paths[1]), http.StatusOK)
			want := http.StatusOK
			if c.oneName {
				want = http.StatusFound
			}
			if got := w.http1(first).StatusCode; got != want {
				t.Errorf("%s: %s after the login at %s: status %d, want %d", c.name, paths[0], paths[1], got, want)
			}
		}
	}
}

// TestLogoutGoesThroughAll: a cookie whose session cannot be judged keeps no other session from being
// ended, wherever it stands; the failure is reported all the same.
func TestLogoutGoesThroughAll(t *testing.T) {
	for _, damagedFirst := range []bool{true, false} {
		w := newWorld(t, setup{block: "logout /logout\nsession {\nstore storage\n}"})
		damaged := w.browser().login("/").cookie("aventus_session").Value
		files := w.sessionFiles()
		good := w.browser().login("/").cookie("aventus_session").Value
		w.restart()
		record, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[0], record[:len(record)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		both := []string{"aventus_session=" + damaged, "aventus_session=" + good}
		if !damagedFirst {
			slices.Reverse(both)
		}
		a := w.http1(request{target: "/logout"}.withCookie(strings.Join(both, "; ")))
		w.expect(a, http.StatusServiceUnavailable)
		if c := a.cookie("aventus_session"); c == nil || c.MaxAge >= 0 {
			t.Errorf("the cookie stays: %v", a.Header)
		}
		w.expect(w.http1(request{}.withCookie("aventus_session="+good)), http.StatusFound)
	}
}

// TestLogoutOpenedByAnother: that one block cannot check a cookie which another opens keeps nobody from signing out.
func TestLogoutOpenedByAnother(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		withKey := "logout /logout\nsession {\nkey " + strings.Repeat("a", 43) + "\n}"
		return w.site + " {\nroute {\n" + w.directive("/a/*", "logout /logout") + "\n" + w.directive("", withKey) +
			"\nreverse_proxy " + w.app + "\n}\n}"
	}})
	w.onEngine()
	b := w.browser()
	b.login("/page")
	w.restart()
	faultAt(t, "load", keyring.File)
	w.expect(b.get("/page"), http.StatusOK)
	w.expect(b.get("/logout"), http.StatusOK)
	w.expect(b.do("GET", "/page"), http.StatusUnauthorized)
}

// TestCallbacksAtOnce: a browser that restores its tabs sends several callbacks before an answer comes,
// all with the cookies of before. It keeps one session's cookie, whichever answer comes last; the
// logout ends all of these sessions. Those of other names and of other browsers live.
func TestCallbacksAtOnce(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		for _, kept := range []int{0, 1, 2} {
			w := newWorld(t, twoBlocks("logout /logout\nsession {\nstore "+store+"\n}", "session {\nname two\n}"))
			other := w.browser()
			other.login("/a/")
			b := w.browser()
			b.login("/b/")
			var callbacks []string
			for range 3 {
				callbacks = append(callbacks, strings.TrimPrefix(b.begin("/a/"), w.site))
			}
			before := b.cookieHeader()
			var sessions []string
			for _, target := range callbacks {
				a := w.http1(request{target: target}.withCookie(before))
				w.expect(a, http.StatusSeeOther)
				sessions = append(sessions, "aventus_session="+a.cookie("aventus_session").Value)
			}
			w.expect(b.get("/b/"), http.StatusOK)
			w.expect(w.http1(request{target: "/a/"}.withCookie(sessions[2])), http.StatusOK)
			w.expect(w.http1(request{target: "/logout"}.withCookie(before+"; "+sessions[kept])), http.StatusOK)
			for i, session := range sessions {
				if got := w.http1(request{target: "/a/"}.withCookie(session)).StatusCode; got != http.StatusFound {
					t.Errorf("%s, kept %d: session %d after the logout: status %d", store, kept, i, got)
				}
			}
			w.expect(other.get("/a/"), http.StatusOK)
			if store == "storage" && len(w.sessionFiles()) != 1 {
				t.Errorf("kept %d: %d records, want the other browser's", kept, len(w.sessionFiles()))
			}
		}
	}
}

// TestCallbacksAtOnceOnceMore: the next login of the browser ends what is left of them, too.
func TestCallbacksAtOnceOnceMore(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	one, two := b.begin("/1"), b.begin("/2")
	before := b.cookieHeader()
	first := w.http1(request{target: strings.TrimPrefix(one, w.site)}.withCookie(before)).cookie(
		"aventus_session").Value
	second := w.http1(request{target: strings.TrimPrefix(two, w.site)}.withCookie(before)).cookie(
		"aventus_session").Value
	// Until the tabs have settled, each may still be asked for pages with its own.
	w.expect(w.http1(request{}.withCookie("aventus_session="+first)), http.StatusOK)
	w.expect(w.http1(request{}.withCookie("aventus_session="+second)), http.StatusOK)
	w.clock.Add(tabsSettle)
	b.login("/") // the answers never came
	w.expect(w.http1(request{}.withCookie("aventus_session="+first)), http.StatusFound)
	w.expect(w.http1(request{}.withCookie("aventus_session="+second)), http.StatusFound)
	w.expect(b.get("/"), http.StatusOK)
}

// TestLastLogins: the latest logins of a browser are remembered within bounds.
func TestLastLogins(t *testing.T) {
	var l lastLogins
	start := time.Unix(1_800_000_000, 0)
	made := func(n int) *keptSession {
		return &keptSession{session: &session{id: [16]byte{byte(n)}}, seen: toUnix(start) + unixTime(n)}
	}
	jar := records.ID{1}
	if latest := l.of(jar); latest != nil {
		t.Errorf("%d sessions of nobody", len(latest))
	}
	for n := range loginsOfOne {
		if replaced := l.add(jar, made(n)); len(replaced) != 0 {
			t.Fatalf("login %d replaces %d sessions", n, len(replaced))
		}
	}
	if replaced := l.add(jar, made(loginsOfOne)); len(replaced) != 1 || replaced[0].id != made(0).id {
		t.Errorf("one too many replaces %v", replaced)
	}
	if replaced := l.add(records.ID{2}, made(200)); len(replaced) != 0 {
		t.Errorf("another browser's login replaces %v", replaced)
	}
	if replaced := l.add(jar, made(200)); len(replaced) != loginsOfOne {
		t.Errorf("a login after they have settled replaces %d sessions", len(replaced))
	}
	if latest := l.of(jar); len(latest) != 1 || latest[0].id != made(200).id {
		t.Errorf("the latest are %d sessions", len(latest))
	}
	if replaced := l.add(jar, made(100)); len(replaced) != 1 {
		t.Errorf("a login after the clock was set back replaces %d sessions", len(replaced))
	}
}

// TestTabsAtOnce: tabs that log in at once, and ask for their pages with the cookies that the browser has by
// then, each get there without a second login, and their scripts are not refused.
func TestTabsAtOnce(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout"})
	b := w.browser()
	var callbacks []string
	for n := range 6 {
		callbacks = append(callbacks, strings.TrimPrefix(b.begin(fmt.Sprint("/", n)), w.site))
	}
	before := b.cookieHeader()
	var cookies []string
	for _, target := range callbacks {
		a := w.http1(request{target: target}.withCookie(before))
		w.expect(a, http.StatusSeeOther)
		cookies = append(cookies, "aventus_session="+a.cookie("aventus_session").Value)
	}
	for _, cookie := range cookies {
		w.expect(w.http1(request{}.withCookie(cookie)), http.StatusOK)
		w.expect(w.http1(request{headers: []string{"Sec-Fetch-Mode", "cors"}}.withCookie(cookie)), http.StatusOK)
	}
	w.expect(w.http1(request{target: "/logout"}.withCookie(before+"; "+cookies[2])), http.StatusOK)
	for n, cookie := range cookies {
		if got := w.http1(request{}.withCookie(cookie)).StatusCode; got != http.StatusFound {
			t.Errorf("after the logout, tab %d gets %d", n, got)
		}
	}
}
