package aventusauth

import (
	"cmp"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/claims"
)

const bearer = "Bearer "

// grant is an access token, and what came with it. It is never changed once it is in use.
type grant struct {
	bearer  string // the Authorization that goes on: "Bearer ", and the access token
	scope   string // what was granted; empty if the server did not say
	idToken string // what the ID token says further (claims.Further), as JSON; may be empty

	who    sync.Once
	sub    string // the subject that the claims name
	sid    string // the session at the authorization server that they name
	claims atomic.Pointer[grantClaims]
}

// grantClaims are the claims of a grant, parsed.
type grantClaims struct {
	access claims.Claims // of the access token
	other  claims.Claims // of the ID token, as far as the access token has none
}

func (g *grant) token() string { return g.bearer[len(bearer):] }

// parsed returns the claims, which are parsed when first asked for. They take more memory than the tokens.
func (g *grant) parsed() *grantClaims {
	parsed := g.claims.Load()
	if parsed == nil {
		parsed = &grantClaims{claims.Of(g.token()), g.idClaims()}
		g.claims.Store(parsed)
	}
	return parsed
}

// accessClaims returns the claims of the access token.
func (g *grant) accessClaims() claims.Claims { return g.parsed().access }

func (g *grant) idClaims() claims.Claims {
	if len(g.idToken) == 0 {
		return claims.Claims{}
	}
	c, _ := claims.Parse([]byte(g.idToken)) // it was marshalled here
	return c
}

// allClaims returns all that is known of the person.
func (g *grant) allClaims() claims.Claims { return g.parsed().access.Join(g.parsed().other) }

// claim returns the value at a path, of the access token if that decides it, or else of the ID token.
func (g *grant) claim(path string) (value any, ok bool) {
	parsed := g.parsed()
	if parsed.access.Decide(path, parsed.other) {
		return parsed.access.Lookup(path)
	}
	return parsed.other.Lookup(path)
}

// subject returns the person's identifier at the authorization server, or "" if no token
// names it. It is kept by itself: few sites need the other claims, and those would be
// memory, and work for the garbage collector, for each session that is remembered.
func (g *grant) subject() string {
	g.name()
	return g.sub
}

// serverSession returns the session at the authorization server that this one came of, or "" if no token
// names it. The ID token takes precedence, since logout tokens go by it.
func (g *grant) serverSession() string {
	g.name()
	return g.sid
}

func (g *grant) name() {
	g.who.Do(func() {
		access, id := claims.Of(g.token()), g.idClaims()
		g.sub = cmp.Or(access.Subject(), id.Subject())
		g.sid = cmp.Or(id.SessionID(), access.SessionID())
	})
}

// known returns the value of a placeholder {http.auth.user.*} by its name. The claims are parsed when the
// first of them is asked for. In text, they are fit for a header; but the person's id keeps its control characters,
// for without them it might be another's.
func (g *grant) known(name string) any {
	switch name {
	case "id":
		return claims.ShownID(g.subject())
	case "scope":
		return claims.Shown(g.scopes())
	}
	value, ok := g.claim(name)
	switch {
	case !ok:
		return ""
	case name == "sub":
		return claims.ShownID(value)
	}
	return claims.Shown(value)
}

// scopes returns the scopes that were granted, separated by spaces.
func (g *grant) scopes() string { return strings.Join(g.accessClaims().Scopes(g.scope), " ") }
