package aventusauth

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// errSpent says that a refresh token may have been used, by an instance that did
// not live to record the result. To use it again would make the authorization
// server revoke all tokens of the login (RFC 9700, section 4.14.2).
var errSpent = errors.New("the refresh token was sent before, and the result is not known")

// renewer renews the tokens of sessions by their refresh tokens. These fields are all that a renewal
// may read and write.
type renewer struct {
	locks   certmagic.Locker    // let one instance at a time renew a session, if the storage's locks work
	uses    renewalUses         // let only one instance send a refresh token
	records renewalRecords      // the session's record in the storage
	memory  renewalMemory       // the session in this process, and its end, which all instances learn
	flights *singleflight.Group // renewals under way, by session and token
	tries   *attempts
	server  renewalServer

	before time.Duration // renew_before
	now    func() time.Time
	meter  *meter
	logger *zap.Logger
}

type renewalRecords interface {
	fetch(ctx context.Context, at site, d *handle) (*session, error)
	put(ctx context.Context, at site, d *handle, s *session) error
	putSealed(ctx context.Context, at site, d *handle, s *session) (record []byte, err error)
	holds(ctx context.Context, d *handle, record []byte) bool
	settled(d *handle) <-chan struct{}
	delete(ctx context.Context, name string, expires time.Time) error
}

type renewalUses interface {
	Use(ids ...records.ID) (first bool, err error)
}

type renewalMemory interface {
	replace(k *keptSession, s *session) *keptSession
	forget(k *keptSession)
	lastOf(s *session) time.Time
	hasEnded(s *session) bool
	learn(ctx context.Context)
	end(ctx context.Context, k *keptSession) error
}

type renewalServer interface {
	refresh(ctx context.Context, refreshToken string) (*oauth2.Token, *aventus.Error)
	verifyRenewed(ctx context.Context, s, next *session, idToken string) (limits, error)
	revoke(ctx context.Context, s *session)
}

// dueFrom returns the moment from which a session's token is due for renewal: renew_before ahead of
// its expiry, but not before half of its lifetime has passed.
func (rn *renewer) dueFrom(s *session) time.Time {
	return s.tokenEnds.time().Add(-min(rn.before, s.tokenEnds.time().Sub(s.tokenCame.time())/2))
}

// isDue reports whether a session's token is to be renewed by its refresh token.
func (rn *renewer) isDue(s *session, now time.Time) bool {
	if s.refresh == "" {
		return false
	}
	return !isAlive(s, now) || !now.Before(rn.dueFrom(s))
}

// keepAlive returns a session with a token that lives: its own, or one that a refresh brings. While
// the old token lives, no request waits, and a failure costs nothing. If both results are nil, the
// session is over.
func (rn *renewer) keepAlive(ctx context.Context, at site, k *keptSession) (*keptSession, *refusal) {
	now := rn.now()
	if !rn.isDue(k.session, now) {
		return k, nil
	}
	alive := isAlive(k.session, now)
	if rn.pauses(k.session) {
		if alive {
			return k, nil
		}
		return nil, &refusal{failure: errRenewal}
	}

	// There is one renewal of a session at a time, and other requests share its result. They share only
	// a renewal that began with the same token: one that is just ending has no other token to give.
	flight := k.name() + strconv.FormatInt(int64(k.tokenCame), 10)
	result := rn.flights.DoChan(flight, func() (any, error) {
		return rn.renew(context.WithoutCancel(ctx), at, k)
	})
	if alive {
		return k, nil
	}
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, &refusal{failure: errRenewal, cause: r.Err}
		}
		next := r.Val.(*keptSession)
		if next != nil && !isAlive(next.session, rn.now()) {
			return nil, &refusal{failure: errRenewal}
		}
		return next, nil
	case <-ctx.Done():
		return nil, &refusal{failure: errGone}
	}
}

// pauses reports whether a session is not to be renewed again yet. A pause never lies further ahead than it is long,
// unless the clock was set back. It is for the newest token: there is nothing to wait for where a renewal has brought
// another one that is still to be recorded.
func (rn *renewer) pauses(s *session) bool {
	a := rn.tries.of(s.id)
	if a.unrecorded != nil && a.unrecorded.tokenCame != s.tokenCame {
		return false
	}
	pause := a.notBefore.Sub(rn.now())
	return 0 < pause && pause <= retryRenewal
}

// pause has a session not renewed again for a while.
func (rn *renewer) pause(s *session) {
	now := rn.now()
	rn.tries.note(s.id, now, func(a *attempt) { a.notBefore = now.Add(retryRenewal) })
}

