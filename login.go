package aventusauth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

const (
	// loginLifetime is how long a person may take to sign in; the authorization
	// server gives up then, too.
	loginLifetime = time.Hour

	// maxState bounds the state parameter, for URLs that are too long fail in
	// many places.
	maxState = 1536

	// A login that came back stale, or to another browser, is started once more:
	// that helps if the visitor was slow, and not if their browser keeps no cookies.
	maxRestarts = 1
)

// login is what the state parameter holds: all there is to know of a login under
// way, sealed. The server keeps nothing of it.
type login struct {
	began    time.Time // when it was sealed
	browser  [16]byte  // of the binding cookie
	nonce    [16]byte  // the code verifier is derived from it
	restarts uint8
	returnTo string // path and query
}

func (l *login) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	b.AddBytes(l.browser[:])
	b.AddBytes(l.nonce[:])
	b.AddUint8(l.restarts)
	b.AddBytes([]byte(l.returnTo))
	return b.Bytes()
}

// parseLogin reads what marshal wrote. It returns all of it, or nothing.
func parseLogin(plaintext []byte, began time.Time) (*login, bool) {
	in := cryptobyte.String(plaintext)
	l := &login{began: began}
	if !in.CopyBytes(l.browser[:]) || !in.CopyBytes(l.nonce[:]) || !in.ReadUint8(&l.restarts) {
		return nil, false
	}
	if l.returnTo = string(in); !strings.HasPrefix(l.returnTo, "/") {
		return nil, false
	}
	return l, true
}

// startLogin sends the visitor to the authorization server, to come back to
// returnTo in the end. The status is 302 or 303: others would have the browser
// repeat its request there, body and all.
func (h *Handler) startLogin(w http.ResponseWriter, r *http.Request, returnTo string, restarts uint8, status int) error {
	at, err := h.site(r)
	if err != nil {
		return h.fail(w, r, errBadHost, err)
	}

	// One cookie serves every tab, and every login of this browser.
	binding := ""
	for value := range cookieValues(asSent(r).cookies, h.cfg.bindingName) {
		if raw, err := base64.RawURLEncoding.DecodeString(value); err == nil && len(raw) == 16 {
			binding = value
			break
		}
	}
	if binding == "" {
		random := make([]byte, 16)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		binding = base64.RawURLEncoding.EncodeToString(random)
	}

	l := &login{browser: browserOf(binding), restarts: restarts, returnTo: returnTo}
	_, _ = rand.Read(l.nonce[:])
	state, err := h.sealLogin(r, at, l)
	if err != nil {
		return h.fail(w, r, errStorage, err)
	}
	verifier, err := h.verifier(r, state, l)
	if err != nil {
		return h.fail(w, r, errStorage, err)
	}

	h.setCookie(w, h.cfg.bindingName, binding, loginLifetime)
	h.noStore(w)
	loginsBegun.WithLabelValues(h.cfg.label).Inc()
	w.Header().Set("Location", h.client.AuthorizeURL(at.redirectURI, state, verifier, h.idNonce(l)))
	w.WriteHeader(status)
	return nil
}

// sealLogin returns the state parameter. What does not fit it of the way back is
// left out: the query, then the path.
func (h *Handler) sealLogin(r *http.Request, at site, l *login) (string, error) {
	path, _, _ := strings.Cut(l.returnTo, "?")
	for _, returnTo := range []string{l.returnTo, path, "/"} {
		l.returnTo = returnTo
		plaintext, err := l.marshal()
		if err != nil {
			return "", err
		}
		if keyring.EncodedLen(len(plaintext)) <= maxState {
			return h.states.Seal(r.Context(), plaintext, at.associated)
		}
	}
	return "", errors.New("the state parameter has no room") // not reached: "/" fits
}

// verifier returns the PKCE code verifier of a login. It is kept nowhere: the key
// that sealed the state makes it again from the nonce.
func (h *Handler) verifier(r *http.Request, state string, l *login) (string, error) {
	secret, err := h.proofs.Derive(r.Context(), state, l.nonce[:])
	if err != nil {
		return "", err
	}
	return aventus.Verifier(secret), nil
}

// idNonce returns what the ID token of a login has to repeat (OpenID Connect Core
// 1.0, section 15.5.2), or "" where none is asked for. A hash will do: it binds the
// token to the login that the state is the record of.
func (h *Handler) idNonce(l *login) string {
	if h.idTokens == nil {
		return ""
	}
	id := idOf("nonce", string(l.nonce[:]))
	return hex.EncodeToString(id[:])
}

