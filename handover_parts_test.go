package aventusauth

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

const (
	secondHost = "app.example.com"
	secondSite = "https://" + secondHost
)

// handOvers returns the stage of that name, for bareSite and a second host that shares its login.
func (p *parts) handOvers() *handOvers {
	p.sites = newSites(bareSite+"/oauth2/callback", newHostGroup("example.com", []string{secondHost}),
		[]string{"https://auth.example.com/"}, nil)
	logins := p.logins()
	logins.tickets = &tickets{sites: p.sites, box: p.ring.Box("host ticket", "the-client"), answers: p.answers}
	requests := &hostRequests{
		cookies: p.cookies, box: p.ring.Box("host request", "the-client"), answers: p.answers, now: p.clock.Now,
	}
	logins.replacer.own.requests, logins.replacer.own.logoutPath = requests, "/logout"
	return &handOvers{
		sites: p.sites, cookies: p.cookies, answers: p.answers, keeper: p.keeper, logins: logins,
		renewer: new(renewalParts).renewer(p.clock.Now), tickets: logins.tickets, requests: requests,
		logouts: &logouts{
			path: "/logout", own: logins.replacer.own, blocks: logins.replacer.blocks, replacer: logins.replacer,
			answers: p.answers,
		},
		used: p.once, replacer: logins.replacer, now: p.clock.Now, meter: p.meter,
	}
}

// handedOver holds the requests of a browser to two hosts that share a login, each made of what the one before has
// answered.
type handedOver struct {
	*parts
	ho               *handOvers
	atFirst          string // the session's cookie at the login host
	bound, signedIn  string // the binding cookie, and the session's, at the second host
	request, ticket  string // URLs
	asks, ends, back string // the same for a logout; back is that of its path, with the proof
}

func newHandedOver(t *testing.T) *handedOver {
	h := &handedOver{parts: newParts(t)}
	h.ho = h.handOvers()
	_, h.atFirst = h.session(ofTwoHosts)
	w := h.expect("Found", h.visit())
	h.request, h.bound = w.Header().Get("Location"), cookieIn(w)
	w = h.expect("See Other", h.callback(h.request, h.atFirst))
	h.ticket = w.Header().Get("Location")
	w = h.expect("See Other", h.leave("/logout", h.bound))
	h.asks = w.Header().Get("Location")
	w = h.expect("See Other", h.callback(h.asks, h.atFirst))
	h.ends = w.Header().Get("Location")
	return h
}

func ofTwoHosts(s *session) { s.refresh, s.family = "refresh", records.ID{1} }

func cookieIn(w *httptest.ResponseRecorder) string {
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return cookie
}

// step is a request that a stage answers.
type step func() (*httptest.ResponseRecorder, string)

func (h *handedOver) at(host string, r *http.Request) *http.Request {
	r.Host = host
	return r
}

// visit is a page visit at the second host.
func (h *handedOver) visit() step {
	return func() (*httptest.ResponseRecorder, string) {
		return h.outcome(func(w http.ResponseWriter, r *http.Request) error {
			return h.ho.start(w, r, toBeginSession, http.StatusFound)
		}, h.at(secondHost, h.parts.request("GET", "/page?q=1", "Sec-Fetch-Mode", "navigate")))
	}
}

// callback is a request for a callback.
func (h *handedOver) callback(to, cookie string) step {
	return func() (*httptest.ResponseRecorder, string) {
		u, err := url.Parse(to)
		if err != nil {
			h.t.Fatal(err)
		}
		return h.outcome(h.ho.finish, h.at(u.Host, h.parts.request("GET", u.RequestURI(), "Cookie", cookie,
			"Sec-Fetch-Mode", "navigate")))
	}
}

// leave is a visit of the second host's logout.
func (h *handedOver) leave(target, cookie string) step {
	return func() (*httptest.ResponseRecorder, string) {
		return h.outcome(h.ho.logouts.leave, h.at(secondHost, h.parts.request("GET", target, "Cookie", cookie,
			"Sec-Fetch-Mode", "navigate")))
	}
}

// expect serves a request, and returns the answer.
func (h *handedOver) expect(want string, serve step) *httptest.ResponseRecorder {
	h.t.Helper()
	w, got := serve()
	if got != want {
		h.t.Fatalf("%s, want %s; %v %s", got, want, w.Header(), w.Body)
	}
	return w
}

