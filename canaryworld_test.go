package aventusauth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// canarySecret is the client's secret of these worlds. It looks different in each
// encoding, and has a long piece that looks the same in most.
const canarySecret = `c"a<n>a&r=y%41+\ /é0123456789abcdefghijklmnopqrstuvwxyz`

// What a page can show of its request, and an error page besides.
const (
	canaryShown = `{http.auth.user.id} {http.auth.user.scope} {http.vars.` + sentVar +
		`} {http.request.header.Cookie} ` +
		`{http.request.cookie.aventus_session} {http.request.cookie.aventus_login}`
	canaryError = `{http.aventus_auth.error}: {http.aventus_auth.error_description} {http.error} ` +
		`{http.error.message} {http.error.trace} ` +
		`{http.request.header.Authorization} ` + canaryShown
)

// canaryWorld is a world at DEBUG, with everything switched on that could show a
// secret: access logs, metrics by host, traces, the admin API, the autosaved config,
// and error pages that show all there is to show.
type canaryWorld struct {
	*world
	// the log is, as the README says
	filtered bool
	// the config has secrets written into it
	literal bool
	fault   atomic.Pointer[func(rw http.ResponseWriter, r *http.Request, body string)] // of the token endpoint

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

// logRecipe returns the snippet of the cookbook that keeps codes out of logs.
func logRecipe(t *testing.T) string {
	t.Helper()
	recipe := regexp.MustCompile(`(?s)\n(\(no_codes\) \{\n.*?\n\}\n)`).FindStringSubmatch(
		readFile(t, "docs/cookbook.md"))
	if recipe == nil {
		t.Fatal("the cookbook has no recipe for logs without codes")
	}
	return recipe[1]
}

// filterLogs has Caddy filter its logs as the cookbook says.
func (c *canaryWorld) filterLogs() {
	c.t.Helper()
	c.filtered = true
	access := fmt.Sprintf("\n\tlog {\nimport no_codes\noutput file %s\n}\n", filepath.Join(c.dir, "log"))
	c.run(logRecipe(c.t) + strings.NewReplacer("level DEBUG\n", "level DEBUG\nimport no_codes\n", "\n\tlog\n",
		access).Replace(c.config))
}

// serveToken is the token endpoint: the stand-in's, overheard.
func (c *canaryWorld) serveToken(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var params map[string]string
	if json.Unmarshal(body, &params) != nil {
		form, _ := url.ParseQuery(string(body))
		params = map[string]string{"code": form.Get("code"), "code_verifier": form.Get("code_verifier"),
			"refresh_token": form.Get("refresh_token")}
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
	_ = json.NewEncoder(rw).Encode(map[string]string{
		"error": "bad: " + string(body), "error_description": fmt.Sprintf("%s; and %s", basic, body),
	})
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
		"/config/", adminPath, "/metrics", "/debug/vars", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2",
		"/reverse_proxy/upstreams",
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
	// the authorization server. What hosts send each other goes to the callback's path.
	for _, a := range c.heard.pages {
		for _, line := range a.Header["Set-Cookie"] {
			name, _, _ := strings.Cut(line, "=")
			if found := n.in(line); len(found) > 0 && !slices.Equal(found, []string{"the cookie " + name}) {
				c.t.Errorf("the cookie %s holds %s", name, found)
			}
		}
		found := n.in(a.location())
		isHandOver := slices.Equal(found, []string{aTicket}) &&
			strings.Contains(a.location(), "localhost:"+c.port+"/oauth2/callback?aventus_")
		isLogin := slices.Equal(found, []string{aState}) &&
			strings.HasPrefix(a.location(), c.issuer.Issuer+"authorize?")
		if len(found) > 0 && !isHandOver && !isLogin {
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
		"upstream": "GET /", "/config/": `"handler":"aventus_auth"`, adminPath: "[",
		"/metrics": "caddy_http_requests_total", "/debug/vars": "memstats",
		"/debug/pprof/goroutine?debug=2": "goroutine ", "/debug/pprof/cmdline": "test",
		"/reverse_proxy/upstreams": "[",
		"autosave":                 `"handler":"aventus_auth"`, "storage": "aventus_auth", "traces": "canary",
		"pages": "Cache-Control",
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
	for _, shows := range []string{
		`"level":"debug"`, `"logger":"http.log.access`, "/oauth2/callback?", "/index.php?",
	} {
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
		c.t.Error("Caddy's lines hold no code or no state: the cookbook need not say so")
	}
	return met
}
