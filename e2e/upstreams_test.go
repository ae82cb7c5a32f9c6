package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/websocket"
)

// newGuarded starts a site with these directives behind the login, at a stand-in for
// the authorization server that asks for nothing.
func newGuarded(t *testing.T, env []string, directives string, lines ...string) (*secure, *issuer) {
	t.Helper()
	i := newIssuer(t, site{"app", time.Hour, ""}, 1, "0")
	f := newSecure(t, newAuthority(t), env, directives,
		append(lines, "issuer "+i.Issuer, "audience https://api.example.com/", "scope openid profile")...)
	i.Clients[0].Secret = oddSecret
	i.Clients[0].RedirectURIs = []string{f.site + "/oauth2/callback"}
	return f, i
}

// newStreams is an app that has a WebSocket, which repeats what it is told, and a
// stream of events.
func newStreams(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/socket", websocket.Handler(func(ws *websocket.Conn) {
		_, _ = io.WriteString(ws, "hello, "+callerOf(ws.Request()))
		_, _ = io.Copy(ws, ws)
	}))
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 0; r.Context().Err() == nil; n++ {
			fmt.Fprintf(w, "data: %d for %s\n\n", n, callerOf(r))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<title>app</title>%s is at %s", callerOf(r), r.RequestURI)
	})
	app := httptest.NewServer(mux)
	t.Cleanup(func() {
		app.CloseClientConnections() // a stream that was left open is no reason to wait
		app.Close()
	})
	return app.Listener.Addr().String()
}

// speaking has a visitor use one version of HTTP at the site.
func (v *visitor) speaking(version int, a *authority) *visitor {
	v.t.Helper()
	config := &tls.Config{RootCAs: a.pool}
	var wire http.RoundTripper
	switch version {
	case 1:
		wire = &http.Transport{DialContext: dialLoopback, TLSClientConfig: config}
	case 2:
		//lint:ignore SA1019 net/http's own would not send the :protocol of a CONNECT
		wire = &http2.Transport{TLSClientConfig: config,
			DialTLSContext: func(ctx context.Context, network, addr string, config *tls.Config) (net.Conn, error) {
				conn, err := dialLoopback(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return tls.Client(conn, config), nil
			}}
	case 3:
		h3 := &http3.Transport{TLSClientConfig: config,
			Dial: func(ctx context.Context, addr string, config *tls.Config,
				quicConfig *quic.Config) (*quic.Conn, error) {
				_, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				return quic.DialAddr(ctx, "127.0.0.1:"+port, config, quicConfig)
			}}
		v.t.Cleanup(func() { _ = h3.Close() })
		wire = h3
	}
	v.Transport = bySchemes{"http": v.Transport, "https": wire}
	return v
}

// bySchemes asks the authorization server, which is on http, another way.
type bySchemes map[string]http.RoundTripper

func (s bySchemes) RoundTrip(r *http.Request) (*http.Response, error) {
	return s[r.URL.Scheme].RoundTrip(r)
}

// request makes a request that is sent past the client, but with its cookies.
func (v *visitor) request(method, target string, body io.Reader) *http.Request {
	v.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, c := range v.Jar.Cookies(r.URL) {
		r.AddCookie(c)
	}
	return r
}

// connect opens a WebSocket, or what another protocol has, by CONNECT: over HTTP/2
// (RFC 8441) and HTTP/3 (RFC 9220). Without one, it returns the status.
func (v *visitor) connect(version int, protocol, target string) (send io.Writer, receive io.ReadCloser, status int) {
	v.t.Helper()
	read, write := io.Pipe()
	v.t.Cleanup(func() { _ = write.Close() })
	r := v.request(http.MethodConnect, target, read)
	if version == 2 {
		r.Header[":protocol"] = []string{protocol}
	} else {
		r.Proto = protocol
	}
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Origin", "https://"+r.URL.Host)
	resp, err := v.Transport.RoundTrip(r)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = resp.Body.Close() })
	return write, resp.Body, resp.StatusCode
}

