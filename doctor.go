package aventusauth

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"github.com/spf13/cobra"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// doctorCommand is `caddy aventus-auth doctor`.
func doctorCommand() *cobra.Command {
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
		config, err := loadConfig(fl)
		if err != nil {
			return err
		}
		d := &doctor{loaded: config, asJSON: fl.Bool("json"), out: cmd.OutOrStdout(), isTerminal: isTerminal(os.Stdout), progress: io.Discard}
		if isTerminal(os.Stderr) {
			d.progress = cmd.ErrOrStderr()
		}
		d.examine(cmd.Context())
		if err := d.conclude(); err != nil {
			return err
		}
		if !d.report.OK {
			cmd.SilenceErrors = true // all has been said
			return errors.New("a check failed")
		}
		return nil
	}
	return cmd
}

// doctor examines a config, and tells what it finds as it finds it.
type doctor struct {
	*loaded
	asJSON     bool
	out        io.Writer
	isTerminal bool      // out is one
	progress   io.Writer // a terminal, or nothing

	report report
	failed map[string]bool // whether a host can be reached no further
}

// report is what --json prints.
type report struct {
	OK     bool     `json:"ok"` // no check failed
	Blocks []*block `json:"blocks"`
	Checks []check  `json:"checks"` // of what blocks share
}

// block is what is said of the aventus_auth blocks that are alike in all that is
// asked for. One may stand in several sites, or be loaded for each of them.
type block struct {
	ClientID     string   `json:"client_id"`
	Issuer       string   `json:"issuer"`
	RedirectURIs []string `json:"redirect_uris"` // to be registered
	Count        int      `json:"count"`
	Checks       []check  `json:"checks"`

	h       *Handler            // one of them
	servers []*caddyhttp.Server // where they are
}

type check struct {
	Name   string `json:"check"` // dns, connect, clock, jwks, authorize, token, callback, storage
	Target string `json:"target"`
	aventus.Finding
}

// needsKeys reports whether a login needs the authorization server's key set.
func (h *Handler) needsKeys() bool { return h.tokens != nil || h.idTokens != nil }

