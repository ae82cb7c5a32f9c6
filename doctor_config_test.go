package aventusauth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// examined is the document of --json.
type examined struct {
	OK     bool
	Blocks []struct {
		ClientID     string   `json:"client_id"`
		RedirectURIs []string `json:"redirect_uris"`
		LogoutURIs   []string `json:"backchannel_logout_uris"`
		ReturnURLs   []string `json:"logout_urls"`
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
		s.Clients = append(s.Clients, aventustest.Client{
			ID: "staff", Secret: testSecret, RedirectURIs: []string{
				"https://a.example.com/cb", "https://b.example.com/cb",
			},
		})
	}})
	staff := strings.NewReplacer("the-client", "staff", w.site+"/oauth2/callback",
		"https://{http.request.host}/cb").Replace(w.directive("", ""))
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
	if one.ClientID != "the-client" || one.Count != 2 || one.Issuer != w.issuer.Issuer ||
		!slices.Equal(one.RedirectURIs, []string{w.site + "/oauth2/callback"}) {
		t.Errorf("%+v", one)
	}
	if two.ClientID != "staff" || two.Count != 3 || !slices.Equal(two.RedirectURIs, []string{
		"https://*.example.org/cb", "https://a.example.com/cb", "https://b.example.com/cb",
		"https://{http.request.host}/cb",
	}) {
		t.Errorf("%+v", two)
	}
	summary := func(checks []map[string]string) (all []string) {
		for _, c := range checks {
			all = append(all, c["check"]+" "+c["status"])
		}
		return all
	}
	if got, want := summary(doc.Checks), []string{
		"dns pass", "connect pass", "clock pass", "jwks pass", "storage pass", "keys pass",
	}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := summary(two.Checks), []string{
		"authorize skip", "authorize pass", "authorize pass", "authorize skip", "token pass",
		"protects pass", "protects pass", "protects pass", "callback pass", "callback pass", "callback pass",
		"callback skip",
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
	// Of what is alike in all, one line says it.
	r := doctorOf(t, "https://a.example.com {\n"+staff+"\n}\nhttps://a.example.com:8443 {\n"+staff+"\n}")
	if n := strings.Count(r.stdout, " protects "); n != 1 || !strings.Contains(r.stdout, "\n  2 blocks are alike.\n") {
		t.Errorf("%d lines say what is protected:\n%s%s", n, r.stdout, r.stderr)
	}
}

