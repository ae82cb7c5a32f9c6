package aventusauth

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

// profile tells a page's script which user is signed in. It reads the session as it is, also if its
// token is due for renewal or has expired: the next request that needs the token renews it. It sets no
// cookie and ends nothing, and a request for it does not count as a use of the session.
type profile struct {
	sites   *sites
	reader  *reader
	answers *answers
}

// serve answers 200 with the user's claims, or 401.
func (p *profile) serve(w http.ResponseWriter, r *http.Request) error {
	if method := original(r).Method; method != http.MethodGet && method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return p.answers.fail(w, r, errMethod, nil)
	}
	at, err := p.sites.of(r)
	if err != nil {
		return p.answers.noSite(w, r, err)
	}
	id, refused := p.reader.read(r.Context(), at, asSent(r))
	if refused != nil {
		return p.answers.refuse(w, r, refused)
	}
	if id.isAnonymous() {
		return p.answers.refuse(w, r, &refusal{failure: errLoginRequired})
	}
	body, err := json.Marshal(struct {
		Sub       string        `json:"sub"`
		Scope     string        `json:"scope"`
		ExpiresAt time.Time     `json:"expires_at"`
		Claims    claims.Claims `json:"claims"`
	}{id.subject(), id.scopes(), p.reader.endOf(id).UTC(), id.allClaims()})
	if err != nil {
		return p.answers.fail(w, r, errInternal, err)
	}
	return p.answers.json(w, http.StatusOK, body)
}
