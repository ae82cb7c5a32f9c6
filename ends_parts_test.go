package aventusauth

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// endings are the ways to end a session of a user, of a family and of a session at the authorization server.
func endings(p *parts, s *session) map[string]func(*ends) error {
	now, ctx := p.clock.Now(), p.t.Context()
	return map[string]func(*ends) error{
		"itself":     func(e *ends) error { return e.end(ctx, s.id, s.expires.time()) },
		"replaced":   func(e *ends) error { return e.replace(ctx, s.id, s.expires.time()) },
		"its user's": func(e *ends) error { return e.endUser(ctx, s.subject(), now) },
		"its family": func(e *ends) error { return e.endFamily(ctx, s.family, now, s.expires.time()) },
		"by a token": func(e *ends) error {
			return e.endAt(ctx, aventus.Logout{SessionID: "sid", Issued: now}, now, time.Hour)
		},
		"by its name": func(e *ends) error {
			return e.endAt(ctx, aventus.Logout{Subject: s.subject(), Issued: now}, now, time.Hour)
		},
	}
}

func (p *parts) endsOf(storage *failing) *ends {
	ended := records.NewEnded(storage, records.NewClock(p.clock.Now, p.clock.Elapsed))
	p.t.Cleanup(func() { _ = ended.Destruct() })
	return &ends{ended: ended, issuer: "https://auth.example.com/"}
}

// failing is a storage that takes nothing while it fails.
type failing struct {
	*mapStorage
	is atomic.Bool
}

func (s *failing) Store(ctx context.Context, key string, value []byte) error {
	if s.is.Load() && strings.Contains(key, "/ended/") {
		return errBrokenStorage
	}
	return s.mapStorage.Store(ctx, key, value)
}

// TestEndsOfAnother: what another instance has ended is known to one that has just begun, whatever it is first asked.
func TestEndsOfAnother(t *testing.T) {
	for how := range endings(newParts(t), new(session)) {
		for what, has := range map[string]func(*ends, *session) bool{
			"a session": (*ends).has,
			"one of the index": func(e *ends, s *session) bool {
				return e.hasListed(listed{
					id: s.id, family: s.family, Created: s.created.time(), Sub: s.subject(),
					ServerSession: s.serverSession(),
				})
			},
			"the next that begins": func(e *ends, s *session) bool {
				return how == "itself" || how == "replaced" || how == "by a token" ||
					e.after(s).After(s.created.time())
			},
			"a login under way": func(e *ends, s *session) bool {
				began := s.created.time().Add(-time.Minute)
				isOver, _ := e.hasMeanwhile(s, []records.ID{s.family}, began, records.ID{})
				return how == "itself" || how == "replaced" || how == "its user's" || isOver
			},
			"a logout token": func(e *ends, s *session) bool {
				said := aventus.Logout{Subject: s.subject(), Issued: s.created.time()}
				if how == "by a token" {
					said = aventus.Logout{SessionID: "sid", Issued: s.created.time()}
				}
				return !strings.HasPrefix(how, "by ") || e.hasAt(t.Context(), said)
			},
		} {
			p := newParts(t)
			k, _ := p.session(func(s *session) {
				s.refresh, s.family, s.idToken = "refresh", records.ID{1}, `{"sub":"auth0|ada","sid":"sid"}`
			})
			storage := &failing{mapStorage: p.storage}
			if err := endings(p, k.session)[how](p.endsOf(storage)); err != nil {
				t.Fatal(err)
			}
			if !has(p.endsOf(storage), k.session) {
				t.Errorf("%s, ended as %s: it is not known", what, how)
			}
		}
	}
}

// TestEndOfAUserLasts: that a user's sessions were ended is known as long as any of them could last, also at an
// instance that starts then.
func TestEndOfAUserLasts(t *testing.T) {
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.idToken = `{"sub":"auth0|ada"}` })
	e := p.endsOf(&failing{mapStorage: p.storage})
	if err := e.endUser(t.Context(), "auth0|ada", p.clock.Now()); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{maxLifetime - 3*time.Hour, 2 * time.Hour, time.Hour - time.Minute} {
		p.clock.Add(after) // after an hour, a clock that was set ahead is believed
		if err := e.ended.Learn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if started := p.endsOf(&failing{mapStorage: p.storage}); !e.has(k.session) || !started.has(k.session) {
		t.Errorf("it is known: %t; at one that starts: %t", e.has(k.session), started.has(k.session))
	}
}

// TestEndIsWrittenLater: an end that the storage does not take is an error, and is written as soon
// as the storage takes it, also by an instance that has not been asked anything before. Until then, a logout and an
// operator find a session that is to be ended.
func TestEndIsWrittenLater(t *testing.T) {
	ways := func(p *parts, s *session) map[string]func(*ends) error {
		all := endings(p, s)
		all["by a token that waits"] = func(e *ends) error {
			e.endLaterAt(aventus.Logout{SessionID: "sid", Issued: p.clock.Now()}, p.clock.Now())
			return errBrokenStorage
		}
		return all
	}
	for how := range ways(newParts(t), new(session)) {
		// That nobody asks meanwhile, which would begin it.
		synctest.Test(t, func(t *testing.T) {
			p := newParts(t)
			k, _ := p.session(func(s *session) {
				s.refresh, s.family, s.idToken = "refresh", records.ID{1}, `{"sub":"auth0|ada","sid":"sid"}`
			})
			storage := &failing{mapStorage: p.storage}
			storage.is.Store(true)
			_ = ways(p, k.session)[how](p.endsOf(storage))
			storage.is.Store(false)
			time.Sleep(records.LearnInterval + time.Second)
			synctest.Wait()
			if !p.endsOf(storage).has(k.session) {
				t.Errorf("%s, at an instance that is asked nothing: it is not written", how)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			p := newParts(t)
			k, _ := p.session(func(s *session) {
				s.refresh, s.family, s.idToken = "refresh", records.ID{1}, `{"sub":"auth0|ada","sid":"sid"}`
			})
			storage := &failing{mapStorage: p.storage}
			e, other := p.endsOf(storage), p.endsOf(storage)
			storage.is.Store(true)
			if err := ways(p, k.session)[how](e); !errors.Is(err, errBrokenStorage) {
				t.Errorf("%s: %v", how, err)
			}
			canEnd := func() (bool, bool) {
				by := *p.keeper
				by.ends = e
				return held{k, present{neighbour: &neighbour{keeper: &by}}}.canEnd(), e.canEndListed(listed{
					id: k.id, family: k.family, Created: k.created.time(), Sub: k.subject(),
					ServerSession: k.serverSession(),
				})
			}
			if s, about := canEnd(); !s || !about {
				t.Errorf("%s, unwritten: a logout finds it %t, an operator %t", how, s, about)
			}
			storage.is.Store(false)
			time.Sleep(records.LearnInterval + time.Second)
			synctest.Wait()
			if !e.has(k.session) || !other.has(k.session) {
				t.Errorf("%s: known here %t, and to others %t", how, e.has(k.session), other.has(k.session))
			}
			if s, about := canEnd(); s || about {
				t.Errorf("%s, written: a logout finds it %t, an operator %t", how, s, about)
			}
		})
	}
}
