#!/usr/bin/env bash
# Tool:      quic-go v0.63.0 (http3) beside HTTP/2 of Go's net/http
# Guess:     A write deadline that passes while a handler waits has the same effect over
#            HTTP/2 and HTTP/3: the handler and the ResponseController call are the same.
# Behaviour: Over HTTP/2 the deadline is a timer that resets the stream, so the
#            request's context ends although nothing is written. Over HTTP/3 (and
#            HTTP/1.1) only the next write checks it, so a handler that waits for its
#            context, such as an event stream, keeps waiting.
# Output seen:
# > HTTP/1.1: context ended false, next write fails true
# > HTTP/2.0: context ended true, next write fails true
# > HTTP/3.0: context ended false, next write fails true
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed -n 's/^# > //p' "$0" >"$tmp/want"
cd "$tmp"

cat >main.go <<'EOF'
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/quic-go/quic-go/http3"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	line := make(chan string, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		must(c.Flush())
		must(c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)))
		ended := false
		select {
		case <-r.Context().Done():
			ended = true
		case <-time.After(3 * time.Second):
		}
		_, err := w.Write(bytes.Repeat([]byte("x"), 1<<16))
		if err == nil {
			err = c.Flush()
		}
		line <- fmt.Sprintf("%s: context ended %v, next write fails %v", r.Proto, ended, err != nil)
	})
	get := func(rt http.RoundTripper, url string) {
		res, err := (&http.Client{Transport: rt}).Get(url)
		must(err)
		fmt.Println(<-line)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}

	h1 := httptest.NewServer(handler)
	get(http.DefaultTransport, h1.URL)

	h2 := httptest.NewUnstartedServer(handler)
	h2.EnableHTTP2 = true
	h2.StartTLS()
	get(h2.Client().Transport, h2.URL)

	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(err)
	h3 := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{
		Certificates: h2.TLS.Certificates})}
	go h3.Serve(conn)
	get(&http3.Transport{TLSClientConfig: h2.Client().Transport.(*http.Transport).TLSClientConfig.Clone()},
		"https://"+conn.LocalAddr().String())
}
EOF
go mod init finding >log 2>&1
go get github.com/quic-go/quic-go/http3@v0.63.0 >>log 2>&1 || { cat log >&2; exit 1; }
go run . 2>log | tee got || { cat log >&2; exit 1; }
diff want got
