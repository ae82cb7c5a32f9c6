package records

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// codeOf returns the ids of a login's code and state. Like those, they are evenly distributed.
func codeOf(n int) []ID {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	return []ID{ID(sum[:16]), ID(sum[16:])}
}

// BenchmarkUse notes that a login's code and state are used, with files that are waited for until they are on the
// disk, where so many logins came to another instance within the hour; and by turns where one did, which is what
// the metrics are called "one" for. The first use after a start learns of all of them.
//
//	go test -run '^$' -bench 'Use$' -benchtime 1000x ./internal/records
func BenchmarkUse(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			clock := newClock()
			instance := func(dir string) *Once {
				storage := Bounded(&certmagic.FileStorage{Path: dir}, nil)
				return NewOnce(storage, "aventus_auth/spent", keep, clock.steady())
			}
			use := func(o *Once, want bool, ids ...ID) (took, cpu time.Duration) {
				began, before := time.Now(), processorTime()
				if first, err := o.Use(ids...); err != nil || first != want {
					b.Fatal(first, err)
				}
				return time.Since(began), processorTime() - before
			}
			dir := b.TempDir()
			other := NewOnce(&hasty{certmagic.FileStorage{Path: dir}}, "aventus_auth/spent", keep, clock.steady())
			const atOnce = 250
			for i := 0; i < n; i += atOnce {
				var ids []ID
				for j := range atOnce {
					ids = append(ids, codeOf(i+j)...)
				}
				use(other, true, ids...)
			}
			clock.Add(30 * time.Minute)
			little := b.TempDir()
			use(instance(little), true, codeOf(0)...)
			here, one := instance(dir), instance(little)
			heap := heapNow()
			took, cpu := use(here, true, codeOf(-1)...)
			heap = heapNow() - heap
			use(here, false, codeOf(n-1)...)
			use(one, true, codeOf(n-1)...)

			each, used := make(map[*Once][]time.Duration), make(map[*Once]time.Duration)
			for i := 0; b.Loop(); i++ {
				for _, o := range []*Once{one, here} {
					took, cpu := use(o, true, codeOf(-2-i)...)
					each[o] = append(each[o], took)
					used[o] += cpu
				}
			}
			b.ReportMetric(float64(took.Milliseconds()), "start-ms")
			b.ReportMetric(float64(cpu.Milliseconds()), "start-cpu-ms")
			b.ReportMetric(float64(heap)/(1<<20), "heap-MiB")
			for o, name := range map[*Once]string{one: "one-", here: ""} {
				slices.Sort(each[o])
				b.ReportMetric(float64(used[o].Microseconds())/float64(b.N), name+"cpu-µs/op")
				b.ReportMetric(float64(each[o][b.N/2].Microseconds()), name+"p50-µs")
			}
		})
	}
}

// heapNow is what lives on the heap.
func heapNow() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
