package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// storages measures few and many sessions in each engine.
func (b *bench) storages() error {
	for _, name := range []string{"files", "redis"} {
		if err := b.storage(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// shop is a site with its sessions in a storage of its own.
type shop struct {
	*node
	engine
	cookies   []string
	perSecond float64 // logins
	each      float64 // bytes in the storage for each
	cpu       float64 // milliseconds for each
	heap      float64 // bytes that live in the server for each

	lookups, known, logins []time.Duration
	list, end              time.Duration
}

// stop hides that both the node and its engine have one.
func (s *shop) stop() {
	if s.node != nil {
		s.node.stop()
	}
	s.engine.stop()
}

func (b *bench) storage(name string) error {
	var addrs []string
	for range b.sizes.storage {
		addr, err := aventustest.FreeAddr()
		if err != nil {
			return err
		}
		addrs = append(addrs, addr)
	}
	w, err := b.newWorld(750, addrs...)
	if err != nil {
		return err
	}
	defer w.stop()
	var shops []*shop
	for i, size := range b.sizes.storage {
		s, err := b.newShop(fmt.Sprint(name, "-", size), name, addrs[i], w)
		if err != nil {
			return err
		}
		defer s.stop()
		if err := b.fill(s, size); err != nil {
			return err
		}
		b.say("%s: %d logins, %.0f a second", name, size, s.perSecond)
		shops = append(shops, s)
		if err := s.restart(); err != nil { // who has just logged in is in memory
			return err
		}
	}
	// In turns, so that what else the machine does hits all alike.
	for _, s := range shops {
		rand.Shuffle(len(s.cookies), func(i, j int) { s.cookies[i], s.cookies[j] = s.cookies[j], s.cookies[i] })
	}
	for i := range b.probes {
		for _, s := range shops {
			if err := s.probe(b.ctx, s.cookies[i], i%10 == 0); err != nil {
				return err
			}
		}
	}
	for _, s := range shops {
		if err := s.administer(); err != nil {
			return err
		}
	}
	b.say("%s: looked up and logged in", name)

	t := b.report.growing("Sessions in the storage: "+name, b.sizes.storage)
	add := func(name, unit string, of func(*shop) float64) {
		var values []float64
		for _, s := range shops {
			values = append(values, of(s))
		}
		t.add(name, unit, values...)
	}
	add("lookup, not in memory: median", "µs", func(s *shop) float64 { return micro(quantile(s.lookups, 0.5)) })
	add("lookup, not in memory: p99", "µs", func(s *shop) float64 { return micro(quantile(s.lookups, 0.99)) })
	add("the same, in memory: median", "µs", func(s *shop) float64 { return micro(quantile(s.known, 0.5)) })
	add("login: median", "ms", func(s *shop) float64 { return milli(quantile(s.logins, 0.5)) })
	add("login: p99", "ms", func(s *shop) float64 { return milli(quantile(s.logins, 0.99)) })
	add("login: the server's processor time", "ms", func(s *shop) float64 { return s.cpu })
	add("logins a second while it was filled", "", func(s *shop) float64 { return s.perSecond })
	add("in the storage for each login", "bytes", func(s *shop) float64 { return s.each })
	add("in the server's memory for each login", "bytes", func(s *shop) float64 { return s.heap })
	add("listing all (admin API)", "ms", func(s *shop) float64 { return milli(s.list) })
	add("ending one by its id (admin API)", "ms", func(s *shop) float64 { return milli(s.end) })
	return nil
}

func (b *bench) newShop(name, kind, addr string, w *world) (s *shop, err error) {
	s = new(shop)
	if s.engine, err = b.newEngine(kind, name); err != nil {
		return nil, err
	}
	if s.node, err = b.newNode(addr, w, s.config(), "session {\nstore storage\n}", asSubject); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// fill logs visitors in, one by one and for real.
func (b *bench) fill(s *shop, size int) error {
	if _, _, _, err := login(b.ctx, s.addr); err != nil { // the keys are made
		return err
	}
	var before, after float64
	var took time.Duration
	var err error
	if before, err = s.size(b.ctx); err != nil {
		return err
	}
	empty, err := s.look()
	if err != nil {
		return err
	}
	if s.cookies, took, err = logins(b.ctx, s.addr, size); err != nil {
		return err
	}
	used, err := s.node.cpu()
	if err != nil {
		return err
	}
	full, err := s.look()
	if err != nil {
		return err
	}
	if after, err = s.size(b.ctx); err != nil {
		return err
	}
	s.perSecond, s.each = float64(size)/took.Seconds(), (after-before)/float64(size)
	s.cpu, s.heap = milli(used-empty.cpu)/float64(size), (full.heap-empty.heap)/float64(size)
	return nil
}

// probe looks a session up that was not asked for since it was made, once more now
// that it is in memory, and perhaps logs somebody in.
func (s *shop) probe(ctx context.Context, cookie string, logIn bool) error {
	for _, times := range []*[]time.Duration{&s.lookups, &s.known} {
		took, err := enter(ctx, s.addr, cookie)
		if err != nil {
			return err
		}
		*times = append(*times, took)
	}
	if !logIn {
		return nil
	}
	_, took, _, err := login(ctx, s.addr)
	s.logins = append(s.logins, took)
	return err
}

// administer lists all sessions, and ends one.
func (s *shop) administer() error {
	began := time.Now()
	list, err := s.ask(http.MethodGet, "/aventus_auth/sessions")
	if err != nil {
		return err
	}
	s.list = time.Since(began)
	var sessions []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(list), &sessions); err != nil {
		return err
	}
	if len(sessions) < len(s.cookies) {
		return fmt.Errorf("only %d sessions are listed", len(sessions))
	}
	began = time.Now()
	_, err = s.ask(http.MethodDelete, "/aventus_auth/sessions?id="+sessions[0].ID)
	s.end = time.Since(began)
	return err
}
