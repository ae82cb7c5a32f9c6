package aventusauth

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// TestPlantedFaults: whatever is wrong with a config, or with the world around it, is named where the operator
// looks first, with what to do about it. What the doctor finds is in its output; what keeps a config from loading,
// in the error of `caddy validate` and the doctor alike.
func TestPlantedFaults(t *testing.T) {
	w := newWorld(t, setup{block: "verify_token\nbackchannel_logout /ended", issuer: func(s *aventustest.Server) {
		s.Audiences = []string{"https://api.example.com/"}
	}})
	storage := "storage file_system " + filepath.Join(w.dir, "storage")
	replaced := func(old, new string) func(*testing.T) string {
		return func(t *testing.T) string {
			config := strings.ReplaceAll(w.config, old, new)
			if config == w.config {
				t.Errorf("there is no %q in the config", old)
			}
			return config
		}
	}
	broken := standIn(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusInternalServerError)
	})
	block := func(matcher, further string) string {
		return "aventus_auth " + matcher + " {\nclient_id one\nclient_secret s\n" +
			"redirect_uri https://site.example.com/oauth2/callback\n" + further + "\n}\n"
	}
	site := func(body string) func(*testing.T) string {
		return func(*testing.T) string { return "https://site.example.com {\n" + body + "\n}\n" }
	}
	damaged := func(t *testing.T) string {
		root := t.TempDir()
		path := filepath.Join(root, keyring.File)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(path, []byte(`{"keys":`), 0o600); err != nil {
			t.Error(err)
		}
		return strings.ReplaceAll(w.config, storage, "storage file_system "+root)
	}
	runs := newAtOnce()
	for what, fault := range map[string]struct {
		config        func(*testing.T) string
		names, remedy string
	}{
		// The config does not load.
		"an unset variable": {replaced("{env.TEST_CLIENT_SECRET}", "{env.NOT_SET}"),
			"client_secret: {env.NOT_SET} is not set", ", at Caddyfile:"},
		"a misspelt subdirective": {replaced("issuer ", "isuer "),
			"unrecognized subdirective isuer", "did you mean issuer?"},
		"a comma in a scope": {replaced("scope openid profile", "scope openid,profile"),
			"openid,profile\" is not a scope", "several are written as separate words"},
		"a wildcard as a host": {replaced(w.site+"/oauth2/callback", "https://*.example.com/oauth2/callback"),
			"redirect_uri has a host that is no name or address", "each host is written out"},
		"http on the network": {replaced(w.site+"/oauth2/callback", "http://app.example.com/oauth2/callback"),
			"redirect_uri must be an https URL", "loopback"},
		"no audience to verify": {replaced("audience https://api.example.com/", ""),
			"verify_token needs an audience", "Caddyfile:"},
		"two paths in one": {replaced("backchannel_logout /ended", "logout /oauth2/callback"),
			"/oauth2/callback", "Caddyfile:"},
		"a short key": {replaced("verify_token", "session {\nkey c2hvcnQ\n}"), "session key", "32 bytes"},
		"a variable of Caddy's that is not set": {replaced("{env.TEST_CLIENT_SECRET}", "{$NOT_SET}"),
			"client_secret takes one argument, and {$NAME} is none where that variable is not set", "Caddyfile:"},
		"a variable as in a shell": {replaced("{env.TEST_CLIENT_SECRET}", "${TEST_CLIENT_SECRET}"),
			"client_secret: unknown or empty placeholder; write {env.NAME}", ", at Caddyfile:"},
		"a cookie's domain as a host": {replaced("verify_token", "hosts .example.com"),
			"hosts takes *.example.com for the names below a domain", "Caddyfile:"},
		"logout tokens without openid": {replaced("scope openid profile", "scope profile"),
			"backchannel_logout needs the scope openid", "Caddyfile:"},

		// The authorization server fails. TestDoctorFinds has the other faults there, with each check's verdict.
		"keys that answer 5xx": {func(*testing.T) string {
			return strings.ReplaceAll(broken, "issuer", "audience a\nverify_token\nissuer")
		}, "FAIL jwks", "the authorization server is down for now"},

		// The routes and sites are not as they are meant.
		"a site that is not the redirect URI's": {func(*testing.T) string {
			return "https://site.example.com, https://app.example.com {\n" + block("", "") + "}\n"
		}, "who signs in there comes back to site.example.com", "hosts"},
		"a host that is not listed": {func(*testing.T) string {
			return "https://site.example.com, https://a.example.com, https://b.example.com {\n" +
				block("", "hosts a.example.com") + "}\n"
		}, "is neither the host of redirect_uri nor in hosts", "b.example.com"},
		"another port than the redirect URI's": {func(*testing.T) string {
			return "https://site.example.com:8443 {\n" + block("", "") + "}\n"
		}, "does not listen", "port"},
		"a redirect before the callback": {site("redir https://new.example.com{uri}\n" + block("", "")),
			"answers before aventus_auth sees it", "put aventus_auth before it"},
		"a handle without the callback": {site("handle /members/* {\n" + block("", "") +
			"}\nhandle {\nfile_server\n}"),
			"stands in leaves /oauth2/callback out", "take aventus_auth out of it"},
		"a page without what is below it": {site(block("/admin", "") + "file_server"),
			"what is below /admin/ is open", "/admin/*"},
		"what is below a page without the page": {site(block("/admin/*", "") + "reverse_proxy localhost:1"),
			"/admin, without a slash, is open to everybody", "have the matcher take /admin and /admin/*"},
		"a wrong order": {func(*testing.T) string {
			return "{\norder aventus_auth last\n}\nhttps://site.example.com {\n" + block("", "") + "file_server\n}\n"
		}, "file_server answers first", "the global option order"},
		"error routes with what is protected": {site(block("", "") + "file_server\nhandle_errors {\nfile_server\n}"),
			"could answer a refused request with what it asked for", "rewrite"},
		"a second block without accept_bearer": {
			site(block("", "audience a") + block("/api/*", "audience a\naccept_bearer") + "file_server"),
			"API clients meet another aventus_auth there", "give each block that a request meets accept_bearer"},
		"two applications in one cookie": {
			site(block("", "") + strings.Replace(block("/api/*", ""), "client_id one", "client_id two", 1) +
				"file_server"),
			"each login replaces the other's session", "give one of them a session { name } of its own"},
		"another scheme than the redirect URI's": {func(*testing.T) string {
			return "http://site.example.com {\n" + block("", "") + "file_server\n}\n"
		}, "its site does not listen where redirect_uri says: https", "scheme"},
		"a named route that loses its gate": {func(*testing.T) string {
			return "&(it) {\nheader X-A b\n" + block("", "") + "}\nhttps://site.example.com {\ninvoke it\n}\n"
		}, "Caddy has kept one, headers, and no aventus_auth", "write route { … } around them"},
		"redirects for what is no page": {site(block("", "unauthenticated redirect") + "file_server"),
			"redirect sends API clients, scripts and tools to the sign-in page", "use auto"},
		"a variable as in another shell": {replaced("{env.TEST_CLIENT_SECRET}", "$TEST_CLIENT_SECRET"),
			"client_secret: looks like a variable of a shell, which Caddy does not replace", "write {env.NAME}"},
		"a domain that is no address": {replaced("verify_token", "require_claim email example.com"),
			`require_claim: email "example.com" is no address`, "write *@example.com for all of a domain"},
		"logout tokens for a third party": {replaced("client_id the-client", "client_id tpc_theirs"),
			"third-party clients (tpc_...) are sent no logout tokens", "take backchannel_logout out"},

		// The storage fails.
		"a storage that cannot be written": {replaced(storage, `storage odd "store" `+t.TempDir()),
			"FAIL storage", "see that it is up"},
		"a storage without locks": {replaced(storage, `storage odd "free locks" `+t.TempDir()),
			"one gets it: two instances hold it", "may make two sealing keys"},
		"a storage that lists nothing": {replaced(storage, `storage odd "list" `+t.TempDir()),
			"a listing shows what was stored", "nobody can sign in"},
		"a damaged key file": {damaged, "aventus_auth/keys.json is damaged", "restore it, or delete it"},
	} {
		runs.Go(func() {
			r := doctorOf(t, fault.config(t), "TEST_CLIENT_SECRET="+testSecret)
			said := strings.Join(strings.Fields(r.stdout+r.stderr), " ")
			if !strings.Contains(said, fault.names) || !strings.Contains(said, fault.remedy) {
				t.Errorf("%s: it does not say %q and %q but\n%s%s", what, fault.names, fault.remedy,
					r.stdout, r.stderr)
			}
		})
	}
	runs.Wait()
}
