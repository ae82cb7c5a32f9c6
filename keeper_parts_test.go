package aventusauth

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestKeeperLoads: which sessions of a cookie are good here and now.
func TestKeeperLoads(t *testing.T) {
	inStorage := func(s *session) { s.refresh = "refresh" }
	for _, c := range []struct {
		what   string
		make   func(*session)
		change func(p *parts, k *keptSession, cookie *string)
		good   bool
	}{
		{"a new one", nil, func(*parts, *keptSession, *string) {}, true},
		{"one at rest", inStorage, func(*parts, *keptSession, *string) {}, true},
		{"behind a forged one", nil, func(_ *parts, _ *keptSession, cookie *string) {
			*cookie = "session=AQAA; " + *cookie
		}, true},
		{"forged", nil, func(_ *parts, _ *keptSession, cookie *string) { *cookie = "session=AQAA" }, false},
		{"changed", nil, func(_ *parts, _ *keptSession, cookie *string) { *cookie = flip(*cookie) }, false},
		{"under another name", nil, func(_ *parts, _ *keptSession, cookie *string) { *cookie = "x" + *cookie }, false},
		{"a moment before its end", nil, func(p *parts, _ *keptSession, _ *string) {
			p.clock.Add(24*time.Hour - time.Second)
		}, true},
		{"at its end", nil, func(p *parts, _ *keptSession, _ *string) { p.clock.Add(24 * time.Hour) }, false},
		{"at the end of a lifetime that was shortened", nil, func(p *parts, _ *keptSession, _ *string) {
			p.keeper.lifetime = time.Hour
			p.clock.Add(time.Hour)
		}, false},
		{"idle", nil, func(p *parts, _ *keptSession, _ *string) {
			p.keeper.idle = time.Hour
			p.clock.Add(time.Hour)
		}, false},
		{"ended", nil, func(p *parts, k *keptSession, _ *string) {
			if err := p.keeper.end(t.Context(), k); err != nil {
				t.Error(err)
			}
		}, false},
		{"ended with all of its user's", nil, func(p *parts, k *keptSession, _ *string) {
			if err := p.keeper.ends.endUser(t.Context(), k.subject(), p.clock.Now()); err != nil {
				t.Error(err)
			}
		}, false},
		{"its record has gone", inStorage, func(p *parts, k *keptSession, _ *string) {
			if err := p.keeper.store.delete(t.Context(), k.name(), k.handle.expires.time()); err != nil {
				t.Error(err)
			}
		}, false},
		{"sealed by a clock that was far ahead", nil, func(p *parts, _ *keptSession, _ *string) {
			p.clock.Set(-time.Hour)
		}, false},
	} {
		for _, remembers := range []bool{true, false} {
			if remembers && c.what == "its record has gone" {
				continue // what is remembered needs no record until it is renewed
			}
			p := newParts(t)
			k, cookie := p.session(c.make)
			c.change(p, k, &cookie)
			if !remembers {
				p.keeper.memory = newMemory(1 << 20)
			}
			got, err := p.load(cookie)
			if err != nil || (got != nil) != c.good || c.good && got.id != k.id {
				t.Errorf("%s, remembered %v: %v, error %v", c.what, remembers, got, err)
			}
		}
	}
}

