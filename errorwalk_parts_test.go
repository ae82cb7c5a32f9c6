package aventusauth

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// errorRoutesIn returns the error routes of a Caddyfile with one server, and a function that returns what they can do
// with a refused request.
func (p *parts) errorRoutesIn(caddyfile string) (*errorRoutes, func() verdict) {
	p.t.Helper()
	adapted, err := adapt(caddyfile)
	if err != nil {
		p.t.Fatalf("%s\n%v", caddyfile, err)
	}
	var config struct {
		Apps struct {
			HTTP struct{ Servers map[string]json.RawMessage }
		}
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		p.t.Fatal(err)
	}
	return p.errorRoutesOf(config.Apps.HTTP.Servers["srv0"])
}

// errorRoutesOf is errorRoutesIn for the JSON of a server.
func (p *parts) errorRoutesOf(config []byte) (*errorRoutes, func() verdict) {
	p.t.Helper()
	server := new(caddyhttp.Server)
	if err := json.Unmarshal(config, server); err != nil {
		p.t.Fatalf("%s\n%v", config, err)
	}
	all, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cleanUp := caddy.NewContext(all) // which tracing, for one, needs: its provider is the process's
	p.t.Cleanup(cleanUp)
	lists := []caddyhttp.RouteList{server.Routes}
	if server.Errors != nil {
		lists = append(lists, server.Errors.Routes)
	}
	for _, routes := range lists {
		if err := routes.Provision(ctx); err != nil {
			p.t.Fatalf("%s\n%v", config, err)
		}
	}
	for _, route := range server.NamedRoutes {
		if err := route.Provision(ctx, nil); err != nil {
			p.t.Fatal(err)
		}
	}
	e := newErrorRoutes(server)
	return e, func() verdict { return e.verdict(errLoginRequired, e.hostsOf(p.request("GET", "/secret"))) }
}