// examine asks all there is to ask, one thing after the other, and each thing once.
func (d *doctor) examine(ctx context.Context) {
	d.report.Blocks = d.gather()
	d.failed = make(map[string]bool)
	asked := make(map[string]bool)
	d.say("The authorization server\n")
	for _, b := range d.report.Blocks {
		endpoints := []string{b.h.cfg.AuthorizeURL, b.h.cfg.TokenURL}
		if b.h.needsKeys() {
			endpoints = append(endpoints, b.h.cfg.jwksURL)
		}
		for _, endpoint := range endpoints {
			if u := parsed(endpoint); !asked[u.Host] {
				asked[u.Host] = true
				d.askHost(ctx, u)
			}
		}
	}
	for _, b := range d.report.Blocks {
		if !asked[b.h.cfg.jwksURL] {
			asked[b.h.cfg.jwksURL] = true
			d.askKeys(ctx, b.h)
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
		d.askBlock(ctx, b)
	}
	d.say("\nCaddy's storage\n")
	d.ask(&d.report.Checks, "storage", storageName(d.storage), func() aventus.Finding { return probeStorage(ctx, d.storage) })
}

// parsed parses a URL of the settings, which were checked.
func parsed(raw string) *url.URL {
	u, _ := url.Parse(raw)
	return u
}

// askHost sees whether a host can be reached, and what time it is there.
func (d *doctor) askHost(ctx context.Context, u *url.URL) {
	dns := d.ask(&d.report.Checks, "dns", u.Hostname(), func() aventus.Finding { return aventus.LookUp(ctx, u) })
	d.failed[u.Host] = dns.Status == aventus.Fail
	connect := d.askThere(&d.report.Checks, "connect", u.Host, u, func() aventus.Finding { return aventus.Connect(ctx, u) })
	d.failed[u.Host] = d.failed[u.Host] || connect.Status == aventus.Fail
	d.askThere(&d.report.Checks, "clock", u.Host, u, func() aventus.Finding { return aventus.ProbeClock(ctx, u, clock) })
}

// askKeys sees whether the key set of h can be had. Where no login needs it, it is no
// failure that there is none.
func (d *doctor) askKeys(ctx context.Context, h *Handler) {
	to := h.cfg.jwksURL
	needed := slices.ContainsFunc(d.handlers, func(other *Handler) bool { return other.cfg.jwksURL == to && other.needsKeys() })
	d.askThere(&d.report.Checks, "jwks", to, parsed(to), func() aventus.Finding {
		f := h.keySet.Probe(ctx)
		if f.Status == aventus.Fail && !needed {
			return skipped(f.Detail + "; no login here needs it")
		}
		return f
	})
}

// askBlock asks what the authorization server makes of the block, and the routes of
// its callback.
func (d *doctor) askBlock(ctx context.Context, b *block) {
	for _, uri := range b.RedirectURIs {
		d.askThere(&b.Checks, "authorize", uri, parsed(b.h.cfg.AuthorizeURL), func() aventus.Finding {
			if b.h.cfg.fixedSite == nil && strings.ContainsAny(uri, "{*") {
				return skipped("the name of the host is not known")
			}
			return b.h.client.ProbeAuthorize(ctx, uri, b.h.idTokens != nil)
		})
	}
	d.askThere(&b.Checks, "token", b.h.cfg.TokenURL, parsed(b.h.cfg.TokenURL), func() aventus.Finding {
		return b.h.client.ProbeToken(ctx, strings.NewReplacer(hostPlaceholder, anyHost, "*", "any").Replace(b.RedirectURIs[0]))
	})
	for _, uri := range b.RedirectURIs {
		d.ask(&b.Checks, "callback", uri, func() aventus.Finding { return findCallback(d.app, b, uri) })
	}
}

// askThere is ask for what needs the host of u.
func (d *doctor) askThere(to *[]check, name, target string, u *url.URL, probe func() aventus.Finding) aventus.Finding {
	if d.failed[u.Host] {
		probe = func() aventus.Finding { return skipped(u.Host + " cannot be reached") }
	}
	return d.ask(to, name, target, probe)
}

func skipped(why string) aventus.Finding { return aventus.Finding{Status: aventus.Skip, Detail: why} }

// ask asks one thing, and says what came of it.
func (d *doctor) ask(to *[]check, name, target string, probe func() aventus.Finding) aventus.Finding {
	wait := fmt.Sprintf("  ... %s", name)
	fmt.Fprint(d.progress, wait)
	c := check{name, target, probe()}
	*to = append(*to, c)
	fmt.Fprintf(d.progress, "\r%*s\r", len(wait), "")

	mark, next := map[aventus.Status]string{"pass": "pass", "warn": "WARN", "fail": "FAIL", "skip": "skip"}[c.Status], "next:"
	if d.isTerminal {
		mark, next = map[aventus.Status]string{"pass": "✓", "warn": "!", "fail": "✗", "skip": "-"}[c.Status], "→"
	}
	d.say("  %s %-9s  %s: %s\n", mark, name, target, c.Detail)
	if c.Next != "" {
		d.say("  %*s %s %s\n", utf8.RuneCountInString(mark)+len(" authorize "), "", next, c.Next)
	}
	return c.Finding
}

// say prints what is for people.
func (d *doctor) say(format string, args ...any) {
	if !d.asJSON {
		fmt.Fprintf(d.out, format, args...)
	}
}

// conclude counts what there was, and prints the document where that is wanted.
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

// storageName says which storage it is, and nothing of how to get in there.
func storageName(raw json.RawMessage) string {
	var module struct {
		Name string `json:"module"`
	}
	if json.Unmarshal(raw, &module) != nil || module.Name == "" {
		return "file_system"
	}
	return module.Name
}

// probeStorage does with the storage what a login does, under a name of its own.
func probeStorage(ctx context.Context, raw json.RawMessage) aventus.Finding {
	fail := func(doing string, err error) aventus.Finding {
		return aventus.Finding{
			Status: aventus.Fail, Detail: aventus.CleanText(fmt.Sprintf("%s: %v", doing, err)),
			Next: "logins need it: see that it is up, has room, and lets the user that Caddy runs as write, lock and delete",
		}
	}
	opened, err := openStorage(raw)
	if err != nil {
		return fail("opening it", err)
	}
	if files, ok := opened.(*certmagic.FileStorage); ok {
		// The folders that it makes go again, too.
		for _, dir := range []string{files.Path, filepath.Join(files.Path, "locks")} {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				defer os.Remove(dir)
			}
		}
	}
	storage, name, value := records.Bounded(opened, nil), "aventus_auth_doctor_"+rand.Text(), []byte(rand.Text())
	if err := storage.Lock(ctx, name); err != nil {
		return fail("taking a lock", err)
	}
	defer func() { _ = storage.Unlock(ctx, name) }()
	if err := storage.Store(ctx, name, value); err != nil {
		return fail("writing", err)
	}
	read, err := storage.Load(ctx, name)
	if err == nil && !bytes.Equal(read, value) {
		err = errors.New("what came back is not what was written")
	}
	if deleteErr := storage.Delete(ctx, name); err == nil && deleteErr != nil {
		return fail("deleting", deleteErr)
	}
	if err != nil {
		return fail("reading", err)
	}
	return aventus.Finding{Status: aventus.Pass, Detail: "it can be written, read, locked and deleted from"}
}

// openStorage loads the storage's module, which may well connect to it.
func openStorage(raw json.RawMessage) (certmagic.Storage, error) {
	type result struct {
		ctx caddy.Context
		err error
	}
	done := make(chan result, 1)
	go func() {
		ctx, err := caddy.ProvisionContext(&caddy.Config{Logging: quiet(), StorageRaw: raw})
		done <- result{ctx, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.ctx.Storage(), nil
	case <-time.After(10 * time.Second):
		return nil, errors.New("no answer within 10s")
	}
}

// isTerminal reports whether somebody may be looking at what is written to file.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
