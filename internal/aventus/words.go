package aventus

import (
	"strings"
	"unicode"
)

// maxWords limits the characters of what a rule says to a person.
const maxWords = 1000

// Words returns what the authorization server says to a person, such as why a rule
// denied the login: in any script, in one line, and without what controls a terminal or
// changes the order in which text is shown. Whoever puts it into a page has to escape
// it. Text past [maxWords] characters is cut off.
//
// Two braces come apart: they begin an action in a page that Caddy's templates handler
// executes when these words are in it already, and whose visitor may have written them.
func Words(s string) string {
	var b strings.Builder
	n, space, brace := 0, false, false
	for _, r := range s { // what is not UTF-8 comes as U+FFFD
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
