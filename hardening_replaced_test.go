package aventusauth

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestReplacedNotRecorded: the end of a session that a login replaces is written when the storage takes it again,
// without a further request.
func TestReplacedNotRecorded(t *testing.T) {
	w := newWorld(t, setup{})
	w.onEngine()
	b := w.browser()
	callback := b.begin("/second")
	copied := b.login("/").cookie("aventus_session").Value
	recovers := faultAt(t, "store", "aventus_auth/ended")
	w.expect(b.get(callback), http.StatusSeeOther)
	recovers()
	for _, place := range []string{"all", "lately"} {
		await(t, "the end under "+place, func() bool {
			files, _ := filepath.Glob(filepath.Join(w.dir, "storage", "aventus_auth", "ended", place, "*", "*-*"))
			return len(files) == 1
		})
	}
	w.restart()
	w.expect(w.http1(request{}.withCookie("aventus_session="+copied)), http.StatusFound)
}

// TestReplacedWhileRenewing: a login of the same person replaces a session whose renewal is under way. Its new refresh
// token is not revoked: servers keep one grant for a person and a client, and the new session lives on it. A logout
// has it revoked.
func TestReplacedWhileRenewing(t *testing.T) {
	for _, path := range []string{"/second", "/logout"} {
		hold, arrived := make(chan struct{}), make(chan struct{}, 4)
		release := sync.OnceFunc(func() { close(hold) })
		w := refreshing(t, setup{issuer: func(s *aventustest.Server) {
			s.EditAnswer = func(grant string, _ map[string]any) {
				if grant == "refresh_token" {
					arrived <- struct{}{}
					<-hold
				}
			}
		}})
		t.Cleanup(release)
		b := w.browser()
		second := b.get("/second").location() // another tab, which waits at the authorization server
		b.login("/")
		w.clock.Add(56 * time.Minute)
		w.expect(b.get("/"), http.StatusOK) // begins the renewal
		<-arrived
		want := 0
		if path == "/logout" {
			w.expect(b.get(path), http.StatusOK)
			want = 2 // the one that was spent, and the new one
		} else {
			w.expect(b.get(b.get(second).location()), http.StatusSeeOther)
		}
		release()
		await(t, "the end of the renewal", func() bool {
			locks, _ := filepath.Glob(filepath.Join(w.dir, "storage", "locks", "*renew*"))
			return len(locks) == 0
		})
		if path != "/logout" {
			w.expect(b.get("/"), http.StatusOK)
			w.expect(b.get("/logout"), http.StatusOK)
			want = 1 // the new session's
		}
		await(t, "the revocations", func() bool { return len(w.issuer.Revoked()) >= want })
		if n := len(w.issuer.Revoked()); n != want {
			t.Errorf("%s: %d refresh tokens were revoked, want %d", path, n, want)
		}
	}
}

// TestReplacedSessionEnds: a login ends the session that the browser brings to it, which nothing could end
// any more: after a renewal by visit, and after a second login in another tab.
func TestReplacedSessionEnds(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		for _, how := range []string{"renewal by visit", "another tab"} {
			w := newWorld(t, setup{block: "logout /logout\nsession {\nstore " + store + "\n}",
				issuer: func(s *aventustest.Server) {
					s.TokenLifetime = time.Hour
				}})
			b := w.browser()
			tab := b.begin("/tab")
			first := b.login("/").cookie("aventus_session").Value
			visit := func(cookie string) int {
				a := w.browser().do("GET", "/", "Cookie", "aventus_session="+cookie, "Sec-Fetch-Mode", "navigate")
				return a.StatusCode
			}
			if got := visit(first); got != http.StatusOK {
				t.Fatalf("status %d", got)
			}
			var a answer
			if how == "another tab" {
				a = b.get(tab)
			} else {
				w.clock.Add(57 * time.Minute)
				a = b.login("/page")
			}
			w.expect(a, http.StatusSeeOther)
			second := a.cookie("aventus_session").Value
			if got := visit(first); got != http.StatusFound {
				t.Errorf("%s, %s: the replaced session gets %d", store, how, got)
			}
			if got := visit(second); got != http.StatusOK {
				t.Errorf("%s, %s: the new session gets %d", store, how, got)
			}
			w.expect(b.get("/logout"), http.StatusOK)
			w.restart()
			for _, cookie := range []string{first, second} {
				if got := visit(cookie); got != http.StatusFound {
					t.Errorf("%s, %s: after the logout, status %d", store, how, got)
				}
			}
		}
	}
}

