package aventusauth

import (
	"encoding/base64"
	"errors"
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

// onStorage returns the config of a world on an engine with its storage elsewhere: in another folder, or in the same
// one by another name.
func (w *world) onStorage(folder, more string) string {
	engine := "test_engine " + filepath.Join(w.dir, "storage")
	return strings.Replace(w.config, engine, "test_engine "+filepath.Join(w.dir, folder)+more, 1)
}

// TestStorageThereAndBack: what the storage did not take still holds when a config has the storage again, whatever the
// configs in between had: another storage, one that cannot be reached, no block at all, or a mistake. It is written
// then.
func TestStorageThereAndBack(t *testing.T) {
	unreachable := func(string, string) error { return errors.New("a fault of the test") }
	for i, c := range []struct {
		name    string
		between func(w *world)
		again   string // how the storage is named then
	}{
		{"another storage", func(w *world) { w.run(w.onStorage("emergency", "")) }, ""},
		{"another storage, which is not used", func(w *world) {
			if err := load(w.onStorage("emergency", "")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"two others", func(w *world) {
			first := w.config
			w.run(w.onStorage("one", ""))
			w.expect(w.browser().get("/"), http.StatusFound)
			w.run(first)
			w.run(w.onStorage("two", ""))
		}, ""},
		{"a mistyped path", func(w *world) { w.run(w.onStorage("mistyped", "")) }, " otherwise"},
		{"one that cannot be reached", func(w *world) {
			engineFault.Store(&unreachable)
			w.run(w.onStorage("storage", " wrong"))
			w.expect(w.browser().get("/"), http.StatusServiceUnavailable)
		}, " otherwise"},
		{"no block", func(w *world) { w.run("{\nadmin off\n}\n") }, ""},
		{"a mistake", func(w *world) {
			w.run(w.onStorage("emergency", ""))
			bad := strings.Replace(w.config, "reverse_proxy", "uri path_regexp ( x\nreverse_proxy", 1)
			if err := load(strings.Replace(bad, "emergency", "another", 1)); err == nil {
				t.Fatal("the mistake is none")
			}
		}, " otherwise"},
	} {
		w := newWorld(t, setup{block: "logout /logout", caddyfile: "route {\n%s\nreverse_proxy %app\n}"})
		w.onEngine()
		b := w.browser()
		copied := "aventus_session=" + b.login("/").cookie("aventus_session").Value
		visit := func() int {
			return w.browser().do("GET", "/", "Cookie", copied, "Sec-Fetch-Mode", "navigate").StatusCode
		}
		faultAt(t, "store", "aventus_auth/ended")
		w.expect(b.get("/logout"), http.StatusServiceUnavailable)
		first, again := w.config, w.onStorage("storage", c.again)
		c.between(w)
		recovers := faultAt(t, "store", "aventus_auth/ended")
		w.run(again)
		if got := visit(); got != http.StatusFound {
			t.Errorf("%s: a copy of the ended session's cookie gets %d", c.name, got)
		}
		if !handlers()[0].house.shared.ended.HasUnwritten() {
			t.Errorf("%s: the end is not to be written any more", c.name)
		}
		recovers()
		if i > 0 {
			continue
		}
		await(t, "the end is written", func() bool {
			return !handlers()[0].house.shared.ended.HasUnwritten()
		})
		w.config = first
		w.restart()
		if got := visit(); got != http.StatusFound {
			t.Errorf("%s: after a restart, a copy of the ended session's cookie gets %d", c.name, got)
		}
	}
}

// TestEndsWithKeysOfOnesOwn: with keys of the operator's own, cookies open whatever the storage is. A session that has
// ended does not go on at this instance because the next config has another storage, whether or not its end could be
// written; and what could not is written there, too.
func TestEndsWithKeysOfOnesOwn(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	for _, status := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		w := newWorld(t, setup{block: "logout /logout\nsession {\nkey " + key + "\n}"})
		w.onEngine()
		b := w.browser()
		copied := "aventus_session=" + b.login("/").cookie("aventus_session").Value
		if status != http.StatusOK {
			faultAt(t, "store", "aventus_auth/ended")
		}
		w.expect(b.get("/logout"), status)
		w.run(w.onStorage("emergency", ""))
		a := w.browser().do("GET", "/", "Cookie", copied, "Sec-Fetch-Mode", "navigate")
		if a.StatusCode != http.StatusFound {
			t.Errorf("after a logout with %d, a copy of the cookie gets %d", status, a.StatusCode)
		}
		if is := handlers()[0].house.shared.ended.HasUnwritten(); is != (status != http.StatusOK) {
			t.Errorf("after a logout with %d, there is an end to be written: %t", status, is)
		}
	}
}

// TestRenewalThereAndBack: a renewed token that could not be recorded is recorded when a config has the storage again,
// also where another one was in between. Without that, the session would end with the token before.
func TestRenewalThereAndBack(t *testing.T) {
	w := refreshing(t, setup{})
	w.onEngine()
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	first := w.token()
	isNoted := false
	fault := func(operation, key string) error {
		if operation != "store" || !strings.HasPrefix(key, "aventus_auth/sessions") {
			return nil
		}
		if !isNoted { // the note that the refresh token is sent
			isNoted = true
			return nil
		}
		return errors.New("a fault of the test")
	}
	engineFault.Store(&fault)
	w.clock.Add(57 * time.Minute)
	renewed := first
	await(t, "the renewed token", func() bool {
		w.expect(b.get("/"), http.StatusOK)
		renewed = w.token()
		return renewed != first
	})
	again := w.config
	w.run(w.onStorage("emergency", ""))
	w.expect(w.browser().get("/"), http.StatusFound)
	w.run(again)
	w.expect(w.browser().get("/"), http.StatusFound)
	engineFault.Store(nil)
	w.clock.Add(30 * time.Minute)
	await(t, "the renewed token is recorded", func() bool {
		w.forgetSessions()
		return b.get("/").StatusCode == http.StatusOK && w.token() == renewed
	})
	w.expectTokenRequests(2)
	w.expectNoReuse()
}

// TestEndsBeforeTheStorageIsKnown: what has ended while no call reached the storage is known to all configs that
// follow, since any of them may have that storage.
func TestEndsBeforeTheStorageIsKnown(t *testing.T) {
	forgetPredecessors()
	t.Cleanup(forgetPredecessors)
	var clock testClock
	clock.now.Store(1_800_000_000)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, releaseBefore := shareAt(t, &clock, file) // no folder
	if before.id.Load() != nil {
		t.Fatal("a storage in a file was reached")
	}
	id, until := records.ID{1}, clock.Now().Add(time.Hour)
	if before.ended.End(t.Context(), id, until) == nil {
		t.Fatal("the end was written")
	}
	if err := releaseBefore(); err != nil {
		t.Error(err)
	}
	for range 2 {
		next, release := shareAt(t, &clock, t.TempDir())
		if !next.ended.Has(id, clock.Now()) || !next.ended.IsUnwritten(id) {
			t.Errorf("it has ended: %t; it is to be written: %t", next.ended.Has(id, clock.Now()),
				next.ended.IsUnwritten(id))
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}

// TestStorageInPlaceOfAnother: where the storage becomes another one by the same name, what is still to be written to
// the one before waits for its return.
func TestStorageInPlaceOfAnother(t *testing.T) {
	forgetPredecessors()
	t.Cleanup(forgetPredecessors)
	var clock testClock
	clock.now.Store(1_800_000_000)
	one, two := t.TempDir(), t.TempDir()
	use := func(path string) *shared {
		s, release, err := share(&alike{certmagic.FileStorage{Path: path}, "of one name"}, zap.NewNop(), clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = release() })
		_, _ = s.storage.Load(t.Context(), "anything")
		return s
	}
	ended := filepath.Join(one, "aventus_auth", "ended")
	s := use(one)
	if err := os.WriteFile(ended, nil, 0o600); err != nil { // no folder
		t.Fatal(err)
	}
	id := records.ID{1}
	if s.ended.End(t.Context(), id, clock.Now().Add(time.Hour)) == nil {
		t.Fatal("the end was written")
	}
	if use(two) != s {
		t.Fatal("they are told by their names")
	}
	if err := s.ended.End(t.Context(), id, clock.Now().Add(time.Hour)); err != nil || s.ended.IsUnwritten(id) {
		t.Fatalf("the end is not written at the other storage: %v", err)
	}
	use(one)
	if !s.ended.IsUnwritten(id) {
		t.Error("back at its own storage, the end is not to be written")
	}
}

// TestPredecessorsAreBounded: of too many storages, those are remembered for which something is to be written.
func TestPredecessorsAreBounded(t *testing.T) {
	forgetPredecessors()
	t.Cleanup(forgetPredecessors)
	var clock testClock
	clock.now.Store(1_800_000_000)
	first := ""
	for i := range byte(maxPredecessors + 4) {
		s, release := shareAt(t, &clock, t.TempDir())
		if i == 0 {
			first = *s.id.Load()
			s.ended.EndLater(records.ID{1}, clock.Now(), clock.Now().Add(time.Hour))
		} else if err := s.ended.End(t.Context(), records.ID{1}, clock.Now().Add(time.Hour)); err != nil {
			t.Error(err) // each of the others was handed it, and has written it
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	if n := len(predecessors.all); n != maxPredecessors {
		t.Errorf("%d storages are remembered, want %d", n, maxPredecessors)
	}
	if !predecessors.all[0].isAt(first) {
		t.Error("the one is forgotten for which something is to be written")
	}

	for _, old := range predecessors.all {
		old.ended.EndLater(records.ID{2}, clock.Now(), clock.Now().Add(time.Hour))
	}
	s, release := shareAt(t, &clock, t.TempDir())
	for _, id := range []records.ID{{1}, {2}} {
		if err := s.ended.End(t.Context(), id, clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if all := predecessors.all; len(all) != maxPredecessors || all[len(all)-1] != s {
		t.Errorf("of %d storages, the latest is forgotten", len(all))
	}
}

// TestLoginsOutliveReload: a logout after a reload that names the storage otherwise ends what the browser's other tab
// made before it, and holds against a callback that was under way.
func TestLoginsOutliveReload(t *testing.T) {
	held := aventustest.NewHold()
	w := newWorld(t, setup{
		block: "logout /logout", issuer: func(s *aventustest.Server) { s.TokenFault = held.Answer },
	})
	w.onEngine()
	b := w.browser()
	one, two := strings.TrimPrefix(b.begin("/one"), w.site), strings.TrimPrefix(b.begin("/two"), w.site)
	underWay := strings.TrimPrefix(b.begin("/three"), w.site)
	before := b.cookieHeader()
	var made []string
	for _, callback := range []string{one, two} {
		a := w.http1(request{target: callback}.withCookie(before))
		w.expect(a, http.StatusSeeOther)
		made = append(made, "aventus_session="+a.cookie("aventus_session").Value)
	}
	held.Next()
	answered := make(chan answer)
	go func() { answered <- w.http1(request{target: underWay}.withCookie(before)) }()
	held.Await()

	w.run(w.onStorage("storage", " otherwise"))
	w.expect(w.http1(request{}.withCookie(made[0])), http.StatusOK)
	w.expect(w.http1(request{target: "/logout"}.withCookie(before+"; "+made[1])), http.StatusOK)
	if got := w.http1(request{}.withCookie(made[0])).StatusCode; got != http.StatusFound {
		t.Errorf("the other tab's session gets %d after the logout", got)
	}
	held.Release()
	if a := <-answered; a.StatusCode != http.StatusFound || a.cookie("aventus_session") != nil {
		t.Errorf("the callback that was under way gets %d, %v", a.StatusCode, a.Header)
	}
}

// TestAdoptLogins: what is remembered is found by who asks the config before, too, and the entries of both are there.
func TestAdoptLogins(t *testing.T) {
	made := func(n byte) *keptSession { return &keptSession{session: &session{id: [16]byte{n}}} }
	var one, two, three lastLogins
	both, first, second := records.ID{1}, records.ID{2}, records.ID{3}
	one.add(both, made(1))
	one.add(first, made(2))
	two.add(both, made(3))
	hasLeft, done := one.finish(first)
	two.adopt(&one)
	three.adopt(&two)
	one.add(second, made(4))
	for jar, want := range map[records.ID]byte{both: 3, first: 2, second: 4} {
		for name, l := range map[string]*lastLogins{"one": &one, "two": &two, "three": &three} {
			if got := l.of(jar); len(got) != 1 || got[0].id[0] != want {
				t.Errorf("%s: %x has made %+v, want %d", name, jar[0], got, want)
			}
		}
	}
	three.leave(second)
	if hasLeft() {
		t.Error("the logout of another browser counts")
	}
	three.leave(first)
	if !hasLeft() {
		t.Error("the logout does not count for the callback of the first config")
	}
	done()
	var four lastLogins
	four.adopt(&three)
	if four.before != nil {
		t.Error("what has no callback under way is kept")
	}
}

// TestUnrecordedOutlivesReload: a renewed session that could not be recorded goes on after a reload that names the
// storage otherwise, and is recorded then.
func TestUnrecordedOutlivesReload(t *testing.T) {
	var faults aventustest.Switch
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	w.onEngine()
	b := w.browser()
	b.login("/")
	recovers := failRecords(t, &faults, nil)
	w.clock.Add(61 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	w.clock.Add(6 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	w.run(w.onStorage("storage", " otherwise"))
	w.expect(b.get("/"), http.StatusOK)
	recovers()
	await(t, "the session to be recorded", func() bool {
		w.forgetSessions()
		shared := handlers()[0].house.shared
		shared.attempts.mu.Lock()
		defer shared.attempts.mu.Unlock()
		for _, latest := range shared.attempts.by {
			if latest.unrecorded != nil {
				return false
			}
		}
		return true
	})
	w.expect(b.get("/"), http.StatusOK)
	w.expectTokenRequests(2)
}
