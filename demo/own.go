package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
	matching "github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// hostPlaceholder is the one placeholder of a redirect URI that is replaced per request.
const hostPlaceholder = "{http.request.host}"

// runOwn runs a Caddyfile of the user's own until ctx is done, with the stand-in as its
// authorization server and on loopback hosts, so that nothing has to be registered and no
// name has to resolve.
func runOwn(ctx context.Context, file string, port, issuerPort int, verbose bool, stdout io.Writer) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	issuerListener, err := listen("-issuer-port", issuerPort)
	if err != nil {
		return err
	}
	defer issuerListener.Close()
	dir, err := os.MkdirTemp("", "aventus-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": file})
	if err != nil {
		return fmt.Errorf("adapting %s: %w", file, err)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		return err
	}
	d := &desk{
		port: port, issuer: "http://" + issuerListener.Addr().String() + "/", secret: rand.Text(),
		madeUp: make(map[string][]string), ada: aventustest.DefaultUsers[0], granted: make(map[string]any),
	}
	if err := d.move(config); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	keepToItself(config, filepath.Join(dir, "storage"), verbose)
	for _, port := range d.ports {
		listener, err := listen("-port", port)
		if err != nil {
			return err
		}
		listener.Close()
	}

	users := slices.Clone(aventustest.DefaultUsers)
	users[0] = d.ada
	issuer := &aventustest.Server{
		Issuer: d.issuer, Clients: d.clients, Users: users, Claims: d.claimsOf, IDClaims: d.claimsOf,
	}
	server := &http.Server{Handler: issuer, ReadHeaderTimeout: 10 * time.Second}
	defer server.Close()
	go server.Serve(issuerListener)
	defer setenv(map[string]string{"XDG_DATA_HOME": dir})() // Caddy writes its instance id there
	if err := caddy.Run(config); err != nil {
		return fmt.Errorf("starting Caddy with %s: %w", file, err)
	}
	defer caddy.Stop()

	fmt.Fprintf(stdout, "\n  %s, with a stand-in for its authorization server at %s:\n\n", file, d.issuer)
	for _, site := range d.sites {
		fmt.Fprintf(stdout, "    %s\n", site)
	}
	printUsers(stdout, users)
	for _, name := range slices.Sorted(maps.Keys(d.granted)) {
		fmt.Fprintf(stdout, "\n  For require_claim, %s has the claim %s: %v\n", d.ada.Name, name, d.granted[name])
	}
	fmt.Fprint(stdout, "\n  Ctrl-C stops it.\n\n")
	<-ctx.Done()
	return nil
}

// desk moves a config to the user's desk: to loopback hosts over http, and to the
// stand-in. Everything else stays as it is.
type desk struct {
	port   int // in place of 80 and 443
	issuer string
	secret string

	clients []aventustest.Client
	sites   []string // the URLs where they are now
	ports   []int

	madeUp  map[string][]string // the texts in whose place a value was made up, by that value
	ada     aventustest.User
	granted map[string]any // the claims of ada's tokens that blocks require
}

func (d *desk) move(config *caddy.Config) error {
	var app map[string]any
	if err := json.Unmarshal(config.AppsRaw["http"], &app); err != nil || app["servers"] == nil {
		return errors.New("there is no site in it")
	}
	// Certificates are not needed here, but Caddy would request them.
	delete(config.AppsRaw, "tls")
	delete(config.AppsRaw, "pki")
	delete(app, "http_port")
	delete(app, "https_port")
	app["grace_period"] = "2s"
	servers := app["servers"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		if err := d.moveServer(servers[name].(map[string]any)); err != nil {
			return err
		}
	}
	if len(d.clients) == 0 {
		return errors.New("there is no aventus_auth in it")
	}
	config.AppsRaw["http"] = caddyconfig.JSON(app, nil)
	return nil
}

