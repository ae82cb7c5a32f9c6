package aventusauth

import (
	"strings"
	"testing"
)

// TestCaches: what was let through is private unless the site says otherwise, and
// one visitor's page is never another's.
func TestCaches(t *testing.T) {
	w := newWorld(t, setup{caddyfile: `
		%s
		handle /static/* {
			header Cache-Control "public, max-age=60"
			respond "static"
		}
		handle /nothing {
			vars x y
		}
		handle /flushed {
			reverse_proxy %app {
				flush_interval -1
			}
		}
		handle /missing {
			error 404
		}
		handle {
			reverse_proxy %app
		}`})
	b := w.browser()
	b.login("/")
	for path, want := range map[string]string{
		"/nothing":                        "private",
		"/flushed":                        "private",
		"/page":                           "private",
		"/page?cache=public,max-age=3600": "public,max-age=3600",
		"/static/x":                       "public, max-age=60",
		"/missing":                        "private",
	} {
		a := b.get(path)
		if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: Cache-Control %q, want %q", path, got, want)
		}
		if got := strings.Join(a.Header["Vary"], ","); !strings.Contains(got, "Cookie") {
			t.Errorf("%s: Vary %q", path, got)
		}
	}
}
