// Package registry serves the OCI distribution API (distribution-spec 1.1) from a directory or
// an S3 bucket. What is in a bucket is said at its type; this is about directories.
//
// # What is on disk
//
//	ROOT/layout                                   "teu registry 1", the version of this tree
//	ROOT/blobs/sha256/ab/ab12..                   every blob once, named by its digest
//	ROOT/repositories/NAME/_blobs/sha256/ab12..   hard link to the blob: it is visible in NAME
//	ROOT/repositories/NAME/_manifests/sha256/cd.. record of a manifest: one line "manifest DIGEST
//	                                              MEDIA-TYPE", then the manifest byte for byte
//	ROOT/repositories/NAME/_tags/TAG              hard link to the record the tag points to
//	ROOT/repositories/NAME/_referrers/sha256-ab../sha256-cd..
//	                                              hard link to the record of a manifest (second
//	                                              name) whose subject is the first
//	ROOT/uploads/ID                               bytes of an upload so far; its size is the offset.
//	                                              There is none before the first byte
//	ROOT/tmp/                                     files that are about to be linked into place
//
// No component of a repository name starts with "_", so NAME can hold other repositories.
//
// # Why hard links
//
// The link in the repository is the permission and the data in one: reading a blob or a
// tag is one open(2), and nothing has to agree with anything else. The link count is the
// reference count, kept by the file system, so that collecting garbage needs no pause: a
// file in blobs/ with a single link is in no repository and may be unlinked at any time.
// Should a push link it in that moment, the push has the bytes and only the sharing is lost.
//
// # What is promised
//
// A file gets a visible name only when it is whole, verified and on disk. 201 is sent after
// its name is on disk too. Any process may be killed at any instant and any number of
// servers may work on one directory: the only locks are flock(2) on an upload, and on a
// repository's _manifests directory while a manifest or blob of it is linked or removed,
// which never lasts as long as a write to disk.
//
// Collecting the blobs of a repository works by the same lock: mark without it, then hold it,
// and that of the directory of its blobs, exclusively for the moment in which a few links
// that no manifest names, and whose inode has not changed (ctime) for the grace, are removed.
// Whoever makes a link changes the inode; whoever tells a client that there is one, or finds
// one that a new manifest refers to, touches it under the same locks, shared. So neither an
// acknowledged blob whose manifest is on its way is lost, nor what a manifest refers to that
// came after the marking. ROOT/gc.lock is held by the one collection that runs, and its mtime
// is when the last one ended. Directories of repositories are never removed while a server
// runs.
package registry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Options say where a registry keeps its data and who may use it.
type Options struct {
	// Root is the directory that holds everything. It is created.
	Root string
	// Bucket, if its URL is set, holds everything instead.
	Bucket BucketOptions
	// Existing says that there has to be a registry. Nothing is made then.
	Existing bool
	// Htpasswd is a file of "user:bcrypt hash" lines. Who logs in may do everything,
	// anonymous requests are refused. The file is read again when it changes.
	Htpasswd string
	// Accounts makes who may do what a matter of the accounts in the registry, see Accounts.
	Accounts bool
	// ClientCerts says that TLS verifies certificates of clients: their common name is a
	// user's, who may do everything if there are no accounts.
	ClientCerts bool
	// URL is by what clients come, https://HOST, for the answer where to get a token. The
	// default is what the request says.
	URL string
	// Rate is how many requests a second one client may make, a user or else an address, with
	// ten times as many at once. 0: no limit.
	Rate int
	// Audit gets a line of JSON for each change, each login that failed and each refusal.
	Audit io.Writer
	// Anonymous accepts requests without credentials on every address. Without it, and
	// without Htpasswd, only connections to a loopback address are served.
	Anonymous bool
	// Mirrors are registries whose repositories appear here, by OpenUpstream.
	Mirrors      []Mirror
	OpenUpstream func(registry, repo string) (Upstream, error)
	// AllowDelete allows the deletion of tags, manifests and blobs.
	AllowDelete bool
	// GCInterval is the time from one collection of garbage to the next, for all servers
	// of the directory together. 0: Maintain does not collect.
	GCInterval time.Duration
	// GC are the options of these collections.
	GC GCOptions
	// Webhooks are told of changes of tags and manifests, as long as Maintain runs.
	Webhooks []Webhook
	// Log receives failures that are the server's, not the client's, and every request
	// at debug level. nil discards.
	Log *slog.Logger
}

