package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// keyPair returns a new certificate for name, and its key.
func keyPair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// TestCertificateReload: new connections get the certificate that is on disk, as soon as it
// fits its key, and the old one until then.
func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writes := 0
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		writes++ // clocks of file systems are coarse ones
		when := time.Now().Add(time.Duration(writes) * time.Second)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := keyPair(t, "one")
	write(certFile, cert)
	write(keyFile, key)
	c, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") },
		Options{TLS: &tls.Config{GetCertificate: c.Get}})
	served := func() string {
		t.Helper()
		c.mu.Lock()
		c.looked = time.Time{}
		c.mu.Unlock()
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	steps := []struct {
		name   string
		change func()
		want   string
	}{
		{"first", func() { cert, key = keyPair(t, "two") }, "one"},
		{"only the certificate replaced", func() { write(certFile, cert) }, "one"},
		{"and the key", func() { write(keyFile, key) }, "two"},
		{"broken", func() { write(certFile, []byte("x")) }, "two"},
		{"removed", func() { os.Remove(certFile) }, "two"},
		{"back again", func() { cert, _ = keyPair(t, "x"); write(certFile, cert) }, "two"},
		{"replaced", func() { cert, key = keyPair(t, "three"); write(keyFile, key); write(certFile, cert) }, "three"},
	}
	for _, step := range steps {
		step.change()
		if got := served(); got != step.want {
			t.Errorf("%s: got certificate %q, want %q", step.name, got, step.want)
		}
	}
	if _, err := LoadCertificate(certFile, filepath.Join(dir, "none"), slog.Default()); err == nil {
		t.Error("got no error without a key")
	}
	s.stop()
	<-s.done
}
