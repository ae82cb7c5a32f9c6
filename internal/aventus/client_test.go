package aventus

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

const (
	testID       = "app:1" // what HTTP Basic must not take for the end of the id
	testSecret   = "s3cr&t:+%/\"<ü>"
	testCode     = "c0de+/=&"
	testVerifier = "a-verifier-that-is-just-43-characters-long."
	testRedirect = "https://site.example.com/cb?x=a%20b&y=1"
	goodAnswer   = `{"access_token":"a.b.c","token_type":"Bearer","expires_in":86400}`
)

func newClient(t *testing.T, tokenURL string, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		AuthorizeURL: "https://auth.example.com/authorize",
		TokenURL:     tokenURL,
		ClientID:     testID,
		ClientSecret: testSecret,
	}
	if change != nil {
		change(&cfg)
	}
	c := NewClient(cfg)
	t.Cleanup(c.Close)
	return c
}

// within is a context whose end is far enough away that no test meets it, unless
// something hangs.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// serve starts a server, and returns its token endpoint.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL + "/oauth/token"
}

// fails exchanges a code in vain, and returns the error.
func fails(t *testing.T, ctx context.Context, c *Client) *Error {
	t.Helper()
	token, e := c.Exchange(ctx, testCode, testRedirect, testVerifier)
	if e == nil || token != nil {
		t.Fatalf("token %+v, error %v", token, e)
	}
	return e
}

// said returns what the server said, as x/oauth2 has it.
func said(t *testing.T, e *Error) *oauth2.RetrieveError {
	t.Helper()
	var said *oauth2.RetrieveError
	if !errors.As(e, &said) {
		t.Fatalf("the server has said nothing: %v", e)
	}
	return said
}

// asAnswer returns all that a token says, apart from when it came.
func asAnswer(token *oauth2.Token) answer {
	if token == nil {
		return answer{}
	}
	return answer{token.AccessToken, token.TokenType, token.ExpiresIn, token.RefreshToken, Scope(token),
		IDToken(token)}
}

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Each parameter stands in the authorize URL once, and no other one does: strict
// servers refuse what they do not know.
func TestAuthorizeURL(t *testing.T) {
	plain := map[string]string{
		"response_type":         "code",
		"client_id":             testID,
		"redirect_uri":          testRedirect,
		"state":                 "a state&more",
		"code_challenge":        challenge(testVerifier),
		"code_challenge_method": "S256",
	}
	with := func(further map[string]string) map[string]string {
		all := maps.Clone(plain)
		maps.Copy(all, further)
		return all
	}
	for _, tc := range []struct {
		what   string
		change func(*Config)
		nonce  string
		base   string
		want   map[string]string
	}{
		{"the least", nil, "", "https://auth.example.com/authorize?", plain},
		{
			"everything", func(c *Config) {
				c.Audience = "https://api.example.com/?a=b&c"
				c.Scopes = []string{"openid", "read:things", "a+b"}
				c.Params = map[string]string{"prompt": "login", "login_hint": "a b&c=d@example.com"}
			}, "a nonce", "https://auth.example.com/authorize?",
			with(map[string]string{
				"audience": "https://api.example.com/?a=b&c", "scope": "openid read:things a+b",
				"prompt": "login", "login_hint": "a b&c=d@example.com", "nonce": "a nonce",
			}),
		},
		{
			"a query in the URL", func(c *Config) {
				c.AuthorizeURL = "https://auth.example.com/authorize?tenant=t%201"
			}, "",
			"https://auth.example.com/authorize?tenant=t%201&", with(map[string]string{"tenant": "t 1"}),
		},
	} {
		const state = "a state&more"
		client := newClient(t, "https://auth.example.com/oauth/token", tc.change)
		got := client.AuthorizeURL(testRedirect, state, testVerifier, tc.nonce)
		if length := client.AuthorizeURLLen(testRedirect, tc.nonce) + len(url.QueryEscape(state)); length != len(got) {
			t.Errorf("%s: a length of %d, and it has %d", tc.what, length, len(got))
		}
		query, ok := strings.CutPrefix(got, tc.base)
		if !ok {
			t.Errorf("%s: %s", tc.what, got)
		}
		_, query, _ = strings.Cut(tc.base+query, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Errorf("%s: %v", tc.what, err)
		}
		flat := make(map[string]string)
		for name, v := range values {
			flat[name] = strings.Join(v, " AND ")
		}
		if !maps.Equal(flat, tc.want) {
			t.Errorf("%s:\n got %v\nwant %v", tc.what, flat, tc.want)
		}
		if strings.Contains(got, testVerifier) || strings.Contains(got, "s3cr") {
			t.Errorf("%s: shows what is secret: %s", tc.what, got)
		}
	}
	// RFC 7636, appendix B, and section 4.1: 43 characters at least.
	const known = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	if got := challenge(known); got != "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" {
		t.Errorf("the challenge of the RFC's verifier is %s", got)
	}
	secret, err := base64.RawURLEncoding.DecodeString(known)
	if err != nil || Verifier(secret) != known {
		t.Errorf("the RFC's verifier is %s, error %v", Verifier(secret), err)
	}
}

