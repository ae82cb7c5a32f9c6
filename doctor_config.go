package aventusauth

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

// loaded is a config that was provisioned and not started.
type loaded struct {
	app      *caddyhttp.App
	handlers []*Handler
	storage  json.RawMessage // nil: Caddy's default
}

// loadConfig loads the config as `caddy validate` does, with its errors, but for two
// things that would be left behind, perhaps with an owner that keeps the server out:
// no log file is opened, and the local certificate authority is made elsewhere.
func loadConfig(fl caddycmd.Flags) (*loaded, error) {
	// What Caddy says of its own progress would stand between the lines here.
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
		return nil, errors.New("input file required when there is no Caddyfile in current directory (use --config flag)")
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
	l := &loaded{storage: config.StorageRaw}
	config.Logging = quiet()
	config.StorageRaw = caddyconfig.JSON(map[string]string{"module": "file_system", "root": elsewhere}, nil)
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		return nil, err
	}
	if l.handlers = handlers(); len(l.handlers) == 0 {
		return nil, errors.New("there is no aventus_auth in this config")
	}
	app, err := ctx.App("http")
	if err != nil {
		return nil, err
	}
	l.app = app.(*caddyhttp.App)
	return l, nil
}

// quiet returns a logging config of which nothing is heard.
func quiet() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "FATAL"}}}}
}

// loadEnvironment loads the environment files as `caddy run` does. Caddy has no other
// way in than its commands: this one loads them first, and then finds that it was
// told no adapter.
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

// gather puts the blocks that are alike together.
func (l *loaded) gather() []*block {
	at := places(l.app)
	groups := make(map[string]*block)
	for _, h := range l.handlers {
		key := fmt.Sprintf("%q %q %#v %q %v", h.cfg.redirectURI, h.cfg.issuer, h.cfg.Config, h.cfg.jwksURL, h.needsKeys())
		b := groups[key]
		if b == nil {
			b = &block{ClientID: aventus.CleanText(h.cfg.ClientID), Issuer: h.cfg.issuer, h: h}
			groups[key] = b
		}
		b.Count++
		place := at[h]
		if place.server != nil {
			b.servers = append(b.servers, place.server)
		}
		if h.cfg.fixedSite != nil || len(place.hosts) == 0 {
			place.hosts = []string{hostPlaceholder}
		}
		for _, host := range place.hosts {
			b.RedirectURIs = append(b.RedirectURIs, strings.Replace(h.cfg.redirectURI, hostPlaceholder, strings.ToLower(host), 1))
		}
	}
	var blocks []*block
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		b := groups[key]
		slices.Sort(b.RedirectURIs)
		b.RedirectURIs = slices.Compact(b.RedirectURIs)
		blocks = append(blocks, b)
	}
	return blocks
}
