package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	storageredis "github.com/pberkel/caddy-storage-redis"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// BenchmarkLearn learns what an instance of a cluster has ended within half an hour, evenly, as it leaves it in the
// storage: folded, but for the single keys of the last moments. start is what an instance that starts learns first;
// after that, each operation is what is done every five seconds. p99 is how long a request waits meanwhile that asks
// whether its session has ended.
//
//	go -C bench test -run '^$' -bench Learn -benchtime 10x ./scale
func BenchmarkLearn(b *testing.B) {
	for _, engine := range []string{"files", "redis"} {
		for _, n := range []int{0, 20_000, 200_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", engine, n), func(b *testing.B) {
				var inner certmagic.Storage = &certmagic.FileStorage{Path: b.TempDir()}
				if engine == "redis" {
					run := &bench{ctx: b.Context(), dir: b.TempDir()}
					server, err := run.newRedis("redis")
					if err != nil {
						b.Fatal(err)
					}
					defer server.stop()
					redis := storageredis.New()
					redis.Address = []string{server.addr}
					ctx, cancel := caddy.NewContext(caddy.Context{Context: b.Context()})
					defer cancel()
					if err := redis.Provision(ctx); err != nil {
						b.Fatal(err)
					}
					inner = redis
				}
				storage := records.Bounded(inner, nil)
				known := endMany(b, storage, n)
				began := time.Now()
				clock := records.NewClock(time.Now, func() time.Duration { return time.Since(began) })
				here := records.NewEnded(storage, clock)
				before := ownCPU()
				for err := here.Learn(b.Context()); err != nil; err = here.Learn(b.Context()) {
					if time.Since(began) > time.Minute { // a listing of all goes on for longer than one call
						b.Fatal(err)
					}
				}
				took, cpu := time.Since(began), ownCPU()-before
				for _, id := range known {
					if !here.Has(id, began) {
						b.Fatal("an end is not learned")
					}
				}
				before = ownCPU()
				for b.Loop() {
					if err := here.Learn(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64((ownCPU()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
				b.ReportMetric(milli(took), "start-ms")
				b.ReportMetric(milli(cpu), "start-cpu-ms")
				b.ReportMetric(micro(quantile(waits(here), 0.99)), "p99-µs")
			})
		}
	}
}

// waits measures how long requests wait while another instance learns all there is, three times over.
func waits(ended *records.Ended) []time.Duration {
	learned := make(chan struct{})
	go func() {
		defer close(learned)
		for range 3 {
			_ = ended.Learn(context.Background())
		}
	}()
	var waits []time.Duration
	for i := uint32(0); ; i++ {
		var id records.ID
		binary.LittleEndian.PutUint32(id[:], i)
		asked := time.Now()
		ended.Has(id, asked)
		waits = append(waits, time.Since(asked))
		select {
		case <-learned:
			return waits
		default:
		}
	}
}

// endMany leaves in a storage what an instance does that has ended so many. It returns one id of each key.
func endMany(b *testing.B, storage certmagic.Storage, n int) (known []records.ID) {
	b.Helper()
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
		if err := each(b.Context(), len(keys), atOnce, func(i int) error {
			return storage.Store(b.Context(), keys[i], values[keys[i]])
		}); err != nil {
			b.Fatal(err)
		}
	}
	return slices.Clip(known)
}

// ownCPU is the processor time of this process.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
