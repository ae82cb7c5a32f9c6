package aventusauth

import (
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// footprint is what this process holds: Caddy, the stand-in and the test.
type footprint struct {
	goroutines int
	heap       uint64
	exceeded   bool // what is left over of one attack is not held against the next
}

// goroutines counts them, and says where they are. Tests' own do not count, nor does
// the one with which certmagic keeps a lock file fresh: it takes seconds to see that
// the lock is gone.
func goroutines() (n int, where string) {
	var text strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&text, 1) // never fails: it is memory
	_, where, _ = strings.Cut(text.String(), "\n")
	for stack := range strings.SplitSeq(where, "\n\n") {
		var alike int
		_, _ = fmt.Sscan(stack, &alike) // none behind the last one
		if !strings.Contains(stack, "keepLockfileFresh") && !strings.Contains(stack, "testing.tRunner") {
			n += alike
		}
	}
	return n, where
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // for what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// settled returns the footprint when nothing is going on.
func settled() *footprint {
	last, same := 0, 0
	poll(time.Minute, func() bool {
		if n, _ := goroutines(); n == last {
			same++
		} else {
			last, same = n, 0
		}
		return same == 100
	})
	return &footprint{goroutines: last, heap: heap()}
}

// expectBack waits until the process holds no more than it did: no goroutine, and of
// memory only what the test itself and the stand-in remember.
func (f *footprint) expectBack(t *testing.T, remembered uint64) {
	t.Helper()
	if f.exceeded {
		return
	}
	var n int
	var where string
	var held uint64
	if poll(10*time.Second, func() bool {
		if n, where = goroutines(); n > f.goroutines {
			return false
		}
		held = heap()
		return held <= f.heap+remembered
	}) {
		return
	}
	f.exceeded = true
	t.Errorf("%d goroutines, %d before; %d KiB of memory, %d before\n%.20000s", n, f.goroutines, held>>10,
		f.heap>>10, where)
}
