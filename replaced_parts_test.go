package aventusauth

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// unreadable is a storage that fails to load what has a part of its key.
type unreadable struct {
	*mapStorage
	part string
}

func (s unreadable) Load(ctx context.Context, key string) ([]byte, error) {
	if strings.Contains(key, s.part) {
		return nil, errBrokenStorage
	}
	return s.mapStorage.Load(ctx, key)
}

// TestBroughtToALogin: what becomes of the session that a browser brings to a login, and of one of the same family
// that another host has. The person of a login may not be known, and the record of what is brought not be readable.
func TestBroughtToALogin(t *testing.T) {
	const ada, bob = `{"sub":"auth0|ada"}`, `{"sub":"auth0|bob"}`
	one, another := records.ID{1}, records.ID{2}
	for what, c := range map[string]struct {
		was, is      string // the ID tokens' claims
		family       records.ID
		isUnreadable bool
		brought      bool // goes on
		others       bool // go on
	}{
		"the same person":                    {ada, ada, one, false, true, true},
		"the same person, and not readable":  {ada, ada, one, true, true, true},
		"the same person, of another family": {ada, ada, another, false, false, false},
		"another person":                     {ada, bob, another, false, false, false},
		"another person, and not readable":   {ada, bob, another, true, false, false},
		"nobody knows whose":                 {"", "", one, false, false, true},
		"nobody knows whose, another family": {"", "", another, false, false, false},
		"somebody after nobody knows who":    {"", ada, another, false, false, false},
	} {
		p := newParts(t)
		rp := p.logins().replacer
		begin := func(claims string, family records.ID) (*keptSession, string) {
			return p.session(func(s *session) { s.refresh, s.family, s.idToken = "refresh", family, claims })
		}
		other, _ := begin(c.was, one)
		brought, cookie := begin(c.was, one)
		s, _ := begin(c.is, c.family)
		s.created = toUnix(p.keeper.ends.after(s.session))
		if c.isUnreadable {
			p.keeper.memory.forgetAll()
			p.keeper.store.shelf = records.NewShelf(unreadable{p.storage, brought.name()}, "aventus_auth/sessions",
				records.NewClock(p.clock.Now, p.clock.Elapsed))
		}
		r := p.request("GET", "/oauth2/callback", "Cookie", cookie)
		rp.endBrought(r, rp.overwritten(r, p.at()), s.session)
		if got := !p.keeper.ends.has(brought.session); got != c.brought {
			t.Errorf("%s: what is brought goes on: %t, want %t", what, got, c.brought)
		}
		if got := !p.keeper.ends.has(other.session); got != c.others {
			t.Errorf("%s: what another host has goes on: %t, want %t", what, got, c.others)
		}
		p.clock.Add(2 * records.ClockSkew)
		if c.family != one && p.keeper.ends.has(s.session) {
			t.Errorf("%s: the login's own session has ended", what)
		}
	}
}

// TestLatestLoginCannotEnd: a logout ends what the latest logins of the browser made, of which it may have no cookie.
// That it could not be recorded is an error, each time until it is; and it is recorded for no longer than it lasts.
func TestLatestLoginCannotEnd(t *testing.T) {
	for _, family := range []records.ID{{}, {1}} {
		p := newParts(t)
		rp := p.logins().replacer
		k, _ := p.session(func(s *session) { s.refresh, s.family = "refresh", family })
		l := &login{browser: [16]byte{1}}
		r := p.request("GET", "/oauth2/callback")
		rp.endReplaced(r, p.at(), k.session, rp.remember(p.at(), l, k))
		b := present{rp.own, p.at()}
		working := p.keeper.ends.ended
		broken := records.NewEnded(unwritable{p.storage, "/ended/"}, records.NewClock(p.clock.Now, p.clock.Elapsed))
		t.Cleanup(func() { _ = broken.Destruct() })
		p.keeper.ends.ended = broken
		for range 2 {
			if err := rp.endLatest(t.Context(), b, l.browser); !errors.Is(err, errBrokenStorage) {
				t.Errorf("family %x: %v", family, err)
			}
		}
		p.keeper.ends.ended = working
		if err := rp.endLatest(t.Context(), b, l.browser); err != nil || !p.keeper.ends.has(k.session) {
			t.Errorf("family %x: ended %t, %v", family, p.keeper.ends.has(k.session), err)
		}
		last := p.clock.Now().Add(p.keeper.lifetime + 2*time.Hour).Unix()
		for key := range p.storage.files {
			_, rest, _ := strings.Cut(key, "aventus_auth/ended/all/")
			period, _, _ := strings.Cut(rest, "/")
			hour, err := strconv.ParseInt(period, 10, 64)
			if err == nil && (hour*3600 > last || hour < k.expires.time().Unix()/3600) {
				t.Errorf("family %x: recorded until hour %s", family, period)
			}
		}
	}
}

// TestMayShareGrant: a replaced session's refresh token is not revoked where that could end the new session's grant:
// with the same client of the same server, and a person who is, or may be, the same.
func TestMayShareGrant(t *testing.T) {
	const ada, bob = `{"sub":"auth0|ada"}`, `{"sub":"auth0|bob"}`
	for _, c := range []struct {
		was, is, issuer, client string
		want                    bool
	}{
		{ada, ada, "https://auth.example.com/", "the-client", true},
		{ada, bob, "https://auth.example.com/", "the-client", false},
		{"", ada, "https://auth.example.com/", "the-client", true},
		{ada, "", "https://auth.example.com/", "the-client", true},
		{"", "", "https://auth.example.com/", "the-client", true},
		{ada, ada, "https://other.example.com/", "the-client", false},
		{ada, ada, "https://auth.example.com/", "another-client", false},
	} {
		p := newParts(t)
		rp, others := p.logins().replacer, p.logins().replacer.own
		others.server.issuer, others.server.clientID = c.issuer, c.client
		k, _ := p.session(func(s *session) { s.idToken = c.was })
		s, _ := p.session(func(s *session) { s.idToken = c.is })
		if got := rp.mayShareGrant(s.session, held{k, present{others, p.at()}}); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
