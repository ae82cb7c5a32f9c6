package aventusauth

import (
	"slices"
	"strings"
	"testing"
)

// TestDoctorMetadata: the doctor sees whether API clients find out where to sign in.
func TestDoctorMetadata(t *testing.T) {
	block := func(matcher, further string) string {
		return "aventus_auth " + matcher + " {\nclient_id one\nclient_secret s\n" +
			"redirect_uri https://site.example.com/oauth2/callback\naudience a\n" + further + "\n}\n"
	}
	site := func(body string) string { return "https://site.example.com {\n" + body + "\n}\n" }
	const takes = "accept_bearer"
	runs := newAtOnce()
	for _, tc := range []struct{ what, config, want string }{
		{"no API clients", site(block("", "") + "file_server"), ""},
		{"everything", site(block("", takes) + "file_server"),
			"pass site.example.com: /.well-known/oauth-protected-resource comes to aventus_auth"},
		{"a folder", site(block("/api/*", takes) + "file_server"), "pass site.example.com: "},
		{"a block for people before it", site("route {\n" + block("", "") + block("/api/*", takes) + "}"),
			"warn site.example.com: another aventus_auth (client_id one) answers at /.well-known/"},
		{"a block for people", site(block("", "") + block("/api/*", takes)), "pass site.example.com: "},
		{"a handle", site("handle /api/* {\n" + block("", takes) + "}"),
			"warn site.example.com: nothing answers at /.well-known/oauth-protected-resource, where API clients " +
				"look for where" +
				" to sign in next: take aventus_auth out of the handle or route that leaves this path out"},
		{"files before it", site("handle /api/* {\n" + block("", takes) + "}\nfile_server"),
			"warn site.example.com: file_server answers at /.well-known/"},
		{"by address", site("@x remote_ip 10.0.0.0/8\nhandle @x {\nfile_server\n}\n" + block("", takes) + "\n"),
			"pass site.example.com: "},
	} {
		runs.Go(func() {
			var said []string
			for _, b := range examine(t, tc.config, "HTTPS_PROXY=http://127.0.0.1:1").Blocks {
				for _, c := range b.Checks {
					if c["check"] == "metadata" {
						said = append(said, c["status"]+" "+c["target"]+": "+c["detail"]+" next: "+c["next"])
					}
				}
			}
			begins := func(line string) bool { return strings.HasPrefix(line, tc.want) }
			if tc.want == "" && len(said) > 0 || tc.want != "" &&
				(len(said) != 1 || !slices.ContainsFunc(said, begins)) {
				t.Errorf("%s: %q, want %q", tc.what, said, tc.want)
			}
		})
	}
	runs.Wait()
}
