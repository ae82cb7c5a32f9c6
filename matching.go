package aventusauth

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// protects reports whether the matcher, if there is one, matches the request: its
// path as Caddy reads it, or as another server may.
func (h *Handler) protects(r *http.Request) (bool, error) {
	if len(h.matchers) == 0 {
		return true, nil
	}
	matches, err := h.matchers.AnyMatchWithError(r)
	if matches || err != nil {
		return matches, err
	}
	paths, all := readings(r.URL)
	for _, path := range paths {
		other := r.WithContext(r.Context())
		other.URL = &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: path, RawQuery: r.URL.RawQuery}
		if matches, err = h.matchers.AnyMatchWithError(other); matches || err != nil {
			return matches, err
		}
	}
	return !all, nil
}

// maxReadings is more than any path has that somebody has not thought up.
const maxReadings = 16

// readings returns what else servers make of a path that Caddy reads in its own way,
// for the next one may be the app: some decode it twice, or not where that would
// change its structure; take backslashes for slashes; take what follows a semicolon
// for a parameter, and no part of a name; or end it where a URL's path would end. It
// reports false where there are too many to go through.
func readings(u *url.URL) (paths []string, all bool) {
	paths = []string{u.Path}
	add := func(path string) {
		if !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	if escaped := u.EscapedPath(); escaped != u.Path {
		add(unescape(keepEscaped.Replace(escaped)))
	}
	for i := 0; i < len(paths); i++ {
		path := paths[i]
		if !strings.ContainsAny(path, "%\\;#?\x00") {
			continue
		}
		if len(paths) > maxReadings {
			return nil, false
		}
		add(unescape(path))
		add(strings.ReplaceAll(path, `\`, "/"))
		add(withoutParameters(path))
		if end := strings.IndexAny(path, "#?\x00"); end >= 0 {
			add(path[:end])
		}
	}
	return paths[1:], true // the matcher has seen the first
}

// keepEscaped has what makes the structure of a path outlast a decoding.
var keepEscaped = strings.NewReplacer(
	"%00", "%2500", "%23", "%2523", "%25", "%2525", "%2e", "%252e", "%2E", "%252E", "%2f", "%252f", "%2F", "%252F",
	"%3b", "%253b", "%3B", "%253B", "%3f", "%253f", "%3F", "%253F", "%5c", "%255c", "%5C", "%255C",
)

// unescape decodes what is percent-encoded, and leaves what only looks like it.
func unescape(s string) string {
	first, rest, found := strings.Cut(s, "%")
	if !found {
		return s
	}
	b := make([]byte, 0, len(s))
	for b = append(b, first...); found; {
		first, rest, found = strings.Cut(rest, "%")
		if len(first) < 2 {
			b = append(b, '%')
		} else if octet, err := hex.DecodeString(first[:2]); err != nil {
			b = append(b, '%')
		} else {
			b, first = append(b, octet...), first[2:]
		}
		b = append(b, first...)
	}
	return string(b)
}

// withoutParameters returns a path without the parameters of its segments (RFC 3986,
// section 3.3).
func withoutParameters(path string) string {
	if !strings.Contains(path, ";") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return strings.Join(segments, "/")
}
