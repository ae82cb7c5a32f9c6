package aventusauth

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// losesKeys deletes the sealing keys, and starts Caddy anew.
func (w *world) losesKeys() {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, "storage", keyring.File)); err != nil {
		w.t.Fatal(err)
	}
	w.restart()
}

// replaces loads the config with something else in place of old.
func (w *world) replaces(old, with string) {
	w.t.Helper()
	config := strings.ReplaceAll(w.config, old, with)
	if config == w.config {
		w.t.Fatalf("there is no %s in\n%s", old, config)
	}
	w.run(config)
}

// TestLoginOutlivesKeys: when the keys are lost or others, or the config has changed, logins that are under way
// start over, once, and get through. That is no forged callback. The page is known as long as the keys are.
func TestLoginOutlivesKeys(t *testing.T) {
	for what, tc := range map[string]struct {
		happens func(w *world)
		page    string
	}{
		"the keys were deleted": {(*world).losesKeys, "/"},
		"the config has a key by now": {func(w *world) {
			w.replaces("client_id", "session {\nkey "+strings.Repeat("a", 43)+"\n}\nclient_id")
		}, "/"},
		"a scope was added": {func(w *world) {
			w.replaces("openid profile", "openid profile email")
		}, "/page?q=1"},
		"the cookie has another name": {func(w *world) {
			w.replaces("client_id", "session {\nname another\n}\nclient_id")
		}, "/page?q=1"},
		"another client": {func(w *world) { w.replaces("the-client", "another-client") }, "/page?q=1"},
		"it took too long as well": {func(w *world) {
			w.losesKeys()
			w.clock.Add(loginLifetime - time.Minute)
		}, "/"},
		"the config has no keys by now": {nil, "/"},
		"there is another key by now":   {nil, "/"},
		"the config, then the keys": {func(w *world) {
			w.replaces("openid profile", "openid")
			w.losesKeys()
		}, "/"},
	} {
		t.Run(what, func(t *testing.T) {
			const key = "session {\nkey "
			s := setup{}
			switch what {
			case "the config has no keys by now":
				s.block = key + strings.Repeat("a", 43) + "\n}"
				tc.happens = func(w *world) { w.replaces(s.block, "") }
			case "there is another key by now":
				s.block = key + strings.Repeat("a", 43) + "\n}"
				tc.happens = func(w *world) { w.replaces(strings.Repeat("a", 43), strings.Repeat("b", 43)) }
			}
			w := newWorld(t, s)
			another := w.issuer.Clients[0]
			another.ID = "another-client"
			w.issuer.Clients = append(w.issuer.Clients, another)
			b := w.browser()
			callback := b.begin("/page?q=1")
			tc.happens(w)
			again := b.get(callback)
			w.expectRedirect(again, http.StatusFound, strings.TrimSuffix(w.issuer.Issuer, "/"))
			w.expectTokenRequests(0)
			back := b.get(again.location())
			done := b.get(back.location())
			w.expect(done, http.StatusSeeOther)
			if want := w.site + tc.page; done.location() != want {
				t.Errorf("it leads to %s, want %s", done.location(), want)
			}
			w.expectTokenRequests(1)
			w.expect(b.get("/page?q=1"), http.StatusOK)
			// The first callback again: who is signed in has what it was for.
			w.expectRedirect(b.get(callback), http.StatusSeeOther, w.site)
			w.expectTokenRequests(1)
			if log := w.log(); strings.Contains(log, "invalid_state") || strings.Contains(log, "was not sealed here") {
				t.Errorf("it is logged as forged:\n%s", log)
			}
		})
	}
}

// TestLoginForHostThatLeft: a login that began for another host, which shares it no longer, starts over and ends
// at the root of this one; alone, and with another change. In another browser it is refused.
func TestLoginForHostThatLeft(t *testing.T) {
	const hosts = "hosts app.localhost wiki.localhost *.team.localhost"
	for _, further := range []string{"", "session {\nname another\n}"} {
		g := newGroup(t, setup{}, false)
		b := g.browser()
		callback := b.get(b.get(g.ask(b, g.wiki+"/page")).location()).location()
		g.replaces(hosts, further)
		stranger := g.browser()
		stranger.get(g.login + "/") // has begun a login, too
		a := stranger.get(callback)
		g.expect(a, http.StatusBadRequest)
		if !strings.HasPrefix(a.body, "invalid_state: ") {
			t.Errorf("another browser gets %s", a.body)
		}
		again := b.get(callback)
		g.expectRedirect(again, http.StatusFound, strings.TrimSuffix(g.issuer.Issuer, "/"))
		g.expectTokenRequests(0)
		done := b.get(b.get(again.location()).location())
		g.expect(done, http.StatusSeeOther)
		if want := g.login + "/"; done.location() != want {
			t.Errorf("it leads to %s, want %s", done.location(), want)
		}
		g.expect(b.get(g.login+"/"), http.StatusOK)
	}
}

