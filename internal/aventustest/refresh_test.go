package aventustest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// offlineParams returns what a client sends to /authorize for a refresh token.
func offlineParams() url.Values {
	v := authorizeParams()
	v.Set("scope", "openid profile offline_access")
	v.Set("nonce", "n")
	return v
}

// login returns the tokens of a login with offline_access.
func login(t *testing.T, s *Server) answer {
	t.Helper()
	status, got := request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, offlineParams()))))
	if status != 200 || len(got.RefreshToken) < 40 || strings.Contains(got.RefreshToken, ".") {
		t.Fatalf("status %d, %+v", status, got)
	}
	return got
}

// refreshBody returns what a good client sends to renew its tokens.
func refreshBody(token string) map[string]string {
	return map[string]string{
		"grant_type":    "refresh_token",
		"client_id":     "app",
		"client_secret": "s3cret:+%",
		"refresh_token": token,
	}
}

func refresh(t *testing.T, s *Server, token string) (int, answer) {
	t.Helper()
	return request(t, s, "application/json", asJSON(refreshBody(token)))
}

func decodeAnswer(t *testing.T, resp *http.Response) (a answer) {
	t.Helper()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Error(err)
	}
	return a
}

// expectDead checks that a refresh token does not work.
func expectDead(t *testing.T, s *Server, token, why string) {
	t.Helper()
	status, got := refresh(t, s, token)
	if status != 403 || got.Error != "invalid_grant" || got.Description != "Unknown or invalid refresh token." ||
		got.AccessToken != "" {
		t.Errorf("%s: status %d, %+v", why, status, got)
	}
}

func TestRefresh(t *testing.T) {
	s := start(t, &Server{})
	first := login(t, s)
	if first.Scope != nil {
		t.Errorf("scope %q, though all was granted", *first.Scope)
	}
	status, second := refresh(t, s, first.RefreshToken)
	if status != 200 || second.TokenType != "Bearer" || second.ExpiresIn != 86400 || second.Scope != nil {
		t.Fatalf("status %d, %+v", status, second)
	}
	if second.AccessToken == first.AccessToken || second.RefreshToken == first.RefreshToken ||
		len(second.RefreshToken) < 40 {
		t.Errorf("tokens that are not new: %+v", second)
	}
	before, after := verify(t, s, first.AccessToken), verify(t, s, second.AccessToken)
	for _, name := range []string{"iss", "sub", "azp", "scope", "name"} {
		if before[name] != after[name] {
			t.Errorf("%s was %v, and is %v", name, before[name], after[name])
		}
	}
	if id := verify(t, s, second.IDToken); id["sub"] != "auth0|ada" || id["aud"] != "app" || id["nonce"] != nil {
		t.Errorf("ID token %v", id)
	}

	// Fewer scopes are for this once.
	body := refreshBody(second.RefreshToken)
	body["scope"] = "profile"
	status, narrow := request(t, s, "application/json", asJSON(body))
	if claims := verify(t, s, narrow.AccessToken); status != 200 || claims["scope"] != "profile" ||
		narrow.IDToken != "" {
		t.Errorf("narrowed: status %d, %v", status, claims)
	}
	_, again := refresh(t, s, narrow.RefreshToken)
	if claims := verify(t, s, again.AccessToken); claims["scope"] != "openid profile offline_access" {
		t.Errorf("after that: scope %v", claims["scope"])
	}

	requests := s.TokenRequests()
	if len(requests) != 4 || !maps.Equal(requests[1].Params, refreshBody(first.RefreshToken)) {
		t.Errorf("recorded %+v", requests)
	}
	if s.CodesReused() != 0 || s.RefreshReused() != 0 {
		t.Errorf("%d codes and %d refresh tokens reused", s.CodesReused(), s.RefreshReused())
	}
}

