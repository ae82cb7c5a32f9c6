package aventusauth

import (
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// twoInstances is a refreshing world with two blocks that are alike but for their matchers. They share their
// sessions, and each has its own memory of them, as two instances have. The first one serves the logout.
func twoInstances(t *testing.T, s setup) *world {
	t.Helper()
	s.sites = func(w *world) string {
		block := s.block
		return w.site + " {\n" + w.directive("/one/*", block) + "\n@rest not path /one/*\n" +
			w.directive("@rest", block) + "\nreverse_proxy " + w.app + errorsShown + "\n}"
	}
	s.block = "scope offline_access\nlogout /logout\n" + s.block
	wanted := s.issuer
	s.issuer = func(server *aventustest.Server) {
		server.TokenLifetime = time.Hour
		if wanted != nil {
			wanted(server)
		}
	}
	w := newWorld(t, s)
	for _, h := range handlers() { // each remembers what it has seen itself
		h.house.keeper.memory = newMemory(rememberedBytes)
	}
	return w
}

// atTwoInstances is a site with two blocks for one session, of which the second serves the logout. world.partInstances
// makes that one another instance.
func atTwoInstances(w *world) string {
	const block = "scope offline_access\n"
	return w.site + " {\n" + w.directive("/one/*", block) + "\n@rest not path /one/*\n" +
		w.directive("@rest", block+"logout /logout") + "\nreverse_proxy " + w.app + "\n}"
}

// renewingAtTwoInstances is a world of two instances whose token requests may be held. A logout revokes refresh tokens
// in vain, so that what is being renewed is not refused.
func renewingAtTwoInstances(t *testing.T, held *aventustest.Hold) *world {
	t.Helper()
	w := newWorld(t, setup{
		sites: atTwoInstances,
		issuer: func(s *aventustest.Server) {
			s.TokenLifetime = time.Hour
			s.TokenFault = held.Answer
			s.RevokeFault = aventustest.Says(http.StatusInternalServerError, "")
		},
	})
	w.onEngine()
	handlers()[0].house.keeper.memory = newMemory(rememberedBytes)
	w.partInstances()
	handlers()[1].house.logins.replacer.latest = new(lastLogins)
	return w
}

// TestRenewedElsewhere: who remembers the session as it was before another instance renewed it takes up what
// that one got, and where that has died since, renews it in the same request.
func TestRenewedElsewhere(t *testing.T) {
	w := twoInstances(t, setup{})
	b := w.browser()
	b.login("/one/")
	w.expect(b.get("/one/"), http.StatusOK)
	w.expect(b.get("/two/"), http.StatusOK)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/two/"), http.StatusOK)
	renewed := w.token()
	w.expect(b.get("/one/"), http.StatusOK)
	if w.token() != renewed {
		t.Error("the renewed token was not taken up")
	}
	w.expectTokenRequests(2)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/two/"), http.StatusOK)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/one/"), http.StatusOK)
	w.expectTokenRequests(4)
	w.expectNoReuse()
}

// TestEndRevokesTheNewest: a logout, or another user's login in another tab, at an instance that remembers
// the session as it was before another one renewed it revokes the refresh token that the renewal brought.
func TestEndRevokesTheNewest(t *testing.T) {
	for _, how := range []string{"logout", "login"} {
		w := twoInstances(t, setup{})
		b := w.browser()
		b.login("/one/")
		w.expect(b.get("/one/"), http.StatusOK)
		w.clock.Add(2 * time.Hour)
		tab := w.browser().get("/one/")
		w.expect(b.get("/two/"), http.StatusOK) // a renewal
		sent := w.issuer.TokenRequests()
		used := sent[len(sent)-1].Params["refresh_token"]
		if how == "logout" {
			w.expect(b.get("/logout"), http.StatusOK)
		} else {
			w.issuer.AutoSignIn = "auth0|grace"
			cookies := tab.Cookies()
			tab = b.get(tab.location())
			w.expect(b.do("GET", tab.location(), "Cookie", cookies[0].Name+"="+cookies[0].Value), http.StatusSeeOther)
		}
		await(t, how+": the revocation", func() bool { return len(w.issuer.Revoked()) == 1 })
		if got := w.issuer.Revoked()[0]; got == used || got == "" {
			t.Errorf("%s: the refresh token was revoked that the renewal had used up", how)
		}
	}
}

// TestRecordGone: a session whose record another instance has removed, and whose end it could not write down,
// ends here when it is to be renewed, though its token lives.
func TestRecordGone(t *testing.T) {
	w := refreshing(t, setup{})
	b := w.browser()
	b.login("/")
	for _, file := range w.sessionFiles() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(b.get("/"), http.StatusOK) // remembered
	w.clock.Add(57 * time.Minute)
	await(t, "the end", func() bool { return b.get("/").StatusCode == http.StatusFound })
	w.expectTokenRequests(1)
}

