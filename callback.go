package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// finish serves the authorization server's answer at the callback (RFC 6749, section 4.1.2), whose parameters
// parseCallback returned. It tells callbacks apart by their state and what it says of the login.
func (ls *logins) finish(w http.ResponseWriter, r *http.Request, at site, params map[string]string) error {
	// All other parameters are ignored until the state has been opened.
	state := params["state"]
	l, err := ls.open(r, at, state)
	isUnreadable := errors.Is(err, keyring.ErrInvalid)
	if isUnreadable {
		for _, other := range ls.others.sharing(ls, r, at) {
			if there, siteErr := other.sites.of(r); siteErr == nil {
				switch _, otherErr := other.logins.open(r, there, state); {
				case otherErr == nil:
					return other.logins.finish(w, r, there, params)
				case !errors.Is(otherErr, keyring.ErrInvalid):
					return ls.answers.fail(w, r, errStorage, otherErr)
				case !errors.Is(otherErr, keyring.ErrUnknownKey):
					err = otherErr // it has the key, and knows better
				}
			}
		}
		if l = ls.unreadable(r, state, err); l == nil {
			return ls.answers.fail(w, r, errState, errors.New(
				"the callback's state was not sealed here, or not for this site and client"))
		}
	} else if err != nil {
		return ls.answers.fail(w, r, errStorage, err)
	}
	if l.visit != nil {
		to, err := ls.sites.member(l.visit.host)
		if err != nil { // taken off the list meanwhile: nobody is signed in for its sake
			return ls.answers.fail(w, r, errState, unlisted(l.visit))
		}
		asSent(r).visited = to.origin
	}
	code, hasCode := params["code"]
	refused, hasError := params["error"]
	if hasCode == hasError || code == "" && refused == "" {
		return ls.answers.fail(w, r, errCallback, errors.New("the callback needs a code or an error, and not both"))
	}
	if isUnreadable {
		return ls.startOver(w, r, at, l, fmt.Errorf("%w; do all instances have the same keys and config?", err))
	}
	// RFC 9207, section 2.4: a server that sends it means it to be checked.
	if iss, ok := params["iss"]; ok && !aventus.SameIssuer(iss, ls.server.issuer) {
		return ls.answers.fail(w, r, errCallback, errors.New("the callback's iss is not the issuer"))
	}

	sameBrowser := ls.cookies.beganIn(asSent(r).cookies, l.browser)
	stale := ls.now().Sub(l.began) > loginLifetime
	if !sameBrowser || stale {
		return ls.startOver(w, r, at, l, nil)
	}
	if refused != "" {
		return ls.answerError(w, r, at, l, refused, params["error_description"])
	}

	first, err := ls.used.Use(idOf("code", ls.server.issuer, code), idOf("state", state))
	if err != nil {
		return ls.fail(w, r, at, l, nil, errStorage, err)
	}
	if !first {
		// Another instance or another tab has the code, or of several at once none got it. A session that is
		// here by now will do; else the login begins again.
		k, err := ls.keeper.load(r.Context(), at, asSent(r).cookies, ls.now())
		if err != nil {
			return ls.answers.fail(w, r, errStorage, err)
		}
		if l.isDoneBy(k) {
			return ls.goBack(w, r, at, l, k)
		}
		l.restarts = 0
		return ls.start(w, r, l, http.StatusFound)
	}
	return ls.exchange(w, r, at, l, state, code)
}

// callbackParams are the parameters of the callback that are used here: those of RFC 6749, section 4.1.2, and
// RFC 9207, and those of the hosts that share a login.
var callbackParams = []string{"code", "state", "error", "error_description", "iss", requestParam, ticketParam}

// parseCallback returns callbackParams. Each of them may be given once, and must be well-formed.
// All others are ignored, well-formed or not.
func parseCallback(query string) (map[string]string, error) {
	params := make(map[string]string)
	for pair := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, _ := url.QueryUnescape(rawName) // a malformed name is none of these
		if !slices.Contains(callbackParams, name) {
			continue
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("the callback has the parameter %s twice", name)
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return nil, fmt.Errorf("the callback's %s is not well-formed", name)
		}
		params[name] = value
	}
	return params, nil
}

