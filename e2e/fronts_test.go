package e2e

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// front is a cache that stands in front of Caddy, and is told to keep for everybody as
// much as it may.
type front struct {
	name    string // as in docs/caches.md
	program string
	apt     string   // the package that has it
	version []string // the arguments that have it tell its version
	args    []string // to run it in the foreground; DIR is its folder, PORT its port
	file    string   // the name of its config

	// config is what stands in that file. CADDY is Caddy's address, CADDY_HOST and
	// CADDY_PORT its parts; RULES is replaced by further rules, and KEEP, SOCKETS and
	// TOKENS by the other three: what has it keep pages, and what it needs for WebSockets
	// and for the tokens of API clients.
	config, keep, sockets, tokens string

	// each is repeated in place of EACH for each site, with NAME for its name.
	each string

	further map[string]string // more files like the config, by name
}

// fronts are the caches that are tried. What they have in common: they are told nothing
// of cookies, nor of what is private.
var fronts = []front{
	{
		name: "nginx", program: "nginx", apt: "nginx-light", version: []string{"-v"},
		args: []string{"-p", "DIR", "-c", "DIR/nginx.conf", "-e", "stderr"}, file: "nginx.conf",
		config: `daemon off;
			master_process off;
			pid nginx.pid;
			events {}
			http {
				access_log off;
				client_body_temp_path client_body;
				proxy_temp_path proxy;
				fastcgi_temp_path fastcgi;
				uwsgi_temp_path uwsgi;
				scgi_temp_path scgi;
				proxy_cache_path pages keys_zone=shared:10m;
				EACH
			}`,
		each: `upstream NAME { server CADDY; }
			server {
				listen 127.0.0.1:PORT;
				server_name NAME.localhost;
				location / {
					proxy_pass http://NAME;
					proxy_set_header Host $http_host;
					KEEP
					RULES
				}
				location ~ ^/(socket|events) {
					proxy_pass http://NAME;
					proxy_set_header Host $http_host;
					SOCKETS
				}
			}`,
		keep: `proxy_cache shared;
			proxy_cache_valid 200 301 302 303 1h;
			proxy_cache_valid any 1m;
			proxy_cache_lock on;
			proxy_cache_revalidate on;
			proxy_cache_use_stale error timeout invalid_header updating
				http_500 http_502 http_503 http_504 http_403 http_404 http_429;
			add_header X-Cache $upstream_cache_status always;`,
		sockets: `proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $http_connection;
			proxy_buffering off;`,
	},
	{
		name: "Varnish", program: "varnishd", apt: "varnish", version: []string{"-V"},
		args: []string{
			"-F", "-j", "none", "-n", "DIR", "-f", "DIR/default.vcl", "-a", "127.0.0.1:PORT", "-T", "none", "-s",
			"malloc,32m",
		},
		file: "default.vcl",
		config: `vcl 4.1;
			backend default { .host = "CADDY_HOST"; .port = "CADDY_PORT"; }
			SOCKETS
			RULES
			KEEP
			sub vcl_deliver {
				if (obj.hits > 0) {
					set resp.http.X-Cache = "HIT";
				}
			}`,
		// By itself, it looks for nothing that is asked for with a cookie.
		keep: `sub vcl_recv {
				if (req.method == "GET" || req.method == "HEAD") {
					return (hash);
				}
			}`,
		sockets: `sub vcl_recv {
				if (req.http.Upgrade ~ "(?i)websocket" || req.http.Accept ~ "text/event-stream") {
					return (pipe);
				}
			}
			sub vcl_pipe {
				set bereq.http.Upgrade = req.http.Upgrade;
				set bereq.http.Connection = req.http.Connection;
			}`,
	},
	{
		name: "Squid", program: "squid", apt: "squid", version: []string{"-v"},
		args: []string{"-N", "-d", "1", "-f", "DIR/squid.conf"}, file: "squid.conf",
		config: `http_port 127.0.0.1:PORT accel vhost
			cache_peer CADDY_HOST parent CADDY_PORT 0 no-query no-digest originserver TOKENS
			never_direct allow all
			http_access allow all
			visible_hostname squid
			pid_filename none
			access_log none
			cache_log /dev/null
			coredump_dir none
			pinger_enable off
			shutdown_lifetime 0 seconds
			KEEP
			SOCKETS
			RULES`,
		keep:    "cache_mem 32 MB\nnegative_ttl 60 seconds",
		tokens:  "login=PASSTHRU",
		sockets: "http_upgrade_request_protocols websocket allow all",
	},
	{
		name: "HAProxy", program: "haproxy", apt: "haproxy", version: []string{"-v"},
		args: []string{"-db", "-f", "DIR/haproxy.cfg"}, file: "haproxy.cfg",
		config: `global
				maxconn 500
			defaults
				mode http
				timeout connect 5s
				timeout client 1m
				timeout server 1m
			cache shared
				total-max-size 32
				max-object-size 1000000
				max-age 3600
				process-vary on
			frontend everybody
				bind 127.0.0.1:PORT
				default_backend caddy
			backend caddy
				KEEP
				RULES
				server caddy CADDY`,
		keep: `http-request cache-use shared
			http-response cache-store shared
			http-response set-header X-Cache HIT if !{ srv_id -m found }`,
	},
	{
		name: "Apache", program: "apache2", apt: "apache2", version: []string{"-v"},
		args: []string{"-X", "-f", "DIR/apache.conf"}, file: "apache.conf",
		config: `LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
			LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
			LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
			LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
			LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
			LoadModule cache_module /usr/lib/apache2/modules/mod_cache.so
			LoadModule cache_disk_module /usr/lib/apache2/modules/mod_cache_disk.so
			User www-data
			Group www-data
			ServerRoot DIR
			DefaultRuntimeDir DIR
			PidFile DIR/pid
			ErrorLog /dev/stderr
			ServerName front
			Listen 127.0.0.1:PORT
			ThreadsPerChild 100
			ThreadLimit 100
			ProxyPreserveHost On
			ProxyPass / http://CADDY/ SOCKETS
			KEEP
			RULES`,
		keep: `CacheRoot DIR
			CacheEnable disk /
			CacheHeader On
			CacheLock On
			CacheIgnoreNoLastMod On`,
		sockets: "upgrade=websocket",
	},
	{
		name: "Traffic Server", program: "traffic_server", apt: "trafficserver", version: []string{"--version"},
		args: []string{"--run-root=DIR/runroot.yaml"}, file: "records.config",
		config: `CONFIG proxy.config.http.server_ports STRING PORT:ip-in=127.0.0.1
			CONFIG proxy.config.admin.user_id STRING trafficserver
			CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
			CONFIG proxy.config.diags.output.diag STRING E
			CONFIG proxy.config.log.logging_enabled INT 0
			CONFIG proxy.config.exec_thread.autoconfig INT 0
			CONFIG proxy.config.exec_thread.limit INT 2
			KEEP
			RULES`,
		keep: `CONFIG proxy.config.http.negative_caching_enabled INT 1
			CONFIG proxy.config.http.negative_caching_lifetime INT 60`,
		each: `map http://NAME.localhost:PORT/ http://CADDY/
			SOCKETS`,
		sockets: "map ws://NAME.localhost:PORT/ ws://CADDY/",
		further: map[string]string{
			"remap.config":   "EACH",
			"storage.config": "DIR 64M",
			"ip_allow.yaml": `{"ip_allow": [{"apply": "in", "ip_addrs": "0/0", "action": "allow", ` +
				`"methods": "ALL"}]}`,
			"plugin.config": "header_rewrite.so DIR/hits.config",
			"hits.config": `cond %{SEND_RESPONSE_HDR_HOOK} [AND]
				cond %{CACHE} =hit-fresh
				set-header X-Cache HIT`,
			"runroot.yaml": `prefix: DIR
				exec_prefix: DIR
				bindir: /usr/bin
				sbindir: /usr/bin
				sysconfdir: DIR
				datadir: DIR
				includedir: DIR
				libdir: /usr/lib/trafficserver
				libexecdir: /usr/lib/trafficserver/modules
				localstatedir: DIR
				runtimedir: DIR
				logdir: DIR
				mandir: DIR
				infodir: DIR
				cachedir: DIR`,
		},
	},
}

