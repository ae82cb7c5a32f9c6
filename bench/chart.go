package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// palette is the colours of a chart.
type palette struct {
	surface, ink, muted, line string
	ours, oursBare            string // a bar, and the part of it that a bare server is
	other, otherBare          string
}

var palettes = map[string]palette{
	"light": {
		surface: "#ffffff", ink: "#1f2328", muted: "#59636e", line: "#b6bec7",
		ours: "#1d5fd1", oursBare: "#a9c7f7", other: "#7d8792", otherBare: "#d5dae0",
	},
	"dark": {
		surface: "#0d1117", ink: "#e6edf3", muted: "#9198a1", line: "#4a525c",
		ours: "#5aa2ff", oursBare: "#26476f", other: "#848d97", otherBare: "#343b44",
	},
}

// The chart's measures, in pixels.
const (
	chartWidth = 860
	margin     = 24
	barsLeft   = 296 // where bars begin; their labels end just before
	barsRight  = chartWidth - margin - 64
	rowHeight  = 26
	barHeight  = 16

	normal, bold = 400, 600 // weights of text
)

// bar is a contender's line in a chart.
type bar struct {
	label  string
	value  float64 // 0: it was not measured
	text   string  // at its end
	isOurs bool
}

// bars are some bars that share a heading.
type bars struct {
	heading string
	bars    []bar
}

// chart draws the results: the processor time of a request, next to its bare server's,
// and that of a login.
func (r results) chart(p palette) string {
	d := drawing{palette: p, y: margin}
	d.title("What a login in front of a site costs the server",
		"Processor time for a request with a session, next to the same request to the bare server")
	d.panel(r.requestBars(), 1, "the bare server")
	d.y += 18
	d.title("What signing in costs the server",
		"Processor time for a whole login: redirect, callback, token exchange, page")
	d.panel(r.loginBars(), 0, "")
	d.y += 26
	v := r.Versions
	d.text(margin, "start", 11.5, normal, p.muted,
		fmt.Sprintf("%s · one core of %s · Caddy %s · aventus_auth %s · caddy-security %s", r.Date, r.CPU, v["caddy"],
			v["plugin"], v["caddy-security"]))
	d.y += 16
	d.text(margin, "start", 11.5, normal, p.muted,
		fmt.Sprintf("oauth2-proxy %s · Apache %s · mod_auth_openidc %s · medians of %d rounds · go -C bench run .",
			v["oauth2-proxy"], v["apache"], v["mod_auth_openidc"], r.Plan.Rounds))

	height := d.y + margin - 6
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%.0[2]f" viewBox="0 0 %[1]d %.0[2]f" role="img" aria-label="%[3]s" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif">
<rect width="%[1]d" height="%.0[2]f" fill="%[4]s"/>
%[5]s</svg>
`, chartWidth, height, html.EscapeString(r.inWords()), p.surface, d.String())
}

// inWords describes the chart for screen readers.
func (r results) inWords() string {
	var words []string
	for _, c := range r.Results {
		if c.Against == "" || c.Requests == nil {
			continue
		}
		s := fmt.Sprintf("%s, %.2f times the processor time of bare %s", c.Title, c.Ratio, c.Against)
		if c.Logins != nil {
			s += fmt.Sprintf(", %.2f ms for a login", c.Logins.CPU)
		}
		words = append(words, s)
	}
	return strings.Join(words, "; ") + "."
}

// requestBars are the contenders, under their bare servers.
func (r results) requestBars() []bars {
	var all []bars
	for _, bare := range r.Results {
		if bare.Against != "" {
			continue
		}
		group := bars{heading: "bare " + bare.Title}
		for _, c := range r.Results {
			if c.Against == bare.Name {
				group.bars = append(group.bars, bar{c.Title, c.Ratio, fmt.Sprintf("%.2f ×", c.Ratio), c.isOurs()})
			}
		}
		all = append(all, group)
	}
	return all
}

// loginBars are the contenders whose logins were measured.
func (r results) loginBars() []bars {
	var all bars
	for _, c := range r.Results {
		hasLogins := slices.ContainsFunc(contenders, func(o contender) bool { return o.name == c.Name && o.logins })
		if c.Logins != nil || c.LeftOut != "" && hasLogins {
			b := bar{label: c.Title, isOurs: c.isOurs()}
			if c.Logins != nil {
				// Seconds for a thousand logins are milliseconds for one.
				b.value, b.text = c.Logins.CPU, fmt.Sprintf("%.2f ms", c.Logins.CPU)
			}
			all.bars = append(all.bars, b)
		}
	}
	return []bars{all}
}

func (r result) isOurs() bool { return strings.HasPrefix(r.Name, "aventus_auth") }

// drawing is an SVG in the making, from top to bottom.
type drawing struct {
	strings.Builder
	palette
	y float64
}

// text writes a line of text at y. Its anchor says which part of it is at x: start, middle
// or end.
func (d *drawing) text(x float64, anchor string, size float64, weight int, colour, s string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%g" font-weight="%d" fill="%s">%s</text>`+"\n",
		x, d.y, anchor, size, weight, colour, html.EscapeString(s))
}

func (d *drawing) title(title, subtitle string) {
	d.y += 14
	d.text(margin, "start", 18, bold, d.ink, title)
	d.y += 20
	d.text(margin, "start", 13, normal, d.muted, subtitle)
	d.y += 16
}

// panel draws bars of one scale. The part of a bar up to mark, if it has one, is the cost of
// the server without a login.
func (d *drawing) panel(groups []bars, mark float64, markText string) {
	most := mark
	for _, group := range groups {
		for _, b := range group.bars {
			most = max(most, b.value)
		}
	}
	if most == 0 {
		most = 1 // nothing was measured
	}
	x := func(value float64) float64 { return barsLeft + value/most*(barsRight-barsLeft) }
	top := d.y
	if mark > 0 {
		d.y += 12
		d.text(x(mark), "middle", 12, normal, d.muted, markText)
		top = d.y + 5
		d.y += 2
	}
	for _, group := range groups {
		if group.heading != "" {
			d.y += 20
			d.text(barsLeft-12, "end", 12, normal, d.muted, group.heading)
			d.y += 6
		}
		for _, b := range group.bars {
			d.bar(b, x, mark)
		}
	}
	if mark > 0 {
		fmt.Fprintf(d, `<line x1="%[1]g" y1="%.1[2]f" x2="%[1]g" y2="%.1[3]f" stroke="%[4]s" stroke-dasharray="3 3"/>`+
			"\n", math.Round(x(mark)), top, d.y+4, d.line)
	}
}

func (d *drawing) bar(b bar, x func(float64) float64, mark float64) {
	fill, bare, weight := d.other, d.otherBare, normal
	if b.isOurs {
		fill, bare, weight = d.ours, d.oursBare, bold
	}
	top := d.y + (rowHeight-barHeight)/2
	rect := func(from, to float64, fill string) {
		if to > from {
			fmt.Fprintf(d, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`+"\n", x(from), top,
				x(to)-x(from), barHeight, fill)
		}
	}
	bottom := d.y + rowHeight
	d.y = top + barHeight - 3.5
	d.text(barsLeft-12, "end", 13, weight, d.ink, b.label)
	if b.value == 0 {
		d.text(barsLeft+8, "start", 13, normal, d.muted, "not measured")
	} else {
		rect(0, min(b.value, mark), bare)
		rect(mark, b.value, fill)
		d.text(x(max(b.value, mark))+8, "start", 13, weight, d.ink, b.text)
	}
	d.y = bottom
}
