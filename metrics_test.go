package aventusauth

import (
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// metrics returns what Caddy's admin endpoint says of the module, by series.
func (w *world) metrics() map[string]string {
	w.t.Helper()
	a := w.browser().do("GET", "http://localhost:"+w.adminPort+"/metrics")
	w.expect(a, http.StatusOK)
	series := make(map[string]string)
	for line := range strings.Lines(a.body) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok &&
			strings.HasPrefix(name, "caddy_aventus_auth_") {
			series[strings.TrimPrefix(name, "caddy_aventus_auth_")+"}"] = value
		} else if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok &&
			strings.HasPrefix(name, "caddy_aventus_auth_") {
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
			labels = strings.Join(
				slices.Sorted(
					slices.Values(append(strings.FieldsFunc(labels, func(r rune) bool { return r == ',' || r == '}' }),
						`site="`+w.site+`"`))), ",") + "}"
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
			if now == http.StatusForbidden {
				_, _ = io.WriteString(rw, `{"error":"invalid_grant"}`)
			}
			return now != 0
		}
	}
}

// TestMetrics counts logins and what became of them, and goes on counting when the
// config is loaded anew.
func TestMetrics(t *testing.T) {
	var status atomic.Int64
	w := newWorld(t, setup{admin: true, block: "require_scope profile\nlogout /logout\nsession {\nidle 1h\n}",
		issuer: answering(&status)})
	w.expectMetrics(map[string]string{"logins_begun_total{": "0", "logins_finished_total{": "0"})
	before := w.metrics()

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
		// A series that begins later begins with its first failure, which no alarm sees.
		isAge := series == "sealing_key_age_seconds" || series == "ends_learned_age_seconds"
		if _, ok := before[series]; !ok && !isAge {
			t.Errorf("%s was not there from the start", series)
		}
		if strings.Contains(series, "ada") || strings.Contains(series, "the-client") {
			t.Errorf("a user or a client in %s", series)
		}
	}
}

// TestMetricsOfSites: two sites are counted apart, however many blocks they have.
func TestMetricsOfSites(t *testing.T) {
	w := newWorld(t, setup{admin: true, sites: func(w *world) string {
		other := strings.ReplaceAll(w.directive("", "require_scope nobody:has"), w.site,
			"http://other.localhost:"+w.port)
		return w.site + " {\n" + w.directive("/a", "") + "\n" + w.directive("/b", "") + "\nreverse_proxy " +
			w.app + "\n}\n" +
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
	w.expectMetrics(map[string]string{
		"logins_finished_total{": "1", `sessions_refused_total{reason="insufficient_scope"`: "1",
	})
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
		{403, 57 * time.Minute, `renewals_total{outcome="given_up"`},
	} {
		status.Store(int64(step.status))
		w.clock.Add(step.wait)
		before := w.metrics()[step.series+`,site="`+w.site+`"}`]
		w.expect(b.get("/"), http.StatusOK)
		await(t, "the renewal is counted", func() bool {
			return w.metrics()[step.series+`,site="`+w.site+`"}`] != before
		})
	}
	w.expectMetrics(map[string]string{
		`renewals_total{outcome="renewed"`: "1", `renewals_total{outcome="failed"`: "1",
		`renewals_total{outcome="given_up"`:                                                "1",
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

// TestMetricsDocumented: the table of metrics has each with its labels, the dashboard
// shows each, and whatever it and the alarms ask for is there.
func TestMetricsDocumented(t *testing.T) {
	descs := make(chan *prometheus.Desc, 100)
	for _, collector := range append(collectors, keyAge{}, endsAge{}) {
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
	for _, row := range regexp.MustCompile("(?m)^\\| `(caddy_\\w+)` \\|([^|]*)\\|").FindAllStringSubmatch(
		operating, -1) {
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

// TestAgesOfTwoStorages: while a reload goes on, there may be two storages. Of their keys, the oldest counts, and of
// what has ended, what was learned the longest ago.
func TestAgesOfTwoStorages(t *testing.T) {
	before := clock
	t.Cleanup(func() { clock = before })
	now := before()
	clock = func() time.Time { return now }
	for range 3 { // blocks with a storage each, a day apart
		storage := &certmagic.FileStorage{Path: t.TempDir()}
		s, release, err := share(storage, zap.NewNop(), clock)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = release() })
		box := keyring.Stored(s.storage, &s.keys, s.clock, time.Hour).Box("x", "y")
		if _, err := box.Seal(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.ended.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(24 * time.Hour)
	}
	for name, age := range map[string]prometheus.Collector{"keys": keyAge{}, "what has ended": endsAge{}} {
		registry := prometheus.NewRegistry()
		if err := registry.Register(age); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			metrics, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			if got := metrics[0].GetMetric()[0].GetGauge().GetValue(); got != (72 * time.Hour).Seconds() {
				t.Fatalf("%s: %v seconds", name, got)
			}
		}
	}
}
