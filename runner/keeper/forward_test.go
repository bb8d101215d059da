package keeper

import (
	"net"
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
	f, err := listenForward(Forward{Network: "udp4", Listen: "127.0.0.1:0", Target: echo("one ")})
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
		c.SetDeadline(time.Now().Add(5 * time.Second))
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
