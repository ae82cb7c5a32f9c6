package aventusauth

import (
	"net/http"
	"strings"
)

// challenges makes every WWW-Authenticate header of the module (RFC 6750, section 3). docs/reference.md has
// the table.
type challenges struct {
	resource *resource // nil: API clients are not let in, so there is nothing more to tell them
	scopes   []string  // that a token needs, all of them
}

// of returns the challenge that belongs to a refusal, or "" for none. A person with a session gets none: no
// token of their own would help.
func (c *challenges) of(r *http.Request, refused *refusal) string {
	var params []string
	switch {
	case refused.code == errLoginRequired.code: // without authentication information, no error code (section 3.1)
	case refused.code == errBearer.code:
		params = append(params, `error="invalid_token"`)
	case refused.code == errScope.code && refused.isClient:
		params = append(params, `error="insufficient_scope"`)
	default:
		return ""
	}
	if c.resource != nil {
		if scope := strings.Join(c.scopes, " "); scope != "" && len(scope) <= maxChallengeScope {
			params = append(params, `scope="`+scope+`"`)
		}
		if url, ok := c.resource.metadataURL(r); ok { // RFC 9728, section 5.1
			params = append(params, `resource_metadata="`+url+`"`)
		}
	}
	return strings.TrimRight("Bearer "+strings.Join(params, ", "), " ")
}
