package aventusauth

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// TestCanaries goes through all that a visitor, an operator and an authorization
// server can do here, with secrets that can be recognised in any encoding, and finds
// none of them where it does not belong: in logs at DEBUG, pages, metrics, traces, the
// admin API's answers, the autosaved config, the storage, or what an app is sent.
func TestCanaries(t *testing.T) {
	const fixedKey = "\nsession {\nkey {env.TEST_SEALING_KEY}\n}"
	one := func(further string) func(w *world) string {
		return func(w *world) string { return w.directive("", further) }
	}
	flows := []struct {
		name   string
		blocks func(w *world) string
		run    func(t *testing.T, c *canaryWorld)
	}{
		{"sessions in cookies", func(w *world) string {
			return "@bad expression `path('/matcher') && int({http.request.uri.query.n}) > 5`\n" +
				w.directive("@bad", fixedKey) +
				"\n" + w.directive("/scope", "require_scope nobody"+fixedKey) + "\n" +
				w.directive("/claim", "require_claim role nobody"+fixedKey) +
				"\n" + w.directive("/other/*", "session {\nname other\n}") + "\n@rest not path /other/*\n" +
				w.directive("@rest", "logout /logout\nprofile /me"+fixedKey)
		}, canaryCookies},
		{
			"sessions in the storage",
			one("scope offline_access\nlogout /logout\nlogout_provider\nprofile /me\nsession {\nstore storage\n}"),
			canaryStorage,
		},
		{"a token endpoint that takes JSON", one(""), func(t *testing.T, c *canaryWorld) {
			// One request hangs while all others go on.
			slow, hangs, hung := c.browser(), make(chan struct{}), make(chan answer)
			callback := slow.begin("/slow")
			c.fails(func(_ http.ResponseWriter, r *http.Request, _ string) {
				close(hangs)
				<-r.Context().Done()
			})
			go func() {
				defer close(hung)
				hung <- slow.get(callback)
			}()
			select {
			case <-hangs:
			case <-hung:
				t.Fatal("the token endpoint was not asked")
			}
			canaryFaults(t, c)
			c.expect(<-hung, http.StatusGatewayTimeout)
		}},
		{"a token endpoint that takes forms", one("token_request form\ntoken_auth basic\nverify_token"),
			func(t *testing.T, c *canaryWorld) {
				c.issuer.Form, c.issuer.Basic = true, true
				canaryFaults(t, c)
			}},
		{"API clients", func(w *world) string {
			return w.directive("/strict", "accept_bearer\nrequire_scope nobody") + "\n" +
				w.directive("", "accept_bearer\nprofile /me")
		}, canaryBearers},
		{"large tokens", one("logout /logout"), func(t *testing.T, c *canaryWorld) {
			c.issuer.TokenChars = 6000
			b := c.browser()
			b.login("/")
			c.expect(b.get("/page"), http.StatusOK)
			c.restart()
			c.expect(b.get("/page"), http.StatusOK)
			c.expect(b.get("/logout"), http.StatusOK)
		}},
		{"streams", one("logout /logout"), canaryStreams},
		{"any host", func(w *world) string {
			return strings.Replace(w.directive("/private/*", ""), w.site+"/", "https://{host}:"+w.port+"/", 1)
		}, func(t *testing.T, c *canaryWorld) {
			for _, visit := range []struct {
				host, path string
				status     int
			}{
				{"localhost", "/public", http.StatusOK},
				{"localhost", "/oauth2/callback?code=x", http.StatusBadRequest},
				{"a(b)", "/private/", http.StatusBadRequest}, {"localhost", "/private/", http.StatusFound},
			} {
				c.expect(c.browser().do("GET", visit.path, "Host", visit.host, "Accept", "text/html"), visit.status)
			}
		}},
		{"a session that is over", one("scope offline_access"), func(t *testing.T, c *canaryWorld) {
			c.issuer.IDClaims = func(aventustest.User) map[string]any { return map[string]any{"session_expiry": 1} }
			b := c.browser()
			c.expect(b.get(b.begin("/")), http.StatusBadGateway)
			c.issuer.IDClaims = nil
			b.login("/")
			c.expect(b.get("/"), http.StatusOK)
		}},
		{"several hosts", func(w *world) string {
			return w.directive("/private/*", "hosts app.localhost\nlogout /logout")
		}, canaryHosts},
	}
	met := make(map[string]bool)
	ran := 0
	for _, flow := range flows {
		t.Run(flow.name, func(t *testing.T) {
			c := newCanaryWorld(t, flow.blocks)
			c.filterLogs()
			before := c.metrics()
			flow.run(t, c)
			for series := range c.metrics() {
				if _, ok := before[series]; !ok && series != "sealing_key_age_seconds" &&
					strings.Contains(series, c.site) {
					t.Errorf("%s was not there from the start", series)
				}
			}
			for _, code := range c.expectKept() {
				met[code] = true
			}
			ran++
		})
	}
	if ran < len(flows) {
		return // not all of them were asked for, or one has failed
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\d+) \\| .").FindAllStringSubmatch(
		readFile(t, "docs/reference.md"), -1) {
		if !met[row[1]] && row[1] != errTooEarly.code { // over HTTP/3 alone: e2e.TestHTTP3EarlyData
			t.Errorf("no flow has failed with %s", row[1])
		}
	}
}

