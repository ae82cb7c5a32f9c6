package records

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"math"
	"path"
	"slices"
	"sync"
	"sync/atomic"
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
	// all processes that share the storage. It is a whole number of ids.
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
// A process has one journal an hour. When it is full, its ids are put aside under a key of their own, which is
// written once and listed by no call of Use; the journal begins with how many such keys there are, from which their
// names follow. So the listing that each call waits for grows with the processes and not with the uses.
//
// Journals are filed by the hour in which they were begun, so that removing old
// journals costs nothing for the others.
type Once struct {
	place *periods
	aside *periods // what is put aside
	keep  time.Duration

	mu        sync.Mutex
	used      map[int64]*idSet // by the hour of the journal
	underWay  map[ID]bool      // those of the calls that wait: whether another process has used it
	waiting   []*pending       // for the next write of the journal
	isWriting bool

	isElsewhere atomic.Bool // by now, it is another storage

	// The goroutine that writes owns the other fields.
	gathered time.Duration  // when several calls were last written together, by the steady clock
	journal  journal        // this process's own
	read     map[string]int // how many bytes of ids were read of each other journal, by its key
	readAt   time.Time      // when all of them were last read
}

// journal is a key with the ids that a process has used.
type journal struct {
	key     string
	aside   uint64 // how often journalSize bytes of ids were put aside
	content []byte // that number in asideSize bytes, and the ids that came since
}

const asideSize = 8

// idSet is a set of ids. After a start, a process may learn of a million in the time of one login. Therefore an idSet
// does not sort them: it files them into 256 heaps. Which heap an id belongs to is a secret of this process, since
// visitors choose what some ids are hashes of, and could make one heap grow.
type idSet [256][]ID

var heapSeed = maphash.MakeSeed()

func heapOf(id ID) byte { return byte(maphash.Comparable(heapSeed, id)) }

func (s *idSet) add(id ID)      { s[heapOf(id)] = append(s[heapOf(id)], id) }
func (s *idSet) has(id ID) bool { return s != nil && slices.Contains(s[heapOf(id)], id) }

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
// [Bounded] one, for at least as long as keep, by clock. What is put aside is beside prefix, and not below it: some
// engines list all that begins with the same text.
func NewOnce(storage certmagic.Storage, prefix string, keep time.Duration, clock *Clock) *Once {
	aside := path.Join(path.Dir(prefix), "more-"+path.Base(prefix))
	return &Once{
		place:    newPeriods(storage, clock, prefix, time.Hour),
		aside:    newPeriods(storage, clock, aside, time.Hour),
		keep:     keep,
		used:     make(map[int64]*idSet),
		underWay: make(map[ID]bool),
		read:     make(map[string]int),
		gathered: clock.elapsed() - gatherAfter,
	}
}

// Relearn has the next call of Use begin anew, since it is another storage by now: what this process put aside is not
// there, and others have noted uses there that it has not read.
func (o *Once) Relearn() { o.isElsewhere.Store(true) }

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
	if slices.ContainsFunc(mine.ids, o.isUsed) {
		return false
	}
	for _, id := range mine.ids {
		o.underWay[id] = false
	}
	o.waiting = append(o.waiting, mine)
	if !o.isWriting {
		o.isWriting = true
		go o.write()
	}
	return true
}

// isUsed reports whether an id is known to be used. The mutex must be held.
func (o *Once) isUsed(id ID) bool {
	if _, ok := o.underWay[id]; ok {
		return true
	}
	for _, used := range o.used {
		if used.has(id) {
			return true
		}
	}
	return false
}

