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
)

const (
	// defaultExpiresIn is how long a token is taken to live, in seconds, when the server
	// does not say (RFC 6749, section 5.1, leaves it open; for x/oauth2, it would never expire).
	defaultExpiresIn = 3600

	// maxExpiresIn is the longest that a token is taken to live, in seconds: some 68 years,
	// which no sum of times overflows, and no more than x/oauth2 takes. The session's
	// lifetime is the limit that counts.
	maxExpiresIn = math.MaxInt32
)

// answer is a token answer that was found good, as x/oauth2 reads it.
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`              // seconds, positive
	RefreshToken string `json:"refresh_token,omitempty"` // may come without having been asked for
	Scope        string `json:"scope,omitempty"`         // see [Scope]
	IDToken      string `json:"id_token,omitempty"`      // see [IDToken]
}

// wanted says which of an answer's optional tokens were asked for. What was not is no
// reason to refuse an answer, whatever it looks like.
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
	// Some servers have an error in each answer, which says that there is none. Some say
	// no with a 200. If a token stands beside an error that is none of OAuth's, it is not
	// known what was made of the request.
	if raw, ok := fields["error"]; ok && !isNull(raw) && string(raw) != "false" && string(raw) != `""` {
		e := refusal(status, body, clean)
		if token, _ := stringField(fields, "access_token"); token != "" && !e.EndsGrant() {
			return malformed("the token answer has a token and an error")
		}
		return answer{}, e
	}

	var a answer
	// Bearer is the only type there is, and its case is free (RFC 6749,
	// section 5.1). A token of another type would be used in a way that it does
	// not stand for (section 7.1).
	tokenType, ok := stringField(fields, "token_type")
	if !ok || !strings.EqualFold(tokenType, "Bearer") {
		return malformed("the token answer's token_type is not Bearer")
	}
	a.TokenType = "Bearer"
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

// scopeField reads what was granted: a string of scopes or, as some servers have it,
// an array of strings. It is blank where nothing was granted, which is not the same as
// nothing said.
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

// parseBody is parseObject for the body of an answer, which may begin with a byte order
// mark: to ignore it is allowed (RFC 8259, section 8.1).
func parseBody(body []byte) (map[string]json.RawMessage, error) {
	return parseObject(bytes.TrimPrefix(body, []byte("\ufeff")))
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
	return int64(min(seconds, maxExpiresIn)), nil
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