// TestReplacedSessionIsRevoked: the refresh token of a replaced session is revoked if it is another
// person's. The same person's is deleted with its record: an authorization server may revoke the new
// one along with it.
func TestReplacedSessionIsRevoked(t *testing.T) {
	for _, sub := range []string{"auth0|ada", "auth0|grace"} {
		w := refreshing(t, setup{})
		b := w.browser()
		begun := b.get("/tab")
		replaced := b.login("/").cookie("aventus_session").Value
		callback := w.callback(begun, sub)
		w.expect(b.get(callback.target), http.StatusSeeOther)
		want := 0
		if sub != "auth0|ada" {
			want = 1
			await(t, "the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
		}
		if n := len(w.sessionFiles()); n != 1 {
			t.Errorf("%s: %d records, want the new session's", sub, n)
		}
		w.expect(w.http1(request{}.withCookie("aventus_session="+replaced)), http.StatusFound)
		w.clock.Add(2 * time.Hour)
		w.expect(b.get("/"), http.StatusOK) // the new one is renewed
		// A revocation is sent in the background: that of the logout comes after it.
		w.expect(b.get("/logout"), http.StatusOK)
		await(t, "the logout's revocation", func() bool { return len(w.issuer.Revoked()) > want })
		if n := len(w.issuer.Revoked()); n != want+1 {
			t.Errorf("%s: %d were revoked, want %d", sub, n, want+1)
		}
	}
}

// TestReplacedSessionsEnd: where a browser brings several sessions to a login, each of them ends, also where
// the end of the first one cannot be recorded.
func TestReplacedSessionsEnd(t *testing.T) {
	w := newWorld(t, setup{})
	w.onEngine()
	login := func() string { return w.browser().login("/").cookie("aventus_session").Value }
	first, second := login(), login()
	b := w.browser()
	callback := b.begin("/")
	recovers := firstEndFails(t)
	w.expect(b.do("GET", callback, "Cookie", "aventus_session="+first+"; aventus_session="+second),
		http.StatusSeeOther)
	recovers()
	visit := func(cookie string) answer {
		return w.browser().do("GET", "/", "Cookie", "aventus_session="+cookie, "Sec-Fetch-Mode", "navigate")
	}
	w.expect(visit(first), http.StatusFound)
	w.restart()
	w.expect(visit(second), http.StatusFound)
	w.expect(b.get("/"), http.StatusOK)
}

// TestGrantsOfTwoClients: what is granted to another client, or by another server, is never shared with a session that
// replaces it, so its refresh token is revoked.
func TestGrantsOfTwoClients(t *testing.T) {
	at := func(issuer, client string) present {
		return present{neighbour: &neighbour{server: &authServer{issuer: issuer, clientID: client}}}
	}
	s := &session{grant: grant{bearer: bearer + "opaque"}}
	rp := &replacer{own: at("https://auth.example.com/", "a").neighbour}
	for _, c := range []struct {
		issuer, client string
		want           bool
	}{
		{"https://auth.example.com/", "a", true},
		{"https://auth.example.com/", "b", false},
		{"https://auth.example.net/", "a", false},
	} {
		if got := rp.mayShareGrant(s, held{&keptSession{session: s}, at(c.issuer, c.client)}); got != c.want {
			t.Errorf("%s at %s: %t, want %t", c.client, c.issuer, got, c.want)
		}
	}
}

// TestReplacedElsewhereWhileRenewing: another person signs in in the browser while another instance renews the session
// that this replaces. The refresh token that the renewal brings is revoked, too.
func TestReplacedElsewhereWhileRenewing(t *testing.T) {
	held := aventustest.NewHold()
	w := renewingAtTwoInstances(t, held)
	b := w.browser()
	begun := b.get("/one/tab")
	b.login("/one/")
	w.expect(b.get("/rest"), http.StatusOK)
	w.clock.Add(57 * time.Minute)
	held.Next()
	w.expect(b.get("/rest"), http.StatusOK) // renewed at the second instance
	held.Await()
	var once sync.Once
	fault := func(op, key string) error {
		if op == "store" && strings.HasPrefix(key, "aventus_auth/ended") {
			once.Do(func() { // the storage takes a while, and the renewal ends in the meantime
				held.Release()
				await(t, "the renewal to end", func() bool { return w.isUnlocked() })
			})
		}
		return nil
	}
	engineFault.Store(&fault)
	t.Cleanup(func() { engineFault.Store(nil) })
	w.expect(b.get(w.callback(begun, "auth0|grace").target), http.StatusSeeOther)
	renewed := handlers()[1].house.keeper.memory.all()[0].refresh
	await(t, "the refresh token to be revoked", func() bool { return slices.Contains(w.issuer.Revoked(), renewed) })
}
