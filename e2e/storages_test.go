package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Some of what is asked of a storage.
const (
	atOnce    = "of several that take a lock at once"
	waits     = "a lock that is held is waited for"
	patience  = "a lock ends its waiting with its context"
	recursive = "a recursive listing shows"
	flat      = "a listing that is not recursive shows"
	stat      = "Stat tells a key's size, and a missing one"
	exists    = "Exists tells keys and folders"
	folders   = "deleting a folder deletes what is in it"
)

// TestStorages: what the doctor says of each engine, and whether people notice which of them it is: logins that
// begin at one node and end at the other, renewals, two hundred requests at once, logouts, a node that is killed
// and started again, the list of sessions, revocation, and the engine jammed and gone for a time. What is found is
// what docs/clusters.md says, where the last two columns, of the date, are to be written by hand.
func TestStorages(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile(filepath.Join("..", "docs", "clusters.md"))
	if err != nil {
		t.Fatal(err)
	}
	for engine, tried := range map[string]struct {
		module, version string // of the engine, and of what it is at
		warned, faults  []string
		said            string // in the docs
	}{
		"files": {"github.com/caddyserver/certmagic", "", nil, nil, "nothing | nothing"},
		"redis": {
			"github.com/pberkel/caddy-storage-redis", "redis-server --version",
			nil, []string{folders}, "nothing | deleting folders",
		},
		"postgres": {
			"github.com/travisjeffery/certmagic-sqlstorage", "psql --version",
			[]string{atOnce, waits}, []string{atOnce, waits, recursive, flat, stat, exists, folders},
			"locks do not exclude, and are not waited for | listings, folders, missing keys in `Stat`",
		},
		"s3": {
			"github.com/techknowlogick/certmagic-s3", "go list -m github.com/johannesboyne/gofakes3",
			[]string{atOnce, patience}, []string{atOnce, patience, recursive, flat, stat, exists, folders},
			"locks do not exclude, and are waited for without end | listings, folders, missing keys in `Stat`",
		},
	} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, engine, 2, inCookie, inStorage, refreshing("refresh", 8*time.Second))
			c.askDoctor(tried.warned)
			c.askFaults(tried.faults)
			starts := map[bool]string{true: "yes", false: "no"}[c.tryScenario()]
			module := output(t, "go list -m "+tried.module)
			row := strings.Join([]string{"| " + module, tried.said, "all of it", starts}, " | ")
			row = strings.Replace(row, "github.com/", "", 1)
			t.Logf("%s | %s | %s |", row, output(t, tried.version), time.Now().Format(time.DateOnly))
			if !strings.Contains(string(docs), row) {
				t.Errorf("docs/clusters.md does not say so")
			}
		})
	}
}

// output returns what a command prints, on one line.
func output(t *testing.T, command string) string {
	t.Helper()
	args := strings.Fields(command)
	if len(args) == 0 {
		return ""
	}
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// askDoctor has the doctor examine the storage. The warnings may be those; which of two instances has
// a lock first is a matter of chance.
func (c *cluster) askDoctor(warned []string) {
	c.t.Helper()
	began := time.Now()
	n := c.nodes[0]
	out, _ := n.command("aventus-auth", "doctor", "--json", "--config", n.file, "--adapter", "caddyfile").Output()
	took := time.Since(began)
	var doc struct {
		Checks []struct{ Check, Status, Detail, Next string }
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	passed := make(map[string]bool)
	for _, check := range doc.Checks {
		if check.Check != "storage" && check.Check != "keys" {
			continue
		}
		c.t.Logf("%s %s: %s; %s", check.Status, check.Check, check.Detail, check.Next)
		isKnown := slices.ContainsFunc(warned, func(w string) bool { return strings.Contains(check.Detail, w) })
		switch {
		case check.Status == "pass":
			passed[check.Check] = true
		case check.Status != "warn" || !isKnown:
			c.t.Errorf("not expected: %+v", check)
		}
	}
	if !passed["storage"] || !passed["keys"] || took > 20*time.Second {
		c.t.Errorf("after %s, it passed %v", took, passed)
	}
}

// askFaults makes all checks of the storage, of which the doctor makes those that matter here. Which of two
// instances has a lock first is a matter of chance.
func (c *cluster) askFaults(faults []string) {
	c.t.Helper()
	out, err := c.nodes[0].command("storage-faults", c.nodes[0].file).Output()
	if err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	for fault := range strings.Lines(string(out)) {
		c.t.Log("fails: ", strings.TrimSpace(fault))
		if !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(fault, f) }) {
			c.t.Errorf("not expected: %s", fault)
		}
	}
	for _, f := range faults {
		if f != atOnce && !strings.Contains("\n"+string(out), "\n"+f) {
			c.t.Errorf("it does not fail: %s", f)
		}
	}
}

