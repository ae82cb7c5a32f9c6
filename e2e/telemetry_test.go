package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// prometheus is a real Prometheus that scrapes one Caddy every second.
type prometheus struct{ process }

// newPrometheus starts one with the alerting rules of the documentation.
func newPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	const howToGet = "apt-get install -y prometheus"
	path := program(t, "prometheus", howToGet)
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules.yml")
	blocks := regexp.MustCompile("(?s)\n```yaml\n(.*?)```\n").FindAllStringSubmatch(readDoc(t, "operating.md"), -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/operating.md has %d blocks of YAML, want one, the rules", len(blocks))
	}
	write(t, rules, blocks[0][1])
	if out, err := exec.Command(program(t, "promtool", howToGet), "check", "rules",
		rules).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	config := filepath.Join(dir, "prometheus.yml")
	write(t, config, fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: caddy, static_configs: [{targets: [%q]}]}]\n", rules, target))
	p := &prometheus{process{t: t, log: filepath.Join(dir, "log"), addr: "127.0.0.1:" + freePort(t)}}
	p.make = func() *exec.Cmd {
		return exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
			"--web.listen-address="+p.addr)
	}
	p.start()
	p.await()
	eventually(t, "Prometheus is ready", func() bool {
		resp, err := http.Get("http://" + p.addr + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// api asks Prometheus for something, and decodes the data of its answer.
func (p *prometheus) api(path string, query url.Values, data any) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.addr + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Warnings      []string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		p.t.Fatalf("%s %s: %v", path, query, err)
	}
	if answer.Status != "success" || len(answer.Warnings) > 0 {
		p.t.Fatalf("%s %s: %s %s %q", path, query, answer.Status, answer.Error, answer.Warnings)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		p.t.Fatalf("%s %s: %v in %s", path, query, err, answer.Data)
	}
}

// sample is one result of a query.
type sample struct {
	labels map[string]string
	value  float64
}

// query asks what an expression is at a time, which may be "" for now.
func (p *prometheus) query(expression, at string) []sample {
	p.t.Helper()
	query := url.Values{"query": {expression}}
	if at != "" {
		query.Set("time", at)
	}
	var data struct {
		ResultType string
		Result     []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	p.api("query", query, &data)
	if data.ResultType != "vector" {
		p.t.Fatalf("%s is a %s", expression, data.ResultType)
	}
	var samples []sample
	for _, result := range data.Result {
		text, _ := result.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			p.t.Fatalf("%s: %v", expression, err)
		}
		samples = append(samples, sample{result.Metric, value})
	}
	return samples
}

// counted waits until Prometheus has seen all counters at these values, and all others at zero.
func (p *prometheus) counted(site string, want map[string]float64) {
	p.t.Helper()
	var got map[string]float64
	defer func() {
		if p.t.Failed() {
			p.t.Logf("counted: %v\nwant     %v", got, want)
		}
	}()
	eventually(p.t, "Prometheus has seen what was counted", func() bool {
		got = make(map[string]float64)
		samples := p.query(`{__name__=~"caddy_aventus_auth_.*_(total|count)"}`, "")
		for _, s := range samples {
			if s.labels["site"] != site && s.labels["operation"] == "" {
				p.t.Fatalf("a series of another site: %v", s.labels)
			}
			name := strings.TrimPrefix(s.labels["__name__"], "caddy_aventus_auth_")
			for _, label := range []string{"operation", "grant", "outcome", "reason"} {
				if s.labels[label] != "" {
					name += " " + s.labels[label]
				}
			}
			if s.value != 0 {
				got[name] = s.value
			}
		}
		return len(samples) > 0 && maps.Equal(got, want)
	})
}

// dashboard is what Grafana reads from docs/grafana.json and asks Prometheus for.
type dashboard struct {
	Templating struct {
		List []struct {
			Name, AllValue string
			Query          json.RawMessage
		}
	}
	Panels []struct {
		Title   string
		Targets []struct{ Expr, LegendFormat string }
	}
}

// variable returns the dashboard's choice of sites.
func (d *dashboard) variable(t *testing.T) (query, all string) {
	t.Helper()
	for _, v := range d.Templating.List {
		if v.Name == "site" {
			var asks struct{ Query string }
			if err := json.Unmarshal(v.Query, &asks); err != nil {
				t.Fatal(err)
			}
			return asks.Query, v.AllValue
		}
	}
	t.Fatal("the dashboard has no variable site")
	return "", ""
}

// submit sends a form of the stand-in's, with the button that was clicked on.
func (v *visitor) submit(p page, name, value string) page {
	v.t.Helper()
	action := regexp.MustCompile(`action="([^"]+)"`).FindStringSubmatch(p.body)
	if action == nil {
		v.t.Fatalf("there is no form: %s", p)
	}
	form := url.Values{name: {value}}
	for _, hidden := range regexp.MustCompile(
		`type="hidden" name="(\w+)" value="([^"]*)"`).FindAllStringSubmatch(p.body, -1) {
		form.Set(hidden[1], html.UnescapeString(hidden[2]))
	}
	return v.post(html.UnescapeString(action[1]), form)
}

// TestDashboard: what Grafana's dashboard and the alerting rules ask a real Prometheus
// that scrapes the demo is answered, and with what has happened there.
func TestDashboard(t *testing.T) {
	began := time.Now()
	site, metrics := startDemo(t)
	p := newPrometheus(t, metrics)
	p.counted(site, nil)

	decide := func(decision string, status int) *visitor {
		t.Helper()
		v := newVisitor(t, nil)
		if end := v.submit(v.submit(v.visit(site+"/"), "user", "auth0|ada"), "decision",
			decision); end.status != status {
			t.Fatalf("who clicks on %s ends with %s", decision, end)
		}
		return v
	}
	forge := func() {
		t.Helper()
		if p := newVisitor(t, nil).get(site+"/oauth2/callback?code=x&state=forged", "Sec-Fetch-Mode",
			"navigate"); p.status != http.StatusBadRequest {
			t.Fatalf("a forged callback ends with %s", p)
		}
		if p := newVisitor(t, nil).get(site+"/me", "Sec-Fetch-Mode", "cors", "Cookie",
			"aventus_session=forged"); p.status != http.StatusUnauthorized {
			t.Fatalf("a forged session ends with %s", p)
		}
	}
	for range 3 {
		if p := decide("allow", http.StatusOK).post(site+"/logout", nil); p.status != http.StatusOK {
			t.Fatalf("a logout ends with %s", p)
		}
	}
	for range 2 {
		decide("refuse", http.StatusForbidden)
	}
	for range 3 {
		forge()
	}
	p.counted(site, map[string]float64{
		"logins_begun_total": 5, "logins_finished_total": 3, "logins_failed_total access_denied": 2,
		"logins_failed_total invalid_state": 3,
		"sessions_refused_total invalid":    3, "token_request_duration_seconds_count authorization_code ok": 3,
	})

	// Prometheus takes the first value of a series for where it starts. All of them began
	// at zero, so it knows them exactly, the first failure of each kind among them.
	type bounds struct{ low, high float64 }
	between := func(low, high float64) bounds { return bounds{low - 1e-6, high + 1e-6} }
	perSecond := func(low, high float64) bounds { return between(low/240, high/240) }
	duration := bounds{1e-9, time.Since(began).Seconds()}
	want := map[string]bounds{
		"Logins finished, last hour: ":                                between(3, 3),
		"Logins failed, last hour: ":                                  between(5, 5),
		"Storage errors, last hour: ":                                 between(0, 0),
		"Age of the sealing key: ":                                    duration,
		"Logins: begun":                                               perSecond(5, 5),
		"Logins: finished":                                            perSecond(3, 3),
		"Logins: failed":                                              perSecond(5, 5),
		"Failed logins by reason: access_denied":                      perSecond(2, 2),
		"Failed logins by reason: invalid_state":                      perSecond(3, 3),
		"Failed logins by reason: token_refused":                      between(0, 0),
		"Token endpoint: duration: half":                              duration,
		"Token endpoint: duration: 95 %":                              duration,
		"Token endpoint: duration: 99 %":                              duration,
		"Token endpoint: requests by outcome: authorization_code: ok": perSecond(3, 3),
		"Sessions refused by reason: invalid":                         perSecond(3, 3),
		"Storage errors by operation: storing":                        between(0, 0),
		"Since ended sessions were learned: ":                         between(0, 60),
	}
	var board dashboard
	if err := json.Unmarshal([]byte(readDoc(t, "grafana.json")), &board); err != nil {
		t.Fatal(err)
	}
	siteQuery, allSites := board.variable(t)
	// At the time of a scrape, there is nothing to guess about what came after it.
	scraped := strconv.FormatFloat(p.query("timestamp(caddy_aventus_auth_logins_begun_total)", "")[0].value, 'f', 3,
		64)
	for _, chosen := range []string{allSites, regexp.QuoteMeta(site)} {
		got := make(map[string]float64)
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				// As Grafana does it for a scrape interval of a minute, Prometheus's default.
				expression := strings.NewReplacer("$__rate_interval", "4m", "$site", chosen).Replace(target.Expr)
				for _, s := range p.query(expression, scraped) {
					legend := regexp.MustCompile(`\{\{(\w+)\}\}`).ReplaceAllStringFunc(target.LegendFormat,
						func(label string) string {
							return s.labels[strings.Trim(label, "{}")]
						})
					got[panel.Title+": "+legend] = s.value
				}
			}
		}
		for _, series := range slices.Sorted(maps.Keys(want)) {
			if value, ok := got[series]; !ok {
				t.Errorf("site %s: nothing is shown for %q", chosen, series)
			} else if b := want[series]; !(value >= b.low && value <= b.high) { // NaN is neither
				t.Errorf("site %s: %q is %v, want %v", chosen, series, value, b)
			}
		}
		for series, value := range got {
			if _, ok := want[series]; !ok && value != 0 {
				t.Errorf("site %s: %q is %v, and nothing of the kind has happened", chosen, series, value)
			}
		}
	}

	// What can be chosen.
	ask := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(siteQuery)
	if ask == nil {
		t.Fatalf("the variable site asks for %q", siteQuery)
	}
	var sites []string
	if p.api("label/"+ask[2]+"/values", url.Values{"match[]": {ask[1]}}, &sites); !slices.Equal(sites,
		[]string{site}) {
		t.Errorf("the sites are %q, want %q", sites, site)
	}

	// Refused consents and forgeries are no reason for an alarm, even where they are
	// more than the logins.
	type rule struct {
		Name, State, Health, LastError string
		LastEvaluation                 time.Time
	}
	var all struct{ Groups []struct{ Rules []rule } }
	now := time.Now()
	eventually(t, "Prometheus has evaluated the rules", func() bool {
		p.api("rules", nil, &all)
		return !slices.ContainsFunc(all.Groups[0].Rules, func(r rule) bool { return r.LastEvaluation.Before(now) })
	})
	for _, r := range all.Groups[0].Rules {
		if r.Health != "ok" || r.State != "inactive" {
			t.Errorf("the alarm %s is %s and %s: %s", r.Name, r.Health, r.State, r.LastError)
		}
	}
}

