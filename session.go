package aventusauth

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// maxCookie is how long a cookie's name and value may be together; browsers
// drop longer ones (draft-ietf-httpbis-rfc6265bis, section 5.6).
const maxCookie = 4096

// session is what the module knows of a visitor who has logged in.
type session struct {
	id      [16]byte // random, new at each login
	created time.Time
	expires time.Time // the session's end
	scope   string    // what was granted; empty if the server did not say
	bearer  string    // the Authorization that goes on: "Bearer ", and the access token

	// When the token came, and when it ends. The session ends with it, unless there
	// is a refresh token.
	tokenCame, tokenEnds time.Time
	refresh              string
	spending             bool // the refresh token was sent, or was about to be

	// What the cookie says of it, and where it is remembered.
	seen   time.Time // when the cookie was sealed
	handle *handle   // nil where the session rests in its cookie
	cookie openedKey

	renewal renewal

	idToken []byte // the claims of the ID token that the access token has not, as JSON; may be empty

	isBearer bool // it is no session, but an API client's own token

	who    sync.Once
	sub    string // whom the claims name
	parse  sync.Once
	access claims.Claims // of the access token
	other  claims.Claims // of the ID token, as far as the access token has none
}

const bearer = "Bearer "

func (s *session) token() string { return s.bearer[len(bearer):] }

// accessClaims returns the claims of the access token, parsed when first asked for.
func (s *session) accessClaims() claims.Claims {
	s.parse.Do(func() { s.access, s.other = claims.Of(s.token()), s.idClaims() })
	return s.access
}

func (s *session) idClaims() claims.Claims {
	if len(s.idToken) == 0 {
		return claims.Claims{}
	}
	c, _ := claims.Parse(s.idToken) // it was marshalled here
	return c
}

// claims returns all that is known of the person.
func (s *session) claims() claims.Claims { return s.accessClaims().Join(s.other) }

// claim returns what is known at a path: the access token's word counts.
func (s *session) claim(path string) (value any, texts []string, ok bool) {
	from := s.accessClaims()
	if value, ok = from.Lookup(path); !ok {
		from = s.other
		value, ok = from.Lookup(path)
	}
	return value, from.Strings(path), ok
}

// subject returns who the person is at the authorization server, or "" if nothing
// says it. It is kept by itself: few sites need the other claims, and those would be
// memory, and work for the garbage collector, for each session that is remembered.
func (s *session) subject() string {
	s.who.Do(func() {
		sub, ok := claims.Of(s.token()).Lookup("sub")
		if !ok {
			sub, _ = s.idClaims().Lookup("sub")
		}
		switch sub := sub.(type) {
		case string:
			s.sub = sub
		case json.Number: // it should be a string (RFC 7519, section 4.1.2)
			s.sub = sub.String()
		}
	})
	return s.sub
}

// newSession makes the session of a token that has just come.
func (h *Handler) newSession(token aventus.Token, idToken []byte) *session {
	now := h.now().Truncate(time.Second) // as it is sealed
	s := &session{created: now, scope: token.Scope, bearer: bearer + token.AccessToken, idToken: idToken}
	_, _ = rand.Read(s.id[:]) // never fails (crypto/rand)
	s.expires = s.created.Add(h.cfg.lifetime)
	s.tokenCame, s.tokenEnds = s.created, s.created.Add(token.ExpiresIn)
	if s.refresh = token.RefreshToken; s.refresh == "" {
		s.endBy(s.tokenEnds)
	}
	return s
}

// endBy makes the session end no later than t.
func (s *session) endBy(t time.Time) {
	if t.Before(s.expires) {
		s.expires = t
	}
}

// openedSessions is how many sessions a handler remembers as it opened or made them,
// so that opening is done once and not for each request, and a renewal's state is kept.
// Each holds its token and its cookie: some kilobytes as a rule, 70 at the most.
const openedSessions = 4096

// openedKey is what a sealed session is remembered by: the whole of it, and where
// it was opened.
type openedKey struct{ origin, value string }

