package aventusauth

import (
	"encoding/hex"
	"sync/atomic"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// session is a visitor's login. It is sealed into its cookie, or into its record in the storage.
// It is never changed once it is in use.
type session struct {
	grant
	id      [16]byte // random, new at each login
	created unixTime
	expires unixTime // the session's end

	// When the token was issued, by the clock here, and when it expires. The session ends with it, unless
	// there is a refresh token.
	tokenCame, tokenEnds unixTime
	refresh              string   // the refresh token; empty: none, or none that the server takes any more
	attempt              uint32   // how often it was tried in vain to renew this token
	spending             unixTime // when the refresh token was about to be sent; zero: its answer is known
	givenUp              unixTime // when the server was last asked, and would take the refresh token no more

	// The sessions that the hosts of one login hold in one browser have the same family, since logins in
	// several tabs at once make several. They end together. It is in the handle, and not sealed with the
	// rest. Zero: the session is one host's.
	family records.ID
}

// unixTime is a time as sessions hold it, in seconds, as it is sealed: by the wall clock alone, and in a third of the
// memory that a [time.Time] takes. Zero is no time.
type unixTime int64

func toUnix(t time.Time) unixTime {
	if t.IsZero() {
		return 0
	}
	return unixTime(t.Unix())
}

func (u unixTime) time() time.Time {
	if u == 0 {
		return time.Time{}
	}
	return time.Unix(int64(u), 0)
}

// isShared reports whether several hosts may hold a session.
func (s *session) isShared() bool { return s.family != records.ID{} }

// keptSession is a session with its cookie and handle, as this process remembers it.
type keptSession struct {
	*session
	seen   unixTime  // when the cookie was sealed
	handle *handle   // nil where the session rests in its cookie
	cookie openedKey // what it is remembered by

	isWeighedWithClaims atomic.Bool // see memory.weigh
}

// with returns k with another state of its session.
func (k *keptSession) with(s *session) *keptSession {
	return &keptSession{session: s, seen: k.seen, handle: k.handle, cookie: k.cookie}
}

// name returns the session's name in the storage.
func (s *session) name() string { return hex.EncodeToString(s.id[:]) }

// endBy makes the session end at t, unless it ends earlier.
func (s *session) endBy(t time.Time) {
	if end := toUnix(t); end < s.expires {
		s.expires = end
	}
}

// limit makes a session, and its token, end no later than the tokens say.
func (s *session) limit(end limits) {
	if !end.token.IsZero() && end.token.Before(s.tokenEnds.time()) {
		s.tokenEnds = toUnix(end.token)
		if s.refresh == "" {
			s.endBy(end.token)
		}
	}
	if !end.session.IsZero() {
		s.endBy(end.session)
	}
}

// isAlive reports whether a session's token has not expired. A token that came in the future counts as expired:
// the clock was ahead, so its expiry is wrong as well.
func isAlive(s *session, now time.Time) bool {
	return now.Before(s.tokenEnds.time()) && !s.tokenCame.time().After(now.Add(records.ClockSkew))
}

// copy returns a session that may be changed until it is in use.
func (s *session) copy() *session {
	return &session{
		grant: grant{bearer: s.bearer, scope: s.scope, idToken: s.idToken},
		id:    s.id, created: s.created, expires: s.expires, tokenCame: s.tokenCame, tokenEnds: s.tokenEnds,
		refresh: s.refresh, attempt: s.attempt, spending: s.spending, givenUp: s.givenUp, family: s.family,
	}
}
