package aventusauth

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"
)

// groupOfHosts is a handler whose login three hosts share, by a name and by a wildcard.
func groupOfHosts(f *testing.F) *bare {
	f.Helper()
	return newBare(f, Config{
		RedirectURI: "https://login.example.com/oauth2/callback", Hosts: []string{
			"app.example.com", "*.team.example.org",
		},
	})
}

// isOfGroup is what hostGroup.has reports of that group, written otherwise.
func isOfGroup(host string) bool {
	label, isBelow := strings.CutSuffix(host, ".team.example.org")
	return host == "login.example.com" || host == "app.example.com" || isBelow && label != "" &&
		!strings.Contains(label, ".")
}

// namedBy returns the host that a Host header names, or "" for what is left to the tables of TestHostName.
func namedBy(header string) string {
	host, _, hasPort := strings.Cut(header, ":")
	if strings.Count(header, ":") > 1 || strings.ContainsAny(header, "[]") || hasPort && strings.HasSuffix(host, ".") {
		return ""
	}
	return strings.ToLower(strings.TrimRight(host, "."))
}

// aVisit is a page visit at a host, in the browser of a binding cookie.
func aVisit(host, returnTo, binding string) *visit {
	return &visit{asked: time.Unix(1_800_000_000, 0), browser: browserOf(binding), host: host, returnTo: returnTo}
}

const (
	aBinding  = "AAAAAAAAAAAAAAAAAAAAAA"
	bindingIs = "__Host-aventus_login=" + aBinding + ".1799999999"
)

