package aventusauth

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// goFiles returns all Go files of the repository, also those of the modules in it.
func goFiles(t *testing.T) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		files[filepath.ToSlash(path)], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(files) < 200 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	return files
}

// TestLines: every line is shorter than 120 columns, with a tab as four, so that two files fit beside each other.
// What a raw string of several lines holds (a page, a picture) is as long as it is.
func TestLines(t *testing.T) {
	for name, source := range goFiles(t) {
		raw := rawLines(source)
		for i, line := range strings.Split(string(source), "\n") {
			if columns := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t"); columns >= 120 && !raw[i+1] {
				t.Errorf("%s:%d has %d columns", name, i+1, columns)
			}
		}
	}
}

// rawLines returns the lines of a file that a raw string of several lines stands on.
func rawLines(source []byte) map[int]bool {
	file := token.NewFileSet().AddFile("", -1, len(source))
	lines := make(map[int]bool)
	var s scanner.Scanner
	s.Init(file, source, nil, 0)
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			return lines
		}
		if further := strings.Count(literal, "\n"); tok == token.STRING && further > 0 {
			for first, i := file.Line(pos), 0; i <= further; i++ {
				lines[first+i] = true
			}
		}
	}
}

// TestNothingSleeps: no test waits for a time that its writer thought long enough. It waits for what is to
// happen, with the functions below, or its time is that of a synctest bubble. What runs in e2e are other
// processes, whose time is the machine's.
func TestNothingSleeps(t *testing.T) {
	waits := map[string]bool{"poll": true, "await": true, "awaitWaiting": true, "eventually": true}
	slept := 0
	for name, source := range goFiles(t) {
		if !strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "e2e/") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			in := ""
			if f, ok := decl.(*ast.FuncDecl); ok {
				in = f.Name.Name
			}
			body := source[fset.Position(decl.Pos()).Offset:fset.Position(decl.End()).Offset]
			if bytes.Contains(body, []byte("synctest.Test(")) ||
				in != "" && bytes.Contains(source, []byte("synctest.Test(t, "+in+")")) {
				continue
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok || call.Sel.Name != "Sleep" {
					return true
				}
				if on, ok := call.X.(*ast.Ident); !ok || on.Name != "time" {
					return true
				}
				if slept++; !waits[in] {
					t.Errorf("%s sleeps", fset.Position(call.Pos()))
				}
				return true
			})
		}
	}
	if slept == 0 {
		t.Error("nothing that waits was found")
	}
}
