package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/cache/statefile"
)

// A connection carries frames: one byte for the kind, four for the length of the payload
// (big endian), the payload. A client sends one request; what follows depends on it.
// Descriptors travel with the first byte of the frame they belong to.
const (
	frameRequest = 'q' // client: a request
	frameProgram = 'p' // client, after an exec request: a marshaled program
	frameReply   = 'r' // keeper: a reply
	frameStdin   = 'i' // client: input
	frameEOF     = 'e' // client: end of input
	frameDetach  = 'd' // client: goes, and means it
	frameDone    = 'f' // client: has finished what it claimed
	frameStdout  = '1' // keeper: output
	frameStderr  = '2' // keeper: output
	frameExit    = 'x' // keeper: an ExitStatus
)

const (
	maxFrame = 8 << 20
	maxFiles = 253 // descriptors of one frame; SCM_MAX_FD, unix(7)
)

// request is the first frame of a connection.
type request struct {
	Op      string
	Attach  AttachOptions  `json:",omitzero"`
	Stream  bool           `json:",omitempty"` // start: stay connected until the exit
	Claim   bool           `json:",omitempty"`
	Final   bool           `json:",omitempty"`
	Signal  int            `json:",omitempty"`
	Millis  int64          `json:",omitempty"` // stop: time-out, negative for none
	Down    bool           `json:",omitempty"` // stop: because the machine goes down, not for its user
	Columns uint16         `json:",omitempty"`
	Rows    uint16         `json:",omitempty"`
	Files   int            `json:",omitempty"`
	Cgroup  Cgroup         `json:",omitzero"`
	Restart RestartPolicy  `json:",omitzero"`
	ExecID  string         `json:",omitempty"`
	Record  string         `json:",omitempty"` // exec: where its end is noted
	Detach  bool           `json:",omitempty"` // exec: nobody has its terminal
	Ends    int            `json:",omitempty"` // exec: files after those of Files, see ExecOptions
	Network NetworkOptions `json:",omitzero"`
}

// reply answers a request.
type reply struct {
	PID   int    `json:",omitempty"`
	Error string `json:",omitempty"`
	Class string `json:",omitempty"` // see classes
	Errno int    `json:",omitempty"`
	Code  int    `json:",omitempty"` // a launch that failed
	File  bool   `json:",omitempty"` // a descriptor travels with it
	More  bool   `json:",omitempty"` // and one more
	// At is where the output begins that an attached client gets: bytes of each stream.
	At [2]int64 `json:",omitzero"`
}

// conn is one end of a connection. Writing is safe for concurrent use, reading is not.
type conn struct {
	c   *net.UnixConn
	pid int // of the keeper at the other end, if we have started it

	wmu sync.Mutex

	buf   []byte // received and not yet used
	start int
	files []*os.File // received and not yet used
}

func newConn(c *net.UnixConn) *conn { return &conn{c: c} }

func (c *conn) Close() error {
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
	return c.c.Close()
}

func (c *conn) write(kind byte, payload []byte, files ...*os.File) error {
	if len(payload) > maxFrame { // the other end would hang up. Linux takes arguments of 6 MiB at the most
		return fmt.Errorf("%d bytes: %w", len(payload), unix.E2BIG)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	header := [5]byte{kind}
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = descriptor(f)
		}
		// WriteMsgUnix may send less than everything only for the bytes; they go on below.
		n, _, err := c.c.WriteMsgUnix(header[:], unix.UnixRights(fds...), nil)
		if err != nil || n != len(header) {
			return errOr(err, io.ErrShortWrite)
		}
		_, err = c.c.Write(payload)
		return err
	}
	bufs := net.Buffers{header[:], payload}
	_, err := bufs.WriteTo(c.c)
	return err
}

// peer is the process at the other end; it is zero if that has gone.
func (c *conn) peer() (p statefile.Process) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return p
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			p, _ = statefile.Identify(int(cred.Pid))
		}
	})
	return p
}

