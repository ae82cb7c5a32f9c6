package aventusauth

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestPassage: what the next handler finds in the header, by what the client sent, whose request it is and
// where the token goes on.
func TestPassage(t *testing.T) {
	for _, c := range []struct {
		what, tokenHeader string
		takesBearers      bool
		isAnonymous       bool
		sent              []string
		want              map[string]string // empty: not there
	}{
		{"a session", "Authorization", false, false, nil, map[string]string{"Authorization": "Bearer opaque"}},
		{"a session beside a password", "Authorization", false, false, []string{"Authorization", "Basic eDp5"},
			map[string]string{"Authorization": "Bearer opaque"}},
		{"nobody with a password", "Authorization", false, true, []string{"Authorization", "Basic eDp5"},
			map[string]string{"Authorization": ""}},
		{"a header of its own", "X-Token", false, false, []string{"Authorization", "Basic eDp5", "X_token", "forged"},
			map[string]string{"X-Token": "opaque", "Authorization": "Basic eDp5", "X_token": ""}},
		{"a header of its own, nobody", "X-Token", false, true, []string{"X-Token", "forged"},
			map[string]string{"X-Token": ""}},
		{"a header of its own, and a token that was not verified", "X-Token", true, false,
			[]string{"Authorization", "Bearer forged"}, map[string]string{"X-Token": "opaque", "Authorization": ""}},
		{"a header of its own, and such a token in the second line", "X-Token", true, false,
			[]string{"Authorization", "Basic eDp5", "Authorization", "Bearer forged"},
			map[string]string{"X-Token": "opaque", "Authorization": ""}},
		{"a header of its own that Connection names", "X-Token", false, false,
			[]string{"Authorization", "Basic eDp5", "Connection", "Authorization, X-Token"},
			map[string]string{"X-Token": "opaque", "Authorization": "", "Connection": ""}},
		{"no header", "", false, false, []string{"Authorization", "Basic eDp5"},
			map[string]string{"Authorization": "Basic eDp5"}},
		{"cookies", "Authorization", false, false, []string{"Cookie", "theme=dark; session=x; aventus_login=y"},
			map[string]string{"Cookie": "theme=dark"}},
	} {
		p := newParts(t)
		k, _ := p.session(nil)
		ps := &passage{cookies: p.cookies, tokenHeader: c.tokenHeader, takesBearers: c.takesBearers,
			vary: []string{"Cookie"}}
		id := identity{grant: &k.grant, session: k}
		if c.isAnonymous {
			id = identity{}
		}
		r := p.request("GET", "/", c.sent...)
		ps.introduce(r, asSent(r), id)
		w := httptest.NewRecorder()
		err := ps.letThrough(w, r, id, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			for name, want := range c.want {
				if got := strings.Join(r.Header[name], "|"); got != want {
					t.Errorf("%s: %s is %q, want %q", c.what, name, got, want)
				}
			}
			return nil
		}))
		if err != nil || w.Header().Get("Cache-Control") != "private" || w.Header().Get("Vary") != "Cookie" {
			t.Errorf("%s: %v, error %v", c.what, w.Header(), err)
		}
	}
}

// answered returns the header of an answer of the next handler's, whose header says that and which sets the
// session's cookie or does not.
func (p *parts) answered(says http.Header, vary []string, setsCookie bool) http.Header {
	p.t.Helper()
	w := httptest.NewRecorder()
	if setsCookie {
		p.cookies.set(w, "session", "x", time.Hour)
	}
	ps := &passage{cookies: p.cookies, hasEnded: p.keeper.hasEnded, vary: vary}
	next := func(w http.ResponseWriter, _ *http.Request) error {
		maps.Copy(w.Header(), says)
		_, err := w.Write([]byte("a page"))
		return err
	}
	if err := ps.letThrough(w, p.request("GET", "/"), identity{}, caddyhttp.HandlerFunc(next)); err != nil {
		p.t.Fatal(err)
	}
	return w.Header()
}

