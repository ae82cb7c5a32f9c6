package aventusauth

import (
	"slices"
	"strings"
	"testing"
)

// TestDoctorProtects: the doctor says of each block what it protects, warns of a path that is protected without
// what is below it, and finds what answers before the block.
func TestDoctorProtects(t *testing.T) {
	block := func(matcher, further string) string {
		return "aventus_auth " + matcher + " {\nclient_id one\nclient_secret s\n" +
			"redirect_uri https://site.example.com/oauth2/callback\n" + further + "\n}\n"
	}
	site := func(body string) string { return "https://site.example.com {\n" + body + "\n}\n" }
	runs := newAtOnce()
	for _, tc := range []struct{ what, config, want string }{
		{"everything", site(block("", "") + "file_server"), "pass site.example.com: every path"},
		{"a folder", site(block("/admin/*", "") + "file_server"), "pass site.example.com: /admin/*"},
		{"all but a folder", site("@x not path /public/* /robots.txt\n" + block("@x", "") + "file_server"),
			"pass site.example.com: all but /public/* /robots.txt"},
		{"by address", site("@x {\nnot remote_ip 10.0.0.0/8\npath /a* /b*\n}\n" + block("@x", "") + "file_server"),
			"pass site.example.com: /a* /b* and all but what the matcher remote_ip takes"},
		{"within a handle", site("handle /admin/* {\n" + block("", "") + "file_server\n}\nhandle {\nfile_server\n}"),
			"pass site.example.com: every path, within /admin/*"},
		{"nobody", site(block("", "unauthenticated pass") + "file_server"),
			"pass site.example.com: every path; who has no session passes all the same"},
		{"a landing page before it", site("handle / {\nfile_server\n}\nhandle {\n" + block("", "") + "file_server\n}"),
			"pass site.example.com: every path"},

		{"a page without what is below it", site(block("/admin", "") + "file_server"),
			"warn site.example.com: /admin; what is below /admin/ is open to everybody" +
				" next: to protect it as well, have the matcher take /admin and /admin/*"},
		{"the same with a final slash", site(block("/admin/", "") + "reverse_proxy localhost:1"),
			"warn site.example.com: /admin/; what is below /admin/ is open to everybody"},
		{"a page, with what is below it", site("@x path /admin /admin/*\n" + block("@x", "") + "file_server"),
			"pass site.example.com: /admin /admin/*"},
		{"a page, with what is below it in another block",
			site(block("/admin", "") + block("/admin/*", "") + "file_server"),
			"pass site.example.com: /admin"},
		{"a folder without its own name", site(block("/admin/*", "") + "reverse_proxy localhost:1"),
			"warn site.example.com: /admin/*; /admin, without a slash, is open to everybody" +
				" next: to protect it as well, have the matcher take /admin and /admin/*"},
		{"a folder whose own name is for nobody",
			site("handle /admin/* {\n" + block("/admin/*", "") + "reverse_proxy localhost:1\n}"),
			"pass site.example.com: /admin/*, within /admin/*"},
		{"a folder whose own name is another handle's", site("handle /admin/* {\n" + block("/admin/*", "") +
			"reverse_proxy localhost:1\n}\nhandle {\nreverse_proxy localhost:2\n}"),
			"pass site.example.com: /admin/*, within /admin/*"},
		{"a page in a handle of its own", site("handle /admin {\n" + block("/admin", "") +
			"reverse_proxy localhost:1\n}\nhandle {\nreverse_proxy localhost:2\n}"),
			"pass site.example.com: /admin, within /admin"},
		{"a folder whose own name leads into it",
			site("redir /admin /admin/\n" + block("/admin/*", "") + "reverse_proxy localhost:1"),
			"pass site.example.com: /admin/*"},
		{"a folder and a site around it", site(block("/admin/*", "") + block("", "") + "reverse_proxy localhost:1"),
			"pass site.example.com: /admin/*"},
		{"all folders", site(block("/*", "") + "reverse_proxy localhost:1"), "pass site.example.com: /*"},
		{"a file", site(block("/report.pdf", "") + "file_server"), "pass site.example.com: /report.pdf"},
		{"a page with nothing below it", site("handle /admin {\n" + block("/admin", "") + "file_server\n}"),
			"pass site.example.com: /admin, within /admin"},

		{"a block with accept_bearer and one without",
			site(block("", "audience a") + block("/api/*", "audience a\naccept_bearer") + "file_server"),
			"warn site.example.com: /api/*; API clients meet another aventus_auth there (client_id one), without " +
				"accept_bearer, and get 401 next: give each block that a request meets accept_bearer, or keep these " +
				"paths out of the other's matcher"},
		{"the same in handles that part them",
			site("handle /api/* {\n" + block("", "audience a\naccept_bearer") + "file_server\n}\n" +
				"handle {\n" + block("", "audience a") + "file_server\n}"),
			"pass site.example.com: every path, within /api/*"},

		{"a wrong order", "{\norder aventus_auth last\n}\n" + site(block("", "")+"file_server"),
			"fail site.example.com: every path, but file_server answers first: it is open to everybody" +
				" next: put aventus_auth before it, or, if that is what the global option order does, " +
				"take that option out"},
		{"a wrong order, for a folder", site("route {\nreverse_proxy localhost:1\n" + block("/admin/*", "") + "}"),
			"fail site.example.com: /admin/*, but reverse_proxy answers first"},
		{"a wrong order in a named route",
			"&(g) {\nroute {\nfile_server\n" + block("", "") + "}\n}\n" + site("invoke g"),
			"fail site.example.com: every path, but file_server answers first"},
		{"a wrong order at a host by a placeholder", "http://{env.SITE} {\nroute {\nfile_server\n" + block("", "") +
			"}\n}", "fail site.example.com: every path, but file_server answers first"},
		{"a wrong order in a handle", site("handle /admin/* {\nroute {\nfile_server\n" + block("", "") + "}\n}"),
			"fail site.example.com: every path, within /admin/*, but file_server answers first"},
	} {
		runs.Go(func() {
			var said []string
			for _, b := range examine(t, tc.config, "HTTPS_PROXY=http://127.0.0.1:1", "SITE=site.example.com").Blocks {
				for _, c := range b.Checks {
					if c["check"] == "protects" {
						said = append(said, strings.TrimSuffix(
							c["status"]+" "+c["target"]+": "+c["detail"]+" next: "+c["next"], " next: "))
					}
				}
			}
			// A line without what to do next is the beginning of one that has it.
			isOne := func(line string) bool {
				return line == tc.want || !strings.HasPrefix(tc.want, "pass") && strings.HasPrefix(line, tc.want)
			}
			if !slices.ContainsFunc(said, isOne) {
				t.Errorf("%s: %q, want %q", tc.what, said, tc.want)
			}
		})
	}
	runs.Wait()
}

