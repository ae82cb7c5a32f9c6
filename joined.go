package aventusauth

import (
	"context"
	"net/http"
	"reflect"
	"slices"
)

// join keeps the session that a login has made at the host that several share. If another tab's login has made one
// since this one began, which says the same, it returns that one: so the tabs that a browser opens at once at several
// hosts are in one session, in whichever order their logins finish. What this login has got is dropped then. Its
// refresh token is not revoked, since that may end the grant of the other one (see mayShareGrant), and nothing is
// left that knows it.
//
// The browser's cookie tells of a session that any instance has made. Of logins that finish at the same moment, none
// brings the session of another: they join as far as they finish at this instance. Otherwise, each of them has a
// session of its own, of one family.
//
// It also returns the sessions before that are to be ended.
func (rp *replacer) join(
	r *http.Request, at site, l *login, s *session,
) (k *keptSession, before []*keptSession, err error) {
	ctx := context.WithoutCancel(r.Context()) // others may wait for it
	isOwn := false
	put := func() (*keptSession, error) {
		isOwn = true
		k, err := rp.own.keeper.put(ctx, at, s)
		if err == nil {
			before = rp.remember(at, l, k)
		}
		return k, err
	}
	family := idOf("join", string(at.group), string(s.family[:]))
	joined, err, _ := rp.latest.joining.Do(string(family[:]), func() (any, error) {
		if k := rp.another(r, at, l, s); k != nil {
			return k, nil
		}
		return put()
	})
	k, _ = joined.(*keptSession)
	if !isOwn && (err != nil || !s.mayJoin(k.session, l)) { // what another login waited for is not for this one
		k, err = put()
	}
	if err != nil {
		return nil, nil, err
	}
	return k.with(k.session), before, nil // its cookie is each login's own
}

// another returns the session that a login joins, as its record has it by now, or nil.
func (rp *replacer) another(r *http.Request, at site, l *login, s *session) *keptSession {
	brought, _ := heldBy(r.Context(), []present{{rp.own, at}}, asSent(r).cookies)
	var made []*keptSession
	for _, old := range brought {
		made = append(made, old.keptSession)
	}
	latest := rp.latest.of(jarID(present{rp.own, at}, l.browser))
	for _, k := range append(made, latest[:min(len(latest), 1)]...) {
		if k.handle == nil || k.family != s.family || k.created.time().Before(l.began) {
			continue
		}
		k, err := rp.own.keeper.fetch(r.Context(), at, k.handle)
		if err == nil && k != nil && s.mayJoin(k.session, l) && isAlive(k.session, rp.now()) {
			return k
		}
	}
	return nil
}

// mayJoin reports whether another session of the family will do for a login that made s: one that began since, by the
// clock here (created may lie ahead), and that has at least half as much left. A person may have signed in for another
// organization, or with other scopes, or anew, by which the server's logout will name the session.
func (s *session) mayJoin(other *session, l *login) bool {
	org, _ := s.claim("org_id")
	otherOrg, _ := other.claim("org_id")
	return !other.created.time().Before(l.began) && !other.tokenCame.time().Before(l.began) &&
		(other.refresh != "" || s.refresh == "") &&
		(other.refresh != "" || other.tokenEnds-s.tokenCame >= (s.tokenEnds-s.tokenCame)/2) &&
		s.subject() != "" && other.subject() == s.subject() && other.serverSession() == s.serverSession() &&
		slices.Equal(other.accessClaims().Grants(other.scope), s.accessClaims().Grants(s.scope)) &&
		reflect.DeepEqual(otherOrg, org)
}
