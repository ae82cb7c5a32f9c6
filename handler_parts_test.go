package aventusauth

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// gate returns a gate of the parts, which protects what is below /private.
func (p *parts) gate(asked *renewalParts) *gate {
	logins, renewer := p.logins(), asked.renewer(p.clock.Now)
	return &gate{
		inFront: new(frontCheck), sites: p.sites, keeper: p.keeper, rules: new(accessRules), answers: p.answers,
		matching:   newMatching(caddyhttp.MatcherSets{{&caddyhttp.MatchPath{"/private*"}}}),
		identifier: &identifier{reader{sessions: p.keeper, now: p.clock.Now}, renewer, p.meter}, now: p.clock.Now,
		passage: &passage{
			cookies: p.cookies, hasEnded: p.keeper.hasEnded, noteUse: p.keeper.noteUse,
			tokenHeader: "Authorization", vary: []string{"Cookie"},
			streams: &streams{keeper: p.keeper, sites: p.sites, every: time.Hour, now: p.clock.Now},
		},
		handOvers: &handOvers{
			sites: p.sites, cookies: p.cookies, answers: p.answers, keeper: p.keeper, renewer: renewer, logins: logins,
			now: p.clock.Now, meter: p.meter,
		},
		logouts: &logouts{path: "/logout", own: logins.replacer.own, blocks: logins.replacer.blocks,
			replacer: logins.replacer, answers: p.answers},
		callbackPath: "/oauth2/callback", logoutPath: "/logout", unauthenticated: "auto",
	}
}

