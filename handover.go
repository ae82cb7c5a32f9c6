package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// Several hosts share one login and its sessions (hosts in the config). The redirect URI's host, the
// login host, alone talks to the authorization server and is registered there. This is how a session
// that it has gets to another host, without a cookie that both can read.
//
//	browser            app.example.com                login.example.com
//	  | GET /page            |                               |
//	  |--------------------->| sets its binding cookie       |
//	  | 302 …/callback?aventus_request=R                     |
//	  |<---------------------|                               |
//	  | GET /callback?aventus_request=R                      |
//	  |----------------------------------------------------->| no session: the login, whose
//	  |                      |                               | state holds what R does
//	  | 303 https://app.example.com/callback?aventus_ticket=T|
//	  |<-----------------------------------------------------|
//	  | GET /callback?aventus_ticket=T                       |
//	  |--------------------->| claims T, sets its session's  |
//	  | 303 /page            | cookie                        |
//	  |<---------------------|                               |
//
// The request R names the host that asks, the page, and the browser (by a hash of the host's own binding
// cookie), and counts how often the visit has asked before. It is sealed for the group: any host that has
// the keys can make it, and the login host alone answers it, within loginLifetime. The host in it must be
// a member of the group in the login host's config, when R arrives and again after a login. Of the tickets
// that answer an R, the first one that is brought counts.
//
// The ticket T is sealed for one host. It holds what R holds and the session's handle: the id of the record
// in the storage and the key to it, but no token. It is good for ticketLifetime, once (the instances agree
// on that as they do for codes), in the browser whose binding cookie R named, and while the session lives
// and the host is a member. An authentic ticket is spent by any browser that brings it, so one that went
// astray opens nothing later.
//
// What attackers can do:
//
//   - Forge or change R or T, or send either to another host: 400. Each is sealed with a purpose of its
//     own, and T's associated data name its host. The host and the port to which a browser is sent come
//     from the config and from the sealed name, never from the request that brings R or T.
//   - Make a victim follow the attacker's R: the login host makes a ticket for the attacker's browser, and
//     sends it to the victim's. There the binding cookie is missing, so the ticket is spent, and the visit
//     starts over.
//   - See a victim's R, or the state of the login that answers it, and have T made of it for the victim's
//     browser, with the attacker's session: the victim has brought a ticket for R already. The state of a
//     login that began in another browser makes no ticket.
//   - Make a victim follow the attacker's T, to have them work in the attacker's session: fails for the
//     same reason. A sibling host cannot plant the binding cookie, whose prefix is __Host-.
//   - Steal a host's cookie: it opens the session at that host, as with one host, and at no other.
//   - Run a member host: it is trusted with the sessions of its visitors. Therefore a wildcard may not
//     cover hosts of different owners.
//
// The logout of a host that has no session to end asks the login host, too, since the browser may be signed in
// there and at others. Its T does not sign in, but ends the session in it, in the browser that asked. It is never
// asked for again by itself: whoever sends a browser on with a T for another one signs nobody out. The way back to
// the logout path carries a proof P that nothing is left to end, sealed for the host and the browser that asked. A
// link without it shows no more than that the host itself has no session.
//
// A visit asks once more if the browser did not bring the binding cookie, and up to maxRounds times if the
// ticket was late or spent, or the session had ended meanwhile. After that, the host answers with an error
// that names it.
//
// All hosts share the session's id, record and end. Each has a cookie of its own, sealed for it; the record
// is bound to the group.

const (
	// requestParam and ticketParam are the parameters of the callback's path by which R and T travel. An
	// authorization server sends nothing by these names.
	requestParam = "aventus_request"
	ticketParam  = "aventus_ticket"
)

// isFresh reports whether a ticket has arrived in time. If the hosts' clocks differ too much for that, the
// age of the request counts, by this host's own clock: the ticket is younger than its request.
func (t *ticket) isFresh(now time.Time) bool {
	return now.Sub(t.issued).Abs() <= ticketLifetime || now.Sub(t.visit.asked).Abs() <= ticketLifetime
}

