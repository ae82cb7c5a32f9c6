package aventusauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestAdmin lists sessions on Caddy's admin endpoint, and ends one, and all of a
// user's, in either store.
func TestAdmin(t *testing.T) {
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/cookie", "session {\nname small\n}") + "\n@rest not path /cookie\n" +
			w.directive("@rest", "session {\nstore storage\n}") + "\nreverse_proxy " + w.app + "\n}"
	}})
	ask := func(method, query string) answer {
		t.Helper()
		return w.browser().do(method, "http://localhost:"+w.adminPort+"/aventus_auth/sessions"+query)
	}
	list := func() (sessions []listed) {
		t.Helper()
		a := ask("GET", "")
		w.expect(a, http.StatusOK)
		if err := json.Unmarshal([]byte(a.body), &sessions); err != nil {
			t.Fatalf("%v: %s", err, a.body)
		}
		return sessions
	}
	if n := len(list()); n != 0 {
		t.Errorf("%d sessions before there are any", n)
	}

	one, two, small := w.browser(), w.browser(), w.browser()
	one.login("/")
	two.login("/")
	small.login("/cookie")
	w.expect(one.get("/"), http.StatusOK)
	token := w.token()
	sessions := list()
	if len(sessions) != 2 {
		t.Fatalf("%d sessions, want the two in the storage", len(sessions))
	}
	s := sessions[0]
	if s.Sub != "auth0|ada" || s.Site != w.site || s.ClientID != "the-client" || len(s.ID) != 32 ||
		!s.Expires.Equal(s.Created.Add(24*time.Hour)) {
		t.Errorf("%+v", s)
	}
	if body := ask("GET", "").body; strings.Contains(body, token[len("Bearer "):]) || strings.Contains(body, `"key"`) {
		t.Errorf("it shows too much: %s", body)
	}
	for query, want := range map[string]int{
		"": 400, "?id=a&sub=b": 400, "?id=" + strings.Repeat("0", 32): 404, "?id=../keys": 404,
		"?id=" + s.ID[:8]: 404, "?id=" + strings.Repeat("0", 400): 404, // no storage takes such a name
	} {
		if a := ask("DELETE", query); a.StatusCode != want {
			t.Errorf("DELETE %s: status %d, want %d", query, a.StatusCode, want)
		}
	}
	if a := ask("POST", ""); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", a.StatusCode)
	}
	w.expect(ask("DELETE", "?id="+s.ID), http.StatusNoContent)
	alive := 0
	for _, b := range []*browser{one, two} {
		if b.get("/").StatusCode == http.StatusOK {
			alive++
		}
	}
	if n := len(list()); n != 1 || alive != 1 {
		t.Errorf("%d sessions listed, %d alive, want one", n, alive)
	}

	w.expect(ask("DELETE", "?sub="+url.QueryEscape("auth0|somebody")), http.StatusNoContent)
	w.expect(small.get("/cookie"), http.StatusOK)
	w.expect(ask("DELETE", "?sub="+url.QueryEscape("auth0|ada")), http.StatusNoContent)
	for _, b := range []*browser{one, two} {
		w.expect(b.get("/"), http.StatusFound)
	}
	w.expect(small.get("/cookie"), http.StatusFound)
	if n := len(list()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	w.restart()
	w.expect(small.get("/cookie"), http.StatusFound)
	// Who signs in again, in the very same second, is signed in.
	one.login("/")
	w.expect(one.get("/"), http.StatusOK)
}

// TestRevokeBeginsAhead: all sessions of a user end that began by now, also those that began at an instance
// whose clock is ahead by as much as clocks may differ; and the user can sign in again at once.
func TestRevokeBeginsAhead(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := newWorld(t, setup{admin: true, block: "session {\nstore " + store + "\n}"})
		b := w.browser()
		w.clock.Add(5 * time.Minute)
		b.login("/")
		w.clock.Add(-5 * time.Minute)
		w.expect(b.get("/"), http.StatusOK)
		a := w.browser().do("DELETE", "http://localhost:"+w.adminPort+"/aventus_auth/sessions?sub="+
			url.QueryEscape("auth0|ada"))
		w.expect(a, http.StatusNoContent)
		w.expect(b.get("/"), http.StatusFound)
		again := w.browser()
		again.login("/")
		w.expect(again.get("/"), http.StatusOK)
		w.restart()
		w.expect(b.get("/"), http.StatusFound)
		w.expect(again.get("/"), http.StatusOK)
	}
}

