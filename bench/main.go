// Command bench measures what a login in front of a site costs the server: the
// plugin's, and those of others, in one run, each beside its own server without a
// login. README.md says how, and how to read it.
//
//	go -C bench run .
//
// contenders.go is the table of contenders, and peers holds their configuration.
// servers.go starts them and reads what they use, load.go makes the load, issuer.go is
// the authorization server of all of them, build.go builds those that come as source, and
// results.go and chart.go show the results.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := run
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		run = roles[os.Args[1]]
		os.Args = slices.Delete(os.Args, 1, 2)
	}
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// roles are the parts of this program that run as processes of their own, so that each
// runs on its core.
var roles = map[string]func(ctx context.Context, args []string) error{
	"the-authorization-server": func(ctx context.Context, args []string) error {
		address, secret, redirectURIs := args[0], args[1], args[2:]
		return serve(ctx, address, newAuthorizationServer("http://"+address, secret, redirectURIs))
	},
	"the-app": func(ctx context.Context, args []string) error {
		page, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		return serve(ctx, args[0], newApp(page))
	},
	"the-browsers": func(ctx context.Context, args []string) error {
		page, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		l, err := visit(ctx, args[0], page, browsers, d)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(l)
	},
}

func serve(ctx context.Context, address string, h http.Handler) error {
	s := &http.Server{Addr: address, Handler: h}
	context.AfterFunc(ctx, func() { s.Close() })
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

const (
	connections = 16 // of wrk
	browsers    = 32 // that log in at a time
)

// plan says how much is measured.
type plan struct {
	Rounds        int     `json:"rounds"`
	Seconds       float64 `json:"seconds"`        // for which wrk loads a server, after one second to warm up
	LoginSeconds  float64 `json:"login_seconds"`  // for which browsers log in
	Connections   int     `json:"connections"`    // of wrk
	LoginBrowsers int     `json:"login_browsers"` // at a time
	Page          int     `json:"page_bytes"`
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "two short rounds, to see whether everything works; no figures to rely on")
	only := flags.String("only", "", "measure the contenders whose name this `regexp` matches")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are only flags, but %q was given", flags.Arg(0))
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	// Only a complete run may replace the published results.
	out := published
	if *quick || *only != "" {
		out = filepath.Join(published, "partial")
	}
	p := plan{Rounds: 5, Seconds: 2, LoginSeconds: 2, Connections: connections, LoginBrowsers: browsers, Page: 1024}
	if *quick {
		p.Rounds, p.Seconds, p.LoginSeconds = 2, 1, 1
	}
	if _, err := os.Stat("peers"); err != nil {
		return errors.New("there is no folder peers here; in the repository's root, go -C bench run . finds it")
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		return errors.New("wrk makes the load, and is not installed: apt-get install wrk apache2 " +
			"libapache2-mod-auth-openidc")
	}

	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Apache's children run as another user, and read the page.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	b := &bench{plan: p, dir: dir, secret: rand.Text() + rand.Text()[:6]} // 32 characters, as oauth2-proxy wants it
	if b.cores, err = twoCores(); err != nil {
		return err
	}
	// All servers end with this function, however it ends.
	ctx, end := context.WithCancel(ctx)
	defer b.servers.Wait()
	defer end()

	if err := b.writePage(); err != nil {
		return err
	}
	if err := b.choose(chosen); err != nil {
		return err
	}
	bins, err := build(ctx, dir, b.binaries())
	if err != nil {
		return err
	}
	if err := b.startAll(ctx, bins); err != nil {
		return err
	}
	if err := b.measureAll(ctx); err != nil {
		return err
	}
	return b.report(ctx, bins, out)
}

// bench is one run.
type bench struct {
	plan    plan
	dir     string
	cores   cores
	secret  string
	page    []byte
	servers servers
	sites   []*site // in the order of contenders
}

