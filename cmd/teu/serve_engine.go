//go:build !front && !porter

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/server"
	"github.com/teu-dev/teu/server/engine"
)

// serveEngineOptions are the flags of `teu serve engine`.
type serveEngineOptions struct {
	hosts                      []string
	group                      string
	tlsCert, tlsKey, tlsCACert string
}

func newServeEngineCommand(a *app) *cobra.Command {
	var o serveEngineOptions
	cmd := &cobra.Command{
		Use:   "engine [OPTIONS]",
		Short: "Let docker's clients in: Docker's Engine API on a socket",
		Long: `Let docker's clients in: Docker's Engine API on a socket.

The server owns nothing: it calls what the commands of teu call, on the same containers,
images, networks and volumes. It may be stopped, killed and started again at any time;
containers go on.

Whoever can talk to the API is as good as root. The socket is for its owner and, with
--group, for a group. Over TCP only clients whose certificate was signed by --tls-ca-cert
are let in. fd:// takes the sockets that systemd has opened.`,
		Example: `  teu serve engine
  DOCKER_HOST=unix:///run/teu/docker.sock docker ps
  teu serve engine --host unix:///run/docker.sock --group docker
  teu serve engine --host tcp://0.0.0.0:2376 --tls-cert cert.pem --tls-key key.pem --tls-ca-cert ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serveEngine(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.hosts, "host", "H", nil, "unix://PATH, tcp://ADDRESS:PORT or fd:// (default \"unix://\" and docker.sock in teu's run directory)")
	f.StringVarP(&o.group, "group", "G", "", "group that may use the socket")
	f.StringVar(&o.tlsCert, "tls-cert", "", "file with the certificate chain; read again when it changes")
	f.StringVar(&o.tlsKey, "tls-key", "", "file with the key of the certificate")
	f.StringVar(&o.tlsCACert, "tls-ca-cert", "", "file with the certificates that sign those of clients")
	return cmd
}

// engineSocket is where clients find the API unless it was said otherwise.
func (a *app) engineSocket() string { return filepath.Join(a.runRoot, "docker.sock") }

func serveEngine(ctx context.Context, a *app, o serveEngineOptions) error {
	if len(o.hosts) == 0 {
		o.hosts = []string{"unix://" + a.engineSocket()}
	}
	api, err := a.engineAPI()
	if err != nil {
		return err
	}
	a.engine().Remember()
	var doors []door
	defer func() {
		for _, d := range doors {
			d.Close()
		}
	}()
	for _, host := range o.hosts {
		more, err := o.open(host)
		if err != nil {
			return err
		}
		doors = append(doors, more...)
	}
	// Unlike the commands, a server stays. Its heap is about 1 MB: with less, each exec is a collection of its
	// own. What it has grown by goes when the server rests.
	debug.SetGCPercent(200)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(ctx, api.Close)
	failed := make(chan error, len(doors))
	var serving sync.WaitGroup
	for _, d := range doors {
		serving.Go(func() {
			err := server.Serve(ctx, d.Listener, api, server.Options{TLS: d.tls, Log: slog.Default(), Drain: engineDrain, PlainHTTP2: true})
			failed <- err
			stop() // one door that breaks closes all
		})
		a.ui.Printf("serving engine on %s\n", d.name)
	}
	serving.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *app) engineAPI() (*engine.Server, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	return engine.New(engine.Options{
		Containers: a.engine(), Store: store,
		Registry: a.registryWith,
		Images:   func(c *registry.Client) *library.Library { return a.libraryWith(store, c) },
		Builder:  a.builderWith,
		Version:  version(), Root: a.root, Debug: a.debug, Log: slog.Default(), InjectCDI: a.injectCDI, CDI: a.listCDI,
	}), nil
}

// engineDrain is how long a build or a pull may take to end when the server does.
const engineDrain = 10 * time.Second

// door is a place where clients come in.
type door struct {
	net.Listener
	name string
	tls  *tls.Config
}

func (o serveEngineOptions) open(host string) ([]door, error) {
	scheme, where, ok := strings.Cut(host, "://")
	if !ok {
		scheme, where = "unix", host
	}
	switch scheme {
	case "unix":
		ln, err := listenUnix(where, o.group)
		if err != nil {
			return nil, err
		}
		return []door{{Listener: ln, name: "unix://" + where}}, nil
	case "tcp":
		config, err := o.mutualTLS()
		if err != nil {
			return nil, err
		}
		ln, err := net.Listen("tcp", where)
		if err != nil {
			return nil, err
		}
		return []door{{Listener: ln, name: "tcp://" + ln.Addr().String(), tls: config}}, nil
	case "fd":
		return inheritedDoors(o)
	}
	return nil, &usageError{command: "teu serve engine", err: fmt.Errorf("--host is unix://PATH, tcp://ADDRESS:PORT or fd://, not %q", host)}
}

// listenUnix makes a socket that nobody but its owner and the group can ever connect to,
// in place of one that a dead server left.
func listenUnix(path, group string) (net.Listener, error) {
	gid := -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			if g, err = user.LookupGroupId(group); err != nil {
				return nil, fmt.Errorf("the group of the socket: %w", err)
			}
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	// A server that was killed while it started a process may listen for a moment more, as that process.
	for try := 0; ; try++ {
		c, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		c.Close()
		if try == 20 {
			return nil, fmt.Errorf("%s: another server listens there", path)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		os.Remove(path)
	}
	before := unix.Umask(0o177) // the socket is closed from its first moment on
	ln, err := net.Listen("unix", path)
	unix.Umask(before)
	if err != nil {
		return nil, err
	}
	if err = os.Chown(path, -1, gid); err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// noTLSError says why a TCP port is not opened.
type noTLSError struct{}

func (noTLSError) Error() string {
	return "serving engine over TCP: without certificates everybody who reaches the port would be root of this machine"
}

func (noTLSError) Hint() string {
	return "give --tls-cert, --tls-key and --tls-ca-cert, or use a unix socket, also over ssh: DOCKER_HOST=ssh://HOST"
}

// mutualTLS lets in only whom the CA knows.
func (o serveEngineOptions) mutualTLS() (*tls.Config, error) {
	if o.tlsCert == "" || o.tlsKey == "" || o.tlsCACert == "" {
		return nil, noTLSError{}
	}
	cert, err := server.LoadCertificate(o.tlsCert, o.tlsKey, slog.Default())
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(o.tlsCACert)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", o.tlsCACert)
	}
	return &tls.Config{
		GetCertificate: cert.Get, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // attaching takes connections over, which HTTP/2 has not
	}, nil
}

// inheritedDoors are the sockets systemd has opened: sd_listen_fds(3).
func inheritedDoors(o serveEngineOptions) ([]door, error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || n < 1 || pid != os.Getpid() {
		return nil, errors.New("--host fd://: no socket was passed (LISTEN_FDS)")
	}
	os.Unsetenv("LISTEN_FDS")
	os.Unsetenv("LISTEN_PID")
	var doors []door
	for fd := 3; fd < 3+n; fd++ {
		f := os.NewFile(uintptr(fd), "listen")
		ln, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("socket %d from systemd: %w", fd, err)
		}
		d := door{Listener: ln, name: "fd://" + ln.Addr().String()}
		if _, isUnix := ln.(*net.UnixListener); !isUnix {
			if d.tls, err = o.mutualTLS(); err != nil {
				return nil, err
			}
		} else {
			ln.(*net.UnixListener).SetUnlinkOnClose(false) // it is systemd's
		}
		doors = append(doors, d)
	}
	return doors, nil
}
