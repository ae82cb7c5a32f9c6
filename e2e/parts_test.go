package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program returns the path of a program that a test needs. Without the program the test
// fails: a skipped test proves nothing.
func program(t *testing.T, name, howToGet string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; get it with: %s", err, howToGet)
	}
	return path
}

// serve starts one Caddy on a storage of its own, with a Caddyfile and further
// environment variables. When the test ends, it may not have panicked.
func serve(t *testing.T, config func(port string) (caddyfile string, env []string)) *node {
	t.Helper()
	var env []string
	n := newNode(t, 0, func(port string) (caddyfile string) {
		caddyfile, env = config(port)
		return fmt.Sprintf("{\nadmin off\npersist_config off\nauto_https off\ndefault_bind 127.0.0.1\nstorage "+
			"file_system %s\n}\n%s", t.TempDir(), caddyfile)
	})
	plain := n.make
	n.make = func() *exec.Cmd {
		cmd := plain()
		cmd.Env = append(cmd.Env, env...)
		return cmd
	}
	n.start()
	n.await()
	t.Cleanup(n.inspect)
	return n
}

// callerOf returns the subject of the token that a request came with.
func callerOf(r *http.Request) string {
	_, payload, _ := strings.Cut(r.Header.Get("Authorization"), ".")
	payload, _, _ = strings.Cut(payload, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(payload)
	var claims struct{ Sub string }
	_ = json.Unmarshal(raw, &claims)
	return claims.Sub
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it has not come to this: %s", what)
		}
	}
}

// authority is a certificate authority for tests alone, with one certificate for the
// names that most tests use, and some more.
type authority struct {
	ca, cert, key string // files in PEM
	pool          *x509.CertPool
	spki          string // the hash of the certificate's key, as Chromium wants it
}

func newAuthority(t *testing.T, names ...string) *authority {
	t.Helper()
	dir := t.TempDir()
	a := &authority{
		ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"),
		pool: x509.NewCertPool(),
	}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	write := func(file, kind string, der []byte) {
		must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(err)
	write(a.ca, "CERTIFICATE", caDER)
	ca, err = x509.ParseCertificate(caDER)
	must(err)
	a.pool.AddCert(ca)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"localhost", "app.localhost"}, names...), IPAddresses: []net.IP{
			net.IPv4(127, 0, 0, 1),
		},
	}, ca, key.Public(), caKey)
	must(err)
	write(a.cert, "CERTIFICATE", der)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	write(a.key, "PRIVATE KEY", keyDER)
	cert, err := x509.ParseCertificate(der)
	must(err)
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	a.spki = base64.StdEncoding.EncodeToString(sum[:])
	return a
}

// secure is a Caddy with one site, over TLS.
type secure struct {
	*node
	*authority
	site string // its origin
}

// oddSecret is a client's secret with all characters that have to be encoded in a form, in
// JSON or in an Authorization header.
const oddSecret = `a "secret": 100% + / & = \ é`

// newSecure starts a site with these directives behind aventus_auth, for which there
// are lines as well.
func newSecure(t *testing.T, a *authority, env []string, directives string, lines ...string) *secure {
	t.Helper()
	f := &secure{authority: a}
	f.node = serve(t, func(port string) (string, []string) {
		f.site = "https://app.localhost:" + port
		return fmt.Sprintf(`%[1]s {
			tls %[2]s %[3]s
			aventus_auth {
				client_id the-client
				client_secret {env.ODD_SECRET}
				redirect_uri %[1]s/oauth2/callback
				logout /logout
				profile /me
				%[4]s
			}
			%[5]s
			handle_errors {
				respond {http.aventus_auth.error}
			}
		}`, f.site, a.cert, a.key, strings.Join(lines, "\n"), directives),
			append([]string{"ODD_SECRET=" + oddSecret}, env...)
	})
	return f
}

// visitor is a client with cookies of its own that follows redirects, like a browser
// without scripts. Over TLS it speaks HTTP/2.
type visitor struct {
	t *testing.T
	http.Client
}

func newVisitor(t *testing.T, a *authority) *visitor {
	jar, _ := cookiejar.New(nil)
	wire := &http.Transport{ForceAttemptHTTP2: true, DialContext: dialLoopback}
	if a != nil {
		wire.TLSClientConfig = &tls.Config{RootCAs: a.pool}
	}
	t.Cleanup(wire.CloseIdleConnections)
	return &visitor{t, http.Client{Jar: jar, Transport: wire, Timeout: 60 * time.Second}}
}

// dialLoopback resolves every name to this machine, as browsers do with those under localhost.
func dialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
}

// page is the page that a visitor has reached.
type page struct {
	status int
	url    string
	header http.Header
	body   string
}

func (p page) String() string { return fmt.Sprintf("%d at %s: %.300s", p.status, p.url, p.body) }

func (v *visitor) do(r *http.Request) page {
	v.t.Helper()
	resp, err := v.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		v.t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Request.URL.String(), resp.Header, string(body)}
}

// get requests a URL, with header names and values in turn.
func (v *visitor) get(target string, headers ...string) page {
	v.t.Helper()
	r, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return v.do(r)
}

// visit goes to a page, and through a login that needs no input.
func (v *visitor) visit(target string) page {
	v.t.Helper()
	return v.get(target, "Sec-Fetch-Mode", "navigate", "Accept", "text/html")
}

// post sends a form as from its own page.
func (v *visitor) post(target string, form url.Values) page {
	v.t.Helper()
	r, err := http.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return v.do(r)
}

func (v *visitor) expect(p page, status int, url string) {
	v.t.Helper()
	if p.status != status || p.url != url {
		v.t.Fatalf("got %s\nwant %d at %s", p, status, url)
	}
}