func TestRefreshIsGranted(t *testing.T) {
	for _, tc := range []struct {
		name    string
		server  *Server
		change  func(url.Values)
		scope   string // that the answer tells, if it does
		refresh bool
	}{
		{"asked for", &Server{}, func(url.Values) {}, "", true},
		{"whatever the scopes", &Server{Scopes: []string{"openid"}}, func(url.Values) {},
			"openid offline_access", true},
		{"not asked for", &Server{}, func(v url.Values) { v.Set("scope", "openid") }, "", false},
		{"no audience", &Server{}, func(v url.Values) { v.Del("audience") }, "openid profile", false},
		{"switched off", &Server{NoRefresh: true}, func(url.Values) {}, "openid profile", false},
		{"in name only", &Server{NoRefresh: true, Scopes: []string{"offline_access"}}, func(url.Values) {},
			"offline_access", false},
	} {
		s := start(t, tc.server)
		v := offlineParams()
		tc.change(v)
		_, got := request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v))))
		var scope string
		if got.Scope != nil {
			scope = *got.Scope
		}
		if scope != tc.scope || (got.RefreshToken != "") != tc.refresh {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
}

func TestRefreshRefuses(t *testing.T) {
	s := start(t, &Server{})
	token := login(t, s).RefreshToken
	for _, tc := range []struct {
		name   string
		change func(map[string]string)
		status int
		code   string
	}{
		{"unknown name", func(b map[string]string) { b["audience"] = "https://api.test/" }, 400, "invalid_request"},
		{"a code's parameter", func(b map[string]string) { b["redirect_uri"] = callback }, 400, "invalid_request"},
		{"no token", func(b map[string]string) { delete(b, "refresh_token") }, 400, "invalid_request"},
		{"unknown token", func(b map[string]string) { b["refresh_token"] += "x" }, 403, "invalid_grant"},
		{"wrong secret", func(b map[string]string) { b["client_secret"] = "x" }, 401, "access_denied"},
		{"another client", func(b map[string]string) { b["client_id"], b["client_secret"] = "other", "other" }, 403,
			"invalid_grant"},
		{"malformed scope", func(b map[string]string) { b["scope"] = "" }, 400, "invalid_scope"},
		{"more scope", func(b map[string]string) { b["scope"] = "openid email" }, 400, "invalid_scope"},
	} {
		body := refreshBody(token)
		tc.change(body)
		status, got := request(t, s, "application/json", asJSON(body))
		if status != tc.status || got.Error != tc.code || got.Description == "" || got.AccessToken != "" {
			t.Errorf("%s: status %d, %+v; want %d %s", tc.name, status, got, tc.status, tc.code)
		}
	}
	// None of these was a use.
	if status, got := refresh(t, s, token); status != 200 || s.RefreshReused() != 0 {
		t.Errorf("status %d, %+v; %d reused", status, got, s.RefreshReused())
	}

	form := start(t, &Server{Form: true, Basic: true})
	code := newCode(t, form, offlineParams())
	send := func(body map[string]string) string {
		delete(body, "client_secret")
		req, _ := http.NewRequest("POST", form.Issuer+"oauth/token", strings.NewReader(asForm(body)))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth("app", url.QueryEscape("s3cret:+%"))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return decodeAnswer(t, resp).RefreshToken
	}
	if next := send(refreshBody(send(tokenBody(code)))); next == "" {
		t.Error("no refresh by form and Basic")
	}
}

// A refresh token that is used again takes its family with it, and no other.
func TestRefreshReuse(t *testing.T) {
	s := start(t, &Server{})
	other := login(t, s)
	first := login(t, s)
	_, second := refresh(t, s, first.RefreshToken)
	_, third := refresh(t, s, second.RefreshToken)
	expectDead(t, s, first.RefreshToken, "the first again")
	if s.RefreshReused() != 1 {
		t.Errorf("%d reused, want 1", s.RefreshReused())
	}
	expectDead(t, s, third.RefreshToken, "the newest of the family")
	if s.RefreshReused() != 1 {
		t.Errorf("%d reused: the newest had not been used", s.RefreshReused())
	}
	if status, _ := refresh(t, s, other.RefreshToken); status != 200 {
		t.Errorf("another login's token: status %d", status)
	}
}

