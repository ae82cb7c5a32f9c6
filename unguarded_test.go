package aventusauth

import (
	"net/http"
	"strings"
	"testing"
)

// TestUnguardedErrorsInTheLog: the log says, once, that error routes could answer requests that the block has not
// seen.
func TestUnguardedErrorsInTheLog(t *testing.T) {
	const limit = "request_body {\nmax_size 1MB\n}"
	for _, c := range []struct {
		inFront, errors string
		want            int
	}{
		{"", "413", 0}, {limit, "413", 1}, {"", "405", 1}, {"", "400 404", 0},
	} {
		w := newWorld(t, setup{caddyfile: "root " + errorFiles(t) + "\n" + c.inFront + "\n%s\nfile_server\n" +
			"handle_errors " + c.errors + " {\nfile_server\n}"})
		for range 2 {
			w.expect(w.browser().do("GET", "/secret.txt", "Sec-Fetch-Mode", "cors"), http.StatusUnauthorized)
		}
		if got := strings.Count(w.log(), "where a request fails before it comes here"); got != c.want {
			t.Errorf("%+v: it says so %d times", c, got)
		}
	}
}

// longMethod is what may fail in front of every block: Caddy refuses it before its routes see the request.
const longMethod = "a method of more than 32 characters"

// TestStrictSNIInTheLog: a host that is not the one of the TLS handshake is refused before the block sees the request.
func TestStrictSNIInTheLog(t *testing.T) {
	p := newParts(t)
	errors := `"errors": {"routes": [{"handle": [{"handler": "file_server"}]}]}`
	for config, want := range map[string]string{
		`{` + errors + `, "strict_sni_host": true}`:  "strict_sni_host",
		`{` + errors + `, "strict_sni_host": false}`: longMethod,
		`{` + errors + `}`:                           longMethod,
	} {
		routes, _ := p.errorRoutesOf([]byte(config))
		if _, fails := routes.unguarded(routes.hostsOf(p.request("GET", "/secret"))); fails != want {
			t.Errorf("%s: %q may fail, want %q", config, fails, want)
		}
	}
}

// TestWhatFailsInFront: a matcher on the address fails in early data (0-RTT), which comes over HTTP/3 alone, and what
// asks who somebody is fails for those who are nobody.
func TestWhatFailsInFront(t *testing.T) {
	p := newParts(t)
	const address = `{"match": [{"remote_ip": {"ranges": ["10.0.0.0/8"]}}], "handle": [{"handler": "headers"}]}`
	const proxy = `{"handler": "reverse_proxy", "upstreams": [{"dial": "localhost:1"}]`
	const overTLS = `, "tls_connection_policies": [{}]`
	for _, c := range []struct{ routes, server, want string }{
		{address, overTLS, "remote_ip over HTTP/3"},
		{strings.Replace(address, "remote", "client", 1), overTLS, "client_ip over HTTP/3"},
		{`{"match": [{"not": [{"remote_ip": {}}]}], "handle": [{"handler": "headers"}]}`, overTLS,
			"remote_ip over HTTP/3"},
		{address, overTLS + `, "protocols": ["h1", "h3"]`, "remote_ip over HTTP/3"},
		{address, overTLS + `, "protocols": ["h1", "h2"]`, longMethod},
		{address, overTLS + `, "allow_0rtt": true`, "remote_ip over HTTP/3"},
		{address, overTLS + `, "allow_0rtt": false`, longMethod},
		{address, "", longMethod},
		{`{"handle": [{"handler": "authentication"}]}`, "", "authentication"},
		{`{"handle": [` + proxy + `, "handle_response": [{}]}]}`, "", "reverse_proxy"}, // as forward_auth is adapted
		{`{"match": [{"path": ["/api/*"]}], "handle": [` + proxy + `}]}`, "", longMethod},
	} {
		routes, _ := p.errorRoutesOf([]byte(`{"errors": {"routes": [{"handle": [{"handler": "file_server"}]}]}, ` +
			`"routes": [` + c.routes + `]` + c.server + `}`))
		if _, fails := routes.unguarded(routes.hostsOf(p.request("GET", "/secret"))); fails != c.want {
			t.Errorf("%s%s: %q may fail, want %q", c.routes, c.server, fails, c.want)
		}
	}
}
