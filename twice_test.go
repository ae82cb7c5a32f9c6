package aventusauth

import (
	"net/http"
	"net/url"
	"testing"
	"time"
)

// TestEndedTwiceInASecond: of two ends of all that a user has, within one second, both hold, also for who signed
// in between them; and so they do after a restart. Times are kept in whole seconds, so the two look alike.
func TestEndedTwiceInASecond(t *testing.T) {
	for _, store := range []string{"cookie", "storage"} {
		w := toldOfLogouts(t, setup{admin: true, block: "session {\nstore " + store + "\n}"})
		ways := map[string]func(){
			"a revocation": func() {
				a := w.browser().do("DELETE", "http://localhost:"+w.adminPort+"/aventus_auth/sessions?sub="+
					url.QueryEscape("auth0|ada"))
				w.expect(a, http.StatusNoContent)
			},
			"a logout token": func() {
				w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", ""), http.StatusOK)
			},
		}
		signIn := func(b *browser) { // by a login that may start over, since it may be older by another clock
			if a, _ := b.visit(w.site + "/"); a.StatusCode != http.StatusOK {
				t.Errorf("who signs in gets %d", a.StatusCode)
			}
		}
		for first, end := range ways {
			for second, endAgain := range ways {
				w.clock.Add(10 * time.Second)
				before, between, after := w.browser(), w.browser(), w.browser()
				signIn(before)
				end()
				w.expect(before.get("/"), http.StatusFound)
				if first == "a logout token" {
					w.clock.Add(time.Second) // a login of the same second may have been under way when it came
				}
				signIn(between)
				endAgain()
				for range 2 {
					if a := between.get("/"); a.StatusCode != http.StatusFound {
						t.Errorf("%s, %s and then %s: who signed in between them gets %d", store, first, second,
							a.StatusCode)
					}
					w.expect(before.get("/"), http.StatusFound)
					w.restart()
				}
				w.clock.Add(5 * time.Second)
				signIn(after)
			}
		}
	}
}

// TestTwoLogoutTokensAtOnce: of two logout tokens that come in the same second, for two sessions of one user,
// each ends its own, and none is taken for the other come again.
func TestTwoLogoutTokensAtOnce(t *testing.T) {
	w := toldOfLogouts(t, setup{})
	phone, laptop, other := w.browser(), w.browser(), w.browser()
	for _, b := range []*browser{phone, laptop, other} {
		b.login("/")
		w.expect(b.get("/"), http.StatusOK)
	}
	one := w.issuer.LogoutToken("the-client", "auth0|ada", phone.sid())
	two := w.issuer.LogoutToken("the-client", "auth0|ada", laptop.sid())
	answered := make(chan int, 2)
	for _, token := range []string{one, two} {
		go func() { answered <- w.issuer.Deliver(w.site+backchannelPath, "the-client", token).Status }()
	}
	for range 2 {
		if status := <-answered; status != http.StatusOK {
			t.Errorf("a logout token got %d", status)
		}
	}
	w.expect(phone.get("/"), http.StatusFound)
	w.expect(laptop.get("/"), http.StatusFound)
	w.expect(other.get("/"), http.StatusOK)
}