// Many visitors are sent away at once, each with parameters of their own.
func TestAuthorizeURLParallel(t *testing.T) {
	c := newClient(t, "https://auth.example.com/oauth/token", func(c *Config) {
		c.Audience, c.Params = "api", map[string]string{"prompt": "login", "connection": "c"}
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			verifier, state, nonce := fmt.Sprintf("verifier%d", i), fmt.Sprintf("state%d", i),
				fmt.Sprintf("nonce%d", i)
			u, err := url.Parse(c.AuthorizeURL(testRedirect, state, verifier, nonce))
			if q := u.Query(); err != nil || q.Get("code_challenge") != challenge(verifier) ||
				q.Get("state") != state || q.Get("nonce") != nonce {
				t.Errorf("%d: %s", i, u)
			}
		})
	}
	wg.Wait()
}

// The token request as it is on the wire.
func TestTokenRequest(t *testing.T) {
	params := map[string]string{
		"grant_type": "authorization_code", "client_id": testID, "client_secret": testSecret,
		"code": testCode, "redirect_uri": testRedirect, "code_verifier": testVerifier,
	}
	withoutClient := maps.Clone(params)
	delete(withoutClient, "client_id")
	delete(withoutClient, "client_secret")
	basic := "Basic " + base64.StdEncoding.EncodeToString(
		[]byte(url.QueryEscape(testID)+":"+url.QueryEscape(testSecret)))

	for _, tc := range []struct {
		form, basic   bool
		contentType   string
		authorization []string
		params        map[string]string
	}{
		{false, false, "application/json", nil, params},
		{true, false, "application/x-www-form-urlencoded", nil, params},
		{false, true, "application/json", []string{basic}, withoutClient},
		{true, true, "application/x-www-form-urlencoded", []string{basic}, withoutClient},
	} {
		what := fmt.Sprintf("form %v, basic %v", tc.form, tc.basic)
		var seen []*http.Request
		var body []byte
		endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
			seen = append(seen, r)
			body, _ = io.ReadAll(r.Body)
			_, _ = io.WriteString(w, goodAnswer)
		})
		c := newClient(t, endpoint, func(c *Config) { c.Form, c.Basic = tc.form, tc.basic })
		token, err := c.Exchange(within(t), testCode, testRedirect, testVerifier)
		if want := (answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}); err != nil ||
			asAnswer(token) != want {
			t.Errorf("%s: token %+v, error %v", what, token, err)
		}
		if len(seen) != 1 {
			t.Fatalf("%s: %d requests", what, len(seen))
		}
		r := seen[0]
		if r.Method != "POST" || r.RequestURI != "/oauth/token" || r.ContentLength != int64(len(body)) ||
			r.TransferEncoding != nil {
			t.Errorf("%s: %s %s, Content-Length %d, Transfer-Encoding %v", what, r.Method, r.RequestURI,
				r.ContentLength, r.TransferEncoding)
		}
		for name, want := range map[string][]string{
			"Content-Type": {tc.contentType}, "Accept": {"application/json"}, "Authorization": tc.authorization,
			"Cookie": nil, "Referer": nil, "X-Forwarded-For": nil,
		} {
			if !slices.Equal(r.Header[name], want) {
				t.Errorf("%s: %s %q, want %q", what, name, r.Header[name], want)
			}
		}
		got := make(map[string]string)
		if tc.form {
			values, err := url.ParseQuery(string(body))
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			for name, v := range values {
				got[name] = strings.Join(v, " AND ")
			}
		} else if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("%s: %v in %s", what, err, body)
		}
		if !maps.Equal(got, tc.params) {
			t.Errorf("%s:\n got %v\nwant %v", what, got, tc.params)
		}
		if !tc.form { // a map would not show a name that is there twice
			if fields, err := parseObject(body); err != nil || len(fields) != len(tc.params) {
				t.Errorf("%s: %v in %s", what, err, body)
			}
		}
	}
}

