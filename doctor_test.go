package aventusauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
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
	cmd.Env = slices.Concat(os.Environ(), []string{asCaddy + "=1", "HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home}, env)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	for _, out := range []string{r.stdout, r.stderr} {
		if strings.Contains(out, testSecret) || strings.ContainsFunc(out, func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 }) {
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
	want := strings.NewReplacer("ADDRESS", address, "CALLBACK", w.site+"/oauth2/callback").Replace(`The authorization server
  pass dns        127.0.0.1: 127.0.0.1
  pass connect    ADDRESS: connected; http, on this very machine
  pass clock      ADDRESS: within seconds of the server's
  pass jwks       http://ADDRESS/.well-known/jwks.json: its keys for signatures: 1

aventus_auth with client_id the-client
  To be registered as its callback URL, to the letter:
    CALLBACK
  pass authorize  CALLBACK: redirects to the callback at once
  pass token      http://ADDRESS/oauth/token: refused a made-up code (403 invalid_grant), and not the client
  pass callback   CALLBACK: comes to aventus_auth

Caddy's storage
  pass storage    file_system: it can be written, read, locked and deleted from

8 passed, 0 failed, 0 with a warning, 0 skipped
`)
	if r.stdout != want || r.stderr != "" || r.status != 0 {
		t.Errorf("status %d, it printed\n%s%s\nwant\n%s", r.status, r.stdout, r.stderr, want)
	}
	if after := filesBelow(t, w.dir); !slices.Equal(before, after) || w.log() != log {
		t.Errorf("it left a trace: %q, before %q", after, before)
	}
	w.expectTokenRequests(2) // of the login, and of the doctor
	if asked := w.issuer.AuthorizeRequests(); len(asked) != 2 || len(asked[0]) != len(asked[1]) || !asked[1].Has("nonce") {
		t.Errorf("it does not ask as a login does: %v", asked)
	}
	w.expect(b.get("/"), http.StatusOK)
	b = w.browser()
	b.login("/")
}

// TestDoctorFinds breaks a login in one way after the other.
func TestDoctorFinds(t *testing.T) {
	w := newWorld(t, setup{block: "verify_token", issuer: func(s *aventustest.Server) { s.Audiences = []string{"https://api.example.com/"} }})
	for _, tc := range []struct {
		what     string
		old, new string // in the Caddyfile
		status   int
		want     map[string]string
	}{
		{"a wrong secret", "{env.TEST_CLIENT_SECRET}", "not-the-secret", 1, map[string]string{
			"authorize": "pass ", "token": "FAIL answered 401 access_denied: Unauthorized next: the authorization server refused the client's credentials: check client_id, client_secret and token_auth",
		}},
		{"an unknown client", "client_id the-client", "client_id nobody", 1, map[string]string{
			"authorize": `FAIL answered 403 with a page that says "Unknown client" next: check client_id`, "token": "FAIL answered 401 access_denied",
		}},
		{"a callback URL that is not registered", "/oauth2/callback", "/oauth2/call", 1, map[string]string{
			"authorize": `FAIL answered 403 with a page that says "Callback URL mismatch" next: register the callback URL above`, "token": "pass ", "callback": "pass ",
		}},
		{"an unknown audience", "audience https://api.example.com/", "audience https://other.example.com/", 1, map[string]string{
			"authorize": "FAIL refuses logins: access_denied: Service not found: https://other.example.com/ next: check audience", "token": "pass ",
		}},
		{"an issuer that is no such page", "issuer " + w.issuer.Issuer, "issuer " + w.issuer.Issuer + "tenant", 1, map[string]string{
			"dns": "pass ", "connect": "pass ", "clock": "pass ", "jwks": "FAIL answered 404 next: check issuer",
			"authorize": "FAIL answered 404 next: check issuer and authorize_url", "token": "FAIL answered 404 next: check issuer and token_url", "callback": "pass ",
		}},
		{"a key set at a host that is down", "verify_token", "verify_token http://127.0.0.1:" + freePort(t) + "/keys\n", 1, map[string]string{
			"token": "pass ", "jwks": "skip cannot be reached",
		}},
		{"another body than the server wants", "verify_token", "token_request form", 1, map[string]string{
			"authorize": "pass ", "token": "FAIL answered 415 invalid_request: The body must be application/json. next: the token endpoint may want another kind of body: see token_request",
		}},
		{"another way for the secret", "verify_token", "token_auth basic", 1, map[string]string{
			"authorize": "pass ", "token": "FAIL answered 401 access_denied: The client's secret must come in the body",
		}},
		{"a server that is down", "issuer " + w.issuer.Issuer, "issuer http://localhost:" + freePort(t), 1, map[string]string{
			"dns": "pass ", "connect": "FAIL connection refused next: check that the server is up", "clock": "skip ", "jwks": "skip ",
			"authorize": "skip ", "token": "skip ", "callback": "pass ", "storage": "pass ",
		}},
		{"a name that does not exist", "issuer " + w.issuer.Issuer, "issuer https://auth.aventus.invalid/", 1, map[string]string{
			"dns": "FAIL next: check the name in issuer", "connect": "skip ", "clock": "skip ", "jwks": "skip ", "authorize": "skip ", "token": "skip ", "callback": "pass ",
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
	elsewhere := "issuer https://auth.aventus.invalid/\nauthorize_url " + w.issuer.Issuer + "authorize\ntoken_url " + w.issuer.Issuer + "oauth/token"
	config := strings.NewReplacer("verify_token", "", "scope openid profile", "", "issuer "+w.issuer.Issuer, elsewhere).Replace(w.config)
	doctorOf(t, config).expect(t, 0, map[string]string{"dns": "pass ", "jwks": "skip no login here needs it", "authorize": "pass ", "token": "pass "})
}

// TestDoctorTLS asks a server whose certificate is not trusted, is trusted, and is for
// another name.
func TestDoctorTLS(t *testing.T) {
	issuer := new(aventustest.Server)
	server := httptest.NewUnstartedServer(issuer)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are given up
	server.StartTLS()
	defer server.Close()
	issuer.Issuer = server.URL + "/"
	issuer.Clients = []aventustest.Client{{ID: "c", Secret: "s", RedirectURIs: []string{"https://site.example.com/cb"}}}
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(issuer string) string {
		return "https://site.example.com {\naventus_auth {\nclient_id c\nclient_secret s\nredirect_uri https://site.example.com/cb\nissuer " + issuer + "\n}\n}"
	}
	doctorOf(t, config(issuer.Issuer)).expect(t, 1, map[string]string{
		"dns": "pass ", "connect": "FAIL certificate signed by unknown authority next: add its certificate authority", "clock": "skip ", "authorize": "skip ", "token": "skip ",
	})
	trusted := "SSL_CERT_FILE=" + authority
	doctorOf(t, config(issuer.Issuer), trusted).expect(t, 0, map[string]string{
		"connect":   "pass its certificate is trusted, and good until " + server.Certificate().NotAfter.UTC().Format(time.DateOnly),
		"authorize": "pass answers with a page, as far as can be told its sign-in", "token": "pass ", "callback": "pass ",
	})
	doctorOf(t, config("https://localhost:"+port+"/"), trusted).expect(t, 1, map[string]string{
		"connect": "FAIL not localhost next: the certificate is for another name", "token": "skip ",
	})
	// What it can be asked through a proxy, it is asked there.
	doctorOf(t, strings.ReplaceAll(config("https://auth.example.com/"), "\nissuer", "\nverify_token\naudience a\nissuer"), "HTTPS_PROXY=http://user:"+testSecret+"@127.0.0.1:"+freePort(t)).expect(t, 1, map[string]string{
		"dns": "skip left to the proxy 127.0.0.1:", "connect": "skip left to the proxy 127.0.0.1:", "clock": "skip ",
		"jwks": "FAIL connection refused", "authorize": "FAIL connection refused", "token": "FAIL connection refused",
	})
}

// standIn serves an authorization server of a test's own, and returns a Caddyfile for it.
func standIn(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return fmt.Sprintf(`http://localhost:9999 {
		aventus_auth {
			client_id the-client
			client_secret %s
			redirect_uri http://localhost:9999/cb
			issuer %s
		}
	}`, testSecret, server.URL)
}

// TestDoctorClock: the clocks of a server and of this machine are compared.
func TestDoctorClock(t *testing.T) {
	for _, tc := range []struct {
		off    time.Duration
		age    string
		status int
		want   string
	}{
		{0, "", 0, "pass within seconds"},
		{-2 * time.Second, "", 0, "pass within seconds"},
		{-time.Minute, "", 0, "WARN ahead of the server's next: set this machine's clock"},
		{4 * time.Minute, "", 0, "WARN behind the server's next: set this machine's clock"},
		{6 * time.Minute, "", 1, "FAIL behind the server's next: set this machine's clock"},
		{-24 * time.Hour, "", 1, "FAIL ahead of the server's"},
		{-24 * time.Hour, "86400", 0, "pass within seconds"}, // from a cache
	} {
		config := standIn(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(tc.off).UTC().Format(http.TimeFormat))
			if tc.age != "" {
				w.Header().Set("Age", tc.age)
			}
			if r.URL.Path == "/oauth/token" {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"error":"invalid_grant"}`)
			}
		})
		doctorOf(t, config).expect(t, tc.status, map[string]string{"clock": tc.want, "token": "pass ", "authorize": "pass "})
	}
	config := standIn(t, func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil })
	doctorOf(t, config).expect(t, 1, map[string]string{"clock": "skip the server does not say what time it is"})
}

// TestDoctorHostileServer: what a server says reaches the terminal as plain text, and
// without the secret that it was sent.
func TestDoctorHostileServer(t *testing.T) {
	const evil = "\x1b]0;owned\x07\x1b[2J\u009b31m\r\nFAIL"
	config := standIn(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/authorize":
			w.Header()["Location"] = []string{"http://evil.test/?error=server_error&error_description=" + url.QueryEscape(evil)}
			w.WriteHeader(http.StatusFound)
		case "/oauth/token":
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": evil + " " + testSecret})
		}
	})
	r := doctorOf(t, config)
	r.expect(t, 1, map[string]string{
		"authorize": "FAIL refuses logins: server_error: ?]0;owned??[2J", "token": "FAIL answered 401 invalid_client: ?]0;owned??[2J?31m??FAIL [redacted] next: the authorization server refused the client's credentials",
	})
	// A stand-in that others wrote gives a token for anything, and not all sign-in
	// pages are where the server is.
	config = standIn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth/token" {
			fmt.Fprint(w, `{"access_token":"a.b.c","token_type":"Bearer"}`)
			return
		}
		http.Redirect(w, r, "https://accounts.example.com/sign-in?state="+testSecret, http.StatusFound)
	})
	doctorOf(t, config).expect(t, 0, map[string]string{
		"authorize": "pass redirects to https://accounts.example.com/sign-in", "token": "WARN gave a token for a code that was made up next: use this server for tests alone",
	})
}

// oddStorage is a storage on files that fails at one kind of call.
type oddStorage struct {
	certmagic.FileStorage
	At string `json:"at"`
}

func init() { caddy.RegisterModule(oddStorage{}) }

func (oddStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.odd", New: func() caddy.Module { return new(oddStorage) }}
}

func (s *oddStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	s.At, s.Path = args[0], args[1]
	return nil
}

func (s *oddStorage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }
func (s *oddStorage) Provision(caddy.Context) error                { return s.failAt("provision") }

func (s *oddStorage) failAt(call string) error {
	if s.At == call {
		return errors.New("no \x1b[31mroom")
	}
	return nil
}

func (s *oddStorage) Lock(ctx context.Context, name string) error {
	if err := s.failAt("lock"); err != nil {
		return err
	}
	return s.FileStorage.Lock(ctx, name)
}

func (s *oddStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.failAt("store"); err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

func (s *oddStorage) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.FileStorage.Load(ctx, key)
	if s.At == "stale" {
		value = nil
	}
	return value, cmp.Or(s.failAt("load"), err)
}

func (s *oddStorage) Delete(ctx context.Context, key string) error {
	if err := s.failAt("delete"); err != nil {
		return err
	}
	return s.FileStorage.Delete(ctx, key)
}

// TestDoctorStorage: a storage that fails at anything is found, and whatever it is,
// nothing new is in it afterwards.
func TestDoctorStorage(t *testing.T) {
	config := standIn(t, func(http.ResponseWriter, *http.Request) {})
	const next = " next: logins need it: see that it is up"
	for at, want := range map[string]string{
		"":          "pass odd: it can be written, read, locked and deleted from",
		"provision": "FAIL no ?[31mroom" + next,
		"lock":      "FAIL taking a lock: storage: locking aventus_auth_doctor_",
		"store":     "FAIL writing: storage: storing aventus_auth_doctor_",
		"load":      "FAIL reading: storage: loading aventus_auth_doctor_",
		"stale":     "FAIL reading: what came back is not what was written" + next,
		"delete":    "FAIL deleting: storage: deleting aventus_auth_doctor_",
	} {
		root := t.TempDir()
		before := filesBelow(t, root)
		r := doctorOf(t, fmt.Sprintf("{\nstorage odd %q %s\n}\n", at, root)+config)
		r.expect(t, 1, map[string]string{"storage": want}) // the server is none
		left := slices.DeleteFunc(filesBelow(t, root), func(path string) bool { return path == filepath.Join(root, "locks") })
		if !slices.Equal(left, before) && at != "delete" {
			t.Errorf("%s: it left %q", at, left)
		}
	}

	// The folders that Caddy will make when it starts are not there yet.
	root := filepath.Join(t.TempDir(), "caddy")
	doctorOf(t, "{\nstorage file_system "+root+"\n}\n"+config).expect(t, 1, map[string]string{"storage": "pass "})
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left the storage's folder: %v", err)
	}
	// A folder that cannot be: what is above it is a file.
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	doctorOf(t, "{\nstorage file_system "+root+"/storage\n}\n"+config).expect(t, 1, map[string]string{"storage": "FAIL not a directory" + next})
}

// examined is the document of --json.
type examined struct {
	OK     bool
	Blocks []struct {
		ClientID     string   `json:"client_id"`
		RedirectURIs []string `json:"redirect_uris"`
		Issuer       string
		Count        int
		Checks       []map[string]string
	}
	Checks []map[string]string
}

func examine(t *testing.T, config string, env ...string) (doc examined) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site.caddyfile")
	if json.Valid([]byte(config)) {
		path += ".json"
	}
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runCaddy(t, t.TempDir(), env, "aventus-auth", "doctor", "--json", "--config", path)
	dec := json.NewDecoder(strings.NewReader(r.stdout))
	if err := dec.Decode(&doc); err != nil || dec.More() || r.stderr != "" || doc.OK != (r.status == 0) {
		t.Fatalf("status %d, %v\n%s%s\n%s", r.status, err, r.stdout, r.stderr, config)
	}
	return doc
}

// TestDoctorBlocks: what blocks have in common is asked once, and each learns what to
// register.
func TestDoctorBlocks(t *testing.T) {
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) {
		s.Clients = append(s.Clients, aventustest.Client{ID: "staff", Secret: testSecret, RedirectURIs: []string{"https://a.example.com/cb", "https://b.example.com/cb"}})
	}})
	staff := strings.NewReplacer("the-client", "staff", w.site+"/oauth2/callback", "https://{http.request.host}/cb").Replace(w.directive("", ""))
	public := w.directive("", "")
	doc := examine(t, fmt.Sprintf(`
		%s {
			handle /one/* {
				%s
			}
			%s
		}
		https://a.example.com, https://b.example.com {
			%s
		}
		https://*.example.org {
			%s
		}
		:8443 {
			tls internal
			%s
		}`, w.site, public, public, staff, staff, staff))
	if len(doc.Blocks) != 2 {
		t.Fatalf("%+v", doc)
	}
	one, two := doc.Blocks[0], doc.Blocks[1]
	if one.ClientID != "the-client" || one.Count != 2 || one.Issuer != w.issuer.Issuer || !slices.Equal(one.RedirectURIs, []string{w.site + "/oauth2/callback"}) {
		t.Errorf("%+v", one)
	}
	if two.ClientID != "staff" || two.Count != 3 || !slices.Equal(two.RedirectURIs, []string{
		"https://*.example.org/cb", "https://a.example.com/cb", "https://b.example.com/cb", "https://{http.request.host}/cb",
	}) {
		t.Errorf("%+v", two)
	}
	summary := func(checks []map[string]string) (all []string) {
		for _, c := range checks {
			all = append(all, c["check"]+" "+c["status"])
		}
		return all
	}
	if got, want := summary(doc.Checks), []string{"dns pass", "connect pass", "clock pass", "jwks pass", "storage pass"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := summary(two.Checks), []string{
		"authorize skip", "authorize pass", "authorize pass", "authorize skip", "token pass", "callback pass", "callback pass", "callback pass", "callback skip",
	}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !doc.OK {
		t.Errorf("not all is well: %+v", doc)
	}
	w.expectTokenRequests(2)
	if n := w.issuer.JWKSRequests(); n != 1 {
		t.Errorf("the key set was fetched %d times", n)
	}
}

// TestDoctorCallback: whether something stands before the callback is told where it
// can be told, and not made up where it cannot.
func TestDoctorCallback(t *testing.T) {
	block := func(matcher, client, further string) string {
		return "aventus_auth " + matcher + " {\nclient_id " + client + "\nclient_secret s\nredirect_uri https://site.example.com/oauth2/callback\n" + further + "\n}\n"
	}
	one := block("", "one", "")
	// A route that does nothing for some, in a config that no Caddyfile makes.
	grouped := func(how string) string {
		return `{"apps":{"http":{"servers":{"s":{"listen":[":443"],"routes":[
			{"match":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}],"handle":[{"handler":"headers"}],` + how + `},
			{"handle":[{"handler":"aventus_auth","client_id":"one","client_secret":"s","redirect_uri":"https://site.example.com/oauth2/callback"}],"group":"g"}
		]}}}}}`
	}
	for _, tc := range []struct{ what, site, want string }{
		{"nothing before it", one + "respond hi", "pass comes to aventus_auth"},
		{"a matcher that leaves it out", block("/members/*", "one", "") + "respond hi", "pass "},
		{"headers and encodings", "header X-A b\nencode gzip\nlog_append a b\nrequest_body {\nmax_size 1MB\n}\n" + one, "pass "},
		{"a proxy for other paths", "route {\nreverse_proxy /api/* localhost:1\n" + one + "}", "pass "},
		{"a proxy for its path", "route {\nreverse_proxy /oauth2/* localhost:1\n" + one + "}", "fail reverse_proxy answers before aventus_auth sees it"},
		{"a redirect of all", one + "redir https://new.example.com{uri}", "fail static_response (respond, redir or abort) answers before"},
		{"a redirect of other hosts", "@other not host site.example.com\nredir @other https://site.example.com{uri}\n" + one, "pass "},
		{"a redirect of all but two paths", "@x {\nnot path /oauth2/*\nnot path /api/*\n}\nredir @x https://new.example.com\n" + one, "pass "},
		{"files", "route {\nfile_server\n" + one + "}", "fail file_server answers before"},
		{"files that may not be there", "route {\nfile_server {\npass_thru\n}\n" + one + "}", "skip cannot be told: it depends on what file_server does"},
		{"an error", "route {\nerror /oauth2/* 410\n" + one + "}", "fail error answers before"},
		{"another handle", "handle /oauth2/* {\nrespond hi\n}\nhandle {\n" + one + "}", "fail static_response (respond, redir or abort) answers before"},
		{"a handle that leaves it out", "handle /members/* {\n" + one + "}", "fail nothing answers"},
		{"a handle that has it", "handle_path /oauth2/* {\n" + one + "}\nhandle {\nrespond hi\n}", "pass "},
		{"a rewrite", "try_files {path} /index.html\n" + one + "file_server", "pass "},
		{"a rewrite to where something else is", "rewrite /oauth2/* /app\nroute {\nreverse_proxy /app localhost:1\n" + one + "}", "fail reverse_proxy answers before"},
		{"a map and variables", "map {path} {to} {\n/oauth2/callback /app\ndefault /\n}\nvars there {to}\nroute {\nrewrite {vars.there}\nrespond /app hi\n" + one + "}", "fail static_response (respond, redir or abort) answers before"},
		{"another block that leaves it out", block("/staff/*", "two", "") + one, "pass "},
		{"another block that has the same callback", block("", "two", "") + one, "pass "},
		{"another block with the site's callback elsewhere", strings.ReplaceAll(block("", "two", ""), "/oauth2/", "/staff/") + one, "fail another aventus_auth (client_id two) answers before"},
		{"another block that has the path for another host", strings.ReplaceAll(block("/staff/*", "two", ""), "site.example.com", "other.example.com") + one, "fail another aventus_auth (client_id two) answers before"},
		{"the first of two rewrites", "rewrite /oauth2/callback /app\nrewrite * /other\nroute {\nrespond /other hi\n" + one + "}", "pass "},
		{"another block that lets everybody pass", strings.ReplaceAll(block("", "two", "unauthenticated pass"), "/oauth2/", "/staff/") + one, "pass "},
		{"another block's logout", strings.ReplaceAll(block("/staff/*", "two", "logout /oauth2/callback"), "uri https://site.example.com/oauth2/", "uri https://site.example.com/staff/") + one, "fail another aventus_auth (client_id two) answers before"},
		{"another block for some", "@some remote_ip 10.0.0.0/8\n" + strings.ReplaceAll(block("@some", "two", ""), "/oauth2/", "/staff/") + one, "skip cannot be told: it depends on the matcher remote_ip"},
		{"a matcher on the visitor", "@some remote_ip 10.0.0.0/8\nredir @some https://new.example.com\n" + one, "skip cannot be told: it depends on the matcher remote_ip"},
		{"a matcher on the visitor, and on another path", "@some {\nremote_ip 10.0.0.0/8\npath /admin/*\n}\nredir @some https://new.example.com\n" + one, "pass "},
		{"a header for some", "@some remote_ip 10.0.0.0/8\nheader @some X-A b\n" + one, "pass "},
		{"a password", "route {\nbasic_auth {\nada $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\n" + one + "}", "skip cannot be told: it depends on what authentication does"},
		{"another login", "route {\nforward_auth localhost:1 {\nuri /auth\n}\n" + one + "}", "skip cannot be told: it depends on what reverse_proxy does"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			expectCallback(t, "https://site.example.com {\n"+tc.site+"\n}", tc.want)
		})
	}
	for _, tc := range []struct{ what, config, want string }{
		{"another name", "https://www.example.com {\n" + one + "}", "warn no site of this config has the name site.example.com"},
		{"another name, and a site for all others", "https://www.example.com {\n" + one + "}\nhttps:// {\nrespond hi\n}", "warn no site of this config has the name"},
		{"any name", ":8080 {\n" + one + "}", "pass "},
		{"another port than the block's", "https://site.example.com:8443 {\n" + one + "}\nhttps://site.example.com {\nrespond hi\n}", "fail static_response (respond, redir or abort) answers before"},
		{"a port that something in front changes", "http://site.example.com:8080 {\n" + one + "}", "pass "},
		{"a protocol that something in front changes", "http://site.example.com:8080 {\n@http protocol http\nredir @http https://{host}{uri}\n" + one + "}", "skip cannot be told: it depends on the matcher protocol"},
		{"a protocol", "http://site.example.com, https://site.example.com {\n@http protocol http\nredir @http https://{host}{uri}\n" + one + "}", "pass "},
		{"two addresses", "https://site.example.com {\nbind 127.0.0.1\n" + one + "}\nhttps://other.example.com {\nbind 127.0.0.2\nrespond hi\n}", "pass "},
		{"the block at one of two addresses", "https://site.example.com {\nbind 127.0.0.1\nredir https://new.example.com\n" + one + "}\nhttps:// {\nbind 127.0.0.2\n" + one + "}", "pass "},
		{"a good block at another port", "https://site.example.com {\nbind 127.0.0.1\nredir https://new.example.com\n" + one + "}\nhttps://other.example.com {\nbind 127.0.0.2\nrespond hi\n}\nhttp://site.example.com:8080 {\n" + one + "}", "fail static_response"},
		{"a redirect at one of several sites", "https://another.example.com {\nrespond hi\n}\nhttps://site.example.com {\n" + one + "redir https://new.example.com\n}", "fail static_response"},
		{"the block at all other sites", "https://site.example.com {\nheader X-A b\n}\nhttps:// {\n" + one + "}", "fail nothing answers"},
		{"for some, a group's one route", grouped(`"group":"g"`), "skip cannot be told: it depends on the matcher remote_ip"},
		{"for some, the last route", grouped(`"terminal":true`), "skip cannot be told: it depends on the matcher remote_ip"},
		{"a named route", "&(it) {\n" + one + "}\nhttps://site.example.com {\ninvoke it\n}", "skip cannot be told"},
	} {
		t.Run(tc.what, func(t *testing.T) { expectCallback(t, tc.config, tc.want) })
	}
}

// expectCallback examines a config without a network, and compares what is said of
// the callback of client one.
func expectCallback(t *testing.T, config, want string) {
	t.Helper()
	doc := examine(t, config, "HTTPS_PROXY=http://127.0.0.1:1")
	status, detail, _ := strings.Cut(want, " ")
	for _, b := range doc.Blocks {
		if c := b.Checks[len(b.Checks)-1]; b.ClientID != "one" {
			continue
		} else if c["check"] != "callback" || c["status"] != status || !strings.HasPrefix(c["detail"], detail) {
			t.Errorf("%v, want %s\n%s", c, want, config)
		}
		return
	}
	t.Errorf("there is no such block in %+v", doc)
}

// TestDoctorReadme raises no alarm about the callbacks of the README's recipes.
func TestDoctorReadme(t *testing.T) {
	env := []string{
		"HTTPS_PROXY=http://127.0.0.1:1", "AVENTUS_CLIENT_ID=one", "AVENTUS_CLIENT_SECRET=s", "AVENTUS_REDIRECT_URI=https://example.com/oauth2/callback",
		"AVENTUS_AUDIENCE=a", "AVENTUS_SESSION_KEY=" + strings.Repeat("a", 43), "AVENTUS_SESSION_KEY_BEFORE=" + strings.Repeat("b", 43),
		"STAFF_CLIENT_ID=two", "STAFF_CLIENT_SECRET=s", "SITE_ADDRESS=example.com",
	}
	configs := []string{readFile(t, "Caddyfile.example")}
	for _, block := range regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```\n").FindAllStringSubmatch(readFile(t, "README.md"), -1) {
		configs = append(configs, block[1])
	}
	told := 0
	for _, config := range configs {
		for _, b := range examine(t, config, env...).Blocks {
			for _, c := range b.Checks {
				if c["check"] == "callback" && c["status"] != "pass" {
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

// TestDoctorConfig: a config that does not load is told as caddy validate tells it,
// and files are found and read as Caddy's own commands do.
func TestDoctorConfig(t *testing.T) {
	good := strings.ReplaceAll(standIn(t, func(http.ResponseWriter, *http.Request) {}), testSecret, "{env.DOCTOR_SECRET}")
	for what, bad := range map[string]string{
		"syntax":             strings.ReplaceAll(good, "issuer ", "isuer "),
		"a missing variable": good,
		"a missing value":    strings.ReplaceAll(good, "client_id the-client", ""),
		"another module":     good + "\nhttp://localhost:9998 {\nreverse_proxy {\ndynamic nonsense\n}\n}",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		r := runCaddy(t, dir, nil, "aventus-auth", "doctor")
		validate := runCaddy(t, dir, nil, "validate")
		message := strings.TrimSuffix(strings.TrimPrefix(r.stderr, "Error: "), "\n")
		quoted, _ := json.Marshal(message)
		if r.status != 1 || r.stdout != "" || message == "" || !strings.Contains(validate.stderr, string(quoted)) {
			t.Errorf("%s: status %d, %q %q, and caddy validate says %s", what, r.status, r.stdout, r.stderr, validate.stderr)
		}
	}

	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(good), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	write("config.json", string(adapted))
	write("no-json", good)
	write("none", "http://localhost:9999 {\nrespond hi\n}")
	write("env", "# comment\nOTHER=x\n")
	write("more.env", "export DOCTOR_SECRET=\"s\"\n")
	write("bad.env", "nonsense")
	envs := []string{"--envfile", "env", "--envfile", "more.env"}
	for _, tc := range []struct {
		args   []string
		stdout bool
		stderr string
	}{
		{nil, false, "Error: input file required when there is no Caddyfile in current directory (use --config flag)\n"},
		{[]string{"--config", "none", "--adapter", "caddyfile"}, false, "Error: there is no aventus_auth in this config\n"},
		{[]string{"--config", "not-there"}, false, "Error: reading config from file: open not-there: no such file or directory\n"},
		{append([]string{"--config", "config.json"}, envs...), true, ""},
		{append([]string{"-c", "no-json", "-a", "caddyfile"}, envs...), true, ""},
		{[]string{"-c", "config.json", "--envfile", "not-there"}, false, "Error: loading additional environment variables: reading environment file: open not-there: no such file or directory\n"},
		{[]string{"-c", "config.json", "--envfile", "bad.env"}, false, "Error: loading additional environment variables: parsing environment file: can't parse line 1; line should be in KEY=VALUE format\n"},
	} {
		r := runCaddy(t, dir, nil, append([]string{"aventus-auth", "doctor"}, tc.args...)...)
		if r.status != 1 || r.stderr != tc.stderr || (r.stdout != "") != tc.stdout {
			t.Errorf("%q: status %d, it printed %s%q, want %q", tc.args, r.status, r.stdout, r.stderr, tc.stderr)
		}
	}
}

// TestDoctorLeavesCaddyAlone: what validating a config makes (log files, the local
// certificate authority) may have the wrong owner, and is not made.
func TestDoctorLeavesCaddyAlone(t *testing.T) {
	dir := t.TempDir()
	before := filesBelow(t, dir)
	config := "{\nstorage file_system " + filepath.Join(dir, "storage") + "\nlog {\noutput file " + filepath.Join(dir, "log") + "\n}\n}\n" +
		strings.ReplaceAll(standIn(t, func(http.ResponseWriter, *http.Request) {}), "http://localhost:9999", "https://localhost:9999")
	doctorOf(t, config, "TMPDIR="+dir).expect(t, 1, map[string]string{"storage": "pass ", "callback": "pass "})
	if after := filesBelow(t, dir); !slices.Equal(before, after) {
		t.Errorf("it left %q", after)
	}
}

// TestDoctorTerminal: on a terminal there are marks, and what is waited for.
func TestDoctorTerminal(t *testing.T) {
	var out, progress strings.Builder
	d := &doctor{out: &out, progress: &progress, isTerminal: true}
	for _, f := range []aventus.Finding{{Status: "pass", Detail: "a"}, {Status: "warn", Detail: "b", Next: "do"}, {Status: "fail", Detail: "c", Next: "do this"}, {Status: "skip", Detail: "d"}} {
		d.ask(&d.report.Checks, "dns", "x", func() aventus.Finding { return f })
	}
	const want = "  ✓ dns        x: a\n  ! dns        x: b\n               → do\n  ✗ dns        x: c\n               → do this\n  - dns        x: d\n"
	if out.String() != want {
		t.Errorf("it prints\n%s, want\n%s", &out, want)
	}
	if want := strings.Repeat("  ... dns\r         \r", 4); progress.String() != want {
		t.Errorf("progress %q, want %q", &progress, want)
	}
}
