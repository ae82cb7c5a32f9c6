package aventustest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	codeLifetime    = 10 * time.Minute
	codeMemory      = time.Hour // a code is remembered for longer than it is good, to tell a second use from a guess
	attemptLifetime = time.Hour // from the sign-in page to the last click
	sessionLifetime = 24 * time.Hour
	sessionCookie   = "aventus_stand_in"
)

// knownParams are the only parameters that /authorize takes.
var knownParams = []string{
	"audience", "scope", "response_type", "client_id", "redirect_uri", "state",
	"code_challenge", "code_challenge_method", "prompt", "connection",
	"organization", "login_hint", "screen_hint", "invitation", "max_age",
	"ui_locales", "nonce",
}

var (
	// An S256 challenge is the base64 of 32 bytes.
	challengeFormat = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

	maxAgeFormat = regexp.MustCompile(`^[0-9]{1,9}$`)

	// https://www.rfc-editor.org/rfc/rfc6749#section-3.3
	scopeFormat = regexp.MustCompile(`^[!#-\[\]-~]+( [!#-\[\]-~]+)*$`)
)

// code is what an authorization code stands for.
type code struct {
	params  url.Values // as they were validated
	user    User
	session *session
	issued  time.Time
	authed  time.Time // when the user signed in
	sent    bool      // it has reached the token endpoint
	used    bool      // its client has presented it there
}

// session is a browser in which somebody is signed in, or would be if the login
// had needed one.
type session struct {
	sid       string // what clients know it by
	user      User
	started   time.Time
	consented map[string]bool
	clients   map[string]bool // who got a code, by id
	loggedOut bool            // and with it the refresh tokens that began here
}

func newSession(user User) *session {
	return &session{sid: randomText(32), user: user, consented: make(map[string]bool), clients: make(map[string]bool)}
}

// refusal is an authorize request that cannot go on. Without a redirect it is
// for the person alone: a server that sent it to an address it cannot trust
// would be an open redirector.
type refusal struct {
	status      int // of the page, when there is no redirect
	redirect    *url.URL
	code        string
	description string
}

// Error implements error.
func (e *refusal) Error() string { return e.code + ": " + e.description }

// IssueCode returns where a user who is signed in and consents would be sent
// for these authorize parameters. It is for tests that have no browser. What
// /authorize would refuse is an error.
func (s *Server) IssueCode(v url.Values, sub string) (*url.URL, error) {
	user, ok := s.user(sub)
	if !ok {
		return nil, fmt.Errorf("no user has the sub %q", sub)
	}
	if refused := s.validate(v); refused != nil {
		return nil, refused
	}
	if refused := s.judge(v, user); refused != nil {
		return nil, refused
	}
	return s.issue(v, user, nil), nil
}

// serveAuthorize checks an authorize request, and answers it at once when the
// browser's session says enough.
func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	s.mu.Lock()
	s.authorizeRequests = record(s.authorizeRequests, v)
	s.mu.Unlock()
	if err != nil {
		s.showError(w, http.StatusBadRequest, "The query of this address is not well-formed.")
		return
	}
	if refused := s.validate(v); refused != nil {
		s.refuse(w, r, refused, http.StatusFound)
		return
	}
	if s.AutoSignIn != "" {
		user, ok := s.user(s.AutoSignIn)
		if !ok {
			s.showError(w, http.StatusInternalServerError, "AutoSignIn names a user who does not exist.")
			return
		}
		s.finish(w, r, v, user, nil, http.StatusFound)
		return
	}

	id, session := s.session(r)
	prompt := v.Get("prompt")
	switch {
	case prompt == "none" && (session == nil || s.isTooOld(s.startOf(session), v)):
		s.refuse(w, r, s.refusal(v, "login_required", "Login required"), http.StatusFound)
	case prompt == "none" && !s.hasConsented(id, v):
		s.refuse(w, r, s.refusal(v, "consent_required", "Consent required"), http.StatusFound)
	case session == nil || prompt == "login" || prompt == "select_account" || s.isTooOld(s.startOf(session), v):
		s.showLogin(w, s.ensureCookie(w, id), v)
	case !s.hasConsented(id, v) || prompt == "consent":
		s.showConsent(w, id, session.user, v)
	default:
		s.finish(w, r, v, session.user, session, http.StatusFound)
	}
}

// finish takes the browser back with a code, unless the tenant denies it.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, v url.Values, user User, in *session, status int) {
	if refused := s.judge(v, user); refused != nil {
		s.refuse(w, r, refused, status)
		return
	}
	http.Redirect(w, r, s.issue(v, user, in).String(), status)
}

