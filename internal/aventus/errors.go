package aventus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/oauth2"
)

// Kind says why there is no token.
type Kind int

const (
	Unreachable Kind = iota // no answer came: DNS, TCP, TLS, a broken connection
	TimedOut                // no answer came in time
	Unavailable             // the server cannot answer now: 429 or 503
	Refused                 // the server refused the request
	Malformed               // the answer is not a valid one
)

// String returns the name of the kind in metrics.
func (k Kind) String() string {
	return [...]string{"unreachable", "timed_out", "unavailable", "refused", "malformed"}[k]
}

// endpoint is what a request to the authorization server was for.
type endpoint int

const (
	tokenURL endpoint = iota
	revokeURL
	keySetURL
)

// String returns the name of the endpoint in a log.
func (e endpoint) String() string {
	return [...]string{"the token endpoint", "the revocation endpoint", "the key set"}[e]
}

// directive returns the subdirective that sets the endpoint's URL.
func (e endpoint) directive() string {
	return [...]string{"token_url", "revoke_url", "jwks_url"}[e]
}

// Error says why a request to the authorization server failed: a token request, unless the text names
// another. Its text is for the operator's log: it holds the server's text, cleaned, and no secret.
type Error struct {
	Kind   Kind
	Status int   // the answer's HTTP status; 0 without an answer
	Err    error // the cause: an [*oauth2.RetrieveError] if the server refused the request
	of     endpoint
	renews bool // it was sent a refresh token, and not a code

	// Unanswered says that the request was sent and no answer came: the server may or
	// may not have processed it. It is false if the server declared the request as not
	// processed.
	Unanswered bool
}

// errUnanswered is wrapped by those errors for which an Error is Unanswered.
var errUnanswered = errors.New("no answer came to the request")