func (c *cluster) tryScenario() (startsWithout bool) {
	t := c.t
	for _, site := range []string{"cookie", "storage", "refresh"} {
		b := c.browser(site)
		c.expect(b.visit(1, b.begin(0)), http.StatusOK, site+": a login that ends at another node")
		for n := range c.nodes {
			c.expect(b.fetch(n), http.StatusOK, site)
		}
	}

	// Two hundred at once, of ten sessions that are due to be renewed.
	var renewing []*browser
	for range 10 {
		renewing = append(renewing, c.login("refresh"))
	}
	before := c.issuers["refresh"].Refreshes()
	time.Sleep(5 * time.Second)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if a := renewing[i%len(renewing)].fetch(i / len(renewing) % 2); a.status != http.StatusOK {
				t.Errorf("one of 200 at once: %s", a)
			}
		})
	}
	all.Wait()
	eventually(t, "each was renewed", func() bool { return c.issuers["refresh"].Refreshes() >= before+len(renewing) })
	time.Sleep(4 * time.Second) // beyond the life of the first tokens
	for _, b := range renewing {
		for n := range c.nodes {
			c.expect(b.fetch(n), http.StatusOK, "after its renewal")
		}
	}

	// Logouts, and a node that starts again and has to know them.
	var ended []*browser
	for _, site := range []string{"cookie", "storage", "refresh"} {
		b := c.login(site)
		copied := b.copy()
		c.expect(copied.fetch(1), http.StatusOK, "a copy of the cookie")
		began := time.Now()
		c.expect(b.send(0, "/logout", "navigate"), http.StatusOK, "the logout")
		c.becomes(copied, 1, http.StatusUnauthorized, site+": the other node knows of a logout")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: the other node knew of the logout after %s", site, took)
		}
		ended = append(ended, copied)
	}
	living := []*browser{c.login("cookie"), c.login("storage"), c.login("refresh")}
	orphan := c.killWhileRenewing(1)
	c.nodes[1].start()
	c.nodes[1].await()
	given := make(chan string)
	go func() { given <- orphan() }()
	for _, b := range living {
		c.expect(b.fetch(1), http.StatusOK, b.site+" after a restart")
	}
	for _, b := range ended {
		c.expect(b.fetch(1), http.StatusUnauthorized, b.site+", which has ended, after a restart")
	}

	// The list, and revocation.
	sessions := func() []string {
		out, err := c.nodes[0].command("aventus-auth", "sessions", "--address", c.nodes[0].admin).Output()
		var list []struct{ ID, Site string }
		if err != nil || json.Unmarshal(out, &list) != nil {
			t.Fatalf("the list of sessions: %v, %s", err, out)
		}
		var ids []string
		for _, s := range list {
			if s.Site == c.origin("storage") {
				ids = append(ids, s.ID)
			}
		}
		return ids
	}
	if n := len(sessions()); n != 2 {
		t.Errorf("%d sessions are listed, want 2", n)
	}
	b := c.login("storage")
	b.user = ""
	for _, id := range sessions() {
		n := c.nodes[1]
		out, err := n.command("aventus-auth", "revoke", "--id", id, "--address", n.admin).CombinedOutput()
		if err != nil {
			t.Errorf("revoking: %v, %s", err, out)
		}
	}
	c.becomes(b, 0, http.StatusUnauthorized, "it is revoked")
	// The node that lists them learns of one after the other.
	eventually(t, "no session is listed", func() bool { return len(sessions()) == 0 })

	c.tryReload(1) // the other one waits for the dead node's session
	if wrong := <-given; wrong != "" {
		t.Error(wrong)
	}
	// certmagic-s3 leaves a loop behind where a lock was waited for in vain.
	c.nodes[0].kill()
	c.nodes[0].start()
	c.nodes[0].await()
	c.tryJam()
	return c.tryOutage()
}

