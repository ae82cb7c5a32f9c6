package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"golang.org/x/sys/unix"

	_ "github.com/aventus-platform/caddy-aventus-auth"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// What wrk 4.1 prints with our script.
const wrkOutput = `Running 2s test @ http://127.0.0.1:35557/page.html
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.13ms  402.21us  11.37ms   88.61%
    Req/Sec    14.05k     0.93k   15.61k    70.00%
  Latency Distribution
     50%    1.06ms
     75%    1.18ms
     90%    1.42ms
     99%    2.71ms
  28013 requests in 2.00s, 35.02MB read
Requests/sec:  13978.21
Transfer/sec:     17.48MB

report {"requests": 28013, "micros": 2004048, "bytes": 36725043, "p50": 1060.0, "p99": 2713.5, "errors": {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}}
`

func TestWrk(t *testing.T) {
	r, err := parseWrk([]byte(wrkOutput))
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 28013 || r.Micros != 2004048 || r.Bytes != 36725043 || r.P50 != 1060 || r.P99 != 2713.5 {
		t.Errorf("it reads %+v", r)
	}
	const length = 1311
	if err := r.check(length, 16); err != nil {
		t.Errorf("a good run is refused: %v", err)
	}

	// One in twenty answers was a redirect, which is shorter.
	redirected := r
	redirected.Bytes -= r.Requests / 20 * 800
	if redirected.check(length, 16) == nil {
		t.Error("redirects are taken for the page")
	}
	failed := r
	failed.Errors.Status = 1
	if failed.check(length, 16) == nil {
		t.Error("an answer of 500 is taken for the page")
	}
	if new(requests).check(length, 16) == nil {
		t.Error("no answers at all are taken for good ones")
	}
	if _, err := parseWrk([]byte("unable to connect to 127.0.0.1:1 Connection refused\n")); err == nil {
		t.Error("what is no report is read as one")
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		numbers []float64
		want    float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 100, 2}, 3},
		{nil, 0},
	} {
		if got := median(test.numbers); got != test.want {
			t.Errorf("of %v: %v, want %v", test.numbers, got, test.want)
		}
	}
}

// The ratio is the median of each round's own, and no ratio of medians.
func TestRatio(t *testing.T) {
	s := &site{contender: contender{name: "a", bare: "b"}}
	for _, pair := range [][2]float64{{2, 1}, {30, 10}, {4, 4}} {
		s.rounds = append(s.rounds, round{Requests: sample{CPU: pair[0]}, Bare: sample{CPU: pair[1]}})
	}
	r := summarize(s)
	if r.Ratio != 2 || r.Requests.CPU != 4 || r.Bare.CPU != 4 {
		t.Errorf("ratio %v, medians %v and %v; want 2, 4 and 4", r.Ratio, r.Requests.CPU, r.Bare.CPU)
	}
}

// What a server and its children used is what the kernel says in another way.
func TestProcessorTime(t *testing.T) {
	// A child that has ended counts, too.
	if err := exec.Command("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done").Run(); err != nil {
		t.Fatal(err)
	}
	usage := func() (sum time.Duration) {
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var u unix.Rusage
			if err := unix.Getrusage(who, &u); err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		return sum
	}
	low := usage()
	got, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	high := usage()
	const rounding = 20 * time.Millisecond // the children's is in hundredths, twice
	if got < low-rounding || got > high+rounding {
		t.Errorf("%v is not between %v and %v", got, low, high)
	}
	if bytes, err := memory(os.Getpid()); err != nil || bytes < 1<<20 || bytes > 8<<30 {
		t.Errorf("memory: %d bytes, %v", bytes, err)
	}
}

