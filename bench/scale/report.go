package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// report is what a run has found.
type report struct {
	Date     string            `json:"date"`
	Machine  string            `json:"machine"`
	Load     string            `json:"load_average_before"`
	Versions map[string]string `json:"versions"`
	Tables   []*table          `json:"tables"`
}

// table is figures that belong together.
type table struct {
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []row    `json:"rows"`

	// Whether the columns are more and more of one thing. If so, it is shown how the
	// figures grow from the first to the last.
	Grows bool `json:"grows,omitempty"`
}

type row struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
}

func newReport() *report {
	r := &report{Date: time.Now().UTC().Format(time.RFC3339), Versions: map[string]string{"go": runtime.Version()}}
	r.Machine = fmt.Sprintf("%d processors, %s, %s/%s", runtime.NumCPU(), processor(), runtime.GOOS, runtime.GOARCH)
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/caddyserver/caddy/v2", "github.com/pberkel/caddy-storage-redis",
				"github.com/caddyserver/certmagic":
				r.Versions[m.Path] = m.Version
			}
		}
	}
	if out, err := exec.Command("redis-server", "--version").Output(); err == nil {
		_, version, _ := strings.Cut(string(out), "v=")
		r.Versions["redis"], _, _ = strings.Cut(version, " ")
	}
	if out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude", "*").Output(); err == nil {
		r.Versions["aventus_auth"] = strings.TrimSpace(string(out))
	}
	return r
}

// processor returns what the processor calls itself.
func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// table begins another table.
func (r *report) table(title string, columns ...string) *table {
	t := &table{Title: title, Columns: columns}
	r.Tables = append(r.Tables, t)
	return t
}

// growing is for a table whose columns are these numbers of what is in the title.
func (r *report) growing(title string, numbers []int) *table {
	t := r.table(title)
	t.Grows = true
	for _, n := range numbers {
		t.Columns = append(t.Columns, count(n))
	}
	return t
}

func (t *table) add(name, unit string, values ...float64) {
	t.Rows = append(t.Rows, row{name, unit, values})
}

// columns returns the heads of the columns.
func (t *table) columns() []string {
	if t.Grows {
		return append(slices.Clone(t.Columns), "growth")
	}
	return t.Columns
}

// cells returns a row as text.
func (t *table) cells(r row) []string {
	var cells []string
	for _, v := range r.Values {
		cells = append(cells, figure(v))
	}
	if t.Grows {
		cells = append(cells, growth(r.Values))
	}
	return cells
}

// growth returns how many times the first of some figures the last one is; there is
// no telling where the first is nothing, or less, as a difference may be.
func growth(values []float64) string {
	if len(values) < 2 || values[0] <= 0 {
		return ""
	}
	return figure(values[len(values)-1]/values[0]) + "x"
}

// figure writes a number with the three digits that can be believed.
func figure(v float64) string {
	if v == 0 || math.Abs(v) >= 100 {
		return count(int(math.Round(v)))
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', min(digits, 3), 64)
}

// count writes a whole number with its thousands apart.
func count(n int) string {
	if n < 0 {
		return "-" + count(-n)
	}
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", count(n/1000), n%1000)
}

func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "%s, %s, load before %s\n", r.Date, r.Machine, r.Load)
	for _, t := range r.Tables {
		fmt.Fprintf(out, "\n%s\n", t.Title)
		w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
		width := 0
		for _, row := range t.Rows {
			width = max(width, utf8.RuneCountInString(row.Name))
		}
		fmt.Fprintf(w, "\t\t%s\t\n", strings.Join(t.columns(), "\t"))
		for _, row := range t.Rows {
			fmt.Fprintf(w, "%-*s\t%s\t%s\t\n", width, row.Name, row.Unit, strings.Join(t.cells(row), "\t"))
		}
		w.Flush()
	}
}

// Where a whole run is published, below the folder bench.
const (
	publishedJSON     = "results/scale.json"
	publishedDocument = "scale/README.md"

	publishFrom = "<!-- scale: go -C bench run ./scale writes what follows -->\n"
	publishTo   = "<!-- scale: up to here -->\n"
)

// publish writes the report where it is published.
func (r *report) publish(bench string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bench, publishedJSON), append(text, '\n'), 0o644); err != nil {
		return err
	}
	file := filepath.Join(bench, publishedDocument)
	document, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(r.in(string(document))), 0o644)
}

// in returns a document with the report in its place.
func (r *report) in(document string) string {
	before, rest, from := strings.Cut(document, publishFrom)
	_, after, to := strings.Cut(rest, publishTo)
	if !from || !to {
		return document
	}
	return before + publishFrom + r.markdown() + publishTo + after
}

// markdown returns the report as tables in Markdown.
func (r *report) markdown() string {
	var b strings.Builder
	date, _, _ := strings.Cut(r.Date, "T")
	fmt.Fprintf(&b, "\nMeasured on %s on %s, load average before %s, with %s.\n", date, r.Machine, r.Load,
		r.versions())
	for _, t := range r.Tables {
		fmt.Fprintf(&b, "\n%s:\n\n| | | %s |\n|---|---|%s\n", t.Title, strings.Join(t.columns(), " | "),
			strings.Repeat("--:|", len(t.columns())))
		for _, row := range t.Rows {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", row.Name, row.Unit, strings.Join(t.cells(row), " | "))
		}
	}
	return b.String() + "\n"
}

// versions returns what took part.
func (r *report) versions() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		all = append(all, path.Base(strings.TrimSuffix(name, "/v2"))+" "+r.Versions[name])
	}
	return strings.Join(all, ", ")
}

// quantile returns the value that a share q of the sorted values lies below; 0.5 is
// the median.
func quantile[T cmp.Ordered](values []T, q float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const (
	kilo = 1 << 10
	mega = 1 << 20
)