// TestKeeperCannotTell: what cannot be told is an error, and not an anonymous visitor.
func TestKeeperCannotTell(t *testing.T) {
	p := newParts(t)
	_, cookie := p.session(func(s *session) { s.refresh = "refresh" })
	p.keeper.memory = newMemory(1 << 20)
	p.keeper.store.shelf = records.NewShelf(brokenStorage{p.storage}, "aventus_auth/sessions",
		records.NewClock(p.clock.Now, p.clock.Elapsed))
	if k, err := p.load(cookie); k != nil || !errors.Is(err, errBrokenStorage) {
		t.Errorf("its record: %v, error %v", k, err)
	}

	p = newParts(t)
	_, cookie = p.session(nil)
	ended := records.NewEnded(brokenStorage{p.storage}, records.NewClock(p.clock.Now, p.clock.Elapsed))
	t.Cleanup(func() { _ = ended.Destruct() })
	p.keeper.ends.ended = ended
	if k, err := p.load(cookie); k != nil ||
		!errors.Is(err, records.ErrUnknown) {
		t.Errorf("what has ended: %v, error %v", k, err)
	}

	p = newParts(t)
	p.keeper.idle = time.Hour
	_, cookie = p.session(ofTwoHosts)
	p.clock.Add(2 * time.Hour)
	p.keeper.store.uses = records.NewShelf(brokenStorage{p.storage}, "aventus_auth/uses",
		records.NewClock(p.clock.Now, p.clock.Elapsed))
	if k, err := p.load(cookie); k != nil || !errors.Is(err, errBrokenStorage) {
		t.Errorf("when it was last used at another host: %v, error %v", k, err)
	}
}

