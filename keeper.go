package aventusauth

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// keeper opens, saves, remembers and ends sessions. It renews none.
type keeper struct {
	sessionBox *keyring.Box // seals what a session's cookie holds
	store      *sessionStore
	ends       *ends
	memory     *memory
	// what its sessions are remembered by, beside their cookies and origins
	memoryID [8]byte
	confirm  func(context.Context)             // has what is remembered count, before it is used
	lastUses *lru.Cache[records.ID, time.Time] // of sessions that several hosts share, as far as it is known here
	tries    *attempts                         // for what is still to be recorded
	cookies  *cookies
	meter    *meter

	// how long a session of other blocks, instances and configs may last, at most
	longest func(context.Context) time.Duration

	lifetime, idle time.Duration // idle is zero where it is off
	inStorage      bool          // all sessions rest there
	now            func() time.Time
}

// make makes the session of a token that has just come.
func (kp *keeper) make(token *oauth2.Token, idToken []byte) *session {
	now := kp.now()
	s := &session{
		grant:   grant{bearer: bearer + token.AccessToken, scope: aventus.Scope(token), idToken: string(idToken)},
		created: toUnix(now),
	}
	_, _ = rand.Read(s.id[:]) // never fails (crypto/rand)
	s.expires = toUnix(now.Add(kp.lifetime))
	s.tokenCame, s.tokenEnds = s.created, s.created+unixTime(token.ExpiresIn)
	if s.refresh = token.RefreshToken; s.refresh == "" {
		s.endBy(s.tokenEnds.time())
	}
	return s
}

// load returns the session that the request's cookies hold, or nil if none of them is valid here
// and now. After an error, it is not known whether there is one.
func (kp *keeper) load(ctx context.Context, at site, cookies []string, now time.Time) (*keptSession, error) {
	for value := range cookieValues(cookies, kp.cookies.session) {
		k, isRemembered, err := kp.open(ctx, at, value)
		if err != nil {
			return nil, err
		}
		if !isRemembered { // it may have taken long
			now = kp.now()
		}
		isKnown := kp.ends.isKnown(now)
		k, reason, err := kp.judge(ctx, k, now)
		if err != nil {
			return nil, err
		}
		if reason == "" && !isKnown {
			if err := kp.ends.known(ctx, now); err != nil {
				return nil, err
			}
			if kp.hasEnded(k.session) {
				reason = "ended"
			}
		}
		if reason == "" {
			return k, nil
		}
		kp.meter.sessionOver(reason)
	}
	return nil, nil
}

// judge is whyOver, but for a session that is idle at one host and was used at another that shares it. That one it
// returns as seen there.
func (kp *keeper) judge(ctx context.Context, k *keptSession, now time.Time) (*keptSession, string, error) {
	reason := kp.whyOver(k, now)
	if reason != "idle" || !k.isShared() {
		return k, reason, nil
	}
	k, err := kp.usedElsewhere(ctx, k)
	if err != nil {
		return nil, "", err
	}
	return k, kp.whyOver(k, kp.now()), nil
}

// whyOver returns why a session is not good any more by now, in a word, or "".
func (kp *keeper) whyOver(k *keptSession, now time.Time) string {
	switch {
	case k == nil: // sealed for another purpose, or forged; or its record is gone
		return "invalid"
	case isAhead(k, now):
		return "invalid"
	case !now.Before(kp.lastOf(k.session)):
		return "expired"
	case kp.idle > 0 && !now.Before(k.seen.time().Add(kp.idle)):
		return "idle"
	case kp.hasEnded(k.session):
		return "ended"
	}
	return ""
}

// isAhead reports whether a session's cookie was sealed in the future, as keyring.Box.Open judges it: the clock
// was set back since.
func isAhead(k *keptSession, now time.Time) bool { return isFuture(k.seen.time(), now) }

// isFuture reports whether a time is further ahead than the clocks of instances may differ.
func isFuture(t, now time.Time) bool { return t.After(now.Add(records.ClockSkew)) }

