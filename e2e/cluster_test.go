// Package e2e tests clusters: two and three real Caddys that share a storage, in
// files and in a real Redis. And it tests the module beside parts that others made: a
// browser, authorization servers, PHP.
package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// onEngines runs a test on each storage engine, at the same time as others.
func onEngines(t *testing.T, test func(t *testing.T, engine string)) {
	t.Parallel()
	for _, engine := range []string{"files", "redis"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, engine)
		})
	}
}

// TestStart: instances that start at the same instant on an empty storage agree on
// one key. Who logs in at one goes on at another, also in the middle of the login.
func TestStart(t *testing.T) {
	onEngines(t, func(t *testing.T, engine string) {
		const rounds = 3
		sites := []site{inCookie, inStorage, refreshing("refresh", time.Hour)}
		for range rounds {
			c := newCluster(t, engine, 3, sites...)
			var wait sync.WaitGroup
			for n := range c.nodes {
				for _, s := range sites {
					wait.Go(func() {
						b := c.browser(s.name)
						callback := b.begin(n)
						if a := b.visit((n+1)%3, callback); a.status != http.StatusOK {
							t.Errorf("%s: the callback at another node: %s", s.name, a)
						}
						for other := range c.nodes {
							if a := b.fetch(other); a.status != http.StatusOK {
								t.Errorf("%s: node %d: %s", s.name, other, a)
							}
						}
					})
				}
			}
			wait.Wait()
			for name, i := range c.issuers {
				if n := len(i.AuthorizeRequests()); n != len(c.nodes) {
					t.Errorf("%s: %d logins were begun, want %d", name, n, len(c.nodes))
				}
			}
		}
		t.Logf("%d times 3 nodes started on an empty storage; 9 logins each, begun at one node and finished at "+
			"the next", rounds)
	})
}

// TestRenewUnderLoad: many browsers with short tokens, each with several requests
// at a time.
func TestRenewUnderLoad(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			onEngines(t, func(t *testing.T, engine string) {
				c := newCluster(t, engine, nodes, refreshing("refresh", 4*time.Second))
				issuer := c.issuers["refresh"]
				issuer.Fault(func(http.ResponseWriter, *http.Request) bool {
					time.Sleep(50 * time.Millisecond) // a real one is no faster
					return false
				})
				load := newLoad("load")
				const browsers = 30
				for range browsers {
					load.add(c.login("refresh"), 3, 150*time.Millisecond)
				}
				time.Sleep(12 * time.Second)
				load.end(t)
				load.only(t, "load, refresh", "200")
				n := issuer.Refreshes()
				t.Logf("%d browsers, %d renewals", browsers, n)
				if n < browsers*4 {
					t.Errorf("%d renewals are too few", n)
				}
			})
		})
	}
}

// TestLogout: a session that was ended at one node, by the person or by a logout token
// of the authorization server, is refused by the others within 10 s.
func TestLogout(t *testing.T) {
	onEngines(t, func(t *testing.T, engine string) {
		sites := []site{inCookie, inStorage, refreshing("refresh", time.Hour)}
		for i := range sites {
			sites[i].block += "\nscope openid\nprofile /me\nbackchannel_logout /ended"
		}
		c := newCluster(t, engine, 3, sites...)
		var wait sync.WaitGroup
		var learned slowest
		for _, s := range sites {
			for n := range 2 * len(c.nodes) {
				isTold := n >= len(c.nodes)
				n %= len(c.nodes)
				b := c.login(s.name)
				stolen := b.copy()
				for other := range c.nodes {
					c.expect(stolen.fetch(other), http.StatusOK, "a copy of the cookie")
				}
				began := time.Now()
				if isTold {
					c.tellOut(b, n)
				} else {
					c.expect(b.send(n, "/logout", "navigate"), http.StatusOK, "the logout")
				}
				c.expect(stolen.fetch(n), http.StatusUnauthorized, "the same node after it")
				for other := range c.nodes {
					wait.Go(func() {
						for stolen.fetch(other).status != http.StatusUnauthorized {
							if time.Since(began) > 10*time.Second {
								t.Errorf("%s: node %d lets it in 10 s after its end at node %d (told: %t)",
									s.name, other, n, isTold)
								return
							}
							time.Sleep(50 * time.Millisecond)
						}
						if other != n {
							learned.note(time.Since(began))
						}
					})
				}
			}
		}
		wait.Wait()
		t.Logf("%d logouts, each known at both other nodes after %s at most", 2*len(sites)*len(c.nodes),
			learned.time())
	})
}

// tellOut ends the authorization server's session of a browser there, and the logout
// token goes to one node.
func (c *cluster) tellOut(b *browser, n int) {
	c.t.Helper()
	var me struct{ Claims struct{ Sid string } }
	if a := b.send(n, "/me", "cors"); json.Unmarshal([]byte(a.whose), &me) != nil || me.Claims.Sid == "" {
		c.t.Fatalf("the profile is %s", a)
	}
	i := c.issuers[b.site]
	i.LogoutTransport = toNode{c.air, n}
	d := i.Deliver(c.origin(b.site)+"/ended", "the-client", i.LogoutToken("the-client", "", me.Claims.Sid))
	if d.Status != http.StatusOK {
		c.t.Fatalf("node %d answers a logout token with %d %s, %v", n, d.Status, d.Body, d.Err)
	}
}

