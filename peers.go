package aventusauth

import (
	"context"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// peers holds what the blocks of one config share with each other.
type peers struct {
	names     cookieNames          // none may hand another's cookies on
	errors    errorRoutesOfServers // read once for all
	blocks    neighbours           // a logout ends the sessions of all at a host
	resources resources            // one of them describes the others at its host
	callbacks callbacks            // one of them gets the callbacks of all that have its path
	handlers  roster[*Handler]     // for the doctor

	backchannels backchannels // a logout token is for the block whose client it names
}

// join makes a block that is set up known to its peers.
func (p *peers) join(h *Handler) {
	p.names.join(h.house.settings.hosts, h.house.gate.answers.cookies)
	p.blocks.join(h.house.own)
	p.callbacks.join(h.house.handOvers)
	if metadata := h.house.gate.metadata; metadata != nil {
		p.resources.join(metadata.resource)
	}
	if backchannel := h.house.gate.backchannel; backchannel.path != "" {
		p.backchannels.join(backchannel)
	}
	p.handlers.join(h)
}

// configs maps each loaded config to its peers. The key is the metrics registry, which Caddy creates
// per config. There are two of them while one replaces the other.
var configs = caddy.NewUsagePool()

// joinPeers returns the peers of the config that is being loaded. The caller must call the returned
// function when the config is unloaded.
func joinPeers(ctx caddy.Context) (*peers, func() error, error) {
	config := ctx.GetMetricsRegistry()
	value, _, err := configs.LoadOrNew(config, func() (caddy.Destructor, error) { return new(peers), nil })
	if err != nil {
		return nil, nil, err
	}
	return value.(*peers), func() error {
		_, err := configs.Delete(config)
		return err
	}, nil
}

// allNeighbours returns the blocks of all configs that are loaded.
func allNeighbours() []*neighbour {
	var all []*neighbour
	configs.Range(func(_, value any) bool {
		all = append(all, value.(*peers).blocks.list()...)
		return true
	})
	return all
}

// longestOf returns a function that returns how long a session may last that was made by a block, by any that is
// loaded, or by other instances and other configs with the same keys.
func longestOf(own *neighbour) func(context.Context) time.Duration {
	return func(ctx context.Context) (longest time.Duration) {
		for _, n := range append(allNeighbours(), own) {
			if n.server.issuer != own.server.issuer {
				continue // whose sessions end by other names
			}
			keep, err := n.keep(ctx)
			if err != nil || keep == 0 {
				return maxLifetime // it cannot be told for now or, of fixed keys, at all
			}
			longest = max(longest, n.keeper.lifetime, keep)
		}
		return min(longest, maxLifetime)
	}
}

// handlers returns the handlers of all configs that are loaded.
func handlers() []*Handler {
	var all []*Handler
	configs.Range(func(_, value any) bool {
		all = append(all, value.(*peers).handlers.list()...)
		return true
	})
	return all
}

// Destruct implements caddy.Destructor. There is nothing to release.
func (*peers) Destruct() error { return nil }
