package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/result"
	"github.com/teu-dev/teu/cache/statefile"
)

// recover forgets, once after each start of the machine, what did not reach the disk before it went down:
// layers that were never synced, the build results that need them, and the names of images that were built
// of them and have no blobs to unpack again. Pulled images keep their names, since they have blobs.
func (s *Store) recover() error {
	boot, err := statefile.BootID()
	if err != nil || s.booted(boot) {
		return err
	}
	if err := s.forgetLost(context.Background()); err != nil {
		return fmt.Errorf("recovering from a power loss: %w", err)
	}
	// Where that fails, as on a full disk, the next command looks again.
	_ = os.WriteFile(s.path("boot"), []byte(boot+"\n"), 0o600)
	return nil
}

// booted says whether the store was used in this boot before. A damaged file of another is not of this one.
func (s *Store) booted(boot string) bool {
	data, err := os.ReadFile(s.path("boot"))
	return err == nil && strings.TrimSpace(string(data)) == boot
}

// Lost returns the names of images that Open had to forget because the machine lost its power soon after
// they were built.
func (s *Store) Lost() []string { return s.lost }

func (s *Store) forgetLost(ctx context.Context) (err error) {
	ids, err := s.Layers.Lost()
	if err != nil || len(ids) == 0 {
		return err
	}
	unlock, err := statefile.Lock(ctx, s.path("boot.lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if ids, err = s.Layers.Lost(); err != nil { // another process may have been quicker
		return err
	}
	lost := map[string]bool{}
	for _, id := range ids {
		lost[id] = true
	}
	if err := s.forgetResults(ctx, lost); err != nil {
		return err
	}
	if err := s.forgetImages(ctx); err != nil {
		return err
	}
	for _, id := range ids { // last: who is killed before begins again
		if err := s.Layers.Forget(id); err != nil {
			return err
		}
	}
	return nil
}

// forgetResults deletes the results that need a lost layer.
func (s *Store) forgetResults(ctx context.Context, lost map[string]bool) error {
	return s.Results.Walk(ctx, func(r result.Record) error {
		for _, id := range r.Layers {
			if lost[id] {
				return s.Results.Delete(ctx, r.Key)
			}
		}
		return nil
	})
}

// forgetImages deletes the names of images that have a layer neither unpacked nor as a blob.
func (s *Store) forgetImages(ctx context.Context) error {
	images, err := s.Images.All(ctx)
	if err != nil {
		return err
	}
	for _, img := range images {
		whole, err := s.unpackable(ctx, img)
		if err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
		if whole {
			continue
		}
		if err := s.Images.DeleteRecord(ctx, img); err != nil && !gone(err) {
			return err
		}
		if img.Name != "" {
			s.lost = append(s.lost, img.Name)
		}
	}
	return nil
}

// unpackable says whether img can be run. An image of other platforms only is as it should be.
func (s *Store) unpackable(ctx context.Context, img image.Image) (bool, error) {
	if _, err := s.Content.Stat(ctx, img.Target.Digest); err != nil {
		return false, ignoreGone(err)
	}
	found, err := content.Resolve(ctx, s.Content, img.Target, content.Host())
	if err != nil {
		return true, ignoreGone(err)
	}
	for i, d := range found.Manifest.Layers {
		if _, err := s.Content.Stat(ctx, d.Digest); err == nil {
			continue
		} else if !gone(err) && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		var diffID digest.Digest
		if ids := found.Config.RootFS.DiffIDs; i < len(ids) {
			diffID = ids[i]
		}
		if _, err := s.Layers.ByDiffID(diffID); err != nil {
			return false, ignoreGone(err)
		}
	}
	return true, nil
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}
