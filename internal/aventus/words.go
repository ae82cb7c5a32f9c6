package aventus

import (
	"strings"
	"unicode"
)

// maxWords limits the number of characters of a server's text for a person.
const maxWords = 1000

// Words cleans a text of the authorization server for a person, such as why a rule denied
// the login. The result may be in any script, is one line, and has no characters that control
// a terminal or change the order in which text is shown. A page that shows it has to escape
// it. Text past [maxWords] characters is cut off.
//
// Two braces are separated: in a page that already holds this text when Caddy's templates
// handler executes it, they would begin an action, and a visitor may have written them.
func Words(s string) string {
	var b strings.Builder
	n, space, brace := 0, false, false
	for _, r := range s { // invalid UTF-8 becomes U+FFFD
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		// The joiners belong to the spelling of some languages, and to emoji.
		case !unicode.IsGraphic(r) && r != '\u200c' && r != '\u200d':
			continue
		}
		if space || brace && r == '{' {
			b.WriteByte(' ')
			n++
			space = false
		}
		brace = r == '{'
		if n++; n > maxWords {
			return strings.TrimRight(b.String(), " ") + "…"
		}
		b.WriteRune(r)
	}
	return b.String()
}
