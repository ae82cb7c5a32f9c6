package main

// contender is a way to serve a site, with a login in front of it or bare.
type contender struct {
	name  string // in results
	title string // in charts
	does  string // what it does with a request, and what it does not do

	// bare names the contender that serves the same without a login; it is empty for
	// a bare one.
	bare string

	// token is the length of its access tokens, in characters. All have the same
	// authorization server.
	token int

	// forwards names the header in which the app finds the access token. Sites of
	// files have no app.
	forwards string

	// logins says that its logins are measured, too. They do not depend on the site
	// behind the login.
	logins bool

	// servers are its processes, in the order in which they start. All of them are
	// counted.
	servers []program
}

// program is one process of a contender. In its arguments and in what it adds to the
// environment, $NAME stands for a value of the contender's own:
//
//	$SITE          the site's origin, and its address:
//	$ADDRESS
//	$SECOND        another address, for a second process
//	$ISSUER        the authorization server, with a final slash
//	$CLIENT_SECRET the client's secret there; it serves as every other secret, too
//	$ROOT          the folder with the page
//	$UPSTREAM      the address of the app
//	$DATA          a folder of the contender's own
//	$PEERS         the folder peers
//
// All of these are in its environment, too, for its own configuration to use.
type program struct {
	binary  string // a key of binaries
	args    []string
	env     []string
	address string // at which it takes connections when it is ready
}

// caddyWith returns a Caddy of one of our own builds with a Caddyfile.
func caddyWith(binary, caddyfile string) program {
	return program{
		binary:  binary,
		args:    []string{"run", "--adapter", "caddyfile", "--config", "$PEERS/" + caddyfile},
		address: "$ADDRESS",
	}
}

// oauth2Proxy returns an oauth2-proxy. Its configuration file has the settings that all of
// them share.
func oauth2Proxy(address string, env ...string) program {
	return program{
		binary: "oauth2-proxy",
		args:   []string{"--config", "$PEERS/oauth2-proxy/oauth2-proxy.cfg"},
		env: append([]string{
			"OAUTH2_PROXY_HTTP_ADDRESS=" + address,
			"OAUTH2_PROXY_REDIRECT_URL=$SITE/oauth2/callback",
			"OAUTH2_PROXY_OIDC_ISSUER_URL=$ISSUER",
			"OAUTH2_PROXY_CLIENT_SECRET=$CLIENT_SECRET",
			"OAUTH2_PROXY_COOKIE_SECRET=$CLIENT_SECRET",
		}, env...),
		address: address,
	}
}

func apache(config string, env ...string) program {
	return program{
		binary:  "apache2",
		args:    []string{"-D", "FOREGROUND", "-f", "$PEERS/apache/" + config},
		env:     env,
		address: "$ADDRESS",
	}
}

// contenders are all that are measured, bare ones first.
var contenders = []contender{
	{
		name: "caddy", title: "Caddy file_server",
		does:    "Serves the file to everybody.",
		servers: []program{caddyWith("caddy", "caddy/file_server.Caddyfile")},
	},
	{
		name: "caddy-proxy", title: "Caddy reverse_proxy",
		does:    "Passes everybody's requests on to the app.",
		servers: []program{caddyWith("caddy", "caddy/reverse_proxy.Caddyfile")},
	},
	{
		name: "apache", title: "Apache",
		does:    "Serves the file to everybody.",
		servers: []program{apache("bare.conf")},
	},

	{
		name: "aventus_auth-cookie-750", title: "aventus_auth, cookie", bare: "caddy", token: 750, logins: true,
		does:    "Session in the cookie. Sets Authorization to the access token.",
		servers: []program{caddyWith("caddy", "aventus_auth/cookie.Caddyfile")},
	},
	{
		name: "aventus_auth-cookie-1500", title: "aventus_auth, cookie, long token", bare: "caddy", token: 1500,
		does:    "The same, with a token of 1,500 characters.",
		servers: []program{caddyWith("caddy", "aventus_auth/cookie.Caddyfile")},
	},
	{
		name: "aventus_auth-storage-750", title: "aventus_auth, storage", bare: "caddy", token: 750, logins: true,
		does:    "Session in Caddy's storage (files). Sets Authorization to the access token.",
		servers: []program{caddyWith("caddy", "aventus_auth/storage.Caddyfile")},
	},
	{
		name: "aventus_auth-storage-1500", title: "aventus_auth, storage, long token", bare: "caddy", token: 1500,
		does:    "The same, with a token of 1,500 characters.",
		servers: []program{caddyWith("caddy", "aventus_auth/storage.Caddyfile")},
	},
	{
		name: "caddy-security", title: "caddy-security", bare: "caddy", token: 750, logins: true,
		does: "Checks a JWT of its own in the cookie, and the role in it. The access token is not kept, and " +
			"none goes to the app.",
		servers: []program{caddyWith("caddy-security", "caddy-security/Caddyfile")},
	},
	{
		name: "oauth2-proxy", title: "oauth2-proxy", bare: "caddy", token: 750, logins: true,
		does: "Serves the file itself, from a session in the cookie. It has no bare form; the bare server is " +
			"Caddy's file_server.",
		servers: []program{oauth2Proxy("$ADDRESS", "OAUTH2_PROXY_UPSTREAMS=file://$ROOT/#/")},
	},
	{
		name: "forward_auth", title: "forward_auth and oauth2-proxy", bare: "caddy", token: 750, logins: true,
		does: "Caddy asks oauth2-proxy about each request, and copies the access token into " +
			"X-Auth-Request-Access-Token. Both processes are counted.",
		servers: []program{
			oauth2Proxy("$SECOND", "OAUTH2_PROXY_UPSTREAMS=static://202", "OAUTH2_PROXY_REVERSE_PROXY=true",
				"OAUTH2_PROXY_SET_XAUTHREQUEST=true", "OAUTH2_PROXY_WHITELIST_DOMAINS=$ADDRESS"),
			caddyWith("caddy", "oauth2-proxy/Caddyfile"),
		},
	},

	{
		name: "aventus_auth-proxy", title: "aventus_auth, cookie", bare: "caddy-proxy", token: 750,
		forwards: "Authorization",
		does:     "Session in the cookie. The app gets the access token.",
		servers:  []program{caddyWith("caddy", "aventus_auth/reverse_proxy.Caddyfile")},
	},
	{
		name: "oauth2-proxy-proxy", title: "oauth2-proxy", bare: "caddy-proxy", token: 750,
		forwards: "X-Forwarded-Access-Token",
		does: "Passes the request on itself, with the access token, from a session in the cookie. The bare " +
			"server is Caddy's reverse_proxy.",
		servers: []program{oauth2Proxy("$ADDRESS", "OAUTH2_PROXY_UPSTREAMS=http://$UPSTREAM/")},
	},

	{
		name: "mod_auth_openidc-memory", title: "mod_auth_openidc, memory", bare: "apache", token: 750, logins: true,
		does:    "Session in shared memory. Passes claims and access token on in OIDC_ headers.",
		servers: []program{apache("mod_auth_openidc.conf", "SESSION_TYPE=server-cache")},
	},
	{
		name: "mod_auth_openidc-cookie", title: "mod_auth_openidc, cookie", bare: "apache", token: 750, logins: true,
		does:    "Session in the cookie. Passes claims and access token on in OIDC_ headers.",
		servers: []program{apache("mod_auth_openidc.conf", "SESSION_TYPE=client-cookie")},
	},
}
