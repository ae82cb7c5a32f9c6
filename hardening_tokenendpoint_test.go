package aventusauth

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestHostileTokenEndpoint: whatever the token endpoint answers to a code.
func TestHostileTokenEndpoint(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown,
		issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	token := w.hostileToken()
	thief := newElsewhere(t, aventustest.Grants(token, "", ""))
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range hostilities(token, thief.URL, &written) {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			callback := b.begin("/page")
			asked, logged := len(w.issuer.TokenRequests()), len(w.log())
			faults.Set(c.fault)
			a := b.get(callback)
			faults.Set(nil)
			w.requests()
			if c.want.code == "" {
				w.expect(a, http.StatusSeeOther)
				if got := a.cookie("aventus_session"); got == nil || time.Duration(got.MaxAge)*time.Second != c.lives {
					t.Errorf("sets %v", a.Header["Set-Cookie"])
				}
				w.clock.Add(c.lives - time.Second)
				w.expect(b.do("POST", "/page"), http.StatusOK)
				if got := w.token(); got != bearer+token {
					t.Errorf("the app was sent %q", got)
				}
				w.clock.Add(time.Second)
				w.expect(b.do("POST", "/page"), http.StatusUnauthorized)
			} else {
				w.expect(a, c.want.status)
				if a.body != c.want.code+": "+c.want.description || a.Header["Set-Cookie"] != nil ||
					a.Header["Location"] != nil || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%v %s", a.Header, a.body)
				}
				w.expectSaid(logged, "error", c.want.code, c.why, c.do)
				w.expect(b.do("POST", "/page"), http.StatusUnauthorized)
				w.expect(b.get(callback), http.StatusFound) // the code is spent, for all we know
			}
			w.expectTokenRequests(asked + 1)

			// The server is well again, and so are we.
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			w.expectTokenRequests(asked + 2)
			before.expectBack(t, 1<<20)
		})
	}
	w.t = t
	thief.expectNobody(t)
	expectCutOff(t, &written)
}

// TestHostileRenewal: the same at a renewal. While the old token lives, nobody is
// worse off by it.
func TestHostileRenewal(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.TokenFault = faults.Answer }})
	token := w.hostileToken()
	thief := newElsewhere(t, aventustest.Grants(token, "", ""))
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range hostilities(token, thief.URL, &written) {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			old := w.token()
			w.clock.Add(57 * time.Minute)
			asked, logged := len(w.issuer.TokenRequests()), len(w.log())
			faults.Set(c.fault)
			w.expect(b.get("/page"), http.StatusOK)
			if w.token() != old {
				t.Error("somebody waited for a new token")
			}
			if c.want.code == "" {
				await(t, "the new token", func() bool {
					w.expect(b.get("/page"), http.StatusOK)
					return w.token() == bearer+token
				})
				before.heap = heap() // with all that was heard meanwhile
				w.expectTokenRequests(asked + 1)
				faults.Set(nil)
				// It lives as long as it says, within the session's lifetime; the refresh
				// token is the old one, since no other came.
				w.clock.Add(min(c.lives, 23*time.Hour) - 6*time.Minute)
				w.expect(b.get("/page"), http.StatusOK)
				w.expectTokenRequests(asked + 1)
				w.clock.Add(6 * time.Minute)
				w.expect(b.get("/page"), http.StatusOK)
				if again := w.token() == bearer+token; again != (c.lives == 24*time.Hour) {
					t.Errorf("the token goes on: %v", again)
				}
			} else {
				level, msg := "error", "renewing a session failed; it is tried again"
				if c.spent {
					level, msg = "warn", "a session cannot be renewed any more; it ends with its token"
				}
				w.expectSaid(logged, level, msg, c.why, c.do)
				faults.Set(nil)
				w.expect(b.get("/page"), http.StatusOK)
				w.expectTokenRequests(asked + 1)
				w.clock.Add(10 * time.Minute)
				if c.spent {
					w.expect(b.get("/page"), http.StatusFound)
					w.expectTokenRequests(asked + 1)
					b.login("/page")
				}
				// The renewal before may be about to end, and a request may still share its result.
				await(t, "the new token", func() bool { return b.get("/page").StatusCode == http.StatusOK })
				if w.token() == old {
					t.Error("the dead token goes on")
				}
				w.expectTokenRequests(asked + 2)
			}
			w.expectNoReuse()
			before.expectBack(t, 1<<20)
		})
	}
	w.t = t
	thief.expectNobody(t)
}

// TestHostileRevocation: a logout does not wait for the authorization server, nor
// depend on it.
func TestHostileRevocation(t *testing.T) {
	var faults aventustest.Switch
	var written atomic.Int64
	says := aventustest.Says
	thief := newElsewhere(t, says(200, ""))
	all := []hostility{ // without a why, the log has nothing to say
		{name: "500 without a body", fault: says(500, ""), why: "answered 500"},
		{name: "429", fault: says(429, "", "Retry-After", "86400"), why: "answered 429"},
		{name: "an echo in colours", fault: aventustest.Echoes,
			why: "answered 400 invalid_request???[2J: ?[31m?31m?? You sent {"},
		{name: "an echo that is no HTTP", fault: aventustest.Garbles, why: "malformed MIME header"},
		{name: "an answer that breaks off", fault: says(200, "ok", "Content-Length", "1000"),
			why: "reading the answer: unexpected EOF"},
		{name: "HTML", fault: says(200, "<html>\x1b[31m")},
		{name: "10 GB", fault: aventustest.Endless(&written)},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		all = append(all, hostility{
			name: fmt.Sprint("a redirect, ", status), fault: says(status, "", "Location", thief.URL),
			why: fmt.Sprint("answered ", status),
		})
	}
	w := refreshing(t, setup{issuer: func(s *aventustest.Server) { s.RevokeFault = faults.Answer }})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			b := w.browser()
			copied := b.login("/page").cookie("aventus_session")
			asked, met, logged := len(w.issuer.Revoked()), faults.Asked(), len(w.log())
			faults.Set(c.fault)
			a := b.get("/logout")
			w.expect(a, http.StatusOK)
			if got := a.cookie("aventus_session"); got == nil || got.MaxAge >= 0 ||
				a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%v", a.Header)
			}
			w.expect(w.browser().do("POST", "/page", "Cookie", "aventus_session="+copied.Value),
				http.StatusUnauthorized)
			await(t, "the revocation", func() bool { return faults.Asked() > met })
			if c.why != "" {
				w.expectSaid(logged, "warn",
					"the refresh token of a session that has ended could not be revoked", c.why, "")
			}
			faults.Set(nil)
			b.login("/page")
			w.expect(b.get("/page"), http.StatusOK)
			before.expectBack(t, 1<<20)
			if n := len(w.issuer.Revoked()) - asked; n != 1 {
				t.Errorf("the revocation was asked for %d times", n)
			}
			if _, lines := w.said(logged); c.why == "" && len(lines) > 0 {
				t.Errorf("the log says %+v", lines)
			}
		})
	}
	w.t = t
	thief.expectNobody(t)
	expectCutOff(t, &written)
}