// start starts the front of a Caddy.
func (f front) start(t *testing.T, port, addr, rules string) *process {
	t.Helper()
	path := program(t, f.program, "apt-get install "+f.apt)
	dir := t.TempDir()
	// Some of them run as a user of their own.
	for _, folder := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(folder, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	parts := strings.NewReplacer("KEEP", f.keep, "RULES", rules, "SOCKETS", f.sockets, "TOKENS", f.tokens)
	each := ""
	for name := range cachedSites {
		each += strings.ReplaceAll(parts.Replace(f.each), "NAME", name) + "\n"
	}
	host, caddyPort, _ := net.SplitHostPort(addr)
	fill := strings.NewReplacer("CADDY_HOST", host, "CADDY_PORT", caddyPort, "CADDY", addr, "PORT", port, "DIR", dir)
	files := map[string]string{f.file: f.config}
	maps.Copy(files, f.further)
	for name, text := range files {
		text = fill.Replace(strings.ReplaceAll(parts.Replace(text), "EACH", each))
		text = regexp.MustCompile(`(?m)^\s+`).ReplaceAllString(text, "") + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &process{t: t, log: filepath.Join(dir, "log"), addr: "127.0.0.1:" + port, make: func() *exec.Cmd {
		args := make([]string, len(f.args))
		for i, arg := range f.args {
			args[i] = fill.Replace(arg)
		}
		return exec.Command(path, args...)
	}}
	p.start()
	p.await()
	version, _ := exec.Command(path, f.version...).CombinedOutput()
	line, _, _ := strings.Cut(string(version), "\n")
	t.Log(line)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(p.log)
			fmt.Printf("%s says:\n%.3000s\n", f.name, log)
		}
	})
	return p
}