// open returns the session of a cookie's value, or nil if there is none, and whether it was remembered. Beside
// the error that a session's record cannot be read, it returns what the cookie's handle says of it: enough to
// end it.
func (kp *keeper) open(ctx context.Context, at site, value string) (k *keptSession, isRemembered bool, err error) {
	key, ok := kp.memory.key(kp.memoryID, at.origin, value)
	if !ok {
		return nil, false, nil
	}
	kp.confirm(ctx)
	if k, ok := kp.memory.get(key); ok {
		return k, true, nil
	}
	plaintext, seen, err := kp.sessionBox.Open(ctx, value, at.associated)
	if errors.Is(err, keyring.ErrInvalid) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	k = &keptSession{seen: toUnix(seen), cookie: key}
	if stored, ok := parseHandle(plaintext); ok {
		k.handle = stored
		if k.session, err = kp.read(ctx, at, stored); err != nil {
			k.session = &session{
				grant: grant{bearer: bearer}, id: stored.id, created: toUnix(seen), expires: stored.expires,
				family: stored.family,
			}
			return k, false, err
		}
		if k.session == nil {
			return nil, false, nil
		}
	} else if k.session, ok = parseSession(plaintext); !ok {
		return nil, false, nil
	}
	if kp.now().Before(kp.lastOf(k.session)) { // else another instance may still record that it goes on
		kp.memory.add(k)
	}
	return k, false, nil
}

// endOf returns when a session ends, if it is not used until then.
func (kp *keeper) endOf(k *keptSession) time.Time {
	end := kp.lastOf(k.session)
	if idle := k.seen.time().Add(kp.idle); kp.idle > 0 && idle.Before(end) {
		return idle
	}
	return end
}

// lastOf returns when a session ends at the latest. The lifetime may be shorter by
// now than it was when the session began.
func (kp *keeper) lastOf(s *session) time.Time {
	if last := s.created.time().Add(kp.lifetime); last.Before(s.expires.time()) {
		return last
	}
	return s.expires.time()
}

// save keeps a new session, and sets its cookie, which holds it, or the handle of its record
// in the storage. The answer, which leads to location, has to fit what a proxy in front takes, and so have the
// requests that come with the cookie and with the others that the browser has sent.
func (kp *keeper) save(
	w http.ResponseWriter, ctx context.Context, at site, cookies []string, s *session, location string,
) (*keptSession, error) {
	plaintext, err := s.marshal()
	if err != nil {
		return nil, err
	}
	room := min(maxCookie, kp.cookies.room(cookies), roomIn(w.Header())-len(location)) - len(kp.cookies.session+"=")
	// A refresh token never leaves the server.
	if kp.inStorage || s.refresh != "" || keyring.EncodedLen(len(plaintext)) > room {
		k, err := kp.put(ctx, at, s)
		if err != nil {
			return nil, err
		}
		return k, kp.hand(w, ctx, at, k)
	}
	k := &keptSession{session: s}
	return k, kp.give(w, ctx, at, k, plaintext)
}

// put keeps a new session in the storage.
func (kp *keeper) put(ctx context.Context, at site, s *session) (*keptSession, error) {
	k := &keptSession{session: s, handle: newHandle(s)}
	return k, kp.store.put(ctx, at, k.handle, s)
}

// hand sets the cookie of a session that rests in the storage.
func (kp *keeper) hand(w http.ResponseWriter, ctx context.Context, at site, k *keptSession) error {
	plaintext, err := k.handle.marshal()
	if err != nil {
		return err
	}
	return kp.give(w, ctx, at, k, plaintext)
}

// give sets the cookie of a session to what is to be in it. The visitor comes back with it at once.
func (kp *keeper) give(w http.ResponseWriter, ctx context.Context, at site, k *keptSession, plaintext []byte) error {
	value, err := kp.seal(w, ctx, at, k.session, plaintext)
	if err != nil {
		return err
	}
	k.seen = toUnix(kp.now())
	if key, ok := kp.memory.key(kp.memoryID, at.origin, value); ok {
		k.cookie = key
		kp.memory.add(k)
	}
	return nil
}

// read returns the session of a handle as its record has it, or is to have it as soon as the storage takes writes. If
// there is no record, the session is over.
func (kp *keeper) read(ctx context.Context, at site, d *handle) (*session, error) {
	s, err := kp.store.fetch(ctx, at, d)
	if renewed := kp.tries.of(d.id).unrecorded; s != nil && renewed != nil {
		return renewed, nil
	}
	return s, err
}

// fetch returns the session of a handle as it is by now, or nil if it is over.
func (kp *keeper) fetch(ctx context.Context, at site, d *handle) (*keptSession, error) {
	s, err := kp.read(ctx, at, d)
	if err != nil || s == nil {
		return nil, err
	}
	now := kp.now()
	k := &keptSession{session: s, seen: toUnix(now), handle: d}
	if reason := kp.whyOver(k, now); reason != "" {
		kp.meter.sessionOver(reason)
		return nil, nil
	}
	return k, nil
}

