package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// compose is what compose.yaml may hold.
type compose struct {
	Services map[string]struct {
		Build, Image, Restart, Command string
		EnvFile                        string `yaml:"env_file"`
		Environment                    map[string]string
		Ports, Volumes                 []string
		Configs                        []struct{ Source, Target string }
		DependsOn                      []string `yaml:"depends_on"`
	}
	Configs map[string]struct{ Content string }
	Volumes map[string]any
}

// TestCompose: nothing here can run containers, so what compose.yaml and Dockerfile say is
// compared with each other, and the Caddyfile that they bring is loaded.
func TestCompose(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var c compose
	decoder := yaml.NewDecoder(strings.NewReader(read("compose.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		t.Fatal(err)
	}

	for name, service := range c.Services {
		if (service.Build == "") == (service.Image == "") || service.Restart != "unless-stopped" {
			t.Errorf("%s is made of %q and %q, and restarts %q", name, service.Build, service.Image, service.Restart)
		}
		for _, volume := range service.Volumes {
			from, to, _ := strings.Cut(volume, ":")
			if _, named := c.Volumes[from]; !named && !strings.HasPrefix(from, "./") || !strings.HasPrefix(to, "/") {
				t.Errorf("%s has the volume %s", name, volume)
			}
		}
		for _, other := range service.DependsOn {
			if _, ok := c.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
	}
	front := c.Services["caddy"]
	if want := []string{"80:80", "443:443", "443:443/udp"}; !slices.Equal(front.Ports, want) {
		t.Errorf("Caddy's ports are %q, want %q", front.Ports, want)
	}
	if front.EnvFile+".example" != ".env.example" ||
		!slices.Contains(front.Volumes, "./site:"+front.Environment["SITE_ROOT"]+":ro") {
		t.Errorf("Caddy has %q, %q and %q", front.EnvFile, front.Environment, front.Volumes)
	}
	storage := c.Services["redis"]
	for _, option := range []string{"--appendonly yes", "--maxmemory-policy noeviction"} {
		if !strings.Contains(storage.Command, option) {
			t.Errorf("Redis is started by %q, without %s", storage.Command, option)
		}
	}
	if !slices.Contains(storage.Volumes, "redis:/data") || len(storage.Ports) > 0 {
		t.Errorf("Redis has the volumes %q and the ports %q", storage.Volumes, storage.Ports)
	}

	// The image as the Dockerfile makes it: the last stage has the binary of the first,
	// and a Caddyfile, where the config beside it finds that.
	dockerfile := read("Dockerfile")
	if n := len(regexp.MustCompile(`(?m)^[A-Z]+ `).FindAllString(dockerfile, -1)); n != 6 {
		t.Errorf("the Dockerfile has %d instructions", n)
	}
	copied := regexp.MustCompile(`(?m)^COPY (\S+) (/etc/caddy/\S+)$`).FindStringSubmatch(dockerfile)
	if copied == nil || !strings.Contains(dockerfile, "\nCOPY --from=builder /usr/bin/caddy /usr/bin/caddy\n") {
		t.Fatalf("the Dockerfile copies something else:\n%s", dockerfile)
	}
	if len(front.Configs) != 1 ||
		!strings.Contains(front.Command, "--config "+front.Configs[0].Target+" --adapter caddyfile") {
		t.Fatalf("Caddy is started by %q, with %v", front.Command, front.Configs)
	}
	dir := t.TempDir()
	for target, content := range map[string]string{
		copied[2]:               read(copied[1]),
		front.Configs[0].Target: c.Configs[front.Configs[0].Source].Content,
	} {
		write(t, filepath.Join(dir, filepath.Base(target)), content)
	}
	command := exec.Command(caddy, "adapt", "--config", filepath.Join(dir, filepath.Base(front.Configs[0].Target)),
		"--adapter", "caddyfile")
	env := filepath.Join(dir, ".env")
	write(t, env, read(".env.example"))
	command.Args = append(command.Args, "--envfile", env)
	adapted, err := command.CombinedOutput()
	if err != nil || !regexp.MustCompile(`"storage":\{[^}]*"redis:6379"[^}]*"module":"redis"`).Match(adapted) ||
		!strings.Contains(string(adapted), `"handler":"aventus_auth"`) {
		t.Errorf("the Caddyfile of compose.yaml: %v\n%s", err, adapted)
	}
}
