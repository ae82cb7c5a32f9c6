package aventustest

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tokenBody returns what a good client sends to the token endpoint.
func tokenBody(code string) map[string]string {
	return map[string]string{
		"grant_type":    "authorization_code",
		"client_id":     "app",
		"client_secret": "s3cret:+%",
		"code":          code,
		"redirect_uri":  callback,
		"code_verifier": verifier,
	}
}

func newCode(t *testing.T, s *Server, v url.Values) string {
	t.Helper()
	u, err := s.IssueCode(v, "auth0|ada")
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("code")
}

func asJSON(body map[string]string) string { return string(mustMarshal(body)) }

func asForm(body map[string]string) string {
	v := url.Values{}
	for name, value := range body {
		v.Set(name, value)
	}
	return v.Encode()
}

// answer is either answer of the token endpoint.
type answer struct {
	AccessToken  string  `json:"access_token"`
	TokenType    string  `json:"token_type"`
	ExpiresIn    int     `json:"expires_in"`
	Scope        *string `json:"scope"`
	RefreshToken string  `json:"refresh_token"`
	IDToken      string  `json:"id_token"`
	Error        string  `json:"error"`
	Description  string  `json:"error_description"`
}

func request(t *testing.T, s *Server, contentType, body string) (int, answer) {
	t.Helper()
	resp, text := do(t, http.DefaultClient, "POST", s.Issuer+"oauth/token", contentType, body)
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return resp.StatusCode, a
}