// FuzzHostRequest looks for a request for a ticket, as it is before it is sealed, that leads a browser to a
// host that is not listed, or anywhere but to the authorization server and to the host that asks; and for one
// that comes back as another one than it was. The Host header is any.
func FuzzHostRequest(f *testing.F) {
	b := groupOfHosts(f)
	at := *b.house.gate.sites.fixed
	for _, v := range []*visit{
		aVisit("app.example.com", "/page?x=1", aBinding), aVisit("a.team.example.org", "//evil.test/", aBinding),
		aVisit("evil.test", "/", aBinding), aVisit("a.b.team.example.org", "/", aBinding),
		aVisit("team.example.org", "/", aBinding),
		aVisit("login.example.com", "/\\evil.test", aBinding), aVisit("app.example.com.", "/", aBinding),
		aVisit("app.example.com:444", "/", aBinding), aVisit("app.example.com/@evil.test", "/", aBinding),
	} {
		plaintext, err := v.marshal()
		if err != nil {
			f.Fatal(err)
		}
		for _, host := range []string{
			"login.example.com", "LOGIN.example.com.", "login.example.com:8443", "app.example.com", "evil.test",
		} {
			f.Add(plaintext, host, false)
			f.Add(plaintext, host, true)
		}
		f.Add(plaintext[:len(plaintext)-len(v.returnTo)], "login.example.com", true)
		v.aim = toEndSession
		if plaintext, err = v.marshal(); err != nil {
			f.Fatal(err)
		}
		f.Add(plaintext, "login.example.com", false)
		f.Add(plaintext, "login.example.com", true)
	}
	f.Fuzz(func(t *testing.T, plaintext []byte, host string, signedIn bool) {
		defer b.forget()
		v, isVisit := parseVisit(plaintext, b.clock.Now())
		if isVisit != (v != nil) {
			t.Fatalf("half of a request came out: %+v", v)
		}
		if isVisit {
			if again, err := v.marshal(); err != nil || !bytes.Equal(again, plaintext) {
				t.Fatalf("the request became %x, %v", again, err)
			}
		}
		if _, isTicket := parseTicket(plaintext, b.clock.Now()); isTicket && isVisit {
			t.Fatal("it is both a request and a ticket")
		}
		sealed, err := b.house.handOvers.requests.box.Seal(t.Context(), plaintext, at.group)
		if err != nil {
			t.Fatal(err)
		}
		cookie := bindingIs
		if signedIn {
			cookie += "; " + b.signInShared(t, at, fixedSession())
		}
		a, ok := b.serve(t, "GET", "/oauth2/callback?"+requestParam+"="+sealed, host, "Cookie", cookie,
			"Sec-Fetch-Mode", "navigate")
		if !ok {
			return // net/http's 400
		}
		if b.passed || a.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("passed on: %t, header %v", b.passed, a.Header)
		}
		if a.cookie("__Host-aventus_session") != nil {
			t.Fatalf("a request sets a session: %v", a.Header)
		}
		where := namedBy(host)
		taken := isVisit && isOfGroup(v.host) && where == "login.example.com"
		leaves := taken && v.aim == toEndSession
		// A host that has asked so often has other limits than the login host: a new login may help.
		hasSession := taken && signedIn && (v.restarts < maxRounds-1 || leaves)
		switch {
		case where == "": // a host spelt in an odd way, which may be the login host's all the same
		case !isOfGroup(where):
			if a.StatusCode != http.StatusMisdirectedRequest {
				t.Fatalf("%s answers %d", host, a.StatusCode)
			}
		case !taken && (a.StatusCode != http.StatusBadRequest || a.location() != ""):
			t.Fatalf("status %d, to %s", a.StatusCode, a.location())
		case hasSession &&
			!strings.HasPrefix(a.location(), "https://"+v.host+"/oauth2/callback?"+ticketParam+"="):
			t.Fatalf("status %d, to %s", a.StatusCode, a.location())
		case leaves && !hasSession && !strings.HasPrefix(a.location(), "https://"+v.host+v.returnTo+"?ended="):
			t.Fatalf("status %d, to %s", a.StatusCode, a.location())
		case taken && !leaves && !hasSession &&
			!strings.HasPrefix(a.location(), "https://auth.homelyfe.com/authorize?"):
			t.Fatalf("status %d, to %s", a.StatusCode, a.location())
		}
		if a.location() == "" {
			return
		}
		origin := landsAt(t, "https://login.example.com", a.location())
		isTheirs := v != nil && isOfGroup(v.host) && origin == "https://"+strings.ToLower(v.host)
		if origin != "https://auth.homelyfe.com" && !isTheirs {
			t.Fatalf("it leads to %s", a.location())
		}
		// A ticket is good at its host alone, and says what was asked for.
		ticket := query(a.location(), ticketParam)
		if ticket == "" {
			return
		}
		for _, name := range []string{
			"login.example.com", "app.example.com", "a.team.example.org", "b.team.example.org", v.host,
		} {
			there, err := b.house.gate.sites.member(name)
			if err != nil {
				t.Fatal(err)
			}
			opened, err := b.house.handOvers.tickets.open(t.Context(), there, ticket)
			if (err == nil) != (name == v.host) {
				t.Fatalf("at %s: %+v, %v", name, opened, err)
			}
			if err == nil && (opened.visit.host != v.host || opened.visit.browser != v.browser ||
				opened.visit.returnTo != v.returnTo) {
				t.Fatalf("the ticket has %+v of %+v", opened.visit, v)
			}
		}
	})
}

