package main

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// asSubject is a site that says who the visitor is, so that what is remembered of a
// session holds the claims, too, as with an access log that names the user.
const asSubject = `respond "{http.auth.user.id}"`

// memory measures what a session costs the server's memory in each store.
func (b *bench) memory() error {
	live := b.report.growing("Memory: what lives on the heap for that many sessions that came by", b.sizes.memory)
	live.Grows = false
	resident := b.report.growing("Memory: resident, above a Caddy that has seen one session", b.sizes.memory)
	resident.Grows = false
	one := b.report.table("Memory: a session that is remembered", "each")
	for _, store := range []string{"cookie", "storage"} {
		for _, chars := range []int{750, 1500} {
			name := fmt.Sprintf("%s, token of %d", store, chars)
			heaps, residents, err := b.memoryOf(store, chars)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			live.add(name, "MiB", heaps...)
			resident.add(name, "MiB", residents...)
			one.add(name, "bytes", heaps[0]*mega/float64(b.sizes.memory[0]))
		}
	}
	return nil
}

func (b *bench) memoryOf(store string, chars int) (heaps, residents []float64, err error) {
	addr, err := aventustest.FreeAddr()
	if err != nil {
		return nil, nil, err
	}
	w, err := b.newWorld(chars, addr)
	if err != nil {
		return nil, nil, err
	}
	defer w.stop()
	folder := filepath.Join(b.dir, "memory-"+store+strconv.Itoa(chars))
	n, err := b.newNode(addr, w, "storage file_system "+folder, "session {\nstore "+store+"\n}", asSubject)
	if err != nil {
		return nil, nil, err
	}
	defer n.stop()
	last := b.sizes.memory[len(b.sizes.memory)-1]
	cookies, _, err := logins(b.ctx, addr, last+1)
	if err != nil {
		return nil, nil, err
	}
	// What logging in left behind is not what sessions cost.
	if err := n.restart(); err != nil {
		return nil, nil, err
	}
	if err := each(b.ctx, b.bare, atOnce, func(int) error {
		_, err := enter(b.ctx, addr, cookies[last])
		return err
	}); err != nil {
		return nil, nil, err
	}
	before, err := n.look()
	if err != nil {
		return nil, nil, err
	}
	from := 0
	for _, to := range b.sizes.memory {
		if err := each(b.ctx, to-from, atOnce, func(i int) error {
			_, err := enter(b.ctx, addr, cookies[from+i])
			return err
		}); err != nil {
			return nil, nil, err
		}
		from = to
		now, err := n.look()
		if err != nil {
			return nil, nil, err
		}
		heaps = append(heaps, (now.heap-before.heap)/mega)
		residents = append(residents, (now.resident-before.resident)/mega)
	}
	b.say("memory, %s, token of %d: %.1f MiB live after %d sessions", store, chars, heaps[len(heaps)-1], from)
	return heaps, residents, nil
}