// The strict stand-in takes each kind of request, and no other kind.
func TestExchange(t *testing.T) {
	for _, form := range []bool{false, true} {
		for _, basic := range []bool{false, true} {
			issuer := &aventustest.Server{
				Clients: []aventustest.Client{{ID: testID, Secret: testSecret, RedirectURIs: []string{testRedirect}}},
				Form:    form, Basic: basic, Scopes: []string{"openid"}, TokenLifetime: time.Hour,
			}
			server := httptest.NewServer(issuer)
			defer server.Close()
			issuer.Issuer = server.URL + "/"
			client := func(form, basic bool) *Client {
				return newClient(t, issuer.Issuer+"oauth/token", func(c *Config) {
					c.Form, c.Basic, c.Audience, c.Scopes = form, basic, "https://api.example.com/",
						[]string{"openid", "email"}
				})
			}
			// code signs a person in.
			code := func(c *Client) string {
				t.Helper()
				u, err := url.Parse(c.AuthorizeURL(testRedirect, "a state", testVerifier, ""))
				if err != nil {
					t.Fatal(err)
				}
				back, err := issuer.IssueCode(u.Query(), "auth0|ada")
				if err != nil {
					t.Fatal(err)
				}
				return back.Query().Get("code")
			}
			what := fmt.Sprintf("form %v, basic %v", form, basic)

			c := client(form, basic)
			token, err := c.Exchange(within(t), code(c), testRedirect, testVerifier)
			if err != nil || strings.Count(token.AccessToken, ".") != 2 || token.ExpiresIn != 3600 ||
				Scope(token) != "openid" {
				t.Errorf("%s: token %+v, error %v", what, token, err)
			}
			for _, tc := range []struct {
				what string
				c    *Client
				uri  string
				verifier,
				code string
				status int
			}{
				{"the other kind of body", client(!form, basic), testRedirect, testVerifier, "invalid_request", 415},
				{"the other place for the secret", client(form, !basic), testRedirect, testVerifier,
					"access_denied", 401},
				{"another redirect URI", c, "https://site.example.com/cb", testVerifier, "unauthorized_client", 403},
				{"another verifier", c, testRedirect, strings.Repeat("x", 43), "invalid_grant", 403},
			} {
				token, e := tc.c.Exchange(within(t), code(c), tc.uri, tc.verifier)
				if e == nil || e.Kind != Refused || said(t, e).ErrorCode != tc.code || e.Status != tc.status ||
					token != nil {
					t.Errorf("%s, %s: token %+v, error %v", what, tc.what, token, e)
				}
			}
			if n := len(issuer.TokenRequests()); n != 5 {
				t.Errorf("%s: %d token requests for 5 codes", what, n)
			}
			if n := issuer.CodesReused(); n != 0 {
				t.Errorf("%s: %d codes were sent again", what, n)
			}
		}
	}
}