// tickets makes the tickets that bring a session to another host.
type tickets struct {
	sites   *sites
	box     *keyring.Box
	answers *answers
}

// issue sends the browser back to the host of a visit, with a ticket to a session that hosts share. The host
// has to be a member still. At the end of a login it is sent by a page, since the authorization server's page
// may allow its form no other origin than the redirect URI's: Chromium holds each redirect that answers the
// form against that, as answers.sendForm has it. So it is if the ticket is too long for the header.
func (ts *tickets) issue(w http.ResponseWriter, r *http.Request, v *visit, d *handle, afterLogin bool) error {
	to, err := ts.sites.member(v.host)
	if err != nil {
		return ts.answers.fail(w, r, errState, unlisted(v))
	}
	plaintext, err := (&ticket{visit: v, handle: d}).marshal()
	if err != nil {
		return ts.answers.fail(w, r, errInternal, err)
	}
	sealed, err := ts.box.Seal(r.Context(), plaintext, to.associated)
	if err != nil {
		return ts.answers.fail(w, r, errStorage, err)
	}
	location := to.callbackAt(to.origin) + "?" + ticketParam + "=" + sealed
	isTooLong := len(location) > roomIn(w.Header())
	if afterLogin && mayFollowForm(r) || isTooLong && isNavigation(r) && !isFrame(r) {
		return ts.answers.sendForm(w, location, "")
	}
	return ts.answers.redirect(w, location, http.StatusSeeOther)
}

// open returns the ticket for a host, or ErrInvalid.
func (ts *tickets) open(ctx context.Context, at site, sealed string) (*ticket, error) {
	plaintext, issued, err := ts.box.Open(ctx, sealed, at.associated)
	if err != nil {
		return nil, err
	}
	t, ok := parseTicket(plaintext, issued)
	if !ok {
		return nil, keyring.ErrInvalid
	}
	return t, nil
}

func unlisted(v *visit) error {
	return fmt.Errorf("%s, which asks for a ticket, is not listed in hosts", v.host)
}

// hostRequests makes the requests by which a host asks the login host for a ticket.
type hostRequests struct {
	cookies *cookies
	box     *keyring.Box
	answers *answers
	now     func() time.Time
}

// handOvers begins and ends logins, and brings their sessions to the other hosts that share them.
type handOvers struct {
	sites    *sites
	cookies  *cookies
	answers  *answers
	keeper   *keeper
	renewer  *renewer
	logins   *logins
	tickets  *tickets
	requests *hostRequests
	logouts  *logouts
	used     *records.Once // tickets
	replacer *replacer
	now      func() time.Time
	meter    *meter
}

// start answers a request that needs a session: at the login host with the login, at another host with a
// request for a ticket.
func (ho *handOvers) start(w http.ResponseWriter, r *http.Request, aim aim, status int) error {
	at, err := ho.sites.of(r)
	if err != nil {
		return ho.answers.noSite(w, r, err)
	}
	if at.isLoginHost() {
		return ho.logins.start(w, r, &login{returnTo: returnPath(r)}, status)
	}
	return ho.requests.ask(w, r, at, &visit{aim: aim, returnTo: returnPath(r)}, status)
}

// isDue reports whether a session's token is to be renewed by a visit of the authorization server: that is
// how a session without a refresh token lasts. It is not if a login began in this browser a moment ago, which the
// binding cookie tells: one that came to nothing must not be tried at each visit.
func (ho *handOvers) isDue(was *sent, k *keptSession, now time.Time) bool {
	if k.refresh != "" || k.givenUp != 0 {
		return false
	}
	return !now.Before(ho.renewer.dueFrom(k.session)) && !ho.cookies.beganLately(was.cookies, k.session, now)
}

