// Package cache owns everything teu keeps on a machine and can make or fetch again:
// blobs, unpacked layers, snapshots, image names and build results, in one directory.
//
//	ROOT/content/        blobs, an OCI image layout
//	ROOT/layers/         unpacked layers
//	ROOT/compressed/     which blob a layer was compressed to
//	ROOT/snapshots/      upper directories of containers and build steps
//	ROOT/images/         names
//	ROOT/results/        build cache
//	ROOT/pins/           what running commands protect from collection
//	ROOT/leases/         what containers protect from collection
//	ROOT/gc.lock         see GC
//
// Any number of processes may use one root at the same time, and each may be killed at
// any instant. A power loss may lose objects that can be made again, never damage one unseen.
package cache

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/snapshot"
)

var errTODO = errors.New("not written yet")

// A Store is the state of one root directory. It may be used by many goroutines.
type Store struct {
	Content   *content.Store
	Layers    *layer.Store
	Snapshots *snapshot.Store
	Images    *image.Store

	root, runRoot string
}

// Open opens the store in root, with volatile state in runRoot, and makes both if needed.
func Open(root, runRoot string) (*Store, error) { return nil, errTODO }

// Root returns the directory given to Open.
func (s *Store) Root() string { return s.root }

// RunRoot returns the directory of volatile state given to Open.
func (s *Store) RunRoot() string { return s.runRoot }

// Pin protects from collection whatever this process makes or touches from now until
// unpin, or until the process dies. Whoever uses several objects one after the other pins first.
func (s *Store) Pin(ctx context.Context) (unpin func() error, err error) { return nil, errTODO }

// A Lease protects objects for as long as it exists, whichever process made it.
type Lease struct {
	Manifest  digest.Digest `json:"manifest,omitempty"` // and what it refers to
	Layers    []string      `json:"layers,omitempty"`
	Snapshots []string      `json:"snapshots,omitempty"`
}

// Lease records l durably under name, replacing the one there. The objects must be
// protected by a pin until Lease has returned.
func (s *Store) Lease(ctx context.Context, name string, l Lease) error { return errTODO }

// Unlease drops a lease. A missing one is not an error.
func (s *Store) Unlease(ctx context.Context, name string) error { return errTODO }

// PutImage records a name for a target whose objects a pin of the caller protects, or
// which has a name already.
func (s *Store) PutImage(ctx context.Context, img image.Image) error { return errTODO }

// PullOptions change how Pull works.
type PullOptions struct {
	Platform    *ocispec.Platform // nil: the host's
	Concurrency int               // layers at once; 0 means 4
	Progress    content.Progress
}

// Pull stores and unpacks the image for one platform behind root. Each layer is fetched,
// verified, decompressed, verified and unpacked in one stream; what is there already is
// neither fetched nor unpacked. The caller holds a pin and names the image afterwards.
func (s *Store) Pull(ctx context.Context, src content.Fetcher, root ocispec.Descriptor, o PullOptions) (content.Image, error) {
	return content.Image{}, errTODO
}

// Unpack returns the layers of img, lowest first, unpacking from local blobs what is not unpacked.
// The caller holds a pin. A blob that is neither unpacked nor local is an errdefs.ErrNotFound.
func (s *Store) Unpack(ctx context.Context, img content.Image) (layerIDs []string, err error) {
	return nil, errTODO
}

// Lookup finds an image by name (docker's short forms included), by name@digest, or by ID or
// digest, whole or its first hex digits. Several images behind a prefix are an errdefs.ErrInvalidArgument.
func (s *Store) Lookup(ctx context.Context, nameOrID string) (image.Image, error) {
	return image.Image{}, errTODO
}

// CompressLayer returns the blob of the layer id, and makes it if it has not been made yet: an OCI
// layer of mediaType (gzip, zstd or plain). Equal layers give equal blobs on every machine.
// A layer that was pulled and whose blob is gone is an errdefs.ErrFailedPrecondition when it
// cannot be turned back into the same tar. The caller holds a pin.
func (s *Store) CompressLayer(ctx context.Context, id string, mediaType string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errTODO
}
