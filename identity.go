package aventusauth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// verifiedTokens is how many tokens of API clients a handler remembers as verified,
// at a few kilobytes each.
const verifiedTokens = 4096

var (
	errBearer = failure{http.StatusUnauthorized, "invalid_token", "The access token is not valid here."}
	errScope  = failure{http.StatusForbidden, "insufficient_scope", "You are signed in, but may not go here."}
	errClaim  = failure{http.StatusForbidden, "insufficient_claim", "You are signed in, but may not go here."}
)

// refusal says why a request gets no further, and what its WWW-Authenticate header
// is to say (RFC 6750, section 3), if anything.
type refusal struct {
	failure
	challenge string
	cause     error
	session   *session // whose request it is; nil if that is not known
}

// identify returns who a request is from: whose session it has or, with
// accept_bearer, whose token it brings itself. Nobody is nil.
func (h *Handler) identify(r *http.Request, at site, was *sent) (*session, *refusal) {
	s, err := h.loadSession(r.Context(), at, was.cookies)
	if err != nil {
		return nil, &refusal{failure: errStorage, cause: err}
	}
	if s != nil {
		var refused *refusal
		if s, refused = h.renewed(r.Context(), at, s); refused != nil {
			return nil, refused
		}
		if s == nil {
			sessionsRefused.WithLabelValues(h.cfg.label, "expired").Inc()
		}
	}
	if s == nil && h.cfg.acceptBearer {
		return h.identifyBearer(r.Context(), was.authorization)
	}
	return s, nil
}

// identifyBearer returns who a request is from by the token in the lines of its
// Authorization header, as something like a session that is kept nowhere.
func (h *Handler) identifyBearer(ctx context.Context, lines []string) (*session, *refusal) {
	if !slices.ContainsFunc(lines, isBearer) {
		return nil, nil
	}
	refused := &refusal{failure: errBearer, challenge: `Bearer error="invalid_token"`}
	if len(lines) != 1 { // which of them would an upstream believe?
		refused.cause = errors.New("there is more than one Authorization header")
		return nil, refused
	}
	token := strings.Trim(lines[0][len("Bearer"):], " ")
	key := sha256.Sum256([]byte(token))
	if s, ok := h.verified.Get(key); ok && h.now().Before(s.expires) {
		return s, nil
	}
	_, expires, err := h.tokens.Verify(ctx, token)
	if err == nil && !h.now().Before(expires) {
		err = fmt.Errorf("%w: it has expired", aventus.ErrToken) // within the leeway
	}
	if errors.Is(err, aventus.ErrToken) {
		refused.cause = err
		return nil, refused
	}
	if err != nil {
		return nil, &refusal{failure: failureOf(kindOf(err)), cause: err}
	}
	s := &session{expires: expires, bearer: bearer + token, isBearer: true}
	h.verified.Add(key, s)
	return s, nil
}

// isBearer reports whether an Authorization header is of the Bearer scheme, whose
// case is free (RFC 9110, section 11.1).
func isBearer(line string) bool {
	scheme, _, _ := strings.Cut(line, " ")
	return strings.EqualFold(scheme, "Bearer")
}

// lacks returns what keeps someone who is known from going on, or nil.
func (h *Handler) lacks(s *session) *refusal {
	if len(h.cfg.requireScope) > 0 {
		granted := s.accessClaims().Grants(s.scope, h.asked(s))
		for _, scope := range h.cfg.requireScope {
			if slices.Contains(granted, scope) {
				continue
			}
			refused := &refusal{failure: errScope, session: s}
			refused.description = fmt.Sprintf("You are signed in, but lack the scope %s.", scope)
			if s.isBearer {
				refused.challenge = fmt.Sprintf(`Bearer error="insufficient_scope", scope="%s"`, strings.Join(h.cfg.requireScope, " "))
			}
			return refused
		}
	}
	for _, req := range h.cfg.requireClaim {
		_, has, _ := s.claim(req.Claim)
		if !slices.ContainsFunc(req.Values, func(value string) bool { return slices.Contains(has, value) }) {
			refused := &refusal{failure: errClaim, session: s}
			refused.description = fmt.Sprintf("You are signed in, but your account lacks what is needed here (%s).", req.Claim)
			return refused
		}
	}
	return nil
}

// asked returns the scopes that a token was asked for with, as far as that is known.
func (h *Handler) asked(s *session) []string {
	if s.isBearer {
		return nil
	}
	return h.cfg.Scopes
}

// introduce sets the placeholders that tell who a request is from; for nobody they
// are empty. The claims are parsed when a placeholder is asked for.
func (h *Handler) introduce(r *http.Request, was *sent, s *session) {
	was.whoIs = func(key string) (any, bool) {
		name, ok := strings.CutPrefix(key, "http.auth.user.")
		switch {
		case !ok:
			return nil, false
		case s == nil:
			return "", true
		case name == "id":
			return s.subject(), true
		case name == "scope":
			return h.scopeOf(s), true
		}
		if value, _, ok := s.claim(name); ok {
			return value, true
		}
		return "", true
	}
	// Of several blocks, the last one set the token that goes on; the placeholders
	// say who that is.
	if !was.introduced {
		was.introduced = true
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		repl.Map(func(key string) (any, bool) { return was.whoIs(key) })
	}
}

// scopeOf returns the scopes that someone was granted.
func (h *Handler) scopeOf(s *session) string {
	return strings.Join(s.accessClaims().Scopes(s.scope, h.asked(s)), " ")
}

// serveProfile tells a page's script who it is that looks at it.
func (h *Handler) serveProfile(w http.ResponseWriter, r *http.Request) error {
	if method := original(r).Method; method != http.MethodGet && method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return h.fail(w, r, errMethod, nil)
	}
	at, err := h.site(r)
	if err != nil {
		return h.fail(w, r, errBadHost, err)
	}
	s, refused := h.identify(r, at, asSent(r))
	if refused != nil {
		return h.refuse(w, r, refused)
	}
	if s == nil {
		return h.refuse(w, r, &refusal{failure: errLoginRequired, challenge: "Bearer"})
	}
	body, err := json.Marshal(struct {
		Sub       string        `json:"sub"`
		Scope     string        `json:"scope"`
		ExpiresAt time.Time     `json:"expires_at"`
		Claims    claims.Claims `json:"claims"`
	}{s.subject(), h.scopeOf(s), h.endOf(s).UTC(), s.claims()})
	if err != nil {
		return h.fail(w, r, errInternal, err)
	}
	h.noStore(w)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, err = w.Write(body)
	return err
}

// refuse ends a request with what keeps it from going on.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, refused *refusal) error {
	if refused.code != errLoginRequired.code {
		h.countRefusal(refused)
	}
	if refused.code == errRenewal.code {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryRenewal/time.Second)))
	}
	if refused.challenge != "" {
		w.Header().Set("WWW-Authenticate", refused.challenge)
	}
	return h.fail(w, r, refused.failure, refused.cause)
}

// kindOf returns the kind of an error that kept a token from being verified.
func kindOf(err error) aventus.Kind {
	var e *aventus.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return aventus.Unreachable
}
