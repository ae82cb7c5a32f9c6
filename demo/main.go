// The demo is a site behind the Aventus login, on one machine and with nothing
// to register: a real Caddy with the plugin runs the repository's own
// Caddyfile.example at two hosts, beside a stand-in for the authorization server
// and an app that shows what it was sent.
//
//	go run ./demo
//
// With -caddyfile, it is a Caddyfile of the user's own that runs beside the stand-in.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/aventus-platform/caddy-aventus-auth"
	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

//go:embed site
var siteFiles embed.FS

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends even what hangs
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run runs the demo until ctx is done.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	sitePort := flags.Int("port", 8080, "the `port` of the site")
	issuerPort := flags.Int("issuer-port", 8081, "the `port` of the authorization server's stand-in")
	upstreamPort := flags.Int("upstream-port", 8082, "the `port` of the app behind the site")
	metricsPort := flags.Int("metrics-port", 8083, "the `port` where Caddy's metrics are")
	own := flags.String("caddyfile", "",
		"run this `file` in place of Caddyfile.example, on loopback hosts and with the stand-in")
	verbose := flags.Bool("v", false, "show all of Caddy's log, not only warnings and errors")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are only flags, but %q was given", flags.Arg(0))
	}
	if *own != "" {
		return runOwn(ctx, *own, *sitePort, *issuerPort, *verbose, stdout)
	}
	caddyfile, err := readCaddyfile()
	if err != nil {
		return err
	}

	// All ports are tried before anything starts.
	siteListener, err := listen("-port", *sitePort)
	if err != nil {
		return err
	}
	defer siteListener.Close()
	issuerListener, err := listen("-issuer-port", *issuerPort)
	if err != nil {
		return err
	}
	defer issuerListener.Close()
	upstreamListener, err := listen("-upstream-port", *upstreamPort)
	if err != nil {
		return err
	}
	defer upstreamListener.Close()
	metricsListener, err := listen("-metrics-port", *metricsPort)
	if err != nil {
		return err
	}
	defer metricsListener.Close()

	dir, err := os.MkdirTemp("", "aventus-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, siteFiles); err != nil {
		return err
	}

	// The site and the stand-in have hosts of their own, since browsers send a host's
	// cookies to all of its ports. Another host shares the site's login.
	port := siteListener.Addr().(*net.TCPAddr).Port
	site, other := fmt.Sprintf("http://localhost:%d", port), fmt.Sprintf("http://app.localhost:%d", port)
	client := aventustest.Client{
		ID: "aventus-demo", Secret: rand.Text(),
		RedirectURIs: []string{site + "/oauth2/callback"}, LogoutOrigins: []string{other},
	}
	issuer := &aventustest.Server{
		Issuer:    "http://" + issuerListener.Addr().String() + "/",
		Clients:   []aventustest.Client{client},
		Audiences: []string{site + "/app/"},
		Claims:    verified, IDClaims: verified,
	}
	app := &upstream{issuer: issuer.Issuer, audience: issuer.Audiences[0]}
	for listener, handler := range map[net.Listener]http.Handler{
		issuerListener: issuer, upstreamListener: app.handler(),
	} {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		defer server.Close()
		go server.Serve(listener)
	}

	restore := setenv(map[string]string{
		"SITE_ADDRESS":          site + ", " + other,
		"SITE_ROOT":             filepath.Join(dir, "site"),
		"APP_UPSTREAM":          upstreamListener.Addr().String(),
		"AVENTUS_CLIENT_ID":     client.ID,
		"AVENTUS_CLIENT_SECRET": client.Secret,
		"AVENTUS_REDIRECT_URI":  client.RedirectURIs[0],
		"AVENTUS_AUDIENCE":      app.audience,
		"AVENTUS_ISSUER":        issuer.Issuer,
		"XDG_DATA_HOME":         dir, // Caddy writes its instance id there, whatever its storage
	})
	defer restore()
	metrics := metricsListener.Addr().String()
	config, err := adapt(caddyfile, siteListener.Addr().String(), metrics, filepath.Join(dir, "storage"), *verbose)
	if err != nil {
		return err
	}
	siteListener.Close()
	metricsListener.Close()
	if err := caddy.Run(config); err != nil {
		return fmt.Errorf("starting Caddy: %w", err)
	}
	defer caddy.Stop()

	fmt.Fprintf(stdout, "\n  Open %s/\n\n  The host %s shares its login.\n", site, other)
	printUsers(stdout, aventustest.DefaultUsers)
	fmt.Fprintf(stdout, "\n  The authorization server's stand-in is at %s\n  Metrics for Prometheus are at "+
		"http://%s/metrics\n  Ctrl-C stops it.\n\n", issuer.Issuer, metrics)
	<-ctx.Done()
	return nil
}

