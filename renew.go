package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

const (
	// retryRenewal is how long a renewal that failed is not tried again, and what
	// Retry-After says meanwhile.
	retryRenewal = 10 * time.Second

	// restartPause is the least time between two visits of one session that go
	// through the authorization server to have the token renewed.
	restartPause = time.Minute

	// A note that a refresh token is being spent is believed when it still stands
	// after so long: until then, who wrote it may only be waiting for the storage to
	// record what came of it.
	doubtful = retryRenewal

	// recordFor is how long it is tried to write what the storage failed to take.
	recordFor = 10 * time.Minute
)

// renewal is what a handler remembers of a session's attempts.
type renewal struct {
	notBefore atomic.Int64 // Unix seconds
	doubted   atomic.Int64 // when the note was first seen, in Unix seconds
	over      atomic.Bool  // the refresh token is not to be used any more
}

// errSpent says that a refresh token may have been used, by an instance that did
// not live to record what came of it. To use it again would have the authorization
// server revoke all that came of the login (RFC 9700, section 4.14.2).
var errSpent = errors.New("the refresh token was sent before, and what came of it is not known")

// renewFrom returns from when on a session's token is to be renewed: before its end
// as the config says, or in the second half of its life where that is later.
func (h *Handler) renewFrom(s *session) time.Time {
	half := s.tokenCame.Add(s.tokenEnds.Sub(s.tokenCame) / 2)
	if before := s.tokenEnds.Add(-h.cfg.renewBefore); before.After(half) {
		return before
	}
	return half
}

// renewed returns a session with a token that lives: its own, or one that a refresh
// brings. While the old one lives nobody waits, and a failure costs nothing. Nobody
// and nothing means that the session is over.
func (h *Handler) renewed(ctx context.Context, at site, s *session) (*session, *refusal) {
	now := h.now()
	if s.refresh == "" || now.Before(h.renewFrom(s)) {
		return s, nil
	}
	alive := now.Before(s.tokenEnds)
	switch {
	case s.renewal.over.Load() && alive:
		return s, nil
	case s.renewal.over.Load():
		return nil, nil
	case now.Unix() < s.renewal.notBefore.Load() && alive:
		return s, nil
	case now.Unix() < s.renewal.notBefore.Load():
		return nil, &refusal{failure: errRenewal}
	}

	// One renewal at a time for the whole of this session; the others share it.
	// What is shared is what began with the same token: one that is just ending has
	// no other to give.
	flight := s.cookie.origin + string(s.handle.key[:]) + s.tokenCame.String()
	result := h.renewals.DoChan(flight, func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		next, err := h.renew(ctx, at, s)
		if next != nil && !h.now().Before(next.tokenEnds) {
			next, err = h.renew(ctx, at, next) // what another instance got has died since
		}
		return next, err
	})
	if alive {
		return s, nil
	}
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, &refusal{failure: errRenewal, cause: r.Err}
		}
		next := r.Val.(*session)
		if next != nil && !h.now().Before(next.tokenEnds) {
			return nil, &refusal{failure: errRenewal}
		}
		return next, nil
	case <-ctx.Done():
		return nil, &refusal{failure: errGone}
	}
}

// renew renews a session's token under a lock that all instances know, and makes
// the result the session that is remembered. A nil session is over.
func (h *Handler) renew(ctx context.Context, at site, s *session) (next *session, err error) {
	defer func() {
		if err != nil {
			s.renewal.notBefore.Store(h.now().Add(retryRenewal).Unix())
			h.logger.Error("renewing a session failed; it is tried again", zap.String("session", s.name()[:8]), zap.Error(err), advice(err))
			renewals.WithLabelValues(h.cfg.label, "failed").Inc()
		}
	}()
	if _, ok := recording.Load(s.handle.key); ok {
		return nil, errUnrecorded
	}
	lock := "aventus_auth/renew/" + s.name()
	if err := h.storage.Lock(ctx, lock); err != nil {
		return nil, err
	}
	// A lock that cannot be released goes stale by itself.
	defer func() { _ = h.storage.Unlock(ctx, lock) }()

	record, err := h.fetchSession(ctx, at, s.handle)
	switch {
	case err != nil:
		return nil, err
	case record == nil || h.hasEnded(s):
		s.renewal.over.Store(true)
		return nil, nil
	}
	record.seen, record.cookie = s.seen, s.cookie
	if record.tokenCame.After(s.tokenCame) {
		h.opened.Add(record.cookie, record) // another instance was faster
		return record, nil
	}
	if record.spending {
		now := h.now().Unix()
		if s.renewal.doubted.CompareAndSwap(0, now) || now-s.renewal.doubted.Load() < int64(doubtful/time.Second) {
			return nil, errSpent
		}
		return h.giveUp(s, errSpent)
	}

	// First it is noted, then it is sent: if this process dies in between or after,
	// nobody sends it again.
	record.spending = true
	if err := h.storeSession(ctx, at, record); err != nil {
		return nil, err
	}
	token, tokenErr := h.requestToken("refresh_token", func() (aventus.Token, *aventus.Error) {
		return h.client.Refresh(ctx, record.refresh)
	})
	if tokenErr != nil {
		return h.failRenewal(ctx, at, s, record, tokenErr)
	}
	next = record.with(token, h.now())
	if h.tokens != nil {
		_, expires, err := h.tokens.Verify(ctx, token.AccessToken)
		switch {
		case errors.Is(err, aventus.ErrToken):
			go h.revoke(ctx, next)
			return h.giveUp(s, fmt.Errorf("verifying the access token: %w", err))
		case err != nil: // it cannot be told for now: the next attempt gets another
			record.spending, record.refresh = false, next.refresh
			return nil, errors.Join(err, h.storeSession(ctx, at, record))
		}
		if expires.Before(next.tokenEnds) {
			next.tokenEnds = expires
		}
	}
	if h.hasEnded(s) { // a logout while the answer was on its way
		go h.revoke(ctx, next)
		return nil, h.shelf.Delete(ctx, s.name(), s.handle.expires)
	}
	err = h.storeSession(ctx, at, next)
	if errors.Is(err, errTooLarge) { // however often it is tried
		go h.revoke(ctx, next)
		return h.giveUp(s, err)
	}
	if err != nil {
		// Here the session goes on. Elsewhere, and after a restart, the refresh token
		// is taken for spent, as it is, until what came of it is recorded.
		h.logger.Error("a renewed session could not be recorded; it is tried again", zap.String("session", s.name()[:8]), zap.Error(err), advice(err))
		h.recordLater(ctx, at, next)
	}
	h.opened.Add(next.cookie, next)
	renewals.WithLabelValues(h.cfg.label, "renewed").Inc()
	return next, nil
}

