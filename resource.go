package aventusauth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// metadataPath is where clients look for what a protected resource says of itself, followed by the path of
// that resource (RFC 9728, section 3).
const metadataPath = "/.well-known/oauth-protected-resource"

// resource is the site as API clients know it, which get their tokens from an authorization server by what the
// resource says of itself (OAuth 2.0 Protected Resource Metadata, RFC 9728).
type resource struct {
	sites    *sites
	audience *url.URL // nil if the audience is no URL that could name a site
	issuer   string   // as it is written in the config: clients compare it to the letter
	scopes   []string
}

// ofPeople are the scopes of OpenID Connect. They are about a person who signs in, and name nothing that an
// API does.
var ofPeople = []string{"openid", "profile", "email", "address", "phone", "offline_access"}

// newResource returns the resource that a block with this audience protects, where a client may need the scopes.
func newResource(sites *sites, audience, issuer string, scopes []string) *resource {
	res := &resource{sites: sites, issuer: issuer}
	for _, scope := range scopes {
		if !slices.Contains(ofPeople, scope) && !slices.Contains(res.scopes, scope) {
			res.scopes = append(res.scopes, scope)
		}
	}
	// If the audience is no URL, or one that no metadata URL can be made of, clients know the site by its origin.
	u, err := url.Parse(audience)
	if err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil &&
		u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && u.String() == audience &&
		escape(audience, "\"#<>\\") == audience {
		res.audience = u
	}
	return res
}

// of returns what the resource that a request is for is called, and its path: it is the audience if that is a
// URL of this site, since that is what clients ask a token for; else it is the site's origin.
func (res *resource) of(r *http.Request) (id, path string, ok bool) {
	at, err := res.sites.of(r)
	if err != nil {
		return "", "", false
	}
	if u := res.audience; u != nil {
		if strings.EqualFold(u.Host, r.Host) || strings.EqualFold(u.Scheme+"://"+u.Host, at.origin) {
			return u.String(), strings.TrimSuffix(u.EscapedPath(), "/"), true
		}
	}
	return at.origin, "", true
}

// metadataURL returns where the metadata of the resource is that a request is for.
func (res *resource) metadataURL(r *http.Request) (string, bool) {
	id, path, ok := res.of(r)
	if !ok {
		return "", false
	}
	scheme, rest, _ := strings.Cut(id, "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host + metadataPath + path, true
}

// fits reports how well a resource fits what a client has put behind metadataPath, which is its own path, one
// below that, or none, as clients try one after the other. 0 is not at all.
func (res *resource) fits(r *http.Request, behind string) int {
	_, escaped, ok := res.of(r)
	own, err := url.PathUnescape(escaped)
	switch {
	case !ok || err != nil:
		return 0
	case strings.Trim(behind, "/") == "" && own == "":
		return 2
	case strings.Trim(behind, "/") == "":
		return 1
	case strings.HasPrefix(behind+"/", own+"/"):
		return 1 + len(own)
	}
	return 0
}

// resources are those of all blocks of a config.
type resources struct {
	mu  sync.RWMutex
	all []*resource
}

func (rs *resources) join(res *resource) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.all = append(rs.all, res)
}

// resourceMetadata answers what a protected resource says of itself. It is public, and the same for everybody.
type resourceMetadata struct {
	*resource
	others  *resources // of all blocks
	answers *answers
}

// described returns the resource that describes itself at a path, of this block or of another at the same host
// that fits better, or nil.
func (m *resourceMetadata) described(r *http.Request, path string) *resource {
	behind, found := strings.CutPrefix(path, metadataPath)
	at, err := m.sites.of(r)
	if !found || behind != "" && behind[0] != '/' || err != nil {
		return nil
	}
	best, most := m.resource, m.fits(r, behind)
	m.others.mu.RLock()
	defer m.others.mu.RUnlock()
	for _, other := range m.others.all {
		there, err := other.sites.of(r)
		if err != nil || there.host() != at.host() {
			continue
		}
		if fits := other.fits(r, behind); fits > most {
			best, most = other, fits
		}
	}
	if most == 0 {
		return nil
	}
	return best
}

// serve answers 200 with the metadata. Scripts of any site may read it, as clients that run in a browser
// do, and may ask beforehand if they may.
func (m *resourceMetadata) serve(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", "*")
	switch original(r).Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		header.Set("Access-Control-Allow-Methods", "GET, HEAD")
		header.Set("Access-Control-Allow-Headers", "*") // MCP-Protocol-Version, for one
		return m.answers.empty(w, http.StatusNoContent)
	default:
		header.Set("Allow", "GET, HEAD, OPTIONS")
		return m.answers.fail(w, r, errMethod, nil)
	}
	res := m.described(r, original(r).URL.Path)
	id, _, _ := res.of(r)
	body, err := json.Marshal(struct {
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers"`
		Scopes   []string `json:"scopes_supported,omitempty"`
		Methods  []string `json:"bearer_methods_supported"`
	}{id, []string{res.issuer}, res.scopes, []string{"header"}})
	if err != nil {
		return m.answers.fail(w, r, errInternal, err)
	}
	return m.answers.json(w, http.StatusOK, body)
}