// hungUp says that the other end is gone.
func (c *conn) hungUp() (gone bool) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return true
	}
	raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0
	})
	return gone
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (c *conn) writeJSON(kind byte, v any, files ...*os.File) error {
	b, err := coldjson.Marshal(v)
	if err != nil {
		return err
	}
	return c.write(kind, b, files...)
}

// read returns the next frame. The payload is valid until the next call. io.EOF means
// that the other end is gone between two frames.
func (c *conn) read() (kind byte, payload []byte, err error) {
	if err := c.fill(5); err != nil {
		return 0, nil, err
	}
	header := c.buf[c.start : c.start+5]
	kind = header[0]
	n := int(binary.BigEndian.Uint32(header[1:]))
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", n, errdefs.ErrInvalidArgument)
	}
	if err := c.fill(5 + n); err != nil {
		return 0, nil, errOr(eofMeans(err, io.ErrUnexpectedEOF), err)
	}
	payload = c.buf[c.start+5 : c.start+5+n]
	c.start += 5 + n
	return kind, payload, nil
}

// A frame is what read returns.
type frame struct {
	kind    byte
	payload []byte
	err     error
}

func (c *conn) readFrame() (f frame) {
	f.kind, f.payload, f.err = c.read()
	return f
}

func eofMeans(err, meaning error) error {
	if err == io.EOF {
		return meaning
	}
	return err
}

// fill receives until n bytes wait.
func (c *conn) fill(n int) error {
	if c.start == len(c.buf) {
		c.buf, c.start = c.buf[:0], 0
	}
	if cap(c.buf)-c.start < n {
		grown := make([]byte, len(c.buf)-c.start, max(n, 4096))
		copy(grown, c.buf[c.start:])
		c.buf, c.start = grown, 0
	}
	oob := make([]byte, 0)
	for len(c.buf)-c.start < n {
		if cap(oob) == 0 {
			oob = make([]byte, unix.CmsgSpace(4*maxFiles))
		}
		k, oobn, _, _, err := c.c.ReadMsgUnix(c.buf[len(c.buf):cap(c.buf)], oob)
		if err != nil {
			return err
		}
		if oobn > 0 {
			if err := c.receive(oob[:oobn]); err != nil {
				return err
			}
		}
		if k == 0 && oobn == 0 {
			if len(c.buf) > c.start {
				return io.ErrUnexpectedEOF
			}
			return io.EOF
		}
		c.buf = c.buf[:len(c.buf)+k]
	}
	return nil
}

// receive takes descriptors out of a control message.
func (c *conn) receive(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			c.files = append(c.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if len(c.files) > maxFiles {
		return fmt.Errorf("more than %d descriptors: %w", maxFiles, errdefs.ErrInvalidArgument)
	}
	return nil
}

// takeFiles returns n received descriptors, which become the caller's.
func (c *conn) takeFiles(n int) ([]*os.File, error) {
	if n < 0 || n > len(c.files) {
		return nil, fmt.Errorf("%d descriptors announced, %d came: %w", n, len(c.files), errdefs.ErrInvalidArgument)
	}
	files := c.files[:n:n]
	c.files = c.files[n:]
	return files, nil
}

// readReply reads a reply and turns a refusal into its error.
func (c *conn) readReply() (reply, error) {
	kind, payload, err := c.read()
	if err != nil {
		return reply{}, gone(err)
	}
	if kind != frameReply {
		return reply{}, fmt.Errorf("frame %q instead of a reply: %w", kind, errdefs.ErrInternal)
	}
	var r reply
	if err := coldjson.Unmarshal(payload, &r); err != nil {
		return reply{}, fmt.Errorf("decoding a reply: %w", err)
	}
	return r, r.err()
}

// gone turns the end of a connection into the error that says the keeper is gone.
//
// A keeper that dies resets connections from which it has not read everything, unix(7),
// and closes the others. It reads a request to its end before it does anything.
func gone(err error) error {
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	if errors.Is(err, unix.E2BIG) {
		return err // it was not sent
	}
	return fmt.Errorf("the keeper ended the connection (%w): %w", err, errdefs.ErrUnavailable)
}

// descriptor is f.Fd() without its side effect of making the file blocking.
func descriptor(f *os.File) int {
	fd := -1
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}