func TestTokenRefuses(t *testing.T) {
	now := time.Now()
	s := start(t, &Server{Now: func() time.Time { return now }})
	form := start(t, &Server{Form: true})
	const jsonType = "application/json"
	const formType = "application/x-www-form-urlencoded"
	with := func(name, value string) func(map[string]string) string {
		return func(b map[string]string) string { b[name] = value; return asJSON(b) }
	}
	without := func(name string) func(map[string]string) string {
		return func(b map[string]string) string { delete(b, name); return asJSON(b) }
	}
	for _, tc := range []struct {
		name   string
		server *Server
		typ    string
		body   func(map[string]string) string
		after  time.Duration
		status int
		code   string
	}{
		{"form for JSON", s, formType, asForm, 0, 415, "invalid_request"},
		{"JSON for form", form, jsonType, asJSON, 0, 415, "invalid_request"},
		{"no type", s, "", asJSON, 0, 415, "invalid_request"},
		{"another charset", s, jsonType + "; charset=latin1", asJSON, 0, 415, "invalid_request"},
		{"no object", s, jsonType, func(map[string]string) string { return "[]" }, 0, 400, "invalid_request"},
		{"cut off", s, jsonType, func(b map[string]string) string { return strings.TrimSuffix(asJSON(b), "}") }, 0,
			400, "invalid_request"},
		{"two objects", s, jsonType, func(b map[string]string) string { return asJSON(b) + "{}" }, 0, 400,
			"invalid_request"},
		{"doubled name", s, jsonType, func(b map[string]string) string { return `{"code":"x",` + asJSON(b)[1:] }, 0,
			400, "invalid_request"},
		{"doubled form name", form, formType, func(b map[string]string) string { return asForm(b) + "&code=x" }, 0,
			400, "invalid_request"},
		{"a number", s, jsonType, func(b map[string]string) string {
			delete(b, "code")
			return `{"code":1,` + asJSON(b)[1:]
		}, 0, 400, "invalid_request"},
		{"an object", s, jsonType, func(b map[string]string) string {
			delete(b, "code")
			return `{"code":{},` + asJSON(b)[1:]
		}, 0, 400, "invalid_request"},
		{"unknown name", s, jsonType, with("scope", "openid"), 0, 400, "invalid_request"},
		{"name in capitals", s, jsonType, with("Code", "x"), 0, 400, "invalid_request"},
		{"too long", s, jsonType, with("code", strings.Repeat("x", maxBody)), 0, 413, "invalid_request"},
		{"no grant type", s, jsonType, without("grant_type"), 0, 400, "invalid_request"},
		{"another grant type", s, jsonType, with("grant_type", "password"), 0, 403, "unsupported_grant_type"},
		{"unknown client", s, jsonType, with("client_id", "x"), 0, 401, "access_denied"},
		{"another client's secret", s, jsonType, with("client_secret", "other"), 0, 401, "access_denied"},
		{"no secret", s, jsonType, without("client_secret"), 0, 401, "access_denied"},
		{"refresh token with a code", s, jsonType, with("refresh_token", "x"), 0, 400, "invalid_request"},
		{"another client's code", s, jsonType, func(b map[string]string) string {
			b["client_id"], b["client_secret"] = "other", "other"
			return asJSON(b)
		}, 0, 403, "invalid_grant"},
		{"no code", s, jsonType, without("code"), 0, 400, "invalid_request"},
		{"wrong code", s, jsonType, with("code", "x"), 0, 403, "invalid_grant"},
		{"old code", s, jsonType, asJSON, codeLifetime + time.Second, 403, "invalid_grant"},
		{"no redirect URI", s, jsonType, without("redirect_uri"), 0, 400, "invalid_request"},
		{"wrong redirect URI", s, jsonType, with("redirect_uri", callback+"/"), 0, 403, "unauthorized_client"},
		{"no verifier", s, jsonType, without("code_verifier"), 0, 403, "invalid_grant"},
		{"wrong verifier", s, jsonType, with("code_verifier", strings.ToUpper(verifier)), 0, 403, "invalid_grant"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := tc.body(tokenBody(newCode(t, tc.server, authorizeParams())))
			now = now.Add(tc.after)
			status, got := request(t, tc.server, tc.typ, body)
			if status != tc.status || got.Error != tc.code || got.Description == "" || got.AccessToken != "" {
				t.Errorf("status %d, %+v; want %d %s", status, got, tc.status, tc.code)
			}
		})
	}

	good := tokenBody(newCode(t, s, authorizeParams()))
	if resp, _ := do(t, http.DefaultClient, "PUT", s.Issuer+"oauth/token", jsonType, asJSON(good)); resp.StatusCode !=
		405 || resp.Header.Get("Allow") != "POST" {
		t.Errorf("PUT: status %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
	if resp, _ := do(t, http.DefaultClient, "POST", s.Issuer+"oauth/token?x=y", jsonType,
		asJSON(good)); resp.StatusCode != 400 {
		t.Errorf("query: status %d, want 400", resp.StatusCode)
	}
	// Neither of these was the client's own use of the code.
	if status, got := request(t, s, jsonType+"; charset=UTF-8", asJSON(good)); status != 200 ||
		got.TokenType != "Bearer" || got.ExpiresIn != 86400 || got.Scope != nil {
		t.Errorf("status %d, %+v", status, got)
	}
	if status, got := request(t, form, formType, asForm(tokenBody(newCode(t, form, authorizeParams())))); status !=
		200 {
		t.Errorf("form: status %d, %+v", status, got)
	}
}

func TestBasic(t *testing.T) {
	s := start(t, &Server{Basic: true})
	post := start(t, &Server{})
	for _, tc := range []struct {
		name       string
		server     *Server
		id, secret string
		inBody     bool
		status     int
	}{
		{"escaped", s, "app", url.QueryEscape("s3cret:+%"), false, 200},
		{"not escaped", s, "app", "s3cret:+%", false, 401},
		{"wrong", s, "app", "x", false, 401},
		{"another client", s, "other", "other", false, 401},
		{"twice", s, "app", url.QueryEscape("s3cret:+%"), true, 401},
		{"only in the body", s, "", "", true, 401},
		{"not asked for", post, "app", url.QueryEscape("s3cret:+%"), true, 401},
	} {
		body := tokenBody(newCode(t, tc.server, authorizeParams()))
		if !tc.inBody {
			delete(body, "client_secret")
		}
		req, _ := http.NewRequest("POST", tc.server.Issuer+"oauth/token", strings.NewReader(asJSON(body)))
		req.Header.Set("Content-Type", "application/json")
		if tc.id != "" {
			req.SetBasicAuth(tc.id, tc.secret)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.status {
			t.Errorf("%s: status %d, want %d", tc.name, resp.StatusCode, tc.status)
		}
	}
}

// A code is good for one of fifty requests that come at once, and each of the
// others is counted.
func TestCodeWorksOnce(t *testing.T) {
	s := start(t, &Server{})
	body := asJSON(tokenBody(newCode(t, s, authorizeParams())))
	statuses := make(chan int, 50)
	var wg sync.WaitGroup
	for range cap(statuses) {
		wg.Go(func() {
			resp, err := http.Post(s.Issuer+"oauth/token", "application/json", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		})
	}
	wg.Wait()
	close(statuses)
	count := map[int]int{}
	for status := range statuses {
		count[status]++
	}
	if count[200] != 1 || count[403] != 49 || s.CodesReused() != 49 {
		t.Errorf("statuses %v, %d reused", count, s.CodesReused())
	}
}

func TestTokenFault(t *testing.T) {
	var seen string
	s := &Server{}
	s.TokenFault = func(w http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		seen = string(body)
		if len(s.TokenRequests()) > 1 {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	start(t, s)
	body := tokenBody(newCode(t, s, authorizeParams()))
	if resp, text := do(t, http.DefaultClient, "POST", s.Issuer+"oauth/token", "application/json",
		asJSON(body)); resp.StatusCode != 500 || text != "" || seen != asJSON(body) {
		t.Errorf("status %d, body %q; the fault saw %q", resp.StatusCode, text, seen)
	}
	if n := s.CodesReused(); n != 0 {
		t.Errorf("%d codes reused, want none", n)
	}
	// The fault answered before the code was used, but it was sent.
	if status, got := request(t, s, "application/json", asJSON(body)); status != 200 || s.CodesReused() != 1 {
		t.Errorf("status %d, %+v; %d codes reused, want 1", status, got, s.CodesReused())
	}
	records := s.TokenRequests()
	if len(records) != 2 || records[0].Method != "POST" || records[0].ContentType != "application/json" ||
		string(records[0].Body) != asJSON(body) || !maps.Equal(records[0].Params, body) {
		t.Errorf("recorded %+v", records)
	}
}

func TestToken(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := start(t, &Server{
		Now:           func() time.Time { return now },
		TokenLifetime: time.Hour,
		Scopes:        []string{"openid", "email"},
		Claims:        func(u User) map[string]any { return map[string]any{"roles": []string{u.Name}} },
	})
	status, got := request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, authorizeParams()))))
	if status != 200 || got.ExpiresIn != 3600 || got.Scope == nil || *got.Scope != "openid" {
		t.Fatalf("status %d, %+v", status, got)
	}
	claims := verify(t, s, got.AccessToken)
	delete(claims, "jti")
	want := fmt.Sprintf(`{"aud":["https://api.test/","%suserinfo"],"azp":"app","email":"ada@example.com",`+
		`"exp":1800003600,"iat":1800000000,"iss":"%s","name":"Ada Lovelace","roles":["Ada `+
		`Lovelace"],"scope":"openid","sub":"auth0|ada"}`, s.Issuer, s.Issuer)
	if string(mustMarshal(claims)) != want {
		t.Errorf("claims\n%s, want\n%s", mustMarshal(claims), want)
	}

	v := authorizeParams()
	v.Set("scope", "email")
	_, got = request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v))))
	if claims := verify(t, s, got.AccessToken); claims["aud"] != "https://api.test/" {
		t.Errorf("aud %v, want a string", claims["aud"])
	}
	v.Del("audience")
	if _, got = request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v)))); strings.Contains(
		got.AccessToken, ".") || len(got.AccessToken) < 20 {
		t.Errorf("token %q, want an opaque one", got.AccessToken)
	}
	if claims := verify(t, s, s.SignJWT(map[string]any{"sub": "x"})); len(claims) != 1 {
		t.Errorf("claims %v", claims)
	}
}