// judge asks what the tenant has against the login of a user.
func (s *Server) judge(v url.Values, user User) *refusal {
	client, _ := s.client(v.Get("client_id"))
	s.mu.Lock()
	blocked := s.blocked[user.Sub]
	s.mu.Unlock()
	if blocked {
		return s.refusal(v, "access_denied", "user is blocked")
	}
	if s.Deny != nil {
		if words := s.Deny(user, client); words != "" {
			return s.refusal(v, "access_denied", words)
		}
	}
	return nil
}

// refusal makes the refusal of a request whose redirect URI is known for the
// client's.
func (s *Server) refusal(v url.Values, code, description string) *refusal {
	refused := &refusal{code: code, description: description}
	if isThirdParty(v.Get("client_id")) { // whose redirect URIs are not trusted
		refused.status = http.StatusBadRequest
	} else {
		refused.redirect = s.answerError(v, code, description)
	}
	return refused
}

// refuse answers with a refusal: a redirect with the status, or a page.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, refused *refusal, status int) {
	if refused.redirect == nil {
		s.showError(w, refused.status, refused.description)
		return
	}
	http.Redirect(w, r, refused.redirect.String(), status)
}

// serveLogin takes the form of the sign-in page.
func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	id, v, ok := s.openForm(w, r, "login")
	if !ok {
		return
	}
	user, ok := s.user(r.PostForm.Get("user"))
	if !ok {
		s.showError(w, http.StatusBadRequest, "There is no such user.")
		return
	}
	// The session gets a new id, so that one that was planted is worth nothing.
	fresh := randomText(32)
	now := s.now()
	s.mu.Lock()
	in := s.sessions.items[id]
	if in == nil || in.user.Sub != user.Sub || in.loggedOut {
		in = newSession(user)
	}
	in.started = now
	delete(s.sessions.items, id)
	s.sessions.add(fresh, in, now, sessionLifetime)
	s.mu.Unlock()
	s.setCookie(w, fresh)

	if !s.hasConsented(fresh, v) || v.Get("prompt") == "consent" {
		s.showConsent(w, fresh, user, v)
		return
	}
	s.finish(w, r, v, user, in, http.StatusSeeOther)
}

// serveConsent takes the form of the consent page.
func (s *Server) serveConsent(w http.ResponseWriter, r *http.Request) {
	id, v, ok := s.openForm(w, r, "consent")
	if !ok {
		return
	}
	_, session := s.session(r)
	if session == nil {
		s.showError(w, http.StatusForbidden, "You are not signed in any more.")
		return
	}
	switch r.PostForm.Get("decision") {
	case "allow":
		s.mu.Lock()
		if len(session.consented) >= maxConsents {
			clear(session.consented)
		}
		session.consented[consentKey(v)] = true
		s.mu.Unlock()
		s.finish(w, r, v, session.user, session, http.StatusSeeOther)
	case "refuse":
		s.refuse(w, r, s.refusal(v, "access_denied", "User did not authorize the request"), http.StatusSeeOther)
	case "switch":
		s.showLogin(w, id, v)
	default:
		s.showError(w, http.StatusBadRequest, "Allow or refuse: there is nothing else to choose.")
	}
}

// serveLogout ends the browser's session with its refresh tokens, tells the
// clients, and sends the browser back where it came from if that is a place of
// the client's.
func (s *Server) serveLogout(w http.ResponseWriter, r *http.Request) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	id, session := s.session(r)
	s.mu.Lock()
	s.logouts = record(s.logouts, v)
	s.mu.Unlock()
	if isThirdParty(v.Get("client_id")) {
		s.showError(w, http.StatusBadRequest, "This application has no logout page.")
		return
	}
	s.mu.Lock()
	delete(s.sessions.items, id)
	s.mu.Unlock()
	if session != nil {
		s.end(session)
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.secure(),
	})

	for name, values := range v {
		if err != nil || len(values) != 1 || !slices.Contains([]string{"client_id", "returnTo", "federated"}, name) {
			s.showError(w, http.StatusBadRequest, "The logout's parameters are not well-formed.")
			return
		}
	}
	if !v.Has("returnTo") {
		s.show(w, http.StatusOK, "signed-out", page{Title: "Signed out"})
		return
	}
	client, _ := s.client(v.Get("client_id"))
	target, err := url.Parse(v.Get("returnTo"))
	if err != nil || !slices.ContainsFunc(slices.Concat(client.RedirectURIs, client.LogoutOrigins),
		func(uri string) bool {
			registered, err := url.Parse(uri)
			return err == nil && (origin(registered) == origin(target) || origin(registered) == wildcard(target))
		}) {
		s.showError(w, http.StatusBadRequest, "The address to return to is not the application's.")
		return
	}
	http.Redirect(w, r, target.String(), http.StatusFound)
}

