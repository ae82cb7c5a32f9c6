package aventustest

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	logoutEvent         = "http://schemas.openid.net/event/backchannel-logout"
	logoutTokenLifetime = 2 * time.Minute

	// A client has this long to answer, and is told once.
	deliveryTimeout = 5 * time.Second
)

// Delivery is what came of a logout token that was sent to a client.
type Delivery struct {
	ClientID string
	URL      string
	Token    string

	// Status, Header and Body are the client's answer; 0 means that none came.
	Status int
	Header http.Header
	Body   string

	// Err says why no answer came.
	Err error
}

// Deliveries returns what came of the logout tokens that were sent, in no order.
func (s *Server) Deliveries() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.deliveries)
}

// LogOut ends all sessions of a user at the server, with their refresh tokens, as a
// change of the password does. It returns when the clients have been told.
func (s *Server) LogOut(sub string) {
	s.mu.Lock()
	var sessions []*session
	for _, in := range s.logins.items {
		if in.user.Sub == sub && !in.loggedOut {
			sessions = append(sessions, in)
		}
	}
	s.mu.Unlock()
	for _, in := range sessions {
		s.end(in)
	}
}

// Block keeps a user from signing in again, and does what LogOut does.
func (s *Server) Block(sub string) {
	s.mu.Lock()
	if s.blocked == nil {
		s.blocked = make(map[string]bool)
	}
	s.blocked[sub] = true
	s.mu.Unlock()
	s.LogOut(sub)
}

// end ends a session, and tells the clients that it was used for: once each, all at
// the same time.
func (s *Server) end(in *session) {
	s.mu.Lock()
	in.loggedOut = true
	clients := slices.Collect(maps.Keys(in.clients))
	s.mu.Unlock()
	var told sync.WaitGroup
	for _, id := range clients {
		client, _ := s.client(id)
		if client.LogoutURI == "" || isThirdParty(id) {
			continue
		}
		told.Go(func() { s.Deliver(client.LogoutURI, id, s.LogoutToken(id, in.user.Sub, in.sid)) })
	}
	told.Wait()
}

// LogoutToken returns a logout token for a client, such as no login of this server
// may ever have called for. An empty sub or sid is left out:
// https://openid.net/specs/openid-connect-backchannel-1_0.html#LogoutToken
func (s *Server) LogoutToken(clientID, sub, sid string) string {
	now := s.now()
	header := map[string]any{"typ": "JWT"} // as Auth0 has it; the specification's is logout+jwt
	claims := map[string]any{
		"iss":    s.Issuer,
		"aud":    clientID,
		"iat":    now.Unix(),
		"exp":    now.Add(logoutTokenLifetime).Unix(),
		"jti":    randomText(24),
		"events": map[string]any{logoutEvent: map[string]any{}},
	}
	if sub != "" {
		claims["sub"] = sub
	}
	if sid != "" {
		claims["sid"] = sid
	}
	if s.EditLogout != nil {
		s.EditLogout(header, claims)
	}
	return s.key().signWith(header, mustMarshal(claims))
}

// Deliver sends a logout token to a URL, once, as the server does when a session ends:
// https://openid.net/specs/openid-connect-backchannel-1_0.html#BCRequest
func (s *Server) Deliver(to, clientID, token string) Delivery {
	d := Delivery{ClientID: clientID, URL: to, Token: token}
	ctx, cancel := context.WithTimeout(context.Background(), deliveryTimeout)
	defer cancel()
	form := url.Values{"logout_token": {token}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Close = true // it is sent once, and a connection that was kept may have gone by then
		transport := s.LogoutTransport
		if transport == nil {
			transport = http.DefaultTransport
		}
		var resp *http.Response
		// The transport follows no redirect, and neither does the server.
		if resp, err = transport.RoundTrip(req); err == nil {
			var body []byte
			body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
			resp.Body.Close()
			d.Status, d.Header, d.Body = resp.StatusCode, resp.Header, string(body)
		}
	}
	d.Err = err
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries = record(s.deliveries, d)
	return d
}
