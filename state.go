package aventusauth

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// states seals the states of logins. A state is bound to the redirect URI, which it comes back to. The rest of
// what sessions are bound to (client, issuer, scopes and so on) is compared when it is open: so a login that began
// before the config was changed can be told from a forged one.
type states struct{ box *keyring.Box }

// againMark stands behind the state of a login that was started again. It can be read without any key: whoever
// cannot open the state sees that to start the login once more is of no use. A state that opens has to have it
// if, and only if, the login that is sealed in it was started again.
const againMark = ".1"

// isAgain reports whether a state has the mark, and withoutMark returns the state without it.
func isAgain(state string) bool       { return strings.HasSuffix(state, againMark) }
func withoutMark(state string) string { return strings.TrimSuffix(state, againMark) }

// outdatedError is the keyring.ErrInvalid of a state that was sealed with these keys, but for another config,
// or by another release.
type outdatedError struct {
	plaintext []byte // of the login; nil if it cannot be read
	began     time.Time
}

func (*outdatedError) Error() string {
	return "the callback's state is of a login that began before the config was changed, or of another block"
}

func (*outdatedError) Unwrap() error { return keyring.ErrInvalid }

// room returns how much of a state's room is left to its login, as if that were sealed by itself.
func (*states) room(room int) int {
	return room - len(againMark) - (keyring.EncodedLen(stateOverhead) - keyring.EncodedLen(0)) - 1
}

// seal returns the state of a login that began at a site.
func (st *states) seal(ctx context.Context, at site, login []byte) (string, error) {
	plaintext, err := marshalState(hashOf(at.group), login)
	if err != nil {
		return "", err
	}
	return st.box.Seal(ctx, plaintext, []byte(at.redirectURI))
}

// open returns what was sealed, and when. The error wraps keyring.ErrInvalid unless the keys cannot be had: it is
// a keyring.ErrUnknownKey, or an *outdatedError, if the login may have begun here all the same.
func (st *states) open(ctx context.Context, at site, state string) (login []byte, began time.Time, err error) {
	plaintext, began, err := st.box.Open(ctx, withoutMark(state), []byte(at.redirectURI))
	if err != nil {
		return nil, time.Time{}, err
	}
	config, login, ok := parseState(plaintext)
	if !ok {
		return nil, time.Time{}, &outdatedError{began: began}
	}
	if config != hashOf(at.group) {
		return nil, time.Time{}, &outdatedError{login, began}
	}
	return login, began, nil
}

// hashOf is compared only with what was sealed, so nobody can look for another config of the same hash.
func hashOf(associated []byte) [16]byte {
	sum := sha256.Sum256(associated)
	return [16]byte(sum[:])
}
