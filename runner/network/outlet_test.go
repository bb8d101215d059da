package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/outlet"
)

// TestMain is an outlet if it is called as teu is for one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "network" {
		os.Exit(outlet.Main(os.Args[3:]))
	}
	os.Exit(m.Run())
}

// withOutlet makes a user's network with a way out to the host this test is in, and returns
// the ground and the process that passes on.
func withOutlet(t *testing.T) (ground string, p statefile.Process) {
	t.Helper()
	if out, err := runIP("addr", "add", "10.9.0.1/32", "dev", "lo"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ground = filepath.Join(t.TempDir(), "ground")
	in(t, here, func() error { return makeGround(ground) })
	t.Cleanup(func() { removeNetNS(ground) })
	return ground, open(t, ground)
}

func open(t *testing.T, ground string) statefile.Process {
	t.Helper()
	m := &Manager{Self: []string{"/proc/self/exe"}}
	p, err := m.startOutlet(t.Context(), ground)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(p.PID, unix.SIGKILL) })
	return p
}

// listen serves connections here, on a host outside the user's network.
func listen(t *testing.T, address string, f func(c *net.TCPConn)) {
	t.Helper()
	l, err := net.Listen("tcp", address)
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
			go f(c.(*net.TCPConn))
		}
	}()
}

// dial connects from the user's network.
func dial(t *testing.T, ground, network, address string) (c net.Conn, failure error) {
	t.Helper()
	in(t, ground, func() error {
		c, failure = net.DialTimeout(network, address, 10*time.Second)
		return nil
	})
	if failure == nil {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	return c, failure
}

func TestOutletPassesStreams(t *testing.T) {
	if !sandbox(t) {
		return
	}
	ground, _ := withOutlet(t)
	listen(t, "10.9.0.1:80", func(c *net.TCPConn) { // the sum of what was said, once the other side has closed
		h := sha256.New()
		io.Copy(h, c)
		c.Write(h.Sum(nil))
		c.Close()
	})
	listen(t, "10.9.0.1:81", func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	want := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{}).Read(want)
	sum := sha256.Sum256(want)
	var all sync.WaitGroup
	for i := range 20 {
		address, answer := "10.9.0.1:80", sum[:]
		if i%2 == 1 {
			address, answer = "10.9.0.1:81", want
		}
		c, err := dial(t, ground, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			go func() {
				c.Write(want)
				c.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, answer) {
				t.Errorf("%s: %d bytes, %v", address, len(got), err)
			}
		})
	}
	all.Wait()
}

func TestOutletRefuses(t *testing.T) {
	if !sandbox(t) {
		return
	}
	ground, _ := withOutlet(t)
	hello := func(c *net.TCPConn) { c.Write([]byte("hello")); c.Close() }
	listen(t, "127.0.0.1:80", hello)
	listen(t, "0.0.0.0:90", hello)
	if c, err := dial(t, ground, "tcp", "10.9.0.1:90"); err != nil {
		t.Fatal(err)
	} else if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, address := range []string{"10.9.0.1:80", gateway4.Addr().String() + ":90", "192.0.0.5:90", "10.55.0.1:90"} {
		if _, err := dial(t, ground, "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v, want a refusal", address, err)
		}
	}
	// A container may lead loopback addresses to the border; it is not asked whether that is sensible.
	in(t, ground, func() error {
		for _, args := range [][]string{{"addr", "flush", "dev", "lo"}, {"route", "add", "127.0.0.1", "via", gateway4.Addr().String()}} {
			if out, err := runIP(args...); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
		return os.WriteFile("/proc/sys/net/ipv4/conf/"+borderName+"/route_localnet", []byte("1"), 0)
	})
	in(t, ground, func() error {
		c, err := net.DialTimeout("tcp", "127.0.0.1:80", time.Second)
		if err == nil {
			t.Error("the host's loopback is reached")
			c.Close()
		}
		return nil
	})
}