// TestKeeperReadsNoUse: a record of the last use that is damaged, such as the empty file that a crash leaves, locks
// nobody out: the session is idle where it was not used. The next use replaces the record.
func TestKeeperReadsNoUse(t *testing.T) {
	for _, damaged := range []string{"", "damaged", "\x0e12345678"} {
		p := newParts(t)
		p.keeper.idle = time.Hour
		k, cookie := p.session(ofTwoHosts)
		p.clock.Add(59 * time.Minute)
		note := func() string {
			t.Helper()
			p.keeper.noteUse(t.Context(), k)
			files, err := p.storage.List(t.Context(), "aventus_auth/uses", true)
			if err != nil || len(files) != 1 {
				t.Fatalf("uses: %q, %v", files, err)
			}
			return files[0]
		}
		if err := p.storage.Store(t.Context(), note(), []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		p.keeper.lastUses.Purge() // of another instance
		p.clock.Add(time.Minute)
		if k, err := p.load(cookie); k != nil || err != nil {
			t.Errorf("%q: %v, error %v", damaged, k, err)
		}
		note()
		if k, err := p.load(cookie); k == nil || err != nil {
			t.Errorf("%q, and used again: %v, error %v", damaged, k, err)
		}
	}
}

// whereSessionsRest are kinds of sessions, and whether they rest in their cookies.
var whereSessionsRest = []struct {
	what   string
	make   func(*session)
	all    bool // all sessions are to rest in the storage
	inside bool
}{
	{"a small one", nil, false, true},
	{"all in the storage", nil, true, false},
	{"with a refresh token", func(s *session) { s.refresh = "secret-refresh-token" }, false, false},
	{"too large for a cookie", func(s *session) { s.bearer += strings.Repeat("x", maxCookie) }, false, false},
	{"of two hosts", ofTwoHosts, false, false},
}

// TestKeeperSaves: where a session is kept, and that a refresh token never leaves the server.
func TestKeeperSaves(t *testing.T) {
	for _, c := range whereSessionsRest {
		p := newParts(t)
		p.keeper.inStorage = c.all
		k, cookie := p.session(c.make)
		if (k.handle == nil) != c.inside || len(cookie) > maxCookie || !c.inside && len(cookie) > 200 {
			t.Errorf("%s: in the cookie %v, which has %d bytes", c.what, k.handle == nil, len(cookie))
		}
		for file, content := range p.storage.files {
			if strings.Contains(string(content), "opaque") ||
				strings.Contains(string(content), "secret-refresh-token") {
				t.Errorf("%s: %s holds a token", c.what, file)
			}
		}
	}
}

// TestKeeperSavesBesideOthers: the cookies that a browser sends to a site are no longer together than what stands in
// front takes. A session that does not fit beside the others rests in the storage, also if the other sessions come
// at the same moment, so that none of the logins sees the others' cookies.
func TestKeeperSavesBesideOthers(t *testing.T) {
	const long = 2250 // an opaque one makes a cookie of some 3,200 bytes
	before := "session=" + strings.Repeat("x", 3200)
	for _, c := range []struct {
		what    string
		chars   int      // of the token
		cookies []string // of the request
		blocks  int
		inside  bool
	}{
		{"alone", long, nil, 1, true},
		{"in the place of the one before", long, []string{before + "; a=b", before}, 1, true},
		{"beside an app's", long, []string{"a=b; app=" + strings.Repeat("x", 2800)}, 1, true},
		{"beside an app's that are long", long, []string{"a=b; app=" + strings.Repeat("x", 3200)}, 1, false},
		{"beside an app's on two lines", long, []string{
			"a=" + strings.Repeat("x", 1600), "b=" + strings.Repeat("x", 1600),
		}, 1, false},
		{"beside more than there is room for", 10, []string{"app=" + strings.Repeat("x", 9000)}, 1, false},
		{"of several blocks at once, long", long, nil, 3, false},
		{"of several blocks at once, short", 1300, nil, 3, true},
		{"of several blocks at once, beside an app's", 1300, []string{"app=" + strings.Repeat("x", 2000)}, 3, false},
		{"beside the binding of a block that is reached by http", long, nil, 1, true},
	} {
		p := newParts(t)
		names := []string{hostPrefix + bindingName, bindingName, "session", "other", "third"}
		p.cookies.own = func() []string { return names[:2+c.blocks] }
		s := p.keeper.make(&oauth2.Token{AccessToken: strings.Repeat("x", c.chars), ExpiresIn: 3600}, nil)
		w := httptest.NewRecorder()
		k, err := p.keeper.save(w, t.Context(), p.at(), c.cookies, s, "/")
		if err != nil {
			t.Fatal(err)
		}
		if (k.handle == nil) != c.inside {
			t.Errorf("%s: in the cookie %t, which has %d bytes", c.what, k.handle == nil,
				len(w.Header().Get("Set-Cookie")))
		}
	}
}

// TestKeeperTouches: an ordinary answer sets the cookie anew once in a quarter of the idle time, and never
// without one. The browser keeps it for the idle time, or if other hosts share the session, as long as that may last:
// they may use it.
func TestKeeperTouches(t *testing.T) {
	for _, c := range []struct {
		idle, unused time.Duration
		family       records.ID
		sets         bool
		age          string
	}{
		{0, 23 * time.Hour, records.ID{}, false, ""}, {time.Hour, 14 * time.Minute, records.ID{}, false, ""},
		{time.Hour, 15 * time.Minute, records.ID{}, true, "Max-Age=3600;"},
		{time.Hour, 15 * time.Minute, records.ID{1}, true, "Max-Age=85500;"},
	} {
		p := newParts(t)
		p.keeper.idle = c.idle
		k, _ := p.session(func(s *session) { s.refresh, s.family = "refresh", c.family })
		p.clock.Add(c.unused)
		w := httptest.NewRecorder()
		if err := p.keeper.touch(w, t.Context(), p.at(), k); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("Set-Cookie"); (got != "") != c.sets || c.sets &&
			!strings.Contains(got, c.age) {
			t.Errorf("idle %s, unused for %s: sets %q", c.idle, c.unused, got)
		}
	}
}

// TestKeeperTouchesWhereItRests: a cookie that is sealed anew holds what the one before it held: the session, or where
// that rests. So it is as long, and a session in the storage still ends when its record is deleted, also if the block
// has begun to keep new sessions elsewhere.
func TestKeeperTouchesWhereItRests(t *testing.T) {
	for _, c := range whereSessionsRest {
		for _, all := range []bool{c.all, !c.all} {
			for _, remembers := range []bool{true, false} {
				p := newParts(t)
				p.keeper.idle, p.keeper.inStorage = time.Hour, c.all
				k, first := p.session(c.make)
				p.keeper.inStorage = all
				cookie := first
				for range 2 {
					p.clock.Add(15 * time.Minute)
					if !remembers {
						p.keeper.memory = newMemory(1 << 20)
					}
					used, err := p.load(cookie)
					if err != nil || used == nil {
						t.Fatalf("%s, remembered %t: no session, error %v", c.what, remembers, err)
					}
					w := httptest.NewRecorder()
					if err := p.keeper.touch(w, t.Context(), p.at(), used); err != nil {
						t.Fatal(err)
					}
					cookie = cookieIn(w)
					if len(cookie) != len(first) {
						t.Errorf("%s, remembered %t: a cookie of %d bytes, after one of %d", c.what, remembers,
							len(cookie), len(first))
					}
				}
				if err := p.keeper.store.delete(t.Context(), k.name(), k.last()); err != nil {
					t.Fatal(err)
				}
				p.keeper.memory = newMemory(1 << 20)
				if got, err := p.load(cookie); err != nil || (got != nil) != c.inside {
					t.Errorf("%s, remembered %t, and its record has gone: goes on %t, error %v", c.what, remembers,
						got != nil, err)
				}
			}
		}
	}
}

// TestKeeperEndsForAsLong: an end is remembered for as long as anything that it ends may last, also where the block
// that ends it has a shorter lifetime than the one that began it, or knows another expiry than the record has.
func TestKeeperEndsForAsLong(t *testing.T) {
	for what, c := range map[string]struct {
		family records.ID
		end    func(*parts, *keptSession, *keeper) error
	}{
		"by a session's record": {records.ID{}, func(_ *parts, k *keptSession, by *keeper) error {
			known := k.copy()
			known.refresh, known.expires = "", known.created+3600
			return by.end(t.Context(), k.with(known))
		}},
		"of the same family": {records.ID{1}, func(p *parts, k *keptSession, by *keeper) error {
			other, _ := p.session(func(s *session) {
				s.refresh, s.family, s.expires = "refresh", k.family, s.created+3600
			})
			by.lifetime = time.Hour
			return by.end(t.Context(), other)
		}},
	} {
		p := newParts(t)
		k, cookie := p.session(func(s *session) { s.refresh, s.family = "refresh", c.family })
		by := *p.keeper
		if err := c.end(p, k, &by); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := p.load(cookie); got != nil || err != nil {
				t.Errorf("%s: the session goes on: %v, error %v", what, got, err)
			}
			p.clock.Add(2 * time.Hour)
			p.keeper.ends.learn(t.Context())
		}
	}
}

