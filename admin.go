package aventusauth

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

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
		return serveList(w, func(f func(listed) error) error { return listSessions(r.Context(), f) })
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

// listBuffer is how much of a list is gathered until it is sent.
const listBuffer = 64 << 10

// serveList sends the sessions that each finds, as it finds them, so that the list of a million takes little memory.
// What fails before anything was sent is an error; after that, the answer is cut short, so that nobody takes it for
// all.
func serveList(w http.ResponseWriter, each func(f func(listed) error) error) error {
	w.Header().Set("Content-Type", "application/json")
	out := &listAnswer{to: w}
	list := bufio.NewWriterSize(out, listBuffer)
	before := "["
	err := each(func(about listed) error {
		item, err := json.Marshal(about)
		if err != nil {
			return err
		}
		_, _ = list.WriteString(before) // what fails here fails at the end
		before = ","
		_, err = list.Write(escapeControls(item))
		return err
	})
	if err == nil {
		_, _ = list.WriteString(strings.TrimSuffix(before, ",") + "]\n")
		err = list.Flush()
	}
	switch {
	case err == nil:
		return nil
	case out.hasBegun:
		panic(http.ErrAbortHandler)
	}
	return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
}

// escapeControls escapes the control characters that JSON may hold as they are, U+007F to U+009F (RFC 8259,
// section 7): the list is read in terminals, for which U+009B begins an escape sequence.
func escapeControls(text []byte) []byte {
	if !bytes.ContainsFunc(text, unicode.IsControl) {
		return text
	}
	var escaped []byte
	for _, r := range string(text) {
		if unicode.IsControl(r) {
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		} else {
			escaped = utf8.AppendRune(escaped, r)
		}
	}
	return escaped
}

// listAnswer knows whether anything was sent.
type listAnswer struct {
	to       io.Writer
	hasBegun bool
}

func (a *listAnswer) Write(part []byte) (int, error) {
	a.hasBegun = true
	return a.to.Write(part)
}

// listSessions calls f with the sessions in the storages of all loaded configs that have not
// ended, until f fails. Sessions that were sealed for a client that is not configured are left out. Of the sessions
// of one family, which end together, it takes the newest.
func listSessions(ctx context.Context, f func(listed) error) error {
	seen := make(map[records.ID]bool)
	families := make(map[records.ID]listed)
	for _, n := range allNeighbours() {
		err := n.keeper.store.list(ctx, func(about listed) error {
			if seen[about.id] || !n.keeper.ends.canEndListed(about) {
				return nil
			}
			seen[about.id] = true
			if !about.isShared() {
				return f(about)
			}
			if newest, found := families[about.family]; !found || about.Created.After(newest.Created) {
				families[about.family] = about
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, about := range families {
		if err := f(about); err != nil {
			return err
		}
	}
	return nil
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
		about, found, err := n.keeper.store.find(ctx, id, n.keeper.lifetime)
		failed = append(failed, err)
		if found && n.keeper.ends.canEndListed(about) {
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
