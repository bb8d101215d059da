// Package logrelay connects keepers of containers to log servers that want TLS. Keepers are small programs, one for
// each container, and have none: for those that need it, this is another process.
package logrelay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options are the log options of a container, as docker has them.
type Options struct {
	CA         string // a file with the certificates of those that are trusted besides the system's, PEM
	Cert, Key  string // files with what the server is shown, PEM
	SkipVerify bool   // the server may be anybody
}

const (
	// dialTime is how long a server has for the connection and the handshake.
	dialTime = 5 * time.Second

	// lastTime is how long it has for the last lines, when the keeper has ended.
	lastTime = 10 * time.Second
)

// Run connects to address, a host and a port, and carries bytes between the server and the keeper until one of them
// ends. The keeper, at the other end of a stream socket, hears first how it went: an empty line, or one that says
// what is wrong.
func Run(ctx context.Context, keeper *os.File, address string, o Options) error {
	server, err := dial(ctx, address, o)
	said := ""
	if err != nil {
		said = strings.ReplaceAll(err.Error(), "\n", " ")
	}
	if _, werr := io.WriteString(keeper, said+"\n"); err == nil && werr != nil {
		server.Close()
		err = werr
	}
	if err == nil {
		err = carry(keeper, server)
	}
	unix.Shutdown(int(keeper.Fd()), unix.SHUT_RDWR)
	return err
}

// carry carries bytes both ways until one side ends, and closes the server's.
func carry(keeper *os.File, server *tls.Conn) error {
	var all sync.WaitGroup
	all.Go(func() { hurry(keeper, server) })
	ended := make(chan error, 2)
	all.Go(func() { // what the server says
		_, err := io.Copy(keeper, server)
		ended <- err
	})
	all.Go(func() {
		_, err := io.Copy(server, keeper)
		if err == nil {
			err = server.CloseWrite()
		}
		ended <- err
	})
	err := <-ended
	unix.Shutdown(int(keeper.Fd()), unix.SHUT_RDWR) // ends what waits for the keeper
	server.Close()
	all.Wait() // the caller closes the keeper's side, and another file may get its number
	return err
}

func dial(ctx context.Context, address string, o Options) (*tls.Conn, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// config trusts whom the system trusts and o names, as go-connections/tlsconfig does for dockerd.
func (o Options) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.SkipVerify}
	if o.CA != "" && !o.SkipVerify {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("could not read CA certificate: %w", err)
		}
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("failed to read system certificates: %w", err)
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", o.CA)
		}
	}
	if o.Cert == "" && o.Key == "" {
		return c, nil
	}
	if o.Cert == "" || o.Key == "" {
		return nil, errors.New("a client certificate and its key are given together or not at all")
	}
	cert, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("could not load the client certificate: %w", err)
	}
	c.Certificates = []tls.Certificate{cert}
	return c, nil
}

// hurry gives a server that takes nothing an end, once nobody waits for it.
func hurry(keeper *os.File, server net.Conn) {
	for {
		fds := []unix.PollFd{{Fd: int32(keeper.Fd()), Events: unix.POLLRDHUP}}
		_, err := unix.Poll(fds, -1)
		if err == unix.EINTR {
			continue
		}
		server.SetDeadline(time.Now().Add(lastTime))
		return
	}
}