// TestDoctorIPv6: an address has brackets in what is to be registered, in what the
// authorization server is asked for, and wherever a host is named.
func TestDoctorIPv6(t *testing.T) {
	const local, public = "https://[::1]:8443/cb", "https://[2001:db8::1]:8443/cb"
	w := newWorld(t, setup{issuer: func(s *aventustest.Server) {
		s.Clients[0].RedirectURIs = append(s.Clients[0].RedirectURIs, local, public)
	}})
	block := strings.Replace(w.directive("", ""), w.site+"/oauth2/callback", "https://{host}:8443/cb", 1)
	doc := examine(t, "https://[::1]:8443, https://[2001:DB8::1]:8443 {\ntls internal\n"+block+"\n}")
	if len(doc.Blocks) != 1 || !slices.Equal(doc.Blocks[0].RedirectURIs, []string{public, local}) {
		t.Fatalf("%+v", doc)
	}
	for _, c := range doc.Blocks[0].Checks {
		if c["status"] != "pass" {
			t.Errorf("%v", c)
		}
	}
	var sent []string
	for _, asked := range w.issuer.AuthorizeRequests() {
		sent = append(sent, asked.Get("redirect_uri"))
	}
	if !slices.Equal(sent, []string{public, local}) {
		t.Errorf("asked for %q", sent)
	}
	if got := w.issuer.TokenRequests()[0].Params["redirect_uri"]; got != public {
		t.Errorf("the token endpoint was sent %s", got)
	}

	// A fixed one, for which there is no site, and a server that has an address.
	port := freePort(t)
	block = strings.NewReplacer(w.site+"/oauth2/callback", public, w.issuer.Issuer, "http://[::1]:"+port+
		"/").Replace(w.directive("", ""))
	doc = examine(t, "https://site.example.com:8443 {\ntls internal\n"+block+"\n}")
	targets := make(map[string]string)
	for _, c := range slices.Concat(doc.Checks, doc.Blocks[0].Checks) {
		targets[c["check"]] = c["target"] + " " + c["detail"]
	}
	for check, want := range map[string]string{
		"dns": "[::1] ", "connect": "[::1]:" + port + " ", "callback": public +
			" no site of this config has the name [2001:db8::1]",
	} {
		if !strings.HasPrefix(targets[check], want) {
			t.Errorf("%s: %q, want %q", check, targets[check], want)
		}
	}

	// Sites that have addresses, of which none is the redirect URI's host and port, or can be listed in hosts.
	block = strings.Replace(w.directive("", "accept_bearer"), w.site+"/oauth2/callback", public, 1)
	doc = examine(t, "https://[2001:db8::1]:8444, https://[2001:db8::2]:8444 {\ntls internal\n"+block+
		"\nfile_server\nhandle_errors {\nfile_server\n}\n}")
	for _, c := range doc.Blocks[0].Checks {
		if said := c["target"] + c["detail"] + c["next"]; strings.Contains(said, "hosts 2001:db8::2") ||
			strings.Contains(strings.ReplaceAll(said, "[2001:db8::", ""), "2001:db8::") {
			t.Errorf("%v", c)
		}
	}
}