// A connection that is reset on one side is reset on the other: no data is taken for whole.
func TestOutletPassesResets(t *testing.T) {
	if !sandbox(t) {
		return
	}
	ground, _ := withOutlet(t)
	ended := make(chan error, 1)
	listen(t, "10.9.0.1:80", func(c *net.TCPConn) {
		c.Read(make([]byte, 5))
		c.SetLinger(0)
		c.Close()
	})
	listen(t, "10.9.0.1:81", func(c *net.TCPConn) {
		_, err := io.ReadAll(c)
		ended <- err
	})
	c, err := dial(t, ground, "tcp", "10.9.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("hello"))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset outside: got %v inside", err)
	}
	if c, err = dial(t, ground, "tcp", "10.9.0.1:81"); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset inside: got %v outside", err)
	}
}

func TestOutletPassesDatagrams(t *testing.T) {
	if !sandbox(t) {
		return
	}
	ground, _ := withOutlet(t)
	server, err := net.ListenPacket("udp4", "10.9.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], from)
		}
	}()
	for i := range 20 {
		c, err := dial(t, ground, "udp4", "10.9.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 1, 1472, 1473, 30000, 65507} {
			want := bytes.Repeat([]byte{byte(i)}, size)
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 65536)
			if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], want) {
				t.Fatalf("%d bytes: got %d, %v", size, n, err)
			}
		}
	}
}

// Pings are answered by who is asked, not by the outlet.
func TestOutletPassesPings(t *testing.T) {
	if !sandbox(t) {
		return
	}
	allow := func() error { return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0) }
	if err := allow(); err != nil {
		t.Fatal(err)
	}
	ground, _ := withOutlet(t)
	in(t, ground, allow)
	for _, c := range []struct {
		address  string
		size     int
		answers  bool
		patience time.Duration
	}{
		{"10.9.0.1", 0, true, 30 * time.Second}, {"10.9.0.1", 56, true, 30 * time.Second}, {"10.9.0.1", 4000, true, 30 * time.Second},
		{"10.55.0.1", 56, false, time.Second}, // nobody has it
	} {
		if err := pingFrom(t, ground, c.address, c.size, c.patience); (err == nil) != c.answers {
			t.Errorf("%s with %d bytes: %v", c.address, c.size, err)
		}
	}
}

func pingFrom(t *testing.T, ground, address string, size int, patience time.Duration) error {
	t.Helper()
	var f *os.File
	in(t, ground, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "ping")
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(address).As4()})
	})
	defer f.Close()
	want := append([]byte{8, 0, 0, 0, 0, 0, 0, 7}, bytes.Repeat([]byte{1}, size)...)
	f.SetDeadline(time.Now().Add(patience))
	if _, err := f.Write(want); err != nil {
		return err
	}
	got := make([]byte, 65536)
	n, err := f.Read(got)
	if err == nil && !bytes.Equal(got[6:n], want[6:]) {
		t.Errorf("%s: the answer is another: %d bytes", address, n)
	}
	return err
}

// What passes by IPv6 where the host has a way by it, and when the outlet is killed.
func TestOutletBothProtocols(t *testing.T) {
	if !sandbox(t) {
		return
	}
	for _, args := range [][]string{{"addr", "add", "fd99::1/128", "dev", "lo", "nodad"}, {"-6", "route", "add", "default", "dev", "lo"}} {
		if out, err := runIP(args...); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ground, first := withOutlet(t)
	for _, address := range []string{"10.9.0.1:80", "[fd99::1]:80"} {
		listen(t, address, func(c *net.TCPConn) { c.Write([]byte("hello")); c.Close() })
	}
	reached := func() {
		t.Helper()
		for _, address := range []string{"10.9.0.1:80", "[fd99::1]:80"} {
			c, err := dial(t, ground, "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
				t.Errorf("%s: got %q, %v", address, got, err)
			}
		}
	}
	reached()
	unix.Kill(first.PID, unix.SIGKILL)
	gone := false
	for range 500 {
		in(t, ground, func() error {
			_, err := netlink.LinkByName(borderName)
			gone = errors.As(err, &netlink.LinkNotFoundError{})
			return nil
		})
		if gone {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !gone {
		t.Error("the border outlives its outlet")
	}
	second := open(t, ground)
	reached()
	third := open(t, ground) // of another that found no record of the second: the border is made anew
	reached()
	if !third.Alive() {
		t.Error("the outlet has ended")
	}
	for range 500 {
		if !second.Alive() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("an outlet outlives its border")
}

func runIP(args ...string) ([]byte, error) { return exec.Command("ip", args...).CombinedOutput() }
