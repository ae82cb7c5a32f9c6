package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

const (
	// signedOut is the query with which the authorization server sends the browser
	// back to the logout path, when it has ended its session.
	signedOut = "signed_out"

	// forget is the query of an image that has the browser drop the pages it keeps.
	forget = "forget"
)

// logouts ends sessions by their visitor's wish.
type logouts struct {
	path      string
	returnURL string // empty: a page of our own
	provider  bool   // by way of the authorization server's logout

	own      *neighbour
	blocks   *neighbours
	replacer *replacer
	answers  *answers
}

// leave signs out, at the logout path of a block. It ends each session that the browser has at this
// host, by whichever block: a person who signs out cannot know of blocks. One that cannot be ended
// keeps none of the others from it.
func (lo *logouts) leave(w http.ResponseWriter, r *http.Request) error {
	orig := original(r)
	if orig.Method != http.MethodGet && orig.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		return lo.answers.fail(w, r, errMethod, nil)
	}
	at, err := lo.own.sites.of(r)
	if err != nil {
		return lo.answers.noSite(w, r, err)
	}
	if orig.Method == http.MethodGet {
		switch query := orig.URL.RawQuery; {
		case query == forget:
			return lo.serveForget(w, r, at)
		case query == signedOut && lo.provider:
			return lo.serveSignedOut(w, r, at)
		}
	}
	// Another site may link to the logout, but then the person, who sees nothing
	// of it, is not to be signed out.
	if isCrossSite(r) {
		return lo.answers.fail(w, r, errForcedLogout, nil)
	}
	// Nor by what a browser fetches without being asked to.
	if isFetchedAhead(r) || isEmbedded(r) {
		return lo.answers.fail(w, r, errUnaskedLogout, nil)
	}
	blocks := lo.blocks.atHost(lo.own, r, at)
	// The cookies go in any case; that copies of them are no good any more needs the
	// storage.
	for _, b := range blocks {
		if hasCookie(asSent(r).cookies, b.cookies.session) {
			b.cookies.clear(w)
		}
	}
	// A storage that hangs has the rest of it go on without the visitor, and without the request, which is
	// in use here.
	ctx, cookies, ip := context.WithoutCancel(r.Context()), asSent(r).cookies, clientIP(r)
	done := make(chan error, 1)
	go func() { done <- lo.end(ctx, blocks, cookies, ip) }()
	select {
	case err = <-done:
	case <-time.After(logoutPatience):
		err = fmt.Errorf("%w: it takes more than %s", records.ErrStorage, logoutPatience)
	}
	if err != nil {
		return lo.answers.fail(w, r, errStorage, fmt.Errorf("ending a session: %w", err))
	}
	if lo.provider { // or whoever comes back is signed in again in silence, whatever is done here
		lo.forgetLogins(w, blocks, cookies)
	}
	to := lo.next(at)
	switch {
	case to == "":
		return lo.showSignedOut(w)
	case isForm(r) && !isPath(to) && !strings.HasPrefix(to, at.origin+"/"):
		return lo.answers.sendForm(w, to, forgetImage)
	}
	return lo.answers.redirect(w, to, http.StatusSeeOther)
}

// forgetLogins has the logins of a browser that are under way, renewals by visit among them, begin anew when they
// come back: their codes are older than the logout. While an end is still to be written, it is not called, since
// the next logout has to know the browser.
func (lo *logouts) forgetLogins(w http.ResponseWriter, blocks []present, lines []string) {
	for _, b := range blocks {
		if hasCookie(lines, b.cookies.binding) {
			b.cookies.set(w, b.cookies.binding, "", 0)
		}
	}
}