// canWait reports whether a renewal can be left to a later visit.
func canWait(k *keptSession, now time.Time) bool {
	return now.Add(renewAtLast).Before(k.tokenEnds.time())
}

// comesBackWhole reports whether a renewal that start begins leads back to the very URL of a request.
func (ho *handOvers) comesBackWhole(w http.ResponseWriter, r *http.Request, at site) bool {
	if at.isLoginHost() {
		return ho.logins.fits(w, at, &login{returnTo: returnPath(r)})
	}
	plaintext, err := (&visit{aim: toRenewSession, host: at.host(), returnTo: returnPath(r)}).marshal()
	return err == nil && keyring.EncodedLen(len(plaintext)) <= ho.requests.room(w, at, toRenewSession)
}

// asksAt is the URL to which a host's requests go, up to the request.
func asksAt(at site) string { return at.callbackAt(at.login) + "?" + requestParam + "=" }

// room returns how long a host's request may be. What fits here fits the ticket, which is longer.
func (hr *hostRequests) room(w http.ResponseWriter, at site, aim aim) int {
	room := maxState - keyring.EncodedLen(ticketExtra) + keyring.EncodedLen(0)
	if aim == toEndSession { // whose path cannot be shortened
		return room
	}
	return min(room, roomIn(w.Header())-len(asksAt(at))-hr.cookies.roomForBinding())
}

// ask sends a page visit to the login host, for a ticket.
func (hr *hostRequests) ask(w http.ResponseWriter, r *http.Request, at site, v *visit, status int) error {
	if isFetchedAhead(r) { // as logins.start has it
		return hr.answers.refuse(w, r, &refusal{failure: errLoginRequired})
	}
	b := hr.cookies.bindingIn(asSent(r).cookies)
	returnTo := v.returnTo
	v = &visit{
		browser: browserOf(b.id), page: idOf("page", returnTo), restarts: v.restarts, aim: v.aim, host: at.host(),
		returnTo: returnTo,
	}
	plaintext, err := marshalToFit(hr.room(w, at, v.aim), &v.returnTo, v.marshal)
	if err != nil {
		return hr.answers.fail(w, r, errInternal, err)
	}
	if v.aim == toEndSession && v.returnTo != returnTo { // at any other path, the browser would sign in again
		return hr.answers.fail(w, r, notOutAt(at.login), errors.New("the logout's path is too long for a URL"))
	}
	sealed, err := hr.box.Seal(r.Context(), plaintext, at.group)
	if err != nil {
		return hr.answers.fail(w, r, errStorage, err)
	}
	hr.cookies.bind(w, b, hr.now())
	to := asksAt(at) + sealed
	if isForm(r) || v.aim == toEndSession && mayBeGetForm(r) {
		return hr.answers.sendForm(w, to, "")
	}
	return hr.answers.redirect(w, to, status)
}

// open returns the visit that a host asks a ticket for, or ErrInvalid.
func (hr *hostRequests) open(ctx context.Context, at site, sealed string) (*visit, error) {
	plaintext, asked, err := hr.box.Open(ctx, sealed, at.group)
	if err != nil {
		return nil, err
	}
	v, ok := parseVisit(plaintext, asked)
	if !ok {
		return nil, keyring.ErrInvalid
	}
	return v, nil
}

// sendBack sends the browser back to the logout path of a host, with a proof that nothing is left to end. It is
// sealed for that host, which a request is not, and names the browser that asked.
func (hr *hostRequests) sendBack(w http.ResponseWriter, r *http.Request, to site, v *visit) error {
	plaintext, err := (&visit{browser: v.browser, aim: toEndSession, host: v.host, returnTo: "/"}).marshal()
	if err != nil {
		return hr.answers.fail(w, r, errInternal, err)
	}
	sealed, err := hr.box.Seal(r.Context(), plaintext, to.associated)
	if err != nil {
		return hr.answers.fail(w, r, errStorage, err)
	}
	return hr.answers.redirect(w, to.origin+v.returnTo+"?"+ended+"="+sealed, http.StatusSeeOther)
}

