package aventusauth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// unsigned returns a JWT with some claims, and a signature that no stage of these tests looks at.
func unsigned(t *testing.T, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

// bearers returns the stage of that name. It remembers a good token, and cannot have the keys for another.
func (p *parts) bearers(good string, expires time.Time) *bearers {
	p.t.Helper()
	verified, err := lru.New[[32]byte, *bearerToken](verifiedTokens)
	if err != nil {
		p.t.Fatal(err)
	}
	keys := aventus.NewKeySet("https://127.0.0.1:1/jwks.json", p.clock.Now)
	p.t.Cleanup(keys.Close)
	verified.Add(sha256.Sum256([]byte(good)), &bearerToken{
		grant: grant{bearer: bearer + good}, verified: p.clock.Now(), expires: expires, keys: keys.Version(),
	})
	return &bearers{
		tokens: aventus.NewTokenVerifier("https://auth.example.com/", "https://api.example.com/", keys, p.clock.Now),
		keys:   keys, verified: verified, now: p.clock.Now,
	}
}

// TestIdentifies: whose request it is, by its cookies and its Authorization, and what is renewed for it.
func TestIdentifies(t *testing.T) {
	good := unsigned(t, map[string]any{"sub": "api-client"})
	refreshes := func(s *session) { s.refresh = "refresh" }
	for _, c := range []struct {
		what      string
		make      func(*session) // of the session; nil: it has none
		after     time.Duration
		header    []string
		want      string // session, client, anonymous, or the code of a failure
		reads     string // the same for the profile, which renews nothing
		renewals  int
		noBearers bool
	}{
		{"nothing", nil, 0, nil, "anonymous", "anonymous", 0, false},
		{"a session", func(*session) {}, 0, nil, "session", "session", 0, false},
		{"a session and a token", func(*session) {}, 0, []string{"Bearer " + good}, "session", "session", 0, false},
		{"a token", nil, 0, []string{"Bearer " + good}, "client", "client", 0, false},
		{"a token, bearer in lower case", nil, 0, []string{"bearer " + good}, "client", "client", 0, false},
		{"a token that no block lets in", nil, 0, []string{"Bearer " + good}, "anonymous", "anonymous", 0, true},
		{"a token twice", nil, 0, []string{"Bearer " + good, "Bearer " + good}, "invalid_token",
			"invalid_token", 0, false},
		{"a token in another scheme", nil, 0, []string{"Basic x, Bearer " + good}, "invalid_token",
			"invalid_token", 0, false},
		{"a password", nil, 0, []string{"Basic eDp5"}, "anonymous", "anonymous", 0, false},
		{"a token that was good, and is verified anew", nil, time.Hour, []string{"Bearer " + good}, "token_refused",
			"token_refused", 0, false},
		{"a token without keys", nil, 0, []string{"Bearer " + unsigned(t, nil)}, "token_refused",
			"token_refused", 0, false},
		{"a session whose token is due", refreshes, 57 * time.Minute, nil, "session", "session", 1, false},
		{"a session whose token has died", refreshes, 2 * time.Hour, nil, "session", "session", 1, false},
	} {
		p := newParts(t)
		asked := new(renewalParts)
		rd := reader{p.keeper, p.bearers(good, p.clock.Now().Add(time.Hour)), p.clock.Now}
		if c.noBearers {
			rd.bearers = nil
		}
		var cookies []string
		if c.make != nil {
			k, cookie := p.session(c.make)
			asked.record, cookies = k.session, []string{cookie}
		}
		p.clock.Add(c.after)
		rn := asked.renewer(p.clock.Now)
		was := &sent{cookies: cookies, authorization: c.header}
		for stage, want := range map[string]string{"the profile": c.reads, "the gate": c.want} {
			var id identity
			var refused *refusal
			if stage == "the profile" {
				id, refused = rd.read(t.Context(), p.at(), was)
			} else {
				ids := &identifier{rd, rn, p.meter}
				id, refused = ids.identify(p.request("GET", "/"), p.at(), was, p.clock.Now())
			}
			got := "client"
			switch {
			case refused != nil:
				got = refused.code
			case id.isAnonymous():
				got = "anonymous"
			case id.session != nil:
				got = "session"
			}
			if got != want {
				t.Errorf("%s, %s: %s, want %s", c.what, stage, got, want)
			}
		}
		await(t, c.what+": the renewals", func() bool { return int(asked.requests.Load()) == c.renewals })
	}
}

// TestFetchedAheadIdentifies: what is fetched ahead has no token renewed that lives, and one that has died.
func TestFetchedAheadIdentifies(t *testing.T) {
	for after, want := range map[time.Duration]int{57 * time.Minute: 0, 2 * time.Hour: 1} {
		synctest.Test(t, func(t *testing.T) {
			p := newParts(t)
			k, cookie := p.session(func(s *session) { s.refresh = "refresh" })
			asked := &renewalParts{record: k.session}
			rn := asked.renewer(p.clock.Now)
			p.clock.Add(after)
			ids := &identifier{reader{sessions: p.keeper, now: p.clock.Now}, rn, p.meter}
			id, refused := ids.identify(p.request("GET", "/", "Sec-Purpose", "prefetch"), p.at(),
				&sent{cookies: []string{cookie}}, p.clock.Now())
			synctest.Wait() // for what goes on in the background
			if refused != nil || id.session == nil || len(asked.sent) != want {
				t.Errorf("after %s: %v, %v; the refresh tokens %q were sent, want %d", after, id, refused,
					asked.sent, want)
			}
		})
	}
}

// TestLacks: what access needs is granted, and not only asked for; all of it.
func TestLacks(t *testing.T) {
	token := unsigned(t, map[string]any{
		"scope": "read:things", "permissions": []string{"write:things"}, "roles": []string{"reader", "owner"},
		"email": "Ada@Example.com", "email_verified": true,
	})
	for _, c := range []struct {
		what    string
		rules   accessRules
		granted string // by the token answer
		want    string
	}{
		{"nothing", accessRules{}, "", ""},
		{"the token's own scope", accessRules{scopes: []string{"read:things"}}, "", ""},
		{"a permission", accessRules{scopes: []string{"write:things"}}, "", ""},
		{"what the answer grants", accessRules{scopes: []string{"openid"}}, "openid", ""},
		{"one of two", accessRules{scopes: []string{"read:things", "delete:things"}}, "", "insufficient_scope"},
		{"a part of a scope's name", accessRules{scopes: []string{"read"}}, "", "insufficient_scope"},
		{"a role", accessRules{claims: []claimRule{{"roles", []string{"admin", "owner"}}}}, "", ""},
		{"another role", accessRules{claims: []claimRule{{"roles", []string{"admin"}}}}, "", "insufficient_claim"},
		{"an address of the domain", accessRules{claims: []claimRule{{"email", []string{"*@example.com"}}}}, "", ""},
		{"an address of another", accessRules{claims: []claimRule{{"email", []string{"*@ample.com"}}}}, "",
			"insufficient_claim"},
		{"a role, and a claim that is not there", accessRules{claims: []claimRule{
			{"roles", []string{"owner"}}, {"org", []string{"acme"}},
		}}, "", "insufficient_claim"},
	} {
		got := ""
		if refused := c.rules.lacks(identity{grant: &grant{bearer: bearer + token, scope: c.granted}}); refused !=
			nil {
			got = refused.code
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestServerSessionOfTwoTokens: of two tokens that name different sessions at the authorization server, the ID token's
// counts, by which logout tokens go (OpenID Connect Back-Channel Logout 1.0, section 2.4).
func TestServerSessionOfTwoTokens(t *testing.T) {
	for _, c := range []struct{ access, id, want string }{
		{`{"sid":"a"}`, `{"sid":"b"}`, "b"}, {`{"sid":"a"}`, `{}`, "a"}, {`{"sid":"a"}`, ``, "a"},
		{`{}`, `{"sid":"b"}`, "b"}, {`{}`, `{}`, ""},
	} {
		g := &grant{
			bearer:  bearer + "e30." + base64.RawURLEncoding.EncodeToString([]byte(c.access)) + ".c2ln",
			idToken: c.id,
		}
		if got := g.serverSession(); got != c.want {
			t.Errorf("access token %s, ID token %s: %q, want %q", c.access, c.id, got, c.want)
		}
	}
}

// TestIDIsAsItCame: no two people have the same id in a placeholder, which some letters of one less would make.
func TestIDIsAsItCame(t *testing.T) {
	for sub, want := range map[string]string{
		"auth0|ada\nlovelace": "auth0|ada\nlovelace",
		"auth0|\nada\t":       "auth0|\nada\uFFFD", // a header would lose the tab at its end
	} {
		user := &grant{bearer: bearer + unsigned(t, map[string]any{"sub": sub})}
		for _, name := range []string{"id", "sub"} {
			if got := fmt.Sprint(user.known(name)); got != want {
				t.Errorf("%s of %q is %q", name, sub, got)
			}
		}
	}
}
