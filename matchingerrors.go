package aventusauth

import (
	"net/http"
	"net/url"
)

// protectsAmongErrors is [matching.protects] for a request that the error routes get. Caddy's file_server refuses
// every method but GET and HEAD elsewhere, and there serves each of them, so the request is judged as a GET, too.
func (m *matching) protectsAmongErrors(r *http.Request) (bool, error) {
	protects, err := m.protects(r)
	if protects || err != nil {
		return protects, err
	}
	defer replaceMethod(r, http.MethodGet, http.MethodGet)()
	return m.matchesHost(r)
}

// protectsFailed is protectsAmongErrors for a request that has failed behind the block, to which it came with a method
// and a URL. Caddy undoes every rewrite for the error routes of a server, and none for those of a subroute. Error
// routes may also repeat what was rewritten in front of the block, such as the prefix that a handle_path removes.
func (m *matching) protectsFailed(r *http.Request, method string, came url.URL) (bool, error) {
	failedAs, at := r.Method, *r.URL
	defer func() { r.Method, *r.URL = failedAs, at }()
	r.Method, *r.URL = method, came
	if protects, err := m.protectsAmongErrors(r); protects || err != nil {
		return protects, err
	}
	orig := original(r)
	r.Method, *r.URL = orig.Method, *orig.URL
	return m.protectsAmongErrors(r)
}