// TestGate: which way a request goes, by what it asks for, who it is from and what the block is told to do
// with those who are not signed in.
func TestGate(t *testing.T) {
	page := []string{"Sec-Fetch-Mode", "navigate", "Accept", "text/html"}
	fetch := []string{"Sec-Fetch-Mode", "cors", "Accept", "*/*"}
	socket := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-Fetch-Mode", "websocket"}
	inside := append([]string{"Sec-Fetch-Site", "same-origin"}, page...) // from a page of the site
	outside := append([]string{"Sec-Fetch-Site", "cross-site"}, page...)
	ahead := append([]string{"Sec-Purpose", "prefetch"}, page...)
	long := "/private?q=" + strings.Repeat("x", 1500) // which a login shortens
	for _, c := range []struct {
		what           string
		mode           string // unauthenticated
		method, target string
		headers        []string
		signedIn       bool
		change         func(*parts, *gate)
		want           string // "next", the code of a failure, or the status of what the module answers itself
	}{
		{"a page", "auto", "GET", "/private", page, false, nil, "Found"},
		{"a link with a query", "auto", "GET", "/private?q=x", inside, false, nil, "Found"},
		{"a script's request", "auto", "GET", "/private", fetch, false, nil, "login_required"},
		{"a form", "auto", "POST", "/private", page, false, nil, "login_required"},
		{"a WebSocket", "auto", "GET", "/private", socket, false, nil, "login_required"},
		{"a page that is fetched ahead", "auto", "GET", "/private", ahead, false, nil, "login_required"},
		{"a script's request, redirect", "redirect", "GET", "/private", fetch, false, nil, "See Other"},
		{"a form, redirect", "redirect", "POST", "/private", page, false, nil, "OK"}, // a page that leads on
		{"a WebSocket, redirect", "redirect", "GET", "/private", socket, false, nil, "login_required"},
		{"a page, deny", "deny", "GET", "/private", page, false, nil, "login_required"},
		{"a page, pass", "pass", "GET", "/private", page, false, nil, "next"},
		{"what the matcher leaves out", "deny", "GET", "/public", page, false, nil, "next"},
		{"a path that an app may read as a protected one", "deny", "GET", "/public/..%2fprivate", page, false, nil,
			"login_required"},

		{"a session's page", "auto", "GET", "/private", page, true, nil, "next"},
		{"a session's script, deny", "deny", "GET", "/private", fetch, true, nil, "next"},
		{"a session without the scope", "auto", "GET", "/private", page, true, func(_ *parts, g *gate) {
			g.rules = &accessRules{scopes: []string{"write:things"}}
		}, "insufficient_scope"},
		{"a page when the token is due", "auto", "GET", "/private", page, true, func(p *parts, _ *gate) {
			p.clock.Add(58 * time.Minute)
		}, "Found"},
		{"a page when the token is due, deny", "deny", "GET", "/private", page, true, func(p *parts, _ *gate) {
			p.clock.Add(58 * time.Minute)
		}, "next"},
		{"a script's request when the token is due", "auto", "GET", "/private", fetch, true, func(p *parts, _ *gate) {
			p.clock.Add(58 * time.Minute)
		}, "next"},
		{"a link when the token is due", "auto", "GET", "/private", inside, true, func(p *parts, _ *gate) {
			p.clock.Add(58 * time.Minute)
		}, "Found"},
		{"what may be a form when the token is due", "auto", "GET", "/private?q=x", inside, true,
			func(p *parts, _ *gate) { p.clock.Add(58 * time.Minute) }, "next"},
		{"what may be a form without fields when the token is due", "auto", "GET", "/private?", inside, true,
			func(p *parts, _ *gate) { p.clock.Add(58 * time.Minute) }, "next"},
		{"another site's link when the token is due", "auto", "GET", "/private?q=x", outside, true,
			func(p *parts, _ *gate) { p.clock.Add(58 * time.Minute) }, "Found"},
		{"a page that is fetched ahead when the token is due", "auto", "GET", "/private", ahead, true,
			func(p *parts, _ *gate) { p.clock.Add(58 * time.Minute) }, "next"},
		{"a long URL when the token is due", "auto", "GET", long, page, true,
			func(p *parts, _ *gate) { p.clock.Add(58 * time.Minute) }, "next"},
		{"a long URL in the token's last minute", "auto", "GET", long, page, true,
			func(p *parts, _ *gate) { p.clock.Add(59 * time.Minute) }, "Found"},
		{"a session that has expired", "auto", "GET", "/private", fetch, true, func(p *parts, _ *gate) {
			p.clock.Add(24 * time.Hour)
		}, "login_required"},

		{"the callback", "auto", "POST", "/oauth2/callback", page, false, nil, "method_not_allowed"},
		{"the logout of another site", "auto", "GET", "/logout", []string{"Sec-Fetch-Site", "cross-site"}, true, nil,
			"cross_site_logout"},
		{"a tunnel", "pass", "CONNECT", "example.com:443", nil, true, nil, "Method Not Allowed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := newParts(t)
			g := p.gate(new(renewalParts))
			g.unauthenticated = c.mode
			headers := c.headers
			if c.signedIn {
				_, cookie := p.session(nil)
				headers = append([]string{"Cookie", cookie}, headers...)
			}
			if c.change != nil {
				c.change(p, g)
			}
			called := false
			next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				called = true
				want := ""
				if c.signedIn {
					want = "Bearer opaque"
				}
				if got := r.Header.Get("Authorization"); got != want {
					t.Errorf("the next handler is told %q, want %q", got, want)
				}
				return nil
			})
			w, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error { return g.serve(w, r, next) },
				p.request(c.method, c.target, headers...))
			if called {
				got = "next"
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if to := w.Header().Get("Location"); to != "" &&
				!strings.HasPrefix(to, "https://auth.example.com/authorize?") {
				t.Errorf("leads to %s", to)
			}
		})
	}
}

