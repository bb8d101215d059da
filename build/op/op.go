// Package op performs the operations of a build: it brings sources, changes files and
// runs commands, each turning filesystem states into another.
//
// A state is a [Result], a list of layers. Nothing is copied to make one: an operation
// works on an overlay of its input, and the upper directory becomes a layer by a rename.
// Layers of a base image are fetched when somebody first asks for their bytes.
//
// Keys and content keys are those of BuildKit v0.33 (notes beside the functions say where
// from), so that a cache made by one can mean something to the other.
//
// Every tree an operation touches is hostile: images, contexts and what earlier commands
// left. Paths in them are opened through cache/rootfs and stay inside.
package op

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
)

// An Env is what the operations of one build work with. The caller holds a pin of Store
// for as long as it uses the Env or a Result of it. Fields are not changed after first use.
type Env struct {
	Store *cache.Store
	// Dir is the builder's own state below the store's root: cache mounts, digests of
	// contexts, what was downloaded. It must be on the filesystem of Store.
	Dir string
	// RunDir is volatile and private: where mounts and secrets of running commands are.
	RunDir string

	Registry func(reference.Named) (Repository, error)
	Locals   map[string]string // directories by the name of their local:// source
	// OpenLocal returns the directory of a local:// source that is not in Locals, which stays as it is until
	// the end; nil: there are no others.
	OpenLocal  func(ctx context.Context, c *solver.Console, name string, attrs map[string]string) (string, error)
	OCILayouts map[string]string // directories by the store name of their oci-layout:// source
	// FindLayout returns a directory with the image ref, NAME@DIGEST, for p of an OCI layout that is not in
	// OCILayouts; nil: there are no others.
	FindLayout   func(ctx context.Context, name, ref string, p ocispec.Platform) (dir string, err error)
	Secrets      Secrets // nil: there are none
	SSH          map[string]SSHAgent
	FindSSH      func(ctx context.Context, id string) (SSHAgent, bool) // of those not in SSH; nil: there are no others
	HTTP         *http.Client                                          // nil: http.DefaultClient
	Executor     Executor
	Entitlements []string                         // see CheckEntitlement
	CDIDirs      []string                         // where files tell of devices, see runner/cdi
	Warn         func(format string, args ...any) // nil: warnings are dropped
	// FillCache puts files into the directory of a cache mount that is used here for the first time;
	// nil: it stays empty.
	FillCache func(ctx context.Context, key, dir string) error
	// KeepFailed keeps what failed commands leave, which is then in their Failure.
	KeepFailed bool

	locals onces[string, *Local]
	images onces[string, Image]
	pulls  onces[digest.Digest, struct{}]
	shared onces[digest.Digest, string]   // layers of shared caches that are being brought
	refs   onces[string, gitRefs]         // of repositories, as the first question found them
	got    onces[digest.Digest, download] // by request: a build has one content of a URL, whatever the server does meanwhile

	failures []*Failure // that have something to be dropped

	removal     sync.WaitGroup // of what operations have left
	removalErrs []error

	mu     sync.Mutex
	pruned map[string]bool
	caches map[string]bool           // keys of cache mounts that were used
	bases  map[digest.Digest]Layer   // of the images that were asked for
	there  map[string]bool           // IDs of layers that were touched, so that the pin keeps them
	stacks map[string]stack          // by the ID of the topmost layer
	nexts  map[digest.Digest]Network // of the command that runs on what a command leaves, by the latter's vertex
}

// A Repository is where the blobs of an image are.
type Repository interface {
	content.Fetcher
	// Resolve returns what a tag or digest stands for.
	Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error)
}

// Secrets are given by the user for one build. They are never part of a key or of a result.
type Secrets interface {
	// Secret returns the bytes of id, or an errdefs.ErrNotFound.
	Secret(ctx context.Context, id string) ([]byte, error)
}

// Op returns the operation of v.
func (e *Env) Op(v *graph.Vertex) (solver.Op[Result], error) {
	switch o := v.Op.Op.(type) {
	case *pb.Op_Source:
		return e.sourceOp(v, o.Source)
	case *pb.Op_File:
		return e.fileOp(v, o.File)
	case *pb.Op_Exec:
		return e.execOp(v, o.Exec)
	case *pb.Op_Merge:
		return &mergeOp{o.Merge}, nil
	case *pb.Op_Diff:
		return &diffOp{e, o.Diff}, nil
	case *pb.Op_Passthrough:
		return &passthroughOp{o.Passthrough}, nil
	}
	return nil, fmt.Errorf("operation %T: %w", v.Op.Op, errdefs.ErrNotImplemented)
}

// Close gives back what the operations kept open, and returns when what they left to be removed is.
func (e *Env) Close() error {
	err := e.dropFailures()
	e.removal.Wait()
	return errors.Join(append(e.removalErrs, err, e.closeLocals())...)
}

// beside does what nobody waits for until Close.
func (e *Env) beside(f func() error) {
	e.removal.Go(func() {
		if err := f(); err != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.removalErrs = append(e.removalErrs, err)
		}
	})
}

func (e *Env) warn(format string, args ...any) {
	if e.Warn != nil {
		e.Warn(format, args...)
	}
}

// layout returns the directory of the OCI layout name, in which the image ref for p is wanted.
func (e *Env) layout(ctx context.Context, name, ref string, p ocispec.Platform) (string, error) {
	if dir, ok := e.OCILayouts[name]; ok {
		return dir, nil
	}
	if e.FindLayout != nil {
		return e.FindLayout(ctx, name, ref, p)
	}
	return "", fmt.Errorf("OCI layout %q: %w", name, errdefs.ErrNotFound)
}

// agent returns the SSH agent id, if there is one.
func (e *Env) agent(ctx context.Context, id string) (SSHAgent, bool) {
	a, ok := e.SSH[id]
	if !ok && e.FindSSH != nil {
		return e.FindSSH(ctx, id)
	}
	return a, ok
}

// secret returns the secret id, or an errdefs.ErrNotFound.
func (e *Env) secret(ctx context.Context, id string) ([]byte, error) {
	if e.Secrets == nil {
		return nil, fmt.Errorf("secret %s: %w", id, errdefs.ErrNotFound)
	}
	data, err := e.Secrets.Secret(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	return data, nil
}

// ExitError is a command that ran and failed.
type ExitError struct {
	Code      int    // as a shell reports it
	Command   string // with its arguments
	OOMKilled bool
	DiskFull  bool // there was no room left when it ended
}

func (e *ExitError) Error() string {
	if e.OOMKilled {
		return fmt.Sprintf("exit code: %d (killed because memory ran out)", e.Code)
	}
	if e.DiskFull {
		return fmt.Sprintf("exit code: %d (there is no space left on the disk)", e.Code)
	}
	return fmt.Sprintf("exit code: %d", e.Code)
}
