package aventustest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// receiver is a client's logout URL.
func receiver(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return server.URL + "/ended"
}

// TestLogoutTokens: whoever signs out, is signed out by the tenant, or is blocked, is
// reported to each client that they signed in to, and to no other.
func TestLogoutTokens(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := start(t, &Server{Now: func() time.Time { return now }})
	got := make(chan string, 10)
	s.Clients[0].LogoutURI = receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" ||
			len(r.Header["Cookie"]) != 0 {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		_ = r.ParseForm()
		if len(r.PostForm) != 1 || len(r.PostForm["logout_token"]) != 1 {
			t.Errorf("the form is %v", r.PostForm)
		}
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte("no"))
		got <- r.PostForm.Get("logout_token")
	})
	s.Clients[1].LogoutURI = receiver(t, func(http.ResponseWriter, *http.Request) {
		t.Error("the other client was told")
	})

	check := func(why string, answers ...answer) {
		t.Helper()
		if len(got) != len(answers) {
			t.Fatalf("%s: %d logout tokens, want %d", why, len(got), len(answers))
		}
		var sids, told []any
		for _, a := range answers {
			sids = append(sids, verify(t, s, a.IDToken)["sid"])
			claims := verify(t, s, <-got)
			told = append(told, claims["sid"])
			jti := claims["jti"]
			delete(claims, "sid")
			delete(claims, "jti")
			want := fmt.Sprintf(`{"aud":"app","events":{"%s":{}},"exp":1800000120,"iat":1800000000,"iss":"%s",`+
				`"sub":"auth0|ada"}`,
				logoutEvent, s.Issuer)
			if text := string(mustMarshal(claims)); text != want || jti == "" {
				t.Errorf("%s: claims\n%s, want\n%s", why, text, want)
			}
			expectDead(t, s, a.RefreshToken, why)
		}
		for _, sid := range sids {
			if text, _ := sid.(string); text == "" || !slices.Contains(told, sid) {
				t.Errorf("%s: told %v, want %v", why, told, sids)
			}
		}
	}

	// In a browser, by its logout page.
	browser := newBrowser(t)
	_, page := do(t, browser, "GET", s.Issuer+"authorize?"+offlineParams().Encode(), "", "")
	_, consent := post(t, browser, s.Issuer+"login", formOf(page), "user", "auth0|ada")
	resp, _ := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")
	_, inBrowser := request(t, s, "application/json", asJSON(tokenBody(redirect(t, resp).Get("code"))))
	elsewhere, third := login(t, s), login(t, s)
	if verify(t, s, elsewhere.IDToken)["sid"] == verify(t, s, third.IDToken)["sid"] {
		t.Error("two logins without a browser have one sid")
	}
	_, _ = do(t, browser, "GET", s.Issuer+"v2/logout", "", "")
	check("a logout", inBrowser)
	if d := s.Deliveries(); len(d) != 1 || d[0].Status != 400 || d[0].Body != "no" ||
		d[0].Header.Get("Cache-Control") != "no-store" ||
		d[0].URL != s.Clients[0].LogoutURI || d[0].ClientID != "app" || d[0].Err != nil {
		t.Errorf("%+v", d)
	}
	// A renewed ID token is of the same session.
	_, renewed := refresh(t, s, elsewhere.RefreshToken)
	if verify(t, s, renewed.IDToken)["sid"] != verify(t, s, elsewhere.IDToken)["sid"] {
		t.Error("the renewed ID token names another session")
	}
	s.LogOut("auth0|grace")
	check("another user's end")
	s.LogOut("auth0|ada")
	check("all of a user's sessions end", renewed, third)
	s.LogOut("auth0|ada")
	check("nothing was left to end")
	last := login(t, s)
	s.Block("auth0|ada")
	check("a blocked user", last)
	if _, err := s.IssueCode(authorizeParams(), "auth0|ada"); err == nil ||
		err.Error() != "access_denied: user is blocked" {
		t.Errorf("a blocked user signs in: %v", err)
	}
	if _, err := s.IssueCode(authorizeParams(), "auth0|grace"); err != nil {
		t.Error(err)
	}
}

// The browser is signed out at the server too, wherever the session was ended from.
func TestLogOutEndsTheBrowsersSession(t *testing.T) {
	s := start(t, &Server{})
	browser := newBrowser(t)
	_, page := do(t, browser, "GET", s.Issuer+"authorize?"+authorizeParams().Encode(), "", "")
	_, consent := post(t, browser, s.Issuer+"login", formOf(page), "user", "auth0|ada")
	resp, _ := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")
	redirect(t, resp)
	s.LogOut("auth0|ada")
	v := authorizeParams()
	v.Set("prompt", "none")
	resp, _ = do(t, browser, "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	if got := redirect(t, resp).Get("error"); got != "login_required" {
		t.Errorf("%q", got)
	}
}

