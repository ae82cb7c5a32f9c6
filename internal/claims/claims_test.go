package claims

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

func parse(t testing.TB, payload string) Claims {
	t.Helper()
	c, err := Parse([]byte(payload))
	if err != nil {
		t.Fatalf("%.100s: %v", payload, err)
	}
	return c
}

func TestLookup(t *testing.T) {
	c := parse(t, `{
		"sub": "auth0|ada", "empty": "", "null": null, "yes": true, "no": false,
		"id": 9007199254740993, "big": 123456789012345678901234567890, "float": 1.10, "exponent": 1E400, "minus": -0,
		"roles": ["admin", "a,b", 7, true, null, {"x": "<&>"}, ["y", 1]],
		"none": [], "things": {}, "object": {"b": 2.50, "a": ["<", "é"]},
		"nested": {"deep": {"er": "here", "null": null}, "list": [{"name": "first"}, {"name": "second"}]},
		"https://example.com/roles": ["reader"],
		"https://example.com/app": {"plan.name": "gold", "plan": {"name": "lead"}},
		"a.b": {"c": "longer"}, "a": {"b": {"c": "shorter", "d": "other"}, "b.c": "between"},
		"a.b.null": null, "x.y": null, "x": {"y": "not null"}, "": "no name", ".": "dot",
		"{env.HOME}": "{env.HOME}", "line": "one\ntwo\u0000", "bad": "\ud800"
	}`)
	for path, want := range map[string]string{
		"sub": "auth0|ada", "empty": "", "yes": "true", "no": "false",
		"id": "9007199254740993", "big": "123456789012345678901234567890", "float": "1.10", "exponent": "1E400",
		"minus": "-0",
		"roles": `admin,a,b,7,true,,{"x":"<&>"},["y",1]`, "roles.0": "admin", "roles.6.1": "1", "roles.5.x": "<&>",
		"none": "", "things": "{}", "object": `{"a":["<","é"],"b":2.50}`, "object.a.1": "é",
		"nested.deep.er": "here", "nested.list.1.name": "second", "nested.deep": `{"er":"here","null":null}`,
		"https://example.com/roles": "reader", "https://example.com/roles.0": "reader",
		"https://example.com/app.plan.name": "gold",
		"a.b.c":                             "longer", "a.b.d": "other",
		"a":   `{"b":{"c":"shorter","d":"other"},"b.c":"between"}`,
		"x.y": "not null", "": "no name", ".": "dot",
		"{env.HOME}": "{env.HOME}", "line": "one\ntwo\x00", "bad": "\ufffd",
	} {
		got, ok := c.Lookup(path)
		if text := caddy.ToString(got); !ok || text != want {
			t.Errorf("%q is %q, %v; want %q", path, text, ok, want)
		}
	}
	for _, path := range []string{
		"null", "nothing", "Sub", "SUB", " sub", "sub.", "sub.x", "sub.0", "roles.7", "roles.-1", "roles.+1",
		"roles.x", "roles.",
		"roles.4", "roles.99999999999999999999", "nested.deep.null", "nested.deep.er.x", "nested..deep", "..",
		"a.b.e", "id.0",
		"https://example", "https://example.com", "a.b.null", "things.x", "none.0",
	} {
		if got, ok := c.Lookup(path); ok || got != nil {
			t.Errorf("%q is %v", path, got)
		}
		if got, ok := (Claims{}).Lookup(path); ok || got != nil {
			t.Errorf("no claims: %q is %v", path, got)
		}
	}
}

// Where a name is there twice, the last one counts, and nothing of the first is left.
func TestDoubledNames(t *testing.T) {
	c := parse(t, `{"a":{"x":1},"b":1,"a":{"y":2},"b":null,"c":{"d":1,"d":2}}`)
	for path, want := range map[string]string{"a": `{"y":2}`, "c.d": "2"} {
		if got, _ := c.Lookup(path); caddy.ToString(got) != want {
			t.Errorf("%s is %v, want %s", path, got, want)
		}
	}
	for _, path := range []string{"a.x", "b"} {
		if got, ok := c.Lookup(path); ok {
			t.Errorf("%s is %v", path, got)
		}
	}
}

// valuesAt returns the values at path that Holds compares.
func valuesAt(c Claims, path string) []string {
	claim, _ := c.Lookup(path)
	return texts(claim)
}

