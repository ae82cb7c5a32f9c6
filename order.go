package aventusauth

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/routing"
)

// sortedAs returns a matcher for a block's route that matches every request, and by which Caddy's adapter sorts
// the block among others of the site as it would by the block's own matcher: the longer of two single paths
// first, and what has no path last. The block has to see every request, whatever its matcher says.
//
// A matcher without a path sorts nothing. A block for one of several hosts, say, would then be asked first about
// the callback of another, behind a proxy that names neither.
func sortedAs(matcherSet caddy.ModuleMap) caddy.ModuleMap {
	if matcherSet["path"] == nil {
		return nil
	}
	var paths caddyhttp.MatchPath
	_ = json.Unmarshal(matcherSet["path"], &paths) // as the adapter does
	every := caddyhttp.MatchPath{"*", "*"}         // sorted as several paths are
	if len(paths) == 1 {
		every = caddyhttp.MatchPath{asLongAs(paths[0])}
	}
	return caddy.ModuleMap{"path": caddyconfig.JSON(every, nil)}
}

// asLongAs returns a pattern that matches every path, because the placeholder in it is unknown, and thus empty.
// The adapter compares the patterns as they are written, without a wildcard at their end: by their length, then
// by their letters; of two that differ in nothing else, the one without a wildcard comes first.
func asLongAs(path string) string {
	trimmed, kind := strings.TrimSuffix(path, "*"), "exact"
	if trimmed != path {
		kind = "start"
	}
	// These would end the placeholder.
	letters := strings.NewReplacer("{", "z", "}", "z", `\`, "z").Replace(trimmed)
	return routing.Sorting + letters + "." + kind + "}*"
}

// checkOrder returns an error if the matcher that sorts a block does not match every request in this Caddy:
// then the site would be open.
func checkOrder(matchers caddyhttp.RawMatcherSets) error {
	for _, set := range matchers {
		sorting := sortedAs(set)
		if sorting == nil {
			continue
		}
		var every caddyhttp.MatchPath
		if err := json.Unmarshal(sorting["path"], &every); err != nil {
			return err
		}
		if err := every.Provision(caddy.Context{}); err != nil {
			return err
		}
		for _, path := range []string{"", "*", "/", "/a/b.c"} {
			r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: make(http.Header)}
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
			if matches, err := every.MatchWithError(r); !matches || err != nil {
				return errors.New(
					"this version of Caddy cannot sort aventus_auth by its matcher: put it into a route block")
			}
		}
	}
	return nil
}
