// Package aventustest is a stand-in for the Aventus authorization server, for
// tests and for the demo. It speaks the same dialect of OAuth 2.0 (Auth0's),
// with a sign-in page and a consent page for people, and it is stricter than
// any real server: whatever a client could get away with elsewhere, such as a
// parameter sent twice or a code sent again, is refused here and can be seen
// by a test.
//
// A request's way through the files: server.go routes and remembers,
// authorize.go checks /authorize and walks a person through sign-in and
// consent, token.go exchanges codes, refresh.go renews and revokes what they
// gave, jwt.go makes the tokens and publishes their keys, ends.go tells clients
// of sessions that have ended, thirdparty.go has what differs for clients of
// other companies, and pages.go holds what a browser is shown. With faults.go, a
// test makes it hostile.
package aventustest

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Everything that the server remembers is bounded, so that neither a benchmark
// nor a demo that nobody stops can fill the memory.
const (
	maxBody     = 1 << 20 // bytes of any request's body
	maxRecorded = 10_000  // requests kept for the tests to look at; the oldest go first
	maxKept     = 100_000 // codes, refresh tokens or sessions kept at a time; the oldest go first
	maxConsents = 100     // consents kept in one session; one more, and all are asked for again
)

// Client is an application that is registered with the server.
type Client struct {
	ID     string
	Secret string

	// RedirectURIs are the registered callback URLs. They are compared
	// character by character.
	RedirectURIs []string

	// LogoutURI is where the server says that a session has ended (OpenID
	// Connect Back-Channel Logout 1.0). Empty: nowhere.
	LogoutURI string

	// LogoutOrigins are where a logout may return to, beside the origins of
	// RedirectURIs. A host may begin with an asterisk for its first label.
	LogoutOrigins []string

	// Audiences are the APIs that were granted to a third-party client (see
	// thirdparty.go), which gets no token for any other. For other clients, they
	// mean nothing.
	Audiences []string
}

// User is a person who can sign in. There are no passwords.
type User struct {
	Sub   string
	Name  string
	Email string
}

// DefaultUsers are the users of a server that names none of its own.
var DefaultUsers = []User{
	{Sub: "auth0|ada", Name: "Ada Lovelace", Email: "ada@example.com"},
	{Sub: "auth0|grace", Name: "Grace Hopper", Email: "grace@example.com"},
}