// TestRevokeAtEachServer: a user's sessions end at each authorization server that a block names, and not only
// at the first one's, also where the storage does not take one of the ends.
func TestRevokeAtEachServer(t *testing.T) {
	var other *aventustest.Server
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		other = &aventustest.Server{
			Clients: []aventustest.Client{{
				ID: "the-client", Secret: testSecret, RedirectURIs: []string{w.site + "/other/callback"},
			}},
			AutoSignIn: "auth0|ada", Now: w.clock.Now,
		}
		server := httptest.NewServer(other)
		t.Cleanup(server.Close)
		other.Issuer = server.URL + "/"
		second := strings.NewReplacer("/oauth2/callback", "/other/callback", w.issuer.Issuer, other.Issuer).
			Replace(w.directive("/other/*", "session {\nname other\n}"))
		return w.site + " {\n" + w.directive("/one/*", "") + "\n" + second + "\nreverse_proxy " + w.app + "\n}"
	}})
	w.onEngine()
	for _, status := range []int{http.StatusNoContent, http.StatusServiceUnavailable} {
		b := w.browser()
		b.login("/one/")
		a := b.get("/other/")
		w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
		w.expect(b.get("/one/"), http.StatusOK)
		w.expect(b.get("/other/"), http.StatusOK)
		if status != http.StatusNoContent {
			faultAt(t, "store", "aventus_auth/ended")
		}
		a = w.browser().do("DELETE", "http://localhost:"+w.adminPort+"/aventus_auth/sessions?sub="+
			url.QueryEscape("auth0|ada"))
		w.expect(a, status)
		w.expect(b.get("/one/"), http.StatusFound)
		w.expect(b.get("/other/"), http.StatusFound)
	}
}

// TestAdminStorageFails: where a part of the sessions cannot be read, they are not listed as if there were no
// others, and one that cannot be looked for is not said to be none; nor is an end that was not recorded
// said to be one, however often it is asked for.
func TestAdminStorageFails(t *testing.T) {
	w := newWorld(t, setup{admin: true, block: "session {\nstore storage\n}"})
	w.onEngine()
	w.browser().login("/")
	w.browser().login("/")
	ask := func(method, query string) answer {
		return w.browser().do(method, "http://localhost:"+w.adminPort+"/aventus_auth/sessions"+query)
	}
	var sessions []listed
	if err := json.Unmarshal([]byte(ask("GET", "").body), &sessions); err != nil || len(sessions) != 2 {
		t.Fatalf("%v, error %v", sessions, err)
	}
	for _, c := range []struct{ operation, prefix, method, query string }{
		{"load", "aventus_auth/sessions", "GET", ""},
		{"list", "aventus_auth/sessions", "GET", ""},
		{"load", "aventus_auth/sessions", "DELETE", "?id=" + sessions[0].ID},
		{"list", "aventus_auth/sessions", "DELETE", "?id=" + strings.Repeat("0", 32)}, // what is there needs no list
		{"store", "aventus_auth/ended/lately", "DELETE", "?id=" + sessions[0].ID},
		{"store", "aventus_auth/ended/all", "DELETE", "?sub=" + url.QueryEscape("auth0|ada")},
	} {
		recovers := faultAt(t, c.operation, c.prefix)
		for range 2 {
			if a := ask(c.method, c.query); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%v: status %d, %s", c, a.StatusCode, a.body)
			}
		}
		recovers()
	}
	// Nor by an instance that has just started, and cannot read the keys.
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	recovers := faultAt(t, "load", keyring.File)
	w.onEngine()
	for _, c := range []struct{ method, query string }{{"GET", ""}, {"DELETE", "?id=" + sessions[0].ID}} {
		w.expect(ask(c.method, c.query), http.StatusServiceUnavailable)
	}
	recovers()
	w.expect(ask("GET", ""), http.StatusOK)
}

