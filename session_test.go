package aventusauth

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestHeaderFitsAProxy: the header of each answer of the module's own stays below 4,096 bytes, which is what
// nginx takes by default, however long the token and the page's URL are: a session that would make it
// longer rests in the storage.
func TestHeaderFitsAProxy(t *testing.T) {
	for policy, steps := range map[int]int{100: 10, 1900: 6} { // the length of a header of the site's own
		var chars atomic.Int64
		w := newWorld(t, setup{https: true, block: "logout /logout\nprofile /me", caddyfile: `
			header Content-Security-Policy "` + strings.Repeat("x", policy) + `"
			%s
			reverse_proxy %app`, issuer: func(s *aventustest.Server) {
			s.TokenLifetime = time.Hour
			s.Claims = func(aventustest.User) map[string]any {
				return map[string]any{"pad": strings.Repeat("x", int(chars.Load()))}
			}
		}})
		inCookie, longest := 0, 0
		check := func(a answer, status int) {
			t.Helper()
			w.expect(a, status)
			size := len("HTTP/1.1 ") + len(a.Status) + len("\r\n\r\n")
			for name, values := range a.Header {
				for _, value := range values {
					size += len(name) + len(": ") + len(value) + len("\r\n")
				}
			}
			if longest = max(longest, size); size >= 4096 {
				t.Errorf("a token with %d more characters: a header of %d bytes", chars.Load(), size)
			}
		}
		for step := range steps {
			chars.Store(int64(step * 200))
			for _, page := range []string{
				"/", "/page?q=" + strings.Repeat("x", 600), "/page?q=" + strings.Repeat("x", 1100),
			} {
				b := w.browser()
				a := b.get(page)
				check(a, http.StatusFound)
				a = b.get(b.get(a.location()).location())
				check(a, http.StatusSeeOther)
				if len(a.cookie("__Host-aventus_session").Value) > 200 {
					inCookie++
				}
				w.expect(b.get("/"), http.StatusOK)
				w.clock.Add(time.Hour - renewAtLast + time.Second)
				check(b.get(page), http.StatusFound) // the renewal by visit
				check(b.get("/me"), http.StatusOK)
				check(b.get("/logout"), http.StatusOK)
			}
		}
		if inCookie == 0 || inCookie == 3*steps || longest < 3400 {
			t.Errorf("%d sessions are in their cookies, and the longest header has %d bytes", inCookie, longest)
		}
	}
}

// TestSessionOfAnotherRelease: a session that opens with its key, and is of a version that is not known, has
// ended, in its cookie and in the storage: its visitor signs in again, and does not get 503 for ever.
func TestSessionOfAnotherRelease(t *testing.T) {
	b := benchHandler(t, Config{Session: Session{Store: "storage"}})
	at := *b.house.gate.sites.fixed
	s := b.house.keeper.make(&oauth2.Token{AccessToken: "eyJhIjoxfQ.eyJiIjoyfQ.c2lnbmVk", ExpiresIn: 3600}, nil)
	w := httptest.NewRecorder()
	if _, err := b.house.keeper.save(w, t.Context(), at, nil, s, "/"); err != nil {
		t.Fatal(err)
	}
	k := b.house.keeper.memory.all()[0]
	b.house.keeper.memory.sessions.InvalidateAll()
	if opened, _, err := b.house.keeper.open(t.Context(), at, setCookie(w)); err != nil || opened == nil {
		t.Fatalf("%v, error %v", opened, err)
	}
	b.house.keeper.memory.sessions.InvalidateAll()
	plaintext, err := s.marshal()
	if err != nil {
		t.Fatal(err)
	}
	plaintext[0]++
	sealed, err := keyring.SealRecord(k.handle.key[:], plaintext, recordBound(at, s.id))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.house.keeper.store.shelf.Put(t.Context(), s.name(), k.handle.expires.time(),
		joinRecord(nil, sealed)); err != nil {
		t.Fatal(err)
	}
	inCookie, err := b.house.keeper.sessionBox.Seal(t.Context(), plaintext, at.associated)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{setCookie(w), inCookie} {
		if opened, _, err := b.house.keeper.open(t.Context(), at, value); err != nil || opened != nil {
			t.Errorf("%v, error %v", opened, err)
		}
	}

	// What does not open may be mended in the storage: it is an error, and no end.
	_, _ = rand.Read(sealed)
	if err := b.house.keeper.store.shelf.Put(t.Context(), s.name(), k.handle.expires.time(),
		joinRecord(nil, sealed)); err != nil {
		t.Fatal(err)
	}
	loaded, err := b.house.keeper.load(t.Context(), at, w.Header()["Set-Cookie"], b.house.keeper.now())
	if err == nil || loaded != nil {
		t.Errorf("%v, error %v", loaded, err)
	}
}