// FuzzTicket looks for a ticket, as it is before it is sealed, that makes a session of anything but the session
// in it, or in another browser, or at another host; and for one that comes back as another one than it was.
func FuzzTicket(f *testing.F) {
	b := groupOfHosts(f)
	login := *b.house.gate.sites.fixed
	app, err := b.house.gate.sites.member("app.example.com")
	if err != nil {
		f.Fatal(err)
	}
	s := fixedSession()
	genuine := &handle{id: s.id, expires: s.expires, key: [32]byte([]byte("the key of the session's record!")),
		family: s.family}
	for _, d := range []*handle{
		genuine,
		{id: s.id, expires: s.expires, key: genuine.key},
		{id: s.id, expires: s.expires, family: s.family},
		{id: [16]byte{1}, expires: s.expires, key: genuine.key, family: s.family},
		{id: s.id, expires: 1_700_000_000, key: genuine.key, family: s.family},
	} {
		for _, v := range []*visit{
			aVisit("app.example.com", "/page?x=1", aBinding), aVisit("app.example.com", "//evil.test/", "another"),
			aVisit("evil.test", "/", aBinding), aVisit("app.example.com", "/", ""),
		} {
			plaintext, err := (&ticket{visit: v, handle: d}).marshal()
			if err != nil {
				f.Fatal(err)
			}
			for _, host := range []string{
				"app.example.com", "APP.example.com.", "app.example.com:1", "login.example.com",
				"a.team.example.org", "evil.test",
			} {
				f.Add(plaintext, host)
			}
			f.Add(plaintext[:len(plaintext)-len(v.returnTo)], "app.example.com")
		}
	}
	f.Fuzz(func(t *testing.T, plaintext []byte, host string) {
		defer b.forget()
		made, isTicket := parseTicket(plaintext, b.clock.Now())
		if isTicket != (made != nil) {
			t.Fatalf("half of a ticket came out: %+v", made)
		}
		if isTicket {
			if again, err := made.marshal(); err != nil || !bytes.Equal(again, plaintext) {
				t.Fatalf("the ticket became %x, %v", again, err)
			}
		}
		if isTicket && made.visit.aim == toEndSession {
			return // for good, and with it the session of all other inputs: see TestForcedLogoutByARequest
		}
		if err := b.house.keeper.store.put(t.Context(), login, genuine, s); err != nil {
			t.Fatal(err)
		}
		sealed, err := b.house.handOvers.tickets.box.Seal(t.Context(), plaintext, app.associated)
		if err != nil {
			t.Fatal(err)
		}
		where := namedBy(host)
		for again := range 2 {
			a, ok := b.serve(t, "GET", "/oauth2/callback?"+ticketParam+"="+sealed, host, "Cookie", bindingIs,
				"Sec-Fetch-Mode", "navigate")
			if !ok {
				return // net/http's 400
			}
			if b.passed || a.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("passed on: %t, header %v", b.passed, a.Header)
			}
			if a.location() != "" {
				if origin := landsAt(t, app.origin, a.location()); origin != app.origin && origin != login.origin {
					t.Fatalf("it leads to %s", a.location())
				}
			}
			isSession := isTicket && made.visit.browser == browserOf(aBinding) && made.handle.id == genuine.id &&
				made.handle.key == genuine.key && b.clock.Now().Before(made.handle.expires.time())
			isSession = isSession && again == 0
			// The record lies by its end: a handle that says another end may not find it.
			isGenuine := isSession && made.handle.expires == genuine.expires
			signedIn := a.cookie("__Host-aventus_session") != nil
			switch {
			case where == "":
			case where != "app.example.com" && (signedIn || a.StatusCode < 400):
				t.Fatalf("at %s, it gets %d %v", host, a.StatusCode, a.Header)
			case where == "app.example.com" && (signedIn && !isSession || isGenuine && !signedIn):
				t.Fatalf("time %d: a session: %t, and the ticket is %+v", again, signedIn, made)
			}
			if signedIn && a.location() != app.origin+made.visit.returnTo {
				t.Fatalf("back to %s", a.location())
			}
		}
	})
}

// fixedSession is a session that several hosts share.
func fixedSession() *session {
	began := time.Unix(1_800_000_000, 0)
	return &session{
		grant: grant{bearer: bearer + "opaque"}, id: [16]byte([]byte("the session's id")),
		family:  [16]byte([]byte("the browser's id")),
		created: toUnix(began), expires: toUnix(began.Add(time.Hour)), tokenCame: toUnix(began),
		tokenEnds: toUnix(began.Add(time.Hour)),
	}
}

// signInShared returns the Cookie header of a session that several hosts share.
func (b *bare) signInShared(t *testing.T, at site, s *session) string {
	t.Helper()
	d := &handle{id: s.id, expires: s.expires, key: [32]byte([]byte("the key of the session's record!")),
		family: s.family}
	if err := b.house.keeper.store.put(t.Context(), at, d, s); err != nil {
		t.Fatal(err)
	}
	plaintext, err := d.marshal()
	if err != nil {
		t.Fatal(err)
	}
	value, err := b.house.keeper.sessionBox.Seal(t.Context(), plaintext, at.associated)
	if err != nil {
		t.Fatal(err)
	}
	return b.house.keeper.cookies.session + "=" + value
}