func TestOddLogoutTokens(t *testing.T) {
	s := start(t, &Server{EditLogout: func(header, claims map[string]any) {
		header["typ"] = "logout+jwt"
		delete(claims, "sid")
		claims["nonce"] = "n"
	}})
	var token string
	where := receiver(t, func(w http.ResponseWriter, r *http.Request) { token = r.FormValue("logout_token") })
	d := s.Deliver(where, "app", s.LogoutToken("app", "auth0|ada", "s"))
	claims := verify(t, s, token)
	if d.Status != 200 || claims["sid"] != nil || claims["sub"] != "auth0|ada" || claims["nonce"] != "n" {
		t.Errorf("%+v, %v", d, claims)
	}
	header, _ := b64.DecodeString(strings.Split(token, ".")[0])
	if want := fmt.Sprintf(`{"alg":"RS256","kid":"%s","typ":"logout+jwt"}`, s.key().id); string(header) != want {
		t.Errorf("header %s, want %s", header, want)
	}
}

// A logout token is sent once, and no redirect is followed.
func TestDeliveryIsTriedOnce(t *testing.T) {
	s := start(t, &Server{})
	asked := 0
	where := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	if d := s.Deliver(where, "app", "x"); d.Status != 307 || asked != 1 {
		t.Errorf("%+v, asked %d times", d, asked)
	}
	if d := s.Deliver("http://127.0.0.1:0/", "app", "x"); d.Status != 0 || d.Err == nil {
		t.Errorf("%+v", d)
	}
}

func TestSessionExpiry(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := start(t, &Server{Now: func() time.Time { return now }, SessionExpiry: time.Hour})
	first := login(t, s)
	now = now.Add(time.Minute)
	_, renewed := refresh(t, s, first.RefreshToken)
	for what, token := range map[string]string{"the login": first.IDToken, "the renewal": renewed.IDToken} {
		if got := verify(t, s, token)["session_expiry"]; fmt.Sprint(got) != "1800003600" {
			t.Errorf("%s: session_expiry %v", what, got)
		}
	}
}

// TestDeny: the rule's words come to the callback, and to a refresh, which leaves the
// refresh token as it was.
func TestDeny(t *testing.T) {
	words := ""
	s := start(t, &Server{AutoSignIn: "auth0|ada", Deny: func(u User, c Client) string {
		if u.Sub != "auth0|ada" || c.ID != "app" {
			t.Errorf("asked about %v, %v", u, c)
		}
		return words
	}})
	token := login(t, s).RefreshToken
	words = "Not yet, <b>Ädä</b>: write to us."
	resp, _ := do(t, newBrowser(t), "GET", s.Issuer+"authorize?"+authorizeParams().Encode(), "", "")
	got := redirect(t, resp)
	if got.Get("error") != "access_denied" || got.Get("error_description") != words || got.Get("state") == "" ||
		got.Has("code") {
		t.Errorf("the callback gets %v", got)
	}
	if status, got := refresh(t, s, token); status != 403 || got.Error != "access_denied" || got.Description != words {
		t.Errorf("the refresh: %d, %+v", status, got)
	}
	words = ""
	if status, _ := refresh(t, s, token); status != 200 || s.RefreshReused() != 0 {
		t.Errorf("the refresh after it: %d", status)
	}
}

func TestOtherPaths(t *testing.T) {
	s := start(t, &Server{KeysPath: "keys", RevokePath: "token/revocation"})
	login(t, s)
	for path, want := range map[string]int{
		"keys": 200, ".well-known/jwks.json": 404, "token/revocation": 405, "oauth/revoke": 404, "": 404,
	} {
		if resp, _ := do(t, http.DefaultClient, "GET", s.Issuer+path, "", ""); resp.StatusCode != want {
			t.Errorf("%q: status %d, want %d", path, resp.StatusCode, want)
		}
	}
	s = start(t, &Server{NoRevoke: true})
	for _, path := range []string{"", "oauth/revoke"} {
		if resp, _ := do(t, http.DefaultClient, "POST", s.Issuer+path, "application/json", "{}"); resp.StatusCode !=
			404 || len(s.Revoked()) != 0 {
			t.Errorf("no revocation: %q: status %d", path, resp.StatusCode)
		}
	}
}

// thirdParty adds a third-party client that was granted one API.
func thirdParty(t *testing.T, s *Server) *Server {
	t.Helper()
	s = start(t, s)
	s.Clients = append(s.Clients, Client{
		ID: "tpc_1", Secret: "s", RedirectURIs: []string{callback}, LogoutURI: "http://127.0.0.1:0/",
		Audiences: []string{"https://api.test/"},
	})
	return s
}

func thirdPartyAsks(changes ...string) url.Values {
	v := offlineParams()
	v.Set("client_id", "tpc_1")
	v.Set("scope", "openid profile email offline_access read")
	for i := 0; i < len(changes); i += 2 {
		v.Set(changes[i], changes[i+1])
	}
	return v
}

