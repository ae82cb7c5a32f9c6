package aventusauth

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// reserve makes a session's refresh token this process's to send. It returns the session's record, with the
// number of the attempt that follows if nothing comes of this one, and the record with the note that the token is
// sent, as it was written. If both are nil, there is nothing to send, and renew returns the other results; withdraw
// is then set if the storage may have the note all the same.
//
// First the use is registered, then the record notes it, then renew sends the token. The first use keeps other
// processes from sending it; if this process dies, the note still does when uses have been forgotten. Of several
// processes at once, none may be the first; then there is no note, and they register the next attempt.
func (rn *renewer) reserve(
	ctx context.Context, at site, k *keptSession, withdraw *func(),
) (record, noted *session, next *keptSession, err error) {
	lost := uint32(0)
	for range maxUses {
		record, err := rn.records.fetch(ctx, at, k.handle)
		if err != nil {
			return nil, nil, nil, err
		}
		if next, isSettled := rn.settled(k, record); isSettled {
			return nil, nil, next, nil
		}
		if record.spending != 0 {
			if rn.isSpent(record) {
				next, err := rn.giveUp(ctx, at, k, record, errSpent)
				return nil, nil, next, err
			}
			next, isSettled, err := rn.await(ctx, at, k, awaitOther)
			if !isSettled && err == nil {
				err = errSpent
			}
			return nil, nil, next, err
		}

		attempt, since := record.attempt+lost, stopwatch()
		isMine, err := rn.uses.Use(refreshUse(record, attempt))
		if err != nil {
			return nil, nil, nil, err
		}
		if !isMine {
			next, isSettled, err := rn.await(ctx, at, k, sendWithin(attempt)+lostPause(lost, since()))
			if isSettled || err != nil {
				return nil, nil, next, err
			}
			lost++
			continue
		}
		noted := record
		noted.attempt, noted.spending = attempt, toUnix(rn.now())
		record = noted.copy()
		record.attempt, record.spending = attempt+1, 0
		note, err := rn.records.putSealed(ctx, at, k.handle, noted)
		if err != nil {
			*withdraw = func() { rn.withdrawNote(ctx, at, k.handle, note, noted, record) }
			return nil, nil, nil, err
		}
		if since() < sendWithin(attempt) {
			return record, noted, nil, nil
		}
		if isOver, err := rn.conclude(ctx, at, k.handle, noted, record); isOver || err != nil {
			return nil, nil, nil, err
		}
	}
	return nil, nil, nil, errContended
}

// unlockSettled releases a session's lock when no write of its record is under way any more, and the note
// of a refresh token that was not sent is taken back. A write that was given up on, and is carried
// out after another instance has renewed the session, would bring back a refresh token that is spent.
func (rn *renewer) unlockSettled(unlock func(), k *keptSession, withdraw func()) {
	settled := rn.records.settled(k.handle)
	select {
	case <-settled:
		if withdraw == nil {
			unlock()
			return
		}
	default:
	}
	go func() { // no request waits for it
		defer unlock()
		patience := time.NewTimer(settleFor)
		defer patience.Stop()
		select {
		case <-settled:
			if withdraw != nil {
				withdraw()
			}
		case <-patience.C:
		}
	}()
}

// withdrawNote restores a session's record to its state before a note of this instance, if the record holds that
// very note: its write was given up on, and the storage may have carried it out. Any other record means that it
// was not carried out. The session's lock must have been held since before the note.
//
// This is not certain: locks may exclude nobody, and a storage may carry out a write that it has reported as
// failed. A note that stays costs the session its renewals, and nothing more.
func (rn *renewer) withdrawNote(ctx context.Context, at site, d *handle, note []byte, noted, record *session) {
	if rn.records.holds(ctx, d, note) {
		_, _ = rn.conclude(ctx, at, d, noted, record) // where it fails, it is tried again
	}
}

var errContended = errors.New("other instances were first to use the refresh token, and nothing has come of it")

// sendWithin returns how long a process may take from the start of registering a use to sending the token. Once
// that has passed and the record has no note, no process has sent it. Later attempts get more time, for slow
// storages.
func sendWithin(attempt uint32) time.Duration { return 4 * time.Second << min(attempt, 1) }

// lostPause returns how much longer a process waits that was not the first, having lost before so many times, if
// registering the use took so long. The pauses differ, so that these processes do not all register the next attempt at
// once: by more than that takes, and by twice as much each time, up to lostMost.
func lostPause(before uint32, took time.Duration) time.Duration {
	return lostLeast + rand.N(min(max(lostLeast, 8*took)<<before, lostMost))
}

// settled reports whether a session's record, which may be nil, shows that there is nothing left to renew. It
// then returns the session by that record, or nil if it is over.
func (rn *renewer) settled(k *keptSession, record *session) (*keptSession, bool) {
	switch {
	case record == nil || rn.memory.hasEnded(record):
		rn.memory.forget(k)
		return nil, true
	case record.refresh == "": // another instance has given it up
		return rn.living(rn.memory.replace(k, record)), true
	case record.tokenCame != k.tokenCame && isAlive(record, rn.now()): // another instance was faster
		return rn.memory.replace(k, record), true
	}
	return nil, false
}

