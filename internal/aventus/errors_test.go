package aventus

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestAdviceOnRefresh: what a refusal means depends on what was sent: a code, or a refresh token.
func TestAdviceOnRefresh(t *testing.T) {
	for code, want := range map[string]string{
		"invalid_grant":          "the refresh token was revoked",
		"mfa_required":           "wants the person to be present",
		"access_denied":          "wants the person to be present",
		"unauthorized_client":    "refresh token grant",
		"unsupported_grant_type": "leave offline_access out",
		"invalid_client":         "check client_id, client_secret",
	} {
		c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"error":%q}`, code)
		}), nil)
		if _, e := c.Refresh(within(t), "refresh"); e == nil || !strings.Contains(e.Advice(), want) {
			t.Errorf("%s: advice %q, want %q", code, e.Advice(), want)
		}
		if e := fails(t, within(t), c); code == "invalid_grant" &&
			!strings.Contains(e.Advice(), "the code was wrong") {
			t.Errorf("%s of a code: advice %q", code, e.Advice())
		}
	}
}

// leaks returns what of the secrets stands in a text, in whatever form.
func leaks(text string) string {
	inJSON := func(s string) string {
		b, _ := json.Marshal(s)
		return strings.Trim(string(b), `"`)
	}
	basic := url.QueryEscape(testID) + ":" + url.QueryEscape(testSecret)
	for _, form := range []string{
		testSecret, testCode, testVerifier,
		url.QueryEscape(testSecret), url.QueryEscape(testCode), url.PathEscape(testSecret), url.PathEscape(testCode),
		inJSON(testSecret), inJSON(testCode), inJSON(inJSON(testSecret)), inJSON(inJSON(testCode)),
		basic, base64.StdEncoding.EncodeToString([]byte(basic)),
		"s3cr", "c0de", "43-characters",
	} {
		if strings.Contains(text, form) {
			return form
		}
	}
	return ""
}

// A refresh token that a server sends back is not shown either, whether it was sent to be used or to be revoked.
func TestErrorTextOfRefresh(t *testing.T) {
	const refresh = "r/efresh+token"
	for _, form := range []bool{false, true} {
		endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			said, _ := json.Marshal("You sent " + string(body) + " with " + refresh)
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_grant","error_description":%s}`, said)
		})
		c := newClient(t, endpoint, func(c *Config) { c.Form = form })
		_, refused := c.Refresh(within(t), refresh)
		for _, e := range []*Error{refused, c.Revoke(within(t), endpoint, refresh)} {
			if e == nil || !strings.Contains(e.Error(), "You sent") {
				t.Fatalf("error %v", e)
			}
			for _, leak := range []string{refresh, url.QueryEscape(refresh), testSecret} {
				if strings.Contains(e.Error(), leak) {
					t.Errorf("form %v: the error shows %s: %v", form, leak, e)
				}
			}
		}
	}
}

// TestErrorTextOfCode: a visitor chooses the code, and one that overlaps the secret where a server echoes the request
// uncovers nothing of the secret.
func TestErrorTextOfCode(t *testing.T) {
	for _, form := range []bool{false, true} {
		endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			said, _ := json.Marshal("You sent " + string(body))
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_request","error_description":%s}`, said)
		})
		c := newClient(t, endpoint, func(c *Config) { c.Form = form })
		for _, before := range []string{"=", `"`} {
			_, e := c.Exchange(within(t), before+testSecret[:1], "https://example.com/cb", testVerifier)
			if !strings.Contains(e.Error(), "You sent") || strings.Contains(e.Error(), testSecret[1:4]) {
				t.Errorf("form %v: %v", form, e)
			}
		}
	}
}

// What a server says goes into the operator's log: without what it was sent, which
// servers are known to echo, and without what a terminal acts on.
func TestErrorText(t *testing.T) {
	for _, form := range []bool{false, true} {
		for _, basic := range []bool{false, true} {
			what := fmt.Sprintf("form %v, basic %v", form, basic)
			configure := func(c *Config) { c.Form, c.Basic = form, basic }

			// The request comes back, as it was sent or as it was meant.
			for _, echo := range []func(r *http.Request, body string) string{
				func(_ *http.Request, body string) string { return body },
				func(r *http.Request, _ string) string { return "You sent " + r.Header.Get("Authorization") },
				func(r *http.Request, _ string) string { id, secret, _ := r.BasicAuth(); return id + ":" + secret },
				func(*http.Request, string) string { return testSecret + testCode + testVerifier },
				func(*http.Request, string) string { return url.QueryEscape(testSecret + testCode) },
				func(*http.Request, string) string { return url.PathEscape(testSecret + testCode) },
			} {
				for _, status := range []int{200, 400, 503} {
					endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
						body, _ := io.ReadAll(r.Body)
						said, _ := json.Marshal(echo(r, string(body)))
						w.WriteHeader(status)
						fmt.Fprintf(w, `{"error":%s,"error_description":%s}`, said, said)
					})
					e := fails(t, within(t), newClient(t, endpoint, configure))
					if leak := leaks(e.Error() + said(t, e).Error() + string(said(t, e).Body)); leak != "" {
						t.Errorf("%s: the error shows %s: %v", what, leak, e)
					}
				}
			}

			// It comes back where an answer's header should be: net/http's errors
			// repeat what they could not read.
			for _, answer := range []string{
				"%s\r\n\r\n", "HTTP/1.1 200 OK\r\n%s\r\n\r\n", "HTTP/1.1 200 OK\r\n%[1]s: %[1]s\r\n\r\n",
				"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
			} {
				endpoint, _ := rawServer(t, func(conn net.Conn, request string, _ int64) {
					fmt.Fprintf(conn, answer, request)
					conn.Close()
				})
				e := fails(t, within(t), newClient(t, endpoint, configure))
				if leak := leaks(e.Error()); leak != "" {
					t.Errorf("%s, %q: the error shows %s: %v", what, answer, leak, e)
				}
			}
		}
	}

	// One line of printable ASCII, and not too long.
	endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		fmt.Fprintf(w,
			`{"error":"a\nb\u001b[31mc","error_description":"\u0000\r\n\t\u007f\u009b\u2028\u202e\u00e4%s"}`,
			strings.Repeat("é", 1000))
	})
	e := fails(t, within(t), newClient(t, endpoint, nil))
	if said := said(t, e); said.ErrorCode != "a?b?[31mc" || !strings.HasPrefix(said.ErrorDescription, "?????????") ||
		len(said.ErrorDescription) > 303 {
		t.Errorf("code %q, description %q", said.ErrorCode, said.ErrorDescription)
	}
}
