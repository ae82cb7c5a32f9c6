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

	// useTimeout bounds a call of Use.
	useTimeout = 10 * time.Second

	// gatherFor is how long a call of Use waits for others to be written together with, if several
	// were written together within gatherAfter. Writing is the most expensive part of a login, with
	// files at least, and the person who signs in does not notice the delay.
	gatherFor   = 5 * time.Millisecond
	gatherAfter = time.Second

	// journalSize limits a journal: it is written as a whole for each batch of calls, and read by
	// all processes that share the storage.
	journalSize = 32 << 10
)

// Once makes sure that an id is used once, by one of all processes that share a
// storage, also after a restart.
//
// Before an id is used, its use is written into a journal of this process alone, and then
// the journals of the other processes are read. Of two processes that use the same id at
// once, the one whose write ended last finds the other's, and fails. (Both may fail. Then
// neither uses the id, which costs less than a lock for every use.) Calls that come while
// the journal is being written are written together the next time. The storage must show
// a value to every read that begins after its write has ended.
//
// Journals are filed by the hour in which they were begun, so that removing old
// journals costs nothing for the others.
type Once struct {
	place *periods
	keep  time.Duration

	mu        sync.Mutex
	used      map[ID]used
	waiting   []*pending // for the next write of the journal
	isWriting bool

	// The goroutine that writes owns the other fields.
	gathered time.Duration  // when several calls were last written together, by the steady clock
	journal  string         // the key of this process's own journal
	content  []byte         // of that journal
	read     map[string]int // the number of bytes read of each other journal, by its key
	readAt   time.Time      // when all of them were last read
}

// used says when an id was used, in Unix seconds, and by which call.
type used struct {
	at      int64
	byOther bool
}

// pending is a call of Use that waits for its result.
type pending struct {
	ids    []ID
	result chan result
}

type result struct {
	first bool
	err   error
}

// NewOnce returns a Once that keeps its journals under prefix in storage, which should be a
// [Bounded] one, for at least as long as keep, by clock.
func NewOnce(storage certmagic.Storage, prefix string, keep time.Duration, clock *Clock) *Once {
	return &Once{
		place:    newPeriods(storage, clock, prefix, time.Hour),
		keep:     keep,
		used:     make(map[ID]used),
		read:     make(map[string]int),
		gathered: clock.elapsed() - gatherAfter,
	}
}

// Use reports whether this call is the first to use any of ids. Of all such calls, in
// all processes, one at most gets true. After an error, the ids may or may not count
// as used.
func (o *Once) Use(ids ...ID) (first bool, err error) {
	mine := &pending{ids: ids, result: make(chan result, 1)}
	if !o.enter(mine) {
		return false, nil
	}
	patience := time.NewTimer(useTimeout)
	defer patience.Stop()
	select {
	case r := <-mine.result:
		return r.first, r.err
	case <-patience.C: // no other call gets true either, whatever the result of this one
		return false, fmt.Errorf("%w: too slow to note that %x is used", ErrStorage, ids[0])
	}
}

// enter queues a call to be written, unless it is already known not to be the first.
func (o *Once) enter(mine *pending) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range mine.ids {
		if _, ok := o.used[id]; ok {
			return false
		}
	}
	for _, id := range mine.ids {
		o.used[id] = used{at: o.place.clock.Now().Unix()}
	}
	o.waiting = append(o.waiting, mine)
	if !o.isWriting {
		o.isWriting = true
		go o.write()
	}
	return true
}

// write serves the waiting calls until there are none.
func (o *Once) write() {
	for isDone := false; !isDone; {
		if o.place.clock.elapsed()-o.gathered < gatherAfter { // others are likely to come
			time.Sleep(gatherFor)
		}
		o.mu.Lock()
		batch := o.waiting
		o.waiting = nil
		o.mu.Unlock()
		if len(batch) > 1 {
			o.gathered = o.place.clock.elapsed()
		}
		err := o.writeBatch(batch)
		o.mu.Lock()
		for _, call := range batch {
			call.result <- result{o.settle(call, err), err}
		}
		isDone = len(o.waiting) == 0
		o.isWriting = !isDone
		o.mu.Unlock()
	}
}