// TestGivenUpElsewhere: who remembers a session with its refresh token does not send it where another instance
// was refused.
func TestGivenUpElsewhere(t *testing.T) {
	var status atomic.Int64
	w := twoInstances(t, setup{issuer: answering(&status)})
	b := w.browser()
	b.login("/one/")
	w.expect(b.get("/one/"), http.StatusOK)
	w.expect(b.get("/two/"), http.StatusOK)
	status.Store(http.StatusForbidden)
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/two/"), http.StatusFound)
	w.expect(b.get("/one/"), http.StatusFound)
	w.expectTokenRequests(2)
}

// TestRenewalWithoutLocks: two instances whose storage's locks exclude nobody send a session's refresh token once
// between them, and both go on with what comes of it. That one server takes the same token time and again, and
// that another answers that it was busy, keeps neither from the next renewal.
func TestRenewalWithoutLocks(t *testing.T) {
	for name, rotates := range map[string]bool{"rotating": true, "lasting": false} {
		var held atomic.Bool
		var status atomic.Int64
		entered, leave := make(chan struct{}, 2), make(chan struct{})
		w := twoInstances(t, setup{issuer: func(s *aventustest.Server) {
			s.KeepRefresh = !rotates
			s.TokenFault = func(rw http.ResponseWriter, r *http.Request) bool {
				if held.Load() {
					entered <- struct{}{}
					<-leave
				}
				if status := int(status.Load()); status != 0 {
					rw.WriteHeader(status)
					return true
				}
				return false
			}
		}})
		w.onEngine()
		w.partInstances()
		engineLocksFreely.Store(true)
		t.Cleanup(func() { engineLocksFreely.Store(false) })
		b := w.browser()
		b.login("/one/")
		requests := 1
		for round := range 3 {
			w.clock.Add(2 * time.Hour)
			if round == 1 { // in vain
				status.Store(http.StatusServiceUnavailable)
				w.expect(b.get("/one/"), http.StatusServiceUnavailable)
				w.clock.Add(retryRenewal)
				w.expect(b.get("/two/"), http.StatusServiceUnavailable)
				w.clock.Add(retryRenewal)
				status.Store(0)
				requests += 2
			}
			held.Store(true)
			answers := make(chan answer)
			for _, page := range []string{"/one/", "/two/"} {
				go func() { answers <- b.get(page) }()
			}
			<-entered
			if poll(300*time.Millisecond, func() bool { return len(entered) > 0 }) {
				t.Fatalf("%s: the refresh token is sent by both", name)
			}
			held.Store(false)
			leave <- struct{}{}
			for range 2 {
				w.expect(<-answers, http.StatusOK)
			}
			requests++
			w.expectTokenRequests(requests)
			w.expectNoReuse()
		}
	}
}

// TestLostUse: where no instance sends the refresh token that it was first to use, since both gave way to each
// other or one has died, its use is registered anew, and the session goes on.
func TestLostUse(t *testing.T) {
	w := refreshing(t, setup{})
	b := w.browser()
	b.login("/")
	h := handlers()[0]
	remembered := h.house.keeper.memory.all()
	if len(remembered) != 1 {
		t.Fatalf("%d sessions are remembered", len(remembered))
	}
	k := remembered[0]
	other := records.NewOnce(h.house.shared.storage, "aventus_auth/spent", loginLifetime, h.house.shared.clock)
	if isMine, err := other.Use(refreshUse(k.session, 0)); !isMine || err != nil {
		t.Fatal(isMine, err)
	}
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusOK)
	w.expectTokenRequests(2)
	w.expectNoReuse()
}

// TestGivenUpElsewhereAndRecorded: an instance cannot record a renewal for so long that another one gives the session
// up. When it is recorded after all, the session goes on there, too.
func TestGivenUpElsewhereAndRecorded(t *testing.T) {
	var faults aventustest.Switch
	w := newWorld(t, setup{
		sites:  atTwoInstances,
		issuer: func(s *aventustest.Server) { s.TokenLifetime, s.TokenFault = time.Hour, faults.Answer },
	})
	w.onEngine()
	handlers()[0].house.keeper.memory = newMemory(rememberedBytes)
	w.partInstances()
	b := w.browser()
	b.login("/one/")
	w.expect(b.get("/rest"), http.StatusOK)
	recovers := failRecords(t, &faults, nil)
	w.clock.Add(61 * time.Minute)
	w.expect(b.get("/one/"), http.StatusOK)
	w.clock.Add(6 * time.Minute)
	for range 2 { // it gives the session up, and reads that
		w.expect(b.do("GET", "/rest"), http.StatusUnauthorized)
	}
	w.expect(b.get("/one/"), http.StatusOK)
	recovers()
	await(t, "the session to go on at the other instance", func() bool {
		return b.do("GET", "/rest").StatusCode == http.StatusOK
	})
}
