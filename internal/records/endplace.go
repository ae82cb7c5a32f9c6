package records

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sync/errgroup"
)

const (
	// An end is filed under a key of its own, whose name says all: an instance that lists the keys knows it. From
	// foldFrom such keys of one process in one period on, they are folded into one key.
	foldFrom = 128

	// foldSize is how many ends one key holds at most: a storage has to take a journal of as many bytes, too.
	foldSize = journalSize / filedSize

	// filedSize is how many bytes a folded end takes: its id, until and since.
	filedSize = len(ID{}) + 16

	// foldedName is the first part of the name of a key that holds several ends. That of a single one is a number.
	foldedName = "many"

	// removeFor is for how long a process removes single keys in one LearnInterval, removedAtOnce of them at a time.
	// With files, each removal may disturb a listing of another instance, which is tried again for a second.
	removeFor     = 250 * time.Millisecond
	removedAtOnce = 128
)

// endPlace is a place where ends are filed by periods.
//
// What a process has filed under single keys it folds later: it stores the same ends under one key, reads that back,
// and removes the single keys when each listing that began before has ended. So every listing shows one or the other,
// wherever the process dies. A key is never written twice, so that no cache can show what it was before.
type endPlace struct {
	*periods
	keep   time.Duration // for how long the keys of a period count after it has ended
	listed time.Duration // how long a listing takes at most

	work     sync.Mutex // held by the folding that is under way
	mu       sync.Mutex
	single   map[int64][]filed // by period: what this process has filed under single keys
	unstored []fold            // those that are to be stored, or are being stored
	folded   []fold            // those whose single keys are to be removed, the oldest first
}

// filed is an end as it is filed.
type filed struct {
	id ID
	end
}

// fold is a key that holds several ends.
type fold struct {
	key    string
	period int64
	ends   []filed
	at     time.Duration // when it was written, by the steady clock
	gone   int           // of how many ends the single keys are removed
}

func newEndPlace(p *periods, keep, listed time.Duration) *endPlace {
	return &endPlace{periods: p, keep: keep, listed: listed, single: make(map[int64][]filed)}
}

// sweep deletes the periods that are over, in the background and once a period.
func (p *endPlace) sweep(ctx context.Context, now time.Time) {
	p.periods.sweep(ctx, now, now.Add(-p.keep))
}

