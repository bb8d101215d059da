package logrelay

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// server echoes what it is sent, line by line, with a certificate that it returns in a file.
func server(t *testing.T, auth tls.ClientAuthType) (address, ca, key string) {
	t.Helper()
	made := httptest.NewTLSServer(nil)
	made.Close()
	cert := made.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String(), write("cert.pem", "CERTIFICATE", cert.Certificate[0]), write("key.pem", "PRIVATE KEY", der)
}

// relayed runs a relay and returns the keeper's end and what it has said; the error of Run comes later.
func relayed(t *testing.T, address string, o Options) (keeper net.Conn, said string, r *bufio.Reader, ended chan error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	if keeper, err = net.FileConn(ours); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	t.Cleanup(func() { keeper.Close() })
	ended = make(chan error, 1)
	go func() {
		err := Run(t.Context(), theirs, address, o)
		theirs.Close()
		ended <- err
	}()
	keeper.SetDeadline(time.Now().Add(20 * time.Second))
	r = bufio.NewReader(keeper)
	said, err = r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return keeper, strings.TrimSuffix(said, "\n"), r, ended
}

func TestRun(t *testing.T) {
	address, cert, key := server(t, tls.NoClientCert)
	demanding, demandingCA, _ := server(t, tls.RequireAnyClientCert)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		address string
		o       Options
		said    string // part of it
	}{
		"trusted":            {address, Options{CA: cert}, ""},
		"anybody":            {address, Options{SkipVerify: true, CA: "/no/such"}, ""},
		"strange":            {address, Options{}, "certificate signed by unknown authority"},
		"another name":       {strings.Replace(address, "127.0.0.1", "localhost", 1), Options{CA: cert}, "not localhost"},
		"shown":              {demanding, Options{CA: demandingCA, Cert: cert, Key: key}, ""},
		"no file":            {address, Options{CA: "/no/such"}, "could not read CA certificate: open /no/such: no such file or directory"},
		"no certificate":     {address, Options{CA: empty}, "has no certificate in PEM"},
		"key alone":          {address, Options{CA: cert, Key: key}, "given together or not at all"},
		"no key":             {address, Options{CA: cert, Cert: cert, Key: empty}, "could not load the client certificate: "},
		"nobody":             {"127.0.0.1:1", Options{}, "dial tcp 127.0.0.1:1: connect: connection refused"},
		"nobody of the name": {"no.such.invalid:1", Options{}, "no.such.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			keeper, said, r, ended := relayed(t, c.address, c.o)
			if c.said != "" {
				if !strings.Contains(said, c.said) {
					t.Errorf("said %q, want %q", said, c.said)
				}
				if err := <-ended; err == nil {
					t.Error("no error")
				}
				return
			}
			if said != "" {
				t.Fatalf("said %q", said)
			}
			io.WriteString(keeper, "one\n")
			if got, err := r.ReadString('\n'); got != "one\n" || err != nil {
				t.Errorf("came back: %q, %v", got, err)
			}
			keeper.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLastLines: what the keeper has sent before it ended comes through.
func TestLastLines(t *testing.T) {
	made := httptest.NewTLSServer(nil)
	made.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: made.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int64)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(got)
			return
		}
		c.(*tls.Conn).Handshake()
		time.Sleep(100 * time.Millisecond) // the keeper is gone
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}()
	keeper, said, _, ended := relayed(t, l.Addr().String(), Options{SkipVerify: true})
	if said != "" {
		t.Fatal(said)
	}
	const size = 100 << 10
	n, err := keeper.Write(make([]byte, size))
	keeper.Close()
	if n != size || err != nil {
		t.Fatal(n, err)
	}
	if n := <-got; n != size {
		t.Errorf("%d bytes came, want %d", n, size)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestServerEnds: the keeper hears of it, and connects again.
func TestServerEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	made := httptest.NewTLSServer(nil)
	made.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s := tls.Server(c, &tls.Config{Certificates: made.TLS.Certificates})
		s.Handshake()
		s.Close()
	}()
	_, said, r, ended := relayed(t, l.Addr().String(), Options{SkipVerify: true})
	if said != "" {
		t.Fatal(said)
	}
	if b, err := r.ReadByte(); err != io.EOF {
		t.Errorf("%q, %v, want the end", b, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
