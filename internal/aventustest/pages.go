package aventustest

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

//go:embed pages.html
var pagesHTML string

//go:embed pages.css
var pagesCSS string

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"css":      func() template.CSS { return template.CSS(pagesCSS) },
	"initials": initials,
	"meaning":  func(scope string) string { return scopeMeanings[scope] },
}).Parse(pagesHTML))

// styleSource lets a page have the one style sheet that is written in it.
var styleSource = func() string {
	hash := sha256.Sum256([]byte(pagesCSS))
	return "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}()

var scopeMeanings = map[string]string{
	"openid":         "Know that it is you",
	"profile":        "See your name",
	"email":          "See your e-mail address",
	"offline_access": "Stay signed in while you are away",
}

// page is what the templates are filled with.
type page struct {
	Title   string
	Message string
	Login   string // where the sign-in form is posted to
	Consent string // where the consent form is posted to
	Form    form
	Users   []User
	User    User
	Client  string
	// Audience and Scopes are what the client asks for.
	Audience string
	Scopes   []string
	// Target is the origin that the answer will go to.
	Target string
}

func (s *Server) showLogin(w http.ResponseWriter, id string, v url.Values) {
	p := s.requestPage("Sign in", v)
	p.Form = s.newForm(id, "login", v)
	p.Users = s.users()
	s.show(w, http.StatusOK, "login", p)
}

func (s *Server) showConsent(w http.ResponseWriter, id string, user User, v url.Values) {
	p := s.requestPage("Allow access?", v)
	p.Form = s.newForm(id, "consent", v)
	p.User = user
	s.show(w, http.StatusOK, "consent", p)
}

func (s *Server) showError(w http.ResponseWriter, status int, message string) {
	s.show(w, status, "error", page{Title: "This does not work", Message: message})
}

func (s *Server) requestPage(title string, v url.Values) page {
	p := page{
		Title:    title,
		Login:    s.Issuer + "login",
		Consent:  s.Issuer + "consent",
		Client:   v.Get("client_id"),
		Audience: v.Get("audience"),
		Scopes:   strings.Fields(v.Get("scope")),
	}
	if u, err := url.Parse(v.Get("redirect_uri")); err == nil {
		p.Target = origin(u)
	}
	return p
}

// show writes a page that can load nothing, run nothing and be framed by
// nobody.
func (s *Server) show(w http.ResponseWriter, status int, name string, p page) {
	var body bytes.Buffer
	if err := pages.ExecuteTemplate(&body, name, p); err != nil {
		panic(err) // a mistake in the template
	}
	// Some browsers hold the redirect that answers a form against form-action
	// too, so the application must be in it.
	actions := "'self'"
	if strings.Contains(p.Target, "[") {
		// A content security policy has no way to write an IPv6 address.
		scheme, _, _ := strings.Cut(p.Target, "//")
		actions += " " + scheme
	} else if p.Target != "" {
		actions += " " + p.Target
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+styleSource+"; form-action "+actions+
		"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w)
}

// initials returns the first letters of a name's words, two at most.
func initials(name string) string {
	var letters []rune
	for _, word := range strings.Fields(name) {
		if len(letters) < 2 {
			letters = append(letters, []rune(word)[0])
		}
	}
	return string(letters)
}