// validate checks everything about an authorize request that does not depend
// on who makes it.
func (s *Server) validate(v url.Values) *refusal {
	// As long as it is not certain where to redirect to, nothing is.
	for _, name := range []string{"client_id", "redirect_uri"} {
		if len(v[name]) != 1 || v.Get(name) == "" {
			return &refusal{status: http.StatusBadRequest, code: "invalid_request", description: "The parameter " +
				name + " must be given exactly once."}
		}
	}
	client, ok := s.client(v.Get("client_id"))
	if !ok {
		return &refusal{status: http.StatusForbidden, code: "invalid_request", description: "Unknown client: " +
			v.Get("client_id")}
	}
	if !slices.Contains(client.RedirectURIs, v.Get("redirect_uri")) {
		return &refusal{status: http.StatusForbidden, code: "invalid_request", description: "Callback URL mismatch: " +
			v.Get("redirect_uri") + " is not in the list of allowed callback URLs."}
	}

	refuse := func(code, format string, args ...any) *refusal {
		return s.refusal(v, code, fmt.Sprintf(format, args...))
	}
	known := knownParams
	if isThirdParty(client.ID) {
		known = thirdPartyParams
	}
	for name, values := range v {
		if !slices.Contains(known, name) {
			return refuse("invalid_request", "Unknown parameter: %s", name)
		}
		if len(values) != 1 {
			return refuse("invalid_request", "Parameter given more than once: %s", name)
		}
		if values[0] == "" {
			return refuse("invalid_request", "Empty parameter: %s", name)
		}
	}
	for _, name := range []string{"response_type", "state", "code_challenge", "code_challenge_method"} {
		if !v.Has(name) {
			return refuse("invalid_request", "Missing required parameter: %s", name)
		}
	}
	switch {
	case v.Get("response_type") != "code":
		return refuse("unsupported_response_type", "Unsupported response type: %s", v.Get("response_type"))
	case v.Get("code_challenge_method") != "S256":
		return refuse("invalid_request", "Parameter 'code_challenge_method' must be S256")
	case !challengeFormat.MatchString(v.Get("code_challenge")):
		return refuse("invalid_request", "Parameter 'code_challenge' must be 43 characters of base64url")
	case v.Has("scope") && !scopeFormat.MatchString(v.Get("scope")):
		return refuse("invalid_scope", "Malformed scope")
	case v.Has("prompt") && !slices.Contains([]string{"none", "login", "consent", "select_account"}, v.Get("prompt")):
		return refuse("invalid_request", "Unsupported prompt: %s", v.Get("prompt"))
	case v.Has("max_age") && !maxAgeFormat.MatchString(v.Get("max_age")):
		return refuse("invalid_request", "Parameter 'max_age' must be a number of seconds")
	case v.Has("audience") && len(s.Audiences) > 0 && !slices.Contains(s.Audiences, v.Get("audience")):
		return refuse("access_denied", "Service not found: %s", v.Get("audience"))
	}
	return nil
}

// issue makes a code for validated parameters, and returns where to take it.
// The session is the browser's, if there is one.
func (s *Server) issue(v url.Values, user User, in *session) *url.URL {
	// Codes of one length would let a client come to rely on it.
	value := randomText(randomBetween(20, 64))
	now := s.now()
	authed := now
	switch {
	case in != nil:
		authed = s.startOf(in)
	case !s.SignedIn.IsZero() && !s.isTooOld(s.SignedIn, v):
		authed = s.SignedIn
	}
	if in == nil {
		in = newSession(user)
		in.started = authed
	}
	s.mu.Lock()
	if s.logins.items[in.sid] == nil {
		s.logins.add(in.sid, in, now, sessionLifetime)
	}
	in.clients[v.Get("client_id")] = true
	s.codes.add(value, &code{params: v, user: user, session: in, issued: now, authed: authed}, now, codeMemory)
	s.mu.Unlock()
	return s.answer(v, url.Values{"code": {value}})
}

// startOf returns when the user of a session signed in.
func (s *Server) startOf(in *session) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return in.started
}

