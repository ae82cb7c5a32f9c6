package aventusauth

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
)

// benchGroup is a handler whose login two hosts share, with a token endpoint that answers at once.
type benchGroup struct {
	testing.TB
	*Handler
	server *caddyhttp.Server
	codes  atomic.Int64
}

const benchLogin, benchApp = "https://login.example.com", "https://app.example.com"

func newBenchGroup(b testing.TB, storage certmagic.Storage, now func() time.Time) *benchGroup {
	b.Helper()
	token := fmt.Sprintf(`{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, benchToken(750))
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, token)
	}))
	b.Cleanup(issuer.Close)
	h := &Handler{Config: Config{
		ClientID: "the-client", ClientSecret: "secret", Issuer: issuer.URL,
		RedirectURI: benchLogin + "/oauth2/callback", Hosts: []string{"app.example.com"},
		Session: Session{Keys: []string{strings.Repeat("A", 43) + "="}},
	}}
	if err := h.setUp(bareSurroundings(storage, now)); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = h.Cleanup() })
	return &benchGroup{TB: b, Handler: h, server: serverOf(h)}
}

// ask sends a page visit with some cookies. It returns the status, where the answer leads, and the cookies that
// it sets.
func (g *benchGroup) ask(target, cookies string) (status int, to, set string) {
	w, r := httptest.NewRecorder(), benchRequest(g.server, target)
	resetRequest(r, cookies)
	if err := g.ServeHTTP(w, r, nothing); err != nil {
		g.Fatalf("%s: %v", target, err)
	}
	var pairs []string
	for _, line := range w.Header()["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		pairs = append(pairs, pair)
	}
	return w.Code, w.Header().Get("Location"), strings.Join(pairs, "; ")
}

// signIn logs in at the login host, and returns its session's cookie.
func (g *benchGroup) signIn() string {
	_, to, binding := g.ask(benchLogin+"/page", "theme=dark")
	status, _, session := g.ask(fmt.Sprintf("%s/oauth2/callback?code=%d&state=%s", benchLogin, g.codes.Add(1),
		query(to, "state")), binding)
	if status != http.StatusSeeOther {
		g.Fatalf("the callback is answered %d", status)
	}
	return session
}

// handOver gets the session of the login host to the other one, and returns its cookie there.
func (g *benchGroup) handOver(session string) string {
	_, request, binding := g.ask(benchApp+"/page", "theme=dark")
	_, ticket, _ := g.ask(request, session)
	status, to, set := g.ask(ticket, binding)
	if status != http.StatusSeeOther || to != benchApp+"/page" {
		g.Fatalf("the ticket is answered %d, to %s", status, to)
	}
	return set
}

// BenchmarkSecondHost measures what a request with a session costs in this handler at a host that got it by a
// ticket, beside the same at the login host, in turns. "ratio" is the second by the first.
//
//	go test -run '^$' -bench SecondHost -benchmem .
func BenchmarkSecondHost(b *testing.B) {
	g := newBenchGroup(b, &certmagic.FileStorage{Path: b.TempDir()}, clock)
	const turn = 100
	cookies := []string{g.signIn()}
	cookies = append(cookies, g.handOver(cookies[0]))
	var took [2]time.Duration
	var told int
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		told += len(r.Header["Authorization"])
		return nil
	})
	requests := []*http.Request{benchRequest(g.server, benchLogin+"/page"), benchRequest(g.server, benchApp+"/page")}
	w, n := httptest.NewRecorder(), 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		for i, r := range requests {
			began := time.Now()
			for range turn {
				resetRequest(r, cookies[i])
				if err := g.ServeHTTP(w, r, next); err != nil {
					b.Fatal(err)
				}
			}
			took[i] += time.Since(began)
		}
	}
	if told != n*turn*2 {
		b.Fatalf("%d of %d requests were let through", told, n*turn*2)
	}
	b.ReportMetric(float64(took[0])/float64(n*turn), "first-ns")
	b.ReportMetric(float64(took[1])/float64(n*turn), "second-ns")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}

// BenchmarkHandOver measures the processor time of a hand-over to a second host, beside that of a login, in
// turns. The token endpoint's is in the login's. "ratio" is the hand-over by the login. "at once" are those
// that come together, as they do under load.
//
//	go test -run '^$' -bench HandOver .
func BenchmarkHandOver(b *testing.B) {
	for name, atOnce := range map[string]int{"one by one": 1, "at once": 32} {
		b.Run(name, func(b *testing.B) {
			g := newBenchGroup(b, &certmagic.FileStorage{Path: b.TempDir()}, clock)
			session := g.signIn()
			const turn = 64
			inTurn := func(do func()) (cpu int64) {
				began := cpuTime(b)
				var all sync.WaitGroup
				for range atOnce {
					all.Go(func() {
						for range turn / atOnce {
							do()
						}
					})
				}
				all.Wait()
				return cpuTime(b) - began
			}
			var logins, handOvers int64
			n := 0
			for b.Loop() {
				n++
				logins += inTurn(func() { g.signIn() })
				handOvers += inTurn(func() { g.handOver(session) })
			}
			b.ReportMetric(float64(logins)/float64(n*turn), "login-cpu-ns")
			b.ReportMetric(float64(handOvers)/float64(n*turn), "handover-cpu-ns")
			b.ReportMetric(float64(handOvers)/float64(logins), "ratio")
		})
	}
}

// TestTenThousandHandOvers leave nothing behind on the server but what used codes leave.
func TestTenThousandHandOvers(t *testing.T) {
	clock := new(testClock)
	clock.now.Store(1_800_000_001)
	storage := new(mapStorage)
	g := newBenchGroup(t, storage, clock.Now)
	session := g.signIn()
	g.handOver(session)
	others := func() (names []string) {
		for name := range storage.files {
			isCode := strings.HasPrefix(name, "aventus_auth/spent/") ||
				strings.HasPrefix(name, "aventus_auth/more-spent/")
			if !isCode {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	before := others()
	for range 10_000 {
		g.handOver(session)
	}
	if after := others(); !slices.Equal(before, after) {
		t.Errorf("the storage had %q, and has %q", before, after)
	}
}
