package records

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sync/singleflight"
)

const (
	// LearnInterval is how often an instance asks for what others have ended. With
	// the time that asking takes, all know it within ten seconds.
	LearnInterval = 5 * time.Second

	// The ends of the last half hour are listed each time, by any instance's clock, and
	// however late they were written: so the cost grows with the number of ends in that
	// time, and not with all there have ever been. Older periods are removed one by one.
	latelyFor  = 30 * time.Minute
	latelyEach = 5 * time.Minute

	// knownFor is how long what was last learned is taken for all that has ended. Sessions in
	// cookies go on while the storage is down, and there it is mostly down for all instances,
	// so that none can record an end. But one that is cut off from a storage which others reach
	// would let in for a day who has signed out elsewhere.
	knownFor = time.Hour

	// askAgain is how soon after an attempt that has failed a request that needs to know makes another.
	askAgain = time.Second
)

// ErrUnknown is wrapped by the error that says that it is not known what has ended.
var ErrUnknown = fmt.Errorf("%w: it is not known which sessions have ended", ErrStorage)

// ID identifies a session, or a set of them, in the storage.
type ID = [16]byte

// endFile is a file that tells other instances of an end.
type endFile struct {
	id    ID
	since int64
	place *endPlace
}

// Ended remembers ids that have ended before their time, and learns them from the
// other instances that share a storage. What it has learned holds while the storage
// is down, and from one configuration to the next.
//
// Each id is filed twice: under the hour in which it would have ended anyway, for
// those that start anew, and under the five minutes in which it was ended, for those
// that only want to know what is new. Where there are many, they are folded: see [endPlace].
type Ended struct {
	clock  *Clock
	all    *endPlace         // by the hour in which an id would have ended
	lately *endPlace         // by when it was ended
	slow   certmagic.Storage // for what may take long
	ended  endings

	expected endings // by EndBefore: ends that are about to be written

	begin    sync.Once
	learning context.Context // done when the learning is to stop
	stop     context.CancelFunc
	listing  singleflight.Group // of all there is
	asking   singleflight.Group // by those who need to know
	inPart   atomic.Bool        // there is, or was, an end with a since
	learned  atomic.Int64       // when all of it was last known to be learned, in Unix nanoseconds; 0: never
	forgot   atomic.Int64       // the period in which what is over was last forgotten

	mu        sync.RWMutex
	read      map[string]bool   // what others have folded lately, and was read
	unwritten map[endFile]int64 // until when it counts: what is being written, or is to be written again
	failed    error             // of the last attempt to learn; nil: it succeeded
	tried     time.Duration     // when that was, by the steady clock
	blind     bool              // that attempt was not shown what has ended lately
	storages  int               // how often it was another storage
}

// NewEnded returns an empty memory of what has ended by the records in storage, which should be a
// [Bounded] one, by clock. It does not touch the storage.
func NewEnded(storage certmagic.Storage, clock *Clock) *Ended {
	learning, stop := context.WithCancel(context.Background())
	return &Ended{
		clock: clock,
		all: newEndPlace(newPeriods(storage, clock, "aventus_auth/ended/all", time.Hour), ClockSkew,
			learnTimeout),
		lately: newEndPlace(newPeriods(storage, clock, "aventus_auth/ended/lately", latelyEach), latelyFor,
			storageTimeout),
		slow:     patient(storage, learnTimeout, 1),
		learning: learning,
		stop:     stop,

		unwritten: make(map[endFile]int64),
	}
}

// Begin starts the learning: from the first call until Destruct, the storage is asked every
// [LearnInterval]. The first call, and those that come during it, wait until the storage has
// answered or failed, but not longer than for any call of it. Later calls return at once.
func (e *Ended) Begin() {
	e.begin.Do(func() {
		first := make(chan struct{})
		go e.keepLearning(first)
		patience := time.NewTimer(storageTimeout)
		defer patience.Stop()
		select {
		case <-first:
		case <-patience.C:
		}
	})
}

// Destruct implements caddy.Destructor. It stops the learning. A Begin that comes later, from a
// request that outlives the last configuration, asks the storage once.
func (e *Ended) Destruct() error {
	e.stop()
	return nil
}

// keepLearning closes first after the first attempt.
func (e *Ended) keepLearning(first chan<- struct{}) {
	_ = e.tryLearn(e.learning)
	close(first)
	ticker := time.NewTicker(LearnInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = e.tryLearn(e.learning) // it is tried again soon; until then, what is known holds
			e.writeAgain(e.learning)
			e.all.fold(e.learning)
			e.lately.fold(e.learning)
		case <-e.learning.Done():
			return
		}
	}
}