// TestVaryIsOneLine: a cache that heeds but one line of Vary is not misled by the
// others. nginx 1.22 takes the last one, which was Authorization: whoever came with
// a cookie got the page of the first who did.
func TestVaryIsOneLine(t *testing.T) {
	p := newParts(t)
	for _, own := range [][]string{{"Cookie"}, {"Cookie", "Authorization"}} {
		all := strings.Join(own, ", ")
		for _, c := range []struct {
			says []string
			want string
		}{
			{nil, all},
			{[]string{"Accept-Language"}, "Accept-Language, " + all},
			{[]string{"Accept-Language", "X-Theme"}, "Accept-Language, X-Theme, " + all},
			{[]string{"cookie"}, "cookie" + all[len("Cookie"):]},
			{[]string{"*"}, "*"},
			{[]string{"Accept-Language, *"}, "*"},
		} {
			if got := p.answered(http.Header{"Vary": c.says}, own, false)["Vary"]; len(got) != 1 || got[0] != c.want {
				t.Errorf("%q: Vary %q, want %q", c.says, got, c.want)
			}
		}
	}
}

// TestForHowLongIsNotForWhom: who says only how long a page is good has not said that
// a shared cache may keep it. To a request with an Authorization, which the site sees
// and the cache does not, that would be no leave (RFC 9111, section 3.5). What brings a
// session's cookie is kept by none, whatever the site says.
func TestForHowLongIsNotForWhom(t *testing.T) {
	p := newParts(t)
	for _, c := range []struct {
		says       []string
		setsCookie bool
		want       string
	}{
		{nil, false, "private"},
		{[]string{"max-age=60"}, false, "max-age=60, private"},
		{[]string{"max-age=60", "immutable"}, false, "max-age=60, immutable, private"},
		{[]string{"no-cache"}, false, "no-cache, private"},
		{[]string{"max-age=60, must-revalidate"}, false, "max-age=60, must-revalidate, private"},
		{[]string{`x="public"`}, false, `x="public", private`},
		{[]string{"max-age=60, Public"}, false, "max-age=60, Public"},
		{[]string{"s-maxage=60"}, false, "s-maxage=60"},
		{[]string{"max-age=60 ,\tprivate"}, false, "max-age=60 ,\tprivate"},
		{[]string{"no-store"}, false, "no-store"},
		{[]string{`max-age=60, private="Set-Cookie"`}, false, `max-age=60, private="Set-Cookie", private`},
		{[]string{`max-age=60, no-cache="a, public"`}, false, `max-age=60, no-cache="a, public", private`},
		{[]string{`x="a, s-maxage=1", max-age=60`}, false, `x="a, s-maxage=1", max-age=60, private`},
		{[]string{`x="\", public, "`}, false, `x="\", public, ", private`},
		{[]string{`x="\\", public`}, false, `x="\\", public`},
		{[]string{"public=no, no-store=no, s-maxage"}, false, "public=no, no-store=no, s-maxage, private"},
		{nil, true, "no-store"},
		{[]string{"public, max-age=60"}, true, "no-store"},
	} {
		got := p.answered(http.Header{"Cache-Control": c.says}, []string{"Cookie"}, c.setsCookie)["Cache-Control"]
		if len(got) != 1 || got[0] != c.want {
			t.Errorf("%q, sets a cookie %v: Cache-Control %q, want %q", c.says, c.setsCookie, got, c.want)
		}
	}
}

// TestEarlyHintsKeepTheCookie: the session's cookie is not in an informational response, and is in the final one.
func TestEarlyHintsKeepTheCookie(t *testing.T) {
	p := newParts(t)
	w := httptest.NewRecorder()
	p.cookies.set(w, "session", "x", time.Hour)
	ps := &passage{cookies: p.cookies, hasEnded: p.keeper.hasEnded, vary: []string{"Cookie"}}
	own := &privateWriter{ResponseWriter: w, passage: ps, sealed: true}
	for range 2 {
		own.WriteHeader(http.StatusEarlyHints)
	}
	own.WriteHeader(http.StatusOK)
	if header := w.Header(); len(header["Set-Cookie"]) != 1 || header.Get("Cache-Control") != "no-store" {
		t.Errorf("the answer has %v", header)
	}
}

