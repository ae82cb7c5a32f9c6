package aventusauth

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// replacer knows what else the browser of a login has: the sessions that the login replaces or joins, and those that
// its latest logins made, which a logout ends, too.
type replacer struct {
	own    *neighbour
	blocks *neighbours
	latest *lastLogins
	now    func() time.Time
	logger *zap.Logger
}

// endReplaced ends the sessions whose cookies the login that came to s overwrites, of any block, and those before,
// as remember or join returned them: the browser has none of them any more, and a copy of the cookie is not to outlive
// the logout that comes.
// A failure does not fail the login; this instance knows the end in any case.
//
// Of two concurrent callbacks, neither brings the session that the other makes. As far as this process made
// it, within loginLifetime, it is ended, too: by the logout, or by a login once tabsSettle has passed. Until
// then, pages of the other tab may still be asked for with it, and to end it would send that tab to the login
// again.
//
// What hosts that share the login have of the same person lives on: a page of another host may still be
// asked for with it. It ends with its family, or by itself.
func (rp *replacer) endReplaced(r *http.Request, at site, s *session, before []*keptSession) {
	rp.endBrought(r, rp.overwritten(r, at), s)
	rp.report(rp.endMade(rp.own.keeper, slices.DeleteFunc(before, s.isOfFamily), func(k *keptSession) error {
		return rp.own.keeper.endReplaced(r.Context(), k) // whose they were is not remembered
	}))
}

// broughtTo returns the ids of the sessions whose cookies a callback brings, of any block, as the logout ends them,
// whatever has become of those. It reads no record.
func (rp *replacer) broughtTo(r *http.Request, at site) (ids []records.ID) {
	for _, b := range rp.blocks.atHost(rp.own, r, at) {
		ids = append(ids, b.keeper.idsIn(r.Context(), b.at, asSent(r).cookies)...)
	}
	return ids
}

// remember remembers the session that a login has made as its browser's latest. It returns those before that are
// to be ended.
func (rp *replacer) remember(at site, l *login, k *keptSession) (before []*keptSession) {
	s := k.session
	return rp.latest.add(jarID(present{rp.own, at}, l.browser), &keptSession{
		session: &session{ // without tokens
			grant: grant{bearer: bearer}, id: s.id, created: s.created, expires: s.expires, family: s.family,
		},
		handle: k.handle,
		seen:   toUnix(rp.now()),
	})
}

// overwritten returns the blocks whose session's cookie a new session overwrites at a host.
func (rp *replacer) overwritten(r *http.Request, at site) []present {
	return slices.DeleteFunc(rp.blocks.atHost(rp.own, r, at), func(b present) bool {
		return b.cookies.session != rp.own.cookies.session
	})
}

// endBrought ends the sessions of some blocks whose cookies a request brings, and s replaces.
func (rp *replacer) endBrought(r *http.Request, blocks []present, s *session) {
	sessions, err := heldBy(r.Context(), blocks, asSent(r).cookies)
	rp.report(err)
	for _, old := range sessions {
		if !old.canEnd() || old.id == s.id || s.isOfFamily(old.keptSession) {
			continue
		}
		end := old.by.keeper.endNewest
		sharesGrant := rp.mayShareGrant(s, old)
		if sharesGrant {
			end = old.by.keeper.endReplacedNewest
		}
		newest, err := end(r.Context(), old.by.at, old.keptSession)
		rp.report(err)
		if sharesGrant && old.family != s.family { // the user of that one is not known
			rp.report(old.by.keeper.endFamily(r.Context(), old.family))
		}
		go old.by.server.revoke(context.WithoutCancel(r.Context()), newest)
	}
}

// revokeDropped revokes the refresh token of a session that a login has made, and that is dropped at once, unless that
// may end what the browser has by its cookies.
func (rp *replacer) revokeDropped(r *http.Request, at site, s *session) {
	brought, _ := heldBy(r.Context(), rp.blocks.atHost(rp.own, r, at), asSent(r).cookies)
	sharesGrant := func(old held) bool { return old.canEnd() && rp.mayShareGrant(s, old) }
	if !slices.ContainsFunc(brought, sharesGrant) {
		go rp.own.server.revoke(context.WithoutCancel(r.Context()), s)
	}
}