// TestDoctorCallback: whether something stands before the callback is told where it
// can be told, and not made up where it cannot.
func TestDoctorCallback(t *testing.T) {
	block := func(matcher, client, further string) string {
		return "aventus_auth " + matcher + " {\nclient_id " + client +
			"\nclient_secret s\nredirect_uri https://site.example.com/oauth2/callback\n" + further + "\n}\n"
	}
	one := block("", "one", "")
	runs := newAtOnce()
	// A route that does nothing for some, in a config that no Caddyfile makes.
	grouped := func(how string) string {
		return `{"apps":{"http":{"servers":{"s":{"listen":[":443"],"routes":[
			{"match":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}],"handle":[{"handler":"headers"}],` + how + `},
			{"handle":[{"handler":"aventus_auth","client_id":"one","client_secret":"s",
				"redirect_uri":"https://site.example.com/oauth2/callback"}],"group":"g"}
		]}}}}}`
	}
	for _, tc := range []struct{ what, site, want string }{
		{"nothing before it", one + "respond hi", "pass comes to aventus_auth"},
		{"a matcher that leaves it out", block("/members/*", "one", "") + "respond hi", "pass "},
		{"headers and encodings", "header X-A b\nencode gzip\nlog_append a b\nrequest_body {\nmax_size 1MB\n}\n" +
			one, "pass "},
		{"a proxy for other paths", "route {\nreverse_proxy /api/* localhost:1\n" + one + "}", "pass "},
		{"a proxy for its path", "route {\nreverse_proxy /oauth2/* localhost:1\n" + one + "}",
			"fail reverse_proxy answers before aventus_auth sees it"},
		{"a redirect of all", one + "redir https://new.example.com{uri}",
			"fail static_response (respond, redir or abort) answers before"},
		{"a redirect of other hosts",
			"@other not host site.example.com\nredir @other https://site.example.com{uri}\n" + one, "pass "},
		{"a redirect of all but two paths",
			"@x {\nnot path /oauth2/*\nnot path /api/*\n}\nredir @x https://new.example.com\n" + one, "pass "},
		{"files", "route {\nfile_server\n" + one + "}", "fail file_server answers before"},
		{"files that may not be there", "route {\nfile_server {\npass_thru\n}\n" + one + "}",
			"skip cannot be told: it depends on what file_server does"},
		{"an error", "route {\nerror /oauth2/* 410\n" + one + "}", "fail error answers before"},
		{"another handle", "handle /oauth2/* {\nrespond hi\n}\nhandle {\n" + one + "}",
			"fail static_response (respond, redir or abort) answers before"},
		{"a handle that leaves it to another", "handle /members/* {\n" + one + "}\nhandle {\nfile_server\n}",
			"fail file_server answers: the handle or route that aventus_auth stands in leaves /oauth2/callback out"},
		{"a handle that leaves it out", "handle /members/* {\n" + one + "}", "fail nothing answers"},
		{"a handle that has it", "handle_path /oauth2/* {\n" + one + "}\nhandle {\nrespond hi\n}", "pass "},
		{"a rewrite", "try_files {path} /index.html\n" + one + "file_server", "pass "},
		{"a rewrite to where something else is", "rewrite /oauth2/* /app\nroute {\nreverse_proxy /app localhost:1\n" +
			one + "}", "fail reverse_proxy answers before"},
		{
			"a map and variables",
			"map {path} {to} {\n/oauth2/callback /app\ndefault /\n}\nvars there {to}\nroute {\nrewrite " +
				"{vars.there}\nrespond /app hi\n" + one + "}",
			"fail static_response (respond, redir or abort) answers before",
		},
		{"another block that leaves it out", block("/staff/*", "two", "") + one, "pass "},
		{"another block that has the same callback", block("", "two", "") + one, "pass "},
		{"another block with the site's callback elsewhere",
			strings.ReplaceAll(block("", "two", ""), "/oauth2/", "/staff/") + one,
			"fail another aventus_auth (client_id two) answers before"},
		{"another block that has the path for another host",
			strings.ReplaceAll(block("/staff/*", "two", ""), "site.example.com", "other.example.com") + one,
			"fail another aventus_auth (client_id two) answers before"},
		{"the first of two rewrites", "rewrite /oauth2/callback /app\nrewrite * /other\nroute {\nrespond /other hi\n" +
			one + "}", "pass "},
		{"another block that lets everybody pass",
			strings.ReplaceAll(block("", "two", "unauthenticated pass"), "/oauth2/", "/staff/") + one, "pass "},
		{
			"another block's logout", strings.ReplaceAll(block("/staff/*", "two", "logout /oauth2/callback"),
				"uri https://site.example.com/oauth2/", "uri https://site.example.com/staff/") + one,
			"fail another aventus_auth (client_id two) answers before",
		},
		{"another block for some", "@some remote_ip 10.0.0.0/8\n" +
			strings.ReplaceAll(block("@some", "two", ""), "/oauth2/", "/staff/") + one,
			"skip cannot be told: it depends on the matcher remote_ip"},
		{"a matcher on the visitor", "@some remote_ip 10.0.0.0/8\nredir @some https://new.example.com\n" + one,
			"skip cannot be told: it depends on the matcher remote_ip"},
		{"a matcher on the visitor, and on another path",
			"@some {\nremote_ip 10.0.0.0/8\npath /admin/*\n}\nredir @some https://new.example.com\n" + one, "pass "},
		{"a header for some", "@some remote_ip 10.0.0.0/8\nheader @some X-A b\n" + one, "pass "},
		{"a password", "route {\nbasic_auth {\nada $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\n" +
			one + "}", "skip cannot be told: it depends on what authentication does"},
		{"another login", "route {\nforward_auth localhost:1 {\nuri /auth\n}\n" + one + "}",
			"skip cannot be told: it depends on what reverse_proxy does"},
	} {
		runs.Go(func() { expectCallback(t, tc.what, "https://site.example.com {\n"+tc.site+"\n}", tc.want) })
	}
	for _, tc := range []struct{ what, config, want string }{
		{"another name", "https://www.example.com {\n" + one + "}",
			"warn no site of this config has the name site.example.com"},
		{"another name, and a site for all others", "https://www.example.com {\n" + one +
			"}\nhttps:// {\nrespond hi\n}", "warn no site of this config has the name"},
		{"any name", ":8080 {\n" + one + "}", "pass "},
		{"any name, and a handle that leaves it out", ":8080 {\nhandle /members/* {\n" + one + "}\n}",
			"fail nothing answers"},
		{"routes that nobody knows", `{"apps":{"http":{"servers":{"s":{"listen":[":443"],"routes":[{"handle":[
			{"handler":"aventus_auth_test_around","routes":[{"handle":[{"handler":"aventus_auth","client_id":"one",
				"client_secret":"s","redirect_uri":"https://site.example.com/oauth2/callback"}]}]}]}]}}}}}`,
			"skip cannot be told: it depends on what aventus_auth_test_around does"},
		{"another port than the block's", "https://site.example.com:8443 {\n" + one +
			"}\nhttps://site.example.com {\nrespond hi\n}",
			"fail static_response (respond, redir or abort) answers before"},
		{"a port that something in front changes", "http://site.example.com:8080 {\n" + one + "}", "pass "},
		{"a protocol that something in front changes",
			"http://site.example.com:8080 {\n@http protocol http\nredir @http https://{host}{uri}\n" + one + "}",
			"skip cannot be told: it depends on the matcher protocol"},
		{
			"a protocol", "http://site.example.com, https://site.example.com {\n@http protocol http\nredir @http " +
				"https://{host}{uri}\n" + one + "}", "pass ",
		},
		{"two addresses", "https://site.example.com {\nbind 127.0.0.1\n" + one +
			"}\nhttps://other.example.com {\nbind 127.0.0.2\nrespond hi\n}", "pass "},
		{"the block at one of two addresses",
			"https://site.example.com {\nbind 127.0.0.1\nredir https://new.example.com\n" + one +
				"}\nhttps:// {\nbind 127.0.0.2\n" + one + "}", "pass "},
		{
			"a good block at another port",
			"https://site.example.com {\nbind 127.0.0.1\nredir https://new.example.com\n" + one +
				"}\nhttps://other.example.com {\nbind 127.0.0.2\nrespond hi\n}\nhttp://site.example.com:8080 {\n" +
				one + "}", "fail static_response",
		},
		{"a redirect at one of several sites",
			"https://another.example.com {\nrespond hi\n}\nhttps://site.example.com {\n" + one +
				"redir https://new.example.com\n}", "fail static_response"},
		{"the block at all other sites", "https://site.example.com {\nheader X-A b\n}\nhttps:// {\n" + one + "}",
			"fail nothing answers"},
		{"for some, a group's one route", grouped(`"group":"g"`),
			"skip cannot be told: it depends on the matcher remote_ip"},
		{"for some, the last route", grouped(`"terminal":true`),
			"skip cannot be told: it depends on the matcher remote_ip"},
		{"a named route", "&(it) {\n" + one + "}\nhttps://site.example.com {\ninvoke it\n}", "pass "},
		{"a named route in another", "&(it) {\n" + one + "}\n&(more) {\nroute {\nheader X-A b\ninvoke it\n}\n}\n" +
			"https://site.example.com {\ninvoke more\n}", "pass "},
		{"something before it in a named route", "&(it) {\nroute {\nrespond hi\n" + one + "}\n}\n" +
			"https://site.example.com {\ninvoke it\n}", "fail static_response"},
		{"a named route that invokes itself", "&(it) {\nroute {\ninvoke it\n" + one + "}\n}\n" +
			"https://site.example.com {\ninvoke it\n}", "skip cannot be told: it depends on what invoke does"},
		{"a named route that answers", "&(it) {\nrespond hi\n}\n" +
			"https://site.example.com {\nroute {\ninvoke it\n" + one + "}\n}", "fail static_response"},
	} {
		runs.Go(func() { expectCallback(t, tc.what, tc.config, tc.want) })
	}
	runs.Wait()
}

