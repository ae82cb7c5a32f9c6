package aventus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxAnswer bounds a token answer. The largest known are a few kilobytes.
	maxAnswer = 1 << 20

	// Idle connections are closed before servers and load balancers close them: a
	// token request is never sent twice, so a login whose request is sent on a closing
	// connection fails.
	idleTimeout = 30 * time.Second
)

// dialect is the transport below x/oauth2, which sends only forms and is lax with answers. It sends
// the request in the dialect of the server and reads the answer strictly. x/oauth2 gets only good
// answers, rewritten as plain JSON; everything else becomes an [*Error].
type dialect struct {
	base        *http.Transport
	form        bool
	secret      string
	wantRefresh bool // a login asks for a refresh token
	wantID      bool // a login asks for an ID token
	closed      atomic.Bool
}

func newDialect(cfg Config) *dialect {
	return &dialect{
		base:        newTransport(),
		form:        cfg.Form,
		secret:      cfg.ClientSecret,
		wantRefresh: slices.Contains(cfg.Scopes, "offline_access"),
		wantID:      slices.Contains(cfg.Scopes, "openid"),
	}
}

// newTransport returns a transport with time and size limits. It is not a clone of
// http.DefaultTransport, which other modules of the same Caddy may have changed.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: tokenTimeout}).DialContext,
		TLSHandshakeTimeout:    tokenTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64, // all connections are to one host
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// RoundTrip implements [http.RoundTripper] for token requests. Since a redirect is an error here,
// http.Client never sees one to follow.
func (d *dialect) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.send(req)
	if err != nil {
		return nil, err
	}
	isRefresh := resp.params.Get("grant_type") == grantRefresh
	answer, tokenErr := parseAnswer(resp.status, resp.body, wanted{
		refresh: isRefresh || d.wantRefresh,
		id:      d.wantID,
	}, resp.clean)
	if tokenErr != nil {
		return nil, tokenErr
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer { // escaping can make it longer than it came, and x/oauth2 truncates silently
		return nil, &Error{
			Kind: Malformed, Status: resp.status, Err: errors.New("the token answer is larger than 1 MiB"),
		}
	}
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(bytes.NewReader(body)),
		Request:    req,
	}, nil
}

// response is an answer with a status of success.
type response struct {
	params url.Values // of the request
	status int
	body   []byte
	clean  func(string) string // for what is said of it in a log
}

// send sends a form in the encoding that the server wants. It sends the form once, and follows no
// redirect, since the form holds secrets.
func (d *dialect) send(req *http.Request) (*response, error) {
	// If the config was replaced in the meantime, the connection is not kept.
	defer func() {
		if d.closed.Load() {
			d.base.CloseIdleConnections()
		}
	}()
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	params, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	contentType := "application/x-www-form-urlencoded" // RFC 6749, appendix B
	if !d.form {
		contentType = "application/json" // the dialect of Auth0
		fields := make(map[string]string, len(params))
		for name := range params {
			fields[name] = params.Get(name)
		}
		if body, err = json.Marshal(fields); err != nil {
			return nil, err
		}
	}

	var sent atomic.Bool
	out := req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	}))
	out.Header = http.Header{"Accept": {"application/json"}, "Content-Type": {contentType}}
	if authorization := req.Header["Authorization"]; authorization != nil {
		out.Header["Authorization"] = authorization
	}
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	// Without GetBody, net/http cannot send the code again when a connection breaks.
	out.GetBody = nil

	resp, err := d.base.RoundTrip(out)
	if err != nil && sent.Load() && !unprocessed.MatchString(err.Error()) {
		return nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading the answer: %w", errUnanswered, err)
	}
	clean := func(text string) string {
		text = redact(text, d.secret, params.Get("code_verifier"), params.Get("refresh_token"), params.Get("token"),
			strings.TrimPrefix(req.Header.Get("Authorization"), "Basic "))
		// The code is redacted last, since the visitor chooses it: where it overlaps a secret in the text, nothing
		// of that one may be left.
		return CleanText(redact(text, params.Get("code")))
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, refusal(resp.StatusCode, body, clean)
	}
	return &response{params, resp.StatusCode, body, clean}, nil
}

// unprocessed matches the error of net/http for a request that an HTTP/2 server declared as not
// processed: it refused the stream (RFC 9113, section 8.7), or it sent GOAWAY with the number of an
// earlier stream (section 6.8). net/http sends such a request again if there is a GetBody, but also
// after a PROTOCOL_ERROR, which declares no such thing. Its errors have no type to check.
var unprocessed = regexp.MustCompile(`^http2: Transport: cannot retry err \[(?:` +
	`stream error: stream ID \d+; REFUSED_STREAM; received from peer|` +
	`http2: Transport received Server's graceful shutdown GOAWAY)\]` +
	`|^http2: Transport received GOAWAY from server ErrCode:`)

// redact returns a server's text without the given secrets, since some servers echo the request.
func redact(text string, secrets ...string) string {
	var pairs []string
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		inJSON, _ := json.Marshal(secret) // never fails for a string
		forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), string(inJSON[1 : len(inJSON)-1])}
		for _, form := range forms {
			pairs = append(pairs, form, "[redacted]")
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// CleanText makes a text fit for a log: it returns at most 300 bytes of s, with everything but printable ASCII
// replaced by a question mark, so that there is no new line, and no control character for terminals.
func CleanText(s string) string {
	const most = 300
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if cut {
		s += "..."
	}
	return s
}
