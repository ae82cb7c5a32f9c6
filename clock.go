package aventusauth

import "time"

// clock is the only place where the time is read. It is handed to all types that need the time when
// a config is loaded, and tests replace it. It is the wall clock: sealed and stored values hold wall
// times, and the monotonic clock stands still while a machine sleeps, by which a session would end
// late.
var clock = func() time.Time { return time.Now().Round(0) }

// Timers and the deadlines of contexts run by the runtime's own clock.

// steadyClock counts from the start of the process, and cannot be set. Tests replace it.
var steadyClock = stopwatch()

// deadline returns the time after d, for connections: the operating system ends those by its own clock.
func deadline(d time.Duration) time.Time { return time.Now().Add(d) }

// stopwatch returns a function that returns how long ago stopwatch was called, by the monotonic
// clock.
func stopwatch() (elapsed func() time.Duration) {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