// temp is the directory for what need not outlive the server.
func (o Options) temp() string {
	if o.Bucket.URL == "" {
		return filepath.Join(o.Root, "tmp")
	}
	return cmp.Or(o.Bucket.Temp, os.TempDir())
}

// Registry is an http.Handler for everything below /v2/. It is safe for concurrent use,
// and several may work on one directory, in one process or in many.
type Registry struct {
	store       storage
	door        *door
	allowDelete bool
	gcInterval  time.Duration
	gc          GCOptions
	log         *slog.Logger
	limit       *rateLimit
	audit       *auditLog
	rules       *documentCache[Rules]
	hooks       []*hook
	metrics     metrics

	temp           string        // directory for manifests while they come
	largeManifests chan struct{} // those that have come
}

const (
	// uploadLife is how long an upload may lie still before it is removed.
	uploadLife = 24 * time.Hour
	// sweepEvery is the time between two looks at the uploads.
	sweepEvery = time.Hour
)

// New opens the registry in o.Root, and makes it if there is none.
func New(o Options) (*Registry, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := openStorage(o)
	if err != nil {
		return nil, err
	}
	if len(o.Mirrors) > 0 {
		if s, err = newMirrors(s, o); err != nil {
			return nil, err
		}
	}
	d, err := newDoor(o, s, log)
	if err != nil {
		return nil, err
	}
	g := &Registry{store: s, door: d, allowDelete: o.AllowDelete, gcInterval: o.GCInterval, gc: o.GC, log: log, rules: newRulesCache(s),
		temp: o.temp(), largeManifests: make(chan struct{}, maxLargeManifests)}
	if g.hooks, err = newHooks(o.Webhooks, log); err != nil {
		return nil, err
	}
	if o.Rate > 0 {
		g.limit = &rateLimit{rate: float64(o.Rate), most: rateBurst * float64(o.Rate)}
		d.limit = g.limit
	}
	if o.Audit != nil {
		g.audit = &auditLog{w: o.Audit}
	}
	return g, nil
}

// openTime is how long the service of a bucket may take to answer at the start.
const openTime = time.Minute

// openStorage opens what o says. errdefs.ErrNotFound when there is no registry and o.Existing
// wants one.
func openStorage(o Options) (storage, error) {
	if o.Bucket.URL != "" {
		ctx, cancel := context.WithTimeout(context.Background(), openTime)
		defer cancel()
		b, err := openBucket(ctx, o.Bucket, o.Existing)
		if err != nil {
			return nil, fmt.Errorf("opening registry %s: %w", o.Bucket.URL, err)
		}
		return b, nil
	}
	s, err := openDirectory(o.Root, o.Existing)
	if err != nil {
		return nil, fmt.Errorf("opening registry %s: %w", o.Root, err)
	}
	return s, nil
}

// noRegistry says in a word what it means that the mark of a registry is not found.
func noRegistry(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("there is no registry: %w", errdefs.ErrNotFound)
	}
	return err
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Docker-Distribution-Api-Version"] = []string{"registry/2.0"}
	// What is served was uploaded by somebody; no browser shall run it.
	h["X-Content-Type-Options"] = []string{"nosniff"}
	limitUnread(w, r)
	defer limitWriting(w, 0) // what is left in a buffer
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		g.serveHealth(w, r)
		return
	}
	lw := &logWriter{ResponseWriter: w, start: time.Now()}
	g.metrics.inFlight.Add(1)
	var name string
	defer func() { g.answered(lw, r, name) }()
	name = g.answer(lw, r)
}

// answered tells everybody who wants to know about a request that was answered.
func (g *Registry) answered(lw *logWriter, r *http.Request, name string) {
	g.metrics.inFlight.Add(-1)
	g.metrics.request(r, lw.status, lw.bytes, time.Since(lw.start))
	if g.audit != nil {
		g.audit.request(r, name, lw.status, g.log)
	}
	if g.log.Enabled(r.Context(), slog.LevelDebug) {
		lw.log(g.log, r)
	}
}

