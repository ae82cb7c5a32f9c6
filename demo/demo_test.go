package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// Whatever port is taken, the demo says so before anything has started, and
// says what to do.
func TestPortTaken(t *testing.T) {
	var ports []int
	for range 3 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	for i, flag := range []string{"-port", "-issuer-port", "-upstream-port"} {
		args := []string{"-port=0", "-issuer-port=0", "-upstream-port=0"}
		args[i] = fmt.Sprintf("%s=%d", flag, ports[i])
		var out strings.Builder
		err := run(t.Context(), args, &out)
		want := fmt.Sprintf("port %d is taken; choose another with %s", ports[i], flag)
		if err == nil || err.Error() != want || out.Len() != 0 {
			t.Errorf("%s: error %v, output %q; want %q", flag, err, &out, want)
		}
	}
}

func TestUpstream(t *testing.T) {
	issuer := &aventustest.Server{}
	server := httptest.NewServer(issuer)
	defer server.Close()
	issuer.Issuer = server.URL + "/"
	app := (&upstream{issuer: issuer.Issuer, audience: "the app"}).handler()

	token := func(change map[string]any) string {
		claims := map[string]any{
			"iss": issuer.Issuer, "aud": []string{"the app", "another"}, "exp": time.Now().Add(time.Hour).Unix(),
			"sub": "auth0|ada", "name": "Ada", "email": "ada@example.com",
		}
		for name, value := range change {
			claims[name] = value
		}
		return "Bearer " + issuer.SignJWT(claims)
	}
	good := token(nil)
	for _, tc := range []struct {
		name, path, authorization string
		status                    int
		holds                     string
	}{
		{"a good token", "/app/me", good, 200, `"sub":"auth0|ada"`},
		{"one audience", "/app/me", token(map[string]any{"aud": "the app"}), 200, `"name":"Ada"`},
		{"no token", "/app/me", "", 401, ""},
		{"no JWT", "/app/me", "Bearer x", 401, ""},
		{"cut off", "/app/me", good[:len(good)-4], 401, ""},
		{"another issuer", "/app/me", token(map[string]any{"iss": "https://evil.test/"}), 401, ""},
		{"another app", "/app/me", token(map[string]any{"aud": "another"}), 401, ""},
		{"expired", "/app/me", token(map[string]any{"exp": 1}), 401, ""},
		{"headers", "/app/headers", good, 200, `"Authorization":["` + good},
		{"page", "/app/", "Bearer <b>", 200, "Bearer &lt;b&gt;"},
	} {
		r := httptest.NewRequest(http.MethodGet, tc.path, nil)
		if tc.authorization != "" {
			r.Header.Set("Authorization", tc.authorization)
		}
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Body)
		if w.Code != tc.status || !strings.Contains(string(body), tc.holds) {
			t.Errorf("%s: status %d, body %s", tc.name, w.Code, body)
		}
	}
}
