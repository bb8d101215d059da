package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/server"
	"github.com/teu-dev/teu/server/registry"
)

func newServeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server in the foreground",
	}
	cmd.AddCommand(newServeRegistryCommand(a))
	return cmd
}

// serveRegistryOptions are the flags of `teu serve registry`.
type serveRegistryOptions struct {
	addr, root       string
	htpasswd         string
	tlsCert, tlsKey  string
	anonymous        bool
	disallowDeletion bool
}

func newServeRegistryCommand(a *app) *cobra.Command {
	var o serveRegistryOptions
	cmd := &cobra.Command{
		Use:   "registry [OPTIONS]",
		Short: "Host images: the OCI distribution API on a directory",
		Long: `Host images: the OCI distribution API on a directory.

A push that was acknowledged is on disk. Several servers may share one directory.
Without --htpasswd, requests are accepted over loopback addresses only.
SIGTERM ends the server when the requests that are running have been answered.`,
		Example: `  teu serve registry
  teu serve registry --addr 127.0.0.1:5000 --root /srv/registry
  htpasswd -Bc users ci && teu serve registry --addr :443 --htpasswd users \
    --tls-cert cert.pem --tls-key key.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.root == "" {
				o.root = filepath.Join(a.root, "registry")
			}
			return serveRegistry(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.addr, "addr", "127.0.0.1:5000", "host and port to listen on; port 0 takes a free one")
	f.StringVar(&o.root, "root", "", "directory of the registry (default \"registry\" in teu's store)")
	f.StringVar(&o.htpasswd, "htpasswd", "", "file of users, made by htpasswd -B; read again when it changes")
	f.StringVar(&o.tlsCert, "tls-cert", "", "file with the certificate chain, for HTTPS")
	f.StringVar(&o.tlsKey, "tls-key", "", "file with the key of the certificate")
	f.BoolVar(&o.anonymous, "insecure-anonymous", false, "let everybody push, pull and delete, on any address")
	f.BoolVar(&o.disallowDeletion, "no-delete", false, "refuse to delete tags, manifests and blobs")
	return cmd
}

// openDoorError says that the options would let everybody in the network do everything.
type openDoorError struct{ addr net.Addr }

func (e *openDoorError) Error() string {
	return fmt.Sprintf("serving registry on %s: not a loopback address, and no users were given", e.addr)
}

func (e *openDoorError) Hint() string {
	return "give --htpasswd FILE, or --insecure-anonymous to let everybody in"
}

func serveRegistry(ctx context.Context, a *app, o serveRegistryOptions) error {
	if o.htpasswd != "" && o.anonymous {
		return &usageError{command: "teu serve registry", err: errors.New("--htpasswd and --insecure-anonymous exclude each other")}
	}
	tlsConfig, err := o.tls()
	if err != nil {
		return err
	}
	reg, err := registry.New(registry.Options{
		Root:        o.root,
		Htpasswd:    o.htpasswd,
		Anonymous:   o.anonymous,
		AllowDelete: !o.disallowDeletion,
		Log:         slog.Default(),
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	if !ln.Addr().(*net.TCPAddr).IP.IsLoopback() {
		if o.htpasswd == "" && !o.anonymous {
			return &openDoorError{ln.Addr()}
		}
		if o.htpasswd != "" && tlsConfig == nil {
			a.ui.Warnf("passwords travel unencrypted: give --tls-cert and --tls-key, or put a proxy with TLS in front")
		}
	}
	a.ui.Printf("serving registry on %s\n", ln.Addr())

	ctx, stop := context.WithCancel(ctx)
	var upkeep sync.WaitGroup
	upkeep.Go(func() { reg.Maintain(ctx) })
	defer upkeep.Wait()
	defer stop()
	return server.Serve(ctx, ln, reg, server.Options{TLS: tlsConfig, Log: slog.Default()})
}

// tls returns the configuration for HTTPS, or nil for plain HTTP.
func (o serveRegistryOptions) tls() (*tls.Config, error) {
	if o.tlsCert == "" && o.tlsKey == "" {
		return nil, nil
	}
	if o.tlsCert == "" || o.tlsKey == "" {
		return nil, &usageError{command: "teu serve registry", err: errors.New("--tls-cert and --tls-key go together")}
	}
	cert, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
	if err != nil {
		return nil, fmt.Errorf("loading certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}
