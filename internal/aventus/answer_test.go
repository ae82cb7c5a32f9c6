package aventus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// asIs keeps what the server says as it is.
func asIs(s string) string { return s }

// all is what a login asks for that asks for everything.
var all = wanted{refresh: true, id: true}

// answerWith returns a good token answer with one field different; without a
// value, without the field.
func answerWith(name, value string) string {
	fields := []string{`"access_token":"a.b.c"`, `"token_type":"Bearer"`, `"expires_in":86400`}
	kept := fields[:0]
	for _, field := range fields {
		if !strings.HasPrefix(field, `"`+name+`"`) {
			kept = append(kept, field)
		}
	}
	if value != "" {
		kept = append(kept, `"`+name+`":`+value)
	}
	return "{" + strings.Join(kept, ",") + "}"
}

func TestParseAnswer(t *testing.T) {
	for _, tc := range []struct {
		body string
		want answer
	}{
		{`{"access_token":"a.b.c","token_type":"Bearer","expires_in":86400}`, answer{
			AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400,
		}},
		{" \r\n{ \"expires_in\" :\t60 , \"token_type\" : \"Bearer\" , \"access_token\" : \"a.b.c\" }\n\n",
			answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 60}},
		{answerWith("scope", `"openid profile"`), answer{
			AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400, Scope: "openid profile",
		}},
		{answerWith("scope", `null`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		{answerWith("scope", `["openid","profile"]`), answer{
			AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400, Scope: "openid profile",
		}},
		// Nothing granted is not the same as nothing said.
		{answerWith("scope", `""`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400, Scope: " "}},
		{answerWith("scope", `[]`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400, Scope: " "}},
		// An error that says that there is none, and a byte order mark.
		{answerWith("error", `null`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		{answerWith("error", `""`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		{answerWith("error", `false`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		{"\ufeff" + answerWith("", ""), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		// What nobody asked for is left alone, whatever it is.
		{answerWith("x", `{"a":[1,{"a":2,"a":3}]}`), answer{
			AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400,
		}},
		{answerWith(`a\":{[`, `":}]\\"`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		{answerWith("Error", `"x"`), answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}},
		{answerWith("access_token", `"\u0061.<&>"`), answer{
			AccessToken: "a.<&>", TokenType: "Bearer", ExpiresIn: 86400,
		}},
	} {
		got, err := parseAnswer(200, []byte(tc.body), all, asIs)
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, error %v", tc.body, got, err)
		}
	}
}

// TestUnaskedTokens: what was not asked for is no reason to refuse an answer. A refresh
// token is read all the same: it is to be revoked.
func TestUnaskedTokens(t *testing.T) {
	for _, odd := range []string{`7`, `false`, `{"a":"b"}`, `["x"]`} {
		for name, want := range map[string]wanted{"id_token": {refresh: true}, "refresh_token": {id: true}} {
			body := []byte(answerWith(name, odd))
			got, err := parseAnswer(200, body, want, asIs)
			if err != nil || got != (answer{AccessToken: "a.b.c", TokenType: "Bearer", ExpiresIn: 86400}) {
				t.Errorf("%s unasked: %+v, error %v", body, got, err)
			}
			if got, err := parseAnswer(200, body, all, asIs); err == nil || err.Kind != Malformed ||
				got != (answer{}) {
				t.Errorf("%s: %+v, error %v", body, got, err)
			}
		}
	}
	if got, err := parseAnswer(200, []byte(answerWith("id_token", `"a.b.c"`)), wanted{}, asIs); err != nil ||
		got.IDToken != "" {
		t.Errorf("an ID token that was not asked for: %+v, error %v", got, err)
	}
	if got, err := parseAnswer(200, []byte(answerWith("refresh_token", `"r"`)), wanted{}, asIs); err != nil ||
		got.RefreshToken != "r" {
		t.Errorf("a refresh token that was not asked for: %+v, error %v", got, err)
	}
}

func TestParseAnswerRefuses(t *testing.T) {
	for _, tc := range []struct{ body, text string }{
		// Nothing that could be read two ways (RFC 8259, section 4).
		{``, "is not a JSON object"},
		{`null`, "is not a JSON object"},
		{`[]`, "is not a JSON object"},
		{`"a.b.c"`, "is not a JSON object"},
		{`access_token=a.b.c&token_type=Bearer`, "is not a JSON object"},
		{"\ufeff\ufeff" + answerWith("", ""), "is not a JSON object"},
		{" \ufeff" + answerWith("", ""), "is not a JSON object"},
		{`<html>`, "is not a JSON object"},
		{`{"access_token":"a.b.c","token_type":"Bearer"`, "is not valid JSON"},
		{`{"access_token":"a.b.c","token_type":"Bearer",}`, "is not valid JSON"},
		{`{"access_token":"a.b.c" "token_type":"Bearer"}`, "is not valid JSON"},
		{`{access_token:"a.b.c"}`, "is not valid JSON"},
		{`{"access_token"}`, "is not valid JSON"},
		{`{1:2}`, "is not valid JSON"},
		{"{\"access_token\":\"a.\nb\",\"token_type\":\"Bearer\"}", "is not valid JSON"},
		{`{"access_token":` + strings.Repeat("[", 20_000) + `}`, "is not valid JSON"},
		{answerWith("", "") + `{}`, "is not valid JSON"},
		{answerWith("", "") + "\x00", "is not valid JSON"},
		{answerWith("", "") + answerWith("", ""), "is not valid JSON"},
		{`{"access_token":"a","access_token":"b","token_type":"Bearer"}`, "has a name twice"},
		{`{"access_token":"a","access_toke\u006e":"b","token_type":"Bearer"}`, "has a name twice"},
		{`{"access_token":"a","token_type":"Bearer","expires_in":1,"expires_in":2}`, "has a name twice"},
		{`{"access_token":"a","token_type":"Bearer","x":1,"x":1}`, "has a name twice"},
		{`{"access_token":"a","token_type":"Bearer","x":"\\\":","y":{"a":1},"y":[{}]}`, "has a name twice"},

		// encoding/json would take a name in any case.
		{`{"Access_Token":"a.b.c","token_type":"Bearer"}`, "has no access_token"},
		{`{"access_token":"a.b.c","TOKEN_TYPE":"Bearer"}`, "token_type is not Bearer"},

		{answerWith("access_token", ""), "has no access_token"},
		{answerWith("access_token", `null`), "has no access_token"},
		{answerWith("access_token", `""`), "has no access_token"},
		{answerWith("access_token", `123`), "has no access_token"},
		{answerWith("access_token", `["a.b.c"]`), "has no access_token"},
		{answerWith("access_token", `{"a":"b"}`), "has no access_token"},

		{answerWith("scope", `["openid",7]`), "scope is not a list of scopes"},
		{answerWith("scope", `["openid",null]`), "scope is not a list of scopes"},
		{answerWith("scope", `["openid",["profile"]]`), "scope is not a list of scopes"},
		{answerWith("scope", `["a\"b"]`), "scope is not a list of scopes"},
		{answerWith("scope", `{"openid":true}`), "scope is not a list of scopes"},
		{answerWith("scope", `true`), "scope is not a list of scopes"},
		{answerWith("scope", `7`), "scope is not a list of scopes"},
		{answerWith("scope", `"a\nb"`), "scope is not a list of scopes"},
		{answerWith("scope", `"a\"b"`), "scope is not a list of scopes"},
		{answerWith("scope", `"a\\b"`), "scope is not a list of scopes"},
		{answerWith("scope", `"ä"`), "scope is not a list of scopes"},
	} {
		got, err := parseAnswer(200, []byte(tc.body), all, asIs)
		if err == nil || got != (answer{}) || err.Kind != Malformed || err.Status != 200 ||
			!strings.Contains(err.Error(), tc.text) {
			t.Errorf("%.80q: %+v, error %v; want %q", tc.body, got, err, tc.text)
		}
	}
	// A megabyte is enough for any token.
	long := answerWith("access_token", `"`+strings.Repeat("a", maxAnswer-len(answerWith("access_token", `""`)))+`"`)
	if got, err := parseAnswer(200, []byte(long), all, asIs); len(long) != 1<<20 || err != nil ||
		len(got.AccessToken) < 1<<20-100 {
		t.Errorf("an answer of %d bytes: %v", len(long), err)
	}
	if got, err := parseAnswer(200, []byte(long+" "), all, asIs); err == nil || got != (answer{}) ||
		!strings.Contains(err.Error(), "is larger than 1 MiB") {
		t.Errorf("an answer of 1 MiB and a byte: %v", err)
	}
}

// What nobody asked for takes no more memory than it came in, however many values
// it is made of.
func TestParseAnswerMemory(t *testing.T) {
	few, many := `{"access_token":"a","token_type":"Bearer","x":[`, `{"":0}`
	body := []byte(few + strings.Repeat(many+",", (maxAnswer-len(few)-10)/(len(many)+1)) + many + "]}")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := parseAnswer(200, body, all, asIs); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 4*maxAnswer {
		t.Errorf("an answer of %d bytes took %d", len(body), took)
	}
}

// A byte that no header may hold would end the header and begin another, or be
// refused by whoever reads it.
func TestAccessTokenBytes(t *testing.T) {
	for c := range rune(0x180) {
		token, err := json.Marshal("a" + string(c) + "b")
		if err != nil {
			t.Fatal(err)
		}
		got, tokenErr := parseAnswer(200, []byte(answerWith("access_token", string(token))), all, asIs)
		if good := '!' <= c && c <= '~'; good && (tokenErr != nil || got.AccessToken != "a"+string(c)+"b") {
			t.Errorf("%U: error %v", c, tokenErr)
		} else if !good && (tokenErr == nil || tokenErr.Kind != Malformed || got != (answer{}) ||
			!strings.Contains(tokenErr.Error(), "a byte that no Authorization header may hold")) {
			t.Errorf("%U: %+v, error %v", c, got, tokenErr)
		}
	}
	for _, token := range []string{`" a"`, `"a "`, `"a\r\nX: y"`, `"a\u0000"`, "\"a\xff\"", `"\ud800"`, `"a\u2028"`} {
		if got, err := parseAnswer(200, []byte(answerWith("access_token", token)), all, asIs); err == nil ||
			got != (answer{}) {
			t.Errorf("%q: %+v", token, got)
		}
	}
}

func TestTokenType(t *testing.T) {
	for _, good := range []string{`"Bearer"`, `"bearer"`, `"BEARER"`, `"bEARer"`} {
		if got, err := parseAnswer(200, []byte(answerWith("token_type", good)), all, asIs); err != nil ||
			got.AccessToken != "a.b.c" {
			t.Errorf("%s: %+v, error %v", good, got, err)
		}
	}
	for _, bad := range []string{``, `null`, `""`, `"DPoP"`, `"mac"`, `"N_A"`, `"Bearer "`, `" Bearer"`,
		`"Bearer,Bearer"`, `["Bearer"]`, `true`, `1`, `{}`, `"Bear\u0435r"`} {
		if got, err := parseAnswer(200, []byte(answerWith("token_type", bad)), all, asIs); err == nil ||
			err.Kind != Malformed || got != (answer{}) || !strings.Contains(err.Error(), "token_type is not Bearer") {
			t.Errorf("%s: %+v, error %v", bad, got, err)
		}
	}
}

func TestExpiresIn(t *testing.T) {
	for _, tc := range []struct {
		value string
		want  int64
	}{
		{``, 3600},
		{`null`, 3600},
		{`1`, 1},
		{`86400`, 86400},
		{`59.999`, 59}, // a fraction is cut
		{`1.0`, 1},
		{`3.6e3`, 3600},
		{`36E+2`, 3600},
		{`"86400"`, 86400},
		{`"86400.5"`, 86400},
		{`"8.64e4"`, 86400},
		{`"\u0038"`, 8},
		{`2147483647`, math.MaxInt32},
		{`2147483648`, math.MaxInt32},
		{`9e18`, math.MaxInt32},
		{`9223372036854775808`, math.MaxInt32},
		{`1e308`, math.MaxInt32},
		{`"99999999999999999999"`, math.MaxInt32},
	} {
		got, err := parseAnswer(200, []byte(answerWith("expires_in", tc.value)), all, asIs)
		if err != nil || got.ExpiresIn != tc.want {
			t.Errorf("%s: %d s, error %v; want %d s", tc.value, got.ExpiresIn, err, tc.want)
		}
	}
	for _, tc := range []struct{ value, text string }{
		{`0`, "is not positive"},
		{`-0`, "is not positive"},
		{`0.9`, "is not positive"},
		{`-1`, "is not positive"},
		{`-86400`, "is not positive"},
		{`-1e308`, "is not positive"},
		{`1e-400`, "is not positive"},
		{`"0"`, "is not positive"},
		{`"-1"`, "is not positive"},
		{`1e400`, "is not finite"},
		{`-1e400`, "is not finite"},
		{`"1e400"`, "is not finite"},
		{`""`, "is no number"},
		{`" 60"`, "is no number"},
		{`"60 "`, "is no number"},
		{`"60s"`, "is no number"},
		{`"Inf"`, "is no number"},
		{`"+Inf"`, "is no number"},
		{`"NaN"`, "is no number"},
		{`"infinity"`, "is no number"},
		{`"0x10"`, "is no number"},
		{`"1_000"`, "is no number"},
		{`"1,000"`, "is no number"},
		{`"1e"`, "is no number"},
		{`"."`, "is no number"},
		{`"--1"`, "is no number"},
		{`"\ud83d\ude00"`, "is no number"},
		{`true`, "is no number"},
		{`false`, "is no number"},
		{`[60]`, "is no number"},
		{`{"seconds":60}`, "is no number"},
		{`[]`, "is no number"},
	} {
		got, err := parseAnswer(200, []byte(answerWith("expires_in", tc.value)), all, asIs)
		if err == nil || err.Kind != Malformed || got != (answer{}) ||
			!strings.Contains(err.Error(), "expires_in "+tc.text) {
			t.Errorf("%s: %+v, error %v; want %q", tc.value, got, err, tc.text)
		}
	}
}

// Some servers say no with a 200. Only an error that is empty says nothing. Beside a token, one that is
// none of OAuth's leaves open what was made of a refresh token, which is not to be sent again.
func TestErrorIn200(t *testing.T) {
	for _, said := range []string{`true`, `0`, `[]`, `{}`, `" "`, `"false"`} {
		if got, err := parseAnswer(200, []byte(answerWith("error", said)), all, asIs); err == nil ||
			!err.EndsGrant() || got != (answer{}) {
			t.Errorf("%s: %+v, error %v", said, got, err)
		}
		without := `{"error":` + said + `}`
		if _, err := parseAnswer(200, []byte(without), all, asIs); err == nil || err.Kind != Refused ||
			err.EndsGrant() != (said == `"false"`) {
			t.Errorf("%s: error %v, ends the grant %v", without, err, err.EndsGrant())
		}
	}
	body := []byte("\ufeff" + `{"error":"invalid_grant"}`)
	if err := refusal(403, body, asIs); err.code() != "invalid_grant" {
		t.Errorf("behind a byte order mark: %v", err)
	}
	got, err := parseAnswer(200, []byte(answerWith("error", `"invalid_grant"`)), all, asIs)
	if err == nil || err.Kind != Refused || err.code() != "invalid_grant" || got != (answer{}) {
		t.Errorf("%+v, error %v", got, err)
	}
}

// namesIn returns the names in a JSON object, as often as they are there.
func namesIn(object []byte) (names []string) {
	dec := json.NewDecoder(bytes.NewReader(object))
	_, _ = dec.Token()
	for dec.More() {
		name, _ := dec.Token()
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return nil
		}
		names = append(names, fmt.Sprint(name))
	}
	return names
}

// TestStringField: a string is read as encoding/json reads it, which replaces what is no UTF-8.
func TestStringField(t *testing.T) {
	for raw, want := range map[string]string{
		`""`: "", `"a b"`: "a b", `"\"a\\\u0062"`: `"a\b`, "\"\u00e4\"": "\u00e4", "\"a\xff\"": "a\ufffd",
	} {
		fields, err := parseObject([]byte(`{"x":` + raw + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := stringField(fields, "x"); !ok || got != want {
			t.Errorf("%q, %v of %s; want %q", got, ok, raw, want)
		}
	}
}

// FuzzParseAnswer looks for an answer that a login must not rest on, and for one that
// is read otherwise than others read it.
func FuzzParseAnswer(f *testing.F) {
	for _, body := range []string{
		answerWith("", ""),
		answerWith("scope", `"openid profile"`),
		answerWith("scope", `""`),
		answerWith("scope", `null`),
		answerWith("scope", `["a","b c"]`),
		answerWith("scope", `[]`),
		answerWith("error", `""`),
		answerWith("error", `false`),
		"\ufeff" + answerWith("", ""),
		answerWith("expires_in", `"3600"`),
		answerWith("expires_in", `"1e3"`),
		answerWith("expires_in", `3600.5`),
		answerWith("expires_in", `9e18`),
		answerWith("expires_in", `1e400`),
		answerWith("expires_in", `0.5`),
		answerWith("expires_in", `-1`),
		answerWith("expires_in", `"0x10"`),
		answerWith("expires_in", `"1_0"`),
		answerWith("expires_in", `"Inf"`),
		answerWith("expires_in", ``),
		answerWith("token_type", `"bEARER"`),
		answerWith("token_type", `"mac"`),
		answerWith("access_token", `"a\u000ab"`),
		answerWith("access_token", `"é"`),
		answerWith("refresh_token", `"r\r\n"`),
		answerWith("refresh_token", `1`),
		answerWith("id_token", `"a.b.c"`),
		answerWith("error", `"\u001b[31mx"`),
		`{"access_token":"a","access_toke\u006e":"b","token_type":"Bearer"}`,
		`{"access_token":"a","ACCESS_TOKEN":"b","token_type":"Bearer"}`,
		`{"access_token":"a","x":1,"x":2,"token_type":"Bearer"}`,
		`{"error":"invalid_grant","error_description":"no\nno the-secret the%2Dsecret"}`,
		answerWith("", "") + "{}",
		"null", "", "{", "[]", "<html>", "access_token=a&token_type=Bearer",
	} {
		f.Add([]byte(body))
	}
	clean := func(text string) string { return CleanText(redact(text, "the-secret")) }
	// fit fails the test unless an error can stand in a log, and says no secret.
	fit := func(t *testing.T, err *Error) {
		t.Helper()
		if text := err.Error(); len(text) > 1000 ||
			strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) ||
			strings.Contains(text, "the-secret") {
			t.Fatalf("an error that is not fit for a log: %q", text)
		}
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		body := bytes.TrimPrefix(sent, []byte("\ufeff"))
		for status, kind := range map[int]Kind{
			400: Refused, 401: Refused, 403: Refused, 429: Unavailable, 500: Refused, 503: Unavailable,
		} {
			if err := refusal(status, sent, clean); err.Kind != kind || err.Status != status {
				t.Fatalf("%d: %#v", status, err)
			} else {
				fit(t, err)
			}
		}
		a, err := parseAnswer(200, sent, all, clean)
		if err != nil {
			if a != (answer{}) {
				t.Fatalf("error %v, and yet %+v", err, a)
			}
			if err.Kind != Malformed && err.Kind != Refused || err.Status != 200 {
				t.Fatalf("error %#v", err)
			}
			fit(t, err)
			if names := namesIn(body); strings.Contains(err.Error(), "has a name twice") &&
				len(slices.Compact(slices.Sorted(slices.Values(names)))) == len(names) {
				t.Fatalf("no name is twice in %q", body)
			}
			return
		}
		if a.AccessToken == "" ||
			strings.ContainsFunc(a.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("access token %q", a.AccessToken)
		}
		if a.ExpiresIn < 1 || a.ExpiresIn > maxExpiresIn || !validScopes(a.Scope) {
			t.Fatalf("%+v", a)
		}
		// Other readers see the same answer, whichever of two names they believe.
		if names := namesIn(body); !json.Valid(body) ||
			len(slices.Compact(slices.Sorted(slices.Values(names)))) != len(names) {
			t.Fatalf("not for others: %q", body)
		}
		var fields map[string]any
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber() // what nobody asked for may be larger than a float
		if err := dec.Decode(&fields); err != nil {
			t.Fatalf("not for others: %v", err)
		}
		tokenType, _ := fields["token_type"].(string)
		refresh, _ := fields["refresh_token"].(string)
		id, _ := fields["id_token"].(string)
		scope, granted := fields["scope"].(string)
		if list, ok := fields["scope"].([]any); ok {
			var texts []string
			for _, element := range list {
				texts = append(texts, element.(string)) // others are refused
			}
			granted, scope = true, strings.Join(texts, " ")
		}
		if granted && scope == "" {
			scope = " "
		}
		says := fields["error"]
		if says != nil && says != "" && says != false || fields["access_token"] != a.AccessToken ||
			!strings.EqualFold(tokenType, "bearer") ||
			refresh != a.RefreshToken || id != a.IDToken || scope != a.Scope {
			t.Fatalf("%+v, where others read %v", a, fields)
		}
		var seconds string
		switch v := fields["expires_in"].(type) {
		case nil:
			seconds = "3600"
		case json.Number:
			seconds = v.String()
		case string:
			seconds = v
		default:
			t.Fatalf("expires_in is %v, and not refused", v)
		}
		// As exactly as can be: no float is this long, and none has this exponent.
		if exact, _, err := big.ParseFloat(seconds, 10, 200, big.ToZero); err != nil {
			t.Fatalf("expires_in %q is taken, and is no number: %v", seconds, err)
		} else if low, high := float64(a.ExpiresIn), float64(a.ExpiresIn+1); exact.Cmp(big.NewFloat(low)) < 0 ||
			exact.Cmp(big.NewFloat(high)) > 0 && a.ExpiresIn < maxExpiresIn {
			t.Fatalf("expires_in %q became %d s", seconds, a.ExpiresIn)
		}
	})
}