// unwritable is a storage that does not take what has a part of its key.
type unwritable struct {
	*mapStorage
	part string
}

func (s unwritable) Store(ctx context.Context, key string, value []byte) error {
	if strings.Contains(key, s.part) {
		return errBrokenStorage
	}
	return s.mapStorage.Store(ctx, key, value)
}

// TestKeeperEndsInPart: that one of the things could not be recorded which a session's end consists of is an error.
// The next logout ends it again.
func TestKeeperEndsInPart(t *testing.T) {
	for what, part := range map[string]func(*keptSession) string{
		"its own end":     func(k *keptSession) string { return k.name() },
		"its family's":    func(k *keptSession) string { return hex.EncodeToString(k.family[:]) },
		"in the long run": func(*keptSession) string { return "ended/all" },
		"for the others":  func(*keptSession) string { return "ended/lately" },
	} {
		p := newParts(t)
		k, _ := p.session(func(s *session) { s.refresh, s.family = "refresh", records.ID{1} })
		ended := records.NewEnded(unwritable{p.storage, part(k)}, records.NewClock(p.clock.Now, p.clock.Elapsed))
		t.Cleanup(func() { _ = ended.Destruct() })
		p.keeper.ends.ended = ended
		if _, err := p.keeper.endNewest(t.Context(), p.at(), k); !errors.Is(err, errBrokenStorage) {
			t.Errorf("%s, at a logout: %v", what, err)
		}
		if s := (held{k, present{&neighbour{keeper: p.keeper}, p.at()}}); !s.canEnd() {
			t.Errorf("%s is unwritten, and for the next logout there is nothing to end", what)
		}
		if err := p.keeper.end(t.Context(), k); !errors.Is(err, errBrokenStorage) {
			t.Errorf("%s: %v", what, err)
		}
		if err := p.keeper.endListed(t.Context(), listed{
			id: k.id, family: k.family, Created: k.created.time(), Expires: k.expires.time(),
		}); !errors.Is(err, errBrokenStorage) {
			t.Errorf("%s, by its index: %v", what, err)
		}
	}
}

