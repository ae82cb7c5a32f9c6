package aventusauth

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// secret is something that nobody may see but those it is for.
type secret struct{ what, value string }

// A callback's URL holds these two, and Caddy logs URLs.
const (
	aCode  = "a code"
	aState = "a state"
)

func (s secret) inURLs() bool { return s.what == aCode || s.what == aState }

// heard is what a world has heard: secrets, and what the site answered.
type heard struct {
	mu      sync.Mutex
	secrets map[secret]bool
	pages   []answer
}

func (w *world) hearSecret(what, value string) {
	w.heard.mu.Lock()
	defer w.heard.mu.Unlock()
	if w.heard.secrets == nil {
		w.heard.secrets = make(map[secret]bool)
	}
	w.heard.secrets[secret{what, value}] = true
}

var isSealed = regexp.MustCompile("^[A-Za-z0-9_-]{70,}$")

// hear keeps an answer that a browser got, and notes what is secret in it.
func (w *world) hear(a answer) {
	if a.Request.Method == "raw" || strings.HasPrefix(a.Request.URL.String(), w.site) {
		w.heard.mu.Lock()
		w.heard.pages = append(w.heard.pages, a)
		w.heard.mu.Unlock()
	}
	for _, c := range a.Cookies() {
		w.hearSecret("the cookie "+c.Name, c.Value)
	}
	// What a test makes up is no secret, unless it is sealed, such as a cookie.
	u := a.location()
	if query, err := url.ParseQuery(u[strings.IndexByte(u, '?')+1:]); err == nil {
		w.hearSecret(aCode, query.Get("code"))
		w.hearSecret(aState, query.Get("state"))
	}
	if state := a.Request.URL.Query().Get("state"); isSealed.MatchString(state) {
		w.hearSecret(aState, state)
	}
}

// secrets returns all that is secret in a world by now.
func (w *world) secrets() []secret {
	w.heard.mu.Lock()
	all := slices.Collect(maps.Keys(w.heard.secrets))
	w.heard.mu.Unlock()
	for _, client := range w.issuer.Clients {
		all = append(all, secret{"the client's secret", client.Secret})
	}
	for _, r := range w.issuer.TokenRequests() {
		if !strings.ContainsAny(r.Params["code"], "<{") { // one that a test made up
			all = append(all, secret{aCode, r.Params["code"]})
		}
		all = append(all, secret{"a code verifier", r.Params["code_verifier"]}, secret{"a refresh token", r.Params["refresh_token"]})
	}
	for _, token := range w.issuer.Revoked() {
		all = append(all, secret{"a refresh token", token})
	}
	for _, h := range handlers() {
		for _, s := range h.opened.Values() {
			all = append(all, secret{"an access token", s.token()}, secret{"a refresh token", s.refresh})
			if s.handle != nil {
				all = append(all, secret{"the key of a record", string(s.handle.key[:])})
			}
		}
	}
	var file struct{ Keys []struct{ Secret []byte } }
	if content, err := os.ReadFile(filepath.Join(w.dir, "storage", "aventus_auth", "keys.json")); err == nil && json.Unmarshal(content, &file) == nil {
		for _, key := range file.Keys {
			all = append(all, secret{"a sealing key", string(key.Secret)})
		}
	}
	return all
}

// pieceSize is how much of a secret gives it away. Less could be there by chance.
const pieceSize = 16

// needles are the pieces that secrets are found by, in each form that they may have
// taken.
type needles map[[pieceSize]byte]string

func newNeedles(secrets []secret) needles {
	n := make(needles)
	// What is one of those that URLs hold is called that, whatever else it is.
	others := slices.DeleteFunc(slices.Clone(secrets), secret.inURLs)
	urls := slices.DeleteFunc(slices.Clone(secrets), func(s secret) bool { return !s.inURLs() })
	for _, s := range slices.Concat(others, urls) {
		if len(s.value) < pieceSize {
			continue
		}
		// What is base64 may be seen as what it stands for. But a JWT's header is the
		// same for all of them, and what its payload says of a person is shown to them.
		value, last := s.value, s.value
		if parts := strings.SplitN(s.value, ".", 3); len(parts) == 3 && strings.HasPrefix(s.value, "eyJ") { // no key's random bytes
			value, last = parts[1]+"."+parts[2], parts[2]
		}
		if raw, err := base64.RawURLEncoding.DecodeString(last); err == nil && len(raw) >= pieceSize {
			n.add(s.what, string(raw))
		}
		n.add(s.what, value)
	}
	return n
}

// add adds the pieces of each form of a secret. Of a very long one, both ends will do.
func (n needles) add(what, value string) {
	if len(value) > 1500 {
		n.add(what, value[len(value)-500:])
		value = value[:1000]
	}
	for _, form := range encodings(value) {
		for i := 0; i+pieceSize <= len(form); i += pieceSize / 2 {
			n[[pieceSize]byte([]byte(form[i:]))] = what
		}
	}
}

