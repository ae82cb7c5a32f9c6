package aventus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// defaultExpiresIn is the assumed lifetime of a token, in seconds, if the server does not
	// state one (RFC 6749, section 5.1, leaves it open; for x/oauth2, it would never expire).
	defaultExpiresIn = 3600

	// maxExpiresIn is the longest accepted lifetime of a token, in seconds: some 68 years. That
	// overflows no sum of times, and is no more than x/oauth2 accepts. The session's lifetime
	// is the limit that matters.
	maxExpiresIn = math.MaxInt32
)

// answer is a valid token answer, in the form that x/oauth2 reads.
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`              // seconds, positive
	RefreshToken string `json:"refresh_token,omitempty"` // may come without having been asked for
	Scope        string `json:"scope,omitempty"`         // see [Scope]
	IDToken      string `json:"id_token,omitempty"`      // see [IDToken]
}

// wanted says which of an answer's optional tokens were asked for. A token that was not
// asked for is ignored, even if it is malformed.
type wanted struct{ refresh, id bool }

// parseAnswer reads the body of a token answer (RFC 6749, section 5.1) with a status
// of success.
func parseAnswer(status int, body []byte, want wanted, clean func(string) string) (answer, *Error) {
	malformed := func(format string, args ...any) (answer, *Error) {
		return answer{}, &Error{Kind: Malformed, Status: status, Err: fmt.Errorf(format, args...)}
	}
	fields, err := parseBody(body)
	if err != nil {
		return malformed("the token answer %w", err)
	}
	// Some servers put an error into each answer, with a value that says that there is none.
	// Others refuse with a 200. With a token beside an error that OAuth does not define,
	// the outcome of the request is unknown.
	if raw, ok := fields["error"]; ok && !isNull(raw) && string(raw) != "false" && string(raw) != `""` {
		e := refusal(status, body, clean)
		if token, _ := stringField(fields, "access_token"); token != "" && !e.EndsGrant() {
			return malformed("the token answer has a token and an error")
		}
		return answer{}, e
	}

	var a answer
	// Bearer is the only type there is, in any case (RFC 6749, section 5.1). A client
	// must not use a token of a type that it does not understand (section 7.1).
	tokenType, ok := stringField(fields, "token_type")
	if !ok || !strings.EqualFold(tokenType, "Bearer") {
		return malformed("the token answer's token_type is not Bearer")
	}
	a.TokenType = "Bearer"
	if a.AccessToken, ok = stringField(fields, "access_token"); !ok || a.AccessToken == "" {
		return malformed("the token answer has no access_token")
	}
	// A header takes only visible ASCII unchanged (RFC 6750, section 2.1, allows
	// even less).
	for i := range len(a.AccessToken) {
		if c := a.AccessToken[i]; c <= ' ' || c > '~' {
			return malformed("the access token holds a byte that no Authorization header may hold")
		}
	}
	if a.ExpiresIn, err = parseExpiresIn(fields["expires_in"]); err != nil {
		return malformed("the token answer's expires_in %w", err)
	}
	if raw, ok := fields["scope"]; ok && !isNull(raw) {
		if a.Scope, ok = scopeField(raw); !ok {
			return malformed("the token answer's scope is not a list of scopes")
		}
	}
	if a.RefreshToken, ok = optionalField(fields, "refresh_token"); !ok && want.refresh {
		return malformed("the token answer's refresh_token is not a string")
	}
	if want.id {
		if a.IDToken, ok = optionalField(fields, "id_token"); !ok {
			return malformed("the token answer's id_token is not a string")
		}
	}
	return a, nil
}

// scopeField reads the granted scopes: a string or, from some servers, an array of
// strings. The result is blank if no scope was granted, which differs from a missing field.
func scopeField(raw json.RawMessage) (string, bool) {
	var list []*string // a null among the elements stays nil
	var text string
	switch raw[0] {
	case '[':
		if json.Unmarshal(raw, &list) != nil || slices.Contains(list, nil) {
			return "", false
		}
	case '"':
		list = []*string{&text}
		if json.Unmarshal(raw, &text) != nil {
			return "", false
		}
	default:
		return "", false
	}
	scopes := make([]string, len(list))
	for i, element := range list {
		scopes[i] = *element
	}
	text = strings.Join(scopes, " ")
	if text == "" {
		text = " "
	}
	return text, validScopes(text)
}

// parseBody is parseObject for the body of an answer. It ignores a byte order mark at the
// beginning, which is allowed (RFC 8259, section 8.1).
func parseBody(body []byte) (map[string]json.RawMessage, error) {
	return parseObject(bytes.TrimPrefix(body, []byte("\ufeff")))
}

// parseObject reads one JSON object with nothing behind it. A duplicate name means
// different things to different readers (RFC 8259, section 4), so it is refused. Names
// are case-sensitive, which they are not when encoding/json fills a struct. The values
// are not decoded: a megabyte of small values would take too much memory.
func parseObject(body []byte) (map[string]json.RawMessage, error) {
	if len(body) > maxAnswer {
		return nil, errors.New("is larger than 1 MiB")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return nil, errors.New("is not a JSON object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, errors.New("is not valid JSON")
	}
	if len(fields) != countNames(body) {
		return nil, errors.New("has a name twice")
	}
	return fields, nil
}

// countNames returns the number of names in a valid JSON object, duplicates included: the
// number of colons directly within its own braces, and outside of strings.
func countNames(object []byte) (n int) {
	depth := 0
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '"':
			i += lastOfString(object[i:])
		case '{':
			depth++
		case '}':
			depth--
		case ':':
			if depth == 1 {
				n++
			}
		}
	}
	return n
}

// lastOfString returns the index of the quote that ends the JSON string at the beginning of valid JSON.
func lastOfString(b []byte) int {
	for end := 1; ; end++ {
		end += bytes.IndexByte(b[end:], '"')
		backslashes := end - len(bytes.TrimRight(b[:end], `\`))
		if backslashes%2 == 0 {
			return end
		}
	}
}

// parseExpiresIn reads a number of seconds, which some servers send as a string. A
// fraction is cut off.
func parseExpiresIn(raw json.RawMessage) (int64, error) {
	if raw == nil || isNull(raw) {
		return defaultExpiresIn, nil
	}
	text := string(raw)
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return 0, errors.New("is no number")
		}
	}
	// Only JSON's numbers: ParseFloat accepts hexadecimal, "Inf" and underscores as well.
	if strings.Trim(text, "+-.0123456789eE") != "" {
		return 0, errors.New("is no number")
	}
	seconds, err := strconv.ParseFloat(text, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) && math.IsInf(seconds, 0):
		return 0, errors.New("is not finite")
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, errors.New("is no number")
	case seconds < 1:
		return 0, errors.New("is not positive")
	}
	return int64(min(seconds, maxExpiresIn)), nil
}

func stringField(fields map[string]json.RawMessage, name string) (string, bool) {
	raw := fields[name]
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	// A string without escapes, such as a token, stands for itself.
	if text := raw[1 : len(raw)-1]; bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) {
		return string(text), true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// optionalField returns a string that may be missing or null.
func optionalField(fields map[string]json.RawMessage, name string) (string, bool) {
	if raw, ok := fields[name]; !ok || isNull(raw) {
		return "", true
	}
	return stringField(fields, name)
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// validScopes reports whether s holds scope tokens and spaces only (RFC 6749,
// section 3.3).
func validScopes(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
