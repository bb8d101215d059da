package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"golang.org/x/sys/unix"
)

// Numbers of streams in multiplexed output (swagger, ContainerAttach, "Stream format").
const (
	streamStdout byte = 1
	streamStderr byte = 2
)

// output is where a container's output goes: as it is, of a terminal, or in frames.
type output struct {
	w   io.Writer
	mu  *sync.Mutex // a frame is written whole
	raw bool
}

func newOutput(w io.Writer, raw bool) output { return output{w: w, mu: &sync.Mutex{}, raw: raw} }

func (o output) stream(kind byte) io.Writer { return frames{output: o, kind: kind} }

// logs is a stream that has each line in a frame of its own, as dockerd's logs have: clients
// take a frame for a message.
func (o output) logs(kind byte) io.Writer { return frames{output: o, kind: kind, lines: true} }

type frames struct {
	output
	kind  byte
	lines bool
}

// maxFrame keeps frames small enough for clients that read one into memory.
const maxFrame = 64 << 10

func (f frames) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.raw {
		return f.w.Write(b)
	}
	all := make([]byte, 0, len(b)+8)
	for rest := b; len(rest) > 0; {
		part := rest[:min(len(rest), maxFrame)]
		if end := bytes.IndexByte(part, '\n'); f.lines && end >= 0 {
			part = part[:end+1]
		}
		all = binary.BigEndian.AppendUint32(append(all, f.kind, 0, 0, 0), uint32(len(part)))
		all = append(all, part...)
		rest = rest[len(part):]
	}
	if _, err := f.w.Write(all); err != nil {
		return 0, err
	}
	return len(b), nil
}

// flusher sends every write at once.
type flusher struct {
	http.ResponseWriter
	c *http.ResponseController
}

func newFlusher(w http.ResponseWriter) flusher { return flusher{w, http.NewResponseController(w)} }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}

// hijacked is a connection that was HTTP and is now a stream in both directions. Writes come one at a time.
type hijacked struct {
	net.Conn
	started bool // something has been written behind the head

	mu    sync.Mutex
	early []byte // that came with the request, and nobody has read
}

// Write waits before its first byte until the client has read the head of the answer; by then it mostly has.
// docker's client for Python reads heads through a buffer and streams past it: what comes in one read with the
// head is lost to it. dockerd is seldom fast enough to show it.
func (h *hijacked) Write(b []byte) (int, error) {
	if !h.started {
		h.started = true
		h.awaitRead()
	}
	return h.Conn.Write(b)
}

// Read reads past net/http's own reader: that one ends the request's context at the end
// of a client's input, which is not the end of its interest. Who feeds a container and who drops
// what it has left read beside each other.
func (h *hijacked) Read(b []byte) (int, error) {
	h.mu.Lock()
	n := copy(b, h.early)
	h.early = h.early[n:]
	h.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	return h.Conn.Read(b)
}

// bow ends the conversation: the client reads to the end of the output, and then leaves. Were
// the connection closed with input of it unread, it would see a reset instead of the end.
func (h *hijacked) bow() {
	defer h.Close()
	c, ok := h.Conn.(interface{ CloseWrite() error })
	if ok && c.CloseWrite() == nil && h.SetReadDeadline(time.Now().Add(leaveTime)) == nil {
		io.Copy(io.Discard, h)
	}
}

// leaveTime is how long a client may stay after the end of the output.
const leaveTime = 2 * time.Second

// errClientGone is a client that left before it was answered.
var errClientGone = errors.New("the client is gone")

// hijack takes the connection over and writes the answer's head: 101 if the client asked
// to upgrade, else 200 as before API 1.20. tty and the version decide the media type.
//
// A body of a length that the request has told is no input of the stream: dockerode sends its
// options that way, and an encoder of JSON ends its text with a newline.
func hijack(w http.ResponseWriter, r *request, tty bool) (*hijacked, error) {
	if r.ContentLength > 0 {
		if _, err := io.Copy(io.Discard, http.MaxBytesReader(nil, r.Body, maxBody)); err != nil {
			return nil, invalid("reading the request: %s", err)
		}
	}
	h, err := takeOver(w)
	if err != nil {
		return nil, err
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + types.MediaTypeRawStream + "\r\n"
	if r.Header.Get("Upgrade") != "" {
		media := types.MediaTypeRawStream
		if r.version >= 42 && !tty {
			media = types.MediaTypeMultiplexedStream
		}
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + media + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	w.Header().Del("Content-Type")
	all := bytes.NewBufferString(head)
	w.Header().Write(all)
	all.WriteString("\r\n")
	if _, err := h.Conn.Write(all.Bytes()); err != nil {
		h.Close()
		return nil, errClientGone
	}
	return h, nil
}

// awaitRead waits until the client has read all that was written, for a moment. Where the kernel does not
// know (it does of UNIX sockets, unix(7) SIOCOUTQ), nothing is waited for.
func (h *hijacked) awaitRead() {
	raw, ok := rawConn(h.Conn)
	if !ok {
		return
	}
	for until := time.Now().Add(headTime); time.Now().Before(until); time.Sleep(50 * time.Microsecond) {
		unread := 0
		err := raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil || unread == 0 {
			return
		}
	}
}

// headTime is how long the client may take for the head of an answer.
const headTime = 100 * time.Millisecond

// takeOver takes a connection from net/http, with what it has read of it already.
func takeOver(w http.ResponseWriter) (*hijacked, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, worded(errdefs.ErrInvalidArgument, "error attaching: the connection cannot be taken over: %s", err)
	}
	conn.SetDeadline(time.Time{})
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	return &hijacked{Conn: conn, early: early}, nil
}

// hangUp calls gone when the client has closed its connection altogether, which reading
// does not tell from a client that merely has no more input. It returns when ctx ends.
func (h *hijacked) hangUp(ctx context.Context, gone func()) {
	if awaitEvents(ctx, h.Conn, 0) {
		gone()
	}
}

// awaitEvents waits until a connection is closed or broken, or one of the events of poll(2) is there. It is false if ctx
// ends before, or nothing is known of the connection.
func awaitEvents(ctx context.Context, c net.Conn, events int16) bool {
	raw, ok := rawConn(c)
	if !ok {
		return false
	}
	tick := time.NewTicker(hangUpEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		over := false
		err := raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: events}}
			n, err := unix.Poll(p, 0)
			over = err == nil && n > 0 && p[0].Revents&(events|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		})
		if over || err != nil {
			return true
		}
	}
}

const hangUpEvery = 200 * time.Millisecond

func rawConn(c net.Conn) (syscall.RawConn, bool) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := s.SyscallConn()
	return raw, err == nil
}

// isGone says whether an error only tells that a client or a stream has ended.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}
