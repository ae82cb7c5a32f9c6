package aventusauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/cryptobyte"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// handle is what the cookie of a session holds that rests in the storage: where its
// record is, and the key to it, which is nowhere else.
//
//	version (1) || id (16) || expires (8) || key (32)
type handle struct {
	id      [16]byte
	expires time.Time
	key     [keyring.RecordKeySize]byte
}

const handleVersion = 2 // of one byte with sessionVersion

func (d *handle) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(handleVersion)
	b.AddBytes(d.id[:])
	b.AddUint64(uint64(d.expires.Unix()))
	b.AddBytes(d.key[:])
	return b.Bytes()
}

// parseHandle reads what marshal wrote. It returns all of it, or nothing.
func parseHandle(plaintext []byte) (*handle, bool) {
	in := cryptobyte.String(plaintext)
	d := new(handle)
	var version uint8
	var expires uint64
	if !in.ReadUint8(&version) || version != handleVersion ||
		!in.CopyBytes(d.id[:]) || !in.ReadUint64(&expires) || !in.CopyBytes(d.key[:]) || !in.Empty() {
		return nil, false
	}
	d.expires = time.Unix(int64(expires), 0)
	return d, true
}

// name returns what a session is called in the storage.
func (s *session) name() string { return hex.EncodeToString(s.id[:]) }

// recordBound is what a record is bound to: it opens for this site and this id, so
// it cannot be put in another's place.
func recordBound(at site, id [16]byte) []byte {
	return slices.Concat(at.associated, []byte{0}, id[:])
}

func newHandle(s *session) *handle {
	d := &handle{id: s.id, expires: s.expires}
	_, _ = rand.Read(d.key[:]) // never fails (crypto/rand)
	return d
}

// storeSession writes a session's record.
func (h *Handler) storeSession(ctx context.Context, at site, s *session) error {
	plaintext, err := s.marshal()
	if err != nil {
		return err
	}
	sealed, err := keyring.SealRecord(s.handle.key[:], plaintext, recordBound(at, s.id))
	if err != nil {
		return err
	}
	// Who it is, for those who look after the server: sealed with a key of its own.
	about, err := json.Marshal(listed{Sub: short(s.subject()), Site: at.origin, ClientID: h.cfg.ClientID, Created: s.created.UTC(), Expires: s.expires.UTC()})
	if err != nil {
		return err
	}
	meta, err := h.index.Seal(ctx, about, []byte(s.name()))
	if err != nil {
		return err
	}
	return h.shelf.Put(ctx, s.name(), s.handle.expires, joinRecord([]byte(meta), sealed))
}

// short returns as much of a subject as the index has room for.
func short(sub string) string { return sub[:min(len(sub), 1024)] }

// fetchSession returns the session of a handle, or nil when it has ended. What is
// damaged in the storage may be mended there, so it is an error, and no end.
func (h *Handler) fetchSession(ctx context.Context, at site, d *handle) (*session, error) {
	if !h.now().Before(d.expires) {
		return nil, nil
	}
	name := hex.EncodeToString(d.id[:])
	record, err := h.shelf.Get(ctx, name, d.expires)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, sealed, _ := splitRecord(record)
	plaintext, err := keyring.OpenRecord(d.key[:], sealed, recordBound(at, d.id))
	if err != nil {
		return nil, fmt.Errorf("%w: the record of session %.8s is damaged", records.ErrStorage, name)
	}
	s, ok := parseSession(plaintext)
	if !ok || s.id != d.id {
		return nil, fmt.Errorf("%w: the record of session %.8s cannot be read", records.ErrStorage, name)
	}
	s.handle = d
	return s, nil
}

// newest returns a session as its record has it by now, if that can be read.
func (h *Handler) newest(ctx context.Context, at site, s *session) *session {
	if s.handle == nil {
		return s
	}
	if record, err := h.fetchSession(ctx, at, s.handle); err == nil && record != nil {
		return record
	}
	return s
}

// hasEnded reports whether a session has ended before its time, here or at another
// instance, as far as it is known.
func (h *Handler) hasEnded(s *session) bool {
	h.learn()
	ended := h.memory.ended
	return ended.Has(s.id, s.created) || ended.HasPartial() && ended.Has(subjectID(h.cfg.issuer, s.subject()), s.created)
}

// learn sees to it that what others end is learned. The first call waits for the
// first answer.
func (h *Handler) learn() {
	h.learning.Do(func() { h.memory.ended.Use(h.storage) })
}

// endSession ends a session everywhere. It has ended here even if that fails.
func (h *Handler) endSession(ctx context.Context, s *session) error {
	h.learn()
	err := h.memory.ended.End(ctx, s.id, s.expires)
	if s.handle != nil {
		err = errors.Join(err, h.shelf.Delete(ctx, s.name(), s.handle.expires))
	}
	return err
}

// memory is what this process knows of what is in its storage. It lasts from one
// config to the next, so that a reload while the storage is down costs no session,
// and brings none back that has ended.
type memory struct {
	keys   keyring.Cache
	claims *records.Claims // codes and states that were used
	ended  *records.Ended
}

// Destruct implements caddy.Destructor.
func (m *memory) Destruct() error { return m.ended.Destruct() }

// memories holds the memory of each storage that a loaded config has.
var memories = caddy.NewUsagePool()

// remember gives the handler the memory of its storage.
func (h *Handler) remember(id string) error {
	value, _, err := memories.LoadOrNew(id, func() (caddy.Destructor, error) {
		return &memory{
			claims: records.NewClaims("aventus_auth/spent", loginLifetime, h.now),
			ended:  records.NewEnded(h.now),
		}, nil
	})
	if err != nil {
		return err
	}
	h.memory, h.memoryID = value.(*memory), id
	return nil
}

// storageID returns a string that is the same for two storages if they are of
// one type and configured alike. Caddy makes a new value of the storage for each
// config, so the value itself does not tell.
func storageID(storage certmagic.Storage) string {
	config, err := json.Marshal(storage)
	if err != nil || len(config) <= len("{}") {
		// It keeps its configuration to itself: it is the same as itself only.
		return fmt.Sprintf("%T %p", storage, storage)
	}
	// It may hold a password.
	return fmt.Sprintf("%T %x", storage, sha256.Sum256(config))
}