// TestGateAmongErrors: which way a request goes at a block among the error routes: no login begins there, and who is
// refused gets the status of the error. What the next handler says of it comes back.
func TestGateAmongErrors(t *testing.T) {
	notFound := caddyhttp.Error(http.StatusNotFound, errors.New("no such file"))
	failed := errors.New("the next handler has failed")
	type change func(*parts, *gate, *http.Request)
	for what, c := range map[string]struct {
		target   string
		signedIn bool
		change   change
		cause    error
		want     int // the status; 0: the next handler's
	}{
		"nobody":                    {"/private", false, nil, notFound, http.StatusNotFound},
		"nobody, an error of ours":  {"/private", false, nil, errDenied, http.StatusInternalServerError},
		"nobody, another error":     {"/private", false, nil, failed, http.StatusInternalServerError},
		"nobody, at the callback":   {"/oauth2/callback?code=a", false, nil, notFound, 0},
		"nobody, what is public":    {"/public", false, nil, notFound, 0},
		"somebody":                  {"/private", true, nil, notFound, 0},
		"somebody, at another host": {"/private", true, atNoHost, notFound, http.StatusNotFound},
		"nobody, and they may pass": {"/private", false, mayPass, notFound, 0},
		"nobody, at no host, passes": {"/private", false, func(p *parts, g *gate, r *http.Request) {
			atNoHost(p, g, r)
			mayPass(p, g, r)
		}, notFound, http.StatusNotFound},
		"somebody without the scope": {"/private", true, func(_ *parts, g *gate, _ *http.Request) {
			g.rules = &accessRules{scopes: []string{"write:things"}}
		}, notFound, http.StatusNotFound},
		"somebody without the scope, where others pass": {"/private", true, func(p *parts, g *gate, r *http.Request) {
			g.rules = &accessRules{scopes: []string{"write:things"}}
			mayPass(p, g, r)
		}, notFound, http.StatusNotFound},
		"somebody whose token has died": {"/private", true, func(p *parts, _ *gate, _ *http.Request) {
			p.clock.Add(61 * time.Minute)
		}, notFound, http.StatusNotFound},
	} {
		for _, says := range []error{nil, failed} {
			p := newParts(t)
			g := p.gate(new(renewalParts))
			headers := []string{"Sec-Fetch-Mode", "navigate", "Accept", "text/html", "Authorization", "Bearer made-up"}
			if c.signedIn {
				_, cookie := p.session(func(s *session) { s.refresh = "refresh" })
				headers = append(headers, "Cookie", cookie)
			}
			r := p.request("GET", c.target, headers...)
			if c.change != nil {
				c.change(p, g, r)
			}
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.ErrorCtxKey, c.cause))
			called := false
			next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				called = true
				got, want := r.Header.Get("Authorization"), ""
				switch {
				case c.signedIn:
					want = "Bearer opaque"
				case !strings.HasPrefix(c.target, "/private"):
					want = "Bearer made-up"
				}
				if got != want {
					t.Errorf("%s: the next handler is told %q, want %q", what, got, want)
				}
				return says
			})
			w := httptest.NewRecorder()
			err := g.serve(w, r, next)
			if called != (c.want == 0) || called && !errors.Is(err, says) ||
				!called && (err != nil || w.Code != c.want) {
				t.Errorf("%s: next %t, answered %d, %v", what, called, w.Code, err)
			}
			if w.Header().Get("Location") != "" || w.Header()["Set-Cookie"] != nil {
				t.Errorf("%s: %v", what, w.Header())
			}
		}
	}
}

// TestMatcherInEarlyData: a matcher that cannot tell the address in early data (0-RTT) has the browser send the
// request again. Any other that fails is an error of the site's.
func TestMatcherInEarlyData(t *testing.T) {
	for _, matcher := range []any{
		&caddyhttp.MatchRemoteIP{Ranges: []string{"10.0.0.0/8"}},
		&caddyhttp.MatchClientIP{Ranges: []string{"10.0.0.0/8"}},
		&caddyhttp.MatchNot{MatcherSets: []caddyhttp.MatcherSet{{&caddyhttp.MatchRemoteIP{}}}},
		&caddyhttp.MatchExpression{Expr: "!remote_ip('10.0.0.0/8')"},
		&caddyhttp.MatchExpression{Expr: "int({http.request.uri.query.n}) > 5"},
	} {
		p := newParts(t)
		ctx, cleanUp := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cleanUp()
		if provisioner, ok := matcher.(caddy.Provisioner); ok {
			if _, isNot := matcher.(*caddyhttp.MatchNot); !isNot { // it would load its own matchers
				if err := provisioner.Provision(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		g := p.gate(new(renewalParts))
		g.matching = newMatching(caddyhttp.MatcherSets{{matcher}})
		r := p.request("GET", "/private?n=abc", "Accept", "text/html")
		r.TLS = &tls.ConnectionState{HandshakeComplete: false}
		want := errTooEarly.code
		if e, ok := matcher.(*caddyhttp.MatchExpression); ok && strings.HasPrefix(e.Expr, "int") {
			want = errInternal.code
		}
		_, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error { return g.serve(w, r, nil) }, r)
		if got != want {
			t.Errorf("%T: %s, want %s", matcher, got, want)
		}
	}
}

func mayPass(_ *parts, g *gate, _ *http.Request) { g.unauthenticated = "pass" }

// atNoHost has the request name a host that the block knows nothing of.
func atNoHost(p *parts, _ *gate, r *http.Request) {
	p.sites.hosts = newHostGroup("example.com", []string{"app.example.com"})
	r.Host = "other.test"
}
