//go:build !front && !porter

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	client "github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/server"
	"github.com/teu-dev/teu/server/registry"
)

func newServeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server in the foreground",
	}
	cmd.AddCommand(newServeRegistryCommand(a), newServeEngineCommand(a))
	return cmd
}

// waitingForDisk is how many requests are expected to wait for the disk at any time.
const waitingForDisk = 2

// serveRegistryOptions are the flags of `teu serve registry`.
type serveRegistryOptions struct {
	addr             string
	at               registryPlace
	htpasswd         string
	accounts         bool
	url, audit       string
	metrics          string
	mirrors          []string
	webhooks         []string
	webhookHeaders   string
	rate             int
	tlsCert, tlsKey  string
	acme             server.ACME
	clientCA         string
	anonymous        bool
	disallowDeletion bool
	gcInterval       time.Duration
	gc               registry.GCOptions
}

func newServeRegistryCommand(a *app) *cobra.Command {
	var o serveRegistryOptions
	cmd := &cobra.Command{
		Use:   "registry [OPTIONS]",
		Short: "Host images: the OCI distribution API on a directory or an S3 bucket",
		Long: `Host images: the OCI distribution API on a directory or an S3 bucket.

A push that was acknowledged is on disk. Several servers may share one directory, or one
bucket and nothing else.
Blobs that no manifest refers to are removed from time to time, beside pushes and pulls.
Without users (--accounts, --htpasswd, --tls-client-ca), requests are accepted over loopback
addresses only.
SIGTERM ends the server when the requests that are running have been answered. SIGHUP, when
it has no terminal, has it open the audit log again.`,
		Example: `  teu serve registry
  teu serve registry --addr 127.0.0.1:5000 --root /srv/registry
  teu serve registry --addr :443 --accounts --acme registry.example.com
  teu serve registry --s3 https://s3.eu-central-1.amazonaws.com/my-bucket --s3-redirect
  htpasswd -Bc users ci && teu serve registry --addr :443 --htpasswd users \
    --tls-cert cert.pem --tls-key key.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveRegistry(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.addr, "addr", "127.0.0.1:5000", "host and port to listen on; port 0 takes a free one")
	o.at.flags(f)
	f.BoolVar(&o.at.s3.Redirect, "s3-redirect", false, "send clients to the bucket for blobs, instead of passing them on")
	f.StringVar(&o.htpasswd, "htpasswd", "", "file of users, made by htpasswd -B; read again when it changes")
	f.BoolVar(&o.accounts, "accounts", false, "let in who the accounts of the registry let in: see teu registry user, token and acl")
	f.StringArrayVar(&o.mirrors, "mirror", nil, "PREFIX=REGISTRY: show the repositories of another registry below a prefix, and keep what was pulled; \"=docker.io\" for all names")
	f.StringArrayVar(&o.webhooks, "webhook", nil, "URL that is told of pushes and deletions, as distribution's notifications; may be repeated")
	f.StringVar(&o.webhookHeaders, "webhook-headers", "", "file with headers for the webhooks, a \"Name: value\" in each line")
	f.StringVar(&o.url, "url", "", "https://HOST by which clients come, when a proxy hides it")
	f.IntVar(&o.rate, "rate", 0, "requests a second that one client may make, with ten times as many at once; 0 for no limit")
	f.StringVar(&o.metrics, "metrics", "", "host and port for /metrics, /healthz and /readyz, for those who run the registry")
	f.StringVar(&o.audit, "audit", "", "file that gets a line for each change and each refusal; opened again on SIGHUP")
	f.StringVar(&o.clientCA, "tls-client-ca", "", "file with authorities; clients need a certificate of one, whose common name is their user")
	f.StringVar(&o.tlsCert, "tls-cert", "", "file with the certificate chain, for HTTPS; read again when it changes")
	f.StringVar(&o.tlsKey, "tls-key", "", "file with the key of the certificate")
	f.StringArrayVar(&o.acme.Hosts, "acme", nil, "HOST whose certificate an ACME authority gives and renews, instead of --tls-cert; it must reach this server at port 443; may be repeated")
	f.StringVar(&o.acme.Email, "acme-email", "", "where the authority writes to")
	f.StringVar(&o.acme.Directory, "acme-directory", "", "URL of the authority (default Let's Encrypt, whose terms you accept)")
	f.StringVar(&o.acme.CAFile, "acme-ca", "", "file with the certificate of an authority of your own")
	f.BoolVar(&o.anonymous, "insecure-anonymous", false, "let everybody push, pull and delete, on any address")
	f.BoolVar(&o.disallowDeletion, "no-delete", false, "refuse to delete tags, manifests and blobs")
	f.DurationVar(&o.gcInterval, "gc-interval", gcInterval, "time between collections of garbage, 0 for none")
	gcFlags(cmd, &o.gc, "gc-")
	return cmd
}

const (
	gcInterval = time.Hour
	// gcRate leaves the disk and the processors to those who wait for them.
	gcRate = 50_000
)

// openDoorError says that the options would let everybody in the network do everything.
type openDoorError struct{ addr net.Addr }

func (e *openDoorError) Error() string {
	return fmt.Sprintf("serving registry on %s: not a loopback address, and no users were given", e.addr)
}

func (e *openDoorError) Hint() string {
	return "give --htpasswd FILE or --accounts, or --insecure-anonymous to let everybody in"
}

func serveRegistry(ctx context.Context, a *app, o serveRegistryOptions) error {
	if err := o.check(); err != nil {
		return &usageError{command: "teu serve registry", err: err}
	}
	ro, err := o.options(a)
	if err != nil {
		return err
	}
	reload := func() error { return nil }
	if o.audit != "" {
		f, err := openLogFile(o.audit)
		if err != nil {
			return fmt.Errorf("opening audit log: %w", err)
		}
		defer f.Close()
		ro.Audit, reload = f, f.reopen
	}
	defer onReload(a.ui.InTerminal(), reload)()
	reg, err := registry.New(ro)
	if err != nil {
		return err
	}
	tlsConfig, err := o.tls(reg)
	if err != nil {
		return err
	}
	ln, err := o.listen(ctx, a.ui, tlsConfig != nil)
	if err != nil {
		return err
	}
	defer ln.Close()
	var watch net.Listener
	if o.metrics != "" {
		if watch, err = net.Listen("tcp", o.metrics); err != nil {
			return err
		}
		defer watch.Close()
	}
	debug.SetGCPercent(100) // unlike the commands, a server stays
	// Who waits for the disk keeps what Go runs code with (a P) until its monitor, which costs time, takes it
	// away. With some to spare it need not, and requests that wait together share more of the journal's writes.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + waitingForDisk)
	if err := server.Trim(); err != nil {
		slog.Warn("giving memory back", "error", err)
	}
	a.ui.Printf("serving registry on %s\n", ln.Addr())

	// What looks after the registry ends after the last request was answered.
	care, stop := context.WithCancel(context.WithoutCancel(ctx))
	var upkeep sync.WaitGroup
	upkeep.Go(func() { reg.Maintain(care) })
	if watch != nil {
		upkeep.Go(func() {
			if err := server.Serve(care, watch, reg.Metrics(), server.Options{Drain: -1, Log: slog.Default()}); err != nil {
				slog.Warn("serving metrics", "error", err)
			}
		})
	}
	defer upkeep.Wait()
	defer stop()
	return server.Serve(ctx, ln, reg, server.Options{TLS: tlsConfig, Log: slog.Default()})
}

// check refuses flags that do not go together.
func (o serveRegistryOptions) check() error {
	if file := o.htpasswd != ""; file && o.accounts || o.anonymous && (file || o.accounts) {
		return errors.New("--htpasswd, --accounts and --insecure-anonymous exclude each other")
	}
	if o.gcInterval < 0 || o.gc.Grace < registry.MinGrace {
		return fmt.Errorf("--gc-grace is at least %s, and --gc-interval not negative", registry.MinGrace)
	}
	for _, m := range o.mirrors {
		if !strings.Contains(m, "=") {
			return fmt.Errorf("--mirror %q is not PREFIX=REGISTRY", m)
		}
	}
	return o.checkTLS()
}

// options are those of the registry, without its audit log.
func (o serveRegistryOptions) options(a *app) (registry.Options, error) {
	ro := o.at.options(a)
	ro.Htpasswd, ro.Anonymous, ro.AllowDelete = o.htpasswd, o.anonymous, !o.disallowDeletion
	ro.GCInterval, ro.GC, ro.Log = o.gcInterval, o.gc, slog.Default()
	ro.GC.Rate = gcRate
	ro.Accounts, ro.URL, ro.Rate, ro.ClientCerts = o.accounts, o.url, o.rate, o.clientCA != ""
	ro.OpenUpstream = openUpstream(a.registry())
	for _, m := range o.mirrors {
		prefix, name, _ := strings.Cut(m, "=")
		ro.Mirrors = append(ro.Mirrors, registry.Mirror{Prefix: prefix, Registry: name})
	}
	hooks, err := o.hooks()
	ro.Webhooks = append(ro.Webhooks, hooks...)
	return ro, err
}

// listen opens the registry's port, except to a network that may do everything without anybody having said so.
func (o serveRegistryOptions) listen(ctx context.Context, u *ui.UI, secure bool) (net.Listener, error) {
	ln, err := server.Listen(ctx, o.addr)
	if err != nil || ln.Addr().(*net.TCPAddr).IP.IsLoopback() {
		return ln, err
	}
	if o.htpasswd == "" && !o.accounts && o.clientCA == "" && !o.anonymous {
		return nil, errors.Join(&openDoorError{ln.Addr()}, ln.Close())
	}
	if !o.anonymous && !secure && o.url == "" {
		u.Warnf("passwords travel unencrypted: give --tls-cert and --tls-key or --acme, or put a proxy with TLS in front")
	}
	return ln, nil
}

// hooks returns the webhooks of the flags.
func (o serveRegistryOptions) hooks() (list []registry.Webhook, err error) {
	var headers map[string]string
	if o.webhookHeaders != "" {
		if headers, err = registry.ReadHeaders(o.webhookHeaders); err != nil {
			return nil, fmt.Errorf("reading headers of webhooks: %w", err)
		}
	}
	for _, u := range o.webhooks {
		list = append(list, registry.Webhook{URL: u, Headers: headers})
	}
	return list, nil
}

// openUpstream opens repositories of mirrored registries, with the credentials of teu login.
func openUpstream(c *client.Client) func(name, repo string) (registry.Upstream, error) {
	return func(name, repo string) (registry.Upstream, error) {
		ref, err := reference.ParseNormalizedNamed(name + "/" + repo)
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w: %w", name, repo, errdefs.ErrNotFound, err)
		}
		return c.Repository(ref)
	}
}

// tls returns the configuration for HTTPS, or nil for plain HTTP.
func (o serveRegistryOptions) tls(reg *registry.Registry) (c *tls.Config, err error) {
	switch {
	case o.tlsCert != "" && o.tlsKey != "":
		cert, err := server.LoadCertificate(o.tlsCert, o.tlsKey, slog.Default())
		if err != nil {
			return nil, err
		}
		c = &tls.Config{GetCertificate: cert.Get, MinVersion: tls.VersionTLS12}
	case len(o.acme.Hosts) > 0:
		if c, err = o.acme.Config(reg.Certificates()); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	if o.clientCA == "" {
		return c, nil
	}
	return c, server.RequireClientCertificates(c, o.clientCA)
}

func (o serveRegistryOptions) checkTLS() error {
	files, names := o.tlsCert != "" || o.tlsKey != "", len(o.acme.Hosts) > 0
	switch {
	case files && (o.tlsCert == "" || o.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case files && names:
		return errors.New("--tls-cert and --acme exclude each other")
	case o.clientCA != "" && !files && !names:
		return errors.New("--tls-client-ca needs --tls-cert and --tls-key, or --acme")
	case !names && (o.acme.Email != "" || o.acme.Directory != "" || o.acme.CAFile != ""):
		return errors.New("--acme-email, --acme-directory and --acme-ca need --acme")
	}
	return nil
}