// toNode sends requests to one node, past the balancer's choice.
type toNode struct {
	http.RoundTripper
	node int
}

func (to toNode) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Node", strconv.Itoa(to.node))
	return to.RoundTripper.RoundTrip(r)
}

// slowest is the longest of several times.
type slowest struct{ nanoseconds atomic.Int64 }

func (s *slowest) time() time.Duration {
	return time.Duration(s.nanoseconds.Load()).Round(time.Millisecond)
}

func (s *slowest) note(d time.Duration) {
	for {
		was := s.nanoseconds.Load()
		if int64(d) <= was || s.nanoseconds.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

// TestKill: an instance is killed in the middle of a login and of a renewal. The
// others go on, and no session is lost but the one that was being renewed.
func TestKill(t *testing.T) {
	onEngines(t, func(t *testing.T, engine string) {
		// A lock in files goes stale within 10 s, and who has waited for it in vain
		// tries again 10 s later; meanwhile, the tokens live.
		const tokens, browsers = 46 * time.Second, 24
		c := newCluster(t, engine, 3, inCookie, refreshing("refresh", tokens), refreshing("held", 10*time.Second))
		var lastRenewal atomic.Int64 // by node 0
		c.issuers["refresh"].Fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if isFrom(r, 0) {
				lastRenewal.Store(time.Now().UnixNano())
			}
			return false
		})
		load := newLoad("before")
		began := time.Now()
		for range browsers { // so there will be a renewal every half second
			load.add(c.login("refresh"), 2, 200*time.Millisecond)
			time.Sleep(500 * time.Millisecond)
		}
		for range 4 {
			load.repeat(20*time.Millisecond, func() (*browser, answer) {
				b := c.browser("cookie")
				return b, b.visit(anyNode, "/")
			})
		}

		time.Sleep(time.Until(began.Add(tokens / 2)))

		// Node 0 waits for the authorization server, with a renewal and with a login.
		held := c.issuers["held"]
		renewing, loggingIn := c.login("held"), c.browser("held")
		callback := loggingIn.begin(0)
		time.Sleep(5500 * time.Millisecond) // more than half of the token's life
		entered, dead := make(chan struct{}, 2), make(chan struct{})
		held.Fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if !isFrom(r, 0) {
				return false
			}
			entered <- struct{}{}
			<-dead
			panic(http.ErrAbortHandler)
		})
		c.expect(renewing.fetch(0), http.StatusOK, "while it is renewed")
		<-entered
		loggedIn := make(chan answer)
		go func() { loggedIn <- loggingIn.visit(0, callback) }()
		<-entered

		load.enter("killed")
		c.nodes[0].kill()
		close(dead)
		killed := time.Now()
		inTheMiddle := killed.Sub(time.Unix(0, lastRenewal.Load())) < 500*time.Millisecond
		c.expect(<-loggedIn, http.StatusOK, "the login that was under way")
		t.Logf("the login that was under way ended well after %s", time.Since(killed).Round(time.Millisecond))

		// The session that was being renewed lasts as long as its token.
		seen := make(map[string]int)
		a := renewing.fetch(anyNode)
		for ; a.status != http.StatusUnauthorized && time.Since(killed) < 40*time.Second; a = renewing.fetch(anyNode) {
			seen[a.String()]++
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("the session that was being renewed got %v, then %s after %s", seen, a,
			time.Since(killed).Round(time.Millisecond))
		c.expect(a, http.StatusUnauthorized, "the session that was being renewed")
		if n := held.Refreshes(); n != 1 {
			t.Errorf("its refresh token was sent %d times", n)
		}
		// Each node comes to that for itself, and says 503 until it does: 10 s from when
		// it first had to wait, and 5 s for the lock.
		again := renewing.visit(anyNode, "/")
		for deadline := time.Now().Add(20 * time.Second); again.status == http.StatusServiceUnavailable &&
			time.Now().Before(deadline); {
			time.Sleep(100 * time.Millisecond)
			again = renewing.visit(anyNode, "/")
		}
		c.expect(again, http.StatusOK, "logging in again")

		time.Sleep(time.Until(killed.Add(22 * time.Second)))
		load.enter("started again")
		c.nodes[0].start()
		c.nodes[0].await()
		time.Sleep(3 * time.Second)
		load.end(t)
		for _, phase := range []string{"before", "killed", "started again"} {
			load.only(t, phase+", cookie", "200")
			if phase == "killed" && inTheMiddle {
				t.Log("node 0 was renewing another session, too")
				continue
			}
			load.only(t, phase+", refresh", "200")
		}
		if len(load.lost) > 1 || len(load.lost) == 1 && !inTheMiddle {
			t.Errorf("%d sessions are lost", len(load.lost))
		}
		t.Logf("%d renewals, %d logins", c.issuers["refresh"].Refreshes(), len(c.issuers["cookie"].TokenRequests()))
	})
}

