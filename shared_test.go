package aventusauth

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestReloadDuringRenewal: a reload closes the storage of the config before, while a refresh token is
// being spent. What comes of it is recorded all the same: nothing is lost after a restart. So it is where
// nothing in the config tells that the storage is the same one.
func TestReloadDuringRenewal(t *testing.T) {
	for _, how := range []string{"", " otherwise", " hides"} {
		held := aventustest.NewHold()
		w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = held.Answer }})
		w.onEngine()
		engine := "test_engine " + filepath.Join(w.dir, "storage")
		if how == " hides" { // each config's is like no other
			w.run(strings.Replace(w.config, engine, engine+how, 1))
		}
		b := w.browser()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		first := w.token()
		held.Next()
		w.clock.Add(57 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		held.Await()
		config := strings.Replace(w.config, "scope openid profile", "scope profile openid", 1)
		if how == " otherwise" {
			config = strings.Replace(config, engine, engine+how, 1)
		}
		w.run(config)
		held.Release()
		renewed := first
		await(t, how+": the renewed token", func() bool {
			w.expect(b.get("/"), http.StatusOK)
			renewed = w.token()
			return renewed != first
		})
		w.restart()
		w.clock.Add(30 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		if w.token() != renewed {
			t.Errorf("%s: the renewed token is lost", how)
		}
		w.expectTokenRequests(2)
		w.expectNoReuse()
	}
}

// TestReloadDuringLogin: the same while a code is being exchanged for a session that rests in the
// storage.
func TestReloadDuringLogin(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	w := newWorld(t, setup{block: "session {\nstore storage\n}", issuer: func(s *aventustest.Server) {
		s.TokenFault = func(http.ResponseWriter, *http.Request) bool {
			entered <- struct{}{}
			<-leave
			return false
		}
	}})
	w.onEngine()
	b := w.browser()
	callback := b.begin("/page")
	answers := make(chan answer)
	go func() { answers <- b.get(callback) }()
	<-entered
	w.run(strings.Replace(w.config, "scope openid profile", "scope profile openid", 1))
	leave <- struct{}{}
	a := <-answers
	w.expect(a, http.StatusSeeOther)
	w.expect(b.get("/page"), http.StatusOK)
}

// TestReloadDuringAStream: a stream that was opened under the config before ends with its session all the same, also
// where the next config names the storage otherwise.
func TestReloadDuringAStream(t *testing.T) {
	checkStreamsOften(t)
	for _, storage := range []string{"/storage", "/./storage"} {
		w := newWorld(t, setup{block: "logout /logout", caddyfile: "%s\nreverse_proxy " + newStreamer(t)})
		b := w.browser()
		b.login("/oops?")
		_, in := w.open("/events", "Cookie: "+b.cookieHeader()+"\r\nAccept: text/event-stream\r\n")
		w.run(strings.NewReplacer("logout /logout", "logout /logout\nprofile /me", w.dir+"/storage", w.dir+storage).
			Replace(w.config))
		if !streamGoesOn(in) {
			t.Errorf("%s: the stream ends with its config", storage)
		}
		w.expect(b.get("/logout"), http.StatusOK)
		w.clock.Add(records.LearnInterval)
		if !streamEnds(in) {
			t.Errorf("%s: the stream outlasts its session", storage)
		}
	}
}

