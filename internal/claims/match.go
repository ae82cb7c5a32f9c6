package claims

import (
	"fmt"
	"strings"
	"unicode"
)

// Lookup finds the claim at a path, as [Claims.Lookup] does.
type Lookup func(path string) (any, bool)

// anyAt begins a value that stands for all addresses of one domain.
const anyAt = "*@"

// CheckValue reports what keeps value from being one that a claim is compared with.
func CheckValue(value string) error {
	domain, ok := strings.CutPrefix(value, anyAt)
	if !ok {
		return nil
	}
	isNone := func(r rune) bool {
		return strings.ContainsRune("*@,", r) || unicode.IsSpace(r) || !unicode.IsGraphic(r)
	}
	if strings.ContainsFunc(domain, isNone) || strings.Contains("."+domain+".", "..") {
		return fmt.Errorf("%q does not name one domain: write *@example.com, and a further domain as a value "+
			"of its own", value)
	}
	return nil
}

// Holds reports whether the claim at path is, or contains, one of the values, which
// [CheckValue] has found good. A number or a boolean is compared as its JSON text.
//
// The value *@example.com stands for each address with one @ and that domain, whose case
// means nothing. For the claim email, it holds only where the server has verified the
// address: anyone can sign up with an address that is somebody else's. Other values of
// email are compared without regard to case, too, and do not hold where the server says that
// it has not verified the address; some say nothing.
func Holds(lookup Lookup, path string, values []string) bool {
	claim, _ := lookup(path)
	isEmail := path == "email"
	for _, has := range texts(claim) {
		for _, value := range values {
			domain, isPattern := strings.CutPrefix(value, anyAt)
			switch {
			case isPattern && isIn(has, domain) && (!isEmail || isVerified(lookup)),
				!isPattern && !isEmail && has == value,
				!isPattern && isEmail && equalFold(has, value) && !isUnverified(lookup):
				return true
			}
		}
	}
	return false
}

// isIn reports whether an address is in a domain.
func isIn(address, domain string) bool {
	local, of, ok := strings.Cut(address, "@")
	return ok && local != "" && equalFold(of, domain) // so of holds no further @
}

// isVerified reports whether the server has verified the address in the claim email. It
// says so by the boolean (OpenID Connect Core 1.0, section 5.1), and by nothing else.
func isVerified(lookup Lookup) bool {
	verified, _ := lookup("email_verified")
	return verified == true
}

// isUnverified reports whether the server says anything of the address in the claim email but that it has verified
// it. Some write the boolean as a string.
func isUnverified(lookup Lookup) bool {
	verified, says := lookup("email_verified")
	return says && verified != true && verified != "true"
}

// equalFold reports whether two texts are equal but for the case of A to Z. Unicode has
// further letters that fold into those, which are other letters to whoever gives out
// names and addresses.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
