package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/statefile"
)

// Which blobs are the same layer, differently compressed, is remembered in files of one
// descriptor each, so that nobody has to lock:
//
//	ROOT/compressed/HEX OF THE DIFFID/HEX OF THE BLOB.json

func (s *Store) compressedDir(diffID digest.Digest) string {
	return s.path("compressed", diffID.Encoded())
}

// remember notes that d is the layer diffID, compressed.
func (s *Store) remember(diffID digest.Digest, d ocispec.Descriptor) error {
	if err := errors.Join(diffID.Validate(), d.Digest.Validate()); err != nil {
		return err
	}
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	path := filepath.Join(s.compressedDir(diffID), d.Digest.Encoded()+".json")
	for range 10 { // tidy may remove an empty directory in between
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		err := statefile.Write(path, d, statefile.WriteOptions{})
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("remembering blob %s of layer %s: %w", d.Digest, diffID, errdefs.ErrUnavailable)
}

// blobsOf returns the blobs known to be the layer diffID, whether or not they are there.
func (s *Store) blobsOf(diffID digest.Digest) ([]ocispec.Descriptor, error) {
	if err := diffID.Validate(); err != nil {
		return nil, fmt.Errorf("diffID %q: %w: %w", diffID, errdefs.ErrInvalidArgument, err)
	}
	dir := s.compressedDir(diffID)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, e := range entries {
		var d ocispec.Descriptor
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		err := statefile.Read(filepath.Join(dir, e.Name()), &d)
		if gone(err) || err == nil && d.Digest.Validate() != nil {
			continue // damaged: it will be compressed again
		}
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// allCompressed returns the blobs of every layer that has some.
func (s *Store) allCompressed() (map[digest.Digest][]digest.Digest, error) {
	all := map[digest.Digest][]digest.Digest{}
	err := s.walkCompressed(func(diffID digest.Digest, blobs []ocispec.Descriptor) error {
		for _, d := range blobs {
			all[diffID] = append(all[diffID], d.Digest)
		}
		return nil
	})
	return all, err
}

func (s *Store) walkCompressed(fn func(diffID digest.Digest, blobs []ocispec.Descriptor) error) error {
	entries, err := os.ReadDir(s.path("compressed"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		diffID := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if !e.IsDir() || diffID.Validate() != nil {
			continue
		}
		blobs, err := s.blobsOf(diffID)
		if err != nil {
			return err
		}
		if err := fn(diffID, blobs); err != nil {
			return err
		}
	}
	return nil
}

// sweepCompressed forgets the blobs that are gone. One that is just being stored again may be
// forgotten too; then the layer is compressed once more.
func (s *Store) sweepCompressed(ctx context.Context) error {
	return s.walkCompressed(func(diffID digest.Digest, blobs []ocispec.Descriptor) error {
		dir := s.compressedDir(diffID)
		for _, d := range blobs {
			_, err := s.Content.Stat(ctx, d.Digest)
			if errdefs.IsNotFound(err) {
				err = ignoreMissing(os.Remove(filepath.Join(dir, d.Digest.Encoded()+".json")))
			}
			if err != nil {
				return err
			}
		}
		if err := statefile.Sweep(dir); err != nil {
			return ignoreMissing(err)
		}
		_ = os.Remove(dir) // if it is empty
		return nil
	})
}
