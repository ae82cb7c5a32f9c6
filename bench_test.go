package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
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
	"golang.org/x/oauth2"
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
		r := benchRequest(new(caddyhttp.Server), "https://example.com/page")
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
					h := benchHandler(b, Config{Session: Session{Store: store}})
					cookie := benchCookie(b, h, size)
					r := benchRequest(serverOf(h), "https://example.com/page")
					w := httptest.NewRecorder()
					var told []string // the next handler, in Authorization
					next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
						told = r.Header["Authorization"]
						return nil
					})
					b.ReportAllocs()
					for b.Loop() {
						resetRequest(r, cookie)
						if which == "first" {
							h.house.keeper.memory.sessions.InvalidateAll()
						}
						if err := h.ServeHTTP(w, r, next); err != nil {
							b.Fatal(err)
						}
					}
					if len(told) != 1 || !strings.HasPrefix(told[0], "Bearer ey") {
						b.Fatal("the request was not let through")
					}
				})
			}
		}
	}
}

// BenchmarkSessionsInTurn measures what a request costs in this handler alone when many sessions are about, and
// each is asked for in turn, with tokens of 1,500 characters. b/session is the memory that each takes.
//
//	go test -run '^$' -bench SessionsInTurn -benchmem .
func BenchmarkSessionsInTurn(b *testing.B) {
	for _, store := range []string{"cookie", "storage"} {
		for _, sessions := range []int{1000, 4000, 8000, 50000} {
			b.Run(fmt.Sprintf("store=%s/sessions=%d", store, sessions), func(b *testing.B) {
				before := heapInUse()
				h := benchHandlerOn(b, Config{Session: Session{Store: store}}, new(mapStorage))
				cookies := make([]string, sessions)
				size := 0
				for i := range cookies {
					cookies[i] = benchCookie(b, h, 1500)
					size += len(cookies[i])
				}
				taken := heapInUse() - before - size
				r := benchRequest(serverOf(h), "https://example.com/page")
				w := httptest.NewRecorder()
				replacer := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
				ask := func(cookie string) {
					resetRequest(r, cookie)
					caddyhttp.SetVar(r.Context(), sentVar, &sent{cookies: r.Header["Cookie"], placeholders: replacer})
					if err := h.ServeHTTP(w, r, nothing); err != nil {
						b.Fatal(err)
					}
				}
				for _, cookie := range cookies { // the first time is not what is measured
					ask(cookie)
				}
				i, start := 0, cpuTime(b)
				b.ReportAllocs()
				for b.Loop() {
					ask(cookies[i])
					if i++; i == sessions {
						i = 0
					}
				}
				b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
				b.ReportMetric(float64(taken)/float64(sessions), "b/session")
			})
		}
	}
}