// encodings returns a text as programs write it.
func encodings(s string) []string {
	quoted, _ := json.Marshal(s) // never fails for a string
	inForm := url.QueryEscape(s)
	forms := []string{
		s, string(quoted), fmt.Sprintf("%q", s), inForm, url.PathEscape(s),
		hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s))),
		strings.Trim(fmt.Sprint([]byte(s)), "[]"),
	}
	// In something longer that is base64, it begins at any of three places.
	for _, text := range []string{s, inForm} {
		for before := range 3 {
			for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				encoded := encoding.EncodeToString([]byte(strings.Repeat("x", before) + text))
				forms = append(forms, encoded[(before*8+5)/6:(before+len(text))*8/6])
			}
		}
	}
	return forms
}

// in returns what is seen in a text.
func (n needles) in(text string) []string {
	var found []string
	for i := 0; i+pieceSize <= len(text); i++ {
		if what, ok := n[[pieceSize]byte([]byte(text[i:i+pieceSize]))]; ok && !slices.Contains(found, what) {
			found = append(found, what)
		}
	}
	slices.Sort(found)
	return found
}

// expectSecretsKept fails the test if a secret is in the log. Every world does so in
// the end. There are two exceptions, and both are documented: what is written into the
// config itself, and Caddy's own lines about a request, which hold its URL, and with
// it a callback's code and state.
func (w *world) expectSecretsKept(secrets []secret) {
	w.t.Helper()
	n := newNeedles(slices.DeleteFunc(secrets, func(s secret) bool {
		return strings.Contains(w.config, s.value) || strings.Contains(w.config, base64.StdEncoding.EncodeToString([]byte(s.value)))
	}))
	for line := range strings.Lines(w.log()) {
		if found := n.in(line); len(found) > 0 && !n.isCaddys(line) {
			w.t.Errorf("the log holds %s:\n%s", strings.Join(found, ", "), line)
			return // one line will do
		}
	}
}

// isCaddys reports whether what was found in a line of Caddy's own is but codes and
// states in its URLs, and what a client sent in headers of its own. Those that secrets
// are meant for, Caddy redacts.
func (n needles) isCaddys(line string) bool {
	var entry struct {
		Logger string `json:"logger"`
	}
	var fields map[string]any
	if json.Unmarshal([]byte(line), &entry) != nil || json.Unmarshal([]byte(line), &fields) != nil || strings.Contains(entry.Logger, "aventus") {
		return false
	}
	var urls []any
	take := func(from map[string]any, name string) {
		urls = append(urls, from[name])
		delete(from, name)
	}
	if entry.Logger == "http.handlers.rewrite" {
		take(fields, "uri")
	}
	if request, ok := fields["request"].(map[string]any); ok {
		take(request, "uri")
		if headers, ok := request["headers"].(map[string]any); ok {
			take(headers, "Referer")
			maps.DeleteFunc(headers, func(name string, _ any) bool { return name != "Cookie" && name != "Authorization" })
		}
	}
	if headers, ok := fields["resp_headers"].(map[string]any); ok {
		take(headers, "Location")
	}
	inURLs, err := json.Marshal(urls)
	rest, err2 := json.Marshal(fields)
	return errors.Join(err, err2) == nil && len(n.in(string(rest))) == 0 &&
		!slices.ContainsFunc(n.in(string(inURLs)), func(what string) bool { return !secret{what: what}.inURLs() })
}

// canarySecret is the client's secret of these worlds. It looks different in each
// encoding, and has a long piece that looks the same in most.
const canarySecret = `c"a<n>a&r=y%41+\ /é0123456789abcdefghijklmnopqrstuvwxyz`

// What a page can show of its request, and an error page besides.
const (
	canaryShown = `{http.auth.user.id} {http.auth.user.scope} {http.vars.` + sentVar + `} {http.request.header.Cookie} ` +
		`{http.request.cookie.aventus_session} {http.request.cookie.aventus_login}`
	canaryError = `{http.aventus_auth.error}: {http.aventus_auth.error_description} {http.error} {http.error.message} {http.error.trace} ` +
		`{http.request.header.Authorization} ` + canaryShown
)

// canaryWorld is a world at DEBUG, with everything switched on that could show a
// secret: access logs, metrics by host, traces, the admin API, the autosaved config,
// and error pages that show all there is to show.
type canaryWorld struct {
	*world
	filtered bool                                                                       // the log is, as the README says
	literal  bool                                                                       // the config has secrets written into it
	fault    atomic.Pointer[func(rw http.ResponseWriter, r *http.Request, body string)] // of the token endpoint

	mu       sync.Mutex
	traces   strings.Builder
	upstream strings.Builder // what the app was sent, without the token, which is for it
}

