package aventusauth

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// asCaddy is set where this test binary is to be the command caddy.
const asCaddy = "AVENTUS_AUTH_TEST_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ran is what came of a command.
type ran struct {
	stdout, stderr string
	status         int
}

// runCaddy runs caddy in a folder, with further variables in its environment.
func runCaddy(t *testing.T, dir string, env []string, args ...string) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	home := t.TempDir()
	cmd.Env = slices.Concat(os.Environ(), []string{
		asCaddy + "=1", "HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home,
	}, env)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	for _, out := range []string{r.stdout, r.stderr} {
		if strings.Contains(out, testSecret) ||
			strings.ContainsFunc(out, func(c rune) bool {
				return c < ' ' && c != '\n' && c != '\t' || c >= 0x7f &&
					c < 0xa0
			}) {
			t.Errorf("caddy %s printed what nobody may see: %q", args, out)
		}
	}
	return r
}

// doctorOf runs the doctor on a Caddyfile.
func doctorOf(t *testing.T, caddyfile string, env ...string) ran {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return runCaddy(t, dir, env, "aventus-auth", "doctor")
}

// line returns the line of a check, and what is to be done about it.
func (r ran) line(check string) string {
	lines := strings.Split(r.stdout, "\n")
	for i, line := range lines {
		if fields := strings.Fields(line); len(fields) > 2 && fields[1] == check && len(fields[0]) == len("pass") {
			found := strings.Join(fields, " ")
			if next := strings.TrimSpace(lines[i+1]); strings.HasPrefix(next, "next: ") {
				found += " " + next
			}
			return found
		}
	}
	return ""
}

// expect compares the lines of some checks, each given by its name: the status, and
// what the line has somewhere behind it.
func (r ran) expect(t *testing.T, status int, checks map[string]string) {
	t.Helper()
	wrong := r.status != status || r.stderr != ""
	for name, want := range checks {
		mark, text, _ := strings.Cut(want, " ")
		line := r.line(name)
		if !strings.HasPrefix(line, mark+" ") || !strings.Contains(line, text) {
			t.Errorf("%s: %q, want %q", name, line, want)
			wrong = true
		}
	}
	if wrong {
		t.Errorf("status %d, want %d; it printed\n%s%s", r.status, status, r.stdout, r.stderr)
	}
}

