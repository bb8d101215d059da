package bundle

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestNotify: that a container is ready is passed on, with its process and nothing else of what it
// says; one that ends without having said so keeps nobody waiting.
func TestNotify(t *testing.T) {
	p := newPlace(t)
	p.notify = true
	host := filepath.Join(t.TempDir(), "host.sock")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	hear := func(process string) {
		for _, want := range []string{"READY=1", process, "BARRIER=1"} {
			b := make([]byte, 100)
			systemd.SetReadDeadline(time.Now().Add(20 * time.Second))
			k, _, _, _, err := systemd.ReadMsgUnix(b, nil) // the descriptor of the barrier is dropped
			if err != nil || string(b[:k]) != want {
				t.Fatalf("systemd heard %q, %v, want %q", b[:k], err, want)
			}
		}
	}
	start := func(id, script string) (*Container, *Notifier) {
		c, err := p.create(t, id, script, func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "NOTIFY_SOCKET=/other") })
		if err != nil {
			t.Fatal(err)
		}
		n, err := c.Notifier(host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c, n
	}
	_, n := start("a", "exit 0")
	if err := n.Pass(t.Context()); err != nil {
		t.Errorf("one that ends: %v", err)
	}
	quick, n := start("quick", "exit 0")
	said, err := net.Dial("unixgram", filepath.Join(quick.dir, notifyDir, notifySocket))
	if err == nil {
		_, err = said.Write([]byte("READY=1"))
		said.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, quick, specs.StateStopped)
	go n.Pass(t.Context())
	hear(fmt.Sprintf("MAINPID=%d", quick.Init.PID))

	c, n := start("b", `ls -l $NOTIFY_SOCKET; sleep 100`)
	passed := make(chan error, 1)
	go func() { passed <- n.Pass(t.Context()) }()
	conn, err := net.Dial("unixgram", filepath.Join(c.dir, notifyDir, notifySocket))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, text := range []string{"STATUS=ill", "", "XREADY=1", "STOPPING=1\nMAINPID=1\nREADY=1\nFDSTORE=1"} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	hear(fmt.Sprintf("MAINPID=%d", c.Init.PID))
	select {
	case err := <-passed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(barrierTime):
		t.Error("it waits for more")
	}
	for deadline := time.Now().Add(10 * time.Second); p.output(t) == "" && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := p.output(t); len(got) < 5 || got[0] != 's' || filepath.Base(got[:len(got)-1]) != notifySocket {
		t.Errorf("the container sees %q, want a socket", got)
	}
}