func TestProc(t *testing.T) {
	got, err := parseStat("4711 (a) (b c) S 42 4711 4711 0 -1 4194560 1 2 3 4 100 50 7 5 20 0 8 0 123")
	if want := (stat{42, 120 * time.Millisecond}); err != nil || got != want {
		t.Errorf("stat: %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseStat("4711 (a) S 42"); err == nil {
		t.Error("a stat that is cut off is read")
	}
	all, own, err := parseSmaps("5587 - 7ffd [rollup]\nRss:   5000 kB\nPss: 3000 kB\nShared_Clean: 2900 " +
		"kB\nPrivate_Clean:  100 kB\nPrivate_Dirty:  2000 kB\n")
	if err != nil || all != 5000*1024 || own != 2100*1024 {
		t.Errorf("smaps: %d, %d, %v", all, own, err)
	}
	if _, _, err := parseSmaps("Rss: 5000 kB\n"); err == nil {
		t.Error("smaps that are cut off are read")
	}
}

// A contender is measured only if it gives the page to who has logged in, and to
// nobody else.
func TestCheck(t *testing.T) {
	b := &bench{page: []byte("the page")}
	login := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "session=1" {
			http.Redirect(w, r, "/login", http.StatusFound)
			return
		}
		_, _ = w.Write(b.page)
	}
	for _, test := range []struct {
		name     string
		bare     string
		forwards string
		serve    http.HandlerFunc
		wrong    string
	}{
		{"a login", "bare", "", login, ""},
		{"a login that shows the page all the same", "bare", "", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Cookie") == "" {
				w.WriteHeader(http.StatusUnauthorized)
			}
			_, _ = w.Write(b.page)
		}, "there is no login"},
		{"no login", "bare", "", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b.page) },
			"there is no login"},
		{"no login, and none expected", "", "",
			func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b.page) }, ""},
		{"a login page with 200", "bare", "", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "sign in")
		}, "not the page"},
		{"an error page", "", "", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "oops", http.StatusInternalServerError)
		}, "not the page"},
		{"no token for the app", "bare", "Authorization", login, "finds tokens in"},
	} {
		server := httptest.NewServer(test.serve)
		address := server.Listener.Addr().String()
		s := &site{contender: contender{bare: test.bare, forwards: test.forwards}}
		_, err := b.check(s, target{address, address, "session=1"})
		if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: %v", test.name, err)
		}
		server.Close()
	}
}

// The app says where it found the token.
func TestApp(t *testing.T) {
	r := httptest.NewRequest("GET", pagePath, nil)
	r.Header.Set("Authorization", "Bearer eyJhbGciOi.x.y")
	r.Header.Set("X-Token", "eyJhbGciOi.x.y")
	r.Header.Set("Cookie", "session=eyJ")
	w := httptest.NewRecorder()
	newApp([]byte("the page")).ServeHTTP(w, r)
	if got := w.Header()["Token-In"]; len(got) != 2 || !slices.Contains(got, "Authorization") ||
		!slices.Contains(got, "X-Token") {
		t.Errorf("it found tokens in %q", got)
	}
	if w.Body.String() != "the page" {
		t.Errorf("it answered %q", w.Body)
	}
}

func TestLogins(t *testing.T) {
	page := []byte("the page")
	refused := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := r.Cookie("session")
		switch {
		case refused:
			http.Error(w, "no", http.StatusForbidden)
		case r.URL.Path == "/callback":
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1", Path: "/"})
			http.Redirect(w, r, pagePath, http.StatusSeeOther)
		case err != nil:
			http.Redirect(w, r, "/callback", http.StatusFound)
		default:
			_, _ = w.Write(page)
		}
	}))
	defer server.Close()

	v := newVisitor(http.DefaultTransport)
	if err := v.login(t.Context(), server.URL, page); err != nil {
		t.Error(err)
	}
	if got := v.cookie(server.URL); got != "session=1" {
		t.Errorf("the browser's cookie is %q", got)
	}
	if l, err := visit(t.Context(), server.URL, page, 2, time.Nanosecond); err != nil || l.Logins != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	refused = true
	if _, err := visit(t.Context(), server.URL, page, 2, time.Hour); err == nil {
		t.Error("logins that fail are counted")
	}
}

