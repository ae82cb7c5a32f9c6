package aventus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// What an authorize endpoint answers means what the specifications and Auth0's pages
// have it mean, and nothing more.
func TestProbeAuthorize(t *testing.T) {
	const redirectURI = "https://site.example.com/cb?x=y"
	const register = "that the callback URL above is registered for it"
	for _, tc := range []struct {
		status           int
		location, body   string
		want             Status
		detail, nextStep string
	}{
		{302, "/u/login?state=secret", "", Pass, "redirects to SERVER/u/login", ""},
		{303, "https://accounts.example.com/?client_id=secret", "", Pass,
			"redirects to https://accounts.example.com/", ""},
		{302, redirectURI + "&code=secret&state=s", "", Pass, "redirects to the callback at once", ""},
		{302, redirectURI + "&error=login_required&state=s", "", Pass,
			"redirects to the callback, since nobody is signed in here (login_required)", ""},
		{302, redirectURI + "&error=access_denied&error_description=Service+not+found", "", Fail,
			"refuses logins: access_denied: Service not found", "check audience"},
		{302, redirectURI + "&error=invalid_scope", "", Fail, "refuses logins: invalid_scope", "check scope"},
		{302, redirectURI + "&error=server_error", "", Fail, "refuses logins: server_error", "down for now"},
		{302, redirectURI + "&error=invalid_request", "", Fail, "refuses logins: invalid_request",
			"check audience, scope and authorize_param"},
		// Auth0 with an error page that somebody else serves.
		{302, "https://errors.example.com/?error=unauthorized_client&error_description=Callback+URL+mismatch", "",
			Fail, "refuses logins: unauthorized_client: Callback URL mismatch", "register the callback URL above"},
		{302, "https://errors.example.com/?error=login_required", "", Fail, "refuses logins: login_required",
			"see what the server says"},
		// Nearly the callback: another scheme, host or path.
		{302, "http://site.example.com/cb?code=c", "", Pass, "redirects to http://site.example.com/cb", ""},
		{302, "https://www.site.example.com/cb?code=c", "", Pass, "redirects to https://www.site.example.com/cb", ""},
		{302, "https://site.example.com/cb/?error=login_required", "", Fail, "refuses logins: login_required",
			"see what the server says"},
		{302, redirectURI + "&error=x%1b%5b2J&error_description=%0d%0ay", "", Fail,
			"refuses logins: x?[2J: ??y", "see what"},
		{302, "", "", Fail, "answered 302", "this is no authorize endpoint"},
		{200, "", "<form>", Pass, "answers with a page, as far as can be told its sign-in", ""},
		{204, "", "", Fail, "answered 204", "this is no authorize endpoint"},
		{403, "", "<p>Callback URL mismatch. The provided redirect_uri is not", Fail,
			`answered 403 with a page that says "Callback URL mismatch"`,
			"register the callback URL above for this client, to the letter"},
		{403, "", "<p>Unknown client: x", Fail, `answered 403 with a page that says "Unknown client"`,
			"check client_id"},
		{400, "", "<p>Oops", Fail, "answered 400 with a page of its own", register},
		{403, "", strings.Repeat(" ", maxPage) + "Unknown client", Fail,
			"answered 403 with a page of its own", register},
		{400, "", "<p>Unknown parameter: organization", Fail,
			`answered 400 with a page that says "Unknown parameter"`, "check authorize_param"},
		{403, "", "<p>Client &#34;tpc_1&#34; is not authorized to access resource server", Fail,
			`answered 403 with a page that says "not authorized to access resource server"`,
			"have the API of audience granted to this client"},
		{404, "", "Callback URL mismatch", Fail, "answered 404", "this is no authorize endpoint"},
		{405, "", "", Fail, "answered 405", "this is no authorize endpoint"},
		{429, "", "", Fail, "answered 429", "limits its requests"},
		{500, "", "Unknown client", Fail, "answered 500", "is down"},
	} {
		requests := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests++
			if q := r.URL.Query(); r.Method != "GET" || q.Get("redirect_uri") != redirectURI ||
				len(q.Get("code_challenge")) != 43 || q.Get("nonce") == "" || q.Get("state") == "" {
				t.Errorf("asked %s %s", r.Method, r.URL)
			}
			if tc.location != "" {
				w.Header().Set("Location", tc.location)
			}
			w.WriteHeader(tc.status)
			fmt.Fprint(w, tc.body)
		}))
		c := newClient(t, server.URL+"/oauth/token",
			func(cfg *Config) { cfg.AuthorizeURL = server.URL + "/authorize" })
		f := c.ProbeAuthorize(within(t), redirectURI, true)
		want := strings.Replace(tc.detail, "SERVER", server.URL, 1)
		if f.Status != tc.want || f.Detail != want || (f.Next == "") != (tc.nextStep == "") ||
			!strings.Contains(f.Next, tc.nextStep) || requests != 1 {
			t.Errorf("%d %s %.40s: %+v, %d requests", tc.status, tc.location, tc.body, f, requests)
		}
		server.Close()
	}
}

