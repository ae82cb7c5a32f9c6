package aventusauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documents returns the names of what people read.
func documents(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{
		"*.md", "docs/*.md", "bench/*.md", "bench/scale/*.md", "e2e/*.md", "findings/*.md",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}

// prose returns a document without its code.
func prose(document string) string {
	return regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`").ReplaceAllString(document, "")
}

// TestLinks: what a document of ours points to is there, also within it.
func TestLinks(t *testing.T) {
	anchors := make(map[string]bool)
	for _, name := range documents(t) {
		for _, heading := range regexp.MustCompile("(?m)^#+ (.+)$").FindAllStringSubmatch(readFile(t, name), -1) {
			// As GitHub makes them.
			anchor := regexp.MustCompile("[^a-z0-9_ -]").ReplaceAllString(strings.ToLower(heading[1]), "")
			anchors[name+"#"+strings.ReplaceAll(anchor, " ", "-")] = true
		}
	}
	for _, name := range documents(t) {
		for _, link := range regexp.MustCompile(`(?:\]\(|\bsrc(?:set)?=")([^)"\s]+)[)"]`).FindAllStringSubmatch(
			prose(readFile(t, name)), -1) {
			to, anchor, hasAnchor := strings.Cut(link[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			file := name
			if to != "" {
				file = filepath.Join(filepath.Dir(name), to)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s points to %s, which is not there", name, link[1])
			} else if hasAnchor && !anchors[file+"#"+anchor] {
				t.Errorf("%s points to %s, where there is no such heading", name, link[1])
			}
		}
	}
}

