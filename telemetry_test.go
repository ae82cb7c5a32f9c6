package aventusauth

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
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
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// metrics returns what Caddy's admin endpoint says of the module, by series.
func (w *world) metrics() map[string]string {
	w.t.Helper()
	a := w.browser().do("GET", "http://localhost:"+w.adminPort+"/metrics")
	w.expect(a, http.StatusOK)
	series := make(map[string]string)
	for line := range strings.Lines(a.body) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(name, "caddy_aventus_auth_") {
			series[strings.TrimPrefix(name, "caddy_aventus_auth_")+"}"] = value
		} else if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "caddy_aventus_auth_") {
			series[strings.TrimPrefix(name, "caddy_aventus_auth_")] = value
		}
	}
	return series
}

// expectMetrics fails the test unless the series have these values. A series is
// written without its site, if that is this world's.
func (w *world) expectMetrics(want map[string]string) {
	w.t.Helper()
	got := w.metrics()
	for _, series := range slices.Sorted(maps.Keys(want)) {
		name, labels, _ := strings.Cut(series, "{")
		if !strings.HasPrefix(name, "storage_errors") {
			labels = strings.Join(slices.Sorted(slices.Values(append(strings.FieldsFunc(labels, func(r rune) bool { return r == ',' || r == '}' }), `site="`+w.site+`"`))), ",") + "}"
		}
		if got[name+"{"+labels] != want[series] {
			w.t.Errorf("%s{%s: %q, want %q", name, labels, got[name+"{"+labels], want[series])
		}
	}
}

// answering has the token endpoint answer with a status, unless that is zero.
func answering(status *atomic.Int64) func(*aventustest.Server) {
	return func(s *aventustest.Server) {
		s.TokenFault = func(rw http.ResponseWriter, _ *http.Request) bool {
			now := int(status.Load())
			if now != 0 {
				rw.WriteHeader(now)
			}
			return now != 0
		}
	}
}

// TestMetrics counts logins and what became of them, and goes on counting when the
// config is loaded anew.
func TestMetrics(t *testing.T) {
	var status atomic.Int64
	w := newWorld(t, setup{admin: true, block: "require_scope profile\nlogout /logout\nsession {\nidle 1h\n}", issuer: answering(&status)})
	w.expectMetrics(map[string]string{"logins_begun_total{": "0", "logins_finished_total{": "0"})

	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	w.expectMetrics(map[string]string{
		"logins_begun_total{": "1", "logins_finished_total{": "1",
		`token_request_duration_seconds_count{grant="authorization_code",outcome="ok"`: "1",
	})

	w.run(w.config + "\n") // the same, and yet another
	status.Store(403)
	other := w.browser()
	w.expect(other.get(other.begin("/")), http.StatusBadGateway)
	status.Store(0)
	w.expect(other.get("/oauth2/callback?state=forged&code=x"), http.StatusBadRequest)
	w.expect(other.get(other.begin("/")+"&error=x"), http.StatusBadRequest)
	w.expectMetrics(map[string]string{
		"logins_begun_total{": "3", "logins_finished_total{": "1",
		`logins_failed_total{reason="token_refused"`:                                        "1",
		`logins_failed_total{reason="invalid_state"`:                                        "1",
		`logins_failed_total{reason="invalid_callback"`:                                     "1",
		`token_request_duration_seconds_count{grant="authorization_code",outcome="refused"`: "1",
	})

	// What becomes of sessions.
	forged := w.browser()
	w.expect(forged.do("GET", "/", "Cookie", "aventus_session=forged", "Sec-Fetch-Mode", "navigate"), http.StatusFound)
	copied := b.cookies()
	cookie := ""
	for _, c := range copied {
		cookie += c.Name + "=" + c.Value + "; "
	}
	w.clock.Add(2 * time.Hour)
	w.expect(b.get("/"), http.StatusFound)
	w.clock.Add(-2 * time.Hour)
	w.expect(b.get("/logout"), http.StatusOK)
	w.expect(forged.do("GET", "/", "Cookie", cookie, "Sec-Fetch-Mode", "navigate"), http.StatusFound)
	w.expectMetrics(map[string]string{
		`sessions_refused_total{reason="invalid"`: "1",
		`sessions_refused_total{reason="idle"`:    "1",
		`sessions_refused_total{reason="ended"`:   "1",
	})
	for series := range w.metrics() {
		if strings.Contains(series, "ada") || strings.Contains(series, "the-client") {
			t.Errorf("a user or a client in %s", series)
		}
	}
}