// exchange spends the code on a token, and makes the session.
func (ls *logins) exchange(w http.ResponseWriter, r *http.Request, at site, l *login, state, code string) error {
	verifier, err := ls.verifier(r, state, l)
	if err != nil {
		return ls.fail(w, r, at, l, nil, errStorage, err)
	}
	hasLeft, done := ls.replacer.finishing(at, l)
	defer done()
	brought := ls.replacer.broughtTo(r, at)
	if l.restarts > 0 && len(brought) > 0 {
		// The browser may bring what the login was started again for, at an instance that does not know its end yet.
		ls.keeper.ends.learn(r.Context())
	}
	brought = slices.DeleteFunc(brought, ls.keeper.ends.wasEnded)
	token, tokenErr := ls.server.exchange(r.Context(), code, at.redirectURI, verifier)
	if tokenErr != nil {
		return ls.fail(w, r, at, l, nil, failureOf(tokenErr.Kind), tokenErr)
	}
	if token.RefreshToken != "" && !ls.asksForRefresh {
		// With an edited authorize URL, a visitor can ask for it. It would let the
		// session outlast its token.
		ls.replacer.revokeDropped(r, at, &session{grant: grant{bearer: bearer}, refresh: token.RefreshToken})
		token.RefreshToken = ""
	}
	if token.RefreshToken == "" && ls.asksForRefresh {
		ls.meter.noRefreshToken()
	}
	idToken, end, err := ls.server.verifyLogin(r.Context(), ls.idNonce(l), token)
	hasNone := ls.server.idTokens != nil && aventus.IDToken(token) == ""
	if err == nil && hasNone && ls.replacer.blocks.takeLogouts(ls.server) {
		// With openid taken out of an edited authorize URL, nothing may tell what the
		// session came of, and so what ends it.
		err = fmt.Errorf("%w: no ID token came, and backchannel_logout goes by it", aventus.ErrToken)
	}
	if err != nil {
		ls.replacer.revokeUnkept(r, at, l, &session{grant: grant{bearer: bearer}, refresh: token.RefreshToken})
	}
	switch {
	case errors.Is(err, errOver):
		return ls.answers.fail(w, r, errOverThere, err)
	case errors.Is(err, aventus.ErrToken):
		return ls.answers.fail(w, r, errTokenInvalid, err)
	case err != nil:
		return ls.fail(w, r, at, l, nil, failureOf(kindOf(err)), err)
	}
	s := ls.keeper.make(token, idToken)
	s.limit(end)
	if ls.sites.hosts != nil {
		s.family = ls.replacer.familyOf(r, at, l, s)
	}
	// Another instance may have ended a moment ago what the browser has, or the family, by a logout at another host;
	// or it has started the login again for an end that is not known here yet.
	if ls.sites.hosts != nil || l.restarts > 0 || len(brought) > 0 {
		ls.keeper.ends.learn(r.Context())
	}
	// A user whose sessions were ended a moment ago, by a clock that may be ahead of this one, can sign in again at
	// once. An end that comes after this question ends the session.
	if after := ls.keeper.ends.after(s); after.After(s.created.time()) {
		s.created = toUnix(after)
	}
	ended, known := ls.keeper.ends.hasMeanwhile(s, ls.replacer.familiesOf(r, at, s), l.began, l.known)
	if ended || hasLeft() || slices.ContainsFunc(brought, ls.keeper.ends.wasEnded) {
		return ls.startAnew(w, r, at, l, s, known)
	}
	if !ls.now().Before(s.tokenEnds.time()) { // within the leeway of the clocks
		ls.replacer.revokeUnkept(r, at, l, s)
		return ls.answers.fail(w, r, errTokenInvalid, errors.New("the access token has expired already"))
	}
	k, before, err := ls.keep(w, r, at, l, s)
	if err != nil {
		ls.replacer.revokeUnkept(r, at, l, s)
		if errors.Is(err, errTooLarge) {
			return ls.answers.fail(w, r, errTokenTooLong, err)
		}
		return ls.fail(w, r, at, l, s, errStorage, err)
	}
	if hasLeft() { // perhaps before the session was remembered: then the logout could not know of it
		ls.cookies.takeBack(w.Header())
		if err := ls.keeper.end(context.WithoutCancel(r.Context()), k); err != nil {
			return ls.answers.fail(w, r, errStorage, fmt.Errorf("ending a session: %w", err))
		}
		return ls.startAnew(w, r, at, l, k.session, known)
	}
	ls.meter.loginFinished()
	ls.meter.tell("login", "signed in", at.origin, k.subject(), k.name(), clientIP(r))
	ls.meter.tokenLength(len(k.bearer))
	ls.replacer.endReplaced(r, at, k.session, before)
	return ls.goBack(w, r, at, l, k)
}

