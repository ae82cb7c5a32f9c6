package aventusauth

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/oauth2"
)

// all returns the sessions that are remembered.
func (m *memory) all() []*keptSession { return slices.Collect(m.sessions.Values()) }

// setCookie returns the value of the cookie that an answer sets.
func setCookie(w *httptest.ResponseRecorder) string {
	pair, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	_, value, _ := strings.Cut(pair, "=")
	return value
}

// heapInUse returns how many bytes are in use.
func heapInUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestMemoryIsBounded: whatever sessions are like, what is remembered of them takes no more than the limit, and
// what a session is taken to weigh is what it takes.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 8 << 20
	for _, c := range []struct {
		what       string
		size       int // of a token
		store      string
		withClaims bool
	}{
		{"opaque", 30, "cookie", false}, {"small", 750, "cookie", false}, {"usual", 1500, "cookie", false},
		{"small in the storage", 750, "storage", false}, {"large", 20000, "storage", false},
		{"with claims", 1500, "cookie", true}, {"with many claims", 12000, "storage", true},
	} {
		h := benchHandler(t, Config{Session: Session{Store: c.store}})
		kp, at := h.house.keeper, *h.house.gate.sites.fixed
		before := heapInUse()
		kp.memory = newMemory(limit)
		// Half of a JWT's characters are permissions, and its signature is that of RS256.
		token := strings.Repeat("x", c.size)
		if c.size >= 750 {
			said := `{"sub":"auth0|0123456789","permissions":["read:things"` +
				strings.Repeat(`,"write:other-things"`, (c.size-450)*3/4/22) + `]}`
			token = "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(said)) + "." +
				strings.Repeat("A", 342)
		}
		for i := range 3 * limit / (c.size + 1000) {
			s := kp.make(&oauth2.Token{AccessToken: strings.Clone(token), ExpiresIn: 3600}, nil)
			k := &keptSession{session: s, seen: toUnix(kp.now())}
			if c.store == "storage" {
				k.handle = newHandle(s)
			}
			k.cookie, _ = kp.memory.key(kp.memoryID, at.origin,
				fmt.Sprintf("%s %030d", c.what, i))
			s.subject()
			kp.memory.add(k)
			if c.withClaims {
				s.accessClaims()
				kp.memory.get(k.cookie)
			}
		}
		kp.memory.sessions.CleanUp()
		weighed, taken := int(kp.memory.sessions.WeightedSize()), heapInUse()-before
		if weighed > limit || weighed < limit*8/10 || taken > weighed*11/10 || taken < weighed*6/10 {
			t.Errorf("%s: %d sessions weigh %d and take %d (%d each), with a limit of %d", c.what,
				kp.memory.sessions.EstimatedSize(), weighed, taken, taken/kp.memory.sessions.EstimatedSize(), limit)
		}
		runtime.KeepAlive(kp)
	}
}

// TestMemoryOfOneVisit: who comes once, at a site that asks for claims, takes no more memory than it is taken to.
func TestMemoryOfOneVisit(t *testing.T) {
	const limit = 1 << 20
	h := benchHandler(t, Config{})
	defer h.Cleanup()
	m := newMemory(limit)
	h.house.keeper.memory = m
	server := serverOf(h)
	asks := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.auth.user.permissions}", "")
		return nil
	})
	var cookies []string
	for range limit / 2000 {
		cookies = append(cookies, benchCookie(t, h, 1500))
	}
	m.forgetAll()
	for _, cookie := range cookies {
		r := benchRequest(server, "https://example.com/page")
		resetRequest(r, cookie)
		if err := h.ServeHTTP(httptest.NewRecorder(), r, asks); err != nil {
			t.Fatal(err)
		}
	}
	m.sessions.CleanUp()
	weigh := 0
	for _, k := range m.all() {
		weigh += int(k.weight())
	}
	if weigh > limit || weigh < limit/2 {
		t.Errorf("%d sessions weigh %d, with a limit of %d", m.sessions.EstimatedSize(), weigh, limit)
	}
}

// TestMemoryLimit: what the process may have (GOMEMLIMIT) is respected.
func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(256 << 20)
	defer debug.SetMemoryLimit(before)
	if got := memoryLimit(); got != 32<<20 {
		t.Errorf("%d bytes", got)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if got := memoryLimit(); got != rememberedBytes {
		t.Errorf("%d bytes, with no limit", got)
	}
}

// TestMemoryKeepsWhoComesOften: a flood of visitors who come once pushes nobody out who comes often.
func TestMemoryKeepsWhoComesOften(t *testing.T) {
	m := newMemory(1 << 20)
	remember := func(name string) openedKey {
		k := &keptSession{session: &session{grant: grant{bearer: strings.Repeat("x", 1500)}}}
		k.cookie, _ = m.key([8]byte{}, "https://example.com", name+" in a cookie of some length")
		m.add(k)
		return k.cookie
	}
	var often []openedKey
	for i := range 200 {
		often = append(often, remember(fmt.Sprint("often", i)))
	}
	for i := range 20000 {
		for range 2 {
			m.get(often[i%len(often)])
		}
		remember(fmt.Sprint("once", i))
	}
	found := 0
	for _, key := range often {
		if _, ok := m.get(key); ok {
			found++
		}
	}
	if found < len(often)*95/100 {
		t.Errorf("%d of %d who come often are remembered", found, len(often))
	}
}