// upgrade opens a WebSocket by an upgrade of HTTP/1.1 (RFC 6455).
func (v *visitor) upgrade(a *authority, target string) (*websocket.Conn, error) {
	v.t.Helper()
	r := v.request(http.MethodGet, target, nil)
	conn, err := dialLoopback(r.Context(), "tcp", r.URL.Host)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = conn.Close() })
	config, err := websocket.NewConfig("wss://"+r.URL.Host+r.URL.Path, "https://"+r.URL.Host)
	if err != nil {
		v.t.Fatal(err)
	}
	config.Header = r.Header
	return websocket.NewClient(config, tls.Client(conn, &tls.Config{RootCAs: a.pool, ServerName: r.URL.Hostname()}))
}

// frame is a text in a WebSocket's frame, as a client sends it, with a mask that
// changes nothing (RFC 6455, section 5.2).
func frame(text string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
}

// TestStreams: over each version of HTTP, a person logs in and opens a WebSocket and
// a stream of events, which the app knows to be theirs, and which end with the
// session. Nobody else gets one.
func TestStreams(t *testing.T) {
	// By default, Go offers no WebSockets over HTTP/2.
	f, _ := newGuarded(t, []string{"GODEBUG=http2xconnect=1"}, "reverse_proxy "+newStreams(t))
	for version := 1; version <= 3; version++ {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			t.Parallel()
			stranger := newVisitor(t, f.authority).speaking(version, f.authority)
			stranger.expect(stranger.get(f.site+"/events", "Accept", "text/event-stream"), 401, f.site+"/events")
			v := newVisitor(t, f.authority).speaking(version, f.authority)
			wanted := f.site + "/page?q=a%2Fb"
			p := v.visit(wanted)
			v.expect(p, 200, wanted)
			if !strings.Contains(p.body, "auth0|ada is at /page?q=a%2Fb") {
				t.Errorf("the app answers %s", p)
			}

			events := v.request(http.MethodGet, f.site+"/events", nil)
			events.Header.Set("Accept", "text/event-stream")
			resp, err := v.Transport.RoundTrip(events)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.ProtoMajor != version {
				t.Errorf("it is %s", resp.Proto)
			}
			lines := bufio.NewScanner(resp.Body)
			for _, want := range []string{"data: 0 for auth0|ada", "", "data: 1 for auth0|ada"} {
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("the events begin with %q, %v; want %q", lines.Text(), lines.Err(), want)
				}
			}

			const greeting = "hello, auth0|ada"
			var socket io.Reader
			if version == 1 {
				if _, err := stranger.upgrade(f.authority, f.site+"/socket"); !errors.Is(err, websocket.ErrBadStatus) {
					t.Errorf("a WebSocket without a session: %v", err)
				}
				ws, err := v.upgrade(f.authority, f.site+"/socket")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(ws, ", and me"); err != nil {
					t.Fatal(err)
				}
				for _, want := range []string{greeting, ", and me"} {
					var got string
					if err := websocket.Message.Receive(ws, &got); err != nil || got != want {
						t.Fatalf("the WebSocket says %q, %v; want %q", got, err, want)
					}
				}
				socket = ws
			} else {
				for _, protocol := range []string{"connect-udp", "webtransport", "WebSocket"} {
					for _, anybody := range []*visitor{stranger, v} {
						if _, _, status := anybody.connect(version, protocol, f.site+"/socket"); status != 405 {
							t.Errorf("a CONNECT for %s: %d", protocol, status)
						}
					}
				}
				if _, _, status := stranger.connect(version, "websocket", f.site+"/socket"); status != 401 {
					t.Errorf("a WebSocket without a session: %d", status)
				}
				send, receive, status := v.connect(version, "websocket", f.site+"/socket")
				if status != 200 {
					t.Fatalf("a WebSocket: %d", status)
				}
				if _, err := send.Write(frame(", and me")); err != nil {
					t.Fatal(err)
				}
				want := "\x81\x10" + greeting + "\x81\x08, and me"
				got := make([]byte, len(want))
				if _, err := io.ReadFull(receive, got); err != nil || string(got) != want {
					t.Fatalf("the WebSocket says %q, %v; want %q", got, err, want)
				}
				socket = receive
			}

			v.expect(v.get(f.site+"/logout"), 200, f.site+"/logout")
			left := time.Now()
			var wait sync.WaitGroup
			for name, stream := range map[string]io.Reader{"WebSocket": socket, "stream of events": resp.Body} {
				wait.Go(func() {
					ended := make(chan struct{})
					go func() { _, _ = io.Copy(io.Discard, stream); close(ended) }()
					select {
					case <-ended:
						t.Logf("%s after the logout, the %s has ended", time.Since(left).Round(time.Millisecond), name)
					case <-time.After(time.Minute):
						t.Errorf("the %s does not end", name)
					}
				})
			}
			wait.Wait()
		})
	}
}

