package aventusauth

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// TestCopyOfTheStorage: with all that is in the storage, and without a cookie, no
// session can be opened; nor can one record stand in for another.
func TestCopyOfTheStorage(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\n}", caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	ada, other := w.browser(), w.browser()
	ada.login("/")
	w.expect(ada.get("/"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	files := w.sessionFiles()
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte(token)) || bytes.Contains(content, []byte("auth0|ada")) {
		t.Error("the record can be read")
	}

	// One record in another's place, one that is cut off, and one of zeros are nobody's session. When they are
	// mended, nothing is lost, also of what was taken for no record.
	other.login("/")
	victim := w.sessionFiles()[0]
	if victim == files[0] {
		victim = w.sessionFiles()[1]
	}
	good, err := os.ReadFile(victim)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"another's": content, "cut off": good[:20], "zeros": make([]byte, len(good)), "empty": {},
	} {
		if err := os.WriteFile(victim, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		w.restart()
		a := other.get("/")
		want := http.StatusServiceUnavailable
		if len(bad) <= 20 { // it is none
			want = http.StatusFound
		}
		if a.StatusCode != want || want != http.StatusFound && !strings.HasPrefix(a.body, "storage_unavailable: ") {
			t.Errorf("%s: status %d, %s", what, a.StatusCode, a.body)
		}
		w.expect(ada.get("/"), http.StatusOK)
	}
	if err := os.WriteFile(victim, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.expect(other.get("/"), http.StatusOK)
}

// TestSessionFixation: who plants a session, or knows the one before, must not have
// the one after the login (express-openid-connect, CVE-2021-41246).
func TestSessionFixation(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{https: true, block: "logout /logout\nsession {\nstore " + store + "\n}"})
		w.overEach(func(t *testing.T, send func(request) answer) {
			seen := map[string]bool{}
			login := func(cookie string) string {
				begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
				r := w.callback(begun, "auth0|ada")
				r.headers[1] += "; " + cookie
				a := send(r)
				w.expect(a, http.StatusSeeOther)
				name, value, _ := attributes(a.Header.Get("Set-Cookie"))
				if seen[value] || value == "" {
					t.Errorf("%s: the login brought a cookie that was there before", store)
				}
				seen[value] = true
				return name + "=" + value
			}
			planted := login("x=1")
			w.expect(send(request{target: "/logout"}.withCookie(planted)), http.StatusOK)
			for i := range 4 {
				attackers := login("x=1")
				before := []string{planted, "__Host-aventus_session=planted", attackers, planted + "; " + attackers}[i]
				victims := login(before)
				w.expect(send(request{}.withCookie(victims)), http.StatusOK)
				w.expect(send(request{}.withCookie(planted)), http.StatusFound)
				// It is a session of its own: that one of them ends is nothing to the other.
				w.expect(send(request{target: "/logout"}.withCookie(victims)), http.StatusOK)
				w.expect(send(request{}.withCookie(victims)), http.StatusFound)
				// One that the browser brought has ended with the login.
				theirs := http.StatusOK
				if i >= 2 {
					theirs = http.StatusFound
				}
				w.expect(send(request{}.withCookie(attackers)), theirs)
			}
		})
	}
}

// TestRenewalsOfTwoUsers: what is shared by requests that come at once is one session's,
// and never the next one's (nextjs-auth0, CVE-2025-67490 and CVE-2026-40155).
func TestRenewalsOfTwoUsers(t *testing.T) {
	const each = 10
	var waiting atomic.Int64
	var renewing atomic.Bool
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
		s.TokenFault = func(http.ResponseWriter, *http.Request) bool {
			if renewing.Load() { // all of them are under way before the first is answered
				waiting.Add(1)
				poll(5*time.Second, func() bool { return waiting.Load() >= 2*each })
			}
			return false
		}
	}})
	users := map[string][]*browser{"auth0|ada": nil, "auth0|grace": nil}
	for sub := range users {
		for range each {
			b := w.browser()
			b.loginAs("/", sub)
			users[sub] = append(users[sub], b)
		}
	}
	w.clock.Add(2 * time.Hour)
	w.requests()
	renewing.Store(true)
	var done sync.WaitGroup
	for sub, browsers := range users {
		for _, b := range browsers {
			done.Go(func() {
				if a := b.get("/?" + sub); a.StatusCode != http.StatusOK {
					t.Errorf("%s: status %d", sub, a.StatusCode)
				}
			})
		}
	}
	done.Wait()
	tokens := map[string]bool{}
	for _, r := range w.requests() {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if sub := claims.Of(token).Subject(); sub != r.URL.RawQuery {
			t.Errorf("the app was sent a token of %q for %s", sub, r.URL.RawQuery)
		}
		tokens[token] = true
	}
	if len(tokens) != 2*each {
		t.Errorf("%d sessions have %d tokens", 2*each, len(tokens))
	}
	w.expectNoReuse()
}

// TestEmptyRecord: a session's record that a crash has left empty, or cut short in its index, is none: the visitor can
// sign in anew.
func TestEmptyRecord(t *testing.T) {
	for _, size := range []int{0, 1, 2, 40} {
		w := newWorld(t, setup{block: "session {\nstore storage\n}"})
		b := w.browser()
		b.login("/")
		for _, file := range w.sessionFiles() {
			if err := os.Truncate(file, int64(size)); err != nil {
				t.Fatal(err)
			}
		}
		w.restart()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
	}
}
