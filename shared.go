package aventusauth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// shared is what the blocks of all loaded configs share that have the same storage. It lasts from
// one config to the next: a reload loses no key, brings back no session that has ended, and
// interrupts no renewal. It is the one owner of all that outlives a config, but for counters and the lines of
// Caddyfiles (expand.go).
type shared struct {
	newest   records.Newest
	storage  certmagic.Storage // newest, bounded
	keys     keyring.Cache
	used     *records.Once // codes, states, tickets, refresh tokens, logout tokens
	ended    *records.Ended
	flights  singleflight.Group // renewals under way, by session and token
	attempts attempts
	memory   *memory
	logins   lastLogins
	logger   atomic.Pointer[zap.Logger] // of the newest config
	warned   atomic.Int64               // when the storage was last reported to fail, in Unix seconds
	now      func() time.Time
	clock    *records.Clock // now, with a check that the wall clock was not changed

	id         atomic.Pointer[string]    // that lies in the storage; nil: it is not known yet
	confirming atomic.Pointer[sync.Once] // done when a new config's storage was asked for its id
}

// sharing holds what is shared for each storage that a loaded config has.
var sharing = caddy.NewUsagePool()

// share returns what is shared by all blocks with the given storage, and makes that storage the
// one to ask. The caller must call the returned function when its config is unloaded.
func share(storage certmagic.Storage, logger *zap.Logger, now func() time.Time) (*shared, func() error, error) {
	id := storageID(storage)
	value, _, err := sharing.LoadOrNew(id, func() (caddy.Destructor, error) {
		return newShared(now), nil
	})
	if err != nil {
		return nil, nil, err
	}
	s := value.(*shared)
	s.logger.Store(logger)
	release := s.newest.Use(storage)
	s.confirming.Store(new(sync.Once)) // afterwards, or a request of the config before would confirm the old value
	return s, func() error {
		release()
		isLast, err := sharing.Delete(id)
		if isLast {
			s.leave()
		}
		return err
	}, nil
}

func newShared(now func() time.Time) *shared {
	s := &shared{now: now, memory: newMemory(memoryLimit()), clock: records.NewClock(now, steadyClock)}
	s.newest.Identified, s.keys.Confirm = s.identified, s.confirm
	s.storage = records.Bounded(&s.newest, s.storageFailed)
	s.used = records.NewOnce(s.storage, "aventus_auth/spent", loginLifetime, s.clock)
	s.ended = records.NewEnded(s.storage, s.clock)
	return s
}

// confirm has a new config's storage asked which one it is, before what is remembered counts for it. If it does
// not answer, it is taken for the one that its config says.
func (s *shared) confirm(ctx context.Context) {
	s.confirming.Load().Do(func() { _, _ = s.storage.Load(ctx, records.IdentityKey) })
}

// identified receives the id that the storage itself holds. A storage that is configured like the one before may
// be another one, and one that is configured differently may be the same.
func (s *shared) identified(id string) {
	switch before := s.id.Swap(&id); {
	case before == nil:
		handOn()
	case *before != id:
		s.keys.Forget()
		s.leaveBehind(before)
		s.used.Relearn()
		s.memory.forgetAll()
		handOn()
	}
}

func (s *shared) isAt(id string) bool {
	own := s.id.Load()
	return own != nil && *own == id
}

// predecessors are what configs before have left, the latest last, each until a config is known to have its storage
// again: the next one, or a later one. Of what they remember, the ends that the storage did not take are nowhere else.
var predecessors struct {
	mu  sync.Mutex
	all []*shared
}

// leave keeps what is known of a storage that no config has any more, as far as its type and config tell, for the next
// one that has it.
func (s *shared) leave() {
	s.memory.forgetAll() // which is large, and of no use to the next one
	s.precede()
	handOn()
	if s.id.Load() == nil { // nothing was ever asked of it
		return
	}
	sharing.Range(func(_, value any) bool {
		if other := value.(*shared); other.id.Load() == nil {
			go other.confirm(context.Background()) // renewals and logins of this one may be under way
		}
		return true
	})
}

// leaveBehind is leave for the storage that had the id before, and has another one in its place by now.
func (s *shared) leaveBehind(id *string) {
	old := newShared(s.now)
	old.id.Store(id)
	old.ended.Adopt(s.ended)
	s.ended.Relearn()
	old.precede()
}