// TestStreamsInBrowser: a page in a real browser has a WebSocket and an EventSource,
// loses both when it signs out, and gets neither again. Over TLS, the browser speaks
// HTTP/2, and opens WebSockets over it where it may.
func TestStreamsInBrowser(t *testing.T) {
	for name, tc := range map[string]struct{ env, logged string }{
		"HTTP/1.1": {"GODEBUG=", `"proto":"HTTP/1.1","method":"GET","host":"%s","uri":"/socket"`},
		"HTTP/2":   {"GODEBUG=http2xconnect=1", `"proto":"HTTP/2.0","method":"CONNECT","host":"%s","uri":"/socket"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newGuarded(t, []string{tc.env}, "log\nreverse_proxy "+newStreams(t))
			b := newChromium(t, chromedp.Flag("ignore-certificate-errors-spki-list", f.spki))
			b.visit(f.site + "/page")
			b.isAt(f.site + "/page")
			b.evaluate(`
				var heard = '', told = '', ended = [];
				var socket = new WebSocket('/socket'), events = new EventSource('/events');
				socket.onmessage = (e) => heard += e.data;
				socket.onclose = () => ended.push('socket');
				events.onmessage = (e) => told = e.data;
				events.onerror = () => events.readyState === EventSource.CLOSED && ended.push('events');
				''`)
			eventually(t, "both say whose they are", func() bool {
				return b.evaluate("heard") == "hello, auth0|ada" &&
					strings.HasSuffix(b.evaluate("told"), " for auth0|ada")
			})
			if status := b.fetch("/logout"); status != "200" {
				t.Fatalf("the logout answers %s", status)
			}
			// The browser tries to have the events again, and is refused.
			eventually(t, "both have ended", func() bool {
				return b.evaluate("ended.sort().join()") == "events,socket"
			})
			eventually(t, "the access log has the WebSocket", func() bool {
				log, _ := os.ReadFile(f.log)
				return strings.Contains(string(log), fmt.Sprintf(tc.logged, strings.TrimPrefix(f.site, "https://")))
			})
		})
	}
}

// TestPHP: a PHP application behind php_fastcgi knows who asks by its $_SERVER,
// whatever the request says, and its front controller gets the URL that was asked for.
func TestPHP(t *testing.T) {
	path := program(t, "php-cgi", "apt-get install -y php-cgi")
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.php"), []byte(`<?php
		header('Content-Type: application/json');
		$names = ['REQUEST_URI', 'REMOTE_USER', 'REMOTE_EMAIL', 'HTTP_AUTHORIZATION', 'HTTP_COOKIE'];
		$told = [];
		foreach ($names as $name) $told[$name] = $_SERVER[$name] ?? '';
		echo json_encode($told);
	`), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(root, "php.sock")
	php := &process{t: t, log: filepath.Join(t.TempDir(), "log"),
		make: func() *exec.Cmd { return exec.Command(path, "-b", socket) }}
	php.start()
	eventually(t, "PHP waits at its socket", func() bool { _, err := os.Stat(socket); return err == nil })

	f, issuer := newGuarded(t, nil, fmt.Sprintf(`root %s
		php_fastcgi unix/%s {
			env REMOTE_EMAIL {http.auth.user.email}
		}
		file_server`, root, socket))
	v := newVisitor(t, f.authority)
	v.expect(v.get(f.site+"/blog/7?q=a%2Fb", "Accept", "application/json"), 401, f.site+"/blog/7?q=a%2Fb")
	p := v.visit(f.site + "/blog/7?q=a%2Fb")
	v.expect(p, 200, f.site+"/blog/7?q=a%2Fb")
	for range 2 {
		var told map[string]string
		if err := json.Unmarshal([]byte(p.body), &told); err != nil {
			t.Fatalf("%v: %s", err, p)
		}
		token := told["HTTP_AUTHORIZATION"]
		delete(told, "HTTP_AUTHORIZATION")
		want := map[string]string{"REQUEST_URI": "/blog/7?q=a%2Fb", "REMOTE_USER": "auth0|ada",
			"REMOTE_EMAIL": "ada@example.com", "HTTP_COOKIE": ""}
		if !maps.Equal(told, want) {
			t.Errorf("PHP is told %v", told)
		}
		if sub := callerOf(&http.Request{Header: http.Header{"Authorization": {token}}}); sub != "auth0|ada" ||
			!strings.HasPrefix(token, "Bearer ") {
			t.Errorf("PHP's token is %q", token)
		}
		// Once more, with the same names from outside.
		p = v.get(f.site+"/blog/7?q=a%2Fb", "Authorization", "Bearer of-mine", "Remote-User", "root", "Remote-Email",
			"root@example.com",
			"REMOTE_USER", "root", "Http-Authorization", "Bearer of-mine")
	}
	if n := len(issuer.TokenRequests()); n != 1 {
		t.Errorf("there were %d logins", n)
	}
}

// TestSinglePageApp: a page that try_files serves for every path comes back to the
// path that was asked for. Its script is told 401 when the session is over, and one
// reload later it has another.
func TestSinglePageApp(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.html"), []byte(`<!DOCTYPE html>
		<title>the app</title>
		<p id="user"></p>
		<script>
			async function whoIsIt() {
				const response = await fetch('/me');
				if (response.status === 401) {
					location.reload(); // signs in, and comes back to this page
					return new Promise(() => {}); // which is on its way out
				}
				return response.json();
			}
			const show = () => whoIsIt().then((me) => {
				document.querySelector('#user').textContent = me.sub + ' is at ' + location.pathname + location.search;
			});
			show();
		</script>`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, directives := range map[string]string{
		"try_files after the login": `handle /api/* {
				reverse_proxy %[1]s
			}
			handle {
				root %[2]s
				try_files {path} /index.html
				file_server
			}`,
		"a rewrite before the login": `root %[2]s
			@api path /api/*
			handle @api {
				reverse_proxy %[1]s
			}
			@page not path /api/*
			rewrite @page /index.html
			file_server`,
	} {
		t.Run(name, func(t *testing.T) {
			f, issuer := newGuarded(t, nil, fmt.Sprintf(directives, newStreams(t), root))
			b := newChromium(t, chromedp.Flag("ignore-certificate-errors-spki-list", f.spki))
			const path = "/notes/7?tab=2&q=a%2Fb"
			b.visit(f.site + path)
			b.isAt(f.site + path)
			b.sees("auth0|ada is at " + path)
			if status := b.fetch("/api/things"); status != "200" {
				t.Errorf("the API answers %s", status)
			}

			if status := b.fetch("/logout"); status != "200" {
				t.Errorf("the logout answers %s", status)
			}
			logins := len(issuer.AuthorizeRequests())
			if status := b.fetch("/api/things"); status != "401" {
				t.Errorf("without a session, the API answers %s", status)
			}
			if n := len(issuer.AuthorizeRequests()); n != logins {
				t.Error("the script was sent to the sign-in server")
			}
			b.evaluate("document.querySelector('#user').textContent = ''; show(); ''")
			b.sees("auth0|ada is at " + path)
			b.isAt(f.site + path)
			if n := len(issuer.AuthorizeRequests()); n != logins+1 {
				t.Errorf("there were %d logins, and then %d", logins, n)
			}
		})
	}
}
