package aventus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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

// dialect stands between x/oauth2, which speaks forms and is lax with answers,
// and the authorization server. It lets through what a login can rest on, as
// plain as x/oauth2 wants it; everything else becomes an [*Error].
type dialect struct {
	base   *http.Transport
	form   bool
	secret string
	closed atomic.Bool
}

func newDialect(cfg Config) *dialect {
	return &dialect{base: newTransport(), form: cfg.Form, secret: cfg.ClientSecret}
}

// RoundTrip sends the token request once. Since it returns no answer but a good
// one, http.Client never sees a redirect to follow.
func (d *dialect) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.send(req)
	if err != nil {
		return nil, err
	}
	answer, tokenErr := parseAnswer(resp.status, resp.body, resp.clean)
	if tokenErr != nil {
		return nil, tokenErr
	}
	plain, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(bytes.NewReader(plain)),
		Request:    req,
	}, nil
}

// response is an answer with a status of success.
type response struct {
	status int
	body   []byte
	clean  func(string) string // for what is said of it in a log
}

// send sends a form request, as the server wants it.
func (d *dialect) send(req *http.Request) (*response, error) {
	defer func() {
		if d.closed.Load() {
			d.base.CloseIdleConnections()
		}
	}()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	params, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}

	var sent atomic.Bool
	out := req.Clone(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	}))
	out.Header.Set("Accept", "application/json")
	if !d.form {
		fields := make(map[string]string, len(params))
		for name := range params {
			fields[name] = params.Get(name)
		}
		if body, err = json.Marshal(fields); err != nil {
			return nil, err
		}
		out.Header.Set("Content-Type", "application/json")
	}
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.ContentLength = int64(len(body))
	// Without GetBody, net/http has no way to send the code again, whatever
	// becomes of the connection.
	out.GetBody = nil

	resp, err := d.base.RoundTrip(out)
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
		return redact(text, d.secret, params.Get("code"), params.Get("code_verifier"), params.Get("refresh_token"), params.Get("token"),
			strings.TrimPrefix(out.Header.Get("Authorization"), "Basic "))
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, refusal(resp.StatusCode, body, clean)
	}
	return &response{resp.StatusCode, body, clean}, nil
}

// CloseIdleConnections lets http.Client close what the base keeps. What is still
// under way for a config that was replaced leaves nothing behind either.
func (d *dialect) CloseIdleConnections() {
	d.closed.Store(true)
	d.base.CloseIdleConnections()
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
