package aventusauth

import (
	"sync"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// attempts remembers the results of the latest attempts to renew sessions, by the session's id: so a
// session that was evicted, or has several cookies, is not tried again too soon.
// Entries are forgotten by time. Their number is bounded by how many sessions fail to be renewed
// within rememberAttempts.
type attempts struct {
	mu        sync.Mutex
	by        map[records.ID]attempt
	forgotten time.Time // when old entries were last removed
	next      *attempts // has adopted these
}

// lock locks what is in use: a, or what has adopted it.
func (a *attempts) lock() *attempts {
	for {
		a.mu.Lock()
		if a.next == nil {
			return a
		}
		next := a.next
		a.mu.Unlock()
		a = next
	}
}

// adopt takes over what the config before remembers for the same storage, and what its renewals that are under way
// have yet to remember.
func (a *attempts) adopt(other *attempts) {
	other.mu.Lock()
	before := other.by
	other.by, other.next = nil, a
	other.mu.Unlock()
	a = a.lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = make(map[records.ID]attempt)
	}
	for id, latest := range before {
		if _, ok := a.by[id]; !ok {
			a.by[id] = latest
		}
	}
}

// attempt is the state of a session's attempts.
type attempt struct {
	at         time.Time // of the latest change
	notBefore  time.Time // of the next attempt
	note       unixTime  // the note last seen that the refresh token is being spent, by its time; may be zero
	doubted    time.Time // when that note was first seen
	unrecorded *session  // what came of the latest, and is still to be written into the record; nil: nothing
}

// of returns the state of a session's attempts.
func (a *attempts) of(id records.ID) attempt {
	a = a.lock()
	defer a.mu.Unlock()
	return a.by[id]
}

// note changes the state of a session's attempts.
func (a *attempts) note(id records.ID, now time.Time, change func(*attempt)) {
	a = a.lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = make(map[records.ID]attempt)
	}
	if age := now.Sub(a.forgotten); age < 0 || age >= rememberAttempts {
		a.forgotten = now
		for id, old := range a.by {
			if age := now.Sub(old.at); (age < 0 || age >= rememberAttempts) && old.unrecorded == nil {
				delete(a.by, id)
			}
		}
	}
	latest := a.by[id]
	change(&latest)
	latest.at = now
	a.by[id] = latest
}
