package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"
)

// upstream is the app behind the site, a resource server in OAuth's terms: it knows
// nothing of the login, and reads the user from the bearer token of each request.
type upstream struct {
	issuer   string
	audience string
}

func (u *upstream) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /app/me", u.serveMe)
	mux.HandleFunc("GET /app/headers", serveHeaders)
	mux.HandleFunc("GET /app/{$}", servePage)
	return mux
}

// serveMe answers with the user of a token that it verified itself.
func (u *upstream) serveMe(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		http.Error(w, "no bearer token", http.StatusUnauthorized)
		return
	}
	claims, err := u.verify(token)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	writeJSON(w, map[string]string{
		"sub":    claims.Sub,
		"name":   claims.Name,
		"issuer": claims.Iss,
	})
}

// serveHeaders answers the headers of the request. No real app should hand a
// page's script the token; that this one shows it is the point of the demo.
func serveHeaders(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, headersOf(r))
}

// servePage shows the same as a page.
func servePage(w http.ResponseWriter, r *http.Request) {
	headers := headersOf(r)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'")
	w.Header().Set("Cache-Control", "no-store")
	_ = headersPage.Execute(w, map[string]any{"Headers": headers, "Names": slices.Sorted(maps.Keys(headers))})
}

var headersPage = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Headers at the upstream</title>
<link rel="icon" href="/icon.svg">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<main>
<section class="card">
<h1>What the app was sent</h1>
<table>
{{range $name := .Names}}{{range index $.Headers $name}}<tr{{if eq $name "Authorization"}} class="token"{{end}}><th scope="row">{{$name}}</th><td>{{.}}</td></tr>
{{end}}{{end}}</table>
<p><a href="/">Back to the site</a></p>
</section>
</main>
</body>
</html>
`))

// headersOf returns a request's headers, with the host, which Go keeps in another field.
func headersOf(r *http.Request) http.Header {
	headers := r.Header.Clone()
	headers.Set("Host", r.Host)
	return headers
}

type claims struct {
	Iss  string
	Aud  any // a string or an array of them
	Exp  int64
	Sub  string
	Name string
}

// verify verifies a token, as an app must unless only the proxy can reach it, and
// returns its claims. A real app leaves this to a library, which also caches the
// issuer's keys.
func (u *upstream) verify(token string) (*claims, error) {
	resp, err := http.Get(u.issuer + ".well-known/jwks.json")
	if err != nil {
		return nil, fmt.Errorf("fetching the issuer's keys: %w", err)
	}
	defer resp.Body.Close()
	var set struct{ Keys []struct{ Kid, N, E string } }
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		return nil, fmt.Errorf("reading the issuer's keys: %w", err)
	}

	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("the token is no JWT")
	}
	var header struct{ Alg, Kid string }
	var c claims
	if json.Unmarshal(decode(parts[0]), &header) != nil || json.Unmarshal(decode(parts[1]), &c) != nil ||
		header.Alg != "RS256" {
		return nil, errors.New("the token cannot be read")
	}
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, k := range set.Keys {
		key := &rsa.PublicKey{
			N: new(big.Int).SetBytes(decode(k.N)), E: int(new(big.Int).SetBytes(decode(k.E)).Int64()),
		}
		if k.Kid != header.Kid || rsa.VerifyPKCS1v15(key, crypto.SHA256, hash[:], decode(parts[2])) != nil {
			continue
		}
		forUs := c.Aud == u.audience
		if list, ok := c.Aud.([]any); ok {
			forUs = slices.Contains(list, any(u.audience))
		}
		if c.Iss != u.issuer || !forUs || time.Now().Unix() >= c.Exp {
			return nil, errors.New("the token is of another issuer, for another app, or expired")
		}
		return &c, nil
	}
	return nil, errors.New("the token's signature is not the issuer's")
}

// decode decodes base64. For invalid input, it returns nil, which matches nothing.
func decode(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v)
}
