package aventus

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Status is the result of a probe.
type Status string

const (
	Pass Status = "pass"
	Warn Status = "warn" // it works, but the operator should look at it
	Fail Status = "fail"
	Skip Status = "skip" // the probe was not made, or has no result
)

// Finding is the outcome of a probe. Its texts are for an operator's terminal: a server's
// text in them is cleaned, and they hold no secret.
type Finding struct {
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"` // what to do about it
}

const (
	// A person waits for each probe.
	probeTimeout = tokenTimeout

	clockWarns = 5 * time.Second
	clockFails = clockLeeway // beyond it, tokens that are verified are refused

	// An error page names the error in its first lines.
	maxPage = 64 << 10
)

// LookUp checks whether the server's name has an address.
func LookUp(ctx context.Context, u *url.URL) Finding {
	if through := proxyOf(u); through != "" {
		return Finding{Skip, "left to the proxy " + through, ""}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		detail := "no answer in time"
		var dnsErr *net.DNSError
		if ctx.Err() == nil && errors.As(err, &dnsErr) {
			detail = CleanText(dnsErr.Err)
		}
		return Finding{
			Fail, detail, "check the name in issuer, authorize_url and token_url, and this machine's DNS " +
				"(/etc/resolv.conf)",
		}
	}
	return Finding{Pass, CleanText(strings.Join(addresses, ", ")), ""}
}

// Connect checks whether the server accepts a connection and, for https, has a certificate
// that is trusted here.
func Connect(ctx context.Context, u *url.URL) Finding {
	if through := proxyOf(u); through != "" {
		return Finding{Skip, "left to the proxy " + through, ""}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	port := u.Port()
	if port == "" {
		port = u.Scheme // net knows the services http and https
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return Finding{Fail, asError(ctx, err).Err.Error(),
			"check that the server is up, and that a firewall lets this machine reach it"}
	}
	defer conn.Close()
	if u.Scheme == "http" {
		return Finding{Pass, "connected; http, on this very machine", ""}
	}
	secure := tls.Client(conn, &tls.Config{ServerName: u.Hostname()})
	if err := secure.HandshakeContext(ctx); err != nil {
		return Finding{Fail, asError(ctx, err).Err.Error(), adviceTLS(err)}
	}
	ends := secure.ConnectionState().PeerCertificates[0].NotAfter
	return Finding{Pass, "its certificate is trusted, and good until " + ends.UTC().Format(time.DateOnly), ""}
}

func adviceTLS(err error) string {
	var unknown x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "add its certificate authority to those that this machine trusts, if it is the right one; something " +
			"in between may also have put its own certificate there"
	case errors.As(err, &wrongHost):
		return "the certificate is for another name: check issuer, authorize_url and token_url"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "have its certificate renewed, unless it is this machine's clock that is wrong"
	}
	return "check that this is an https server, and what stands between it and this machine"
}

// proxyOf returns the proxy that requests to u go through, or "". Which servers it can
// reach, and which certificates it trusts, cannot be checked from here.
func proxyOf(u *url.URL) string {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return ""
	}
	return CleanText(proxy.Host) // its URL may hold a password
}

// ProbeAuthorize sends the authorize request of a browser that begins a login, and follows
// no redirect.
func (c *Client) ProbeAuthorize(ctx context.Context, redirectURI string, withNonce bool) Finding {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	nonce := ""
	if withNonce {
		nonce = rand.Text()
	}
	to := c.AuthorizeURL(redirectURI, "aventus-auth-doctor-"+rand.Text(), madeUpVerifier(), nonce)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return Finding{Fail, asError(ctx, err).Err.Error(), ""}
	}
	req.Header.Set("Accept", "text/html")
	resp, err := c.dialect.base.RoundTrip(req) // it follows no redirect
	if err != nil {
		return Finding{Fail, asError(ctx, err).Err.Error(),
			"check that this machine can reach the authorize endpoint (firewall, proxy, TLS)"}
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	return judgeAuthorize(resp, page, redirectURI)
}