// Of fifty requests at once one is answered, which is of no use to anybody.
func TestRefreshWorksOnce(t *testing.T) {
	s := start(t, &Server{})
	body := asJSON(refreshBody(login(t, s).RefreshToken))
	answers := make(chan answer, 50)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() {
			resp, err := http.Post(s.Issuer+"oauth/token", "application/json", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			answers <- decodeAnswer(t, resp)
		})
	}
	wg.Wait()
	close(answers)
	var next []string
	for a := range answers {
		if a.Error == "" {
			next = append(next, a.RefreshToken)
		}
	}
	if len(next) != 1 || s.RefreshReused() != 49 {
		t.Fatalf("%d answered, %d reused", len(next), s.RefreshReused())
	}
	expectDead(t, s, next[0], "the one answer")
}

func TestKeepRefresh(t *testing.T) {
	now := time.Now()
	s := start(t, &Server{KeepRefresh: true, RefreshLifetime: time.Hour, Now: func() time.Time { return now }})
	token := login(t, s).RefreshToken
	for range 3 {
		if status, got := refresh(t, s, token); status != 200 || got.AccessToken == "" || got.RefreshToken != "" {
			t.Errorf("status %d, %+v", status, got)
		}
	}
	now = now.Add(time.Hour + time.Second)
	expectDead(t, s, token, "after its time")
	if s.RefreshReused() != 0 {
		t.Errorf("%d reused", s.RefreshReused())
	}
}

// What is renewed lives no longer than what the login gave.
func TestRefreshLifetime(t *testing.T) {
	now := time.Now()
	s := start(t, &Server{Now: func() time.Time { return now }})
	token := login(t, s).RefreshToken
	for range 2 {
		now = now.Add(15 * 24 * time.Hour)
		status, got := refresh(t, s, token)
		if status != 200 {
			t.Fatalf("status %d, %+v", status, got)
		}
		token = got.RefreshToken
	}
	now = now.Add(time.Second)
	expectDead(t, s, token, "after 30 days")
}

// A request that a fault answered has used nothing, so it may be tried again;
// but an old token is an old token, whoever answers.
func TestRefreshFault(t *testing.T) {
	down := false
	s := start(t, &Server{TokenFault: func(w http.ResponseWriter, r *http.Request) bool {
		if down {
			writeJSON(w, http.StatusServiceUnavailable, struct{}{})
		}
		return down
	}})
	token := login(t, s).RefreshToken
	down = true
	for range 2 {
		if status, _ := refresh(t, s, token); status != 503 || s.RefreshReused() != 0 {
			t.Errorf("status %d, %d reused", status, s.RefreshReused())
		}
	}
	down = false
	if status, _ := refresh(t, s, token); status != 200 || s.RefreshReused() != 0 {
		t.Errorf("status %d, %d reused", status, s.RefreshReused())
	}
	down = true
	if status, _ := refresh(t, s, token); status != 503 || s.RefreshReused() != 1 {
		t.Errorf("status %d, %d reused", status, s.RefreshReused())
	}
}

func TestLogoutEndsRefresh(t *testing.T) {
	s := start(t, &Server{})
	browser := newBrowser(t)
	authorize := func() (*http.Response, string) {
		return do(t, browser, "GET", s.Issuer+"authorize?"+offlineParams().Encode(), "", "")
	}
	exchange := func(resp *http.Response) string {
		t.Helper()
		_, got := request(t, s, "application/json", asJSON(tokenBody(redirect(t, resp).Get("code"))))
		return got.RefreshToken
	}
	_, page := authorize()
	_, consent := post(t, browser, s.Issuer+"login", formOf(page), "user", "auth0|ada")
	resp, _ := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")
	tokens := []string{exchange(resp)}
	resp, _ = authorize()
	tokens = append(tokens, exchange(resp))
	// Signing in again as the same user goes on with the same session.
	resp, _ = post(t, browser, s.Issuer+"login", formOfFresh(t, s, browser), "user", "auth0|ada")
	tokens = append(tokens, exchange(resp))
	elsewhere := login(t, s).RefreshToken

	_, got := refresh(t, s, tokens[0])
	tokens[0] = got.RefreshToken
	_, _ = do(t, browser, "GET", s.Issuer+"v2/logout", "", "")
	for _, token := range tokens {
		expectDead(t, s, token, "after the logout")
	}
	if status, _ := refresh(t, s, elsewhere); status != 200 {
		t.Errorf("another login: status %d", status)
	}
}

