package remotecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/statefile"
)

var errReadOnly = fmt.Errorf("the cache inside an image cannot be written: %w", errdefs.ErrNotImplemented)

func notFound(name string) error {
	return fmt.Errorf("cache entry %.12s: %w", name, errdefs.ErrNotFound)
}

// InDir is a directory of this machine, which is made if Make is set; else it is only read, and a missing one is an
// errdefs.ErrNotFound.
func InDir(dir string, o DirOptions) (Place, error) {
	if !o.Make {
		if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
			return nil, fmt.Errorf("cache directory %s: %w: %w", dir, errdefs.ErrNotFound, err)
		}
		return &inDir{content.At(dir), dir}, nil
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o755); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	s, err := content.Open(dir)
	return &inDir{s, dir}, err
}

// DirOptions change how InDir works.
type DirOptions struct {
	Make bool // the directory need not exist, and is written
}

type inDir struct {
	*content.Store
	dir string
}

func (d *inDir) String() string { return d.dir }

func (d *inDir) path(name string) string { return filepath.Join(d.dir, "keys", name+".json") }

// Get implements Place.
func (d *inDir) Get(ctx context.Context, name string) ([]byte, error) {
	var desc ocispec.Descriptor
	err := statefile.Read(d.path(name), &desc)
	if errdefs.IsDataLoss(err) {
		return nil, invalidf("cache entry %.12s: %v", name, err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkDigest(desc.Digest); err != nil || desc.Size < 0 || desc.Size > maxManifest {
		return nil, errors.Join(err, invalidf("cache entry %.12s: it has %d bytes", name, desc.Size))
	}
	return content.ReadAll(ctx, d.Store, desc)
}

// Put implements Place.
func (d *inDir) Put(ctx context.Context, name string, desc ocispec.Descriptor, manifest []byte) error {
	if err := d.Push(ctx, desc, bytes.NewReader(manifest)); err != nil {
		return err
	}
	return statefile.Write(d.path(name), desc, statefile.WriteOptions{})
}
