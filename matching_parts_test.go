package aventusauth

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// matcherFunc is a matcher that a test makes up.
type matcherFunc func(r *http.Request) (bool, error)

func (f matcherFunc) MatchWithError(r *http.Request) (bool, error) { return f(r) }

var errMatcher = errors.New("the matcher has failed")

// TestMatching: a request is protected if the matcher matches it as it came, or by any other of its readings, by its
// placeholders, too. A matcher that fails for one of them ends the request: it may not match the next one. Afterwards,
// the request is as it came.
func TestMatching(t *testing.T) {
	connect := func(r *http.Request) {
		r.Method, r.ProtoMajor = http.MethodConnect, 2
		r.Header.Set(":protocol", "websocket")
	}
	nothing := func(*http.Request) bool { return false }
	for _, c := range []struct {
		what, method, target, host string
		change                     func(*http.Request)
		is                         func(r *http.Request) bool // what the matcher matches, or fails for
		fails                      bool                       // it could
	}{
		{"as it came", "GET", "/", "example.com", nil, func(*http.Request) bool { return true }, true},
		{"a method in lower case", "post", "/", "example.com", nil, func(r *http.Request) bool {
			return r.Method == "post" // or not POST
		}, true},
		{"its method in upper case", "post", "/", "example.com", nil, func(r *http.Request) bool {
			return r.Method == "POST"
		}, true},
		{"a WebSocket as CONNECT", "CONNECT", "/", "example.com", connect, func(r *http.Request) bool {
			return r.Method == "CONNECT"
		}, true},
		{"a WebSocket as GET", "CONNECT", "/", "example.com", connect, func(r *http.Request) bool {
			return r.Method == "GET" && r.Header.Get("Upgrade") == "websocket"
		}, true},
		{"a host in capitals", "GET", "/", "Example.COM.", nil, func(r *http.Request) bool {
			return r.Host == "Example.COM."
		}, true},
		{"its host as DNS has it", "GET", "/", "Example.COM.:80", nil, func(r *http.Request) bool {
			return r.Host == "example.com:80"
		}, true},
		{"its path without a parameter", "GET", "/a;b", "example.com", nil, func(r *http.Request) bool {
			return r.URL.Path == "/a"
		}, true},
		{"its path as it came", "GET", "/a;b", "example.com", nil, func(r *http.Request) bool {
			return r.URL.Path == "/a;b"
		}, true},
		{"the placeholder of its method", "post", "/", "example.com", nil, func(r *http.Request) bool {
			return placeholders(r) == "POST example.com /"
		}, true},
		{"the placeholder of its host", "GET", "/", "Example.com", nil, func(r *http.Request) bool {
			return placeholders(r) == "GET example.com /"
		}, true},
		{"the placeholder of its path", "GET", "/a;b", "example.com", nil, func(r *http.Request) bool {
			return placeholders(r) == "GET example.com /a"
		}, true},
		{"a port that is none", "GET", "/", "example.com:8o", nil, nothing, false},
		{"a port over 16 bits", "GET", "/", "example.com:65536", nil, nothing, false},
		{"two ports", "GET", "/", "example.com:80:80", nil, nothing, false},
		{"a target without a path", "GET", "http:a", "example.com", nil, nothing, false},
	} {
		p := newParts(t)
		protects := func(matcher matcherFunc) (bool, error) {
			r := p.request(c.method, c.target)
			if r.Host = c.host; c.change != nil {
				c.change(r)
			}
			return newMatching(caddyhttp.MatcherSets{{matcher}}).protects(r)
		}
		if is, err := protects(func(r *http.Request) (bool, error) { return c.is(r), nil }); !is || err != nil {
			t.Errorf("%s: protected %t, %v", c.what, is, err)
		}
		is, err := protects(func(r *http.Request) (bool, error) {
			if c.is(r) {
				return false, errMatcher
			}
			return false, nil
		})
		if c.fails && !errors.Is(err, errMatcher) {
			t.Errorf("%s, for which the matcher fails: protected %t, %v", c.what, is, err)
		}
	}
	for _, method := range []string{"GET", "post", "CONNECT"} {
		for _, host := range []string{"example.com", "Example.COM."} {
			r := newParts(t).request(method, "/a;b/%2e%2e/c?d")
			r.Host = host
			if r.Header.Set("Connection", "close"); method == "CONNECT" {
				connect(r)
			}
			said, sent, sentURL := placeholders(r), r.Header.Clone(), *r.URL
			var tried []string
			m := newMatching(caddyhttp.MatcherSets{{matcherFunc(func(r *http.Request) (bool, error) {
				tried = append(tried, r.Method+" "+r.Header.Get("Upgrade"))
				return false, nil
			})}})
			if is, err := m.protects(r); is || err != nil {
				t.Errorf("%s at %s, matched by nothing: protected %t, %v", method, host, is, err)
			}
			if r.Method != method || r.Host != host || *r.URL != sentURL || placeholders(r) != said ||
				!reflect.DeepEqual(r.Header, sent) {
				t.Errorf("%s at %s became %s %s %s, %v, %s", method, host, r.Method, r.Host, r.URL, r.Header,
					placeholders(r))
			}
			if slices.Contains(tried, "GET websocket") != (method == "CONNECT") {
				t.Errorf("%s was judged as %q", method, tried)
			}
		}
	}
}

func placeholders(r *http.Request) string {
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll(
		"{http.request.method} {http.request.host} {http.request.uri}", "")
}
