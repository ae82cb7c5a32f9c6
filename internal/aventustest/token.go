package aventustest

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// tokenParams are the only parameters that the token endpoint takes, for each
// grant type that there is.
var tokenParams = map[string][]string{
	"authorization_code": {"grant_type", "client_id", "client_secret", "code", "redirect_uri", "code_verifier"},
	"refresh_token":      {"grant_type", "client_id", "client_secret", "refresh_token", "scope"},
}

// https://www.rfc-editor.org/rfc/rfc7636#section-4.1
var verifierFormat = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// tokenError is an error answer of the token endpoint, or of the revocation.
type tokenError struct {
	status      int
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// serveToken records a token request, lets a test interfere, and answers it.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	body, params, err := s.readParams(r)
	s.mu.Lock()
	s.tokenRequests = record(s.tokenRequests, TokenRequest{
		Method:      r.Method,
		Header:      r.Header.Clone(),
		ContentType: r.Header.Get("Content-Type"),
		Body:        body,
		Params:      params,
	})
	if code := s.codes.items[params["code"]]; code != nil {
		if code.sent {
			s.codesReused++
		}
		code.sent = true
	}
	token := s.refreshTokens.items[params["refresh_token"]]
	replayed := token != nil && token.used
	s.mu.Unlock()

	if s.TokenFault != nil && s.TokenFault(w, r) {
		if replayed {
			s.mu.Lock()
			s.refreshReused++
			s.mu.Unlock()
		}
		return
	}
	var answer map[string]any
	if err == nil {
		answer, err = s.answerToken(r, params)
	}
	if err != nil {
		err.write(w)
		return
	}
	if s.EditAnswer != nil {
		s.EditAnswer(params["grant_type"], answer)
	}
	writeJSON(w, http.StatusOK, answer)
}

func (e *tokenError) write(w http.ResponseWriter) {
	if e.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	writeJSON(w, e.status, e)
}

// readParams reads the body of a request that comes from a client itself, and
// the parameters in it if they are in order.
func (s *Server) readParams(r *http.Request) ([]byte, map[string]string, *tokenError) {
	body, whole := readBody(r)
	if !whole {
		return body, nil, &tokenError{
			http.StatusRequestEntityTooLarge, "invalid_request", "The body is too long or did not arrive.",
		}
	}
	params, err := s.parse(r, body)
	return body, params, err
}

// parse checks the outside of such a request, and parses its body.
func (s *Server) parse(r *http.Request, body []byte) (map[string]string, *tokenError) {
	if r.Method != http.MethodPost {
		return nil, &tokenError{http.StatusMethodNotAllowed, "invalid_request", "This endpoint takes POST only."}
	}
	if r.URL.RawQuery != "" {
		// A query ends up in logs, and holds secrets here.
		return nil, &tokenError{http.StatusBadRequest, "invalid_request", "This endpoint takes no query."}
	}
	want, parse := "application/json", parseJSON
	if s.Form {
		want, parse = "application/x-www-form-urlencoded", parseForm
	}
	types := r.Header.Values("Content-Type")
	if len(types) != 1 {
		return nil, &tokenError{
			http.StatusUnsupportedMediaType, "invalid_request", "The Content-Type must be given exactly once.",
		}
	}
	mediaType, options, err := mime.ParseMediaType(types[0])
	charset, hasCharset := options["charset"]
	if err != nil || mediaType != want || (hasCharset && !strings.EqualFold(charset, "utf-8")) {
		return nil, &tokenError{http.StatusUnsupportedMediaType, "invalid_request", "The body must be " + want + "."}
	}
	params, err := parse(body)
	if err != nil {
		return nil, &tokenError{
			http.StatusBadRequest, "invalid_request", "The body cannot be read: " + err.Error() + ".",
		}
	}
	return params, nil
}

// answerToken answers a token request that could be parsed.
func (s *Server) answerToken(r *http.Request, params map[string]string) (map[string]any, *tokenError) {
	grantType := params["grant_type"]
	if known, ok := tokenParams[grantType]; ok {
		if refused := onlyKnown(params, known); refused != nil {
			return nil, refused
		}
	}
	client, refused := s.authenticate(r, params)
	if refused != nil {
		return nil, refused
	}
	switch grantType {
	case "authorization_code":
		return s.exchange(client, params)
	case "refresh_token":
		return s.refresh(client, params)
	case "":
		return nil, &tokenError{http.StatusBadRequest, "invalid_request", "Missing required parameter: grant_type"}
	default:
		return nil, &tokenError{http.StatusForbidden, "unsupported_grant_type", "Unsupported grant type: " + grantType}
	}
}

func onlyKnown(params map[string]string, known []string) *tokenError {
	for name := range params {
		if !slices.Contains(known, name) {
			return &tokenError{http.StatusBadRequest, "invalid_request", "Unknown parameter: " + name}
		}
	}
	return nil
}

