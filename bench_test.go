package aventusauth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// BenchmarkAuthenticated measures what a request with a session costs in this
// handler alone. "nothing" is what a handler costs that only calls the next one;
// "first" is a session's first request, which opens the cookie; "again" are those
// that come after it.
//
//	go test -run '^$' -bench Authenticated -benchmem .
func BenchmarkAuthenticated(b *testing.B) {
	nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

	b.Run("nothing", func(b *testing.B) {
		r := benchRequest()
		w := httptest.NewRecorder()
		b.ReportAllocs()
		for b.Loop() {
			resetRequest(r, "theme=dark")
			if err := nothing.ServeHTTP(w, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, size := range []int{750, 1500} {
		for _, first := range []bool{false, true} {
			name := fmt.Sprintf("token=%d/again", size)
			if first {
				name = fmt.Sprintf("token=%d/first", size)
			}
			b.Run(name, func(b *testing.B) {
				h := &Handler{
					ClientID:     "the-client",
					ClientSecret: "secret",
					RedirectURI:  "https://example.com/oauth2/callback",
					Session:      Session{Keys: []string{strings.Repeat("A", 43) + "="}},
				}
				if err := h.setUp(&certmagic.FileStorage{Path: b.TempDir()}); err != nil {
					b.Fatal(err)
				}
				h.peers = new(peers)
				cookie := benchCookie(b, h, size)
				r := benchRequest()
				w := httptest.NewRecorder()
				b.ReportAllocs()
				for b.Loop() {
					resetRequest(r, cookie)
					if first {
						h.opened.RemoveOldest()
					}
					if err := h.ServeHTTP(w, r, nothing); err != nil {
						b.Fatal(err)
					}
				}
				if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
					b.Fatal("the request was not let through")
				}
			})
		}
	}
}

// benchCookie returns the Cookie header of a session with a JWT of that size.
func benchCookie(b *testing.B, h *Handler, size int) string {
	b.Helper()
	// A header, a payload, and a signature as RS256 makes it.
	token := "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("eyJz", (size-21-1-342)/4) + "." + strings.Repeat("A", 342)
	w := httptest.NewRecorder()
	err := h.saveSession(w, b.Context(), *h.cfg.fixedSite, h.newSession(aventus.Token{AccessToken: token, ExpiresIn: time.Hour}, nil))
	if err != nil {
		b.Fatal(err)
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return "theme=dark; " + cookie
}

func benchRequest() *http.Request {
	r := httptest.NewRequest("GET", "https://example.com/page", nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// resetRequest gives a request the headers that a browser sends.
func resetRequest(r *http.Request, cookie string) {
	clear(r.Header)
	r.Header["Accept"] = []string{"text/html"}
	r.Header["Sec-Fetch-Mode"] = []string{"navigate"}
	r.Header["Cookie"] = []string{cookie}
}
