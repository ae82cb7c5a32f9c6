package aventusauth

import (
	"net/http"
	"strings"
	"testing"

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
