package aventusauth

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestIntroduces: the placeholders say who the last block found, and nothing of what another handler has set in
// front of it, between two blocks, or before a failure.
func TestIntroduces(t *testing.T) {
	p := newParts(t)
	k, _ := p.session(func(s *session) { s.bearer = bearer + unsigned(t, map[string]any{"sub": "auth0|ada"}) })
	r := p.request("GET", "/")
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	fail := func() {
		_, _ = p.outcome(func(w http.ResponseWriter, r *http.Request) error {
			return p.answers.fail(w, r, errStorage, nil)
		}, r)
	}
	for i, c := range []struct {
		do   func()
		want string
	}{
		{fail, ""},
		{func() { asSent(r).introduce(r, &k.grant) }, "auth0|ada"},
		{fail, "auth0|ada"},
		{func() { asSent(r).introduce(r, nil) }, ""},
	} {
		repl.Set("http.auth.user.id", "another")
		repl.Set("http.auth.user.email", "another@example.com")
		c.do()
		if got := repl.ReplaceAll("{http.auth.user.id}{http.auth.user.email}", ""); got != c.want {
			t.Errorf("%d: %q, want %q", i, got, c.want)
		}
	}
}