// end ends the sessions that a browser has at some blocks, all at once: each has ended here at once, whatever
// becomes of the others.
func (lo *logouts) end(ctx context.Context, blocks []present, cookies []string, ip string) error {
	sessions, err := heldBy(ctx, blocks, cookies)
	var ending sync.WaitGroup
	failed := make([]error, len(sessions))
	for i, s := range sessions {
		ending.Go(func() {
			if !s.canEnd() {
				return
			}
			var newest *session
			if newest, failed[i] = s.by.keeper.endNewest(ctx, s.by.at, s.keptSession); failed[i] == nil {
				s.by.meter.tell("logout", "signed out", s.by.at.origin, newest.subject(), newest.name(), ip)
			}
			go s.by.server.revoke(ctx, newest)
		})
	}
	ending.Wait()
	failed = append(failed, err)
	for _, b := range blocks { // what endReplaced would end at the next login
		for value := range cookieValues(cookies, b.cookies.binding) {
			id, _, _ := strings.Cut(value, ".")
			failed = append(failed, lo.replacer.endLatest(ctx, b, browserOf(id)))
		}
	}
	return errors.Join(failed...)
}

// registered returns where the authorization server's logout page sends the browser back, as it has to be
// registered there: a path of the site, or a URL; empty: nowhere.
func (lo *logouts) registered() string {
	switch {
	case !lo.provider:
		return ""
	case lo.returnURL == "":
		return lo.path + "?" + signedOut
	}
	return lo.returnURL
}

// next returns where the browser goes from the logout, or "" for a page of
// our own: by way of the authorization server's logout, if that is wanted.
func (lo *logouts) next(at site) string {
	if !lo.provider {
		return lo.returnURL
	}
	to := lo.registered()
	if isPath(to) {
		to = at.origin + to
	}
	params := url.Values{"client_id": {lo.own.server.clientID}, "returnTo": {to}}
	return lo.own.server.issuer + "v2/logout?" + params.Encode()
}

// serveSignedOut answers the browser that comes back from the authorization server's
// logout. Whoever is signed in, by another tab or by a link that was made up, is not
// told otherwise, and stays signed in.
func (lo *logouts) serveSignedOut(w http.ResponseWriter, r *http.Request, at site) error {
	signedIn, err := lo.isSignedIn(r, at)
	switch {
	case err != nil:
		return lo.answers.fail(w, r, errStorage, err)
	case !signedIn:
		return lo.showSignedOut(w)
	case isCrossSite(r):
		return lo.answers.fail(w, r, errForcedLogout, nil)
	}
	return lo.answers.redirect(w, at.origin+"/", http.StatusSeeOther)
}

// serveForget has the browser drop what it keeps of the site's pages, so that its back
// button shows none of them after a logout (https://www.w3.org/TR/clear-site-data/).
//
// The logout's own answer would be too early: the page that is left is put into the
// back/forward cache once the next one is there. And the browser would wait with the
// next page until its whole cache is searched, which takes seconds.
func (lo *logouts) serveForget(w http.ResponseWriter, r *http.Request, at site) error {
	if isCrossSite(r) {
		return lo.answers.fail(w, r, errForcedLogout, nil)
	}
	signedIn, err := lo.isSignedIn(r, at)
	switch {
	case err != nil:
		return lo.answers.fail(w, r, errStorage, err)
	case signedIn: // nothing is to be forgotten
		return lo.answers.fail(w, r, errUnaskedLogout, nil)
	}
	w.Header().Set("Clear-Site-Data", `"cache"`)
	return lo.answers.empty(w, http.StatusNoContent)
}

// isSignedIn reports whether the browser has a session at this host, of any block.
func (lo *logouts) isSignedIn(r *http.Request, at site) (bool, error) {
	sessions, err := heldBy(r.Context(), lo.blocks.atHost(lo.own, r, at), asSent(r).cookies)
	for _, s := range sessions {
		if s.isRead() && s.by.keeper.whyOver(s.keptSession) == "" {
			return true, nil
		}
	}
	return false, err
}

// showSignedOut answers with a page that says that the person is signed out.
func (lo *logouts) showSignedOut(w http.ResponseWriter) error {
	return lo.answers.page(w, "'none'", "<title>You are signed out</title>", `<h1>You are signed out</h1>
<p>Your session at this site has ended.</p>
<p><a href="/">Sign in again</a></p>
`+forgetImage)
}

// The page does not go to the site by itself: that would sign in again, in silence.
// The image is loaded lazily, so that the page is complete without it.
const (
	forgetImage = `<img src="?` + forget + `" alt="" loading="lazy">
`
)
