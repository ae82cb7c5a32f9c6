package aventusauth

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

var updateSealed = flag.Bool("update-sealed", false, "write the golden files of the sealed formats anew")

// TestSealedFormats compares the formats of what is sealed with golden files. When one changes, so must its
// version: instances of both releases may share a storage, and visitors come back with cookies of either.
func TestSealedFormats(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	id := [16]byte([]byte("the session's id"))
	readLogin := func(plaintext []byte) ([]byte, bool) {
		l, ok := parseLogin(plaintext, at)
		if !ok {
			return nil, false
		}
		again, _ := l.marshal()
		return again, true
	}
	readHandle := func(plaintext []byte) ([]byte, bool) {
		d, ok := parseHandle(plaintext)
		if !ok {
			return nil, false
		}
		again, _ := d.marshal()
		return again, true
	}
	shared := &handle{
		id: id, expires: toUnix(at), key: [32]byte([]byte("the key of the session's record!")),
		family: [16]byte([]byte("the browser's id")),
	}
	page := &visit{
		asked: at.Add(-time.Second), browser: [16]byte([]byte("the cookie hash.")),
		page: [16]byte([]byte("the page's hash.")), restarts: 1, aim: toRenewSession,
		host: "app.example.com", returnTo: "/page?q=1",
	}
	for name, c := range map[string]struct {
		marshal func() ([]byte, error)
		reads   func([]byte) ([]byte, bool) // and marshals again
	}{
		"login": {
			(&login{browser: id, nonce: [16]byte([]byte("the login's once")), restarts: 1,
				known:    [16]byte([]byte("the known ends !")),
				returnTo: "/page?q=1"}).marshal, readLogin,
		},
		"login-visit": {
			(&login{browser: id, nonce: [16]byte([]byte("the login's once")), restarts: 1, visit: page}).marshal,
			readLogin,
		},
		"handle": {
			(&handle{id: id, expires: toUnix(at), key: [32]byte([]byte("the key of the session's record!"))}).marshal,
			readHandle,
		},
		"handle-shared": {shared.marshal, readHandle},
		"last-use": {
			func() ([]byte, error) { return marshalLastUse(at), nil },
			func(plaintext []byte) ([]byte, bool) {
				last, ok := parseLastUse(plaintext)
				return marshalLastUse(last), ok
			},
		},
		"request": {
			page.marshal,
			func(plaintext []byte) ([]byte, bool) {
				v, ok := parseVisit(plaintext, page.asked)
				if !ok {
					return nil, false
				}
				again, _ := v.marshal()
				return again, true
			},
		},
		"state": {
			func() ([]byte, error) {
				return marshalState([16]byte([]byte("the config's sum")), []byte("a login"))
			},
			func(plaintext []byte) ([]byte, bool) {
				config, login, ok := parseState(plaintext)
				if !ok {
					return nil, false
				}
				again, _ := marshalState(config, login)
				return again, true
			},
		},
		"ticket": {
			(&ticket{issued: at, visit: page, handle: shared}).marshal,
			func(plaintext []byte) ([]byte, bool) {
				t, ok := parseTicket(plaintext, at)
				if !ok {
					return nil, false
				}
				again, _ := t.marshal()
				return again, true
			},
		},
		"session-jwt": {
			(&session{
				grant: grant{bearer: bearer + "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", scope: "openid",
					idToken: `{"name":"Ada"}`},
				id: id, created: toUnix(at), expires: toUnix(at.Add(24 * time.Hour)), tokenCame: toUnix(at),
				tokenEnds: toUnix(at.Add(time.Hour)),
			}).marshal, readSession,
		},
		"session-refresh": {
			(&session{
				grant: grant{bearer: bearer + "opaque"}, id: id, created: toUnix(at),
				expires: toUnix(at.Add(24 * time.Hour)), tokenCame: toUnix(at.Add(time.Hour)),
				tokenEnds: toUnix(at.Add(2 * time.Hour)), refresh: "refresh", attempt: 3,
				spending: toUnix(at.Add(90 * time.Minute)),
			}).marshal, readSession,
		},
		"session-given-up": {
			(&session{
				grant: grant{bearer: bearer + "opaque"}, id: id, created: toUnix(at),
				expires: toUnix(at.Add(2 * time.Hour)), tokenCame: toUnix(at.Add(time.Hour)),
				tokenEnds: toUnix(at.Add(2 * time.Hour)), givenUp: toUnix(at.Add(90 * time.Minute)),
			}).marshal, readSession,
		},
		"index": {
			listed{
				Sub: "auth0|ada", ServerSession: "the server's session", Site: "https://example.com",
				ClientID: "the-client",
				Created:  at.UTC(), Expires: at.Add(24 * time.Hour).UTC(), Family: "00112233445566778899aabbccddeeff",
			}.marshal,
			func(plaintext []byte) ([]byte, bool) {
				l, ok := parseListed(plaintext)
				if !ok {
					return nil, false
				}
				again, _ := l.marshal()
				return again, true
			},
		},
	} {
		plaintext, err := c.marshal()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", "sealed", name+".hex")
		if *updateSealed {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(plaintext)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := hex.DecodeString(strings.TrimSpace(readFile(t, file)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(plaintext, golden) {
			t.Errorf("%s is %x, want %x: a new format needs a new version", name, plaintext, golden)
		}
		if again, ok := c.reads(golden); !ok || !bytes.Equal(again, golden) {
			t.Errorf("%s is read as %x", name, again)
		}
		for n := range golden { // half of it is nothing, and no other version is read
			// which may have any length
			if _, ok := c.reads(golden[:n]); ok && !endsInPage(golden[:n]) && name != "state" {
				t.Errorf("%s is read when cut off after %d bytes", name, n)
			}
		}
		other := bytes.Clone(golden)
		other[0] = 99
		if _, ok := c.reads(other); ok {
			t.Errorf("%s is read with an unknown version", name)
		}
		// Of scraps, and where a length says more than there is, nothing is read, unless it is all there is.
		changed := scraps(golden[0], 5)
		for n := range len(golden) - 1 {
			changed = append(changed, slices.Concat(golden[:n], []byte{0xff, 0xff}, golden[n+2:]))
		}
		for _, plaintext := range changed {
			if again, ok := c.reads(plaintext); ok && !bytes.Equal(again, plaintext) && name != "index" { // JSON
				t.Errorf("%s: %q is read as %q", name, plaintext, again)
			}
		}
	}
}

// scraps returns a version with up to so many bytes behind it, which are numbers, lengths, or parts of a page.
func scraps(version byte, most int) [][]byte {
	all := [][]byte{{version}}
	for i := 0; len(all[i]) <= most; i++ {
		for _, next := range []byte{0, 1, 'a', '/'} {
			all = append(all, append(bytes.Clone(all[i]), next))
		}
	}
	return all
}

func readSession(plaintext []byte) ([]byte, bool) {
	s, ok := parseSession(plaintext)
	if !ok {
		return nil, false
	}
	again, _ := s.marshal()
	return again, true
}

// endsInPage reports whether a plaintext ends in the beginning of the page of these tests.
func endsInPage(plaintext []byte) bool {
	for n := range "/page?q=1" {
		if bytes.HasSuffix(plaintext, []byte("/page?q=1"[:n+1])) {
			return true
		}
	}
	return false
}

// TestVisitsThatAreNone: a visit whose host is not written as hostName returns it, whose aim is unknown, or whose page
// is no path as returnPath makes it is read in no format.
func TestVisitsThatAreNone(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	for what, c := range map[string]struct {
		change func(*visit)
		reads  bool
	}{
		"as it should be":       {func(*visit) {}, true},
		"of the last aim":       {func(v *visit) { v.aim = aims - 1 }, true},
		"of no aim":             {func(v *visit) { v.aim = aims }, false},
		"of no host":            {func(v *visit) { v.host = "" }, false},
		"of a host with a port": {func(v *visit) { v.host = "app.example.com:443" }, false},
		"of a host in capitals": {func(v *visit) { v.host = "App.example.com" }, false},
		"of no page":            {func(v *visit) { v.returnTo = "" }, false},
		"of another's page":     {func(v *visit) { v.returnTo = "https://evil.test/" }, false},
		"of a page with spaces": {func(v *visit) { v.returnTo = "/a b" }, false},
	} {
		v := &visit{asked: at, host: "app.example.com", returnTo: "/page"}
		c.change(v)
		request, _ := v.marshal()
		ticket, _ := (&ticket{visit: v, handle: new(handle)}).marshal()
		state, _ := (&login{visit: v}).marshal()
		_, isRequest := parseVisit(request, at)
		_, isTicket := parseTicket(ticket, at)
		_, isLogin := parseLogin(state, at)
		if isRequest != c.reads || isTicket != c.reads || isLogin != c.reads {
			t.Errorf("%s: read as a request %t, a ticket %t, a login %t", what, isRequest, isTicket, isLogin)
		}
	}
}

// TestFormatsShareNoVersion reads what is sealed in each format as each of the others.
func TestFormatsShareNoVersion(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "sealed", "*.hex"))
	if err != nil || len(files) < 9 {
		t.Fatalf("%v %v", files, err)
	}
	formats := map[string]func([]byte) bool{
		"login":   func(b []byte) bool { _, ok := parseLogin(b, time.Time{}); return ok },
		"handle":  func(b []byte) bool { _, ok := parseHandle(b); return ok },
		"session": func(b []byte) bool { _, ok := parseSession(b); return ok },
		"request": func(b []byte) bool { _, ok := parseVisit(b, time.Time{}); return ok },
		"ticket":  func(b []byte) bool { _, ok := parseTicket(b, time.Time{}); return ok },
	}
	versions := make(map[byte]string)
	for _, file := range files {
		golden, err := hex.DecodeString(strings.TrimSpace(readFile(t, file)))
		if err != nil {
			t.Fatal(err)
		}
		is, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".hex"), "-")
		for format, reads := range formats {
			if reads(golden) != (format == is) {
				t.Errorf("%s read as a %s: %v", file, format, !(format == is))
			}
		}
		if other, ok := versions[golden[0]]; ok && other != is {
			t.Errorf("%s and %s share a version", file, other)
		}
		versions[golden[0]] = is
	}
	page := &visit{host: "app.example.com", returnTo: "/", asked: time.Unix(1, 0)}
	request, _ := page.marshal()
	sealed, _ := (&ticket{visit: page, handle: &handle{family: [16]byte{1}}}).marshal()
	if len(sealed) != len(request)+ticketExtra {
		t.Errorf("a ticket is %d bytes longer than its request, not %d", len(sealed)-len(request), ticketExtra)
	}
}