// TestThirdPartyRefuses: whatever is refused is shown at the server.
func TestThirdPartyRefuses(t *testing.T) {
	deny := ""
	s := thirdParty(t, &Server{
		AutoSignIn: "auth0|ada", Audiences: []string{
			"https://api.test/",
		}, Deny: func(User, Client) string { return deny },
	})
	ask := func(v url.Values) (*http.Response, string) {
		return do(t, newBrowser(t), "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	}
	for _, v := range []url.Values{
		thirdPartyAsks("screen_hint", "signup"), thirdPartyAsks("invitation", "x"),
		thirdPartyAsks("organization", "org_x"),
		thirdPartyAsks("response_type", "token"), thirdPartyAsks("audience", "https://other.test/"),
		thirdPartyAsks("code_challenge_method", "plain"),
	} {
		if resp, _ := ask(v); resp.StatusCode != 400 || resp.Header.Get("Location") != "" {
			t.Errorf("%v: status %d, Location %q", v, resp.StatusCode, resp.Header.Get("Location"))
		}
		if _, err := s.IssueCode(v, "auth0|ada"); err == nil {
			t.Errorf("%v: IssueCode accepts it", v)
		}
	}
	for _, v := range []url.Values{
		thirdPartyAsks(), thirdPartyAsks("acr_values", "x", "resource", "https://api.test/", "login_hint", "ada"),
	} {
		resp, _ := ask(v)
		if got := redirect(t, resp); !got.Has("code") {
			t.Errorf("%v: %v", v, got)
		}
	}
	deny = "Write to us."
	if resp, page := ask(thirdPartyAsks()); resp.StatusCode != 400 || !strings.Contains(page, deny) {
		t.Errorf("a rule: status %d, %s", resp.StatusCode, page)
	}

	s = thirdParty(t, &Server{})
	browser := newBrowser(t)
	authorize := func(v url.Values) (*http.Response, string) {
		return do(t, browser, "GET", s.Issuer+"authorize?"+v.Encode(), "", "")
	}
	if resp, _ := authorize(thirdPartyAsks("prompt", "none")); resp.StatusCode != 400 {
		t.Errorf("prompt=none: status %d", resp.StatusCode)
	}
	_, page := authorize(thirdPartyAsks())
	_, consent := post(t, browser, s.Issuer+"login", formOf(page), "user", "auth0|ada")
	if resp, _ := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "refuse"); resp.StatusCode != 400 {
		t.Errorf("a person who refuses: status %d", resp.StatusCode)
	}
	resp, _ := post(t, browser, s.Issuer+"consent", formOf(consent), "decision", "allow")
	redirect(t, resp)
	// There is no logout page, and what it is asked ends nothing.
	if resp, _ := do(t, browser, "GET", s.Issuer+"v2/logout?client_id=tpc_1", "", ""); resp.StatusCode != 400 ||
		len(resp.Cookies()) != 0 {
		t.Errorf("logout: status %d", resp.StatusCode)
	}
	resp, _ = authorize(thirdPartyAsks("prompt", "none"))
	redirect(t, resp)
}

// TestThirdPartyTokens: there is no OpenID Connect, an API has to be granted, and
// refresh tokens end.
func TestThirdPartyTokens(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := thirdParty(t, &Server{Now: func() time.Time { return now }})
	exchange := func(v url.Values) (int, answer) {
		body := tokenBody(newCode(t, s, v))
		body["client_id"], body["client_secret"] = "tpc_1", "s"
		return request(t, s, "application/json", asJSON(body))
	}
	renew := func(token string) (int, answer) {
		body := refreshBody(token)
		body["client_id"], body["client_secret"] = "tpc_1", "s"
		return request(t, s, "application/json", asJSON(body))
	}
	status, got := exchange(thirdPartyAsks("audience", "https://other.test/"))
	if status != 403 || got.Error != "unauthorized_client" ||
		!strings.Contains(got.Description, "https://other.test/") {
		t.Errorf("an API that was not granted: %d, %+v", status, got)
	}
	status, got = exchange(thirdPartyAsks())
	if status != 200 || got.IDToken != "" || got.Scope == nil || *got.Scope != "offline_access read" ||
		got.RefreshToken == "" {
		t.Fatalf("%d, %+v", status, got)
	}
	now = now.Add(thirdPartyIdle)
	if status, got = renew(got.RefreshToken); status != 200 || got.IDToken != "" {
		t.Fatalf("used in time: %d, %+v", status, got)
	}
	now = now.Add(thirdPartyIdle)
	if status, got = renew(got.RefreshToken); status != 200 {
		t.Fatalf("used in time again: %d, %+v", status, got)
	}
	_, got = exchange(thirdPartyAsks())
	now = now.Add(thirdPartyIdle + time.Second)
	if status, got = renew(got.RefreshToken); status != 403 || got.Error != "invalid_grant" {
		t.Errorf("idle for too long: %d, %+v", status, got)
	}
	s.LogOut("auth0|ada")
	if d := s.Deliveries(); len(d) != 0 {
		t.Errorf("it was told of the end: %+v", d)
	}
}
