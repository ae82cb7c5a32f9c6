package aventusauth

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// saying returns the address of an app whose answers have the headers that the
// query holds.
func saying(t *testing.T) string {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.URL.Query() {
			w.Header()[name] = values
		}
	}))
	t.Cleanup(app.Close)
	return strings.TrimPrefix(app.URL, "http://")
}

// TestVaryIsOneLine: a cache that heeds but one line of Vary is not misled by the
// others. nginx 1.22 takes the last one, which was Authorization: whoever came with
// a cookie got the page of the first who did.
func TestVaryIsOneLine(t *testing.T) {
	for block, own := range map[string]string{"": "Cookie", "accept_bearer": "Cookie, Authorization"} {
		w := newWorld(t, setup{block: block, caddyfile: "%s\nreverse_proxy " + saying(t)})
		b := w.browser()
		b.login("/")
		for _, c := range []struct {
			says []string
			want string
		}{
			{nil, own},
			{[]string{"Accept-Language"}, "Accept-Language, " + own},
			{[]string{"Accept-Language", "X-Theme"}, "Accept-Language, X-Theme, " + own},
			{[]string{"cookie"}, "cookie" + own[len("Cookie"):]},
			{[]string{"*"}, "*"},
			{[]string{"Accept-Language, *"}, "*"},
		} {
			a := b.get("/?" + url.Values{"Vary": c.says}.Encode())
			w.expect(a, http.StatusOK)
			if got := a.Header["Vary"]; len(got) != 1 || got[0] != c.want {
				t.Errorf("%q: Vary %q, want %q", c.says, got, c.want)
			}
		}
	}
}
