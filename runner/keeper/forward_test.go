package keeper

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestForwardUDP: answers find their way back to the client they are for, and a container
// that moves is followed.
func TestForwardUDP(t *testing.T) {
	echo := func(prefix string) string {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buffer := make([]byte, 1500)
			for {
				n, from, err := c.ReadFrom(buffer)
				if err != nil {
					return
				}
				c.WriteTo(append([]byte(prefix), buffer[:n]...), from)
			}
		}()
		return c.LocalAddr().String()
	}
	f, err := listenForward(Forward{Network: "udp4", Listen: "127.0.0.1:0", Target: echo("one ")}, roomOf(100))
	if err != nil {
		t.Fatal(err)
	}
	go f.run()
	defer f.close()
	address := f.(*udpForward).socket.LocalAddr().String()
	client := func() *net.UDPConn {
		c, err := net.Dial("udp4", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UDPConn)
	}
	ask := func(c *net.UDPConn, text string) string {
		c.SetDeadline(time.Now().Add(time.Minute))
		buffer := make([]byte, 1500)
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	a, b := client(), client()
	for _, text := range []string{"x", "y"} {
		if got := ask(a, "a"+text) + ask(b, "b"+text); got != "one a"+text+"one b"+text {
			t.Errorf("got %q", got)
		}
	}
	f.retarget(echo("two "))
	if got := ask(a, "z"); got != "two z" {
		t.Errorf("after a move: got %q", got)
	}
}

// TestForwardLeavesRoom: clients that come when others have taken all descriptors that there are for clients wait in the
// kernel, and are served when those go.
func TestForwardLeavesRoom(t *testing.T) {
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	r := roomOf(2 * tcpDescriptors) // too few to be shrunk
	f, err := listenForward(Forward{Network: "tcp4", Listen: "127.0.0.1:0", Target: server.Addr().String()}, r)
	if err != nil {
		t.Fatal(err)
	}
	go f.run()
	defer f.close()
	served := make(chan *net.TCPConn)
	for range 20 {
		go func() {
			c, err := net.Dial("tcp4", f.(*tcpForward).listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
			c.Write([]byte("x"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
				served <- c.(*net.TCPConn)
			}
		}()
	}
	for range 20 / 2 {
		one, two := <-served, <-served
		select {
		case <-served:
			t.Fatal("a third client was served at once")
		case <-time.After(20 * time.Millisecond):
		}
		one.Close()
		two.Close()
	}
	u, err := listenForward(Forward{Network: "udp4", Listen: "127.0.0.1:0", Target: server.Addr().String()}, roomOf(0))
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	if u.(*udpForward).client(netip.MustParseAddrPort("127.0.0.1:9")) != nil {
		t.Error("a client of UDP was let in where there is no room")
	}
}
