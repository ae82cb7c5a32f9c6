package aventusauth

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// TestJoining: which session of another tab's a login goes on with. A second login, one of another person or for
// another organization, and one that was granted something else make a session of their own, with an id of its own.
func TestJoining(t *testing.T) {
	ids := func(sub, sid, further string) string {
		return fmt.Sprintf(`{"sub":%q,"sid":%q%s}`, sub, sid, further)
	}
	ada := ids("auth0|ada", "one", "")
	for _, c := range []struct {
		what   string
		change func(p *parts, s *session, other *keptSession)
		joins  bool
	}{
		{"as it should be", nil, true},
		{"another person", func(_ *parts, s *session, _ *keptSession) {
			s.idToken, s.family = ids("auth0|bob", "one", ""), records.ID{2}
		}, false},
		{"another person, by the same family", func(_ *parts, s *session, _ *keptSession) {
			s.idToken = ids("auth0|bob", "one", "")
		}, false},
		{"of another family", func(_ *parts, s *session, _ *keptSession) { s.family = records.ID{2} }, false},
		{"nobody knows whose they are", func(p *parts, s *session, other *keptSession) {
			s.idToken = ""
			p.rewrite(other, func(s *session) { s.idToken = "" })
		}, false},
		{"another session at the server", func(_ *parts, s *session, _ *keptSession) {
			s.idToken = ids("auth0|ada", "two", "")
		}, false},
		{"for an organization", func(_ *parts, s *session, _ *keptSession) {
			s.idToken = ids("auth0|ada", "one", `,"org_id":"org_1"`)
		}, false},
		{"with another scope", func(_ *parts, s *session, _ *keptSession) { s.scope = "read:more" }, false},
		{"it has ended", func(p *parts, _ *session, other *keptSession) {
			if err := p.keeper.endBy(p.t.Context(), other, p.keeper.ends.end); err != nil {
				p.t.Error(err)
			}
		}, false},
		{"its record has gone", func(p *parts, _ *session, other *keptSession) {
			if err := p.keeper.store.delete(p.t.Context(), other.name(), other.handle.expires.time()); err != nil {
				p.t.Error(err)
			}
		}, false},
		{"its record cannot be read", func(p *parts, _ *session, other *keptSession) {
			p.keeper.store.shelf = records.NewShelf(unreadable{p.storage, other.name()}, "aventus_auth/sessions",
				records.NewClock(p.clock.Now, p.clock.Elapsed))
		}, false},
		{"its token came before the login began", func(p *parts, _ *session, other *keptSession) {
			p.rewrite(other, func(s *session) { s.tokenCame -= 120 })
		}, false},
		{"it can be renewed no more", func(p *parts, _ *session, other *keptSession) {
			p.rewrite(other, func(s *session) { s.refresh = "" })
		}, false},
		{"both are for a while, alike", func(p *parts, s *session, other *keptSession) {
			p.rewrite(other, func(s *session) { s.refresh = "" })
			s.refresh = ""
		}, true},
		{"it has much less left", func(p *parts, s *session, other *keptSession) {
			p.rewrite(other, func(s *session) { s.refresh, s.tokenEnds = "", s.tokenCame+20*60 })
			s.refresh = ""
		}, false},
		{"it has much less left, and can be renewed", func(p *parts, _ *session, other *keptSession) {
			p.rewrite(other, func(s *session) { s.tokenEnds = s.tokenCame + 20*60 })
		}, true},
		{"its token has died", func(p *parts, s *session, _ *keptSession) { p.clock.Add(time.Hour) }, false},
	} {
		for _, brought := range []bool{true, false} { // by the browser's cookie, or this instance has made it
			p := newParts(t)
			rp := p.logins().replacer
			l := &login{browser: [16]byte{1}, began: p.clock.Now()}
			p.clock.Add(time.Minute)
			change := func(s *session) { s.refresh, s.family, s.idToken = "refresh", records.ID{1}, ada }
			other, cookie := p.session(change)
			if !brought {
				rp.remember(p.at(), l, other)
				cookie = "other=cookie"
			}
			s := p.keeper.make(&oauth2.Token{AccessToken: "opaque", ExpiresIn: 3600}, nil)
			change(s)
			if c.change != nil {
				c.change(p, s, other)
			}
			k, _, err := rp.join(p.request("GET", "/oauth2/callback", "Cookie", cookie), p.at(), l, s)
			if err != nil {
				t.Fatal(err)
			}
			want := s.id
			if c.joins {
				want = other.id
			}
			if k.id != want {
				t.Errorf("%s, brought %t: joins %t", c.what, brought, !c.joins)
			}
			if k.handle == nil || k.handle.id != k.id {
				t.Errorf("%s, brought %t: its handle is %v", c.what, brought, k.handle)
			}
		}
	}
}

