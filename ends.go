package aventusauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// ends knows which sessions have ended before their time, here or at another instance, and ends them.
type ends struct {
	ended  *records.Ended
	issuer string
}

// has reports whether a session has ended before its time, as far as it is known.
func (e *ends) has(s *session) bool {
	// The first call waits for the first answer of the storage.
	e.ended.Begin()
	return e.ended.Has(s.id, s.created.time()) || s.isShared() && e.ended.Has(s.family, s.created.time()) ||
		e.ended.HasPartial() && e.hasName(s.subject(), s.serverSession(), s.created.time())
}

// hasName reports whether what a session of a user is called at the authorization server has ended since
// it began. Few sites ever see such an end: where HasPartial says that there is none, it need not be asked.
func (e *ends) hasName(sub, sid string, began time.Time) bool {
	return slices.ContainsFunc(e.names(sub, sid), func(name records.ID) bool { return e.ended.Has(name, began) })
}

// names returns the ids that a session can be ended by, besides its own.
func (e *ends) names(sub, sid string) []records.ID {
	if sid == "" {
		return []records.ID{subjectID(e.issuer, sub), unnamedID(e.issuer, sub)}
	}
	return []records.ID{subjectID(e.issuer, sub), serverSessionID(e.issuer, sid)}
}

// hasMeanwhile reports whether the session that a login is about to make has ended while the login was under way,
// from when it began: at the authorization server, or by a logout at another host, which ends its families.
//
// A login that is started again for that begins after those ends, whatever the clocks say: several ends within a
// second are noted a second apart, and another instance may have noted them by a clock that is ahead. Therefore
// hasMeanwhile also returns a digest of the ends that are known now. The next time, the login brings it as seen, and
// the same ends do not count.
func (e *ends) hasMeanwhile(s *session, families []records.ID, began time.Time, seen records.ID) (bool, records.ID) {
	e.ended.Begin()
	if !e.ended.HasPartial() {
		return false, records.ID{}
	}
	sub, sid := s.subject(), s.serverSession()
	ended := false
	var known []string
	note := func(name records.ID, hasEnded bool) {
		ended = ended || hasEnded
		known = append(known, string(name[:]), e.ended.After(name).String())
	}
	names := []records.ID{loginsID(e.issuer, sub)}
	if sid == "" {
		names = append(names, unnamedLoginsID(e.issuer, sub))
	}
	for _, name := range names {
		note(name, e.ended.Has(name, began))
	}
	for _, family := range families {
		note(family, e.hasFamilySince(family, began))
	}
	digest := idOf(known...)
	// A session at the authorization server never begins again.
	isOver := sid != "" && e.ended.Has(serverSessionID(e.issuer, sid), began)
	return isOver || ended && digest != seen, digest
}

// endAt ends the sessions that a logout token names. A session lasts no longer than lifetime. It ends what expectAt
// has ended at this instance, and nothing that began after that.
func (e *ends) endAt(ctx context.Context, said aventus.Logout, now time.Time, lifetime time.Duration) error {
	e.ended.Begin()
	var failed []error
	for _, name := range e.namedBy(said, now, lifetime) {
		if name.isWhole {
			failed = append(failed, e.ended.EndNamed(ctx, name.id, name.until))
		} else {
			failed = append(failed, e.ended.EndBefore(ctx, name.id, name.since, name.until))
		}
	}
	return errors.Join(failed...)
}

// expectAt ends at this instance alone what endAt is about to end, and does not access the storage. How long the
// sessions could last does not matter until then.
func (e *ends) expectAt(said aventus.Logout, now time.Time) {
	for _, name := range e.namedBy(said, now, 0) {
		e.ended.ExpectBefore(name.id, name.since, name.until)
	}
}

// endLaterAt is expectAt where no endAt follows: the ends are written in the background. Since only the storage could
// tell how long other instances' sessions last, they are noted for as long as any may.
func (e *ends) endLaterAt(said aventus.Logout, now time.Time) {
	for _, name := range e.namedBy(said, now, maxLifetime) {
		e.ended.EndLater(name.id, name.since, name.until)
	}
	go e.ended.Begin() // what begins it writes them
}

