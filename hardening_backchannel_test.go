package aventusauth

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestLogoutDuringLogin: who is signed out at the authorization server while their login is on its way back
// does not get a session of it. The login starts over, once.
func TestLogoutDuringLogin(t *testing.T) {
	for _, noSID := range []bool{false, true} {
		w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) { s.NoSID = noSID }})
		b := w.browser()
		callback := b.begin("/page")
		w.issuer.LogOut("auth0|ada")
		a := b.get(callback)
		w.expect(a, http.StatusFound)
		if !strings.HasPrefix(a.location(), w.issuer.Issuer+"authorize?") || a.cookie("aventus_session") != nil {
			t.Fatalf("the callback answers %v", a.Header)
		}
		again := b.get(a.location()).location()
		w.issuer.LogOut("auth0|ada") // and again
		a = b.get(again)
		w.expect(a, http.StatusBadRequest)
		if !strings.HasPrefix(a.body, "login_lost") || a.cookie("aventus_session") != nil {
			t.Errorf("the callback answers %s", a.body)
		}
		w.clock.Add(3 * time.Second)
		if noSID {
			b.loginAgain("/page")
		} else {
			b.login("/page")
		}
		w.expect(b.get("/page"), http.StatusOK)
	}
}

// TestLogoutDuringLoginOfClockAhead: a login that began by the clock of an instance that is ahead, before all
// sessions of the user ended, makes none. It starts over, and whoever signs in again gets in.
func TestLogoutDuringLoginOfClockAhead(t *testing.T) {
	for _, noSID := range []bool{false, true} {
		w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) { s.NoSID = noSID }})
		b := w.browser()
		w.clock.Add(4 * time.Minute)
		callback := b.begin("/page")
		w.clock.Add(-4 * time.Minute)
		sid := ""
		if noSID {
			sid = "of another session"
		}
		w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", sid), http.StatusOK)
		a := b.get(callback)
		w.expect(a, http.StatusFound)
		if a.cookie("aventus_session") != nil {
			t.Errorf("the callback answers %v", a.Header)
		}
		w.expect(b.get(b.get(a.location()).location()), http.StatusSeeOther)
		w.expect(b.get("/page"), http.StatusOK)
	}
}

// TestForgedLogoutToken: nothing but a good logout token, by itself in a form, ends anything.
func TestForgedLogoutToken(t *testing.T) {
	var edit func(header, claims map[string]any)
	w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) {
		s.EditLogout = func(header, claims map[string]any) {
			if edit != nil {
				edit(header, claims)
			}
		}
	}})
	b := w.browser()
	b.login("/")
	sid := b.sid()
	token := func(change func(header, claims map[string]any)) string {
		edit = change
		return w.issuer.LogoutToken("the-client", "auth0|ada", sid)
	}
	good := token(nil)
	parts := strings.Split(good, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	for name, forged := range map[string]string{
		"nothing": "", "no JWT": "x", "no signature": unsigned, "a cut signature": good[:len(good)-4],
		"for another client": w.issuer.LogoutToken("another", "auth0|ada", sid),
		"of another issuer":  token(func(_, claims map[string]any) { claims["iss"] = "https://evil.test/" }),
		"with a nonce":       token(func(_, claims map[string]any) { claims["nonce"] = "x" }),
		"without events":     token(func(_, claims map[string]any) { delete(claims, "events") }),
		"for another event": token(func(_, claims map[string]any) {
			claims["events"] = map[string]any{"x": map[string]any{}}
		}),
		"without jti": token(func(_, claims map[string]any) { delete(claims, "jti") }),
		"without iat": token(func(_, claims map[string]any) { delete(claims, "iat") }),
		"expired": token(func(_, claims map[string]any) {
			claims["exp"] = w.clock.Now().Add(-time.Hour).Unix()
		}),
		"old": token(func(_, claims map[string]any) {
			claims["iat"] = w.clock.Now().Add(-time.Hour).Unix()
		}),
		"for nobody":      token(func(_, claims map[string]any) { delete(claims, "sub"); delete(claims, "sid") }),
		"an access token": token(func(header, _ map[string]any) { header["typ"] = "at+jwt" }),
		"too long":        strings.Repeat("x", 70<<10),
	} {
		edit = nil
		if d := w.tellsOut(forged); d.Status != http.StatusBadRequest ||
			!strings.Contains(d.Body, `"error":"invalid_request"`) {
			t.Errorf("%s: %d %s", name, d.Status, d.Body)
		}
	}
	form := func(pairs ...string) string {
		values := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			values.Add(pairs[i], pairs[i+1])
		}
		return values.Encode()
	}
	inQuery := "?logout_token=" // so that nothing looks like a token in Caddy's log
	for _, c := range []byte(good) {
		inQuery += fmt.Sprintf("%%%02X", c)
	}
	const formType = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		method, query, kind, body string
		status                    int
	}{
		"by GET":          {"GET", inQuery, "", "", 405},
		"by PUT":          {"PUT", "", formType, form("logout_token", good), 405},
		"in the query":    {"POST", inQuery, formType, "", 400},
		"twice":           {"POST", "", formType, form("logout_token", good, "logout_token", good), 400},
		"as JSON":         {"POST", "", "application/json", `{"logout_token":"` + good + `"}`, 400},
		"without a type":  {"POST", "", "", form("logout_token", good), 400},
		"as a whole form": {"POST", "", "multipart/form-data; boundary=x", form("logout_token", good), 400},
		"badly encoded":   {"POST", "", formType, "logout_token=" + good + "&x=%zz", 400},
	} {
		req, _ := http.NewRequest(c.method, w.site+backchannelPath+c.query, strings.NewReader(c.body))
		if c.kind != "" {
			req.Header.Set("Content-Type", c.kind)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.status)
		}
	}
	w.expect(b.get("/"), http.StatusOK)
	w.expectTold(good, http.StatusOK)
	w.expect(b.get("/"), http.StatusFound)
}