func TestTexts(t *testing.T) {
	c := parse(t, `{"s":"a b","n":1.0,"big":9007199254740993,"t":true,"null":null,"o":{"a":"x"},
		"list":["a b",2,false,null,{"a":"x"},["y"],""],"empty":[]}`)
	for path, want := range map[string][]string{
		"s": {"a b"}, "n": {"1.0"}, "big": {"9007199254740993"}, "t": {"true"},
		"null": nil, "o": nil, "nothing": nil, "empty": nil,
		"list": {"a b", "2", "false", ""}, "o.a": {"x"}, "list.4": nil, "list.5": {"y"},
	} {
		if got := valuesAt(c, path); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if got := valuesAt(Claims{}, "s"); got != nil {
		t.Errorf("no claims have %q", got)
	}
}

func TestScopes(t *testing.T) {
	for _, test := range []struct {
		payload, answer string
		want            string
	}{
		{`{}`, "", ""}, // what was asked for does not count
		{`{"scope":"token"}`, "the answer", "the answer"},
		{`{"scope":"of  the token"}`, "", "of the token"},
		{`{"scope":["of","the token",1,null]}`, "", "of|the token"},
		{`{"scp":"of the token"}`, "", "of the token"},
		{`{"scp":["of","it"]}`, "", "of it"},
		{`{"scope":"one","scp":"other"}`, "", "one"},
		{`{"scope":null,"scp":null}`, "", ""},
		// What cannot be read, or is nothing, grants nothing.
		{`{"scope":"","scp":"other"}`, "", ""},
		{`{"scope":{"asked":true}}`, "", ""},
		{`{"scope":1}`, "", ""},
		{`{"scope":[]}`, "", ""},
		{`{"scope":true,"permissions":["p"]}`, "", ""},
	} {
		want := strings.Fields(test.want)
		if strings.Contains(test.want, "|") {
			want = strings.Split(test.want, "|")
		}
		if got := parse(t, test.payload).Scopes(test.answer); !slices.Equal(got, want) {
			t.Errorf("%s, %q: %q, want %q", test.payload, test.answer, got, want)
		}
	}
}

func TestSubject(t *testing.T) {
	for payload, want := range map[string]string{
		`{"sub":"auth0|ada"}`: "auth0|ada", `{"sub":9007199254740993}`: "9007199254740993",
		`{"sub":null}`: "", `{}`: "",
		`{"sub":["a"]}`: "", `{"sub":{"a":"b"}}`: "", `{"sub":true}`: "", `{"Sub":"a"}`: "",
	} {
		if got := parse(t, payload).Subject(); got != want {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
}

func TestGrants(t *testing.T) {
	for payload, want := range map[string]string{
		`{"permissions":["read:x","write:x",1,null,["y"]]}`: "read:x write:x",
		`{"scope":"s","permissions":["read:x"]}`:            "s read:x",
		`{"scope":"s","permissions":"read:x"}`:              "s",
		`{"scope":"s","permissions":{"read:x":true}}`:       "s",
		`{"scope":"s"}`: "s",
	} {
		if got := strings.Join(parse(t, payload).Grants(""), " "); got != want {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	token := func(payload string) string {
		return b64([]byte(`{"alg":"RS256"}`)) + "." + b64([]byte(payload)) + ".c2ln"
	}
	if got, _ := Of(token(`{"sub":"ada"}`)).Lookup("sub"); got != "ada" {
		t.Errorf("sub is %v", got)
	}
	long := token(`{"sub":"` + strings.Repeat("x", 48<<10) + `"}`)
	for _, token := range []string{
		"", ".", "..", "...", "opaque", "a.b.c", token(``), token(`null`), token(`[]`), token(`"sub"`),
		token(`{"sub":"ada"`),
		token(`{"sub":"ada"} x`), token(`{"sub":"ada"}{}`), token("{\"sub\":\"ada\n\"}"),
		token(`{"sub":"ada"}`) + ".x.y",
		strings.Replace(token(`{"sub":"ada"}`), ".c2ln", "=.c2ln", 1), long,
		strings.Replace(token(`{"sub":"ada" }`), "0.c2ln", "1.c2ln", 1), // bits after the end
	} {
		c := Of(token)
		if got, ok := c.Lookup("sub"); ok {
			t.Errorf("%.50q: sub is %.50v", token, got)
		}
		if text, err := json.Marshal(c); string(text) != "{}" || err != nil {
			t.Errorf("%.50q: %s, %v", token, text, err)
		}
	}
}

func TestJoin(t *testing.T) {
	access := parse(t, `{"sub":"ada","null":null,"o":{"a":1}}`)
	id := parse(t, `{"sub":"eve","null":"not null","o":{"b":2},"email":"ada@example.com","id":9007199254740993}`)
	got, err := json.Marshal(access.Join(id))
	want := `{"email":"ada@example.com","id":9007199254740993,"null":"not null","o":{"a":1},"sub":"ada"}`
	if string(got) != want || err != nil {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	if got, _ := json.Marshal(access); string(got) != `{"null":null,"o":{"a":1},"sub":"ada"}` {
		t.Errorf("what was joined has changed: %s", got)
	}
	if got, _ := json.Marshal(Claims{}.Join(Claims{})); string(got) != `{}` {
		t.Errorf("nothing and nothing is %s", got)
	}
}

// Whatever a token holds, it is read in no time, and comes out as it went in.
func TestHostileClaims(t *testing.T) {
	many, same, paths := new(strings.Builder), new(strings.Builder), new(strings.Builder)
	for i := range 5000 {
		fmt.Fprintf(many, `"k%d":%d,`, i, i%10)
		same.WriteString(`"a":{},`)
	}
	for i := range 1500 {
		fmt.Fprintf(paths, `"a%s":{"a":{}},`, strings.Repeat(".a", i%15))
	}
	deepest := strings.Repeat(`{"a":`, 9000) + `1` + strings.Repeat(`}`, 9000)
	for what, payload := range map[string]string{
		"many names":    `{` + many.String() + `"a":1}`,
		"one name":      `{` + same.String() + `"a":1}`,
		"names of dots": `{` + paths.String() + `"b":1}`,
		"deep objects":  deepest,
		"deep arrays":   `{"a":` + strings.Repeat(`[`, 9000) + strings.Repeat(`]`, 9000) + `}`,
		"a wide array":  `{"a":[` + strings.Repeat(`0,`, 30000) + `0]}`,
		"long numbers":  `{"a":` + strings.Repeat(`9`, 60000) + `}`,
		"escapes":       `{"a":"` + strings.Repeat(`\u0000`, 10000) + `"}`,
		"not UTF-8":     `{"a":"` + strings.Repeat("\xff", 60000) + `"}`,
		"placeholders":  `{"a":"` + strings.Repeat(`{http.auth.user.a}`, 3000) + `"}`,
	} {
		start := time.Now()
		c := parse(t, payload)
		for _, path := range []string{"a", "a.a", "b", strings.Repeat("a.", 100) + "a", strings.Repeat(".", 100),
			"k4999", "a." + strings.Repeat("0.", 100)} {
			value, _ := c.Lookup(path)
			_ = caddy.ToString(value)
			valuesAt(c, path)
		}
		c.Grants("")
		if _, err := json.Marshal(c); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(start); took > 20*time.Second { // it is some milliseconds; without bounds, minutes
			t.Errorf("%s: took %s", what, took)
		}
	}
	for what, payload := range map[string]string{
		"too deep": `{"a":` + strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000) + `}`,
		"unended":  strings.Repeat(`{"a":`, 13000),
		"too long": `{"a":"` + strings.Repeat(`a`, MaxSize) + `"}`,
	} {
		if c, err := Parse([]byte(payload)); err == nil || c.top != nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// FuzzClaims looks for claims that are found where they are not, or not found where
// they are, and for what they might become on their way out.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"a.b":{"c":[1,{"d":"e"}]},"a":{"b":9007199254740993},"":null}`), "a.b.c.1.d")
	f.Add([]byte(`{"scope":["a"],"scp":"b","permissions":["{env.X}"],"https://x/y":true}`), "https://x/y")
	f.Add([]byte("{\"\xff\":\"\xff\",\"a\":\"\\ud800\"}"), ".\xff.")
	f.Add([]byte(`{"iss":"x","sub":"a","aud":"b","exp":1,"iat":2,"nonce":"n","at_hash":"h","id":9007199254740993,`+
		`"e":1E400}`), "id")
	f.Fuzz(func(t *testing.T, payload []byte, path string) {
		c, err := Parse(payload)
		if err != nil {
			if c.top != nil {
				t.Error("something came back with the error")
			}
			return
		}
		value, ok := c.Lookup(path)
		text := caddy.ToString(value)
		if ok != (value != nil) || !utf8.ValidString(text) {
			t.Errorf("%q: %q, %v", path, text, ok)
		}
		// Every name finds its own value, whatever is in the name.
		for name, want := range c.top {
			got, ok := c.Lookup(name)
			if want != nil && (!ok || caddy.ToString(got) != textOf(want)) {
				t.Errorf("%q is %v, want %v", name, got, want)
			}
		}
		for _, s := range slices.Concat(valuesAt(c, path), c.Grants("")) {
			if !utf8.ValidString(s) {
				t.Errorf("%q is not UTF-8", s)
			}
		}
		// What goes out as JSON is the same claims.
		first, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var others map[string]any
		dec := json.NewDecoder(bytes.NewReader(payload))
		dec.UseNumber()
		if err := dec.Decode(&others); err != nil || !json.Valid(payload) {
			t.Errorf("%q is none to others: %v", payload, err)
		} else if theirs, err := json.Marshal(others); err != nil || string(theirs) != string(first) {
			t.Errorf("%s, where others read %s, %v", first, theirs, err)
		}
		if len(first) > MaxSize {
			return // HTML's signs are escaped
		}
		second, err := json.Marshal(parse(t, string(first)))
		if err != nil || string(first) != string(second) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
		// What an ID token adds is of the person, and nothing that the access token
		// has: of itself it has nothing to add.
		if further, err := Further(payload, "opaque"); err != nil {
			t.Error(err)
		} else if further != nil {
			for name, value := range parse(t, string(further)).top {
				got, _ := json.Marshal(value)
				want, _ := json.Marshal(c.top[name])
				if c.top[name] == nil || string(got) != string(want) || slices.Contains(aboutIDToken, name) {
					t.Errorf("%q is %s further, and was %s", name, got, want)
				}
			}
		}
		token := "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".AA"
		further, err := Further(payload, token)
		if want := sidOf(c); len(token) <= MaxSize && (err != nil || string(further) != want) {
			t.Errorf("%s further, %v; want %s", further, err, want)
		}
	})
}

// textOf is what a claim of that name must be as text.
func textOf(v any) string {
	if list, ok := v.([]any); ok {
		return List(list).String()
	}
	return text(v)
}

// sidOf returns the claims with nothing but sid, as JSON, or "" without one.
func sidOf(c Claims) string {
	if c.top["sid"] == nil {
		return ""
	}
	data, _ := json.Marshal(map[string]any{"sid": c.top["sid"]})
	return string(data)
}

// TestFurtherSID: the ID token's word counts about the session at the server, whatever
// kinds of values the two tokens have there, and whatever a renewed access token says.
func TestFurtherSID(t *testing.T) {
	token := func(payload string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".AA"
	}
	for _, tc := range []struct{ id, access, want string }{
		{`{"sub":"a","sid":"s"}`, `{"sub":"a"}`, `{"sid":"s"}`},
		{`{"sub":"a","sid":"s"}`, `{"sub":"a","sid":"s"}`, `{"sid":"s"}`},
		{`{"sub":"a","sid":"s"}`, `{"sub":"a","sid":"t"}`, `{"sid":"s"}`},
		{`{"sub":"a"}`, `{"sub":"a","sid":"t"}`, ``},
		{`{"sub":"a","sid":["s"]}`, `{"sub":"a","sid":["t"]}`, `{"sid":["s"]}`},
		{`{"sub":"a","sid":{"s":[]}}`, `{"sub":"a","sid":{"s":[]}}`, `{"sid":{"s":[]}}`},
	} {
		got, err := Further([]byte(tc.id), token(tc.access))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s beside %s: %s, %v; want %s", tc.id, tc.access, got, err, tc.want)
		}
	}
}

// TestVerifiedByWhoNamesIt: of two tokens, the one that names an address says whether it was verified, and the other
// says nothing of it.
func TestVerifiedByWhoNamesIt(t *testing.T) {
	for _, tc := range []struct{ access, id, further, all string }{
		{`{"email_verified":true}`, `{"email":"a","email_verified":false}`,
			`{"email":"a","email_verified":false}`, `{"email":"a","email_verified":false}`},
		{`{"email_verified":true}`, `{"email":"a"}`, `{"email":"a"}`, `{"email":"a"}`},
		{`{"email":null,"email_verified":true}`, `{"email":"a"}`, `{"email":"a"}`, `{"email":"a"}`},
		{`{"email":"b"}`, `{"email":"a","email_verified":true}`, ``, `{"email":"b"}`},
		{`{"email":"b","email_verified":false}`, `{"email":"a","email_verified":true}`, ``,
			`{"email":"b","email_verified":false}`},
		{`{}`, `{"email":"a","email_verified":true}`, `{"email":"a","email_verified":true}`,
			`{"email":"a","email_verified":true}`},
		{`{"email_verified":true}`, `{"email_verified":false}`, ``, `{"email_verified":true}`},
		{`{}`, `{"email_verified":true}`, `{"email_verified":true}`, `{"email_verified":true}`},
		{`{"phone_number_verified":true}`, `{"phone_number":"1","phone_number_verified":false}`,
			`{"phone_number":"1","phone_number_verified":false}`,
			`{"phone_number":"1","phone_number_verified":false}`},
		{`{"_verified":1}`, `{"":2,"_verified":3}`, `{"":2}`, `{"":2,"_verified":1}`},
		// These are no address's.
		{`{"kyc_verified":false}`, `{"kyc":1,"kyc_verified":true}`, `{"kyc":1}`, `{"kyc":1,"kyc_verified":false}`},
	} {
		token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(tc.access)) + ".AA"
		further, err := Further([]byte(tc.id), token)
		if err != nil || string(further) != tc.further {
			t.Errorf("%s beside %s: further %s, %v; want %s", tc.id, tc.access, further, err, tc.further)
		}
		all, err := json.Marshal(parse(t, tc.access).Join(parse(t, tc.id)))
		if err != nil || string(all) != tc.all {
			t.Errorf("%s beside %s: all %s, %v; want %s", tc.id, tc.access, all, err, tc.all)
		}
	}
}
