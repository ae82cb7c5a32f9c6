package aventusauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// backchannel takes the authorization server's word that a session has ended there, and ends what came of
// it here (OpenID Connect Back-Channel Logout 1.0). It reads no cookie: the request is from a server.
type backchannel struct {
	path     string
	blocks   *backchannels // of the config
	verifier *aventus.LogoutVerifier
	ends     *ends
	used     *records.Once                       // the ids of logout tokens
	remember func(context.Context) time.Duration // how long a session that has ended could have lasted, at most
	busy     chan struct{}                       // limits the valid tokens in progress
	waiting  chan struct{}                       // limits the tokens that wait for keys
	answers  *answers
	meter    *meter
	now      func() time.Time
}

// backchannels holds the back-channel logouts of all blocks of a config.
type backchannels struct{ roster[*backchannel] }

// receiver returns the block that a token which bc received is meant for: one with the same path whose client the
// token names. If there is none, it returns bc, which refuses the token.
func (bcs *backchannels) receiver(bc *backchannel, token string) *backchannel {
	parties := aventus.PartiesOf(token)
	for _, other := range append([]*backchannel{bc}, bcs.list()...) {
		if other.path == bc.path && other.verifier.IsFor(parties) {
			return other
		}
	}
	return bc
}

// errReplayed says that a logout token was good once, and has come again.
var errReplayed = fmt.Errorf("%w: its jti came before", aventus.ErrToken)

// serve answers within [logoutAnswer], since the server waits some seconds and does not try again. Work that
// takes longer continues after the answer.
func (bc *backchannel) serve(w http.ResponseWriter, r *http.Request) error {
	if original(r).Method != http.MethodPost || r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return bc.answers.fail(w, r, errMethod, nil)
	}
	patience := time.NewTimer(logoutAnswer)
	defer patience.Stop()
	token, err := logoutToken(w, r)
	if err != nil {
		return bc.answer(w, r, err)
	}
	return bc.blocks.receiver(bc, token).take(w, r, token, patience.C)
}

// take verifies a token, ends what it names, and answers.
func (bc *backchannel) take(w http.ResponseWriter, r *http.Request, token string, patience <-chan time.Time) error {
	// A token that is signed with a cached key does not queue behind those that wait for keys: anyone can make up such
	// tokens. A context that is done waits for no keys.
	isDone, cancel := context.WithCancel(r.Context())
	cancel()
	said, err := bc.verify(isDone, token)
	room := bc.busy
	if isUndecided(err) {
		room = bc.waiting
	} else if err != nil {
		return bc.answer(w, r, err)
	}
	select {
	case room <- struct{}{}:
	default:
		if err == nil {
			bc.ends.endLaterAt(said, bc.now())
		}
		return bc.answer(w, r, fmt.Errorf("%w: too many logout tokens at once", records.ErrStorage))
	}
	done := make(chan error, 2)
	ctx := context.WithoutCancel(r.Context())
	go func(said aventus.Logout, err error) {
		defer func() { <-room }()
		ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
		defer cancel()
		if err != nil {
			said, err = bc.verify(ctx, token)
		}
		if isUndecided(err) {
			done <- err // the answer; the token is not sent again, so the work goes on
			said, err = bc.verifyLater(ctx, token)
		}
		if err == nil {
			err = bc.end(ctx, said)
		}
		done <- err
	}(said, err)
	select {
	case err = <-done:
	case <-patience:
		err = fmt.Errorf("%w: it took too long, and goes on", records.ErrStorage)
	}
	return bc.answer(w, r, err)
}

// logoutToken returns the token of a logout request (section 2.5): it is in a form, and there alone.
func logoutToken(w http.ResponseWriter, r *http.Request) (string, error) {
	refuse := func(why string) (string, error) { return "", fmt.Errorf("%w: %s", aventus.ErrToken, why) }
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" || len(r.Header["Content-Type"]) != 1 {
		return refuse("the request is no form")
	}
	// A body that drips is given up. Where that cannot be said, the server's own time-outs hold.
	connection := http.NewResponseController(w) //nolint:bodyclose
	_ = connection.SetReadDeadline(deadline(logoutAnswer))
	body, err := io.ReadAll(io.LimitReader(r.Body, maxLogoutRequest+1))
	// The server reads on, to notice that the client goes, and would take the deadline for that.
	_ = connection.SetReadDeadline(time.Time{})
	if err != nil || len(body) > maxLogoutRequest {
		return refuse("the request is too long, or did not arrive")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form["logout_token"]) != 1 {
		return refuse("the form needs a logout_token, and one")
	}
	return form["logout_token"][0], nil
}

// verify returns the content of a valid token, and applies it at this instance without waiting for the storage.
func (bc *backchannel) verify(ctx context.Context, token string) (aventus.Logout, error) {
	said, err := bc.verifier.Verify(ctx, token)
	if err == nil {
		bc.ends.expectAt(said, bc.now())
	}
	return said, err
}

// verifyLater verifies a token as soon as its key can be had, or returns an error when ctx is done.
func (bc *backchannel) verifyLater(ctx context.Context, token string) (aventus.Logout, error) {
	for {
		select {
		case <-ctx.Done():
			return aventus.Logout{}, ctx.Err()
		case <-time.After(logoutPause):
		}
		if said, err := bc.verify(ctx, token); !isUndecided(err) {
			return said, err
		}
	}
}

// isUndecided reports whether a token could not be verified because its key is not available.
func isUndecided(err error) bool {
	var unknown *aventus.Error
	return errors.As(err, &unknown)
}

// end ends what a valid token names at all instances, unless the token was used before.
func (bc *backchannel) end(ctx context.Context, said aventus.Logout) error {
	first, useErr := bc.used.Use(idOf("logout", bc.ends.issuer, said.ID))
	// That it could not be noted whether it is new keeps nothing alive. One whose end was not written may
	// come again: the storage did not take it, or the instance died that had noted the use.
	if useErr == nil && !first && bc.ends.hasAt(ctx, said) {
		return errReplayed
	}
	err := errors.Join(useErr, bc.ends.endAt(ctx, said, bc.now(), bc.remember(ctx)))
	if err == nil {
		bc.meter.toldOut(said)
	}
	return err
}

// answer tells the server what came of its token (section 2.8).
func (bc *backchannel) answer(w http.ResponseWriter, r *http.Request, err error) error {
	switch {
	case err == nil:
		bc.meter.backchannelLogout("ended")
		return bc.answers.empty(w, http.StatusOK)
	case errors.Is(err, aventus.ErrToken): // which is no word of keys that cannot be had
		bc.meter.backchannelLogout("refused")
		bc.answers.note(r, "a logout token was refused", http.StatusBadRequest, err)
		document, _ := json.Marshal(map[string]string{ // strings can be marshalled
			"error": "invalid_request", "error_description": "The logout token is not good.",
		})
		return bc.answers.json(w, http.StatusBadRequest, document)
	}
	bc.meter.backchannelLogout("failed")
	bc.answers.note(r, "what a logout token ends could not be recorded", http.StatusServiceUnavailable, err)
	return bc.answers.json(w, http.StatusServiceUnavailable, []byte(`{"error":"temporarily_unavailable"}`))
}
