package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are the results of a run, as in results.json.
type results struct {
	Date     string            `json:"date"`
	Versions map[string]string `json:"versions"`
	CPU      string            `json:"cpu"`
	CPUs     int               `json:"cpus"`
	Plan     plan              `json:"plan"`
	Results  []result          `json:"results"`
}

// result is the result of a contender: medians of all rounds.
type result struct {
	Name     string  `json:"name"`
	Title    string  `json:"title"`
	Does     string  `json:"does"`
	Against  string  `json:"against,omitempty"` // its bare server
	LeftOut  string  `json:"left_out,omitempty"`
	Requests *sample `json:"requests,omitempty"`
	Bare     *sample `json:"bare,omitempty"`
	Ratio    float64 `json:"cpu_ratio,omitempty"` // of Requests to Bare, in the same round
	Logins   *sample `json:"logins,omitempty"`
	Rounds   []round `json:"rounds,omitempty"`
}

// median returns the median of some numbers.
func median(numbers []float64) float64 {
	s := slices.Sorted(slices.Values(numbers))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// medians returns the median of each figure by itself.
func medians(samples []sample) *sample {
	of := func(figure func(sample) float64) float64 {
		var all []float64
		for _, s := range samples {
			all = append(all, figure(s))
		}
		return median(all)
	}
	return &sample{
		PerSecond: of(func(s sample) float64 { return s.PerSecond }),
		CPU:       of(func(s sample) float64 { return s.CPU }),
		P50:       of(func(s sample) float64 { return s.P50 }),
		P99:       of(func(s sample) float64 { return s.P99 }),
		Memory:    of(func(s sample) float64 { return s.Memory }),
		Busy:      of(func(s sample) float64 { return s.Busy }),
	}
}

// summarize makes a contender's result.
func summarize(s *site) result {
	r := result{Name: s.name, Title: s.title, Does: s.does, Against: s.bare, LeftOut: s.leftOut, Rounds: s.rounds}
	if len(s.rounds) == 0 {
		return r
	}
	var own, bare, logins []sample
	for _, round := range s.rounds {
		own, bare = append(own, round.Requests), append(bare, round.Bare)
		if round.Logins != nil {
			logins = append(logins, *round.Logins)
		}
	}
	r.Requests, r.Bare, r.Ratio = medians(own), medians(bare), median(r.ratios())
	if len(logins) > 0 {
		r.Logins = medians(logins)
	}
	return r
}

// report prints the table, and writes it with the JSON and the charts.
func (b *bench) report(ctx context.Context, bins binaries, out string) error {
	r := results{
		Date:     time.Now().UTC().Format("2006-01-02"),
		Versions: versions(ctx, bins, b.dir),
		CPU:      cpuModel(),
		CPUs:     runtime.NumCPU(),
		Plan:     b.plan,
	}
	for _, s := range b.sites {
		if s.bare == "" {
			// What all the contenders' rounds say about their bare server.
			bare := result{Name: s.name, Title: s.title, Does: s.does, LeftOut: s.leftOut}
			var samples []sample
			for _, other := range b.sites {
				if other.bare == s.name {
					for _, round := range other.rounds {
						samples = append(samples, round.Bare)
					}
				}
			}
			if len(samples) > 0 {
				bare.Requests = medians(samples)
			}
			r.Results = append(r.Results, bare)
			continue
		}
		r.Results = append(r.Results, summarize(s))
	}
	table := r.table()
	fmt.Println(table)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	files, err := r.files()
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(out, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "written to", filepath.Join("bench", out))
	if out != published {
		return nil
	}
	for _, file := range documents {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(publish(string(b), filepath.Dir(file), table)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// files are the files that a run writes into its folder.
func (r results) files() (map[string]string, error) {
	encoded, err := json.MarshalIndent(r, "", "\t")
	return map[string]string{
		"results.json": string(encoded) + "\n",
		"light.svg":    r.chart(palettes["light"]),
		"dark.svg":     r.chart(palettes["dark"]),
	}, err
}

// published is the folder of the results that documents show.
const published = "results"

// documents show results between these two lines. No figure there is written by hand.
var documents = []string{"README.md", "../docs/costs.md"}

const publishFrom, publishTo = "<!-- bench: go -C bench run . writes what follows -->\n",
	"<!-- bench: up to here -->\n"

// publish writes the chart and the table into a document in a folder. Without a table, it
// writes neither.
func publish(document, folder, table string) string {
	before, rest, from := strings.Cut(document, publishFrom)
	_, after, to := strings.Cut(rest, publishTo)
	if !from || !to {
		return document
	}
	if table == "" {
		return before + publishFrom + publishTo + after
	}
	prefix := ""
	if folder != "." {
		prefix = "../bench/"
	}
	return before + publishFrom + fmt.Sprintf(`
<picture>
<source media="(prefers-color-scheme: dark)" srcset="%[1]s/dark.svg">
<img alt="What a login in front of a site costs the server, and what signing in costs it; the table below has the figures" src="%[1]s/light.svg">
</picture>

%[2]s
`, prefix+published, table) + publishTo + after
}

// table returns the results in Markdown: each bare server, and those that are measured
// against it.
func (r results) table() string {
	var b strings.Builder
	v := r.Versions
	fmt.Fprintf(&b, "Measured on %s on %d cores of %s, %s, storage on %s, with %s, Caddy %s, aventus_auth %s, "+
		"caddy-security %s, oauth2-proxy %s, Apache %s, mod_auth_openidc %s and wrk %s; medians of %d rounds.\n\n",
		r.Date, r.CPUs, r.CPU, v["kernel"], v["filesystem"], v["go"], v["caddy"], v["plugin"], v["caddy-security"],
		v["oauth2-proxy"], v["apache"], v["mod_auth_openidc"], v["wrk"], r.Plan.Rounds)
	b.WriteString("| | CPU next to bare (lowest to highest round) | CPU s for 10,000 requests | the same requests, " +
		"bare | requests/s | p50 ms | p99 ms | memory MiB | CPU s for 1,000 logins | logins/s |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, bare := range r.Results {
		if bare.Against != "" {
			continue
		}
		bare.writeRow(&b)
		for _, c := range r.Results {
			if c.Against == bare.Name {
				c.writeRow(&b)
			}
		}
	}
	b.WriteString("\nWhat each of them does with a request:\n\n")
	for _, c := range r.Results {
		fmt.Fprintf(&b, "- **%s**%s: %s\n", c.Title, r.beside(c), c.Does)
		if c.LeftOut != "" {
			fmt.Fprintf(&b, "  **Not measured: %s**\n", oneLine.Replace(c.LeftOut))
		}
	}
	return b.String()
}

// oneLine keeps the text of an error from being read as Markdown.
var oneLine = strings.NewReplacer("\n", " ", "|", "/", "*", "", "<", "‹", ">", "›")

// beside names the server that a contender is measured against.
func (r results) beside(c result) string {
	for _, bare := range r.Results {
		if bare.Name == c.Against {
			return " (" + bare.Title + ")"
		}
	}
	return ""
}

// writeRow writes a contender's row.
func (c result) writeRow(b *strings.Builder) {
	cells := make([]string, 10)
	cells[0] = c.Title
	if c.Against == "" {
		cells[0] = "**" + c.Title + "**"
	}
	if s := c.Requests; s != nil {
		cells[2], cells[4] = fmt.Sprintf("%.3f", s.CPU), fmt.Sprintf("%.0f", s.PerSecond)
		cells[5], cells[6] = fmt.Sprintf("%.2f", s.P50), fmt.Sprintf("%.2f", s.P99)
		cells[7] = fmt.Sprintf("%.0f", s.Memory)
	}
	if c.Bare != nil {
		ratios := c.ratios()
		cells[1] = fmt.Sprintf("%.3f × (%.2f to %.2f)", c.Ratio, slices.Min(ratios), slices.Max(ratios))
		cells[3] = fmt.Sprintf("%.3f", c.Bare.CPU)
	}
	if s := c.Logins; s != nil {
		cells[8], cells[9] = fmt.Sprintf("%.3f", s.CPU), fmt.Sprintf("%.0f", s.PerSecond)
	}
	if c.LeftOut != "" {
		cells[1] = "not measured"
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// ratios returns, for each round, the processor time of a request next to the bare
// server's.
func (c result) ratios() []float64 {
	var all []float64
	for _, round := range c.Rounds {
		all = append(all, round.Requests.CPU/round.Bare.CPU)
	}
	return all
}

// cpuModel returns the name of the processor.
func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
