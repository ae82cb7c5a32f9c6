package aventusauth

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// callbackPairs reads what means something in a callback's query, as simply as can be.
// It reports false for what is not well-formed there, or is there twice: it means one
// thing here, and another to whoever reads it next.
func callbackPairs(query string) (map[string]string, bool) {
	pairs := make(map[string]string)
	isBroken := func(text string) bool {
		for i, rest := range strings.Split(text, "%") {
			if _, err := strconv.ParseUint(rest[:min(2, len(rest))], 16, 8); i > 0 && (err != nil || len(rest) < 2) {
				return true
			}
		}
		return false
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if isBroken(name) {
			continue
		}
		switch name = decoded(strings.ReplaceAll(name, "+", " ")); name {
		case "code", "state", "error", "error_description", "iss":
		case requestParam, ticketParam: // none is taken beside others, nor where there is one host
			return nil, false
		default:
			continue
		}
		if _, twice := pairs[name]; twice || isBroken(value) {
			return nil, false
		}
		pairs[name] = decoded(strings.ReplaceAll(value, "+", " "))
	}
	return pairs, true
}

// namesUnknownKey reports whether a state is as long as a state is, and names another key than that one does.
func namesUnknownKey(state, known string) bool {
	decode := func(state string) []byte {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimSuffix(state, ".1"))
		if err != nil {
			return nil
		}
		return raw
	}
	raw := decode(state)
	return !strings.ContainsAny(state, "\r\n") && len(raw) >= keyring.Overhead && raw[0] == 1 &&
		!bytes.Equal(raw[1:5], decode(known)[1:5])
}

