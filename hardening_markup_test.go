package aventusauth

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestMarkupInTheCallback: what comes with a callback is shown in the site's error page
// (nextjs-auth0, CVE-2021-32702; caddy-security, CVE-2023-52430), starts a new line in the
// log, or acts on the terminal that shows it.
func TestMarkupInTheCallback(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, setup{https: true, block: "profile /me", caddyfile: "log\n%s\nreverse_proxy %app" + errorsShown,
		global: "log plain {\noutput file " + dir + "/log\nformat console {\nlevel_format upper\n}\nlevel DEBUG\n}",
		issuer: func(s *aventustest.Server) {
			s.IDClaims = func(aventustest.User) map[string]any {
				return map[string]any{"nickname": "<script>evil()</script>"}
			}
		}})
	const payload = "<script>evil()</script>\"'\r\nSet-Cookie: evil=1\r\n\x1b[31mevil\x00\u202eevil " +
		"{env.TEST_CLIENT_SECRET}"
	quoted := url.QueryEscape(payload)
	w.overEach(func(t *testing.T, send func(request) answer) {
		begun := send(request{headers: []string{"Sec-Fetch-Mode", "navigate"}})
		good := w.callback(begun, "auth0|ada")
		state := query(good.target, "state")
		for _, callback := range []string{
			"?error=" + quoted + "&state=" + state, "?error=access_denied&error_description=" + quoted +
				"&error_uri=" + quoted + "&state=" + state,
			"?code=" + quoted + "&state=" + state + "&iss=" + quoted,
			"?code=x&state=" + quoted, "?" + quoted + "=x&state=" + state, "?code=" + quoted + t.Name() + "&state=" +
				state, "?" + quoted, "?x=%zz" + quoted,
		} {
			a := send(request{
				target: "/oauth2/callback" + callback,
				headers: append([]string{"User-Agent", "<b>evil", "Accept", "<b>evil", "Sec-Fetch-Mode", "navigate"},
					good.headers...),
			})
			if text := fmt.Sprint(a.Header, a.body); a.StatusCode < 400 || strings.Contains(text, "evil") ||
				strings.Contains(text, testSecret) {
				t.Errorf("%s: status %d, %s", callback, a.StatusCode, text)
			}
		}
	})
	// What stands in the log of our own lines is one line each, and plain.
	plain := readFile(t, dir+"/log")
	for _, log := range []string{plain, w.log()} {
		for line := range strings.Lines(log) {
			ours := strings.Contains(line, "http.handlers.aventus_auth")
			if strings.ContainsAny(line, "\x1b\x00\r\u202e") || ours && strings.Contains(line, testSecret) ||
				!strings.HasPrefix(line, "{") && !regexp.MustCompile(`^\d{4}/\d\d/\d\d `).MatchString(line) {
				t.Errorf("the log has the line %q", line)
			}
		}
	}
	if !strings.Contains(plain, "answered <script>evil()</script>") && !strings.Contains(plain, `\u003cscript`) {
		t.Error("the log does not say what the server said")
	}

	// The profile is no page, whatever the claims are.
	b := w.browser()
	b.login("/")
	a := b.get("/me")
	if !strings.Contains(a.body, "evil()") || strings.ContainsAny(a.body, "<>") ||
		a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the profile is %v %s", a.Header, a.body)
	}
}

// TestListInATerminal: a user's id is listed as it came, and acts on no terminal: JSON leaves U+0080 to U+009F as they
// are, of which one begins an escape sequence. A provider behind the authorization server may choose it.
func TestListInATerminal(t *testing.T) {
	const sub = "oidc|\u009b31m\u007f \u00e9"
	w := newWorld(t, setup{admin: true, block: "session {\nstore storage\n}", issuer: func(s *aventustest.Server) {
		s.Users, s.AutoSignIn = []aventustest.User{{Sub: sub}}, sub
	}})
	w.browser().login("/")
	list := runCaddy(t, t.TempDir(), nil, "aventus-auth", "sessions", "--address=localhost:"+w.adminPort)
	var sessions []listed
	err := json.Unmarshal([]byte(list.stdout), &sessions)
	if err != nil || len(sessions) != 1 || sessions[0].Sub != sub {
		t.Errorf("%v: %q lists %+v", err, list.stdout, sessions)
	}
}
