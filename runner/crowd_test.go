package runner

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/network"
)

// TestCrowd is many containers on one network: each finds and reaches others by name, and
// a name that all have is answered whole by TCP. TEU_SOAK=1 takes two hundred.
func TestCrowd(t *testing.T) {
	e := newEngine(t)
	count := 12
	if os.Getenv("TEU_SOAK") != "" {
		count = 200
	}
	if _, err := e.CreateNetwork(t.Context(), network.CreateOptions{Name: "crowd"}); err != nil {
		t.Fatal(err)
	}
	all := make([]*Container, count)
	each(count, func(i int) {
		o := sh(`hostname >/name; exec busybox httpd -f -p 80 -h /`)
		o.Network = "crowd"
		o.Endpoints = []Endpoint{{Network: "crowd", EndpointOptions: network.EndpointOptions{Aliases: []string{"everybody"}}}}
		o.Hostname = fmt.Sprint("c", i)
		all[i] = detached(t, e, fmt.Sprint("c", i), o)
	})
	each(count, func(i int) {
		for k := range min(count, 20) {
			name := fmt.Sprint("c", (i+k*max(1, count/20))%count)
			if got, err := visit(t, e.network.NetNSPath(all[i].ID), name); got != name {
				t.Errorf("c%d asks %s: %q, %v", i, name, got, err)
			}
		}
	})
	for _, protocol := range []string{"udp", "tcp"} {
		addresses, err := askInside(t, e.network.NetNSPath(all[0].ID), protocol, "everybody.")
		if err != nil || len(addresses) != count {
			t.Errorf("by %s everybody has %d addresses, %v; want %d", protocol, len(addresses), err, count)
		}
	}
}

// visit gets the name of a container from its server, from within a network namespace.
func visit(t *testing.T, netns, name string) (got string, err error) {
	t.Helper()
	for range 100 { // until it listens
		var addresses []netip.Addr
		if addresses, err = askInside(t, netns, "udp", name+"."); err == nil {
			client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
				DialContext: func(ctx context.Context, network, _ string) (c net.Conn, err error) {
					inside(t, netns, func() { c, err = (&net.Dialer{}).DialContext(ctx, network, addresses[0].String()+":80") })
					return c, err
				}}}
			var resp *http.Response
			if resp, err = client.Get("http://" + name + "/name"); err == nil {
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				return strings.TrimSpace(string(body)), err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", err
}

// askInside looks up a name in a network namespace. Go's resolver asks again by TCP where
// an answer is truncated, as the standard has it.
func askInside(t *testing.T, netns, protocol, name string) (addresses []netip.Addr, err error) {
	t.Helper()
	inside(t, netns, func() {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, want, _ string) (c net.Conn, err error) {
			if protocol == "udp" {
				protocol = want
			}
			asked := protocol
			inside(t, netns, func() { c, err = (&net.Dialer{}).DialContext(ctx, asked, "127.0.0.11:53") })
			return c, err
		}}
		addresses, err = r.LookupNetIP(t.Context(), "ip4", name)
	})
	return addresses, err
}

// inside runs f on a thread that is in a network namespace and ends with it.
func inside(t *testing.T, netns string, f func()) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread is lost
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f()
	})
	wg.Wait()
}

// TestPublishedUDP asks a server in a container by UDP on the host's loopback, where its
// keeper passes datagrams on: each client gets the answers to its own.
func TestPublishedUDP(t *testing.T) {
	e := newEngine(t)
	o := sh(`exec sleep 1000`)
	o.Network = ""
	o.Ports = []network.Port{{Protocol: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), Container: 7}}
	c := detached(t, e, "echo", o)
	ports := e.Ports(c)
	if len(ports) != 1 || ports[0].HostPort == 0 {
		t.Fatalf("published %+v", ports)
	}
	var server net.PacketConn
	inside(t, e.network.NetNSPath(c.ID), func() {
		var err error
		if server, err = net.ListenPacket("udp4", ":7"); err != nil {
			t.Error(err)
		}
	})
	if server == nil {
		return
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(append([]byte("you said "), buf[:n]...), from)
		}
	}()
	var clients []net.Conn
	for range 8 {
		conn, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", ports[0].HostPort))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		clients = append(clients, conn)
	}
	for round := range 3 {
		for i, conn := range clients {
			fmt.Fprint(conn, "hello ", i, round)
		}
		for i, conn := range clients {
			buf := make([]byte, 1500)
			n, err := conn.Read(buf)
			if want := fmt.Sprint("you said hello ", i, round); err != nil || string(buf[:n]) != want {
				t.Errorf("got %q, %v; want %q", buf[:n], err, want)
			}
		}
	}
}