// failRenewal takes back the note that the refresh token is being spent, where the
// server's answer says that it was not.
func (h *Handler) failRenewal(ctx context.Context, at site, s, record *session, tokenErr *aventus.Error) (*session, error) {
	if tokenErr.Code == "invalid_grant" || tokenErr.Unanswered || tokenErr.Kind == aventus.Malformed {
		return h.giveUp(s, tokenErr)
	}
	record.spending = false
	err := h.storeSession(ctx, at, record)
	if err != nil {
		h.recordLater(ctx, at, record)
	}
	return nil, errors.Join(tokenErr, err)
}

// recording holds the sessions whose record is still to be written, by the record's
// key, for all configs: a reload is no reason to forget them.
var recording sync.Map

var errUnrecorded = errors.New("what came of the renewal before is still to be recorded")

// recordLater writes, as soon as the storage is back, what came of spending a
// session's refresh token. Nobody else writes that record: it holds the note.
func (h *Handler) recordLater(ctx context.Context, at site, s *session) {
	key := s.handle.key
	recording.Store(key, nil)
	go func() {
		defer recording.Delete(key)
		for deadline := time.Now().Add(recordFor); time.Now().Before(deadline) && !h.hasEnded(s); {
			time.Sleep(time.Second)
			if h.storeSession(ctx, at, s) == nil {
				return
			}
		}
	}()
}

// giveUp leaves a session to end with the token that it has.
func (h *Handler) giveUp(s *session, cause error) (*session, error) {
	s.renewal.over.Store(true)
	renewals.WithLabelValues(h.cfg.label, "given_up").Inc()
	h.logger.Warn("a session cannot be renewed any more; it ends with its token", zap.String("session", s.name()[:8]), zap.Error(cause), advice(cause))
	if h.now().Before(s.tokenEnds) {
		return s, nil
	}
	return nil, nil
}

// with returns the session with a new token.
func (s *session) with(token aventus.Token, now time.Time) *session {
	next := &session{
		id: s.id, created: s.created, expires: s.expires, scope: s.scope, idToken: s.idToken,
		bearer: bearer + token.AccessToken, refresh: token.RefreshToken,
		tokenCame: now, tokenEnds: now.Add(token.ExpiresIn),
		seen: s.seen, handle: s.handle, cookie: s.cookie,
	}
	if token.Scope != "" {
		next.scope = token.Scope
	}
	return next
}

// revoke tells the authorization server that a session's refresh token is not
// needed any more. That it fails keeps nothing alive here.
func (h *Handler) revoke(ctx context.Context, s *session) {
	if s.refresh == "" {
		return
	}
	if err := h.client.Revoke(context.WithoutCancel(ctx), h.cfg.issuer+"oauth/revoke", s.refresh); err != nil {
		h.logger.Warn("the refresh token of a session that has ended could not be revoked", zap.String("session", s.name()[:8]), zap.Error(err), advice(err))
	}
}

// renewsByVisit reports whether a page visit is to go through the authorization
// server, and come back with a new token: that is how a session without a refresh
// token lasts. It does not if it was tried within the last minute, which the
// cookie tells: it was sealed then.
func (h *Handler) renewsByVisit(r *http.Request, s *session) bool {
	if s.refresh != "" || s.isBearer || r.Method != http.MethodGet || h.cfg.unauthenticated == "deny" {
		return false
	}
	now := h.now()
	return !now.Before(h.renewFrom(s)) && now.Sub(s.seen) >= restartPause && strings.EqualFold(r.Header.Get("Sec-Fetch-Mode"), "navigate") && isPage(r)
}

var errRenewal = failure{http.StatusServiceUnavailable, "renewal_unavailable", "Your session cannot be renewed for the moment. Try again soon."}
