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
	own      map[*Handler][]string // the names of the cookies of those at one host
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
	return nil
}

// cookieNames returns the names of the cookies that the module may have at the host
// of h: its own, and those of its peers there.
func (p *peers) cookieNames(h *Handler) []string {
	p.mu.RLock()
	own, ok := p.own[h]
	p.mu.RUnlock()
	if ok {
		return own
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	own = []string{h.cfg.cookieName, h.cfg.bindingName}
	for _, other := range p.handlers {
		if other.cfg.host != h.cfg.host && other.cfg.host != anyHost && h.cfg.host != anyHost {
			continue
		}
		for _, name := range []string{other.cfg.cookieName, other.cfg.bindingName} {
			if !slices.Contains(own, name) {
				own = append(own, name)
			}
		}
	}
	if p.own == nil {
		p.own = make(map[*Handler][]string)
	}
	p.own[h] = own
	return own
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