// keyless returns a box whose keys cannot be had.
func (p *parts) keyless(purpose string) *keyring.Box {
	clock := records.NewClock(p.clock.Now, p.clock.Elapsed)
	return keyring.Stored(brokenStorage{p.storage}, new(keyring.Cache), clock, time.Hour).Box(purpose, "the-client")
}

// broken has a store whose records cannot be read.
func (p *parts) breakRecords() {
	p.keeper.memory.forgetAll()
	p.keeper.store.shelf = records.NewShelf(brokenStorage{p.storage}, "aventus_auth/sessions",
		records.NewClock(p.clock.Now, p.clock.Elapsed))
}

// breakEnds has it that nothing is known of what has ended.
func (p *parts) breakEnds() {
	ended := records.NewEnded(brokenStorage{p.storage}, records.NewClock(p.clock.Now, p.clock.Elapsed))
	p.t.Cleanup(func() { _ = ended.Destruct() })
	p.keeper.ends.ended = ended
}

func (p *parts) brokenUses() *records.Once {
	return records.NewOnce(brokenStorage{p.storage}, "aventus_auth/spent", loginLifetime,
		records.NewClock(p.clock.Now, p.clock.Elapsed))
}

// TestHandOver: the way of a session to a second host, and of that one's logout, with the storage as it should be.
func TestHandOver(t *testing.T) {
	h := newHandedOver(t)
	for url, want := range map[string]string{
		h.request: bareSite + "/oauth2/callback?aventus_request=",
		h.ticket:  secondSite + "/oauth2/callback?aventus_ticket=",
		h.asks:    bareSite + "/oauth2/callback?aventus_request=",
		h.ends:    secondSite + "/oauth2/callback?aventus_ticket=",
	} {
		if !strings.HasPrefix(url, want) {
			t.Errorf("%s, want %s", url, want)
		}
	}
	w := h.expect("See Other", h.callback(h.ticket, h.bound))
	if to := w.Header().Get("Location"); to != secondSite+"/page?q=1" || !strings.HasPrefix(cookieIn(w), "session=") {
		t.Errorf("the ticket leads to %s, with %v", to, w.Header())
	}
	w = h.expect("See Other", h.callback(h.ends, h.bound))
	if to := w.Header().Get("Location"); !strings.HasPrefix(to, secondSite+"/logout?ended=") {
		t.Errorf("the logout leads to %s", to)
	}
	if k, err := h.parts.load(h.atFirst); k != nil || err != nil {
		t.Errorf("the session goes on: %v, %v", k, err)
	}
}