// firstEndFails makes the storage take neither note of the end of the first session that ends from now on, until
// the test ends or the returned function is called.
func firstEndFails(t *testing.T) (recovers func()) {
	t.Helper()
	var stored atomic.Int64
	fault := func(operation, key string) error {
		if operation == "store" && strings.HasPrefix(key, "aventus_auth/ended/") && stored.Add(1) <= 2 {
			return errors.New("a fault of the test")
		}
		return nil
	}
	engineFault.Store(&fault)
	recovers = func() { engineFault.Store(nil) }
	t.Cleanup(recovers)
	return recovers
}

// TestEndsUnknown: an instance that cannot learn which sessions have ended lets none in: at once where it has never
// learned it, as after a start, and after an hour where it has. It says so in the log and in a metric, and a
// logout that no other instance learns of is 503.
func TestEndsUnknown(t *testing.T) {
	key := "session {\nkey " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)) + "\n}"
	w := newWorld(t, setup{admin: true, block: "logout /logout\n" + key, caddyfile: "%s\nreverse_proxy %app" +
		errorsShown})
	w.onEngine()
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)

	recovers := faultAt(t, "list", "aventus_auth/ended")
	w.clock.Add(59 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(2 * time.Minute)
	a := b.get("/")
	w.expect(a, http.StatusServiceUnavailable)
	if !strings.HasPrefix(a.body, "storage_unavailable: ") || !strings.Contains(w.log(), "which sessions have ended") {
		t.Errorf("it says %q, and the log %s", a.body, w.log())
	}
	if age := w.metrics()["ends_learned_age_seconds"]; age != "3660" {
		t.Errorf("the metric is %q", age)
	}
	recovers()
	await(t, "it is learned again", func() bool { return b.get("/").StatusCode == http.StatusOK })

	recovers = faultAt(t, "list", "aventus_auth/ended")
	w.restart()
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	w.expect(b.get("/logout"), http.StatusServiceUnavailable)
	recovers()
	b.login("/")
	await(t, "it is learned", func() bool { return b.get("/").StatusCode == http.StatusOK })
	w.expect(b.get("/logout"), http.StatusOK)
}

// TestSessionCopy: a copy of a session, of which a renewal changes some of the fields, has all the others.
func TestSessionCopy(t *testing.T) {
	now := toUnix(time.Now())
	s := &session{
		grant: grant{bearer: bearer + "token", scope: "read", idToken: "{}"},
		id:    [16]byte{1}, created: now, expires: now, tokenCame: now, tokenEnds: now,
		refresh: "refresh", attempt: 1, spending: now, givenUp: now, family: records.ID{1},
	}
	was, is := reflect.ValueOf(s).Elem(), reflect.ValueOf(s.copy()).Elem()
	for i := range was.NumField() {
		if name := was.Type().Field(i).Name; was.Field(i).IsZero() {
			t.Errorf("give %s a value above", name)
		} else if name != "grant" && fmt.Sprint(is.Field(i)) != fmt.Sprint(was.Field(i)) {
			t.Errorf("%s is %v, want %v", name, is.Field(i), was.Field(i))
		}
	}
	if g := s.copy(); g.bearer != s.bearer || g.scope != s.scope || g.idToken != "{}" {
		t.Errorf("the grant is %v", &g.grant)
	}
}
