package aventusauth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// binding is what a binding cookie holds: a random id of the browser, and when a login last began there, of any block
// at the host. The latter is no proof of anything: the browser can change it.
type binding struct {
	id    string
	began time.Time
}

const bindingSize = 16

// parseBinding reads a binding cookie's value.
func parseBinding(value string) (b binding, ok bool) {
	id, began, _ := strings.Cut(value, ".")
	raw, err1 := base64.RawURLEncoding.DecodeString(id)
	unix, err2 := strconv.ParseInt(began, 10, 64)
	if err1 != nil || err2 != nil || len(raw) != bindingSize {
		return binding{}, false
	}
	return binding{id, time.Unix(unix, 0)}, true
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
	c.set(w, c.binding, b.id+"."+strconv.FormatInt(now.Unix(), 10), loginLifetime)
}

// roomForBinding is how much of an answer's header the cookie takes.
func (c *cookies) roomForBinding() int { return len(c.binding) + 2*bindingSize }

// isWithin reports whether a login began in the browser within a time. It may have begun at an instance whose clock is
// ahead of this one's.
func (b binding) isWithin(span time.Duration, now time.Time) bool {
	return now.Sub(b.began) < span && !isFuture(b.began, now)
}

// beganLately reports whether a login began in the browser so lately that none is to begin for the sake of a session's
// token: within a quarter of the time that the token had left then, or within restartPause. Each login that begins so
// is that much later than the one before by the clock of its instance, so they cannot follow one another without end,
// whatever they come to, and although the clocks of instances differ.
func (c *cookies) beganLately(lines []string, s *session, now time.Time) bool {
	for value := range cookieValues(lines, c.binding) {
		b, ok := parseBinding(value)
		if ok && b.isWithin(max(restartPause, s.tokenEnds.time().Sub(b.began)/4), now) {
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
