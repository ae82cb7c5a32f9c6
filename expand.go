package aventusauth

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	lru "github.com/hashicorp/golang-lru/v2"
)

// expanded returns a copy of the config with its placeholders replaced.
func (c *Config) expanded() (*Config, error) {
	out := *c
	for _, s := range subdirectives {
		var failed error
		field := reflect.ValueOf(s.field(&out)).Elem()
		field.Set(withStrings(field, expandInto(&failed, s.forRequest)))
		if failed != nil {
			return nil, fmt.Errorf("%s: %w", s.name, failed)
		}
	}
	return &out, nil
}

// writtenAt holds the lines of texts with placeholders in the Caddyfiles that this process has adapted, such as
// "Caddyfile:12": a config in JSON has no lines. For a text in several lines, it is the last of them.
var writtenAt, _ = lru.New[string, string](maxWrittenAt) // fails for no size alone

// noteLine notes the line of texts.
func noteLine(texts []string, at caddyfile.Token) {
	for _, text := range texts {
		if strings.Contains(text, "{") {
			writtenAt.Add(text, fmt.Sprintf("%s:%d", at.File, at.Line))
		}
	}
}

// expandInto returns what replaces the placeholders of a text, but for the one that is left for the
// request, if any. The first error is put into failed.
func expandInto(failed *error, forRequest string) func(string) string {
	repl := caddy.NewReplacer()
	return func(text string) string {
		parts := []string{text}
		if forRequest != "" {
			parts = strings.Split(text, forRequest)
		}
		for i, part := range parts {
			var err error
			if parts[i], err = repl.ReplaceOrErr(part, true, true); err != nil && *failed == nil {
				*failed = placeholderError(err)
				if at, ok := writtenAt.Get(text); ok {
					*failed = fmt.Errorf("%w, at %s", *failed, at)
				}
			}
		}
		return strings.Join(parts, forRequest)
	}
}

// withStrings returns a deep copy of a value, with f of each string in place of it. The keys of maps stay.
func withStrings(v reflect.Value, f func(string) string) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.String:
		out.SetString(f(v.String()))
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(withStrings(v.Elem(), f))
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		}
		for i := range v.Len() {
			out.Index(i).Set(withStrings(v.Index(i), f))
		}
	case reflect.Map:
		if !v.IsNil() {
			out.Set(reflect.MakeMap(v.Type()))
		}
		for _, key := range v.MapKeys() {
			out.SetMapIndex(key, withStrings(v.MapIndex(key), f))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(withStrings(v.Field(i), f))
		}
	default:
		out.Set(v)
	}
	return out
}

// namedPlaceholder matches the placeholders that an error may name. Another text that looks like one may be a
// piece of a secret.
var namedPlaceholder = regexp.MustCompile(`\{(env|file|http)\.([^{}]*)\}`)

// placeholderError makes an error of the replacer's, whose own text may hold a piece of a secret.
func placeholderError(err error) error {
	match := namedPlaceholder.FindStringSubmatch(err.Error())
	switch {
	case match == nil:
		return errors.New("unknown or empty placeholder; write {env.NAME} for an environment variable, " +
			`and \{ for a literal brace`)
	case match[1] == "http":
		return fmt.Errorf("%s is known only while a request is served", match[0])
	case match[1] == "file":
		return fmt.Errorf("%s cannot be read, or is empty", match[0])
	}
	if _, ok := os.LookupEnv(match[2]); ok {
		return fmt.Errorf("%s is empty", match[0])
	}
	return fmt.Errorf("%s is not set", match[0])
}
