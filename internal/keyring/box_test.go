package keyring

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// testClock stands still until a test turns it.
type testClock struct{ now, set atomic.Int64 }

func newClock() *testClock {
	c := new(testClock)
	c.now.Store(1_800_000_000)
	return c
}

func (c *testClock) Now() time.Time       { return time.Unix(c.now.Load(), 0) }
func (c *testClock) Add(by time.Duration) { c.now.Add(int64(by / time.Second)) }

// Set sets the wall clock alone, by so much.
func (c *testClock) Set(by time.Duration) {
	c.set.Add(int64(by / time.Second))
	c.Add(by)
}

// steady returns the clock of a process that has run for an hour.
func (c *testClock) steady() *records.Clock {
	ago := time.Hour
	clock := records.NewClock(
		func() time.Time { return c.Now().Add(-ago) },
		func() time.Duration { return time.Duration(c.now.Load()-c.set.Load())*time.Second - ago })
	ago = 0
	return clock
}

// secret returns the 32 bytes of one of the tests' keys.
func secret(n byte) []byte { return bytes.Repeat([]byte{n}, SecretSize) }

func fixed(t testing.TB, clock *testClock, secrets ...[]byte) *Ring {
	t.Helper()
	r, err := Fixed(secrets, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func seal(t testing.TB, b *Box, plaintext, associated string) string {
	t.Helper()
	sealed, err := b.Seal(t.Context(), []byte(plaintext), []byte(associated))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// opens fails the test unless sealed opens as plaintext.
func opens(t *testing.T, b *Box, sealed, plaintext, associated string) {
	t.Helper()
	got, _, err := b.Open(t.Context(), sealed, []byte(associated))
	if err != nil || string(got) != plaintext {
		t.Errorf("opened %q, error %v; want %q", got, err, plaintext)
	}
}

// opensNothing fails the test unless the value is invalid, and all that is
// returned says so.
func opensNothing(t *testing.T, what string, b *Box, sealed, associated string) {
	t.Helper()
	got, at, err := b.Open(t.Context(), sealed, []byte(associated))
	if !errors.Is(err, ErrInvalid) || got != nil || !at.IsZero() {
		t.Errorf("%s: opened %q of %v, error %v; want nothing and ErrInvalid", what, got, at, err)
	}
}

func TestSealOpen(t *testing.T) {
	clock := newClock()
	b := fixed(t, clock, secret(1)).Box("session", "app")
	for _, n := range []int{0, 1, 2, 3, 31, 3000} {
		plaintext := strings.Repeat("x", n)
		sealed := seal(t, b, plaintext, "site")
		if len(sealed) != EncodedLen(n) {
			t.Errorf("%d bytes: sealed in %d characters, EncodedLen says %d", n, len(sealed), EncodedLen(n))
		}
		if raw, err := base64.RawURLEncoding.DecodeString(sealed); err != nil || len(raw) != Overhead+n {
			t.Errorf("%d bytes: %d decoded, error %v", n, len(raw), err)
		}
		if again := seal(t, b, plaintext, "site"); again == sealed {
			t.Errorf("%d bytes: sealed twice, the same came out", n)
		}
		clock.Add(time.Hour)
		got, at, err := b.Open(t.Context(), sealed, []byte("site"))
		if err != nil || string(got) != plaintext || !at.Equal(clock.Now().Add(-time.Hour)) {
			t.Errorf("%d bytes: opened %d of %v, error %v", n, len(got), at, err)
		}
		if n > 3 && strings.Contains(sealed, plaintext) {
			t.Errorf("%d bytes: the plaintext shows", n)
		}
	}
}

// Two values that were sealed once with secret(1), and what was derived by them.
const (
	sealedOnce  = "ASc2VMcf_w1bGK6ae5TYla4JRswkkxw0tyS3DJQDwZH3DBayRphE4zarm39RoMNiKHusRuQi2nGVZQDLYEk"
	sealedEmpty = "ASc2VMc7vJfEIdlQCACIiWHft_ufUtP762PFglTGX6hrru8yMepg0VaJhHdc2Q14inJ9v94"
	derivedOnce = "b0e25e62173750dcae55b3c73489f15ef81d5c672395a770265275ce1491d308"
)

// A value sealed by an earlier version opens, or an update would sign everyone
// out. If this fails, the format has changed, and needs a version of its own.
func TestFormat(t *testing.T) {
	b := fixed(t, newClock(), secret(1)).Box("session", "app")
	opens(t, b, sealedOnce, "a session", "site")

	derived, err := b.Derive(t.Context(), sealedOnce, []byte("nonce"))
	if got := hex.EncodeToString(derived); err != nil || got != derivedOnce {
		t.Errorf("derived %s, error %v; want %s", got, err, derivedOnce)
	}
}

func TestMeantForSomethingElse(t *testing.T) {
	ring := fixed(t, newClock(), secret(1))
	sealed := seal(t, ring.Box("session", "app"), "text", "site")
	for _, tc := range []struct{ what, purpose, client, associated string }{
		{"another purpose", "login state", "app", "site"},
		{"another client", "session", "app2", "site"},
		{"a part of the purpose moved into the client", "sessio", "napp", "site"},
		{"other associated data", "session", "app", "site2"},
		{"no associated data", "session", "app", ""},
	} {
		opensNothing(t, tc.what, ring.Box(tc.purpose, tc.client), sealed, tc.associated)
	}
	opensNothing(t, "another key", fixed(t, newClock(), secret(2)).Box("session", "app"), sealed, "site")
	// The box itself was not the reason.
	opens(t, ring.Box("session", "app"), sealed, "text", "site")
}

// Whatever is not to the letter what was sealed is nothing at all.
func TestForged(t *testing.T) {
	b := fixed(t, newClock(), secret(1)).Box("session", "app")
	// Of three lengths in a row, two have spare bits in their last character.
	for n := range 3 {
		sealed := seal(t, b, strings.Repeat("x", n), "site")
		raw, err := base64.RawURLEncoding.DecodeString(sealed)
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			for bit := range 8 {
				forged := bytes.Clone(raw)
				forged[i] ^= 1 << bit
				opensNothing(t, fmt.Sprintf("bit %d of byte %d", bit, i), b,
					base64.RawURLEncoding.EncodeToString(forged), "site")
			}
		}
		for i := range raw {
			opensNothing(t, fmt.Sprintf("the first %d bytes", i), b,
				base64.RawURLEncoding.EncodeToString(raw[:i]), "site")
		}
		opensNothing(t, "one byte more", b, base64.RawURLEncoding.EncodeToString(append(bytes.Clone(raw), 0)), "site")
		opensNothing(t, "twice", b, sealed+sealed, "site")

		// One value has one spelling: what counts values by their text, such as
		// the single use of a login's state, rests on it.
		for i := range len(sealed) + 1 {
			for _, between := range []string{"\n", "\r", "\r\n", " ", "=", "\x00"} {
				opensNothing(t, fmt.Sprintf("%q at %d", between, i), b, sealed[:i]+between+sealed[i:], "site")
			}
		}
		for _, padding := range []string{"=", "=="} {
			opensNothing(t, "padding", b, sealed+padding, "site")
		}
		spelled := 0
		for _, last := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
			other := sealed[:len(sealed)-1] + string(last)
			if decoded, _ := base64.RawURLEncoding.DecodeString(other); other != sealed && bytes.Equal(decoded, raw) {
				spelled++
			}
			if other != sealed {
				opensNothing(t, "another last character", b, other, "site")
			}
		}
		if want := []int{3, 0, 15}[n]; spelled != want {
			t.Errorf("%d bytes: met %d other spellings, not %d", n, spelled, want)
		}
	}
	for _, s := range []string{"", "A", "AQ", "not base64!", strings.Repeat("A", 1<<16)} {
		opensNothing(t, "junk", b, s, "site")
	}
}

// The clocks of two instances may differ by five minutes, and not by more.
func TestSealedAhead(t *testing.T) {
	there, here := newClock(), newClock()
	far := fixed(t, there, secret(1)).Box("session", "app")
	near := fixed(t, here, secret(1)).Box("session", "app")
	if records.ClockSkew != 5*time.Minute {
		t.Errorf("clocks may differ by %v", records.ClockSkew)
	}
	there.Add(5 * time.Minute)
	opens(t, near, seal(t, far, "text", ""), "text", "")
	there.Add(time.Second)
	sealed := seal(t, far, "text", "")
	opensNothing(t, "sealed in the future", near, sealed, "")
	here.Add(time.Second)
	opens(t, near, sealed, "text", "")
}

func TestDerive(t *testing.T) {
	clock := newClock()
	ring := fixed(t, clock, secret(1))
	states, proofs := ring.Box("login state", "app"), ring.Box("code verifier", "app")
	state := seal(t, states, "a login", "site")
	derive := func(b *Box, sealed, input string) string {
		t.Helper()
		derived, err := b.Derive(t.Context(), sealed, []byte(input))
		if err != nil || len(derived) != 32 {
			t.Fatalf("derived %d bytes, error %v", len(derived), err)
		}
		return string(derived)
	}

	first := derive(proofs, state, "nonce")
	for what, again := range map[string]string{
		"the same again":                derive(proofs, state, "nonce"),
		"another value of the same key": derive(proofs, seal(t, states, "another login", "site"), "nonce"),
		"a new key in front of the old one": derive(
			fixed(t, clock, secret(2), secret(1)).Box("code verifier", "app"), state, "nonce"),
		"the same key in another instance": derive(fixed(t, clock, secret(1)).Box("code verifier", "app"),
			state, "nonce"),
		"another clock, ten years from there": derive(fixed(t, aged(clock), secret(1)).Box("code verifier", "app"),
			state, "nonce"),
	} {
		if again != first {
			t.Errorf("%s: derived something else", what)
		}
	}
	for what, other := range map[string]string{
		"another input":   derive(proofs, state, "nonce2"),
		"another purpose": derive(states, state, "nonce"),
		"another client":  derive(ring.Box("code verifier", "app2"), state, "nonce"),
		"another key": derive(fixed(t, clock, secret(2), secret(1)).Box("code verifier", "app"),
			seal(t, fixed(t, clock, secret(2)).Box("login state", "app"), "a login", "site"), "nonce"),
	} {
		if other == first {
			t.Errorf("%s: derived the same", what)
		}
	}
	for what, sealed := range map[string]string{
		"junk":        "junk",
		"unknown key": seal(t, fixed(t, clock, secret(3)).Box("login state", "app"), "a login", "site"),
		"line break":  state + "\n",
		"cut off":     state[:EncodedLen(0)-3],
	} {
		if derived, err := proofs.Derive(t.Context(), sealed, []byte("nonce")); !errors.Is(err, ErrInvalid) ||
			derived != nil {
			t.Errorf("%s: derived %x, error %v", what, derived, err)
		}
	}
}

func aged(c *testClock) *testClock {
	old := newClock()
	old.now.Store(c.now.Load() + int64(10*365*24*time.Hour/time.Second))
	return old
}

// A box may be used by many requests at once.
func TestParallel(t *testing.T) {
	b := fixed(t, newClock(), secret(1), secret(2)).Box("session", "app")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			text := fmt.Sprint(i)
			sealed, err := b.Seal(t.Context(), []byte(text), nil)
			if err != nil {
				t.Error(err)
			}
			opens(t, b, sealed, text, "")
		})
	}
	wg.Wait()
}

