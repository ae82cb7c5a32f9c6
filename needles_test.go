package aventusauth

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// secret is something that nobody may see but those it is for.
type secret struct{ what, value string }

// A callback's URL holds these two, and Caddy logs URLs.
const (
	aCode  = "a code"
	aState = "a state"

	aTicket = "what hosts that share a login send each other"
)

func (s secret) inURLs() bool { return s.what == aCode || s.what == aState || s.what == aTicket }

// heard is what a world has heard: secrets, and what the site answered.
type heard struct {
	mu      sync.Mutex
	secrets map[secret]bool
	pages   []answer
}

func (w *world) hearSecret(what, value string) {
	w.heard.mu.Lock()
	defer w.heard.mu.Unlock()
	if w.heard.secrets == nil {
		w.heard.secrets = make(map[secret]bool)
	}
	w.heard.secrets[secret{what, value}] = true
}

var isSealed = regexp.MustCompile("^[A-Za-z0-9_-]{70,}$")

// hear keeps an answer that a browser got, and notes what is secret in it.
func (w *world) hear(a answer) {
	if a.Request.Method == "raw" || strings.HasPrefix(a.Request.URL.String(), w.site) {
		w.heard.mu.Lock()
		w.heard.pages = append(w.heard.pages, a)
		w.heard.mu.Unlock()
	}
	for _, c := range a.Cookies() {
		w.hearSecret("the cookie "+c.Name, c.Value)
	}
	// What a test makes up is no secret, unless it is sealed, such as a cookie.
	u := a.location()
	if query, err := url.ParseQuery(u[strings.IndexByte(u, '?')+1:]); err == nil {
		w.hearSecret(aCode, query.Get("code"))
		w.hearSecret(aState, query.Get("state"))
		w.hearSecret(aTicket, query.Get(requestParam))
		w.hearSecret(aTicket, query.Get(ticketParam))
	}
	if state := a.Request.URL.Query().Get("state"); isSealed.MatchString(state) {
		w.hearSecret(aState, state)
	}
}

// secrets returns all that is secret in a world by now.
func (w *world) secrets() []secret {
	w.heard.mu.Lock()
	all := slices.Collect(maps.Keys(w.heard.secrets))
	w.heard.mu.Unlock()
	for _, client := range w.issuer.Clients {
		all = append(all, secret{"the client's secret", client.Secret})
	}
	for _, r := range w.issuer.TokenRequests() {
		if !strings.ContainsAny(r.Params["code"], "<{") { // one that a test made up
			all = append(all, secret{aCode, r.Params["code"]})
		}
		all = append(all, secret{"a code verifier", r.Params["code_verifier"]}, secret{
			"a refresh token", r.Params["refresh_token"],
		})
	}
	for _, token := range w.issuer.Revoked() {
		all = append(all, secret{"a refresh token", token})
	}
	for _, h := range handlers() {
		for _, s := range h.house.keeper.memory.all() {
			all = append(all, secret{"an access token", s.token()}, secret{"a refresh token", s.refresh})
			if s.handle != nil {
				all = append(all, secret{"the key of a record", string(s.handle.key[:])})
			}
		}
	}
	var file struct{ Keys []struct{ Secret []byte } }
	if content, err := os.ReadFile(filepath.Join(w.dir, "storage", "aventus_auth", "keys.json")); err == nil &&
		json.Unmarshal(content, &file) == nil {
		for _, key := range file.Keys {
			all = append(all, secret{"a sealing key", string(key.Secret)})
		}
	}
	return all
}

// pieceSize is how much of a secret gives it away. Less could be there by chance.
const pieceSize = 16

// needles are the pieces that secrets are found by, in each form that they may have
// taken.
type needles map[[pieceSize]byte]string

func newNeedles(secrets []secret) needles {
	n := make(needles)
	// What is one of those that URLs hold is called that, whatever else it is.
	others := slices.DeleteFunc(slices.Clone(secrets), secret.inURLs)
	urls := slices.DeleteFunc(slices.Clone(secrets), func(s secret) bool { return !s.inURLs() })
	for _, s := range slices.Concat(others, urls) {
		if len(s.value) < pieceSize {
			continue
		}
		// What is base64 may be seen as what it stands for. But a JWT's header is the
		// same for all of them, and what its payload says of a person is shown to them.
		value, last := s.value, s.value
		// no key's random bytes
		if parts := strings.SplitN(s.value, ".", 3); len(parts) == 3 && strings.HasPrefix(s.value, "eyJ") {
			value, last = parts[1]+"."+parts[2], parts[2]
		}
		if raw, err := base64.RawURLEncoding.DecodeString(last); err == nil && len(raw) >= pieceSize {
			n.add(s.what, string(raw))
		}
		n.add(s.what, value)
	}
	return n
}