var (
	errCallback     = failure{http.StatusBadRequest, "invalid_callback", "This is not an answer from the sign-in server. Start again from the site."}
	errState        = failure{http.StatusBadRequest, "invalid_state", "This sign-in was not begun here. Start again from the site."}
	errLoginLost    = failure{http.StatusBadRequest, "login_lost", "The sign-in took too long, or your browser keeps no cookies from this site. Start again from the site."}
	errDenied       = failure{http.StatusForbidden, "access_denied", "You, or the sign-in server, said no."}
	errServerBusy   = failure{http.StatusServiceUnavailable, "server_unavailable", "The sign-in server is unavailable for the moment. Try again soon."}
	errServer       = failure{http.StatusBadGateway, "server_error", "The sign-in server could not sign you in. Try again soon."}
	errTokenTimeout = failure{http.StatusGatewayTimeout, "token_timeout", "The sign-in server did not answer in time. Try again soon."}
	errToken        = failure{http.StatusBadGateway, "token_refused", "The sign-in server did not confirm your sign-in. Try again."}
	errTokenInvalid = failure{http.StatusBadGateway, "token_invalid", "The sign-in server sent something that this site cannot trust. Try again."}
	errGone         = failure{499, "client_gone", "The request was given up."} // as reverse_proxy does
	errTokenTooLong = failure{http.StatusBadGateway, "token_too_large", "Your sign-in worked, but what came with it is too large for this site to keep."}
)

// finishLogin serves the callback (RFC 6749, section 4.1.2).
func (h *Handler) finishLogin(w http.ResponseWriter, r *http.Request) error {
	orig := original(r)
	if orig.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		return h.fail(w, r, errMethod, nil)
	}
	at, err := h.site(r)
	if err != nil {
		return h.fail(w, r, errBadHost, err)
	}
	params, err := url.ParseQuery(orig.URL.RawQuery)
	if err != nil {
		return h.fail(w, r, errCallback, errors.New("the callback's query is not well-formed"))
	}
	for _, values := range params {
		if len(values) > 1 {
			return h.fail(w, r, errCallback, errors.New("the callback has a parameter twice"))
		}
	}

	// Nothing else in the callback counts before its state is known for ours.
	state := params.Get("state")
	l, err := h.openLogin(r, at, state)
	if errors.Is(err, keyring.ErrInvalid) {
		for _, other := range h.peers.sharing(h) {
			if otherSite, siteErr := other.site(r); siteErr == nil {
				switch _, otherErr := other.openLogin(r, otherSite, state); {
				case otherErr == nil:
					return other.finishLogin(w, r)
				case !errors.Is(otherErr, keyring.ErrInvalid):
					return h.fail(w, r, errStorage, otherErr)
				}
			}
		}
		return h.fail(w, r, errState, errors.New("the callback's state was not sealed here, or not for this site and client"))
	}
	if err != nil {
		return h.fail(w, r, errStorage, err)
	}
	code, refused := params.Get("code"), params.Get("error")
	if params.Has("code") == params.Has("error") || code == "" && refused == "" {
		return h.fail(w, r, errCallback, errors.New("the callback needs a code or an error, and not both"))
	}
	// RFC 9207, section 2.4: a server that sends it means it to be checked.
	if params.Has("iss") && !aventus.SameIssuer(params.Get("iss"), h.cfg.issuer) {
		return h.fail(w, r, errCallback, errors.New("the callback's iss is not the issuer"))
	}

	sameBrowser := h.beganIn(r, l)
	stale := h.now().Sub(l.began) > loginLifetime
	if !sameBrowser || stale {
		// Whoever is signed in has what this login was for: another tab was faster.
		if s, err := h.loadSession(r.Context(), at, asSent(r).cookies); err == nil && s != nil {
			return h.goBack(w, at, l)
		}
		if l.restarts >= maxRestarts {
			return h.fail(w, r, errLoginLost, nil)
		}
		return h.startLogin(w, r, l.returnTo, l.restarts+1, http.StatusFound)
	}
	if refused != "" {
		return h.refused(w, r, refused, params.Get("error_description"))
	}

	first, err := h.memory.claims.Claim(h.storage, idOf("code", h.cfg.issuer, code), idOf("state", state))
	if err != nil {
		return h.fail(w, r, errStorage, err)
	}
	if !first {
		s, err := h.loadSession(r.Context(), at, asSent(r).cookies)
		if err != nil {
			return h.fail(w, r, errStorage, err)
		}
		if s != nil {
			return h.goBack(w, at, l)
		}
		return h.startLogin(w, r, l.returnTo, 0, http.StatusFound)
	}
	return h.exchange(w, r, at, l, state, code)
}