// compareTable compares a column of a table in the documentation with what was seen.
func compareTable(t *testing.T, document, heading, column string, seen map[string]string) {
	t.Helper()
	document = "docs/" + document
	file, err := os.ReadFile("../" + document)
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(file), "\n## "+heading+"\n")
	part, _, _ = strings.Cut(part, "\n## ")
	at, written := -1, make(map[string]string)
	for line := range strings.Lines(part) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if at < 0 {
			at = slices.Index(cells, column)
		} else if len(cells) > at {
			if value, ok := seen[cells[0]]; ok {
				written[cells[0]] = value
				if value != cells[at] {
					t.Errorf("%s says of %s, %s: %q; it is %q", document, column, cells[0], cells[at], value)
				}
			}
		}
	}
	for row, value := range seen {
		if _, ok := written[row]; !ok {
			t.Errorf("%s says nothing of %s, %s: %q", document, column, row, value)
		}
	}
}

// TestFrontsStreams: WebSockets and event streams get through, or do when the cache is
// told to let them, and end with the session.
func TestFrontsStreams(t *testing.T) {
	t.Parallel()
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			plain := f
			plain.sockets, plain.tokens = "", ""
			told := map[string]string{"WebSockets": "no", "event streams": "no", "a client's own token": "no"}
			defer func() { compareTable(t, "caches.md", "What gets through", f.name, told) }()
			for _, variant := range []struct {
				front
				says string
			}{{plain, "yes"}, {f, "with a line"}} {
				c := newCached(t, variant.front, "")
				b := c.enter("bearer", ada)
				if told["a client's own token"] == "no" {
					client := c.browser("bearer")
					p := c.ask(client, http.MethodGet, "/", "Authorization", "Bearer "+c.tokens[ada],
						"Sec-Fetch-Mode", "cors")
					if p.status == http.StatusOK && p.header.Get("X-Whose") == ada {
						told["a client's own token"] = variant.says
					}
				}
				var ends []func() bool
				for name, open := range map[string]func(*browser) (net.Conn, bool){
					"WebSockets": c.openSocket, "event streams": c.openEvents,
				} {
					if told[name] != "no" {
						continue
					}
					if _, ok := open(c.browser("bearer")); ok {
						t.Errorf("%s without a session", name)
					}
					conn, ok := open(b)
					if !ok {
						continue
					}
					told[name] = variant.says
					ends = append(ends, func() bool {
						_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
						_, err := io.Copy(io.Discard, conn)
						return err == nil
					})
				}
				if p := c.ask(b, http.MethodGet, "/logout"); p.status != http.StatusOK {
					t.Errorf("the logout answers %d", p.status)
				}
				for _, ended := range ends {
					if !ended() {
						t.Error("it has not ended with the session")
					}
				}
			}
		})
	}
}

// openEvents and openSocket ask for a stream over a connection of its own, and report
// whether it begins with a greeting.
func (c *cached) openEvents(b *browser) (net.Conn, bool) {
	// The end of the stream is then the end of the connection, which would go on otherwise.
	return c.open(b, "/events", "Accept: text/event-stream\r\nConnection: close\r\n")
}

func (c *cached) openSocket(b *browser) (net.Conn, bool) {
	return c.open(b, "/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nOrigin: "+c.origin(b.site)+"\r\n")
}

func (c *cached) open(b *browser, path, header string) (net.Conn, bool) {
	c.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	u, _ := url.Parse(c.origin(b.site))
	var cookies []string
	for _, cookie := range b.jar.Cookies(u) {
		cookies = append(cookies, cookie.String())
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\n%s\r\n",
		path, u.Host, strings.Join(cookies, "; "), header)
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	var got []byte
	for part := make([]byte, 1000); !strings.Contains(string(got), "hello, "+b.user); {
		n, err := conn.Read(part)
		if got = append(got, part[:n]...); err != nil {
			return conn, false
		}
	}
	return conn, b.user != ""
}

