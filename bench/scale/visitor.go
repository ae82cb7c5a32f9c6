package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	sessionCookie = "aventus_session"
	loginCookie   = "aventus_login"

	// atOnce is how many visitors there are at a time, where their number and not
	// their patience is measured.
	atOnce = 16
)

// wire carries all requests of visitors. It keeps its connections, and follows no
// redirect.
var wire = &http.Transport{MaxIdleConnsPerHost: 2 * atOnce}

// answer is what a visitor was answered.
type answer struct {
	status   int
	to       string // where it redirects to
	cookie   string // the first that was set, as "name=value"
	body     string
	took     time.Duration
	finished time.Time
}

// visit asks for a page as a browser does.
func visit(ctx context.Context, url, cookie string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	began := time.Now()
	resp, err := wire.RoundTrip(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, to: resp.Header.Get("Location"), body: string(body), finished: time.Now()}
	a.took = a.finished.Sub(began)
	a.cookie, _, _ = strings.Cut(resp.Header.Get("Set-Cookie"), ";")
	return a, err
}

// login logs a new visitor in, and returns the session's cookie, how long the site
// took for the redirect and the callback together, and when that was over.
func login(ctx context.Context, addr string) (cookie string, took time.Duration, over time.Time, err error) {
	to, cookie := "http://"+addr+"/", ""
	for _, step := range []struct {
		name, cookie string
		status       int
		atSite       bool
	}{
		{"the page", loginCookie, http.StatusFound, true},
		{"the sign-in", "", http.StatusFound, false},
		{"the callback", sessionCookie, http.StatusSeeOther, true},
	} {
		a, err := visit(ctx, to, cookie)
		if err != nil {
			return "", 0, over, err
		}
		if a.status != step.status || !strings.HasPrefix(a.cookie, step.cookie) {
			return "", 0, over, fmt.Errorf("%s: answered %d, and the cookie %q: %s", step.name, a.status,
				a.cookie, a.body)
		}
		if step.atSite {
			took, cookie, over = took+a.took, a.cookie, a.finished
		}
		to = a.to
	}
	return cookie, took, over, nil
}

// logins logs n visitors in, and returns their cookies and how long it all took.
func logins(ctx context.Context, addr string, n int) ([]string, time.Duration, error) {
	cookies := make([]string, n)
	began := time.Now()
	err := each(ctx, n, atOnce, func(i int) (err error) {
		cookies[i], _, _, err = login(ctx, addr)
		return err
	})
	return cookies, time.Since(began), err
}

// enter asks for the site with a session, which has to be let in.
func enter(ctx context.Context, addr, cookie string) (time.Duration, error) {
	a, err := visit(ctx, "http://"+addr+"/", cookie)
	if err == nil && (a.status != http.StatusOK || a.body != subject) {
		err = fmt.Errorf("a session was answered %d %s", a.status, a.body)
	}
	return a.took, err
}

// each calls f for every number below n, by so many goroutines, until one fails.
func each(ctx context.Context, n, goroutines int, f func(int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wait sync.WaitGroup
	for range goroutines {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}