// site is a contender that runs.
type site struct {
	contender
	address string
	pids    []int
	leftOut string // the reason why there are no figures
	rounds  []round
}

func (s *site) origin() string { return "http://" + s.address }

func (b *bench) site(name string) *site {
	i := slices.IndexFunc(b.sites, func(s *site) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return b.sites[i]
}

func (b *bench) pageFile() string { return filepath.Join(b.dir, "root", pagePath) }
func (b *bench) script() string   { return filepath.Join(b.dir, "wrk.lua") }

// writePage writes the page, and the other files that servers read.
func (b *bench) writePage() error {
	const head, tail = "<!DOCTYPE html>\n<title>A page</title>\n<p>", "\n"
	text := strings.Repeat("All work and no play. ", b.plan.Page)
	b.page = []byte(head + text[:b.plan.Page-len(head)-len(tail)] + tail)
	return errors.Join(
		os.Mkdir(filepath.Dir(b.pageFile()), 0o755),
		os.WriteFile(b.pageFile(), b.page, 0o644),
		os.WriteFile(b.script(), wrkReport, 0o644),
	)
}

// choose makes a site for each chosen contender, and for the bare servers that they are
// measured against.
func (b *bench) choose(chosen *regexp.Regexp) error {
	wanted := make(map[string]bool)
	for _, c := range contenders {
		if c.bare != "" && chosen.MatchString(c.name) {
			wanted[c.name], wanted[c.bare] = true, true
		}
	}
	if len(wanted) == 0 {
		return errors.New("-only matches no contender")
	}
	for _, c := range contenders {
		if wanted[c.name] {
			address, err := aventustest.FreeAddr()
			if err != nil {
				return err
			}
			b.sites = append(b.sites, &site{contender: c, address: address})
		}
	}
	return nil
}

// binaries are the programs that the sites need.
func (b *bench) binaries() map[string]bool {
	names := make(map[string]bool)
	for _, s := range b.sites {
		for _, p := range s.servers {
			names[p.binary] = true
		}
	}
	return names
}

// startAll starts the authorization server, the app and the sites. A site that cannot
// be started is left out, and says why.
func (b *bench) startAll(ctx context.Context, bins binaries) error {
	var redirectURIs []string
	for _, s := range b.sites {
		redirectURIs = append(redirectURIs, s.origin()+"/oauth2/callback",
			s.origin()+"/auth/oauth2/generic/authorization-code-callback")
	}
	issuer, err := aventustest.FreeAddr()
	if err != nil {
		return err
	}
	app, err := aventustest.FreeAddr()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	helpers := map[string][]string{
		issuer: append([]string{"the-authorization-server", issuer, b.secret}, redirectURIs...),
		app:    {"the-app", app, b.pageFile()},
	}
	for address, args := range helpers {
		if _, err := b.servers.start(b.cores.load, command(ctx, self, args...), filepath.Join(b.dir, args[0]+".log"),
			address); err != nil {
			return err
		}
	}
	for _, s := range b.sites {
		if err := b.start(ctx, bins, s, issuer, app); err != nil {
			s.leftOut = err.Error()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// start starts a contender's processes.
func (b *bench) start(ctx context.Context, bins binaries, s *site, issuer, app string) error {
	data := filepath.Join(b.dir, s.name)
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	peers, err := filepath.Abs("peers")
	if err != nil {
		return err
	}
	second, err := aventustest.FreeAddr()
	if err != nil {
		return err
	}
	values := map[string]string{
		"SITE": s.origin(), "ADDRESS": s.address, "SECOND": second,
		"ISSUER": fmt.Sprintf("http://%s/%d/", issuer, s.token), "CLIENT_SECRET": b.secret,
		"ROOT": filepath.Dir(b.pageFile()), "UPSTREAM": app, "DATA": data, "PEERS": peers,
	}
	value := func(name string) string { return values[name] }
	for _, p := range s.servers {
		binary, err := bins.path(p.binary)
		if err != nil {
			return err
		}
		var args []string
		for _, arg := range p.args {
			args = append(args, os.Expand(arg, value))
		}
		cmd := command(ctx, binary, args...)
		cmd.Dir = data
		// Nothing of the user's environment: no proxy, no configuration.
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + data, "XDG_DATA_HOME=" + data,
			"XDG_CONFIG_HOME=" + data}
		for name, v := range values {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
		for _, e := range p.env {
			cmd.Env = append(cmd.Env, os.Expand(e, value))
		}
		started, err := b.servers.start(b.cores.server, cmd, filepath.Join(data, p.binary+".log"),
			os.Expand(p.address, value))
		if err != nil {
			return err
		}
		s.pids = append(s.pids, started.cmd.Process.Pid)
	}
	return nil
}

// measureAll measures every contender once in each round, beginning with another one
// each time, so that changes of the machine's speed affect all of them.
func (b *bench) measureAll(ctx context.Context) error {
	var protected []*site
	for _, s := range b.sites {
		if s.bare != "" {
			protected = append(protected, s)
		}
	}
	for n := range b.plan.Rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d:", n+1, b.plan.Rounds)
		for i := range protected {
			s := protected[(i+n)%len(protected)]
			if bare := b.site(s.bare); bare.leftOut != "" && s.leftOut == "" {
				s.leftOut = s.bare + ": " + bare.leftOut
			}
			if s.leftOut != "" {
				continue
			}
			fmt.Fprint(os.Stderr, " ", s.name)
			r, err := b.measure(ctx, s, n%2 == 0)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				// Its earlier rounds do not count either.
				s.leftOut, s.rounds = err.Error(), nil
				fmt.Fprintf(os.Stderr, " (left out: %v)", err)
				continue
			}
			s.rounds = append(s.rounds, r)
		}
		fmt.Fprintln(os.Stderr)
	}
	return nil
}

// round is the measurements of a contender in one round.
type round struct {
	Requests sample  `json:"requests"`
	Bare     sample  `json:"bare"` // the same requests, sent to the bare server
	Logins   *sample `json:"logins,omitempty"`
}

// sample is the effect of one load on a server.
type sample struct {
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"cpu_seconds"` // for each 10,000 requests, or 1,000 logins
	P50       float64 `json:"p50_ms,omitempty"`
	P99       float64 `json:"p99_ms,omitempty"`
	Memory    float64 `json:"memory_mib"` // resident, right after
	Busy      float64 `json:"busy"`       // the share of the time in which the server's core worked for it
}

// measure loads a contender and its bare server, one right after the other, with the
// same requests. It logs in first, so that no session is older than its round.
func (b *bench) measure(ctx context.Context, s *site, bareFirst bool) (r round, err error) {
	pool := &http.Transport{}
	defer pool.CloseIdleConnections()
	v := newVisitor(pool)
	if err := v.login(ctx, s.origin(), b.page); err != nil {
		return r, err
	}
	own := target{s.address, s.address, v.cookie(s.origin())}
	if own.cookie == "" {
		return r, errors.New("the login set no cookie")
	}
	bare := b.site(s.bare)
	atBare := own
	atBare.address = bare.address
	loads := []struct {
		s  *site
		t  target
		to *sample
	}{{s, own, &r.Requests}, {bare, atBare, &r.Bare}}
	if bareFirst {
		slices.Reverse(loads)
	}
	for _, l := range loads {
		if *l.to, err = b.load(ctx, l.s, l.t); err != nil {
			return r, err
		}
	}
	if s.logins {
		if r.Logins, err = b.logins(ctx, s); err != nil {
			return r, err
		}
	}
	return r, nil
}

// load has wrk load a server, after a check that its requests get the page, and that there
// is a login in front of it unless the server is bare.
func (b *bench) load(ctx context.Context, s *site, t target) (sample, error) {
	length, err := b.check(s, t)
	if err != nil {
		return sample{}, err
	}
	if _, err := wrk(ctx, b.cores.load, b.script(), t, connections, 1); err != nil {
		return sample{}, err
	}
	var r requests
	made, err := s.watch(func() (err error) {
		r, err = wrk(ctx, b.cores.load, b.script(), t, connections, b.plan.Seconds)
		return err
	})
	if err != nil {
		return sample{}, err
	}
	if err := r.check(length, connections); err != nil {
		return sample{}, err
	}
	if _, err := b.check(s, t); err != nil {
		return sample{}, fmt.Errorf("after the load: %w", err)
	}
	seconds := r.Micros / 1e6
	return sample{
		PerSecond: float64(r.Requests) / seconds,
		CPU:       made.cpu.Seconds() / float64(r.Requests) * 10_000,
		P50:       r.P50 / 1000,
		P99:       r.P99 / 1000,
		Memory:    made.memory,
		Busy:      made.cpu.Seconds() / seconds,
	}, nil
}

// check makes sure that a request gets the page, and one without a cookie does not,
// unless the server is bare. It returns the length of the answer.
func (b *bench) check(s *site, t target) (int, error) {
	resp, body, length, err := t.ask()
	if err != nil {
		return 0, fmt.Errorf("asking for the page: %w", err)
	}
	if resp.StatusCode != http.StatusOK || string(body) != string(b.page) {
		return 0, fmt.Errorf("with its cookie, a request gets %s and %d bytes, and not the page",
			resp.Status, len(body))
	}
	if s.bare == "" {
		return length, nil
	}
	if s.forwards != "" && !slices.Contains(resp.Header["Token-In"], s.forwards) {
		return 0, fmt.Errorf("the app finds tokens in %q, and none in %s", resp.Header["Token-In"], s.forwards)
	}
	t.cookie = ""
	resp, body, _, err = t.ask()
	if err != nil {
		return 0, fmt.Errorf("asking for the page without a cookie: %w", err)
	}
	if resp.StatusCode == http.StatusOK || string(body) == string(b.page) {
		return 0, fmt.Errorf("without a cookie, a request gets %s: there is no login in front of it", resp.Status)
	}
	return length, nil
}

// logins has browsers log in, as many as they can.
func (b *bench) logins(ctx context.Context, s *site) (*sample, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var l logins
	made, err := s.watch(func() error {
		out, err := runOn(b.cores.load, command(ctx, self, "the-browsers", s.origin(), b.pageFile(),
			fmt.Sprintf("%gs", b.plan.LoginSeconds)))
		if err != nil {
			return err
		}
		return json.Unmarshal(out, &l)
	})
	if err != nil {
		return nil, err
	}
	if l.Logins == 0 {
		return nil, errors.New("nobody could log in")
	}
	return &sample{
		PerSecond: float64(l.Logins) / l.Seconds,
		CPU:       made.cpu.Seconds() / float64(l.Logins) * 1000,
		Memory:    made.memory,
		Busy:      made.cpu.Seconds() / l.Seconds,
	}, nil
}

// used is a server's use of resources.
type used struct {
	cpu    time.Duration
	memory float64 // MiB
}

// watch returns the resources that all processes of a contender used during a load.
func (s *site) watch(load func() error) (used, error) {
	var before, after time.Duration
	sum := func(to *time.Duration) error {
		for _, pid := range s.pids {
			t, err := cpuTime(pid)
			if err != nil {
				return err
			}
			*to += t
		}
		return nil
	}
	if err := sum(&before); err != nil {
		return used{}, err
	}
	if err := load(); err != nil {
		return used{}, err
	}
	if err := sum(&after); err != nil {
		return used{}, err
	}
	var bytes int64
	for _, pid := range s.pids {
		n, err := memory(pid)
		if err != nil {
			return used{}, err
		}
		bytes += n
	}
	return used{after - before, float64(bytes) / (1 << 20)}, nil
}