// The made-up code meets whatever a token endpoint may answer.
func TestProbeToken(t *testing.T) {
	for _, tc := range []struct {
		status       int
		body         string
		want         Status
		detail, next string
	}{
		{403, `{"error":"invalid_grant"}`, Pass, "refused a made-up code (403 invalid_grant), and not the client", ""},
		{400, `{"error":"invalid_grant","error_description":"x"}`, Pass,
			"refused a made-up code (400 invalid_grant)", ""},
		{401, `{"error":"access_denied","error_description":"Unauthorized"}`, Fail,
			"answered 401 access_denied: Unauthorized", "check client_id, client_secret and token_auth"},
		{401, `{"error":"invalid_client"}`, Fail, "answered 401 invalid_client",
			"check client_id, client_secret and token_auth"},
		{403, `{"error":"unauthorized_client"}`, Fail, "answered 403 unauthorized_client",
			"may use the authorization code grant"},
		{400, `{"error":"unsupported_grant_type"}`, Fail, "answered 400 unsupported_grant_type",
			"see token_request and token_auth"},
		{400, `{"error":"invalid_request"}`, Fail, "answered 400 invalid_request", "see token_request and token_auth"},
		{403, `<html>`, Fail, "answered 403", "this may not be a token endpoint"},
		{404, `<html>`, Fail, "answered 404", "this may not be a token endpoint"},
		{200, `<html>`, Fail, "answered 200: the token answer is not a JSON object",
			"this may not be a token endpoint"},
		{302, ``, Fail, "answered 302", "set token_url to where it is"},
		{503, ``, Fail, "answered 503", "is down for now"},
		{200, goodAnswer, Warn, "gave a token for a code that was made up", "for tests alone"},
	} {
		requests := 0
		c := newClient(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
			requests++
			w.WriteHeader(tc.status)
			fmt.Fprint(w, tc.body)
		}), nil)
		f := c.ProbeToken(within(t), testRedirect)
		if f.Status != tc.want || !strings.HasPrefix(f.Detail, tc.detail) || (f.Next == "") != (tc.next == "") ||
			!strings.Contains(f.Next, tc.next) || requests != 1 {
			t.Errorf("%d %s: %+v, %d requests", tc.status, tc.body, f, requests)
		}
	}
}

// A server that hangs is waited for, and then it is said.
func TestProbesGiveUp(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer server.Close()
	defer close(hang)
	u, _ := url.Parse(server.URL + "/authorize")
	c := newClient(t, server.URL, func(cfg *Config) { cfg.AuthorizeURL = u.String() })
	keys := NewKeySet(server.URL, time.Now)
	defer keys.Close()
	secure := *u
	secure.Scheme = "https" // no TLS is spoken there, and the first word is the client's
	for name, probe := range map[string]func(context.Context) Finding{
		"authorize": func(ctx context.Context) Finding { return c.ProbeAuthorize(ctx, testRedirect, false) },
		"token":     func(ctx context.Context) Finding { return c.ProbeToken(ctx, testRedirect) },
		"keys":      keys.Probe,
		"clock":     func(ctx context.Context) Finding { return ProbeClock(ctx, u, time.Now) },
		"name": func(ctx context.Context) Finding {
			return LookUp(ctx, &url.URL{Scheme: "https", Host: "aventus.invalid"})
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if name == "name" {
			cancel()
		}
		f := probe(ctx)
		cancel()
		if f.Status == Pass || !strings.Contains(f.Detail, "no answer in time") {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := Connect(within(t), &secure); f.Status != Fail ||
		f.Next != "check that this is an https server, and what stands between it and this machine" {
		t.Errorf("TLS with a server that speaks none: %+v", f)
	}
}

// What is to be done about a certificate depends on what is wrong with it.
func TestAdviceTLS(t *testing.T) {
	for want, err := range map[string]error{
		"certificate authority":      x509.UnknownAuthorityError{},
		"is for another name":        x509.HostnameError{Certificate: new(x509.Certificate)},
		"have its certificate":       x509.CertificateInvalidError{Reason: x509.Expired},
		"that this is an https":      x509.CertificateInvalidError{Reason: x509.TooManyConstraints},
		"this is an https server":    tls.RecordHeaderError{},
		"what stands between it and": context.DeadlineExceeded,
	} {
		if got := adviceTLS(fmt.Errorf("handshake: %w", &tls.CertificateVerificationError{
			Err: err,
		})); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}
