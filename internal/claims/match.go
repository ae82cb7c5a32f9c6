package claims

import (
	"fmt"
	"strings"
	"unicode"
)

// Lookup finds the claim at a path, as [Claims.Lookup] does.
type Lookup func(path string) (any, bool)

// anyAt is the prefix of a value that stands for all addresses of one domain.
const anyAt = "*@"

// CheckValue returns an error unless a claim can be compared with value.
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
// [CheckValue] has accepted. A number or a boolean is compared as its JSON text.
//
// The value *@example.com stands for each address with one @ and that domain, in any
// case. For the claim email, it holds only if the server has verified the address: anyone
// can sign up with somebody else's address. Other values of email are compared without
// regard to case, too, and do not hold if the server says that it has not verified the
// address; some servers say nothing about that.
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
	return ok && local != "" && equalFold(of, domain) // domain has no @, so of has none either
}

// isVerified reports whether the server says that it has verified the address in the claim
// email. Only the boolean counts (OpenID Connect Core 1.0, section 5.1).
func isVerified(lookup Lookup) bool {
	verified, _ := lookup("email_verified")
	return verified == true
}

// isUnverified reports whether email_verified is there with any other value than true. Some servers write the
// boolean as a string.
func isUnverified(lookup Lookup) bool {
	verified, says := lookup("email_verified")
	return says && verified != true && verified != "true"
}

// equalFold reports whether two texts are equal but for the case of A to Z. Unicode folds
// further letters into those, but domains and mailboxes treat them as different letters.
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
