package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	linkRate  = 200e6 / 8             // bytes per second, each way
	linkHalf  = 25 * time.Millisecond // from one end to the other
	linkQueue = 1250e3                // bytes that may wait to be sent: what the link takes in a round trip

	packet  = 1500 // bytes
	payload = 1448 // of TCP with time stamps in one

	nearAddress = "10.99.0.1"
	farAddress  = "10.99.0.2"
)

// A slowLink is a link of 50 ms there and back and 200 Mbit/s each way between the network namespace of its maker and
// another. Packets come out of a TUN device at one end and go into one at the other: not every kernel has netem.
type slowLink struct {
	far  *namespace
	slow atomic.Bool // until then packets pass at once
	ends [2]*os.File
	done sync.WaitGroup
}

// A namespace is a network of its own. What it is given to do may start processes, which are in it.
type namespace struct{ work chan func() }

// newNamespace makes one, on a thread that ends with it.
func newNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
		made <- err
		for fn := range n.work {
			fn()
		}
	}()
	if err := <-made; err != nil {
		close(n.work)
		return nil, err
	}
	return n, nil
}

// do calls fn on the thread of the namespace.
func (n *namespace) do(fn func()) {
	done := make(chan struct{})
	n.work <- func() {
		defer close(done)
		fn()
	}
	<-done
}

// inOwnNetwork measures a subject in a network namespace of its own.
func inOwnNetwork(subject func(context.Context, *bench) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		n, err := newNamespace()
		if err != nil {
			return err
		}
		defer close(n.work)
		n.do(func() { err = subject(ctx, b) })
		return err
	}
}

// newSlowLink links a new namespace with the one of the calling thread.
func newSlowLink() (l *slowLink, err error) {
	l = &slowLink{}
	if l.far, err = newNamespace(); err != nil {
		return nil, err
	}
	l.ends[0], err = newEnd(nearAddress, farAddress)
	if err == nil {
		l.far.do(func() { l.ends[1], err = newEnd(farAddress, nearAddress) })
	}
	if err != nil {
		l.close()
		return nil, err
	}
	for i := range l.ends {
		l.done.Go(func() { l.carry(l.ends[1-i], l.ends[i]) })
	}
	return l, nil
}

// close takes the link down.
func (l *slowLink) close() {
	for _, f := range l.ends {
		if f != nil {
			f.Close()
		}
	}
	l.done.Wait()
	close(l.far.work)
}

// newEnd makes an end of the link in the namespace of the calling thread.
func newEnd(address, peer string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq("slow0")
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	f := os.NewFile(uintptr(fd), "tun") // only now can one wait for it
	if err == nil {
		script := `ip link set lo up && ip addr add "$1" peer "$2" dev slow0 && ip link set slow0 txqueuelen 2000 up`
		if out, e := exec.Command("sh", "-c", script, "sh", address, peer).CombinedOutput(); e != nil {
			err = fmt.Errorf("making a link: %w: %s", e, tail(out))
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// What net.ipv4.tcp_fastopen can be (Linux, Documentation/networking/ip-sysctl.rst).
const (
	fastOpenUsual = "1"    // for clients that ask for it
	fastOpenAll   = "1027" // also for servers, those among them that do not ask for it
)

// fastOpen sets it in the namespace of the calling thread.
func fastOpen(bits string) error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte(bits), 0)
}

// wire is a packet under way.
type wire struct {
	data []byte
	due  time.Time
}

// carry passes packets from r to w until one of them is closed.
func (l *slowLink) carry(w, r *os.File) {
	const most = (linkQueue + 2*linkRate/20) / 40 // packets under way, however small
	under, used := make(chan wire, int(most)), make(chan []byte, int(most)+2)
	l.done.Go(func() {
		for p := range under {
			if left := time.Until(p.due); left > 0 {
				// Go's own timers are up to a millisecond late.
				_ = unix.Nanosleep(&unix.Timespec{Nsec: left.Nanoseconds()}, nil)
			}
			_, _ = w.Write(p.data) // or it is lost
			used <- p.data[:packet]
		}
	})
	defer close(under)
	var free time.Time // when all packets so far have left
	for {
		var buf []byte
		select {
		case buf = <-used:
		default:
			buf = make([]byte, packet)
		}
		n, err := r.Read(buf)
		if err != nil {
			return
		}
		p, now := wire{data: buf[:n]}, time.Now()
		if l.slow.Load() {
			if free.Before(now) {
				free = now
			}
			if free.Sub(now).Seconds()*linkRate > linkQueue {
				used <- buf
				continue
			}
			free = free.Add(time.Duration(float64(n) / linkRate * float64(time.Second)))
			p.due = free.Add(linkHalf)
		}
		under <- p
	}
}