// TestHandOverFails: whatever part of the storage fails on a session's way to another host, or on the way of a logout
// there, the visitor is told so: nobody is signed in, or told to be signed out.
func TestHandOverFails(t *testing.T) {
	for what, c := range map[string]struct {
		fail func(*handedOver)
		step func(*handedOver) step
	}{
		"the keys of a request": {func(h *handedOver) { h.ho.requests.box = h.keyless("host request") },
			(*handedOver).visit},
		"the keys of a request that came": {func(h *handedOver) { h.ho.requests.box = h.keyless("host request") },
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) }},
		"the keys of sessions, at a request": {func(h *handedOver) {
			h.keeper.memory.forgetAll()
			h.keeper.sessionBox = h.keyless("session")
		}, func(h *handedOver) step { return h.callback(h.request, h.atFirst) }},
		"what has ended, at a request": {func(h *handedOver) { h.breakEnds() },
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) }},
		"the keys of a ticket": {func(h *handedOver) { h.ho.tickets.box = h.keyless("host ticket") },
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) }},
		"the record, after a ticket that was refused": {func(h *handedOver) {
			h.request = h.expect("Found", h.callback(h.ticket, "")).Header().Get("Location")
			h.breakRecords()
			h.remember()
		}, func(h *handedOver) step { return h.callback(h.request, h.atFirst) }},
		"the keys of a login": {func(h *handedOver) { h.ho.logins.states.box = h.keyless("login state") },
			func(h *handedOver) step { return h.callback(h.request, "") }},
		"the keys of a code verifier": {func(h *handedOver) { h.ho.logins.verifierBox = h.keyless("code verifier") },
			func(h *handedOver) step { return h.callback(h.request, "") }},

		"the keys of a ticket that came": {func(h *handedOver) { h.ho.tickets.box = h.keyless("host ticket") },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }},
		"the uses": {func(h *handedOver) { h.ho.used = h.brokenUses() },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }},
		"the record, at the second host": {func(h *handedOver) { h.breakRecords() },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }},
		"the keys of sessions at the second host": {func(h *handedOver) { h.keeper.sessionBox = h.keyless("session") },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }},
		"the record, for a ticket that was spent": {func(h *handedOver) {
			h.signedIn = cookieIn(h.expect("See Other", h.callback(h.ticket, h.bound)))
			h.breakRecords()
		}, func(h *handedOver) step { return h.callback(h.ticket, h.bound+"; "+h.signedIn) }},
		"the keys of a request, for a ticket that was spent": {func(h *handedOver) {
			h.expect("See Other", h.callback(h.ticket, h.bound))
			h.ho.requests.box = h.keyless("host request")
		}, func(h *handedOver) step { return h.callback(h.ticket, h.bound) }},

		"the keys of a request, at a logout": {func(h *handedOver) { h.ho.requests.box = h.keyless("host request") },
			func(h *handedOver) step { return h.leave("/logout", h.bound) }},
		"the keys of sessions, at a logout": {func(h *handedOver) {
			h.keeper.memory.forgetAll()
			h.keeper.sessionBox = h.keyless("session")
		}, func(h *handedOver) step { return h.leave("/logout", h.atFirst) }},
		"the keys of a ticket, at a logout": {func(h *handedOver) { h.ho.tickets.box = h.keyless("host ticket") },
			func(h *handedOver) step { return h.callback(h.asks, h.atFirst) }},
		"the uses, at a logout": {func(h *handedOver) { h.ho.used = h.brokenUses() },
			func(h *handedOver) step { return h.callback(h.ends, h.bound) }},
		"the record, at a logout": {func(h *handedOver) { h.breakRecords() },
			func(h *handedOver) step { return h.callback(h.ends, h.bound) }},
		"the keys of the proof": {func(h *handedOver) { h.ho.requests.box = h.keyless("host request") },
			func(h *handedOver) step { return h.callback(h.ends, h.bound) }},
		"the keys of the proof that came": {func(h *handedOver) {
			h.back = h.expect("See Other", h.callback(h.ends, h.bound)).Header().Get("Location")
			h.ho.requests.box = h.keyless("host request")
		}, func(h *handedOver) step { return h.leave(strings.TrimPrefix(h.back, secondSite), h.bound) }},
		"the keys of sessions, with a proof": {func(h *handedOver) {
			h.back = h.expect("See Other", h.callback(h.ends, h.bound)).Header().Get("Location")
			h.keeper.memory.forgetAll()
			h.keeper.sessionBox = h.keyless("session")
		}, func(h *handedOver) step {
			return h.leave(strings.TrimPrefix(h.back, secondSite), h.bound+"; "+h.atFirst)
		}},
		"the keys of sessions, for what is to be forgotten": {func(h *handedOver) {
			h.keeper.memory.forgetAll()
			h.keeper.sessionBox = h.keyless("session")
		}, func(h *handedOver) step { return h.leave("/logout?forget", h.atFirst) }},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHandedOver(t)
			c.fail(h)
			w, got := c.step(h)()
			if got != errStorage.code {
				t.Errorf("%s, want %s", got, errStorage.code)
			}
			if to := w.Header().Get("Location"); to != "" {
				t.Errorf("leads to %s", to)
			}
			for _, line := range w.Header()["Set-Cookie"] {
				if !strings.HasPrefix(line, "session=;") && !strings.HasPrefix(line, bindingName+"=;") {
					t.Errorf("sets %s", line)
				}
			}
		})
	}
}

// remember has the session of the login host remembered, whose record cannot be read.
func (h *handedOver) remember() {
	h.t.Helper()
	shelf := h.keeper.store.shelf
	h.keeper.store.shelf = records.NewShelf(h.storage, "aventus_auth/sessions",
		records.NewClock(h.clock.Now, h.clock.Elapsed))
	if k, err := h.parts.load(h.atFirst); k == nil || err != nil {
		h.t.Fatal(k, err)
	}
	h.keeper.store.shelf = shelf
}