// TestKeeperNotesUses: a use of a session that several hosts share is noted once in a quarter of the idle time, and
// one that the storage did not take is noted by the next request.
func TestKeeperNotesUses(t *testing.T) {
	p := newParts(t)
	p.keeper.idle = time.Hour
	k, _ := p.session(func(s *session) { s.refresh, s.family = "refresh", records.ID{1} })
	working := p.keeper.store.uses
	broken := records.NewShelf(unwritable{p.storage, k.name()}, "aventus_auth/uses",
		records.NewClock(p.clock.Now, p.clock.Elapsed))
	start := p.clock.Now()
	for _, c := range []struct {
		after time.Duration
		uses  *records.Shelf
		want  time.Duration // when it was last used, as the other hosts know it
	}{
		{0, working, 0}, {14 * time.Minute, working, 0}, {15 * time.Minute, broken, 0},
		{16 * time.Minute, working, 16 * time.Minute}, {30 * time.Minute, working, 16 * time.Minute},
		{31 * time.Minute, working, 31 * time.Minute},
	} {
		p.clock.Add(start.Add(c.after).Sub(p.clock.Now()))
		p.keeper.store.uses = c.uses
		p.keeper.noteUse(t.Context(), k)
		last, err := p.keeper.store.lastUse(t.Context(), k.handle)
		if err != nil || !last.Equal(start.Add(c.want)) {
			t.Errorf("after %s: last used %s after the start, %v; want %s", c.after, last.Sub(start), err, c.want)
		}
	}
}

// TestUseOfTheFuture: a moment in which the clock of one instance was far ahead ends no session that is in use later,
// neither at this instance nor at one that reads its record.
func TestUseOfTheFuture(t *testing.T) {
	for _, isElsewhere := range []bool{false, true} {
		p := newParts(t)
		p.keeper.idle = time.Hour
		k, cookie := p.session(ofTwoHosts)
		use := func() { p.keeper.noteUse(t.Context(), k) }
		p.clock.Add(20 * time.Minute)
		p.clock.Set(50 * time.Minute)
		use()
		p.clock.Set(-50 * time.Minute)
		if isElsewhere { // it knows of no use, then of what the record says
			p.keeper.lastUses.Purge()
			p.clock.Add(40 * time.Minute)
			if k, err := p.load(cookie); k != nil || err != nil {
				t.Errorf("used in the future alone: %v, error %v", k, err)
			}
			p.clock.Add(-40 * time.Minute)
		}
		for range 2 {
			p.clock.Add(20 * time.Minute)
			use()
		}
		p.clock.Add(2 * time.Minute)
		if k, err := p.load(cookie); k == nil || err != nil {
			t.Errorf("used two minutes ago, elsewhere %t: %v, error %v", isElsewhere, k, err)
		}
	}
}

// TestFamilyEndsForAsLong: where the browser has no more of a session than its family's name, the end of the family
// is remembered for as long as a session of any block may last, and no longer for a block with a shorter lifetime.
func TestFamilyEndsForAsLong(t *testing.T) {
	p := newParts(t)
	k, cookie := p.session(func(s *session) { s.refresh, s.family = "refresh", records.ID{1} })
	short := *p.keeper
	short.lifetime = time.Hour
	by := present{&neighbour{keeper: &short}, p.at()}
	if err := endFamily(t.Context(), by, k.family); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := p.load(cookie); got != nil || err != nil {
			t.Errorf("the session goes on: %v, error %v", got, err)
		}
		p.clock.Add(2 * time.Hour)
		p.keeper.ends.learn(t.Context())
	}
}