// BenchmarkSessionsAtOnce is BenchmarkSessionsInTurn with as many requests at a time as there are processors. A lock
// that all of them take shows in the mutex profile, and in requests that cost more with more processors.
//
//	go test -run '^$' -bench SessionsAtOnce -cpu 1,2 -mutexprofile mutex.out .
func BenchmarkSessionsAtOnce(b *testing.B) {
	for _, store := range []string{"cookie", "storage"} {
		for _, sessions := range []int{1000, 50000} {
			b.Run(fmt.Sprintf("store=%s/sessions=%d", store, sessions), func(b *testing.B) {
				h := benchHandlerOn(b, Config{Session: Session{Store: store}}, new(mapStorage))
				defer h.Cleanup()
				cookies := make([]string, sessions)
				for i := range cookies {
					cookies[i] = benchCookie(b, h, 1500)
				}
				asker := func() func(cookie string) error {
					r, w := benchRequest(serverOf(h), "https://example.com/page"), httptest.NewRecorder()
					replacer := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
					return func(cookie string) error {
						resetRequest(r, cookie)
						caddyhttp.SetVar(r.Context(), sentVar,
							&sent{cookies: r.Header["Cookie"], placeholders: replacer})
						return h.ServeHTTP(w, r, nothing)
					}
				}
				ask := asker()
				for _, cookie := range cookies { // the first time is not what is measured
					if err := ask(cookie); err != nil {
						b.Fatal(err)
					}
				}
				var turn atomic.Int64
				start := cpuTime(b)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					ask := asker()
					for i := int(turn.Add(1)) * sessions / 7; pb.Next(); i++ {
						if err := ask(cookies[i%sessions]); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// hastyFiles are files that are not waited for until they are on the disk.
type hastyFiles struct{ certmagic.FileStorage }

func (f *hastyFiles) Store(_ context.Context, key string, value []byte) error {
	name := f.Filename(key)
	err := os.WriteFile(name, value, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		_ = os.MkdirAll(filepath.Dir(name), 0o700)
		err = os.WriteFile(name, value, 0o600)
	}
	return err
}

// BenchmarkListing lists 100,000 sessions in files, as the admin API does for each block.
//
//	go test -run '^$' -bench Listing -benchtime 5x .
func BenchmarkListing(b *testing.B) {
	const sessions = 100_000
	h := benchHandlerOn(b, Config{Session: Session{Store: "storage"}},
		&hastyFiles{certmagic.FileStorage{Path: b.TempDir()}})
	defer h.Cleanup()
	for range sessions {
		benchCookie(b, h, 750)
	}
	start := cpuTime(b)
	for b.Loop() {
		found := 0
		err := serveList(httptest.NewRecorder(), func(f func(listed) error) error {
			return h.house.keeper.store.list(b.Context(), func(about listed) error {
				if found++; h.house.keeper.ends.hasListed(about) {
					return errors.New("it has ended")
				}
				return f(about)
			})
		})
		if err != nil || found != sessions {
			b.Fatalf("%d sessions, %v", found, err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N)/1e6, "cpu-ms/op")
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
			h := benchHandler(b, Config{Issuer: issuer.URL})
			defer h.Cleanup()
			server := serverOf(h)
			var code atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(parallelism)
			procs := runtime.GOMAXPROCS(1)
			defer runtime.GOMAXPROCS(procs)
			before := cpuTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w, r := httptest.NewRecorder(), benchRequest(server, "https://example.com/page")
					resetRequest(r, "theme=dark")
					if err := h.ServeHTTP(w, r, nothing); err != nil || w.Code != http.StatusFound {
						b.Errorf("status %d, error %v", w.Code, err)
						return
					}
					to, _ := url.Parse(w.Header().Get("Location"))
					cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
					w, r = httptest.NewRecorder(),
						benchRequest(server, fmt.Sprintf("https://example.com/oauth2/callback?code=%d&state=%s",
							code.Add(1), to.Query().Get("state")))
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
func benchHandler(b testing.TB, c Config) *Handler {
	b.Helper()
	return benchHandlerOn(b, c, &certmagic.FileStorage{Path: b.TempDir()})
}

func benchHandlerOn(b testing.TB, c Config, storage certmagic.Storage) *Handler {
	b.Helper()
	h := &Handler{Config: c}
	h.ClientID, h.ClientSecret, h.RedirectURI = "the-client", "secret", "https://example.com/oauth2/callback"
	h.Session.Keys = []string{strings.Repeat("A", 43) + "="}
	if err := h.setUp(bareSurroundings(storage, clock)); err != nil {
		b.Fatal(err)
	}
	return h
}

// bareSurroundings are those of a handler with no Caddy around it.
func bareSurroundings(storage certmagic.Storage, now func() time.Time) surroundings {
	return surroundings{
		ctx: caddy.Context{Context: context.Background()}, storage: storage, logger: zap.NewNop(),
		peers: new(peers), now: now,
	}
}

// benchToken returns a JWT of that size: a header, a payload, and a signature as RS256
// makes it.
func benchToken(size int) string {
	return "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("eyJz", (size-21-1-342)/4) + "." + strings.Repeat("A", 342)
}

// benchCookie returns the Cookie header of a session with a JWT of that size.
func benchCookie(b testing.TB, h *Handler, size int) string {
	b.Helper()
	w := httptest.NewRecorder()
	_, err := h.house.keeper.save(w, b.Context(), *h.house.gate.sites.fixed, nil,
		h.house.keeper.make(&oauth2.Token{AccessToken: benchToken(size), ExpiresIn: 3600}, nil),
		"https://example.com/page")
	if err != nil {
		b.Fatal(err)
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return "theme=dark; " + cookie
}

// serverOf returns a server that has a handler in its routes: what stands in front of it is looked at once.
func serverOf(h *Handler) *caddyhttp.Server {
	return &caddyhttp.Server{Routes: caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{h}}}}
}

func benchRequest(server *caddyhttp.Server, target string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), server)
}

// resetRequest gives a request the headers that a browser sends.
func resetRequest(r *http.Request, cookie string) {
	clear(r.Header)
	r.Header["Accept"] = []string{"text/html"}
	r.Header["Sec-Fetch-Mode"] = []string{"navigate"}
	r.Header["Cookie"] = []string{cookie}
}