// TestHandOverTells: which way a request or a ticket goes that comes late, twice, to another browser, or when the
// session or the host is gone by then.
func TestHandOverTells(t *testing.T) {
	const page, login = secondSite + "/page?q=1", "https://auth.example.com/authorize?"
	const asked, proven = bareSite + "/oauth2/callback?aventus_request=", secondSite + "/logout?ended="
	for what, c := range map[string]struct {
		change func(*handedOver)
		step   func(*handedOver) step
		want   string // the status, or the code of a failure
		to     string // what the redirect begins with
	}{
		"a request": {nil, func(h *handedOver) step { return h.callback(h.request, h.atFirst) },
			"See Other", secondSite + "/oauth2/callback?aventus_ticket="},
		"a request, and nobody is signed in": {nil, func(h *handedOver) step { return h.callback(h.request, "") },
			"Found", login},
		"a request, of a session that no hosts share": {func(h *handedOver) { _, h.atFirst = h.session(nil) },
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) }, "Found", login},
		"a request that came late": {func(h *handedOver) { h.clock.Add(loginLifetime + time.Second) },
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) }, "Found", page},
		"a logout that came late": {func(h *handedOver) { h.clock.Add(loginLifetime + time.Second) },
			func(h *handedOver) step { return h.callback(h.asks, h.atFirst) }, errNotOut.code, ""},
		"a request at its last moment": {func(h *handedOver) { h.clock.Add(loginLifetime) },
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) },
			"See Other", secondSite + "/oauth2/callback?aventus_ticket="},
		"a request of a host that is listed no more": {(*handedOver).unlist,
			func(h *handedOver) step { return h.callback(h.request, h.atFirst) }, errState.code, ""},
		"a visit of a host that is not listed": {(*handedOver).unlist, (*handedOver).visit, errUnlisted.code, ""},
		"a logout, and nobody is signed in": {nil, func(h *handedOver) step { return h.callback(h.asks, "") },
			"See Other", proven},
		"a logout at the login host, where nobody is signed in": {nil, func(h *handedOver) step {
			return func() (*httptest.ResponseRecorder, string) {
				return h.outcome(h.ho.logouts.leave, h.parts.request("GET", "/logout", "Sec-Fetch-Mode", "navigate"))
			}
		}, "OK", ""},
		"a logout by a script": {nil, func(h *handedOver) step {
			return func() (*httptest.ResponseRecorder, string) {
				return h.outcome(h.ho.logouts.leave, h.at(secondHost, h.parts.request("POST", "/logout",
					"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty")))
			}
		}, "OK", ""},
		"a logout of a session that no hosts share": {func(h *handedOver) { _, h.atFirst = h.session(nil) },
			func(h *handedOver) step { return h.callback(h.asks, h.atFirst) }, errNotOut.code, ""},
		"a logout of a session whose end is unwritten": {func(h *handedOver) {
			k := h.known(h.atFirst)
			ended := records.NewEnded(unwritable{h.storage, "/ended/"}, records.NewClock(h.clock.Now, h.clock.Elapsed))
			h.t.Cleanup(func() { _ = ended.Destruct() })
			h.keeper.ends.ended = ended
			_ = h.keeper.end(h.t.Context(), k)
			h.ends = h.expect("See Other", h.callback(h.asks, h.atFirst)).Header().Get("Location")
		}, func(h *handedOver) step { return h.callback(h.ends, h.bound) }, errStorage.code, ""},
		"a logout of a session that has ended, and not its family": {func(h *handedOver) {
			_ = h.keeper.ends.end(h.t.Context(), h.known(h.atFirst).id, h.clock.Now().Add(time.Hour))
		}, func(h *handedOver) step { return h.callback(h.asks, h.atFirst) },
			"See Other", secondSite + "/oauth2/callback?aventus_ticket="},
		"a logout of a family that has ended": {(*handedOver).leaveAtFirst,
			func(h *handedOver) step { return h.callback(h.asks, h.atFirst) }, "See Other", proven},

		"a ticket": {nil, func(h *handedOver) step { return h.callback(h.ticket, h.bound) }, "See Other", page},
		"a ticket in another browser": {nil, func(h *handedOver) step { return h.callback(h.ticket, "") },
			"Found", asked},
		"a ticket once more": {func(h *handedOver) { h.expect("See Other", h.callback(h.ticket, h.bound)) },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }, "Found", asked},
		"a ticket once more, by who is signed in": {func(h *handedOver) {
			h.signedIn = cookieIn(h.expect("See Other", h.callback(h.ticket, h.bound)))
		}, func(h *handedOver) step { return h.callback(h.ticket, h.bound+"; "+h.signedIn) }, "See Other", page},
		"a ticket at its last moment": {func(h *handedOver) { h.clock.Add(ticketLifetime) },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }, "See Other", page},
		"a ticket that came late": {func(h *handedOver) { h.clock.Add(ticketLifetime + time.Second) },
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }, "Found", asked},
		"a ticket of a session that has ended": {(*handedOver).leaveAtFirst,
			func(h *handedOver) step { return h.callback(h.ticket, h.bound) }, "Found", asked},
		"a second ticket for one request": {func(h *handedOver) {
			second := h.expect("See Other", h.callback(h.request, h.atFirst)).Header().Get("Location")
			h.expect("See Other", h.callback(h.ticket, h.bound))
			h.ticket = second
		}, func(h *handedOver) step { return h.callback(h.ticket, h.bound) }, "Found", asked},

		"a logout's ticket": {nil, func(h *handedOver) step { return h.callback(h.ends, h.bound) },
			"See Other", proven},
		"a logout's ticket in another browser": {nil, func(h *handedOver) step { return h.callback(h.ends, "") },
			errForcedLogout.code, ""},
		"a logout's ticket, in the right browser after another": {func(h *handedOver) {
			h.expect(errForcedLogout.code, h.callback(h.ends, ""))
		}, func(h *handedOver) step { return h.callback(h.ends, h.bound) }, errNotOut.code, ""},
		"a logout's ticket once more": {func(h *handedOver) { h.expect("See Other", h.callback(h.ends, h.bound)) },
			func(h *handedOver) step { return h.callback(h.ends, h.bound) }, "See Other", proven},
		"a logout's ticket that came late": {func(h *handedOver) { h.clock.Add(ticketLifetime + time.Second) },
			func(h *handedOver) step { return h.callback(h.ends, h.bound) }, errNotOut.code, ""},
		"a logout's ticket, and the session has ended": {(*handedOver).leaveAtFirst,
			func(h *handedOver) step { return h.callback(h.ends, h.bound) }, "See Other", proven},
		"a logout's ticket, and the session has ended, but for its record": {func(h *handedOver) {
			k, err := h.parts.load(h.atFirst)
			if err == nil {
				err = h.keeper.ends.end(h.t.Context(), k.id, k.expires.time())
			}
			if err != nil {
				h.t.Fatal(err)
			}
		}, func(h *handedOver) step { return h.callback(h.ends, h.bound) }, "See Other", proven},

		"a proof": {(*handedOver).prove,
			func(h *handedOver) step { return h.leave(h.back, h.bound) }, "OK", ""},
		"a proof in another browser": {(*handedOver).prove,
			func(h *handedOver) step { return h.leave(h.back, "") }, "OK", ""},
		"a proof, and somebody has signed in": {func(h *handedOver) {
			h.prove()
			_, h.atFirst = h.session(nil)
			k, err := h.parts.load(h.atFirst)
			if err != nil {
				h.t.Fatal(err)
			}
			there, err := h.sites.member(secondHost)
			if err != nil {
				h.t.Fatal(err)
			}
			w := httptest.NewRecorder()
			if _, err := h.keeper.save(w, h.t.Context(), there, nil, k.session, "/"); err != nil {
				h.t.Fatal(err)
			}
			h.signedIn = cookieIn(w)
		}, func(h *handedOver) step { return h.leave(h.back, h.bound+"; "+h.signedIn) },
			"See Other", secondSite + "/"},

		"a state that began in another browser": {(*handedOver).login,
			func(h *handedOver) step { return h.answered("a=b") }, "Found", login},
		"a state that began in another browser, by who is signed in": {(*handedOver).login,
			func(h *handedOver) step { return h.answered(h.atFirst) }, "Found", page},
		"a state that began in another browser, by who is signed in, for a host that is listed no more": {
			func(h *handedOver) {
				h.login()
				h.unlist()
			}, func(h *handedOver) step { return h.answered(h.atFirst) }, errState.code, ""},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHandedOver(t)
			if c.change != nil {
				c.change(h)
			}
			w, got := c.step(h)()
			to := w.Header().Get("Location")
			if got != c.want || !strings.HasPrefix(to, c.to) || c.to == "" && to != "" {
				t.Errorf("%s, to %q; want %s, to %q", got, to, c.want, c.to)
			}
			says := "You are signed out"
			if what == "a proof in another browser" {
				says = "You are not signed in here"
			}
			if got == "OK" && !strings.Contains(w.Body.String(), "<title>"+says) {
				t.Errorf("it says %s", w.Body)
			}
		})
	}
}