// TestMetricsOfSites: two sites are counted apart, however many blocks they have.
func TestMetricsOfSites(t *testing.T) {
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		other := strings.ReplaceAll(w.directive("", "require_scope nobody:has"), w.site, "http://other.localhost:"+w.port)
		return w.site + " {\n" + w.directive("/a", "") + "\n" + w.directive("/b", "") + "\nreverse_proxy " + w.app + "\n}\n" +
			"http://other.localhost:" + w.port + " {\n" + other + "\nreverse_proxy " + w.app + "\n}"
	}, issuer: func(s *aventustest.Server) {
		uris := s.Clients[0].RedirectURIs
		s.Clients[0].RedirectURIs = append(uris, strings.Replace(uris[0], "localhost", "other.localhost", 1))
	}})
	w.browser().login("/a")
	w.browser().login("/b")
	b := w.browser()
	b.client.Transport.(*http.Transport).DialContext = dialLocalhost(w.port)
	there := "http://other.localhost:" + w.port
	a := b.get(b.get(b.get(there + "/").location()).location())
	w.expect(a, http.StatusSeeOther)
	w.expect(b.get(there+"/"), http.StatusForbidden)
	w.expectMetrics(map[string]string{"logins_finished_total{": "2"})
	w.site = there
	w.expectMetrics(map[string]string{"logins_finished_total{": "1", `sessions_refused_total{reason="insufficient_scope"`: "1"})
}

// TestMetricsOfRenewals: a renewal, and one that fails for now.
func TestMetricsOfRenewals(t *testing.T) {
	var status atomic.Int64
	w := newWorld(t, setup{admin: true, block: "scope offline_access", issuer: func(s *aventustest.Server) {
		answering(&status)(s)
		s.TokenLifetime = time.Hour
	}})
	b := w.browser()
	b.login("/")
	for _, step := range []struct {
		status int
		wait   time.Duration
		series string
	}{
		{503, 57 * time.Minute, `renewals_total{outcome="failed"`},
		{0, retryRenewal, `renewals_total{outcome="renewed"`},
		{403, 57 * time.Minute, `renewals_total{outcome="failed"`},
	} {
		status.Store(int64(step.status))
		w.clock.Add(step.wait)
		before := w.metrics()[step.series+`,site="`+w.site+`"}`]
		w.expect(b.get("/"), http.StatusOK)
		await(t, "the renewal is counted", func() bool { return w.metrics()[step.series+`,site="`+w.site+`"}`] != before })
	}
	w.expectMetrics(map[string]string{
		`renewals_total{outcome="renewed"`: "1", `renewals_total{outcome="failed"`: "2",
		`token_request_duration_seconds_count{grant="refresh_token",outcome="ok"`:          "1",
		`token_request_duration_seconds_count{grant="refresh_token",outcome="unavailable"`: "1",
		`token_request_duration_seconds_count{grant="refresh_token",outcome="refused"`:     "1",
	})
}