// killWhileRenewing kills a node that holds the lock of a session, whose refresh token it has sent. The function that
// it returns waits until node 0 has given up on that session, which ends, and tells what else it saw.
func (c *cluster) killWhileRenewing(node int) (orphan func() string) {
	c.t.Helper()
	b := c.login("refresh")
	sent, dead := make(chan struct{}, 1), make(chan struct{})
	c.issuers["refresh"].Fault(func(_ http.ResponseWriter, r *http.Request) bool {
		if !isFrom(r, node) {
			return false
		}
		select {
		case sent <- struct{}{}:
		default:
		}
		<-dead
		panic(http.ErrAbortHandler)
	})
	eventually(c.t, "it is being renewed", func() bool { // as soon as half of the token's life has passed
		b.fetch(node)
		return len(sent) > 0
	})
	c.nodes[node].kill()
	close(dead)
	c.issuers["refresh"].Fault(nil)
	killed := time.Now()
	return func() string {
		for seen := make(map[string]int); ; time.Sleep(100 * time.Millisecond) {
			a := b.fetch(0)
			if a.status == http.StatusUnauthorized {
				c.t.Logf("the session that a dead node was renewing ended %s later, after %v",
					time.Since(killed).Round(time.Millisecond), seen)
				return ""
			}
			seen[a.String()]++
			isPatient := a.status == http.StatusOK || a.status == http.StatusServiceUnavailable
			if !isPatient || time.Since(killed) > time.Minute {
				return fmt.Sprintf("the session that a dead node was renewing gets %v, the last %s", seen, a)
			}
		}
	}
}

// tryReload reloads a node's config while it renews sessions.
func (c *cluster) tryReload(node int) {
	var renewing []*browser
	for range 10 {
		renewing = append(renewing, c.login("refresh"))
	}
	issuer := c.issuers["refresh"]
	before := issuer.Refreshes()
	var asked atomic.Int32
	reloaded := make(chan struct{})
	issuer.Fault(func(http.ResponseWriter, *http.Request) bool {
		asked.Add(1)
		select {
		case <-reloaded:
		case <-time.After(2 * time.Second): // the reload may wait for it
		}
		return false
	})
	time.Sleep(5 * time.Second) // more than half of a token's life
	var all sync.WaitGroup
	for _, b := range renewing {
		all.Go(func() {
			if a := b.fetch(node); a.status != http.StatusOK {
				c.t.Errorf("renewing during a reload: %s", a)
			}
		})
	}
	eventually(c.t, "sessions are being renewed", func() bool { return asked.Load() > 0 })
	n := c.nodes[node]
	out, err := n.command("reload", "--force", "--config", n.file, "--adapter", "caddyfile", "--address",
		n.admin).CombinedOutput()
	if err != nil {
		c.t.Errorf("reloading: %v\n%s", err, out)
	}
	close(reloaded)
	all.Wait()
	issuer.Fault(nil)
	eventually(c.t, "each was renewed", func() bool { return issuer.Refreshes() >= before+len(renewing) })
	time.Sleep(4 * time.Second) // beyond the life of the first tokens
	for _, b := range renewing {
		for n := range c.nodes {
			c.expect(b.fetch(n), http.StatusOK, "renewed during a reload")
		}
	}
}