// startAnew has a login begin once more whose session s has ended before the browser got it. known is the digest of
// the ends that are known, as hasMeanwhile returns it.
func (ls *logins) startAnew(
	w http.ResponseWriter, r *http.Request, at site, l *login, s *session, known records.ID,
) error {
	ls.replacer.revokeDropped(r, at, s)
	if l.restarts >= maxRestarts {
		return ls.answers.fail(w, r, errLoginLost, errors.New(
			"the authorization server has ended the session meanwhile, or the person has signed out"))
	}
	l.restarts++
	l.known = known
	return ls.start(w, r, l, http.StatusFound)
}

// keep keeps the session that a login has made, and sets its cookie. Where several hosts share it, it may be
// another tab's: see replacer.join. It also returns the sessions before that are to be ended.
//
// If the browser has left meanwhile, its session of before goes on, and the new one ends. A session that hosts share
// does not: another tab may have joined it, and it ends no session of the same person, where that is known.
func (ls *logins) keep(
	w http.ResponseWriter, r *http.Request, at site, l *login, s *session,
) (k *keptSession, before []*keptSession, err error) {
	if s.isShared() {
		if k, before, err = ls.replacer.join(r, at, l, s); err == nil {
			err = ls.keeper.hand(w, r.Context(), at, k)
		}
		return k, before, err
	}
	if k, err = ls.keeper.save(w, r.Context(), at, asSent(r).cookies, s, at.origin+l.returnTo); err != nil {
		return nil, nil, err
	}
	if err := r.Context().Err(); err != nil { // the browser has left, and does not get the cookie
		return nil, nil, errors.Join(err, ls.keeper.end(context.WithoutCancel(r.Context()), k))
	}
	return k, ls.replacer.remember(at, l, k), nil
}

// fail ends a callback with an error for which the authorization server, the way to it or the storage is to blame,
// unless the visitor has a session that will do: it was a renewal by visit, say, or another tab's. s is the session
// that could not be kept, if it has come so far: whoever has signed in as somebody else is told.
func (ls *logins) fail(
	w http.ResponseWriter, r *http.Request, at site, l *login, s *session, f failure, cause error,
) error {
	k, err := ls.keeper.load(r.Context(), at, asSent(r).cookies, ls.now())
	if err != nil || !l.isDoneBy(k) || s != nil && s.subject() != k.subject() || r.Context().Err() != nil {
		return ls.answers.fail(w, r, f, cause)
	}
	ls.answers.note(r, f.code, f.status, cause)
	asSent(r).failed = &f
	return ls.goBack(w, r, at, l, k)
}

// answerError answers a callback with an error (RFC 6749, section 4.1.2.1).
func (ls *logins) answerError(
	w http.ResponseWriter, r *http.Request, at site, l *login, code, description string,
) error {
	// The login began in this browser, so these are the server's words, and no other page's.
	asSent(r).serverSaid = serverWords{aventus.Words(code), aventus.Words(description)}
	cause := &answeredError{aventus.CleanText(code), aventus.CleanText(description)}
	switch code {
	case "access_denied": // the person's own answer, or a rule's about them: they are told
		return ls.answers.fail(w, r, errDenied, cause)
	case "temporarily_unavailable":
		return ls.fail(w, r, at, l, nil, errServerBusy, cause)
	}
	return ls.fail(w, r, at, l, nil, errServer, cause)
}

// answeredError is what the authorization server said at the callback, cleaned.
type answeredError struct{ code, description string }

func (e *answeredError) Error() string {
	return "the authorization server answered " + e.code + ": " + e.description
}

// Advice returns what the operator can do, if the words say that it is for them, or "".
func (e *answeredError) Advice() string {
	switch {
	case e.code == "access_denied" && strings.HasPrefix(e.description, "Service not found"): // as Auth0 says it
		return "the authorization server knows no API by the identifier in audience: compare it with the API's " +
			"identifier there, to the letter, or leave audience out if there is no API"
	case e.code == "unauthorized_client":
		return "check that the client may use the authorization code grant, and that the API of audience was " +
			"granted to it"
	case e.code == "invalid_scope":
		return "the authorization server does not know, or does not allow, one of the scopes in scope"
	}
	return ""
}

// isDoneBy reports whether a session, which may be nil, is what a login was for. To another host, no session
// goes that is this one's alone.
func (l *login) isDoneBy(k *keptSession) bool { return k != nil && (l.visit == nil || k.isShared()) }

// goBack sends the visitor, who has a session by now, to where they wanted to go. The origin stands in
// front, so whatever the path looks like, a browser stays on the site.
func (ls *logins) goBack(w http.ResponseWriter, r *http.Request, at site, l *login, k *keptSession) error {
	if l.visit != nil {
		return ls.tickets.issue(w, r, l.visit, k.handle, true)
	}
	return ls.answers.redirect(w, at.origin+l.returnTo, http.StatusSeeOther)
}