// TestFamilyEndsBeforeTheStorage: a family has ended here before the storage is asked for how long to note it.
func TestFamilyEndsBeforeTheStorage(t *testing.T) {
	p := newParts(t)
	ofFamily := func(s *session) { s.refresh, s.family = "refresh", records.ID{1} }
	k, _ := p.session(ofFamily)
	other, _ := p.session(ofFamily)
	known := false
	p.keeper.longest = func(context.Context) time.Duration {
		known = p.keeper.hasEnded(other.session)
		return time.Hour
	}
	if err := p.keeper.end(t.Context(), k); err != nil || !known {
		t.Errorf("error %v; it is known: %t", err, known)
	}
}

// TestLogoutTokenEndsInPart: that one of the ends could not be recorded which a logout token means is an error.
func TestLogoutTokenEndsInPart(t *testing.T) {
	const issuer, sub, sid = "https://auth.example.com/", "auth0|ada", "the-sid"
	for _, c := range []struct {
		said aventus.Logout
		ids  []records.ID
	}{
		{aventus.Logout{Subject: sub}, []records.ID{subjectID(issuer, sub), loginsID(issuer, sub)}},
		{aventus.Logout{Subject: sub, SessionID: sid}, []records.ID{
			serverSessionID(issuer, sid), unnamedID(issuer, sub), unnamedLoginsID(issuer, sub),
		}},
	} {
		for i, id := range c.ids {
			p := newParts(t)
			c.said.Issued = p.clock.Now()
			ended := records.NewEnded(unwritable{p.storage, hex.EncodeToString(id[:])},
				records.NewClock(p.clock.Now, p.clock.Elapsed))
			t.Cleanup(func() { _ = ended.Destruct() })
			e := &ends{ended: ended, issuer: issuer}
			if err := e.endAt(t.Context(), c.said, p.clock.Now(), 24*time.Hour); !errors.Is(err, errBrokenStorage) {
				t.Errorf("%+v, end %d of them: %v", c.said, i, err)
			}
		}
	}
}

// slow is a storage that takes what has ended once it is released.
type slow struct {
	*mapStorage
	entered, release chan struct{}
}

func (s slow) Store(ctx context.Context, key string, value []byte) error {
	if strings.Contains(key, "/ended/all/") && !strings.Contains(key, "landmark") {
		s.entered <- struct{}{}
		<-s.release
	}
	return s.mapStorage.Store(ctx, key, value)
}

// TestKeeperEndUnderWay: while a logout waits for the storage, its session and its family count neither as going on
// nor as ended everywhere: a second logout writes the ends, too, and does not say that there is nothing to do.
func TestKeeperEndUnderWay(t *testing.T) {
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.refresh, s.family = "refresh", records.ID{1} })
	storage := slow{p.storage, make(chan struct{}), make(chan struct{})}
	ended := records.NewEnded(storage, records.NewClock(p.clock.Now, p.clock.Elapsed))
	t.Cleanup(func() { _ = ended.Destruct() })
	p.keeper.ends.ended = ended
	e, now := p.keeper.ends, p.clock.Now()
	s := held{k, present{&neighbour{keeper: p.keeper}, p.at()}}
	for what, c := range map[string]struct {
		end     func() error
		isKnown func() bool
	}{
		"the session": {
			func() error { return e.end(t.Context(), k.id, k.expires.time()) }, func() bool { return !s.canEnd() },
		},
		"the family": {
			func() error { return e.endFamily(t.Context(), k.family, now, k.expires.time()) },
			func() bool { return e.hasFamilyUntil(k.family, now) },
		},
	} {
		done := make(chan error)
		go func() { done <- c.end() }()
		<-storage.entered
		if !e.has(k.session) || c.isKnown() {
			t.Errorf("%s, while it is written: ended here %t, everywhere %t", what, e.has(k.session), c.isKnown())
		}
		storage.release <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !c.isKnown() {
			t.Errorf("%s, written: it is not known", what)
		}
	}
}