// isTooOld reports whether a sign-in is older than the max_age of v allows:
// https://openid.net/specs/openid-connect-core-1_0.html#AuthRequest
func (s *Server) isTooOld(signedIn time.Time, v url.Values) bool {
	seconds, err := strconv.Atoi(v.Get("max_age"))
	return err == nil && s.now().Sub(signedIn) > time.Duration(seconds)*time.Second
}

func (s *Server) answerError(v url.Values, code, description string) *url.URL {
	return s.answer(v, url.Values{"error": {code}, "error_description": {description}})
}

// answer adds to the redirect URI of v what every answer carries. The query
// that the redirect URI has already stays as it is.
func (s *Server) answer(v, params url.Values) *url.URL {
	if len(v["state"]) == 1 {
		params.Set("state", v.Get("state"))
	}
	if s.SendIss {
		params.Set("iss", s.Issuer)
	}
	u, err := url.Parse(v.Get("redirect_uri"))
	if err != nil {
		panic("aventustest: a client's redirect URI is no URL: " + err.Error())
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += params.Encode()
	return u
}

// session returns the id in the browser's cookie, and its session if somebody
// is signed in there.
func (s *Server) session(r *http.Request) (string, *session) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions.items[cookie.Value]
	if session == nil || session.loggedOut || s.now().Sub(session.started) > sessionLifetime {
		return cookie.Value, nil
	}
	return cookie.Value, session
}

// ensureCookie gives the browser a cookie if it has none, for its forms to be
// tied to. The server remembers nothing for it until somebody signs in.
func (s *Server) ensureCookie(w http.ResponseWriter, id string) string {
	if id == "" {
		id = randomText(32)
		s.setCookie(w, id)
	}
	return id
}

func (s *Server) setCookie(w http.ResponseWriter, id string) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.secure(),
	})
}

func (s *Server) secure() bool { return strings.HasPrefix(s.Issuer, "https:") }

func (s *Server) hasConsented(id string, v url.Values) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions.items[id]
	return session != nil && session.consented[consentKey(v)]
}

// consentKey names what a person has been asked to consent to.
func consentKey(v url.Values) string {
	return url.Values{"client_id": v["client_id"], "audience": v["audience"], "scope": v["scope"]}.Encode()
}

// formKey authenticates forms. It need not outlive the process.
var formKey = func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}()

// form is a validated authorize request on its way through a page. The seal
// sees to it that what was validated is what is used, and ties it to the step
// and to the browser's cookie, so that no other site can fill in the form.
type form struct {
	Request string
	Started string
	Seal    string
}

func (s *Server) newForm(id, step string, v url.Values) form {
	f := form{Request: v.Encode(), Started: strconv.FormatInt(s.now().Unix(), 10)}
	f.Seal = s.seal(id, step, f)
	return f
}

func (s *Server) seal(id, step string, f form) string {
	mac := hmac.New(sha256.New, formKey)
	// %q leaves no doubt about where one part ends and the next begins.
	fmt.Fprintf(mac, "%q %q %q %q %q", s.Issuer, id, step, f.Started, f.Request)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// openForm reads a posted form. When it reports false, it has answered.
func (s *Server) openForm(w http.ResponseWriter, r *http.Request, step string) (id string, v url.Values, ok bool) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		s.showError(w, http.StatusBadRequest, "The form did not arrive whole.")
		return "", nil, false
	}
	f := form{Request: r.PostForm.Get("request"), Started: r.PostForm.Get("started"), Seal: r.PostForm.Get("seal")}
	id, _ = s.session(r)
	if id == "" || !hmac.Equal([]byte(f.Seal), []byte(s.seal(id, step, f))) {
		s.showError(w, http.StatusForbidden,
			"This form belongs to another browser, or to a sign-in that is over. Go back to the application and "+
				"start again.")
		return "", nil, false
	}
	// What the seal fits was written here, so neither of these can fail.
	started, _ := strconv.ParseInt(f.Started, 10, 64)
	v, _ = url.ParseQuery(f.Request)
	if s.now().Sub(time.Unix(started, 0)) > attemptLifetime {
		s.showError(w, http.StatusForbidden,
			"This sign-in was begun too long ago. Go back to the application and start again.")
		return "", nil, false
	}
	return id, v, true
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// wildcard is a URL's origin with an asterisk in place of the host's first label.
func wildcard(u *url.URL) string {
	_, domain, _ := strings.Cut(u.Host, ".")
	return u.Scheme + "://*." + domain
}