// Known returns nil if all that has ended by now, a current reading of the clock, is known, but for what ended within
// the last hour. Otherwise it asks the storage, unless that has just failed, and so it does every [LearnInterval]
// after Destruct. An instance that has never learned what has ended, since the storage was down or shows nothing when
// it started, knows nothing. What Has said before may not hold any more, unless IsKnown held before that.
func (e *Ended) Known(ctx context.Context, now time.Time) error {
	e.Begin()
	isKnown, failed := e.known(now)
	if !isKnown && failed == nil || e.isNoMoreLearning() {
		_, failed, _ = e.asking.Do("", func() (any, error) { return nil, e.Learn(ctx) })
		isKnown, _ = e.known(e.clock.Now())
	}
	if isKnown {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnknown, failed)
}

// isNoMoreLearning reports whether the learning has stopped, and LearnInterval has passed since the storage was last
// asked: what goes on after the last configuration, such as a stream, has to ask for itself.
func (e *Ended) isNoMoreLearning() bool {
	if e.learning.Err() == nil {
		return false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.clock.elapsed()-e.tried >= LearnInterval
}

// IsKnown is Known, but never asks.
func (e *Ended) IsKnown(now time.Time) bool {
	e.Begin()
	isKnown, _ := e.known(now)
	return isKnown
}

// known reports whether all that has ended by now is known, and what an attempt to learn it has just failed with.
func (e *Ended) known(now time.Time) (isKnown bool, failed error) {
	learned := e.learned.Load()
	if gap := time.Duration(now.UnixNano() - learned); learned != 0 && -ClockSkew <= gap && gap <= knownFor {
		return true, nil
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.clock.elapsed()-e.tried < askAgain {
		failed = e.failed
	}
	return false, failed
}

// Learned returns when all that has ended was last known. It is zero if that was never so.
func (e *Ended) Learned() time.Time {
	if at := e.learned.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Has reports whether what is called id, and began at that time, is known to have
// ended.
func (e *Ended) Has(id ID, began time.Time) bool {
	if e.HasPartial() {
		// First, since an end is noted before it is expected no more.
		if expected, ok := e.expected.get(id); ok && began.Unix() <= expected.since {
			return true
		}
	}
	return e.hasNoted(id, began)
}

// hasNoted is Has without the ends that are about to be written.
func (e *Ended) hasNoted(id ID, began time.Time) bool {
	end, ok := e.ended.get(id)
	return ok && (end.since <= 0 || began.Unix() <= end.since)
}

// HasEverywhere reports whether what is called id, and began at that time, is known to have ended, and the end is
// written for the other instances.
func (e *Ended) HasEverywhere(id ID, began time.Time) bool {
	return e.hasNoted(id, began) && !e.IsUnwritten(id)
}

// After returns the first moment at which something called id may begin and not have
// ended with what was before it.
func (e *Ended) After(id ID) time.Time {
	expected, _ := e.expected.get(id) // first, as in Has
	known, _ := e.ended.get(id)
	return time.Unix(max(known.since, expected.since)+1, 0)
}

// HasPartial reports whether anything at all has ended, or is expected to end, by EndBefore or EndNamed: whether
// ids other than a session's own count at all.
func (e *Ended) HasPartial() bool { return e.inPart.Load() }

// End ends id, which would have lived until then. It holds here at once, and
// everywhere when nil is returned. After an error it is written again as long as [Begin] has the
// storage asked, until the storage takes it.
func (e *Ended) End(ctx context.Context, id ID, until time.Time) error {
	return e.end(ctx, id, end{until: until.Unix()})
}

// EndBefore ends all that is called id and began by since, as End does. What began after an end of
// before, at the time that After returned, is ended too, however soon that was: at this instance, and
// at others whose ends the storage tells of.
func (e *Ended) EndBefore(ctx context.Context, id ID, since, until time.Time) error {
	how := end{until: until.Unix(), since: since.Unix()}
	e.mu.Lock()
	expected := e.afterKnown(id, how)
	e.expect(id, expected)
	e.mustWrite(id, expected)
	e.mu.Unlock()
	_ = e.Learn(ctx) // where it fails, what is known counts
	return e.end(ctx, id, how)
}

// ExpectBefore ends all that is called id and began by since, at this instance alone and without accessing the
// storage, for a caller that is about to call EndBefore. It may be repeated without effect.
func (e *Ended) ExpectBefore(id ID, since, until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expect(id, end{until: until.Unix(), since: since.Unix()})
}

// EndLater does what ExpectBefore does, and has the end written as one that the storage has not taken.
func (e *Ended) EndLater(id ID, since, until time.Time) {
	how := end{until: until.Unix(), since: since.Unix()}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expect(id, how)
	e.mustWrite(id, how)
}

// mustWrite notes that an end is to be written at both places. The mutex must be held.
func (e *Ended) mustWrite(id ID, how end) {
	for _, place := range []*endPlace{e.all, e.lately} {
		file := endFile{id, how.since, place}
		e.unwritten[file] = max(e.unwritten[file], how.until)
	}
}

// expect notes an end that is about to be written. It is kept apart from the others, since the end that is written
// must be later than each of those. The mutex must be held.
func (e *Ended) expect(id ID, how end) {
	e.inPart.Store(true)
	e.expected.note(id, how)
}

// Replace ends id as End does, where something else lives on what was granted to it.
func (e *Ended) Replace(ctx context.Context, id ID, until time.Time) error {
	return e.end(ctx, id, end{until: until.Unix(), since: replaced})
}

// WasReplaced reports whether id is known to have ended by Replace alone.
func (e *Ended) WasReplaced(id ID) bool {
	end, _ := e.ended.get(id)
	return end.since == replaced
}

// EndNamed ends all that is called id, as End does, where id is not a session's own but names several,
// or some that may yet begin: what begins until the given time has ended, too.
func (e *Ended) EndNamed(ctx context.Context, id ID, until time.Time) error {
	return e.end(ctx, id, end{until: until.Unix(), since: until.Unix()})
}

func (e *Ended) end(ctx context.Context, id ID, how end) error {
	e.mu.Lock()
	how = e.afterKnown(id, how)
	e.note(id, how)
	e.mustWrite(id, how)
	if expected, _ := e.expected.get(id); saysAll(how.since, expected.since) {
		e.expected.remove(id)
	}
	e.mu.Unlock()
	now := e.clock.Now()
	e.all.sweep(ctx, now)
	e.lately.sweep(ctx, now)
	err := errors.Join(
		e.write(ctx, endFile{id, how.since, e.all}, how.until),
		e.write(ctx, endFile{id, how.since, e.lately}, how.until),
	)
	if err != nil || !e.isBlind() {
		return err
	}
	// The record may be invisible to the other instances.
	if err = e.Learn(ctx); !e.isBlind() {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unwritten[endFile{id, how.since, e.lately}] = how.until
	return err
}

// afterKnown returns an end by EndBefore, made later than the one that is known. It returns other ends unchanged.
// The mutex must be held.
func (e *Ended) afterKnown(id ID, how end) end {
	if how.since > 0 {
		known, _ := e.ended.get(id) // whose since is not above 0 where it is none by EndBefore
		how.since = max(how.since, known.since+1)
	}
	return how
}

// write writes the record of an end, which counts until then, and notes that it is written. A record among those that
// other instances list as new is filed under the time of the write.
func (e *Ended) write(ctx context.Context, r endFile, until int64) error {
	period := r.place.of(time.Unix(until, 0))
	if r.place == e.lately {
		period = r.place.of(e.clock.Now())
	}
	if err := r.place.put(ctx, period, filed{r.id, end{until: until, since: r.since}}); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// It also says what earlier records of the same id would.
	maps.DeleteFunc(e.unwritten, func(old endFile, end int64) bool {
		return old.id == r.id && old.place == r.place && saysAll(r.since, old.since) && end <= until
	})
	return nil
}

// saysAll reports whether an end with the first value of since includes one with the other.
func saysAll(since, other int64) bool {
	switch {
	case since == 0 || other == 0:
		return since == 0
	case since < 0 || other < 0:
		return since < 0
	}
	return other <= since
}

// isBlind reports whether the last attempt to learn was not shown what has ended lately.
func (e *Ended) isBlind() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.blind
}

// writeAgain writes what is unwritten, until the storage fails again.
func (e *Ended) writeAgain(ctx context.Context) {
	e.mu.RLock()
	unwritten := maps.Clone(e.unwritten)
	e.mu.RUnlock()
	for r, until := range unwritten {
		if e.write(ctx, r, until) != nil {
			return
		}
	}
}

// IsUnwritten reports whether an end of what is called id holds here, and is still to be written for the other
// instances: its write is under way, or has failed. Ending it again tries the write again.
func (e *Ended) IsUnwritten(id ID) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for r := range e.unwritten {
		if r.id == id {
			return true
		}
	}
	return false
}

// HasUnwritten reports whether any end that still counts is to be written for the other instances.
func (e *Ended) HasUnwritten() bool {
	over := e.clock.Now().Add(-ClockSkew).Unix()
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, until := range e.unwritten {
		if until >= over {
			return true
		}
	}
	return false
}

// Learn asks the storage for what has ended lately, and for all there is where that is
// not sure to be enough. To list all may take long: after LearnInterval, Learn returns
// without it, to ask again for what is new, while that goes on. The end of ctx does not end it: others may wait for
// the same answer.
func (e *Ended) Learn(ctx context.Context) error { return e.tryLearn(context.WithoutCancel(ctx)) }

// tryLearn is Learn until ctx is done, which is an error.
func (e *Ended) tryLearn(ctx context.Context) error {
	blind, err := e.learn(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.blind, e.failed, e.tried = blind, err, e.clock.elapsed()
	return err
}

// learn is Learn, and reports whether it was not shown what has ended lately.
func (e *Ended) learn(ctx context.Context) (blind bool, err error) {
	e.mu.RLock()
	storages, before := e.storages, e.read
	e.mu.RUnlock()
	now, learned := e.clock.Now(), e.Learned()
	read, err := e.lately.learn(ctx, e.lately.storage, before, e.note)
	e.mu.Lock()
	e.read = read
	e.mu.Unlock()
	if err != nil {
		return true, err // it is tried again soon
	}
	gap := now.Sub(learned)
	isEnough := 0 <= gap && gap <= latelyFor-2*ClockSkew
	if isEnough {
		e.hasLearned(now, storages)
		if period := e.lately.of(now); e.forgot.Swap(period) != period {
			e.forget()
		}
		return false, nil
	}
	patience := time.NewTimer(LearnInterval)
	defer patience.Stop()
	select {
	case all := <-e.listing.DoChan("", func() (any, error) { return nil, e.learnAll(ctx, storages) }):
		return false, all.Err
	case <-patience.C:
		err := fmt.Errorf("%w: listing all that has ended takes more than %s", ErrStorage, LearnInterval)
		return false, tell(e.slow, "listing", err)
	}
}

// learnAll asks for all that has ended.
func (e *Ended) learnAll(ctx context.Context, storages int) error {
	now := e.clock.Now()
	_, err := e.all.learn(ctx, e.slow, nil, e.note)
	if err == nil {
		e.hasLearned(now, storages)
		e.forget()
	}
	return err
}

// hasLearned remembers that all is known that had ended by then, if not more; unless it was learned from another
// storage.
func (e *Ended) hasLearned(at time.Time, storages int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	learned := e.Learned()
	isNewer := at.After(learned) || learned.After(e.clock.Now()) // a clock may be set back
	if storages == e.storages && isNewer {
		e.learned.Store(at.UnixNano())
	}
}

// forget forgets what would have ended by itself by now.
func (e *Ended) forget() {
	now := e.clock.Now()
	if !e.clock.MayRemove(now) {
		return
	}
	over := now.Add(-ClockSkew).Unix()
	e.ended.forget(over)
	e.expected.forget(over)
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.unwritten, func(_ endFile, until int64) bool { return until < over })
}

// Relearn has all that has ended learned anew, since the storage has become another one. What is known of the one
// before is kept: its ids are in no other.
func (e *Ended) Relearn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.learned.Store(0)
	e.storages++
}

// Heed adds what another memory, which may be of another storage, knows to have ended, and writes what that one has
// still to write.
func (e *Ended) Heed(other *Ended) {
	e.mu.Lock()
	other.expected.each(e.expect) // first, as in Has
	e.mu.Unlock()
	other.ended.each(e.note)
	other.mu.RLock()
	unwritten := maps.Clone(other.unwritten)
	other.mu.RUnlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	for r, until := range unwritten {
		if r.place == other.all {
			r.place = e.all
		} else {
			r.place = e.lately
		}
		e.unwritten[r] = max(e.unwritten[r], until)
	}
}

// Adopt is Heed for a memory of the same storage, which stops learning.
func (e *Ended) Adopt(other *Ended) {
	e.Heed(other)
	e.all.adopt(other.all)
	e.lately.adopt(other.lately)
}

// note remembers an end.
func (e *Ended) note(id ID, how end) {
	if how.since > 0 && !e.inPart.Load() {
		e.inPart.Store(true)
	}
	e.ended.note(id, how)
}
