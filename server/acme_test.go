package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// authority is an ACME server that issues one certificate at a time. It does verify who has
// the name, by tls-alpn-01 at target, and does not verify signatures of requests.
type authority struct {
	t      *testing.T
	srv    *httptest.Server
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	target string

	mu         sync.Mutex
	thumbprint string // of the account's key
	host       string
	valid      bool
	issued     [][]byte // DER
	contact    []string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, cert: cert}
	a.srv = httptest.NewTLSServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.srv.Close)
	return a
}

func (a *authority) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Replay-Nonce", rand.Text())
	var jws struct{ Protected, Payload []byte }
	if r.Method == http.MethodPost {
		jws.Protected, jws.Payload = openJWS(a.t, r.Body)
	}
	at := func(path string) string { return a.srv.URL + path }
	state := "pending"
	if a.valid {
		state = "valid"
	}
	switch r.URL.Path {
	case "/directory":
		a.say(w, 200, map[string]any{"newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order")})
	case "/nonce":
	case "/account":
		a.register(jws.Protected, jws.Payload)
		w.Header().Set("Location", at("/account/1"))
		a.say(w, 201, map[string]any{"status": "valid"})
	case "/order":
		var order struct{ Identifiers []struct{ Value string } }
		if err := json.Unmarshal(jws.Payload, &order); err != nil || len(order.Identifiers) != 1 {
			a.t.Errorf("order %s: %v", jws.Payload, err)
			return
		}
		a.host, a.valid = order.Identifiers[0].Value, false
		w.Header().Set("Location", at("/order/1"))
		a.say(w, 201, a.order("pending"))
	case "/order/1":
		a.say(w, 200, a.order(map[bool]string{false: "pending", true: "ready"}[a.valid]))
	case "/authz":
		a.say(w, 200, map[string]any{"status": state, "identifier": map[string]string{"type": "dns", "value": a.host},
			"challenges": []any{map[string]string{"type": "tls-alpn-01", "url": at("/challenge"), "token": "token", "status": state}}})
	case "/challenge":
		if err := a.check(); err != nil {
			a.t.Errorf("challenge: %v", err)
		}
		a.valid = true
		a.say(w, 200, map[string]string{"type": "tls-alpn-01", "url": at("/challenge"), "token": "token", "status": "valid"})
	case "/finalize":
		a.issue(jws.Payload)
		w.Header().Set("Location", at("/order/1"))
		a.say(w, 200, a.order("valid"))
	case "/certificate":
		for _, der := range [][]byte{a.issued[len(a.issued)-1], a.cert.Raw} {
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der})
		}
	default:
		a.t.Errorf("asked for %s", r.URL)
		w.WriteHeader(404)
	}
}

func openJWS(t *testing.T, r io.Reader) (protected, payload []byte) {
	var jws struct{ Protected, Payload string }
	err := json.NewDecoder(r).Decode(&jws)
	if err == nil {
		protected, err = base64.RawURLEncoding.DecodeString(jws.Protected)
	}
	if err == nil {
		payload, err = base64.RawURLEncoding.DecodeString(jws.Payload)
	}
	if err != nil {
		t.Errorf("request: %v", err)
	}
	return protected, payload
}

func (a *authority) say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (a *authority) order(status string) map[string]any {
	return map[string]any{"status": status, "authorizations": []string{a.srv.URL + "/authz"}, "finalize": a.srv.URL + "/finalize",
		"certificate": a.srv.URL + "/certificate", "identifiers": []any{map[string]string{"type": "dns", "value": a.host}}}
}

// register notes the thumbprint of the account's key, RFC 7638.
func (a *authority) register(protected, payload []byte) {
	var header struct {
		JWK struct{ Crv, Kty, X, Y string }
	}
	var account struct{ Contact []string }
	if err := json.Unmarshal(protected, &header); err != nil {
		a.t.Errorf("account: %v", err)
	}
	if err := json.Unmarshal(payload, &account); err != nil {
		a.t.Errorf("account: %v", err)
	}
	k := header.JWK
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.Crv, k.Kty, k.X, k.Y))
	a.thumbprint, a.contact = base64.RawURLEncoding.EncodeToString(sum[:]), account.Contact
}

// check is what RFC 8737 asks of an authority.
func (a *authority) check() error {
	c, err := tls.Dial("tcp", a.target, &tls.Config{ServerName: a.host, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer c.Close()
	sum := sha256.Sum256([]byte("token." + a.thumbprint))
	want, err := asn1.Marshal(sum[:])
	if err != nil {
		return err
	}
	state := c.ConnectionState()
	for _, e := range state.PeerCertificates[0].Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) && e.Critical && bytes.Equal(e.Value, want) && state.NegotiatedProtocol == "acme-tls/1" {
			return nil
		}
	}
	return fmt.Errorf("no answer in the certificate of %s", state.PeerCertificates[0].Subject)
}

func (a *authority) issue(payload []byte) {
	var req struct{ CSR string }
	err := json.Unmarshal(payload, &req)
	var der []byte
	if err == nil {
		der, err = base64.RawURLEncoding.DecodeString(req.CSR)
	}
	var csr *x509.CertificateRequest
	if err == nil {
		csr, err = x509.ParseCertificateRequest(der)
	}
	if err != nil {
		a.t.Errorf("finalize: %v", err)
		return
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(len(a.issued)) + 2), DNSNames: []string{a.host}, NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, csr.PublicKey, a.key)
	if err != nil {
		a.t.Errorf("finalize: %v", err)
	}
	a.issued = append(a.issued, cert)
}

// TestACME: the first client of a name gets a certificate that an authority has just given,
// also where clients need certificates; a second server with the same cache asks for nothing;
// another name gets none.
func TestACME(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	write := func(name string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	conf := ACME{Hosts: []string{"registry.test"}, Email: "ann@registry.test", Directory: a.srv.URL + "/directory", CAFile: write("ca.pem", a.srv.Certificate().Raw)}
	clientCert, clientKey := keyPair(t, "ann")
	client, err := tls.X509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	clientCA := write("client.pem", client.Certificate[0])
	cache := autocert.DirCache(filepath.Join(dir, "cache"))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	for range 2 {
		c, err := conf.Config(cache)
		if err != nil {
			t.Fatal(err)
		}
		if err := RequireClientCertificates(c, clientCA); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		a.target = ln.Addr().String()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, ln, http.NotFoundHandler(), Options{TLS: c}) }()
		dial := func(name string, certs ...tls.Certificate) error {
			tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{ServerName: name, RootCAs: pool, Certificates: certs}}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get("https://" + a.target)
			if err == nil {
				resp.Body.Close()
				if resp.ProtoMajor != 2 {
					t.Errorf("got %s", resp.Proto)
				}
			}
			return err
		}
		if err := dial("registry.test", client); err != nil {
			t.Error(err)
		}
		if err := dial("registry.test"); err == nil {
			t.Error("a client without a certificate was let in")
		}
		if err := dial("other.test", client); err == nil {
			t.Error("another name got a certificate")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(a.issued) != 1 || len(a.contact) != 1 || a.contact[0] != "mailto:ann@registry.test" {
		t.Errorf("got %d certificates for %q, want 1", len(a.issued), a.contact)
	}
	if _, err := (ACME{}).Config(cache); err == nil {
		t.Error("no host was taken")
	}
}
