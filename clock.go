package aventusauth

import "time"

// clock is where the time is read. It is handed to all that need the time when a
// config is loaded, and tests replace it. It is the wall's clock: what is sealed and stored holds
// wall times, and the monotonic clock stands still while a machine sleeps, so that by it the end of
// a session would come late.
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
