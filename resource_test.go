package aventusauth

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// metadata is what a site says of itself at a path.
func (w *world) metadata(path string) (said map[string]any) {
	w.t.Helper()
	a := w.browser().do("GET", path, "Sec-Fetch-Mode", "cors", "Origin", "https://client.example",
		"MCP-Protocol-Version", "2025-06-18")
	w.expect(a, http.StatusOK)
	if err := json.Unmarshal([]byte(a.body), &said); err != nil {
		w.t.Fatal(err)
	}
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Access-Control-Allow-Origin") != "*" ||
		a.Header.Get("Cache-Control") != "no-store" || a.Header["Set-Cookie"] != nil {
		w.t.Errorf("%s: %v", path, a.Header)
	}
	return said
}

// expectMetadata compares what a site says of itself.
func (w *world) expectMetadata(path, resource string, further map[string]any) {
	w.t.Helper()
	want := map[string]any{
		"resource": resource, "authorization_servers": []any{
			w.issuer.Issuer,
		}, "bearer_methods_supported": []any{"header"},
	}
	maps.Copy(want, further)
	if got := w.metadata(path); !reflect.DeepEqual(got, want) {
		w.t.Errorf("%s is %v\nwant %v", path, got, want)
	}
}

// TestMetadata: with accept_bearer, the site says what API clients need to know, to everybody and wherever the
// matcher points; it does so at the path that a challenge names, and where clients look without one.
func TestMetadata(t *testing.T) {
	w := newWorld(t, setup{
		matcher: "/api/*", block: "accept_bearer\nscope read:things offline_access write:things\nrequire_scope " +
			"write:things",
		caddyfile: "rewrite * /api/rewritten\n%s\nreverse_proxy %app",
	})
	scopes := map[string]any{"scopes_supported": []any{"write:things", "read:things"}}
	for _, path := range []string{
		metadataPath, metadataPath + "/", metadataPath + "/api/things", metadataPath + "?x=1",
	} {
		w.expectMetadata(path, w.site, scopes)
	}
	w.expect(w.browser().do("HEAD", metadataPath), http.StatusOK)
	b := w.browser()
	b.login("/api/x")
	w.expect(b.get(metadataPath), http.StatusOK)

	a := w.browser().do("OPTIONS", metadataPath, "Origin", "https://client.example",
		"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "mcp-protocol-version")
	w.expect(a, http.StatusNoContent)
	if a.Header.Get("Access-Control-Allow-Origin") != "*" || a.Header.Get("Access-Control-Allow-Headers") != "*" {
		t.Errorf("a preflight gets %v", a.Header)
	}
	a = w.browser().do("POST", metadataPath)
	w.expect(a, http.StatusMethodNotAllowed)
	if got := a.Header.Get("Allow"); got != "GET, HEAD, OPTIONS" {
		t.Errorf("Allow: %s", got)
	}
	if n := len(w.requests()); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
	// What only begins so is the site's own.
	w.expect(w.browser().do("GET", metadataPath+"s"), http.StatusUnauthorized)
}

// TestNoMetadata: without accept_bearer, the path is the site's.
func TestNoMetadata(t *testing.T) {
	w := newWorld(t, setup{})
	w.expect(w.browser().do("GET", metadataPath), http.StatusUnauthorized)
	b := w.browser()
	b.login("/")
	if a := b.get(metadataPath); a.body != "the app" {
		t.Errorf("it is %s", a.body)
	}
}

// TestMetadataPathIsTaken: with accept_bearer, no other path of the block's own can be that of the metadata.
func TestMetadataPathIsTaken(t *testing.T) {
	for field, value := range map[string]string{
		"profile": `"` + metadataPath + `"`, "logout": `{"path":"` + metadataPath + `"}`,
		"redirect_uri": `"https://example.com` + metadataPath + `"`,
	} {
		config := map[string]string{
			"client_id": `"abc"`, "client_secret": `"s"`, "redirect_uri": `"https://example.com/cb"`,
			"audience": `"a"`,
		}
		config[field] = value
		var members []string
		for name, value := range config {
			members = append(members, `"`+name+`":`+value)
		}
		text := strings.Join(members, ",")
		if err := validate(t, "{"+text+"}"); err != nil {
			t.Errorf("%s without accept_bearer: %v", field, err)
		}
		err := validate(t, "{"+text+`,"accept_bearer":true}`)
		if err == nil || !strings.Contains(err.Error(), "which is another's already") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestMetadataOfAudience: an audience that is a URL of the site is what it is called, since clients ask for a
// token for that. Each of two such blocks describes its own, and what its challenge names is there.
func TestMetadataOfAudience(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		block := func(matcher, audience string) string {
			w.audience = "audience " + w.site + audience
			return w.directive(matcher, "accept_bearer")
		}
		blocks := block("/mcp/*", "/mcp/one") + "\n" + block("/other", "/other") + "\n"
		w.audience = "audience https://api.example.com/"
		return w.site + " {\n" + blocks + w.directive("/longest/of/all/*", "accept_bearer\nscope read:all") +
			"\nreverse_proxy " + w.app + "\n}"
	}})
	for path, resource := range map[string]string{
		"/mcp/one": "/mcp/one", "/mcp/one/": "/mcp/one", "/mcp/one/two": "/mcp/one", "/other": "/other",
	} {
		w.expectMetadata(metadataPath+path, w.site+resource, nil)
	}
	ofSite := map[string]any{"scopes_supported": []any{"read:all"}}
	for _, path := range []string{"", "/", "/mcp", "/mcp/oneself", "/longest/of/all/x"} {
		w.expectMetadata(metadataPath+path, w.site, ofSite)
	}
	for path, want := range map[string]string{
		"/mcp/one": "/mcp/one", "/mcp/two": "/mcp/one", "/other": "/other", "/longest/of/all/x": "",
	} {
		challenge := w.browser().do("POST", path).Header.Get("WWW-Authenticate")
		if challenge != `Bearer resource_metadata="`+w.site+metadataPath+want+`"` {
			t.Errorf("%s: %s", path, challenge)
		}
	}
}