func TestTokenChars(t *testing.T) {
	for chars := range slices.Values([]int{750, 751, 752, 753, 1500, 6000, 1}) {
		s := start(t, &Server{TokenChars: chars})
		for range 3 {
			_, got := request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, authorizeParams()))))
			verify(t, s, got.AccessToken)
			if n := len(got.AccessToken); chars > 1 && n != chars && n != chars-1 {
				t.Errorf("%d characters, want %d", n, chars)
			}
		}
	}
}

// verify checks a token with the key that is published for it, and returns its
// claims.
func verify(t *testing.T, s *Server, token string) map[string]any {
	t.Helper()
	keys := keySet(t, s)
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", token)
	}
	decode := func(part string) []byte {
		b, err := b64.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var header struct{ Alg, Kid string }
	if err := json.Unmarshal(decode(parts[0]), &header); err != nil || header.Alg != "RS256" {
		t.Errorf("header %+v, %v", header, err)
	}
	i := slices.IndexFunc(keys, func(k publicKey) bool { return k.Kid == header.Kid })
	if i < 0 {
		t.Fatalf("the key %s is not among %v", header.Kid, keys)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(decode(keys[i].N)),
		E: int(new(big.Int).SetBytes(decode(keys[i].E)).Int64())}
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, hash[:], decode(parts[2])); err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	d := json.NewDecoder(strings.NewReader(string(decode(parts[1]))))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

