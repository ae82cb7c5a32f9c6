package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// TestStrangerBuilds: what is committed is fit to be tagged, and builds for somebody
// who has nothing but its module zip, as a module proxy serves it. If the commit has a
// tag, that is the version, and the changelog knows it.
func TestStrangerBuilds(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	mod := struct {
		Module  struct{ Path string }
		Require []struct{ Path, Version string }
		Replace []any
	}{}
	if err := json.Unmarshal(run(t, root, nil, "go", "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	if len(mod.Replace) > 0 {
		t.Errorf("go.mod replaces %v: that counts for nobody who requires the module", mod.Replace)
	}
	run(t, root, nil, "go", "mod", "tidy", "-diff")
	caddy := ""
	for _, required := range mod.Require {
		if required.Path == "github.com/caddyserver/caddy/v2" {
			caddy = required.Version
		}
	}

	version := "v0.1.0-test." + strings.ToLower(rand.Text())
	if tag, err := exec.Command("git", "-C", root, "describe", "--exact-match", "--match",
		"v[0-9]*").Output(); err == nil {
		version = strings.TrimSpace(string(tag))
		changes, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
		if err != nil {
			t.Fatal(err)
		}
		heading := `(?m)^## \[` + regexp.QuoteMeta(strings.TrimPrefix(version, "v")) + `\] - \d{4}-\d\d-\d\d$`
		if !regexp.MustCompile(heading).Match(changes) {
			t.Errorf("the changelog has no section for %s", version)
		}
	}
	if err := module.Check(mod.Module.Path, version); err != nil {
		t.Fatal(err)
	}

	proxy := t.TempDir()
	at := filepath.Join(proxy, filepath.FromSlash(mod.Module.Path), "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	if err := zip.CreateFromVCS(&zipped, module.Version{Path: mod.Module.Path, Version: version}, root, "HEAD",
		""); err != nil {
		t.Fatal(err)
	}
	info, _ := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC()})
	for ending, content := range map[string][]byte{
		".zip": zipped.Bytes(), ".info": info, ".mod": run(t, root, nil, "git", "show", "HEAD:go.mod"),
	} {
		if err := os.WriteFile(filepath.Join(at, version+ending), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	dir := t.TempDir()
	run(t, root, nil, "go", "build", "-o", filepath.Join(dir, "xcaddy"), "github.com/caddyserver/xcaddy/cmd/xcaddy")
	cache := strings.TrimSpace(string(run(t, root, nil, "go", "env", "GOMODCACHE")))
	t.Cleanup(func() { // what nobody will ever ask for again
		extracted := filepath.Join(cache, filepath.FromSlash(mod.Module.Path)+"@"+version)
		_ = os.RemoveAll(extracted)
		kept, _ := filepath.Glob(filepath.Join(cache, "cache", "download", filepath.FromSlash(mod.Module.Path), "@v",
			version+".*"))
		for _, file := range kept {
			_ = os.Remove(file)
		}
	})
	run(t, dir, []string{
		"GOPROXY=file://" + proxy + "," + strings.TrimSpace(string(run(t, root, nil, "go", "env", "GOPROXY"))),
		"GONOSUMDB=" + mod.Module.Path,
		"GOFLAGS=-modcacherw",
		"GOWORK=off",
	}, filepath.Join(dir, "xcaddy"), "build", caddy, "--with", mod.Module.Path+"@"+version, "--output", "caddy")

	modules := string(run(t, dir, nil, filepath.Join(dir, "caddy"), "list-modules", "--packages", "--versions"))
	for _, id := range []string{"http.handlers.aventus_auth", "admin.api.aventus_auth"} {
		if want := id + " " + version + " " + mod.Module.Path; !strings.Contains(modules, want) {
			t.Errorf("the list of modules does not have %q", want)
		}
	}
}

// run runs a command and returns what it printed, or fails the test.
func run(t *testing.T, dir string, env []string, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return out
}