// TestErrorRoutesTell: which error routes could answer a refused request with what it asked for, or tell an upstream
// of it. TestErrorRoutesShowNothing and TestErrorPagesGoOn see what comes of that.
func TestErrorRoutesTell(t *testing.T) {
	const files, proxy = "file_server", "reverse_proxy"
	const page, app = "rewrite /401.html\nfile_server\n", "rewrite /errors/page?\nreverse_proxy localhost:1\n"
	const fine, asks = "", "asks method" // or what could show too much
	within := func(depth int, routes string) string {
		return strings.Repeat("route {\n", depth) + routes + strings.Repeat("}\n", depth)
	}
	several := func(number int, routes string) string { // each doubles the ways
		for i := range number {
			name := string(rune('a' + i))
			routes = "@" + name + " header X-" + name + " *\nvars @" + name + " " + name + " set\n" + routes
		}
		return routes
	}
	for name, c := range map[string]struct{ before, errors, want string }{
		"a page":          {"", page, fine},
		"an app's page":   {"", app, asks},
		"files":           {"", files, files},
		"an app":          {"", "reverse_proxy localhost:1", proxy},
		"twenty deep":     {"", within(20, page), fine},
		"forty deep":      {"", within(40, page), "routes within routes"},
		"without end":     {"", "invoke itself", "routes within routes"},
		"many ways":       {"", several(7, page), fine},
		"too many ways":   {"", several(9, page), "more routes than can be followed"},
		"nothing is left": {"", "respond x\nfile_server", fine},

		// Variables and maps.
		"a variable by the path": {"", "vars page {uri}\nrewrite {vars.page}\nfile_server", files},
		"a variable, and by the path": {"",
			"vars page /401.html\nvars page {uri}\nrewrite {vars.page}\nfile_server", files},
		"a variable, no more": {"",
			"vars page {uri}\nvars page /401.html\nrewrite {vars.page}\nfile_server", fine},
		"another variable by the path": {"",
			"vars page /401.html\nvars other {uri}\nrewrite {vars.page}\nfile_server", fine},
		"two variables by the path": {"",
			"vars other /401.html\nvars page {uri}\nvars other /error.json\n" +
				"rewrite {vars.page}\nfile_server", files},
		"a variable by a variable": {"",
			"vars a {uri}\nvars b {vars.a}\nrewrite {vars.b}\nfile_server", files},
		"a variable with any name": {"", "vars {path} x\n" + page,
			"vars with a placeholder for a name"},
		"an unknown variable":       {"", "rewrite {vars.page}\nfile_server", files},
		"a variable of before":      {"vars page {uri}", "rewrite {vars.page}\nfile_server", files},
		"a good variable of before": {"vars page /401.html", "rewrite {vars.page}\nfile_server", fine},
		"a variable for some of before": {"vars /x page /401.html\nvars page {uri}",
			"rewrite {vars.page}\nfile_server", files},
		"a map": {"",
			"map {err.status_code} {page} {\ndefault /401.html\n}\nrewrite {page}\nfile_server", fine},
		"the first of two maps": {"", "map {uri} {page} {\ndefault {uri}\n}\n" +
			"map {err.status_code} {page} {\ndefault /401.html\n}\nrewrite {page}\nfile_server", files},
		"the second of two maps": {"", "map {err.status_code} {page} {\ndefault /401.html\n}\n" +
			"map {uri} {page} {\ndefault {uri}\n}\nrewrite {page}\nfile_server", files},
		"a map of before": {"map {uri} {page} {\ndefault {uri}\n}",
			"map {err.status_code} {page} {\ndefault /401.html\n}\nrewrite {page}\nfile_server", files},
		"a map's second output": {"",
			"map {err.status_code} {other} {page} {\n401 x {uri}\ndefault x /401.html\n}\n" +
				"rewrite {page}\nfile_server", files},
		"a map's first output": {"", "map {err.status_code} {page} {other} {\n401 /401.html {uri}\n" +
			"default /401.html x\n}\nrewrite {page}\nfile_server", fine},
		"a map that repeats": {"",
			"map {uri} {page} {\n~(.*) $1\ndefault /401.html\n}\nrewrite {page}\nfile_server", files},

		// Rewrites.
		"a prefix that is cut": {"", "rewrite /a/401.html\nuri strip_prefix /a\nfile_server", fine},
		"a prefix by the path": {"",
			"rewrite /401.html\nuri strip_prefix {http.request.orig_uri.path}\nfile_server", files},
		"a suffix by the path": {"",
			"rewrite /401.html\nuri strip_suffix {http.request.orig_uri.path}\nfile_server", files},
		"a part that is replaced": {"", "rewrite /401.html\nuri replace 401 402\nfile_server", fine},
		"a part found by the path": {"",
			"rewrite /401.html\nuri replace {http.request.orig_uri.path} x\nfile_server", files},
		"a part replaced by the path": {"",
			"rewrite /401.html\nuri replace 401 {http.request.orig_uri.path}\nfile_server", files},
		"a part of an app's query": {"",
			"rewrite /errors/page?a=b\nuri replace b {http.request.orig_uri.path}\n" +
				"reverse_proxy localhost:1", proxy},
		"a regexp": {"", "rewrite /401.html\nuri path_regexp 401 402\nfile_server", fine},
		"a regexp by the path": {"",
			"rewrite /401.html\nuri path_regexp 401 {http.request.orig_uri.path}\nfile_server", files},
		"a query by the path": {"",
			"rewrite /errors/page?\nuri query a {http.request.orig_uri.path}\n" +
				"reverse_proxy localhost:1", proxy},
		"a page and a fragment": {"", "rewrite /401.html#{uri}\nfile_server", fine},
		"a query alone":         {"", "rewrite ?a=b\nfile_server", files},
		"the visitor's query": {"", "rewrite /errors/page?{query}\nreverse_proxy localhost:1",
			"asks method query"},
		"the query as it is": {"", "rewrite /errors/page\nreverse_proxy localhost:1",
			"asks method query"},
		"a method":               {"", "method GET\n" + app, "asks"},
		"a method in lower case": {"", "method get\n" + app, "asks"},
		"a method that changes":  {"", "method POST\n" + app, "asks method"},
		"a method by the sender": {"", "method {method}\n" + app, "asks method"},

		// Upstreams.
		"an app's rewrite": {"", "reverse_proxy localhost:1 {\nrewrite /errors/page?\n}", asks},
		"an app's rewrite to the path": {"",
			"rewrite /errors/page?\nreverse_proxy localhost:1 {\n" +
				"rewrite {http.request.orig_uri.path}?\n}", proxy},
		"an app's rewrite, not of files": {"",
			"rewrite {http.request.orig_uri.path}?\nreverse_proxy localhost:1 {\n" +
				"rewrite /errors/page?\n}", asks},
		"an app's method": {"",
			"rewrite /errors/page?\nreverse_proxy localhost:1 {\nmethod POST\n}", "asks method"},
		"an app by the path": {"",
			"rewrite /errors/page?\nreverse_proxy {http.request.orig_uri.path.0}:1", proxy},
		"an app by the host": {"", "rewrite /errors/page?\nreverse_proxy {host}:1", proxy},
		"apps by a name": {"",
			"rewrite /errors/page?\nreverse_proxy {\ndynamic a localhost 1\n}", proxy},
		"an app's FastCGI": {"",
			"rewrite /errors/page?\nreverse_proxy localhost:1 {\ntransport fastcgi\n}", proxy},
		"an app by a variable": {"",
			"vars app {uri}\nrewrite /errors/page?\nreverse_proxy {vars.app}:1", proxy},
		"what an app answers": {"",
			"rewrite /e?\nreverse_proxy localhost:1 {\nhandle_response {\nfile_server\n}\n}", asks},
		"an answer with a path": {"",
			"rewrite /e?\nreverse_proxy localhost:1 {\nhandle_response {\nrewrite {uri}\n}\n}\n" +
				"file_server", asks},
		"an answer with another": {"",
			"rewrite /e?\nreverse_proxy localhost:1 {\nhandle_response {\n" +
				"rewrite {http.request.orig_uri}\nfile_server\n}\n}", files},

		// What an upstream is told.
		"a header":               {"", "request_header X-Page {err.status_code}\n" + app, asks},
		"a header by the sender": {"", "request_header X-Address {remote_host}\n" + app, asks},
		"a header by the path":   {"", "request_header X-Page {uri}\n" + app, proxy},
		"a header's name":        {"", "request_header X-{http.request.orig_uri.path} x\n" + app, proxy},
		"a header replaced":      {"", "request_header X-Page a b\n" + app, asks},
		"a header replaced by the path": {"",
			"request_header X-Page a {http.request.orig_uri.path}\n" + app, proxy},
		"a header's name replaced": {"", "request_header X-{http.request.orig_uri.path} a b\n" + app, proxy},
		"a header added":           {"", "request_header +X-Page {uri}\n" + app, proxy},
		"a header deleted":         {"", "request_header -X-Page\n" + app, asks},
		"the second of two values": {"", "request_header +X-Page a\nrequest_header +X-Page {uri}\n" + app, proxy},
		"an app's header": {"",
			"rewrite /errors/page?\nreverse_proxy localhost:1 {\n" +
				"header_up X-Page {http.request.orig_uri}\n}", proxy},
		"an answer's header": {"",
			"rewrite /errors/page?\nreverse_proxy localhost:1 {\nheader_down X-Page {uri}\n}", asks},
		"a body":           {"", "request_body {\nset {uri}\n}\n" + app, proxy},
		"a body's size":    {"", "request_body {\nmax_size 1MB\n}\n" + app, asks},
		"a body, no proxy": {"", "request_body {\nset {uri}\n}\n" + page, fine},

		// Hosts.
		"a page by the host":            {"", "rewrite /{host}\nfile_server", files},
		"a root by the host":            {"", "root * /srv/{host}\n" + page, fine},
		"a root by another host":        {"", "request_header Host {uri}\nroot * /srv/{host}\n" + page, files},
		"a root by the host's replaced": {"", "request_header Host a {uri}\nroot * /srv/{host}\n" + page, files},
		"a root by the host's removal":  {"", "request_header -Host\nroot * /srv/{host}\n" + page, files},
		"a root by the host's addition": {"", "request_header +Host a\nroot * /srv/{host}\n" + page, files},
		"a root by any header":          {"", "request_header -X*\nroot * /srv/{host}\n" + page, files},
		"a root by a header's name":     {"", "request_header {uri} x\nroot * /srv/{host}\n" + page, files},
		"a root by another header":      {"", "request_header X-Page a\nroot * /srv/{host}\n" + page, fine},
		"a root by the path":            {"", "root * /srv{uri}\n" + page, files},
		"a root of before":              {"root * /srv", page, fine},
		"a root by the path of before":  {"root * /srv{uri}", page, files},
		"a file system by the path":     {"", "fs {http.request.orig_uri.path.0}\n" + page, files},
		"an index by the path": {"",
			"rewrite /\nfile_server {\nindex {http.request.orig_uri.path}\n}", files},
		"an index": {"", "rewrite /\nfile_server {\nindex a.html b.html\n}", fine},
		"a host that is another": {"",
			"@other host other.test\nhandle @other {\nfile_server\n}\nrespond x", fine},
		"a host that is this one": {"",
			"@this host example.com\nhandle @this {\nfile_server\n}\nrespond x", files},
		"not another host": {"",
			"@not not host other.test\nhandle @not {\nfile_server\n}\nrespond x", files},
		"not this host": {"",
			"@not not host example.com\nhandle @not {\nfile_server\n}\nrespond x", fine},
		"a host that may be another by then": {"",
			"request_header Host {uri}\n@other host other.test\nhandle @other {\nfile_server\n" +
				"}\nrespond x", files},
		"a host that another handler changed": {"request_header Host {uri}",
			"@other host other.test\nhandle @other {\nfile_server\n}\nrespond x", files},

		// Matchers of the error.
		"other errors": {"",
			"@other expression {err.status_code} == 404\nhandle @other {\nfile_server\n}\nrespond x", fine},
		"these errors": {"",
			"@these expression {err.status_code} == 401\nhandle @these {\nfile_server\n}\nrespond x", files},
		"by a variable": {"",
			"@other vars {http.aventus_auth.error} access_denied\nhandle @other {\nfile_server\n}\n" +
				"respond x", fine},
		"by a variable's placeholder": {"",
			"@some vars {http.aventus_auth.error} {uri}\nhandle @some {\nfile_server\n}\n" +
				"respond x", files},
		"by a variable that is none": {"",
			"@some vars page access_denied\nhandle @some {\nfile_server\n}\n" +
				"respond x", files},
		"by a regexp": {"",
			"@other vars_regexp {http.aventus_auth.error} ^access\nhandle @other {\n" +
				"file_server\n}\n" +
				"respond x", fine},
		"by a regexp that may be": {"",
			"@some vars_regexp {uri} ^access\nhandle @some {\nfile_server\n}\n" +
				"respond x", files},
		"by an expression of the path": {"",
			"@some expression {path} == \"/x\"\nhandle @some {\nfile_server\n}\n" +
				"respond x", files},
		"by nothing": {"", "@some expression true\nhandle @some {\nfile_server\n}\nrespond x", files},

		// Files that are looked for.
		"a page that is there": {"",
			"@page file /401.html\nhandle @page {\nrewrite {file_match.relative}\n" +
				"file_server\n}\nrespond x", fine},
		"a page that may be there": {"",
			"@page file /401.html\nrewrite @page {file_match.relative}\nfile_server", files},
		"the file that was asked for": {"",
			"@file file\nhandle @file {\nrewrite {file_match.relative}\nfile_server\n}\nrespond x", files},
		"the file after a rewrite": {"",
			"rewrite /401.html\n@file file\nhandle @file {\nrewrite {file_match.relative}\n" +
				"file_server\n}\nrespond x", fine},
		"a file below a root by the path": {"", "@file file {\nroot /srv{uri}\ntry_files /401.html\n}\n" +
			"handle @file {\nrewrite {file_match.relative}\nfile_server\n}\nrespond x", files},
		"the second of two files": {"", "@file file /401.html {http.request.orig_uri.path}\n" +
			"handle @file {\nrewrite {file_match.relative}\nfile_server\n}\nrespond x", files},
		"a file within not": {"", "@file not file {http.request.orig_uri.path}\n" +
			"handle @file {\nrewrite {file_match.relative}\nfile_server\n}\nrespond x", files},
		"a file, and an expression": {"", "@file {\nfile /401.html\nexpression {path} == \"/x\"\n}\n" +
			"handle @file {\nrewrite {file_match.relative}\nfile_server\n}\nrespond x", files},
		"a file, and the error": {"", "@file {\nfile /401.html\nexpression {err.status_code} == 401\n}\n" +
			"handle @file {\nrewrite {file_match.relative}\nfile_server\n}\nrespond x", fine},

		// What may be left of the path.
		"parts of the path":       {"", "rewrite /{path.0}\nfile_server", files},
		"the file of the path":    {"", "rewrite /{file}\nfile_server", files},
		"the escaped path":        {"", "rewrite /{http.request.uri.path_escaped}\nfile_server", files},
		"after a page, the path":  {"", "rewrite /401.html\nrewrite /x{path}\nfile_server", fine},
		"after a page, the URI":   {"", "rewrite /401.html\nrewrite /x{uri}\nfile_server", files},
		"the error's message":     {"", "rewrite /{err.message}\nfile_server", fine},
		"the environment":         {"", "rewrite /{env.PAGE}\nfile_server", fine},
		"a placeholder in others": {"", "rewrite /{err.{uri}}\nfile_server", files},
		"an escaped brace":        {"", "rewrite /\\{{uri}\nfile_server", files},
		"an identity":             {"", "rewrite /{http.auth.user.id}\nfile_server", files},
		"a cookie":                {"", "rewrite /{cookie.page}\nfile_server", files},
		"several placeholders": {"",
			"rewrite /{err.status_code}{http.request.orig_uri.path}\nfile_server", files},

		// What is true on one of several ways, or was true before.
		"the same again and again": {"", "@some header X-Some *\n" + strings.Repeat("header @some X-Some x\n"+
			""+
			""+
			"", 9) + page, fine},
		"one after another": {"", strings.Repeat("route {\nheader X-Some x\n}\n", 40) + page, fine},
		"another host on one way": {"",
			"@some header X-Some *\nrequest_header @some Host x\n@other host other.test\n" +
				"handle @other {\nfile_server\n}\nrespond x", files},
		"a header before another": {"", "request_header X-Page {uri}\nrequest_header X-Other x\n" + app, proxy},
		"a header before a body":  {"", "request_header X-Page {uri}\nrequest_body {\nmax_size 1MB\n}\n" + app, proxy},
		"a host before a header": {"",
			"request_header Host x\nrequest_header X-Other x\nroot * /srv/{host}\n" + page, files},
		"a method before another": {"", "method GET\nmethod POST\n" + app, asks},
		"a proxy before another": {"",
			"@some header X-Some *\nrewrite /e\nroute {\nreverse_proxy @some localhost:1\n" +
				"method GET\nrewrite /e?\nreverse_proxy localhost:1\n}", "asks method query"},
		"a host of before, before a header": {"request_header Host x\nrequest_header X-Other x",
			"@other host other.test\nhandle @other {\nfile_server\n}\nrespond x", files},
		"a variable of before, for some": {"vars page {uri}\nvars /x page /401.html",
			"rewrite {vars.page}\nfile_server", files},
		"a variable of before, and set anew": {"vars page {uri}",
			"vars page /401.html\nrewrite {vars.page}\nfile_server", fine},
		"the root of before": {"vars page {vars.root}",
			"rewrite {vars.page}\nfile_server", files},
		"a file system of before": {"vars page {vars.fs}", "rewrite {vars.page}\nfile_server", files},
		"a variable by the host":  {"", "vars page {host}\nrewrite /{vars.page}\nfile_server", files},
		"a variable by the sender": {"",
			"vars page {remote_host}\nrewrite /{vars.page}\nfile_server", files},
		"a map of dollars": {"",
			"map {uri} {page} {\n/a /$1.html\n}\nrewrite {page}\nfile_server", fine},
		"a map by a regexp": {"",
			"map {uri} {page} {\n~.* /401.html\n}\nrewrite {page}\nfile_server", fine},
		"headers of an answer": {"", "header X-Some x\nroot * /srv/{host}\n" + page, fine},
		"another host, and the error": {"",
			"request_header Host x\nrewrite /{err.status_code}.html\nfile_server", fine},

		// What ends there, and what goes on.
		"files, and else": {"", page + "route {\nrewrite {http.request.orig_uri.path}\nfile_server\n}", fine},
		"an app, and else": {"", "rewrite /e?\nreverse_proxy localhost:1 {\nreplace_status 401\n}\n" +
			"route {\nrewrite {http.request.orig_uri.path}\nfile_server\n}", asks},
		"early hints": {"", "respond early 103\nfile_server", files},
		"in place of an answer": {"",
			"intercept {\nhandle_response {\nrewrite {http.request.orig_uri.path}\n" +
				"file_server\n}\n}\n" +
				"respond x", files},
		"in place of an answer, a page": {"", "intercept {\nhandle_response {\n" + page +
			"}\n}\nrespond x", fine},
		"in place of an answer, no page": {"", page +
			"intercept {\nhandle_response {\nfile_server\n}\n}\nrespond x", fine},
		"in place of an answer, after a page": {"",
			"rewrite /401.html\nintercept {\nhandle_response {\nfile_server\n}\n}\n" +
				"respond x", files},
		"in place of an answer, a header": {"",
			"request_header X-Page {uri}\nintercept {\nhandle_response {\n" + app +
				"}\n}\nrespond x", proxy},
		"in place of an answer, a host": {"",
			"request_header Host x\nintercept {\nhandle_response {\nroot * /srv/{host}\n" +
				page + "}\n}\nrespond x", files},
		"in place of an answer, a variable": {"", "vars page /401.html\nintercept {\nhandle_response {\n" +
			"rewrite {vars.page}\nfile_server\n}\n}\nrespond x", fine},
		"what changes no request": {"", "encode gzip\ntemplates\ntracing\nlog_append a b\npush /a\n" +
			"basic_auth {\nada $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\n" + page, fine},
		"an answer's headers": {"",
			"rewrite /e?\nreverse_proxy localhost:1 {\nhandle_response {\n" +
				"copy_response_headers\n}\n}",
			asks},

		// Hosts and files by way of others.
		"a host in a named route": {"", "invoke hosts", files},
		"a host by a variable": {"vars h other.test",
			"@some host {vars.h}\nhandle @some {\nfile_server\n}\nrespond x", files},
		"a code of ours": {"",
			"@ours vars {http.aventus_auth.error} login_required\nhandle @ours {\n" + page +
				"}\nfile_server", fine},
		"an expression of the config": {"",
			"@some expression `1 == 2`\nhandle @some {\nfile_server\n}\nrespond x", files},
		"an expression that fails": {"",
			"@some expression `{err.status_code} < \"500\"`\nhandle @some {\nfile_server\n}\n" +
				"respond x", files},
		"where no page is": {"",
			"@none not file /401.html\nhandle @none {\nrewrite {file_match.relative}\n" +
				"file_server\n}\nrespond x", files},
		"a page below a root by the host": {"",
			"@page file {\nroot /srv/{host}\ntry_files /401.html\n}\nhandle @page {\n" +
				"rewrite {file_match.relative}\nfile_server\n}\nrespond x", fine},
		"a page, and no file of the path": {"",
			"@page file /401.html\n@none not file {http.request.orig_uri.path}\n" +
				"route @page {\nroute @none {\nrewrite {file_match.relative}\nfile_server\n}\n}\n" +
				"respond x", files},
		"a query by the path, in a rewrite": {"",
			"rewrite /e?at={http.request.orig_uri.path}\nreverse_proxy localhost:1", proxy},
		"the query, and the path": {"",
			"rewrite /e?{query}&at={http.request.orig_uri.path}\nreverse_proxy localhost:1", proxy},

		// Placeholders.
		"after a page, its query": {"",
			"rewrite /401.html?\nrewrite /{query}{http.request.uri.prefixed_query}.html\n" +
				"file_server", fine},
		"after a page, the escaped path": {"",
			"rewrite /401.html\nrewrite /x{http.request.uri.path_escaped}\nfile_server", fine},
		"a placeholder in the environment's": {"",
			"rewrite /{env.{http.request.orig_uri.path}}\nfile_server", files},
		"all of the error": {"",
			"rewrite /{http.error}{err.id}{err.status_text}{err.trace}{http.aventus_auth.error}" +
				"{http.aventus_auth.error_description}{file./x}\nfile_server", fine},
		"all of the system": {"",
			"rewrite /{system.arch}{system.hostname}{system.os}{system.slash}{system.wd}\n" +
				"file_server", fine},
		"all of the host": {"", "root * /srv/{port}/{scheme}/{labels.0}\n" + page, fine},
		"all of the sender": {"",
			"request_header X-Sender {hostport}{http.request.proto}{remote}{http.request.uuid}" +
				"{http.request.remote.host}{http.request.local.host}{http.reverse_proxy.upstream.address}\n" +
				"" +
				"" +
				"" + app, asks},
		"a page by the sender": {"", "rewrite /{remote_host}\nfile_server", files},

		// The way on.
		"a file, and else": {"",
			"rewrite /x\nfile_server {\npass_thru\n}\nroute {\n" +
				"rewrite {http.request.orig_uri.path}\nfile_server\n}", files},
		"early hints by a placeholder": {"", "respond x {err.status_code}\nfile_server", files},
		"copies":                       {"", "intercept {\nhandle_response {\ncopy_response\n}\n}\n" + page, fine},
		"another error":                {"", "error 404\nfile_server", fine},
		"a handler that is not known":  {"", "metrics", "http.handlers.metrics"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParts(t)
			_, tell := p.errorRoutesIn("&(itself) {\ninvoke itself\nfile_server\n}\n" +
				"&(hosts) {\n@this host example.com\nhandle @this {\nfile_server\n}\n" +
				"respond x\n}\nhttp://example.com:8080 {\nroute {\n" + c.before +
				"\n}\nhandle_errors {\nroute {\n" + c.errors + "\n}\n}\n}\n")
			v := tell()
			got := []string{}
			if v.asks {
				got = append(got, "asks")
			}
			if v.method {
				got = append(got, "method")
			}
			if v.query {
				got = append(got, "query")
			}
			said := strings.Join(got, " ")
			if v.unsafe != "" {
				said = strings.TrimPrefix(v.unsafe, "http.handlers.")
			}
			if want := strings.TrimPrefix(c.want, "http.handlers."); said != want {
				t.Errorf("%s: %q, want %q", name, said, want)
			}
		})
	}
}