func TestBadAnswers(t *testing.T) {
	for _, tc := range []struct {
		what, body string
		status     int
		kind       Kind
		text       string // of the error, after "the token endpoint answered "
		advice     string // a word of it
	}{
		{"a wrong code", `{"error":"invalid_grant","error_description":"Invalid authorization code"}`, 403, Refused,
			"403 invalid_grant: Invalid authorization code", "redirect_uri"},
		{"a wrong secret", `{"error":"access_denied","error_description":"Unauthorized"}`, 401, Refused,
			"401 access_denied: Unauthorized", "client_secret"},
		{"a wrong secret, as the RFC has it", `{"error":"invalid_client"}`, 401, Refused, "401 invalid_client",
			"client_secret"},
		{"a client that may not", `{"error":"unauthorized_client"}`, 403, Refused, "403 unauthorized_client",
			"registered"},
		{"an API that was not granted", `{"error":"unauthorized_client"}`, 403, Refused, "403 unauthorized_client",
			"the API of audience was granted to it"},
		{"a rule's no", `{"error":"access_denied","error_description":"Not yet"}`, 403, Refused,
			"403 access_denied: Not yet", "or a rule there"},
		{"too many", `{"error":"too_many_requests","error_description":"Slow down"}`, 429, Unavailable,
			"429 too_many_requests: Slow down", "quota"},
		{"down", `<html>down</html>`, 503, Unavailable, "503", "down for now"},
		{"broken, and speechless", ``, 500, Refused, "500", "broken for now"},
		{"a gateway's page", `<!DOCTYPE html><title>Bad gateway</title>`, 502, Refused, "502", "broken for now"},
		{"no such page", `Not Found`, 404, Refused, "404", "token_url"},
		{"no form", ``, 415, Refused, "415", "token_request"},
		{"an error that is no text", `{"error":{"code":1},"error_description":["x"]}`, 400, Refused, "400", ""},
		{"an error given twice", `{"error":"a","error":"b"}`, 400, Refused, "400", ""},
		{"an error and more", `{"error":"a"}{"error":"b"}`, 400, Refused, "400", ""},
		{"a good answer with a bad status", goodAnswer, 400, Refused, "400", ""},
		{"an error with a good status", `{"error":"invalid_grant","access_token":"a","token_type":"Bearer"}`, 200,
			Refused, "200 invalid_grant", "redirect_uri"},
		{"no JSON", `<html>Sign in</html>`, 200, Malformed, "200: the token answer is not a JSON object", "token_url"},
		{"nothing", ``, 200, Malformed, "200: the token answer is not a JSON object", "token_url"},
		{"no content", ``, 204, Malformed, "204: the token answer is not a JSON object", "token_url"},
		{"a form", `access_token=a&token_type=Bearer`, 200, Malformed, "200: the token answer is not a JSON object",
			"token_url"},
		{"another type", `{"access_token":"a","token_type":"DPoP"}`, 200, Malformed,
			"200: the token answer's token_type is not Bearer", ""},
		{"no token", `{"token_type":"Bearer"}`, 201, Malformed, "201: the token answer has no access_token", ""},
		{"a token that ends a header", `{"access_token":"a\r\nX: y","token_type":"Bearer"}`, 200, Malformed,
			"200: the access token holds a byte that no Authorization header may hold", ""},
		{"a token that has died", `{"access_token":"a","token_type":"Bearer","expires_in":0}`, 200, Malformed,
			"200: the token answer's expires_in is not positive", ""},
		{"too much", goodAnswer + strings.Repeat(" ", maxAnswer), 200, Malformed,
			"200: the token answer is larger than 1 MiB", ""},
		{"too much of an error", `{"error":"x"}` + strings.Repeat(" ", maxAnswer), 400, Refused, "400", ""},
		{"a redirect", ``, 302, Refused, "302", "set token_url"},
	} {
		for _, contentType := range []string{"application/json", "text/plain", "text/html; charset=utf-8"} {
			var requests atomic.Int64
			endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				w.Header().Set("Content-Type", contentType)
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			e := fails(t, within(t), newClient(t, endpoint, nil))
			if text := "the token endpoint answered " + tc.text; e.Kind != tc.kind || e.Status != tc.status ||
				e.Error() != text {
				t.Errorf("%s, %s: kind %d, status %d, %q; want kind %d, %q", tc.what, contentType, e.Kind, e.Status, e,
					tc.kind, text)
			}
			if !strings.Contains(e.Advice(), tc.advice) {
				t.Errorf("%s: advice %q", tc.what, e.Advice())
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%s: the code was sent %d times", tc.what, n)
			}
		}
	}
}