// Server is the authorization server. It is an http.Handler, to be served at
// the address that Issuer names, and safe for concurrent use. Its fields may
// not be changed once it has had its first request.
type Server struct {
	// Issuer is the server's own URL with a final slash, as its users reach
	// it. Required.
	Issuer string

	// Clients are the applications that may send people here.
	Clients []Client

	// Users are the people who can sign in. Default: DefaultUsers.
	Users []User

	// Audiences are the APIs that tokens can be asked for. Any other is
	// refused as Auth0 does it: error=access_denied, "Service not found".
	// Empty means that every audience is known.
	Audiences []string

	// Scopes are the scopes that can be granted. Others are left out of the
	// token without an error, as Auth0 does it, and then the token answer
	// says which scope was granted. Empty means that everything is granted.
	// NoRefresh rules over offline_access, whether it is among these or not.
	Scopes []string

	// NoRefresh gives out no refresh tokens: offline_access is granted only
	// when Scopes names it, and even then in name only. Otherwise it is
	// granted whenever it is asked for together with an audience, and a
	// refresh token comes with it.
	NoRefresh bool

	// KeepRefresh makes a refresh token good for any number of uses.
	// Otherwise each use answers the next one, and using an old one again
	// ends them all, as nobody can tell which of the two users was the thief.
	KeepRefresh bool

	// RefreshLifetime is how long after a login its refresh tokens work. A
	// new one lives no longer than the first. Default: 30 days.
	RefreshLifetime time.Duration

	// RefreshIdle is how long a refresh token works that is not used. Default:
	// 15 days for third-party clients, and no limit for others.
	RefreshIdle time.Duration

	// TokenLifetime is how long an access token lives. Default: 24h.
	TokenLifetime time.Duration

	// Now is the server's clock. Default: time.Now.
	Now func() time.Time

	// Form makes the token endpoint and the revocation take forms instead of
	// JSON.
	Form bool

	// Basic makes these two take the client's secret in HTTP Basic
	// (id and secret form-encoded, as RFC 6749 section 2.3.1 has it) and
	// refuse it in the body. Otherwise it is the other way around.
	Basic bool

	// SendIss adds the parameter iss of RFC 9207 to every answer that goes to
	// a callback.
	SendIss bool

	// AutoSignIn is the sub of a user who is always signed in and consents
	// to everything: /authorize answers at once and never with a page,
	// whatever prompt asks for.
	AutoSignIn string

	// SignedIn is when the user of AutoSignIn signed in, unless a login asks for
	// a sign-in that is newer (max_age). Default: at each login.
	SignedIn time.Time

	// TokenChars is how many characters long a JWT is, reached by making its
	// jti longer. Base64 does not come in every length, so it may end up one
	// character short; and nothing is cut, so a smaller number than the other
	// claims need changes nothing. 0 means as long as it comes out.
	TokenChars int

	// Claims returns further claims for a user's access token. They replace
	// those of the same name.
	Claims func(User) map[string]any

	// IDClaims does the same for a user's ID token.
	IDClaims func(User) map[string]any

	// NoIDToken leaves the ID token out where openid was granted.
	NoIDToken bool

	// NoSID leaves sid out of the ID tokens, which otherwise name the session at
	// the server.
	NoSID bool

	// SessionExpiry is how long after the sign-in ID tokens say that the session
	// must end (session_expiry). Default: they do not say. IDClaims can say it in
	// odder ways.
	SessionExpiry time.Duration

	// Deny is the tenant's rule: when it returns words, a login is denied with
	// them, and so is a refresh. They are meant for the person.
	Deny func(User, Client) string

	// EditLogout changes a logout token before it is signed, for tokens that are
	// odd in one thing alone.
	EditLogout func(header, claims map[string]any)

	// LogoutTransport is what logout tokens are sent by. Default:
	// http.DefaultTransport.
	LogoutTransport http.RoundTripper

	// KeysPath and RevokePath are where the key set and the revocation are, below
	// the issuer. Default: .well-known/jwks.json and oauth/revoke.
	KeysPath, RevokePath string

	// NoRevoke takes the revocation away.
	NoRevoke bool

	// EditAnswer changes what the token endpoint is about to answer with success,
	// for answers that are odd in one thing alone.
	EditAnswer func(grantType string, answer map[string]any)

	// TokenFault is called first for each token request, before anything in
	// it is checked and with its body still to be read. When it returns true,
	// it has answered, and nothing else happens.
	TokenFault func(w http.ResponseWriter, r *http.Request) bool

	// RevokeFault and JWKSFault do the same for requests to revoke a token and
	// for the key set.
	RevokeFault, JWKSFault func(w http.ResponseWriter, r *http.Request) bool

	mu                sync.Mutex // guards what follows
	codes             recent[*code]
	sessions          recent[*session] // by the browser's cookie
	logins            recent[*session] // by sid, from the first code on
	blocked           map[string]bool  // users, by sub
	deliveries        []Delivery
	refreshTokens     recent[*refreshToken]
	oldestKey         int // the first of the keys that are published,
	currentKey        int // and the last, which signs
	codesReused       int
	refreshReused     int
	jwksRequests      int
	tokenRequests     []TokenRequest
	authorizeRequests []url.Values
	logouts           []url.Values
	revoked           []string
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	base := "/"
	if u, err := url.Parse(s.Issuer); err == nil {
		base = u.Path
	}
	path, _ := strings.CutPrefix(r.URL.Path, base)
	keysPath := cmp.Or(s.KeysPath, ".well-known/jwks.json")
	revokePath := cmp.Or(s.RevokePath, "oauth/revoke")
	if s.NoRevoke {
		revokePath = ""
	}

	var handle http.HandlerFunc
	method := http.MethodGet
	switch path {
	case "":
		s.showError(w, http.StatusNotFound, "There is no such page here.")
		return
	case "authorize":
		handle = s.serveAuthorize
	case "login":
		handle, method = s.serveLogin, http.MethodPost
	case "consent":
		handle, method = s.serveConsent, http.MethodPost
	case "oauth/token":
		// These see every method, so that every attempt is recorded.
		handle, method = s.serveToken, r.Method
	case revokePath:
		handle, method = s.serveRevoke, r.Method
	case keysPath:
		handle = s.serveKeys
	case "v2/logout":
		handle = s.serveLogout
	default:
		s.showError(w, http.StatusNotFound, "There is no such page here.")
		return
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		s.showError(w, http.StatusMethodNotAllowed, "This page takes "+method+" requests only.")
		return
	}
	handle(w, r)
}

