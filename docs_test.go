package aventusauth

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestFieldDocs: Caddy's site renders the comments of the config's fields as the
// module's JSON documentation. Each field has one, which says what holds without it,
// and its JSON name is its own, in Caddy's spelling.
func TestFieldDocs(t *testing.T) {
	var decls []ast.Decl
	for _, name := range []string{"module.go", "config.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		decls = append(decls, file.Decls...)
	}
	documented := 0
	for _, decl := range decls {
		types, ok := decl.(*ast.GenDecl)
		if !ok || types.Tok != token.TYPE {
			continue
		}
		for _, spec := range types.Specs {
			spec := spec.(*ast.TypeSpec)
			fields, ok := spec.Type.(*ast.StructType)
			if !ok || !spec.Name.IsExported() {
				continue
			}
			if !strings.HasPrefix(types.Doc.Text(), spec.Name.Name+" ") {
				t.Errorf("the comment of %s does not begin with its name", spec.Name)
			}
			for _, field := range fields.Fields.List {
				if len(field.Names) == 0 || !field.Names[0].IsExported() { // Config, embedded, has fields of its own
					continue
				}
				documented++
				name := spec.Name.Name + "." + field.Names[0].Name
				if doc := field.Doc.Text(); !strings.Contains(strings.Join(strings.Fields(doc), " "), "Default: ") &&
					!strings.Contains(doc, "Required.") {
					t.Errorf("%s has neither a default nor is it required: %q", name, doc)
				}
				tag := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json")
				key, _, omits := strings.Cut(tag, ",omit")
				if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(key) || !omits {
					t.Errorf("%s is %q in JSON", name, tag)
				}
			}
		}
	}
	if documented < 30 {
		t.Errorf("only %d fields were found", documented)
	}
}

// TestLogLines: docs/operating.md names each line of the log.
func TestLogLines(t *testing.T) {
	_, table, _ := strings.Cut(readFile(t, "docs/operating.md"), "\n## Logs\n")
	table, _, _ = strings.Cut(table, "\n## ")
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, line := range regexp.MustCompile(`logger\.(Info|Warn|Error)\("([^"]+)"`).FindAllStringSubmatch(
			readFile(t, file), -1) {
			found++
			if !strings.Contains(table, "| "+strings.ToUpper(line[1])+" | `"+line[2]+"` |") {
				t.Errorf("%s: there is no %s %q in the table", file, line[1], line[2])
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d lines were found", found)
	}
}
