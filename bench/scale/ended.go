package main

import (
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// endedSessions measures what it costs to remember the sessions that were ended
// lately, and to learn, every five seconds, whether others have ended any.
func (b *bench) endedSessions() error {
	addr, err := aventustest.FreeAddr()
	if err != nil {
		return err
	}
	w, err := b.newWorld(750, addr)
	if err != nil {
		return err
	}
	defer w.stop()
	n, err := b.newNode(addr, w, "storage file_system "+filepath.Join(b.dir, "ended"),
		"session {\nstore cookie\n}", asSubject)
	if err != nil {
		return err
	}
	defer n.stop()
	last := b.sizes.ended[len(b.sizes.ended)-1]
	cookies, _, err := logins(b.ctx, addr, last+1)
	if err != nil {
		return err
	}
	// Each time, a new Caddy learns of all of them, and remembers nothing else.
	var first, cpu, heap []float64
	look := func() error {
		if err := n.restart(); err != nil {
			return err
		}
		took, err := enter(b.ctx, addr, cookies[last])
		if err != nil {
			return err
		}
		before, err := n.look()
		if err != nil {
			return err
		}
		if err := rest(b.ctx, b.watch); err != nil {
			return err
		}
		used, err := n.cpu()
		first, heap = append(first, milli(took)), append(heap, before.heap)
		cpu = append(cpu, milli(used-before.cpu)/b.watch.Seconds())
		return err
	}
	if err := look(); err != nil { // there are none yet
		return err
	}
	from := 0
	for _, to := range b.sizes.ended {
		if err := each(b.ctx, to-from, atOnce, func(i int) error {
			a, err := visit(b.ctx, "http://"+addr+"/logout", cookies[from+i])
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("a logout was answered %d", a.status)
			}
			return err
		}); err != nil {
			return err
		}
		from = to
		if err := look(); err != nil {
			return err
		}
	}
	t := b.report.growing("Sessions that were ended lately: what they cost a Caddy that does nothing else",
		b.sizes.ended)
	t.add("the first request after a start", "ms", first[1:]...)
	var cpus, heaps []float64
	for i, n := range b.sizes.ended { // above what it is with none
		cpus = append(cpus, cpu[i+1]-cpu[0])
		heaps = append(heaps, (heap[i+1]-heap[0])/float64(n))
	}
	t.add("processor time a second", "ms", cpus...)
	t.add("live heap for each", "bytes", heaps...)
	return nil
}
