package aventus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxAnswer bounds a token answer. The largest known are a few kilobytes.
	maxAnswer = 1 << 20

	// An idle connection is given up before servers and load balancers close it
	// from their side: a token request is never sent a second time, so one that
	// meets a closing connection is a failed login.
	idleTimeout = 30 * time.Second
)

// newTransport returns a transport with bounds. It is not http.DefaultTransport's
// clone, which other modules of the same Caddy may have changed.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: tokenTimeout}).DialContext,
		TLSHandshakeTimeout:    tokenTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64, // all there is to reuse is one host
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// answer is an answer with a status of success.
type answer struct {
	status int
	body   []byte
	clean  func(string) string // for what is said of it in a log
}

// post sends parameters and the client's credentials, in the body and the form that
// the server wants. It sends them once, and follows no redirect: they are secrets.
func (c *Client) post(ctx context.Context, to string, params map[string]string) (*answer, error) {
	// For a config that was replaced meanwhile, nothing is kept.
	defer func() {
		if c.closed.Load() {
			c.transport.CloseIdleConnections()
		}
	}()
	if !c.cfg.Basic {
		params["client_id"], params["client_secret"] = c.cfg.ClientID, c.cfg.ClientSecret
	}
	contentType, body, err := encode(params, c.cfg.Form)
	if err != nil {
		return nil, err
	}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// Without GetBody, net/http has no way to send the code again, whatever
	// becomes of the connection.
	req.GetBody = nil
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", contentType)
	if c.cfg.Basic { // RFC 6749, section 2.3.1
		req.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(c.cfg.ClientSecret))
	}

	resp, err := c.transport.RoundTrip(req)
	if err != nil && sent.Load() {
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
		return redact(text, c.cfg.ClientSecret, params["code"], params["code_verifier"], params["refresh_token"], params["token"],
			strings.TrimPrefix(req.Header.Get("Authorization"), "Basic "))
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, refusal(resp.StatusCode, body, clean)
	}
	return &answer{resp.StatusCode, body, clean}, nil
}

// encode makes a body of parameters: JSON in the dialect of Auth0, or a form as
// RFC 6749 has it (appendix B).
func encode(params map[string]string, asForm bool) (contentType string, body []byte, err error) {
	if !asForm {
		body, err = json.Marshal(params)
		return "application/json", body, err
	}
	form := make(url.Values, len(params))
	for name, value := range params {
		form.Set(name, value)
	}
	return "application/x-www-form-urlencoded", []byte(form.Encode()), nil
}

// redact makes a server's text fit for a log: short, one line, nothing a terminal
// acts on, and without the given secrets, since servers are known to echo what they
// were sent.
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
	return CleanText(strings.NewReplacer(pairs...).Replace(text))
}

// CleanText returns at most 300 bytes of s, with everything but printable ASCII
// replaced by a question mark.
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
