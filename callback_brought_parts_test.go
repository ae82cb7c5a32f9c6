package aventusauth

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// listings is a storage that counts how often it is asked what has ended lately.
type listings struct {
	*mapStorage
	asked atomic.Int64
}

func (s *listings) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	if strings.HasPrefix(path, "aventus_auth/ended/lately") {
		s.asked.Add(1)
	}
	return s.mapStorage.List(ctx, path, recursive)
}

// TestBroughtSessionEndsMeanwhile: a login whose browser brings a session starts over if that has ended at another
// instance since the callback came, by a logout. It does not where another tab's login has replaced the session, nor
// where that was over before. What has ended is asked for once, and only where a session is brought that goes on.
func TestBroughtSessionEndsMeanwhile(t *testing.T) {
	type instance struct {
		*parts
		there *records.Ended // another instance
		k     *keptSession   // what is brought
	}
	end := func(i instance) error { return i.there.End(i.t.Context(), i.k.id, i.k.last()) }
	replace := func(i instance) error { return i.there.Replace(i.t.Context(), i.k.id, i.k.last()) }
	for what, c := range map[string]struct {
		refresh           string // of the session: it rests in the storage
		isAnotherBlocks   bool
		brings            func(cookie string) string
		before, meanwhile func(instance) error
		restarts          uint8
		want              string
		learns            int64
	}{
		"nothing is brought":     {brings: func(string) string { return "" }, want: "See Other"},
		"no session is brought":  {brings: func(string) string { return "session=made-up" }, want: "See Other"},
		"it goes on":             {want: "See Other", learns: 1},
		"it goes on, in storage": {refresh: "r", want: "See Other", learns: 1},
		"it ends":                {meanwhile: end, want: "Found", learns: 1},
		"it ends, with its record": {refresh: "r", meanwhile: func(i instance) error {
			_ = i.keeper.store.delete(i.t.Context(), i.k.name(), i.k.handle.expires.time())
			return end(i)
		}, want: "Found", learns: 1},
		"another block's ends": {isAnotherBlocks: true, meanwhile: end, want: "Found", learns: 1},
		"it is replaced":       {meanwhile: replace, want: "See Other", learns: 1},
		"it is replaced, and another's logout ends it": {before: func(i instance) error {
			err := replace(i)
			i.keeper.ends.learn(i.t.Context())
			return err
		}, meanwhile: end, want: "Found", learns: 1},
		"it was over": {before: func(i instance) error {
			return i.keeper.ends.end(i.t.Context(), i.k.id, i.k.last())
		}, want: "See Other"},
		"once more, it was over": {before: end, restarts: 1, want: "See Other", learns: 2},
		"once more, it ends":     {meanwhile: end, restarts: 1, want: errLoginLost.code, learns: 2},
	} {
		t.Run(what, func(t *testing.T) {
			p := newParts(t)
			storage := &listings{mapStorage: p.storage}
			clock := records.NewClock(p.clock.Now, p.clock.Elapsed)
			here, there := records.NewEnded(storage, clock), records.NewEnded(p.storage, clock)
			t.Cleanup(func() { _, _ = here.Destruct(), there.Destruct() })
			p.keeper.ends.ended = here
			here.Begin()
			there.Begin()
			storage.asked.Store(0)
			if err := here.Learn(t.Context()); err != nil {
				t.Fatal(err)
			}
			each := storage.asked.Load() // for one answer
			ls := p.logins()
			ls.asksForRefresh = c.refresh != ""
			own := p.keeper
			if c.isAnotherBlocks {
				other := *own
				other.cookies = &cookies{session: "other", binding: bindingName, own: p.cookies.own}
				ls.replacer.blocks.join(&neighbour{
					sites: p.sites, cookies: other.cookies, keeper: &other, server: ls.server, meter: p.meter,
				})
				p.keeper = &other
			}
			i := instance{parts: p, there: there}
			var has string
			i.k, has = p.session(func(s *session) { s.refresh = c.refresh })
			p.keeper = own
			if c.brings != nil {
				has = c.brings(has)
			}
			do := func(f func(instance) error) {
				if f == nil {
					return
				}
				if err := f(i); err != nil {
					t.Error(err)
				}
			}
			do(c.before)
			p.answeringAfter(ls, map[string]any{
				"access_token": "opaque", "token_type": "Bearer", "expires_in": 3600, "refresh_token": c.refresh,
			}, func() { do(c.meanwhile) })
			l := &login{browser: browserOf("a-browser"), restarts: c.restarts, returnTo: "/page"}
			state, err := ls.seal(t.Context(), p.at(), l, maxState)
			if err != nil {
				t.Fatal(err)
			}
			storage.asked.Store(0)
			if _, got := p.finishing(ls, state, bindingName+"=a-browser; "+has); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if asked := storage.asked.Load(); asked != c.learns*each {
				t.Errorf("%d listings, of which one answer takes %d, want %d answers", asked, each, c.learns)
			}
		})
	}
}
