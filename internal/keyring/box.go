package keyring

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// ErrInvalid says that a value is not one that the box sealed: it is forged, damaged, or
// sealed for another purpose. Clients must not learn which of these it is.
var ErrInvalid = errors.New("not a value sealed here")

// ErrUnknownKey is the ErrInvalid of a value that names an unknown key: it was sealed with a key that was removed
// since, or it is forged. These cases cannot be distinguished.
var ErrUnknownKey = fmt.Errorf("%w, or with a key that is not known any more", ErrInvalid)

// A sealed value is the unpadded base64url (RFC 4648, section 5) of
//
//	version (1) || key id (4) || nonce (24) || ciphertext || tag (16)
//
// and its plaintext begins with the time of sealing, in Unix seconds (8).
const (
	version    = 1
	headerSize = 1 + 4 + chacha20poly1305.NonceSizeX
	timeSize   = 8

	// Overhead is how many bytes longer than its plaintext a sealed value is, before
	// it is encoded.
	Overhead = headerSize + timeSize + chacha20poly1305.Overhead
)

// EncodedLen returns the length of a sealed value with n bytes of plaintext.
func EncodedLen(n int) int { return base64.RawURLEncoding.EncodedLen(Overhead + n) }

// Strict refuses the spare bits of a last character: one value, one spelling.
var encoding = base64.RawURLEncoding.Strict()

// Box seals and opens the values of one purpose, for one client.
type Box struct {
	ring *Ring
	info string
	// The subkeys of the ring's keys, derived again when those change.
	subkeys atomic.Pointer[subkeySet]
}

type subkeySet struct {
	of   *keySet
	keys []subkey
}

type subkey struct {
	id     [4]byte
	secret []byte
	aead   cipher.AEAD
}

// Box returns the box for a purpose and a client.
func (r *Ring) Box(purpose, client string) *Box {
	// A purpose has no NUL, so no two pairs make the same info.
	return &Box{ring: r, info: "aventus_auth " + purpose + "\x00" + client}
}

// Seal returns plaintext sealed with the newest key that all instances know. To open it, the same
// associated data is needed. An error means that there are no keys to be had.
//
// XChaCha20-Poly1305 takes a nonce of 24 random bytes. Anyone can make us seal any number
// of login states with a key, but no nonce of that size repeats.
func (b *Box) Seal(ctx context.Context, plaintext, associated []byte) (string, error) {
	set, err := b.ring.forSeal(ctx)
	if err != nil {
		return "", err
	}
	keys, err := b.derive(set)
	if err != nil {
		return "", err
	}
	now := b.ring.now()
	k := keys[set.sealing(now)]
	sealed := make([]byte, headerSize, Overhead+len(plaintext))
	sealed[0] = version
	copy(sealed[1:5], k.id[:])
	nonce := sealed[5:headerSize]
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	sealed = append(binary.BigEndian.AppendUint64(sealed, uint64(now.Unix())), plaintext...)
	// In place. The tag comes last, by which a remembered session is found.
	sealed = k.aead.Seal(sealed[:headerSize], nonce, sealed[headerSize:], associated)
	return encoding.EncodeToString(sealed), nil
}

// Open returns the plaintext of a sealed value, and when it was sealed. The error is
// ErrInvalid, and nothing else is returned, unless the value was sealed for this box's
// purpose and client with the same associated data; any other error means that there are
// no keys to be had. The clocks of instances differ, so a value from the future opens, but
// not one that is further ahead than [records.ClockSkew].
func (b *Box) Open(ctx context.Context, sealed string, associated []byte) ([]byte, time.Time, error) {
	raw, err := decode(sealed)
	if err != nil {
		return nil, time.Time{}, err
	}
	k, err := b.subkey(ctx, [4]byte(raw[1:5]))
	if err != nil {
		return nil, time.Time{}, err
	}
	ciphertext := raw[headerSize:]
	timed, err := k.aead.Open(ciphertext[:0], raw[5:headerSize], ciphertext, associated)
	if err != nil {
		return nil, time.Time{}, ErrInvalid
	}
	at := time.Unix(int64(binary.BigEndian.Uint64(timed)), 0)
	if at.After(b.ring.now().Add(records.ClockSkew)) {
		return nil, time.Time{}, ErrInvalid
	}
	return timed[timeSize:], at, nil
}

// Derive returns 32 bytes that only a holder of the keys can compute from input. The key is
// the one that sealed names, a value that any box of the ring sealed. So the result is the
// same for as long as that value can be opened, whatever keys are made since.
func (b *Box) Derive(ctx context.Context, sealed string, input []byte) ([]byte, error) {
	raw, err := decode(sealed)
	if err != nil {
		return nil, err
	}
	k, err := b.subkey(ctx, [4]byte(raw[1:5]))
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, k.secret)
	mac.Write(input)
	return mac.Sum(nil), nil
}

// decode returns the bytes of a sealed value that has at least its full length.
func decode(sealed string) ([]byte, error) {
	// The decoder skips line breaks, which would give one value many spellings.
	if strings.IndexByte(sealed, '\n') >= 0 || strings.IndexByte(sealed, '\r') >= 0 {
		return nil, ErrInvalid
	}
	raw, err := encoding.DecodeString(sealed)
	if err != nil || len(raw) < Overhead || raw[0] != version {
		return nil, ErrInvalid
	}
	return raw, nil
}

func (b *Box) subkey(ctx context.Context, id [4]byte) (subkey, error) {
	set, err := b.ring.with(ctx, id)
	if err != nil {
		return subkey{}, err
	}
	keys, err := b.derive(set)
	if err != nil {
		return subkey{}, err
	}
	for _, k := range keys {
		if k.id == id {
			return k, nil
		}
	}
	return subkey{}, ErrUnknownKey
}

func (b *Box) derive(set *keySet) ([]subkey, error) {
	if known := b.subkeys.Load(); known != nil && known.of == set {
		return known.keys, nil
	}
	derived := &subkeySet{of: set}
	for _, k := range set.keys {
		secret, err := hkdf.Key(sha256.New, k.Secret, nil, b.info, chacha20poly1305.KeySize)
		if err != nil {
			return nil, err
		}
		aead, err := chacha20poly1305.NewX(secret)
		if err != nil {
			return nil, err
		}
		derived.keys = append(derived.keys, subkey{id: k.id, secret: secret, aead: aead})
	}
	b.subkeys.Store(derived)
	return derived.keys, nil
}
