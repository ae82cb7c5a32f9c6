package storagetest_test

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/conformance"
	"github.com/aventus-platform/caddy-aventus-auth/internal/enginetest"
	"github.com/aventus-platform/caddy-aventus-auth/storagetest"
)

// TestFiles: certmagic's own storage passes, and nothing is left in it.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	open := func() certmagic.Storage { return &certmagic.FileStorage{Path: dir} }
	storagetest.Test(t, open)
	keys, err := open().List(t.Context(), "", true)
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == "locks" || key == "" })
	if err != nil || len(keys) > 0 {
		t.Errorf("it left %q, %v", keys, err)
	}
}

// TestKinds: each way in which engines differ is found, with what does not work, and what serves all the same
// is not said to fail. Nothing is left.
func TestKinds(t *testing.T) {
	const (
		exclude = "of several that take a lock at once, one gets it"
		waits   = "a lock that is held is waited for, and got when it is released"
		listing = "a listing shows what was stored"
	)
	kinds := map[string][]string{ // what fails that something depends on
		"as certmagic asks": nil, "wraps fs.ErrNotExist": nil, "separates by backslashes": nil,
		"ignores the prefix and adds its own": nil, "ignores the prefix": nil, "shares its bucket": nil,
		"refuses recursive listings": {waits}, "compares the prefix as text": nil, "never lists recursively": nil,
		"shows no folders, and nothing of one without its slash": nil, "lists recursively whatever is asked": nil,
		"refuses recursive listings and shows folders": nil, "refuses listings that are not recursive": nil,
		"shows folders with a slash": nil, "lists the folder itself": nil, "begins keys with a slash": nil,
	}
	for name := range enginetest.Kinds {
		if _, ok := kinds[name]; !ok {
			t.Errorf("%s is not tried", name)
		}
	}
	further := map[string]enginetest.Kind{
		"locks freely": {Lock: enginetest.Free}, "caches": {Caches: true}, "small": {MaxSize: 64 << 10},
		"blind": {List: func([]string, string, bool) ([]string, error) { return nil, nil }},
		"deaf":  {Lock: enginetest.Deaf}, "says another thing": {Missing: errOther, DeleteMissing: errOther},
	}
	kinds["locks freely"] = []string{exclude, waits, "a lock ends its waiting with its context"}
	kinds["caches"] = []string{"what one instance has stored or deleted, another sees at once",
		"a value that was stored can be loaded"}
	kinds["small"] = []string{"a value of 128 KiB can be stored"}
	kinds["blind"] = []string{listing}
	kinds["deaf"] = []string{"a lock ends its waiting with its context"}
	kinds["says another thing"] = []string{"loading a missing key fails with fs.ErrNotExist"}
	var wait sync.WaitGroup // t.Parallel runs no more than a few at a time, and all of them wait for locks
	for name, want := range kinds {
		wait.Go(func() {
			kind, ok := enginetest.Kinds[name]
			if !ok {
				kind = further[name]
			}
			data := enginetest.New()
			var got []string
			for _, fault := range storagetest.Faults(t.Context(), data.Open(kind), data.Open(kind)) {
				if fault.Without != "" {
					got = append(got, fault.Check)
					t.Log(name + ": " + fault.Check + ": " + fault.Err.Error())
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: it fails at\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if left := data.Keys(); len(left) > 0 {
				t.Errorf("%s: it left %q", name, left)
			}
		})
	}
	wait.Wait()
}

// TestLeftOut: docs/clusters.md lists the checks that the doctor does not make, and no others.
func TestLeftOut(t *testing.T) {
	file, err := os.ReadFile("../docs/clusters.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(file), "the doctor leaves them out, since a storage that fails them serves:\n\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var want []string
	for _, check := range conformance.Checks {
		if check.Without == "" {
			want = append(want, "- "+check.Name)
		}
	}
	if list != strings.Join(want, "\n") {
		t.Errorf("docs/clusters.md has\n%s\nwant\n%s", list, strings.Join(want, "\n"))
	}
}

type otherError struct{}

func (otherError) Error() string { return "no rows in result set" }

var errOther = otherError{}