func (e *Error) Error() string {
	s := e.of.String()
	if e.Status != 0 {
		s = fmt.Sprintf("%s answered %d", s, e.Status)
	}
	if said := e.said(); said != nil {
		if said.ErrorCode != "" {
			s += " " + said.ErrorCode
		}
		if said.ErrorDescription != "" {
			s += ": " + said.ErrorDescription
		}
	} else if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// said returns the server's refusal; nil for other errors.
func (e *Error) said() *oauth2.RetrieveError {
	said, _ := e.Err.(*oauth2.RetrieveError)
	return said
}

// code returns the error (RFC 6749, section 5.2) of a refusal, cleaned, or "".
func (e *Error) code() string {
	if said := e.said(); said != nil {
		return said.ErrorCode
	}
	return ""
}

func (e *Error) Unwrap() error { return e.Err }

// Advice returns what the operator can do about the error, or "".
func (e *Error) Advice() string {
	switch {
	case e.Kind == Unreachable:
		return fmt.Sprintf("check that this server can reach %s (DNS, firewall, proxy, TLS)", e.of)
	case e.Kind == TimedOut:
		return fmt.Sprintf("%s is slow or hangs; see the authorization server's status", e.of)
	case e.Status == http.StatusTooManyRequests:
		return "the authorization server limits the rate of requests; see its quota"
	case e.Kind == Unavailable, e.of == keySetURL && e.Status >= http.StatusInternalServerError:
		return "the authorization server is down for now; logins work again when it does"
	case e.of == keySetURL:
		return "check issuer and jwks_url"
	}
	// The cases below are answers to a request with the client's credentials.
	switch code := e.code(); {
	case e.renews && code == "invalid_grant":
		return "the refresh token was revoked, used before, or too old, or the person is blocked: " +
			"they sign in again; " +
			"if it happens to many, instances may not share a storage, or one was put back from a copy"
	case e.renews && code == "unauthorized_client":
		return "check that the client may use the refresh token grant, and that the API of audience allows " +
			"offline access"
	case e.renews && (code == "access_denied" || strings.HasSuffix(code, "_required")):
		return "the authorization server, or a rule there, wants the person to be present: they sign in again at " +
			"the next page visit"
	case code == "invalid_client", e.Status == http.StatusUnauthorized:
		return "the authorization server refused the client's credentials: check client_id, client_secret and " +
			"token_auth"
	case code == "access_denied": // Auth0 says this of credentials as well, with a 401
		return "the authorization server, or a rule there, refused this person; " +
			"if everybody is refused, check client_id, client_secret and token_auth"
	case e.of == tokenURL && code == "unauthorized_client":
		return "check that redirect_uri is registered for this client, " +
			"that it may use the authorization code grant, " +
			"and that the API of audience was granted to it: a third-party client (tpc_...) needs a grant for each"
	case e.of == tokenURL && code == "invalid_grant":
		return "the code was wrong, used or too old; if every login fails so, check client_id and redirect_uri"
	case e.of == revokeURL && code == "unsupported_token_type": // RFC 7009, section 2.2.1
		return "the authorization server revokes no refresh tokens: set revoke_url to off"
	case e.Status/100 == 3:
		return fmt.Sprintf("%s redirects, which is not followed, for the request holds the client's secret: "+
			"set %s to where it is", e.of, e.of.directive())
	case e.Status >= 500:
		return "the authorization server, or what stands in front of it, is broken for now; see its status"
	case e.renews && code == "unsupported_grant_type":
		return "the token endpoint may want another kind of body (see token_request), or the authorization server " +
			"renews no tokens: then leave offline_access out of scope"
	case e.Status == http.StatusUnsupportedMediaType, code == "unsupported_grant_type", code == "invalid_request":
		return fmt.Sprintf("%s may want another kind of body: see token_request and token_auth", e.of)
	case e.of == revokeURL:
		return "check issuer and revoke_url: this may not be a revocation endpoint; " +
			"where the authorization server has none, set it to off"
	case e.Status == http.StatusNotFound, e.Kind == Malformed:
		return "check issuer and token_url: this may not be a token endpoint"
	}
	return ""
}

// EndsGrant reports whether the refresh token of a request that failed with this error must not be sent
// again: the server has refused the grant (RFC 6749, section 5.2), for whatever reason, or it may have
// used the token and issued another, which is lost. The token stays usable if the error means that the
// client is unknown or speaks in a way that the server does not, or that the server is busy or broken, or if the
// answer is not from a token endpoint.
//
// An invalid_request may mean either. It counts as a refusal: servers have said it of refresh tokens that they do not
// know any more (DeviantArt; Doorkeeper, issue 510). To keep such a session would be an error at each request for the
// rest of its lifetime, where a login helps; to end one whose request was wrong costs a login once it is mended. The
// same goes for unauthorized_client: a login may be good where a renewal is not allowed.
//
// A success that is not a token answer, such as a page of HTML, may come from a proxy in front that did
// not pass the request on, or that replaced the server's answer. In the first case, sending the token
// again would keep the session; in the second, the new token is lost, and sending the old one again
// revokes the whole grant, and with it the access token that the person still has (RFC 9700, section
// 4.14.2). So it is not sent again: the session lasts as long as its token does, and the next page visit
// goes through the login, which often needs no input.
func (e *Error) EndsGrant() bool {
	switch {
	case e.Unanswered || e.Kind == Malformed:
		return true
	case e.Kind != Refused:
		return false
	}
	code := e.code()
	// The status is 400 in RFC 6749, section 5.2, 403 in Auth0's dialect, and 200 at some servers. A
	// firewall or a gateway answers with these, too, but not with an error code of OAuth's form. With another status
	// that blames the client, such as 401, a code counts only if no gateway would say it.
	switch e.Status {
	case http.StatusOK, http.StatusBadRequest, http.StatusForbidden:
	default:
		ofGrant := []string{"invalid_grant", "mfa_required", "consent_required", "interaction_required"}
		return e.Status/100 == 4 && slices.Contains(ofGrant, code)
	}
	switch code {
	case "", "invalid_client", "unsupported_grant_type", "temporarily_unavailable", "server_error":
		return false
	case "too_many_requests", "slow_down":
		return false
	case "forbidden", "blocked", "rate_limited", "unauthorized", "internal_error", "service_unavailable":
		return false // error codes of gateways
	default:
		return strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") == ""
	}
}

// refusal returns the error for a refusal, whatever its body is. It keeps the status and the
// cleaned texts only: RetrieveError.Error prints the body, which may echo the request.
func refusal(status int, body []byte, clean func(string) string) *Error {
	said := &oauth2.RetrieveError{Response: &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)),
	}}
	if fields, err := parseBody(body); err == nil {
		code, _ := stringField(fields, "error")
		description, _ := stringField(fields, "error_description")
		said.ErrorCode, said.ErrorDescription = clean(code), clean(description)
	}
	e := &Error{Kind: Refused, Status: status, Err: said}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		e.Kind = Unavailable
	}
	return e
}

// asError returns the *Error within err, or a new one: no answer came, and err says why.
func asError(ctx context.Context, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	unanswered := errors.Is(err, errUnanswered)
	var netErr net.Error
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout() {
		return &Error{Kind: TimedOut, Unanswered: unanswered, Err: errors.New("no answer in time")}
	}
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	// net/http quotes an answer that it cannot parse, and that may be an echo of the
	// request with its secrets.
	text, _, _ := strings.Cut(CleanText(err.Error()), `"`)
	return &Error{Kind: Unreachable, Unanswered: unanswered, Err: errors.New(strings.TrimRight(text, ": "))}
}