// known returns the session of a cookie of the login host.
func (h *handedOver) known(cookie string) *keptSession {
	h.t.Helper()
	k, err := h.parts.load(cookie)
	if err != nil {
		h.t.Fatal(err)
	}
	return k
}

// unlist takes the second host out of the list.
func (h *handedOver) unlist() {
	h.sites.hosts = newHostGroup("example.com", []string{"other.example.com"})
}

// leaveAtFirst signs out at the login host.
func (h *handedOver) leaveAtFirst() {
	h.t.Helper()
	h.expect("OK", func() (*httptest.ResponseRecorder, string) {
		return h.outcome(h.ho.logouts.leave, h.parts.request("GET", "/logout", "Cookie", h.atFirst))
	})
}

// prove ends the session, and keeps the way back to the logout.
func (h *handedOver) prove() {
	h.t.Helper()
	to := h.expect("See Other", h.callback(h.ends, h.bound)).Header().Get("Location")
	h.back = strings.TrimPrefix(to, secondSite)
}

// login has the request answered by a login, and keeps its callback.
func (h *handedOver) login() {
	h.t.Helper()
	to, err := url.Parse(h.expect("Found", h.callback(h.request, "")).Header().Get("Location"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.back = bareSite + "/oauth2/callback?code=a-code&state=" + url.QueryEscape(to.Query().Get("state"))
}

// answered is the callback of that login.
func (h *handedOver) answered(cookie string) step { return h.callback(h.back, cookie) }

// TestRenewalCannotTell: a login host that cannot read the browser's session there sends a visit back that would have
// renewed the session of another host. That one still has its token.
func TestRenewalCannotTell(t *testing.T) {
	h := newHandedOver(t)
	w := h.expect("Found", func() (*httptest.ResponseRecorder, string) {
		return h.outcome(func(w http.ResponseWriter, r *http.Request) error {
			return h.ho.start(w, r, toRenewSession, http.StatusFound)
		}, h.at(secondHost, h.parts.request("GET", "/page?q=1", "Sec-Fetch-Mode", "navigate")))
	})
	h.breakRecords()
	w = h.expect("Found", h.callback(w.Header().Get("Location"), h.atFirst))
	if to := w.Header().Get("Location"); to != "https://"+secondHost+"/page?q=1" {
		t.Errorf("leads to %s", to)
	}
}

// TestRenewalOfALongURL: a page of another host whose URL is too long to come back whole, by what either host has to
// remember of it, does not renew its token until the last minute.
func TestRenewalOfALongURL(t *testing.T) {
	for _, c := range []struct {
		what  string
		chars int
		own   string // a header of the site's at the login host, by which its answers have less room
		after time.Duration
		asks  bool // the page's host begins a renewal
		leads string
		aim   aim
	}{
		{"short", 100, "", 58 * time.Minute, true, "https://auth.example.com/authorize?", toRenewSession},
		{"long", 1200, "", 58 * time.Minute, false, "", toRenewSession},
		{"long at the login host alone", 900, strings.Repeat("x", 2000), 58 * time.Minute, true,
			"https://" + secondHost + "/page?q=" + strings.Repeat("x", 900), toRenewSession},
		{"long there, in the last minute", 900, strings.Repeat("x", 2000), 59 * time.Minute, true,
			"https://auth.example.com/authorize?", toRenewSession},
		// The browser has a session at the login host that no hosts share, and none at the page's.
		{"long there, of who has no session yet", 900, strings.Repeat("x", 2000), 58 * time.Minute, true,
			"https://auth.example.com/authorize?", toBeginSession},
	} {
		h := newHandedOver(t)
		_, atFirst := h.session(func(s *session) {
			if c.aim == toRenewSession {
				s.family = records.ID{1}
			}
		})
		h.clock.Add(c.after)
		page := h.at(secondHost, h.parts.request("GET", "/page?q="+strings.Repeat("x", c.chars),
			"Sec-Fetch-Mode", "navigate"))
		at, err := h.sites.of(page)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.ho.comesBackWhole(httptest.NewRecorder(), page, at); got != c.asks {
			t.Errorf("%s: renews by this visit %t", c.what, got)
		}
		if !c.asks {
			continue
		}
		w := h.expect("Found", func() (*httptest.ResponseRecorder, string) {
			return h.outcome(func(w http.ResponseWriter, r *http.Request) error {
				return h.ho.start(w, r, c.aim, http.StatusFound)
			}, page)
		})
		u, err := url.Parse(w.Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		w = h.expect("Found", func() (*httptest.ResponseRecorder, string) {
			return h.outcome(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Content-Security-Policy", c.own)
				return h.ho.finish(w, r)
			}, h.at(u.Host, h.parts.request("GET", u.RequestURI(), "Cookie", atFirst, "Sec-Fetch-Mode", "navigate")))
		})
		if to := w.Header().Get("Location"); !strings.HasPrefix(to, c.leads) {
			t.Errorf("%s: leads to %.80s", c.what, to)
		}
	}
}

// TestLongestURLThatRenews: at another host, the longest URL whose visit renews a token comes back whole, and the next
// would not.
func TestLongestURLThatRenews(t *testing.T) {
	h := newHandedOver(t)
	page := func(chars int) (r *http.Request, renews, isWhole bool) {
		r = h.at(secondHost, h.parts.request("GET", "/"+strings.Repeat("x", chars), "Sec-Fetch-Mode", "navigate"))
		at, err := h.sites.of(r)
		if err != nil {
			t.Fatal(err)
		}
		w := h.expect("Found", func() (*httptest.ResponseRecorder, string) {
			return h.outcome(func(w http.ResponseWriter, r *http.Request) error {
				return h.ho.start(w, r, toRenewSession, http.StatusFound)
			}, r)
		})
		u, err := url.Parse(w.Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		v, err := h.ho.requests.open(t.Context(), at, u.Query().Get(requestParam))
		if err != nil {
			t.Fatal(err)
		}
		return r, h.ho.comesBackWhole(httptest.NewRecorder(), r, at), v.returnTo == r.URL.RequestURI()
	}
	for _, chars := range []int{100, 500, 1500} {
		if _, renews, isWhole := page(chars); renews != isWhole {
			t.Errorf("%d: renews %t, comes back whole %t", chars, renews, isWhole)
		}
	}
	for chars := 500; chars < 1500; chars++ {
		if r, renews, isWhole := page(chars); renews != isWhole {
			t.Fatalf("a URL of %d characters: renews %t, comes back whole %t", len(r.URL.Path), renews, isWhole)
		}
	}
}

// TestTicketThatCannotBeUsed: where the storage keeps a ticket from being redeemed, a browser that has a session of
// the same family, which it wanted to renew, goes to the page. Whoever has signed in as somebody else is told.
func TestTicketThatCannotBeUsed(t *testing.T) {
	h := newHandedOver(t)
	signedIn := cookieIn(h.expect("See Other", h.callback(h.ticket, h.bound)))
	_, another := h.session(func(s *session) {
		ofTwoHosts(s)
		s.family = records.ID{2}
	})
	works, broken := h.ho.used, h.brokenUses()
	for cookie, want := range map[string]string{h.atFirst: "See Other", another: errStorage.code} {
		w := h.expect("Found", h.visit())
		bound := cookieIn(w)
		ticket := h.expect("See Other", h.callback(w.Header().Get("Location"), cookie)).Header().Get("Location")
		h.ho.used = broken
		h.expect(want, h.callback(ticket, bound+"; "+signedIn))
		h.ho.used = works
	}
}
