package aventusauth

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestThreeBlocks: the third block that a request meets knows it as it came, too.
func TestThreeBlocks(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n" + strings.Repeat(w.directive("", "")+"\n", 3) + "reverse_proxy " + w.app + "\n}"
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
}

// TestLongestOfAllBlocks: an end is noted for as long as a session of any block may last, wherever the block stands in
// the config, and of any config with the same keys. Blocks of other authorization servers do not count.
func TestLongestOfAllBlocks(t *testing.T) {
	const day = 24 * time.Hour
	block := func(lifetime, keep time.Duration) *neighbour {
		return &neighbour{server: new(authServer), keeper: &keeper{lifetime: lifetime},
			keep: func(context.Context) (time.Duration, error) { return keep, nil }}
	}
	all := new(peers)
	configs.LoadOrStore(t, all)
	t.Cleanup(func() { _, _ = configs.Delete(t) })
	own, keep := block(day, day), 2*day
	for _, lifetime := range []time.Duration{time.Hour, 30 * day, time.Hour} {
		all.blocks.join(block(lifetime, keep))
	}
	if longest := longestOf(own)(t.Context()); longest != 30*day {
		t.Errorf("it is noted for %s", longest)
	}
	all.blocks.join(block(day, 60*day))
	all.blocks.join(block(day, day))
	fixed := block(day, 0)
	fixed.server = &authServer{issuer: "https://other.example.com/"}
	all.blocks.join(fixed)
	if longest := longestOf(own)(t.Context()); longest != 60*day {
		t.Errorf("it is noted for %s, with keys that last longer", longest)
	}
	all.blocks.join(block(day, 0))
	if longest := longestOf(own)(t.Context()); longest != maxLifetime {
		t.Errorf("it is noted for %s, with keys of which that is not known", longest)
	}
}

// TestPeersOfTheConfig: a block that is gone with a reload takes its cookie's name
// with it.
func TestPeersOfTheConfig(t *testing.T) {
	w := newWorld(t, setup{block: "unauthenticated pass\nsession {\nname old\n}"})
	send := func(want string) {
		t.Helper()
		w.expect(w.browser().do("GET", "/", "Cookie", "old=1"), http.StatusOK)
		if got := w.requests()[0].Header.Get("Cookie"); got != want {
			t.Errorf("the app was sent %q, want %q", got, want)
		}
	}
	send("")
	w.run(strings.Replace(w.config, "name old", "name new", 1))
	send("old=1")
}

// TestCleanupForgets: when all configs are gone, no peers and no keys are left.
func TestCleanupForgets(t *testing.T) {
	count := func() (n int) {
		configs.Range(func(_, _ any) bool { n++; return true })
		sharing.Range(func(_, _ any) bool { n++; return true })
		return n
	}
	before := count()
	w := newWorld(t, setup{})
	w.run(w.config + "\n")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != before {
		t.Errorf("%d configs and key caches, want %d", n, before)
	}
}