// TestLogoutTokenEndsOnce: between the time a logout token is read and the time that its ends are written, the time
// does not count: who has signed in meanwhile stays, and the ends that a login has seen are the same.
func TestLogoutTokenEndsOnce(t *testing.T) {
	p := newParts(t)
	e := p.keeper.ends
	said := aventus.Logout{Subject: "auth0|ada", Issued: p.clock.Now()}
	k, _ := p.session(func(s *session) { s.idToken = `{"sub":"auth0|ada"}` })
	e.expectAt(said, p.clock.Now())
	_, seen := e.hasMeanwhile(k.session, nil, k.created.time(), records.ID{})
	p.clock.Add(10 * time.Second)
	after, _ := p.session(func(s *session) { s.idToken = `{"sub":"auth0|ada"}` })
	after.created = toUnix(e.after(after.session))
	if e.has(after.session) {
		t.Error("who signs in again has ended")
	}
	if err := e.endAt(t.Context(), said, p.clock.Now(), 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if !e.has(k.session) || e.has(after.session) {
		t.Errorf("ended: %t, and who has signed in again: %t", e.has(k.session), e.has(after.session))
	}
	if ended, now := e.hasMeanwhile(k.session, nil, k.created.time(), seen); ended || now != seen {
		t.Error("the ends that a login has seen are others")
	}
}

// TestEndLearnedOnTheWay: an instance that does not know what has ended asks before it lets a session in, and the
// very request that asks is not let in if that session has ended; nor does a stream of it go on.
func TestEndLearnedOnTheWay(t *testing.T) {
	for _, what := range []string{"request", "stream"} {
		p := newParts(t)
		k, cookie := p.session(func(s *session) { s.tokenEnds = s.created + 20*3600 })
		if got, err := p.load(cookie); err != nil || got == nil {
			t.Fatalf("%v, error %v", got, err)
		}
		p.clock.Add(2 * time.Hour) // this instance has slept, or could not reach the storage
		there := records.NewEnded(p.storage, records.NewClock(p.clock.Now, p.clock.Elapsed))
		t.Cleanup(func() { _ = there.Destruct() })
		if err := there.End(t.Context(), k.id, k.expires.time()); err != nil {
			t.Fatal(err)
		}
		if what == "stream" {
			ss := &streams{keeper: p.keeper, sites: p.sites, every: time.Hour, ctx: t.Context(), now: p.clock.Now}
			if !ss.watch(identity{grant: &k.grant, session: k})() {
				t.Error("the stream goes on")
			}
		} else if got, err := p.load(cookie); got != nil || err != nil {
			t.Errorf("let in: %v, error %v", got, err)
		}
	}
}

// slowRecords is a storage in which it takes a day to read the record of a session: the machine sleeps meanwhile.
type slowRecords struct {
	certmagic.Storage
	clock *testClock
}

func (s slowRecords) Load(ctx context.Context, key string) ([]byte, error) {
	if strings.HasPrefix(key, "aventus_auth/sessions/") {
		s.clock.Add(24 * time.Hour)
	}
	return s.Storage.Load(ctx, key)
}

// TestJudgedWhenItIsRead: a session that ends while its record is being read is over.
func TestJudgedWhenItIsRead(t *testing.T) {
	p := newParts(t)
	_, cookie := p.session(func(s *session) { s.refresh = "refresh" })
	p.keeper.memory = newMemory(1 << 20)
	clock := records.NewClock(p.clock.Now, p.clock.Elapsed)
	p.keeper.store.shelf = records.NewShelf(slowRecords{p.storage, p.clock}, "aventus_auth/sessions", clock)
	if got, err := p.load(cookie); got != nil || err != nil {
		t.Errorf("let in: %v, error %v", got, err)
	}
}

// TestKeeperEndsForNoLonger: an end is recorded for as long as what it ends could last, and not for much longer, or
// the storage would keep it for good.
func TestKeeperEndsForNoLonger(t *testing.T) {
	for what, end := range map[string]func(*parts, *keptSession) error{
		"it":           func(p *parts, k *keptSession) error { return p.keeper.end(t.Context(), k) },
		"one replaced": func(p *parts, k *keptSession) error { return p.keeper.endReplaced(t.Context(), k) },
		"one of a list": func(p *parts, k *keptSession) error {
			return p.keeper.endListed(t.Context(), listed{
				id: k.id, family: k.family, Created: k.created.time(), Expires: k.expires.time(),
			})
		},
		"the newest": func(p *parts, k *keptSession) error {
			_, err := p.keeper.endNewest(t.Context(), p.at(), k)
			return err
		},
	} {
		p := newParts(t)
		k, _ := p.session(func(s *session) { s.refresh, s.family = "refresh", records.ID{1} })
		if err := end(p, k); err != nil {
			t.Fatal(err)
		}
		last, found := p.clock.Now().Add(p.keeper.lifetime+2*time.Hour).Unix(), 0
		for key := range p.storage.files {
			_, rest, _ := strings.Cut(key, "aventus_auth/ended/all/")
			period, _, _ := strings.Cut(rest, "/")
			if hour, err := strconv.ParseInt(period, 10, 64); err == nil {
				if found++; hour*3600 > last || hour < k.expires.time().Unix()/3600 {
					t.Errorf("%s: recorded until %s", what, time.Unix(hour*3600, 0))
				}
			}
		}
		if found == 0 || !p.keeper.ends.has(k.session) {
			t.Errorf("%s: %d ends, and the session has ended: %t", what, found, p.keeper.ends.has(k.session))
		}
	}
}

// renewedMeanwhile is a storage in which it takes long to write an end: a renewal has written the record by then.
type renewedMeanwhile struct {
	*mapStorage
	renew func()
}

func (s *renewedMeanwhile) Store(ctx context.Context, key string, value []byte) error {
	s.renew()
	return s.mapStorage.Store(ctx, key, value)
}

// TestEndFindsTheNewest: a renewal at another instance that writes its record while a logout is under way may ask for
// ends before this one is written. Then the logout finds the refresh token that has come.
func TestEndFindsTheNewest(t *testing.T) {
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.refresh = "first" })
	synctest.Test(t, func(t *testing.T) {
		storage := &renewedMeanwhile{p.storage, sync.OnceFunc(func() {
			synctest.Wait() // until all that does not wait for the end is done
			renewed := k.session.copy()
			renewed.refresh = "second"
			if err := p.keeper.store.put(t.Context(), p.at(), k.handle, renewed); err != nil {
				t.Error(err)
			}
		})}
		p.keeper.ends.ended = records.NewEnded(storage, records.NewClock(p.clock.Now, p.clock.Elapsed))
		defer func() { _ = p.keeper.ends.ended.Destruct() }()
		if newest, err := p.keeper.endNewest(t.Context(), p.at(), k); err != nil || newest.refresh != "second" {
			t.Errorf("the newest refresh token is %q, error %v", newest.refresh, err)
		}
	})
}