// named is an end of everything with a name: of what began by since or, if isWhole, of all that begins by until.
type named struct {
	id           records.ID
	since, until time.Time
	isWhole      bool
}

// namedBy returns what a logout token ends: a session at the server and, since those cannot be distinguished, all
// sessions of its user that do not say which one they came from; or all sessions of the user. It also ends logins
// that are under way. What began by the time at which the token was issued has ended, so a token that is sent again
// ends nothing new. A session or a login may have begun by a clock that is ahead, so ClockSkew is added to the time;
// hasMeanwhile lets a login pass that has started over for these ends.
func (e *ends) namedBy(said aventus.Logout, now time.Time, lifetime time.Duration) []named {
	since, forLogins := said.Issued.Add(records.ClockSkew), now.Add(2*loginLifetime)
	if said.SessionID == "" {
		return []named{
			{id: subjectID(e.issuer, said.Subject), since: since, until: now.Add(rememberUserEnd)},
			{id: loginsID(e.issuer, said.Subject), since: since, until: forLogins},
		}
	}
	until := now.Add(lifetime + 24*time.Hour)
	names := []named{{serverSessionID(e.issuer, said.SessionID), until, until, true}}
	if said.Subject != "" {
		names = append(names,
			named{id: unnamedID(e.issuer, said.Subject), since: since, until: until},
			named{id: unnamedLoginsID(e.issuer, said.Subject), since: since, until: forLogins})
	}
	return names
}

// hasAt reports whether all that a logout token ends is known to have ended, here and elsewhere.
func (e *ends) hasAt(ctx context.Context, said aventus.Logout) bool {
	e.ended.Begin()
	e.learn(ctx) // another instance may have ended it a moment ago
	return !slices.ContainsFunc(e.namedBy(said, said.Issued, 0), func(name named) bool {
		began := name.since
		if name.isWhole { // until a time that depends on when the token came
			began = said.Issued
		}
		return !e.ended.HasEverywhere(name.id, began)
	})
}

// known returns an error if this instance does not know which sessions have ended by now. It may then let in none.
// What has said before may not hold any more, unless isKnown held before that.
func (e *ends) known(ctx context.Context, now time.Time) error { return e.ended.Known(ctx, now) }

// isKnown is known, but never asks.
func (e *ends) isKnown(now time.Time) bool { return e.ended.IsKnown(now) }

// hasID is has for a session whose user is not known.
func (e *ends) hasID(s *session) bool { return e.ended.Has(s.id, s.created.time()) }

// hasListed is has for a session of which only the index is read.
func (e *ends) hasListed(about listed) bool {
	e.ended.Begin()
	return e.ended.Has(about.id, about.Created) || e.ended.Has(about.family, about.Created) ||
		e.ended.HasPartial() && e.hasName(about.Sub, about.ServerSession, about.Created)
}

// canEndListed reports whether there is something to end: a session that goes on, or an end that is still to be
// written for the other instances.
func (e *ends) canEndListed(about listed) bool {
	return !e.hasListed(about) || e.isAnyUnwritten(about.Sub, about.ServerSession, about.id, about.family)
}

// end ends the session of an id, which would have lived until then.
func (e *ends) end(ctx context.Context, id records.ID, until time.Time) error {
	e.ended.Begin()
	return e.ended.End(ctx, id, until)
}

// replace ends a session as end does, where a new one may live on the same grant.
func (e *ends) replace(ctx context.Context, id records.ID, until time.Time) error {
	e.ended.Begin()
	return e.ended.Replace(ctx, id, until)
}

// wasEnded reports whether the session of an id is known to have ended by anything but a login of the same person
// that replaced it: by a logout, as a rule. Where it was revoked, or another person has signed in, a login that is
// under way starts over as well.
func (e *ends) wasEnded(id records.ID) bool {
	e.ended.Begin()
	return e.ended.Has(id, time.Time{}) && !e.ended.WasReplaced(id)
}

