package keeper

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// dialInside connects from inside the container's network namespace.
func dialInside(ctx context.Context, p *process, network, address string) (net.Conn, error) {
	return dialWithin(ctx, func() error {
		return p.use(func(pidfd *os.File) error {
			if err := unix.Setns(descriptor(pidfd), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
			return nil
		})
	}, network, address)
}

// dialWithin connects from the network namespace that enter moves a thread into. Only the
// socket is made there, by a thread that ends with the call: a socket stays in the namespace
// it was made in.
func dialWithin(ctx context.Context, enter func() error, network, address string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := enter(); err != nil {
			done <- result{nil, err}
			return
		}
		c, err := connectHere(ctx, network, address)
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

// connectHere connects on this very thread: to an address, never a name, because net.Dialer
// would leave it for addresses it tries in parallel.
func connectHere(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	d := net.Dialer{Deadline: deadline, FallbackDelay: -1}
	return d.Dial(network, to.String())
}

// probeAddress completes PORT and HOST:PORT. Names are not looked up: the health of the
// container shall not depend on a name server.
func probeAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = "", strings.TrimPrefix(address, ":")
	}
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	if net.ParseIP(host) == nil {
		return "", fmt.Errorf("%q is not an address", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a port", port)
	}
	return net.JoinHostPort(host, port), nil
}

func probeTCP(ctx context.Context, p *process, address string) error {
	address, err := probeAddress(address)
	if err != nil {
		return err
	}
	c, err := dialInside(ctx, p, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// probeHTTP sends a GET and reads the status line: nothing of net/http, which would make
// the keeper three times as large. An answer of 200 to 399 is well.
func probeHTTP(ctx context.Context, p *process, target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	if u.Scheme != "http" {
		return "", fmt.Errorf("%q is not an http URL", target)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	address, err := probeAddress(host)
	if err != nil {
		return "", err
	}
	c, err := dialInside(ctx, p, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: teu-health\r\nConnection: close\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(c, 1024).ReadSlice('\n')
	if err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	status := strings.TrimSpace(string(line))
	var major, minor, code int
	if _, err := fmt.Sscanf(status, "HTTP/%d.%d %d", &major, &minor, &code); err != nil {
		return "", fmt.Errorf("the answer %q is not HTTP", status)
	}
	if code < 200 || code > 399 {
		return "", fmt.Errorf("%s", status)
	}
	return status, nil
}

// probeUnix connects to a socket in the container's file system, which is not left
// whatever links are in it.
func probeUnix(ctx context.Context, p *process, path string) error {
	root, err := rootfs.Open(fmt.Sprintf("/proc/%d/root", p.id.PID))
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !p.id.Alive() { // the number may be another process's
		return unix.ESRCH
	}
	d := net.Dialer{}
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	return c.Close()
}
