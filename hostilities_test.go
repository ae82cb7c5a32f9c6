package aventusauth

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// What the authorization server may do to us is all here: it is another's machine,
// it may be broken, and it may have been taken over. Whatever it answers, the
// visitor gets a plain error or a session, the operator one clean line that says
// why, and the server keeps nothing of it.

// hostility is one way to answer a request badly, and what comes of it.
type hostility struct {
	name  string
	fault aventustest.Fault
	want  failure // of the login; without a code, it works
	why   string  // what the log says,
	do    string  // and a word of what it says to do about it
	// spent: the answer refuses a refresh token, or leaves open what has become of it, so it is
	// not sent again.
	spent bool
	lives time.Duration // the session, where the login works
}

// hostilities returns what is tried at the token endpoint.
func hostilities(token, redirectTo string, written *atomic.Int64) []hostility {
	const (
		answered = "the token endpoint answered 200: "
		answer   = answered + "the token answer "
	)
	html := "<html><script>alert(1)</script>" + token
	good := `{"access_token":"` + token + `","token_type":"Bearer","expires_in":86400}`
	asForm := "access_token=" + token + "&token_type=Bearer&expires_in=86400"
	says := aventustest.Says
	grants := func(field, value string) aventustest.Fault { return aventustest.Grants(token, field, value) }
	// bad is an answer of success that is none.
	bad := func(name string, fault aventustest.Fault, why string) hostility {
		return hostility{name: name, fault: fault, want: errToken, why: why,
			do: "this may not be a token endpoint", spent: true}
	}
	lives := func(name string, fault aventustest.Fault, lives time.Duration) hostility {
		return hostility{name: name, fault: fault, lives: lives}
	}
	twice := func(name, fields string) hostility {
		body := strings.Replace(good, "{", "{"+fields+",", 1)
		return bad(name+" twice", says(200, body), answer+"has a name twice")
	}
	all := []hostility{
		{name: "500 without a body", fault: says(500, ""), want: errToken, why: "the token endpoint answered 500",
			do: "status"},
		{name: "502 with a page", fault: says(502, html, "Content-Type", "text/html"), want: errToken,
			why: "the token endpoint answered 502", do: "status"},
		{name: "503", fault: says(503, html), want: errServerBusy, why: "the token endpoint answered 503",
			do: "down for now"},
		{name: "429", fault: says(429, ""), want: errServerBusy, why: "the token endpoint answered 429", do: "quota"},
		{name: "429 with Retry-After", fault: says(429, "{}", "Retry-After", "86400"), want: errServerBusy,
			why: "the token endpoint answered 429", do: "quota"},
		{name: "an echo in colours", fault: aventustest.Echoes, want: errToken,
			why: "the token endpoint answered 400 invalid_request???[2J: ?[31m?31m?? You sent {"},
		{
			name: "an echo that is no HTTP", fault: aventustest.Garbles, want: errToken, spent: true,
			why: "the token endpoint: no answer came to the request: net/http: HTTP/1.x transport connection " +
				"broken: malformed MIME header", do: "can reach",
		},

		bad("HTML with 200", says(200, html, "Content-Type", "text/html"), answer+"is not a JSON object"),
		bad("HTML that calls itself JSON", says(200, html, "Content-Type", "application/json"),
			answer+"is not a JSON object"),
		bad("nothing", says(200, ""), answer+"is not a JSON object"),
		bad("truncated JSON", says(200, good[:len(good)-1]), answer+"is not valid JSON"),
		{name: "an answer that breaks off", fault: says(200, good, "Content-Length", "1000"), want: errToken,
			why: "the token endpoint: no answer came to the request: reading the answer: unexpected EOF",
			do:  "can reach", spent: true},
		bad("[]", says(200, "[]"), answer+"is not a JSON object"),
		bad("null", says(200, "null"), answer+"is not a JSON object"),
		bad("a form", says(200, asForm, "Content-Type", "application/x-www-form-urlencoded"),
			answer+"is not a JSON object"),
		bad("a form as text", says(200, asForm, "Content-Type", "text/plain"), answer+"is not a JSON object"),
		bad("10 GB", aventustest.Endless(written), answer+"is larger than 1 MiB"),
		bad("a gzip bomb", says(200, gzipBomb(), "Content-Encoding", "gzip"), answer+"is larger than 1 MiB"),

		bad("token_type missing", grants("token_type", ""), answered+"the token answer's token_type is not Bearer"),
		bad("token_type mac", grants("token_type", `"mac"`), answered+"the token answer's token_type is not Bearer"),
		bad("token_type null", grants("token_type", "null"), answered+"the token answer's token_type is not Bearer"),
		bad("token_type a list", grants("token_type", `["Bearer"]`),
			answered+"the token answer's token_type is not Bearer"),
		lives("token_type Bearer", grants("token_type", `"Bearer"`), 24*time.Hour),
		lives("token_type bearer", grants("token_type", `"bearer"`), 24*time.Hour),
		lives("token_type BEARER", grants("token_type", `"BEARER"`), 24*time.Hour),
		lives("token_type bEaReR", grants("token_type", `"bEaReR"`), 24*time.Hour),

		lives("expires_in a string", grants("expires_in", `"7200"`), 2*time.Hour),
		lives("expires_in missing", grants("expires_in", ""), time.Hour),
		lives("expires_in 3600.5", grants("expires_in", "3600.5"), time.Hour),
		lives("expires_in 9e18", grants("expires_in", "9e18"), 24*time.Hour),
		bad("expires_in 0", grants("expires_in", "0"), answered+"the token answer's expires_in is not positive"),
		bad("expires_in -1", grants("expires_in", "-1"), answered+"the token answer's expires_in is not positive"),
		bad("expires_in 1e400", grants("expires_in", "1e400"), answered+"the token answer's expires_in is not finite"),
		bad("expires_in soon", grants("expires_in", `"soon"`), answered+"the token answer's expires_in is no number"),

		bad("a token missing", grants("access_token", ""), answer+"has no access_token"),
		bad("a token empty", grants("access_token", `""`), answer+"has no access_token"),
		{
			name: "a token of 100 KB", fault: grants("access_token", `"`+padded(token, 75<<10)+`"`),
			want: errTokenTooLong, why: errTooLarge.Error(), do: "put less into its tokens", spent: true,
		},

		twice("access_token", `"access_token":"another"`),
		twice("token_type", `"token_type":"mac"`),
		twice("expires_in", `"expires_in":1`),
		twice("a name that is written in another way", `"access_toke\u006e":"another"`),
	}
	for name, inJSON := range map[string]string{
		"CR": `\r`, "LF": `\n`, "a header": `\r\nX-Admin: yes`, "NUL": `\u0000`, "ü": `ü`, "ü in escapes": `\u00fc`,
		"a space": ` `, "DEL": `\u007f`,
	} {
		all = append(all, bad("a token with "+name, grants("access_token", `"`+token+inJSON+`x"`),
			answered+"the access token holds a byte that no Authorization header may hold"))
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		all = append(all, hostility{
			name: fmt.Sprint("a redirect, ", status), fault: says(status, html, "Location", redirectTo),
			want: errToken, why: fmt.Sprint("the token endpoint answered ", status), do: "redirect",
		})
	}
	return all
}

