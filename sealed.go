package aventusauth

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// These are the formats of all sealed values. The first byte is the version, which no two formats
// share, so that no value of one format is read as another. A change of a format needs a version that
// was never used: 3 was a session's, and 1 and 11 were a login's. A value that opens with its key and
// has an unknown version was sealed by another release: such a session has ended, such a login starts over,
// such a request or ticket gets 400, such an index entry is not listed, and such a time of last use is unknown.
const (
	loginVersion   = 15 // a login under way, in its state
	handleVersion  = 2  // a cookie whose session rests in the storage
	sessionVersion = 4  // a session, in its cookie or in its record in the storage
	indexVersion   = 5  // the entry of a session in the index, in front of its record
	stateVersion   = 6  // the parameter state, with the configuration at the start of its login

	requestVersion      = 17 // a host's request for a ticket
	visitLoginVersion   = 18 // a login under way for another host, in its state
	ticketVersion       = 19 // a ticket for another host
	sharedHandleVersion = 13 // handleVersion, for a session that several hosts share
	lastUseVersion      = 14 // when a session that several hosts share was last used, in a record of its own
)

// A session's plaintext is
//
//	version (1) || id (16) || created (8) || expires (8) || token came (8) || token ends (8) ||
//	spending (8) || given up (8) || attempt (4) || refresh token (2+n) || scope (2+n) || ID claims (2+n) || token
//
// with times in Unix seconds (0: no such time), and the token's form in a byte before it: a JWT is
// kept as its decoded parts, so that the cookie, which encodes them once more, is
// about as long as the token itself.
const (
	tokenAsIs  = 0
	tokenAsJWT = 1
)

func (s *session) marshal() ([]byte, error) {
	if len(s.token()) > claims.MaxSize { // the parts of a JWT may fit, but nothing would be known of its person
		return nil, errTooLarge
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 64+len(s.scope)+len(s.bearer)))
	b.AddUint8(sessionVersion)
	b.AddBytes(s.id[:])
	for _, t := range []unixTime{s.created, s.expires, s.tokenCame, s.tokenEnds, s.spending, s.givenUp} {
		b.AddUint64(uint64(t))
	}
	b.AddUint32(s.attempt)
	addBytes(b, []byte(s.refresh))
	addBytes(b, []byte(s.scope))
	addBytes(b, []byte(s.idToken))
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
	var version, form uint8
	var scope, idToken, refresh cryptobyte.String
	if !in.ReadUint8(&version) || version != sessionVersion || !in.CopyBytes(s.id[:]) {
		return nil, false
	}
	for _, t := range []*unixTime{&s.created, &s.expires, &s.tokenCame, &s.tokenEnds, &s.spending, &s.givenUp} {
		var seconds uint64
		if !in.ReadUint64(&seconds) {
			return nil, false
		}
		*t = unixTime(seconds)
	}
	if !in.ReadUint32(&s.attempt) || !in.ReadUint16LengthPrefixed(&refresh) || !in.ReadUint16LengthPrefixed(&scope) ||
		!in.ReadUint16LengthPrefixed(&idToken) || !in.ReadUint8(&form) {
		return nil, false
	}
	s.refresh = string(refresh)
	s.scope, s.idToken = string(scope), string(idToken)

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
	if !in.Empty() || len(s.token()) > claims.MaxSize {
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

// handle is the content of the cookie of a session that is kept in the storage: the place of its
// record, and the key to it, which is nowhere else.
//
//	version (1) || id (16) || expires (8) || key (32)
//
// Where several hosts share the session, family (16) follows.
type handle struct {
	id      [16]byte
	expires unixTime
	key     [keyring.RecordKeySize]byte
	family  [16]byte // of the session; may be zero
}

func (d *handle) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	d.add(b)
	return b.Bytes()
}

func (d *handle) add(b *cryptobyte.Builder) {
	isShared := d.family != [16]byte{}
	if isShared {
		b.AddUint8(sharedHandleVersion)
	} else {
		b.AddUint8(handleVersion)
	}
	b.AddBytes(d.id[:])
	b.AddUint64(uint64(d.expires))
	b.AddBytes(d.key[:])
	if isShared {
		b.AddBytes(d.family[:])
	}
}

// parseHandle reads what marshal wrote. It returns all of it, or nothing.
func parseHandle(plaintext []byte) (*handle, bool) {
	in := cryptobyte.String(plaintext)
	d, ok := readHandle(&in)
	if !ok || !in.Empty() {
		return nil, false
	}
	return d, true
}

func readHandle(in *cryptobyte.String) (*handle, bool) {
	d := new(handle)
	var version uint8
	var expires uint64
	if !in.ReadUint8(&version) || version != handleVersion && version != sharedHandleVersion ||
		!in.CopyBytes(d.id[:]) || !in.ReadUint64(&expires) || !in.CopyBytes(d.key[:]) {
		return nil, false
	}
	d.expires = unixTime(expires)
	if version == sharedHandleVersion && (!in.CopyBytes(d.family[:]) || d.family == [16]byte{}) {
		return nil, false
	}
	return d, true
}

