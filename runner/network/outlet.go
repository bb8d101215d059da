package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// outlet is the program that passes on what leaves a user's network, RUNROOT/network/outlet.json.
type outlet struct {
	Program string
	Process statefile.Process
}

func (m *Manager) outletFile() string { return filepath.Join(m.dir(), "outlet.json") }

// Outlet is the program that lets the containers of a user reach other hosts, or "" if none
// is installed. pasta needs no address translation and is preferred.
func Outlet() string {
	for _, name := range []string{"pasta", "slirp4netns"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// errNoOutlet is the state of a user's network from which no other host is reached.
var errNoOutlet = errors.New("containers cannot reach other hosts: install the package passt (or slirp4netns)")

// OpenOutlet makes sure that other hosts are reached from the ground. Containers do without:
// the error is for telling, and is returned once until the ground is made again. Nothing is
// to be done for root.
func (m *Manager) OpenOutlet(ctx context.Context) (err error) {
	ground := m.Ground()
	if ground == "" {
		return nil
	}
	if m.outletAlive() {
		return nil
	}
	path := Outlet()
	if path == "" {
		return m.sayOnce(errNoOutlet)
	}
	unlock, err := statefile.Lock(ctx, filepath.Join(m.dir(), "outlet.lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if m.outletAlive() {
		return nil
	}
	p, err := startOutlet(ctx, path, ground)
	if err != nil {
		return m.sayOnce(fmt.Errorf("containers cannot reach other hosts: %w", err))
	}
	return statefile.Write(m.outletFile(), outlet{path, p}, statefile.WriteOptions{})
}

// sayOnce returns err the first time.
func (m *Manager) sayOnce(err error) error {
	f, e := os.OpenFile(m.saidFile(), os.O_CREATE|os.O_EXCL, 0o600)
	if e != nil {
		return nil
	}
	f.Close()
	return err
}

func (m *Manager) saidFile() string { return filepath.Join(m.dir(), "outlet.said") }

func (m *Manager) outletAlive() bool {
	var o outlet
	return statefile.Read(m.outletFile(), &o) == nil && o.Process.Alive()
}

// closeOutlet ends the program.
func (m *Manager) closeOutlet() error {
	if err := os.Remove(m.saidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var o outlet
	err := statefile.Read(m.outletFile(), &o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && o.Process.Alive() {
		if err = unix.Kill(o.Process.PID, unix.SIGTERM); err == unix.ESRCH {
			err = nil
		}
	}
	return errors.Join(err, os.Remove(m.outletFile()))
}

// outletArguments has no port of the host forwarded into the ground, nor one of the ground's
// loopback to the host's: keepers do that, for the ports that were asked for.
func outletArguments(program, ground string) []string {
	if filepath.Base(program) == "pasta" {
		return []string{"--config-net", "--foreground", "--quiet", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--netns", ground}
	}
	return []string{"--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", ground, "tap0"}
}

// startOutlet starts the program and returns when the ground has a way out.
func startOutlet(ctx context.Context, program, ground string) (statefile.Process, error) {
	said, err := os.CreateTemp("", "teu-outlet-")
	if err != nil {
		return statefile.Process{}, err
	}
	defer said.Close()
	defer os.Remove(said.Name())
	cmd := exec.Command(program, outletArguments(program, ground)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = "/", said, said, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return statefile.Process{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for range 500 {
		if hasWayOut(ground) {
			return statefile.Identify(cmd.Process.Pid)
		}
		select {
		case err := <-ended:
			text, _ := os.ReadFile(said.Name())
			return statefile.Process{}, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, bytes.TrimSpace(text))
		case <-ctx.Done():
			cmd.Process.Kill()
			return statefile.Process{}, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	cmd.Process.Kill()
	return statefile.Process{}, fmt.Errorf("%s does not become ready", filepath.Base(program))
}

// hasWayOut says whether the namespace has a default route; proc_pid_net(5), route.
func hasWayOut(ground string) bool {
	var routes []byte
	err := enter(ground, entering{oneWay: true}, func(*scene) (err error) {
		routes, err = os.ReadFile("/proc/thread-self/net/route")
		return err
	})
	for line := range strings.Lines(string(routes)) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return true
		}
	}
	return err != nil
}