// newCanaryWorld starts a world whose site has the given blocks of the module.
func newCanaryWorld(t *testing.T, blocks func(w *world) string) *canaryWorld {
	t.Helper()
	c := new(canaryWorld)
	tokens := httptest.NewUnstartedServer(http.HandlerFunc(c.serveToken))
	t.Cleanup(tokens.Close)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.traces.Write(body)
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	app := httptest.NewUnstartedServer(http.HandlerFunc(c.serveApp))
	t.Cleanup(app.Close)
	streamer := newStreamer(t)

	autosave := caddy.ConfigAutosavePath
	caddy.ConfigAutosavePath = filepath.Join(t.TempDir(), "autosave.json")
	t.Cleanup(func() { caddy.ConfigAutosavePath = autosave })

	const key = "a sealing key, of 32 bytes - yes"
	issuer := func(server *aventustest.Server) {
		server.Clients[0].Secret = canarySecret
		server.RevokeFault = echoes // a server that says too much
	}
	sites := func(w *world) string {
		c.world = w
		tokens.Start()
		app.Start()
		w.hearSecret("a sealing key", key)
		t.Setenv("TEST_SEALING_KEY", base64.StdEncoding.EncodeToString([]byte(key)))
		t.Setenv("TEST_CLIENT_SECRET", canarySecret)
		return w.site + ", http://:" + w.port + " {\n\tlog\n\ttracing {\n\t\tspan canary\n\t}\n" +
			"@callback path /oauth2/callback\nrewrite @callback /index.php?{query}\n" +
			strings.ReplaceAll(blocks(w), "issuer ", "token_url "+tokens.URL+"/oauth/token\n\t\tissuer ") + `
			handle /stream/* {
				uri strip_prefix /stream
				reverse_proxy ` + streamer + `
			}
			handle /shown {
				respond "` + canaryShown + `"
			}
			handle {
				reverse_proxy ` + strings.TrimPrefix(app.URL, "http://") + `
			}
			handle_errors {
				respond "` + canaryError + `"
			}
		}`
	}
	newWorld(t, setup{admin: true, global: "metrics {\nper_host\n}", issuer: issuer, sites: sites})
	c.run(strings.Replace(c.config, "persist_config off", "", 1))
	return c
}

// filterLogs has Caddy filter its logs as the README says.
func (c *canaryWorld) filterLogs() {
	c.t.Helper()
	recipe := regexp.MustCompile(`(?s)\n(\(no_codes\) \{\n.*?\n\}\n)`).FindStringSubmatch(readFile(c.t, "README.md"))
	if recipe == nil {
		c.t.Fatal("the README has no recipe for logs without codes")
	}
	c.filtered = true
	access := fmt.Sprintf("\n\tlog {\nimport no_codes\noutput file %s\n}\n", filepath.Join(c.dir, "log"))
	c.run(recipe[1] + strings.NewReplacer("level DEBUG\n", "level DEBUG\nimport no_codes\n", "\n\tlog\n", access).Replace(c.config))
}

// serveToken is the token endpoint: the stand-in's, overheard.
func (c *canaryWorld) serveToken(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var params map[string]string
	if json.Unmarshal(body, &params) != nil {
		form, _ := url.ParseQuery(string(body))
		params = map[string]string{"code": form.Get("code"), "code_verifier": form.Get("code_verifier"), "refresh_token": form.Get("refresh_token")}
	}
	c.hearSecret(aCode, params["code"])
	c.hearSecret("a code verifier", params["code_verifier"])
	c.hearSecret("a refresh token", params["refresh_token"])
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	if fault := c.fault.Load(); fault != nil {
		(*fault)(rw, r, string(body))
		return
	}
	answer := httptest.NewRecorder()
	c.issuer.ServeHTTP(answer, r)
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		ID      string `json:"id_token"`
	}
	if json.Unmarshal(answer.Body.Bytes(), &tokens) == nil {
		c.hearSecret("an access token", tokens.Access)
		c.hearSecret("a refresh token", tokens.Refresh)
		c.hearSecret("an ID token", tokens.ID)
	}
	maps.Copy(rw.Header(), answer.Header())
	rw.WriteHeader(answer.Code)
	_, _ = rw.Write(answer.Body.Bytes())
}

func (c *canaryWorld) serveApp(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(&c.upstream, "%s %s\n", r.Method, r.RequestURI)
	for _, header := range []http.Header{r.Header, r.Trailer} {
		for name, lines := range header {
			if name != "Authorization" || len(lines) != 1 || !strings.HasPrefix(lines[0], bearer) {
				fmt.Fprintf(&c.upstream, "%s: %q\n", name, lines)
			}
		}
	}
	_, _ = io.WriteString(rw, "the app")
}

// echoes answers with all that the request said, as servers that want to help do.
func echoes(rw http.ResponseWriter, r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	basic := r.Header.Get("Authorization")
	rw.Header().Set("WWW-Authenticate", basic)
	rw.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(rw).Encode(map[string]string{"error": "bad: " + string(body), "error_description": fmt.Sprintf("%s; and %s", basic, body)})
	return true
}

// fails has the token endpoint answer so, until it is told otherwise.
func (c *canaryWorld) fails(fault func(rw http.ResponseWriter, r *http.Request, body string)) {
	c.fault.Store(&fault)
}

