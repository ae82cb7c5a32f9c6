package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/spf13/cobra"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// loaded is a config that was provisioned but not started.
type loaded struct {
	Front
	app     *caddyhttp.App
	blocks  []*Block
	storage json.RawMessage // nil: Caddy's default
	lost    []aventus.Finding
}

// loadConfig loads the config as `caddy validate` does, with its errors, but leaves no
// files behind, since their owner could lock the server out: it opens no log file, and
// the local certificate authority is made in another folder.
func loadConfig(fl caddycmd.Flags, front Front) (*loaded, error) {
	// Caddy's own log lines would stand between the lines of the report.
	if err := caddy.Validate(&caddy.Config{Logging: quiet()}); err != nil {
		return nil, err
	}
	if err := loadEnvironment(fl); err != nil {
		return nil, err
	}
	raw, file, _, err := caddycmd.LoadConfig(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, err
	}
	if file == "" {
		return nil,
			errors.New("input file required when there is no Caddyfile in current directory (use --config flag)")
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(raw), config); err != nil {
		return nil, fmt.Errorf("decoding config: %v", err)
	}
	elsewhere, err := os.MkdirTemp("", "aventus-auth-doctor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(elsewhere)
	l := &loaded{Front: front, storage: config.StorageRaw, lost: lostDirectives(file, fl.String("adapter"), raw)}
	config.Logging = quiet()
	config.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": elsewhere}, nil)
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		return nil, err
	}
	if l.blocks = front.Blocks(); len(l.blocks) == 0 {
		err := errors.New("there is no aventus_auth in this config")
		for _, f := range l.lost {
			err = fmt.Errorf("%w: %s; %s", err, f.Detail, f.Next)
		}
		return nil, err
	}
	app, err := ctx.App("http")
	if err != nil {
		return nil, err
	}
	l.app = app.(*caddyhttp.App)
	return l, nil
}

// quiet returns a logging config that logs nothing.
func quiet() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "FATAL"}}}}
}

// loadEnvironment loads the environment files as `caddy run` does. Caddy exports no function
// for that, so this runs a command that loads them first, and then fails since no adapter
// is named.
func loadEnvironment(fl caddycmd.Flags) error {
	if !fl.Changed("envfile") {
		return nil
	}
	adapt := new(cobra.Command)
	caddycmd.Commands()["adapt"].CobraFunc(adapt)
	adapt.Flags().Lookup("envfile").Value = fl.Lookup("envfile").Value
	if err := adapt.ParseFlags([]string{"--config", "-", "--adapter", ""}); err != nil {
		return err
	}
	if err := adapt.RunE(adapt, nil); err != nil && !strings.HasPrefix(err.Error(), "adapter name is required") {
		return err
	}
	return nil
}

// gather groups the blocks that are alike.
func (l *loaded) gather() []*block {
	standing := places(l.app, func(handler caddyhttp.MiddlewareHandler) bool { return l.blockOf(handler) != nil })
	groups := make(map[string]*block)
	for _, loaded := range l.blocks {
		key := fmt.Sprintf("%q %q %#v %q %v %q",
			loaded.RedirectURI, loaded.Issuer, loaded.Config, loaded.JWKSURL, loaded.NeedsKeys, loaded.Hosts)
		b := groups[key]
		if b == nil {
			b = &block{ClientID: aventus.CleanText(loaded.Config.ClientID), Issuer: loaded.Issuer, block: loaded}
			groups[key] = b
		}
		b.Count++
		for _, n := range loaded.Notices {
			if !slices.Contains(b.notices, n) {
				b.notices = append(b.notices, n)
			}
		}
		found := standing[loaded.Handler]
		for i := range found {
			found[i].block, found[i].begins = loaded, loaded.Begins
		}
		b.places = append(b.places, found...)
		if len(found) == 0 {
			found = []place{{}}
		}
		for _, place := range found {
			if !loaded.leavesHost() || len(place.hosts) == 0 {
				place.hosts = []string{hostPlaceholder}
			}
			for _, host := range place.hosts {
				uri := strings.Replace(loaded.RedirectURI, hostPlaceholder, inURL(strings.ToLower(host)), 1)
				b.RedirectURIs = append(b.RedirectURIs, uri)
				b.LogoutURIs = append(b.LogoutURIs, at(originOf(uri), loaded.BackchannelPath))
				b.ReturnURLs = append(b.ReturnURLs, at(originOf(uri), loaded.LogoutReturn))
			}
		}
		// People sign out at any of the hosts that share the login, and come back to it.
		for _, origin := range b.listedOrigins() {
			b.ReturnURLs = append(b.ReturnURLs, at(origin, loaded.LogoutReturn))
		}
	}
	var blocks []*block
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		b := groups[key]
		for _, urls := range []*[]string{&b.RedirectURIs, &b.LogoutURIs, &b.ReturnURLs} {
			*urls = slices.DeleteFunc(*urls, func(url string) bool { return url == "" })
			slices.Sort(*urls)
			*urls = slices.Compact(*urls)
		}
		blocks = append(blocks, b)
	}
	return blocks
}

// inURL returns a host in its form for URLs, where an IPv6 address has brackets
// (RFC 3986, section 3.2.2).
func inURL(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// blockOf returns the block of a handler, or nil if the handler is not a block.
func (l *loaded) blockOf(handler caddyhttp.MiddlewareHandler) *Block {
	for _, b := range l.blocks {
		if b.Handler == handler {
			return b
		}
	}
	return nil
}
