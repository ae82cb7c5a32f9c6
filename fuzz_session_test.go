package aventusauth

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// FuzzSession looks for a cookie that opens as half a session, or as another one than
// was sealed in it, or where it was not sealed for. What is sealed is the input, so
// that the fuzzer is not stopped by the seal.
func FuzzSession(f *testing.F) {
	b := newBare(f, Config{})
	at := *b.house.gate.sites.fixed
	elsewhere := b.house.gate.sites.with("https://example.org/oauth2/callback")
	for _, token := range []string{"opaque", "YQ.YQ.YQ", "YQ.YR.YQ", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA"} {
		for _, refresh := range []string{"", "a-refresh-token"} {
			given := &oauth2.Token{AccessToken: token, RefreshToken: refresh, ExpiresIn: 3600}
			s := b.house.keeper.make(given.WithExtra(map[string]any{"scope": "openid"}), []byte(`{"name":"Ada"}`))
			plaintext, err := s.marshal()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(plaintext)
			f.Add(plaintext[:len(plaintext)-1])
			f.Add(append(plaintext, 0))
			s.spending = 1700000000
			plaintext, _ = s.marshal()
			f.Add(plaintext)
			plaintext, _ = newHandle(s).marshal()
			f.Add(plaintext)
		}
	}
	f.Fuzz(func(t *testing.T, plaintext []byte) {
		// Nothing of what cannot be read whole comes out.
		s, isSession := parseSession(plaintext)
		d, isHandle := parseHandle(plaintext)
		l, isLogin := parseLogin(plaintext, b.clock.Now())
		if isSession != (s != nil) || isHandle != (d != nil) || isLogin != (l != nil) {
			t.Fatalf("half of something came out: %+v %+v %+v", s, d, l)
		}
		if isSession && isHandle {
			t.Fatal("it is both a session and a handle")
		}
		if isHandle {
			if again, err := d.marshal(); err != nil || !bytes.Equal(again, plaintext) {
				t.Fatalf("the handle became %x, %v", again, err)
			}
		}
		if isLogin {
			if again, err := l.marshal(); err != nil || !bytes.Equal(again, plaintext) {
				t.Fatalf("the login became %x, %v", again, err)
			}
		}
		if isSession {
			again, err := s.marshal()
			if err != nil {
				t.Fatal(err)
			}
			// The one thing with two spellings is a JWT, of which marshal writes one.
			if !bytes.Equal(again, plaintext) && jwtParts(s.token()) == nil {
				t.Fatalf("the session became %x", again)
			}
		}

		value, err := b.house.keeper.sessionBox.Seal(t.Context(), plaintext, at.associated)
		if err != nil {
			t.Fatal(err)
		}
		opened, _, err := b.house.keeper.open(t.Context(), at, value)
		if err != nil || (opened != nil) != isSession {
			t.Fatalf("opened %+v, %v", opened, err)
		}
		if other, _, err := b.house.keeper.open(t.Context(), elsewhere, value); other != nil || err != nil {
			t.Fatalf("at another site: %+v, %v", other, err)
		}
		if opened == nil {
			return
		}
		same(t, opened.session, s)

		// In its cookie or in the storage, it comes back as it is.
		for _, handle := range []*handle{nil, newHandle(s)} {
			opened.handle = handle
			if handle != nil {
				// What has ended is not looked for, and the list of sessions cannot say
				// all years.
				if !hasDate(opened.created.time()) || !hasDate(opened.expires.time()) {
					continue
				}
				handle.expires = toUnix(b.clock.Now().Add(time.Hour))
				if err := b.house.keeper.store.put(t.Context(), at, handle, opened.session); err != nil {
					t.Fatal(err)
				}
			}
			w := httptest.NewRecorder()
			if err := b.house.keeper.reseal(w, t.Context(), at, opened); err != nil {
				t.Fatal(err)
			}
			pair, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
			_, value, _ := strings.Cut(pair, "=")
			again, _, err := b.house.keeper.open(t.Context(), at, value)
			if err != nil || again == nil {
				t.Fatalf("sealed again, it opens as %+v, %v", again, err)
			}
			same(t, again.session, s)
		}
		b.forget()
	})
}

// hasDate reports whether a time can stand in JSON.
func hasDate(t time.Time) bool {
	_, err := t.UTC().MarshalJSON()
	return err == nil
}

// same compares all that is kept of a session.
func same(t *testing.T, got, want *session) {
	t.Helper()
	if got.id != want.id || got.bearer != want.bearer || got.refresh != want.refresh || got.scope != want.scope ||
		got.idToken != want.idToken {
		t.Fatalf("it became %+v, from %+v", got, want)
	}
	for i, pair := range [][2]unixTime{
		{got.created, want.created}, {got.expires, want.expires}, {got.tokenCame, want.tokenCame},
		{got.tokenEnds, want.tokenEnds}, {got.spending, want.spending}, {got.givenUp, want.givenUp},
	} {
		if pair[0] != pair[1] {
			t.Fatalf("its time %d became %v, from %v", i, pair[0], pair[1])
		}
	}
}