type publicKey struct{ Kid, N, E string }

func keySet(t *testing.T, s *Server) []publicKey {
	t.Helper()
	var set struct{ Keys []publicKey }
	_, body := do(t, http.DefaultClient, "GET", s.Issuer+".well-known/jwks.json", "", "")
	if err := json.Unmarshal([]byte(body), &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%v in %s", err, body)
	}
	return set.Keys
}

func TestIDToken(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := start(t, &Server{
		Now:      func() time.Time { return now },
		NoSID:    true,
		IDClaims: func(u User) map[string]any { return map[string]any{"name": nil, "nickname": u.Name} },
	})
	v := authorizeParams()
	v.Set("nonce", "n")
	_, got := request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v))))
	want := fmt.Sprintf(`{"aud":"app","email":"ada@example.com","exp":1800036000,"iat":1800000000,"iss":"%s",`+
		`"name":null,"nickname":"Ada Lovelace","nonce":"n","sub":"auth0|ada"}`, s.Issuer)
	if claims := string(mustMarshal(verify(t, s, got.IDToken))); claims != want {
		t.Errorf("claims\n%s, want\n%s", claims, want)
	}
	v.Del("nonce")
	v.Del("audience") // the ID token has nothing to do with it
	_, got = request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v))))
	if claims := verify(t, s, got.IDToken); claims["nonce"] != nil {
		t.Errorf("nonce %v, want none", claims["nonce"])
	}
	v.Set("scope", "profile")
	if _, got = request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v)))); got.IDToken != "" {
		t.Error("an ID token without the scope openid")
	}
	s = start(t, &Server{NoIDToken: true})
	if _, got = request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, authorizeParams())))); got.IDToken !=
		"" || got.Scope != nil {
		t.Errorf("NoIDToken: %+v", got)
	}
}

