package aventus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CheckURL parses a URL that a login depends on. It must be absolute, and https
// unless its host is a loopback one: requests to it carry a secret, or are answered with one.
func CheckURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The error of url.Parse repeats the URL, which may hold a password.
		return nil, errors.New("is not a valid URL")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Port() != "" && (err != nil || port == 0):
		return nil, errors.New("has an invalid port")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, errors.New("must be an absolute https URL")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("must be an https URL: http is for loopback hosts only")
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password")
	case strings.Contains(raw, "#"):
		return nil, errors.New("must not have a fragment")
	case strings.ContainsFunc(raw, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^`{|}", r)
	}):
		return nil, errors.New("holds a character that a URL may not hold")
	case !isHost(u.Hostname()):
		return nil, errors.New("has a host that is no name or address: each host is written out")
	}
	return u, nil
}

// isHost reports whether host is a name or an address. It allows the underscore, which is
// not valid in host names but works.
func isHost(host string) bool {
	if strings.Contains(host, ":") { // an IPv6 address, which url.Parse has checked
		return true
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// isLoopback reports whether host is a loopback name or address
// (RFC 6761, section 6.3; RFC 8252, section 8.3).
func isLoopback(host string) bool {
	host = strings.ToLower(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// CheckIssuer returns the issuer with its final slash.
func CheckIssuer(raw string) (string, error) {
	if _, err := CheckURL(raw); err != nil {
		return "", err
	}
	if strings.Contains(raw, "?") {
		return "", errors.New("must not have a query")
	}
	return strings.TrimSuffix(raw, "/") + "/", nil
}

// CheckScope returns an error unless s is one scope (RFC 6749, section 3.3). A comma is
// valid in one, but somebody who writes it means two scopes.
func CheckScope(s string) error {
	if s == "" || !validScopes(s) || strings.ContainsAny(s, " ,") {
		return fmt.Errorf("%q is not a scope; several are written as separate words", s)
	}
	return nil
}

// CheckParam returns an error unless name can be a further authorize parameter.
func CheckParam(name string) error {
	if name == "" {
		return errors.New("a parameter needs a name")
	}
	if slices.Contains(ReservedParams, name) {
		return fmt.Errorf("%s is set by the module itself", name)
	}
	if name == "response_mode" {
		return errors.New("response_mode cannot be changed: the callback takes its answer from the query")
	}
	return nil
}

// ComparedParams are the further authorize parameters that [CheckLogin] compares with
// the ID token.
var ComparedParams = []string{"max_age", "organization"}

// CheckParamValue returns an error unless a further authorize parameter can have the value.
func CheckParamValue(name, value string) error {
	if name == "organization" && value == "" {
		return errors.New("organization must not be empty")
	}
	if name == "max_age" {
		_, err := parseMaxAge(value)
		return err
	}
	return nil
}

func parseMaxAge(value string) (time.Duration, error) {
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0, errors.New("max_age must be a number of seconds, 0 or more")
	}
	return time.Duration(seconds) * time.Second, nil
}

// CheckAuthorizeURL returns an error unless raw can be the authorize URL to which the given
// further parameters are added: none may then be in the URL twice.
func CheckAuthorizeURL(raw string, params map[string]string) error {
	u, err := CheckURL(raw)
	if err != nil {
		return err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("has a query that is not well-formed")
	}
	for name, values := range query {
		if slices.Contains(ComparedParams, name) {
			return fmt.Errorf("has the parameter %s in its query, where it is not compared with what came back: "+
				"set it with authorize_param", name)
		}
		if name == "response_mode" {
			return CheckParam(name)
		}
		_, doubled := params[name]
		if doubled || len(values) > 1 || slices.Contains(ReservedParams, name) {
			return fmt.Errorf("has the parameter %s in its query, which would be sent twice", name)
		}
	}
	return nil
}
