package aventusauth

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestLogOfLogins: a line for each login and logout says who and where, and nothing
// that opens anything.
func TestLogOfLogins(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout", issuer: func(s *aventustest.Server) {
		s.Users = []aventustest.User{{Sub: "ada\n\x1b[31m\u009b|é"}}
		s.AutoSignIn = s.Users[0].Sub
	}})
	b := w.browser()
	b.login("/")
	w.expect(b.get("/logout"), http.StatusOK)
	sessions := make(map[string]bool)
	for _, message := range []string{"signed in", "signed out"} {
		var line struct {
			Level, Site, Session string
			UserID               string `json:"user_id"`
			ClientIP             string `json:"client_ip"`
		}
		if err := json.Unmarshal([]byte(w.logLine(message)), &line); err != nil {
			t.Fatal(err)
		}
		if line.ClientIP != "127.0.0.1" || line.Level != "info" || line.UserID != "ada??[31m?|?" ||
			line.Site != w.site || len(line.Session) != 8 {
			t.Errorf("%+v", line)
		}
		sessions[line.Session] = true
	}
	if len(sessions) != 1 {
		t.Errorf("the sessions are %v, want one", sessions)
	}
}

// logLine returns the module's line with that message, or fails the test unless there
// is just one.
func (w *world) logLine(message string) string {
	w.t.Helper()
	var found []string
	for line := range strings.Lines(w.log()) {
		if strings.Contains(line, `"logger":"http.handlers.aventus_auth"`) &&
			strings.Contains(line, `"msg":"`+message+`"`) {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%d lines say %q:\n%s", len(found), message, strings.Join(found, ""))
	}
	return found[0]
}

// expectSaidByBlock signs in twice at each of two blocks, with two configs. It fails the test unless the log has one
// warning for each block and config, with that advice and the site; or none, unless says.
func (w *world) expectSaidByBlock(message, advice string, says bool) {
	w.t.Helper()
	want := 0
	for range 2 {
		for _, path := range []string{"/a/", "/b/"} {
			w.browser().login(path)
			w.browser().login(path)
			if says {
				want++
			}
			said := 0
			for line := range strings.Lines(w.log()) {
				if !strings.Contains(line, message) {
					continue
				}
				if said++; !strings.Contains(line, `"level":"warn"`) || !strings.Contains(line, advice) ||
					!strings.Contains(line, `"site":"`+w.site+`"`) {
					w.t.Error(line)
				}
			}
			if said != want {
				w.t.Errorf("after the login at %s, it was said %d times, want %d", path, said, want)
			}
		}
		w.run(w.config)
	}
}

// TestLongTokenIsSaid: an app that refuses the header says so to visitors alone, in words of its own. The log says it
// once for each block, and again with the next config.
func TestLongTokenIsSaid(t *testing.T) {
	for chars, says := range map[int]bool{9000: true, 0: false} {
		blocks := twoBlocks("", "session {\nname two\n}")
		blocks.issuer = func(s *aventustest.Server) { s.TokenChars = chars }
		newWorld(t, blocks).expectSaidByBlock("an access token is longer than 8 KB", "put less into its tokens", says)
	}
}

// TestNoRefreshTokenIsSaid: sessions end with their tokens though a refresh token was asked for. The log says so
// once for each block, and again with the next config, but not where one came, or where none was asked for.
func TestNoRefreshTokenIsSaid(t *testing.T) {
	for scope, gives := range map[string]bool{"offline_access": false, "offline_access email": true, "email": false} {
		blocks := twoBlocks("scope "+scope, "scope "+scope+"\nsession {\nname two\n}")
		blocks.issuer = func(s *aventustest.Server) { s.NoRefresh = !gives }
		newWorld(t, blocks).expectSaidByBlock(
			"the authorization server gave no refresh token, though scope has offline_access",
			"allow refresh tokens (offline access)", scope == "offline_access")
	}
}

// TestClientOfALogin: behind a proxy, the address is the visitor's, as Caddy knows it.
func TestClientOfALogin(t *testing.T) {
	w := newWorld(t, setup{global: "servers {\ntrusted_proxies static 127.0.0.0/8\n}"})
	b := w.browser()
	w.expect(b.do("GET", b.begin("/"), "X-Forwarded-For", "203.0.113.7"), http.StatusSeeOther)
	if line := w.logLine("signed in"); !strings.Contains(line, `"client_ip":"203.0.113.7"`) {
		t.Error(line)
	}
}

// TestUnknownAudienceIsSaid: the visitor is told that they were denied, and the operator that it is not
// the visitor's fault, at a level that is shown.
func TestUnknownAudienceIsSaid(t *testing.T) {
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.Audiences = []string{"https://another.example.com/"} },
	})
	b := w.browser()
	w.expect(b.get(b.get(b.get("/").location()).location()), http.StatusForbidden)
	line := w.logLine("access_denied")
	if !strings.Contains(line, `"level":"warn"`) ||
		!strings.Contains(line, "knows no API by the identifier in audience") {
		t.Error(line)
	}
	other := newWorld(t, setup{})
	c := other.browser()
	state := regexp.MustCompile(`[?&]state=([^&]+)`).FindStringSubmatch(c.get("/").location())[1]
	other.expect(c.get("/oauth2/callback?error=access_denied&error_description=no&state="+state), http.StatusForbidden)
	if line := other.logLine("access_denied"); !strings.Contains(line, `"level":"info"`) {
		t.Error(line)
	}
}
