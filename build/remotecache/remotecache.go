// Package remotecache owns the form in which a build cache is kept in a registry, in a directory
// or inside an image, so that other machines can use it.
//
// There is one small manifest for each cache key, found by the key:
//
//	registry   REPOSITORY:TAG-HEX   HEX of the key; TAG is that of the user's reference
//	directory  DIR/keys/HEX.json    the descriptor of a manifest in the OCI layout DIR
//
// Its layers are the blobs that the result needs beyond the base image, so that no registry
// collects them as long as the manifest is there; what the key leads to stands in an annotation.
// Nothing is ever changed for two keys at once: any number of builds write at the same time, and
// a build reads only what it asks for. All of it is input from outside and checked as such: an
// entry may be absent, damaged or hostile, and then it is as if it were absent.
package remotecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// An Entry is what is known under a key: a record of the solver.
type Entry struct {
	Canonical digest.Digest `json:"canonical"` // key of the record; others are aliases
	// Plain are keys without which a machine would not know under what to ask for what stands on the record:
	// solver.Record has them.
	Plain       []digest.Digest `json:"plain,omitempty"`
	Description string          `json:"description,omitempty"`
	Outputs     [][]Layer       `json:"outputs"` // of each output the layers, lowest first
	Created     time.Time       `json:"created,omitzero"`
}

// A Layer is one layer of a result.
type Layer struct {
	DiffID digest.Digest `json:"diffID"`
	// Blob is the compressed layer, among the layers of the entry's manifest. It is nil for a layer
	// of a base image, which whoever builds upon it knows where to find.
	Blob    *ocispec.Descriptor `json:"blob,omitempty"`
	Created time.Time           `json:"created,omitzero"` // for the history of an image that has it
}

// A Place keeps manifests by name, and blobs.
type Place interface {
	content.Fetcher
	content.Pusher
	// Get returns the manifest called name, 64 hex digits, or an errdefs.ErrNotFound.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put stores a manifest under name, replacing what is there. Its blobs are there already.
	Put(ctx context.Context, name string, d ocispec.Descriptor, manifest []byte) error
	// String names the place for people.
	String() string
}

// Get looks key up in p. An entry that cannot be used is an errdefs.ErrInvalidArgument, an absent
// one an errdefs.ErrNotFound.
func Get(ctx context.Context, p Place, key digest.Digest) (Entry, error) {
	data, err := p.Get(ctx, key.Encoded())
	if err != nil {
		return Entry{}, err
	}
	e, err := decode(data)
	if err != nil {
		return Entry{}, fmt.Errorf("cache entry %s of %s: %w", key.Encoded()[:12], p, err)
	}
	return e, nil
}

// Put stores e under each of keys.
func Put(ctx context.Context, p Place, e Entry, keys ...digest.Digest) error {
	d, data, err := encode(e)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := p.Put(ctx, key.Encoded(), d, data); err != nil {
			return err
		}
	}
	return nil
}

// Send brings the blob d to p, unless it is there. open is asked for its bytes only if they are needed.
func Send(ctx context.Context, p Place, d ocispec.Descriptor, open func() (io.ReadCloser, error)) (err error) {
	if ok, err := p.Exists(ctx, d); ok || err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return p.Push(ctx, d, r)
}

// Prepare brings what every manifest of an entry refers to.
func Prepare(ctx context.Context, p Place) error {
	return Send(ctx, p, ocispec.DescriptorEmptyJSON, func() (io.ReadCloser, error) {
		return io.NopCloser(emptyJSON()), nil
	})
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