// TestMetadataOfOneAudience: what is no path of the only resource is the site's.
func TestMetadataOfOneAudience(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		w.audience = "audience " + w.site + "/mcp"
		return w.site + " {\n" + w.directive("/mcp", "accept_bearer") + "\nreverse_proxy " + w.app + "\n}"
	}})
	w.expectMetadata(metadataPath+"/mcp/x", w.site+"/mcp", nil)
	w.expectMetadata(metadataPath, w.site+"/mcp", nil)
	if a := w.browser().do("GET", metadataPath+"/mcpx"); a.body != "the app" {
		t.Errorf("it is %s", a.body)
	}
}

// TestMetadataIssuer: the issuer is named as it is written, since clients compare it to the letter.
func TestMetadataIssuer(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		written := strings.TrimSuffix(w.issuer.Issuer, "/")
		block := strings.Replace(w.directive("", "accept_bearer"), "issuer "+written+"/", "issuer "+written, 1)
		return w.site + " {\n" + block + "\n}"
	}})
	servers := w.metadata(metadataPath)["authorization_servers"].([]any)
	if got := servers[0]; got != strings.TrimSuffix(w.issuer.Issuer, "/") {
		t.Errorf("the server is %s", got)
	}
}

// TestMetadataHosts: with the host of the request in redirect_uri, each host is a resource of its own, and a
// host that cannot be one is none.
func TestMetadataHosts(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		block := strings.Replace(w.directive("", "accept_bearer"), w.site+"/oauth2",
			"https://{http.request.host}/oauth2", 1)
		return ":" + w.port + " {\n" + block + "\n}"
	}})
	said := w.browser().do("GET", metadataPath, "Host", "One.Example.com:"+w.port)
	w.expect(said, http.StatusOK)
	if !strings.Contains(said.body, `"resource":"https://one.example.com"`) {
		t.Errorf("it says %s", said.body)
	}
	a := w.browser().do("GET", "/", "Host", "one.example.com")
	want := `Bearer resource_metadata="https://one.example.com` + metadataPath + `"`
	if got := a.Header.Get("WWW-Authenticate"); got != want {
		t.Errorf("WWW-Authenticate: %s", got)
	}
	w.expect(w.browser().do("GET", metadataPath, "Host", `one"example.com`), http.StatusBadRequest)
}

