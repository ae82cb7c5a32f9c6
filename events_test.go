package aventusauth

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// recorder is an event handler that notes what it was told.
type recorder struct{}

var recorded struct {
	mu     sync.Mutex
	events []string
}

func init() { caddy.RegisterModule(recorder{}) }

func (recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.aventus_auth_test", New: func() caddy.Module { return new(recorder) }}
}

func (*recorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*recorder) Handle(_ context.Context, e caddy.Event) error {
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	data := make(map[string]any)
	maps.Copy(data, e.Data)
	if session, ok := data["session"]; ok && len(session.(string)) == 8 {
		data["session"] = "a session"
	}
	recorded.events = append(recorded.events, fmt.Sprint(e.Name(), " ", data))
	return nil
}

var _ caddyevents.Handler = (*recorder)(nil)

// TestEvents: who subscribes to them is told of logins, logouts and refusals.
func TestEvents(t *testing.T) {
	w := newWorld(t, setup{
		global: "events {\non login aventus_auth_test\non logout aventus_auth_test\non refused aventus_auth_test\n}",
		sites: func(w *world) string {
			return w.site + " {\n" + w.directive("/allowed", "logout /logout") +
				"\n@rest not path /allowed /logout\n" +
				w.directive("@rest", "require_scope nobody:has") + "\nreverse_proxy " + w.app + "\n}"
		},
	})
	recorded.events = nil
	b := w.browser()
	b.login("/allowed")
	w.expect(b.get("/other"), http.StatusForbidden)
	w.expect(b.get("/oauth2/callback?state=forged&code=x"), http.StatusBadRequest)
	w.expect(b.do("GET", "/allowed", "X-Requested-With", "XMLHttpRequest"), http.StatusOK)
	w.expect(w.browser().do("POST", "/allowed"), http.StatusUnauthorized) // nobody is nobody refused
	w.expect(b.get("/logout"), http.StatusOK)
	const from = "client_ip:127.0.0.1 "
	about := from + "session:a session site:" + w.site + " user_id:auth0|ada"
	want := []string{
		"login map[" + about + "]",
		"refused map[" + from + "reason:insufficient_scope user_id:auth0|ada]",
		"refused map[" + from + "reason:invalid_state]",
		"logout map[" + about + "]",
	}
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	if !slices.Equal(recorded.events, want) {
		t.Errorf("events %q, want %q", recorded.events, want)
	}
}

// TestEventOfBackchannelLogout: who subscribes to logouts is told of those at the authorization server.
func TestEventOfBackchannelLogout(t *testing.T) {
	w := toldOfLogouts(t, setup{global: "events {\non logout aventus_auth_test\n}"})
	b := w.browser()
	b.login("/")
	sid := b.sid()
	recorded.events = nil
	w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", sid), http.StatusOK)
	w.expectTold("no token", http.StatusBadRequest)
	w.expectTold(w.issuer.LogoutToken("the-client", "auth0|ada", ""), http.StatusOK)
	about := " site:" + w.site + " user_id:auth0|ada]"
	want := []string{"logout map[sid:" + sid + about, "logout map[sid:" + about}
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	if !slices.Equal(recorded.events, want) {
		t.Errorf("events %q, want %q", recorded.events, want)
	}
}

// TestEventsOfHosts: where one block serves several hosts, an event says at which it happened, as the log does.
func TestEventsOfHosts(t *testing.T) {
	g := newGroup(t, setup{
		block:  "logout /logout",
		global: "events {\non login aventus_auth_test\non logout aventus_auth_test\n}",
	}, false)
	recorded.events = nil
	b := g.browser()
	b.visit(g.app + "/")
	b.visit(g.wiki + "/logout")
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	about := func(event, site string) string {
		return event + " map[client_ip:127.0.0.1 session:a session site:" + site + " user_id:auth0|ada]"
	}
	if want := []string{about("login", g.login), about("logout", g.wiki)}; !slices.Equal(recorded.events, want) {
		t.Errorf("events %q, want %q", recorded.events, want)
	}
}