// loadSession returns the session that the request's cookies hold, or nil when
// they hold none that is good here and now. An error means that it cannot be told.
func (h *Handler) loadSession(ctx context.Context, at site, cookies []string) (*session, error) {
	for value := range cookieValues(cookies, h.cfg.cookieName) {
		s, err := h.openSession(ctx, at, value)
		if err != nil {
			return nil, err
		}
		reason := h.whyOver(s)
		if reason == "" {
			return s, nil
		}
		sessionsRefused.WithLabelValues(h.cfg.label, reason).Inc()
	}
	return nil, nil
}

// whyOver returns why a session is not good any more, in a word, or "".
func (h *Handler) whyOver(s *session) string {
	switch now := h.now(); {
	case s == nil: // sealed for something else, or by nobody; or its record has gone
		return "invalid"
	case !now.Before(h.lastOf(s)):
		return "expired"
	case !now.Before(h.endOf(s)):
		return "idle"
	case h.hasEnded(s):
		return "ended"
	}
	return ""
}

// openSession returns the session of a cookie's value, or nil if there is none.
func (h *Handler) openSession(ctx context.Context, at site, value string) (*session, error) {
	if s, ok := h.opened.Get(openedKey{at.origin, value}); ok {
		return s, nil
	}
	plaintext, seen, err := h.sessions.Open(ctx, value, at.associated)
	if errors.Is(err, keyring.ErrInvalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s *session
	if stored, ok := parseHandle(plaintext); ok {
		if s, err = h.fetchSession(ctx, at, stored); err != nil || s == nil {
			return nil, err
		}
	} else if s, ok = parseSession(plaintext); !ok {
		return nil, nil
	}
	// The value is a piece of the request's header, which is not to stay for it.
	s.seen, s.cookie = seen, openedKey{at.origin, strings.Clone(value)}
	h.opened.Add(s.cookie, s)
	return s, nil
}

// endOf returns when a session ends, if it is not used until then.
func (h *Handler) endOf(s *session) time.Time {
	end := h.lastOf(s)
	if idle := s.seen.Add(h.cfg.idle); h.cfg.idle > 0 && idle.Before(end) {
		return idle
	}
	return end
}

// lastOf returns when a session ends at the latest. The lifetime may be shorter by
// now than it was when the session began.
func (h *Handler) lastOf(s *session) time.Time {
	if last := s.created.Add(h.cfg.lifetime); last.Before(s.expires) {
		return last
	}
	return s.expires
}

// errTooLarge says that a session cannot be kept.
var errTooLarge = errors.New("the access token, or what the ID token says, is longer than 64 KiB")

// saveSession keeps a new session, and sets its cookie, which holds it, or the
// handle of its record in the storage.
func (h *Handler) saveSession(w http.ResponseWriter, ctx context.Context, at site, s *session) error {
	plaintext, err := s.marshal()
	if err != nil {
		return err
	}
	// A refresh token never leaves the server.
	if h.cfg.inStorage || s.refresh != "" || len(h.cfg.cookieName)+len("=")+keyring.EncodedLen(len(plaintext)) > maxCookie {
		s.handle = newHandle(s)
		if err := h.storeSession(ctx, at, s); err != nil {
			return err
		}
		if plaintext, err = s.handle.marshal(); err != nil {
			return err
		}
	}
	value, err := h.seal(w, ctx, at, s, plaintext)
	if err != nil {
		return err
	}
	// The visitor comes back with it at once.
	s.seen, s.cookie = h.now().Truncate(time.Second), openedKey{at.origin, value}
	h.opened.Add(s.cookie, s)
	return nil
}

// sealSession sets a session's cookie anew, which notes that it was seen.
func (h *Handler) sealSession(w http.ResponseWriter, ctx context.Context, at site, s *session) error {
	marshal := s.marshal
	if s.handle != nil {
		marshal = s.handle.marshal
	}
	plaintext, err := marshal()
	if err == nil {
		_, err = h.seal(w, ctx, at, s, plaintext)
	}
	return err
}

// seal sets a session's cookie to what is to be in it, sealed at this moment: that is
// when the session was last seen. It returns the cookie's value.
func (h *Handler) seal(w http.ResponseWriter, ctx context.Context, at site, s *session, plaintext []byte) (string, error) {
	value, err := h.sessions.Seal(ctx, plaintext, at.associated)
	if err != nil {
		return "", err
	}
	age := h.lastOf(s).Sub(h.now())
	if h.cfg.idle > 0 {
		age = min(age, h.cfg.idle)
	}
	h.setCookie(w, h.cfg.cookieName, value, age)
	return value, nil
}

// A session's plaintext is
//
//	version (1) || id (16) || created (8) || expires (8) || token came (8) || token ends (8) ||
//	spending (1) || refresh token (2+n) || scope (2+n) || ID claims (2+n) || token
//
// with times in Unix seconds, and the token's form in a byte before it: a JWT is
// kept as its decoded parts, so that the cookie, which encodes them once more, is
// about as long as the token itself.
const (
	sessionVersion = 1
	tokenAsIs      = 0
	tokenAsJWT     = 1
)

func (s *session) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 64+len(s.scope)+len(s.bearer)))
	b.AddUint8(sessionVersion)
	b.AddBytes(s.id[:])
	for _, t := range []time.Time{s.created, s.expires, s.tokenCame, s.tokenEnds} {
		b.AddUint64(uint64(t.Unix()))
	}
	spending := uint8(0)
	if s.spending {
		spending = 1
	}
	b.AddUint8(spending)
	addBytes(b, []byte(s.refresh))
	addBytes(b, []byte(s.scope))
	addBytes(b, s.idToken)
	if parts := jwtParts(s.token()); parts != nil {
		b.AddUint8(tokenAsJWT)
		for _, part := range parts {
			addBytes(b, part)
		}
	} else {
		b.AddUint8(tokenAsIs)
		addBytes(b, []byte(s.token()))
	}
	plaintext, err := b.Bytes()
	if err != nil {
		return nil, errTooLarge // a length that 16 bits cannot hold
	}
	return plaintext, nil
}