// collector takes in traces, as OpenTelemetry's does by OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	bodies [][]byte
}

func newCollector(t *testing.T) *collector {
	c := new(collector)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s was sent to the collector: %v", r.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bodies = append(c.bodies, body)
	}))
	t.Cleanup(c.Close)
	return c
}

// spans returns what has come so far, also as the bytes that came.
func (c *collector) spans(t *testing.T) (spans []*tracepb.Span, sent []byte) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, body := range c.bodies {
		sent = append(sent, body...)
		data := new(tracepb.TracesData) // as an export request is encoded
		if err := proto.Unmarshal(body, data); err != nil {
			t.Fatal(err)
		}
		for _, resource := range data.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				spans = append(spans, scope.Spans...)
			}
		}
	}
	return spans, sent
}

// attribute returns a span's attribute as a text.
func attribute(span *tracepb.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			if text := a.Value.GetStringValue(); text != "" {
				return text
			}
			return strconv.FormatInt(a.Value.GetIntValue(), 10)
		}
	}
	return ""
}

// TestTraces: the token request is a span in the trace of the callback that it was
// sent for. Nothing of what is secret is in a trace, and the authorization server
// learns nothing of it.
func TestTraces(t *testing.T) {
	c := newCollector(t)
	seen := make(chan http.Header, 10)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }))
	t.Cleanup(app.Close)
	f, i := newGuarded(t, []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY=50",
	}, "tracing\nreverse_proxy "+app.Listener.Addr().String())
	asked := make(chan http.Header, 10) // for the key set
	i.JWKSFault = func(_ http.ResponseWriter, r *http.Request) bool { asked <- r.Header; return false }

	v := newVisitor(t, f.authority)
	v.expect(v.visit(f.site+"/page"), http.StatusOK, f.site+"/page")
	// A server that repeats in its answer what it was sent.
	fault := func(w http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		answer, _ := json.Marshal(map[string]string{"error": "invalid_grant", "error_description": string(body)})
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write(answer)
		return true
	}
	i.Fault(fault)
	if p := newVisitor(t, f.authority).visit(f.site + "/page"); p.status != http.StatusBadGateway {
		t.Fatalf("a login whose code is refused ends with %s", p)
	}

	// The outer spans end last.
	var spans []*tracepb.Span
	var sent []byte
	callbacks := make(map[string]*tracepb.Span) // by their ids
	eventually(t, "both callbacks are traced", func() bool {
		spans, sent = c.spans(t)
		for _, span := range spans {
			if attribute(span, "url.path") == "/oauth2/callback" {
				callbacks[string(span.SpanId)] = span
			}
		}
		return len(callbacks) == 2
	})
	var requests []*tracepb.Span
	for _, span := range spans {
		if span.Name == "token request" {
			requests = append(requests, span)
		}
	}
	if len(requests) != 2 {
		t.Fatalf("%d token requests in\n%v", len(requests), spans)
	}
	for n, span := range requests {
		callback := callbacks[string(span.ParentSpanId)]
		if callback == nil {
			t.Fatalf("the parent of %v is no callback", span)
		}
		if !bytes.Equal(span.TraceId, callback.TraceId) || span.Kind != tracepb.Span_SPAN_KIND_CLIENT ||
			attribute(span, "oauth.grant_type") != "authorization_code" {
			t.Errorf("%v\nis for\n%v", span, callback)
		}
		code, status := span.Status.GetCode(), attribute(span, "http.response.status_code")
		if n == 0 && (code != tracepb.Status_STATUS_CODE_UNSET || status != "") ||
			n == 1 && (code != tracepb.Status_STATUS_CODE_ERROR || status != "403" ||
				span.Status.Message != "refused") {
			t.Errorf("token request %d: %v", n, span)
		}
	}

	secrets := map[string]string{
		"the client's secret": oddSecret, "the client's secret, encoded": url.QueryEscape(oddSecret),
	}
	behind := <-seen
	_, secrets["the access token"], _ = strings.Cut(behind.Get("Authorization"), "Bearer ")
	sealed, _ := url.Parse(f.site)
	for n, cookie := range v.Jar.Cookies(sealed) {
		secrets[fmt.Sprint("cookie ", n)] = cookie.Value
	}
	for n, r := range i.TokenRequests() {
		secrets[fmt.Sprint("code ", n)] = r.Params["code"]
		secrets[fmt.Sprint("verifier ", n)] = r.Params["code_verifier"]
	}
	for n, r := range i.AuthorizeRequests() {
		secrets[fmt.Sprint("state ", n)] = r.Get("state")
	}
	if len(secrets) < 10 {
		t.Errorf("only %d secrets are known", len(secrets))
	}
	for what, secret := range secrets {
		if secret == "" || bytes.Contains(sent, []byte(secret)) {
			t.Errorf("%s (%q) is in a trace, or is not known", what, secret)
		}
	}

	// The app behind it is told of the trace, as Caddy does it, so that there is
	// something that the authorization server could have been told.
	if behind.Get("Traceparent") == "" {
		t.Errorf("the app was told %v", behind)
	}
	headers := []http.Header{<-asked}
	for _, r := range i.TokenRequests() {
		headers = append(headers, r.Header)
	}
	for _, header := range headers {
		for _, name := range []string{"Traceparent", "Tracestate", "Baggage"} {
			if value := header.Get(name); value != "" {
				t.Errorf("the authorization server was told %s: %s", name, value)
			}
		}
	}
}