// revokeUnkept is revokeDropped for a session beside which others may be made. It revokes nothing either where that
// may end what the browser has by its latest logins, or, at hosts that share a login, by one of several tabs that is
// just being kept.
func (rp *replacer) revokeUnkept(r *http.Request, at site, l *login, s *session) {
	latest := slices.ContainsFunc(rp.latest.of(jarID(present{rp.own, at}, l.browser)), func(k *keptSession) bool {
		return rp.now().Before(k.expires.time()) && !rp.own.keeper.hasEnded(k.session)
	})
	if rp.own.sites.hosts == nil && !latest {
		rp.revokeDropped(r, at, s)
	}
}

// isOfFamily reports whether another session is of the same family and, as far as it is known, the same
// person's.
func (s *session) isOfFamily(other *keptSession) bool {
	return s.isShared() && other.family == s.family && s.subject() != ""
}

// familyOf returns the family of a session that a login makes at the host that several share: that of the
// session which the browser has there, if it is the same person's, or else of the browser and the person.
func (rp *replacer) familyOf(r *http.Request, at site, l *login, s *session) records.ID {
	if sub := s.subject(); sub != "" {
		brought, err := heldBy(r.Context(), []present{{rp.own, at}}, asSent(r).cookies)
		rp.report(err)
		for _, old := range brought {
			// One that is idle here may be in use at another host.
			reason := rp.own.keeper.whyOver(old.keptSession, rp.own.keeper.now())
			if old.isShared() && old.subject() == sub && (reason == "" || reason == "idle") {
				return old.family
			}
		}
	}
	return idOf("family", rp.own.server.issuer, rp.own.server.clientID, string(l.browser[:]), s.subject())
}

// familiesOf returns the families by which the sessions end that the browser of a login has: a logout at another
// of the hosts that share them cannot delete the cookies of this one.
func (rp *replacer) familiesOf(r *http.Request, at site, s *session) []records.ID {
	if !s.isShared() {
		return nil
	}
	return append(rp.own.keeper.familiesIn(r.Context(), at, asSent(r).cookies), s.family)
}

// endLatest ends the sessions of the latest logins of a browser, which it may not have the cookies of, and revokes
// their refresh tokens. They stay remembered: ends that could not be written are written by the next logout.
func (rp *replacer) endLatest(ctx context.Context, b present, browser [16]byte) error {
	jar := jarID(b, browser)
	rp.latest.leave(jar)
	made := rp.latest.of(jar)
	return rp.endMade(b.keeper, made, func(k *keptSession) error {
		newest, err := b.keeper.endNewest(ctx, b.at, k)
		go b.server.revoke(context.WithoutCancel(ctx), newest)
		return err
	})
}

// finishing notes that the callback of a login is under way, until done is called. hasLeft reports whether the browser
// has signed out at a site of this block since, at this process.
func (rp *replacer) finishing(at site, l *login) (hasLeft func() bool, done func()) {
	return rp.latest.finish(jarID(present{rp.own, at}, l.browser))
}

// endMade ends the sessions that earlier logins made, unless they are over.
func (rp *replacer) endMade(keeper *keeper, made []*keptSession, end func(*keptSession) error) error {
	now := rp.now()
	var failed []error
	for _, k := range made {
		over := keeper.ends.hasID(k.session) && !keeper.ends.isUnwritten(k.session)
		if now.Sub(k.seen.time()) < loginLifetime && now.Before(k.expires.time()) && !over {
			failed = append(failed, end(k))
		}
	}
	return errors.Join(failed...)
}

func (rp *replacer) report(err error) {
	if err != nil {
		rp.logger.Warn("the session that a login has replaced could not be ended everywhere",
			zap.Error(err), advice(err))
	}
}

// mayShareGrant reports whether revoking the refresh token of a replaced session may take that of the
// new one with it. Authorization servers keep one grant for a person and a client, and may revoke the
// whole of it with any of its tokens (RFC 7009, section 2.1). The replaced session's refresh token is
// deleted with its record, so nothing is left that knows it.
func (rp *replacer) mayShareGrant(s *session, old held) bool {
	if old.by.server.issuer != rp.own.server.issuer || old.by.server.clientID != rp.own.server.clientID {
		return false
	}
	sub, replaced := s.subject(), old.subject()
	return sub == replaced || sub == "" || replaced == ""
}