// tryJam has the storage answer no more for some seconds.
func (c *cluster) tryJam() {
	inCookies, leaving := c.login("cookie"), c.login("cookie")
	copied := leaving.copy()
	for n := range c.nodes {
		c.expect(inCookies.fetch(n), http.StatusOK, "before the jam")
		c.expect(copied.fetch(n), http.StatusOK, "before the jam")
	}
	over := c.storage.jam()
	if over == nil {
		return
	}
	for n := range c.nodes {
		began := time.Now()
		c.expect(inCookies.fetch(n), http.StatusOK, "a session in its cookie, during the jam")
		c.expectWithin(time.Since(began), time.Second, "a session in its cookie")
	}
	began := time.Now()
	c.expect(leaving.send(0, "/logout", "navigate"), http.StatusServiceUnavailable, "a logout, during the jam")
	c.expectWithin(time.Since(began), 7*time.Second, "a logout")
	c.expect(copied.fetch(0), http.StatusUnauthorized, "the same node after it")
	over()
	c.becomes(copied, 1, http.StatusUnauthorized, "the logout is known after the jam")
}

// becomes waits until a browser gets a status at a node. Where it does not, it says what came instead.
func (c *cluster) becomes(b *browser, node, status int, what string) {
	c.t.Helper()
	seen := make(map[string]int)
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		a := b.fetch(node)
		if a.status == status {
			return
		}
		seen[a.String()]++
	}
	c.t.Fatalf("%s: it does not come to %d, but gets %v", what, status, seen)
}

func (c *cluster) expectWithin(took, limit time.Duration, what string) {
	c.t.Helper()
	if took > limit {
		c.t.Errorf("%s took %s", what, took)
	}
}

// tryOutage takes the storage away for some seconds. It reports whether Caddy starts, and reloads, meanwhile.
func (c *cluster) tryOutage() (starts bool) {
	t := c.t
	inCookies, leaving, arriving := c.login("cookie"), c.login("cookie"), c.browser("cookie")
	copied := leaving.copy()
	for n := range c.nodes {
		c.expect(inCookies.fetch(n), http.StatusOK, "before the outage")
		c.expect(copied.fetch(n), http.StatusOK, "before the outage")
	}
	unknown := c.browser("storage")
	c.expect(unknown.visit(0, "/"), http.StatusOK, "before the outage")
	callback := arriving.begin(0)

	back := c.storage.away()
	starts = c.startsWithout()
	for n := range c.nodes {
		c.expect(inCookies.fetch(n), http.StatusOK, "a session in its cookie, during the outage")
	}
	c.expect(unknown.fetch(1), http.StatusServiceUnavailable, "a session in the storage, during the outage")
	c.expect(arriving.send(0, callback, "navigate"), http.StatusServiceUnavailable, "a callback, during the outage")
	began := time.Now()
	c.expect(leaving.send(0, "/logout", "navigate"), http.StatusServiceUnavailable, "a logout, during the outage")
	c.expectWithin(time.Since(began), 7*time.Second, "a logout")
	back()
	c.becomes(unknown, 1, http.StatusOK, "the session in the storage is back")
	eventually(t, "the callback is good", func() bool { return arriving.visit(0, callback).status == http.StatusOK })
	c.becomes(copied, 1, http.StatusUnauthorized, "the logout is known after the outage")
	for n := range c.nodes {
		c.expect(inCookies.fetch(n), http.StatusOK, "after the outage")
	}
	return starts
}

// startsWithout reports whether Caddy loads the config while the storage is away.
func (c *cluster) startsWithout() bool {
	var wait sync.WaitGroup
	var starts, reloads bool
	wait.Go(func() {
		cmd := c.nodes[0].command("validate", "--config", c.nodes[0].file, "--adapter", "caddyfile")
		starts = cmd.Run() == nil
	})
	wait.Go(func() {
		n := c.nodes[1]
		cmd := n.command("reload", "--force", "--config", n.file, "--adapter", "caddyfile", "--address", n.admin)
		reloads = cmd.Run() == nil
	})
	wait.Wait()
	if starts != reloads {
		c.t.Errorf("it starts: %t; it reloads: %t", starts, reloads)
	}
	return starts
}
