package op

import (
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

// An agentProxy lets a command sign with the keys of an ssh agent, and nothing else: it cannot
// add, remove or lock keys, as in BuildKit.
type agentProxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when closed
}

func listenAgent(path, target string) (*agentProxy, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("ssh socket: %w", err)
	}
	p := &agentProxy{listener: l, target: target, conns: map[net.Conn]bool{}}
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
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		if !p.track(c) {
			return
		}
		p.wg.Go(func() {
			defer p.forget(c)
			p.proxy(c)
		})
	}
}

func (p *agentProxy) proxy(c net.Conn) {
	upstream, err := net.Dial("unix", p.target)
	if err != nil {
		return // the command sees its agent hang up
	}
	if !p.track(upstream) {
		return
	}
	defer p.forget(upstream)
	if client := agent.NewClient(upstream); client != nil {
		_ = agent.ServeAgent(signer{client}, c) // ends with the connection
	}
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