// TestFailedReload: a config that fails to load after a block was set up takes its storage with it, and the one
// that goes on has its own again, however often that happens.
func TestFailedReload(t *testing.T) {
	w := newWorld(t, setup{block: "session {\nstore storage\n}", caddyfile: "route {\n%s\nreverse_proxy %app\n}"})
	w.onEngine()
	bad := strings.Replace(w.config, "reverse_proxy", "uri path_regexp ( x\nreverse_proxy", 1)
	if bad == w.config {
		t.Fatal("the config is as it was")
	}
	before := len(handlers())
	for range 3 {
		if err := load(bad); err == nil || !strings.Contains(err.Error(), "missing closing )") {
			t.Fatalf("error %v", err)
		}
	}
	if n := len(handlers()); n != before {
		t.Errorf("%d blocks are left", n)
	}
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestTwoStorages: what is known of one storage does not count for another, though one process has had
// both: neither its keys nor what has ended in it. That holds for storages that cannot be told apart by their
// configuration, too.
func TestTwoStorages(t *testing.T) {
	for _, hides := range []string{"", " hides", " alike"} {
		testTwoStorages(t, hides)
	}
}

func testTwoStorages(t *testing.T, hides string) {
	w := newWorld(t, setup{block: "logout /logout"})
	w.onEngine()
	first := strings.Replace(w.config, filepath.Join(w.dir, "storage"), filepath.Join(w.dir, "storage")+hides, 1)
	w.run(first)
	b := w.browser()
	cookie := "aventus_session=" + b.login("/").cookie("aventus_session").Value
	w.expect(b.get("/"), http.StatusOK)
	visit := func() int {
		return w.browser().do("GET", "/", "Cookie", cookie, "Sec-Fetch-Mode", "navigate").StatusCode
	}
	second := strings.Replace(first, filepath.Join(w.dir, "storage"), filepath.Join(w.dir, "other"), 1)
	w.run(second)
	if got := visit(); got != http.StatusFound {
		t.Errorf("the other storage's session: status %d", got)
	}
	w.run(first)
	if got := visit(); got != http.StatusOK {
		t.Errorf("back at its own storage: status %d", got)
	}
}

// TestOneStorageOfTwoConfigs: what the storage did not take still holds after a reload that changes how the storage
// is configured, and not which one it is; and it is written then.
func TestOneStorageOfTwoConfigs(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout"})
	w.onEngine()
	b := w.browser()
	copied := "aventus_session=" + b.login("/").cookie("aventus_session").Value
	recovers := faultAt(t, "store", "aventus_auth/ended")
	w.expect(b.get("/logout"), http.StatusServiceUnavailable)
	path := filepath.Join(w.dir, "storage")
	w.run(strings.Replace(w.config, "test_engine "+path, "test_engine "+path+" otherwise", 1))
	visit := func() answer {
		return w.browser().do("GET", "/", "Cookie", copied, "Sec-Fetch-Mode", "navigate")
	}
	w.expect(visit(), http.StatusFound)
	recovers()
	await(t, "the end is written", func() bool {
		written, err := filepath.Glob(filepath.Join(path, "aventus_auth", "ended", "all", "*", "*-*-*"))
		return err == nil && len(written) == 1
	})
	w.restart()
	w.expect(visit(), http.StatusFound)
}

// TestEndNotRecorded: where a part of what a logout writes cannot be written, the answer is 503, and not that
// the person is signed out everywhere. The session has ended here, and what could be written keeps a copy of
// its cookie from opening it after a restart.
func TestEndNotRecorded(t *testing.T) {
	for _, place := range []string{
		"aventus_auth/ended/all", "aventus_auth/ended/lately", "aventus_auth/ended", "aventus_auth/sessions",
	} {
		w := newWorld(t, setup{block: "logout /logout\nsession {\nstore storage\n}"})
		w.onEngine()
		b := w.browser()
		copied := b.login("/").cookie("aventus_session").Value
		operation := "store"
		if place == "aventus_auth/sessions" {
			operation = "delete"
		}
		recovers := faultAt(t, operation, place)
		a := b.get("/logout")
		if a.StatusCode != http.StatusServiceUnavailable || a.cookie("aventus_session") == nil {
			t.Errorf("%s: status %d, %v", place, a.StatusCode, a.Header)
		}
		again := w.browser().do("GET", "/", "Cookie", "aventus_session="+copied, "Sec-Fetch-Mode", "navigate")
		if again.StatusCode != http.StatusFound {
			t.Errorf("%s: the session goes on", place)
		}
		recovers()
		w.restart()
		again = w.browser().do("GET", "/", "Cookie", "aventus_session="+copied, "Sec-Fetch-Mode", "navigate")
		if again.StatusCode != http.StatusFound {
			t.Errorf("%s: the session lives again after a restart", place)
		}
	}
}

// TestWallClock: times that are compared with sealed and stored ones have no monotonic part, which
// stands still while a machine sleeps.
func TestWallClock(t *testing.T) {
	if now := clock(); now != now.Round(0) {
		t.Errorf("%v has a monotonic part", now)
	}
}

// TestAttemptsAreForgotten: what is known of failed renewals is forgotten by time, also after the clock
// was set back, but for what is still to be recorded.
func TestAttemptsAreForgotten(t *testing.T) {
	var a attempts
	start := time.Unix(1_800_000_000, 0)
	failed := func(at *attempt) { at.notBefore = start.Add(retryRenewal) }
	for i := range 1000 {
		a.note(records.ID{byte(i), byte(i >> 8)}, start, failed)
	}
	a.note(records.ID{1, 1, 1}, start, func(at *attempt) { at.unrecorded = new(session) })
	if got := a.of(records.ID{5}).notBefore; !got.Equal(start.Add(retryRenewal)) {
		t.Errorf("not before %v", got)
	}
	a.note(records.ID{255}, start.Add(rememberAttempts), failed)
	if n := len(a.by); n != 2 {
		t.Errorf("%d attempts are remembered, want the new one and the one to be recorded", n)
	}
	a.note(records.ID{254}, start.Add(-time.Hour), failed)
	if _, ok := a.by[records.ID{255}]; ok {
		t.Error("an attempt of the future is remembered")
	}
}

// TestStorageFailsInTheLog: that the storage fails is said in the log of the config that is loaded, also after
// a reload, and after the clock was set back.
func TestStorageFailsInTheLog(t *testing.T) {
	w := newWorld(t, setup{})
	w.onEngine()
	w.expect(w.browser().get("/"), http.StatusFound)
	w.run(strings.Replace(w.config, filepath.Join(w.dir, "log"), filepath.Join(w.dir, "newer-log"), 1))
	handlers()[0].house.shared.warned.Store(w.clock.Now().Add(time.Hour).Unix()) // by a clock that was set back since
	b := w.browser()
	callback := b.begin("/")
	faultAt(t, "store", "aventus_auth/spent")
	w.expect(b.get(callback), http.StatusServiceUnavailable)
	said, err := os.ReadFile(filepath.Join(w.dir, "newer-log"))
	if err != nil || !strings.Contains(string(said), `"the storage fails"`) {
		t.Errorf("error %v; the log of the config says\n%s", err, said)
	}
}

// shareAt returns what is known of the files at a path, which it has asked once.
func shareAt(t *testing.T, clock *testClock, path string) (*shared, func() error) {
	t.Helper()
	s, release, err := share(&certmagic.FileStorage{Path: path}, zap.NewNop(), clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.storage.Load(t.Context(), "anything")
	return s, release
}

// TestStorageAmongOthers: what a config leaves goes on with the storage that is its own by another name, whichever
// others the next config has.
func TestStorageAmongOthers(t *testing.T) {
	var clock testClock
	clock.now.Store(1_800_000_000)
	var releases []func() error
	for range 7 {
		_, release := shareAt(t, &clock, t.TempDir())
		releases = append(releases, release)
	}
	for i := range byte(5) { // they are asked in any order
		dir := t.TempDir()
		before, releaseBefore := shareAt(t, &clock, dir)
		next, releaseNext := shareAt(t, &clock, dir+"/")
		if err := before.ended.End(t.Context(), records.ID{i}, clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := releaseBefore(); err != nil {
			t.Error(err)
		}
		if !next.ended.Has(records.ID{i}, clock.Now()) {
			t.Error("what has ended is not handed on")
		}
		releases = append(releases, releaseNext)
	}
	for _, release := range releases {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}

// TestStorageOfTheConfigBefore: where two configs have one storage that they name otherwise, what the one before knows
// goes on, also where the next one has asked the storage already. Another storage by the same name is learned anew.
func TestStorageOfTheConfigBefore(t *testing.T) {
	var clock testClock
	clock.now.Store(1_800_000_000)
	dir := t.TempDir()
	before, releaseBefore := shareAt(t, &clock, dir)
	next, releaseNext := shareAt(t, &clock, dir+"/")
	if before == next {
		t.Fatal("they are named alike")
	}
	id := records.ID{1}
	if err := before.ended.End(t.Context(), id, clock.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := releaseBefore(); err != nil {
		t.Error(err)
	}
	if !next.ended.Has(id, clock.Now()) {
		t.Error("what has ended is not handed on")
	}

	if err := next.ended.Learn(t.Context()); err != nil || next.ended.Learned().IsZero() {
		t.Fatalf("learned at %s, %v", next.ended.Learned(), err)
	}
	next.identified("another")
	if !next.ended.Learned().IsZero() {
		t.Error("what has ended in another storage is taken for known")
	}
	if err := releaseNext(); err != nil {
		t.Error(err)
	}
}
