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
// disk, where so many logins came to another instance within the hour. The first use after a start learns of all of
// them.
//
//	go test -run '^$' -bench Use -benchtime 500x ./internal/records
func BenchmarkUse(b *testing.B) {
	for _, n := range []int{0, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			storage, clock := Bounded(&certmagic.FileStorage{Path: b.TempDir()}, nil), newClock()
			other := NewOnce(storage, "aventus_auth/spent", keep, clock.steady())
			const atOnce = 256
			for i := 0; i < n; i += atOnce {
				var ids []ID
				for j := range min(atOnce, n-i) {
					ids = append(ids, codeOf(i+j)...)
				}
				if first, err := other.Use(ids...); err != nil || !first {
					b.Fatal(first, err)
				}
			}
			clock.Add(30 * time.Minute)
			heap := heapNow()
			here := NewOnce(storage, "aventus_auth/spent", keep, clock.steady())
			began, before := time.Now(), processorTime()
			if first, err := here.Use(codeOf(-1)...); err != nil || !first {
				b.Fatal(first, err)
			}
			took, used := time.Since(began), processorTime()-before
			heap = heapNow() - heap
			if n > 0 {
				if first, err := here.Use(codeOf(n - 1)...); err != nil || first {
					b.Fatal("a code was used twice", err)
				}
			}
			var each []time.Duration
			before = processorTime()
			for i := 0; b.Loop(); i++ {
				began := time.Now()
				if first, err := here.Use(codeOf(-2 - i)...); err != nil || !first {
					b.Fatal(first, err)
				}
				each = append(each, time.Since(began))
			}
			cpu := processorTime() - before
			slices.Sort(each)
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(each[len(each)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took.Milliseconds()), "start-ms")
			b.ReportMetric(float64(used.Milliseconds()), "start-cpu-ms")
			b.ReportMetric(float64(heap)/(1<<20), "heap-MiB")
			runtime.KeepAlive(here)
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