// TestErrorRoutesMayAnswer: an upstream of the error routes gets no method, query, body or header of a visitor's
// that the site did not choose, and else the module answers itself.
func TestErrorRoutesMayAnswer(t *testing.T) {
	const site = "http://example.com:8080 {\nhandle_errors {\nroute {\n%s\nreverse_proxy localhost:1\n}\n}\n}\n"
	for what, c := range map[string]struct {
		errors string
		sent   string // method and target
		change func(*http.Request)
		want   bool
	}{
		"as it is": {"rewrite /e?", "GET /secret", nil, true},
		"a HEAD":   {"rewrite /e?", "HEAD /secret", nil, true},
		"a POST":   {"rewrite /e?", "POST /secret", nil, false},
		"a method by then": {"rewrite /e?", "GET /secret",
			func(r *http.Request) { r.Method = "DELETE" }, false},
		"a method before": {"rewrite /e?", "DELETE /secret",
			func(r *http.Request) { r.Method = "GET" }, false},
		"a POST, by a method that is chosen": {"method GET\nrewrite /e?", "POST /secret", nil, true},
		"a query":                            {"rewrite /e", "GET /secret?a", nil, false},
		"a query by then": {"rewrite /e", "GET /secret",
			func(r *http.Request) { r.URL.RawQuery = "a" }, false},
		"a query before": {"rewrite /e", "GET /secret?a",
			func(r *http.Request) { r.URL.RawQuery = "" }, false},
		"no query":                         {"rewrite /e", "GET /secret", nil, true},
		"a query, where another is chosen": {"rewrite /e?", "GET /secret?a", nil, true},
		"a body": {"rewrite /e?", "GET /secret",
			func(r *http.Request) { r.ContentLength = 1 }, false},
		"a body of unknown length": {"rewrite /e?", "GET /secret",
			func(r *http.Request) { r.ContentLength = -1 }, false},
		"a body of unknown length over HTTP/3": {"rewrite /e?", "GET /secret", over3, true},
		"a body of known length over HTTP/3": {"rewrite /e?", "GET /secret", func(r *http.Request) {
			over3(r)
			r.ContentLength = 1
		}, false},
		"a POST's body over HTTP/3": {"method GET\nrewrite /e?", "POST /secret", over3, false},
		"a body over HTTP/3, of a POST before": {"method GET\nrewrite /e?", "POST /secret", func(r *http.Request) {
			over3(r)
			r.Method = "GET"
		}, false},
		"a body over HTTP/3, of a POST by then": {"method GET\nrewrite /e?", "GET /secret", func(r *http.Request) {
			over3(r)
			r.Method = "POST"
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			p := newParts(t)
			e, _ := p.errorRoutesIn(strings.Replace(site, "%s", c.errors, 1))
			core, logged := observer.New(zap.WarnLevel)
			pages := &errorPages{all: new(errorRoutesOfServers), logger: zap.New(core)}
			for range 2 {
				method, target, _ := strings.Cut(c.sent, " ")
				r := p.request(method, target, "Accept", "a", "Accept-Encoding", "b",
					"Accept-Language", "c",
					"User-Agent", "d", "Sec-Fetch-Dest", "e", "Sec-Fetch-Mode", "f",
					"Sec-Fetch-Site", "g",
					"X-Requested-With", "h", "X-Original-Url", "/secret", "Authorization",
					"x", "Cookie", "a=b")
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), e.server)
				if c.change != nil {
					c.change(r)
				}
				if got := pages.mayAnswer(httptest.NewRecorder(), r, errLoginRequired); got != c.want {
					t.Errorf("%t, want %t", got, c.want)
				}
				if c.want && (len(r.Header) != 8 || r.Header.Get("X-Original-Url") != "" || r.ContentLength != 0 ||
					r.Body != http.NoBody) {
					t.Errorf("an upstream gets %v, and %d bytes", r.Header, r.ContentLength)
				}
			}
			want := 1 // not for each request
			if c.want {
				want = 0
			}
			if logged.Len() != want {
				t.Errorf("the log has %v", logged.All())
			}
		})
	}
}