// TestLoginStartsOverOnce: where starting over does not help, as with two instances that have different keys, it
// is not done again.
func TestLoginStartsOverOnce(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	for _, happens := range []func(){
		w.losesKeys,
		func() { w.replaces("openid profile", "profile openid email") },
		func() { w.replaces("profile openid email", "openid profile") },
	} {
		b := w.browser()
		callback := b.begin("/page")
		w.losesKeys()
		again := b.get(callback)
		w.expect(again, http.StatusFound)
		callback = b.get(again.location()).location()
		happens()
		a := b.get(callback)
		w.expect(a, http.StatusBadRequest)
		if !strings.HasPrefix(a.body, "login_lost: ") {
			t.Errorf("it says %s", a.body)
		}
	}
	w.expectTokenRequests(0)
	if !strings.Contains(w.log(), "do all instances have the same keys and config?") {
		t.Errorf("the log does not say what to look for:\n%s", w.log())
	}
}

// TestMadeUpState: a state that names a key which does not exist gets a login where the browser has begun one
// lately, as a link to the site would, and else it is refused as any other that was made up. So is one with the
// mark of having been started again put on, or taken off; and what another browser began before a change.
func TestMadeUpState(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nreverse_proxy %app" + errorsShown})
	madeUp := make([]byte, 200)
	madeUp[0] = 1 // the version
	unknown := base64.RawURLEncoding.EncodeToString(madeUp)
	expect := func(what string, a answer, code string) {
		t.Helper()
		isCode := strings.HasPrefix(a.body, code+": ")
		if a.StatusCode != http.StatusBadRequest || !isCode || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s: status %d, %v, %s", what, a.StatusCode, a.Header, a.body)
		}
	}
	b := w.browser()
	callback := b.begin("/page")
	state := query(callback, "state")

	stranger := w.browser()
	expect("in another browser", stranger.get(with(callback, "state", unknown)), "invalid_state")
	expect("marked, in another browser", stranger.get(with(callback, "state", unknown+againMark)), "invalid_state")
	signedIn := w.browser()
	signedIn.login("/")
	w.expectTokenRequests(1)
	w.expectRedirect(signedIn.get(with(callback, "state", unknown)), http.StatusSeeOther, w.site)

	a := b.get(with(callback, "state", unknown))
	w.expectRedirect(a, http.StatusFound, strings.TrimSuffix(w.issuer.Issuer, "/"))
	expect("marked", b.get(with(callback, "state", unknown+againMark)), "login_lost")
	expect("marked twice", b.get(with(callback, "state", unknown+againMark+againMark)), "invalid_state")
	if asked := query(a.location(), "state"); !strings.HasSuffix(asked, againMark) {
		t.Errorf("the state %s has no mark", asked)
	} else {
		unmarked := with(callback, "state", strings.TrimSuffix(asked, againMark))
		expect("the mark taken off", b.get(unmarked), "invalid_state")
	}
	expect("the mark put on", b.get(with(callback, "state", state+againMark)), "invalid_state")
	expect("a known key", b.get(with(callback, "state", flip(state))), "invalid_state")

	w.replaces("openid profile", "openid")
	expect("another browser's", signedIn.get(callback), "invalid_state")
	w.clock.Add(loginLifetime + time.Hour)
	expect("long after", b.get(with(callback, "state", unknown)), "invalid_state")
	w.expectTokenRequests(1)
}

// TestLoginOfAnotherBlockOutlivesItsConfig: of several blocks that a callback may belong to, the one that has the key
// of its state says what has become of the login, and not the one that is asked first.
func TestLoginOfAnotherBlockOutlivesItsConfig(t *testing.T) {
	const before = "scope email\nsession {\nkey "
	w := newWorld(t, setup{sites: func(w *world) string {
		key := func(letter string) string { return strings.Repeat(letter, 43) + "\n}" }
		return w.site + " {\nroute {\n" + w.directive("/a/*", "session {\nname a\nkey "+key("a")) + "\n" +
			w.directive("", before+key("b")) + "\nreverse_proxy " + w.app + "\n}\n}"
	}})
	b := w.browser()
	callback := b.begin("/page?q=1")
	w.replaces(before, "session {\nkey ")
	again := b.get(callback)
	w.expectRedirect(again, http.StatusFound, strings.TrimSuffix(w.issuer.Issuer, "/"))
	if a := b.get(b.get(again.location()).location()); a.location() != w.site+"/page?q=1" {
		t.Errorf("status %d, sent to %s", a.StatusCode, a.location())
	}
}
