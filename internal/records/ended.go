package records

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
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

	// What was ended in the last half hour is listed each time, by whatever clock, and
	// however late it was written: so the cost grows with how much ends in that time,
	// and not with all that ever has. Older periods are removed one by one.
	latelyFor  = 30 * time.Minute
	latelyEach = 5 * time.Minute
)

// ID is what has an end.
type ID = [16]byte

// end is how an id has ended, in Unix seconds.
type end struct {
	until int64 // when it would have ended by itself, and may be forgotten
	since int64 // what began after this has not ended; 0: all of it has
}

// Ended remembers ids that have ended before their time, and learns them from the
// other instances that share a storage. What it has learned holds while the storage
// is down, and from one configuration to the next.
//
// Each id is filed twice: under the hour in which it would have ended anyway, for
// those that start anew, and under the five minutes in which it was ended, for those
// that only want to know what is new.
type Ended struct {
	now func() time.Time

	mu      sync.RWMutex
	storage certmagic.Storage // that of the newest configuration
	all     *periods          // by the hour in which an id would have ended
	lately  *periods          // by when it was ended
	slow    certmagic.Storage // for what may take long
	ended   map[ID]end
	inPart  atomic.Bool        // there is, or was, an end with a since
	learned time.Time          // when all of it was last known to be learned
	listing singleflight.Group // of all there is
	first   chan struct{}      // closed when the first attempt to learn has ended
	stop    context.CancelFunc
}

// NewEnded returns an empty memory, by the clock now.
func NewEnded(now func() time.Time) *Ended {
	return &Ended{now: now, ended: make(map[ID]end)}
}

// Use makes storage, which should be a [Bounded] one, the one to ask, and sees that
// it is asked every [LearnInterval] from now on. The first call waits for the first
// answer, but not for a storage that fails, nor longer than for any call of it.
func (e *Ended) Use(storage certmagic.Storage) {
	e.mu.Lock()
	if e.storage != storage {
		e.storage = storage
		e.all = newPeriods(storage, "aventus_auth/ended/all", time.Hour)
		e.lately = newPeriods(storage, "aventus_auth/ended/lately", latelyEach)
		e.slow = patient(storage, learnTimeout)
	}
	if e.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		e.stop, e.first = stop, make(chan struct{})
		go e.keepLearning(ctx, e.first)
	}
	first := e.first
	e.mu.Unlock()
	patience := time.NewTimer(storageTimeout)
	defer patience.Stop()
	select {
	case <-first:
	case <-patience.C:
	}
}

// Destruct implements caddy.Destructor. It ends the learning.
func (e *Ended) Destruct() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stop != nil {
		e.stop()
	}
	return nil
}

func (e *Ended) keepLearning(ctx context.Context, first chan<- struct{}) {
	_ = e.Learn(ctx)
	close(first)
	ticker := time.NewTicker(LearnInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = e.Learn(ctx) // it is tried again soon; until then, what is known holds
		case <-ctx.Done():
			return
		}
	}
}

// Has reports whether what is called id, and began at that time, is known to have
// ended.
func (e *Ended) Has(id ID, began time.Time) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	end, ok := e.ended[id]
	return ok && (end.since == 0 || began.Unix() <= end.since)
}

// After returns the first moment at which something called id may begin and not have
// ended with what was before it.
func (e *Ended) After(id ID) time.Time {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return time.Unix(e.ended[id].since+1, 0)
}

// HasPartial reports whether anything at all has ended but in part, by EndBefore.
func (e *Ended) HasPartial() bool { return e.inPart.Load() }

// End ends id, which would have lived until then. It holds here at once, and
// everywhere when nil is returned.
func (e *Ended) End(ctx context.Context, id ID, until time.Time) error {
	return e.end(ctx, id, end{until: until.Unix()})
}

// EndBefore ends all that is called id and began by since, as End does.
func (e *Ended) EndBefore(ctx context.Context, id ID, since, until time.Time) error {
	return e.end(ctx, id, end{until: until.Unix(), since: since.Unix()})
}

func (e *Ended) end(ctx context.Context, id ID, how end) error {
	e.mu.Lock()
	e.note(id, how)
	storage, all, lately := e.storage, e.all, e.lately
	e.mu.Unlock()
	now := e.now()
	all.sweep(ctx, now, now.Add(-ClockSkew))
	lately.sweep(ctx, now, now.Add(-latelyFor))
	name := fmt.Sprintf("%d-%s-%d", how.until, hex.EncodeToString(id[:]), how.since)
	return errors.Join(
		storage.Store(ctx, path.Join(all.dir(all.of(time.Unix(how.until, 0))), name), []byte{1}),
		storage.Store(ctx, path.Join(lately.dir(lately.of(now)), name), []byte{1}),
	)
}

// Learn asks the storage for what has ended lately, and for all there is where that is
// not sure to be enough. To list all may take long: after LearnInterval, Learn returns
// without it, to ask again for what is new, while that goes on.
func (e *Ended) Learn(ctx context.Context) error {
	e.mu.Lock()
	lately, learned := e.lately, e.learned
	e.mu.Unlock()
	now := e.now()
	keys, err := list(ctx, lately.storage, lately.prefix, true)
	if err != nil {
		return err // it is tried again soon
	}
	gap := now.Sub(learned)
	isEnough := 0 <= gap && gap <= latelyFor-2*ClockSkew
	if isEnough {
		learned = now
	}
	e.noteAll(keys, learned)
	if isEnough {
		return nil
	}
	patience := time.NewTimer(LearnInterval)
	defer patience.Stop()
	select {
	case all := <-e.listing.DoChan("", func() (any, error) { return nil, e.learnAll(ctx) }):
		return all.Err
	case <-patience.C:
		return fmt.Errorf("%w: listing all that has ended takes more than %s", ErrStorage, LearnInterval)
	}
}

// learnAll asks for all that has ended.
func (e *Ended) learnAll(ctx context.Context) error {
	e.mu.Lock()
	slow, prefix := e.slow, e.all.prefix
	e.mu.Unlock()
	now := e.now()
	keys, err := list(ctx, slow, prefix, true)
	if err == nil {
		e.noteAll(keys, now)
	}
	return err
}

// noteAll remembers what was listed, after which all is known that had ended by then,
// if not more.
func (e *Ended) noteAll(keys []string, learned time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if learned.After(e.learned) || e.learned.After(e.now()) { // a clock may be set back
		e.learned = learned
	}
	for _, key := range keys {
		parts := strings.Split(path.Base(key), "-")
		if len(parts) != 3 {
			continue
		}
		until, err1 := strconv.ParseInt(parts[0], 10, 64)
		id, err2 := hex.DecodeString(parts[1])
		since, err3 := strconv.ParseInt(parts[2], 10, 64)
		if err1 == nil && err2 == nil && err3 == nil && len(id) == len(ID{}) {
			e.note(ID(id), end{until, since})
		}
	}
	over := e.now().Add(-ClockSkew).Unix()
	for id, end := range e.ended {
		if end.until < over {
			delete(e.ended, id) // what it would have opened has ended by itself
		}
	}
}

// note remembers an end; of several, the latest counts. The mutex must be held.
func (e *Ended) note(id ID, how end) {
	if known, ok := e.ended[id]; !ok || how.since >= known.since {
		how.until = max(how.until, known.until)
		e.ended[id] = how
		if how.since != 0 {
			e.inPart.Store(true)
		}
	}
}