// TestMemoryKey: a cookie of which a character was changed, wherever that is, is not taken for the one that is
// remembered, nor is one of another block or host.
func TestMemoryKey(t *testing.T) {
	m, by, value := newMemory(1<<20), [8]byte{1}, strings.Repeat("aventus", 40)
	const origin = "https://example.com"
	key := func(by [8]byte, origin, value string) openedKey {
		key, ok := m.key(by, origin, value)
		if !ok {
			t.Fatalf("%q has no key", value)
		}
		return key
	}
	want := key(by, origin, value)
	if key(by, origin, value) != want || key([8]byte{2}, origin, value) == want || key(by, origin+"m", value) == want {
		t.Error("the key is not that of the cookie, the host and the block")
	}
	if tag := string(want.tag[:]); !strings.HasSuffix(value, tag) { // hash/maphash alone keeps no attacker out
		t.Errorf("the tag is %q", tag)
	}
	for i := range value {
		if key(by, origin, value[:i]+"X"+value[i+1:]) == want || key(by, origin, value[:i]+value[i+1:]) == want {
			t.Errorf("character %d does not count", i)
		}
	}
	for _, value := range []string{"", value[:15], strings.Repeat("A", maxCookie+1)} {
		if _, ok := m.key(by, origin, value); ok {
			t.Errorf("a value of %d characters has a key", len(value))
		}
	}
}

// TestMemoryOfForgedCookies: what is no session does not get into the memory.
func TestMemoryOfForgedCookies(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	value := b.login("/").cookie("aventus_session").Value
	m := handlers()[0].house.keeper.memory
	for _, forged := range []string{flip(value), value + "A", value[1:], strings.Repeat("A", 5000), "x"} {
		w.expect(w.browser().do("GET", "/", "Cookie", "aventus_session="+forged), http.StatusUnauthorized)
	}
	if all := m.all(); len(all) != 1 {
		t.Errorf("%d sessions are remembered", len(all))
	}
}

// TestMemoryOutlivesReload: after a reload, no session is opened anew, unless its cookie is opened with something else
// by now. Then what is remembered of it is not used either.
func TestMemoryOutlivesReload(t *testing.T) {
	const stored = "session {\nstore storage\n}"
	key := func(letter string) string {
		return "session {\nstore storage\nkey " + strings.Repeat(letter, 43) + "\n}"
	}
	for what, c := range map[string]struct {
		from, to   string
		remembered bool
		lives      bool // at all
	}{
		"the same":      {stored, stored, true, true},
		"another idle":  {stored, "session {\nstore storage\nidle 3h\n}", true, true},
		"another key":   {key("A"), key("B"), false, false},
		"a key":         {stored, key("A"), false, false},
		"another scope": {stored, "scope email\n" + stored, false, false},
		"another max_age": {"scope openid\n" + stored, "scope openid\nauthorize_param max_age 9\n" + stored,
			false, false},
		"several hosts": {stored, "hosts app.localhost\n" + stored, false, true},
	} {
		w := newWorld(t, setup{block: c.from})
		w.onEngine()
		b := w.browser()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		recovers := faultAt(t, "load", "aventus_auth/sessions")
		w.run(strings.Replace(w.config, c.from, c.to, 1))
		if a := b.get("/"); (a.StatusCode == http.StatusOK) != c.remembered {
			t.Errorf("%s: status %d", what, a.StatusCode)
		}
		recovers()
		if a := b.get("/"); (a.StatusCode == http.StatusOK) != c.lives {
			t.Errorf("%s: status %d, when records can be read", what, a.StatusCode)
		}
	}
}

// TestNothingIsRemembered: with no room to remember a session, answers are the same.
func TestNothingIsRemembered(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := refreshing(t, setup{block: "session {\nstore " + store + "\n}"})
		m := newMemory(1)
		handlers()[0].house.keeper.memory = m
		b := w.browser()
		copied := b.login("/").cookie("aventus_session")
		w.expect(b.get("/"), http.StatusOK)
		w.clock.Add(2 * time.Hour)
		w.expect(b.get("/"), http.StatusOK) // renewed
		w.expectTokenRequests(2)
		w.expect(b.get("/logout"), http.StatusOK)
		w.expect(w.browser().do("GET", "/", "Cookie", copied.Name+"="+copied.Value), http.StatusUnauthorized)
		if len(m.all()) != 0 {
			t.Errorf("%s: a session is remembered", store)
		}
	}
}