// The peers log in at the authorization server in their own dialects.
func TestAuthorizationServer(t *testing.T) {
	const callback, verifier = "http://127.0.0.1:1/oauth2/callback", "0123456789012345678901234567890123456789012345"
	var handler http.Handler
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	defer server.Close()
	handler = newAuthorizationServer(server.URL, "a secret+", []string{callback})

	get := func(url, authorization string) *http.Response {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		r.Header.Set("Authorization", authorization)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	var metadata map[string]any
	resp := get(server.URL+"/1500/.well-known/openid-configuration", "")
	if err := json.NewDecoder(resp.Body).Decode(&metadata); err != nil || metadata["issuer"] != server.URL+"/1500/" {
		t.Fatalf("discovery: %v, %v", metadata, err)
	}

	hash := sha256.Sum256([]byte(verifier))
	authorize := func() string {
		resp := get(metadata["authorization_endpoint"].(string)+"?"+url.Values{
			"client_id": {"bench"}, "redirect_uri": {callback}, "response_type": {"code"}, "state": {"x"},
			"nonce": {"n"},
			"scope": {"openid profile email"}, "approval_prompt": {"force"},
			"code_challenge": {base64.RawURLEncoding.EncodeToString(hash[:])}, "code_challenge_method": {"S256"},
		}.Encode(), "")
		to, err := resp.Location()
		if err != nil || !strings.HasPrefix(to.String(), callback) || to.Query().Get("code") == "" {
			t.Fatalf("authorize: %v, %v", to, err)
		}
		return to.Query().Get("code")
	}
	for _, basic := range []bool{true, false} {
		form := url.Values{"grant_type": {"authorization_code"}, "code": {authorize()}, "redirect_uri": {callback},
			"code_verifier": {verifier}, "state": {"x"}}
		if !basic {
			form.Set("client_id", "bench")
			form.Set("client_secret", "a secret+")
		}
		r, _ := http.NewRequestWithContext(t.Context(), "POST", metadata["token_endpoint"].(string),
			strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if basic {
			r.SetBasicAuth("bench", url.QueryEscape("a secret+"))
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Access string `json:"access_token"`
			ID     string `json:"id_token"`
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || answer.ID == "" || len(answer.Access) < 1499 ||
			len(answer.Access) > 1500 {
			t.Fatalf("token request, basic %v: %s, %+v, %v", basic, resp.Status, answer, err)
		}
		var user struct{ Email string }
		resp = get(metadata["userinfo_endpoint"].(string), "Bearer "+answer.Access)
		if err := json.NewDecoder(resp.Body).Decode(&user); err != nil || user.Email != "ada@example.com" {
			t.Errorf("userinfo: %+v, %v", user, err)
		}
	}
	if resp := get(server.URL+"/750/userinfo", ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("userinfo without a token: %s", resp.Status)
	}
}

// The table of contenders makes sense by itself.
func TestContenders(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range contenders {
		if names[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		names[c.name] = true
		if c.title == "" || c.does == "" || len(c.servers) == 0 {
			t.Errorf("%s is not complete: %+v", c.name, c)
		}
		if len(c.title) > 34 {
			t.Errorf("%s: the chart has no room for %q", c.name, c.title)
		}
		if c.bare != "" && (!names[c.bare] || !slices.Contains(tokenSizes, c.token)) {
			t.Errorf("%s: it has no bare server before it, or no issuer for a token of %d characters", c.name, c.token)
		}
		for _, p := range c.servers {
			for _, arg := range p.args {
				file, ok := strings.CutPrefix(arg, "$PEERS/")
				if _, err := os.Stat(filepath.Join("peers", file)); ok && err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		}
	}
}

// caddy-security is measured in the same version of Caddy.
func TestSameCaddy(t *testing.T) {
	for _, file := range []string{"go.mod", "peers/caddy-security/go.mod"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile("../go.mod")
		if err != nil {
			t.Fatal(err)
		}
		version := regexp.MustCompile(`github.com/caddyserver/caddy/v2 v\S+`)
		if got, want := version.FindString(string(b)), version.FindString(string(want)); got != want || want == "" {
			t.Errorf("%s requires %q, and the plugin %q", file, got, want)
		}
	}
}

// The Caddyfiles load, except for those of modules that are not in this binary.
func TestCaddyfiles(t *testing.T) {
	for name, value := range map[string]string{
		"SITE": "http://127.0.0.1:1234", "SECOND": "127.0.0.1:1235", "UPSTREAM": "127.0.0.1:1236",
		"ISSUER": "http://127.0.0.1:1237/750/", "CLIENT_SECRET": "secret", "ROOT": ".", "DATA": t.TempDir(),
	} {
		t.Setenv(name, value)
	}
	loaded := 0
	err := filepath.WalkDir("peers", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "Caddyfile") || strings.Contains(path, "caddy-security") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(b, map[string]any{"filename": path})
		if err != nil || len(warnings) > 0 {
			return fmt.Errorf("%s: %v, %v", path, warnings, err)
		}
		config := new(caddy.Config)
		if err := json.Unmarshal(adapted, config); err != nil {
			return err
		}
		if err := caddy.Validate(config); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		loaded++
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if loaded != 6 {
		t.Errorf("%d Caddyfiles were loaded, and there are 6", loaded)
	}
}

// someResults are results with all that can happen to a contender.
func someResults() results {
	figures := &sample{PerSecond: 13978.2, CPU: 0.719, P50: 1.06, P99: 2.71, Memory: 45.3}
	good := round{Requests: *figures, Bare: *figures, Logins: figures}
	return results{
		Date: "2026-01-02", CPU: "A <fast> & good CPU", CPUs: 2, Versions: map[string]string{"caddy": "v2"},
		Results: []result{
			{Name: "caddy", Title: "Caddy file_server", Requests: figures},
			{Name: "caddy-proxy", Title: "Caddy reverse_proxy", LeftOut: "it did not start"},
			{Name: "aventus_auth-cookie-750", Title: "aventus_auth, cookie", Against: "caddy", Requests: figures,
				Bare: figures, Ratio: 1.0234, Logins: figures, Rounds: []round{good, good}},
			{Name: "caddy-security", Title: "caddy-security", Against: "caddy", LeftOut: "it said:\n| <b>no</b>"},
			{Name: "aventus_auth-proxy", Title: "aventus_auth, cookie", Against: "caddy-proxy",
				LeftOut: "caddy-proxy: it did not start"},
		},
	}
}

func TestChart(t *testing.T) {
	for name, p := range palettes {
		for _, r := range []results{someResults(), {}} {
			drawn := r.chart(p)
			var text strings.Builder
			for d := xml.NewDecoder(strings.NewReader(drawn)); ; {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%s: %v\n%s", name, err, drawn)
				}
				if chars, ok := token.(xml.CharData); ok {
					text.Write(chars)
				}
			}
			if bad := regexp.MustCompile(`NaN|Inf|%!|="-`).FindString(drawn); bad != "" {
				t.Errorf("%s: the chart holds %q", name, bad)
			}
			if len(r.Results) == 0 {
				continue
			}
			for _, want := range []string{
				"aventus_auth, cookie", "1.02 ×", "0.72 ms", "not measured", "bare Caddy file_server",
				"A <fast> & good CPU",
			} {
				if !strings.Contains(text.String(), want) {
					t.Errorf("%s: the chart does not say %q:\n%s", name, want, drawn)
				}
			}
		}
	}
}

func TestTable(t *testing.T) {
	table := someResults().table()
	for _, want := range []string{
		"| **Caddy file_server** |  | 0.719 |  | 13978 | 1.06 | 2.71 | 45 |  |  |",
		"| aventus_auth, cookie | 1.023 × (1.00 to 1.00) | 0.719 | 0.719 | 13978 | 1.06 | 2.71 | 45 | 0.719 | 13978 |",
		"| caddy-security | not measured |",
		"**Not measured: it said: / ‹b›no‹/b›**",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table does not say %q:\n%s", want, table)
		}
	}
}

// What is shown is what a run has written, and nobody has touched it since.
func TestPublished(t *testing.T) {
	table := ""
	b, err := os.ReadFile(filepath.Join(published, "results.json"))
	if err == nil {
		var r results
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		table = r.table()
		files, err := r.files()
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range files {
			if got, err := os.ReadFile(filepath.Join(published, name)); err != nil || string(got) != want {
				t.Errorf("%s is not what the command writes (%v)", name, err)
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, file := range documents {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != publish(string(b), filepath.Dir(file), table) {
			t.Errorf("%s does not show what the last run has written", file)
		}
	}
}

func TestPublish(t *testing.T) {
	document := "before\n" + publishFrom + "old figures\n" + publishTo + "after\n"
	got := publish(document, "../docs", "| the table |")
	if !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "after\n") || strings.Contains(got, "old") ||
		!strings.Contains(got, "| the table |") || !strings.Contains(got, `src="../bench/results/light.svg"`) {
		t.Errorf("it makes\n%s", got)
	}
	if again := publish(got, "../docs", "| the table |"); again != got {
		t.Errorf("a second time, it makes\n%s", again)
	}
	if got := publish(got, ".", ""); got != "before\n"+publishFrom+publishTo+"after\n" {
		t.Errorf("without a table, it makes\n%s", got)
	}
	if got := publish("a document", ".", "| the table |"); got != "a document" {
		t.Errorf("where there is no room, it makes\n%s", got)
	}
}

// A server ends with the run, its children with it.
func TestServersEnd(t *testing.T) {
	c, err := twoCores()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var s servers
	log := filepath.Join(t.TempDir(), "log")
	address, err := aventustest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	// It takes no connections, and ends at once.
	if _, err := s.start(c.server, command(ctx, "sh", "-c", "echo these words; exit 1"), log, address); err == nil ||
		!strings.Contains(err.Error(), "these words") {
		t.Errorf("a server that ends at once: %v", err)
	}
	app := httptest.NewServer(http.NotFoundHandler()) // stands in for the port
	defer app.Close()
	p, err := s.start(c.server, command(ctx, "sh", "-c", "sleep 1000 & wait"), log, app.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var processes []int
	for len(processes) < 2 { // sh, and sleep
		processes = family(p.cmd.Process.Pid)
	}
	for _, pid := range processes {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(pid, &set); err != nil || set.Count() != 1 || !set.IsSet(c.server) {
			t.Errorf("process %d may use %d cores, %v", pid, set.Count(), err)
		}
	}
	cancel()
	s.Wait()
	for _, pid := range processes {
		// They are killed, and may take a moment to die.
		await(t, fmt.Sprintf("process %d dies", pid), func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || bytes.Contains(stat, []byte(") Z "))
		})
	}
}

// await waits for what goes on in the background.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}
