package aventusauth

import (
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// peers are the handlers of one config. They need to know of each other: one of
// them gets the callbacks of all that share a redirect URI, and none may hand
// another's cookies on.
type peers struct {
	mu       sync.RWMutex
	handlers []*Handler
	own      []string // the names of their cookies
}

// configs holds the peers of each config that is loaded, by what is new for each:
// two of them are while one replaces the other.
var configs = caddy.NewUsagePool()

// join makes h one of the peers of the config that is being loaded.
func (h *Handler) join(ctx caddy.Context) error {
	config := ctx.GetMetricsRegistry()
	value, _, err := configs.LoadOrNew(config, func() (caddy.Destructor, error) { return new(peers), nil })
	if err != nil {
		return err
	}
	h.config, h.peers = config, value.(*peers)
	h.peers.mu.Lock()
	defer h.peers.mu.Unlock()
	h.peers.handlers = append(h.peers.handlers, h)
	for _, name := range []string{h.cfg.cookieName, h.cfg.bindingName} {
		if !slices.Contains(h.peers.own, name) {
			h.peers.own = append(slices.Clone(h.peers.own), name)
		}
	}
	return nil
}

// cookieNames returns the names of the cookies of all peers.
func (p *peers) cookieNames() []string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.own
}

// sharing returns the handlers other than h that have its redirect URI.
func (p *peers) sharing(h *Handler) []*Handler {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var others []*Handler
	for _, other := range p.handlers {
		if other != h && other.cfg.redirectURI == h.cfg.redirectURI {
			others = append(others, other)
		}
	}
	return others
}

// Destruct implements caddy.Destructor. There is nothing to release.
func (*peers) Destruct() error { return nil }