// TestDoctorNamedRoutes: of a named route whose directives have no matcher, Caddy keeps the first one. Where a gate
// was among them, the doctor says so, also if it is the only one of the config.
func TestDoctorNamedRoutes(t *testing.T) {
	gate := "aventus_auth {\nclient_id one\nclient_secret s\nredirect_uri https://{host}/cb\n}\n"
	sites := "https://a.example.com {\ninvoke it\n}\nhttps://b.example.com:8443 {\ninvoke it\n}\n"
	another := "https://c.example.com {\n" + gate + "}\n"
	const offline = "HTTPS_PROXY=http://127.0.0.1:1"
	for _, tc := range []struct{ what, named, want string }{
		{"the gate is lost", "header X-A b\n" + gate + "respond hi\n",
			"FAIL named Caddyfile: of the 3 directives in the named route it, Caddy has kept one, headers, " +
				"and no aventus_auth next: write route { … } around them"},
		{"the gate in a handle is lost", "header X-A b\nhandle {\n" + gate + "}\n",
			"FAIL named Caddyfile: of the 2 directives in the named route it, Caddy has kept one, headers, and no " +
				"aventus_auth"},
		{"the gate alone is kept", gate + "respond hi\n",
			"FAIL named Caddyfile: of the 2 directives in the named route it, Caddy has kept aventus_auth alone " +
				"next: write route { … } around them"},
		{"in a route", "route {\nheader X-A b\n" + gate + "respond hi\n}\n", ""},
		{"with a matcher", "@a path /a\nheader @a X-A b\n" + gate + "respond hi\n", ""},
		{"the gate and no more", gate, ""},
		{"no gate", "header X-A b\nrespond hi\n", ""},
	} {
		r := doctorOf(t, "&(it) {\n"+tc.named+"}\n"+sites+another, offline)
		if got := r.line("named"); got != tc.want && (tc.want == "" || !strings.HasPrefix(got, tc.want)) {
			t.Errorf("%s: it says %q, want %q\n%s%s", tc.what, got, tc.want, r.stdout, r.stderr)
		}
	}
	r := doctorOf(t, "&(it) {\nheader X-A b\n"+gate+"}\n"+sites, offline)
	const want = "Error: there is no aventus_auth in this config: " +
		"of the 2 directives in the named route it, Caddy has kept one, headers"
	if r.status != 1 || r.stdout != "" || !strings.HasPrefix(r.stderr, want) {
		t.Errorf("status %d, %s%s", r.status, r.stdout, r.stderr)
	}
	// What is to be registered for it is known where it is invoked.
	doc := examine(t, "&(it) {\nroute {\n"+gate+"respond hi\n}\n}\n"+sites, offline)
	uris := []string{"https://a.example.com/cb", "https://b.example.com/cb"}
	if got := doc.Blocks[0].RedirectURIs; !slices.Equal(got, uris) {
		t.Errorf("to be registered: %q", got)
	}
}

