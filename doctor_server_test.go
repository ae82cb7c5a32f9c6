package aventusauth

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestDoctorTLS asks a server whose certificate is not trusted, is trusted, and is for
// another name.
func TestDoctorTLS(t *testing.T) {
	issuer := new(aventustest.Server)
	server := httptest.NewUnstartedServer(issuer)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are given up
	server.StartTLS()
	defer server.Close()
	issuer.Issuer = server.URL + "/"
	issuer.Clients = []aventustest.Client{
		{ID: "c", Secret: "s", RedirectURIs: []string{"https://site.example.com/cb"}},
	}
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Bytes: server.Certificate().Raw,
	}), 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(issuer string) string {
		return "https://site.example.com {\naventus_auth {\nclient_id c\nclient_secret s\nredirect_uri " +
			"https://site.example.com/cb\nissuer " + issuer + "\n}\n}"
	}
	doctorOf(t, config(issuer.Issuer)).expect(t, 1, map[string]string{
		"dns": "pass ", "connect": "FAIL certificate signed by unknown authority next: add its certificate authority",
		"clock": "skip ", "authorize": "skip ", "token": "skip ",
	})
	trusted := "SSL_CERT_FILE=" + authority
	doctorOf(t, config(issuer.Issuer), trusted).expect(t, 0, map[string]string{
		"connect": "pass its certificate is trusted, and good until " +
			server.Certificate().NotAfter.UTC().Format(time.DateOnly),
		"authorize": "pass answers with a page, as far as can be told its sign-in", "token": "pass ",
		"callback": "pass ",
	})
	doctorOf(t, config("https://localhost:"+port+"/"), trusted).expect(t, 1, map[string]string{
		"connect": "FAIL not localhost next: the certificate is for another name", "token": "skip ",
	})
	// What it can be asked through a proxy, it is asked there.
	doctorOf(t, strings.ReplaceAll(config("https://auth.example.com/"), "\nissuer",
		"\nverify_token\naudience a\nissuer"), "HTTPS_PROXY=http://user:"+testSecret+"@127.0.0.1:"+
		freePort(t)).expect(t, 1, map[string]string{
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
		{-50 * time.Second, "", 0, "WARN ahead of the server's next: set this machine's clock"},
		{50 * time.Second, "", 0, "WARN behind the server's next: set this machine's clock"},
		{2 * time.Minute, "", 1, "FAIL behind the server's next: set this machine's clock"},
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
		doctorOf(t, config).expect(t, tc.status, map[string]string{
			"clock": tc.want, "token": "pass ", "authorize": "pass ",
		})
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
			w.Header()["Location"] = []string{
				"http://evil.test/?error=server_error&error_description=" + url.QueryEscape(evil),
			}
			w.WriteHeader(http.StatusFound)
		case "/oauth/token":
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{
				"error": "invalid_client", "error_description": evil + " " + testSecret,
			})
		}
	})
	r := doctorOf(t, config)
	r.expect(t, 1, map[string]string{
		"authorize": "FAIL refuses logins: server_error: ?]0;owned??[2J",
		"token": "FAIL answered 401 invalid_client: ?]0;owned??[2J?31m??FAIL [redacted] next: the " +
			"authorization server refused the client's credentials",
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
		"authorize": "pass redirects to https://accounts.example.com/sign-in",
		"token":     "WARN gave a token for a code that was made up next: use this server for tests alone",
	})
}

// TestDoctorKeysOfTheSecond: a key set that cannot be had is a failure where any of the blocks that name it
// needs it, whichever is asked about first.
func TestDoctorKeysOfTheSecond(t *testing.T) {
	first := standIn(t, http.NotFound)
	second := strings.NewReplacer("9999", "9998", "issuer", "audience x\nverify_token\nissuer").Replace(first)
	doctorOf(t, first).expect(t, 1, map[string]string{"jwks": "skip "})
	doctorOf(t, first+"\n"+second).expect(t, 1, map[string]string{"jwks": "FAIL "})
	// Others' need of another key set is none of this one.
	elsewhere := strings.Replace(second, "issuer", "jwks_url http://127.0.0.1:"+freePort(t)+"/keys\nissuer", 1)
	if r := doctorOf(t, first+"\n"+elsewhere); !strings.Contains(r.stdout, "answered 404; no login here needs it\n") {
		t.Errorf("it printed\n%s%s", r.stdout, r.stderr)
	}
	swapped := strings.NewReplacer("9998", "9999", "9999", "9998").Replace(first + "\n" + second)
	doctorOf(t, swapped).expect(t, 1, map[string]string{"jwks": "FAIL "})
}