// mayRevoke reports whether no other session is known to live on a session's grant.
func (e *ends) mayRevoke(s *session) bool { return !e.ended.WasReplaced(s.id) }

// endUser ends all sessions of a user that have begun by now. A session that began by a clock that is
// ahead of this one has begun by now, too.
func (e *ends) endUser(ctx context.Context, sub string, now time.Time) error {
	e.ended.Begin()
	return e.ended.EndBefore(ctx, subjectID(e.issuer, sub), now.Add(records.ClockSkew), now.Add(rememberUserEnd))
}

// endFamily ends all sessions of a family that have begun by now, and would have lived until then.
func (e *ends) endFamily(ctx context.Context, family records.ID, now, until time.Time) error {
	e.ended.Begin()
	return e.ended.EndBefore(ctx, family, now.Add(records.ClockSkew), until)
}

// expectFamily ends the same at this instance, for a caller that is about to call endFamily.
func (e *ends) expectFamily(family records.ID, now time.Time) {
	e.ended.ExpectBefore(family, now.Add(records.ClockSkew), now.Add(maxLifetime))
}

// learn asks the storage which sessions other instances have ended. If that fails, the ends known so far count.
func (e *ends) learn(ctx context.Context) { _ = e.ended.Learn(ctx) }

// hasFamilySince reports whether a family was ended after a time, by whichever clock that ended it.
func (e *ends) hasFamilySince(family records.ID, began time.Time) bool {
	return began.Before(e.ended.After(family).Add(-time.Second - records.ClockSkew)) // which endFamily has added
}

// hasFamilyUntil reports whether all that endFamily would end by now is known, here and elsewhere, to have ended. That
// the family has ended by now does not tell: an end lies ahead, and a session that was made since begins after it.
func (e *ends) hasFamilyUntil(family records.ID, now time.Time) bool {
	return e.ended.HasEverywhere(family, now.Add(records.ClockSkew)) // which endFamily adds
}

// after returns the first moment at which a session of a user may begin, and of a family, and not have
// ended with those before it.
func (e *ends) after(s *session) time.Time {
	e.ended.Begin()
	if !e.ended.HasPartial() {
		return time.Time{}
	}
	after := e.ended.After(subjectID(e.issuer, s.subject()))
	if family := e.ended.After(s.family); family.After(after) {
		after = family
	}
	if s.serverSession() == "" {
		if other := e.ended.After(unnamedID(e.issuer, s.subject())); other.After(after) {
			return other
		}
	}
	return after
}

// isUnwritten reports whether a session's end holds here, by any of the ids that it can be ended by, and is still to
// be written for the other instances.
func (e *ends) isUnwritten(s *session) bool {
	return e.isAnyUnwritten(s.subject(), s.serverSession(), s.id, s.family)
}

func (e *ends) isAnyUnwritten(sub, sid string, ids ...records.ID) bool {
	return slices.ContainsFunc(append(ids, e.names(sub, sid)...), e.ended.IsUnwritten)
}

// subjectID is the id that ends all sessions of a user.
func subjectID(issuer, sub string) records.ID { return idOf("subject", issuer, sub) }

// serverSessionID is the id that ends all sessions that came of one at the authorization server.
func serverSessionID(issuer, sid string) records.ID { return idOf("sid", issuer, sid) }

// unnamedID is the id that ends those sessions of a user whose session at the authorization server is not known.
func unnamedID(issuer, sub string) records.ID { return idOf("subject without sid", issuer, sub) }

// loginsID is the id that ends the logins of a user that are under way, and unnamedLoginsID ends those of them
// that make a session whose session at the authorization server is not known.
func loginsID(issuer, sub string) records.ID        { return idOf("logins of subject", issuer, sub) }
func unnamedLoginsID(issuer, sub string) records.ID { return idOf("logins without sid", issuer, sub) }

// idOf returns the id of a thing in the storage: a hash, so that the storage shows nothing of its parts.
func idOf(parts ...string) records.ID {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return records.ID(sum[:])
}
