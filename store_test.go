package aventusauth

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// sessionFiles returns the files of the sessions that rest in the storage.
func (w *world) sessionFiles() []string {
	w.t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(w.dir, "storage", "aventus_auth", "sessions"),
		func(path string, d fs.DirEntry, err error) error {
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
		{800, "", false}, {3000, "", false}, {3700, "", true}, {4200, "", true}, {40_000, "", true},
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
	w.forgetSessions()
	w.expect(fresh.get("/"), http.StatusServiceUnavailable)
	recovers()
	w.expect(fresh.get("/"), http.StatusOK)
}

// TestIdleSessionOutlastsAnOutage: a session that this process remembers needs no storage, also after its cookie was
// sealed anew.
func TestIdleSessionOutlastsAnOutage(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\nidle 20m\n}"})
	b := w.browser()
	b.login("/")
	recovers := w.storageFails()
	sealed := 0
	for range 6 {
		w.clock.Add(4 * time.Minute)
		a := b.get("/")
		w.expect(a, http.StatusOK)
		sealed += len(a.Header["Set-Cookie"])
	}
	recovers()
	if sealed != 3 {
		t.Errorf("the cookie was sealed anew %d times, want 3", sealed)
	}
}

// TestExpiredRecordsGo: what has expired is removed, and what lives stays.
func TestExpiredRecordsGo(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\nlifetime 1h\n}"})
	old := w.browser()
	old.login("/")
	w.clock.Add(3 * time.Hour)
	young := w.browser()
	young.login("/")
	await(t, "the old record goes", func() bool { return len(w.sessionFiles()) == 1 })
	w.restart()
	w.expect(young.get("/"), http.StatusOK)
	w.expect(old.get("/"), http.StatusFound)
}

// TestStorageFailsClosed: who may be signed in is not taken for nobody.
func TestStorageFailsClosed(t *testing.T) {
	for _, mode := range []string{"pass", "deny"} {
		w := newWorld(t, setup{block: "unauthenticated " + mode + "\nprofile /me",
			caddyfile: "%s\nreverse_proxy %app" + errorsShown})
		keys := filepath.Join(w.dir, "storage", "aventus_auth", "keys.json")
		if err := os.MkdirAll(keys, 0o700); err != nil { // a folder where a file is needed
			t.Fatal(err)
		}
		cookie := "aventus_session=AQ" + strings.Repeat("A", 200) // of a key that is not known yet
		for _, path := range []string{"/", "/me"} {
			if a := w.browser().do("GET", path, "Cookie", cookie); a.StatusCode != http.StatusServiceUnavailable ||
				!strings.HasPrefix(a.body, "storage_unavailable: ") {
				t.Errorf("%s, %s: status %d, %s", mode, path, a.StatusCode, a.body)
			}
		}
		if n := len(w.requests()); n != 0 {
			t.Errorf("%s: the app was reached %d times", mode, n)
		}
	}
}

// TestDamagedRecord: a record that does not open may be mended within a minute. Then its session has ended, and
// the visitor signs in again.
func TestDamagedRecord(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\n}"})
	b := w.browser()
	b.login("/")
	files := w.sessionFiles()
	if len(files) != 1 {
		t.Fatalf("records: %q", files)
	}
	good := readFile(t, files[0])
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(files[0], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bad := flip(good[:len(good)-1]) + "x"
	write(bad)
	w.restart()
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	w.clock.Add(damagedFor - time.Second)
	w.expect(b.get("/"), http.StatusServiceUnavailable)
	write(good)
	w.expect(b.get("/"), http.StatusOK)

	write(bad)
	w.restart()
	for range 2 {
		w.expect(b.get("/"), http.StatusServiceUnavailable)
		w.clock.Add(damagedFor / 2)
	}
	w.expect(b.get("/"), http.StatusFound)
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestDamagedOnceMore: how long a record has been damaged counts anew once it was read in between.
func TestDamagedOnceMore(t *testing.T) {
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.refresh = "refresh" })
	files, err := p.storage.List(t.Context(), "aventus_auth/sessions", true)
	if err != nil || len(files) != 1 {
		t.Fatalf("records: %q, %v", files, err)
	}
	file, good := files[0], p.storage.files[files[0]]
	fetch := func() (*session, error) { return p.keeper.store.fetch(t.Context(), p.at(), k.handle) }
	for range 2 {
		p.storage.files[file] = []byte(flip(string(good[:len(good)-1])) + "x")
		if _, err := fetch(); !errors.Is(err, records.ErrStorage) {
			t.Errorf("damaged: %v", err)
		}
		p.storage.files[file] = good
		if s, err := fetch(); s == nil || err != nil {
			t.Errorf("restored: %v, %v", s, err)
		}
		p.clock.Add(damagedFor)
	}
}

// TestDamagedAfterTheClock: how long a record has been damaged, which was first seen while the clock was ahead,
// counts by the clock that is right.
func TestDamagedAfterTheClock(t *testing.T) {
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.refresh = "refresh" })
	files, err := p.storage.List(t.Context(), "aventus_auth/sessions", true)
	if err != nil || len(files) != 1 {
		t.Fatalf("records: %q, %v", files, err)
	}
	p.storage.files[files[0]][len(p.storage.files[files[0]])-1] ^= 1
	for _, c := range []struct {
		turn   time.Duration
		isOver bool
	}{{time.Hour, false}, {-time.Hour, false}, {damagedFor - time.Second, false}, {time.Second, true}} {
		p.clock.Add(c.turn)
		s, err := p.keeper.store.fetch(t.Context(), p.at(), k.handle)
		if s != nil || errors.Is(err, records.ErrStorage) == c.isOver {
			t.Errorf("after the clock went %s: %v, %v; want it over: %t", c.turn, s, err, c.isOver)
		}
	}
}
