// Package doctor is `caddy aventus-auth doctor`: it lists what to register for the blocks of a config, and finds
// the reasons why logins would fail.
package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/spf13/cobra"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// Front is what the module that the doctor examines hands to it.
type Front struct {
	// Blocks returns the blocks of the config that was provisioned.
	Blocks func() []*Block

	// Refusals returns the handler among a server's error routes that could answer a refused request with
	// the content that was refused, or "" if none could. Nil hosts mean that the hosts are unknown. It
	// reports false if there are no error routes.
	Refusals func(server *caddyhttp.Server, hosts []string) (unsafe string, found bool)

	RefusalsAdvice string // what to do about an unsafe handler

	// Unguarded returns the handler among a server's error routes that could answer a request which fails before it
	// comes to a block with what it asked for, and what may fail there. Both are empty if there is none.
	Unguarded       func(server *caddyhttp.Server, hosts []string) (unsafe, failing string)
	UnguardedAdvice string // what to do about it

	Now func() time.Time
}

// Block is an aventus_auth block that was provisioned.
type Block struct {
	Handler caddyhttp.MiddlewareHandler // the one in the routes

	Config      aventus.Config
	Client      *aventus.Client
	KeySet      *aventus.KeySet
	Issuer      string
	JWKSURL     string
	RedirectURI string // may hold hostPlaceholder
	NeedsKeys   bool   // a login needs the authorization server's key set
	WithNonce   bool   // an ID token is requested

	// The hosts that share the login with the redirect URI's host. *.example.com stands for one label.
	Hosts  []string
	Sealed []Setting // that all of these have to have in common; the same names in each block

	KeysInStorage bool // the sealing keys are in the storage, not in the config

	Matchers     caddyhttp.MatcherSets
	Passes       bool // a request without a session goes on
	TakesBearers bool // API clients may bring a token of their own
	Begins       bool // a page visit without a session begins a login
	CallbackPath string
	OtherPaths   []string // of the block's own answers, beside the callback

	Cookie  string // the name of the session's cookie
	BoundTo string // what its sessions are bound to, but for the origin of each

	Notices []Notice // of values in its config that may not be meant

	BackchannelPath string // of the back-channel logout; empty: off
	LogoutReturn    string // a path or a URL to which the logout returns; empty: none
}

// Notice is a warning to the operator about a valid subdirective.
type Notice struct{ About, Detail, Next string }

const (
	// hostPlaceholder is the only placeholder in a redirect URI that the request fills in.
	hostPlaceholder = "{http.request.host}"

	// metadataPath is where an API client looks for a site's metadata (RFC 9728, section 3).
	metadataPath = "/.well-known/oauth-protected-resource"

	// anyHost replaces hostPlaceholder or an unknown host in requests (RFC 6761, section 6.4).
	anyHost = "host.invalid"
)

func (b *Block) leavesHost() bool { return strings.Contains(b.RedirectURI, hostPlaceholder) }

