package aventusauth

import (
	"errors"
	"net/http"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// unreadable returns what is left of a login whose state cannot be opened, because the keys or the config have
// changed since it began. It returns nil if the state is none of such a login in this browser: a forged one, say.
//
// A state that names an unknown key may be forged, so nothing in it is trusted: the login that replaces it
// returns to the root of the site. That login begins only in a browser in which one has begun in the last hour,
// which no other site can feign. It begins once, as the mark of its state says, so that two instances with
// different keys do not send a visitor to and fro. A forged state has the effect of a link to the site.
func (ls *logins) unreadable(r *http.Request, state string, cause error) *login {
	var outdated *outdatedError
	if errors.As(cause, &outdated) {
		if l, ok := parseLogin(outdated.plaintext, outdated.began); ok {
			if isAgain(state) != (l.restarts > 0) || !ls.cookies.beganIn(asSent(r).cookies, l.browser) {
				return nil
			}
			if l.visit != nil && ls.sites.hosts == nil { // the config has no other hosts any more
				l.visit, l.returnTo = nil, "/"
			}
			return l
		}
	} else if !errors.Is(cause, keyring.ErrUnknownKey) {
		return nil
	}
	for value := range cookieValues(asSent(r).cookies, ls.cookies.binding) {
		if b, ok := parseBinding(value); ok && b.isWithin(loginLifetime+records.ClockSkew, ls.now()) {
			l := &login{returnTo: "/"}
			if isAgain(state) {
				l.restarts = maxRestarts
			}
			return l
		}
	}
	return nil
}

// startOver starts a login again that cannot be finished, once: an authentic one, or what unreadable returned.
func (ls *logins) startOver(w http.ResponseWriter, r *http.Request, at site, l *login, cause error) error {
	// Whoever is signed in has what this login was for: another tab was faster. If it began in another browser,
	// so did the visit of the other host: a ticket would be good in that browser, for the session of this one.
	if k, err := ls.keeper.load(r.Context(), at, asSent(r).cookies, ls.now()); err == nil && l.isDoneBy(k) {
		if l.visit != nil && !ls.cookies.beganIn(asSent(r).cookies, l.browser) {
			to, err := ls.sites.member(l.visit.host)
			if err != nil {
				return ls.answers.fail(w, r, errState, unlisted(l.visit))
			}
			return ls.answers.redirect(w, to.origin+l.visit.returnTo, http.StatusFound)
		}
		return ls.goBack(w, r, at, l, k)
	}
	if l.restarts >= maxRestarts {
		return ls.answers.fail(w, r, errLoginLost.naming(at.host()), cause)
	}
	l.restarts++
	return ls.start(w, r, l, http.StatusFound)
}
