package aventus

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		"Your account is not approved yet; write to <help@example.com>.": "Your account is not approved yet; write " +
			"to <help@example.com>.",
		"Ihr Konto wird geprüft – „bald“.": "Ihr Konto wird geprüft – „bald“.",
		"حسابك قيد المراجعة":               "حسابك قيد المراجعة",
		"می\u200cخواهم":                    "می\u200cخواهم",
		"你的帐户尚未获批准。":                       "你的帐户尚未获批准。",
		"👩‍👧 ok 🏳️":                        "👩‍👧 ok 🏳️",
		"one\r\ntwo\tthree":                "one two three",
		"  around\u2028 it ":               "around it",
		"no\u00a0break":                    "no break",
		"\x1b[31mred\x07\x00\u009b":        "[31mred",
		"\u202egnp.exe\u2066\u200f":        "gnp.exe",
		"soft\u00adhyphen\ufeff":           "softhyphen",
		"\ue000private\U000e0041":          "private",
		"\xff\xc0broken":                   "\ufffd\ufffdbroken",
		"{env.SECRET} {{.}}":               "{env.SECRET} { {.}}",
		strings.Repeat("é", 1000):          strings.Repeat("é", 1000),
		strings.Repeat("é", 1001):          strings.Repeat("é", 1000) + "…",
		strings.Repeat("字 ", 1000):         strings.TrimRight(strings.Repeat("字 ", 500), " ") + "…",
	} {
		if got := Words(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	// Whatever comes, it is one line, and nothing acts on it.
	for r := rune(0); r <= unicode.MaxRune; r++ {
		got := Words("a" + string(r) + "b")
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.In(r, unicode.Zl, unicode.Zp)
		}) {
			t.Errorf("%U: %q", r, got)
		}
	}
}
