package claims

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestHolds(t *testing.T) {
	verified := func(email string) string {
		return `{"email":` + email + `,"email_verified":true}`
	}
	for _, tc := range []struct {
		claims string
		path   string
		values []string
		want   bool
	}{
		// Values as they are
		{`{"role":"admin"}`, "role", []string{"editor", "admin"}, true},
		{`{"role":"admin"}`, "role", []string{"editor"}, false},
		{`{"role":"Admin"}`, "role", []string{"admin"}, false},
		{`{"role":["reader","admin"]}`, "role", []string{"admin"}, true},
		{`{"role":"reader,admin"}`, "role", []string{"admin"}, false},
		{`{"role":[["admin"],{"x":"admin"}]}`, "role", []string{"admin"}, false},
		{`{"level":3,"yes":true}`, "level", []string{"3"}, true},
		{`{"level":3,"yes":true}`, "yes", []string{"true"}, true},
		{`{"app":{"plan":"gold"}}`, "app.plan", []string{"gold"}, true},
		{`{}`, "role", []string{"admin", ""}, false},
		{`{"role":null}`, "role", []string{"null", ""}, false},
		{`{"role":"admin"}`, "role", nil, false},

		// A domain, for other claims than email
		{`{"upn":"ada@example.com"}`, "upn", []string{"*@example.com"}, true},
		{`{"upn":"Ada@EXAMPLE.Com"}`, "upn", []string{"*@example.COM"}, true},
		{`{"upn":["x@evil.test","ada@example.com"]}`, "upn", []string{"*@example.com"}, true},
		{`{"upn":"ada@example.com"}`, "upn", []string{"*@example.org", "*@example.com"}, true},
		{`{"hd":"ada@example.com"}`, "hd", []string{"example.com"}, false},
		{`{"upn":"*@example.com"}`, "upn", []string{"*@example.com"}, true},
		{`{"upn":"@example.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"example.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@sub.example.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@evilexample.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@example.com.evil.test"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@example.com."}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@example.com "}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@evil.test@example.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@example.com@evil.test"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"x@evil.test,ada@example.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@example.com\n"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@examp\u2113e.com"}`, "upn", []string{"*@example.com"}, false},
		{`{"upn":"ada@\u017fite.test"}`, "upn", []string{"*@site.test"}, false}, // it folds into an s
		{`{"upn":"ada@example.com","email_verified":false}`, "upn", []string{"*@example.com"}, true},

		// A domain, for email
		{verified(`"ada@example.com"`), "email", []string{"*@example.com"}, true},
		{verified(`"ADA@Example.com"`), "email", []string{"*@example.com"}, true},
		{verified(`"ada@evil.test"`), "email", []string{"*@example.com"}, false},
		{verified(`["ada@example.com"]`), "email", []string{"*@example.com"}, true},
		{`{"email":"ada@example.com"}`, "email", []string{"*@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":false}`, "email", []string{"*@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":"true"}`, "email", []string{"*@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":1}`, "email", []string{"*@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":[true]}`, "email", []string{"*@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":null}`, "email", []string{"*@example.com"}, false},
		{`{"email":"ada@example.com","Email_Verified":true}`, "email", []string{"*@example.com"}, false},

		// One address, for email
		{`{"email":"Ada@Example.com"}`, "email", []string{"ada@example.COM"}, true},
		{`{"email":"ada@example.com"}`, "email", []string{"eve@example.com"}, false},
		{verified(`"ada@example.com"`), "email", []string{"ada@example.com"}, true},
		{`{"email":"ada@example.com","email_verified":"true"}`, "email", []string{"ada@example.com"}, true},
		{`{"email":"ada@example.com","email_verified":null}`, "email", []string{"ada@example.com"}, true},
		{`{"email":"ada@example.com","email_verified":false}`, "email", []string{"ada@example.com"}, false},
		{`{"email":["ada@example.com"],"email_verified":false}`, "email", []string{
			"eve@example.com", "ada@example.com",
		}, false},
		{`{"email":"ada@example.com","email_verified":"false"}`, "email", []string{"ada@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":0}`, "email", []string{"ada@example.com"}, false},
		{`{"email":"ada@example.com","email_verified":[true]}`, "email", []string{"ada@example.com"}, false},
		{`{"upn":"ada@example.com","email_verified":false}`, "upn", []string{"ada@example.com"}, true},
		{`{"email":"\u017faul@example.com"}`, "email", []string{"saul@example.com"}, false},
		{`{"email":"\u212aai@example.com"}`, "email", []string{"kai@example.com"}, false},
		{`{"EMAIL":"ada@example.com"}`, "email", []string{"ada@example.com"}, false},
		{`{"x":{"email":"Ada@example.com"}}`, "x.email", []string{"ada@example.com"}, false},
	} {
		if got := Holds(parse(t, tc.claims).Lookup, tc.path, tc.values); got != tc.want {
			t.Errorf("%s: %s %q: %v", tc.claims, tc.path, tc.values, got)
		}
	}
	if Holds(Claims{}.Lookup, "role", []string{""}) {
		t.Error("no claims hold something")
	}
}

func TestCheckValue(t *testing.T) {
	for value, want := range map[string]bool{
		"admin": true, "": true, "*": true, "a@example.com": true, "*.example.com": true, "@example.com": true,
		"a*@b":          true,
		"*@example.com": true, "*@EXAMPLE.com": true, "*@localhost": true, "*@xn--bcher-kva.test": true,
		"*@bücher.test": true,
		"*@":            false, "*@*": false, "*@*.example.com": false, "*@a@b": false, "*@.example.com": false,
		"*@example.com.": false,
		"*@a..b":         false, "*@a.test,b.test": false, "*@a.test b.test": false, "*@\ta.test": false,
		"*@\x00": false,
	} {
		if err := CheckValue(value); (err == nil) != want {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// FuzzHolds looks for an address that is taken to be in a domain, and is not: of another,
// of none, or one that nobody has verified.
func FuzzHolds(f *testing.F) {
	f.Add("ada@example.com", "example.com", true)
	f.Add("Ada@Example.COM", "example.com", false)
	f.Add("ada@evil.test@example.com", "example.com", true)
	f.Add("@example.com", "example.com", true)
	f.Add("ada@e\u017fample.com", "esample.com", true)
	f.Add("", "", true)
	f.Fuzz(func(t *testing.T, address, domain string, verified bool) {
		value := anyAt + domain
		if CheckValue(value) != nil {
			return
		}
		payload, err := json.Marshal(map[string]any{"email": address, "email_verified": verified, "upn": address})
		if err != nil || len(payload) > MaxSize {
			return
		}
		c := parse(t, string(payload))
		_ = json.Unmarshal(payload, &struct{ Email *string }{&address}) // as it arrives: what is not UTF-8 has gone
		upn, email := Holds(c.Lookup, "upn", []string{value}), Holds(c.Lookup, "email", []string{value})
		parts := strings.Split(address, "@")
		isIn := len(parts) == 2 && parts[0] != "" && domain != "" && asciiLower(parts[1]) == asciiLower(domain)
		if upn != isIn {
			t.Errorf("%q is in %q: %v", address, domain, upn)
		}
		if email != (isIn && verified) {
			t.Errorf("%q, verified %v, is in %q: %v", address, verified, domain, email)
		}
		itself := Holds(c.Lookup, "email", []string{strings.ToUpper(address), address})
		if itself != verified && !strings.HasPrefix(address, anyAt) {
			t.Errorf("%q, verified %v, holds itself: %v", address, verified, itself)
		}
	})
}

func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}