// await waits for the result of a renewal that another instance may have under way, and reports whether there
// is one.
func (rn *renewer) await(
	ctx context.Context, at site, k *keptSession, patience time.Duration,
) (*keptSession, bool, error) {
	for waited := stopwatch(); waited() < patience; {
		time.Sleep(awaitPause)
		record, err := rn.records.fetch(ctx, at, k.handle)
		if err != nil {
			return nil, false, err
		}
		if next, isSettled := rn.settled(k, record); isSettled {
			return next, true, nil
		}
	}
	return nil, false, nil
}

// refreshUse is the use that is registered before a session's refresh token is sent. Authorization servers may
// take the same token time and again, so it names the state of the record, too.
func refreshUse(record *session, attempt uint32) records.ID {
	return idOf("refresh", record.name(), record.refresh, record.bearer,
		strconv.FormatInt(int64(record.tokenCame), 10), strconv.FormatUint(uint64(attempt), 10))
}

// unnote writes a record without the note that its refresh token is being spent, and returns the cause for which
// the session could not be renewed. If both results are nil, the session is over.
func (rn *renewer) unnote(
	ctx context.Context, at site, k *keptSession, noted, record *session, cause error,
) (*keptSession, error) {
	isOver, err := rn.conclude(ctx, at, k.handle, noted, record)
	if isOver {
		return nil, nil
	}
	return nil, errors.Join(cause, err)
}

// conclude writes what has come of a renewal in place of the note, at once or, after an error, as soon as the storage
// takes it; only what is too large is not tried again. It reports whether the session has ended meanwhile. Whatever
// follows a note is written by conclude, so that no renewal brings back the record of a session that has ended, and a
// refresh token that came too late for the logout to find is revoked.
func (rn *renewer) conclude(ctx context.Context, at site, d *handle, noted, s *session) (isOver bool, err error) {
	revoke := sync.OnceFunc(func() {
		if s.refresh != noted.refresh {
			go rn.server.revoke(ctx, s)
		}
	})
	isOver, err = rn.write(ctx, at, d, noted, s, revoke)
	if err != nil && !errors.Is(err, errTooLarge) {
		rn.recordLater(ctx, at, d, noted, s, revoke)
	}
	if isOver {
		err = nil
	}
	return isOver, err
}

// write writes a session's record, or deletes it and calls revoke if the session has ended, whatever a new token says
// of it. After an error, a write may still be under way, also of a session that has ended.
func (rn *renewer) write(
	ctx context.Context, at site, d *handle, noted, s *session, revoke func(),
) (isOver bool, err error) {
	if !rn.memory.hasEnded(noted) {
		if err = rn.records.put(ctx, at, d, s); err == nil {
			rn.memory.learn(ctx) // another instance may have ended it, and deleted the record of before
		}
	}
	if !rn.memory.hasEnded(noted) {
		return false, err
	}
	revoke()
	return true, errors.Join(err, rn.records.delete(ctx, s.name(), d.expires.time()))
}

// isSpent reports whether the refresh token of a record with a note counts as spent. It does once the instance
// that wrote the note has had the time to record the result: since the note was first seen here, or by any
// instance's clock.
func (rn *renewer) isSpent(record *session) bool {
	now := rn.now()
	if now.Sub(record.spending.time()) >= doubtful+records.ClockSkew {
		return true
	}
	rn.tries.note(record.id, now, func(a *attempt) {
		if a.note != record.spending || now.Before(a.doubted) {
			a.note, a.doubted = record.spending, now
		}
	})
	return now.Sub(rn.tries.of(record.id).doubted) >= doubtful
}

var errUnrecorded = errors.New("the result of the renewal before is still to be recorded")

// recordLater writes the result of a renewal in place of the note, as soon as the storage takes writes
// again. As long as the note is there, no instance spends a refresh token of
// the session, but one may give the session up. When it is there no more, a write that was given up on
// has been carried out, and what others have written since is newer. It is tried until the record's end: what is
// not written is known here alone, and the note would cost the session its renewals. If the session has ended, its
// record is deleted, also where a write was carried out after the logout had deleted it.
func (rn *renewer) recordLater(ctx context.Context, at site, d *handle, noted, s *session, revoke func()) {
	rn.tries.note(s.id, rn.now(), func(a *attempt) { a.unrecorded = s })
	go func() {
		defer func() {
			rn.tries.note(s.id, rn.now(), func(a *attempt) {
				if a.unrecorded == s {
					a.unrecorded = nil
				}
			})
		}()
		for pause := time.Second; rn.now().Before(d.expires.time()); pause = min(2*pause, retryRenewal) {
			time.Sleep(pause)
			select {
			case <-rn.records.settled(d):
			default:
				continue
			}
			if rn.memory.learn(ctx); !rn.memory.hasEnded(noted) {
				found, err := rn.records.fetch(ctx, at, d)
				if err != nil {
					continue
				}
				if found == nil { // deleted by an instance that could not write the end
					revoke()
					return
				}
				isNote := found.tokenCame == noted.tokenCame && found.spending == noted.spending
				if !isNote && found.givenUp == 0 {
					return
				}
			}
			if _, err := rn.write(ctx, at, d, noted, s, revoke); err == nil {
				return
			}
		}
	}()
}
