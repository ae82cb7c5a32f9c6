package aventusauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// identity is the person or the API client that a request is from: the person of a session, or a client
// with a token of its own. The zero identity belongs to an anonymous request.
type identity struct {
	*grant
	session *keptSession // nil for an API client
	client  *bearerToken // nil for a person
}

func (id identity) isAnonymous() bool { return id.grant == nil }

// bearerToken is an API client's own token that was verified.
type bearerToken struct {
	grant
	verified, expires time.Time
	keys              any // the version of the keys that it was verified with
}

// reader finds the identity of a request. It reads sessions and tokens as they are, and renews nothing.
type reader struct {
	sessions sessionReader
	bearers  *bearers // nil: API clients are not let in
	now      func() time.Time
}

// sessionReader is the part of the keeper that changes no session.
type sessionReader interface {
	load(ctx context.Context, at site, cookies []string, now time.Time) (*keptSession, error)
	endOf(k *keptSession) time.Time
}

// read returns the identity of a request: its session's or, with accept_bearer, that of the token that
// it brings itself. The session's token may have died.
func (rd *reader) read(ctx context.Context, at site, was *sent) (identity, *refusal) {
	k, err := rd.sessions.load(ctx, at, was.cookies, rd.now())
	if err != nil {
		return identity{}, &refusal{failure: errStorage, cause: err}
	}
	return rd.identityOf(ctx, k, was)
}

// readLive is read, but ignores a session whose token has expired.
func (rd *reader) readLive(ctx context.Context, at site, was *sent) (identity, *refusal) {
	k, err := rd.sessions.load(ctx, at, was.cookies, rd.now())
	if err != nil {
		return identity{}, &refusal{failure: errStorage, cause: err}
	}
	if k != nil && !isAlive(k.session, rd.now()) {
		k = nil
	}
	return rd.identityOf(ctx, k, was)
}

// identityOf returns the identity of a session or, if that is nil, of what else the request brings.
func (rd *reader) identityOf(ctx context.Context, k *keptSession, was *sent) (identity, *refusal) {
	if k != nil {
		return identity{grant: &k.grant, session: k}, nil
	}
	if rd.bearers != nil {
		return rd.bearers.identify(ctx, was.authorization)
	}
	return identity{}, nil
}

// endOf returns when an identity ends, if its session is not used until then.
func (rd *reader) endOf(id identity) time.Time {
	if id.session != nil {
		return rd.sessions.endOf(id.session)
	}
	return id.client.expires
}

// identifier finds the identity of a request, and renews the token of its session where that is due.
type identifier struct {
	reader
	renewer *renewer
	meter   *meter
}

// identify returns the identity of a request, and renews the session's token if that is due. A request that
// is fetched ahead begins no renewal, as long as the token is good.
func (i *identifier) identify(r *http.Request, at site, was *sent, now time.Time) (identity, *refusal) {
	k, err := i.sessions.load(r.Context(), at, was.cookies, now)
	if err != nil {
		return identity{}, &refusal{failure: errStorage, cause: err}
	}
	if k != nil && i.renewer.isDue(k.session, now) && !(isFetchedAhead(r) && isAlive(k.session, now)) {
		var refused *refusal
		if k, refused = i.renewer.keepAlive(r.Context(), at, k); refused != nil {
			return identity{}, refused
		}
		if k == nil {
			i.meter.sessionOver("expired")
		}
	}
	return i.identityOf(r.Context(), k, was)
}

// bearers are the API clients that send a token of their own.
type bearers struct {
	tokens   *aventus.TokenVerifier
	keys     *aventus.KeySet                    // of tokens
	verified *lru.Cache[[32]byte, *bearerToken] // the tokens that were good
	now      func() time.Time
}

// isWithdrawn reports whether a token that was good by a version of the keys is not any more. The version
// becomes that by which it is.
func (b *bearers) isWithdrawn(ctx context.Context, g *grant, keys *any) bool {
	current := b.keys.Version()
	if current == *keys {
		return false
	}
	_, _, err := b.tokens.Verify(ctx, g.token())
	if err == nil {
		*keys = current
	}
	return errors.Is(err, aventus.ErrToken)
}

// identify returns the identity of an API client, by the token in the lines of its
// Authorization header.
func (b *bearers) identify(ctx context.Context, lines []string) (identity, *refusal) {
	if !slices.ContainsFunc(lines, isBearer) {
		return identity{}, nil
	}
	refused := &refusal{failure: errBearer}
	if len(lines) != 1 { // which of them would an upstream believe?
		refused.cause = errors.New("there is more than one Authorization header")
		return identity{}, refused
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		refused.cause = errors.New("its Authorization header has the word Bearer, but not as its scheme")
		return identity{}, refused
	}
	token = strings.Trim(token, " ")
	key, now := sha256.Sum256([]byte(token)), b.now()
	keys := b.keys.Version() // before they are used: others may come meanwhile
	// A clock that was set back may be before the token's nbf, and the key that signed it may have been
	// withdrawn: then it is verified again.
	if t, ok := b.verified.Get(key); ok && now.Before(t.expires) && !now.Before(t.verified) && t.keys == keys {
		return identity{grant: &t.grant, client: t}, nil
	}
	_, expires, err := b.tokens.Verify(ctx, token)
	if err == nil && !b.now().Before(expires) {
		err = fmt.Errorf("%w: it has expired", aventus.ErrToken) // within the leeway
	}
	if errors.Is(err, aventus.ErrToken) {
		refused.cause = err
		return identity{}, refused
	}
	if err != nil {
		return identity{}, &refusal{failure: failureOf(kindOf(err)), cause: err}
	}
	t := &bearerToken{grant: grant{bearer: bearer + token}, verified: now, expires: expires, keys: keys}
	b.verified.Add(key, t)
	return identity{grant: &t.grant, client: t}, nil
}

// isBearer reports whether an app may take an Authorization header for one of the Bearer scheme, whose case
// is free (RFC 9110, section 11.1). Some end the scheme's name at other blanks than a space, take a comma for
// the end of a line, or look for the name anywhere.
func isBearer(line string) bool {
	words := strings.FieldsFuncSeq(line, func(r rune) bool { return !httpguts.IsTokenRune(r) })
	for word := range words {
		if strings.EqualFold(word, "Bearer") {
			return true
		}
	}
	return false
}