// canaryHosts is a hand-over, and a logout at a host that has no session. The hosts of this world have one address,
// so each has a browser of its own.
func canaryHosts(t *testing.T, c *canaryWorld) {
	app, login := c.browser(), c.browser()
	atApp := func(target string, headers ...string) answer {
		target = strings.TrimPrefix(target, "http://app.localhost:"+c.port)
		return app.do("GET", target, append(headers, "Host", "app.localhost:"+c.port, "Accept", "text/html")...)
	}
	request := atApp("/private/page")
	c.expect(request, http.StatusFound)
	callback := login.get(login.get(request.location()).location())
	c.expect(callback, http.StatusFound)
	ticket := login.get(callback.location())
	c.expect(ticket, http.StatusSeeOther)
	c.expect(atApp(ticket.location(), "Referer", request.location()), http.StatusSeeOther)
	c.expect(atApp(ticket.location()), http.StatusSeeOther)
	c.expect(atApp("/private/page"), http.StatusOK)
	forged := with(request.location(), requestParam, flip(query(request.location(), requestParam)))
	c.expect(login.get(forged), http.StatusBadRequest)

	bound := "aventus_login=" + app.cookiesAt(c.site)["aventus_login"]
	app = c.browser()
	request = atApp("/logout", "Cookie", bound)
	c.expect(request, http.StatusSeeOther)
	c.expect(c.browser().do("GET", request.location(), "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate",
		"Sec-Fetch-Dest", "iframe"), http.StatusBadRequest)
	ticket = login.get(request.location())
	c.expect(ticket, http.StatusSeeOther)
	ended := atApp(ticket.location(), "Cookie", bound)
	c.expect(ended, http.StatusSeeOther)
	c.expect(atApp(ended.location(), "Cookie", bound), http.StatusOK)
	c.expect(login.do("GET", "/private/page"), http.StatusUnauthorized)
	c.expect(c.browser().do("GET", "/private/", "Host", "evil.test"), http.StatusMisdirectedRequest)
}