// TokenRequest is a request that reached the token endpoint.
type TokenRequest struct {
	Method      string
	Header      http.Header
	ContentType string

	// Body is what was sent, up to 1 MiB.
	Body []byte

	// Params are the parameters in the body, or nil when it could not be
	// parsed as what the endpoint takes.
	Params map[string]string
}

// TokenRequests returns the requests that reached the token endpoint, in their
// order, those that TokenFault answered among them. Their contents are shared,
// and must not be changed.
func (s *Server) TokenRequests() []TokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokenRequests)
}

// AuthorizeRequests returns the parameters of the requests that reached
// /authorize, in their order, refused ones among them. Their contents are
// shared, and must not be changed.
func (s *Server) AuthorizeRequests() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.authorizeRequests)
}

// CodesReused returns how often a code of this server was sent to the token
// endpoint again, whatever became of it the first time. A code counts even when
// the first request with it was answered by TokenFault or refused.
func (s *Server) CodesReused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.codesReused
}

// RefreshReused returns how often a refresh token was sent to the token
// endpoint by its client after another had taken its place. Trying again with
// the newest one is no re-use, such as after a request that TokenFault answered.
func (s *Server) RefreshReused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshReused
}

// Revoked returns the tokens that clients wanted to be revoked, in their order,
// whatever became of it; an empty one stands for a request that held none.
func (s *Server) Revoked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.revoked)
}

// Logouts returns the parameters of the requests that reached /v2/logout, in
// their order, refused ones among them. Their contents are shared, and must not
// be changed.
func (s *Server) Logouts() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.logouts)
}

// JWKSRequests returns how often the key set was asked for, those that
// JWKSFault answered among them.
func (s *Server) JWKSRequests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jwksRequests
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Server) users() []User {
	if s.Users != nil {
		return s.Users
	}
	return DefaultUsers
}

func (s *Server) user(sub string) (User, bool) {
	i := slices.IndexFunc(s.users(), func(u User) bool { return u.Sub == sub })
	if i < 0 {
		return User{}, false
	}
	return s.users()[i], true
}

func (s *Server) client(id string) (Client, bool) {
	i := slices.IndexFunc(s.Clients, func(c Client) bool { return c.ID == id })
	if i < 0 {
		return Client{}, false
	}
	return s.Clients[i], true
}

// record appends v to the newest of its kind.
func record[T any](list []T, v T) []T {
	if len(list) >= maxRecorded {
		list = list[1:]
	}
	return append(list, v)
}

// recent remembers values by key for a time that is the same for all of them,
// which keeps the oldest in front. Its zero value is ready to use.
type recent[T any] struct {
	order []added
	items map[string]T
}

type added struct {
	key string
	at  time.Time
}

// add keeps v, and forgets what is older than maxAge or too much.
func (c *recent[T]) add(key string, v T, now time.Time, maxAge time.Duration) {
	for len(c.order) > 0 && (len(c.order) >= maxKept || now.Sub(c.order[0].at) > maxAge) {
		delete(c.items, c.order[0].key)
		c.order = c.order[1:]
	}
	if c.items == nil {
		c.items = make(map[string]T)
	}
	c.items[key] = v
	c.order = append(c.order, added{key, now})
}

// readBody reads a request's body, and leaves it in place to be read again. It
// reports false for a body that is too long or that did not arrive.
func readBody(r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	whole := err == nil && len(body) <= maxBody
	body = body[:min(len(body), maxBody)]
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, whole
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// randomText returns a random string of n characters from base64's URL-safe
// alphabet.
func randomText(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	for i := range b {
		b[i] = alphabet[b[i]&63]
	}
	return string(b)
}

// randomBetween returns a random number from low to high, both of them
// possible.
func randomBetween(low, high int) int {
	n, _ := rand.Int(rand.Reader, big.NewInt(int64(high-low+1))) // never fails
	return low + int(n.Int64())
}