// exchange answers a code with the tokens that it stands for.
func (s *Server) exchange(client Client, params map[string]string) (map[string]any, *tokenError) {
	for _, name := range []string{"code", "redirect_uri"} {
		if params[name] == "" {
			return nil, &tokenError{http.StatusBadRequest, "invalid_request", "Missing required parameter: " + name}
		}
	}

	code := s.redeem(params["code"], client)
	if code == nil {
		return nil, &tokenError{http.StatusForbidden, "invalid_grant", "Invalid authorization code"}
	}
	if sent, expected := params["redirect_uri"], code.params.Get("redirect_uri"); sent != expected {
		// Auth0 puts both URLs into this text, so a client had better not show it.
		return nil, &tokenError{
			http.StatusForbidden, "unauthorized_client",
			fmt.Sprintf("The redirect URI is wrong. You sent %s, and we expected %s", sent, expected),
		}
	}
	verifier := params["code_verifier"]
	hash := sha256.Sum256([]byte(verifier))
	if !verifierFormat.MatchString(verifier) ||
		base64.RawURLEncoding.EncodeToString(hash[:]) != code.params.Get("code_challenge") {
		return nil, &tokenError{http.StatusForbidden, "invalid_grant", "Failed to verify code verifier"}
	}

	audience := code.params.Get("audience")
	if refused := client.mayAsk(audience); refused != nil {
		return nil, refused
	}
	asked := strings.Fields(code.params.Get("scope"))
	granted := slices.DeleteFunc(slices.Clone(asked),
		func(scope string) bool { return !s.grants(client, scope, audience) })
	g := &grant{
		user:     code.user,
		client:   client,
		audience: audience,
		asked:    asked,
		granted:  granted,
		began:    s.now(),
		session:  code.session,
		about:    make(map[string]any),
	}
	if organization := code.params.Get("organization"); strings.HasPrefix(organization, "org_") {
		g.about["org_id"] = organization
	} else if organization != "" {
		g.about["org_id"], g.about["org_name"] = "org_of_"+organization, strings.ToLower(organization)
	}
	if code.params.Has("max_age") {
		g.about["auth_time"] = code.authed.Unix()
	}
	if !s.NoSID {
		g.about["sid"] = code.session.sid
	}
	if s.SessionExpiry > 0 {
		g.about["session_expiry"] = code.authed.Add(s.SessionExpiry).Unix()
	}
	answer := s.tokens(g, g.asked, g.granted, code.params.Get("nonce"))
	if !s.NoRefresh && slices.Contains(g.granted, "offline_access") {
		answer["refresh_token"] = s.newRefreshToken(g)
	}
	return answer, nil
}

// tokens is what both grant types answer.
func (s *Server) tokens(g *grant, asked, granted []string, nonce string) map[string]any {
	answer := map[string]any{
		"access_token": s.accessToken(g, granted),
		"token_type":   "Bearer",
		"expires_in":   int(s.tokenLifetime().Seconds()),
	}
	if !slices.Equal(asked, granted) {
		answer["scope"] = strings.Join(granted, " ")
	}
	if !s.NoIDToken && slices.Contains(granted, "openid") {
		answer["id_token"] = s.idToken(g, nonce)
	}
	return answer
}

// authenticate finds out which client is asking. It does not tell an unknown
// client from a wrong secret.
func (s *Server) authenticate(r *http.Request, params map[string]string) (Client, *tokenError) {
	id, secret := params["client_id"], params["client_secret"]
	_, inBody := params["client_secret"]
	inHeader := len(r.Header.Values("Authorization")) > 0
	if inBody == s.Basic || inHeader != s.Basic {
		how := "the body"
		if s.Basic {
			how = "HTTP Basic"
		}
		return Client{}, &tokenError{
			http.StatusUnauthorized, "access_denied", "The client's secret must come in " + how +
				", and nowhere else.",
		}
	}
	unauthorized := &tokenError{http.StatusUnauthorized, "access_denied", "Unauthorized"}
	if s.Basic {
		// Both halves are form-encoded before they are put together, so that
		// a colon in an id does no harm:
		// https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1
		escapedID, escapedSecret, ok := r.BasicAuth()
		basicID, err1 := url.QueryUnescape(escapedID)
		basicSecret, err2 := url.QueryUnescape(escapedSecret)
		if !ok || len(r.Header.Values("Authorization")) != 1 || err1 != nil || err2 != nil ||
			(id != "" && id != basicID) {
			return Client{}, unauthorized
		}
		id, secret = basicID, basicSecret
	}
	client, ok := s.client(id)
	if !ok || subtle.ConstantTimeCompare([]byte(client.Secret), []byte(secret)) != 1 {
		return Client{}, unauthorized
	}
	return client, nil
}

// redeem returns what a code stands for, the first time that its own client
// presents it, and nil ever after, whatever becomes of the request.
func (s *Server) redeem(value string, client Client) *code {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes.items[value]
	if c == nil || c.params.Get("client_id") != client.ID || c.used {
		return nil
	}
	c.used = true
	if now.Sub(c.issued) > codeLifetime {
		return nil
	}
	return c
}

func (s *Server) grants(client Client, scope, audience string) bool {
	if isThirdParty(client.ID) && slices.Contains([]string{"openid", "profile", "email"}, scope) {
		return false
	}
	if scope == "offline_access" && !s.NoRefresh {
		return audience != ""
	}
	if len(s.Scopes) > 0 {
		return slices.Contains(s.Scopes, scope)
	}
	return scope != "offline_access"
}

func (s *Server) tokenLifetime() time.Duration {
	if s.TokenLifetime > 0 {
		return s.TokenLifetime
	}
	return 24 * time.Hour
}

// parseJSON parses one flat object of strings. A decoder into a struct or a map
// would let unknown, doubled and differently spelled names pass.
func parseJSON(body []byte) (map[string]string, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	params := make(map[string]string)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errors.New("it is not well-formed JSON")
		}
		value, err := d.Token()
		if err != nil {
			return nil, errors.New("it is not well-formed JSON")
		}
		text, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("%s is no string", name)
		}
		if _, ok := params[name.(string)]; ok {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		params[name.(string)] = text
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is not well-formed JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return params, nil
}

func parseForm(body []byte) (map[string]string, error) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("it is no well-formed form")
	}
	params := make(map[string]string)
	for name, value := range values {
		if len(value) != 1 {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		params[name] = value[0]
	}
	return params, nil
}