// rules are what operators are told to write, or do, for more hits. Their names are
// those in docs/caches.md.
var rules = []struct{ front, name, keep, rule string }{
	{"nginx", "`proxy_ignore_headers Cache-Control Set-Cookie`", "KEEP",
		"proxy_ignore_headers Cache-Control Expires Set-Cookie;"},
	{"nginx", "`proxy_ignore_headers Vary`", "KEEP", "proxy_ignore_headers Vary;"},
	{"Varnish", "nothing, so that it is as it comes", "", ""},
	{"Varnish", "`unset req.http.Cookie` for files", "",
		`sub vcl_recv { if (req.url ~ "\.(html|css|js|png|svg)(\?.*)?$") { unset req.http.Cookie; } }`},
	{"Varnish", "`unset req.http.Cookie` for all", "", `sub vcl_recv { unset req.http.Cookie; }`},
	{"Varnish", "`set beresp.ttl` and `return (deliver)`", "KEEP",
		`sub vcl_backend_response { set beresp.ttl = 1h; return (deliver); }`},
	{"Varnish", "`unset beresp.http.Vary`", "KEEP", `sub vcl_backend_response { unset beresp.http.Vary; }`},
	{"Squid", "`collapsed_forwarding on`", "KEEP", "collapsed_forwarding on"},
	{"Squid", "`refresh_pattern` with `ignore-no-store ignore-private`", "KEEP",
		"refresh_pattern . 1440 100% 10080 override-expire ignore-no-store ignore-private"},
	{"HAProxy", "`http-response del-header Vary`", "http-response del-header Vary\nKEEP", ""},
	{"HAProxy", "`http-response set-header Cache-Control`",
		"http-response set-header Cache-Control \"public, max-age=3600\"\nKEEP", ""},
	{"HAProxy", "both of them",
		"http-response del-header Vary\nhttp-response set-header Cache-Control \"public, max-age=3600\"\nKEEP", ""},
	{"Apache", "`CacheStorePrivate On`, `CacheStoreNoStore On`", "KEEP", "CacheStorePrivate On\nCacheStoreNoStore On"},
	{"Apache", "`Header unset Vary`", "KEEP", "Header unset Vary"},
	{"Traffic Server", "`cache.ignore_server_no_cache 1`, `cache.required_headers 0`", "KEEP",
		"CONFIG proxy.config.http.cache.ignore_server_no_cache INT 1\n" +
			"CONFIG proxy.config.http.cache.required_headers INT 0"},
}

// TestFrontsRules: what comes of rules that are common in front of other sites. None
// gives away what the site does not call public, unless it says that pages are no
// single person's.
func TestFrontsRules(t *testing.T) {
	t.Parallel()
	for _, rule := range rules {
		t.Run(rule.front+"/"+rule.name, func(t *testing.T) {
			f := fronts[slices.IndexFunc(fronts, func(f front) bool { return f.name == rule.front })]
			f.keep = strings.ReplaceAll(rule.keep, "KEEP", f.keep)
			c := newCached(t, f, rule.rule)
			seen := map[string]string{rule.front + ": " + rule.name: c.outcome(t)}
			compareTable(t, "caches.md", "What common rules do", "What comes of it", seen)
		})
	}
}

// outcome says what comes of a rule.
func (c *cached) outcome(t *testing.T) string {
	var says []string
	logins := make(map[string]bool)
	for range 2 {
		logins[c.ask(c.browser("default"), http.MethodGet, "/a-page").header.Get("Location")] = true
	}
	if len(logins) == 1 {
		says = append(says, "strangers share a login")
	}
	users := []*browser{c.browser("default"), c.browser("default")}
	for i, b := range users {
		b.user = []string{ada, grace}[i]
		page := "/sign-in?" + url.Values{"h": {"Cache-Control: private"}, "n": {b.user}}.Encode()
		if a := b.visit(anyNode, page); a.status != http.StatusOK {
			return strings.Join(append(says, "nobody can sign in"), "; ")
		}
	}
	var shared []string
	for _, what := range []string{"private", "public"} {
		target := address("page", map[string]string{
			"private": "Cache-Control: private, max-age=3600", "public": aYear,
		}[what])
		isShared, isKept := false, false
		for range 2 {
			for _, b := range append(users, c.browser("default")) {
				p := c.ask(b, http.MethodGet, target)
				isShared = isShared || p.header.Get("X-Whose") != b.user
				isKept = isKept || p.isHit()
			}
		}
		switch {
		case isShared:
			shared = append(shared, what)
		case what == "public" && !isKept:
			says = append(says, "no page is kept")
		case what == "private" && isKept:
			says = append(says, "private pages are kept, and shown after a logout to whoever has the cookie")
		}
	}
	if shared != nil {
		says = append(says, "one person's "+strings.Join(shared, " and ")+" pages are shown to everybody")
	}
	if p := c.ask(users[0], http.MethodGet, "/files/page.html"); p.status != http.StatusOK {
		says = append(says, "nobody can have those files")
	}
	if says == nil {
		return "nothing bad"
	}
	return strings.Join(says, "; ")
}
