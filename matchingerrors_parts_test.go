package aventusauth

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestProtectsFailed: a request that failed behind the block is judged as it came to the block, and as the visitor
// asked, by its own method and as a GET. Afterwards it is as it was.
func TestProtectsFailed(t *testing.T) {
	not := func(m any) *caddyhttp.MatchNot {
		return &caddyhttp.MatchNot{MatcherSets: []caddyhttp.MatcherSet{{m}}}
	}
	private, public := &caddyhttp.MatchPath{"/private"}, not(&caddyhttp.MatchPath{"/public"})
	get, post := &caddyhttp.MatchMethod{"GET"}, &caddyhttp.MatchMethod{"POST"}
	for _, c := range []struct {
		what         string
		matchers     caddyhttp.MatcherSet
		asked, came  string // the request as it was asked for, and as it came to the block
		failed, want string // as it was when it failed; what it is protected by
	}{
		{"by GET", caddyhttp.MatcherSet{get}, "POST /x", "POST /x", "POST /x", "protected"},
		{"by GET, a path", caddyhttp.MatcherSet{get, private}, "POST /private", "POST /private", "POST /x",
			"protected"},
		{"by the path that was asked for", caddyhttp.MatcherSet{public}, "GET /private", "GET /public", "GET /public",
			"protected"},
		{"by that path and GET", caddyhttp.MatcherSet{get, public}, "POST /private", "GET /public", "GET /public",
			"protected"},
		{"by that path and its method", caddyhttp.MatcherSet{post, public}, "POST /private", "GET /public",
			"GET /public", "protected"},
		{"by the path that it came with", caddyhttp.MatcherSet{get, private}, "POST /x/private", "POST /private",
			"POST /x", "protected"},
		{"by the path that a handler behind made", caddyhttp.MatcherSet{private}, "GET /public/private",
			"GET /public/private", "GET /private", "public"},
		{"by POST alone", caddyhttp.MatcherSet{post}, "GET /x", "GET /x", "POST /x", "public"},
		{"nowhere", caddyhttp.MatcherSet{get, private}, "POST /x", "PUT /y", "DELETE /z", "public"},
	} {
		p := newParts(t)
		parse := func(line string) *http.Request {
			method, target, _ := strings.Cut(line, " ")
			return p.request(method, target)
		}
		r, came, failed := parse(c.asked), parse(c.came), parse(c.failed)
		r.Method, *r.URL = failed.Method, *failed.URL
		protects, err := newMatching(caddyhttp.MatcherSets{c.matchers}).protectsFailed(r, came.Method, *came.URL)
		if protects != (c.want == "protected") || err != nil {
			t.Errorf("%s: %t, %v", c.what, protects, err)
		}
		if r.Method != failed.Method || *r.URL != *failed.URL {
			t.Errorf("%s: the request is then %s %s", c.what, r.Method, r.URL)
		}
	}
	fails := matcherFunc(func(*http.Request) (bool, error) { return false, io.EOF })
	failing := newMatching(caddyhttp.MatcherSets{{fails}})
	r := newParts(t).request("GET", "/")
	if _, err := failing.protectsFailed(r, r.Method, *r.URL); err == nil {
		t.Error("a matcher that fails leaves a request out")
	}
}
