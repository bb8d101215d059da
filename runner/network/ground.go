package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/userns"
)

// The ground is where bridges and rules are: the host's network for root. Other users may
// not change that; they have a network namespace of their own at
//
//	RUNROOT/network/ground
//
// in which everything is as it is for root, with a program at its border (outlet.go) that
// passes on what leaves it, as the user. Published ports need no such program: keepers
// listen on the host and connect from the ground.

// Ground is the path of the namespace bridges are in, "" for this process's own.
func (m *Manager) Ground() string { return m.ground() }

func (m *Manager) findGround() string {
	if ownsNetwork() {
		return ""
	}
	return filepath.Join(m.dir(), "ground")
}

// ownsNetwork says whether this process may change the network it is in: that belongs to
// its user namespace, or that is the host's; ioctl_nsfs(2). It is asked of the calling
// thread, as the first one may have gone to the ground.
func ownsNetwork() bool {
	if !userns.Inside() {
		return true
	}
	net, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true
	}
	defer net.Close()
	fd, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false // EPERM: it belongs to an ancestor
	}
	defer unix.Close(fd)
	var owner, own unix.Stat_t
	if unix.Fstat(fd, &owner) != nil || unix.Stat("/proc/self/ns/user", &own) != nil {
		return true
	}
	return owner.Ino == own.Ino && owner.Dev == own.Dev
}

// grounded runs f, which takes the network's lock and stands on the ground from then on. The
// kernel lets no thread back into the host's network that could not change it, so f has a
// thread of its own, which ends with it.
func grounded[T any](m *Manager, f func() (T, error)) (v T, err error) {
	if m.Ground() == "" {
		return f()
	}
	err = apart(func() (err error) {
		runtime.LockOSThread() // never unlocked
		v, err = f()
		return err
	})
	return v, err
}

// alone is grounded for what has no result.
func (m *Manager) alone(f func() error) error {
	_, err := grounded(m, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// standOn moves the calling thread to the ground for good. The ground is made if it is not
// there; the network's lock is held.
func (m *Manager) standOn() error {
	path := m.Ground()
	if path == "" || enterGround(path) == nil {
		return nil
	}
	if err := makeGround(path); err != nil {
		return fmt.Errorf("making the user's network: %w", err)
	}
	return nil
}

func enterGround(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// makeGround makes the namespace, moves the thread there and opens the way out of it. What
// is at path may be left from before the machine, or the user's namespaces, went down.
func makeGround(path string) error {
	if err := removeNetNS(path); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return holdNetNS("/proc/thread-self/ns/net", path)
}

// removeGround lets go of the namespace, and of what is at its border.
func (m *Manager) removeGround() error {
	path := m.Ground()
	if path == "" {
		return nil
	}
	return errors.Join(m.closeOutlet(), removeNetNS(path))
}

// apart runs f on a thread of the network this process is in, wherever the caller stands.
func apart(f func() error) error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return <-result
}