// lastLogins remembers the sessions that the latest logins of a browser made. Sessions that were evicted, or
// made by another instance, are not ended by it.
type lastLogins struct {
	joining singleflight.Group // those that finish at once, by their family: see replacer.join

	mu    sync.Mutex
	byJar *lru.Cache[records.ID, []*keptSession]

	// the callbacks of browsers that are under way. Anyone may sign out in the name of a browser that there is not, so
	// nothing is noted of others, and nothing of these is evicted.
	underWay map[records.ID]*underWay

	next   *lastLogins // has adopted this one
	before *lastLogins // was adopted while callbacks were under way there; may be nil
}

// lock locks what is in use: l, or what has adopted it.
func (l *lastLogins) lock() *lastLogins {
	for {
		l.mu.Lock()
		if l.next == nil {
			return l
		}
		next := l.next
		l.mu.Unlock()
		l = next
	}
}

// adopt takes over what the config before remembers for the same storage, and what its callbacks that are under way
// have yet to remember.
func (l *lastLogins) adopt(other *lastLogins) {
	other.mu.Lock()
	made := other.byJar
	other.byJar, other.next = nil, l
	other.mu.Unlock()
	for other != nil && other.isIdle() {
		other = other.before
	}
	l = l.lock()
	defer l.mu.Unlock()
	l.before = other
	if l.byJar == nil {
		l.byJar = made
	}
	if made == nil || made == l.byJar {
		return
	}
	for _, jar := range made.Keys() {
		if latest, ok := made.Peek(jar); ok && !l.byJar.Contains(jar) {
			l.byJar.Add(jar, latest)
		}
	}
}

// isIdle reports whether no callback is under way.
func (l *lastLogins) isIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.underWay) == 0
}

// underWay is what callbacks of one browser that are under way have to know.
type underWay struct {
	callbacks int    // their number
	left      uint64 // how often the browser has signed out meanwhile
}

// finish notes that a callback of a browser is under way, until done is called. hasLeft reports whether the browser
// has signed out since.
func (l *lastLogins) finish(jar records.ID) (hasLeft func() bool, done func()) {
	l = l.lock()
	defer l.mu.Unlock()
	if l.underWay == nil {
		l.underWay = make(map[records.ID]*underWay)
	}
	u := l.underWay[jar]
	if u == nil {
		u = new(underWay)
		l.underWay[jar] = u
	}
	u.callbacks++
	before := u.left
	hasLeft = func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return u.left != before
	}
	done = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if u.callbacks--; u.callbacks == 0 {
			delete(l.underWay, jar)
		}
	}
	return hasLeft, done
}

// leave notes that a browser signs out.
func (l *lastLogins) leave(jar records.ID) {
	for l := l.lock(); l != nil; {
		if u := l.underWay[jar]; u != nil {
			u.left++
		}
		before := l.before
		l.mu.Unlock()
		if l = before; l != nil {
			l.mu.Lock()
		}
	}
}

// add remembers a session as a browser's latest. It returns those before that are to be ended.
func (l *lastLogins) add(jar records.ID, made *keptSession) (replaced []*keptSession) {
	l = l.lock()
	defer l.mu.Unlock()
	if l.byJar == nil {
		l.byJar, _ = lru.New[records.ID, []*keptSession](rememberedLogins) // fails for no size alone
	}
	before, _ := l.byJar.Get(jar)
	latest := []*keptSession{made}
	for i, k := range before { // the newest first
		if age := made.seen.time().Sub(k.seen.time()); 0 <= age && age < tabsSettle && i < loginsOfOne-1 {
			latest = append(latest, k)
		} else {
			replaced = append(replaced, k)
		}
	}
	l.byJar.Add(jar, latest)
	return replaced
}

// of returns the sessions of a browser.
func (l *lastLogins) of(jar records.ID) []*keptSession {
	l = l.lock()
	defer l.mu.Unlock()
	if l.byJar == nil {
		return nil
	}
	made, _ := l.byJar.Get(jar)
	return made
}

// jarID names the place in a browser where it keeps the cookie of a session: there is one for each
// host and name.
func jarID(b present, browser [16]byte) records.ID {
	return idOf("jar", string(browser[:]), b.cookies.session, b.at.host())
}