// atOnce runs several commands at once. Each waits for the storage's locks for most of its time.
type atOnce struct {
	sync.WaitGroup
	slots chan struct{}
}

func newAtOnce() *atOnce { return &atOnce{slots: make(chan struct{}, 8)} }

func (a *atOnce) Go(f func()) {
	a.WaitGroup.Go(func() {
		a.slots <- struct{}{}
		defer func() { <-a.slots }()
		f()
	})
}

// expectCallback examines a config without a network, and compares what is said of
// the callback of client one.
func expectCallback(t *testing.T, what, config, want string) {
	t.Helper()
	doc := examine(t, config, "HTTPS_PROXY=http://127.0.0.1:1")
	status, detail, _ := strings.Cut(want, " ")
	for _, b := range doc.Blocks {
		if c := b.Checks[len(b.Checks)-1]; b.ClientID != "one" {
			continue
		} else if c["check"] != "callback" || c["status"] != status || !strings.HasPrefix(c["detail"], detail) {
			t.Errorf("%s: %v, want %s\n%s", what, c, want, config)
		}
		return
	}
	t.Errorf("%s: there is no such block in %+v", what, doc)
}

// TestDoctorConfig: a config that does not load is told as caddy validate tells it,
// and files are found and read as Caddy's own commands do.
func TestDoctorConfig(t *testing.T) {
	good := strings.ReplaceAll(standIn(t, func(http.ResponseWriter, *http.Request) {}), testSecret,
		"{env.DOCTOR_SECRET}")
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
			t.Errorf("%s: status %d, %q %q, and caddy validate says %s", what, r.status, r.stdout, r.stderr,
				validate.stderr)
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
		{
			nil, false, "Error: input file required when there is no Caddyfile in current directory (use " +
				"--config flag)\n",
		},
		{[]string{"--config", "none", "--adapter", "caddyfile"}, false,
			"Error: there is no aventus_auth in this config\n"},
		{[]string{"--config", "not-there"}, false,
			"Error: reading config from file: open not-there: no such file or directory\n"},
		{append([]string{"--config", "config.json"}, envs...), true, ""},
		{append([]string{"-c", "no-json", "-a", "caddyfile"}, envs...), true, ""},
		{[]string{"-c", "config.json", "--envfile", "not-there"}, false,
			"Error: loading additional environment variables: reading environment file: open not-there: no such " +
				"file or directory\n"},
		{[]string{"-c", "config.json", "--envfile", "bad.env"}, false,
			"Error: loading additional environment variables: parsing environment file: can't parse line 1; line " +
				"should be in KEY=VALUE format\n"},
	} {
		r := runCaddy(t, dir, nil, append([]string{"aventus-auth", "doctor"}, tc.args...)...)
		if r.status != 1 || r.stderr != tc.stderr || (r.stdout != "") != tc.stdout {
			t.Errorf("%q: status %d, it printed %s%q, want %q", tc.args, r.status, r.stdout, r.stderr, tc.stderr)
		}
	}
}

