package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const oauth2ProxyModule, oauth2ProxyVersion = "github.com/oauth2-proxy/oauth2-proxy/v7", "v7.15.6"

// binaries are the programs that contenders run: a path, or the reason why there is none.
type binaries map[string]binary

type binary struct {
	path string
	err  error
}

// path returns the path of a program.
func (b binaries) path(name string) (string, error) { return b[name].path, b[name].err }

// build builds the programs that come as source, with Go and its module proxy, and
// finds those of the system. A program that is missing has a reason in its place.
func build(ctx context.Context, dir string, names map[string]bool) (binaries, error) {
	bins := make(binaries)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintln(os.Stderr, "building", name)
		path, err := provide(ctx, dir, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", name, err)
		}
		bins[name] = binary{path, err}
	}
	return bins, nil
}

// provide builds or finds a program, and returns its path.
func provide(ctx context.Context, dir, name string) (string, error) {
	var folder, what string
	switch name {
	case "caddy":
		folder, what = ".", "./caddy"
	case "caddy-security":
		folder, what = filepath.Join("peers", name), "."
	case "oauth2-proxy":
		var err error
		if folder, err = oauth2ProxySource(ctx, dir); err != nil {
			return "", err
		}
		what = "."
	case "apache2":
		// Debian's folder is not in every user's PATH.
		path := "/usr/sbin/apache2"
		for _, file := range []string{path, "/usr/lib/apache2/modules/mod_auth_openidc.so"} {
			if _, err := os.Stat(file); err != nil {
				return "", fmt.Errorf("%w (apt-get install apache2 libapache2-mod-auth-openidc)", err)
			}
		}
		return path, nil
	}
	path := filepath.Join(dir, name+".binary")
	_, err := output(ctx, folder, "go", "build", "-o", path, what)
	return path, err
}

// oauth2ProxySource returns the folder of oauth2-proxy's source. It is built there, with
// its own go.mod: no other module's requirements change its dependencies.
func oauth2ProxySource(ctx context.Context, dir string) (string, error) {
	out, err := output(ctx, dir, "go", "mod", "download", "-json", oauth2ProxyModule+"@"+oauth2ProxyVersion)
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	return module.Dir, nil
}

// output runs a command, and returns its output.
func output(ctx context.Context, folder, name string, args ...string) ([]byte, error) {
	cmd := command(ctx, name, args...)
	cmd.Dir = folder
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return out, nil
}

// versions returns the versions of all parts.
func versions(ctx context.Context, bins binaries, dir string) map[string]string {
	v := map[string]string{"go": runtime.Version(), "oauth2-proxy": oauth2ProxyVersion}
	ask := func(what, name string, args ...string) {
		if out, err := output(ctx, ".", name, args...); err == nil {
			v[what] = strings.TrimSpace(string(out))
		}
	}
	ask("plugin", "git", "describe", "--always", "--dirty", "--exclude", "*")
	ask("kernel", "uname", "-sr")
	ask("filesystem", "findmnt", "-n", "-o", "FSTYPE", "-T", dir) // of the storage, which logins write to
	ask("wrk", "dpkg-query", "-W", "-f", "${Version}", "wrk")
	ask("apache", "dpkg-query", "-W", "-f", "${Version}", "apache2")
	ask("mod_auth_openidc", "dpkg-query", "-W", "-f", "${Version}", "libapache2-mod-auth-openidc")
	for name, module := range map[string]string{
		"caddy": "github.com/caddyserver/caddy/v2", "caddy-security": "github.com/greenpau/caddy-security",
	} {
		info, err := buildinfo.ReadFile(bins[name].path)
		if err != nil {
			continue
		}
		for _, dep := range info.Deps {
			if dep.Path == module {
				v[name] = dep.Version
			}
		}
	}
	return v
}
