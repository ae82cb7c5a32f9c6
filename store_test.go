package aventusauth

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// sessionFiles returns the files of the sessions that rest in the storage.
func (w *world) sessionFiles() []string {
	w.t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(w.dir, "storage", "aventus_auth", "sessions"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return files
}

// storageFails puts a file where Caddy's storage needs a folder, until the returned
// function is called.
func (w *world) storageFails() (recovers func()) {
	w.t.Helper()
	storage := filepath.Join(w.dir, "storage")
	if err := os.MkdirAll(storage, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(storage, storage+".away"); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(storage, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		if err := os.Remove(storage); err != nil {
			w.t.Fatal(err)
		}
		if err := os.Rename(storage+".away", storage); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestLargeTokens: what fits no cookie rests in the storage, however large it is,
// and its cookie is small.
func TestLargeTokens(t *testing.T) {
	for _, c := range []struct {
		chars  int
		block  string
		stored bool
	}{
		{800, "", false}, {3700, "", false}, {4200, "", true}, {40_000, "", true},
		{800, "session {\nstore storage\n}", true},
	} {
		w := newWorld(t, setup{block: c.block, issuer: func(s *aventustest.Server) { s.TokenChars = c.chars }})
		b := w.browser()
		cookie := b.login("/").cookie("aventus_session")
		n := len(cookie.Name) + len("=") + len(cookie.Value)
		if n > 4096 || c.stored && n > 200 {
			t.Errorf("%d characters: a cookie of %d bytes", c.chars, n)
		}
		if got := len(w.sessionFiles()); (got == 1) != c.stored || got > 1 {
			t.Errorf("%d characters: %d sessions in the storage", c.chars, got)
		}
		for range 2 {
			w.requests()
			w.expect(b.get("/"), http.StatusOK)
			if got := len(w.requests()[0].Header.Get("Authorization")); got < c.chars {
				t.Errorf("%d characters: the app was sent %d", c.chars, got)
			}
			w.restart()
		}
	}
}

// TestStoredSessionNeedsItsStorage: 503 for whoever needs it, and nothing is lost.
func TestStoredSessionNeedsItsStorage(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\n}"})
	b, fresh := w.browser(), w.browser()
	b.login("/")
	fresh.login("/")
	w.expect(b.get("/"), http.StatusOK)
	recovers := w.storageFails()
	w.expect(b.get("/"), http.StatusOK) // remembered
	w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid", 1))
	w.expect(fresh.get("/"), http.StatusServiceUnavailable)
	recovers()
	w.expect(fresh.get("/"), http.StatusOK)
}

// TestExpiredRecordsGo: what has expired is removed, and what lives stays.
func TestExpiredRecordsGo(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\nlifetime 1h\n}"})
	old := w.browser()
	old.login("/")
	w.clock.Add(3 * time.Hour)
	young := w.browser()
	young.login("/")
	deadline := time.Now().Add(10 * time.Second)
	for len(w.sessionFiles()) != 1 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // it goes on in the background
	}
	if n := len(w.sessionFiles()); n != 1 {
		t.Errorf("%d records", n)
	}
	w.restart()
	w.expect(young.get("/"), http.StatusOK)
	w.expect(old.get("/"), http.StatusFound)
}

// TestLogoutSticks: a copy of the cookie is no good after the logout, in either
// store, also after a restart and a reload; other sessions do not suffer.
func TestLogoutSticks(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{block: fmt.Sprintf("logout /logout\nsession {\nstore %s\n}", store)})
		b, other := w.browser(), w.browser()
		copied := b.login("/").cookie("aventus_session")
		other.login("/")
		w.expect(b.get("/logout"), http.StatusOK)
		if n := len(w.sessionFiles()); store == "storage" && n != 1 {
			t.Errorf("%d records are left, want the other session's", n)
		}
		again := func(when string) {
			t.Helper()
			a := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate")
			if a.StatusCode != http.StatusFound {
				t.Errorf("%s, %s: the copy of the cookie gets %d", store, when, a.StatusCode)
			}
			w.expect(other.get("/"), http.StatusOK)
		}
		again("at once")
		w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid", 1))
		again("after a reload")
		w.restart()
		again("after a restart")
	}
}

// TestLogoutWithoutStorage: the cookie is cleared, the answer is 503, the session
// has ended here, and a second logout mends the rest.
func TestLogoutWithoutStorage(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout"})
	b := w.browser()
	copied := b.login("/").cookie("aventus_session")
	recovers := w.storageFails()
	a := b.get("/logout")
	w.expect(a, http.StatusServiceUnavailable)
	if c := a.cookie("aventus_session"); c == nil || c.MaxAge >= 0 {
		t.Errorf("Set-Cookie %q", a.Header["Set-Cookie"])
	}
	w.expect(b.do("GET", "/", "Cookie", "aventus_session="+copied.Value, "Sec-Fetch-Mode", "navigate"), http.StatusFound)
	recovers()
	w.expect(b.get("/"), http.StatusFound)
}