// isProof reports whether a value was sealed by sendBack, for this host and the browser that brings it, within
// ticketLifetime. The login host's clock may differ.
func (hr *hostRequests) isProof(r *http.Request, at site, sealed string) (bool, error) {
	plaintext, since, err := hr.box.Open(r.Context(), sealed, at.associated)
	if errors.Is(err, keyring.ErrInvalid) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v, ok := parseVisit(plaintext, since)
	return ok && v.aim == toEndSession && v.host == at.host() &&
		hr.now().Sub(since) <= ticketLifetime+records.ClockSkew &&
		hr.cookies.beganIn(asSent(r).cookies, v.browser), nil
}

// finish serves the callback, and counts if a login fails.
func (ho *handOvers) finish(w http.ResponseWriter, r *http.Request) error {
	err := ho.answerCallback(w, r)
	noLogin := []string{errLoginRequired.code, errForcedLogout.code, errUnaskedLogout.code, errNotOut.code}
	if f := asSent(r).failed; f != nil && !slices.Contains(noLogin, f.code) {
		ho.meter.loginFailed(f, clientIP(r))
	}
	return err
}

// answerCallback tells apart what comes to the callback's path: at the login host, the authorization server's
// answers and other hosts' requests; at those, tickets.
func (ho *handOvers) answerCallback(w http.ResponseWriter, r *http.Request) error {
	orig := original(r)
	if orig.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		return ho.answers.fail(w, r, errMethod, nil)
	}
	at, err := ho.sites.of(r)
	if err != nil {
		// Of several blocks with this path, another may be the one for this host.
		if others := ho.logins.others.servedAt(ho, r); len(others) > 0 {
			return others[0].answerCallback(w, r)
		}
		return ho.answers.noSite(w, r, err)
	}
	params, err := parseCallback(orig.URL.RawQuery)
	if err != nil {
		return ho.answers.fail(w, r, errCallback, err)
	}
	request, asks := params[requestParam]
	sealed, brings := params[ticketParam]
	if !asks && !brings {
		// This host may be one of those that share another host's login, and have a login of its own as well.
		for _, by := range append([]*handOvers{ho}, ho.logins.others.servedAt(ho, r)...) {
			if there, err := by.sites.of(r); err == nil && there.isLoginHost() {
				return by.logins.finish(w, r, there, params)
			}
		}
	}
	switch {
	case len(params) != 1, asks == brings:
		return ho.answers.fail(w, r, errCallback, errors.New(
			"the callback's parameters are not what is taken at this host, or more than that"))
	case isFetchedAhead(r):
		return ho.answers.refuse(w, r, &refusal{failure: errLoginRequired})
	}
	// Of several blocks with this redirect URI, one is asked first, and another one sealed it.
	for _, by := range append([]*handOvers{ho}, ho.logins.others.sharing(ho.logins, r, at)...) {
		at, err := by.sites.of(r)
		if err != nil || by.sites.hosts == nil || asks != at.isLoginHost() {
			continue
		}
		if asks {
			var v *visit
			if v, err = by.requests.open(r.Context(), at, request); err == nil {
				return by.answerRequest(w, r, at, v)
			}
		} else {
			var t *ticket
			if t, err = by.tickets.open(r.Context(), at, sealed); err == nil {
				return by.redeem(w, r, at, t, sealed)
			}
		}
		if !errors.Is(err, keyring.ErrInvalid) {
			return ho.answers.fail(w, r, errStorage, err)
		}
	}
	return ho.answers.fail(w, r, errState, errors.New(
		"the callback's request or ticket was not sealed here, or not for this host and client"))
}

