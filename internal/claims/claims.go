// Package claims reads a JWT's claims about a person (RFC 7519, section 4). It
// verifies nothing: a token must come from a trusted source, or have been verified
// before.
//
// All values are plain data: braces, dots or slashes in a claim's name or value have
// no special meaning here.
package claims

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// MaxSize limits the size of the tokens and payloads that are read, and thereby the time
// that reading takes.
const MaxSize = 64 << 10

// Claims are the claims of a token. The zero value has none. They are never
// changed, and safe for concurrent use.
type Claims struct{ top map[string]any }

// Text is a claim that is a string which no header can hold as it is: see oneLine. As text, it is one that a header
// can hold; in an expression, it is the string as it came.
type Text string

// String implements fmt.Stringer.
func (t Text) String() string { return oneLine(string(t)) }

// ID is a Text that names a person: it keeps its control characters, so that no two look the same.
type ID string

// String implements fmt.Stringer.
func (id ID) String() string { return keepEnds(string(id)) }

// List is a claim that is an array. As text, its elements are joined with commas,
// as in Caddy's other JWT modules; in an expression it is a list. An element may hold a
// comma itself, so an access decision must use the list.
type List []any

// String implements fmt.Stringer.
func (l List) String() string {
	texts := make([]string, len(l))
	for i, element := range l {
		texts[i] = oneLine(text(element))
	}
	return strings.Join(texts, ",")
}

// Object is a claim that is an object. As text, it is JSON.
type Object map[string]any

// String implements fmt.Stringer.
func (o Object) String() string { return oneLine(toJSON(o)) }

// Shown returns a claim, as [Claims.Lookup] returns it, for what shows it as text.
func Shown(claim any) any {
	if s, ok := claim.(string); ok && oneLine(s) != s {
		return Text(s)
	}
	return claim
}

// ShownID is Shown for a claim that names a person.
func ShownID(claim any) any {
	if s, ok := claim.(string); ok && keepEnds(s) != s {
		return ID(s)
	}
	return claim
}

// oneLine returns a text with U+FFFD, the replacement character, for what a header cannot hold: control characters,
// and spaces at its ends.
func oneLine(s string) string {
	return keepEnds(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s))
}

// keepEnds returns a text with U+FFFD for the spaces and tabs at its ends: in a header, they would be dropped (RFC
// 9110, section 5.5), and leave what may be another person's name.
func keepEnds(s string) string {
	const blanks, kept = " \t", string(unicode.ReplacementChar)
	rest := strings.TrimLeft(s, blanks)
	inner := strings.TrimRight(rest, blanks)
	if len(inner) == len(s) {
		return s
	}
	return strings.Repeat(kept, len(s)-len(rest)) + inner + strings.Repeat(kept, len(rest)-len(inner))
}

