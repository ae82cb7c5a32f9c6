package aventus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Kind says why there is no token.
type Kind int

const (
	Unreachable Kind = iota // no answer came: DNS, TCP, TLS, a broken connection
	TimedOut                // no answer came in time
	Unavailable             // the server says that it cannot answer now: 429 or 503
	Refused                 // the server said no
	Malformed               // the answer is nothing that a login can rest on
)

// String returns a word for the kind, as metrics have it.
func (k Kind) String() string {
	return [...]string{"unreachable", "timed_out", "unavailable", "refused", "malformed"}[k]
}

// Error says why a token request failed. Its text is for the operator's log: it
// holds what the server said, cleaned, and no secret.
type Error struct {
	Kind        Kind
	Status      int    // the answer's HTTP status; 0 without an answer
	Code        string // the answer's error (RFC 6749, section 5.2), cleaned; may be empty
	Description string // the answer's error_description, cleaned; may be empty
	Err         error  // what went wrong, where the server did not say it

	// Unanswered says that the request was sent, and no answer came: what the
	// server has made of it is not known.
	Unanswered bool
}

// errUnanswered is wrapped by the errors that make an Error's Unanswered.
var errUnanswered = errors.New("no answer came to the request")

func (e *Error) Error() string {
	s := "the token endpoint"
	if e.Status != 0 {
		s = fmt.Sprintf("%s answered %d", s, e.Status)
	}
	if e.Code != "" {
		s += " " + e.Code
	}
	if e.Description != "" {
		s += ": " + e.Description
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Advice returns what the operator can do about the error, or "".
func (e *Error) Advice() string {
	switch {
	case e.Kind == Unreachable:
		return "check that this server can reach the token endpoint (DNS, firewall, proxy, TLS)"
	case e.Kind == TimedOut:
		return "the token endpoint is slow or hangs; see the authorization server's status"
	case e.Status == http.StatusTooManyRequests:
		return "the authorization server limits the rate of requests; see its quota"
	case e.Kind == Unavailable:
		return "the authorization server is down for now; logins work again when it does"
	case e.Code == "invalid_client", e.Code == "access_denied", e.Status == http.StatusUnauthorized:
		return "the authorization server refused the client's credentials: check client_id, client_secret and token_auth"
	case e.Code == "unauthorized_client":
		return "check that redirect_uri is registered for this client, and that the client may use the authorization code grant"
	case e.Code == "invalid_grant":
		return "the code was wrong, used or too old; if every login fails so, check client_id and redirect_uri"
	case e.Status/100 == 3:
		return "the token endpoint redirects, which is not followed, for the request holds the client's secret: set token_url to where it is"
	case e.Status >= 500:
		return "the authorization server, or what stands in front of it, is broken for now; see its status"
	case e.Status == http.StatusUnsupportedMediaType, e.Code == "unsupported_grant_type", e.Code == "invalid_request":
		return "the token endpoint may want another kind of body: see token_request and token_auth"
	case e.Status == http.StatusNotFound, e.Kind == Malformed:
		return "check issuer and token_url: this may not be a token endpoint"
	}
	return ""
}

// refusal makes the error of an answer that says no, whatever its body is.
func refusal(status int, body []byte, clean func(string) string) *Error {
	e := &Error{Kind: Refused, Status: status}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		e.Kind = Unavailable
	}
	if fields, err := parseObject(body); err == nil {
		code, _ := stringField(fields, "error")
		description, _ := stringField(fields, "error_description")
		e.Code, e.Description = clean(code), clean(description)
	}
	return e
}

// asError returns the *Error within err, or one for what kept an answer away.
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
	// net/http quotes what it could not make out of an answer, and that may be an
	// echo of the request, secrets and all.
	text, _, _ := strings.Cut(CleanText(err.Error()), `"`)
	return &Error{Kind: Unreachable, Unanswered: unanswered, Err: errors.New(strings.TrimRight(text, ": "))}
}