// TestEndUnwrittenTakesTheRecord: where the storage takes no note of an end, the session's record goes all the same.
// Another instance, which does not learn of the end, finds none then.
func TestEndUnwrittenTakesTheRecord(t *testing.T) {
	for what, end := range map[string]func(*parts, *keptSession) error{
		"a logout": func(p *parts, k *keptSession) error {
			_, err := p.keeper.endNewest(t.Context(), p.at(), k)
			return err
		},
		"a login": func(p *parts, k *keptSession) error { return p.keeper.endReplaced(t.Context(), k) },
	} {
		p := newParts(t)
		k, cookie := p.session(func(s *session) { s.refresh = "refresh" })
		broken := records.NewEnded(unwritable{p.storage, "/ended/"}, records.NewClock(p.clock.Now, p.clock.Elapsed))
		t.Cleanup(func() { _ = broken.Destruct() })
		there := p.keeper.ends.ended // what another instance knows
		p.keeper.ends.ended = broken
		if err := end(p, k); !errors.Is(err, errBrokenStorage) {
			t.Errorf("%s: %v", what, err)
		}
		p.keeper.ends.ended, p.keeper.memory = there, newMemory(1<<20)
		if got, err := p.load(cookie); got != nil || err != nil {
			t.Errorf("%s: another instance lets in %v, error %v", what, got, err)
		}
	}
}
