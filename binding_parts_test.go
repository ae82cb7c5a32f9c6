package aventusauth

import (
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// visits are the page visits of one browser, near the end of tokens that no refresh token renews.
type visits struct {
	*parts
	ho     *handOvers
	cookie string // the browser's binding cookie
}

func newVisits(t *testing.T, renewBefore time.Duration) *visits {
	v := &visits{parts: newParts(t)}
	v.ho = v.gate(new(renewalParts)).handOvers
	v.ho.renewer.before = renewBefore
	return v
}

// token returns a session with a token that comes now, and lasts for a while.
func (v *visits) token(lasts time.Duration) *keptSession {
	now := v.clock.Now()
	return &keptSession{session: &session{tokenCame: toUnix(now), tokenEnds: toUnix(now.Add(lasts))}}
}

// begins visits a page with a session, and reports whether a login begins that is to renew its token.
func (v *visits) begins(k *keptSession) bool {
	if !v.ho.isDue(&sent{cookies: []string{v.cookie}}, k, v.clock.Now()) {
		return false
	}
	w := httptest.NewRecorder()
	v.cookies.bind(w, v.cookies.bindingIn([]string{v.cookie}), v.clock.Now())
	v.cookie = cookieIn(w)
	return true
}

// TestRenewalsByVisitFollow: whoever visits a page every few seconds is renewed in time, each time: a renewal that
// worked keeps no other from it, neither the next one of its session nor that of another session at the host.
func TestRenewalsByVisitFollow(t *testing.T) {
	for _, c := range []struct {
		lasts, before time.Duration
		sessions      int
	}{
		{3 * time.Minute, 5 * time.Minute, 1},
		{5 * time.Minute, 5 * time.Minute, 1},
		{5 * time.Minute, 5 * time.Minute, 2},
		{time.Hour, 5 * time.Minute, 1},
		{time.Hour, 5 * time.Minute, 3},
		{24 * time.Hour, time.Hour, 8},
	} {
		v := newVisits(t, c.before)
		began, held := 0, make([]*keptSession, c.sessions)
		for i := range held {
			held[i] = v.token(c.lasts)
		}
		for range 4 * c.lasts / (10 * time.Second) {
			v.clock.Add(10 * time.Second)
			for i, k := range held {
				if v.begins(k) {
					began++
					held[i] = v.token(c.lasts)
				}
				if !isAlive(held[i].session, v.clock.Now()) {
					t.Fatalf("%+v: the token of session %d has expired after %d renewals", c, i, began)
				}
			}
		}
		if least := 4 * c.sessions; began < least || began > 3*least {
			t.Errorf("%+v: %d renewals", c, began)
		}
	}
}

// TestRenewalByVisitInVain: where no attempt comes to anything, each waits for a quarter of what the token has left
// after the one before, and for a minute at least.
func TestRenewalByVisitInVain(t *testing.T) {
	for before, want := range map[time.Duration][]time.Duration{ // seconds from when the token is due
		5 * time.Minute: {0, 75, 135, 195, 255},
		time.Hour:       {0, 900, 1575, 2082, 2462, 2747, 2961, 3121, 3241, 3331, 3399, 3459, 3519, 3579},
	} {
		v := newVisits(t, before)
		k := v.token(24 * time.Hour)
		v.clock.Add(24*time.Hour - before)
		var began []time.Duration
		for second := range before / time.Second {
			if v.begins(k) {
				began = append(began, second)
			}
			v.clock.Add(time.Second)
		}
		if !slices.Equal(began, want) {
			t.Errorf("%s: after %d seconds, want %d", before, began, want)
		}
	}
}

// TestBindingOfTheFuture: what began while a clock was far ahead has not begun lately by the clock that is right.
func TestBindingOfTheFuture(t *testing.T) {
	now := newParts(t).clock.Now()
	for ahead, want := range map[time.Duration]bool{
		-time.Minute: true, -time.Hour: false, 0: true, 4 * time.Minute: true, time.Hour: false,
	} {
		if (binding{began: now.Add(ahead)}).isWithin(time.Minute+time.Second, now) != want {
			t.Errorf("%s ahead: within a minute %t", ahead, !want)
		}
	}
}

// TestRenewalByVisitAtManyClocks: instances whose clocks differ send a browser to the authorization server and back
// once each at most, in whichever order it meets them, also where each time a token comes that is due at once.
func TestRenewalByVisitAtManyClocks(t *testing.T) {
	const skew = 5 * time.Minute
	for _, clocks := range [][]time.Duration{
		{0}, {0, 3 * time.Minute}, {3 * time.Minute, 0}, {0, skew}, {skew, 0}, {time.Minute, 0, 2 * time.Minute},
		{0, 90 * time.Second, 3 * time.Minute, skew}, {skew, 2 * time.Minute, 0, 3 * time.Minute},
	} {
		v := newVisits(t, skew)
		began, start := 0, v.clock.Now()
		for round := range 60 {
			ahead := clocks[round%len(clocks)]
			v.clock.now.Store(start.Add(ahead).Unix())
			s := &session{tokenCame: toUnix(start), tokenEnds: toUnix(start.Add(time.Second))}
			if v.begins(&keptSession{session: s}) {
				began++
			}
		}
		if began > len(clocks) {
			t.Errorf("%v: %d logins", clocks, began)
		}
	}
}