// TestMetadataOfListedHosts: each of the hosts that share a login is a resource of its own, and others are none.
func TestMetadataOfListedHosts(t *testing.T) {
	w := newWorld(t, setup{sites: func(w *world) string {
		return ":" + w.port + " {\n" + w.directive("", "accept_bearer\nhosts two.localhost") + "\n}"
	}})
	two := "http://two.localhost:" + w.port
	a := w.browser().do("GET", metadataPath, "Host", "two.localhost:"+w.port)
	w.expect(a, http.StatusOK)
	if !strings.Contains(a.body, `"resource":"`+two+`"`) {
		t.Errorf("it says %s", a.body)
	}
	a = w.browser().do("GET", "/", "Host", "two.localhost:"+w.port)
	if got := a.Header.Get("WWW-Authenticate"); got != `Bearer resource_metadata="`+two+metadataPath+`"` {
		t.Errorf("WWW-Authenticate: %s", got)
	}
	w.expectMetadata(metadataPath, w.site, nil)
	w.expect(w.browser().do("GET", metadataPath, "Host", "three.example.com"), http.StatusMisdirectedRequest)
}

// TestOddAudiences: an audience that cannot name the site leaves it its origin.
func TestOddAudiences(t *testing.T) {
	sites := newSites("https://example.com/cb", nil, nil, nil)
	r := &http.Request{Host: "example.com"}
	for audience, want := range map[string]string{
		"https://example.com/":  "https://example.com/ https://example.com" + metadataPath,
		"https://example.com":   "https://example.com https://example.com" + metadataPath,
		"https://EXAMPLE.com/a": "https://EXAMPLE.com/a https://EXAMPLE.com" + metadataPath + "/a",
		"https://example.com/a%2Fb/c/": "https://example.com/a%2Fb/c/ https://example.com" +
			metadataPath + "/a%2Fb/c",
		"https://other.example.com/a":   "https://example.com https://example.com" + metadataPath,
		"https://example.com:8443/a":    "https://example.com https://example.com" + metadataPath,
		"https://example.com/a?b":       "https://example.com https://example.com" + metadataPath,
		"https://example.com/#a":        "https://example.com https://example.com" + metadataPath,
		"https://u@example.com/":        "https://example.com https://example.com" + metadataPath,
		"https://example.com/\"a":       "https://example.com https://example.com" + metadataPath,
		"urn:example.com":               "https://example.com https://example.com" + metadataPath,
		"my API":                        "https://example.com https://example.com" + metadataPath,
		"ftp://example.com/":            "https://example.com https://example.com" + metadataPath,
		"https://example.com/%zz":       "https://example.com https://example.com" + metadataPath,
		"https://example.com\\@evil.io": "https://example.com https://example.com" + metadataPath,
	} {
		res := newResource(sites, audience, "", nil)
		id, _, _ := res.of(r)
		url, _ := res.metadataURL(r)
		if got := id + " " + url; got != want {
			t.Errorf("%q: %s", audience, got)
		}
	}
}

// TestMetadataOfAnotherHost: a resource of another host describes itself there, also where the path that a client asks
// about would fit it better.
func TestMetadataOfAnotherHost(t *testing.T) {
	p := newParts(t)
	own := newResource(p.sites, "", "https://auth.example.com", nil)
	there := newSites("https://other.example.com/oauth2/callback", nil, nil, nil)
	all := new(resources)
	all.join(own)
	all.join(newResource(there, "https://other.example.com/api", "https://auth.example.com", nil))
	m := &resourceMetadata{own, all, p.answers}
	if got := m.described(p.request("GET", metadataPath+"/api"), metadataPath+"/api"); got != own {
		t.Errorf("%s describes %v", bareSite, got)
	}
}
