package aventusauth

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// failure is the status, code and sentence that a visitor, and the site's error pages, get.
type failure struct {
	status      int
	code        string
	description string
}

func (f failure) Error() string { return f.code + ": " + f.description }

// naming returns the failure with a host in place of "this site".
func (f failure) naming(host string) failure {
	f.description = strings.Replace(f.description, "this site", host, 1)
	return f
}

// saying returns the failure with another sentence.
func (f failure) saying(description string) failure {
	f.description = description
	return f
}

// notOutAt is the failure of a logout that the login host, whose origin it is, has to begin itself.
func notOutAt(login string) failure {
	return errNotOut.saying("You may still be signed in at " + login + "/. Sign out there first.")
}

// These are all failures that visitors are told of. The codes are stable, and docs/reference.md lists them.
var (
	errLoginRequired = failure{http.StatusUnauthorized, "login_required", "You need to sign in."}
	errBadHost       = failure{http.StatusBadRequest, "invalid_host",
		"This site is not available under this name."}
	errUnlisted = failure{http.StatusMisdirectedRequest, "unlisted_host",
		"This site is not available under this name."}
	errMethod = failure{http.StatusMethodNotAllowed, "method_not_allowed",
		"This address does not accept this kind of request."}
	errForcedLogout = failure{http.StatusForbidden, "cross_site_logout",
		"Another site tried to sign you out."}
	errUnaskedLogout = failure{http.StatusForbidden, "unasked_logout",
		"You were not signed out, because your browser loaded this address ahead of time, or as a part of a page."}
	errNotOut = failure{http.StatusBadRequest, "logout_unfinished",
		"You may still be signed in. Sign out again."}
	errTooEarly = failure{http.StatusTooEarly, "too_early", "This request came too early. Try again."}
	errInternal = failure{http.StatusInternalServerError, "internal_error",
		"Something went wrong at this site."}
	errStorage = failure{http.StatusServiceUnavailable, "storage_unavailable",
		"Sign-in is temporarily unavailable. Try again soon."}
	errCallback = failure{http.StatusBadRequest, "invalid_callback",
		"This is not a valid answer from the sign-in server. Start again from the site."}
	errState = failure{http.StatusBadRequest, "invalid_state",
		"This sign-in was not started here. Start again from the site."}
	errLoginLost = failure{http.StatusBadRequest, "login_lost",
		"The sign-in took too long, or your browser does not keep this site's cookies. Start again from the site."}
	errDenied     = failure{http.StatusForbidden, "access_denied", "Sign-in was cancelled or denied."}
	errServerBusy = failure{http.StatusServiceUnavailable, "server_unavailable",
		"The sign-in server is unavailable for the moment. Try again soon."}
	errServer = failure{http.StatusBadGateway, "server_error",
		"The sign-in server could not sign you in. Try again soon."}
	errTokenTimeout = failure{http.StatusGatewayTimeout, "token_timeout",
		"The sign-in server did not answer in time. Try again soon."}
	errToken = failure{http.StatusBadGateway, "token_refused",
		"The sign-in server did not confirm your sign-in. Try again."}
	errTokenInvalid = failure{http.StatusBadGateway, "token_invalid",
		"The sign-in server sent something that this site cannot trust. Try again."}
	errOverThere = failure{http.StatusBadGateway, "session_over",
		"The sign-in server says that your session there has ended already. Sign out there, and sign in again."}
	errGone         = failure{499, "client_gone", "The request was cancelled."} // as reverse_proxy does
	errTokenTooLong = failure{http.StatusBadGateway, "token_too_large",
		"Your sign-in worked, but what came with it is too large for this site to keep."}
	errBearer = failure{http.StatusUnauthorized, "invalid_token",
		"The access token is not valid here."}
	errScope = failure{http.StatusForbidden, "insufficient_scope",
		"You are signed in, but may not open this page."}
	errClaim = failure{http.StatusForbidden, "insufficient_claim",
		"You are signed in, but may not open this page."}
	errRenewal = failure{http.StatusServiceUnavailable, "renewal_unavailable",
		"Your session cannot be renewed for the moment. Try again soon."}
)

// failures are all of them.
var failures = []failure{
	errLoginRequired, errBadHost, errUnlisted, errMethod, errForcedLogout, errUnaskedLogout, errNotOut, errInternal,
	errStorage, errCallback, errState, errLoginLost, errDenied, errServerBusy, errServer, errTokenTimeout, errToken,
	errTokenInvalid, errOverThere, errGone, errTokenTooLong, errBearer, errScope, errClaim, errRenewal, errTooEarly,
}

// failureOf returns the failure that a visitor sees of a failed request to the authorization server.
func failureOf(kind aventus.Kind) failure {
	switch kind {
	case aventus.TimedOut:
		return errTokenTimeout
	case aventus.Unavailable:
		return errServerBusy
	}
	return errToken
}

// kindOf returns the kind of an error that kept a token from being verified.
func kindOf(err error) aventus.Kind {
	var e *aventus.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return aventus.Unreachable
}

// refusal says why a request gets no further.
type refusal struct {
	failure
	cause    error
	user     *grant // whose request it is; nil if that is not known
	isClient bool   // it came with a token of its own, and no session
}

// errTooLarge says that a session cannot be kept.
var errTooLarge = errors.New("the access token, or the claims of the ID token, are longer than 64 KiB")

// errOver says that the session has ended already by the ID token's session_expiry.
var errOver = errors.New("the ID token's session_expiry has passed already")

const storageAdvice = "check Caddy's storage (the global option storage; by default, files in its data directory): " +
	"can Caddy reach it, read it and write to it?"

// advice returns what the operator can do about an error, or nothing.
func advice(err error) zap.Field {
	var adviser interface{ Advice() string }
	text := ""
	switch {
	case errors.As(err, &adviser):
		text = adviser.Advice()
	case errors.Is(err, records.ErrStorage):
		text = storageAdvice
	case errors.Is(err, aventus.ErrToken):
		text = "check issuer, audience and jwks_url against what the authorization server signs, and the " +
			"clocks of both"
	case errors.Is(err, errOver):
		text = "compare the clocks, and see what sets session_expiry at the authorization server: " +
			"the connection that the person signs in by, or a rule there"
	case errors.Is(err, errTooLarge):
		text = "have the authorization server put less into its tokens"
	}
	if text == "" {
		return zap.Skip()
	}
	return zap.String("advice", text)
}

// failureOfMatcher returns the failure of a matcher. In early data (0-RTT), which Caddy takes over HTTP/3, remote_ip
// and client_ip do not believe the address: browsers that are told so send the request again (RFC 8470, section 5.2).
func failureOfMatcher(err error) failure {
	var failed caddyhttp.HandlerError
	if errors.As(err, &failed) && failed.StatusCode == http.StatusTooEarly {
		return errTooEarly
	}
	return errInternal
}
