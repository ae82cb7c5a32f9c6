package aventus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultExpiresIn is how long a token is taken to live when the server does not
	// say (RFC 6749, section 5.1, leaves it open).
	defaultExpiresIn = time.Hour

	// maxExpiresIn is the longest that a token is taken to live: some 68 years, which
	// no sum of times overflows. The session's lifetime is the limit that counts.
	maxExpiresIn = math.MaxInt32 * time.Second
)

// Token is a token answer that was found good.
type Token struct {
	AccessToken  string
	RefreshToken string        // may be empty
	ExpiresIn    time.Duration // whole seconds, positive
	Scope        string        // as the server granted it; empty: not said; blank: none
	IDToken      string        // not verified; may be empty
}

// parseAnswer reads the body of a token answer (RFC 6749, section 5.1) with a status
// of success.
func parseAnswer(status int, body []byte, clean func(string) string) (Token, *Error) {
	malformed := func(format string, args ...any) (Token, *Error) {
		return Token{}, &Error{Kind: Malformed, Status: status, Err: fmt.Errorf(format, args...)}
	}
	fields, err := parseObject(body)
	if err != nil {
		return malformed("the token answer %w", err)
	}
	if raw, ok := fields["error"]; ok && !isNull(raw) {
		return Token{}, refusal(status, body, clean) // some servers say no with a 200
	}

	var a Token
	// Bearer is the only type there is, and its case is free (RFC 6749,
	// section 5.1). A token of another type would be used in a way that it does
	// not stand for (section 7.1).
	tokenType, ok := stringField(fields, "token_type")
	if !ok || !strings.EqualFold(tokenType, "Bearer") {
		return malformed("the token answer's token_type is not Bearer")
	}
	if a.AccessToken, ok = stringField(fields, "access_token"); !ok || a.AccessToken == "" {
		return malformed("the token answer has no access_token")
	}
	// What is not visible ASCII cannot stand in a header as it is (RFC 6750,
	// section 2.1, allows less still).
	for i := range len(a.AccessToken) {
		if c := a.AccessToken[i]; c <= ' ' || c > '~' {
			return malformed("the access token holds a byte that no Authorization header may hold")
		}
	}
	if a.ExpiresIn, err = parseExpiresIn(fields["expires_in"]); err != nil {
		return malformed("the token answer's expires_in %w", err)
	}
	if raw, ok := fields["scope"]; ok && !isNull(raw) {
		if a.Scope, ok = stringField(fields, "scope"); !ok || !validScopes(a.Scope) {
			return malformed("the token answer's scope is not a list of scopes")
		}
		if a.Scope == "" {
			a.Scope = " " // nothing was granted, which is not the same as nothing said
		}
	}
	if raw, ok := fields["refresh_token"]; ok && !isNull(raw) {
		if a.RefreshToken, ok = stringField(fields, "refresh_token"); !ok {
			return malformed("the token answer's refresh_token is not a string")
		}
	}
	if raw, ok := fields["id_token"]; ok && !isNull(raw) {
		if a.IDToken, ok = stringField(fields, "id_token"); !ok {
			return malformed("the token answer's id_token is not a string")
		}
	}
	return a, nil
}

// parseObject reads one JSON object with nothing behind it. A name that is there
// twice means one thing to one reader and another to the next (RFC 8259, section
// 4), so it is refused, and names are compared to the letter, which encoding/json
// does not do for structs. The values are left as they came: what nobody asks for is
// not worth the memory that a megabyte of small values would take.
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

// countNames returns how many names a valid JSON object has, each as often as it is
// there: the colons within its own braces and no others, and not within a string.
func countNames(object []byte) (n int) {
	depth, inString := 0, false
	for i := 0; i < len(object); i++ {
		switch c := object[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			depth++
		case c == '}':
			depth--
		case c == ':' && depth == 1:
			n++
		}
	}
	return n
}

// parseExpiresIn takes a number of seconds, or a string of one, as some servers
// send it. A fraction is cut.
func parseExpiresIn(raw json.RawMessage) (time.Duration, error) {
	if raw == nil || isNull(raw) {
		return defaultExpiresIn, nil
	}
	text := string(raw)
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return 0, errors.New("is no number")
		}
	}
	// JSON's numbers, and nothing else that ParseFloat would take (hexadecimal,
	// "Inf", underscores).
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
	return time.Duration(min(seconds, maxExpiresIn.Seconds())) * time.Second, nil
}

func stringField(fields map[string]json.RawMessage, name string) (string, bool) {
	raw := fields[name]
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
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