// add notes that an id was used in an hour. The mutex must be held.
func (o *Once) add(hour int64, id ID) {
	used := o.used[hour]
	if used == nil {
		used = new(idSet)
		o.used[hour] = used
	}
	used.add(id)
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
// journals were read. After an error it does not use its ids, so the next call may. The mutex must be held.
func (o *Once) settle(call *pending, err error) bool {
	first, hour := err == nil, o.place.of(o.place.clock.Now())
	for _, id := range call.ids {
		byOther := o.underWay[id]
		delete(o.underWay, id)
		if byOther {
			first = false
		} else if err == nil {
			o.add(hour, id)
		}
	}
	return first
}

// writeBatch writes a batch into this process's journal, and reads the new entries in
// the others'.
func (o *Once) writeBatch(batch []*pending) error {
	ctx, now := context.Background(), o.place.clock.Now()
	if o.isElsewhere.Swap(false) {
		o.begin(now)
		o.readAt = time.Time{}
		clear(o.read)
	}
	if path.Dir(o.journal.key) != o.place.dir(o.place.of(now)) || o.putAside(ctx) != nil {
		o.begin(now)
	}
	for _, call := range batch {
		for _, id := range call.ids {
			o.journal.content = append(o.journal.content, id[:]...)
		}
	}
	if err := o.place.storage.Store(ctx, o.journal.key, o.journal.content); err != nil {
		// The write may be carried out later, and then undo later writes, so this
		// journal is not used any more.
		o.begin(now)
		return err
	}
	if took := o.place.clock.Now().Sub(now); took < 0 || took > useTimeout {
		// The machine has slept, or its clock was set: others may not look into that hour any more.
		o.begin(now)
		return fmt.Errorf("%w: noting a use took %s by the clock", ErrStorage, took)
	}
	if err := o.readOthers(ctx, now); err != nil {
		return err
	}
	o.forget(ctx)
	return nil
}

// putAside puts the ids of this process's journal aside if it is full. After an error, the journal as it was last
// written holds all of them, and must not be written any more.
func (o *Once) putAside(ctx context.Context) error {
	for ids := o.journal.content[asideSize:]; len(ids) >= journalSize; ids = o.journal.content[asideSize:] {
		key := o.asideKey(o.journal.key, o.journal.aside)
		if err := o.place.storage.Store(ctx, key, ids[:journalSize]); err != nil {
			return err
		}
		o.journal.aside++
		o.journal.content = append(binary.BigEndian.AppendUint64(nil, o.journal.aside), ids[journalSize:]...)
	}
	return nil
}

// asideKey returns the key of what a journal has put aside, the first of which is 0.
func (o *Once) asideKey(journal string, i uint64) string {
	hour, name := path.Split(journal)
	return path.Join(o.aside.prefix, path.Base(hour), fmt.Sprintf("%s-%d", name, i))
}

// begin begins a new journal.
func (o *Once) begin(now time.Time) {
	if o.journal.key != "" {
		o.read[o.journal.key] = isKnown
	}
	o.journal = journal{
		key:     path.Join(o.place.dir(o.place.of(now)), randomName()),
		content: make([]byte, asideSize),
	}
}

// isKnown stands for the number of bytes that were read of a journal of this process itself.
const isKnown = math.MaxInt

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
		case journal == o.journal.key:
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
		return unlisted(o.place.storage, fmt.Errorf("%s was written a moment ago", o.journal.key))
	}
	o.readAt = now
	return nil
}

// readOther reads the new entries of another process's journal.
func (o *Once) readOther(ctx context.Context, journal string, hour int64) error {
	if o.read[journal] == isKnown {
		return nil
	}
	content, err := o.place.storage.Load(ctx, journal)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(content) < asideSize { // some engines show half a write
		return nil // a process is writing it, and will then read this process's journal
	}
	if err != nil {
		return err
	}
	aside, ids := binary.BigEndian.Uint64(content), content[asideSize:]
	if err := o.readAside(ctx, journal, hour, aside); err != nil {
		return err
	}
	o.note(journal, hour, int(aside)*journalSize, ids)
	return nil
}

// readAside reads the new entries among those that another process's journal has put aside. It loads several keys at
// a time, and notes them in order: after an error, all are known up to the first that failed.
func (o *Once) readAside(ctx context.Context, journal string, hour int64, aside uint64) error {
	for i := uint64(o.read[journal] / journalSize); i < aside; {
		var keys []string
		for j := i; j < min(aside, i+loadsAtOnce); j++ {
			keys = append(keys, o.asideKey(journal, j))
		}
		var mu sync.Mutex
		found := make(map[string][]byte)
		err := loadEach(ctx, o.place.storage, keys, 1, func(key string, ids []byte) error {
			mu.Lock()
			defer mu.Unlock()
			found[key] = ids
			return nil
		})
		for _, key := range keys {
			if ids := found[key]; len(ids) == journalSize {
				o.note(journal, hour, int(i)*journalSize, ids)
				i++
				continue
			}
			if err == nil {
				err = tell(o.place.storage, "loading", fmt.Errorf("%w: %s has %d bytes, and should have %d",
					ErrStorage, key, len(found[key]), journalSize))
			}
			return err
		}
	}
	return nil
}

// note notes what was read of a journal: ids that begin at that many bytes.
func (o *Once) note(journal string, hour int64, at int, ids []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := o.read[journal]
	ids = ids[:len(ids)-len(ids)%len(ID{})] // some engines show half a write
	for id := range slices.Chunk(ids[min(max(known-at, 0), len(ids)):], len(ID{})) {
		if _, ok := o.underWay[ID(id)]; ok {
			o.underWay[ID(id)] = true
		}
		o.add(hour, ID(id))
	}
	o.read[journal] = max(known, at+len(ids))
}

// forget removes, once an hour, the ids that do not count any more.
func (o *Once) forget(ctx context.Context) {
	now := o.place.clock.Now()
	oldest := now.Add(-o.keep - 2*ClockSkew)
	// After the journals that name them.
	o.aside.sweep(ctx, now, oldest.Add(-ClockSkew))
	if !o.place.sweep(ctx, now, oldest) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for hour := range o.used {
		if hour < o.place.of(oldest) {
			delete(o.used, hour)
		}
	}
	for journal := range o.read {
		if hour, _ := periodIn(path.Dir(journal)); hour < o.place.of(oldest) {
			delete(o.read, journal)
		}
	}
}
