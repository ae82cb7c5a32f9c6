package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

const (
	// signedOut is the query with which the authorization server sends the browser
	// back to the logout path, when it has ended its session.
	signedOut = "signed_out"

	// ended is the query's parameter that leads back to the logout path by way of the login host: the proof that
	// nothing is left to end.
	ended = "ended"

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
	blocks := lo.blocks.atHost(lo.own, r, at)
	sharing := lo.sharing(blocks)
	if orig.Method == http.MethodGet {
		switch query := orig.URL.RawQuery; {
		case query == forget:
			return lo.serveForget(w, r, at)
		case query == signedOut && lo.provider:
			return lo.serveSignedOut(w, r, at, lo.showSignedOut)
		case (lo.own.sites.hosts != nil || len(sharing) > 0) &&
			(query == ended || strings.HasPrefix(query, ended+"=")):
			return lo.serveEnded(w, r, blocks, sharing, strings.TrimPrefix(query, ended+"="))
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
	// The cookies go in any case; that copies of them are no good any more needs the
	// storage.
	for _, b := range blocks {
		if hasCookie(asSent(r).cookies, b.cookies.session) {
			b.cookies.clear(w)
		}
	}
	var sessions []held
	cookies, ip := asSent(r).cookies, clientIP(r)
	if err := patiently(r, func(ctx context.Context) (err error) {
		sessions, err = lo.end(ctx, blocks, cookies, ip)
		return err
	}); err != nil {
		return lo.answers.fail(w, r, errStorage, fmt.Errorf("ending a session: %w", err))
	}
	// The browser may be signed in at other hosts, as the login host knows.
	sharing = slices.DeleteFunc(sharing, func(b present) bool {
		return slices.ContainsFunc(sessions, func(s held) bool { return s.isShared() && s.by.isOfGroup(b) })
	})
	if len(sharing) > 0 && isNavigation(r) {
		return lo.ask(w, r, sharing[0])
	}
	return lo.goOn(w, r, blocks)
}

// sharing returns those of some blocks with this logout path whose login is another host's, one of each group. The
// first block that a request meets answers, and need not be one of them.
func (lo *logouts) sharing(blocks []present) (found []present) {
	for _, b := range blocks {
		if b.sites.hosts != nil && !b.at.isLoginHost() && b.logoutPath == lo.path &&
			!slices.ContainsFunc(found, b.isOfGroup) {
			found = append(found, b)
		}
	}
	return found
}

// ask has the login host of a block end the session there.
func (lo *logouts) ask(w http.ResponseWriter, r *http.Request, b present) error {
	path, _, _ := strings.Cut(returnPath(r), "?")
	return b.requests.ask(w, r, b.at, &visit{aim: toEndSession, returnTo: path}, http.StatusSeeOther)
}

// patiently calls what ends sessions. A storage that hangs has it go on without the visitor, and without the
// request, which is in use here.
func patiently(r *http.Request, end func(context.Context) error) error {
	ctx := context.WithoutCancel(r.Context())
	done := make(chan error, 1)
	go func() { done <- end(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(logoutPatience):
		return fmt.Errorf("%w: it takes more than %s", records.ErrStorage, logoutPatience)
	}
}

// goOn answers a browser whose sessions have ended. The first of the blocks is the logout's own.
func (lo *logouts) goOn(w http.ResponseWriter, r *http.Request, blocks []present) error {
	if lo.provider { // or whoever comes back is signed in again in silence, whatever is done here
		lo.forgetLogins(w, blocks, asSent(r).cookies)
	}
	at := blocks[0].at
	to := lo.next(at)
	switch {
	case to == "":
		return lo.showSignedOut(w)
	case (isForm(r) || mayBeGetForm(r)) && !isPath(to) && !strings.HasPrefix(to, at.origin+"/"):
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

// end ends the sessions that a browser has at some blocks, and returns them.
func (lo *logouts) end(ctx context.Context, blocks []present, cookies []string, ip string) ([]held, error) {
	sessions, err := heldBy(ctx, blocks, cookies)
	sessions = slices.DeleteFunc(sessions, func(s held) bool { return !s.canEnd() })
	failed := []error{err, endAll(ctx, sessions, ip)}
	for _, b := range blocks {
		// What is left of one that is over, or was replaced, tells which others are of its family.
		for _, family := range b.keeper.familiesIn(ctx, b.at, cookies) {
			if !slices.ContainsFunc(sessions, func(s held) bool { return s.family == family }) {
				failed = append(failed, endFamily(ctx, b, family))
			}
		}
		// What endReplaced would end at the next login.
		for value := range cookieValues(cookies, b.cookies.binding) {
			id, _, _ := strings.Cut(value, ".")
			failed = append(failed, lo.replacer.endLatest(ctx, b, browserOf(id)))
		}
	}
	return sessions, errors.Join(failed...)
}

// endFamily ends a family of which the browser has no session here, unless it has ended within this second: whoever
// plays such a cookie back has nothing written each time.
func endFamily(ctx context.Context, b present, family records.ID) error {
	if b.keeper.ends.hasFamilyUntil(family, b.keeper.now()) {
		return nil
	}
	return b.keeper.endFamily(ctx, family)
}

// endHanded ends the session of a ticket, which the browser has at another host, if the ticket is brought for the
// first time, and what else is of its family. By the limits of this block, it may be over already. It reports whether
// the session has ended.
func (lo *logouts) endHanded(r *http.Request, at site, d *handle, first bool) (isOver bool, err error) {
	by := present{lo.own, at}
	s, err := by.keeper.store.fetch(r.Context(), at, d)
	if err != nil {
		return false, err
	}
	handed := held{&keptSession{session: s, handle: d}, by}
	isOver = s == nil || !handed.canEnd() // deleted, also where its end could not be written
	if !first {
		return isOver && !by.keeper.ends.isAnyUnwritten("", "", d.id, d.family), nil
	}
	ip := clientIP(r)
	err = patiently(r, func(ctx context.Context) error {
		if isOver {
			return endFamily(ctx, by, d.family)
		}
		return endAll(ctx, []held{handed}, ip)
	})
	return err == nil, err
}

// endAll ends sessions, all at once: each has ended here at once, whatever becomes of the others.
func endAll(ctx context.Context, sessions []held, ip string) error {
	var ending sync.WaitGroup
	failed := make([]error, len(sessions))
	for i, s := range sessions {
		ending.Go(func() {
			var newest *session
			if newest, failed[i] = s.by.keeper.endNewest(ctx, s.by.at, s.keptSession); failed[i] == nil {
				s.by.meter.tell("logout", "signed out", s.by.at.origin, newest.subject(), newest.name(), ip)
			}
			go s.by.server.revoke(ctx, newest)
		})
	}
	ending.Wait()
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

// serveEnded answers the browser that comes back by way of the login host. Where the hosts are of several domains,
// that is a navigation from another site, so a proof tells it from a link that was made up. Such a link must not
// lead to the authorization server's logout. The proof also says which login host was asked: the next one is asked
// then.
func (lo *logouts) serveEnded(w http.ResponseWriter, r *http.Request, blocks, sharing []present, proof string) error {
	if isFetchedAhead(r) || isEmbedded(r) {
		return lo.answers.fail(w, r, errUnaskedLogout, nil)
	}
	show := lo.showNoSession
	for i, b := range sharing {
		isProven, err := b.requests.isProof(r, b.at, proof)
		if err != nil {
			return lo.answers.fail(w, r, errStorage, err)
		}
		if isProven {
			show = func(w http.ResponseWriter) error {
				if next := sharing[i+1:]; len(next) > 0 {
					return lo.ask(w, r, next[0])
				}
				return lo.goOn(w, r, blocks)
			}
		}
	}
	return lo.serveSignedOut(w, r, blocks[0].at, show)
}

// serveSignedOut answers the browser that comes back from the authorization server's
// logout, or by way of the login host, with what show does. Whoever is signed in, by another
// tab or by a link that was made up, is not told otherwise, and stays signed in.
func (lo *logouts) serveSignedOut(
	w http.ResponseWriter, r *http.Request, at site, show func(http.ResponseWriter) error,
) error {
	if isCrossSite(r) && isFrame(r) {
		// A browser sends none of our cookies there (SameSite), so nothing tells whether the person is signed in.
		return lo.answers.fail(w, r, errForcedLogout, nil)
	}
	signedIn, err := lo.isSignedIn(r, at)
	switch {
	case err != nil:
		return lo.answers.fail(w, r, errStorage, err)
	case !signedIn:
		return show(w)
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
		if !s.isRead() {
			continue
		}
		_, reason, readErr := s.by.keeper.judge(r.Context(), s.keptSession, s.by.keeper.now())
		if reason == "" && readErr == nil {
			return true, nil
		}
		err = errors.Join(err, readErr)
	}
	return false, err
}

// showSignedOut answers with a page that says that the person is signed out. It does not go to the site by itself:
// that would sign in again, in silence.
func (lo *logouts) showSignedOut(w http.ResponseWriter) error {
	return lo.answers.page(w, "'none'", "<title>You are signed out</title>", `<h1>You are signed out</h1>
<p>Your session at this site has ended.</p>
<p><a href="/">Sign in again</a></p>
`+forgetImage)
}

// showNoSession answers with a page that says no more than what this host knows.
func (lo *logouts) showNoSession(w http.ResponseWriter) error {
	return lo.answers.page(w, "'none'", "<title>You are not signed in here</title>",
		`<h1>You are not signed in at this site</h1>
<p>You may be signed in at other sites that share its login.</p>
<p><a href="?">Sign out at all of them</a></p>
<p><a href="/">Sign in</a></p>
`)
}

// The image is loaded lazily, so that the page is complete without it.
const (
	forgetImage = `<img src="?` + forget + `" alt="" loading="lazy">
`
)
