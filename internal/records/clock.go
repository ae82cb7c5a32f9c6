package records

import (
	"sync"
	"time"
)

const (
	// steadyFor is how long the two clocks of a Clock must have advanced alike before
	// anything is removed.
	steadyFor = time.Hour

	// maxDrift is how far they may differ in that time. It is less than the [ClockSkew] that
	// callers wait after the expiry of what they remove.
	maxDrift = time.Minute
)

// Clock is the wall clock with a steady clock beside it, which cannot be set.
//
// A session that has expired by the wall clock is refused, whatever the steady clock says: once the
// wall clock is right again, so is the answer. A note that was removed is gone for good. If the note
// that a session has ended were removed while the wall clock is a year ahead for a minute,
// the session's cookie would be good again after that minute. So the wall clock alone removes
// nothing: see [Clock.MayRemove].
type Clock struct {
	now     func() time.Time
	elapsed func() time.Duration

	mu    sync.Mutex
	since time.Duration // when a change of the wall clock was last noticed, by the steady clock
	zero  time.Time     // the wall clock's time, as it then was, of the steady clock's 0
}

// NewClock returns a clock of the wall clock now and of the steady clock elapsed, which may count from
// any moment.
func NewClock(now func() time.Time, elapsed func() time.Duration) *Clock {
	c := &Clock{now: now, elapsed: elapsed}
	c.since = elapsed()
	c.zero = c.Now().Add(-c.since)
	return c
}

// Now returns the time by the wall clock alone: the monotonic reading of a [time.Time] does not
// advance while the machine sleeps, after which stale values would count as fresh.
func (c *Clock) Now() time.Time { return c.now().Round(0) }

// MayRemove reports whether what has expired by now, a current reading of the wall clock, may be
// removed for good: the process has run for an hour, by both clocks. If the wall clock was set
// in that time, or the machine has slept, the hour begins again. A clock that stays wrong for
// longer is believed.
func (c *Clock) MayRemove(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := c.elapsed()
	zero := now.Round(0).Add(-elapsed)
	if zero.Sub(c.zero).Abs() > maxDrift {
		c.since, c.zero = elapsed, zero
	}
	return elapsed-c.since >= steadyFor
}