// settle reports whether a call was the first, once its batch was written and the other
// journals were read. The mutex must be held.
func (o *Once) settle(call *pending, err error) bool {
	first := err == nil
	for _, id := range call.ids {
		switch {
		case o.used[id].byOther:
			first = false
		case err != nil:
			delete(o.used, id) // this call does not use the id, so the next one may
		}
	}
	return first
}

// writeBatch writes a batch into this process's journal, and reads the new entries in
// the others'.
func (o *Once) writeBatch(batch []*pending) error {
	ctx, now := context.Background(), o.place.clock.Now()
	if len(o.content) >= journalSize || path.Dir(o.journal) != o.place.dir(o.place.of(now)) {
		o.begin(now)
	}
	for _, call := range batch {
		for _, id := range call.ids {
			o.content = append(o.content, id[:]...)
		}
	}
	if err := o.place.storage.Store(ctx, o.journal, o.content); err != nil {
		// The write may be carried out later, and then undo later writes, so this
		// journal is not used any more.
		o.begin(now)
		return err
	}
	if err := o.readOthers(ctx, now); err != nil {
		return err
	}
	o.forget(ctx)
	return nil
}

// begin begins a new journal.
func (o *Once) begin(now time.Time) {
	if o.journal != "" {
		o.read[o.journal] = journalSize // its entries are known
	}
	var name ID
	_, _ = rand.Read(name[:]) // never fails (crypto/rand)
	o.journal, o.content = path.Join(o.place.dir(o.place.of(now)), hex.EncodeToString(name[:])), nil
}

// readOthers reads the uses of other processes since all journals were last read, by any clock that
// differs by ClockSkew at most.
func (o *Once) readOthers(ctx context.Context, now time.Time) error {
	from := now.Add(-o.keep)
	if o.readAt.After(from) && !o.readAt.After(now) { // a clock may be set back
		from = o.readAt
	}
	// A use is written up to useTimeout after the hour of its journal was chosen.
	from = from.Add(-ClockSkew - useTimeout)
	journals, err := list(ctx, o.place.storage, o.place.prefix, true)
	if err != nil {
		return err
	}
	isWritten := false
	for _, journal := range journals {
		hour, err := periodIn(path.Dir(journal))
		switch {
		case err != nil || len(path.Base(journal)) != 2*len(ID{}): // a folder, or a file on its way to its name
		case journal == o.journal:
			isWritten = true
		case hour < o.place.of(from) || hour > o.place.of(now.Add(ClockSkew)):
		default:
			if err := o.readOther(ctx, journal, hour); err != nil {
				return err
			}
		}
	}
	// Some engines return an empty listing when they are down.
	if !isWritten {
		return unlisted(o.place.storage, fmt.Errorf("%s was written a moment ago", o.journal))
	}
	o.readAt = now
	return nil
}

// readOther reads the new entries of another process's journal.
func (o *Once) readOther(ctx context.Context, journal string, hour int64) error {
	if o.read[journal] >= journalSize {
		return nil // it is full
	}
	content, err := o.place.storage.Load(ctx, journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a process is writing it, and will then read this process's journal
	}
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range slices.Chunk(content[min(o.read[journal], len(content)):], len(ID{})) {
		if len(id) == len(ID{}) {
			o.used[ID(id)] = used{at: (hour + 1) * 3600, byOther: true}
		}
	}
	o.read[journal] = len(content) - len(content)%len(ID{}) // some engines show half a write
	return nil
}

// forget removes, once an hour, the ids that do not count any more.
func (o *Once) forget(ctx context.Context) {
	now := o.place.clock.Now()
	oldest := now.Add(-o.keep - 2*ClockSkew)
	if !o.place.sweep(ctx, now, oldest) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, used := range o.used {
		if used.at < oldest.Unix() {
			delete(o.used, id)
		}
	}
	for journal := range o.read {
		if hour, _ := periodIn(path.Dir(journal)); hour < o.place.of(oldest) {
			delete(o.read, journal)
		}
	}
}