// renew renews a session's token under a lock that all instances know, and makes
// the result the session that is remembered. A nil session is over.
func (rn *renewer) renew(ctx context.Context, at site, k *keptSession) (next *keptSession, err error) {
	defer func() {
		if err != nil {
			rn.pause(k.session)
			rn.logger.Error("renewing a session failed; it is tried again",
				zap.String("session", k.name()[:8]), zap.Error(err), advice(err))
			rn.meter.renewal("failed")
		}
	}()
	if s := rn.tries.of(k.id).unrecorded; s != nil {
		if next, isSettled := rn.settled(k, s); isSettled {
			return next, nil
		}
		return nil, errUnrecorded
	}
	if rn.pauses(k.session) { // a renewal has failed since the request asked
		return k, nil
	}
	// The lock only makes other instances wait: some storage engines have locks that exclude nobody, fail while
	// another instance holds them, or pass to another holder meanwhile. What makes sure that a token is sent
	// once is reserve.
	lock, unlock := "aventus_auth/renew/"+k.name(), func() {}
	if err := rn.locks.Lock(ctx, lock); err == nil {
		unlock = func() { _ = rn.locks.Unlock(ctx, lock) } // one that cannot be released goes stale by itself
	}
	var withdraw func() // the note, if the storage may have it all the same
	defer func() { rn.unlockSettled(unlock, k, withdraw) }()

	record, noted, next, err := rn.reserve(ctx, at, k, &withdraw)
	if record == nil {
		return next, err
	}
	token, tokenErr := rn.server.refresh(ctx, record.refresh)
	switch {
	case tokenErr == nil:
	case tokenErr.EndsGrant():
		return rn.giveUp(ctx, at, k, noted, tokenErr)
	default: // the answer says that the refresh token was not used
		return rn.unnote(ctx, at, k, noted, record, tokenErr)
	}
	renewed := record.renewed(token, rn.now())
	end, err := rn.server.verifyRenewed(ctx, record, renewed, aventus.IDToken(token))
	switch {
	case errors.Is(err, errOver): // whatever the token before says
		go rn.server.revoke(ctx, renewed)
		rn.meter.renewal("given_up")
		rn.logger.Warn("a session cannot be renewed any more; it has ended",
			zap.String("session", k.name()[:8]), zap.Error(err), advice(err))
		return nil, rn.memory.end(ctx, k)
	case errors.Is(err, aventus.ErrToken) && !errors.Is(err, aventus.ErrUnknownKey), errors.Is(err, errTooLarge):
		go rn.server.revoke(ctx, renewed)
		return rn.giveUp(ctx, at, k, noted, err)
	case err != nil: // not verifiable for now: the next attempt gets another token
		unverified := record.copy()
		unverified.refresh = renewed.refresh
		return rn.unnote(ctx, at, k, noted, unverified, err)
	}
	renewed.limit(end)
	isOver, err := rn.conclude(ctx, at, k.handle, noted, renewed)
	switch {
	case isOver:
		return nil, nil
	case errors.Is(err, errTooLarge): // however often it is tried
		go rn.server.revoke(ctx, renewed)
		return rn.giveUp(ctx, at, k, noted, err)
	case err != nil:
		// In this process the session goes on. At other instances, and after a restart, the
		// refresh token counts as spent, as it is, until the result is recorded.
		rn.logger.Error("a renewed session could not be recorded; it is tried again",
			zap.String("session", k.name()[:8]), zap.Error(err), advice(err))
	}
	if !isAlive(renewed, rn.now()) { // by the exp of a server whose clock is behind
		rn.pause(renewed)
	}
	next = rn.memory.replace(k, renewed)
	rn.meter.renewal("renewed")
	rn.meter.tokenLength(len(renewed.bearer))
	return next, nil
}

// living returns the session, or nil if it has expired. That one is not remembered: another instance may still record
// that it goes on.
func (rn *renewer) living(k *keptSession) *keptSession {
	if !rn.now().Before(rn.memory.lastOf(k.session)) {
		rn.memory.forget(k)
		return nil
	}
	return k
}

// giveUp leaves a session to end with the token that it has. That is recorded, so that no instance
// tries again: without its refresh token, a session ends with its access token. The result is nil if
// that has come, or if the session has ended meanwhile.
func (rn *renewer) giveUp(
	ctx context.Context, at site, k *keptSession, noted *session, cause error,
) (*keptSession, error) {
	last := noted.copy()
	last.refresh, last.attempt, last.spending, last.givenUp = "", 0, 0, toUnix(rn.now())
	last.endBy(last.tokenEnds.time())
	if now := rn.now(); !isAlive(last, now) {
		last.endBy(now) // whatever the clock said when the token came
	}
	if isOver, _ := rn.conclude(ctx, at, k.handle, noted, last); isOver {
		return nil, nil
	}
	rn.meter.renewal("given_up")
	rn.logger.Warn("a session cannot be renewed any more; it ends with its token",
		zap.String("session", k.name()[:8]), zap.Error(cause), advice(cause))
	return rn.living(rn.memory.replace(k, last)), nil
}

// renewed returns the session with a new token. An answer that says nothing of the scope grants what
// the one before did (RFC 6749, section 6), but for what the token before named and this one does not.
func (s *session) renewed(token *oauth2.Token, now time.Time) *session {
	next := s.copy()
	next.bearer, next.refresh = bearer+token.AccessToken, token.RefreshToken
	next.attempt, next.spending = 0, 0
	next.tokenCame = toUnix(now)
	next.tokenEnds = next.tokenCame + unixTime(token.ExpiresIn)
	if scope := aventus.Scope(token); scope != "" {
		next.scope = scope
	} else if s.scope != "" {
		before, own := s.accessClaims().Scopes(""), next.accessClaims().Scopes("")
		kept := slices.DeleteFunc(strings.Fields(s.scope), func(scope string) bool {
			return own != nil && slices.Contains(before, scope) && !slices.Contains(own, scope)
		})
		next.scope = cmp.Or(strings.Join(kept, " "), " ") // blank: nothing was granted
	}
	return next
}
