package aventusauth

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

var nothing = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// BenchmarkAuthenticated measures what a request with a session costs in this
// handler alone. "nothing" is what a handler costs that only calls the next one;
// "first" is a session's first request, which opens the cookie, and reads the storage
// where the session rests there; "again" are those that come after it.
//
//	go test -run '^$' -bench Authenticated -benchmem .
func BenchmarkAuthenticated(b *testing.B) {
	b.Run("nothing", func(b *testing.B) {
		r := benchRequest("https://example.com/page")
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
		for _, store := range []string{"cookie", "storage"} {
			for _, which := range []string{"again", "first"} {
				b.Run(fmt.Sprintf("token=%d/store=%s/%s", size, store, which), func(b *testing.B) {
					h := benchHandler(b, Handler{Session: Session{Store: store}})
					cookie := benchCookie(b, h, size)
					r := benchRequest("https://example.com/page")
					w := httptest.NewRecorder()
					b.ReportAllocs()
					for b.Loop() {
						resetRequest(r, cookie)
						if which == "first" {
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
}

// BenchmarkLogin measures what a login costs in this handler: the redirect, the
// callback and the exchange, at a token endpoint that answers at once. "at once" are
// logins that come together, as they do under load.
//
//	go test -run '^$' -bench Login -benchmem .
func BenchmarkLogin(b *testing.B) {
	token := fmt.Sprintf(`{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, benchToken(750))
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, token)
	}))
	defer issuer.Close()
	for name, parallelism := range map[string]int{"one by one": 1, "at once": 32} {
		b.Run(name, func(b *testing.B) {
			h := benchHandler(b, Handler{Issuer: issuer.URL})
			defer h.Cleanup()
			var code atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(parallelism)
			procs := runtime.GOMAXPROCS(1)
			defer runtime.GOMAXPROCS(procs)
			before := cpuTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w, r := httptest.NewRecorder(), benchRequest("https://example.com/page")
					resetRequest(r, "theme=dark")
					if err := h.ServeHTTP(w, r, nothing); err != nil || w.Code != http.StatusFound {
						b.Errorf("status %d, error %v", w.Code, err)
						return
					}
					to, _ := url.Parse(w.Header().Get("Location"))
					cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
					w, r = httptest.NewRecorder(), benchRequest(fmt.Sprintf("https://example.com/oauth2/callback?code=%d&state=%s", code.Add(1), to.Query().Get("state")))
					resetRequest(r, cookie)
					if err := h.ServeHTTP(w, r, nothing); err != nil || w.Code != http.StatusSeeOther {
						b.Errorf("status %d, error %v", w.Code, err)
						return
					}
				}
			})
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime returns the processor time that this process has used, in nanoseconds. The
// token endpoint's is in it.
func cpuTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// benchHandler returns a handler that is ready, with a storage of its own.
func benchHandler(b testing.TB, h Handler) *Handler {
	b.Helper()
	h.ClientID, h.ClientSecret, h.RedirectURI = "the-client", "secret", "https://example.com/oauth2/callback"
	h.Session.Keys = []string{strings.Repeat("A", 43) + "="}
	h.logger = zap.NewNop()
	if err := h.setUp(&certmagic.FileStorage{Path: b.TempDir()}); err != nil {
		b.Fatal(err)
	}
	h.peers = new(peers)
	return &h
}

// benchToken returns a JWT of that size: a header, a payload, and a signature as RS256
// makes it.
func benchToken(size int) string {
	return "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("eyJz", (size-21-1-342)/4) + "." + strings.Repeat("A", 342)
}

// benchCookie returns the Cookie header of a session with a JWT of that size.
func benchCookie(b *testing.B, h *Handler, size int) string {
	b.Helper()
	w := httptest.NewRecorder()
	err := h.saveSession(w, b.Context(), *h.cfg.fixedSite, h.newSession(aventus.Token{AccessToken: benchToken(size), ExpiresIn: time.Hour}, nil))
	if err != nil {
		b.Fatal(err)
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return "theme=dark; " + cookie
}

func benchRequest(target string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// resetRequest gives a request the headers that a browser sends.
func resetRequest(r *http.Request, cookie string) {
	clear(r.Header)
	r.Header["Accept"] = []string{"text/html"}
	r.Header["Sec-Fetch-Mode"] = []string{"navigate"}
	r.Header["Cookie"] = []string{cookie}
}
