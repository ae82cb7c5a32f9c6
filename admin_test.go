package aventusauth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestAdmin lists sessions on Caddy's admin endpoint, and ends one, and all of a
// user's, in either store.
func TestAdmin(t *testing.T) {
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		return w.site + " {\n" + w.directive("/cookie", "session {\nname small\n}") + "\n@rest not path /cookie\n" + w.directive("@rest", "session {\nstore storage\n}") + "\nreverse_proxy " + w.app + "\n}"
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
	if s.Sub != "auth0|ada" || s.Site != w.site || s.ClientID != "the-client" || len(s.ID) != 32 || !s.Expires.Equal(s.Created.Add(24*time.Hour)) {
		t.Errorf("%+v", s)
	}
	if body := ask("GET", "").body; strings.Contains(body, token[len("Bearer "):]) || strings.Contains(body, "key") {
		t.Errorf("it shows too much: %s", body)
	}
	for query, want := range map[string]int{"": 400, "?id=a&sub=b": 400, "?id=" + strings.Repeat("0", 32): 404, "?id=../keys": 404} {
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