// formOfFresh returns the form of a new sign-in page.
func formOfFresh(t *testing.T, s *Server, browser *http.Client) url.Values {
	t.Helper()
	v := offlineParams()
	v.Set("prompt", "login")
	_, page := do(t, browser, "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	return formOf(page)
}

func TestRevoke(t *testing.T) {
	s := start(t, &Server{})
	form := start(t, &Server{Form: true})
	const jsonType = "application/json"
	const formType = "application/x-www-form-urlencoded"
	good := func(token string) map[string]string {
		return map[string]string{"client_id": "app", "client_secret": "s3cret:+%", "token": token}
	}
	with := func(name, value string) func(map[string]string) string {
		return func(b map[string]string) string { b[name] = value; return asJSON(b) }
	}
	send := func(s *Server, method, typ, body string) (*http.Response, string) {
		return do(t, http.DefaultClient, method, s.Issuer+"oauth/revoke", typ, body)
	}

	token := login(t, s).RefreshToken
	var sent []string
	for _, tc := range []struct {
		name   string
		server *Server
		method string
		typ    string
		body   func(map[string]string) string
		token  string // that is recorded
		status int
		code   string
	}{
		{"form for JSON", s, "POST", formType, asForm, "", 415, "invalid_request"},
		{"JSON for form", form, "POST", jsonType, asJSON, "", 415, "invalid_request"},
		{"GET", s, "GET", jsonType, asJSON, "", 405, "invalid_request"},
		{"unknown name", s, "POST", jsonType, with("token_type_hint", "refresh_token"), token, 400, "invalid_request"},
		{"no token", s, "POST", jsonType, with("token", ""), "", 400, "invalid_request"},
		{"wrong secret", s, "POST", jsonType, with("client_secret", "x"), token, 401, "access_denied"},
		{"unknown client", s, "POST", jsonType, with("client_id", "x"), token, 401, "access_denied"},
		{"another client", s, "POST", jsonType, func(b map[string]string) string {
			b["client_id"], b["client_secret"] = "other", "other"
			return asJSON(b)
		}, token, 403, "invalid_grant"},
		{"unknown token", s, "POST", jsonType, with("token", "x"), "x", 200, ""},
	} {
		resp, body := send(tc.server, tc.method, tc.typ, tc.body(good(token)))
		if resp.StatusCode != tc.status || (tc.code == "" && body != "") || !strings.Contains(body, tc.code) {
			t.Errorf("%s: status %d, %s; want %d %s", tc.name, resp.StatusCode, body, tc.status, tc.code)
		}
		if tc.server == s {
			sent = append(sent, tc.token)
		}
	}
	// None of these revoked it; any token of the family does.
	_, next := refresh(t, s, token)
	for range 2 {
		if resp, body := send(s, "POST", jsonType, asJSON(good(token))); resp.StatusCode != 200 || body != "" {
			t.Errorf("status %d, %q", resp.StatusCode, body)
		}
	}
	expectDead(t, s, next.RefreshToken, "after it was revoked")
	if got := s.Revoked(); !slices.Equal(got, append(sent, token, token)) {
		t.Errorf("recorded %q", got)
	}
	if s.RefreshReused() != 0 || len(s.TokenRequests()) != 3 {
		t.Errorf("%d reused, %d token requests", s.RefreshReused(), len(s.TokenRequests()))
	}

	if resp, body := send(form, "POST", formType, asForm(good("x"))); resp.StatusCode != 200 || body != "" {
		t.Errorf("form: status %d, %q", resp.StatusCode, body)
	}
}

func TestRevokeFault(t *testing.T) {
	s := start(t, &Server{RevokeFault: func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}})
	token := login(t, s).RefreshToken
	body := asJSON(map[string]string{"client_id": "app", "client_secret": "s3cret:+%", "token": token})
	resp, _ := do(t, http.DefaultClient, "POST", s.Issuer+"oauth/revoke", "application/json", body)
	if got := s.Revoked(); resp.StatusCode != 500 || !slices.Equal(got, []string{token}) {
		t.Errorf("status %d, recorded %q", resp.StatusCode, got)
	}
	if status, _ := refresh(t, s, token); status != 200 {
		t.Errorf("status %d: the token was revoked all the same", status)
	}
}
