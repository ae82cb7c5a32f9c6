package records

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// ClockSkew is how far the clocks of instances that share a storage may differ.
	ClockSkew = 5 * time.Minute

	// claimTimeout bounds a claim.
	claimTimeout = 10 * time.Second

	// gatherFor is how long a claim waits for others to be written with, when others
	// came lately: to write is what costs most of a login, with files at least, and who
	// signs in does not notice.
	gatherFor = 5 * time.Millisecond

	// journalSize is how long a journal gets: it is written anew for each batch of
	// claims, and read by all that share the storage.
	journalSize = 32 << 10
)

// Claims makes sure that a thing is used once, by one process of all that share a
// storage, also after a restart.
//
// What is claimed is written into a journal, which is this process's alone, and then
// the others' journals are read. Of two processes that claim the same thing at once,
// the one whose writing ended last meets the other's claim, and gives way. (Both may.
// Then nobody has it, which costs less than a lock for every claim.) Claims that come
// while the journal is being written are written together the next time. This asks
// of the storage that what was written is seen by whoever reads it afterwards.
//
// Journals are filed by the hour in which they were begun, so that removing old
// ones costs nothing for those that still count.
type Claims struct {
	prefix string
	keep   time.Duration
	now    func() time.Time

	mu        sync.Mutex
	claimed   map[ID]claimed
	waiting   []*claim // for the next time that the journal is written
	isWriting bool

	// The rest belongs to whoever writes.
	shared  time.Time      // when several claims were last written together
	place   *periods       // in the storage that was last written to
	journal string         // the key of this process's own
	content []byte         // what is in it
	read    map[string]int // how much of each other journal was read, by its key
	readAt  time.Time      // when all of them were last read
}

// claimed says of an id when it was claimed, in Unix seconds, and by whom.
type claimed struct {
	at      int64
	byOther bool
}

// claim is a call of Claim that waits for its result.
type claim struct {
	ids     []ID
	storage certmagic.Storage
	result  chan result
}

type result struct {
	first bool
	err   error
}

// NewClaims returns claims that are kept under prefix for at least as long as
// keep, by the clock now.
func NewClaims(prefix string, keep time.Duration, now func() time.Time) *Claims {
	return &Claims{prefix: prefix, keep: keep, now: now, claimed: make(map[ID]claimed), read: make(map[string]int)}
}

// Claim reports whether this call is the first to claim any of ids. Of all such
// calls, wherever they are made, one at most gets true. After an error nothing may
// be taken for claimed, nor for free. The storage, which should be a [Bounded] one,
// is the same for all calls, though it may be another value, as after a reload.
func (c *Claims) Claim(storage certmagic.Storage, ids ...ID) (bool, error) {
	mine := &claim{ids: ids, storage: storage, result: make(chan result, 1)}
	if !c.enter(mine) {
		return false, nil
	}
	patience := time.NewTimer(claimTimeout)
	defer patience.Stop()
	select {
	case r := <-mine.result:
		return r.first, r.err
	case <-patience.C: // whatever comes of it, nobody will be told that it was first
		return false, fmt.Errorf("%w: too slow to claim %x", ErrStorage, ids[0])
	}
}

// enter has a claim written, unless it is known already that it is not the first.
func (c *Claims) enter(mine *claim) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range mine.ids {
		if _, ok := c.claimed[id]; ok {
			return false
		}
	}
	for _, id := range mine.ids {
		c.claimed[id] = claimed{at: c.now().Unix()}
	}
	c.waiting = append(c.waiting, mine)
	if !c.isWriting {
		c.isWriting = true
		go c.write()
	}
	return true
}

// write serves the claims that wait, until none does.
func (c *Claims) write() {
	for isDone := false; !isDone; {
		if time.Since(c.shared) < time.Second { // or it would wait for nobody
			time.Sleep(gatherFor)
		}
		c.mu.Lock()
		batch := c.waiting
		c.waiting = nil
		c.mu.Unlock()
		if len(batch) > 1 {
			c.shared = time.Now()
		}
		err := c.record(batch)
		c.mu.Lock()
		for _, claim := range batch {
			claim.result <- result{c.settle(claim, err), err}
		}
		isDone = len(c.waiting) == 0
		c.isWriting = !isDone
		c.mu.Unlock()
	}
}