// answerRequest answers a host that asks for a ticket: with one, or by the login.
func (ho *handOvers) answerRequest(w http.ResponseWriter, r *http.Request, at site, v *visit) error {
	to, err := ho.sites.member(v.host)
	if err != nil {
		return ho.answers.fail(w, r, errState, unlisted(v))
	}
	was := asSent(r)
	was.visited = to.origin
	if ho.now().Sub(v.asked) > loginLifetime {
		if v.aim == toEndSession {
			return ho.answers.fail(w, r, errNotOut, errors.New("the logout at another host began too long ago"))
		}
		// The host asks again.
		return ho.answers.redirect(w, to.origin+v.returnTo, http.StatusFound)
	}
	k, err := ho.keeper.load(r.Context(), at, was.cookies, ho.now())
	if err == nil && k != nil && k.isShared() && v.restarts > 0 {
		// What this process remembers of it may have been wrong.
		k, err = ho.keeper.fetch(r.Context(), at, k.handle)
	}
	// If a session that is valid here was rejected there twice, its lifetime there is shorter: only a new
	// login helps.
	isShared := k != nil && k.isShared()
	isGood := isShared && v.restarts < maxRounds-1
	var left *handle
	if v.aim == toEndSession && err == nil && k == nil {
		left = ho.keeper.leftIn(r.Context(), at, was.cookies)
	}
	switch {
	case err != nil && v.aim == toRenewSession: // the token that the session has is still good
		ho.answers.note(r, errStorage.code, errStorage.status, err)
		return ho.answers.redirect(w, to.origin+v.returnTo, http.StatusFound)
	case err != nil:
		return ho.answers.fail(w, r, errStorage, err)
	case left != nil: // over here, but it may be in use at another host, or another of its family
		return ho.tickets.issue(w, r, v, left, false)
	case v.aim == toEndSession && k != nil && !isShared: // one from before there were hosts
		return ho.answers.fail(w, r, notOutAt(at.login), nil)
	case v.aim == toEndSession && !isShared && isEmbedded(r):
		return ho.answers.fail(w, r, errUnaskedLogout, nil)
	case v.aim == toEndSession && !isShared && isCrossSite(r) && isFrame(r): // the browser withholds the cookies
		return ho.answers.fail(w, r, errNotOut.saying("You may still be signed in: a frame of another site "+
			"cannot tell. Sign out in a tab of its own."), nil)
	case v.aim == toEndSession && !isShared: // nothing is to be ended
		return ho.requests.sendBack(w, r, to, v)
	case v.aim == toEndSession, isGood && !(v.aim == toRenewSession && ho.isDue(was, k, ho.now())):
		return ho.tickets.issue(w, r, v, k.handle, false)
	case isEmbedded(r): // nobody can sign in there
		return ho.answers.refuse(w, r, &refusal{failure: errLoginRequired})
	case v.aim == toRenewSession && k != nil && canWait(k, ho.now()) && !ho.logins.fits(w, at, &login{visit: v}):
		return ho.answers.redirect(w, to.origin+v.returnTo, http.StatusFound)
	}
	return ho.logins.start(w, r, &login{visit: v}, http.StatusFound)
}

// redeem exchanges a ticket for a session cookie of this host.
func (ho *handOvers) redeem(w http.ResponseWriter, r *http.Request, at site, t *ticket, sealed string) error {
	if t.visit.aim == toEndSession {
		return ho.endHanded(w, r, at, t, sealed)
	}
	if !t.isFresh(ho.now()) {
		return ho.askAgain(w, r, at, t.visit, maxRounds)
	}
	// Whoever sees a request can get a ticket for it with a session of their own: the first one counts.
	first, err := ho.used.Use(idOf("ticket", sealed), requestID(t.visit))
	if err != nil {
		return ho.failToRedeem(w, r, at, t, err)
	}
	if !first {
		return ho.askAgain(w, r, at, t.visit, maxRounds)
	}
	if !ho.cookies.beganIn(asSent(r).cookies, t.visit.browser) {
		return ho.askAgain(w, r, at, t.visit, maxRestarts)
	}
	k, err := ho.keeper.fetch(r.Context(), at, t.handle)
	if err != nil {
		return ho.failToRedeem(w, r, at, t, err)
	}
	if k == nil {
		return ho.askAgain(w, r, at, t.visit, maxRounds)
	}
	if err := ho.keeper.adopt(w, r.Context(), at, k); err != nil {
		return ho.failToRedeem(w, r, at, t, err)
	}
	ho.replacer.endBrought(r, ho.replacer.overwritten(r, at), k.session)
	return ho.answers.redirect(w, at.origin+t.visit.returnTo, http.StatusSeeOther)
}

