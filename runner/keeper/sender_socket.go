package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connection to a log server. It is made of system calls, because net.Dial would bring the
// whole resolver into the keeper. Waiting ends when stop is closed.
type socket struct {
	fd      int // -1: none
	network string
	stop    chan struct{}
	relay   []string
}

var errStopped = errors.New("the sender ends")

// dialTime is how long a server is waited for.
const dialTime = 5 * time.Second

// connect connects to the first target that can be reached. The error is of the first that cannot.
func (s *socket) connect(targets []Target) (err error) {
	s.close()
	for _, t := range targets {
		e := s.dial(t)
		if e == nil {
			return nil
		}
		s.close()
		if err == nil {
			err = e
		}
	}
	return err
}

func (s *socket) dial(t Target) error {
	if t.Network == "tls" {
		return s.relayed(t.Address) // it says itself where
	}
	if err := s.direct(t); err != nil {
		return fmt.Errorf("dial %s %s: %w", t.Network, t.Address, err)
	}
	return nil
}

func (s *socket) direct(t Target) error {
	var to unix.Sockaddr
	family, kind := unix.AF_UNIX, unix.SOCK_STREAM
	if t.Network == "udp" || t.Network == "unixgram" {
		kind = unix.SOCK_DGRAM
	}
	if t.Network == "tcp" || t.Network == "udp" {
		a, err := netip.ParseAddrPort(t.Address)
		if err != nil {
			return err
		}
		if a.Addr().Unmap().Is4() {
			family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().Unmap().As4(), Port: int(a.Port())}
		} else {
			family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
		}
	} else {
		to = &unix.SockaddrUnix{Name: t.Address}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	s.fd, s.network = fd, t.Network
	if t.Network == "tcp" { // as net.Dial has it: a host that is gone is noticed
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15)
	}
	err = unix.Connect(fd, to)
	if err == unix.EINPROGRESS || err == unix.EINTR {
		if err = s.wait(unix.POLLOUT, dialTime); err == nil {
			var n int
			n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && n != 0 {
				err = unix.Errno(n)
			}
		}
	}
	if err != nil {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

// relayed connects to a program that connects to address, which is its last argument, with TLS. The connection
// is its standard input, on which it says first how that went: an empty line, or one that says what is wrong.
func (s *socket) relayed(address string) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	s.fd, s.network = fds[0], "tls"
	theirs := os.NewFile(uintptr(fds[1]), "relay")
	p, err := startProcess(append(slices.Clip(s.relay), address), &os.ProcAttr{Dir: "/", Files: []*os.File{theirs, nil, os.Stderr}})
	theirs.Close()
	if err != nil {
		return err
	}
	go p.Wait() // it ends with the connection
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return s.said()
}

// said reads the line of a relay, byte by byte as what follows it is the server's.
func (s *socket) said() error {
	var line []byte
	for b := [1]byte{}; len(line) < maxAnswer; {
		n, err := unix.Read(s.fd, b[:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := s.wait(unix.POLLIN, 2*dialTime); err != nil { // it has dialTime itself, after its start
				return err
			}
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return fmt.Errorf("%s has ended", s.relay[0])
		case b[0] != '\n':
			line = append(line, b[0])
		case len(line) == 0:
			return nil
		default:
			return errors.New(string(line))
		}
	}
	return errors.New(string(line))
}

func (s *socket) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// stream says whether messages have no borders of their own.
func (s *socket) stream() bool {
	return s.network == "tcp" || s.network == "tls" || s.network == "unix"
}

// wait waits for events, at most for limit if that is not 0.
func (s *socket) wait(events int16, limit time.Duration) error {
	for begun := time.Now(); ; {
		select {
		case <-s.stop:
			return errStopped
		default:
		}
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(fds, 200)
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		case limit > 0 && time.Since(begun) > limit:
			return unix.ETIMEDOUT
		}
	}
}

// maxSaid is how much a server may say that nobody asked, in bytes, between two messages.
const maxSaid = 64 << 10

// broken says whether the server has ended a connection, or only talks. What it says is thrown away.
func (s *socket) broken() bool {
	if !s.stream() {
		return false
	}
	var b [256]byte
	for said := 0; said < maxSaid; {
		n, err := unix.Read(s.fd, b[:])
		switch {
		case err == unix.EINTR:
		case n > 0:
			said += n
		case err == unix.EAGAIN:
			return false
		default:
			return true
		}
	}
	return true
}

// write sends b, which takes as long as the server does, but at most limit for each part unless that is 0.
func (s *socket) write(b []byte, limit time.Duration) error {
	refused := false
	for len(b) > 0 {
		n, err := unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			b = b[n:]
			if !s.stream() {
				return nil
			}
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := s.wait(unix.POLLOUT, limit); err != nil {
				return err
			}
		case err == unix.ECONNREFUSED && s.network == "udp": // of a message before; nobody promises anything
			if refused {
				return nil
			}
			refused = true
		case err == unix.EMSGSIZE && s.network == "udp":
			fmt.Fprintf(os.Stderr, "a message of %d bytes is too large for UDP\n", len(b))
			return nil
		default:
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}

// writeJournal sends one message to systemd's journal; one that is too large for a datagram in a file that can
// no longer be changed (systemd, "Native Journal Protocol").
func (s *socket) writeJournal(b []byte) error {
	err := s.write(b, 0)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "journal")
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	for {
		_, err := unix.SendmsgN(s.fd, nil, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			if err := s.wait(unix.POLLOUT, 0); err != nil {
				return err
			}
		default:
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// maxAnswer is more than a server has to say to one message.
const maxAnswer = 4 << 10

// await reads until the server has said id.
func (s *socket) await(id []byte, limit time.Duration) error {
	var b [maxAnswer]byte
	for n := 0; ; {
		k, err := unix.Read(s.fd, b[n:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := s.wait(unix.POLLIN, limit); err != nil {
				return fmt.Errorf("reading the answer: %w", err)
			}
		case err != nil:
			return os.NewSyscallError("read", err)
		case k == 0:
			return errors.New("the server ended the connection without an answer")
		default:
			n += k
			if bytes.Contains(b[:n], id) {
				return nil
			}
			if n == len(b) {
				return errors.New("the answer is of another message")
			}
		}
	}
}
