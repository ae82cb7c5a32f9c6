package aventusauth

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// TestSeveralBindingCookies: a login is found to be of this browser by any of the binding cookies that it sends.
func TestSeveralBindingCookies(t *testing.T) {
	w := newWorld(t, setup{})
	other := w.browser()
	other.begin("/")
	b := w.browser()
	callback := b.begin("/page")
	a := b.do("GET", callback, "Cookie", other.cookieHeader(), "Sec-Fetch-Mode", "navigate")
	w.expect(a, http.StatusSeeOther)
	w.expectTokenRequests(1)
}

// TestTenTabs: ten logins at once in one browser end in any order, and nothing
// piles up in its cookies.
func TestTenTabs(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	var callbacks []string
	for i := range 10 {
		callbacks = append(callbacks, b.begin(fmt.Sprintf("/tab/%d", i)))
		if n := len(b.cookies()); n != 1 {
			t.Fatalf("%d cookies after %d logins begun", n, i+1)
		}
	}
	for _, i := range []int{9, 0, 5, 1, 8, 2, 7, 3, 6, 4} {
		a := b.get(callbacks[i])
		w.expect(a, http.StatusSeeOther)
		if want := fmt.Sprintf("%s/tab/%d", w.site, i); a.location() != want {
			t.Errorf("went back to %s, want %s", a.location(), want)
		}
	}
	if n := len(b.cookies()); n != 2 {
		t.Errorf("%d cookies in the end: %v", n, b.cookies())
	}
	w.expectTokenRequests(10)
}

// TestTenTabsAtOnce opens ten tabs in a fresh browser at the same moment: each gets
// a binding cookie of its own, and the last one stays. The first to finish signs all
// of them in.
func TestTenTabsAtOnce(t *testing.T) {
	w := newWorld(t, setup{})
	b := w.browser()
	var started [10]answer
	for i := range started {
		started[i] = w.browser().get(fmt.Sprintf("/tab/%d", i)) // no cookie yet
	}
	u, _ := url.Parse(w.site)
	b.client.Jar.SetCookies(u, started[9].Cookies())
	for _, i := range []int{9, 0, 5, 1, 8, 2, 7, 3, 6, 4} {
		a := b.get(b.get(started[i].location()).location())
		w.expect(a, http.StatusSeeOther)
		if want := fmt.Sprintf("%s/tab/%d", w.site, i); a.location() != want {
			t.Errorf("went back to %s, want %s", a.location(), want)
		}
	}
	w.expectTokenRequests(1)
}