// isFrom reports whether a node has sent a token request.
func isFrom(r *http.Request, node int) bool {
	return strings.HasPrefix(r.Host, fmt.Sprintf("127.0.0.%d:", node+1))
}

// TestOutage: Redis stands still, or is killed and started again. Sessions in cookies
// do not notice. The others may have to wait, but none is lost.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(*redis) (over func()){
		"stopped": func(r *redis) func() {
			r.signal(syscall.SIGSTOP)
			return func() { r.signal(syscall.SIGCONT) }
		},
		"killed": func(r *redis) func() {
			r.kill()
			return func() { r.start(); r.await() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, "redis", 2, inCookie, inStorage, refreshing("refresh", 4*time.Second),
				refreshing("caught", 6*time.Second))
			c.issuers["refresh"].Fault(func(http.ResponseWriter, *http.Request) bool {
				time.Sleep(100 * time.Millisecond)
				return false
			})
			load := newLoad("before")
			for range 10 {
				for _, site := range []string{"cookie", "storage", "refresh"} {
					load.add(c.login(site), 2, 150*time.Millisecond)
				}
			}
			// Node 1 does not know these sessions.
			stranger, renewing := c.browser("storage"), c.browser("refresh")
			c.expect(stranger.visit(0, "/"), http.StatusOK, "logging in at node 0")
			c.expect(renewing.visit(0, "/"), http.StatusOK, "logging in at node 0")
			// The outage begins in the middle of this one's renewal.
			caught, entered, leave := c.login("caught"), make(chan struct{}), make(chan struct{})
			time.Sleep(4 * time.Second)
			c.issuers["caught"].Fault(func(http.ResponseWriter, *http.Request) bool {
				entered <- struct{}{}
				<-leave
				return false
			})
			c.expect(caught.fetch(0), http.StatusOK, "while it is renewed")
			<-entered

			load.enter("outage")
			began := time.Now()
			over := outage(c.redis)
			c.issuers["caught"].Fault(nil)
			close(leave)
			time.Sleep(time.Second)
			for _, b := range []*browser{stranger, renewing} {
				asked := time.Now()
				a := b.fetch(1)
				t.Logf("a session at %s that is not in memory: %s after %s", b.site, a,
					time.Since(asked).Round(time.Millisecond))
				c.expect(a, http.StatusServiceUnavailable, "a session that is not in memory")
			}
			for _, site := range []string{"cookie", "storage", "refresh"} {
				b := c.browser(site)
				asked := time.Now()
				a := b.visit(1, "/")
				t.Logf("a login at %s: %s after %s", b.site, a, time.Since(asked).Round(time.Millisecond))
				c.expect(a, http.StatusServiceUnavailable, "a login")
			}
			time.Sleep(time.Until(began.Add(30 * time.Second)))
			load.enter("recovery")
			over()

			// A lock may have been left, which is waited for in vain for 5 s. What failed
			// is tried again after 10 s.
			ended := time.Now()
			for _, b := range []*browser{stranger, renewing, caught} {
				a := b.fetch(1)
				for a.status == http.StatusServiceUnavailable && time.Since(ended) < 20*time.Second {
					time.Sleep(50 * time.Millisecond)
					a = b.fetch(1)
				}
				t.Logf("the session at %s: %s, %s after the outage", b.site, a,
					time.Since(ended).Round(time.Millisecond))
				if a.status != http.StatusOK {
					t.Errorf("the session at %s is lost: %s", b.site, a)
				}
			}
			load.add(caught, 2, 150*time.Millisecond)
			time.Sleep(time.Until(ended.Add(20 * time.Second)))
			load.enter("after")
			time.Sleep(5 * time.Second)
			load.end(t)
			var recovered time.Duration
			for _, failed := range load.failed {
				if late := failed.Sub(ended); late > 0 {
					recovered = max(recovered, late)
				}
			}
			t.Logf("the last failure was %s after the outage", recovered.Round(time.Millisecond))
			if n := len(load.lost); n > 0 {
				t.Errorf("%d sessions are lost", n)
			}
			for _, phase := range []string{"before", "outage", "recovery", "after"} {
				load.only(t, phase+", cookie", "200")
			}
			load.only(t, "after, caught", "200")
			for _, phase := range []string{"before", "after"} {
				load.only(t, phase+", storage", "200")
				load.only(t, phase+", refresh", "200")
			}
			for _, phase := range []string{"outage", "recovery"} {
				load.only(t, phase+", storage", "200", "503 storage_unavailable")
				load.only(t, phase+", refresh", "200", "503 storage_unavailable", "503 renewal_unavailable")
			}
			for site := range c.issuers {
				c.login(site)
			}
		})
	}
}