// TestRevokeBesideABrokenStorage: while a reload goes on, there may be two storages. One that cannot be read keeps no
// session in the other from ending by its id, whichever is asked first. What it may hold itself is not said to be
// none, and is not left out of the list as if there were no others.
func TestRevokeBesideABrokenStorage(t *testing.T) {
	for what, c := range map[string]struct {
		breaks  func(*parts)
		unknown int // for an id that neither has
	}{
		"its records": {(*parts).breakRecords, http.StatusServiceUnavailable},
		"its keys": {func(p *parts) {
			p.keeper.store.indexBox = p.keyless("session index")
		}, http.StatusNotFound},
	} {
		for _, isFirst := range []bool{true, false} {
			broken, good := newParts(t), newParts(t)
			for _, p := range []*parts{broken, good} { // with folders, which the list of an id that is not found has
				p.keeper.store.shelf = records.NewShelf(&certmagic.FileStorage{Path: t.TempDir()},
					"aventus_auth/sessions", records.NewClock(p.clock.Now, p.clock.Elapsed))
			}
			ofBroken, _ := broken.session(func(s *session) { s.refresh = "refresh" })
			ofGood, cookie := good.session(func(s *session) { s.refresh = "refresh" })
			c.breaks(broken)
			blocks := []*parts{broken, good}
			if !isFirst {
				slices.Reverse(blocks)
			}
			all := new(peers)
			for _, p := range blocks {
				all.blocks.join(p.logins().replacer.own)
			}
			configs.LoadOrStore(t, all)
			for _, ask := range []struct {
				method, query string
				want          int
			}{
				{"GET", "", http.StatusServiceUnavailable},
				{"DELETE", "?id=" + ofBroken.name(), http.StatusServiceUnavailable},
				{"DELETE", "?id=" + strings.Repeat("0", 32), c.unknown},
				{"DELETE", "?id=" + ofGood.name(), http.StatusNoContent},
			} {
				w := httptest.NewRecorder()
				err := new(adminAPI).serve(w, httptest.NewRequest(ask.method, adminPath+ask.query, nil))
				var answered caddy.APIError
				if errors.As(err, &answered) {
					w.Code = answered.HTTPStatus
				}
				if w.Code != ask.want {
					t.Errorf("%s, asked first %t: %s %s: status %d, want %d; %v", what, isFirst, ask.method, ask.query,
						w.Code, ask.want, err)
				}
			}
			if _, err := configs.Delete(t); err != nil {
				t.Fatal(err)
			}
			if k, err := good.load(cookie); k != nil || err != nil {
				t.Errorf("%s, asked first %t: the session in the other goes on: %t, error %v", what, isFirst,
					k != nil, err)
			}
		}
	}
}

// TestListInPieces: a list is sent as it is found, whole and as JSON. What fails before anything was sent is an
// error, and later, the answer is cut short.
func TestListInPieces(t *testing.T) {
	broken := errors.New("broken")
	serve := func(n int, fails error) (w *httptest.ResponseRecorder, most int, aborted any, err error) {
		w = httptest.NewRecorder()
		defer func() { aborted = recover() }()
		err = serveList(w, func(f func(listed) error) error {
			for i := range n {
				sent := w.Body.Len()
				if err := f(listed{ID: fmt.Sprintf("%032x", i), Sub: "auth0|ada"}); err != nil {
					return err
				}
				most = max(most, w.Body.Len()-sent)
			}
			return fails
		})
		return w, most, nil, err
	}
	for _, n := range []int{0, 1, 2, 2000} {
		w, most, aborted, err := serve(n, nil)
		var sessions []listed
		if jsonErr := json.Unmarshal(w.Body.Bytes(), &sessions); jsonErr != nil || err != nil || aborted != nil ||
			len(sessions) != n || sessions == nil || most > 2*listBuffer {
			t.Errorf("%d sessions: %d are listed, %d bytes at once, %v, %v, %v", n, len(sessions), most, jsonErr, err,
				aborted)
		}
	}
	var answered caddy.APIError
	w, _, aborted, err := serve(2, broken)
	if !errors.As(err, &answered) || answered.HTTPStatus != http.StatusServiceUnavailable || aborted != nil ||
		w.Body.Len() != 0 {
		t.Errorf("it fails at once: %v, %v, %q", err, aborted, w.Body)
	}
	if w, _, aborted, err = serve(2000, broken); aborted != http.ErrAbortHandler || json.Valid(w.Body.Bytes()) {
		t.Errorf("it fails later: %v, %v", err, aborted)
	}
}

// TestRevokeOfTwoClients: a session is ended by its id, whichever of the config's clients it is of.
func TestRevokeOfTwoClients(t *testing.T) {
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		staff := strings.NewReplacer("the-client", "staff", "/oauth2/callback", "/staff/callback").
			Replace(w.directive("/staff/*", "session {\nname staff\nstore storage\n}"))
		return w.site + " {\n" + w.directive("/one/*", "session {\nstore storage\n}") + "\n" +
			staff + "\nreverse_proxy " + w.app + "\n}"
	}, issuer: func(s *aventustest.Server) {
		site := strings.TrimSuffix(s.Clients[0].RedirectURIs[0], "/oauth2/callback")
		s.Clients = append(s.Clients, aventustest.Client{
			ID: "staff", Secret: testSecret, RedirectURIs: []string{site + "/staff/callback"},
		})
	}})
	b := w.browser()
	b.login("/one/")
	a := b.get("/staff/")
	w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
	w.expect(b.get("/staff/"), http.StatusOK)
	ask := func(method, query string) answer {
		return w.browser().do(method, "http://localhost:"+w.adminPort+"/aventus_auth/sessions"+query)
	}
	var sessions []listed
	if err := json.Unmarshal([]byte(ask("GET", "").body), &sessions); err != nil || len(sessions) != 2 {
		t.Fatalf("%v, error %v", sessions, err)
	}
	for _, s := range sessions {
		w.expect(ask("DELETE", "?id="+s.ID), http.StatusNoContent)
	}
	w.expect(b.get("/one/"), http.StatusFound)
	w.expect(b.get("/staff/"), http.StatusFound)
}