// canaryCookies is a day of sessions that ride in their cookies.
func canaryCookies(t *testing.T, c *canaryWorld) {
	b := c.browser()
	callback := b.begin("/page?x=1")
	c.expect(b.do("GET", "/fetched", "Sec-Fetch-Mode", "cors"), http.StatusUnauthorized)
	c.expect(b.do("POST", callback), http.StatusMethodNotAllowed)
	c.expect(b.get(with(callback, "state", flip(query(callback, "state")))), http.StatusBadRequest)
	c.expect(b.get(callback+"&code=again"), http.StatusBadRequest)
	c.expect(c.browser().get(callback), http.StatusFound) // another browser
	c.expect(b.do("GET", callback, "Referer", c.issuer.Issuer), http.StatusSeeOther)
	c.expect(b.get(callback), http.StatusSeeOther)
	c.expect(b.do("GET", "/me", "Referer", callback), http.StatusOK)
	b.login("/other/page") // a second session in the same browser

	for _, path := range []string{"/page", "/shown", "/other/page", "/me"} {
		c.expect(b.get(path), http.StatusOK)
		c.expect(b.do("HEAD", path, "Sec-Fetch-Mode", "navigate"), http.StatusOK)
	}
	c.expect(b.do("POST", "/page", "Authorization", "Basic eDp5"), http.StatusOK)
	c.expect(b.get("/scope"), http.StatusForbidden)
	c.expect(b.get("/claim"), http.StatusForbidden)
	c.expect(b.get("/matcher?n=x"), http.StatusInternalServerError)
	for _, lines := range []string{
		"Cookie: theme=dark; " + b.cookieHeader() + "\r\n",
		"Cookie: " + strings.ReplaceAll(b.cookieHeader(), "; ", ";\t") +
			";;\r\nCookie: theme=dark\r\nConnection: Cookie\r\n",
		"Cookie: theme=dark\r\nCookie: " + strings.ReplaceAll(b.cookieHeader(), "; ", "\r\nCookie: ") + "\r\n",
	} {
		c.expect(c.raw("GET /page HTTP/1.1\r\nHost: localhost:"+c.port+"\r\n"+lines+"Connection: close\r\n\r\n"),
			http.StatusOK)
	}

	c.run(strings.ReplaceAll(c.config, "scope openid profile", "scope profile openid"))
	c.expect(b.get("/page"), http.StatusOK)
	c.restart()
	c.expect(b.get("/page"), http.StatusOK)

	late := c.browser()
	callback = late.begin("/late")
	for range 2 {
		c.clock.Add(loginLifetime + time.Second)
		a := late.get(callback)
		if a.StatusCode == http.StatusFound {
			callback = late.get(a.location()).location()
		}
	}
	for _, refusal := range []string{"access_denied", "temporarily_unavailable", "invalid_scope"} {
		callback := late.begin("/")
		late.get(with(with(with(callback, "code", ""), "error", refusal), "error_description",
			"no, "+canarySecret[:4]))
	}

	underWay := c.browser()
	callback = underWay.begin("/")
	c.expect(b.get("/page"), http.StatusOK) // it is known what has ended, by the clock as it is now
	recovers := c.storageFails()
	c.expect(underWay.get(callback), http.StatusServiceUnavailable)
	c.expect(b.get("/page"), http.StatusOK)
	recovers()

	c.expect(b.do("GET", "/logout", "Sec-Fetch-Site", "cross-site"), http.StatusForbidden)
	c.expect(b.do("GET", "/logout", "Sec-Purpose", "prefetch"), http.StatusForbidden)
	c.expect(b.do("DELETE", "/logout"), http.StatusMethodNotAllowed)
	copied := b.cookieHeader()
	c.expect(b.get("/logout"), http.StatusOK)
	c.expect(c.browser().do("GET", "/page", "Cookie", copied, "Sec-Fetch-Mode", "navigate"), http.StatusFound)
	c.expect(c.ask("DELETE", adminPath+"?sub="+url.QueryEscape("auth0|ada")), http.StatusNoContent)
}

// renewedSoFar returns how many renewals the metrics count that brought a token.
func renewedSoFar(c *canaryWorld) (sum int) {
	counted := regexp.MustCompile(`(?m)^caddy_aventus_auth_renewals_total\{outcome="renewed".*\} (\d+)$`)
	for _, line := range counted.FindAllStringSubmatch(c.ask("GET", "/metrics").body, -1) {
		count, _ := strconv.Atoi(line[1])
		sum += count
	}
	return sum
}

