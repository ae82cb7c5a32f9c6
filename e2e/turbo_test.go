package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// npmInstall returns a copy of a folder with what its lock file names.
func npmInstall(t *testing.T, folder string) string {
	t.Helper()
	npm, dir := program(t, "npm", "apt-get install -y npm"), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	install := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("installing what %s needs: %v\n%s", folder, err, out)
	}
	return dir
}

// TestBrowserTurbo: Turbo (https://turbo.hotwired.dev) fetches pages by a script and shows what
// it gets, error pages too. When the session has ended meanwhile, a click on a link of such a site
// is a page visit all the same, and so runs the login, and what fails behind it is shown as a page.
func TestBrowserTurbo(t *testing.T) {
	e := newExample(t, "")
	turbo := filepath.Join(npmInstall(t, "turbo"), "node_modules/@hotwired/turbo/dist/turbo.es2017-umd.js")
	listener, err := net.Listen("tcp", e.app)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /app/turbo.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, turbo) })
	mux.HandleFunc("GET /app/{page}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><script src="/app/turbo.js"></script><h1>This is %s</h1>
<a href="/app/one">Page one</a> <a href="/app/two">Page two</a> <a href="/nothing">No page</a>`, r.PathValue("page"))
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	b := newChromium(t)
	b.visit(e.site + "/app/one")
	b.click("Ada Lovelace")
	b.click("Allow")
	b.sees("This is one")
	b.evaluate("window.kept = 'kept'; ''")
	b.click("Page two")
	b.sees("This is two")
	if b.evaluate("window.kept || 'lost'") != "kept" {
		t.Fatal("Turbo does not work: the page was loaded anew")
	}

	// In another tab, the person signs out of the site, but not of the sign-in server.
	other := b.another()
	other.visit(e.site + "/logout")
	other.sees("You are signed out")
	b.click("Page one")
	b.sees("This is one")
	b.isAt(e.site + "/app/one")

	b.click("No page")
	b.sees("There is no such page", "Error 404")
	b.click("Go to the start page")
	b.sees("the start page")
}