// TestReadStrictly tests the answers that x/oauth2 on its own misreads. It takes a missing expires_in
// as "never expires", fails on a fractional one, parses text/plain as a query string, does not check
// token_type, and cuts a body at 1 MiB.
func TestReadStrictly(t *testing.T) {
	good := answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}
	expires := func(in int64) answer { a := good; a.ExpiresIn = in; return a }
	// grown is less than 1 MiB, and more when its characters are escaped for x/oauth2.
	grown := answerWith("refresh_token", `"`+strings.Repeat("<", 1<<18)+`"`)
	for _, tc := range []struct {
		what, contentType, body string
		want                    answer
		kind                    Kind // without an answer
	}{
		{"JSON", "application/json", goodAnswer, good, 0},
		{"text that is JSON", "text/plain", goodAnswer, good, 0},
		{"a form that is JSON", "application/x-www-form-urlencoded", goodAnswer, good, 0},
		{"no type", "", goodAnswer, good, 0},
		{"no expires_in", "application/json", answerWith("expires_in", ""), expires(3600), 0},
		{"expires_in null", "application/json", answerWith("expires_in", "null"), expires(3600), 0},
		{"a fraction", "application/json", answerWith("expires_in", "59.9"), expires(59), 0},
		{"an exponent", "application/json", answerWith("expires_in", "36e2"), expires(3600), 0},
		{"a text", "application/json", answerWith("expires_in", `"86400"`), expires(86400), 0},
		{"more than there is", "application/json", answerWith("expires_in", "9e18"), expires(1<<31 - 1), 0},
		{"nothing granted", "application/json", answerWith("scope", `[]`), answer{
			"a.b.c", "Bearer", 86400, "", " ", "",
		}, 0},
		{
			"all of it", "application/json",
			answerWith("scope", `["42","<&>"],"refresh_token":"\u001b<ü>","id_token":"d.e.f"`),
			answer{"a.b.c", "Bearer", 86400, "\x1b<ü>", "42 <&>", "d.e.f"}, 0,
		},
		{"a number for a scope", "text/plain", answerWith("scope", `"42"`), answer{
			"a.b.c", "Bearer", 86400, "", "42", "",
		}, 0},
		{"a query string", "text/plain", "access_token=a.b.c&token_type=Bearer&expires_in=60", answer{}, Malformed},
		{"a form", "application/x-www-form-urlencoded", "access_token=a.b.c&token_type=Bearer&expires_in=60",
			answer{}, Malformed},
		{"a form that says no", "text/plain", "error=invalid_grant", answer{}, Malformed},
		{"another type", "application/json", answerWith("token_type", `"mac"`), answer{}, Malformed},
		{"no type of token", "application/json", answerWith("token_type", ""), answer{}, Malformed},
		{"names in capitals", "application/json", `{"ACCESS_TOKEN":"a.b.c","token_type":"Bearer"}`,
			answer{}, Malformed},
		{"an error that is no text", "application/json", answerWith("error", "true"), answer{}, Malformed},
		{"a MiB and a byte", "application/json", goodAnswer + strings.Repeat(" ", maxAnswer+1-len(goodAnswer)),
			answer{}, Malformed},
		{"a MiB when it is escaped", "application/json", grown, answer{}, Malformed},
	} {
		endpoint := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{tc.contentType}
			_, _ = io.WriteString(w, tc.body)
		})
		c := newClient(t, endpoint, func(c *Config) { c.Scopes = []string{"openid", "offline_access"} })
		token, e := c.Exchange(within(t), testCode, testRedirect, testVerifier)
		if got := asAnswer(token); got != tc.want {
			t.Errorf("%s: %+v, error %v; want %+v", tc.what, got, e, tc.want)
		}
		if tc.want != (answer{}) {
			if e != nil || token.Expiry.IsZero() { // the zero time is never
				t.Errorf("%s: expires %v, error %v", tc.what, token.Expiry, e)
			}
		} else if e == nil || e.Kind != tc.kind || e.Status != 200 {
			t.Errorf("%s: error %v; want one of kind %d", tc.what, e, tc.kind)
		}
	}
}

// TestContextOfRefresh tests that each renewal uses the context that it is given. A TokenSource of
// x/oauth2 keeps the one that it was made with.
func TestContextOfRefresh(t *testing.T) {
	c := newClient(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, goodAnswer) }),
		nil)
	over, cancel := context.WithCancel(within(t))
	cancel()
	for range 2 {
		if token, e := c.Refresh(over, "refresh"); e == nil || token != nil || e.Unanswered {
			t.Errorf("in a context that is over: token %v, error %v", token, e)
		}
		// An answer without a refresh token leaves the old one in the result.
		if token, e := c.Refresh(within(t), "refresh"); e != nil || token.AccessToken != "a.b.c" ||
			token.RefreshToken != "refresh" {
			t.Errorf("in another: token %v, error %v", token, e)
		}
	}
}

