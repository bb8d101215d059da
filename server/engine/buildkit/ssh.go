package buildkit

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc/metadata"

	"github.com/teu-dev/teu/build/op"
)

// agent returns the client's SSH agent id. What may be asked of it the client holds itself.
func (c *caller) agent(ctx context.Context, id string) (op.SSHAgent, bool) {
	s, err := c.of(ctx, "")
	if err != nil {
		return op.SSHAgent{}, false
	}
	if err := sshforward.CheckSSHID(ctx, s, id); err != nil {
		return op.SSHAgent{}, false
	}
	return op.SSHAgent{Raw: true, Dial: func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithCancel(s.Context(metadata.AppendToOutgoingContext(ctx, sshforward.KeySSHID, id)))
		stream, err := sshforward.NewSSHClient(s.Conn()).ForwardAgent(ctx)
		if err != nil {
			cancel()
			return nil, err
		}
		return &agentConn{stream: stream, cancel: cancel}, nil
	}}, true
}

// agentConn is a stream of bytes over messages.
type agentConn struct {
	stream sshforward.SSH_ForwardAgentClient
	cancel context.CancelFunc
	rest   []byte
	mu     sync.Mutex // of Write and CloseWrite
}

var _ net.Conn = (*agentConn)(nil)

func (c *agentConn) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if err != nil {
			return 0, err
		}
		c.rest = m.Data
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *agentConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stream.Send(&sshforward.BytesMessage{Data: b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// CloseWrite tells the client that nothing more comes.
func (c *agentConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream.CloseSend()
}

func (c *agentConn) Close() error {
	c.cancel()
	return nil
}

func (c *agentConn) LocalAddr() net.Addr              { return agentAddr{} }
func (c *agentConn) RemoteAddr() net.Addr             { return agentAddr{} }
func (c *agentConn) SetDeadline(time.Time) error      { return nil }
func (c *agentConn) SetReadDeadline(time.Time) error  { return nil }
func (c *agentConn) SetWriteDeadline(time.Time) error { return nil }

type agentAddr struct{}

func (agentAddr) Network() string { return "session" }
func (agentAddr) String() string  { return "ssh agent of the client" }

var _ io.ReadWriteCloser = (*agentConn)(nil)