// judgeAuthorize interprets the answer to an authorize request. A server that does not
// know the client or the redirect URI must show an error page, and not redirect (RFC 6749,
// section 4.1.2.1). It reports all other errors at the redirect URI.
func judgeAuthorize(resp *http.Response, page []byte, redirectURI string) Finding {
	answered := fmt.Sprintf("answered %d", resp.StatusCode)
	to, err := resp.Location()
	if resp.StatusCode/100 == 3 && err == nil {
		where := CleanText(to.Scheme + "://" + to.Host + to.Path)
		code, description := to.Query().Get("error"), CleanText(to.Query().Get("error_description"))
		home, _ := url.Parse(redirectURI)
		isHome := home != nil && to.Scheme == home.Scheme && to.Host == home.Host && to.Path == home.Path
		switch {
		case strings.HasSuffix(code, "_required") && isHome: // OpenID Connect Core 1.0, section 3.1.2.6
			return Finding{
				Pass, "redirects to the callback, since nobody is signed in here (" + CleanText(code) + ")", "",
			}
		case code != "":
			return Finding{Fail, strings.TrimSuffix("refuses logins: "+CleanText(code)+": "+description, ": "),
				adviceAuthorize(code)}
		case isHome:
			return Finding{Pass, "redirects to the callback at once", ""}
		}
		return Finding{Pass, "redirects to " + where, ""}
	}
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
		// Only a person can tell a sign-in page from another page.
		return Finding{Pass, "answers with a page, as far as can be told its sign-in", ""}
	case status == http.StatusTooManyRequests, status >= 500:
		return Finding{
			Fail, answered, "the authorization server is down, or limits its requests; see its status, and try again",
		}
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status/100 != 4:
		return Finding{Fail, answered, "check issuer and authorize_url: this is no authorize endpoint"}
	// The words of Auth0's error pages.
	case bytes.Contains(page, []byte("Callback URL mismatch")):
		return Finding{Fail, answered + ` with a page that says "Callback URL mismatch"`,
			"register the callback URL above for this client, to the letter"}
	case bytes.Contains(page, []byte("Unknown client")):
		return Finding{Fail, answered + ` with a page that says "Unknown client"`,
			"check client_id, and that issuer is where it is registered"}
	case bytes.Contains(page, []byte("Unknown parameter")):
		return Finding{Fail, answered + ` with a page that says "Unknown parameter"`,
			"check authorize_param: third-party clients (tpc_...) may send few"}
	case bytes.Contains(page, []byte("not authorized to access resource server")):
		return Finding{Fail, answered + ` with a page that says "not authorized to access resource server"`,
			adviceNotGranted}
	}
	return Finding{Fail, answered + " with a page of its own",
		"check client_id, and that the callback URL above is registered for it, to the letter"}
}

const adviceNotGranted = "have the API of audience granted to this client: " +
	"a third-party client (tpc_...) needs a grant for each"

func adviceAuthorize(code string) string {
	switch code {
	case "access_denied", "invalid_target":
		return "check audience, and that this client may ask for it"
	case "invalid_scope":
		return "check scope"
	case "unauthorized_client":
		return "register the callback URL above for this client, and let it use the authorization code grant; " +
			adviceNotGranted
	case "temporarily_unavailable", "server_error":
		return "the authorization server is down for now; see its status"
	}
	return "see what the server says, and its log; check audience, scope and authorize_param"
}

// ProbeClock compares the server's clock with this machine's.
func ProbeClock(ctx context.Context, u *url.URL, now func() time.Time) Finding {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	bare := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, bare.String(), nil)
	if err != nil {
		return Finding{Skip, asError(ctx, err).Err.Error(), ""}
	}
	transport := newTransport()
	defer transport.CloseIdleConnections()
	began := now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Finding{Skip, asError(ctx, err).Err.Error(), ""}
	}
	defer resp.Body.Close()
	return compareClocks(resp.Header, began, now())
}

// compareClocks compares a Date header, which has whole seconds, with the times at which its
// request began and ended.
func compareClocks(header http.Header, began, ended time.Time) Finding {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return Finding{Skip, "the server does not say what time it is", ""}
	}
	if age, err := strconv.Atoi(header.Get("Age")); err == nil { // from a cache (RFC 9111, section 5.1)
		date = date.Add(time.Duration(age) * time.Second)
	}
	way := ended.Sub(began) / 2
	off := began.Add(way).Sub(date.Add(time.Second / 2))
	what := fmt.Sprintf("%s ahead of the server's", off.Round(time.Second))
	if off < 0 {
		off = -off
		what = fmt.Sprintf("%s behind the server's", off.Round(time.Second))
	}
	const next = "set this machine's clock by NTP (timedatectl set-ntp true), and that of the host if this is a " +
		"container"
	switch {
	case off-way > clockFails:
		return Finding{Fail, what, next}
	case off-way > clockWarns:
		return Finding{Warn, what, next}
	}
	return Finding{Pass, "within seconds of the server's", ""}
}

// ProbeToken sends the token endpoint a made-up code. A server checks the client's
// credentials before the code (RFC 6749, section 3.2.1), so if it refuses the code, it has
// accepted the credentials.
func (c *Client) ProbeToken(ctx context.Context, redirectURI string) Finding {
	_, err := c.Exchange(ctx, "aventus-auth-doctor-"+rand.Text(), redirectURI, madeUpVerifier())
	if err == nil {
		return Finding{Warn, "gave a token for a code that was made up",
			"use this server for tests alone: it lets everybody in"}
	}
	if err.code() == "invalid_grant" {
		return Finding{
			Pass, fmt.Sprintf("refused a made-up code (%d invalid_grant), and not the client", err.Status), "",
		}
	}
	next := err.Advice()
	if next == "" {
		next = "check issuer and token_url: this may not be a token endpoint"
	}
	return Finding{Fail, strings.TrimLeft(strings.TrimPrefix(err.Error(), "the token endpoint"), ": "), next}
}

// Probe fetches the keys.
func (s *KeySet) Probe(ctx context.Context) Finding {
	set, err := s.newer(ctx)
	if err != nil {
		detail := strings.TrimLeft(strings.TrimPrefix(err.Error(), "the key set"), ": ")
		next := "check issuer and jwks_url"
		var e *Error
		if errors.As(err, &e) {
			next = e.Advice()
		}
		return Finding{Fail, CleanText(detail), next}
	}
	return Finding{Pass, fmt.Sprintf("its keys for signatures: %d", len(set.keys)), ""}
}

func madeUpVerifier() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	return Verifier(secret)
}