// add adds the pieces of each form of a secret. Of a very long one, both ends will do.
func (n needles) add(what, value string) {
	if len(value) > 1500 {
		n.add(what, value[len(value)-500:])
		value = value[:1000]
	}
	for _, form := range encodings(value) {
		for i := 0; i+pieceSize <= len(form); i += pieceSize / 2 {
			n[[pieceSize]byte([]byte(form[i:]))] = what
		}
	}
}

// encodings returns a text as programs write it.
func encodings(s string) []string {
	quoted, _ := json.Marshal(s) // never fails for a string
	inForm := url.QueryEscape(s)
	forms := []string{
		s, string(quoted), fmt.Sprintf("%q", s), inForm, url.PathEscape(s),
		hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s))),
		strings.Trim(fmt.Sprint([]byte(s)), "[]"),
	}
	// In something longer that is base64, it begins at any of three places.
	for _, text := range []string{s, inForm} {
		for before := range 3 {
			for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				encoded := encoding.EncodeToString([]byte(strings.Repeat("x", before) + text))
				forms = append(forms, encoded[(before*8+5)/6:(before+len(text))*8/6])
			}
		}
	}
	return forms
}

// in returns what is seen in a text.
func (n needles) in(text string) []string {
	var found []string
	for i := 0; i+pieceSize <= len(text); i++ {
		if what, ok := n[[pieceSize]byte([]byte(text[i:i+pieceSize]))]; ok && !slices.Contains(found, what) {
			found = append(found, what)
		}
	}
	slices.Sort(found)
	return found
}

// expectSecretsKept fails the test if a secret is in the log. Every world does so in
// the end. There are two exceptions, and both are documented: what is written into the
// config itself, and Caddy's own lines about a request, which hold its URL, and with
// it a callback's code and state.
func (w *world) expectSecretsKept(secrets []secret) {
	w.t.Helper()
	n := newNeedles(slices.DeleteFunc(secrets, func(s secret) bool {
		return strings.Contains(w.config, s.value) ||
			strings.Contains(w.config, base64.StdEncoding.EncodeToString([]byte(s.value)))
	}))
	for line := range strings.Lines(w.log()) {
		if found := n.in(line); len(found) > 0 && !n.isCaddys(line) {
			w.t.Errorf("the log holds %s:\n%s", strings.Join(found, ", "), line)
			return // one line will do
		}
	}
}

// isCaddys reports whether what was found in a line of Caddy's own is but codes and
// states in its URLs, and what a client sent in headers of its own. Those that secrets
// are meant for, Caddy redacts.
func (n needles) isCaddys(line string) bool {
	var entry struct {
		Logger string `json:"logger"`
	}
	var fields map[string]any
	if json.Unmarshal([]byte(line), &entry) != nil || json.Unmarshal([]byte(line), &fields) != nil ||
		strings.Contains(entry.Logger, "aventus") {
		return false
	}
	var urls []any
	take := func(from map[string]any, name string) {
		urls = append(urls, from[name])
		delete(from, name)
	}
	if entry.Logger == "http.handlers.rewrite" {
		take(fields, "uri")
	}
	if request, ok := fields["request"].(map[string]any); ok {
		take(request, "uri")
		if headers, ok := request["headers"].(map[string]any); ok {
			take(headers, "Referer")
			maps.DeleteFunc(headers, func(name string, _ any) bool {
				return name != "Cookie" &&
					name != "Authorization"
			})
		}
	}
	if headers, ok := fields["resp_headers"].(map[string]any); ok {
		take(headers, "Location")
	}
	inURLs, err := json.Marshal(urls)
	rest, err2 := json.Marshal(fields)
	return errors.Join(err, err2) == nil && len(n.in(string(rest))) == 0 &&
		!slices.ContainsFunc(n.in(string(inURLs)), func(what string) bool { return !secret{what: what}.inURLs() })
}

// excerpt returns the part of a text where the first secret is.
func excerpt(n needles, text string) string {
	for i := range text {
		if end := i + pieceSize; end <= len(text) && len(n.in(text[i:end])) > 0 {
			return text[max(0, i-100):min(len(text), end+100)]
		}
	}
	return ""
}
