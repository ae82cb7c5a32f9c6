package aventusauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// begin begins a login of a page, and returns its state, and its binding cookie.
func (p *parts) begin(ls *logins, page string, headers ...string) (w http.Header, state, cookie string) {
	p.t.Helper()
	rec, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error {
		return ls.start(w, r, &login{returnTo: returnPath(r)}, http.StatusFound)
	}, p.request("GET", page, headers...))
	if got != "Found" {
		p.t.Fatalf("the login of %.50s: %s", page, got)
	}
	to, err := url.Parse(rec.Header().Get("Location"))
	if err != nil {
		p.t.Fatal(err)
	}
	cookie, _, _ = strings.Cut(rec.Header().Get("Set-Cookie"), ";")
	return rec.Header(), to.Query().Get("state"), cookie
}

// TestLoginBegins: what the browser takes to the authorization server, and what it keeps.
func TestLoginBegins(t *testing.T) {
	p := newParts(t)
	ls := p.logins()
	header, state, cookie := p.begin(ls, "/page?q=1")
	to, _ := url.Parse(header.Get("Location"))
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "the-client", "redirect_uri": bareSite + "/oauth2/callback",
		"code_challenge_method": "S256",
	} {
		if got := to.Query()[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(cookie, bindingName+"=") {
		t.Errorf("the answer is %v", header)
	}
	l, err := ls.open(p.request("GET", "/"), p.at(), state)
	if err != nil || l.returnTo != "/page?q=1" || l.restarts != 0 {
		t.Errorf("the state holds %+v, error %v", l, err)
	}

	// Another login of the same browser keeps its id; of another, it has its own.
	_, again, same := p.begin(ls, "/", "Cookie", cookie)
	_, other, another := p.begin(ls, "/")
	id := func(cookie string) string { return cookie[:len(bindingName)+10] }
	if id(same) != id(cookie) || id(another) == id(cookie) || again == state || other == state {
		t.Errorf("the cookies are %s, %s, %s", cookie, same, another)
	}

	// A long URL loses its query, then its path, and nothing else.
	for page, want := range map[string]string{
		"/page?" + strings.Repeat("q", 3000):            "/page",
		"/" + strings.Repeat("p", 3000) + "?q=" + state: "/",
	} {
		header, state, _ := p.begin(ls, page)
		l, err := ls.open(p.request("GET", "/"), p.at(), state)
		if err != nil || l.returnTo != want || len(header.Get("Location")) > maxAnswerHeader-otherFields {
			t.Errorf("%.20s: returns to %.20s with %d bytes, error %v", page, l.returnTo,
				len(header.Get("Location")), err)
		}
	}
}

// TestCallbackTells: which way a callback goes, by its parameters, its browser and its time. A code that is
// to be exchanged gets token_refused, since nothing listens at the token endpoint.
func TestCallbackTells(t *testing.T) {
	code := func(state string) map[string]string { return map[string]string{"state": state, "code": "a-code"} }
	for _, c := range []struct {
		what   string
		change func(p *parts, ls *logins, params map[string]string, cookies *[]string)
		want   string
		to     string // where a redirect leads: "login" or "page"
	}{
		{"as it should be", nil, "token_refused", ""},
		{"a changed state", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			params["state"] = flip(params["state"])
		}, "invalid_state", ""},
		{"neither code nor error", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			delete(params, "code")
		}, "invalid_callback", ""},
		{"code and error", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			params["error"] = "access_denied"
		}, "invalid_callback", ""},
		{"another issuer", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			params["iss"] = "https://evil.test/"
		}, "invalid_callback", ""},
		{"an error of another issuer", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			delete(params, "code")
			params["error"], params["iss"] = "access_denied", "https://evil.test/"
		}, "invalid_callback", ""},
		{"an error of no issuer", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			delete(params, "code")
			params["error"], params["iss"] = "access_denied", ""
		}, "invalid_callback", ""},
		{"an error of another issuer, to who is signed in",
			func(p *parts, _ *logins, params map[string]string, cookies *[]string) {
				delete(params, "code")
				params["error"], params["iss"] = "temporarily_unavailable", "https://evil.test/"
				_, cookie := p.session(nil)
				*cookies = append(*cookies, cookie)
			}, "invalid_callback", ""},
		{"an error", func(_ *parts, _ *logins, params map[string]string, _ *[]string) {
			delete(params, "code")
			params["error"] = "access_denied"
		}, "access_denied", ""},
		{"an error of this issuer", func(_ *parts, ls *logins, params map[string]string, _ *[]string) {
			delete(params, "code")
			params["error"], params["iss"] = "access_denied", ls.server.issuer
		}, "access_denied", ""},
		{"another browser", func(_ *parts, _ *logins, _ map[string]string, cookies *[]string) {
			*cookies = nil
		}, "Found", "login"},
		{"another browser, that is signed in", func(p *parts, _ *logins, _ map[string]string, cookies *[]string) {
			_, cookie := p.session(nil)
			*cookies = []string{cookie}
		}, "See Other", "page"},
		{"too late", func(p *parts, _ *logins, _ map[string]string, _ *[]string) {
			p.clock.Add(loginLifetime + time.Second)
		}, "Found", "login"},
		{"too late once more", func(p *parts, ls *logins, params map[string]string, _ *[]string) {
			l, err := ls.open(p.request("GET", "/"), p.at(), params["state"])
			if err != nil {
				p.t.Fatal(err)
			}
			l.restarts = maxRestarts
			if params["state"], err = ls.seal(p.t.Context(), p.at(), l, maxState); err != nil {
				p.t.Fatal(err)
			}
			p.clock.Add(loginLifetime + time.Second)
		}, "login_lost", ""},
		{"a second time", func(p *parts, ls *logins, params map[string]string, _ *[]string) {
			first, err := ls.used.Use(idOf("code", ls.server.issuer, params["code"]), idOf("state", params["state"]))
			if !first || err != nil {
				p.t.Fatal(first, err)
			}
		}, "Found", "login"},
		{"a second time, by who is signed in",
			func(p *parts, ls *logins, params map[string]string, cookies *[]string) {
				if first, err := ls.used.Use(idOf("state", params["state"])); !first || err != nil {
					p.t.Fatal(first, err)
				}
				_, cookie := p.session(nil)
				*cookies = append(*cookies, cookie)
			}, "See Other", "page"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := newParts(t)
			ls := p.logins()
			_, state, cookie := p.begin(ls, "/page")
			params, cookies := code(state), []string{cookie}
			if c.change != nil {
				c.change(p, ls, params, &cookies)
			}
			r := p.request("GET", "/oauth2/callback", "Cookie", strings.Join(cookies, "; "))
			w, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error {
				return ls.finish(w, r, p.at(), params)
			}, r)
			to := w.Header().Get("Location")
			leads := to == "" && c.to == "" || c.to == "page" && to == bareSite+"/page" ||
				c.to == "login" && strings.HasPrefix(to, "https://auth.example.com/authorize?")
			if got != c.want || !leads {
				t.Errorf("%s, to %q; want %s, to the %s", got, to, c.want, c.to)
			}
		})
	}
}

