package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// BenchmarkLearn learns what an instance of a cluster has ended within half an hour, evenly, as it leaves it in the
// storage: folded, but for the single keys of the last moments. start is what an instance that starts learns first;
// after that, each operation is what is done every five seconds. p99 is how long a request waits meanwhile that asks
// whether its session has ended.
//
//	go -C bench test -run '^$' -bench Learn -benchtime 10x ./scale
func BenchmarkLearn(b *testing.B) {
	for _, kind := range []string{"files", "redis"} {
		for _, n := range []int{0, 20_000, 200_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				run := &bench{ctx: b.Context(), dir: b.TempDir()}
				engine, err := run.newEngine(kind, kind)
				if err != nil {
					b.Fatal(err)
				}
				defer engine.stop()
				ctx, cancel := caddy.NewContext(caddy.Context{Context: b.Context()})
				defer cancel()
				inner, err := engine.storage(ctx)
				if err != nil {
					b.Fatal(err)
				}
				storage := records.Bounded(inner, nil)
				known, err := endMany(b.Context(), storage, n)
				if err != nil {
					b.Fatal(err)
				}
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

// ownCPU is the processor time of this process.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