// TestDoctorErrorRoutes: the doctor names error routes that could show what is
// protected, and says what to write instead.
func TestDoctorErrorRoutes(t *testing.T) {
	block := "aventus_auth {\nclient_id one\nclient_secret s\nredirect_uri https://{host}/oauth2/callback\n}\n" +
		"file_server\n"
	for routes, want := range map[string]string{
		"":                                "",
		"handle_errors {\nfile_server\n}": "warn file_server could answer a refused request with what it asked for",
		"handle_errors {\nreverse_proxy localhost:1\n}": "warn reverse_proxy could answer",
		"handle_errors 404 {\nfile_server\n" +
			"}": "pass they show nothing that is protected",
		"handle_errors 403 {\nfile_server\n}": "warn file_server",
		"handle_errors 421 {\nfile_server\n}": "warn file_server",
		"handle_errors 403 {\n@claim vars {http.aventus_auth.error} insufficient_claim\nhandle @claim {\n" +
			"file_server\n}\nrespond no\n}": "warn file_server",
		"handle_errors {\nrewrite * /{err.status_code}.html\nfile_server\n}": "pass they show nothing",
	} {
		doc := examine(t, "https://a.example.com {\n"+block+routes+"\n}\nhttps://b.example.com {\nrespond hi\n"+
			"handle_errors {\nfile_server\n}\n}", "HTTPS_PROXY=http://127.0.0.1:1")
		checks := doc.Blocks[0].Checks
		got := checks[len(checks)-1]
		if want == "" {
			// The other site's do not count.
			want = "pass they show nothing"
		}
		status, detail, _ := strings.Cut(want, " ")
		if got["check"] != "errors" || got["target"] != "a.example.com" || got["status"] != status ||
			!strings.HasPrefix(got["detail"], detail) {
			t.Errorf("%s: %v, want %s", routes, got, want)
		}
		if remedy := "rewrite * /errors/{err.status_code}.html?"; status == "warn" &&
			!strings.HasSuffix(got["next"], remedy) {
			t.Errorf("%s: it says to do %q", routes, got["next"])
		}
	}
	// A request for the one host or the other may come to a wildcard's.
	for site, status := range map[string]string{"a.example.com": "pass", "*.example.com": "warn"} {
		doc := examine(t, "https://"+site+" {\n"+block+"}\nhttps://b.example.com {\nrespond hi\nhandle_errors {\n"+
			"file_server\n}\n}", "HTTPS_PROXY=http://127.0.0.1:1")
		checks := doc.Blocks[0].Checks
		if got := checks[len(checks)-1]; got["check"] != "errors" || got["status"] != status {
			t.Errorf("%s: %v, want %s", site, got, status)
		}
	}
	doc := examine(t, "https://a.example.com {\n"+block+"}", "HTTPS_PROXY=http://127.0.0.1:1")
	if checks := doc.Blocks[0].Checks; checks[len(checks)-1]["check"] != "callback" {
		t.Errorf("without error routes: %v", checks)
	}
}