// TestLoginAsAsked: an ID token says of the login what the authorize request asked for,
// whoever wrote that.
func TestLoginAsAsked(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		signedIn int64 // 0: at each login
		ask      map[string]string
		want     string
	}{
		{ask: map[string]string{}, want: `{}`},
		{ask: map[string]string{"organization": "org_a"}, want: `{"org_id":"org_a"}`},
		{ask: map[string]string{"organization": "Acme"}, want: `{"org_id":"org_of_Acme","org_name":"acme"}`},
		{ask: map[string]string{"max_age": "0"}, want: `{"auth_time":1800000000}`},
		{signedIn: now.Unix() - 60, ask: map[string]string{"max_age": "60"}, want: `{"auth_time":1799999940}`},
		{signedIn: now.Unix() - 60, ask: map[string]string{"max_age": "59"}, want: `{"auth_time":1800000000}`},
		{signedIn: now.Unix() - 60, ask: map[string]string{}, want: `{}`},
	} {
		s := &Server{Now: func() time.Time { return now }, EditAnswer: func(grantType string, answer map[string]any) {
			answer["scope"] = grantType
		}}
		if tc.signedIn != 0 {
			s.SignedIn = time.Unix(tc.signedIn, 0)
		}
		s = start(t, s)
		v := authorizeParams()
		for name, value := range tc.ask {
			v.Set(name, value)
		}
		_, got := request(t, s, "application/json", asJSON(tokenBody(newCode(t, s, v))))
		claims := verify(t, s, got.IDToken)
		for name := range claims {
			if !slices.Contains([]string{"org_id", "org_name", "auth_time"}, name) {
				delete(claims, name)
			}
		}
		if said := string(mustMarshal(claims)); said != tc.want || *got.Scope != "authorization_code" {
			t.Errorf("%v: %s, want %s; scope %s", tc.ask, said, tc.want, *got.Scope)
		}
		if access := verify(t, s, got.AccessToken); access["org_id"] != claims["org_id"] {
			t.Errorf("%v: the access token says %v", tc.ask, access)
		}
	}
}

func TestRotateKey(t *testing.T) {
	broken := false
	s := start(t, &Server{JWKSFault: func(w http.ResponseWriter, r *http.Request) bool {
		if broken {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return broken
	}})
	old := s.SignJWT(map[string]any{"sub": "x"})
	first := keySet(t, s)
	s.RotateKey()
	fresh := s.SignJWT(map[string]any{"sub": "x"})
	both := keySet(t, s)
	if len(first) != 1 || len(both) != 2 || both[0] != first[0] || both[1].Kid == first[0].Kid ||
		both[1].N == first[0].N {
		t.Errorf("keys %v, then %v", first, both)
	}
	verify(t, s, old)
	verify(t, s, fresh)
	s.ForgetOldKeys()
	if keys := keySet(t, s); len(keys) != 1 || keys[0] != both[1] {
		t.Errorf("keys %v, want the newest only", keys)
	}
	verify(t, s, fresh)
	// Another server knows nothing of it.
	if keys := keySet(t, start(t, &Server{})); len(keys) != 1 || keys[0] != first[0] {
		t.Errorf("another server's keys %v", keys)
	}
	broken = true
	if resp, _ := do(t, http.DefaultClient, "GET", s.Issuer+".well-known/jwks.json", "", ""); resp.StatusCode != 503 ||
		s.JWKSRequests() != 7 {
		t.Errorf("status %d, %d requests", resp.StatusCode, s.JWKSRequests())
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var list []int
	for i := range maxRecorded + 5 {
		list = record(list, i)
	}
	if len(list) != maxRecorded || list[0] != 5 {
		t.Errorf("%d records, the first %d", len(list), list[0])
	}
	var c recent[int]
	start := time.Now()
	for i := range maxKept + 5 {
		c.add(fmt.Sprint(i), i, start, time.Hour)
	}
	if len(c.items) != maxKept || len(c.order) != maxKept {
		t.Errorf("%d items kept", len(c.items))
	}
	c.add("late", 0, start.Add(2*time.Hour), time.Hour)
	if len(c.items) != 1 || len(c.order) != 1 {
		t.Errorf("%d items kept after their time", len(c.items))
	}
}
