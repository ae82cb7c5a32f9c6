package aventusauth

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// logins sends visitors to the authorization server, and serves the callback that they return to.
type logins struct {
	sites       *sites
	cookies     *cookies
	answers     *answers
	keeper      *keeper
	server      *authServer
	states      *states
	verifierBox *keyring.Box  // PKCE code verifiers
	used        *records.Once // codes and states
	replacer    *replacer
	tickets     *tickets
	others      *callbacks // of all blocks

	asksForRefresh bool
	now            func() time.Time
	meter          *meter
}

// start sends the visitor to the authorization server, to come back in the end to where l says. The status is
// 302 or 303: others would have the browser repeat its request there, body and all.
func (ls *logins) start(w http.ResponseWriter, r *http.Request, l *login, status int) error {
	// A login that the person may never want costs the authorization server a visit,
	// and its page may not be shown ahead of time. The answer is an error, so that the
	// browser does not use it when the person does go there.
	if isFetchedAhead(r) {
		return ls.answers.refuse(w, r, &refusal{failure: errLoginRequired})
	}
	at, err := ls.sites.of(r)
	if err != nil {
		return ls.answers.noSite(w, r, err)
	}

	b := ls.cookies.bindingIn(asSent(r).cookies)
	l = &login{browser: browserOf(b.id), restarts: l.restarts, known: l.known, returnTo: l.returnTo, visit: l.visit}
	_, _ = rand.Read(l.nonce[:])
	to, err := ls.authorizeURL(r, at, l, ls.room(w, at))
	if err != nil {
		return ls.answers.fail(w, r, errStorage, err)
	}

	ls.cookies.bind(w, b, ls.now())
	ls.meter.loginBegun()
	if isForm(r) {
		return ls.answers.sendForm(w, to, "")
	}
	return ls.answers.redirect(w, to, status)
}

// room returns how long the state of a login may be in the header of an answer.
func (ls *logins) room(w http.ResponseWriter, at site) int {
	others := ls.server.client.AuthorizeURLLen(at.redirectURI, ls.idNonce(new(login))) + ls.cookies.roomForBinding()
	return min(maxState, roomIn(w.Header())-others)
}

// fits reports whether a login that start begins returns to its page with nothing dropped of the URL.
func (ls *logins) fits(w http.ResponseWriter, at site, l *login) bool {
	plaintext, err := l.marshal()
	return err == nil && keyring.EncodedLen(len(plaintext)) <= ls.states.room(ls.room(w, at))
}

// authorizeURL returns the URL of the authorization server for a login, with a state of at most room bytes, if it
// can.
func (ls *logins) authorizeURL(r *http.Request, at site, l *login, room int) (string, error) {
	state, err := ls.seal(r.Context(), at, l, room)
	if err != nil {
		return "", err
	}
	verifier, err := ls.verifier(r, state, l)
	if err != nil {
		return "", err
	}
	return ls.server.client.AuthorizeURL(at.redirectURI, state, verifier, ls.idNonce(l)), nil
}

// seal returns a state of at most room bytes, if it can.
func (ls *logins) seal(ctx context.Context, at site, l *login, room int) (string, error) {
	returnTo := &l.returnTo
	if l.visit != nil {
		shortened := *l.visit
		l.visit, returnTo = &shortened, &shortened.returnTo
	}
	plaintext, err := marshalToFit(ls.states.room(room), returnTo, l.marshal)
	if err != nil {
		return "", err
	}
	state, err := ls.states.seal(ctx, at, plaintext)
	if err == nil && l.restarts > 0 {
		state += againMark
	}
	return state, err
}

// marshalToFit returns a plaintext that has at most room bytes once it is sealed, if it can. If the page's URL is
// too long for that, it drops the query, then the path.
func marshalToFit(room int, returnTo *string, marshal func() ([]byte, error)) (plaintext []byte, err error) {
	path, _, _ := strings.Cut(*returnTo, "?")
	for _, *returnTo = range []string{*returnTo, path, "/"} {
		plaintext, err = marshal()
		if err != nil || keyring.EncodedLen(len(plaintext)) <= room {
			break
		}
	}
	return plaintext, err
}

// open returns the login whose state it is, or an error as states.open does.
func (ls *logins) open(r *http.Request, at site, state string) (*login, error) {
	plaintext, began, err := ls.states.open(r.Context(), at, state)
	if err != nil {
		return nil, err
	}
	l, ok := parseLogin(plaintext, began)
	if !ok {
		return nil, &outdatedError{began: began}
	}
	if isAgain(state) != (l.restarts > 0) {
		return nil, keyring.ErrInvalid
	}
	if l.visit != nil && ls.sites.hosts == nil { // of another block, or hosts was removed since
		return nil, &outdatedError{plaintext, began}
	}
	return l, nil
}

// verifier returns the PKCE code verifier of a login. It is kept nowhere: the key
// that sealed the state makes it again from the nonce.
func (ls *logins) verifier(r *http.Request, state string, l *login) (string, error) {
	secret, err := ls.verifierBox.Derive(r.Context(), withoutMark(state), l.nonce[:])
	if err != nil {
		return "", err
	}
	return aventus.Verifier(secret), nil
}

// idNonce returns what the ID token of a login has to repeat (OpenID Connect Core
// 1.0, section 15.5.2), or "" where none is asked for. A hash will do: it binds the
// token to the login that the state is the record of.
func (ls *logins) idNonce(l *login) string {
	if ls.server.idTokens == nil {
		return ""
	}
	id := idOf("nonce", string(l.nonce[:]))
	return hex.EncodeToString(id[:])
}

// callbacks are the logins of all blocks of a config, with their hand-overs.
type callbacks struct{ roster[*handOvers] }

// servedAt returns the others whose callback has the path of a block's own, at the host that a request names.
func (c *callbacks) servedAt(own *handOvers, r *http.Request) []*handOvers {
	return slices.DeleteFunc(c.list(), func(other *handOvers) bool {
		there, err := other.sites.of(r)
		return err != nil || other == own || there.host() != hostOf(r) ||
			!there.isRoutedAs(own.sites.with(own.sites.redirectURI))
	})
}

// sharing returns the others to which a callback may belong that reached ls, whose site it is for: those with
// the same path, at the same host or at the one that the request names. The sealed state tells which of them it
// belongs to.
func (c *callbacks) sharing(ls *logins, r *http.Request, at site) []*handOvers {
	var others []*handOvers
	for _, other := range c.list() {
		there, err := other.sites.of(r)
		if err != nil || other.logins == ls || !there.isRoutedAs(at) {
			continue
		}
		if host := there.host(); host == at.host() || host == hostOf(r) {
			others = append(others, other)
		}
	}
	return others
}
