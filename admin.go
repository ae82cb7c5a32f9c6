package aventusauth

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

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

// listed is what is said of a session: who, where and until when, and no token.
type listed struct {
	ID       string    `json:"id"`
	Sub      string    `json:"sub"`
	Site     string    `json:"site"`
	ClientID string    `json:"client_id"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
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
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method not allowed: %v", r.Method)}
	case (id == "") == (sub == ""):
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: errors.New("an id or a sub is needed, and not both")}
	}
	ended, err := revokeSessions(r.Context(), id, sub)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	if !ended {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("there is no such session in the storage")}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// userEnd is how long it is remembered that a user's sessions were ended: longer than
// a session may live, with this configuration or one before.
const userEnd = 400 * 24 * time.Hour

// handlers returns the handlers of all configs that are loaded.
func handlers() []*Handler {
	var all []*Handler
	configs.Range(func(_, value any) bool {
		p := value.(*peers)
		p.mu.RLock()
		defer p.mu.RUnlock()
		all = append(all, p.handlers...)
		return true
	})
	return all
}

// listed reads what a record says of its session, if it was sealed for this client and
// has not ended.
func (h *Handler) listed(ctx context.Context, name string, record []byte) (s listed, ok bool) {
	meta, _, ok := splitRecord(record)
	id, err := hex.DecodeString(name)
	if !ok || err != nil || len(id) != len(records.ID{}) {
		return listed{}, false
	}
	plaintext, _, err := h.index.Open(ctx, string(meta), []byte(name))
	if err != nil || json.Unmarshal(plaintext, &s) != nil || !h.now().Before(s.Expires) {
		return listed{}, false
	}
	h.learn()
	if h.memory.ended.Has(records.ID(id), s.Created) || h.memory.ended.Has(subjectID(h.cfg.issuer, s.Sub), s.Created) {
		return listed{}, false
	}
	s.ID = name
	return s, true
}

// listSessions returns the sessions in the storages of all handlers that have not
// ended. What was sealed for a client that is not configured is left out.
func listSessions(ctx context.Context) ([]listed, error) {
	sessions := []listed{}
	seen := make(map[string]bool)
	for _, h := range handlers() {
		err := h.shelf.Each(ctx, func(name string, record []byte) {
			if seen[name] {
				return
			}
			if s, ok := h.listed(ctx, name, record); ok {
				seen[name] = true
				sessions = append(sessions, s)
			}
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
	all := handlers()
	if sub != "" {
		for _, h := range all {
			h.learn()
			now := h.now()
			if err := h.memory.ended.EndBefore(ctx, subjectID(h.cfg.issuer, sub), now, now.Add(userEnd)); err != nil {
				return false, err
			}
		}
		return len(all) > 0, nil
	}
	id = strings.ToLower(id)
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != len(records.ID{}) {
		return false, nil
	}
	for _, h := range all {
		record, err := h.shelf.Find(ctx, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if s, ok := h.listed(ctx, id, record); ok {
			return true, h.memory.ended.End(ctx, records.ID(raw), s.Expires)
		}
	}
	return false, nil
}

// subjectID is what a user's sessions are ended by.
func subjectID(issuer, sub string) records.ID { return idOf("subject", issuer, sub) }

// joinRecord puts what the index says of a session in front of its record.
func joinRecord(meta, sealed []byte) []byte {
	record := binary.BigEndian.AppendUint16(nil, uint16(len(meta)))
	return append(append(record, meta...), sealed...)
}

func splitRecord(record []byte) (meta, sealed []byte, ok bool) {
	if len(record) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(record))
	if record = record[2:]; len(record) < n {
		return nil, nil, false
	}
	return record[:n], record[n:], true
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