// TestClosedStreamWritesNothing: once its session is over, a stream that goes on writing reaches nobody.
func TestClosedStreamWritesNothing(t *testing.T) {
	p := newParts(t)
	w := httptest.NewRecorder()
	own := &privateWriter{
		ResponseWriter: w, stream: new(stream),
		passage: &passage{cookies: p.cookies, hasEnded: p.keeper.hasEnded, vary: []string{"Cookie"}},
	}
	if _, err := io.WriteString(own, "before"); err != nil {
		t.Error(err)
	}
	own.stream.closed.Store(true)
	if _, err := io.WriteString(own, "after"); !errors.Is(err, errSessionOver) {
		t.Errorf("after the end: %v", err)
	}
	if got := w.Body.String(); got != "before" {
		t.Errorf("the visitor got %q", got)
	}
}

// TestCookieOfEndedSession: what a session that ended meanwhile is sent is not its cookie anew, but what deletes it.
func TestCookieOfEndedSession(t *testing.T) {
	for what, set := range map[string]func(c *cookies, w http.ResponseWriter) (stays bool){
		"its cookie anew": func(c *cookies, w http.ResponseWriter) bool {
			c.set(w, c.session, "x", time.Hour)
			return false
		},
		"a logout behind the block": func(c *cookies, w http.ResponseWriter) bool { c.clear(w); return true },
	} {
		p := newParts(t)
		k, _ := p.session(nil)
		if err := p.keeper.end(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		stays := set(p.cookies, w)
		own := &privateWriter{
			ResponseWriter: w, sealed: true, identity: identity{grant: &k.grant, session: k},
			passage: &passage{cookies: p.cookies, hasEnded: p.keeper.hasEnded, vary: []string{"Cookie"}},
		}
		own.WriteHeader(http.StatusOK)
		if _, got := w.Header()["Set-Cookie"]; got != stays {
			t.Errorf("%s: the answer has %v", what, w.Header())
		}
	}
}

// TestUseIsNotedWithTheCookie: the other hosts that share a session are told of its use as the browser is, with the
// header of the answer. A request that ends in the error routes is no use.
func TestUseIsNotedWithTheCookie(t *testing.T) {
	write := func(w http.ResponseWriter) error { _, err := io.WriteString(w, "a page"); return err }
	failed := caddyhttp.Error(http.StatusNotFound, nil)
	for what, c := range map[string]struct {
		next   func(http.ResponseWriter) error
		isUsed bool
	}{
		"a page":                {write, true},
		"an empty answer":       {func(http.ResponseWriter) error { return nil }, true},
		"a hint, then an error": {func(w http.ResponseWriter) error { w.WriteHeader(103); return failed }, false},
		"an error":              {func(http.ResponseWriter) error { return failed }, false},
		"an error beside the cookie of another handler": {func(w http.ResponseWriter) error {
			w.Header().Add("Set-Cookie", "theme=dark")
			return failed
		}, false},
		"a page, then an error": {func(w http.ResponseWriter) error { return errors.Join(write(w), failed) }, true},
	} {
		p := newParts(t)
		p.keeper.idle = time.Hour
		k, cookie := p.session(ofTwoHosts)
		p.clock.Add(20 * time.Minute)
		g := p.gate(new(renewalParts))
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error { return c.next(w) })
		w := httptest.NewRecorder()
		err := g.serve(w, p.request("GET", "/private", "Cookie", cookie), next)
		if err != nil && !errors.Is(err, failed) {
			t.Fatalf("%s: %v", what, err)
		}
		last, err := p.keeper.store.lastUse(t.Context(), k.handle)
		if isUsed := last.Equal(p.clock.Now()); err != nil || isUsed != c.isUsed ||
			isUsed != strings.HasPrefix(w.Header().Get("Set-Cookie"), "session=") {
			t.Errorf("%s: last used at %s, %v; the header is %v", what, last, err, w.Header())
		}
	}
}