// put files an end.
func (p *endPlace) put(ctx context.Context, period int64, f filed) error {
	if err := p.storage.Store(ctx, p.key(period, f), []byte{1}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.single[period] = append(p.single[period], f)
	return nil
}

// key is the single key of an end.
func (p *endPlace) key(period int64, f filed) string {
	return path.Join(p.dir(period), fmt.Sprintf("%d-%s-%d", f.until, hex.EncodeToString(f.id[:]), f.since))
}

// parseFiled reads the name of a single key.
func parseFiled(name string) (f filed, ok bool) {
	parts := strings.SplitN(name, "-", 3)
	if len(parts) != 3 {
		return filed{}, false
	}
	id, err1 := hex.DecodeString(parts[1])
	until, err2 := strconv.ParseInt(parts[0], 10, 64)
	since, err3 := strconv.ParseInt(parts[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || len(id) != len(ID{}) {
		return filed{}, false
	}
	return filed{ID(id), end{until: until, since: since}}, true
}

// parseFolded reads the name of a key that holds several ends: how many they are.
func parseFolded(name string) (n int, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 || parts[0] != foldedName || len(parts[2]) != 2*len(ID{}) {
		return 0, false
	}
	n, err := strconv.Atoi(parts[1])
	return n, err == nil
}

// learn calls note, at several goroutines, with the ends that are filed, but for those under the keys that were read
// before. It returns the keys with several ends, and which of them were read by now. After an error, what could be
// read was noted. A key that is listed and missing is no error: its writer may have died.
func (p *endPlace) learn(ctx context.Context, storage certmagic.Storage, before map[string]bool,
	note func(ID, end)) (read map[string]bool, err error) {
	keys, err := p.list(ctx, storage, true)
	if err != nil {
		return before, err
	}
	read = make(map[string]bool)
	var unread []string
	for _, key := range keys {
		if f, ok := parseFiled(path.Base(key)); ok {
			note(f.id, f.end)
		} else if _, ok := parseFolded(path.Base(key)); ok {
			if read[key] = before[key]; !read[key] {
				unread = append(unread, key)
			}
		}
	}
	var mu sync.Mutex
	var damaged []error
	err = loadEach(ctx, p.storage, unread, 1, func(key string, value []byte) error {
		n, _ := parseFolded(path.Base(key))
		isWhole := len(value) == n*filedSize
		if isWhole {
			for f := range eachFiled(value) {
				note(f.id, f.end)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if read[key] = isWhole; !isWhole { // it keeps none of the others from being read
			damaged = append(damaged, tell(p.storage, "loading",
				fmt.Errorf("%w: %s has %d bytes, and should hold %d ends", ErrStorage, key, len(value), n)))
		}
		return nil
	})
	if err = errors.Join(append(damaged, err)...); err != nil {
		return read, err
	}
	for _, key := range unread {
		if _, isListedAgain := before[key]; isListedAgain && !read[key] {
			_ = tell(p.storage, "loading", fmt.Errorf("%w: %s is listed again, and missing", ErrStorage, key))
		}
	}
	return read, nil
}

// eachFiled yields the ends that one key holds.
func eachFiled(value []byte) func(yield func(filed) bool) {
	return func(yield func(filed) bool) {
		for ; len(value) >= filedSize; value = value[filedSize:] {
			number := func(i int) int64 { return int64(binary.BigEndian.Uint64(value[len(ID{})+8*i:])) }
			if !yield(filed{ID(value[:len(ID{})]), end{until: number(0), since: number(1)}}) {
				return
			}
		}
	}
}

// joinFiled returns ends as one key holds them.
func joinFiled(ends []filed) []byte {
	value := make([]byte, 0, len(ends)*filedSize)
	for _, f := range ends {
		value = append(value, f.id[:]...)
		value = binary.BigEndian.AppendUint64(value, uint64(f.until))
		value = binary.BigEndian.AppendUint64(value, uint64(f.since))
	}
	return value
}

// fold folds, in the background, what has gathered, until ctx is done or the storage fails.
func (p *endPlace) fold(ctx context.Context) {
	if p.work.TryLock() {
		go func() {
			defer p.work.Unlock()
			p.foldNow(ctx)
		}()
	}
}

func (p *endPlace) foldNow(ctx context.Context) {
	for ctx.Err() == nil && p.foldSome(ctx) {
	}
	for began := p.clock.elapsed(); p.removeSome(ctx) && p.clock.elapsed()-began < removeFor; {
	}
}

// foldSome folds ends of one period, and reports whether there may be more to do. After an error, the same ends are
// stored under the same key the next time.
func (p *endPlace) foldSome(ctx context.Context) bool {
	f, ok := p.next()
	if !ok || p.slow.Store(ctx, f.key, joinFiled(f.ends)) != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.unstored) > 0 && p.unstored[0].key == f.key { // it was not adopted meanwhile
		f.at = p.clock.elapsed()
		p.unstored = p.unstored[1:]
		p.folded = append(p.folded, f)
	}
	return true
}

// next returns ends of one period that are to be folded. What belongs to a period that is over is left to the sweep.
func (p *endPlace) next() (f fold, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	over := p.over()
	p.unstored = slices.DeleteFunc(p.unstored, func(f fold) bool { return f.period < over })
	if len(p.unstored) > 0 {
		return p.unstored[0], true
	}
	for period, ends := range p.single {
		if period < over {
			delete(p.single, period)
		} else if len(ends) >= foldFrom {
			n := min(len(ends), foldSize)
			p.single[period] = ends[n:]
			name := fmt.Sprintf("%s-%d-%s", foldedName, n, randomName())
			f = fold{key: path.Join(p.dir(period), name), period: period, ends: ends[:n:n]}
			p.unstored = append(p.unstored, f)
			return f, true
		}
	}
	return fold{}, false
}

// over returns the first period that is not over. Those before are swept.
func (p *endPlace) over() int64 { return p.of(p.clock.Now().Add(-p.keep)) }

// randomName returns a name that nothing else has.
func randomName() string {
	var name ID
	_, _ = rand.Read(name[:]) // never fails (crypto/rand)
	return hex.EncodeToString(name[:])
}

// removeSome removes single keys of one fold, several at a time, and reports whether there may be more to remove.
func (p *endPlace) removeSome(ctx context.Context) bool {
	f, ok := p.oldest()
	if !ok {
		return false
	}
	value, err := p.slow.Load(ctx, f.key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	isWhole := bytes.Equal(value, joinFiled(f.ends))
	if !isWhole && remove(ctx, p.slow, f.key) != nil {
		return false
	}
	if isWhole {
		work, removing := errgroup.WithContext(ctx)
		work.SetLimit(loadsAtOnce)
		some := f.ends[f.gone:min(f.gone+removedAtOnce, len(f.ends))]
		for _, end := range some {
			work.Go(func() error {
				if err := removing.Err(); err != nil {
					return err
				}
				return remove(ctx, p.storage, p.key(f.period, end))
			})
		}
		if work.Wait() != nil {
			return false // what is gone by now may be removed again
		}
		f.gone += len(some)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.folded) == 0 || p.folded[0].key != f.key: // it was adopted meanwhile
	case !isWhole: // they are folded again, under another key
		p.folded = p.folded[1:]
		p.single[f.period] = append(p.single[f.period], f.ends...)
	case f.gone == len(f.ends):
		p.folded = p.folded[1:]
	default:
		p.folded[0].gone = f.gone
	}
	return true
}

// oldest returns the fold whose single keys are to be removed next, if each listing that began before it was stored
// has ended.
func (p *endPlace) oldest() (f fold, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	over := p.over()
	p.folded = slices.DeleteFunc(p.folded, func(f fold) bool { return f.period < over })
	if len(p.folded) == 0 || p.clock.elapsed()-p.folded[0].at < 2*p.listed {
		return fold{}, false
	}
	return p.folded[0], true
}

// adopt adds what another process' part has filed and not folded yet, which does so no more.
func (p *endPlace) adopt(other *endPlace) {
	other.mu.Lock()
	single, unstored, folded := other.single, other.unstored, other.folded
	other.single, other.unstored, other.folded = make(map[int64][]filed), nil, nil
	other.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for period, ends := range single {
		p.single[period] = append(p.single[period], ends...)
	}
	p.unstored = append(p.unstored, unstored...)
	p.folded = append(p.folded, folded...)
}
