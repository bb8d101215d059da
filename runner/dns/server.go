package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// busy is how many questions of a container are worked on at once. More wait.
const busy = 128

// Responder answers one container.
type Responder struct {
	view view
	udp  *net.UDPConn
	tcp  *net.TCPListener
	slot chan struct{}
}

// Listen opens the responder of the Config at path, in the namespace it names. It is an
// os.ErrNotExist where the container is in no network with names.
func Listen(path string) (*Responder, error) {
	s := &Responder{view: view{path: path}, slot: make(chan struct{}, busy)}
	c, _ := s.view.current()
	if c.Port == 0 {
		return nil, fmt.Errorf("%s: %w", path, os.ErrNotExist)
	}
	here := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 11}), c.Port)
	err := within(c.NetNS, func() (err error) {
		if s.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(here)); err != nil {
			return err
		}
		s.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(here))
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening for name lookups: %w", err), s.Close())
	}
	return s, nil
}

// Close ends the responder.
func (s *Responder) Close() error {
	var errs []error
	if s.udp != nil {
		errs = append(errs, s.udp.Close())
	}
	if s.tcp != nil {
		errs = append(errs, s.tcp.Close())
	}
	return errors.Join(errs...)
}

// Serve answers until Close.
func (s *Responder) Serve() {
	go s.serveTCP()
	buffer := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		message := append([]byte(nil), buffer[:n]...)
		s.slot <- struct{}{}
		go func() {
			defer func() { <-s.slot }()
			if reply := s.respond(message, "udp"); reply != nil {
				s.udp.WriteToUDPAddrPort(reply, from)
			}
		}()
	}
}

func (s *Responder) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, say
			continue
		}
		s.slot <- struct{}{}
		go func() {
			defer func() { <-s.slot }()
			defer c.Close()
			s.converse(c)
		}()
	}
}

// converse answers the questions of a TCP connection (RFC 1035, section 4.2.2), for which
// there is little time: the connection takes one of few places.
func (s *Responder) converse(c net.Conn) {
	for {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		message, err := readTCP(c)
		if err != nil {
			return
		}
		reply := s.respond(message, "tcp")
		if reply == nil || writeTCP(c, reply) != nil {
			return
		}
	}
}

func readTCP(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeTCP(w io.Writer, message []byte) error {
	if len(message) > 0xffff {
		return fmt.Errorf("an answer of %d bytes", len(message))
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// respond answers a message, by what the networks know or what a server says. It is nil
// for what is no question.
func (s *Responder) respond(message []byte, protocol string) []byte {
	q, ok := parse(message)
	if !ok {
		return nil
	}
	c, zones := s.view.current()
	if reply := answer(c, zones, q); reply != nil {
		if protocol == "udp" {
			return q.fit(reply)
		}
		return reply
	}
	if !q.forwarded() {
		return q.reply(dnsmessage.RCodeNotImplemented, nil)
	}
	if reply := forward(c, message, q, protocol); reply != nil {
		return reply
	}
	return q.reply(dnsmessage.RCodeServerFailure, nil)
}

// forwardTime is how long one server is waited for.
const forwardTime = 3 * time.Second

// forward asks the servers in turn and returns the first answer that is one. The answer of
// a server that fails is kept for the case that nobody knows better.
func forward(c Config, message []byte, q question, protocol string) (last []byte) {
	for _, server := range c.Servers {
		if server.Host && c.Closed {
			continue
		}
		reply, err := ask(c, server, message, q, protocol)
		if err != nil {
			continue
		}
		if code := dnsmessage.RCode(reply[3] & 15); code != dnsmessage.RCodeServerFailure && code != dnsmessage.RCodeRefused {
			return reply
		}
		last = reply
	}
	return last
}

// ask passes a message on to one server, as it is.
func ask(c Config, server Server, message []byte, q question, protocol string) (reply []byte, err error) {
	address := server.Address
	if _, err := netip.ParseAddr(address); err == nil {
		address = net.JoinHostPort(address, "53")
	}
	var conn net.Conn
	ctx, cancel := context.WithTimeout(context.Background(), forwardTime)
	defer cancel()
	dial := func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, protocol, address)
		return err
	}
	if server.Host {
		err = dial()
	} else {
		err = within(c.NetNS, dial)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(forwardTime))
	if protocol == "tcp" {
		if err := writeTCP(conn, message); err != nil {
			return nil, err
		}
		if reply, err = readTCP(conn); err == nil && !answers(reply, q) {
			err = errors.New("not an answer")
		}
		return reply, err
	}
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	buffer := make([]byte, 0xffff)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		if answers(buffer[:n], q) {
			return append([]byte(nil), buffer[:n]...), nil
		}
	}
}

// answers says whether a message answers a question, and not one that somebody guesses.
func answers(message []byte, q question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || !h.Response || h.ID != q.header.ID {
		return false
	}
	got, err := p.Question()
	return err == dnsmessage.ErrSectionDone || err == nil && got.Type == q.Type && got.Class == q.Class &&
		strings.EqualFold(got.Name.String(), q.Name.String())
}

// within runs f, which must not leave its thread, in the network namespace at path. The
// thread ends with it: the keeper of a user's container could not return.
func within(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
