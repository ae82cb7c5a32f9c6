package records

import (
	"sync"
	"time"
)

const (
	// steadyFor is how long the two clocks of a Clock must have advanced alike until
	// something is removed.
	steadyFor = time.Hour

	// maxDrift is how far they may part in that time. It is less than the [ClockSkew] that
	// callers add to the end of what they remove.
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
	since time.Duration // when the wall clock was last found to be set, by the steady clock
	zero  time.Time     // what the wall clock would have said then when the steady one was 0
}

// NewClock returns a clock of the wall clock now and of the steady clock elapsed, which counts from
// any moment on.
func NewClock(now func() time.Time, elapsed func() time.Duration) *Clock {
	c := &Clock{now: now, elapsed: elapsed}
	c.since = elapsed()
	c.zero = c.Now().Add(-c.since)
	return c
}

// Now returns the time by the wall clock alone: the monotonic reading of a [time.Time] stands
// still while the machine sleeps, and what was read before would be taken for fresh.
func (c *Clock) Now() time.Time { return c.now().Round(0) }

// MayRemove reports whether what had expired by now, which the wall clock has just said, may be
// removed for good: the process has run for an hour, and by both clocks. If the wall clock was set
// meanwhile, or the machine has slept, that hour begins anew. A clock that stays wrong for longer
// is believed.
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
