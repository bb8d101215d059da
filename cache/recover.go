package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/result"
	"github.com/teu-dev/teu/cache/statefile"
)

// recover makes good, once after each start of the machine, what may not have reached the disk before it went down: layers
// that were never synced. Those that were built and that an image or a container needs are looked at, and stay if they are
// as they were made. The others are forgotten, with the build results that need them and the names of images that have
// no blobs to unpack them from again. What containers stand on is unpacked again at once.
func (s *Store) recover() error {
	boot, err := statefile.BootID()
	if err != nil || s.booted(boot) {
		return err
	}
	ctx := context.Background()
	if err := s.forgetLost(ctx); err != nil {
		return fmt.Errorf("recovering from the start of the machine: %w", err)
	}
	if err := s.renew(ctx); err != nil {
		return fmt.Errorf("recovering from the start of the machine: %w", err)
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
	lost, err := s.Layers.Lost()
	if err != nil || len(lost) == 0 {
		return err
	}
	unlock, err := statefile.Lock(ctx, s.path("boot.lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if lost, err = s.Layers.Lost(); err != nil { // another process may have been quicker
		return err
	}
	if err := s.proveLeased(ctx, lost); err != nil {
		return err
	}
	if err := s.forgetImages(ctx, lost); err != nil {
		return err
	}
	if err := s.forgetResults(ctx, lost); err != nil {
		return err
	}
	for id := range lost { // last: who is killed before begins again
		if err := s.Layers.Forget(id); err != nil {
			return err
		}
	}
	return nil
}

// proveLeased takes from lost what is all there, of the layers that have a lease. To read all that the build cache has would
// take longer than to build it again.
func (s *Store) proveLeased(ctx context.Context, lost map[string]digest.Digest) error {
	leases, err := s.leases()
	unknown := err != nil // a damaged lease may need anything, and is for the collector to tell
	leased := map[string]bool{}
	for _, l := range leases {
		for _, id := range l.Layers {
			leased[id] = leased[id] || !l.Volatile
		}
	}
	for id := range lost {
		if !unknown && !leased[id] {
			continue
		}
		if _, err := s.prove(ctx, lost, id); err != nil {
			return err
		}
	}
	return nil
}

// prove takes a layer from lost if it is all there. Else it is not read a second time.
func (s *Store) prove(ctx context.Context, lost map[string]digest.Digest, id string) (bool, error) {
	proven, err := s.Layers.Prove(ctx, id)
	if proven {
		delete(lost, id)
	} else {
		lost[id] = ""
	}
	return proven, err
}

// proveDiffID looks for a layer in lost that has the diffID and is all there.
func (s *Store) proveDiffID(ctx context.Context, lost map[string]digest.Digest, diffID digest.Digest) (bool, error) {
	for id, d := range lost {
		if d == "" || d != diffID {
			continue
		}
		if proven, err := s.prove(ctx, lost, id); proven || err != nil {
			return proven, err
		}
	}
	return false, nil
}

// renew unpacks again what leases need and is gone. What cannot be had is for those to tell who want it.
func (s *Store) renew(ctx context.Context) (err error) {
	leases, _ := s.leases() // of those that can be read
	var unpin func() error
	for _, l := range leases {
		if l.Volatile || l.Manifest == "" || !slices.ContainsFunc(l.Layers, s.layerGone) {
			continue
		}
		if unpin == nil {
			if unpin, err = s.Pin(ctx); err != nil {
				return err
			}
		}
		_ = s.renewLease(ctx, l)
	}
	if unpin == nil {
		return nil
	}
	return unpin()
}

func (s *Store) layerGone(id string) bool {
	_, err := s.Layers.Get(id)
	return errdefs.IsNotFound(err)
}

// renewLease has the layers of the manifest of l unpacked, with what they take from each other there.
func (s *Store) renewLease(ctx context.Context, l Lease) error {
	info, err := s.Content.Stat(ctx, l.Manifest)
	if err != nil {
		return err
	}
	img, err := content.Resolve(ctx, s.Content, ocispec.Descriptor{Digest: l.Manifest, Size: info.Size}, content.Host())
	if err != nil {
		return err
	}
	ids, err := s.Unpack(ctx, img)
	if err != nil {
		return err
	}
	_, err = s.Layers.Stack(ctx, ids)
	return err
}

// forgetResults deletes the results that need a lost layer.
func (s *Store) forgetResults(ctx context.Context, lost map[string]digest.Digest) error {
	return s.Results.Walk(ctx, func(r result.Record) error {
		for _, id := range r.Layers {
			if _, ok := lost[id]; ok {
				return s.Results.Delete(ctx, r.Key)
			}
		}
		return nil
	})
}

// forgetImages deletes the names of images that have a layer neither unpacked nor as a blob. It takes from lost what images
// need and is all there.
func (s *Store) forgetImages(ctx context.Context, lost map[string]digest.Digest) error {
	images, err := s.Images.All(ctx)
	if err != nil {
		return err
	}
	for _, img := range images {
		whole, err := s.unpackable(ctx, img, lost)
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
func (s *Store) unpackable(ctx context.Context, img image.Image, lost map[string]digest.Digest) (bool, error) {
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
		_, err := s.Layers.ByDiffID(diffID)
		if err == nil {
			continue
		}
		if !gone(err) {
			return false, err
		}
		if proven, err := s.proveDiffID(ctx, lost, diffID); !proven || err != nil {
			return false, err
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