// TestStatesThatAreNone: a state of this site that holds no login which can be read, as one of another release, starts
// the login again at the root of the site, once, and in a browser alone in which one has begun.
func TestStatesThatAreNone(t *testing.T) {
	for what, seal := range map[string]func(*parts, *logins) (string, error){
		"no state": func(p *parts, ls *logins) (string, error) {
			return ls.states.box.Seal(p.t.Context(), []byte{99}, []byte(p.at().redirectURI))
		},
		"no login": func(p *parts, ls *logins) (string, error) {
			return ls.states.seal(p.t.Context(), p.at(), []byte{99})
		},
		"a login of another config": func(p *parts, ls *logins) (string, error) {
			at := p.at()
			at.group = []byte("another")
			return ls.states.seal(p.t.Context(), at, []byte{99})
		},
	} {
		p := newParts(t)
		ls := p.logins()
		_, _, cookie := p.begin(ls, "/page")
		state, err := seal(p, ls)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ mark, cookie, want string }{
			{"", cookie, "Found"}, {againMark, cookie, errLoginLost.code}, {"", "a=b", errState.code},
		} {
			w, got := p.finishing(ls, state+c.mark, c.cookie)
			if got != c.want {
				t.Errorf("%s%s, %s: %s, want %s", what, c.mark, c.cookie, got, c.want)
			}
			if to, _ := url.Parse(w.Header().Get("Location")); got == "Found" {
				l, err := ls.open(p.request("GET", "/"), p.at(), to.Query().Get("state"))
				if err != nil || l.returnTo != "/" || l.restarts != 1 {
					t.Errorf("%s: the login that follows is %+v, %v", what, l, err)
				}
			}
		}
	}
}