// settle reports whether a claim was the first, after everything was written and
// read that decides it. The mutex must be held.
func (c *Claims) settle(claim *claim, err error) bool {
	first := err == nil
	for _, id := range claim.ids {
		switch {
		case c.claimed[id].byOther:
			first = false
		case err != nil:
			delete(c.claimed, id) // nobody used it, so it may be claimed again
		}
	}
	return first
}

// record writes a batch into this process's journal, and reads what is new in the
// others'.
func (c *Claims) record(batch []*claim) error {
	// Of the values of a storage, the newest is the one that will not be closed.
	storage := batch[len(batch)-1].storage
	if c.place == nil || c.place.storage != storage {
		c.place = newPeriods(storage, c.prefix, time.Hour)
	}
	ctx, now := context.Background(), c.now()
	if len(c.content) >= journalSize || path.Dir(c.journal) != c.place.dir(c.place.of(now)) {
		c.begin(now)
	}
	for _, claim := range batch {
		for _, id := range claim.ids {
			c.content = append(c.content, id[:]...)
		}
	}
	if err := storage.Store(ctx, c.journal, c.content); err != nil {
		// It may be carried out later, and then undo what was written since: so
		// nothing more is written there.
		c.begin(now)
		return err
	}
	if err := c.readOthers(ctx, now); err != nil {
		return err
	}
	c.forget(ctx, now)
	return nil
}

// begin begins a new journal.
func (c *Claims) begin(now time.Time) {
	if c.journal != "" {
		c.read[c.journal] = journalSize // all that is in it is known
	}
	var name ID
	_, _ = rand.Read(name[:]) // never fails (crypto/rand)
	c.journal, c.content = path.Join(c.place.dir(c.place.of(now)), hex.EncodeToString(name[:])), nil
}

// readOthers reads what others have claimed since all was last read, by whatever
// clock within the limits.
func (c *Claims) readOthers(ctx context.Context, now time.Time) error {
	from := now.Add(-c.keep)
	if c.readAt.After(from) && !c.readAt.After(now) { // a clock may be set back
		from = c.readAt
	}
	isWritten := false
	for hour := c.place.of(from.Add(-ClockSkew)); hour <= c.place.of(now.Add(ClockSkew)); hour++ {
		journals, err := list(ctx, c.place.storage, c.place.dir(hour), false)
		if err != nil {
			return err
		}
		for _, journal := range journals {
			switch {
			case journal == c.journal:
				isWritten = true
			case len(path.Base(journal)) != 2*len(ID{}): // a file on its way to its name
			default:
				if err := c.readOther(ctx, journal, hour); err != nil {
					return err
				}
			}
		}
	}
	// Some engines answer that nothing is there when they are down.
	if !isWritten {
		return fmt.Errorf("%w: %s, written a moment ago, is not listed", ErrStorage, c.journal)
	}
	c.readAt = now
	return nil
}

// readOther reads what is new in another's journal.
func (c *Claims) readOther(ctx context.Context, journal string, hour int64) error {
	if c.read[journal] >= journalSize {
		return nil // it is full
	}
	content, err := c.place.storage.Load(ctx, journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is being written, by one that will then meet what was written here
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range slices.Chunk(content[min(c.read[journal], len(content)):], len(ID{})) {
		if len(id) == len(ID{}) {
			c.claimed[ID(id)] = claimed{at: (hour + 1) * 3600, byOther: true}
		}
	}
	c.read[journal] = len(content)
	return nil
}

// forget forgets, once an hour, what does not count any more.
func (c *Claims) forget(ctx context.Context, now time.Time) {
	oldest := now.Add(-c.keep - 2*ClockSkew)
	if !c.place.sweep(ctx, now, oldest) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, claimed := range c.claimed {
		if claimed.at < oldest.Unix() {
			delete(c.claimed, id)
		}
	}
	for journal := range c.read {
		if hour, _ := periodIn(path.Dir(journal)); hour < c.place.of(oldest) {
			delete(c.read, journal)
		}
	}
}
