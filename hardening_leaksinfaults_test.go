package aventusauth

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// jsonText returns a text as a JSON string.
func jsonText(s string) string {
	quoted, _ := json.Marshal(s) // never fails for a string
	return string(quoted)
}

// canaryFaults is a day of a token endpoint that says too much.
func canaryFaults(t *testing.T, c *canaryWorld) {
	secret := strings.Repeat("0123456789", 10_000)
	says := func(status int, text string) func(http.ResponseWriter, *http.Request, string) {
		return func(rw http.ResponseWriter, r *http.Request, body string) {
			basic := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
			if basic == "" {
				basic = "none"
			}
			rw.Header().Set("Location", "https://evil.test/?"+url.QueryEscape(body))
			rw.Header().Set("WWW-Authenticate", basic)
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, strings.NewReplacer("BODY", jsonText(body), "BASIC", jsonText(basic), "RAW",
				body).Replace(text))
		}
	}
	tokens := func(change map[string]any, id map[string]any) func(http.ResponseWriter, *http.Request, string) {
		return func(rw http.ResponseWriter, _ *http.Request, _ string) {
			access := c.issuer.SignJWT(c.tokenClaims(change))
			idToken := c.issuer.SignJWT(c.tokenClaims(id))
			c.hearSecret("an access token", access)
			c.hearSecret("an ID token", idToken)
			fmt.Fprintf(rw, `{"access_token":%q,"id_token":%q,"token_type":"Bearer"}`, access, idToken)
		}
	}
	garbage := func(format string) func(http.ResponseWriter, *http.Request, string) {
		return func(rw http.ResponseWriter, r *http.Request, body string) {
			conn, _, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(conn, format, body)
			conn.Close()
		}
	}
	faults := []struct {
		fault  func(http.ResponseWriter, *http.Request, string)
		status int
	}{
		{says(400, `{"error":"invalid_request","error_description":BODY}`), 502},
		{says(400, `{"error":BODY,"error_description":BASIC}`), 502},
		{says(401, `{"error":"access_denied","error_description":BASIC}`), 502},
		{says(403, `{"error":"invalid_grant","error_description":BODY}`), 502},
		{says(429, `{"error":"slow_down","error_description":BODY}`), 503},
		{says(500, `<html>RAW`), 502},
		{says(503, `RAW`), 503},
		{says(302, ``), 502},
		{says(200, `<html>RAW`), 502},
		{says(200, `RAW`), 502},
		{says(200, `{"access_token":"x","token_type":BODY}`), 502},
		{says(200, `{"access_token":BODY,"token_type":"Bearer"}`), 502},
		{says(200, `{"access_token":"x","token_type":"Bearer","expires_in":BODY}`), 502},
		{says(200, `{"access_token":"x","token_type":"Bearer","scope":BODY}`), 502},
		{says(200, `{"access_token":"x","token_type":"Bearer","id_token":BODY}`), 502},
		{says(200, `{"error":"no","error_description":BODY}`), 502},
		{says(200, `{"access_token":"`+c.issuer.SignJWT(c.tokenClaims(map[string]any{"jti": secret}))+
			`","token_type":"Bearer"}`), 502},
		{garbage("%s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 %s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\n%s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"), 502},
		{garbage("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"), 502},
		{tokens(nil, map[string]any{"nonce": "another's", "aud": "the-client"}), 502},
		{tokens(map[string]any{"aud": "somebody"}, map[string]any{"iss": "https://evil.test/"}), 502},
	}
	for i, f := range faults {
		c.fails(f.fault)
		b := c.browser()
		if a := b.get(b.begin("/")); a.StatusCode != f.status {
			t.Errorf("fault %d: status %d, %s", i, a.StatusCode, a.body)
		}
	}
	c.heals()

	// A tab that is closed meanwhile.
	gone := c.browser()
	callback := gone.begin("/gone")
	c.fails(func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() })
	gone.client.Timeout = 200 * time.Millisecond
	if _, err := gone.client.Get(callback); err == nil {
		t.Error("there is an answer")
	}
	await(t, "a visitor who is gone", func() bool { return strings.Contains(c.log(), "client_gone: ") })
	c.heals()
	b := c.browser()
	b.login("/")
	c.expect(b.get("/page"), http.StatusOK)
}

// canaryBearers is a day of API clients, and of a key set that is not always there.
func canaryBearers(t *testing.T, c *canaryWorld) {
	var keys atomic.Pointer[string]
	c.issuer.JWKSFault = func(rw http.ResponseWriter, _ *http.Request) bool {
		body := keys.Load()
		if body != nil {
			_, _ = io.WriteString(rw, *body)
		}
		return body != nil
	}
	sign := func(change map[string]any) string {
		token := c.issuer.SignJWT(c.tokenClaims(change))
		c.hearSecret("an API client's token", token)
		return token
	}
	send := func(path string, lines ...string) int {
		var headers []string
		for _, line := range lines {
			headers = append(headers, "Authorization", line)
		}
		return c.browser().do("GET", path, append(headers, "Accept", "application/json")...).StatusCode
	}
	for _, body := range []string{"<html>", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AAAA"}]}`} {
		keys.Store(&body)
		if status := send("/page", "Bearer "+sign(nil)); status != http.StatusBadGateway {
			t.Errorf("keys %s: status %d", body, status)
		}
		b := c.browser()
		c.expect(b.get(b.begin("/")), http.StatusBadGateway)
		c.clock.Add(time.Minute)
	}
	keys.Store(nil)
	good := sign(nil)
	for _, path := range []string{"/page", "/shown", "/me"} {
		if status := send(path, "Bearer "+good); status != http.StatusOK {
			t.Errorf("%s: status %d", path, status)
		}
	}
	if status := send("/strict", "Bearer "+good); status != http.StatusForbidden {
		t.Errorf("without the scope: status %d", status)
	}
	for i, lines := range [][]string{
		{"Bearer " + flip(good)}, {"Bearer " + good, "Bearer " + good}, {"Bearer " + good + ", Basic x"},
		{"bearer " + sign(map[string]any{"exp": 1})},
		{"Bearer " + sign(map[string]any{"aud": "somebody"})},
		{"Bearer " + sign(map[string]any{"iss": "https://evil.test/"})},
		{"Bearer " + sign(map[string]any{"nbf": c.clock.Now().Add(time.Hour).Unix()})},
		{"Bearer opaque-0123456789012345678901234567890"},
	} {
		if status := send("/page", lines...); status != http.StatusUnauthorized {
			t.Errorf("token %d: status %d", i, status)
		}
	}
	c.hearSecret("an API client's token", "opaque-0123456789012345678901234567890")
	b := c.browser()
	b.login("/")
	c.expect(b.do("GET", "/page", "Authorization", "Bearer "+good), http.StatusOK)
}
