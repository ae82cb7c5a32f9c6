package aventusauth

import (
	"slices"
	"testing"
)

// TestVisitsThatRenew: only a visit in a tab can go through the authorization server and come back.
func TestVisitsThatRenew(t *testing.T) {
	p := newParts(t)
	visit := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}
	// As a service worker passes a visit on.
	passedOn := []string{
		"Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "empty", "Accept", "text/html",
		"Upgrade-Insecure-Requests", "1",
	}
	with := func(headers []string, name, value string) []string {
		headers = slices.Clone(headers)
		for i := 0; i < len(headers); i += 2 {
			if headers[i] == name {
				headers[i+1] = value
				return headers
			}
		}
		return append(headers, name, value)
	}
	for what, c := range map[string]struct {
		method  string
		headers []string
		want    bool
	}{
		"a visit":                        {"GET", visit, true},
		"one without a destination":      {"GET", visit[:2], true},
		"one by a service worker":        {"GET", passedOn, true},
		"a HEAD":                         {"HEAD", visit, false},
		"a form":                         {"POST", visit, false},
		"a frame":                        {"GET", with(visit, "Sec-Fetch-Dest", "iframe"), false},
		"a frame by a service worker":    {"GET", with(passedOn, "Sec-Fetch-Dest", "iframe"), false},
		"an embed":                       {"GET", with(visit, "Sec-Fetch-Dest", "embed"), false},
		"a destination without its mode": {"GET", with(visit, "Sec-Fetch-Dest", "empty"), false},
		"a script's":                     {"GET", with(passedOn, "X-Requested-With", "x"), false},
		"a fetch":                        {"GET", with(visit, "Sec-Fetch-Mode", "cors"), false},
		"a ping":                         {"GET", with(visit, "Ping-To", "https://example.com/"), false},
		"a WebSocket":                    {"GET", with(visit, "Upgrade", "websocket"), false},
		"a browser's without the mode":   {"GET", visit[4:], false},
		"one that is fetched ahead":      {"GET", with(visit, "Sec-Purpose", "prefetch"), false},
	} {
		if got := mayRenewByVisit(p.request(c.method, "/page", c.headers...)); got != c.want {
			t.Errorf("%s: %t, want %t", what, got, c.want)
		}
	}
}
