package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/slack"
)

// outletRecord is of the process that passes on what leaves a user's network, RUNROOT/network/outlet.json.
// See the package runner/outlet.
type outletRecord struct {
	Process statefile.Process
}

func (m *Manager) outletFile() string { return filepath.Join(m.dir(), "outlet.json") }

// OpenOutlet makes sure that other hosts are reached from the ground. Containers do without:
// the error is for telling. Nothing is to be done for root.
func (m *Manager) OpenOutlet(ctx context.Context) (err error) {
	ground := m.Ground()
	if ground == "" || m.outletAlive() {
		return nil
	}
	unlock, err := statefile.Lock(ctx, filepath.Join(m.dir(), "outlet.lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if m.outletAlive() {
		return nil
	}
	if len(m.Self) == 0 {
		return errors.New("containers cannot reach other hosts: it is not known what to execute for that")
	}
	p, err := m.startOutlet(ctx, ground)
	if err != nil {
		return fmt.Errorf("containers cannot reach other hosts: %w", err)
	}
	return statefile.Write(m.outletFile(), outletRecord{p}, statefile.WriteOptions{})
}

func (m *Manager) outletAlive() bool {
	var o outletRecord
	return statefile.Read(m.outletFile(), &o) == nil && o.Process.Alive()
}

// closeOutlet ends the process.
func (m *Manager) closeOutlet() error {
	var o outletRecord
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

// outletPatience is how long an outlet may take to become ready.
const outletPatience = 30 * time.Second

// startOutlet starts the process and returns when the ground has a way out.
func (m *Manager) startOutlet(ctx context.Context, ground string) (p statefile.Process, err error) {
	gateways := []netip.Prefix{gateway4}
	if reaches6() {
		gateways = append(gateways, gateway6)
	}
	packets, err := makeBorder(ground, gateways)
	if err != nil {
		return p, fmt.Errorf("making the border of the network: %w", err)
	}
	defer packets.Close()
	said, says, err := os.Pipe()
	if err != nil {
		return p, err
	}
	defer said.Close()
	defer context.AfterFunc(ctx, func() { said.Close() })()
	args := append(m.Self[1:len(m.Self):len(m.Self)], "network", "outlet", fmt.Sprint(borderMTU))
	for _, g := range gateways {
		args = append(args, g.String())
	}
	cmd := exec.Command(m.Self[0], args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = "/", says, says, &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{packets}
	slack.Usual(func() { err = cmd.Start() })
	says.Close()
	if err != nil {
		return p, err
	}
	go cmd.Wait() // it lives on; this only reaps it should it end while we are here
	if err := said.SetReadDeadline(time.Now().Add(outletPatience)); err != nil {
		return p, err
	}
	if words, err := io.ReadAll(io.LimitReader(said, 4096)); err != nil || len(words) > 0 {
		_ = cmd.Process.Kill()
		return p, errors.Join(fmt.Errorf("%s %s: %s", m.Self[0], strings.Join(args, " "), bytes.TrimSpace(words)), err)
	}
	return statefile.Identify(cmd.Process.Pid)
}

// reaches6 says whether this host has a way to others by IPv6: a connection is only looked up.
func reaches6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet6{Port: 53, Addr: netip.MustParseAddr("2000::1").As16()}) == nil
}
