package op

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A Result is the state of a filesystem. It is a value; the zero Result is empty (scratch).
type Result struct {
	// Layers make the state, lowest first.
	Layers []Layer `json:"layers,omitempty"`
	// Local, unless nil, is a directory of this machine which is the state, read in place.
	// Layers is then empty.
	Local *Local `json:"-"`
}

// A Layer is one layer of a state.
type Layer struct {
	// ID names it in the layer store. A layer of a base image has one before it is there.
	ID string `json:"id"`
	// DiffID is set for layers of images. Those a build made are sealed later.
	DiffID digest.Digest `json:"diffID,omitempty"`
	// Blob is the compressed layer in its image's manifest, and Origin where that image is.
	Blob   *ocispec.Descriptor `json:"blob,omitempty"`
	Origin *Origin             `json:"origin,omitempty"`
	// Created is when a build made the layer; zero for layers of images. The history of an
	// image that has the layer says so.
	Created time.Time `json:"created,omitzero"`
}

// An Origin says where a base image came from.
type Origin struct {
	Ref      string             `json:"ref,omitempty"`    // canonical name; "" if only local
	Layout   string             `json:"layout,omitempty"` // directory of an OCI layout instead
	Manifest ocispec.Descriptor `json:"manifest"`
	Platform ocispec.Platform   `json:"platform"`
}

// Available says whether all that r needs is there or can be fetched, and counts as a use.
func (e *Env) Available(ctx context.Context, r Result) (bool, error) { return false, errTODO }

// LayerIDs returns the IDs of the layers of r, lowest first, fetching and making what is
// not there yet.
func (e *Env) LayerIDs(ctx context.Context, c *solver.Console, r Result) ([]string, error) {
	return nil, errTODO
}

// A View is a state that can be read. It is closed by its user.
type View struct {
	Dir *rootfs.Dir
}

// View opens r for reading. A local directory is shown whole, without its patterns.
func (e *Env) View(ctx context.Context, c *solver.Console, r Result) (*View, error) {
	return nil, errTODO
}

// Close gives the view back.
func (v *View) Close() error { return v.Dir.Close() }
