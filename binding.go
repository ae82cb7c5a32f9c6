package aventusauth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// binding is what a binding cookie holds: a random id of the browser, when a login last began there, and
// how many have begun shortly after one another. The last two decide nothing but whether a page visit is to
// renew a token.
type binding struct {
	id    string
	began time.Time
	count int
}

const bindingSize = 16

// parseBinding reads a binding cookie's value.
func parseBinding(value string) (b binding, ok bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return binding{}, false
	}
	raw, err1 := base64.RawURLEncoding.DecodeString(parts[0])
	unix, err2 := strconv.ParseInt(parts[1], 10, 64)
	count, err3 := strconv.ParseUint(parts[2], 10, 16)
	if err1 != nil || err2 != nil || err3 != nil || len(raw) != bindingSize {
		return binding{}, false
	}
	return binding{parts[0], time.Unix(unix, 0), int(count)}, true
}

// bindingIn returns the binding of the browser that sent the request, or a new one. One cookie serves every
// tab, and every login of this browser.
func (c *cookies) bindingIn(lines []string) binding {
	for value := range cookieValues(lines, c.binding) {
		if b, ok := parseBinding(value); ok {
			return b
		}
	}
	random := make([]byte, bindingSize)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return binding{id: base64.RawURLEncoding.EncodeToString(random)}
}

// bind sets a browser's binding cookie, when a login begins there.
func (c *cookies) bind(w http.ResponseWriter, b binding, now time.Time) {
	c.set(w, c.binding, b.next(now).String(), loginLifetime)
}

// roomForBinding is how much of an answer's header the cookie takes.
func (c *cookies) roomForBinding() int { return len(c.binding) + 2*bindingSize }

// isWithin reports whether a login began in the browser within a time, by whichever clock that does not
// differ by more than it.
func (b binding) isWithin(pause time.Duration, now time.Time) bool {
	age := now.Sub(b.began)
	return -pause < age && age < pause
}

// next returns the binding of a login that begins now.
func (b binding) next(now time.Time) binding {
	if !b.isWithin(restartPause+records.ClockSkew, now) {
		b.count = 0
	}
	return binding{b.id, now, min(b.count+1, math.MaxUint16)}
}

func (b binding) String() string { return fmt.Sprintf("%s.%d.%d", b.id, b.began.Unix(), b.count) }

// beganLately reports whether a login began in the browser within restartPause. An instance whose clock
// differs takes a moment ago for longer ago: after the second login, what clocks may differ by is added.
func (c *cookies) beganLately(lines []string, now time.Time) bool {
	for value := range cookieValues(lines, c.binding) {
		b, ok := parseBinding(value)
		pause := restartPause
		if b.count > 1 {
			pause += records.ClockSkew
		}
		if ok && b.isWithin(pause, now) {
			return true
		}
	}
	return false
}

// beganIn reports whether what names a browser names the one that sent the request.
func (c *cookies) beganIn(lines []string, browser [16]byte) bool {
	for value := range cookieValues(lines, c.binding) {
		id, _, _ := strings.Cut(value, ".")
		hash := browserOf(id)
		if subtle.ConstantTimeCompare(hash[:], browser[:]) == 1 {
			return true
		}
	}
	return false
}

// browserOf returns what a state holds of a binding cookie: who sees the state,
// which travels in URLs, cannot make the cookie of it.
func browserOf(binding string) [16]byte {
	sum := sha256.Sum256([]byte(binding))
	return [16]byte(sum[:])
}