// filesBelow returns all that is in a folder.
func filesBelow(t *testing.T, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDoctorAllWell examines the config of a Caddy that runs, which takes no notice.
func TestDoctorAllWell(t *testing.T) {
	w := newWorld(t, setup{block: "verify_token"})
	b := w.browser()
	b.login("/")
	before, log := filesBelow(t, w.dir), w.log()

	r := doctorOf(t, w.config)
	address := strings.TrimSuffix(strings.TrimPrefix(w.issuer.Issuer, "http://"), "/")
	want := strings.NewReplacer("ADDRESS", address, "CALLBACK", w.site+"/oauth2/callback",
		"HOST", "localhost").Replace(`The authorization server
  pass dns        127.0.0.1: 127.0.0.1
  pass connect    ADDRESS: connected; http, on this very machine
  pass clock      ADDRESS: within seconds of the server's
  pass jwks       http://ADDRESS/.well-known/jwks.json: its keys for signatures: 1

aventus_auth with client_id the-client
  To be registered as its callback URL, to the letter:
    CALLBACK
  pass authorize  CALLBACK: redirects to the callback at once
  pass token      http://ADDRESS/oauth/token: refused a made-up code (403 invalid_grant), and not the client
  pass protects   HOST: every path
  pass callback   CALLBACK: comes to aventus_auth

Caddy's storage
  pass storage    file_system: it can be written, read, locked and deleted from
  pass keys       file_system: aventus_auth/keys.json can be read; keys in it: 1

10 passed, 0 failed, 0 with a warning, 0 skipped
`)
	if r.stdout != want || r.stderr != "" || r.status != 0 {
		t.Errorf("status %d, it printed\n%s%s\nwant\n%s", r.status, r.stdout, r.stderr, want)
	}
	if after := filesBelow(t, w.dir); !slices.Equal(before, after) || w.log() != log {
		t.Errorf("it left a trace: %q, before %q", after, before)
	}
	w.expectTokenRequests(2) // of the login, and of the doctor
	if asked := w.issuer.AuthorizeRequests(); len(asked) != 2 || len(asked[0]) != len(asked[1]) ||
		!asked[1].Has("nonce") {
		t.Errorf("it does not ask as a login does: %v", asked)
	}
	w.expect(b.get("/"), http.StatusOK)
	b = w.browser()
	b.login("/")
}

// TestDoctorNamesLogouts: the doctor names all that is to be registered, once, and says where it is of no use.
func TestDoctorNamesLogouts(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout\nlogout_provider\nbackchannel_logout /oauth2/ended"})
	r := doctorOf(t, w.config)
	for _, want := range []string{
		"To be registered as its back-channel logout URL:\n    " + w.site + "/oauth2/ended\n",
		"To be registered as its logout URL:\n    " + w.site + "/logout?signed_out\n",
	} {
		if strings.Count(r.stdout, want) != 1 {
			t.Errorf("it does not say once\n%s\nbut\n%s", want, r.stdout)
		}
	}
	r = doctorOf(t, strings.ReplaceAll(w.config, "client_id the-client", "client_id tpc_theirs"))
	for _, want := range []string{
		"WARN config     backchannel_logout: third-party clients (tpc_...) are sent no logout tokens, and get no " +
			"ID token: nobody can sign in",
		"WARN config     logout_provider: third-party clients (tpc_...) have no logout page",
		"WARN config     scope: third-party clients (tpc_...) are not granted openid, profile,",
	} {
		if strings.Count(r.stdout, want) != 1 {
			t.Errorf("it does not say once\n%s\nbut\n%s", want, r.stdout)
		}
	}
}

// TestDoctorFinds breaks a login in one way after the other.
func TestDoctorFinds(t *testing.T) {
	w := newWorld(t, setup{
		block: "verify_token", issuer: func(s *aventustest.Server) {
			s.Audiences = []string{"https://api.example.com/"}
		},
	})
	for _, tc := range []struct {
		what     string
		old, new string // in the Caddyfile
		status   int
		want     map[string]string
	}{
		{"a wrong secret", "{env.TEST_CLIENT_SECRET}", "not-the-secret", 1, map[string]string{
			"authorize": "pass ",
			"token": "FAIL answered 401 access_denied: Unauthorized next: the authorization server refused the " +
				"client's credentials: check client_id, client_secret and token_auth",
		}},
		{"an unknown client", "client_id the-client", "client_id nobody", 1, map[string]string{
			"authorize": `FAIL answered 403 with a page that says "Unknown client" next: check client_id`,
			"token":     "FAIL answered 401 access_denied",
		}},
		{"a callback URL that is not registered", "/oauth2/callback", "/oauth2/call", 1, map[string]string{
			"authorize": `FAIL answered 403 with a page that says "Callback URL mismatch" next: register the ` +
				`callback URL above`, "token": "pass ", "callback": "pass ",
		}},
		{"an unknown audience", "audience https://api.example.com/", "audience https://other.example.com/", 1,
			map[string]string{
				"authorize": "FAIL refuses logins: access_denied: Service not found: https://other.example.com/ " +
					"next: check audience", "token": "pass ",
			}},
		{"an issuer that is no such page", "issuer " + w.issuer.Issuer, "issuer " + w.issuer.Issuer + "tenant", 1,
			map[string]string{
				"dns": "pass ", "connect": "pass ", "clock": "pass ", "jwks": "FAIL answered 404 next: check issuer",
				"authorize": "FAIL answered 404 next: check issuer and authorize_url",
				"token":     "FAIL answered 404 next: check issuer and token_url", "callback": "pass ",
			}},
		{"a key set at a host that is down", "verify_token", "verify_token\njwks_url http://127.0.0.1:" + freePort(t) +
			"/keys\n", 1, map[string]string{
			"token": "pass ", "jwks": "skip cannot be reached",
		}},
		{"another body than the server wants", "verify_token", "token_request form", 1, map[string]string{
			"authorize": "pass ",
			"token": "FAIL answered 415 invalid_request: The body must be application/json. next: the token " +
				"endpoint may want another kind of body: see token_request",
		}},
		{"another way for the secret", "verify_token", "token_auth basic", 1, map[string]string{
			"authorize": "pass ",
			"token":     "FAIL answered 401 access_denied: The client's secret must come in the body",
		}},
		{"a server that is down", "issuer " + w.issuer.Issuer, "issuer http://localhost:" + freePort(t), 1,
			map[string]string{
				"dns": "pass ", "connect": "FAIL connection refused next: check that the server is up",
				"clock": "skip ", "jwks": "skip ",
				"authorize": "skip ", "token": "skip ", "callback": "pass ", "storage": "pass ",
			}},
		{"a name that does not exist", "issuer " + w.issuer.Issuer, "issuer https://auth.aventus.invalid/", 1,
			map[string]string{
				"dns": "FAIL next: check the name in issuer", "connect": "skip ", "clock": "skip ", "jwks": "skip ",
				"authorize": "skip ", "token": "skip ", "callback": "pass ",
			}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			config := strings.ReplaceAll(w.config, tc.old, tc.new)
			if config == w.config {
				t.Fatal("nothing is different")
			}
			doctorOf(t, config).expect(t, tc.status, tc.want)
		})
	}
	// Nobody needs an issuer whose endpoints are elsewhere, and no key set.
	elsewhere := "issuer https://auth.aventus.invalid/\nauthorize_url " + w.issuer.Issuer + "authorize\ntoken_url " +
		w.issuer.Issuer + "oauth/token"
	config := strings.NewReplacer("verify_token", "", "scope openid profile", "", "issuer "+w.issuer.Issuer,
		elsewhere).Replace(w.config)
	doctorOf(t, config).expect(t, 0, map[string]string{
		"dns": "pass ", "jwks": "skip no login here needs it", "authorize": "pass ", "token": "pass ",
	})
}