// Parse reads a JWT's payload. Of a duplicate name, the last value counts (RFC 7519,
// section 4). Invalid UTF-8 is replaced.
func Parse(payload []byte) (Claims, error) {
	if len(payload) > MaxSize {
		return Claims{}, errors.New("the claims are longer than 64 KiB")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber() // a float64 cannot tell the ids past 2^53 apart
	var value any
	if err := dec.Decode(&value); err != nil {
		return Claims{}, errors.New("the claims are not valid JSON")
	}
	if _, err := dec.Token(); err != io.EOF {
		return Claims{}, errors.New("the claims have something behind their end")
	}
	top, ok := value.(map[string]any)
	if !ok {
		return Claims{}, errors.New("the claims are not a JSON object")
	}
	return Claims{top}, nil
}

// Of returns the claims of an access token: none if it is opaque or unreadable.
func Of(token string) Claims {
	if len(token) > MaxSize {
		return Claims{}
	}
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 { // RFC 7515, section 7.1
		return Claims{}
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return Claims{}
	}
	c, err := Parse(payload)
	if err != nil {
		return Claims{}
	}
	return c
}

// Decide reports whether, at a path, these claims count, and not those of another token of the same person: if they
// have one there. Whether an address was verified (email_verified, phone_number_verified) is decided by the token that
// names the address, and by that one alone, since the other may mean another address.
func (c Claims) Decide(path string, other Claims) bool {
	if path == "email_verified" || path == "phone_number_verified" {
		if of := strings.TrimSuffix(path, "_verified"); c.has(of) || other.has(of) {
			path = of
		}
	}
	return c.has(path)
}

func (c Claims) has(path string) bool {
	_, ok := c.Lookup(path)
	return ok
}

// Join returns the claims together with those of other that count beside them: see [Claims.Decide]. The result
// describes a person, not a grant: use Scopes and Grants only on an access token's own claims.
func (c Claims) Join(other Claims) Claims {
	top := make(map[string]any, len(c.top)+len(other.top))
	for name, value := range other.top {
		if value != nil && !c.Decide(name, other) {
			top[name] = value
		}
	}
	for name, value := range c.top {
		if value != nil && c.Decide(name, other) {
			top[name] = value
		}
	}
	return Claims{top}
}

// MarshalJSON implements json.Marshaler. No claims are an empty object.
func (c Claims) MarshalJSON() ([]byte, error) {
	if c.top == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(c.top)
}

// Lookup returns the claim at path: a string, a json.Number, a bool, a [List] or an
// [Object], which must not be changed. Null is the same as no claim.
//
// Dots in the path lead into objects, and numbers into arrays, from 0. A name may
// hold dots itself ("https://example.com/roles"), so if several names fit, the
// longest counts.
func (c Claims) Lookup(path string) (any, bool) {
	switch v := find(c.top, path).(type) {
	case nil:
		return nil, false
	case []any:
		return List(v), true
	case map[string]any:
		return Object(v), true
	default:
		return v, true
	}
}

// find returns the value at path within v, or nil. It visits each value once at
// most, since only one path leads to it.
func find(v any, path string) any {
	switch v := v.(type) {
	case map[string]any:
		for end := len(path); end >= 0; end = strings.LastIndexByte(path[:end], '.') {
			child := v[path[:end]]
			if end < len(path) {
				child = find(child, path[end+1:])
			}
			if child != nil {
				return child
			}
		}
	case []any:
		index, rest, deeper := strings.Cut(path, ".")
		i, err := strconv.ParseUint(index, 10, 31)
		if err != nil || i >= uint64(len(v)) {
			return nil
		}
		if deeper {
			return find(v[i], rest)
		}
		return v[i]
	}
	return nil
}

// texts returns the values in a claim, as [Claims.Lookup] returns it, for comparison:
// the claim itself, or an array's elements. A number or a boolean is its JSON text;
// values inside a nested array or an object are left out.
func texts(claim any) []string {
	list, ok := claim.(List)
	if !ok {
		list = List{claim}
	}
	var values []string
	for _, value := range list {
		switch value.(type) {
		case string, json.Number, bool:
			values = append(values, text(value))
		}
	}
	return values
}

// Scopes returns the scopes that an access token with these claims was granted: those in
// the token answer or, if it states none, those in the token itself. The requested scopes
// are no evidence of a grant: the authorize URL passes through the visitor's browser, which
// can change it, and a server may omit scope if it granted all that the URL requested
// (RFC 6749, section 5.1).
func (c Claims) Scopes(answer string) []string {
	if answer != "" {
		return strings.Fields(answer)
	}
	// RFC 8693, section 4.2, defines one string; some servers send arrays, or name it scp.
	for _, name := range []string{"scope", "scp"} {
		switch v := c.top[name].(type) {
		case nil:
		case string:
			return strings.Fields(v)
		default:
			return elements(v)
		}
	}
	return nil
}

// Grants returns the scopes, and after them the permissions, an array in which Auth0
// lists what a person's roles allow.
func (c Claims) Grants(answer string) []string {
	return slices.Concat(c.Scopes(answer), elements(c.top["permissions"]))
}

// Subject returns the claim sub, or "" if there is none.
func (c Claims) Subject() string {
	switch sub := c.top["sub"].(type) {
	case string:
		return sub
	case json.Number: // it should be a string (RFC 7519, section 4.1.2)
		return sub.String()
	}
	return ""
}

// SessionID returns the claim sid, or "" if there is none (OpenID Connect Back-Channel Logout 1.0,
// section 2.1).
func (c Claims) SessionID() string {
	sid, _ := c.top["sid"].(string)
	return sid
}

// elements returns the strings in v, if it is an array.
func elements(v any) []string {
	list, _ := v.([]any)
	var texts []string
	for _, element := range list {
		if s, ok := element.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}

// text returns a claim, or a part of one, as text.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String() // as spelled in the token
	}
	return toJSON(v)
}

func toJSON(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // it is not part of a page
	_ = enc.Encode(v)        // never fails for values decoded from JSON
	return strings.TrimSuffix(b.String(), "\n")
}
