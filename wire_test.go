package aventusauth

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// request is a request as it goes over the wire. Nothing on its way checks it,
// completes it, or puts it in order: clients that do are no attackers.
type request struct {
	method   string   // GET if empty
	target   string   // / if empty
	host     string   // in Host or :authority; the site's if empty
	headers  []string // names and values in turn
	body     string
	trailers []string // after the body, which is in chunks then
}

// withCookie returns the request with a Cookie header more.
func (r request) withCookie(cookie string) request {
	r.headers = append([]string{"Cookie", cookie}, r.headers...)
	return r
}

func (w *world) complete(r request) request {
	if r.method == "" {
		r.method = "GET"
	}
	if r.target == "" {
		r.target = "/"
	}
	if r.host == "" {
		_, r.host, _ = strings.Cut(w.site, "://")
	}
	// A browser's page visit, unless it says otherwise.
	if !slices.ContainsFunc(r.headers, func(s string) bool { return s == "Accept" || s == "Sec-Fetch-Mode" }) {
		r.headers = append(slices.Clip(r.headers), "Accept", "text/html,*/*;q=0.8")
	}
	return r
}

// http1 sends a request over HTTP/1.1.
func (w *world) http1(r request) answer {
	w.t.Helper()
	r = w.complete(r)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.target, r.host)
	lines := func(pairs []string) {
		for i := 0; i < len(pairs); i += 2 {
			fmt.Fprintf(&b, "%s: %s\r\n", pairs[i], pairs[i+1])
		}
	}
	lines(r.headers)
	b.WriteString("Connection: close\r\n")
	switch {
	case r.trailers != nil:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n", len(r.body), r.body)
		lines(r.trailers)
		b.WriteString("\r\n")
	case r.body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(r.body), r.body)
	default:
		b.WriteString("\r\n")
	}
	return w.raw(b.String())
}

// http2 sends a request over HTTP/2.
func (w *world) http2(r request) answer {
	w.t.Helper()
	r = w.complete(r)
	scheme, _, _ := strings.Cut(w.site, "://")
	return w.frames([]string{":method", r.method, ":scheme", scheme, ":authority", r.host, ":path", r.target}, r)
}

// frames sends a request over HTTP/2 whose pseudo-header fields are those given.
// The status of a request that was refused as malformed (RFC 9113, section 8.1.1),
// and so has no answer, is 0.
func (w *world) frames(pseudo []string, r request) answer {
	w.t.Helper()
	conn, err := tls.Dial("tcp", "localhost:"+w.port, &tls.Config{
		InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"h2"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	encoder := hpack.NewEncoder(&block)
	write := func(end bool, pairs ...string) {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			// Names are in lower case here (section 8.2.1); what begins with a capital
			// on purpose is in no test of both versions.
			_ = encoder.WriteField(hpack.HeaderField{Name: strings.ToLower(pairs[i]), Value: pairs[i+1]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true,
		})
	}
	_ = framer.WriteSettings()
	write(r.body == "" && r.trailers == nil, append(pseudo, r.headers...)...)
	if r.body != "" {
		_ = framer.WriteData(1, r.trailers == nil, []byte(r.body))
	}
	if r.trailers != nil {
		write(true, r.trailers...)
	}
	if _, err := conn.Write(out.Bytes()); err != nil {
		w.t.Fatal(err)
	}

	got := answer{Response: &http.Response{
		Header: http.Header{}, Request: &http.Request{Method: r.method, URL: &url.URL{Path: r.target}},
	}}
	for {
		frame, err := framer.ReadFrame()
		if err == io.EOF {
			return got
		}
		if err != nil {
			w.t.Fatalf("reading the answer to %+v: %v", r, err)
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status >= "200" {
				got.StatusCode, _ = strconv.Atoi(status)
			}
			for _, field := range f.RegularFields() {
				got.Header.Add(field.Name, field.Value)
			}
		case *http2.DataFrame:
			got.body += string(f.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return got
		}
		if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return got
		}
	}
}

// overEach runs a test of a world with https over each version of HTTP. (HTTP/3 is
// in e2e.)
func (w *world) overEach(test func(t *testing.T, send func(request) answer)) {
	outer := w.t
	outer.Helper()
	defer func() { w.t = outer }()
	for version, send := range map[string]func(request) answer{"HTTP/1.1": w.http1, "HTTP/2": w.http2} {
		outer.Run(version, func(t *testing.T) {
			w.t = t
			test(t, send)
		})
	}
}

// raw sends bytes as they are, and returns the answer.
func (w *world) raw(request string) answer {
	w.t.Helper()
	isFirst := w.isFirst(&w.met)
	a, err := w.tryRaw(request)
	if err != nil && isFirst && strings.HasPrefix(request, "GET ") {
		poll(time.Second, func() bool { // as browser.do does
			a, err = w.tryRaw(request)
			return err == nil
		})
	}
	if err != nil {
		w.t.Fatalf("sending %q: %v", request, err)
	}
	w.hear(a)
	return a
}

func (w *world) tryRaw(request string) (a answer, err error) {
	conn, err := net.Dial("tcp", "localhost:"+w.port)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if strings.HasPrefix(w.site, "https") {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return a, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body)
	resp.Request = &http.Request{Method: "raw", URL: &url.URL{Path: strings.SplitN(request, "\r\n", 2)[0]}}
	return answer{resp, body.String()}, nil
}

// dialLocalhost connects every name to this machine, as browsers do with names
// below localhost.
func dialLocalhost(port string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasSuffix(addr, ".localhost:"+port) {
			addr = "localhost:" + port
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}