// Logins and renewals go on at the same time. (What is wrong with that, only the race
// detector sees.)
func TestParallel(t *testing.T) {
	c := newClient(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, goodAnswer) }),
		nil)
	ctx := within(t)
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() { c.AuthorizeURL(testRedirect, "state", testVerifier, "") })
		wait.Go(func() {
			if _, err := c.Exchange(ctx, testCode, testRedirect, testVerifier); err != nil {
				t.Errorf("an exchange: %v", err)
			}
		})
		wait.Go(func() {
			if _, err := c.Refresh(ctx, "refresh"); err != nil {
				t.Errorf("a refresh: %v", err)
			}
		})
	}
	wait.Wait()
}

// TestRevoke: what a revocation sends, in each dialect of the token request: the client's secret once, in one place.
func TestRevoke(t *testing.T) {
	const id, secret = "the client:1", "100% secret&more"
	for _, isForm := range []bool{false, true} {
		for _, isBasic := range []bool{false, true} {
			endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
				want := map[string]string{"token": "a refresh token"}
				if !isBasic {
					want["client_id"], want["client_secret"] = id, secret
				}
				sent := make(map[string]string)
				if isForm {
					if err := r.ParseForm(); err != nil {
						t.Error(err)
					}
					for name, values := range r.PostForm {
						sent[name] = strings.Join(values, ", ")
					}
				} else if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
					t.Error(err)
				}
				gotID, gotSecret, hasBasic := r.BasicAuth()
				if !maps.Equal(sent, want) || hasBasic != isBasic ||
					hasBasic && (gotID != url.QueryEscape(id) || gotSecret != url.QueryEscape(secret)) {
					t.Errorf("form %t, basic %t: %v, and %q, %q by Basic", isForm, isBasic, sent, gotID, gotSecret)
				}
			})
			c := newClient(t, "http://127.0.0.1:0/", func(cfg *Config) {
				cfg.ClientID, cfg.ClientSecret, cfg.Form, cfg.Basic = id, secret, isForm, isBasic
			})
			if err := c.Revoke(within(t), endpoint, "a refresh token"); err != nil {
				t.Errorf("form %t, basic %t: %v", isForm, isBasic, err)
			}
		}
	}
}

// A revocation that fails is about the revocation's URL, and so is what to do.
func TestRevokeFails(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		text   string
		advice string
	}{
		{400, `{"error":"unsupported_token_type"}`, "the revocation endpoint answered 400 unsupported_token_type",
			"revoke_url to off"},
		{400, `{"error":"invalid_grant"}`, "the revocation endpoint answered 400 invalid_grant",
			"check issuer and revoke_url"},
		{400, `{"error":"invalid_request"}`, "the revocation endpoint answered 400 invalid_request",
			"token_request and token_auth"},
		{401, `{"error":"access_denied"}`, "the revocation endpoint answered 401 access_denied", "client_secret"},
		{404, `<html>`, "the revocation endpoint answered 404", "revoke_url: this may not be a revocation endpoint"},
		{405, ``, "the revocation endpoint answered 405", "revoke_url"},
		{307, ``, "the revocation endpoint answered 307", "set revoke_url to where it is"},
		{500, ``, "the revocation endpoint answered 500", "status"},
		{503, ``, "the revocation endpoint answered 503", "down for now"},
		{429, ``, "the revocation endpoint answered 429", "quota"},
	} {
		endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(tc.status)
			fmt.Fprint(w, tc.body)
		})
		e := newClient(t, "http://127.0.0.1:0/", nil).Revoke(within(t), endpoint, "a refresh token")
		if e == nil || e.Error() != tc.text || !strings.Contains(e.Advice(), tc.advice) ||
			strings.Contains(e.Advice(), "token_url") {
			t.Errorf("%d %s: %v; advice %q", tc.status, tc.body, e, e.Advice())
		}
	}
	e := newClient(t, "http://127.0.0.1:0/", nil).Revoke(within(t), "http://127.0.0.1:0/", "a refresh token")
	if e == nil || e.Kind != Unreachable || !strings.HasPrefix(e.Error(), "the revocation endpoint: ") ||
		!strings.Contains(e.Advice(), "the revocation endpoint") {
		t.Errorf("unreachable: %v; advice %q", e, e.Advice())
	}
}
