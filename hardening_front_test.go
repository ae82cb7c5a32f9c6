package aventusauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestInterceptInFront: an intercept in front of the block answers in place of the
// handlers behind it, by the path that was asked for. It gets none of our own answers,
// or who was refused would get the protected file from it.
func TestInterceptInFront(t *testing.T) {
	for name, front := range map[string]string{
		"files":          "intercept {\nhandle_response {\nfile_server\n}\n}",
		"files for some": "intercept {\n@e status 2xx 3xx 4xx 5xx\nhandle_response @e {\nfile_server\n}\n}",
		"the app":        "intercept {\nhandle_response {\nreverse_proxy %app\n}\n}",
		"another status": "intercept {\nreplace_status 200\n}",
		"two": "route {\nintercept {\nhandle_response {\nfile_server\n}\n}\nintercept " +
			"{\nhandle_response {\nerror 404\n}\n}\n%rest\n}",
		"two, and the app": "route {\nintercept {\nhandle_response {\nreverse_proxy %app\n}\n}\ntemplates\n%rest\n}",
		"inside encode": "header -X-None\nencode gzip {\nminimum_length 1\n}\nintercept {\nhandle_response " +
			"{\nfile_server\n}\n}",
		"outside encode": "route {\nintercept {\nhandle_response {\nfile_server\n}\n}\nheader -X-None\nencode " +
			"gzip {\nminimum_length 1\n}\n%rest\n}",
		"templates": "templates {\nmime text/plain text/html\n}",
		"after an answer": "route {\nintercept {\nhandle_response {\n%rest\n}\n}\n" +
			"respond \"the protected bytes\"\n}",
		"after an app's": "route {\nintercept {\nhandle_response {\nfile_server\n}\n}\nreverse_proxy %app " +
			"{\nhandle_response {\n%rest\n}\n}\n}",
		"around a subroute": "intercept {\nhandle_response {\nroute {\nfile_server\n}\n}\n}\nhandle {\nroute " +
			"{\n%rest\n}\n}",
	} {
		for _, https := range []bool{false, true} {
			if https && strings.HasPrefix(name, "two") {
				continue // the answer is there, but HTTP/2 has it end in an error
			}
			t.Run(fmt.Sprintf("%s, https %v", name, https), func(t *testing.T) {
				dir := errorFiles(t)
				w := newWorld(t, setup{https: https, global: "metrics", sites: func(w *world) string {
					block := w.directive("", "logout /logout\nprofile /me")
					site := front
					if !strings.Contains(site, "%rest") {
						site += "\nhandle {\n%rest\n}"
					}
					site = strings.NewReplacer("%rest", block+"\nfile_server", "%app", w.app).Replace(site)
					return fmt.Sprintf("%s {\nlog\nroot %s\n%s\nhandle_errors {\nfile_server\n}\n}\n"+
						"http://127.0.0.1:%s {\nmetrics\n}", w.site, dir, site, freePort(t))
				}})
				w.requests()
				anonymous := w.browser()
				var logged []string
				for _, request := range []struct {
					method, target string
					headers        []string
					status         int
					want           string
				}{
					{"GET", "/secret.txt", []string{"Accept", "application/json"}, http.StatusUnauthorized, signIn},
					{"HEAD", "/secret.txt", []string{"Accept", "application/json"}, http.StatusUnauthorized, ""},
					{"POST", "/secret.txt", []string{"Accept", "application/json"}, http.StatusUnauthorized, signIn},
					{"GET", "/secret.txt", []string{"Accept", "text/html"}, http.StatusFound, "Found\n"},
					{"HEAD", "/secret.txt", []string{"Accept", "text/html"}, http.StatusFound, ""},
					{"GET", "/secret.txt", []string{"Accept", "text/html", "Sec-Purpose", "prefetch"},
						http.StatusUnauthorized, signIn},
					{"GET", "/oauth2/callback?state=x&code=y", nil, http.StatusBadRequest, notHere},
					{"DELETE", "/logout", nil, http.StatusMethodNotAllowed, errMethod.description + "\n"},
					{"GET", "/me", nil, http.StatusUnauthorized, signIn},
					{"GET", "/logout?forget", nil, http.StatusNoContent, ""},
				} {
					a := anonymous.do(request.method, request.target, request.headers...)
					if a.StatusCode != request.status || a.body != request.want ||
						a.Header.Get("Cache-Control") != "no-store" {
						t.Errorf("%s %s: answered %d %q, %v", request.method, request.target, a.StatusCode,
							a.body, a.Header)
					}
					if request.want != "" {
						logged = append(logged,
							fmt.Sprintf(`"size":%d,"status":%d`, len(request.want), request.status))
					}
				}
				if a := anonymous.get("/logout"); a.StatusCode != http.StatusOK ||
					!strings.Contains(a.body, "You are signed out") {
					t.Errorf("the logout: answered %d %q", a.StatusCode, a.body)
				}
				if !https {
					a := w.raw("CONNECT /secret.txt HTTP/1.1\r\nHost: localhost:" + w.port +
						"\r\nConnection: close\r\n\r\n")
					if a.StatusCode != http.StatusMethodNotAllowed || strings.Contains(a.body, protectedBytes) {
						t.Errorf("CONNECT: answered %d %q", a.StatusCode, a.body)
					}
				}
				if seen := w.requests(); len(seen) != 0 && name != "after an app's" {
					t.Errorf("the app was asked for %s", seen[0].URL)
				}
				for _, line := range logged {
					// A line is written when the answer has been sent.
					if !poll(5*time.Second, func() bool { return strings.Contains(w.log(), line) }) {
						t.Errorf("the access log has no %s", line)
					}
				}
				b := w.browser()
				b.login("/index.html")
				if a := b.get("/me"); a.StatusCode != http.StatusOK || !strings.Contains(a.body, `"sub":"auth0|ada"`) {
					t.Errorf("the profile: answered %d %q", a.StatusCode, a.body)
				}
			})
		}
	}
}
