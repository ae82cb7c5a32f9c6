package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// learnedRounds is how often each Caddy is asked for a while, by turns with the others.
const learnedRounds = 3

// requestsMeanwhile measures how long a request with a session takes at a Caddy that learns every five seconds what
// other instances have ended.
func (b *bench) requestsMeanwhile() error {
	for _, kind := range []string{"files", "redis"} {
		if err := b.requestsWith(kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// learner is a Caddy that learns what others have ended.
type learner struct {
	*node
	cookie  string
	startup time.Duration // until it lets the session in, after its start
	took    []time.Duration
}

func (b *bench) requestsWith(kind string) error {
	var all []*learner
	for _, n := range b.sizes.learned {
		l, stop, err := b.newLearner(kind, n)
		if err != nil {
			return err
		}
		defer stop()
		all = append(all, l)
	}
	for range learnedRounds {
		for _, l := range all {
			for until := time.Now().Add(b.watch); time.Now().Before(until); {
				took, err := enter(b.ctx, l.addr, l.cookie)
				if err != nil {
					return err
				}
				l.took = append(l.took, took)
			}
		}
	}
	b.say("%s: asked while ends are learned", kind)
	t := b.report.growing("Requests at a Caddy that learns which sessions others have ended: "+kind, b.sizes.learned)
	var first, median, p99 []float64
	for _, l := range all {
		first = append(first, milli(l.startup))
		median, p99 = append(median, micro(quantile(l.took, 0.5))), append(p99, micro(quantile(l.took, 0.99)))
	}
	t.add("until the session is let in, after a start", "ms", first...)
	t.add("median", "µs", median...)
	t.add("p99", "µs", p99...)
	return nil
}

// newLearner starts a Caddy in whose storage another instance has noted n ends, and logs a visitor in.
func (b *bench) newLearner(kind string, n int) (l *learner, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			defer f()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	engine, err := b.newEngine(kind, fmt.Sprint("learned-", kind, "-", n))
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, engine.stop)
	addr, err := aventustest.FreeAddr()
	if err != nil {
		return nil, nil, err
	}
	w, err := b.newWorld(750, addr)
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, w.stop)
	l = new(learner)
	if l.node, err = b.newNode(addr, w, engine.config(), "session {\nstore cookie\n}", asSubject); err != nil {
		return nil, nil, err
	}
	stops = append(stops, l.stop)
	if l.cookie, _, _, err = login(b.ctx, addr); err != nil {
		return nil, nil, err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: b.ctx})
	defer cancel()
	storage, err := engine.storage(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := endMany(b.ctx, storage, n); err != nil {
		return nil, nil, err
	}
	if err := l.restart(); err != nil {
		return nil, nil, err
	}
	began := time.Now()
	for _, err = enter(b.ctx, addr, l.cookie); err != nil && time.Since(began) < time.Minute; {
		_, err = enter(b.ctx, addr, l.cookie) // 503 until it has learned them all
	}
	l.startup = time.Since(began)
	return l, stop, err
}

// endMany leaves in a storage what an instance does that has ended so many. It returns one id of each key.
func endMany(ctx context.Context, storage certmagic.Storage, n int) (known []records.ID, err error) {
	const inOne = 1024
	until := time.Now().Add(10 * time.Hour).Unix()
	for place, p := range map[string]struct {
		single int   // of the last moments
		period int64 // the first
		each   int64 // how many keys later comes the next
	}{
		"aventus_auth/ended/lately": {n / 180, time.Now().Add(-25*time.Minute).Unix() / 300, int64(n/inOne/6 + 1)},
		"aventus_auth/ended/all":    {n / 15, until / 3600, int64(n)},
	} {
		var keys []string
		values := make(map[string][]byte)
		for i := range n / inOne {
			var value []byte
			for range inOne {
				var id records.ID
				_, _ = rand.Read(id[:])
				value = append(value, id[:]...)
				value = binary.BigEndian.AppendUint64(value, uint64(until))
				value = binary.BigEndian.AppendUint64(value, 0)
			}
			known = append(known, records.ID(value[:16]))
			key := fmt.Sprintf("%s/%d/many-%d-%s", place, p.period+int64(i)/p.each, inOne,
				hex.EncodeToString(value[:16]))
			keys = append(keys, key)
			values[key] = value
		}
		for range p.single {
			var id records.ID
			_, _ = rand.Read(id[:])
			key := fmt.Sprintf("%s/%d/%d-%s-0", place, p.period, until, hex.EncodeToString(id[:]))
			keys = append(keys, key)
			values[key] = []byte{1}
		}
		if err := each(ctx, len(keys), atOnce, func(i int) error {
			return storage.Store(ctx, keys[i], values[keys[i]])
		}); err != nil {
			return nil, err
		}
	}
	return known, nil
}
