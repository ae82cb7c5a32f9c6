package records

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// BenchmarkSweep removes so many records of an hour that is over, in files, one after the other, as the first login of
// an hour does in the background.
//
//	go test -run '^$' -bench Sweep -benchtime 1x ./internal/records
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var cpu time.Duration
			for range b.N {
				b.StopTimer()
				clock := newClock()
				storage := &hasty{certmagic.FileStorage{Path: b.TempDir()}}
				shelf := NewShelf(storage, "aventus_auth/sessions", clock.steady())
				value, expires := make([]byte, 1000), clock.Now().Add(time.Minute)
				for i := range n {
					id := hex.EncodeToString(codeOf(i)[0][:])
					if err := shelf.Put(b.Context(), id, expires, value); err != nil {
						b.Fatal(err)
					}
				}
				clock.Add(3 * time.Hour)
				before := processorTime()
				b.StartTimer()
				shelf.sweepNow(b.Context(), shelf.of(clock.Now().Add(-ClockSkew)))
				cpu += processorTime() - before
				err := shelf.Each(b.Context(), func(id string, _ []byte) error { return fmt.Errorf("%s is left", id) })
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}