// FuzzCallback looks for a callback that is answered otherwise than the table in
// docs/reference.md says, or that sends something to the token endpoint which was not to be
// sent. In the query, STATE stands for the state of a login that has just begun,
// STALE for an old one's, OTHER for one that began with another config, UNKNOWN for one whose key is not known, and
// SESSION for a cookie.
func FuzzCallback(f *testing.F) {
	const (
		sameBrowser = 1 << iota // the login began in it
		signedIn                // in another tab, say
		restarted               // the login was started again before
		byPost
		byHead
	)
	var mu sync.Mutex
	var asked []url.Values
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		mu.Lock()
		asked = append(asked, r.PostForm)
		mu.Unlock()
		_, _ = io.WriteString(w, `{"access_token":"opaque","token_type":"Bearer"}`)
	}))
	f.Cleanup(tokens.Close)
	b := newBare(f, Config{TokenURL: tokens.URL + "/token", TokenRequest: "form"})
	other := newBare(f, Config{Audience: "https://other.example.com/"})
	at := *b.house.gate.sites.fixed

	for _, query := range []string{
		"code=x&state=STATE", "state=STATE&code=%78+%2B&unknown=1",
		"error=access_denied&error_description=no&state=STATE",
		"error=temporarily_unavailable&state=STATE", "error=x&code=x&state=STATE", "state=STATE", "code=&state=STATE",
		"code=x&state=STALE",
		"error=x&state=STALE", "code=x&state=OTHER", "state=OTHER", "code=x&state=OTHER.1",
		"code=x&state=UNKNOWN", "error=x&state=UNKNOWN", "code=x&state=UNKNOWN.1", "code=x&state=UNKNOWN.1.1",
		"code=x&state=STATE.1", "code=x&state=SESSION", "code=x&state=STATE&state=STATE",
		"code=x&code=y&state=STATE",
		"code=x&state=STATEx", "code=x&state=xSTATE", "code=x;state=STATE",
		"code=x&state=STATE&iss=https://evil.test/", "error=x&state=STATE&iss=https://evil.test/",
		"code=x&state=STATE&iss=https%3A%2F%2Fauth.homelyfe.com", "code=x&state=STATE&%zz", "code=x&state=STATE%00",
		"co%64e=x&st%61te=STATE&code=y",
		"", "&&", "code=x&state=", "code=x", "error=&state=STATE", "code&state=STATE", "code=x&state=STATE&=1&=2",
		"code=x&scope=a;b&state=STATE&hint=100%&scope=c&%zz=1", "code=a;b&state=STATE", "code=%zz&state=STATE",
		"code=x&state=STATE&iss=%",
		"error=x&error_description=%&state=STATE", "error=x&error_description=a&error_description=a&state=STATE",
		"code=x&state=STATE%0A", "Code=x&state=STATE&code=y", "code=x&state=STATE&aventus_request=STATE",
		"aventus_ticket=STATE",
	} {
		for _, how := range []uint8{sameBrowser, 0, signedIn, sameBrowser | signedIn, restarted, byPost | sameBrowser,
			byHead | sameBrowser} {
			f.Add(query, how)
		}
	}
	begin := func(t *testing.T, b *bare, restarts uint8, cookie string) (state, challenge, binding string) {
		r := caddyhttp.PrepareRequest(httptest.NewRequest("GET", bareSite+"/page?x", nil), caddy.NewReplacer(), nil,
			new(caddyhttp.Server))
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		if err := b.house.logins.start(w, r, &login{returnTo: "/page?x", restarts: restarts},
			http.StatusFound); err != nil {
			t.Fatal(err)
		}
		binding, _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
		return query(w.Header().Get("Location"), "state"), query(w.Header().Get("Location"), "code_challenge"), binding
	}

	f.Fuzz(func(t *testing.T, template string, how uint8) {
		defer b.forget()
		restarts := uint8(0)
		if how&restarted != 0 {
			restarts = 1
		}
		state, challenge, binding := begin(t, b, restarts, "")
		stale, another := "", ""
		if strings.Contains(template, "STALE") {
			b.clock.Add(-loginLifetime - time.Second)
			stale, _, _ = begin(t, b, restarts, binding)
			b.clock.Add(loginLifetime + time.Second)
		}
		if strings.Contains(template, "OTHER") {
			another, _, _ = begin(t, other, restarts, binding)
		}
		session := b.signIn(t, at)
		_, cookie, _ := strings.Cut(session, "=")

		method := "GET"
		switch {
		case how&byPost != 0:
			method = "POST"
		case how&byHead != 0:
			method = "HEAD"
		}
		var cookies []string
		if how&sameBrowser != 0 {
			cookies = append(cookies, binding)
		}
		if how&signedIn != 0 {
			cookies = append(cookies, session)
		}
		unknown := base64.RawURLEncoding.EncodeToString(append([]byte{1}, make([]byte, 100)...))
		sent := strings.NewReplacer("STATE", state, "STALE", stale, "OTHER", another, "SESSION", cookie,
			"UNKNOWN", unknown).Replace(template)

		// What the answer has to be, and the code that is to be sent.
		params, ok := callbackPairs(sent)
		old := stale != "" && params["state"] == stale
		genuine := ok && (params["state"] == state || old)
		code, hasCode := params["code"]
		refused, hasError := params["error"]
		iss, hasIss := params["iss"]
		// What cannot be read may have begun in this browser all the same; it returns to the page that it tells of.
		isUnknown := ok && namesUnknownKey(params["state"], state)
		lost := how&sameBrowser != 0 && (isUnknown || ok && another != "" && params["state"] == another)
		page, again := "/page?x", restarts > 0
		if isUnknown {
			page, again = "/", strings.HasSuffix(params["state"], ".1")
		}
		want, sends := http.StatusBadRequest, ""
		switch {
		case method != "GET":
			want = http.StatusMethodNotAllowed
		case !genuine && !lost, hasCode == hasError, code == "" && refused == "":
		case lost && how&signedIn != 0:
			want = http.StatusSeeOther
		case lost && !again:
			want = http.StatusFound
		case lost:
		case hasIss && iss != "https://auth.homelyfe.com" && iss != "https://auth.homelyfe.com/":
		case (old || how&sameBrowser == 0) && how&signedIn != 0:
			want = http.StatusSeeOther
		case (old || how&sameBrowser == 0) && restarts == 0:
			want = http.StatusFound
		case old || how&sameBrowser == 0:
		case refused == "access_denied":
			want = http.StatusForbidden
		case refused != "" && how&signedIn != 0:
			want = http.StatusSeeOther
		case refused == "temporarily_unavailable":
			want = http.StatusServiceUnavailable
		case refused != "":
			want = http.StatusBadGateway
		default:
			want, sends = http.StatusSeeOther, code
		}

		for round := range 2 {
			mu.Lock()
			asked = nil
			mu.Unlock()
			a, ok := b.serve(t, method, "/oauth2/callback?"+sent, "example.com", "Cookie", strings.Join(cookies, "; "),
				"Sec-Fetch-Mode", "navigate")
			if !ok {
				return // net/http's 400
			}
			if round > 0 && sends != "" {
				sends = ""              // it was sent
				want = http.StatusFound // and the session that the browser brought was replaced
			}
			if a.StatusCode != want || b.passed {
				t.Fatalf("status %d, want %d; passed on: %t", a.StatusCode, want, b.passed)
			}
			switch {
			case want == http.StatusFound:
				if got := landsAt(t, bareSite, a.location()); got != "https://auth.homelyfe.com" {
					t.Fatalf("%s leads to %s", a.location(), got)
				}
			case want == http.StatusSeeOther:
				if a.location() != bareSite+page {
					t.Fatalf("back to %s", a.location())
				}
			case a.Header["Location"] != nil || a.Header["Set-Cookie"] != nil:
				t.Fatalf("status %d, %v", a.StatusCode, a.Header)
			}
			if got := a.cookie("__Host-aventus_session"); (got != nil) != (sends != "") {
				t.Fatalf("Set-Cookie %q", a.Header["Set-Cookie"])
			}
			if got := a.Header.Get("Cache-Control"); got != "no-store" {
				t.Fatalf("Cache-Control %q", got)
			}

			mu.Lock()
			got := asked
			mu.Unlock()
			if sends == "" {
				if len(got) != 0 {
					t.Fatalf("the token endpoint was sent %v", got)
				}
				continue
			}
			sum := sha256.Sum256([]byte(got[0].Get("code_verifier")))
			wantSent := url.Values{
				"grant_type": {"authorization_code"}, "client_id": {"the-client"}, "client_secret": {testSecret},
				"redirect_uri": {bareSite + "/oauth2/callback"}, "code": {sends},
				"code_verifier": got[0]["code_verifier"],
			}
			if len(got) != 1 || got[0].Encode() != wantSent.Encode() ||
				base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
				t.Fatalf("the token endpoint was sent %v", got)
			}
		}
	})
}