func (d *desk) moveServer(server map[string]any) error {
	var listens []string
	port := 0
	for _, address := range list(server["listen"]) {
		_, digits, _ := strings.Cut(address.(string), ":")
		if digits = digits[strings.LastIndexByte(digits, ':')+1:]; digits == "" {
			return fmt.Errorf("it listens at %s, and not at a port", address)
		}
		port = d.movedPort(digits)
		if slices.Contains(d.ports, port) {
			return fmt.Errorf("two of its servers would be at port %d here; try one of them at a time", port)
		}
		d.ports = append(d.ports, port)
		listens = append(listens, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	server["listen"] = listens
	server["protocols"] = []string{"h1"}
	server["automatic_https"] = map[string]bool{"disable": true}
	delete(server, "tls_connection_policies")

	var routes []any
	named := false
	for _, route := range list(server["routes"]) {
		for _, one := range perHost(route.(map[string]any)) {
			for _, host := range hostsOf(one) {
				named = true
				d.sites = append(d.sites, "http://"+net.JoinHostPort(loopback(host), strconv.Itoa(port))+"/")
			}
			routes = append(routes, one)
		}
	}
	if !named {
		d.sites = append(d.sites, fmt.Sprintf("http://localhost:%d/", port))
	}
	server["routes"] = routes
	return d.moveBelow(server)
}

// moveBelow moves the matchers of hosts, and the blocks, anywhere below a node.
func (d *desk) moveBelow(node any) error {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			if err := d.moveBelow(child); err != nil {
				return err
			}
		}
	case map[string]any:
		if node["handler"] == "aventus_auth" {
			if err := d.moveBlock(node); err != nil {
				return err
			}
		}
		if hosts, ok := node["host"].([]any); ok {
			for i, host := range hosts {
				hosts[i] = loopback(host.(string))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(node)) {
			if err := d.moveBelow(node[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// moveBlock makes the stand-in the authorization server of a block, and registers it.
func (d *desk) moveBlock(block map[string]any) error {
	for _, name := range []string{
		"authorize_url", "token_url", "token_request", "token_auth", "jwks_url", "revoke_url",
	} {
		delete(block, name)
	}
	block["issuer"], block["client_secret"] = d.issuer, d.secret
	for name, madeUp := range map[string]string{"client_id": "your-application", "audience": "your-api"} {
		if text, ok := block[name].(string); ok {
			block[name] = d.valueOf(text, madeUp)
		}
	}
	d.grant(list(block["require_claim"]))
	text, _ := block["redirect_uri"].(string)
	redirect, ok := expand(text)
	if !ok {
		return fmt.Errorf("redirect_uri %s is not set; give it a value in the environment", text)
	}
	// fillHost has replaced the host's placeholder, if the site has hosts.
	redirect, err := d.movedURL(strings.ReplaceAll(redirect, hostPlaceholder, "localhost"))
	if err != nil {
		return fmt.Errorf("redirect_uri: %w", err)
	}
	block["redirect_uri"] = redirect
	if logout, ok := block["logout"].(map[string]any); ok {
		if to, ok := logout["return_url"].(string); ok && strings.Contains(to, "://") {
			if logout["return_url"], err = d.movedURL(to); err != nil {
				return fmt.Errorf("logout: %w", err)
			}
		}
	}
	origins, err := d.moveListed(block, redirect)
	if err != nil {
		return fmt.Errorf("hosts: %w", err)
	}
	id := block["client_id"].(string)
	i := slices.IndexFunc(d.clients, func(client aventustest.Client) bool { return client.ID == id })
	if i < 0 {
		i = len(d.clients)
		d.clients = append(d.clients, aventustest.Client{ID: id, Secret: d.secret})
	}
	client := &d.clients[i]
	client.RedirectURIs = append(client.RedirectURIs, redirect)
	client.LogoutOrigins = append(client.LogoutOrigins, origins...)
	return nil
}

// valueOf returns a value with its placeholders replaced. Users without an account have no values yet, so one is
// made up, the same for equal texts.
func (d *desk) valueOf(text, madeUp string) string {
	if value, ok := expand(text); ok {
		return value
	}
	i := slices.Index(d.madeUp[madeUp], text)
	if i < 0 {
		i = len(d.madeUp[madeUp])
		d.madeUp[madeUp] = append(d.madeUp[madeUp], text)
	}
	if i == 0 {
		return madeUp
	}
	return fmt.Sprintf("%s-%d", madeUp, i+1)
}

// grant makes Ada somebody of whom the required claims hold. Nobody else is, so that a refusal can be seen as well.
func (d *desk) grant(required []any) {
	for _, requirement := range required {
		requirement := requirement.(map[string]any)
		name, _ := expand(requirement["claim"].(string))
		var values []string
		for _, value := range list(requirement["values"]) {
			text, _ := expand(value.(string)) // the config does not load if one is unset
			values = append(values, text)
		}
		if len(values) == 0 || matching.Holds(d.adas, name, values) {
			continue
		}
		value := values[0]
		if domain, ok := strings.CutPrefix(value, "*@"); ok {
			value = "ada@" + domain
		}
		switch had, ok := d.granted[name]; {
		case name == "email":
			d.ada.Email = value
		case name == "sub":
			d.ada.Sub = value
		case !ok:
			d.granted[name] = matching.List{value}
		default:
			d.granted[name] = append(had.(matching.List), value)
		}
	}
}

// adas returns a claim of Ada's tokens.
func (d *desk) adas(name string) (any, bool) {
	switch name {
	case "email":
		return d.ada.Email, true
	case "sub":
		return d.ada.Sub, true
	}
	claim, ok := d.claimsOf(d.ada)[name]
	return claim, ok
}

// claimsOf returns what a user's tokens say beside who it is.
func (d *desk) claimsOf(user aventustest.User) map[string]any {
	all := verified(user)
	if user.Sub == d.ada.Sub {
		maps.Copy(all, d.granted)
	}
	return all
}

// moveListed moves the hosts that share a block's login, and returns their origins.
func (d *desk) moveListed(block map[string]any, redirect string) ([]string, error) {
	u, err := url.Parse(redirect)
	if err != nil {
		return nil, err
	}
	var origins []string
	hosts := list(block["hosts"])
	for i, host := range hosts {
		text, ok := expand(host.(string))
		if !ok {
			return nil, fmt.Errorf("%s is not set; give it a value in the environment", host)
		}
		hosts[i] = loopback(text)
		origins = append(origins, "http://"+net.JoinHostPort(loopback(text), u.Port()))
	}
	return origins, nil
}

// movedURL returns the URL at the desk for a URL of a site.
func (d *desk) movedURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%s is no URL", text)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80"}[u.Scheme]
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(loopback(u.Hostname()), strconv.Itoa(d.movedPort(port)))
	return u.String(), nil
}

// movedPort returns the port at the desk for a port of the config. All ports that need root become one.
func (d *desk) movedPort(port string) int {
	if n, err := strconv.Atoi(port); err == nil && n >= 1024 {
		return n
	}
	return d.port
}

// loopback returns a name for a host that browsers resolve to this machine.
func loopback(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil &&
		ip.IsLoopback() {
		return host
	}
	return host + ".localhost"
}

// perHost makes a route for each of a route's hosts if a redirect URI holds the host's
// placeholder: over http, the placeholder could be a host that is not loopback, so it is refused.
func perHost(route map[string]any) []map[string]any {
	text := string(caddyconfig.JSON(route, nil))
	hosts := hostsOf(route)
	if !strings.Contains(text, hostPlaceholder) || len(hosts) == 0 {
		return []map[string]any{route}
	}
	var routes []map[string]any
	for _, host := range hosts {
		var one map[string]any
		_ = json.Unmarshal([]byte(text), &one) // never fails: text is a route as JSON
		one["match"] = slices.DeleteFunc(list(one["match"]), func(set any) bool {
			hosts := list(set.(map[string]any)["host"])
			set.(map[string]any)["host"] = []any{host}
			return !slices.Contains(hosts, any(host))
		})
		fillHost(one, host)
		routes = append(routes, one)
	}
	return routes
}

// fillHost writes the host in place of its placeholder in the redirect URIs below a node.
func fillHost(node any, host string) {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			fillHost(child, host)
		}
	case map[string]any:
		if redirect, ok := node["redirect_uri"].(string); ok && node["handler"] == "aventus_auth" {
			node["redirect_uri"] = strings.ReplaceAll(redirect, hostPlaceholder, host)
		}
		for _, child := range node {
			fillHost(child, host)
		}
	}
}

// hostsOf returns the hosts of a site's route.
func hostsOf(route map[string]any) []string {
	var hosts []string
	for _, set := range list(route["match"]) {
		for _, host := range list(set.(map[string]any)["host"]) {
			hosts = append(hosts, host.(string))
		}
	}
	return hosts
}

// expand replaces global placeholders, and reports whether all of them are set.
func expand(text string) (string, bool) {
	parts := strings.Split(text, hostPlaceholder)
	for i, part := range parts {
		var err error
		if parts[i], err = caddy.NewReplacer().ReplaceOrErr(part, true, true); err != nil {
			return "", false
		}
	}
	return strings.Join(parts, hostPlaceholder), true
}

// list returns a JSON array, or nil for any other value.
func list(node any) []any {
	l, _ := node.([]any)
	return l
}
