package aventusauth

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
			if err := p.keeper.store.delete(t.Context(), k.name(), k.handle.expires); err != nil {
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
			got, err := p.keeper.load(t.Context(), p.at(), []string{cookie})
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
	if k, err := p.keeper.load(t.Context(), p.at(), []string{cookie}); k != nil || !errors.Is(err, errBrokenStorage) {
		t.Errorf("its record: %v, error %v", k, err)
	}

	p = newParts(t)
	_, cookie = p.session(nil)
	ended := records.NewEnded(brokenStorage{p.storage}, records.NewClock(p.clock.Now, p.clock.Elapsed))
	t.Cleanup(func() { _ = ended.Destruct() })
	p.keeper.ends.ended = ended
	if k, err := p.keeper.load(t.Context(), p.at(), []string{cookie}); k != nil ||
		!errors.Is(err, records.ErrUnknown) {
		t.Errorf("what has ended: %v, error %v", k, err)
	}
}

// TestKeeperSaves: where a session is kept, and that a refresh token never leaves the server.
func TestKeeperSaves(t *testing.T) {
	for _, c := range []struct {
		what   string
		make   func(*session)
		all    bool
		inside bool
	}{
		{"a small one", nil, false, true},
		{"all in the storage", nil, true, false},
		{"with a refresh token", func(s *session) { s.refresh = "secret-refresh-token" }, false, false},
		{"too large for a cookie", func(s *session) { s.bearer += strings.Repeat("x", maxCookie) }, false, false},
	} {
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

// TestKeeperTouches: an ordinary answer sets the cookie anew once in a quarter of the idle time, and never
// without one.
func TestKeeperTouches(t *testing.T) {
	for _, c := range []struct {
		idle, unused time.Duration
		sets         bool
	}{
		{0, 23 * time.Hour, false}, {time.Hour, 14 * time.Minute, false}, {time.Hour, 15 * time.Minute, true},
	} {
		p := newParts(t)
		p.keeper.idle = c.idle
		k, _ := p.session(nil)
		p.clock.Add(c.unused)
		w := httptest.NewRecorder()
		if err := p.keeper.touch(w, t.Context(), p.at(), k); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("Set-Cookie"); (got != "") != c.sets || c.sets &&
			!strings.Contains(got, "Max-Age=3600;") {
			t.Errorf("idle %s, unused for %s: sets %q", c.idle, c.unused, got)
		}
	}
}