// TestIDTokenIsNoLogoutToken: an ID token, which the browser's owner may have elsewhere, ends nothing.
func TestIDTokenIsNoLogoutToken(t *testing.T) {
	var idToken string
	w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) {
		s.EditAnswer = func(_ string, answer map[string]any) { idToken, _ = answer["id_token"].(string) }
	}})
	b := w.browser()
	b.login("/")
	w.expectTold(idToken, http.StatusBadRequest)
	w.expect(b.get("/"), http.StatusOK)
}

// TestLogoutTokenAfterRenewal: at the login, both tokens name the session at the server. After a renewal, the access
// token does not any more, and a logout token that names that session alone ends what came of it.
func TestLogoutTokenAfterRenewal(t *testing.T) {
	inAccess := map[string]any{"sid": "the-sid"}
	w := toldOfLogouts(t, setup{block: "scope offline_access", issuer: func(s *aventustest.Server) {
		s.TokenLifetime = time.Hour
		s.Claims = func(aventustest.User) map[string]any { return inAccess }
		s.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"sid": "the-sid"} }
	}})
	b := w.browser()
	b.login("/")
	inAccess = nil
	w.clock.Add(61 * time.Minute)
	w.expect(b.get("/"), http.StatusOK)
	w.expectTold(w.issuer.LogoutToken("the-client", "", "the-sid"), http.StatusOK)
	w.expect(b.get("/"), http.StatusFound)
}

// TestReplayedLogoutToken: a token that was seen on the way signs nobody out again.
func TestReplayedLogoutToken(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	b := w.browser()
	b.login("/")
	token := w.issuer.LogoutToken("the-client", "auth0|ada", "")
	w.expectTold(token, http.StatusOK)
	w.clock.Add(time.Second)
	b.loginAgain("/")
	w.clock.Add(5 * time.Minute)
	w.expectTold(token, http.StatusBadRequest)
	w.restart()
	w.expectTold(token, http.StatusBadRequest)
	w.expect(b.get("/"), http.StatusOK)
}

