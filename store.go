package aventusauth

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// recordBound is the associated data of a record: it opens for this site and this id alone, so
// it cannot be put in another record's place.
func recordBound(at site, id [16]byte) []byte {
	return slices.Concat(at.group, []byte{0}, id[:])
}

func newHandle(s *session) *handle {
	d := &handle{id: s.id, expires: s.expires, family: s.family}
	_, _ = rand.Read(d.key[:]) // never fails (crypto/rand)
	return d
}

// sessionStore keeps the records of sessions in Caddy's storage. Each record has an entry of an index
// in front of it, which is sealed with a key of the server's: it says whose session that is, for the
// operators.
type sessionStore struct {
	shelf    *records.Shelf
	uses     *records.Shelf // when sessions were last used that several hosts share
	indexBox *keyring.Box
	damaged  *lru.Cache[[16]byte, time.Time] // since when the records of some sessions do not open
	clientID string
	now      func() time.Time
}

// put writes a session's record.
func (st *sessionStore) put(ctx context.Context, at site, d *handle, s *session) error {
	_, err := st.putSealed(ctx, at, d, s)
	return err
}

// putSealed is put, and returns the record as it was to be written. No two are alike.
func (st *sessionStore) putSealed(ctx context.Context, at site, d *handle, s *session) ([]byte, error) {
	plaintext, err := s.marshal()
	if err != nil {
		return nil, err
	}
	sealed, err := keyring.SealRecord(d.key[:], plaintext, recordBound(at, s.id))
	if err != nil {
		return nil, err
	}
	entry := listed{
		Sub: s.subject()[:min(len(s.subject()), maxListedSubject)], Site: at.login, ClientID: st.clientID,
		ServerSession: s.serverSession()[:min(len(s.serverSession()), maxListedSubject)],
		Created:       s.created.time().UTC(), Expires: s.expires.time().UTC(),
	}
	if s.isShared() {
		entry.Family = hex.EncodeToString(s.family[:])
	}
	about, err := entry.marshal()
	if err != nil {
		return nil, err
	}
	meta, err := st.indexBox.Seal(ctx, about, []byte(s.name()))
	if err != nil {
		return nil, err
	}
	record := joinRecord([]byte(meta), sealed)
	return record, st.shelf.Put(ctx, s.name(), d.expires.time(), record)
}

// holds reports whether a session's record is this one, to the byte.
func (st *sessionStore) holds(ctx context.Context, d *handle, record []byte) bool {
	found, err := st.shelf.Get(ctx, hex.EncodeToString(d.id[:]), d.expires.time())
	return err == nil && bytes.Equal(found, record)
}

// settled returns a channel that is closed when no write of a session's record is under way: see
// [records.Shelf.Settled].
func (st *sessionStore) settled(d *handle) <-chan struct{} {
	return st.shelf.Settled(hex.EncodeToString(d.id[:]), d.expires.time())
}

