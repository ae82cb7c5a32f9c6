package aventusauth

import (
	"net/http"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestStreamOver: when a stream is closed, by what has become of the session or the token it began with.
func TestStreamOver(t *testing.T) {
	refreshes := func(s *session) { s.refresh = "refresh" }
	for _, c := range []struct {
		what   string
		make   func(*session)
		change func(p *parts, k *keptSession)
		over   bool
	}{
		{"nothing", nil, func(*parts, *keptSession) {}, false},
		{"unused for long", nil, func(p *parts, _ *keptSession) {
			p.keeper.idle = time.Minute
			p.clock.Add(time.Hour)
		}, false},
		{"its end", nil, func(p *parts, _ *keptSession) { p.clock.Add(24 * time.Hour) }, true},
		{"a logout", nil, func(p *parts, k *keptSession) { _ = p.keeper.end(t.Context(), k) }, true},
		{"a token that died, and may be renewed", refreshes, func(p *parts, _ *keptSession) {
			p.clock.Add(2 * time.Hour)
		}, false},
		{"a renewal that was refused elsewhere", refreshes, func(p *parts, k *keptSession) {
			last := k.session.copy()
			last.refresh = ""
			last.endBy(last.tokenEnds.time())
			if err := p.keeper.store.put(t.Context(), p.at(), k.handle, last); err != nil {
				t.Error(err)
			}
			p.clock.Add(2 * time.Hour)
		}, true},
		{"a record that is gone, by which nothing has ended", refreshes, func(p *parts, k *keptSession) {
			if err := p.keeper.store.delete(t.Context(), k.name(), k.handle.expires.time()); err != nil {
				t.Error(err)
			}
			p.keeper.memory.forgetAll()
			p.clock.Add(2 * time.Hour)
		}, false},
		{"a record that cannot be read", refreshes, func(p *parts, _ *keptSession) {
			p.breakRecords()
			p.clock.Add(2 * time.Hour)
		}, false},
		{"a renewal that was refused here", refreshes, func(p *parts, k *keptSession) {
			last := k.session.copy()
			last.refresh = ""
			last.endBy(last.tokenEnds.time())
			p.keeper.replace(k, last)
			p.clock.Add(2 * time.Hour)
		}, true},
		{"a clock that was set back, to before it began", nil, func(p *parts, _ *keptSession) {
			p.clock.Add(-time.Hour)
		}, true},
		{"ends that cannot be learned", nil, func(p *parts, _ *keptSession) {
			p.keeper.ends.ended = records.NewEnded(brokenStorage{p.storage},
				records.NewClock(p.clock.Now, p.clock.Elapsed))
			t.Cleanup(func() { _ = p.keeper.ends.ended.Destruct() })
		}, true},
	} {
		p := newParts(t)
		k, _ := p.session(c.make)
		ss := &streams{keeper: p.keeper, sites: p.sites, every: time.Hour, ctx: t.Context(), now: p.clock.Now}
		isOver := ss.watch(identity{grant: &k.grant, session: k})
		c.change(p, k)
		if got := isOver(); got != c.over {
			t.Errorf("%s: over %v, want %v", c.what, got, c.over)
		}
	}

	p := newParts(t)
	good := unsigned(t, nil)
	end := p.clock.Now().Add(time.Hour)
	ss := &streams{keeper: p.keeper, bearers: p.bearers(good, end), sites: p.sites, ctx: t.Context(), now: p.clock.Now}
	id, refused := ss.bearers.identify(t.Context(), []string{"Bearer " + good})
	if refused != nil {
		t.Fatal(refused)
	}
	isOver := ss.watch(id)
	if isOver() {
		t.Error("an API client's stream is over at once")
	}
	if p.clock.Add(time.Hour); !isOver() {
		t.Error("an API client's stream outlasts its token")
	}
}

// TestEventsByMediaType: a media type has no case.
func TestEventsByMediaType(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/event-stream": true, "Text/Event-Stream; charset=utf-8": true, "text/event": false, "text/html": false,
	} {
		if isEvents(http.Header{"Content-Type": {kind}}) != want {
			t.Errorf("%s is a stream of events: %t", kind, !want)
		}
	}
}
