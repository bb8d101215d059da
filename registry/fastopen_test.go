package registry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	listen "github.com/teu-dev/teu/server"
	"github.com/teu-dev/teu/test/privilege"
)

// TestEarlyBytes runs the tests below in a network of their own, in which the system has TCP Fast Open for servers.
func TestEarlyBytes(t *testing.T) {
	if os.Getenv("TEU_TEST_EARLY") != "" {
		t.Run("Used", testEarlyUsed)
		t.Run("Refused", testEarlyRefused)
		t.Run("Elsewhere", testEarlyElsewhere)
		t.Run("Unanswered", testEarlyUnanswered)
		t.Run("Closed", testEarlyClosed)
		return
	}
	privilege.NeedRoot(t)
	script := `set -e; ip link set lo up; echo 3 >/proc/sys/net/ipv4/tcp_fastopen; mount --make-rprivate /; mount --bind "$1" /etc/hosts; shift; exec "$@"`
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 both.test\n::1 both.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script, "sh", hosts, os.Args[0], "-test.run=^TestEarlyBytes$", "-test.v")
	cmd.Env = append(os.Environ(), "TEU_TEST_EARLY=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

// early returns how many connections of this network had early bytes that were taken.
func early(t *testing.T) (n int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if names != nil && names[0] == fields[0] {
			for i, name := range names {
				if name == "TCPFastOpenPassive" {
					fmt.Sscan(fields[i], &n)
				}
			}
		}
		names = fields
	}
	return n
}

// serveEarly answers with the body it gets.
func serveEarly(t *testing.T, address string) *httptest.Server {
	t.Helper()
	l, err := listen.Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		_, _ = w.Write(body)
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// post sends a body on a new connection.
func post(t *testing.T, address, body string) (string, error) {
	t.Helper()
	transport := newLaxTransport()
	defer transport.CloseIdleConnections()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func testEarlyUsed(t *testing.T) {
	s := serveEarly(t, "127.0.0.1:0")
	address := s.Listener.Addr().String()
	for i, size := range []int{1, 100, 10e3, 10e6} {
		body := strings.Repeat("x", size)
		if got, err := post(t, address, body); err != nil || got != body {
			t.Fatalf("%d bytes of %d, %v", len(got), size, err)
		}
		if n := early(t); n != i {
			t.Errorf("after %d connections: %d with early bytes", i+1, n)
		}
	}
	// With TLS the request cannot be early, and all is well.
	c, _ := newTestClient(Options{})
	desc, data := blob(7, 100)
	secure := httptest.NewUnstartedServer(onlyBlobs(&faulty{bytes: data}))
	secure.Listener.Close()
	var err error
	if secure.Listener, err = listen.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	secure.StartTLS()
	defer secure.Close()
	for range 2 {
		got, err := fetch(t.Context(), repository(t, c, secure.Listener.Addr().String()+"/app"), desc)
		if err != nil || string(got) != string(data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

// A server that is gone is refused in the words of a dialer.
func testEarlyRefused(t *testing.T) {
	s := serveEarly(t, "127.0.0.1:0")
	address := s.Listener.Addr().String()
	if _, err := post(t, address, "x"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	_, err := post(t, address, "x")
	if want := "dial tcp " + address + ": connect: connection refused"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	c, _ := newTestClient(Options{})
	desc, _ := blob(7, 100)
	_, err = fetch(t.Context(), repository(t, c, address+"/app"), desc)
	if err == nil || !strings.HasSuffix(err.Error(), "dial tcp "+address+": connect: connection refused") {
		t.Errorf("got %v", err)
	}
}

// A host with two addresses of which one has failed is reached by the other.
func testEarlyElsewhere(t *testing.T) {
	for _, hosts := range [][2]string{{"[::1]", "127.0.0.1"}, {"127.0.0.1", "[::1]"}} {
		s := serveEarly(t, hosts[0]+":0")
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := post(t, "both.test:"+port, "x"); err != nil {
			t.Fatal(err)
		}
		s.Close()
		serveEarly(t, hosts[1]+":"+port)
		body := strings.Repeat("y", 100e3)
		if got, err := post(t, "both.test:"+port, body); err != nil || got != body {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

// silent returns an address whose server has given a cookie and takes no connections any more.
func silent(t *testing.T) string {
	t.Helper()
	s := serveEarly(t, "127.0.0.1:0")
	address := s.Listener.Addr().(*net.TCPAddr)
	if _, err := post(t, address.String(), "x"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	// The queue of a listener that nobody accepts from is full soon, and further packets are dropped.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: address.Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if c, err := net.DialTimeout("tcp", address.String(), 200*time.Millisecond); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
	return address.String()
}

// noPatience is a quarter of the time after which the kernel gives a connection up, tcp(7), "tcp_syn_retries".
const noPatience = 30 * time.Second

func testEarlyUnanswered(t *testing.T) {
	address := silent(t)
	d := newEarlyDialer(net.Dialer{Timeout: 300 * time.Millisecond})
	d.patience = 200 * time.Millisecond
	c, err := d.dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*earlyConn); !ok {
		t.Fatalf("nothing is early about %T", c)
	}
	begun := time.Now()
	_, err = c.Write([]byte("x"))
	if want := "dial tcp " + address + ": i/o timeout"; err == nil || err.Error() != want || time.Since(begun) > noPatience {
		t.Errorf("got %v after %s, want %s", err, time.Since(begun), want)
	}
	if _, rerr := c.Read(make([]byte, 1)); rerr != err {
		t.Errorf("reading: %v", rerr)
	}
}

// Who gives up does not wait.
func testEarlyClosed(t *testing.T) {
	address := silent(t)
	transport := newLaxTransport()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := transport.RoundTrip(q); err == nil || time.Since(begun) > noPatience {
		t.Errorf("got %v after %s", err, time.Since(begun))
	}
	c, err := newEarlyDialer(net.Dialer{}).dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { c.Close() })
	if _, err := c.Write([]byte("x")); err == nil || time.Since(begun) > noPatience {
		t.Errorf("got %v after %s", err, time.Since(begun))
	}
}