// TestCallbackOfAnotherBlock: of two blocks with one redirect URI, either gets the callbacks of its own logins, also
// behind a proxy that names the site otherwise, and none of a block at another host, or with another path.
func TestCallbackOfAnotherBlock(t *testing.T) {
	for _, c := range []struct {
		redirectURI, host string // of the other block, and of the request
		isItsOwn          bool
	}{
		{bareSite + "/oauth2/callback", "example.com", true},
		{bareSite + "/oauth2/callback", "behind.internal", true},
		{"https://behind.internal/oauth2/callback", "behind.internal", true},
		{"https://other.example.com/oauth2/callback", "behind.internal", false},
		{"https://other.example.com/oauth2/callback", "example.com", false},
		{bareSite + "/oauth2/another", "example.com", false},
	} {
		p := newParts(t)
		first := p.logins()
		own := p.sites
		p.sites = newSites(c.redirectURI, nil, []string{"https://auth.example.com/", "of another client"}, nil)
		second := p.logins()
		second.others = first.others
		for _, ls := range []*logins{first, second} {
			first.others.join(&handOvers{sites: ls.sites, logins: ls})
		}
		_, state, cookie := p.begin(second, "/page")
		p.sites = own
		r := p.request("GET", "/oauth2/callback", "Cookie", cookie)
		r.Host = c.host
		_, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error {
			return first.finish(w, r, p.at(), map[string]string{"state": state, "code": "a-code"})
		}, r)
		want := errState.code
		if c.isItsOwn {
			want = errToken.code
		}
		if got != want {
			t.Errorf("a login at %s, by %s: %s, want %s", c.redirectURI, c.host, got, want)
		}
	}
}

// TestBlocksOfACallback: the other blocks to which a callback may belong that came to a block of one host, by where it
// was sent: those with its path at that host, or at the host of the block's own redirect URI.
func TestBlocksOfACallback(t *testing.T) {
	own := &handOvers{sites: newSites(bareSite+"/cb", nil, nil, nil), logins: new(logins)}
	all, names := new(callbacks), map[*handOvers]string{own: "own"}
	all.join(own)
	for name, sites := range map[string]*sites{
		"alike":  newSites(bareSite+"/%63b", nil, nil, nil),
		"path":   newSites(bareSite+"/other", nil, nil, nil),
		"group":  newSites(bareSite+"/cb", newHostGroup("example.com", []string{secondHost}), nil, nil),
		"second": newSites(secondSite+"/cb", nil, nil, nil),
		"any":    newSites("https://"+hostPlaceholder+"/cb", nil, nil, nil),
	} {
		ho := &handOvers{sites: sites, logins: new(logins)}
		names[ho] = name
		all.join(ho)
	}
	list := func(found []*handOvers) string {
		var them []string
		for _, ho := range found {
			them = append(them, names[ho])
		}
		slices.Sort(them)
		return strings.Join(them, " ")
	}
	for _, c := range []struct{ host, served, sharing string }{
		{"example.com", "alike any group", "alike any group"},
		{"EXAMPLE.com.:443", "alike any group", "alike any group"},
		{secondHost, "any group second", "alike any group second"},
		{"behind.internal", "any", "alike any"},
		{"", "", "alike"},
	} {
		r := newParts(t).request("GET", "/cb")
		r.Host = c.host
		served, sharing := list(all.servedAt(own, r)), list(all.sharing(own.logins, r, *own.sites.fixed))
		if served != c.served || sharing != c.sharing {
			t.Errorf("%q: served by %q, want %q; shared with %q, want %q", c.host, served, c.served, sharing,
				c.sharing)
		}
	}
}

// TestLoginBesideOtherHeaders: where other handlers have set header fields already, the answer as a whole still fits
// what a proxy in front takes.
func TestLoginBesideOtherHeaders(t *testing.T) {
	for _, c := range []struct {
		before int // bytes
		want   string
	}{{0, "/page?" + strings.Repeat("q", 800)}, {1500, "/page?" + strings.Repeat("q", 800)}, {2500, "/page"}} {
		p := newParts(t)
		ls := p.logins()
		w, got := p.outcome(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("X-Before", strings.Repeat("x", c.before))
			return ls.start(w, r, &login{returnTo: returnPath(r)}, http.StatusFound)
		}, p.request("GET", "/page?"+strings.Repeat("q", 800)))
		to, err := url.Parse(w.Header().Get("Location"))
		if got != "Found" || err != nil {
			t.Fatal(got, err)
		}
		l, err := ls.open(p.request("GET", "/"), p.at(), to.Query().Get("state"))
		if err != nil || l.returnTo != c.want || roomIn(w.Header()) < -otherFields {
			t.Errorf("beside %d bytes: returns to %.20s, with %d bytes left, %v", c.before, l.returnTo,
				roomIn(w.Header()), err)
		}
	}
}

// TestCallbackAgainCannotTell: a code that was used before may belong to who is signed in. Where that cannot be told,
// no login begins.
func TestCallbackAgainCannotTell(t *testing.T) {
	p := newParts(t)
	ls := p.logins()
	_, state, cookie := p.begin(ls, "/page")
	if first, err := ls.used.Use(idOf("state", state)); !first || err != nil {
		t.Fatal(first, err)
	}
	_, session := p.session(nil)
	p.keeper.memory.forgetAll()
	p.keeper.sessionBox = p.keyless("session")
	if _, got := p.finishing(ls, state, cookie+"; "+session); got != errStorage.code {
		t.Errorf("%s, want %s", got, errStorage.code)
	}
}
