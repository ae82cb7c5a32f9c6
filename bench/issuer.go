package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// tokenSizes are the lengths of access tokens. Each has an issuer.
var tokenSizes = []int{750, 1500}

// audience is the audience of all tokens.
const audience = "https://api.example.com/"

// newAuthorizationServer returns the authorization server of all contenders: the
// plugin's strict stand-in, an issuer for each size of a token. For the other contenders,
// it has features that Aventus' documentation does not promise: OpenID Connect's
// discovery and userinfo, a token endpoint that takes forms as well, and a default
// audience, as Auth0 has it, so that all tokens are JWTs of the same length.
func newAuthorizationServer(origin, secret string, redirectURIs []string) http.Handler {
	mux := http.NewServeMux()
	for _, size := range tokenSizes {
		base := "/" + strconv.Itoa(size) + "/"
		mux.Handle(base, &issuer{base: base, standIn: &aventustest.Server{
			Issuer:     origin + base,
			Clients:    []aventustest.Client{{ID: "bench", Secret: secret, RedirectURIs: redirectURIs}},
			AutoSignIn: aventustest.DefaultUsers[0].Sub,
			TokenChars: size,
		}})
	}
	return mux
}

type issuer struct {
	base    string
	standIn *aventustest.Server
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch strings.TrimPrefix(r.URL.Path, i.base) {
	case ".well-known/openid-configuration":
		i.serveDiscovery(w)
		return
	case "userinfo":
		serveUserinfo(w, r)
		return
	case "authorize":
		query := r.URL.Query()
		// oauth2-proxy sends it, from before OpenID Connect; servers ignore it.
		query.Del("approval_prompt")
		if !query.Has("audience") {
			query.Set("audience", audience)
		}
		r.URL.RawQuery = query.Encode()
	case "oauth/token":
		if err := toAventus(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	i.standIn.ServeHTTP(w, r)
}

// serveDiscovery answers with the server's metadata:
// https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata
func (i *issuer) serveDiscovery(w http.ResponseWriter) {
	issuer := i.standIn.Issuer
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"issuer":                                issuer,
		"authorization_endpoint":                issuer + "authorize",
		"token_endpoint":                        issuer + "oauth/token",
		"userinfo_endpoint":                     issuer + "userinfo",
		"jwks_uri":                              issuer + ".well-known/jwks.json",
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"code_challenge_methods_supported":      []string{"S256"},
	})
}

// serveUserinfo answers with the claims of the token that it gets. It does not verify the
// signature: that would add to the cost of the load, and there is no attacker here.
func serveUserinfo(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.Header.Get("Authorization"), ".")
	if len(parts) != 3 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(claims)
}

// toAventus converts a token request in a form to the one that Aventus takes: JSON, with the
// client's secret in it. A request in JSON stays unchanged.
func toAventus(r *http.Request) error {
	if r.Header.Get("Content-Type") == "application/json" {
		return nil
	}
	if err := r.ParseForm(); err != nil {
		return err
	}
	params := make(map[string]string)
	for name := range r.PostForm {
		params[name] = r.PostForm.Get(name)
	}
	if id, secret, ok := r.BasicAuth(); ok {
		var err error
		if params["client_id"], err = url.QueryUnescape(id); err != nil {
			return err
		}
		if params["client_secret"], err = url.QueryUnescape(secret); err != nil {
			return err
		}
		r.Header.Del("Authorization")
	}
	delete(params, "state") // caddy-security sends it; servers ignore it
	body, err := json.Marshal(params)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	return nil
}

// newApp returns the app behind those contenders that pass requests on. It answers with
// the page, and a header that names the request header with a JWT. At the bare server there
// is no JWT, but its answers must have as many headers as the others'.
func newApp(page []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if strings.HasPrefix(strings.TrimPrefix(values[0], "Bearer "), "eyJ") {
				w.Header().Add("Token-In", name)
			}
		}
		if len(w.Header()) == 0 {
			w.Header().Set("Token-In", "none")
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Length", fmt.Sprint(len(page)))
		_, _ = w.Write(page)
	})
}
