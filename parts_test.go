package aventusauth

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// parts are what the stages of a block for bareSite are made of, with no Caddy and no network. A test makes the
// stage that it is about of them, so the stage's type says what the test may depend on. What users see is
// tested with a whole Caddy: see world.
type parts struct {
	t       *testing.T
	clock   *testClock
	storage *mapStorage
	ring    *keyring.Ring
	once    *records.Once
	sites   *sites
	cookies *cookies
	answers *answers
	meter   *meter
	keeper  *keeper
}

func newParts(t *testing.T) *parts {
	p := &parts{t: t, clock: new(testClock), storage: new(mapStorage)}
	p.clock.now.Store(1_800_000_000)
	clock := records.NewClock(p.clock.Now, p.clock.Elapsed)
	var err error
	if p.ring, err = keyring.Fixed([][]byte{[]byte(strings.Repeat("k", keyring.SecretSize))},
		p.clock.Now); err != nil {
		t.Fatal(err)
	}
	ended := records.NewEnded(p.storage, clock)
	t.Cleanup(func() { _ = ended.Destruct() })
	lastUses, err := lru.New[records.ID, time.Time](rememberedUses)
	if err != nil {
		t.Fatal(err)
	}
	damaged, err := lru.New[[16]byte, time.Time](damagedRecords)
	if err != nil {
		t.Fatal(err)
	}
	p.once = records.NewOnce(p.storage, "aventus_auth/spent", loginLifetime, clock)
	p.sites = newSites(bareSite+"/oauth2/callback", nil, []string{"https://auth.example.com/"}, nil)
	p.cookies = &cookies{session: "session", binding: bindingName, own: func() []string {
		return []string{"session", bindingName}
	}}
	p.meter = &meter{site: bareSite, logger: zap.NewNop()}
	p.answers = &answers{
		cookies: p.cookies, tokenHeader: "Authorization", vary: []string{"Cookie"}, meter: p.meter,
		logger: zap.NewNop(), challenges: new(challenges),
		errors:       &errorPages{all: new(errorRoutesOfServers), logger: zap.NewNop()},
		otherAccount: func(*http.Request) string { return "" },
	}
	p.keeper = &keeper{
		sessionBox: p.ring.Box("session", "the-client"),
		store: &sessionStore{
			shelf: records.NewShelf(p.storage, "aventus_auth/sessions", clock),
			uses:  records.NewShelf(p.storage, "aventus_auth/uses", clock), now: p.clock.Now,
			indexBox: p.ring.Box("session index", "the-client"), clientID: "the-client", damaged: damaged,
		},
		ends: &ends{ended: ended, issuer: "https://auth.example.com/"}, memory: newMemory(1 << 20), lastUses: lastUses,
		confirm: func(context.Context) {}, tries: new(attempts),
		cookies: p.cookies, meter: p.meter, lifetime: 24 * time.Hour, now: p.clock.Now,
		longest: func(context.Context) time.Duration { return 24 * time.Hour },
	}
	return p
}

// at is the site of the parts.
func (p *parts) at() site { return *p.sites.fixed }

