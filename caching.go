package aventusauth

import (
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// noStore marks an answer of the module's own: no cache keeps it, and where it leads to does
// not learn its URL, which may hold a code.
func noStore(header http.Header, vary []string) {
	header.Set("Cache-Control", "no-store")
	dropOverrides(header)
	// A header directive of the site may still put its own Cache-Control in that
	// place, as the answer is written. Then this keeps visitors apart.
	tellApart(header, vary)
	header.Set("Referrer-Policy", "no-referrer")
}

// makePrivate extends Vary, and adds private unless the site says who may store the response (RFC 9111,
// sections 4.1 and 5.2.2.7). A response that sets the session's cookie gets no-store.
func makePrivate(header http.Header, vary []string, holdsSession bool) {
	// First: Vary is there in most answers, and the header of a page has eight fields in
	// all with the one that is added then. One more, or even a field that is set in a
	// map of eight, and Go makes it a map of another kind, which costs a microsecond.
	tellApart(header, vary)
	if holdsSession {
		// Whatever the site says: who gets a stored copy would get the session.
		header["Cache-Control"] = []string{"no-store"}
		dropOverrides(header)
	} else if says := header["Cache-Control"]; !saysForWhom(says) {
		header["Cache-Control"] = []string{strings.Join(append(says, "private"), ", ")}
	}
}

// saysForWhom reports whether a Cache-Control says who may store an answer, and not
// only for how long. The site was asked with an Authorization, where how long would
// not let a shared cache keep the answer (RFC 9111, section 3.5); but the cache saw a
// cookie, where it would. A private with an argument speaks of the fields that it names alone
// (section 5.2.2.7).
func saysForWhom(lines []string) bool {
	for rest := strings.Join(lines, ","); rest != ""; {
		var directive string
		directive, rest = cutDirective(rest)
		name, _, hasArgument := strings.Cut(directive, "=")
		switch strings.ToLower(textproto.TrimString(name)) {
		case "public", "private", "no-store":
			if !hasArgument {
				return true
			}
		case "s-maxage":
			if hasArgument {
				return true
			}
		}
	}
	return false
}

// cutDirective returns the first directive of a Cache-Control and what follows it. A comma in a quoted string ends
// none (RFC 9110, section 5.6.4).
func cutDirective(s string) (directive, rest string) {
	isQuoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			isQuoted = !isQuoted
		case s[i] == '\\' && isQuoted:
			i++
		case s[i] == ',' && !isQuoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// dropOverrides deletes what some shared caches heed before Cache-Control: nginx, what
// RFC 9213 calls targeted (CDN-Cache-Control and its like), and its older kin. Expires
// is for those that know no Cache-Control.
func dropOverrides(header http.Header) {
	for name := range header {
		switch {
		case name == "X-Accel-Expires", name == "Expires", name == "Surrogate-Control", name == "Edge-Control",
			strings.HasSuffix(name, "-Cache-Control"):
			delete(header, name)
		}
	}
}

// tellApart adds to an answer's Vary. It is one line in the end: of several, some
// caches heed the last one alone (nginx before 1.23).
func tellApart(header http.Header, names []string) {
	vary := header["Vary"]
	if httpguts.HeaderValuesContainsToken(vary, "*") {
		header["Vary"] = []string{"*"} // it is for this request alone
		return
	}
	there := len(vary)
	for _, name := range names {
		if !httpguts.HeaderValuesContainsToken(vary, name) {
			vary = append(vary, name)
		}
	}
	if len(vary) > 1 {
		vary = []string{strings.Join(vary, ", ")}
	} else if len(vary) == there {
		return
	}
	header["Vary"] = vary
}
