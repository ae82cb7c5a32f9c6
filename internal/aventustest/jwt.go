package aventustest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
)

var b64 = base64.RawURLEncoding

// signingKey is the one key of all servers in the process, since making one
// takes long. Nothing that is signed with it is worth anything outside.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // not with this size and this source
	}
	return key
})

// keyID names the key in tokens and in the key set.
func keyID() string {
	hash := sha256.Sum256(signingKey().N.Bytes())
	return b64.EncodeToString(hash[:9])
}

// serveKeys answers the key set that tokens can be verified with.
func serveKeys(w http.ResponseWriter, _ *http.Request) {
	public := signingKey().PublicKey
	writeJSON(w, http.StatusOK, map[string]any{"keys": []map[string]string{{
		"kty": "RSA",
		"use": "sig",
		"alg": "RS256",
		"kid": keyID(),
		"n":   b64.EncodeToString(public.N.Bytes()),
		"e":   b64.EncodeToString(big.NewInt(int64(public.E)).Bytes()),
	}}})
}

// SignJWT returns a JWT with exactly these claims, signed with the server's
// key. It is for tests that want a token which no login would give them.
func (s *Server) SignJWT(claims map[string]any) string {
	return sign(mustMarshal(claims))
}

// accessToken makes the access token of a login. Like Auth0, it is a JWT only
// when there is an API that could read it.
func (s *Server) accessToken(user User, client Client, audience string, granted []string) string {
	if audience == "" {
		return randomText(32)
	}
	now := s.now()
	claims := map[string]any{
		"iss":   s.Issuer,
		"sub":   user.Sub,
		"aud":   audience,
		"iat":   now.Unix(),
		"exp":   now.Add(s.tokenLifetime()).Unix(),
		"azp":   client.ID,
		"scope": strings.Join(granted, " "),
		"name":  user.Name,
		"email": user.Email,
	}
	if slices.Contains(granted, "openid") {
		claims["aud"] = []string{audience, s.Issuer + "userinfo"}
	}
	if s.Claims != nil {
		maps.Copy(claims, s.Claims(user))
	}
	return sign(withID(claims, s.TokenChars))
}

// withID returns the claims as JSON, with an id that makes every token another
// even within a second, and that is so long that the token has the given number
// of characters. It is random throughout, as a real token's contents do not
// compress to nothing either.
func withID(claims map[string]any, chars int) []byte {
	const shortest, dots = 8, 2
	room := chars - len(header()) - dots - b64.EncodedLen(signingKey().Size())
	claims["jti"] = ""
	missing := room*3/4 - len(mustMarshal(claims))
	claims["jti"] = randomText(max(missing, shortest))
	return mustMarshal(claims)
}

// sign makes a JWT, RS256: https://www.rfc-editor.org/rfc/rfc7515#section-3.1
func sign(payload []byte) string {
	token := header() + "." + b64.EncodeToString(payload)
	hash := sha256.Sum256([]byte(token))
	signature, err := rsa.SignPKCS1v15(rand.Reader, signingKey(), crypto.SHA256, hash[:])
	if err != nil {
		panic(err) // not with a key of this size
	}
	return token + "." + b64.EncodeToString(signature)
}

func header() string {
	return b64.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"` + keyID() + `"}`))
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("aventustest: a claim that JSON cannot hold: " + err.Error())
	}
	return b
}