// over3 makes a request one as HTTP/3 has it, with a body whose length is not known.
func over3(r *http.Request) {
	r.ProtoMajor, r.ContentLength, r.Body = 3, -1, io.NopCloser(strings.NewReader("x"))
}

// TestErrorRoutesOfEachError: error routes that go by the error's code may answer one error, and not another of the
// same status, whichever comes first.
func TestErrorRoutesOfEachError(t *testing.T) {
	for _, pair := range [][]failure{ // of the first one, they could show what was asked for
		{errClaim, errScope}, {errBearer, errLoginRequired}, {errCallback, errState}, {errToken, errServer},
		{errRenewal, errStorage},
	} {
		p, unsafe := newParts(t), pair[0].code
		e, _ := p.errorRoutesIn("http://example.com:8080 {\nhandle_errors {\n" +
			"@files vars {http.aventus_auth.error} " + unsafe + "\nhandle @files {\nfile_server\n}\n" +
			"handle {\nrewrite * /{err.status_code}.html\nfile_server\n}\n}\n}\n")
		for range 2 {
			pages := &errorPages{all: new(errorRoutesOfServers), logger: zap.NewNop()}
			for _, f := range append(pair, pair...) {
				r := caddyhttp.PrepareRequest(p.request("GET", "/secret"), caddy.NewReplacer(),
					httptest.NewRecorder(), e.server)
				want := f.code != unsafe
				if pages.mayAnswer(httptest.NewRecorder(), r, f) != want {
					t.Errorf("%s of %d: the error routes are used: %t", f.code, f.status, !want)
				}
			}
			slices.Reverse(pair)
		}
	}
}

