package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// Hold touches everything that is here of target, so that no collection takes it while
// the caller's pin lives. It fails if nothing of it could run.
func (s *Store) Hold(ctx context.Context, target ocispec.Descriptor) error {
	return s.holdOnce(ctx, target, map[digest.Digest]error{})
}

// holdOnce is Hold that does not look again at the indexes in done.
func (s *Store) holdOnce(ctx context.Context, target ocispec.Descriptor, done map[digest.Digest]error) error {
	there, err := s.Content.Exists(ctx, target)
	if err == nil && !there {
		err = fmt.Errorf("blob %s is not here: %w", target.Digest, errdefs.ErrNotFound)
	}
	if err != nil || !isDocument(target) {
		return err
	}
	if content.IsManifest(target.MediaType) {
		return s.holdManifest(ctx, target)
	}
	if err, again := done[target.Digest]; again {
		return err
	}
	err = s.holdIndex(ctx, target, done)
	done[target.Digest] = err
	return err
}

func (s *Store) holdIndex(ctx context.Context, d ocispec.Descriptor, done map[digest.Digest]error) error {
	children, err := content.Children(ctx, s.Content, d)
	if err != nil {
		return err
	}
	held, missing := 0, error(nil)
	for _, d := range children {
		switch err := s.holdOnce(ctx, d, done); {
		case err == nil:
			held++
		case errdefs.IsNotFound(err):
			missing = err
		default:
			return err
		}
	}
	if held == 0 {
		return missing
	}
	return nil
}

// holdManifest touches the blobs and the unpacked layers of an image. One of both is enough.
func (s *Store) holdManifest(ctx context.Context, d ocispec.Descriptor) error {
	children, err := content.Children(ctx, s.Content, d)
	if err != nil || len(children) == 0 {
		return err
	}
	if there, err := s.Content.Exists(ctx, children[0]); err != nil || !there {
		return errors.Join(err, notFoundUnless(there, children[0]))
	}
	var diffIDs []digest.Digest
	if img, err := content.Resolve(ctx, s.Content, d, content.Host()); err == nil {
		diffIDs = img.Config.RootFS.DiffIDs
	}
	for i, layer := range children[1:] {
		there, err := s.Content.Exists(ctx, layer)
		if err != nil {
			return err
		}
		unpacked := false
		if i < len(diffIDs) {
			if found, err := s.Layers.ByDiffID(diffIDs[i]); err == nil {
				if unpacked, err = s.Layers.Touch(found.ID); err != nil {
					return err
				}
			}
		}
		if err := notFoundUnless(there || unpacked || content.IsForeign(layer.MediaType), layer); err != nil {
			return err
		}
	}
	return nil
}

func notFoundUnless(there bool, d ocispec.Descriptor) error {
	if there {
		return nil
	}
	return fmt.Errorf("blob %s is not here: %w", d.Digest, errdefs.ErrNotFound)
}

func isDocument(d ocispec.Descriptor) bool {
	return content.IsIndex(d.MediaType) || content.IsManifest(d.MediaType)
}