// Command is `caddy aventus-auth doctor`.
func Command(front Front) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [--config <path> [--adapter <name>]] [--envfile <path>] [--json]",
		Short: "Says what to register, and finds what keeps logins from working",
		Long: `
Says which callback URL each aventus_auth block of a config needs to have
registered. Then it asks the authorization server, the storage and the config's
routes whether a login would work, and says what to do where it would not.

It starts no server, and a Caddy that is running takes no notice. Nothing is left
in the storage. Run it as the user that Caddy runs as, with the same environment:
what root may write, that user may not.

The exit status is 0 if no check failed, and 1 if one did or if the config cannot
be loaded.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringP("config", "c", "", "Configuration file")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter")
	cmd.Flags().StringSlice("envfile", []string{}, "Environment file(s) to load")
	cmd.Flags().Bool("json", false, "Print one JSON document")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		fl := caddycmd.Flags{FlagSet: cmd.Flags()}
		config, err := loadConfig(fl, front)
		if err != nil {
			return err
		}
		d := &doctor{loaded: config, asJSON: fl.Bool("json"), out: cmd.OutOrStdout(),
			isTerminal: isTerminal(os.Stdout),
			progress:   io.Discard}
		if isTerminal(os.Stderr) {
			d.progress = cmd.ErrOrStderr()
		}
		d.examine(cmd.Context())
		if err := d.conclude(); err != nil {
			return err
		}
		if !d.report.OK {
			cmd.SilenceErrors = true // the report has printed them
			return errors.New("a check failed")
		}
		return nil
	}
	return cmd
}

// doctor examines a config, and reports each finding at once.
type doctor struct {
	*loaded
	asJSON     bool
	out        io.Writer
	isTerminal bool      // out is one
	progress   io.Writer // a terminal, or io.Discard

	report report
	failed map[string]bool // by host: DNS or the connection failed, so that later checks are skipped
}

// report is what --json prints.
type report struct {
	OK     bool     `json:"ok"` // no check failed
	Blocks []*block `json:"blocks"`
	Checks []check  `json:"checks"` // of things that blocks share
}

// block is the report on those aventus_auth blocks that are alike in all that is
// checked. One may be in several sites, or be loaded for each of them.
type block struct {
	ClientID     string   `json:"client_id"`
	Issuer       string   `json:"issuer"`
	RedirectURIs []string `json:"redirect_uris"` // to be registered
	LogoutURIs   []string `json:"backchannel_logout_uris,omitempty"`
	ReturnURLs   []string `json:"logout_urls,omitempty"`
	Count        int      `json:"count"`
	Checks       []check  `json:"checks"`

	block   *Block   // one of them
	places  []place  // of all of them
	notices []Notice // of all of them, each once
}

type check struct {
	// dns, connect, clock, jwks, authorize, token, config, protects, cookie, metadata, hosts, callback, logout,
	// errors, named, storage, keys
	Name   string `json:"check"`
	Target string `json:"target"`
	aventus.Finding
}

// examine makes all checks, one after the other, and each once.
func (d *doctor) examine(ctx context.Context) {
	d.report.Blocks = d.gather()
	d.failed = make(map[string]bool)
	asked := make(map[string]bool)
	d.say("The authorization server\n")
	for _, b := range d.report.Blocks {
		endpoints := []string{b.block.Config.AuthorizeURL, b.block.Config.TokenURL}
		if b.block.NeedsKeys {
			endpoints = append(endpoints, b.block.JWKSURL)
		}
		for _, endpoint := range endpoints {
			if u := parsed(endpoint); !asked[u.Host] {
				asked[u.Host] = true
				d.askHost(ctx, u)
			}
		}
	}
	for _, b := range d.report.Blocks {
		if !asked[b.block.JWKSURL] {
			asked[b.block.JWKSURL] = true
			d.askKeys(ctx, b.block)
		}
	}
	for _, b := range d.report.Blocks {
		d.say("\naventus_auth with client_id %s\n", b.ClientID)
		if b.Count > 1 {
			d.say("  %d blocks are alike.\n", b.Count)
		}
		d.say("  To be registered as its callback URL, to the letter:\n")
		for _, uri := range b.RedirectURIs {
			d.say("    %s\n", uri)
		}
		if len(b.LogoutURIs) > 0 {
			d.say("  To be registered as its back-channel logout URL:\n    %s\n", strings.Join(b.LogoutURIs, "\n    "))
		}
		if len(b.ReturnURLs) > 0 {
			d.say("  To be registered as its logout URL:\n    %s\n", strings.Join(b.ReturnURLs, "\n    "))
		}
		d.askBlock(ctx, b)
	}
	if len(d.lost) > 0 {
		d.say("\nNamed routes\n")
	}
	for _, f := range d.lost {
		d.ask(&d.report.Checks, "named", "Caddyfile", func() aventus.Finding { return f })
	}
	d.say("\nCaddy's storage\n")
	d.askStorage(ctx)
}

// parsed parses a URL of the settings, which was checked when the config was loaded.
func parsed(raw string) *url.URL {
	u, _ := url.Parse(raw)
	return u
}

// originOf returns the origin of a URL.
func originOf(uri string) string {
	scheme, rest, _ := strings.Cut(uri, "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}

// at returns a path at an origin, and what is no path unchanged.
func at(origin, path string) string {
	if strings.HasPrefix(path, "/") {
		return origin + path
	}
	return path
}

// askHost checks whether a host can be reached, and compares its clock.
func (d *doctor) askHost(ctx context.Context, u *url.URL) {
	dns := d.ask(&d.report.Checks, "dns", inURL(u.Hostname()),
		func() aventus.Finding { return aventus.LookUp(ctx, u) })
	d.failed[u.Host] = dns.Status == aventus.Fail
	connect := d.askThere(&d.report.Checks, "connect", u.Host, u,
		func() aventus.Finding { return aventus.Connect(ctx, u) })
	d.failed[u.Host] = d.failed[u.Host] || connect.Status == aventus.Fail
	d.askThere(&d.report.Checks, "clock", u.Host, u,
		func() aventus.Finding { return aventus.ProbeClock(ctx, u, d.Now) })
}

// askKeys checks whether the key set of b can be fetched. If no login needs it, a missing
// key set is not a failure.
func (d *doctor) askKeys(ctx context.Context, b *Block) {
	to := b.JWKSURL
	needed := slices.ContainsFunc(d.blocks, func(other *Block) bool { return other.JWKSURL == to && other.NeedsKeys })
	d.askThere(&d.report.Checks, "jwks", to, parsed(to), func() aventus.Finding {
		f := b.KeySet.Probe(ctx)
		if f.Status == aventus.Fail && !needed {
			return skipped(f.Detail + "; no login here needs it")
		}
		return f
	})
}

// askBlock checks the block at the authorization server, and the routes to its callback.
func (d *doctor) askBlock(ctx context.Context, b *block) {
	for _, uri := range b.RedirectURIs {
		d.askThere(&b.Checks, "authorize", uri, parsed(b.block.Config.AuthorizeURL), func() aventus.Finding {
			if b.block.leavesHost() && strings.ContainsAny(uri, "{*") {
				return skipped("the name of the host is not known")
			}
			return b.block.Client.ProbeAuthorize(ctx, uri, b.block.WithNonce)
		})
	}
	d.askThere(&b.Checks, "token", b.block.Config.TokenURL, parsed(b.block.Config.TokenURL), func() aventus.Finding {
		uri := strings.NewReplacer(hostPlaceholder, anyHost, "*", "any").Replace(b.RedirectURIs[0])
		return b.block.Client.ProbeToken(ctx, uri)
	})
	for _, n := range b.notices {
		d.ask(&b.Checks, "config", n.About, func() aventus.Finding {
			return aventus.Finding{Status: aventus.Warn, Detail: aventus.CleanText(n.Detail), Next: n.Next}
		})
	}
	told := make(map[string]bool)
	for _, place := range b.places {
		target := cmp.Or(place.names(), "any host")
		f := d.protects(place.block, place)
		if !told[target+f.Detail] {
			told[target+f.Detail] = true
			d.ask(&b.Checks, "protects", target, func() aventus.Finding { return f })
		}
	}
	for _, place := range b.places {
		target := place.names()
		if rival := d.rival(place); rival != nil && !told["cookie"+target] {
			told["cookie"+target] = true
			d.ask(&b.Checks, "cookie", target, func() aventus.Finding { return rivalry(rival) })
		}
	}
	for _, uri := range b.RedirectURIs {
		if u, err := url.Parse(uri); err == nil && b.isDeaf(u) {
			d.ask(&b.Checks, "hosts", inURL(u.Hostname()), func() aventus.Finding { return deaf(u) })
		}
	}
	for _, place := range b.places {
		target := cmp.Or(place.names(), "any host")
		if place.block.TakesBearers && !told["api"+target] {
			told["api"+target] = true
			d.ask(&b.Checks, "metadata", target, func() aventus.Finding { return d.metadata(place) })
		}
	}
	for _, host := range b.block.Hosts {
		d.ask(&b.Checks, "hosts", host, func() aventus.Finding { return d.findListed(b, host) })
	}
	apart := d.apart(b)
	for _, host := range slices.Sorted(maps.Keys(apart)) {
		d.ask(&b.Checks, "hosts", host, func() aventus.Finding { return apart[host] })
	}
	for _, host := range b.unlisted() {
		d.ask(&b.Checks, "hosts", inURL(host), func() aventus.Finding { return b.strayHost(host) })
	}
	for _, uri := range b.RedirectURIs {
		d.ask(&b.Checks, "callback", uri, func() aventus.Finding { return d.findCallback(b, uri) })
	}
	for _, uri := range b.LogoutURIs {
		d.ask(&b.Checks, "logout", uri, func() aventus.Finding { return d.findLogout(b, uri) })
	}
	for _, place := range b.places {
		target := cmp.Or(place.names(), "any host")
		if f, found := d.examineErrorRoutes(place); found && !told[target+f.Detail] {
			told[target+f.Detail] = true
			d.ask(&b.Checks, "errors", target, func() aventus.Finding { return f })
		}
	}
}

// examineErrorRoutes checks whether the error routes of a place could answer a refused
// request with the content that was refused. It reports false if there are none.
func (d *doctor) examineErrorRoutes(p place) (f aventus.Finding, found bool) {
	hosts := p.hosts
	if strings.ContainsAny(strings.Join(hosts, ""), "*{") {
		hosts = nil
	}
	unsafe, found := d.Refusals(p.server, hosts)
	f = aventus.Finding{Status: aventus.Warn, Next: d.RefusalsAdvice}
	if unsafe != "" {
		f.Detail = unsafe + " could answer a refused request with what it asked for; " +
			"it gets a line of text from aventus_auth, and not these error pages"
	}
	if unsafe, failing := d.Unguarded(p.server, hosts); unsafe != "" {
		if f.Detail != "" {
			f.Detail += "; and "
		} else {
			f.Next = d.UnguardedAdvice
		}
		f.Detail += failing + " may fail before aventus_auth sees a request, and " + unsafe +
			" in handle_errors could then answer it with what it asks for"
	}
	if f.Detail != "" {
		return f, true
	}
	return aventus.Finding{Status: aventus.Pass, Detail: "they show nothing that is protected"}, found
}

// askThere is ask for a check that needs the host of u.
func (d *doctor) askThere(to *[]check, name, target string, u *url.URL, probe func() aventus.Finding) aventus.Finding {
	if d.failed[u.Host] {
		probe = func() aventus.Finding { return skipped(u.Host + " cannot be reached") }
	}
	return d.ask(to, name, target, probe)
}

func skipped(why string) aventus.Finding { return aventus.Finding{Status: aventus.Skip, Detail: why} }

// ask makes one check, and reports its result.
func (d *doctor) ask(to *[]check, name, target string, probe func() aventus.Finding) aventus.Finding {
	wait := fmt.Sprintf("  ... %s", name)
	fmt.Fprint(d.progress, wait)
	c := check{name, target, probe()}
	*to = append(*to, c)
	fmt.Fprintf(d.progress, "\r%*s\r", len(wait), "")

	mark, next := map[aventus.Status]string{
		"pass": "pass", "warn": "WARN", "fail": "FAIL", "skip": "skip",
	}[c.Status], "next:"
	if d.isTerminal {
		mark, next = map[aventus.Status]string{"pass": "✓", "warn": "!", "fail": "✗", "skip": "-"}[c.Status], "→"
	}
	d.say("  %s %-9s  %s: %s\n", mark, name, target, c.Detail)
	if c.Next != "" {
		d.say("  %*s %s %s\n", utf8.RuneCountInString(mark)+len(" authorize "), "", next, c.Next)
	}
	return c.Finding
}

// say prints text for people: nothing if the report is JSON.
func (d *doctor) say(format string, args ...any) {
	if !d.asJSON {
		fmt.Fprintf(d.out, format, args...)
	}
}

// conclude prints the counts, or the JSON document.
func (d *doctor) conclude() error {
	all := d.report.Checks
	for _, b := range d.report.Blocks {
		all = slices.Concat(all, b.Checks)
	}
	count := make(map[aventus.Status]int)
	for _, c := range all {
		count[c.Status]++
	}
	d.report.OK = count[aventus.Fail] == 0
	d.say("\n%d passed, %d failed, %d with a warning, %d skipped\n",
		count[aventus.Pass], count[aventus.Fail], count[aventus.Warn], count[aventus.Skip])
	if !d.asJSON {
		return nil
	}
	out := json.NewEncoder(d.out)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(d.report)
}

// isTerminal reports whether file is a terminal.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
