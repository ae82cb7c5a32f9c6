package aventusauth

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// logLine is a line of the log, as far as it is looked at.
type logLine struct {
	Level, Logger, Msg, Error, Advice string
}

// said returns what the module has logged behind the first bytes of the log, as text
// and line by line. Logins and logouts are left out.
func (w *world) said(behind int) (text string, lines []logLine) {
	w.t.Helper()
	text = w.log()[behind:]
	for line := range strings.SplitSeq(text, "\n") {
		var l logLine
		if json.Unmarshal([]byte(line), &l) == nil && l.Logger == "http.handlers.aventus_auth" && l.Level != "info" {
			lines = append(lines, l)
		}
	}
	return text, lines
}

// expectSaid waits for the one line that the module has logged behind the first bytes
// of the log, and looks for what may not be in it.
func (w *world) expectSaid(behind int, level, msg, why, do string) {
	w.t.Helper()
	await(w.t, "a line in the log", func() bool {
		_, lines := w.said(behind)
		return len(lines) > 0
	})
	text, lines := w.said(behind)
	if len(lines) != 1 || lines[0].Level != level || lines[0].Msg != msg {
		w.t.Errorf("the log says %+v, want %s %s", lines, level, msg)
	}
	if !strings.Contains(lines[0].Error, why) || !strings.Contains(lines[0].Advice, do) {
		w.t.Errorf("the log says %q, %q\nwant          %q, and %q", lines[0].Error, lines[0].Advice, why, do)
	}
	if len(lines[0].Error) > 1000 ||
		strings.ContainsFunc(lines[0].Error, func(r rune) bool { return r < ' ' || r > '~' }) {
		w.t.Errorf("not fit for a log: %q", lines[0].Error)
	}
	// Caddy's own lines hold the callback's URL, code and all; nobody's hold these.
	requests := w.issuer.TokenRequests()
	sent := requests[len(requests)-1].Params
	for what, secret := range map[string]string{
		"the client's secret": testSecret, "the code verifier": sent["code_verifier"],
		"the refresh token":  sent["refresh_token"],
		"the server's token": w.hostileToken(),
	} {
		if secret != "" && strings.Contains(text, secret) {
			w.t.Errorf("the log holds %s", what)
		}
	}
	for _, revoked := range w.issuer.Revoked() {
		if strings.Contains(text, revoked) {
			w.t.Error("the log holds a refresh token that was revoked")
		}
	}
	if code := sent["code"]; code != "" && strings.Contains(fmt.Sprint(lines), code) {
		w.t.Errorf("the module's line holds the code: %+v", lines)
	}
}

// expectCutOff checks what was taken of 10 GB. A client without a bound takes seven
// megabytes until its ten seconds are over.
func expectCutOff(t *testing.T, written *atomic.Int64) {
	t.Helper()
	if n := written.Load(); n < 1<<20 || n > 4<<20 {
		t.Errorf("of 10 GB, %d bytes were taken", n)
	}
}
