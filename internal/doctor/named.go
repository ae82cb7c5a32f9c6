package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// lostDirectives compares the named routes of a Caddyfile with their form after Caddy's adapter. If none of a named
// route's directives has a matcher, the adapter of Caddy 2.11.9 keeps only the first: the gate may be gone, or all
// handlers behind it. lostDirectives returns a finding for each such route that had a gate.
func lostDirectives(file, adapter string, adapted []byte) []aventus.Finding {
	// Caddy's own rule for recognizing a Caddyfile; other formats have no such problem.
	base := strings.ToLower(filepath.Base(file))
	if adapter != "caddyfile" && !strings.HasPrefix(base, "caddyfile") && !strings.HasSuffix(base, ".caddyfile") {
		return nil
	}
	input, err := os.ReadFile(file)
	if err != nil {
		return nil // it came by standard input
	}
	blocks, err := caddyfile.Parse(file, input)
	if err != nil {
		return nil // Caddy has read it
	}
	kept := keptHandlers(adapted)
	var findings []aventus.Finding
	for _, block := range blocks {
		if !block.IsNamedRoute || len(block.Keys) == 0 {
			continue
		}
		var directives []string
		hasGate := false
		for _, segment := range block.Segments {
			d := caddyfile.NewDispenser(segment)
			d.Next()
			for d.NextBlock(0) {
				if directive := d.NextSegment().Directive(); !strings.HasPrefix(directive, "@") {
					directives = append(directives, directive)
				}
			}
			isGate := func(t caddyfile.Token) bool { return t.Text == "aventus_auth" }
			hasGate = hasGate || slices.ContainsFunc(segment, isGate)
		}
		name := block.Keys[0].Text
		handler, ok := kept[name]
		if !hasGate || len(directives) < 2 || !ok || handler == "subroute" {
			continue
		}
		kept := "one, " + handler + ", and no aventus_auth"
		next := "write route { … } around them, which keeps all: where it is invoked, the site is open"
		if handler == "aventus_auth" {
			kept, next = "aventus_auth alone", "write route { … } around them, which keeps all"
		}
		findings = append(findings, aventus.Finding{
			Status: aventus.Fail, Next: next,
			Detail: aventus.CleanText(fmt.Sprintf(
				"of the %d directives in the named route %s, Caddy has kept %s", len(directives), name, kept)),
		})
	}
	return findings
}

// keptHandlers returns the one handler of each named route that has no more, by the route's name.
func keptHandlers(adapted []byte) map[string]string {
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					NamedRoutes map[string]struct {
						Handle []struct {
							Handler string `json:"handler"`
						} `json:"handle"`
					} `json:"named_routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	kept := make(map[string]string)
	if json.Unmarshal(adapted, &config) != nil {
		return nil // Caddy has read it
	}
	for _, server := range config.Apps.HTTP.Servers {
		for name, route := range server.NamedRoutes {
			if len(route.Handle) == 1 {
				kept[name] = route.Handle[0].Handler
			}
		}
	}
	return kept
}