// hostileToken is the access token that the hostile server gives out. It is what was
// asked for, so what is odd about an answer is elsewhere.
func (w *world) hostileToken() string {
	return w.issuer.SignJWT(map[string]any{
		"iss": w.issuer.Issuer, "aud": "https://api.example.com/", "sub": "auth0|ada",
	})
}

// padded returns a JWT with spaces at the end of its payload.
func padded(token string, spaces int) string {
	parts := strings.Split(token, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1]) // it was signed here
	parts[1] = base64.RawURLEncoding.EncodeToString(append(payload, bytes.Repeat([]byte(" "), spaces)...))
	return strings.Join(parts, ".")
}

// gzipBomb returns spaces, compressed, which net/http unpacks unasked. Whoever unpacks
// all four megabytes finds that they break off, and says so.
func gzipBomb() string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write(bytes.Repeat([]byte(" "), 4<<20)) // never fails: it is memory
	_ = zw.Flush()
	return b.String()
}

// elsewhere is another host, which notes who comes, and gives a good answer to those
// who follow a redirect to it.
type elsewhere struct {
	*httptest.Server
	visits atomic.Int64
}

func newElsewhere(t *testing.T, answer aventustest.Fault) *elsewhere {
	e := new(elsewhere)
	e.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		e.visits.Add(1)
		answer(rw, r)
	}))
	t.Cleanup(e.Close)
	// By this name it is another host to the one that sends here.
	e.URL = strings.Replace(e.URL, "127.0.0.1", "localhost", 1)
	return e
}

func (e *elsewhere) expectNobody(t *testing.T) {
	t.Helper()
	if n := e.visits.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect to another host", n)
	}
}