// TestSessionRoundTrip: a token comes back to the letter, and nothing opens that has
// something behind its end.
func TestSessionRoundTrip(t *testing.T) {
	for _, token := range []string{"opaque", "YQ.YQ.YQ", "YQ.YR.YQ", "YQ.Y-_.", "a.b.c", "..", "YQ.YQ=.YQ"} {
		plaintext, err := (&session{grant: grant{bearer: bearer + token}}).marshal()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := parseSession(plaintext); !ok || s.token() != token {
			t.Errorf("%q came back as %v", token, s)
		}
		for _, changed := range [][]byte{append(plaintext, 0), plaintext[:len(plaintext)-1]} {
			if _, ok := parseSession(changed); ok {
				t.Errorf("%q: %x opens", token, changed)
			}
		}
	}
}

// TestTokenAsLongAsItsClaimsAreRead: a session keeps a token of as many characters as its claims are read of, and no
// longer one, at a login and at a renewal, though the parts of a longer JWT would fit: its person would be a stranger.
func TestTokenAsLongAsItsClaimsAreRead(t *testing.T) {
	jwt := func(chars int) string { // short by two at most, which base64 cannot reach
		payload := `{"sub":"auth0|ada","jti":"`
		payload += strings.Repeat("x", (chars-len("eyJ9..MTIz"))/4*3-len(payload)-len(`"}`)) + `"}`
		return "eyJ9." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".MTIz"
	}
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.refresh = "first" })
	for _, tc := range []struct {
		token string
		keeps bool
	}{
		{jwt(claims.MaxSize), true}, {jwt(claims.MaxSize + 4), false}, {jwt(86_000), false}, {jwt(200_000), false},
		{strings.Repeat("x", claims.MaxSize-1), true}, {strings.Repeat("x", claims.MaxSize+1), false},
	} {
		s := k.session.copy()
		s.bearer = bearer + tc.token
		_, atLogin := p.keeper.save(httptest.NewRecorder(), t.Context(), p.at(), nil, s, "/")
		atRenewal := p.keeper.store.put(t.Context(), p.at(), k.handle, s)
		if tc.keeps && (atLogin != nil || atRenewal != nil) ||
			!tc.keeps && (!errors.Is(atLogin, errTooLarge) || !errors.Is(atRenewal, errTooLarge)) {
			t.Errorf("%d characters: %v, %v", len(tc.token), atLogin, atRenewal)
		}
		if known := s.subject() != ""; known != (tc.keeps && tc.token[0] == 'e') {
			t.Errorf("%d characters: a sub is known: %v", len(tc.token), known)
		}
	}
	sealed := append([]byte{sessionVersion}, make([]byte, 16+6*8+4+3*2)...)
	sealed = append(sealed, tokenAsJWT)
	for range 3 {
		sealed = append(binary.BigEndian.AppendUint16(sealed, 30_000), make([]byte, 30_000)...)
	}
	if s, ok := parseSession(sealed); ok {
		t.Errorf("a session opens whose token has %d characters", len(s.token()))
	}
}
