package aventusauth

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSecurityNamesTests: each promise of SECURITY.md is proven by tests, and each of
// those that it names is there.
func TestSecurityNamesTests(t *testing.T) {
	sources := make(map[string]string) // of the tests in a folder
	promises, last := 0, 0
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| \*\*.*\| (.*) \|$`).FindAllStringSubmatch(
		readFile(t, "SECURITY.md"), -1) {
		number, _ := strconv.Atoi(row[1])
		if promises++; number <= last {
			t.Errorf("promise %s stands after promise %d", row[1], last)
		}
		last = number
		names := regexp.MustCompile("`((?:[a-z0-9/]+\\.)?)((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(row[2], -1)
		if len(names) == 0 || len(names) != strings.Count(row[2], "`")/2 {
			t.Errorf("promise %s names no test, or something else: %s", row[1], row[2])
		}
		for _, name := range names {
			folder := filepath.Clean(strings.TrimSuffix(name[1], "."))
			if _, ok := sources[folder]; !ok {
				files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
				if err != nil {
					t.Fatal(err)
				}
				for _, file := range files {
					sources[folder] += readFile(t, file)
				}
			}
			if !strings.Contains(sources[folder], "\nfunc "+name[2]+"(") {
				t.Errorf("promise %s names %s%s, which is not there", row[1], name[1], name[2])
			}
		}
	}
	if promises != 39 {
		t.Errorf("%d promises, want 39", promises)
	}
}
