package aventusauth

import (
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// These are what hosts that share a login send each other. Their versions stand with the other formats', in
// sealed.go; how they are used, in handover.go.

// visit is why a host that is not the redirect URI's sends a browser to that one, by its aim: a page visit that waits
// for a session there, say. It is what the host asks for a ticket with, sealed.
type visit struct {
	asked    time.Time // when the host sealed its request
	browser  [16]byte  // of the binding cookie at the host
	page     [16]byte  // which page it is, however much of its URL is left in returnTo
	restarts uint8     // how often the visit was sent for a ticket before
	aim      aim
	host     string // as hostName returns it
	returnTo string // path and query
}

// aim is what a visit needs a ticket for.
type aim uint8

const (
	toBeginSession aim = iota
	toRenewSession     // the host has one, whose token is to be renewed
	toEndSession       // at the logout path of a host that has none to end
	aims               // their number
)

// marshal makes the request's plaintext:
//
//	version (1) || browser (16) || page (16) || restarts (1) || aim (1) || host (1+n) || return to (the rest)
func (v *visit) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(requestVersion)
	v.add(b)
	return b.Bytes()
}

func (v *visit) add(b *cryptobyte.Builder) {
	b.AddBytes(v.browser[:])
	b.AddBytes(v.page[:])
	b.AddUint8(v.restarts)
	b.AddUint8(uint8(v.aim))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(v.host)) })
	b.AddBytes([]byte(v.returnTo))
}

// parseVisit reads what marshal wrote. It returns all of it, or nothing.
func parseVisit(plaintext []byte, asked time.Time) (*visit, bool) {
	in := cryptobyte.String(plaintext)
	var version uint8
	if !in.ReadUint8(&version) || version != requestVersion {
		return nil, false
	}
	return readVisit(in, asked)
}

func readVisit(in cryptobyte.String, asked time.Time) (*visit, bool) {
	v := &visit{asked: asked}
	var number uint8
	var host cryptobyte.String
	if !in.CopyBytes(v.browser[:]) || !in.CopyBytes(v.page[:]) || !in.ReadUint8(&v.restarts) ||
		!in.ReadUint8(&number) || number >= uint8(aims) || !in.ReadUint8LengthPrefixed(&host) || host.Empty() {
		return nil, false
	}
	if v.aim, v.host = aim(number), string(host); v.host != hostName(v.host) {
		return nil, false
	}
	// As returnPath makes it.
	if v.returnTo = string(in); !strings.HasPrefix(v.returnTo, "/") || escape(v.returnTo, "") != v.returnTo {
		return nil, false
	}
	return v, true
}

// ticket is what the redirect URI's host answers a request with. It holds no token.
type ticket struct {
	issued time.Time // when it was sealed
	visit  *visit
	handle *handle // of the session
}

// marshal makes the ticket's plaintext:
//
//	version (1) || asked (8) || handle || the visit, as in a request
func (t *ticket) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(ticketVersion)
	b.AddUint64(uint64(t.visit.asked.Unix()))
	t.handle.add(b)
	t.visit.add(b)
	return b.Bytes()
}

// ticketExtra is how much longer a ticket is than the request that it answers.
const ticketExtra = 8 + 1 + 16 + 8 + keyring.RecordKeySize + 16

// parseTicket reads what marshal wrote. It returns all of it, or nothing.
func parseTicket(plaintext []byte, issued time.Time) (*ticket, bool) {
	in := cryptobyte.String(plaintext)
	t := &ticket{issued: issued}
	var version uint8
	var asked uint64
	var ok bool
	if !in.ReadUint8(&version) || version != ticketVersion || !in.ReadUint64(&asked) {
		return nil, false
	}
	if t.handle, ok = readHandle(&in); !ok {
		return nil, false
	}
	if t.visit, ok = readVisit(in, time.Unix(int64(asked), 0)); !ok {
		return nil, false
	}
	return t, true
}
