package engine_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDoors: who gets in.
func TestDoors(t *testing.T) {
	w := newWorld(t)
	info, err := os.Stat(w.socket())
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 0 {
		t.Fatalf("the socket: %v, %v, want 0660 of root:root", info, err)
	}
	// Nobody else reaches it.
	cmd := exec.Command("docker", "ps")
	cmd.Env = w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("nobody got: %s, %v", out, err)
	}
	// A second server does not take the socket away, and TCP needs certificates.
	for host, why := range map[string]string{
		"unix://" + w.socket(): "another server listens there", "tcp://127.0.0.1:0": "--tls-ca-cert", "fd://": "LISTEN_FDS", "http://x": "--host is",
	} {
		if _, stderr, code := w.try(w.teu, "serve", "engine", "--host", host); code == 0 || !strings.Contains(stderr, why) {
			t.Errorf("--host %s: exit code %d, %q, want a word about %s", host, code, stderr, why)
		}
	}
	w.stop(syscall.SIGTERM)
	w.serve("--group", "daemon")
	if info, err = os.Stat(w.socket()); err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 1 {
		t.Errorf("the socket of a group: %v, %v", info.Mode(), err)
	}
	w.stop(syscall.SIGKILL) // leaves its socket behind
	w.serve()
	w.docker("ps")
}

// TestRequests holds the answers to requests that no client sends.
func TestRequests(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		send   string // method, path and headers; then the body
		status string
		body   string
	}{
		{"GET /v1.99/info", "400", "client version 1.99 is too new. Maximum supported API version is 1.56"},
		{"GET /v1.23/info", "400", "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"GET /v1.22/images/nosuch/json", "404", "No such image: nosuch"}, // containers/image
		{"GET /v1.21/images/nosuch/json", "400", "client version 1.21 is too old"},
		{"GET /v1.22/containers/nosuch/json", "400", "client version 1.22 is too old"},
		{"GET /v1.24/_ping", "200", "OK"},
		{"GET /nosuch", "404", "page not found"},
		{"PATCH /containers/json", "404", "page not found"},
		{"GET /v1.20.1.5/../../info", "400", "invalid API version"},
		{"GET /containers/%2e%2e%2f%2e%2e/json", "404", ""},
		{"POST /containers/create\nContent-Type: text/plain\n\n{\"Image\":\"x\"}", "400", "unsupported Content-Type header (text/plain): must be 'application/json'"},
		{"POST /containers/create\nContent-Type: application/json\n\n{\"Image\":\"x\"} {}", "400", "unexpected content after JSON"},
		{"POST /containers/create\nContent-Type: application/json\n\n{", "400", "invalid JSON"},
		{"POST /containers/create\nContent-Type: application/json\n\n{}", "400", "config"},
		{"POST /containers/create", "400", "invalid JSON: EOF"},
		{"GET /containers/json?filters=%7B", "400", "invalid filter"},
		{"GET /containers/json?filters=%7B%22nosuch%22:%5B%221%22%5D%7D", "400", "invalid filter 'nosuch'"},
		{"GET /containers/nosuch/json", "404", "No such container: nosuch"},
		{"GET /containers/nosuch/logs?stdout=1", "404", "No such container: nosuch"},
		{"POST /containers/nosuch/wait?condition=never", "400", "invalid condition: \\\"never\\\""},
		{"GET /exec/nosuch/json", "404", "No such exec instance: nosuch"},
		{"GET /v1.24/swarm", "503", "This node is not a swarm manager"},
		{"POST /session", "400", "no upgrade proto in request"},
		{"POST /session\nConnection: Upgrade\nUpgrade: h2c", "400", "a session without an ID"},
		{"POST /grpc\nConnection: Upgrade\nUpgrade: tcp", "400", "protocol tcp not supported"},
		{"GET /images/busybox/attestations?platform=nosuch", "400", "nosuch"},
		{"GET /images/busybox/attestations?platform=linux/mips", "404", "does not provide the specified platform"},
		{"GET /images/json?filters=%7B%22dangling%22:%5B%22true%22,%22false%22%5D%7D", "400", "invalid filter 'dangling=[true false]'"},
		{"GET /info\nX-Long: " + strings.Repeat("x", 100<<10), "431", ""},
	} {
		got := raw(t, w.socket(), c.send)
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) || !strings.Contains(got, c.body) {
			t.Errorf("%.80q: %.300q, want %s with %q", c.send, got, c.status, c.body)
		}
	}
	// A body without an end is not read without an end.
	conn, err := net.Dial("unix", w.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n{\"Image\":\"")
	go func() {
		for chunk := bytes.Repeat([]byte("x"), 1<<20); ; {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	conn.SetReadDeadline(time.Now().Add(limit))
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 413" {
		t.Errorf("a body of a gigabyte: %q, %v", head, err)
	}
}

// raw sends a request as it is and returns the answer.
func raw(t *testing.T, socket, send string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	head, body, _ := strings.Cut(send, "\n\n")
	line, headers, _ := strings.Cut(head, "\n")
	text := line + " HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
	for h := range strings.SplitSeq(headers, "\n") {
		if h != "" {
			text += h + "\r\n"
		}
	}
	if body != "" {
		text += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	if _, err := io.WriteString(conn, text+"\r\n"+body); err != nil && !strings.Contains(err.Error(), "pipe") {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn)
	return string(got)
}

// TestTLS: over TCP the client must show a certificate.
func TestTLS(t *testing.T) {
	w := newWorld(t)
	ca, pool := authority(t, w.dir+"/ca.pem")
	ca.issue(t, w.dir+"/cert.pem", w.dir+"/key.pem")
	w.stop(syscall.SIGTERM)
	// The port is in the server's namespace, which the socket of systemd's making is not.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" serve engine --host fd:// --tls-cert "$1/cert.pem" --tls-key "$1/key.pem" --tls-ca-cert "$1/ca.pem"`, w.teu, w.dir)
	cmd.Env, cmd.ExtraFiles = w.env, []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startApart(cmd); err != nil {
		t.Fatal(err)
	}
	file.Close()
	ln.Close()
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}()
	own, err := tls.LoadX509KeyPair(w.dir+"/cert.pem", w.dir+"/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	get := func(certs ...tls.Certificate) (string, error) {
		c := http.Client{Timeout: limit, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}}}
		resp, err := c.Get("https://" + ln.Addr().String() + "/_ping")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if got, err := get(own); got != "OK" || err != nil {
		t.Errorf("with a certificate: %q, %v", got, err)
	}
	if got, err := get(); err == nil {
		t.Errorf("without a certificate: %q", got)
	}
	other, _ := authority(t, w.dir+"/other.pem")
	other.issue(t, w.dir+"/other-cert.pem", w.dir+"/other-key.pem")
	stranger, err := tls.LoadX509KeyPair(w.dir+"/other-cert.pem", w.dir+"/other-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(stranger); err == nil {
		t.Errorf("with somebody else's certificate: %q", got)
	}
	if resp, err := http.Get("http://" + ln.Addr().String() + "/info"); err == nil && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %s", resp.Status)
	}
}

// signer makes certificates.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func authority(t *testing.T, file string) (*signer, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, file, "CERTIFICATE", der)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &signer{cert, key}, pool
}

func (s *signer) issue(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.cert, &key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, certFile, "CERTIFICATE", der)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, keyFile, "PRIVATE KEY", raw)
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