// TestDoctorRecipes: the doctor raises no alarm about the callbacks and the error pages
// of the Caddyfiles in the documentation.
func TestDoctorRecipes(t *testing.T) {
	env := []string{
		"HTTPS_PROXY=http://127.0.0.1:1", "AVENTUS_CLIENT_ID=one", "AVENTUS_CLIENT_SECRET=s",
		"AVENTUS_REDIRECT_URI=https://example.com/oauth2/callback",
		"AVENTUS_AUDIENCE=a", "AVENTUS_SESSION_KEY=" + strings.Repeat("a", 43), "AVENTUS_SESSION_KEY_BEFORE=" +
			strings.Repeat("b", 43),
		"STAFF_CLIENT_ID=two", "STAFF_CLIENT_SECRET=s", "SITE_ADDRESS=example.com",
	}
	configs := []string{readFile(t, "Caddyfile.example")}
	for _, document := range documents(t) {
		for _, block := range regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```\n").FindAllStringSubmatch(
			readFile(t, document), -1) {
			configs = append(configs, block[1])
		}
	}
	told, runs, docs := 0, newAtOnce(), make([]examined, len(configs))
	for i, config := range configs {
		runs.Go(func() { docs[i] = examine(t, config, env...) })
	}
	runs.Wait()
	looked := []string{"callback", "hosts", "errors", "protects"}
	for i, config := range configs {
		for _, b := range docs[i].Blocks {
			for _, c := range b.Checks {
				if slices.Contains(looked, c["check"]) && c["status"] != "pass" {
					t.Errorf("%v\n%s", c, config)
				} else if c["check"] == "callback" {
					told++
				}
			}
		}
	}
	if told < len(configs) {
		t.Errorf("%d callbacks were looked for in %d configs", told, len(configs))
	}
}

// TestDoctorLeavesCaddyAlone: what validating a config makes (log files, the local
// certificate authority) may have the wrong owner, and is not made.
func TestDoctorLeavesCaddyAlone(t *testing.T) {
	dir := t.TempDir()
	before := filesBelow(t, dir)
	config := "{\nstorage file_system " + filepath.Join(dir, "storage") + "\nlog {\noutput file " +
		filepath.Join(dir, "log") + "\n}\n}\n" +
		strings.ReplaceAll(standIn(t, func(http.ResponseWriter, *http.Request) {}), "http://localhost:9999",
			"https://localhost:9999")
	doctorOf(t, config, "TMPDIR="+dir).expect(t, 1, map[string]string{"storage": "pass ", "callback": "pass "})
	if after := filesBelow(t, dir); !slices.Equal(before, after) {
		t.Errorf("it left %q", after)
	}
}
