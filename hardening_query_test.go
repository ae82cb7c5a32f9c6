package aventusauth

import (
	"net/http"
	"strings"
	"testing"
)

// askForPreview are matchers that ask for the parameter preview in all ways that Caddy has, with what they need.
var askForPreview = []string{
	"@m query preview=*",
	"@m not {\nnot query preview=*\n}",
	"@m expression query({'preview': '*'})",
	"@m expression `query ({'preview': '*'})`",
	"@m expression {query.preview} != ''",
	"@m expression `ph(req, \"http.request.uri.query.preview\") != ''`",
	"@m expression `vars({'\\{query.preview}': ['1', '2']})`",
	"@m vars {query.preview} 1 2",
	"@m not {\nnot vars_regexp {query.preview} .\n}",
	"@m header X-Preview {query.preview}*",
	"map {query.preview} {area} {\n\"\" public\ndefault private\n}\n@m vars {area} private",
	"map {query.preview} {area} {\n\"\" public\ndefault private\n}\n@m expression {area} == 'private'",
	"map {query.preview} {a} {\n\"\" b\ndefault c\n}\nmap {a} {area} {\nb public\nc private\n}\n" +
		"@m vars {area} private",
	"vars area {query.preview}\n@m vars area 1 2",
	"vars area {query.preview}\n@m vars_regexp {vars.area} .",
}

// TestMalformedQuery: Caddy's matcher of queries reads none of a query that is malformed anywhere, and its placeholder
// none of the malformed pair. Most apps read all of it. Other matchers do not look at it.
func TestMalformedQuery(t *testing.T) {
	malformed := []string{
		"/?preview=1&x=%", "/?x=%zz&preview=1", "/?preview=%&x=1", "/?preview=1;x=1", "/?x=1;preview=1",
	}
	preview := []string{"X-Preview", "1"}
	for _, matcher := range askForPreview {
		w := newWorld(t, setup{matcher: "@m", caddyfile: matcher + "\n%s\nreverse_proxy %app"})
		for _, target := range append(malformed, "/?preview=1", "/?%70review=1") {
			if a := w.http1(request{target: target, headers: preview}); a.StatusCode != http.StatusFound {
				t.Errorf("%s: %s: status %d", matcher, target, a.StatusCode)
			}
		}
		for _, target := range []string{"/", "/?", "/?x=%25", "/?x=preview"} {
			if a := w.http1(request{target: target}); a.StatusCode != http.StatusOK {
				t.Errorf("%s: %s: status %d", matcher, target, a.StatusCode)
			}
		}
	}
	for _, matcher := range []string{
		"@m path /private/*", "@m not path /", "@m vars_regexp {query} private",
		"@m expression `{query}.contains('private') || {path} == '/query'`",
		"map {query.preview} {area} {\ndefault private\n}\n@m vars {space} private",
	} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: matcher + "\n%s\nreverse_proxy %app"})
		for _, target := range malformed {
			w.expect(w.http1(request{target: target}), http.StatusOK)
		}
	}
}

// TestParameterTwice: Caddy's placeholder joins the values by a comma, and its query takes either. Apps take the first
// or the last.
func TestParameterTwice(t *testing.T) {
	twice := []string{"/?action=edit&action=edit", "/?action=view&action=edit", "/?action=edit&%61ction=view"}
	for _, matcher := range []string{
		"@m query action=edit",
		"@m not query action=view",
		"@m expression `query ({'action': 'edit'})`",
		"@m expression `{query.action} == 'edit'`",
		"@m expression `['action', 'do'].exists(name, ph(req, 'http.request.uri.query.' + name) == 'edit')`",
		"@m vars {query.action} edit",
		"@m not not vars_regexp {query.action} ^edit$",
		"@m not vars {query.action} view",
		"map {query.action} {area} {\nedit private\ndefault public\n}\n@m vars {area} private",
		"vars area {query.action}\n@m vars area edit",
	} {
		w := newWorld(t, setup{matcher: "@m", caddyfile: matcher + "\n%s\nreverse_proxy %app"})
		for _, target := range append(twice, "/?action=edit", "/?action=edit&x=1&x=2") {
			if a := w.http1(request{target: target}); a.StatusCode != http.StatusFound {
				t.Errorf("%s: %s: status %d", matcher, target, a.StatusCode)
			}
		}
		for _, target := range []string{"/?action=view", "/?action=view&x=1&x=2"} {
			if a := w.http1(request{target: target}); a.StatusCode != http.StatusOK {
				t.Errorf("%s: %s: status %d", matcher, target, a.StatusCode)
			}
		}
	}
	w := newWorld(t, setup{matcher: "/private/*"})
	for _, target := range twice {
		w.expect(w.http1(request{target: target}), http.StatusOK)
	}
}

// TestParameterElsewhere: what a matcher asks for may be set by a named route, or among the error routes.
func TestParameterElsewhere(t *testing.T) {
	const area = "map {query.preview} {area} {\n\"\" public\ndefault private\n}\n"
	for _, site := range []string{
		"route {\ninvoke area\n%s\nreverse_proxy %app\n}",
		"error 404\nhandle_errors {\n" + area + "%s\nreverse_proxy %app\n}",
	} {
		w := newWorld(t, setup{sites: func(w *world) string {
			site := strings.NewReplacer("%s", w.directive("@m", ""), "%app", w.app).Replace(site)
			named := ""
			if strings.Contains(site, "invoke") {
				named = "&(area) {\n" + area + "}\n"
			}
			return named + w.site + " {\n@m vars {area} private\n" + site + "\n}"
		}})
		for query, asked := range map[string]int{
			"": 1, "?x=1": 1, "?preview=1": 0, "?preview=%": 0, "?preview=1;x=1": 0, "?preview&preview": 0,
		} {
			a := w.http1(request{target: "/" + query})
			if seen := w.requests(); len(seen) != asked {
				t.Errorf("%s: %s: status %d, the app got %d requests", site, query, a.StatusCode, len(seen))
			}
		}
	}
}
