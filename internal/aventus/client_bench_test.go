package aventus

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// BenchmarkExchange measures what x/oauth2's part of a login costs: the exchange through [Client.Exchange], and the
// same request and answer by the dialect below it alone. The token endpoint's cost is in both.
//
//	go test -run '^$' -bench Exchange -benchmem ./internal/aventus
func BenchmarkExchange(b *testing.B) {
	token := `{"access_token": "` + strings.Repeat("x", 750) + `", "token_type": "Bearer", "expires_in": 3600}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, token)
	}))
	defer server.Close()
	c := NewClient(Config{TokenURL: server.URL, ClientID: "client", ClientSecret: "secret"})
	defer c.Close()
	const code, redirectURI = "code", "https://example.com/oauth2/callback"
	verifier := Verifier(make([]byte, 32))
	b.Run("with", func(b *testing.B) {
		for b.Loop() {
			token, err := c.Exchange(b.Context(), code, redirectURI, verifier)
			if err != nil || token.ExpiresIn != 3600 {
				b.Fatal(token, err)
			}
		}
	})
	b.Run("without", func(b *testing.B) {
		for b.Loop() {
			form := url.Values{
				"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI},
				"code_verifier": {verifier}, "client_id": {"client"}, "client_secret": {"secret"},
			}
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL,
				strings.NewReader(form.Encode()))
			if err != nil {
				b.Fatal(err)
			}
			resp, err := c.dialect.send(req)
			if err != nil {
				b.Fatal(err)
			}
			if answer, err := parseAnswer(resp.status, resp.body, wanted{}, resp.clean); err != nil ||
				answer.ExpiresIn != 3600 {
				b.Fatal(answer, err)
			}
		}
	})
}