// canaryStorage is a day of sessions that rest in the storage, with refresh tokens.
func canaryStorage(t *testing.T, c *canaryWorld) {
	c.issuer.TokenLifetime = time.Hour
	b, unlucky, ended := c.browser(), c.browser(), c.browser()
	for _, browser := range []*browser{b, unlucky, ended} {
		browser.login("/")
		c.expect(browser.get("/shown"), http.StatusOK)
		c.expect(browser.get("/page"), http.StatusOK)
	}
	c.expect(b.get("/me"), http.StatusOK)
	var sessions []listed
	a := c.ask("GET", adminPath)
	c.expect(a, http.StatusOK)
	if err := json.Unmarshal([]byte(a.body), &sessions); err != nil || len(sessions) != 3 {
		t.Fatalf("%d sessions: %v\n%s", len(sessions), err, a.body)
	}

	requests, renewed := len(c.issuer.TokenRequests()), renewedSoFar(c)
	c.clock.Add(57 * time.Minute)
	c.expect(b.get("/page"), http.StatusOK) // renews in the background
	await(t, "a renewal", func() bool { return len(c.issuer.TokenRequests()) == requests+1 })
	await(t, "its end", func() bool { return renewedSoFar(c) == renewed+1 })
	c.clock.Add(2 * time.Hour)
	c.expect(b.get("/page"), http.StatusOK) // and waits for it
	c.restart()
	c.expect(b.get("/page"), http.StatusOK)

	for _, file := range c.sessionFiles() { // which is damaged, and mended
		good := readFile(t, file)
		if err := os.WriteFile(file, []byte(good[:len(good)-1]), 0o600); err != nil {
			t.Fatal(err)
		}
		c.restart()
		for _, browser := range []*browser{b, unlucky, ended} {
			browser.get("/page")
		}
		if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "a damaged record", func() bool { return strings.Contains(c.log(), "is damaged") })
	c.expect(b.get("/page"), http.StatusOK)

	// The server says all that it was sent when it is down, and when it says no.
	c.fails(func(rw http.ResponseWriter, r *http.Request, body string) {
		rw.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(rw, `{"error":"down","error_description":`+jsonText(body)+`}`)
	})
	c.clock.Add(2 * time.Hour)
	c.expect(b.get("/page"), http.StatusServiceUnavailable)
	c.fails(func(rw http.ResponseWriter, r *http.Request, body string) {
		_, _ = io.WriteString(rw, "<html>"+body)
	})
	c.expect(unlucky.get("/page"), http.StatusFound)
	c.heals()
	c.clock.Add(time.Minute)
	c.expect(b.get("/page"), http.StatusOK)
	recovers := c.storageFails()
	c.clock.Add(2 * time.Hour)
	c.expect(b.get("/page"), http.StatusServiceUnavailable)
	recovers()
	c.clock.Add(time.Minute)
	await(c.t, "what has ended is learned again", func() bool { return b.get("/page").StatusCode == http.StatusOK })

	if err := json.Unmarshal([]byte(c.ask("GET", adminPath).body), &sessions); err != nil || len(sessions) == 0 {
		t.Fatalf("%v, %v", sessions, err)
	}
	for _, session := range sessions {
		c.expect(c.ask("DELETE", adminPath+"?id="+session.ID), http.StatusNoContent)
	}
	c.clock.Add(time.Minute)
	b.login("/page")
	a = b.get("/logout")
	c.expect(a, http.StatusSeeOther)
	c.expect(b.get(b.get(a.location()).location()), http.StatusOK)
	await(t, "a revocation that fails", func() bool { return strings.Contains(c.log(), "could not be revoked") })
	unlucky.login("/")
	c.expect(unlucky.get("/page"), http.StatusOK)
}

// canaryStreams is a session that ends while its streams are open.
func canaryStreams(t *testing.T, c *canaryWorld) {
	before := streamCheck
	streamCheck = 20 * time.Millisecond
	t.Cleanup(func() { streamCheck = before })
	c.run(c.config + "\n") // which reads it
	b := c.browser()
	b.login("/page")
	c.expect(b.get("/page"), http.StatusOK)
	cookie := "Cookie: " + b.cookieHeader() + "\r\n"
	_, socket := c.open("/stream/ws", cookie+
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+
		"dGhlIHNhbXBsZSBub25jZQ==\r\n")
	_, events := c.open("/stream/events", cookie+"Accept: text/event-stream\r\n")
	c.expect(b.get("/logout"), http.StatusOK)
	_, _ = io.Copy(io.Discard, socket)
	_, _ = io.Copy(io.Discard, events)
}

// TestCanariesInURLs: without the cookbook's filter, Caddy's own lines hold the URL of a
// callback, and so its code and state. They hold no more than that.
func TestCanariesInURLs(t *testing.T) {
	c := newCanaryWorld(t, func(w *world) string { return w.directive("", "logout /logout") })
	b := c.browser()
	b.login("/page")
	c.expect(b.get("/page"), http.StatusOK)
	callback := b.begin2("/page")
	c.expect(b.get(callback+"&code=again"), http.StatusBadRequest)
	c.expect(b.do("GET", "/logout", "Referer", callback), http.StatusOK)
	c.expectKept()
}

// TestCanariesWritten: a secret that is written into the config itself can be read
// there, on the admin API, in the autosaved file and, at DEBUG, in the line that
// Caddy logs of its config; and nowhere else.
func TestCanariesWritten(t *testing.T) {
	c := newCanaryWorld(t, func(w *world) string {
		return w.directive("", "session {\nkey {env.TEST_SEALING_KEY}\n}")
	})
	c.filterLogs()
	c.literal = true
	c.run(strings.NewReplacer("{env.TEST_CLIENT_SECRET}", "`"+canarySecret+"`", "{env.TEST_SEALING_KEY}",
		os.Getenv("TEST_SEALING_KEY")).Replace(c.config))
	b := c.browser()
	b.login("/page")
	c.expect(b.get("/page"), http.StatusOK)
	c.expectKept()
}