// adopt sets the cookie, at one host, of a session that another has. That is a use of the session.
func (kp *keeper) adopt(w http.ResponseWriter, ctx context.Context, at site, k *keptSession) error {
	kp.noteUse(ctx, k)
	return kp.hand(w, ctx, at, k)
}

// familiesIn returns the families of the sessions that the handles in some cookies are of, whatever has become
// of those.
func (kp *keeper) familiesIn(ctx context.Context, at site, cookies []string) (families []records.ID) {
	for _, d := range kp.sharedIn(ctx, at, cookies) {
		families = append(families, d.family)
	}
	return families
}

// leftIn returns a handle in some cookies whose family is not known to have ended everywhere, or nil. Its own session
// may be over.
func (kp *keeper) leftIn(ctx context.Context, at site, cookies []string) *handle {
	for _, d := range kp.sharedIn(ctx, at, cookies) {
		if !kp.ends.hasFamilyUntil(d.family, kp.now()) {
			return d
		}
	}
	return nil
}

// sharedIn returns the handles in some cookies that are of a family.
func (kp *keeper) sharedIn(ctx context.Context, at site, cookies []string) (found []*handle) {
	for plaintext := range kp.sealedIn(ctx, at, cookies) {
		if d, ok := parseHandle(plaintext); ok && d.family != (records.ID{}) {
			found = append(found, d)
		}
	}
	return found
}

