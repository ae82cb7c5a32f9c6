package aventusauth

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// gate returns a gate of the parts, which protects what is below /private.
func (p *parts) gate(asked *renewalParts) *gate {
	logins, renewer := p.logins(), asked.renewer(p.clock.Now)
	return &gate{
		inFront: new(frontCheck), sites: p.sites, keeper: p.keeper, rules: new(accessRules), answers: p.answers,
		matching:   &matching{caddyhttp.MatcherSets{{&caddyhttp.MatchPath{"/private*"}}}},
		identifier: &identifier{reader{sessions: p.keeper, now: p.clock.Now}, renewer, p.meter}, now: p.clock.Now,
		passage: &passage{
			cookies: p.cookies, hasEnded: p.keeper.hasEnded, tokenHeader: "Authorization", vary: []string{"Cookie"},
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
	ahead := append([]string{"Sec-Purpose", "prefetch"}, page...)
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
		{"a page that is fetched ahead when the token is due", "auto", "GET", "/private", ahead, true,
			func(p *parts, _ *gate) { p.clock.Add(58 * time.Minute) }, "next"},
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