// TestSecretsInLogs: at DEBUG, Caddy logs the config as loaded and each request;
// what was expanded, sealed or handed out is in none of it. (The callback's own
// URL, code and all, is in Caddy's request lines, which are not the module's.)
func TestSecretsInLogs(t *testing.T) {
	w := newWorld(t, setup{block: "logout /logout", caddyfile: "log\n%s\nreverse_proxy %app" + errorsShown})
	b := w.browser()
	session := b.login("/").cookie("aventus_session").Value
	w.expect(b.get("/"), http.StatusOK)
	token := strings.TrimPrefix(w.requests()[0].Header.Get("Authorization"), "Bearer ")
	b.get("/logout")
	log := w.log()
	for what, secret := range map[string]string{
		"the client's secret": testSecret,
		"the token":           token,
		"the session":         session,
		"the code verifier":   w.issuer.TokenRequests()[0].Params["code_verifier"],
	} {
		if secret == "" || strings.Contains(log, secret) {
			t.Errorf("the log holds %s", what)
		}
	}
}

// TestTokenHeaderInLogs: where the token goes on in a header of its own, the cookbook's filter keeps it out of the
// lines of what passes requests on: the warning about an answer that breaks off, and, at DEBUG, one for each request,
// also of PHP's. Without the filter, it is in each of them: else the documentation need not say so.
func TestTokenHeaderInLogs(t *testing.T) {
	_, section, _ := strings.Cut(readFile(t, "docs/cookbook.md"), "\n## Logs without tokens\n")
	filter := regexp.MustCompile(`(?s)format filter \{.*?\n\t\t\}\n`).FindString(section)
	if filter == "" {
		t.Fatal("the cookbook has no filter for logs without tokens")
	}
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(rw, "half")
	}))
	t.Cleanup(app.Close)
	plain := filepath.Join(t.TempDir(), "log")
	w := newWorld(t, setup{
		global: "log plain {\noutput file " + plain + "\nlevel DEBUG\n}", block: "token_header x-access-token",
		caddyfile: "%s\nhandle /half {\nreverse_proxy " + strings.TrimPrefix(app.URL, "http://") + "\n}\n" +
			"handle /php {\nreverse_proxy localhost:1 {\ntransport fastcgi\n}\n}\nreverse_proxy %app",
	})
	w.run(strings.Replace(w.config, "level DEBUG\n", "level DEBUG\n"+filter, 1))
	b := w.browser()
	b.login("/")
	w.expect(b.get("/"), http.StatusOK)
	token := w.requests()[0].Header.Get("X-Access-Token")
	w.expect(b.get("/php"), http.StatusBadGateway)
	_, _ = w.tryRaw("GET /half HTTP/1.1\r\nHost: localhost:" + w.port + "\r\nCookie: " + b.cookieHeader() +
		"\r\nConnection: close\r\n\r\n")
	for _, message := range []string{"upstream roundtrip", "roundtrip", "aborting with incomplete response"} {
		logged := func(log string) (found bool, line string) {
			for line := range strings.Lines(log) {
				if strings.Contains(line, `"msg":"`+message+`"`) {
					return true, line
				}
			}
			return false, ""
		}
		await(t, message, func() bool { found, _ := logged(w.log()); return found })
		if _, line := logged(w.log()); token == "" || strings.Contains(line, token) {
			t.Errorf("the token is in the filtered log:\n%s", line)
		}
		if _, line := logged(readFile(t, plain)); !strings.Contains(line, token) {
			t.Errorf("the token is not in the log without the filter:\n%s", line)
		}
	}
}

// TestVarsShowNoCookies: what blocks of the module hand to each other cannot be
// read with a placeholder.
func TestVarsShowNoCookies(t *testing.T) {
	w := newWorld(t, setup{caddyfile: "%s\nrespond \"<{http.vars." + sentVar + "}>\""})
	b := w.browser()
	b.login("/")
	if a := b.get("/"); a.body != "<>" {
		t.Errorf("a page shows %q", a.body)
	}
}