// fetch returns the session of a handle, or nil when it has ended. A damaged record is an error at first: the
// storage may show what is half written, or recover. If it stays damaged, the session has ended, as with what is
// no record at all, such as the empty file that a crash leaves, and what opens and cannot be read, since another
// release wrote it.
func (st *sessionStore) fetch(ctx context.Context, at site, d *handle) (*session, error) {
	if !st.now().Before(d.expires.time()) {
		return nil, nil
	}
	name := hex.EncodeToString(d.id[:])
	record, err := st.shelf.Get(ctx, name, d.expires.time())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, sealed, ok := splitRecord(record)
	if !ok || len(sealed) == 0 {
		return nil, nil
	}
	plaintext, err := keyring.OpenRecord(d.key[:], sealed, recordBound(at, d.id))
	if err != nil {
		if st.staysDamaged(d.id) {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: the record of session %.8s is damaged", records.ErrStorage, name)
	}
	st.damaged.Remove(d.id)
	s, isSession := parseSession(plaintext)
	if !isSession || s.id != d.id {
		return nil, nil
	}
	s.family = d.family
	return s, nil
}

// staysDamaged reports whether a record that does not open has not opened for damagedFor.
func (st *sessionStore) staysDamaged(id [16]byte) bool {
	now := st.now()
	since, ok := st.damaged.Get(id)
	if !ok || since.After(now) {
		st.damaged.Add(id, now)
		return false
	}
	return now.Sub(since) >= damagedFor
}

// delete deletes a session's record. That there is none is no error.
func (st *sessionStore) delete(ctx context.Context, name string, expires time.Time) error {
	return st.shelf.Delete(ctx, name, expires)
}

// newest returns a session as its record has it by now, if that can be read.
func (st *sessionStore) newest(ctx context.Context, at site, k *keptSession) *session {
	if k.handle == nil {
		return k.session
	}
	if record, err := st.fetch(ctx, at, k.handle); err == nil && record != nil {
		return record
	}
	return k.session
}

// listed is an index entry: the user, the site and the dates of a session, without a token.
type listed struct {
	ID  string `json:"id"`
	Sub string `json:"sub"`
	// ServerSession is the session at the authorization server that it came of (sid).
	ServerSession string `json:"sid,omitempty"`

	Site     string    `json:"site"`
	ClientID string    `json:"client_id"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Family   string    `json:"family,omitempty"` // in the index, and not for who looks after the sessions

	id, family records.ID
}

// isShared reports whether several hosts may hold the session.
func (about listed) isShared() bool { return about.family != records.ID{} }

// noteUse writes when a session was last used, at any of the hosts that share it.
func (st *sessionStore) noteUse(ctx context.Context, d *handle, at time.Time) error {
	sealed, err := keyring.SealRecord(d.key[:], marshalLastUse(at), useBound(d))
	if err != nil {
		return err
	}
	return st.uses.Put(ctx, hex.EncodeToString(d.id[:]), d.expires.time(), sealed)
}

// lastUse returns what noteUse wrote, or the zero time. A damaged record says nothing: the session may be over at this
// host, as if no other one had used it, and a page visit leads to the login host.
func (st *sessionStore) lastUse(ctx context.Context, d *handle) (time.Time, error) {
	sealed, err := st.uses.Get(ctx, hex.EncodeToString(d.id[:]), d.expires.time())
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	plaintext, err := keyring.OpenRecord(d.key[:], sealed, useBound(d))
	if err != nil {
		return time.Time{}, nil
	}
	last, _ := parseLastUse(plaintext)
	return last, nil
}

// useBound is no record's associated data, which ends in the id.
func useBound(d *handle) []byte { return slices.Concat([]byte("last use\x00"), d.id[:], []byte{0}) }

// list calls f with each session in the storage that was sealed for this client and has not expired, until f
// fails.
func (st *sessionStore) list(ctx context.Context, f func(listed) error) error {
	return st.shelf.Each(ctx, func(name string, record []byte) error {
		about, ok, err := st.about(ctx, name, record)
		if err != nil || !ok {
			return err
		}
		return f(about)
	})
}

// find returns what the index has of a session, if it was sealed for this client and has not expired. It is
// found at less cost if it lasts no longer than lifetime.
func (st *sessionStore) find(ctx context.Context, name string, lifetime time.Duration) (listed, bool, error) {
	record, err := st.shelf.Find(ctx, name, lifetime)
	if errors.Is(err, fs.ErrNotExist) {
		return listed{}, false, nil
	}
	if err != nil {
		return listed{}, false, err
	}
	return st.about(ctx, name, record)
}

// about reads the index entry of a record. An error means that there are no keys to read it with.
func (st *sessionStore) about(ctx context.Context, name string, record []byte) (about listed, ok bool, err error) {
	meta, _, ok := splitRecord(record)
	id, notHex := hex.DecodeString(name)
	if !ok || notHex != nil || len(id) != len(about.id) {
		return listed{}, false, nil
	}
	plaintext, _, err := st.indexBox.Open(ctx, string(meta), []byte(name))
	if errors.Is(err, keyring.ErrInvalid) { // of another client, say
		return listed{}, false, nil
	}
	if err != nil {
		return listed{}, false, err
	}
	if about, ok = parseListed(plaintext); !ok || !st.now().Before(about.Expires) {
		return listed{}, false, nil
	}
	if family, err := hex.DecodeString(about.Family); err == nil && len(family) == len(about.family) {
		about.family = records.ID(family)
	}
	about.ID, about.id, about.Family = name, records.ID(id), ""
	return about, true, nil
}