// verified says that a user's address was verified, which require_claim asks of addresses of a domain.
func verified(aventustest.User) map[string]any { return map[string]any{"email_verified": true} }

// printUsers lists the users that can sign in.
func printUsers(stdout io.Writer, users []aventustest.User) {
	fmt.Fprint(stdout, "\n  Sign in as one of these; there are no passwords.\n\n")
	for _, user := range users {
		fmt.Fprintf(stdout, "    %s <%s>\n", user.Name, user.Email)
	}
}

// readCaddyfile reads Caddyfile.example from the repository's root, where
// `go run ./demo` is run, or from the folder below it, where tests are. It adds
// the second host, which the file, for one site, does not have.
func readCaddyfile() ([]byte, error) {
	for _, dir := range []string{".", ".."} {
		b, err := os.ReadFile(filepath.Join(dir, "Caddyfile.example"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		const logout = "\t\tlogout /logout\n"
		if err == nil && bytes.Count(b, []byte(logout)) != 1 {
			err = errors.New("there is no line in Caddyfile.example in front of which hosts can be written")
		}
		return bytes.Replace(b, []byte(logout), []byte("\t\thosts app.localhost\n"+logout), 1), err
	}
	return nil,
		errors.New("there is no Caddyfile.example here; run this from the root of the repository: go run ./demo")
}

// listen opens a port on this machine alone.
func listen(flag string, port int) (net.Listener, error) {
	// A server on ::1 does not keep this one from listening on 127.0.0.1, but
	// browsers would go there first.
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort("localhost", strconv.Itoa(port)),
		time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("port %d is taken; choose another with %s", port, flag)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d is taken; choose another with %s", port, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("port %d cannot be used (%w); choose another with %s", port, err, flag)
	}
	return listener, nil
}

// adapt turns the Caddyfile into an isolated config: it listens on
// loopback alone, and touches neither another Caddy's admin endpoint nor
// the user's own storage and saved config. Since there is no admin endpoint, the
// metrics have a server of their own.
func adapt(caddyfile []byte, address, metrics, storage string, verbose bool) (*caddy.Config, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{
		"filename": "Caddyfile.example",
	})
	if err != nil {
		return nil, fmt.Errorf("adapting Caddyfile.example: %w", err)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		return nil, err
	}
	var app caddyhttp.App
	if err := json.Unmarshal(config.AppsRaw["http"], &app); err != nil {
		return nil, err
	}
	for _, server := range app.Servers {
		server.Listen = []string{address}
		server.Protocols = []string{"h1"} // without TLS, Caddy would warn that it cannot offer the others
	}
	app.Servers["metrics"] = &caddyhttp.Server{
		Listen: []string{metrics}, Protocols: []string{"h1"},
		Routes: caddyhttp.RouteList{{HandlersRaw: []json.RawMessage{json.RawMessage(`{"handler": "metrics"}`)}}},
	}
	app.GracePeriod = caddy.Duration(2 * time.Second)
	config.AppsRaw["http"] = caddyconfig.JSON(app, nil)
	keepToItself(config, storage, verbose)
	return config, nil
}

// keepToItself gives a config a storage and a log of its own, and no admin endpoint.
func keepToItself(config *caddy.Config, storage string, verbose bool) {
	config.Admin = &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(false)}}
	config.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": storage}, nil)
	log := new(caddy.CustomLog)
	if !verbose {
		log.Level = "WARN"
		log.Exclude = []string{"admin"} // it warns that it is off
	}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: log}}
}

// setenv sets environment variables, and returns a function that restores the former ones.
func setenv(vars map[string]string) (restore func()) {
	old := make(map[string]string)
	for name, value := range vars {
		if was, ok := os.LookupEnv(name); ok {
			old[name] = was
		}
		os.Setenv(name, value)
	}
	return func() {
		for name := range vars {
			if was, ok := old[name]; ok {
				os.Setenv(name, was)
			} else {
				os.Unsetenv(name)
			}
		}
	}
}