// heals ends that.
func (c *canaryWorld) heals() { c.fault.Store(nil) }

// ask asks Caddy's admin API.
func (c *canaryWorld) ask(method, path string) answer {
	c.t.Helper()
	return c.browser().do(method, "http://localhost:"+c.adminPort+path)
}

// expectKept looks for secrets wherever one could be seen, stops Caddy, and returns
// the codes of the errors that the pages, and the log, have named.
func (c *canaryWorld) expectKept() (met []string) {
	c.t.Helper()
	seen := map[string]string{"upstream": c.upstream.String()}
	for _, path := range []string{
		"/config/", adminPath, "/metrics", "/debug/vars", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/reverse_proxy/upstreams",
	} {
		a := c.ask("GET", path)
		c.expect(a, http.StatusOK)
		seen[path] = fmt.Sprint(a.Header, a.body)
	}
	seen["autosave"] = readFile(c.t, caddy.ConfigAutosavePath)
	err := filepath.WalkDir(filepath.Join(c.dir, "storage"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "keys.json" { // which is what they are for
			seen["storage"] += path + "\n" + readFile(c.t, path) + "\n"
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	secrets := c.secrets()
	if err := caddy.Stop(); err != nil { // which sends the last traces
		c.t.Fatal(err)
	}
	seen["traces"] = c.traces.String()
	n := newNeedles(secrets)

	// The one place of a cookie is its Set-Cookie, and that of a state is the way to
	// the authorization server.
	for _, a := range c.heard.pages {
		for _, line := range a.Header["Set-Cookie"] {
			name, _, _ := strings.Cut(line, "=")
			if found := n.in(line); len(found) > 0 && !slices.Equal(found, []string{"the cookie " + name}) {
				c.t.Errorf("the cookie %s holds %s", name, found)
			}
		}
		if found := n.in(a.location()); len(found) > 0 && (!slices.Equal(found, []string{aState}) || !strings.HasPrefix(a.location(), c.issuer.Issuer+"authorize?")) {
			c.t.Errorf("a redirect holds %s: %s", found, a.location())
		}
		header := a.Header.Clone()
		header.Del("Set-Cookie")
		header.Del("Location")
		seen["pages"] += fmt.Sprintln(header, a.body)
		if code, _, ok := strings.Cut(a.body, ": "); ok && a.StatusCode >= 400 {
			met = append(met, code)
		}
	}
	// What shows nothing at all keeps secrets, too.
	for place, shows := range map[string]string{
		"upstream": "GET /", "/config/": `"handler":"aventus_auth"`, adminPath: "[", "/metrics": "caddy_http_requests_total", "/debug/vars": "memstats",
		"/debug/pprof/goroutine?debug=2": "goroutine ", "/debug/pprof/cmdline": "test", "/reverse_proxy/upstreams": "[",
		"autosave": `"handler":"aventus_auth"`, "storage": "aventus_auth", "traces": "canary", "pages": "Cache-Control",
	} {
		if !strings.Contains(seen[place], shows) {
			c.t.Errorf("%s: there is no %q in\n%.2000s", place, shows, seen[place])
		}
	}
	for place, text := range seen {
		found := n.in(text)
		if c.literal && (place == "/config/" || place == "autosave") {
			if !slices.Equal(found, []string{"a sealing key", "the client's secret"}) {
				c.t.Errorf("%s: it shows %s, where the config's own secrets are written", place, found)
			}
		} else if len(found) > 0 {
			c.t.Errorf("%s: it shows %s:\n%q", place, strings.Join(found, ", "), excerpt(n, text))
		}
	}

	log := c.log()
	for _, shows := range []string{`"level":"debug"`, `"logger":"http.log.access`, "/oauth2/callback?", "/index.php?"} {
		if !strings.Contains(log, shows) {
			c.t.Errorf("the log has no %s in it", shows)
		}
	}
	excused := make(map[string]bool)
	for line := range strings.Lines(log) {
		found := n.in(line)
		if c.literal && strings.Contains(line, `"msg":"adjusted config"`) {
			continue // as it is in the config
		}
		if len(found) > 0 && (c.filtered || !n.isCaddys(line)) {
			c.t.Errorf("the log holds %s:\n%s", strings.Join(found, ", "), line)
			break // one line will do
		}
		for _, what := range found {
			excused[what] = true
		}
		if strings.Contains(line, "client_gone: ") {
			met = append(met, "client_gone") // nobody is there to see the page
		}
	}
	if !c.filtered && (!excused[aCode] || !excused[aState]) {
		c.t.Error("Caddy's lines hold no code or no state: the README need not say so")
	}
	return met
}

// excerpt returns the part of a text where the first secret is.
func excerpt(n needles, text string) string {
	for i := range text {
		if end := i + pieceSize; end <= len(text) && len(n.in(text[i:end])) > 0 {
			return text[max(0, i-100):min(len(text), end+100)]
		}
	}
	return ""
}

// TestCanaries goes through all that a visitor, an operator and an authorization
// server can do here, with secrets that can be recognised in any encoding, and finds
// none of them where it does not belong: in logs at DEBUG, pages, metrics, traces, the
// admin API's answers, the autosaved config, the storage, or what an app is sent.
func TestCanaries(t *testing.T) {
	const fixedKey = "\nsession {\nkey {env.TEST_SEALING_KEY}\n}"
	one := func(further string) func(w *world) string {
		return func(w *world) string { return w.directive("", further) }
	}
	flows := []struct {
		name   string
		blocks func(w *world) string
		run    func(t *testing.T, c *canaryWorld)
	}{
		{"sessions in cookies", func(w *world) string {
			return "@bad expression `path('/matcher') && int({http.request.uri.query.n}) > 5`\n" + w.directive("@bad", fixedKey) +
				"\n" + w.directive("/scope", "require_scope nobody"+fixedKey) + "\n" + w.directive("/claim", "require_claim role nobody"+fixedKey) +
				"\n" + w.directive("/other/*", "session {\nname other\n}") + "\n@rest not path /other/*\n" + w.directive("@rest", "logout /logout\nprofile /me"+fixedKey)
		}, canaryCookies},
		{"sessions in the storage", one("scope offline_access\nlogout /logout\nlogout_provider\nprofile /me\nsession {\nstore storage\n}"), canaryStorage},
		{"a token endpoint that takes JSON", one(""), func(t *testing.T, c *canaryWorld) {
			// One request hangs while all others go on.
			slow, hangs, hung := c.browser(), make(chan struct{}), make(chan answer)
			callback := slow.begin("/slow")
			c.fails(func(_ http.ResponseWriter, r *http.Request, _ string) {
				close(hangs)
				<-r.Context().Done()
			})
			go func() {
				defer close(hung)
				hung <- slow.get(callback)
			}()
			select {
			case <-hangs:
			case <-hung:
				t.Fatal("the token endpoint was not asked")
			}
			canaryFaults(t, c)
			c.expect(<-hung, http.StatusGatewayTimeout)
		}},
		{"a token endpoint that takes forms", one("token_request form\ntoken_auth basic\nverify_token"), func(t *testing.T, c *canaryWorld) {
			c.issuer.Form, c.issuer.Basic = true, true
			canaryFaults(t, c)
		}},
		{"API clients", func(w *world) string {
			return w.directive("/strict", "accept_bearer\nrequire_scope nobody") + "\n" + w.directive("", "accept_bearer\nprofile /me")
		}, canaryBearers},
		{"large tokens", one("logout /logout"), func(t *testing.T, c *canaryWorld) {
			c.issuer.TokenChars = 6000
			b := c.browser()
			b.login("/")
			c.expect(b.get("/page"), http.StatusOK)
			c.restart()
			c.expect(b.get("/page"), http.StatusOK)
			c.expect(b.get("/logout"), http.StatusOK)
		}},
		{"streams", one("logout /logout"), canaryStreams},
		{"any host", func(w *world) string {
			return strings.Replace(w.directive("/private/*", ""), w.site+"/", "https://{host}:"+w.port+"/", 1)
		}, func(t *testing.T, c *canaryWorld) {
			for _, visit := range []struct {
				host, path string
				status     int
			}{
				{"localhost", "/public", http.StatusOK}, {"localhost", "/oauth2/callback?code=x", http.StatusBadRequest},
				{"a(b)", "/private/", http.StatusBadRequest}, {"localhost", "/private/", http.StatusFound},
			} {
				c.expect(c.browser().do("GET", visit.path, "Host", visit.host), visit.status)
			}
		}},
	}
	met := make(map[string]bool)
	ran := 0
	for _, flow := range flows {
		t.Run(flow.name, func(t *testing.T) {
			c := newCanaryWorld(t, flow.blocks)
			c.filterLogs()
			flow.run(t, c)
			for _, code := range c.expectKept() {
				met[code] = true
			}
			ran++
		})
	}
	if ran < len(flows) {
		return // not all of them were asked for, or one has failed
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\d+) \\| .").FindAllStringSubmatch(readFile(t, "README.md"), -1) {
		if !met[row[1]] {
			t.Errorf("no flow has failed with %s", row[1])
		}
	}
}

// canaryCookies is a day of sessions that ride in their cookies.
func canaryCookies(t *testing.T, c *canaryWorld) {
	b := c.browser()
	callback := b.begin("/page?x=1")
	c.expect(b.do("GET", "/fetched", "Sec-Fetch-Mode", "cors"), http.StatusUnauthorized)
	c.expect(b.do("POST", callback), http.StatusMethodNotAllowed)
	c.expect(b.get(with(callback, "state", flip(query(callback, "state")))), http.StatusBadRequest)
	c.expect(b.get(callback+"&code=again"), http.StatusBadRequest)
	c.expect(c.browser().get(callback), http.StatusFound) // another browser
	c.expect(b.do("GET", callback, "Referer", c.issuer.Issuer), http.StatusSeeOther)
	c.expect(b.get(callback), http.StatusSeeOther)
	c.expect(b.do("GET", "/me", "Referer", callback), http.StatusOK)
	b.login("/other/page") // a second session in the same browser

	for _, path := range []string{"/page", "/shown", "/other/page", "/me"} {
		c.expect(b.get(path), http.StatusOK)
		c.expect(b.do("HEAD", path, "Sec-Fetch-Mode", "navigate"), http.StatusOK)
	}
	c.expect(b.do("POST", "/page", "Authorization", "Basic eDp5"), http.StatusOK)
	c.expect(b.get("/scope"), http.StatusForbidden)
	c.expect(b.get("/claim"), http.StatusForbidden)
	c.expect(b.get("/matcher?n=x"), http.StatusInternalServerError)
	for _, lines := range []string{
		"Cookie: theme=dark; " + b.cookieHeader() + "\r\n",
		"Cookie: " + strings.ReplaceAll(b.cookieHeader(), "; ", ";\t") + ";;\r\nCookie: theme=dark\r\nConnection: Cookie\r\n",
		"Cookie: theme=dark\r\nCookie: " + strings.ReplaceAll(b.cookieHeader(), "; ", "\r\nCookie: ") + "\r\n",
	} {
		c.expect(c.raw("GET /page HTTP/1.1\r\nHost: localhost:"+c.port+"\r\n"+lines+"Connection: close\r\n\r\n"), http.StatusOK)
	}

	c.run(strings.ReplaceAll(c.config, "scope openid profile", "scope profile openid"))
	c.expect(b.get("/page"), http.StatusOK)
	c.restart()
	c.expect(b.get("/page"), http.StatusOK)

	late := c.browser()
	callback = late.begin("/late")
	for range 2 {
		c.clock.Add(loginLifetime + time.Second)
		a := late.get(callback)
		if a.StatusCode == http.StatusFound {
			callback = late.get(a.location()).location()
		}
	}
	for _, refusal := range []string{"access_denied", "temporarily_unavailable", "invalid_scope"} {
		callback := late.begin("/")
		late.get(with(with(with(callback, "code", ""), "error", refusal), "error_description", "no, "+canarySecret[:4]))
	}

	underWay := c.browser()
	callback = underWay.begin("/")
	recovers := c.storageFails()
	c.expect(underWay.get(callback), http.StatusServiceUnavailable)
	c.expect(b.get("/page"), http.StatusOK)
	recovers()

	c.expect(b.do("GET", "/logout", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
	c.expect(b.do("DELETE", "/logout"), http.StatusMethodNotAllowed)
	copied := b.cookieHeader()
	c.expect(b.get("/logout"), http.StatusOK)
	c.expect(c.browser().do("GET", "/page", "Cookie", copied, "Sec-Fetch-Mode", "navigate"), http.StatusFound)
	c.expect(c.ask("DELETE", adminPath+"?sub="+url.QueryEscape("auth0|ada")), http.StatusNoContent)
}

// canaryStorage is a day of sessions that rest in the storage, with refresh tokens.
func canaryStorage(t *testing.T, c *canaryWorld) {
	c.issuer.TokenLifetime = time.Hour
	b, unlucky, ended := c.browser(), c.browser(), c.browser()
	for _, browser := range []*browser{b, unlucky, ended} {
		browser.login("/")
		c.expect(browser.get("/shown"), http.StatusOK)
		c.expect(browser.get("/page"), http.StatusOK)
	}
	c.expect(b.get("/me"), http.StatusOK)
	var sessions []listed
	a := c.ask("GET", adminPath)
	c.expect(a, http.StatusOK)
	if err := json.Unmarshal([]byte(a.body), &sessions); err != nil || len(sessions) != 3 {
		t.Fatalf("%d sessions: %v\n%s", len(sessions), err, a.body)
	}

	requests := len(c.issuer.TokenRequests())
	c.clock.Add(57 * time.Minute)
	c.expect(b.get("/page"), http.StatusOK) // renews in the background
	await(t, "a renewal", func() bool { return len(c.issuer.TokenRequests()) == requests+1 })
	c.clock.Add(2 * time.Hour)
	c.expect(b.get("/page"), http.StatusOK) // and waits for it
	c.restart()
	c.expect(b.get("/page"), http.StatusOK)

	for _, file := range c.sessionFiles() { // which is damaged, and mended
		good := readFile(t, file)
		if err := os.WriteFile(file, []byte(good[:len(good)-1]), 0o600); err != nil {
			t.Fatal(err)
		}
		c.restart()
		for _, browser := range []*browser{b, unlucky, ended} {
			browser.get("/page")
		}
		if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "a damaged record", func() bool { return strings.Contains(c.log(), "is damaged") })
	c.expect(b.get("/page"), http.StatusOK)

	// The server says all that it was sent when it is down, and when it says no.
	c.fails(func(rw http.ResponseWriter, r *http.Request, body string) {
		rw.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(rw, `{"error":"down","error_description":`+jsonText(body)+`}`)
	})
	c.clock.Add(2 * time.Hour)
	c.expect(b.get("/page"), http.StatusServiceUnavailable)
	c.fails(func(rw http.ResponseWriter, r *http.Request, body string) {
		_, _ = io.WriteString(rw, "<html>"+body)
	})
	c.expect(unlucky.get("/page"), http.StatusFound)
	c.heals()
	c.clock.Add(time.Minute)
	c.expect(b.get("/page"), http.StatusOK)
	recovers := c.storageFails()
	c.clock.Add(2 * time.Hour)
	c.expect(b.get("/page"), http.StatusServiceUnavailable)
	recovers()
	c.clock.Add(time.Minute)
	c.expect(b.get("/page"), http.StatusOK)

	c.expect(c.ask("DELETE", adminPath+"?id="+sessions[0].ID), http.StatusNoContent)
	a = b.get("/logout")
	c.expect(a, http.StatusSeeOther)
	c.expect(b.get(b.get(a.location()).location()), http.StatusOK)
	await(t, "a revocation that fails", func() bool { return strings.Contains(c.log(), "could not be revoked") })
	unlucky.login("/")
	c.expect(unlucky.get("/page"), http.StatusOK)
}

// jsonText returns a text as a JSON string.
func jsonText(s string) string {
	quoted, _ := json.Marshal(s) // never fails for a string
	return string(quoted)
}

// canaryFaults is a day of a token endpoint that says too much.
func canaryFaults(t *testing.T, c *canaryWorld) {
	secret := strings.Repeat("0123456789", 10_000)
	says := func(status int, text string) func(http.ResponseWriter, *http.Request, string) {
		return func(rw http.ResponseWriter, r *http.Request, body string) {
			basic := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
			if basic == "" {
				basic = "none"
			}
			rw.Header().Set("Location", "https://evil.test/?"+url.QueryEscape(body))
			rw.Header().Set("WWW-Authenticate", basic)
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, strings.NewReplacer("BODY", jsonText(body), "BASIC", jsonText(basic), "RAW", body).Replace(text))
		}
	}
	tokens := func(change map[string]any, id map[string]any) func(http.ResponseWriter, *http.Request, string) {
		return func(rw http.ResponseWriter, _ *http.Request, _ string) {
			access := c.issuer.SignJWT(c.tokenClaims(change))
			idToken := c.issuer.SignJWT(c.tokenClaims(id))
			c.hearSecret("an access token", access)
			c.hearSecret("an ID token", idToken)
			fmt.Fprintf(rw, `{"access_token":%q,"id_token":%q,"token_type":"Bearer"}`, access, idToken)
		}
	}
	garbage := func(format string) func(http.ResponseWriter, *http.Request, string) {
		return func(rw http.ResponseWriter, r *http.Request, body string) {
			conn, _, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(conn, format, body)
			conn.Close()
		}
	}
	faults := []struct {
		fault  func(http.ResponseWriter, *http.Request, string)
		status int
	}{
		{says(400, `{"error":"invalid_request","error_description":BODY}`), 502},
		{says(400, `{"error":BODY,"error_description":BASIC}`), 502},
		{says(401, `{"error":"access_denied","error_description":BASIC}`), 502},
		{says(403, `{"error":"invalid_grant","error_description":BODY}`), 502},
		{says(429, `{"error":"slow_down","error_description":BODY}`), 503},
		{says(500, `<html>RAW`), 502},
		{says(503, `RAW`), 503},
		{says(302, ``), 502},
		{says(200, `<html>RAW`), 502},
		{says(200, `RAW`), 502},
		{says(200, `{"access_token":"x","token_type":BODY}`), 502},
		{says(200, `{"access_token":BODY,"token_type":"Bearer"}`), 502},
		{says(200, `{"access_token":"x","token_type":"Bearer","expires_in":BODY}`), 502},
		{says(200, `{"access_token":"x","token_type":"Bearer","scope":BODY}`), 502},
		{says(200, `{"access_token":"x","token_type":"Bearer","id_token":BODY}`), 502},
		{says(200, `{"error":"no","error_description":BODY}`), 502},
		{says(200, `{"access_token":"`+secret+`","token_type":"Bearer"}`), 502},
		{garbage("%s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 %s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\n%s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"), 502},
		{tokens(nil, map[string]any{"nonce": "another's", "aud": "the-client"}), 502},
		{tokens(map[string]any{"aud": "somebody"}, map[string]any{"iss": "https://evil.test/"}), 502},
	}
	for i, f := range faults {
		c.fails(f.fault)
		b := c.browser()
		if a := b.get(b.begin("/")); a.StatusCode != f.status {
			t.Errorf("fault %d: status %d, %s", i, a.StatusCode, a.body)
		}
	}
	c.heals()

	// A tab that is closed meanwhile.
	gone := c.browser()
	callback := gone.begin("/gone")
	c.fails(func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() })
	gone.client.Timeout = 200 * time.Millisecond
	if _, err := gone.client.Get(callback); err == nil {
		t.Error("there is an answer")
	}
	await(t, "a visitor who is gone", func() bool { return strings.Contains(c.log(), "client_gone: ") })
	c.heals()
	b := c.browser()
	b.login("/")
	c.expect(b.get("/page"), http.StatusOK)
}

// canaryBearers is a day of API clients, and of a key set that is not always there.
func canaryBearers(t *testing.T, c *canaryWorld) {
	var keys atomic.Pointer[string]
	c.issuer.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
		body := keys.Load()
		if body != nil {
			_, _ = io.WriteString(rw, *body)
		}
		return body != nil
	}
	sign := func(change map[string]any) string {
		token := c.issuer.SignJWT(c.tokenClaims(change))
		c.hearSecret("an API client's token", token)
		return token
	}
	send := func(path string, lines ...string) int {
		var headers []string
		for _, line := range lines {
			headers = append(headers, "Authorization", line)
		}
		return c.browser().do("GET", path, append(headers, "Accept", "application/json")...).StatusCode
	}
	for _, body := range []string{"<html>", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AAAA"}]}`} {
		keys.Store(&body)
		if status := send("/page", "Bearer "+sign(nil)); status != http.StatusBadGateway {
			t.Errorf("keys %s: status %d", body, status)
		}
		b := c.browser()
		c.expect(b.get(b.begin("/")), http.StatusBadGateway)
		c.clock.Add(time.Minute)
	}
	keys.Store(nil)
	good := sign(nil)
	for _, path := range []string{"/page", "/shown", "/me"} {
		if status := send(path, "Bearer "+good); status != http.StatusOK {
			t.Errorf("%s: status %d", path, status)
		}
	}
	if status := send("/strict", "Bearer "+good); status != http.StatusForbidden {
		t.Errorf("without the scope: status %d", status)
	}
	for i, lines := range [][]string{
		{"Bearer " + flip(good)}, {"Bearer " + good, "Bearer " + good}, {"Bearer " + good + ", Basic x"}, {"bearer " + sign(map[string]any{"exp": 1})},
		{"Bearer " + sign(map[string]any{"aud": "somebody"})}, {"Bearer " + sign(map[string]any{"iss": "https://evil.test/"})},
		{"Bearer " + sign(map[string]any{"nbf": c.clock.Now().Add(time.Hour).Unix()})}, {"Bearer opaque-0123456789012345678901234567890"},
	} {
		if status := send("/page", lines...); status != http.StatusUnauthorized {
			t.Errorf("token %d: status %d", i, status)
		}
	}
	c.hearSecret("an API client's token", "opaque-0123456789012345678901234567890")
	b := c.browser()
	b.login("/")
	c.expect(b.do("GET", "/page", "Authorization", "Bearer "+good), http.StatusOK)
}

// canaryStreams is a session that ends while its streams are open.
func canaryStreams(t *testing.T, c *canaryWorld) {
	before := streamCheck
	streamCheck = 20 * time.Millisecond
	t.Cleanup(func() { streamCheck = before })
	c.run(c.config + "\n") // which reads it
	b := c.browser()
	b.login("/page")
	c.expect(b.get("/page"), http.StatusOK)
	cookie := "Cookie: " + b.cookieHeader() + "\r\n"
	_, socket := c.open("/stream/ws", cookie+"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	_, events := c.open("/stream/events", cookie+"Accept: text/event-stream\r\n")
	c.expect(b.get("/logout"), http.StatusOK)
	_, _ = io.Copy(io.Discard, socket)
	_, _ = io.Copy(io.Discard, events)
}

// TestCanariesInURLs: without the README's filter, Caddy's own lines hold the URL of a
// callback, and so its code and state. They hold no more than that.
func TestCanariesInURLs(t *testing.T) {
	c := newCanaryWorld(t, func(w *world) string { return w.directive("", "logout /logout") })
	b := c.browser()
	b.login("/page")
	c.expect(b.get("/page"), http.StatusOK)
	callback := b.begin2("/page")
	c.expect(b.get(callback+"&code=again"), http.StatusBadRequest)
	c.expect(b.do("GET", "/logout", "Referer", callback), http.StatusOK)
	c.expectKept()
}

// TestCanariesWritten: a secret that is written into the config itself can be read
// there, on the admin API, in the autosaved file and, at DEBUG, in the line that
// Caddy logs of its config; and nowhere else.
func TestCanariesWritten(t *testing.T) {
	c := newCanaryWorld(t, func(w *world) string { return w.directive("", "session {\nkey {env.TEST_SEALING_KEY}\n}") })
	c.filterLogs()
	c.literal = true
	c.run(strings.NewReplacer("{env.TEST_CLIENT_SECRET}", "`"+canarySecret+"`", "{env.TEST_SEALING_KEY}", os.Getenv("TEST_SEALING_KEY")).Replace(c.config))
	b := c.browser()
	b.login("/page")
	c.expect(b.get("/page"), http.StatusOK)
	c.expectKept()
}
