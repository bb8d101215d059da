package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What a container has to say to the service manager that started it; sd_notify(3).
//
// systemd hears only processes of the unit, which a container's are not. So the container gets a
// socket of its own, in a directory that is mounted from where the container's state is, as runc has
// it; whoever starts the container listens there, and says in its name that it is ready.

const (
	notifyDir    = "notify"
	notifySocket = "notify.sock"
	notifyTarget = "/run/notify"
)

// addNotify gives the container its socket's directory.
func (c *Container) addNotify(conf *specs.Spec) error {
	dir := filepath.Join(c.dir, notifyDir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the umask
		return err
	}
	conf.Mounts = append(conf.Mounts, specs.Mount{
		Destination: notifyTarget, Type: "bind", Source: dir, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	env := slices.DeleteFunc(conf.Process.Env, func(s string) bool { return strings.HasPrefix(s, "NOTIFY_SOCKET=") })
	conf.Process.Env = append(env, "NOTIFY_SOCKET="+notifyTarget+"/"+notifySocket)
	return nil
}

// A Notifier listens to one container.
type Notifier struct {
	c    *Container
	host string
	fd   int
}

// Notifier listens to what the container says from now on, for the socket host, which is $NOTIFY_SOCKET.
// It is nil where either was made without one.
func (c *Container) Notifier(host string) (*Notifier, error) {
	dir, err := os.Open(filepath.Join(c.dir, notifyDir))
	if host == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), notifySocket) // paths of sockets must be short
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err = os.Remove(name); err == nil || errors.Is(err, fs.ErrNotExist) { // of a start that failed
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err == nil {
			err = unix.Chmod(name, 0o777) // for whatever user the container has
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening to the container at %s: %w", filepath.Join(c.dir, notifyDir, notifySocket), err)
	}
	return &Notifier{c: c, host: host, fd: fd}, nil
}

// Close ends listening.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return unix.Close(n.fd)
}

// Pass waits until the container says that it is ready, and passes that on with its process, or until
// it ends.
func (n *Notifier) Pass(ctx context.Context) error {
	init, err := unix.PidfdOpen(n.c.Init.PID, 0)
	if err == nil {
		defer unix.Close(init)
	}
	ended := err != nil || !n.c.Init.Alive()
	for ctx.Err() == nil {
		if n.isReady() { // it may have said so and ended
			return n.ready()
		}
		if ended {
			return nil
		}
		list := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}, {Fd: int32(init), Events: unix.POLLIN}}
		if _, err := unix.Poll(list, 200); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
		ended = list[1].Revents != 0
	}
	return context.Cause(ctx)
}

// isReady says whether the container has said so in what is there to be read.
func (n *Notifier) isReady() bool {
	buf := make([]byte, 4096)
	for {
		k, _, err := unix.Recvfrom(n.fd, buf, unix.MSG_DONTWAIT) // descriptors that come along are dropped
		if err != nil {
			return false
		}
		for line := range bytes.SplitSeq(buf[:k], []byte{'\n'}) {
			if string(line) == "READY=1" {
				return true
			}
		}
	}
}

// ready tells the host, and waits until that has heard it: a process that has ended is nobody's.
func (n *Notifier) ready() (err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	host := &unix.SockaddrUnix{Name: n.host}
	for _, text := range []string{"READY=1", fmt.Sprintf("MAINPID=%d", n.c.Init.PID)} {
		if err := unix.Sendto(fd, []byte(text), unix.MSG_NOSIGNAL, host); err != nil {
			return fmt.Errorf("telling %s that the container is ready: %w", n.host, err)
		}
	}
	heard, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer heard.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(theirs.Fd())), host, unix.MSG_NOSIGNAL) // sd_notify_barrier(3)
	theirs.Close()
	if err == nil && heard.SetReadDeadline(time.Now().Add(barrierTime)) == nil {
		heard.Read(make([]byte, 1)) // its end, or that nobody there knows of barriers
	}
	return nil
}

const barrierTime = 5 * time.Second
