package aventusauth

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
)

// checked is a config that is being checked. The parser of the Caddyfile checks values while it knows
// the line; those that wait for their placeholders pass, until these were replaced.
type checked struct {
	*Config
	expanded bool // its placeholders were replaced
}

// waits reports whether a value still holds a placeholder.
func (c checked) waits(value string) bool {
	return !c.expanded && strings.Contains(strings.ReplaceAll(value, hostPlaceholder, ""), "{")
}

// ownPaths returns the paths that the block serves itself, as far as they are known.
func (c checked) ownPaths() (paths []string) {
	if u, err := parseRedirectURI(c.RedirectURI); err == nil && !c.waits(c.RedirectURI) {
		paths = append(paths, u.Path)
	}
	if c.Logout != nil {
		paths = append(paths, c.Logout.Path)
	}
	if c.AcceptBearer {
		paths = append(paths, metadataPath)
	}
	for _, path := range []string{c.BackchannelLogout, c.Profile} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// distinctPaths returns an error if callback, logouts and profile do not have distinct paths.
func (c checked) distinctPaths() error {
	paths := c.ownPaths()
	for i, path := range paths {
		if !c.waits(path) && slices.Contains(paths[:i], path) {
			return fmt.Errorf(
				"has the path %s, which is another's already: callback, logouts and profile need a path each", path)
		}
	}
	return nil
}

// returnURL checks where a logout leads. Its own path would sign out again without end, and at the others, nothing is
// shown to whoever has signed out.
func (c checked) returnURL(to string) error {
	if to == "" || c.waits(to) {
		return nil
	}
	bare, _, _ := strings.Cut(to, "#") // a single-page app may route by it
	if !isPath(to) {
		if _, err := aventus.CheckURL(bare); err != nil {
			return fmt.Errorf("return url must be a path on this site, or it %w", err)
		}
	}
	u, err := url.Parse(strings.ReplaceAll(bare, `\`, "/")) // as browsers do
	if err != nil || !c.isAtSite(u) {
		return nil
	}
	if hasDots(u.Path) { // which may lead to one of them
		return errors.New("return url has a path that no browser asks for")
	}
	if slices.Contains(c.ownPaths(), u.Path) {
		return fmt.Errorf("return url leads to %s, which is a path of the block's own: leave it out for a page that "+
			"says that the person is signed out", u.Path)
	}
	return nil
}

// isAtSite reports whether a URL is at a host of the block, as far as they are known. A path is. Of the hosts that a
// wildcard stands for, any may be another's.
func (c checked) isAtSite(u *url.URL) bool {
	if u.Host == "" {
		return true
	}
	own, err := parseRedirectURI(c.RedirectURI)
	port := func(u *url.URL) string {
		return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	return err == nil && port(own) == port(u) && newHostGroup(hostName(own.Host), c.Hosts).names[hostName(u.Host)]
}

// asksForID reports whether an ID token is asked for, as far as the scopes are known.
func (c checked) asksForID() bool {
	return slices.Contains(c.Scopes, "openid") || slices.ContainsFunc(c.Scopes, c.waits)
}

// needsAudience returns an error without an audience: a token for another API would be accepted.
func (c checked) needsAudience() error {
	if c.Audience == "" {
		return errors.New("needs an audience")
	}
	return nil
}

// url checks a URL that a login depends on. Empty stands for the default.
func (c checked) url(value string) error {
	if value == "" || c.waits(value) {
		return nil
	}
	_, err := aventus.CheckURL(value)
	return err
}

// hosts checks the hosts that are listed beside the redirect URI's.
func (c checked) hosts() error {
	isHTTPS := !strings.HasPrefix(strings.ToLower(c.RedirectURI), "http:")
	for _, host := range c.Hosts {
		if c.waits(host) {
			continue
		}
		if err := checkListed(host, isHTTPS); err != nil {
			return err
		}
	}
	return nil
}

// cookieName checks the name of the session's cookie.
func (c checked) cookieName(name string) error {
	if name == "" || c.waits(name) {
		return nil
	}
	bare := strings.TrimPrefix(name, hostPrefix)
	switch {
	case bare == "" || !httpguts.ValidHeaderFieldName(bare) || len(bare) > maxCookieName:
		return fmt.Errorf("is not a cookie name of at most %d characters", maxCookieName)
	case bare == bindingName:
		return errors.New("is the name of another cookie of this module")
	case strings.HasPrefix(strings.ToLower(bare), "__host-"), strings.HasPrefix(strings.ToLower(bare), "__secure-"),
		strings.HasPrefix(strings.ToLower(bare), "__http-"):
		return errors.New("must not begin with __Secure- or __Http-; __Host- is added automatically for https")
	case bare != name && strings.HasPrefix(strings.ToLower(c.RedirectURI), "http:"):
		return errors.New("has the prefix __Host-, which needs an https redirect_uri")
	}
	return nil
}

// tokenHeader checks the name of the header that the token goes on in.
func (c checked) tokenHeader(name string) error {
	if name == "" || name == off || c.waits(name) {
		return nil
	}
	name = http.CanonicalHeaderKey(name)
	taken := []string{
		"Close", "Connection", "Content-Length", "Content-Type", "Cookie", "Forwarded", "Host", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Via",
	}
	switch {
	// which servers drop, or read as a hyphen
	case !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "_"):
		return fmt.Errorf("must be the name of a header, or off, not %q", name)
	case slices.Contains(taken, name), strings.HasPrefix(name, "X-Forwarded-"):
		return fmt.Errorf("cannot be %s, which has a meaning of its own", name)
	}
	return nil
}

// parseRedirectURI parses a redirect URI, with any name for the host that the
// request is going to fill in.
func parseRedirectURI(raw string) (*url.URL, error) {
	// Only the whole host may be left open: half a name would let whoever owns
	// the other half have the codes.
	if scheme, rest, ok := strings.Cut(raw, "://"+hostPlaceholder); ok {
		if strings.Contains(rest, hostPlaceholder) || rest != "" && rest[0] != ':' && rest[0] != '/' {
			return nil, fmt.Errorf("may hold %s as its host name only", hostPlaceholder)
		}
		raw = scheme + "://" + anyHost + rest
	} else if strings.Contains(raw, hostPlaceholder) {
		return nil, fmt.Errorf("may hold %s as its host name only", hostPlaceholder)
	}
	u, err := aventus.CheckURL(raw)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		return nil, errors.New("needs a path of its own, such as /oauth2/callback")
	}
	if hasDots(u.Path) {
		return nil, errors.New("has a path that no browser asks for")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("has a query that is not well-formed")
	}
	for name, values := range query {
		own := []string{"code", "state", "error", "error_description", "error_uri", "iss", requestParam, ticketParam}
		if len(values) > 1 || slices.Contains(own, name) {
			return nil, fmt.Errorf("has the parameter %s in its query, which would be there twice", name)
		}
	}
	return u, nil
}

// parseKey decodes a sealing key: base64, of either alphabet, padded or not.
func parseKey(text string) ([]byte, error) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("is not base64; `openssl rand -base64 32` makes a good one")
	}
	if len(key) < keyring.SecretSize {
		return nil, fmt.Errorf(
			"must be %d bytes or more before base64; `openssl rand -base64 32` makes a good one", keyring.SecretSize)
	}
	return key, nil
}

func checkDuration(d caddy.Duration) error {
	if d != 0 && time.Duration(d) < time.Second {
		return errors.New("must be a second or more")
	}
	return nil
}

// hasDots reports whether a path has segments that browsers resolve before they ask
// for it.
func hasDots(path string) bool {
	return strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./")
}

// path checks a path of the module's own.
func (c checked) path(path string) error {
	if !c.waits(path) && (!isPath(path) || path == "/" || strings.ContainsAny(path, `?#%*\`) || hasDots(path)) {
		return errors.New("needs a path of its own that begins with a slash, and no query or wildcard")
	}
	return nil
}

func (c checked) scopes(scopes []string) error {
	for _, scope := range scopes {
		if err := aventus.CheckScope(scope); err != nil && !c.waits(scope) {
			return err
		}
	}
	return nil
}

func checkText(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("holds a control character")
	}
	return nil
}

func (c checked) oneOf(value string, known ...string) error {
	if value == "" || c.waits(value) || slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("must be %s, not %q", strings.Join(known, " or "), value)
}