// failToRedeem answers a ticket that the storage keeps from being redeemed: with the page if the browser has a session
// here, which it only wanted to renew, else with an error. A session of another family may be another person's:
// whoever has signed in as somebody else is told.
func (ho *handOvers) failToRedeem(w http.ResponseWriter, r *http.Request, at site, t *ticket, cause error) error {
	k, err := ho.keeper.load(r.Context(), at, asSent(r).cookies, ho.now())
	if err != nil || k == nil || k.family != t.handle.family {
		return ho.answers.fail(w, r, errStorage, cause)
	}
	ho.answers.note(r, errStorage.code, errStorage.status, cause)
	return ho.answers.redirect(w, at.origin+t.visit.returnTo, http.StatusSeeOther)
}

// endHanded ends the session of a ticket that the logout of this host has asked for. In another browser, or too
// late, or twice, it ends nothing, and does not ask again: an attacker may have sent the person here. The request
// is not spent with the ticket: another ticket for it, made with an attacker's session, ends that session alone,
// and must not keep the person's own ticket from ending theirs.
func (ho *handOvers) endHanded(w http.ResponseWriter, r *http.Request, at site, t *ticket, sealed string) error {
	if !t.isFresh(ho.now()) {
		return ho.answers.fail(w, r, errNotOut, errors.New("the ticket for a logout is too old"))
	}
	first, err := ho.used.Use(idOf("ticket", sealed))
	if err != nil {
		return ho.answers.fail(w, r, errStorage, err)
	}
	if !ho.cookies.beganIn(asSent(r).cookies, t.visit.browser) {
		return ho.answers.fail(w, r, errForcedLogout.saying("You were not signed out: another site tried that, or "+
			"your browser does not keep this site's cookies."), nil)
	}
	isOver, err := ho.logouts.endHanded(r, at, t.handle, first)
	switch {
	case err != nil:
		return ho.answers.fail(w, r, errStorage, fmt.Errorf("ending a session: %w", err))
	case !isOver:
		return ho.answers.fail(w, r, errNotOut, nil)
	}
	return ho.requests.sendBack(w, r, at, t.visit)
}

// requestID is what the requests of one browser for one page within one second have in common, and so all tickets that
// answer them, also where the login host had less room for the page's URL at one of them.
func requestID(v *visit) records.ID {
	return idOf("request", string(v.browser[:]), v.host, string(v.page[:]),
		strconv.FormatInt(v.asked.Unix(), 10), strconv.Itoa(int(v.restarts)))
}

// askAgain answers a ticket that makes no session: with the page if the browser has a session already, else
// with another request, up to a limit.
func (ho *handOvers) askAgain(w http.ResponseWriter, r *http.Request, at site, v *visit, limit uint8) error {
	k, err := ho.keeper.load(r.Context(), at, asSent(r).cookies, ho.now())
	switch {
	case err != nil:
		return ho.answers.fail(w, r, errStorage, err)
	case k != nil:
		return ho.answers.redirect(w, at.origin+v.returnTo, http.StatusSeeOther)
	case v.restarts >= limit:
		return ho.answers.fail(w, r, errLoginLost.naming(at.host()), nil)
	}
	again := *v
	again.restarts, again.aim = v.restarts+1, toBeginSession
	return ho.requests.ask(w, r, at, &again, http.StatusFound)
}