// login is a login under way. It is sealed into the state parameter, and the server keeps nothing
// of it.
type login struct {
	began    time.Time // when it was sealed
	browser  [16]byte  // of the binding cookie
	nonce    [16]byte  // the code verifier is derived from it
	restarts uint8
	known    [16]byte // of a login that was started again: the ends that were known then, by ends.hasMeanwhile
	returnTo string   // path and query
	visit    *visit   // at another host, to which the browser returns in place of returnTo; nil: none
}

// marshal makes the login's plaintext:
//
//	version (1) || browser (16) || nonce (16) || restarts (1) || known (16) || return to (the rest)
//
// or, for another host, when that asked (8) and its visit in place of the path. What was known is there after a
// restart alone.
func (l *login) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	if l.visit == nil {
		b.AddUint8(loginVersion)
	} else {
		b.AddUint8(visitLoginVersion)
	}
	b.AddBytes(l.browser[:])
	b.AddBytes(l.nonce[:])
	b.AddUint8(l.restarts)
	if l.restarts > 0 {
		b.AddBytes(l.known[:])
	}
	if l.visit == nil {
		b.AddBytes([]byte(l.returnTo))
	} else {
		b.AddUint64(uint64(l.visit.asked.Unix()))
		l.visit.add(b)
	}
	return b.Bytes()
}

// parseLogin reads what marshal wrote. It returns all of it, or nothing.
func parseLogin(plaintext []byte, began time.Time) (*login, bool) {
	in := cryptobyte.String(plaintext)
	l := &login{began: began}
	var version uint8
	if !in.ReadUint8(&version) || !in.CopyBytes(l.browser[:]) || !in.CopyBytes(l.nonce[:]) ||
		!in.ReadUint8(&l.restarts) || l.restarts > 0 && !in.CopyBytes(l.known[:]) {
		return nil, false
	}
	switch version {
	case loginVersion:
		if l.returnTo = string(in); strings.HasPrefix(l.returnTo, "/") {
			return l, true
		}
	case visitLoginVersion:
		var asked uint64
		if in.ReadUint64(&asked) {
			var ok bool
			if l.visit, ok = readVisit(in, time.Unix(int64(asked), 0)); ok {
				return l, true
			}
		}
	}
	return nil, false
}

// stateOverhead is how much longer a state's plaintext is than that of its login.
const stateOverhead = 1 + 16

// marshalState makes the state's plaintext of that of the login and of a hash of what was configured when it began:
//
//	version (1) || config (16) || login (the rest)
func marshalState(config [16]byte, login []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, stateOverhead+len(login)))
	b.AddUint8(stateVersion)
	b.AddBytes(config[:])
	b.AddBytes(login)
	return b.Bytes()
}

// parseState reads what marshalState wrote.
func parseState(plaintext []byte) (config [16]byte, login []byte, ok bool) {
	in := cryptobyte.String(plaintext)
	var version uint8
	if !in.ReadUint8(&version) || version != stateVersion || !in.CopyBytes(config[:]) {
		return config, nil, false
	}
	return config, in, true
}

// marshal makes the plaintext of an index entry:
//
//	version (1) || JSON (the rest)
func (l listed) marshal() ([]byte, error) {
	about, err := json.Marshal(l)
	return append([]byte{indexVersion}, about...), err
}

// parseListed reads what marshal wrote. An entry of another release is none: its session is not listed, and
// can be ended with its user's, but not by its id.
func parseListed(plaintext []byte) (l listed, ok bool) {
	if len(plaintext) == 0 || plaintext[0] != indexVersion || json.Unmarshal(plaintext[1:], &l) != nil {
		return listed{}, false
	}
	return l, true
}

// joinRecord puts the index entry of a session in front of its record.
func joinRecord(meta, sealed []byte) []byte {
	record := binary.BigEndian.AppendUint16(nil, uint16(len(meta)))
	return append(append(record, meta...), sealed...)
}

func splitRecord(record []byte) (meta, sealed []byte, ok bool) {
	if len(record) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(record))
	if record = record[2:]; len(record) < n {
		return nil, nil, false
	}
	return record[:n], record[n:], true
}

// marshalLastUse makes the plaintext of the time when a session was last used:
//
//	version (1) || last used (8)
func marshalLastUse(at time.Time) []byte {
	return binary.BigEndian.AppendUint64([]byte{lastUseVersion}, uint64(at.Unix()))
}

// parseLastUse reads what marshalLastUse made.
func parseLastUse(plaintext []byte) (time.Time, bool) {
	if len(plaintext) != 9 || plaintext[0] != lastUseVersion {
		return time.Time{}, false
	}
	return time.Unix(int64(binary.BigEndian.Uint64(plaintext[1:])), 0), true
}