// FuzzOpen looks for a value that opens and was never sealed: a forgery, or
// another spelling of one that was.
func FuzzOpen(f *testing.F) {
	genuine := map[string]string{sealedOnce: "a session", sealedEmpty: ""}
	early := newClock()
	early.Add(-records.ClockSkew - time.Second)
	b := fixed(f, newClock(), secret(1)).Box("session", "app")
	others := map[string]*Box{
		"another purpose": fixed(f, newClock(), secret(1)).Box("login state", "app"),
		"another client":  fixed(f, newClock(), secret(1)).Box("session", "app2"),
		"another key":     fixed(f, newClock(), secret(2)).Box("session", "app"),
		"ahead of time":   fixed(f, early, secret(1)).Box("session", "app"),
	}
	for sealed := range genuine {
		f.Add(sealed)
		f.Add(sealed + "=")
		f.Add(sealed + "\n")
		f.Add(sealed[:len(sealed)-1])
		// some spell the same bytes
		for _, last := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
			if other := sealed[:len(sealed)-1] + string(last); other != sealed {
				f.Add(other)
			}
		}
	}
	f.Add("")
	f.Add("AQ")
	f.Add(strings.Repeat("A", EncodedLen(0)))
	f.Fuzz(func(t *testing.T, sealed string) {
		plaintext, at, err := b.Open(t.Context(), sealed, []byte("site"))
		want, ok := genuine[sealed]
		if !ok {
			if !errors.Is(err, ErrInvalid) || plaintext != nil || !at.IsZero() {
				t.Fatalf("opened %q of %v, error %v; want nothing and ErrInvalid", plaintext, at, err)
			}
			// Nor is it what rests in a storage, by whatever key.
			if record, err := OpenRecord(secret(1), []byte(sealed), []byte("site")); !errors.Is(err, ErrInvalid) ||
				record != nil {
				t.Fatalf("opened the record %q, error %v", record, err)
			}
			if derived, err := b.Derive(t.Context(), sealed, []byte("nonce")); (err == nil) != (len(derived) == 32) ||
				err != nil && (!errors.Is(err, ErrInvalid) || derived != nil) {
				t.Fatalf("derived %x, error %v", derived, err)
			}
			return
		}
		for what, other := range others {
			if plaintext, at, err := other.Open(t.Context(), sealed, []byte("site")); !errors.Is(err, ErrInvalid) ||
				plaintext != nil || !at.IsZero() {
				t.Fatalf("%s: opened %q, error %v", what, plaintext, err)
			}
		}
		if err != nil || string(plaintext) != want {
			t.Fatalf("opened %q, error %v; want %q", plaintext, err, want)
		}
		opens(t, b, seal(t, b, want, "site"), want, "site")
	})
}