// TestDoctorCookies: blocks of one host that overwrite each other's sessions are named, and no others.
func TestDoctorCookies(t *testing.T) {
	const site, two = "https://a.example.com", "client_id two\nclient_secret s\n"
	block := func(lines string) string {
		return "aventus_auth {\nredirect_uri https://a.example.com/cb\n" + lines + "\n}\n"
	}
	one := block("client_id one\nclient_secret s")
	for what, c := range map[string]struct {
		config string
		warns  bool
	}{
		"two clients":        {site + " {\n" + one + block(two) + "}", true},
		"two audiences":      {site + " {\n" + one + block("client_id one\nclient_secret s\naudience x") + "}", true},
		"at two ports":       {site + " {\n" + one + "}\n" + site + ":8443 {\n" + block(two) + "}", true},
		"in a wildcard site": {site + " {\n" + one + "}\nhttps://*.example.com {\n" + block(two) + "}", false},
		"two names":          {site + " {\n" + one + block(two+"session {\nname two\n}") + "}", false},
		"two hosts":          {site + " {\n" + one + "}\nhttps://b.example.com {\n" + block(two) + "}", false},
		"alike":              {site + " {\n" + one + block("client_id one\nclient_secret s\nlogout /x") + "}", false},
	} {
		r := doctorOf(t, c.config, "HTTPS_PROXY=http://127.0.0.1:1")
		got := r.line("cookie")
		const want = "WARN cookie a.example.com: __Host-aventus_session is also the cookie of another " +
			"aventus_auth here"
		if c.warns != strings.HasPrefix(got, want) || !c.warns && got != "" {
			t.Errorf("%s: it says %q\n%s%s", what, got, r.stdout, r.stderr)
		}
	}
}
