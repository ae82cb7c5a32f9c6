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
	"time"
)

// Auth0's default. An ID token is for the moment in which it arrives.
const idTokenLifetime = 10 * time.Hour

var b64 = base64.RawURLEncoding

// signingKey is a key that tokens are signed with. Nothing that is signed with
// it is worth anything outside.
type signingKey struct {
	*rsa.PrivateKey
	id string // names it in tokens and in the key set
}

// signingKeys are the keys of all servers in the process, since making one
// takes long. Each server begins with the first.
var signingKeys struct {
	mu   sync.Mutex
	made []signingKey
}

// signingKeyAt returns the key of this number, counted from 0.
func signingKeyAt(i int) signingKey {
	signingKeys.mu.Lock()
	defer signingKeys.mu.Unlock()
	for len(signingKeys.made) <= i {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err) // not with this size and this source
		}
		hash := sha256.Sum256(key.N.Bytes())
		signingKeys.made = append(signingKeys.made, signingKey{key, b64.EncodeToString(hash[:9])})
	}
	return signingKeys.made[i]
}

// key returns the key that signs now.
func (s *Server) key() signingKey {
	s.mu.Lock()
	i := s.currentKey
	s.mu.Unlock()
	return signingKeyAt(i)
}

// RotateKey makes a new key sign from now on. The key set has the old ones as
// well, until ForgetOldKeys.
func (s *Server) RotateKey() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.currentKey++
}

// ForgetOldKeys takes all keys but the one that signs out of the key set.
func (s *Server) ForgetOldKeys() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldestKey = s.currentKey
}

// serveKeys answers the key set that tokens can be verified with.
func (s *Server) serveKeys(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.jwksRequests++
	s.mu.Unlock()
	if s.JWKSFault != nil && s.JWKSFault(w, r) {
		return
	}
	s.mu.Lock()
	oldest, current := s.oldestKey, s.currentKey
	s.mu.Unlock()
	var keys []map[string]string
	// The newest comes last: a client that always takes the first is found out.
	for i := oldest; i <= current; i++ {
		key := signingKeyAt(i)
		keys = append(keys, map[string]string{
			"kty": "RSA",
			"use": "sig",
			"alg": "RS256",
			"kid": key.id,
			"n":   b64.EncodeToString(key.N.Bytes()),
			"e":   b64.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
		})
	}
	writeJSON(w, http.StatusOK, map[string]any{"keys": keys})
}

// SignJWT returns a JWT with exactly these claims, signed with the server's
// key. It is for tests that want a token which no login would give them.
func (s *Server) SignJWT(claims map[string]any) string {
	return s.key().sign(mustMarshal(claims))
}

// signWith makes a JWT with further header parameters, or with others in place of
// its own.
func (k signingKey) signWith(header map[string]any, payload []byte) string {
	all := map[string]any{"alg": "RS256", "kid": k.id}
	maps.Copy(all, header)
	return k.signed(b64.EncodeToString(mustMarshal(all)), payload)
}

// accessToken makes the access token of a login. Like Auth0, it is a JWT only
// when there is an API that could read it.
func (s *Server) accessToken(g *grant, granted []string) string {
	user, audience := g.user, g.audience
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
		"azp":   g.client.ID,
		"scope": strings.Join(granted, " "),
		"name":  user.Name,
		"email": user.Email,
	}
	if id, ok := g.about["org_id"]; ok {
		claims["org_id"] = id
	}
	if slices.Contains(granted, "openid") {
		claims["aud"] = []string{audience, s.Issuer + "userinfo"}
	}
	if s.Claims != nil {
		maps.Copy(claims, s.Claims(user))
	}
	key := s.key()
	return key.sign(key.withID(claims, s.TokenChars))
}

// idToken makes the ID token of a login:
// https://openid.net/specs/openid-connect-core-1_0.html#IDToken
func (s *Server) idToken(g *grant, nonce string) string {
	now, user := s.now(), g.user
	claims := map[string]any{
		"iss":   s.Issuer,
		"sub":   user.Sub,
		"aud":   g.client.ID,
		"iat":   now.Unix(),
		"exp":   now.Add(idTokenLifetime).Unix(),
		"name":  user.Name,
		"email": user.Email,
	}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	maps.Copy(claims, g.about)
	if s.IDClaims != nil {
		maps.Copy(claims, s.IDClaims(user))
	}
	return s.SignJWT(claims)
}

// withID returns the claims as JSON, with an id that makes every token another
// even within a second, and that is so long that the token has the given number
// of characters. It is random throughout, as a real token's contents do not
// compress to nothing either.
func (k signingKey) withID(claims map[string]any, chars int) []byte {
	const shortest, dots = 8, 2
	room := chars - len(k.header()) - dots - b64.EncodedLen(k.Size())
	claims["jti"] = ""
	missing := room*3/4 - len(mustMarshal(claims))
	claims["jti"] = randomText(max(missing, shortest))
	return mustMarshal(claims)
}

// sign makes a JWT, RS256: https://www.rfc-editor.org/rfc/rfc7515#section-3.1
func (k signingKey) sign(payload []byte) string { return k.signed(k.header(), payload) }

// signed signs a payload under an encoded header.
func (k signingKey) signed(header string, payload []byte) string {
	token := header + "." + b64.EncodeToString(payload)
	hash := sha256.Sum256([]byte(token))
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.PrivateKey, crypto.SHA256, hash[:])
	if err != nil {
		panic(err) // not with a key of this size
	}
	return token + "." + b64.EncodeToString(signature)
}

func (k signingKey) header() string {
	return b64.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"` + k.id + `"}`))
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("aventustest: a claim that JSON cannot hold: " + err.Error())
	}
	return b
}
