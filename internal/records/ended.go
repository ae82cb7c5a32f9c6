package records

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// LearnInterval is how often an instance asks for what others have ended. With
	// the time that asking takes, all know it within ten seconds.
	LearnInterval = 5 * time.Second

	// What was ended in the last of these is listed each time; cost grows with how
	// much has ended lately, not with all that ever has.
	recently = 30 * time.Minute
)

// ID is what has an end.
type ID = [16]byte

// Ended remembers ids that have ended before their time, and learns them from the
// other instances that share a storage. What it has learned holds while the storage
// is down, and from one configuration to the next.
//
// Each id is filed twice: under the hour in which it would have ended anyway, for
// those that start anew, and under the hour in which it was ended, for those that
// only want to know what is new.
type Ended struct {
	now func() time.Time

	mu      sync.RWMutex
	storage certmagic.Storage // that of the newest configuration
	all     *hours            // by the hour in which an id would have ended
	lately  *hours            // by the hour in which it was ended
	until   map[ID]int64      // id to the Unix second of its own end
	learned time.Time         // when all of it was last known to be learned
	first   chan struct{}     // closed when the first attempt to learn has ended
	stop    context.CancelFunc
}

// NewEnded returns an empty memory, by the clock now.
func NewEnded(now func() time.Time) *Ended {
	return &Ended{now: now, until: make(map[ID]int64)}
}

// Use makes storage, which should be a [Bounded] one, the one to ask, and sees that
// it is asked every [LearnInterval] from now on. The first call waits for the first
// answer, but not for a storage that fails.
func (e *Ended) Use(storage certmagic.Storage) {
	e.mu.Lock()
	if e.storage != storage {
		e.storage = storage
		e.all = &hours{storage: storage, prefix: "aventus_auth/ended/all"}
		e.lately = &hours{storage: storage, prefix: "aventus_auth/ended/lately"}
	}
	if e.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		e.stop, e.first = stop, make(chan struct{})
		go e.keepLearning(ctx, e.first)
	}
	first := e.first
	e.mu.Unlock()
	<-first
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

// Has reports whether id is known to have ended.
func (e *Ended) Has(id ID) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	_, ok := e.until[id]
	return ok
}

// End ends id, which would have lived until then. It holds here at once, and
// everywhere when nil is returned.
func (e *Ended) End(ctx context.Context, id ID, until time.Time) error {
	e.mu.Lock()
	e.until[id] = until.Unix()
	storage, all, lately := e.storage, e.all, e.lately
	e.mu.Unlock()
	now := e.now()
	all.sweep(ctx, hourOf(now), hourOf(now.Add(-ClockSkew)))
	lately.sweep(ctx, hourOf(now), hourOf(now.Add(-recently)))
	name := strconv.FormatInt(until.Unix(), 10) + "-" + hex.EncodeToString(id[:])
	return errors.Join(
		storage.Store(ctx, all.key(hourOf(until), name), []byte{1}),
		storage.Store(ctx, lately.key(hourOf(now), name), []byte{1}),
	)
}

// Learn asks the storage for what has ended: lately, or all of it where that is
// not sure to be enough.
func (e *Ended) Learn(ctx context.Context) error {
	e.mu.Lock()
	storage, all, lately, learned := e.storage, e.all, e.lately, e.learned
	e.mu.Unlock()
	now := e.now()
	from := lately.prefix
	if gap := now.Sub(learned); gap < 0 || gap > recently-2*ClockSkew {
		from = all.prefix
	}
	keys, err := storage.List(ctx, from, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.learned = now
	for _, key := range keys {
		text, name, _ := strings.Cut(path.Base(key), "-")
		until, err := strconv.ParseInt(text, 10, 64)
		id, idErr := hex.DecodeString(name)
		if err == nil && idErr == nil && len(id) == len(ID{}) {
			e.until[ID(id)] = until
		}
	}
	for id, until := range e.until {
		if until < now.Add(-ClockSkew).Unix() {
			delete(e.until, id) // what it would have opened has ended by itself
		}
	}
	return nil
}