// TestSentHeaderIsRestored: who stands in front finds the header that the client sent, whatever was made of it behind,
// but for what the site itself has set meanwhile.
func TestSentHeaderIsRestored(t *testing.T) {
	for _, tokenHeader := range []string{"", "Authorization", "X-Token"} {
		sent := http.Header{
			"Authorization": {"Bearer made-up"}, "Cookie": {"session=x; a=b", "c=d"}, "Upgrade": {"h2c"},
			"Connection": {"Upgrade, X-Named, X-Set, X-Missing"}, "X-Token": {"one", "two"}, "X_token": {"three"},
			"X-Named": {"named"}, "X-Set": {"named"}, "X-Other": {"other"},
		}
		for _, less := range [][]string{
			nil, {"Authorization", "Cookie", "Connection", "Upgrade", "X-Token", "X_token"},
		} {
			came := sent.Clone()
			for _, name := range less {
				delete(came, name)
			}
			fields := sentHeader(came.Clone(), tokenHeader)
			is := came.Clone()
			for name := range sent { // as it is behind
				delete(is, name)
			}
			is["Authorization"], is["Cookie"], is["Connection"], is["Upgrade"] = []string{"Bearer t"}, []string{"a=b"},
				[]string{"Upgrade"}, []string{"websocket"}
			if tokenHeader == "X-Token" {
				is["X-Token"] = []string{"t"}
			}
			is["X-Set"], is["X-User"] = []string{"by the site"}, []string{"ada"}
			fields.restore(is)
			want := came.Clone()
			delete(want, "X-Other") // which was not of these fields
			if tokenHeader != "X-Token" {
				delete(want, "X-Token")
				delete(want, "X_token")
			}
			if less != nil { // and so Connection named nothing
				delete(want, "X-Named")
			}
			want["X-Set"], want["X-User"] = []string{"by the site"}, []string{"ada"}
			if !reflect.DeepEqual(is, want) {
				t.Errorf("%q, without %v: %v, want %v", tokenHeader, less, is, want)
			}
		}
	}
}

// TestTrailersThatNobodyAnnounced: a trailer that no header names is gone, too, when the body has been read.
func TestTrailersThatNobodyAnnounced(t *testing.T) {
	p := newParts(t)
	came := make(chan http.Header, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stripIdentity(r, p.cookies, "Authorization")
		_, _ = io.Copy(io.Discard, r.Body)
		came <- r.Trailer
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"4\r\nbody\r\n0\r\nX-User-Id: made-up\r\nDigest: a checksum\r\n\r\n")
	if got := <-came; len(got) != 1 || got.Get("Digest") != "a checksum" {
		t.Errorf("the next handler finds the trailers %v", got)
	}
}

// TestTrailerNamedAsTheToken: a token's header may be called as a checksum of the body is. A trailer of its name, in
// any spelling, goes on past none of the blocks, and checksums do.
func TestTrailerNamedAsTheToken(t *testing.T) {
	p := newParts(t)
	for _, tokenHeaders := range [][]string{
		{"X-Token-Sum"}, {"X-Token-Digest"}, {"X-Token-Checksum"}, {"X-Token-Md5"}, {"Digest"},
		{"X-Token-Sum", "X-Token-Md5"}, {"Authorization", "X-Token-Sum", "Authorization"},
	} {
		lines := "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: "
		for _, name := range tokenHeaders {
			if name != "Authorization" {
				lines += name + ", " + strings.Replace(name, "-", ".", 1) + ", "
			}
		}
		lines += "Content-Digest\r\n\r\n4\r\nbody\r\n0\r\n"
		for _, name := range tokenHeaders {
			lines += name + ": forged\r\n" + strings.Replace(name, "-", ".", 1) + ": forged\r\n"
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(lines + "Content-Digest: a checksum\r\n\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tokenHeaders {
			stripIdentity(r, p.cookies, name)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if len(r.Trailer) != 1 || r.Trailer.Get("Content-Digest") != "a checksum" {
			t.Errorf("%q: the next handler finds the trailers %v", tokenHeaders, r.Trailer)
		}
	}
}
