package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

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

// A compressedIndex is what is remembered of all layers.
type compressedIndex struct {
	blobs map[digest.Digest][]digest.Digest // by diffID
	odd   []digest.Digest                   // diffIDs whose directories have something else in them, or nothing
}

// allCompressed reads the names of the files only: there are as many as layers.
func (s *Store) allCompressed() (compressedIndex, error) {
	all := compressedIndex{blobs: map[digest.Digest][]digest.Digest{}}
	dir, err := os.Open(s.path("compressed"))
	if err != nil {
		return all, err
	}
	defer dir.Close()
	layers, err := dir.Readdirnames(-1) // os.ReadDir would sort them
	if err != nil {
		return all, err
	}
	for _, l := range layers {
		if len(l) != 2*digest.SHA256.Size() || !isHex(l) {
			continue
		}
		diffID := digest.NewDigestFromEncoded(digest.SHA256, l)
		files, err := os.ReadDir(s.compressedDir(diffID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return all, err
		}
		for _, f := range files {
			if d, ok := blobOfFile(f.Name()); ok {
				all.blobs[diffID] = append(all.blobs[diffID], d)
			}
		}
		if len(all.blobs[diffID]) != len(files) || len(files) == 0 {
			all.odd = append(all.odd, diffID)
		}
	}
	return all, nil
}

// blobOfFile returns the digest that the name of a file stands for. The algorithms differ in length.
func blobOfFile(name string) (digest.Digest, bool) {
	hex, ok := strings.CutSuffix(name, ".json")
	if !ok || !isHex(hex) {
		return "", false
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if len(hex) == 2*algorithm.Size() {
			return digest.NewDigestFromEncoded(algorithm, hex), true
		}
	}
	return "", false
}

// sweepCompressed forgets those of all that are gone. One that is just being stored again may be
// forgotten too; then the layer is compressed once more. Blobs in present are not looked for.
func (s *Store) sweepCompressed(ctx context.Context, all compressedIndex, present map[digest.Digest]bool) error {
	for diffID, blobs := range all.blobs {
		left := len(blobs)
		for _, d := range blobs {
			if present[d] {
				continue
			}
			_, err := s.Content.Stat(ctx, d)
			if errdefs.IsNotFound(err) {
				left--
				err = ignoreMissing(os.Remove(filepath.Join(s.compressedDir(diffID), d.Encoded()+".json")))
			}
			if err != nil {
				return err
			}
		}
		if left == 0 {
			_ = os.Remove(s.compressedDir(diffID)) // if it is empty
		}
	}
	for _, diffID := range all.odd {
		dir := s.compressedDir(diffID)
		if err := ignoreMissing(statefile.Sweep(dir)); err != nil {
			return err
		}
		_ = os.Remove(dir)
	}
	return nil
}
