package aventusauth

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// bare is a handler with no Caddy around it: a fuzzer wants thousands of requests a
// second, and Caddy's sockets and logs are not what it looks at.
type bare struct {
	*Handler
	storage *mapStorage
	clock   *testClock
	passed  bool // the last request went on to the next handler
}

const bareSite = "https://example.com"

// newBare returns a handler of the given config, with what is required and a key of
// its own added to it. The issuer is on another origin than the site.
func newBare(f *testing.F, c Config) *bare {
	f.Helper()
	h := Handler{Config: c}
	h.ClientID, h.ClientSecret = "the-client", testSecret
	if h.RedirectURI == "" {
		h.RedirectURI = bareSite + "/oauth2/callback"
	}
	h.Session.Keys = []string{strings.Repeat("A", 43)}
	b := &bare{Handler: &h, storage: new(mapStorage), clock: new(testClock)}
	b.clock.now.Store(1_800_000_001)
	if err := h.setUp(bareSurroundings(b.storage, b.clock.Now)); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := h.Cleanup(); err != nil {
			f.Error(err)
		}
	})
	return b
}

// serve sends a request, as bytes on a connection, and returns the answer as the
// bytes that net/http would write are read. It reports false for what net/http
// answers by itself.
func (b *bare) serve(t *testing.T, method, target, host string, headers ...string) (answer, bool) {
	t.Helper()
	var lines strings.Builder
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(&lines, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if strings.ContainsAny(target+host, "\r\n") || !httpguts.ValidHostHeader(host) {
		return answer{}, false
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: " + host +
		"\r\n" + lines.String() + "\r\n")))
	if err != nil {
		return answer{}, false
	}
	b.passed = false
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		b.passed = true
		return nil
	})
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	status := http.StatusOK
	if err := b.ServeHTTP(w, r, next); err != nil {
		var handlerErr caddyhttp.HandlerError
		if !errors.As(err, &handlerErr) {
			t.Fatalf("an error that Caddy answers with 500: %v", err)
		}
		status = handlerErr.StatusCode
	} else {
		status = w.Code
	}
	var wire bytes.Buffer
	fmt.Fprintf(&wire, "HTTP/1.1 %d x\r\n", status)
	_ = w.Header().Write(&wire)
	wire.WriteString("\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(&wire), r)
	if err != nil {
		t.Fatalf("no client can read the answer: %v", err)
	}
	resp.Body.Close()
	return answer{resp, w.Body.String()}, true
}

// signIn returns the Cookie header of a new session.
func (b *bare) signIn(t *testing.T, at site) string {
	t.Helper()
	w := httptest.NewRecorder()
	token := &oauth2.Token{AccessToken: "opaque", ExpiresIn: 3600}
	if _, err := b.house.keeper.save(w, t.Context(), at, nil, b.house.keeper.make(token, nil), "/"); err != nil {
		t.Fatal(err)
	}
	pair, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return pair
}

// forget forgets what was stored and used.
func (b *bare) forget() {
	b.storage.clear()
	used := records.NewOnce(b.house.shared.storage, "aventus_auth/spent", loginLifetime, b.house.shared.clock)
	b.house.logins.used, b.house.handOvers.used = used, used
}

// mapStorage is a storage in memory.
type mapStorage struct {
	mu    sync.Mutex
	files map[string][]byte
	locks sync.Map // of the names, each a mutex
}

func (s *mapStorage) Lock(_ context.Context, name string) error {
	mu, _ := s.locks.LoadOrStore(name, new(sync.Mutex))
	mu.(*sync.Mutex).Lock()
	return nil
}

func (s *mapStorage) Unlock(_ context.Context, name string) error {
	mu, _ := s.locks.Load(name)
	mu.(*sync.Mutex).Unlock()
	return nil
}

func (s *mapStorage) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = make(map[string][]byte)
	}
	s.files[key] = value
	return nil
}

func (s *mapStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.files[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return value, nil
}

func (s *mapStorage) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, key)
	return nil
}

func (s *mapStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Load(ctx, key)
	return err == nil
}

// List knows no folders: those who ask for them here only tidy up.
func (s *mapStorage) List(_ context.Context, prefix string, recursive bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.files {
		if strings.HasPrefix(key, prefix+"/") && (recursive || path.Dir(key) == prefix) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (s *mapStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, err := s.Load(ctx, key)
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, err
}

// clear forgets everything.
func (s *mapStorage) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.files)
	s.locks.Clear()
}
