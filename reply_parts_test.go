package aventusauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
)

// TestFailureTakesBackTheCookie: what fails when the session's cookie is set already goes to the error routes without
// it, since they may have caches keep their answer. Other cookies stay.
func TestFailureTakesBackTheCookie(t *testing.T) {
	p := newParts(t)
	w := httptest.NewRecorder()
	w.Header().Add("Set-Cookie", "theme=dark")
	p.cookies.set(w, p.cookies.session, "sealed", time.Hour)
	err := p.answers.fail(w, p.request("GET", "/"), errStorage, nil)
	if lines := w.Header()["Set-Cookie"]; err == nil || len(lines) != 1 || lines[0] != "theme=dark" {
		t.Errorf("the error routes' answer sets %q, error %v", lines, err)
	}
}

// TestLevelsInTheLog: what the operator has to mend is an error in the log, and a warning if it only keeps a person
// out. What a client can cause at will is neither.
func TestLevelsInTheLog(t *testing.T) {
	advised := fmt.Errorf("reading a token: %w", aventus.ErrToken)
	for _, c := range []struct {
		message string
		status  int
		cause   error
		want    zapcore.Level
	}{
		{errStorage.code, errStorage.status, advised, zapcore.ErrorLevel},
		{errDenied.code, errDenied.status, errOver, zapcore.WarnLevel},
		{errDenied.code, errDenied.status, errors.New("the person said no"), zapcore.InfoLevel},
		{"a logout token was refused", http.StatusBadRequest, advised, zapcore.InfoLevel},
	} {
		p := newParts(t)
		core, logged := observer.New(zapcore.DebugLevel)
		p.answers.logger = zap.New(core)
		p.answers.note(p.request("GET", "/"), c.message, c.status, c.cause)
		if all := logged.All(); len(all) != 1 || all[0].Level != c.want || all[0].Message != c.message {
			t.Errorf("%s, %v: %v, want it at level %s", c.message, c.cause, all, c.want)
		}
	}
}

// TestAnswers: every way in which the module answers is no-store, tells visitors apart and gives its URL to no
// other page; and nothing of a cause is shown.
func TestAnswers(t *testing.T) {
	secret := errors.New("a cause with a secret")
	for what, answer := range map[string]func(a *answers, w http.ResponseWriter, r *http.Request) error{
		"redirect": func(a *answers, w http.ResponseWriter, _ *http.Request) error {
			return a.redirect(w, "https://auth.example.com/", http.StatusFound)
		},
		"plain": func(a *answers, w http.ResponseWriter, _ *http.Request) error { return a.plain(w, 403, "No.") },
		"json": func(a *answers, w http.ResponseWriter, _ *http.Request) error {
			return a.json(w, 200, []byte("{}"))
		},
		"empty": func(a *answers, w http.ResponseWriter, _ *http.Request) error { return a.empty(w, 204) },
		"page": func(a *answers, w http.ResponseWriter, _ *http.Request) error {
			return a.page(w, "'none'", "<title>x</title>", "<p>x</p>")
		},
		"form": func(a *answers, w http.ResponseWriter, _ *http.Request) error {
			return a.sendForm(w, `https://auth.example.com/?"><script>`, "")
		},
		"failure": func(a *answers, w http.ResponseWriter, r *http.Request) error {
			return a.fail(w, r, errStorage, secret)
		},
		"refusal": func(a *answers, w http.ResponseWriter, r *http.Request) error {
			return a.refuse(w, r, &refusal{failure: errRenewal, cause: secret})
		},
	} {
		p := newParts(t)
		w := httptest.NewRecorder()
		w.Header().Set("CDN-Cache-Control", "max-age=60")
		err := answer(p.answers, w, p.request("GET", "/"))
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Vary": "Cookie", "Referrer-Policy": "no-referrer", "Cdn-Cache-Control": "",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", what, name, got, want)
			}
		}
		if shown := fmt.Sprint(w.Body, w.Header(), err); strings.Contains(shown, "secret") ||
			strings.Contains(shown, `"><script>`) {
			t.Errorf("%s: shows %s", what, shown)
		}
	}
}
