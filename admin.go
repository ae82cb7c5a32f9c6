package aventusauth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

const adminPath = "/aventus_auth/sessions"

// adminAPI serves the sessions on Caddy's admin endpoint:
//
//	GET    /aventus_auth/sessions            those that rest in the storage
//	DELETE /aventus_auth/sessions?id=<id>    ends one
//	DELETE /aventus_auth/sessions?sub=<sub>  ends every session of a user
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.aventus_auth",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes returns the admin routes.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: caddy.AdminHandlerFunc(a.serve)}}
}

func (a *adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	id, sub := r.URL.Query().Get("id"), r.URL.Query().Get("sub")
	switch {
	case r.Method == http.MethodGet:
		sessions, err := listSessions(r.Context())
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(sessions)
	case r.Method != http.MethodDelete:
		return caddy.APIError{
			HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method not allowed: %v", r.Method),
		}
	case (id == "") == (sub == ""):
		return caddy.APIError{
			HTTPStatus: http.StatusBadRequest, Err: errors.New("an id or a sub is needed, and not both"),
		}
	}
	ended, err := revokeSessions(r.Context(), id, sub)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	if !ended {
		return caddy.APIError{
			HTTPStatus: http.StatusNotFound, Err: errors.New("there is no such session in the storage"),
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listSessions returns the sessions in the storages of all loaded configs that have not
// ended. Sessions that were sealed for a client that is not configured are left out. Of the sessions of
// one family, which end together, it returns the newest.
func listSessions(ctx context.Context) ([]listed, error) {
	sessions := []listed{}
	seen := make(map[string]bool)
	families := make(map[records.ID]int) // where each stands in sessions
	for _, n := range allNeighbours() {
		err := n.keeper.store.list(ctx, func(about listed) {
			if seen[about.ID] || n.keeper.ends.hasListed(about) {
				return
			}
			seen[about.ID] = true
			if i, found := families[about.family]; found && about.isShared() {
				if about.Created.After(sessions[i].Created) {
					sessions[i] = about
				}
				return
			}
			families[about.family] = len(sessions)
			sessions = append(sessions, about)
		})
		if err != nil {
			return nil, err
		}
	}
	return sessions, nil
}

// revokeSessions ends the session of that id, or all of that subject's that there
// are by now, and reports whether there was anything to end.
func revokeSessions(ctx context.Context, id, sub string) (bool, error) {
	all := allNeighbours()
	if sub != "" {
		var failed []error // a storage that fails keeps none of the others from it
		for _, n := range all {
			failed = append(failed, n.keeper.ends.endUser(ctx, sub, n.keeper.now()))
		}
		if err := errors.Join(failed...); err != nil || len(all) == 0 {
			return false, err
		}
		all[0].meter.revoked(sub, "", "")
		return true, nil
	}
	id = strings.ToLower(id)
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != len(records.ID{}) {
		return false, nil
	}
	var failed []error
	for _, n := range all {
		about, found, err := n.keeper.store.find(ctx, id)
		failed = append(failed, err)
		if found && !n.keeper.ends.hasListed(about) {
			err := n.keeper.endListed(ctx, about)
			if err == nil {
				n.meter.revoked(about.Sub, about.Site, about.ID)
			}
			return true, err
		}
	}
	return false, errors.Join(failed...)
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
