package aventusauth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// source is the production code of this package, with its types.
type source struct {
	fset  *token.FileSet
	files []*ast.File
	info  *types.Info
}

// fileOf returns the name of the file of a position.
func (s *source) fileOf(pos token.Pos) string { return filepath.Base(s.fset.Position(pos).Filename) }

// readSource reads the code once, with the compiled packages that it imports.
var readSource = sync.OnceValues(func() (*source, error) {
	list, err := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", ".").Output()
	if err != nil {
		return nil, err
	}
	exports := make(map[string]string)
	for dec := json.NewDecoder(bytes.NewReader(list)); dec.More(); {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); err != nil {
			return nil, err
		}
		exports[p.ImportPath] = p.Export
	}
	s := &source{fset: token.NewFileSet(), info: &types.Info{Uses: make(map[*ast.Ident]types.Object)}}
	names, err := filepath.Glob("*.go")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(s.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, file)
	}
	open := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	config := types.Config{Importer: importer.ForCompiler(s.fset, "gc", open)}
	_, err = config.Check("github.com/aventus-platform/caddy-aventus-auth", s.fset, s.files, s.info)
	return s, err
})

func mustReadSource(t *testing.T) *source {
	t.Helper()
	s, err := readSource()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// floors reads the table of CONTRIBUTING.md: the floor of each file of the front.
func floors(t *testing.T) map[string]int {
	t.Helper()
	found := make(map[string]int)
	for _, row := range regexp.MustCompile(`(?m)^\| (\d) \| (.*?) \|`).FindAllStringSubmatch(
		readFile(t, "CONTRIBUTING.md"), -1) {
		floor, _ := strconv.Atoi(row[1])
		for _, name := range regexp.MustCompile("`(\\w+\\.go)`").FindAllStringSubmatch(row[2], -1) {
			if _, twice := found[name[1]]; twice {
				t.Errorf("%s stands in the table twice", name[1])
			}
			found[name[1]] = floor
		}
	}
	return found
}

// TestFloors: a stage knows and calls those of its floor and below, and none above. CONTRIBUTING.md draws the
// floors, and has every file.
func TestFloors(t *testing.T) {
	s, floor := mustReadSource(t), floors(t)
	var names []string
	for _, file := range s.files {
		name := s.fileOf(file.Package)
		names = append(names, name)
		if floor[name] == 0 {
			t.Errorf("%s is on no floor", name)
		}
	}
	for name := range floor {
		if !slices.Contains(names, name) {
			t.Errorf("%s is drawn, and not there", name)
		}
	}
	arrows := make(map[string]bool)
	for id, used := range s.info.Uses {
		if used.Pkg() == nil || used.Pkg().Path() != "github.com/aventus-platform/caddy-aventus-auth" {
			continue
		}
		from, to := s.fileOf(id.Pos()), s.fileOf(used.Pos())
		if floor[from] < floor[to] {
			arrow := fmt.Sprintf("%s (floor %d) uses %s of %s (floor %d)",
				from, floor[from], used.Name(), to, floor[to])
			arrows[arrow] = true
		}
	}
	for _, arrow := range slices.Sorted(maps.Keys(arrows)) {
		t.Error(arrow)
	}
}

// TestHandlerIsSmall: Handler is what is configured and what Caddy asks of a module. What runs is made of it.
func TestHandlerIsSmall(t *testing.T) {
	s, methods := mustReadSource(t), 0
	for _, file := range s.files {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv == nil {
				continue
			}
			on := f.Recv.List[0].Type
			if star, ok := on.(*ast.StarExpr); ok {
				on = star.X
			}
			if id, ok := on.(*ast.Ident); ok && id.Name == "Handler" {
				methods++
			}
		}
	}
	if methods == 0 || methods > 12 {
		t.Errorf("Handler has %d methods", methods)
	}
	unexported := 0
	for field := range fieldsOf(reflect.TypeFor[Handler]()) {
		if !field.IsExported() {
			unexported++
		}
	}
	if unexported > 5 {
		t.Errorf("Handler has %d unexported fields", unexported)
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// TestOneWay: some things are done in one place, so that nobody has to remember what belongs to them.
func TestOneWay(t *testing.T) {
	s := mustReadSource(t)
	for _, c := range []struct {
		what  string
		uses  []string // functions, methods and variables, as go/types names them
		files []string // where they may be used
	}{
		{
			"an answer of the module's own is written by answers, which makes it no-store",
			[]string{
				"(net/http.ResponseWriter).WriteHeader", "(net/http.ResponseWriter).Write", "(io.Writer).Write",
				"io.WriteString", "io.Copy",
				"net/http.Error", "net/http.Redirect", "fmt.Fprint", "fmt.Fprintln", caddyhttpPath + ".Error",
				"(*github.com/aventus-platform/caddy-aventus-auth.answers).write",
			},
			// The next handler's answer goes by way of passage.go. Caddy's admin endpoint and its commands
			// are no answers to visitors.
			[]string{"reply.go", "passage.go", "admin.go", "command.go"},
		},
		{
			"the time is read in one place",
			[]string{"time.Now", "time.Since", "time.Until"},
			[]string{"clock.go"},
		},
		{
			"the clock is handed in, when a config is loaded",
			[]string{"github.com/aventus-platform/caddy-aventus-auth.clock"},
			[]string{"module.go", "doctor.go"},
		},
		{
			"what outlives a config has one owner",
			[]string{
				"github.com/aventus-platform/caddy-aventus-auth.sharing",
				"github.com/aventus-platform/caddy-aventus-auth.predecessors",
			},
			[]string{"shared.go"},
		},
	} {
		used := 0
		for id, object := range s.info.Uses {
			name := ""
			switch object := object.(type) {
			case *types.Func:
				name = object.FullName()
			case *types.Var:
				if object.Pkg() != nil && object.Parent() == object.Pkg().Scope() {
					name = object.Pkg().Path() + "." + object.Name()
				}
			}
			if !slices.Contains(c.uses, name) {
				continue
			}
			used++
			if file := s.fileOf(id.Pos()); !slices.Contains(c.files, file) {
				t.Errorf("%s: %s is used in %s", c.what, name, s.fset.Position(id.Pos()))
			}
		}
		if used == 0 {
			t.Errorf("%s: nothing of it was found", c.what)
		}
	}
}

const caddyhttpPath = "github.com/caddyserver/caddy/v2/modules/caddyhttp"

// TestProfileRenewsNothing: what the profile may touch is seen from its type, and no renewal is among it.
func TestProfileRenewsNothing(t *testing.T) {
	reached := make(map[reflect.Type]bool)
	var reach func(reflect.Type)
	reach = func(t reflect.Type) {
		if reached[t] || t.PkgPath() != "" && t.PkgPath() != reflect.TypeFor[profile]().PkgPath() {
			return
		}
		reached[t] = true
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			reach(t.Elem())
		case reflect.Struct:
			for field := range fieldsOf(t) {
				reach(field.Type)
			}
		}
	}
	reach(reflect.TypeFor[profile]())
	for _, never := range []reflect.Type{
		reflect.TypeFor[renewer](), reflect.TypeFor[authServer](), reflect.TypeFor[logins](),
		reflect.TypeFor[keeper](),
	} {
		if reached[never] {
			t.Errorf("the profile can reach the %s", never.Name())
		}
	}
	reads := reflect.TypeFor[sessionReader]()
	if !reached[reads] {
		t.Error("the profile reads no sessions")
	}
	var methods []string
	for i := range reads.NumMethod() {
		method := reads.Method(i)
		methods = append(methods, method.Name)
	}
	if !slices.Equal(methods, []string{"endOf", "load"}) {
		t.Errorf("the profile can do this with sessions: %q", methods)
	}
}

// TestInternalKnowsNoFront: nothing in internal/ imports the front.
func TestInternalKnowsNoFront(t *testing.T) {
	files, err := filepath.Glob("internal/*/*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range file.Imports {
			if imported.Path.Value == `"github.com/aventus-platform/caddy-aventus-auth"` {
				t.Errorf("%s imports the front", name)
			}
		}
	}
}

