package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The line of a process whose name tries to be more fields.
func TestParseCPU(t *testing.T) {
	line := "123 (a) b (c d) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 9 0 1 2 3"
	if got, err := parseCPU(line); err != nil || got != 1750*time.Millisecond {
		t.Errorf("%s, %v", got, err)
	}
	for _, line := range []string{"", "123 (a) S 1 2 3", "123 (a) S 1 2 3 4 5 6 7 8 9 10 x 25 0"} {
		if _, err := parseCPU(line); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	used := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if got, err := parseCPU(string(own)); err != nil || (got-used).Abs() > 50*time.Millisecond {
		t.Errorf("%s, %v; getrusage says %s", got, err, used)
	}
}

// What the profiles of net/http/pprof and /proc say.
func TestNumber(t *testing.T) {
	heap := "heap profile: 1: 2 [3: 4] @ heap/1048576\n\n# runtime.MemStats\n# Alloc = 1\n# HeapAlloc = 3812345\n# " +
		"Stack = 950272 / 950272\n"
	if v, err := number(heapLine, heap); err != nil || v != 3812345 {
		t.Errorf("heap: %v, %v", v, err)
	}
	if v, err := number(stackLine, heap); err != nil || v != 950272 {
		t.Errorf("stacks: %v, %v", v, err)
	}
	if v, err := number(goroutineLine, "goroutine profile: total 37\n1 @ 0x1\n"); err != nil || v != 37 {
		t.Errorf("goroutines: %v, %v", v, err)
	}
	if v, err := number(residentLine, "VmHWM:\t  70000 kB\nVmRSS:\t   64000 kB\n"); err != nil || v != 64000 {
		t.Errorf("resident: %v, %v", v, err)
	}
	if _, err := number(heapLine, "something else"); err == nil {
		t.Error("what is not there is a number")
	}
}

func TestQuantile(t *testing.T) {
	values := []int{9, 1, 8, 2, 7, 3, 6, 4, 5, 10}
	for q, want := range map[float64]int{0: 1, 0.5: 6, 0.99: 10, 1: 10} {
		if got := quantile(values, q); got != want {
			t.Errorf("%v: %d, want %d", q, got, want)
		}
	}
	if values[0] != 9 {
		t.Error("the values are in another order now")
	}
	if got := quantile([]int(nil), 0.5); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.05: "0.050", 0.0004: "0.000", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 999.6: "1,000",
		1234567: "1,234,567", -0.152: "-0.152", -1234: "-1,234",
	} {
		if got := figure(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for want, values := range map[string][]float64{"10.0x": {2, 7, 20}, "": {0, 5}, "1.00x": {3, 3}} {
		if got := growth(values); got != want {
			t.Errorf("%v: %q, want %q", values, got, want)
		}
	}
	if got := growth([]float64{-1, 3}); got != "" {
		t.Errorf("of less than nothing: %q", got)
	}
	if got := growth([]float64{1}); got != "" {
		t.Errorf("of one figure: %q", got)
	}
}

// A report is for people and for programs.
func TestReport(t *testing.T) {
	r := &report{Date: "2026-01-01T00:00:00Z", Machine: "a machine", Load: "0.1"}
	r.growing("Sessions", []int{10_000, 100_000}).add("lookup", "µs", 100, 150)
	r.table("Flood", "before", "after").add("goroutines", "", 29, 29)
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"a machine", "Sessions\n", "10,000   100,000   growth", "lookup   µs      100       150    1.50x", "Flood\n",
		"before   after\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
	dir := t.TempDir()
	for _, file := range []string{publishedJSON, publishedDocument} {
		if err := os.Mkdir(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, publishedDocument), []byte("before\n"+publishFrom+publishTo+"after\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.publish(dir); err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(filepath.Join(dir, publishedDocument))
	if err != nil || !strings.HasPrefix(string(document), "before\n") ||
		!strings.HasSuffix(string(document), "after\n") ||
		!strings.Contains(string(document), "| lookup | µs | 100 | 150 | 1.50x |\n") {
		t.Errorf("%v: %s", err, document)
	}
	text, err := os.ReadFile(filepath.Join(dir, publishedJSON))
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(text, &again); err != nil || len(again.Tables) != 2 ||
		again.Tables[0].Rows[0].Values[1] != 150 {
		t.Errorf("%v: %s", err, text)
	}
}

// each calls for every number once, and stops at the first error.
func TestEach(t *testing.T) {
	var sum atomic.Int64
	if err := each(t.Context(), 100, 7, func(i int) error { sum.Add(int64(i)); return nil }); err != nil ||
		sum.Load() != 4950 {
		t.Errorf("%d, %v", sum.Load(), err)
	}
	broken, calls := errors.New("broken"), 0
	if err := each(t.Context(), 100, 1, func(int) error { calls++; return broken }); err != broken || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := each(ctx, 100, 7, func(int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("of a run that is over: %v", err)
	}
}

// No more WebSockets are opened than the server may have files.
func TestThatFit(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, p := range protocols {
		fit, err := p.thatFit([]int{20, int(limit.Max)})
		if err != nil || fit[0] != 20 || p.files*fit[1] >= int(limit.Max) {
			t.Errorf("%s: %v of %d files, %v", p.name, fit, limit.Max, err)
		}
	}
}

// TestPublished: the document shows what the last whole run has found.
func TestPublished(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", publishedJSON))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(document), r.markdown()) || r.in(string(document)) != string(document) {
		t.Error("README.md does not show what the last run has written")
	}
}