// exchange spends the code on a token, and makes the session.
func (h *Handler) exchange(w http.ResponseWriter, r *http.Request, at site, l *login, state, code string) error {
	verifier, err := h.verifier(r, state, l)
	if err != nil {
		return h.fail(w, r, errStorage, err)
	}
	token, tokenErr := h.requestToken("authorization_code", func() (aventus.Token, *aventus.Error) {
		return h.client.Exchange(r.Context(), code, at.redirectURI, verifier)
	})
	if tokenErr != nil {
		return h.fail(w, r, failureOf(tokenErr.Kind), tokenErr)
	}
	idToken, expires, err := h.verifyTokens(r, l, token)
	if err != nil {
		if errors.Is(err, aventus.ErrToken) {
			return h.fail(w, r, errTokenInvalid, err)
		}
		return h.fail(w, r, failureOf(kindOf(err)), err)
	}
	s := h.newSession(token, idToken)
	if !expires.IsZero() && expires.Before(s.tokenEnds) {
		s.tokenEnds = expires
		if s.refresh == "" {
			s.endBy(expires)
		}
	}
	// Whose sessions were ended a moment ago, by a clock that may be ahead of this
	// one, can sign in again at once.
	if after := h.memory.ended.After(subjectID(h.cfg.issuer, s.subject())); after.After(s.created) {
		s.created = after
	}
	if !h.now().Before(s.tokenEnds) { // within the leeway of the clocks
		return h.fail(w, r, errTokenInvalid, errors.New("the access token has expired already"))
	}
	err = h.saveSession(w, r.Context(), at, s)
	if errors.Is(err, errTooLarge) {
		return h.fail(w, r, errTokenTooLong, err)
	}
	if err != nil {
		return h.fail(w, r, errStorage, err)
	}
	loginsFinished.WithLabelValues(h.cfg.label).Inc()
	h.tell("login", "signed in", at, s)
	return h.goBack(w, at, l)
}

// verifyTokens checks what the token answer brought, as far as the config asks for
// it. It returns the ID token's claims that the access token has not, and when a
// verified access token expires.
func (h *Handler) verifyTokens(r *http.Request, l *login, token aventus.Token) (idToken []byte, expires time.Time, err error) {
	if h.tokens != nil {
		if _, expires, err = h.tokens.Verify(r.Context(), token.AccessToken); err != nil {
			return nil, time.Time{}, fmt.Errorf("verifying the access token: %w", err)
		}
	}
	if h.idTokens != nil && token.IDToken != "" {
		payload, err := h.idTokens.Verify(r.Context(), token.IDToken, h.idNonce(l))
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("verifying the ID token: %w", err)
		}
		if idToken, err = claims.Further(payload, token.AccessToken); err != nil {
			return nil, time.Time{}, fmt.Errorf("%w: the ID token: %w", aventus.ErrToken, err)
		}
	}
	return idToken, expires, nil
}

// goBack sends the visitor to where they wanted to go. The origin stands in front,
// so whatever the path looks like, a browser stays on the site.
func (h *Handler) goBack(w http.ResponseWriter, at site, l *login) error {
	h.noStore(w)
	w.Header().Set("Location", at.origin+l.returnTo)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// refused answers a callback with an error (RFC 6749, section 4.1.2.1).
func (h *Handler) refused(w http.ResponseWriter, r *http.Request, code, description string) error {
	cause := fmt.Errorf("the authorization server answered %s: %s", aventus.CleanText(code), aventus.CleanText(description))
	switch code {
	case "access_denied":
		return h.fail(w, r, errDenied, cause)
	case "temporarily_unavailable":
		return h.fail(w, r, errServerBusy, cause)
	}
	return h.fail(w, r, errServer, cause)
}

func failureOf(kind aventus.Kind) failure {
	switch kind {
	case aventus.TimedOut:
		return errTokenTimeout
	case aventus.Unavailable:
		return errServerBusy
	}
	return errToken
}

func (h *Handler) openLogin(r *http.Request, at site, state string) (*login, error) {
	plaintext, began, err := h.states.Open(r.Context(), state, at.associated)
	if err != nil {
		return nil, err
	}
	l, ok := parseLogin(plaintext, began)
	if !ok {
		return nil, keyring.ErrInvalid
	}
	return l, nil
}

// beganIn reports whether the login began in the browser that sent the request.
func (h *Handler) beganIn(r *http.Request, l *login) bool {
	for value := range cookieValues(asSent(r).cookies, h.cfg.bindingName) {
		hash := browserOf(value)
		if subtle.ConstantTimeCompare(hash[:], l.browser[:]) == 1 {
			return true
		}
	}
	return false
}

// browserOf returns what a state holds of a binding cookie: who sees the state,
// which travels in URLs, cannot make the cookie of it.
func browserOf(binding string) [16]byte {
	sum := sha256.Sum256([]byte(binding))
	return [16]byte(sum[:])
}

// idOf names a thing in the storage, where only its hash is seen.
func idOf(parts ...string) records.ID {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return records.ID(sum[:])
}