// TestInternalReadsNoClock: what is in internal/ is handed its clocks, as the front's stages are. The stand-ins
// of the tests have clocks of their own.
func TestInternalReadsNoClock(t *testing.T) {
	own := map[string]bool{"internal/aventustest/server.go": true, "internal/enginetest/engine.go": true}
	found := 0
	for name, source := range goFiles(t) {
		if !strings.HasPrefix(name, "internal/") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			read, ok := n.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Now", "Since", "Until"}, read.Sel.Name) {
				return true
			}
			if pkg, ok := read.X.(*ast.Ident); !ok || pkg.Name != "time" {
				return true
			}
			if found++; !own[name] {
				t.Errorf("%s reads a clock", fset.Position(read.Pos()))
			}
			return true
		})
	}
	if found == 0 {
		t.Error("no clock was found")
	}
}

// TestPackageCommentNamesFiles: the package comment leads to every file of the front, and to none that is not there.
func TestPackageCommentNamesFiles(t *testing.T) {
	comment, _, _ := strings.Cut(readFile(t, "module.go"), "\npackage ")
	named := regexp.MustCompile(`[a-z/]+\.go`).FindAllString(comment, -1)
	for name := range floors(t) {
		if name != "module.go" && !slices.Contains(named, name) {
			t.Errorf("no question leads to %s", name)
		}
	}
	for _, name := range named {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}