// TestLogoutTokenReadsNoCookie: whoever gets a browser to send a form there ends none of its sessions, and the
// answer sets and deletes no cookie.
func TestLogoutTokenReadsNoCookie(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	b := w.browser()
	b.login("/")
	a := b.do("POST", backchannelPath, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Site", "same-origin",
		"Accept", "text/html",
		"Content-Type", "application/x-www-form-urlencoded")
	w.expect(a, http.StatusBadRequest)
	if a.Header["Set-Cookie"] != nil || a.Header.Get("Vary") == "" {
		t.Errorf("%v", a.Header)
	}
	w.expect(b.get("/"), http.StatusOK)
}

// breakEnds puts a file where the storage has the directory of what has ended.
func breakEnds(t *testing.T, w *world) (restore func()) {
	t.Helper()
	dir := filepath.Join(w.dir, "storage", "aventus_auth", "ended")
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestLogoutTokenUnrecorded: where the end cannot be written, the answer says so, the session has ended here
// all the same, and the same token may come again.
func TestLogoutTokenUnrecorded(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	b := w.browser()
	b.login("/")
	token := w.issuer.LogoutToken("the-client", "auth0|ada", b.sid())
	restore := breakEnds(t, w)
	w.expectTold(token, http.StatusServiceUnavailable)
	w.expect(b.get("/"), http.StatusFound)
	if strings.Contains(w.log(), "signed out by the authorization server") {
		t.Error("the log says that an end was recorded which was not")
	}
	restore()
	w.expectTold(token, http.StatusOK)
	w.expectTold(token, http.StatusBadRequest)
}

// TestLogoutTokenAtOnce: what a good token names has ended here while the storage hangs, also before its id could
// be noted; and one that was seen on the way, and comes again in such a time, signs nobody out.
func TestLogoutTokenAtOnce(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	w.onEngine()
	hang := func() (leave func()) {
		hanging := make(chan struct{})
		fault := func(string, string) error { <-hanging; return nil }
		engineFault.Store(&fault)
		return func() { engineFault.Store(nil); close(hanging) }
	}
	b := w.browser()
	for i, bySub := range []bool{false, true} {
		b.login("/")
		sid := b.sid()
		if bySub {
			sid = ""
		}
		token := w.issuer.LogoutToken("the-client", "auth0|ada", sid)
		leave := hang()
		t.Cleanup(func() { engineFault.Store(nil) })
		w.expectTold(token, http.StatusServiceUnavailable)
		w.expect(b.get("/api"), http.StatusFound)
		leave()
		await(t, "the end", func() bool {
			return strings.Count(w.log(), "signed out by the authorization server") == i+1
		})
		if bySub {
			w.clock.Add(time.Second)
			b.loginAgain("/")
			leave = hang()
			w.tellsOut(token)
			w.expect(b.get("/"), http.StatusOK)
			leave()
		}
	}
}

// keysThatHang starts a world whose authorization server keeps those waiting who ask for its keys, while hangs is
// set and until leave is closed.
func keysThatHang(t *testing.T) (w *world, hangs *atomic.Bool, leave chan struct{}) {
	hangs, leave = new(atomic.Bool), make(chan struct{})
	w = toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(http.ResponseWriter, *http.Request) bool {
			if hangs.Load() {
				<-leave
			}
			return false
		}
	}})
	return w, hangs, leave
}

