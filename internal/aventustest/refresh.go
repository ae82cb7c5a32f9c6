package aventustest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// revokeParams are the only parameters that the revocation takes. RFC 7009 has
// a token_type_hint too, but Auth0's documentation does not know it.
var revokeParams = []string{"client_id", "client_secret", "token"}

// grant is what one login has given to a client. Its refresh tokens are a
// family: they die together.
type grant struct {
	user     User
	client   Client
	audience string
	asked    []string // the scopes at /authorize,
	granted  []string // and those that were given
	began    time.Time
	session  *session
	about    map[string]any // what its ID tokens say of the login, as it was asked for
	revoked  bool
}

// refreshToken is what a refresh token stands for.
type refreshToken struct {
	*grant
	touched time.Time // when it was issued, or last used
	used    bool      // another has taken its place
}

// newRefreshToken returns a grant's first refresh token, or its next.
func (s *Server) newRefreshToken(g *grant) string {
	value := randomText(randomBetween(40, 120))
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshTokens.add(value, &refreshToken{grant: g, touched: now}, now, s.refreshLifetime())
	return value
}

// refresh answers a refresh token with new tokens.
func (s *Server) refresh(client Client, params map[string]string) (map[string]any, *tokenError) {
	if params["refresh_token"] == "" {
		return nil, &tokenError{http.StatusBadRequest, "invalid_request", "Missing required parameter: refresh_token"}
	}
	scope, narrow := params["scope"]
	if narrow && !scopeFormat.MatchString(scope) {
		return nil, &tokenError{http.StatusBadRequest, "invalid_scope", "Malformed scope"}
	}
	if refused := s.denied(params["refresh_token"], client); refused != nil {
		return nil, refused
	}
	g, refused := s.spend(params["refresh_token"], client, strings.Fields(scope))
	if refused != nil {
		return nil, refused
	}
	asked, granted := g.asked, g.granted
	if narrow {
		// This is for the one access token: what can be asked for next time
		// stays as it was. https://www.rfc-editor.org/rfc/rfc6749#section-6
		asked = strings.Fields(scope)
		granted = asked
	}
	// The nonce was for the login: an ID token without one is what comes now.
	// https://openid.net/specs/openid-connect-core-1_0.html#RefreshTokenResponse
	answer := s.tokens(g, asked, granted, "")
	if !s.KeepRefresh {
		answer["refresh_token"] = s.newRefreshToken(g)
	}
	return answer, nil
}

// spend returns the grant of a refresh token that its own client presents, if
// it includes the scopes. With rotation that works once; the second time ends
// the grant, since one of the two who had the token must have stolen it.
func (s *Server) spend(value string, client Client, scopes []string) (*grant, *tokenError) {
	invalid := &tokenError{http.StatusForbidden, "invalid_grant", "Unknown or invalid refresh token."}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.refreshTokens.items[value]
	if token == nil || token.client.ID != client.ID {
		return nil, invalid
	}
	if token.used {
		s.refreshReused++
		token.revoked = true
	}
	if token.revoked || token.session.loggedOut || s.blocked[token.user.Sub] {
		return nil, invalid
	}
	idle := s.refreshIdle(client)
	if now.Sub(token.began) > s.refreshLifetime() || idle > 0 && now.Sub(token.touched) > idle {
		return nil, invalid
	}
	for _, scope := range scopes {
		if !slices.Contains(token.granted, scope) {
			return nil, &tokenError{
				http.StatusBadRequest, "invalid_scope", "The login did not grant the scope " + scope,
			}
		}
	}
	token.used, token.touched = !s.KeepRefresh, now
	return token.grant, nil
}

// denied asks the tenant's rule about a refresh. What it refuses leaves the refresh
// token as it was.
func (s *Server) denied(value string, client Client) *tokenError {
	s.mu.Lock()
	token := s.refreshTokens.items[value]
	s.mu.Unlock()
	if s.Deny == nil || token == nil || token.client.ID != client.ID {
		return nil
	}
	if words := s.Deny(token.user, client); words != "" {
		return &tokenError{http.StatusForbidden, "access_denied", words}
	}
	return nil
}

// serveRevoke records a request to revoke a refresh token, lets a test
// interfere, and revokes the token's whole family:
// https://www.rfc-editor.org/rfc/rfc7009#section-2
func (s *Server) serveRevoke(w http.ResponseWriter, r *http.Request) {
	_, params, err := s.readParams(r)
	s.mu.Lock()
	s.revoked = record(s.revoked, params["token"])
	s.mu.Unlock()

	if s.RevokeFault != nil && s.RevokeFault(w, r) {
		return
	}
	if err == nil {
		err = s.revoke(r, params)
	}
	if err != nil {
		err.write(w)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

// revoke answers such a request that could be parsed. A token that nobody
// knows is no error, since it is as dead as the client wants it.
func (s *Server) revoke(r *http.Request, params map[string]string) *tokenError {
	if refused := onlyKnown(params, revokeParams); refused != nil {
		return refused
	}
	client, refused := s.authenticate(r, params)
	if refused != nil {
		return refused
	}
	if params["token"] == "" {
		return &tokenError{http.StatusBadRequest, "invalid_request", "Missing required parameter: token"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.refreshTokens.items[params["token"]]
	if token == nil {
		return nil
	}
	if token.client.ID != client.ID {
		return &tokenError{http.StatusForbidden, "invalid_grant", "The token was issued to another client."}
	}
	token.revoked = true
	return nil
}

// refreshIdle returns how long a refresh token works that is not used; 0 is for ever.
func (s *Server) refreshIdle(client Client) time.Duration {
	if s.RefreshIdle == 0 && isThirdParty(client.ID) {
		return thirdPartyIdle
	}
	return s.RefreshIdle
}

func (s *Server) refreshLifetime() time.Duration {
	if s.RefreshLifetime > 0 {
		return s.RefreshLifetime
	}
	return 30 * 24 * time.Hour
}