// precede makes what is known of a storage a predecessor. If there are too many, the oldest of the others is dropped
// that has nothing to be written.
func (s *shared) precede() {
	predecessors.mu.Lock()
	defer predecessors.mu.Unlock()
	if len(predecessors.all) == maxPredecessors {
		i := slices.IndexFunc(predecessors.all, func(old *shared) bool { return !old.ended.HasUnwritten() })
		predecessors.all = slices.Delete(predecessors.all, max(i, 0), max(i, 0)+1)
	}
	predecessors.all = append(predecessors.all, s)
}

// handOn hands on what predecessors have left to those in use. What has ended is handed to any of them, whatever its
// storage: with keys of the operator's own, a cookie opens at each, and where a storage could never be asked, nothing
// tells which one it is.
func handOn() {
	predecessors.mu.Lock()
	defer predecessors.mu.Unlock()
	sharing.Range(func(_, value any) bool {
		next := value.(*shared)
		id := next.id.Load()
		if id == nil {
			return true
		}
		predecessors.all = slices.DeleteFunc(predecessors.all, func(old *shared) bool {
			if old.isAt(*id) {
				old.goOnAs(next)
				return true
			}
			next.ended.Heed(old.ended)
			return false
		})
		return true
	})
}

// goOnAs has what is under way go on with the storage of the next config, and hands on what is to be written yet.
func (s *shared) goOnAs(next *shared) {
	s.newest.Follow(&next.newest)
	next.ended.Adopt(s.ended)
	next.logins.adopt(&s.logins)
	next.attempts.adopt(&s.attempts)
}

// Destruct implements caddy.Destructor.
func (s *shared) Destruct() error { return s.ended.Destruct() }

// storageFailed counts and reports a call of the storage that failed. No request waits for some
// of these calls, so nothing else would report them.
func (s *shared) storageFailed(operation string, err error) {
	storageErrors.WithLabelValues(operation).Inc()
	now := s.now().Unix()
	last := s.warned.Load()
	isDue := now-last >= int64(warnStorage/time.Second) || now < last
	if isDue && s.warned.CompareAndSwap(last, now) {
		s.logger.Load().Warn("the storage fails",
			zap.String("operation", operation), zap.Error(err), zap.String("advice", storageAdvice))
	}
}

// storageID returns a string that is the same for two storages if they are of
// one type and configured alike. Caddy makes a new value of the storage for each
// config, so the value itself does not tell. What this says holds until the storage
// can be asked: see identified.
func storageID(storage certmagic.Storage) string {
	config, err := json.Marshal(storage)
	if err != nil || len(config) <= len("{}") {
		// It keeps its configuration to itself: it is the same as itself only.
		return fmt.Sprintf("%T %p", storage, storage)
	}
	// It may hold a password.
	return fmt.Sprintf("%T %x", storage, sha256.Sum256(config))
}

// keyAge is how old the key in each storage is that seals. It is made anew every 30
// days; one that gets much older says that the storage cannot be written.
type keyAge struct{}

var keyAgeDesc = prometheus.NewDesc("caddy_aventus_auth_sealing_key_age_seconds",
	"The age of the key that seals sessions and logins; of several storages, the oldest one's.", nil, nil)

func (keyAge) Describe(descs chan<- *prometheus.Desc) { descs <- keyAgeDesc }

func (keyAge) Collect(metrics chan<- prometheus.Metric) {
	var oldest time.Duration
	sharing.Range(func(_, value any) bool {
		s := value.(*shared)
		if age, ok := s.keys.Age(s.now()); ok {
			oldest = max(oldest, age)
		}
		return true
	})
	if oldest > 0 {
		metrics <- prometheus.MustNewConstMetric(keyAgeDesc, prometheus.GaugeValue, oldest.Seconds())
	}
}

// endsAge is how long ago it was last learned which sessions have ended.
type endsAge struct{}

var endsAgeDesc = prometheus.NewDesc("caddy_aventus_auth_ends_learned_age_seconds",
	"How long ago this instance last learned which sessions have ended; of several storages, the longest.", nil, nil)

func (endsAge) Describe(descs chan<- *prometheus.Desc) { descs <- endsAgeDesc }

func (endsAge) Collect(metrics chan<- prometheus.Metric) {
	longest := time.Duration(-1)
	sharing.Range(func(_, value any) bool {
		s := value.(*shared)
		if learned := s.ended.Learned(); !learned.IsZero() {
			longest = max(longest, s.now().Sub(learned))
		}
		return true
	})
	if longest >= 0 {
		metrics <- prometheus.MustNewConstMetric(endsAgeDesc, prometheus.GaugeValue, longest.Seconds())
	}
}

// Interface guards
var (
	_ prometheus.Collector = keyAge{}
	_ prometheus.Collector = endsAge{}
)
