package aventusauth

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestBlockOrder: the block with the longer path is asked first, and the one for all requests last, however they
// are written. In a route, they go as they are written.
func TestBlockOrder(t *testing.T) {
	all := func(w *world) []string {
		return []string{
			w.directive("", ""), w.directive("/api/*", "unauthenticated deny"),
			w.directive("/api/pages/*", "unauthenticated auto"), w.directive("@two", "unauthenticated deny"),
		}
	}
	for order := range 4 {
		w := newWorld(t, setup{sites: func(w *world) string {
			blocks := all(w)
			blocks = append(blocks[order:], blocks[:order]...)
			return w.site + " {\n@two path /two /two/*\n" + strings.Join(blocks, "\n") + "\nreverse_proxy " +
				w.app + "\n}"
		}})
		for path, status := range map[string]int{
			"/api/x": 401, "/api/pages/x": 302, "/x": 302, "/two": 401, "/": 302,
		} {
			if a := w.browser().get(path); a.StatusCode != status {
				t.Errorf("%s, written in order %d: status %d, want %d", path, order, a.StatusCode, status)
			}
		}
		// The sorting leaves nothing out: not the callback, and no path that others may read as a protected one.
		b := w.browser()
		b.login("/x")
		w.expect(b.get("/api/x"), http.StatusOK)
		for _, path := range []string{"//api/x", "/API/x", "/x/..;/api/x", "/x/../api/x", "/%61pi/x"} {
			if a := w.browser().do("GET", path); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: status %d", path, a.StatusCode)
			}
		}
	}
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\nroute {\n" + strings.Join(all(w)[:2], "\n") + "\nreverse_proxy " + w.app + "\n}\n}"
	}})
	w.expect(w.browser().get("/api/x"), http.StatusFound)
}

// TestSortedAsOthers: blocks are sorted as another directive with the same matchers is, where those have paths.
func TestSortedAsOthers(t *testing.T) {
	matchers := []string{
		"", "*", "/", "/*", "/a", "/a*", "/a/*", "/b", "/b/*", "/aa", "/ab/", "/a/b/c", "/a/b/c*", "@css", "@x",
		"/A/*", "/a%2Fb", "/{{x", "/ä/*", "@two", "@both", "/a/{env.HOME}/*",
	}
	names := "@css path *.css\n@x path */x/*\n@two path /two /two/*\n" +
		"@both {\nmethod GET\npath /both/*\n}\n"
	order := func(directive func(matcher string, n int) string, of string, written []string) []string {
		var lines []string
		for n, matcher := range written {
			lines = append(lines, directive(matcher, n))
		}
		config, err := adapt("example.com {\n" + names + strings.Join(lines, "\n") + "\n}")
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(of).FindAllString(string(config), -1)
	}
	for range 20 {
		rand.Shuffle(len(matchers), func(i, j int) { matchers[i], matchers[j] = matchers[j], matchers[i] })
		want := order(func(matcher string, n int) string {
			return fmt.Sprintf("respond %s n%d-", matcher, n)
		}, `n\d+-`, matchers)
		got := order(func(matcher string, n int) string {
			return fmt.Sprintf("aventus_auth %s {\nclient_id n%d-\nclient_secret s\n"+
				"redirect_uri https://example.com/cb\n}", matcher, n)
		}, `n\d+-`, matchers)
		if !slices.Equal(got, want) {
			t.Fatalf("%q are sorted as %v, want %v", matchers, got, want)
		}
	}
}

// TestSortingMatchesAll: what sorts a block matches every request, or the config does not load.
func TestSortingMatchesAll(t *testing.T) {
	for _, path := range []string{
		"", "*", "/", "/a/*", "*.css", "/{http.request.host}/*", "/{}", "}*", "/%2f%", "/a b*", "/\\{x}*",
	} {
		set := caddy.ModuleMap{"path": caddyconfig.JSON(caddyhttp.MatchPath{path}, nil)}
		if err := checkOrder(caddyhttp.RawMatcherSets{set}); err != nil {
			t.Errorf("%q: %v: %s", path, err, sortedAs(set)["path"])
		}
	}
}
