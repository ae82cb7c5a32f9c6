package aventusauth

import (
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// Apps read some queries otherwise than Caddy. Of a query with a malformed pair (a percent sign, a semicolon), Caddy's
// query reads nothing, and its placeholder for that parameter is empty, where many apps read all pairs. Of a parameter
// given twice, the placeholder is both values, joined by a comma, and query takes either, where an app takes the first
// or the last. This file decides for which parameters that matters.

// askedParameters are the parameters that the matchers of a block ask for.
type askedParameters struct {
	isAny bool // whether there are any
	// What the matchers have in quotes or braces, without the prefixes of placeholders: the names of the
	// parameters, unless an expression computes them, and of variables, and other words.
	words map[string]bool
}

// newAskedParameters reads matchers, and the map and vars of the server whose outputs they ask for.
func newAskedParameters(sets []caddyhttp.MatcherSet, server *caddyhttp.Server) *askedParameters {
	a := &askedParameters{words: make(map[string]bool)}
	a.readMatchers(sets)
	var handlers []caddyhttp.MiddlewareHandler
	if server != nil {
		handlers = handlersOf(server)
	}
	for before := 0; before != len(a.words); { // an output may depend on another one
		before = len(a.words)
		for _, handler := range handlers {
			var outputs []string
			switch handler := handler.(type) {
			case *maphandler.Handler:
				outputs = handler.Destinations
			case *caddyhttp.VarsMiddleware:
				outputs = slices.Collect(maps.Keys(*handler))
			}
			if slices.ContainsFunc(outputs, func(name string) bool { return a.words[name] }) {
				a.read(inJSON(handler))
			}
		}
	}
	return a
}

// handlersOf returns all handlers of a server, also those inside others of Caddy's.
func handlersOf(server *caddyhttp.Server) (handlers []caddyhttp.MiddlewareHandler) {
	lists := []caddyhttp.RouteList{server.Routes}
	if server.Errors != nil {
		lists = append(lists, server.Errors.Routes)
	}
	for _, route := range server.NamedRoutes {
		lists = append(lists, caddyhttp.RouteList{*route})
	}
	for i := 0; i < len(lists); i++ {
		for _, route := range lists[i] {
			for _, handler := range route.Handlers {
				handlers = append(handlers, handler)
				lists = append(lists, routing.In(handler)...)
			}
		}
	}
	return handlers
}

// readMatchers reads matchers of any kind, since most take placeholders.
func (a *askedParameters) readMatchers(sets []caddyhttp.MatcherSet) {
	for _, matcher := range slices.Concat(sets...) {
		switch matcher := matcher.(type) {
		case *caddyhttp.MatchNot: // its JSON is empty
			a.readMatchers(matcher.MatcherSets)
		case *caddyhttp.MatchExpression:
			a.isAny = a.isAny || callOfQuery.MatchString(matcher.Expr)
			a.read(matcher.Expr)
		case *caddyhttp.MatchQuery:
			a.isAny = true
			a.read(inJSON(matcher))
		default:
			a.read(inJSON(matcher))
		}
	}
}

// callOfQuery finds Caddy's matcher of queries in an expression.
var callOfQuery = regexp.MustCompile(`\bquery\s*\(`)

// inJSON returns the config of a Caddy module, or "" if it has none that can be told.
func inJSON(module any) string {
	config, _ := json.Marshal(module)
	return string(config)
}

// read reads a text with placeholders.
func (a *askedParameters) read(text string) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(`{}"'`, r) }) {
		name, isParameter := strings.CutPrefix(word, "http.request.uri.query.")
		a.isAny = a.isAny || isParameter
		a.words[strings.TrimPrefix(name, "http.vars.")] = true
	}
}

// areAmbiguousIn reports whether apps may read other parameters in a query than Caddy does, or other values.
func (a *askedParameters) areAmbiguousIn(query string) bool {
	if !a.isAny {
		return false
	}
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return true
	}
	for name, values := range parameters {
		if len(values) > 1 && a.words[name] {
			return true
		}
	}
	return false
}
