// Package layer owns the unpacked layers of images: overlay directories that do not
// know their parents.
//
// Because a layer knows nothing of what lies below it, all layers of an image can be
// unpacked at the same time, and the same diffID under two parents is stored once.
// What a layer needs from below (the mode and owner of a directory it only passes
// through) is remembered when it is unpacked and added by Stack for each chain.
package layer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

var errTODO = errors.New("not written yet")

// A Layer describes an unpacked layer of the store.
type Layer struct {
	ID     string        // hex of the diffID when it came from a tar, "b-" and random hex when it was built
	DiffID digest.Digest // digest of the plain tar; "" until Seal has computed it
	Size   int64         // bytes on disk, about; 0 until known (a built layer before Seal)

	// Implicit are the directories of the layer for which its tar had no entry, "." for
	// the root, sorted. Their mode and owner are those of the layers below.
	Implicit []string
}

// A Store keeps layers in a directory of its own. Any number of processes may use one
// directory at the same time. A Store may be used by many goroutines.
type Store struct {
	dir string
}

// Open opens the store in dir, creating it if needed.
func Open(dir string) (*Store, error) { return nil, errTODO }

// Get returns the layer id. An errdefs.ErrNotFound means that it is absent, or that it
// may have been damaged by a power loss and has to be made again.
func (s *Store) Get(id string) (Layer, error) { return Layer{}, errTODO }

// ByDiffID returns a layer whose plain tar has the digest d, or errdefs.ErrNotFound as Get.
func (s *Store) ByDiffID(d digest.Digest) (Layer, error) { return Layer{}, errTODO }

// Path returns the overlay directory of the layer id, whether or not it exists.
func (s *Store) Path(id string) string { return "" }

// Apply unpacks the plain tar r, whose digest must be want, and returns its layer. A
// layer that is there already is returned without reading r; so is one that another
// process finishes while this one waits for it. A wrong digest is an errdefs.ErrDataLoss,
// a tar that is not acceptable an errdefs.ErrInvalidArgument, and neither leaves a trace.
func (s *Store) Apply(ctx context.Context, want digest.Digest, r io.Reader) (Layer, error) {
	return Layer{}, errTODO
}

// Adopt makes the overlay upper directory a layer by renaming it. The upper must be
// unmounted and on the filesystem of the store (else errdefs.ErrFailedPrecondition). The
// layer's DiffID and Size are unknown until Seal.
func (s *Store) Adopt(ctx context.Context, upper string) (Layer, error) { return Layer{}, errTODO }

// Seal computes the DiffID of a layer made by Adopt and records it with the epoch that was
// used, so that each later Diff gives the same bytes. A layer with a DiffID is returned as it is.
func (s *Store) Seal(ctx context.Context, id string, epoch *time.Time) (Layer, error) {
	return Layer{}, errTODO
}

// DiffOptions change how Diff writes.
type DiffOptions struct {
	// Epoch clamps later times to it, as SOURCE_DATE_EPOCH asks. A sealed layer ignores it and
	// uses the epoch it was sealed with.
	Epoch *time.Time

	// Unverified accepts a tar whose digest is not the layer's DiffID. Without it such a tar
	// ends in an errdefs.ErrFailedPrecondition: a layer that was pulled cannot in general be
	// turned back into the tar it came from. A layer without DiffID is never verified.
	Unverified bool
}

// Diff writes to w the uncompressed OCI layer tar of the layer id. Entries are sorted by path,
// so equal layers give equal tars; times are cut to seconds as docker does.
// On error w holds a prefix of the tar; the caller discards it.
func (s *Store) Diff(ctx context.Context, id string, w io.Writer, o DiffOptions) error {
	return errTODO
}

// Stack returns the overlay lower directories, top first, of the layers ids, lowest first.
// Where a layer needs something of those below it (see Layer.Implicit), a directory that
// belongs to this chain is made and kept inside that layer's directory.
func (s *Store) Stack(ctx context.Context, ids []string) ([]string, error) { return nil, errTODO }

// Touch says that the layer id is used now, and whether it exists.
func (s *Store) Touch(id string) (bool, error) { return false, errTODO }

// Remove deletes the layer id. An absent one is not an error. No mount may use it.
func (s *Store) Remove(ctx context.Context, id string) error { return errTODO }

// Info is what Walk tells about a layer.
type Info struct {
	Layer
	Used time.Time // when it was made or touched last
}

// Walk calls fn for each layer of the store, in no order, until fn returns an error.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error { return errTODO }

// Sync makes every layer that exists now survive a power loss. It is one syncfs(2), and
// cheap when nothing is to be done.
func (s *Store) Sync(ctx context.Context) error { return errTODO }