// TestDoctorUnguardedErrors: the doctor names what may fail before a request comes to the block, where the error
// routes could then answer with what was asked for. A block among them prevents it.
func TestDoctorUnguardedErrors(t *testing.T) {
	block := "aventus_auth {\nclient_id one\nclient_secret s\nredirect_uri https://{host}/oauth2/callback\n}\n"
	files := "handle_errors 404 413 {\nfile_server\n}"
	for _, c := range []struct{ inFront, routes, want string }{
		{"", files, ""},
		{"request_body {\nmax_size 10MB\n}", files, "max_size of request_body"},
		{"request_body {\nmax_size 10MB\n}", "handle_errors 413 {\n" + block + "file_server\n}", ""},
		{"request_body {\nmax_size 10MB\n}", "handle_errors 413 {\nrewrite * /large.html\nfile_server\n}", ""},
		{"try_files {path} =404", "handle_errors 404 {\nreverse_proxy localhost:1\n}", "try_files =404"},
		{"try_files {path} /index.html", files, ""},
		{"@v expression int({header.X-V}) > 1\nheader @v X-V new", files, "an expression"},
		{"error /old 404", files, ""}, // it comes behind the block
		{"route {\nerror /old 404\n}", files, ""},
		{"@office remote_ip 10.0.0.0/8\nlog_skip @office", files, "remote_ip over HTTP/3"},
		{"@others not client_ip 10.0.0.0/8\nheader @others X-V new", files, "client_ip over HTTP/3"},
		{"@office remote_ip 10.0.0.0/8\nrespond @office 204", files, ""}, // it comes behind the block
		{"request_body {\nmax_size 10MB\n}", "handle_errors {\nfile_server\n}", "file_server could answer a " +
			"refused request with what it asked for; it gets a line of text from aventus_auth, and not these error " +
			"pages; and max_size of request_body"},
	} {
		doc := examine(t, "https://a.example.com {\n"+c.inFront+"\n"+block+"file_server\n"+c.routes+"\n}\n"+
			"https://b.example.com {\nrequest_body {\nmax_size 1MB\n}\nrespond hi\n}",
			"HTTPS_PROXY=http://127.0.0.1:1")
		checks := doc.Blocks[0].Checks
		got := checks[len(checks)-1]
		want := "they show nothing that is protected"
		if c.want != "" {
			want = c.want + " may fail before aventus_auth sees a request"
		}
		if got["check"] != "errors" || !strings.HasPrefix(got["detail"], want) {
			t.Errorf("%s, %s: %v, want %s", c.inFront, c.routes, got, want)
		}
	}
}
