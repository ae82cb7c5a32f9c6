package aventustest

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	callback = "https://app.test/callback"
	verifier = "a-verifier-that-is-just-43-characters-long."
)

// start serves s with one client.
func start(t *testing.T, s *Server) *Server {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.Issuer = server.URL + "/"
	s.Clients = []Client{
		{ID: "app", Secret: "s3cret:+%", RedirectURIs: []string{callback, "http://[::1]:8080/cb?keep=1"}},
		{ID: "other", Secret: "other", RedirectURIs: []string{"https://other.test/"}},
	}
	return s
}

// authorizeParams returns what a good client sends to /authorize.
func authorizeParams() url.Values {
	hash := sha256.Sum256([]byte(verifier))
	return url.Values{
		"audience":              {"https://api.test/"},
		"scope":                 {"openid profile"},
		"response_type":         {"code"},
		"client_id":             {"app"},
		"redirect_uri":          {callback},
		"state":                 {"a state"},
		"code_challenge":        {base64.RawURLEncoding.EncodeToString(hash[:])},
		"code_challenge_method": {"S256"},
	}
}

// newBrowser returns a client with cookies that stops at each redirect.
func newBrowser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// do sends a request, and returns the answer with its body.
func do(t *testing.T, c *http.Client, method, target, contentType, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// redirect returns the parameters that an answer takes to the callback.
func redirect(t *testing.T, resp *http.Response) url.Values {
	t.Helper()
	where := resp.Header.Get("Location")
	if !strings.HasPrefix(where, callback+"?") {
		t.Fatalf("status %d, redirect to %q; want the callback", resp.StatusCode, where)
	}
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func TestAuthorizeRefuses(t *testing.T) {
	s := start(t, &Server{AutoSignIn: "auth0|ada", Audiences: []string{"https://api.test/"}})
	for _, tc := range []struct {
		name   string
		change func(url.Values)
		status int    // of a page that redirects nowhere,
		code   string // or the error that goes to the callback
	}{
		{name: "no client", change: func(v url.Values) { v.Del("client_id") }, status: 400},
		{name: "two clients", change: func(v url.Values) { v.Add("client_id", "app") }, status: 400},
		{name: "unknown client", change: func(v url.Values) { v.Set("client_id", "<b>x") }, status: 403},
		{name: "no redirect URI", change: func(v url.Values) { v.Del("redirect_uri") }, status: 400},
		{name: "two redirect URIs", change: func(v url.Values) { v.Add("redirect_uri", callback) }, status: 400},
		{name: "longer redirect URI", change: func(v url.Values) { v.Set("redirect_uri", callback+"/") }, status: 403},
		{name: "another client's redirect URI",
			change: func(v url.Values) { v.Set("redirect_uri", "https://other.test/") }, status: 403},
		{name: "no response type", change: func(v url.Values) { v.Del("response_type") }, code: "invalid_request"},
		{name: "implicit flow", change: func(v url.Values) { v.Set("response_type", "token") },
			code: "unsupported_response_type"},
		{name: "no state", change: func(v url.Values) { v.Del("state") }, code: "invalid_request"},
		{name: "empty state", change: func(v url.Values) { v.Set("state", "") }, code: "invalid_request"},
		{name: "two states", change: func(v url.Values) { v.Add("state", "b") }, code: "invalid_request"},
		{name: "no challenge", change: func(v url.Values) { v.Del("code_challenge") }, code: "invalid_request"},
		{name: "short challenge", change: func(v url.Values) { v.Set("code_challenge", "short") },
			code: "invalid_request"},
		{name: "padded challenge", change: func(v url.Values) { v.Set("code_challenge", strings.Repeat("A", 42)+"=") },
			code: "invalid_request"},
		{name: "plain challenge", change: func(v url.Values) { v.Set("code_challenge_method", "plain") },
			code: "invalid_request"},
		{name: "no method", change: func(v url.Values) { v.Del("code_challenge_method") }, code: "invalid_request"},
		{name: "two scopes", change: func(v url.Values) { v.Add("scope", "email") }, code: "invalid_request"},
		{name: "malformed scope", change: func(v url.Values) { v.Set("scope", "openid  email") },
			code: "invalid_scope"},
		{name: "empty audience", change: func(v url.Values) { v.Set("audience", "") }, code: "invalid_request"},
		{name: "unknown audience", change: func(v url.Values) { v.Set("audience", "https://api.test") },
			code: "access_denied"},
		{name: "unknown prompt", change: func(v url.Values) { v.Set("prompt", "x") }, code: "invalid_request"},
		{name: "malformed max_age", change: func(v url.Values) { v.Set("max_age", "-1") }, code: "invalid_request"},
		{name: "unknown parameter", change: func(v url.Values) { v.Set("response_mode", "query") },
			code: "invalid_request"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := authorizeParams()
			tc.change(v)
			resp, body := do(t, newBrowser(t), "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
			if _, err := s.IssueCode(v, "auth0|ada"); err == nil {
				t.Error("IssueCode accepts it")
			}
			if tc.status != 0 {
				if resp.StatusCode != tc.status || resp.Header.Get("Location") != "" {
					t.Errorf("status %d, Location %q; want %d without one", resp.StatusCode,
						resp.Header.Get("Location"), tc.status)
				}
				if strings.Contains(body, "<b>x") {
					t.Error("the page holds markup from outside")
				}
				return
			}
			got := redirect(t, resp)
			if got.Get("error") != tc.code || got.Get("error_description") == "" || got.Has("code") {
				t.Errorf("got %v, want error %s", got, tc.code)
			}
			if len(v["state"]) == 1 && got.Get("state") != v.Get("state") {
				t.Errorf("state %q, want %q", got.Get("state"), v.Get("state"))
			}
		})
	}
	if resp, _ := do(t, newBrowser(t), "HEAD", s.Issuer+"authorize?"+authorizeParams().Encode(), "",
		""); resp.StatusCode != 405 {
		t.Errorf("HEAD: status %d, want 405", resp.StatusCode)
	}
	if resp, _ := do(t, newBrowser(t), "GET", s.Issuer+"authorize?state=%zz", "", ""); resp.StatusCode != 400 {
		t.Errorf("malformed query: status %d, want 400", resp.StatusCode)
	}
	if got := len(s.AuthorizeRequests()); got != 25 {
		t.Errorf("recorded %d requests, want 25", got)
	}
}

func TestAnswers(t *testing.T) {
	s := start(t, &Server{AutoSignIn: "auth0|ada", SendIss: true})
	v := authorizeParams()
	v.Set("prompt", "login")
	resp, _ := do(t, newBrowser(t), "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	got := redirect(t, resp)
	if resp.StatusCode != 302 || got.Get("state") != "a state" || got.Get("iss") != s.Issuer || len(got) != 3 {
		t.Errorf("status %d, parameters %v", resp.StatusCode, got)
	}
	if n := len(got.Get("code")); n < 20 || n > 64 {
		t.Errorf("a code of %d characters", n)
	}

	v.Set("redirect_uri", "http://[::1]:8080/cb?keep=1")
	u, err := s.IssueCode(v, "auth0|grace")
	if err != nil || !strings.HasPrefix(u.String(), "http://[::1]:8080/cb?keep=1&code=") {
		t.Errorf("IssueCode: %v, %v", u, err)
	}
	if _, err := s.IssueCode(v, "nobody"); err == nil {
		t.Error("IssueCode: no error for a user who does not exist")
	}
}

// fields finds the hidden fields of a page's form.
var fields = regexp.MustCompile(`name="(request|started|seal)" value="([^"]*)"`)

func formOf(body string) url.Values {
	v := url.Values{}
	for _, m := range fields.FindAllStringSubmatch(body, -1) {
		v.Set(m[1], strings.NewReplacer("&amp;", "&", "&#43;", "+").Replace(m[2]))
	}
	return v
}

func post(t *testing.T, c *http.Client, target string, form url.Values, name, value string) (*http.Response, string) {
	t.Helper()
	form = maps.Clone(form)
	form.Set(name, value)
	return do(t, c, "POST", target, "application/x-www-form-urlencoded", form.Encode())
}

func TestPages(t *testing.T) {
	now := time.Now()
	s := start(t, &Server{Now: func() time.Time { return now }})
	browser := newBrowser(t)
	authorize := func(prompt string) (*http.Response, string) {
		v := authorizeParams()
		if prompt != "" {
			v.Set("prompt", prompt)
		}
		return do(t, browser, "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	}

	resp, _ := authorize("none")
	if got := redirect(t, resp); got.Get("error") != "login_required" {
		t.Errorf("prompt=none, signed out: %v", got)
	}

	resp, login := authorize("")
	if resp.StatusCode != 200 || !strings.Contains(login, "Ada Lovelace") || !strings.Contains(login, "Grace Hopper") {
		t.Fatalf("sign-in page: status %d, %s", resp.StatusCode, login)
	}
	if !strings.Contains(login, "Aventus stand-in") || !strings.Contains(login, "not the real Aventus") {
		t.Error("the page does not say what it is")
	}
	// The hash in the policy must be that of what the page holds.
	_, style, _ := strings.Cut(login, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, base64.StdEncoding.EncodeToString(hash[:])) ||
		!strings.Contains(policy, "form-action 'self' https://app.test;") {
		t.Errorf("policy %q", policy)
	}

	planted := browser.Jar.Cookies(mustParse(t, s.Issuer))[0].Value
	resp, consent := post(t, browser, s.Issuer+"login", formOf(login), "user", "auth0|grace")
	if resp.StatusCode != 200 || !strings.Contains(consent, "Allow") ||
		!strings.Contains(consent, "https://api.test/") {
		t.Fatalf("consent page: status %d, %s", resp.StatusCode, consent)
	}
	if browser.Jar.Cookies(mustParse(t, s.Issuer))[0].Value == planted {
		t.Error("the session kept its id over the sign-in")
	}

	resp, _ = post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "refuse")
	if got := redirect(t, resp); resp.StatusCode != 303 || got.Get("error") != "access_denied" ||
		got.Get("state") != "a state" {
		t.Errorf("refused: status %d, %v", resp.StatusCode, got)
	}
	resp, _ = authorize("none")
	if got := redirect(t, resp); got.Get("error") != "consent_required" {
		t.Errorf("prompt=none, refused before: %v", got)
	}
	resp, _ = post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")
	if got := redirect(t, resp); got.Get("code") == "" || got.Get("state") != "a state" {
		t.Errorf("allowed: %v", got)
	}

	// From now on the session is enough, except where prompt says otherwise.
	resp, _ = authorize("")
	if got := redirect(t, resp); resp.StatusCode != 302 || got.Get("code") == "" {
		t.Errorf("signed in and consented: status %d, %v", resp.StatusCode, got)
	}
	if _, body := authorize("login"); !strings.Contains(body, "Grace Hopper") {
		t.Error("prompt=login shows no sign-in page")
	}
	if _, body := authorize("consent"); !strings.Contains(body, "Refuse") {
		t.Error("prompt=consent shows no consent page")
	}
	if _, body := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "switch"); !strings.Contains(body,
		"Ada Lovelace") {
		t.Error("no way to be somebody else")
	}

	// A form is worth nothing when it was changed, in another browser, for
	// another step, or too late.
	changed := formOf(consent)
	changed.Set("request", strings.Replace(changed.Get("request"), "app.test", "evil.test", 1))
	stranger := newBrowser(t)
	_, _ = do(t, stranger, "GET", s.Issuer+"authorize?"+authorizeParams().Encode(), "", "")
	for _, tc := range []struct {
		name    string
		browser *http.Client
		step    string
		form    url.Values
		field   string
		value   string
		after   time.Duration
	}{
		{"changed", browser, "consent", changed, "decision", "allow", 0},
		{"of another browser", stranger, "login", formOf(login), "user", "auth0|ada", 0},
		{"of another step", browser, "login", formOf(consent), "user", "auth0|ada", 0},
		{"without a cookie", newBrowser(t), "login", formOf(login), "user", "auth0|ada", 0},
		{"too late", browser, "consent", formOf(consent), "decision", "allow", attemptLifetime + time.Minute},
	} {
		now = now.Add(tc.after)
		resp, _ := post(t, tc.browser, s.Issuer+tc.step, tc.form, tc.field, tc.value)
		if resp.StatusCode != 403 || resp.Header.Get("Location") != "" {
			t.Errorf("form %s: status %d, want 403", tc.name, resp.StatusCode)
		}
	}
}

// TestMaxAge: a sign-in that is older than max_age is asked for again.
func TestMaxAge(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := start(t, &Server{Now: func() time.Time { return now }})
	browser := newBrowser(t)
	authorize := func(maxAge, prompt string) (*http.Response, string) {
		v := authorizeParams()
		v.Set("max_age", maxAge)
		if prompt != "" {
			v.Set("prompt", prompt)
		}
		return do(t, browser, "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	}
	_, login := authorize("60", "")
	_, consent := post(t, browser, s.Issuer+"login", formOf(login), "user", "auth0|ada")
	resp, _ := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")
	if got := redirect(t, resp); !got.Has("code") {
		t.Fatalf("signed in: %v", got)
	}
	now = now.Add(time.Minute)
	resp, _ = authorize("60", "")
	_, got := request(t, s, "application/json", asJSON(tokenBody(redirect(t, resp).Get("code"))))
	if claims := verify(t, s, got.IDToken); fmt.Sprint(claims["auth_time"]) != "1800000000" {
		t.Errorf("auth_time %v", claims["auth_time"])
	}
	now = now.Add(time.Second)
	resp, _ = authorize("60", "none")
	if got := redirect(t, resp); got.Get("error") != "login_required" {
		t.Errorf("prompt=none: %v", got)
	}
	if resp, page := authorize("60", ""); resp.StatusCode != 200 || !strings.Contains(page, "Ada Lovelace") {
		t.Errorf("status %d, %s", resp.StatusCode, page)
	}
}

func TestLogout(t *testing.T) {
	s := start(t, &Server{})
	s.Clients[0].LogoutOrigins = []string{"https://wiki.test", "https://*.team.test:8443"}
	browser := newBrowser(t)
	_, login := do(t, browser, "GET", s.Issuer+"authorize?"+authorizeParams().Encode(), "", "")
	_, consent := post(t, browser, s.Issuer+"login", formOf(login), "user", "auth0|ada")
	_, _ = post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")

	for _, tc := range []struct {
		query    string
		status   int
		location string
	}{
		{"client_id=app&returnTo=" + url.QueryEscape("https://app.test/bye"), 302, "https://app.test/bye"},
		{"", 200, ""},
		{"client_id=app&returnTo=https%3A%2F%2Fevil.test%2F", 400, ""},
		{"client_id=app&returnTo=%2F%2Fevil.test%2F", 400, ""},
		{"client_id=other&returnTo=https%3A%2F%2Fapp.test%2F", 400, ""},
		{"returnTo=https%3A%2F%2Fapp.test%2F", 400, ""},
		{"client_id=app&client_id=app", 400, ""},
		{"return_to=x", 400, ""},
		{"client_id=app&returnTo=" + url.QueryEscape("https://wiki.test/bye"), 302, "https://wiki.test/bye"},
		{"client_id=app&returnTo=" + url.QueryEscape("https://a.team.test:8443/bye"), 302,
			"https://a.team.test:8443/bye"},
		{"client_id=app&returnTo=" + url.QueryEscape("https://a.b.team.test:8443/bye"), 400, ""},
		{"client_id=app&returnTo=" + url.QueryEscape("https://a.team.test/bye"), 400, ""},
	} {
		resp, _ := do(t, browser, "GET", s.Issuer+"v2/logout?"+tc.query, "", "")
		if resp.StatusCode != tc.status || resp.Header.Get("Location") != tc.location {
			t.Errorf("logout?%s: status %d, Location %q; want %d, %q", tc.query, resp.StatusCode,
				resp.Header.Get("Location"), tc.status, tc.location)
		}
	}
	if got := s.Logouts(); len(got) != 12 || got[0].Get("returnTo") != "https://app.test/bye" || len(got[1]) != 0 ||
		!got[7].Has("return_to") {
		t.Errorf("recorded %v", got)
	}
	if resp, _ := do(t, browser, "GET", s.Issuer+"authorize?"+authorizeParams().Encode(), "",
		""); resp.StatusCode != 200 {
		t.Errorf("after logging out: status %d, want the sign-in page", resp.StatusCode)
	}
}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