// TestMadeUpLogoutTokens: tokens that anybody can make up, and that wait for keys which do not come, keep no
// good one from being heard.
func TestMadeUpLogoutTokens(t *testing.T) {
	w, hangs, leave := keysThatHang(t)
	b := w.browser()
	b.login("/")
	good := w.issuer.LogoutToken("the-client", "auth0|ada", b.sid())
	w.clock.Add(time.Minute) // the keys may be fetched again
	hangs.Store(true)
	defer close(leave)
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"nobody's"}`))
	parts := strings.Split(good, ".")
	madeUp := header + "." + parts[1] + "." + parts[2]
	var asked sync.WaitGroup
	for range logoutsAtOnce + 8 {
		asked.Go(func() {
			if d := w.issuer.Deliver(w.site+backchannelPath, "the-client", madeUp); d.Status != 503 {
				t.Errorf("a token that waits for keys got %d %s %v", d.Status, d.Body, d.Err)
			}
		})
	}
	asked.Wait() // they still wait for the keys
	w.expectTold(good, http.StatusOK)
	w.expect(b.get("/"), http.StatusFound)
}

// TestLogoutTokenNotNoted: where it cannot be noted that a token was used, the session ends, and the answer says that
// something failed: the same token may come again.
func TestLogoutTokenNotNoted(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	w.onEngine()
	b := w.browser()
	b.login("/")
	token := w.issuer.LogoutToken("the-client", "auth0|ada", b.sid())
	recovers := faultAt(t, "store", "aventus_auth/spent")
	w.expectTold(token, http.StatusServiceUnavailable)
	w.expect(b.get("/"), http.StatusFound)
	recovers()
	w.expectTold(token, http.StatusOK)
	w.expectTold(token, http.StatusBadRequest)
}

// TestLogoutTokenInTime: a server that keeps its keys waiting gets its answer within a second, and what it
// said holds when the keys have come.
func TestLogoutTokenInTime(t *testing.T) {
	w, hangs, leave := keysThatHang(t)
	b := w.browser()
	b.login("/")
	w.issuer.RotateKey()
	w.clock.Add(time.Minute) // the keys may be fetched again
	hangs.Store(true)
	began := time.Now()
	w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", ""), http.StatusServiceUnavailable)
	if took := time.Since(began); took > 3*time.Second { // a loaded machine
		t.Errorf("the answer took %s", took)
	}
	close(leave)
	await(t, "the end", func() bool { return strings.Contains(w.log(), "signed out by the authorization server") })
	w.expect(b.get("/"), http.StatusFound)
}

// TestLogoutTokenWithoutKeys: a good token whose key cannot be fetched gets its answer at once, and holds as soon as
// the keys can be had: it is not sent again.
func TestLogoutTokenWithoutKeys(t *testing.T) {
	var down atomic.Bool
	w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) {
		s.JWKSFault = func(w http.ResponseWriter, r *http.Request) bool {
			return down.Load() && aventustest.Says(http.StatusServiceUnavailable, "")(w, r)
		}
	}})
	b := w.browser()
	b.login("/")
	w.issuer.RotateKey()
	w.clock.Add(time.Minute) // the keys may be fetched again
	down.Store(true)
	w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", b.sid()), http.StatusServiceUnavailable)
	if !strings.Contains(w.log(), "the key set answered 503") {
		t.Errorf("the log does not say why:\n%s", w.log())
	}
	w.expect(b.get("/"), http.StatusOK)
	down.Store(false)
	w.clock.Add(time.Minute)
	await(t, "the end", func() bool { return strings.Contains(w.log(), "signed out by the authorization server") })
	w.expect(b.get("/"), http.StatusFound)
}

// TestLogoutTokenThatDrips: a request whose body does not end is answered within a second, too, and holds nothing up.
func TestLogoutTokenThatDrips(t *testing.T) {
	w := toldOfLogouts(t, setup{https: true})
	for _, isHTTP2 := range []bool{false, true} {
		body, rest := io.Pipe()
		go func() { _, _ = rest.Write([]byte("logout_token=ey")) }()
		ends := time.AfterFunc(5*time.Second, func() { rest.Close() })
		req, _ := http.NewRequest(http.MethodPost, w.site+backchannelPath, body)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: isHTTP2,
		}
		began := time.Now()
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 3*time.Second { // a loaded machine
			t.Errorf("the answer took %s", took)
		}
		if resp.StatusCode != http.StatusBadRequest || isHTTP2 != (resp.ProtoMajor == 2) {
			t.Errorf("%s: %d", resp.Proto, resp.StatusCode)
		}
		resp.Body.Close()
		ends.Stop()
		rest.Close()
		transport.CloseIdleConnections()
	}
}

// TestLogoutTokenOfMany: a good token that comes while too many are at work is not taken. What it names has ended
// here all the same, and soon everywhere.
func TestLogoutTokenOfMany(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	b := w.browser()
	b.login("/")
	sid := b.sid()
	token := w.issuer.LogoutToken("the-client", "auth0|ada", sid)
	bc := handlers()[0].house.gate.backchannel
	w.expectTold(w.issuer.LogoutToken("the-client", "auth0|bob", ""), http.StatusOK)
	await(t, "room for others", func() bool { return len(bc.busy) == 0 })
	for range logoutsAtOnce {
		bc.busy <- struct{}{}
	}
	w.expectTold(token, http.StatusServiceUnavailable)
	w.expect(b.get("/"), http.StatusFound)
	for range logoutsAtOnce {
		<-bc.busy
	}
	name := serverSessionID(bc.ends.issuer, sid)
	await(t, "the end to be written", func() bool { return !bc.ends.ended.IsUnwritten(name) })
	w.restart()
	w.expect(b.get("/"), http.StatusFound)
}

// TestLogoutTokenNotedAlone: an instance has noted that a token is used, and died before it wrote what the token ends.
// When the token comes again, that is written.
func TestLogoutTokenNotedAlone(t *testing.T) {
	for _, bySub := range []bool{false, true} {
		var jti string
		w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) {
			s.EditLogout = func(_, claims map[string]any) { jti, _ = claims["jti"].(string) }
		}})
		b := w.browser()
		b.login("/")
		sid := b.sid()
		if bySub {
			sid = ""
		}
		token := w.issuer.LogoutToken("the-client", "auth0|ada", sid)
		bc := handlers()[0].house.gate.backchannel
		if first, err := bc.used.Use(idOf("logout", bc.ends.issuer, jti)); err != nil || !first {
			t.Fatalf("%t, %v", first, err)
		}
		w.expectTold(token, http.StatusOK)
		w.expectTold(token, http.StatusBadRequest)
		w.restart()
		w.expect(b.get("/"), http.StatusFound)
		w.expectTold(token, http.StatusBadRequest)
	}
}

// TestReplayedLogoutTokenElsewhere: a token that another instance has taken a moment ago is refused here, and whoever
// has signed in since stays signed in.
func TestReplayedLogoutTokenElsewhere(t *testing.T) {
	w := twoInstances(t, setup{block: "profile /me\nbackchannel_logout " + backchannelPath})
	w.partInstances()
	b := w.browser()
	b.login("/one/")
	handlers()[1].house.keeper.ends.ended.Begin() // it learns what has ended by now
	token := w.issuer.LogoutToken("the-client", "auth0|ada", "")
	w.expectTold(token, http.StatusOK)
	b.loginAgain("/one/")
	w.expect(b.get("/one/"), http.StatusOK)
	if bc := handlers()[1].house.gate.backchannel; bc.end(t.Context(), mustVerify(t, bc, token)) == nil {
		t.Error("the token is taken twice")
	}
	for range 2 {
		for _, h := range handlers() {
			h.house.keeper.ends.learn(t.Context())
		}
		w.expect(b.get("/one/"), http.StatusOK)
	}
}

// mustVerify returns what a good token says, as a block reads it that receives it.
func mustVerify(t *testing.T, bc *backchannel, token string) aventus.Logout {
	t.Helper()
	said, err := bc.verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// TestLogoutAgainElsewhere: a login that has started over since the user was signed out, and comes back to another
// instance than one that has ended the user's sessions once more, makes no session.
func TestLogoutAgainElsewhere(t *testing.T) {
	w := toldOfLogouts(t, setup{issuer: func(s *aventustest.Server) { s.NoSID = true }})
	b := w.browser()
	callback := b.begin("/page")
	w.issuer.LogOut("auth0|ada")
	a := b.get(callback)
	w.expect(a, http.StatusFound)
	again := b.get(a.location()).location()
	house := handlers()[0].house
	storage := &hiding{certmagic.FileStorage{Path: filepath.Join(w.dir, "storage")}}
	ended := records.NewEnded(storage, records.NewClock(w.clock.Now, w.clock.Elapsed))
	t.Cleanup(func() { _ = ended.Destruct() })
	there := &ends{ended: ended, issuer: house.keeper.ends.issuer}
	said := aventus.Logout{Subject: "auth0|ada", Issued: w.clock.Now()}
	if err := there.endAt(t.Context(), said, w.clock.Now(), 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	a = b.get(again)
	w.expect(a, http.StatusBadRequest)
	if !strings.HasPrefix(a.body, "login_lost") || a.cookie("aventus_session") != nil {
		t.Errorf("the callback answers %s", a.body)
	}
}