// TestDocumentedCaddyfiles loads every Caddyfile that people are told to start from,
// and sees that loading it leaves nothing in the storage.
func TestDocumentedCaddyfiles(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for name, value := range map[string]string{
		"AVENTUS_CLIENT_ID":          "the-client",
		"AVENTUS_CLIENT_SECRET":      "secret",
		"AVENTUS_REDIRECT_URI":       "https://example.com/oauth2/callback",
		"AVENTUS_AUDIENCE":           "https://api.example.com/",
		"AVENTUS_SESSION_KEY":        base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)),
		"AVENTUS_SESSION_KEY_BEFORE": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32)),
		"STAFF_CLIENT_ID":            "the-staff",
		"STAFF_CLIENT_SECRET":        "secret",
		"SITE_ADDRESS":               "example.com",
	} {
		t.Setenv(name, value)
	}

	files := map[string]string{"Caddyfile.example": readFile(t, "Caddyfile.example")}
	for _, document := range documents(t) {
		for part := range strings.SplitSeq("\n"+readFile(t, document), "\n#") {
			heading, _, _ := strings.Cut(part, "\n")
			for _, block := range regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```\n").FindAllStringSubmatch(part,
				-1) {
				files[document+" "+strings.TrimLeft(heading, "# ")+" "+strconv.Itoa(len(files))] = block[1]
			}
		}
	}
	if len(files) < 12 {
		t.Errorf("only %d Caddyfiles were found", len(files))
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			if formatted := string(caddyfile.Format([]byte(file))); formatted != file {
				t.Errorf("caddy fmt would write\n%s", formatted)
			}
			if !strings.Contains(file, "aventus_auth") {
				t.Error("it has no aventus_auth in it")
			}
			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(file),
				map[string]any{"filename": "Caddyfile"})
			if err != nil || len(warnings) > 0 {
				t.Fatalf("adapting: %v %v", err, warnings)
			}
			config := new(caddy.Config)
			if err := json.Unmarshal(adapted, config); err != nil {
				t.Fatal(err)
			}
			// Caddy has its default storage from before the test began.
			storage := filepath.Join(t.TempDir(), "storage")
			config.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": storage}, nil)
			if config.Logging == nil {
				config.Logging = &caddy.Logging{
					Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "WARN"}}},
				}
			}
			if err := caddy.Validate(config); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(storage); !os.IsNotExist(err) {
				t.Errorf("loading it touched the storage: %v", err)
			}
		})
	}
}

// TestReference compares the table of subdirectives with those there are.
func TestReference(t *testing.T) {
	_, reference, _ := strings.Cut(readFile(t, "docs/reference.md"), "\n## Subdirectives\n")
	reference, _, _ = strings.Cut(reference, "\n## ")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(session )?(?:\\{ )?(\\w+)").FindAllStringSubmatch(
		reference, -1) {
		documented = append(documented, row[1]+row[2])
	}
	var want []string
	for _, s := range subdirectives {
		want = append(want, s.name)
	}
	if !slices.Equal(documented, want) {
		t.Errorf("the reference has %q, want %q", documented, want)
	}
}

// TestReferenceErrors compares the table of errors, and the list of all failures, with those in the sources.
func TestReferenceErrors(t *testing.T) {
	status := make(map[string]int)
	for code := range 600 {
		status["http.Status"+strings.ReplaceAll(http.StatusText(code), " ", "")] = code
		status[strconv.Itoa(code)] = code
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]int)
	count := 0
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		text := readFile(t, source)
		count += strings.Count(text, "failure{") - strings.Count(text, "[]failure{")
		for _, f := range regexp.MustCompile(`failure\{([\w.]+), "(\w+)"`).FindAllStringSubmatch(text, -1) {
			want[f[2]] = status[f[1]]
		}
	}
	if count != len(want) {
		t.Errorf("the sources make %d failures, and this test reads %d", count, len(want))
	}
	got := make(map[string]int)
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\d+) \\| .").FindAllStringSubmatch(
		readFile(t, "docs/reference.md"), -1) {
		got[row[1]], _ = strconv.Atoi(row[2])
	}
	if !maps.Equal(got, want) {
		t.Errorf("the reference has %v, want %v", got, want)
	}
	listed := make(map[string]int)
	for _, f := range failures {
		listed[f.code] = f.status
	}
	if !maps.Equal(listed, want) || len(failures) != len(want) {
		t.Errorf("the list of all failures has %v, want %v", listed, want)
	}
}

// TestDocumentedVersions: every command and file that people copy builds with the Caddy,
// and the Redis storage, that the tests run with.
func TestDocumentedVersions(t *testing.T) {
	version := func(file, module string) string {
		found := regexp.MustCompile(`(?m)^\s(?:require )?` + regexp.QuoteMeta(module) + ` v(\S+)`).FindStringSubmatch(
			readFile(t, file))
		if found == nil {
			t.Fatalf("%s does not require %s", file, module)
		}
		return found[1]
	}
	want := map[string]string{
		"caddy": version("go.mod", "github.com/caddyserver/caddy/v2"),
		"redis": version("e2e/go.mod", "github.com/pberkel/caddy-storage-redis"),
	}
	mentions := regexp.MustCompile(`(?:xcaddy build v|\bcaddy:)(\d[\d.]*\d)|caddy-storage-redis@v(\d[\d.]*\d)`)
	files := append(documents(t), "Dockerfile", ".github/workflows/ci.yml")
	found := make(map[string]int)
	for _, file := range files {
		for _, mention := range mentions.FindAllStringSubmatch(readFile(t, file), -1) {
			which, got := "caddy", mention[1]
			if got == "" {
				which, got = "redis", mention[2]
			}
			found[which]++
			if got != want[which] {
				t.Errorf("%s has %s, want %s", file, mention[0], want[which])
			}
		}
	}
	if found["caddy"] < 5 || found["redis"] < 2 {
		t.Errorf("versions were found only %v times", found)
	}
}

// TestExampleEnvironment: .env.example sets what Caddyfile.example reads, and nothing else.
func TestExampleEnvironment(t *testing.T) {
	read := make(map[string]bool)
	for _, found := range regexp.MustCompile(`\{(?:env\.|\$)(\w+)`).FindAllStringSubmatch(
		readFile(t, "Caddyfile.example"), -1) {
		read[found[1]] = true
	}
	delete(read, "AVENTUS_ISSUER") // which has a good default
	set := make(map[string]bool)
	for _, found := range regexp.MustCompile(`(?m)^(\w+)=`).FindAllStringSubmatch(readFile(t, ".env.example"), -1) {
		set[found[1]] = true
	}
	if !maps.Equal(set, read) {
		t.Errorf("it sets %v, want %v", set, read)
	}
}

// TestLogRecipeOfRedirects: the recipe for logs covers the code in the Location of a redirect, such as
// Caddy's own from http to https, too.
func TestLogRecipeOfRedirects(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	w := newWorld(t, setup{sites: func(w *world) string {
		return w.site + " {\n\tlog {\n\t\toutput file " + file + "\n\t}\n\tredir https://{host}{uri}\n}"
	}})
	w.run(logRecipe(t) + strings.Replace(w.config, "output file "+file, "import no_codes\noutput file "+file, 1))
	a := w.browser().get("/oauth2/callback?code=the-secret-code&state=the-secret-state&other=kept")
	if to := a.location(); !strings.Contains(to, "code=the-secret-code") {
		t.Fatalf("it redirects to %s", to)
	}
	await(t, "the request is logged", func() bool {
		b, _ := os.ReadFile(file)
		return strings.Contains(string(b), `"status":302`)
	})
	line := readFile(t, file)
	if strings.Contains(line, "the-secret") || strings.Count(line, "code=REDACTED") != 2 ||
		strings.Count(line, "other=kept") != 2 {
		t.Errorf("the log says %s", line)
	}
}
