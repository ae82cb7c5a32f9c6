package aventusauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// authority is a certificate authority.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(24 * time.Hour),
	}}
	own := a.sign(t, a.cert)
	a.key, a.cert = own.PrivateKey.(*ecdsa.PrivateKey), own.Leaf
	return a
}

// sign returns a certificate of the authority; one that has no key yet gets its own.
func (a *authority) sign(t *testing.T, template *x509.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	template.SerialNumber = big.NewInt(1)
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// trustedFile names a file with an authority that Go is told to trust. It takes that
// when a process starts, so there is one of its own for the test that needs it.
const trustedFile = "SSL_CERT_FILE"

const inOwnProcess = "TEST_IN_OWN_PROCESS"

// trustedAuthority returns the authority in trustedFile.
func trustedAuthority(t *testing.T) *authority {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(os.Getenv(trustedFile), os.Getenv(trustedFile))
	if err != nil {
		t.Fatal(err)
	}
	return &authority{pair.PrivateKey.(*ecdsa.PrivateKey), pair.Leaf}
}

// runInOwnProcess runs the test again in a process that trusts an authority.
func runInOwnProcess(t *testing.T) {
	t.Helper()
	a := newAuthority(t)
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), trustedFile+"="+file, inOwnProcess+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestHostileCertificate: what is meant for the authorization server goes to nobody
// who cannot show that they are it.
func TestHostileCertificate(t *testing.T) {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("Go asks the system here whom to trust, and not a file")
	}
	if os.Getenv(inOwnProcess) != t.Name() {
		runInOwnProcess(t)
		return
	}
	ours := trustedAuthority(t)
	here := []net.IP{net.IPv4(127, 0, 0, 1)}
	tomorrow := time.Now().Add(24 * time.Hour)
	good := ours.sign(t, &x509.Certificate{IPAddresses: here, NotAfter: tomorrow})
	var shown atomic.Pointer[tls.Certificate]
	shown.Store(good)
	w := newWorld(t, setup{
		issuer: func(s *aventustest.Server) { s.TokenLifetime = time.Hour },
		sites: func(w *world) string {
			server := httptest.NewUnstartedServer(w.issuer)
			server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return &tls.Config{Certificates: []tls.Certificate{*shown.Load()}}, nil
			}}
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // it says that nobody trusts it
			server.Config.SetKeepAlivesEnabled(false)           // each connection has to show it
			server.StartTLS()
			t.Cleanup(server.Close)
			w.issuer.Issuer = server.URL + "/"
			return w.site + " {\n" + w.directive("", "scope offline_access\nlogout /logout\naccept_bearer") +
				"\nreverse_proxy " + w.app + errorsShown + "\n}"
		},
	})
	first := w.browser()
	first.login("/")
	w.expect(first.get("/"), http.StatusOK)
	before := settled()
	for _, c := range []struct {
		name string
		cert *tls.Certificate
		why  string
	}{
		{"of an authority that nobody trusts",
			newAuthority(t).sign(t, &x509.Certificate{IPAddresses: here, NotAfter: tomorrow}),
			"x509: certificate signed by unknown authority"},
		{"that has expired", ours.sign(t, &x509.Certificate{IPAddresses: here, NotAfter: time.Now().Add(-time.Hour)}),
			"x509: certificate has expired"},
		{"of another host", ours.sign(t, &x509.Certificate{DNSNames: []string{"evil.test"}, NotAfter: tomorrow}),
			"x509: cannot validate certificate for 127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t, before.heap = t, heap()
			const unreachable = "the token endpoint: tls: failed to verify certificate: "
			b, leaving := w.browser(), w.browser()
			b.login("/page")
			w.clock.Add(30 * time.Minute) // b's token ends before the others'
			leaving.login("/page")
			callback := w.browser() // a login under way
			at := callback.begin("/page")
			unknown := w.strangersToken()
			w.clock.Add(27 * time.Minute)
			asked, fetched, revoked := len(w.issuer.TokenRequests()), w.issuer.JWKSRequests(), len(w.issuer.Revoked())

			shown.Store(c.cert)
			logged := len(w.log())
			a := callback.get(at)
			w.expect(a, http.StatusBadGateway)
			if a.body != errToken.code+": "+errToken.description || a.Header["Set-Cookie"] != nil ||
				a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%v %s", a.Header, a.body)
			}
			w.expectSaid(logged, "error", errToken.code, unreachable+c.why, "TLS")

			logged = len(w.log())
			w.expect(b.get("/page"), http.StatusOK) // the old token lives
			w.expectSaid(logged, "error", "renewing a session failed; it is tried again", unreachable+c.why, "TLS")

			logged = len(w.log())
			a = w.browser().do("GET", "/", "Authorization", "Bearer "+unknown)
			w.expect(a, http.StatusBadGateway)
			if a.body != errToken.code+": "+errToken.description {
				t.Error(a.body)
			}
			w.expectSaid(logged, "error", errToken.code,
				"the key set: tls: failed to verify certificate: "+c.why, "TLS")

			logged = len(w.log())
			w.expect(leaving.get("/logout"), http.StatusOK)
			w.expectSaid(logged, "warn", "the refresh token of a session that has ended could not be revoked", c.why,
				"")
			_, after, _ := strings.Cut(w.log()[logged:], "could not be revoked")
			if line, _, _ := strings.Cut(after, "\n"); !strings.Contains(line, `"session":"`) {
				t.Errorf("the log does not say of which session: %s", line)
			}

			if len(w.issuer.TokenRequests()) != asked || w.issuer.JWKSRequests() != fetched ||
				len(w.issuer.Revoked()) != revoked {
				t.Error("a request was sent to a server that nobody vouches for")
			}
			shown.Store(good)
			w.clock.Add(10 * time.Second)
			w.expect(w.browser().do("GET", "/", "Authorization", "Bearer "+unknown), http.StatusUnauthorized)
			w.clock.Add(time.Hour)
			w.expect(b.get("/page"), http.StatusOK)
			w.expectTokenRequests(asked + 1)
			w.browser().login("/page")
			w.expectNoReuse()
			before.expectBack(t, 1<<20)
		})
	}
}
