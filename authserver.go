package aventusauth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// authServer is the authorization server as logins, renewals and logouts need it.
type authServer struct {
	client   *aventus.Client
	tokens   *aventus.TokenVerifier // nil where access tokens are taken as they come
	idTokens *aventus.IDVerifier    // nil where no ID tokens are asked for

	issuer, clientID, audience string
	params                     map[string]string // further authorize parameters
	revokeURL                  string            // empty: refresh tokens are not revoked
	ends                       *ends

	now    func() time.Time
	meter  *meter
	logger *zap.Logger
}

// exchange exchanges a code for a token.
func (a *authServer) exchange(
	ctx context.Context, code, redirectURI, verifier string,
) (*oauth2.Token, *aventus.Error) {
	return a.meter.tokenRequest("authorization_code", func() (*oauth2.Token, *aventus.Error) {
		return a.client.Exchange(ctx, code, redirectURI, verifier)
	})
}

// refresh exchanges a refresh token for a token.
func (a *authServer) refresh(ctx context.Context, refreshToken string) (*oauth2.Token, *aventus.Error) {
	return a.meter.tokenRequest("refresh_token", func() (*oauth2.Token, *aventus.Error) {
		return a.client.Refresh(ctx, refreshToken)
	})
}

// limits are when things end by the word of tokens. The zero time is no word.
type limits struct{ token, session time.Time }

// verifyLogin checks what the token answer brought: all that the config asks for, and
// that it is what was asked for, since the authorize URL was in the visitor's hands. It
// returns the ID token's claims that the access token has not.
func (a *authServer) verifyLogin(
	ctx context.Context, nonce string, token *oauth2.Token,
) (idToken []byte, end limits, err error) {
	switch {
	case a.tokens != nil:
		_, end.token, err = a.tokens.Verify(ctx, token.AccessToken)
	case a.audience != "":
		err = aventus.CheckParties(token.AccessToken, a.issuer, a.audience)
	}
	if err != nil {
		return nil, limits{}, fmt.Errorf("verifying the access token: %w", err)
	}
	if a.idTokens == nil {
		return nil, end, nil
	}
	var payload []byte
	if sent := aventus.IDToken(token); sent != "" {
		if payload, err = a.idTokens.Verify(ctx, sent, nonce); err != nil {
			return nil, limits{}, fmt.Errorf("verifying the ID token: %w", err)
		}
		if idToken, err = claims.Further(payload, token.AccessToken); err != nil {
			return nil, limits{}, fmt.Errorf("%w: the ID token: %w", aventus.ErrToken, err)
		}
		if end.session, err = aventus.SessionExpiry(payload); err != nil {
			return nil, limits{}, fmt.Errorf("verifying the ID token: %w", err)
		}
	}
	if err := aventus.CheckLogin(payload, a.params, a.now()); err != nil {
		return nil, limits{}, fmt.Errorf("verifying the ID token: %w", err)
	}
	return idToken, end, a.checkSession(end)
}

// checkSession reports whether a session has ended by the word of its tokens.
func (a *authServer) checkSession(end limits) error {
	if end.session.IsZero() || a.now().Before(end.session) {
		return nil
	}
	return fmt.Errorf("%w: %s", errOver, end.session.UTC().Format(time.RFC3339))
}

// verifyRenewed checks that a session can go on as next, with what a renewal brought: the token must be
// for the same API, of the same server, and name the same person, and so must an ID token, which may be
// empty. The error is ErrToken, errTooLarge or errOver, unless it cannot be told for now.
func (a *authServer) verifyRenewed(ctx context.Context, s, next *session, idToken string) (end limits, err error) {
	if a.audience != "" {
		if err := aventus.CheckParties(next.token(), a.issuer, a.audience); err != nil {
			return limits{}, fmt.Errorf("verifying the access token: %w", err)
		}
	}
	sub := s.subject()
	if sub != "" && sub != next.subject() {
		if len(next.token()) > claims.MaxSize { // its claims are not read
			return limits{}, errTooLarge
		}
		return limits{}, fmt.Errorf(
			"verifying the access token: %w: its sub is not that of the token before", aventus.ErrToken)
	}
	if idToken != "" {
		if end.session, err = aventus.RenewedExpiry(idToken, a.issuer, a.clientID, sub); err != nil {
			return limits{}, fmt.Errorf("verifying the ID token: %w", err)
		}
		if err := a.checkSession(end); err != nil {
			return limits{}, err
		}
	}
	if a.tokens == nil {
		return end, nil
	}
	if _, end.token, err = a.tokens.Verify(ctx, next.token()); errors.Is(err, aventus.ErrToken) {
		err = fmt.Errorf("verifying the access token: %w", err)
	}
	return end, err
}

// revoke tells the authorization server that a session's refresh token is not
// needed any more, unless another session may live on the same grant. That it fails keeps nothing alive
// here.
func (a *authServer) revoke(ctx context.Context, s *session) {
	if s.refresh == "" || a.revokeURL == "" || !a.ends.mayRevoke(s) {
		return
	}
	err := a.client.Revoke(context.WithoutCancel(ctx), a.revokeURL, s.refresh)
	if err == nil {
		return
	}
	id := zap.Skip() // a token that was not asked for came before there was a session
	if s.id != [16]byte{} {
		id = zap.String("session", s.name()[:8])
	}
	a.logger.Warn("the refresh token of a session that has ended could not be revoked", id,
		zap.Error(err), advice(err))
}