// TestRevokeByCommand: whoever ends sessions from outside is told what there was, and so are the log and
// those who subscribe to events. A command that there is none of fails.
func TestRevokeByCommand(t *testing.T) {
	w := newWorld(t, setup{admin: true, global: "events {\non revoked aventus_auth_test\n}",
		block: "session {\nstore storage\n}"})
	recorded.mu.Lock()
	recorded.events = nil
	recorded.mu.Unlock()
	one, two, three := w.browser(), w.browser(), w.browser()
	for _, b := range []*browser{one, two, three} {
		b.login("/")
	}
	caddy := func(args ...string) ran {
		t.Helper()
		return runCaddy(t, t.TempDir(), nil, append([]string{"aventus-auth"}, args...)...)
	}
	address := "--address=localhost:" + w.adminPort
	list := caddy("sessions", address)
	var sessions []listed
	if err := json.Unmarshal([]byte(list.stdout), &sessions); err != nil || len(sessions) != 3 {
		t.Fatalf("%v: %+v", err, list)
	}
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"revoke", address, "--id=" + sessions[0].ID}, 0, "The session has ended."},
		{[]string{"revoke", address, "--id=" + sessions[0].ID}, 1, "there is no such session in the storage"},
		{[]string{"revoke", address, "--sub=auth0|adda"}, 0, `Sessions of "auth0|adda" in the storage: 0 have ended.`},
		{[]string{"revoke", address, "--sub=auth0|ada"}, 0, `Sessions of "auth0|ada" in the storage: 2 have ended.`},
		{[]string{"revoke", address}, 1, "at least one of the flags in the group [id sub] is required"},
		{[]string{"revoke", address, "--id=" + sessions[1].ID, "--sub=auth0|ada"}, 1, "[id sub]"},
		{[]string{"revok", address}, 1, `there is no command "revok"; did you mean revoke?`},
		{[]string{"xyzzy"}, 1, `there is no command "xyzzy"`},
		{nil, 0, "Lists the sessions"},
	} {
		if r := caddy(tc.args...); r.status != tc.status || !strings.Contains(r.stdout+r.stderr, tc.says) {
			t.Errorf("%q ends with %d and says\n%s%s", tc.args, r.status, r.stdout, r.stderr)
		}
	}
	about := "session:a session site:" + w.site + " "
	want := []string{
		"revoked map[" + about + "user_id:auth0|ada]", "revoked map[user_id:auth0|adda]",
		"revoked map[user_id:auth0|ada]",
	}
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	if !slices.Equal(recorded.events, want) {
		t.Errorf("events %q, want %q", recorded.events, want)
	}
	if n := strings.Count(w.log(), `"msg":"revoked"`); n != 3 {
		t.Errorf("%d lines say that sessions were revoked, want 3", n)
	}
}

// TestRevokeUncounted: a user's sessions end by the command also while they cannot be counted, since a record
// cannot be read or the storage lists nothing; and what could not be ended is not said to have ended.
func TestRevokeUncounted(t *testing.T) {
	w := newWorld(t, setup{admin: true, block: "session {\nstore storage\n}"})
	w.onEngine()
	for _, tc := range []struct {
		operation, prefix string
		status            int
		says              string
	}{
		{"load", "aventus_auth/sessions", 0, `All sessions of "auth0|ada" have ended`},
		{"list", "aventus_auth/sessions", 0, "a fault of the test"},
		{"store", "aventus_auth/ended", 1, "HTTP 503"}, // ended at this instance alone
	} {
		b := w.browser()
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
		recovers := faultAt(t, tc.operation, tc.prefix)
		r := runCaddy(t, t.TempDir(), nil, "aventus-auth", "revoke", "--address=localhost:"+w.adminPort,
			"--sub=auth0|ada")
		recovers()
		if r.status != tc.status || !strings.Contains(r.stdout+r.stderr, tc.says) ||
			tc.status != 0 && strings.Contains(r.stdout, "ended") {
			t.Errorf("%s: the command ends with %d and says\n%s%s", tc.operation, r.status, r.stdout, r.stderr)
		}
		w.expect(b.get("/"), http.StatusFound)
	}
}
