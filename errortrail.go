package aventusauth

import (
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// level says what the value of a text with placeholders depends on, least trusted first. Several texts
// together have the lowest of their levels.
type level int

const (
	asked   level = iota // the resource asked for, or anything unknown
	sender               // the sender, but not the resource asked for
	byHost               // the site's host alone
	byError              // the config and the error alone
)

// trail is the state of a request on one way through the error routes. Its zero
// value is the request as the error routes get it. It is comparable.
type trail struct {
	path, query, method level
	leaks               bool   // its header, query or body may name the resource asked for
	newHost             bool   // its host may be another one
	otherError          bool   // error routes may have made another error of ours
	known               string // placeholders set along the way, with their levels
	groups              string // groups of routes that are satisfied
}

// matches says whether one of the sets matches, or whether there is no set.
func (w *errorWalk) matches(sets []caddyhttp.MatcherSet, t trail) routing.Certainty {
	return routing.AnyOf(sets, func(matcher any) routing.Certainty { return w.ask(matcher, t) })
}

// aboutTheError matches expressions that depend on nothing but the error, such as those
// that handle_errors 404 5xx is adapted to.
var aboutTheError = regexp.MustCompile(`^(?:\{http\.error\.status_code\}|\{http\.aventus_auth\.error\}` +
	`|"[^"\\{}]*"|'[^'\\{}]*'|\bin\b|[\d\s,\[\]()<>=!&|])*$`)

// ask evaluates a matcher if it depends on the error or the host alone. Any other is Maybe.
func (w *errorWalk) ask(matcher any, t trail) routing.Certainty {
	var about []string
	switch matcher := matcher.(type) {
	case *caddyhttp.MatchNot:
		return routing.Yes - w.matches(matcher.MatcherSets, t)
	case *caddyhttp.MatchHost:
		if t.newHost {
			return routing.Maybe // it may be another host by now
		}
		return w.matched[matcher]
	case *caddyhttp.MatchExpression:
		about = []string{matcher.Expr}
	case *caddyhttp.VarsMatcher:
		for key, values := range *matcher {
			about = append(about, key)
			for _, value := range values {
				if strings.Contains(value, "{") {
					return routing.Maybe
				}
			}
		}
	case *caddyhttp.MatchVarsRE:
		for key := range *matcher {
			about = append(about, key)
		}
	default:
		return routing.Maybe
	}
	for _, text := range about {
		if t.otherError || !strings.Contains(text, "{") || !aboutTheError.MatchString(text) {
			return routing.Maybe
		}
	}
	matched, err := caddyhttp.MatcherSet{matcher}.MatchWithError(w.r)
	switch {
	case err != nil:
		return routing.Maybe
	case matched:
		return routing.Yes
	}
	return routing.No
}

// fileMatch stands for the placeholders that a file matcher sets.
const fileMatch = "http.matchers.file."

// afterFiles returns the trail on which a route is taken, and the one on which it is not:
// a file matcher may have set its placeholders in either case.
func (w *errorWalk) afterFiles(sets []caddyhttp.MatcherSet, t trail) (taken, missed trail) {
	found, fixed := w.files(sets, t)
	everySet := len(sets) > 0 && !slices.ContainsFunc(sets, func(set caddyhttp.MatcherSet) bool {
		return !slices.ContainsFunc(set, func(m any) bool { _, ok := m.(*fileserver.MatchFile); return ok })
	})
	switch {
	case !found:
		return t, t
	case !fixed:
		return t.with(fileMatch, asked), t.with(fileMatch, asked)
	case everySet:
		return t.with(fileMatch, byError), t
	}
	return t, t
}

// files reports whether matchers look for files, and whether the error alone decides
// which files.
func (w *errorWalk) files(sets []caddyhttp.MatcherSet, t trail) (found, fixed bool) {
	fixed = true
	for _, set := range sets {
		for _, matcher := range set {
			switch matcher := matcher.(type) {
			case *fileserver.MatchFile:
				found = true
				fixed = fixed && min(w.levelOf(matcher.Root, t), w.levelOf(matcher.FileSystem, t)) >= byHost
				for _, file := range matcher.TryFiles {
					fixed = fixed && w.levelOf(file, t) == byError
				}
				if len(matcher.TryFiles) == 0 {
					fixed = fixed && t.path == byError
				}
			case *caddyhttp.MatchExpression:
				if !aboutTheError.MatchString(matcher.Expr) { // it may call file()
					found, fixed = true, false
				}
			case *caddyhttp.MatchNot:
				foundInner, fixedInner := w.files(matcher.MatcherSets, t)
				found, fixed = found || foundInner, fixed && fixedInner
			}
		}
	}
	return found, fixed
}

// with returns a trail on which a placeholder is known to have a level.
func (t trail) with(placeholder string, l level) trail {
	name := "\x00" + placeholder + "\x01"
	if at := strings.Index(t.known, name); at >= 0 {
		end := at + len(name)
		t.known = t.known[:at] + t.known[end+1:]
	}
	t.known += name + string(rune('0'+l))
	return t
}

// levelOf returns the level that with has set for a placeholder.
func (t trail) levelOf(placeholder string) (level, bool) {
	_, after, found := strings.Cut(t.known, "\x00"+placeholder+"\x01")
	if !found {
		return asked, false
	}
	return level(after[0] - '0'), true
}

// levelOf returns the lowest level of the placeholders in a text. All braces count as
// placeholders, also those that the replacer may leave alone.
func (w *errorWalk) levelOf(text string, t trail) level {
	least := byError
	for {
		_, rest, found := strings.Cut(text, "{")
		placeholder, rest, closed := strings.Cut(rest, "}")
		if !found || !closed {
			return least
		}
		least, text = min(least, w.levelOfPlaceholder(placeholder, t)), rest
	}
}

func (w *errorWalk) levelOfPlaceholder(placeholder string, t trail) level {
	if l := levelAnywhere(placeholder); l == byHost && t.newHost {
		return asked // it may be another host by now
	} else if t.otherError && (placeholder == "http.error" || placeholder == "http.error.message") {
		return asked // it may name a file
	} else if l != asked {
		return l
	}
	switch {
	case placeholder == "http.request.uri":
		return min(t.path, t.query)
	case placeholder == "http.request.uri.query", placeholder == "http.request.uri.prefixed_query":
		return t.query
	case strings.HasPrefix(placeholder+".", "http.request.uri.path."), placeholder == "http.request.uri.path_escaped":
		return t.path
	case strings.HasPrefix(placeholder, fileMatch):
		l, _ := t.levelOf(fileMatch)
		return l
	}
	before, isKnown := w.known[placeholder]
	if l, ok := t.levelOf(placeholder); ok {
		if isKnown && !strings.HasPrefix(placeholder, "http.vars.") {
			return min(l, before) // of several maps, the first decides
		}
		return l
	}
	if !isKnown && (placeholder == "http.vars.root" || placeholder == "http.vars.fs") {
		return byError // Caddy's default
	}
	return before
}

// levelAnywhere returns the level of a placeholder whose value does not change during a request, and asked
// for any other.
func levelAnywhere(placeholder string) level {
	if strings.ContainsAny(placeholder, `{\`) {
		return asked // nested or escaped braces
	}
	switch placeholder {
	case "http.error", "http.error.id", "http.error.message", "http.error.status_code", "http.error.status_text",
		"http.error.trace",
		"http.aventus_auth.error", "http.aventus_auth.error_description",
		"system.arch", "system.hostname", "system.os", "system.slash", "system.wd":
		return byError
	case "http.request.host", "http.request.port", "http.request.scheme":
		return byHost
	case "http.request.hostport", "http.request.proto", "http.request.remote", "http.request.uuid":
		return sender
	}
	for prefix, l := range map[string]level{
		"env.": byError, "file.": byError, "http.request.host.labels.": byHost,
		"http.request.remote.": sender, "http.request.local.": sender, "http.reverse_proxy.": sender,
	} {
		if strings.HasPrefix(placeholder, prefix) {
			return l
		}
	}
	return asked
}

// levelOfValue returns the level of a variable's value, wherever it is set. Other
// variables in it count as unknown.
func levelOfValue(value any) level {
	text, ok := value.(string)
	if !ok {
		return byError
	}
	anywhere := &errorRoutes{known: map[string]level{"http.vars.root": asked, "http.vars.fs": asked}}
	return (&errorWalk{errorRoutes: anywhere}).levelOf(text, trail{})
}

// levelOfOutputs returns the level of the values that a map gives one of its placeholders.
// The choice among them may depend on the request, but all of them are the site's own
// text, unless they repeat what a regular expression captured.
func levelOfOutputs(handler *maphandler.Handler, destination int) level {
	least := byError
	for _, mapping := range handler.Mappings {
		output := mapping.Outputs[destination]
		least = min(least, levelOfValue(output))
		if mapping.InputRegexp != "" && strings.Contains(caddy.ToString(output), "$") {
			least = asked
		}
	}
	if destination < len(handler.Defaults) {
		least = min(least, levelOfValue(handler.Defaults[destination]))
	}
	return least
}
