package keeper

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/test/privilege"
)

// someProcess is a process as those that are probed.
func someProcess(t *testing.T, pid int) *process {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	id, err := statefile.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{id: id, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	t.Cleanup(p.close)
	return p
}

// A container answers a probe without end: the keeper keeps as much as a line may have.
func TestEndlessAnswers(t *testing.T) {
	privilege.NeedRoot(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var sent atomic.Int64
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for chunk := bytes.Repeat([]byte("x"), 64<<10); sent.Load() < 64<<20; sent.Add(int64(len(chunk))) {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said, err := probeHTTP(ctx, someProcess(t, os.Getpid()), "http://"+l.Addr().String())
	if err == nil || len(said)+len(err.Error()) > 4096 || sent.Load() >= 64<<20 {
		t.Errorf("%d bytes after %d were sent, %v", len(said), sent.Load(), err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		for range 64 {
			w.Write(bytes.Repeat([]byte("y"), 64<<10))
		}
		w.Close()
	}()
	if text := readOutput(r); len(text) != healthOutput {
		t.Errorf("%d bytes of output are kept, want %d", len(text), healthOutput)
	}
}

// A link of the container in the place of a probe's socket leads to no socket of the host.
func TestUnixProbeStaysInside(t *testing.T) {
	privilege.NeedRoot(t)
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	outside, inside := dir+"/socket", dir+"/root/socket"
	if err := errors.Join(os.MkdirAll(dir+"/root/run", 0o755), os.WriteFile(dir+"/root/busybox", busybox, 0o755),
		os.Symlink(outside, dir+"/root/absolute"), os.Symlink("../../../../../.."+outside, dir+"/root/run/relative")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/busybox", "sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir + "/root", Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var reached atomic.Int64
	for _, path := range []string{outside, inside} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if c.Close(); path == outside {
					reached.Add(1)
				}
			}
		}()
	}
	p := someProcess(t, cmd.Process.Pid)
	for path, want := range map[string]bool{"/socket": true, "socket": true, "/../socket": true, "/absolute": false, "/run/relative": false} {
		if err := probeUnix(t.Context(), p, path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if reached.Load() != 0 {
		t.Error("a socket of the host was reached")
	}
}

// A container that is unhealthy and has no limit of time to end in (--stop-timeout -1) is not killed.
func TestUnhealthyWithoutTimeout(t *testing.T) {
	privilege.NeedRoot(t)
	b, cfg := sealed(t), config(t)
	well, err := net.Listen("unix", filepath.Join(cfg.RunDir, "well")) // until the shell traps the signal
	if err != nil {
		t.Fatal(err)
	}
	defer well.Close()
	cfg.Health = &HealthCheck{
		Probe: "UNIX", Target: well.Addr().String(), Interval: 50 * time.Millisecond, Timeout: time.Second, StartInterval: time.Second, Retries: 1,
		OnFailure: "stop", StopSignal: int(unix.SIGTERM), StopTimeout: -time.Second,
	}
	start(t, b, cfg, shell(t, 3, "trap 'sleep 0.3; exit 7' TERM; echo ready; while :; do sleep 0.02; done"), StartOptions{})
	if !await(func() bool { return len(logEntries(t, cfg)) > 0 }) {
		t.Fatal("the program did not start")
	}
	well.Close()
	if !await(func() bool { return readState(cfg).Status == Exited }) || readState(cfg).ExitCode != 7 {
		t.Errorf("state %+v", readState(cfg))
	}
}