// TestErrorRoutesOfSubroutesTell is TestErrorRoutesTell for what JSON alone can say: error routes of a subroute,
// groups of routes, and routes that are the last.
func TestErrorRoutesOfSubroutesTell(t *testing.T) {
	const files, page, path = jsonFiles, jsonPage, `{"handler": "rewrite", "uri": "{http.request.orig_uri.path}"}`
	const end = `{"handler": "static_response", "body": "x"}`
	const behind = "what stands behind a subroute with error routes"
	const other = `{"handler": "error", "status_code": 404, "error": "{http.request.orig_uri.path}"}`
	const no, some = `"match": [{"host": ["other.test"]}]`, `"match": [{"header": {"X-Some": ["*"]}}]`
	const of404 = `"match": [{"expression": "{http.error.status_code} == 404"}]`
	sub := func(match, routes, errors string) string {
		return `{` + match + `"handle": [{"handler": "subroute", "routes": [` + routes + `], "errors": {"routes": [` +
			errors + `]}}]}`
	}
	handle := func(handlers string) string { return `{"handle": [` + handlers + `]}` }
	both := page + ", " + files
	for what, c := range map[string]struct{ routes, errors, want string }{
		"none":                         {"", "", ""},
		"an answer":                    {sub("", "", handle(end)), "", ""},
		"a page":                       {sub("", "", handle(both)), "", ""},
		"files":                        {sub("", "", handle(files)), "", "file_server"},
		"no answer":                    {sub("", "", ""), "", behind},
		"an answer to some":            {sub("", "", `{`+some+`, "handle": [`+end+`]}`), "", behind},
		"files, and the server's":      {sub("", "", handle(files)), handle(end), "file_server"},
		"an answer, and the server's":  {sub("", "", handle(end)), handle(end), ""},
		"of another host":              {sub(no+`, `, "", handle(files)), "", ""},
		"of some requests":             {sub(some+`, `, "", handle(files)), "", "file_server"},
		"in a named route":             {handle(`{"handler": "invoke", "name": "named"}`), "", "file_server"},
		"in a route that calls itself": {handle(`{"handler": "invoke", "name": "around"}`), "", "file_server"},
		"in no named route":            {handle(`{"handler": "invoke", "name": "none"}`), "", ""},

		"another error, and the server's": {sub("", "", handle(other)),
			`{` + of404 + `, "handle": [` + files + `]}`, "file_server"},
		"another error's message, and the server's": {sub("", "", handle(other)),
			handle(`{"handler": "rewrite", "uri": "{http.error.message}"}, ` + files), "file_server"},
		"another error's code, and the server's": {sub("", "", handle(other)),
			handle(`{"handler": "rewrite", "uri": "/{http.error.status_code}.html"}, ` + files), ""},
		"an error among the error routes": {"", sub("", handle(other),
			`{`+of404+`, "handle": [`+path+`, `+files+`]}`), "file_server"},
		"an error among them, a page": {"", sub("", handle(other), handle(both)), ""},

		"a group": {"", `{"group": "a", "handle": [` + page + `]}, {"group": "a", "handle": [` + path + `]}, ` +
			handle(files), ""},
		"two groups": {"", `{"group": "a", "handle": [` + page + `]}, {"group": "b", "handle": [` + path + `]}, ` +
			handle(files), "file_server"},
		"no group": {"", handle(page) + `, ` + handle(path) + `, ` + handle(files), "file_server"},
		"a group that was satisfied before": {`{"group": "a", "handle": [` + jsonHeaders + `]}`,
			`{"group": "a", "handle": [` + page + `]}, ` + handle(files), "file_server"},
		"a group of some": {"", handle(page) + `, {"group": "a", ` + some + `, "handle": [` + page +
			`]}, {"group": "a", "handle": [` + path + `]}, ` + handle(files), "file_server"},
		"the last route": {"", `{"terminal": true, "handle": [` + jsonHeaders + `]}, ` + handle(files), ""},
		"not the last":   {"", handle(jsonHeaders) + `, ` + handle(files), "file_server"},
		"a last route for some": {"", `{"terminal": true, ` + some + `, "handle": [` + jsonHeaders + `]}, ` +
			handle(files), "file_server"},
	} {
		p := newParts(t)
		_, tell := p.errorRoutesOf([]byte(`{"routes": [` + c.routes + `], "errors": {"routes": [` + c.errors + `]},
			"named_routes": {"named": ` + sub("", "", handle(files)) + `, "around": {"handle": [
				{"handler": "invoke", "name": "around"}, {"handler": "invoke", "name": "named"}]}}}`))
		if got := strings.TrimPrefix(tell().unsafe, "http.handlers."); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}
