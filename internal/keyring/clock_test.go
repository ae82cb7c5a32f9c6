package keyring

import (
	"testing"
	"time"
)

// TestKeysWhileTheClockIsFarAhead: a clock that is a year ahead for a minute makes no key, which
// would be the last one for that year, and drops none, whose sessions still live.
func TestKeysWhileTheClockIsFarAhead(t *testing.T) {
	s, clock := newStorage(t), newClock()
	one := newInstance(s, clock, 20*day)
	first := one.seal(t)
	clock.Add(rotateAfter)
	one.seal(t)
	clock.Add(ripeAfter)
	second := one.seal(t)
	s.keys(t, "30 days", 2)

	clock.Set(365 * day)
	one.seal(t)
	clock.Set(-365 * day)
	s.keys(t, "a year ahead", 2)
	one.opens(t, first)
	one.sealsWith(t, "the clock is right again", second)

	clock.Add(rotateAfter)
	one.seal(t) // finds that the clock was set
	clock.Add(time.Hour)
	one.seal(t)
	clock.Add(ripeAfter)
	s.keys(t, "a month later", 2) // another one, and none of the first
	if third := one.seal(t); keyOf(t, third) == keyOf(t, second) {
		t.Error("the next key does not seal")
	}
	opensNothing(t, "the first key is kept for good", newInstance(s, clock, 20*day).Box, first, "")
}