// answer answers r, and returns who asked.
func (g *Registry) answer(w http.ResponseWriter, r *http.Request) (name string) {
	name, err := g.serve(w, r)
	if err != nil {
		g.fail(w, r, err)
	}
	return name
}

// serve answers r, or returns the error to answer with. After an error nothing has been
// written yet, or the connection is beyond repair.
func (g *Registry) serve(w http.ResponseWriter, r *http.Request) (name string, err error) {
	if r.URL.Path == tokenPath && g.door.accounts != nil {
		if err := g.limit.take(w, clientAddress(r)); err != nil {
			return "", err
		}
		name, _, _ = r.BasicAuth()
		return name, g.serveToken(w, r)
	}
	rt, bad := parseRoute(r.URL.Path)
	if bad == nil {
		bad = g.namespace(w, r, &rt)
	}
	v, err := g.door.admit(w, r, rt)
	who := v.name
	if err != nil || who == "" {
		who = clientAddress(r) // who guesses passwords is no user
	}
	if err := g.limit.take(w, who); err != nil {
		return v.name, err
	}
	if err != nil {
		return v.name, err
	}
	if bad != nil {
		return v.name, bad
	}
	rt.visitor = v
	h := g.handler(rt.kind, r.Method)
	if h == nil {
		return v.name, notAllowed(w, rt.kind, r.Method)
	}
	return v.name, h(w, r, rt)
}

type handler func(w http.ResponseWriter, r *http.Request, rt route) error

// handler is the table of the API. nil: the method is not allowed there.
func (g *Registry) handler(k routeKind, method string) handler {
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	switch k.String() + " " + method {
	case "base GET":
		return g.getBase
	case "catalog GET":
		return g.listRepositories
	case "tags GET":
		return g.listTags
	case "referrers GET":
		return g.listReferrers
	case "manifest GET":
		return g.getManifest
	case "manifest PUT":
		return g.putManifest
	case "manifest DELETE":
		return g.deleteManifest
	case "blob GET":
		return g.getBlob
	case "blob DELETE":
		return g.deleteBlob
	case "uploads POST":
		return g.startUpload
	case "upload GET":
		return g.getUpload
	case "upload PATCH":
		return g.patchUpload
	case "upload PUT":
		return g.finishUpload
	case "upload DELETE":
		return g.cancelUpload
	}
	return nil
}

func (g *Registry) getBase(w http.ResponseWriter, r *http.Request, _ route) error {
	return writeJSON(w, "application/json", struct{}{})
}

// Maintain removes abandoned uploads and collects garbage from time to time, and tells the
// webhooks what happens, until ctx ends. They get a moment then for what they have not heard.
func (g *Registry) Maintain(ctx context.Context) {
	var hooks sync.WaitGroup
	defer hooks.Wait()
	for _, h := range g.hooks {
		hooks.Go(func() { h.run(ctx) })
	}
	sweep := time.NewTimer(0)
	defer sweep.Stop()
	collect := time.NewTimer(g.untilGC())
	defer collect.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			g.sweepUploads(ctx)
			sweep.Reset(sweepEvery)
		case <-collect.C:
			if g.gcInterval > 0 && g.untilGC() <= 0 { // no other server was faster
				g.collect(ctx)
			}
			collect.Reset(max(g.untilGC(), min(g.gcInterval, time.Minute)))
		}
	}
}

// untilGC returns how long it is until the next collection.
func (g *Registry) untilGC() time.Duration {
	if g.gcInterval <= 0 {
		return 365 * 24 * time.Hour
	}
	last := g.store.LastCollection()
	if last.After(time.Now()) { // the clock was wrong
		return g.gcInterval
	}
	return time.Until(last.Add(g.gcInterval))
}

func (g *Registry) sweepUploads(ctx context.Context) {
	n, err := g.store.SweepUploads(ctx, time.Now().Add(-uploadLife))
	if err != nil && ctx.Err() == nil {
		g.log.Error("removing abandoned uploads", "error", err)
	}
	if n > 0 {
		g.log.Info("removed abandoned uploads", "count", n)
	}
}
