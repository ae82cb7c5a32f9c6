package doctor

import (
	"strings"
	"testing"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// TestTerminal: on a terminal there are marks, and what is waited for.
func TestTerminal(t *testing.T) {
	var out, progress strings.Builder
	d := &doctor{out: &out, progress: &progress, isTerminal: true}
	for _, f := range []aventus.Finding{
		{Status: "pass", Detail: "a"}, {Status: "warn", Detail: "b", Next: "do"},
		{Status: "fail", Detail: "c", Next: "do this"}, {Status: "skip", Detail: "d"},
	} {
		d.ask(&d.report.Checks, "dns", "x", func() aventus.Finding { return f })
	}
	const want = "  ✓ dns        x: a\n  ! dns        x: b\n               → do\n  ✗ dns        x: c\n             " +
		"  → do this\n  - dns        x: d\n"
	if out.String() != want {
		t.Errorf("it prints\n%s, want\n%s", &out, want)
	}
	if want := strings.Repeat("  ... dns\r         \r", 4); progress.String() != want {
		t.Errorf("progress %q, want %q", &progress, want)
	}
}
