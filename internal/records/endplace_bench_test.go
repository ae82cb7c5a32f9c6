package records

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// hasty are files that are not waited for until they are on the disk.
type hasty struct{ certmagic.FileStorage }

func (h *hasty) Store(_ context.Context, key string, value []byte) error {
	name := h.Filename(key)
	err := os.WriteFile(name, value, 0o600)
	if os.IsNotExist(err) {
		_ = os.MkdirAll(filepath.Dir(name), 0o700)
		err = os.WriteFile(name, value, 0o600)
	}
	return err
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkLearn learns what is new where so much has ended lately, of which another instance knows already: in
// processor time, and in what a request waits for that asks whether a session has ended. An instance that starts
// learns all of it once.
func BenchmarkLearn(b *testing.B) {
	for _, n := range []int{0, 20_000, 200_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			storage, clock := Bounded(&hasty{certmagic.FileStorage{Path: b.TempDir()}}, nil), newClock()
			writer := NewEnded(storage, clock.steady())
			tick(b, writer)
			for kind := range 100 { // within 20 minutes
				endMany(b, writer, clock, byte(kind), n/100)
				tick(b, writer)
				clock.Add(12 * time.Second)
			}
			for range 2 {
				clock.Add(2 * learnTimeout)
				tick(b, writer)
			}
			began := time.Now()
			here := NewEnded(storage, clock.steady())
			if err := here.Learn(b.Context()); err != nil {
				b.Fatal(err)
			}
			took := time.Since(began)

			before := processorTime()
			for b.Loop() {
				if err := here.Learn(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			used := processorTime() - before

			learned := make(chan struct{})
			go func() {
				defer close(learned)
				for range 10 {
					_ = here.Learn(b.Context())
				}
			}()
			var waits []time.Duration
			for i, isOver := 0, false; !isOver; i++ {
				asked := time.Now()
				here.Has(numbered(1, i), asked)
				waits = append(waits, time.Since(asked))
				select {
				case <-learned:
					isOver = true
				default:
				}
			}
			slices.Sort(waits)
			single, folded := filedAt(b, storage)
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(waits[len(waits)*99/100].Nanoseconds())/1000, "p99-µs")
			b.ReportMetric(float64(waits[len(waits)-1].Nanoseconds())/1000, "max-µs")
			b.ReportMetric(float64(took.Milliseconds()), "start-ms")
			b.ReportMetric(float64(single+folded), "keys")
		})
	}
}
