package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pagePath is the path of the page, and pageType its media type.
const pagePath, pageType = "/page.html", "text/html"

// target is a page of a site, with the headers of its requests.
type target struct {
	address string
	host    string // the Host header, whatever the address is
	cookie  string
}

// headers returns the headers of a request.
func (t target) headers() []string {
	headers := []string{"Host: " + t.host, "Accept: " + pageType}
	if t.cookie != "" {
		headers = append(headers, "Cookie: "+t.cookie)
	}
	return headers
}

// ask sends the same bytes as wrk, and returns the answer, its body, and its whole length
// in bytes.
func (t target) ask() (*http.Response, []byte, int, error) {
	conn, err := net.Dial("tcp", t.address)
	if err != nil {
		return nil, nil, 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	request := "GET " + pagePath + " HTTP/1.1\r\n" + strings.Join(t.headers(), "\r\n") + "\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, nil, 0, err
	}
	var raw bytes.Buffer
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &raw)), nil)
	if err != nil {
		return nil, nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, raw.Len(), err
}

// wrkReport makes wrk print its measurements as JSON.
//
//go:embed wrk.lua
var wrkReport []byte

// requests is the result of a load of requests.
type requests struct {
	Requests int     `json:"requests"`
	Micros   float64 `json:"micros"` // the duration
	Bytes    int     `json:"bytes"`  // read
	P50      float64 `json:"p50"`    // microseconds
	P99      float64 `json:"p99"`
	Errors   struct {
		Connect int `json:"connect"`
		Read    int `json:"read"`
		Write   int `json:"write"`
		Status  int `json:"status"` // answers of 400 and above
		Timeout int `json:"timeout"`
	} `json:"errors"`
}

// parseWrk finds the report in wrk's output.
func parseWrk(out []byte) (requests, error) {
	var r requests
	_, report, found := bytes.Cut(out, []byte("\nreport "))
	if !found {
		return r, fmt.Errorf("wrk printed no report: %s", bytes.TrimSpace(out))
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return r, fmt.Errorf("wrk's report: %w", err)
	}
	return r, nil
}

// check returns an error unless all answers were the page, whose length with headers is given.
func (r requests) check(length, connections int) error {
	e := r.Errors
	if e.Connect+e.Read+e.Write+e.Status+e.Timeout != 0 {
		return fmt.Errorf("wrk met errors: %+v", e)
	}
	if r.Requests == 0 {
		return errors.New("no request was answered")
	}
	// To wrk, a redirect is as good as a page, but it has another length. At the end,
	// each connection may have read part of an answer that is not counted any more.
	// An answer's length may differ by some bytes, where it sets a cookie.
	low, high := r.Requests*length*99/100, (r.Requests+connections)*length*101/100
	if r.Bytes < low || r.Bytes > high {
		return fmt.Errorf("%d answers were %d bytes, and not %d each: they were not all the page", r.Requests,
			r.Bytes, length)
	}
	return nil
}

// wrk sends requests for a target as fast as they are answered.
func wrk(ctx context.Context, core int, script string, t target, connections int, seconds float64) (requests, error) {
	args := []string{"-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%d", int(seconds)), "--latency",
		"-s", script}
	for _, header := range t.headers() {
		args = append(args, "-H", header)
	}
	cmd := command(ctx, "wrk", append(args, "http://"+t.address+pagePath)...)
	out, err := runOn(core, cmd)
	if err != nil {
		return requests{}, err
	}
	return parseWrk(out)
}

// runOn runs a process on one core, and returns its output.
func runOn(core int, cmd *exec.Cmd) ([]byte, error) {
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := startOn(core, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("running %s: %w: %s", cmd.Args[0], err, bytes.TrimSpace(problems.Bytes()))
	}
	return out.Bytes(), nil
}

// visitor is a browser, as far as a login needs one. It shares its connections with others.
type visitor struct {
	http.Client
}

func newVisitor(pool http.RoundTripper) *visitor {
	jar, _ := cookiejar.New(nil) // never fails
	return &visitor{http.Client{Transport: pool, Jar: jar, Timeout: 20 * time.Second}}
}

// login visits the page, through all redirects, and fails unless it arrives there.
func (v *visitor) login(ctx context.Context, site string, page []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, site+pagePath, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", pageType)
	resp, err := v.Do(r)
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	if resp.StatusCode != http.StatusOK || !bytes.Equal(body, page) {
		return fmt.Errorf("logging in led to %s, %s", resp.Request.URL.Redacted(), resp.Status)
	}
	return nil
}

// cookie returns the Cookie header with which the browser asks for the page.
func (v *visitor) cookie(site string) string {
	u, err := url.Parse(site + pagePath)
	if err != nil {
		return ""
	}
	var pairs []string
	for _, c := range v.Jar.Cookies(u) {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}

// logins is the result of a load of logins.
type logins struct {
	Logins  int     `json:"logins"`
	Seconds float64 `json:"seconds"`
}

// visit has a number of browsers log in, each time with new cookies, for a given time. They
// reuse connections, as is usual behind a load balancer, so that only the login is
// measured.
func visit(ctx context.Context, site string, page []byte, browsers int, d time.Duration) (logins, error) {
	pool := &http.Transport{MaxIdleConnsPerHost: browsers}
	defer pool.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	var done atomic.Int64
	began := time.Now()
	for range browsers {
		wait.Go(func() {
			for first := true; ctx.Err() == nil && (first || time.Since(began) < d); first = false {
				if err := newVisitor(pool).login(ctx, site, page); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wait.Wait()
	return logins{int(done.Load()), time.Since(began).Seconds()}, context.Cause(ctx)
}