// rewrite changes the record of a session.
func (p *parts) rewrite(k *keptSession, change func(*session)) {
	p.t.Helper()
	s := k.copy()
	change(s)
	if err := p.keeper.store.put(p.t.Context(), p.at(), k.handle, s); err != nil {
		p.t.Error(err)
	}
}

// joins has a login join, and returns what it goes on with and whether that is its own session. It brings a cookie.
func (p *parts) joins(rp *replacer, at site, began time.Time, cookie string) (k *keptSession, isOwn bool) {
	p.t.Helper()
	s := p.keeper.make(&oauth2.Token{AccessToken: "opaque", ExpiresIn: 3600}, nil)
	s.refresh, s.family, s.idToken = "refresh", records.ID{1}, `{"sub":"auth0|ada"}`
	l := &login{browser: [16]byte{1}, began: began}
	k, _, err := rp.join(p.request("GET", "/oauth2/callback", "Cookie", cookie), at, l, s)
	if err != nil {
		p.t.Error(err)
	}
	return k, k.id == s.id
}

// TestJoiningLater: a login that began when the session was there, as a renewal by visit does, has a session of its
// own, and so has one of a block whose sessions are bound to something else.
func TestJoiningLater(t *testing.T) {
	p := newParts(t)
	rp, began := p.logins().replacer, p.clock.Now()
	if _, isOwn := p.joins(rp, p.at(), began, "other=cookie"); !isOwn {
		t.Error("the first login joins one")
	}
	other := p.at()
	other.group = []byte("with another scope")
	if _, isOwn := p.joins(rp, other, began, "other=cookie"); !isOwn {
		t.Error("a login of another block joins")
	}
	p.clock.Add(time.Second)
	if _, isOwn := p.joins(rp, p.at(), p.clock.Now(), "other=cookie"); !isOwn {
		t.Error("a login that began later joins")
	}
}

// holding is a storage that holds the first value of a folder that is to be loaded.
type holding struct {
	*mapStorage
	folder         string
	entered, leave chan struct{}
	once           sync.Once
}

func (s *holding) Load(ctx context.Context, key string) ([]byte, error) {
	if strings.HasPrefix(key, s.folder) {
		s.once.Do(func() {
			close(s.entered)
			<-s.leave
		})
	}
	return s.mapStorage.Load(ctx, key)
}

// TestJoiningWhileAnotherJoins: a login that finishes at once with one which joins a session of before waits for that
// one, and makes a session of its own.
func TestJoiningWhileAnotherJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParts(t)
		rp, began := p.logins().replacer, p.clock.Now()
		first, _ := p.joins(rp, p.at(), began, "other=cookie")
		storage := &holding{
			mapStorage: p.storage, folder: "aventus_auth/sessions",
			entered: make(chan struct{}), leave: make(chan struct{}),
		}
		clock := records.NewClock(p.clock.Now, p.clock.Elapsed)
		p.keeper.store.shelf = records.NewShelf(storage, storage.folder, clock)
		p.clock.Add(time.Second)
		var both sync.WaitGroup
		both.Go(func() {
			if k, _ := p.joins(rp, p.at(), began, "other=cookie"); k.id != first.id {
				t.Error("the one that began before does not join")
			}
		})
		<-storage.entered
		both.Go(func() {
			if _, isOwn := p.joins(rp, p.at(), p.clock.Now(), "other=cookie"); !isOwn {
				t.Error("the one that began later joins")
			}
		})
		synctest.Wait()
		close(storage.leave)
		both.Wait()
	})
}