// TestMetricsOfStorage: a storage that fails is counted and said, also where no
// request waits for it, and how old the key is that seals.
func TestMetricsOfStorage(t *testing.T) {
	w := newWorld(t, setup{admin: true})
	w.browser().login("/")
	if age := w.metrics()["sealing_key_age_seconds"]; age != "" {
		t.Errorf("the key that was made just now is %s s old", age)
	}
	w.clock.Add(time.Hour)
	if age := w.metrics()["sealing_key_age_seconds"]; age != "3600" {
		t.Errorf("the key is %q s old, want 3600", age)
	}
	storageWarned.Store(0)
	before := w.metrics()[`storage_errors_total{operation="storing"}`]
	breakStorage(t, w)
	b := w.browser()
	w.expect(b.get(b.begin("/")), http.StatusServiceUnavailable)
	if after := w.metrics()[`storage_errors_total{operation="storing"}`]; after == before {
		t.Errorf("%q errors, as before", after)
	}
	for _, want := range []string{`"msg":"the storage fails"`, `"operation":"storing"`, "check Caddy's storage"} {
		if !strings.Contains(w.log(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
}

// breakStorage puts a file where the storage has the directory of what was used.
func breakStorage(t *testing.T, w *world) {
	t.Helper()
	dir := filepath.Join(w.dir, "storage", "aventus_auth", "spent")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

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
		var line struct{ Level, UserID, Site, Session string }
		text := w.logLine(message)
		if err := json.Unmarshal([]byte(strings.ReplaceAll(text, "user_id", "userid")), &line); err != nil {
			t.Fatal(err)
		}
		if line.Level != "info" || line.UserID != "ada??[31m?|?" || line.Site != w.site || len(line.Session) != 8 {
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
		if strings.Contains(line, `"logger":"http.handlers.aventus_auth"`) && strings.Contains(line, `"msg":"`+message+`"`) {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%d lines say %q:\n%s", len(found), message, strings.Join(found, ""))
	}
	return found[0]
}

// recorder is an event handler that notes what it was told.
type recorder struct{}

var recorded struct {
	mu     sync.Mutex
	events []string
}

func init() { caddy.RegisterModule(recorder{}) }

func (recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.aventus_auth_test", New: func() caddy.Module { return new(recorder) }}
}

func (*recorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*recorder) Handle(_ context.Context, e caddy.Event) error {
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	data := make(map[string]any)
	maps.Copy(data, e.Data)
	if session, ok := data["session"]; ok && len(session.(string)) == 8 {
		data["session"] = "a session"
	}
	recorded.events = append(recorded.events, fmt.Sprint(e.Name(), " ", data))
	return nil
}

var _ caddyevents.Handler = (*recorder)(nil)

// TestEvents: who subscribes to them is told of logins, logouts and refusals.
func TestEvents(t *testing.T) {
	w := newWorld(t, setup{
		global: "events {\non login aventus_auth_test\non logout aventus_auth_test\non refused aventus_auth_test\n}",
		sites: func(w *world) string {
			return w.site + " {\n" + w.directive("/allowed", "logout /logout") + "\n@rest not path /allowed /logout\n" +
				w.directive("@rest", "require_scope nobody:has") + "\nreverse_proxy " + w.app + "\n}"
		},
	})
	recorded.events = nil
	b := w.browser()
	b.login("/allowed")
	w.expect(b.get("/other"), http.StatusForbidden)
	w.expect(b.get("/oauth2/callback?state=forged&code=x"), http.StatusBadRequest)
	w.expect(b.do("GET", "/allowed", "X-Requested-With", "XMLHttpRequest"), http.StatusOK)
	w.expect(w.browser().do("POST", "/allowed"), http.StatusUnauthorized) // nobody is nobody refused
	w.expect(b.get("/logout"), http.StatusOK)
	about := "session:a session site:" + w.site + " user_id:auth0|ada"
	want := []string{
		"login map[" + about + "]",
		"refused map[reason:insufficient_scope user_id:auth0|ada]",
		"refused map[reason:invalid_state]",
		"logout map[" + about + "]",
	}
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	if !slices.Equal(recorded.events, want) {
		t.Errorf("events %q, want %q", recorded.events, want)
	}
}

// TestMetricsDocumented: the table of metrics has each with its labels, the dashboard
// shows each, and whatever it and the alarms ask for is there.
func TestMetricsDocumented(t *testing.T) {
	descs := make(chan *prometheus.Desc, 100)
	for _, collector := range collectors {
		collector.Describe(descs)
	}
	close(descs)
	metrics := make(map[string][]string) // their labels, by name
	series := make(map[string][]string)  // the same; a histogram is asked for by its parts
	for desc := range descs {
		// A Desc says what is in it in this way alone.
		found := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([\w,]*)\}`).FindStringSubmatch(desc.String())
		if found == nil {
			t.Fatalf("not understood: %s", desc)
		}
		name, labels := found[1], regexp.MustCompile(`\w+`).FindAllString(found[2], -1)
		metrics[name], series[name] = labels, labels
		if strings.HasSuffix(name, "_duration_seconds") {
			series[name+"_count"], series[name+"_sum"], series[name+"_bucket"] = labels, labels, append(labels, "le")
		}
	}

	operating, dashboard := readFile(t, "docs/operating.md"), readFile(t, "docs/grafana.json")
	documented := make(map[string][]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(caddy_\\w+)` \\|([^|]*)\\|").FindAllStringSubmatch(operating, -1) {
		documented[row[1]] = regexp.MustCompile(`\w+`).FindAllString(row[2], -1)
	}
	if !maps.EqualFunc(documented, metrics, slices.Equal) {
		t.Errorf("docs/operating.md has %v, want %v", documented, metrics)
	}
	for name := range metrics {
		if !strings.Contains(dashboard, name) {
			t.Errorf("docs/grafana.json does not show %s", name)
		}
	}

	for file, text := range map[string]string{"docs/operating.md": operating, "docs/grafana.json": dashboard} {
		has := func(name, label string) {
			if labels, ok := series[name]; !ok {
				t.Errorf("%s asks for %s, which is not there", file, name)
			} else if label != "" && !slices.Contains(labels, label) {
				t.Errorf("%s asks for %s by %s, which is none of its labels %q", file, name, label, labels)
			}
		}
		for _, asked := range regexp.MustCompile(`(caddy_\w+)(\{[^}]*\})?`).FindAllStringSubmatch(text, -1) {
			has(asked[1], "")
			for _, label := range regexp.MustCompile(`(\w+)[=!]`).FindAllStringSubmatch(asked[2], -1) {
				has(asked[1], label[1])
			}
		}
		grouped := regexp.MustCompile(`by \(([\w, ]+)\) \(\w+\((caddy_\w+)`).FindAllStringSubmatch(text, -1)
		if len(grouped) != strings.Count(text, "by (") {
			t.Errorf("%s: %d of %d groups are understood", file, len(grouped), strings.Count(text, "by ("))
		}
		for _, by := range grouped {
			for _, label := range strings.Split(by[1], ", ") {
				has(by[2], label)
			}
		}
	}
}
