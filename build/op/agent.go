package op

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// An SSHAgent is what commands can sign with: an agent of the user, or keys.
type SSHAgent struct {
	Socket string
	// Dial connects to it instead of Socket.
	Dial func(ctx context.Context) (net.Conn, error)
	Raw  bool                // everything that is said to the socket is passed on, whatever protocol it is
	keys agent.ExtendedAgent // instead of Socket
}

const maxKey = 100 << 10 // bytes, as in BuildKit

// OpenSSHAgent returns the agent of one socket, or of the keys in files of the PEM form.
func OpenSSHAgent(paths []string, raw bool) (SSHAgent, error) {
	a := SSHAgent{Raw: raw}
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return a, fmt.Errorf("ssh agent: %w", err)
		case info.Mode()&os.ModeSocket == 0:
			if a.keys == nil {
				a.keys = agent.NewKeyring().(agent.ExtendedAgent)
			}
			if err := addKey(a.keys, path); err != nil {
				return a, fmt.Errorf("ssh key %s: %w", path, err)
			}
		case a.Socket != "":
			return a, fmt.Errorf("ssh agent: %s and %s: only one socket can be used: %w", a.Socket, path, errdefs.ErrInvalidArgument)
		default:
			a.Socket = path
		}
	}
	switch {
	case a.keys != nil && a.Socket != "":
		return a, fmt.Errorf("ssh agent: %s is a socket: it cannot be used with keys: %w", a.Socket, errdefs.ErrInvalidArgument)
	case raw && a.keys != nil:
		return a, fmt.Errorf("ssh agent: raw is only for a socket: %w", errdefs.ErrInvalidArgument)
	case a.keys == nil && a.Socket == "":
		return a, fmt.Errorf("ssh agent: neither a socket nor a key: %w", errdefs.ErrInvalidArgument)
	}
	return a, nil
}

func addKey(keys agent.Agent, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return keys.Add(agent.AddedKey{PrivateKey: key})
}

// An agentProxy lets a command sign with the keys of an ssh agent, and nothing else: it cannot
// add, remove or lock keys, as in BuildKit.
type agentProxy struct {
	listener net.Listener
	target   SSHAgent
	wg       sync.WaitGroup
	ctx      context.Context // of its connections
	cancel   context.CancelFunc
	slots    chan struct{} // one taken for each command's connection

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when closed
}

// maxAgentConns is how many connections of commands an agent has at once; further ones wait to be accepted.
const maxAgentConns = 1024

func listenAgent(path string, target SSHAgent) (*agentProxy, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("ssh socket: %w", err)
	}
	p := &agentProxy{listener: l, target: target, conns: map[net.Conn]bool{}, slots: make(chan struct{}, maxAgentConns)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.serve)
	return p, nil
}

// listenUnix listens at path, however long it is: sun_path has room for 107 bytes.
func listenUnix(path string) (net.Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name means nothing once dir is closed
	return l, nil
}

func (p *agentProxy) serve() {
	for {
		select {
		case p.slots <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		if !p.track(c) {
			return
		}
		p.wg.Go(func() {
			defer func() { <-p.slots }()
			defer p.forget(c)
			p.proxy(c)
		})
	}
}

func (p *agentProxy) proxy(c net.Conn) {
	if p.target.keys != nil {
		_ = agent.ServeAgent(signer{p.target.keys}, c)
		return
	}
	dial := p.target.Dial
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.target.Socket)
		}
	}
	upstream, err := dial(p.ctx)
	if err != nil {
		return // the command sees its agent hang up
	}
	if !p.track(upstream) {
		return
	}
	defer p.forget(upstream)
	if p.target.Raw {
		join(c, upstream)
		return
	}
	if client := agent.NewClient(upstream); client != nil {
		_ = agent.ServeAgent(signer{client}, c) // ends with the connection
	}
}

// join passes on what both sides say until one of them has hung up.
func join(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			if half, ok := pair[0].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
		})
	}
	wg.Wait()
}

// track notes a connection, or closes it if the proxy is closed.
func (p *agentProxy) track(c io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		c.Close()
		return false
	}
	p.conns[c.(net.Conn)] = true
	return true
}

func (p *agentProxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

func (p *agentProxy) close() error {
	p.cancel()
	err := p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// A signer is an agent that only lists and signs.
type signer struct{ agent.ExtendedAgent }

var errReadOnlyAgent = fmt.Errorf("the keys of this agent cannot be changed: %w", errdefs.ErrPermissionDenied)

func (signer) Add(agent.AddedKey) error       { return errReadOnlyAgent }
func (signer) Remove(ssh.PublicKey) error     { return errReadOnlyAgent }
func (signer) RemoveAll() error               { return errReadOnlyAgent }
func (signer) Lock([]byte) error              { return errReadOnlyAgent }
func (signer) Unlock([]byte) error            { return errReadOnlyAgent }
func (signer) Signers() ([]ssh.Signer, error) { return nil, errors.ErrUnsupported }

func (signer) Extension(string, []byte) ([]byte, error) {
	return nil, agent.ErrExtensionUnsupported
}