// request returns a request as Caddy hands it to a handler.
func (p *parts) request(method, target string, headers ...string) *http.Request {
	p.t.Helper()
	lines := method + " " + target + " HTTP/1.1\r\nHost: example.com\r\n"
	for i := 0; i < len(headers); i += 2 {
		lines += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(lines + "\r\n")))
	if err != nil {
		p.t.Fatal(err)
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// session saves a session, whose token lasts for an hour, and returns it with its cookie.
func (p *parts) session(change func(*session)) (k *keptSession, cookie string) {
	p.t.Helper()
	s := p.keeper.make(&oauth2.Token{AccessToken: "opaque", ExpiresIn: 3600}, nil)
	s.expires = toUnix(s.created.time().Add(p.keeper.lifetime))
	if change != nil {
		change(s)
	}
	w := httptest.NewRecorder()
	k, err := p.keeper.save(w, p.t.Context(), p.at(), nil, s, "/")
	if err != nil {
		p.t.Fatal(err)
	}
	cookie, _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return k, cookie
}

// load returns the session that a cookie holds by now.
func (p *parts) load(cookie string) (*keptSession, error) {
	return p.keeper.load(p.t.Context(), p.at(), []string{cookie}, p.clock.Now())
}

// logins returns the stage of that name. Nothing listens where its client would send a code.
func (p *parts) logins() *logins {
	own := &neighbour{sites: p.sites, cookies: p.cookies, keeper: p.keeper, meter: p.meter}
	own.server = &authServer{
		client: aventus.NewClient(aventus.Config{
			ClientID: "the-client", AuthorizeURL: "https://auth.example.com/authorize",
			TokenURL: "https://127.0.0.1:1/oauth/token",
		}),
		issuer: "https://auth.example.com/", clientID: "the-client", ends: p.keeper.ends, now: p.clock.Now,
		meter: p.meter, logger: zap.NewNop(),
	}
	return &logins{
		sites: p.sites, cookies: p.cookies, answers: p.answers, keeper: p.keeper, server: own.server,
		states: &states{p.ring.Box("login state", "")}, verifierBox: p.ring.Box("code verifier", "the-client"),
		used: p.once, now: p.clock.Now, meter: p.meter, others: new(callbacks),
		replacer: &replacer{
			own: own, blocks: new(neighbours), latest: new(lastLogins), now: p.clock.Now, logger: zap.NewNop(),
		},
	}
}

// renewalParts are the storage, the memory and the authorization server of a renewer, in memory.
type renewalParts struct {
	record    *session
	failing   atomic.Bool    // writes of the record fail
	failAfter bool           // they do once a refresh token was sent: the note is written, and the result is not
	isSecond  bool           // another process was first to use the refresh token
	err       *aventus.Error // the authorization server's answer; nil: a new token

	remembered *session
	sent       []string     // the refresh tokens
	requests   atomic.Int64 // their number
}

// renewer returns a renewer of the parts.
func (p *renewalParts) renewer(now func() time.Time) *renewer {
	return &renewer{
		locks: p, uses: p, records: p, memory: p, server: p, flights: new(singleflight.Group), tries: new(attempts),
		before: 5 * time.Minute, now: now, meter: &meter{site: bareSite}, logger: zap.NewNop(),
	}
}

func (*renewalParts) Lock(context.Context, string) error          { return nil }
func (*renewalParts) Unlock(context.Context, string) error        { return nil }
func (*renewalParts) holds(context.Context, *handle, []byte) bool { return false }

func (p *renewalParts) Use(...records.ID) (bool, error) { return !p.isSecond, nil }

func (p *renewalParts) fetch(context.Context, site, *handle) (*session, error) {
	return p.record.copy(), nil
}

func (p *renewalParts) put(ctx context.Context, at site, d *handle, s *session) error {
	_, err := p.putSealed(ctx, at, d, s)
	return err
}

func (p *renewalParts) putSealed(_ context.Context, _ site, _ *handle, s *session) ([]byte, error) {
	if p.failing.Load() {
		return nil, errors.New("the disk is full")
	}
	p.record = s.copy()
	return nil, nil
}

func (*renewalParts) settled(*handle) <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func (p *renewalParts) delete(context.Context, string, time.Time) error { return nil }

func (p *renewalParts) replace(k *keptSession, s *session) *keptSession {
	p.remembered = s
	return k.with(s)
}

func (*renewalParts) forget(*keptSession)                     {}
func (*renewalParts) end(context.Context, *keptSession) error { return nil }
func (*renewalParts) lastOf(s *session) time.Time             { return s.expires.time() }
func (*renewalParts) hasEnded(*session) bool                  { return false }
func (*renewalParts) learn(context.Context)                   {}
func (*renewalParts) revoke(context.Context, *session)        {}

func (p *renewalParts) refresh(_ context.Context, token string) (*oauth2.Token, *aventus.Error) {
	p.sent = append(p.sent, token)
	p.requests.Add(1)
	if p.failAfter {
		p.failing.Store(true)
	}
	if p.err != nil {
		return nil, p.err
	}
	return &oauth2.Token{AccessToken: "new", RefreshToken: "second", ExpiresIn: 3600}, nil
}

func (*renewalParts) verifyRenewed(context.Context, *session, *session, string) (limits, error) {
	return limits{}, nil
}

// outcome serves a request and returns what came of it: "next" if the next handler was called, else the status
// and, if there is one, the code of the failure.
func (p *parts) outcome(serve func(http.ResponseWriter, *http.Request) error, r *http.Request) (
	*httptest.ResponseRecorder, string,
) {
	p.t.Helper()
	w := httptest.NewRecorder()
	err := serve(w, r)
	if f := asSent(r).failed; f != nil {
		var answered caddyhttp.HandlerError
		if errors.As(err, &answered) {
			w.Code = answered.StatusCode
		}
		if w.Code != f.status {
			p.t.Errorf("%s: answered %d", f.code, w.Code)
		}
		return w, f.code
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return w, http.StatusText(w.Code)
}

var errBrokenStorage = errors.New("the storage is broken")

// brokenStorage is a storage that cannot be read.
type brokenStorage struct{ certmagic.Storage }

func (brokenStorage) Load(context.Context, string) ([]byte, error) { return nil, errBrokenStorage }

func (brokenStorage) List(context.Context, string, bool) ([]string, error) {
	return nil, errBrokenStorage
}