func addBytes(b *cryptobyte.Builder, data []byte) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(data) })
}

// parseSession reads what marshal wrote. It returns all of it, or nothing.
func parseSession(plaintext []byte) (*session, bool) {
	in := cryptobyte.String(plaintext)
	s := new(session)
	var version, spending, form uint8
	var scope, idToken, refresh cryptobyte.String
	if !in.ReadUint8(&version) || version != sessionVersion || !in.CopyBytes(s.id[:]) {
		return nil, false
	}
	for _, t := range []*time.Time{&s.created, &s.expires, &s.tokenCame, &s.tokenEnds} {
		var seconds uint64
		if !in.ReadUint64(&seconds) {
			return nil, false
		}
		*t = time.Unix(int64(seconds), 0)
	}
	if !in.ReadUint8(&spending) || spending > 1 || !in.ReadUint16LengthPrefixed(&refresh) ||
		!in.ReadUint16LengthPrefixed(&scope) || !in.ReadUint16LengthPrefixed(&idToken) || !in.ReadUint8(&form) {
		return nil, false
	}
	s.spending, s.refresh = spending == 1, string(refresh)
	s.scope, s.idToken = string(scope), bytes.Clone(idToken)

	var parts [3]cryptobyte.String
	switch form {
	case tokenAsIs:
		if !in.ReadUint16LengthPrefixed(&parts[0]) {
			return nil, false
		}
		s.bearer = bearer + string(parts[0])
	case tokenAsJWT:
		size := len(bearer) + len("..")
		for i := range parts {
			if !in.ReadUint16LengthPrefixed(&parts[i]) {
				return nil, false
			}
			size += base64.RawURLEncoding.EncodedLen(len(parts[i]))
		}
		line := append(make([]byte, 0, size), bearer...)
		for i, part := range parts {
			if i > 0 {
				line = append(line, '.')
			}
			line = base64.RawURLEncoding.AppendEncode(line, part)
		}
		s.bearer = string(line)
	default:
		return nil, false
	}
	if !in.Empty() {
		return nil, false
	}
	return s, true
}

// jwtParts returns the decoded parts of a token that is a JWT in its compact form
// (RFC 7515, section 7.1), or nil if it is none, or none that would come back to
// the letter.
func jwtParts(token string) [][]byte {
	if strings.Count(token, ".") != 2 {
		return nil
	}
	var parts [][]byte
	for text := range strings.SplitSeq(token, ".") {
		part, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil {
			return nil
		}
		parts = append(parts, part)
	}
	return parts
}