// idsIn returns the ids of the sessions in some cookies, whatever has become of those.
func (kp *keeper) idsIn(ctx context.Context, at site, cookies []string) (ids []records.ID) {
	for plaintext := range kp.sealedIn(ctx, at, cookies) {
		if d, ok := parseHandle(plaintext); ok {
			ids = append(ids, d.id)
		} else if s, ok := parseSession(plaintext); ok {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// sealedIn returns what is sealed in some cookies for this block's sessions.
func (kp *keeper) sealedIn(ctx context.Context, at site, cookies []string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for value := range cookieValues(cookies, kp.cookies.session) {
			plaintext, _, err := kp.sessionBox.Open(ctx, value, at.associated)
			if err == nil && !yield(plaintext) {
				return
			}
		}
	}
}

// noteUse notes for the other hosts that a session which they share is used, once in a quarter of the idle time. What
// was noted by a clock that was ahead does not count.
func (kp *keeper) noteUse(ctx context.Context, k *keptSession) {
	now := kp.now()
	last, _ := kp.lastUses.Get(k.id)
	if age := now.Sub(last); kp.idle == 0 || !k.isShared() || 0 <= age && age < kp.idle/4 {
		return
	}
	// Where it fails, the session may be over at other hosts too early.
	if kp.store.noteUse(ctx, k.handle, now) == nil {
		kp.lastUses.Add(k.id, now)
	}
}

// touch seals the session's cookie anew once a quarter of the idle time has passed since it was last sealed,
// which notes that the session was used. Without an idle time it does nothing. The other hosts that share the session
// are told by noteUse, when the cookie is sent.
func (kp *keeper) touch(w http.ResponseWriter, ctx context.Context, at site, k *keptSession) error {
	if kp.idle == 0 || kp.now().Sub(k.seen.time()) < kp.idle/4 {
		return nil
	}
	return kp.reseal(w, ctx, at, k)
}

// usedElsewhere returns a session that is idle at one host as one that was seen when any of the hosts that
// share it last saw it. A time that was noted by a clock far ahead is none.
func (kp *keeper) usedElsewhere(ctx context.Context, k *keptSession) (*keptSession, error) {
	last, known := kp.lastUses.Get(k.id)
	if now := kp.now(); !known || !now.Before(last.Add(kp.idle)) || isFuture(last, now) {
		var err error
		if last, err = kp.store.lastUse(ctx, k.handle); err != nil {
			return nil, err
		}
		kp.lastUses.Add(k.id, last)
	}
	if last.After(k.seen.time()) && !isFuture(last, kp.now()) {
		k = k.with(k.session)
		k.seen = toUnix(last)
	}
	return k, nil
}

func (kp *keeper) reseal(w http.ResponseWriter, ctx context.Context, at site, k *keptSession) error {
	marshal := k.session.marshal
	if k.handle != nil {
		marshal = k.handle.marshal
	}
	plaintext, err := marshal()
	if err != nil {
		return err
	}
	return kp.give(w, ctx, at, k.with(k.session), plaintext) // others use k meanwhile
}

// seal seals a plaintext and sets the session's cookie to it. The time of sealing is when the
// session was last seen. It returns the cookie's value.
func (kp *keeper) seal(
	w http.ResponseWriter, ctx context.Context, at site, s *session, plaintext []byte,
) (string, error) {
	value, err := kp.sessionBox.Seal(ctx, plaintext, at.associated)
	if err != nil {
		return "", err
	}
	age := kp.lastOf(s).Sub(kp.now())
	if kp.idle > 0 && !s.isShared() { // a shared one may be used at another host
		age = min(age, kp.idle)
	}
	kp.cookies.set(w, kp.cookies.session, value, age)
	return value, nil
}

// remembered returns a session as this process remembers it by now.
func (kp *keeper) remembered(key openedKey) (*keptSession, bool) { return kp.memory.get(key) }

// replace remembers another state of a session in place of k.
func (kp *keeper) replace(k *keptSession, s *session) *keptSession {
	next := k.with(s)
	kp.memory.add(next)
	return next
}

// hasEnded reports whether a session has ended before its time, as far as it is known.
func (kp *keeper) hasEnded(s *session) bool { return kp.ends.has(s) }

// learn asks the storage which sessions other instances have ended.
func (kp *keeper) learn(ctx context.Context) { kp.ends.learn(ctx) }

// forget removes a session from memory. The next request opens it anew.
func (kp *keeper) forget(k *keptSession) { kp.memory.forget(k.cookie) }

// end ends a session everywhere, and with it what other hosts hold of its family in the same browser. It
// has ended here even if that fails.
func (kp *keeper) end(ctx context.Context, k *keptSession) error {
	return errors.Join(kp.endBy(ctx, k, kp.ends.end), kp.endFamily(ctx, k.family))
}

// endListed ends a session of which only the index is read, with its family.
func (kp *keeper) endListed(ctx context.Context, about listed) error {
	err := kp.ends.end(ctx, about.id, about.Expires)
	return errors.Join(err, kp.endFamily(ctx, about.family))
}

// endFamily ends what hosts hold of a family, if it is one.
func (kp *keeper) endFamily(ctx context.Context, family records.ID) error {
	if family == (records.ID{}) {
		return nil
	}
	// The login host makes the sessions of a family. Its block may have another lifetime than this one, and each of
	// them has an end of its own.
	now := kp.now()
	kp.ends.expectFamily(family, now) // the storage is asked first
	return kp.ends.endFamily(ctx, family, now, now.Add(kp.longest(ctx)+records.ClockSkew))
}

// endReplaced ends a session as end does, but for its family, where a new one may live on the same grant: no
// instance revokes it, nor one that is just renewing the session.
func (kp *keeper) endReplaced(ctx context.Context, k *keptSession) error {
	return kp.endBy(ctx, k, kp.ends.replace)
}

func (kp *keeper) endBy(
	ctx context.Context, k *keptSession, end func(context.Context, records.ID, time.Time) error,
) error {
	err := end(ctx, k.id, k.last())
	if k.handle != nil {
		err = errors.Join(err, kp.store.delete(ctx, k.name(), k.handle.expires.time()))
	}
	return err
}

// endNewest is end, and returns the session as its record had it. The ends do not wait for each other: the storage
// may hang. The record is read after them: a renewal at another instance that writes a record later than this asks
// for the ends afterwards, and finds this one. So one of the two knows the refresh token that is to be revoked.
func (kp *keeper) endNewest(ctx context.Context, at site, k *keptSession) (*session, error) {
	ended := make(chan error, 2)
	go func() { ended <- kp.ends.end(ctx, k.id, k.last()) }()
	go func() { ended <- kp.endFamily(ctx, k.family) }()
	err := errors.Join(<-ended, <-ended)
	newest, deleteErr := kp.takeRecord(ctx, at, k)
	return newest, errors.Join(err, deleteErr)
}

// endReplacedNewest is endReplaced, and returns the session as endNewest does.
func (kp *keeper) endReplacedNewest(ctx context.Context, at site, k *keptSession) (*session, error) {
	err := kp.ends.replace(ctx, k.id, k.last())
	newest, deleteErr := kp.takeRecord(ctx, at, k)
	return newest, errors.Join(err, deleteErr)
}

// takeRecord deletes the record of a session that has ended, and returns the session as the record had it.
func (kp *keeper) takeRecord(ctx context.Context, at site, k *keptSession) (*session, error) {
	if k.handle == nil {
		return k.session, nil
	}
	newest := kp.store.newest(ctx, at, k)
	return newest, kp.store.delete(ctx, k.name(), k.handle.expires.time())
}

// last returns when a session ends by itself. A record may say another end by now than this process remembers.
func (k *keptSession) last() time.Time {
	if k.handle != nil {
		return max(k.handle.expires, k.expires).time()
	}
	return k.expires.time()
}
